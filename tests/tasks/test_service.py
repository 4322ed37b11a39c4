"""Tasks on one node: what its owner wants, and what members may ask of it, and may not."""

from __future__ import annotations

from collections.abc import Collection, Coroutine
from random import Random
from typing import Any, TypeVar

import msgspec
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.logger import capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from bzzz.identity.peer_id import PeerID
from bzzz.net.calls import AnswerLost
from bzzz.tasks import kept_records
from bzzz.tasks import record as states
from bzzz.tasks import submission as submissions
from bzzz.tasks.acceptor import EMPTY, Kept
from bzzz.tasks.ballots import (
    RESERVED,
    Accept,
    Accepted,
    Ballot,
    Conflict,
    Prepare,
    Promise,
    Unknown,
)
from bzzz.tasks.everyone import ANSWER_SECONDS
from bzzz.tasks.executors.interfaces import Ending, Over
from bzzz.tasks.finding import NoSuchTask
from bzzz.tasks.kept_records import KEEP
from bzzz.tasks.messages import (
    MAX_MESSAGE,
    Answer,
    Cancel,
    Done,
    Failed,
    Find,
    Found,
    Granted,
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
    Taken,
    TaskCodec,
    Told,
)
from bzzz.tasks.record import MAX_REASON, End, Outcome, Policy, State, TaskState, begin
from bzzz.tasks.registers import REST, REST_DECIDED, NoMajority
from bzzz.tasks.service import CREATE_SECONDS, TaskService
from bzzz.tasks.submission import (
    SignedSubmission,
    Submission,
    SubmissionError,
    digest,
    sign,
    submitted_at,
)
from bzzz.tasks.value import TaskRecord, decode_record, encode_record
from bzzz.tasks.world import TaskWorld
from tests.tasks.disks import Disk
from tests.tasks.fakes import (
    FakeExecutor,
    FakePeers,
    FakePlacer,
    FakeWorkspace,
    key,
    name,
    peer,
    record,
    submission,
    task_id,
)

TASK = task_id()
MEMBERS = ("walnut", "ironwood", "acacia", "hazel", "larch")
T = TypeVar("T")


class Rights:
    """Implements :class:`bzzz.tasks.world.Trusted`."""

    def __init__(self, *machines: str) -> None:
        self.all = {peer(each) for each in machines}
        self.submitters = set(self.all)
        self.workers = set(self.all)

    def members(self) -> Collection[PeerID]:
        return self.all

    def may_submit(self, peer: PeerID) -> bool:
        return peer in self.submitters

    def may_run(self, peer: PeerID) -> bool:
        return peer in self.workers


def done(state: TaskState, worker: str = "hazel") -> TaskState:
    """It is done."""
    ended = states.finish(state, Policy(), name(worker), state.token, End.DONE, 0)
    assert ended is not None
    return ended


class ServiceCase(SynchronousTestCase):
    """One node of five; the test answers for the others."""

    machine = "ironwood"

    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.advance(100.0)
        self.disk = Disk()
        self.peers = FakePeers(*(each for each in MEMBERS if each != self.machine))
        self.rights = Rights(*MEMBERS)
        self.executor = FakeExecutor()
        self.workspace = FakeWorkspace()
        self.placer = FakePlacer()
        self.taken: set[str] = set()
        self.wall_time = submitted_at(TASK) + 60.0
        self.service = self.make()
        self.successResultOf(self.wait(self.service.start()))

    def make(self) -> TaskService:
        return TaskService(
            TaskWorld(
                clock=self.clock,
                wall_time=lambda: self.wall_time + self.clock.seconds(),
                rng=Random(1),
                random_bytes=Random(2).randbytes,
                key=key(self.machine),
                store=self.disk,
                peers=self.peers,
                trusted=self.rights,
                executor=self.executor,
                workspace=self.workspace,
                admit=self.admit,
                give_back=self.taken.discard,
            ),
            lambda place: self.placer,
        )

    def admit(self, peer: PeerID, submission: Submission) -> Refused | dict[str, str]:
        self.taken.add(submission.task)
        return {}

    def wait(self, work: Coroutine[Any, Any, T]) -> Deferred[T]:
        working = Deferred.fromCoroutine(work)
        # Replicas write at the end of the turn.
        self.clock.advance(0)
        return working

    def answer(self, machine: str, request: Request) -> Deferred[Answer]:
        """What a member is answered, perhaps later."""
        answering = self.service.answer(peer(machine), request)
        self.clock.advance(0)
        return answering

    def ask(self, machine: str, request: Request) -> Answer:
        """What a member is answered; it could be sent."""
        answer = self.successResultOf(self.answer(machine, request))
        codec = TaskCodec()
        [(_, read)] = codec.read_answers(codec.join([(0, codec.encode(answer))]))
        self.assertEqual(read, answer)
        return answer

    def accept(
        self, made: TaskRecord, ballot: Ballot = RESERVED, by: str = "walnut", task: str = ""
    ) -> Answer:
        """A replica proposes a record."""
        then = Ballot(ballot.counter + 1, ballot.place)
        value = encode_record(made.signed, made.state)
        return self.ask(by, Register(task or made.task, Accept(ballot, value, then)))

    def keep(self, state: TaskState | None = None, number: int = 1) -> TaskRecord:
        """A task that is kept here."""
        made = record(state or begin(), number)
        self.assertEqual(self.accept(made), Told(Accepted(RESERVED)))
        return made

    def failed(self, answer: Answer, words: str = "") -> None:
        assert isinstance(answer, Failed), answer
        self.assertIn(words, answer.reason)

    def state(self, task: str = TASK) -> TaskState:
        known = self.successResultOf(self.wait(self.service.here(task)))
        assert known is not None
        return known.state

    def replicas_agree(self, seconds: float = 0.0) -> None:
        """The other replicas accept, or promise, whatever they are asked."""
        for _ in range(20):
            for each in self.peers.take(Register):
                assert isinstance(each.request, Register)
                asked = each.request.request
                kept = self.disk.kept.get(each.request.task, Kept())
                if isinstance(asked, Accept):
                    each.answer.callback(Told(Accepted(asked.ballot)))
                else:
                    each.answer.callback(
                        Told(Promise(asked.ballot, kept.accepted, kept.value, asked.close))
                    )
            self.clock.advance(seconds / 20)


