"""The keeper itself, with real processes. **Real time**: what it does is what the kernel does.

Each test has one keeper and waits for what it starts; none sleeps for longer than what it measures.
"""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import LoopingCall, deferLater
from twisted.trial.unittest import TestCase

from bzzz.tasks.executors.interfaces import Ending, Over, Run
from bzzz.tasks.executors.keeper_kernel import boottime
from bzzz.tasks.executors.process import ProcessExecutor
from bzzz.tasks.leases import KILL

# Seconds that none of these is to take on a busy machine.
PATIENCE = 10.0

# Seconds of a lease in which twenty processes are started.
LEASE = 0.6

# Twenty processes that no SIGTERM ends, each in a session of its own, with no parent left.
TWENTY = """
trap "" TERM
for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
    (setsid sleep 600 &)
done
echo ready
"""

# It prints as fast as it can.
ENDLESS = "exec cat /dev/zero"

# The signals 32 and 33 (nptl(7)), which no program can set.
OF_THE_C_LIBRARY = 0b11 << 31

# What a daemon is that is killed: it starts the command, and says so.
DAEMON = """
import os, sys, time
from twisted.internet import reactor
from bzzz.tasks.executors.interfaces import Run
from bzzz.tasks.executors.process import ProcessExecutor

executor = ProcessExecutor(reactor)
command, path, marker = sys.argv[1:]
executor.start(
    Run(key="t.1", argv=("/bin/sh", "-c", command), directory="/", stdout=path, stderr=path,
        env={"PATH": os.defpath, "MARKER": marker}),
    time.clock_gettime(time.CLOCK_BOOTTIME) + 600.0, print)
reactor.run()
"""


def in_time() -> float:
    """Seconds after a lease's end within which all is to be gone and told.

    A machine that has more to do than cores to do it with takes longer in that proportion.
    """
    return KILL * max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))


def alive(marker: str) -> list[int]:
    """The processes that have this in their environment."""
    found = []
    for pid in filter(str.isdecimal, os.listdir("/proc")):
        try:
            if marker.encode() in Path(f"/proc/{pid}/environ").read_bytes():
                found.append(int(pid))
        except OSError:
            pass  # it has ended
    return found


def children_of(pid: int) -> list[int]:
    """What a process has started, and is not dead."""
    found = []
    for name in filter(str.isdecimal, os.listdir("/proc")):
        try:
            stat = Path(f"/proc/{name}/stat").read_text()
        except OSError:
            continue  # it has ended
        state, parent, *_ = stat.rpartition(")")[2].split()
        if int(parent) == pid and state != "Z":
            found.append(int(name))
    return found


class KeeperCase(TestCase):
    """One keeper, and one directory."""

    timeout = 30

    async def setUp(self) -> None:  # type: ignore[override]  # trial waits for it
        self.directory = Path(self.mktemp()).absolute()
        self.directory.mkdir()
        # What a keeper must not hand on: core dumps of any size.
        before = resource.getrlimit(resource.RLIMIT_CORE)
        self.addCleanup(resource.setrlimit, resource.RLIMIT_CORE, before)
        resource.setrlimit(resource.RLIMIT_CORE, (before[1], before[1]))
        self.marker = uuid4().hex
        self.executor = ProcessExecutor(reactor, grace=0.2)
        self.addCleanup(self.executor.close)
        # The times below begin when the keeper is there.
        await self.start("true", "t.0")

    def run_of(self, command: str | tuple[str, ...], key: str = "t.1", **fields: Any) -> Run:
        """A run of a shell's command line, or of words."""
        words = ("/bin/sh", "-c", command) if isinstance(command, str) else command
        fields.setdefault("directory", str(self.directory))
        fields["env"] = {"PATH": os.defpath, "MARKER": self.marker, **fields.get("env", {})}
        stdout, stderr = str(self.directory / f"{key}.out"), str(self.directory / f"{key}.err")
        return Run(key=key, argv=words, **{"stdout": stdout, "stderr": stderr, **fields})

    def start(
        self,
        command: str | tuple[str, ...],
        key: str = "t.1",
        lease: float = 600.0,
        **fields: Any,
    ) -> Deferred[Over]:
        """Run it; fires with how it ended."""
        over: Deferred[Over] = Deferred()
        run = self.run_of(command, key, **fields)
        self.executor.start(run, boottime() + lease, over.callback)
        return over

    def output(self, key: str = "t.1", stream: str = "out") -> str:
        path = self.directory / f"{key}.{stream}"
        return path.read_text() if path.exists() else ""

    async def until(self, true: Callable[[], object]) -> None:
        """Wait for something that is to become true."""
        end = time.monotonic() + PATIENCE
        while not true():
            self.assertLess(time.monotonic(), end, "it did not become true")
            await deferLater(reactor, 0.005)

    def keepers(self) -> list[int]:
        """The keepers that this process has."""
        return [pid for pid in children_of(os.getpid()) if self.is_keeper(pid)]

    def is_keeper(self, pid: int) -> bool:
        try:
            return b"bzzz.tasks.executors.keeper" in Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            return False


