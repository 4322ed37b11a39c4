"""The tasks and workflows that this node keeps: read, listed, and forgotten when they are old.

Enters: IDs and pages. Leaves: their newest records here, wherever they are. docs/tasks.rst, "How
long things are kept".
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from twisted.logger import Logger

from bzzz.errors import RemoteProtocolError
from bzzz.tasks import submission as submissions
from bzzz.tasks.ballots import RESERVED
from bzzz.tasks.finding import NoSuchTask
from bzzz.tasks.messages import MAX_LISTED, MAX_MESSAGE, Found, Listed, Listing
from bzzz.tasks.register_store import RegisterStore, Row
from bzzz.tasks.value import TaskRecord, decode_record, encode_record
from bzzz.tasks.workflows.record import WorkflowRecord, decode_workflow, is_workflow

__all__ = ["KEEP", "MAX_ENDED", "KeptRecords", "found"]

# Seconds for which ended tasks are kept, and how many at most; so many are removed at once.
KEEP: Final = 7 * 86400.0
MAX_ENDED: Final = 100_000
FORGOTTEN_AT_ONCE: Final = 500

# Bytes of the records of one page: a message, without what it has beside them, which is the IDs of
# as many others as may be named.
MAX_PAGE: Final = MAX_MESSAGE - MAX_LISTED * 28 - 1000

# Records that cannot be read of which the log has a line; beyond, the disk as a whole is damaged.
MAX_TOLD: Final = 1000


class KeptRecords:
    """What one replica has.

    :param wall_time: seconds since the epoch.
    :param known: the newest record of a task that is driven here.
    :param known_workflow: the same of a workflow.
    """

    _log = Logger()

    def __init__(
        self,
        store: RegisterStore,
        wall_time: Callable[[], float],
        known: Callable[[str], TaskRecord | None],
        known_workflow: Callable[[str], WorkflowRecord | None],
    ) -> None:
        self._store = store
        self._wall_time = wall_time
        self._known = known
        self._known_workflow = known_workflow
        self._unreadable: set[str] = set()

    async def task(self, task: str) -> TaskRecord | None:
        """The newest record of a task that this node has.

        :raises DatabaseError: it cannot be read.
        """
        known = self._known(task)
        if known is not None:
            return known
        kept = await self._store.read(task)
        if kept is None or kept.accepted is None or is_workflow(kept.value):
            return None
        return decode_record(kept.value, kept.accepted)

    async def required(self, task: str) -> TaskRecord:
        """The same of one that it must have.

        :raises NoSuchTask: it has not.
        """
        record = await self.task(task)
        if record is None:
            raise NoSuchTask(f"task {task} is not kept here")
        return record

    async def workflow(self, workflow: str) -> WorkflowRecord | None:
        """The newest record of a workflow that this node has.

        :raises DatabaseError: it cannot be read.
        """
        known = self._known_workflow(workflow)
        if known is not None:
            return known
        kept = await self._store.read(workflow)
        if kept is None or not is_workflow(kept.value):
            return None
        return decode_workflow(kept.value, kept.accepted or RESERVED)

    async def find(self, task: str) -> Found:
        """Either of them, for a member that asks.

        :raises DatabaseError: it cannot be read.
        """
        kept = await self._store.read(task)
        if kept is not None and is_workflow(kept.value):
            return Found(kept.value)
        return found(await self.task(task))

    async def page(self, listing: Listing) -> Listed:
        """A page of all, without those that cannot be read, which are named.

        :raises DatabaseError: nothing can be read.
        """
        before = listing.before
        unreadable: list[str] = []
        while True:
            rows = await self._store.page(before, listing.since, listing.ended, listing.most + 1)
            values: list[bytes] = []
            size, seen = 0, 0
            for row in rows[: listing.most]:
                if row.value is None:
                    self._tell_unreadable(row)
                    unreadable.append(row.task)
                else:
                    size += len(row.value) + 10
                    if size > MAX_PAGE:
                        break
                    values.append(row.value)
                seen += 1
            more = len(rows) > seen
            if values or not more:
                return Listed(tuple(values), more, tuple(unreadable[:MAX_LISTED]))
            # Who asks goes on from the last one that it can read.
            before = rows[seen - 1].task

    def _tell_unreadable(self, row: Row) -> None:
        """Log it, once."""
        if row.task in self._unreadable or len(self._unreadable) >= MAX_TOLD:
            return
        self._unreadable.add(row.task)
        self._log.warn(
            "The record of {task} cannot be read, so no listing has it: {error}",
            task=row.task,
            error=row.error,
        )

    async def forget(self) -> int:
        """Forget tasks that ended long ago; how many were.

        :raises DatabaseError: they cannot be removed.
        """
        oldest = max(0, int((self._wall_time() - KEEP) * 1000))
        before = submissions.new_task_id(oldest, bytes(10))
        forgotten = 0
        while True:
            some = await self._store.forget(before, MAX_ENDED, FORGOTTEN_AT_ONCE)
            forgotten += some
            if some < FORGOTTEN_AT_ONCE:
                return forgotten

    def is_old(self, task: str) -> bool:
        """Whether this replica may have had a task and forgotten it."""
        return self._wall_time() - submissions.submitted_at(task) > KEEP

    async def check_age(self, task: str) -> None:
        """Refuse a task that this replica may have had and forgotten: it must not begin anew.

        :raises RemoteProtocolError: it is so old, and not here.
        """
        if self.is_old(task) and await self._store.read(task) is None:
            raise RemoteProtocolError(f"task {task} may be one that was forgotten", "forgotten")


def found(record: TaskRecord | None) -> Found:
    """What a member is told that has asked for a record."""
    return Found(None if record is None else encode_record(record.signed, record.state))
