"""How often something may be written to the log at info or above.

Enters: what a line is about. Leaves: whether it may be written now. So many lines at once, and one
more each so many seconds: what peers say and do must not decide how fast the log grows.
"""

from __future__ import annotations

from bzzz.net.interfaces import Clock

__all__ = ["LINES", "LINES_APART", "LineLimit"]

# Lines at once about one subject, and seconds until there may be one more.
LINES = 5
LINES_APART = 1.0

# Subjects that are remembered; about those forgotten there may be lines again.
MAX_SUBJECTS = 8192


class LineLimit:
    """A token bucket for each subject."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        # What may still be written about each, and when that was so; the longest ago comes first.
        self._subjects: dict[object, tuple[float, float]] = {}

    def __len__(self) -> int:
        return len(self._subjects)

    def allows(self, about: object) -> bool:
        """Whether one more line may be written about this at this moment; it counts as written."""
        now = self._clock.seconds()
        left, then = self._subjects.pop(about, (float(LINES), now))
        left = min(float(LINES), left + (now - then) / LINES_APART)
        if len(self._subjects) >= MAX_SUBJECTS:
            del self._subjects[next(iter(self._subjects))]
        self._subjects[about] = (left - 1.0 if left >= 1.0 else left, now)
        return left >= 1.0
