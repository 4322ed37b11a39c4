"""Who may do what with tasks, by the roster of this node's cluster.

Enters: the cluster. Leaves: yes or no for a peer whose ID its link has proved. An unclaimed node
runs what its owner submits to it, and nothing else. docs/trust.rst, "Roles".
"""

from __future__ import annotations

from collections.abc import Collection

from bzzz.identity.peer_id import PeerID
from bzzz.trust.cluster import Cluster
from bzzz.trust.statements import Right

__all__ = ["RosterRights"]


class RosterRights:
    """Implements :class:`bzzz.tasks.world.Trusted`."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._own = cluster.peer_id

    def members(self) -> Collection[PeerID]:
        """All members of the cluster with this node; this node alone where it is in none."""
        roster = self._cluster.roster
        return (self._own,) if roster is None else tuple(roster.members)

    def workers(self) -> Collection[str]:
        """The peer IDs of those whose role lets them run tasks."""
        return [str(peer) for peer in self.members() if self.may_run(peer)]

    def may_submit(self, peer: PeerID) -> bool:
        """Whether tasks that this member has signed are run."""
        return self._may(peer, Right.SUBMIT)

    def may_run(self, peer: PeerID) -> bool:
        """Whether this member runs tasks."""
        return self._may(peer, Right.RUN)

    def may_administer(self, peer: PeerID) -> bool:
        """Whether this member may have others take no tasks."""
        return self._may(peer, Right.ADMINISTER)

    def is_member(self, peer: PeerID) -> bool:
        """Whether the peer is a member of this node's cluster."""
        admission = self._cluster.admission
        return not admission.is_open and admission.admits(peer)

    def _may(self, peer: PeerID, right: Right) -> bool:
        admission = self._cluster.admission
        if admission.is_open:
            return peer == self._own
        return admission.admits(peer) and right in admission.rights(peer)
