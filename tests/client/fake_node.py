"""A node's control socket, which answers what a test says."""

from __future__ import annotations

import base64
import json
import select
import socket
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

__all__ = ["NEXT", "FakeNode", "chunks", "error", "line", "output", "stay", "task", "whole"]

# Seconds that a test waits for what has to come.
PATIENCE = 10.0

ID = "01M8FBHHWDNKCVYPDZSV3JBWDY"

# What is done on a connection once its question is there: bytes to send, or a function of it, which
# tells whether the client has hung up.
Step = bytes | Callable[[socket.socket], bool]


def NEXT(connection: socket.socket) -> bool:
    """A step: the next question on the same connection."""
    raise NotImplementedError


class Asked(NamedTuple):
    """A question."""

    method: str
    path: str
    body: Any


class FakeNode:
    """Answers one connection after the other, each by its steps, and closes it.

    :ivar asked: the questions, once they were read.
    :ivar closed: how many connections are over.
    :ivar left: whether a client has hung up before the steps of its connection were over.
    """

    def __init__(self, path: Path) -> None:
        self.asked: list[Asked] = []
        self.closed = 0
        self.left = threading.Event()
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind(str(path))
        self._listening.listen()
        self._listening.settimeout(PATIENCE)
        self._thread: threading.Thread | None = None

    def serve(self, *connections: Iterable[Step]) -> None:
        """Answer so many connections."""
        self._thread = threading.Thread(target=self._run, args=(connections,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Wait until all were answered."""
        if self._thread is not None:
            self._thread.join(PATIENCE)
        self._listening.close()

    def _run(self, connections: Iterable[Iterable[Step]]) -> None:
        for steps in connections:
            connection, _ = self._listening.accept()
            with connection:
                connection.settimeout(PATIENCE)
                try:
                    self.asked.append(_read(connection))
                    for step in steps:
                        if step is NEXT:
                            self.asked.append(_read(connection))
                        elif isinstance(step, bytes):
                            connection.sendall(step)
                        elif step(connection):
                            self.left.set()
                except (BrokenPipeError, ConnectionResetError):
                    self.left.set()
            self.closed += 1


def _read(connection: socket.socket) -> Asked:
    data = b""
    while b"\r\n\r\n" not in data:
        more = connection.recv(65536)
        if not more:
            raise ConnectionResetError
        data += more
    head, _, body = data.partition(b"\r\n\r\n")
    first, *fields = head.decode().split("\r\n")
    names = dict(field.lower().split(": ", 1) for field in fields)
    while len(body) < int(names.get("content-length", "0")):
        body += connection.recv(65536)
    method, path, _ = first.split(" ")
    if body and names["content-type"] != "application/json":
        raise ValueError(names["content-type"])
    return Asked(method, path, json.loads(body) if body else None)


# -- steps


def whole(value: object, status: str = "200 OK", *, keep: bool = False) -> bytes:
    """An answer of JSON, the last one on its connection unless that is kept."""
    body = json.dumps(value).encode()
    head = b"HTTP/1.1 %s\r\n%sContent-Length: %d\r\n\r\n"
    return head % (status.encode(), _close(keep), len(body)) + body


def error(
    code: str, message: str = "no", status: str = "409 Conflict", *, keep: bool = False
) -> bytes:
    """An answer that is an error."""
    return whole({"error": {"code": code, "message": message}}, status, keep=keep)


def line(**fields: object) -> bytes:
    """A line of an answer."""
    return json.dumps(fields).encode() + b"\n"


def output(stream: str, data: bytes) -> bytes:
    """A line with a part of a task's output."""
    return line(event=stream, data=base64.b64encode(data).decode())


def chunks(*parts: bytes, end: bool = True, keep: bool = False) -> bytes:
    """An answer of lines, which is whole or not, and the last one unless that is kept."""
    head = b"HTTP/1.1 200 OK\r\n%sTransfer-Encoding: chunked\r\n\r\n" % _close(keep)
    body = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts)
    return head + body + (b"0\r\n\r\n" if end else b"")


def _close(keep: bool) -> bytes:
    return b"" if keep else b"Connection: close\r\n"


def task(state: str = "done", **fields: object) -> dict[str, object]:
    """A TaskInfo."""
    return {"id": ID, "state": state, "exit_status": 0 if state == "done" else None, **fields}


def stay(connection: socket.socket) -> bool:
    """A step: wait until the client hangs up."""
    return bool(select.select([connection], [], [], PATIENCE)[0]) and not _more(connection)


def _more(connection: socket.socket) -> bytes:
    try:
        return connection.recv(1)
    except ConnectionResetError:
        return b""