class StartTests(ServiceCase):
    """Before all that is on the disk was read."""

    def setUp(self) -> None:
        super().setUp()
        self.keep(begin(name("hazel"), name("walnut")))
        self.service.stop()
        self.loading: Deferred[dict[str, Kept]] = Deferred()
        self.patch(self.disk, "load", lambda: self.loading)
        self.service = self.make()
        self.starting = self.wait(self.service.start())
        self.assertNoResult(self.starting)

    def test_nothing_is_answered(self) -> None:
        """It does not know yet what it may say: not that a lease is over, nor that a token is."""
        close = Register(TASK, Prepare(Ballot(1, 2), close=1))
        for request in (close, Renew(((TASK, 1),)), Find(TASK), Settled(())):
            self.failed(self.ask("acacia", request), "starting")
        self.assertEqual(self.disk.kept[TASK].closed, 0)

    def test_then_it_is(self) -> None:
        """Then it grants what it had, and closes nothing before the grace is over."""
        self.loading.callback(dict(self.disk.kept))
        self.successResultOf(self.starting)
        self.assertEqual(self.ask("hazel", Renew(((TASK, 1),))), Granted((True,)))
        answer = self.ask("acacia", Register(TASK, Prepare(Ballot(1, 2), close=1)))
        self.assertNotIsInstance(answer, Failed)
        self.assertEqual(self.disk.kept[TASK].closed, 0)

    def test_driven(self) -> None:
        """What it has is driven."""
        self.loading.callback(dict(self.disk.kept))
        self.assertEqual(self.placer.given, {TASK: name("hazel")})
        self.assertEqual(len(self.service.driver), 1)


