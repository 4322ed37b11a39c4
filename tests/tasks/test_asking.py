"""Three replicas and two others that ask each other about registers."""

from __future__ import annotations

from collections.abc import Collection, Coroutine
from random import Random
from typing import Any, TypeVar

import msgspec
from twisted.internet.defer import Deferred, fail
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from bzzz.errors import RemoteProtocolError
from bzzz.identity.peer_id import PeerID
from bzzz.net.calls import NotAsked
from bzzz.tasks import record as states
from bzzz.tasks.ballots import RESERVED, Accept, Accepted, Ballot, Prepare
from bzzz.tasks.messages import Answer, Cancel, Failed, Register, Request, Settled, TaskCodec, Told
from bzzz.tasks.record import End, Outcome, Policy, Produced, State, TaskState, begin
from bzzz.tasks.registers import NoMajority
from bzzz.tasks.service import TaskService
from bzzz.tasks.submission import SignedSubmission, sign, submitted_at
from bzzz.tasks.value import TaskRecord, decode_record, encode_record
from bzzz.tasks.workflows.plan import Step, Workflow, encode
from bzzz.tasks.workflows.record import WorkflowRecord, step_id
from bzzz.tasks.workflows.values import Work
from bzzz.tasks.world import TaskWorld
from tests.tasks.disks import Disk
from tests.tasks.fakes import (
    FakeExecutor,
    FakePlacer,
    FakeWorkspace,
    key,
    name,
    peer,
    record,
    submission,
    task_id,
)

MEMBERS = ("walnut", "ironwood", "acacia", "hazel", "larch")
TASK = task_id()
T = TypeVar("T")


class Everybody:
    """Implements :class:`bzzz.tasks.world.Trusted`."""

    def __init__(self) -> None:
        self.submitters = {peer(each) for each in MEMBERS}

    def members(self) -> Collection[PeerID]:
        return [peer(each) for each in MEMBERS]

    def may_submit(self, peer: PeerID) -> bool:
        return peer in self.submitters

    def may_run(self, peer: PeerID) -> bool:
        return True


class Links:
    """Implements :class:`bzzz.tasks.interfaces.Peers` for one node of several."""

    def __init__(self, case: MeshCase, machine: str) -> None:
        self._case = case
        self._machine = machine

    def linked(self) -> Collection[PeerID]:
        gone = self._case.gone
        if self._machine in gone:
            return []
        return [peer(each) for each in MEMBERS if each not in (self._machine, *gone)]

    def ask(self, peer: PeerID, request: Request) -> Deferred[Answer]:
        return self._case.ask(self._machine, peer, request)

    def send_now(self) -> None:
        """It was heard at once."""


