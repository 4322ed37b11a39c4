"""Bzzz's swarm as one end of the link benchmarks: ``serve``, or a measurement against a server.

Prints one JSON line. CPU seconds are of this process; the server prints its own when told to stop.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections.abc import Sequence
from typing import Any

from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.task import react
from twisted.python.failure import Failure

from bzzz.identity.keys import PrivateKey
from bzzz.net.link import Link
from bzzz.net.ping import PingService
from bzzz.net.swarm import Swarm, SwarmLimits
from bzzz.net.tcp import TCPNetwork
from bzzz.wire.identify import Identify
from bzzz.wire.multiaddr import Multiaddr

SINK = "/bench/sink/1.0.0"
ECHO = "/bench/echo/1.0.0"


def cpu() -> float:
    """CPU seconds of this process."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


class Waiter:
    """Fires when a link is identified."""

    def __init__(self) -> None:
        self.waiting: dict[Link, Deferred[None]] = {}

    def link_up(self, link: Link) -> None:
        """Not of interest."""

    def link_down(self, link: Link, reason: str) -> None:
        """Not of interest."""

    def copy_found(self, address: Multiaddr | None) -> None:
        """Not of interest."""

    def identified(self, link: Link, identify: Identify) -> None:
        """Tell whoever waits for this."""
        waiting = self.waiting.pop(link, None)
        if waiting is not None:
            waiting.callback(None)


