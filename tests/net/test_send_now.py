"""What a transport holds is given to the kernel at once, where nothing but the time changes."""

from __future__ import annotations

from typing import Any

from twisted.internet.abstract import FileDescriptor
from twisted.internet.main import CONNECTION_LOST
from twisted.internet.testing import MemoryReactor, StringTransport
from twisted.trial.unittest import SynchronousTestCase

from bzzz.net.sending import send_now


class Descriptor(FileDescriptor):
    """A transport whose kernel takes so much at one time.

    :ivar taken: what it has.
    """

    def __init__(self) -> None:
        reactor: Any = MemoryReactor()
        super().__init__(reactor)
        self.connected = True
        self.taken: list[bytes] = []
        self.takes = 1 << 20
        self.error: Exception | None = None

    def writeSomeData(self, data: bytes) -> int | Exception:
        if self.error is not None:
            return self.error
        self.taken.append(bytes(data[: self.takes]))
        return len(self.taken[-1])

    @property
    def wants_to_write(self) -> bool:
        return self in self.reactor.getWriters()


class SendNowTests(SynchronousTestCase):
    """One transport."""

    def setUp(self) -> None:
        self.transport = Descriptor()

    def test_all(self) -> None:
        """The reactor has nothing left to do."""
        self.transport.writeSequence([b"one ", b"two"])
        self.assertTrue(self.transport.wants_to_write)
        self.assertTrue(send_now(self.transport))
        self.assertEqual(self.transport.taken, [b"one two"])
        self.assertFalse(self.transport.wants_to_write)

    def test_some(self) -> None:
        """The rest is left to the reactor, and what comes behind it."""
        self.transport.takes = 4
        self.transport.write(b"one two")
        self.assertTrue(send_now(self.transport))
        self.transport.write(b" three")
        self.assertTrue(send_now(self.transport))
        self.assertEqual(self.transport.taken, [b"one "])
        self.assertTrue(self.transport.wants_to_write)
        self.transport.takes = 1 << 20
        self.transport.doWrite()
        self.assertEqual(b"".join(self.transport.taken), b"one two three")

    def test_failed(self) -> None:
        """A failure is told, and found again by the reactor."""
        self.transport.error = CONNECTION_LOST
        self.transport.write(b"one")
        self.assertFalse(send_now(self.transport))
        self.assertTrue(self.transport.wants_to_write)

    def test_being_closed(self) -> None:
        """One that ends when it has sent all is left alone: its end is the reactor's to tell."""
        self.transport.write(b"one")
        self.transport.loseConnection()
        self.assertTrue(send_now(self.transport))
        self.assertEqual(self.transport.taken, [])
        self.assertTrue(self.transport.wants_to_write)

    def test_producer_waits(self) -> None:
        """So is one whose producer waits, which would go on within the call."""
        self.transport.write(b"one")
        self.transport.producerPaused = True
        self.assertTrue(send_now(self.transport))
        self.assertEqual(self.transport.taken, [])

    def test_another_kind(self) -> None:
        """What is no transport of the kernel sends by itself."""
        transport = StringTransport()
        transport.write(b"one")
        self.assertTrue(send_now(transport))
