"""Who is admitted: guests, members, and links whose peer becomes the one or the other."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.protocol import Factory
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from bzzz.errors import DialError, LinkClosed, NegotiationError
from bzzz.identity.keys import PrivateKey
from bzzz.net import guests
from bzzz.net.guests import (
    CLAIMED,
    GUEST_SECONDS,
    LAST_WORD,
    MAX_GUESTS,
    MAX_GUESTS_PER_HOST,
    MAX_GUESTS_PER_SUBNET,
    PAIRING_SECONDS,
    Guests,
    OpenGate,
)
from bzzz.net.link import Link
from bzzz.net.ping import PingService
from bzzz.net.swarm import LINGER, SIMULTANEOUS
from bzzz.wire.framing import FrameReader
from bzzz.wire.identify import PROTOCOL as IDENTIFY
from bzzz.wire.identify import PUSH, Identify
from bzzz.wire.ping import PROTOCOL as PING
from tests.net.swarms import LATENCY, Echo, Keeper, Peer, Roster, SwarmCase

REVOKED = "revoked by walnut"


class FakeLink:
    is_initiator = False
    held = False

    def __init__(self, number: int, host: str = "") -> None:
        self.remote_peer = PrivateKey.from_seed(number.to_bytes(32, "big")).peer_id
        self.remote_host = host or f"192.0.2.{number}"
        self.closed = ""

    def close(self, reason: str) -> None:
        self.closed = reason


class TableTests(SynchronousTestCase):
    """Who stays a guest, and for how long."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.guests = Guests(self.clock)

    def enter(self, *links: Any) -> list[bool]:
        return [self.guests.enter(link) for link in links]

    def closed(self, links: list[Any]) -> list[int]:
        return [number for number, link in enumerate(links) if link.closed]

    def test_time(self) -> None:
        """A guest is there for a while."""
        link: Any = FakeLink(1)
        self.enter(link)
        self.clock.advance(GUEST_SECONDS - 0.1)
        self.assertEqual(self.guests.links, {link.remote_peer: link})
        self.clock.advance(0.1)
        self.assertEqual(self.guests.links, {})
        self.assertIn("15 s", link.closed)

    def test_pairing(self) -> None:
        """One that pairs is there for longer, counted from when it came."""
        link: Any = FakeLink(1)
        self.enter(link)
        self.clock.advance(GUEST_SECONDS - 1)
        self.guests.hold(link)
        self.clock.advance(PAIRING_SECONDS - GUEST_SECONDS + 0.9)
        self.assertEqual(link.closed, "")
        self.clock.advance(0.1)
        self.assertIn("120 s", link.closed)

    def test_again_and_again(self) -> None:
        """To begin one pairing after the other does not make a guest's time longer."""
        link: Any = FakeLink(1)
        self.enter(link)
        for _ in range(3 * int(PAIRING_SECONDS)):
            self.guests.hold(link)
            self.clock.advance(0.25)
            self.guests.release(link)
            self.clock.advance(0.25)
        self.assertNotEqual(link.closed, "")
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_released(self) -> None:
        """Once it does not pair any more it has its first time, and at least a moment."""
        early: Any = FakeLink(1)
        late: Any = FakeLink(2)
        self.enter(early, late)
        self.guests.hold(early)
        self.guests.hold(late)
        self.guests.release(early)
        self.clock.advance(GUEST_SECONDS)
        self.assertNotEqual(early.closed, "")
        self.guests.release(late)
        self.assertEqual(late.closed, "")
        self.clock.advance(LAST_WORD)
        self.assertNotEqual(late.closed, "")

    def test_host(self) -> None:
        """One more of an address has the place of its oldest that does not pair."""
        links: list[Any] = [FakeLink(number, "192.0.2.1") for number in range(MAX_GUESTS_PER_HOST)]
        other: Any = FakeLink(99)
        self.enter(other, *links)
        self.guests.hold(links[0])
        self.assertEqual(self.enter(FakeLink(50, "192.0.2.1")), [True])
        self.assertEqual(self.closed([other, *links]), [2])

    def test_host_by_ipv6(self) -> None:
        """An address of IPv6 is a host, too, whatever there is beside it in its /64."""
        links: list[Any] = [FakeLink(number, "2001:db8::1") for number in range(6)]
        links[1:1] = [FakeLink(number, f"2001:db8::{number:x}") for number in range(10, 18)]
        self.enter(*links)
        self.assertEqual(self.closed(links), [0, 9])

    def test_subnet(self) -> None:
        """Whoever takes another address of its /64 for each connection has not all the places."""
        self.assertEqual(MAX_GUESTS_PER_SUBNET, 4 * MAX_GUESTS_PER_HOST)
        self.assertLess(MAX_GUESTS_PER_SUBNET, MAX_GUESTS)
        links: list[Any] = [
            FakeLink(number, f"2001:db8::{number + 1:x}") for number in range(MAX_GUESTS_PER_SUBNET)
        ]
        others: list[Any] = [FakeLink(51, "2001:db8:0:1::1"), FakeLink(52)]
        self.enter(*others, *links)
        self.guests.hold(links[0])
        self.assertEqual(self.enter(FakeLink(50, "2001:db8::50")), [True])
        self.assertEqual(self.closed([*others, *links]), [3])
        for link in links[2:]:
            self.guests.hold(link)
        self.enter(FakeLink(54, "2001:db8::54"))
        for link in list(self.guests.links.values()):
            self.guests.hold(link)
        self.assertEqual(self.enter(FakeLink(55, "2001:db8::55"), FakeLink(56)), [False, True])

    def test_all(self) -> None:
        """So many in all; the oldest that does not pair makes room."""
        links: list[Any] = [FakeLink(number) for number in range(MAX_GUESTS)]
        self.enter(*links)
        self.guests.hold(links[0])
        self.assertEqual(self.enter(FakeLink(50), FakeLink(51)), [True, True])
        self.assertEqual(self.closed(links), [1, 2])
        self.assertEqual(len(self.guests.links), MAX_GUESTS)

    def test_all_pair(self) -> None:
        """Where all pair nobody has to go, and nobody more is taken."""
        links: list[Any] = [FakeLink(number) for number in range(MAX_GUESTS)]
        self.enter(*links)
        for link in links:
            self.guests.hold(link)
        self.assertEqual(self.enter(FakeLink(50)), [False])
        near: list[Any] = [FakeLink(60 + n, "192.0.2.200") for n in range(MAX_GUESTS_PER_HOST)]
        self.guests.leave(links[0])
        self.assertEqual(self.enter(near[0]), [True])
        self.assertEqual(self.closed(links), [])

    def test_own_dials(self) -> None:
        """Whom this node has dialled itself takes nobody's place."""
        links: list[Any] = [FakeLink(number) for number in range(MAX_GUESTS)]
        self.enter(*links)
        dialled: Any = FakeLink(50)
        dialled.is_initiator = True
        self.assertEqual(self.enter(dialled), [True])
        self.assertEqual(self.closed(links), [])
        self.enter(FakeLink(51))
        self.assertEqual(self.closed([dialled, *links]), [1])

    def test_leave(self) -> None:
        """Nothing is left of a guest that is gone, and to hold or release it does nothing."""
        link: Any = FakeLink(1)
        self.enter(link)
        for _ in range(2):
            self.guests.leave(link)
            self.guests.hold(link)
            self.guests.release(link)
        self.assertEqual((self.guests.links, self.clock.getDelayedCalls()), ({}, []))

    def test_open_gate(self) -> None:
        """Without a gate everybody is admitted."""
        gate = OpenGate()
        link: Any = FakeLink(1)
        self.assertTrue(gate.is_open and gate.admits(link.remote_peer))
        self.assertEqual(gate.refusal(link.remote_peer), "")