class RegisterTests(ServiceCase):
    """What replicas ask of the registers."""

    def test_kept(self) -> None:
        """What the origin has signed, and a replica proposes, is kept and driven."""
        made = self.keep()
        self.assertEqual(self.disk.kept[TASK].value, encode_record(made.signed, made.state))
        known = self.service.driver.known(TASK)
        assert known is not None
        self.assertEqual((known.state, known.ballot), (made.state, RESERVED))

    def test_next(self) -> None:
        """Each replica proposes with its own place."""
        made = self.keep()
        assigned = states.assign(made.state, 0, name("hazel"), name("acacia"))
        assert assigned is not None
        after = record(assigned)
        self.assertEqual(self.accept(after, Ballot(3, 2), "acacia"), Told(Accepted(Ballot(3, 2))))
        self.assertEqual(self.state().worker, name("hazel"))

    def refused(self, answer: Answer, words: str) -> None:
        self.failed(answer, words)
        self.assertEqual(self.disk.kept.get(TASK, EMPTY), EMPTY)
        self.assertEqual(len(self.service.driver), 0)

    def test_another_task(self) -> None:
        """The record of another task."""
        self.refused(self.accept(record(), task=task_id(2)), "another task")

    def test_not_a_replica(self) -> None:
        """A record that others have to keep."""
        made = record(replicas=("walnut", "acacia", "hazel"))
        self.refused(self.accept(made), "not this node's to keep")

    def test_another_place(self) -> None:
        """A ballot of another replica, of none, and of one who is no replica."""
        for ballot, machine in (
            (RESERVED, "acacia"),
            (Ballot(1, 2), "walnut"),
            (Ballot(1, 0), "hazel"),
            (Ballot(1, 3), "acacia"),
            (Ballot(1, 63), "walnut"),
        ):
            self.refused(self.accept(record(), ballot, machine), "another replica's")

    def test_forged(self) -> None:
        """A submission that its origin has not signed."""
        made = record()
        for signed in (
            sign(made.submission, key("acacia")),
            SignedSubmission(made.signed.data, bytes(64)),
            SignedSubmission(made.signed.data, b""),
            SignedSubmission(record(number=2).signed.data, made.signed.signature),
        ):
            wrong = msgspec.structs.replace(made, signed=signed)
            task = TASK if signed.data == made.signed.data else task_id(2)
            self.refused(self.accept(wrong, task=task), "not signed by its origin")

    def test_no_right(self) -> None:
        """A submission of a member whose role does not allow it."""
        self.rights.submitters.discard(peer("walnut"))
        self.refused(self.accept(record()), "may not submit")

    def test_garbage(self) -> None:
        """A value that is no record, and one whose submission is none."""
        for value in (b"", b"\xc1", msgspec.msgpack.encode([[b"x", b"y"], {}])):
            accept = Accept(RESERVED, value, Ballot(1, 0))
            self.refused(self.ask("walnut", Register(TASK, accept)), "")

    def test_old(self) -> None:
        """A task that may have been here, and was forgotten."""
        self.wall_time += KEEP
        self.refused(self.accept(record()), "forgotten")
        self.refused(self.ask("walnut", Register(TASK, Prepare(Ballot(1, 0)))), "forgotten")

    def test_old_and_here(self) -> None:
        """One that is here is changed, however old."""
        made = self.keep()
        self.wall_time += KEEP
        self.assertIsInstance(self.accept(made, Ballot(1, 0)), Told)

    def test_known_is_good(self) -> None:
        """A submission that was looked at is not looked at again, and no other is taken for it."""
        made = self.keep()
        self.patch(submissions, "verify", self.fail)
        self.assertIsInstance(self.accept(made, Ballot(1, 0)), Told)
        other = msgspec.structs.replace(made, signed=SignedSubmission(made.signed.data, bytes(64)))
        self.assertRaises(self.failureException, self.accept, other, Ballot(2, 0))

    def test_disk_is_full(self) -> None:
        """When the disk does not take it, nothing is said of it."""
        self.disk.slow = True
        value = encode_record(record().signed, begin())
        asked = self.answer("walnut", Register(TASK, Accept(RESERVED, value, Ballot(1, 0))))
        self.disk.break_down()
        self.failed(self.successResultOf(asked), "the disk is full")

    def test_conflict(self) -> None:
        """A ballot that is too small is told what is in its way."""
        made = self.keep()
        self.ask("acacia", Register(TASK, Prepare(Ballot(4, 2))))
        self.assertEqual(
            self.accept(made, Ballot(1, 0)), Told(Conflict(Ballot(1, 0), Ballot(4, 2)))
        )

    def test_other_replicas(self) -> None:
        """A register's replicas are not changed: who may submit could take over any task by a
        submission of its own with the same ID, and itself among the replicas."""
        made = self.keep()
        wanted = msgspec.structs.replace(
            submission(), origin=name("larch"), replicas=(name("larch"), name("ironwood"))
        )
        theirs = TaskRecord(sign(wanted, key("larch")), wanted, begin())
        self.accept(theirs, Ballot(9, 0), "larch")
        self.assertEqual(self.disk.kept[TASK].value, encode_record(made.signed, made.state))

    def test_prepare_by_a_stranger(self) -> None:
        """Who is no replica of a task is promised nothing: it could keep all replicas from
        changing it, with the greatest ballot that there is."""
        self.keep()
        for place in range(4):
            answer = self.ask("larch", Register(TASK, Prepare(Ballot(1 << 53, place))))
            self.failed(answer, "another replica's")
        self.assertEqual(self.disk.kept[TASK].promised, Ballot(1, 0))

    def test_close_by_a_stranger(self) -> None:
        """Nor does it close tokens that nobody has been given yet."""
        self.keep()
        self.ask("larch", Register(TASK, Prepare(Ballot(5, 0), close=1 << 53)))
        self.assertEqual(self.disk.kept[TASK].closed, 0)

    def test_close_on_its_way(self) -> None:
        """Nor does it keep the lease from its worker while the disk has not said so."""
        self.keep(begin(name("hazel"), name("walnut")))
        self.clock.advance(60.0)
        self.disk.slow = True
        for machine, ballot in (("larch", Ballot(5, 0)), ("acacia", Ballot(5, 0))):
            close = Register(TASK, Prepare(ballot, close=1))
            asked = self.answer(machine, close)
            self.assertEqual(self.ask("hazel", Renew(((TASK, 1),))), Granted((True,)))
            self.disk.finish()
            self.failed(self.successResultOf(asked), "another replica's")
        self.clock.advance(60.0)
        asked = self.answer("acacia", Register(TASK, Prepare(Ballot(5, 2), close=1)))
        self.assertEqual(self.ask("hazel", Renew(((TASK, 1),))), Granted((False,)))
        self.disk.finish()
        self.assertEqual(self.disk.kept[TASK].closed, 1)

    def test_prepare_of_another_place(self) -> None:
        """A replica prepares with its own place alone: two proposers with one ballot may decide
        two values."""
        self.keep()
        self.ask("acacia", Register(TASK, Prepare(Ballot(5, 0))))
        self.assertEqual(self.disk.kept[TASK].promised, Ballot(1, 0))

    def prepare(
        self, machine: str, ballot: Ballot, made: TaskRecord | None = None, task: str = TASK
    ) -> Answer:
        """A member prepares, and shows a record."""
        shown = b"" if made is None else encode_record(made.signed, made.state)
        return self.ask(machine, Register(task, Prepare(ballot), shown))

    def test_unknown(self) -> None:
        """Of a task that is not here nothing is promised to who shows no record of it."""
        for machine, place in (("acacia", 2), ("walnut", 0), ("larch", 0)):
            ballot = Ballot(3, place)
            self.assertEqual(self.prepare(machine, ballot), Told(Unknown(ballot)))
        self.assertEqual(self.disk.kept.get(TASK, EMPTY), EMPTY)

    def test_shown(self) -> None:
        """Who shows one is promised its ballot; the record is not kept by that."""
        promised = Told(Promise(Ballot(3, 2), None, b"", 0))
        self.assertEqual(self.prepare("acacia", Ballot(3, 2), record()), promised)
        self.assertEqual(self.disk.kept[TASK], Kept(Ballot(3, 2)))
        self.assertEqual(self.prepare("walnut", Ballot(9, 0)), Told(Unknown(Ballot(9, 0))))

    def test_shown_wrong(self) -> None:
        """Nothing is promised by a record that is not the asker's to show, or that is none."""
        made = record()
        forged = msgspec.structs.replace(made, signed=SignedSubmission(made.signed.data, b""))
        others = record(replicas=("walnut", "acacia", "hazel"))
        for machine, ballot, shown, words in (
            ("larch", Ballot(3, 0), made, "another replica's"),
            ("acacia", Ballot(3, 1), made, "another replica's"),
            ("acacia", Ballot(3, 2), forged, "not signed"),
            ("acacia", Ballot(3, 2), record(number=2), "another task"),
            ("acacia", Ballot(3, 1), others, "not this node's to keep"),
        ):
            self.refused(self.prepare(machine, ballot, shown), words)
        garbage = Register(TASK, Prepare(Ballot(3, 2)), b"\xc1")
        self.refused(self.ask("acacia", garbage), "cannot be read")
        self.rights.submitters -= {peer("walnut"), peer("acacia")}
        self.refused(self.prepare("acacia", Ballot(3, 2), made), "may not submit")

    def test_shown_by_who_may(self) -> None:
        """A record whose origin may not submit any more is taken from another replica that may: it
        could submit the same."""
        self.rights.submitters.discard(peer("walnut"))
        promised = Told(Promise(Ballot(3, 2), None, b"", 0))
        self.assertEqual(self.prepare("acacia", Ballot(3, 2), record()), promised)

    def test_own(self) -> None:
        """This node shows itself nothing."""
        told = self.prepare("ironwood", Ballot(3, 1))
        self.assertEqual(told, Told(Promise(Ballot(3, 1), None, b"", 0)))

    def test_same_write(self) -> None:
        """A record that waits for the disk when somebody asks is what the asker is judged by."""
        made = self.keep(number=2)
        self.disk.slow = True
        self.answer("walnut", Register(made.task, Prepare(Ballot(3, 0))))
        value = encode_record(record().signed, begin())
        accept = Register(TASK, Accept(RESERVED, value, Ballot(1, 0)))
        first = self.answer("walnut", accept)
        wanted = msgspec.structs.replace(
            submission(), origin=name("larch"), replicas=(name("larch"), name("ironwood"))
        )
        theirs = encode_record(sign(wanted, key("larch")), begin())
        prepare = Register(TASK, Prepare(Ballot(9, 0), close=1), theirs)
        second = self.answer("larch", prepare)
        self.assertNoResult(second)
        self.disk.finish()
        self.assertEqual([len(batch) for batch, _ in self.disk.writes], [2])
        self.disk.finish()
        self.assertEqual(self.successResultOf(first), Told(Accepted(RESERVED)))
        self.failed(self.successResultOf(second), "another replica's")
        self.assertEqual(self.disk.kept[TASK], Kept(Ballot(1, 0), RESERVED, value))


