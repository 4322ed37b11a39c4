"""The client of a program on Twisted; its names are those of :mod:`bzzz.client.plain`.

Enters: what is asked. Leaves: Deferreds. Cancelling one ends its connection, and leaves the task
running.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Coroutine, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, Unpack

from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.endpoints import UNIXClientEndpoint
from twisted.internet.error import ConnectError, ConnectingCancelledError, ConnectionDone
from twisted.internet.error import TimeoutError as ConnectTimeout
from twisted.internet.interfaces import IReactorTime, IReactorUNIX
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.task import deferLater
from twisted.python.failure import Failure

from bzzz.client.control_socket import control_socket
from bzzz.client.conversation import Conversation
from bzzz.client.core import Core, OutputLines
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

__all__ = ["Client", "OutputParts", "Task"]

T = TypeVar("T")


class Client:
    """Asks the node of a machine; see :class:`bzzz.client.plain.Client`.

    :param reactor: provides ``IReactorUNIX`` and ``IReactorTime``.
    """

    def __init__(
        self,
        reactor: Any,
        runtime_dir: str | Path | None = None,
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        where = control_socket(runtime_dir, environ, os.geteuid())
        self._core = Core(Conversation(_Network(reactor, reactor), where))

    def close(self) -> Deferred[None]:
        """Close the connections that wait for a question. It may be used again after it."""
        self._core.close()
        return succeed(None)

    def run(
        self,
        command: Sequence[str],
        *,
        check: bool = False,
        max_output: int = MAX_OUTPUT,
        **options: Unpack[Options],
    ) -> Deferred[Result]:
        """Run a command on the machine that suits it best, and wait until it has ended."""
        return _begun(self._core.run(command, options, check, max_output))

    def submit(self, command: Sequence[str], **options: Unpack[Options]) -> Deferred[Task]:
        """Submit a task, and wait until it is on stable storage."""

        async def submit() -> Task:
            kept = await self._core.submit(command, options)
            return Task(self._core, kept.id, kept.replicas)

        return _begun(submit())

    def run_each(
        self, command: Sequence[str], *, max_output: int = MAX_OUTPUT, **options: Unpack[Options]
    ) -> Deferred[Sequence[NodeResult]]:
        """Run a command on every node that it fits, and wait until all have ended."""
        return _begun(self._core.run_each(command, options, max_output))

    def run_many(
        self,
        commands: Iterable[Sequence[str]],
        *,
        max_output: int = MAX_OUTPUT,
        **options: Unpack[Options],
    ) -> Deferred[Sequence[Result | ClientError]]:
        """Run many commands, each as :meth:`run` does, and wait until all have ended."""
        return _begun(self._core.run_many(commands, options, max_output))

    def task(self, task_id: str) -> Deferred[Task]:
        """A task of the cluster by its ID, or the beginning or end of one that this node keeps."""

        async def find() -> Task:
            info = await self._core.info(task_id)
            return Task(self._core, info.id, info.replica_names)

        return _begun(find())

    def tasks(
        self, *, ended: bool = False, limit: int = 100, before: str = "", since: str = ""
    ) -> Deferred[TaskList]:
        """The cluster's tasks, the newest first."""
        return _begun(self._core.tasks(ended, limit, before, since))

    def status(self) -> Deferred[Status]:
        """The node that is asked."""
        return _begun(self._core.status())

    def members(self) -> Deferred[Sequence[MemberInfo]]:
        """The members of its cluster; none while it is in none."""
        return _begun(self._core.members())

    def capabilities(self) -> Deferred[Sequence[NodeDocument]]:
        """What it and the nodes that it knows can do; itself is the first."""
        return _begun(self._core.capabilities())

    def drain(self, node: str = "") -> Deferred[None]:
        """Have a node take no new tasks; what runs goes on. Without ``node``, this one."""
        return _begun(self._core.drain(True, node))

    def undrain(self, node: str = "") -> Deferred[None]:
        """Have a node take tasks again. Without ``node``, this one."""
        return _begun(self._core.drain(False, node))


class Task:
    """A task that was submitted; see :class:`bzzz.client.plain.Task`."""

    def __init__(self, core: Core, task_id: str, replicas: Sequence[str]) -> None:
        self.id = task_id
        self.replicas = replicas
        self._core = core

    def __repr__(self) -> str:
        return f"<Task {self.id}>"

    def info(self) -> Deferred[TaskInfo]:
        """All that is known of it now."""
        return _begun(self._core.info(self.id))

    def wait(
        self, timeout: float | None = None, *, max_output: int = MAX_OUTPUT
    ) -> Deferred[Result]:
        """Wait until it has ended. Fails with TimeoutError after so many seconds; it goes on."""
        return _begun(self._core.wait(self.id, timeout, max_output))

    def output(self, follow: bool = True) -> OutputParts:
        """What it prints."""
        return OutputParts(self._core, self.id, follow)

    def cancel(self) -> Deferred[TaskInfo]:
        """End it, with all its processes; it may take a moment longer than the answer."""
        return _begun(self._core.cancel(self.id))

    def retry(self) -> Deferred[TaskInfo]:
        """Begin it anew, once it has ended."""
        return _begun(self._core.retry(self.id))

    def why(self) -> Deferred[Sequence[NodeVerdict]]:
        """For every node, why it does not run there."""
        return _begun(self._core.why(self.id))


