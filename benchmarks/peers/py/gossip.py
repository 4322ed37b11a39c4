"""Some of py-libp2p's gossipsub nodes in one process: the lines of ``bzzz_gossip.py``."""

# mypy: disable-error-code="import-not-found, import-untyped"

from __future__ import annotations

import json
import os
import struct
import sys
import time
from contextlib import AsyncExitStack
from typing import Any

import host as py
import trio
from libp2p.pubsub.gossipsub import GossipSub
from libp2p.pubsub.pubsub import Pubsub
from libp2p.tools.anyio_service import background_trio_service

TOPIC = "bench"
STAMP = struct.Struct(">dI")


class Nodes:
    """The nodes, and what was delivered to them."""

    def __init__(self) -> None:
        self._hosts: list[Any] = []
        self._pubsubs: list[Any] = []
        self._latencies: list[float] = []
        self._last = 0.0
        self._number = 0
        # How many nodes of this process each of its own messages has still to reach.
        self._outstanding: dict[int, int] = {}
        self._room = trio.Event()
        self._own: set[bytes] = set()

    async def add(self, stack: AsyncExitStack, nursery: Any) -> str:
        """One more; where it listens."""
        made = py.make()
        router = GossipSub(
            protocols=[py.protocol("/meshsub/1.1.0")],
            degree=6,
            degree_low=5,
            degree_high=12,
            # The defaults: a heartbeat each two minutes, and ten messages a second.
            heartbeat_interval=1,
            max_messages_per_topic_per_second=1e9,
            spam_protection_enabled=False,
            eclipse_protection_enabled=False,
        )
        pubsub = Pubsub(made, router, strict_signing=True)
        await stack.enter_async_context(made.run([py.LOOPBACK]))
        await stack.enter_async_context(background_trio_service(pubsub))
        await stack.enter_async_context(background_trio_service(router))
        await pubsub.wait_until_ready()
        self._hosts.append(made)
        self._pubsubs.append(pubsub)
        self._own.add(made.get_id().to_bytes())
        nursery.start_soon(self._read, await pubsub.subscribe(TOPIC), made.get_id().to_bytes())
        address = next(str(one) for one in made.get_addrs() if "127.0.0.1" in str(one))
        return address if "/p2p/" in address else f"{address}/p2p/{made.get_id()}"

    async def dial(self, pairs: list[tuple[int, str]]) -> dict[str, Any]:
        """Dial."""
        for number, address in pairs:
            await py.dial(self._hosts[number], address)
        return {"dialled": len(pairs)}

    async def ready(self, peers: int) -> dict[str, Any]:
        """Wait for everybody."""
        for pubsub in self._pubsubs:
            while len(pubsub.peer_topics.get(TOPIC, ())) < peers:
                await trio.sleep(0.05)
        return {"ready": peers}

    async def publish(self, count: int, interval: float, delay: float, size: int) -> dict[str, Any]:
        """At a steady rate."""
        await trio.sleep(delay)
        start = time.monotonic()
        for index in range(count):
            await trio.sleep(max(0.0, start + index * interval - time.monotonic()))
            await self._publish(size)
        return {"sent": count}

    async def flood(self, seconds: float, window: int, size: int) -> dict[str, Any]:
        """As fast as goes."""
        first, sent = time.monotonic(), 0
        while time.monotonic() < first + seconds:
            if len(self._outstanding) >= window:
                self._room = trio.Event()
                with trio.move_on_after(seconds):
                    await self._room.wait()
                continue
            await self._publish(size)
            sent += 1
        return {"sent": sent, "first": first}

    async def report(self) -> dict[str, Any]:
        """What was delivered since."""
        latencies, self._latencies = self._latencies, []
        return {"delivered": len(latencies), "ms": latencies, "last": self._last}

    async def _publish(self, size: int) -> None:
        pubsub = self._pubsubs[self._number % len(self._pubsubs)]
        self._number += 1
        if len(self._pubsubs) > 1:
            self._outstanding[self._number] = len(self._pubsubs) - 1
        stamp = STAMP.pack(time.monotonic(), self._number)
        await pubsub.publish(TOPIC, stamp + bytes(size - STAMP.size))

    async def _read(self, subscription: Any, own_id: bytes) -> None:
        while True:
            message = await subscription.get()
            # A node gets what it publishes, too.
            if message.from_id == own_id:
                continue
            self._last = time.monotonic()
            published, number = STAMP.unpack_from(message.data)
            self._latencies.append((self._last - published) * 1000)
            if message.from_id in self._own:
                self._outstanding[number] -= 1
                if not self._outstanding[number]:
                    del self._outstanding[number]
                    self._room.set()


async def main(count: int) -> None:
    """Until stdin closes."""
    nodes = Nodes()
    async with AsyncExitStack() as stack, trio.open_nursery() as nursery:
        addresses = [await nodes.add(stack, nursery) for _ in range(count)]
        py.say({"addresses": addresses})
        while line := await trio.to_thread.run_sync(sys.stdin.readline):
            command = json.loads(line)
            py.say(await getattr(nodes, command.pop("do"))(**command))
        # Leaving in order takes seconds.
        os._exit(0)


if __name__ == "__main__":
    trio.run(main, int(sys.argv[1]))
