"""A driver: what it does for tasks, when, and what it leaves to others."""

from __future__ import annotations

from collections.abc import Coroutine
from random import Random
from typing import Any, TypeVar

import msgspec
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from bzzz.net.calls import AnswerLost
from bzzz.tasks import driver as driver_module
from bzzz.tasks import record as states
from bzzz.tasks.ballots import Ballot
from bzzz.tasks.driver import (
    AGAIN,
    APART,
    CHECK,
    CONFIRM,
    MAX_AGAIN,
    PATIENCE,
    SETTLE,
    STOP_AGAIN,
    TICK,
    Driver,
)
from bzzz.tasks.messages import Failed, Offer, Refused, Report, Settled, Stop, Taken
from bzzz.tasks.record import End, Outcome, Policy, State, TaskState, begin
from bzzz.tasks.registers import NoMajority
from bzzz.tasks.value import TaskRecord
from tests.tasks.fakes import FakePeers, FakePlacer, FakeRecords, name, peer, record, task_id

TASK = task_id()
RETRIES = Policy(retries=1)
T = TypeVar("T")


def ended(before: TaskState) -> TaskState:
    """It is done."""
    state = states.finish(before, Policy(), before.worker, before.token, End.DONE, 0)
    assert state is not None
    return state


class DriverCase(SynchronousTestCase):
    """A replica of a task, at the place that the test wants."""

    machine = "walnut"

    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.advance(100.0)
        self.peers = FakePeers("walnut", "ironwood", "acacia", "hazel")
        self.peers.members.discard(peer(self.machine))
        self.placer = FakePlacer()
        self.place = ("walnut", "ironwood", "acacia").index(self.machine)
        self.records = FakeRecords(self.place)
        self.left = 1000.0
        self.told: list[tuple[State, bool]] = []
        records: Any = self.records
        self.driver = Driver(
            self.clock,
            Random(1),
            peer(self.machine),
            records,
            self.peers,
            self.placer,
            lambda task, token, lease: self.left,
            lambda record, settled: self.told.append((record.state.state, settled)),
        )
        self.driver.start()

    def wait(self, work: Coroutine[Any, Any, T]) -> Deferred[T]:
        return Deferred.fromCoroutine(work)

    def run_for(self, seconds: float) -> None:
        steps = round(seconds / 0.05)
        self.clock.pump([0.05] * steps)

    def give(self, worker: str) -> bool:
        """The placer has found a worker, and forgets the task."""
        self.placer.drop(TASK)
        return self.driver.place(TASK, name(worker))

    @property
    def state(self) -> TaskState:
        return self.records.known[TASK].state

    def create(self, worker: str = "hazel", **fields: Any) -> TaskRecord:
        """A task, given to a worker where one is said."""
        wanted = record(begin(name(worker) if worker else "", name("walnut")), **fields)
        return self.successResultOf(self.wait(self.driver.create(wanted, 10.0)))

    def learn(self, state: TaskState, counter: int = 1, place: int = 2) -> TaskRecord:
        """This replica accepts what another one has proposed."""
        accepted = record(state, ballot=Ballot(counter, place))
        self.driver.learnt(accepted)
        return accepted

    def know(self, state: TaskState, counter: int = 1) -> TaskRecord:
        """The same, and it is decided."""
        decided = record(state, ballot=Ballot(counter, 2))
        self.records.known[TASK] = decided
        self.driver.decided(decided)
        return decided


