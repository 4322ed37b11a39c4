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
from bzzz.mesh.line_limit import LINES, LINES_APART
from bzzz.mesh.membership import ADDRESS_BOOK, FORGET_UNREACHABLE, Membership, MemberState
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

    def __init__(self, remote: PeerID) -> None:
        self.remote_peer = remote


class FakeSwarm:
    peer_id = peer(0)
    limits = SwarmLimits()
    pending_handshakes = 0

    def __init__(self) -> None:
        self.links: dict[PeerID, Any] = {}
        self.dials: list[Deferred[Any]] = []

    def dial(self, addresses: object, expected: object) -> Deferred[Any]:
        self.dials.append(Deferred())
        return self.dials[-1]


class FakeBook:
    def seen(self, *arguments: object) -> None:
        pass

    def succeeded(self, *arguments: object) -> None:
        pass

    def ordered(self, peer: PeerID, addresses: Any) -> list[Multiaddr]:
        return list(addresses)


class TableTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.swarm = FakeSwarm()
        swarm: Any = self.swarm
        self.events: list[str] = []
        self.forgotten: list[PeerID] = []
        self.table = Membership(
            swarm,
            self.clock,
            self.clock.seconds,
            random.Random(1),
            FakeBook(),
            lambda event, **fields: self.events.append(event),
            lambda: "nothing",
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
