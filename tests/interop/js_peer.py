"""A js-libp2p peer in a process of its own, driven from a test.

Enters: commands and their arguments, see ``peer.mjs``. Leaves: a Deferred per command, and the
peer's events, which are kept until somebody waits for them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.error import ProcessDone
from twisted.internet.protocol import ProcessProtocol
from twisted.python.failure import Failure

from tests.needs import find_tool, without_files, without_tools

__all__ = ["JSPeer", "JSPeerError", "without_js"]

HERE = Path(__file__).parent

# Seconds. Node starts in about one; the machine of a test may be busy with others.
START_TIMEOUT = 30.0
TIMEOUT = 20.0
STOP_TIMEOUT = 5.0

# Events kept for whoever asks later. More than any test makes.
EVENTS_KEPT = 10_000

Event = dict[str, Any]


def without_js() -> str | None:
    """The reason why no js-libp2p peer can be started, or None."""
    return without_tools("node") or without_files(HERE / "node_modules")


class JSPeerError(Exception):
    """A command failed in the peer, or the peer is gone."""


class JSPeer(ProcessProtocol):
    """One js-libp2p peer. Made by :meth:`spawn`.

    :ivar peer: its peer ID.
    :ivar addrs: where it listens, with its peer ID.
    :ivar events: what happened and nobody has asked for yet.
    """

    def __init__(self, reactor: Any) -> None:
        self.peer = ""
        self.addrs: list[str] = []
        self.events: list[Event] = []
        self._reactor = reactor
        self._buffer = b""
        self._errors = b""
        self._next_id = 1
        self._asked: dict[int, Deferred[Any]] = {}
        self._awaited: list[tuple[Callable[[Event], bool], Deferred[Event]]] = []
        self._ended: Deferred[None] = Deferred()
        self._alive = True

    @classmethod
    async def spawn(cls, reactor: Any, **options: Any) -> JSPeer:
        """Start a peer; the options are those of the command ``start``."""
        node = find_tool("node")
        assert node is not None, "the test has to be skipped where there is no node"
        made = cls(reactor)
        reactor.spawnProcess(
            made, node, [node, "peer.mjs"], env={"PATH": os.environ["PATH"]}, path=str(HERE)
        )
        started = await made.ask("start", START_TIMEOUT, **options)
        made.peer, made.addrs = started["peer"], started["addrs"]
        return made

    def ask(self, command: str, timeout: float = TIMEOUT, **arguments: Any) -> Deferred[Any]:
        """Have the peer do something; fails with :class:`JSPeerError` if it cannot."""
        answered: Deferred[Any] = Deferred()
        if not self._alive:
            answered.errback(JSPeerError(f"{command}: {self._gone()}"))
            return answered
        number, self._next_id = self._next_id, self._next_id + 1
        self._asked[number] = answered
        line = json.dumps({"id": number, "do": command, **arguments})
        self.transport.write(line.encode() + b"\n")  # type: ignore[union-attr]  # alive
        return answered.addTimeout(timeout, self._reactor)

    def event(self, kind: str, timeout: float = TIMEOUT, **fields: Any) -> Deferred[Event]:
        """The next event of this kind with these fields, also if it came before."""

        def fits(event: Event) -> bool:
            return event["event"] == kind and fields.items() <= event.items()

        happened: Deferred[Event] = Deferred()
        for event in self.events:
            if fits(event):
                self.events.remove(event)
                happened.callback(event)
                return happened
        self._awaited.append((fits, happened))
        return happened.addTimeout(timeout, self._reactor)

    async def stop(self) -> None:
        """End the process: its stdin ends, and if that is not enough it is killed."""
        if not self._alive:
            return
        self.transport.closeStdin()  # type: ignore[union-attr]  # alive
        kill = self._reactor.callLater(
            STOP_TIMEOUT,
            self.transport.signalProcess,  # type: ignore[union-attr]  # alive
            "KILL",
        )
        await self._ended
        if kill.active():
            kill.cancel()

    # -- ProcessProtocol

    def outReceived(self, data: bytes) -> None:
        """Lines of the peer."""
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        for line in lines:
            self._line(json.loads(line))

    def errReceived(self, data: bytes) -> None:
        """Kept for what is said when it dies."""
        self._errors += data

    def processEnded(self, reason: Failure) -> None:
        """Nothing more comes."""
        self._alive = False
        waiting = list(self._asked.values())
        self._asked.clear()
        for answered in waiting:
            answered.errback(JSPeerError(self._gone()))
        if not reason.check(ProcessDone) and not waiting:
            self.events.append({"event": "died", "why": self._gone()})
        self._ended.callback(None)

    # -- inside

    def _gone(self) -> str:
        return f"the js-libp2p peer is gone: {self._errors.decode(errors='replace')}"

    def _line(self, message: Event) -> None:
        if "event" in message:
            self._happened(message)
            return
        answered = self._asked.pop(message["id"])
        if answered.called:
            return  # it came too late
        if "error" in message:
            answered.errback(JSPeerError(message["error"]))
        else:
            answered.callback(message["ok"])

    def _happened(self, event: Event) -> None:
        for entry in self._awaited:
            fits, happened = entry
            if not happened.called and fits(event):
                self._awaited.remove(entry)
                happened.callback(event)
                return
        if len(self.events) < EVENTS_KEPT:
            self.events.append(event)
