"""Short work for many tasks at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from bzzz.tasks.batches import Batches


class BatchesTests(SynchronousTestCase):
    """Work while the thread is busy."""

    def setUp(self) -> None:
        self.calls: list[tuple[Callable[[], Any], Deferred[Any]]] = []
        self.batches = Batches(self.in_thread)

    def in_thread(self, work: Callable[[], Any]) -> Deferred[Any]:
        done: Deferred[Any] = Deferred()
        self.calls.append((work, done))
        return done

    def run_thread(self) -> None:
        work, done = self.calls.pop(0)
        done.callback(work())

    def test_together(self) -> None:
        """What comes meanwhile is one call, and each gets its own result, or its own error."""
        first = self.batches(lambda: 1)
        others = [self.batches(lambda: 2), self.batches(lambda: 1 // 0), self.batches(lambda: 3)]
        self.assertEqual(len(self.calls), 1)
        self.run_thread()
        self.assertEqual(self.successResultOf(first), 1)
        self.assertEqual(len(self.calls), 1)
        self.assertNoResult(others[0])
        self.run_thread()
        self.assertEqual(self.successResultOf(others[0]), 2)
        self.failureResultOf(others[1], ZeroDivisionError)
        self.assertEqual(self.successResultOf(others[2]), 3)
        self.assertEqual(self.calls, [])
        again = self.batches(lambda: 4)
        self.run_thread()
        self.assertEqual(self.successResultOf(again), 4)

    def test_no_thread(self) -> None:
        """Where there is no thread all hear of it, and the next are tried again."""
        waiting = self.batches(lambda: 1)
        later = self.batches(lambda: 2)
        self.calls.pop(0)[1].errback(RuntimeError("no threads"))
        self.failureResultOf(waiting, RuntimeError)
        self.run_thread()
        self.assertEqual(self.successResultOf(later), 2)
