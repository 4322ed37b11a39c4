"""Runs commands as transient units of the user's own systemd (``docs/tasks.rst``, "The systemd
executor").

Enters: runs, and their leases; shims that connect; what becomes of units. Leaves: how each run
ended. No command ever runs in the daemon or below it, and one that was started ends in time also
when the daemon does not: its shim (:mod:`bzzz.tasks.executors.unit_shim`) and systemd see to that.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IReactorTime
from twisted.internet.protocol import Factory
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from bzzz.errors import BzzzError
from bzzz.net.background import in_background
from bzzz.tasks.executors.interfaces import Ending, IExecutor, Over, Run
from bzzz.tasks.executors.keeper_messages import (
    Ended,
    Extend,
    Started,
    Stop,
)
from bzzz.tasks.executors.keeper_runs import LATE
from bzzz.tasks.executors.process import CLOSE_TIMEOUT, GRACE, MAX_RUNS
from bzzz.tasks.executors.unit_bus import LOOK_AGAIN, UnitBus
from bzzz.tasks.executors.unit_cgroup import kill_group, processes_of
from bzzz.tasks.executors.unit_channel import Channel
from bzzz.tasks.executors.unit_ends import how_it_ended
from bzzz.tasks.executors.unit_interfaces import UnitEnd, Units
from bzzz.tasks.executors.unit_messages import Hello, UnitReport
from bzzz.tasks.executors.unit_runs import NEVER, UnitRun
from bzzz.tasks.executors.unit_specs import Places, open_outputs, order_of, spec_of, why_not

__all__ = ["SystemdExecutor"]

# Seconds that a run waits for a bus that is not there: one that is restarted is back by then.
BUS_PATIENCE: Final = 5.0

# Seconds from the start of a unit to its shim's question. It takes 0.1 s where there is processor
# time.
SHIM_PATIENCE: Final = 20.0

# Seconds that a shim has beyond the time of a stop, before its unit is killed.
STOP_LATE: Final = 1.0

# Seconds after which a run counts as over of which nothing can be known: there is no systemd that
# could be asked, no control group that could be seen, and no shim.
UNKNOWN_AFTER: Final = 10.0


class _Shims(Factory):
    """What shims connect to."""

    noisy = False

    def logPrefix(self) -> str:
        """Twisted says when it listens, and begins with this."""
        return "Hearing what runs,"


@implementer(IExecutor)
class SystemdExecutor:
    """Implements :class:`~bzzz.tasks.executors.interfaces.IExecutor` with transient units.

    :param reactor: provides ``IReactorUNIX``.
    :param clock: of ``CLOCK_BOOTTIME``.
    :param units: the user's systemd.
    :param in_thread: calls a function in a thread.
    :param max_runs: how many there may be at once; one more is ``NOT_STARTED``.
    :param grace: seconds from SIGTERM to SIGKILL for a run whose timeout has passed.
    :param open_outputs: opens a run's two files of output; raises an OSError.
    :param alive: the processes in a control group, None where that cannot be said.
    :ivar bus: whether units can be started now.
    """

    name = "systemd"
    _log = Logger()

    def __init__(
        self,
        reactor: Any,
        clock: IReactorTime,
        units: Units,
        places: Places,
        in_thread: Callable[[Callable[[], Any]], Deferred[Any]],
        *,
        max_runs: int = MAX_RUNS,
        grace: float = GRACE,
        open_outputs: Callable[[Run], tuple[int, ...]] = open_outputs,
        alive: Callable[[str], list[int] | None] = processes_of,
        kill_group: Callable[[str], object] = kill_group,
    ) -> None:
        self._reactor = reactor
        self._clock = clock
        self._units = units
        self._places = places
        self._in_thread = in_thread
        self._open_outputs = open_outputs
        self._max_runs = max_runs
        self._grace = grace
        self._alive = alive
        self._kill_group = kill_group
        self._runs: dict[str, UnitRun] = {}
        self._port: Any = None
        self.bus = UnitBus(clock, units, places.unit_prefix, self._bus_changed, self._unit_over)
        self._closing = False
        self._closed: list[Deferred[None]] = []
        self._close_call: Any = None

    def open(self) -> None:
        """Listen to shims, and connect to systemd.

        :raises BzzzError: it cannot listen.
        """
        path = self._places.socket
        factory = _Shims.forProtocol(lambda: Channel(self._said, self._hung_up))
        try:
            # The lock of the runtime directory says that no other node has it.
            if os.path.lexists(path):
                os.unlink(path)
            self._port = self._reactor.listenUNIX(path, factory, mode=0o600)
        except (OSError, CannotListenError) as error:
            raise BzzzError(f"{path}: runs cannot be talked to there: {error}") from None
        self._units.start(self.bus)

    def start(self, run: Run, until: float, over: Callable[[Over], object]) -> None:
        """See :class:`IExecutor`. ``over`` is not called before this returns."""
        running = UnitRun(run, until, over, self._places.unit_name(run.key))
        refusal = self._refusal(running)
        if refusal:
            self._clock.callLater(0, self._tell, running, Over(Ending.NOT_STARTED, None, refusal))
            return
        self._runs[run.key] = running
        if self.bus.ready:
            self._launch(running)
        else:
            running.ask_by = self._clock.seconds() + BUS_PATIENCE
            self._watch(running)

    def extend(self, key: str, until: float) -> None:
        """See :class:`IExecutor`."""
        running = self._runs.get(key)
        if running is not None and running.cause is None:
            running.until = until
            if running.began and running.channel is not None:
                running.channel.tell(Extend(key, until))

    def stop(self, key: str, grace: float) -> None:
        """See :class:`IExecutor`."""
        running = self._runs.get(key)
        if running is None:
            return
        if not running.began:
            if running.launched:
                self._units.kill(running.name)
            over = Over(Ending.STOPPED, None, "it was stopped before its start")
            # Its shim is not told any more what to run.
            running.cause = over
            self._clock.callLater(0, self._end, running, over)
            return
        if running.channel is not None:
            running.channel.tell(Stop(key, grace))
        running.stop_at = min(running.stop_at, self._clock.seconds() + grace + STOP_LATE)
        self._watch(running)

    def close(self) -> Deferred[None]:
        """See :class:`IExecutor`. A run that is started from now on is ``NOT_STARTED``."""
        closed: Deferred[None] = Deferred()
        self._closed.append(closed)
        if not self._closing:
            self._closing = True
            for key in [*self._runs]:
                self.stop(key, 0.0)
            self._close_call = self._clock.callLater(CLOSE_TIMEOUT, self._abandon)
        self._clock.callLater(0, self._look_closed)
        return closed

    # -- systemd

    def _bus_changed(self) -> None:
        """Begin what waits for systemd; look after what systemd would have been asked about."""
        for running in [*self._runs.values()]:
            if self.bus.ready and not running.launched and running.cause is None:
                self._launch(running)
            else:
                self._watch(running)

    def _unit_over(self, name: str, end: UnitEnd) -> None:
        """A unit has ended, and with it its run, when all that its shim has said was heard."""
        for running in [each for each in self._runs.values() if each.name == name]:
            running.end = end
            self._settle(running)

    # -- a run

    def _refusal(self, running: UnitRun) -> str:
        """Why a run cannot be taken, empty where it can."""
        run = running.run
        if self._closing:
            return "the node ends, and starts nothing more"
        if run.key in self._runs:
            return f"a run with the key {run.key} is there already"
        if len(self._runs) >= self._max_runs:
            return f"{self._max_runs} runs are there already, and there may not be more at once"
        return why_not(run, self._grace)

    def _launch(self, running: UnitRun) -> None:
        running.launched = True
        running.ask_by = self._clock.seconds() + SHIM_PATIENCE
        self._watch(running)
        spec = spec_of(running.run, self._places, self._grace, SHIM_PATIENCE)
        started = self._units.run(spec)
        started.addErrback(self._not_launched, running)

    def _not_launched(self, failure: Failure, running: UnitRun) -> None:
        if failure.check(BzzzError) is None:
            self._log.failure("Starting a unit failed", failure)
        reason = f"systemd did not start its unit: {failure.getErrorMessage()}"
        if running.began:
            # It did, and its answer came too late.
            running.unheard = True
            self._settle(running)
        else:
            # If it does all the same, its shim will find that it has no run.
            self._end(running, Over(Ending.NOT_STARTED, None, reason))

    def _said(self, channel: Channel, report: UnitReport) -> None:
        running = self._runs.get(report.key)
        if isinstance(report, Hello):
            if running is None or running.asked or running.cause is not None:
                channel.hang_up()
                return
            running.asked = True
            running.channel = channel
            running.cgroup = report.cgroup
            opened = self._in_thread(partial(self._open_outputs, running.run))
            opened.addCallbacks(self._begin, self._not_opened, (running,), errbackArgs=(running,))
            opened.addErrback(self._flaw, running)
        elif running is None or running.channel is not channel:
            self._log.warn("A shim that has no run says: {report}", report=report)
            channel.hang_up()
        elif isinstance(report, Started):
            self._log.debug("Run {key} has begun in {unit}", key=report.key, unit=running.name)
        elif isinstance(report, Ended):
            running.told = report

    def _begin(self, files: tuple[int, ...], running: UnitRun) -> None:
        """Tell the shim what to run, if it is there still."""
        channel = running.channel
        if channel is None or running.cause is not None:
            for file in files:
                os.close(file)
            return
        running.began = True
        running.ask_by = NEVER
        channel.hand_over(files)
        channel.tell(order_of(running.run, running.until, self._grace))
        self._watch(running)

    def _not_opened(self, failure: Failure, running: UnitRun) -> None:
        failure.trap(OSError)
        # It has the name and the words.
        reason = f"a file of output: {failure.getErrorMessage()}"
        self._end(running, Over(Ending.NOT_STARTED, None, reason))

    def _flaw(self, failure: Failure, running: UnitRun) -> None:
        self._log.failure("Beginning run {key} failed", failure, key=running.run.key)
        self._end(running, Over(Ending.NOT_STARTED, None, failure.getErrorMessage()))

    def _hung_up(self, channel: Channel) -> None:
        for running in [each for each in self._runs.values() if each.channel is channel]:
            running.channel = None
            running.alone_since = self._clock.seconds()
            self._settle(running)

    # -- times

    def _watch(self, running: UnitRun) -> None:
        """Look at a run when there is something to look at."""
        now = self._clock.seconds()
        at = max(running.due(self._units.up), running.looked_at)
        if running.call is not None:
            if running.call_at <= at:
                return
            running.call.cancel()
        running.call_at = at
        running.call = self._clock.callLater(max(0.0, at - now), self._look, running)

    def _look(self, running: UnitRun) -> None:
        running.call = None
        now = self._clock.seconds()
        if running.due(self._units.up) <= now:
            running.looked_at = now + LOOK_AGAIN
            self._act(running, now)
        if self._runs.get(running.run.key) is running:
            self._watch(running)

    def _act(self, running: UnitRun, now: float) -> None:
        """Do what others have not done in time."""
        if running.cause is None and running.told is None and running.channel is not None:
            if now >= running.until + LATE:
                running.cause = Over(
                    Ending.LEASE_ENDED, None, "its lease ended, and its shim had not killed it"
                )
            elif now >= running.stop_at:
                reason = "it was told to stop, and its shim had not killed it"
                running.cause = Over(Ending.STOPPED, None, reason)
        elif not running.began and now >= running.ask_by:
            if running.launched:
                reason = (
                    f"its unit did not come so far as to ask what to run in {SHIM_PATIENCE:g} s"
                )
                self._units.kill(running.name)
            else:
                reason = f"the systemd of the node's user cannot be asked: {self.bus.problem}"
            self._end(running, Over(Ending.NOT_STARTED, None, reason))
            return
        # The shim is gone, or has to go: nothing may be left.
        if self._units.up:
            self._units.kill(running.name)
        self._kill_group(running.cgroup)
        if running.end is not None and running.channel is not None:
            # Whoever has the other end of it is no part of the unit.
            channel, running.channel = running.channel, None
            channel.hang_up()
        self._settle(running)

    def _settle(self, running: UnitRun) -> None:
        """End a run of which nothing is left, or look at it again."""
        if running.end is not None and running.channel is None:
            over = running.cause or how_it_ended(
                running.run, running.told, running.end, running.began
            )
            self._end(running, over)
        elif (
            running.alone_since < NEVER
            and (running.unheard or not self._units.up)
            and self._is_gone(running)
        ):
            over = running.cause or how_it_ended(
                running.run, running.told, UnitEnd(), running.began
            )
            self._end(running, over)
        else:
            self._watch(running)

    def _is_gone(self, running: UnitRun) -> bool:
        """Whether nothing is left of a run, where systemd cannot be asked."""
        left = self._alive(running.cgroup)
        if left is not None:
            return not left
        if running.told is not None:
            return True
        return self._clock.seconds() >= running.alone_since + UNKNOWN_AFTER

    # -- the end

    def _end(self, running: UnitRun, over: Over) -> None:
        if self._runs.get(running.run.key) is not running:
            return
        del self._runs[running.run.key]
        if running.call is not None:
            running.call.cancel()
            running.call = None
        if running.launched:
            self._units.forget(running.name)
        if running.channel is not None:
            channel, running.channel = running.channel, None
            channel.hang_up()
        if over.ending is Ending.STOPPED and self._closing:
            over = Over(Ending.STOPPED, over.exit_status, "the node ended")
        self._tell(running, over)
        self._look_closed()

    def _tell(self, running: UnitRun, over: Over) -> None:
        try:
            running.over(over)
        except Exception:  # noqa: BLE001 - whoever waits for one run must not cost another its end
            self._log.failure("Run {key}: what waits for its end failed", key=running.run.key)

    def _abandon(self) -> None:
        """Runs that do not end: their shims kill when the daemon is gone, at the latest."""
        self._close_call = None
        for running in [*self._runs.values()]:
            self._log.error("Run {key} did not end in time", key=running.run.key)
            self._end(running, Over(Ending.STOPPED, None, "the node ended"))

    def _look_closed(self) -> None:
        if not self._closing or self._runs or not self._closed:
            return
        if self._close_call is not None:
            self._close_call.cancel()
            self._close_call = None
        closed, self._closed = self._closed, []
        in_background(self._shut(closed), "leaving the user's systemd", self._log)

    async def _shut(self, closed: list[Deferred[None]]) -> None:
        try:
            if self._port is not None:
                port, self._port = self._port, None
                await port.stopListening()
            await self._units.stop()
        finally:
            for each in closed:
                each.callback(None)