class MeshCase(SynchronousTestCase):
    """Nodes that hear each other at once.

    :ivar gone: who cannot be asked.
    :ivar asked: who was asked for what about registers, and by whom.
    """

    def setUp(self) -> None:
        self.clock = Clock()
        self.gone: set[str] = set()
        self.asked: list[tuple[str, str, Register]] = []
        self.rights = Everybody()
        self.disks = {machine: Disk() for machine in MEMBERS}
        self.nodes = {machine: self.make(machine) for machine in MEMBERS}
        for service in self.nodes.values():
            self.successResultOf(self.wait(service.start()))
            self.addCleanup(service.stop)

    def make(self, machine: str) -> TaskService:
        world = TaskWorld(
            clock=self.clock,
            wall_time=lambda: submitted_at(TASK) + 60.0 + self.clock.seconds(),
            rng=Random(machine),
            random_bytes=Random(machine).randbytes,
            key=key(machine),
            store=self.disks[machine],
            peers=Links(self, machine),
            trusted=self.rights,
            executor=FakeExecutor(),
            workspace=FakeWorkspace(),
            admit=lambda peer, submission: {},
            give_back=lambda task: None,
        )
        return TaskService(world, lambda place: FakePlacer())

    def wait(self, work: Coroutine[Any, Any, T]) -> Deferred[T]:
        working = Deferred.fromCoroutine(work)
        # Replicas write at the end of the turn.
        self.clock.advance(0)
        return working

    def ask(self, source: str, target: PeerID, request: Request) -> Deferred[Answer]:
        [machine] = [each for each in MEMBERS if peer(each) == target]
        if machine in self.gone or source in self.gone:
            return fail(NotAsked("it is gone"))
        codec = TaskCodec()
        [(_, read)] = codec.read_requests(codec.join([(0, codec.encode(request))]))
        if isinstance(read, Register):
            self.asked.append((source, machine, read))
        return self.nodes[machine].answer(peer(source), read)

    def propose(self, source: str, machine: str, request: Prepare | Accept, made: TaskRecord,
                record: bytes = b"") -> Answer:  # fmt: skip
        """A node asks another one for something about a task."""
        register = Register(made.task, request, record)
        asking = self.ask(source, peer(machine), register)
        self.clock.advance(0)
        return self.successResultOf(asking)

    def run_for(self, seconds: float) -> None:
        for _ in range(int(seconds * 10)):
            self.clock.advance(0.1)

    def kept(self, machine: str, task: str = TASK) -> TaskRecord | None:
        """What a replica has."""
        kept = self.disks[machine].kept.get(task)
        return None if kept is None or kept.accepted is None else decode_record(kept.value)

    def signed(self, machine: str, task: str = TASK) -> SignedSubmission:
        """What was submitted, as a replica has it."""
        kept = self.kept(machine, task)
        assert kept is not None
        return kept.signed

    def create(
        self, made: TaskRecord, machine: str = "walnut", *, fresh: bool = True
    ) -> TaskRecord:
        """A node gives a task its first record."""
        creating = self.wait(self.nodes[machine].driver.create(made, 10.0, fresh=fresh))
        self.run_for(2.0)
        return self.successResultOf(creating)

    def workflow(self, submitter: str = "larch") -> tuple[WorkflowRecord, str]:
        """A workflow that its submitter and ironwood keep, and who else is to."""
        self.gone = {"walnut", "acacia", "hazel", "larch"} - {submitter}
        plan = encode(Workflow(steps=(Step(name="build", work=Work(command=("make",))),)))
        making = self.wait(self.nodes[submitter].submit_workflow(plan, "somebody"))
        self.run_for(30.0)
        made = self.successResultOf(making)
        [away] = [each for each in self.gone if name(each) in made.submission.replicas]
        return made, away

    def shown(self, task: str = TASK) -> list[tuple[str, str]]:
        """Who has shown whom a record."""
        return [
            (source, machine)
            for source, machine, each in self.asked
            if each.record and each.task == task
        ]


def value(made: TaskRecord) -> bytes:
    return encode_record(made.signed, made.state)


class UnknownTests(MeshCase):
    """Replicas that have nothing of a task."""

    def test_away(self) -> None:
        """A replica that was away has the record with the next change."""
        self.gone = {"acacia"}
        made = self.create(record())
        self.run_for(30.0)
        self.assertIsNone(self.kept("acacia"))
        self.gone = set()
        cancelled = self.successResultOf(self.wait(self.nodes["ironwood"].cancel(made)))
        self.assertTrue(cancelled.has_ended)
        for machine in ("walnut", "ironwood", "acacia"):
            kept = self.kept(machine)
            assert kept is not None
            self.assertEqual(kept.state.outcome, Outcome.CANCELLED)

    def test_needed(self) -> None:
        """It is shown the record, once, and counts for the majority in that change already."""
        self.gone = {"acacia"}
        made = self.create(record())
        self.run_for(30.0)
        self.gone = {"walnut"}
        self.asked.clear()
        cancelled = self.successResultOf(self.wait(self.nodes["ironwood"].cancel(made)))
        self.assertTrue(cancelled.has_ended)
        self.assertEqual(self.shown(), [("ironwood", "acacia")])
        kept = self.kept("acacia")
        assert kept is not None
        self.assertEqual(kept.state, cancelled.state)

    def test_no_right_any_more(self) -> None:
        """It takes no record whose origin may not submit from one that may not either; those that
        have it go on."""
        self.gone = {"acacia"}
        made = self.create(record())
        self.run_for(30.0)
        self.gone = set()
        self.rights.submitters -= {peer("walnut"), peer("ironwood")}
        cancelling = self.wait(self.nodes["ironwood"].driver.cancel(made))
        self.run_for(2.0)
        self.assertTrue(self.successResultOf(cancelling).has_ended)
        self.assertIsNone(self.kept("acacia"))

    def test_origin_revoked_at_once(self) -> None:
        """What was acknowledged a moment before its origin was revoked has a majority without it,
        although the third replica had not heard of it yet."""
        creating = self.wait(self.nodes["walnut"].driver.create(record(), 10.0))
        made = self.successResultOf(creating)
        self.assertIsNone(self.kept("acacia"))
        self.gone = {"walnut"}
        self.rights.submitters.discard(peer("walnut"))
        cancelling = self.wait(self.nodes["ironwood"].cancel(made))
        self.run_for(2.0)
        ended = self.successResultOf(cancelling)
        self.assertTrue(ended.has_ended)
        kept = self.kept("acacia")
        assert kept is not None
        self.assertEqual(kept.state, ended.state)

    def test_workflow_revoked_at_once(self) -> None:
        """The same of a workflow."""
        made, away = self.workflow()
        self.gone = {"larch"}
        self.rights.submitters.discard(peer("larch"))
        changing = self.wait(self.nodes["ironwood"].change_workflow(made, Cancel(made.workflow)))
        self.run_for(3.0)
        self.successResultOf(changing)
        self.assertIn(made.workflow, self.disks[away].kept)

    def test_nothing_is_shown_without_need(self) -> None:
        """Replicas that have the record are not shown it."""
        made = self.create(record())
        self.successResultOf(self.wait(self.nodes["acacia"].cancel(made)))
        self.assertEqual(self.shown(), [])

    def test_workflow(self) -> None:
        """The same of a workflow."""
        made, away = self.workflow()
        self.gone = {"larch"}
        self.asked.clear()
        asked = self.nodes["ironwood"].change_workflow(made, Cancel(made.workflow))
        changing = self.wait(asked)
        self.run_for(3.0)
        self.successResultOf(changing)
        # Once in each try.
        shown = set(self.shown(made.workflow))
        self.assertEqual(shown, {("ironwood", away)})
        self.assertIn(made.workflow, self.disks[away].kept)