class CommandTests(KeeperCase):
    """What a command finds, and what is told of its end."""

    async def test_exit_status(self) -> None:
        """Output goes to two files; the exit status is the command's own, or says which signal."""
        over = await self.start("echo out; echo err >&2; exit 3")
        self.assertEqual(over, Over(Ending.EXITED, 3, ""))
        self.assertEqual((self.output(), self.output(stream="err")), ("out\n", "err\n"))
        self.assertEqual((self.directory / "t.1.out").stat().st_mode & 0o777, 0o600)
        over = await self.start("kill -USR1 $$", "t.2")
        self.assertEqual(over, Over(Ending.EXITED, 128 + signal.SIGUSR1, ""))

    async def test_environment(self) -> None:
        """It has the environment, directory and standard input that it was given, and no more."""
        over = await self.start(
            "env; pwd; umask; ulimit -c; cat; ls /proc/self/fd; cut -d' ' -f6 /proc/self/stat;"
            " echo $$",
            env={"A": "b c", "PWD": "/"},
        )
        self.assertEqual(over.exit_status, 0)
        lines = self.output().splitlines()
        environment, rest = lines[: lines.index(str(self.directory))], lines[len(lines) - 8 :]
        names = {line.partition("=")[0] for line in environment}
        self.assertEqual(names - {"_", "OLDPWD"}, {"A", "MARKER", "PATH", "PWD"})
        self.assertIn("A=b c", environment)
        # 3 is the list's own.
        self.assertEqual(rest[:6], ["0077", "0", "0", "1", "2", "3"])
        self.assertEqual(rest[6], rest[7])

    async def test_signals_and_rights(self) -> None:
        """No signal is ignored or blocked; no program gets rights, but in profile trusted."""
        mine = dict(
            line.split(":\t") for line in Path("/proc/self/status").read_text().splitlines()
        )
        for key, profile, rights in (
            ("t.1", "default", "1"),
            ("t.2", "trusted", mine["NoNewPrivs"]),
            ("t.3", "default", "1"),
        ):
            over = await self.start(("cat", "/proc/self/status"), key, profile=profile)
            self.assertEqual(over.exit_status, 0)
            status = dict(line.split(":\t") for line in self.output(key).splitlines())
            self.assertEqual(status["NoNewPrivs"], rights)
            for name in ("SigBlk", "SigIgn", "SigCgt"):
                self.assertEqual(int(status[name], 16) & ~OF_THE_C_LIBRARY, 0, name)

    async def test_path(self) -> None:
        """A name without a slash is looked up in the PATH of the run, also where that is relative;
        one with a slash is not."""
        (self.directory / "bin").mkdir()
        program = self.directory / "bin" / "ours"
        program.write_text("#!/bin/sh\necho ours $0\n")
        program.chmod(0o700)
        path = {"PATH": f"/nowhere:bin:{os.defpath}"}
        self.assertEqual((await self.start(("ours",), env=path)).exit_status, 0)
        self.assertEqual(self.output(), "ours bin/ours\n")
        over = await self.start(("ours",), "t.2")
        self.assertEqual((over.ending, over.exit_status), (Ending.NOT_STARTED, 127))

    async def test_not_started(self) -> None:
        """What cannot be run is told with the name of what is wrong, and a shell's status."""
        plain = self.directory / "plain"
        plain.write_text("echo no\n")
        orphan = self.directory / "orphan"
        orphan.write_text("#!/no/such/shell\n")
        script = self.directory / "script"
        script.write_text("echo no\n")
        for path in (orphan, script):
            path.chmod(0o700)
        wrong: tuple[tuple[tuple[str, ...], dict[str, Any], int | None, str], ...] = (
            (("no-such-command",), {}, 127, "command no-such-command: not found in PATH"),
            (("/no/such/command",), {}, 127, "command /no/such/command: not found"),
            ((str(plain),), {}, 126, f"{plain}: is not executable"),
            ((str(self.directory),), {}, 126, f"{self.directory}: is a directory"),
            ((str(orphan),), {}, 126, f"{orphan}: its interpreter is not there"),
            ((str(script),), {}, 126, f"{script}: is no program"),
            (("true",), {"directory": "/no/such"}, 126, "working directory /no/such: "),
            (("true", "a\0b"), {}, 126, "command true: embedded null byte"),
            ((), {}, 127, "the command has no words"),
            (("true",), {"stdout": "/no/such/out"}, None, "file of output /no/such/out: "),
            (("true",), {"profile": "what"}, None, "profile what: there is none"),
        )
        for number, (words, fields, status, reason) in enumerate(wrong, 1):
            over = await self.start(words, f"t.{number}", **fields)
            self.assertEqual((over.ending, over.exit_status), (Ending.NOT_STARTED, status))
            self.assertIn(reason, over.reason)

    async def test_no_network(self) -> None:
        """Without a network there is a loopback interface; or it is not run at all."""
        over = await self.start("tail -n +3 /proc/net/dev; id -u", profile="no-network")
        if over.ending is Ending.NOT_STARTED:
            self.assertIn("no network namespace could be made", over.reason)
            return
        interface, user = self.output().splitlines()
        self.assertEqual(interface.split()[0], "lo:")
        self.assertEqual(user, str(os.geteuid()))

    async def test_no_network_is_not_for_the_next(self) -> None:
        """A run that follows at once on one without a network has one."""
        following: list[Deferred[Over]] = []

        def follow(over: Over) -> None:
            following.append(self.start("readlink /proc/self/ns/net", key))

        for number in range(20):
            key = f"t.{number}"
            over = self.start("true", "before", profile="no-network")
            await over.addCallback(follow)
            told = await following.pop()
            self.assertEqual(told, Over(Ending.EXITED, 0, ""))
            self.assertEqual(self.output(key).strip(), os.readlink("/proc/self/ns/net"))

    async def test_long_command(self) -> None:
        """A command line that no socket takes at once is run too, with another after it."""
        await self.start("true", "t.1")
        words = ("/bin/sh", "-c", 'echo $#; echo "$0" | wc -c', *["x" * 99_999] * 8)
        self.assertEqual((await self.start(words, "t.2")).exit_status, 0)
        self.assertEqual(self.output("t.2").split(), ["7", "100000"])
        self.assertEqual((await self.start("true", "t.3")).exit_status, 0)

    async def test_shims_are_used_again(self) -> None:
        """One run after the other has one shim."""
        shims = set()
        for number in range(5):
            await self.start("awk '/^PPid/ {print $2}' /proc/$$/status", f"t.{number}")
            shims.add(self.output(f"t.{number}"))
        self.assertEqual(len(shims), 1)