class GateCase(SwarmCase):
    """A member and somebody else."""

    def setUp(self) -> None:
        super().setUp()
        self.roster = Roster()
        self.member = Peer(self, 1, self.roster)
        self.member.swarm.handle("/pair", Factory.forProtocol(Echo), guests=True)
        PingService(self.member.swarm, bytes)

    def stranger(self, number: int = 2, gate: Roster | None = None) -> Peer:
        return Peer(self, number, gate)

    def linked(self, peer: Peer, guest_ok: bool = True) -> Link:
        dialled = peer.dial(self.member, guest_ok=guest_ok)
        self.run_for(1)
        link: Link = self.successResultOf(dialled)
        return link

    def open(self, link: Link, protocol: str) -> Deferred[Any]:
        factory = Factory.forProtocol(Keeper)
        factory.noisy = False
        opened = link.open_stream([protocol], factory)
        self.run_for(1)
        return opened


class GuestTests(GateCase):
    def test_nobody_hears(self) -> None:
        """No observer is told of a guest, and it is in no table but the guests'."""
        self.linked(self.stranger())
        ((peer, link),) = self.member.swarm.guests.items()
        self.assertEqual((self.member.told, self.member.swarm.links), ([], {}))
        self.assertIs(self.member.swarm.link_to(peer), link)
        self.assertEqual(link.remote_peer, peer)
        self.assertIsNone(self.member.swarm.link_to(self.member.swarm.peer_id))

    def test_protocols(self) -> None:
        """Of all protocols a guest can open streams of those alone that are for guests."""
        link = self.linked(self.stranger())
        spoken = set()
        for protocol in self.member.swarm.protocols:
            opened = self.open(link, protocol)
            if isinstance(getattr(opened, "result", None), Keeper):
                spoken.add(protocol)
            else:
                self.failureResultOf(opened, NegotiationError)
        self.assertEqual(set(self.member.swarm.protocols), {IDENTIFY, PUSH, PING, "/echo", "/pair"})
        self.assertEqual(spoken, {IDENTIFY, PING, "/pair"})
        self.assertEqual(spoken, set(self.member.swarm.guest_protocols))

    def test_works(self) -> None:
        """What a guest may speak it does speak."""
        keeper = self.successResultOf(self.open(self.linked(self.stranger()), "/pair"))
        keeper.transport.write(b"hello")
        self.run_for(1)
        self.assertEqual(keeper.data, b"hello")

    def test_identify(self) -> None:
        """A guest is told neither name nor addresses nor the protocols of members."""
        self.linked(self.stranger())
        (link,) = self.member.swarm.guests.values()
        (message,) = FrameReader(8192).receive(self.member.swarm._identify.message(link))
        said = Identify.decode(message)
        self.assertTrue(said.guest)
        self.assertEqual((said.name, said.listen_addrs), ("", ()))
        self.assertEqual(said.protocols, self.member.swarm.guest_protocols)
        self.assertIsNotNone(said.public_key)

    def test_not_pushed_to(self) -> None:
        """A guest does not hear of new addresses either."""
        stranger = self.stranger(gate=Roster(self.member.swarm.peer_id))
        self.linked(stranger)
        before = len(stranger.told)
        listening = self.member.swarm.listen(self.member.host.address, 4002)
        self.successResultOf(ensureDeferred(listening))
        self.run_for(1)
        self.assertEqual(len(stranger.told), before)

    def test_not_pushed_to_any_more(self) -> None:
        """Nor does one that knew them when it became a guest."""
        one, other = self.stranger(2), self.stranger(3)
        dialled = one.dial(other, guest_ok=True)
        self.run_for(1)
        one.swarm.demote(self.successResultOf(dialled), "a test")
        self.assertEqual(list(one.swarm.guests), [other.swarm.peer_id])
        before = len(other.told)
        self.successResultOf(ensureDeferred(one.swarm.listen(one.host.address, 4002)))
        self.run_for(1)
        self.assertEqual(len(other.told), before)

    def test_time(self) -> None:
        """Its link is closed after a while, in words, and the table is empty."""
        link = self.linked(self.stranger())
        self.run_for(GUEST_SECONDS - 2)
        self.assertFalse(link.closed)
        self.run_for(2)
        self.assertTrue(link.closed)
        self.assertEqual(self.member.swarm.guests, {})

    def test_hold(self) -> None:
        """One that pairs keeps its link for longer, on both sides."""
        stranger = self.stranger()
        link = self.linked(stranger)
        (far,) = self.member.swarm.guests.values()
        stranger.swarm.hold_guest(link)
        self.member.swarm.hold_guest(far)
        self.run_for(PAIRING_SECONDS - 3)
        self.assertFalse(link.closed)
        self.member.swarm.release_guest(far)
        self.run_for(LAST_WORD + 0.1)
        self.assertTrue(link.closed)

    def test_oldest_goes(self) -> None:
        """A guest too many takes the place of the oldest."""
        self.patch(guests, "MAX_GUESTS", 2)
        links = [self.linked(self.stranger(number)) for number in range(2, 5)]
        self.assertEqual([link.closed for link in links], [True, False, False])
        self.assertEqual(len(self.member.swarm.guests), 2)

    def test_no_room(self) -> None:
        """Where all guests pair another one is refused, in words that reach its log."""
        self.patch(guests, "MAX_GUESTS", 1)
        self.linked(self.stranger(2))
        for far in self.member.swarm.guests.values():
            self.member.swarm.hold_guest(far)
        link = self.linked(self.stranger(3))
        self.assertTrue(link.closed)
        self.assertEqual(list(self.member.swarm.guests.values()), [far])

    def test_second_link(self) -> None:
        """A guest that comes anew has the newer link; while it pairs, the older."""
        stranger = self.stranger()
        first = self.linked(stranger)
        self.run_for(SIMULTANEOUS + 1)
        second = self.linked(stranger)
        self.run_for(LINGER + 1)
        self.assertEqual((first.closed, second.closed), (True, False))
        (far,) = self.member.swarm.guests.values()
        self.member.swarm.hold_guest(far)
        self.run_for(SIMULTANEOUS + 1)
        self.linked(stranger)
        self.assertEqual(list(self.member.swarm.guests.values()), [far])

    def test_dials_nobody_else(self) -> None:
        """A member that dials a stranger has no link, unless it says that it wants one."""
        stranger = self.stranger(gate=Roster(self.member.swarm.peer_id))
        dialled = self.member.dial(stranger)
        self.run_for(1)
        words = str(self.failureResultOf(dialled, DialError).value)
        self.assertIn(f"{stranger.swarm.peer_id} is not a member of this cluster", words)
        self.run_for(3)
        self.assertEqual((self.member.swarm.guests, stranger.swarm.links), ({}, {}))
        dialled = self.member.dial(stranger, guest_ok=True)
        self.run_for(1)
        link = self.successResultOf(dialled)
        self.assertEqual(self.member.swarm.guests, {stranger.swarm.peer_id: link})
        self.assertEqual(self.member.told, [])

    def test_stop(self) -> None:
        """Guests' links are closed in order too, and nothing is left to do."""
        stranger = self.stranger()
        self.linked(stranger)
        stopped = ensureDeferred(self.member.swarm.stop())
        self.run_for(3)
        self.successResultOf(stopped)
        self.assertEqual(self.member.swarm.guests, {})
        self.assertEqual(self.reactor.getDelayedCalls(), [])


