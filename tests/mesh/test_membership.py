"""The table of peers: who leaves it, and when. Dialling is tested in the simulator."""

from __future__ import annotations

import random
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.logger import LogLevel
from twisted.trial.unittest import SynchronousTestCase

from bzzz.errors import DialError
from bzzz.identity.keys import PrivateKey
from bzzz.identity.peer_id import PeerID
from bzzz.mesh import membership
from bzzz.mesh.dial_limit import MOST
from bzzz.mesh.line_limit import LINES, LINES_APART
from bzzz.mesh.membership import (
    ADDRESS_BOOK,
    CLAIMED_AGAIN,
    FORGET_UNREACHABLE,
    POLITE,
    TAKEN_FOR_GUEST,
    Membership,
    MemberState,
)
from bzzz.net.guests import CLAIMED
from bzzz.net.places import FULL_HERE, FULL_THERE
from bzzz.net.swarm import SwarmLimits
from bzzz.wire.identify import Identify
from bzzz.wire.multiaddr import Multiaddr
from tests.logs import lines_at

ADDRESS = Multiaddr.parse("/ip4/192.0.2.9/tcp/4001")


def peer(number: int) -> PeerID:
    return PrivateKey.from_seed(number.to_bytes(32, "big")).peer_id


class FakeLink:
    is_initiator = False
    remote_multiaddr = Multiaddr.parse("/ip4/192.0.2.9/tcp/50000")
    ready_at = 0.0
    guest_there = False

    def __init__(self, remote: PeerID) -> None:
        self.remote_peer = remote


class FakeSwarm:
    peer_id = peer(0)
    limits = SwarmLimits()
    pending_handshakes = 0

    def __init__(self) -> None:
        self.links: dict[PeerID, Any] = {}
        self.dials: list[Deferred[Any]] = []
        self.refused: set[PeerID] = set()

    def takes(self, peer: PeerID) -> bool:
        return peer not in self.refused

    def dial(self, addresses: object, expected: object) -> Deferred[Any]:
        self.dials.append(Deferred())
        return self.dials[-1]


class FakeBook:
    def __init__(self) -> None:
        self.heard: set[PeerID] = set()

    def seen(self, peer: PeerID, *arguments: object) -> None:
        self.heard.add(peer)

    def succeeded(self, *arguments: object) -> None:
        pass

    def ordered(self, peer: PeerID, addresses: Any) -> list[Multiaddr]:
        return list(addresses)


class TableCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.swarm = FakeSwarm()
        swarm: Any = self.swarm
        self.events: list[str] = []
        self.forgotten: list[PeerID] = []
        self.book = FakeBook()
        self.strangers: set[PeerID] = set()
        self.table = Membership(
            swarm,
            self.clock,
            self.clock.seconds,
            random.Random(1),
            self.book,
            lambda event, **fields: self.events.append(event),
            lambda: "nothing",
            lambda peer: peer not in self.strangers,
        )
        self.table.on_forgotten = self.forgotten.append
        self.table.start()

    def link(self, number: int, *addresses: Multiaddr, identified: bool = True) -> Any:
        link: Any = FakeLink(peer(number))
        self.table.link_up(link)
        if identified:
            said = Identify("", "agent", None, addresses, None, (), f"n{number}")
            self.table.identified(link, said)
        return link


