"""How long to wait before the next try: exponential, jittered, capped.

Pure but for the randomness passed in; whoever uses it has the clock.
"""

from __future__ import annotations

from bzzz.net.interfaces import Randomness

__all__ = ["Backoff"]

# First wait in seconds: a restarting daemon is back by then.
BASE = 1.0
FACTOR = 2.0

# Longest wait in seconds: what is tried for ever is to be found within a minute of its return.
CAP = 60.0

# Share of a wait that is random: half, so that nodes that lost a peer together do not
# return together.
JITTER = 0.5


class Backoff:
    """The waits between tries at one thing.

    The n-th wait is drawn from ``[(1 - jitter) * d, d]`` with
    ``d = min(cap, base * factor ** n)``, so that none is longer than ``cap``.

    :param base: the first wait's upper bound in seconds.
    :param cap: the longest wait in seconds.
    :param jitter: 0 for none, up to 1.
    """

    __slots__ = ("_base", "_cap", "_factor", "_jitter", "_random", "_upper")

    def __init__(
        self,
        base: float = BASE,
        factor: float = FACTOR,
        cap: float = CAP,
        jitter: float = JITTER,
        *,
        random: Randomness,
    ) -> None:
        self._base = base
        self._factor = factor
        self._cap = cap
        self._jitter = jitter
        self._random = random
        self._upper = min(base, cap)

    def next_delay(self) -> float:
        """Seconds to wait before the next try; each call is one more failed try."""
        upper = self._upper
        # Grown from the last one and not as a power, which overflows after months of trying.
        self._upper = min(self._cap, upper * self._factor)
        return self._random.uniform(upper * (1.0 - self._jitter), upper)

    def reset(self) -> None:
        """A try succeeded: the next wait is the first again."""
        self._upper = min(self._base, self._cap)