class ClaimedTests(GateCase):
    """A node in no cluster finds one that is in one."""

    def test_told(self) -> None:
        """It loses the link as soon as it hears that, and is told so once."""
        stranger = self.stranger()
        link = self.linked(stranger, guest_ok=False)
        self.assertEqual([what for what, _ in stranger.told], ["up", "dial was over", "down"])
        self.assertEqual(stranger.told[-1], ("down", CLAIMED))
        self.assertTrue(link.closed)
        self.assertEqual((stranger.swarm.links, stranger.swarm.guests), ({}, {}))
        self.assertEqual(self.member.swarm.guests, {})

    def test_kept_to_pair(self) -> None:
        """If it was dialled to pair, the link stays, and the peer is a guest."""
        stranger = self.stranger()
        link = self.linked(stranger)
        self.assertEqual(stranger.told[-1], ("down", CLAIMED))
        self.assertEqual(stranger.swarm.links, {})
        self.assertEqual(stranger.swarm.guests, {self.member.swarm.peer_id: link})
        self.assertFalse(link.closed)
        self.run_for(GUEST_SECONDS)
        self.assertEqual(stranger.swarm.guests, {})

    def test_kept_while_it_pairs(self) -> None:
        """So does one that was held before it was told."""
        stranger = self.stranger()
        dialled = stranger.dial(self.member)
        dialled.addCallback(stranger.swarm.hold_guest)
        self.run_for(1)
        self.assertEqual(list(stranger.swarm.guests), [self.member.swarm.peer_id])
        self.run_for(GUEST_SECONDS - 2)
        (link,) = stranger.swarm.guests.values()
        self.assertFalse(link.closed)

    def test_not_taken_back(self) -> None:
        """An open gate admits everybody, but not whoever takes this node for a guest."""
        stranger = self.stranger()
        self.linked(stranger)
        told = len(stranger.told)
        stranger.swarm.gate_changed()
        self.run_for(1)
        self.assertEqual(len(stranger.told), told)
        self.assertEqual(list(stranger.swarm.guests), [self.member.swarm.peer_id])

    def test_second_dial(self) -> None:
        """Another link to the peer that it pairs with does not end the pairing."""
        stranger = self.stranger()
        link = self.linked(stranger)
        stranger.swarm.hold_guest(link)
        (far,) = self.member.swarm.guests.values()
        self.member.swarm.hold_guest(far)
        self.linked(stranger, guest_ok=False)
        self.run_for(LINGER + 1)
        self.assertEqual(list(stranger.swarm.guests.values()), [link])
        self.assertFalse(link.closed or far.closed)


