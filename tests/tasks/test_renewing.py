"""Renewals that come before what they are granted by is on the disk."""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from bzzz.tasks import messages
from bzzz.tasks.ballots import RESERVED, Accept, Answer, Ballot, Prepare
from bzzz.tasks.messages import Granted
from bzzz.tasks.renewing import WRITTEN, Renewing
from bzzz.tasks.replica import Current, Replica
from tests.tasks.disks import Disk


def first(token: int) -> Accept:
    """The origin's first value, with this token."""
    return Accept(RESERVED, str(token).encode(), Ballot(1, 0))


class RenewingTests(SynchronousTestCase):
    """A replica whose disk is slow."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.disk = Disk()
        self.replica = Replica(
            self.disk, self.clock, lambda value: Current(int(value), "walnut", 3.0)
        )
        self.successResultOf(Deferred.fromCoroutine(self.replica.load()))
        self.renewing = Renewing(self.clock, self.replica)
        self.disk.slow = True

    def accept(self, task: str, request: Accept) -> Deferred[Answer]:
        """What is asked is being written."""
        accepting = self.replica.ask(task, request)
        self.clock.advance(0)
        return accepting

    def renew(self, *attempts: tuple[str, int]) -> Deferred[messages.Answer]:
        return self.renewing.answer("walnut", attempts)

    def test_at_once(self) -> None:
        """What nothing is written for is answered at once."""
        self.assertEqual(
            self.successResultOf(self.renew(("a", 1), ("b", 1))), Granted((False, False))
        )
        self.assertEqual(self.successResultOf(self.renew()), Granted(()))

    def test_promised(self) -> None:
        """So it is while something is promised, which gives nobody a lease."""
        self.replica.ask("a", Prepare(Ballot(1, 1)))
        self.assertEqual(self.successResultOf(self.renew(("a", 1))), Granted((False,)))

    def test_written(self) -> None:
        """Else when it is written, each attempt by what is kept then."""
        self.accept("a", first(1))
        self.accept("b", first(2))
        renewing = self.renew(("a", 1), ("b", 1), ("c", 1))
        self.disk.finish()
        self.assertNoResult(renewing)
        self.disk.finish()
        self.assertEqual(self.successResultOf(renewing), Granted((True, False, False)))
        self.clock.advance(WRITTEN)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_granted_anyway(self) -> None:
        """What is granted by what is there waits for nothing."""
        self.disk.slow = False
        self.accept("a", first(1))
        self.disk.slow = True
        self.accept("a", Accept(Ballot(1, 0), b"2", Ballot(2, 0)))
        self.assertEqual(self.successResultOf(self.renew(("a", 1))), Granted((True,)))

    def test_not_written(self) -> None:
        """A write that fails, or one that takes long, grants nothing."""
        failing = self.accept("a", first(1))
        renewing = self.renew(("a", 1))
        self.disk.break_down()
        self.assertEqual(self.successResultOf(renewing), Granted((False,)))
        self.failureResultOf(failing)
        self.accept("a", first(1))
        renewing = self.renew(("a", 1))
        self.clock.advance(WRITTEN)
        self.assertEqual(self.successResultOf(renewing), Granted((False,)))
        self.disk.finish()
        self.assertEqual(self.successResultOf(self.renew(("a", 1))), Granted((True,)))
