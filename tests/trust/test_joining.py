"""What the joiner makes of several candidates that answer one after the other."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import maybeDeferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from bzzz.errors import BzzzError
from bzzz.trust.cluster import Cluster
from bzzz.trust.codes import Code
from bzzz.trust.joining import LOOK, SEARCH_SECONDS, JoinError, Joining, _Attempt
from bzzz.trust.pairing import MAX_CONFIRMS, PairingRefused
from tests.trust.rosters import TIME, key

CODE = Code("7", ("guitar", "lunar"))
ACACIA, IRONWOOD = key("acacia").peer_id, key("ironwood").peer_id


class FakeRun:
    """Stands for a run with one candidate."""

    aborted = False

    def abort(self, reason: str = "") -> None:
        self.aborted = True


class AttemptTests(SynchronousTestCase):
    """One ``bzzz join``; the runs are told of by hand."""

    def setUp(self) -> None:
        self.clock = Clock()
        swarm: Any = None
        store: Any = None
        cluster = Cluster(
            key("oak"), store, lambda: TIME, bytes, store, lambda *_, **__: None, maybeDeferred
        )
        self.joining = Joining(swarm, cluster, self.clock, bytes, maybeDeferred, list)
        self.attempt = _Attempt(self.joining, CODE, "oak", (), lambda *_, **__: None)
        self.result: list[Any] = []
        self.attempt.run(list).addBoth(self.result.append)

    def run_with(self) -> Any:
        run: Any = FakeRun()
        self.attempt.started(run)
        return run

    def failed(self) -> JoinError:
        (failure,) = self.result
        error = failure.value
        assert isinstance(error, JoinError)
        return error

    def give_up(self) -> None:
        self.clock.pump([LOOK] * int(SEARCH_SECONDS / LOOK + 2))

    def test_wrong_code(self) -> None:
        """A wrong code is told as soon as nobody else is left to be asked, and not later."""
        inviter, other = self.run_with(), self.run_with()
        self.attempt.guessed(inviter, PairingRefused("wrong_code", "the code is wrong"))
        self.attempt.ended(inviter)
        self.assertEqual(self.result, [])
        self.attempt.refused(IRONWOOD, PairingRefused("no_channel", "there is none"))
        self.attempt.ended(other)
        self.assertEqual(self.failed().code, "wrong_code")

    def test_guesses(self) -> None:
        """No more than so many may have made a guess, whoever else is asked."""
        self.run_with()
        for _ in range(MAX_CONFIRMS):
            self.assertEqual(self.result, [])
            self.attempt.guessed(self.run_with(), BzzzError("it does not have the code"))
        self.assertEqual(self.failed().code, "failed")

    def test_nobody(self) -> None:
        """Where all who were asked have no such invitation, it is said to have been looked for."""
        for code in ("no_channel", "not_a_member"):
            self.attempt.refused(ACACIA, PairingRefused(code, "no"))
        self.give_up()
        self.assertEqual(self.failed().code, "inviter_not_found")
        self.assertIn("among 1 that were asked", str(self.failed()))

    def test_search_ends(self) -> None:
        """Nobody new is looked for after that time, though somebody who was asked is still busy."""
        looks: list[float] = []

        def candidates() -> list[Any]:
            looks.append(self.clock.seconds())
            return []

        attempt = _Attempt(self.joining, CODE, "oak", (), lambda *_, **__: None)
        attempt.run(candidates).addBoth(self.result.append)
        run: Any = FakeRun()
        attempt.started(run)
        self.clock.pump([LOOK] * int(2 * SEARCH_SECONDS / LOOK))
        self.assertLess(max(looks), SEARCH_SECONDS)
        # The one of setUp, that asked nobody, is over.
        self.assertEqual([each.value.code for each in self.result], ["inviter_not_found"])
        attempt.ended(run)
        self.clock.advance(LOOK)
        self.assertEqual(len(self.result), 2)

    def test_who_said_more(self) -> None:
        """That a code was used is told in the end, when nobody else was found to have made it."""
        self.attempt.refused(ACACIA, PairingRefused("no_channel", "no"))
        self.attempt.refused(IRONWOOD, PairingRefused("used", "it was used by another machine"))
        self.assertEqual(self.result, [])
        self.give_up()
        self.assertEqual(self.failed().code, "used")

    def test_joined(self) -> None:
        """The run that succeeds ends by itself, and all others are ended."""
        right, other = self.run_with(), self.run_with()
        joined: Any = object()
        self.attempt.succeed(right, joined)
        self.assertEqual(self.result, [joined])
        self.assertEqual((right.aborted, other.aborted), (False, True))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_bad_name(self) -> None:
        """A name that no node can have is refused before anybody is asked."""
        for name in ("", "a b", "-", "x" * 64, "é"):
            work: Any = self.joining.join(CODE, name)
            self.assertRaises(JoinError, work.send, None)
