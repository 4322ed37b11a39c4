"""A py-libp2p host as the benchmarks want it: TCP, Noise, yamux, identify, ping.

Runs in a venv of its own, on trio.
"""

# mypy: disable-error-code="import-not-found, import-untyped"

from __future__ import annotations

import json
import resource
import secrets
import sys
from typing import Any

import multiaddr
import trio
from libp2p import new_host
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.custom_types import TProtocol
from libp2p.peer.id import ID
from libp2p.rcmgr.manager import ResourceLimits, ResourceManager

__all__ = [
    "LOOPBACK",
    "Identified",
    "cpu",
    "dial",
    "make",
    "protocol",
    "say",
    "split",
    "spread",
    "stdin_end",
]

LOOPBACK = multiaddr.Multiaddr("/ip4/127.0.0.1/tcp/0")


def make() -> Any:
    """A host whose limits are out of the way: by default it refuses many dials of one peer."""
    manager = ResourceManager(
        limits=ResourceLimits(
            max_connections=1_000_000, max_memory_mb=1 << 20, max_streams=1_000_000
        ),
        enable_rate_limiting=False,
        enable_circuit_breaker=False,
        enable_memory_limits=False,
        enable_metrics=False,
        enable_graceful_degradation=False,
    )
    return new_host(key_pair=create_new_key_pair(secrets.token_bytes(32)), resource_manager=manager)


def split(address: str) -> tuple[Any, Any]:
    """The peer ID of an address, and the address without it."""
    where, _, peer = address.rpartition("/p2p/")
    return ID.from_base58(peer), multiaddr.Multiaddr(where)


class Identified:
    """Tells when a host has identified its peer.

    There is no public word of it; this waits for the host's own identify to end.
    """

    def __init__(self, host: Any) -> None:
        self._event = trio.Event()
        ask = host._identify_peer

        async def ask_and_tell(*arguments: Any, **options: Any) -> None:
            await ask(*arguments, **options)
            self._event.set()

        host._identify_peer = ask_and_tell

    async def wait(self) -> None:
        """Until it has, once more."""
        await self._event.wait()
        self._event = trio.Event()


async def dial(host: Any, address: str) -> tuple[Any, Any]:
    """A link to the address, below ``connect()``, which always waits 250 ms.

    :return: the peer's ID, and the link.
    """
    peer, where = split(address)
    host.get_peerstore().add_addrs(peer, [where], 600)
    link = await host.get_network()._dial_with_retry(where, peer)
    host._schedule_identify(peer, reason="connect")
    return peer, link


def protocol(name: str) -> Any:
    """A protocol's name in the library's type."""
    return TProtocol(name)


def cpu() -> float:
    """CPU seconds of this process."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def say(message: dict[str, Any]) -> None:
    """One line of JSON."""
    print(json.dumps(message), flush=True)


async def stdin_end() -> None:
    """Until stdin is closed."""
    await trio.to_thread.run_sync(sys.stdin.read, abandon_on_cancel=True)


def spread(seconds: list[float]) -> dict[str, float]:
    """Median and 99th percentile in milliseconds."""
    times = sorted(seconds)
    count = len(times)
    return {"p50_ms": times[count // 2] * 1000, "p99_ms": times[count * 99 // 100] * 1000}