class LeaseTests(ServiceCase):
    """Leases, and what workers report."""

    def setUp(self) -> None:
        super().setUp()
        self.keep(begin(name("hazel"), name("walnut")))

    def test_renewed(self) -> None:
        """Each attempt has its own answer, in their order."""
        asked = Renew(((TASK, 1), (task_id(2), 1), (TASK, 2), (TASK, 0)))
        self.assertEqual(self.ask("hazel", asked), Granted((True, False, False, False)))
        self.assertEqual(self.ask("hazel", Renew(())), Granted(()))

    def test_renewed_while_written(self) -> None:
        """Before a record is on the disk its worker is not answered."""
        other = task_id(7)
        self.disk.slow = True
        made = record(begin(name("hazel"), name("walnut")), 7)
        value = encode_record(made.signed, made.state)
        accept = Accept(RESERVED, value, Ballot(1, 0))
        self.answer("walnut", Register(other, accept))
        renewing = self.answer("hazel", Renew(((other, 1),)))
        self.assertNoResult(renewing)
        self.disk.finish()
        self.assertEqual(self.successResultOf(renewing), Granted((True,)))

    def test_renewed_by_another(self) -> None:
        """A lease is its worker's."""
        for machine in ("walnut", "acacia", "larch"):
            self.assertEqual(self.ask(machine, Renew(((TASK, 1),))), Granted((False,)))

    def report(self, machine: str, report: Report) -> Answer:
        report = msgspec.structs.replace(report, submission=digest(record().signed))
        asked = self.answer(machine, report)
        self.replicas_agree(1.0)
        return self.successResultOf(asked)

    def test_reported(self) -> None:
        """A result is recorded when its worker tells it, and told to observers."""
        told: list[tuple[State, bool]] = []
        self.service.on_change(lambda made, settled: told.append((made.state.state, settled)))
        self.assertEqual(self.report("hazel", Report(TASK, 1, End.DONE, 0)), Done())
        self.assertEqual((self.state().outcome, self.state().by), (Outcome.DONE, name("hazel")))
        self.assertEqual(told[-1], (State.ENDED, True))

    def test_reported_by_another(self) -> None:
        """Another's word changes nothing, whatever it says."""
        for end in (End.DONE, End.FAILED, End.CANCELLED, End.LOST, End.REFUSED):
            self.ask("hazel", Renew(((TASK, 1),)))
            self.assertEqual(self.report("larch", Report(TASK, 1, end, None)), Done())
            self.assertEqual((self.state().state, self.state().attempts), (State.ASSIGNED, ()))

    def test_another_task(self) -> None:
        """The worker has run another task with this ID, that somebody else has submitted."""
        theirs = record(begin(), replicas=("larch", "ironwood")).signed
        for told in (digest(theirs), digest(SignedSubmission(theirs.data, b"")), b""):
            report = Report(TASK, 1, End.DONE, 0, submission=told)
            asked = self.answer("hazel", report)
            self.failed(self.successResultOf(asked), "another task")
        self.assertEqual(self.state().state, State.ASSIGNED)

    def test_another_token(self) -> None:
        """So does the word of another attempt."""
        self.assertEqual(self.report("hazel", Report(TASK, 2, End.DONE, 0)), Done())
        self.assertEqual(self.state().state, State.ASSIGNED)

    def test_not_here(self) -> None:
        """Of a task that is not kept here nothing is recorded: the worker has to go on asking."""
        self.failed(self.report("hazel", Report(task_id(2), 1, End.DONE, 0)), "not kept here")

    def test_no_majority(self) -> None:
        """What may not be recorded is not said to be."""
        report = Report(TASK, 1, End.DONE, 0, submission=digest(record().signed))
        asked = self.answer("hazel", report)
        self.clock.pump([0.5] * 30)
        self.failed(self.successResultOf(asked), "no majority")

    def test_settled(self) -> None:
        """A replica says that an end is decided, which this one has accepted."""
        ended = record(done(begin(name("hazel"), name("walnut"))))
        self.accept(ended, Ballot(1, 0))
        self.assertEqual(len(self.service.driver), 1)
        self.assertEqual(self.ask("walnut", Settled(((TASK, Ballot(1, 0)),))), Done())
        self.assertEqual(len(self.service.driver), 0)

    def test_settled_by_a_stranger(self) -> None:
        """Who is no replica does not know: an end that is not decided would be taken for one."""
        ended = record(done(begin(name("hazel"), name("walnut"))))
        self.accept(ended, Ballot(1, 0))
        self.ask("larch", Settled(((TASK, Ballot(1, 0)),)))
        self.assertEqual(len(self.service.driver), 1)

    def test_settled_by_both(self) -> None:
        """What a member says of a task that it does not keep spoils nothing of one that it does."""
        ended = record(done(begin(name("hazel"), name("walnut"))))
        self.accept(ended, Ballot(1, 0))
        other = record(done(begin(name("hazel"))), 2, replicas=("acacia", "ironwood"))
        self.accept(other, by="acacia")
        self.ask("walnut", Settled(((task_id(2), RESERVED), (TASK, Ballot(1, 0)))))
        self.assertIsNone(self.service.driver.known(TASK))
        self.assertIsNotNone(self.service.driver.known(task_id(2)))


