"""The service, on three machines with a real systemd: installed, used, broken, upgraded, removed.

Each test finds the three machines meshed and leaves them so. They are booted, and Bzzz is installed
on them, by the first test; all are gone when the process ends.
"""

from __future__ import annotations

import functools
import json
import os
import re
import shlex
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from tests.cluster.machine import ROOT, Machine, Ran
from tests.cluster.machines import Machines, differences, without_machines
from tests.cluster.netns import until
from tests.cluster.nodes import when
from tests.needs import needs

NAMES = ("walnut", "ironwood", "acacia")
CHECKOUT = "/root/bzzz"
WHEELS = "/root/wheels"

# Seconds.
INSTALL_LIMIT = 60.0
INSTALL_TIMEOUT = 240.0
MESH_TIMEOUT = 30.0
# RestartSec= is 10, and a node is up in one or two more.
RESTART_TIMEOUT = 25.0
# WatchdogSec= is 30, and a process that is stopped is ended by SIGKILL, TimeoutAbortSec= later.
WATCHDOG_TIMEOUT = 100.0

# What the guide says of the unit, as systemd has it.
PROPERTIES = {
    "Type": "simple",
    "NotifyAccess": "main",
    "Restart": "always",
    "RestartUSec": "10s",
    "TimeoutStopUSec": "30s",
    "User": "bzzz",
    "Group": "bzzz",
    "WorkingDirectory": "/var/lib/bzzz",
    "NoNewPrivileges": "yes",
    "PrivateTmp": "yes",
    "ProtectSystem": "strict",
    "ProtectHome": "yes",
    "LimitNOFILE": "65536",
    "LimitNPROC": "4096",
    "UnitFileState": "enabled",
    "ActiveState": "active",
    "NRestarts": "0",
}

# Files that making and removing an account changes, and that have no other content than before.
ACCOUNTS = (
    "/etc/.pwd.lock",
    *(f"/etc/{name}" for name in ("passwd", "group", "shadow", "gshadow", "subuid", "subgid")),
    *(f"/etc/{name}-" for name in ("passwd", "group", "shadow", "gshadow", "subuid", "subgid")),
)


class Service:
    """The three machines, with Bzzz on each.

    :ivar installed: seconds that the first installation took, alone on the build machine.
    :ivar before: the disk of each before.
    """

    def __init__(self) -> None:
        self.machines = Machines(*NAMES)
        self.machines.__enter__()
        for number, machine in enumerate(self.machines.machines.values(), 1):
            # A documentation prefix (RFC 3849); the network gives IPv4 alone.
            machine.host.ip(*f"address add 2001:db8::{number}/64 dev eth0 nodad".split())
        self.all = list(self.machines.machines.values())
        self.walnut, self.ironwood, self.acacia = self.all
        wheels = Path(tempfile.mkdtemp(prefix="bzzz-wheels-"))
        try:
            # For the machines' Python, which need not be the one of this test.
            made = subprocess.run(
                [str(ROOT / "script" / "wheelhouse"), str(wheels)],
                capture_output=True,
                text=True,
                check=False,
                env={**os.environ, "PYTHON": "/usr/bin/python3"},
            )
            assert made.returncode == 0, made.stderr
            for machine in self.all:
                machine.put(wheels, WHEELS)
                machine.put_checkout(CHECKOUT)
        finally:
            shutil.rmtree(wheels)
        self.before = {machine.name: machine.snapshot(*ACCOUNTS) for machine in self.all}
        started = time.monotonic()
        self.output = install(self.walnut).output
        self.installed = time.monotonic() - started
        with ThreadPoolExecutor() as pool:
            for _ in pool.map(install, (self.ironwood, self.acacia)):
                pass


_service: Service | None = None


def service() -> Service:
    """The machines, booted and installed by whoever asks first."""
    global _service  # noqa: PLW0603 - trial has no fixtures that tests share
    if _service is None:
        _service = Service()
    return _service


