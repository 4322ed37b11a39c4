"""Tasks as units of the user's systemd, on a machine with a real one.

Each test finds the service installed on a machine, and leaves it running. Control groups have no
controllers in these machines, so that a limit is seen to be set and not to hold.
"""

from __future__ import annotations

import json
import re
import time
from typing import Any

from bzzz.tasks.executors.unit_specs import MAX_PROCESSES, SHIM_MEMORY
from bzzz.tasks.leases import KILL
from bzzz.tasks.worker import STOP_GRACE
from tests.cluster.machine import Ran
from tests.cluster.machines import without_machines
from tests.cluster.netns import until
from tests.cluster.service import ServiceTestCase, ask, log, service, show, with_journals
from tests.cluster.test_service import NAMES
from tests.needs import needs

# Seconds.
# Of a task that says nothing else.
LEASE = 3.0
TIMEOUT = 30.0
RESTART_TIMEOUT = 25.0

# Of a build machine that is busy: the machine's processes wait for processor time.
SLACK = 1.0

# What the test's processes are called in the machine, so that they can be counted.
SLEEPER = "bzzz-test-sleep"

# Twenty-one processes that no SIGTERM ends, most in sessions of their own, with no parent left.
TWENTY = f"""
trap "" TERM
cp /bin/sleep ./{SLEEPER}
for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
    (setsid ./{SLEEPER} 600 &)
done
./{SLEEPER} 600
"""

# Prints how many ms it takes until none of them is left.
UNTIL_GONE = f"""
began=$(date +%s%N)
while pgrep -x {SLEEPER} >/dev/null; do
    sleep 0.02
    [ $(( $(date +%s%N) - began )) -lt 30000000000 ] || break
done
echo $(( ($(date +%s%N) - began) / 1000000 ))
"""


