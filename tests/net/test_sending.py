"""What is short leaves at once, over TCP of the kernel."""

from __future__ import annotations

import socket
from typing import Any, cast

from twisted.internet.error import ConnectionDone
from twisted.internet.main import CONNECTION_LOST
from twisted.internet.tcp import Server
from twisted.internet.testing import MemoryReactorClock
from twisted.python.failure import Failure

from bzzz.net import link as link_module
from bzzz.wire.connection_events import StreamData
from bzzz.wire.limits import INITIAL_WINDOW
from tests.net import test_turns
from tests.net.swarms import Wire
from tests.net.test_turns import ECHO, LinkCase


class KernelWire(Wire):
    """One that hands what it is given to a kernel.

    :ivar written: what the kernel has taken.
    :ivar kept: what it has not.
    :ivar handed: the lengths that it has taken at one time.
    :ivar takes: bytes that it takes at one time.
    """

    def __init__(self) -> None:
        super().__init__()
        self.kept: list[bytes] = []
        self.dataBuffer = b""
        self.disconnecting = False
        self.handed: list[int] = []
        self.takes = 1 << 20
        self.error: Exception | None = None

    def writeSequence(self, data: list[bytes]) -> None:
        self.kept += data

    def write(self, data: bytes) -> None:
        self.kept.append(data)

    def writeSomeData(self, data: bytes) -> int | Exception:
        if self.error is not None:
            return self.error
        taken = bytes(data[: self.takes])
        self.written.append(taken)
        self.handed.append(len(taken))
        return len(taken)

    def doWrite(self) -> Exception | None:
        self.dataBuffer += b"".join(self.kept)
        self.kept.clear()
        taken = self.writeSomeData(self.dataBuffer)
        if isinstance(taken, Exception):
            return taken
        self.dataBuffer = self.dataBuffer[taken:]
        return None


class SendingTests(LinkCase):
    """One link, whose peer is a bare core."""

    wire: KernelWire

    def setUp(self) -> None:
        self.patch(link_module, "TcpConnection", KernelWire)
        self.patch(test_turns, "Wire", KernelWire)
        super().setUp()
        self.peer.open_stream([ECHO])
        self.link.dataReceived(self.peer.data_to_send())
        self.told()
        self.wire.handed.clear()
        (stream,) = self.link._streams.values()
        self.stream: Any = stream

    def told(self) -> bytes:
        """What the peer has got on the stream until now."""
        events = self.peer.receive_data(self.answer())
        return b"".join(event.data for event in events if isinstance(event, StreamData))

    def test_short(self) -> None:
        """It is handed over in the call that sends it, and the reactor is asked for nothing."""
        self.stream.write(b"an answer")
        self.assertEqual(len(self.wire.handed), 1)
        self.assertGreater(self.wire.handed[0], len(b"an answer"))
        self.assertEqual(self.wire.kept, [])

    def test_once_for_a_read(self) -> None:
        """What a read has this side say is handed over together."""
        self.send(*(self.opening() for _ in range(5)))
        self.assertEqual(len(self.wire.handed), 1)

    def test_goodbye(self) -> None:
        """So is the goodbye, before the half is closed that writes."""
        self.link.close("a test")
        self.assertEqual(len(self.wire.handed), 1)
        self.assertTrue(self.wire.half_closed)

    def test_long(self) -> None:
        """What is long is left to the reactor."""
        self.stream.write(bytes(link_module.SHORT))
        self.assertGreater(sum(map(len, self.wire.kept)), link_module.SHORT)
        self.assertEqual(self.wire.handed, [])

    def test_behind_what_is_long(self) -> None:
        """What is short leaves with it, and after it."""
        self.stream.write(bytes(link_module.SHORT))
        self.stream.write(b"an answer")
        self.assertEqual(len(self.wire.handed), 1)
        self.assertTrue(self.told().endswith(b"\0an answer"))

    def test_some_taken(self) -> None:
        """The rest is left to the reactor, and what comes then goes behind it."""
        self.wire.takes = 10
        self.stream.write(b"an answer")
        self.assertEqual(self.wire.handed, [10])
        self.stream.write(b", and another")
        self.assertEqual(self.wire.handed, [10, 10])
        self.stream.write(b", and a third")
        # Nothing more is tried where the kernel has not taken all before.
        self.assertEqual(self.wire.handed, [10, 10])
        self.wire.takes = 1 << 20
        self.wire.doWrite()
        self.assertEqual(self.told(), b"an answer, and another, and a third")

    def test_at_once_again(self) -> None:
        """When the reactor has sent the rest, the next is handed over as before."""
        self.wire.takes = 10
        self.stream.write(b"an answer")
        self.wire.takes = 1 << 20
        self.wire.doWrite()
        self.stream.write(b", and another")
        self.wire.handed.clear()
        self.stream.write(b", and a third")
        self.assertEqual(len(self.wire.handed), 1)
        self.assertEqual(self.wire.kept, [])
        self.assertEqual(self.told(), b"an answer, and another, and a third")

    def test_congested(self) -> None:
        """Also the goodbye of a link that is congested: the reactor says when it is not."""
        self.link.pauseProducing()
        self.link.close("a test")
        self.assertNotEqual(self.wire.kept, [])
        self.assertEqual(self.wire.handed, [])

    def test_being_closed(self) -> None:
        """Likewise where the transport ends when it has sent what it has."""
        self.wire.disconnecting = True
        self.stream.write(b"an answer")
        self.assertNotEqual(self.wire.kept, [])
        self.assertEqual(self.wire.handed, [])

    def test_failed(self) -> None:
        """A failure that was told then is the link's, though TCP seems to end in order after it.
        The transport has what could not be sent: so the reactor finds out."""
        self.wire.error = CONNECTION_LOST
        self.stream.write(b"an answer")
        self.assertNotEqual(self.wire.kept, [])
        self.assertEqual(self.owner.closed, [])
        self.link.connectionLost(Failure(ConnectionDone()))
        self.assertEqual(self.owner.closed, ["connection lost"])

    def test_failed_behind(self) -> None:
        """The same where something was left to the reactor before."""
        self.stream.write(bytes(link_module.SHORT))
        self.wire.error = CONNECTION_LOST
        self.stream.write(b"an answer")
        self.link.connectionLost(Failure(ConnectionDone()))
        self.assertEqual(self.owner.closed, ["connection lost"])

    def test_failed_after_a_goodbye(self) -> None:
        """What the peer had said before is read yet."""
        self.wire.error = CONNECTION_LOST
        self.stream.write(b"an answer")
        self.peer.go_away()
        self.link.dataReceived(self.peer.data_to_send())
        self.link.connectionLost(Failure(ConnectionDone()))
        self.assertEqual(self.owner.closed, ["the peer closed it"])


