"""Which addresses are listened on, and the choice of the port."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.error import CannotListenError
from twisted.internet.task import Clock
from twisted.logger import LogLevel, capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from bzzz.mesh.listening import LONGEST_RETRY, RETRY, Listening
from bzzz.wire.multiaddr import Multiaddr

FOUR, SIX = "192.0.2.1", "2001:db8::1"


class FakeSwarm:
    """Listens unless an address or port is said to fail.

    :ivar failing: error numbers by ``(host, port)``, by host or by port.
    """

    def __init__(self) -> None:
        self.open: list[tuple[str, int]] = []
        self.failing: dict[object, int] = {}
        self.tries = 0

    @property
    def listen_addresses(self) -> tuple[Multiaddr, ...]:
        return tuple(Multiaddr.tcp(host, port) for host, port in self.open)

    async def listen(self, host: str, port: int) -> int:
        self.tries += 1
        for what in ((host, port), host, port):
            if what in self.failing:
                number = self.failing[what]
                raise CannotListenError(host, port, OSError(number, os.strerror(number)))
        self.open.append((host, port))
        return port

    async def stop_listening(self, host: str, port: int) -> None:
        self.open.remove((host, port))


class ListeningTests(SynchronousTestCase):
    """Every usable address, one port."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.swarm = FakeSwarm()
        self.chosen: list[int] = []
        self.lines: list[str] = []

    def make(self, *wanted: int, spare: Iterable[int] = (1001, 1002)) -> Listening:
        def chosen(port: int) -> Deferred[None]:
            self.chosen.append(port)
            return succeed(None)

        swarm: Any = self.swarm
        return Listening(self.clock, swarm, wanted, lambda: spare, chosen)

    def use(self, listening: Listening, *hosts: str) -> list[str]:
        """Returns what was warned of."""
        with capturedLogs() as logged:
            self.successResultOf(Deferred.fromCoroutine(listening.use(hosts)))
        return self.warnings(logged)

    def warnings(self, logged: Any) -> list[str]:
        return [formatEvent(event) or "" for event in logged if event["log_level"] >= LogLevel.warn]

    def test_wanted(self) -> None:
        """The first wanted port is taken on every address, and told."""
        listening = self.make(40001, 40002)
        self.assertEqual(self.use(listening, FOUR, SIX), [])
        self.assertEqual(self.swarm.open, [(FOUR, 40001), (SIX, 40001)])
        self.assertEqual((listening.port, self.chosen), (40001, [40001]))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_taken_on_one_address(self) -> None:
        """A port that another program has on one of the addresses is not used on the others."""
        self.swarm.failing[FOUR, 40001] = errno.EADDRINUSE
        listening = self.make(40001)
        (warning,) = self.use(listening, FOUR, SIX)
        self.assertEqual(self.swarm.open, [(FOUR, 1001), (SIX, 1001)])
        self.assertEqual(self.chosen, [1001])
        self.assertRegex(warning, "^Port 40001 cannot be had .*in use.* listening on 1001 from now")

    def test_not_allowed(self) -> None:
        """A port that needs root is replaced, too."""
        self.swarm.failing[443] = errno.EACCES
        listening = self.make(443)
        (warning,) = self.use(listening, FOUR)
        self.assertEqual(listening.port, 1001)
        self.assertIn("Permission denied", warning)

    def test_an_address_that_is_not_ready(self) -> None:
        """The kernel still checks one address: the others are listened on, and it a bit later."""
        self.swarm.failing[SIX] = errno.EADDRNOTAVAIL
        listening = self.make(40001)
        (warning,) = self.use(listening, FOUR, SIX)
        self.assertIn(f"Cannot listen on {SIX}", warning)
        self.assertEqual(self.swarm.open, [(FOUR, 40001)])
        with capturedLogs() as logged:
            self.clock.advance(RETRY)
        self.assertEqual(self.warnings(logged), [])
        del self.swarm.failing[SIX]
        self.clock.advance(RETRY * 2)
        self.assertEqual(self.swarm.open, [(FOUR, 40001), (SIX, 40001)])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_no_address_is_ready(self) -> None:
        """No port is burnt on an address that cannot be listened on at all."""
        self.swarm.failing[SIX] = errno.EADDRNOTAVAIL
        listening = self.make(40001)
        self.use(listening, SIX)
        self.assertEqual((listening.port, self.chosen, self.swarm.tries), (None, [], 1))
        del self.swarm.failing[SIX]
        self.clock.advance(RETRY)
        self.assertEqual(self.swarm.open, [(SIX, 40001)])

    def test_no_port(self) -> None:
        """Where no port is to be had it says so, and goes on trying, ever more rarely."""
        self.swarm.failing[FOUR] = errno.EADDRINUSE
        listening = self.make(40001)
        (error,) = self.use(listening, FOUR)
        self.assertIn("No port can be listened on", error)
        before = self.swarm.tries
        for _ in range(20):
            self.clock.advance(LONGEST_RETRY)
        self.assertEqual((self.swarm.tries - before) // 3, 20)
        del self.swarm.failing[FOUR]
        self.clock.advance(LONGEST_RETRY)
        self.assertEqual(self.swarm.open, [(FOUR, 40001)])

    def test_addresses_come_and_go(self) -> None:
        """What is new is listened on on the same port, and what is gone no more."""
        listening = self.make(40001)
        self.use(listening, FOUR)
        self.use(listening, SIX)
        self.assertEqual(self.swarm.open, [(SIX, 40001)])
        self.use(listening)
        self.assertEqual(self.swarm.open, [])
        self.use(listening, FOUR)
        self.assertEqual((self.swarm.open, self.chosen), ([(FOUR, 40001)], [40001]))

    def test_taken_later(self) -> None:
        """Where the port is taken on a new address, the others keep it, and it is said once."""
        listening = self.make(40001)
        self.use(listening, FOUR)
        self.swarm.failing[SIX, 40001] = errno.EADDRINUSE
        self.assertEqual(len(self.use(listening, FOUR, SIX)), 1)
        self.assertEqual(self.use(listening, FOUR, SIX), [])
        self.assertEqual(self.swarm.open, [(FOUR, 40001)])

    def test_stop(self) -> None:
        """Nothing is tried after the end."""
        self.swarm.failing[FOUR] = errno.EADDRNOTAVAIL
        listening = self.make(40001)
        self.use(listening, FOUR)
        listening.stop()
        self.assertEqual(self.clock.getDelayedCalls(), [])
        del self.swarm.failing[FOUR]
        self.use(listening, FOUR)
        self.assertEqual(self.swarm.open, [])
