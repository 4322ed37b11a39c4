"""A node that is asked about tasks, and says what a test wants."""

from __future__ import annotations

import base64
import signal
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from click.testing import Result
from twisted.web.iweb import IRequest

from bzzz.web.credentials import Credentials
from bzzz.web.requests import Refusal, argument
from bzzz.web.routes import RouteTable
from bzzz.web.stream import LineStream
from bzzz.web.submitting import Wanted
from bzzz.web.task_routes import Output
from bzzz.web.workflow_routes import Submit
from tests.cli.node import CommandTests

__all__ = [
    "FLOW",
    "OTHER",
    "TASK",
    "TaskCase",
    "TaskNode",
    "info",
    "output",
    "reason",
    "step",
    "summary",
    "verdict",
    "workflow",
]

TASK = "01KAY4Q2M80000000000000001"
OTHER = "01KAY4Q2M80000000000000002"
FLOW = "01KAY4Q2M80000000000000009"


def info(task: str = TASK, state: str = "done", **fields: Any) -> dict[str, Any]:
    """What is said of a task, of walnut's, that ironwood runs or ran."""
    return {
        "id": task,
        "name": "",
        "command": ["make", "-j8", "all targets"],
        "state": state,
        "cancel": False,
        "exit_status": {"done": 0, "failed": 3}.get(state),
        "why": "",
        "submitted": "2026-11-24T01:00:00.000Z",
        "changed": "2026-11-24T01:00:01.000Z",
        "origin": "peer-walnut",
        "origin_name": "walnut",
        "submitter": "anna",
        "worker": "peer-ironwood",
        "worker_name": "ironwood",
        "token": 1,
        "attempts": [],
        "replicas": ["peer-walnut"],
        "replica_names": ["walnut", "acacia"],
        "where": "",
        "cpus": 1.0,
        "memory": 0,
        "gpus": 0,
        "timeout": 5.0,
        "retries": 0,
        "restart": True,
        "priority": 0,
        "profile": "default",
        "workflow": "",
        "step": "",
        "stdout_size": None,
        "stderr_size": None,
        "outputs": "",
        "outputs_size": 0,
        **fields,
    }


def step(label: str, state: str, task: str = "", outcome: str = "") -> dict[str, Any]:
    """One instance of a workflow's step."""
    return {
        "label": label,
        "state": state,
        "task": task,
        "outcome": outcome,
        "output": "",
        "output_size": 0,
    }


def reason(label: str, state: str, task: str = "", **fields: Any) -> dict[str, Any]:
    """Why an instance is where it is."""
    return {
        "label": label,
        "state": state,
        "task": task,
        "task_state": "",
        "worker_name": "",
        "exit_status": None,
        "why": "",
        "stderr": "",
        "nodes": [],
        **fields,
    }


def workflow(state: str, *steps: Mapping[str, Any]) -> dict[str, Any]:
    """What is said of a workflow."""
    return {
        "id": FLOW,
        "name": "build",
        "state": state,
        "submitter": "anna",
        "origin_name": "walnut",
        "submitted": "2026-11-24T01:00:00.000Z",
        "changed": "2026-11-24T01:00:01.000Z",
        "round": 0,
        "replica_names": ["walnut", "acacia"],
        "steps": list(steps),
    }


def summary(flow: Mapping[str, Any]) -> dict[str, Any]:
    """What a listing says of it."""
    names = ("id", "name", "state", "submitter", "origin_name", "submitted", "changed")
    steps = flow["steps"]
    return {
        **{name: flow[name] for name in names},
        "origin": "peer-walnut",
        "done": sum(each["state"] == "done" for each in steps),
        "steps": len(steps),
        "tasks": [each["task"] for each in steps if each["task"]],
    }


def output(text: str, which: str = "stdout") -> dict[str, str]:
    """A line of output."""
    return {"event": which, "data": base64.b64encode(text.encode()).decode()}


