"""Serf agents as child processes, and their RPC.

Serf's RPC is msgpack over TCP: a map as header, and for some answers a body after it
(https://github.com/hashicorp/serf, docs/agent/rpc). What is read of msgpack is what agents send.
"""

from __future__ import annotations

import selectors
import shutil
import socket
import struct
import subprocess
import time
from collections.abc import Iterable
from typing import Any

import msgspec

from benchmarks.common import Children

__all__ = ["Agent", "available", "watch"]

# Ports of the first agent, for gossip and for RPC; the others' follow.
GOSSIP_PORT = 21000
RPC_PORT = 22000

# Seconds for an agent to answer.
TIMEOUT = 20.0

# First bytes of msgpack: of what follows it, the format of its size.
SIZES = {
    # Bytes and strings, arrays, maps.
    **dict(zip((0xC4, 0xC5, 0xC6, 0xD9, 0xDA, 0xDB), (">B", ">H", ">I") * 2, strict=True)),
    **dict(zip((0xDC, 0xDD, 0xDE, 0xDF), (">H", ">I") * 2, strict=True)),
}
NUMBERS = {0xCA + index: f">{form}" for index, form in enumerate("fdBHIQbhiq")}


class Incomplete(Exception):
    """There is more to come."""


def unpack(data: bytes, at: int) -> tuple[Any, int]:
    """The object that begins at ``at``, and where it ends. Strings of Go may hold any bytes.

    :raises Incomplete: it does not end yet.
    """

    def take(size: int) -> bytes:
        nonlocal at
        if at + size > len(data):
            raise Incomplete
        at += size
        return data[at - size : at]

    def number(form: str) -> Any:
        return struct.unpack(form, take(struct.calcsize(form)))[0]

    def one() -> Any:
        nonlocal at
        first = take(1)[0]
        if first < 0x80:
            return first
        if first >= 0xE0:
            return first - 0x100
        if first in (0xC0, 0xC2, 0xC3):
            return {0xC0: None, 0xC2: False, 0xC3: True}[first]
        if first in NUMBERS:
            return number(NUMBERS[first])
        size = number(SIZES[first]) if first in SIZES else first & (0x1F if first >= 0xA0 else 0x0F)
        if first < 0x90 or first in (0xDE, 0xDF):
            return {str(one()): one() for _ in range(size)}
        if first < 0xA0 or first in (0xDC, 0xDD):
            return [one() for _ in range(size)]
        return take(size).decode("utf-8", "replace")

    return one(), at


def available() -> bool:
    """Whether Serf is installed."""
    return shutil.which("serf") is not None


def _command(number: int) -> list[str]:
    command = ["serf", "agent", f"-node=s{number}", "-profile=lan", "-log-level=err"]
    command += [f"-bind=127.0.0.1:{GOSSIP_PORT + number}"]
    command += [f"-rpc-addr=127.0.0.1:{RPC_PORT + number}"]
    return [*command, f"-join=127.0.0.1:{GOSSIP_PORT}"] if number else command


class Agent:
    """An agent on loopback, and a connection to its RPC.

    :param children: that it becomes one of; None for one more connection to an agent.
    """

    def __init__(self, children: Children | None, number: int) -> None:
        self.name = f"s{number}"
        self._port = RPC_PORT + number
        self._socket: socket.socket | None = None
        self._buffer = b""
        self._sequence = 0
        if children is not None:
            self.process = children.start(
                _command(number),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )

    def connect(self) -> None:
        """Wait until it listens, and connect.

        :raises TimeoutError: it does not.
        """
        deadline = time.monotonic() + TIMEOUT
        while True:
            try:
                self._socket = socket.create_connection(("127.0.0.1", self._port), TIMEOUT)
                break
            except OSError:
                if time.monotonic() > deadline:
                    raise TimeoutError(f"{self.name} does not listen") from None
                time.sleep(0.01)
        self._call("handshake", {"Version": 1})

    def alive(self) -> int:
        """How many agents it sees alive, itself among them."""
        self._call("stats")
        serf = self._next()["serf"]
        return int(serf["members"]) - int(serf["failed"]) - int(serf["left"])

    def stream(self) -> None:
        """Have it tell everything that happens from now on."""
        self._call("stream", {"Type": "*"})

    def user_event(self, name: str) -> None:
        """Tell all agents something; only for one that does not stream on this connection."""
        self._call("event", {"Name": name, "Payload": "", "Coalesce": False})

    def fileno(self) -> int:
        """For a selector."""
        assert self._socket is not None
        return self._socket.fileno()

    def told(self) -> list[dict[str, Any]]:
        """What it has told since it was asked last, after its socket became readable."""
        assert self._socket is not None
        data = self._socket.recv(65536)
        if not data:
            raise ConnectionError(f"{self.name} has ended")
        self._buffer += data
        found: list[dict[str, Any]] = []
        while True:
            try:
                _, at = unpack(self._buffer, 0)
                body, at = unpack(self._buffer, at)
            except Incomplete:
                return found
            self._buffer = self._buffer[at:]
            found.append(body)

    def close(self) -> None:
        """Hang up."""
        if self._socket is not None:
            self._socket.close()

    def _call(self, command: str, body: dict[str, Any] | None = None) -> None:
        assert self._socket is not None
        self._sequence += 1
        message = msgspec.msgpack.encode({"Command": command, "Seq": self._sequence})
        if body is not None:
            message += msgspec.msgpack.encode(body)
        self._socket.sendall(message)
        header = self._next()
        if header.get("Error"):
            raise RuntimeError(f"{self.name}: {command}: {header['Error']}")

    def _next(self) -> dict[str, Any]:
        assert self._socket is not None
        while True:
            try:
                found, at = unpack(self._buffer, 0)
            except Incomplete:
                data = self._socket.recv(65536)
                if not data:
                    raise ConnectionError(f"{self.name} has ended") from None
                self._buffer += data
            else:
                self._buffer = self._buffer[at:]
                return dict(found)


def watch(
    agents: Iterable[Agent], what: dict[str, str], about: str | None, timeout: float
) -> float | None:
    """Seconds until the last of the streaming agents has told of an event; None if not all do.

    :param what: fields that the event has.
    :param about: the member that it names.
    """
    start = time.monotonic()
    with selectors.DefaultSelector() as selector:
        waiting = set()
        for agent in agents:
            selector.register(agent.fileno(), selectors.EVENT_READ, agent)
            waiting.add(agent)
        while waiting and (left := start + timeout - time.monotonic()) > 0:
            for key, _ in selector.select(left):
                agent = key.data
                for event in agent.told():
                    members = [member["Name"] for member in event.get("Members") or []]
                    if what.items() <= event.items() and (about is None or about in members):
                        waiting.discard(agent)
    return None if waiting else time.monotonic() - start