class TableTests(TableCase):
    def test_not_sought(self) -> None:
        """Others need not tell where a peer is, until a dial of it has failed."""
        self.assertEqual(self.table.not_sought(), [])
        link = self.link(1)
        self.table.found(peer(2), [ADDRESS], "mdns")
        self.assertEqual(set(self.table.not_sought()), {peer(1), peer(2)})
        self.clock.advance(1)
        self.assertEqual(len(self.swarm.dials), 1)
        self.assertEqual(set(self.table.not_sought()), {peer(1), peer(2)})
        self.swarm.dials[0].errback(DialError("refused"))
        self.assertEqual(self.table.not_sought(), [peer(1)])
        self.table.link_down(link, "gone")
        self.assertEqual(self.table.not_sought(), [])
        # What the address book says may be of long ago, until somebody says it now.
        self.table.found(peer(3), [ADDRESS], ADDRESS_BOOK)
        self.assertEqual(self.table.not_sought(), [])
        self.table.found(peer(3), [ADDRESS], "mdns")
        self.assertEqual(self.table.not_sought(), [peer(3)])

    def test_many_that_cannot_be_reached(self) -> None:
        """Somebody who invents peers decides not how fast the log grows."""
        lines = lines_at(self, LogLevel.info)
        for number in range(1, 101):
            self.table.found(peer(number), [ADDRESS], "mdns")
        while len(self.swarm.dials) < 100:
            self.clock.advance(0.01)
            for dial in self.swarm.dials:
                if not dial.called:
                    dial.errback(DialError("refused"))
        self.assertIn(len(lines), range(LINES, LINES + 1 + int(self.clock.seconds() / LINES_APART)))

    def test_never_said_who(self) -> None:
        """A peer that came and went without a word leaves no trace."""
        self.table.link_down(self.link(1, identified=False), "gone")
        self.assertEqual((self.table.members, self.events), ({}, []))
        self.assertEqual(self.forgotten, [peer(1)])

    def test_told_no_address(self) -> None:
        """One that cannot be dialled is shown as lost for a while, and then forgotten."""
        self.table.link_down(self.link(1), "gone")
        self.assertEqual(self.table.members[peer(1)].state, MemberState.LOST)
        self.clock.advance(FORGET_UNREACHABLE)
        self.assertEqual((self.table.members, self.forgotten), ({}, [peer(1)]))
        self.assertEqual(self.events[-1], "forgotten")
        self.assertEqual(self.swarm.dials, [])

    def test_comes_back(self) -> None:
        """It is not forgotten if it comes back, or is heard of, in time."""
        self.table.link_down(self.link(1), "gone")
        self.table.link_down(self.link(2), "gone")
        self.clock.advance(FORGET_UNREACHABLE / 2)
        self.link(1)
        self.table.found(peer(2), [ADDRESS], "mdns")
        self.clock.advance(FORGET_UNREACHABLE)
        self.assertEqual(set(self.table.members), {peer(1), peer(2)})
        self.assertEqual(len(self.swarm.dials), 1)

    def test_full(self) -> None:
        """A linked peer always finds room; one that is spoken of, in the place of an unreachable
        one only."""
        self.patch(membership, "MAX_MEMBERS", 3)
        linked = self.link(1)
        self.table.link_down(self.link(2), "gone")
        self.table.found(peer(3), [ADDRESS], "mdns")
        self.table.found(peer(4), [ADDRESS], "mdns")
        self.assertEqual(set(self.table.members), {peer(1), peer(3), peer(4)})
        self.table.found(peer(5), [ADDRESS], "mdns")
        self.assertNotIn(peer(5), self.table.members)
        self.link(6, ADDRESS)
        self.link(7, ADDRESS)
        self.assertEqual(set(self.table.members), {peer(1), peer(6), peer(7)})
        self.assertIs(self.table.members[peer(1)].link, linked)

    def test_stop(self) -> None:
        """Nothing is left to happen."""
        self.table.link_down(self.link(1), "gone")
        self.table.found(peer(2), [ADDRESS], "mdns")
        self.table.stop()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_copy(self) -> None:
        """A copied identity is told of once a minute, however often the other one dials."""
        for _ in range(119):
            self.table.copy_found(ADDRESS)
            self.clock.advance(1)
        self.assertEqual(self.events.count("identity_conflict"), 2)
        self.assertEqual(len(self.flushLoggedErrors()), 0)


