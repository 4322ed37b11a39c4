"""The systemd executor, with a systemd and shims that are none: no process, no time."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from typing import Any, cast

from twisted.internet.defer import Deferred, fail, maybeDeferred, succeed
from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.logger import LogLevel
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from bzzz.errors import BzzzError
from bzzz.tasks.executors.interfaces import Ending, IExecutor, Over, Run
from bzzz.tasks.executors.keeper_messages import (
    MAX_MESSAGE,
    Ended,
    EndingName,
    Extend,
    Frames,
    Order,
    Start,
    Started,
    Stop,
    decode_order,
    encode,
    frame,
)
from bzzz.tasks.executors.keeper_runs import LATE
from bzzz.tasks.executors.process import CLOSE_TIMEOUT
from bzzz.tasks.executors.systemd import (
    BUS_PATIENCE,
    SHIM_PATIENCE,
    STOP_LATE,
    UNKNOWN_AFTER,
    SystemdExecutor,
)
from bzzz.tasks.executors.unit_bus import LIST_AGAIN, LOOK_AGAIN
from bzzz.tasks.executors.unit_channel import Channel
from bzzz.tasks.executors.unit_interfaces import UnitEnd, UnitListener, UnitSpec
from bzzz.tasks.executors.unit_messages import Hello, encode_hello
from bzzz.tasks.executors.unit_runs import UNIT_LATE
from bzzz.tasks.executors.unit_shim import STDERR, STDOUT
from bzzz.tasks.executors.unit_specs import SHIM_MEMORY, Places
from tests.logs import lines_at

KEY = "01ABC.1"
UNIT = "bzzz-task-abcdef-01ABC.1.service"
GROUP = "/user.slice/a.service"


class FakeUnits:
    """A systemd.

    :ivar specs: units that were started, by name.
    :ivar killed: names, in order.
    :ivar refuses: what a start fails with, if it does.
    :ivar answer: of a start, if it does not come at once.
    :ivar before: units that a daemon before has left.
    """

    def __init__(self) -> None:
        self.up = False
        self.listener: UnitListener | None = None
        self.specs: dict[str, UnitSpec] = {}
        self.killed: list[str] = []
        self.forgotten: list[str] = []
        self.refuses: BaseException | None = None
        self.answer: Deferred[None] | None = None
        self.before: list[str] = []
        self.cannot_list = ""
        self.stopped = False

    def start(self, listener: UnitListener) -> None:
        self.listener = listener

    def stop(self) -> Deferred[None]:
        self.stopped = True
        return succeed(None)

    def run(self, spec: UnitSpec) -> Deferred[None]:
        if self.refuses is not None:
            return fail(self.refuses)
        self.specs[spec.name] = spec
        return self.answer or succeed(None)

    def kill(self, name: str) -> None:
        self.killed.append(name)

    def forget(self, name: str) -> None:
        self.forgotten.append(name)

    def names(self, prefix: str) -> Deferred[list[str]]:
        if self.cannot_list:
            return fail(BzzzError(self.cannot_list))
        return succeed([name for name in self.before if name.startswith(prefix)])

    def is_up(self) -> None:
        self.up = True
        assert self.listener is not None
        self.listener.units_up()

    def is_lost(self, reason: str = "the bus closed the connection") -> None:
        self.up = False
        assert self.listener is not None
        self.listener.units_lost(reason)

    def over(
        self, result: str = "success", code: int = 1, status: int = 0, name: str = UNIT
    ) -> None:
        assert self.listener is not None
        self.listener.unit_over(name, UnitEnd(result, code, status))


class Transport(StringTransport):
    """Of a shim's connection.

    :ivar descriptors: that were passed.
    """

    def __init__(self, channel: Channel) -> None:
        super().__init__()
        self.descriptors: list[int] = []
        self.channel = channel

    def sendFileDescriptor(self, descriptor: int) -> None:
        self.descriptors.append(descriptor)

    def abortConnection(self) -> None:
        if not self.disconnected:
            self.disconnected = True
            self.channel.connectionLost(Failure(ConnectionDone()))


class FakeShim:
    """The other end of a connection.

    :ivar hung_up: whether the daemon has closed it.
    """

    def __init__(self, factory: Any) -> None:
        self.channel = factory.buildProtocol(None)
        self.transport = Transport(self.channel)
        self.channel.makeConnection(self.transport)
        self._frames: Frames[Order] = Frames(decode_order)

    @property
    def hung_up(self) -> bool:
        return bool(self.transport.disconnected)

    def say(self, data: bytes) -> None:
        self.channel.dataReceived(frame(data))

    def hello(self, key: str = KEY) -> None:
        self.say(encode_hello(Hello(key, GROUP)))

    def ended(
        self, ending: EndingName = "exited", status: int | None = 0, reason: str = ""
    ) -> None:
        """Tell of the end, and end."""
        self.say(encode(Ended(KEY, ending, status, reason)))
        self.end()

    def end(self) -> None:
        self.transport.abortConnection()

    def orders(self) -> list[Order]:
        """What it was told since."""
        data = self.transport.value()
        self.transport.clear()
        return self._frames.receive(data)


class FakePort:
    def __init__(self) -> None:
        self.listening = True

    def stopListening(self) -> Deferred[None]:
        self.listening = False
        return succeed(None)


class FakeReactor:
    """:ivar factory: of what is listened with."""

    def __init__(self) -> None:
        self.factory: Any = None
        self.port = FakePort()

    def listenUNIX(self, path: str, factory: Any, mode: int) -> FakePort:
        if not os.path.isdir(os.path.dirname(path)):
            raise OSError(2, "No such file or directory")
        self.path, self.factory, self.mode = path, factory, mode
        return self.port


def run_of(key: str = KEY, **fields: Any) -> Run:
    known = {
        "argv": ("make", "all"),
        "env": {"A": "b"},
        "directory": "/var/lib/bzzz/tasks/01ABC.1/work",
        "stdout": "/var/lib/bzzz/tasks/01ABC.1/stdout",
        "stderr": "/var/lib/bzzz/tasks/01ABC.1/stderr",
    }
    return Run(key=key, **{**known, **fields})


class ExecutorCase(SynchronousTestCase):
    """One executor, whose systemd is there.

    :ivar overs: how runs ended, by key.
    :ivar group: what is in the control group; None where that cannot be said.
    """

    def setUp(self) -> None:
        self.directory = tempfile.mkdtemp(prefix="bzzz-runs-")
        self.addCleanup(os.rmdir, self.directory)
        self.clock = Clock()
        self.reactor = FakeReactor()
        self.units = FakeUnits()
        self.group: list[int] | None = None
        self.groups_killed: list[str] = []
        self.opened: list[int] = []
        self.cannot_open: OSError | None = None
        self.threads: list[Deferred[None]] = []
        self.slow = False
        self.executor = SystemdExecutor(
            self.reactor,
            self.clock,
            self.units,
            Places(
                node="abcdef",
                socket=f"{self.directory}/runs.sock",
                private=("/var/lib/bzzz", "/run/bzzz"),
                python="/usr/bin/python3",
                modules=("/a", "/b"),
                readable=("/a",),
            ),
            self.in_thread,
            max_runs=3,
            open_outputs=self.open_outputs,
            alive=lambda cgroup: self.group,
            kill_group=self.groups_killed.append,
        )
        self.overs: dict[str, list[Over]] = {}
        self.executor.open()
        self.units.is_up()

    def in_thread(self, work: Callable[[], Any]) -> Deferred[Any]:
        """At once, or when :meth:`threads_end`."""
        if not self.slow:
            return maybeDeferred(work)
        waiting: Deferred[None] = Deferred()
        self.threads.append(waiting)
        return waiting.addCallback(lambda _: work())

    def threads_end(self) -> None:
        threads, self.threads = self.threads, []
        for each in threads:
            each.callback(None)

    def open_outputs(self, run: Run) -> tuple[int, ...]:
        if self.cannot_open is not None:
            raise self.cannot_open
        files = (os.open(os.devnull, os.O_WRONLY), os.open(os.devnull, os.O_WRONLY))
        self.opened += files
        return files

    def assert_closed(self) -> None:
        """No file of output is open here."""
        for each in self.opened:
            self.assertRaises(OSError, os.fstat, each)
        self.opened.clear()

    def start(self, run: Run | None = None, until: float = 100.0) -> None:
        wanted = run or run_of()
        self.executor.start(wanted, until, self.overs.setdefault(wanted.key, []).append)

    def begin(self, run: Run | None = None, until: float = 100.0) -> FakeShim:
        """Start, up to when the shim has been told what to run."""
        self.start(run, until)
        shim = FakeShim(self.reactor.factory)
        shim.hello((run or run_of()).key)
        shim.orders()
        shim.say(encode(Started((run or run_of()).key, 7)))
        return shim

    def over(self, key: str = KEY) -> Over:
        """How it ended; it is told once."""
        (over,) = self.overs[key]
        return over

    def assert_runs(self, key: str = KEY) -> None:
        self.assertEqual(self.overs[key], [])


class RunTests(ExecutorCase):
    """A run from its start to its end."""

    def test_interface(self) -> None:
        """It is an executor."""
        verifyObject(IExecutor, self.executor)
        self.assertEqual(self.executor.name, "systemd")
        self.assertEqual(self.reactor.mode, 0o600)

    def test_unit(self) -> None:
        """The unit has the run's sandbox and limits; nobody sees what it runs before the shim."""
        self.start(run_of(timeout=5.0, memory=1 << 30, cpus=1.5, profile="no-network"))
        spec = self.units.specs[UNIT]
        self.assertEqual(
            spec.argv,
            (
                *("/usr/bin/python3", "-P", "-X", "utf8"),
                *("-m", "bzzz.tasks.executors.unit_shim", KEY),
            ),
        )
        self.assertEqual(spec.environment, {"PYTHONPATH": "/a:/b"})
        self.assertEqual(spec.control, f"{self.directory}/runs.sock")
        self.assertEqual(spec.writable, run_of().directory)
        self.assertEqual(spec.hidden, ("/var/lib/bzzz", "/run/bzzz", "/run/dbus"))
        self.assertEqual(spec.readable, ("/a",))
        self.assertEqual((spec.strict, spec.network), (True, False))
        self.assertEqual((spec.memory, spec.cpus), ((1 << 30) + SHIM_MEMORY, 1.5))
        # The shim's own end comes first.
        self.assertGreater(spec.runtime, 15.0)
        self.start(run_of("t.2", profile="trusted"))
        spec = self.units.specs["bzzz-task-abcdef-t.2.service"]
        self.assertEqual((spec.strict, spec.network), (False, True))
        self.assertEqual((spec.memory, spec.runtime), (0, 0.0))

    def test_told(self) -> None:
        """The shim is told what to run, with the lease as it is by then."""
        run = run_of(timeout=5.0, profile="no-network")
        self.start(run, 3.0)
        self.executor.extend(KEY, 4.0)
        shim = FakeShim(self.reactor.factory)
        self.assertEqual(shim.orders(), [])
        shim.hello()
        (told,) = shim.orders()
        assert isinstance(told, Start)
        self.assertEqual((told.key, told.argv, told.env), (KEY, run.argv, run.env))
        self.assertEqual((told.stdout, told.stderr, told.until), (STDOUT, STDERR, 4.0))
        self.assertEqual((told.timeout, told.profile), (5.0, "default"))
        self.executor.extend(KEY, 5.0)
        self.executor.extend("unknown", 5.0)
        self.assertEqual(shim.orders(), [Extend(KEY, 5.0)])
        # They were passed, and are closed here when they are there.
        self.assertEqual(shim.transport.descriptors, self.opened)
        for each in self.opened:
            os.fstat(each)
        shim.say(encode(Started(KEY, 7)))
        self.assert_closed()

    def test_output(self) -> None:
        """Output that cannot be opened is no start, with the file."""
        self.cannot_open = PermissionError(13, "Permission denied", "/a/stdout")
        self.start()
        shim = FakeShim(self.reactor.factory)
        shim.hello()
        self.assertTrue(shim.hung_up)
        self.assertEqual(self.over().ending, Ending.NOT_STARTED)
        self.assertIn("Permission denied: '/a/stdout'", self.over().reason)

    def test_slow_disk(self) -> None:
        """What happens while files are opened counts; they are not left open."""
        self.slow = True
        for end in (
            lambda shim: self.executor.stop(KEY, 5.0),
            lambda shim: shim.end(),
        ):
            self.overs.clear()
            self.start()
            shim = FakeShim(self.reactor.factory)
            shim.hello()
            other = FakeShim(self.reactor.factory)
            other.hello()
            self.assertTrue(other.hung_up)
            end(shim)
            self.threads_end()
            self.assertEqual(shim.orders(), [])
            self.assert_closed()
            self.clock.advance(0)
            self.units.over()
            self.assertIn(self.over().ending, (Ending.STOPPED, Ending.NOT_STARTED))

    def test_extended_meanwhile(self) -> None:
        """An extension that comes while files are opened is in what the shim is told."""
        self.slow = True
        self.start(until=3.0)
        shim = FakeShim(self.reactor.factory)
        shim.hello()
        self.executor.extend(KEY, 5.0)
        self.assertEqual(shim.orders(), [])
        self.threads_end()
        (told,) = shim.orders()
        assert isinstance(told, Start)
        self.assertEqual(told.until, 5.0)

    def test_flaw_in_opening(self) -> None:
        """Another failure there is logged, and is an end."""
        self.cannot_open = cast(Any, ValueError("embedded null byte"))
        self.start()
        FakeShim(self.reactor.factory).hello()
        self.assertEqual(self.over(), Over(Ending.NOT_STARTED, None, "embedded null byte"))
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)

    def test_end(self) -> None:
        """It is over when systemd says that nothing is left, and not before all was heard."""
        shim = self.begin()
        shim.ended("exited", 3)
        self.assert_runs()
        self.units.over()
        self.assertEqual(self.over(), Over(Ending.EXITED, 3, ""))
        self.assertEqual(self.units.forgotten, [UNIT])
        shim = self.begin(run_of("t.2"))
        self.units.over(name="bzzz-task-abcdef-t.2.service")
        self.assert_runs("t.2")
        shim.say(encode(Ended("t.2", "exited", 4)))
        shim.end()
        self.assertEqual(self.over("t.2"), Over(Ending.EXITED, 4, ""))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_endings(self) -> None:
        """What the shim says of the end is what is told of it."""
        endings: tuple[EndingName, ...] = (
            "exited",
            "timed_out",
            "stopped",
            "lease_ended",
            "not_started",
            "over_limit",
        )
        for number, ending in enumerate(endings):
            shim = self.begin(run_of(f"t.{number}"))
            shim.say(encode(Ended(f"t.{number}", ending, None, "why")))
            shim.end()
            self.units.over(name=f"bzzz-task-abcdef-t.{number}.service")
            self.assertEqual(self.over(f"t.{number}"), Over(Ending(ending), None, "why"))

    def test_results(self) -> None:
        """Where the shim has said nothing, systemd's result tells; its memory always."""
        for result, code, status, over in (
            ("oom-kill", 2, 9, Over(Ending.OVER_LIMIT, None, "")),
            ("timeout", 2, 9, Over(Ending.TIMED_OUT, None, "")),
            ("watchdog", 2, 9, Over(Ending.LEASE_ENDED, None, "")),
            ("signal", 2, 9, Over(Ending.STOPPED, None, "its shim was killed by SIGKILL")),
            ("core-dump", 3, 200, Over(Ending.STOPPED, None, "killed by signal 200")),
            ("exit-code", 1, 1, Over(Ending.STOPPED, None, "result exit-code, exit status 1")),
            ("success", 1, 0, Over(Ending.STOPPED, None, "has stopped it")),
            ("resources", 0, 0, Over(Ending.STOPPED, None, "result resources")),
            ("", 0, 0, Over(Ending.STOPPED, None, "has stopped it")),
        ):
            self.overs.clear()
            shim = self.begin(run_of(memory=1000))
            shim.end()
            self.units.over(result, code, status)
            said = self.over()
            self.assertEqual((said.ending, said.exit_status), (over.ending, None), result)
            self.assertIn(over.reason, said.reason)
        self.overs.clear()
        shim = self.begin(run_of(memory=1000))
        shim.ended("exited", 137)
        self.units.over("oom-kill", 2, 9)
        self.assertEqual(self.over().ending, Ending.OVER_LIMIT)
        self.assertIn("more than the 1000 bytes of memory that", self.over().reason)

    def test_sandbox(self) -> None:
        """A sandbox that cannot be made is no start, and the step is named."""
        for status, words in ((226, "(226/NAMESPACE)"), (225, "(225/NETWORK)"), (299, "(299)")):
            self.overs.clear()
            self.start()
            self.units.over("exit-code", 1, status)
            self.assertEqual(self.over().ending, Ending.NOT_STARTED)
            self.assertIn(f"could not make its sandbox {words}", self.over().reason)

    def test_not_started(self) -> None:
        """A unit that systemd refuses is no start, with its words. A shim has no run then."""
        self.units.refuses = BzzzError("Unit exists")
        self.start()
        self.assertEqual(
            self.over(),
            Over(Ending.NOT_STARTED, None, "systemd did not start its unit: Unit exists"),
        )
        shim = FakeShim(self.reactor.factory)
        shim.hello()
        self.assertTrue(shim.hung_up)
        self.assertEqual(shim.orders(), [])

    def test_answered_too_late(self) -> None:
        """A run that has begun when its start is said to have failed goes on. systemd does not tell
        of its end, which is that of its control group."""
        for first in ("failure", "end"):
            with self.subTest(first=first):
                self.setUp()
                answer = self.units.answer = Deferred()
                shim = self.begin()
                self.group = [7]
                if first == "end":
                    shim.ended("exited", 5)
                answer.errback(BzzzError("no answer of the user's systemd within 10 s"))
                self.assert_runs()
                if first == "failure":
                    shim.ended("exited", 5)
                self.clock.advance(LOOK_AGAIN)
                self.assert_runs()
                self.group = []
                self.clock.advance(LOOK_AGAIN)
                self.assertEqual(self.over(), Over(Ending.EXITED, 5, ""))
                self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_flaw(self) -> None:
        """Another failure is logged, and is an end all the same."""
        self.units.refuses = ValueError("flaw")
        self.start()
        self.assertEqual(self.over().ending, Ending.NOT_STARTED)
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)

    def test_callback_fails(self) -> None:
        """Who waits for one run and fails costs nobody else anything."""

        def fails(over: Over) -> None:
            raise ValueError

        self.executor.start(run_of(), 100.0, fails)
        self.units.over("exit-code", 1, 226)
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)

    def refused(self, run: Run) -> str:
        self.overs.pop(run.key, None)
        self.start(run)
        self.assert_runs(run.key)
        self.clock.advance(0)
        over = self.over(run.key)
        self.assertEqual((over.ending, over.exit_status), (Ending.NOT_STARTED, None))
        return over.reason

    def test_refused(self) -> None:
        """What cannot be a run is refused, later, in words."""
        self.assertIn("profile x: there is none", self.refused(run_of(profile="x")))
        self.assertIn("'a/b' cannot be a part", self.refused(run_of("a/b")))
        long = run_of(env={"A": "b" * MAX_MESSAGE})
        self.assertIn("the command with its environment", self.refused(long))
        self.start()
        self.executor.start(run_of(), 9.0, self.overs.setdefault("again", []).append)
        self.clock.advance(0)
        self.assertIn("is there already", self.over("again").reason)
        for key in ("t.1", "t.2"):
            self.start(run_of(key))
        self.assertIn("3 runs are there already", self.refused(run_of("t.3")))
        self.assertEqual(len(self.units.specs), 3)


