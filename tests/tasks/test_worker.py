"""A worker: which attempts it begins, until when they run, and what it tells of their ends."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from bzzz.identity.peer_id import PeerID
from bzzz.net.calls import NotAsked
from bzzz.tasks import worker as worker_module
from bzzz.tasks.executors.interfaces import Ending, Over
from bzzz.tasks.messages import Answer, Done, Failed, Granted, Refused, Renew, Report, Taken
from bzzz.tasks.record import End
from bzzz.tasks.submission import Submission, digest, sign
from bzzz.tasks.worker import (
    ASK_AGAIN,
    MAX_REPORT_AGAIN,
    REPORT_AGAIN,
    STOP_GRACE,
    Worker,
)
from tests.tasks.fakes import (
    FakeExecutor,
    FakePeers,
    FakeWorkspace,
    key,
    peer,
    submission,
    task_id,
)

LEASE = 3.0
REPLICAS = ("walnut", "ironwood", "acacia")
RUN = f"{task_id()}.1"
EXITED = Over(Ending.EXITED, 0)


class WorkerCase(SynchronousTestCase):
    """A worker that is none of the replicas, whose test answers for them."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.advance(1000.0)
        self.peers = FakePeers(*REPLICAS)
        self.executor = FakeExecutor()
        self.workspace = FakeWorkspace()
        self.taken: list[str] = []
        self.refusal: Refused | None = None
        self.worker = Worker(
            self.clock,
            peer("hazel"),
            self.peers,
            self.executor,
            self.workspace,
            self.admit,
            self.taken.remove,
        )

    def admit(self, peer: PeerID, submission: Submission) -> Refused | dict[str, str]:
        if self.refusal is not None:
            return self.refusal
        self.taken.append(submission.task)
        return {"CUDA_VISIBLE_DEVICES": "0"}

    def offer(self, token: int = 1, number: int = 1, **fields: Any) -> Taken | Refused:
        wanted = submission(number, **fields)
        return self.worker.offer(peer("walnut"), sign(wanted, key("walnut")), wanted, token)

    def run_for(self, seconds: float) -> None:
        # Parts of which sums are exact.
        self.clock.pump([1 / 32] * math.ceil(seconds * 32))

    def grant(self, *machines: str, granted: bool = True) -> list[Renew]:
        """Answer the renewals that wait: of these machines, the others not."""
        self.clock.advance(0)
        asked = [each for machine in machines for each in self.peers.take(Renew, machine)]
        self.peers.take(Renew)
        renewals = []
        for each in asked:
            assert isinstance(each.request, Renew)
            renewals.append(each.request)
            each.answer.callback(Granted(tuple(granted for _ in each.request.attempts)))
        return renewals

    def begin(self, **fields: Any) -> None:
        """An attempt that runs."""
        self.assertEqual(self.offer(**fields), Taken())
        self.grant("walnut", "ironwood")
        self.assertEqual([*self.executor.runs], [RUN])

    def reports(self, machine: str = "") -> list[Report]:
        """What is reported; the questions wait."""
        return [
            each.request
            for each in self.peers.asked
            if isinstance(each.request, Report) and (not machine or each.peer == peer(machine))
        ]

    def done(self) -> None:
        """A replica has the report in the record."""
        [report] = self.peers.take(Report)
        report.answer.callback(Done())


