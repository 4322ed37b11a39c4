"""The unit of a node, from its properties, and what in it contradicts the node."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from bzzz.errors import BzzzError
from bzzz.systemd.unit import (
    PROPERTIES,
    UNLIMITED,
    Contradiction,
    Process,
    Unit,
    contradictions,
    files_needed,
)

# As systemd 252 gives them, of a service as etc/systemd/bzzz.service makes it.
GIVEN: dict[str, object] = {
    "Id": "bzzz.service",
    "ActiveState": "active",
    "SubState": "running",
    "FragmentPath": "/etc/systemd/system/bzzz.service",
    "UnitFileState": "enabled",
    "NeedDaemonReload": False,
    "Type": "simple",
    "MainPID": 4711,
    "NRestarts": 2,
    "ExecMainStartTimestamp": 1_700_000_000_250_000,
    "NotifyAccess": "main",
    "WatchdogUSec": 30_000_000,
    "LimitNOFILESoft": 4096,
    "LimitNPROCSoft": 512,
    "MemoryCurrent": 60 << 20,
    "MemoryMax": 1 << 30,
}
PROCESS = Process(pid=4711, uid=999, max_links=256)


class UnitTests(SynchronousTestCase):
    def test_all(self) -> None:
        """Each property has its field, in the units that the field documents."""
        self.assertEqual(set(GIVEN), set(PROPERTIES))
        unit = Unit.from_properties(GIVEN)
        self.assertEqual(
            unit,
            Unit(
                id="bzzz.service",
                user=False,
                type="simple",
                active_state="active",
                sub_state="running",
                main_pid=4711,
                restarts=2,
                started=1_700_000_000.25,
                path="/etc/systemd/system/bzzz.service",
                file_state="enabled",
                needs_daemon_reload=False,
                notify_access="main",
                watchdog_seconds=30.0,
                limit_files=4096,
                limit_processes=512,
                memory_max=1 << 30,
            ),
        )
        self.assertEqual(unit.memory_bytes, 60 << 20)
        self.assertTrue(Unit.from_properties(GIVEN, user=True).user)

    def test_interfaces(self) -> None:
        """A property is asked for on the interface that has it: of units, or of services alone."""
        self.assertEqual(PROPERTIES["NeedDaemonReload"], "org.freedesktop.systemd1.Unit")
        self.assertEqual(PROPERTIES["MainPID"], "org.freedesktop.systemd1.Service")

    def test_nothing(self) -> None:
        """systemd's numbers for "none", "infinity" and "not counted" are None."""
        unit = Unit.from_properties(
            {
                "MainPID": 0,
                "ExecMainStartTimestamp": 0,
                "WatchdogUSec": 0,
                "LimitNOFILESoft": UNLIMITED,
                "LimitNPROCSoft": UNLIMITED,
                "MemoryCurrent": UNLIMITED,
                "MemoryMax": UNLIMITED,
            }
        )
        self.assertEqual(unit, Unit())
        self.assertIsNone(unit.memory_bytes)
        never = Unit.from_properties({"WatchdogUSec": UNLIMITED})
        self.assertIsNone(never.watchdog_seconds)

    def test_zero(self) -> None:
        """Zero is a limit and a size like any other."""
        unit = Unit.from_properties({"LimitNOFILESoft": 0, "MemoryCurrent": 0, "NRestarts": 0})
        self.assertEqual((unit.limit_files, unit.memory_bytes, unit.restarts), (0, 0, 0))

    def test_missing(self) -> None:
        """What is not given is at its default; what is not known is passed over."""
        self.assertEqual(Unit.from_properties({}), Unit())
        self.assertEqual(
            Unit.from_properties({"Id": "a.service", "Shape": "round"}), Unit(id="a.service")
        )

    def test_wrong_type(self) -> None:
        """A value of another type is an error that names the property and both types."""
        wrong: list[tuple[str, Any, str]] = [
            ("Id", 7, "str"),
            ("MainPID", "4711", "int"),
            ("MainPID", True, "int"),
            ("MainPID", None, "int"),
            ("NeedDaemonReload", 1, "bool"),
            ("MemoryMax", 1.5, "int"),
            ("ActiveState", ["active"], "str"),
        ]
        for name, value, kind in wrong:
            error = self.assertRaises(BzzzError, Unit.from_properties, {**GIVEN, name: value})
            self.assertIs(type(error), BzzzError)
            self.assertEqual(
                str(error),
                f"systemd gave {value!r} as {name} of the unit, where {kind} is documented",
            )

    def test_long_value(self) -> None:
        """A value of any length makes a message of one line."""
        error = self.assertRaises(BzzzError, Unit.from_properties, {"MainPID": "x" * 100_000})
        self.assertLess(len(str(error)), 200)

    def test_memory_is_no_news(self) -> None:
        """Units that differ in their use of memory alone are equal."""
        unit = Unit.from_properties(GIVEN)
        self.assertEqual(unit, replace(unit, memory_bytes=1))
        self.assertNotEqual(unit, replace(unit, memory_max=1))
        self.assertNotEqual(unit, replace(unit, restarts=3))


