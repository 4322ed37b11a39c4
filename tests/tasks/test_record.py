"""The state of a task: every history of it keeps what is promised."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from bzzz.tasks.record import (
    ATTEMPTS_KEPT,
    MAX_LOST,
    MAX_REASON,
    Attempt,
    End,
    Outcome,
    Policy,
    State,
    TaskState,
    assign,
    begin,
    cancel,
    finish,
    lose,
    refuse,
    retry,
)

ONCE = Policy(retries=0, restart=False)
TWICE = Policy(retries=1)


def assigned(worker: str = "walnut", after: TaskState | None = None) -> TaskState:
    state = assign(after or begin(), (after or begin()).token, worker)
    assert state is not None
    return state


class StateTests(SynchronousTestCase):
    """Each change, where it may be made and where not."""

    def test_begin(self) -> None:
        """A task begins assigned where a worker is known, and waiting where not."""
        self.assertEqual(begin().state, State.WAITING)
        self.assertEqual(begin("walnut"), assigned("walnut"))
        self.assertEqual((begin("walnut").token, begin().token), (1, 0))

    def test_done(self) -> None:
        """The word of the current attempt ends it, once."""
        state = finish(assigned(), TWICE, "walnut", 1, End.DONE, 0)
        assert state is not None
        self.assertEqual(
            (state.state, state.outcome, state.exit_status), (State.ENDED, Outcome.DONE, 0)
        )
        self.assertEqual(state.attempts, (Attempt(1, "walnut", End.DONE, 0),))
        self.assertIsNone(finish(state, TWICE, "walnut", 1, End.DONE, 0))

    def test_failed(self) -> None:
        """A failure takes a retry, and with none left the last one's exit status is the task's."""
        state = finish(assigned(), TWICE, "walnut", 1, End.FAILED, 3)
        assert state is not None
        self.assertEqual((state.state, state.failed), (State.WAITING, 1))
        state = finish(assigned("acacia", state), TWICE, "acacia", 2, End.FAILED, 4)
        assert state is not None
        self.assertEqual((state.outcome, state.exit_status), (Outcome.FAILED, 4))

    def test_timed_out(self) -> None:
        """It is told as such."""
        state = finish(assigned(), ONCE, "walnut", 1, End.TIMED_OUT)
        assert state is not None
        self.assertEqual(state.outcome, Outcome.TIMED_OUT)

    def test_stale(self) -> None:
        """A result with an old token is recorded as such, once, and changes nothing else."""
        lost = lose(assigned(), TWICE, 1, "not heard of")
        assert lost is not None
        now = assigned("acacia", lost)
        state = finish(now, TWICE, "walnut", 1, End.DONE, 0)
        assert state is not None
        self.assertEqual(
            (state.state, state.token, state.worker, state.outcome),
            (State.ASSIGNED, 2, "acacia", None),
        )
        self.assertEqual([one.end for one in state.attempts], [End.LOST, End.STALE])
        self.assertIsNone(finish(state, TWICE, "walnut", 1, End.DONE, 0))

    def test_another_worker(self) -> None:
        """The current token in another worker's mouth is not its word."""
        self.assertIsNone(finish(assigned(), TWICE, "acacia", 1, End.DONE, 0))
        self.assertIsNone(refuse(assigned(), "acacia", 1, "draining"))

    def test_made_up(self) -> None:
        """The end of an attempt that never was leaves no trace, nor does one that is forgotten."""
        state = assigned()
        for token in (0, 2, 500):
            self.assertIsNone(finish(state, TWICE, "walnut", token, End.DONE, 0))
        for _ in range(ATTEMPTS_KEPT + 1):
            refused = refuse(state, "walnut", state.token, "busy")
            assert refused is not None
            state = assigned("walnut", refused)
        self.assertIsNone(finish(state, TWICE, "walnut", 1, End.DONE, 0))

    def test_long_words(self) -> None:
        """Whatever a worker says, and however it says it, a record has room for it."""
        for words in ("\U0001f41d" * 5000, "\udcff" * 5000):
            ends = (
                refuse(assigned(), "walnut", 1, words),
                finish(assigned(), ONCE, "walnut", 1, End.FAILED, 1, words),
                lose(assigned(), ONCE, 1, words),
            )
            for state in ends:
                assert state is not None
                for reason in (state.why, state.attempts[-1].reason):
                    self.assertEqual(len(reason), MAX_REASON)
                    self.assertLessEqual(len(reason.encode()), 4 * MAX_REASON)

    def test_refused(self) -> None:
        """A refusal costs nothing but the token."""
        state = refuse(assigned(), "walnut", 1, "draining")
        assert state is not None
        self.assertEqual(
            (state.state, state.failed, state.token, state.why), (State.WAITING, 0, 1, "draining")
        )
        self.assertIsNone(refuse(state, "walnut", 1, "draining"))
        self.assertEqual(assigned("acacia", state).token, 2)

    def test_lost(self) -> None:
        """A task that may run once is lost with its worker; another one is restarted."""
        once = lose(assigned(), ONCE, 1, "not heard of")
        again = lose(assigned(), Policy(), 1, "not heard of")
        assert once is not None and again is not None
        self.assertEqual(once.outcome, Outcome.LOST)
        self.assertEqual((again.state, again.failed, again.lost), (State.WAITING, 0, 1))
        self.assertIsNone(lose(again, Policy(), 1, "not heard of"))

    def test_lost_again_and_again(self) -> None:
        """What its workers may die of is not restarted for ever; its retries it has in any case."""
        for policy, lost in ((Policy(), MAX_LOST), (Policy(MAX_LOST + 3), MAX_LOST + 4)):
            state = begin()
            while state.state is State.WAITING:
                after = lose(assigned("walnut", state), policy, state.token + 1, "")
                assert after is not None
                state = after
            self.assertEqual((state.outcome, state.lost), (Outcome.LOST, lost))
            self.assertEqual(state.failed, policy.retries)

    def test_twice(self) -> None:
        """A wish that has had its effect has no second one, whatever happened since."""
        failed = finish(assigned(), ONCE, "walnut", 1, End.FAILED, 3)
        assert failed is not None
        again = retry(failed, 1)
        assert again is not None
        ended = finish(assigned("walnut", again), ONCE, "walnut", 2, End.FAILED, 3)
        assert ended is not None
        self.assertIsNone(retry(ended, 1))
        refused = refuse(assigned(), "walnut", 1, "busy")
        assert refused is not None
        self.assertIsNone(assign(refused, 0, "acacia"))

    def test_cancel(self) -> None:
        """A waiting task ends at once, an assigned one when its attempt has."""
        waiting = cancel(begin())
        wanted = cancel(assigned())
        assert waiting is not None and wanted is not None
        self.assertEqual(waiting.outcome, Outcome.CANCELLED)
        self.assertEqual((wanted.state, wanted.cancel), (State.ASSIGNED, True))
        self.assertIsNone(cancel(waiting))
        self.assertIsNone(cancel(wanted))
        for over in (
            finish(wanted, TWICE, "walnut", 1, End.FAILED, 143),
            finish(wanted, TWICE, "walnut", 1, End.CANCELLED),
            refuse(wanted, "walnut", 1, ""),
            lose(wanted, TWICE, 1, ""),
        ):
            assert over is not None
            self.assertEqual(over.outcome, Outcome.CANCELLED)

    def test_done_before_cancelled(self) -> None:
        """What was done when the cancel came is done."""
        wanted = cancel(assigned())
        assert wanted is not None
        state = finish(wanted, TWICE, "walnut", 1, End.DONE, 0)
        assert state is not None
        self.assertEqual(state.outcome, Outcome.DONE)

    def test_retry(self) -> None:
        """Begun anew, it has its retries again, and greater tokens."""
        failed = finish(assigned(), ONCE, "walnut", 1, End.FAILED, 3)
        assert failed is not None
        self.assertIsNone(retry(assigned(), 1))
        state = retry(failed, 1)
        assert state is not None
        self.assertEqual((state.state, state.failed, state.outcome), (State.WAITING, 0, None))
        self.assertEqual(assigned("walnut", state).token, 2)

    def test_no_workers_word(self) -> None:
        """A loss and a refusal are not told by a result."""
        for end in (End.LOST, End.REFUSED, End.STALE):
            self.assertRaises(ValueError, finish, assigned(), TWICE, "walnut", 1, end)


