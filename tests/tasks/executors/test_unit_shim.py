"""The shim of a unit, with real processes and no systemd. **Real time**: see ``test_keeper``.

The test is what systemd and the daemon are to it: it starts it with a socket as standard input and
output, tells it what to run, gives it files for the output, and hears what it says.
"""

from __future__ import annotations

import io
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from uuid import uuid4

from twisted.trial.unittest import SynchronousTestCase

from bzzz.errors import RemoteProtocolError
from bzzz.tasks.executors import unit_shim
from bzzz.tasks.executors.keeper_kernel import boottime
from bzzz.tasks.executors.keeper_messages import (
    Ended,
    Extend,
    Frames,
    Order,
    Start,
    Started,
    Stop,
    encode,
    frame,
)
from bzzz.tasks.executors.keeper_runs import LATE
from bzzz.tasks.executors.unit_messages import (
    MAX_CGROUP,
    Hello,
    UnitReport,
    decode_unit_report,
    encode_hello,
)
from bzzz.tasks.executors.unit_shim import STDERR, STDOUT, UnitShim, live, own_cgroup
from tests.tasks.executors.test_keeper import PATIENCE, TWENTY, alive, in_time

KEY = "t.1"


class ShimCase(SynchronousTestCase):
    """One shim."""

    def setUp(self) -> None:
        self.directory = Path(self.mktemp()).absolute()
        self.directory.mkdir()
        self.marker = uuid4().hex
        # The path of a socket has at most 107 bytes.
        place = tempfile.mkdtemp(prefix="bzzz-notify-")
        self.addCleanup(os.rmdir, place)
        self.notify_path = f"{place}/notify"
        self.notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.notify.bind(self.notify_path)
        self.notify.settimeout(PATIENCE)
        self.addCleanup(os.unlink, self.notify_path)
        self.addCleanup(self.notify.close)
        self.frames: Frames[UnitReport] = Frames(decode_unit_report)
        self.reports: list[UnitReport] = []

    def begin(self, notify: str | None = None) -> None:
        """Start it as systemd does."""
        self.daemon, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self.addCleanup(self.daemon.close)
        self.daemon.settimeout(PATIENCE)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "bzzz.tasks.executors.unit_shim", KEY],
            stdin=its.fileno(),
            stdout=its.fileno(),
            stderr=subprocess.DEVNULL,
            env={
                **os.environ,
                "NOTIFY_SOCKET": self.notify_path if notify is None else notify,
                "PYTHONPATH": os.pathsep.join(sys.path),
            },
        )
        its.close()
        self.addCleanup(self.process.wait)
        self.addCleanup(self.process.kill)

    def hear(self) -> UnitReport:
        while not self.reports:
            data = self.daemon.recv(4096)
            self.assertTrue(data, "it has hung up")
            self.reports += self.frames.receive(data)
        return self.reports.pop(0)

    def tell(self, *orders: Order) -> None:
        """Give orders in one piece; with a run goes what its output is to be appended to."""
        data = b"".join(frame(encode(order)) for order in orders)
        if isinstance(orders[0], Start):
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
            files = [os.open(self.directory / name, flags) for name in (STDOUT, STDERR)]
            # One a byte, as Twisted does it.
            for each in files:
                socket.send_fds(self.daemon, [data[:1]], [each])
                os.close(each)
                data = data[1:]
        self.daemon.sendall(data)

    def start(self, command: str, lease: float = 600.0, **fields: Any) -> Start:
        """Begin, and have it run a shell's command line."""
        self.begin()
        self.assertEqual(self.hear(), Hello(KEY, own_cgroup()))
        order = self.order(command, lease, **fields)
        self.tell(order)
        return order

    def start_ready(self, command: str) -> None:
        """The same, and wait until it has said that it is ready."""
        path = self.directory / STDOUT
        path.unlink(missing_ok=True)
        self.start(command)
        self.assertIsInstance(self.hear(), Started)
        end = time.monotonic() + PATIENCE
        while not path.exists() or path.read_text() != "ready\n":
            self.assertLess(time.monotonic(), end, "it did not begin")
            time.sleep(0.005)

    def order(self, command: str, lease: float = 600.0, **fields: Any) -> Start:
        known: dict[str, Any] = {
            "key": KEY,
            "argv": ("/bin/sh", "-c", command),
            "env": {"PATH": os.defpath, "MARKER": self.marker},
            "directory": str(self.directory),
            "stdout": STDOUT,
            "stderr": STDERR,
            "max_output": 1 << 20,
            "timeout": 0.0,
            "memory": 0,
            "cpus": 0.0,
            "profile": "default",
            "until": boottime() + lease,
            "grace": 0.2,
        }
        return Start(**{**known, **fields})

    def ended(self) -> Ended:
        """How it ended; the shim ends with it, and nothing is left."""
        report = self.hear()
        if isinstance(report, Started):
            report = self.hear()
        assert isinstance(report, Ended), report
        self.assertEqual(self.daemon.recv(1), b"")
        self.process.wait(PATIENCE)
        self.assertEqual(alive(self.marker), [])
        return report

    def fed(self) -> float:
        """For how many seconds it said to systemd that it lives."""
        first, second = self.notify.recv(200).decode().splitlines()
        self.assertEqual(first, "WATCHDOG=1")
        name, _, number = second.partition("=")
        self.assertEqual(name, "WATCHDOG_USEC")
        return int(number) / 1e6


