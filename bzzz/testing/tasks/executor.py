"""Running commands on a simulated machine, as the keeper does: on its own time.

The command says what happens: ``("sim", seconds, exit_status)``. Whether its daemon is starved or
dead makes no difference to when a run ends: the keeper is another process.
"""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.defer import Deferred, succeed
from zope.interface import implementer

from bzzz.net.interfaces import Randomness
from bzzz.tasks.executors.interfaces import Ending, IExecutor, Over, Run
from bzzz.tasks.leases import KILL
from bzzz.testing.clock import NodeClock, SimCall, SimReactor
from bzzz.testing.tasks.history import Ended, History, Started

__all__ = ["SimExecutor"]

# Seconds, at most, from when a command is to begin until it does.
SPAWN = 0.02


class _Run:
    def __init__(self, run: Run, until: float, over: Callable[[Over], object]) -> None:
        self.run = run
        self.task, _, token = run.key.rpartition(".")
        self.token = int(token)
        self.until = until
        self.over = over
        self.began = False
        self.calls: list[SimCall] = []
        self.killing: SimCall | None = None


@implementer(IExecutor)
class SimExecutor:
    """One keeper.

    :param clock: of the daemon, which is told how runs end while it lives.
    """

    name = "simulated"

    def __init__(
        self,
        reactor: SimReactor,
        clock: NodeClock,
        rng: Randomness,
        worker: str,
        history: History,
    ) -> None:
        self._reactor = reactor
        self._clock = clock
        self._rng = rng
        self._worker = worker
        self._history = history
        self._runs: dict[str, _Run] = {}
        self._gone = False

    def start(self, run: Run, until: float, over: Callable[[Over], object]) -> None:
        """See :class:`IExecutor`."""
        each = self._runs[run.key] = _Run(run, until, over)
        self._later(each, SPAWN * self._rng.random(), self._begin)
        self._watch(each)

    def extend(self, key: str, until: float) -> None:
        """See :class:`IExecutor`."""
        each = self._runs.get(key)
        if each is not None and until > each.until:
            each.until = until
            self._watch(each)

    def stop(self, key: str, grace: float) -> None:
        """See :class:`IExecutor`."""
        each = self._runs.get(key)
        if each is not None:
            wait = grace * self._rng.random() if self._rng.random() < 0.2 else 0.01
            self._later(each, wait, lambda each: self._kill(each, Ending.STOPPED))

    def close(self) -> Deferred[None]:
        """See :class:`IExecutor`."""
        for each in list(self._runs.values()):
            self._kill(each, Ending.STOPPED)
        return succeed(None)

    def daemon_died(self, at_once: bool) -> None:
        """The daemon's end of the pipe is closed: all is killed, within the time that it takes.

        :param at_once: the machine is gone, and the keeper with it.
        """
        self._gone = True
        for each in list(self._runs.values()):
            wait = 0.0 if at_once else KILL * self._rng.random()
            self._later(each, wait, lambda each: self._kill(each, Ending.STOPPED))

    # -- inside

    def _later(self, each: _Run, seconds: float, call: Callable[[_Run], None]) -> SimCall:
        """After so many seconds of the machine's clock, whatever the daemon does."""
        made = self._reactor.callLater(self._clock.real(seconds), self._due, each, call)
        each.calls.append(made)
        return made

    def _due(self, each: _Run, call: Callable[[_Run], None]) -> None:
        if self._runs.get(each.run.key) is each:
            call(each)

    def _begin(self, each: _Run) -> None:
        if self._gone or self._clock.seconds() >= each.until:
            self._end(each, Over(Ending.LEASE_ENDED), None)
            return
        each.began = True
        self._history.add(Started(self._reactor.now, each.task, each.token, self._worker))
        seconds, status = float(each.run.argv[1]), int(each.run.argv[2])
        self._later(
            each, seconds, lambda each: self._end(each, Over(Ending.EXITED, status), status)
        )
        if each.run.timeout:
            self._later(each, each.run.timeout, lambda each: self._kill(each, Ending.TIMED_OUT))

    def _watch(self, each: _Run) -> None:
        if each.killing is not None and each.killing.active():
            each.killing.cancel()
        left = max(0.0, each.until - self._clock.seconds())
        late = KILL * self._rng.random()
        each.killing = self._later(
            each, left + late, lambda each: self._kill(each, Ending.LEASE_ENDED)
        )

    def _kill(self, each: _Run, ending: Ending) -> None:
        self._end(each, Over(ending, reason=ending.value), None)

    def _end(self, each: _Run, over: Over, status: int | None) -> None:
        del self._runs[each.run.key]
        for call in each.calls:
            if call.active():
                call.cancel()
        if each.began:
            self._history.add(Ended(self._reactor.now, each.task, each.token, self._worker, status))
        if not self._gone:
            self._clock.callLater(0.001 * self._rng.random(), each.over, over)
