"""The state of a workflow, and the changes that a driver may make to it (``docs/tasks.rst``).

Enters: a plan, a state, and what happened. Leaves: the next state, or None where the record is to
be left as it is, because what happened is known already or is of another task than the one that the
state knows. Each function that changes it is applied inside a change of the register, as those of
:mod:`bzzz.tasks.record` are, so any replica may drive a workflow, and two at once do no harm.

An instance's task has its ID in the state before it is submitted (:func:`reserve`). Who finds a
reservation that was not confirmed asks that task's own register, and closes it there if it is
empty, before he takes it back (:func:`release`).
"""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum
from typing import Annotated, Final

import msgspec
from msgspec import Meta, Struct
from msgspec.structs import replace

from bzzz.errors import RemoteProtocolError
from bzzz.tasks.record import Outcome
from bzzz.tasks.submission import MAX_COUNT, MAX_REPLICAS, TASK, Input
from bzzz.tasks.workflows.plan import ALWAYS, MAX_INSTANCES, Plan

__all__ = [
    "MAX_PROGRESS",
    "Entry",
    "Progress",
    "Result",
    "Status",
    "Wish",
    "begin",
    "cancel",
    "decode",
    "encode",
    "ended",
    "inputs",
    "read",
    "ready",
    "release",
    "reserve",
    "reserve_ready",
    "result",
    "retry",
    "submitted",
    "unconfirmed",
    "unwanted",
]

# Bytes of a state, all instances ended with outputs; with a workflow of the greatest length this
# fits into a record.
MAX_PROGRESS: Final = 128 << 10


class Status(IntEnum):
    """Where an instance is.

    ``RESERVED``: its task has an ID, and may have been submitted. ``SKIPPED``: it never ran, as
    something that it needs did not succeed, or the end of the workflow was wanted.
    """

    WAITING = 0
    RESERVED = 1
    SUBMITTED = 2
    DONE = 3
    FAILED = 4
    CANCELLED = 5
    SKIPPED = 6


class Wish(IntEnum):
    """What is wanted of a workflow.

    ``CANCEL``: its end, after the steps that run ``always``. ``STOP``: its end, without them.
    """

    RUN = 0
    CANCEL = 1
    STOP = 2


class Entry(Struct, frozen=True, array_like=True, omit_defaults=True):
    """What is known of an instance.

    :ivar task: ID of its task, "" without one.
    :ivar by: place of the replica that submits it, among the workflow's replicas.
    :ivar outcome: how its task ended.
    :ivar output: digest of the manifest of what it put out, in hex; "" for nothing.
    :ivar size: bytes of that.
    """

    status: Status = Status.WAITING
    task: Annotated[str, Meta(max_length=26)] = ""
    by: Annotated[int, Meta(ge=0, lt=MAX_REPLICAS)] = 0
    outcome: Outcome | None = None
    output: Annotated[str, Meta(pattern=r"^([0-9a-f]{64})?\Z")] = ""
    size: Annotated[int, Meta(ge=0, le=MAX_COUNT)] = 0


class Progress(Struct, frozen=True, forbid_unknown_fields=True):
    """The state of a workflow.

    :ivar entries: of the plan's instances, in their order.
    :ivar round: how often it was begun anew.
    """

    entries: Annotated[tuple[Entry, ...], Meta(max_length=MAX_INSTANCES)]
    wish: Wish = Wish.RUN
    round: Annotated[int, Meta(ge=0, le=MAX_COUNT)] = 0


class Result(Struct, frozen=True):
    """How a workflow ended.

    :ivar outcome: ``DONE``, ``FAILED`` or ``CANCELLED``.
    :ivar failed: places of instances that failed, ran out of time or were lost.
    :ivar cancelled: of those whose task was cancelled.
    :ivar skipped: of those that never ran.
    """

    outcome: Outcome
    failed: tuple[int, ...] = ()
    cancelled: tuple[int, ...] = ()
    skipped: tuple[int, ...] = ()


_ACTIVE_BITS: Final = 1 << Status.RESERVED | 1 << Status.SUBMITTED
_BAD_BITS: Final = 1 << Status.FAILED | 1 << Status.CANCELLED | 1 << Status.SKIPPED
_DONE_BIT: Final = 1 << Status.DONE
_WAITING_BIT: Final = 1 << Status.WAITING

ACTIVE: Final = (Status.RESERVED, Status.SUBMITTED)
OVER: Final = (Status.DONE, Status.FAILED, Status.CANCELLED, Status.SKIPPED)

STATUS: Final = {
    Outcome.DONE: Status.DONE,
    Outcome.FAILED: Status.FAILED,
    Outcome.TIMED_OUT: Status.FAILED,
    Outcome.LOST: Status.FAILED,
    Outcome.CANCELLED: Status.CANCELLED,
}

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Progress)


