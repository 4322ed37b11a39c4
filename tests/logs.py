"""What is written to the log during a test."""

from __future__ import annotations

from typing import Any

from twisted.logger import LogEvent, formatEvent, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase


def lines_at(case: SynchronousTestCase, level: Any) -> list[str]:
    """A list that gets each line of this level, such as ``LogLevel.warn``, until the test ends."""
    lines: list[str] = []

    def observe(event: LogEvent) -> None:
        if event["log_level"] is level:
            lines.append(formatEvent(event))

    observer: Any = observe
    globalLogPublisher.addObserver(observer)
    case.addCleanup(globalLogPublisher.removeObserver, observer)
    return lines
