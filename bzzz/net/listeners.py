"""The ports on which a node takes connections.

Enters: addresses to listen on. Leaves: links of the connections that come, and the addresses, when
they change.
"""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.defer import Deferred
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IListeningPort

from bzzz.net.accepting import Accepting, LinkFactory
from bzzz.net.interfaces import INetwork
from bzzz.net.link import Link
from bzzz.wire.multiaddr import Multiaddr

__all__ = ["Listeners"]


class Listeners:
    """The ports of one node.

    :param make: makes the link of a connection from an address.
    :param changed: called when the addresses are others than before.
    :ivar ports: by the address and port that they are at.
    """

    def __init__(
        self,
        network: INetwork,
        accepting: Accepting,
        make: Callable[[Multiaddr], Link],
        changed: Callable[[], object],
    ) -> None:
        self.ports: dict[tuple[str, int], IListeningPort] = {}
        self._network = network
        self._accepting = accepting
        self._make = make
        self._changed = changed
        self._addresses: tuple[Multiaddr, ...] | None = None
        self._stopped = False

    @property
    def addresses(self) -> tuple[Multiaddr, ...]:
        """Where this node listens."""
        if self._addresses is None:
            self._addresses = tuple(Multiaddr.tcp(host, port) for host, port in self.ports)
        return self._addresses

    async def listen(self, host: str, port: int) -> int:
        """See :meth:`bzzz.net.swarm.Swarm.listen`."""
        factory = LinkFactory(self._accepting, host, self._make)
        listening = await self._network.listen(host, port, factory)
        actual = int(listening.getHost().port)  # type: ignore[attr-defined]  # of IPv4 or 6
        if self._stopped:
            await _stopped(listening)
            raise CannotListenError(host, port, OSError("the node is stopping"))
        self.ports[host, actual] = listening
        self._addresses = None
        self._changed()
        return actual

    async def stop_listening(self, host: str, port: int) -> None:
        """Listen there no more."""
        listening = self.ports.pop((host, port), None)
        if listening is not None:
            self._addresses = None
            await _stopped(listening)
            self._changed()

    async def stop(self) -> None:
        """Listen nowhere any more, also where that is just about to begin."""
        self._stopped = True
        for host, port in list(self.ports):
            await self.stop_listening(host, port)


async def _stopped(listening: IListeningPort) -> None:
    """Wait until the port is closed."""
    result = listening.stopListening()
    if isinstance(result, Deferred):
        await result