class AnotherTaskTests(MeshCase):
    """A submitter that puts a task of its own in the place of another's, where nothing is yet."""

    def squat(self, *replicas: str, told: tuple[str, ...], **fields: Any) -> TaskRecord:
        """Larch's own task with the ID of walnut's; some of its replicas have heard of it."""
        wanted = msgspec.structs.replace(
            submission(**fields),
            origin=name("larch"),
            replicas=tuple(name(each) for each in replicas),
        )
        made = TaskRecord(sign(wanted, key("larch")), wanted, begin())
        for machine in told:
            accept = Accept(Ballot(50, 0), value(made), Ballot(51, 0))
            answer = self.propose("larch", machine, accept, made)
            self.assertEqual(answer, Told(Accepted(Ballot(50, 0))))
        return made

    def test_one(self) -> None:
        """One replica that has it is as one that is away."""
        theirs = self.squat("larch", "ironwood", "acacia", told=("acacia",))
        made = self.create(record())
        changing = self.wait(self.nodes["ironwood"].cancel(made))
        self.run_for(3.0)
        self.assertTrue(self.successResultOf(changing).has_ended)
        self.assertEqual(self.signed("walnut"), made.signed)
        self.assertEqual(self.signed("ironwood"), made.signed)
        self.assertEqual(self.signed("acacia"), theirs.signed)

    def test_its_value(self) -> None:
        """Its value is neither taken nor changed by who drives the other one, although it has a
        place in both."""
        self.squat("larch", "ironwood", "acacia", told=("acacia",))
        made = self.create(record())
        self.gone = {"walnut", "larch"}
        changing = self.wait(self.nodes["ironwood"].cancel(made))
        self.run_for(30.0)
        self.failureResultOf(changing, NoMajority)
        for machine in ("ironwood", "acacia"):
            kept = self.kept(machine)
            assert kept is not None
            self.assertEqual(kept.state.state, State.WAITING)
        self.gone = set()
        changing = self.wait(self.nodes["ironwood"].cancel(made))
        self.run_for(5.0)
        self.assertEqual(self.successResultOf(changing).signed, made.signed)

    def test_two(self) -> None:
        """With two replicas it keeps the other one from being made, and is not taken for it."""
        self.squat("larch", "ironwood", "acacia", told=("ironwood", "acacia"))
        creating = self.wait(self.nodes["walnut"].driver.create(record(), 10.0))
        self.run_for(15.0)
        self.failureResultOf(creating, NoMajority)

    def test_afterwards(self) -> None:
        """Where a record is, it stays, and its submitter can change nothing by showing its own."""
        made = self.create(record())
        theirs = self.squat("larch", "ironwood", "acacia", told=())
        before = [disk.kept.get(TASK) for disk in self.disks.values()]
        for machine in ("walnut", "ironwood", "acacia"):
            for request in (
                Prepare(Ballot(1 << 53, 0), close=1 << 53),
                Accept(Ballot(9, 0), value(theirs), Ballot(10, 0)),
                Accept(Ballot(9, 0), value(made), Ballot(10, 0)),
            ):
                shown = value(theirs) if isinstance(request, Prepare) else b""
                answer = self.propose("larch", machine, request, made, shown)
                self.assertIsInstance(answer, Failed)
        self.assertEqual(before, [disk.kept.get(TASK) for disk in self.disks.values()])

    def test_step(self) -> None:
        """A workflow takes no task for its step that none of its replicas has submitted, whatever
        that says of itself."""
        workflow = task_id(50)
        self.patch(self.nodes["walnut"], "new_id", lambda: workflow)
        task = step_id(workflow, 0, 0)
        wanted = msgspec.structs.replace(
            submission(replicas=("larch", "walnut", "ironwood"), workflow=workflow, step="build"),
            task=task,
        )
        ended = states.finish(
            begin(name("hazel")), Policy(), name("hazel"), 1, End.DONE, 0, "", Produced()
        )
        assert ended is not None
        theirs = TaskRecord(sign(wanted, key("larch")), wanted, ended)
        for machine in ("walnut", "ironwood"):
            self.propose("larch", machine, Accept(RESERVED, value(theirs), Ballot(1, 0)), theirs)
            settled = Settled(((task, RESERVED),))
            self.successResultOf(self.ask("larch", peer(machine), settled))
        # The third one is not larch.
        self.rights.submitters.discard(peer("larch"))
        made, _ = self.workflow("walnut")
        self.assertNotIn(name("larch"), made.submission.replicas)
        known = self.nodes["walnut"].workflows.known(workflow)
        assert known is not None
        self.assertEqual([each.task for each in known.progress.entries], [task])
        self.assertFalse(known.has_ended)
        self.assertEqual(self.signed("walnut", task), theirs.signed)


