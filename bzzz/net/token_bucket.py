"""How often something may happen: so much at once, and so much more each second.

Enters: the time, in seconds of any monotonic clock. Leaves: whether it may happen once more at that
moment. Of many who are counted apart, each has a bucket, in a table that has a cap.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass
from itertools import islice
from typing import Generic, TypeVar

__all__ = ["Rate", "TokenBucket", "TokenBuckets"]

# Buckets, of those not used for longest, that are looked at when one is added. More than one, so
# that a table shrinks while others come than before.
LOOKS = 4

Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Rate:
    """What a bucket admits.

    :ivar burst: at once.
    :ivar per_second: from then on.
    """

    burst: int
    per_second: float

    def __mul__(self, times: int) -> Rate:
        """So many times as much."""
        return Rate(self.burst * times, self.per_second * times)

    def __str__(self) -> str:
        return f"{self.burst}, then {self.per_second:g} a second"


class TokenBucket:
    """One bucket, full at first.

    :param burst: tokens that it holds.
    :param per_second: tokens that are put into it.
    """

    __slots__ = ("_at", "_burst", "_per_second", "_tokens")

    def __init__(self, burst: float, per_second: float) -> None:
        self._burst = self._tokens = float(burst)
        self._per_second = per_second
        self._at = float("-inf")

    def has(self, now: float) -> bool:
        """Whether there is a token."""
        return self._fill(now) >= 1.0

    def take(self, now: float) -> bool:
        """Take a token; whether there was one."""
        tokens = self._fill(now)
        if tokens < 1.0:
            return False
        self._tokens = tokens - 1.0
        return True

    def give_back(self, now: float) -> None:
        """Put a token back, if there is room for it."""
        self._tokens = min(self._burst, self._fill(now) + 1.0)

    def is_full(self, now: float) -> bool:
        """Whether it is as a new one is."""
        return self._fill(now) >= self._burst

    def _fill(self, now: float) -> float:
        if now > self._at:
            if self._tokens < self._burst:
                self._tokens = min(self._burst, self._tokens + (now - self._at) * self._per_second)
            self._at = now
        return self._tokens


class TokenBuckets(Generic[Key]):
    """A bucket for each of many.

    When the table is full one makes room, one that is full if there is such among the
    :data:`LOOKS` not used for longest: a full bucket says no more than none. Else the one not
    used for longest goes, so that who keeps on never gets a new one.

    :param rate: of each.
    :param capacity: buckets at most.
    """

    def __init__(self, rate: Rate, capacity: int) -> None:
        self.rate = rate
        self._capacity = capacity
        # The one that was not used for longest comes first. In a plain dict it takes ever longer to
        # find that one, while others before it are deleted.
        self._buckets: OrderedDict[Key, TokenBucket] = OrderedDict()

    def __len__(self) -> int:
        return len(self._buckets)

    def __contains__(self, key: Key) -> bool:
        return key in self._buckets

    def has(self, key: Key, now: float) -> bool:
        """Whether there is a token of ``key``'s.

        It counts as use of the bucket, but makes none where there is none.
        """
        bucket = self._buckets.get(key)
        if bucket is None:
            return True
        self._buckets.move_to_end(key)
        return bucket.has(now)

    def take(self, key: Key, now: float) -> bool:
        """Take a token of ``key``'s; whether there was one."""
        bucket = self._buckets.get(key)
        if bucket is None:
            self._make_room(now)
            bucket = self._buckets[key] = TokenBucket(self.rate.burst, self.rate.per_second)
        else:
            self._buckets.move_to_end(key)
        return bucket.take(now)

    def give_back(self, key: Key, now: float) -> None:
        """Put a token back into ``key``'s, if there is room for it."""
        bucket = self._buckets.get(key)
        if bucket is not None:
            bucket.give_back(now)

    def _make_room(self, now: float) -> None:
        buckets = self._buckets
        for key in list(islice(buckets, LOOKS)):
            if buckets[key].is_full(now):
                del buckets[key]
        if len(buckets) >= self._capacity:
            buckets.popitem(last=False)
