"""One interface's announcing and listening, on a virtual clock and without sockets."""

from __future__ import annotations

from collections.abc import Collection
from random import Random
from typing import cast

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from zeroconf import (  # type: ignore[attr-defined]
    DNSPointer,
    DNSRecord,
    DNSText,
    RecordUpdate,
    Zeroconf,
)

from bzzz.discovery import mdns_interface, mdns_records
from bzzz.discovery.mdns_interface import MdnsInterface, question_times
from bzzz.discovery.mdns_records import DNS_SD, SERVICE, Announced, Heard
from bzzz.identity.keys import PrivateKey
from bzzz.identity.peer_id import PeerID
from bzzz.wire.multiaddr import Multiaddr
from tests.discovery.fakes import FakeAsyncZeroconf, FakeZeroconf

OWN = PrivateKey.from_seed(b"\1" * 32).peer_id
LABEL = "own" + "a" * 29


def peer(number: int) -> PeerID:
    return PrivateKey.from_seed(number.to_bytes(32, "big")).peer_id


def announced(*addresses: str, loopback: bool = False) -> Announced:
    parsed = tuple(Multiaddr.parse(each) for each in addresses)
    return Announced("eth0", 2, loopback, parsed, "192.0.2.1", False)


# Until the node is announced to people twice, a second apart, in tenths of a second.
DNS_SD_TENTHS = int((mdns_interface.DNS_SD_AFTER[1] + 2) * 10)

MINE = announced("/ip4/192.0.2.1/tcp/4001")


class FakeEar:
    def __init__(self) -> None:
        self.peers: list[Heard] = []
        self.left: list[PeerID] = []
        self.copies: list[tuple[Multiaddr, ...]] = []
        self.problems: list[str] = []

    def heard(self, interface: str, peer: Heard) -> None:
        self.peers.append(peer)

    def gone(self, interface: str, peer: PeerID) -> None:
        self.left.append(peer)

    def copied(self, interface: str, addresses: tuple[Multiaddr, ...]) -> None:
        self.copies.append(addresses)

    def problem(self, interface: str, what: str, mend: str) -> None:
        self.problems.append(what)


class InterfaceCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        # As far into time as a machine that is up for a while.
        self.clock.advance(1000)
        self.zeroconf = FakeZeroconf()
        self.ear = FakeEar()
        self.in_touch = False
        self.own_names = {f"{LABEL}.{SERVICE}"}
        self.patch(mdns_records, "milliseconds", lambda: self.clock.seconds() * 1000)
        self.interface = self.make(MINE)

    def make(self, mine: Announced) -> MdnsInterface:
        return MdnsInterface(
            cast(Zeroconf, self.zeroconf),
            mine,
            peer_id=OWN,
            name="walnut",
            version="1",
            label=LABEL,
            own_names=self.own_names,
            own_addresses=lambda: set(mine.addresses),
            in_touch=self.is_in_touch,
            ear=self.ear,
            random=Random(1),
            now=self.clock.seconds,
            call_later=self.clock.callLater,
        )

    def is_in_touch(self, hosts: Collection[str]) -> bool:
        self.assertEqual(list(hosts), ["192.0.2.1"])
        return self.in_touch

    def hear(self, *records: DNSRecord, cache: bool = True) -> None:
        """As zeroconf does with the records of a packet: told first, cached then."""
        now = self.clock.seconds() * 1000
        self.interface.async_update_records(
            cast(Zeroconf, self.zeroconf), now, [RecordUpdate(record) for record in records]
        )
        if cache:
            self.zeroconf.cache.async_add_records(
                [record for record in records if not record.is_expired(now)]
            )
        self.interface.async_update_records_complete()

    def records(
        self, name: str, who: PeerID, *addresses: str, ttl: int = 4500
    ) -> tuple[DNSPointer, DNSText]:
        parsed = announced(*(addresses or ("/ip4/192.0.2.2/tcp/4002",)))
        service = mdns_records.peer_service(name, parsed, who, "")
        now = self.clock.seconds() * 1000
        return (
            DNSPointer(SERVICE, 12, 1, ttl, service.name, now),
            DNSText(service.name, 16, 0x8001, ttl, service.text, now),
        )

    def sent(self) -> list[str]:
        """What was sent since, in words."""
        words = []
        for packet in self.zeroconf.take():
            if packet.is_query() and not packet.questions:
                words.append("more known answers")
            elif packet.is_query():
                words.append(f"ask {packet.questions[0].name}")
            else:
                pointer = next(each for each in packet.answers() if isinstance(each, DNSPointer))
                words.append(f"{'announce' if pointer.ttl else 'goodbye'} {pointer.name}")
        return words


