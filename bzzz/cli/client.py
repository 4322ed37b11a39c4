"""The control API from the outside: HTTP over a UNIX socket, without Twisted.

Enters: the socket's path and what is asked. Leaves: JSON, or an error that says what to do.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from bzzz.errors import RemoteProtocolError
from bzzz.wire.http import AnswerReader, request

__all__ = ["NoNode", "NodeClient", "NodeError", "NotAllowed"]

# Seconds for an answer that needs no work. A node that is starved of CPU still gets to it.
TIMEOUT = 10.0

# Seconds between two tries to ask a node that is starting, and how many tries: 10 s of them.
AGAIN = 0.1
TRIES = 100

# Bytes of one line; the node's own limit for one of events is 64 KiB.
MAX_LINE = 1 << 20

# Bytes that are read at a time.
MAX_READ = 64 << 10

OK = 200


class NoNode(Exception):
    """No node can be asked; says why and how to start one.

    :ivar mend: the command that starts one, where that is the mend.
    """

    def __init__(self, message: str, mend: str | None = None) -> None:
        super().__init__(message)
        self.mend = mend


class NotAllowed(NoNode):
    """There may be one, but this user may not ask it."""


class NodeError(Exception):
    """The node answered with an error.

    :ivar code: its stable name.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


def _new_socket() -> socket.socket:
    return socket.socket(socket.AF_UNIX)


class _Answer:
    """An answer on a connection of its own, as it comes.

    :param timeout: seconds without a byte after which it fails.
    """

    def __init__(self, timeout: float) -> None:
        self._connection = _new_socket()
        self._connection.settimeout(timeout)
        self._reader = AnswerReader()
        self._parts: deque[bytes] = deque()

    @property
    def status(self) -> int:
        return self._reader.status

    @property
    def reason(self) -> str:
        return self._reader.reason

    def begin(self, path: Path, question: bytes) -> None:
        """Ask, and wait for the head of the answer.

        :raises OSError: nobody is there, the connection is lost, or nothing comes in time.
        :raises RemoteProtocolError: it is none.
        """
        self._connection.connect(os.fspath(path))
        self._connection.sendall(question)
        while not self._reader.status:
            self._receive()

    def part(self) -> bytes:
        """The next part of the body, b"" at its end; raises likewise."""
        while not self._parts:
            if self._reader.whole:
                return b""
            self._receive()
        return self._parts.popleft()

    def body(self) -> bytes:
        """All of the body; raises likewise."""
        return b"".join(iter(self.part, b""))

    def wait_for_ever(self) -> None:
        """Read without a limit from now on."""
        self._connection.settimeout(None)

    def close(self) -> None:
        """Hang up."""
        self._connection.close()

    def _receive(self) -> None:
        data = self._connection.recv(MAX_READ)
        if data:
            self._parts.extend(self._reader.receive_data(data))
        else:
            self._reader.receive_end()


