"""What keeps a task's inputs at its origin while somebody may ask for them.

Enters: records of tasks as they change, and those that are on disk at the start. Leaves: pins in
the cache. docs/tasks.rst, "Files".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from twisted.internet.defer import Deferred

from bzzz.tasks.value import TaskRecord

__all__ = ["InputPins", "Pins"]


class Pins(Protocol):
    """Files that stay; :class:`bzzz.tasks.files.files.Files` is one."""

    def pin(self, digest: str) -> Deferred[None]:
        """Have what a manifest names stay."""

    def unpin(self, digest: str) -> None:
        """Take back one pin."""


class InputPins:
    """The inputs of tasks that have not ended.

    :param own: this node's peer ID.
    """

    def __init__(self, files: Pins, own: str) -> None:
        self._files = files
        self._own = own
        self._pinned: dict[str, Sequence[str]] = {}

    def changed(self, record: TaskRecord, settled: bool) -> None:
        """See :meth:`bzzz.tasks.service.TaskService.on_change`."""
        submission = record.submission
        if not record.has_ended:
            if submission.origin == self._own and record.task not in self._pinned:
                digests = [each.digest for each in submission.inputs]
                if digests:
                    self._pinned[record.task] = digests
                for digest in digests:
                    # It does not fail: an error is logged, and the worker will say what is missing.
                    self._files.pin(digest)
        elif settled:
            for digest in self._pinned.pop(record.task, ()):
                self._files.unpin(digest)
