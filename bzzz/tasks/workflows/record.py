"""The value of a workflow's register: what was submitted, signed, and its state.

Enters: a workflow that somebody submits, or bytes from a disk or a peer. Leaves: bytes, or a
record. A task's value is an array of two, a workflow's of three, so that one table has both.
docs/tasks.rst, "Workflows".
"""

from __future__ import annotations

import hashlib
from typing import Annotated, Final

import msgspec
from msgspec import Meta, Struct

from bzzz.errors import IdentityError, RemoteProtocolError
from bzzz.identity.keys import PrivateKey
from bzzz.tasks.ballots import RESERVED, Ballot
from bzzz.tasks.register_messages import MAX_VALUE
from bzzz.tasks.submission import (
    ALPHABET,
    MAX_REPLICAS,
    MAX_TIME,
    Count,
    Name,
    Peer,
    SubmissionError,
    check_replicas,
    is_id,
)
from bzzz.tasks.value import peer_id
from bzzz.tasks.workflows import progress as progresses
from bzzz.tasks.workflows.plan import MAX_WORKFLOW, Plan, read_name, read_workflow
from bzzz.tasks.workflows.progress import MAX_PROGRESS, Progress

__all__ = [
    "Outline",
    "SignedWorkflow",
    "WorkflowRecord",
    "WorkflowSubmission",
    "decode_workflow",
    "encode_workflow",
    "is_workflow",
    "read_outline",
    "sign_workflow",
    "step_id",
    "verify_workflow",
]

SIGN_PREFIX: Final = b"bzzz-workflow-v1:"

# The head of an array of three, in MessagePack.
_THREE: Final = 0x93