class OfferTests(ServiceCase):
    """Offers, and what is wrong with some."""

    machine = "hazel"

    def offer(self, machine: str = "walnut", made: TaskRecord | None = None) -> Answer:
        return self.ask(machine, Offer((made or record()).signed, 1))

    def test_taken(self) -> None:
        """A replica's offer of what the origin has signed is taken."""
        self.assertEqual(self.offer("acacia"), Taken())
        self.assertEqual((self.taken, self.service.worker.runs(TASK)), ({TASK}, 1))

    def test_not_a_replica(self) -> None:
        """Nobody else offers it."""
        self.failed(self.offer("larch"), "does not keep the task")
        self.assertEqual(self.taken, set())

    def test_forged(self) -> None:
        """Nor what its origin has not signed."""
        made = record()
        wrong = msgspec.structs.replace(made, signed=sign(made.submission, key("acacia")))
        self.failed(self.offer("acacia", wrong), "not signed by its origin")
        self.failed(
            self.offer(made=msgspec.structs.replace(made, signed=SignedSubmission(b"x", b"")))
        )
        self.assertEqual(self.taken, set())

    def test_rights(self) -> None:
        """The origin may submit, and this node may run, or it is refused for good."""
        self.rights.submitters.discard(peer("walnut"))
        answer = self.offer()
        assert isinstance(answer, Refused)
        self.assertEqual((answer.for_good, "may not submit" in answer.reason), (True, True))
        self.rights.submitters.add(peer("walnut"))
        self.rights.workers.discard(peer("hazel"))
        answer = self.offer()
        assert isinstance(answer, Refused)
        self.assertEqual((answer.for_good, "role" in answer.reason), (True, True))
        self.assertEqual(self.taken, set())

    def test_long_refusal(self) -> None:
        """A refusal is cut where a message could not have it."""
        self.patch(self, "admit", lambda peer, submission: Refused("x" * 5000, for_good=True))
        self.service = self.make()
        self.successResultOf(self.wait(self.service.start()))
        answer = self.offer()
        assert isinstance(answer, Refused)
        self.assertEqual((len(answer.reason), answer.for_good), (MAX_REASON, True))

    def begin(self) -> None:
        """The task's attempt runs here."""
        self.offer()
        self.clock.advance(0)
        for each in self.peers.take(Renew):
            each.answer.callback(Granted((True,)))
        self.assertEqual([*self.executor.runs], [f"{TASK}.1"])

    def test_stopped(self) -> None:
        """A replica has recorded a cancel."""
        self.begin()
        self.assertEqual(self.ask("walnut", Stop(TASK, 1)), Done())
        self.assertEqual(len(self.executor.stopped), 1)
        self.assertEqual(self.ask("walnut", Stop(task_id(2), 1)), Done())

    def test_stopped_by_a_stranger(self) -> None:
        """Nobody else stops it: it would end as cancelled, by one who may not cancel anything."""
        self.begin()
        self.rights.submitters.discard(peer("larch"))
        self.failed(self.ask("larch", Stop(TASK, 1)), "does not keep the task")
        self.assertEqual(self.executor.stopped, [])


class ChangeTests(ServiceCase):
    """Members that want a task's end, or that it is begun anew."""

    def change(self, machine: str, request: Request) -> Answer:
        asked = self.answer(machine, request)
        self.replicas_agree(1.0)
        return self.successResultOf(asked)

    def test_cancelled(self) -> None:
        """Who may submit may cancel, and is told what became of it."""
        self.keep()
        answer = self.change("larch", Cancel(TASK))
        assert isinstance(answer, Found)
        self.assertEqual(self.state().outcome, Outcome.CANCELLED)

    def test_no_right(self) -> None:
        """Who may not submit changes nothing."""
        self.keep()
        self.rights.submitters.discard(peer("larch"))
        self.failed(self.change("larch", Cancel(TASK)), "role does not allow it")
        self.failed(self.change("larch", Retry(TASK, 0)), "role does not allow it")
        self.assertEqual(self.state().state, State.WAITING)

    def test_retried(self) -> None:
        """A task that has ended with that token is begun anew, once."""
        self.keep(done(begin(name("hazel"))))
        self.change("larch", Retry(TASK, 1))
        self.assertEqual((self.state().state, self.state().token), (State.WAITING, 1))
        self.change("larch", Cancel(TASK))
        self.change("larch", Retry(TASK, 0))
        self.assertEqual(self.state().outcome, Outcome.CANCELLED)

    def test_not_here(self) -> None:
        """A task that is not kept here is another's to change."""
        self.failed(self.change("larch", Cancel(TASK)), "not kept here")
        self.failed(self.change("larch", Retry(TASK, 0)), "not kept here")


class ListTests(ServiceCase):
    """What is here."""

    def test_find(self) -> None:
        """A record is told as it is; None where there is none."""
        self.assertEqual(self.ask("larch", Find(TASK)), Found(None))
        made = self.keep()
        self.assertEqual(
            self.ask("larch", Find(TASK)), Found(encode_record(made.signed, made.state))
        )

    def test_pages(self) -> None:
        """The newest first, so many, and from where the last page ended."""
        for number in range(1, 8):
            self.keep(number=number)
        tasks: list[str] = []
        before, pages = "", 0
        while True:
            answer = self.ask("larch", Listing(before=before, most=3))
            assert isinstance(answer, Listed)
            pages += 1
            tasks += [msgspec.msgpack.decode(msgspec.msgpack.decode(each)[0][0])["task"]
                      for each in answer.records]  # fmt: skip
            if not answer.more:
                break
            before = tasks[-1]
        self.assertEqual(tasks, [task_id(number) for number in range(7, 0, -1)])
        self.assertEqual(pages, 3)
        answer = self.ask("larch", Listing(since=task_id(3), before=task_id(6)))
        assert isinstance(answer, Listed)
        self.assertEqual((len(answer.records), answer.more), (3, False))
        self.assertEqual(self.ask("larch", Listing(before=task_id(1))), Listed(()))

    def damage(self, *numbers: int) -> None:
        """Records cannot be read any more."""
        for number in numbers:
            kept = self.disk.kept[task_id(number)]
            self.disk.kept[task_id(number)] = msgspec.structs.replace(kept, value=b"\xc1")

    def listed(self, **fields: Any) -> Listed:
        answer = self.ask("larch", Listing(**fields))
        assert isinstance(answer, Listed)
        return answer

    def test_unreadable(self) -> None:
        """A record that cannot be read hides no other, is named, and logged once."""
        values = [encode_record(self.keep(number=number).signed, begin()) for number in (1, 2, 3)]
        self.damage(2)
        with capturedLogs() as logs:
            for _ in range(2):
                answer = self.listed()
                self.assertEqual(answer.records, (values[2], values[0]))
                self.assertEqual((answer.unreadable, answer.more), ((task_id(2),), False))
        [line] = [each for each in logs if each.get("task") == task_id(2)]
        self.assertIn("cannot be read", formatEvent(line))

    def test_unreadable_pages(self) -> None:
        """Nor does one keep anybody from the pages behind it."""
        for number in range(1, 8):
            self.keep(number=number)
        self.damage(7, 6, 5, 3, 1)
        first = self.listed(most=2)
        self.assertEqual([decode_record(each).task for each in first.records], [task_id(4)])
        self.assertEqual(first.unreadable, tuple(task_id(number) for number in (7, 6, 5)))
        self.assertTrue(first.more)
        last = self.listed(most=2, before=task_id(4))
        self.assertEqual([decode_record(each).task for each in last.records], [task_id(2)])
        self.assertEqual((last.unreadable, last.more), ((task_id(3),), True))
        last = self.listed(most=2, before=task_id(2))
        self.assertEqual(last, Listed((), False, (task_id(1),)))

    def test_long_pages(self) -> None:
        """A page is no longer than a message, and says that there is more."""
        for number in range(1, 12):
            made = record(number=number, env={"A": "x" * 120_000})
            self.accept(made)
        answer = self.ask("larch", Listing(most=500))
        assert isinstance(answer, Listed)
        self.assertEqual((len(answer.records), answer.more), (8, True))
        codec = TaskCodec()
        self.assertLess(len(codec.join([(1 << 40, codec.encode(answer))])), MAX_MESSAGE)


