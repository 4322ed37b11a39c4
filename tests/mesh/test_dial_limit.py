"""How many dials are under way at once."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from bzzz.mesh.dial_limit import FEWEST, MOST, QUICK, SLOW, DialLimit


class DialLimitTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.limit = DialLimit()

    def test_quick(self) -> None:
        """Quick dials leave it at its most."""
        for now in range(100):
            self.limit.took(0.005, float(now))
        self.assertEqual(self.limit.value, MOST)

    def test_slow(self) -> None:
        """Slow dials halve it, down to its least; quick ones let it grow by one each."""
        for turn in range(1, 10):
            self.limit.took(SLOW + 1, turn * 10.0)
            self.assertEqual(self.limit.value, max(FEWEST, MOST >> turn))
        self.limit.took(QUICK / 2, 100.0)
        self.assertEqual(self.limit.value, FEWEST + 1)

    def test_one_cut(self) -> None:
        """Dials that were slow together, before the cut, cut it once."""
        for number in range(MOST):
            self.limit.took(SLOW + 1, 10.0 + number / 100)
        self.assertEqual(self.limit.value, MOST // 2)

    def test_neither(self) -> None:
        """Dials that are neither quick nor slow leave it as it is."""
        self.limit.took(SLOW + 1, 10.0)
        self.limit.took((QUICK + SLOW) / 2, 20.0)
        self.assertEqual(self.limit.value, MOST // 2)
