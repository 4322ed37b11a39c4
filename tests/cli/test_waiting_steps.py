"""Which steps are told to wait, and when."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from bzzz.cli.client import NodeError, NoNode
from bzzz.cli.silence import SECONDS
from bzzz.cli.waiting_steps import WaitingSteps
from tests.cli.task_node import reason


class FakeTimer:
    """In the place of :class:`threading.Timer`."""

    daemon = False

    def __init__(self, seconds: float, call: Callable[[], None]) -> None:
        self.seconds, self.call = seconds, call
        self.began = self.cancelled = False

    def start(self) -> None:
        self.began = True

    def cancel(self) -> None:
        self.cancelled = True


class WaitingStepsTests(SynchronousTestCase):
    """Steps, with time in a test's hands."""

    def setUp(self) -> None:
        self.now = 0.0
        self.timers: list[FakeTimer] = []
        self.said: list[str] = []
        self.asked = 0
        self.steps: list[dict[str, Any]] = []
        self.error: Exception | None = None
        self.waiting = WaitingSteps(
            self.ask, self.said.append, lambda: "bzzz why X", lambda: self.now, self.timer
        )

    def timer(self, *arguments: Any) -> Any:
        self.timers.append(FakeTimer(*arguments))
        return self.timers[-1]

    def ask(self) -> list[dict[str, Any]]:
        self.asked += 1
        if self.error is not None:
            raise self.error
        return self.steps

    def waits(self, *labels: str) -> None:
        self.steps += [
            reason(label, "submitted", "T", task_state="waiting", why="why") for label in labels
        ]

    def fire(self) -> None:
        timer = self.timers[-1]
        self.assertTrue(timer.began and timer.daemon)
        self.now += timer.seconds
        timer.call()

    def test_each_in_its_time(self) -> None:
        """Each is looked at when it is due, not before, and told once."""
        self.waits("a", "b")
        self.waiting.begin("a")
        self.now = 1.0
        self.waiting.begin("b")
        self.assertEqual([timer.seconds for timer in self.timers], [SECONDS])
        self.now = 0.0
        self.fire()
        self.assertEqual(self.said, ["a waits: why"])
        self.assertEqual([timer.seconds for timer in self.timers], [SECONDS, 1.0])
        self.fire()
        self.assertEqual(self.said, ["a waits: why", "b waits: why"])
        self.assertEqual((len(self.timers), self.asked), (2, 2))

    def test_over(self) -> None:
        """Of what is over by then nobody is asked, and of what runs nothing is said."""
        self.waits("a")
        self.waiting.begin("a")
        self.waiting.end("a")
        self.fire()
        self.assertEqual(self.asked, 0)
        self.steps = [reason("a", "submitted", "T", task_state="running")]
        self.waiting.begin("a")
        self.fire()
        self.assertEqual((self.asked, self.said), (1, []))

    def test_many(self) -> None:
        """Of many that wait some are told, and how many more there are."""
        for label in "abcde":
            self.waiting.begin(label)
        self.waits(*"abcde")
        self.fire()
        self.assertEqual(self.said[3:], ["2 more steps wait: bzzz why X"])

    def test_stop(self) -> None:
        """What was stopped says nothing more, though its thread may have begun."""
        self.waits("a")
        self.waiting.begin("a")
        self.waiting.stop()
        self.assertTrue(self.timers[0].cancelled)
        self.fire()
        self.assertEqual(self.asked, 0)

    def test_nobody_answers(self) -> None:
        """A node that does not answer is for whoever follows the workflow to tell."""
        for error in (NoNode("gone"), NodeError("starting", "not yet")):
            self.error = error
            self.waiting.begin("a")
            self.fire()
        self.assertEqual((self.asked, self.said), (2, []))

    def test_not_judged(self) -> None:
        """Of many that wait the reason of some is not looked for; it is said how to see it."""
        self.steps = [reason("a", "submitted", "T", task_state="waiting", why="")]
        self.waiting.begin("a")
        self.fire()
        self.assertEqual(self.said, ["a waits: see bzzz why T"])
