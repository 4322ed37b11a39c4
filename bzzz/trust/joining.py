"""``bzzz join``: how an unclaimed node with a code, or a token, becomes a member.

Enters: a code or a token, where to look. Leaves: membership in the cluster, or why not.
docs/trust.rst, "Pairing". Whom it asks is in :mod:`bzzz.trust.joining_attempt`, what it says to
each in :mod:`bzzz.trust.joining_run`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from bzzz.net.interfaces import Clock
from bzzz.net.swarm import Swarm
from bzzz.trust.cluster import Cluster, ClusterError
from bzzz.trust.codes import Code, Token
from bzzz.trust.joining_attempt import SEARCH_SECONDS, Attempt, Candidate, Say
from bzzz.trust.joining_run import InThread, Joined, JoinError
from bzzz.trust.pairing_keys import prepare
from bzzz.trust.pairing_messages import NAME
from bzzz.wire.multiaddr import Multiaddr

__all__ = ["SEARCH_SECONDS", "Candidate", "JoinError", "Joined", "Joining"]


class Joining:
    """Has this node join a cluster.

    :param candidates: the peers that are known to be members of a cluster.
    :param unbound: take links that have no handshake hash; in the simulator only.
    """

    def __init__(
        self,
        swarm: Swarm,
        cluster: Cluster,
        clock: Clock,
        random_bytes: Callable[[int], bytes],
        in_thread: InThread,
        candidates: Callable[[], Sequence[Candidate]],
        unbound: bool = False,
    ) -> None:
        self.swarm = swarm
        self.cluster = cluster
        self.clock = clock
        self.random_bytes = random_bytes
        self.in_thread = in_thread
        self.unbound = unbound
        self._candidates = candidates
        self._under_way = False

    async def join(
        self, secret: Code | Token, name: str, at: Sequence[Multiaddr] = (), say: Say = print
    ) -> Joined:
        """Find the inviter and join its cluster.

        :param at: where the inviter is; else it is looked for among the peers that are discovered.
        :param say: told of what happens: ``looking`` (``seconds``), ``asking`` (``peer_id``),
            ``found`` (``peer_id``).
        :raises ClusterError: this node is a member of one already.
        :raises JoinError: it did not come to that.
        """
        if self.cluster.roster is not None:
            raise ClusterError(
                "already_member",
                f"this node is a member of {self.cluster.roster.cluster}: bzzz leave comes first",
            )
        if self._under_way:
            raise JoinError("busy", "this node is joining a cluster at this moment")
        if NAME.fullmatch(name) is None:
            raise JoinError(
                "bad_name",
                f"{name!r} cannot be the name of a node: it has letters, digits and . _ -, at most"
                " 63, a letter or digit first",
            )
        self._under_way = True
        try:
            say("looking", seconds=SEARCH_SECONDS)
            await self.in_thread(prepare)
            attempt = Attempt(self, secret, name, at, say)
            return await attempt.run(self._candidates)
        finally:
            self._under_way = False
