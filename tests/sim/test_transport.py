"""What protocols may expect of a transport of Twisted's TCP, and have of the simulator's."""

from __future__ import annotations

from typing import Any

from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.interfaces import (
    IConsumer,
    IHalfCloseableProtocol,
    IPushProducer,
    ITCPTransport,
)
from zope.interface import implementer
from zope.interface.verify import verifyObject

from bzzz.identity.keys import PrivateKey
from bzzz.testing.pipe import BUFFER, KERNEL
from bzzz.wire.connection import Connection, LinkReady, StreamData, StreamNegotiated
from tests.sim.worlds import Recorder, WorldCase


class Producer:
    """Notes what it is asked for."""

    def __init__(self, transport: Any = None, rest: int = 0) -> None:
        self.asked: list[str] = []
        self.transport = transport
        self.rest = rest

    def resumeProducing(self) -> None:
        self.asked.append("resume")
        if self.rest:
            self.rest -= 1
            self.transport.write(bytes(BUFFER))
        elif self.transport is not None:
            self.transport.unregisterProducer()

    def pauseProducing(self) -> None:
        self.asked.append("pause")

    def stopProducing(self) -> None:
        self.asked.append("stop")


class WriteTests(WorldCase):
    """write() and dataReceived()."""

    def test_interfaces(self) -> None:
        """It is a TCP transport, a consumer and a producer."""
        near, _ = self.pair()
        for interface in (ITCPTransport, IConsumer, IPushProducer):
            verifyObject(interface, near.transport)

    def test_one_turn_is_one_batch(self) -> None:
        """What is written in one turn of the reactor is delivered at once, after the latency."""
        near, far = self.pair()
        begin = self.reactor.now
        near.transport.write(b"a")
        near.transport.writeSequence([b"b", b"", b"c"])
        self.run_for(0.005)
        near.transport.write(b"d")
        self.run_for(1)
        self.assertEqual(far.chunks, [b"abc", b"d"])
        self.assertAlmostEqual(far.times[0] - begin, 0.01)

    def test_nothing_is_delivered_in_a_write(self) -> None:
        """A protocol that answers is never called from inside the other's write."""

        class Echo(Recorder):
            def dataReceived(self, data: bytes) -> None:
                self.transport.write(data)
                super().dataReceived(data)

        near, far = self.pair(far=Echo)
        near.transport.write(b"a")
        self.assertEqual((near.chunks, far.chunks), ([], []))
        self.run_for(1)
        self.assertEqual((near.chunks, far.chunks), ([b"a"], [b"a"]))

    def test_both_ways_at_once(self) -> None:
        """The two directions do not wait for each other."""
        near, far = self.pair()
        near.transport.write(b"a")
        far.transport.write(b"b")
        self.run_for(0.011)
        self.assertEqual((near.received, far.received), (b"b", b"a"))

    def test_text_is_refused(self) -> None:
        """Text is no data."""
        near, _ = self.pair()
        self.assertRaises(TypeError, near.transport.write, "a")

    def test_views(self) -> None:
        """A view of a buffer that is used again afterwards was sent as it was."""
        near, far = self.pair()
        near.transport.writeSequence([memoryview(b"abc")[1:], b"d"])
        self.run_for(1)
        self.assertEqual(far.chunks, [b"bcd"])
        self.assertIs(type(far.chunks[0]), bytes)

    def test_large_batches_come_in_pieces(self) -> None:
        """No more than 64 KiB is delivered in one call."""
        near, far = self.pair()
        data = bytes(range(256)) * 1000
        near.transport.write(data)
        self.run_for(1)
        self.assertEqual(far.received, data)
        self.assertEqual(max(map(len, far.chunks)), BUFFER)

    def test_a_protocol_that_raises_is_disconnected(self) -> None:
        """An exception in dataReceived is logged and ends the connection with that reason."""

        class Wrong(Recorder):
            def dataReceived(self, data: bytes) -> None:
                raise ZeroDivisionError

        near, far = self.pair(far=Wrong)
        near.transport.write(b"a")
        self.run_for(1)
        assert far.lost is not None and near.lost is not None
        self.assertIsNotNone(far.lost.check(ZeroDivisionError))
        self.assertIsNotNone(near.lost.check(ConnectionDone))
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_options(self) -> None:
        """Socket options are remembered and change nothing."""
        transport = self.pair()[0].transport
        transport.setTcpNoDelay(True)
        transport.setTcpKeepAlive(True)
        self.assertTrue(transport.getTcpNoDelay() and transport.getTcpKeepAlive())


