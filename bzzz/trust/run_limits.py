"""How often runs of an invitation may begin (``docs/trust.rst``, "Pairing").

Enters: the time, in seconds since the epoch; where runs come from. Leaves: whether one more may.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable

__all__ = ["MAX_PLACES", "RunBucket", "RunPlaces"]

# Places of which a code remembers its runs. Each has a bucket that is full again after a minute, in
# which at most 32 runs of a code begin: so none is forgotten before.
MAX_PLACES = 64


class RunBucket:
    """A token bucket of runs: so many at once, and as many more in each minute.

    Unlike those of :mod:`bzzz.net.token_bucket` it goes by the time of day, as invitations do.
    """

    __slots__ = ("_left", "_size", "_then")

    def __init__(self, size: int) -> None:
        self._size = float(size)
        self._left = float(size)
        self._then = float("-inf")

    def has(self, now: float) -> bool:
        """Whether there is one."""
        # A clock that was set back gives nothing, and takes nothing away.
        passed = min(max(0.0, now - self._then), 60.0)
        self._left = min(self._size, self._left + passed * self._size / 60.0)
        self._then = now
        return self._left >= 1.0

    def take(self) -> None:
        """Take the one that there is."""
        self._left -= 1.0

    @property
    def left(self) -> float:
        """What it had when it was last asked."""
        return self._left


class RunPlaces:
    """A bucket for each of the places that runs of one code come from.

    :param size: of each.
    """

    __slots__ = ("_buckets", "_size")

    def __init__(self, size: int) -> None:
        self._size = size
        # The one that was not used for longest comes first.
        self._buckets: OrderedDict[Hashable, RunBucket] = OrderedDict()

    def has(self, place: Hashable, now: float) -> bool:
        """Whether there is one of the place's."""
        bucket = self._buckets.get(place)
        return bucket is None or bucket.has(now)

    def take(self, place: Hashable, now: float) -> None:
        """Take the one that there is."""
        bucket = self._buckets.setdefault(place, RunBucket(self._size))
        self._buckets.move_to_end(place)
        if bucket.has(now):
            bucket.take()
        if len(self._buckets) > MAX_PLACES:
            self._buckets.popitem(last=False)

    def busiest(self, count: int, now: float) -> list[Hashable]:
        """The places that have fewest left."""
        for bucket in self._buckets.values():
            bucket.has(now)
        ranked = sorted(self._buckets, key=lambda place: self._buckets[place].left)
        return ranked[:count]