def install(machine: Machine, checkout: str = CHECKOUT, check: bool = True) -> Ran:
    """Run the installer, from a checkout in the machine."""
    return machine.run(
        f"{checkout}/install-service.sh",
        *("--wheelhouse", WHEELS),
        check=check,
        timeout=INSTALL_TIMEOUT,
    )


def ask(machine: Machine, *command: str) -> Any:
    """The JSON that the node of a machine answers to a command of ``bzzz``; None for no answer."""
    ran = machine.run("bzzz", *command, "--json", check=False)
    return json.loads(ran.stdout) if ran.code == 0 else None


def connected(machine: Machine) -> list[str]:
    """The names of the nodes that a machine's node is linked to."""
    answer = ask(machine, "peers") or {"peers": []}
    return sorted(peer["name"] or "?" for peer in answer["peers"] if peer["state"] == "connected")


def others(machine: Machine) -> list[str]:
    return sorted(set(NAMES) - {machine.name})


def is_whole(machine: Machine) -> bool:
    """Whether a machine's node is linked to each other, once."""
    return connected(machine) == others(machine)


def show(machine: Machine, *properties: str) -> dict[str, str]:
    """What systemd says of the unit."""
    said = machine.run("systemctl", "show", "bzzz", "-p", ",".join(properties)).stdout
    return dict(line.split("=", 1) for line in said.splitlines())


def until_restarted(machine: Machine, pid: str, timeout: float) -> None:
    """Wait until systemd has started another process than ``pid``."""
    until(
        lambda: show(machine, "MainPID")["MainPID"] not in ("0", pid),
        timeout,
        "it is started again",
        0.1,
    )


@contextmanager
def drop_in(machine: Machine, *settings: str) -> Iterator[None]:
    """The service with other settings; in the end, the service as it was, restarted."""
    directory = "/etc/systemd/system/bzzz.service.d"
    text = "\n".join(("[Service]", *settings, ""))
    machine.run("mkdir", "-p", directory)
    try:
        machine.run("tee", f"{directory}/test.conf", stdin=text)
        machine.run("systemctl", "daemon-reload")
        yield
    finally:
        machine.run("rm", "-r", directory)
        machine.run("systemctl", "daemon-reload")
        machine.run("systemctl", "restart", "bzzz")


def log(machine: Machine, since: float, *arguments: str) -> str:
    """The unit's lines in the journal since a time."""
    said = machine.run(
        *("journalctl", "-u", "bzzz", "--no-pager", "-o", "cat", "--since", f"@{since:.3f}"),
        *arguments,
    )
    return said.stdout.replace("-- No entries --\n", "")


def says(machine: Machine, since: float, error: str) -> bool:
    """Whether the unit's log has an error since a time."""
    return error in log(machine, since, "-p", "err")


def guide() -> list[str]:
    """The commands of the guide, in its order."""
    text = (ROOT / "docs" / "operating.rst").read_text(encoding="utf-8")
    blocks = re.findall(r"\.\. code-block:: console\n\n((?:   .*\n|\n)+)", text)
    lines = [line.strip() for block in blocks for line in block.splitlines() if line.strip()]
    return [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]


def with_journals(case: type[SynchronousTestCase]) -> type[SynchronousTestCase]:
    """With a test that fails, show the machines' journals."""

    def shown(test: Callable[[Any], None]) -> Callable[[Any], None]:
        @functools.wraps(test)
        def run(self: Any) -> None:
            with service().machines.shown():
                test(self)

        return run

    for name in [name for name in vars(case) if name.startswith("test_")]:
        setattr(case, name, shown(getattr(case, name)))
    return case