class OfferTests(DriverCase):
    """Workers are told of what was given to them, once."""

    def test_offered(self) -> None:
        """With its first record, to the worker that it names."""
        made = self.create()
        [offer] = self.peers.take(Offer)
        self.assertEqual(offer.peer, peer("hazel"))
        self.assertEqual(offer.request, Offer(made.signed, 1))
        self.assertEqual(self.placer.given, {TASK: name("hazel")})
        self.assertEqual(self.placer.mine, {TASK: True})
        offer.answer.callback(Taken())
        self.run_for(60.0)
        self.assertEqual((self.peers.asked, self.records.closed), ([], []))

    def test_counted_before(self) -> None:
        """What a worker is offered is counted before it can say what it has left with that, and no
        more where it is not known whether it was recorded."""
        self.records.wait = Deferred()
        wanted = record(begin(name("hazel"), name("walnut")))
        creating = self.wait(self.driver.create(wanted, 10.0))
        self.assertEqual(self.placer.given, {TASK: name("hazel")})
        self.records.failing = True
        self.records.wait.callback(None)
        self.failureResultOf(creating, NoMajority)
        self.assertEqual(self.placer.given, {})

    def test_refused(self) -> None:
        """A refusal gives it back, and the placer knows why."""
        for answer, for_good in (
            (Refused("busy"), False),
            (Refused("its owner forbids it", for_good=True), True),
            (Failed("the disk is full"), False),
        ):
            with self.subTest(answer=answer):
                self.setUp()
                self.create()
                [offer] = self.peers.take(Offer)
                offer.answer.callback(answer)
                refusal = (name("hazel"), answer.reason, for_good)
                self.assertEqual(self.placer.refusals, [refusal])
                self.assertEqual(self.state.state, State.WAITING)
                self.assertEqual(self.state.attempts[0].end, End.REFUSED)
                self.assertEqual((self.placer.waiting, self.placer.given), ([TASK], {}))

    def test_not_asked(self) -> None:
        """A worker that could not be asked never heard of it: that is a refusal, too."""
        self.peers.gone.add(peer("hazel"))
        self.create()
        self.assertEqual([each for each, _, _ in self.placer.refusals], [name("hazel")])
        self.assertEqual(self.placer.waiting, [TASK])

    def test_answer_lost(self) -> None:
        """A worker that may have begun is not asked again, nor is anybody else, until its token is
        closed."""
        self.create()
        self.peers.lose()
        self.run_for(60.0)
        self.assertEqual((self.peers.asked, self.placer.refusals), ([], []))
        self.assertEqual(self.state.state, State.ASSIGNED)
        self.left = 0.0
        self.run_for(2.0)
        self.assertEqual(self.records.closed, [1])
        self.assertEqual((self.state.state, self.state.lost), (State.WAITING, 1))

    def test_refusal_not_recorded(self) -> None:
        """When a refusal cannot be recorded, the end of the lease makes up for it."""
        self.create()
        self.records.failing = True
        self.peers.take(Offer)[0].answer.callback(Refused("busy"))
        self.records.failing = False
        self.run_for(60.0)
        self.assertEqual(self.state.state, State.ASSIGNED)
        self.left = 0.0
        self.run_for(2.0)
        self.assertEqual(self.records.closed, [0, 1])

    def test_late_refusal(self) -> None:
        """A refusal of a token that was closed since changes nothing."""
        self.create()
        [offer] = self.peers.take(Offer)
        self.left = 0.0
        self.run_for(2.0)
        self.left = 1000.0
        self.give("acacia")
        offer.answer.callback(Refused("busy"))
        self.assertEqual((self.state.token, self.state.worker), (2, name("acacia")))

    def test_offered_before(self) -> None:
        """It is offered as soon as replicas are asked to accept it. A refusal that is there before
        it is decided is recorded afterwards."""
        self.records.wait = Deferred()
        wanted = record(begin(name("hazel"), name("walnut")))
        creating = self.wait(self.driver.create(wanted, 10.0))
        [offer] = self.peers.take(Offer, "hazel")
        self.assertEqual(offer.request, Offer(wanted.signed, 1))
        offer.answer.callback(Refused("busy"))
        self.assertNoResult(creating)
        self.assertEqual(self.placer.refusals, [])
        waiting, self.records.wait = self.records.wait, None
        waiting.callback(None)
        self.successResultOf(creating)
        self.assertEqual((self.state.state, self.state.why), (State.WAITING, "busy"))
        self.assertEqual(self.peers.take(Offer), [])

    def test_not_created(self) -> None:
        """Of what may not be decided nothing is recorded, whatever its worker says."""
        self.records.failing = True
        wanted = record(begin(name("hazel"), name("walnut")))
        self.failureResultOf(self.wait(self.driver.create(wanted, 10.0)), NoMajority)
        self.records.failing = False
        self.peers.take(Offer)[0].answer.callback(Refused("busy"))
        self.assertEqual((self.placer.refusals, self.records.known), ([], {}))

    def test_created_by_another(self) -> None:
        """What was decided instead of the first record is offered by whoever has assigned it."""
        self.records.known[TASK] = record(
            TaskState(State.ASSIGNED, 2, 3, name("acacia"), name("ironwood")),
            ballot=Ballot(4, 1),
        )
        made = self.create()
        # It was told of the first one; no replica grants it a lease of that.
        self.peers.take(Offer, "hazel")[0].answer.callback(Refused("busy"))
        self.assertEqual((self.peers.asked, self.state), ([], made.state))

    def test_waits(self) -> None:
        """Where nobody is known it is the placer's."""
        self.create("")
        self.assertEqual((self.placer.waiting, self.peers.asked), ([TASK], []))


