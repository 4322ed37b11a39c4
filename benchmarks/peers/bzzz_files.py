"""Bzzz's files as one end of the files benchmark: ``serve``, or ``fetch`` from a server.

    python -m benchmarks.peers.bzzz_files serve PLACE TREE
    python -m benchmarks.peers.bzzz_files fetch PLACE ADDRESS DIGEST

Each prints one JSON line; the server goes on until stdin closes.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import LoopingCall, deferLater, react
from twisted.internet.threads import deferToThread

from benchmarks.peers.bzzz_peer import cpu, stdin_end
from bzzz.identity.keys import PrivateKey
from bzzz.net.link import Link
from bzzz.net.ping import PingService
from bzzz.net.swarm import Swarm
from bzzz.net.tcp import TCPNetwork
from bzzz.net.turns import Turns
from bzzz.tasks.files.files import Files
from bzzz.wire.multiaddr import Multiaddr

# Bytes of the cache.
QUOTA = 8 << 30

# Seconds between two pings, and for how long they are measured with nothing else going on.
PING_EVERY = 0.01
IDLE = 2.0


class Pinging:
    """Pings a link again and again; a ping that is late delays the next."""

    def __init__(self, pings: PingService, link: Link) -> None:
        self._pings = pings
        self._link = link
        self._times: list[float] = []
        self._loop = LoopingCall(self._ping)
        self._loop.start(PING_EVERY).addErrback(lambda _: None)

    async def _one(self) -> None:
        self._times.append(await self._pings.ping(self._link))

    def _ping(self) -> Deferred[None]:
        return Deferred.fromCoroutine(self._one())

    def figures(self, what: str) -> dict[str, float]:
        """Of the pings since this was asked last."""
        times, self._times = sorted(self._times), []
        return {
            f"{what}_p50_ms": times[len(times) // 2] * 1000,
            f"{what}_p99_ms": times[len(times) * 99 // 100] * 1000,
            f"{what}_max_ms": times[-1] * 1000,
        }

    def stop(self) -> None:
        """Ping no more."""
        self._loop.stop()


def node(reactor: Any, place: Path) -> tuple[Swarm, PingService, Files]:
    """What a node has of this, on the real network and disk."""
    key = PrivateKey.generate(os.urandom)
    swarm = Swarm(
        key,
        reactor,
        TCPNetwork(reactor),
        os.urandom,
        "bzzz-py/bench",
        turns=Turns(reactor, time.thread_time),
    )

    def in_thread(work: Callable[[], Any]) -> Deferred[Any]:
        return deferToThread(work)

    files = Files(swarm, reactor, place, QUOTA, in_thread, lambda peer: True)
    return swarm, PingService(swarm, os.urandom), files


async def serve(reactor: Any, place: str, tree: str) -> None:
    """Pack a directory, and give it to who asks."""
    swarm, _, files = node(reactor, Path(place))
    await files.start()
    start = time.perf_counter()
    packed = await files.pack(Path(tree))
    seconds = time.perf_counter() - start
    port = await swarm.listen("127.0.0.1", 0)
    told = {
        "address": f"/ip4/127.0.0.1/tcp/{port}/p2p/{swarm.peer_id}",
        "digest": packed.digest,
        "pack_mb": packed.size / 1e6 / seconds,
    }
    print(json.dumps(told), flush=True)
    await stdin_end()


async def fetch(reactor: Any, place: str, address: str, digest: str) -> None:
    """Fetch and unpack it, with pings meanwhile."""
    swarm, pings, files = node(reactor, Path(place))
    await files.start()
    there = Multiaddr.parse(address)
    link = await swarm.dial([there], there.peer_id)
    pinging = Pinging(pings, link)
    await deferLater(reactor, IDLE)
    figures = pinging.figures("idle")
    totals: list[int] = []
    start, start_cpu = time.perf_counter(), cpu()
    await files.fetch(digest, [link.remote_peer], lambda done, total: totals.append(total))
    seconds = time.perf_counter() - start
    size = totals[-1] / 1e6
    figures |= pinging.figures("busy")
    figures |= {"fetch_mb": size / seconds, "fetch_cpu_ms": (cpu() - start_cpu) * 1000 / size}
    pinging.stop()
    out = Path(place).with_suffix(".out")
    out.mkdir()
    start = time.perf_counter()
    await files.unpack(digest, out, ".")
    figures["unpack_mb"] = size / (time.perf_counter() - start)
    print(json.dumps(figures), flush=True)


if __name__ == "__main__":
    mode, *rest = sys.argv[1:]
    react(lambda reactor: Deferred.fromCoroutine(globals()[mode](reactor, *rest)))