class StepTests(MeshCase):
    """One step of a workflow that two of its replicas submit."""

    def step(self, machine: str, version: int = 0) -> TaskRecord:
        """The step's task, as one of them submits it."""
        wanted = msgspec.structs.replace(
            submission(workflow=task_id(50), step="build"), origin=name(machine)
        )
        return TaskRecord(sign(wanted, key(machine)), wanted, TaskState(version=version))

    def test_first_stays(self) -> None:
        """A submission that may have been decided is what the other driver gets, too."""
        first = self.create(self.step("walnut"), fresh=False)
        second = self.create(self.step("ironwood"), "ironwood", fresh=False)
        self.assertEqual(second.signed, first.signed)
        for machine in ("walnut", "ironwood", "acacia"):
            self.assertEqual(self.signed(machine), self.step("walnut").signed)

    def test_one_accepted(self) -> None:
        """What one replica has accepted stays where another one sees it."""
        first = self.step("walnut")
        accept = Accept(Ballot(1, 0), value(first), Ballot(2, 0))
        self.propose("walnut", "ironwood", accept, first)
        self.gone = {"walnut"}
        second = self.create(self.step("acacia"), "acacia", fresh=False)
        self.assertEqual(second.signed, first.signed)

    def test_one_accepted_unseen(self) -> None:
        """Where it is not seen the other one is decided, and that replica takes it, too."""
        first = self.step("walnut")
        accept = Accept(Ballot(1, 0), value(first), Ballot(2, 0))
        self.propose("walnut", "walnut", accept, first)
        self.gone = {"walnut"}
        second = self.create(self.step("acacia"), "acacia", fresh=False)
        self.assertEqual(second.signed, self.step("acacia").signed)
        self.assertEqual(self.signed("walnut"), first.signed)
        self.gone = set()
        cancelling = self.wait(self.nodes["ironwood"].cancel(second))
        self.run_for(3.0)
        self.assertTrue(self.successResultOf(cancelling).has_ended)
        self.assertEqual(self.signed("walnut"), second.signed)

    def test_forged(self) -> None:
        """A submission of the same step that its origin has not signed, or who may not submit any
        more, is not taken from a replica that tells it."""
        mine, theirs = value(self.step("walnut")), self.step("acacia")
        checks = self.nodes["walnut"]._checks
        forged = SignedSubmission(theirs.signed.data, bytes(64))
        self.assertRaises(
            RemoteProtocolError, checks.check_promised, TASK, mine, encode_record(forged, begin())
        )
        self.rights.submitters.discard(peer("acacia"))
        self.assertRaises(RemoteProtocolError, checks.check_promised, TASK, mine, value(theirs))
        self.rights.submitters.add(peer("acacia"))
        checks.check_promised(TASK, mine, value(theirs))