class Sink(Protocol):
    """Swallows what comes and answers with the count of bytes at the end."""

    count = 0

    def dataReceived(self, data: bytes) -> None:
        self.count += len(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        pass


class SinkAnswering(Sink):
    """Answers one byte once the announced number of bytes has come."""

    def __init__(self) -> None:
        self.head = b""

    def dataReceived(self, data: bytes) -> None:
        if len(self.head) < 8:
            need = 8 - len(self.head)
            self.head += data[:need]
            data = data[need:]
        self.count += len(data)
        if len(self.head) == 8 and self.count >= int.from_bytes(self.head, "big"):
            self.transport.write(b"!")  # type: ignore[union-attr]  # connected


class Echo(Protocol):
    """Sends back what comes."""

    def dataReceived(self, data: bytes) -> None:
        self.transport.write(data)  # type: ignore[union-attr]  # connected


def swarm(reactor: Any) -> tuple[Swarm, Waiter]:
    """A swarm on the real network."""
    made = Swarm(
        PrivateKey.generate(os.urandom),
        reactor,
        TCPNetwork(reactor),
        os.urandom,
        "bzzz-py/bench",
        "bench",
        SwarmLimits(links=1024, handshakes=1024),
    )
    waiter = Waiter()
    made.add_observer(waiter)
    return made, waiter


async def stdin_end() -> None:
    """Until stdin is closed."""
    from twisted.internet.stdio import StandardIO

    done: Deferred[None] = Deferred()

    class Stdin(Protocol):
        def connectionLost(self, reason: Failure = connectionDone) -> None:
            done.callback(None)

    StandardIO(Stdin())
    await done


async def serve(reactor: Any) -> None:
    """Listen, print the address, and go on until stdin closes."""
    made, _ = swarm(reactor)
    PingService(made, os.urandom)
    made.handle(SINK, Factory.forProtocol(SinkAnswering))
    made.handle(ECHO, Factory.forProtocol(Echo))
    port = await made.listen("127.0.0.1", 0)
    print(json.dumps({"address": f"/ip4/127.0.0.1/tcp/{port}/p2p/{made.peer_id}"}), flush=True)
    start_cpu = cpu()
    await stdin_end()
    print(json.dumps({"cpu": cpu(), "start_cpu": start_cpu}), flush=True)


async def dial_once(reactor: Any, address: Multiaddr) -> None:
    """One dial from a fresh identity, up to identified, then closed."""
    made, waiter = swarm(reactor)
    link = await made.dial([address], address.peer_id)
    identified: Deferred[None] = Deferred()
    waiter.waiting[link] = identified
    await identified
    link.abort("measured")


async def dials(reactor: Any, address: Multiaddr, count: int, together: bool) -> dict[str, float]:
    """Dial ``count`` times, one after the other or all at once."""
    start, cpu_start = time.perf_counter(), cpu()
    if together:
        await gatherResults(
            [Deferred.fromCoroutine(dial_once(reactor, address)) for _ in range(count)]
        )
    else:
        for _ in range(count):
            await dial_once(reactor, address)
    wall = time.perf_counter() - start
    return {"per_second": count / wall, "client_cpu_ms": (cpu() - cpu_start) / count * 1000}


async def ping(reactor: Any, address: Multiaddr, count: int) -> dict[str, float]:
    """Round-trip times of one ping after the other."""
    made, _ = swarm(reactor)
    pings = PingService(made, os.urandom)
    link = await made.dial([address], address.peer_id)
    times = sorted([await pings.ping(link) for _ in range(count)])
    return {"p50_ms": times[count // 2] * 1000, "p99_ms": times[count * 99 // 100] * 1000}


class Given(Factory):
    """Builds the one protocol that it was given."""

    noisy = False

    def __init__(self, protocol: Protocol) -> None:
        self._protocol = protocol

    def buildProtocol(self, addr: object) -> Protocol:
        return self._protocol


class Asking(Protocol):
    """Sends one byte and waits for the answer."""

    def __init__(self) -> None:
        self.answered: Deferred[None] = Deferred()

    def connectionMade(self) -> None:
        self.transport.write(b"?")  # type: ignore[union-attr]  # connected

    def dataReceived(self, data: bytes) -> None:
        self.transport.loseConnection()  # type: ignore[union-attr]  # connected
        self.answered.callback(None)


async def streams(reactor: Any, address: Multiaddr, count: int) -> dict[str, float]:
    """Time from opening a stream to its first answer."""
    made, _ = swarm(reactor)
    link = await made.dial([address], address.peer_id)
    times = []
    for _ in range(count):
        start = time.perf_counter()
        asking = Asking()
        await link.open_stream([ECHO], Given(asking), optimistic=True)
        await asking.answered
        times.append(time.perf_counter() - start)
    times.sort()
    return {"p50_ms": times[count // 2] * 1000, "p99_ms": times[count * 99 // 100] * 1000}


class Pouring(Protocol):
    """Writes ``size`` bytes in pieces of 64 KB, as fast as the stream takes them."""

    def __init__(self, size: int) -> None:
        self.left = size
        self.size = size
        self.paused = False
        self.done: Deferred[None] = Deferred()

    def connectionMade(self) -> None:
        self.transport.write(self.size.to_bytes(8, "big"))  # type: ignore[union-attr]  # connected
        self.piece = bytes(65536)
        self.transport.registerProducer(self, True)  # type: ignore[union-attr]  # a Stream has it
        self.resumeProducing()

    def resumeProducing(self) -> None:
        self.paused = False
        while self.left and not self.paused:
            piece = self.piece if self.left >= 65536 else self.piece[: self.left]
            self.left -= len(piece)
            self.transport.write(piece)  # type: ignore[union-attr]  # connected
        if not self.left:
            self.transport.unregisterProducer()  # type: ignore[union-attr]  # a Stream has it

    def pauseProducing(self) -> None:
        self.paused = True

    def stopProducing(self) -> None:
        self.left = 0

    def dataReceived(self, data: bytes) -> None:
        self.done.callback(None)


async def throughput(reactor: Any, address: Multiaddr, size: int) -> dict[str, float]:
    """Megabytes a second through one stream, until the receiver has answered."""
    made, _ = swarm(reactor)
    link = await made.dial([address], address.peer_id)
    pouring = Pouring(size)
    start = time.perf_counter()
    await link.open_stream([SINK], Given(pouring))
    await pouring.done
    return {"mb_per_second": size / 1e6 / (time.perf_counter() - start)}


async def hold(reactor: Any, address: Multiaddr, count: int) -> None:
    """Keep ``count`` links of as many identities until stdin closes."""
    kept = []
    for _ in range(count):
        made, waiter = swarm(reactor)
        link = await made.dial([address], address.peer_id)
        identified: Deferred[None] = Deferred()
        waiter.waiting[link] = identified
        await identified
        kept.append(link)
    print(json.dumps({"held": len(kept)}), flush=True)
    await stdin_end()


async def main(reactor: Any, mode: str, address: str = "", count: str = "1") -> None:
    """Run one measurement."""
    if mode == "serve":
        await serve(reactor)
        return
    there = Multiaddr.parse(address)
    amount = int(count)
    if mode == "dial":
        await dials(reactor, there, 20, False)
        result = await dials(reactor, there, amount, False)
    elif mode == "dial-together":
        await dials(reactor, there, 20, False)
        result = await dials(reactor, there, amount, True)
    elif mode == "ping":
        await ping(reactor, there, 200)
        result = await ping(reactor, there, amount)
    elif mode == "streams":
        await streams(reactor, there, 100)
        result = await streams(reactor, there, amount)
    elif mode == "throughput":
        result = await throughput(reactor, there, amount)
    elif mode == "hold":
        await hold(reactor, there, amount)
        return
    else:
        raise SystemExit(f"unknown mode {mode!r}")
    print(json.dumps(result), flush=True)


def run(arguments: Sequence[str]) -> None:
    """Run under Twisted's reactor."""

    async def go(reactor: Any) -> None:
        await main(reactor, *arguments)

    react(lambda reactor: Deferred.fromCoroutine(go(reactor)))


if __name__ == "__main__":
    run(sys.argv[1:])
