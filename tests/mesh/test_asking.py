"""When which link is asked for other peers."""

from __future__ import annotations

import itertools
from typing import Any

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from bzzz.mesh.asking import AFTER, BURST, GAP, PATIENCE, Asking


class AskingTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.asked: list[tuple[Any, float]] = []
        self.calm = True
        self.asking = Asking(
            self.clock,
            lambda link: self.asked.append((link, self.clock.seconds())),
            lambda: self.calm,
        )

    def up(self, *names: str) -> None:
        for name in names:
            link: Any = name
            self.asking.link_up(link)

    def down(self, *names: str) -> None:
        for name in names:
            link: Any = name
            self.asking.link_down(link)

    def test_few(self) -> None:
        """Each is asked once, soon after its link came up."""
        self.up(*"abcd"[:BURST])
        self.clock.advance(AFTER - 0.01)
        self.assertEqual(self.asked, [])
        self.clock.advance(0.01)
        self.assertEqual([link for link, _ in self.asked], list("abcd"[:BURST]))
        self.clock.advance(100)
        self.assertEqual(len(self.asked), BURST)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_many(self) -> None:
        """Of many at once all are asked, a burst and then one by one."""
        self.up(*"abcdefghij")
        for _ in range(1000):
            self.clock.advance(0.01)
        times = [at for _, at in self.asked]
        self.assertEqual([link for link, _ in self.asked], list("abcdefghij"))
        for index, at in enumerate(times):
            late = max(0, index - BURST + 1) * GAP
            self.assertLess(abs(at - AFTER - late), 0.02)

    def test_forming(self) -> None:
        """While a mesh forms only a burst is asked; the others when it is done."""
        self.calm = False
        self.up(*"abcdefgh")
        self.clock.pump([0.1] * int(10 * PATIENCE))
        self.assertEqual([link for link, _ in self.asked], list("abcdefgh"[:BURST]))
        self.calm = True
        self.clock.pump([0.1] * 100)
        self.assertEqual([link for link, _ in self.asked], list("abcdefgh"))
        times = [at for _, at in self.asked[BURST:]]
        for before, after in itertools.pairwise(times):
            self.assertGreater(after - before, 0.9 * GAP)

    def test_forming_for_ever(self) -> None:
        """Somebody who always has a handshake under way does not keep the others from being asked,
        and after that the patience is as great as before."""
        self.calm = False
        for names in ("abcdefgh", "ijklmnop"):
            self.asked.clear()
            self.up(*names)
            self.clock.pump([0.1] * int(10 * PATIENCE))
            self.assertEqual([link for link, _ in self.asked], list(names[:BURST]))
            self.clock.pump([0.1] * int(10 * (BURST + 3) * GAP))
            self.assertEqual([link for link, _ in self.asked], list(names))
            self.clock.pump([0.1] * int(10 * BURST * GAP))

    def test_rested(self) -> None:
        """After a quiet time there is a burst again."""
        self.up(*"abcd")
        self.clock.advance(AFTER)
        self.clock.advance(BURST * GAP)
        self.up(*"efgh")
        self.clock.advance(AFTER)
        self.assertEqual(len(self.asked), 2 * BURST)

    def test_gone(self) -> None:
        """Who is gone is not asked, whether it was new or waiting."""
        self.up(*"abcdefg")
        self.down("a")
        self.clock.advance(AFTER)
        self.down("f", "g", "a", "b")
        self.clock.advance(100)
        self.assertEqual([link for link, _ in self.asked], list("bcde"))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_stop(self) -> None:
        self.up(*"abcdef")
        self.clock.advance(AFTER)
        self.up("g")
        self.asking.stop()
        self.assertEqual(self.clock.getDelayedCalls(), [])
