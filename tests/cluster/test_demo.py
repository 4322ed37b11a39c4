"""``script/demo`` as a user runs it, once everything is installed."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests.cluster.netns import until

ROOT = Path(__file__).resolve().parent.parent.parent
LIMIT = 60.0


def nodes_below(directory: str) -> list[int]:
    """The processes that hold a state directory in there."""
    found = set()
    for process in filter(str.isdigit, os.listdir("/proc")):
        # It may end at any moment, or close the file.
        with contextlib.suppress(OSError):
            for entry in os.listdir(f"/proc/{process}/fd"):
                with contextlib.suppress(OSError):
                    file = os.readlink(f"/proc/{process}/fd/{entry}")
                    if file.startswith(f"{directory}/") and file.endswith("/lock"):
                        found.add(int(process))
    return sorted(found)


class DemoTests(SynchronousTestCase):
    """Three nodes on the loopback interface."""

    def setUp(self) -> None:
        self.directory = tempfile.mkdtemp(prefix="bzzz-test-")
        self.addCleanup(shutil.rmtree, self.directory, ignore_errors=True)

    def start(self, *options: str, tmp: str | None = None) -> subprocess.Popen[str]:
        environ = {key: value for key, value in os.environ.items() if not key.startswith("BZZZ_")}
        process = subprocess.Popen(
            [sys.executable, "-m", "bzzz.cli.demo", *options],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**environ, "TMPDIR": tmp or self.directory, "PYTHONUNBUFFERED": "1"},
        )
        self.addCleanup(process.kill)
        return process

    def test_once(self) -> None:
        """It ends by itself with exit code 0 when tasks have run, and leaves nothing behind."""
        process = self.start("--once")
        output, _ = process.communicate(timeout=LIMIT)
        self.assertEqual(process.returncode, 0, output)
        self.assertEqual(output.count("connected"), 3, output)
        self.assertEqual(output.count("heard by both"), 3, output)
        for name in ("walnut", "ironwood", "acacia"):
            self.assertRegex(output, rf"had {name} run a task: process [0-9]+ of task ")
        self.assertEqual(nodes_below(self.directory), [])
        self.assertEqual(os.listdir(self.directory), [])

    def test_interrupted(self) -> None:
        """Without --once it goes on until it is interrupted, and then ends its nodes."""
        process = self.start()
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("3 nodes, all linked"):
                break
        self.assertEqual(len(nodes_below(self.directory)), 3)
        process.send_signal(signal.SIGINT)
        self.assertEqual(process.wait(LIMIT), 0)
        process.stdout.close()
        self.assertEqual(nodes_below(self.directory), [])
        self.assertEqual(os.listdir(self.directory), [])

    def test_a_node_that_dies(self) -> None:
        """A node that ends is a failure that is told with its log, and the others are ended."""
        process = self.start()
        nodes = until(lambda: nodes_below(self.directory), LIMIT, "the nodes are started")
        os.kill(nodes[0], signal.SIGKILL)
        output, _ = process.communicate(timeout=LIMIT)
        self.assertEqual(process.returncode, 1, output)
        self.assertIn("ended with exit code -9", output)
        self.assertIn("The log of walnut ends with:", output)
        self.assertEqual(nodes_below(self.directory), [])
