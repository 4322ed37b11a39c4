"""Many calls in the future of which few are made, such as those of time limits.

Enters: functions and delays. Leaves: calls, by one call of the clock for all of them. A call of a
reactor costs several times as much to plan and to cancel as an entry here.
"""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush
from itertools import count

from twisted.internet.interfaces import IDelayedCall, IReactorTime

__all__ = ["Alarm", "Alarms"]


class Alarm:
    """A call that is planned."""

    __slots__ = ("_alarms", "_call")

    def __init__(self, alarms: Alarms, call: Callable[[], object]) -> None:
        self._alarms = alarms
        self._call: Callable[[], object] | None = call

    @property
    def active(self) -> bool:
        """Whether it is still to be made."""
        return self._call is not None

    def cancel(self) -> None:
        """Do not make it. Harmless where it was made or cancelled."""
        if self._call is not None:
            self._call = None
            self._alarms.lost_one()

    def ring(self) -> None:
        """Make it now, if it was neither made nor cancelled."""
        call, self._call = self._call, None
        if call is not None:
            self._alarms.lost_one()
            call()


class Alarms:
    """Planned calls, on one clock."""

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._heap: list[tuple[float, int, Alarm]] = []
        self._numbers = count()
        self._planned: IDelayedCall | None = None
        self._planned_at = 0.0
        self._active = 0
        self._ringing = False
        self._is_over = False

    def __len__(self) -> int:
        """How many are to be made."""
        return self._active

    def call_later(self, seconds: float, call: Callable[[], object]) -> Alarm:
        """Plan a call."""
        alarm = Alarm(self, call)
        now = self._clock.seconds()
        at = now + seconds
        heappush(self._heap, (at, next(self._numbers), alarm))
        self._active += 1
        if not self._ringing:
            self._plan(at, now)
        return alarm

    def tidy(self) -> None:
        """All is over: leave no call to the clock that makes none of them, from now on."""
        self._is_over = True
        if not self._active:
            self._cancel()

    def lost_one(self) -> None:
        """For alarms: one of them is not to be made any more."""
        self._active -= 1
        if not self._active and not self._ringing:
            # The call that is planned stays: the next alarm will mostly be later. Else it does
            # nothing.
            self._heap.clear()
            if self._is_over:
                self._cancel()

    def _cancel(self) -> None:
        if self._planned is not None:
            self._planned.cancel()
            self._planned = None

    def _plan(self, at: float, now: float) -> None:
        if self._planned is not None:
            if self._planned_at <= at:
                return
            self._planned.cancel()
        self._planned_at = at
        self._planned = self._clock.callLater(max(0.0, at - now), self._ring)

    def _ring(self) -> None:
        self._planned = None
        self._ringing = True
        now = self._clock.seconds()
        heap = self._heap
        try:
            while heap and heap[0][0] <= now:
                heappop(heap)[2].ring()
        finally:
            self._ringing = False
            # What was cancelled costs nothing but its place, until its time comes.
            while heap and not heap[0][2].active:
                heappop(heap)
            if heap:
                self._plan(heap[0][0], self._clock.seconds())
