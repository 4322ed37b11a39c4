"""The control API of tasks: what is submitted here, and what becomes of it anywhere.

Enters: requests of the control socket. Leaves: tasks, and lines that tell of them. docs/tasks.rst.

=============================== ==================================================================
POST /v1/tasks                  a :class:`Wanted`, answered by lines (below)
GET /v1/tasks                   ``{"tasks": [TaskInfo], "more", "asked", "answered"}``, the newest
                                first; ``?limit=``, ``?before=`` an ID, ``?since=`` an ID,
                                ``?open=1`` those alone that have not ended
GET /v1/tasks/<task>            :class:`~bzzz.web.task_schema.TaskInfo`
GET /v1/tasks/<task>/why        ``{"nodes": [NodeVerdict]}``
POST /v1/tasks/<task>/cancel    ``TaskInfo``; it may have to wait for its worker
POST /v1/tasks/<task>/retry     ``TaskInfo``: begins anew one that has ended
POST /v1/tasks/<task>/output    ``{"follow"?}``, answered by lines
POST /v1/fitting                a :class:`Wanted`; ``{"nodes": [NodeVerdict]}``
POST /v1/drain                  ``{"on"}``: take nothing new, or take tasks again
=============================== ==================================================================

A task is its ID, or the beginning or the end of one that this node keeps. The lines:

============== ===================================================================================
``id``         ``task``: its ID, before anything else is done; who loses the connection can ask for
               it
``copying``    ``to``, ``done``, ``total``: bytes of its inputs that another of its nodes has, of
               all. Who hangs up by then has not submitted it
``kept``       ``replicas``: names of the nodes that keep it; it is durable. Not of one whose output
               is asked for
``waiting``    ``why``
``running``    ``worker``, ``worker_name``, ``token``
``stdout``     ``data``: part of the current attempt's output, in base64
``stderr``     likewise
``ended``      ``task``: TaskInfo, the last line
============== ===================================================================================

Who hangs up later ends the telling, and not the task. Errors have the codes:

===================== ============================================================================
``bad_requirement``   the expression is none; tells where
``unplaceable``       no node could run it even with nothing else to do; tells what each lacks
``not_submitted``     it was not submitted, for the reason that is told
``unknown``           it is not known whether it was: ask for the ID
``no_such_task``      nobody who can be asked has it
``ambiguous_task``    several begin or end so
``not_ended``         it has not ended, so that it cannot begin anew
===================== ============================================================================
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Mapping, Sequence
from itertools import filterfalse
from typing import Annotated, Final

import msgspec
from msgspec import Meta
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.web.iweb import IRequest

from bzzz.errors import BzzzError
from bzzz.tasks.finding import NoSuchTask
from bzzz.tasks.following import Following
from bzzz.tasks.messages import MAX_LISTED, Listed, Listing
from bzzz.tasks.output_streams import OutputStreams
from bzzz.tasks.placement import Candidate, Outlook, Unfit
from bzzz.tasks.placing import Placing
from bzzz.tasks.record import State
from bzzz.tasks.registers import NoMajority
from bzzz.tasks.requirements import RequirementError
from bzzz.tasks.requirements import compile as compile_requirement
from bzzz.tasks.service import TaskService
from bzzz.tasks.submission import (
    ALPHABET,
    TASK,
    Cores,
    Count,
    Gpus,
    Input,
    Priority,
    Retries,
    Submission,
    SubmissionError,
    Timeout,
)
from bzzz.tasks.value import TaskRecord, decode_record, peer_id
from bzzz.tasks.workflows.record import decode_workflow, is_workflow
from bzzz.web.credentials import Credentials
from bzzz.web.requests import Body, Refusal, argument
from bzzz.web.routes import RouteTable
from bzzz.web.stream import LineStream
from bzzz.web.task_schema import NodeVerdict, TaskInfo, UnfitInfo, task_info

__all__ = ["TaskRoutes"]

# Tasks of one listing, where nobody says how many.
LISTED: Final = 100

# Nodes whose reasons an error tells.
MAX_TOLD: Final = 10

_BEGINNING: Final = re.compile(rf"[{ALPHABET}]{{0,26}}")


class Wanted(Body, frozen=True):
    """A task that somebody wants; see :class:`bzzz.tasks.submission.Submission`.

    :ivar on: a member by its name, its short ID or its peer ID.
    :ivar wait: whether it is to wait for a node that could run it, where there is none now.
    :ivar follow: whether to tell until it has ended.
    """

    command: Annotated[tuple[str, ...], Meta(min_length=1)]
    name: str = ""
    env: Mapping[str, str] = {}
    where: str = ""
    on: str = ""
    cpus: Cores = 1.0
    memory: Count = 0
    gpus: Gpus = 0
    timeout: Timeout = 0.0
    retries: Retries = 0
    restart: bool = True
    priority: Priority = 0
    profile: str = "default"
    inputs: tuple[Input, ...] = ()
    outputs: tuple[str, ...] = ()
    wait: bool = False
    follow: bool = True


class Output(Body, frozen=True):
    """What ``POST /v1/tasks/<task>/output`` takes."""

    follow: bool = False


class Drain(Body, frozen=True):
    """What ``POST /v1/drain`` takes."""

    on: bool


class TaskRoutes:
    """The routes.

    :param clock: for following.
    :param find_node: the peer ID of a member that somebody means; raises Refusal.
    :param name_of: what the member with a peer ID is called.
    :param drain: has this node take nothing new, or take tasks again.
    """

    def __init__(
        self,
        clock: IReactorTime,
        service: TaskService,
        placing: Placing,
        outputs: OutputStreams,
        find_node: Callable[[str], str],
        name_of: Callable[[str], str],
        drain: Callable[[bool], object],
    ) -> None:
        self._clock = clock
        self._service = service
        self._placing = placing
        self._outputs = outputs
        self._find_node = find_node
        self._name_of = name_of
        self._drain = drain

    def add_to(self, table: RouteTable) -> None:
        """Put the routes into the table."""
        table.stream("/v1/tasks", self.submit, Wanted)
        table.get("/v1/tasks", self.tasks)
        table.get("/v1/tasks/<task>", self.task)
        table.get("/v1/tasks/<task>/why", self.why)
        table.post("/v1/tasks/<task>/cancel", self.cancel)
        table.post("/v1/tasks/<task>/retry", self.retry)
        table.stream("/v1/tasks/<task>/output", self.output, Output)
        table.post("/v1/fitting", self.fitting, Wanted)
        table.post("/v1/drain", self.drain, Drain)

    async def submit(self, lines: LineStream, by: Credentials, body: Wanted) -> None:
        wanted = self._submission(body)
        if not body.wait:
            self._see_that_it_can_run(wanted)
        lines.send({"event": "id", "task": wanted.task})
        wanted = msgspec.structs.replace(wanted, submitter=await by.user_name())

        def copied(peer: str, done: int, total: int) -> None:
            if total:
                name = self._name_of(peer)
                lines.send({"event": "copying", "to": name, "done": done, "total": total})

        try:
            record = await self._service.submit(wanted, self._placing.suggest(wanted), copied)
        except SubmissionError as error:
            raise Refusal(400, "not_submitted", str(error)) from None
        except NoMajority as error:
            raise Refusal(
                503,
                "unknown",
                f"it is not known whether the task was submitted: {error}. To see whether it was:"
                f" bzzz task {wanted.task}",
            ) from None
        replicas = [self._name_of(each) for each in record.submission.replicas]
        lines.send({"event": "kept", "replicas": replicas})
        if body.follow:
            await self._follow(lines, record)

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
        others = sorted(self._service.peers.linked())
        asking = [self._service.peers.ask(peer, listing) for peer in others]
        listings = [await self._service.list_here(listing)]
        for each in asking:
            try:
                answer = await each
            except BzzzError:
                continue
            if isinstance(answer, Listed):
                listings.append(answer)
        newest: dict[str, TaskRecord] = {}
        for listed in listings:
            for value in filterfalse(is_workflow, listed.records):
                record = decode_record(value)
                known = newest.get(record.task)
                if known is None or record.state.version > known.state.version:
                    newest[record.task] = record
        ordered = [newest[task] for task in sorted(newest, reverse=True)]
        if not listing.ended:
            ordered = [record for record in ordered if not record.has_ended]
        return {
            "tasks": [task_info(record, self._name_of) for record in ordered[: listing.most]],
            "more": len(ordered) > listing.most or any(listed.more for listed in listings),
            "asked": len(others),
            "answered": len(listings) - 1,
        }

    async def task(self, request: IRequest, task: str) -> TaskInfo:
        return task_info(await self._find(task), self._name_of)

    async def why(self, request: IRequest, task: str) -> dict[str, Sequence[NodeVerdict]]:
        record = await self._find(task)
        return {"nodes": self._verdicts(record.submission)}

    async def fitting(self, by: Credentials, body: Wanted) -> dict[str, Sequence[NodeVerdict]]:
        return {"nodes": self._verdicts(self._submission(body))}

    async def cancel(self, by: Credentials, task: str) -> TaskInfo:
        record = await self._find(task)
        return task_info(await self._service.cancel(record), self._name_of)

    async def retry(self, by: Credentials, task: str) -> TaskInfo:
        record = await self._find(task)
        if not record.has_ended:
            raise Refusal(409, "not_ended", f"task {record.task} has not ended")
        return task_info(await self._service.retry(record), self._name_of)

    async def output(self, lines: LineStream, by: Credentials, body: Output, task: str) -> None:
        record = await self._find(task)
        if body.follow or record.has_ended:
            await self._follow(lines, record)
            return
        state = record.state
        if state.state is State.ASSIGNED:
            worker = peer_id(state.worker)
            await self._outputs.get(
                worker, record.task, state.token, (0, 0), False, _output_to(lines)
            )

    def drain(self, by: Credentials, body: Drain) -> None:
        self._drain(body.on)

    # -- inside

    async def _follow(self, lines: LineStream, record: TaskRecord) -> None:
        last: tuple[object, ...] = ()

        def told(record: TaskRecord) -> None:
            nonlocal last
            state = record.state
            line: tuple[object, ...]
            if state.state is State.WAITING:
                line = ("waiting", state.why)
            elif state.state is State.ASSIGNED:
                line = ("running", state.worker, state.token)
            else:
                return
            if line == last:
                return
            last = line
            if state.state is State.WAITING:
                lines.send({"event": "waiting", "why": state.why})
            else:
                name = self._name_of(state.worker)
                lines.send(
                    {
                        "event": "running",
                        "worker": state.worker,
                        "worker_name": name,
                        "token": state.token,
                    }
                )

        following = Following(self._clock, self._service, self._outputs, told, _output_to(lines))
        ended = await following.follow(record)
        lines.send({"event": "ended", "task": task_info(ended, self._name_of)})
        await lines.ready()

    def _submission(self, body: Wanted) -> Submission:
        """What is wanted, with an ID; who keeps it is not chosen yet."""
        try:
            compile_requirement(body.where)
        except RequirementError as error:
            raise Refusal(400, "bad_requirement", str(error)) from None
        own = str(self._service.own)
        return Submission(
            task=self._service.new_id(),
            origin=own,
            replicas=(own,),
            command=body.command,
            name=body.name,
            env=dict(body.env),
            where=body.where,
            on=self._find_node(body.on) if body.on else "",
            cpus=body.cpus,
            memory=body.memory,
            gpus=body.gpus,
            timeout=body.timeout,
            retries=body.retries,
            restart=body.restart,
            priority=body.priority,
            profile=body.profile,
            inputs=body.inputs,
            outputs=body.outputs,
        )

    def _see_that_it_can_run(self, wanted: Submission) -> None:
        """Refuse what no node could run even with nothing else to do.

        :raises Refusal: it is so; tells what each lacks.
        """
        if self._placing.outlook(wanted) is not Outlook.NEVER:
            return
        if wanted.on and not self._placing.knows(wanted.on):
            raise Refusal(
                409,
                "unplaceable",
                f"{self._name_of(wanted.on)} is not linked with this node, or has not said yet what"
                " it can do: see bzzz peers. To have the task wait for it: --wait",
            )
        reasons = [
            f"{verdict.name}: {'; '.join(unfit.text for unfit in verdict.unfit if unfit.never)}"
            for verdict in self._verdicts(wanted)
        ]
        more = len(reasons) - MAX_TOLD
        told = "\n".join(reasons[:MAX_TOLD]) or "no node that runs tasks is known"
        raise Refusal(
            409,
            "unplaceable",
            f"no node that is linked could run it:\n{told}"
            + (f"\nand {more} more" if more > 0 else "")
            + "\nTo have it wait for one: --wait",
        )

    def _verdicts(self, wanted: Submission) -> list[NodeVerdict]:
        judged = sorted(self._placing.why(wanted), key=lambda each: each[0].name)
        return [_verdict(candidate, unfits) for candidate, unfits in judged]

    async def _find(self, text: str) -> TaskRecord:
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


def _id_or_beginning(request: IRequest, name: bytes) -> str:
    """An argument that is an ID, or the beginning of one.

    :raises Refusal: it is none: members would take the question for an offence.
    """
    text = argument(request, name) or ""
    if _BEGINNING.fullmatch(text.upper()) is None:
        raise Refusal(400, "bad_argument", f"{name.decode()}={text} is no task's ID")
    return text.upper()


def _output_to(lines: LineStream) -> Callable[[int, bytes], Deferred[None] | None]:
    def sink(which: int, data: bytes) -> Deferred[None] | None:
        event = "stdout" if which == 1 else "stderr"
        lines.send({"event": event, "data": base64.b64encode(data).decode()})
        return lines.ready()

    return sink


def _verdict(candidate: Candidate, unfits: Sequence[Unfit]) -> NodeVerdict:
    return NodeVerdict(
        peer_id=candidate.peer,
        name=candidate.name,
        fits=not unfits,
        unfit=[UnfitInfo(code=unfit.code, text=unfit.text, never=unfit.never) for unfit in unfits],
    )
