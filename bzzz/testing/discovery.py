"""Multicast in the simulator: a source of peers for each node, and who hears whom."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from twisted.internet.defer import Deferred, succeed
from zope.interface import implementer

from bzzz.discovery.interfaces import FoundPeer, IPeerSource
from bzzz.identity.peer_id import PeerID
from bzzz.testing.clock import NodeClock
from bzzz.testing.network import Host, SimNetwork
from bzzz.wire.multiaddr import Multiaddr

__all__ = ["Multicast"]

# When a source asks again, in seconds after its start; then every minute.
QUERIES = (0.0, 1.0, 3.0, 9.0, 27.0)
EVERY = 60.0


class Multicast:
    """The multicast group.

    :param hears: whether the second host hears what the first one says; for networks where
        multicast reaches only some.
    """

    def __init__(
        self, network: SimNetwork, hears: Callable[[Host, Host], bool] = lambda one, other: True
    ) -> None:
        self.network = network
        self.hears = hears
        self.members: dict[str, _Source] = {}

    def source(
        self,
        host: Host,
        clock: NodeClock,
        peer: PeerID,
        addresses: Callable[[], tuple[Multiaddr, ...]],
    ) -> IPeerSource:
        """The source of the node that runs on ``host``."""
        return _Source(self, host, clock, peer, addresses)

    def deliver(self, source: _Source, target: _Source, call: Callable[[], None]) -> None:
        """Make ``call`` at ``target``, if what ``source`` says gets there."""
        network = self.network
        if source.host.down or target.host.down or network.is_cut(source.host, target.host):
            return
        if not self.hears(source.host, target.host):
            return
        if network.loss and network.random.random() < network.loss:
            return
        delay = network.latency + network.jitter * network.random.random()
        network.reactor.call_at(target.clock, network.reactor.now + delay, call)


@implementer(IPeerSource)
class _Source:
    def __init__(
        self,
        group: Multicast,
        host: Host,
        clock: NodeClock,
        peer: PeerID,
        addresses: Callable[[], tuple[Multiaddr, ...]],
    ) -> None:
        self.host = host
        self.clock = clock
        self.peer = peer
        self._group = group
        self._addresses = addresses
        self._found: Callable[[FoundPeer], None] | None = None
        self._asked = 0

    def __str__(self) -> str:
        return "simulated multicast"

    def start(self, found: Callable[[FoundPeer], None]) -> Deferred[None]:
        self._found = found
        self._group.members[self.host.address] = self
        for other in list(self._group.members.values()):
            if other is not self:
                self._answer(other)
        self._ask()
        return succeed(None)

    def stop(self) -> Deferred[None]:
        self._found = None
        if self._group.members.get(self.host.address) is self:
            del self._group.members[self.host.address]
        return succeed(None)

    def _ask(self) -> None:
        if self._found is None:
            return
        for other in list(self._group.members.values()):
            if other is not self:
                self._group.deliver(self, other, partial(other.asked, self))
        self._asked += 1
        wait = QUERIES[self._asked] - QUERIES[self._asked - 1] if self._asked < len(QUERIES) else 0
        self.clock.callLater(wait or EVERY, self._ask)

    def asked(self, asker: _Source) -> None:
        """Another node asks who is there."""
        self._answer(asker)

    def _answer(self, asker: _Source) -> None:
        if self._found is not None:
            found = FoundPeer(self.peer, self._addresses(), "mdns")
            self._group.deliver(self, asker, lambda: asker.heard(found))

    def heard(self, found: FoundPeer) -> None:
        """Somebody announced itself."""
        if self._found is not None:
            self._found(found)