class OfferTests(WorkerCase):
    """What is offered."""

    def test_begins(self) -> None:
        """An attempt is counted in, prepared, and begun when a majority has granted its lease."""
        self.assertEqual(self.offer(), Taken())
        self.assertEqual((self.taken, self.worker.runs(task_id())), ([task_id()], 1))
        self.assertEqual(
            self.workspace.env,
            {
                "CUDA_VISIBLE_DEVICES": "0",
                "BZZZ_TASK": task_id(),
                "BZZZ_FENCING_TOKEN": "1",
            },
        )
        self.grant("walnut")
        self.assertEqual(self.executor.started, [])
        self.run_for(ASK_AGAIN)
        self.grant("ironwood")
        self.assertEqual(self.executor.started, [RUN])
        # The one of them that granted first did so 0.1 s ago.
        self.assertAlmostEqual(self.executor.until(RUN), 1000.0 + LEASE)

    def test_nearest_first(self) -> None:
        """A worker that is a replica asks at first itself and who offered it, who are enough, and
        all when one of those does not grant it."""
        self.worker = Worker(
            self.clock,
            peer("ironwood"),
            self.peers,
            self.executor,
            self.workspace,
            self.admit,
            self.taken.remove,
        )
        self.offer()
        self.clock.advance(0)
        asked = self.peers.take(Renew)
        self.assertEqual({each.peer for each in asked}, {peer("walnut"), peer("ironwood")})
        asked[0].answer.callback(Granted((True,)))
        self.run_for(ASK_AGAIN)
        again = [each.peer for each in self.peers.take(Renew)]
        self.assertEqual(sorted(again), sorted(peer(each) for each in REPLICAS))

    def test_at_once(self) -> None:
        """Where nothing else is due, the lease is asked for in the call that takes the offer, of
        those who are asked to keep the record at once; they are told not to wait."""
        self.offer()
        asked = self.peers.take(Renew)
        self.assertEqual([each.peer for each in asked], [peer("walnut"), peer("ironwood")])
        self.assertEqual(self.peers.sent, [2])
        self.offer(number=2)
        self.offer(number=3)
        self.assertEqual(self.peers.take(Renew), [])
        self.clock.advance(0)
        self.assertEqual(len(self.peers.take(Renew)), 2)

    def test_nearest_is_gone(self) -> None:
        """In the place of one that cannot be asked, the others are at once, where all attempts of
        that one can be."""
        self.peers.gone = {peer("ironwood")}
        self.offer()
        asked = [each.peer for each in self.peers.asked]
        self.assertEqual(asked, [peer("walnut"), peer("acacia")])
        self.grant("walnut", "acacia")
        self.assertEqual(self.executor.started, [RUN])
        self.peers.gone.clear()
        for number in (2, 3):
            self.offer(number=number)
        self.clock.advance(0)
        self.peers.lose("ironwood")
        [renewal] = self.grant("acacia")
        self.assertEqual(renewal.attempts, ((task_id(2), 1), (task_id(3), 1)))

    def test_nearest_denies(self) -> None:
        """Likewise of one that denies it, or answers something else: its disk may be full. Those
        are asked once, and all after a while."""
        answers: list[Answer] = [Granted((False,)), Failed("why"), Granted(())]
        for number, answer in enumerate(answers, 1):
            self.offer(number=number)
            self.clock.advance(0)
            [asked] = self.peers.take(Renew, "ironwood")
            self.assertEqual(self.peers.take(Renew, "acacia"), [])
            self.peers.sent.clear()
            asked.answer.callback(answer)
            self.assertEqual(len(self.peers.sent), 1)
            [other] = self.peers.take(Renew, "acacia")
            self.assertEqual(other.request, asked.request)
            other.answer.callback(Granted((False,)))
            self.peers.lose("walnut")
            self.assertEqual(self.peers.asked, [])
            self.run_for(ASK_AGAIN)
            self.grant(*REPLICAS)
            self.assertEqual(len(self.executor.started), number)

    def test_nearest_denies_what_is_over(self) -> None:
        """Nobody is asked for what has ended meanwhile, nor after the stop."""
        self.offer()
        [asked] = self.peers.take(Renew, "ironwood")
        self.worker.stop_attempt(peer("walnut"), task_id(), 1)
        self.done()
        asked.answer.callback(Granted((False,)))
        self.assertEqual(self.peers.take(Renew, "acacia"), [])
        self.offer(number=2)
        [asked] = self.peers.take(Renew, "ironwood")
        self.worker.stop()
        self.peers.lose()
        self.assertEqual(self.peers.asked, [])

    def test_begins_beside_others(self) -> None:
        """What has no lease yet is asked for apart: an answer that has to wait for a disk is not
        to keep back the leases of what runs."""
        self.begin()
        self.run_for(1.0 - 1 / 32)
        self.peers.take(Renew)
        self.offer(number=2)
        self.run_for(1 / 16)
        asked = self.peers.take(Renew, "walnut")
        self.assertEqual(
            [each.request for each in asked],
            [Renew(((task_id(), 1),)), Renew(((task_id(2), 1),))],
        )

    def test_one_replica(self) -> None:
        """In a small cluster one replica is a majority."""
        self.offer(replicas=("walnut",))
        self.grant("walnut")
        self.assertEqual(self.executor.started, [RUN])

    def test_no_room(self) -> None:
        """What does not fit is refused, with its reason, and may come again later."""
        self.refusal = Refused("busy")
        self.assertEqual(self.offer(), self.refusal)
        self.assertEqual((len(self.worker), self.peers.asked), (0, []))
        self.refusal = None
        self.assertEqual(self.offer(token=2), Taken())

    def test_offered_twice(self) -> None:
        """A token is begun once, however often it is offered, also when it is over."""
        self.begin()
        self.assertEqual(self.offer(), Taken())
        self.executor.end(RUN, EXITED)
        self.done()
        self.assertEqual(len(self.worker), 0)
        self.assertEqual(self.offer(), Taken())
        self.run_for(1.0)
        self.assertEqual((self.executor.started, self.taken, self.peers.asked), ([RUN], [], []))

    def test_older_token(self) -> None:
        """What was given before is not begun after what was given later."""
        self.offer(token=5)
        self.assertEqual(self.offer(token=4), Taken())
        self.assertEqual(self.worker.runs(task_id()), 5)
        self.assertEqual(self.taken, [task_id()])

    def test_older_attempt_here(self) -> None:
        """The next attempt does not begin here while the one before has not been told of."""
        self.begin()
        answer = self.offer(token=2)
        assert isinstance(answer, Refused)
        self.assertIn("older attempt", answer.reason)
        self.executor.end(RUN, EXITED)
        self.assertIsInstance(self.offer(token=2), Refused)
        self.done()
        self.assertEqual(self.offer(token=2), Taken())
        self.assertEqual(self.taken, [task_id()])

    def test_another_task(self) -> None:
        """A task with the ID of one that was offered here, by another submitter, is not begun, and
        nobody is told that it was: neither while that one runs nor afterwards."""
        self.begin(replicas=("ironwood", "walnut", "larch"))
        for token in (1, 2):
            answer = self.offer(token=token)
            assert isinstance(answer, Refused)
            self.assertEqual((answer.for_good, "another task" in answer.reason), (True, True))
        self.executor.end(RUN, EXITED)
        self.done()
        self.assertIsInstance(self.offer(token=3), Refused)
        self.assertEqual(self.offer(token=3, replicas=("ironwood", "walnut", "larch")), Taken())

    def test_reported_as_offered(self) -> None:
        """A report says of which submission it is."""
        self.begin()
        self.executor.end(RUN, EXITED)
        [report] = self.reports()
        self.assertEqual(report.submission, digest(sign(submission(), key("walnut"))))

    def test_seen(self) -> None:
        """Tokens are remembered for so many tasks, those that were offered last."""
        self.patch(worker_module, "MAX_SEEN", 2)
        for number in (1, 2, 3):
            self.offer(number=number)
        self.assertEqual([*self.worker._seen], [task_id(2), task_id(3)])

    def test_prepared_late(self) -> None:
        """What takes long to prepare begins when it is there, as long as its lease is renewed."""
        self.workspace.slow = True
        self.offer()
        for _ in range(10):
            self.grant(*REPLICAS)
            self.run_for(1.0)
        self.grant(*REPLICAS)
        self.assertEqual(self.executor.started, [])
        self.workspace.go_on()
        self.assertEqual(self.executor.started, [RUN])
        self.assertGreater(self.executor.until(RUN), self.clock.seconds())

    def test_not_prepared(self) -> None:
        """What cannot be prepared has failed, with the reason."""
        self.workspace.error = "the chunk is nowhere"
        self.offer()
        self.assertEqual(
            [(each.end, each.reason) for each in self.reports()],
            [(End.FAILED, "the chunk is nowhere")],
        )
        self.assertEqual(self.taken, [])
        self.done()
        self.assertEqual(self.workspace.cleaned, [(task_id(), 1)])

    def test_flaw_in_preparing(self) -> None:
        """A mistake of ours ends the attempt, which would keep its lease for ever."""
        self.workspace.flaw = RecursionError("too deep")
        self.offer()
        [report] = self.reports()
        self.assertEqual(report.end, End.FAILED)
        self.assertIn("RecursionError('too deep')", report.reason)
        self.assertEqual(len(self.flushLoggedErrors(RecursionError)), 1)
        self.assertEqual(self.taken, [])

    def test_stopping(self) -> None:
        """A node that stops takes nothing."""
        self.worker.stop()
        self.assertEqual(self.offer(), Refused("the node stops"))


