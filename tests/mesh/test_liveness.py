"""Failure detection: who is pinged, who is cut, and who is not accused."""

from __future__ import annotations

import random
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from bzzz.errors import StreamReset
from bzzz.mesh.lag import INTERVAL, ReactorLag
from bzzz.mesh.liveness import (
    DEADLINE,
    FEW_LINKS,
    FIRST_PINGS,
    FORMED_AFTER,
    IDLE,
    IDLE_LINKS,
    LONG_ENOUGH,
    TICK,
    Liveness,
)


class Link:
    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.remote_peer = "peer"
        self.last_received = clock.seconds()
        self.aborted: tuple[float, str] | None = None

    def abort(self, reason: str) -> None:
        if self.aborted is None:
            self.aborted = self.clock.seconds(), reason

    def hear(self) -> None:
        self.last_received = self.clock.seconds()


class LivenessTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.pings: list[Deferred[float]] = []
        self.lag = ReactorLag(self.clock)
        pings: Any = self
        self.calm = True
        self.liveness = Liveness(self.clock, random.Random(1), pings, self.lag, lambda: self.calm)
        self.lag.start()
        self.liveness.start()
        link: Any = Link(self.clock)
        self.link = link
        self.liveness.link_up(self.link)
        self.run_for(TICK)

    def ping(self, link: Any) -> Deferred[float]:
        self.pings.append(Deferred())
        return self.pings[-1]

    def run_for(self, seconds: float) -> None:
        for _ in range(round(seconds * 100)):
            self.clock.advance(0.01)

    def answer(self, rtt: float) -> None:
        self.link.hear()
        self.pings[-1].callback(rtt)

    def test_new(self) -> None:
        """A new link is pinged soon, for the round trip; the next ones smooth it."""
        self.assertEqual(len(self.pings), 1)
        self.answer(0.008)
        self.assertEqual(self.liveness.rtts, {"peer": 0.008})
        self.run_for(IDLE[1] + TICK)
        self.assertEqual(len(self.pings), 2)
        self.answer(0.016)
        peer: Any = "peer"
        self.assertAlmostEqual(self.liveness.rtts[peer], 0.009)
        self.liveness.link_down(self.link, "gone")
        self.assertEqual(self.liveness.rtts, {})

    def test_forming(self) -> None:
        """While a mesh forms new links are pinged only when idle; after it, a few at a time."""
        self.answer(0.001)
        self.calm = False
        self.add_links(FEW_LINKS)
        self.run_for(IDLE[0] - TICK)
        self.assertEqual(len(self.pings), 1)
        self.calm = True
        self.run_for(TICK)
        self.assertEqual(len(self.pings), 1 + FIRST_PINGS)
        self.calm = False
        self.run_for(IDLE[1])
        self.assertEqual(len(self.pings), 2 + FEW_LINKS)

    def add_links(self, count: int) -> list[Any]:
        """So many links come up, and are heard of for the last time."""
        links: list[Any] = [Link(self.clock) for _ in range(count)]
        for link in links:
            self.liveness.link_up(link)
        return links

    def test_many_new(self) -> None:
        """Of many links the first pings wait until no new one came for a while."""
        self.answer(0.001)
        links = [self.link, *self.add_links(FEW_LINKS)]
        for _ in range(5):
            self.run_for(2.0)
            links += self.add_links(1)
            for link in links:
                link.hear()
        self.assertEqual(len(self.pings), 1)
        self.run_for(FORMED_AFTER - TICK)
        self.assertEqual(len(self.pings), 1)
        self.run_for(TICK + 0.1)
        self.assertEqual(len(self.pings), 1 + FIRST_PINGS)

    def test_always_new(self) -> None:
        """Where somebody always comes, a link does not wait for ever."""
        self.answer(0.001)
        links = [self.link, *self.add_links(FEW_LINKS)]
        for _ in range(int(LONG_ENOUGH / 2)):
            self.assertEqual(len(self.pings), 1)
            self.run_for(2.0)
            links += self.add_links(1)
            for link in links:
                link.hear()
        self.run_for(TICK)
        self.assertEqual(len(self.pings), 1 + FIRST_PINGS)

    def test_many_gone(self) -> None:
        """When most of many links are gone, the others are pinged as those of few are."""
        self.answer(0.001)
        links = self.add_links(4 * IDLE_LINKS)
        self.run_for(IDLE[1] + TICK)
        for link in links:
            self.liveness.link_down(link, "gone")
        before = len(self.pings)
        self.run_for(TICK)
        self.assertEqual(len(self.pings), before + 1)

    def test_few_new(self) -> None:
        """Of few they do not."""
        self.answer(0.001)
        self.add_links(FEW_LINKS - 1)
        self.run_for(TICK)
        self.assertEqual(len(self.pings), FEW_LINKS)

    def test_many_idle(self) -> None:
        """The links of a large mesh are pinged more rarely, and cut all the same."""
        self.answer(0.001)
        self.liveness.link_down(self.link, "gone")
        links = self.add_links(2 * IDLE_LINKS)
        self.run_for(FORMED_AFTER + TICK * (2 + len(links) / FIRST_PINGS))
        for ping, link in zip(self.pings[1:], links, strict=True):
            link.hear()
            ping.callback(0.001)
        first = len(self.pings)
        self.run_for(2 * IDLE[0] - TICK)
        self.assertEqual(len(self.pings), first)
        self.run_for(2 * (IDLE[1] - IDLE[0]) + DEADLINE + 4 * TICK)
        self.assertTrue(all(link.aborted for link in links))

    def test_busy(self) -> None:
        """A link over which something comes is never pinged again."""
        self.answer(0.001)
        for _ in range(30):
            self.run_for(IDLE[0] - 0.1)
            self.link.hear()
        self.assertEqual(len(self.pings), 1)
        self.assertIsNone(self.link.aborted)

    def test_dead(self) -> None:
        """A silent link is cut after the deadline, and not before."""
        self.answer(0.001)
        self.run_for(20)
        at, reason = self.link.aborted
        self.assertGreaterEqual(at, IDLE[0] + DEADLINE)
        self.assertLess(at, IDLE[1] + DEADLINE + 3 * TICK)
        self.assertIn("no sign of life", reason)

    def test_no_ping_there(self) -> None:
        """A peer that refuses ping is alive: it said so."""
        self.run_for(0.1)
        for _ in range(10):
            self.link.hear()
            if not self.pings[-1].called:
                self.pings[-1].errback(StreamReset("refused"))
            self.run_for(IDLE[1] + TICK)
        self.assertIsNone(self.link.aborted)

    def test_starved(self) -> None:
        """A node that got no CPU itself does not accuse others of its own silence."""
        self.answer(0.001)
        self.run_for(IDLE[1] + TICK)
        self.assertEqual(len(self.pings), 2)
        # All timers are due at once; what the kernel holds is read in the next turn.
        self.clock.advance(60)
        self.assertIsNone(self.link.aborted)
        self.answer(0.001)
        self.run_for(1)
        self.assertIsNone(self.link.aborted)
        self.assertGreater(self.lag.worst(), 59)

    def test_starved_and_dead(self) -> None:
        """A dead link is cut all the same, once this node has listened for long enough."""
        self.answer(0.001)
        self.run_for(IDLE[1] + TICK)
        self.clock.advance(60)
        self.run_for(DEADLINE + TICK + INTERVAL)
        self.assertIsNotNone(self.link.aborted)

    def test_stop(self) -> None:
        self.liveness.stop()
        self.lag.stop()
        self.assertEqual(self.clock.getDelayedCalls(), [])
