"""The kernel's watch over a connection."""

from __future__ import annotations

import socket
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from bzzz.net import keepalive


class Transport:
    """Says what was set."""

    def __init__(self, handle: Any) -> None:
        self.keep_alive = False
        self.options: dict[int, int] = {}
        self._handle = handle

    def setTcpKeepAlive(self, enabled: bool) -> None:
        self.keep_alive = enabled

    def getHandle(self) -> Any:
        return self._handle


class WatchTests(SynchronousTestCase):
    def test_options(self) -> None:
        """The kernel takes the options of a TCP socket, and three probes may be lost."""
        with socket.socket() as handle:
            transport = Transport(handle)
            keepalive.watch(transport)
            self.assertTrue(transport.keep_alive)
            self.assertEqual(
                [
                    handle.getsockopt(socket.IPPROTO_TCP, option)
                    for option in (
                        socket.TCP_KEEPIDLE,
                        socket.TCP_KEEPINTVL,
                        socket.TCP_USER_TIMEOUT,
                    )
                ],
                [keepalive.IDLE, keepalive.INTERVAL, 4500],
            )
        self.assertGreater(keepalive.SILENCE, keepalive.IDLE + 3 * keepalive.INTERVAL)

    def test_promise(self) -> None:
        """Data that is written just before silence is found is found to be lost in time."""
        self.assertLess(2 * keepalive.SILENCE + keepalive.INTERVAL, 10 + 1e-9)
