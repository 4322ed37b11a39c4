"""The process executor, with a keeper that is none: no process, no time."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Any

from twisted.internet.error import ProcessDone, ProcessExitedAlready, ProcessTerminated
from twisted.internet.interfaces import IPushProducer
from twisted.internet.protocol import ProcessProtocol
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from bzzz.config import OPTIONS
from bzzz.config.kinds import Whole
from bzzz.tasks.executors.interfaces import Ending, IExecutor, Over, Run
from bzzz.tasks.executors.keeper_messages import (
    Ended,
    EndingName,
    Extend,
    Frames,
    Order,
    Ready,
    Report,
    Shutdown,
    Start,
    Started,
    Stop,
    decode_order,
    encode,
    frame,
)
from bzzz.tasks.executors.process import (
    CLOSE_TIMEOUT,
    GRACE,
    HEALTHY,
    MAX_LINE,
    MAX_RESTART_DELAY,
    MAX_RUNS,
    ProcessExecutor,
)


class FakeKeeper:
    """Stands for the process and its transport.

    :ivar orders: what it was told and has not looked at.
    """

    def __init__(self, protocol: ProcessProtocol) -> None:
        self.protocol = protocol
        self.producer: IPushProducer | None = None
        self.signals: list[str] = []
        self._frames = Frames(decode_order)
        self._orders: list[Order] = []

    @property
    def orders(self) -> list[Order]:
        orders, self._orders = self._orders, []
        return orders

    def say(self, *reports: Report) -> None:
        data = b"".join(frame(encode(report)) for report in reports)
        self.protocol.outReceived(data)

    def end(self, reason: Exception) -> None:
        self.protocol.processExited(Failure(reason))
        self.protocol.processEnded(Failure(reason))

    def die(self) -> None:
        self.end(ProcessTerminated(signal=signal.SIGKILL))

    # -- the transport

    def write(self, data: bytes) -> None:
        self._orders += self._frames.receive(data)

    def registerProducer(self, producer: IPushProducer, streaming: bool) -> None:
        self.producer = producer

    def signalProcess(self, name: str) -> None:
        self.signals.append(name)


class FakeReactor(Clock):
    """Makes keepers that are none.

    :ivar broken: why it cannot.
    """

    def __init__(self) -> None:
        super().__init__()
        self.keepers: list[FakeKeeper] = []
        self.argv: list[str] = []
        self.broken: OSError | None = None

    def spawnProcess(
        self, protocol: ProcessProtocol, path: str, argv: list[str], env: dict[str, str]
    ) -> None:
        if self.broken is not None:
            raise self.broken
        self.argv = argv
        keeper = FakeKeeper(protocol)
        self.keepers.append(keeper)
        protocol.makeConnection(keeper)


def run(key: str = "t.1", **fields: Any) -> Run:
    """A run of nothing much."""
    return Run(
        key=key,
        argv=("true",),
        env={"A": "b"},
        directory="/",
        stdout="/dev/null",
        stderr="/dev/null",
        **fields,
    )


class ExecutorTests(SynchronousTestCase):
    """One executor.

    :ivar over: the ends that were told, by key.
    """

    def setUp(self) -> None:
        self.reactor = FakeReactor()
        self.executor = ProcessExecutor(self.reactor, max_runs=3)
        self.over: dict[str, Over] = {}

    def test_as_many_as_tasks(self) -> None:
        """No run is refused because there are too many, however many tasks the owner permits."""
        [kind] = [option.kind for option in OPTIONS if option.key == "max_tasks"]
        assert isinstance(kind, Whole)
        self.assertGreaterEqual(MAX_RUNS, kind.most)

    def told(self, key: str) -> Callable[[Over], None]:
        def over(how: Over) -> None:
            self.assertNotIn(key, self.over, "an end is told once")
            self.over[key] = how

        return over

    def start(self, *keys: str) -> None:
        for key in keys:
            self.executor.start(run(key), 5.0, self.told(key))

    @property
    def keeper(self) -> FakeKeeper:
        return self.reactor.keepers[-1]

    def endings(self) -> dict[str, Ending]:
        return {key: over.ending for key, over in self.over.items()}

    # -- runs

    def test_interface(self) -> None:
        """It is an executor."""
        verifyObject(IExecutor, self.executor)
        self.assertEqual(self.executor.name, "process")

    def test_run(self) -> None:
        """A run goes to the keeper with all it has, and its end comes back as it was told."""
        self.executor.start(run("t.1", memory=7, timeout=2.0), 5.0, self.told("t.1"))
        (order,) = self.keeper.orders
        assert isinstance(order, Start)
        self.assertEqual((order.key, order.argv, order.env), ("t.1", ("true",), {"A": "b"}))
        self.assertEqual((order.memory, order.timeout, order.until), (7, 2.0, 5.0))
        self.assertEqual(order.grace, GRACE)
        self.keeper.say(Ready(), Started("t.1", 77))
        self.assertEqual(self.over, {})
        self.keeper.say(Ended("t.1", "exited", 3, ""))
        self.assertEqual(self.over, {"t.1": Over(Ending.EXITED, 3, "")})

    def test_no_keeper_for_nothing(self) -> None:
        """A node that runs nothing has no keeper."""
        self.assertEqual(self.reactor.keepers, [])
        self.successResultOf(self.executor.close())

    def test_one_keeper(self) -> None:
        """One process keeps all runs; it is not a program of the user's directory."""
        self.start("t.1", "t.2")
        self.assertEqual(len(self.reactor.keepers), 1)
        self.assertEqual(len(self.keeper.orders), 2)
        self.assertIn("-P", self.reactor.argv)

    def test_every_ending(self) -> None:
        """Whatever ends a run at the keeper is told by the name that it has here."""
        names: list[EndingName] = ["timed_out", "stopped", "lease_ended", "over_limit"]
        for name in names:
            self.start(name)
            self.keeper.say(Ready(), Ended(name, name))
        self.assertEqual(self.endings(), {name: Ending(name) for name in names})

    def test_extend_and_stop(self) -> None:
        """Both go to the keeper, for the runs that there are alone."""
        self.start("t.1")
        self.keeper.say(Ready())
        self.keeper.orders  # noqa: B018 - they have been looked at
        self.executor.extend("t.1", 8.0)
        self.executor.stop("t.1", 2.0)
        self.executor.extend("t.2", 8.0)
        self.executor.stop("t.2", 2.0)
        self.assertEqual(self.keeper.orders, [Extend("t.1", 8.0), Stop("t.1", 2.0)])

    def test_callback_fails(self) -> None:
        """Who fails on being told of an end costs no other run anything."""

        def fail(over: Over) -> None:
            raise RuntimeError("no")

        self.executor.start(run("t.1"), 5.0, fail)
        self.start("t.2")
        self.keeper.say(Ready(), Ended("t.1", "exited", 0), Ended("t.2", "exited", 0))
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)
        self.assertEqual(self.endings(), {"t.2": Ending.EXITED})

    # -- refusals

    def refused(self, key: str, run: Run) -> str:
        self.executor.start(run, 5.0, self.told(key))
        self.assertNotIn(key, self.over, "an end is told later")
        self.reactor.advance(0)
        over = self.over.pop(key)
        self.assertEqual((over.ending, over.exit_status), (Ending.NOT_STARTED, None))
        return over.reason

    def test_same_key(self) -> None:
        """A second run of one key is refused, and the first goes on."""
        self.start("t.1")
        self.assertIn("t.1 is there already", self.refused("second", run("t.1")))
        self.keeper.say(Ready(), Ended("t.1", "exited", 0))
        self.assertEqual(self.endings(), {"t.1": Ending.EXITED})

    def test_cap(self) -> None:
        """Runs are limited in number; the place of one that is over is free again."""
        self.start("t.1", "t.2", "t.3")
        self.assertIn("3 runs are there already", self.refused("t.4", run("t.4")))
        self.keeper.say(Ready(), Ended("t.1", "exited", 0))
        self.start("t.5")
        self.assertNotIn("t.5", self.over)

    def test_too_long(self) -> None:
        """A command that no message holds is refused, and the keeper hears nothing of it."""
        long = Run(
            key="t.1",
            argv=("true", "x" * (2 << 20)),
            env={},
            directory="/",
            stdout="/dev/null",
            stderr="/dev/null",
        )
        self.assertIn("may have", self.refused("t.1", long))
        self.assertEqual(self.reactor.keepers, [])

    # -- keepers that end

    def test_keeper_dies(self) -> None:
        """Its runs are over when it and its shims have ended; the next run has another keeper."""
        self.start("t.1", "t.2")
        self.keeper.say(Ready(), Ended("t.1", "exited", 0))
        killed = Failure(ProcessTerminated(signal=signal.SIGKILL))
        self.keeper.protocol.processExited(killed)
        self.assertNotIn("t.2", self.over)
        self.start("t.3")
        self.assertEqual(len(self.reactor.keepers), 1)
        self.keeper.protocol.processEnded(killed)
        self.assertEqual(self.over["t.2"].ending, Ending.STOPPED)
        self.assertIn("SIGKILL", self.over["t.2"].reason)
        self.reactor.advance(MAX_RESTART_DELAY)
        self.assertEqual(len(self.reactor.keepers), 2)
        self.assertEqual([order.key for order in self.starts()], ["t.3"])
        self.assertNotIn("t.3", self.over)

    def starts(self) -> list[Start]:
        return [order for order in self.keeper.orders if isinstance(order, Start)]

    def test_waiting_run(self) -> None:
        """While no keeper is there a run waits; its lease can be extended, and it can be ended."""
        self.start("t.1")
        self.keeper.say(Ready())
        self.keeper.die()
        self.start("t.2", "t.3")
        self.executor.extend("t.2", 9.0)
        self.executor.stop("t.3", 1.0)
        self.reactor.advance(0)
        self.assertEqual(self.over["t.3"].ending, Ending.STOPPED)
        self.reactor.advance(MAX_RESTART_DELAY)
        self.assertEqual([(each.key, each.until) for each in self.starts()], [("t.2", 9.0)])

    def test_backoff(self) -> None:
        """Keepers that end one after the other are started less and less often."""
        self.start("t.0")
        waits = []
        for _ in range(12):
            self.keeper.say(Ready())
            self.keeper.die()
            self.executor.start(run(), 5.0, lambda over: None)
            (call,) = self.reactor.getDelayedCalls()
            waits.append(round(call.getTime() - self.reactor.seconds(), 3))
            self.reactor.advance(MAX_RESTART_DELAY)
        self.assertEqual(waits[:4], [0.1, 0.2, 0.4, 0.8])
        self.assertEqual(waits[-1], MAX_RESTART_DELAY)
        self.keeper.say(Ready())
        self.reactor.advance(HEALTHY)
        self.keeper.die()
        count = len(self.reactor.keepers)
        self.executor.start(run(), 5.0, lambda over: None)
        self.assertEqual(len(self.reactor.keepers), count + 1)

    def test_keeper_cannot_start(self) -> None:
        """A keeper that never was ready ends what waits for it, with its last words."""
        self.start("t.1")
        self.keeper.protocol.errReceived(b"Traceback\nImportError: no ")
        self.keeper.protocol.errReceived(b"bzzz\n")
        self.keeper.end(ProcessTerminated(exitCode=1))
        over = self.over["t.1"]
        self.assertEqual(over.ending, Ending.NOT_STARTED)
        self.assertIn("exit status 1. ImportError: no bzzz", over.reason)

    def test_no_process(self) -> None:
        """Where the kernel gives no process, runs are not started, and the next is tried."""
        self.reactor.broken = OSError(11, "Resource temporarily unavailable")
        self.start("t.1")
        self.assertEqual(self.over, {})
        self.reactor.advance(0)
        self.assertEqual(self.over["t.1"].ending, Ending.NOT_STARTED)
        self.assertIn("temporarily unavailable", self.over["t.1"].reason)
        self.reactor.broken = None
        self.start("t.2")
        self.reactor.advance(MAX_RESTART_DELAY)
        self.assertEqual([order.key for order in self.starts()], ["t.2"])

    def test_malformed(self) -> None:
        """A keeper that says what makes no sense is killed, and is believed nothing more."""
        for data in (
            b"\xff\xff\xff\xff",
            frame(b"nonsense"),
            frame(encode(Ended("t.9", "exited", 0))),
            frame(encode(Started("t.9", 5))),
        ):
            self.setUp()
            self.start("t.1")
            self.keeper.say(Ready())
            self.keeper.protocol.outReceived(data)
            self.assertEqual(self.keeper.signals, ["KILL"])
            self.keeper.say(Ended("t.1", "exited", 0))
            self.assertEqual(self.over, {})
            self.keeper.die()
            self.assertEqual(self.endings(), {"t.1": Ending.STOPPED})

    def test_not_ready(self) -> None:
        """A keeper that reports before it is ready is another program."""
        self.start("t.1")
        self.keeper.say(Ended("t.1", "exited", 0))
        self.assertEqual((self.keeper.signals, self.over), (["KILL"], {}))

    def test_long_complaint(self) -> None:
        """Of a line without end a part is kept."""
        self.start("t.1")
        for _ in range(100):
            self.keeper.protocol.errReceived(b"x" * MAX_LINE)
        self.keeper.protocol.errReceived(b"x" * MAX_LINE + b"\n")
        self.keeper.end(ProcessTerminated(exitCode=1))
        self.assertIn("x" * MAX_LINE, self.over["t.1"].reason)
        self.assertLess(len(self.over["t.1"].reason), 2 * MAX_LINE)

    def test_slow_keeper(self) -> None:
        """One that does not read is told the last end of a lease when it does, and no other."""
        self.start("t.1")
        self.keeper.say(Ready())
        self.keeper.orders  # noqa: B018 - they have been looked at
        producer = self.keeper.producer
        assert producer is not None
        producer.pauseProducing()
        for until in (6.0, 7.0, 8.0):
            self.executor.extend("t.1", until)
        self.assertEqual(self.keeper.orders, [])
        producer.resumeProducing()
        self.assertEqual(self.keeper.orders, [Extend("t.1", 8.0)])

    # -- the end

    def test_close(self) -> None:
        """The keeper kills what there is; closing is done when it has ended."""
        self.start("t.1", "t.2")
        self.keeper.say(Ready())
        self.keeper.orders  # noqa: B018 - they have been looked at
        closed = self.executor.close()
        again = self.executor.close()
        self.assertEqual(self.keeper.orders[0], Shutdown())
        self.keeper.say(Ended("t.1", "stopped", 137, "it was told to stop"))
        self.assertNoResult(closed)
        self.keeper.end(ProcessDone(0))
        self.assertEqual(self.endings(), {"t.1": Ending.STOPPED, "t.2": Ending.STOPPED})
        self.successResultOf(closed)
        self.successResultOf(again)
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_close_hangs(self) -> None:
        """A keeper that does not end is killed, and its shims end with it."""
        self.start("t.1")
        closed = self.executor.close()
        self.reactor.advance(CLOSE_TIMEOUT)
        self.assertEqual(self.keeper.signals, ["KILL"])
        self.assertNoResult(closed)
        self.keeper.die()
        self.successResultOf(closed)

    def test_close_while_it_ends(self) -> None:
        """A signal that comes too late is no error."""

        def gone(name: str) -> None:
            raise ProcessExitedAlready

        self.start("t.1")
        self.keeper.signalProcess = gone  # type: ignore[method-assign]  # for this test
        self.executor.close()
        self.reactor.advance(CLOSE_TIMEOUT)

    def test_close_with_none(self) -> None:
        """Runs that wait for a keeper are over at once, and no keeper is started for them."""
        self.start("t.1")
        self.keeper.say(Ready())
        self.keeper.die()
        self.start("t.2")
        self.successResultOf(self.executor.close())
        self.assertEqual(self.over["t.2"].ending, Ending.STOPPED)
        self.reactor.advance(MAX_RESTART_DELAY)
        self.assertEqual(len(self.reactor.keepers), 1)

    def test_closed(self) -> None:
        """After that nothing is started."""
        self.successResultOf(self.executor.close())
        self.assertIn("starts nothing more", self.refused("t.1", run()))
