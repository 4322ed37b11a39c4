"""Token buckets: what they admit, and what is forgotten when the table is full."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from bzzz.net.token_bucket import LOOKS, Rate, TokenBucket, TokenBuckets

BURSTS = st.integers(1, 20)
RATES = st.floats(0.125, 50.0)
PAUSES = st.lists(st.floats(0.0, 3.0), max_size=60)


class BucketTests(SynchronousTestCase):
    """One bucket."""

    def test_burst(self) -> None:
        """So many at once, and then one for each interval."""
        bucket = TokenBucket(3, 2.0)
        self.assertEqual([bucket.take(5.0) for _ in range(5)], [True] * 3 + [False] * 2)
        self.assertFalse(bucket.take(5.4))
        self.assertTrue(bucket.take(5.5))
        self.assertFalse(bucket.take(5.5))
        self.assertEqual([bucket.take(100.0) for _ in range(5)], [True] * 3 + [False] * 2)

    def test_given_back(self) -> None:
        """What is given back can be taken again, and never makes more than the burst."""
        bucket = TokenBucket(2, 1.0)
        bucket.give_back(0.0)
        self.assertEqual([bucket.take(0.0) for _ in range(3)], [True, True, False])
        bucket.give_back(0.0)
        self.assertEqual([bucket.take(0.0) for _ in range(2)], [True, False])

    def test_has(self) -> None:
        """To ask whether there is one takes none."""
        bucket = TokenBucket(1, 1.0)
        self.assertEqual([bucket.has(0.0), bucket.has(0.0), bucket.take(0.0)], [True] * 3)
        self.assertEqual([bucket.has(0.9), bucket.has(1.0)], [False, True])

    def test_full(self) -> None:
        """It is full at first, and again when all that was taken has come back."""
        bucket = TokenBucket(2, 1.0)
        self.assertTrue(bucket.is_full(0.0))
        bucket.take(0.0)
        self.assertFalse(bucket.is_full(0.9))
        self.assertTrue(bucket.is_full(1.0))

    @given(BURSTS, RATES, PAUSES)
    def test_never_more(self, burst: int, per_second: float, pauses: list[float]) -> None:
        """In no interval more is admitted than the burst and what the interval brings."""
        bucket = TokenBucket(burst, per_second)
        now = 0.0
        taken = []
        for pause in pauses:
            now += pause
            if bucket.take(now):
                taken.append(now)
        for first, begin in enumerate(taken):
            for last in range(first, len(taken)):
                count = last - first + 1
                self.assertLessEqual(count, burst + per_second * (taken[last] - begin) + 1e-6)

    @given(BURSTS, RATES, PAUSES)
    def test_never_less(self, burst: int, per_second: float, pauses: list[float]) -> None:
        """Who waits for a token to come back gets it, however much was refused before."""
        bucket = TokenBucket(burst, per_second)
        now = 0.0
        for pause in pauses:
            now += pause
            bucket.take(now)
        self.assertTrue(bucket.take(now + 1.0 / per_second + 1e-6))

    @given(BURSTS, RATES, st.lists(st.tuples(st.booleans(), st.floats(-3.0, 3.0)), max_size=50))
    def test_any_clock(
        self, burst: int, per_second: float, steps: list[tuple[bool, float]]
    ) -> None:
        """A clock that goes back brings nothing, nor what it has brought before once more."""
        bucket = TokenBucket(burst, per_second)
        now = latest = lowest = 0.0
        taken = given = 0
        for gives, step in steps:
            now += step
            latest, lowest = max(latest, now), min(lowest, now)
            if gives:
                bucket.give_back(now)
                given += 1
            else:
                taken += bucket.take(now)
        self.assertLessEqual(taken, burst + given + per_second * (latest - lowest) + 1e-6)
        self.assertLessEqual(sum(bucket.take(now) for _ in range(burst + 5)), burst)


class BucketsTests(SynchronousTestCase):
    """A table of them."""

    def test_apart(self) -> None:
        """What one takes the others do not miss."""
        buckets = TokenBuckets[str](Rate(1, 1.0), 10)
        self.assertEqual([buckets.take("a", 0.0) for _ in range(2)], [True, False])
        self.assertTrue(buckets.take("b", 0.0))
        buckets.give_back("a", 0.0)
        buckets.give_back("nobody", 0.0)
        self.assertTrue(buckets.take("a", 0.0))
        self.assertEqual(len(buckets), 2)

    def test_full_ones_go_first(self) -> None:
        """In a full table the newcomer has the place of one whose bucket says nothing."""
        buckets = TokenBuckets[str](Rate(4, 1.0), 3)
        for _ in range(4):
            buckets.take("spent", 0.0)
        buckets.take("once", 0.5)
        buckets.take("late", 1.4)
        buckets.take("new", 1.6)
        self.assertIn("spent", buckets)
        self.assertNotIn("once", buckets)
        self.assertEqual([buckets.take("spent", 1.6) for _ in range(2)], [True, False])

    def test_else_the_oldest(self) -> None:
        """If none is full the one goes that was not used for longest."""
        buckets = TokenBuckets[str](Rate(4, 1.0), 3)
        for name in ("a", "b", "c", "a"):
            buckets.take(name, 0.0)
        buckets.take("d", 0.0)
        self.assertNotIn("b", buckets)
        self.assertIn("a", buckets)

    def test_who_keeps_on_stays(self) -> None:
        """However many come once, who comes again and again finds the bucket as it was left."""
        buckets = TokenBuckets[int](Rate(2, 0.01), 16)
        admitted = 0
        for number in range(1000):
            buckets.take(number + 1, number * 0.001)
            if number % 8 == 0:
                admitted += buckets.take(0, number * 0.001)
        self.assertEqual(admitted, 2)

    def test_shrinks(self) -> None:
        """When few come after many, the table does not stay as large as it was."""
        buckets = TokenBuckets[int](Rate(2, 1.0), 1000)
        for number in range(100):
            buckets.take(number, 0.0)
        for number in range(100, 100 + 100 // LOOKS + 1):
            buckets.take(number, 10.0)
        self.assertLess(len(buckets), 40)

    @given(
        st.integers(1, 8),
        st.lists(st.tuples(st.integers(0, 20), st.floats(0.0, 0.5)), max_size=100),
    )
    def test_cap(self, capacity: int, uses: list[tuple[int, float]]) -> None:
        """There are never more buckets than the table may hold, and the newest is there."""
        buckets = TokenBuckets[int](Rate(2, 1.0), capacity)
        now = 0.0
        for key, pause in uses:
            now += pause
            buckets.take(key, now)
            self.assertLessEqual(len(buckets), capacity)
            self.assertIn(key, buckets)

    def test_words(self) -> None:
        """A rate in the words of logs and of the manual."""
        self.assertEqual(str(Rate(256, 16.0)), "256, then 16 a second")
