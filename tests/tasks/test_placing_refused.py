"""Placing, as a driver sees it: who is given a task that was refused, and when."""

from __future__ import annotations

from random import Random

import msgspec
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from bzzz.tasks.placement import Candidate
from bzzz.tasks.placing import AVOID, Placing
from bzzz.tasks.refusals import REFUSED
from bzzz.tasks.requirements import Facts
from tests.tasks.fakes import name, record
from tests.tasks.test_placement import facts, member

FOUR = facts(cpus=4)


class RefusedTests(SynchronousTestCase):
    """Walnut and acacia could both run a task."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.machines: dict[str, Candidate] = {}
        self.given: list[str] = []
        self.placing = Placing(self.clock, Random(1), self.place, self.machines.get, str)
        for each in ("walnut", "acacia"):
            self.there(each)
        self.wanted = record()
        self.addCleanup(self.placing.stop)

    def there(self, machine: str, known: Facts = FOUR) -> None:
        """It says something of itself."""
        said = member(machine, known)
        self.machines[name(machine)] = msgspec.structs.replace(said, peer=name(machine))
        self.placing.member_changed(name(machine))

    def gone(self, machine: str) -> None:
        del self.machines[name(machine)]
        self.placing.member_changed(name(machine))

    def place(self, task: str, worker: str) -> bool:
        self.given.append(worker)
        self.placing.assigned(self.wanted.submission, len(self.given), worker, True)
        return True

    def want(self) -> str:
        """The task waits; who is given it now."""
        before = len(self.given)
        self.placing.want(self.wanted)
        self.clock.advance(0.1)
        return self.given[-1] if len(self.given) > before else ""

    def refuse(self, worker: str, for_good: bool) -> None:
        """As a driver does it: what was given is given back once that is in the record."""
        self.placing.refused(self.wanted.submission, worker, "its owner forbids it", for_good)
        self.placing.over(self.wanted.task)

    def test_another(self) -> None:
        """It goes to another member at once, and comes back to none of them."""
        for for_good in (False, True):
            self.setUp()
            first = self.want()
            self.refuse(first, for_good)
            second = self.want()
            self.assertEqual({first, second}, {name("walnut"), name("acacia")})
            self.refuse(second, for_good)
            self.assertEqual(self.want(), "")

    def test_not_for_good(self) -> None:
        """Who may take it later is asked again, but not before some time has passed."""
        self.gone("acacia")
        self.refuse(self.want(), False)
        self.assertEqual(self.want(), "")
        self.clock.advance(AVOID - 0.2)
        self.assertEqual(len(self.given), 1)
        self.clock.advance(0.2)
        self.assertEqual(self.given, [name("walnut")] * 2)

    def test_refuses_again(self) -> None:
        """The more often it has refused, the longer it is left alone; what it says begins that
        anew."""
        self.gone("acacia")
        self.want()
        for wait in (1, 2, 4, 8, 16, 30, 30):
            before = len(self.given)
            self.refuse(name("walnut"), False)
            self.assertEqual(self.want(), "")
            ((_, [unfit]),) = self.placing.why(self.wanted.submission)
            self.assertIn("(its owner forbids it)", unfit.text)
            self.clock.advance(wait - 0.2)
            self.assertEqual(len(self.given), before)
            self.clock.advance(0.2)
            self.assertEqual(len(self.given), before + 1)
        self.there("walnut")
        self.refuse(name("walnut"), False)
        self.assertEqual(self.want(), "")
        self.clock.advance(AVOID)
        self.assertEqual(len(self.given), before + 2)

    def test_says_what_is_free(self) -> None:
        """Or it says what is free."""
        self.gone("acacia")
        self.refuse(self.want(), False)
        self.assertEqual(self.want(), "")
        self.there("walnut")
        self.clock.advance(0.1)
        self.assertEqual(self.given, [name("walnut")] * 2)

    def test_for_good(self) -> None:
        """Who never will is not asked, whatever is free there, until it says something new of
        itself."""
        self.gone("acacia")
        self.refuse(self.want(), True)
        self.assertEqual(self.want(), "")
        self.there("walnut")
        self.clock.advance(REFUSED - 1)
        self.assertEqual(len(self.given), 1)
        ((_, unfits),) = self.placing.why(self.wanted.submission)
        [unfit] = unfits
        self.assertEqual(
            (unfit.code, unfit.text, unfit.never),
            ("refused", "it refused such a task: its owner forbids it", False),
        )
        self.there("walnut", known=facts(cpus=5))
        self.clock.advance(0.1)
        self.assertEqual(self.given, [name("walnut")] * 2)

    def test_not_for_ever(self) -> None:
        """Or until long after: it may have known too little when it was asked."""
        self.gone("acacia")
        self.refuse(self.want(), True)
        self.assertEqual(self.want(), "")
        self.clock.advance(REFUSED)
        self.clock.advance(0.1)
        self.assertEqual(self.given, [name("walnut")] * 2)

    def test_others(self) -> None:
        """Other tasks still go there, and new ones that ask for the same are not suggested."""
        self.gone("acacia")
        self.refuse(self.want(), True)
        self.placing.drop(self.wanted.task)
        self.assertEqual(self.placing.suggest(record(number=2).submission), "")
        self.assertEqual(
            self.placing.suggest(record(number=3, command=("true",)).submission), name("walnut")
        )
