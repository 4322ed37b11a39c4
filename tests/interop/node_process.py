"""A Bzzz node in a process of its own, started as a user starts it, and asked as a user asks it.

Enters: a directory that is the test's. Leaves: where it listens, and what ``bzzz --json`` prints.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.protocol import ProcessProtocol
from twisted.internet.utils import getProcessOutputAndValue
from twisted.python.failure import Failure

__all__ = ["NodeProcess"]

ROOT = Path(__file__).resolve().parent.parent.parent
TWISTD = str(Path(sys.executable).parent / "twistd")

# Seconds. It starts in about one; the machine of a test may be busy with others.
START_TIMEOUT = 30.0
STOP_TIMEOUT = 5.0

# What it logs when it can be dialled and asked.
LISTENING = b"Listening on "


class NodeProcess(ProcessProtocol):
    """One node, on the loopback interface.

    :param directory: where it keeps its identity.
    """

    def __init__(self, reactor: Any, directory: Path) -> None:
        self._reactor = reactor
        self._directory = directory
        # The path of a UNIX socket may have 107 bytes, which trial's directories alone can exceed.
        self._runtime = tempfile.TemporaryDirectory(prefix="bzzz-interop-")
        self._log = b""
        self._listens: Deferred[None] = Deferred()
        self._ended: Deferred[None] = Deferred()
        self._alive = False

    async def start(self, *options: str) -> str:
        """Start it with these options; returns the address to dial, with its peer ID."""
        argv = [TWISTD, "--nodaemon", "--pidfile=", "bzzz", "--name", "interop"]
        argv += ["--interface", "127.0.0.1", "--state-dir", str(self._directory)]
        argv += ["--runtime-dir", self._runtime.name, *options]
        self._alive = True
        self._reactor.spawnProcess(self, TWISTD, argv, env=self._environment(), path=str(ROOT))
        await self._listens.addTimeout(START_TIMEOUT, self._reactor)
        (address,) = (await self.ask("id"))["addresses"]
        return str(address)

    async def ask(self, *command: str) -> Any:
        """What ``bzzz --json COMMAND`` prints."""
        argv = ["-m", "bzzz.cli", "--runtime-dir", self._runtime.name, *command, "--json"]
        output, errors, code = await getProcessOutputAndValue(
            sys.executable, argv, env=self._environment(), path=str(ROOT)
        )
        if code:
            raise AssertionError(f"bzzz {' '.join(command)} ended with {code}: {errors.decode()}")
        return json.loads(output)

    async def stop(self) -> None:
        """Have it leave in order, or kill it if it does not; nothing may have failed in it."""
        if self._alive:
            self.transport.signalProcess("INT")  # type: ignore[union-attr]  # alive
            kill = self._reactor.callLater(
                STOP_TIMEOUT,
                self.transport.signalProcess,  # type: ignore[union-attr]  # alive
                "KILL",
            )
            await self._ended
            if kill.active():
                kill.cancel()
        self._runtime.cleanup()
        if b"Traceback" in self._log:
            raise AssertionError(f"something failed in the node: {self._log.decode()}")

    # -- ProcessProtocol

    def outReceived(self, data: bytes) -> None:
        """Lines of its log."""
        self._log += data
        if LISTENING in self._log and not self._listens.called:
            self._listens.callback(None)

    def errReceived(self, data: bytes) -> None:
        """Kept for what is said when it dies."""
        self._log += data

    def processEnded(self, reason: Failure) -> None:
        """Nothing more comes."""
        self._alive = False
        if not self._listens.called:
            said = self._log.decode(errors="replace")
            self._listens.errback(AssertionError(f"the node did not start: {said}"))
        self._ended.callback(None)

    # -- inside

    def _environment(self) -> dict[str, str]:
        # Nothing that configures a node of the user's.
        kept = {key: value for key, value in os.environ.items() if key[:5] != "BZZZ_"}
        return {**kept, "PYTHONUNBUFFERED": "1"}
