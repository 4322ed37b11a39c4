"""The units of tasks, on a bus in memory and a virtual clock."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any, cast

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.task import Clock
from twisted.logger import LogLevel
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from bzzz.errors import BzzzError
from bzzz.systemd.manager import IConnection
from bzzz.systemd.task_units import ARRIVAL, CALL_TIMEOUT, STABLE, TaskUnits
from bzzz.systemd.transient_unit import properties
from bzzz.tasks.executors.unit_interfaces import UnitEnd, UnitSpec
from tests.logs import lines_at
from tests.systemd.test_unit_watch import Message, Refusal

UNIT = "bzzz-task-abcdef-t.1.service"
PATH = "/org/freedesktop/systemd1/unit/bzzz_2dtask_2dabcdef_2dt_2e1_2eservice"
BUS = "org.freedesktop.DBus.Error"


def spec(name: str = UNIT, **fields: Any) -> UnitSpec:
    known = {
        "description": "a task",
        "argv": ("/usr/bin/python3", "-m", "shim"),
        "environment": {"A": "b"},
        "control": "/run/bzzz/runs.sock",
        "writable": "/var/lib/bzzz/tasks/t.1/work",
        "hidden": ("/var/lib/bzzz", "/run/dbus"),
        "tasks": 100,
        "watchdog": 20.0,
    }
    return UnitSpec(name=name, **{**known, **fields})


class FakeSystemd:
    """A user's manager.

    :ivar states: by the path of a unit, its properties.
    :ivar errors: what a method fails with.
    :ivar silent: methods that are not answered.
    :ivar units: what is there, as ``ListUnitsByPatterns`` has it.
    :ivar matched: when it fires the bus passes on signals of units, where it does not at once.
    """

    matched: Deferred[None] | None = None

    def __init__(self) -> None:
        self.states: dict[str, dict[str, object]] = {}
        self.errors: dict[str, Exception] = {}
        self.silent: set[str] = set()
        self.units: list[list[object]] = []


class FakeConnection:
    """:ivar rules: callbacks, by their number, with what they are for."""

    def __init__(self, systemd: FakeSystemd) -> None:
        self.systemd = systemd
        self.calls: list[tuple[str, Any]] = []
        self.rules: dict[int, tuple[Callable[[Any], object], dict[str, Any]]] = {}
        self.open = True
        self.added = 0
        self._told: list[Callable[[Any, Failure], object]] = []
        self._waiting: list[Deferred[Any]] = []

    def callRemote(self, objectPath: str, methodName: str, **how: Any) -> Deferred[Any]:
        assert self.open, "called on a closed connection"
        assert how["destination"] == "org.freedesktop.systemd1", how
        assert how["autoStart"] is False, how
        self.calls.append((methodName, how["body"]))
        if methodName in self.systemd.silent:
            self._waiting.append(Deferred())
            return self._waiting[-1]
        if methodName in self.systemd.errors:
            return fail(self.systemd.errors[methodName])
        if methodName == "Get":
            return succeed(self.systemd.states[objectPath][how["body"][1]])
        return succeed(self.systemd.units if methodName == "ListUnitsByPatterns" else None)

    def addMatch(self, callback: Callable[[Any], object], **rule: Any) -> Deferred[int]:
        assert self.open, "called on a closed connection"
        assert rule["mtype"] == "signal", rule
        self.added += 1
        self.rules[self.added] = callback, rule
        number = self.added
        if self.systemd.matched is not None and rule["path"] == PATH:
            return self.systemd.matched.addCallback(lambda _: number)
        return succeed(number)

    def delMatch(self, rule_id: int) -> Deferred[None]:
        assert self.open, "called on a closed connection"
        del self.rules[rule_id]
        return succeed(None)

    def signal(self, member: str, body: list[Any], path: str = PATH) -> None:
        """What systemd or the bus sends, to those who asked for it."""
        for callback, rule in [*self.rules.values()]:
            if rule["member"] == member and rule["path"] in (path, "/org/freedesktop/DBus"):
                callback(Message(path, body))

    def owner(self, before: str, after: str) -> None:
        self.signal("NameOwnerChanged", ["org.freedesktop.systemd1", before, after])

    def unit(self, **changed: object) -> None:
        self.signal("PropertiesChanged", ["org.freedesktop.systemd1.Unit", changed, []])

    def service(self, **changed: object) -> None:
        self.signal("PropertiesChanged", ["org.freedesktop.systemd1.Service", changed, []])

    def notifyOnDisconnect(self, callback: Callable[[Any, Failure], object]) -> None:
        self._told.append(callback)

    def disconnect(self) -> None:
        self.lose(ConnectionDone())

    def lose(self, reason: Exception | None = None) -> None:
        self.open = False
        failure = Failure(reason or ConnectionLost())
        for callback in self._told:
            callback(self, failure)
        for each in self._waiting:
            each.errback(failure)

    def called(self, method: str) -> list[Any]:
        return [body for name, body in self.calls if name == method]


class UnitsCase(SynchronousTestCase):
    """:ivar told: what the listener was told, in order."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.systemd = FakeSystemd()
        self.connections: list[FakeConnection] = []
        self.unreachable: Exception | None = None
        self.hanging = False
        self.told: list[object] = []
        self.infos = lines_at(self, LogLevel.info)
        self.units = TaskUnits(self.clock, 999, random=random.Random(1), connect=self.connect)
        self.addCleanup(self.units.stop)

    def connect(self) -> Deferred[IConnection]:
        if self.hanging:
            return Deferred()
        if self.unreachable is not None:
            return fail(self.unreachable)
        self.connections.append(FakeConnection(self.systemd))
        return succeed(cast(IConnection, self.connections[-1]))

    @property
    def connection(self) -> FakeConnection:
        return self.connections[-1]

    # Of a listener.

    def units_up(self) -> None:
        self.told.append("up")

    def units_lost(self, reason: str) -> None:
        self.told.append(f"lost: {reason}")

    def unit_over(self, name: str, end: UnitEnd) -> None:
        self.told.append((name, end))

    def start(self) -> None:
        self.units.start(self)
        self.assertEqual(self.told, ["up"])
        self.told.clear()

    def run_unit(self) -> None:
        self.successResultOf(self.units.run(spec()))


