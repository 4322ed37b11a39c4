"""What the benchmarks share: where peers are, children that surely end, tables with verdicts."""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

__all__ = [
    "Children",
    "JS",
    "PEERS",
    "PY",
    "PY_PYTHON",
    "QUEUES",
    "ROOT",
    "Target",
    "arguments",
    "cpu_seconds",
    "number",
    "progress",
    "reference_ms",
    "rss_mb",
    "table",
    "write_json",
]

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
JS = HERE / "peers" / "js"
PY = HERE / "peers" / "py"
QUEUES = HERE / "peers" / "queues"
PY_PYTHON = PY / ".venv" / "bin" / "python"

# The command of each peer, by the stem of its program.
PEERS = {
    "bzzz": lambda stem: [sys.executable, "-m", f"benchmarks.peers.bzzz_{stem}"],
    "js": lambda stem: ["node", str(JS / f"{stem}.mjs")],
    "py": lambda stem: [str(PY_PYTHON), str(PY / f"{stem}.py")],
}

# Seconds that a child has to end by itself.
END_TIMEOUT = 5.0

# Lines of a child's stderr that are shown when something failed.
COMPLAINT = 20


class Children:
    """Processes that end with the block, whatever happens in it; only those started here.

    What they say on stderr is shown when the block fails: some peers end with long tracebacks that
    mean nothing.

    :param kill: end them without a chance to do so in order, which a hundred would use for long.
    """

    def __init__(self, kill: bool = False) -> None:
        self._kill = kill
        self._processes: list[subprocess.Popen[Any]] = []
        self._complaints: list[IO[bytes]] = []

    def start(self, command: Sequence[str], **options: Any) -> subprocess.Popen[Any]:
        """Start one. It is in a group of its own, so that Ctrl-C reaches this process alone."""
        if "stderr" not in options:
            options["stderr"] = tempfile.TemporaryFile()  # noqa: SIM115 - closed in __exit__
            self._complaints.append(options["stderr"])
        process = subprocess.Popen(command, start_new_session=True, cwd=ROOT, **options)
        self._processes.append(process)
        return process

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.end()
        for complaint in self._complaints:
            if kind is not None and issubclass(kind, Exception):
                complaint.seek(0)
                for line in complaint.read().decode(errors="replace").splitlines()[-COMPLAINT:]:
                    print(line, file=sys.stderr)
            complaint.close()
        self._complaints.clear()

    def end(self) -> None:
        """End them all: in order if they do so soon, else not."""
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            running = [process for process in self._processes if process.poll() is None]
            for process in running:
                process.kill() if self._kill else process.terminate()
            deadline = time.monotonic() + END_TIMEOUT
            for process in running:
                try:
                    process.wait(max(0.0, deadline - time.monotonic()))
                except subprocess.TimeoutExpired:
                    process.kill()
            for process in self._processes:
                process.wait()
                for pipe in (process.stdin, process.stdout):
                    _close(pipe)
            self._processes.clear()
        finally:
            signal.signal(signal.SIGINT, before)


def _close(pipe: IO[Any] | None) -> None:
    if pipe is not None:
        try:
            pipe.close()
        except BrokenPipeError:
            pass  # what was still to be written is of no interest to anybody


def rss_mb(pid: int) -> float:
    """Resident memory of a process in MB (10^6 bytes)."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise ProcessLookupError(f"{pid} has no memory any more")


def cpu_seconds(pid: int) -> float:
    """CPU seconds that a process has used, from nanoseconds that the scheduler counts."""
    try:
        total = 0
        for task in os.listdir(f"/proc/{pid}/task"):
            total += int(Path(f"/proc/{pid}/task/{task}/schedstat").read_text().split()[0])
        return total / 1e9
    except FileNotFoundError:
        # A kernel without schedstat counts in ticks.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Target:
    """What Bzzz has to reach.

    :ivar at_most: whether less is better.
    """

    value: float
    at_most: bool

    def __str__(self) -> str:
        return f"{'<=' if self.at_most else '>='} {self.value:g}"

    def met(self, value: float) -> bool:
        """Whether a figure is good enough."""
        return value <= self.value if self.at_most else value >= self.value

    def verdict(self, value: float) -> str:
        """``met`` or ``MISSED``."""
        return "met" if self.met(value) else "MISSED"

    def better(self, value: float, other: float) -> float:
        """How many times better a figure is than another."""
        return other / value if self.at_most else value / other


def number(value: float | None) -> str:
    """With three significant digits, or so."""
    if value is None:
        return "-"
    if abs(value) >= 100:
        return f"{value:.0f}"
    return f"{value:.2f}" if abs(value) >= 1 else f"{value:.3f}"


def reference_ms() -> float:
    """CPU ms of a fixed loop, the best of five: how fast this machine is just now.

    Machines that share their processor with others may be half as fast from one run to the next,
    and then two figures can be compared only where this one is the same.
    """
    best = math.inf
    for _ in range(5):
        start = time.thread_time()
        total = 0
        for value in range(1_000_000):
            total += value
        best = min(best, time.thread_time() - start)
    return best * 1000


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as their widest cell: the first to the left, the others to the right."""
    lines = [head, *rows]
    widths = [max(len(line[index]) for line in lines) for index in range(len(head))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if index == 0 else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def progress(what: str = "") -> None:
    """What is done at present, on a terminal: a line that the next one replaces."""
    if sys.stderr.isatty():
        print(f"\r{what:70}\r", end="", file=sys.stderr, flush=True)


def arguments(description: str, rounds: int) -> argparse.ArgumentParser:
    """What every benchmark takes."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--rounds", type=int, default=None, help=f"medians of this many [default: {rounds}]"
    )
    parser.add_argument(
        "--quick", action="store_true", help="one short round, to see that it works"
    )
    parser.add_argument("--json", type=Path, help="write the figures to this file, too")
    parser.set_defaults(default_rounds=rounds)
    return parser


def write_json(path: Path | None, benchmark: str, results: object) -> None:
    """Keep the figures, with what is needed to judge them later."""
    if path is not None:
        about = {
            "benchmark": benchmark,
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "cpus": len(os.sched_getaffinity(0)),
            "python": platform.python_version(),
            "kernel": platform.release(),
            "load_before": os.getloadavg()[1],
            "results": results,
        }
        path.write_text(json.dumps(about, indent=1) + "\n")
