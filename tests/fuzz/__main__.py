"""Runs one target in libFuzzer.

    python -m tests.fuzz TARGET [--seconds N] [--keep DIRECTORY] [INPUT...]

With inputs it only runs those. What did harm is written to ``regressions/TARGET`` (or where
``--findings`` says), from where the tests replay it ever after.
"""

from __future__ import annotations

import argparse
import resource
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent

# What fuzzing a core may add to the process, in MiB. libFuzzer's own tables and corpus take 20 of
# them; all of what is fuzzed has smaller limits than the real thing.
GROWTH = 128

# The longest input, in bytes: above the largest limit that the targets set.
LONGEST = 16384

# One input may take so many seconds. Honest ones take microseconds.
SLOWEST = 5


def main() -> None:
    """Fuzz; ends the process."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description="Fuzz one core.")
    parser.add_argument("target")
    parser.add_argument("inputs", nargs="*", type=Path)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--seed", type=int, default=1, help="of libFuzzer's choices")
    parser.add_argument("--keep", type=Path, help="a directory for what reaches new code")
    parser.add_argument("--findings", type=Path, help="a directory for what does harm")
    arguments = parser.parse_args()

    import atheris
    from twisted.logger import globalLogBeginner

    # Until logging has begun, Twisted keeps what is logged, and all that it speaks of.
    globalLogBeginner.beginLoggingTo([], redirectStandardIO=False)
    with atheris.instrument_imports(include=["bzzz"], enable_loader_override=False):
        from tests.fuzz.targets import TARGETS
    if arguments.target not in TARGETS:
        parser.error(f"no target is called {arguments.target}; there are {', '.join(TARGETS)}")
    target = TARGETS[arguments.target]
    findings = arguments.findings or HERE / "regressions" / arguments.target
    if arguments.inputs:
        where = [str(path) for path in arguments.inputs]
    else:
        findings.mkdir(parents=True, exist_ok=True)
        keep = arguments.keep or Path(tempfile.mkdtemp(prefix="bzzz-fuzz-"))
        keep.mkdir(parents=True, exist_ok=True)
        where = [str(keep), str(HERE / "corpus" / arguments.target)]
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    options = [
        f"-max_total_time={arguments.seconds}",
        f"-seed={arguments.seed}",
        f"-max_len={LONGEST}",
        f"-timeout={SLOWEST}",
        f"-rss_limit_mb={used + GROWTH}",
        f"-artifact_prefix={findings}/",
        "-print_final_stats=1",
        "-verbosity=1",
    ]
    print(f"memory before: {used} MiB", flush=True)
    atheris.Setup([sys.argv[0], *options, *where], target)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
