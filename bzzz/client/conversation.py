"""One question to a node and its answer, over whatever carries bytes.

Enters: a question; bytes from a :class:`Connection`. Leaves: the whole answer, or its lines one by
one, or why there is none. What waits is a coroutine that awaits its connection alone. So the same
code serves a program that blocks, whose connections never suspend it, asyncio and Twisted.
"""

from __future__ import annotations

import weakref
from collections import deque
from http import HTTPStatus
from pathlib import Path
from typing import Final, Protocol, TypeVar

import msgspec

from bzzz.client.errors import ClientError, NoNode, NotAllowed, Refused
from bzzz.client.idle import Idle
from bzzz.client.lines import ErrorInfo, Line, LineSplitter
from bzzz.errors import RemoteProtocolError
from bzzz.wire.http import AnswerReader, request

__all__ = ["MAX_READ", "TIMEOUT", "Connection", "Conversation", "Lines", "Network", "Socket"]

# Seconds for an answer that needs no work. A node that is starved of CPU still gets to it.
TIMEOUT: Final = 10.0

# Seconds between two tries to ask a node that is starting, and how many tries: 10 s of them.
AGAIN: Final = 0.1
TRIES: Final = 100

# Bytes that are read at a time, and so how much waits for a program that is slow.
MAX_READ: Final = 64 << 10

# Bytes of an answer that is no lines: a listing of 500 tasks with the longest command each.
MAX_ANSWER: Final = 64 << 20

# Bytes of a question, as the node has it. A task's command may have 128 KiB.
MAX_BODY: Final = 1 << 20

# Bytes of a socket's path, sun_path in unix(7) without the zero.
MAX_PATH: Final = 107

T = TypeVar("T")


class Connection(Protocol):
    """Bytes to and from a node."""

    async def send(self, data: bytes) -> None:
        """Send these.

        :raises OSError: the connection is lost.
        """

    async def receive(self, timeout: float | None) -> bytes:
        """The next bytes, at most :data:`MAX_READ`; b"" at the end.

        :param timeout: seconds, more than 0; None to wait for ever.
        :raises TimeoutError: nothing came.
        :raises OSError: the connection is lost.
        """

    def close(self) -> None:
        """End it, however far it is. May be called again."""

    def silent(self) -> bool:
        """Whether the node has neither closed it nor sent anything. Does not wait.

        Asked between two questions only.
        """

    def drop(self) -> None:
        """End it between two questions, without the loop that it was used in."""


class Network(Protocol):
    """What one kind of program uses."""

    async def connect(self, path: Path, timeout: float) -> Connection:
        """Connect to a socket.

        :raises OSError: nobody is there.
        """

    async def sleep(self, seconds: float) -> None:
        """Wait."""

    def now(self) -> float:
        """Seconds on a clock that goes on evenly."""

    def owner(self) -> object:
        """Who alone may ask again on a connection of now."""


class Socket(Protocol):
    """Where a node is asked, and what to say when none is there."""

    @property
    def path(self) -> Path:
        """Of the control socket."""

    @property
    def start(self) -> str:
        """The command that starts a node there."""

    def join(self) -> str | None:
        """What beside root lets a user ask it, if anything does."""