class ContradictionTests(SynchronousTestCase):
    def found(
        self, process: Process = PROCESS, user: bool = False, **properties: object
    ) -> list[Contradiction]:
        return contradictions(Unit.from_properties({**GIVEN, **properties}, user=user), process)

    def only(self, *args: Any, **kwargs: Any) -> Contradiction:
        found = self.found(*args, **kwargs)
        self.assertEqual(len(found), 1, found)
        return found[0]

    def test_none(self) -> None:
        """The unit as it is installed has nothing against it, nor one of which nothing is known."""
        self.assertEqual(self.found(), [])
        self.assertEqual(contradictions(Unit(), PROCESS), [])

    def test_fitting_types(self) -> None:
        """Each type for a program in the foreground will do."""
        for kind in ("simple", "exec", "idle", "notify", "notify-reload"):
            self.assertEqual(self.found(Type=kind), [])

    def test_forking(self) -> None:
        """Type=forking takes the node for a failed start."""
        found = self.only(Type="forking")
        self.assertEqual((found.key, found.level), ("type", "error"))
        self.assertEqual(
            found.text,
            "bzzz.service has Type=forking, but this node stays in the foreground: systemd waits"
            " for it to go to the background and takes it for a failed start. Set Type=simple:"
            " systemctl edit bzzz.service",
        )

    def test_waiting_types(self) -> None:
        """So do the types that wait for what a node never does."""
        for kind in ("oneshot", "dbus"):
            found = self.only(Type=kind)
            self.assertEqual(found.key, "type")
            self.assertIn(f"Type={kind}", found.text)
            self.assertIn("Set Type=simple", found.text)

    def test_main_pid(self) -> None:
        """Another main process is named, beside the node's own; none at all is no contradiction."""
        found = self.only(MainPID=4700)
        self.assertEqual((found.key, found.level), ("main_pid", "error"))
        self.assertIn("takes process 4700 for bzzz.service", found.text)
        self.assertIn("this node is process 4711", found.text)
        self.assertEqual(self.found(MainPID=0), [])

    def test_root(self) -> None:
        """A node as root is told the setting; in root's own manager there is none."""
        root = replace(PROCESS, uid=0)
        found = self.only(root)
        self.assertEqual((found.key, found.level), ("root", "error"))
        self.assertIn("Set User= and Group=", found.text)
        self.assertTrue(found.text.endswith("systemctl edit bzzz.service"), found.text)
        self.assertNotIn("User=", self.only(root, user=True).text)

    def test_files(self) -> None:
        """The limit has to allow for two descriptors a link and 64 beside; no limit always does."""
        self.assertEqual(files_needed(256), 64 + 2 * 256)
        self.assertEqual(self.found(LimitNOFILESoft=576), [])
        found = self.only(LimitNOFILESoft=575)
        self.assertEqual((found.key, found.level), ("files", "error"))
        self.assertIn("may open 575 files, but max_links = 256 needs 576", found.text)
        self.assertIn("LimitNOFILE=576", found.text)
        many = replace(PROCESS, max_links=4096)
        self.assertEqual(self.only(many).key, "files")
        self.assertEqual(self.found(many, LimitNOFILESoft=UNLIMITED), [])

    def test_notify_access(self) -> None:
        """A watchdog that is not listened to is an error; without one, nobody has to listen."""
        found = self.only(NotifyAccess="none")
        self.assertEqual((found.key, found.level), ("notify_access", "error"))
        self.assertIn("WatchdogSec=30 and NotifyAccess=none", found.text)
        self.assertEqual(self.found(NotifyAccess="none", WatchdogUSec=0), [])

    def test_changed(self) -> None:
        """A file that changed on disk is a warning with the command."""
        found = self.only(NeedDaemonReload=True)
        self.assertEqual((found.key, found.level), ("changed", "warning"))
        self.assertEqual(
            found.text,
            "/etc/systemd/system/bzzz.service or a drop-in of it changed on disk since systemd read"
            " it; run: systemctl daemon-reload",
        )

    def test_user(self) -> None:
        """The mends of a user's service are for that user's manager."""
        for properties in (
            {"Type": "forking"},
            {"MainPID": 1},
            {"LimitNOFILESoft": 1},
            {"NotifyAccess": "none"},
            {"NeedDaemonReload": True},
        ):
            text = self.only(user=True, **properties).text
            self.assertIn("systemctl --user ", text)
            self.assertNotIn("systemctl edit", text)
            self.assertNotIn("systemctl daemon-reload", text)

    def test_all_at_once(self) -> None:
        """Each has a key of its own, so that each is said once."""
        found = self.found(
            replace(PROCESS, uid=0),
            Type="forking",
            MainPID=1,
            LimitNOFILESoft=1,
            NotifyAccess="none",
            NeedDaemonReload=True,
        )
        self.assertEqual(
            [one.key for one in found],
            ["type", "main_pid", "root", "files", "notify_access", "changed"],
        )
