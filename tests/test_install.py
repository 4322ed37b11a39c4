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


# No token: what is looked for in what the installer says and starts.
TOKEN = "bzzz-join-of-nobody"

# Stands in for the interpreter that the installer asks for. It writes down what can be seen of the
# processes that started it, and what it was given itself.
SPY = """#!/bin/sh
pid=$$
while [ "$pid" -gt 1 ] && [ "$pid" -ne {test} ]; do
    tr '\\0' ' ' <"/proc/$pid/cmdline" >>{file}
    echo >>{file}
    pid=$(sed -n 's/^PPid:.//p' "/proc/$pid/status")
done
env >>{file}
exit 1
"""

# Stands in for ``bzzz``: answers which cluster the node is in, and writes down how it is told to
# join one.
NODE = """#!/bin/sh
case "$*" in
*"cluster show"*) echo '{{"cluster": {cluster}}}' ;;
*)
    echo "$@" >>{file}
    env >>{file}
    echo "read: $(cat)" >>{file}
    exit {code}
    ;;
esac
"""


def run(script: str, *arguments: str, **variables: str) -> tuple[int, str, str]:
    """Run a script to its end: exit code, standard output, standard error."""
    done = subprocess.run(
        [str(ROOT / script), *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        stdin=subprocess.DEVNULL,
        env={**os.environ, **variables},
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
            ("install-service.sh", "--join"),
            ("install-service.sh", "--join="),
            ("install-service.sh", "--join", ""),
            ("install-service.sh", "--join-file"),
            ("install-service.sh", "--join-file", "/nowhere"),
            ("install-service.sh", "--join-file=/dev/null"),
            ("install-service.sh", "--join", TOKEN, "--join-file", "/nowhere"),
            ("uninstall-service.sh", "--purge", "all"),
            ("script/wheelhouse",),
            ("script/wheelhouse", "--help-me"),
        ):
            code, output, error = run(script, *arguments)
            self.assertEqual((code, output), (2, ""), (script, arguments))
            self.assertRegex(error, r"^(un)?install-service: .|^wheelhouse: .")


class UnitTests(SynchronousTestCase):
    """The unit as it is written for a user."""

    def unit(self, user: str, group: str) -> str:
        text = (ROOT / "install-service.sh").read_text("utf-8")
        function = re.search(r"(?m)^wanted_unit\(\) \{\n(?:.*\n)*?\}\n", text)
        assert function is not None
        command = f"user=$1 group=$2\n{function[0]}wanted_unit"
        done = subprocess.run(
            ["sh", "-euc", command, "sh", user, group],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout

    def test_own_group(self) -> None:
        """A user's own group may use the node; as shipped, that is the group bzzz."""
        self.assertEqual(
            self.unit("bzzz", "bzzz"), (ROOT / "etc/systemd/bzzz.service").read_text("utf-8")
        )
        self.assertIn("\nRuntimeDirectoryMode=0750\n", self.unit("alice", "alice"))

    def test_other_group(self) -> None:
        """A group that other people are in may not."""
        unit = self.unit("alice", "users")
        for line in ("User=alice", "Group=users", "RuntimeDirectoryMode=0700"):
            self.assertIn(f"\n{line}\n", unit)


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


class TokenTests(SynchronousTestCase):
    """A token that the installer is given, as far as that goes without a node."""

    def setUp(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="bzzz-token-"))
        self.addCleanup(shutil.rmtree, self.directory)
        self.told = self.directory / "told"

    def program(self, name: str, text: str) -> Path:
        path = self.directory / name
        path.write_text(text, "utf-8")
        path.chmod(0o755)
        return path

    def test_not_shown(self) -> None:
        """However it is given, it is in no argument or environment of what runs, and not said."""
        file = self.program("token", f"{TOKEN}\n")
        spy = str(self.program("spy", SPY.format(test=os.getpid(), file=self.told)))
        for given, variables, warned in (
            (("--join", TOKEN), {}, True),
            ((f"--join={TOKEN}",), {}, True),
            (("--join-file", str(file)), {}, False),
            ((f"--join-file={file}",), {}, False),
            ((), {"BZZZ_JOIN_TOKEN": TOKEN}, False),
        ):
            self.told.write_text("")
            _, output, error = run(
                "install-service.sh", "--dry-run", *given, "--user=root", PYTHON=spy, **variables
            )
            told = self.told.read_text()
            self.assertIn("install-service.sh --dry-run ", told)
            self.assertIn("--user=root", told)
            self.assertNotIn(TOKEN, told + output + error)
            self.assertNotIn("BZZZ_JOIN", told)
            self.assertEqual("--join-file is better" in error, warned, given)
            self.assertIn("would have the node join a cluster, unless it is in one", output)

    def test_none(self) -> None:
        """Without a token nothing is joined."""
        self.assertNotIn("join", run("install-service.sh", "--dry-run")[1])

    def join(self, cluster: str, code: int) -> tuple[int, str]:
        """Have the installer's function join, with a ``bzzz`` that ends with ``code``."""
        (self.directory / "bin").mkdir(exist_ok=True)
        self.program("bin/bzzz", NODE.format(cluster=cluster, file=self.told, code=code))
        (self.directory / "bin/python").unlink(missing_ok=True)
        (self.directory / "bin/python").symlink_to(sys.executable)
        text = (ROOT / "install-service.sh").read_text("utf-8")
        functions = [
            found[0]
            for name in ("say", "fail", "run", "membership", "join_cluster")
            if (found := re.search(rf"(?m)^{name}\(\) (?:\{{ .*\}}|\{{\n(?:.*\n)*?\}})\n", text))
        ]
        self.assertEqual(len(functions), 5)
        command = (
            f"new={self.directory} new_name=0 token={TOKEN}\nruntime_dir() {{ echo /run/x; }}\n"
        )
        done = subprocess.run(
            ["sh", "-euc", f"exec 3</dev/null\n{command}{''.join(functions)}join_cluster"],
            capture_output=True,
            text=True,
            check=False,
        )
        return done.returncode, done.stderr

    def test_joined(self) -> None:
        """The node is told the token on standard input."""
        self.assertEqual(self.join("null", 0), (0, ""))
        told = self.told.read_text()
        self.assertTrue(told.startswith("--runtime-dir /run/x join -\n"), told)
        self.assertTrue(told.endswith(f"read: {TOKEN}\n"), told)
        self.assertEqual(told.count(TOKEN), 1)

    def test_not_joined(self) -> None:
        """Where the node refuses, that is exit code 1, with what to do, and the service stays."""
        code, error = self.join("null", 4)
        self.assertEqual(code, 1)
        self.assertIn("the service is installed and runs, but it is in no cluster", error)
        self.assertNotIn(TOKEN, error)

    def test_member(self) -> None:
        """A machine that is a member already is left alone, and that is said."""
        code, error = self.join('{"name": "home", "revoked": false}', 0)
        self.assertEqual(code, 0)
        self.assertIn("a member of home already: it stays as it is", error)
        self.assertFalse(self.told.exists())

    def test_revoked(self) -> None:
        """One that was revoked has to leave first."""
        code, error = self.join('{"name": "home", "revoked": true}', 0)
        self.assertEqual(code, 1)
        self.assertIn("was revoked from home. Run  bzzz leave  and", error)
        self.assertFalse(self.told.exists())


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