class ScheduleTests(InterfaceCase):
    """When what is sent."""

    def test_times(self) -> None:
        """Questions: after 1 s, after another, then further and further apart, to 10 minutes."""
        times = question_times(Random(1))
        first = [next(times) for _ in range(12)]
        self.assertTrue(1.0 <= first[0] <= 1.5)
        for delay, expected in zip(
            first[1:], [1, 3, 9, 27, 81, 243, 600, 600, 600, 600, 600], strict=True
        ):
            self.assertTrue(expected <= delay <= expected * 1.05, (delay, expected))

    def test_start(self) -> None:
        """A node announces itself twice, and then asks whom it has not heard of."""
        self.interface.start()
        self.assertEqual(self.sent(), [f"announce {SERVICE}"])
        self.clock.advance(0.99)
        self.assertEqual(self.sent(), [])
        self.clock.advance(0.01)
        self.assertEqual(self.sent(), [f"announce {SERVICE}"])
        self.clock.advance(0.5)
        self.assertEqual(self.sent(), [f"ask {SERVICE}"])

    def asked(self, seconds: int) -> int:
        """How many questions are sent in the next seconds."""
        self.clock.pump([0.1] * (10 * seconds))
        return self.sent().count(f"ask {SERVICE}")

    def test_in_touch(self) -> None:
        """A node that has links asks seldom; one that has them no more, at the next time."""
        self.in_touch = True
        self.interface.start()
        self.assertEqual(self.asked(40), 0)
        self.assertEqual(self.asked(10), 1)
        self.interface.refresh()
        self.assertEqual(self.asked(3), 0)
        self.in_touch = False
        self.assertEqual(self.asked(4), 1)

    def test_quiet(self) -> None:
        """Idle, a node sends a packet in ten minutes."""
        self.interface.start()
        self.clock.pump([1.0] * 1200)
        self.sent()
        self.clock.pump([1.0] * 6000)
        self.assertTrue(9 <= len(self.sent()) <= 11)

    def test_dns_sd(self) -> None:
        """The node is announced to people some seconds later, under its name."""
        self.interface.start()
        self.clock.pump([0.1] * DNS_SD_TENTHS)
        sent = self.sent()
        self.assertEqual(sent.count(f"ask walnut.{DNS_SD}"), 1)
        self.assertEqual(sent.count(f"announce {DNS_SD}"), 2)
        self.assertEqual(len(self.zeroconf.registry.services), 2)

    def test_dns_sd_name_taken(self) -> None:
        """Where another node has the name, a number is added."""
        other = DNSPointer(DNS_SD, 12, 1, 4500, f"walnut.{DNS_SD}", self.clock.seconds() * 1000)
        self.zeroconf.cache.async_add_records([other])
        self.interface.start()
        self.clock.pump([0.1] * DNS_SD_TENTHS)
        self.assertEqual(self.zeroconf.registry.services[1].name, f"walnut-2.{DNS_SD}")

    def test_known_answers(self) -> None:
        """Peers that are known need not answer; later on the node answers itself."""
        self.interface.start()
        own = DNSPointer(SERVICE, 12, 1, 4500, f"{LABEL}.{SERVICE}", self.clock.seconds() * 1000)
        self.hear(own, *self.records("other", peer(2)))
        self.zeroconf.take()
        self.clock.advance(1.5)
        (early,) = [each for each in self.zeroconf.take() if each.is_query()]
        self.assertEqual(early.num_answers, 2)
        self.clock.pump([0.5] * 40)
        questions = [each for each in self.zeroconf.take() if each.is_query()]
        late = [each for each in questions if each.questions[0].name == SERVICE][-1]
        aliases = [each.alias for each in late.answers() if isinstance(each, DNSPointer)]
        self.assertEqual(aliases, [f"other.{SERVICE}"])

    def test_close(self) -> None:
        """Goodbye under each name, then silence; once is enough."""
        self.patch(mdns_interface, "AsyncZeroconf", FakeAsyncZeroconf)
        self.interface.start()
        self.clock.pump([0.1] * DNS_SD_TENTHS)
        self.sent()
        for _ in range(2):
            self.successResultOf(Deferred.fromCoroutine(self.interface.close()))
        self.assertEqual(self.sent(), [f"goodbye {SERVICE}", f"goodbye {DNS_SD}"])
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertEqual(self.zeroconf.listeners, [])
        self.interface.refresh()
        self.assertEqual(self.sent(), [])

    def test_comes_back(self) -> None:
        """An own announcement that comes back says that multicast works."""
        self.interface.start()
        own = DNSPointer(SERVICE, 12, 1, 4500, f"{LABEL}.{SERVICE}", self.clock.seconds() * 1000)
        self.hear(own)
        self.hear(own)
        self.clock.advance(10)
        self.assertEqual(self.ear.problems, [""])

    def test_does_not_come_back(self) -> None:
        """One that does not says that it does not, and once more after another try."""
        self.interface.start()
        self.clock.pump([1.0] * 60)
        self.assertEqual(len(self.ear.problems), 1)
        self.assertIn("does not come back", self.ear.problems[0])
        self.interface.refresh()
        self.clock.pump([1.0] * 60)
        self.assertEqual(len(self.ear.problems), 2)


