"""One peer of the table, and the states that it can be in.

Enters: what :mod:`~bzzz.mesh.membership` writes down. Leaves: the state that people see.

========== =======================================================================================
discovered known from discovery, never linked since this node started
dialling   a dial is under way, and it is not linked
connected  linked
lost       was linked, is not; redialled at once, then with backoff up to 60 s, for ever
claimed    in a cluster, and this node is in none: it takes no links of it, and is not dialled again
           soon
========== =======================================================================================
"""

from __future__ import annotations

import enum

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall

from bzzz.identity.peer_id import PeerID
from bzzz.net.backoff import Backoff
from bzzz.net.link import Link
from bzzz.wire.multiaddr import Multiaddr

__all__ = ["Member", "MemberState"]


class MemberState(enum.Enum):
    """What a person sees of a peer."""

    DISCOVERED = "discovered"
    DIALLING = "dialling"
    CONNECTED = "connected"
    LOST = "lost"
    CLAIMED = "claimed"


class Member:
    """One peer.

    :ivar since: when its state began, in wall-clock seconds.
    :ivar addresses: where it is said to be, the newest last.
    :ivar reason: why it was lost, or why the last dial failed.
    :ivar attempts: dials that failed since the last link.
    :ivar next_dial: when it is dialled next, in the clock's seconds.
    :ivar patient_until: until when its own dial is waited for.
    :ivar admitted: whether it was admitted when that was looked at last.
    :ivar announced: whether people were told of it.
    :ivar claimed_until: until when it is not dialled because it is in a cluster and this node is
        in none; None if it is not known to be.
    """

    def __init__(
        self, peer_id: PeerID, backoff: Backoff, now: float, wall: float, admitted: bool = True
    ) -> None:
        self.peer_id = peer_id
        self.name = ""
        self.agent = ""
        self.addresses: dict[Multiaddr, None] = {}
        self.sources: dict[str, None] = {}
        self.link: Link | None = None
        self.was_linked = False
        self.since = wall
        self.reason = ""
        self.attempts = 0
        self.heard_at = now
        self.linked_at = now
        self.next_dial: float | None = None
        self.patient_until: float | None = None
        self.told_up = False
        self.told_failure = False
        self.admitted = admitted
        self.announced = False
        self.claimed_until: float | None = None
        self.backoff = backoff
        self.timer: IDelayedCall | None = None
        self.dial: Deferred[Link] | None = None
        self.dialled_at = now
        self.queued = False

    @property
    def state(self) -> MemberState:
        """See the module's table."""
        if self.link is not None:
            return MemberState.CONNECTED
        if self.dial is not None:
            return MemberState.DIALLING
        if self.claimed_until is not None:
            return MemberState.CLAIMED
        return MemberState.LOST if self.was_linked else MemberState.DISCOVERED

    @property
    def label(self) -> str:
        """``<short id> (<name>)``, as in log lines."""
        return f"{self.peer_id.short} ({self.name or 'name unknown'})"
