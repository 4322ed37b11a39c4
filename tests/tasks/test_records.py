"""Changes of records: in their registers, one at a time."""

from __future__ import annotations

from collections.abc import Coroutine
from random import Random
from typing import Any, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from bzzz.errors import BzzzError, RemoteProtocolError
from bzzz.identity.peer_id import PeerID
from bzzz.tasks import record as states
from bzzz.tasks.acceptor import EMPTY, Kept
from bzzz.tasks.askers import Denied
from bzzz.tasks.ballots import RESERVED, Accept, Answer, Ballot, Prepare, Request
from bzzz.tasks.record import Outcome, State, TaskState, begin
from bzzz.tasks.records import NoRecord, Records
from bzzz.tasks.register_messages import MAX_VALUE
from bzzz.tasks.register_store import Asked, answer
from bzzz.tasks.registers import REST, REST_DECIDED, NoMajority, Registers
from bzzz.tasks.submission import SubmissionError
from bzzz.tasks.value import TaskRecord, decode_record, encode_record
from tests.tasks.fakes import name, peer, record, task_id

T = TypeVar("T")
MACHINES = ("walnut", "ironwood", "acacia")


class RecordsTests(SynchronousTestCase):
    """Records of one node, on three replicas that answer at once, or when they are told to."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.kept: dict[PeerID, dict[str, Kept]] = {peer(each): {} for each in MACHINES}
        self.gone: set[PeerID] = set()
        self.slow = False
        self.waiting: list[tuple[Deferred[Answer], PeerID, str, Request]] = []
        self.requests: list[Request] = []
        self.shown: list[bytes] = []
        self.registers = Registers(self.clock, Random(1), peer("walnut"), self.ask)
        self.records = Records(self.registers, lambda: 77.0 + self.clock.seconds())
        self.addCleanup(self.nothing_left)

    def nothing_left(self) -> None:
        """Nothing is kept of tasks that nobody changes."""
        self.assertEqual(self.records._changing, {})

    def ask(self, replica: PeerID, task: str, request: Request, shown: bytes) -> Deferred[Answer]:
        told: Deferred[Answer] = Deferred()
        self.requests.append(request)
        self.shown.append(shown)
        self.waiting.append((told, replica, task, request))
        if not self.slow:
            self.go_on()
        return told

    def go_on(self) -> None:
        """What waits is answered, in its order."""
        while self.waiting:
            told, replica, task, request = self.waiting.pop(0)
            if replica in self.gone:
                told.errback(BzzzError("it is gone"))
                continue
            kept = self.kept[replica]
            answered = answer(kept.get(task, EMPTY), Asked(task, request))
            kept[task] = answered.kept
            assert not isinstance(answered.answer, Denied)
            told.callback(answered.answer)

    def wait(self, work: Coroutine[Any, Any, T]) -> Deferred[T]:
        return Deferred.fromCoroutine(work)

    def create(self, number: int = 1, state: TaskState | None = None) -> TaskRecord:
        made = record(state or begin(), number)
        return self.successResultOf(self.wait(self.records.create(made, 10.0, fresh=True)))

    def third(self) -> None:
        """Who was not asked at once has heard of it."""
        self.clock.pump([REST] * 2 + [REST_DECIDED] * 2)

    def assign(self, made: TaskRecord) -> Deferred[TaskRecord]:
        edit = self.records.change(made, lambda state: states.assign(state, 0, "x"), 10.0)
        return self.wait(edit)

    def cancel(self, made: TaskRecord, within: float = 10.0) -> Deferred[TaskRecord]:
        return self.wait(self.records.change(made, states.cancel, within))

    def state(self, machine: str = "acacia") -> TaskState:
        return decode_record(self.kept[peer(machine)][task_id()].value).state

    def test_create(self) -> None:
        """The first record takes one round, with the reserved ballot, and has a time."""
        made = self.create(state=begin(name("hazel"), name("walnut")))
        self.assertEqual([type(each) for each in self.requests], [Accept] * 2)
        self.assertEqual((made.ballot, made.state.version), (RESERVED, 0))
        self.assertEqual(made.state.changed, 77.0)
        self.assertEqual(self.state("ironwood"), made.state)
        self.third()
        self.assertEqual([type(each) for each in self.requests], [Accept] * 3)
        self.assertEqual(self.state(), made.state)

    def test_nearest(self) -> None:
        """A replica that runs the task is the other one that is asked at once."""
        made = self.create(state=begin(name("acacia"), name("walnut")))
        self.assertEqual([*self.kept[peer("ironwood")]], [])
        self.assertEqual(self.state(), made.state)
        ended = self.successResultOf(self.cancel(made))
        self.assertEqual(self.state(), ended.state)
        self.third()
        self.assertEqual(self.state("ironwood"), ended.state)
        self.assertEqual(len(self.requests), 5)

    def test_create_again(self) -> None:
        """A record that was there stays, and who asks is told it."""
        ended = self.successResultOf(self.cancel(self.create()))
        made = record(begin(name("hazel")))
        again = self.successResultOf(self.wait(self.records.create(made, 10.0, fresh=False)))
        self.assertEqual(again.state, ended.state)

    def test_create_not_fresh(self) -> None:
        """Whose ID may have been used asks first."""
        made = record(begin())
        self.successResultOf(self.wait(self.records.create(made, 10.0, fresh=False)))
        self.assertEqual({type(each) for each in self.requests}, {Prepare, Accept})
        self.assertEqual(self.state().state, State.WAITING)

    def test_assigned(self) -> None:
        """Of a task that waited, who is to run it has the record at once, before it is offered."""
        made = self.create()
        edit = self.records.change(made, lambda last: states.assign(last, 0, name("acacia")), 10.0)
        assigned = self.successResultOf(self.wait(edit))
        self.assertEqual(self.state(), assigned.state)
        self.assertEqual(self.state("ironwood"), made.state)
        waits = self.records.change(
            assigned, lambda last: states.refuse(last, name("acacia"), 1, "busy"), 10.0
        )
        refused = self.successResultOf(self.wait(waits))
        self.assertEqual(self.state(), refused.state)
        self.third()
        self.assertEqual(self.state("ironwood"), refused.state)

    def test_change(self) -> None:
        """Each change counts, has the time of its proposer, and takes one round."""
        made = self.create()
        self.clock.advance(5.0)
        self.requests.clear()
        changed = self.successResultOf(self.assign(made))
        self.assertEqual((changed.state.version, changed.state.changed), (1, 82.0))
        self.assertEqual(changed.ballot, Ballot(1, 0))
        self.assertEqual([type(each) for each in self.requests], [Accept] * 2)
        self.third()
        self.assertEqual(self.state(), changed.state)

    def test_leave(self) -> None:
        """An edit that returns nothing changes nothing, and tells what is decided."""
        made = self.create()
        same = self.successResultOf(self.wait(self.records.change(made, lambda state: None, 10.0)))
        self.assertEqual((same.state, same.submission), (made.state, made.submission))

    def test_last_state(self) -> None:
        """An edit is given the last state, whatever whoever calls knew."""
        made = self.create()
        self.successResultOf(self.assign(made))
        seen: list[TaskState] = []
        self.successResultOf(self.wait(self.records.change(made, seen.append, 10.0)))
        self.assertEqual([each.worker for each in seen], ["x"])

    def test_close(self) -> None:
        """A token is closed by a majority before the edit is made."""
        made = self.create(state=begin(name("hazel")))
        self.requests.clear()
        lost = self.wait(
            self.records.change(
                made, lambda state: states.lose(state, made.policy, 1, "gone"), 10.0, close=1
            )
        )
        self.assertEqual(self.successResultOf(lost).state.state, State.WAITING)
        prepares = [each for each in self.requests if isinstance(each, Prepare)]
        self.assertEqual({each.close for each in prepares}, {1})
        self.assertEqual(self.kept[peer("ironwood")][task_id()].closed, 1)

    def test_no_record(self) -> None:
        """A task that a majority has never heard of is none."""
        self.failureResultOf(self.cancel(record()), NoRecord)

    def test_other_replicas(self) -> None:
        """A record of the same ID that is for others is left as it is, and is none for this node:
        its origin has signed two."""
        made = self.create()
        self.third()
        theirs = record(begin(), replicas=("acacia", "ironwood", "hazel"))
        value = encode_record(theirs.signed, theirs.state)
        for machine in ("ironwood", "acacia"):
            kept = self.kept[peer(machine)]
            accept = Accept(Ballot(5, 1), value, Ballot(6, 1))
            kept[made.task] = answer(kept[made.task], Asked(made.task, accept)).kept
        cancelling = self.cancel(made)
        self.clock.pump([0.1] * 50)
        self.failureResultOf(cancelling, NoRecord)
        self.assertEqual(self.state(), theirs.state)
        again = self.records.create(made, 10.0, fresh=False)
        self.failureResultOf(self.wait(again), NoRecord)

    def test_no_majority(self) -> None:
        """Too few replicas: it is not known, and who waits behind has its own time."""
        made = self.create()
        self.gone |= {peer("ironwood"), peer("acacia")}
        first, second = self.cancel(made, 4.0), self.cancel(made, 4.0)
        self.clock.pump([0.5] * 9)
        self.failureResultOf(first, NoMajority)
        self.assertNoResult(second)
        self.gone.clear()
        self.clock.pump([0.5] * 8)
        self.assertEqual(self.successResultOf(second).state.outcome, Outcome.CANCELLED)

    def test_one_at_a_time(self) -> None:
        """Changes of one task come one after the other; those of others do not wait."""
        made, other = self.create(), self.create(2)
        self.slow = True
        order: list[str] = []

        def edit(what: str) -> Any:
            def edited(state: TaskState) -> None:
                order.append(what)

            return edited

        first = self.assign(made)
        second = self.wait(self.records.change(made, edit("second"), 10.0))
        third = self.cancel(made)
        self.wait(self.records.change(other, edit("other"), 10.0))
        self.assertEqual(order, ["other"])
        self.slow = False
        self.go_on()
        self.assertEqual(self.successResultOf(first).state.worker, "x")
        self.assertEqual(self.successResultOf(second).state.worker, "x")
        self.assertTrue(self.successResultOf(third).state.cancel)
        self.assertEqual(order, ["other", "second"])

    def test_edit_fails(self) -> None:
        """An edit that cannot be made is told of, and the next one is made."""
        made = self.create()

        def wrong(state: TaskState) -> TaskState:
            raise BzzzError("no")

        self.failureResultOf(self.wait(self.records.change(made, wrong, 10.0)), BzzzError)
        later = self.cancel(made)
        self.clock.pump([0.1] * 10)
        self.assertTrue(self.successResultOf(later).has_ended)

    def test_too_long(self) -> None:
        """A state that no replica would take is not proposed."""
        made = self.create()
        self.third()
        edit = self.wait(
            self.records.change(made, lambda state: TaskState(why="x" * MAX_VALUE), 10.0)
        )
        self.failureResultOf(edit, SubmissionError)
        self.assertEqual(self.state(), made.state)

    def test_unreadable(self) -> None:
        """A value that this version cannot read is left alone."""
        made = self.create()
        for kept in self.kept.values():
            kept[task_id()] = Kept(Ballot(9, 1), Ballot(8, 1), b"\xc1")
        edit = self.cancel(made)
        self.clock.pump([0.1] * 10)
        self.failureResultOf(edit, RemoteProtocolError)
        self.assertEqual(self.kept[peer("acacia")][task_id()].value, b"\xc1")

    def test_begun_by_an_end(self) -> None:
        """A change that is begun by the end of one before it is not cut off by the next."""
        made = self.create()
        self.slow = True
        first = self.assign(made)
        # It ends at once when its turn comes, within the end of the first.
        second = self.wait(
            self.records.change(made, lambda state: TaskState(why="x" * MAX_VALUE), 10.0)
        )
        third: list[Deferred[TaskRecord]] = []

        def begin_third(result: Any) -> None:
            third.append(self.cancel(made))

        second.addErrback(begin_third)
        self.go_on()
        self.assertEqual(self.successResultOf(first).state.worker, "x")
        self.successResultOf(second)
        fourth = self.wait(self.records.change(made, lambda state: None, 10.0))
        self.slow = False
        self.go_on()
        self.clock.pump([0.1] * 10)
        self.assertTrue(self.successResultOf(third[0]).state.cancel)
        self.assertTrue(self.successResultOf(fourth).state.cancel)

    def test_stopped(self) -> None:
        """When all stops, who waits is told that nothing is known, and nobody is left waiting."""
        made = self.create()
        self.slow = True
        first = self.cancel(made)
        self.registers.stop()
        self.failureResultOf(first, NoMajority)
        self.waiting.clear()
        self.assertEqual(self.clock.getDelayedCalls(), [])
