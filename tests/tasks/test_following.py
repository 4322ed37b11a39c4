"""Following a task: its records as they change, what its attempts print, and its end."""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec
from twisted.internet.defer import CancelledError, Deferred

from bzzz.errors import StreamReset
from bzzz.identity.peer_id import PeerID
from bzzz.net.calls import AnswerLost
from bzzz.tasks import record as states
from bzzz.tasks.ballots import Ballot
from bzzz.tasks.finding import NoSuchTask
from bzzz.tasks.following import (
    BEGIN_OUTPUT,
    LAST_OUTPUT,
    POLL,
    SILENCE,
    TRY_AGAIN,
    Following,
)
from bzzz.tasks.messages import Find, Found
from bzzz.tasks.output import NoOutput, Sink
from bzzz.tasks.record import End, Policy, Produced, TaskState, begin
from bzzz.tasks.value import TaskRecord, encode_record
from tests.tasks.fakes import name, peer, record
from tests.tasks.test_service import ServiceCase


class Got(NamedTuple):
    """Output that was asked for."""

    peer: PeerID
    token: int
    offsets: tuple[int, int]
    follow: bool
    sink: Sink
    ended: Deferred[None]


class Outputs:
    """In the place of :class:`bzzz.tasks.output_streams.OutputStreams`."""

    def __init__(self) -> None:
        self.asked: list[Got] = []
        self.cancelled: list[Deferred[None]] = []

    def get(
        self,
        peer: PeerID,
        task: str,
        token: int,
        offsets: tuple[int, int],
        follow: bool,
        sink: Sink,
    ) -> Deferred[None]:
        ended: Deferred[None] = Deferred(self.cancelled.append)
        self.asked.append(Got(peer, token, offsets, follow, sink, ended))
        return ended

    @property
    def last(self) -> Got:
        return self.asked[-1]


def finished(
    state: TaskState, end: End = End.DONE, retries: int = 0, produced: Produced | None = None
) -> TaskState:
    """The attempt is over, by its worker's word."""
    over = states.finish(
        state, Policy(retries), state.worker, state.token, end, 0, produced=produced
    )
    assert over is not None
    return over


def assigned(state: TaskState, worker: str = "hazel") -> TaskState:
    given = states.assign(state, state.token, name(worker), name("walnut"))
    assert given is not None
    return given


class FollowingCase(ServiceCase):
    """Somebody follows a task on one node."""

    def setUp(self) -> None:
        super().setUp()
        self.outputs: Any = Outputs()
        self.told: list[TaskRecord] = []
        self.printed: list[tuple[int, bytes]] = []
        self.counter = 0

    def sink(self, which: int, data: bytes) -> None:
        self.printed.append((which, data))

    def follow(self, followed: TaskRecord, sink: bool = True) -> Deferred[TaskRecord]:
        following = Following(
            self.clock,
            self.service,
            self.outputs,
            self.told.append,
            self.sink if sink else None,
        )
        return self.wait(following.follow(followed))

    def states(self) -> list[tuple[str, int]]:
        return [(each.state.state.value, each.state.token) for each in self.told]

    def run_for(self, seconds: float) -> None:
        for _ in range(round(seconds * 10)):
            self.clock.advance(0.1)


