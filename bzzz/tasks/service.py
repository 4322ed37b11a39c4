"""Tasks on one node: its registers, its replica, its driver and its worker, composed.

Enters: what its owner wants, what other members ask (:mod:`bzzz.tasks.answering`), what there is to
ask them and to run commands with. Leaves: answers, and what became of tasks. docs/tasks.rst. The
simulator runs this very code.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import msgspec
from twisted.internet.defer import Deferred, succeed

from bzzz.errors import RemoteProtocolError
from bzzz.identity.peer_id import PeerID
from bzzz.tasks import submission as submissions
from bzzz.tasks.acceptor import Kept
from bzzz.tasks.answering import Answering
from bzzz.tasks.asking import Asking
from bzzz.tasks.driver import Driver
from bzzz.tasks.everyone import Everyone
from bzzz.tasks.finding import Finding, NoSuchTask
from bzzz.tasks.holding import Copied, Holding, NotHeld
from bzzz.tasks.interfaces import Placer
from bzzz.tasks.kept_records import KeptRecords
from bzzz.tasks.messages import (
    Answer,
    Cancel,
    Failed,
    Listed,
    Listing,
    Request,
    Retry,
)
from bzzz.tasks.reading import LastRead
from bzzz.tasks.record import begin
from bzzz.tasks.record_checks import RecordChecks
from bzzz.tasks.records import Records
from bzzz.tasks.registers import Registers
from bzzz.tasks.renewing import Renewing
from bzzz.tasks.replica import Replica
from bzzz.tasks.submission import TASK, Input, Submission, SubmissionError
from bzzz.tasks.value import TaskRecord
from bzzz.tasks.watching import Watching
from bzzz.tasks.worker import Worker
from bzzz.tasks.workflows.driver import WorkflowDriver
from bzzz.tasks.workflows.record import (
    WorkflowRecord,
    WorkflowSubmission,
    decode_workflow,
    is_workflow,
)
from bzzz.tasks.world import TaskWorld

__all__ = ["TaskService"]

# Replicas of a task in a cluster that has so many members.
REPLICAS: Final = 3

# Seconds for which a worker asks the replicas to take what an attempt has put out. Its result waits
# for that, so a quota that is used up there has to have a chance, and must not hold it for ever.
SHARE_SECONDS: Final = 60.0

# Seconds for the first record of a task.
CREATE_SECONDS: Final = 10.0


class TaskService:
    """The tasks of one node.

    :param placer: made with :meth:`place`, which it calls.
    :ivar peers: all members, this node with them.
    """

    def __init__(
        self, world: TaskWorld, placer: Callable[[Callable[[str, str], bool]], Placer]
    ) -> None:
        self._world = world
        self._key = world.key
        self.own = world.key.peer_id
        self._own_text = str(self.own)
        self._trusted = world.trusted
        self.peers = Everyone(world.clock, self.own, world.peers, self.answer)
        self.placer = placer(self.place)
        self._watching: Watching[Callable[[TaskRecord, bool], object]] = Watching()
        self._watching_workflows: Watching[Callable[[WorkflowRecord], object]] = Watching()
        self._reading = LastRead()
        self._checks = RecordChecks(
            self.own,
            world.trusted,
            self._reading,
            self._known,
            self._known_workflow,
        )
        asking = Asking(self.peers, self._checks)
        self._registers = Registers(
            world.clock, world.rng, self.own, asking.ask, self.peers.send_now
        )
        self.replica = Replica(
            world.store, world.clock, self._reading.current, self._learnt, world.disk_broken
        )
        self._renewing = Renewing(world.clock, self.replica)
        records = Records(self._registers, world.wall_time)
        self.driver = Driver(
            world.clock,
            world.rng,
            self.own,
            records,
            self.peers,
            self.placer,
            self.replica.until_closed,
            self._driven,
        )
        self.worker = Worker(
            world.clock,
            self.own,
            self.peers,
            world.executor,
            world.workspace,
            world.admit,
            world.give_back,
            world.run_over,
        )
        self._holding = (
            None
            if world.files is None
            else Holding(world.clock, self.own, self.peers, world.files, world.name_of)
        )
        self.workflows = WorkflowDriver(
            world.clock,
            world.wall_time,
            world.key,
            records,
            self.driver,
            self.peers,
            self.here,
            lambda record: self._watching_workflows.tell(record.workflow, record),
        )
        self._kept = KeptRecords(world.store, world.wall_time, self._known, self._known_workflow)
        self._finding = Finding(self.peers, self._checks)
        self._answering = Answering(
            self.own,
            world.trusted,
            self.replica,
            self._renewing,
            self.driver,
            self.workflows,
            self.worker,
            self._kept,
            self._checks,
            self._holding,
        )
        self.on_change(self.workflows.task_changed)
        self._loaded = False

    async def start(self) -> None:
        """Go on with what is on the disk.

        :raises DatabaseError: it cannot be read.
        """
        await self.replica.load()
        self._loaded = True
        self.driver.start()
        self.workflows.start()

    def stop(self) -> None:
        """Do nothing more. Attempts end with the executor."""
        self.driver.stop()
        self.workflows.stop()
        self._registers.stop()
        self.worker.stop()
        self._renewing.stop()
        self.peers.stop()
        if self._holding is not None:
            self._holding.stop()

    async def forget(self) -> int:
        """See :meth:`bzzz.tasks.kept_records.KeptRecords.forget`."""
        return await self._kept.forget()

    def answer(self, peer: PeerID, request: Request) -> Deferred[Answer]:
        """Answer a member. It does not fail."""
        if not self._loaded:
            # It would close tokens without their grace, and deny leases that it knows nothing of.
            return succeed(Failed("the node is starting"))
        return self._answering.answer(peer, request)

    def on_change(self, observer: Callable[[TaskRecord, bool], object]) -> None:
        """Tell ``observer`` of each newer record of tasks that this node keeps, and whether it is
        known to be decided."""
        self._watching.add(observer)

    def on_workflow(self, observer: Callable[[WorkflowRecord], object]) -> None:
        """The same for workflows."""
        self._watching_workflows.add(observer)

    def watch(self, task: str, watcher: Callable[[TaskRecord, bool], object]) -> Callable[[], None]:
        """Tell ``watcher`` of a task that this node keeps as :meth:`on_change` does, until what is
        returned is called."""
        return self._watching.watch(task, watcher)

    def watch_workflow(
        self, workflow: str, watcher: Callable[[WorkflowRecord], object]
    ) -> Callable[[], None]:
        """The same for a workflow that this node keeps."""
        return self._watching_workflows.watch(workflow, watcher)

    @property
    def watched(self) -> int:
        """Tasks and workflows that somebody watches."""
        return len(self._watching) + len(self._watching_workflows)

    def place(self, task: str, worker: str) -> bool:
        """See :meth:`bzzz.tasks.driver.Driver.place`."""
        return self.driver.place(task, worker)

    # -- what its owner wants

    def new_id(self) -> str:
        """An ID for a task that is to be submitted."""
        milliseconds = int(self._world.wall_time() * 1000)
        return submissions.new_task_id(milliseconds, self._world.random_bytes(10))

    async def submit(
        self,
        wanted: Submission,
        worker: str = "",
        copied: Copied = lambda peer, done, total: None,
    ) -> TaskRecord:
        """Submit a task; it is durable when this returns, with its inputs.

        :param wanted: its ID is of :meth:`new_id`, and is used for this call alone; its origin and
            replicas are filled in here.
        :param worker: who is to run it, where somebody is known that fits.
        :param copied: is told of inputs that another replica gets.
        :raises SubmissionError: it cannot be submitted.
        :raises NoMajority: it is not known whether it was submitted: ask for its ID.
        """
        self._checks.check_own_right()
        submission = msgspec.structs.replace(
            wanted, origin=self._own_text, replicas=self._choose_replicas()
        )
        signed = submissions.sign(submission, self._key)
        self._checks.remember(signed)
        # Who is to run it needs them anyway.
        holders = sorted(submission.replicas, key=lambda replica: replica != worker)
        await self._share_inputs(submission.task, submission.inputs, holders, copied)
        state = begin(worker, self._own_text)
        return await self.driver.create(TaskRecord(signed, submission, state), CREATE_SECONDS)

    async def submit_workflow(
        self, plan: bytes, submitter: str, files: Sequence[Input] = ()
    ) -> WorkflowRecord:
        """Submit a workflow; it is durable when this returns, with its files.

        :param plan: see :func:`bzzz.tasks.workflows.plan.encode`.
        :param files: those of the plan.
        :raises SubmissionError: it cannot be submitted.
        :raises NoMajority: it is not known whether it was submitted.
        """
        self._checks.check_own_right()
        submission = WorkflowSubmission(
            workflow=self.new_id(),
            origin=self._own_text,
            # Any of them may submit its steps.
            replicas=self._choose_replicas(self._trusted.may_submit),
            submitter=submitter,
            plan=plan,
        )
        await self._share_inputs(submission.workflow, files, submission.replicas)
        return await self.workflows.create(submission, CREATE_SECONDS)

    async def share_outputs(self, submission: Submission, digest: str) -> None:
        """Have what an attempt here has put out at a replica that is another node.

        :raises NotHeld: no replica could take it, within :data:`SHARE_SECONDS`.
        """
        if self._holding is not None:
            await self._holding.share(
                submission.task, (digest,), submission.replicas, patience=SHARE_SECONDS
            )

    async def find_workflow(self, workflow: str) -> WorkflowRecord | None:
        """The newest record of a workflow that can be found; None where there is none."""
        if TASK.fullmatch(workflow) is None:
            # Members would take the question for an offence.
            return None
        here = await self._kept.workflow(workflow)
        return here or await self._finding.find_workflow(workflow)

    async def change_workflow(self, record: WorkflowRecord, request: Cancel | Retry) -> None:
        """Cancel a workflow, or begin anew one that has ended.

        :raises SubmissionError: this node may not change tasks.
        :raises BzzzError: it is not known whether it was recorded.
        """
        self._checks.check_own_right()
        if self._own_text in record.submission.replicas:
            await self.workflows.change(record, request)
        else:
            await self._finding.change_workflow(record, request)

    def keeps(self, record: TaskRecord) -> bool:
        """Whether this node is a replica of a task."""
        return self._own_text in record.submission.replicas

    async def here(self, task: str) -> TaskRecord | None:
        """The newest record of a task that this node has.

        :raises DatabaseError: it cannot be read.
        """
        return await self._kept.task(task)

    async def list_here(self, listing: Listing) -> Listed:
        """The records that this node keeps.

        :raises DatabaseError: they cannot be read.
        """
        return await self._kept.page(listing)

    async def find(self, task: str, among: Sequence[str] = ()) -> TaskRecord:
        """The newest record of a task that can be found: here, or at any member.

        :param among: peer IDs of those that keep it, where that is known: nobody else is asked.
        :raises NoSuchTask: nobody has it.
        """
        if TASK.fullmatch(task) is None:
            raise NoSuchTask(f"{task!r} is no task's ID")
        try:
            here = await self.here(task)
        except RemoteProtocolError:
            # Others may be able to read theirs.
            here = None
        found = here or await self._finding.find(task, among)
        if found is None:
            raise NoSuchTask(f"there is no task {task}, or those who keep it cannot be reached")
        return found

    async def cancel(self, record: TaskRecord) -> TaskRecord:
        """Have a task end. The record that is returned may have to wait for its worker.

        :raises SubmissionError: this node may not change tasks.
        :raises BzzzError: it is not known whether it was recorded.
        """
        self._checks.check_own_right()
        if self.keeps(record):
            return await self.driver.cancel(record)
        return await self._finding.change(record, Cancel(record.task))

    async def retry(self, record: TaskRecord) -> TaskRecord:
        """Begin anew a task that has ended.

        :raises SubmissionError: this node may not change tasks.
        :raises BzzzError: it is not known whether it was recorded.
        """
        self._checks.check_own_right()
        token = record.state.token
        if self.keeps(record):
            return await self.driver.retry(record, token)
        return await self._finding.change(record, Retry(record.task, token))

    # -- inside

    def _known(self, task: str) -> TaskRecord | None:
        return self.driver.known(task)

    def _known_workflow(self, workflow: str) -> WorkflowRecord | None:
        return self.workflows.known(workflow)

    def _driven(self, record: TaskRecord, settled: bool) -> None:
        if settled and record.has_ended and len(record.submission.replicas) > 1:
            self.replica.decided(record.task, record.ballot)
        self._watching.tell(record.task, record, settled)

    def _learnt(self, task: str, kept: Kept) -> None:
        if kept.accepted is None:
            return
        if is_workflow(kept.value):
            self.workflows.learnt(
                decode_workflow(kept.value, kept.accepted, self.workflows.known(task))
            )
        else:
            self.driver.learnt(self._reading.read(kept.value, kept))

    async def _share_inputs(
        self,
        task: str,
        inputs: Sequence[Input],
        replicas: Sequence[str],
        copied: Copied = lambda peer, done, total: None,
    ) -> None:
        """Have what is to be read on two members before anybody is told that it will be.

        :raises SubmissionError: it is not.
        """
        if not inputs or self._holding is None:
            return
        digests = [each.digest for each in inputs]
        try:
            await self._holding.share(task, digests, replicas, copied)
        except NotHeld as error:
            raise SubmissionError(f"its files are not where they have to be: {error}") from None

    def _choose_replicas(
        self, fit: Callable[[PeerID], bool] = lambda peer: True
    ) -> tuple[str, ...]:
        """This node and two others, linked ones if there are.

        :raises SubmissionError: nobody else can be reached, where somebody has to be.
        """
        members = self._trusted.members()
        others = [peer for peer in members if peer != self.own and fit(peer)]
        if len(others) + 1 < REPLICAS:
            return (self._own_text,)
        linked = self.peers.linked()
        reached = [peer for peer in others if peer in linked]
        if not reached:
            raise SubmissionError(
                f"none of the {len(others)} other members can be reached, and two of three have to"
                " keep a task: see bzzz peers, and try again"
            )
        chosen = self._sample(reached)
        if len(chosen) < REPLICAS - 1:
            chosen += self._sample([peer for peer in others if peer not in linked])
        return (self._own_text, *(str(peer) for peer in chosen[: REPLICAS - 1]))

    def _sample(self, peers: Sequence[PeerID]) -> list[PeerID]:
        return self._world.rng.sample(sorted(peers), min(len(peers), REPLICAS - 1))
