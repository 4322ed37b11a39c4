"""Changes of registers over a network that delays, loses and cuts off, on disks that fail."""

from __future__ import annotations

import gc
import itertools
import weakref
from functools import partial
from random import Random

from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from bzzz.errors import LinkClosed
from bzzz.identity.keys import PrivateKey
from bzzz.identity.peer_id import PeerID
from bzzz.tasks.ballots import RESERVED, Accept, Answer, Ballot, NotYet, Prepare, Request
from bzzz.tasks.proposer import Change
from bzzz.tasks.registers import (
    LAGGING,
    RESEND,
    REST,
    REST_DECIDED,
    NoMajority,
    Registers,
)
from bzzz.tasks.replica import Current, Replica
from tests.tasks.disks import Disk

NODES = [PrivateKey.from_seed(bytes([number]) * 32).peer_id for number in range(3)]


def append(mark: bytes) -> Change:
    """A change that adds a mark, once."""

    def change(value: bytes | None) -> bytes | None:
        return None if value is not None and mark in value else (value or b"") + mark

    return change


def no_attempt(value: bytes) -> Current | None:
    """Of values that are no records."""
    return None


class Network:
    """Three nodes with a replica and a proposer each.

    :ivar cut: places that cannot be reached, nor reach others.
    :ivar silent: places whose answers are kept back.
    :ivar slowness: seconds that a message may take longer than another.
    :ivar sent: what was asked of whom.
    """

    def __init__(self, seed: int = 0, loss: float = 0.0) -> None:
        self.clock = Clock()
        self.rng = Random(seed)
        self.loss = loss
        self.cut: set[int] = set()
        self.silent: set[int] = set()
        self.slowness = 0.01
        self.sent: list[tuple[int, Request]] = []
        self.disks = [Disk() for _ in NODES]
        self.replicas = [Replica(disk, self.clock, no_attempt) for disk in self.disks]
        self.registers = [self.start(place) for place in range(len(NODES))]

    def start(self, place: int) -> Registers:
        """A proposer that knows nothing."""

        def ask(to: PeerID, task: str, request: Request, shown: bytes) -> Deferred[Answer]:
            return self._ask(place, NODES.index(to), task, request)

        return Registers(self.clock, Random(self.rng.random()), NODES[place], ask)

    def run(self, seconds: float, step: float = 0.01) -> None:
        """Let time pass."""
        for _ in range(round(seconds / step)):
            self.clock.advance(step)

    def values(self, task: str = "t") -> list[bytes]:
        """What each disk has."""
        return [disk.kept[task].value if task in disk.kept else b"" for disk in self.disks]

    def _ask(self, place: int, to: int, task: str, request: Request) -> Deferred[Answer]:
        self.sent.append((to, request))
        if place != to and {place, to} & self.cut:
            return fail(LinkClosed("no link"))
        if place == to:
            return self.replicas[to].ask(task, request)
        told: Deferred[Answer] = Deferred()

        def fired(result: Answer | Failure) -> None:
            if to in self.silent or self.rng.random() < self.loss:
                return
            self.clock.callLater(self._delay(), told.callback, result)

        def arrive() -> None:
            if {place, to} & self.cut or self.rng.random() < self.loss:
                return
            self.replicas[to].ask(task, request).addBoth(fired)

        self.clock.callLater(self._delay(), arrive)
        return told

    def _delay(self) -> float:
        return 0.001 + self.rng.random() * self.slowness