class LeaseTests(WorkerCase):
    """How long an attempt may run."""

    def test_not_begun_in_time(self) -> None:
        """An attempt whose lease nobody grants does not begin, and others may have it."""
        self.offer()
        self.run_for(LEASE - 0.1)
        self.assertEqual(self.reports(), [])
        # It was asked for all the time, as a replica may hear of the record later.
        self.assertGreater(len(self.peers.take(Renew)), 3 * 20)
        self.run_for(0.2)
        [report] = self.reports()
        self.assertEqual((report.end, self.taken), (End.LOST, []))
        # Now that it is lost its lease is not wanted any more.
        self.peers.take(Renew)
        self.run_for(10.0)
        self.assertEqual(self.peers.take(Renew), [])
        self.done()
        self.assertEqual((len(self.worker), self.executor.started), (0, []))

    def test_ends_while_prepared(self) -> None:
        """What is being prepared is lost when its lease ends that was renewed for a while."""
        self.workspace.slow = True
        self.offer()
        for _ in range(3):
            self.grant(*REPLICAS)
            self.run_for(1.0)
        until = self.worker._attempts[task_id()].lease.until
        self.assertGreaterEqual(until, 1001.5 + LEASE)
        self.run_for(until - self.clock.seconds() - 1 / 32)
        self.assertEqual(self.reports(), [])
        self.run_for(1 / 16)
        [report] = self.reports()
        self.assertEqual((report.end, self.taken), (End.LOST, []))
        self.workspace.go_on()
        self.assertEqual(self.executor.started, [])

    def test_denied_at_first(self) -> None:
        """Replicas that hear of the record a moment later do not keep it from its beginning."""
        self.offer()
        self.grant(*REPLICAS, granted=False)
        self.run_for(ASK_AGAIN)
        self.grant(*REPLICAS)
        self.assertEqual((self.executor.started, self.executor.stopped), ([RUN], []))

    def test_renewed(self) -> None:
        """It is renewed three times in each lease, and lasts from when it was asked for."""
        self.begin()
        asked = []
        for _ in range(100):
            self.run_for(0.1)
            if self.peers.take(Renew, "walnut"):
                asked.append(self.clock.seconds() - 1000.0)
                break
        self.assertLess(abs(asked[0] - LEASE / 3), 0.11)
        self.assertAlmostEqual(self.executor.until(RUN), 1000.0 + LEASE)

    def test_until_when_asked(self) -> None:
        """A grant counts from when it was asked for, not from when it came."""
        self.offer()
        self.clock.advance(0)
        waiting = self.peers.take(Renew)
        self.clock.advance(2.0)
        for each in waiting[:2]:
            each.answer.callback(Granted((True,)))
        self.assertAlmostEqual(self.executor.until(RUN), 1000.0 + LEASE)

    def test_granted_too_late(self) -> None:
        """A grant that comes when the lease that it grants is over begins nothing."""
        self.offer(lease=1.0)
        self.clock.advance(0)
        waiting = self.peers.take(Renew)
        for _ in range(8):
            self.run_for(0.1)
            self.peers.take(Renew)
        self.clock.advance(0.21)
        for each in waiting:
            each.answer.callback(Granted((True,)))
        self.assertEqual(self.executor.started, [])
        self.assertEqual(self.reports()[0].end, End.LOST)

    def test_minority(self) -> None:
        """One replica of three does not extend it."""
        self.begin()
        for _ in range(20):
            self.run_for(0.1)
            self.grant("ironwood")
        self.assertAlmostEqual(self.executor.until(RUN), 1000.0 + LEASE)

    def test_ends_while_running(self) -> None:
        """When it ends, the executor kills; it is told as lost, with what it was for."""
        self.begin()
        self.run_for(LEASE + 0.2)
        self.assertEqual((self.reports(), self.taken), ([], [task_id()]))
        self.executor.end(RUN, Over(Ending.LEASE_ENDED, None, "its lease ended"))
        [report] = self.reports()
        self.assertEqual((report.end, report.reason), (End.LOST, "its lease ended"))
        self.assertEqual(self.taken, [])

    def test_denied(self) -> None:
        """When a majority says that the token is not current it is killed at once."""
        self.begin()
        self.run_for(1.0)
        self.grant("walnut", granted=False)
        self.assertEqual(self.executor.stopped, [])
        self.run_for(1.0)
        self.grant("acacia", granted=False)
        self.assertEqual(self.executor.stopped, [(RUN, 0.0)])
        self.executor.end(RUN, Over(Ending.STOPPED))
        self.assertEqual(self.reports()[0].end, End.LOST)

    def test_denied_by_turns(self) -> None:
        """A replica that denied, and grants since, does not count."""
        self.begin()
        for machine, granted in (("walnut", False), ("walnut", True), ("acacia", False)) * 3:
            self.run_for(1.0)
            self.grant(machine, granted=granted)
            self.assertEqual(self.executor.stopped, [])
            if machine == "acacia":
                self.run_for(1.0)
                self.grant("acacia")

    def test_wrong_answers(self) -> None:
        """An answer of another kind, or of another length, grants nothing, and denies nothing."""
        self.offer()
        for answer in (Done(), Granted(()), Granted((True, True)), Failed("the node is starting")):
            self.clock.advance(0)
            for each in self.peers.take(Renew):
                each.answer.callback(answer)
            self.run_for(ASK_AGAIN)
        self.assertEqual(self.executor.started, [])
        self.grant(*REPLICAS)
        self.run_for(1.0)
        for each in self.peers.take(Renew):
            each.answer.callback(Failed("the node is starting"))
        self.assertEqual(self.executor.stopped, [])

    def test_one_message(self) -> None:
        """All attempts of one replica are renewed in one message, and each has its own answer."""
        self.offer(number=9)
        self.peers.take(Renew)
        for number in range(1, 6):
            self.offer(number=number)
        self.clock.advance(0)
        asked = self.peers.take(Renew)
        self.assertEqual(len(asked), 2)
        for each in asked:
            assert isinstance(each.request, Renew)
            self.assertEqual(each.request.attempts, tuple((task_id(n), 1) for n in range(1, 6)))
            each.answer.callback(Granted((True, False, True, True, False)))
        self.assertEqual(self.executor.started, [f"{task_id(n)}.1" for n in (1, 3, 4)])

    def test_together(self) -> None:
        """What was begun at several times is soon renewed together."""
        for number in range(1, 9):
            self.offer(number=number)
            self.grant(*REPLICAS)
            self.run_for(0.1)
        for _ in range(30):
            self.run_for(0.1)
            self.grant(*REPLICAS)
        self.run_for(0.05)
        self.peers.take(Renew)
        messages = 0
        for _ in range(60):
            self.run_for(0.05)
            messages += len(self.grant(*REPLICAS))
        # Three seconds: each replica three times, and not each of eight attempts.
        self.assertLessEqual(messages, 3 * 3 * 2)

    def test_parts(self) -> None:
        """A message has no more attempts than one may."""
        self.patch(worker_module, "MAX_RENEWED", 2)
        self.offer(number=9)
        self.peers.take(Renew)
        for number in range(1, 6):
            self.offer(number=number)
        self.clock.advance(0)
        sizes = [len(each.request.attempts) for each in self.peers.take(Renew, "walnut")]  # type: ignore[union-attr]  # renewals
        self.assertEqual(sizes, [2, 2, 1])

    def test_held_until_recorded(self) -> None:
        """The lease is kept from the end of the run until the result is recorded, so that nobody
        begins the next attempt between them."""
        self.begin()
        self.workspace.slow = True
        self.executor.end(RUN, EXITED)
        for _ in range(5):
            self.run_for(1.0)
            self.assertNotEqual(self.grant(*REPLICAS), [])
        self.workspace.go_on()
        for _ in range(5):
            self.run_for(1.0)
            self.assertNotEqual(self.grant(*REPLICAS), [])
        self.assertEqual(len(self.reports()), 1)
        self.done()
        self.run_for(10.0)
        self.assertEqual(self.peers.asked, [])


