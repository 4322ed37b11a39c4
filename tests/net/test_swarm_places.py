"""A swarm that is known to more peers than it may have links: whose link stays, and who hears."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import ensureDeferred
from twisted.internet.protocol import Factory, Protocol
from twisted.logger import LogLevel

from bzzz.errors import DialError
from bzzz.identity.keys import PrivateKey
from bzzz.identity.peer_id import PeerID
from bzzz.net.places import (
    FULL_AGAIN,
    FULL_HERE,
    FULL_THERE,
    SPARE,
    TRIAL,
    rank,
)
from bzzz.wire.identify import PROTOCOL
from tests.logs import lines_at
from tests.net.swarms import LATENCY, Keeper, Peer, Roster, SwarmCase

# In the ranks of the third peer its pair with the second is before the one with the first, and for
# the second, too, the one with the third is the first of all.
WORSE, BETTER, FULL = 1, 2, 3


def peer_id(number: int) -> PeerID:
    return PrivateKey.from_seed(bytes([number]) * 32).peer_id


WORST = rank(peer_id(FULL), peer_id(WORSE))


class PlacesCase(SwarmCase):
    def setUp(self) -> None:
        super().setUp()
        self.full = Peer(self, FULL, links=1)

    def link(self, peer: Peer) -> None:
        """Have the peer linked with the one that is full then."""
        peer.dial(self.full).addErrback(lambda failure: None)
        self.run_for(1)

    def downs(self, peer: Peer) -> list[Any]:
        return [about for what, about in peer.told if what == "down"]

    def mute(self, peer: Peer) -> None:
        """Have the peer say nothing when it is asked who it is."""
        factory = Factory.forProtocol(Protocol)
        factory.noisy = False
        peer.swarm.handle(PROTOCOL, factory, guests=True)


class RankTests(PlacesCase):
    def test_rank(self) -> None:
        """Both of a pair have the same rank for it, and each pair has its own."""
        peers = [peer_id(number) for number in range(1, 9)]
        ranks = {rank(one, other) for one in peers for other in peers if one != other}
        self.assertEqual(len(ranks), 8 * 7 / 2)
        for one in peers:
            for other in peers:
                self.assertEqual(rank(one, other), rank(other, one))
        full, worse, better = (peer_id(number) for number in (FULL, WORSE, BETTER))
        self.assertLess(rank(full, better), rank(full, worse))


class FullTests(PlacesCase):
    def test_worse(self) -> None:
        """A peer whose pair ranks behind all that are linked is refused, and told why."""
        better, worse = Peer(self, BETTER), Peer(self, WORSE)
        self.link(better)
        self.link(worse)
        self.assertEqual(list(self.full.swarm.links), [better.swarm.peer_id])
        self.assertEqual((self.downs(better), self.downs(self.full)), ([], []))
        self.assertEqual(self.downs(worse), [FULL_THERE])
        self.assertFalse(self.full.swarm.takes(worse.swarm.peer_id))

    def test_better(self) -> None:
        """One whose pair ranks before the last one gets its place; who loses it is told why."""
        worse, better = Peer(self, WORSE), Peer(self, BETTER)
        self.link(worse)
        self.assertTrue(self.full.swarm.takes(better.swarm.peer_id))
        self.link(better)
        self.assertEqual(list(self.full.swarm.links), [better.swarm.peer_id])
        self.assertEqual(self.downs(worse), [FULL_THERE])
        self.assertEqual(self.downs(self.full), [FULL_HERE])
        self.assertEqual((worse.swarm.links, self.downs(better)), ({}, []))
        self.run_for(2 * TRIAL)
        self.assertEqual(len(better.swarm.links), 1)
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_busy(self) -> None:
        """Who loses its place hears why also when it is saying something at that moment."""
        worse, better = Peer(self, WORSE), Peer(self, BETTER)
        self.link(worse)
        (link,) = worse.swarm.links.values()
        opened = link.open_stream(["/echo"], Factory.forProtocol(Keeper))
        self.run_for(1)
        stream: Any = self.successResultOf(opened)
        better.dial(self.full)
        for _ in range(200):
            stream.transport.write(b"hello")
            self.run_for(LATENCY / 10)
        self.run_for(1)
        self.assertEqual(self.downs(worse), [FULL_THERE])

    def test_dialler_is_full(self) -> None:
        """A full node that dials has the peer in the place of another when both want it."""
        worse, better = Peer(self, WORSE), Peer(self, BETTER)
        self.link(worse)
        dialled = self.full.dial(better)
        self.run_for(1)
        self.assertIs(self.successResultOf(dialled), self.full.swarm.links[better.swarm.peer_id])
        self.assertEqual(len(self.full.swarm.links), 1)
        self.assertEqual(self.downs(worse), [FULL_THERE])
        self.assertEqual(self.full.told[-3:-1], [("dial was over", True), ("name", "node2")])

    def test_refused_dialler_loses_nothing(self) -> None:
        """One that dials a peer which has no place for it keeps what it has, and nobody hears."""
        sought = next(n for n in range(4, 60) if rank(peer_id(FULL), peer_id(n)) < WORST)
        wanted = rank(peer_id(FULL), peer_id(sought))
        friend = next(n for n in range(60, 200) if rank(peer_id(n), peer_id(sought)) < wanted)
        there = Peer(self, sought, links=1)
        Peer(self, friend).dial(there)
        worse = Peer(self, WORSE)
        self.link(worse)
        told = list(self.full.told)
        dialled = self.full.dial(there)
        self.run_for(1)
        self.assertIn(FULL_THERE, str(self.failureResultOf(dialled, DialError).value))
        self.assertEqual(self.full.told, told)
        self.assertEqual(list(self.full.swarm.links), [worse.swarm.peer_id])
        self.assertEqual(self.downs(worse), [])

    def test_refused_again(self) -> None:
        """Observers hear of a peer that has no place once, and then when it has one."""
        better, worse = Peer(self, BETTER), Peer(self, WORSE)
        self.link(better)
        for _ in range(5):
            self.link(worse)
        self.assertEqual(len(worse.ups), 1)
        self.assertEqual(len(self.full.ups), 1)
        better.host.kill()
        self.run_for(1)
        self.link(worse)
        self.assertEqual(len(worse.ups), 2)
        self.assertEqual(list(self.full.swarm.links), [worse.swarm.peer_id])
        self.assertEqual(worse.told[-1], ("name", "node3"))

    def test_at_once(self) -> None:
        """Two full nodes that dial each other at the same moment end with one link."""
        worse, better = Peer(self, WORSE), Peer(self, BETTER, links=1)
        other = Peer(self, 4)
        self.link(worse)
        other.dial(better)
        self.run_for(1)
        better.dial(self.full)
        self.full.dial(better)
        self.run_for(2 * TRIAL)
        self.assertEqual(list(self.full.swarm.links), [better.swarm.peer_id])
        self.assertEqual(list(better.swarm.links), [self.full.swarm.peer_id])
        (ours,), (theirs,) = (peer.swarm.links.values() for peer in (self.full, better))
        self.assertNotEqual(ours.is_initiator, theirs.is_initiator)
        self.assertEqual((worse.swarm.links, other.swarm.links), ({}, {}))
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_lowered(self) -> None:
        """A limit that is lowered throws nobody out, and then one goes for one that comes."""
        full = Peer(self, FULL, links=8)
        for number in (WORSE, 4, 5, 6):
            Peer(self, number).dial(full)
        self.run_for(1)
        full.swarm.limits = self.full.swarm.limits
        better = Peer(self, BETTER)
        better.dial(full)
        self.run_for(1)
        self.assertEqual(len(full.swarm.links), 4)
        self.assertIn(better.swarm.peer_id, full.swarm.links)


class TrialTests(PlacesCase):
    def test_silent(self) -> None:
        """A peer that does not say who it is gets nobody's place, and not for long."""
        worse, better = Peer(self, WORSE), Peer(self, BETTER)
        self.mute(better)
        self.link(worse)
        self.link(better)
        self.assertEqual(len(self.full.swarm.links), 2)
        self.run_for(TRIAL)
        self.assertEqual(list(self.full.swarm.links), [worse.swarm.peer_id])
        self.assertEqual(self.downs(better), [FULL_THERE])
        self.run_for(TRIAL)
        dialled = self.full.dial(better)
        self.run_for(1)
        self.assertNoResult(dialled)
        self.run_for(TRIAL)
        self.failureResultOf(dialled, DialError)
        self.assertEqual(list(self.full.swarm.links), [worse.swarm.peer_id])
        self.assertEqual(self.downs(worse), [])

    def test_many_that_are_silent(self) -> None:
        """There are so many on trial at one time and no more."""
        worse = Peer(self, WORSE)
        self.link(worse)
        better = [n for n in range(4, 200) if rank(peer_id(FULL), peer_id(n)) < WORST]
        for number in better[: SPARE + 4]:
            other = Peer(self, number)
            self.mute(other)
            other.dial(self.full).addErrback(lambda failure: None)
        self.run_for(1)
        self.assertEqual(len(self.full.swarm.links), 1 + SPARE)

    def test_stop(self) -> None:
        """A node stops while a link is on trial, at either end."""
        worse, better = Peer(self, WORSE), Peer(self, BETTER)
        self.mute(better)
        self.link(worse)
        self.full.dial(better).addErrback(lambda failure: None)
        self.run_for(1)
        stopped = ensureDeferred(self.full.swarm.stop())
        self.run_for(3)
        self.successResultOf(stopped)
        self.assertEqual((self.full.swarm.links, better.swarm.links), ({}, {}))
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_revoked(self) -> None:
        """A peer that is not admitted any more loses a link on trial at once, too."""
        gate = Roster(*(peer_id(number) for number in (WORSE, BETTER)))
        full = Peer(self, FULL, gate, links=1)
        worse, better = Peer(self, WORSE), Peer(self, BETTER)
        self.mute(better)
        worse.dial(full)
        self.run_for(1)
        dialled = full.dial(better)
        dialled.addErrback(lambda failure: None)
        self.run_for(1)
        self.assertEqual(len(better.swarm.links), 1)
        gate.members.discard(better.swarm.peer_id)
        full.swarm.gate_changed()
        self.successResultOf(dialled)
        self.run_for(2 * LATENCY)
        self.assertEqual(better.swarm.links, {})


class LogTests(PlacesCase):
    def test_said(self) -> None:
        """The swarm says that there are more than it takes, once an hour at most."""
        lines = lines_at(self, LogLevel.warn)
        better, worse = Peer(self, BETTER), Peer(self, WORSE)
        self.link(better)
        for _ in range(3):
            self.link(worse)
        (line,) = lines
        self.assertIn("All 1 links are in use, and there are more members.", line)
        self.run_for(FULL_AGAIN)
        self.link(worse)
        self.assertEqual(len(lines), 2)