class AdmittedTests(GateCase):
    """Rosters change."""

    def test_promotion(self) -> None:
        """A guest that is admitted is linked over the link that is there, and both say who they
        are."""
        stranger = self.stranger(gate=Roster(self.member.swarm.peer_id))
        link = self.linked(stranger, guest_ok=False)
        self.assertEqual(stranger.told[0], ("up", link))
        self.assertEqual(stranger.told[-1], ("guest", ""))
        self.assertTrue(link.guest_there)
        self.failureResultOf(self.open(link, "/echo"), NegotiationError)
        (far,) = self.member.swarm.guests.values()
        self.roster.members.add(stranger.swarm.peer_id)
        self.member.swarm.gate_changed()
        self.assertEqual(self.member.told, [("up", far)])
        self.run_for(1)
        self.assertEqual(self.member.told[1:], [("name", "node2")])
        self.assertEqual(stranger.told[-1], ("name", "node1"))
        self.assertFalse(link.guest_there)
        self.assertEqual(self.member.swarm.links, {stranger.swarm.peer_id: far})
        self.assertEqual(self.member.swarm.guests, {})
        self.successResultOf(self.open(link, "/echo"))
        self.run_for(PAIRING_SECONDS)
        self.assertFalse(link.closed)

    def test_joining(self) -> None:
        """A node that pairs becomes a member over the link, the inviter first."""
        own = Roster(is_open=True)
        stranger = self.stranger(gate=own)
        link = self.linked(stranger)
        stranger.swarm.hold_guest(link)
        self.roster.members.add(stranger.swarm.peer_id)
        self.member.swarm.gate_changed()
        self.run_for(1)
        self.assertEqual(list(stranger.swarm.guests), [self.member.swarm.peer_id])
        own.is_open, own.members = False, {self.member.swarm.peer_id}
        stranger.swarm.gate_changed()
        self.run_for(1)
        self.assertEqual(stranger.swarm.links, {self.member.swarm.peer_id: link})
        self.assertEqual(stranger.told[-1], ("name", "node1"))
        self.assertEqual(self.member.told[-1], ("name", "node2"))
        self.assertEqual((stranger.swarm.guests, self.member.swarm.guests), ({}, {}))
        stranger.swarm.release_guest(link)
        self.run_for(PAIRING_SECONDS)
        self.assertFalse(link.closed)

    def test_joining_first(self) -> None:
        """The same when the joiner is first to know."""
        own = Roster(is_open=True)
        stranger = self.stranger(gate=own)
        link = self.linked(stranger)
        own.is_open, own.members = False, {self.member.swarm.peer_id}
        stranger.swarm.gate_changed()
        self.run_for(1)
        self.assertEqual(stranger.told[-1], ("guest", ""))
        self.roster.members.add(stranger.swarm.peer_id)
        self.member.swarm.gate_changed()
        self.run_for(1)
        self.assertEqual(stranger.told[-1], ("name", "node1"))
        self.assertEqual(self.member.told[-1], ("name", "node2"))
        self.assertFalse(link.closed)

    def test_founding(self) -> None:
        """Who founds a cluster loses its links to those that are not in it, and they learn why."""
        own = Roster(is_open=True)
        founder, other = self.stranger(2, own), self.stranger(3)
        dialled = other.dial(founder)
        self.run_for(1)
        self.assertEqual(founder.told[-1], ("name", "node3"))
        own.is_open = False
        founder.swarm.gate_changed()
        self.assertEqual(founder.told[-1], ("down", REVOKED))
        self.run_for(1)
        self.assertTrue(self.successResultOf(dialled).closed)
        other.dial(founder)
        self.run_for(1)
        self.assertEqual(other.told[-1], ("down", CLAIMED))

    def test_full(self) -> None:
        """A guest that is admitted when all links are in use is refused like others."""
        self.roster.members.add(PrivateKey.from_seed(bytes([2]) * 32).peer_id)
        member = Peer(self, 4, self.roster, links=1)
        links = []
        # The first one's rank with the member is the better one: see bzzz.net.places.
        for number in (2, 1):
            stranger = self.stranger(number)
            dialled = stranger.dial(member, guest_ok=True)
            self.run_for(1)
            links.append(self.successResultOf(dialled))
        self.roster.members.add(stranger.swarm.peer_id)
        member.swarm.gate_changed()
        self.run_for(1)
        self.assertEqual([link.closed for link in links], [False, True])
        self.assertEqual(len(member.swarm.links), 1)

    def test_unchanged(self) -> None:
        """Where nothing changed for a peer nothing happens to its link."""
        stranger = self.stranger(gate=Roster(self.member.swarm.peer_id))
        self.roster.members.add(stranger.swarm.peer_id)
        link = self.linked(stranger)
        told = list(self.member.told)
        self.roster.members.add(self.member.swarm.peer_id)
        self.member.swarm.gate_changed()
        self.run_for(1)
        self.assertEqual(self.member.told, told)
        self.assertFalse(link.closed)


