"""What the installer's scripts do without a systemd: their options, the dry run, the archive.

What they install is tested on machines, by tests.cluster.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = ("install-service.sh", "uninstall-service.sh", "script/wheelhouse")

# Where an installation would begin to show.
PLACES = (
    "/opt/bzzz",
    "/etc/bzzz",
    "/etc/systemd/system/bzzz.service",
    "/usr/local/bin/bzzz",
    "/usr/local/share/man/man1/bzzz.1",
    "/run/bzzz-install.lock",
    "/etc/passwd",
)


def run(script: str, *arguments: str) -> tuple[int, str, str]:
    """Run a script to its end: exit code, standard output, standard error."""
    done = subprocess.run(
        [str(ROOT / script), *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    return done.returncode, done.stdout, done.stderr


def inputs() -> list[str]:
    """What the installer says that it reads."""
    text = (ROOT / "install-service.sh").read_text("utf-8")
    found = re.search(r'^inputs="([^"]+)"', text, re.MULTILINE)
    assert found is not None
    return found[1].split()


class OptionTests(SynchronousTestCase):
    """The command lines."""

    def test_help(self) -> None:
        """--help prints the text at the head of the script, with the exit codes, and no code."""
        for script in SCRIPTS:
            code, output, _ = run(script, "--help")
            self.assertEqual(code, 0, script)
            self.assertIn(script, output)
            self.assertNotIn("set -eu", output)
        for script in SCRIPTS[:2]:
            self.assertIn("Exit code: 0", run(script, "--help")[1])

    def test_wrong(self) -> None:
        """A wrong command line is exit code 2, before anything else is looked at."""
        for script, *arguments in (
            ("install-service.sh", "--upgrade"),
            ("install-service.sh", "--user"),
            ("install-service.sh", "--user="),
            ("install-service.sh", "--wheelhouse"),
            ("install-service.sh", "--wheelhouse", "/nowhere"),
            ("uninstall-service.sh", "--purge", "all"),
            ("script/wheelhouse",),
            ("script/wheelhouse", "--help-me"),
        ):
            code, output, error = run(script, *arguments)
            self.assertEqual((code, output), (2, ""), (script, arguments))
            self.assertRegex(error, r"^(un)?install-service: .|^wheelhouse: .")


class DryRunTests(SynchronousTestCase):
    """``install-service.sh --dry-run``."""

    def state(self) -> list[object]:
        return [
            (path, os.stat(path).st_mtime_ns) if os.path.lexists(path) else path for path in PLACES
        ]

    def test_changes_nothing(self) -> None:
        """It only says what would be done, and what is missing for it."""
        before = self.state()
        code, output, error = run("install-service.sh", "--dry-run")
        self.assertEqual(self.state(), before)
        for line in output.splitlines():
            self.assertRegex(line, r"^would \S")
        # What is missing on this machine decides the code.
        self.assertEqual(code, 1 if re.search("systemd does not run|missing", error) else 0, error)

    def test_no_root(self) -> None:
        """A node that runs as root is refused, also in a dry run."""
        code, _, error = run("install-service.sh", "--dry-run", "--user", "root")
        self.assertEqual(code, 1)
        self.assertIn("must not run as root", error)

    def test_no_such_user(self) -> None:
        """A user who does not exist is not made."""
        code, output, error = run("install-service.sh", "--dry-run", "--user=nobody-of-this-name")
        self.assertEqual(code, 1)
        self.assertIn("there is no user nobody-of-this-name", error)
        self.assertNotIn("make the system user", output)


class ArchiveTests(SynchronousTestCase):
    """A source archive."""

    def test_complete(self) -> None:
        """It has all that the installer takes, and the scripts can be run."""
        directory = Path(tempfile.mkdtemp(prefix="bzzz-archive-"))
        self.addCleanup(shutil.rmtree, directory)
        tree = directory / "tree"
        ignored = shutil.ignore_patterns(
            *(".*", "__pycache__", "dropin.cache", "_trial_temp*", "node_modules", "*.egg-info"),
            *("tests", "docs", "benchmarks", "build", "dist"),
        )
        shutil.copytree(ROOT, tree, ignore=ignored)
        build = f"import setuptools.build_meta as b; b.build_sdist({str(directory)!r})"
        done = subprocess.run(
            [sys.executable, "-c", build], cwd=tree, capture_output=True, text=True, check=False
        )
        self.assertEqual(done.returncode, 0, done.stderr)
        (archive,) = directory.glob("bzzz-*.tar.gz")
        with tarfile.open(archive) as opened:
            inside = {member.name.partition("/")[2]: member for member in opened.getmembers()}
        for name in inputs():
            path = ROOT / name
            for each in [path, *path.rglob("*")]:
                if "__pycache__" not in each.parts and each.name != "dropin.cache":
                    self.assertIn(str(each.relative_to(ROOT)), inside)
        for script in SCRIPTS:
            self.assertTrue(inside[script].mode & 0o111, script)
