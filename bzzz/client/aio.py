"""The client of a program on asyncio; its names are those of :mod:`bzzz.client.plain`.

Enters: what is asked. Leaves: results to await. Cancelling what is awaited ends its connection, and
leaves the task running.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Self, Unpack

from bzzz.client.control_socket import control_socket
from bzzz.client.conversation import MAX_READ, TIMEOUT, Conversation
from bzzz.client.core import Core
from bzzz.client.errors import ClientError
from bzzz.client.kept_socket import owner, silent
from bzzz.client.lines import MAX_OUTPUT
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
from bzzz.client.wanted import Options

__all__ = ["Client", "Task"]


class Client:
    """Asks the node of a machine; see :class:`bzzz.client.plain.Client`."""

    def __init__(
        self, runtime_dir: str | Path | None = None, environ: Mapping[str, str] = os.environ
    ) -> None:
        where = control_socket(runtime_dir, environ, os.geteuid())
        self._core = Core(Conversation(_Network(), where))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections that wait for a question. It may be used again after it."""
        self._core.close()

    async def run(
        self,
        command: Sequence[str],
        *,
        check: bool = False,
        max_output: int = MAX_OUTPUT,
        **options: Unpack[Options],
    ) -> Result:
        """Run a command on the machine that suits it best, and wait until it has ended."""
        return await self._core.run(command, options, check, max_output)

    async def submit(self, command: Sequence[str], **options: Unpack[Options]) -> Task:
        """Submit a task, and wait until it is on stable storage."""
        kept = await self._core.submit(command, options)
        return Task(self._core, kept.id, kept.replicas)

    async def run_each(
        self, command: Sequence[str], *, max_output: int = MAX_OUTPUT, **options: Unpack[Options]
    ) -> Sequence[NodeResult]:
        """Run a command on every node that it fits, and wait until all have ended."""
        return await self._core.run_each(command, options, max_output)

    async def run_many(
        self,
        commands: Iterable[Sequence[str]],
        *,
        max_output: int = MAX_OUTPUT,
        **options: Unpack[Options],
    ) -> Sequence[Result | ClientError]:
        """Run many commands, each as :meth:`run` does, and wait until all have ended."""
        return await self._core.run_many(commands, options, max_output)

    async def task(self, task_id: str) -> Task:
        """A task of the cluster by its ID, or the beginning or end of one that this node keeps."""
        info = await self._core.info(task_id)
        return Task(self._core, info.id, info.replica_names)

    async def tasks(
        self, *, ended: bool = False, limit: int = 100, before: str = "", since: str = ""
    ) -> TaskList:
        """The cluster's tasks, the newest first."""
        return await self._core.tasks(ended, limit, before, since)

    async def status(self) -> Status:
        """The node that is asked."""
        return await self._core.status()

    async def members(self) -> Sequence[MemberInfo]:
        """The members of its cluster; none while it is in none."""
        return await self._core.members()

    async def capabilities(self) -> Sequence[NodeDocument]:
        """What it and the nodes that it knows can do; itself is the first."""
        return await self._core.capabilities()

    async def drain(self, node: str = "") -> None:
        """Have a node take no new tasks; what runs goes on. Without ``node``, this one."""
        await self._core.drain(True, node)

    async def undrain(self, node: str = "") -> None:
        """Have a node take tasks again. Without ``node``, this one."""
        await self._core.drain(False, node)


class Task:
    """A task that was submitted; see :class:`bzzz.client.plain.Task`."""

    def __init__(self, core: Core, task_id: str, replicas: Sequence[str]) -> None:
        self.id = task_id
        self.replicas = replicas
        self._core = core

    def __repr__(self) -> str:
        return f"<Task {self.id}>"

    async def info(self) -> TaskInfo:
        """All that is known of it now."""
        return await self._core.info(self.id)

    async def wait(self, timeout: float | None = None, *, max_output: int = MAX_OUTPUT) -> Result:
        """Wait until it has ended.

        :raises TimeoutError: it has not after so many seconds; it goes on.
        """
        return await self._core.wait(self.id, timeout, max_output)

    async def output(self, follow: bool = True) -> AsyncGenerator[Output, None]:
        """What it prints: pairs of ``"stdout"`` or ``"stderr"``, and bytes."""
        lines = await self._core.output(self.id, follow)
        try:
            while (part := await lines.next()) is not None:
                yield part
        finally:
            lines.close()

    async def cancel(self) -> TaskInfo:
        """End it, with all its processes; it may take a moment longer than the answer."""
        return await self._core.cancel(self.id)

    async def retry(self) -> TaskInfo:
        """Begin it anew, once it has ended."""
        return await self._core.retry(self.id)

    async def why(self) -> Sequence[NodeVerdict]:
        """For every node, why it does not run there."""
        return await self._core.why(self.id)


class _Network:
    """Sockets, and no transports: one that waits for a question belongs to no loop, so that it
    needs no loop to be closed, and serves the next one of the program as well."""

    async def connect(self, path: Path, timeout: float) -> _Connection:
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.setblocking(False)
            async with asyncio.timeout(timeout):
                await asyncio.get_running_loop().sock_connect(connection, os.fspath(path))
        except BaseException:
            connection.close()
            raise
        return _Connection(connection)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    def now(self) -> float:
        return asyncio.get_running_loop().time()

    def owner(self) -> object:
        return owner()


class _Connection:
    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection

    async def send(self, data: bytes) -> None:
        async with asyncio.timeout(TIMEOUT):
            await asyncio.get_running_loop().sock_sendall(self._socket, data)

    async def receive(self, timeout: float | None) -> bytes:
        async with asyncio.timeout(timeout):
            return await asyncio.get_running_loop().sock_recv(self._socket, MAX_READ)

    def close(self) -> None:
        self._socket.close()

    def silent(self) -> bool:
        return silent(self._socket)

    def drop(self) -> None:
        self._socket.close()