class PlaceTests(DriverCase):
    """What the placer finds."""

    def test_placed(self) -> None:
        """It is assigned, then offered; the placer has it no more."""
        self.create("")
        self.assertTrue(self.give("hazel"))
        self.assertEqual((self.state.token, self.state.driver), (1, name("walnut")))
        self.assertEqual(len(self.peers.take(Offer, "hazel")), 1)
        self.assertEqual(self.placer.waiting, [])
        self.assertFalse(self.give("acacia"))

    def test_not_placed(self) -> None:
        """What is not known, has a worker, is being changed, or comes after the stop is not."""
        self.assertFalse(self.give("hazel"))
        self.create("")
        self.records.wait = Deferred()
        self.assertTrue(self.give("hazel"))
        self.assertFalse(self.give("acacia"))
        self.records.wait.callback(None)
        self.assertEqual((self.state.worker, self.placer.waiting), (name("hazel"), []))
        self.driver.stop()
        self.know(begin(), 9)
        self.assertFalse(self.give("acacia"))

    def test_given_while_busy(self) -> None:
        """What cannot be placed now is the placer's again when it can."""
        self.create("")
        self.records.wait = Deferred()
        self.give("hazel")
        self.know(TaskState(token=3, why="busy", version=4), 4)
        self.assertFalse(self.give("acacia"))
        self.records.wait.callback(None)
        self.assertEqual(self.placer.waiting, [TASK])

    def test_another_was_faster(self) -> None:
        """What another driver has assigned since is offered by that one."""
        self.create("")
        theirs = TaskState(State.ASSIGNED, 1, 1, name("acacia"), name("ironwood"))
        self.records.known[TASK] = record(theirs, ballot=Ballot(3, 1))
        self.give("hazel")
        self.assertEqual((self.peers.asked, self.state), ([], theirs))
        self.assertEqual(self.placer.given, {TASK: name("acacia")})
        self.assertEqual(self.placer.mine, {TASK: False})

    def test_beaten_and_made(self) -> None:
        """A change that was tried twice, and found its own effect, is offered once."""
        self.create("")

        def tried(last: TaskRecord) -> TaskRecord:
            # The first try was decided by somebody else's hand.
            own = states.assign(last.state, 0, name("hazel"), name("walnut"))
            assert own is not None
            return record(own, ballot=Ballot(5, 1))

        edits: list[TaskState | None] = []
        change = self.records.change

        async def twice(known: TaskRecord, edit: Any, within: float, *, close: int = 0) -> Any:
            edits.append(edit(known.state))
            self.records.before = tried
            return await change(known, edit, within, close=close)

        self.patch(self.records, "change", twice)
        self.give("hazel")
        self.assertEqual(len(edits), 1)
        self.assertEqual(len(self.peers.take(Offer)), 1)

    def test_found_after_a_restart(self) -> None:
        """What this node has assigned before it was restarted is not offered by it again."""
        self.know(begin())
        own = TaskState(State.ASSIGNED, 1, 1, name("hazel"), name("walnut"))
        self.records.known[TASK] = record(own, ballot=Ballot(3, 0))
        self.give("hazel")
        self.assertEqual(self.peers.asked, [])

    def test_no_majority(self) -> None:
        """What cannot be assigned is the placer's again after a while, longer each time."""
        self.create("")
        self.records.failing = True
        waits = []
        for _ in range(7):
            self.assertTrue(self.give("hazel"))
            self.assertEqual(self.placer.waiting, [])
            began = self.clock.seconds()
            while not self.placer.waiting:
                self.run_for(0.05)
            waits.append(self.clock.seconds() - began)
        for waited, expected in zip(waits, (0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 15.0), strict=True):
            self.assertLess(abs(waited - expected), 0.11)
        self.assertEqual((AGAIN, MAX_AGAIN), (0.5, 15.0))
        # Unless others are linked than before.
        self.give("hazel")
        self.run_for(1.0)
        self.assertEqual(self.placer.waiting, [])
        self.driver.links_changed()
        self.run_for(0.05)
        self.assertEqual(self.placer.waiting, [TASK])
        self.records.failing = False
        self.give("hazel")
        self.assertEqual(self.state.state, State.ASSIGNED)

    def test_news_while_waiting(self) -> None:
        """A task that others have ended meanwhile is not looked at again."""
        self.create("")
        self.records.failing = True
        self.give("hazel")
        state = states.assign(begin(), 0, name("acacia"), name("ironwood"))
        assert state is not None
        self.know(ended(state), 8)
        self.run_for(5.0)
        self.assertEqual((self.placer.waiting, len(self.driver)), ([], 0))


