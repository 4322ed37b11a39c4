"""Watching a unit, on a bus in memory and a virtual clock."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import Any, cast

from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.task import Clock
from twisted.logger import LogLevel
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from bzzz.errors import BzzzError
from bzzz.systemd.manager import IConnection
from bzzz.systemd.unit import PROPERTIES, Unit
from bzzz.systemd.unit_watch import UnitWatch
from tests.logs import lines_at
from tests.systemd.test_unit import GIVEN

PID = 4711
PATH = "/org/freedesktop/systemd1/unit/bzzz_2eservice"
UNIT_INTERFACE = "org.freedesktop.systemd1.Unit"


class Refusal(Exception):
    """An error reply, as txdbus has it."""

    def __init__(self, name: str, message: str = "") -> None:
        super().__init__(name)
        self.errName = name
        self.message = message


class Message:
    def __init__(self, path: str, body: list[Any]) -> None:
        self.path = path
        self.body = body


class FakeConnection:
    """Answers for a manager, at once but for what is in ``silent``."""

    def __init__(self, manager: FakeManager) -> None:
        self.manager = manager
        self.calls: list[tuple[str, str, Any]] = []
        self.matches: dict[str, tuple[Callable[[Any], object], Mapping[str, Any]]] = {}
        self.waiting: dict[str, Deferred[Any]] = {}
        self.open = True
        self._told: list[Callable[[Any, Failure], object]] = []

    def callRemote(self, objectPath: str, methodName: str, **how: Any) -> Deferred[Any]:
        assert self.open, "called on a closed connection"
        assert how["destination"] == "org.freedesktop.systemd1", how
        assert how["autoStart"] is False, how
        body = how["body"]
        self.calls.append((objectPath, methodName, body))
        key = body[1] if methodName == "Get" else methodName
        if key in self.manager.silent:
            return self.waiting.setdefault(key, Deferred())
        return self.answer(key)

    def answer(self, key: str) -> Deferred[Any]:
        if key in self.manager.errors:
            return fail(self.manager.errors[key])
        if key == "Subscribe":
            return succeed(None)
        if key == "GetUnitByPID":
            return succeed(self.manager.path)
        return succeed(self.manager.properties[key])

    def release(self, key: str) -> None:
        """Let the call that waits be answered."""
        self.manager.silent.discard(key)
        self.answer(key).addBoth(self.waiting.pop(key).callback)

    def addMatch(self, callback: Callable[[Any], object], **rule: Any) -> Deferred[int]:
        assert self.open, "called on a closed connection"
        if "AddMatch" in self.manager.silent:
            return Deferred()
        self.matches[rule["member"]] = callback, rule
        return succeed(len(self.matches))

    def signal(self, member: str, body: list[Any], path: str = PATH) -> None:
        self.matches[member][0](Message(path, body))

    def moved(self, **changed: object) -> None:
        self.signal("PropertiesChanged", [UNIT_INTERFACE, changed, []])

    def notifyOnDisconnect(self, callback: Callable[[Any, Failure], object]) -> None:
        self._told.append(callback)

    def disconnect(self) -> None:
        self.lose(ConnectionDone())

    def lose(self, reason: Exception | None = None) -> None:
        self.open = False
        failure = Failure(reason or ConnectionLost())
        for callback in self._told:
            callback(self, failure)
        for called in list(self.waiting.values()):
            called.errback(failure)

    def count(self, member: str) -> int:
        return sum(called == member for _, called, _ in self.calls)


class FakeManager:
    def __init__(self, **properties: object) -> None:
        self.properties = {**GIVEN, **properties}
        self.path = PATH
        self.errors: dict[str, Exception] = {}
        self.silent: set[str] = set()


class UnitWatchTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.manager = FakeManager()
        self.managers = {"system": self.manager}
        self.connections: list[FakeConnection] = []
        self.tries: list[tuple[str, float]] = []
        self.unreachable: Exception | None = None
        self.hanging: list[Deferred[IConnection]] | None = None
        self.abandoned = 0
        self.told: list[Unit | None] = []
        self.warnings = lines_at(self, LogLevel.warn)
        self.infos = lines_at(self, LogLevel.info)
        self.watch = self.make(self.told.append)

    def make(self, changed: Callable[[Unit | None], object]) -> UnitWatch:
        watch = UnitWatch(self.clock, PID, changed, random=random.Random(1), connect=self.connect)
        self.addCleanup(watch.stop)
        return watch

    def connect(self, bus: str) -> Deferred[IConnection]:
        self.tries.append((bus, self.clock.seconds()))
        if self.hanging is not None:
            self.hanging.append(Deferred(lambda _: self.abandon()))
            return self.hanging[-1]
        if self.unreachable is not None:
            return fail(self.unreachable)
        if bus not in self.managers:
            return fail(BzzzError(f"there is no {bus} bus"))
        self.connections.append(FakeConnection(self.managers[bus]))
        return succeed(cast(IConnection, self.connections[-1]))

    def abandon(self) -> None:
        self.abandoned += 1

    @property
    def connection(self) -> FakeConnection:
        return self.connections[-1]

    def started(self) -> FakeConnection:
        self.watch.start()
        return self.connection

    def last(self) -> Unit:
        unit = self.told[-1]
        assert unit is not None
        return unit

    def retry(self) -> None:
        """Until the next try, whenever that is."""
        before = len(self.tries)
        for _ in range(121):
            self.clock.advance(0.5)
            if len(self.tries) > before:
                return
        self.fail("it was not tried again")

    # -- asking

    def test_first(self) -> None:
        """It subscribes, finds the unit by the process, and gets what a Unit is made of."""
        connection = self.started()
        gets = [(PATH, "Get", [interface, name]) for name, interface in PROPERTIES.items()]
        self.assertEqual(
            connection.calls,
            [
                ("/org/freedesktop/systemd1", "Subscribe", None),
                ("/org/freedesktop/systemd1", "GetUnitByPID", [PID]),
                *gets,
            ],
        )
        self.assertEqual(self.told, [Unit.from_properties(GIVEN)])
        self.assertIs(self.watch.unit, self.told[0])
        self.assertEqual(self.watch.problem, "")
        self.assertEqual(self.warnings + self.infos, [])

    def test_matches(self) -> None:
        """Signals are asked for of their sender alone, before what they would change is read."""
        self.manager.silent.add("Id")
        connection = self.started()
        rules = {member: rule for member, (_, rule) in connection.matches.items()}
        systemd = "org.freedesktop.systemd1"
        self.assertEqual(
            rules,
            {
                "NameOwnerChanged": {
                    "mtype": "signal",
                    "sender": "org.freedesktop.DBus",
                    "interface": "org.freedesktop.DBus",
                    "member": "NameOwnerChanged",
                    "path": "/org/freedesktop/DBus",
                    "arg": [(0, systemd)],
                },
                "Reloading": {
                    "mtype": "signal",
                    "sender": systemd,
                    "interface": f"{systemd}.Manager",
                    "member": "Reloading",
                    "path": "/org/freedesktop/systemd1",
                    "arg": None,
                },
                "PropertiesChanged": {
                    "mtype": "signal",
                    "sender": systemd,
                    "interface": "org.freedesktop.DBus.Properties",
                    "member": "PropertiesChanged",
                    "path": PATH,
                    "arg": None,
                },
            },
        )

    def test_already_subscribed(self) -> None:
        """A manager that knows the subscriber already is one that was subscribed to."""
        self.manager.errors["Subscribe"] = Refusal("org.freedesktop.systemd1.AlreadySubscribed")
        self.started()
        self.assertEqual(len(self.told), 1)

    def test_unknown_property(self) -> None:
        """What this systemd does not have is left at its default."""
        self.manager.errors["NRestarts"] = Refusal("org.freedesktop.DBus.Error.UnknownProperty")
        self.started()
        self.assertEqual(self.last().restarts, 0)
        self.assertEqual(self.last().main_pid, PID)

    def test_each_minute(self) -> None:
        """After 60 s it is asked again, on the same connection and subscription."""
        connection = self.started()
        self.manager.properties["NeedDaemonReload"] = True
        self.clock.advance(59.9)
        self.assertEqual(connection.count("GetUnitByPID"), 1)
        self.clock.advance(0.1)
        self.assertEqual(connection.count("GetUnitByPID"), 2)
        self.assertEqual(connection.count("Subscribe"), 1)
        self.assertEqual(len(self.connections), 1)
        self.assertEqual(len(self.told), 2)
        self.assertTrue(self.last().needs_daemon_reload)

    def test_no_news(self) -> None:
        """The same unit is told once; so is one that only uses other memory, which ``unit`` has."""
        self.started()
        self.clock.advance(60)
        self.manager.properties["MemoryCurrent"] = 1
        self.clock.advance(60)
        self.assertEqual(len(self.told), 1)
        self.assertIsNotNone(self.watch.unit)
        self.assertEqual(self.watch.unit and self.watch.unit.memory_bytes, 1)

    # -- signals

    def test_deactivating_at_once(self) -> None:
        """A state that a signal carries is told at once; 0.1 s later all is read again."""
        connection = self.started()
        self.manager.properties.update(ActiveState="deactivating", SubState="stop-sigterm")
        connection.moved(ActiveState="deactivating")
        self.assertEqual(self.last().active_state, "deactivating")
        self.assertEqual(self.last().sub_state, "running")
        self.clock.advance(0.1)
        self.assertEqual(self.last().sub_state, "stop-sigterm")
        self.assertEqual(len(self.told), 3)

    def test_invalidated(self) -> None:
        """A signal that only says that something changed has all read again."""
        connection = self.started()
        self.manager.properties["NRestarts"] = 3
        connection.signal("PropertiesChanged", [UNIT_INTERFACE, {}, ["NRestarts"]])
        self.assertEqual(len(self.told), 1)
        self.clock.advance(0.1)
        self.assertEqual(self.last().restarts, 3)

    def test_burst(self) -> None:
        """Many signals at a time have it asked once."""
        connection = self.started()
        for _ in range(50):
            connection.moved(SubState="running")
            self.clock.advance(0.001)
        self.clock.advance(1)
        self.assertEqual(connection.count("GetUnitByPID"), 2)
        self.assertEqual(len(self.told), 1)

    def test_stream_of_signals(self) -> None:
        """Signals that never end do not put off the asking for ever."""
        connection = self.started()
        for _ in range(100):
            connection.moved(SubState="running")
            self.clock.advance(0.05)
        self.assertGreater(connection.count("GetUnitByPID"), 20)

    def test_signal_while_asking(self) -> None:
        """An answer from before a signal does not undo it; what comes in between is not told."""
        connection = self.started()
        self.manager.silent.add("MainPID")
        self.clock.advance(60)
        self.manager.properties["ActiveState"] = "deactivating"
        connection.moved(ActiveState="deactivating")
        connection.release("MainPID")
        self.assertEqual(
            [unit and unit.active_state for unit in self.told], ["active", "deactivating"]
        )
        self.clock.advance(0.1)
        self.assertEqual(connection.count("GetUnitByPID"), 3)
        self.assertEqual(len(self.told), 2)

    def test_signal_before_first(self) -> None:
        """What is not read completely yet is not told of, however many signals come."""
        self.manager.silent.add("MainPID")
        connection = self.started()
        connection.moved(ActiveState="deactivating")
        self.assertEqual(self.told, [])
        connection.release("MainPID")
        self.assertEqual(self.last().active_state, "deactivating")

    def test_other_interface(self) -> None:
        """A property of the same name on another interface is another."""
        connection = self.started()
        changed = {"Type": "forking"}
        connection.signal("PropertiesChanged", ["org.freedesktop.systemd1.Mount", changed, []])
        self.assertEqual(self.last().type, "simple")
        connection.signal("PropertiesChanged", ["org.freedesktop.systemd1.Service", changed, []])
        self.assertEqual(self.last().type, "forking")

    def test_other_path(self) -> None:
        """After the process came into another unit, signals of the first do not count."""
        connection = self.started()
        self.manager.path = "/org/freedesktop/systemd1/unit/other_2eservice"
        self.manager.properties["Id"] = "other.service"
        self.clock.advance(60)
        self.assertEqual(self.last().id, "other.service")
        connection.moved(ActiveState="failed")
        self.assertEqual(self.last().active_state, "active")
        connection.signal(
            "PropertiesChanged", [UNIT_INTERFACE, {"ActiveState": "failed"}, []], self.manager.path
        )
        self.assertEqual(self.last().active_state, "failed")

    def test_owner(self) -> None:
        """A new owner of systemd's name is subscribed to; that it has none is waited out."""
        connection = self.started()
        name = "org.freedesktop.systemd1"
        connection.signal("NameOwnerChanged", [name, ":1.1", ""])
        self.clock.advance(1)
        self.assertEqual(connection.count("GetUnitByPID"), 1)
        connection.signal("NameOwnerChanged", [name, "", ":1.9"])
        self.clock.advance(0.1)
        self.assertEqual(connection.count("Subscribe"), 2)
        self.assertEqual(connection.count("GetUnitByPID"), 2)
        self.assertEqual(self.warnings, [])

    def test_owner_while_subscribing(self) -> None:
        """An owner that comes while the one before is subscribed to is subscribed to as well."""
        self.manager.silent.add("Subscribe")
        connection = self.started()
        connection.signal("NameOwnerChanged", ["org.freedesktop.systemd1", ":1.1", ":1.9"])
        connection.release("Subscribe")
        self.clock.advance(0.1)
        self.assertEqual(connection.count("Subscribe"), 2)

    def test_reloading(self) -> None:
        """When systemd has read its files again it is asked; while it does, it is not."""
        connection = self.started()
        connection.signal("Reloading", [True])
        self.clock.advance(1)
        self.assertEqual(connection.count("GetUnitByPID"), 1)
        connection.signal("Reloading", [False])
        self.clock.advance(0.1)
        self.assertEqual(connection.count("GetUnitByPID"), 2)

    # -- failing

    def test_no_bus(self) -> None:
        """A bus that is not there is said once, tried for ever, and its return is said too."""
        self.unreachable = BzzzError("there is no system bus at /x")
        self.watch.start()
        self.assertEqual(
            self.warnings,
            [
                "systemd cannot be asked about the unit of this node: there is no system bus at /x."
                " The node does without, and asks again for ever"
            ],
        )
        self.assertEqual(self.watch.problem, "there is no system bus at /x")
        self.assertIsNone(self.watch.unit)
        for _ in range(20):
            self.retry()
        self.assertEqual(len(self.warnings), 1)
        self.assertEqual(self.told, [])
        self.unreachable = None
        self.retry()
        self.assertEqual(self.infos, ["systemd can be asked about bzzz.service again"])
        self.assertEqual(self.watch.problem, "")
        self.assertEqual(len(self.told), 1)

    def test_waits(self) -> None:
        """The waits are up to 1, 2, 4 and so on, at most 60 s, and half of each is random."""
        self.unreachable = BzzzError("no")
        self.watch.start()
        for upper in (1, 2, 4, 8, 16, 32, 60, 60):
            (call,) = self.clock.getDelayedCalls()
            wait = call.getTime() - self.clock.seconds()
            self.assertTrue(upper / 2 <= wait <= upper, (wait, upper))
            self.clock.advance(wait)

    def test_reason_changes(self) -> None:
        """Another reason is said; one that was said before is not, until it went well."""
        for reason in ("a", "b", "a", "b"):
            self.unreachable = BzzzError(reason)
            self.watch.start()
            self.retry()
        said = [line.split(": ")[1].split(". ")[0] for line in self.warnings]
        self.assertEqual(said, ["a", "b"])
        self.unreachable = None
        self.retry()
        self.unreachable = BzzzError("a")
        self.connection.lose()
        self.assertEqual(len(self.warnings), 2)
        self.retry()
        self.assertEqual(len(self.warnings), 3)

    def test_reason_with_numbers(self) -> None:
        """A reason in which only a number differs, such as of the connection, is the same."""
        for name in (":1.7", ":1.8", ":1.19"):
            self.manager.errors["Subscribe"] = Refusal("org.example.No", f"sender={name}")
            self.watch.start()
            self.retry()
        self.assertEqual(len(self.warnings), 1)

    def test_answers(self) -> None:
        """An error reply of any call fails the try, in words; the connection is closed."""
        for key, name, words in (
            ("Subscribe", "org.freedesktop.DBus.Error.AccessDenied", "the bus does not allow it"),
            (
                "GetUnitByPID",
                "org.freedesktop.systemd1.NoUnitForPID",
                "knows no unit of this process",
            ),
            ("GetUnitByPID", "org.freedesktop.DBus.Error.ServiceUnknown", "there is no systemd"),
            ("NRestarts", "org.example.Odd", "org.example.Odd"),
        ):
            self.manager.errors = {key: Refusal(name, "some\nwords " * 100)}
            watch = self.make(self.told.append)
            watch.start()
            self.assertIn(words, watch.problem)
            self.assertIn("(some words some", watch.problem)
            self.assertLess(len(watch.problem), 300)
            self.assertFalse(self.connection.open)
            watch.stop()
        self.assertEqual(self.told, [])

    def test_timeouts(self) -> None:
        """Each call has 10 s; then the connection is closed and another made."""
        for key in ("AddMatch", "Subscribe", "GetUnitByPID", "Id", "MemoryMax"):
            self.manager.silent = {key}
            watch = self.make(self.told.append)
            watch.start()
            self.clock.advance(9.9)
            self.assertTrue(self.connection.open)
            self.clock.advance(0.1)
            self.assertFalse(self.connection.open)
            self.assertRegex(watch.problem, "^no answer of (systemd|the bus) within 10 s$")
            self.manager.silent = set()
            self.retry()
            self.assertEqual(watch.problem, "")
            watch.stop()

    def test_connecting_timeout(self) -> None:
        """A connection that does not come within 10 s is abandoned."""
        self.hanging = []
        self.watch.start()
        self.clock.advance(9.9)
        self.assertEqual((self.abandoned, self.watch.problem), (0, ""))
        self.clock.advance(0.1)
        self.assertEqual(self.abandoned, 1)
        self.assertEqual(self.watch.problem, "no answer of the bus within 10 s")
        self.hanging = None
        self.retry()
        self.assertEqual(len(self.told), 1)

    def test_lost(self) -> None:
        """A bus that is restarted is no warning; the unit stays known: the first try succeeds."""
        self.started().lose()
        self.assertEqual(self.watch.problem, "the bus closed the connection")
        self.assertIsNotNone(self.watch.unit)
        self.clock.advance(1)
        self.assertEqual(self.warnings, [])
        self.assertEqual(
            self.infos,
            [
                "systemd cannot be asked about the unit of this node at the moment: the bus closed"
                " the connection. Asking again",
                "systemd can be asked about bzzz.service again",
            ],
        )
        self.assertEqual(len(self.connections), 2)
        self.assertEqual(self.connection.count("Subscribe"), 1)
        self.assertEqual(self.watch.problem, "")
        self.assertEqual(len(self.told), 1)
        self.connection.lose()
        self.assertIsNotNone(self.watch.unit)

    def test_lost_while_asking(self) -> None:
        """So it is when the connection is lost under a call."""
        self.manager.silent.add("MainPID")
        self.started().lose()
        self.assertEqual(self.watch.problem, "the bus closed the connection")
        self.manager.silent.clear()
        self.clock.advance(1)
        self.assertEqual(len(self.told), 1)

    def test_unknown_again(self) -> None:
        """When a second try fails too, the unit is not known any more, which is told once."""
        self.started()
        self.unreachable = BzzzError("no")
        self.connection.lose()
        self.assertEqual(len(self.told), 1)
        for _ in range(5):
            self.retry()
        self.assertEqual(self.told[1:], [None])
        self.assertIsNone(self.watch.unit)
        self.unreachable = None
        self.retry()
        self.assertEqual(self.told, [self.told[0], None, self.told[0]])

    def test_flapping(self) -> None:
        """What answers and is lost at once is not tried each second for ever; after 60 s it is."""
        self.started()
        waits = []
        for _ in range(8):
            self.connection.signal("Reloading", [False])
            self.clock.advance(0.1)
            self.connection.lose()
            before = self.clock.seconds()
            self.retry()
            waits.append(self.clock.seconds() - before)
        self.assertGreaterEqual(waits[-1], 30)
        self.clock.advance(60)
        self.connection.lose()
        self.clock.advance(1)
        self.assertTrue(self.connection.open)

    def test_bad_path(self) -> None:
        """A path that is none fails the try in words."""
        for path in (None, 7, "no path"):
            self.manager.path = cast(str, path)
            watch = self.make(self.told.append)
            watch.start()
            self.assertEqual(watch.problem, f"systemd gave {path!r} as the path of the unit")
            watch.stop()

    def test_wrong_type(self) -> None:
        """A property of a wrong type fails the try, named; so it does when a signal brings it."""
        connection = self.started()
        self.manager.properties["MainPID"] = "x"
        connection.signal(
            "PropertiesChanged", ["org.freedesktop.systemd1.Service", {"MainPID": "x"}, []]
        )
        self.assertEqual(len(self.told), 1)
        self.clock.advance(0.1)
        self.assertIn("'x' as MainPID", self.watch.problem)
        self.assertFalse(connection.open)
        self.manager.properties["MainPID"] = PID
        self.retry()
        self.assertEqual(self.watch.problem, "")

    def test_scope(self) -> None:
        """A process that somebody started in a session belongs to no service."""
        self.manager.properties["Id"] = "session-3.scope"
        for name, interface in PROPERTIES.items():
            if interface.endswith(".Service"):
                unknown = Refusal("org.freedesktop.DBus.Error.UnknownInterface")
                self.manager.errors[name] = unknown
        self.started()
        self.assertEqual(
            self.watch.problem, "this process belongs to 'session-3.scope', which is no service"
        )
        self.assertEqual(self.told, [])

    def test_flaw(self) -> None:
        """An exception that nobody foresaw is logged with its traceback once, and tried again."""
        self.unreachable = ZeroDivisionError()
        self.watch.start()
        self.retry()
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.unreachable = None
        self.retry()
        self.assertEqual(len(self.told), 1)

    def test_told_raises(self) -> None:
        """That whoever is told of the unit fails is logged, and the watch goes on."""

        def changed(unit: Unit | None) -> None:
            self.told.append(unit)
            raise ZeroDivisionError

        self.watch = self.make(changed)
        connection = self.started()
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        connection.moved(ActiveState="deactivating")
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.clock.advance(60)
        self.assertEqual(len(self.told), 3)
        self.flushLoggedErrors(ZeroDivisionError)

    # -- a user's manager

    def test_user(self) -> None:
        """A service of a user's manager is asked for on that user's bus; the other is closed."""
        self.manager.properties["Id"] = "user@1000.service"
        self.managers["session"] = FakeManager(Id="mine.service")
        self.watch.start()
        self.assertEqual([bus for bus, _ in self.tries], ["system", "session"])
        self.assertEqual([one.open for one in self.connections], [False, True])
        self.assertEqual(self.last().id, "mine.service")
        self.assertTrue(self.last().user)
        self.connection.moved(ActiveState="deactivating")
        self.assertTrue(self.last().user)

    def test_user_bus_missing(self) -> None:
        """Where there is none that is said once, and nothing is told of the manager's own unit."""
        self.manager.properties["Id"] = "user@1000.service"
        self.watch.start()
        self.assertEqual(
            self.watch.problem,
            "this node is a service of user@1000.service, and there: there is no session bus",
        )
        for _ in range(5):
            self.retry()
        self.assertEqual(len(self.warnings), 1)
        self.assertEqual(self.told, [])
        self.assertFalse(any(one.open for one in self.connections))

    def test_user_inside(self) -> None:
        """A user's manager is not asked for a manager below it."""
        self.manager.properties["Id"] = "user@1000.service"
        self.managers["session"] = FakeManager(Id="user@1001.service")
        self.watch.start()
        self.assertEqual(self.last().id, "user@1001.service")

    # -- stopping

    def stopped(self, watch: UnitWatch) -> None:
        self.successResultOf(watch.stop())
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertFalse(any(one.open for one in self.connections))
        self.assertEqual(self.warnings, [])
        self.assertEqual(self.flushLoggedErrors(), [])

    def test_stop_connecting(self) -> None:
        """Stopped while it connects, the attempt is abandoned."""
        self.hanging = []
        self.watch.start()
        self.stopped(self.watch)
        self.assertEqual(self.abandoned, 1)

    def test_stop_asking(self) -> None:
        """Stopped while it asks, the connection is closed and the late answer is of no matter."""
        for key in ("AddMatch", "Subscribe", "GetUnitByPID", "Id", "MemoryMax"):
            self.manager.silent = {key}
            watch = self.make(self.told.append)
            watch.start()
            self.stopped(watch)
            self.assertEqual(self.told, [])
            self.assertEqual(watch.problem, "")

    def test_stop_watching(self) -> None:
        """Stopped while it watches, nothing that still comes is heard."""
        connection = self.started()
        connection.moved(SubState="running")
        self.stopped(self.watch)
        connection.moved(ActiveState="deactivating")
        connection.signal("Reloading", [False])
        connection.signal("NameOwnerChanged", ["org.freedesktop.systemd1", "", ":1.9"])
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertEqual(len(self.told), 1)

    def test_stop_waiting(self) -> None:
        """Stopped while it waits for the next try, there is none."""
        self.unreachable = BzzzError("no")
        self.watch.start()
        self.warnings.clear()
        self.stopped(self.watch)
        self.assertEqual(len(self.tries), 1)

    def test_stop_by_told(self) -> None:
        """Whoever is told of the unit may stop the watch."""
        ended: list[Deferred[None]] = []
        self.watch = self.make(lambda unit: ended.append(self.watch.stop()))
        self.manager.silent.add("Id")
        self.started().release("Id")
        self.clock.advance(0)
        self.successResultOf(ended[0])
        self.stopped(self.watch)

    def test_stop_by_told_of_signal(self) -> None:
        """Also when a signal brought the news."""
        ended: list[Deferred[None]] = []

        def changed(unit: Unit | None) -> None:
            if unit is not None and unit.active_state == "deactivating":
                ended.append(self.watch.stop())

        self.watch = self.make(changed)
        self.started().moved(ActiveState="deactivating")
        self.clock.advance(0)
        self.successResultOf(ended[0])
        self.stopped(self.watch)

    def test_start_and_stop(self) -> None:
        """Started twice it watches once; stopped twice is fine; and it can be started again."""
        self.stopped(self.watch)
        self.watch.start()
        self.watch.start()
        self.assertEqual(len(self.connections), 1)
        self.stopped(self.watch)
        self.stopped(self.watch)
        self.watch.start()
        self.assertEqual(len(self.connections), 2)
        self.assertTrue(self.connection.open)

    def test_cancelled_calls(self) -> None:
        """Errors of calls that nobody waits for any more reach no log."""
        self.manager.silent.add("Id")
        connection = self.started()
        waiting = connection.waiting["Id"]
        self.stopped(self.watch)
        self.assertTrue(waiting.called)
        waiting.addErrback(lambda failure: failure.trap(CancelledError))
        self.assertEqual(self.flushLoggedErrors(), [])
