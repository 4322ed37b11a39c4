"""What is said of the steps of a workflow whose tasks wait for long.

Enters: that the task of a step was submitted, or has ended. Leaves: for those that have not run a
while later, a line with the reason, once; in a thread of its own, as in :mod:`bzzz.cli.silence`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from bzzz.cli import silence
from bzzz.cli.client import NodeError, NoNode

__all__ = ["WaitingSteps"]

# Steps of which the reason is told at once.
MAX_TOLD = 3


class WaitingSteps:
    """Watches steps.

    :param ask: what the node says of the workflow's steps, see
        :class:`bzzz.web.workflow_why.StepWhy`; raises NoNode or NodeError.
    :param say: says a line.
    :param more: how to see those that are not told.
    """

    def __init__(
        self,
        ask: Callable[[], Iterable[Mapping[str, Any]]],
        say: Callable[[str], object],
        more: Callable[[], str],
        now: Callable[[], float] = time.monotonic,
        timer: Callable[..., threading.Timer] = threading.Timer,
    ) -> None:
        self._ask = ask
        self._say = say
        self._more = more
        self._now = now
        self._make_timer = timer
        self._timer: threading.Timer | None = None
        self._since: dict[str, float] = {}
        self._lock = threading.Lock()

    def begin(self, label: str) -> None:
        """The task of a step was submitted."""
        with self._lock:
            self._since[label] = self._now()
            self._arm()

    def end(self, label: str) -> None:
        """It is over."""
        with self._lock:
            self._since.pop(label, None)

    def stop(self) -> None:
        """Say nothing more."""
        with self._lock:
            self._since.clear()
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

    def _arm(self) -> None:
        if self._timer is None and self._since:
            first = min(self._since.values())
            self._timer = self._make_timer(
                max(0.0, first + silence.SECONDS - self._now()), self._look
            )
            self._timer.daemon = True
            self._timer.start()

    def _look(self) -> None:
        with self._lock:
            self._timer = None
            begun = self._now() - silence.SECONDS
            due = {label for label, since in self._since.items() if since <= begun}
            for label in due:
                del self._since[label]
            self._arm()
        if due:
            self._tell(due)

    def _tell(self, due: set[str]) -> None:
        try:
            steps = self._ask()
        except (NoNode, NodeError):
            # Whoever follows the workflow hears of it.
            return
        waiting = [
            step for step in steps if step["label"] in due and step["task_state"] == "waiting"
        ]
        for step in waiting[:MAX_TOLD]:
            why = step["why"] or f"see bzzz why {step['task']}"
            self._say(f"{step['label']} waits: {why}")
        left = len(waiting) - MAX_TOLD
        if left > 0:
            self._say(f"{left} more step{' waits' if left == 1 else 's wait'}: {self._more()}")
