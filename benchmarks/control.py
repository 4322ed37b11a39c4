"""Real nodes as child processes, and what their control sockets say."""

from __future__ import annotations

import datetime
import http.client
import json
import socket
import sys
from pathlib import Path
from typing import Any

__all__ = ["ask", "events", "node_command", "when"]

# Seconds that an answer may take while a hundred nodes start on two cores.
ANSWER_TIMEOUT = 30.0


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=ANSWER_TIMEOUT)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(ANSWER_TIMEOUT)
        self.sock.connect(str(self._path))


def node_command(name: str, directory: Path, *options: str) -> list[str]:
    """The command of a node that lives on loopback and keeps everything in ``directory``."""
    return [
        *(sys.executable, "-c", "from twisted.scripts.twistd import run; run()"),
        *("--nodaemon", "--pidfile=", "bzzz", "--name", name, "--interface", "lo"),
        *("--state-dir", str(directory / "state"), "--runtime-dir", str(directory / "run")),
        *options,
    ]


def _get(directory: Path, path: str) -> bytes:
    connection = _Connection(directory / "run" / "control.sock")
    try:
        connection.request("GET", f"/v1/{path}")
        answer = connection.getresponse()
        body = answer.read()
    finally:
        connection.close()
    if answer.status != 200:
        raise OSError(f"/v1/{path} answered {answer.status}: {body!r}")
    return body


def ask(directory: Path, path: str) -> Any:
    """The JSON that the node in ``directory`` answers, such as of ``status``.

    :raises OSError: it does not answer, perhaps not yet.
    """
    return json.loads(_get(directory, path))


def events(directory: Path) -> list[dict[str, Any]]:
    """What happened to that node of late, the oldest first."""
    return [json.loads(line) for line in _get(directory, "events").splitlines()]


def when(time: str) -> float:
    """Seconds since the epoch, of a time as events have it: in milliseconds."""
    return datetime.datetime.fromisoformat(time).timestamp()
