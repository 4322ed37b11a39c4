"""The seam between the mesh and whatever says who might be out there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from twisted.internet.defer import Deferred
from zope.interface import Interface

from bzzz.identity.peer_id import PeerID
from bzzz.wire.multiaddr import Multiaddr

__all__ = ["FoundPeer", "IPeerSource"]


@dataclass(frozen=True, slots=True)
class FoundPeer:
    """A peer that is said to exist. Nothing of it is proved before its handshake.

    :ivar peer_id: None for a bootstrap address that does not name its peer.
    :ivar addresses: where it is said to be, without ``/p2p``.
    :ivar source: ``mdns``, ``bootstrap``, ``address book`` or ``member``.
    :ivar name: the name it gives itself, or nothing.
    """

    peer_id: PeerID | None
    addresses: tuple[Multiaddr, ...]
    source: str
    name: str = ""


class IPeerSource(Interface):
    """Finds peers until stopped. ``str()`` of one says in words what it has tried."""

    def start(found: Callable[[FoundPeer], None]) -> Deferred[None]:
        """Start to find peers; ``found`` is called for each, and again later.

        Fires when it has started. What keeps it from working later it says in the log, and tries
        again by itself.
        """

    def stop() -> Deferred[None]:
        """Stop; fires when everything is given back, within a second. Never fails."""
