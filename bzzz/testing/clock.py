"""Virtual time: one event loop for all nodes of a simulation, and a clock of its own for each node.

Enters: calls to make later. Leaves: those calls, in the order of their times. Nothing waits for
real. Calls that are due at the same instant are made in an order drawn from the seed, because real
reactors promise none either.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet.error import AlreadyCalled, AlreadyCancelled
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from zope.interface import implementer

from bzzz.net.interfaces import Randomness

__all__ = ["EPOCH", "NodeClock", "SimCall", "SimReactor", "SimulationStuck"]

# The shortest wait of a node's clock but none at all, in seconds. One too short for the time to
# change would else be planned again and again for the same instant.
GRANULARITY = 1e-6

# By so many seconds a call is put off, as often as it takes, that would come early by the rounding
# of a drifting clock: more than the rounding of a simulation of hours.
ROUNDING = 1e-11

# The wall clock of every simulation starts here: 2026-01-01T00:00:00Z.
EPOCH = 1767225600.0

# Calls within one virtual instant after which time is taken to stand still: 200 nodes that all do
# something at once need some ten thousand.
MOST_AT_ONCE = 1_000_000

# Entries of the heap that will never be called, before it is rebuilt without them, if they are
# also the greater part of it: rarely enough to cost nothing, often enough to keep it small.
DEAD_ENTRIES = 10_000


class SimulationStuck(Exception):
    """Calls are made and made without time going on."""


@implementer(IDelayedCall)
class SimCall:
    """A call that is due at a time of the loop.

    :ivar due: in seconds of the loop.
    """

    __slots__ = ("_reactor", "_state", "arguments", "call", "clock", "due", "keywords")

    def __init__(
        self,
        reactor: SimReactor,
        clock: NodeClock | None,
        due: float,
        call: Callable[..., Any],
        arguments: tuple[Any, ...],
        keywords: dict[str, Any] | None,
    ) -> None:
        self._reactor = reactor
        self._state = ""
        self.clock = clock
        self.due = due
        self.call: Callable[..., Any] | None = call
        self.arguments = arguments
        self.keywords = keywords

    def __repr__(self) -> str:
        return f"<SimCall at {self.due:.6f} {self._state or 'pending'} {self.call}>"

    def getTime(self) -> float:
        """When it is due, in seconds of the clock that it was planned on."""
        return self.due if self.clock is None else self.clock.at(self.due)

    def cancel(self) -> None:
        """Do not make the call.

        :raises AlreadyCalled: it was made.
        :raises AlreadyCancelled: it was cancelled before.
        """
        self._check()
        self._state = "cancelled"
        # What it holds is let go at once; its place in the heap is found empty later.
        self.call = None
        self.arguments = ()
        self.keywords = None
        self._reactor.discarded()

    def delay(self, secondsLater: float) -> None:  # Twisted's name
        """Make it so much later than planned."""
        self._check()
        self._move(self.due + self._real(secondsLater))

    def reset(self, secondsFromNow: float) -> None:  # Twisted's name
        """Make it so much later than now."""
        self._check()
        self._move(self._reactor.now + self._real(secondsFromNow))

    def active(self) -> bool:
        """Whether it will still be made."""
        return not self._state

    def fire(self) -> bool:
        """Make the call, unless it was cancelled or its node has crashed; whether it was made."""
        call = self.call
        if call is None:
            return False
        clock = self.clock
        if clock is not None:
            if clock.crashed:
                return False
            if clock.stalled_until > self._reactor.now:
                self._move(clock.stalled_until)
                return False
        self._state = "called"
        self.call = None
        if self.keywords:
            call(*self.arguments, **self.keywords)
        else:
            call(*self.arguments)
        return True

    def _move(self, due: float) -> None:
        self.due = max(due, self._reactor.now)
        self._reactor.plan(self)
        self._reactor.discarded()

    def _real(self, seconds: float) -> float:
        return seconds if self.clock is None else self.clock.real(seconds)

    def _check(self) -> None:
        if self._state == "called":
            raise AlreadyCalled
        if self._state:
            raise AlreadyCancelled


@implementer(IReactorTime)
class SimReactor:
    """The event loop.

    A call that raises is logged and the next is made, as in a real reactor.

    :param random: breaks ties between calls that are due at the same instant.
    :ivar now: virtual seconds since the simulation began.
    :ivar calls: how many calls were made.
    :ivar turn_ends: called, once, when the call under way has returned; what a real reactor does
        in the same iteration, such as handing to the kernel what was written.
    """

    _log = Logger()

    def __init__(self, random: Randomness) -> None:
        self.now = 0.0
        self.calls = 0
        self.turn_ends: list[Callable[[], object]] = []
        self._random = random.random
        self._sequence = 0
        self._dead = 0
        self._heap: list[tuple[float, float, int, SimCall]] = []

    def seconds(self) -> float:
        """:attr:`now`."""
        return self.now

    def callLater(
        self, delay: float, callable: Callable[..., Any], *args: object, **kwargs: object
    ) -> SimCall:
        """Make a call of the simulation itself, which no crash cancels."""
        if delay < 0:
            raise ValueError(f"a call cannot be made {-delay} s ago")
        return self.call_at(None, self.now + delay, callable, args, kwargs)

    def callFromThread(self, callable: Callable[..., Any], *args: object, **kwargs: object) -> None:
        """Make a call soon; there are no threads here."""
        self.call_at(None, self.now, callable, args, kwargs)

    def getDelayedCalls(self) -> Sequence[SimCall]:
        """The calls to come."""
        return [
            call
            for due, _, _, call in self._heap
            if call.due == due and call.active() and not (call.clock and call.clock.crashed)
        ]

    def call_at(
        self,
        clock: NodeClock | None,
        due: float,
        call: Callable[..., Any],
        arguments: tuple[Any, ...] = (),
        keywords: dict[str, Any] | None = None,
    ) -> SimCall:
        """Make a call at ``due``, of this loop's seconds, unless ``clock``, its node's, has
        crashed by then."""
        now = self.now
        planned = SimCall(self, clock, due if due > now else now, call, arguments, keywords)
        self._sequence += 1
        heapq.heappush(self._heap, (planned.due, self._random(), self._sequence, planned))
        return planned

    def plan(self, call: SimCall) -> None:
        """Put ``call`` in its place, also if it had another before."""
        self._sequence += 1
        heapq.heappush(self._heap, (call.due, self._random(), self._sequence, call))

    def discarded(self) -> None:
        """An entry of the heap counts no more."""
        self._dead += 1
        if self._dead > DEAD_ENTRIES and self._dead > len(self._heap) // 2:
            # In place: run_until() holds on to the list.
            self._heap[:] = [
                entry for entry in self._heap if entry[3].due == entry[0] and entry[3].active()
            ]
            heapq.heapify(self._heap)
            self._dead = 0

    def run_until(self, time: float, done: Callable[[], bool] | None = None) -> bool:
        """Let time pass until ``time``, or until ``done`` says so, which is asked after each
        distinct instant.

        :return: what ``done`` said last; False without it.
        :raises SimulationStuck: time does not go on.
        """
        heap = self._heap
        ends = self.turn_ends
        pop = heapq.heappop
        first = self.calls
        if ends:
            # Written by whoever drives the simulation, between two runs.
            self._end_turn()
        while heap and heap[0][0] <= time:
            if heap[0][0] > self.now and done is not None and done():
                return True
            due, _, _, call = pop(heap)
            # A call that was moved stands in the heap twice; only its newest place counts.
            if due != call.due:
                continue
            if due > self.now:
                self.now = due
                first = self.calls
            elif self.calls - first > MOST_AT_ONCE:
                raise SimulationStuck(f"at {self.now} s, with {call} next")
            try:
                if call.fire():
                    self.calls += 1
            except Exception:  # noqa: BLE001 - as a reactor does; the simulation counts it
                self._log.failure("Unhandled error in a call of the simulation")
            if ends:
                self._end_turn()
        if done is not None and done():
            return True
        self.now = max(self.now, time)
        return False

    def _end_turn(self) -> None:
        ends = self.turn_ends
        # It grows while it is walked through.
        for end in ends:
            try:
                end()
            except Exception:  # noqa: BLE001 - as above
                self._log.failure("Unhandled error at the end of a turn of the simulation")
        ends.clear()


@implementer(IReactorTime)
class NodeClock:
    """The clock of one process, which may run fast or slow and starts where it likes.

    :param drift: seconds of this clock per second of the simulation.
    :param offset: what it says when the simulation begins.
    :param wall_offset: by how much its wall clock is wrong.
    :ivar crashed: once set, none of its calls is made any more.
    :ivar stalled_until: before that time of the simulation none of its calls is made, but late, as
        when a process is stopped or gets no CPU.
    """

    def __init__(
        self,
        reactor: SimReactor,
        drift: float = 1.0,
        offset: float = 0.0,
        wall_offset: float = 0.0,
    ) -> None:
        self.crashed = False
        self.stalled_until = 0.0
        self._reactor = reactor
        self._drift = drift
        self._offset = offset
        self._wall_offset = wall_offset

    def seconds(self) -> float:
        """Monotonic seconds of this node."""
        return self._reactor.now * self._drift + self._offset

    def at(self, time: float) -> float:
        """What this clock says at ``time`` of the simulation."""
        return time * self._drift + self._offset

    def real(self, seconds: float) -> float:
        """How much time of the simulation passes in so many seconds of this clock."""
        return seconds / self._drift

    def wall_time(self) -> float:
        """Seconds since the epoch, as this node believes."""
        return EPOCH + self._reactor.now * self._drift + self._wall_offset

    def callLater(
        self, delay: float, callable: Callable[..., Any], *args: object, **kwargs: object
    ) -> SimCall:
        """Make a call after ``delay`` seconds of this clock, unless the node crashes before."""
        if delay < 0:
            raise ValueError(f"a call cannot be made {-delay} s ago")
        if 0 < delay < GRANULARITY:
            delay = GRANULARITY
        reactor = self._reactor
        time = reactor.now + delay / self._drift
        due = self.seconds() + delay
        while self.at(time) < due:
            # Rounded down. Real calls are never early: a LoopingCall would make its own twice.
            time += ROUNDING
        return reactor.call_at(self, time, callable, args, kwargs or None)

    def callFromThread(self, callable: Callable[..., Any], *args: object, **kwargs: object) -> None:
        """Make a call soon; there are no threads here."""
        self.callLater(0, callable, *args, **kwargs)

    def getDelayedCalls(self) -> Sequence[SimCall]:
        """This node's calls to come."""
        return [call for call in self._reactor.getDelayedCalls() if call.clock is self]

    def stall(self, seconds: float) -> None:
        """Make none of its calls for so many seconds of the simulation."""
        self.stalled_until = max(self.stalled_until, self._reactor.now + seconds)
