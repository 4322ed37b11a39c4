"""Runs every check, and ends with one line of true counts.

    python -m tests.run [SECTION...]

One after the other, but for the cluster tests: they wait most of the time, for machines that start
and for cables that are out, so where there is a second core they run beside the rest. They measure
times, so the rest stands behind them. A failing section does not keep the next from running. A test
counts as one; so does each tool that only says yes or no. The exit code is 0 if nothing failed.
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
from typing import TextIO

from tests.audit import CANNOT_TELL
from tests.needs import STRICT, find_tool, without_tools

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
PYTHON = str(BIN / "python")

# Each is run on its own by a section of that name.
APART = ("interop", "cluster")

# These wait most of the time, and run at the same time as the others.
BESIDE = ("cluster",)
# Niceness of what runs beside them. Half of what there is: it shall go on where they wait.
BEHIND = 10

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


class Shown:
    """Lines for people, which can be held back while those of another section are shown."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._lock = threading.Lock()
        self._held: list[str] | None = None

    def hold(self) -> None:
        self._held = []

    def release(self) -> None:
        with self._lock:
            lines, self._held = self._held or [], None
            self._out.write("".join(lines))
            self._out.flush()

    def write(self, line: str) -> None:
        with self._lock:
            if self._held is not None:
                self._held.append(line)
                return
            self._out.write(line)
            self._out.flush()


def stand_behind(pid: int) -> None:
    """Let what does other work go first, in a session of its own too.

    A kernel that groups processes by session weighs the groups, and the niceness of processes does
    not count between them (sched(7), "The autogroup feature").
    """
    os.setpriority(os.PRIO_PROCESS, pid, BEHIND)
    with contextlib.suppress(FileNotFoundError):
        Path(f"/proc/{pid}/autogroup").write_text(str(BEHIND))


class Run:
    """One section's command, showing its output.

    :param behind: whether other sections run at the same time and come first.
    """

    def __init__(self, section: Section, shown: Shown, *, behind: bool = False) -> None:
        self._section = section
        self._shown = shown
        self._late = threading.Event()
        self._process = subprocess.Popen(
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
        if behind:
            stand_behind(self._process.pid)

    def wait(self) -> tuple[int, str]:
        """Show what it prints until it ends; returns its exit code and output."""
        process = self._process
        assert process.stdout is not None
        timer = threading.Timer(self._section.limit, self._stop)
        timer.start()
        output = []
        try:
            for line in process.stdout:
                self._shown.write(line)
                output.append(line)
            code = process.wait()
        finally:
            timer.cancel()
        if self._late.is_set():
            self._shown.write(f"stopped after {self._section.limit:.0f} s\n")
            code = code or 1
        return code, "".join(output)

    def interrupt(self) -> None:
        """Tell it that the person at the terminal wants it to end, and wait for that."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGINT)
        self._process.wait()

    def _stop(self) -> None:
        self._late.set()
        # Python then tells where it hung. What it started is in its session, and ends with it.
        self._process.send_signal(signal.SIGABRT)
        time.sleep(2)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)


class Lane:
    """Sections that run one after the other."""

    def __init__(
        self, known: dict[str, Section], names: list[str], out: TextIO, *, behind: bool = False
    ) -> None:
        self._known = known
        self._names = names
        self._behind = behind
        self._running: Run | None = None
        self._interrupted = False
        self.shown = Shown(out)
        # Failed, until it is known to be otherwise.
        self.counts = {name: Counts(failed=1) for name in names}
        self.rows: list[str] = []

    def run(self) -> None:
        """Run them all, or until :meth:`interrupt`."""
        for name in self._names:
            if self._interrupted:
                return
            self.shown.write(f"=== {name}\n")
            start = time.monotonic()
            counts = self._count(self._known[name])
            self.counts[name] = counts
            self.rows.append(f"{name:10} {time.monotonic() - start:7.1f} s   {counts}")
            self.shown.write(f"=== {self.rows[-1]}\n\n")

    def interrupt(self) -> None:
        """End what runs, and begin nothing more."""
        self._interrupted = True
        if self._running is not None:
            self._running.interrupt()

    def _count(self, section: Section) -> Counts:
        if section.missing is not None:
            self.shown.write(f"{section.missing}\n")
            return Counts(failed=1) if STRICT else Counts(skipped=1)
        self._running = Run(section, self.shown, behind=self._behind)
        return section.count(*self._running.wait())


def lanes(known: dict[str, Section], wanted: list[str], cores: int, out: TextIO) -> list[Lane]:
    """Who runs at the same time as whom; the first is shown as it goes."""
    rest = [name for name in wanted if name not in BESIDE]
    beside = [name for name in wanted if name in BESIDE]
    if cores < 2 or not rest or not beside:
        return [Lane(known, wanted, out)]
    return [Lane(known, rest, out, behind=True), Lane(known, beside, out)]


def run_all(every: list[Lane]) -> None:
    """Run the lanes at once, and show one after the other."""
    first, *others = every
    threads = [threading.Thread(target=lane.run) for lane in others]
    for lane, thread in zip(others, threads, strict=True):
        lane.shown.hold()
        thread.start()
    try:
        first.run()
        for lane, thread in zip(others, threads, strict=True):
            lane.shown.release()
            thread.join()
    except KeyboardInterrupt:
        for lane in every:
            lane.interrupt()
        raise


def main() -> int:
    """Run what was asked for; returns the exit code."""
    known = sections()
    parser = argparse.ArgumentParser(prog="script/test", description="Run the checks.")
    parser.add_argument("section", nargs="*", help=f"one of {', '.join(known)}; default: all")
    wanted = parser.parse_args().section or list(known)
    unknown = [name for name in wanted if name not in known]
    if unknown:
        parser.error(f"no section is called {unknown[0]}; there are {', '.join(known)}")
    every = lanes(known, wanted, os.cpu_count() or 1, sys.stdout)
    run_all(every)
    total = sum((counts for lane in every for counts in lane.counts.values()), Counts())
    print("\n".join(row for lane in every for row in lane.rows))
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