class TcpWire(Server):
    """A transport of Twisted, of which the test is the reactor, and the other end."""

    def __init__(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.far = socket.create_connection(listener.getsockname())
            near, client = listener.accept()
        near.setblocking(False)
        self.far.setblocking(False)
        reactor: Any = MemoryReactorClock()
        super().__init__(near, cast("Any", None), client, cast("Any", None), 1, reactor)

    def turn(self) -> bytes:
        """What has come to the other end when the reactor has asked for it once."""
        if self in self.reactor.getWriters():
            self.doWrite()
        came = []
        try:
            while data := self.far.recv(1 << 20):
                came.append(data)
        except BlockingIOError:
            pass
        return b"".join(came)


class Eager:
    """A producer that has something to say once it is asked to go on."""

    def __init__(self, stream: Any) -> None:
        self.stream = stream
        self.data = b""

    def pauseProducing(self) -> None:
        pass

    def resumeProducing(self) -> None:
        data, self.data = self.data, b""
        self.stream.write(data)

    def stopProducing(self) -> None:
        pass


class TcpTests(LinkCase):
    """A link on TCP, without a reactor."""

    wire: Any

    def setUp(self) -> None:
        self.patch(test_turns, "Wire", TcpWire)
        super().setUp()
        self.addCleanup(self.wire.far.close)
        self.addCleanup(self.wire.socket.close)
        self.peer.open_stream([ECHO])
        self.link.dataReceived(self.peer.data_to_send())
        self.told()
        (stream,) = self.link._streams.values()
        self.stream: Any = stream

    def answer(self) -> bytes:
        return bytes(self.wire.turn())

    def told(self) -> bytes:
        """What the peer has got on the stream until now."""
        events = self.peer.receive_data(self.answer())
        return b"".join(event.data for event in events if isinstance(event, StreamData))

    def test_sent(self) -> None:
        """The reactor has nothing to do for it."""
        self.stream.write(b"an answer")
        self.assertNotIn(self.wire, self.wire.reactor.getWriters())
        self.assertEqual(self.told(), b"an answer")

    def test_aborted(self) -> None:
        """Nothing is sent on a link that was aborted, be it in the same turn."""
        self.link.abort("a test")
        self.stream.write(b"an answer")
        self.assertEqual(self.told(), b"")

    def test_aborted_with_something_left(self) -> None:
        """Nor where something was left to the reactor, without which the peer could not read it."""
        self.stream.write(bytes(link_module.SHORT))
        self.link.abort("a test")
        for _ in range(3):
            self.stream.write(b"an answer")
        self.assertEqual(self.told(), b"")

    def test_congested_by_what_is_short(self) -> None:
        """What fills the transport is left to the reactor. Else a producer would go on at once, and
        its data come before what the window had no room for."""
        self.stream.registerProducer(producer := Eager(self.stream), True)
        parts = [bytes([number]) * 62_000 for number in range(4)]
        got = b""
        for part in parts[:3]:
            self.stream.write(part)
            got += self.told()
        self.stream.write(parts[3])
        self.assertFalse(self.link.congested)
        # The window has room for some of it.
        last = b"y" * (INITIAL_WINDOW - 4 * 62_000 + 5_000)
        producer.data = b"z"
        self.stream.write(last)
        got += self.told()
        self.peer.consumed(1, len(got))
        self.link.dataReceived(self.peer.data_to_send())
        got += self.told()
        self.assertEqual(got, b"".join([*parts, last, b"z"]))


class SimulatedTests(LinkCase):
    """A transport that is not the kernel's."""

    def test_left_alone(self) -> None:
        """It is written to, and nothing else."""
        calls: list[str] = []
        wire: Any = self.wire
        wire.doWrite = lambda: calls.append("doWrite")
        wire.writeSomeData = lambda data: calls.append("writeSomeData")
        wire.dataBuffer = b""
        self.send(self.opening(b"a question"))
        self.assertNotEqual(self.answer(), b"")
        self.assertEqual(calls, [])
