"""Members of a cluster that ping one node, and one that comes back again and again.

    python -m benchmarks.peers.members

It says who they are, and reads the node's address from stdin when they are admitted. Leaves, until
it is ended, a line for each ping, dial and lost link; times are in seconds, and since the epoch::

    {"peers": ["12D3...", ...]}
    ping TIME ROUND_TRIP
    dial TIME SECONDS
    dial TIME failed REASON
    lost TIME REASON
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater, react

from bzzz.errors import DialError
from bzzz.identity.keys import PrivateKey
from bzzz.net.link import Link
from bzzz.net.ping import PingService
from bzzz.net.swarm import Swarm
from bzzz.net.tcp import TCPNetwork
from bzzz.wire.identify import Identify
from bzzz.wire.multiaddr import Multiaddr

__all__ = ["main"]

# Members that keep a link.
LINKED = 2

# Seconds between two pings of one of them, and between two dials of the one that comes back.
PING_EVERY = 0.02
DIAL_EVERY = 1.0


class Member:
    """One of them."""

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        key = PrivateKey.generate(os.urandom)
        self.swarm = Swarm(key, reactor, TCPNetwork(reactor), os.urandom, "bzzz-py/bench", "bench")
        self._pings = PingService(self.swarm, os.urandom)
        self.swarm.add_observer(self)

    async def ping(self, address: Multiaddr) -> None:
        """Ping for as long as the link lives."""
        link = await self.swarm.dial([address], address.peer_id)
        while not link.closed:
            rtt = await self._pings.ping(link)
            say("ping", f"{rtt:.6f}")
            await deferLater(self._reactor, PING_EVERY)

    async def come_back(self, address: Multiaddr) -> None:
        """Dial, hang up, dial again."""
        while True:
            start = time.perf_counter()
            try:
                link = await self.swarm.dial([address], address.peer_id)
            except DialError as error:
                say("dial", f"failed {error}")
            else:
                say("dial", f"{time.perf_counter() - start:.6f}")
                link.close("measured")
            await deferLater(self._reactor, DIAL_EVERY)

    def link_up(self, link: Link) -> None:
        """Not of interest."""

    def link_down(self, link: Link, reason: str) -> None:
        """Only the link that is measured may be closed, by this side."""
        if reason != "measured":
            say("lost", reason)

    def copy_found(self, address: Multiaddr | None) -> None:
        """Not of interest."""

    def identified(self, link: Link, identify: Identify) -> None:
        """Not of interest."""


def say(what: str, words: str) -> None:
    """A line, with the time."""
    print(what, f"{time.time():.6f}", words, flush=True)


async def main(reactor: Any) -> None:
    """See the module's docstring."""
    members = [Member(reactor) for _ in range(LINKED + 1)]
    print(json.dumps({"peers": [str(member.swarm.peer_id) for member in members]}), flush=True)
    address = Multiaddr.parse(sys.stdin.readline().strip())
    *linked, coming = members
    for member in linked:
        Deferred.fromCoroutine(member.ping(address)).addErrback(
            lambda failure: say("lost", failure.getErrorMessage())
        )
    await coming.come_back(address)


if __name__ == "__main__":
    react(lambda reactor: Deferred.fromCoroutine(main(reactor)))
