"""Runs commands as processes of this node's user, for machines without systemd.

Enters: runs, and their leases. Leaves: how each ended. The work is the keeper's
(:mod:`bzzz.tasks.executors.keeper`), a process that this module starts and talks with: no command
ever runs in the daemon, and one that was started ends in time also when the daemon does not.

What it can limit: time, output, and memory, at which it looks twice a second, so that a command may
pass the limit for a moment; files in a tmpfs are not counted. Cores are not limited: a worker
counts them as slots. In profile ``no-network`` sockets in the file system can be reached still. The
systemd executor does all of these better.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from typing import Any, Final

from msgspec.structs import asdict
from twisted.internet.defer import Deferred
from twisted.internet.error import ProcessExitedAlready, ProcessTerminated
from twisted.internet.interfaces import IPushProducer
from twisted.internet.protocol import ProcessProtocol
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from bzzz.errors import RemoteProtocolError
from bzzz.tasks.executors.interfaces import Ending, IExecutor, Over, Run
from bzzz.tasks.executors.keeper_messages import (
    Ended,
    Extend,
    Frames,
    Order,
    Ready,
    Report,
    Shutdown,
    Start,
    Started,
    Stop,
    TooLong,
    decode_report,
    encode,
    frame,
)

__all__ = ["GRACE", "MAX_RUNS", "ProcessExecutor"]

# Runs at once, each with a shim of about 3 MB: as many as max_tasks may be. How many there are is
# decided by the worker's slots; one more than this fails.
MAX_RUNS: Final = 10_000

# Seconds from SIGTERM to SIGKILL for a command whose time is over (docs/tasks.rst, "Failures").
GRACE: Final = 10.0

# Seconds before a keeper is started in the place of one that ended, doubled each time.
RESTART_DELAY: Final = 0.1
MAX_RESTART_DELAY: Final = 10.0

# Seconds after which a keeper that ends is no reason to wait before the next.
HEALTHY: Final = 10.0

# Seconds that a keeper has to end when it is told to. Its shims are killed with it then.
CLOSE_TIMEOUT: Final = 5.0

# Bytes of a line that the keeper complains in.
MAX_LINE: Final = 2000


class _Running:
    """A run that is not over.

    :ivar keeper: the one that was told of it, if any was.
    """

    def __init__(self, run: Run, until: float, over: Callable[[Over], object]) -> None:
        self.run = run
        self.until = until
        self.over = over
        self.keeper: _Keeper | None = None

    def order(self, grace: float) -> Start:
        """What the keeper is told."""
        return Start(**asdict(self.run), until=self.until, grace=grace)


@implementer(IExecutor)
class ProcessExecutor:
    """Implements :class:`~bzzz.tasks.executors.interfaces.IExecutor` with a keeper.

    The keeper is started with the first run. When it ends by itself, so does every run of it, as
    ``STOPPED``; the next run starts another, after a delay where it happens again and again. A
    keeper that cannot be started ends the runs that wait for it as ``NOT_STARTED``.

    :param reactor: provides ``IReactorProcess`` and ``IReactorTime``.
    :param max_runs: how many there may be at once; one more is ``NOT_STARTED``.
    :param grace: seconds from SIGTERM to SIGKILL for a run whose timeout has passed.
    """

    name = "process"
    _log = Logger()

    def __init__(self, reactor: Any, *, max_runs: int = MAX_RUNS, grace: float = GRACE) -> None:
        self._reactor = reactor
        self._max_runs = max_runs
        self._grace = grace
        self._runs: dict[str, _Running] = {}
        self._keeper: _Keeper | None = None
        self._failures = 0
        self._restart: Any = None
        self._closing = False
        self._closed: list[Deferred[None]] = []

    def start(self, run: Run, until: float, over: Callable[[Over], object]) -> None:
        """See :class:`IExecutor`. ``over`` is not called before this returns."""
        running = _Running(run, until, over)
        refusal = self._refusal(running)
        if refusal:
            self._reactor.callLater(0, self._tell, running, Over(Ending.NOT_STARTED, None, refusal))
            return
        self._runs[run.key] = running
        if self._keeper is not None:
            self._keeper.start(running, self._grace)
        else:
            self._start_keeper()

    def extend(self, key: str, until: float) -> None:
        """See :class:`IExecutor`."""
        running = self._runs.get(key)
        if running is not None:
            running.until = until
            if running.keeper is not None:
                running.keeper.extend(running)

    def stop(self, key: str, grace: float) -> None:
        """See :class:`IExecutor`."""
        running = self._runs.get(key)
        if running is None:
            return
        if running.keeper is not None:
            running.keeper.tell(Stop(key, grace))
        else:
            del self._runs[key]
            over = Over(Ending.STOPPED, None, "it was stopped before its start")
            self._reactor.callLater(0, self._tell, running, over)

    def close(self) -> Deferred[None]:
        """See :class:`IExecutor`. A run that is started from now on is ``NOT_STARTED``."""
        self._closing = True
        if self._restart is not None:
            self._restart.cancel()
            self._restart = None
        for running in [each for each in self._runs.values() if each.keeper is None]:
            self._end(running, Over(Ending.STOPPED, None, "the node ends; it was not started"))
        closed: Deferred[None] = Deferred()
        if self._keeper is None:
            closed.callback(None)
            return closed
        self._closed.append(closed)
        self._keeper.close()
        return closed

    # -- runs

    def _refusal(self, running: _Running) -> str:
        """Why a run cannot be taken, empty where it can."""
        if self._closing:
            return "the node ends, and starts nothing more"
        if running.run.key in self._runs:
            return f"a run with the key {running.run.key} is there already"
        if len(self._runs) >= self._max_runs:
            return f"{self._max_runs} runs are there already, and there may not be more at once"
        try:
            encode(running.order(self._grace))
        except TooLong as error:
            return f"the command with its environment: {error}"
        return ""

    def _end(self, running: _Running, over: Over) -> None:
        if self._runs.get(running.run.key) is running:
            del self._runs[running.run.key]
            self._tell(running, over)

    def _tell(self, running: _Running, over: Over) -> None:
        try:
            running.over(over)
        except Exception:  # noqa: BLE001 - whoever waits for one run must not cost another its end
            self._log.failure("Run {key}: what waits for its end failed", key=running.run.key)

    # -- the keeper

    def _start_keeper(self) -> None:
        if self._restart is not None:
            return
        if not self._failures:
            self._spawn()
            return
        delay = min(MAX_RESTART_DELAY, RESTART_DELAY * 2.0 ** min(self._failures - 1, 16))
        self._restart = self._reactor.callLater(delay, self._spawn)

    def _spawn(self) -> None:
        self._restart = None
        keeper = self._keeper = _Keeper(self._reactor, self.keeper_said, self.keeper_ended)
        # The modules that it finds are those that this process finds.
        path = os.pathsep.join(os.path.abspath(each) for each in sys.path)
        environ = {**os.environ, "PYTHONPATH": path}
        argv = [sys.executable, "-P", "-X", "utf8", "-m", "bzzz.tasks.executors.keeper"]
        try:
            self._reactor.spawnProcess(keeper, argv[0], argv, environ)
        except OSError as error:
            reason = error.strerror or str(error)
            self._reactor.callLater(0, self.keeper_ended, keeper, reason)
        for running in [each for each in self._runs.values() if each.keeper is None]:
            keeper.start(running, self._grace)

    def keeper_said(self, keeper: _Keeper, report: Report) -> None:
        """Take what the keeper reports.

        :raises RemoteProtocolError: it speaks of a run that it has not.
        """
        if isinstance(report, Ready):
            return
        running = self._runs.get(report.key)
        if running is None or running.keeper is not keeper:
            raise RemoteProtocolError(f"the keeper speaks of {report.key!r}, which is no run of it")
        if isinstance(report, Started):
            self._log.debug("Run {key} is process {pid}", key=report.key, pid=report.pid)
        elif isinstance(report, Ended):
            ending, reason = Ending(report.ending), report.reason
            if ending is Ending.STOPPED and self._closing:
                reason = "the node ended"
            self._end(running, Over(ending, report.exit_status, reason))

    def keeper_ended(self, keeper: _Keeper, reason: str) -> None:
        """The keeper is gone, and so are the shims of its runs."""
        self._keeper = None
        if self._closing and keeper.ready:
            over = Over(Ending.STOPPED, None, "the node ends")
        elif keeper.ready:
            self._log.error("The keeper of runs ended: {reason}", reason=reason)
            over = Over(Ending.STOPPED, None, f"the keeper ended, and its runs with it: {reason}")
        else:
            self._log.error("The keeper of runs could not be started: {reason}", reason=reason)
            over = Over(Ending.NOT_STARTED, None, f"the keeper could not be started: {reason}")
        healthy = keeper.ready and self._reactor.seconds() - keeper.since >= HEALTHY
        self._failures = 0 if healthy else self._failures + 1
        for running in [each for each in self._runs.values() if each.keeper is keeper]:
            self._end(running, over)
        if self._closing:
            closed, self._closed = self._closed, []
            for each in closed:
                each.callback(None)
        elif any(each.keeper is None for each in self._runs.values()):
            self._start_keeper()


@implementer(IPushProducer)
class _Keeper(ProcessProtocol):
    """One keeper process.

    The orders that it has not read yet are kept by Twisted. Where it reads none, leases are not
    extended any more, so that these stay few: what it has is over when its lease ends.

    :param said: called with each report; what it raises costs the keeper its life.
    :param ended: called once, with the reason, when it and all its shims have ended.
    :ivar since: when it was started, on the reactor's clock.
    :ivar ready: whether it said anything.
    """

    _log = Logger()

    def __init__(
        self,
        reactor: Any,
        said: Callable[[_Keeper, Report], object],
        ended: Callable[[_Keeper, str], object],
    ) -> None:
        self._reactor = reactor
        self._said = said
        self._ended = ended
        self._frames: Frames[Report] = Frames(decode_report)
        self._refused = ""
        self._ending = False
        self._paused = False
        self._unextended: dict[str, _Running] = {}
        self._complaint = b""
        self._last_line = ""
        self._kill_call: Any = None
        self.since: float = reactor.seconds()
        self.ready = False

    # -- orders

    def start(self, running: _Running, grace: float) -> None:
        """Tell it to run a command, which waits for the next one where this one ends."""
        if not self._ending:
            running.keeper = self
            self.tell(running.order(grace))

    def extend(self, running: _Running) -> None:
        """Tell it of a new end of a lease, when it takes orders."""
        if self._paused:
            self._unextended[running.run.key] = running
        else:
            self.tell(Extend(running.run.key, running.until))

    def tell(self, order: Order) -> None:
        """Give an order; one that has ended, or has to, takes none."""
        if self.transport is not None and not self._ending:
            self.transport.write(frame(encode(order)))

    def close(self) -> None:
        """Have it end."""
        self.tell(Shutdown())
        if self._kill_call is None:
            self._kill_call = self._reactor.callLater(CLOSE_TIMEOUT, self._kill)

    def _kill(self) -> None:
        if self.transport is not None:
            try:
                self.transport.signalProcess("KILL")
            except ProcessExitedAlready:
                pass  # which is what was wanted

    # -- ProcessProtocol

    def connectionMade(self) -> None:
        """It is being started."""
        self.transport.registerProducer(self, True)  # type: ignore[union-attr]  # it is there now

    def outReceived(self, data: bytes) -> None:
        """Reports, or a part of one."""
        if self._refused:
            return
        try:
            for report in self._frames.receive(data):
                if not self.ready and not isinstance(report, Ready):
                    raise RemoteProtocolError("the keeper has not said first that it is ready")
                self.ready = True
                self._said(self, report)
        except RemoteProtocolError as error:
            self._refused = str(error)
            self._ending = True
            self._log.error("The keeper of runs is killed: {reason}", reason=self._refused)
            self._kill()

    def errReceived(self, data: bytes) -> None:
        """Complaints, or a part of one."""
        *lines, rest = (self._complaint + data).split(b"\n")
        self._complaint = rest[:MAX_LINE]
        for line in lines:
            self._last_line = line[:MAX_LINE].decode(errors="replace")
            self._log.warn("The keeper of runs says: {line}", line=self._last_line)

    def processExited(self, reason: Failure) -> None:
        """It has ended; shims of it may be killing their runs still."""
        self._ending = True

    def processEnded(self, reason: Failure) -> None:
        """It has ended and, since each shim has its standard error, so have its shims."""
        self.transport = None
        if self._kill_call is not None and self._kill_call.active():
            self._kill_call.cancel()
        self._ended(self, self._refused or self._how(reason))

    def _how(self, reason: Failure) -> str:
        error = reason.value
        if not isinstance(error, ProcessTerminated):
            return "it ended by itself"
        if error.signal is not None:
            return f"killed by {signal.Signals(error.signal).name}"
        return f"exit status {error.exitCode}. {self._last_line}".rstrip(". ")

    # -- IPushProducer

    def pauseProducing(self) -> None:
        """It does not read."""
        self._paused = True

    def resumeProducing(self) -> None:
        """It reads again: tell it the ends of leases that it was not told."""
        self._paused = False
        unextended, self._unextended = self._unextended, {}
        for running in unextended.values():
            self.tell(Extend(running.run.key, running.until))

    def stopProducing(self) -> None:
        """It reads nothing more."""
        self._paused = True