class OutputParts:
    """What a task prints: pairs of ``"stdout"`` or ``"stderr"``, and bytes.

    To be gone through by ``async for`` in a coroutine, or by :meth:`next`. Whoever stops before its
    end has to :meth:`close` it.
    """

    def __init__(self, core: Core, task: str, follow: bool) -> None:
        self._core = core
        self._task = task
        self._follow = follow
        self._lines: OutputLines | None = None
        self._over = False

    def __aiter__(self) -> OutputParts:
        return self

    def __anext__(self) -> Deferred[Output]:
        async def take() -> Output:
            part = await self._next()
            if part is None:
                raise StopAsyncIteration
            return part

        return _begun(take())

    def next(self) -> Deferred[Output | None]:
        """The next part, when it is there; None when there is no more."""
        return _begun(self._next())

    def close(self) -> None:
        """Hang up. May be called again."""
        self._over = True
        if self._lines is not None:
            self._lines.close()

    async def _next(self) -> Output | None:
        part = None
        try:
            if self._lines is None and not self._over:
                self._lines = await self._core.output(self._task, self._follow)
            if self._lines is not None and not self._over:
                part = await self._lines.next()
        finally:
            if part is None:
                self.close()
        return part


class _Network:
    def __init__(self, reactor: IReactorUNIX, clock: IReactorTime) -> None:
        self._reactor = reactor
        self._clock = clock

    async def connect(self, path: Path, timeout: float) -> _Connection:
        endpoint = UNIXClientEndpoint(self._reactor, os.fspath(path), timeout)
        connected: Awaitable[Any] = endpoint.connect(
            Factory.forProtocol(lambda: _Connection(self._clock))
        )
        try:
            connection: _Connection = await connected
        except ConnectingCancelledError:
            raise CancelledError from None
        except ConnectTimeout:
            raise TimeoutError from None
        except ConnectError as error:
            if isinstance(error.osError, int):
                raise OSError(error.osError, os.strerror(error.osError)) from None
            raise OSError(str(error)) from None
        return connection

    async def sleep(self, seconds: float) -> None:
        await deferLater(self._clock, seconds)

    def now(self) -> float:
        return self._clock.seconds()

    def owner(self) -> object:
        return owner()


class _Connection(Protocol):
    """Reads only while somebody waits for it, so that a node is not read faster than taken.

    The reactor knows nothing of it at other times. So one that waits for a question keeps no
    program running, and leaves nothing in the reactor that a test would find.
    """

    transport: Any

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._data = b""
        self._lost: Failure | None = None
        self._waiting: Deferred[None] | None = None

    # -- from the transport

    def connectionMade(self) -> None:
        self.transport.pauseProducing()

    def dataReceived(self, data: bytes) -> None:
        self._data += data
        self.transport.pauseProducing()
        self._wake()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._lost = reason
        self._wake()

    # -- from the conversation

    async def send(self, data: bytes) -> None:
        self.transport.write(data)

    async def receive(self, timeout: float | None) -> bytes:
        if not self._data and self._lost is None:
            await self._wait(timeout)
        data, self._data = self._data, b""
        if not data and self._lost is not None and not self._lost.check(ConnectionDone):
            raise ConnectionResetError(self._lost.getErrorMessage())
        return data

    def close(self) -> None:
        if self._lost is None:
            self.transport.abortConnection()

    def silent(self) -> bool:
        return self._lost is None and not self._data and silent(self.transport.getHandle())

    def drop(self) -> None:
        # Not by the transport, which would leave that to the reactor's next turn, where it might
        # have none.
        if self._lost is None:
            self.transport.getHandle().close()

    # -- inside

    async def _wait(self, timeout: float | None) -> None:
        waiting = self._waiting = Deferred(self._cancelled)
        if timeout is not None:
            waiting.addTimeout(timeout, self._clock, _timed_out)
        self.transport.resumeProducing()
        await waiting

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting.callback(None)

    def _cancelled(self, _: Deferred[None]) -> None:
        self._waiting = None


def _timed_out(result: object, timeout: float) -> object:
    raise TimeoutError


def _begun(work: Coroutine[Any, Any, T]) -> Deferred[T]:
    return Deferred.fromCoroutine(work)
