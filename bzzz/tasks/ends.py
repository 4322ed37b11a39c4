"""Waiting for the ends of many tasks that this node keeps, without following each.

Enters: tasks. Leaves: the records of their ends, once those are known to be decided.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from bzzz.errors import BzzzError
from bzzz.net.periodic import Periodic
from bzzz.tasks.service import TaskService
from bzzz.tasks.value import TaskRecord

__all__ = ["Ends"]

# Seconds between two looks at what waits: an end that was settled before anybody listened is not
# told again.
LOOK: Final = 1.0


class Ends:
    """Tells of ends. To be closed."""

    _log = Logger()

    def __init__(self, clock: IReactorTime, service: TaskService) -> None:
        self._service = service
        self._waiting: dict[str, tuple[Deferred[TaskRecord], Callable[[], None]]] = {}
        self._looking = Periodic(clock, LOOK, self._look, "looking for tasks' ends", self._log)
        self._looking.start(now=False)

    def ended(self, task: str) -> Deferred[TaskRecord]:
        """Fires when a task has ended. It is best asked before the task is submitted."""
        ended: Deferred[TaskRecord] = Deferred()
        self._waiting[task] = (ended, self._service.watch(task, partial(self._told, task)))
        return ended

    def close(self) -> None:
        """Wait for nothing more."""
        self._looking.stop()
        for task in list(self._waiting):
            self.forget(task)

    def forget(self, task: str) -> None:
        """Wait for this one no more."""
        waiting = self._waiting.pop(task, None)
        if waiting is not None:
            waiting[1]()

    def _told(self, task: str, record: TaskRecord, settled: bool) -> None:
        if record.has_ended and settled and task in self._waiting:
            ended = self._waiting[task][0]
            self.forget(task)
            ended.callback(record)

    async def _look(self) -> None:
        for task in list(self._waiting):
            if self._service.driver.known(task) is not None:
                continue
            try:
                record = await self._service.here(task)
            except BzzzError:
                return
            if record is not None and self._service.driver.known(task) is None:
                self._told(task, record, settled=True)