def begin(plan: Plan) -> Progress:
    """The first state: all instances wait."""
    return Progress((Entry(),) * len(plan.instances))


def encode(progress: Progress) -> bytes:
    """A state's bytes."""
    return _encoder.encode(progress)


def decode(plan: Plan, data: bytes) -> Progress:
    """Read a state that a member wrote.

    :raises RemoteProtocolError: it is none of this workflow.
    """
    progress = read(data)
    if len(progress.entries) != len(plan.instances):
        raise RemoteProtocolError("a state is of another workflow", "workflow_state")
    return progress


def read(data: bytes) -> Progress:
    """The same of whichever workflow.

    :raises RemoteProtocolError: it is no state.
    """
    if len(data) > MAX_PROGRESS:
        raise RemoteProtocolError(f"a workflow's state has {len(data)} bytes", "workflow_length")
    try:
        progress = _decoder.decode(data)
    except (msgspec.MsgspecError, RecursionError, UnicodeError) as error:
        raise RemoteProtocolError(
            f"a workflow's state cannot be read: {error}", "workflow_state"
        ) from None
    for entry in progress.entries:
        tasked = entry.status not in (Status.WAITING, Status.SKIPPED)
        ended_ = entry.status in OVER and tasked
        if (
            (TASK.fullmatch(entry.task) is not None) != tasked
            or (not tasked and entry.task)
            or (entry.outcome is not None) != ended_
            or (entry.outcome is not None and STATUS[entry.outcome] is not entry.status)
        ):
            raise RemoteProtocolError("an instance's state cannot be", "workflow_state")
    return progress


def ready(plan: Plan, progress: Progress) -> tuple[int, ...]:
    """The instances to submit now, in the order of the plan."""
    active = sum(entry.status in ACTIVE for entry in progress.entries)
    most = plan.workflow.max_parallel or len(plan.instances)
    found = []
    for step, can_run, _ in _outlook(plan, progress):
        if can_run:
            found += [
                place
                for place in range(*plan.ranges[step])
                if progress.entries[place].status is Status.WAITING
            ]
    return tuple(found[: max(0, most - active)])


def inputs(plan: Plan, progress: Progress, place: int) -> tuple[Input, ...]:
    """What is put into an instance's directory before it begins.

    The submitter's files, and those of the instances that it needs, as far as they have put any
    out. None replaces another: a file that is there already is an error of the task.
    """
    instance = plan.instances[place]
    mine = {file.path: file for file in plan.workflow.files}
    given = [mine[path] for path in instance.work.inputs if path in mine]
    for source in instance.sources:
        entry = progress.entries[source.instance]
        if entry.output:
            given.append(Input(source.directory, entry.output, entry.size))
    return tuple(given)


def reserve(plan: Plan, progress: Progress, place: int, task: str, by: int) -> Progress | None:
    """Give an instance's task its ID, before the task is submitted.

    :param task: an ID that was made for this, and is not tried again where None came back.
    :param by: place of who will submit it, among the workflow's replicas.
    """
    if place not in ready(plan, progress):
        return None
    return _with(progress, place, Entry(Status.RESERVED, task, by))


def reserve_ready(
    plan: Plan, progress: Progress, task_of: Callable[[int], str], by: int, most: int
) -> Progress | None:
    """Reserve for instances that are ready, the first ones, see :func:`reserve`.

    :param task_of: the ID for an instance's task.
    """
    places = ready(plan, progress)[:most]
    if not places:
        return None
    entries = list(progress.entries)
    for place in places:
        entries[place] = Entry(Status.RESERVED, task_of(place), by)
    return replace(progress, entries=tuple(entries))


def submitted(progress: Progress, place: int, task: str) -> Progress | None:
    """The task is there: its submission was acknowledged, or its register has it."""
    entry = progress.entries[place]
    if entry.status is not Status.RESERVED or entry.task != task:
        return None
    return _with(progress, place, replace(entry, status=Status.SUBMITTED))


def release(plan: Plan, progress: Progress, place: int, task: str) -> Progress | None:
    """The task is not there, and never will be: its own register was closed to it while empty."""
    entry = progress.entries[place]
    if entry.status is not Status.RESERVED or entry.task != task:
        return None
    return _settled(plan, _with(progress, place, Entry()))


def ended(
    plan: Plan,
    progress: Progress,
    place: int,
    task: str,
    outcome: Outcome,
    output: str = "",
    size: int = 0,
) -> Progress | None:
    """The task of an instance has ended; what cannot run any more is skipped.

    :param output: digest of the manifest of what it put out, in hex.
    """
    entry = progress.entries[place]
    if entry.status not in ACTIVE or entry.task != task:
        return None
    over = replace(entry, status=STATUS[outcome], outcome=outcome, output=output, size=size)
    return _settled(plan, _with(progress, place, over))


