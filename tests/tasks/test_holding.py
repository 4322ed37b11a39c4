"""Files at two members before anybody counts on them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Coroutine, Sequence
from random import Random
from typing import Any, TypeVar

from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from bzzz.identity.peer_id import PeerID
from bzzz.net.calls import AnswerLost
from bzzz.tasks import holding
from bzzz.tasks.ballots import RESERVED, Accept, Accepted, Ballot
from bzzz.tasks.files.errors import ChunkMissing, Missing, StoreError
from bzzz.tasks.files.fetching import Progress
from bzzz.tasks.holding import AGAIN, ANSWER, ASK_AGAIN, FRESH, HELD, STALLED, Holding, NotHeld
from bzzz.tasks.messages import Answer, Coming, Done, Failed, Hold, Register, Told
from bzzz.tasks.record import begin
from bzzz.tasks.service import SHARE_SECONDS, TaskService
from bzzz.tasks.submission import Input, SubmissionError
from bzzz.tasks.value import encode_record
from bzzz.tasks.world import TaskWorld
from tests.tasks.disks import Disk
from tests.tasks.fakes import (
    REPLICAS,
    FakeExecutor,
    FakePeers,
    FakePlacer,
    FakeWorkspace,
    name,
    peer,
    record,
    submission,
    task_id,
)
from tests.tasks.fakes import key as key_of

T = TypeVar("T")
TASK = task_id()
ONE, TWO = "aa" * 32, "bb" * 32
WALNUT, IRONWOOD, ACACIA = map(name, REPLICAS)
FULL = StoreError("the cache is full")


class FakeFiles:
    """Implements :class:`bzzz.tasks.holding.HeldFiles`.

    :ivar here: what is in the cache.
    :ivar synced: what was synced, in its order.
    :ivar fetching: fetches that wait, by digest.
    :ivar broken: what the next syncs fail with.
    """

    def __init__(self, *here: str) -> None:
        self.here = set(here)
        self.pins: Counter[str] = Counter()
        self.synced: list[str] = []
        self.fetching: dict[str, Deferred[None]] = {}
        self.asked: list[tuple[str, list[PeerID]]] = []
        self.progress: dict[str, Progress] = {}
        self.broken: list[Exception] = []

    @property
    def pinned(self) -> dict[str, int]:
        return {digest: count for digest, count in self.pins.items() if count}

    def pin(self, digest: str) -> Deferred[None]:
        self.pins[digest] += 1
        return succeed(None)

    def unpin(self, digest: str) -> None:
        self.pins[digest] -= 1

    def has(self, digest: str) -> Deferred[bool]:
        return succeed(digest in self.here)

    def fetch(
        self, digest: str, peers: Sequence[PeerID], progress: Progress = lambda done, total: None
    ) -> Deferred[None]:
        assert self.pins[digest], "what is fetched could be dropped again"
        self.asked.append((digest, list(peers)))
        self.progress[digest] = progress
        self.fetching[digest] = Deferred()
        return self.fetching[digest]

    def come(self, digest: str) -> None:
        """A fetch is done."""
        self.here.add(digest)
        self.fetching.pop(digest).callback(None)

    def sync(self, digest: str) -> Deferred[None]:
        assert self.pins[digest] and digest in self.here
        waiting: Deferred[None] = Deferred()
        if self.broken:
            error = self.broken.pop(0)
            if isinstance(error, ChunkMissing):
                self.here.discard(digest)
            waiting.errback(error)
        else:
            self.synced.append(digest)
            waiting.callback(None)
        return waiting


class HoldingCase(SynchronousTestCase):
    """Walnut, whose files the test has."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.peers = FakePeers(*REPLICAS[1:])
        self.files = FakeFiles(ONE, TWO)
        names = {name(machine): machine for machine in REPLICAS}
        self.holding = Holding(
            self.clock, peer(REPLICAS[0]), self.peers, self.files, names.__getitem__
        )
        self.told: list[tuple[str, int, int]] = []

    def share(self, *files: str, patience: float = 0.0, replicas: Any = None) -> Deferred[None]:
        return Deferred.fromCoroutine(
            self.holding.share(
                TASK,
                files or (ONE,),
                replicas or (WALNUT, IRONWOOD, ACACIA),
                lambda *told: self.told.append(told),
                patience,
            )
        )

    def hold(self, *files: str, machine: str = REPLICAS[1]) -> Deferred[Answer]:
        question = Hold(TASK, files or (ONE,))
        return Deferred.fromCoroutine(self.holding.hold(peer(machine), question))

    def answer(self, answer: Answer, machine: str = "") -> Hold:
        """Answer the one question that was asked."""
        [asked] = self.peers.take(Hold, machine)
        asked.answer.callback(answer)
        assert isinstance(asked.request, Hold)
        return asked.request


