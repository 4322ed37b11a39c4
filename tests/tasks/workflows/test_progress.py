"""The state of a workflow: every history of it keeps what is promised."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from bzzz.errors import RemoteProtocolError
from bzzz.tasks.record import Outcome
from bzzz.tasks.register_messages import MAX_VALUE
from bzzz.tasks.submission import Input, new_task_id
from bzzz.tasks.workflows import progress
from bzzz.tasks.workflows.plan import (
    ALWAYS,
    MAX_INSTANCES,
    MAX_WORKFLOW,
    SUCCESS,
    Plan,
    Step,
    Workflow,
    plan,
)
from bzzz.tasks.workflows.progress import (
    ACTIVE,
    MAX_PROGRESS,
    OVER,
    Entry,
    Progress,
    Status,
    Wish,
    begin,
    cancel,
    decode,
    encode,
    ended,
    ready,
    release,
    reserve,
    result,
    retry,
    submitted,
    unconfirmed,
    unwanted,
)
from bzzz.tasks.workflows.values import Work

DIGEST = "ab" * 32


def task(number: int) -> str:
    return new_task_id(number, b"\0" * 10)


def step(name: str, *needs: str, when: str = SUCCESS, size: int = 1, **more: Any) -> Step:
    matrix = {"n": tuple(str(number) for number in range(size))} if size > 1 else {}
    work = Work(command=("true",), outputs=("out",))
    return Step(name=name, work=work, needs=needs, when=when, matrix=matrix, **more)


def planned(*steps: Step, **more: Any) -> Plan:
    return plan(Workflow(steps=steps, **more))


class Driven:
    """A workflow with a driver that does as it is told."""

    def __init__(self, *steps: Step, **more: Any) -> None:
        self.plan = planned(*steps, **more)
        self.state = begin(self.plan)

    def took(self, state: Progress | None) -> None:
        assert state is not None
        self.state = state

    def run(self, place: int, number: int = 0) -> None:
        number = number or place + 1
        self.took(reserve(self.plan, self.state, place, task(number), 0))
        self.took(submitted(self.state, place, task(number)))

    def end(self, place: int, outcome: Outcome = Outcome.DONE, output: str = "") -> None:
        known = self.state.entries[place].task
        self.took(ended(self.plan, self.state, place, known, outcome, output, 7))

    def ready(self) -> tuple[int, ...]:
        return ready(self.plan, self.state)

    def statuses(self) -> list[Status]:
        return [entry.status for entry in self.state.entries]


class WorkflowTests(SynchronousTestCase):
    """Each change, where it may be made and where not."""

    def test_in_order(self) -> None:
        """A step runs when what it needs is done, and the workflow is done with its last."""
        one = Driven(step("a"), step("b", "a"))
        self.assertEqual(one.ready(), (0,))
        self.assertIsNone(reserve(one.plan, one.state, 1, task(2), 0))
        one.run(0)
        self.assertEqual(one.ready(), ())
        one.end(0)
        self.assertEqual(one.ready(), (1,))
        one.run(1)
        self.assertIsNone(result(one.state))
        one.end(1)
        self.assertEqual(result(one.state), progress.Result(Outcome.DONE))

    def test_matrix(self) -> None:
        """All instances run at once, and what is after them needs all of them."""
        one = Driven(step("a", size=3), step("b", "a"))
        self.assertEqual(one.ready(), (0, 1, 2))
        for place in range(3):
            one.run(place)
        one.end(0)
        one.end(2)
        self.assertEqual(one.ready(), ())
        one.end(1)
        self.assertEqual(one.ready(), (3,))

    def test_max_parallel(self) -> None:
        """No more are there at once than was said."""
        one = Driven(step("a", size=3), max_parallel=2)
        self.assertEqual(one.ready(), (0, 1))
        one.run(1)
        self.assertEqual(one.ready(), (0,))
        one.run(0)
        self.assertEqual(one.ready(), ())
        one.end(1)
        self.assertEqual(one.ready(), (2,))

    def test_failed(self) -> None:
        """What needs a failed step is skipped, with all that needs that; others go on."""
        for outcome in (Outcome.FAILED, Outcome.TIMED_OUT, Outcome.LOST):
            one = Driven(step("a", size=2), step("b", "a"), step("c", "b"), step("d"))
            one.run(0)
            one.run(1)
            one.end(1, outcome)
            self.assertEqual(one.statuses()[2:4], [Status.SKIPPED] * 2)
            self.assertEqual(one.ready(), (4,))
            one.run(4)
            one.end(4)
            one.end(0)
            self.assertEqual(result(one.state), progress.Result(Outcome.FAILED, (1,), (), (2, 3)))
            self.assertIs(one.state.entries[1].outcome, outcome)

    def test_task_cancelled(self) -> None:
        """A cancelled task is as a failed one, and makes its workflow cancelled."""
        one = Driven(step("a"), step("b", "a"))
        one.run(0)
        one.end(0, Outcome.CANCELLED)
        self.assertEqual(result(one.state), progress.Result(Outcome.CANCELLED, (), (0,), (1,)))

    def test_always(self) -> None:
        """A step that runs always does so once its needs are over, skipped ones too."""
        one = Driven(step("a", size=2), step("b", "a"), step("c", "a", "b", when=ALWAYS))
        one.run(0)
        one.end(0, Outcome.FAILED)
        self.assertEqual(one.ready(), (1,))
        one.run(1)
        one.end(1)
        self.assertEqual(one.ready(), (3,))
        one.run(3)
        one.end(3)
        self.assertEqual(result(one.state), progress.Result(Outcome.FAILED, (0,), (), (2,)))

    def test_again(self) -> None:
        """News that came before, and news of other tasks, change nothing."""
        one = Driven(step("a"))
        self.assertIsNone(submitted(one.state, 0, task(1)))
        self.assertIsNone(ended(one.plan, one.state, 0, task(1), Outcome.DONE))
        one.took(reserve(one.plan, one.state, 0, task(1), 0))
        self.assertIsNone(reserve(one.plan, one.state, 0, task(2), 1))
        self.assertIsNone(submitted(one.state, 0, task(2)))
        self.assertIsNone(release(one.plan, one.state, 0, task(2)))
        self.assertIsNone(ended(one.plan, one.state, 0, task(2), Outcome.DONE))
        one.took(submitted(one.state, 0, task(1)))
        self.assertIsNone(submitted(one.state, 0, task(1)))
        self.assertIsNone(release(one.plan, one.state, 0, task(1)))
        one.end(0, Outcome.FAILED)
        self.assertIsNone(ended(one.plan, one.state, 0, task(1), Outcome.DONE))

    def test_out_of_order(self) -> None:
        """An end may come before the word that the task is there."""
        one = Driven(step("a"))
        one.took(reserve(one.plan, one.state, 0, task(1), 0))
        one.end(0)
        self.assertIsNone(submitted(one.state, 0, task(1)))
        self.assertEqual(one.statuses(), [Status.DONE])

    def test_released(self) -> None:
        """A reservation that came to nothing is taken back, and given anew with another ID."""
        one = Driven(step("a"))
        one.took(reserve(one.plan, one.state, 0, task(1), 2))
        self.assertEqual(unconfirmed(one.state), (0,))
        self.assertEqual(one.state.entries[0].by, 2)
        one.took(release(one.plan, one.state, 0, task(1)))
        self.assertEqual((unconfirmed(one.state), one.ready()), ((), (0,)))
        one.run(0, 2)
        self.assertEqual(unconfirmed(one.state), ())

    def test_cancel(self) -> None:
        """What has not begun is skipped, what runs is to be cancelled, and clean-up runs."""
        one = Driven(step("a", size=2), step("b", "a"), step("c", "b", when=ALWAYS))
        one.run(0)
        one.took(reserve(one.plan, one.state, 1, task(2), 0))
        one.took(cancel(one.plan, one.state))
        self.assertIsNone(cancel(one.plan, one.state))
        self.assertEqual(unwanted(one.plan, one.state), (0, 1))
        one.took(release(one.plan, one.state, 1, task(2)))
        one.end(0, Outcome.CANCELLED)
        self.assertEqual(one.ready(), (3,))
        one.run(3)
        self.assertEqual(unwanted(one.plan, one.state), ())
        one.took(cancel(one.plan, one.state, stop=True))
        self.assertEqual(unwanted(one.plan, one.state), (3,))
        one.end(3)
        self.assertEqual(result(one.state), progress.Result(Outcome.CANCELLED, (), (0,), (1, 2)))
        self.assertIsNone(cancel(one.plan, one.state, stop=True))

    def test_cancel_before(self) -> None:
        """Where nothing began, there is nothing to clean up."""
        one = Driven(step("a"), step("b", "a", when=ALWAYS))
        one.took(cancel(one.plan, one.state))
        self.assertEqual(result(one.state), progress.Result(Outcome.CANCELLED, (), (), (0, 1)))

    def test_retry(self) -> None:
        """What was not done is done again, with what runs after it; what was done is not."""
        one = Driven(step("a"), step("b", size=2), step("c", "b", when=ALWAYS), step("d", "c"))
        self.assertIsNone(retry(one.plan, one.state, 0))
        for place, outcome in ((0, Outcome.DONE), (1, Outcome.DONE), (2, Outcome.LOST)):
            one.run(place)
            one.end(place, outcome)
        one.run(3)
        one.end(3)
        one.run(4)
        one.end(4)
        self.assertIsNone(retry(one.plan, one.state, 1))
        one.took(retry(one.plan, one.state, 0))
        self.assertIsNone(retry(one.plan, one.state, 0))
        self.assertEqual(one.statuses(), [Status.DONE, Status.DONE, *[Status.WAITING] * 3])
        self.assertEqual((one.ready(), one.state.round), ((2,), 1))

    def test_retry_cancelled(self) -> None:
        """A cancelled workflow that is begun anew is no longer to be ended; a done one is done."""
        one = Driven(step("a"))
        one.took(cancel(one.plan, one.state))
        one.took(retry(one.plan, one.state, 0))
        self.assertEqual((one.state.wish, one.ready()), (Wish.RUN, (0,)))
        one.run(0)
        one.end(0)
        self.assertIsNone(retry(one.plan, one.state, 1))

    def test_inputs(self) -> None:
        """A step gets the submitter's files and those of its needs, where they are to be."""
        taken = Step(name="a", work=Work(command=("x",), inputs=("src",), outputs=("o",)))
        one = Driven(
            taken,
            step("b", size=2),
            step("c", "a", "b", sources={"b": "lib"}, when=ALWAYS),
            step("d", "a", sources={"a": None}),
            files=(Input("other", DIGEST, 1), Input("src", DIGEST, 3)),
        )
        for place, output in ((0, "cd" * 32), (1, "ef" * 32), (2, "")):
            one.run(place)
            one.end(place, Outcome.DONE, output)
        self.assertEqual(progress.inputs(one.plan, one.state, 0), (Input("src", DIGEST, 3),))
        self.assertEqual(
            progress.inputs(one.plan, one.state, 3),
            (Input(".", "cd" * 32, 7), Input("lib/0", "ef" * 32, 7)),
        )
        self.assertEqual(progress.inputs(one.plan, one.state, 4), ())

    def test_size(self) -> None:
        """The greatest state there can be is read again, and fits into a record."""
        one = planned(step("a", size=MAX_INSTANCES))
        entry = Entry(Status.FAILED, task(1 << 47), 2, Outcome.TIMED_OUT, DIGEST, 1 << 53)
        state = Progress((entry,) * MAX_INSTANCES, Wish.STOP, 1 << 53)
        data = encode(state)
        self.assertEqual(decode(one, data), state)
        self.assertLess(MAX_PROGRESS + MAX_WORKFLOW, MAX_VALUE)

    def test_wrong(self) -> None:
        """A state of another workflow, or one that cannot be, is refused."""
        one = planned(step("a"))
        for wrong in (
            (),
            (Entry(), Entry()),
            (Entry(Status.WAITING, task(1)),),
            (Entry(Status.SKIPPED, task(1)),),
            (Entry(Status.RESERVED),),
            (Entry(Status.RESERVED, "x" * 26),),
            (Entry(Status.RESERVED, task(1), 0, Outcome.DONE),),
            (Entry(Status.DONE, task(1)),),
            (Entry(Status.DONE, task(1), 0, Outcome.LOST),),
            (Entry(Status.DONE, task(1), 0, Outcome.DONE, "x"),),
            (Entry(Status.DONE, task(1), 5, Outcome.DONE),),
        ):
            with self.assertRaises(RemoteProtocolError):
                decode(one, encode(Progress(wrong)))
        with self.assertRaises(RemoteProtocolError):
            decode(one, b"\0" * (MAX_PROGRESS + 1))

    @given(st.binary(max_size=50))
    def test_garbage(self, data: bytes) -> None:
        """Whatever comes is a state or a protocol error."""
        try:
            decode(planned(step("a")), data)
        except RemoteProtocolError:
            pass


