"""The control API from the outside: HTTP over a UNIX socket, without Twisted.

Enters: the socket's path and what is asked. Leaves: JSON, or an error that says what to do.
"""

from __future__ import annotations

import http.client
import json
import socket
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

__all__ = ["NoNode", "NodeClient", "NodeError", "NotAllowed"]

# Seconds for an answer that needs no work. A node that is starved of CPU still gets to it.
TIMEOUT = 10.0

# Seconds between two tries to ask a node that is starting, and how many tries: 10 s of them.
AGAIN = 0.1
TRIES = 100

# Bytes of one line; the node's own limit for one of events is 64 KiB.
MAX_LINE = 1 << 20


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


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout: float | None) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.unix = self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))

    def wait_for_ever(self) -> None:
        """Read without a limit from now on; to be called after the answer has begun."""
        # ``sock`` is gone by then: http.client leaves the socket to the answer.
        self.unix.settimeout(None)


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
        connection = _Connection(self.path, timeout)
        try:
            return self._read(self._ask(connection, "POST", what, body))
        finally:
            connection.close()

    def delete(self, what: str, timeout: float = TIMEOUT) -> Any:
        """The answer to ``DELETE /v1/<what>``, likewise."""
        return self._answer("DELETE", what, None, timeout)

    def stream(self, what: str, body: object = None) -> Generator[Any, None, None]:
        """What is answered to ``POST /v1/<what>``, line by line, as it comes.

        Whoever closes the iterator hangs up.

        :raises NoNode: nobody answers, or the node was killed before the end.
        :raises NodeError: the answer is an error, or a line is.
        """
        connection = _Connection(self.path, TIMEOUT)
        try:
            response = self._ask(connection, "POST", what, body)
            # The next line may be long in coming.
            connection.wait_for_ever()
            for line in self._split(response):
                answer = json.loads(line)
                match answer:
                    case {"error": {"code": str(code), "message": str(message)}}:
                        raise NodeError(code, message)
                yield answer
        except (json.JSONDecodeError, UnicodeDecodeError):
            raise self._stranger() from None
        finally:
            connection.close()

    def lines(self, what: str, follow: bool) -> Iterator[str]:
        """The lines of ``GET /v1/<what>`` as they come; ends when the node does.

        :raises NoNode: nobody answers.
        :raises NodeError: the answer is an error.
        """
        connection = _Connection(self.path, TIMEOUT)
        try:
            response = self._ask(connection, "GET", what)
            if follow:
                # The next event may be long in coming.
                connection.wait_for_ever()
            while True:
                try:
                    line = response.readline(MAX_LINE)
                except (OSError, http.client.HTTPException):
                    # The node was killed: the events end here.
                    return
                if not line:
                    return
                yield line.decode("utf-8", "replace").rstrip("\n")
        finally:
            connection.close()

    def _answer(self, method: str, what: str, body: object, timeout: float) -> Any:
        connection = _Connection(self.path, timeout)
        try:
            response = self._ask(connection, method, what, body)
            return json.loads(self._read(response))
        except (json.JSONDecodeError, UnicodeDecodeError):
            raise self._stranger() from None
        finally:
            connection.close()

    def _ask(
        self, connection: _Connection, method: str, what: str, body: object = None
    ) -> http.client.HTTPResponse:
        """Ask; again as long as the node is starting, and so has done nothing."""
        for left in reversed(range(TRIES)):
            response = self._ask_once(connection, method, what, body)
            if response.status == http.client.OK:
                return response
            error = self._error(response)
            if error.code != "starting" or not left:
                raise error
            connection.close()
            self._sleep(AGAIN)
        raise self._silent()

    def _ask_once(
        self, connection: _Connection, method: str, what: str, body: object
    ) -> http.client.HTTPResponse:
        headers = {"Connection": "close"}
        content = None
        if isinstance(body, bytes):
            headers["Content-Type"] = "application/octet-stream"
            content = body
        elif body is not None:
            headers["Content-Type"] = "application/json"
            content = json.dumps(body).encode()
        try:
            connection.request(method, f"/v1/{what}", content, headers)
            return connection.getresponse()
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
        except (OSError, http.client.HTTPException) as error:
            raise NoNode(f"The node at {self.path} broke off: {error or 'no answer'}") from None

    def _read(self, response: http.client.HTTPResponse) -> bytes:
        try:
            return response.read()
        except TimeoutError:
            raise self._silent() from None
        except (OSError, http.client.HTTPException) as error:
            raise NoNode(f"The node at {self.path} broke off: {error}") from None

    def _split(self, response: http.client.HTTPResponse) -> Iterator[bytes]:
        """The lines of an answer that has an end; readline() does not tell it from a broken one."""
        rest = b""
        while len(rest) <= MAX_LINE:
            try:
                part = response.read1(MAX_LINE)
            except (OSError, http.client.HTTPException) as error:
                raise NoNode(f"The node at {self.path} broke off: {error}") from None
            if not part and not rest:
                return
            if not part:
                break
            *lines, rest = (rest + part).split(b"\n")
            yield from lines
        raise self._stranger()

    def _stranger(self) -> NoNode:
        return NoNode(f"Who answers at {self.path} is no Bzzz node")

    def _silent(self) -> NoNode:
        return NoNode(f"The node at {self.path} does not answer; its log may tell why")

    def _error(self, response: http.client.HTTPResponse) -> NodeError:
        try:
            error = json.loads(self._read(response))["error"]
            return NodeError(str(error["code"]), str(error["message"]))
        except (ValueError, KeyError, TypeError):
            return NodeError("unknown", f"the node answered {response.status} {response.reason}")