class ShareTests(HoldingCase):
    """Having another replica hold files."""

    def test_shared(self) -> None:
        """They are on the disk here before anybody is asked, and one replica is enough."""
        shared = self.share(ONE, TWO, ONE)
        self.assertEqual(self.files.synced, [ONE, TWO])
        self.assertEqual(self.files.pinned, {ONE: 1, TWO: 1})
        self.assertNoResult(shared)
        self.assertEqual(self.answer(Done(), REPLICAS[1]), Hold(TASK, (ONE, TWO)))
        self.successResultOf(shared)
        self.assertEqual(self.peers.asked, [])

    def test_alone(self) -> None:
        """A task of one replica needs them on its disk, and nobody else's."""
        self.successResultOf(self.share(replicas=(WALNUT,)))
        self.assertEqual((self.files.synced, self.peers.asked), ([ONE], []))

    def test_not_here(self) -> None:
        """What was never sent to this node is not shared; nobody is asked to hold it."""
        self.files.here.clear()
        shared = self.share()
        [(digest, peers)] = self.files.asked
        self.assertEqual((digest, peers), (ONE, [peer(each) for each in REPLICAS[1:]]))
        self.files.fetching.pop(ONE).errback(Missing("nobody has it"))
        self.assertEqual(str(self.failureResultOf(shared, NotHeld).value), "nobody has it")
        self.assertEqual((self.peers.asked, self.files.pinned), ([], {}))

    def test_disk_fails(self) -> None:
        """What could not be synced is not shared."""
        self.files.broken = [FULL]
        self.failureResultOf(self.share(), NotHeld)
        self.assertEqual((self.peers.asked, self.files.pinned), ([], {}))

    def test_damaged(self) -> None:
        """A chunk that was damaged here is fetched from who has it."""
        self.files.broken = [ChunkMissing("it was damaged")]
        shared = self.share()
        self.files.come(ONE)
        self.answer(Done())
        self.successResultOf(shared)
        self.assertEqual(self.files.synced, [ONE])

    def test_next_replica(self) -> None:
        """Where one cannot, the next is asked; if no one can, the error says what each has said."""
        shared = self.share()
        self.answer(Failed("full"), REPLICAS[1])
        self.answer(Done(), REPLICAS[2])
        self.successResultOf(shared)
        shared = self.share()
        self.answer(Failed("full"), REPLICAS[1])
        self.peers.lose()
        self.assertEqual(
            str(self.failureResultOf(shared, NotHeld).value),
            "no other member that keeps the task could take its files: ironwood: full; the link was"
            " lost",
        )

    def test_linked_first(self) -> None:
        """Who is not linked is asked last, whatever the order."""
        self.peers.members.discard(peer(REPLICAS[1]))
        shared = self.share()
        self.answer(Done(), REPLICAS[2])
        self.successResultOf(shared)

    def test_coming(self) -> None:
        """While they are on their way it is asked again, and progress is told."""
        shared = self.share()
        for done in (1, 1, 3):
            self.answer(Coming(done, 4))
            self.assertEqual(self.peers.asked, [])
            self.clock.advance(ASK_AGAIN)
        self.answer(Done())
        self.successResultOf(shared)
        self.assertEqual(self.told, [(IRONWOOD, 1, 4), (IRONWOOD, 3, 4)])

    def test_stalled(self) -> None:
        """A replica that gets no more is given up."""
        shared = self.share(replicas=(WALNUT, IRONWOOD))
        for _ in range(int(STALLED / ANSWER) + 2):
            if shared.called:
                break
            self.clock.advance(ANSWER)
            self.answer(Coming(1, 4))
            self.clock.advance(ASK_AGAIN)
        self.assertIn("ironwood: it got no more", str(self.failureResultOf(shared, NotHeld).value))

    def test_patience(self) -> None:
        """Who has time asks all of them again, until it is up."""
        shared = self.share(patience=1.0)
        self.answer(Failed("full"))
        self.answer(Failed("full"))
        self.clock.advance(AGAIN)
        self.answer(Failed("full"))
        self.answer(Done())
        self.successResultOf(shared)
        shared = self.share(patience=1.0)
        for wait in (AGAIN, 2 * AGAIN, 0):
            self.assertNoResult(shared)
            self.answer(Failed("full"))
            self.answer(Failed("full"))
            self.clock.advance(wait)
        self.failureResultOf(shared, NotHeld)

    def test_other_answer(self) -> None:
        """An answer of another kind is no yes."""
        shared = self.share(replicas=(WALNUT, IRONWOOD))
        self.answer(Told(Accepted(RESERVED)))
        self.failureResultOf(shared, NotHeld)

    def test_cancelled(self) -> None:
        """Who does not want it any more ends the asking."""
        shared = self.share()
        self.answer(Coming(1, 4))
        shared.cancel()
        self.failureResultOf(shared, CancelledError)
        self.clock.advance(ASK_AGAIN)
        self.assertEqual(self.peers.asked, [])

    def test_stop(self) -> None:
        """A node that stops asks nobody, and leaves no timers."""
        self.share(patience=5.0)
        self.answer(Failed("full"))
        self.answer(Failed("full"))
        self.holding.stop()
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.failureResultOf(self.share(), NotHeld)


