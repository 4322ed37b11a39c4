"""What the audit log is told of links: of members, and of those that are not admitted.

Enters: what the swarm tells of its links. Leaves: the events ``link_member`` and ``guest_refused``.
docs/trust.rst, "Audit log".
"""

from __future__ import annotations

from collections.abc import Callable

from bzzz.identity.peer_id import PeerID
from bzzz.net.link import Link
from bzzz.net.swarm import Swarm
from bzzz.trust.cluster import Cluster
from bzzz.wire.identify import Identify
from bzzz.wire.multiaddr import Multiaddr

__all__ = ["LinkAudit"]


class LinkAudit:
    """Observes the links of a node; a node that is in no cluster has no links of members.

    :param record: of the audit log.
    """

    def __init__(self, swarm: Swarm, cluster: Cluster, record: Callable[..., object]) -> None:
        self._swarm = swarm
        self._cluster = cluster
        self._record = record
        # Those of whom the log says that they are linked, and their names, which a revocation
        # takes. As many as there are links.
        self._linked: dict[PeerID, str] = {}
        swarm.add_observer(self)
        swarm.on_refused(self.refused)
        cluster.on_change(self._changed)

    def link_up(self, link: Link) -> None:
        """See :class:`~bzzz.net.swarm.SwarmObserver`."""
        peer, admission = link.remote_peer, self._cluster.admission
        if peer in self._linked or admission.is_open or not admission.admits(peer):
            return
        name = self._linked[peer] = admission.name_of(peer)
        self._record(
            "link_member", peer_id=str(peer), name=name, state="up", address=_address(link)
        )

    def link_down(self, link: Link, reason: str) -> None:
        """See :class:`~bzzz.net.swarm.SwarmObserver`."""
        if reason == "replaced":
            return
        name = self._linked.pop(link.remote_peer, None)
        if name is not None:
            self._record(
                "link_member",
                peer_id=str(link.remote_peer),
                name=name,
                state="down",
                address=_address(link),
                reason=reason,
            )

    def identified(self, link: Link, identify: Identify) -> None:
        """See :class:`~bzzz.net.swarm.SwarmObserver`."""

    def copy_found(self, address: Multiaddr | None) -> None:
        """See :class:`~bzzz.net.swarm.SwarmObserver`."""

    def refused(self, link: Link, reason: str) -> None:
        """See :attr:`bzzz.net.guests.Guests.on_refused`."""
        self._record(
            "guest_refused",
            peer_id=str(link.remote_peer),
            address=_address(link),
            reason=reason,
        )

    def _changed(self) -> None:
        """A link of before may be one to a member from here on; or no link is any more."""
        if self._cluster.admission.is_open:
            self._linked.clear()
        for link in self._swarm.links.values():
            self.link_up(link)


def _address(link: Link) -> str:
    return str(link.remote_multiaddr or link.remote_host)
