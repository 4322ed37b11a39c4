"""What the control API says of workflows (:mod:`bzzz.web.workflow_routes`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from bzzz.events import rfc3339
from bzzz.tasks.submission import submitted_at
from bzzz.tasks.workflows.progress import Progress, Status, result
from bzzz.tasks.workflows.record import Outline, WorkflowRecord

__all__ = [
    "StepInfo",
    "WorkflowInfo",
    "WorkflowSummary",
    "step_infos",
    "workflow_info",
    "workflow_summary",
]

STATES: Final = {
    Status.WAITING: "waiting",
    Status.RESERVED: "submitted",
    Status.SUBMITTED: "submitted",
    Status.DONE: "done",
    Status.FAILED: "failed",
    Status.CANCELLED: "cancelled",
    Status.SKIPPED: "skipped",
}


class StepInfo(msgspec.Struct, kw_only=True):
    """One instance of a step.

    :ivar label: the step's name, with what was chosen of its matrix.
    :ivar state: ``waiting``, ``submitted``, ``done``, ``failed``, ``cancelled`` or ``skipped``.
    :ivar task: ID of its task, "" without one.
    :ivar outcome: how that ended, "" if it has not.
    :ivar output: digest of the files that it has put out, "" for none.
    :ivar output_size: bytes of these files.
    """

    label: str
    state: str
    task: str
    outcome: str
    output: str
    output_size: int


class WorkflowInfo(msgspec.Struct, kw_only=True):
    """A workflow.

    :ivar id: its ID.
    :ivar name: what its submitter calls it.
    :ivar state: ``running``, ``cancelling``, or its end: ``done``, ``failed``, ``cancelled``.
    :ivar submitter: the user at the member that it was submitted to.
    :ivar origin_name: what that is called.
    :ivar submitted: when, by its origin's clock.
    :ivar changed: when its record was changed last, by the clock of who did.
    :ivar round: how often it was begun anew.
    :ivar replica_names: the members that keep it.
    :ivar steps: each instance of each step, in the order of the file, but behind all that it needs.
    """

    id: str
    name: str
    state: str
    submitter: str
    origin_name: str
    submitted: str
    changed: str
    round: int
    replica_names: Sequence[str]
    steps: Sequence[StepInfo]


class WorkflowSummary(msgspec.Struct, kw_only=True):
    """A workflow in a listing.

    :ivar id: its ID.
    :ivar name: what its submitter calls it.
    :ivar state: ``running``, ``cancelling``, or its end: ``done``, ``failed``, ``cancelled``.
    :ivar submitter: the user at the member that it was submitted to.
    :ivar origin: peer ID of that member.
    :ivar origin_name: what it is called.
    :ivar submitted: when, by its origin's clock.
    :ivar changed: when its record was changed last, by the clock of who did.
    :ivar done: how many instances of its steps are done.
    :ivar steps: how many there are.
    :ivar tasks: IDs of those that have a task, in the order of the workflow's file.
    """

    id: str
    name: str
    state: str
    submitter: str
    origin: str
    origin_name: str
    submitted: str
    changed: str
    done: int
    steps: int
    tasks: Sequence[str]


def workflow_info(record: WorkflowRecord, name_of: Callable[[str], str]) -> WorkflowInfo:
    """What is said of a workflow."""
    submission = record.submission
    return WorkflowInfo(
        id=record.workflow,
        name=record.plan.workflow.name,
        state=_state(record.progress),
        submitter=submission.submitter,
        origin_name=name_of(submission.origin),
        submitted=rfc3339(submitted_at(record.workflow)),
        changed=rfc3339(record.changed),
        round=record.progress.round,
        replica_names=[name_of(each) for each in submission.replicas],
        steps=step_infos(record),
    )


def workflow_summary(outline: Outline, name_of: Callable[[str], str]) -> WorkflowSummary:
    """What a listing says of a workflow."""
    submission, entries = outline.submission, outline.progress.entries
    return WorkflowSummary(
        id=outline.workflow,
        name=outline.name,
        state=_state(outline.progress),
        submitter=submission.submitter,
        origin=submission.origin,
        origin_name=name_of(submission.origin),
        submitted=rfc3339(submitted_at(outline.workflow)),
        changed=rfc3339(outline.changed),
        done=sum(entry.status is Status.DONE for entry in entries),
        steps=len(entries),
        tasks=[entry.task for entry in entries if entry.task],
    )


def step_infos(record: WorkflowRecord) -> list[StepInfo]:
    """What is said of each instance, in the order of the workflow's file."""
    pairs = zip(record.plan.instances, record.progress.entries, strict=True)
    return [
        StepInfo(
            label=instance.name,
            state=STATES[entry.status],
            task=entry.task,
            outcome="" if entry.outcome is None else entry.outcome.value,
            output=entry.output,
            output_size=entry.size,
        )
        for instance, entry in pairs
    ]


def _state(progress: Progress) -> str:
    over = result(progress)
    if over is not None:
        return over.outcome.value
    return "cancelling" if progress.wish else "running"
