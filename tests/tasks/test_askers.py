"""Who may ask a replica about a register."""

from __future__ import annotations

from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from bzzz.errors import RemoteProtocolError
from bzzz.tasks.acceptor import EMPTY, Kept
from bzzz.tasks.askers import Asker, Denied, same_step, submitted
from bzzz.tasks.ballots import RESERVED, Accept, Accepted, Ballot, Prepare, Promise, Unknown
from bzzz.tasks.record import begin
from bzzz.tasks.register_store import Asked, answer
from bzzz.tasks.submission import sign
from bzzz.tasks.value import TaskRecord, encode_record
from bzzz.tasks.workflows import progress as progresses
from bzzz.tasks.workflows.plan import Step, Workflow, encode, read_workflow
from bzzz.tasks.workflows.record import (
    WorkflowRecord,
    WorkflowSubmission,
    encode_workflow,
    sign_workflow,
)
from bzzz.tasks.workflows.values import Work
from tests.tasks.fakes import REPLICAS, key, name, record, submission, task_id

STEP: dict[str, Any] = {"workflow": task_id(77), "step": "build"}


def value(made: TaskRecord) -> bytes:
    return encode_record(made.signed, made.state)


def step(origin: str, **changes: object) -> bytes:
    """A step of a workflow, as one of its replicas has submitted it."""
    wanted = msgspec.structs.replace(submission(**STEP), origin=name(origin), **changes)
    return encode_record(sign(wanted, key(origin)), begin())


def workflow(origin: str = "walnut", number: int = 1) -> bytes:
    """A workflow's record."""
    steps = (Step(name="build", work=Work(command=("make",))),)
    plan = encode(Workflow(name="all", steps=steps))
    wanted = WorkflowSubmission(
        workflow=task_id(number),
        origin=name(origin),
        replicas=tuple(name(each) for each in REPLICAS),
        plan=plan,
    )
    read = read_workflow(plan)
    return encode_workflow(
        WorkflowRecord(sign_workflow(wanted, key(origin)), wanted, read, progresses.begin(read))
    )


def keeping(kept: bytes) -> Kept:
    return Kept(Ballot(1, 0), RESERVED, kept, 0)


class SubmittedTests(SynchronousTestCase):
    """The part of a value that never changes."""

    def test_task(self) -> None:
        """It is read as a record has it."""
        made = record(**STEP)
        told = submitted(value(made))
        self.assertEqual(told.signed, (made.signed.data, made.signed.signature))
        self.assertEqual(told.replicas, made.submission.replicas)
        self.assertEqual((told.task, told.workflow, told.step), (task_id(), *STEP.values()))

    def test_workflow(self) -> None:
        """So it is of a workflow, which is no step of itself."""
        told = submitted(workflow())
        self.assertEqual(told.replicas, tuple(name(each) for each in REPLICAS))
        self.assertEqual((told.task, told.workflow), ("", ""))
        self.assertNotEqual(told.signed, submitted(workflow("ironwood")).signed)

    @given(st.binary(max_size=100))
    def test_any_bytes(self, data: bytes) -> None:
        """Whatever is on a disk or comes from a peer."""
        for head in (b"", b"\x92", b"\x93"):
            self.assertRaises(RemoteProtocolError, submitted, head + data)

    def test_same_step(self) -> None:
        """The same task, workflow, step and replicas; whoever submits it."""
        mine = submitted(step("walnut"))
        self.assertTrue(same_step(mine, submitted(step("acacia"))))
        for other in (
            step("acacia", workflow=task_id(78)),
            step("acacia", step="test"),
            step("acacia", task=task_id(2)),
            step("acacia", replicas=(name("acacia"), name("walnut"), name("ironwood"))),
            step("acacia", replicas=(name("walnut"), name("acacia"))),
        ):
            self.assertFalse(same_step(mine, submitted(other)))

    def test_no_step(self) -> None:
        """Tasks that are no steps, and workflows, are the same by their bytes alone."""
        self.assertFalse(same_step(submitted(value(record())), submitted(value(record()))))
        self.assertFalse(same_step(submitted(workflow()), submitted(workflow("acacia"))))