class UnitTests(UnitsCase):
    """A unit that is started and ends."""

    def test_started(self) -> None:
        """Its signals are asked for before it is started, so that none is missed."""
        self.start()
        self.assertEqual(self.connection.called("Subscribe"), [None])
        self.systemd.silent.add("StartTransientUnit")
        started = self.units.run(spec())
        self.assertEqual(
            [rule["path"] for _, rule in self.connection.rules.values()],
            ["/org/freedesktop/DBus", PATH],
        )
        self.assertNoResult(started)
        started.addErrback(lambda failure: failure.trap(BzzzError))
        ((name, mode, told, others),) = self.connection.called("StartTransientUnit")
        self.assertEqual((name, mode, others), (UNIT, "fail", []))
        self.assertEqual(dict(told), dict(properties(spec(), 999)))

    def test_over(self) -> None:
        """Its end is told once, with what the signal before said, and its rule is taken back."""
        self.start()
        self.run_unit()
        self.connection.unit(ActiveState="inactive", InactiveExitTimestamp=0)
        self.connection.unit(ActiveState="activating", InactiveExitTimestamp=5)
        self.connection.service(Result="success", ExecMainCode=0, ExecMainStatus=0)
        self.connection.unit(ActiveState="active", InactiveExitTimestamp=5)
        self.connection.service(Result="oom-kill", ExecMainCode=2, ExecMainStatus=9, MainPID=0)
        self.assertEqual(self.told, [])
        self.connection.unit(ActiveState="failed", InactiveExitTimestamp=5)
        self.assertEqual(self.told, [(UNIT, UnitEnd("oom-kill", 2, 9))])
        self.assertEqual(len(self.connection.rules), 1)

    def test_strange_values(self) -> None:
        """What is of another type than documented is not known."""
        self.start()
        self.run_unit()
        self.connection.service(Result=3, ExecMainCode="x", ExecMainStatus=None)
        self.connection.unit(ActiveState="inactive")
        self.assertEqual(self.told, [(UNIT, UnitEnd())])

    def test_forgotten(self) -> None:
        """The end of one that is forgotten is not told."""
        self.start()
        self.run_unit()
        ((callback, _),) = [
            each for each in self.connection.rules.values() if each[1]["path"] == PATH
        ]
        self.units.forget(UNIT)
        self.units.forget(UNIT)
        callback(Message(PATH, ["org.freedesktop.systemd1.Unit", {"ActiveState": "failed"}, []]))
        self.assertEqual(self.told, [])
        self.assertEqual(len(self.connection.rules), 1)

    def test_refused(self) -> None:
        """systemd's words are in the error; nobody waits for the unit any more."""
        self.start()
        self.systemd.errors["StartTransientUnit"] = Refusal(f"{BUS}.InvalidArgs", "no such\nslice")
        failure = self.failureResultOf(self.units.run(spec()), BzzzError)
        self.assertIn("InvalidArgs (no such slice)", failure.getErrorMessage())
        self.assertEqual(len(self.connection.rules), 1)

    def test_no_answer(self) -> None:
        """One that is not answered in time is an error."""
        self.start()
        self.systemd.silent.add("StartTransientUnit")
        started = self.units.run(spec())
        self.clock.advance(CALL_TIMEOUT)
        failure = self.failureResultOf(started, BzzzError)
        self.assertIn("no answer of the user's systemd within 10 s", failure.getErrorMessage())

    def test_not_connected(self) -> None:
        """Without a connection a start fails, and a kill does nothing."""
        self.unreachable = BzzzError("there is no session bus")
        self.units.start(self)
        failure = self.failureResultOf(self.units.run(spec()), BzzzError)
        self.assertEqual(failure.getErrorMessage(), "there is no session bus")
        self.units.kill(UNIT)

    def test_kill(self) -> None:
        """All of a unit gets SIGKILL; that it is gone already is no error."""
        self.start()
        self.systemd.errors["KillUnit"] = Refusal("org.freedesktop.systemd1.NoSuchUnit")
        self.units.kill(UNIT)
        self.assertEqual(self.connection.called("KillUnit"), [[UNIT, "all", 9]])
        self.assertEqual(self.flushLoggedErrors(), [])

    def test_names(self) -> None:
        """Units that are over are not listed."""
        self.start()
        self.systemd.units = [
            ["bzzz-task-a-1.service", "", "loaded", "active", "running"],
            ["bzzz-task-a-2.service", "", "loaded", "failed", "failed"],
            ["bzzz-task-a-3.service", "", "loaded", "deactivating", "stop-sigterm"],
        ]
        names = self.successResultOf(self.units.names("bzzz-task-a-"))
        self.assertEqual(names, ["bzzz-task-a-1.service", "bzzz-task-a-3.service"])
        self.assertEqual(self.connection.called("ListUnitsByPatterns"), [[[], ["bzzz-task-a-*"]]])