class LeaseTests(DriverCase):
    """Attempts whose workers are not heard of."""

    def closing(self) -> float:
        """How long after the grace the token is closed."""
        self.left = 0.0
        began = self.clock.seconds()
        while not self.records.closed:
            self.run_for(0.05)
            self.assertLess(self.clock.seconds(), began + 10.0)
        return self.clock.seconds() - began

    def test_after_the_grace(self) -> None:
        """No token is closed as long as this replica may not."""
        self.create()
        self.run_for(60.0)
        self.assertEqual(self.records.closed, [])
        self.assertLess(self.closing(), 2 * TICK + APART / 2 + 0.1)
        self.assertEqual(self.records.closed, [1])
        self.assertEqual((self.state.state, self.state.lost), (State.WAITING, 1))
        self.assertEqual((self.placer.waiting, self.placer.given), ([TASK], {}))
        # Its link may seem to be there for some seconds more.
        self.assertEqual(self.placer.silent, [name("hazel")])

    def test_heard_of_again(self) -> None:
        """A renewal that comes before it acts is in time."""
        self.create()
        for _ in range(30):
            self.left = 0.0
            self.clock.advance(TICK)
            self.left = 4.0
            self.clock.advance(TICK)
        self.assertEqual(self.records.closed, [])

    def test_again(self) -> None:
        """What could not be closed is tried again."""
        self.create()
        self.records.failing = True
        self.closing()
        self.run_for(10.0)
        self.assertGreater(len(self.records.closed), 2)
        self.records.failing = False
        self.run_for(20.0)
        self.assertEqual(self.state.state, State.WAITING)

    def test_one_at_a_time(self) -> None:
        """While it is being closed nothing else is begun for it."""
        self.create()
        self.records.wait = Deferred()
        self.closing()
        self.run_for(10.0)
        self.assertEqual(self.records.closed, [1])
        self.records.wait.callback(None)
        self.assertEqual(self.state.state, State.WAITING)

    def test_result_came_first(self) -> None:
        """A token that is over when it is closed stays as it ended."""
        made = self.create()
        self.records.known[TASK] = record(ended(made.state), ballot=Ballot(6, 1))
        self.closing()
        self.assertEqual(self.state.outcome, Outcome.DONE)
        self.assertEqual((len(self.driver), self.placer.silent), (0, []))

    def test_at_most_once(self) -> None:
        """What may not run again is lost with its worker."""
        self.create(restart=False)
        self.closing()
        self.assertEqual((self.state.outcome, self.placer.waiting), (Outcome.LOST, []))

    def test_next_token(self) -> None:
        """Each attempt has its own time."""
        self.create()
        self.closing()
        self.left = 1000.0
        self.give("acacia")
        self.run_for(30.0)
        self.assertEqual(self.records.closed, [1, 0])
        self.left = 0.0
        self.run_for(2.0)
        self.assertEqual(self.records.closed, [1, 0, 2])


class SecondLeaseTests(LeaseTests):
    """The same at the third of the replicas, which waits for the others."""

    machine = "acacia"

    def create(self, worker: str = "hazel", **fields: Any) -> TaskRecord:
        self.peers.members -= {peer("walnut"), peer("ironwood")}
        state = begin(name(worker) if worker else "", name("walnut"))
        made = record(state, ballot=Ballot(1, 0), **fields)
        self.records.known[TASK] = made
        self.driver.decided(made)
        return made

    def test_after_the_grace(self) -> None:
        """It waits for its place, twice."""
        self.create()
        self.run_for(60.0)
        self.assertEqual(self.records.closed, [])
        waited = self.closing()
        self.assertGreaterEqual(waited, 2 * APART)
        self.assertLess(waited, 2 * APART + APART / 2 + 2 * TICK + 0.1)