@st.composite
def workflows(draw: Any) -> Plan:
    """Any workflow of a few steps."""
    steps: list[Step] = []
    for number in range(draw(st.integers(1, 6))):
        names = [one.name for one in steps]
        needs = draw(st.lists(st.sampled_from(names), unique=True, max_size=3)) if names else []
        when = draw(st.sampled_from([SUCCESS, SUCCESS, ALWAYS])) if needs else SUCCESS
        steps.append(step(f"s{number}", *needs, when=when, size=draw(st.integers(1, 3))))
    return planned(*steps, max_parallel=draw(st.integers(0, 3)))


def expected(one: Plan, outcomes: list[Outcome]) -> list[Status]:
    """How each instance ends when nobody cancels, by the rules as they are written."""
    statuses: list[Status] = []
    ran: list[bool] = []  # it, or what it follows
    for number, needs in enumerate(one.needs):
        before = [place for need in needs for place in range(*one.ranges[need])]
        if one.workflow.steps[number].when == ALWAYS:
            runs = any(ran[place] for place in before)
        else:
            runs = all(statuses[place] is Status.DONE for place in before)
        for place in range(*one.ranges[number]):
            ran.append(runs or any(ran[other] for other in before))
            statuses.append(progress.STATUS[outcomes[place]] if runs else Status.SKIPPED)
    return statuses