class NodeClient:
    """Asks the node behind one control socket.

    :param start: the command that starts a node behind it.
    :param join: what beside root lets a user ask it, if anything does.
    :param sleep: waits for so many seconds.
    """

    def __init__(
        self,
        path: Path,
        start: str = "twistd -n bzzz",
        join: Callable[[], str | None] = lambda: None,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        self.path = path
        self._start = start
        self._join = join
        self._sleep = sleep

    def get(self, what: str, timeout: float = TIMEOUT) -> Any:
        """The answer to ``GET /v1/<what>``.

        :raises NoNode: nobody answers.
        :raises NodeError: the answer is an error.
        """
        return self._answer("GET", what, None, timeout)

    def post(self, what: str, body: object = None, timeout: float = TIMEOUT) -> Any:
        """The answer to ``POST /v1/<what>``.

        :param body: what JSON can have, or bytes that are sent as they are; None for no body.
        :raises NoNode: nobody answers.
        :raises NodeError: the answer is an error.
        """
        return self._answer("POST", what, body, timeout)

    def post_for_bytes(self, what: str, body: object, timeout: float = TIMEOUT) -> bytes:
        """The answer to ``POST /v1/<what>`` as it is, likewise."""
        with closing(self._ask("POST", what, body, timeout)) as answer:
            return self._read(answer)

    def delete(self, what: str, timeout: float = TIMEOUT) -> Any:
        """The answer to ``DELETE /v1/<what>``, likewise."""
        return self._answer("DELETE", what, None, timeout)

    def stream(self, what: str, body: object = None) -> Generator[Any, None, None]:
        """What is answered to ``POST /v1/<what>``, line by line, as it comes.

        Whoever closes the iterator hangs up.

        :raises NoNode: nobody answers, or the node was killed before the end.
        :raises NodeError: the answer is an error, or a line is.
        """
        with closing(self._ask("POST", what, body)) as answer:
            # The next line may be long in coming.
            answer.wait_for_ever()
            for line in self._split(answer):
                try:
                    told = json.loads(line)
                except (json.JSONDecodeError, UnicodeDecodeError):
                    raise self._stranger() from None
                match told:
                    case {"error": {"code": str(code), "message": str(message)}}:
                        raise NodeError(code, message)
                yield told

    def lines(self, what: str, follow: bool) -> Iterator[str]:
        """The lines of ``GET /v1/<what>`` as they come; ends when the node does.

        :raises NoNode: nobody answers.
        :raises NodeError: the answer is an error.
        """
        with closing(self._ask("GET", what)) as answer:
            if follow:
                # The next event may be long in coming.
                answer.wait_for_ever()
            rest = b""
            while len(rest) <= MAX_LINE:
                try:
                    part = answer.part()
                except (OSError, RemoteProtocolError):
                    # The node was killed: the events end here.
                    part = b""
                *lines, rest = (rest + part).split(b"\n")
                for line in lines:
                    yield line.decode("utf-8", "replace")
                if not part:
                    break
            if rest:
                yield rest.decode("utf-8", "replace")

    def _answer(self, method: str, what: str, body: object, timeout: float) -> Any:
        with closing(self._ask(method, what, body, timeout)) as answer:
            try:
                return json.loads(self._read(answer))
            except (json.JSONDecodeError, UnicodeDecodeError):
                raise self._stranger() from None

    def _ask(
        self, method: str, what: str, body: object = None, timeout: float = TIMEOUT
    ) -> _Answer:
        """Ask; again as long as the node is starting, and so has done nothing."""
        for left in reversed(range(TRIES)):
            answer = self._ask_once(method, what, body, timeout)
            if answer.status == OK:
                return answer
            with closing(answer):
                error = self._error(answer)
            if error.code != "starting" or not left:
                raise error
            self._sleep(AGAIN)
        raise self._silent()

    def _ask_once(self, method: str, what: str, body: object, timeout: float) -> _Answer:
        kind, content = "application/json", None
        if isinstance(body, bytes):
            kind, content = "application/octet-stream", body
        elif body is not None:
            content = json.dumps(body).encode()
        question = request(method, f"/v1/{what}", content, kind)
        answer = _Answer(timeout)
        try:
            self._begin(answer, question)
        except BaseException:
            answer.close()
            raise
        return answer

    def _begin(self, answer: _Answer, question: bytes) -> None:
        """Send a question, and wait for its answer."""
        try:
            answer.begin(self.path, question)
        except (FileNotFoundError, ConnectionRefusedError, NotADirectoryError):
            raise NoNode(
                f"No node is running here ({self.path}). Start one with: {self._start}", self._start
            ) from None
        except PermissionError:
            join = self._join()
            raise NotAllowed(
                f"The node at {self.path} belongs to another user; ask it as that user or as root,"
                f" such as with sudo{f', or {join}' if join else ''}",
                "ask it as root, such as with sudo",
            ) from None
        except TimeoutError:
            raise self._silent() from None
        except (OSError, RemoteProtocolError) as error:
            raise self._broken(error) from None

    def _read(self, answer: _Answer) -> bytes:
        try:
            return answer.body()
        except TimeoutError:
            raise self._silent() from None
        except (OSError, RemoteProtocolError) as error:
            raise self._broken(error) from None

    def _split(self, answer: _Answer) -> Iterator[bytes]:
        """The lines of an answer that has an end."""
        rest = b""
        while len(rest) <= MAX_LINE:
            try:
                part = answer.part()
            except (OSError, RemoteProtocolError) as error:
                raise self._broken(error) from None
            if not part and not rest:
                return
            if not part:
                break
            *lines, rest = (rest + part).split(b"\n")
            yield from lines
        raise self._stranger()

    def _stranger(self) -> NoNode:
        return NoNode(f"Who answers at {self.path} is no Bzzz node")

    def _broken(self, error: OSError | RemoteProtocolError) -> NoNode:
        if isinstance(error, RemoteProtocolError) and error.code == "not_http":
            return self._stranger()
        return NoNode(f"The node at {self.path} broke off: {error}")

    def _silent(self) -> NoNode:
        return NoNode(f"The node at {self.path} does not answer; its log may tell why")

    def _error(self, answer: _Answer) -> NodeError:
        try:
            error = json.loads(self._read(answer))["error"]
            return NodeError(str(error["code"]), str(error["message"]))
        except (ValueError, KeyError, TypeError):
            return NodeError("unknown", f"the node answered {answer.status} {answer.reason}")
