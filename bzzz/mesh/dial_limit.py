"""How many dials a node has under way at once.

Enters: how long dials took. Leaves: a number. On an idle network a dial takes milliseconds and the
number is of no account. When a hundred nodes start together, or a machine is busy, more handshakes
at once than the processors have time for only make each of them longer, until all of them miss
their deadline; so the number is halved when dials become slow and grows by one with each that was
quick: additive increase, multiplicative decrease (Chiu and Jain, 1989), as TCP does it.
"""

from __future__ import annotations

__all__ = ["FEWEST", "MOST", "QUICK", "SLOW", "DialLimit"]

# Enough for a mesh to form in a moment on an idle network. Peers that do not answer hold their
# place for some seconds, and others must get theirs beside them.
MOST = 16

# Two, so that one peer that does not answer does not keep all others waiting.
FEWEST = 2

# Dials that took less, and more, in seconds: a handshake takes 3 ms of CPU time in all.
QUICK = 0.5
SLOW = 1.0


class DialLimit:
    """The limit.

    :ivar value: how many dials may be under way.
    """

    def __init__(self) -> None:
        self.value = MOST
        self._cut_at = float("-inf")

    def took(self, seconds: float, now: float) -> None:
        """A dial with a handshake, be it finished or given up, took so long.

        Dials that began before the last cut say nothing about how it is since.
        """
        if seconds < QUICK:
            self.value = min(MOST, self.value + 1)
        elif seconds > SLOW and now - seconds >= self._cut_at:
            self.value = max(FEWEST, self.value // 2)
            self._cut_at = now
