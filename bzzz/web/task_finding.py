"""Which task or workflow somebody means.

Enters: what somebody typed: an ID, or the beginning or the end of one that this node keeps. Leaves:
its newest record, or a refusal.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from bzzz.tasks.finding import NoSuchTask
from bzzz.tasks.messages import MAX_LISTED, Listing
from bzzz.tasks.service import TaskService
from bzzz.tasks.submission import TASK
from bzzz.tasks.value import TaskRecord, decode_record
from bzzz.tasks.workflows.record import WorkflowRecord, is_workflow, read_outline
from bzzz.web.requests import Refusal

__all__ = ["TaskFinding"]


class _Meant(NamedTuple):
    """What somebody may mean."""

    id: str
    is_workflow: bool


class TaskFinding:
    """Finds tasks and workflows."""

    def __init__(self, service: TaskService) -> None:
        self._service = service

    async def find(self, text: str) -> TaskRecord:
        """The task that somebody means.

        :raises Refusal: there is none, or there are several, or it is a workflow.
        """
        meant = await self._meant(text)
        if meant.is_workflow:
            raise _is_workflow(meant.id)
        try:
            return await self._service.find(meant.id)
        except NoSuchTask as error:
            if await self._service.find_workflow(meant.id) is not None:
                raise _is_workflow(meant.id) from None
            raise Refusal(404, "no_such_task", str(error)) from None

    async def find_workflow(self, text: str) -> WorkflowRecord:
        """The workflow that somebody means.

        :raises Refusal: there is none, or there are several.
        """
        meant = await self._meant(text)
        found = await self._service.find_workflow(meant.id)
        if found is None:
            raise Refusal(
                404,
                "no_such_task",
                f"there is no workflow {meant.id}, or those who keep it cannot be reached",
            )
        return found

    async def _meant(self, text: str) -> _Meant:
        """What somebody means, as far as this node can tell without asking others.

        :raises Refusal: a part of an ID is of none, or of several.
        """
        wanted = text.upper()
        if TASK.fullmatch(wanted):
            return _Meant(wanted, is_workflow=False)
        found = [] if not wanted else await self._kept_here(wanted)
        if len(found) > 1:
            some = ", ".join(each.id for each in found[:3])
            raise Refusal(409, "ambiguous_task", f"'{text}' may be any of {some}; give more of it")
        if not found:
            raise Refusal(
                404,
                "no_such_task",
                f"no task that this node keeps begins or ends with '{text}'; of others, give the"
                " whole ID: bzzz tasks lists them",
            )
        return found[0]

    async def _kept_here(self, text: str) -> Sequence[_Meant]:
        """What this node keeps that begins or ends so; some, where there are several."""
        found: list[_Meant] = []
        before = ""
        while len(found) < 2:
            listed = await self._service.list_here(Listing(before=before, most=MAX_LISTED))
            for value in listed.records:
                each = _id_in(value)
                before = each.id
                if before.startswith(text) or before.endswith(text):
                    found.append(each)
            if not listed.more:
                break
        return found


def _is_workflow(workflow: str) -> Refusal:
    return Refusal(
        409,
        "is_workflow",
        f"{workflow} is a workflow, and no task. Its steps, and the tasks of these: bzzz task"
        f" {workflow}",
    )


def _id_in(value: bytes) -> _Meant:
    if is_workflow(value):
        return _Meant(read_outline(value).workflow, is_workflow=True)
    return _Meant(decode_record(value).task, is_workflow=False)
