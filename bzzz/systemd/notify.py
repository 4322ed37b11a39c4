"""Notifications to the service manager: datagrams of ``NAME=value`` lines to ``NOTIFY_SOCKET``.

Enters: what there is to say. Leaves: a datagram, or a warning, once, that it could not be sent.
Never blocks. Spec: :manpage:`sd_notify(3)`.
"""

from __future__ import annotations

import socket
from collections.abc import Callable

from twisted.logger import Logger

__all__ = ["Notifier", "send_datagram"]

# Characters of a STATUS. systemd shows one line and cuts what is longer than a terminal.
MAX_STATUS = 200


def send_datagram(path: str, data: bytes) -> None:
    """Send one datagram to a UNIX socket without waiting.

    :raises OSError: it cannot be sent now.
    """
    # A name in the abstract namespace begins with a zero byte, which a variable cannot have.
    address = f"\0{path[1:]}" if path.startswith("@") else path
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
        sender.setblocking(False)
        sender.connect(address)
        sender.send(data)


class Notifier:
    """Tells the service manager how this node is.

    :ivar path: the value of ``NOTIFY_SOCKET``; with an empty one nothing is sent.
    :param monotonic: seconds of CLOCK_MONOTONIC.
    """

    _log = Logger()

    def __init__(
        self,
        path: str,
        monotonic: Callable[[], float],
        send: Callable[[str, bytes], None] = send_datagram,
    ) -> None:
        self.path = path
        self._monotonic = monotonic
        self._send = send
        self._failed = False

    def ready(self) -> None:
        """The node takes part in the mesh; or a reload has ended."""
        self._notify("READY=1")

    def reloading(self) -> None:
        """A reload has begun."""
        self._notify("RELOADING=1", f"MONOTONIC_USEC={int(self._monotonic() * 1e6)}")

    def stopping(self) -> None:
        """The node leaves the mesh."""
        self._notify("STOPPING=1")

    def status(self, text: str) -> bool:
        """A line for people, shown by ``systemctl status``. Returns whether it was taken."""
        return self._notify(f"STATUS={' '.join(text.split())[:MAX_STATUS]}")

    def alive(self) -> None:
        """Feed the watchdog."""
        self._notify("WATCHDOG=1")

    def extend_timeout(self, seconds: float) -> None:
        """Starting, reloading or stopping goes on, for so much longer from now."""
        self._notify(f"EXTEND_TIMEOUT_USEC={int(seconds * 1e6)}")

    def _notify(self, *lines: str) -> bool:
        if not self.path:
            return True
        try:
            self._send(self.path, "\n".join(lines).encode())
        except OSError as error:
            if not self._failed:
                self._failed = True
                self._log.warn(
                    "systemd cannot be told {what}: {path}: {reason}. The node runs on, unless"
                    " its watchdog ends it",
                    what=lines[0],
                    path=self.path,
                    reason=error.strerror or error,
                )
            return False
        self._failed = False
        return True