class GateTests(TableCase):
    """Peers that are not admitted, and those that come to be."""

    def test_stranger(self) -> None:
        """Who is not admitted is known, but not dialled, shown, told of or written down."""
        self.strangers.add(peer(1))
        self.table.found(peer(1), [ADDRESS], "mdns", "walnut")
        self.table.found(peer(2), [ADDRESS], "mdns")
        self.clock.advance(60)
        self.assertEqual(set(self.table.members), {peer(1), peer(2)})
        self.assertEqual([member.peer_id for member in self.table.shown()], [peer(2)])
        self.assertEqual(len(self.swarm.dials), 1)
        self.assertEqual(self.events.count("discovered"), 1)
        self.assertEqual(self.book.heard, {peer(2)})
        self.assertEqual(self.table.members[peer(1)].state, MemberState.DISCOVERED)

    def test_start(self) -> None:
        """Nor is one dialled that was known, from the disk, before the node started."""
        self.table.stop()
        self.strangers.add(peer(1))
        self.table.found(peer(1), [ADDRESS], ADDRESS_BOOK)
        self.table.found(peer(2), [ADDRESS], ADDRESS_BOOK)
        self.table.start()
        self.clock.advance(60)
        self.assertEqual(len(self.swarm.dials), 1)

    def test_admitted(self) -> None:
        """Once it is admitted it is dialled at once, where it was found before, and told of."""
        self.strangers.update({peer(1), peer(2)})
        for number in (1, 2):
            self.table.found(peer(number), [ADDRESS], "mdns", f"n{number}")
        self.clock.advance(60)
        self.strangers.clear()
        self.table.reconsider()
        self.assertEqual(self.events.count("discovered"), 2)
        self.assertEqual(self.book.heard, {peer(1), peer(2)})
        self.clock.advance(POLITE[1])
        self.assertEqual(len(self.swarm.dials), 2)
        self.assertEqual(len(self.table.shown()), 2)

    def test_not_again(self) -> None:
        """Who was admitted before and is now is left as it is, in its backoff."""
        self.table.found(peer(1), [ADDRESS], "mdns")
        self.clock.advance(POLITE[1])
        self.swarm.dials[0].errback(DialError("refused"))
        due = self.table.members[peer(1)].next_dial
        for _ in range(5):
            self.table.reconsider()
        self.assertEqual(self.table.members[peer(1)].next_dial, due)
        self.assertEqual(self.events, ["discovered"])

    def test_revoked_in_a_dial(self) -> None:
        """A dial that is under way, planned, or waits for others' is given up."""
        self.patch(membership, "POLITE", (0.0, 0.0))
        for number in range(1, MOST + 3):
            self.table.found(peer(number), [ADDRESS], "mdns")
        self.clock.advance(0)
        self.table.found(peer(100), [ADDRESS], "mdns")
        self.assertEqual(len(self.swarm.dials), MOST)
        self.strangers.update(self.table.members)
        self.table.reconsider()
        self.clock.advance(3600)
        self.assertEqual(len(self.swarm.dials), MOST)
        self.assertTrue(all(dial.called for dial in self.swarm.dials))
        self.assertEqual(self.table.shown(), [])

    def test_revoked(self) -> None:
        """A member that is revoked is lost, with the reason, and not dialled any more."""
        link = self.link(1, ADDRESS)
        self.strangers.add(peer(1))
        self.table.link_down(link, "revoked by walnut")
        # Not even before it is said that the gate has changed.
        self.clock.advance(3600)
        self.table.reconsider()
        self.clock.advance(3600)
        self.assertEqual(self.events.count("lost"), 1)
        self.assertEqual(self.swarm.dials, [])
        self.assertEqual(self.table.members[peer(1)].reason, "revoked by walnut")

    def test_room(self) -> None:
        """A stranger makes room for whoever is admitted, and finds none itself."""
        self.patch(membership, "MAX_MEMBERS", 3)
        self.strangers.update({peer(2), peer(3), peer(9)})
        for number in (1, 2, 3):
            self.table.found(peer(number), [ADDRESS], "mdns")
        self.table.found(peer(9), [ADDRESS], "mdns")
        self.assertEqual(set(self.table.members), {peer(1), peer(2), peer(3)})
        self.table.found(peer(4), [ADDRESS], "mdns")
        self.link(5)
        self.assertEqual(set(self.table.members), {peer(1), peer(4), peer(5)})
        # Nobody was told of them, so nobody is told that they are forgotten.
        self.assertNotIn("forgotten", self.events)

    def test_taken_for_a_guest(self) -> None:
        """A member that has not heard of this node's admission is not told of as connected yet."""
        link: Any = FakeLink(peer(1))
        self.table.found(peer(1), [ADDRESS], "mdns")
        self.table.link_up(link)
        self.table.identified(link, Identify(guest=True))
        self.assertNotIn("connected", self.events)
        self.assertEqual(self.table.members[peer(1)].reason, TAKEN_FOR_GUEST)
        self.table.identified(link, Identify(name="walnut"))
        self.assertEqual(self.events[-1], "connected")
        self.assertEqual(self.table.members[peer(1)].reason, "")

    def test_taken_for_a_guest_for_ever(self) -> None:
        """If it never hears, it is dialled ever more rarely, however long each link lived."""
        self.table.found(peer(1), [ADDRESS], "mdns")
        for _ in range(20):
            self.clock.advance(60)
            while len(self.swarm.dials) < 1:
                self.clock.advance(1)
            link: Any = FakeLink(peer(1))
            link.guest_there = True
            self.table.link_up(link)
            self.table.identified(link, Identify(guest=True))
            self.clock.advance(15)
            self.swarm.dials.clear()
            self.table.link_down(link, "the peer closed it")
        self.assertGreater((self.table.members[peer(1)].next_dial or 0) - self.clock.seconds(), 5)