class FirstTests(DriverCase):
    """Who looks for a worker."""

    machine = "ironwood"

    def test_origin_is_there(self) -> None:
        """While a replica before it is linked, it does not."""
        self.know(begin())
        self.run_for(10.0)
        self.assertEqual(self.placer.waiting, [])

    def test_origin_goes_and_comes(self) -> None:
        """It begins when the link is lost, and leaves it when there is one again."""
        self.know(begin())
        self.peers.members.discard(peer("walnut"))
        self.driver.links_changed()
        self.assertEqual(self.placer.waiting, [TASK])
        self.driver.links_changed()
        self.assertEqual(self.placer.waiting, [TASK])
        self.peers.members.add(peer("walnut"))
        self.driver.links_changed()
        self.assertEqual(self.placer.waiting, [])

    def test_many(self) -> None:
        """Where many wait, some are looked at in each turn of the reactor."""
        self.patch(driver_module, "LOOKS", 2)
        for number in range(1, 6):
            self.driver.learnt(record(begin(), number, ballot=Ballot(1, 2)))
        self.peers.members.discard(peer("walnut"))
        self.driver.links_changed()
        self.assertEqual(len(self.placer.waiting), 2)
        self.clock.advance(0)
        self.assertEqual(len(self.placer.waiting), 5)

    def test_not_later_ones(self) -> None:
        """Who comes after it is of no interest."""
        self.peers.members -= {peer("walnut"), peer("acacia")}
        self.know(begin())
        self.assertEqual(self.placer.waiting, [TASK])

    def test_patience(self) -> None:
        """A replica before it that is linked and does nothing is not waited for for ever."""
        self.know(begin())
        self.run_for(PATIENCE - CHECK)
        self.assertEqual(self.placer.waiting, [])
        self.run_for(2 * CHECK + 0.1)
        self.assertEqual(self.placer.waiting, [TASK])

    def test_patience_anew(self) -> None:
        """Each change of the task is a sign of life."""
        self.know(begin())
        self.run_for(PATIENCE - CHECK)
        self.know(TaskState(why="busy", version=2), 3)
        self.run_for(PATIENCE - CHECK)
        self.assertEqual(self.placer.waiting, [])

    def test_assigned_since(self) -> None:
        """What another has assigned is not looked for any more."""
        self.peers.members.discard(peer("walnut"))
        self.know(begin())
        self.learn(TaskState(State.ASSIGNED, 1, 1, name("hazel"), name("acacia")), 4)
        self.assertEqual(self.placer.waiting, [])
        self.assertEqual(self.placer.given, {TASK: name("hazel")})


class CancelTests(DriverCase):
    """Ends that are wanted."""

    def stops(self) -> list[Any]:
        return [(each.peer, each.request) for each in self.peers.take(Stop)]

    def test_waiting(self) -> None:
        """A waiting task ends at once."""
        made = self.create("")
        told = self.successResultOf(self.wait(self.driver.cancel(made)))
        self.assertEqual(told.state.outcome, Outcome.CANCELLED)
        self.assertEqual((self.placer.waiting, len(self.driver)), ([], 0))

    def test_running(self) -> None:
        """A worker is told until it says that it has stopped."""
        made = self.create()
        self.peers.take(Offer)
        told = self.successResultOf(self.wait(self.driver.cancel(made)))
        self.assertEqual((told.state.state, told.state.cancel), (State.ASSIGNED, True))
        self.run_for(TICK + 0.1)
        self.assertEqual(self.stops(), [(peer("hazel"), Stop(TASK, 1))])
        self.run_for(STOP_AGAIN + TICK)
        self.assertEqual(len(self.stops()), 1)
        report = Report(TASK, 1, End.CANCELLED)
        self.successResultOf(self.wait(self.driver.report(peer("hazel"), report, made)))
        self.assertEqual(self.state.outcome, Outcome.CANCELLED)
        self.run_for(10.0)
        self.assertEqual(self.stops(), [])

    def test_unheard(self) -> None:
        """A worker that cannot be told is told again; then its token is closed, and it ends."""
        made = self.create()
        self.peers.take(Offer)
        self.successResultOf(self.wait(self.driver.cancel(made)))
        self.peers.gone.add(peer("hazel"))
        self.run_for(5.0)
        self.peers.gone.clear()
        self.run_for(STOP_AGAIN + TICK)
        self.assertNotEqual(self.stops(), [])
        self.left = 0.0
        self.run_for(2.0)
        self.assertEqual(self.state.outcome, Outcome.CANCELLED)

    def test_not_recorded(self) -> None:
        """Who wants it is told that it may not be so."""
        made = self.create()
        self.records.failing = True
        self.failureResultOf(self.wait(self.driver.cancel(made)), NoMajority)

    def test_retry(self) -> None:
        """What was cancelled may be begun anew, and is the placer's then."""
        made = self.create("")
        done = self.successResultOf(self.wait(self.driver.cancel(made)))
        again = self.successResultOf(self.wait(self.driver.retry(done, 0)))
        self.assertEqual((again.state.state, self.placer.waiting), (State.WAITING, [TASK]))
        same = self.successResultOf(self.wait(self.driver.retry(done, 0)))
        self.assertEqual(same.state, again.state)


