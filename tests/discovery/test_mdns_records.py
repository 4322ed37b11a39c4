"""The DNS records of discovery: made as go- and js-libp2p need them, read whatever comes."""

from __future__ import annotations

from random import Random
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase
from zeroconf import (  # type: ignore[attr-defined]
    DNSAddress,
    DNSIncoming,
    DNSOutgoing,
    DNSPointer,
    DNSRecord,
    DNSService,
    DNSText,
)

from bzzz.discovery import mdns_records
from bzzz.discovery.mdns_records import (
    MAX_HEARD,
    MAX_KNOWN,
    SERVICE,
    Announced,
    Heard,
    announced_on,
    parse_texts,
    reachable,
)
from bzzz.discovery.network_interfaces import InterfaceAddress, NetworkInterface
from bzzz.errors import RemoteProtocolError
from bzzz.identity.keys import PrivateKey
from bzzz.wire.multiaddr import Multiaddr

PEER = PrivateKey.from_seed(b"\1" * 32).peer_id
OTHER = PrivateKey.from_seed(b"\2" * 32).peer_id
LABEL = "abcdefghijklmnopqrstuvwxyz234567"
ANNOUNCED = Announced(
    "eth0",
    2,
    False,
    (Multiaddr.parse("/ip4/192.0.2.7/tcp/4001"), Multiaddr.parse("/ip6/2001:db8::7/tcp/4001")),
    "192.0.2.7",
    True,
)


def packet(out: DNSOutgoing) -> DNSIncoming:
    (data,) = out.packets()
    incoming = DNSIncoming(data)
    assert incoming.valid
    return incoming


def only(records: list[DNSRecord], kind: type[Any]) -> Any:
    (record,) = (record for record in records if isinstance(record, kind))
    return record


def text(*strings: bytes) -> bytes:
    return b"".join(bytes((len(string),)) + string for string in strings)


def dnsaddr(address: str) -> bytes:
    return b"dnsaddr=" + address.encode()


class MakeTests(SynchronousTestCase):
    """What we send."""

    def setUp(self) -> None:
        self.service = mdns_records.peer_service(LABEL, ANNOUNCED, PEER, "walnut")

    def test_announcement(self) -> None:
        """One packet: the pointer, one TXT record with all addresses, a host with A and AAAA."""
        records = packet(mdns_records.announcement(self.service)).answers()
        pointer = only(records, DNSPointer)
        self.assertEqual((pointer.name, pointer.alias), (SERVICE, f"{LABEL}.{SERVICE}"))
        texts = only(records, DNSText)
        self.assertEqual(
            texts.text,
            text(
                dnsaddr(f"/ip4/192.0.2.7/tcp/4001/p2p/{PEER}"),
                dnsaddr(f"/ip6/2001:db8::7/tcp/4001/p2p/{PEER}"),
                b"name=walnut",
            ),
        )
        host = only(records, DNSService)
        self.assertEqual((host.server, host.port), (f"{LABEL}.local.", 4001))
        addresses = [record for record in records if isinstance(record, DNSAddress)]
        self.assertEqual({record.name for record in addresses}, {f"{LABEL}.local."})
        self.assertEqual({record.type for record in addresses}, {1, 28})

    def test_read_back(self) -> None:
        """What we announce we can read."""
        records = packet(mdns_records.announcement(self.service)).answers()
        self.assertEqual(
            parse_texts([only(records, DNSText).text]), Heard(PEER, ANNOUNCED.addresses, "walnut")
        )

    def test_goodbye(self) -> None:
        """Only the pointer, with no time to live: js-libp2p takes a TXT record for a new peer."""
        (record,) = packet(mdns_records.goodbye(self.service)).answers()
        self.assertIsInstance(record, DNSPointer)
        self.assertEqual(record.ttl, 0)

    def test_question(self) -> None:
        """One question, which is all that js-libp2p looks at, with the fresh known answers."""
        now = 1_000_000.0
        fresh = DNSPointer(SERVICE, 12, 1, 4500, f"fresh.{SERVICE}", now)
        stale = DNSPointer(SERVICE, 12, 1, 4500, f"stale.{SERVICE}", now - 4500 * 500 - 1)
        incoming = packet(mdns_records.question([fresh, stale], now))
        (asked,) = incoming.questions
        self.assertEqual((asked.name, asked.type, asked.unicast), (SERVICE, 12, False))
        self.assertEqual(only(incoming.answers(), DNSPointer).alias, f"fresh.{SERVICE}")

    def test_many_known(self) -> None:
        """In a large mesh the question stays within a few packets."""
        known = [DNSPointer(SERVICE, 12, 1, 4500, f"{i:032}.{SERVICE}", 0.0) for i in range(2000)]
        packets = mdns_records.question(known, 0.0).packets()
        count = sum(DNSIncoming(data).num_answers for data in packets)
        self.assertEqual(count, MAX_KNOWN)
        self.assertTrue(all(len(data) <= 1460 for data in packets))

    def test_dns_sd(self) -> None:
        """For avahi-browse: the node's name, its ID and version; not on the host's own name."""
        service = mdns_records.dns_sd_service("walnut", LABEL, ANNOUNCED, PEER, "1.2")
        records = packet(mdns_records.announcement(service)).answers()
        self.assertEqual(only(records, DNSPointer).alias, "walnut._bzzz._tcp.local.")
        self.assertEqual(only(records, DNSText).text, text(f"id={PEER}".encode(), b"v=1.2"))
        self.assertEqual(only(records, DNSService).server, f"{LABEL}.local.")

    def test_peer_name(self) -> None:
        """32 lower-case letters and digits, another each time."""
        random = Random(1)
        names = {mdns_records.peer_name(random) for _ in range(100)}
        self.assertEqual(len(names), 100)
        for name in names:
            self.assertRegex(name, r"\A[a-z0-9]{32}\Z")

    def test_largest(self) -> None:
        """The longest announcement fits into one Ethernet frame."""
        addresses = tuple(
            InterfaceAddress(f"2001:db8:1234:5678:9abc:def0:1234:{i:04x}", 64)
            for i in range(0x1000, 0x1100)
        )
        announced = announced_on(NetworkInterface("eth0", 2, addresses, used=True), 65535)
        assert announced is not None
        service = mdns_records.peer_service(LABEL, announced, PEER, "n" * 63)
        self.assertEqual(len(mdns_records.announcement(service).packets()), 1)


