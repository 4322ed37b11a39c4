"""The simulator's hosts and paths: connecting, and what goes wrong."""

from __future__ import annotations

import random
from typing import Any

from twisted.internet.error import (
    CannotListenError,
    ConnectBindError,
    ConnectingCancelledError,
    ConnectionDone,
    ConnectionLost,
    ConnectionRefusedError,
    NoProtocol,
    TimeoutError,
)
from twisted.internet.interfaces import IListeningPort
from twisted.internet.protocol import Factory
from zope.interface.verify import verifyObject

from bzzz.net.interfaces import INetwork
from bzzz.net.keepalive import SILENCE
from bzzz.testing import network as module
from bzzz.testing.clock import NodeClock, SimReactor
from bzzz.testing.network import SimNetwork
from tests.sim.worlds import Recorders, WorldCase


class ConnectTests(WorldCase):
    """Listening and dialling."""

    def test_interfaces(self) -> None:
        """It is the network that the daemon asks for."""
        verifyObject(INetwork, self.network.of(self.near))
        self.listen()
        verifyObject(IListeningPort, self.port)

    def test_connect(self) -> None:
        """A connection is there after one round trip, and at the other end half a one later."""
        accepted = self.listen()
        dialled = self.dial()
        self.run_for(0.0199)
        self.assertNoResult(dialled)
        self.run_for(0.0002)
        protocol = self.successResultOf(dialled)
        self.assertEqual(accepted.made, [])
        self.run_for(0.01)
        far = accepted.made[0]
        self.assertEqual(protocol.transport.getPeer().host, self.far.address)
        self.assertEqual(protocol.transport.getPeer(), far.transport.getHost())
        self.assertEqual(protocol.transport.getHost(), far.transport.getPeer())

    def test_refused(self) -> None:
        """Where nobody listens a connection is refused after one round trip."""
        dialled = self.dial()
        self.run_for(0.021)
        self.failureResultOf(dialled, ConnectionRefusedError)

    def test_stopped_listening(self) -> None:
        """Nobody listens where listening was stopped; connections that exist stay."""
        near, far = self.pair()
        self.port.stopListening()
        dialled = self.dial()
        self.run_for(1)
        self.failureResultOf(dialled, ConnectionRefusedError)
        self.assertIsNone(near.lost or far.lost)

    def test_stopped_while_connecting(self) -> None:
        """A connection that the kernel made and nobody took is reset."""
        self.listen()
        dialled = self.dial()
        self.run_for(0.025)
        self.port.stopListening()
        self.run_for(1)
        lost = self.successResultOf(dialled).lost
        self.assertIsNotNone(lost.check(ConnectionLost))

    def test_accepting_fails(self) -> None:
        """A listening factory that refuses or raises costs that connection only."""
        for answer in (None, ZeroDivisionError()):
            factory = Factory()
            factory.noisy = False

            def build(addr: object, answer: Any = answer) -> None:
                if answer is not None:
                    raise answer

            factory.buildProtocol = build  # type: ignore[method-assign]
            port = self.successResultOf(
                self.network.of(self.far).listen(self.far.address, 7, factory)
            )
            dialled = self.dial()
            self.run_for(1)
            self.assertIsNotNone(self.successResultOf(dialled).lost)
            port.stopListening()
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_dialling_fails(self) -> None:
        """A dialling factory that refuses or raises fails the dial."""
        for make, expected in ((lambda _: None, NoProtocol), (lambda _: 1 // 0, ZeroDivisionError)):
            accepted = self.listen()
            factory = Factory()
            factory.buildProtocol = make  # type: ignore[method-assign,assignment]
            dialled = self.network.of(self.near).connect(self.far.address, 7, factory, 5, None)
            self.run_for(1)
            self.failureResultOf(dialled, expected)
            self.assertEqual(accepted.made, [])
            self.port.stopListening()

    def test_timeout(self) -> None:
        """A host that is down, and an address that nobody has, do not answer."""
        self.far.vanish()
        one = self.dial(timeout=4)
        nobody = Recorders(self.reactor)
        other = self.network.of(self.near).connect("10.9.9.9", 7, nobody, 4, None)
        self.run_for(3.9)
        self.assertNoResult(one)
        self.run_for(0.2)
        self.failureResultOf(one, TimeoutError)
        self.failureResultOf(other, TimeoutError)

    def test_attempts_are_repeated(self) -> None:
        """A dial into a partition succeeds when it heals in time."""
        self.listen()
        self.network.partition([[self.near]])
        dialled = self.dial(timeout=5)
        self.reactor.callLater(2.5, self.network.heal)
        self.run_for(2.9)
        self.assertNoResult(dialled)
        self.run_for(1)
        self.successResultOf(dialled)

    def test_an_answer_is_lost(self) -> None:
        """A dial whose answers do not come back fails, whatever gets there."""
        accepted = self.listen()
        self.network.cut(self.far, self.near)
        dialled = self.dial(timeout=5)
        self.run_for(6)
        self.failureResultOf(dialled, TimeoutError)
        self.assertEqual(accepted.made, [])
        self.network.mend(self.far, self.near)
        dialled = self.dial(timeout=5)
        self.run_for(6)
        self.successResultOf(dialled)

    def test_cancel(self) -> None:
        """A cancelled dial fails at once, and nothing comes of it."""
        accepted = self.listen()
        dialled = self.dial()
        self.run_for(0.005)
        dialled.cancel()
        self.failureResultOf(dialled, ConnectingCancelledError)
        self.run_for(1)
        self.assertEqual(accepted.made, [])

    def test_ports(self) -> None:
        """A taken port and a foreign address cannot be listened on; port 0 is any free one."""
        self.listen()
        network = self.network.of(self.far)
        factory = Factory()
        self.failureResultOf(network.listen(self.far.address, 7, factory), CannotListenError)
        self.failureResultOf(network.listen("10.9.9.9", 8, factory), CannotListenError)
        free: list[Any] = [
            self.successResultOf(network.listen("0.0.0.0", 0, factory)) for _ in range(3)
        ]
        ports = {listening.getHost().port for listening in free}
        self.assertEqual(len(ports), 3)
        self.assertTrue(all(port in module.EPHEMERAL for port in ports))

    def test_ports_run_out(self) -> None:
        """Ports of connections that are over are used again; when all are in use a dial fails."""
        self.patch(module, "EPHEMERAL", range(32768, 32771))
        self.listen()
        dials = [self.dial() for _ in range(3)]
        self.failureResultOf(self.dial(), ConnectBindError)
        self.run_for(1)
        self.successResultOf(dials[0]).transport.loseConnection()
        self.run_for(1)
        again = self.dial()
        self.run_for(1)
        self.successResultOf(again)
        self.failureResultOf(self.dial(), ConnectBindError)

    def test_bind(self) -> None:
        """A dial from an address that the host does not have fails."""
        self.listen()
        network, factory = self.network.of(self.near), Recorders(self.reactor)
        for host in ("10.9.9.9", "127.0.0.1"):
            dialled = network.connect(self.far.address, 7, factory, 5, host)
            self.failureResultOf(dialled, ConnectBindError)


class PartitionTests(WorldCase):
    """What a connection does when its path is cut."""

    def test_data_waits(self) -> None:
        """What is sent into a partition arrives after it heals, once and in order."""
        near, far = self.pair()
        self.network.partition([[self.near], [self.far]])
        near.transport.write(b"a")
        self.run_for(1)
        near.transport.write(b"b")
        self.run_for(4)
        self.assertEqual(far.received, b"")
        self.network.heal()
        self.run_for(10)
        self.assertEqual(far.received, b"ab")
        self.assertIsNone(near.lost or far.lost)

    def test_the_longer_the_later(self) -> None:
        """TCP sends again ever more rarely, so that it notices the healing that much later."""
        near, far = self.pair()
        self.network.partition([[self.near]])
        near.transport.write(b"a")
        begin = self.reactor.now
        self.run_for(30)
        self.network.heal()
        self.run_for(100)
        # 0.2 s, doubled seven times: 0.2 * (2 ** 8 - 1) after the first loss.
        self.assertAlmostEqual(far.times[0] - begin, 51.0, places=1)

    def test_loss_of_one_way(self) -> None:
        """A cut of one direction stops that one only."""
        near, far = self.pair()
        self.network.cut(self.near, self.far)
        near.transport.write(b"a")
        far.transport.write(b"b")
        self.run_for(1)
        self.assertEqual((near.received, far.received), (b"b", b""))
        self.network.mend(self.near, self.far)
        self.run_for(5)
        self.assertEqual(far.received, b"a")

    def test_idle_connections_survive(self) -> None:
        """A connection on which nothing was sent does not notice a partition of any length."""
        near, far = self.pair()
        self.network.partition([[self.near]])
        self.run_for(5000)
        self.network.heal()
        near.transport.write(b"a")
        self.run_for(1)
        self.assertEqual(far.received, b"a")

    def test_giving_up(self) -> None:
        """After 15 minutes without an acknowledgement the kernel of the sender gives up."""
        near, far = self.pair()
        self.network.partition([[self.near]])
        near.transport.write(b"a")
        self.run_for(900)
        self.assertIsNone(near.lost)
        self.run_for(100)
        assert near.lost is not None
        self.assertIsNotNone(near.lost.check(ConnectionLost))
        self.assertIsNone(far.lost)
        self.network.heal()
        self.run_for(10)
        self.assertIsNone(far.lost)
        far.transport.write(b"b")
        self.run_for(10)
        self.assertIsNotNone(far.lost)

    def test_a_reset_is_lost(self) -> None:
        """Who aborts in a partition is not heard; the other learns of it when it sends."""
        near, far = self.pair()
        self.network.partition([[self.near]])
        near.transport.write(b"a")
        near.transport.abortConnection()
        self.run_for(5)
        self.assertIsNotNone(near.lost)
        self.network.heal()
        self.run_for(60)
        self.assertIsNone(far.lost)
        self.assertEqual(far.received, b"")
        far.transport.write(b"b")
        self.run_for(1)
        assert far.lost is not None
        self.assertIsNotNone(far.lost.check(ConnectionLost))

    def test_a_close_waits(self) -> None:
        """Who closes in a partition is done at once; its kernel tells the other after it heals."""
        near, far = self.pair()
        self.network.partition([[self.near]])
        near.transport.write(b"bye")
        near.transport.loseConnection()
        self.run_for(1)
        self.assertIsNotNone(near.lost)
        self.network.heal()
        self.run_for(10)
        self.assertEqual(far.received, b"bye")
        assert far.lost is not None
        self.assertIsNotNone(far.lost.check(ConnectionDone))

    def test_a_move(self) -> None:
        """A host with another address is not reached on its old one, nor by old connections."""
        near, far = self.pair()
        old = self.far.address
        self.assertNotEqual(self.far.move(), old)
        far.transport.write(b"a")
        near.transport.write(b"b")
        nobody = Recorders(self.reactor)
        dialled = self.network.of(self.near).connect(old, 7, nobody, 5, None)
        self.run_for(60)
        self.failureResultOf(dialled, TimeoutError)
        self.assertEqual((near.received, far.received), (b"", b""))
        self.network.heal()
        self.listen(port=8)
        again = self.dial(port=8)
        self.run_for(60)
        self.successResultOf(again)
        self.assertEqual((near.received, far.received), (b"", b""))


class CrashTests(WorldCase):
    """What the others see of a process or a machine that dies."""

    def test_kill(self) -> None:
        """A killed process's kernel sends what it has and closes the connection."""
        near, far = self.pair()
        far.transport.write(b"last words")
        self.run_for(0.001)
        self.far.kill()
        self.run_for(0.02)
        self.assertEqual(near.received, b"last words")
        assert near.lost is not None
        self.assertIsNotNone(near.lost.check(ConnectionDone))
        self.assertIsNone(far.lost)

    def test_kill_before_the_turn_is_over(self) -> None:
        """What a killed process had not handed to its kernel is lost."""
        near, far = self.pair()
        far.transport.write(b"never sent")
        self.far.kill()
        self.run_for(1)
        self.assertEqual(near.received, b"")
        self.assertIsNotNone(near.lost)

    def test_kill_with_unread_data(self) -> None:
        """A kernel that closes a socket with unread data resets the connection."""
        near, far = self.pair()
        far.transport.pauseProducing()
        near.transport.write(b"never read")
        self.run_for(0.1)
        self.far.kill()
        self.run_for(0.1)
        assert near.lost is not None
        self.assertIsNotNone(near.lost.check(ConnectionLost))

    def test_kill_refuses(self) -> None:
        """Nobody listens after a kill, until the next process does."""
        self.listen()
        self.far.kill()
        dialled = self.dial()
        self.run_for(1)
        self.failureResultOf(dialled, ConnectionRefusedError)
        self.far.restart(NodeClock(self.reactor))
        self.listen()
        dialled = self.dial()
        self.run_for(1)
        self.successResultOf(dialled)

    def test_killed_while_dialling(self) -> None:
        """A dial of a process that is killed comes to nothing."""
        accepted = self.listen()
        dialled = self.dial()
        self.run_for(0.015)
        self.near.kill()
        self.run_for(10)
        self.assertNoResult(dialled)
        self.assertEqual(accepted.made, [])

    def test_vanish(self) -> None:
        """Nothing is heard of a machine that vanished; after its reboot it resets."""
        near, far = self.pair()
        self.far.vanish()
        near.transport.write(b"a")
        self.run_for(20)
        self.assertIsNone(near.lost or far.lost)
        self.far.restart(NodeClock(self.reactor))
        self.run_for(20)
        assert near.lost is not None
        self.assertIsNotNone(near.lost.check(ConnectionLost))
        self.assertIsNone(far.lost)
        self.assertEqual(far.received, b"")

    def test_vanish_without_traffic(self) -> None:
        """A silent connection to a machine that vanished and came back looks alive until used."""
        near, _ = self.pair()
        self.far.vanish()
        self.run_for(1)
        self.far.restart(NodeClock(self.reactor))
        self.run_for(100)
        self.assertIsNone(near.lost)
        near.transport.write(b"a")
        self.run_for(1)
        self.assertIsNotNone(near.lost)

    def watched(self) -> tuple[Any, Any]:
        """A connection whose ends ask the other kernel whether it is there."""
        near, far = self.pair()
        near.transport.setTcpKeepAlive(True)
        far.transport.setTcpKeepAlive(True)
        return near, far

    def test_keepalive(self) -> None:
        """A silent machine is found by the other's kernel, though nothing is sent."""
        near, far = self.watched()
        self.far.vanish()
        self.run_for(SILENCE)
        self.assertIsNone(near.lost)
        self.run_for(1)
        assert near.lost is not None
        self.assertIsNotNone(near.lost.check(ConnectionLost))
        self.assertIsNone(far.lost)

    def test_keepalive_partition(self) -> None:
        """Both ends find that the path is cut; one that is cut for short is not noticed."""
        near, far = self.watched()
        self.network.partition([[self.far]])
        self.run_for(SILENCE - 1)
        self.network.heal()
        self.run_for(10)
        self.assertIsNone(near.lost or far.lost)
        self.network.partition([[self.far]])
        self.run_for(SILENCE + 1)
        self.assertTrue(near.lost and far.lost)

    def test_keepalive_data(self) -> None:
        """Data that is not acknowledged ends it as soon."""
        near, _ = self.watched()
        self.network.cut(self.near, self.far)
        near.transport.write(b"a")
        self.run_for(SILENCE + 1)
        self.assertIsNotNone(near.lost)

    def test_keepalive_after_reboot(self) -> None:
        """A machine that is back knows nothing of the connection, and says so when it is asked."""
        near, _ = self.watched()
        self.far.vanish()
        self.run_for(1)
        self.far.restart(NodeClock(self.reactor))
        self.run_for(1.1)
        self.assertIsNotNone(near.lost)

    def test_keepalive_of_the_starved(self) -> None:
        """The kernel of a process that gets no CPU answers."""
        near, _ = self.watched()
        self.far.clock.stall(60)
        self.run_for(30)
        self.assertIsNone(near.lost)

    def test_what_a_vanished_machine_had_under_way(self) -> None:
        """What a machine sent just before it vanished is lost with it, also after a reboot."""
        near, far = self.pair()
        self.network.partition([[self.far]])
        far.transport.write(b"a")
        self.run_for(1)
        self.far.vanish()
        self.network.heal()
        self.far.restart(NodeClock(self.reactor))
        self.run_for(100)
        self.assertEqual(near.received, b"")

    def test_stall(self) -> None:
        """The kernel of a process that gets no CPU goes on; the process reads everything later."""
        near, far = self.pair()
        self.far.clock.stall(3)
        begin = self.reactor.now
        dialled = self.dial()
        near.transport.write(b"a")
        self.run_for(1)
        near.transport.write(b"b")
        self.successResultOf(dialled)
        self.run_for(1)
        self.assertEqual(far.received, b"")
        self.run_for(5)
        self.assertEqual(far.chunks, [b"a", b"b"])
        self.assertAlmostEqual(far.times[0] - begin, 3, places=3)


class PathTests(WorldCase):
    """Latency, loss and bandwidth."""

    def test_slow_hosts(self) -> None:
        """A host may be further away than the others."""
        near, far = self.pair()
        self.far.slowness = 0.5
        begin = self.reactor.now
        near.transport.write(b"a")
        self.run_for(1)
        self.assertAlmostEqual(far.times[0] - begin, 0.51)

    def test_bandwidth(self) -> None:
        """An uplink with a bandwidth sends one thing after the other."""
        near, far = self.pair()
        self.network.bandwidth = 1e6
        begin = self.reactor.now
        for _ in range(3):
            near.transport.write(bytes(50_000))
            self.run_for(0)
        self.run_for(1)
        times = [round(time - begin, 6) for time in far.times]
        self.assertEqual(times, [0.06, 0.11, 0.16])

    def test_jitter_does_not_reorder(self) -> None:
        """Whatever the latency of each batch, the bytes come in order."""
        near, far = self.pair()
        self.network.jitter = 0.5
        sent = b""
        for number in range(100):
            near.transport.write(bytes([number]))
            sent += bytes([number])
            self.run_for(0.01)
        self.run_for(1)
        self.assertEqual(far.received, sent)

    def test_loss(self) -> None:
        """Loss costs time, never bytes."""
        near, far = self.pair()
        self.network.loss = 0.3
        begin = self.reactor.now
        for number in range(100):
            near.transport.write(bytes([number]))
            self.run_for(0)
        self.run_for(100)
        self.assertEqual(far.received, bytes(range(100)))
        self.assertGreater(far.times[-1] - begin, 0.2)

    def test_everything_depends_on_the_seed(self) -> None:
        """The same seed gives the same times, another one others."""

        def times(seed: int) -> list[float]:
            draw = random.Random(seed)
            self.reactor = SimReactor(draw)
            self.network = SimNetwork(self.reactor, draw, jitter=0.01, loss=0.1)
            self.near = self.network.add_host(NodeClock(self.reactor))
            self.far = self.network.add_host(NodeClock(self.reactor))
            accepted = self.listen()
            dialled = self.dial(timeout=60)
            self.run_for(30)
            near = self.successResultOf(dialled)
            for _ in range(50):
                near.transport.write(b"a")
                self.run_for(0.01)
            self.run_for(60)
            return accepted.made[0].times

        self.assertEqual(times(3), times(3))
        self.assertNotEqual(times(3), times(4))