class CloseTests(WorldCase):
    """The ends of a connection."""

    def test_lose_connection(self) -> None:
        """Everything written arrives; then both ends are closed cleanly, this one first."""
        near, far = self.pair()
        near.transport.write(b"bye")
        near.transport.loseConnection()
        self.assertIsNone(near.lost)
        self.run_for(0.001)
        assert near.lost is not None
        self.assertIsNotNone(near.lost.check(ConnectionDone))
        self.assertIsNone(far.lost)
        self.run_for(0.1)
        self.assertEqual(far.received, b"bye")
        assert far.lost is not None
        self.assertIsNotNone(far.lost.check(ConnectionDone))

    def test_nothing_is_read_after_lose_connection(self) -> None:
        """What comes after loseConnection is not delivered, and costs the other its connection."""
        near, far = self.pair()
        far.transport.write(b"late")
        near.transport.loseConnection()
        self.run_for(1)
        self.assertEqual(near.received, b"")
        self.assertIsNotNone(far.lost)

    def test_nothing_is_written_after_the_end(self) -> None:
        """A write after the end does nothing."""
        near, far = self.pair()
        near.transport.loseConnection()
        self.run_for(1)
        near.transport.write(b"a")
        near.transport.loseConnection()
        near.transport.abortConnection()
        near.transport.resumeProducing()
        self.run_for(1)
        self.assertEqual(far.received, b"")

    def test_data_to_a_closed_end(self) -> None:
        """Data for an end that is closed is answered with a reset."""
        near, far = self.pair()
        near.transport.loseConnection()
        self.run_for(0.001)
        far.transport.write(b"a")
        self.run_for(0.005)
        self.assertIsNone(far.lost)
        self.run_for(1)
        self.assertIsNotNone(far.lost)

    def test_abort(self) -> None:
        """An aborted connection is over in the next turn, and not clean at either end."""
        near, far = self.pair()
        near.transport.abortConnection()
        self.assertIsNone(near.lost)
        self.run_for(1)
        assert near.lost is not None and far.lost is not None
        self.assertIsNotNone(near.lost.check(ConnectionAborted))
        self.assertIsNotNone(far.lost.check(ConnectionLost))

    def test_abort_after_lose(self) -> None:
        """A close that does not end can be cut short."""
        near, far = self.pair()
        far.transport.pauseProducing()
        near.transport.write(bytes(2 * KERNEL))
        near.transport.loseConnection()
        self.run_for(10)
        self.assertIsNone(near.lost)
        near.transport.abortConnection()
        self.run_for(1)
        assert near.lost is not None
        self.assertIsNotNone(near.lost.check(ConnectionAborted))
        self.assertIsNotNone(far.lost)

    def test_a_close_waits_for_the_producer(self) -> None:
        """loseConnection waits until the producer is unregistered."""
        near, _ = self.pair()
        near.transport.registerProducer(Producer(), True)
        near.transport.loseConnection()
        self.run_for(1)
        self.assertIsNone(near.lost)
        near.transport.unregisterProducer()
        self.run_for(1)
        self.assertIsNotNone(near.lost)

    def test_both_close(self) -> None:
        """Closes that cross each other are both clean."""
        near, far = self.pair()
        near.transport.loseConnection()
        far.transport.loseConnection()
        self.run_for(1)
        assert near.lost is not None and far.lost is not None
        self.assertIsNotNone(near.lost.check(ConnectionDone))
        self.assertIsNotNone(far.lost.check(ConnectionDone))
        self.assertEqual((self.near.transports, self.far.transports), ({}, {}))

    def test_half_close(self) -> None:
        """A protocol that asks for it learns of each half's end, and may go on with the other."""

        halves: list[tuple[Recorder, str]] = []

        @implementer(IHalfCloseableProtocol)
        class Half(Recorder):
            def readConnectionLost(self) -> None:
                halves.append((self, "read"))

            def writeConnectionLost(self) -> None:
                halves.append((self, "write"))

        near, far = self.pair(near=Half, far=Half)
        near.transport.write(b"question")
        near.transport.loseWriteConnection()
        self.run_for(1)
        self.assertEqual(halves, [(near, "write"), (far, "read")])
        far.transport.write(b"answer")
        far.transport.loseConnection()
        self.run_for(1)
        self.assertEqual((far.received, near.received), (b"question", b"answer"))
        self.assertIsNotNone(near.lost and far.lost)