class AnnouncedOnTests(SynchronousTestCase):
    """:func:`announced_on`."""

    def test_dual_stack(self) -> None:
        """IPv4 and IPv6 addresses that others can dial, over both."""
        interface = NetworkInterface(
            "eth0",
            2,
            tuple(
                InterfaceAddress(*each)
                for each in (("fe80::1", 64), ("2001:db8::7", 64), ("192.0.2.7", 24))
            ),
            used=True,
        )
        self.assertEqual(announced_on(interface, 4001), ANNOUNCED)

    def test_loopback(self) -> None:
        """Loopback takes part, though it does not call itself capable of multicast; IPv4 only."""
        addresses = (InterfaceAddress("127.0.0.1", 8), InterfaceAddress("::1", 128))
        lo = NetworkInterface("lo", 1, addresses, is_loopback=True, multicast=False, used=True)
        announced = announced_on(lo, 4001)
        assert announced is not None
        self.assertEqual((announced.ipv4, announced.ipv6), ("127.0.0.1", False))

    def test_nothing(self) -> None:
        """Not on interfaces that are not used, have no multicast or no address."""
        address = InterfaceAddress("192.0.2.7", 24)
        for interface in (
            NetworkInterface("eth0", 2, (address,), used=False),
            NetworkInterface("wg0", 3, (address,), multicast=False, used=True),
            NetworkInterface("eth1", 4, (InterfaceAddress("fe80::1", 64),), used=True),
        ):
            self.assertIsNone(announced_on(interface, 4001), interface.name)


