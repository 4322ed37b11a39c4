"""What a check of ``bzzz doctor`` found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["Finding", "Verdict"]

Verdict = Literal["ok", "warning", "error", "unknown"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the answer.

    :ivar check: what was looked at, in one word.
    :ivar status: ``unknown`` where it cannot be told, mostly for lack of permission.
    :ivar mend: what to do about it, or the command that tells more.
    """

    check: str
    status: Verdict
    what: str
    mend: str | None = None