class NoPlaceTests(TableCase):
    """Peers that all the links are not for, here or there."""

    def dialled(self, seconds: float) -> int:
        """How often a peer was dialled that had no place each time."""
        before = len(self.swarm.dials)
        for _ in range(int(10 * seconds)):
            self.clock.advance(0.1)
            for dial in self.swarm.dials:
                if not dial.called:
                    dial.errback(DialError(f"{ADDRESS}: {FULL_THERE}"))
        return len(self.swarm.dials) - before

    def test_here(self) -> None:
        """One for which this node has no place is not dialled, and is when there is one."""
        self.swarm.refused.add(peer(1))
        self.table.found(peer(1), [ADDRESS], "mdns")
        self.clock.advance(3600)
        self.assertEqual(self.swarm.dials, [])
        self.swarm.refused.clear()
        self.clock.advance(60)
        self.assertEqual(len(self.swarm.dials), 1)

    def test_there(self) -> None:
        """One that has none is dialled ever more rarely, though it announces itself."""
        lines = lines_at(self, LogLevel.info)
        self.table.found(peer(1), [ADDRESS], "mdns")
        self.assertLessEqual(self.dialled(60), 7)
        for _ in range(10):
            self.table.found(peer(1), [ADDRESS], "mdns")
            self.assertLessEqual(self.dialled(60), 2)
        (member,) = self.table.shown()
        self.assertEqual((member.state, member.reason), (MemberState.DISCOVERED, ""))
        self.assertEqual((lines, member.attempts), ([], 0))
        # A new address may be where it has been started again, with other links.
        self.table.found(peer(1), [Multiaddr.parse("/ip4/192.0.2.8/tcp/1")], "mdns")
        self.assertEqual(self.dialled(0.4), 1)

    def test_lost_its_place(self) -> None:
        """One whose link was given up is not lost, nor dialled at once, however old the link."""
        lines = lines_at(self, LogLevel.info)
        for number, reason in ((1, FULL_HERE), (2, FULL_THERE)):
            self.swarm.dials.clear()
            link = self.link(number, ADDRESS)
            self.clock.advance(600)
            self.table.link_down(link, reason)
            self.clock.advance(0.4)
            self.assertEqual(self.swarm.dials, [])
            member = self.table.members[peer(number)]
            self.assertEqual((member.state, member.reason), (MemberState.DISCOVERED, ""))
            self.assertEqual(self.events[-1], "lost")
            self.assertIn("any more, which is not lost", lines[-1])
            self.clock.advance(1)
            self.assertEqual(len(self.swarm.dials), 1)

    def test_kept(self) -> None:
        """It is asked for at others, who speak of it, so that it is not forgotten."""
        self.swarm.refused.add(peer(1))
        self.table.found(peer(1), [ADDRESS], "mdns")
        self.assertEqual(self.table.not_sought(), [peer(1)])
        for _ in range(30):
            self.clock.advance(3600)
            self.assertEqual(self.table.not_sought(), [])
            self.table.found(peer(1), [ADDRESS], "member")
        self.assertEqual((list(self.table.members), self.forgotten), ([peer(1)], []))


