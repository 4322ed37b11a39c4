"""Two real mDNS sources on the loopback interface: real sockets, bounded to a few seconds."""

from __future__ import annotations

import random
import socket
import time
from collections.abc import Callable

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SkipTest, TestCase

from bzzz.discovery.interfaces import FoundPeer
from bzzz.discovery.mdns import MdnsSource
from bzzz.discovery.network_interfaces import judge, system_interfaces
from bzzz.identity.keys import PrivateKey
from bzzz.identity.peer_id import PeerID
from bzzz.wire.multiaddr import Multiaddr

# What is promised; the machine that tests may be busy.
WITHIN = 2.0


def multicast_on_loopback() -> bool:
    """Whether a multicast packet sent on lo comes back, as in TESTBED."""
    group = "224.0.0.250"
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listener,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender,
    ):
        try:
            listener.bind((group, 0))
            listener.setsockopt(
                socket.IPPROTO_IP,
                socket.IP_ADD_MEMBERSHIP,
                socket.inet_aton(group) + socket.inet_aton("127.0.0.1"),
            )
            listener.settimeout(0.5)
            sender.setsockopt(
                socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton("127.0.0.1")
            )
            sender.sendto(b"hello", listener.getsockname())
            return listener.recv(16) == b"hello"
        except OSError:
            return False


class Node:
    """A source, and what it has told."""

    def __init__(self, seed: int) -> None:
        self.peer_id: PeerID = PrivateKey.from_seed(bytes([seed]) * 32).peer_id
        self.found: dict[PeerID, tuple[float, FoundPeer]] = {}
        self.lost: list[PeerID] = []
        self.conflicts: list[tuple[Multiaddr, ...]] = []
        self.waiting: list[tuple[Callable[[], bool], Deferred[None]]] = []
        self.source = MdnsSource(
            self.peer_id,
            f"node{seed}",
            reactor.callFromThread,  # type: ignore[attr-defined]
            random.Random(),
            lost=self.on_lost,
            conflict=self.on_conflict,
        )

    def start(self, port: int) -> None:
        self.source.update(judge(system_interfaces(), ["127.0.0.1"]).used, port)
        self.source.start(self.on_found)

    def on_found(self, peer: FoundPeer) -> None:
        if peer.peer_id is not None:
            self.found.setdefault(peer.peer_id, (time.monotonic(), peer))
        self.look()

    def on_lost(self, peer: PeerID) -> None:
        self.lost.append(peer)
        self.look()

    def on_conflict(self, addresses: tuple[Multiaddr, ...]) -> None:
        self.conflicts.append(addresses)
        self.look()

    def look(self) -> None:
        for entry in list(self.waiting):
            if entry[0]():
                self.waiting.remove(entry)
                entry[1].callback(None)

    async def until(self, condition: Callable[[], bool]) -> None:
        if condition():
            return
        waiting: Deferred[None] = Deferred()
        self.waiting.append((condition, waiting))
        await waiting.addTimeout(WITHIN, reactor)


class LoopbackTests(TestCase):
    """:class:`MdnsSource` with real multicast."""

    timeout = 10.0

    def setUp(self) -> None:
        if not multicast_on_loopback():
            raise SkipTest("multicast sent on lo does not come back on this machine")

    def node(self, seed: int) -> Node:
        node = Node(seed)
        self.addCleanup(node.source.stop)
        return node

    async def test_two_nodes(self) -> None:
        """Two fresh nodes find each other within 2 s; one that leaves says so."""
        # Not the peer IDs of other tests' nodes, which may run on this machine at the same time.
        first, second = self.node(201), self.node(202)
        first.start(4001)
        await first.until(lambda: "peers heard" in str(first.source))
        began = time.monotonic()
        second.start(4002)
        await first.until(lambda: second.peer_id in first.found)
        await second.until(lambda: first.peer_id in second.found)
        took = max(first.found[second.peer_id][0] - began, second.found[first.peer_id][0] - began)
        self.assertLess(took, WITHIN)
        self.assertEqual(
            first.found[second.peer_id][1],
            FoundPeer(
                second.peer_id, (Multiaddr.parse("/ip4/127.0.0.1/tcp/4002"),), "mdns", "node202"
            ),
        )
        self.assertNotIn(first.peer_id, first.found, "a node is no peer of its own")
        began = time.monotonic()
        await second.source.stop()
        self.assertLess(time.monotonic() - began, 1.0)
        await first.until(lambda: second.peer_id in first.lost)

    async def test_copied_state_directory(self) -> None:
        """Two nodes with one peer ID learn of each other's addresses as a conflict."""
        first, second = self.node(203), self.node(203)
        first.start(4001)
        second.start(4002)
        await first.until(lambda: bool(first.conflicts))
        await second.until(lambda: bool(second.conflicts))
        self.assertEqual(first.conflicts, [(Multiaddr.parse("/ip4/127.0.0.1/tcp/4002"),)])
        self.assertNotIn(first.peer_id, first.found)

    async def test_port_changes(self) -> None:
        """A node that listens elsewhere is announced anew, and not as lost for good."""
        first, second = self.node(204), self.node(205)
        first.start(4001)
        second.start(4002)
        await first.until(lambda: second.peer_id in first.found)
        first.found.clear()
        second.source.update(judge(system_interfaces(), ["127.0.0.1"]).used, 4003)
        await first.until(lambda: second.peer_id in first.found)
        self.assertEqual(
            first.found[second.peer_id][1].addresses, (Multiaddr.parse("/ip4/127.0.0.1/tcp/4003"),)
        )
