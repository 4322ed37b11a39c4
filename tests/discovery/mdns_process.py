"""A process with nothing but an mDNS source; prints each peer found as a line of JSON.

``python -m tests.discovery.mdns_process SEED PORT SECONDS``, on all interfaces
that a node would use.
"""

from __future__ import annotations

import json
import random
import sys
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater, react

from bzzz.discovery.interfaces import FoundPeer
from bzzz.discovery.mdns import MdnsSource
from bzzz.discovery.network_interfaces import judge, system_interfaces
from bzzz.identity.keys import PrivateKey


def on_found(peer: FoundPeer) -> None:
    """Print a peer."""
    line = {"name": peer.name, "addresses": [str(address) for address in peer.addresses]}
    print(json.dumps(line), flush=True)


async def run(reactor: Any, seed: int, port: int, seconds: float) -> None:
    """Listen for so long."""
    key = PrivateKey.from_seed(seed.to_bytes(32, "big"))
    source = MdnsSource(key.peer_id, f"node{seed}", reactor.callFromThread, random.Random())
    source.update(judge(system_interfaces()).used, port)
    await source.start(on_found)
    await deferLater(reactor, seconds)
    print(json.dumps({"states": [str(state) for state in source.states()]}), flush=True)
    await source.stop()


if __name__ == "__main__":
    arguments = (int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]))
    react(lambda reactor: Deferred.fromCoroutine(run(reactor, *arguments)))
