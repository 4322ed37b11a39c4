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
    """An attempt that is over.

    :ivar token: its fencing token: the number of the attempt.
    :ivar worker: peer ID of where it ran.
    :ivar worker_name: what that is called.
    :ivar end: ``done``, ``failed``, ``timed_out``, ``cancelled``, ``lost``, ``refused``, or
        ``stale`` of a result that came too late.
    :ivar exit_status: of its command, null where it has none.
    :ivar reason: in words.
    """

    token: int
    worker: str
    worker_name: str
    end: str
    exit_status: int | None
    reason: str


class TaskInfo(msgspec.Struct, kw_only=True):
    """A task.

    :ivar id: its ID.
    :ivar name: what its submitter calls it.
    :ivar command: its words.
    :ivar state: ``waiting``, ``running``, or its outcome when it has ended: ``done``, ``failed``,
        ``timed_out``, ``cancelled`` or ``lost``.
    :ivar cancel: whether its end is wanted.
    :ivar exit_status: of its command, null where it has none.
    :ivar why: what it waits for, or how it ended.
    :ivar submitted: when, by its origin's clock.
    :ivar changed: when its record was changed last, by the clock of who did.
    :ivar origin: peer ID of the member that it was submitted to.
    :ivar origin_name: what that is called.
    :ivar submitter: the user there.
    :ivar worker: peer ID of where it runs, or of whose result it has.
    :ivar worker_name: what that is called.
    :ivar token: its greatest fencing token, which is the number of its attempts.
    :ivar attempts: the last of those that are over.
    :ivar replicas: peer IDs of the members that keep it.
    :ivar replica_names: what they are called.
    :ivar where: what was asked of the machine.
    :ivar cpus: cores that are taken for it.
    :ivar memory: bytes that it may have, 0 where nothing was said.
    :ivar gpus: graphics processors that it has for itself.
    :ivar timeout: seconds after which an attempt is ended, 0 for none.
    :ivar retries: how often it may fail, and is run again.
    :ivar restart: whether it is run again when its machine is lost.
    :ivar priority: the greater is first.
    :ivar profile: its sandbox.
    :ivar workflow: ID of the workflow that it is a step of, or "".
    :ivar step: name of the step.
    :ivar stdout_size: bytes of its standard output, null where they are not known.
    :ivar stderr_size: likewise of standard error.
    :ivar outputs: digest of the files that it has put out, "" for none.
    :ivar outputs_size: bytes of these files.
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
    """What a node lacks for a task.

    :ivar code: which kind of thing, such as ``cpus``.
    :ivar text: in words.
    :ivar never: whether it could not run it with nothing else to do either.
    """

    code: str
    text: str
    never: bool


class NodeVerdict(msgspec.Struct, kw_only=True):
    """Whether a task could run on a node, and if not, why.

    :ivar peer_id: of the node.
    :ivar name: what it is called.
    :ivar fits: whether it could run there now.
    :ivar unfit: each thing that it lacks.
    """

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