@needs(without_machines("netstat"))
@with_journals
class ServiceTests(SynchronousTestCase):
    """What the operators of three machines do, and what may happen to them."""

    timeout = 900.0

    def setUp(self) -> None:
        self.service = service()
        self.until_whole()
        self.began = time.time()

    def until_whole(self, timeout: float = MESH_TIMEOUT) -> None:
        """Wait until each node is linked to each other."""
        for machine in self.service.all:
            until(partial(is_whole, machine), timeout, f"{machine.name} has its 2 peers", 0.2)

    def figure(self, what: str, seconds: float, limit: float) -> None:
        """Print a measured time, and fail if it is above what is promised."""
        print(f"\n      {what}: {seconds:.2f} s (promised: {limit:g})", end=" ", flush=True)
        self.assertLessEqual(seconds, limit, what)

    def identity(self, machine: Machine) -> tuple[str, str]:
        """The peer ID of a machine's node, and its port."""
        status = ask(machine, "status")
        port = re.search(r"/tcp/(\d+)", " ".join(status["listen_addresses"]))
        assert port is not None
        return status["peer_id"], port[1]

    def build(self, machine: Machine, version: str, breaking: str = "") -> str:
        """Put another version of the checkout into a machine; returns where it is."""
        checkout = f"/root/bzzz-{version}"
        machine.run("rm", "-rf", checkout)
        machine.run("cp", "-a", CHECKOUT, checkout)
        module = f"{checkout}/bzzz/__init__.py"
        machine.run("sed", "-i", f's/^__version__ = .*/__version__ = "{version}"/', module)
        machine.run("sed", "-i", f's/version="[^"]*"/version="{version}"/', f"{checkout}/setup.py")
        if breaking:
            machine.run("sh", "-c", f"echo {shlex.quote(breaking)} >> {checkout}/bzzz/node.py")
        return checkout

    # -- installed

    def test_installed(self) -> None:
        """One command installs it, within a minute, and says what it is and what to do next."""
        self.figure("installed", self.service.installed, INSTALL_LIMIT)
        said = self.service.output
        walnut = self.service.walnut
        self.assertIn("active (running)", said)
        self.assertIn(self.identity(walnut)[0], said)
        self.assertIn("bzzz peers", said)
        found = differences(self.service.before["walnut"], walnut.snapshot(*ACCOUNTS))
        for path in (
            "/etc/systemd/system/bzzz.service",
            "/etc/bzzz/bzzz.toml",
            "/usr/local/bin/bzzz",
            "/usr/local/share/bash-completion/completions/bzzz",
            "/usr/local/share/man/man1/bzzz.1",
        ):
            self.assertIn(f"made {path}", found)
        self.assertEqual(
            walnut.run("stat", "-c", "%a %U", "/var/lib/bzzz/identity.key").stdout, "600 bzzz\n"
        )

    def test_installed_again(self) -> None:
        """With nothing new, a second run restarts nothing and changes nothing."""
        walnut = self.service.walnut
        before = show(walnut, "MainPID", "ExecMainStartTimestamp"), walnut.snapshot(*ACCOUNTS)
        install(walnut)
        after = show(walnut, "MainPID", "ExecMainStartTimestamp"), walnut.snapshot(*ACCOUNTS)
        self.assertEqual(after[0], before[0])
        restless = re.compile("changed /var/lib/bzzz/|changed /root|made /root")
        found = differences(before[1], after[1])
        self.assertEqual([line for line in found if not restless.match(line)], [])

    def test_unit(self) -> None:
        """Every setting of the guide is in effect, and what may be known of it is little."""
        for machine in self.service.all:
            said = show(machine, *PROPERTIES)
            said["NRestarts"] = PROPERTIES["NRestarts"]  # other tests have it restarted
            self.assertEqual(said, PROPERTIES)
        walnut = self.service.walnut
        pid = show(walnut, "MainPID")["MainPID"]
        limits = walnut.run("cat", f"/proc/{pid}/limits").stdout
        # A container's systemd cannot give more than it has itself.
        files = min(65536, int(walnut.run("sh", "-c", "ulimit -Hn").stdout))
        self.assertRegex(limits, rf"Max open files\s+{files}\s+{files}")
        self.assertRegex(limits, r"Max processes\s+4096\s+4096")
        self.assertEqual(walnut.run("ps", "-o", "user=", "-p", pid).stdout.strip(), "bzzz")
        said_of_it = walnut.run("systemd-analyze", "security", "--no-pager", "bzzz").stdout
        exposure = re.search(r"exposure level for bzzz\.service: ([\d.]+)", said_of_it)
        assert exposure is not None, said_of_it
        print(f"\n      exposure: {exposure[1]} (at most 2.0)", end=" ", flush=True)
        self.assertLessEqual(float(exposure[1]), 2.0)

    def test_status(self) -> None:
        """systemctl status has the node's own line; bzzz status has the unit."""
        for machine in self.service.all:
            said = machine.run("systemctl", "status", "--no-pager", "bzzz").stdout
            self.assertIn("active (running)", said)
            self.assertIn(f'Status: "{machine.name}: 2 peers, 0 tasks, ready"', said)
            unit = ask(machine, "status")["unit"]
            self.assertEqual(
                (unit["id"], unit["type"], unit["active_state"], unit["file_state"]),
                ("bzzz.service", "simple", "active", "enabled"),
            )
            self.assertEqual(str(unit["main_pid"]), show(machine, "MainPID")["MainPID"])
            self.assertIn("bzzz.service: active (running)", machine.run("bzzz", "status").stdout)
        told = ask(self.service.walnut, "capabilities", "acacia")["capabilities"]["service"]
        self.assertEqual((told["unit"], told["active_state"]), ("bzzz.service", "active"))

    def test_asked_by_others(self) -> None:
        """Another user than root and the service's is told so, in a line."""
        ran = self.service.walnut.run(
            *("setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups", "bzzz", "status"),
            check=False,
        )
        self.assertEqual((ran.code, ran.stdout), (3, ""))
        self.assertIn("belongs to another user; ask it as that user or as root", ran.stderr)
        self.assertEqual(len(ran.stderr.splitlines()), 1)

    def test_found_by_name(self) -> None:
        """ps and netstat find the node; its port is where the guide has it, in both IP versions."""
        for machine in self.service.all:
            self.assertIn(
                f"bzzz: {machine.name}", machine.run("sh", "-c", "ps aux | grep bzzz").stdout
            )
            found = machine.run("sh", "-c", "netstat -tulpn | grep bzzz").stdout
            self.assertRegex(found, r"(?m)^udp .*:5353 ")
            for kind in ("tcp", "tcp6"):
                port = re.search(rf"(?m)^{kind} .*:(\d+) .* LISTEN .*/bzzz", found)
                assert port is not None, found
                self.assertIn(int(port[1]), range(32768, 65536))

    def test_journal(self) -> None:
        """Entries have priorities and fields; nothing is an error on a healthy day."""
        walnut = self.service.walnut
        walnut.run("systemctl", "restart", "bzzz")
        self.until_whole()
        self.assertEqual(log(walnut, self.began, "-p", "err"), "")
        self.assertIn("Connected to ", log(walnut, self.began, "-p", "info"))
        self.assertIn("capability_broadcast", log(walnut, self.began))
        lines = walnut.run(
            *("journalctl", "-u", "bzzz", "-o", "json", "--no-pager", "EVENT=connected"),
            *("--since", f"@{self.began:.3f}"),
        ).stdout
        entries = [json.loads(line) for line in lines.splitlines()]
        peers = {
            self.identity(machine)[0] for machine in (self.service.ironwood, self.service.acacia)
        }
        self.assertEqual({entry["PEER_ID"] for entry in entries}, peers)
        self.assertEqual({entry["PRIORITY"] for entry in entries}, {"6"})
        self.assertTrue(all(entry["CODE_FILE"].endswith("membership.py") for entry in entries))
        self.assertEqual({entry["SYSLOG_IDENTIFIER"] for entry in entries}, {"bzzz"})

    def test_guide(self) -> None:
        """Every command of the guide does what it says, in the order of the guide."""
        acacia = self.service.acacia
        commands = guide()
        self.assertGreater(len(commands), 30)
        for command in commands:
            line = re.sub(r"^sudo ", "", command)
            if line.startswith("./install-service.sh"):
                line += f" --wheelhouse {WHEELS}"
            if line.startswith("./"):
                line = f"cd {CHECKOUT} && {line}"
            ran = acacia.run("sh", "-c", line, check=False, timeout=INSTALL_TIMEOUT)
            # The doctor tells of the machine's clock, which nobody keeps here; that is a warning.
            self.assertEqual(ran.code, 0, f"{command}\n{ran.output}")
        self.assertEqual(acacia.run("sh", "-c", "ls -d /opt/bzzz", check=False).code, 2)
        install(acacia)

    # -- what may happen

    def test_stop(self) -> None:
        """A stop is in order and quick: the others are told, and do not have to notice."""
        walnut, acacia = self.service.walnut, self.service.acacia
        started = time.monotonic()
        walnut.run("systemctl", "stop", "bzzz")
        self.figure("stopped", time.monotonic() - started, 2.0)
        self.assertEqual(
            show(walnut, "Result", "ActiveState"), {"Result": "success", "ActiveState": "inactive"}
        )
        until(
            lambda: "(walnut): the peer closed it" in log(acacia, self.began),
            2.0,
            "acacia was told",
            0.1,
        )
        self.assertIn("has left the mesh", log(walnut, self.began))
        walnut.run("systemctl", "start", "bzzz")

    def test_reboot(self) -> None:
        """A machine that reboots is back in the mesh by itself, with the same ID and port."""
        ironwood = self.service.ironwood
        before = self.identity(ironwood)
        ironwood.reboot()
        self.until_whole()
        self.assertEqual(self.identity(ironwood), before)
        started = float(when(ask(ironwood, "status")["unit"]["since"]))
        events = ironwood.run("bzzz", "events", "-n", "1000", "--json").stdout.splitlines()
        linked = [
            when(one["time"]) for one in map(json.loads, events) if one["event"] == "connected"
        ]
        self.figure("full mesh after the service's start", sorted(linked)[1] - started, 3.0)

    def test_killed(self) -> None:
        """A node that is killed is started again after 10 s, and the restart is counted."""
        walnut = self.service.walnut
        walnut.run("systemctl", "restart", "bzzz")
        walnut.run("bzzz", "status", "--wait", "20")
        pid = show(walnut, "MainPID")["MainPID"]
        walnut.run("kill", "-9", pid)
        killed = time.monotonic()
        until_restarted(walnut, pid, RESTART_TIMEOUT)
        after = time.monotonic() - killed
        self.figure("started again after", after, 12.0)
        self.assertGreater(after, 9.0)
        self.until_whole()
        until(
            lambda: (ask(walnut, "status")["unit"] or {}).get("restarts") == 1,
            15.0,
            "NRestarts is 1 in bzzz status",
            0.2,
        )

    def test_stuck(self) -> None:
        """A node that is stuck longer than the watchdog waits is ended and started again."""
        walnut = self.service.walnut
        pid = show(walnut, "MainPID")["MainPID"]
        walnut.run("kill", "-STOP", pid)
        stopped = time.monotonic()
        until_restarted(walnut, pid, WATCHDOG_TIMEOUT)
        print(f"\n      stuck node started again after {time.monotonic() - stopped:.1f} s", end=" ")
        said = log(walnut, self.began)
        self.assertIn("Watchdog timeout", said)
        # It says where it was stuck.
        self.assertIn("Fatal Python error: Aborted", said)
        self.until_whole()

    def test_upgrade(self) -> None:
        """An upgrade while the mesh runs: another version, the same node."""
        walnut = self.service.walnut
        before = self.identity(walnut)
        version = ask(walnut, "status")["version"]
        install(walnut, self.build(walnut, "0.1.77"))
        self.assertEqual(ask(walnut, "status")["version"], "0.1.77")
        self.until_whole()
        self.assertEqual(self.identity(walnut), before)
        install(walnut)
        self.assertEqual(ask(walnut, "status")["version"], version)

    def test_upgrade_that_cannot_start(self) -> None:
        """An upgrade that does not come up is taken back: exit code not 0, the mesh whole."""
        walnut = self.service.walnut
        before = self.identity(walnut)
        version = ask(walnut, "status")["version"]
        broken = self.build(walnut, "0.1.88", 'raise RuntimeError("this build cannot start")')
        ran = install(walnut, broken, check=False)
        self.assertEqual(ran.code, 1, ran.output)
        self.assertIn("this build cannot start", ran.output)
        self.assertIn("0.1.88", ran.output)
        self.assertEqual(ask(walnut, "status")["version"], version)
        self.until_whole()
        self.assertEqual(self.identity(walnut), before)

    def test_reload(self) -> None:
        """A reload changes what it can; a wrong file is refused, and the node runs on."""
        walnut, acacia = self.service.walnut, self.service.acacia
        file = "/etc/bzzz/bzzz.toml"
        walnut.run("cp", "-p", file, "/root/bzzz.toml.before")
        # A node that is just being started gets the signal when it can take it.
        walnut.run("sh", "-c", "systemctl restart bzzz && systemctl reload bzzz")
        pid = show(walnut, "MainPID")["MainPID"]
        self.assertIn("The configuration was read again: nothing new", log(walnut, self.began))
        try:
            walnut.run("sh", "-c", f"echo 'label = {{ rack = \"a3\" }}' > {file}")
            walnut.run("systemctl", "reload", "bzzz")
            until(
                lambda: (
                    (ask(acacia, "capabilities", "walnut")["capabilities"] or {})["labels"]
                    == {"rack": "a3"}
                ),
                5.0,
                "acacia has heard of the label",
                0.1,
            )
            walnut.run("sh", "-c", f"echo 'labell = 3' > {file}")
            ran = walnut.run("systemctl", "reload", "bzzz", check=False)
            self.assertNotEqual(ran.code, 0)
            self.assertIn("unknown key 'labell' (did you mean 'label'?)", log(walnut, self.began))
            # Who sends the signal without asking first is refused as well.
            walnut.run("systemctl", "kill", "-s", "HUP", "--kill-who=main", "bzzz")
            until(
                lambda: "The node runs on as before" in log(walnut, self.began, "-p", "err"),
                5.0,
                "the log has the error",
                0.1,
            )
            self.assertEqual(
                show(walnut, "MainPID", "ActiveState"), {"MainPID": pid, "ActiveState": "active"}
            )
            self.assertEqual(connected(walnut), others(walnut))
        finally:
            walnut.run("cp", "-p", "/root/bzzz.toml.before", file)
            walnut.run("systemctl", "reload", "bzzz")

    def test_broken_start(self) -> None:
        """Why a node does not start is an error in the journal; mended, it starts by itself."""
        walnut = self.service.walnut
        file = "/etc/bzzz/bzzz.toml"
        walnut.run("cp", "-p", file, "/root/bzzz.toml.before")
        try:
            walnut.run("sh", "-c", f"echo 'name = 3' > {file}")
            walnut.run("systemctl", "restart", "bzzz")
            error = f"bzzz: {file}:1: name: 3 is not a string"
            until(partial(says, walnut, self.began, error), 15.0, f"the log says {error}", 0.2)
            ran = walnut.run("bzzz", "status", check=False)
            self.assertEqual(ran.code, 3)
            self.assertIn("if it does not stay: journalctl -u bzzz", ran.stderr)
        finally:
            walnut.run("cp", "-p", "/root/bzzz.toml.before", file)
        # By itself, 10 s later.
        walnut.run("bzzz", "status", "--wait", "20")

    def test_bus_restarted(self) -> None:
        """The bus, and systemd itself, restarted: the node lives on, and knows its unit again."""
        walnut = self.service.walnut
        pid = show(walnut, "MainPID")["MainPID"]
        for command in ("systemctl restart dbus", "systemctl daemon-reexec"):
            walnut.run("sh", "-c", command)
            until(
                lambda: (ask(walnut, "status")["unit"] or {}).get("main_pid") == int(pid),
                30.0,
                f"the unit is known after {command}",
                0.2,
            )
        # It follows the unit again, and does not only remember it.
        walnut.run("systemctl", "disable", "bzzz")
        until(
            lambda: ask(walnut, "status")["unit"]["file_state"] == "disabled",
            90.0,
            "disabled is seen",
            0.5,
        )
        walnut.run("systemctl", "enable", "bzzz")
        self.assertEqual(show(walnut, "MainPID")["MainPID"], pid)
        complaints = [
            line
            for line in log(walnut, self.began, "-p", "warning").splitlines()
            if "cannot be asked" in line
        ]
        self.assertLessEqual(len(complaints), 1, complaints)

    def test_other_unit(self) -> None:
        """With Type=notify a start ends when the node is ready; it never forks under systemd."""
        walnut = self.service.walnut
        twistd = "/opt/bzzz/current/bin/twistd --pidfile= bzzz --config /etc/bzzz/bzzz.toml"
        with drop_in(walnut, "Type=notify", "ExecStart=", f"ExecStart={twistd}"):
            walnut.run("systemctl", "restart", "bzzz")
            # At once, without waiting for it.
            status = ask(walnut, "status")
            self.assertNotEqual(status["state"], "starting")
            self.assertEqual(str(status["pid"]), show(walnut, "MainPID")["MainPID"])
            self.until_whole()
            self.assertEqual(ask(walnut, "status")["unit"]["type"], "notify")
            walnut.run("systemctl", "reload", "bzzz")
            self.assertEqual(show(walnut, "NRestarts", "ActiveState")["ActiveState"], "active")

    def test_unit_that_contradicts(self) -> None:
        """A unit that was made wrong is an error in the log, with its mend."""
        walnut = self.service.walnut
        for settings, error in (
            (("LimitNOFILE=100",), "Set LimitNOFILE="),
            (("User=root", "Group=root"), "as root"),
            (("Type=forking", "TimeoutStartSec=20"), "Set Type=simple"),
        ):
            began = time.time()
            with drop_in(walnut, *settings):
                walnut.run("systemctl", "restart", "--no-block", "bzzz")
                until(partial(says, walnut, began, error), 15.0, f"the log says {error}", 0.2)

    # -- removed

    def test_uninstalled(self) -> None:
        """What is uninstalled comes back as the same node; after --purge nothing is left of it."""
        ironwood = self.service.ironwood
        before = self.identity(ironwood)
        ironwood.run(f"{CHECKOUT}/uninstall-service.sh")
        self.assertNotEqual(ironwood.run("systemctl", "cat", "bzzz", check=False).code, 0)
        ironwood.run(f"{CHECKOUT}/uninstall-service.sh")
        install(ironwood)
        self.until_whole()
        self.assertEqual(self.identity(ironwood), before)
        ironwood.run(f"{CHECKOUT}/uninstall-service.sh", "--purge")
        found = differences(self.service.before["ironwood"], ironwood.snapshot(*ACCOUNTS))
        self.assertEqual([line for line in found if "/root" not in line], [])
        self.assertNotIn("bzzz", ironwood.run("sh", "-c", "cat /etc/passwd /etc/group").stdout)
        install(ironwood)
        self.assertNotEqual(self.identity(ironwood)[0], before[0])