class HoldTests(HoldingCase):
    """Holding what others have."""

    def setUp(self) -> None:
        super().setUp()
        self.files.here.clear()

    def test_held(self) -> None:
        """They are fetched from who asks, synced, and only then is it said to be done."""
        held = self.hold(ONE, TWO)
        self.assertEqual(self.files.asked, [(each, [peer(REPLICAS[1])]) for each in (ONE, TWO)])
        self.files.come(ONE)
        self.assertNoResult(held)
        self.files.come(TWO)
        self.assertEqual(self.successResultOf(held), Done())
        self.assertEqual((self.files.synced, self.files.pinned), ([ONE, TWO], {ONE: 1, TWO: 1}))

    def test_here_already(self) -> None:
        """What is here waits for no fetch."""
        self.files.here.add(ONE)
        self.assertEqual(self.successResultOf(self.hold()), Done())
        self.assertEqual((self.files.asked, self.files.synced), ([], [ONE]))

    def test_coming(self) -> None:
        """After a while it says how far it is, and the fetch goes on."""
        held = self.hold(ONE, TWO)
        self.files.come(TWO)
        self.files.progress[ONE](3, 10)
        self.clock.advance(ANSWER)
        self.assertEqual(self.successResultOf(held), Coming(3, 10))
        again = self.hold(ONE, TWO)
        self.assertEqual(len(self.files.asked), 2)
        self.files.come(ONE)
        self.assertEqual(self.successResultOf(again), Done())

    def test_failed(self) -> None:
        """What cannot be had is said with the reason, and can be asked for again."""
        held = self.hold()
        self.files.fetching.pop(ONE).errback(FULL)
        self.assertEqual(self.successResultOf(held), Failed("the cache is full"))
        self.assertEqual(self.files.pinned, {})
        held = self.hold()
        self.files.come(ONE)
        self.assertEqual(self.successResultOf(held), Done())
        self.assertEqual(self.files.pinned, {ONE: 1})

    def test_failed_in_between(self) -> None:
        """A failure that nobody waited for begins anew with the next question."""
        self.hold()
        self.clock.advance(ANSWER)
        self.files.fetching.pop(ONE).errback(FULL)
        self.hold()
        self.assertEqual(len(self.files.asked), 2)

    def test_two_ask(self) -> None:
        """Two that want the same held share the fetch and the pin."""
        first, second = self.hold(), self.hold(machine=REPLICAS[2])
        self.files.come(ONE)
        self.assertEqual(self.successResultOf(first), Done())
        self.assertEqual(self.successResultOf(second), Done())
        self.assertEqual((len(self.files.asked), self.files.pinned), (1, {ONE: 1}))

    def test_looked_at_again(self) -> None:
        """What was there a moment ago is; later it is looked at."""
        self.files.here.add(ONE)
        self.hold()
        self.files.here.clear()
        self.assertEqual(self.successResultOf(self.hold()), Done())
        self.clock.advance(FRESH)
        again = self.hold()
        self.assertNoResult(again)
        self.assertEqual(self.files.pinned, {ONE: 1})
        self.files.come(ONE)
        self.assertEqual(self.successResultOf(again), Done())

    def test_let_go(self) -> None:
        """After a while it stays only where a record says so; each question begins that anew."""
        self.files.here.add(ONE)
        self.hold()
        self.clock.advance(HELD - 1)
        self.hold()
        self.clock.advance(HELD - 1)
        self.assertEqual(self.files.pinned, {ONE: 1})
        self.clock.advance(1)
        self.assertEqual(self.files.pinned, {})
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_slow_fetch(self) -> None:
        """What takes longer than that to come is not let go meanwhile."""
        self.hold()
        self.clock.advance(HELD + 1)
        self.assertEqual(self.files.pinned, {ONE: 1})
        self.files.come(ONE)
        self.clock.advance(HELD)
        self.assertEqual(self.files.pinned, {})

    def test_many_coming(self) -> None:
        """So much comes at a time; more is refused, and what is here is not."""
        self.patch(holding, "MAX_COMING", 1)
        self.hold(ONE)
        answer = self.successResultOf(self.hold(TWO))
        self.assertIsInstance(answer, Failed)
        self.files.come(ONE)
        self.assertNoResult(self.hold(TWO))

    def test_many_held(self) -> None:
        """So much is held at a time; the first goes."""
        self.patch(holding, "MAX_HELD", 1)
        self.files.here |= {ONE, TWO}
        self.hold(ONE)
        self.hold(TWO)
        self.assertEqual(self.files.pinned, {TWO: 1})


