"""py-libp2p as one end of the link benchmarks: the modes and the JSON of ``bzzz_peer.py``."""

# mypy: disable-error-code="import-not-found, import-untyped"

from __future__ import annotations

import os
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import host as py
import trio

SINK = py.protocol("/bench/sink/1.0.0")
ECHO = py.protocol("/bench/echo/1.0.0")
PING = py.protocol("/ipfs/ping/1.0.0")
PIECE = bytes(65536)


async def exactly(stream: Any, size: int) -> bytes:
    """``size`` bytes, or fewer at the end."""
    data = b""
    while len(data) < size:
        more = await stream.read(size - len(data))
        if not more:
            break
        data += more
    return data


async def sink(stream: Any) -> None:
    """Answers one byte once the announced number of bytes has come."""
    left = int.from_bytes(await exactly(stream, 8), "big")
    while left > 0:
        data = await stream.read(65536)
        if not data:
            return
        left -= len(data)
    await stream.write(b"!")
    await stream.close()


async def echo(stream: Any) -> None:
    """Sends back what comes."""
    while data := await stream.read(65536):
        await stream.write(data)
    await stream.close()


def quiet(body: Callable[[Any], Awaitable[None]]) -> Callable[[Any], Awaitable[None]]:
    """The end of a link is no error of a measurement."""

    async def run(stream: Any) -> None:
        try:
            await body(stream)
        except Exception:  # noqa: BLE001 - the library has many names for it
            pass

    return run


async def serve() -> None:
    """Listen, print the address, and go on until stdin closes."""
    made = py.make()
    async with made.run([py.LOOPBACK]):
        made.set_stream_handler(SINK, quiet(sink))
        made.set_stream_handler(ECHO, quiet(echo))
        address = next(str(one) for one in made.get_addrs() if "127.0.0.1" in str(one))
        if "/p2p/" not in address:
            address += f"/p2p/{made.get_id()}"
        py.say({"address": address})
        start = py.cpu()
        await py.stdin_end()
        py.say({"cpu": py.cpu(), "start_cpu": start})
        # Leaving in order takes seconds.
        os._exit(0)


class Ends:
    """Hosts to dial from, each with what tells that it has identified; kept until the end."""

    def __init__(self) -> None:
        self._stack = AsyncExitStack()

    async def make(self) -> tuple[Any, Any]:
        """One more."""
        made = py.make()
        identified = py.Identified(made)
        await self._stack.enter_async_context(made.run([]))
        return made, identified


async def dial_once(made: Any, identified: Any, address: str) -> Any:
    """One dial, up to identified."""
    _, link = await py.dial(made, address)
    await identified.wait()
    return link


async def dials(ends: Ends, address: str, count: int, together: bool) -> dict[str, float]:
    """Dial ``count`` times from hosts that were made before: one by one, or all at once."""
    made = [await ends.make() for _ in range(count)]
    start, cpu_start = time.perf_counter(), py.cpu()
    if together:
        async with trio.open_nursery() as nursery:
            for one, identified in made:
                nursery.start_soon(dial_once, one, identified, address)
    else:
        # Closing waits 200 ms each time, so it goes on beside the next dials.
        async with trio.open_nursery() as nursery:
            for one, identified in made:
                link = await dial_once(one, identified, address)
                nursery.start_soon(link.close)
            wall = time.perf_counter() - start
            cpu_used = py.cpu() - cpu_start
            nursery.cancel_scope.deadline = trio.current_time() + 2
        return {"per_second": count / wall, "client_cpu_ms": cpu_used / count * 1000}
    wall = time.perf_counter() - start
    return {"per_second": count / wall, "client_cpu_ms": (py.cpu() - cpu_start) / count * 1000}


async def ping(made: Any, peer: Any, count: int) -> dict[str, float]:
    """Round-trip times of one ping after the other, on one stream."""
    stream = await made.new_stream(peer, [PING])
    times = []
    for _ in range(count):
        data = os.urandom(32)
        start = time.perf_counter()
        await stream.write(data)
        if await exactly(stream, 32) != data:
            raise RuntimeError("a ping came back changed")
        times.append(time.perf_counter() - start)
    await stream.close()
    result: dict[str, float] = py.spread(times)
    return result


async def streams(made: Any, peer: Any, count: int) -> dict[str, float]:
    """Time from opening a stream to its first answer."""
    times = []
    for _ in range(count):
        start = time.perf_counter()
        stream = await made.new_stream(peer, [ECHO])
        await stream.write(b"?")
        await stream.read(1)
        times.append(time.perf_counter() - start)
        await stream.close()
    result: dict[str, float] = py.spread(times)
    return result


async def throughput(made: Any, peer: Any, size: int) -> dict[str, float]:
    """Megabytes a second through one stream, until the receiver has answered."""
    start = time.perf_counter()
    stream = await made.new_stream(peer, [SINK])
    await stream.write(size.to_bytes(8, "big"))
    left = size
    while left:
        piece = PIECE[:left]
        await stream.write(piece)
        left -= len(piece)
    await exactly(stream, 1)
    return {"mb_per_second": size / 1e6 / (time.perf_counter() - start)}


async def main(mode: str, address: str = "", count: str = "1") -> None:
    """Run one measurement."""
    if mode == "serve":
        await serve()
        return
    amount = int(count)
    ends = Ends()
    if mode in ("dial", "dial-together"):
        await dials(ends, address, 20, False)
        result = await dials(ends, address, amount, mode == "dial-together")
    elif mode == "hold":
        for _ in range(amount):
            await dial_once(*await ends.make(), address)
        py.say({"held": amount})
        await py.stdin_end()
        os._exit(0)
    else:
        made, identified = await ends.make()
        peer, _ = await py.dial(made, address)
        await identified.wait()
        if mode == "ping":
            await ping(made, peer, amount // 10)
            result = await ping(made, peer, amount)
        elif mode == "streams":
            await streams(made, peer, amount // 10)
            result = await streams(made, peer, amount)
        elif mode == "throughput":
            result = await throughput(made, peer, amount)
        else:
            raise SystemExit(f"unknown mode {mode!r}")
    py.say(result)
    # Leaving in order takes seconds.
    os._exit(0)


if __name__ == "__main__":
    trio.run(main, *sys.argv[1:])
