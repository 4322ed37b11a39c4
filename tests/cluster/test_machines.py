"""The machines that the tests of the service run on, by themselves."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests.cluster.machine import ROOT, Machine
from tests.cluster.machines import Machines, differences, list_groups, without_machines
from tests.cluster.netns import command, until
from tests.cluster.test_netns import CLIENT, SERVER
from tests.needs import needs

# Boots a machine, says what its parts are called, and waits for what comes.
HOLDER = """
import time
from tests.cluster.machines import Machines
with Machines("walnut") as machines:
    print(machines.machines["walnut"].host.namespace, flush=True)
    time.sleep(600)
"""

# What a service that is shut in asks for.
HARDENED = (
    *("User=nobody", "NoNewPrivileges=yes", "PrivateTmp=yes", "PrivateUsers=yes"),
    *("ProtectSystem=strict", "ProtectHome=yes", "PrivateDevices=yes", "LimitNPROC=64"),
    *("RestrictAddressFamilies=AF_UNIX AF_INET", "SystemCallFilter=@system-service"),
)
# What it can and cannot do, a word each.
TRIED = """
import os, resource, socket
def can(word, do):
    try:
        do()
    except OSError:
        word = f"no-{word}"
    print(word, end=" ")
can("usr", lambda: open("/usr/mine", "w"))
can("tmp", lambda: open("/tmp/mine", "w"))
can("home", lambda: os.listdir("/root"))
can("netlink", lambda: socket.socket(socket.AF_NETLINK))
can("tty", lambda: os.mknod("/tmp/tty", 0o20600, os.makedev(5, 0)))
# Without users of its own, the first range has all of them.
print("users", open("/proc/self/uid_map").read().split()[2], end=" ")
print("processes", resource.getrlimit(resource.RLIMIT_NPROC)[0])
"""
# Says that it is ready, feeds the watchdog for a while, and then no more.
FED = """
for i in 1 2 3 4 5; do systemd-notify --ready WATCHDOG=1 "--status=fed $i"; sleep 0.4; done
sleep 60
"""
BROKEN = """
[Service]
Type=oneshot
ExecStart=false
[Install]
WantedBy=multi-user.target
"""


def belongings(name: str) -> list[str]:
    """What is on this machine under a name that a :class:`Network` gave."""
    found = [f"group {group}" for group in list_groups() if group == name]
    places = Path("/proc/self/mountinfo").read_text() + command("ip", "netns", "list")
    return found + [line for line in places.splitlines() if name in line] + processes(name)


def all_ended(name: str) -> bool:
    """Whether a machine and those that held it are gone."""
    return not processes(name)


def processes(name: str) -> list[str]:
    """The processes of one machine, and those that hold it."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            line = (process / "cmdline").read_text(errors="replace").replace("\0", " ")
            if name in line or name in (process / "cgroup").read_text():
                found.append(f"process {process.name} {line}")
        except OSError:
            pass  # it has ended
    return found