class Everybody:
    """Implements :class:`bzzz.tasks.world.Trusted`."""

    def __init__(self) -> None:
        self.submitters = {peer(each) for each in REPLICAS}

    def members(self) -> Collection[PeerID]:
        return [peer(each) for each in REPLICAS]

    def may_submit(self, peer: PeerID) -> bool:
        return peer in self.submitters

    def may_run(self, peer: PeerID) -> bool:
        return True


class ServiceTests(SynchronousTestCase):
    """What tasks do with it, at walnut."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.peers = FakePeers(*REPLICAS[1:])
        self.files = FakeFiles(ONE)
        self.trusted = Everybody()
        self.service = self.service_with(self.files)

    def service_with(self, files: FakeFiles | None) -> TaskService:
        world = TaskWorld(
            clock=self.clock,
            wall_time=lambda: 1000.0,
            rng=Random(1),
            random_bytes=Random(1).randbytes,
            key=key_of(REPLICAS[0]),
            store=Disk(),
            peers=self.peers,
            trusted=self.trusted,
            executor=FakeExecutor(),
            workspace=FakeWorkspace(),
            admit=lambda peer, submission: {},
            give_back=lambda task: None,
            files=files,
        )
        service = TaskService(world, lambda place: FakePlacer())
        self.successResultOf(self.wait(service.start()))
        self.addCleanup(service.stop)
        return service

    def wait(self, work: Coroutine[Any, Any, T]) -> Deferred[T]:
        return Deferred.fromCoroutine(work)

    def submit(self, worker: str = "", *inputs: str, number: int = 1) -> Deferred[Any]:
        wanted = submission(
            number, REPLICAS[:1], inputs=tuple(Input(each[:4], each, 1) for each in inputs)
        )
        made = self.wait(self.service.submit(wanted, worker))
        # Those that wait for replicas in the end.
        self.addCleanup(made.addErrback, lambda failure: None)
        return made

    def ask(self, machine: str, *files: str) -> Answer:
        return self.successResultOf(self.service.answer(peer(machine), Hold(TASK, files)))

    def test_inputs_before_the_record(self) -> None:
        """No replica gets the record before one has the inputs: who is to run it, if it is one."""
        for number, machine in enumerate(REPLICAS[1:]):
            made = self.submit(name(machine), ONE, number=number)
            [asked] = self.peers.take(Hold)
            self.assertEqual(asked.peer, peer(machine))
            self.assertEqual(self.peers.take(Register), [])
            asked.answer.callback(Done())
            self.assertEqual([each.peer for each in self.peers.take(Register)], [peer(machine)])
            self.assertNoResult(made)

    def test_not_submitted(self) -> None:
        """A task whose inputs are at one member alone is not submitted, and that is certain."""
        made = self.submit("", ONE)
        [first] = self.peers.take(Hold)
        first.answer.callback(Failed("full"))
        [second] = self.peers.take(Hold)
        second.answer.errback(AnswerLost("the link was lost"))
        error = self.failureResultOf(made, SubmissionError)
        self.assertIn("full", str(error.value))
        self.assertEqual(self.peers.take(Register), [])

    def test_no_inputs(self) -> None:
        """A task without inputs waits for nothing; nor does one where there is no cache."""
        self.submit()
        self.assertEqual((self.peers.take(Hold), len(self.peers.take(Register))), ([], 1))
        self.service = self.service_with(None)
        self.submit("", ONE)
        self.assertEqual((self.peers.take(Hold), len(self.peers.take(Register))), ([], 1))

    def test_hold(self) -> None:
        """A member that may submit has files held; another one has those of what it runs."""
        self.assertEqual(self.ask(REPLICAS[1], ONE), Done())
        self.trusted.submitters = {peer(REPLICAS[0])}
        self.assertIsInstance(self.ask(REPLICAS[1], ONE), Failed)
        made = record(begin(IRONWOOD, WALNUT))
        accept = Accept(RESERVED, encode_record(made.signed, made.state), Ballot(1, 0))
        self.service.answer(peer(REPLICAS[0]), Register(TASK, accept))
        self.clock.advance(0)
        self.assertEqual(self.ask(REPLICAS[1], ONE), Done())
        self.assertIsInstance(self.ask(REPLICAS[2], ONE), Failed)

    def test_no_cache(self) -> None:
        """A node without a cache holds nothing."""
        self.service = self.service_with(None)
        self.assertIsInstance(self.ask(REPLICAS[1], ONE), Failed)

    def test_outputs(self) -> None:
        """What an attempt has put out is to be had elsewhere, for so long as that may take."""
        shared = self.wait(self.service.share_outputs(submission(), ONE))
        self.assertEqual([asked.peer for asked in self.peers.asked], [peer(REPLICAS[1])])
        self.peers.lose()
        self.peers.lose()
        self.clock.advance(AGAIN)
        self.peers.take(Hold)[0].answer.callback(Done())
        self.successResultOf(shared)
        shared = self.wait(self.service.share_outputs(submission(), ONE))
        for _ in range(int(SHARE_SECONDS)):
            self.peers.lose()
            self.peers.lose()
            self.clock.advance(1.0)
        self.peers.lose()
        self.peers.lose()
        self.clock.advance(15.0)
        self.peers.lose()
        self.peers.lose()
        self.failureResultOf(shared, NotHeld)

    def test_workflow(self) -> None:
        """A workflow's files are held before its record is made."""
        made = self.wait(self.service.submit_workflow(b"", "somebody", (Input("src", ONE, 1),)))
        [asked] = self.peers.take(Hold)
        self.assertEqual(asked.request, Hold(asked.request.task, (ONE,)))  # type: ignore[union-attr]  # a Hold
        self.assertNoResult(made)
        asked.answer.callback(Failed("full"))
        self.peers.lose()
        self.failureResultOf(made, SubmissionError)