class ChangeTests(SynchronousTestCase):
    """One node at a time."""

    def setUp(self) -> None:
        self.network = Network()

    def create(self, value: bytes = b"a", place: int = 0) -> Deferred[bytes | None]:
        nodes = [NODES[place], *(node for node in NODES if node != NODES[place])]
        return Deferred.fromCoroutine(
            self.network.registers[place].create("t", nodes, value, within=5.0)
        )

    def change(self, mark: bytes, place: int = 0, within: float = 5.0) -> Deferred[bytes | None]:
        return Deferred.fromCoroutine(
            self.network.registers[place].change("t", NODES, append(mark), within)
        )

    def read(self, place: int) -> bytes | None:
        reading = Deferred.fromCoroutine(
            self.network.registers[place].change("t", NODES, lambda _: None, 5.0)
        )
        self.network.run(1.0)
        return self.successResultOf(reading)

    def nothing_goes_on(self) -> None:
        """Nothing is sent any more, and nothing is planned but the clock's call for alarms that
        were cancelled."""
        sent = len(self.network.sent)
        self.network.run(2 * RESEND)
        self.assertEqual(len(self.network.sent), sent)
        self.assertEqual(self.network.clock.getDelayedCalls(), [])

    def test_nothing_is_left(self) -> None:
        """A change that is over is gone without the garbage collector."""
        self.create()
        self.network.run(1.0)
        gc.disable()
        self.addCleanup(gc.enable)
        change = append(b"b")
        left = weakref.ref(change)
        changing = Deferred.fromCoroutine(self.network.registers[0].change("t", NODES, change, 5.0))
        del change
        self.network.run(1.0)
        self.assertEqual(self.successResultOf(changing), b"ab")
        self.assertIsNone(left())

    def test_one_round(self) -> None:
        """The first value and the same node's next ones take one question to each replica that is
        needed, and one to the third for all of them."""
        self.network.slowness = 0.0
        for mark, values in ((b"a", [b"a", b"a", b""]), (b"b", [b"ab", b"ab", b""])):
            changed = self.change(mark) if mark > b"a" else self.create()
            self.network.run(0.004, 0.001)
            self.assertEqual(self.successResultOf(changed), values[0])
            self.assertEqual(self.network.values(), values)
        self.network.run(2 * (REST + REST_DECIDED))
        self.assertEqual(self.network.values(), [b"ab"] * 3)
        self.assertEqual([type(request) for _, request in self.network.sent], [Accept] * 5)
        self.assertEqual([to for to, _ in self.network.sent], [1, 0, 1, 0, 2])
        self.nothing_goes_on()

    def test_third_where_it_is_needed(self) -> None:
        """The third is asked soon when one of the others is slow, and at once when it cannot be
        asked, or has promised another a greater ballot."""
        self.network.slowness = 0.0
        self.network.silent = {1}
        made = self.create()
        self.network.run(REST)
        self.assertNoResult(made)
        self.network.run(REST + 0.01, 0.001)
        self.successResultOf(made)
        self.network.silent = set()
        self.network.run(2 * RESEND)
        self.network.cut = {1}
        changed = self.change(b"b")
        self.network.run(0.004, 0.001)
        self.successResultOf(changed)
        self.network.cut = set()
        self.network.run(2 * RESEND)
        self.network.replicas[1].ask("t", Prepare(Ballot(9, 1)))
        changed = self.change(b"c")
        self.network.run(0.006, 0.001)
        self.assertEqual(self.successResultOf(changed), b"abc")

    def test_failed_once(self) -> None:
        """One that cannot be asked, or cannot write, is asked again after a while, as ever."""
        self.network.disks[1].slow = True
        for cut in ({1}, set()):
            self.network.cut = cut
            self.network.sent.clear()
            changed = self.change(b"b") if not cut else self.create()
            self.network.run(0.02, 0.001)
            for _ in self.network.disks[1].writes[:]:
                self.network.disks[1].break_down()
            self.network.run(RESEND / 2)
            self.successResultOf(changed)
            self.assertEqual(sorted(to for to, _ in self.network.sent), [0, 1, 2])

    def test_worker_first(self) -> None:
        """Who runs the task is one of those who are asked at once, if it is a replica."""
        for place in (1, 2):
            self.network.sent.clear()
            changed = Deferred.fromCoroutine(
                self.network.registers[0].propose(
                    f"t{place}",
                    NODES,
                    append(b"a"),
                    5.0,
                    first=RESERVED,
                    worker=partial(NODES.__getitem__, place),
                )
            )
            self.assertEqual([to for to, _ in self.network.sent], [place, 0])
            self.network.run(1.0)
            self.successResultOf(changed)

    def test_all_where_it_is_new_to_this_node(self) -> None:
        """Who has to ask for the value first asks all."""
        self.create()
        self.network.run(1.0)
        self.network.sent.clear()
        changed = self.change(b"b", 1)
        self.network.run(0.1, 0.001)
        self.successResultOf(changed)
        asked = [(type(request), to) for to, request in self.network.sent]
        self.assertEqual({to for kind, to in asked if kind is Prepare}, {0, 1, 2})
        self.assertEqual({to for kind, to in asked if kind is Accept}, {0, 1, 2})

    def test_sent_at_once(self) -> None:
        """A change is to be sent when all were asked who are asked at once; what is new is offered
        first."""
        sent: list[int] = []
        registers = Registers(
            self.network.clock,
            Random(0),
            NODES[0],
            lambda to, task, request, shown: self.network._ask(0, NODES.index(to), task, request),
            lambda: sent.append(len(self.network.sent)),
        )
        made = Deferred.fromCoroutine(registers.create("t", NODES, b"a", 5.0))
        self.assertEqual(sent, [])
        self.network.run(1.0)
        self.successResultOf(made)
        self.network.sent.clear()
        changed = Deferred.fromCoroutine(registers.change("t", NODES, append(b"b"), 5.0))
        self.assertEqual(sent, [2])
        self.network.run(1.0)
        self.successResultOf(changed)

    def test_another_node(self) -> None:
        """Another one asks first, and both go on from what the other has written."""
        self.create()
        self.network.run(0.1)
        for place, mark in ((1, b"b"), (0, b"c"), (2, b"d"), (2, b"e")):
            changed = self.change(mark, place)
            self.network.run(1.0)
            self.successResultOf(changed)
        self.assertEqual(self.read(1), b"abcde")

    def test_one_is_gone(self) -> None:
        """Two of three are enough, and the third has the value soon after it is back."""
        self.network.cut = {2}
        made = self.create()
        self.network.run(0.1)
        self.successResultOf(made)
        self.assertEqual(self.network.values(), [b"a", b"a", b""])
        self.network.cut = set()
        self.network.run(RESEND * 2)
        self.assertEqual(self.network.values(), [b"a"] * 3)
        self.assertEqual(self.network.clock.getDelayedCalls(), [])

    def test_one_stays_away(self) -> None:
        """Who stays away is not asked for ever."""
        self.network.cut = {2}
        self.create()
        self.network.run(120.0, 0.1)
        asked = [to for to, _ in self.network.sent if to == 2]
        self.assertEqual(len(asked), 1 + LAGGING)
        self.assertEqual(self.network.clock.getDelayedCalls(), [])

    def test_two_are_gone(self) -> None:
        """Without a majority nothing is told to be done, and what was asked may be done yet."""
        self.network.cut = {1, 2}
        made = self.create()
        self.network.run(5.1)
        self.failureResultOf(made, NoMajority)
        self.assertEqual(self.network.clock.getDelayedCalls(), [])
        self.network.cut = set()
        self.assertIn(self.read(1), (b"a", None))

    def test_answers_are_lost(self) -> None:
        """A change whose answers did not come is not made twice."""
        self.create()
        self.network.run(0.1)
        self.network.silent = {1, 2}
        changed = self.change(b"b")
        self.network.run(0.1)
        self.network.silent = set()
        self.assertNoResult(changed)
        self.network.run(5.1)
        self.failureResultOf(changed, NoMajority)
        self.assertEqual(self.read(0), b"ab")

    def test_disk_fails(self) -> None:
        """A replica whose disk fails is like one that is gone, until it works again."""
        self.network.disks[1].slow = True
        made = self.create()
        self.network.run(0.1)
        self.successResultOf(made)
        self.network.disks[1].break_down()
        self.network.disks[1].slow = False
        self.network.run(RESEND * 3)
        self.assertEqual(self.network.values(), [b"a"] * 3)

    def test_second_ends_first(self) -> None:
        """Two changes of one node are made one after the other; the first is told that it ended."""
        self.create()
        self.network.run(0.1)
        self.network.cut = {1, 2}
        first = self.change(b"b")
        self.network.run(0.5)
        self.network.cut = set()
        second = self.change(b"c")
        self.failureResultOf(first, NoMajority)
        self.network.run(1.0)
        self.assertIn(self.successResultOf(second), (b"ac", b"abc"))

    def test_change_fails(self) -> None:
        """What a change raises is told to whoever wanted it, and nothing goes on."""
        self.create()
        self.network.run(0.1)

        def wrong(_: bytes | None) -> bytes | None:
            raise ValueError("wrong")

        for place in (0, 1):
            changed = Deferred.fromCoroutine(
                self.network.registers[place].change("t", NODES, wrong, 5.0)
            )
            self.network.run(0.5)
            self.failureResultOf(changed, ValueError)
        self.nothing_goes_on()

    def test_stop(self) -> None:
        """After a stop nothing is sent, and who waits is told."""
        self.network.cut = {1, 2}
        made = self.create()
        self.network.registers[0].stop()
        self.failureResultOf(made, NoMajority)
        self.network.clock.advance(0)
        self.assertEqual(self.network.clock.getDelayedCalls(), [])

    def waits(self, *waits: float | None) -> Registers:
        """A proposer whose replicas close no token before so many seconds; None: is gone."""

        def ask(to: PeerID, task: str, request: Request, shown: bytes) -> Deferred[Answer]:
            place = NODES.index(to)
            wait, now = waits[place], self.network.clock.seconds()
            if wait is None:
                return fail(LinkClosed("no link"))
            if isinstance(request, Prepare) and now < wait:
                return succeed(NotYet(request.ballot, wait - now))
            return self.network.replicas[place].ask(task, request)

        return Registers(self.network.clock, Random(0), NODES[0], ask)

    def test_close_by_two(self) -> None:
        """With one replica gone, the other two close a token when both may."""
        for waits in ((1.0, 2.0, None), (0.0, 2.0, None), (None, 2.0, 1.9)):
            self.network = Network()
            registers = self.waits(*waits)
            changed = Deferred.fromCoroutine(
                registers.change("t", NODES, lambda _: b"v", 20.0, close=1)
            )
            self.network.run(4.0)
            self.assertEqual(self.successResultOf(changed), b"v")

    def test_stop_while_waiting(self) -> None:
        """A stop ends a change that waits for its next try."""
        registers = self.waits(2.0, 2.0, 2.0)
        changed = Deferred.fromCoroutine(
            registers.change("t", NODES, lambda _: b"v", 20.0, close=1)
        )
        self.network.run(0.5)
        registers.stop()
        self.failureResultOf(changed, NoMajority)
        self.assertEqual(self.network.clock.getDelayedCalls(), [])
        self.network.run(5.0)
        self.assertNotIn("t", self.network.disks[0].kept)

    def test_second_while_waiting(self) -> None:
        """A second change ends one that waits for its next try, and is not ended by it."""
        registers = self.waits(2.0, 2.0, 2.0)
        first = Deferred.fromCoroutine(registers.change("t", NODES, lambda _: b"v", 20.0, close=1))
        self.network.run(0.5)
        second = Deferred.fromCoroutine(registers.change("t", NODES, append(b"w"), 20.0, close=1))
        self.failureResultOf(first, NoMajority)
        self.network.run(4.0)
        self.assertEqual(self.successResultOf(second), b"w")

    def test_cancelled(self) -> None:
        """Who waits no more is asked for no more."""
        registers = self.waits(9.0, 9.0, 9.0)
        for seconds in (0.0, 0.5):
            changed = Deferred.fromCoroutine(
                registers.change("t", NODES, lambda _: b"v", 20.0, close=1)
            )
            self.network.run(seconds)
            changed.cancel()
            self.failureResultOf(changed, CancelledError)
            self.nothing_goes_on()
        self.network.cut = {1, 2}
        changed = self.change(b"b")
        changed.cancel()
        self.failureResultOf(changed, CancelledError)
        self.nothing_goes_on()

    def test_created_by_the_first(self) -> None:
        """The reserved ballot is the first replica's alone."""
        created = Deferred.fromCoroutine(
            self.network.registers[1].create("t", NODES, b"a", within=5.0)
        )
        self.failureResultOf(created, ValueError)

    def test_refused_after_decided(self) -> None:
        """A replica that has promised another a greater ballot is not waited for."""
        self.create()
        self.network.run(0.1)
        self.network.replicas[2].ask("t", Prepare(Ballot(9, 1)))
        changed = self.change(b"b")
        self.network.run(0.1)
        self.assertEqual(self.successResultOf(changed), b"ab")
        self.nothing_goes_on()

    def test_close(self) -> None:
        """A change that closes a token waits as long as its replicas do."""
        registers = self.waits(2.0, 2.0, 0.0)
        changed = Deferred.fromCoroutine(registers.change("t", NODES, lambda _: b"v", 5.0, close=1))
        self.network.run(1.9)
        self.assertNoResult(changed)
        self.network.run(0.2)
        self.assertEqual(self.successResultOf(changed), b"v")
        self.assertEqual(self.network.disks[0].kept["t"].closed, 1)

    def test_ballots_go_up(self) -> None:
        """Who restarts and knows no ballot finds one."""
        self.create()
        self.network.run(0.1)
        for mark in (b"b", b"c", b"d"):
            self.network.registers[0] = self.network.start(0)
            changed = self.change(mark)
            self.network.run(2.0)
            self.successResultOf(changed)
        self.assertEqual(self.read(1), b"abcd")
        self.assertGreater(self.network.disks[0].kept["t"].promised, Ballot(3, 0))