class WorkflowSubmission(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A workflow as it was submitted.

    :ivar workflow: its ID, made as a task's is.
    :ivar origin: peer ID of the member that it was submitted to.
    :ivar replicas: peer IDs of those that keep it, and the tasks of its steps.
    :ivar submitter: the user at the origin.
    :ivar plan: see :func:`bzzz.tasks.workflows.plan.encode`.
    """

    workflow: str
    origin: Peer
    replicas: Annotated[tuple[Peer, ...], Meta(min_length=1, max_length=MAX_REPLICAS)]
    submitter: Name = ""
    plan: Annotated[bytes, Meta(max_length=MAX_WORKFLOW)]


class SignedWorkflow(Struct, frozen=True, array_like=True):
    """A submission's bytes with the origin's signature of them."""

    data: Annotated[bytes, Meta(max_length=MAX_WORKFLOW + 4096)]
    signature: Annotated[bytes, Meta(max_length=64)]


class _State(Struct, frozen=True, omit_defaults=True):
    progress: Annotated[bytes, Meta(max_length=MAX_PROGRESS)]
    version: Count = 0
    changed: Annotated[float, Meta(ge=0, le=MAX_TIME)] = 0.0


class _Record(Struct, frozen=True, array_like=True):
    kind: str
    signed: SignedWorkflow
    state: _State


class WorkflowRecord(Struct, frozen=True):
    """A workflow's record, read.

    :ivar version: counts the changes.
    :ivar changed: when, in seconds since the epoch, by the clock of who changed it.
    :ivar ballot: see :class:`bzzz.tasks.value.TaskRecord`.
    """

    signed: SignedWorkflow
    submission: WorkflowSubmission
    plan: Plan
    progress: Progress
    version: int = 0
    changed: float = 0.0
    ballot: Ballot = RESERVED

    @property
    def workflow(self) -> str:
        """Its ID."""
        return self.submission.workflow

    @property
    def has_ended(self) -> bool:
        """Whether nothing more is to be done for it."""
        return progresses.result(self.progress) is not None


class Outline(Struct, frozen=True):
    """What a listing has of a workflow's record; its plan, which takes longest, is not worked out.

    :ivar name: what its submitter calls it.
    """

    signed: SignedWorkflow
    submission: WorkflowSubmission
    name: str
    progress: Progress
    version: int
    changed: float

    @property
    def workflow(self) -> str:
        """Its ID."""
        return self.submission.workflow

    @property
    def has_ended(self) -> bool:
        """Whether nothing more is to be done for it."""
        return progresses.result(self.progress) is not None


_encoder: Final = msgspec.msgpack.Encoder(order="deterministic")
_submissions: Final = msgspec.msgpack.Decoder(WorkflowSubmission)
_records: Final = msgspec.msgpack.Decoder(_Record)


def is_workflow(value: bytes) -> bool:
    """Whether a register's value is a workflow's, as far as one byte tells."""
    return value[:1] == bytes([_THREE])


def step_id(workflow: str, place: int, round_: int) -> str:
    """The ID of the task of an instance: the same whoever submits it, and of the workflow's time.

    Two replicas that both submit a step, since one believes the other gone, meet in one register,
    where the first one's submission stays.

    :param place: of the instance in the plan.
    :param round_: see :class:`~bzzz.tasks.workflows.progress.Progress`.
    """
    named = hashlib.blake2b(
        f"{place}:{round_}".encode(), key=workflow.encode(), digest_size=10, person=b"bzzz-step"
    )
    number = int.from_bytes(named.digest(), "big")
    return workflow[:10] + "".join(ALPHABET[number >> shift & 31] for shift in range(75, -1, -5))


def sign_workflow(submission: WorkflowSubmission, key: PrivateKey) -> SignedWorkflow:
    """Sign a workflow as its origin."""
    data = _encoder.encode(submission)
    return SignedWorkflow(data, key.sign(SIGN_PREFIX + data))


def encode_workflow(record: WorkflowRecord) -> bytes:
    """The value of a register.

    :raises SubmissionError: it is too long.
    """
    progress = progresses.encode(record.progress)
    state = _State(progress, record.version, record.changed)
    data = _encoder.encode(_Record("workflow", record.signed, state))
    if len(data) > MAX_VALUE:
        raise SubmissionError(f"the record of a workflow would have {len(data)} bytes")
    return data


def decode_workflow(
    value: bytes, ballot: Ballot = RESERVED, known: WorkflowRecord | None = None
) -> WorkflowRecord:
    """Read the value of a register. The signature is not looked at.

    :param known: an earlier record, whose plan is not worked out again if it is the same.
    :raises RemoteProtocolError: it is none.
    """
    record = _decode(value)
    if known is not None and known.signed == record.signed:
        submission, plan = known.submission, known.plan
    else:
        submission = _read(record.signed.data)
        plan = read_workflow(submission.plan)
    return WorkflowRecord(
        record.signed,
        submission,
        plan,
        progresses.decode(plan, record.state.progress),
        record.state.version,
        record.state.changed,
        ballot,
    )


def read_outline(value: bytes) -> Outline:
    """Read the value of a register for a listing.

    :raises RemoteProtocolError: it is none.
    """
    record = _decode(value)
    submission = _read(record.signed.data)
    return Outline(
        record.signed,
        submission,
        read_name(submission.plan),
        progresses.read(record.state.progress),
        record.state.version,
        record.state.changed,
    )


def verify_workflow(signed: SignedWorkflow) -> None:
    """See that a workflow's origin has signed it.

    :raises RemoteProtocolError: it has not.
    """
    submission = _read(signed.data)
    try:
        key = peer_id(submission.origin).public_key
    except IdentityError as error:
        raise RemoteProtocolError(
            f"the origin of a workflow is no peer: {error}", "workflow_origin"
        ) from None
    if key is None or not key.verify(SIGN_PREFIX + signed.data, signed.signature):
        raise RemoteProtocolError("a workflow is not signed by its origin", "workflow_signature")


def _decode(value: bytes) -> _Record:
    try:
        return _records.decode(value)
    except (msgspec.MsgspecError, RecursionError, UnicodeError) as error:
        raise RemoteProtocolError(
            f"a workflow's record cannot be read: {error}", "workflow_unreadable"
        ) from None


def _read(data: bytes) -> WorkflowSubmission:
    try:
        submission = _submissions.decode(data)
    except (msgspec.MsgspecError, RecursionError, UnicodeError) as error:
        raise RemoteProtocolError(
            f"a workflow's submission cannot be read: {error}", "workflow_unreadable"
        ) from None
    if not is_id(submission.workflow):
        raise RemoteProtocolError("a workflow has no ID", "workflow_id")
    check_replicas(submission.origin, submission.replicas)
    if _encoder.encode(submission) != data:
        raise RemoteProtocolError(
            "a workflow's submission is not in its canonical form", "workflow_not_canonical"
        )
    return submission
