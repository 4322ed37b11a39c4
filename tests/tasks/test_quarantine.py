"""Quarantine: a member on which tasks fail that succeed elsewhere gets none for a while."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from bzzz.tasks import quarantine
from bzzz.tasks.quarantine import FAILURES, FIRST, LONGEST, TRIAL, Quarantine, Standing

BAD, GOOD = "acacia", "walnut"


def blamed(there: Quarantine, times: int, now: float = 0.0, name: str = "t") -> tuple[str, ...]:
    """Tasks that fail on one and then succeed on the other; who was quarantined by the last."""
    caught: tuple[str, ...] = ()
    for number in range(times):
        there.failed(f"{name}{number}", BAD, now)
        caught = there.succeeded(f"{name}{number}", GOOD, now)
    return caught


class QuarantineTests(SynchronousTestCase):
    """Who is quarantined, for how long, and how it ends."""

    def setUp(self) -> None:
        self.there = Quarantine()

    def test_in_a_row(self) -> None:
        """The third task in a row puts it there, for 60 s."""
        self.assertEqual(blamed(self.there, FAILURES - 1), ())
        self.assertIs(self.there.standing(BAD, 0.0), Standing.FREE)
        self.assertEqual(blamed(self.there, 1, name="last"), (BAD,))
        self.assertIs(self.there.standing(BAD, 0.0), Standing.NONE)
        self.assertEqual(self.there.quarantined(0.0), {BAD: FIRST})
        self.assertEqual(self.there.until(BAD, 0.0), FIRST)
        self.assertEqual(self.there.wakes_at(0.0), FIRST)
        self.assertIs(self.there.standing(GOOD, 0.0), Standing.FREE)

    def test_fails_everywhere(self) -> None:
        """A task that succeeds nowhere is held against nobody."""
        for number in range(10):
            self.there.failed(f"t{number}", BAD, 0.0)
            self.there.failed(f"t{number}", GOOD, 0.0)
            self.there.ended(f"t{number}")
        self.assertIs(self.there.standing(BAD, 0.0), Standing.FREE)

    def test_flaky_task(self) -> None:
        """A task that failed on a member and then succeeded there is not held against it."""
        for number in range(10):
            self.there.failed(f"t{number}", BAD, 0.0)
            self.there.succeeded(f"t{number}", BAD, 0.0)
        self.assertIs(self.there.standing(BAD, 0.0), Standing.FREE)

    def test_success_between(self) -> None:
        """A success begins the row anew, and speaks for what failed before it."""
        blamed(self.there, FAILURES - 1)
        self.there.failed("before", BAD, 0.0)
        self.there.succeeded("other", BAD, 0.0)
        self.there.succeeded("before", GOOD, 0.0)
        self.assertEqual(blamed(self.there, FAILURES - 1, name="u"), ())
        self.assertEqual(blamed(self.there, 1, name="v"), (BAD,))

    def test_one_task(self) -> None:
        """When it ends it gets one task, and is free when that has succeeded."""
        blamed(self.there, FAILURES)
        self.assertIs(self.there.standing(BAD, FIRST - 0.1), Standing.NONE)
        self.assertIs(self.there.standing(BAD, FIRST), Standing.ONE)
        self.there.started("one", BAD, FIRST)
        self.assertIs(self.there.standing(BAD, FIRST + 1), Standing.TRIAL)
        self.there.succeeded("one", BAD, FIRST + 2)
        self.assertIs(self.there.standing(BAD, FIRST + 2), Standing.FREE)
        blamed(self.there, FAILURES, FIRST + 3, "again")
        self.assertEqual(self.there.until(BAD, FIRST + 3), FIRST + 3 + FIRST)

    def test_not_started(self) -> None:
        """A refusal is not the one task, and one that was never heard of again is not for ever."""
        blamed(self.there, FAILURES)
        self.there.started("one", BAD, FIRST)
        self.there.not_started("another", BAD)
        self.assertIs(self.there.standing(BAD, FIRST), Standing.TRIAL)
        self.there.not_started("one", BAD)
        self.assertIs(self.there.standing(BAD, FIRST), Standing.ONE)
        self.there.started("two", BAD, FIRST)
        self.assertIs(self.there.standing(BAD, FIRST + TRIAL), Standing.ONE)

    def test_twice_as_long(self) -> None:
        """Each time that the one task fails it is for twice as long, up to an hour."""
        blamed(self.there, FAILURES)
        now, lengths = FIRST, []
        for number in range(8):
            self.there.started(f"one{number}", BAD, now)
            self.assertEqual(self.there.failed(f"one{number}", BAD, now), (BAD,))
            until = self.there.until(BAD, now)
            assert until is not None
            lengths.append(until - now)
            now = until
        self.assertEqual(lengths, [120, 240, 480, 960, 1920, LONGEST, LONGEST, LONGEST])

    def test_another_fails(self) -> None:
        """What it had begun before its quarantine and fails later is not its one task."""
        blamed(self.there, FAILURES)
        self.there.started("one", BAD, FIRST)
        self.assertEqual(self.there.failed("old", BAD, FIRST + 1), ())
        self.assertIs(self.there.standing(BAD, FIRST + 1), Standing.TRIAL)

    def test_still_running(self) -> None:
        """What it had begun before does not make it longer, and a success of that lifts it."""
        self.there.failed("old", BAD, 0.0)
        blamed(self.there, FAILURES)
        self.there.succeeded("old", GOOD, 1.0)
        blamed(self.there, 2 * FAILURES, 2.0, "older")
        self.assertEqual(self.there.until(BAD, 3.0), FIRST)
        self.there.succeeded("oldest", BAD, 4.0)
        self.assertIs(self.there.standing(BAD, 4.0), Standing.FREE)

    def test_bounded(self) -> None:
        """It remembers so many tasks, members and places, and no more."""
        self.patch(quarantine, "MAX_TASKS", 5)
        self.patch(quarantine, "MAX_MEMBERS", 7)
        self.patch(quarantine, "MAX_PLACES", 2)
        for number in range(100):
            self.there.failed(f"t{number}", f"p{number}", 0.0)
            self.there.failed("t", f"p{number}", 0.0)
        self.assertEqual(len(self.there), 12)

    def test_forget(self) -> None:
        """Nothing is left of a member that is none any more."""
        blamed(self.there, FAILURES)
        self.there.forget(BAD)
        self.assertIs(self.there.standing(BAD, 0.0), Standing.FREE)

    @given(
        st.lists(
            st.tuples(
                st.sampled_from(["failed", "succeeded", "started", "not_started", "ended"]),
                st.integers(0, 4),
                st.sampled_from([BAD, GOOD, "ironwood"]),
                st.floats(0, 500),
            ),
            max_size=60,
        )
    )
    def test_any_history(self, history: list[tuple[str, int, str, float]]) -> None:
        """Who is in quarantine gets out of it by waiting, and is in it for an hour at most."""
        there = Quarantine()
        now = 0.0
        for name, number, peer, after in history:
            now += after
            if name in ("failed", "succeeded"):
                getattr(there, name)(f"t{number}", peer, now)
            elif name == "started":
                there.started(f"t{number}", peer, now)
            elif name == "not_started":
                there.not_started(f"t{number}", peer)
            else:
                there.ended(f"t{number}")
            for until in there.quarantined(now).values():
                self.assertLessEqual(until, now + LONGEST)
        for peer in (BAD, GOOD, "ironwood"):
            standing = there.standing(peer, now + LONGEST + TRIAL)
            self.assertIn(standing, (Standing.FREE, Standing.ONE))