class AloneTests(SynchronousTestCase):
    """A register of which one node has the only replica."""

    def setUp(self) -> None:
        self.network = Network()
        self.disk = self.network.disks[0]

    def create(self) -> Deferred[bytes | None]:
        return Deferred.fromCoroutine(
            self.network.registers[0].create("t", NODES[:1], b"a", within=5.0)
        )

    def change(self, change: Change, close: int = 0) -> Deferred[bytes | None]:
        return Deferred.fromCoroutine(
            self.network.registers[0].change("t", NODES[:1], change, 5.0, close=close)
        )

    def nothing_goes_on(self) -> None:
        sent = len(self.network.sent)
        self.network.run(6.0)
        self.assertEqual(len(self.network.sent), sent)
        self.assertEqual(self.network.clock.getDelayedCalls(), [])

    def test_one_question(self) -> None:
        """A change is one question, and it is over with its answer."""
        self.disk.slow = True
        for number in (1, 2):
            changed = self.create() if number == 1 else self.change(append(b"b"))
            self.network.run(0.1)
            self.assertNoResult(changed)
            self.disk.finish()
            self.assertEqual(self.successResultOf(changed), b"ab"[:number])
            self.assertEqual(len(self.network.sent), number)
        self.nothing_goes_on()

    def test_new_to_this_node(self) -> None:
        """What this node has not changed since its start it asks for first."""
        self.create()
        self.network.run(0.1)
        self.network.registers[0] = self.network.start(0)
        changed = self.change(append(b"b"))
        self.network.run(0.1)
        self.assertEqual(self.successResultOf(changed), b"ab")
        kinds = [type(request) for _, request in self.network.sent]
        self.assertEqual((kinds[:2], kinds[-1]), ([Accept, Prepare], Accept))

    def test_disk_fails(self) -> None:
        """What the disk did not take is tried again, whether it was written or not."""
        for written in (False, True):
            self.setUp()
            self.disk.slow = True
            made = self.create()
            self.network.run(0.1)
            if written:
                self.disk._answer(self.disk.writes[0][0])
            self.disk.break_down()
            self.disk.slow = False
            self.network.run(RESEND / 2)
            self.assertNoResult(made)
            self.network.run(RESEND)
            self.assertEqual(self.successResultOf(made), b"a")
            changed = self.change(append(b"b"))
            self.network.run(0.1)
            self.assertEqual(self.successResultOf(changed), b"ab")
            self.nothing_goes_on()

    def test_disk_hangs(self) -> None:
        """Nobody waits for a disk for ever; what it writes later counts."""
        self.disk.slow = True
        made = self.create()
        self.network.run(5.1)
        self.failureResultOf(made, NoMajority)
        self.nothing_goes_on()
        self.disk.slow = False
        self.disk.finish()
        read = self.change(lambda _: None)
        self.network.run(0.1)
        self.assertEqual(self.successResultOf(read), b"a")

    def test_disk_is_away(self) -> None:
        """Nor for one that fails again and again."""
        self.disk.slow = True
        made = self.create()
        for _ in range(6):
            self.network.run(0.95 * RESEND)
            for _ in self.disk.writes[:]:
                self.disk.break_down()
        error = self.failureResultOf(made, NoMajority).value
        self.assertIn("no majority of the 1 replicas", str(error))
        self.nothing_goes_on()

    def test_flaw(self) -> None:
        """What is no error of ours is logged, and asked again."""
        self.disk.slow = True
        made = self.create()
        self.network.run(0.1)
        self.disk.writes.pop(0)[1].errback(RuntimeError("a flaw"))
        self.disk.slow = False
        self.assertNoResult(made)
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)
        self.network.run(2 * RESEND)
        self.assertEqual(self.successResultOf(made), b"a")
        self.nothing_goes_on()

    def test_close(self) -> None:
        """A token is closed once it may be."""
        until = self.network.clock.seconds() + 2.0
        replica = self.network.replicas[0]

        def ask(to: PeerID, task: str, request: Request, shown: bytes) -> Deferred[Answer]:
            left = until - self.network.clock.seconds()
            if isinstance(request, Prepare) and left > 0:
                return succeed(NotYet(request.ballot, left))
            return replica.ask(task, request)

        self.network.registers[0] = Registers(self.network.clock, Random(1), NODES[0], ask)
        changed = self.change(lambda _: b"v", close=1)
        self.network.run(1.9)
        self.assertNoResult(changed)
        self.network.run(0.3)
        self.assertEqual(self.successResultOf(changed), b"v")
        self.nothing_goes_on()

    def test_given_up(self) -> None:
        """By a stop, by a second change, by who wants it, or by a change that raises."""
        self.disk.slow = True
        made = self.create()
        self.network.registers[0].stop()
        self.failureResultOf(made, NoMajority)
        self.network.run(0.1)
        self.disk.finish()
        first = self.change(append(b"b"))
        second = self.change(append(b"c"))
        self.failureResultOf(first, NoMajority)
        second.cancel()
        self.failureResultOf(second, CancelledError)
        self.network.run(0.1)
        self.disk.finish()
        self.nothing_goes_on()
        self.disk.slow = False

        def wrong(_: bytes | None) -> bytes | None:
            raise ValueError("wrong")

        changed = self.change(wrong)
        self.network.run(0.1)
        self.failureResultOf(changed, ValueError)
        self.nothing_goes_on()


