"""A whole node that is a member of a cluster, and peers that are guests, or another member.

Inputs are those of :mod:`.node_target`. Its first peer is a guest; of those that connect later one
is a member.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from twisted.internet.defer import Deferred, maybeDeferred, succeed

from bzzz.mesh.node import MeshNode
from bzzz.trust.cluster import Cluster
from bzzz.trust.pairing_streams import Pairing
from bzzz.trust.roster import Roster
from bzzz.trust.statements import Role, SignedStatement
from tests.fuzz.node_target import KEYS, WALL, World, live, made_node
from tests.fuzz.registry import OURS, THEIRS, fixed_bytes, target

__all__ = ["ADMITTED", "HISTORY", "MEMBER", "NOW", "MemberWorld", "made_roster"]

NOW = "2026-01-02T03:04:05Z"
MEMBER = KEYS[1]


def made_roster() -> Roster:
    """Of this node and of another one, who is an admin, too."""
    roster = Roster.found(OURS, "homelab", "walnut", fixed_bytes(16), NOW)
    roster.add(roster.make_admit(OURS, MEMBER.peer_id, "ironwood", Role.ADMIN, NOW))
    return roster


HISTORY = tuple(made_roster().statements())

# What makes the guest a member.
ADMITTED = made_roster().make_admit(MEMBER, THEIRS.peer_id, "acacia", Role.MEMBER, NOW)


class Disk:
    """Keeps a roster, and tokens for as long as it is asked."""

    def load(self) -> Deferred[list[Any]]:
        """There are statements, and no tokens."""
        return succeed([each.encode() for each in HISTORY])

    def add(self, statements: Sequence[SignedStatement]) -> Deferred[None]:
        """Kept."""
        return succeed(None)

    def put(self, *_: object) -> Deferred[None]:
        """Kept."""
        return succeed(None)

    def remove(self, channel: str) -> Deferred[None]:
        """Forgotten."""
        return succeed(None)

    def replace(self, statements: Sequence[SignedStatement]) -> Deferred[None]:
        """Kept."""
        return succeed(None)

    def clear(self) -> Deferred[None]:
        """Forgotten."""
        return succeed(None)


def nothing(event: str, **fields: object) -> None:
    """Nobody watches."""


class MemberWorld(World):
    """The node is a member, and has an invitation open."""

    def made_node(self) -> MeshNode:
        """See :class:`World`."""
        disk: Any = Disk()
        self.cluster = Cluster(
            *(OURS, disk, lambda: NOW, fixed_bytes, random.Random(1), nothing, maybeDeferred)
        )
        node = made_node(self.clock, self.network, self.cluster)
        self.pairing = Pairing(
            *(node.swarm, self.cluster, disk, self.clock, lambda: WALL, fixed_bytes, maybeDeferred),
            unbound=True,
        )
        Deferred.fromCoroutine(self.cluster.load())
        opening = Deferred.fromCoroutine(self.pairing.open_token(Role.MEMBER, 2, 3600.0))
        assert opening.called
        return node

    def check(self) -> None:
        """Whoever has a link is on the roster, and nobody else hears of anything."""
        super().check()
        roster = self.cluster.roster
        assert roster is not None
        swarm = self.node.swarm
        for peer, link in swarm.links.items():
            assert roster.admits(peer)
            assert not link.is_guest
        for peer, link in swarm.guests.items():
            assert not roster.admits(peer) or not link.is_initiator
            assert link.is_guest
            assert peer not in self.node.pubsub.topic_peers("bzzz/coordination/v1")
        assert len(roster) == len(HISTORY) or roster.admits(MEMBER.peer_id)


@target
def member(data: bytes) -> None:
    """A member, its guests and another member."""
    live(data, MemberWorld)
