"""A job that is done again and again."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.logger import Logger
from twisted.trial.unittest import SynchronousTestCase

from bzzz.net.periodic import Periodic


class PeriodicTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.runs = 0
        self.answers: list[Any] = []
        self.job = Periodic(self.clock, 10.0, self.body, "the test", Logger(), timeout=3.0)

    def body(self) -> Any:
        self.runs += 1
        answer = self.answers.pop(0) if self.answers else None
        if isinstance(answer, Exception):
            raise answer
        return answer

    def test_again_and_again(self) -> None:
        self.job.start(now=False)
        self.clock.pump([10.0] * 5)
        self.assertEqual(self.runs, 5)
        self.job.start()
        self.assertEqual(self.runs, 5)

    def test_failures(self) -> None:
        """One that raises, and one whose Deferred fails, are logged, and the next one comes."""
        failing: Deferred[None] = Deferred()
        self.answers = [ZeroDivisionError(), failing]
        self.job.start()
        self.clock.advance(10)
        failing.errback(KeyError("key"))
        self.clock.advance(10)
        self.assertEqual(self.runs, 3)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError, KeyError)), 2)

    def test_never_ends(self) -> None:
        """One that does not end is given up, told of, and the next one comes."""
        self.answers = [Deferred()]
        self.job.start()
        self.clock.pump([3.0, 7.0])
        self.assertEqual(self.runs, 2)
        self.assertEqual(len(self.flushLoggedErrors()), 1)

    def test_stop(self) -> None:
        """What is under way is cancelled, without a word, and nothing is left to do."""
        cancelled: list[Any] = []
        self.answers = [Deferred(cancelled.append)]
        self.job.start()
        self.job.stop()
        self.job.stop()
        self.assertEqual(len(cancelled), 1)
        self.assertFalse(self.job.running)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertEqual(self.flushLoggedErrors(CancelledError), [])
