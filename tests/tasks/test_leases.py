"""Leases: who runs an attempt has stopped before a majority says that it has."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from bzzz.tasks import leases
from bzzz.tasks.ballots import RESERVED, Accept, Ballot, Prepare
from bzzz.tasks.leases import DRIFT, KILL, Grants, Lease, grace
from bzzz.tasks.proposer import majority
from bzzz.tasks.replica import Current, Replica
from tests.tasks.disks import Disk

SECONDS = 3.0


class LeaseTests(SynchronousTestCase):
    """What a worker knows."""

    def test_majority(self) -> None:
        """It begins when a majority granted it, and runs from when the older of them was asked."""
        lease = Lease(3, SECONDS)
        self.assertEqual(lease.until, float("-inf"))
        lease.granted(2, 10.0)
        self.assertEqual(lease.until, float("-inf"))
        lease.granted(0, 11.0)
        self.assertEqual(lease.until, 13.0)
        lease.granted(1, 12.0)
        self.assertEqual(lease.until, 14.0)

    def test_late_answer(self) -> None:
        """An answer that was overtaken takes nothing back."""
        lease = Lease(3, SECONDS)
        for place, asked in ((0, 20.0), (1, 20.0), (0, 10.0), (1, 10.0)):
            lease.granted(place, asked)
        self.assertEqual(lease.until, 23.0)

    def test_alone(self) -> None:
        """One replica is a majority of one."""
        lease = Lease(1, SECONDS)
        lease.granted(0, 1.0)
        self.assertEqual(lease.until, 4.0)


class GrantsTests(SynchronousTestCase):
    """What a replica knows."""

    def test_grace(self) -> None:
        """The fastest clock of a replica has not passed it before the slowest of a worker ended."""
        self.assertAlmostEqual(grace(SECONDS) / (1 + DRIFT), (SECONDS + KILL) / (1 - DRIFT))
        self.assertAlmostEqual(grace(SECONDS), 4.0333, places=3)

    def test_until_closed(self) -> None:
        """It counts from the last grant."""
        grants = Grants(0.0)
        grants.grant("a", 1, 100.0)
        grants.grant("a", 1, 101.0)
        self.assertAlmostEqual(grants.until_closed("a", 1, SECONDS, 102.0), grace(SECONDS) - 1.0)
        self.assertEqual(grants.until_closed("a", 1, SECONDS, 106.0), 0.0)

    def test_older_token(self) -> None:
        """A token that has a successor here was closed by a majority already."""
        grants = Grants(0.0)
        grants.grant("a", 2, 100.0)
        self.assertEqual(grants.until_closed("a", 1, SECONDS, 100.0), 0.0)
        self.assertGreater(grants.until_closed("a", 2, SECONDS, 100.0), 4.0)

    def test_restarted(self) -> None:
        """A replica that has just started may have granted it a moment ago."""
        grants = Grants(50.0)
        self.assertAlmostEqual(grants.until_closed("a", 7, SECONDS, 51.0), grace(SECONDS) - 1.0)
        self.assertEqual(grants.until_closed("a", 7, SECONDS, 55.0), 0.0)

    def test_forget(self) -> None:
        """Nothing is kept of tasks that have no token."""
        grants = Grants(0.0)
        grants.grant("a", 1, 1.0)
        grants.forget("a")
        grants.forget("b")
        self.assertEqual(len(grants), 0)


class RateClock:
    """A clock that is wrong by a rate."""

    def __init__(self, rate: float) -> None:
        self.rate = rate
        self.now = 0.0

    def seconds(self) -> float:
        return self.now * self.rate

    def callLater(self, delay: float, call: Callable[[], object]) -> None:
        """Nothing but what is for the end of the turn is planned."""
        call()


class Host:
    """A replica with a disk and a clock, whose process may be started again."""

    def __init__(self, rate: float) -> None:
        self.clock = RateClock(rate)
        self.disk = Disk()
        self.counter = 1
        self.start()
        self.replica.ask("task", Accept(RESERVED, b"1", Ballot(1, 0)))

    def start(self) -> None:
        clock: Any = self.clock
        self.replica = Replica(self.disk, clock, lambda _: Current(1, "worker", SECONDS))
        Deferred.fromCoroutine(self.replica.load())

    def renew(self) -> bool:
        return self.replica.renew("task", "worker", 1)

    def close(self) -> bool:
        """Whether it has closed the token."""
        self.counter += 1
        self.replica.ask("task", Prepare(Ballot(self.counter, 1), close=1))
        return self.disk.kept["task"].closed == 1


def overlap(rng: random.Random, hosts: list[Host], worker: float) -> float:
    """One worker that asks on and on, over wires that delay and lose, and somebody who wants its
    token closed, in steps of 50 ms of true time.

    Returns for how many seconds the attempt still ran when a majority had closed its token.
    """
    lease = Lease(len(hosts), SECONDS)
    wire: list[tuple[float, int, float, bool]] = []
    closed: set[int] = set()
    for step in range(600):
        now = step * 0.05
        for host in hosts:
            host.clock.now = now
        if step % 20 == 0:
            for place in range(len(hosts)):
                if rng.random() < 0.6:
                    wire.append((now + rng.random() ** 3 * 3, place, now * worker, False))
        for item in [item for item in wire if item[0] <= now]:
            wire.remove(item)
            _, place, asked, answered = item
            if answered:
                lease.granted(place, asked)
            elif hosts[place].renew():
                wire.append((now + rng.random() ** 3, place, asked, True))
        for place, host in enumerate(hosts):
            if rng.random() < 0.005:
                host.start()
            if rng.random() < 0.2 and host.close():
                closed.add(place)
        if len(closed) >= majority(len(hosts)):
            # Answers to grants of before may come yet.
            for _, place, asked, answered in wire:
                if answered:
                    lease.granted(place, asked)
            return (lease.until + KILL) / worker - now
    return float("-inf")


def run(seed: int) -> float:
    rng = random.Random(seed)
    rates = [1 + rng.choice((-DRIFT, 0.0, DRIFT)) for _ in range(4)]
    return overlap(rng, [Host(rate) for rate in rates[:3]], rates[3])


class OverlapTests(SynchronousTestCase):
    """A worker, three replicas, and clocks that are as wrong as they may be."""

    @settings(max_examples=200, deadline=None)
    @given(seed=st.integers(0, 2**32))
    def test_none(self, seed: int) -> None:
        """The attempt has ended when its token is closed."""
        self.assertLessEqual(run(seed), 1e-9)

    def test_closed_often(self) -> None:
        """The runs are no empty ones: leases begin, end and are closed."""
        begun = [seed for seed in range(100) if run(seed) > float("-inf")]
        self.assertGreater(len(begun), 25)

    def found(self) -> bool:
        """Whether an attempt outlives its token within 100 seeds."""
        return any(run(seed) > 0 for seed in range(100))

    def test_lease_longer_than_grace(self) -> None:
        """Found: a grace that does not know of clocks."""
        self.patch(leases, "grace", lambda lease: lease)
        self.assertTrue(self.found())

    def test_grace_without_kill(self) -> None:
        """Found: a grace that leaves no time for the kill, and one that knows of one clock only."""
        self.patch(leases, "grace", lambda lease: lease * (1 + DRIFT) / (1 - DRIFT))
        self.assertTrue(self.found())
        self.patch(leases, "grace", lambda lease: (lease + KILL) / (1 - DRIFT))
        self.assertTrue(self.found())

    def test_start_forgotten(self) -> None:
        """Found: a replica that does not count from its start."""
        made = Grants.__init__
        self.patch(Grants, "__init__", lambda self, started: made(self, -1000.0))
        self.assertTrue(self.found())

    def test_granted_when_closed(self) -> None:
        """Found: a replica that grants what it has closed."""

        def renew(self: Replica, task: str, worker: str, token: int) -> bool:
            self._grants.grant(task, token, self._clock.seconds())
            return True

        self.patch(Replica, "renew", renew)
        self.assertTrue(self.found())
