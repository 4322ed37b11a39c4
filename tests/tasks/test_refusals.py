"""What members have refused for good."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from bzzz.tasks.refusals import MAX_REFUSED, REFUSED, Refusals
from tests.tasks.test_placement import wanted

MAKE, TRUE = wanted(), wanted(command="true")


class RefusalsTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.refusals = Refusals()

    def test_known(self) -> None:
        """It holds for what asks for the same, and for the member that said it, until its time."""
        self.refusals.add(MAKE, "walnut", 10.0, "no")
        self.refusals.add(MAKE, "acacia", 11.0, "")
        self.assertEqual(self.refusals.reason(MAKE, "walnut", 10.0), "no")
        self.assertEqual(self.refusals.reason(MAKE, "acacia", 11.0), "it did not say why")
        self.assertEqual(self.refusals.reason(MAKE, "ironwood", 11.0), "")
        self.assertEqual(self.refusals.reason(TRUE, "walnut", 11.0), "")
        self.assertEqual(self.refusals.ends_at, 10.0 + REFUSED)
        self.assertEqual(self.refusals.reason(MAKE, "walnut", 10.0 + REFUSED), "")
        self.assertEqual(self.refusals.end(10.0 + REFUSED), {"walnut"})
        self.assertEqual(self.refusals.ends_at, 11.0 + REFUSED)
        self.assertEqual(self.refusals.end(11.0 + REFUSED), {"acacia"})
        self.assertEqual(self.refusals.ends_at, float("inf"))

    def test_again(self) -> None:
        """A second refusal counts from then on."""
        self.refusals.add(MAKE, "walnut", 0.0, "no")
        self.refusals.add(MAKE, "walnut", 100.0, "never")
        self.assertEqual(self.refusals.end(REFUSED), set())
        self.assertEqual(self.refusals.reason(MAKE, "walnut", REFUSED), "never")
        self.assertEqual(self.refusals.ends_at, 100.0 + REFUSED)

    def test_forget(self) -> None:
        """All that one member refused is forgotten together, and nothing else."""
        for each in (MAKE, TRUE):
            self.refusals.add(each, "walnut", 0.0, "no")
        self.refusals.add(TRUE, "acacia", 0.0, "no")
        self.refusals.forget("walnut")
        self.refusals.forget("walnut")
        self.assertEqual(self.refusals.reason(MAKE, "walnut", 1.0), "")
        self.assertEqual(self.refusals.reason(TRUE, "walnut", 1.0), "")
        self.assertEqual(self.refusals.reason(TRUE, "acacia", 1.0), "no")

    def test_many(self) -> None:
        """Of too many kinds of tasks those are known that were refused last."""
        kinds = [wanted(command=str(number)) for number in range(MAX_REFUSED + 2)]
        for kind in kinds[:-1]:
            self.refusals.add(kind, "walnut", 0.0, "no")
        self.refusals.add(kinds[1], "acacia", 0.0, "no")
        self.refusals.add(kinds[-1], "walnut", 0.0, "no")
        left = [kind for kind in kinds if self.refusals.reason(kind, "walnut", 1.0)]
        self.assertEqual(left, [kinds[1], *kinds[3:]])