class ClaimedTests(TableCase):
    """Peers in a cluster, seen by a node that is in none."""

    def claim(self, number: int, **found: Any) -> None:
        self.table.found(peer(number), [ADDRESS], "mdns", f"n{number}")
        self.clock.advance(1)
        link: Any = FakeLink(peer(number))
        self.table.link_up(link)
        self.table.link_down(link, CLAIMED)
        self.swarm.dials.clear()

    def test_left_alone(self) -> None:
        """It is not dialled again for a while, whatever is heard of it."""
        self.claim(1)
        other = Multiaddr.parse("/ip4/192.0.2.10/tcp/4001")
        for _ in range(int(CLAIMED_AGAIN) - 2):
            self.clock.advance(1)
            self.table.found(peer(1), [ADDRESS], "mdns", "n1")
            self.table.found(peer(1), [other], "member")
        self.assertEqual(self.swarm.dials, [])
        self.clock.advance(3)
        self.assertEqual(len(self.swarm.dials), 1)

    def test_shown(self) -> None:
        """People see that, where it is, and why; no link was ever told of."""
        self.claim(1)
        (member,) = self.table.claimed()
        self.assertEqual((member.peer_id, member.name), (peer(1), "n1"))
        self.assertEqual(list(member.addresses), [ADDRESS])
        self.assertEqual((member.state, member.reason), (MemberState.CLAIMED, CLAIMED))
        self.assertEqual(self.table.shown(), [member])
        self.assertEqual(self.events, ["discovered"])

    def test_said(self) -> None:
        """The log says once what to do about it."""
        lines = lines_at(self, LogLevel.info)
        self.claim(1)
        self.clock.advance(CLAIMED_AGAIN)
        self.claim(1)
        self.assertEqual(len([line for line in lines if "belongs to a cluster" in line]), 1)
        self.assertIn("bzzz join", lines[0])

    def test_alone(self) -> None:
        """A node that is alone among them hears that they are there, and what to do."""
        lines = lines_at(self, LogLevel.warn)
        self.claim(1)
        self.claim(2)
        self.clock.advance(10)
        self.assertIn("2 nodes belong to a cluster: bzzz invite there, bzzz join here", lines[0])

    def test_joined(self) -> None:
        """It is dialled at once when this node becomes a member of its cluster."""
        self.claim(1)
        self.claim(2)
        self.strangers.add(peer(2))
        self.table.reconsider()
        self.clock.advance(1)
        self.assertEqual(len(self.swarm.dials), 1)
        self.assertEqual(self.table.claimed(), [])
        self.assertEqual([member.peer_id for member in self.table.shown()], [peer(1)])

    def test_no_more(self) -> None:
        """If it is in none when it is dialled again, it is a peer like others."""
        self.claim(1)
        self.clock.advance(CLAIMED_AGAIN)
        link = self.link(1, ADDRESS)
        self.assertEqual(self.table.claimed(), [])
        self.table.link_down(link, "gone")
        self.assertEqual(self.table.members[peer(1)].state, MemberState.LOST)

    def test_unreachable_later(self) -> None:
        """If it cannot be reached then, it is dialled as others are, and still known as claimed."""
        self.claim(1)
        self.clock.advance(CLAIMED_AGAIN + 1)
        self.swarm.dials[0].errback(DialError("refused"))
        self.clock.advance(60)
        self.assertEqual(len(self.swarm.dials), 2)
        self.assertEqual(len(self.table.claimed()), 1)

    def test_came_by_itself(self) -> None:
        """One that said no address, and that nobody spoke of, is forgotten at once."""
        link: Any = FakeLink(peer(1))
        self.table.link_up(link)
        self.table.link_down(link, CLAIMED)
        self.assertEqual(self.table.members, {})

    def test_stop(self) -> None:
        """Nothing is left to happen."""
        self.claim(1)
        self.table.stop()
        self.assertEqual(self.clock.getDelayedCalls(), [])
