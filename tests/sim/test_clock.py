"""The simulator's clock: what real reactors promise, and what they do not."""

from __future__ import annotations

import random

from twisted.internet.error import AlreadyCalled, AlreadyCancelled
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.task import LoopingCall
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from bzzz.testing import clock as module
from bzzz.testing.clock import EPOCH, NodeClock, SimReactor, SimulationStuck


def reactor(seed: int = 1) -> SimReactor:
    return SimReactor(random.Random(seed))


class ReactorTests(SynchronousTestCase):
    """Virtual time passes from call to call."""

    def test_interfaces(self) -> None:
        """The loop, the clocks and the calls are what Twisted's interfaces say."""
        loop = reactor()
        verifyObject(IReactorTime, loop)
        verifyObject(IReactorTime, NodeClock(loop))
        verifyObject(IDelayedCall, loop.callLater(1, lambda: None))

    def test_order(self) -> None:
        """Calls are made in the order of their times, at exactly these times."""
        loop = reactor()
        made: list[float] = []
        for delay in (3.0, 1.0, 2.0):
            loop.callLater(delay, lambda: made.append(loop.now))
        loop.run_until(2.5)
        self.assertEqual((made, loop.now), ([1.0, 2.0], 2.5))
        loop.run_until(10)
        self.assertEqual((made, loop.now, loop.calls), ([1.0, 2.0, 3.0], 10, 3))

    def test_ties_depend_on_the_seed(self) -> None:
        """Calls due at one instant are made in an order that the seed decides."""

        def order(seed: int) -> list[int]:
            loop = reactor(seed)
            made: list[int] = []
            for number in range(20):
                loop.callLater(1, made.append, number)
            loop.run_until(1)
            return made

        self.assertEqual(order(7), order(7))
        self.assertNotEqual(order(7), order(8))
        self.assertEqual(sorted(order(8)), list(range(20)))

    def test_arguments(self) -> None:
        """Positional and keyword arguments reach the call."""
        loop = reactor()
        made: list[object] = []
        loop.callLater(0, lambda *args, **kwargs: made.append((args, kwargs)), 1, two=2)
        loop.callFromThread(made.append, 3)
        loop.run_until(0)
        self.assertCountEqual(made, [((1,), {"two": 2}), 3])

    def test_calls_planned_by_calls(self) -> None:
        """A call planned for now by a call is made in the same instant."""
        loop = reactor()
        made: list[float] = []
        loop.callLater(1, lambda: loop.callLater(0, lambda: made.append(loop.now)))
        loop.run_until(1)
        self.assertEqual(made, [1.0])

    def test_the_past(self) -> None:
        """A negative delay is refused, as by a real reactor."""
        loop = reactor()
        self.assertRaises(ValueError, loop.callLater, -1, lambda: None)
        self.assertRaises(ValueError, NodeClock(loop).callLater, -1, lambda: None)

    def test_until_done(self) -> None:
        """A condition ends the run after the instant in which it came true."""
        loop = reactor()
        made: list[int] = []
        for number in range(5):
            loop.callLater(number, made.append, number)
        self.assertTrue(loop.run_until(10, lambda: len(made) == 3))
        self.assertEqual((made, loop.now), ([0, 1, 2], 2.0))
        self.assertFalse(loop.run_until(10, lambda: False))
        self.assertEqual(loop.now, 10)
        # What was due after the condition came true is not lost.
        self.assertEqual(made, [0, 1, 2, 3, 4])

    def test_a_failure_is_logged(self) -> None:
        """A call that raises is logged, and the next is made."""
        loop = reactor()
        made: list[int] = []
        loop.callLater(1, lambda: 1 / 0)
        loop.callLater(2, made.append, 2)
        loop.run_until(3)
        self.assertEqual(made, [2])
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_stuck(self) -> None:
        """Calls that are made without end at one instant end the run with an error."""
        self.patch(module, "MOST_AT_ONCE", 100)
        loop = reactor()

        def again() -> None:
            loop.callLater(0, again)

        again()
        self.assertRaises(SimulationStuck, loop.run_until, 1)

    def test_turn_ends(self) -> None:
        """What is asked for the end of a turn comes after the call and before the next."""
        loop = reactor()
        made: list[str] = []

        def call() -> None:
            loop.turn_ends.append(lambda: made.append("end"))
            made.append("call")

        loop.callLater(1, call)
        loop.callLater(2, made.append, "next")
        loop.run_until(3)
        self.assertEqual(made, ["call", "end", "next"])


