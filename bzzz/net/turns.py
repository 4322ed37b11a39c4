"""How the links of a node share each turn of its reactor.

A turn is from when the kernel says what has happened until the reactor asks again. When a whole
mesh forms, or a peer floods, a hundred sockets have something to read in one turn, each worth a
millisecond; timers, pings and whoever asks over the control socket would wait for all of them. So
whoever has work to do for a peer asks here first: within the turn's budget it is done at once, and
after it in one of the next turns, first come, first served. Strangers, in their handshake or as
guests, have a queue of their own, and the two are served in turn: a handshake takes several turns,
and must not wait in each behind all that the others have to tell, or it misses its deadline; nor
may strangers hold up members.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from bzzz.net.interfaces import Clock

__all__ = ["BUDGET", "Turns"]

# What may be spent in one turn before the rest waits, in seconds. One thing more is always begun,
# and what cannot wait comes on top (writing, closing), so that a turn stays below 10 ms.
BUDGET = 0.004

# What those who waited have of each turn, whatever was done in it before them, in seconds.
LEAST = 0.001


class Turns:
    """The budget of each turn.

    :param clock: ``callLater(0)`` is in this turn, after the sockets that have something to read.
    :param spent: seconds of CPU time this thread has used (:func:`time.thread_time`); without it
        a turn has time for everything, as in the simulator.
    """

    def __init__(self, clock: Clock, spent: Callable[[], float] | None = None) -> None:
        self._clock = clock
        self._spent = spent
        self._since = 0.0
        self._begun = False
        self._planned = False
        self._left_over = False
        self._strangers_next = True
        self._waiting: deque[Callable[[], None]] = deque()
        self._strangers: deque[Callable[[], None]] = deque()

    @property
    def is_free(self) -> bool:
        """Whether there is time left in this turn, and nobody waits since the one before."""
        return self.has_time and not self._left_over

    @property
    def has_time(self) -> bool:
        """Whether there is time left in this turn, for whoever has it already."""
        if self._spent is None:
            return True
        if self._begun:
            return self._spent() - self._since < BUDGET
        self._begin()
        self._plan()
        return True

    def when_there_is_time(self, work: Callable[[], None]) -> None:
        """Do ``work`` now, or when its turn comes."""
        if self.is_free:
            work()
        else:
            self.wait(work)

    def wait(self, work: Callable[[], None], stranger: bool = False) -> None:
        """Do ``work`` in a later turn, or at the end of this one.

        :param stranger: whether it is for a peer in its handshake, or for a guest.
        """
        (self._strangers if stranger else self._waiting).append(work)
        self._plan()

    def _begin(self) -> None:
        self._begun = True
        self._since = 0.0 if self._spent is None else self._spent()

    def _plan(self) -> None:
        if not self._planned:
            self._planned = True
            self._clock.callLater(0, self._end)

    def _end(self) -> None:
        """The sockets have been read: those who waited, with the time that is left, or a little.

        Who still waits then is first in the next turn: newcomers get in line behind them.
        """
        self._planned = False
        if not self._begun:
            self._begin()
        elif self._spent is not None:
            self._since = max(self._since, self._spent() - BUDGET + LEAST)
        try:
            self._serve()
        finally:
            # Also after a bug in some work, or nobody would be served again.
            self._begun = False
            self._left_over = False
            if self._waiting or self._strangers:
                self._left_over = self._spent is not None
                self._plan()

    def _serve(self) -> None:
        # What these put off again has its turn after the next.
        strangers, others = len(self._strangers), len(self._waiting)
        while (strangers or others) and self.has_time:
            # Kept from turn to turn, or one who takes all of each would be first in the next, too.
            first = bool(strangers) and (self._strangers_next or not others)
            self._strangers_next = not first
            if first:
                strangers -= 1
                self._strangers.popleft()()
            else:
                others -= 1
                self._waiting.popleft()()