class HearingTests(InterfaceCase):
    """What others say."""

    def setUp(self) -> None:
        super().setUp()
        self.interface.start()
        self.zeroconf.take()

    def test_found(self) -> None:
        """A peer is reported with the addresses that can be dialled from here."""
        self.hear(*self.records("x", peer(2), "/ip4/127.0.0.1/tcp/4002", "/ip4/192.0.2.2/tcp/4002"))
        (heard,) = self.ear.peers
        self.assertEqual(heard.peer_id, peer(2))
        self.assertEqual([str(each) for each in heard.addresses], ["/ip4/192.0.2.2/tcp/4002"])
        self.assertEqual(self.interface.peers, 1)

    def test_upper_case(self) -> None:
        """Names are the same in any case."""
        pointer, texts = self.records("x", peer(2))
        shouted = DNSPointer(SERVICE.upper(), 12, 1, 4500, pointer.alias.upper(), pointer.created)
        self.hear(shouted, texts)
        self.assertEqual(len(self.ear.peers), 1)

    def test_repeated(self) -> None:
        """The same again within 5 s is no news; after that, or with another address, it is."""
        for _ in range(10):
            self.hear(*self.records("x", peer(2)))
        self.assertEqual(len(self.ear.peers), 1)
        self.hear(*self.records("x", peer(2), "/ip4/192.0.2.3/tcp/4002"))
        self.assertEqual(len(self.ear.peers), 2)
        self.clock.advance(5)
        self.hear(*self.records("x", peer(2), "/ip4/192.0.2.3/tcp/4002"))
        self.assertEqual(len(self.ear.peers), 3)
        self.assertEqual(self.interface.peers, 1)

    def test_pointer_alone(self) -> None:
        """Where only the name comes, the addresses are asked for, or taken from the cache."""
        pointer, texts = self.records("x", peer(2))
        self.hear(pointer)
        self.assertEqual(self.sent(), [f"ask x.{SERVICE}"])
        self.hear(texts)
        self.assertEqual(len(self.ear.peers), 1)
        self.clock.advance(6)
        self.sent()
        self.hear(pointer)
        self.assertEqual(self.sent(), [])
        self.assertEqual(len(self.ear.peers), 2)

    def test_many_names(self) -> None:
        """A packet of made-up names does not bring as many questions."""
        for i in range(1000):
            self.hear(self.records(f"x{i}", peer(2))[0])
        self.assertEqual(len(self.sent()), mdns_interface.MAX_TEXT_QUESTIONS)
        self.assertTrue(self.interface.counts["mdns_many_names"] > 900)
        self.clock.advance(1)
        self.sent()
        self.hear(self.records("y", peer(2))[0])
        self.assertEqual(self.sent(), [f"ask y.{SERVICE}"])

    def test_not_ours(self) -> None:
        """Other services' records are passed over, as are names outside the service."""
        now = self.clock.seconds() * 1000
        self.hear(
            DNSPointer("_ipp._tcp.local.", 12, 1, 4500, "printer._ipp._tcp.local.", now),
            DNSText("printer._ipp._tcp.local.", 16, 1, 4500, b"\x03a=b", now),
            DNSPointer(SERVICE, 12, 1, 4500, "elsewhere.local.", now),
        )
        self.assertEqual((self.ear.peers, self.sent()), ([], []))

    def test_self(self) -> None:
        """Its own announcements make no peer."""
        self.hear(*self.records(LABEL, OWN, "/ip4/192.0.2.1/tcp/4001"))
        self.assertEqual((self.ear.peers, self.ear.copies), ([], []))

    def test_copy(self) -> None:
        """Our peer ID at another address is a copy of us; said once a minute."""
        for _ in range(5):
            self.hear(*self.records("x", OWN, "/ip4/192.0.2.1/tcp/4001", "/ip4/192.0.2.9/tcp/9"))
        self.assertEqual(self.ear.copies, [(Multiaddr.parse("/ip4/192.0.2.9/tcp/9"),)])
        self.clock.advance(60)
        self.hear(*self.records("x", OWN, "/ip4/192.0.2.9/tcp/9"))
        self.assertEqual(len(self.ear.copies), 2)
        self.assertEqual(self.ear.peers, [])

    def test_own_addresses(self) -> None:
        """Our peer ID at our own address is nobody else: what we announced a moment ago."""
        self.hear(*self.records("x", OWN, "/ip4/192.0.2.1/tcp/4001"))
        self.assertEqual(self.ear.copies, [])

    def test_goodbye(self) -> None:
        """A goodbye is reported once, with the peer; of a stranger not at all."""
        self.hear(*self.records("x", peer(2)))
        goodbye = self.records("x", peer(2), ttl=0)[0]
        self.hear(goodbye)
        self.hear(goodbye)
        self.hear(self.records("y", peer(3), ttl=0)[0])
        self.assertEqual(self.ear.left, [peer(2)])
        self.assertEqual(self.interface.peers, 0)

    def test_goodbye_after_restart(self) -> None:
        """The goodbye of a peer's former name says nothing of the peer."""
        self.hear(*self.records("x", peer(2)))
        self.hear(*self.records("y", peer(2)))
        self.hear(self.records("x", peer(2), ttl=0)[0])
        self.assertEqual(self.ear.left, [])

    def test_expired(self) -> None:
        """A record that runs out is no goodbye, but the peer is not counted any more."""
        pointer, texts = self.records("x", peer(2))
        self.hear(pointer, texts)
        self.clock.advance(4501)
        self.hear(pointer, texts)
        self.assertEqual((self.ear.left, self.interface.peers), ([], 0))

    def test_malformed(self) -> None:
        """What cannot be used is counted by reason, and the rest of the packet is used."""
        now = self.clock.seconds() * 1000
        broken = DNSText(f"x.{SERVICE}", 16, 1, 4500, b"\xff", now)
        nobody = DNSText(f"y.{SERVICE}", 16, 1, 4500, b"\x03a=b", now)
        far = self.records("z", peer(3), "/ip4/127.0.0.1/tcp/1")
        self.hear(broken, nobody, *far, *self.records("ok", peer(2)))
        self.assertEqual([heard.peer_id for heard in self.ear.peers], [peer(2)])
        self.assertEqual(
            dict(self.interface.counts),
            {"mdns_text_truncated": 1, "mdns_no_peer": 1, "mdns_unreachable": 1},
        )

    def test_known_is_not_parsed_again(self) -> None:
        """What a peer says again within seconds is not looked at; something else is."""
        self.hear(*self.records("x", peer(2)))
        parse = mdns_records.parse_texts
        parsed: list[int] = []

        def counted(texts: list[bytes]) -> Heard:
            parsed.append(len(texts))
            return parse(texts)

        self.patch(mdns_records, "parse_texts", counted)
        self.hear(*self.records("x", peer(2)))
        self.assertEqual((len(parsed), len(self.ear.peers)), (0, 1))
        self.hear(*self.records("x", peer(2), "/ip4/192.0.2.9/tcp/1"))
        self.assertEqual((len(parsed), len(self.ear.peers)), (1, 2))
        self.clock.advance(mdns_interface.REPORT_AGAIN)
        self.hear(*self.records("x", peer(2), "/ip4/192.0.2.9/tcp/1"))
        self.assertEqual((len(parsed), len(self.ear.peers)), (2, 3))

    def test_flood(self) -> None:
        """Ten thousand invented peers take no more room than the limit, the last ones stay."""
        self.patch(mdns_interface, "MAX_PEERS", 100)
        for i in range(1000):
            self.hear(*self.records(f"x{i}", peer(i + 2)), cache=False)
        self.assertEqual(self.interface.peers, 100)

    def test_bug(self) -> None:
        """A bug of ours does not reach zeroconf."""
        self.patch(self.ear, "heard", None)
        self.hear(*self.records("x", peer(2)))
        self.assertEqual(self.interface.counts["bug"], 1)
        self.assertIn("bug", self.ear.problems[-1])