class JudgeTests(SynchronousTestCase):
    """What is asked of a replica that has something, or nothing."""

    def ask(
        self,
        kept: Kept,
        machine: str,
        request: Prepare | Accept,
        *,
        shown: bool = False,
    ) -> object:
        """What is answered, of which nothing is kept if it was not as wanted."""
        asked = Asked(task_id(), request, asker=Asker(name(machine), shown))
        answered = answer(kept, asked)
        if isinstance(answered.answer, Denied | Unknown):
            self.assertIs(answered.kept, kept)
        return answered.answer

    def denied(self, answer: object, words: str) -> None:
        assert isinstance(answer, Denied), answer
        self.assertIn(words, answer.reason)

    def test_nothing(self) -> None:
        """Of what it has nothing of, it has to be shown something."""
        ballot = Ballot(3, 1)
        for kept in (EMPTY, Kept(Ballot(2, 2))):
            self.assertEqual(self.ask(kept, "ironwood", Prepare(ballot)), Unknown(ballot))
            told = self.ask(kept, "ironwood", Prepare(ballot, close=4), shown=True)
            self.assertEqual(told, Promise(ballot, None, b"", 4))
            accept = Accept(ballot, value(record()), Ballot(4, 1))
            self.assertEqual(self.ask(kept, "ironwood", accept), Accepted(ballot))

    def test_its_replicas(self) -> None:
        """Of what it has, its replicas ask, with ballots of their own."""
        for kept in (keeping(value(record())), keeping(workflow())):
            for place, machine in enumerate(REPLICAS):
                ballot = Ballot(3, place)
                told = self.ask(kept, machine, Prepare(ballot))
                self.assertEqual(told, Promise(ballot, RESERVED, kept.value, 0))
                accept = Accept(ballot, kept.value, Ballot(4, place))
                self.assertEqual(self.ask(kept, machine, accept), Accepted(ballot))

    def test_others(self) -> None:
        """Nobody else does, whatever was shown, and nobody with another's ballot."""
        for kept in (keeping(value(record())), keeping(workflow())):
            for machine, place in (("larch", 0), ("larch", 3), ("acacia", 0), ("acacia", 63)):
                ballot = Ballot(3, place)
                for request in (
                    Prepare(ballot, close=1),
                    Accept(ballot, kept.value, Ballot(4, place)),
                ):
                    told = self.ask(kept, machine, request, shown=True)
                    self.denied(told, "another replica's")

    def test_another_submission(self) -> None:
        """What is kept is replaced by nothing that was submitted otherwise."""
        task, whole = value(record()), workflow()
        other = value(record(cpus=2.0))
        for before, after in (
            (task, other),
            (task, whole),
            (whole, task),
            (whole, workflow("ironwood")),
            (step("walnut"), step("ironwood", workflow=task_id(78))),
            (step("walnut"), task),
        ):
            told = self.ask(keeping(before), "walnut", Accept(Ballot(2, 0), after, Ballot(3, 0)))
            self.denied(told, "another task")

    def test_same_step(self) -> None:
        """Of a step, another replica's submission may be decided after one that was accepted."""
        after = step("ironwood")
        for machine, place in (("ironwood", 1), ("acacia", 2)):
            accept = Accept(Ballot(2, place), after, Ballot(3, place))
            kept = keeping(step("walnut"))
            self.assertEqual(self.ask(kept, machine, accept), Accepted(Ballot(2, place)))

    def test_unreadable(self) -> None:
        """What cannot be read is left alone."""
        kept = keeping(b"\xc1")
        for request in (
            Prepare(Ballot(2, 0)),
            Accept(Ballot(2, 0), value(record()), Ballot(3, 0)),
        ):
            self.denied(self.ask(kept, "walnut", request, shown=True), "cannot be read")

    def test_anybody(self) -> None:
        """Where it is not said who asks, it is not looked at."""
        answered = answer(keeping(b"\xc1"), Asked(task_id(), Prepare(Ballot(2, 0))))
        self.assertIsInstance(answered.answer, Promise)
