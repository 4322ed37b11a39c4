"""Who must not be grafted yet, after a PRUNE of either side.

Enters: prunes. Leaves: whether a graft is allowed. libp2p specs: gossipsub-v1.1.md "PRUNE Backoff
and Peer Exchange".
"""

from __future__ import annotations

from bzzz.identity.peer_id import PeerID

__all__ = ["Backoffs"]


class Backoffs:
    """Until when neither side grafts, by topic and peer.

    Kept also for peers that went away, so that reconnecting does not end a backoff.

    :param slack: seconds that this side waits longer than it asks of others.
    :param limit: entries kept; beyond it the one set first goes, and an early graft may then be
        refused by the peer, no more.
    """

    def __init__(self, slack: float, limit: int) -> None:
        self._slack = slack
        self._limit = limit
        self._until: dict[tuple[str, PeerID], float] = {}

    def __len__(self) -> int:
        return len(self._until)

    def add(self, topic: str, peer: PeerID, until: float) -> None:
        """Start a backoff, or make a running one longer; it never gets shorter."""
        key = (topic, peer)
        known = self._until.get(key)
        if known is not None and known >= until:
            return
        if known is None and len(self._until) >= self._limit:
            del self._until[next(iter(self._until))]
        self._until[key] = until

    def until(self, topic: str, peer: PeerID) -> float | None:
        """When it ends, without slack; None if there is none."""
        return self._until.get((topic, peer))

    def forbids(self, topic: str, peer: PeerID, now: float) -> bool:
        """Whether this side must not graft the peer yet."""
        until = self._until.get((topic, peer))
        return until is not None and now < until + self._slack

    def expire(self, now: float) -> None:
        """Forget those that have ended."""
        before = now - self._slack
        ended = [key for key, until in self._until.items() if until <= before]
        for key in ended:
            del self._until[key]
