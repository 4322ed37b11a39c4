"""The control API of workflows. docs/tasks.rst, "Workflows".

Enters: requests of the control socket. Leaves: workflows, and lines that tell of them.

================================ =================================================================
POST /v1/workflows               ``{"file", "text", "files"?, "follow"?}``: a workflow's file, its
                                 name for messages, and the manifests of the files that its steps
                                 take; answered by lines
GET /v1/workflows/<id>           :class:`~bzzz.web.workflow_schema.WorkflowInfo`
GET /v1/workflows/<id>/why       ``{"workflow": WorkflowInfo, "steps": [StepWhy]}``, see
                                 :class:`~bzzz.web.workflow_why.StepWhy`, of those that are not
                                 over or have failed
POST /v1/workflows/<id>/cancel   ``WorkflowInfo``; the second time it ends those steps, too, that
                                 run always
POST /v1/workflows/<id>/retry    likewise: begins anew what did not succeed
POST /v1/workflows/<id>/follow   answered by lines
================================ =================================================================

A workflow is its ID, or the beginning or the end of one that this node keeps. The lines:

============== ===================================================================================
``id``         ``workflow``
``kept``       ``replicas``: names of the nodes that keep it
``step``       ``label``, ``state``, ``task``: of an instance that changed
``ended``      ``workflow``: WorkflowInfo, the last line
============== ===================================================================================

Errors have the codes of :mod:`bzzz.web.task_routes`, and ``bad_workflow``: the message has a line
for each mistake.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import msgspec
from twisted.internet.defer import Deferred, DeferredQueue, TimeoutError
from twisted.internet.interfaces import IReactorTime
from twisted.web.iweb import IRequest

from bzzz.tasks.messages import Cancel, Retry
from bzzz.tasks.registers import NoMajority
from bzzz.tasks.requirements import RequirementError
from bzzz.tasks.requirements import compile as compile_requirement
from bzzz.tasks.service import TaskService
from bzzz.tasks.submission import Input, SubmissionError
from bzzz.tasks.workflows import plan as plans
from bzzz.tasks.workflows.file import Checks, WorkflowFileError, parse
from bzzz.tasks.workflows.progress import result
from bzzz.tasks.workflows.record import WorkflowRecord
from bzzz.web.credentials import Credentials
from bzzz.web.requests import Body, Refusal
from bzzz.web.routes import RouteTable
from bzzz.web.stream import LineStream
from bzzz.web.submitting import wrong_profile
from bzzz.web.task_finding import TaskFinding
from bzzz.web.workflow_schema import StepInfo, WorkflowInfo, step_infos, workflow_info
from bzzz.web.workflow_why import WorkflowWhy

__all__ = ["WorkflowRoutes"]

# Seconds between two looks at a workflow that this node does not keep, or was not told of.
POLL: Final = 1.0


class Submit(Body, frozen=True):
    """What ``POST /v1/workflows`` takes."""

    file: str
    text: str
    files: tuple[Input, ...] = ()
    follow: bool = True


class WorkflowRoutes:
    """The routes.

    :param reasons: why steps are where they are.
    :param find_node: the peer ID of a member that somebody means; raises Refusal.
    :param name_of: what the member with a peer ID is called.
    """

    def __init__(
        self,
        clock: IReactorTime,
        service: TaskService,
        finding: TaskFinding,
        reasons: WorkflowWhy,
        in_thread: Callable[[Callable[[], Any]], Deferred[Any]],
        find_node: Callable[[str], str],
        name_of: Callable[[str], str],
    ) -> None:
        self._clock = clock
        self._service = service
        self._finding = finding
        self._reasons = reasons
        self._in_thread = in_thread
        self._find_node = find_node
        self._name_of = name_of

    def add_to(self, table: RouteTable) -> None:
        """Put the routes into the table."""
        table.stream("/v1/workflows", self.submit, Submit)
        table.get("/v1/workflows/<workflow>", self.workflow)
        table.get("/v1/workflows/<workflow>/why", self.why)
        table.post("/v1/workflows/<workflow>/cancel", self.cancel)
        table.post("/v1/workflows/<workflow>/retry", self.retry)
        table.stream("/v1/workflows/<workflow>/follow", self.follow)

    async def submit(self, lines: LineStream, by: Credentials, body: Submit) -> None:
        plan = await self._plan(body)
        user = await by.user_name()
        try:
            record = await self._service.submit_workflow(plan, user, body.files)
        except SubmissionError as error:
            raise Refusal(400, "not_submitted", str(error)) from None
        except NoMajority as error:
            raise Refusal(
                503, "unknown", f"it is not known whether the workflow was submitted: {error}"
            ) from None
        lines.send({"event": "id", "workflow": record.workflow})
        replicas = [self._name_of(each) for each in record.submission.replicas]
        lines.send({"event": "kept", "replicas": replicas})
        if body.follow:
            await self._follow(lines, record)

    async def workflow(self, request: IRequest, workflow: str) -> WorkflowInfo:
        return workflow_info(await self._finding.find_workflow(workflow), self._name_of)

    async def why(self, request: IRequest, workflow: str) -> dict[str, object]:
        record = await self._finding.find_workflow(workflow)
        return {
            "workflow": workflow_info(record, self._name_of),
            "steps": await self._reasons.steps(record),
        }

    async def cancel(self, by: Credentials, workflow: str) -> WorkflowInfo:
        record = await self._finding.find_workflow(workflow)
        await self._service.change_workflow(record, Cancel(record.workflow))
        return workflow_info(await self._finding.find_workflow(workflow), self._name_of)

    async def retry(self, by: Credentials, workflow: str) -> WorkflowInfo:
        record = await self._finding.find_workflow(workflow)
        if result(record.progress) is None:
            raise Refusal(409, "not_ended", f"workflow {record.workflow} has not ended")
        await self._service.change_workflow(record, Retry(record.workflow, record.progress.round))
        return workflow_info(await self._finding.find_workflow(workflow), self._name_of)

    async def follow(self, lines: LineStream, by: Credentials, workflow: str) -> None:
        await self._follow(lines, await self._finding.find_workflow(workflow))

    # -- inside

    async def _plan(self, body: Submit) -> bytes:
        """Read a workflow's file, with its mistakes told.

        :raises Refusal: it has some.
        """
        checks = Checks(where=_wrong_requirement, on=self._wrong_node, profile=wrong_profile)

        def work() -> bytes:
            workflow = parse(body.text.encode(), body.file, checks)
            return plans.encode(msgspec.structs.replace(workflow, files=body.files))

        try:
            plan: bytes = await self._in_thread(work)
        except (WorkflowFileError, plans.WorkflowError) as error:
            raise Refusal(400, "bad_workflow", str(error)) from None
        return plan

    def _wrong_node(self, name: str) -> str | None:
        try:
            self._find_node(name)
        except Refusal as refusal:
            return str(refusal)
        return None

    async def _follow(self, lines: LineStream, record: WorkflowRecord) -> None:
        news: DeferredQueue[WorkflowRecord] = DeferredQueue()
        end = self._service.watch_workflow(record.workflow, news.put)
        told: dict[int, StepInfo] = {}
        try:
            last = await self._finding.find_workflow(record.workflow)
            while True:
                for place, step in enumerate(step_infos(last)):
                    if told.get(place) != step and step.state != "waiting":
                        told[place] = step
                        line = {"label": step.label, "state": step.state, "task": step.task}
                        lines.send({"event": "step", **line})
                await lines.ready()
                if result(last.progress) is not None:
                    lines.send({"event": "ended", "workflow": workflow_info(last, self._name_of)})
                    await lines.ready()
                    return
                waiting = news.get()
                waiting.addTimeout(POLL, self._clock)
                try:
                    last = await waiting
                except TimeoutError:
                    last = await self._finding.find_workflow(record.workflow)
        finally:
            end()


def _wrong_requirement(expression: str) -> str | None:
    try:
        compile_requirement(expression)
    except RequirementError as error:
        return str(error)
    return None