class KillTests(ExecutorCase):
    """Who kills, when others do not."""

    def test_stop(self) -> None:
        """The shim is told; if it does not do it, the unit is killed, again and again."""
        shim = self.begin()
        self.executor.stop(KEY, 2.0)
        self.executor.stop("unknown", 2.0)
        self.assertEqual(shim.orders(), [Stop(KEY, 2.0)])
        self.clock.advance(2.0 + STOP_LATE - 0.01)
        self.assertEqual(self.units.killed, [])
        self.clock.advance(0.01)
        self.assertEqual(self.units.killed, [UNIT])
        self.assertEqual(self.groups_killed, [GROUP])
        self.clock.advance(LOOK_AGAIN)
        self.assertEqual(self.units.killed, [UNIT, UNIT])
        self.assert_runs()
        shim.end()
        self.units.over("signal", 2, 9)
        self.assertEqual(self.over().ending, Ending.STOPPED)
        self.assertIn("told to stop, and its shim had not killed it", self.over().reason)

    def test_stop_sooner(self) -> None:
        """A second stop may be sooner, and not later."""
        self.begin()
        self.executor.stop(KEY, 600.0)
        self.executor.stop(KEY, 0.0)
        self.executor.stop(KEY, 600.0)
        self.clock.advance(STOP_LATE)
        self.assertEqual(self.units.killed, [UNIT])

    def test_stop_before_shim(self) -> None:
        """A run whose shim is not there yet is over at once, and its unit is killed."""
        self.start()
        self.executor.stop(KEY, 600.0)
        shim = FakeShim(self.reactor.factory)
        shim.hello()
        self.assertTrue(shim.hung_up)
        self.assert_runs()
        self.clock.advance(0)
        self.assertEqual(self.over(), Over(Ending.STOPPED, None, "it was stopped before its start"))
        self.assertEqual(self.units.killed, [UNIT])

    def test_lease(self) -> None:
        """A lease that ended, and whose shim does nothing, has the unit killed a moment later."""
        shim = self.begin(until=3.0)
        self.clock.advance(2.0)
        self.executor.extend(KEY, 5.0)
        self.clock.advance(3.0)
        self.assertEqual(self.units.killed, [])
        self.clock.advance(LATE)
        self.assertEqual(self.units.killed, [UNIT])
        # It is not wanted any more, whatever anybody says.
        shim.orders()
        self.executor.extend(KEY, 50.0)
        self.assertEqual(shim.orders(), [])
        shim.end()
        self.units.over("signal", 2, 9)
        self.assertEqual(self.over().ending, Ending.LEASE_ENDED)

    def test_told_but_there(self) -> None:
        """A shim that told the end, and is there still long after the lease, is killed."""
        shim = self.begin(until=3.0)
        shim.say(encode(Ended(KEY, "exited", 0)))
        self.clock.advance(3.0 + UNIT_LATE - 0.01)
        self.assertEqual(self.units.killed, [])
        self.clock.advance(0.01)
        self.assertEqual(self.units.killed, [UNIT])
        shim.end()
        self.units.over()
        self.assertEqual(self.over(), Over(Ending.EXITED, 0, ""))

    def test_unit_without_shim(self) -> None:
        """A unit that is there though its shim has hung up is killed."""
        shim = self.begin()
        shim.end()
        self.clock.advance(UNIT_LATE)
        self.assertEqual(self.units.killed, [UNIT])
        self.assert_runs()
        self.units.over("signal", 2, 9)
        self.assertEqual(self.over().ending, Ending.STOPPED)

    def test_socket_without_unit(self) -> None:
        """A connection that outlives its unit is closed."""
        shim = self.begin(until=3.0)
        self.units.over()
        self.clock.advance(3.0 + LATE)
        self.assertTrue(shim.hung_up)
        self.assertEqual(self.over().ending, Ending.LEASE_ENDED)

    def test_no_shim(self) -> None:
        """A unit whose shim does not come is killed, and is no start."""
        self.start()
        self.clock.advance(SHIM_PATIENCE)
        self.assertEqual(self.units.killed, [UNIT])
        self.assertEqual(self.over().ending, Ending.NOT_STARTED)
        self.assertIn("did not come so far as to ask what to run in 20 s", self.over().reason)


