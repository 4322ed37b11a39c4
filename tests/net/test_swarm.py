"""Swarms on simulated hosts: dialling, which of two links stays, and what ends."""

from __future__ import annotations

import errno
from typing import Any

from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.error import (
    ConnectError,
    ConnectionDone,
    ConnectionLost,
    ConnectionRefusedError,
)
from twisted.internet.main import CONNECTION_LOST
from twisted.internet.protocol import Factory, Protocol
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from bzzz.errors import DialError, LinkClosed, LocalProtocolError, NegotiationError, StreamReset
from bzzz.net.dialling import STAGGER, STAGGER_HANDSHAKE, dial_words
from bzzz.net.link import HANDSHAKE_TIMEOUT
from bzzz.net.swarm import LINGER
from bzzz.testing.clock import NodeClock
from bzzz.wire.limits import OUTBOUND_STREAMS
from bzzz.wire.multiaddr import Multiaddr
from tests.net.swarms import LATENCY, PORT, Keeper, Peer, SwarmCase, always


class WordsTests(SynchronousTestCase):
    """Why a dial failed, for people."""

    def test_words(self) -> None:
        """The system's words where Twisted has none of its own."""
        unreachable = ConnectError(osError=errno.EHOSTUNREACH, string="x")
        self.assertEqual(dial_words(Failure(unreachable)), "no route to host")
        refused = ConnectionRefusedError(osError=errno.ECONNREFUSED)
        self.assertEqual(dial_words(Failure(refused)), "connection was refused by other side")
        self.assertEqual(dial_words(Failure(DialError("no such name"))), "no such name")


class DialTests(SwarmCase):
    def test_dial(self) -> None:
        """Both sides have the link, know each other's name, and whoever dialled knew first."""
        a, b = Peer(self, 1), Peer(self, 2)
        dialled = a.dial(b)
        self.run_for(1)
        link = self.successResultOf(dialled)
        self.assertEqual(a.swarm.links, {b.swarm.peer_id: link})
        self.assertEqual(list(b.swarm.links), [a.swarm.peer_id])
        self.assertEqual(a.told, [("up", link), ("dial was over", True), ("name", "node2")])
        self.assertEqual(b.told[1:], [("name", "node1")])
        self.assertEqual(link.remote_multiaddr, b.address)

    def test_nobody_there(self) -> None:
        """Each address is named with what it said."""
        a, b = Peer(self, 1), Peer(self, 2)
        self.successResultOf(ensureDeferred(b.swarm.stop()))
        dialled = a.dial(b)
        self.run_for(1)
        words = str(self.failureResultOf(dialled, DialError).value)
        self.assertIn(f"{b.address}: connection was refused", words)

    def test_no_address(self) -> None:
        a = Peer(self, 1)
        dialled = a.swarm.dial([], a.swarm.peer_id)
        self.assertIn("no address", str(self.failureResultOf(dialled, DialError).value))

    def test_somebody_else(self) -> None:
        """Who answers as another than the one that was dialled is not linked, on either side."""
        a, b, c = Peer(self, 1), Peer(self, 2), Peer(self, 3)
        dialled = a.dial(b, expected=c.swarm.peer_id)
        self.run_for(1)
        self.failureResultOf(dialled, DialError)
        self.assertEqual((a.told, b.told), ([], []))

    def test_second_address(self) -> None:
        """The next address is tried when the first does not answer for a while."""
        a, b, gone = Peer(self, 1), Peer(self, 2), Peer(self, 3)
        gone.host.vanish()
        dialled = a.dial(gone, b)
        self.run_for(STAGGER - 0.01)
        # Nothing answers yet.
        self.assertFalse(a.swarm.in_touch([a.host.address]))
        self.assertEqual(b.swarm.pending_handshakes, 0)
        self.run_for(1)
        self.assertEqual(self.successResultOf(dialled).remote_multiaddr, b.address)

    def test_second_address_waits_for_a_slow_handshake(self) -> None:
        """While the first address has TCP up, the second waits longer; and then is tried."""
        a, b = Peer(self, 1), Peer(self, 2)
        mute = self.network.add_host(NodeClock(self.reactor))
        silent = Factory.forProtocol(Protocol)
        silent.noisy = False
        self.successResultOf(self.network.of(mute).listen(mute.address, PORT, silent))
        dialled = a.swarm.dial([Multiaddr.tcp(mute.address, PORT), b.address], b.swarm.peer_id)
        self.run_for(STAGGER_HANDSHAKE - 0.1)
        self.assertEqual(b.swarm.pending_handshakes, 0)
        self.run_for(1)
        self.assertEqual(self.successResultOf(dialled).remote_multiaddr, b.address)
        self.assertEqual(len(a.ups), 1)

    def test_cancel(self) -> None:
        """A cancelled dial leaves nothing behind on either side."""
        a, b = Peer(self, 1), Peer(self, 2)
        dialled = a.dial(b)
        dialled.addErrback(lambda failure: None)
        self.run_for(2.5 * LATENCY)
        dialled.cancel()
        self.run_for(1)
        self.assertEqual((a.told, b.told), ([], []))
        self.assertEqual(b.swarm.pending_handshakes, 0)
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_never_finishes(self) -> None:
        """Who connects and says nothing is gone after the handshake's deadline."""
        b = Peer(self, 2)
        self.assertFalse(b.swarm.in_touch([b.host.address]))
        other = self.network.add_host(NodeClock(self.reactor))
        keeper = Keeper()
        factory = Factory()
        factory.noisy = False
        factory.buildProtocol = always(keeper)  # type: ignore[method-assign]  # for this test
        self.network.of(other).connect(b.host.address, PORT, factory, 5, None)
        self.run_for(HANDSHAKE_TIMEOUT - 1)
        self.assertEqual(b.swarm.pending_handshakes, 1)
        self.assertTrue(b.swarm.in_touch([b.host.address]))
        self.run_for(2)
        self.assertEqual(b.swarm.pending_handshakes, 0)
        self.assertFalse(b.swarm.in_touch([b.host.address]))
        self.assertIsNotNone(keeper.lost)

    def test_too_many_handshakes(self) -> None:
        """The oldest that has not finished makes room, so that a newcomer always gets in."""
        b = Peer(self, 2, handshakes=3)
        other = self.network.add_host(NodeClock(self.reactor))
        keepers = [Keeper() for _ in range(5)]
        for keeper in keepers:
            factory = Factory()
            factory.noisy = False
            factory.buildProtocol = always(keeper)  # type: ignore[method-assign]  # for this test
            self.network.of(other).connect(b.host.address, PORT, factory, 5, None)
            self.run_for(0.1)
        self.assertEqual(b.swarm.pending_handshakes, 3)
        self.assertEqual([keeper.lost is not None for keeper in keepers], [True] * 2 + [False] * 3)

    def test_itself(self) -> None:
        """Dialling one's own address is found out, and is no copy."""
        a = Peer(self, 1)
        dialled = a.swarm.dial([a.address], None)
        self.run_for(1)
        self.failureResultOf(dialled, DialError)
        self.assertEqual((a.told, a.swarm.links), ([], {}))

    def test_copy(self) -> None:
        """Another machine with this node's key: both are told where the other is."""
        a, b = Peer(self, 1), Peer(self, 1)
        dialled = a.swarm.dial([b.address], None)
        self.run_for(1)
        self.failureResultOf(dialled, DialError)
        self.assertEqual(a.told, [("copy", b.address)])
        self.assertEqual([what for what, _ in b.told], ["copy"])