class OwnerCase(ServiceCase):
    """A node that keeps none of the tasks that its owner asks for."""

    machine = "hazel"

    def told(self, machine: str, answer: Answer) -> None:
        """A member answers what it was asked."""
        [asked] = [each for each in self.peers.asked if each.peer == peer(machine)]
        self.peers.asked.remove(asked)
        asked.answer.callback(answer)

    def found(self, state: TaskState, number: int = 1) -> Found:
        made = record(state, number)
        return Found(encode_record(made.signed, made.state))


class FindTests(OwnerCase):
    """Tasks of others."""

    def test_newest(self) -> None:
        """Of what members have, the newest is told."""
        finding = self.wait(self.service.find(TASK))
        self.assertEqual(len(self.peers.asked), 4)
        self.told("walnut", self.found(TaskState(version=3)))
        self.told("ironwood", self.found(TaskState(version=5)))
        self.told("acacia", Found(None))
        self.assertNoResult(finding)
        self.told("larch", self.found(TaskState(version=4)))
        self.assertEqual(self.successResultOf(finding).state.version, 5)

    def test_another_submission(self) -> None:
        """Nor is a submitter's own task with its ID, however new it says that it is."""
        theirs = record(TaskState(version=99), replicas=("larch", "acacia"))
        finding = self.wait(self.service.find(TASK))
        self.told("larch", Found(encode_record(theirs.signed, theirs.state)))
        self.told("acacia", Found(None))
        self.told("walnut", self.found(TaskState(version=1)))
        self.told("ironwood", self.found(TaskState(version=2)))
        found = self.successResultOf(finding)
        self.assertEqual((found.signed, found.state.version), (record().signed, 2))

    def test_unreadable_here(self) -> None:
        """What cannot be read here is found at others."""
        made = record(replicas=("walnut", "hazel", "acacia"))
        self.disk.kept[TASK] = Kept(Ballot(1, 0), RESERVED, b"\xc1")
        finding = self.wait(self.service.find(TASK))
        for machine in ("ironwood", "acacia", "larch"):
            self.told(machine, Found(None))
        self.told("walnut", Found(encode_record(made.signed, made.state)))
        self.assertEqual(self.successResultOf(finding).signed, made.signed)

    def test_some_fail(self) -> None:
        """Who fails, does not answer, or is lost, keeps nobody from finding it."""
        self.peers.gone.add(peer("larch"))
        finding = self.wait(self.service.find(TASK))
        self.told("walnut", Failed("the node is starting"))
        self.told("ironwood", self.found(begin()))
        self.clock.advance(ANSWER_SECONDS)
        self.assertEqual(self.successResultOf(finding).task, TASK)

    def test_nowhere(self) -> None:
        """A task that nobody has is none; nor is what is no ID, of which nobody is asked."""
        finding = self.wait(self.service.find(TASK))
        for machine in ("walnut", "ironwood", "acacia", "larch"):
            self.told(machine, Found(None))
        error = self.failureResultOf(finding, NoSuchTask)
        self.assertIn(TASK, str(error.value))
        self.failureResultOf(self.wait(self.service.find("nonsense")), NoSuchTask)
        self.assertEqual(self.peers.asked, [])

    def test_here(self) -> None:
        """What is kept here is told without asking anybody."""
        made = record(replicas=("walnut", "hazel", "acacia"))
        self.accept(made)
        self.assertEqual(self.successResultOf(self.wait(self.service.find(TASK))).task, TASK)
        self.assertEqual(self.peers.asked, [])

    def finds(self, wrong: Answer) -> Deferred[TaskRecord]:
        """One member has the task, and another one answers something wrong before it."""
        finding = self.wait(self.service.find(TASK))
        self.told("larch", wrong)
        for machine in ("acacia", "ironwood"):
            self.told(machine, Found(None))
        self.told("walnut", self.found(TaskState(version=1)))
        return finding

    def test_garbage(self) -> None:
        """A record that cannot be read, as of a newer version, keeps nobody from finding it."""
        found = self.successResultOf(self.finds(Found(b"\xc1")))
        self.assertEqual(found.state.version, 1)

    def test_another_task(self) -> None:
        """A record of another task is not taken for the one that was asked for: who cancels what
        was found would cancel that."""
        found = self.successResultOf(self.finds(self.found(TaskState(version=9), 2)))
        self.assertEqual(found.task, TASK)

    def test_forged(self) -> None:
        """Nor is one that its origin has not signed, or that is not the member's to keep."""
        made = record(TaskState(version=9))
        forged = SignedSubmission(made.signed.data, bytes(64))
        found = self.successResultOf(self.finds(Found(encode_record(forged, made.state))))
        self.assertEqual(found.state.version, 1)
        found = self.successResultOf(self.finds(self.found(TaskState(version=9))))
        self.assertEqual(found.state.version, 1)