@needs(without_machines())
class MachinesTests(SynchronousTestCase):
    """What the harness promises."""

    def boot(self, *names: str) -> tuple[Machines, list[Machine]]:
        machines = Machines(*names)
        machines.__enter__()
        self.addCleanup(machines.close)
        return machines, list(machines.machines.values())

    def test_network(self) -> None:
        """Three machines boot at once, no unit fails, and they reach each other, by multicast too,
        unless a cable is pulled."""
        machines, booted = self.boot("walnut", "ironwood", "acacia")
        with machines.shown():
            times = ", ".join(f"{machine.boot_time:.1f}" for machine in booted)
            used = max(machine.disk_usage for machine in booted) / 2**20
            print(f"\n      booted in {times} s, {used:.1f} MB on disk", end=" ", flush=True)
            for machine in booted:
                failed = machine.run("systemctl", "--failed", "--no-legend").output
                self.assertEqual((machine.state, failed), ("running", ""))
                self.assertEqual(machine.run("hostname").stdout, f"{machine.name}\n")
                for unit in ("dbus", "systemd-logind", "systemd-journald"):
                    machine.run("systemctl", "is-active", f"{unit}.service")
            ids = {machine.run("cat", "/etc/machine-id").stdout for machine in booted}
            self.assertEqual(len(ids), 3)

            walnut, ironwood, _ = booted
            listens = ("systemd-run", "--unit=echo", "python3", "-u", "-c")
            ironwood.run(*listens, SERVER % ironwood.address)
            ready = "journalctl -u echo -o cat | grep -q ready"
            until(lambda: ironwood.shell(ready, check=False).code == 0, 10, "it listens", 0.2)
            for machine in (walnut, ironwood):
                for asked in (ironwood.address, "224.0.0.250"):
                    self.assertEqual(self.ask(machine, asked), ironwood.address)
            ironwood.plug(False)
            self.assertNotEqual(self.ask(walnut, ironwood.address), ironwood.address)

    def ask(self, machine: Machine, address: str) -> str:
        return machine.run("python3", "-c", CLIENT, address).stdout.strip()

    def test_fresh(self) -> None:
        """A machine has Debian's Python with venv and a login's environment, and nothing of the
        build machine's people, files and units; its units are hardened and watched."""
        machines, (walnut,) = self.boot("walnut")
        with machines.shown():
            walnut.shell("python3 -m venv /opt/venv && /opt/venv/bin/pip --version")
            asked = walnut.shell("command -v python3; pwd; echo $HOME $USER; hostname -f")
            self.assertEqual(
                asked.stdout.split(), ["/usr/bin/python3", "/root", "/root", "root", "walnut"]
            )
            for place in ("/home", "/srv", "/etc/systemd/system", "/usr/local/bin"):
                self.assertEqual(walnut.run("ls", "-A", place).output, "", place)
            self.assertEqual(walnut.run("test", "-e", str(ROOT), check=False).code, 1)
            self.assertEqual(
                walnut.shell("getent passwd {1000..1100} bzzz", check=False).stdout, ""
            )

            shut_in = [part for name in HARDENED for part in ("-p", name)]
            run = ("systemd-run", "--wait", "--pipe", "--quiet")
            tried = walnut.run(*run, *shut_in, "python3", "-c", TRIED).stdout
            self.assertEqual(
                tried.strip(), "no-usr tmp no-home no-netlink no-tty users 1 processes 64"
            )

            notifying = ("-p", "Type=notify", "-p", "NotifyAccess=all", "-p", "WatchdogSec=1s")
            at = time.monotonic()
            ended = walnut.run(*run, *notifying, "--unit=fed", "sh", "-c", FED, check=False)
            self.assertNotEqual(ended.code, 0)
            # It was fed for 2 s, so that it lived longer than one interval.
            self.assertGreater(time.monotonic() - at, 2.0)
            self.assertIn("Watchdog timeout", walnut.run("journalctl", "-u", "fed").output)

    def test_commands(self) -> None:
        """What a command says and how it ended is told apart; one that takes too long is killed
        with all that it started; one that leaves something running has ended."""
        machines, (walnut,) = self.boot("walnut")
        with machines.shown():
            ran = walnut.shell("cat; echo $MINE; echo bad >&2", stdin="in\n", env={"MINE": "yes"})
            self.assertEqual((ran.code, ran.stdout, ran.stderr), (0, "in\nyes\n", "bad\n"))
            self.assertEqual(walnut.shell("exit 3", check=False).code, 3)
            error = self.assertRaises(AssertionError, walnut.shell, "echo sorry; false")
            self.assertIn("walnut: bash -c echo sorry; false ended with 1: sorry", str(error))
            self.assertRaises(AssertionError, walnut.shell, "sleep 1001 & sleep 1001", timeout=0.5)
            walnut.shell("sleep 1002 &")
            self.assertEqual(self.running(walnut), ["sleep 1002"])

    def running(self, machine: Machine) -> list[str]:
        """The sleeping processes of a machine."""
        lines = machine.shell("tail -qc +0 /proc/[0-9]*/cmdline | tr '\\0' ' '").stdout
        return [f"sleep {word}" for word in re.findall(r"sleep (\d+)", lines)]

    def test_boots(self) -> None:
        """The disk, the machine's identity and the journal outlive a reboot, a shutdown and a
        crash; what runs does not. A unit that fails is told."""
        machines, (walnut,) = self.boot("walnut")
        with machines.shown():
            identity = walnut.run("cat", "/etc/machine-id").stdout
            boots = [walnut.run("cat", "/proc/sys/kernel/random/boot_id").stdout]
            for again in (self.reboot, self.shut_down, self.crash):
                walnut.shell(f"echo {len(boots)} >/srv/mine; logger -t mine before {len(boots)}")
                walnut.shell("journalctl --sync; touch /run/mine; sleep 1002 &")
                before = walnut.journal()
                again(walnut)
                self.assertEqual(walnut.state, "running")
                self.assertEqual(walnut.run("cat", "/srv/mine").stdout, f"{len(boots)}\n")
                self.assertEqual(walnut.run("cat", "/etc/machine-id").stdout, identity)
                self.assertEqual(walnut.run("test", "-e", "/run/mine", check=False).code, 1)
                self.assertEqual(self.running(walnut), [])
                self.assertIn(f": before {len(boots)}\n", before)
                self.assertNotIn(f": before {len(boots)}\n", walnut.journal())
                boots.append(walnut.run("cat", "/proc/sys/kernel/random/boot_id").stdout)
            told = walnut.run("journalctl", "-t", "mine", "-o", "cat").stdout
            self.assertEqual(told.splitlines(), ["before 1", "before 2", "before 3"])
            self.assertEqual(len(set(boots)), 4)

            walnut.shell("cat >/etc/systemd/system/broken.service", stdin=BROKEN)
            walnut.shell("systemctl enable broken")
            walnut.reboot()
            self.assertEqual(walnut.state, "degraded")

    def reboot(self, machine: Machine) -> None:
        machine.reboot()

    def shut_down(self, machine: Machine) -> None:
        machine.power_off()
        self.assertEqual(machine.state, "")
        machine.boot()

    def crash(self, machine: Machine) -> None:
        machine.crash()
        machine.boot()

    def test_disk(self) -> None:
        """A snapshot tells what was made, changed and removed, also of what the build machine has,
        and nothing where all is as before; a reboot and what systemd writes are no difference."""
        machines, (walnut,) = self.boot("walnut")
        with machines.shown():
            walnut.shell(
                "mkdir -p /srv/dir/sub; echo 1 >/srv/dir/changed; echo 1 >/srv/dir/removed"
            )
            before = walnut.snapshot()
            walnut.reboot()
            self.assertEqual(differences(before, walnut.snapshot()), [])

            walnut.shell(
                "cd /srv/dir; echo 2 >changed; rm removed; echo 1 >made; chmod 700 sub;"
                "echo 1 >>/etc/issue; rm /etc/motd; rm -r /etc/skel; mkdir /etc/skel;"
                "touch /etc/debian_version; mkdir /opt/left; ln -s nowhere /opt/left/link"
            )
            expected = (
                "changed /etc/issue, removed /etc/motd, changed /etc/skel, made /opt/left, "
                "made /opt/left/link, changed /srv/dir/changed, made /srv/dir/made, "
                "removed /srv/dir/removed, changed /srv/dir/sub"
            )
            after = walnut.snapshot()
            self.assertEqual(", ".join(differences(before, after)), expected)
            self.assertEqual(differences(after, walnut.snapshot()), [])
            excluded = walnut.snapshot("/etc", "/srv")
            self.assertEqual([path for path in excluded if path[:4] in ("/etc", "/srv")], [])

            walnut.shell(
                "cd /srv/dir; echo 1 >changed; rm -r made /opt/left; echo 1 >removed; chmod 755 sub"
            )
            expected = "changed /etc/issue, removed /etc/motd, changed /etc/skel"
            self.assertEqual(", ".join(differences(before, walnut.snapshot())), expected)

    def test_put(self) -> None:
        """Files, directories and the checkout arrive as they are, and belong to root."""
        directory = Path(tempfile.mkdtemp(prefix="bzzz-machines-"))
        self.addCleanup(shutil.rmtree, directory)
        (directory / "sub").mkdir()
        (directory / "sub" / "run").write_text("#!/bin/sh\necho I run\n")
        (directory / "sub" / "run").chmod(0o755)
        (directory / "link").symlink_to("sub/run")
        os.chown(directory / "sub", 12345, 12345)
        machines, (walnut,) = self.boot("walnut")
        with machines.shown():
            walnut.put(directory, "/opt/tree")
            walnut.put(directory / "sub" / "run", "/usr/local/bin/other")
            self.assertEqual(walnut.run("/opt/tree/link").stdout, "I run\n")
            self.assertEqual(walnut.run("other").stdout, "I run\n")
            self.assertEqual(walnut.run("stat", "-c", "%u %g", "/opt/tree/sub").stdout, "0 0\n")
            walnut.put_checkout("/srv/bzzz")
            mine = (ROOT / "pyproject.toml").read_text()
            self.assertEqual(walnut.run("cat", "/srv/bzzz/pyproject.toml").stdout, mine)
            self.assertEqual(
                walnut.shell("ls -d /srv/bzzz/.[gv]*").stdout, "/srv/bzzz/.gitignore\n"
            )

    def test_leaves_nothing(self) -> None:
        """Processes, mounts, namespaces and control groups are gone when the block ends, also by
        an interrupt; after a SIGKILL the processes are gone at once, and the rest with the next
        run."""
        for asked in (signal.SIGINT, signal.SIGKILL):
            holder = subprocess.Popen(
                [sys.executable, "-c", HOLDER],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                cwd=ROOT,
                text=True,
            )
            self.addCleanup(holder.wait)
            self.addCleanup(holder.kill)
            assert holder.stdout is not None
            self.addCleanup(holder.stdout.close)
            name = holder.stdout.readline().strip()
            self.assertGreater(len(processes(name)), 5, name)
            holder.send_signal(asked)
            holder.wait(30)
            if asked == signal.SIGKILL:
                until(partial(all_ended, name), 10, "all have ended")
                with Machines():
                    pass
            self.assertEqual(belongings(name), [])
