"""Many planned calls by one call of the clock."""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from bzzz.net.alarms import Alarm, Alarms


class AlarmsTests(SynchronousTestCase):
    """On a clock of the test."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.alarms = Alarms(self.clock)
        self.rung: list[str] = []

    def plan(self, seconds: float, name: str) -> Alarm:
        return self.alarms.call_later(seconds, lambda: self.rung.append(name))

    def test_order(self) -> None:
        """Each is made when its time has come, and the clock has one call for all."""
        for seconds in (3, 1, 2):
            self.plan(seconds, str(seconds))
        self.plan(1, "after")
        self.assertEqual(len(self.clock.getDelayedCalls()), 1)
        for expected in (["1", "after"], ["1", "after", "2"], ["1", "after", "2", "3"]):
            self.clock.advance(1)
            self.assertEqual(self.rung, expected)
        self.assertEqual((len(self.alarms), self.clock.getDelayedCalls()), (0, []))

    def test_cancel(self) -> None:
        """What was cancelled is not made, also by one that is made with it, or twice."""
        others: list[Alarm] = []

        def cancel_others() -> None:
            for each in others:
                each.cancel()

        first = self.alarms.call_later(1, cancel_others)
        second = self.alarms.call_later(1, lambda: self.rung.append("second"))
        others.append(second)
        third = self.alarms.call_later(2, lambda: self.rung.append("third"))
        self.clock.advance(1)
        self.assertEqual((first.active, second.active, third.active), (False, False, True))
        third.cancel()
        third.cancel()
        first.cancel()
        self.assertEqual(len(self.alarms), 0)
        self.clock.advance(9)
        self.assertEqual((self.rung, self.clock.getDelayedCalls()), ([], []))
        self.plan(1, "later")
        self.clock.advance(1)
        self.assertEqual(self.rung, ["later"])

    def test_next(self) -> None:
        """The clock's call for one that was cancelled serves the next ones, which come in time."""
        self.alarms.call_later(1, lambda: self.rung.append("first")).cancel()
        (call,) = self.clock.getDelayedCalls()
        self.plan(1.5, "later")
        self.assertEqual(self.clock.getDelayedCalls(), [call])
        self.plan(0.5, "sooner")
        for at, expected in ((0.5, ["sooner"]), (0.5, ["sooner"]), (0.5, ["sooner", "later"])):
            self.clock.advance(at)
            self.assertEqual(self.rung, expected)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_tidy(self) -> None:
        """When all is over, no call of the clock outlives the last of them."""
        self.plan(1, "first").cancel()
        self.alarms.tidy()
        self.assertEqual(self.clock.getDelayedCalls(), [])
        last = self.plan(1, "last")
        self.alarms.tidy()
        self.assertEqual(len(self.clock.getDelayedCalls()), 1)
        last.cancel()
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.plan(1, "late")
        self.clock.advance(1)
        self.assertEqual(self.rung, ["late"])

    def test_again(self) -> None:
        """A call may plan another one, sooner than those that are planned or at once."""

        def again() -> None:
            self.plan(0, "at once")
            self.plan(1, "soon")

        self.alarms.call_later(1, again)
        self.plan(5, "late")
        self.clock.advance(1)
        self.clock.advance(1)
        self.assertEqual(self.rung, ["at once", "soon"])
        self.clock.advance(3)
        self.assertEqual(self.rung, ["at once", "soon", "late"])

    def test_failure(self) -> None:
        """One that fails is the clock's to tell; the others are made all the same."""
        self.alarms.call_later(1, lambda: 1 // 0)
        self.plan(1, "other")
        self.assertRaises(ZeroDivisionError, self.clock.advance, 1)
        self.clock.advance(0)
        self.assertEqual(self.rung, ["other"])
