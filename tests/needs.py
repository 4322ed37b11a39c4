"""What a test needs of the machine, and what becomes of it where that is missing.

A developer's machine may lack Node or root; there the tests that need it are skipped and say why.
Where everything has to be run (CI sets ``STRICT_TESTS``) a missing tool fails the test.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from twisted.trial.unittest import SynchronousTestCase

__all__ = ["STRICT", "find_tool", "needs", "without_files", "without_root", "without_tools"]

STRICT = bool(os.environ.get("STRICT_TESTS"))

Case = TypeVar("Case", bound=type[SynchronousTestCase])


def find_tool(name: str) -> str | None:
    """Where a program is, also one that is only on root's path."""
    return shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin")


def without_tools(*names: str) -> str | None:
    """The reason why these programs cannot be used, or None."""
    missing = [name for name in names if find_tool(name) is None]
    return f"{', '.join(missing)} not found; script/setup installs it" if missing else None


def without_root() -> str | None:
    """The reason why network namespaces cannot be made, or None."""
    return None if os.geteuid() == 0 else "network namespaces can be made by root only"


def without_files(*paths: Path) -> str | None:
    """The reason why these files cannot be used, or None."""
    missing = [path.name for path in paths if not path.exists()]
    return f"{', '.join(missing)} is not there; script/setup installs it" if missing else None


def needs(*missing: str | None) -> Callable[[Case], Case]:
    """Skip a test case, or fail it where everything has to be run, for the first reason given."""
    reason = next((reason for reason in missing if reason), None)

    def decorate(case: Case) -> Case:
        if reason is None:
            return case
        if not STRICT:
            case.skip = reason  # read by trial
            return case

        def refuse(self: Any) -> None:
            self.fail(f"this must not be skipped here: {reason}")

        case.setUp = refuse  # type: ignore[method-assign]
        return case

    return decorate
