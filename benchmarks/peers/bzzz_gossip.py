"""Some of Bzzz's pubsub nodes in one process, for the pubsub benchmark.

    python -m benchmarks.peers.bzzz_gossip COUNT

Says ``{"addresses": [...]}``, then answers each line of JSON on stdin with one on stdout:

======================================== ==========================================================
``{"do": "dial", "pairs": [[n, addr]]}`` node n dials; ``{"dialled": pairs}``
``{"do": "ready", "peers": p}``          once each knows p others in the topic: ``{"ready": p}``
``{"do": "publish", "count", "interval",
"delay", "size"}``                       the nodes in turn, one message each interval: ``{"sent"}``
``{"do": "flood", "seconds", "window",
"size"}``                                as fast as goes, at most ``window`` not yet with all nodes
                                         of this process: ``{"sent", "first"}``
``{"do": "report"}``                     since the last: ``{"delivered", "ms": [...], "last"}``
======================================== ==========================================================

Times are CLOCK_MONOTONIC, which processes share; a message begins with that of its publishing.
"""

from __future__ import annotations

import json
import os
import random
import struct
import sys
import time
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater, react
from twisted.protocols.basic import LineOnlyReceiver

from bzzz.identity.keys import PrivateKey
from bzzz.identity.peer_id import PeerID
from bzzz.mesh.pubsub import PubSub, ValidationResult
from bzzz.net.swarm import Swarm
from bzzz.net.tcp import TCPNetwork
from bzzz.wire.gossip_params import GossipParams
from bzzz.wire.gossipsub import Message
from bzzz.wire.multiaddr import Multiaddr

__all__ = ["Nodes"]

TOPIC = "bench"
STAMP = struct.Struct(">dI")


class Nodes:
    """The nodes, and what was delivered to them."""

    def __init__(self, reactor: Any, count: int) -> None:
        self._reactor = reactor
        self._swarms: list[Swarm] = []
        self._pubsubs: list[PubSub] = []
        self._latencies: list[float] = []
        self._last = 0.0
        self._number = 0
        # How many nodes of this process each of its own messages has still to reach.
        self._outstanding: dict[int, int] = {}
        self._room: Deferred[None] | None = None
        for _ in range(count):
            key = PrivateKey.generate(os.urandom)
            swarm = Swarm(key, reactor, TCPNetwork(reactor), os.urandom, "bench", "bench")
            pubsub = PubSub(swarm, key, reactor, random.Random(), GossipParams(), time.time_ns())
            pubsub.subscribe(TOPIC, lambda *_: ValidationResult.ACCEPT, self._delivered)
            pubsub.start()
            self._swarms.append(swarm)
            self._pubsubs.append(pubsub)
        self._own = {swarm.peer_id for swarm in self._swarms}

    async def listen(self) -> dict[str, Any]:
        """Each on a port of its own."""
        ports = [await swarm.listen("127.0.0.1", 0) for swarm in self._swarms]
        return {
            "addresses": [
                f"/ip4/127.0.0.1/tcp/{port}/p2p/{swarm.peer_id}"
                for swarm, port in zip(self._swarms, ports, strict=True)
            ]
        }

    async def dial(self, pairs: list[tuple[int, str]]) -> dict[str, Any]:
        """Dial."""
        for number, text in pairs:
            address = Multiaddr.parse(text)
            await self._swarms[number].dial([address], address.peer_id)
        return {"dialled": len(pairs)}

    async def ready(self, peers: int) -> dict[str, Any]:
        """Wait for everybody."""
        for pubsub in self._pubsubs:
            while len(pubsub.topic_peers(TOPIC)) < peers:
                await self._sleep(0.05)
        return {"ready": peers}

    async def publish(self, count: int, interval: float, delay: float, size: int) -> dict[str, Any]:
        """At a steady rate."""
        await self._sleep(delay)
        start = time.monotonic()
        for index in range(count):
            await self._sleep(max(0.0, start + index * interval - time.monotonic()))
            self._publish(size)
        return {"sent": count}

    async def flood(self, seconds: float, window: int, size: int) -> dict[str, Any]:
        """As fast as goes."""
        first, sent = time.monotonic(), 0
        while time.monotonic() < first + seconds:
            if len(self._outstanding) >= window:
                self._room = Deferred()
                await self._room
            self._publish(size)
            sent += 1
        return {"sent": sent, "first": first}

    async def report(self) -> dict[str, Any]:
        """What was delivered since."""
        latencies, self._latencies = self._latencies, []
        return {"delivered": len(latencies), "ms": latencies, "last": self._last}

    def _sleep(self, seconds: float) -> Deferred[None]:
        slept: Deferred[None] = deferLater(self._reactor, seconds)
        return slept

    def _publish(self, size: int) -> None:
        pubsub = self._pubsubs[self._number % len(self._pubsubs)]
        self._number += 1
        if len(self._pubsubs) > 1:
            self._outstanding[self._number] = len(self._pubsubs) - 1
        stamp = STAMP.pack(time.monotonic(), self._number)
        pubsub.publish(TOPIC, stamp + bytes(size - STAMP.size))

    def _delivered(self, message: Message, sender: PeerID) -> None:
        self._last = time.monotonic()
        published, number = STAMP.unpack_from(message.data)
        self._latencies.append((self._last - published) * 1000)
        if message.origin not in self._own:
            return
        self._outstanding[number] -= 1
        if not self._outstanding[number]:
            del self._outstanding[number]
            if self._room is not None:
                room, self._room = self._room, None
                # Not in the middle of the pubsub's work.
                self._reactor.callLater(0, room.callback, None)


class Commands(LineOnlyReceiver):
    """Reads a line, answers it."""

    delimiter = b"\n"
    MAX_LENGTH = 1 << 20

    def __init__(self, nodes: Nodes, done: Callable[[], None]) -> None:
        self._nodes = nodes
        self._done = done

    def lineReceived(self, line: bytes) -> None:
        command = json.loads(line)
        method = getattr(self._nodes, command.pop("do"))
        Deferred.fromCoroutine(method(**command)).addCallback(self._say)

    def _say(self, message: dict[str, Any]) -> None:
        # A report is longer than a pipe holds, and the pipe does not block here.
        self.transport.write(json.dumps(message).encode() + b"\n")  # type: ignore[union-attr]  # connected

    def connectionLost(self, *_: object) -> None:
        self._done()


async def run(reactor: Any, count: int) -> None:
    """Until stdin closes."""
    from twisted.internet.stdio import StandardIO

    nodes = Nodes(reactor, count)
    print(json.dumps(await nodes.listen()), flush=True)
    done: Deferred[None] = Deferred()
    StandardIO(Commands(nodes, lambda: done.callback(None)))
    await done


if __name__ == "__main__":
    react(lambda reactor: Deferred.fromCoroutine(run(reactor, int(sys.argv[1]))))
