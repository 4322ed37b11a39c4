"""Waits grow, stay below their cap, and start over."""

from __future__ import annotations

from random import Random

from twisted.trial.unittest import SynchronousTestCase

from bzzz.net.backoff import Backoff


class Highest(Random):
    def uniform(self, a: float, b: float) -> float:
        return b


class Lowest(Random):
    def uniform(self, a: float, b: float) -> float:
        return a


class BackoffTests(SynchronousTestCase):
    """:class:`Backoff`."""

    def test_table(self) -> None:
        """The waits, at the most and at the least that chance gives."""
        cases: list[tuple[float, float, float, float, list[float], list[float]]] = [
            # base, factor, cap, jitter, most, least
            (1.0, 2.0, 60.0, 0.5, [1, 2, 4, 8, 16, 32, 60, 60], [0.5, 1, 2, 4, 8, 16, 30, 30]),
            (0.1, 3.0, 1.0, 0.0, [0.1, 0.3, 0.9, 1.0, 1.0], [0.1, 0.3, 0.9, 1.0, 1.0]),
            (5.0, 2.0, 2.0, 1.0, [2, 2, 2], [0, 0, 0]),
        ]
        for base, factor, cap, jitter, most, least in cases:
            for random, expected in ((Highest(), most), (Lowest(), least)):
                backoff = Backoff(base, factor, cap, jitter, random=random)
                for delay in expected:
                    self.assertAlmostEqual(backoff.next_delay(), delay)

    def test_reset(self) -> None:
        """After a success the first wait comes again."""
        backoff = Backoff(random=Highest())
        self.assertEqual([backoff.next_delay() for _ in range(3)], [1.0, 2.0, 4.0])
        backoff.reset()
        self.assertEqual(backoff.next_delay(), 1.0)

    def test_for_ever(self) -> None:
        """A hundred thousand failures neither overflow nor pass the cap."""
        backoff = Backoff(random=Random(1))
        self.assertTrue(all(0 < backoff.next_delay() <= 60.0 for _ in range(100_000)))