class EndTests(WorkerCase):
    """How attempts end, and to whom that is told."""

    def test_each_end(self) -> None:
        """What the executor says is told in the words of records."""
        for over, end in (
            (Over(Ending.EXITED, 0), End.DONE),
            (Over(Ending.EXITED, 3), End.FAILED),
            (Over(Ending.EXITED, 143), End.FAILED),
            (Over(Ending.TIMED_OUT, 137, "it took longer than 5 s"), End.TIMED_OUT),
            (Over(Ending.NOT_STARTED, 127, "no such command"), End.FAILED),
            (Over(Ending.OVER_LIMIT, 137, "it used more memory"), End.FAILED),
            (Over(Ending.STOPPED, 137, "the node stops"), End.LOST),
            (Over(Ending.LEASE_ENDED, None, "its lease ended"), End.LOST),
        ):
            with self.subTest(over=over):
                self.setUp()
                self.begin()
                self.executor.end(RUN, over)
                [report] = self.reports()
                self.assertEqual((report.end, report.reason), (end, over.reason))
                if end is not End.LOST:
                    self.assertEqual(report.exit_status, over.exit_status)
                    self.assertEqual(report.produced, self.workspace.produced)
                self.assertEqual(self.taken, [])

    def test_not_collected(self) -> None:
        """A command whose files cannot be kept has failed; one that failed has its own reason."""
        self.begin()
        self.workspace.error = "the disk is full"
        self.executor.end(RUN, EXITED)
        [report] = self.reports()
        self.assertEqual((report.end, report.reason), (End.FAILED, "the disk is full"))
        self.setUp()
        self.begin()
        self.workspace.error = "the disk is full"
        self.executor.end(RUN, Over(Ending.EXITED, 3))
        [report] = self.reports()
        self.assertEqual((report.end, report.exit_status, report.reason), (End.FAILED, 3, ""))

    def test_flaw_in_collecting(self) -> None:
        """A mistake of ours ends the attempt; the end of a command that failed stays its own."""
        for status, reason in ((0, "a flaw of the node"), (3, "")):
            self.setUp()
            self.begin()
            self.workspace.flaw = OSError("unheard of")
            self.executor.end(RUN, Over(Ending.EXITED, status))
            [report] = self.reports()
            self.assertEqual((report.end, report.exit_status), (End.FAILED, status))
            self.assertEqual(report.reason[: len("a flaw of the node")], reason)
            self.assertEqual(len(self.flushLoggedErrors(OSError)), 1)

    def test_room_before_it_is_told(self) -> None:
        """What it took is free as soon as it has ended."""
        self.begin()
        self.workspace.slow = True
        self.executor.end(RUN, EXITED)
        self.assertEqual((self.taken, len(self.worker)), ([], 1))

    def test_next_replica(self) -> None:
        """It is told to one replica after the other, until one has recorded it."""
        self.begin()
        self.executor.end(RUN, EXITED)
        self.assertEqual([len(self.reports(each)) for each in REPLICAS], [1, 0, 0])
        self.peers.take(Report)[0].answer.callback(Failed("the disk is full"))
        self.assertEqual([len(self.reports(each)) for each in REPLICAS], [0, 1, 0])
        self.peers.lose("ironwood")
        self.assertEqual([len(self.reports(each)) for each in REPLICAS], [0, 0, 1])
        self.done()
        self.assertEqual((len(self.worker), self.workspace.cleaned), (0, [(task_id(), 1)]))
        self.run_for(20.0)
        self.assertEqual(self.peers.asked, [])

    def test_until_done(self) -> None:
        """When none has, it is told again, with longer pauses, for as long as it takes."""
        self.begin()
        for each in REPLICAS:
            self.peers.gone.add(peer(each))
        told: list[float] = []
        ask = self.peers.ask

        def asked(to: PeerID, request: Any) -> Any:
            if isinstance(request, Report) and to == peer("walnut"):
                told.append(self.clock.seconds())
            return ask(to, request)

        self.patch(self.peers, "ask", asked)
        self.executor.end(RUN, EXITED)
        self.run_for(60.0)
        pauses = [after - before for before, after in pairwise(told)]
        self.assertLess(abs(pauses[0] - REPORT_AGAIN), 0.06)
        self.assertGreater(pauses[3], 1.0)
        self.assertLess(max(pauses), MAX_REPORT_AGAIN + 0.1)
        self.peers.gone.discard(peer("ironwood"))
        self.run_for(MAX_REPORT_AGAIN)
        self.assertEqual(len(self.reports("ironwood")), 1)
        self.done()
        self.assertEqual(len(self.worker), 0)

    def test_recorded_by_nobody(self) -> None:
        """When all replicas have answered for long that they cannot record it, it is given up;
        not when one could not be asked meanwhile."""
        self.patch(worker_module, "GIVE_UP", 60.0)
        self.begin()
        self.executor.end(RUN, EXITED)

        def refuse(seconds: float, *machines: str) -> None:
            end = self.clock.seconds() + seconds
            while self.clock.seconds() < end:
                for each in self.peers.take(Report):
                    if each.peer in {peer(one) for one in machines}:
                        each.answer.callback(Failed("there is no such task"))
                    else:
                        each.answer.errback(NotAsked("gone"))
                self.clock.advance(0.25)

        refuse(100.0, "walnut", "acacia")
        refuse(40.0, *REPLICAS)
        refuse(20.0, "walnut", "ironwood")
        refuse(40.0, *REPLICAS)
        self.assertEqual(len(self.worker), 1)
        refuse(60.0, *REPLICAS)
        self.assertEqual((len(self.worker), self.reports()), (0, []))
        self.assertEqual(self.workspace.cleaned, [(task_id(), 1)])

    def test_never_kept(self) -> None:
        """What was lost without the word of any replica may be no task at all: it is told once."""
        for token, machines in enumerate((REPLICAS, ()), 1):
            self.offer(token=token)
            self.run_for(LEASE + 0.1)
            self.peers.take(Renew)
            self.assertEqual([each.token for each in self.reports()], [token])
            for machine in REPLICAS:
                [told] = self.peers.take(Report, machine)
                if machines:
                    told.answer.callback(Failed("there is no such task"))
                else:
                    told.answer.errback(NotAsked("gone"))
            self.run_for(60.0)
            self.assertEqual((len(self.worker), self.reports()), (0, []))

    def test_long_reason(self) -> None:
        """A reason is cut where it is longer than a message may have it."""
        self.begin()
        self.executor.end(RUN, Over(Ending.NOT_STARTED, 126, "x" * 5000))
        self.assertEqual(len(self.reports()[0].reason), 2000)