class ManyTests(SynchronousTestCase):
    """All nodes at once, while messages are lost and nodes are cut off."""

    def run_seed(self, seed: int) -> int:
        """Returns how many changes were acknowledged."""
        network = Network(seed, loss=0.1)
        numbers = itertools.count()
        acknowledged: list[bytes] = []
        waiting: dict[int, Deferred[None]] = {}

        async def add(place: int, mark: bytes) -> None:
            try:
                value = await network.registers[place].change("t", NODES, append(mark), 3.0)
            except NoMajority:
                return
            assert value is not None and mark in value
            acknowledged.append(value)

        for _ in range(60):
            place = network.rng.randrange(3)
            if place not in waiting or waiting[place].called:
                mark = f"{place}.{next(numbers)};".encode()
                waiting[place] = Deferred.fromCoroutine(add(place, mark))
            network.cut = {network.rng.randrange(3)} if network.rng.random() < 0.3 else set()
            network.run(0.3, 0.01)
        network.cut = set()
        network.loss = 0.0
        network.run(4.0)
        line = sorted(acknowledged, key=len)
        for before, after in itertools.pairwise(line):
            self.assertTrue(after.startswith(before), (seed, before, after))
        for each in waiting.values():
            self.successResultOf(each)
        reading = Deferred.fromCoroutine(
            network.registers[1].change("t", NODES, lambda _: None, 5.0)
        )
        network.run(3.0)
        value = self.successResultOf(reading)
        assert value is not None
        if line:
            self.assertTrue(value.startswith(line[-1]), seed)
        marks = value.split(b";")[:-1]
        self.assertEqual(len(set(marks)), len(marks), seed)
        return len(line)

    def test_two_and_one_gone(self) -> None:
        """Two nodes that change a register at once, with the third gone, both come to their end."""
        for seed in range(50):
            network = Network(seed)
            network.cut = {2}
            both = [
                Deferred.fromCoroutine(
                    network.registers[place].change("t", NODES, append(mark), 10.0)
                )
                for place, mark in ((0, b"a;"), (1, b"b;"))
            ]
            network.run(9.0, 0.02)
            values = {self.successResultOf(each) for each in both}
            self.assertTrue({b"a;b;", b"b;a;"} & values, (seed, values))

    def test_one_line(self) -> None:
        """What was acknowledged is there, once, in one order that all agree on."""
        self.assertGreater(sum(self.run_seed(seed) for seed in range(20)), 200)