def cancel(plan: Plan, progress: Progress, *, stop: bool = False) -> Progress | None:
    """Want its end.

    :param stop: without the steps that run ``always``.
    """
    wish = Wish.STOP if stop else Wish.CANCEL
    if wish <= progress.wish or result(progress) is not None:
        return None
    return _settled(plan, replace(progress, wish=wish))


def retry(plan: Plan, progress: Progress, round_: int) -> Progress | None:
    """Begin anew what did not succeed, and what ran after that, once it has ended.

    :param round_: as it was when that was wished.
    """
    over = result(progress)
    if over is None or over.outcome is Outcome.DONE or progress.round != round_:
        return None
    entries = list(progress.entries)
    anew: set[int] = set()
    for step, needs in enumerate(plan.needs):
        after = any(need in anew for need in needs)
        for place in range(*plan.ranges[step]):
            if after or entries[place].status is not Status.DONE:
                entries[place] = Entry()
                anew.add(step)
    return Progress(tuple(entries), round=progress.round + 1)


def unconfirmed(progress: Progress) -> tuple[int, ...]:
    """Instances with a reservation that nobody confirmed: to be asked for, or submitted."""
    return tuple(
        place for place, entry in enumerate(progress.entries) if entry.status is Status.RESERVED
    )


def unwanted(plan: Plan, progress: Progress) -> tuple[int, ...]:
    """Instances whose tasks are to be cancelled."""
    if progress.wish is Wish.RUN:
        return ()
    return tuple(
        place
        for place, entry in enumerate(progress.entries)
        if entry.status in ACTIVE
        and (progress.wish is Wish.STOP or not _always(plan, plan.instances[place].step))
    )


def result(progress: Progress) -> Result | None:
    """How it ended; None as long as it has not."""
    failed, cancelled, skipped = [], [], []
    for place, entry in enumerate(progress.entries):
        if entry.status not in OVER:
            return None
        if entry.status is Status.FAILED:
            failed.append(place)
        elif entry.status is Status.CANCELLED:
            cancelled.append(place)
        elif entry.status is Status.SKIPPED:
            skipped.append(place)
    outcome = Outcome.DONE
    if failed and progress.wish is Wish.RUN:
        outcome = Outcome.FAILED
    elif failed or cancelled or skipped:
        outcome = Outcome.CANCELLED
    return Result(outcome, tuple(failed), tuple(cancelled), tuple(skipped))


def _with(progress: Progress, place: int, entry: Entry) -> Progress:
    entries = progress.entries
    return replace(progress, entries=(*entries[:place], entry, *entries[place + 1 :]))


def _always(plan: Plan, step: int) -> bool:
    return plan.workflow.steps[step].when == ALWAYS


def _settled(plan: Plan, progress: Progress) -> Progress:
    """With all instances skipped that can never run."""
    entries = list(progress.entries)
    for step, _, never in _outlook(plan, progress):
        if never:
            for place in range(*plan.ranges[step]):
                if entries[place].status is Status.WAITING:
                    entries[place] = Entry(Status.SKIPPED)
    return replace(progress, entries=tuple(entries))


def _outlook(plan: Plan, progress: Progress) -> list[tuple[int, bool, bool]]:
    """For each step, whether its waiting instances can run now, and whether they never can."""
    outlook: list[tuple[int, bool, bool]] = []
    over: list[bool] = []  # all its instances have ended, or never run
    good: list[bool] = []  # all are done
    bad: list[bool] = []  # one has ended otherwise, or never runs
    began: list[bool] = []  # one of it, or of what it follows, ever had a task
    entries = progress.entries
    stopped, wanted = progress.wish is Wish.STOP, progress.wish is Wish.RUN
    for step, needs in enumerate(plan.needs):
        # What states its instances have, as bits: this is done at each change of a workflow.
        bits, tasks = 0, False
        for place in range(*plan.ranges[step]):
            bits |= 1 << entries[place].status
            tasks = tasks or entries[place].task != ""
        followed = any(began[need] for need in needs)
        if _always(plan, step):
            now = all(over[need] for need in needs)
            never = stopped or (now and bool(needs) and not followed)
        else:
            now = all(good[need] for need in needs)
            never = not wanted or any(bad[need] for need in needs)
        waits = bool(bits & _WAITING_BIT)
        outlook.append((step, now and not never, never))
        over.append(not bits & _ACTIVE_BITS and (never or not waits))
        good.append(bits == _DONE_BIT)
        bad.append(bool(bits & _BAD_BITS) or (never and waits))
        began.append(followed or tasks)
    return outlook
