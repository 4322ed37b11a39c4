"""``twistd bzzz``: what it takes, what it refuses and how, and what it makes of the process."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import twisted.internet
from twisted.application.service import Application, IServiceMaker, Service
from twisted.internet.defer import Deferred
from twisted.internet.testing import MemoryReactor
from twisted.logger import ILogObserver, LogLevel
from twisted.plugin import getPlugins
from twisted.python.components import Componentized
from twisted.trial.unittest import SynchronousTestCase

import bzzz
from bzzz import tap
from bzzz.cli.client import NodeClient
from bzzz.config import OPTIONS, Config
from bzzz.errors import ConfigError
from bzzz.state import OpenState
from bzzz.systemd.environment import Environment
from bzzz.web.socket import ControlSocket
from tests.logs import lines_at


class Node(Service):
    """Stands for a node."""

    stopped: Deferred[None] | None = None
    reloads = 0

    def __init__(self, config: Config, state: OpenState, control: ControlSocket) -> None:
        self.config, self.state, self.control = config, state, control

    def reload(self) -> None:
        self.reloads += 1

    def stopService(self) -> Deferred[None]:
        super().stopService()
        self.control.close()
        self.stopped = Deferred()
        return self.stopped


class OptionsTests(SynchronousTestCase):
    """The command line."""

    def setUp(self) -> None:
        for name in [
            name for name in os.environ if name.startswith(("BZZZ_", "XDG_", "NOTIFY_", "SYSTEMD_"))
        ]:
            self.patch(os, "environ", {k: v for k, v in os.environ.items() if k != name})

    def parse(self, *arguments: str) -> Config:
        options = tap.Options()
        options.parseOptions(list(arguments))
        return options.config

    def refused(self, *arguments: str) -> str:
        refusal = self.assertRaises(SystemExit, self.parse, *arguments)
        assert isinstance(refusal.code, str)  # sys.exit() prints it to stderr and exits with 1
        self.assertNotIn("\n", refusal.code)
        return refusal.code

    def test_all_flags(self) -> None:
        """Every option of the table has its flag, and those that repeat collect."""
        config = self.parse(
            *("--name=walnut", "--listen-port=4001", "--no-mdns", "--max-links=9"),
            *("--interface", "lo", "--interface", "eth0", "--label", "a=b", "--label", "c=d"),
            *("--capability", "x", "--bootstrap", "/ip4/192.0.2.7/tcp/4001"),
            *("--broadcast-interval", "5s", "--state-dir", "s", "--runtime-dir", "/r"),
            *("--log-level", "debug", "--max-tasks", "2", "--specialization", "vision"),
            *("--stop-timeout", "5s", "--task-forbid-command", "a", "--task-forbid-command", "b*"),
            *("--task-forbid-submitter", "eve", "--task-profile", "default"),
            *("--task-cpus", "all", "--task-memory", "16 GiB", "--task-gpus", "1"),
            *("--task-output-limit", "1MiB", "--task-output-quota", "1g", "--cache-quota", "1GB"),
            *("--executor", "process"),
        )
        self.assertEqual(config.interface, ("lo", "eth0"))
        self.assertEqual(dict(config.label), {"a": "b", "c": "d"})
        self.assertEqual(config.task_forbid_command, ("a", "b*"))
        self.assertEqual((config.task_cpus, config.task_memory), (None, 16 << 30))
        self.assertIs(config.mdns, False)
        self.assertEqual(config.state_dir, Path.cwd() / "s")
        self.assertEqual(set(config.sources), {option.key for option in OPTIONS})

    def test_last_of_opposites_wins(self) -> None:
        """--mdns after --no-mdns turns it on again."""
        self.assertIs(self.parse("--no-mdns", "--mdns").mdns, True)

    def test_help_has_every_option(self) -> None:
        """--help shows each flag."""
        usage = tap.Options().getUsage()
        for option in OPTIONS:
            self.assertIn(f"{option.flag}", usage)

    def test_refusals(self) -> None:
        """A mistake gets one line that names it."""
        self.assertEqual(
            self.refused("--listen-prot", "1"),
            "bzzz: option --listen-prot not recognized; did you mean --listen-port?",
        )
        self.assertEqual(
            self.refused("--listen-port", "abc"), "bzzz: --listen-port: 'abc' is not a whole number"
        )
        self.assertEqual(
            self.refused("--zzz"), "bzzz: option --zzz not recognized; see twistd bzzz --help"
        )
        self.assertIn("unexpected argument 'walnut'", self.refused("walnut"))
        self.assertIn("/nonexistent: cannot be read", self.refused("--config", "/nonexistent"))

    def test_relative_configuration(self) -> None:
        """A relative name means the same file when it is read again from another directory."""
        directory = Path(self.mktemp()).absolute()
        (directory / "elsewhere").mkdir(parents=True)
        (directory / "c.toml").write_text("max_tasks = 3\n")
        before = Path.cwd()
        self.addCleanup(os.chdir, before)
        os.chdir(directory)
        options = tap.Options()
        options.parseOptions(["--config", "c.toml"])
        os.chdir("elsewhere")
        (directory / "c.toml").write_text("max_tasks = 4\n")
        self.assertEqual(options.read().max_tasks, 4)

    def test_refusal_in_the_journal(self) -> None:
        """Where standard error leads to the journal, a refusal has the priority of an error."""
        stream = os.stat("/")
        self.patch(tap, "_status_of_stderr", lambda: stream)
        journal = {"HOME": "/", "JOURNAL_STREAM": f"{stream.st_dev}:{stream.st_ino}"}
        self.patch(os, "environ", journal)
        self.assertEqual(
            self.refused("--listen-port", "abc"),
            "<3>bzzz: --listen-port: 'abc' is not a whole number",
        )

    def test_no_pidfile_in_the_foreground(self) -> None:
        """In the foreground no twistd.pid is written to the current directory unless asked for."""

        def pidfile(**parent: Any) -> str:
            options = tap.Options()
            options.parent = {"nodaemon": True, "pidfile": "twistd.pid", **parent}  # type: ignore[assignment]
            options.parseOptions([])
            return str(options.parent["pidfile"])  # type: ignore[index]

        self.assertEqual(pidfile(), "")
        self.assertEqual(pidfile(pidfile="/run/b.pid"), "/run/b.pid")
        self.assertEqual(pidfile(nodaemon=False), "twistd.pid")

    def test_in_the_foreground_under_systemd(self) -> None:
        """Started by systemd, the node does not fork away, whether --nodaemon was given or not."""
        for environ, expected in (({}, False), ({"SYSTEMD_EXEC_PID": str(os.getpid())}, True)):
            self.patch(os, "environ", {"HOME": "/root", **environ})
            options = tap.Options()
            options.parent = {"nodaemon": False, "pidfile": "twistd.pid"}  # type: ignore[assignment]  # of twistd
            options.parseOptions([])
            self.assertEqual(
                options.parent, {"nodaemon": expected, "pidfile": "" if expected else "twistd.pid"}
            )


class MakeServiceTests(SynchronousTestCase):
    """From options to a service tree."""

    def setUp(self) -> None:
        self.made: list[Node] = []
        self.patch(tap, "setproctitle", lambda title: None)
        # Not of the process of the tests.
        self.forbidden: list[bool] = []
        self.patch(tap, "forbid_core_dumps", lambda: self.forbidden.append(not self.made))
        self.base = Path("/tmp") / f"bzzz-test-{os.getpid()}"  # short enough for a socket
        self.base.mkdir(mode=0o700)
        self.addCleanup(subprocess.run, ["rm", "-r", str(self.base)], check=True)
        fake = ModuleType("bzzz.node")
        fake.make_node = self.make_node  # type: ignore[attr-defined]
        fake.Launch = SimpleNamespace  # type: ignore[attr-defined]  # a module made here
        self.patch(bzzz, "node", fake) if hasattr(bzzz, "node") else None
        previous = sys.modules.get("bzzz.node")
        sys.modules["bzzz.node"] = fake

        def restore() -> None:
            del sys.modules["bzzz.node"]
            if previous is not None:
                sys.modules["bzzz.node"] = previous

        self.addCleanup(restore)

    def make_node(
        self, config: Config, state: OpenState, control: ControlSocket, launch: object
    ) -> Node:
        if config.name == "wrong":
            raise ConfigError("name: not this one")
        self.made.append(Node(config, state, control))
        return self.made[-1]

    def options(self, name: str = "walnut", state: str = "state", run: str = "run") -> tap.Options:
        options = tap.Options()
        options.parseOptions(
            [
                f"--name={name}",
                f"--state-dir={self.base / state}",
                f"--runtime-dir={self.base / run}",
            ]
        )
        return options

    def test_makes_a_node(self) -> None:
        """The node gets its configuration, its open state and its listening control socket."""
        service = tap.makeService(self.options())
        (node,) = self.made
        self.assertEqual(self.forbidden, [True])
        self.assertEqual(node.config.name, "walnut")
        self.assertEqual(node.control.path, self.base / "run" / "control.sock")
        service.startService()
        self.assertTrue(node.running)
        done = service.stopService()
        assert done is not None and node.stopped is not None
        # The directory is kept until the node has stopped.
        self.assertRaises(SystemExit, tap.makeService, self.options())
        node.stopped.callback(None)
        self.assertIsNone(self.successResultOf(done))
        tap.makeService(self.options())

    def test_second_signals(self) -> None:
        """While it stops, SIGTERM changes nothing, and SIGINT ends the process."""
        from twisted.internet import reactor  # noqa: F401 - for there to be one to replace

        triggers = MemoryReactor()
        self.patch(twisted.internet, "reactor", triggers)
        service = tap.makeService(self.options())
        service.startService()
        for number in (signal.SIGTERM, signal.SIGINT):
            self.addCleanup(signal.signal, number, signal.getsignal(number))
        before = signal.getsignal(signal.SIGTERM)
        self.assertIsNot(before, signal.SIG_IGN)
        for call, arguments, keywords in triggers.triggers["before"]["shutdown"]:
            call(*arguments, **keywords)
        self.assertIs(signal.getsignal(signal.SIGTERM), signal.SIG_IGN)
        self.assertIs(signal.getsignal(signal.SIGINT), signal.SIG_DFL)

    def test_pid_after_a_fork(self) -> None:
        """The lock names the process that runs the reactor, not the one that parsed the options."""
        service = tap.makeService(self.options())
        (self.base / "state" / "lock").write_text("1\n")
        service.startService()
        self.assertEqual((self.base / "state" / "lock").read_text(), f"{os.getpid()}\n")

    def test_refusals(self) -> None:
        """What cannot be opened ends the start in one line, and lets go of what was opened."""
        tap.makeService(self.options())
        for options in (self.options(), self.options(state="other"), self.options(run="other")):
            refusal = self.assertRaises(SystemExit, tap.makeService, options)
            self.assertIn(f"in use by the node with pid {os.getpid()}", str(refusal))
        refusal = self.assertRaises(
            SystemExit, tap.makeService, self.options("wrong", "third", "third-run")
        )
        self.assertEqual(refusal.code, "bzzz: name: not this one")
        tap.makeService(self.options("walnut", "third", "third-run"))

    def test_the_process_is_named(self) -> None:
        """`ps` shows which node it is."""
        titles: list[str] = []
        self.patch(tap, "setproctitle", titles.append)
        tap.makeService(self.options("hazel")).startService()
        self.assertEqual(titles, ["bzzz: hazel"])

    def test_reload(self) -> None:
        """SIGHUP has the node read its configuration again, but not where a terminal was closed."""
        from twisted.internet import reactor  # noqa: F401 - for there to be one to replace

        triggers = MemoryReactor()
        self.patch(twisted.internet, "reactor", triggers)
        triggers.callFromThread = lambda call: call()  # type: ignore[attr-defined]  # it has none
        for terminal in (True, False):
            self.patch(tap, "_has_terminal", lambda answer=terminal: answer)
            self.patch(signal, "getsignal", lambda number: signal.SIG_DFL)
            handlers: dict[int, Any] = {}
            self.patch(signal, "signal", handlers.__setitem__)
            name = f"terminal-{terminal}"
            tap.makeService(self.options(name, name, name)).startService()
            self.assertEqual(signal.SIGHUP in handlers, not terminal)
        handlers[signal.SIGHUP](signal.SIGHUP, None)
        self.assertEqual(self.made[-1].reloads, 1)

    def test_nohup(self) -> None:
        """Where SIGHUP is ignored it stays so, but for a service."""
        from twisted.internet import reactor  # noqa: F401 - for there to be one to replace

        self.patch(twisted.internet, "reactor", MemoryReactor())
        self.patch(tap, "_has_terminal", lambda: False)
        self.patch(signal, "getsignal", lambda number: signal.SIG_IGN)
        handlers: dict[int, Any] = {}
        self.patch(signal, "signal", handlers.__setitem__)
        for supervised in (False, True):
            name = f"service-{supervised}"
            options = self.options(name, name, name)
            options.systemd = Environment(supervised=supervised)
            tap.makeService(options).startService()
            self.assertEqual(signal.SIGHUP in handlers, supervised)

    def test_variables_of_this_process(self) -> None:
        """Commands that the node runs do not get what systemd told the node alone."""
        environ = {"NOTIFY_SOCKET": "/nonexistent", "WATCHDOG_USEC": "5", "PATH": "/bin"}
        options = self.options()
        self.patch(os, "environ", dict(environ))
        tap.makeService(options)
        self.assertEqual(os.environ, {"PATH": "/bin"})

    def test_log_observer(self) -> None:
        """The application gets an observer with our lines, unless twistd was told another."""
        asked: dict[str, object] = {
            "logger": None,
            "syslog": False,
            "logfile": None,
            "nodaemon": True,
        }
        cases: list[tuple[dict[str, object], bool]] = [
            ({}, True),
            ({"syslog": True}, False),
            ({"logger": print}, False),
        ]
        for number, (change, expected) in enumerate(cases):
            options = self.options(state=str(number), run=f"run{number}")
            options.parent = {**asked, **change}  # type: ignore[assignment]
            application = Application("bzzz")
            tap.makeService(options).setServiceParent(application)
            assert isinstance(application, Componentized)
            found = application.getComponent(ILogObserver, None)
            self.assertEqual(found is not None, expected)


# twistd, which says on SIGUSR1 whether its process is dumpable.
TWISTD = """
import ctypes, os, signal

