"""Acting for the workflows that this node is a replica of (``docs/tasks.rst``, "Workflows").

Enters: records as this replica learns them, ends of steps' tasks, links. Leaves: changes of
records, and tasks. All replicas of a workflow are those of its tasks, too, so each hears of their
ends by itself; the first that is linked acts. Two that act at once make the same tasks, as the IDs
of these follow from the workflow's.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, Final, NamedTuple

from msgspec.structs import replace
from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from bzzz.errors import BzzzError
from bzzz.identity.keys import PrivateKey
from bzzz.net.background import in_background
from bzzz.net.periodic import Periodic
from bzzz.tasks import submission as submissions
from bzzz.tasks.ballots import RESERVED
from bzzz.tasks.driver import CHANGE_SECONDS, CHECK, PATIENCE, Driver
from bzzz.tasks.interfaces import Peers
from bzzz.tasks.messages import Cancel, Retry
from bzzz.tasks.record import Outcome, TaskState
from bzzz.tasks.records import NoRecord, Records
from bzzz.tasks.submission import Submission, SubmissionError
from bzzz.tasks.value import TaskRecord, peer_id
from bzzz.tasks.workflows import progress as progresses
from bzzz.tasks.workflows.plan import read_workflow
from bzzz.tasks.workflows.progress import ACTIVE, Progress
from bzzz.tasks.workflows.record import (
    WorkflowRecord,
    WorkflowSubmission,
    decode_workflow,
    encode_workflow,
    sign_workflow,
    step_id,
)

__all__ = ["ENDS", "WorkflowDriver"]

# Ends of tasks that one change takes in, and tasks that it reserves: with a thousand instances a
# few milliseconds.
ENDS: Final = 25
RESERVED_AT_ONCE: Final = 100

# Tasks that are submitted at one time, each of which takes half a millisecond of a turn.
MADE_AT_ONCE: Final = 8


class _End(NamedTuple):
    """How the task of a step has ended."""

    outcome: Outcome
    output: str = ""
    size: int = 0


class _Live:
    """A workflow that has not ended.

    :ivar ends: of its tasks, by ID.
    :ivar made: IDs of tasks that have a record.
    :ivar looked: IDs of those that were looked up; what changes since is heard of.
    :ivar cancelled: IDs of those that were cancelled here.
    """

    def __init__(self, record: WorkflowRecord, place: int, now: float) -> None:
        self.record = record
        self.place = place
        self.since = now
        self.busy = False
        self.again = False
        self.ends: dict[str, _End] = {}
        self.made: set[str] = set()
        self.looked: set[str] = set()
        self.cancelled: set[str] = set()


class WorkflowDriver:
    """Drives the workflows of one replica.

    :param key: this node's.
    :param tasks: makes and cancels the tasks.
    :param here: the record of a task on this replica.
    :param told: is given each newer record.
    """

    _log = Logger()

    def __init__(
        self,
        clock: IReactorTime,
        wall_time: Callable[[], float],
        key: PrivateKey,
        records: Records,
        tasks: Driver,
        peers: Peers,
        here: Callable[[str], Awaitable[TaskRecord | None]],
        told: Callable[[WorkflowRecord], object],
    ) -> None:
        self._clock = clock
        self._wall_time = wall_time
        self._key = key
        self._own = str(key.peer_id)
        self._records = records
        self._tasks = tasks
        self._peers = peers
        self._here = here
        self._told = told
        self._live: dict[str, _Live] = {}
        self._stopped = False
        self._checking = Periodic(clock, CHECK, self._check, "looking at workflows", self._log)
        # What the member that somebody named in a step is, by peer ID; raises a BzzzError.
        self.find_node: Callable[[str], str] = lambda name: name

    def start(self) -> None:
        """Look at what waits for others from now on."""
        self._checking.start(now=False)

    def stop(self) -> None:
        """Begin nothing more."""
        self._stopped = True
        self._checking.stop()

    def known(self, workflow: str) -> WorkflowRecord | None:
        """The newest record of a workflow that has not ended, as far as this node knows."""
        live = self._live.get(workflow)
        return None if live is None else live.record

    def learnt(self, record: WorkflowRecord) -> None:
        """This replica has accepted a record.

        It takes an end for decided: where it is not, the others have not accepted it and go on.
        """
        replicas = record.submission.replicas
        if self._own not in replicas:
            return
        live = self._live.get(record.workflow)
        if live is not None and record.ballot <= live.record.ballot:
            return
        if record.has_ended:
            self._live.pop(record.workflow, None)
        elif live is None:
            place = replicas.index(self._own)
            live = _Live(record, place, self._clock.seconds())
            self._live[record.workflow] = live
        else:
            live.record = record
            live.since = self._clock.seconds()
        self._told(record)
        live = self._live.get(record.workflow)
        if live is not None:
            self._look(live)

    def task_changed(self, record: TaskRecord, settled: bool) -> None:
        """A task that this node keeps has a newer record."""
        live = self._live.get(record.submission.workflow)
        if live is None or not _is_step(live, record):
            return
        live.made.add(record.task)
        if record.has_ended and settled:
            live.ends[record.task] = _end_of(record.state)
            self._look(live)

    # -- what is asked of it

    async def create(self, submission: WorkflowSubmission, within: float) -> WorkflowRecord:
        """Give a workflow its record.

        :param submission: whose ID was made for this call, by this node.
        :raises SubmissionError: it is no workflow that can be run, or too long.
        :raises NoMajority: it is not known whether it has it.
        """
        plan = read_workflow(submission.plan)
        record = WorkflowRecord(
            sign_workflow(submission, self._key),
            submission,
            plan,
            progresses.begin(plan),
            changed=self._wall_time(),
        )
        value = encode_workflow(record)
        decided = await self._records.propose(
            submission.workflow,
            submission.replicas,
            lambda before: value if before is None else None,
            within,
            first=RESERVED,
            shown=value,
        )
        if decided.value is None or decided.ballot is None:
            raise NoRecord(f"there is no record of workflow {submission.workflow}")
        made = decode_workflow(decided.value, decided.ballot, record)
        self.learnt(made)
        return made

    async def cancel(self, record: WorkflowRecord) -> WorkflowRecord:
        """Have a workflow end; the second time without the steps that run always.

        :raises BzzzError: it is not known whether it was recorded.
        """
        stop = record.progress.wish is not progresses.Wish.RUN
        return await self._change(
            record, lambda progress: progresses.cancel(record.plan, progress, stop=stop)
        )

    async def retry(self, record: WorkflowRecord, round_: int) -> WorkflowRecord:
        """Begin anew what did not succeed.

        :raises BzzzError: it is not known whether it was recorded.
        """
        return await self._change(
            record, lambda progress: progresses.retry(record.plan, progress, round_)
        )

    async def change(self, record: WorkflowRecord, request: Cancel | Retry) -> WorkflowRecord:
        """Do either, as a member has asked for it.

        :raises BzzzError: likewise.
        """
        if isinstance(request, Cancel):
            return await self.cancel(record)
        return await self.retry(record, request.token)

    # -- inside

    async def _change(
        self, record: WorkflowRecord, edit: Callable[[Progress], Progress | None]
    ) -> WorkflowRecord:
        def change(value: bytes | None) -> bytes | None:
            if value is None:
                return None
            last = decode_workflow(value, known=record)
            progress = edit(last.progress)
            if progress is None:
                return None
            return encode_workflow(
                replace(
                    last,
                    progress=progress,
                    version=last.version + 1,
                    changed=self._wall_time(),
                )
            )

        decided = await self._records.propose(
            record.workflow,
            record.submission.replicas,
            change,
            CHANGE_SECONDS,
            shown=encode_workflow(record),
        )
        if decided.value is None or decided.ballot is None:
            raise NoRecord(f"there is no record of workflow {record.workflow}")
        newer = decode_workflow(decided.value, decided.ballot, record)
        self.learnt(newer)
        return newer

    def _check(self) -> None:
        for live in list(self._live.values()):
            self._look(live)

    def _look(self, live: _Live) -> None:
        if live.busy:
            live.again = True
            return
        if self._stopped:
            return
        linked = self._peers.linked()
        before = live.record.submission.replicas[: live.place]
        is_first = not any(peer_id(each) in linked for each in before)
        if is_first or self._clock.seconds() >= live.since + PATIENCE * live.place:
            live.busy = True
            self._background(self._drive(live), "driving a workflow")

    async def _drive(self, live: _Live) -> None:
        workflow = live.record.workflow
        try:
            live.looked.clear()
            while self._live.get(workflow) is live and not self._stopped:
                live.again = False
                if not await self._step(live) and not live.again:
                    break
        except BzzzError as error:
            # It is looked at again in a while.
            self._log.info(
                "Workflow {workflow} has to wait: {error}", workflow=workflow, error=error
            )
        finally:
            live.busy = False

    async def _step(self, live: _Live) -> bool:
        """Do what is to be done now; whether there was anything."""
        record = live.record
        await self._look_up(live)
        entries = record.progress.entries
        heard = any(entry.status in ACTIVE and entry.task in live.ends for entry in entries)
        if heard or progresses.ready(record.plan, record.progress):
            await self._change(record, self._edit(live, record))
            return True
        wanted = [
            (place, entry.task)
            for place, entry in enumerate(entries)
            if entry.status in ACTIVE and entry.task not in live.made
        ]
        if wanted:
            await self._make_some(live, record, wanted[:MADE_AT_ONCE])
            return True
        for place in progresses.unwanted(record.plan, record.progress):
            task = record.progress.entries[place].task
            if task not in live.cancelled:
                await self._cancel(live, task)
                return True
        return False

    def _edit(self, live: _Live, record: WorkflowRecord) -> Callable[[Progress], Progress | None]:
        """What is known of ends, and new tasks for what is ready, in one change."""
        plan, ends = record.plan, dict(live.ends)

        def edit(progress: Progress) -> Progress | None:
            last, count = progress, 0
            for place, entry in enumerate(progress.entries):
                end = ends.get(entry.task) if entry.status in ACTIVE else None
                if end is not None:
                    last = progresses.ended(plan, last, place, entry.task, *end) or last
                    count += 1
                    if count == ENDS:
                        break
            round_ = last.round
            last = (
                progresses.reserve_ready(
                    plan,
                    last,
                    lambda place: step_id(record.workflow, place, round_),
                    live.place,
                    RESERVED_AT_ONCE,
                )
                or last
            )
            return None if last is progress else last

        return edit

    async def _look_up(self, live: _Live) -> None:
        """See what is known of tasks that this node has not heard of since it started."""
        for entry in live.record.progress.entries:
            if entry.status not in ACTIVE or entry.task in live.made or entry.task in live.looked:
                continue
            live.looked.add(entry.task)
            known = await self._here(entry.task)
            if known is not None and _is_step(live, known):
                live.made.add(entry.task)
                if known.has_ended:
                    live.ends[entry.task] = _end_of(known.state)

    async def _make_some(
        self, live: _Live, record: WorkflowRecord, wanted: Sequence[tuple[int, str]]
    ) -> None:
        """Submit tasks, and raise what one of them fails with when all have been tried."""
        making = [
            Deferred.fromCoroutine(self._make(live, record, place, task)) for place, task in wanted
        ]
        for _, result in await DeferredList(making, consumeErrors=True):
            if isinstance(result, Failure):
                result.raiseException()

    async def _make(self, live: _Live, record: WorkflowRecord, place: int, task: str) -> None:
        try:
            submission = self._submission(record, place, task)
            signed = submissions.sign(submission, self._key)
        except SubmissionError as error:
            self._log.warn(
                "Step {step} of workflow {workflow} cannot run: {error}",
                step=record.plan.instances[place].name,
                workflow=record.workflow,
                error=error,
            )
            live.made.add(task)
            live.ends[task] = _End(Outcome.FAILED)
            return
        made = await self._tasks.create(
            TaskRecord(signed, submission, TaskState()), CHANGE_SECONDS, fresh=False
        )
        live.made.add(task)
        if made.has_ended:
            live.ends[task] = _end_of(made.state)

    def _submission(self, record: WorkflowRecord, place: int, task: str) -> Submission:
        """The task of a step.

        :raises SubmissionError: it cannot be one.
        """
        instance = record.plan.instances[place]
        work = instance.work
        try:
            on = self.find_node(work.on) if work.on else ""
        except BzzzError as error:
            raise SubmissionError(str(error)) from None
        return Submission(
            task=task,
            origin=self._own,
            replicas=record.submission.replicas,
            command=work.command,
            name=instance.name,
            submitter=record.submission.submitter,
            env=dict(work.env),
            where=work.where,
            on=on,
            cpus=work.cpus,
            memory=work.memory,
            gpus=work.gpus,
            timeout=work.timeout,
            retries=work.retries,
            restart=work.restart,
            priority=work.priority,
            profile=work.profile,
            inputs=progresses.inputs(record.plan, record.progress, place),
            outputs=work.outputs,
            workflow=record.workflow,
            step=instance.name,
        )

    async def _cancel(self, live: _Live, task: str) -> None:
        live.cancelled.add(task)
        known = await self._here(task)
        if known is not None and _is_step(live, known) and not known.has_ended:
            await self._tasks.cancel(known)

    def _background(self, doing: Coroutine[Any, Any, None], what: str) -> None:
        in_background(doing, what, self._log)


def _is_step(live: _Live, task: TaskRecord) -> bool:
    """Whether one of the workflow's replicas has submitted a task. The IDs of steps are known to
    others, who may submit tasks of their own that have them."""
    step, workflow = task.submission, live.record
    return step.workflow == workflow.workflow and step.replicas == workflow.submission.replicas


def _end_of(state: TaskState) -> _End:
    produced = state.produced
    outcome = state.outcome or Outcome.LOST
    if produced is None:
        return _End(outcome)
    return _End(outcome, produced.outputs, produced.outputs_size)