class AtReplicasTests(OwnerCase):
    """Changes of tasks that others keep."""

    def test_no_right(self) -> None:
        """Whose role does not let them submit changes no task either, a replica of it or not: who
        uses a machine that only runs tasks is not to end those of others."""
        self.rights.submitters.discard(peer(self.machine))
        for made in (record(replicas=("walnut", self.machine, "larch")), record(number=2)):
            for changing in (self.service.cancel(made), self.service.retry(made)):
                failed = self.failureResultOf(self.wait(changing), SubmissionError)
                self.assertIn("bzzz admit", failed.getErrorMessage())
        self.assertEqual(self.peers.asked, [])

    def test_first(self) -> None:
        """The first replica that can makes it."""
        changing = self.wait(self.service.cancel(record()))
        self.assertEqual([each.request for each in self.peers.asked], [Cancel(TASK)])
        cancelled = states.cancel(begin())
        assert cancelled is not None
        self.told("walnut", self.found(cancelled))
        self.assertEqual(self.successResultOf(changing).state.outcome, Outcome.CANCELLED)

    def test_next(self) -> None:
        """One that cannot is followed by the next."""
        self.peers.gone.add(peer("walnut"))
        changing = self.wait(self.service.retry(record(done(begin(name("hazel"))))))
        self.told("ironwood", Failed("no majority"))
        [asked] = self.peers.asked
        self.assertEqual((asked.peer, asked.request), (peer("acacia"), Retry(TASK, 1)))
        self.told("acacia", self.found(TaskState(token=1, version=2)))
        self.assertEqual(self.successResultOf(changing).state.token, 1)

    def test_none(self) -> None:
        """When none can, each one's reason is told."""
        changing = self.wait(self.service.cancel(record()))
        self.told("walnut", Failed("the disk is full"))
        self.told("ironwood", Found(None))
        self.peers.lose("acacia")
        error = str(self.failureResultOf(changing, NoSuchTask).value)
        for words in ("the disk is full", "has no record", "the link was lost"):
            self.assertIn(words, error)

    def test_late(self) -> None:
        """A replica that does not answer is given up."""
        changing = self.wait(self.service.cancel(record()))
        self.clock.advance(ANSWER_SECONDS)
        [asked] = [each for each in self.peers.asked if each.peer == peer("ironwood")]
        asked.answer.callback(self.found(begin()))
        self.successResultOf(changing)

    def test_garbage(self) -> None:
        """One whose answer cannot be read is followed by the next."""
        changing = self.wait(self.service.cancel(record()))
        self.told("walnut", Found(b"\xc1"))
        self.told("ironwood", self.found(begin()))
        self.successResultOf(changing)

    def test_wrong(self) -> None:
        """So is one that tells of another task, or of what its origin has not signed."""
        changing = self.wait(self.service.cancel(record()))
        self.told("walnut", self.found(begin(), 2))
        forged = SignedSubmission(record().signed.data, bytes(64))
        self.told("ironwood", Found(encode_record(forged, begin())))
        self.peers.lose("acacia")
        error = str(self.failureResultOf(changing, NoSuchTask).value)
        for words in (task_id(2), "not signed by its origin", "the link was lost"):
            self.assertIn(words, error)