class OneLinkTests(SwarmCase):
    def test_at_once(self) -> None:
        """Both dial at the same time: both keep the same one of the two links."""
        a, b = Peer(self, 1), Peer(self, 2)
        dials = [a.dial(b), b.dial(a)]
        self.run_for(LINGER + 1)
        ours, theirs = (next(iter(peer.swarm.links.values())) for peer in (a, b))
        self.assertEqual(ours.is_initiator, a.swarm.peer_id < b.swarm.peer_id)
        self.assertNotEqual(ours.is_initiator, theirs.is_initiator)
        self.assertFalse(ours.closed or theirs.closed)
        # One of the dials had the other link, which was replaced a moment later.
        dialled = [self.successResultOf(dial) for dial in dials]
        self.assertEqual(sorted(link.closed for link in dialled), [False, True])

    def test_newer(self) -> None:
        """A peer that comes anew, because it lost its end, gets in; the old link goes."""
        a, b = Peer(self, 1), Peer(self, 2)
        first = a.dial(b)
        self.run_for(10)
        second = a.dial(b)
        self.run_for(LINGER + 1)
        self.assertTrue(self.successResultOf(first).closed)
        self.assertEqual(a.swarm.links, {b.swarm.peer_id: self.successResultOf(second)})
        self.assertEqual([about for what, about in b.told if what == "down"], ["replaced"])
        self.assertEqual(len(b.swarm.links), 1)

    def test_killed(self) -> None:
        """A process that dies is lost at once, and its link is in no table."""
        a, b = Peer(self, 1), Peer(self, 2)
        a.dial(b)
        self.run_for(1)
        b.host.kill()
        self.run_for(2 * LATENCY)
        self.assertEqual(a.swarm.links, {})
        self.assertEqual(a.told[-1][0], "down")

    def test_words(self) -> None:
        """Why TCP was lost is told in plain words, with what the loss says of itself."""
        for reason, words in (
            (ConnectionDone(), "connection closed"),
            (ConnectionLost(), "connection lost"),
            (CONNECTION_LOST, "connection lost"),
            (ConnectionLost("reset by the peer"), "connection lost: reset by the peer"),
        ):
            a, b = Peer(self, 1), Peer(self, 2)
            dialled = a.dial(b)
            self.run_for(1)
            self.successResultOf(dialled).connectionLost(Failure(reason))
            self.assertEqual(a.told[-1], ("down", words))