def verdict(name: str, *unfit: tuple[str, str, bool]) -> dict[str, Any]:
    """Whether a node could run something."""
    reasons = [{"code": code, "text": text, "never": never} for code, text, never in unfit]
    return {"peer_id": f"peer-{name}", "name": name, "fits": not unfit, "unfit": reasons}


class TaskNode:
    """Routes.

    :ivar wanted: what was submitted, and asked whether it fits.
    :ivar said: what is answered to who submits, after its ID, by the node that it is for ("" for
        any): lines, a refusal that ends them, or something to be done in between.
    :ivar tasks: those that are known.
    :ivar flows: likewise workflows.
    :ivar reasons: of the steps of all of these.
    :ivar flow_refusal: of whatever is asked of them.
    :ivar verdicts: of the nodes.
    :ivar away: names of those that are not linked.
    :ivar acts: what was done, to whom.
    :ivar refusal: of whatever is asked.
    """

    def __init__(self) -> None:
        self.wanted: list[Wanted] = []
        self.submitted: list[Submit] = []
        self.said: dict[str, list[Any]] = {}
        self.tasks: list[dict[str, Any]] = []
        self.flows: list[dict[str, Any]] = []
        self.reasons: list[dict[str, Any]] = []
        self.flow_refusal: Exception | None = None
        self.verdicts: list[dict[str, Any]] = []
        self.away: list[str] = []
        self.acts: list[tuple[str, str]] = []
        self.queries: list[dict[str, str]] = []
        self.refusal: Exception | None = None
        self.more = False
        self.unreadable: list[str] = []
        self.asked, self.answered = 2, 2

    def say(self, *lines: Any, on: str = "") -> None:
        """What is answered to who submits."""
        self.said[on] = list(lines)

    def add_to(self, table: RouteTable) -> None:
        table.stream("/v1/tasks", self.submit, Wanted)
        table.get("/v1/tasks", self.list)
        table.get("/v1/tasks/<task>", self.task)
        table.get("/v1/tasks/<task>/why", self.why)
        table.post("/v1/tasks/<task>/cancel", lambda by, task: self.act("cancel", task))
        table.post("/v1/tasks/<task>/retry", lambda by, task: self.act("retry", task))
        table.stream("/v1/tasks/<task>/output", self.output, Output)
        table.post("/v1/fitting", self.fitting, Wanted)
        table.stream("/v1/workflows", self.submit_workflow, Submit)
        table.get("/v1/workflows/<flow>", lambda request, flow: self.flow(flow))
        table.get("/v1/workflows/<flow>/why", self.why_of_steps)
        table.post("/v1/workflows/<flow>/cancel", lambda by, flow: self.act_on("cancel", flow))
        table.post("/v1/workflows/<flow>/retry", lambda by, flow: self.act_on("retry", flow))

    async def submit(self, lines: LineStream, by: Credentials, body: Wanted) -> None:
        self.wanted.append(body)
        self._refuse()
        self._say(lines, self.said[body.on])

    async def submit_workflow(self, lines: LineStream, by: Credentials, body: Submit) -> None:
        self.submitted.append(body)
        self._refuse()
        self._say(lines, self.said[""])

    async def output(self, lines: LineStream, by: Credentials, body: Output, task: str) -> None:
        self.acts.append((f"output {body.follow}", self._task(task)["id"]))
        self._say(lines, self.said[""])

    def list(self, request: IRequest) -> dict[str, Any]:
        self._refuse()
        names = (b"limit", b"open", b"since", b"before")
        query = {name.decode(): argument(request, name) for name in names}
        self.queries.append({name: value for name, value in query.items() if value is not None})
        known = sorted(
            [
                *((each["id"], "tasks", each) for each in self.tasks),
                *((each["id"], "workflows", summary(each)) for each in self.flows),
            ],
            key=lambda one: str(one[0]),
            reverse=True,
        )
        before = query["before"] or "~"
        known = [each for each in known if str(each[0]) < before]
        page = known[: int(query["limit"] or 100)]
        kinds = ("tasks", "workflows")
        answer = {kind: [each for _, one, each in page if one == kind] for kind in kinds}
        more = len(known) > len(page)
        return {
            **answer,
            "more": more or self.more,
            "next": page[-1][0] if more else "",
            "unreadable": self.unreadable,
            "asked": self.asked,
            "answered": self.answered,
        }

    def task(self, request: IRequest, task: str) -> dict[str, Any]:
        return self._task(task)

    def why(self, request: IRequest, task: str) -> dict[str, Any]:
        found = self._task(task)
        return {"task": found, "why": found["why"], "nodes": self.verdicts}

    def fitting(self, by: Credentials, body: Wanted) -> dict[str, Any]:
        self.wanted.append(body)
        self._refuse()
        return {"nodes": self.verdicts, "away": self.away}

    def act(self, act: str, task: str) -> dict[str, Any]:
        found = self._task(task)
        self.acts.append((act, found["id"]))
        return found

    def flow(self, flow: str) -> dict[str, Any]:
        for each in self.flows:
            if flow in (each["id"], each["id"][-4:]):
                if self.flow_refusal is not None:
                    raise self.flow_refusal
                return each
        raise Refusal(404, "no_such_task", f"there is no workflow {flow}")

    def act_on(self, act: str, flow: str) -> dict[str, Any]:
        found = self.flow(flow)
        self.acts.append((act, found["id"]))
        return found

    def why_of_steps(self, request: IRequest, flow: str) -> dict[str, Any]:
        return {"workflow": self.flow(flow), "steps": self.reasons}

    def _task(self, task: str) -> dict[str, Any]:
        self._refuse()
        for each in self.tasks:
            if task in (each["id"], each["id"][-4:]):
                return each
        for each in self.flows:
            if task in (each["id"], each["id"][-4:]):
                raise Refusal(409, "is_workflow", f"{each['id']} is a workflow, and no task")
        raise Refusal(404, "no_such_task", f"there is no task {task}")

    def _refuse(self) -> None:
        if self.refusal is not None:
            raise self.refusal

    def _say(self, lines: LineStream, said: Iterable[Any]) -> None:
        for each in said:
            if isinstance(each, Exception):
                raise each
            lines.send(each)


