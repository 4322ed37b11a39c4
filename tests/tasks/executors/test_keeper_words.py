"""Sizes for people."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from bzzz.tasks.executors.keeper_words import size


class SizeTests(SynchronousTestCase):
    def test_size(self) -> None:
        """Each has its largest unit, and as many digits as tell it from its limit."""
        for number, words in (
            (0, "0 bytes"),
            (1, "1 byte"),
            (1023, "1023 bytes"),
            (1024, "1 KiB"),
            (100 << 20, "100 MiB"),
            ((100 << 20) + (40 << 10), "100.04 MiB"),
            (3 << 29, "1.5 GiB"),
            (1 << 44, "16 TiB"),
        ):
            self.assertEqual(size(number), words)