def tell(*_):
    os.write(1, b"dumpable: %d\\n" % ctypes.CDLL(None).prctl(3, 0, 0, 0, 0))

signal.signal(signal.SIGUSR1, tell)
from twisted.scripts.twistd import run
run()
"""


class CoreDumpTests(SynchronousTestCase):
    """A whole node, of which a core file would have the private key."""

    def until(self, process: subprocess.Popen[bytes], said: bytes) -> bytes:
        """All that it prints until it has said this."""
        assert process.stdout is not None
        lines = b""
        while said not in lines:
            line = process.stdout.readline()
            self.assertNotEqual(line, b"", lines.decode())
            lines += line
        return lines

    def test_none(self) -> None:
        """A running node has no core file, and is not dumpable; it does its work all the same."""
        base = Path(tempfile.mkdtemp(prefix="bzzz-"))
        self.addCleanup(shutil.rmtree, base)
        options = ["--no-mdns", "--interface", "lo"]
        options += [f"--{name}-dir={base / name}" for name in ("state", "runtime")]
        process = subprocess.Popen(
            [sys.executable, "-u", "-c", TWISTD, "-n", "--pidfile=", "bzzz", *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={"HOME": str(base), "PYTHONPATH": str(Path(bzzz.__file__).parent.parent)},
            cwd=base,
        )
        with process:
            timer = threading.Timer(60, process.kill)
            timer.start()
            try:
                self.until(process, b"capability_broadcast sent: ")
                limits = Path(f"/proc/{process.pid}/limits").read_text()
                self.assertRegex(limits, r"(?m)^Max core file size +0 +0 +bytes")
                process.send_signal(signal.SIGUSR1)
                self.assertIn(b"dumpable: 0", self.until(process, b"dumpable: "))
                answer = NodeClient(base / "runtime" / "control.sock").get("status")
                self.assertEqual(answer["pid"], process.pid)
                process.send_signal(signal.SIGABRT)
                self.until(process, b"Fatal Python error: Aborted")
                assert process.stdout is not None
                process.stdout.read()
                _, status = os.waitpid(process.pid, 0)
                process.returncode = os.waitstatus_to_exitcode(status)
            finally:
                timer.cancel()
                if process.poll() is None:
                    process.kill()
        self.assertEqual(process.returncode, -signal.SIGABRT)
        self.assertFalse(os.WCOREDUMP(status))

    def test_not_allowed(self) -> None:
        """Where the system does not let it, the node runs, and says so."""

        def refuse(*_: object) -> None:
            raise PermissionError

        self.patch(resource, "setrlimit", refuse)
        warnings = lines_at(self, LogLevel.warn)
        tap.forbid_core_dumps()
        self.assertEqual(len(warnings), 1)
        self.assertIn("core dumps", warnings[0])


class PluginTests(SynchronousTestCase):
    """What twistd finds."""

    def test_found(self) -> None:
        """twistd finds the plugin, and loads the module only when it is used."""
        (maker,) = [plugin for plugin in getPlugins(IServiceMaker) if plugin.tapname == "bzzz"]
        self.assertIs(maker.options, tap.Options)
        self.assertIs(maker.makeService, tap.makeService)

    def test_one_line_on_stderr(self) -> None:
        """The whole program answers a mistake with one line on stderr and exit code 1."""
        root = Path(bzzz.__file__).parent.parent
        run = "from twisted.scripts.twistd import run; run()"
        ran = subprocess.run(
            [sys.executable, "-c", run, "-n", "bzzz", "--max-links", "x"],
            capture_output=True,
            env={"HOME": "/nonexistent", "PYTHONPATH": str(root)},
            check=False,
        )
        self.assertEqual(
            (ran.returncode, ran.stdout, ran.stderr),
            (1, b"", b"bzzz: --max-links: 'x' is not a whole number\n"),
        )