class Conversation:
    """Asks one question at a time on a connection, and keeps some for the next ones."""

    def __init__(self, network: Network, socket: Socket) -> None:
        self._network = network
        self._socket = socket
        self._idle: Idle[Connection] = Idle()
        # A program need not close its client: what waits goes with it, or at the program's end.
        weakref.finalize(self, self._idle.close)

    async def ask(
        self, method: str, what: str, kind: type[T], body: object = None, timeout: float = TIMEOUT
    ) -> T:
        """The answer to ``/v1/<what>``.

        :param kind: what it is.
        :param body: what JSON can have; None for no body.
        :raises NoNode: nobody answers.
        :raises Refused: the answer is an error.
        """
        answer = await self._open(method, what, body, timeout)
        try:
            return msgspec.json.decode(await answer.whole(timeout), type=kind)
        except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
            raise answer.stranger(str(error)) from None
        finally:
            answer.close()

    async def lines(self, what: str, body: object, task: str = "") -> Lines:
        """What is answered to ``POST /v1/<what>``, line by line.

        :param task: ID of what it is about, where that is known.
        :raises NoNode: nobody answers.
        :raises Refused: the answer is an error.
        """
        return Lines(await self._open("POST", what, body, TIMEOUT), task)

    def now(self) -> float:
        """Seconds on the network's clock."""
        return self._network.now()

    def close(self) -> None:
        """Close the connections that wait for a question. One that is asked later makes anew."""
        self._idle.close()

    # -- inside

    async def _open(self, method: str, what: str, body: object, timeout: float) -> _Answer:
        """Ask; again as long as the node is starting, and so has done nothing."""
        content = None if body is None else msgspec.json.encode(body)
        if content is not None and len(content) > MAX_BODY:
            raise Refused(
                "too_large", f"the question has {len(content)} bytes, and {MAX_BODY} at most"
            )
        question = request(method, f"/v1/{what}", content)
        tries = TRIES
        while True:
            answer = await self._begin(method, question, timeout)
            if answer.status == HTTPStatus.OK:
                return answer
            try:
                refused = await answer.error(timeout)
            finally:
                answer.close()
            tries -= 1
            if refused.code != "starting" or not tries:
                raise refused
            await self._network.sleep(AGAIN)

    async def _begin(self, method: str, question: bytes, timeout: float) -> _Answer:
        """Ask on a connection that waits, or on a new one: an answer whose head is there."""
        owner = self._network.owner()
        kept = self._idle.take(self._network.now(), owner)
        if kept is not None:
            answer = self._answer(kept, owner)
            try:
                await answer.begin(question, timeout)
            except NoNode:
                # It ended as the question came. What changes something may have been done.
                if method != "GET" or not answer.unheard:
                    raise
            else:
                return answer
        answer = self._answer(await self._connect(timeout), owner)
        await answer.begin(question, timeout)
        return answer

    def _answer(self, connection: Connection, owner: object) -> _Answer:
        return _Answer(self._network, connection, self._socket.path, self._idle, owner)

    async def _connect(self, timeout: float) -> Connection:
        path = self._socket.path
        if len(bytes(path)) > MAX_PATH:
            raise NoNode(f"No node is running here: {path} is too long for a socket")
        try:
            return await self._network.connect(path, timeout)
        except (FileNotFoundError, ConnectionRefusedError, NotADirectoryError):
            start = self._socket.start
            raise NoNode(
                f"No node is running here ({path}). Start one with: {start}", start
            ) from None
        except PermissionError:
            join = self._socket.join()
            raise NotAllowed(
                f"The node at {path} belongs to another user; ask it as that user or as root,"
                f" such as with sudo{f', or {join}' if join else ''}",
                "ask it as root, such as with sudo",
            ) from None
        except TimeoutError:
            raise NoNode(f"The node at {path} does not answer; its log may tell why") from None
        except OSError as error:
            raise NoNode(f"The node at {path} cannot be asked: {error}") from None


