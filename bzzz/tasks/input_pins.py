"""What keeps the files of tasks and workflows while somebody may ask for them.

Enters: records as they change, and those that are on disk at the start. Leaves: pins in the cache,
at each replica that has the files. docs/tasks.rst, "Files".
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from twisted.internet.defer import Deferred

from bzzz.tasks.value import TaskRecord
from bzzz.tasks.workflows.record import WorkflowRecord

__all__ = ["InputPins", "Pins"]


class Pins(Protocol):
    """Files that stay; :class:`bzzz.tasks.files.files.Files` is one."""

    def pin(self, digest: str) -> Deferred[None]:
        """Have what a manifest names stay, now or once it comes."""

    def unpin(self, digest: str) -> None:
        """Take back one pin."""


class InputPins:
    """The inputs of tasks that have not ended, and of workflows with what their steps have put out
    so far. Later all of that is there for as long as the cache has room."""

    def __init__(self, files: Pins) -> None:
        self._files = files
        self._pinned: dict[str, set[str]] = {}

    def changed(self, record: TaskRecord, settled: bool) -> None:
        """See :meth:`bzzz.tasks.service.TaskService.on_change`."""
        if not record.has_ended:
            if record.submission.inputs and record.task not in self._pinned:
                self._pin(record.task, (each.digest for each in record.submission.inputs))
        elif settled:
            self._pin(record.task, ())

    def workflow_changed(self, record: WorkflowRecord) -> None:
        """See :meth:`bzzz.tasks.service.TaskService.on_workflow`."""
        wanted: list[str] = []
        if not record.has_ended:
            wanted = [each.digest for each in record.plan.workflow.files]
            wanted += [entry.output for entry in record.progress.entries if entry.output]
        self._pin(record.workflow, wanted)

    def _pin(self, owner: str, digests: Iterable[str]) -> None:
        """Have these stay for a task or workflow, and no others."""
        wanted, before = set(digests), self._pinned.pop(owner, set())
        if wanted:
            self._pinned[owner] = wanted
        for digest in wanted - before:
            # It does not fail: an error is logged, and who needs it will say what is missing.
            self._files.pin(digest)
        for digest in before - wanted:
            self._files.unpin(digest)