class SubmitTests(ServiceCase):
    """What the owner of a node submits."""

    machine = "walnut"

    def submit(self, worker: str = "") -> Deferred[TaskRecord]:
        wanted = msgspec.structs.replace(submission(), task=self.service.new_id())
        return self.wait(self.service.submit(wanted, worker))

    def test_submitted(self) -> None:
        """It is durable on two of three when it is told so; its ID is new, and says its time."""
        submitting = self.submit()
        self.assertNoResult(submitting)
        asked = self.peers.take(Register)
        self.assertEqual(len(asked), 1)
        asked[0].answer.callback(Told(Accepted(RESERVED)))
        made = self.successResultOf(submitting)
        self.clock.pump([REST] * 2 + [REST_DECIDED] * 2)
        asked += self.peers.take(Register)
        self.assertAlmostEqual(submitted_at(made.task), self.wall_time + 100.0)
        self.assertIn(made.task, self.disk.kept)
        replicas = made.submission.replicas
        self.assertEqual((replicas[0], made.submission.origin), (name("walnut"), name("walnut")))
        self.assertEqual({*replicas[1:]}, {str(each.peer) for each in asked})
        self.assertEqual(self.placer.waiting, [made.task])

    def test_given(self) -> None:
        """Where somebody fits it is offered to him, behind what the replicas are asked."""
        submitting = self.submit(name("larch"))
        self.assertEqual([type(each.request) for each in self.peers.asked], [Register, Offer])
        self.assertEqual(self.peers.sent, [2])
        [offer] = self.peers.take(Offer)
        self.peers.take(Register)[0].answer.callback(Told(Accepted(RESERVED)))
        made = self.successResultOf(submitting)
        self.assertEqual((offer.peer, offer.request), (peer("larch"), Offer(made.signed, 1)))

    def test_no_majority(self) -> None:
        """When the others do not answer, it is not known whether it was submitted."""
        submitting = self.submit(name("larch"))
        self.clock.pump([0.5] * int(2 * CREATE_SECONDS))
        self.failureResultOf(submitting, NoMajority)

    def test_no_right(self) -> None:
        """A node that may not submit keeps nothing."""
        self.rights.submitters.discard(peer("walnut"))
        self.failureResultOf(self.submit(), SubmissionError)
        self.assertEqual((self.disk.kept, self.peers.asked), ({}, []))

    def test_wrong(self) -> None:
        """Nor does one whose task cannot be."""
        wanted = msgspec.structs.replace(submission(), task=self.service.new_id(), lease=0.0)
        self.failureResultOf(self.wait(self.service.submit(wanted)), SubmissionError)
        self.assertEqual((self.disk.kept, self.peers.asked), ({}, []))

    def test_alone(self) -> None:
        """In clusters of one or two, it is kept here alone."""
        for members in (("walnut",), ("walnut", "larch")):
            self.rights.all = {peer(each) for each in members}
            made = self.successResultOf(self.submit())
            self.assertEqual(made.submission.replicas, (name("walnut"),))
        self.assertEqual(self.peers.take(Register), [])

    def test_linked_first(self) -> None:
        """Replicas are such as can be reached, if there are enough."""
        self.peers.members = {peer("acacia"), peer("larch")}
        for _ in range(5):
            self.submit()
            self.clock.pump([REST] * 2)
            asked = {each.peer for each in self.peers.take(Register)}
            self.assertEqual(asked, self.peers.members)

    def test_one_linked(self) -> None:
        """One is enough, and asked at once; the third is another member, for when it comes back."""
        self.peers.members = {peer("acacia")}
        self.submit()
        [asked] = self.peers.take(Register)
        self.assertEqual(asked.peer, peer("acacia"))
        self.clock.pump([REST] * 2)
        [third] = self.peers.take(Register)
        self.assertNotIn(third.peer, (peer("acacia"), peer("walnut")))

    def test_nobody_linked(self) -> None:
        """With nobody, nothing is submitted, and it is said what to look at."""
        self.peers.members = set()
        error = self.failureResultOf(self.submit(), SubmissionError)
        self.assertIn("bzzz peers", str(error.value))
        self.assertEqual(self.disk.kept, {})

    def test_watched(self) -> None:
        """Who watches a task is told of it, and of no other, until it does not want to be."""
        self.rights.all = {peer("walnut")}
        made = self.successResultOf(self.submit())
        told: list[State] = []
        other: list[State] = []
        end = self.service.watch(made.task, lambda made, settled: told.append(made.state.state))
        self.service.watch(task_id(9), lambda made, settled: other.append(made.state.state))
        cancelled = self.successResultOf(self.wait(self.service.cancel(made)))
        self.assertEqual(told[-1], State.ENDED)
        end()
        end()
        self.successResultOf(self.wait(self.service.retry(cancelled)))
        self.assertEqual((told[-1], other), (State.ENDED, []))

    def test_ends_in_a_watcher(self) -> None:
        """A watcher may end another's watch, and its own."""
        self.rights.all = {peer("walnut")}
        made = self.successResultOf(self.submit())
        ends: list[Any] = []
        told: list[int] = []

        def watcher(number: int) -> Any:
            def tell(made: TaskRecord, settled: bool) -> None:
                told.append(number)
                for end in ends:
                    end()

            return tell

        ends += [self.service.watch(made.task, watcher(number)) for number in range(2)]
        self.successResultOf(self.wait(self.service.cancel(made)))
        count = len(told)
        self.successResultOf(self.wait(self.service.retry(self.successResultOf(
            self.wait(self.service.find(made.task))))))  # fmt: skip
        self.assertEqual(len(told), count)

    def test_whole(self) -> None:
        """A node alone runs its own task, from the submission to the result."""
        self.rights.all = {peer("walnut")}
        made = self.successResultOf(self.submit(name("walnut")))
        self.clock.advance(0)
        key = f"{made.task}.1"
        self.assertEqual([*self.executor.runs], [key])
        self.clock.pump([0.1] * 100)
        self.assertGreater(self.executor.until(key), self.clock.seconds() + 1.0)
        self.executor.end(key, Over(Ending.EXITED, 0))
        self.clock.advance(0)
        state = self.state(made.task)
        self.assertEqual((state.outcome, state.by), (Outcome.DONE, name("walnut")))
        self.assertEqual((self.taken, len(self.service.worker)), (set(), 0))
        self.assertEqual(self.workspace.cleaned, [(made.task, 1)])

    def test_cancelled_whole(self) -> None:
        """And ends it when it is wanted."""
        self.rights.all = {peer("walnut")}
        made = self.successResultOf(self.submit(name("walnut")))
        self.clock.advance(0)
        self.successResultOf(self.wait(self.service.cancel(made)))
        self.clock.pump([0.1] * 5)
        self.assertEqual([each for each, _ in self.executor.stopped], [f"{made.task}.1"])
        self.executor.end(f"{made.task}.1", Over(Ending.STOPPED, 143))
        self.clock.advance(0)
        self.assertEqual(self.state(made.task).outcome, Outcome.CANCELLED)

    def test_stopped(self) -> None:
        """After the stop nothing is planned."""
        self.rights.all = {peer("walnut")}
        self.successResultOf(self.submit(name("walnut")))
        self.successResultOf(self.submit())
        self.clock.pump([0.1] * 20)
        self.service.stop()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_stopped_while_asking(self) -> None:
        """Nor while others are being asked, but for the time that their answers may take."""
        submitting = self.submit(name("larch"))
        self.clock.advance(0.1)
        self.service.stop()
        self.failureResultOf(submitting, NoMajority)
        self.clock.advance(ANSWER_SECONDS)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_links_lost_after_stop(self) -> None:
        """That time is over when the links are."""
        submitting = self.submit(name("larch"))
        self.clock.advance(0.1)
        self.service.stop()
        self.failureResultOf(submitting, NoMajority)
        self.peers.lose()
        self.assertEqual(self.clock.getDelayedCalls(), [])


class AnswerTests(ServiceCase):
    """Answers that do not come."""

    def test_late(self) -> None:
        """What is asked of a member fails after a while, not for ever."""
        asked = self.service.peers.ask(peer("walnut"), Find(TASK))
        self.clock.advance(ANSWER_SECONDS)
        self.failureResultOf(asked, AnswerLost)
        self.assertEqual(len(self.peers.take(Find)), 1)

    def test_own(self) -> None:
        """This node asks itself without a link."""
        asked = self.service.peers.ask(peer("ironwood"), Find(TASK))
        self.assertEqual(self.successResultOf(asked), Found(None))
        self.assertEqual(self.peers.asked, [])

    def test_mistake(self) -> None:
        """A mistake of ours is not hidden as an answer."""
        self.patch(self.disk, "read", lambda task: 1 // 0)
        asked = self.answer("walnut", Find(TASK))
        self.failureResultOf(asked, ZeroDivisionError)

    def test_long_reason(self) -> None:
        """A reason is cut where a message could not have it: the peer would take it for an
        offence."""
        self.patch(kept_records, "NoSuchTask", lambda words: NoSuchTask("x" * 5000))
        answer = self.ask("hazel", Report(TASK, 1, End.DONE, 0))
        assert isinstance(answer, Failed)
        self.assertEqual(len(answer.reason), MAX_REASON)
