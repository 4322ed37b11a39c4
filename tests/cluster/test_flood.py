"""Strangers that open 1000 connections a second to a member: others of its cluster notice little.

What is measured, and how node and attackers are kept apart, is in :mod:`benchmarks.hostile`, of
which this is a short round; the attacks are those of :mod:`benchmarks.peers.enemies`.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from benchmarks.common import Children, number, rss_mb
from benchmarks.hostile import ATTACKS, MEMORY, PINGS
from benchmarks.victims import RATE, Bzzz, Figures

# Seconds of one attack.
SECONDS = 4.0

# What the machine does to a ping happens once; what an attack does to it, each time.
TRIES = 3

# Of the connections that were to be made, those that have to be, or nothing is tested.
MADE = 0.8

SHOWN = ("arrived", "refused", "proved", "p50_ms", "p99_ms", "dial_ms", "cpu", "turn_ms", "peak_mb")


class FloodTests(SynchronousTestCase):
    """One attack after the other on a node that founded a cluster."""

    def setUp(self) -> None:
        place = tempfile.TemporaryDirectory(prefix="bzzz-flood-")
        self.addCleanup(place.cleanup)
        children = Children()
        self.addCleanup(children.end)
        self.node = Bzzz(children, Path(place.name), first=True)

    def test_strangers(self) -> None:
        """Members' pings take 20 ms at most, 99 of 100; memory grows by 20 MB at most; no link of
        a member is lost, a member that comes back is linked, and nobody is let in."""
        members = self.members()
        print(f"\n  {'':8}", *(f"{name:>9}" for name in SHOWN))
        self.row("none", self.node.calm(SECONDS))
        before = rss_mb(self.node.pid)
        for attack in ATTACKS:
            for left in reversed(range(TRIES)):
                figures = self.node.attacked(attack, SECONDS, before)
                self.row(attack, figures)
                p99 = figures["p99_ms"] or float("inf")
                if p99 <= PINGS.value or not left:
                    break
            self.assertLessEqual(p99, PINGS.value, attack)
            self.assertLessEqual(figures["peak_mb"] or 0, MEMORY.value, attack)
            self.assertGreaterEqual(figures["arrived"] or 0, MADE * RATE, attack)
            self.assertEqual((figures["lost"], figures["dials_failed"]), (0, 0), attack)
        self.assertEqual(self.without_links(members), self.without_links(self.members()))
        self.assertNotIn("Traceback", self.node.log)

    def members(self) -> list[dict[str, object]]:
        members: list[dict[str, object]] = self.node.ask("members")["members"]
        return members

    @staticmethod
    def without_links(members: list[dict[str, object]]) -> list[dict[str, object]]:
        return [{**member, "connected": None} for member in members]

    def row(self, attack: str, figures: Figures) -> None:
        print(f"  {attack:8}", *(f"{number(figures.get(name)):>9}" for name in SHOWN), flush=True)
