"""What the peers said of themselves last: their capability documents and availabilities.

Enters: checked messages. Leaves: tables by peer, within caps, in which nothing older takes the
place of something newer.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Collection
from dataclasses import dataclass

from bzzz.identity.peer_id import PeerID
from bzzz.mesh.availability import AvailabilityDocument
from bzzz.mesh.capability import CapabilityDocument
from bzzz.mesh.messages import Document, Received
from bzzz.net.interfaces import Clock

__all__ = ["Heard"]

# Peers whose words are kept; more than any mesh that is supported has. Messages come signed by
# anybody, by way of linked peers, so that without this anybody could fill the memory.
MAX_PEERS = 4096

# Bytes of all documents kept, as messages and with what Python adds for each string: 4096 of the
# size that real nodes have, and of those of the greatest size some hundred.
MAX_BYTES = 8 << 20

# What Python adds for each string or number of a document, in bytes.
ENTRY_BYTES = 64

# A peer of which nothing was kept for so many seconds may be believed again whatever the time it
# says: its clock may have been set back. Longer than copies of a message wander (the seen cache
# of gossipsub holds for 120 s), and longer than three intervals.
BELIEVE_AFTER = 130.0


@dataclass(slots=True)
class _Entry:
    document: Document
    timestamp: datetime.datetime
    received_at: float
    kept_at: float
    cost: int


class Heard:
    """The tables.

    :param wall_time: seconds since the epoch.
    :ivar documents: the capability document of each peer that sent one, by peer.
    :ivar availabilities: likewise.
    """

    def __init__(self, wall_time: Callable[[], float], clock: Clock) -> None:
        self.documents: dict[PeerID, CapabilityDocument] = {}
        self.availabilities: dict[PeerID, AvailabilityDocument] = {}
        self._wall_time = wall_time
        self._clock = clock
        # The one heard longest ago comes first.
        self._entries: dict[tuple[PeerID, type[Document]], _Entry] = {}
        self._peers: dict[PeerID, int] = {}
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._peers)

    @property
    def bytes(self) -> int:
        """What the documents take, as :data:`MAX_BYTES` counts it."""
        return self._bytes

    def is_news(self, received: Received, document: Document) -> bool:
        """Whether the peer said something else before; not if this is its first, or older."""
        before = self._entries.get((received.sender, type(document)))
        return (
            before is not None
            and received.timestamp >= before.timestamp
            and not before.document.same_as(document)  # type: ignore[arg-type]  # of one kind
        )

    def received_at(self, peer: PeerID, kind: type[Document] = CapabilityDocument) -> float | None:
        """When the peer said it last, in seconds since the epoch; None if never."""
        entry = self._entries.get((peer, kind))
        return None if entry is None else entry.received_at

    def keep(
        self, received: Received, document: Document, linked: Collection[PeerID]
    ) -> tuple[Document | None, bool]:
        """Keep what a peer said.

        :param linked: peers whose words are the last to go when room is needed.
        :return: what it said before, and whether ``document`` was kept: not if it is older, or if
            the peer is not linked and there is no room.
        """
        peer = received.sender
        key = (peer, type(document))
        before = self._entries.get(key)
        now = self._clock.seconds()
        if (
            before is not None
            and received.timestamp < before.timestamp
            and now - before.kept_at < BELIEVE_AFTER
        ):
            return before.document, False
        cost = received.size + ENTRY_BYTES * _entries_of(document)
        if not self._make_room(peer, cost - (before.cost if before else 0), linked):
            return (before.document if before else None), False
        self._drop(key)
        self._entries[key] = _Entry(document, received.timestamp, self._wall_time(), now, cost)
        self._peers[peer] = self._peers.get(peer, 0) + 1
        self._bytes += cost
        if isinstance(document, CapabilityDocument):
            self.documents[peer] = document
        else:
            self.availabilities[peer] = document
        return (before.document if before else None), True

    def forget(self, peer: PeerID) -> None:
        """Drop what the peer said."""
        for kind in (CapabilityDocument, AvailabilityDocument):
            self._drop((peer, kind))

    def _make_room(self, peer: PeerID, cost: int, linked: Collection[PeerID]) -> bool:
        if self._fits(peer, cost):
            return True
        keep = {*linked, peer}
        for other, _ in list(self._entries):
            if other not in keep:
                self.forget(other)
                if self._fits(peer, cost):
                    return True
        return False

    def _fits(self, peer: PeerID, cost: int) -> bool:
        peers = len(self._peers) + (peer not in self._peers)
        return peers <= MAX_PEERS and self._bytes + cost <= MAX_BYTES

    def _drop(self, key: tuple[PeerID, type[Document]]) -> None:
        entry = self._entries.pop(key, None)
        if entry is None:
            return
        peer, kind = key
        self._bytes -= entry.cost
        self._peers[peer] -= 1
        if not self._peers[peer]:
            del self._peers[peer]
        if kind is CapabilityDocument:
            del self.documents[peer]
        else:
            del self.availabilities[peer]


def _entries_of(document: Document) -> int:
    if not isinstance(document, CapabilityDocument):
        return 8
    return (
        16
        + len(document.capabilities)
        + len(document.models)
        + len(document.runtimes)
        + len(document.addresses)
        + 2 * len(document.labels)
        + 2 * len(document.service or ())
        + 3 * len(document.resources.gpus)
    )
