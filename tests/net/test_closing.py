"""A link that is closed: the peer hears the goodbye, whatever it is sending, and nothing stays."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import ensureDeferred
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.python.failure import Failure

from bzzz.net import link as link_module
from bzzz.net.link import CLOSE_TIMEOUT, FRAMES
from bzzz.wire.connection import LinkEnded
from bzzz.wire.yamux_frame import DATA, HEADER
from tests.net.swarms import LATENCY, Peer, RawCase, Roster, SwarmCase
from tests.net.test_turns import LinkCase


class ClosingTests(LinkCase):
    """One link, whose peer is a bare core."""

    def close(self) -> None:
        """Close the link; the peer hears the goodbye."""
        self.link.close("a test")
        (event,) = self.peer.receive_data(self.answer())
        self.assertIsInstance(event, LinkEnded)

    def lose(self, reason: type[Exception] = ConnectionDone) -> None:
        self.link.connectionLost(Failure(reason()))
        self.assertEqual(self.owner.closed, ["a test"])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_peer_ends(self) -> None:
        """After the goodbye only the half is closed that writes; the peer's end is the link's."""
        self.close()
        self.assertTrue(self.wire.half_closed)
        self.assertFalse(self.wire.closing or self.wire.aborted)
        self.assertEqual(self.owner.closed, [])
        self.lose()

    def test_nothing_is_acted_on(self) -> None:
        """What the peer sends meanwhile is thrown away, and nothing is answered."""
        self.send(self.opening(b"before"))
        self.link.close("a test")
        self.assertNotEqual(self.answer(), b"")
        opened = self.owner.opened
        self.send(self.opening(b"after"))
        self.assertEqual((self.owner.opened, self.owner.heard), (opened, [b"before"]))
        self.assertEqual(self.owner.ended, 0)
        (stream,) = self.link._streams.values()
        stream.write(b"late")
        self.assertEqual(self.answer(), b"")
        self.lose(ConnectionLost)
        self.assertEqual(self.owner.ended, 1)

    def test_rest_of_a_read(self) -> None:
        """Nothing is acted on either that came in one read with what closed it."""
        self.owner.opening = lambda: self.link.close("a test")
        self.send(*(self.opening(b"x") for _ in range(3)))
        self.assertEqual((self.owner.opened, self.owner.heard), (1, []))
        self.lose()

    def test_peer_that_stays(self) -> None:
        """Who does not end it is cut."""
        self.close()
        self.clock.advance(CLOSE_TIMEOUT - 0.1)
        self.assertFalse(self.wire.aborted)
        self.clock.advance(0.1)
        self.assertTrue(self.wire.aborted)
        self.lose()

    def test_peer_that_sends_on(self) -> None:
        """So is who sends more than can have been under way."""
        self.patch(link_module, "MAX_IGNORED", 100)
        self.close()
        self.link.dataReceived(bytes(60))
        self.link.dataReceived(bytes(40))
        self.assertFalse(self.wire.aborted)
        self.link.dataReceived(b"x")
        self.assertTrue(self.wire.aborted)
        self.lose()

    def test_paused(self) -> None:
        """A link that waits for its turn to read on reads on at once; its turn does nothing."""
        late = HEADER.pack(DATA, 0, 1, 4) + b"late"
        self.send(*(self.opening() for _ in range(FRAMES)), late)
        self.assertFalse(self.wire.reading)
        self.link.close("a test")
        self.answer()
        self.assertTrue(self.wire.reading)
        self.clock.advance(0)
        self.assertEqual((self.owner.heard, self.answer()), ([], b""))
        self.assertTrue(self.wire.reading)
        self.lose()

    def test_congested(self) -> None:
        """The goodbye is sent also where TCP takes no more for now."""
        self.link.pauseProducing()
        self.close()
        self.assertTrue(self.wire.half_closed)
        self.lose()

    def test_cut_meanwhile(self) -> None:
        """A closing link can still be ended at once."""
        self.close()
        self.link.close("again")
        self.assertFalse(self.wire.aborted)
        self.link.abort("cut")
        self.assertTrue(self.wire.aborted)
        self.lose()

    def test_severed_meanwhile(self) -> None:
        """Also within the call; what TCP tells later counts no more."""
        self.close()
        self.link.sever("cut")
        self.assertTrue(self.wire.aborted)
        self.assertEqual(self.owner.closed, ["a test"])
        self.link.dataReceived(b"x")
        self.lose()

    def test_may_not_wait(self) -> None:
        """Where the owner has too many such links this one is closed at once."""
        self.owner.may_wait = False
        self.close()
        self.assertTrue(self.wire.closing)
        self.assertFalse(self.wire.half_closed)
        self.lose()


class PlaceTests(RawCase):
    """How many links may wait for their peers."""

    def test_cap(self) -> None:
        """Those beyond are closed at once; one that ends makes place for another."""
        self.swarm.limits = type(self.swarm.limits)(links=0, closing=1)
        self.gate.is_open = True
        ways = []
        links = []
        for _ in range(2):
            self.handshake()
            self.send()
            links.append(self.link)
            ways.append((self.wire.half_closed, self.wire.closing))
            self.connect()
        links[0].connectionLost(Failure(ConnectionDone()))
        self.handshake()
        self.send()
        ways.append((self.wire.half_closed, self.wire.closing))
        self.assertEqual(ways, [(True, False), (False, True), (True, False)])


class MeshTests(SwarmCase):
    """Two swarms."""

    def setUp(self) -> None:
        super().setUp()
        self.a, self.b = Peer(self, 1), Peer(self, 2)
        self.a.dial(self.b)
        self.run_for(1)

    def stop(self, peer: Peer) -> Any:
        return ensureDeferred(peer.swarm.stop())

    def test_round_trip(self) -> None:
        """A node that stops has to wait for its peers, but no longer than they need."""
        stopped = self.stop(self.a)
        self.run_for(1.5 * LATENCY)
        self.assertNoResult(stopped)
        self.run_for(LATENCY)
        self.successResultOf(stopped)
        self.assertEqual(self.b.told[-1], ("down", "the peer closed it"))

    def test_peer_that_sends(self) -> None:
        """The goodbye is heard by a peer that reads it late and sends meanwhile."""
        link = self.b.swarm.links[self.a.swarm.peer_id]
        transport: Any = link.transport
        transport.pauseProducing()
        stopped = self.stop(self.a)
        for _ in range(10):
            transport.write(b"x")
            self.run_for(0.1)
        self.assertFalse(link.closed)
        transport.resumeProducing()
        self.run_for(1)
        self.successResultOf(stopped)
        self.assertEqual(self.b.told[-1], ("down", "the peer closed it"))

    def test_peer_that_hangs(self) -> None:
        """Nobody waits for it for longer than that."""
        self.b.host.clock.stall(60)
        stopped = self.stop(self.a)
        self.run_for(CLOSE_TIMEOUT - 0.1)
        self.assertNoResult(stopped)
        self.run_for(0.2)
        self.successResultOf(stopped)

    def test_both_at_once(self) -> None:
        """Goodbyes that cross end the link at both sides."""
        stopped = self.stop(self.a), self.stop(self.b)
        self.run_for(2.5 * LATENCY)
        for each in stopped:
            self.successResultOf(each)
        self.assertEqual(self.a.told[-1], ("down", "this node is stopping"))
        self.assertEqual(self.b.told[-1], ("down", "this node is stopping"))
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_end_without_a_goodbye(self) -> None:
        """A peer that ends its half of TCP alone has ended the link."""
        link = self.b.swarm.links[self.a.swarm.peer_id]
        transport: Any = link.transport
        transport.unregisterProducer()
        transport.loseWriteConnection()
        self.run_for(1)
        self.assertEqual(self.a.told[-1], ("down", "connection closed"))
        self.assertTrue(link.closed)

    def test_stop_waits_for_those_that_close(self) -> None:
        """Also a link that no table has any more is waited for."""
        self.give_up_and_stop()

    def test_stop_waits_for_the_last(self) -> None:
        """Also where others are closed before."""
        self.a.dial(Peer(self, 3))
        self.run_for(1)
        self.give_up_and_stop()

    def give_up_and_stop(self) -> None:
        self.b.host.clock.stall(60)
        self.a.swarm._give_up(self.a.swarm.links[self.b.swarm.peer_id])
        self.run_for(1)
        stopped = self.stop(self.a)
        self.run_for(CLOSE_TIMEOUT - 1.1)
        self.assertEqual(self.a.swarm.links, {})
        self.assertNoResult(stopped)
        self.run_for(0.2)
        self.successResultOf(stopped)

    def test_revoked_meanwhile(self) -> None:
        """Who is admitted no more while its link closes loses it at once."""
        self.b.host.clock.stall(60)
        link = self.a.swarm.links[self.b.swarm.peer_id]
        self.a.swarm._give_up(link)
        self.a.swarm.gate = Roster()
        self.a.swarm.gate_changed()
        self.assertTrue(link.closed)