class ShimTests(ExecutorCase):
    """What shims may do."""

    def test_strangers(self) -> None:
        """Who is of no run, of one that has a shim, or speaks of another's, is sent away."""
        shim = self.begin()
        other = FakeShim(self.reactor.factory)
        other.hello("t.9")
        self.assertTrue(other.hung_up)
        other = FakeShim(self.reactor.factory)
        other.hello()
        self.assertTrue(other.hung_up)
        other = FakeShim(self.reactor.factory)
        other.say(encode(Ended(KEY, "exited", 0)))
        self.assertTrue(other.hung_up)
        self.assertFalse(shim.hung_up)
        self.assert_runs()

    def test_malformed(self) -> None:
        """One that cannot be understood is hung up on, which ends its run."""
        shim = self.begin()
        lines = lines_at(self, LogLevel.error)
        shim.say(b"\xc1")
        shim.say(b"\xc1")
        self.assertTrue(shim.hung_up)
        self.assertEqual(len(lines), 1)
        self.units.over()
        self.assertEqual(self.over().ending, Ending.STOPPED)


class BusTests(ExecutorCase):
    """Systemd cannot be asked."""

    def test_runs_go_on(self) -> None:
        """A run goes on without a bus, and its end is systemd's word once it is back."""
        shim = self.begin()
        self.units.is_lost()
        self.executor.extend(KEY, 200.0)
        self.assertEqual(shim.orders(), [Extend(KEY, 200.0)])
        self.clock.advance(60.0)
        self.assert_runs()
        self.units.is_up()
        shim.ended()
        self.assert_runs()
        self.units.over()
        self.assertEqual(self.over(), Over(Ending.EXITED, 0, ""))

    def test_end_without_bus(self) -> None:
        """Without a bus a run is over when its control group is empty."""
        shim = self.begin()
        self.units.is_lost()
        self.group = [7]
        shim.ended("exited", 5)
        self.assert_runs()
        self.clock.advance(LOOK_AGAIN)
        # The shim has ended, so nothing else may be there.
        self.assertEqual(self.groups_killed[-1], GROUP)
        self.assert_runs()
        self.group = []
        self.clock.advance(LOOK_AGAIN)
        self.assertEqual(self.over(), Over(Ending.EXITED, 5, ""))

    def test_end_before_loss(self) -> None:
        """A bus that is lost between the end of the shim and that of the unit changes nothing."""
        shim = self.begin()
        shim.ended("exited", 5)
        self.group = []
        self.units.is_lost()
        self.clock.advance(LOOK_AGAIN)
        self.assertEqual(self.over(), Over(Ending.EXITED, 5, ""))

    def test_systemd_is_gone(self) -> None:
        """With the user's systemd go its units: a run whose shim said nothing was stopped."""
        shim = self.begin()
        self.group = []
        self.units.is_lost()
        shim.end()
        self.assertEqual(self.over().ending, Ending.STOPPED)
        self.assertIn("the end of the user's systemd", self.over().reason)

    def test_no_groups(self) -> None:
        """Where control groups cannot be seen the shim's word counts; without it, time."""
        shim = self.begin()
        self.units.is_lost()
        shim.ended("exited", 5)
        self.assertEqual(self.over(), Over(Ending.EXITED, 5, ""))
        shim = self.begin_lost(run_of("t.2"))
        shim.end()
        self.clock.advance(UNKNOWN_AFTER - LOOK_AGAIN)
        self.assert_runs("t.2")
        self.clock.advance(LOOK_AGAIN)
        self.assertEqual(self.over("t.2").ending, Ending.STOPPED)

    def begin_lost(self, run: Run) -> FakeShim:
        self.units.is_up()
        shim = self.begin(run)
        self.units.is_lost()
        return shim

    def test_lease_without_bus(self) -> None:
        """A shim that does nothing at its lease's end is killed by its control group."""
        shim = self.begin(until=3.0)
        self.units.is_lost()
        self.group = [7, 8]
        self.clock.advance(3.0 + LATE)
        self.assertEqual((self.groups_killed, self.units.killed), ([GROUP], []))
        self.group = []
        shim.end()
        self.assertEqual(self.over().ending, Ending.LEASE_ENDED)

    def test_waits_for_bus(self) -> None:
        """A run that begins without a bus waits for it a little."""
        self.units.is_lost()
        self.start()
        self.assertEqual(self.units.specs, {})
        self.clock.advance(BUS_PATIENCE - 0.1)
        self.units.is_up()
        self.assertEqual([*self.units.specs], [UNIT])
        self.clock.advance(1.0)
        self.assert_runs()

    def test_no_bus(self) -> None:
        """If it does not come back the run is no start, with the reason."""
        self.units.is_lost("nobody listens there")
        self.start()
        self.clock.advance(BUS_PATIENCE)
        self.assertEqual(self.over().ending, Ending.NOT_STARTED)
        self.assertIn("cannot be asked: nobody listens there", self.over().reason)
        self.assertEqual(self.executor.bus.problem, "nobody listens there")

    def test_stop_while_waiting(self) -> None:
        """A run that waits for the bus can be stopped."""
        self.units.is_lost()
        self.start()
        self.executor.stop(KEY, 10.0)
        # Too late.
        self.units.is_up()
        self.assertEqual(self.units.specs, {})
        self.clock.advance(0)
        self.assertEqual(self.over().ending, Ending.STOPPED)
        self.assertEqual(self.units.killed, [])


