"""What a program can ask of a node, once for all kinds of programs.

Enters: what is asked. Leaves: typed results. Its coroutines await a :class:`Conversation` alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final
from urllib.parse import quote, urlencode

import msgspec

from bzzz.client.conversation import MAX_BODY, Conversation, Lines
from bzzz.client.errors import ClientError, NoNode, Refused
from bzzz.client.lines import Gathering, output_of
from bzzz.client.schema import (
    MemberInfo,
    NodeDocument,
    NodeResult,
    NodeVerdict,
    Output,
    Result,
    Status,
    TaskInfo,
    TaskList,
)
from bzzz.client.wanted import Options, wanted

__all__ = ["Core", "OutputLines", "Submitted"]

# Seconds for an answer that other members are asked for.
ASKING: Final = 30.0

# Seconds for a change of a task's record, for which a majority of its replicas is needed.
CHANGING: Final = 60.0

# Seconds for an answer of a member that is drained.
DRAINING: Final = 40.0

# Tasks that one question may have, and bytes of them.
MAX_MANY: Final = 10_000
QUESTION: Final = MAX_BODY - 100


class Submitted(msgspec.Struct, frozen=True):
    """A task that is kept.

    :ivar replicas: names of the nodes that do.
    """

    id: str
    replicas: tuple[str, ...]


class _Verdicts(msgspec.Struct):
    nodes: tuple[NodeVerdict, ...]


class _Members(msgspec.Struct):
    members: tuple[MemberInfo, ...]


class _Documents(msgspec.Struct):
    nodes: tuple[NodeDocument, ...]


class Core:
    """Everything that can be asked."""

    def __init__(self, conversation: Conversation) -> None:
        self._conversation = conversation

    def close(self) -> None:
        """Close what waits for the next question."""
        self._conversation.close()

    # -- tasks

    async def run(
        self, command: Sequence[str], options: Options, check: bool, max_output: int
    ) -> Result:
        """Submit a task, and wait until it has ended."""
        body = {**wanted(command, options), "follow": True}
        result = await self._result(await self._conversation.lines("tasks", body), None, max_output)
        return result.check() if check else result

    async def submit(self, command: Sequence[str], options: Options) -> Submitted:
        """Submit a task, and wait until it is kept."""
        return await self._submit(wanted(command, options))

    async def run_each(
        self, command: Sequence[str], options: Options, max_output: int
    ) -> tuple[NodeResult, ...]:
        """Run a command on every node that it fits.

        All are submitted before one is waited for. What they print meanwhile is kept with them.
        """
        body = wanted(command, options)
        verdicts = await self._conversation.ask("POST", "fitting", _Verdicts, body)
        # Also where there is no room now: it waits there.
        nodes = [node for node in verdicts.nodes if node.could]
        if not nodes:
            raise Refused("unplaceable", "no machine that is linked could run it")
        begun: list[tuple[NodeVerdict, Submitted | ClientError]] = []
        for node in nodes:
            try:
                begun.append((node, await self._submit({**body, "on": node.peer_id})))
            except ClientError as refused:
                begun.append((node, refused))
        results = []
        for node, task in begun:
            became = await self._became(task, max_output)
            result = became if isinstance(became, Result) else None
            error = became if isinstance(became, ClientError) else None
            results.append(
                NodeResult(name=node.name, peer_id=node.peer_id, result=result, error=error)
            )
        return tuple(results)

    async def run_many(
        self, commands: Iterable[Sequence[str]], options: Options, max_output: int
    ) -> list[Result | ClientError]:
        """Run many commands, and wait until all have ended."""
        results: list[Result | ClientError] = []
        for some in _questions([{**wanted(each, options), "follow": True} for each in commands]):
            lines = await self._conversation.lines("tasks/many", {"tasks": some})
            results += await self._results(lines, len(some), max_output)
        return results

    async def wait(self, task: str, timeout: float | None, max_output: int) -> Result:
        """Wait until a task has ended.

        :raises TimeoutError: it has not after so many seconds.
        """
        deadline = None if timeout is None else self._conversation.now() + timeout
        lines = await self._follow(task, True)
        try:
            return await self._result(lines, deadline, max_output)
        except TimeoutError:
            raise TimeoutError(f"task {task} has not ended after {timeout} s") from None

    async def output(self, task: str, follow: bool) -> OutputLines:
        """What a task prints."""
        return OutputLines(await self._follow(task, follow), follow)

    async def info(self, task: str) -> TaskInfo:
        """What is known of a task."""
        return await self._conversation.ask("GET", _path(task), TaskInfo, timeout=ASKING)

    async def cancel(self, task: str) -> TaskInfo:
        """Have a task ended."""
        return await self._conversation.ask(
            "POST", f"{_path(task)}/cancel", TaskInfo, timeout=CHANGING
        )

    async def retry(self, task: str) -> TaskInfo:
        """Have a task that has ended begin anew."""
        return await self._conversation.ask(
            "POST", f"{_path(task)}/retry", TaskInfo, timeout=CHANGING
        )

    async def why(self, task: str) -> tuple[NodeVerdict, ...]:
        """For every node, why a task does not run there."""
        answer = await self._conversation.ask(
            "GET", f"{_path(task)}/why", _Verdicts, timeout=ASKING
        )
        return answer.nodes

    async def tasks(self, ended: bool, limit: int, before: str, since: str) -> TaskList:
        """The newest tasks of the cluster."""
        query = {"limit": str(limit)}
        if not ended:
            query["open"] = "1"
        if before:
            query["before"] = before
        if since:
            query["since"] = since
        return await self._conversation.ask(
            "GET", f"tasks?{urlencode(query)}", TaskList, timeout=ASKING
        )

    # -- nodes

    async def status(self) -> Status:
        """The node that is asked."""
        return await self._conversation.ask("GET", "status", Status)

    async def members(self) -> tuple[MemberInfo, ...]:
        """The members of its cluster."""
        return (await self._conversation.ask("GET", "members", _Members)).members

    async def capabilities(self) -> tuple[NodeDocument, ...]:
        """What it and the nodes that it knows can do."""
        return (await self._conversation.ask("GET", "capabilities", _Documents)).nodes

    async def drain(self, on: bool, node: str) -> None:
        """Have it, or another member, take no new tasks, or take tasks again."""
        body = {"on": on, "node": node} if node else {"on": on}
        await self._conversation.ask("POST", "drain", object, body, timeout=DRAINING)

    # -- inside

    async def _submit(self, body: dict[str, Any]) -> Submitted:
        lines = await self._conversation.lines("tasks", {**body, "follow": False})
        try:
            kept = None
            while (line := await lines.next()) is not None:
                if line.event == "kept":
                    kept = Submitted(lines.task, line.replicas)
            if kept is None or not kept.id:
                raise lines.about(NoNode("The node did not say that the task is kept"))
            return kept
        finally:
            lines.close()

    async def _became(self, task: Submitted | ClientError, max_output: int) -> Result | ClientError:
        """What became of a task, or why that is not known."""
        if isinstance(task, ClientError):
            return task
        try:
            return await self.wait(task.id, None, max_output)
        except ClientError as error:
            return error

    async def _follow(self, task: str, follow: bool) -> Lines:
        return await self._conversation.lines(f"{_path(task)}/output", {"follow": follow}, task)

    async def _results(
        self, lines: Lines, count: int, max_output: int
    ) -> list[Result | ClientError]:
        """What becomes of the tasks of one question, by their places in it."""
        gatherings: dict[int, Gathering] = {}
        ids: dict[int, str] = {}
        results: dict[int, Result | ClientError] = {}
        try:
            while (line := await lines.next()) is not None:
                place = line.place
                if line.event == "id" and isinstance(line.task, str):
                    ids[place] = line.task
                elif line.event == "refused":
                    refused = results[place] = Refused(line.code, line.message)
                    refused.task = ids.get(place, "")
                elif line.event in {"stdout", "stderr", "ended"}:
                    gathering = gatherings.setdefault(place, Gathering(max_output))
                    result = gathering.receive(line)
                    if result is not None:
                        results[place] = result
                        del gatherings[place]
            # It is of none of them alone.
            lines.task = ""
            if sorted(results) != list(range(count)):
                raise lines.about(NoNode("The node has ended the answer without all tasks' ends"))
            return [results[place] for place in range(count)]
        finally:
            lines.close()

    async def _result(self, lines: Lines, deadline: float | None, max_output: int) -> Result:
        gathering = Gathering(max_output)
        try:
            while (line := await lines.next(deadline)) is not None:
                result = gathering.receive(line)
                if result is not None:
                    return result
            raise lines.about(NoNode("The node has ended the answer without the task's end"))
        finally:
            lines.close()


class OutputLines:
    """What a task prints, part by part."""

    def __init__(self, lines: Lines, follow: bool) -> None:
        self._lines = lines
        self._follow = follow

    async def next(self) -> Output | None:
        """The next part; None when there is no more.

        :raises NoNode: the node went before the end.
        :raises Refused: it cannot be told any more.
        """
        while (line := await self._lines.next()) is not None:
            output = output_of(line)
            if output is not None:
                return output
            if line.event == "ended":
                return None
        if self._follow:
            raise self._lines.about(NoNode("The node has ended the answer without the task's end"))
        return None

    def close(self) -> None:
        """Hang up."""
        self._lines.close()


def _questions(bodies: Sequence[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """As few as hold them all."""
    some: list[dict[str, Any]] = []
    left = QUESTION
    for body in bodies:
        size = len(msgspec.json.encode(body)) + 1
        if some and (size > left or len(some) >= MAX_MANY):
            yield some
            some, left = [], QUESTION
        some.append(body)
        left -= size
    if some:
        yield some


def _path(task: str) -> str:
    return f"tasks/{quote(task, safe='')}"