WORKERS = st.sampled_from(["walnut", "ironwood", "acacia"])
TOKENS = st.integers(0, 8)
TOLD = st.sampled_from([End.DONE, End.FAILED, End.TIMED_OUT, End.CANCELLED])
EVENTS = st.one_of(
    st.tuples(st.just("assign"), TOKENS, WORKERS),
    st.tuples(st.just("refuse"), WORKERS, TOKENS),
    st.tuples(st.just("finish"), WORKERS, TOKENS, TOLD),
    st.tuples(st.just("lose"), TOKENS),
    st.tuples(st.just("cancel")),
    st.tuples(st.just("retry"), TOKENS),
)
POLICIES = st.builds(Policy, retries=st.integers(0, 3), restart=st.booleans())


def happens(state: TaskState, policy: Policy, event: tuple[object, ...]) -> TaskState | None:
    """Apply an event, whether it makes sense or not."""
    match event:
        case ("assign", int(token), str(worker)):
            return assign(state, token, worker)
        case ("refuse", str(worker), int(token)):
            return refuse(state, worker, token, "no")
        case ("finish", str(worker), int(token), End() as end):
            return finish(state, policy, worker, token, end, 1)
        case ("lose", int(token)):
            return lose(state, policy, token, "gone")
        case ("retry", int(token)):
            return retry(state, token)
        case _:
            return cancel(state)


class HistoryTests(SynchronousTestCase):
    """Whatever happens, in whatever order."""

    @given(policy=POLICIES, events=st.lists(EVENTS, max_size=60))
    def test_promises(self, policy: Policy, events: list[tuple[object, ...]]) -> None:
        """Tokens only grow, by one with each attempt; an end stays; what may run once does."""
        state = begin()
        begun = 0
        for event in events:
            after = happens(state, policy, event)
            if after is None:
                continue
            self.assertNotEqual(after, state)
            self.assertEqual(after.token - state.token, 1 if event[0] == "assign" else 0)
            self.assertEqual(after.state is State.ASSIGNED, bool(after.worker))
            self.assertEqual(after.state is State.ENDED, after.outcome is not None)
            self.assertLessEqual(after.failed, policy.retries)
            self.assertLessEqual(after.lost, MAX_LOST + policy.retries)
            self.assertLessEqual(len(after.attempts), ATTEMPTS_KEPT)
            if state.state is State.ENDED and event[0] != "retry":
                self.assertEqual(after.outcome, state.outcome)
                self.assertEqual(after.exit_status, state.exit_status)
            if event[0] == "retry":
                begun = 0
            if state.state is State.ASSIGNED and after.state is not State.ASSIGNED:
                begun += after.attempts[-1].end is not End.REFUSED
            if policy == ONCE:
                self.assertLessEqual(begun, 1)
            state = after
