"""How late this node's own reactor is.

A node that was starved of CPU, stopped or suspended has not been listening, so it must not say of
others that they were silent: what it waited is counted only while its reactor ran on time. After
the idea of HashiCorp memberlist's "Lifeguard" (Dadgar, Phillips, Currey, 2018, section 4): suspect
yourself before others.
"""

from __future__ import annotations

from twisted.internet.task import LoopingCall

from bzzz.net.interfaces import Clock

__all__ = ["ReactorLag"]

# How often the reactor's punctuality is measured, in seconds: fine enough that a stall of half a
# second is seen before the next deadline is judged, and four wake-ups a second cost nothing.
INTERVAL = 0.25

# Lateness below this is how every loaded machine is, in seconds, and is not discounted.
TOLERANCE = 0.05

# The worst lateness is told over this many seconds.
WINDOW = 60.0


class ReactorLag:
    """Measures how late timers fire.

    :ivar total: seconds that the reactor was late in all, beyond the tolerance of each turn.
    """

    def __init__(self, clock: Clock) -> None:
        self.total = 0.0
        self._clock = clock
        self._due = 0.0
        self._worst: list[tuple[float, float]] = []
        self._loop = LoopingCall(self._tick)
        self._loop.clock = clock  # type: ignore[assignment]  # typed as the global reactor

    def start(self) -> None:
        """Start to measure."""
        self._due = self._clock.seconds()
        self._loop.start(INTERVAL)

    def stop(self) -> None:
        """Measure no more."""
        if self._loop.running:
            self._loop.stop()

    def so_far(self) -> float:
        """:attr:`total`, with the lateness of the measurement that is overdue right now.

        Timers that are due at once run in any order, so a deadline may be judged before the
        measurement that would have excused it.
        """
        overdue = self._clock.seconds() - self._due
        return self.total + max(0.0, overdue - TOLERANCE)

    def worst(self) -> float:
        """The worst lateness of the last minute, in seconds."""
        since = self._clock.seconds() - WINDOW
        self._worst = [(when, late) for when, late in self._worst if when >= since]
        return max((late for _, late in self._worst), default=0.0)

    def _tick(self) -> None:
        now = self._clock.seconds()
        late = now - self._due
        if late > TOLERANCE:
            self.total += late - TOLERANCE
        if late > 0.001 and (
            not self._worst or late > self._worst[-1][1] or len(self._worst) < 240
        ):
            self._worst.append((now, late))
            if len(self._worst) > 240:
                self.worst()
        self._due = now + INTERVAL
