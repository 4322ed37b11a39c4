"""The service, on three machines with a real systemd: installed, used, broken, upgraded, removed.

Each test finds the three machines meshed and leaves them so. They are booted, and Bzzz is installed
on them, by the first test; all are gone when the process ends.
"""

from __future__ import annotations

import json
import re
import shlex
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from bzzz.trust.codes import EXAMPLE
from tests.cluster.machine import ROOT, Machine
from tests.cluster.machines import differences, without_machines
from tests.cluster.netns import until
from tests.cluster.nodes import when
from tests.cluster.service import (
    ACCOUNTS,
    CHECKOUT,
    INSTALL_TIMEOUT,
    Service,
    ServiceTestCase,
    ask,
    connected,
    install,
    invite,
    log,
    service,
    show,
    typed,
    with_journals,
)
from tests.needs import needs

NAMES = ("walnut", "ironwood", "acacia")

# The machine of the commands in the guide whose prompt names none; where the guide has its token.
GUIDE = "acacia"
TOKEN_FILE = "/root/token"

# Seconds.
INSTALL_LIMIT = 60.0
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
    "ProtectHome": "read-only",
    "LimitNOFILE": "65536",
    "LimitNPROC": "4096",
    "UnitFileState": "enabled",
    "ActiveState": "active",
    "NRestarts": "0",
}


def others(machine: Machine) -> list[str]:
    return sorted(set(NAMES) - {machine.name})


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


def says(machine: Machine, since: float, error: str) -> bool:
    """Whether the unit's log has an error since a time."""
    return error in log(machine, since, "-p", "err")


def guide() -> list[tuple[str, str]]:
    """The commands of the guide, in its order, each with the machine that its prompt names."""
    text = (ROOT / "docs" / "operating.rst").read_text(encoding="utf-8")
    blocks = re.findall(r"\.\. code-block:: console\n\n((?:   .*\n|\n)+)", text)
    found = re.findall(r"(?m)^   (?:you@(\w+))?\$ (.*)$", "".join(blocks))
    return [(machine or GUIDE, command) for machine, command in found]