class StopTests(SwarmCase):
    def test_stop(self) -> None:
        """Peers are told that it was closed on purpose; nothing is left to do."""
        a, b = Peer(self, 1), Peer(self, 2)
        a.dial(b)
        self.run_for(1)
        stopped = ensureDeferred(b.swarm.stop())
        self.run_for(3)
        self.successResultOf(stopped)
        self.assertEqual(a.told[-1], ("down", "the peer closed it"))
        self.assertEqual((a.swarm.links, b.swarm.links), ({}, {}))
        self.failureResultOf(b.swarm.dial([a.address], None), DialError)
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_stop_in_a_handshake(self) -> None:
        """A dial that is under way fails, and its other end lets go."""
        a, b = Peer(self, 1), Peer(self, 2)
        dialled = a.dial(b)
        self.run_for(2.5 * LATENCY)
        stopped = ensureDeferred(a.swarm.stop())
        self.run_for(1)
        self.successResultOf(stopped)
        self.failureResultOf(dialled, DialError)
        self.assertEqual((a.told, b.told, b.swarm.pending_handshakes), ([], [], 0))


class StreamTests(SwarmCase):
    def setUp(self) -> None:
        super().setUp()
        self.a, self.b = Peer(self, 1), Peer(self, 2)
        dialled = self.a.dial(self.b)
        self.run_for(1)
        self.link = self.successResultOf(dialled)

    def open(self, *protocols: str, optimistic: bool = False) -> Deferred[Any]:
        factory = Factory.forProtocol(Keeper)
        factory.noisy = False
        return self.link.open_stream(protocols, factory, optimistic)

    def test_first_spoken(self) -> None:
        """The first protocol that the peer speaks is agreed on."""
        opened = self.open("/nobody", "/echo")
        self.run_for(1)
        keeper = self.successResultOf(opened)
        keeper.transport.write(b"hello")
        self.run_for(1)
        self.assertEqual(keeper.data, b"hello")
        self.assertEqual(keeper.transport.protocol_id, "/echo")

    def test_none_spoken(self) -> None:
        opened = self.open("/nobody")
        self.run_for(1)
        self.failureResultOf(opened, NegotiationError)
        self.assertEqual(self.link.stream_count, 0)

    def test_optimistic(self) -> None:
        """The first data travel with the proposal; a refusal is why the stream is lost."""
        keeper = self.successResultOf(self.open("/echo", optimistic=True))
        keeper.transport.write(b"hello")
        self.run_for(2.5 * LATENCY)
        self.assertEqual(keeper.data, b"hello")
        refused = self.successResultOf(self.open("/nobody", optimistic=True))
        self.run_for(1)
        self.assertIsNotNone(refused.lost.check(NegotiationError))

    def test_cancel(self) -> None:
        """A stream whose opening is cancelled is reset, and nothing remains of it."""
        opened = self.open("/echo")
        opened.cancel()
        self.failureResultOf(opened, StreamReset)
        self.run_for(1)
        (far,) = self.b.swarm.links.values()
        self.assertEqual((self.link.stream_count, far.stream_count), (0, 0))

    def test_link_lost(self) -> None:
        """Streams that are open and those being opened hear that the link is gone."""
        opened = self.open("/echo")
        self.run_for(1)
        keeper = self.successResultOf(opened)
        opening = self.open("/echo")
        self.link.abort("a test")
        self.run_for(0)
        self.failureResultOf(opening, LinkClosed)
        self.assertIsNotNone(keeper.lost.check(LinkClosed))
        self.failureResultOf(self.open("/echo"), LinkClosed)
        self.run_for(1)
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_after_close(self) -> None:
        """A link that is closing opens no stream."""
        self.link.close("a test")
        self.failureResultOf(self.open("/echo"), LinkClosed)
        self.run_for(3)
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_leak(self) -> None:
        """Whoever never closes streams is told so in its Deferred."""
        for _ in range(OUTBOUND_STREAMS):
            self.open("/echo")
        self.failureResultOf(self.open("/echo"), LocalProtocolError)
        self.assertFalse(self.link.closed)

    def test_listening_changes(self) -> None:
        """A new address is pushed to the peers."""
        before = len(self.b.told)
        self.successResultOf(ensureDeferred(self.a.swarm.listen(self.a.host.address, 4002)))
        self.run_for(1)
        self.assertEqual(self.b.told[before:], [("name", "node1")])
