"""What tasks need of a node, as a test wants it."""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import cache
from typing import Any, NamedTuple

import msgspec
from twisted.internet.defer import Deferred, fail, succeed
from zope.interface import implementer

from bzzz.errors import BzzzError
from bzzz.identity.keys import PrivateKey
from bzzz.identity.peer_id import PeerID
from bzzz.net.calls import AnswerLost, NotAsked
from bzzz.tasks.ballots import RESERVED, Ballot
from bzzz.tasks.executors.interfaces import IExecutor, Over, Run
from bzzz.tasks.messages import Answer, Request
from bzzz.tasks.record import Produced, TaskState, begin
from bzzz.tasks.records import Edit
from bzzz.tasks.registers import NoMajority
from bzzz.tasks.submission import Submission, new_task_id, sign
from bzzz.tasks.value import TaskRecord

__all__ = [
    "Asked",
    "FakeExecutor",
    "FakePeers",
    "FakePlacer",
    "FakeRecords",
    "FakeWorkspace",
    "key",
    "name",
    "peer",
    "record",
    "submission",
    "task_id",
]

REPLICAS = ("walnut", "ironwood", "acacia")


@cache
def key(machine: str) -> PrivateKey:
    """The key of a machine."""
    return PrivateKey.from_seed(machine.encode().ljust(32, b"."))


def peer(machine: str) -> PeerID:
    return key(machine).peer_id


def name(machine: str) -> str:
    """Its peer ID as it stands in records."""
    return str(peer(machine))


def task_id(number: int = 1) -> str:
    return new_task_id(1_000_000, number.to_bytes(10, "big"))


def submission(number: int = 1, replicas: tuple[str, ...] = REPLICAS, **fields: Any) -> Submission:
    """A task of the first of its replicas."""
    return Submission(
        task=task_id(number),
        origin=name(replicas[0]),
        replicas=tuple(name(each) for each in replicas),
        **{"command": ("make", "all"), **fields},
    )


def record(
    state: TaskState | None = None,
    number: int = 1,
    ballot: Ballot = RESERVED,
    replicas: tuple[str, ...] = REPLICAS,
    **fields: Any,
) -> TaskRecord:
    """A record of such a task, signed by its origin."""
    wanted = submission(number, replicas, **fields)
    return TaskRecord(sign(wanted, key(replicas[0])), wanted, state or begin(), ballot)


class Asked(NamedTuple):
    """A question that waits for its answer."""

    peer: PeerID
    request: Request
    answer: Deferred[Answer]


class FakePeers:
    """Implements :class:`bzzz.tasks.interfaces.Peers`.

    :ivar gone: who cannot be asked.
    :ivar asked: what was, and is not answered yet.
    :ivar sent: how much of that there was when it was to be sent.
    """

    def __init__(self, *linked: str) -> None:
        self.members = {peer(each) for each in linked}
        self.gone: set[PeerID] = set()
        self.asked: list[Asked] = []
        self.sent: list[int] = []

    def linked(self) -> Collection[PeerID]:
        return self.members

    def ask(self, peer: PeerID, request: Request) -> Deferred[Answer]:
        if peer in self.gone:
            return fail(NotAsked(f"{peer} is not linked"))
        answer: Deferred[Answer] = Deferred()
        self.asked.append(Asked(peer, request, answer))
        return answer

    def send_now(self) -> None:
        self.sent.append(len(self.asked))

    def take(self, kind: type[Any], machine: str = "") -> list[Asked]:
        """The questions of a kind, of one machine where it is said; they are not there any more."""
        taken = [
            each
            for each in self.asked
            if isinstance(each.request, kind) and (not machine or each.peer == peer(machine))
        ]
        self.asked = [each for each in self.asked if each not in taken]
        return taken

    def lose(self, machine: str = "") -> None:
        """A link is gone, or all of them."""
        lost = [each for each in self.asked if not machine or each.peer == peer(machine)]
        self.asked = [each for each in self.asked if each not in lost]
        for each in lost:
            each.answer.errback(AnswerLost("the link was lost"))


class FakePlacer:
    """Implements :class:`bzzz.tasks.interfaces.Placer`.

    :ivar waiting: tasks that it has.
    :ivar given: workers of tasks that are assigned.
    :ivar mine: whether they were by the node that has the placer.
    :ivar silent: those that were not heard of.
    """

    def __init__(self) -> None:
        self.waiting: list[str] = []
        self.given: dict[str, str] = {}
        self.mine: dict[str, bool] = {}
        self.refusals: list[tuple[str, str, bool]] = []
        self.silent: list[str] = []

    def want(self, record: TaskRecord) -> None:
        self.waiting.append(record.task)

    def drop(self, task: str) -> None:
        if task in self.waiting:
            self.waiting.remove(task)

    def assigned(self, submission: Submission, token: int, worker: str, mine: bool) -> None:
        self.given[submission.task] = worker
        self.mine[submission.task] = mine

    def over(self, task: str) -> None:
        self.given.pop(task, None)

    def refused(self, submission: Submission, worker: str, reason: str, for_good: bool) -> None:
        self.refusals.append((worker, reason, for_good))

    def lost(self, worker: str) -> None:
        self.silent.append(worker)