class UnitShimTests(ShimCase):
    """What it runs, and until when."""

    def test_run(self) -> None:
        """Output goes to what it had as its own; the command has none of its descriptors."""
        self.start("echo out; echo err >&2; cat; ls /proc/self/fd; exit 3")
        self.assertEqual(self.ended(), Ended(KEY, "exited", 3, ""))
        self.assertEqual((self.directory / STDERR).read_text(), "err\n")
        # The last is that of ls itself.
        self.assertEqual((self.directory / STDOUT).read_text(), "out\n0\n1\n2\n3\n")

    def test_cap(self) -> None:
        """Output beyond the cap is thrown away, and a line says so."""
        self.start("printf 123456789", max_output=4)
        self.assertEqual(self.ended().ending, "exited")
        self.assertIn("1234\n[bzzz: the output after", (self.directory / STDOUT).read_text())

    def test_nobody_tells(self) -> None:
        """Without an answer, or with one that is none, it ends and runs nothing."""
        without_files = frame(encode(self.order("echo began")))
        for answer in (b"", frame(encode(Extend(KEY, 3.0))), b"\0\0\0\1x", without_files):
            self.begin()
            self.assertEqual(self.hear(), Hello(KEY, own_cgroup()))
            self.daemon.sendall(answer)
            self.daemon.shutdown(socket.SHUT_WR)
            self.assertEqual(self.process.wait(PATIENCE), 0)

    def test_stopped_before(self) -> None:
        """What comes together with the run holds: a stop starts nothing, a lease is extended."""
        self.begin()
        self.hear()
        self.tell(self.order("echo began", lease=0.0), Stop(KEY, 3.0))
        self.assertEqual(self.ended().ending, "stopped")
        self.begin()
        self.hear()
        self.tell(self.order("echo began", lease=0.0), Extend(KEY, boottime() + 600.0))
        self.assertEqual(self.ended().ending, "exited")
        self.assertEqual((self.directory / STDOUT).read_text(), "began\n")

    def test_lease(self) -> None:
        """With the lease's end all is killed; until then systemd is told for how long."""
        began = self.start(f"{TWENTY}sleep 600", lease=0.8)
        self.assertLess(abs(self.fed() - (began.until - boottime() + LATE)), 0.3)
        self.assertIsInstance(self.hear(), Started)
        until = began.until + 0.4
        self.tell(Extend(KEY, until))
        self.assertLess(abs(self.fed() - (until - boottime() + LATE)), 0.3)
        self.assertEqual(self.ended(), Ended(KEY, "lease_ended", 137, "its lease ended"))
        self.assertGreaterEqual(boottime(), until)
        self.assertLess(boottime(), until + in_time() + 0.5)

    def test_daemon_is_gone(self) -> None:
        """All is killed when the daemon's end closes."""
        self.start(f"{TWENTY}sleep 600")
        self.assertIsInstance(self.hear(), Started)
        end = time.monotonic() + PATIENCE
        while len(alive(self.marker)) < 21:
            self.assertLess(time.monotonic(), end, "they did not all begin")
            time.sleep(0.01)
        self.daemon.close()
        self.process.wait(PATIENCE)
        self.assertEqual(alive(self.marker), [])

    def test_stop(self) -> None:
        """A stop is SIGTERM to all, and SIGKILL after the grace."""
        self.start_ready("trap 'exit 5' TERM; echo ready; while :; do sleep 0.01; done")
        self.tell(Stop(KEY, 600.0))
        self.assertEqual(self.ended().exit_status, 5)
        self.start_ready("trap '' TERM; echo ready; while :; do sleep 0.01; done")
        self.tell(Stop(KEY, 0.1))
        self.assertEqual(self.ended(), Ended(KEY, "stopped", 137, "it was told to stop"))

    def test_timeout(self) -> None:
        """A timeout is told as one."""
        self.start("exec sleep 600", timeout=0.1)
        self.assertEqual(self.ended(), Ended(KEY, "timed_out", 143, "it took over 0.1 s"))

    def test_signals(self) -> None:
        """It ends by no signal but SIGKILL, and hands on none that is ignored."""
        self.start(
            "kill -TERM $PPID; kill -HUP $PPID; kill -PIPE $PPID; grep SigIgn /proc/self/status"
        )
        self.assertEqual(self.ended().ending, "exited")
        ignored = (self.directory / STDOUT).read_text().split()[1]
        self.assertEqual(int(ignored, 16) & ~(0b11 << 31), 0)

    def test_not_to_be_traced(self) -> None:
        """Its memory and files are closed to others of its user: they belong to root."""
        self.start("stat -c %u /proc/$PPID/mem; id -u")
        self.assertEqual(self.ended().ending, "exited")
        self.assertEqual((self.directory / STDOUT).read_text().split()[0], "0")

    def test_no_notify(self) -> None:
        """Where systemd does not hear how long it lives nothing is started, if it has asked."""
        self.begin(notify=f"{self.notify_path}-none")
        self.hear()
        self.tell(self.order("echo began"))
        ended = self.ended()
        self.assertEqual((ended.ending, ended.exit_status), ("not_started", None))
        self.assertIn("systemd cannot be told how long the lease lasts: No such", ended.reason)
        self.begin(notify="")
        self.hear()
        self.tell(self.order("true"))
        self.assertEqual(self.ended().ending, "exited")


