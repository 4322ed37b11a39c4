"""Who may be linked to this node: the answer to one look-up in the roster.

Enters: the roster, when it changes. Leaves: yes or no for a peer whose ID the handshake of a link
has proved, its rights and its name. docs/trust.rst, "Two modes".
"""

from __future__ import annotations

from bzzz.identity.peer_id import PeerID
from bzzz.trust.roster import Roster
from bzzz.trust.statements import Right

__all__ = ["Admission"]

_NO_RIGHTS: frozenset[Right] = frozenset()


class Admission:
    """Implements :class:`bzzz.net.guests.Gate` by a roster, or by none in an unclaimed node.

    :param own: this node's peer ID.
    :ivar roster: of the cluster that this node is a member of; None while it is unclaimed.
    """

    def __init__(self, own: PeerID) -> None:
        self.roster: Roster | None = None
        self._own = own

    @property
    def is_open(self) -> bool:
        """Whether everybody is admitted, because the node is unclaimed."""
        return self.roster is None

    @property
    def is_revoked(self) -> bool:
        """Whether this node is in its cluster no more."""
        return self.roster is not None and not self.roster.admits(self._own)

    def admits(self, peer: PeerID) -> bool:
        """Whether links with the peer are kept."""
        roster = self.roster
        return roster is None or (roster.admits(peer) and roster.admits(self._own))

    def refusal(self, peer: PeerID) -> str:
        """Why the peer is not admitted, in few words."""
        roster = self.roster
        if roster is None:
            return ""
        if not roster.admits(self._own):
            return f"this node was revoked from {roster.cluster}"
        revocation = roster.revoked.get(peer)
        if revocation is None:
            return f"not a member of {roster.cluster}"
        if revocation.by == peer:
            return f"it left {roster.cluster}"
        return f"revoked by {self.name_of(revocation.by) or revocation.by.short}"

    def rights(self, peer: PeerID) -> frozenset[Right]:
        """What a member may do; in an unclaimed node nobody may do anything."""
        return _NO_RIGHTS if self.roster is None else self.roster.rights(peer)

    def name_of(self, peer: PeerID) -> str:
        """The member's name in the roster, or nothing."""
        return "" if self.roster is None else self.roster.name_of(peer)