class BeginningTests(ExecutorCase):
    """What is there when a daemon begins."""

    def setUp(self) -> None:
        super().setUp()
        self.units.is_lost()
        self.reactor = FakeReactor()
        self.units = FakeUnits()
        self.executor = SystemdExecutor(
            self.reactor,
            self.clock,
            self.units,
            Places(node="abcdef", socket=f"{self.directory}/runs.sock", private=()),
            self.in_thread,
            open_outputs=self.open_outputs,
        )

    def test_units_of_before(self) -> None:
        """Units of a daemon before are killed, and gone before anything is started."""
        self.executor.open()
        self.units.before = [UNIT, "bzzz-task-other1-x.1.service"]
        ready = self.executor.bus.when_ready()
        self.start(run_of("t.2"))
        lines = lines_at(self, LogLevel.warn)
        self.units.is_up()
        self.assertEqual((self.units.killed, self.units.specs), ([UNIT], {}))
        self.clock.advance(LOOK_AGAIN)
        self.assertEqual(len(lines), 1)
        self.assertIn(f"1 run of this node's process before is still there: {UNIT}", lines[0])
        self.assertEqual(self.units.killed, [UNIT, UNIT])
        self.assertNoResult(ready)
        self.units.before = []
        self.clock.advance(LOOK_AGAIN)
        self.successResultOf(ready)
        self.assertEqual([*self.units.specs], ["bzzz-task-abcdef-t.2.service"])

    def test_lost_meanwhile(self) -> None:
        """A bus that is lost while they end is waited for, and they are looked for again."""
        self.executor.open()
        self.units.before = [UNIT]
        self.units.is_up()
        self.units.is_lost()
        self.clock.advance(LOOK_AGAIN)
        self.assertFalse(self.executor.bus.ready)
        self.units.before = []
        self.units.is_up()
        self.assertTrue(self.executor.bus.ready)
        self.successResultOf(self.executor.bus.when_ready())

    def test_cannot_list(self) -> None:
        """Where they cannot be listed nothing is started, and it is said why."""
        self.executor.open()
        self.units.cannot_list = "denied"
        ready = self.executor.bus.when_ready()
        self.units.is_up()
        failure = self.failureResultOf(ready, BzzzError)
        self.assertIn("its units cannot be listed: denied", failure.getErrorMessage())
        self.assertFalse(self.executor.bus.ready)
        # It is tried again.
        self.units.cannot_list = ""
        self.clock.advance(LIST_AGAIN)
        self.assertTrue(self.executor.bus.ready)

    def test_no_bus(self) -> None:
        """Who waits for the first connection hears that it failed."""
        self.executor.open()
        ready = self.executor.bus.when_ready()
        self.units.is_lost("there is no session bus")
        self.assertEqual(
            self.failureResultOf(ready, BzzzError).getErrorMessage(), "there is no session bus"
        )

    def test_socket(self) -> None:
        """A socket that a killed daemon has left is replaced; one that cannot be made is named."""
        path = f"{self.directory}/runs.sock"
        with open(path, "w"):
            pass
        self.executor.open()
        self.assertFalse(os.path.exists(path))
        executor = SystemdExecutor(
            self.reactor,
            self.clock,
            self.units,
            Places(node="a", socket="/none/s", private=()),
            self.in_thread,
        )
        error = self.assertRaises(BzzzError, executor.open)
        self.assertIn("/none/s: runs cannot be talked to there", str(error))


