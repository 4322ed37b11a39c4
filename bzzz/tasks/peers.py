"""The members that can be asked about tasks, over the links of a swarm.

Enters: links, who is a member. Leaves: questions on ``/bzzz/task/1.0.0``, and that other members
can be asked than before.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

from twisted.internet.defer import Deferred

from bzzz.identity.peer_id import PeerID
from bzzz.net.calls import Calls
from bzzz.net.link import Link
from bzzz.net.swarm import Swarm
from bzzz.tasks.messages import PROTOCOL, Answer, Request, TaskCodec
from bzzz.wire.identify import Identify
from bzzz.wire.multiaddr import Multiaddr

__all__ = ["SwarmPeers"]


class SwarmPeers:
    """Implements :class:`bzzz.tasks.interfaces.Peers`. Add it to the swarm's observers.

    :param answer: answers what others ask.
    :param is_member: whether a peer is a member of this node's cluster.
    :param changed: called when other members can be asked than before.
    """

    def __init__(
        self,
        swarm: Swarm,
        answer: Callable[[PeerID, Request], Deferred[Answer]],
        is_member: Callable[[PeerID], bool],
        changed: Callable[[], object],
    ) -> None:
        self._swarm = swarm
        self._is_member = is_member
        self._changed = changed
        self._speaks: set[PeerID] = set()
        self._calls: Calls[Request, Answer] = Calls(swarm, TaskCodec(), answer, is_member)

    def linked(self) -> Collection[PeerID]:
        """Those that can be asked now."""
        return {peer for peer in self._speaks if self._is_member(peer)}

    def ask(self, peer: PeerID, request: Request) -> Deferred[Answer]:
        """See :class:`~bzzz.tasks.interfaces.Peers`."""
        return self._calls.ask(peer, request)

    def send_now(self) -> None:
        """See :class:`~bzzz.tasks.interfaces.Peers`."""
        self._calls.send_now()

    # -- swarm observer

    def link_up(self, link: Link) -> None:
        """Identify follows, and says whether the peer speaks this."""

    def link_down(self, link: Link, reason: str) -> None:
        """It cannot be asked any more."""
        if link.remote_peer in self._speaks:
            self._speaks.discard(link.remote_peer)
            self._changed()

    def identified(self, link: Link, identify: Identify) -> None:
        """The peer said what it speaks."""
        speaks = PROTOCOL in identify.protocols
        if speaks == (link.remote_peer in self._speaks):
            return
        if speaks:
            self._speaks.add(link.remote_peer)
        else:
            self._speaks.discard(link.remote_peer)
        self._changed()

    def copy_found(self, address: Multiaddr | None) -> None:
        """Not of interest here."""
