"""Every core that bytes of a peer reach, under a fuzzer for a while, and under what once did harm.

This is the one place of the unit tests where real time passes: each target is given
:data:`SECONDS`, in a process of its own, :data:`AT_ONCE` of them side by side. One that has tried
less than :data:`ENOUGH` inputs by then, because it is slow or the machine busy, is given more.
"""

from __future__ import annotations

import contextlib
import importlib.util
import re
import subprocess
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import ClassVar

from twisted.trial.unittest import SynchronousTestCase

from tests.fuzz import seeds
from tests.fuzz.targets import TARGETS
from tests.needs import needs

HERE = Path(__file__).parent
ROOT = HERE.parent.parent

# Of fuzzing one target; starting it takes as long again. The later ones are for the slow.
SECONDS = (2, 8, 32)

# Inputs; so few more than the seeds would test nothing.
ENOUGH = 100

# Processes, as many as the machines that run this have cores.
AT_ONCE = 2

# The longest one may take in all, in seconds, on a machine that is busy.
LIMIT = 240

MEMORY = re.compile(r"memory before: (\d+) MiB")
PEAK = re.compile(r"stat::peak_rss_mb:\s+(\d+)")
RUNS = re.compile(r"stat::number_of_executed_units:\s+(\d+)")

# What a target may make the process grow by, in MiB; libFuzzer stops itself at twice as much.
GROWTH = 64


def without_atheris() -> str | None:
    """The reason why nothing can be fuzzed here, or None."""
    if importlib.util.find_spec("atheris") is None:
        return "atheris is not installed (it has wheels for x86-64 only); script/setup installs it"
    return None


def fuzz(name: str) -> tuple[int, str]:
    """Fuzz one target; the exit code and what was said."""
    for seconds in SECONDS:
        code, output = fuzz_for(name, seconds)
        done = RUNS.search(output)
        if code or done is None or int(done[1]) > ENOUGH:
            break
    with contextlib.suppress(OSError):
        (HERE / "regressions" / name).rmdir()  # only if nothing was found, ever
    return code, output


def fuzz_for(name: str, seconds: int) -> tuple[int, str]:
    """The same, once."""
    with TemporaryDirectory(prefix="bzzz-fuzz-") as directory:
        done = subprocess.run(
            [
                sys.executable,
                *("-m", "tests.fuzz", name, f"--seconds={seconds}", f"--keep={directory}"),
            ],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=LIMIT,
            check=False,
        )
    return done.returncode, done.stdout


def inputs(directory: Path) -> list[tuple[str, bytes]]:
    """The inputs kept for each target."""
    return [(path.parent.name, path.read_bytes()) for path in sorted(directory.glob("*/*"))]


@needs(without_atheris())
class FuzzTests(SynchronousTestCase):
    """No exception but the protocol errors, and no memory without end."""

    runs: ClassVar[dict[str, Future[tuple[int, str]]]] = {}

    def check(self, name: str) -> None:
        """Wait for the target's run, which was started with the first."""
        if not self.runs:
            pool = ThreadPoolExecutor(AT_ONCE)
            self.runs.update({name: pool.submit(fuzz, name) for name in TARGETS})
            pool.shutdown(wait=False)
        code, output = self.runs[name].result()
        tail = "\n".join(output.splitlines()[-40:])
        self.assertEqual(code, 0, f"{name}; the input is in tests/fuzz/regressions:\n{tail}")
        figures = [found[1] for found in (MEMORY.search(output), PEAK.search(output)) if found]
        self.assertEqual(len(figures), 2, tail)
        before, peak = map(int, figures)
        self.assertLess(peak - before, GROWTH, f"MiB more than the {before} before\n{tail}")
        done = RUNS.search(output)
        assert done is not None, tail
        self.assertGreater(int(done[1]), ENOUGH, "so few inputs test nothing")


def _add(name: str) -> None:
    def test(self: FuzzTests) -> None:
        self.check(name)

    test.__doc__ = f"Nothing that the fuzzer tries does harm to {name}."
    setattr(FuzzTests, f"test_{name}", test)


for _name in TARGETS:
    _add(_name)


class ReplayTests(SynchronousTestCase):
    """The same functions on inputs that are kept, without a fuzzer."""

    def test_seeds(self) -> None:
        """Each target takes its own seeds."""
        kept = inputs(HERE / "corpus")
        self.assertEqual({name for name, _ in kept}, set(TARGETS))
        for name, data in kept:
            TARGETS[name](data)

    def test_every_seed_is_of_a_target(self) -> None:
        """No target is without seeds, and none of them is of a target that is gone."""
        self.assertEqual(set(seeds.seeds()), set(TARGETS))

    def test_regressions(self) -> None:
        """What once did harm does none."""
        for name, data in inputs(HERE / "regressions"):
            TARGETS[name](data)