@needs(without_machines("pgrep"))
@with_journals
class SystemdExecutorTests(ServiceTestCase):
    """What the systemd executor promises."""

    def setUp(self) -> None:
        self.service = service(*NAMES)
        self.machine = self.service.all[0]
        self.service.install(self.machine)
        self.began = time.time()
        self.until_up()

    def until_up(self) -> None:
        """Wait until tasks can be run by units."""
        until(
            lambda: (ask(self.machine, "status") or {}).get("executor") == "systemd",
            RESTART_TIMEOUT,
            "the node runs tasks by its user's systemd",
            0.2,
        )

    def run_task(self, command: str, *options: str) -> Ran:
        """Run a shell's command line as a task, to its end."""
        return self.machine.run(
            "bzzz", "run", *options, "--", "sh", "-c", command, check=False, timeout=TIMEOUT
        )

    def begin(self, *options: str) -> str:
        """A task with the twenty-one processes, all of which have begun; returns its ID."""
        options = ("--detach", "--no-restart", "--retries", "0", *options)
        said = self.machine.run("bzzz", "run", *options, "--", "sh", "-c", TWENTY).stdout
        until(lambda: self.sleepers() == 21, TIMEOUT, "all its processes have begun", 0.05)
        return said.split()[0]

    def sleepers(self) -> int:
        return len(self.machine.run("pgrep", "-x", SLEEPER, check=False).stdout.split())

    def until_gone(self, act: str = "") -> float:
        """Do something in a shell; returns how many seconds after it the processes are gone."""
        return int(self.machine.shell(act + UNTIL_GONE).stdout) / 1000

    def ended(self, task: str) -> dict[str, Any]:
        """The task, when it has ended."""

        def over() -> Any:
            told = ask(self.machine, "tasks", task)
            return (
                told if told and told["state"] not in ("running", "waiting", "assigned") else None
            )

        told: dict[str, Any] = until(over, TIMEOUT, f"{task} has ended", 0.1)
        return told

    def systemctl(self, *arguments: str, check: bool = True) -> str:
        """Ask the systemd of the node's user."""
        uid = self.machine.run("id", "-u", "bzzz").stdout.strip()
        return self.machine.run(
            *("setpriv", "--reuid=bzzz", "--regid=bzzz", "--clear-groups"),
            *("env", f"XDG_RUNTIME_DIR=/run/user/{uid}", "systemctl", "--user", *arguments),
            check=check,
        ).stdout

    def units(self) -> list[str]:
        """The units of tasks that are there."""
        listed = self.systemctl("list-units", "--all", "--plain", "--no-legend", "bzzz-task-*")
        return [line.split()[0] for line in listed.splitlines() if line.strip()]

    def shim(self) -> str:
        """The process of the unit of the only task."""
        (unit,) = self.units()
        return self.systemctl("show", "--value", "-p", "MainPID", unit).strip()

    # -- a task

    def test_chosen(self) -> None:
        """The node says that it has this executor."""
        status = ask(self.machine, "status")
        self.assertEqual((status["executor"], status["executor_reason"]), ("systemd", None))
        findings = ask(self.machine, "doctor")["findings"]
        (found,) = [each for each in findings if each["check"] == "executor"]
        self.assertEqual(found["level"], "ok")

    def test_unit(self) -> None:
        """A task is a unit of its own, with its limits, below the user's systemd."""
        task = self.begin("--memory", "64MiB", "--cpus", "1", "--timeout", "300s")
        (unit,) = self.units()
        self.assertRegex(unit, rf"^bzzz-task-\w{{6}}-{task}\.1\.service$")
        names = ("MemoryMax", "MemorySwapMax", "CPUQuotaPerSecUSec", "TasksMax", "KillMode")
        told = dict(
            line.split("=", 1)
            for line in self.systemctl("show", unit, "-p", ",".join(names)).splitlines()
        )
        limits = (str((64 << 20) + SHIM_MEMORY), "0", "1s", str(MAX_PROCESSES), "control-group")
        self.assertEqual(told, dict(zip(names, limits, strict=True)))
        # The time that systemd gives it is that of the lease, and goes on.
        watchdog = self.systemctl("show", "--value", "-p", "WatchdogUSec", unit).strip()
        self.assertLess(float(watchdog.removesuffix("s")), LEASE + 0.5)
        self.machine.run("bzzz", "cancel", task)
        self.until_gone()
        self.ended(task)
        self.assertEqual(self.units(), [])

    def test_output(self) -> None:
        """What it prints and how it ends is told; what it has built it runs."""
        ran = self.run_task("cp /bin/echo here && ./here out; pwd; echo err >&2; exit 3")
        self.assertEqual(ran.code, 3)
        self.assertRegex(ran.stdout, r"^out\n/var/lib/bzzz/tasks/\w+\.1/work\n$")
        self.assertEqual(ran.stderr.splitlines()[0], "err")
        self.assertEqual(self.units(), [])

    def test_key(self) -> None:
        """It sees the node's key by no way, nor what it could ask the node or systemd by."""
        key = "/var/lib/bzzz/identity.key"
        self.machine.run("test", "-s", key)
        self.assertNotEqual(self.run_task(f"cat {key}").code, 0)
        ran = self.run_task(
            f"for each in /proc/[0-9]*; do cat $each/root{key} && echo read by $each; done;"
            " ls -A /run/bzzz /run/dbus /var/lib/bzzz"
        )
        self.assertNotIn("read by", ran.stdout)
        # Which other processes are to be looked at is no secret, and what they have open is one.
        self.assertIn("Permission denied", ran.stderr)
        shown = "\n/run/bzzz:\n\n/run/dbus:\n\n/var/lib/bzzz:\ntasks\n"
        self.assertEqual(f"\n{ran.stdout}", shown)
        ran = self.run_task("systemctl --user start x; bzzz status")
        self.assertIn("Failed to connect to bus", ran.stderr)
        self.assertIn("No node is running here", ran.stderr)

    def test_writes(self) -> None:
        """It writes to its own directory and to a /tmp of its own, and to nothing else."""
        ran = self.run_task("touch here /tmp/here /dev/shm/bzzz-test; touch /etc/x; touch /var/x")
        self.assertEqual(ran.stderr.count("Read-only file system"), 2, ran.stderr)
        self.machine.run("sh", "-c", "! test -e /tmp/here -o -e /dev/shm/bzzz-test")
        ran = self.run_task("touch /var/lib/bzzz/x", "--profile", "trusted")
        self.assertIn("Read-only file system", ran.stderr)

    def test_no_network(self) -> None:
        """The profile has no network, and others have it."""
        port = re.search(r"/tcp/(\d+)", " ".join(ask(self.machine, "status")["listen_addresses"]))
        assert port is not None
        connect = (
            "python3 -c 'import socket; "
            f'socket.create_connection(("{self.machine.address}", {port[1]}), 5)\''
        )
        self.assertEqual(self.run_task(connect).code, 0)
        ran = self.run_task(f"cat /proc/net/dev; {connect}", "--profile", "no-network")
        self.assertEqual(ran.code, 1)
        self.assertIn("Network is unreachable", ran.stderr)
        interfaces = [line.split(":")[0].strip() for line in ran.stdout.splitlines()[2:]]
        self.assertEqual(interfaces, ["lo"])

    # -- its end

    def test_timeout(self) -> None:
        """A timeout is told as one."""
        options = ("--timeout", "1s", "--retries", "0")
        self.assertEqual(self.run_task("sleep 600", *options).code, 124)
        told = self.ended(self.begin(*options))
        self.assertEqual((told["state"], told["why"]), ("timed_out", "it took over 1 s"))
        self.assertEqual(self.sleepers(), 0)

    def test_cancel(self) -> None:
        """A cancel ends all, also what ignores SIGTERM, has left its session and its parent."""
        task = self.begin()
        seconds = self.until_gone(f"bzzz cancel {task} >/dev/null;")
        self.figure("gone after a cancel", seconds, STOP_GRACE + SLACK)
        self.assertEqual(self.ended(task)["state"], "cancelled")

    def test_node_killed(self) -> None:
        """SIGKILL of the node ends its tasks within their lease; the next node finds none."""
        self.begin()
        pid = show(self.machine, "MainPID")["MainPID"]
        seconds = self.until_gone(f"kill -KILL {pid};")
        self.figure("gone after the node", seconds, LEASE + KILL)
        self.assertEqual(self.units(), [])
        self.until_up()
        self.assertEqual(self.run_task("echo again").stdout, "again\n")

    def test_node_and_shim_stopped(self) -> None:
        """With a node that is stuck and a shim that its task has stopped, systemd ends it."""
        task = self.begin()
        pid = show(self.machine, "MainPID")["MainPID"]
        seconds = self.until_gone(f"kill -STOP {pid} {self.shim()};")
        self.machine.run("kill", "-CONT", pid)
        self.figure("gone after its lease", seconds, LEASE + KILL + SLACK)
        self.assertGreater(seconds, LEASE / 2)
        told = self.ended(task)
        self.assertEqual(told["state"], "lost")
        self.assertIn("its lease ended", told["why"])

    def test_shim_killed(self) -> None:
        """Who kills its shim is killed with it."""
        task = self.begin()
        self.figure("gone after its shim", self.until_gone(f"kill -KILL {self.shim()};"), SLACK)
        told = self.ended(task)
        self.assertEqual(told["state"], "lost")
        self.assertIn("its shim was killed by SIGKILL", told["why"])

    # -- systemd

    def test_bus_restarted(self) -> None:
        """Tasks go on while the bus, and the user's systemd itself, are restarted."""
        for command in (("restart", "dbus"), ("daemon-reexec",)):
            task = self.begin()
            began = time.time()
            self.systemctl(*command)
            until(
                lambda began=began: "can be asked again" in log(self.machine, began),  # type: ignore[misc]  # no lambda with a default has a type
                TIMEOUT,
                f"systemd is asked again after {command}",
                0.1,
            )
            self.assertEqual(self.run_task("echo meanwhile").stdout, "meanwhile\n")
            self.assertEqual(self.sleepers(), 21)
            self.machine.run("pkill", "-KILL", "-x", SLEEPER)
            self.assertEqual(self.ended(task)["state"], "failed")

    def test_systemd_killed(self) -> None:
        """With the user's systemd its tasks end; it is started again, and so are they."""
        task = self.begin()
        uid = self.machine.run("id", "-u", "bzzz").stdout.strip()
        manager = self.machine.run(
            "systemctl", "show", "--value", "-p", "MainPID", f"user@{uid}.service"
        ).stdout.strip()
        seconds = self.until_gone(f"kill -KILL {manager};")
        self.figure("gone after the user's systemd", seconds, SLACK)
        self.assertEqual(self.ended(task)["state"], "lost")
        self.assertEqual(self.run_task("echo again").stdout, "again\n")

    def test_asked_for(self) -> None:
        """Where it is asked for and does not work, the node says so, and does not start."""
        file = "/etc/bzzz/bzzz.toml"
        self.machine.run("cp", "-p", file, "/root/bzzz.toml.before")
        drop_in = "/run/systemd/system/bzzz.service.d"
        self.machine.run("mkdir", "-p", drop_in)
        hidden = "[Service]\nInaccessiblePaths=/run/user\n"
        self.machine.run("tee", f"{drop_in}/test.conf", stdin=hidden)
        self.machine.run("systemctl", "daemon-reload")
        try:
            self.machine.run("systemctl", "restart", "bzzz")
            status = json.loads(self.machine.run("bzzz", "status", "--wait", "20", "--json").stdout)
            self.assertEqual(status["executor"], "process")
            self.assertIn("has no systemd of its own", status["executor_reason"])
            self.machine.run("sh", "-c", f"echo 'executor = \"systemd\"' >> {file}")
            self.machine.run("systemctl", "restart", "bzzz")
            words = 'executor is "systemd", and that does not work here'
            until(
                lambda: words in log(self.machine, self.began, "-p", "err"),
                TIMEOUT,
                "the log says why",
                0.2,
            )
        finally:
            self.machine.run("rm", "-r", drop_in)
            self.machine.run("cp", "-p", "/root/bzzz.toml.before", file)
            self.machine.run("systemctl", "daemon-reload")
            self.machine.run("systemctl", "restart", "bzzz")
