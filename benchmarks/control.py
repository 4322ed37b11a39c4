"""Real nodes as child processes, and what their control sockets say."""

from __future__ import annotations

import datetime
import http.client
import json
import re
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.common import Children
from benchmarks.peers.bzzz_node import TURNS

__all__ = ["Node", "when"]

# Seconds that an answer may take while a hundred nodes start on two cores.
ANSWER_TIMEOUT = 60.0

# Seconds for a node to listen, likewise.
START_TIMEOUT = 180.0

LISTENING = re.compile(rb"^(\S+) \[info\] Listening on ", re.MULTILINE)


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=ANSWER_TIMEOUT)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(ANSWER_TIMEOUT)
        self.sock.connect(str(self._path))


def when(text: str) -> float:
    """Seconds since the epoch, of a time as events and log lines have it: in milliseconds."""
    return datetime.datetime.fromisoformat(text).timestamp()


class Node:
    """A whole node on loopback, with directories of its own.

    :param directory: to be made, for everything it keeps.
    :param environment: of the process.
    """

    def __init__(
        self, children: Children, name: str, directory: Path, environment: dict[str, str]
    ) -> None:
        self.name = name
        self.directory = directory
        directory.mkdir(parents=True)
        self._turns = directory / "turns"
        self._log = directory / "log"
        command = [sys.executable, "-m", "benchmarks.peers.bzzz_node", str(self._turns)]
        command += ["--nodaemon", "--pidfile=", "bzzz", "--name", name, "--interface", "lo"]
        command += ["--state-dir", str(directory / "state")]
        command += ["--runtime-dir", str(directory / "run")]
        with self._log.open("wb") as output:
            self.process = children.start(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
            )

    @property
    def pid(self) -> int:
        """Of its process."""
        return self.process.pid

    def listening(self) -> float:
        """Wait until it listens; since when, in seconds since the epoch.

        :raises TimeoutError: it does not, or has ended.
        """
        deadline = time.monotonic() + START_TIMEOUT
        while True:
            log = self._log.read_bytes()
            if match := LISTENING.search(log):
                return when(match[1].decode())
            if self.process.poll() is not None or time.monotonic() > deadline:
                said = log.decode(errors="replace")[-500:]
                raise TimeoutError(f"{self.name} does not listen; its log ends with:\n{said}")
            time.sleep(0.02)

    def ask(self, path: str) -> Any:
        """The JSON that it answers, such as of ``status``.

        :raises OSError: it does not answer, perhaps not yet.
        """
        return json.loads(self._get(path))

    def events(self) -> list[dict[str, Any]]:
        """What happened to it of late, the oldest first."""
        return [json.loads(line) for line in self._get("events").splitlines()]

    def _get(self, path: str) -> bytes:
        connection = _Connection(self.directory / "run" / "control.sock")
        try:
            connection.request("GET", f"/v1/{path}")
            answer = connection.getresponse()
            body = answer.read()
        finally:
            connection.close()
        if answer.status != 200:
            raise OSError(f"{self.name}: /v1/{path} answered {answer.status}: {body!r}")
        return body

    def longest_turn(self) -> tuple[float, float]:
        """The longest turn of its reactor since this was asked last, in seconds: wall, CPU."""
        with self._turns.open("r+b") as file:
            wall, cpu = TURNS.unpack(file.read(TURNS.size))
            file.seek(0)
            file.write(bytes(TURNS.size))
        return wall, cpu
