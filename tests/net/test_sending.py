"""What is short leaves at once, over TCP of the kernel."""

from __future__ import annotations

from typing import Any

from twisted.internet.error import ConnectionDone
from twisted.internet.main import CONNECTION_LOST
from twisted.python.failure import Failure

from bzzz.net import link as link_module
from tests.net import test_turns
from tests.net.swarms import Wire
from tests.net.test_turns import LinkCase


class KernelWire(Wire):
    """One whose kernel takes what the transport hands to it."""

    def __init__(self) -> None:
        super().__init__()
        self.dataBuffer = b""
        self.handed: list[int] = []
        self.error: Exception | None = None

    def doWrite(self) -> Exception | None:
        self.handed.append(len(b"".join(self.written)))
        return self.error


class SendingTests(LinkCase):
    """One link, whose peer is a bare core."""

    wire: KernelWire

    def setUp(self) -> None:
        self.patch(link_module, "TcpConnection", KernelWire)
        self.patch(test_turns, "Wire", KernelWire)
        super().setUp()
        self.send(self.opening(b"a question"))
        self.answer()
        self.wire.handed.clear()
        (stream,) = self.link._streams.values()
        self.stream: Any = stream

    def test_short(self) -> None:
        """It is handed over in the call that sends it."""
        self.stream.write(b"an answer")
        self.assertEqual(len(self.wire.handed), 1)
        self.assertGreater(self.wire.handed[0], len(b"an answer"))

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
        self.assertGreater(sum(map(len, self.wire.written)), link_module.SHORT)
        self.assertEqual(self.wire.handed, [])

    def test_some_waits(self) -> None:
        """So is what comes when the kernel has not taken all that was before."""
        self.wire.dataBuffer = b"x"
        self.stream.write(b"an answer")
        self.assertEqual(self.wire.handed, [])

    def test_congested(self) -> None:
        """Also the goodbye of a link that is congested: the reactor says when it is not."""
        self.link.pauseProducing()
        self.link.close("a test")
        self.assertNotEqual(self.answer(), b"")
        self.assertEqual(self.wire.handed, [])

    def test_failed(self) -> None:
        """A failure that was told then is the link's, though TCP seems to end in order after it."""
        self.wire.error = CONNECTION_LOST
        self.stream.write(b"an answer")
        self.assertEqual(self.owner.closed, [])
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


class SimulatedTests(LinkCase):
    """A transport that is not the kernel's."""

    def test_left_alone(self) -> None:
        """It is written to, and nothing else."""
        calls: list[str] = []
        wire: Any = self.wire
        wire.doWrite = lambda: calls.append("doWrite")
        wire.dataBuffer = b""
        self.send(self.opening(b"a question"))
        self.assertNotEqual(self.answer(), b"")
        self.assertEqual(calls, [])
