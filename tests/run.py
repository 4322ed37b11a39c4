"""Runs every check, one after the other, and ends with one line of true counts.

    python -m tests.run [SECTION...]

A failing section does not keep the next from running. A test counts as one; so does each tool that
only says yes or no. The exit code is 0 if nothing failed.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.audit import CANNOT_TELL
from tests.needs import STRICT, find_tool, without_tools

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
PYTHON = str(BIN / "python")

# Each is run on its own by a section of that name.
APART = ("interop", "cluster")

# Trial's closing line, such as "FAILED (skips=1, failures=2, successes=7)".
CLOSING = re.compile(r"^(?:PASSED|FAILED)(?: \((?P<counts>[a-zA-Z]+=\d+(?:, [a-zA-Z]+=\d+)*)\))?$")
GOOD = ("successes", "expectedFailures")
BAD = ("failures", "errors", "unexpectedSuccesses")


@dataclass(frozen=True)
class Counts:
    """How many tests did what."""

    passed: int = 0
    failed: int = 0
    skipped: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            self.passed + other.passed, self.failed + other.failed, self.skipped + other.skipped
        )

    def __str__(self) -> str:
        said = f"{self.passed} passed, {self.failed} failed"
        return f"{said}, {self.skipped} skipped" if self.skipped else said


def one(code: int, output: str) -> Counts:
    """A tool that says yes or no."""
    return Counts(failed=1) if code else Counts(passed=1)


def audited(code: int, output: str) -> Counts:
    """The audit. Where nobody can be asked, that is no failure of the code, not even in CI."""
    return Counts(skipped=1) if code == CANNOT_TELL else one(code, output)


def trial(code: int, output: str) -> Counts:
    """What trial counted. A run that did not come to its end, or ran nothing, has failed."""
    found = [match for line in output.splitlines() if (match := CLOSING.match(line))]
    if not found:
        return Counts(failed=1)
    pairs = (pair.split("=") for pair in (found[-1]["counts"] or "").split(", ") if pair)
    numbers = {name: int(number) for name, number in pairs}
    counts = Counts(
        sum(numbers.get(name, 0) for name in GOOD),
        sum(numbers.get(name, 0) for name in BAD),
        numbers.get("skips", 0),
    )
    if (code and not counts.failed) or counts == Counts():
        return counts + Counts(failed=1)
    return counts


@dataclass(frozen=True)
class Section:
    """One command of the run.

    :ivar limit: seconds after which it is stopped and has failed.
    :ivar missing: why it cannot be run here, where it cannot.
    """

    command: tuple[str, ...]
    count: Callable[[int, str], Counts] = one
    limit: float = 600.0
    missing: str | None = None


def trial_section(name: str, targets: Iterator[str], limit: float) -> Section:
    temporary = f"--temp-directory=_trial_temp_{name}"
    command = (PYTHON, "-m", "twisted.trial", "--reporter=bwverbose", temporary, *targets)
    return Section(command, trial, limit)


def unit_targets() -> Iterator[str]:
    """The modules and packages of tests/ that no other section runs."""
    for path in sorted((ROOT / "tests").iterdir()):
        if path.is_dir() and path.name not in APART and any(path.rglob("test_*.py")):
            yield f"tests.{path.name}"
        elif path.match("test_*.py"):
            yield f"tests.{path.stem}"


def shell_scripts() -> Iterator[str]:
    """The shell scripts of the project, for whoever runs it and for whoever works on it."""
    for pattern in ("*", "script/*", ".ci/*"):
        for path in sorted(ROOT.glob(pattern)):
            if path.is_file() and path.read_bytes().startswith(b"#!/bin/sh\n"):
                yield str(path.relative_to(ROOT))


def shellcheck() -> Section:
    """Debian's, which unlike the other tools is not in ``requirements/``."""
    tool = find_tool("shellcheck") or "shellcheck"
    return Section((tool, *shell_scripts()), missing=without_tools("shellcheck"))


def sections() -> dict[str, Section]:
    """Every section by name, the quickest first."""
    bandit = ("-c", "pyproject.toml", "-r")
    sphinx = (PYTHON, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html")
    return {
        "ruff": Section((str(BIN / "ruff"), "check", ".")),
        "format": Section((str(BIN / "ruff"), "format", "--check", ".")),
        "shellcheck": shellcheck(),
        "bandit": Section((str(BIN / "bandit"), "-q", *bandit, "bzzz", "twisted/plugins")),
        "mypy": Section((PYTHON, "-m", "mypy")),
        "docs": Section((*sphinx, "docs", "docs/_build/html")),
        "audit": Section((PYTHON, "-m", "tests.audit"), audited),
        "unit": trial_section("unit", unit_targets(), 2400.0),
        "interop": trial_section("interop", iter(["tests.interop"]), 900.0),
        "cluster": trial_section("cluster", iter(["tests.cluster"]), 3000.0),
    }


def environment() -> dict[str, str]:
    """This process's own, without what configures a node of the user's."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("BZZZ_")}
    return {**kept, "PYTHONUNBUFFERED": "1", "PYTHONFAULTHANDLER": "1"}


def run(section: Section) -> tuple[int, str]:
    """Run a command, showing its output; returns its exit code and output."""
    process = subprocess.Popen(
        section.command,
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
        env=environment(),
    )
    assert process.stdout is not None
    late = threading.Event()

    def stop() -> None:
        late.set()
        # Python then tells where it hung. What it started is in its session, and ends with it.
        process.send_signal(signal.SIGABRT)
        time.sleep(2)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)

    timer = threading.Timer(section.limit, stop)
    timer.start()
    output = []
    try:
        for line in process.stdout:
            sys.stdout.write(line)
            sys.stdout.flush()
            output.append(line)
        code = process.wait()
    except KeyboardInterrupt:
        os.killpg(process.pid, signal.SIGINT)
        process.wait()
        raise
    finally:
        timer.cancel()
    if late.is_set():
        print(f"stopped after {section.limit:.0f} s", flush=True)
        code = code or 1
    return code, "".join(output)


def main() -> int:
    """Run what was asked for; returns the exit code."""
    known = sections()
    parser = argparse.ArgumentParser(prog="script/test", description="Run the checks.")
    parser.add_argument("section", nargs="*", help=f"one of {', '.join(known)}; default: all")
    wanted = parser.parse_args().section or list(known)
    unknown = [name for name in wanted if name not in known]
    if unknown:
        parser.error(f"no section is called {unknown[0]}; there are {', '.join(known)}")
    total = Counts()
    rows = []
    for name in wanted:
        print(f"=== {name}", flush=True)
        start = time.monotonic()
        section = known[name]
        if section.missing is not None:
            print(section.missing)
            counts = Counts(failed=1) if STRICT else Counts(skipped=1)
        else:
            counts = section.count(*run(section))
        total += counts
        rows.append(f"{name:10} {time.monotonic() - start:7.1f} s   {counts}")
        print(f"=== {rows[-1]}\n", flush=True)
    print("\n".join(rows))
    if total.skipped:
        print(f"{total.skipped} skipped, for the reasons above")
    # The last line has the counts alone.
    print(f"{total.passed} passed, {total.failed} failed", flush=True)
    return 1 if total.failed else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