class ParseTests(SynchronousTestCase):
    """:func:`parse_texts` and :func:`reachable`."""

    def test_js(self) -> None:
        """js-libp2p sends one record per address."""
        heard = parse_texts(
            [
                text(dnsaddr(f"/ip4/192.0.2.8/tcp/4002/p2p/{OTHER}")),
                text(dnsaddr(f"/ip4/127.0.0.1/tcp/4002/p2p/{OTHER}")),
                text(dnsaddr(f"/ip4/192.0.2.8/tcp/4003/ws/p2p/{OTHER}")),
            ]
        )
        self.assertEqual([str(each) for each in heard.addresses], [
            "/ip4/192.0.2.8/tcp/4002",
            "/ip4/127.0.0.1/tcp/4002",
        ])  # fmt: skip
        self.assertEqual(heard.peer_id, OTHER)

    def test_go(self) -> None:
        """go-libp2p sends one record with everything it listens on, most of it of no use here."""
        heard = parse_texts(
            [
                text(
                    dnsaddr(f"/ip4/192.0.2.8/udp/4001/quic-v1/p2p/{OTHER}"),
                    dnsaddr(f"/ip4/192.0.2.8/udp/4001/quic-v1/webtransport/p2p/{OTHER}"),
                    dnsaddr(f"/ip4/192.0.2.8/udp/4001/something-new/p2p/{OTHER}"),
                    dnsaddr(f"/dns4/walnut/tcp/4001/p2p/{OTHER}"),
                    dnsaddr(f"/ip4/192.0.2.8/tcp/4001/p2p/{OTHER}"),
                )
            ]
        )
        self.assertEqual([str(each) for each in heard.addresses], ["/ip4/192.0.2.8/tcp/4001"])

    def test_one_peer(self) -> None:
        """Addresses of another peer than the first are passed over."""
        heard = parse_texts(
            [
                text(
                    dnsaddr("/ip4/192.0.2.6/tcp/1"),
                    dnsaddr(f"/ip4/192.0.2.7/tcp/1/p2p/{PEER}"),
                    dnsaddr(f"/ip4/192.0.2.8/tcp/1/p2p/{OTHER}"),
                )
            ]
        )
        self.assertEqual((heard.peer_id, len(heard.addresses)), (PEER, 1))

    def test_malformed(self) -> None:
        """What names no peer is refused, by a name that is counted."""
        for texts, code in (
            ([], "mdns_no_peer"),
            ([b""], "mdns_no_peer"),
            ([b"\0"], "mdns_no_peer"),
            ([text(b"dnsaddr=")], "mdns_no_peer"),
            ([text(b"dnsaddr=\xff\xfe")], "mdns_no_peer"),
            ([text(dnsaddr("/ip4/192.0.2.7/tcp/1"))], "mdns_no_peer"),
            ([text(dnsaddr("/ip4/192.0.2.7/tcp/1/p2p/12D3KooWnonsense"))], "mdns_no_peer"),
            ([b"\x09dnsaddr"], "mdns_text_truncated"),
        ):
            error = self.assertRaises(RemoteProtocolError, parse_texts, texts)
            self.assertEqual(error.code, code, texts)

    def test_many(self) -> None:
        """Only so many addresses are taken, and only so many strings looked at."""
        strings = [dnsaddr(f"/ip4/192.0.2.7/tcp/{i}/p2p/{PEER}") for i in range(1, 1000)]
        self.assertEqual(len(parse_texts([text(*strings)]).addresses), MAX_HEARD)
        late = [b"x=y"] * 200 + strings
        self.assertRaises(RemoteProtocolError, parse_texts, [text(*late)])

    def test_name(self) -> None:
        """A name with control characters is none; a long one is cut."""
        good = dnsaddr(f"/ip4/192.0.2.7/tcp/1/p2p/{PEER}")
        for name, expected in (
            (b"walnut", "walnut"),
            (b"wal\x1b[31mnut", ""),
            (b"w" * 200, "w" * 63),
            ("walnuß".encode(), "walnuß"),
        ):
            self.assertEqual(parse_texts([text(good, b"name=" + name)]).name, expected)

    def test_reachable(self) -> None:
        """Another machine's loopback, unspecified and scoped addresses cannot be dialled."""
        everything = [
            "/ip4/192.0.2.7/tcp/4001",
            "/ip4/169.254.1.1/tcp/4001",
            "/ip6/2001:db8::7/tcp/4001",
            "/ip4/127.0.0.1/tcp/4001",
            "/ip6/::1/tcp/4001",
            "/ip4/0.0.0.0/tcp/4001",
            "/ip6/::/tcp/4001",
            "/ip4/224.0.0.251/tcp/4001",
            "/ip6/fe80::1/tcp/4001",
            "/ip6zone/eth0/ip6/fe80::1/tcp/4001",
            "/ip6/::ffff:127.0.0.1/tcp/4001",
            "/ip4/192.0.2.7/tcp/0",
        ]
        addresses = [Multiaddr.parse(each) for each in everything]
        self.assertEqual([str(each) for each in reachable(addresses, False)], everything[:3])
        self.assertEqual([str(each) for each in reachable(addresses, True)], everything[:5])

    @given(st.lists(st.binary(max_size=300), max_size=5))
    def test_fuzz(self, texts: list[bytes]) -> None:
        """Whatever the bytes, a peer or a protocol error comes out."""
        try:
            parse_texts(texts)
        except RemoteProtocolError:
            pass

    @given(st.lists(st.binary(max_size=60), max_size=5))
    def test_fuzz_addresses(self, tails: list[bytes]) -> None:
        """The same with bytes where the address is."""
        try:
            reachable(
                parse_texts([text(*(b"dnsaddr=/ip" + tail for tail in tails))]).addresses, False
            )
        except RemoteProtocolError:
            pass
