"""The output of a command of this machine, without blocking and within a time.

Enters: an argument list. Leaves: what it wrote to its standard output.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.error import ProcessDone, ProcessExitedAlready
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.protocol import ProcessProtocol
from twisted.python.failure import Failure

from bzzz.errors import BzzzError

__all__ = ["CommandError", "Commands"]

# Bytes of output that are kept; the tools that are asked write a few lines.
MAX_OUTPUT = 64 << 10


class CommandError(BzzzError):
    """A command failed, wrote too much, or took too long."""


class Commands:
    """Runs commands.

    A command that does not die when it is killed, because the driver that it asks hangs, is not
    started a second time beside the first.

    :param reactor: provides ``IReactorProcess`` and ``IReactorTime``.
    """

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._alive: set[str] = set()

    def run(self, argv: Sequence[str], timeout: float) -> Deferred[bytes]:
        """Run ``argv`` for at most ``timeout`` seconds.

        :param argv: the first item is the path of the command.
        :return: its output; fails with :class:`CommandError`.
        """
        command = argv[0]
        if command in self._alive:
            failed: Deferred[bytes] = Deferred()
            failed.errback(CommandError(f"{command}: the one started before still hangs"))
            return failed
        self._alive.add(command)
        ended = _Run(command, lambda: self._alive.discard(command))
        ended.timer = self._reactor.callLater(timeout, ended.give_up, f"took over {timeout:g} s")
        # Words in the output must not depend on the user's language.
        environment = {**os.environ, "LC_ALL": "C"}
        try:
            self._reactor.spawnProcess(ended, command, list(argv), environment)
        except OSError as error:
            self._alive.discard(command)
            ended.give_up(f"cannot be started: {error.strerror}")
        return ended.output


class _Run(ProcessProtocol):
    def __init__(self, command: str, ended: Callable[[], object]) -> None:
        self.output: Deferred[bytes] = Deferred(lambda _: self._abandon())
        self.timer: IDelayedCall | None = None
        self._command = command
        self._ended = ended
        self._received = bytearray()
        self._over = False

    def give_up(self, reason: str) -> None:
        """Kill it and wait no more."""
        self._kill()
        if not self._over:
            self._finish(CommandError(f"{self._command}: {reason}"))

    def outReceived(self, data: bytes) -> None:
        self._received += data
        if len(self._received) > MAX_OUTPUT:
            self._received.clear()
            self.give_up(f"wrote more than {MAX_OUTPUT} bytes")

    def processEnded(self, reason: Failure) -> None:
        self._ended()
        if self._over:
            return
        if reason.check(ProcessDone):
            self._finish(bytes(self._received))
        else:
            self._finish(CommandError(f"{self._command}: {reason.getErrorMessage()}"))

    def _abandon(self) -> None:
        """Nobody waits any more; Deferred.cancel() fails it."""
        self._stop_waiting()
        self._kill()

    def _stop_waiting(self) -> None:
        self._over = True
        if self.timer is not None and self.timer.active():
            self.timer.cancel()

    def _finish(self, result: bytes | CommandError) -> None:
        self._stop_waiting()
        if isinstance(result, CommandError):
            self.output.errback(result)
        else:
            self.output.callback(result)

    def _kill(self) -> None:
        if self.transport is not None:
            try:
                self.transport.signalProcess("KILL")
            except ProcessExitedAlready:
                pass  # which is what was wanted
