"""The control API of submitting tasks, and of where they could run. docs/tasks.rst, "Placement".

Enters: requests of the control socket. Leaves: tasks, lines that tell of them, and for each node
what it lacks. Lines and errors are those of :mod:`bzzz.web.task_routes`.

=============================== ==================================================================
POST /v1/tasks                  a :class:`~bzzz.web.submitting.Wanted`, answered by lines
POST /v1/fitting                likewise; ``{"nodes": [NodeVerdict], "away"}``: names of members
                                that run tasks and cannot be asked
GET /v1/tasks/<task>/why        ``{"task": TaskInfo, "why", "nodes": [NodeVerdict]}``: ``why`` it
                                waits, or has ended so, in a sentence, "" where there is none
=============================== ==================================================================
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from twisted.internet.interfaces import IReactorTime
from twisted.web.iweb import IRequest

from bzzz.net.alarms import Alarms
from bzzz.web.credentials import Credentials
from bzzz.web.routes import RouteTable
from bzzz.web.stream import LineStream
from bzzz.web.submitting import Submitting, Wanted
from bzzz.web.task_finding import TaskFinding
from bzzz.web.task_lines import TaskLines
from bzzz.web.task_schema import task_info
from bzzz.web.verdict_words import why_it_waits

__all__ = ["TOGETHER", "SubmitRoutes"]

# Seconds within which the first lines of a task that is followed are written together: who waits
# for the end of a short one is woken once, and not for each step on the way.
TOGETHER: Final = 0.02


class SubmitRoutes:
    """The routes.

    :param clock: for the first lines.
    :param name_of: what the member with a peer ID is called.
    """

    def __init__(
        self,
        clock: IReactorTime,
        submitting: Submitting,
        finding: TaskFinding,
        lines: TaskLines,
        name_of: Callable[[str], str],
    ) -> None:
        self._alarms = Alarms(clock)
        self._submitting = submitting
        self._finding = finding
        self._lines = lines
        self._name_of = name_of

    def add_to(self, table: RouteTable) -> None:
        """Put the routes into the table."""
        table.stream("/v1/tasks", self.submit, Wanted)
        table.post("/v1/fitting", self.fitting, Wanted)
        table.get("/v1/tasks/<task>/why", self.why)

    async def submit(self, lines: LineStream, by: Credentials, body: Wanted) -> None:
        wanted = self._submitting.submission(body, await by.user_name())
        if not body.wait:
            self._submitting.see_that_it_can_run(wanted)
        if body.follow:
            lines.hold()
            release = self._alarms.call_later(TOGETHER, lines.release)
            lines.on_end(release.cancel)
        lines.send({"event": "id", "task": wanted.task})

        def copied(peer: str, done: int, total: int) -> None:
            if total:
                name = self._name_of(peer)
                lines.send({"event": "copying", "to": name, "done": done, "total": total})

        record = await self._submitting.submit(wanted, copied)
        replicas = [self._name_of(each) for each in record.submission.replicas]
        lines.send({"event": "kept", "replicas": replicas})
        if body.follow:
            await self._lines.follow(lines, record)

    async def why(self, request: IRequest, task: str) -> dict[str, object]:
        record = await self._finding.find(task)
        info = task_info(record, self._name_of)
        nodes = self._submitting.verdicts(record.submission)
        why = info.why
        if info.state == "waiting":
            why = "; ".join(filter(None, (why_it_waits(nodes, reasons=False), why)))
        return {"task": info, "why": why, "nodes": nodes}

    async def fitting(self, by: Credentials, body: Wanted) -> dict[str, Sequence[object]]:
        wanted = self._submitting.submission(body, await by.user_name())
        return {"nodes": self._submitting.verdicts(wanted), "away": self._submitting.away()}