class CloseTests(ExecutorCase):
    """The node ends."""

    def test_close(self) -> None:
        """All runs are stopped at once; it fires when nothing is left of them."""
        shim = self.begin()
        self.start(run_of("t.2"))
        closed = self.executor.close()
        again = self.executor.close()
        self.assertEqual(shim.orders(), [Stop(KEY, 0.0)])
        self.clock.advance(0)
        self.assertEqual(self.over("t.2"), Over(Ending.STOPPED, None, "the node ended"))
        self.assertNoResult(closed)
        self.start(run_of("t.3"))
        self.clock.advance(0)
        self.assertIn("the node ends", self.over("t.3").reason)
        shim.ended("stopped", 137, "it was told to stop")
        self.units.over()
        self.assertEqual(self.over(), Over(Ending.STOPPED, 137, "the node ended"))
        self.successResultOf(closed)
        self.successResultOf(again)
        self.assertEqual((self.reactor.port.listening, self.units.stopped), (False, True))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_nothing(self) -> None:
        """Without runs it fires soon, and a second time too."""
        closed = self.executor.close()
        self.clock.advance(0)
        self.successResultOf(closed)
        again = self.executor.close()
        self.clock.advance(0)
        self.successResultOf(again)

    def test_hangs(self) -> None:
        """A run that does not end is given up, which closes its socket."""
        shim = self.begin()
        closed = self.executor.close()
        self.clock.pump([0.1] * int(CLOSE_TIMEOUT * 10 + 1))
        self.successResultOf(closed)
        self.assertTrue(shim.hung_up)
        self.assertIn(UNIT, self.units.killed)
        self.assertEqual(self.over(), Over(Ending.STOPPED, None, "the node ended"))