class HistoryTests(SynchronousTestCase):
    """Any workflow, with any ends, news in any order and more than once, and any wish."""

    @settings(max_examples=50)
    @given(workflows(), st.data())
    def test_ends(self, one: Plan, data: st.DataObject) -> None:
        """Without a cancel each instance ends as the rules say, whatever the order."""
        outcomes = [data.draw(st.sampled_from(Outcome)) for _ in one.instances]
        state = self.drive(one, data, outcomes, cancels=False)
        statuses = [entry.status for entry in state.entries]
        self.assertEqual(statuses, expected(one, outcomes))
        over = result(state)
        assert over is not None
        wanted = Outcome.DONE
        if Status.FAILED in statuses:
            wanted = Outcome.FAILED
        elif Status.CANCELLED in statuses:
            wanted = Outcome.CANCELLED
        self.assertEqual(over.outcome, wanted)

    @settings(max_examples=50)
    @given(workflows(), st.data())
    def test_cancelled(self, one: Plan, data: st.DataObject) -> None:
        """With cancels it ends all the same, and can be begun anew."""
        outcomes = [data.draw(st.sampled_from(Outcome)) for _ in one.instances]
        state = self.drive(one, data, outcomes, cancels=True)
        again = retry(one, state, 0)
        if again is not None:
            over = self.drive(one, data, [Outcome.DONE] * len(outcomes), state=again)
            told = result(over)
            assert told is not None
            self.assertEqual(told.outcome, Outcome.DONE)

    def drive(
        self,
        one: Plan,
        data: st.DataObject,
        outcomes: list[Outcome],
        *,
        cancels: bool = False,
        state: Progress | None = None,
    ) -> Progress:
        state = state or begin(one)
        number = 1000 * state.round
        for _ in range(10 * len(one.instances) + 20):
            if result(state) is not None:
                break
            active = [p for p, entry in enumerate(state.entries) if entry.status in ACTIVE]
            can = ready(one, state)
            self.assertTrue(active or can, "it waits for nothing")
            kinds = ["run"] * 3 * bool(can) + ["end"] * 2 * bool(active)
            kinds += ["submitted", "release"] * bool(active) + ["cancel", "stop"] * cancels
            kind = data.draw(st.sampled_from(kinds))
            place = data.draw(st.sampled_from(can if kind == "run" else active or can))
            known = state.entries[place].task
            after: Progress | None = None
            if kind == "run":
                number += 1
                after = reserve(one, state, place, task(number), 0)
                assert after is not None
                self.may_run(one, state, place)
                self.assertIsNone(reserve(one, after, place, task(number), 0))
            elif kind == "submitted":
                after = submitted(state, place, known)
            elif kind == "release":
                after = release(one, state, place, known)
            elif kind == "end":
                after = ended(one, state, place, known, outcomes[place])
                assert after is not None
                self.assertIsNone(ended(one, after, place, known, Outcome.LOST))
            else:
                after = cancel(one, state, stop=kind == "stop")
            if after is not None:
                self.follows(one, state, after)
                state = decode(one, encode(after))
                self.assertEqual(state, after)
        else:
            for _ in one.instances:
                for place in ready(one, state):
                    number += 1
                    state = reserve(one, state, place, task(number), 0) or state
                for place, entry in enumerate(state.entries):
                    state = ended(one, state, place, entry.task, outcomes[place]) or state
        self.assertIsNotNone(result(state))
        return state

    def may_run(self, one: Plan, state: Progress, place: int) -> None:
        """What it needs has ended, and is done unless it runs always."""
        number = one.instances[place].step
        always = one.workflow.steps[number].when == ALWAYS
        for need in one.needs[number]:
            for other in range(*one.ranges[need]):
                status = state.entries[other].status
                self.assertIn(status, OVER if always else (Status.DONE,))
        self.assertTrue(state.wish is Wish.RUN or (always and state.wish is Wish.CANCEL))

    def follows(self, one: Plan, before: Progress, after: Progress) -> None:
        """What is over stays as it is, and no more are active than may be."""
        for old, new in zip(before.entries, after.entries, strict=True):
            if old.status in OVER:
                self.assertEqual(old, new)
        if one.workflow.max_parallel:
            active = [entry for entry in after.entries if entry.status in ACTIVE]
            self.assertLessEqual(len(active), one.workflow.max_parallel)
