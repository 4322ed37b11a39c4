"""Notifications to systemd."""

from __future__ import annotations

import errno
import os
import socket

from twisted.logger import LogLevel
from twisted.trial.unittest import SynchronousTestCase

from bzzz.systemd.notify import MAX_STATUS, Notifier, send_datagram
from tests.logs import lines_at


class NotifierTests(SynchronousTestCase):
    """What is sent, and what becomes of it when it cannot be."""

    def setUp(self) -> None:
        self.sent: list[tuple[str, bytes]] = []
        self.error: OSError | None = None

    def notifier(self, path: str = "/run/notify") -> Notifier:
        return Notifier(path, lambda: 12.5, self.send)

    def send(self, path: str, data: bytes) -> None:
        if self.error is not None:
            raise self.error
        self.sent.append((path, data))

    def test_messages(self) -> None:
        """Each has the name and the form of sd_notify(3)."""
        notifier = self.notifier()
        notifier.ready()
        notifier.reloading()
        notifier.stopping()
        notifier.alive()
        notifier.extend_timeout(15)
        notifier.status("walnut: 2 peers")
        self.assertEqual(
            [data for _, data in self.sent],
            [
                b"READY=1",
                b"RELOADING=1\nMONOTONIC_USEC=12500000",
                b"STOPPING=1",
                b"WATCHDOG=1",
                b"EXTEND_TIMEOUT_USEC=15000000",
                b"STATUS=walnut: 2 peers",
            ],
        )
        self.assertEqual({path for path, _ in self.sent}, {"/run/notify"})

    def test_status_is_one_line(self) -> None:
        """Nothing in a status can be taken for another message, and it has an end."""
        self.notifier().status("a\nREADY=1" + "b" * 1000)
        ((_, data),) = self.sent
        self.assertTrue(data.startswith(b"STATUS=a READY=1bbb"))
        self.assertEqual(len(data), len("STATUS=") + MAX_STATUS)

    def test_nobody_to_tell(self) -> None:
        """Without a socket nothing is sent."""
        self.notifier("").ready()
        self.assertEqual(self.sent, [])

    def test_said_once(self) -> None:
        """A socket that takes nothing is said once, and again after it worked in between."""
        warnings = lines_at(self, LogLevel.warn)
        notifier = self.notifier()
        self.error = OSError(errno.ECONNREFUSED, "Connection refused")
        notifier.alive()
        notifier.alive()
        self.assertEqual(len(warnings), 1)
        self.assertIn("told WATCHDOG=1: /run/notify: Connection refused", warnings[0])
        self.error = None
        notifier.alive()
        self.error = OSError(errno.EAGAIN, "Try again")
        notifier.alive()
        self.assertEqual(len(warnings), 2)


class SendTests(SynchronousTestCase):
    """send_datagram(), with sockets of the kernel: what else could show that they take it."""

    def receiver(self, address: str) -> socket.socket:
        made = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.addCleanup(made.close)
        made.bind(address)
        made.setblocking(False)
        return made

    def test_path_and_abstract(self) -> None:
        """Both kinds of addresses that systemd uses are reached."""
        path = os.path.abspath(self.mktemp())
        short = f"/proc/self/cwd/{os.path.relpath(path)}"
        receiver = self.receiver(short)
        send_datagram(short, b"READY=1")
        self.assertEqual(receiver.recv(100), b"READY=1")
        name = f"bzzz-test-{os.getpid()}"
        receiver = self.receiver(f"\0{name}")
        send_datagram(f"@{name}", b"READY=1")
        self.assertEqual(receiver.recv(100), b"READY=1")

    def test_never_waits(self) -> None:
        """A socket whose buffer is full is an error, not a wait."""
        name = f"bzzz-test-full-{os.getpid()}"
        self.receiver(f"\0{name}")
        with self.assertRaises(BlockingIOError):
            for _ in range(100_000):
                send_datagram(f"@{name}", b"WATCHDOG=1")

    def test_nobody_there(self) -> None:
        """A socket that is gone is an error."""
        self.assertRaises(OSError, send_datagram, "/nonexistent/notify", b"READY=1")