class MemoryTests(SynchronousTestCase):
    """Who holds a run to its memory."""

    def test_watched(self) -> None:
        """The shim, unless the kernel has the limit for its control group."""
        top = Path(self.mktemp()).absolute()
        (top / "a").mkdir(parents=True)
        self.patch(unit_shim, "CGROUPS", str(top))
        # One that was made in earnest would take this process's signals.
        shim = UnitShim.__new__(UnitShim)
        shim._cgroup = "/a"
        self.assertTrue(shim.watches_memory(100))
        self.assertFalse(shim.watches_memory(0))
        for kept, watched in (("max", True), ("", True), ("200", False)):
            (top / "a" / "memory.max").write_text(f"{kept}\n")
            self.assertEqual(shim.watches_memory(100), watched, kept)


class CgroupTests(SynchronousTestCase):
    """Where a shim is (cgroups(7), ``/proc/[pid]/cgroup``)."""

    def test_versions(self) -> None:
        """Of version 2 alone; none where there is none."""
        proc = Path(self.mktemp())
        (proc / "self").mkdir(parents=True)
        file = proc / "self" / "cgroup"
        self.assertEqual(own_cgroup(str(proc)), "")
        for text, found in (
            ("0::/user.slice/a.service\n", "/user.slice/a.service"),
            ("4:memory:/x\n1:name=systemd:/y\n", ""),
            ("4:memory:/x\n0::/\n", "/"),
        ):
            file.write_text(text)
            self.assertEqual(own_cgroup(str(proc)), found)


class MessageTests(SynchronousTestCase):
    """What a shim may say."""

    def test_read(self) -> None:
        """Its three messages are read as they were sent."""
        hello = Hello(KEY, "/a")
        self.assertEqual(decode_unit_report(encode_hello(hello)), hello)
        for report in (Started(KEY, 4), Ended(KEY, "exited", 3, "r")):
            self.assertEqual(decode_unit_report(encode(report)), report)

    def test_wrong(self) -> None:
        """Whatever else is refused."""
        for data in (
            b"",
            b"\xc1",
            b"\x91" * 10_000,
            encode(Extend(KEY, 3.0)),
            encode(Ended(KEY, "exited", 256)),
            encode_hello(Hello(KEY, "/" * (MAX_CGROUP + 1))),
        ):
            self.assertRaises(RemoteProtocolError, decode_unit_report, data)


class FlawTests(SynchronousTestCase):
    """A shim that fails."""

    def test_told(self) -> None:
        """The daemon hears of it, and the journal has where it was."""
        told: list[Any] = []

        class Flawed(UnitShim):
            def __init__(self) -> None:
                pass

            def live_for(self, key: str) -> None:
                raise ZeroDivisionError("a flaw")

            def tell(self, report: Any) -> None:
                told.append(report)

        journal = io.StringIO()
        self.patch(sys, "stderr", journal)
        live(Flawed(), KEY)
        reason = "its shim failed: ZeroDivisionError('a flaw')"
        self.assertEqual(told, [Ended(KEY, "stopped", None, reason)])
        self.assertIn('raise ZeroDivisionError("a flaw")', journal.getvalue())