class ConnectionTests(UnitsCase):
    """Connections that come and go."""

    def retry(self) -> None:
        before = len(self.connections)
        for _ in range(121):
            self.clock.advance(0.5)
            if len(self.connections) > before:
                return

    def test_lost(self) -> None:
        """A lost connection is told, and made again; what became of units is asked then."""
        self.start()
        self.run_unit()
        self.connection.lose()
        self.assertFalse(self.units.up)
        self.assertEqual(self.told, ["lost: the bus closed the connection"])
        self.told.clear()
        self.systemd.states[PATH] = {
            "ActiveState": "failed",
            "LoadState": "loaded",
            "Result": "timeout",
            "ExecMainCode": 2,
            "ExecMainStatus": 9,
        }
        self.retry()
        self.assertTrue(self.units.up)
        self.assertEqual(self.told, ["up", (UNIT, UnitEnd("timeout", 2, 9))])
        self.assertIn("can be asked again", self.infos[-1])

    def test_still_there(self) -> None:
        """A unit that runs is watched on."""
        self.start()
        self.run_unit()
        self.connection.lose()
        self.systemd.states[PATH] = {"ActiveState": "active"}
        self.retry()
        self.told.clear()
        self.connection.service(Result="success", ExecMainCode=1, ExecMainStatus=0)
        self.connection.unit(ActiveState="inactive")
        self.assertEqual(self.told, [(UNIT, UnitEnd("success", 1, 0))])

    def test_gone(self) -> None:
        """Of a unit that went meanwhile nothing is known but that."""
        gone: dict[str, object] = {"ActiveState": "inactive", "LoadState": "not-found"}
        for state in (gone, None):
            self.told.clear()
            if not self.connections:
                self.units.start(self)
            self.run_unit()
            self.connection.lose()
            if state is None:
                self.systemd.states.clear()
                self.systemd.errors["Get"] = Refusal(f"{BUS}.UnknownObject")
            else:
                self.systemd.states[PATH] = state
            self.retry()
            self.assertEqual(self.told[-1], (UNIT, UnitEnd()))

    def test_forgotten_meanwhile(self) -> None:
        """A run that is over when the connection is made again costs nobody the connection."""
        self.start()
        self.run_unit()
        self.connection.lose()
        self.told.clear()
        matched = self.systemd.matched = Deferred()
        self.retry()
        self.units.forget(UNIT)
        matched.callback(None)
        self.assertEqual((self.told, self.units.up), (["up"], True))
        self.assertEqual(len(self.connection.rules), 1)

    def test_given_up_before_start(self) -> None:
        """A unit that nobody wants any more is not started."""
        self.start()
        matched = self.systemd.matched = Deferred()
        started = self.units.run(spec())
        self.units.forget(UNIT)
        matched.callback(None)
        failure = self.failureResultOf(started, BzzzError)
        self.assertEqual(failure.getErrorMessage(), "it was given up meanwhile")
        self.assertEqual(self.connection.called("StartTransientUnit"), [])
        self.assertEqual(len(self.connection.rules), 1)

    def test_new_unit_meanwhile(self) -> None:
        """A unit that is started as soon as the connection is back is none of before."""
        self.start()
        self.connection.lose()
        self.patch(self, "units_up", lambda: self.units.run(spec()))
        self.told.clear()
        self.systemd.states[PATH] = {"ActiveState": "inactive", "LoadState": "not-found"}
        self.retry()
        self.assertEqual(self.told, [])
        self.assertEqual(len(self.connection.called("StartTransientUnit")), 1)

    def test_not_subscribed(self) -> None:
        """That it was subscribed already is no error; another refusal is, and is tried again."""
        self.systemd.errors["Subscribe"] = Refusal("org.freedesktop.systemd1.AlreadySubscribed")
        self.start()
        self.connection.lose()
        self.systemd.errors["Subscribe"] = Refusal(f"{BUS}.AccessDenied")
        self.told.clear()
        self.retry()
        self.assertIn("lost: the bus does not allow it", self.told[-1])
        self.assertFalse(self.connection.open)
        del self.systemd.errors["Subscribe"]
        self.retry()
        self.assertTrue(self.units.up)

    def test_late_systemd(self) -> None:
        """The first connection starts the bus, and systemd comes to it a moment later."""
        self.systemd.errors["Subscribe"] = Refusal(f"{BUS}.ServiceUnknown")
        self.units.start(self)
        self.assertEqual(self.told, [])
        del self.systemd.errors["Subscribe"]
        self.connection.owner("", ":1.0")
        self.assertEqual(self.told, ["up"])
        # Which is no reason to begin anew.
        self.assertTrue(self.connection.open)

    def test_no_systemd(self) -> None:
        """A bus to which none comes says so."""
        self.systemd.errors["Subscribe"] = Refusal(f"{BUS}.ServiceUnknown", "no name")
        self.units.start(self)
        self.clock.advance(ARRIVAL)
        self.assertEqual(self.told, ["lost: there is no systemd on the bus (no name)"])

    def test_another_systemd(self) -> None:
        """One that was executed anew knows no subscribers: begin again."""
        self.start()
        self.connection.owner(":1.0", "")
        self.assertFalse(self.units.up)
        self.assertFalse(self.connection.open)
        self.retry()
        self.assertTrue(self.units.up)
        self.assertEqual(len(self.connection.called("Subscribe")), 1)

    def test_unreachable(self) -> None:
        """A bus that is not there is said once, and tried for ever, ever more rarely."""
        self.unreachable = BzzzError("there is no session bus")
        self.units.start(self)
        for _ in range(600):
            self.clock.advance(1.0)
        self.assertEqual({*self.told}, {"lost: there is no session bus"})
        self.assertLess(len(self.told), 25)
        self.assertEqual(sum("cannot be asked" in line for line in self.infos), 1)
        self.unreachable = None
        self.retry()
        self.assertTrue(self.units.up)

    def test_stable(self) -> None:
        """After a connection that stood the next wait is short again."""
        self.unreachable = BzzzError("there is no session bus")
        self.units.start(self)
        self.clock.pump([1.0] * 300)
        self.unreachable = None
        self.retry()
        self.clock.advance(STABLE)
        self.connection.lose()
        before = len(self.connections)
        self.clock.advance(1.0)
        self.assertEqual(len(self.connections), before + 1)

    def test_hangs(self) -> None:
        """A connection that does not come is given up."""
        self.hanging = True
        self.units.start(self)
        self.clock.advance(CALL_TIMEOUT)
        self.assertEqual(self.told, ["lost: no answer of the bus within 10 s"])

    def test_flaw(self) -> None:
        """A flaw is logged, and the next try made all the same."""
        self.unreachable = ValueError("flaw")
        self.units.start(self)
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)
        self.unreachable = None
        self.retry()
        self.assertTrue(self.units.up)

    def test_stop(self) -> None:
        """It closes the connection, and asks nothing more."""
        self.assertEqual(self.successResultOf(self.units.stop()), None)
        self.start()
        self.run_unit()
        self.successResultOf(self.units.stop())
        self.assertFalse(self.connection.open)
        self.clock.advance(600.0)
        self.assertEqual((self.told, len(self.connections)), ([], 1))
