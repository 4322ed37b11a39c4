"""The client of a program that waits for each answer. It may be used by several threads at once.

Enters: what is asked. Leaves: results, when they are there.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Coroutine, Generator, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self, TypeVar, Unpack

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

T = TypeVar("T")


class Client:
    """Asks the node of a machine.

    Every method may raise :class:`~bzzz.client.NoNode`, where no node answers, and
    :class:`~bzzz.client.Refused`, where it answers with an error.

    It keeps up to :data:`bzzz.client.idle.MAX_IDLE` connections for the next questions, until it is
    closed or goes.

    :param runtime_dir: the node's; None for the one that the ``bzzz`` command would ask.
    :param environ: the environment that says which that is.
    """

    def __init__(
        self, runtime_dir: str | Path | None = None, environ: Mapping[str, str] = os.environ
    ) -> None:
        where = control_socket(runtime_dir, environ, os.geteuid())
        self._core = Core(Conversation(_Network(), where))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections that wait for a question. It may be used again after it."""
        self._core.close()

    def run(
        self,
        command: Sequence[str],
        *,
        check: bool = False,
        max_output: int = MAX_OUTPUT,
        **options: Unpack[Options],
    ) -> Result:
        """Run a command on the machine that suits it best, and wait until it has ended.

        Whoever ends the waiting leaves the task running.

        :param command: its words; no shell is between.
        :param check: raise TaskFailed if it does not succeed.
        :param max_output: bytes of standard output, and of error, that the result has at most.
        :param options: see :class:`~bzzz.client.Options`.
        """
        return _done(self._core.run(command, options, check, max_output))

    def submit(self, command: Sequence[str], **options: Unpack[Options]) -> Task:
        """Submit a task, and wait until it is on stable storage."""
        kept = _done(self._core.submit(command, options))
        return Task(self._core, kept.id, kept.replicas)

    def run_each(
        self, command: Sequence[str], *, max_output: int = MAX_OUTPUT, **options: Unpack[Options]
    ) -> Sequence[NodeResult]:
        """Run a command on every node that it fits, and wait until all have ended."""
        return _done(self._core.run_each(command, options, max_output))

    def run_many(
        self,
        commands: Iterable[Sequence[str]],
        *,
        max_output: int = MAX_OUTPUT,
        **options: Unpack[Options],
    ) -> Sequence[Result | ClientError]:
        """Run many commands, and wait until all have ended.

        It is much faster than one after the other: they travel together.

        :param options: of all of them.
        :return: a result for each, in their order; in the place of one that was not run, the error
            that says why.
        """
        return _done(self._core.run_many(commands, options, max_output))

    def task(self, task_id: str) -> Task:
        """A task of the cluster by its ID, or the beginning or end of one that this node keeps."""
        info = _done(self._core.info(task_id))
        return Task(self._core, info.id, info.replica_names)

    def tasks(
        self, *, ended: bool = False, limit: int = 100, before: str = "", since: str = ""
    ) -> TaskList:
        """The cluster's tasks, the newest first.

        :param ended: also those that have.
        :param limit: how many at most, up to 500.
        :param before: only those with an ID less than this one.
        :param since: only those with this ID or a greater one.
        """
        return _done(self._core.tasks(ended, limit, before, since))

    def status(self) -> Status:
        """The node that is asked."""
        return _done(self._core.status())

    def members(self) -> Sequence[MemberInfo]:
        """The members of its cluster; none while it is in none."""
        return _done(self._core.members())

    def capabilities(self) -> Sequence[NodeDocument]:
        """What it and the nodes that it knows can do; itself is the first."""
        return _done(self._core.capabilities())

    def drain(self, node: str = "") -> None:
        """Have a node take no new tasks; what runs goes on. Without ``node``, this one."""
        _done(self._core.drain(True, node))

    def undrain(self, node: str = "") -> None:
        """Have a node take tasks again. Without ``node``, this one."""
        _done(self._core.drain(False, node))


class Task:
    """A task that was submitted.

    :ivar id: its ID.
    :ivar replicas: names of the nodes that keep it.
    """

    def __init__(self, core: Core, task_id: str, replicas: Sequence[str]) -> None:
        self.id = task_id
        self.replicas = replicas
        self._core = core

    def __repr__(self) -> str:
        return f"<Task {self.id}>"

    def info(self) -> TaskInfo:
        """All that is known of it now."""
        return _done(self._core.info(self.id))

    def wait(self, timeout: float | None = None, *, max_output: int = MAX_OUTPUT) -> Result:
        """Wait until it has ended.

        :param timeout: seconds, None to wait for ever.
        :raises TimeoutError: it has not ended by then; it goes on.
        """
        return _done(self._core.wait(self.id, timeout, max_output))

    def output(self, follow: bool = True) -> Generator[Output, None, None]:
        """What it prints: pairs of ``"stdout"`` or ``"stderr"``, and bytes.

        The node sends no faster than they are taken. If the task is run again, what the attempt
        before has printed is followed by what the new one prints.

        :param follow: go on until it has ended.
        """
        lines = _done(self._core.output(self.id, follow))
        try:
            while (part := _done(lines.next())) is not None:
                yield part
        finally:
            lines.close()

    def cancel(self) -> TaskInfo:
        """End it, with all its processes; it may take a moment longer than the answer."""
        return _done(self._core.cancel(self.id))

    def retry(self) -> TaskInfo:
        """Begin it anew, once it has ended."""
        return _done(self._core.retry(self.id))

    def why(self) -> Sequence[NodeVerdict]:
        """For every node, why it does not run there."""
        return _done(self._core.why(self.id))


class _Network:
    """Sockets that block, and so never suspend who awaits them."""

    async def connect(self, path: Path, timeout: float) -> _Connection:
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.settimeout(timeout)
            connection.connect(os.fspath(path))
        except BaseException:
            connection.close()
            raise
        return _Connection(connection)

    async def sleep(self, seconds: float) -> None:
        time.sleep(seconds)

    def now(self) -> float:
        return time.monotonic()

    def owner(self) -> object:
        return owner()


class _Connection:
    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection

    async def send(self, data: bytes) -> None:
        self._socket.settimeout(TIMEOUT)
        self._socket.sendall(data)

    async def receive(self, timeout: float | None) -> bytes:
        self._socket.settimeout(timeout)
        return self._socket.recv(MAX_READ)

    def close(self) -> None:
        self._socket.close()

    def silent(self) -> bool:
        self._socket.settimeout(0)
        return silent(self._socket)

    def drop(self) -> None:
        self._socket.close()


def _done(work: Coroutine[Any, Any, T]) -> T:
    """What a coroutine returns that awaits nothing but this module's network."""
    try:
        work.send(None)
    except StopIteration as done:
        result: T = done.value
        return result
    work.close()
    raise RuntimeError("it awaits something that is not there when it returns")
