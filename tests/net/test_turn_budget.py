"""What the links of a node may spend of one turn of the reactor."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from bzzz.net.turns import BUDGET, Turns


class BudgetTests(SynchronousTestCase):
    """Work that takes time, and a clock of the CPU that it moves."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.spent = 0.0
        self.done: list[str] = []
        self.turns = Turns(self.clock, lambda: self.spent)

    def work(self, name: str, cost: float) -> None:
        self.done.append(name)
        self.spent += cost

    def ask(self, name: str, cost: float) -> None:
        self.turns.when_there_is_time(lambda: self.work(name, cost))

    def turn(self) -> list[str]:
        """The next turn: only what is due at its begin."""
        self.done = []
        calls = self.clock.getDelayedCalls()
        self.assertLessEqual(len(calls), 1)
        for call in calls:
            due: Callable[[], None] = call.func  # type: ignore[attr-defined]  # DelayedCall has it
            call.cancel()
            due()
        return self.done

    def test_cheap_work_is_done_at_once(self) -> None:
        """As much as fits into the budget."""
        for name in "abcd":
            self.ask(name, BUDGET / 4)
        self.assertEqual(self.done, list("abcd"))

    def test_what_does_not_fit_waits(self) -> None:
        """In the order in which it came, each turn as much as fits."""
        for name in "abcde":
            self.ask(name, BUDGET * 0.6)
        self.assertEqual(self.done, ["a", "b"])
        self.assertEqual(self.turn(), ["c"])
        self.assertEqual(self.turn(), ["d", "e"])
        self.assertEqual(self.turn(), [])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_newcomers_wait_behind_the_waiting(self) -> None:
        """Though there is time, who came first is first."""
        for name in "abc":
            self.ask(name, BUDGET)
        self.assertEqual(self.turn(), ["b"])
        self.ask("d", BUDGET)
        self.assertEqual(self.done, ["b"])
        self.assertEqual(self.turn(), ["c"])
        self.assertEqual(self.turn(), ["d"])

    def test_one_budget(self) -> None:
        """What was done at once and what waited share the turn's time."""
        self.ask("a", BUDGET * 0.5)
        for name in "bcd":
            self.turns.wait(partial(self.work, name, BUDGET * 0.3))
        self.assertEqual(self.turn(), ["b", "c"])
        self.assertEqual(self.turn(), ["d"])

    def test_work_that_goes_on_is_behind_the_others(self) -> None:
        """Whoever has more to do than fits gets in line again."""

        def greedy() -> None:
            self.work("greedy", BUDGET)
            self.turns.wait(greedy)

        self.turns.wait(greedy)
        self.turns.wait(lambda: self.work("other", 0.0))
        self.assertEqual(self.turn(), ["greedy"])
        self.assertEqual(self.turn(), ["other", "greedy"])

    def test_handshakes_do_not_wait_behind_the_others(self) -> None:
        """Nor do the others wait behind handshakes: each has its turn after the other's."""

        def wait(name: str) -> None:
            self.turns.wait(lambda: self.work(name, BUDGET * 0.6), stranger=name.isupper())

        for name in "abcdABC":
            wait(name)
        self.assertEqual(self.turn(), ["A", "a"])
        self.assertEqual(self.turn(), ["B", "b"])
        wait("D")
        self.assertEqual(self.turn(), ["C", "c"])
        self.assertEqual(self.turn(), ["D", "d"])
        self.assertEqual(self.turn(), [])

    def test_strangers_that_take_whole_turns(self) -> None:
        """They have every other turn, and not each."""
        for name in "ABCab":
            work = partial(self.work, name, BUDGET)
            self.turns.wait(work, stranger=name.isupper())
        self.assertEqual([self.turn() for _ in range(5)], [["A"], ["a"], ["B"], ["b"], ["C"]])

    def test_others_spend_it_all(self) -> None:
        """Those who waited get a little of each turn, whatever else is done in it."""
        self.turns.wait(lambda: self.work("a", BUDGET))
        self.turns.wait(lambda: self.work("b", BUDGET))
        done = []
        for _ in range(2):
            self.assertTrue(self.turns.has_time)
            self.spent += 10 * BUDGET
            done += self.turn()
        self.assertEqual(done, ["a", "b"])

    def test_a_bug(self) -> None:
        """What raises does not keep the others from their turn."""

        def bad() -> None:
            raise RuntimeError("a bug")

        self.turns.wait(bad)
        self.turns.wait(lambda: self.work("other", 0.0))
        self.assertRaises(RuntimeError, self.turn)
        self.assertEqual(self.turn(), ["other"])

    def test_without_a_clock_nothing_waits(self) -> None:
        """In the simulator a turn has time for everything."""
        turns = Turns(self.clock)
        for _ in range(100):
            turns.when_there_is_time(lambda: self.work("", BUDGET))
        self.assertEqual(len(self.done), 100)
        self.assertEqual(self.clock.getDelayedCalls(), [])
