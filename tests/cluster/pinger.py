"""A well-behaved peer that pings a node: ``python -m tests.cluster.pinger MULTIADDR``.

Leaves: a line ``TIME RTT`` for each ping, both in seconds (the time since the epoch), and
``lost REASON`` when the link ends.
"""

from __future__ import annotations

import os
import sys
from typing import Any

from twisted.internet import reactor
from twisted.internet.task import deferLater, react

from bzzz.identity.keys import PrivateKey
from bzzz.net.link import Link
from bzzz.net.ping import PingService
from bzzz.net.swarm import Swarm
from bzzz.net.tcp import TCPNetwork
from bzzz.wire.identify import Identify
from bzzz.wire.multiaddr import Multiaddr

# Seconds between two pings.
INTERVAL = 0.02


class Watcher:
    """Says when the link is gone."""

    def link_up(self, link: Link) -> None:
        pass

    def link_down(self, link: Link, reason: str) -> None:
        print(f"lost {reason}", flush=True)

    def identified(self, link: Link, identify: Identify) -> None:
        pass

    def copy_found(self, address: Multiaddr | None) -> None:
        pass


async def main(clock: Any, address: str) -> None:
    """Ping until this process is ended."""
    multiaddr = Multiaddr.parse(address)
    key = PrivateKey.generate(os.urandom)
    swarm = Swarm(key, clock, TCPNetwork(clock), os.urandom, "pinger", "pinger")
    swarm.add_observer(Watcher())
    pings = PingService(swarm, os.urandom)
    link = await swarm.dial([multiaddr], multiaddr.peer_id)
    while not link.closed:
        rtt = await pings.ping(link)
        print(f"{clock.seconds()} {rtt}", flush=True)
        await deferLater(clock, INTERVAL)


if __name__ == "__main__":
    react(main, sys.argv[1:], _reactor=reactor)