class BackpressureTests(WorldCase):
    """Producers."""

    def test_a_receiver_that_does_not_read(self) -> None:
        """What a receiver does not read stays with the sender, whose producer is paused."""
        near, far = self.pair()
        producer = Producer()
        near.transport.registerProducer(producer, True)
        far.transport.pauseProducing()
        for _ in range(6):
            near.transport.write(bytes(BUFFER))
            self.run_for(0.1)
        self.assertEqual((producer.asked, far.received), (["pause"], b""))
        far.transport.resumeProducing()
        self.assertEqual(far.received, b"")
        self.run_for(1)
        self.assertEqual((producer.asked, len(far.received)), (["pause", "resume"], 6 * BUFFER))

    def test_a_large_write_pauses(self) -> None:
        """A producer that writes more than Twisted's buffer is paused at once, inside write."""
        near, _ = self.pair()
        producer = Producer()
        near.transport.registerProducer(producer, True)
        near.transport.write(bytes(BUFFER))
        self.assertEqual(producer.asked, [])
        near.transport.write(b"a")
        self.assertEqual(producer.asked, ["pause"])
        self.run_for(0)
        self.assertEqual(producer.asked, ["pause", "resume"])

    def test_pull_producer(self) -> None:
        """A pull producer is asked again whenever everything is with the kernel."""
        near, far = self.pair()
        producer = Producer(near.transport, 20)
        near.transport.registerProducer(producer, False)
        self.run_for(5)
        self.assertEqual(len(far.received), 20 * BUFFER)
        self.assertEqual(producer.asked, ["resume"] * 21)

    def test_only_one_producer(self) -> None:
        """A second producer is a mistake of the caller's."""
        near, _ = self.pair()
        near.transport.registerProducer(Producer(), True)
        self.assertRaises(RuntimeError, near.transport.registerProducer, Producer(), True)

    def test_a_producer_is_stopped(self) -> None:
        """The producer of a connection that is lost is stopped, before the protocol hears of it;
        one that comes too late at once."""
        near, far = self.pair()
        producer, late = Producer(), Producer()
        near.transport.registerProducer(producer, True)
        far.transport.abortConnection()
        self.run_for(1)
        near.transport.registerProducer(late, True)
        self.assertEqual((producer.asked, late.asked), (["stop"], ["stop"]))

    def test_a_paused_end_does_not_see_the_other_close(self) -> None:
        """The end of the data is behind the data; a reset is not."""
        near, far = self.pair()
        far.transport.pauseProducing()
        near.transport.write(b"a")
        near.transport.loseConnection()
        self.run_for(1)
        self.assertIsNone(far.lost)
        far.transport.resumeProducing()
        self.run_for(1)
        self.assertEqual(far.received, b"a")
        self.assertIsNotNone(far.lost)

    def test_a_paused_end_sees_a_reset(self) -> None:
        """A reset ends a connection that is not read, and what waited is thrown away."""
        near, far = self.pair()
        far.transport.pauseProducing()
        near.transport.write(b"a")
        self.run_for(1)
        near.transport.abortConnection()
        self.run_for(1)
        self.assertEqual(far.received, b"")
        self.assertIsNotNone(far.lost)

    def test_pausing_in_data_received(self) -> None:
        """A protocol that pauses itself in dataReceived gets the rest when it resumes."""

        class Pausing(Recorder):
            def dataReceived(self, data: bytes) -> None:
                super().dataReceived(data)
                self.transport.pauseProducing()

        near, far = self.pair(far=Pausing)
        data = bytes(range(256)) * 1000
        near.transport.write(data)
        self.run_for(1)
        self.assertEqual(len(far.received), BUFFER)
        for _ in range(4):
            far.transport.resumeProducing()
            self.run_for(1)
        self.assertEqual(far.received, data)

    def test_memory_is_bounded_by_the_producer(self) -> None:
        """A producer that heeds its pauses has a bounded amount under way."""
        near, far = self.pair()
        far.transport.pauseProducing()

        class Heeding(Producer):
            paused = False

            def pauseProducing(self) -> None:
                self.paused = True

        producer = Heeding()
        near.transport.registerProducer(producer, True)
        written = 0
        while not producer.paused:
            near.transport.write(bytes(10_000))
            written += 10_000
            self.run_for(0.1)
        self.assertLess(written, KERNEL + 2 * BUFFER)


class CoreTests(WorldCase):
    """The daemon's own protocol core on it."""

    def test_connection_pair(self) -> None:
        """Two cores agree on everything and exchange data on a stream."""
        events: dict[bool, list[object]] = {True: [], False: []}

        class Core(Recorder):
            initiator = False

            def connectionMade(self) -> None:
                self.core = Connection(
                    self.initiator,
                    PrivateKey(bytes([7 + self.initiator]) * 32),
                    random_bytes=bytes,
                    protocols=["/echo"].__contains__,
                    security="plaintext",
                )
                self.core.start()
                self.transport.writeSequence(self.core.take_output())

            def dataReceived(self, data: bytes) -> None:
                for event in self.core.receive_data(data):
                    events[self.initiator].append(event)
                    if isinstance(event, LinkReady) and self.initiator:
                        self.stream = self.core.open_stream(["/echo"])
                        self.core.send_data(self.stream, b"hello")
                self.transport.writeSequence(self.core.take_output())

        class Initiating(Core):
            initiator = True

        self.pair(near=Initiating, far=Core)
        self.run_for(1)
        heard = events[False]
        self.assertTrue(any(isinstance(event, StreamNegotiated) for event in heard))
        data = b"".join(bytes(event.data) for event in heard if isinstance(event, StreamData))
        self.assertEqual(data, b"hello")
