"""What the topic is told of tasks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from bzzz.tasks import record as states
from bzzz.tasks.announcing import BURST, PER_SECOND, TOGETHER, Announcing
from bzzz.tasks.ballots import Ballot
from bzzz.tasks.record import End, Policy, begin
from tests.tasks.fakes import name, record


class AnnouncingTests(SynchronousTestCase):
    """One replica, walnut."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.told: list[tuple[str, Mapping[str, Any]]] = []
        self.announcing = Announcing(
            name("walnut"), self.clock, lambda kind, data: self.told.append((kind, data))
        )

    def test_together(self) -> None:
        """What was decided in a moment is told at its end, in its order."""
        begun = begin(name("ironwood"), name("walnut"))
        over = states.finish(begun, Policy(0), name("ironwood"), begun.token, End.DONE, 0)
        assert over is not None
        self.announcing.decided(record(begun))
        self.clock.advance(TOGETHER / 2)
        self.announcing.decided(record(msgspec.structs.replace(over, version=1)))
        self.assertEqual(self.told, [])
        self.clock.advance(TOGETHER / 2)
        self.assertEqual(
            [kind for kind, _ in self.told], ["task_announcement", "task_claim", "task_complete"]
        )
        self.assertEqual(self.told[2][1]["completed_by"], name("ironwood"))

    def test_not_its_own(self) -> None:
        """What another replica has decided is that one's to tell."""
        self.announcing.decided(record(begin(), ballot=Ballot(1, 1)))
        self.clock.advance(1)
        self.assertEqual(self.told, [])

    def test_too_many(self) -> None:
        """No more than some are told, and some a second."""
        for _ in range(3 * BURST):
            self.announcing.decided(record(begin()))
        self.clock.advance(TOGETHER)
        self.assertEqual(len(self.told), BURST)
        self.clock.advance(1 - TOGETHER)
        for _ in range(3 * BURST):
            self.announcing.decided(record(begin()))
        self.clock.advance(TOGETHER)
        self.assertAlmostEqual(len(self.told), BURST + PER_SECOND, delta=1)

    def test_stop(self) -> None:
        """A node that stops tells nothing more."""
        self.announcing.decided(record(begin()))
        self.announcing.stop()
        self.clock.advance(1)
        self.assertEqual((self.told, self.clock.getDelayedCalls()), ([], []))
