"""What systemd is told of a task's unit, and that D-Bus can say it."""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase
from txdbus import marshal

from bzzz.systemd.transient_unit import MS_REC, properties, unit_path
from bzzz.tasks.executors.unit_interfaces import UnitSpec
from tests.systemd.test_task_units import PATH, UNIT, spec

# The types that systemd documents (org.freedesktop.systemd1(5), and its transient settings).
TYPES = {
    "Description": "s",
    "Type": "s",
    "ExecStart": "a(sasb)",
    "Environment": "as",
    "WorkingDirectory": "s",
    "UMask": "u",
    "IgnoreSIGPIPE": "b",
    "StandardInput": "s",
    "StandardInputFile": "s",
    "StandardOutput": "s",
    "StandardOutputFile": "s",
    "StandardError": "s",
    "KillMode": "s",
    "KillSignal": "i",
    "SendSIGHUP": "b",
    "TimeoutStartUSec": "t",
    "TimeoutStopUSec": "t",
    "NotifyAccess": "s",
    "WatchdogUSec": "t",
    "WatchdogSignal": "i",
    "OOMPolicy": "s",
    "CollectMode": "s",
    "LimitCORE": "t",
    "TasksMax": "t",
    "MemoryMax": "t",
    "MemorySwapMax": "t",
    "CPUQuotaPerSecUSec": "t",
    "RuntimeMaxUSec": "t",
    "ProtectSystem": "s",
    "ProtectHome": "s",
    "KeyringMode": "s",
    "ReadWritePaths": "as",
    "TemporaryFileSystem": "a(ss)",
    "BindPaths": "a(ssbt)",
    "BindReadOnlyPaths": "a(ssbt)",
}


class PropertyTests(SynchronousTestCase):
    """The properties of the unit."""

    def of(self, **fields: Any) -> dict[str, object]:
        told = properties(spec(**fields), 999)
        # None is told twice.
        self.assertEqual(len(dict(told)), len(told))
        return dict(told)

    def everything(self) -> UnitSpec:
        return spec(
            memory=1 << 40, cpus=2.5, runtime=3.5, network=False, readable=("/home/u/venv",)
        )

    def test_types(self) -> None:
        """Each has the type that systemd wants, and none is empty, for which D-Bus has no type."""
        for name, value in properties(self.everything(), 999):
            self.assertEqual(marshal.sigFromPy(value), TYPES.get(name, "b"), name)

    def test_marshalled(self) -> None:
        """The call can be written, and reads as it was meant."""
        told = [list(pair) for pair in properties(self.everything(), 999)]
        signature = "ssa(sv)a(sa(sv))"
        _, chunks = marshal.marshal(signature, [UNIT, "fail", told, []])
        _, (name, _, read, others) = marshal.unmarshal(signature, b"".join(chunks))
        self.assertEqual((name, others), (UNIT, []))
        values = dict(read)
        self.assertEqual(values["MemoryMax"], 1 << 40)
        self.assertEqual(
            values["ExecStart"],
            [["/usr/bin/python3", ["/usr/bin/python3", "-m", "shim"], False]],
        )
        self.assertEqual(values["Environment"], ["A=b"])

    def test_limits(self) -> None:
        """Limits that are none are left out; swap does not make up for memory."""
        limits = {"MemoryMax", "MemorySwapMax", "CPUQuotaPerSecUSec", "RuntimeMaxUSec"}
        self.assertEqual(limits & set(self.of()), set())
        told = self.of(memory=1000, cpus=0.5, runtime=2.0)
        self.assertEqual([told[name] for name in sorted(limits)], [500_000, 1000, 0, 2_000_000])
        self.assertEqual((told["TasksMax"], told["LimitCORE"]), (100, 0))
        self.assertEqual(told["WatchdogUSec"], 20_000_000)

    def test_kill(self) -> None:
        """Whatever ends it, all of its group is killed at once."""
        told = self.of()
        self.assertEqual(
            [told[name] for name in ("KillMode", "KillSignal", "WatchdogSignal", "OOMPolicy")],
            ["control-group", 9, 9, "kill"],
        )

    def test_sandbox(self) -> None:
        """It sees nothing of the node, writes to one directory, and gets no rights."""
        told = self.of(readable=("/home/u/venv",))
        for name in ("PrivateUsers", "NoNewPrivileges", "PrivateTmp", "ProtectControlGroups"):
            self.assertIs(told[name], True, name)
        self.assertEqual((told["ProtectSystem"], told["ProtectHome"]), ("strict", "tmpfs"))
        self.assertEqual(
            told["TemporaryFileSystem"],
            [("/var/lib/bzzz", "ro"), ("/run/dbus", "ro"), ("/dev/shm", "mode=1777")],
        )
        work = "/var/lib/bzzz/tasks/t.1/work"
        self.assertEqual(told["BindPaths"], [(work, work, False, MS_REC)])
        self.assertEqual(told["ReadWritePaths"], [work])
        self.assertEqual(
            [each[0] for each in told["BindReadOnlyPaths"]],  # type: ignore[attr-defined]  # a list
            ["/run/user/999/systemd/notify", "/home/u/venv"],
        )
        self.assertNotIn("PrivateNetwork", told)
        self.assertIs(self.of(network=False)["PrivateNetwork"], True)

    def test_trusted(self) -> None:
        """Without the strict part the node and the user's systemd are hidden all the same."""
        told = self.of(strict=False)
        self.assertNotIn("ProtectSystem", told)
        self.assertNotIn("NoNewPrivileges", told)
        self.assertIs(told["PrivateUsers"], True)
        self.assertEqual(
            told["TemporaryFileSystem"],
            [("/run/user", "ro"), ("/var/lib/bzzz", "ro"), ("/run/dbus", "ro")],
        )


class PathTests(SynchronousTestCase):
    """systemd's bus_label_escape()."""

    def test_escaped(self) -> None:
        """All but letters and digits is escaped, and a digit at the beginning."""
        self.assertEqual(unit_path(UNIT), PATH)
        prefix = "/org/freedesktop/systemd1/unit/"
        self.assertEqual(unit_path("0a_.service"), f"{prefix}_30a_5f_2eservice")
        self.assertEqual(unit_path("é"), f"{prefix}_c3_a9")