class KeptTests(FollowingCase):
    """A task that this node keeps."""

    def setUp(self) -> None:
        super().setUp()
        self.made = self.keep()
        self.state_now = self.made.state

    def changes(self, state: TaskState, settled: bool = False) -> None:
        """The record changes."""
        self.counter += 1
        version = self.state_now.version + 1
        self.state_now = msgspec.structs.replace(state, version=version)
        changed = record(self.state_now, ballot=Ballot(self.counter, 0))
        (self.service.driver.decided if settled else self.service.driver.learnt)(changed)

    def runs(self, worker: str = "hazel") -> None:
        """An attempt began, and it is some time since."""
        self.changes(assigned(self.state_now, worker))
        self.clock.advance(BEGIN_OUTPUT)

    def test_all(self) -> None:
        """Each record is told, each attempt's output is got from its worker, and the end is."""
        ended = self.follow(self.made)
        self.runs()
        self.assertEqual(
            self.outputs.last[:4], (peer("hazel"), 1, (0, 0), True), self.outputs.asked
        )
        self.outputs.last.sink(1, b"first")
        self.changes(finished(self.state_now, End.FAILED, retries=1))
        self.runs("larch")
        self.assertEqual(self.outputs.cancelled, [self.outputs.asked[0].ended])
        self.assertEqual(self.outputs.last[:4], (peer("larch"), 2, (0, 0), True))
        self.outputs.last.sink(2, b"second")
        self.changes(finished(self.state_now), settled=True)
        self.assertNoResult(ended)
        self.outputs.last.ended.callback(None)
        self.assertEqual(self.successResultOf(ended).state, self.state_now)
        self.assertEqual(
            self.states(),
            [("waiting", 0), ("assigned", 1), ("waiting", 1), ("assigned", 2), ("ended", 2)],
        )
        self.assertEqual(self.printed, [(1, b"first"), (2, b"second")])
        self.assertEqual(self.service.watched, 0)

    def test_not_settled(self) -> None:
        """An end that no replica says is decided is told, and is not the end of following."""
        ended = self.follow(self.made, sink=False)
        self.changes(assigned(self.state_now))
        self.changes(finished(self.state_now))
        self.assertNoResult(ended)
        told = [(self.made.task, Ballot(self.counter, 0))]
        self.service.driver.settled(peer("stranger"), told)
        self.assertNoResult(ended)
        self.service.driver.settled(peer("acacia"), told)
        self.successResultOf(ended)

    def test_broken_off(self) -> None:
        """Output that breaks off is asked for again in a moment, from where it broke off."""
        self.follow(self.made)
        self.runs()
        for out, err in ((2, 0), (5, 3)):
            self.outputs.last.sink(1, bytes(out - self.outputs.last.offsets[0]))
            if err:
                self.outputs.last.sink(2, bytes(err))
            self.outputs.last.ended.errback(StreamReset("the link was lost"))
            count = len(self.outputs.asked)
            self.clock.advance(TRY_AGAIN / 2)
            self.assertEqual(len(self.outputs.asked), count)
            self.clock.advance(TRY_AGAIN)
            self.assertEqual(len(self.outputs.asked), count + 1)
            self.assertEqual(self.outputs.last.offsets, (out, err))

    def test_rest(self) -> None:
        """What is missing at the end is taken from the record, if the record has all of it."""
        for produced, rest in (
            (Produced(b"one two", b"e", 7, 1), [(1, b" two"), (2, b"e")]),
            (Produced(b"two", b"", 8, 0), []),
            (Produced(b"one", b"", 3, 0), []),
        ):
            self.setUp()
            ended = self.follow(self.made)
            self.runs()
            self.outputs.last.sink(1, b"one")
            self.changes(finished(self.state_now, produced=produced), settled=True)
            if not rest and produced.stdout_size > 3:
                self.outputs.last.ended.errback(StreamReset("the worker is gone"))
            self.successResultOf(ended)
            self.assertEqual(self.printed, [(1, b"one"), *rest])

    def test_short(self) -> None:
        """What ends soon and prints little is asked for nothing: its record has it."""
        ended = self.follow(self.made)
        self.changes(assigned(self.state_now))
        self.clock.advance(BEGIN_OUTPUT / 2)
        self.changes(
            finished(self.state_now, produced=Produced(b"out", b"err", 3, 3)), settled=True
        )
        self.successResultOf(ended)
        self.clock.advance(BEGIN_OUTPUT)
        self.assertEqual(self.outputs.asked, [])
        self.assertEqual(self.printed, [(1, b"out"), (2, b"err")])

    def test_soon(self) -> None:
        """What ends soon and prints much is asked for it when it has ended, at its worker."""
        ended = self.follow(self.made)
        self.changes(assigned(self.state_now))
        self.changes(finished(self.state_now, produced=Produced(b"t", b"", 6, 0)), settled=True)
        self.assertEqual(self.outputs.last[:4], (peer("hazel"), 1, (0, 0), True))
        self.outputs.last.sink(1, b"output")
        self.outputs.last.ended.callback(None)
        self.successResultOf(ended)
        self.clock.advance(BEGIN_OUTPUT)
        self.assertEqual(len(self.outputs.asked), 1)
        self.assertEqual(self.printed, [(1, b"output")])

    def test_unheard_short(self) -> None:
        """So it is with an attempt that ended before anybody heard that it began."""
        ended = self.follow(self.made)
        over = finished(assigned(self.state_now), produced=Produced(b"out", b"", 3, 0))
        self.changes(over, settled=True)
        self.successResultOf(ended)
        self.assertEqual((self.outputs.asked, self.printed), ([], [(1, b"out")]))

    def test_asked_at_once(self) -> None:
        """With the end nobody waits for the next try."""
        ended = self.follow(self.made)
        self.runs()
        self.outputs.last.ended.errback(NoOutput("not yet"))
        self.changes(finished(self.state_now), settled=True)
        self.assertEqual(len(self.outputs.asked), 2)
        self.outputs.last.ended.callback(None)
        self.successResultOf(ended)

    def test_late_rest(self) -> None:
        """The rest is waited for some seconds, and no longer."""
        ended = self.follow(self.made)
        self.runs()
        self.changes(finished(self.state_now), settled=True)
        self.run_for(LAST_OUTPUT - 0.2)
        self.assertNoResult(ended)
        self.run_for(0.4)
        self.successResultOf(ended)
        self.assertEqual(self.outputs.cancelled, [self.outputs.last.ended])

    def test_unheard(self) -> None:
        """Of an attempt that ended before anybody heard that it began the output is got all the
        same, and what an attempt before it printed is not counted as this one's."""
        ended = self.follow(self.made)
        self.runs()
        self.outputs.last.sink(1, b"first")
        second = assigned(finished(self.state_now, End.FAILED, retries=1), "larch")
        self.changes(finished(second, produced=Produced(b"econd", b"", 6, 0)), settled=True)
        self.assertEqual(self.outputs.cancelled, [self.outputs.asked[0].ended])
        self.assertEqual(self.outputs.last[:4], (peer("larch"), 2, (0, 0), False))
        self.outputs.last.ended.errback(NoOutput("it is gone"))
        self.successResultOf(ended)
        self.assertEqual(self.printed, [(1, b"first")])

    def test_cancelled(self) -> None:
        """Who follows no more gets no more, and nothing is left."""
        for ends in (False, True):
            self.setUp()
            following = self.follow(self.made)
            self.runs()
            if ends:
                self.changes(finished(self.state_now), settled=True)
            self.assertNoResult(following)
            following.cancel()
            self.failureResultOf(following, CancelledError)
            self.assertEqual(self.outputs.cancelled, [self.outputs.last.ended])
            self.assertEqual(self.service.watched, 0)

    def test_no_sink(self) -> None:
        """Nobody is asked for output that is not wanted."""
        ended = self.follow(self.made, sink=False)
        self.changes(assigned(self.state_now))
        self.changes(finished(self.state_now), settled=True)
        self.successResultOf(ended)
        self.assertEqual(self.outputs.asked, [])