class SecondCancelTests(DriverCase):
    """The same where another replica comes first."""

    machine = "ironwood"

    def test_left_to_the_first(self) -> None:
        """The worker is told by one of them."""
        self.know(TaskState(State.ASSIGNED, 1, 2, name("hazel"), name("walnut"), cancel=True))
        self.run_for(10.0)
        self.assertEqual(self.peers.take(Stop), [])
        self.peers.members.discard(peer("walnut"))
        self.run_for(1.0)
        self.assertEqual(len(self.peers.take(Stop)), 1)

    def test_first_does_nothing(self) -> None:
        """A replica that is linked, and whose disk has failed, is not waited for for ever."""
        self.know(TaskState(State.ASSIGNED, 1, 2, name("hazel"), name("walnut"), cancel=True))
        self.run_for(4 * PATIENCE)
        self.assertNotEqual(self.peers.take(Stop), [])


class EndTests(DriverCase):
    """Ends, and how replicas find out that they are decided."""

    def report(self, made: TaskRecord, end: End = End.DONE, worker: str = "hazel") -> None:
        status = {End.DONE: 0, End.FAILED: 3}.get(end)
        report = Report(TASK, 1, end, status, "why")
        self.successResultOf(self.wait(self.driver.report(peer(worker), report, made)))

    def test_done(self) -> None:
        """A result ends it; the other replicas are told, with others that end then."""
        made = self.create()
        self.report(made)
        self.assertEqual((self.state.outcome, len(self.driver)), (Outcome.DONE, 0))
        self.assertEqual(self.placer.given, {})
        other = record(begin(name("hazel"), name("walnut")), 2)
        self.successResultOf(self.wait(self.driver.create(other, 10.0)))
        done = Report(task_id(2), 1, End.DONE, 0)
        self.successResultOf(self.wait(self.driver.report(peer("hazel"), done, other)))
        self.assertEqual(self.peers.take(Settled), [])
        self.run_for(SETTLE + 0.05)
        asked = self.peers.take(Settled)
        self.assertEqual([each.peer for each in asked], [peer("ironwood"), peer("acacia")])
        self.assertEqual(
            {each.request for each in asked},
            {Settled(((TASK, Ballot(1, 0)), (task_id(2), Ballot(1, 0))))},
        )
        for each in asked:
            each.answer.errback(AnswerLost("gone"))

    def test_each_end(self) -> None:
        """What a worker reports is what becomes of it."""
        for end, state, outcome in (
            (End.FAILED, State.ENDED, Outcome.FAILED),
            (End.TIMED_OUT, State.ENDED, Outcome.TIMED_OUT),
            (End.CANCELLED, State.ENDED, Outcome.CANCELLED),
            (End.LOST, State.WAITING, None),
            (End.REFUSED, State.WAITING, None),
        ):
            with self.subTest(end=end):
                self.setUp()
                self.report(self.create(), end)
                self.assertEqual((self.state.state, self.state.outcome), (state, outcome))
                self.assertEqual(self.state.attempts[0].end, end)

    def test_word_of_another(self) -> None:
        """The word of one who does not run it changes nothing."""
        made = self.create()
        for end in (End.DONE, End.FAILED, End.CANCELLED, End.LOST, End.REFUSED):
            self.report(made, end, "acacia")
        self.assertEqual(self.state, made.state)

    def test_twice(self) -> None:
        """A report that comes twice is good for one."""
        made = self.create()
        self.report(made)
        state = self.state
        self.report(made)
        self.assertEqual(self.state, state)

    def test_failed_with_retries(self) -> None:
        """While retries are left it is the placer's again."""
        self.report(self.create(retries=1), End.FAILED)
        self.assertEqual((self.state.state, self.placer.waiting), (State.WAITING, [TASK]))

    def test_not_recorded(self) -> None:
        """A worker whose report may not be recorded is told so, and comes again."""
        made = self.create()
        self.records.failing = True
        report = Report(TASK, 1, End.DONE, 0)
        self.failureResultOf(self.wait(self.driver.report(peer("hazel"), report, made)), NoMajority)
        self.records.failing = False
        self.report(made)
        self.assertEqual(self.state.outcome, Outcome.DONE)

    def test_confirmed(self) -> None:
        """An end that this replica has accepted is confirmed when nobody says it is decided."""
        made = self.create()
        after = self.learn(ended(made.state))
        self.records.known[TASK] = after
        self.assertEqual(self.told, [(State.ASSIGNED, True), (State.ENDED, False)])
        self.run_for(CONFIRM - 0.1)
        self.assertEqual(self.records.closed, [])
        self.run_for(CHECK + 0.2)
        self.assertEqual(self.records.closed, [0])
        self.assertEqual((self.told[-1], len(self.driver)), ((State.ENDED, True), 0))

    def test_not_decided(self) -> None:
        """An end that was accepted and is not the one that is decided is none."""
        made = self.create()
        self.learn(ended(made.state), 1, 1)
        lost = states.lose(made.state, RETRIES, 1, "")
        assert lost is not None
        self.records.known[TASK] = record(lost, ballot=Ballot(2, 2))
        self.run_for(CONFIRM + CHECK)
        self.assertEqual(self.told[-1], (State.WAITING, True))
        self.assertEqual(self.placer.waiting, [TASK])

    def test_settled(self) -> None:
        """Another replica's word saves it that, for the very ballot."""
        made = self.create()
        self.learn(ended(made.state), 4)
        self.driver.settled(peer("acacia"), [(TASK, Ballot(3, 2)), (task_id(9), Ballot(4, 2))])
        self.assertEqual(len(self.driver), 1)
        self.driver.settled(peer("acacia"), [(TASK, Ballot(4, 2))])
        self.assertEqual((self.told[-1], len(self.driver)), ((State.ENDED, True), 0))
        self.driver.settled(peer("acacia"), [(TASK, Ballot(4, 2))])
        self.run_for(30.0)
        self.assertEqual(self.records.closed, [])
        self.assertEqual(len(self.told), 3)

    def test_settled_before(self) -> None:
        """That word may come before the end, of a task that is known here or not: this replica is
        asked later than those that are needed."""
        state = begin(name("hazel"), name("walnut"))
        for known in (True, False):
            with self.subTest(known=known):
                self.setUp()
                if known:
                    self.create()
                self.driver.settled(peer("acacia"), [(TASK, Ballot(4, 2))])
                self.assertEqual(self.told, [(State.ASSIGNED, True)] if known else [])
                self.learn(ended(state), 4)
                self.assertEqual((self.told[-1], len(self.driver)), ((State.ENDED, True), 0))
                self.run_for(30.0)
                self.assertEqual(self.records.closed, [])

    def test_settled_before_by_others(self) -> None:
        """The word of one who does not keep the task is none, nor is one for another end."""
        state = begin(name("hazel"), name("walnut"))
        self.driver.settled(peer("hazel"), [(TASK, Ballot(4, 2))])
        self.driver.settled(peer("acacia"), [(TASK, Ballot(5, 2))])
        self.learn(ended(state), 4)
        self.assertEqual(self.told, [(State.ENDED, False)])
        self.learn(ended(state), 5)
        self.assertEqual(self.told[1:], [(State.ENDED, True)])

    def test_settled_before_of_many(self) -> None:
        """What is never heard of is not remembered for ever."""
        self.patch(driver_module, "MAX_EARLY", 2)
        ends = [(task_id(number), Ballot(4, 2)) for number in range(1, 4)]
        self.driver.settled(peer("acacia"), ends)
        state = ended(begin(name("hazel"), name("walnut")))
        for number in range(1, 4):
            self.driver.learnt(record(state, number, ballot=Ballot(4, 2)))
        self.assertEqual([settled for _, settled in self.told], [False, True, True])

    def test_own_disk_is_slow(self) -> None:
        """What this replica accepts of a task that has ended already is nothing new."""
        made = self.create()
        self.report(made)
        count = len(self.told)
        self.driver.learnt(made)
        self.driver.learnt(self.records.known[TASK])
        self.assertEqual((len(self.driver), len(self.told)), (0, count))

    def test_next_end(self) -> None:
        """The end of a task that was begun anew, while this replica was away, is one."""
        made = self.create()
        self.report(made)
        again = states.retry(self.state, 1)
        assert again is not None
        assigned = states.assign(again, 1, name("acacia"), name("ironwood"))
        assert assigned is not None
        self.learn(msgspec.structs.replace(ended(assigned), version=9), 9)
        self.assertEqual(self.told[-1], (State.ENDED, False))

    def test_begun_anew(self) -> None:
        """A task that another replica begins anew is driven again."""
        self.report(self.create())
        again = states.retry(self.state, 1)
        assert again is not None
        self.know(again, 5)
        self.assertEqual((self.placer.waiting, len(self.driver)), ([TASK], 1))
        self.give("acacia")
        self.assertEqual(self.state.token, 2)