class EndTests(KeeperCase):
    """Nothing is left of a run that is over."""

    async def ready(self, key: str = "t.1") -> None:
        await self.until(lambda: "ready" in self.output(key))

    async def test_lease(self) -> None:
        """Twenty processes that ignore SIGTERM are gone in time after the lease's end."""
        over = self.start(TWENTY + "sleep 600", lease=LEASE)
        end = boottime() + LEASE
        await self.ready()
        self.assertGreater(len(alive(self.marker)), 20)
        told = await over
        late = boottime() - end
        self.assertEqual(alive(self.marker), [])
        self.assertEqual(told.ending, Ending.LEASE_ENDED)
        self.assertGreaterEqual(late, -0.01)
        self.assertLess(late, in_time())

    async def test_extended_lease(self) -> None:
        """A lease that was moved before it ended ends when it was moved to."""
        over = self.start("sleep 600", lease=0.3)
        begin = boottime()
        self.executor.extend("t.1", begin + 0.5)
        self.assertEqual((await over).ending, Ending.LEASE_ENDED)
        self.assertGreaterEqual(boottime() - begin, 0.49)

    async def test_no_lease(self) -> None:
        """A run whose lease has ended already is not started."""
        over = await self.start("touch ran", lease=-1.0)
        self.assertEqual((over.ending, over.exit_status), (Ending.LEASE_ENDED, None))
        self.assertFalse((self.directory / "ran").exists())

    async def test_stop(self) -> None:
        """Each process is sent SIGTERM; who ignores it, SIGKILL when the grace is over."""
        over = self.start(TWENTY + "trap 'echo term; exit 5' TERM; while :; do sleep 0.01; done")
        await self.ready()
        begin = boottime()
        self.executor.stop("t.1", 0.3)
        told = await over
        self.assertGreaterEqual(boottime() - begin, 0.29)
        self.assertEqual((told.ending, told.exit_status), (Ending.STOPPED, 5))
        self.assertIn("term", self.output())
        self.assertEqual(alive(self.marker), [])

    async def test_stop_in_order(self) -> None:
        """What ends on SIGTERM is not waited for until the grace is over, nor if it is stopped."""
        over = self.start("echo ready; kill -STOP $$; sleep 600")
        await self.ready()
        self.executor.stop("t.1", 600.0)
        self.assertEqual((await over).exit_status, 128 + signal.SIGTERM)

    async def test_timeout(self) -> None:
        """A command whose time is over is ended like one that is stopped."""
        over = await self.start("trap '' TERM; while :; do sleep 0.01; done", timeout=0.2)
        self.assertEqual((over.ending, over.exit_status), (Ending.TIMED_OUT, 137))
        self.assertEqual(over.reason, "it took over 0.2 s")

    async def test_left_behind(self) -> None:
        """What a command leaves behind ends with it, and the others go on."""
        other = self.start("echo ready; sleep 600", "t.2", env={"MARKER": f"other-{self.marker}"})
        await self.ready("t.2")
        over = await self.start(f"{TWENTY} exit 0", env={"MARKER": f"this-{self.marker}"})
        self.assertEqual(over, Over(Ending.EXITED, 0, ""))
        self.assertEqual(alive(f"this-{self.marker}"), [])
        self.assertNotEqual(alive(f"other-{self.marker}"), [])
        self.executor.stop("t.2", 0.0)
        self.assertEqual((await other).ending, Ending.STOPPED)

    async def test_other_environment(self) -> None:
        """A process that has cleared its environment, name and parents is found all the same."""
        name = f"/tmp/{self.marker}"
        Path(name).symlink_to("/bin/sleep")
        self.addCleanup(os.unlink, name)
        over = await self.start(f"(env -i setsid {name} 600 &); sleep 0.05")
        self.assertEqual(over.ending, Ending.EXITED)
        left = subprocess.run(["pgrep", "-f", name], capture_output=True, check=False)
        self.assertEqual(left.stdout, b"")

    async def test_runaways(self) -> None:
        """Processes that only start their like and end are caught, however long that takes."""
        hop = self.directory / "hop"
        hop.write_text('#!/bin/sh\nsetsid "$0" &\n')
        hop.chmod(0o700)
        over = await self.start("./hop & ./hop & sleep 600", lease=0.3)
        self.assertEqual(over.ending, Ending.LEASE_ENDED)
        self.assertEqual(alive(self.marker), [])

    async def test_memory(self) -> None:
        """Who takes more memory than it may, in all its processes together, is killed."""
        take = "import time; taken = bytearray(30 << 20); time.sleep(600)"
        over = await self.start(
            f"{sys.executable} -S -c '{take}' & {sys.executable} -S -c '{take}' & wait",
            memory=50 << 20,
        )
        self.assertEqual(over.ending, Ending.OVER_LIMIT)
        self.assertIn("more than the 50 MiB that it may use", over.reason)
        self.assertEqual(alive(self.marker), [])

    async def test_cut_output(self) -> None:
        """What is above the limit is thrown away with one line in its place; the command goes on
        to its end."""
        over = await self.start("head -c 9000000 /dev/zero; echo done >&2", max_output=1000)
        self.assertEqual(over, Over(Ending.EXITED, 0, ""))
        self.assertEqual(self.output(stream="err"), "done\n")
        line = "[bzzz: the output after these 1000 bytes was thrown away]\n"
        self.assertEqual(self.output(), "\0" * 1000 + "\n" + line)

    async def test_endless_output(self) -> None:
        """Commands that print without end keep no other's lease from ending in time, nor theirs."""
        for number in range(3):
            self.start(ENDLESS, f"e.{number}", max_output=1 << 20).addErrback(lambda _: None)
        over = self.start(f"{TWENTY} sleep 600", lease=LEASE)
        end = boottime() + LEASE
        self.assertEqual((await over).ending, Ending.LEASE_ENDED)
        self.assertLess(boottime() - end, in_time())
        last = self.start(ENDLESS, "e.9", lease=0.3, max_output=10)
        end = boottime() + 0.3
        self.assertEqual((await last).ending, Ending.LEASE_ENDED)
        self.assertLess(boottime() - end, in_time())

    async def test_close(self) -> None:
        """Closing kills all, and tells of all."""
        overs = [self.start(f"{TWENTY} sleep 600", f"t.{number}") for number in range(2)]
        await self.ready("t.0")
        await self.ready("t.1")
        await self.executor.close()
        self.assertEqual(alive(self.marker), [])
        self.assertEqual([(await over).ending for over in overs], [Ending.STOPPED] * 2)


