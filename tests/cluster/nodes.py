"""Real node processes on hosts, and what their control sockets say.

Enters: a host and the options of ``twistd bzzz``. Leaves: what the node answers, and when what
happened, from the node's own events: all on one machine's clock.
"""

from __future__ import annotations

import datetime
import http.client
import json
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tests.cluster.netns import Host, until

__all__ = ["NodeProcess", "when"]

ROOT = Path(__file__).resolve().parent.parent.parent
TWISTD = str(Path(sys.executable).parent / "twistd")

# For an answer of the control socket, in seconds. A machine that tests may be busy.
ANSWER_TIMEOUT = 10.0
START_TIMEOUT = 30.0
STOP_TIMEOUT = 10.0

# The line that a node logs once it listens.
LISTENING = re.compile(rb"^(\S+) \[info\] Listening on ", re.MULTILINE)

Event = dict[str, Any]


def when(text: str) -> float:
    """Seconds since the epoch, of a time as events and log lines have it."""
    return datetime.datetime.fromisoformat(text).timestamp()


class _ControlConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=ANSWER_TIMEOUT)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(ANSWER_TIMEOUT)
        self.sock.connect(str(self._path))


class NodeProcess:
    """A node that can be started, killed and started again on one state directory.

    :param niceness: of the process; below zero, it goes before what else the machine does.
    :ivar started: when the process was last started, in seconds since the epoch.
    """

    def __init__(self, host: Host, directory: Path, *options: str, niceness: int = 0) -> None:
        self.host = host
        self.name = host.name
        self.directory = directory
        self.started = 0.0
        self._options = options
        self._niceness = niceness
        self._log = directory / "log"
        self._log_start = 0
        self._process: subprocess.Popen[bytes] | None = None
        directory.mkdir(parents=True)

    def start(self, *options: str) -> None:
        """Start the process, with these options beside the usual ones."""
        assert self._process is None or self._process.poll() is not None, "it still runs"
        self._log_start = self._log.stat().st_size if self._log.exists() else 0
        argv = ["nice", "-n", str(self._niceness)]
        argv += [TWISTD, "--nodaemon", "bzzz", "--name", self.name]
        argv += ["--state-dir", str(self.directory / "state")]
        argv += ["--runtime-dir", str(self.directory / "run")]
        with self._log.open("ab") as output:
            self.started = time.time()
            self._process = self.host.start(
                [*argv, *self._options, *options],
                output,
                {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", "HOME": str(self.directory)},
            )

    @property
    def log(self) -> str:
        """Everything it has logged since its last start."""
        with self._log.open("rb") as file:
            file.seek(self._log_start)
            return file.read().decode(errors="replace")

    def listening(self) -> float:
        """Wait until it listens; returns since when."""

        def found() -> float | None:
            assert self._process is not None
            if self._process.poll() is not None:
                raise AssertionError(f"{self.name} ended with {self._process.returncode}")
            match = LISTENING.search(self.log.encode())
            return when(match[1].decode()) if match else None

        return until(found, START_TIMEOUT, f"{self.name} listens", 0.01)

    def kill(self) -> float:
        """End it without a chance to say goodbye; returns when."""
        assert self._process is not None
        at = time.time()
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()
        return at

    def stop(self) -> int:
        """Have it leave in order; returns its exit code, which is negative for a signal."""
        assert self._process is not None
        self._process.send_signal(signal.SIGINT)
        return self._process.wait(STOP_TIMEOUT)

    def suspend(self, suspended: bool) -> None:
        """Stop it in its tracks, or let it go on."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP if suspended else signal.SIGCONT)

    # -- what it says

    def ask(self, path: str) -> Any:
        """The JSON that the control socket answers, such as of ``peers``."""
        return json.loads(self._get(path))

    def status(self) -> Any:
        """The node's own state."""
        return self.ask("status")

    def peers(self) -> list[Any]:
        """Every other node that it knows."""
        peers: list[Any] = self.ask("peers")["peers"]
        return peers

    def connected(self) -> list[str]:
        """The names of those it is linked to; one that is listed twice is here twice."""
        return sorted(str(peer["name"]) for peer in self.peers() if peer["state"] == "connected")

    def events(self, event: str, since: float = 0.0, **fields: Any) -> list[Event]:
        """Its events of this kind and these fields since a time, the oldest first."""
        lines = self._get("events").splitlines()
        return [
            one
            for one in map(json.loads, lines)
            if one["event"] == event
            and when(one["time"]) >= since
            and fields.items() <= one.items()
        ]

    def identity(self) -> tuple[str, str]:
        """Its peer ID, and the port it listens on."""
        status = self.status()
        port = re.search(r"/tcp/(\d+)", " ".join(status["listen_addresses"]))
        assert port is not None, status
        return status["peer_id"], port[1]

    def _get(self, path: str) -> bytes:
        connection = _ControlConnection(self.directory / "run" / "control.sock")
        try:
            connection.request("GET", f"/v1/{path}")
            answer = connection.getresponse()
            body = answer.read()
        finally:
            connection.close()
        assert answer.status == 200, body
        return body