class KnownTests(DriverCase):
    """What of all that is said counts."""

    def test_older(self) -> None:
        """A record with a lesser ballot is older, whoever says it."""
        self.know(TaskState(State.ASSIGNED, 2, 5, name("acacia"), name("walnut")), 7)
        self.learn(begin(), 6)
        self.driver.decided(record(begin(), ballot=Ballot(7, 1)))
        known = self.driver.known(TASK)
        assert known is not None
        self.assertEqual((known.state.token, len(self.told)), (2, 1))

    def test_same(self) -> None:
        """That what was accepted is decided is told once."""
        self.learn(begin(), 3)
        for _ in range(2):
            self.driver.decided(record(begin(), ballot=Ballot(3, 2)))
            self.learn(begin(), 3)
        self.assertEqual(self.told, [(State.WAITING, False), (State.WAITING, True)])

    def test_not_a_replica(self) -> None:
        """A task of others is not driven."""
        self.driver.decided(record(replicas=("ironwood", "acacia", "hazel")))
        self.assertEqual((len(self.driver), self.told), (0, []))
        self.assertIsNone(self.driver.known(TASK))


class StopTests(DriverCase):
    """The end of all of it."""

    def test_stop(self) -> None:
        """Nothing is planned any more, and nothing is begun."""
        made = self.create()
        self.successResultOf(
            self.wait(self.driver.report(peer("hazel"), Report(TASK, 1, End.DONE, 0), made))
        )
        self.know(begin(), 5)
        self.records.failing = True
        self.give("hazel")
        self.assertEqual(len(self.clock.getDelayedCalls()), 4)
        self.driver.stop()
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.driver.stop()

    def test_stop_while_acting(self) -> None:
        """A change that ends without a majority because all is stopped plans no other one."""
        self.create("")
        self.records.wait = Deferred()
        self.give("hazel")
        self.driver.stop()
        self.records.failing = True
        self.records.wait.callback(None)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_end_after_stop(self) -> None:
        """Nor does one that is decided then."""
        made = self.create()
        self.records.wait = Deferred()
        report = self.wait(self.driver.report(peer("hazel"), Report(TASK, 1, End.DONE, 0), made))
        self.driver.stop()
        self.records.wait.callback(None)
        self.successResultOf(report)
        self.assertEqual(self.clock.getDelayedCalls(), [])


class MistakeTests(DriverCase):
    """Mistakes of ours."""

    def test_logged(self) -> None:
        """One is logged, and the task is looked at again."""
        self.create("")
        self.patch(self.records, "change", lambda *arguments, **fields: succeed(None))
        self.give("hazel")
        self.assertNotEqual(self.flushLoggedErrors(), [])
        self.assertTrue(self.give("hazel"))
        self.flushLoggedErrors()

    def test_worker_is_no_peer(self) -> None:
        """A record whose worker is no peer stops nobody else's."""
        self.know(TaskState(State.ASSIGNED, 1, 2, "nobody", name("walnut"), cancel=True))
        self.run_for(1.0)
        self.assertEqual(self.flushLoggedErrors(), [])