class CallTests(SynchronousTestCase):
    """What can be done to a call that is planned."""

    def setUp(self) -> None:
        self.loop = reactor()
        self.made: list[float] = []
        self.call = self.loop.callLater(2, lambda: self.made.append(self.loop.now))

    def test_cancel(self) -> None:
        """A cancelled call is not made, and cannot be cancelled again."""
        self.assertTrue(self.call.active())
        self.call.cancel()
        self.assertFalse(self.call.active())
        self.loop.run_until(3)
        self.assertEqual(self.made, [])
        self.assertRaises(AlreadyCancelled, self.call.cancel)

    def test_called(self) -> None:
        """A call that was made can be neither cancelled nor moved."""
        self.loop.run_until(3)
        self.assertFalse(self.call.active())
        self.assertRaises(AlreadyCalled, self.call.cancel)
        self.assertRaises(AlreadyCalled, self.call.delay, 1)
        self.assertRaises(AlreadyCalled, self.call.reset, 1)

    def test_delay(self) -> None:
        """delay() counts from when it was due."""
        self.loop.run_until(1)
        self.call.delay(3)
        self.assertEqual(self.call.getTime(), 5)
        self.loop.run_until(9)
        self.assertEqual(self.made, [5.0])

    def test_reset(self) -> None:
        """reset() counts from now, and may make it earlier or later."""
        self.loop.run_until(1)
        self.call.reset(3)
        self.assertEqual(self.call.getTime(), 4)
        self.call.reset(0.5)
        self.loop.run_until(9)
        self.assertEqual(self.made, [1.5])

    def test_cancelled_calls_take_no_room(self) -> None:
        """The heap does not grow with calls that are cancelled, and the others are still made."""
        self.patch(module, "DEAD_ENTRIES", 10)
        for number in range(1000):
            self.loop.callLater(1 + number, lambda: self.fail("was cancelled")).cancel()
        self.assertLess(len(self.loop._heap), 50)
        self.assertEqual(self.loop.getDelayedCalls(), [self.call])
        self.loop.run_until(2000)
        self.assertEqual(self.made, [2.0])


class NodeClockTests(SynchronousTestCase):
    """Each process has a clock of its own."""

    def test_drift(self) -> None:
        """A fast clock makes its calls early, and says that it was in time."""
        loop = reactor()
        clock = NodeClock(loop, drift=1.25, offset=100)
        made: list[tuple[float, float]] = []
        call = clock.callLater(10, lambda: made.append((loop.now, clock.seconds())))
        self.assertEqual(call.getTime(), 110)
        loop.run_until(20)
        self.assertEqual(made, [(8.0, 110.0)])
        self.assertEqual(clock.wall_time(), EPOCH + 25)

    def test_never_early(self) -> None:
        """However a clock drifts, its calls come when it says that they are due, or after."""
        for number in range(1, 200):
            loop = reactor()
            clock = NodeClock(loop, drift=1 + number * 1.1e-6, offset=number * 7.7)
            loop.run_until(number / 7)
            begin = clock.seconds()
            made: list[float] = []
            clock.callLater(30, lambda made=made, clock=clock: made.append(clock.seconds()))
            loop.run_until(100)
            self.assertGreaterEqual(made[0], begin + 30)
            self.assertLess(made[0], begin + 30 + 1e-9)

    def test_drift_of_moved_calls(self) -> None:
        """delay() and reset() are in the clock's own seconds."""
        loop = reactor()
        clock = NodeClock(loop, drift=2.0)
        made: list[float] = []
        call = clock.callLater(2, lambda: made.append(loop.now))
        call.delay(2)
        self.assertEqual(call.getTime(), 4)
        call.reset(6)
        loop.run_until(9)
        self.assertEqual(made, [3.0])

    def test_crash(self) -> None:
        """A crashed process makes no call any more; others do."""
        loop = reactor()
        made: list[str] = []
        dead, alive = NodeClock(loop), NodeClock(loop)
        dead.callLater(1, made.append, "dead")
        call = alive.callLater(1, made.append, "alive")
        dead.crashed = True
        self.assertEqual((dead.getDelayedCalls(), alive.getDelayedCalls()), ([], [call]))
        loop.run_until(2)
        self.assertEqual(made, ["alive"])

    def test_stall(self) -> None:
        """A process that gets no CPU makes its calls late, all of them."""
        loop = reactor()
        made: list[float] = []
        clock = NodeClock(loop)
        for delay in (1.0, 2.0, 5.0):
            clock.callLater(delay, lambda: made.append(loop.now))
        loop.run_until(0.5)
        clock.stall(3)
        loop.run_until(9)
        self.assertEqual(made, [3.5, 3.5, 5.0])

    def test_looping_call(self) -> None:
        """Twisted's own loops run on it, at the times that they ask for."""
        loop = reactor()
        clock = NodeClock(loop, offset=5)
        made: list[float] = []
        looping = LoopingCall(lambda: made.append(loop.now))
        looping.clock = clock
        looping.start(0.5)
        loop.run_until(1.75)
        looping.stop()
        loop.run_until(5)
        self.assertEqual(made, [0.0, 0.5, 1.0, 1.5])
