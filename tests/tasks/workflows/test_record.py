"""The value of a workflow's register, as members may send it."""

from __future__ import annotations

from typing import Any

import msgspec
from twisted.trial.unittest import SynchronousTestCase

from bzzz.errors import RemoteProtocolError
from bzzz.tasks.reading import is_open
from bzzz.tasks.submission import MAX_TIME, new_task_id
from bzzz.tasks.workflows.plan import Step, Workflow, encode, plan
from bzzz.tasks.workflows.progress import Progress, begin
from bzzz.tasks.workflows.record import (
    SignedWorkflow,
    WorkflowRecord,
    WorkflowSubmission,
    decode_workflow,
    encode_workflow,
    is_workflow,
    sign_workflow,
    verify_workflow,
)
from bzzz.tasks.workflows.values import Work
from tests.tasks.fakes import key, name, task_id

PLAN = Workflow(steps=(Step(name="a", work=Work(command=("x",))),))


def submitted(**fields: Any) -> WorkflowSubmission:
    usual: dict[str, Any] = {
        "workflow": task_id(),
        "origin": name("walnut"),
        "replicas": (name("walnut"), name("ironwood"), name("acacia")),
        "plan": encode(PLAN),
    }
    return WorkflowSubmission(**{**usual, **fields})


def record(submission: WorkflowSubmission, by: str = "walnut", **fields: Any) -> WorkflowRecord:
    signed = sign_workflow(submission, key(by))
    made = plan(PLAN)
    return WorkflowRecord(signed, submission, made, begin(made), **fields)


class WorkflowRecordTests(SynchronousTestCase):
    """What is taken, and what is not."""

    def refused(self, value: bytes, code: str) -> None:
        error = self.assertRaises(RemoteProtocolError, decode_workflow, value)
        self.assertEqual(error.code, code)

    def test_round(self) -> None:
        """A record is what it was, and a workflow's."""
        made = record(submitted(submitter="anna"), version=3, changed=12.5)
        value = encode_workflow(made)
        self.assertTrue(is_workflow(value))
        self.assertEqual(decode_workflow(value), made)
        verify_workflow(made.signed)

    def test_submission(self) -> None:
        """A submission that nobody could have made is none."""
        late = new_task_id((MAX_TIME + 1) * 1000, bytes(10))
        for fields, code in (
            ({"workflow": "x"}, "workflow_id"),
            ({"workflow": late}, "workflow_id"),
            ({"origin": name("hazel")}, "submission_replicas"),
            ({"replicas": (name("walnut"),) * 2}, "submission_replicas"),
            ({"replicas": (name("walnut"), "nobody")}, "submission_peer"),
            ({"origin": "nobody", "replicas": ("nobody",)}, "submission_peer"),
            ({"plan": b"\xc1"}, "workflow"),
        ):
            self.refused(encode_workflow(record(submitted(**fields))), code)

    def test_forms(self) -> None:
        """There is one form of it, and nothing else is read."""
        made = record(submitted())
        raw = msgspec.msgpack.decode(made.signed.data)
        other = msgspec.msgpack.encode(dict(reversed(raw.items())))
        for data, code in ((other, "workflow_not_canonical"), (b"\xc1", "workflow_unreadable")):
            signed = SignedWorkflow(data, bytes(64))
            self.refused(encode_workflow(msgspec.structs.replace(made, signed=signed)), code)
        self.refused(b"\x93", "workflow_unreadable")
        self.refused(b"", "workflow_unreadable")

    def test_no_plan(self) -> None:
        """One whose plan cannot be read is neither open nor over: a replica keeps none of it."""
        unreadable = record(submitted(plan=msgspec.msgpack.encode({"name": "x", "steps": 7})))
        value = encode_workflow(unreadable)
        self.assertRaises(RemoteProtocolError, is_open, value)
        self.assertTrue(is_open(encode_workflow(record(submitted()))))

    def test_states(self) -> None:
        """A state that cannot be, or of another workflow, is none."""
        for wrong in ({"changed": float("nan")}, {"changed": 1e300}, {"version": -1}):
            self.refused(encode_workflow(record(submitted(), **wrong)), "workflow_unreadable")
        other = msgspec.structs.replace(record(submitted()), progress=Progress(()))
        self.refused(encode_workflow(other), "workflow_state")

    def test_signature(self) -> None:
        """Another's signature is none of its origin."""
        made = record(submitted(), by="hazel")
        error = self.assertRaises(RemoteProtocolError, verify_workflow, made.signed)
        self.assertEqual(error.code, "workflow_signature")
