"""Asks PyPI which versions of ``requirements/`` have known vulnerabilities.

    python -m tests.audit

pip-audit does it, in an environment of its own that is removed again: it is no part of what runs
or tests Bzzz. The exit code is 0 if no vulnerability is known of any version, 1 if one is, and 75
if it cannot be told, of all or of some, because the index or the service is not reached or knows
nothing of them: pip-audit itself calls that a success.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import venv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

__all__ = ["CANNOT_TELL", "judge", "main"]

ROOT = Path(__file__).resolve().parent.parent
REQUIREMENTS = ("requirements/run.txt", "requirements/dev.txt")

# EX_TEMPFAIL of sysexits.h.
CANNOT_TELL = 75

# Seconds for each of the two steps, which take 20 and 10 where the index is near.
LIMIT = 150.0


class Untold(Exception):
    """It cannot be told; says why."""


def run(*command: str | Path) -> str:
    """Run a command; returns the last line that it said."""
    try:
        done = subprocess.run(
            command,
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=LIMIT,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise Untold(f"{Path(command[0]).name} did not end within {LIMIT:g} s") from None
    return (done.stdout.strip() or "nothing").splitlines()[-1]


def report(directory: Path) -> list[dict[str, Any]]:
    """What pip-audit says of each package.

    :raises Untold: it cannot be had, or the service not be reached.
    """
    venv.create(directory / "venv", with_pip=True)
    tools = directory / "venv" / "bin"
    said = run(tools / "pip", "install", "--quiet", "--disable-pip-version-check", "pip-audit")
    if not (tools / "pip-audit").exists():
        raise Untold(f"pip-audit cannot be had: {said}")
    found = directory / "found.json"
    # Without --disable-pip it would install what it asks about. The versions are all there.
    options = ["--require-hashes", "--disable-pip", "--timeout=10", "--progress-spinner=off"]
    options += [f"--requirement={path}" for path in REQUIREMENTS]
    said = run(tools / "pip-audit", *options, "--format=json", f"--output={found}")
    try:
        packages: list[dict[str, Any]] = json.loads(found.read_text("utf-8"))["dependencies"]
    except (OSError, ValueError):
        raise Untold(f"the service is not reached: {said}") from None
    return packages


def judge(packages: Sequence[dict[str, Any]]) -> tuple[int, list[str]]:
    """The exit code, and what to say of these packages."""
    lines = [
        f"{each['name']} {each['version']}: {one['id']}, mended in "
        + (", ".join(one["fix_versions"]) or "no version yet")
        for each in packages
        for one in each.get("vulns", ())
    ]
    unknown = [each["name"] for each in packages if "skip_reason" in each]
    if unknown or not packages:
        some = f", such as {', '.join(unknown[:3])}" if unknown else ""
        lines.append(
            f"not audited: the service tells nothing of {len(unknown)} of {len(packages)}"
            f" packages{some}"
        )
    if any("vulns" in each and each["vulns"] for each in packages):
        return 1, lines
    if unknown or not packages:
        return CANNOT_TELL, lines
    return 0, [f"{len(packages)} packages, and no known vulnerability"]


def main() -> int:
    """Ask, and say what was found; returns the exit code."""
    with tempfile.TemporaryDirectory(prefix="bzzz-audit-") as directory:
        try:
            packages = report(Path(directory))
        except Untold as error:
            print(f"not audited: {error}")
            return CANNOT_TELL
    code, lines = judge(packages)
    print("\n".join(lines))
    return code


if __name__ == "__main__":
    sys.exit(main())
