"""The kernel's watch over a connection."""

from __future__ import annotations

import math
import socket
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from bzzz.net import keepalive


class Handle:
    """Says which options were set; what the kernel makes of them is for tests/cluster."""

    def __init__(self) -> None:
        self.options: dict[tuple[int, int], int] = {}

    def setsockopt(self, level: int, option: int, value: int) -> None:
        self.options[level, option] = value


class Transport:
    """Says what was set."""

    def __init__(self, handle: Any) -> None:
        self.keep_alive = False
        self._handle = handle

    def setTcpKeepAlive(self, enabled: bool) -> None:
        self.keep_alive = enabled

    def getHandle(self) -> Any:
        return self._handle


class WatchTests(SynchronousTestCase):
    def test_options(self) -> None:
        """The kernel is told when to ask and when to give up, and three probes may be lost."""
        handle = Handle()
        transport = Transport(handle)
        keepalive.watch(transport)
        self.assertTrue(transport.keep_alive)
        self.assertEqual(
            handle.options,
            {
                (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE): keepalive.IDLE,
                (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL): keepalive.INTERVAL,
                (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT): 4500,
            },
        )
        self.assertGreater(keepalive.SILENCE, keepalive.IDLE + 3 * keepalive.INTERVAL)

    def test_promise(self) -> None:
        """Data that is written just before silence is found is found to be lost in time."""
        looked_at = math.ceil(keepalive.SILENCE / keepalive.INTERVAL) * keepalive.INTERVAL
        self.assertLess(looked_at + keepalive.SILENCE, 10)