@needs(without_machines("netstat"))
@with_journals
class ServiceTests(ServiceTestCase):
    """What the operators of three machines do, and what may happen to them."""

    def setUp(self) -> None:
        self.service: Service = service(*NAMES)
        self.walnut, self.ironwood, self.acacia = self.service.all
        # The first alone, so that its time can be told.
        self.service.install(self.walnut)
        self.service.install(self.ironwood, self.acacia)
        self.until_whole(*self.service.all)
        self.began = time.time()

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

    def unclaim(self, *machines: Machine) -> None:
        """Have the nodes of these be in no cluster, whether they are in one or not."""
        for machine in machines:
            machine.run("bzzz", "leave", "--force", check=False)

    # -- installed

    def test_installed(self) -> None:
        """One command installs it, within a minute, and says what it is and what to do next."""
        seconds, said = self.service.installed["walnut"]
        self.figure("installed", seconds, INSTALL_LIMIT)
        walnut = self.walnut
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
        walnut = self.walnut
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
        walnut = self.walnut
        pid = show(walnut, "MainPID")["MainPID"]
        limits = walnut.run("cat", f"/proc/{pid}/limits").stdout
        # A container's systemd cannot give more than it has itself.
        files = min(65536, int(walnut.run("sh", "-c", "ulimit -Hn").stdout))
        self.assertRegex(limits, rf"Max open files\s+{files}\s+{files}")
        self.assertRegex(limits, r"Max processes\s+4096\s+4096")
        self.assertRegex(limits, r"Max core file size\s+0\s+0")
        self.assertEqual(walnut.run("ps", "-o", "user=", "-p", pid).stdout.strip(), "bzzz")
        # Not dumpable: these files of it are root's.
        owner = walnut.run("stat", "-c", "%U", f"/proc/{pid}/environ").stdout
        self.assertEqual(owner, "root\n")
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
        told = ask(self.walnut, "capabilities", "acacia")["capabilities"]["service"]
        self.assertEqual((told["unit"], told["active_state"]), ("bzzz.service", "active"))

    def test_asked_by_others(self) -> None:
        """Another user than root and the service's is told so, in a line, and what to do."""
        ran = self.walnut.run(
            *("setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups", "bzzz", "status"),
            check=False,
        )
        self.assertEqual((ran.code, ran.stdout), (3, ""))
        self.assertIn("belongs to another user; ask it as that user or as root", ran.stderr)
        self.assertIn("sudo usermod -aG bzzz USER, and log in again", ran.stderr)
        self.assertEqual(len(ran.stderr.splitlines()), 1)

    def test_asked_by_the_group(self) -> None:
        """An operator in the group asks without sudo, and still cannot read the key."""
        walnut = self.walnut
        modes = walnut.run("stat", "-c", "%a %U:%G", "/run/bzzz", "/run/bzzz/control.sock").stdout
        self.assertEqual(modes.splitlines(), ["750 bzzz:bzzz", "660 bzzz:bzzz"])
        as_operator = ("setpriv", "--reuid=nobody", "--regid=nogroup", "--groups=bzzz")
        for command in ("status", "peers", "doctor", "events"):
            walnut.run(*as_operator, "bzzz", command)
        for file in ("identity.key", "lock"):
            ran = walnut.run(*as_operator, "cat", f"/var/lib/bzzz/{file}", check=False)
            self.assertIn("Permission denied", ran.stderr)

    def test_asked_by_a_stranger(self) -> None:
        """Where somebody opens the socket to everybody, the node refuses them, and says whom."""
        walnut = self.walnut
        walnut.run("chmod", "a+x", "/run/bzzz")
        walnut.run("chmod", "a+w", "/run/bzzz/control.sock")
        try:
            ran = walnut.run(
                *("setpriv", "--reuid=games", "--regid=games", "--clear-groups", "bzzz", "id"),
                check=False,
            )
            self.assertEqual((ran.code, ran.stdout), (3, ""))
            uid = walnut.run("id", "-u", "games").stdout.strip()
            self.assertIn(
                f"Refused a connection to the control socket, of uid {uid}, pid ",
                log(walnut, self.began, "-p", "warning"),
            )
        finally:
            walnut.run("systemctl", "restart", "bzzz")

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
        walnut = self.walnut
        walnut.run("systemctl", "restart", "bzzz")
        self.until_whole(*self.service.all)
        self.assertEqual(log(walnut, self.began, "-p", "err"), "")
        self.assertIn("Connected to ", log(walnut, self.began, "-p", "info"))
        self.assertIn("capability_broadcast", log(walnut, self.began))
        lines = walnut.run(
            *("journalctl", "-u", "bzzz", "-o", "json", "--no-pager", "EVENT=connected"),
            *("--since", f"@{self.began:.3f}"),
        ).stdout
        entries = [json.loads(line) for line in lines.splitlines()]
        peers = {self.identity(machine)[0] for machine in (self.ironwood, self.acacia)}
        self.assertEqual({entry["PEER_ID"] for entry in entries}, peers)
        self.assertEqual({entry["PRIORITY"] for entry in entries}, {"6"})
        self.assertTrue(all(entry["CODE_FILE"].endswith("membership.py") for entry in entries))
        self.assertEqual({entry["SYSLOG_IDENTIFIER"] for entry in entries}, {"bzzz"})

    def test_guide(self) -> None:
        """Every command of the guide does what it says, in the order of the guide."""
        acacia = self.acacia
        self.addCleanup(self.unclaim, self.walnut, self.ironwood)
        commands = guide()
        self.assertGreater(len(commands), 45)
        code = ""
        for name, command in commands:
            machine = self.service.machines.machines[name]
            line = typed(command)
            if line == "bzzz invite":
                # It waits for the next command.
                code = invite(machine)
                continue
            if TOKEN_FILE in line and machine is not self.walnut:
                # The guide says to copy it.
                token = self.walnut.run("cat", TOKEN_FILE).stdout
                machine.run("tee", TOKEN_FILE, stdin=token)
            ran = machine.run(
                *("sh", "-c", line.replace(EXAMPLE, code)), check=False, timeout=INSTALL_TIMEOUT
            )
            # The doctor tells of the machine's clock, which nobody keeps here; that is a warning.
            self.assertEqual(ran.code, 0, f"{name}$ {command}\n{ran.output}")
        self.assertEqual(acacia.run("sh", "-c", "ls -d /opt/bzzz", check=False).code, 2)
        # The group too, though somebody was put into it.
        self.assertNotIn("bzzz", acacia.run("cat", "/etc/group").stdout)
        install(acacia)

    # -- what may happen

    def test_stop(self) -> None:
        """A stop is in order and quick: the others are told, and do not have to notice."""
        walnut, acacia = self.walnut, self.acacia
        self.addCleanup(walnut.run, "systemctl", "start", "bzzz")
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

    def test_no_group(self) -> None:
        """A drop-in keeps the group out."""
        walnut = self.walnut
        with drop_in(walnut, "RuntimeDirectoryMode=0700"):
            walnut.run("systemctl", "restart", "bzzz")
            walnut.run("bzzz", "status", "--wait", "20")
            modes = walnut.run("stat", "-c", "%a", "/run/bzzz", "/run/bzzz/control.sock").stdout
            self.assertEqual(modes.split(), ["700", "600"])

    def test_reboot(self) -> None:
        """A machine that reboots is back in the mesh by itself, with the same ID and port."""
        ironwood = self.ironwood
        before = self.identity(ironwood)
        ironwood.reboot()
        self.until_whole(*self.service.all)
        self.assertEqual(self.identity(ironwood), before)
        started = float(when(ask(ironwood, "status")["unit"]["since"]))
        events = ironwood.run("bzzz", "events", "-n", "1000", "--json").stdout.splitlines()
        linked = [
            when(one["time"]) for one in map(json.loads, events) if one["event"] == "connected"
        ]
        self.figure("full mesh after the service's start", sorted(linked)[1] - started, 3.0)

    def test_killed(self) -> None:
        """A node that is killed is started again after 10 s, and the restart is counted."""
        walnut = self.walnut
        walnut.run("systemctl", "restart", "bzzz")
        walnut.run("bzzz", "status", "--wait", "20")
        pid = show(walnut, "MainPID")["MainPID"]
        walnut.run("kill", "-9", pid)
        killed = time.monotonic()
        until_restarted(walnut, pid, RESTART_TIMEOUT)
        after = time.monotonic() - killed
        self.figure("started again after", after, 12.0)
        self.assertGreater(after, 9.0)
        self.until_whole(*self.service.all)
        until(
            lambda: (ask(walnut, "status")["unit"] or {}).get("restarts") == 1,
            15.0,
            "NRestarts is 1 in bzzz status",
            0.2,
        )

    def test_stuck(self) -> None:
        """A node that is stuck longer than the watchdog waits is ended and started again."""
        walnut = self.walnut
        pid = show(walnut, "MainPID")["MainPID"]
        walnut.run("kill", "-STOP", pid)
        stopped = time.monotonic()
        until_restarted(walnut, pid, WATCHDOG_TIMEOUT)
        print(f"\n      stuck node started again after {time.monotonic() - stopped:.1f} s", end=" ")
        said = log(walnut, self.began)
        self.assertIn("Watchdog timeout", said)
        # It says where it was stuck.
        self.assertIn("Fatal Python error: Aborted", said)
        self.until_whole(*self.service.all)

    def test_upgrade(self) -> None:
        """An upgrade while the mesh runs: another version, the same node."""
        walnut = self.walnut
        before = self.identity(walnut)
        version = ask(walnut, "status")["version"]
        install(walnut, self.build(walnut, "0.1.77"))
        self.assertEqual(ask(walnut, "status")["version"], "0.1.77")
        self.until_whole(*self.service.all)
        self.assertEqual(self.identity(walnut), before)
        install(walnut)
        self.assertEqual(ask(walnut, "status")["version"], version)

    def test_upgrade_that_cannot_start(self) -> None:
        """An upgrade that does not come up is taken back: exit code not 0, the mesh whole."""
        walnut = self.walnut
        before = self.identity(walnut)
        version = ask(walnut, "status")["version"]
        broken = self.build(walnut, "0.1.88", 'raise RuntimeError("this build cannot start")')
        ran = install(walnut, broken, check=False)
        self.assertEqual(ran.code, 1, ran.output)
        self.assertIn("this build cannot start", ran.output)
        self.assertIn("0.1.88", ran.output)
        self.assertEqual(ask(walnut, "status")["version"], version)
        self.until_whole(*self.service.all)
        self.assertEqual(self.identity(walnut), before)

    def test_reload(self) -> None:
        """A reload changes what it can; a wrong file is refused, and the node runs on."""
        walnut, acacia = self.walnut, self.acacia
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
        walnut = self.walnut
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
        walnut = self.walnut
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
        # Busy, the bus may not be back at the first try.
        self.assertLessEqual(len(complaints), 1, complaints)

    def test_other_unit(self) -> None:
        """With Type=notify a start ends when the node is ready; it never forks under systemd."""
        walnut = self.walnut
        twistd = "/opt/bzzz/current/bin/twistd --pidfile= bzzz --config /etc/bzzz/bzzz.toml"
        with drop_in(walnut, "Type=notify", "ExecStart=", f"ExecStart={twistd}"):
            walnut.run("systemctl", "restart", "bzzz")
            # At once, without waiting for it.
            status = ask(walnut, "status")
            self.assertNotEqual(status["state"], "starting")
            self.assertEqual(str(status["pid"]), show(walnut, "MainPID")["MainPID"])
            self.until_whole(*self.service.all)
            self.assertEqual(ask(walnut, "status")["unit"]["type"], "notify")
            walnut.run("systemctl", "reload", "bzzz")
            self.assertEqual(show(walnut, "NRestarts", "ActiveState")["ActiveState"], "active")

    def test_unit_that_contradicts(self) -> None:
        """A unit that was made wrong is an error in the log, with its mend."""
        walnut = self.walnut
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
        ironwood = self.ironwood
        before = self.identity(ironwood)
        ironwood.run(f"{CHECKOUT}/uninstall-service.sh")
        self.assertNotEqual(ironwood.run("systemctl", "cat", "bzzz", check=False).code, 0)
        ironwood.run(f"{CHECKOUT}/uninstall-service.sh")
        install(ironwood)
        self.until_whole(*self.service.all)
        self.assertEqual(self.identity(ironwood), before)
        ironwood.run(f"{CHECKOUT}/uninstall-service.sh", "--purge")
        found = differences(self.service.before["ironwood"], ironwood.snapshot(*ACCOUNTS))
        self.assertEqual([line for line in found if "/root" not in line], [])
        self.assertNotIn("bzzz", ironwood.run("sh", "-c", "cat /etc/passwd /etc/group").stdout)
        install(ironwood)
        self.assertNotEqual(self.identity(ironwood)[0], before[0])