class CancelTests(WorkerCase):
    """An end that is wanted, in each phase."""

    def test_preparing(self) -> None:
        """It ends at once, and does not begin when it is prepared."""
        self.workspace.slow = True
        self.offer()
        self.grant(*REPLICAS)
        self.worker.stop_attempt(peer("walnut"), task_id(), 1)
        [report] = self.reports()
        self.assertEqual((report.end, self.taken), (End.CANCELLED, []))
        self.workspace.go_on()
        self.assertEqual(self.executor.started, [])
        self.done()
        self.assertEqual(len(self.worker), 0)
        self.assertEqual(self.workspace.cleaned, [(task_id(), 1)])

    def test_prepared_after_recorded(self) -> None:
        """What is unpacked when its end is recorded already goes, too."""
        self.workspace.slow = True
        self.offer()
        self.worker.stop_attempt(peer("walnut"), task_id(), 1)
        self.done()
        self.assertEqual(self.workspace.cleaned, [(task_id(), 1)])
        self.workspace.go_on()
        self.assertEqual(self.workspace.cleaned, [(task_id(), 1)] * 2)
        self.assertEqual(self.executor.started, [])

    def test_running(self) -> None:
        """Its processes have a while to end; it is told once, however often it is wanted."""
        self.begin()
        for _ in range(3):
            self.worker.stop_attempt(peer("walnut"), task_id(), 1)
        self.assertEqual(self.executor.stopped, [(RUN, STOP_GRACE)])
        self.executor.end(RUN, Over(Ending.STOPPED, 143))
        self.assertEqual(self.reports()[0].end, End.CANCELLED)
        self.assertEqual(self.reports()[0].produced, self.workspace.produced)

    def test_lease_ends_meanwhile(self) -> None:
        """Killed by its lease while it was to end, it is lost."""
        self.begin()
        self.worker.stop_attempt(peer("walnut"), task_id(), 1)
        self.executor.end(RUN, Over(Ending.LEASE_ENDED))
        self.assertEqual(self.reports()[0].end, End.LOST)

    def test_ended_by_itself(self) -> None:
        """What ended by itself before it was stopped has its own end."""
        self.begin()
        self.worker.stop_attempt(peer("walnut"), task_id(), 1)
        self.executor.end(RUN, EXITED)
        self.assertEqual(self.reports()[0].end, End.DONE)

    def test_collecting_and_reporting(self) -> None:
        """When it is over a cancel comes too late."""
        self.begin()
        self.workspace.slow = True
        self.executor.end(RUN, EXITED)
        self.worker.stop_attempt(peer("walnut"), task_id(), 1)
        self.workspace.go_on()
        self.worker.stop_attempt(peer("walnut"), task_id(), 1)
        self.assertEqual([each.end for each in self.reports()], [End.DONE])
        self.assertEqual(self.executor.stopped, [])

    def test_not_here(self) -> None:
        """Of another token, or another task, it ends nothing."""
        self.begin()
        self.worker.stop_attempt(peer("walnut"), task_id(), 2)
        self.worker.stop_attempt(peer("walnut"), task_id(), 0)
        self.worker.stop_attempt(peer("walnut"), task_id(2), 1)
        self.assertEqual((self.executor.stopped, self.reports()), ([], []))


