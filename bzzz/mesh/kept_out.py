"""Which peers took this node for a guest when they last said who they are.

Enters: what the peers of this member's links say in identify. Leaves: those peers. One that takes
this node for a guest ends its link after some seconds and is dialled again later, so most of the
time there is no link to see it by. A peer does not say why; a revoked node hears of it in no other
way.
"""

from __future__ import annotations

from bzzz.identity.peer_id import PeerID
from bzzz.net.link import Link
from bzzz.wire.identify import Identify
from bzzz.wire.multiaddr import Multiaddr

__all__ = ["KeptOut"]

# Peers remembered; for one more the one that spoke longest ago goes. Links are with those of the
# roster alone, and a full one has not more members than this.
MAX_PEERS = 8192


class KeptOut:
    """Observes the swarm's links."""

    def __init__(self) -> None:
        self._peers: dict[PeerID, None] = {}

    def __contains__(self, peer: PeerID) -> bool:
        return peer in self._peers

    def forget_all(self) -> None:
        """What was said is of a cluster that this node is not in any more."""
        self._peers.clear()

    def link_up(self, link: Link) -> None:
        """Not of interest here: the peer says on it what it takes this node for."""

    def link_down(self, link: Link, reason: str) -> None:
        """Not of interest here: what it said holds until it says something else."""

    def identified(self, link: Link, identify: Identify) -> None:
        """The peer said who it is, and whether this node is a guest to it."""
        peer = link.remote_peer
        self._peers.pop(peer, None)
        if not identify.guest:
            return
        if len(self._peers) >= MAX_PEERS:
            del self._peers[next(iter(self._peers))]
        self._peers[peer] = None

    def copy_found(self, address: Multiaddr | None) -> None:
        """Not of interest here."""