class DeathTests(KeeperCase):
    """Whoever dies, nothing is left of the runs."""

    async def running(self) -> tuple[Deferred[Over], int, int]:
        """Twenty processes; the keeper and the shim that they have."""
        over = self.start(f"{TWENTY} sleep 600")
        await self.until(lambda: "ready" in self.output())
        (keeper,) = self.keepers()
        (shim,) = children_of(keeper)
        self.assertGreater(len(alive(self.marker)), 20)
        return over, keeper, shim

    async def test_daemon(self) -> None:
        """The daemon is killed."""
        path = self.directory / "out"
        argv = [sys.executable, "-c", DAEMON, TWENTY + "sleep 600", str(path), self.marker]
        daemon = subprocess.Popen(argv)
        self.addCleanup(daemon.wait)
        self.addCleanup(daemon.kill)
        await self.until(lambda: path.exists() and "ready" in path.read_text())
        (keeper,) = [pid for pid in children_of(daemon.pid) if self.is_keeper(pid)]
        daemon.kill()
        begin = time.monotonic()
        await self.until(lambda: not alive(self.marker))
        self.assertLess(time.monotonic() - begin, 3 * in_time())
        await self.until(lambda: not self.is_keeper(keeper))

    async def test_keeper(self) -> None:
        """The keeper is killed: its shims kill, then it is told, and the next run has another."""
        over, keeper, _ = await self.running()
        os.kill(keeper, signal.SIGKILL)
        told = await over
        self.assertEqual(alive(self.marker), [])
        self.assertEqual(told.ending, Ending.STOPPED)
        self.assertIn("SIGKILL", told.reason)
        self.assertEqual((await self.start("true", "t.2")).exit_status, 0)

    async def test_shim(self) -> None:
        """A shim is killed: the keeper kills what it had, and no other run."""
        over, keeper, shim = await self.running()
        other = self.start("sleep 0.3; exit 7", "t.2")
        await self.until(lambda: len(children_of(keeper)) == 2)
        os.kill(shim, signal.SIGKILL)
        told = await over
        self.assertLessEqual(len(alive(self.marker)), 2)
        self.assertEqual(told.ending, Ending.STOPPED)
        self.assertIn("killed by signal 9", told.reason)
        self.assertEqual((await other).exit_status, 7)
        self.assertEqual(alive(self.marker), [])

    async def test_stopped_shim(self) -> None:
        """A shim does nothing any more: the keeper kills when the lease ends."""
        over, _, shim = await self.running()
        os.kill(shim, signal.SIGSTOP)
        end = boottime() + 0.2
        self.executor.extend("t.1", end)
        told = await over
        late = boottime() - end
        self.assertEqual(alive(self.marker), [])
        self.assertEqual(told.ending, Ending.LEASE_ENDED)
        self.assertLess(late, in_time())

    async def test_stopped_shim_is_not_extended(self) -> None:
        """A command that stops its shim has its lease, however often that is extended."""

        def extend() -> None:
            self.executor.extend("t.1", boottime() + 0.4)

        extending = LoopingCall(extend)
        over = self.start("kill -STOP $PPID; sleep 600", lease=0.4)
        extending.start(0.05)
        try:
            told = await over
        finally:
            extending.stop()
        self.assertEqual(told.ending, Ending.LEASE_ENDED)
        self.assertEqual(alive(self.marker), [])

    async def test_stopped_shim_goes_on(self) -> None:
        """One that was stopped for a moment has the lease that was wanted meanwhile."""
        over, _, shim = await self.running()
        os.kill(shim, signal.SIGSTOP)
        self.executor.extend("t.1", boottime() + 0.5)
        await deferLater(reactor, 0.1)
        self.executor.extend("t.1", boottime() + 600.0)
        os.kill(shim, signal.SIGCONT)
        await deferLater(reactor, 0.8)
        self.assertFalse(over.called)

    async def test_stopped_spare(self) -> None:
        """A shim that somebody has stopped while it had no run is given none."""
        (keeper,) = self.keepers()
        (spare,) = children_of(keeper)
        os.kill(spare, signal.SIGSTOP)
        await self.until(lambda: children_of(keeper) == [])
        self.assertEqual((await self.start("exit 3")).exit_status, 3)

    async def test_stopped_shim_is_told_to_stop(self) -> None:
        """Nor does it keep a run from being stopped."""
        over, _, shim = await self.running()
        os.kill(shim, signal.SIGSTOP)
        self.executor.stop("t.1", 0.1)
        self.assertEqual((await over).ending, Ending.STOPPED)
        self.assertEqual(alive(self.marker), [])

    async def test_stopped_keeper(self) -> None:
        """The keeper does nothing any more: the shim kills when the lease ends."""
        over = self.start(f"{TWENTY} sleep 600", lease=LEASE)
        end = boottime() + LEASE
        await self.until(lambda: "ready" in self.output())
        (keeper,) = self.keepers()
        os.kill(keeper, signal.SIGSTOP)
        await self.until(lambda: not alive(self.marker))
        self.assertLess(boottime() - end, in_time())
        os.kill(keeper, signal.SIGCONT)
        self.assertEqual((await over).ending, Ending.LEASE_ENDED)

    async def test_signals_of_a_terminal(self) -> None:
        """What a terminal or systemd sends to all does not end runs: the daemon decides."""
        over = self.start("echo ready; sleep 0.2; exit 4")
        await self.until(lambda: "ready" in self.output())
        (keeper,) = self.keepers()
        for pid in (keeper, *children_of(keeper)):
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                os.kill(pid, number)
        self.assertEqual((await over).exit_status, 4)