class RevokedTests(GateCase):
    """A member that is one no more."""

    def setUp(self) -> None:
        super().setUp()
        self.other = self.stranger(gate=Roster(self.member.swarm.peer_id))
        self.roster.members.add(self.other.swarm.peer_id)
        self.keeper = Keeper()
        factory = Factory()
        factory.noisy = False
        factory.buildProtocol = lambda addr: self.keeper  # type: ignore[method-assign]  # a test's
        self.member.swarm.handle("/work", factory)
        self.link = self.linked(self.other)
        (self.far,) = self.member.swarm.links.values()

    def revoke(self) -> None:
        self.roster.members.discard(self.other.swarm.peer_id)
        self.member.swarm.gate_changed()

    def test_at_once(self) -> None:
        """When the call returns the link and its streams are gone, and observers know why."""
        self.successResultOf(self.open(self.link, "/work"))
        opened = self.far.open_stream(["/echo"], Factory.forProtocol(Keeper))
        self.revoke()
        self.assertEqual((self.member.swarm.links, self.member.swarm.guests), ({}, {}))
        self.assertEqual(self.member.told[-1], ("down", REVOKED))
        self.assertIsNotNone(self.keeper.lost.check(LinkClosed))
        self.failureResultOf(opened, LinkClosed)
        self.assertEqual(self.far.stream_count, 0)
        self.run_for(1)
        self.assertTrue(self.link.closed)
        self.assertEqual([what for what, _ in self.member.told].count("down"), 1)

    def test_under_way(self) -> None:
        """What the peer had sent and nobody had read is not read."""
        stream = self.successResultOf(self.open(self.link, "/work"))
        stream.transport.write(b"late")
        self.revoke()
        self.run_for(1)
        self.assertEqual(self.keeper.data, b"")

    def test_waits(self) -> None:
        """What waits to be sent to it is not sent."""
        stream = self.successResultOf(self.open(self.link, "/work"))
        self.assertIsNotNone(stream)
        far: Any = self.keeper.transport
        far.write(b"secret")
        self.revoke()
        self.run_for(1)
        self.assertEqual(stream.data, b"")

    def test_redundant(self) -> None:
        """A link that was replaced and is still read goes with it."""
        self.run_for(SIMULTANEOUS + 1)
        second = self.other.dial(self.member)
        self.run_for(0.1)
        self.assertFalse(self.far.closed)
        self.revoke()
        self.assertTrue(self.far.closed)
        self.run_for(1)
        self.assertTrue(self.successResultOf(second).closed)

    def test_in_a_handshake(self) -> None:
        """One whose handshake is under way is a guest when it is done."""
        self.revoke()
        self.run_for(1)
        self.other.dial(self.member, guest_ok=True)
        self.run_for(3.5 * LATENCY)
        self.assertEqual(self.member.swarm.pending_handshakes, 1)
        self.member.swarm.gate_changed()
        self.run_for(1)
        self.assertEqual(list(self.member.swarm.guests), [self.other.swarm.peer_id])

    def test_itself(self) -> None:
        """A node that is revoked itself admits nobody, and loses all its links."""
        self.roster.members.clear()
        self.member.swarm.gate_changed()
        self.assertEqual(self.member.swarm.links, {})
