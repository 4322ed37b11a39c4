"""How the links of a node share each turn of its reactor.

A turn is from when the kernel says what has happened until the reactor asks again. When a whole
mesh forms, or a peer floods, a hundred sockets have something to read in one turn, each worth a
millisecond; timers, pings and whoever asks over the control socket would wait for all of them. So
whoever has work to do for a peer asks here first: within the turn's budget it is done at once, and
after it in one of the next turns, first come, first served. Handshakes have a queue of their own,
and the two are served in turn: a handshake takes several turns, and must not wait in each behind
all that the others have to tell, or it misses its deadline; nor may strangers' handshakes hold up
peers.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from bzzz.net.interfaces import Clock

__all__ = ["BUDGET", "Turns"]

# What may be spent in one turn before the rest waits, in seconds. One thing more is always begun,
# and what cannot wait comes on top (writing, closing), so that a turn stays below 10 ms.
BUDGET = 0.003


class Turns:
    """The budget of each turn.

    :param clock: ``callLater(0)`` is the next turn.
    :param spent: seconds of CPU time this thread has used (:func:`time.thread_time`); without it
        a turn has time for everything, as in the simulator.
    """

    def __init__(self, clock: Clock, spent: Callable[[], float] | None = None) -> None:
        self._clock = clock
        self._spent = spent
        self._since = 0.0
        self._begun = False
        self._waiting: deque[Callable[[], None]] = deque()
        self._handshakes: deque[Callable[[], None]] = deque()

    @property
    def has_time(self) -> bool:
        """Whether there is time left in this turn."""
        if self._spent is None:
            return True
        if self._begun:
            return self._spent() - self._since < BUDGET
        self._begun = True
        self._since = self._spent()
        self._clock.callLater(0, self._next)
        return True

    def when_there_is_time(self, work: Callable[[], None]) -> None:
        """Do ``work`` now, or when its turn comes."""
        if not self._waiting and not self._handshakes and self.has_time:
            work()
        else:
            self.wait(work)

    def wait(self, work: Callable[[], None], handshake: bool = False) -> None:
        """Do ``work`` in a later turn.

        :param handshake: whether it is part of one.
        """
        if not self._begun:
            self._begun = True
            self._since = 0.0 if self._spent is None else self._spent()
            self._clock.callLater(0, self._next)
        (self._handshakes if handshake else self._waiting).append(work)

    def _next(self) -> None:
        """A new turn: first those who waited."""
        self._begun = False
        # What these put off again has its turn after the next.
        handshakes, others = len(self._handshakes), len(self._waiting)
        while handshakes or others:
            if handshakes:
                if not self.has_time:
                    return
                handshakes -= 1
                self._handshakes.popleft()()
            if others:
                if not self.has_time:
                    return
                others -= 1
                self._waiting.popleft()()
