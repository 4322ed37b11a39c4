"""Tasks on one node: its registers, its replica, its driver and its worker, composed.

Enters: what its owner wants, what other members ask, what there is to ask them and to run commands
with. Leaves: answers, and what became of tasks. docs/tasks.rst. The simulator runs this very code.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import Final, NoReturn
from typing import Protocol as Shape

import msgspec
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from bzzz.errors import BzzzError, RemoteProtocolError
from bzzz.identity.keys import PrivateKey
from bzzz.identity.peer_id import PeerID
from bzzz.net.calls import AnswerLost
from bzzz.tasks import submission as submissions
from bzzz.tasks.acceptor import Kept
from bzzz.tasks.ballots import RESERVED, Accept
from bzzz.tasks.ballots import Answer as RegisterAnswer
from bzzz.tasks.ballots import Request as RegisterRequest
from bzzz.tasks.driver import Driver
from bzzz.tasks.executors.interfaces import IExecutor
from bzzz.tasks.holding import Copied, HeldFiles, Holding, NotHeld
from bzzz.tasks.interfaces import Peers, Placer, Workspace
from bzzz.tasks.messages import (
    MAX_MESSAGE,
    Answer,
    Cancel,
    Done,
    Failed,
    Find,
    Found,
    Granted,
    Hold,
    Listed,
    Listing,
    Offer,
    Refused,
    Register,
    Renew,
    Report,
    Request,
    Retry,
    Settled,
    Stop,
    Told,
)
from bzzz.tasks.record import State, begin
from bzzz.tasks.records import Records
from bzzz.tasks.register_store import RegisterStore
from bzzz.tasks.registers import Registers
from bzzz.tasks.replica import Current, Replica
from bzzz.tasks.submission import TASK, Input, SignedSubmission, Submission, SubmissionError
from bzzz.tasks.value import TaskRecord, decode_record, encode_record, peer_id
from bzzz.tasks.worker import Admit, Worker
from bzzz.tasks.workflows.driver import WorkflowDriver
from bzzz.tasks.workflows.record import (
    WorkflowRecord,
    WorkflowSubmission,
    decode_workflow,
    is_workflow,
    verify_workflow,
)

__all__ = ["NoSuchTask", "TaskService", "TaskWorld", "Trusted", "is_open"]

# Replicas of a task in a cluster that has so many members.
REPLICAS: Final = 3

# Submissions whose signature is remembered as good: those of tasks that change often.
MAX_VERIFIED: Final = 10_000

# Seconds for which ended tasks are kept, and how many at most; so many are removed at once.
KEEP: Final = 7 * 86400.0
MAX_ENDED: Final = 100_000
FORGOTTEN_AT_ONCE: Final = 500

# Seconds for an answer. A change of a record that a peer makes for it takes ten at most.
ANSWER_SECONDS: Final = 30.0

# Seconds for which a worker asks the replicas to take what an attempt has put out. Its result waits
# for that, so a quota that is used up there has to have a chance, and must not hold it for ever.
SHARE_SECONDS: Final = 60.0

# Seconds for the first record of a task.
CREATE_SECONDS: Final = 10.0


class NoSuchTask(BzzzError):
    """No member that could be asked has the task."""


class Trusted(Shape):
    """Who may do what with tasks."""

    def members(self) -> Collection[PeerID]:
        """All members of the cluster with this node; this node alone where it is in none."""

    def may_submit(self, peer: PeerID) -> bool:
        """Whether tasks that this member has signed are run, and what it wants done with any."""

    def may_run(self, peer: PeerID) -> bool:
        """Whether this member runs tasks."""


@dataclass(frozen=True)
class TaskWorld:
    """What tasks need of a node.

    :ivar clock: whose time goes on while the machine sleeps.
    :ivar wall_time: seconds since the epoch.
    :ivar rng: for what need not be secret.
    :ivar random_bytes: fit for IDs that nobody else has.
    :ivar peers: the other members; this node itself need not be among them.
    :ivar admit: see :data:`bzzz.tasks.worker.Admit`.
    :ivar give_back: see :class:`bzzz.tasks.worker.Worker`.
    :ivar run_over: likewise.
    :ivar disk_broken: see :class:`bzzz.tasks.replica.Replica`.
    :ivar files: the cache; None where there is none, and tasks have no files.
    :ivar name_of: what the member with a peer ID is called.
    """

    clock: IReactorTime
    wall_time: Callable[[], float]
    rng: Random
    random_bytes: Callable[[int], bytes]
    key: PrivateKey
    store: RegisterStore
    peers: Peers
    trusted: Trusted
    executor: IExecutor
    workspace: Workspace
    admit: Admit
    give_back: Callable[[str], object]
    run_over: Callable[[str, int], object] = lambda task, token: None
    files: HeldFiles | None = None
    name_of: Callable[[str], str] = lambda peer: peer[-6:]
    disk_broken: Callable[[str], object] = lambda reason: None


class _Everyone:
    """Implements :class:`~bzzz.tasks.interfaces.Peers` with this node, which asks itself."""

    def __init__(
        self,
        clock: IReactorTime,
        own: PeerID,
        others: Peers,
        answer: Callable[[PeerID, Request], Deferred[Answer]],
    ) -> None:
        self._clock = clock
        self._own = own
        self._others = others
        self._answer = answer

    def linked(self) -> Collection[PeerID]:
        return self._others.linked()

    def ask(self, peer: PeerID, request: Request) -> Deferred[Answer]:
        if peer == self._own:
            asking = self._answer(peer, request)
        else:
            asking = self._others.ask(peer, request)
        if not isinstance(request, Register | Renew):
            # These are sent again without an answer anyway.
            asking.addTimeout(ANSWER_SECONDS, self._clock, partial(_late, peer))
        return asking


class TaskService:
    """The tasks of one node.

    :param placer: made with :meth:`place`, which it calls.
    :ivar peers: all members, this node with them.
    """

    _log = Logger()

    def __init__(
        self, world: TaskWorld, placer: Callable[[Callable[[str, str], bool]], Placer]
    ) -> None:
        self._world = world
        self._key = world.key
        self.own = world.key.peer_id
        self._own_text = str(self.own)
        self._trusted = world.trusted
        self._store = world.store
        self.peers = _Everyone(world.clock, self.own, world.peers, self.answer)
        self.placer = placer(self.place)
        self._registers = Registers(world.clock, world.rng, self.own, self._ask_register)
        self.replica = Replica(
            world.store, world.clock, self._current, self._learnt, world.disk_broken
        )
        records = Records(self._registers, world.wall_time)
        self.driver = Driver(
            world.clock,
            world.rng,
            self.own,
            records,
            self.peers,
            self.placer,
            self.replica.until_closed,
            self._told,
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
        self._observers: list[Callable[[TaskRecord, bool], object]] = []
        self._workflow_observers: list[Callable[[WorkflowRecord], object]] = []
        self._workflow_watchers: dict[str, list[Callable[[WorkflowRecord], object]]] = {}
        self.workflows = WorkflowDriver(
            world.clock,
            world.wall_time,
            world.key,
            records,
            self.driver,
            self.peers,
            self.here,
            self._changed_workflow,
        )
        self.on_change(self.workflows.task_changed)
        self._last: TaskRecord | None = None
        self._last_value = b""
        self._verified: OrderedDict[bytes, None] = OrderedDict()
        self._watchers: dict[str, list[Callable[[TaskRecord, bool], object]]] = {}
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
        if self._holding is not None:
            self._holding.stop()

    async def forget(self) -> int:
        """Forget tasks that ended long ago; how many were.

        :raises DatabaseError: they cannot be removed.
        """
        oldest = max(0, int((self._world.wall_time() - KEEP) * 1000))
        before = submissions.new_task_id(oldest, bytes(10))
        forgotten = 0
        while True:
            some = await self._store.forget(before, MAX_ENDED, FORGOTTEN_AT_ONCE)
            forgotten += some
            if some < FORGOTTEN_AT_ONCE:
                return forgotten

    def on_change(self, observer: Callable[[TaskRecord, bool], object]) -> None:
        """Tell ``observer`` of each newer record of tasks that this node keeps, and whether it is
        known to be decided."""
        self._observers.append(observer)

    def on_workflow(self, observer: Callable[[WorkflowRecord], object]) -> None:
        """The same for workflows."""
        self._workflow_observers.append(observer)

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
        if not self._trusted.may_submit(self.own):
            raise SubmissionError("this node may not submit tasks: its role does not allow it")
        submission = msgspec.structs.replace(
            wanted, origin=self._own_text, replicas=self._choose_replicas()
        )
        signed = submissions.sign(submission, self._key)
        self._remember(signed)
        # Who is to run it needs them anyway.
        holders = sorted(submission.replicas, key=lambda replica: replica != worker)
        await self._share_inputs(submission.task, submission.inputs, holders, copied)
        state = begin(worker, self._own_text)
        return await self.driver.create(TaskRecord(signed, submission, state), CREATE_SECONDS)

    def watch(self, task: str, watcher: Callable[[TaskRecord, bool], object]) -> Callable[[], None]:
        """Tell ``watcher`` of a task that this node keeps as :meth:`on_change` does, until what is
        returned is called."""
        self._watchers.setdefault(task, []).append(watcher)

        def end() -> None:
            watchers = self._watchers.get(task, [])
            if watcher in watchers:
                watchers.remove(watcher)
            if not watchers:
                self._watchers.pop(task, None)

        return end

    def watch_workflow(
        self, workflow: str, watcher: Callable[[WorkflowRecord], object]
    ) -> Callable[[], None]:
        """The same for a workflow that this node keeps."""
        self._workflow_watchers.setdefault(workflow, []).append(watcher)

        def end() -> None:
            watchers = self._workflow_watchers.get(workflow, [])
            if watcher in watchers:
                watchers.remove(watcher)
            if not watchers:
                self._workflow_watchers.pop(workflow, None)

        return end

    async def submit_workflow(
        self, plan: bytes, submitter: str, files: Sequence[Input] = ()
    ) -> WorkflowRecord:
        """Submit a workflow; it is durable when this returns, with its files.

        :param plan: see :func:`bzzz.tasks.workflows.plan.encode`.
        :param files: those of the plan.
        :raises SubmissionError: it cannot be submitted.
        :raises NoMajority: it is not known whether it was submitted.
        """
        if not self._trusted.may_submit(self.own):
            raise SubmissionError("this node may not submit tasks: its role does not allow it")
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
        known = self.workflows.known(workflow)
        if known is not None:
            return known
        kept = await self._store.read(workflow)
        if kept is not None and is_workflow(kept.value):
            return decode_workflow(kept.value)
        found: WorkflowRecord | None = None
        peers = sorted(self.peers.linked())
        asking = [self.peers.ask(peer, Find(workflow)) for peer in peers]
        for peer, each in zip(peers, asking, strict=True):
            try:
                record = self._found_workflow(peer, workflow, await each)
            except BzzzError:
                continue
            if record is not None and (found is None or record.version > found.version):
                found = record
        return found

    async def change_workflow(self, record: WorkflowRecord, request: Cancel | Retry) -> None:
        """Cancel a workflow, or begin anew one that has ended.

        :raises BzzzError: it is not known whether it was recorded.
        """
        if self._own_text in record.submission.replicas:
            await self._change_workflow(record, request)
            return
        reasons = []
        for each in record.submission.replicas:
            try:
                answer = await self.peers.ask(peer_id(each), request)
            except BzzzError as error:
                reasons.append(str(error))
                continue
            if not isinstance(answer, Failed):
                return
            reasons.append(answer.reason)
        raise NoSuchTask(f"workflow {record.workflow} could not be changed: {'; '.join(reasons)}")

    def keeps(self, record: TaskRecord) -> bool:
        """Whether this node is a replica of a task."""
        return self._own_text in record.submission.replicas

    async def find(self, task: str) -> TaskRecord:
        """The newest record of a task that can be found: here, or at any member.

        :raises NoSuchTask: nobody has it.
        """
        if TASK.fullmatch(task) is None:
            raise NoSuchTask(f"{task!r} is no task's ID")
        found = await self.here(task)
        if found is None:
            peers = sorted(self.peers.linked())
            asking = [self.peers.ask(peer, Find(task)) for peer in peers]
            for peer, each in zip(peers, asking, strict=True):
                try:
                    record = self._found(peer, task, await each)
                except BzzzError:
                    continue
                if record is not None and (
                    found is None or record.state.version > found.state.version
                ):
                    found = record
        if found is None:
            raise NoSuchTask(f"there is no task {task}, or those who keep it cannot be reached")
        return found

    async def cancel(self, record: TaskRecord) -> TaskRecord:
        """Have a task end. The record that is returned may have to wait for its worker.

        :raises BzzzError: it is not known whether it was recorded.
        """
        return await self._at_replica(record, Cancel(record.task), self.driver.cancel)

    async def retry(self, record: TaskRecord) -> TaskRecord:
        """Begin anew a task that has ended.

        :raises BzzzError: it is not known whether it was recorded.
        """
        token = record.state.token
        return await self._at_replica(
            record, Retry(record.task, token), lambda known: self.driver.retry(known, token)
        )

    async def _at_replica(
        self,
        record: TaskRecord,
        request: Request,
        here: Callable[[TaskRecord], Awaitable[TaskRecord]],
    ) -> TaskRecord:
        if self.keeps(record):
            return await here(record)
        reasons = []
        for each in record.submission.replicas:
            try:
                answer = await self.peers.ask(peer_id(each), request)
                found = self._found(peer_id(each), record.task, answer)
            except BzzzError as error:
                reasons.append(str(error))
                continue
            if found is not None:
                return found
            reasons.append(answer.reason if isinstance(answer, Failed) else "has no record of it")
        raise NoSuchTask(f"task {record.task} could not be changed: {'; '.join(reasons)}")

    # -- what is asked of it

    def answer(self, peer: PeerID, request: Request) -> Deferred[Answer]:
        """Answer a member. It does not fail."""
        if not self._loaded:
            # It would close tokens without their grace, and deny leases that it knows nothing of.
            return succeed(Failed("the node is starting"))
        if isinstance(request, Renew):
            name = str(peer)
            return succeed(
                Granted(
                    tuple(self.replica.renew(task, name, token) for task, token in request.attempts)
                )
            )
        return Deferred.fromCoroutine(self._answer(peer, request)).addErrback(_failed)

    async def _answer(self, peer: PeerID, request: Request) -> Answer:
        match request:
            case Register(task, what):
                await self._check_age(task)
                if isinstance(what, Accept):
                    self._check_accept(peer, task, what)
                return Told(await self.replica.ask(task, what))
            case Offer():
                return self._offered(peer, request)
            case Stop(task, token):
                self.worker.stop_attempt(peer, task, token)
                return Done()
            case Report(task):
                await self.driver.report(peer, request, await self._required(task))
                return Done()
            case Find(task):
                return await self._find_here(task)
            case Cancel(task) | Retry(task) if known := await self._workflow_here(task):
                self._require_right(peer)
                await self._change_workflow(known, request)
                return Done()
            case Cancel(task):
                self._require_right(peer)
                return _answer_found(await self.driver.cancel(await self._required(task)))
            case Retry(task, token):
                self._require_right(peer)
                return _answer_found(await self.driver.retry(await self._required(task), token))
            case Listing():
                return await self.list_here(request)
            case Settled(tasks):
                self.driver.settled(peer, tasks)
                return Done()
            case Hold():
                return await self._hold(peer, request)
        raise RemoteProtocolError(f"{type(request).__name__} is not answered", "not_answered")

    async def list_here(self, listing: Listing) -> Listed:
        """The records that this node keeps.

        :raises DatabaseError: they cannot be read.
        """
        values = await self._store.page(
            listing.before, listing.since, listing.ended, listing.most + 1
        )
        size, kept = 0, 0
        for value in values[: listing.most]:
            size += len(value) + 10
            if size > MAX_MESSAGE - 1000:
                break
            kept += 1
        return Listed(tuple(values[:kept]), more=len(values) > kept)

    # -- inside

    def _ask_register(
        self, peer: PeerID, task: str, request: RegisterRequest
    ) -> Deferred[RegisterAnswer]:
        def told(answer: Answer) -> RegisterAnswer:
            if isinstance(answer, Told):
                return answer.answer
            reason = answer.reason if isinstance(answer, Failed) else "an answer of another kind"
            raise RemoteProtocolError(f"{peer} did not keep a record: {reason}")

        return self.peers.ask(peer, Register(task, request)).addCallback(told)

    def _decode(self, value: bytes, kept: Kept | None = None) -> TaskRecord:
        """Read a value; several ask for the same one after the other."""
        last = self._last
        if last is None or self._last_value is not value:
            last = self._last = decode_record(value)
            self._last_value = value
        if kept is not None and kept.accepted is not None and last.ballot != kept.accepted:
            last = TaskRecord(last.signed, last.submission, last.state, kept.accepted)
        return last

    def _current(self, value: bytes) -> Current | None:
        if is_workflow(value):
            return None
        record = self._decode(value)
        if record.state.state is not State.ASSIGNED:
            return None
        return Current(record.state.token, record.state.worker, record.submission.lease)

    def _learnt(self, task: str, kept: Kept) -> None:
        if kept.accepted is None:
            return
        if is_workflow(kept.value):
            self.workflows.learnt(
                decode_workflow(kept.value, kept.accepted, self.workflows.known(task))
            )
        else:
            self.driver.learnt(self._decode(kept.value, kept))

    def _told(self, record: TaskRecord, settled: bool) -> None:
        for observer in [*self._watchers.get(record.task, ()), *self._observers]:
            observer(record, settled)

    def _check_accept(self, peer: PeerID, task: str, request: Accept) -> None:
        """See that a value is one that this replica may be asked to keep.

        :raises RemoteProtocolError: it is not.
        """
        if is_workflow(request.value):
            known = self.workflows.known(task)
            workflow = decode_workflow(request.value, known=known)
            self._check_place(peer, request, workflow.workflow, task, workflow.submission.replicas)
            if known is None or known.signed != workflow.signed:
                verify_workflow(workflow.signed)
                self._require_right(peer_id(workflow.submission.origin))
            return
        record = self._decode(request.value)
        submission = record.submission
        self._check_place(peer, request, submission.task, task, submission.replicas)
        self._check_signed(record.signed, submission)

    async def _check_age(self, task: str) -> None:
        """Refuse a task that this replica may have had and forgotten: it must not begin anew.

        :raises RemoteProtocolError: it is so old, and not here.
        """
        age = self._world.wall_time() - submissions.submitted_at(task)
        if age > KEEP and await self._store.read(task) is None:
            raise RemoteProtocolError(f"task {task} may be one that was forgotten", "forgotten")

    def _check_place(
        self, peer: PeerID, request: Accept, about: str, task: str, replicas: Sequence[str]
    ) -> None:
        if about != task:
            raise RemoteProtocolError("a record is of another task", "record_task")
        if self._own_text not in replicas:
            raise RemoteProtocolError("a record is not this node's to keep", "record_replica")
        if request.ballot.place >= len(replicas) or replicas[request.ballot.place] != str(peer):
            raise RemoteProtocolError("a ballot is another replica's", "record_proposer")

    def _check_signed(self, signed: SignedSubmission, submission: Submission) -> None:
        known = self.driver.known(submission.task)
        if (known is not None and known.signed == signed) or _digest(signed) in self._verified:
            return
        submissions.verify(signed)
        if not self._trusted.may_submit(peer_id(submission.origin)):
            raise RemoteProtocolError(
                f"{submission.origin} may not submit tasks", "submission_right"
            )
        self._remember(signed)

    def _found(self, peer: PeerID, task: str, answer: Answer) -> TaskRecord | None:
        """What a member has told of a task; None where it has told of none.

        Whether its origin may submit now is not looked at: it could when its replicas took it.

        :raises RemoteProtocolError: it is no record of the task, or not the member's to tell.
        """
        if not isinstance(answer, Found) or answer.record is None or is_workflow(answer.record):
            return None
        record = decode_record(answer.record)
        _check_told(peer, record.task, task, record.submission.replicas)
        if _digest(record.signed) not in self._verified:
            submissions.verify(record.signed)
        return record

    def _found_workflow(self, peer: PeerID, workflow: str, answer: Answer) -> WorkflowRecord | None:
        """The same of a workflow.

        :raises RemoteProtocolError: likewise.
        """
        if not isinstance(answer, Found) or not answer.record or not is_workflow(answer.record):
            return None
        record = decode_workflow(answer.record)
        _check_told(peer, record.workflow, workflow, record.submission.replicas)
        verify_workflow(record.signed)
        return record

    def _remember(self, signed: SignedSubmission) -> None:
        self._verified[_digest(signed)] = None
        if len(self._verified) > MAX_VERIFIED:
            self._verified.popitem(last=False)

    def _offered(self, peer: PeerID, offer: Offer) -> Answer:
        submission = submissions.verify(offer.signed)
        if str(peer) not in submission.replicas:
            raise RemoteProtocolError(f"{peer} does not keep the task that it offers", "offer")
        if not self._trusted.may_submit(peer_id(submission.origin)):
            return Refused(f"{submission.origin} may not submit tasks", for_good=True)
        if not self._trusted.may_run(self.own):
            return Refused("its role does not let it run tasks", for_good=True)
        return self.worker.offer(peer, offer.signed, submission, offer.token)

    def _require_right(self, peer: PeerID) -> None:
        if not self._trusted.may_submit(peer):
            raise RemoteProtocolError(f"{peer} may not change tasks: its role does not allow it")

    async def here(self, task: str) -> TaskRecord | None:
        """The newest record of a task that this node has.

        :raises DatabaseError: it cannot be read.
        """
        known = self.driver.known(task)
        if known is not None:
            return known
        kept = await self._store.read(task)
        if kept is None or kept.accepted is None or is_workflow(kept.value):
            return None
        return decode_record(kept.value, kept.accepted)

    async def _find_here(self, task: str) -> Found:
        kept = await self._store.read(task)
        if kept is not None and is_workflow(kept.value):
            return Found(kept.value)
        return _answer_found(await self.here(task))

    async def _workflow_here(self, workflow: str) -> WorkflowRecord | None:
        known = self.workflows.known(workflow)
        if known is not None:
            return known
        kept = await self._store.read(workflow)
        if kept is None or not is_workflow(kept.value):
            return None
        return decode_workflow(kept.value, kept.accepted or RESERVED)

    async def _change_workflow(self, record: WorkflowRecord, request: Request) -> None:
        if isinstance(request, Cancel):
            await self.workflows.cancel(record)
        elif isinstance(request, Retry):
            await self.workflows.retry(record, request.token)

    def _changed_workflow(self, record: WorkflowRecord) -> None:
        for observer in self._workflow_observers:
            observer(record)
        for watcher in list(self._workflow_watchers.get(record.workflow, ())):
            watcher(record)

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

    async def _hold(self, peer: PeerID, request: Hold) -> Answer:
        """Keep files of a task that is to be submitted, or that was run by who has them.

        :raises RemoteProtocolError: the peer may not have them kept.
        """
        if self._holding is None:
            return Failed("it keeps no files")
        if not self._trusted.may_submit(peer):
            record = await self.here(request.task)
            if record is None or record.state.worker != str(peer):
                raise RemoteProtocolError(
                    f"{peer} does not run task {request.task}, as far as is known here, and may"
                    " not submit any"
                )
        return await self._holding.hold(peer, request)

    async def _required(self, task: str) -> TaskRecord:
        record = await self.here(task)
        if record is None:
            raise NoSuchTask(f"task {task} is not kept here")
        return record

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


def _digest(signed: SignedSubmission) -> bytes:
    return hashlib.blake2b(signed.data, key=signed.signature, digest_size=16).digest()


def _late(peer: PeerID, result: object, seconds: float) -> NoReturn:
    raise AnswerLost(f"{peer} did not answer within {seconds:g} s")


def _check_told(peer: PeerID, about: str, task: str, replicas: Sequence[str]) -> None:
    if about != task:
        raise RemoteProtocolError(f"{peer} has told of {about}, not of {task}", "found_task")
    if str(peer) not in replicas:
        raise RemoteProtocolError(f"{peer} does not keep the record that it tells", "found_replica")


def _answer_found(record: TaskRecord | None) -> Found:
    return Found(None if record is None else encode_record(record.signed, record.state))


def _failed(failure: Failure) -> Answer:
    failure.trap(BzzzError)
    return Failed(failure.getErrorMessage()[:2000])


def is_open(value: bytes) -> bool:
    """Whether something is still to be done for what a register's value is about.

    :raises RemoteProtocolError: it is neither a task nor a workflow.
    """
    if is_workflow(value):
        return not decode_workflow(value).has_ended
    return not decode_record(value).has_ended