class FakeRecords:
    """In the place of :class:`bzzz.tasks.records.Records`: what is changed is decided at once.

    :ivar known: the last record of each task.
    :ivar closed: the tokens that changes have closed, 0 for none, in their order.
    :ivar wait: changes fire when it does.
    :ivar failing: whether there is no majority.
    :ivar before: is given each record before it is changed, and returns the one that is there.
    """

    def __init__(self, place: int = 0) -> None:
        self.place = place
        self.known: dict[str, TaskRecord] = {}
        self.closed: list[int] = []
        self.wait: Deferred[None] | None = None
        self.failing = False
        self.before: Callable[[TaskRecord], TaskRecord] = lambda record: record

    async def create(
        self,
        record: TaskRecord,
        within: float,
        *,
        fresh: bool = True,
        asked: Callable[[], object] | None = None,
    ) -> TaskRecord:
        if asked is not None:
            asked()
        if self.wait is not None:
            await self.wait
        if self.failing:
            raise NoMajority("no majority")
        return self.known.setdefault(record.task, record)

    async def change(
        self, record: TaskRecord, edit: Edit, within: float, *, close: int = 0
    ) -> TaskRecord:
        self.closed.append(close)
        if self.wait is not None:
            await self.wait
        if self.failing:
            raise NoMajority("no majority")
        last = self.before(self.known.get(record.task, record))
        state = edit(last.state)
        if state is not None:
            state = msgspec.structs.replace(state, version=last.state.version + 1)
            ballot = Ballot(last.ballot.counter + 1, self.place)
            last = msgspec.structs.replace(last, state=state, ballot=ballot)
        self.known[record.task] = last
        return last


@implementer(IExecutor)
class FakeExecutor:
    """Runs that end when a test says so.

    :ivar runs: those that have not ended, by their keys, and until when they may run.
    :ivar stopped: keys and seconds of grace.
    :ivar closed: whether it was.
    """

    name = "fake"
    closed = False

    def __init__(self) -> None:
        self.runs: dict[str, tuple[Run, float, Callable[[Over], object]]] = {}
        self.started: list[str] = []
        self.stopped: list[tuple[str, float]] = []

    def start(self, run: Run, until: float, over: Callable[[Over], object]) -> None:
        self.started.append(run.key)
        self.runs[run.key] = (run, until, over)

    def extend(self, key: str, until: float) -> None:
        if key in self.runs:
            run, _, over = self.runs[key]
            self.runs[key] = (run, until, over)

    def stop(self, key: str, grace: float) -> None:
        self.stopped.append((key, grace))

    def close(self) -> Deferred[None]:
        self.closed = True
        return succeed(None)

    def until(self, key: str) -> float:
        return self.runs[key][1]

    def end(self, key: str, over: Over) -> None:
        self.runs.pop(key)[2](over)


class FakeWorkspace:
    """Implements :class:`bzzz.tasks.interfaces.Workspace`.

    :ivar slow: whether what is asked for is there only when :meth:`go_on` is called.
    :ivar error: why nothing can be prepared or collected.
    :ivar flaw: the same, as nobody expects it.
    """

    flaw: Exception | None = None

    def __init__(self) -> None:
        self.slow = False
        self.error = ""
        self.waiting: list[tuple[Deferred[Any], object]] = []
        self.env: dict[str, str] = {}
        self.cleaned: list[tuple[str, int]] = []
        self.produced = Produced(b"out", b"err", 3, 3)

    def prepare(self, submission: Submission, token: int, env: dict[str, str]) -> Deferred[Run]:
        self.env = env
        run = Run(
            key=f"{submission.task}.{token}",
            argv=submission.command,
            env=env,
            directory="/work",
            stdout="/out",
            stderr="/err",
        )
        return self._later(run)

    def collect(self, submission: Submission, token: int) -> Deferred[Produced]:
        return self._later(self.produced)

    def clean(self, task: str, token: int) -> None:
        self.cleaned.append((task, token))

    def go_on(self) -> None:
        """What was asked for first is there, or fails."""
        waiting, result = self.waiting.pop(0)
        if self.flaw is not None:
            waiting.errback(self.flaw)
        elif self.error:
            waiting.errback(BzzzError(self.error))
        else:
            waiting.callback(result)

    def _later(self, result: Any) -> Deferred[Any]:
        waiting: Deferred[Any] = Deferred()
        self.waiting.append((waiting, result))
        if not self.slow:
            self.go_on()
        return waiting
