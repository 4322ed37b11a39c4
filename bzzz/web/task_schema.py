"""What the control API says of tasks (:mod:`bzzz.web.task_routes`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from bzzz.events import rfc3339
from bzzz.tasks.record import State
from bzzz.tasks.submission import submitted_at
from bzzz.tasks.value import TaskRecord

__all__ = ["AttemptInfo", "NodeVerdict", "TaskInfo", "UnfitInfo", "task_info"]


class AttemptInfo(msgspec.Struct, kw_only=True):
    """An attempt that is over."""

    token: int
    worker: str
    worker_name: str
    end: str
    exit_status: int | None
    reason: str


class TaskInfo(msgspec.Struct, kw_only=True):
    """A task.

    :ivar state: ``waiting``, ``running``, or its outcome when it has ended.
    :ivar submitted: when, RFC 3339, by its origin's clock.
    :ivar changed: when its record was changed last, by the clock of who did.
    :ivar why: what it waits for, or how it ended.
    :ivar worker: peer ID of where it runs, or of whose result it has.
    :ivar output: bytes of its standard output and error, where they are known.
    """

    id: str
    name: str
    command: Sequence[str]
    state: str
    cancel: bool
    exit_status: int | None
    why: str
    submitted: str
    changed: str
    origin: str
    origin_name: str
    submitter: str
    worker: str
    worker_name: str
    token: int
    attempts: Sequence[AttemptInfo]
    replicas: Sequence[str]
    replica_names: Sequence[str]
    where: str
    cpus: float
    memory: int
    gpus: int
    timeout: float
    retries: int
    restart: bool
    priority: int
    profile: str
    workflow: str
    step: str
    stdout_size: int | None
    stderr_size: int | None
    outputs: str
    outputs_size: int


class UnfitInfo(msgspec.Struct, kw_only=True):
    """What a node lacks for a task."""

    code: str
    text: str
    never: bool


class NodeVerdict(msgspec.Struct, kw_only=True):
    """Whether a task could run on a node, and if not, why."""

    peer_id: str
    name: str
    fits: bool
    unfit: Sequence[UnfitInfo]


def task_info(record: TaskRecord, name_of: Callable[[str], str]) -> TaskInfo:
    """What is said of a task."""
    submission, state = record.submission, record.state
    if state.state is State.ENDED:
        word = state.outcome.value if state.outcome is not None else "ended"
    else:
        word = "running" if state.state is State.ASSIGNED else "waiting"
    worker = state.worker or state.by
    produced = state.produced
    return TaskInfo(
        id=record.task,
        name=submission.name,
        command=submission.command,
        state=word,
        cancel=state.cancel,
        exit_status=state.exit_status,
        why=state.why,
        submitted=rfc3339(submitted_at(record.task)),
        changed=rfc3339(state.changed),
        origin=submission.origin,
        origin_name=name_of(submission.origin),
        submitter=submission.submitter,
        worker=worker,
        worker_name=name_of(worker) if worker else "",
        token=state.token,
        attempts=[
            AttemptInfo(
                token=each.token,
                worker=each.worker,
                worker_name=name_of(each.worker),
                end=each.end.value,
                exit_status=each.exit_status,
                reason=each.reason,
            )
            for each in state.attempts
        ],
        replicas=submission.replicas,
        replica_names=[name_of(each) for each in submission.replicas],
        where=submission.where,
        cpus=submission.cpus,
        memory=submission.memory,
        gpus=submission.gpus,
        timeout=submission.timeout,
        retries=submission.retries,
        restart=submission.restart,
        priority=submission.priority,
        profile=submission.profile,
        workflow=submission.workflow,
        step=submission.step,
        stdout_size=None if produced is None else produced.stdout_size,
        stderr_size=None if produced is None else produced.stderr_size,
        outputs="" if produced is None else produced.outputs,
        outputs_size=0 if produced is None else produced.outputs_size,
    )