class TaskCase(CommandTests):
    """Commands about tasks, and the node that answers them."""

    def setUp(self) -> None:
        super().setUp()
        self.tasks = TaskNode()
        self.routes = (self.tasks,)
        self.addCleanup(signal.signal, signal.SIGINT, signal.getsignal(signal.SIGINT))

    def ends(self, state: str = "done", *before: Any, on: str = "", **fields: Any) -> None:
        """What is submitted is kept, runs, and ends so."""
        ended = {"event": "ended", "task": info(state=state, **fields)}
        self.tasks.say(*KEPT, RUNNING, *before, ended, on=on)

    def told(self, code: int, *arguments: str) -> Result:
        """A command that ends with this code."""
        result = self.run_command(*arguments)
        self.assertEqual(result.exit_code, code, result.output)
        return result

    def refused(self, code: int, *arguments: str) -> str:
        """What is said on stderr by a command that ends with this code, and says nothing else."""
        result = self.told(code, *arguments)
        self.assertEqual(result.stdout, "")
        return result.stderr

    def during(self, lines: Iterable[Any], *acts: Callable[[], object]) -> None:
        """Have the node's lines come one by one, with something done before each of them."""
        from bzzz.cli.client import NodeClient

        def stream(client: NodeClient, what: str, body: object = None) -> Iterable[Any]:
            waiting = list(acts)
            for line in lines:
                if waiting:
                    waiting.pop(0)()
                yield line

        self.patch(NodeClient, "stream", stream)


ID = {"event": "id", "task": TASK}
KEPT = (ID, {"event": "kept", "replicas": ["walnut", "acacia"]})
RUNNING = {
    "event": "running",
    "worker": "peer-ironwood",
    "worker_name": "ironwood",
    "token": 1,
    "begun": 0,
}