class _Answer:
    """An answer, as its bytes come.

    :ivar unheard: whether its connection has ended, without a byte of it.
    """

    def __init__(
        self,
        network: Network,
        connection: Connection,
        path: Path,
        idle: Idle[Connection],
        owner: object,
    ) -> None:
        self.unheard = False
        self._network = network
        self._connection = connection
        self._path = path
        self._idle = idle
        self._owner = owner
        self._heard = False
        self._strange = False
        self._over = False
        self._reader = AnswerReader()
        self._parts: deque[bytes] = deque()

    @property
    def status(self) -> int:
        return self._reader.status

    def close(self) -> None:
        """Keep the connection for the next question, if that can be; hang up otherwise."""
        if self._over:
            return
        self._over = True
        if self._reader.stays and not self._strange:
            self._idle.give(self._connection, self._network.now(), self._owner)
        else:
            self._connection.close()

    async def begin(self, question: bytes, timeout: float) -> None:
        """Ask, and wait for the head of the answer. Closes it if there is none."""
        try:
            await self._begin(question, timeout)
        except BaseException:
            self.close()
            raise

    async def _begin(self, question: bytes, timeout: float) -> None:
        deadline = self._network.now() + timeout
        try:
            await self._connection.send(question)
        except TimeoutError:
            raise self._silent() from None
        except OSError as error:
            raise self._broken(error) from None
        try:
            while not self._reader.status:
                await self._receive(deadline)
        except TimeoutError:
            raise self._silent() from None

    async def part(self, deadline: float | None) -> bytes:
        """The next part of the body; b"" at its end.

        :param deadline: on the network's clock; None to wait for ever.
        :raises TimeoutError: nothing came until then.
        :raises NoNode: the answer ends before its end, or is none.
        """
        while not self._parts:
            if self._reader.whole:
                return b""
            await self._receive(deadline)
        return self._parts.popleft()

    async def whole(self, timeout: float) -> bytes:
        """All of the body."""
        deadline = self._network.now() + timeout
        body = bytearray()
        try:
            while part := await self.part(deadline):
                body += part
                if len(body) > MAX_ANSWER:
                    raise self.stranger(f"the answer has more than {MAX_ANSWER} bytes")
        except TimeoutError:
            raise self._silent() from None
        return bytes(body)

    async def error(self, timeout: float) -> Refused:
        """What the node says, where it does not do what it was asked."""
        try:
            error = msgspec.json.decode(await self.whole(timeout), type=_Error).error
        except (msgspec.MsgspecError, UnicodeError, RecursionError):
            reader = self._reader
            return Refused("unknown", f"the node answered {reader.status} {reader.reason}")
        return Refused(error.code, error.message)

    def stranger(self, why: str) -> NoNode:
        """The error for an answer that no node gives."""
        self._strange = True
        return NoNode(
            f"Who answers at {self._path} is no Bzzz node, or one of another version: {why}"
        )

    async def _receive(self, deadline: float | None) -> None:
        left = None if deadline is None else deadline - self._network.now()
        if left is not None and left <= 0:
            raise TimeoutError
        try:
            data = await self._connection.receive(left)
        except TimeoutError:
            raise
        except OSError as error:
            raise self._broken(error) from None
        try:
            if data:
                self._heard = True
                self._parts.extend(self._reader.receive_data(data))
            else:
                self._reader.receive_end()
        except RemoteProtocolError as error:
            raise (
                self._broken(error) if error.code == "cut_short" else self.stranger(str(error))
            ) from None

    def _broken(self, error: Exception) -> NoNode:
        self.unheard = not self._heard
        return NoNode(f"The node at {self._path} broke off: {error}")

    def _silent(self) -> NoNode:
        return NoNode(f"The node at {self._path} does not answer; its log may tell why")


class _Error(msgspec.Struct):
    error: ErrorInfo


class Lines:
    """The lines of an answer.

    :ivar task: ID of the task that they are about, once that is known.
    """

    def __init__(self, answer: _Answer, task: str) -> None:
        self.task = task
        self._answer = answer
        self._splitter = LineSplitter()
        self._waiting: deque[Line] = deque()

    async def next(self, deadline: float | None = None) -> Line | None:
        """The next line; None at the end.

        :raises TimeoutError: none came until then, on the network's clock.
        :raises NoNode: the node went before the end.
        :raises Refused: the line says that it has failed.
        """
        try:
            line = await self._next(deadline)
        except RemoteProtocolError as error:
            raise self.about(self._answer.stranger(str(error))) from None
        except ClientError as error:
            raise self.about(error) from None
        if line is None:
            return None
        if line.event == "id" and isinstance(line.task, str):
            self.task = line.task
        if line.error is not None:
            raise self.about(Refused(line.error.code, line.error.message))
        return line

    def close(self) -> None:
        """Hang up if it has not ended, which ends the telling and not the task."""
        self._answer.close()

    def about(self, error: ClientError) -> ClientError:
        """The error, with the task that it is about."""
        error.task = self.task
        return error

    async def _next(self, deadline: float | None) -> Line | None:
        while not self._waiting:
            part = await self._answer.part(deadline)
            if not part:
                self._splitter.receive_end()
                return None
            self._waiting.extend(self._splitter.receive_data(part))
        return self._waiting.popleft()
