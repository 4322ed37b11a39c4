"""Which task somebody means.

Enters: what somebody typed: an ID, or the beginning or the end of one that this node keeps. Leaves:
the task's newest record, or a refusal.
"""

from __future__ import annotations

from collections.abc import Sequence

from bzzz.tasks.finding import NoSuchTask
from bzzz.tasks.messages import MAX_LISTED, Listing
from bzzz.tasks.service import TaskService
from bzzz.tasks.submission import TASK
from bzzz.tasks.value import TaskRecord, decode_record
from bzzz.tasks.workflows.record import decode_workflow, is_workflow
from bzzz.web.requests import Refusal

__all__ = ["TaskFinding"]


class TaskFinding:
    """Finds tasks."""

    def __init__(self, service: TaskService) -> None:
        self._service = service

    async def find(self, text: str) -> TaskRecord:
        """The task that somebody means.

        :raises Refusal: there is none, or there are several.
        """
        wanted = text.upper()
        if TASK.fullmatch(wanted):
            try:
                return await self._service.find(wanted)
            except NoSuchTask as error:
                raise Refusal(404, "no_such_task", str(error)) from None
        found = [] if not wanted else await self._kept_here(wanted)
        if len(found) > 1:
            some = ", ".join(found[:3])
            raise Refusal(409, "ambiguous_task", f"'{text}' may be any of {some}; give more of it")
        if not found:
            raise Refusal(
                404,
                "no_such_task",
                f"no task that this node keeps begins or ends with '{text}'; of others, give the"
                " whole ID: bzzz tasks lists them",
            )
        return await self._service.find(found[0])

    async def _kept_here(self, text: str) -> Sequence[str]:
        """Tasks that this node keeps and that begin or end so; some, where there are several."""
        found: list[str] = []
        before = ""
        while len(found) < 2:
            listed = await self._service.list_here(Listing(before=before, most=MAX_LISTED))
            for value in listed.records:
                before = _id_in(value)
                if before.startswith(text) or before.endswith(text):
                    found += [] if is_workflow(value) else [before]
            if not listed.more:
                break
        return found


def _id_in(value: bytes) -> str:
    return decode_workflow(value).workflow if is_workflow(value) else decode_record(value).task
