"""Which TCP ports a node may take for good."""

from __future__ import annotations

import random

__all__ = ["choose_ports", "ephemeral_ports"]

# Ports for listening, as the guide of the running cluster has them.
PORTS = range(32768, 65536)

# Random ports that are tried at a time.
PORT_TRIES = 50

# The kernel's own range for outgoing connections; a port in it may be taken when the node returns.
EPHEMERAL = "/proc/sys/net/ipv4/ip_local_port_range"


def choose_ports(rng: random.Random, ephemeral: range) -> list[int]:
    """Ports to try, outside the kernel's range for outgoing connections if that can be."""
    below = range(PORTS.start, max(PORTS.start, min(ephemeral.start, PORTS.stop)))
    above = range(min(max(ephemeral.stop, PORTS.start), PORTS.stop), PORTS.stop)
    outside = [*below, *above] if ephemeral else list(PORTS)
    return rng.sample(outside or list(PORTS), min(PORT_TRIES, len(outside or PORTS)))


def ephemeral_ports() -> range:
    """The kernel's range for outgoing connections; empty where it cannot be read."""
    try:
        with open(EPHEMERAL, encoding="ascii") as file:
            low, high = file.read().split()
        return range(int(low), int(high) + 1)
    except (OSError, ValueError):
        # Not Linux, or hidden from this process: any port is as good as another.
        return range(0)