class StopTests(WorkerCase):
    """The end of all of it."""

    def test_drain(self) -> None:
        """Fires when what is here has been told of; at once where nothing is."""
        self.successResultOf(self.worker.drain())
        self.begin()
        drained = [self.worker.drain(), self.worker.drain()]
        self.executor.end(RUN, EXITED)
        for each in drained:
            self.assertNoResult(each)
        self.done()
        for each in drained:
            self.successResultOf(each)

    def test_close(self) -> None:
        """What had not begun is told as lost, as is what the executor kills; nothing is taken."""
        self.begin()
        self.workspace.slow = True
        self.offer(number=2)
        self.worker.close()
        self.assertEqual(self.offer(number=3), Refused("the node stops"))
        drained = self.worker.drain()
        self.executor.end(RUN, Over(Ending.STOPPED, None, "the node ends"))
        self.workspace.go_on()
        self.assertEqual(
            [(each.task, each.end) for each in self.reports("walnut")],
            [(task_id(2), End.LOST), (task_id(), End.LOST)],
        )
        self.assertEqual(([*self.executor.started], self.taken), ([RUN], []))
        for each in self.peers.take(Report):
            self.assertNoResult(drained)
            each.answer.callback(Done())
        self.successResultOf(drained)

    def test_stop(self) -> None:
        """Nothing is planned any more, whatever phase attempts are in."""
        self.begin()
        self.workspace.slow = True
        self.offer(number=2)
        self.offer(number=3)
        self.worker.stop_attempt(peer("walnut"), task_id(3), 1)
        for each in self.peers.take(Report):
            for _ in REPLICAS:
                each.answer.callback(Failed("the disk is full"))
                break
        self.peers.gone |= {peer(each) for each in REPLICAS}
        self.peers.lose()
        self.assertGreaterEqual(len(self.clock.getDelayedCalls()), 3)
        self.worker.stop()
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertEqual([*self.executor.runs], [RUN])

    def test_prepared_after_stop(self) -> None:
        """What is prepared then does not begin."""
        self.workspace.slow = True
        self.offer()
        self.grant(*REPLICAS)
        self.worker.stop()
        self.workspace.go_on()
        self.assertEqual((self.executor.started, self.clock.getDelayedCalls()), ([], []))

    def test_granted_after_stop(self) -> None:
        """A lease that is granted then is not extended, and nothing is planned."""
        self.begin()
        self.run_for(1.0)
        waiting = self.peers.take(Renew)
        self.worker.stop()
        for each in waiting:
            each.answer.callback(Granted((True,)))
        self.assertAlmostEqual(self.executor.until(RUN), 1000.0 + LEASE)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_reporting_while_stopped(self) -> None:
        """A report that nobody takes is not sent again."""
        self.begin()
        self.executor.end(RUN, EXITED)
        self.worker.stop()
        self.peers.gone |= {peer("ironwood"), peer("acacia")}
        self.peers.lose("walnut")
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_over_after_stop(self) -> None:
        """What ends then, as the executor closes, is told to nobody."""
        self.begin()
        self.worker.stop()
        self.executor.end(RUN, Over(Ending.STOPPED))
        self.assertEqual((self.reports(), self.clock.getDelayedCalls()), ([], []))


class HostileTests(WorkerCase):
    """Offers that are not what they should be."""

    def test_replica_is_no_peer(self) -> None:
        """A submission that names a replica that is none takes nothing of the machine."""
        wanted = submission()
        wrong = Submission(
            task=wanted.task,
            origin=wanted.origin,
            replicas=(wanted.origin, "nobody"),
            command=("make",),
        )
        try:
            self.worker.offer(peer("walnut"), sign(wrong, key("walnut")), wrong, 1)
        except Exception as error:  # noqa: BLE001 - whatever it is
            self.assertNotEqual(str(error), "")
        self.assertEqual((self.taken, len(self.worker)), ([], 0))