class PolledTests(FollowingCase):
    """A task that others keep."""

    def setUp(self) -> None:
        super().setUp()
        self.made = self.of(begin())

    def of(self, state: TaskState) -> TaskRecord:
        return record(state, replicas=("walnut", "acacia", "hazel"))

    def answers(self, state: TaskState, *machines: str) -> None:
        made = self.of(state)
        asked = self.peers.take(Find)
        self.assertEqual({each.peer for each in asked}, {peer(each) for each in machines})
        for each in asked:
            each.answer.callback(Found(encode_record(made.signed, made.state)))

    def test_polled(self) -> None:
        """It is asked for every second, told when it has changed, and until it has ended; once it
        is found, only those that keep it are asked."""
        ended = self.follow(self.made)
        self.answers(begin(), "walnut", "acacia", "hazel", "larch")
        self.assertEqual(self.peers.take(Find), [])
        running = msgspec.structs.replace(assigned(begin()), version=1)
        over = msgspec.structs.replace(finished(running), version=2)
        steps: list[tuple[TaskState, int]] = [(begin(), 1), (running, 2), (running, 2), (over, 3)]
        for state, told in steps:
            self.clock.advance(POLL)
            self.answers(state, "walnut", "acacia", "hazel")
            self.assertEqual(len(self.told), told)
        self.outputs.last.ended.callback(None)
        self.assertEqual(self.successResultOf(ended).state, over)

    def test_gone(self) -> None:
        """When nobody has it any more, that is told."""
        ended = self.follow(self.made)
        for each in self.peers.take(Find):
            each.answer.callback(Found(None))
        self.failureResultOf(ended, NoSuchTask)

    def silent(self, seconds: float) -> None:
        """Nobody that keeps it can be asked for so long."""
        for _ in range(round(seconds / POLL)):
            self.clock.advance(POLL)
            for each in self.peers.take(Find):
                each.answer.errback(AnswerLost("its link is gone"))

    def test_not_heard_of(self) -> None:
        """Links to those who keep it may be gone for a while; after that it is told."""
        ended = self.follow(self.made)
        self.answers(begin(), "walnut", "acacia", "hazel", "larch")
        for _ in range(2):
            self.silent(SILENCE - POLL)
            self.clock.advance(POLL)
            self.answers(begin(), "walnut", "acacia", "hazel")
        self.silent(SILENCE - POLL)
        self.assertNoResult(ended)
        self.silent(POLL)
        self.failureResultOf(ended, NoSuchTask)
