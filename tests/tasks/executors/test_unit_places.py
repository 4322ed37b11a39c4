"""Where a unit is, and what it needs to see of this machine."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from bzzz.tasks.executors.unit_cgroup import kill_group, processes_of
from bzzz.tasks.executors.unit_specs import own_python


class CgroupTests(SynchronousTestCase):
    """Control groups, in a directory that looks like some."""

    def setUp(self) -> None:
        self.top = Path(self.mktemp()).absolute()
        self.group = self.top / "a.slice" / "b.service"
        (self.group / "sub").mkdir(parents=True)
        (self.top / "cgroup.procs").write_text("1\n")

    def test_processes(self) -> None:
        """Those of the group and of those below it; none of one that is gone."""
        (self.group / "cgroup.procs").write_text("7\n8\n")
        (self.group / "sub" / "cgroup.procs").write_text("9\n")
        self.assertEqual(processes_of("/a.slice/b.service", str(self.top)), [7, 8, 9])
        self.assertEqual(processes_of("/a.slice/gone.service", str(self.top)), [])

    def test_unknown(self) -> None:
        """Where there are none of version 2, or the path is none, nothing can be said."""
        self.assertIsNone(processes_of("", str(self.top)))
        self.assertIsNone(processes_of("/../etc", str(self.top)))
        self.assertIsNone(processes_of("/a.slice/b.service", str(self.top / "none")))

    def test_killed(self) -> None:
        """All that is there gets SIGKILL, and nobody else: 0 is one that cannot be seen."""
        child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
        assert child.stdin is not None
        self.addCleanup(child.stdin.close)
        (self.group / "cgroup.procs").write_text(f"0\n{child.pid}\n")
        kill_group("/a.slice/b.service", str(self.top))
        self.assertEqual(child.wait(10), -signal.SIGKILL)
        kill_group("/a.slice/b.service", str(self.top))
        kill_group("", str(self.top))


class PythonTests(SynchronousTestCase):
    """The interpreter in a sandbox."""

    def test_hidden(self) -> None:
        """What a sandbox would hide of it has to be shown; the rest is seen anyway."""
        place = os.path.realpath(self.mktemp())
        os.mkdir(place)
        self.patch(sys, "path", ["/usr/lib/python3", f"{place}/modules", f"{place}/gone.zip"])
        self.patch(sys, "prefix", f"{place}/venv")
        self.patch(sys, "base_prefix", "/usr")
        self.patch(sys, "executable", "/usr/bin/python3")
        os.mkdir(f"{place}/venv")
        os.mkdir(f"{place}/modules")
        modules, readable = own_python((place,))
        self.assertEqual(modules, tuple(sys.path))
        self.assertEqual(readable, (f"{place}/modules", f"{place}/venv"))
        modules, readable = own_python(("/var/lib/bzzz",))
        if not place.startswith(("/home/", "/root/", "/tmp/")):
            self.assertEqual(readable, ())
