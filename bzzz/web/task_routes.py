"""The control API of tasks: what becomes of them, wherever they run.

Enters: requests of the control socket. Leaves: what is known of tasks, changes of them, and lines
that tell of them. How they are submitted is in :mod:`bzzz.web.submit_routes`. docs/tasks.rst.

=============================== ==================================================================
GET /v1/tasks                   ``{"tasks": [TaskInfo], "workflows": [WorkflowSummary], "more",
                                "next", "asked", "answered", "unreadable"}``, the newest first;
                                ``unreadable`` has the IDs of tasks that are kept and cannot be
                                read. ``?limit=`` of both together, ``?before=`` an ID, such as
                                ``next`` of the page before, ``?since=`` an ID, ``?open=1`` those
                                alone that have not ended
GET /v1/tasks/<task>            :class:`~bzzz.web.task_schema.TaskInfo`
POST /v1/tasks/<task>/cancel    ``TaskInfo``; it may have to wait for its worker
POST /v1/tasks/<task>/retry     ``TaskInfo``: begins anew one that has ended
POST /v1/tasks/<task>/output    ``{"follow"?}``, answered by lines
=============================== ==================================================================

A task is its ID, or the beginning or the end of one that this node keeps. The lines, also of
:mod:`bzzz.web.submit_routes`:

============== ===================================================================================
``id``         ``task``: its ID; who loses the connection then can ask for it
``copying``    ``to``, ``done``, ``total``: bytes of its inputs that another of its nodes has, of
               all. Who hangs up by then has not submitted it
``kept``       ``replicas``: names of the nodes that keep it; it is durable. Not of one whose output
               is asked for
``waiting``    ``why``
``running``    ``worker``, ``worker_name``, ``token``, ``begun``: attempts before it, without those
               that were refused
``stdout``     ``data``: part of the current attempt's output, in base64
``stderr``     likewise
``ended``      ``task``: TaskInfo, the last line
============== ===================================================================================

The first lines of a task that is followed come together, within 0.02 s or at its end. Who hangs up
later ends the telling, and not the task. Errors have the codes:

===================== ============================================================================
``bad_requirement``   the expression is none; tells where
``bad_profile``       there is no sandbox of that name
``unplaceable``       no node could run it even with nothing else to do; tells what each lacks
``not_submitted``     it was not submitted, for the reason that is told
``unknown``           it is not known whether it was: ask for the ID
``no_such_task``      nobody who can be asked has it
``ambiguous_task``    several begin or end so
``is_workflow``       it is a workflow, see :mod:`bzzz.web.workflow_routes`
``not_ended``         it has not ended, so that it cannot begin anew
===================== ============================================================================
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from twisted.web.iweb import IRequest

from bzzz.tasks.messages import MAX_LISTED, Listing
from bzzz.tasks.service import TaskService
from bzzz.tasks.submission import ALPHABET
from bzzz.web.credentials import Credentials
from bzzz.web.listing import list_page
from bzzz.web.requests import Body, Refusal, argument
from bzzz.web.routes import RouteTable
from bzzz.web.stream import LineStream
from bzzz.web.task_finding import TaskFinding
from bzzz.web.task_lines import TaskLines
from bzzz.web.task_schema import TaskInfo, task_info
from bzzz.web.workflow_schema import workflow_summary

__all__ = ["TaskRoutes"]

# Tasks of one listing, where nobody says how many.
LISTED: Final = 100

_BEGINNING: Final = re.compile(rf"[{ALPHABET}]{{0,26}}")


class Output(Body, frozen=True):
    """What ``POST /v1/tasks/<task>/output`` takes."""

    follow: bool = False


class TaskRoutes:
    """The routes.

    :param name_of: what the member with a peer ID is called.
    """

    def __init__(
        self,
        service: TaskService,
        finding: TaskFinding,
        lines: TaskLines,
        name_of: Callable[[str], str],
    ) -> None:
        self._service = service
        self._finding = finding
        self._lines = lines
        self._name_of = name_of

    def add_to(self, table: RouteTable) -> None:
        """Put the routes into the table."""
        table.get("/v1/tasks", self.tasks)
        table.get("/v1/tasks/<task>", self.task)
        table.post("/v1/tasks/<task>/cancel", self.cancel)
        table.post("/v1/tasks/<task>/retry", self.retry)
        table.stream("/v1/tasks/<task>/output", self.output, Output)

    async def tasks(self, request: IRequest) -> dict[str, object]:
        limit = argument(request, b"limit") or str(LISTED)
        if re.fullmatch(r"[0-9]{1,4}", limit) is None or not 1 <= int(limit) <= MAX_LISTED:
            raise Refusal(400, "bad_argument", f"limit={limit} is not from 1 to {MAX_LISTED}")
        listing = Listing(
            before=_id_or_beginning(request, b"before"),
            since=_id_or_beginning(request, b"since"),
            ended=argument(request, b"open") not in {"1", "true", "yes"},
            most=int(limit),
        )
        page = await list_page(self._service, listing)
        return {
            "tasks": [task_info(record, self._name_of) for record in page.tasks],
            "workflows": [workflow_summary(each, self._name_of) for each in page.workflows],
            "more": page.more,
            "next": page.following,
            "asked": page.asked,
            "answered": page.answered,
            "unreadable": page.unreadable,
        }

    async def task(self, request: IRequest, task: str) -> TaskInfo:
        return task_info(await self._finding.find(task), self._name_of)

    async def cancel(self, by: Credentials, task: str) -> TaskInfo:
        record = await self._finding.find(task)
        return task_info(await self._service.cancel(record), self._name_of)

    async def retry(self, by: Credentials, task: str) -> TaskInfo:
        record = await self._finding.find(task)
        if not record.has_ended:
            raise Refusal(409, "not_ended", f"task {record.task} has not ended")
        return task_info(await self._service.retry(record), self._name_of)

    async def output(self, lines: LineStream, by: Credentials, body: Output, task: str) -> None:
        record = await self._finding.find(task)
        if body.follow or record.has_ended:
            await self._lines.follow(lines, record)
        else:
            await self._lines.output(lines, record)


def _id_or_beginning(request: IRequest, name: bytes) -> str:
    """An argument that is an ID, or the beginning of one.

    :raises Refusal: it is none: members would take the question for an offence.
    """
    text = argument(request, name) or ""
    if _BEGINNING.fullmatch(text.upper()) is None:
        raise Refusal(400, "bad_argument", f"{name.decode()}={text} is no task's ID")
    return text.upper()
