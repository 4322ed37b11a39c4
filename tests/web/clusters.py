"""A node's cluster as the control API sees it: real, but for its disk and its network."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet.defer import Deferred, fail, maybeDeferred, succeed
from twisted.internet.task import Clock

from bzzz.errors import DialError
from bzzz.identity.peer_id import PeerID
from bzzz.net.link import Link
from bzzz.trust.cluster import Cluster
from bzzz.trust.codes import Code, Token
from bzzz.trust.invitations import TokenRecord
from bzzz.trust.joining import SEARCH_SECONDS, Joined, Joining
from bzzz.trust.pairing_streams import Pairing
from bzzz.trust.statements import Role, SignedStatement
from bzzz.web.cluster_routes import ClusterRoutes
from bzzz.wire.multiaddr import Multiaddr
from tests.trust.rosters import TIME, key

__all__ = ["NOW", "Home", "InvitationMemory", "RosterMemory"]

# 2026-11-24T01:02:03Z, as TIME.
NOW = 1_795_482_123.0


class RosterMemory:
    """Implements :class:`bzzz.trust.roster_store.RosterStore`."""

    def __init__(self) -> None:
        self.kept: list[bytes] = []

    def load(self) -> Deferred[list[bytes]]:
        return succeed(list(self.kept))

    def add(self, statements: Sequence[SignedStatement]) -> Deferred[None]:
        self.kept += [each.encode() for each in statements]
        return succeed(None)

    def replace(self, statements: Sequence[SignedStatement]) -> Deferred[None]:
        self.kept = [each.encode() for each in statements]
        return succeed(None)

    def clear(self) -> Deferred[None]:
        self.kept.clear()
        return succeed(None)


class InvitationMemory:
    """Implements :class:`bzzz.trust.invitation_store.InvitationStore`."""

    def __init__(self) -> None:
        self.kept: dict[str, tuple[TokenRecord, Role]] = {}

    def load(self) -> Deferred[list[tuple[TokenRecord, Role]]]:
        return succeed(list(self.kept.values()))

    def put(self, channel: str, record: TokenRecord, role: Role) -> Deferred[None]:
        self.kept[channel] = (record, role)
        return succeed(None)

    def remove(self, channel: str) -> Deferred[None]:
        self.kept.pop(channel, None)
        return succeed(None)


class NoSwarm:
    """A network in which nobody is."""

    def handle(self, *arguments: object, **options: object) -> None:
        pass

    def link_to(self, peer: PeerID) -> None:
        return None

    def dial(self, addresses: Sequence[Multiaddr], *_: object, **options: object) -> Deferred[Link]:
        return fail(DialError(f"{addresses[0]}: connection refused"))


class JoiningAtOnce(Joining):
    """Finds the inviter at once, where there is one.

    :ivar inviter: whose roster it takes.
    :ivar asked: what it was given.
    """

    inviter: Home | None = None

    async def join(
        self,
        secret: Code | Token,
        name: str,
        at: Sequence[Multiaddr] = (),
        say: Callable[..., object] = print,
    ) -> Joined:
        self.asked = (secret, name, tuple(at))
        inviter = self.inviter
        if inviter is None or self.cluster.roster is not None:
            return await super().join(secret, name, at, say)
        by = inviter.cluster
        say("looking", seconds=SEARCH_SECONDS)
        say("asking", peer_id=str(by.peer_id), address="/ip4/192.0.2.1/tcp/4001")
        say("found", peer_id=str(by.peer_id))
        await by.admit(self.cluster.peer_id, name, Role.MEMBER)
        roster = await self.cluster.adopt(inviter.statements(), by.peer_id)
        return Joined(roster.cluster, name, by.peer_id, roster.name_of(by.peer_id))


class Home:
    """One node, and the routes to its cluster.

    :ivar connected: whom it is linked with.
    :ivar told: members that hear when it leaves.
    :ivar events: that it has emitted.
    :ivar recorded: of its invitations, for the audit log.
    """

    def __init__(self, name: str = "walnut") -> None:
        self.name = name
        self.key = key(name)
        self.clock = Clock()
        self.connected: set[PeerID] = set()
        self.told = 0
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.recorded: list[tuple[str, dict[str, Any]]] = []
        self.disk = RosterMemory()
        self.tokens = InvitationMemory()
        self.randomness = random.Random(name)
        swarm: Any = NoSwarm()
        self.cluster = Cluster(
            self.key,
            self.disk,
            lambda: TIME,
            self.randomness.randbytes,
            self.randomness,
            lambda event, **fields: self.events.append((event, fields)),
            maybeDeferred,
        )
        self.pairing = Pairing(
            swarm,
            self.cluster,
            self.tokens,
            self.clock,
            lambda: NOW + self.clock.seconds(),
            self.randomness.randbytes,
            maybeDeferred,
            lambda event, **fields: self.recorded.append((event, fields)),
        )
        self.joining = JoiningAtOnce(
            swarm, self.cluster, self.clock, self.randomness.randbytes, maybeDeferred, list
        )
        self.routes = ClusterRoutes(
            self.cluster,
            self.pairing,
            self.joining,
            lambda: self.name,
            self.connected.__contains__,
            self._leave,
        )

    @property
    def peer_id(self) -> PeerID:
        return self.key.peer_id

    def statements(self) -> list[bytes]:
        """The roster, as it goes over the network."""
        return [each.encode() for each in self.cluster.member_of().statements()]

    def found(self, cluster: str = "homelab") -> None:
        """Be in a cluster, as its admin."""
        done(self.cluster.create(cluster, self.name))

    def admit(self, name: str, role: Role = Role.MEMBER) -> Home:
        """Another node that is in this one's cluster."""
        other = Home(name)
        done(self.cluster.admit(other.peer_id, name, role))
        done(other.cluster.adopt(self.statements()))
        return other

    def news_to(self, other: Home) -> None:
        """The other hears what this one knows."""
        roster = other.cluster.member_of()
        other.cluster.news(roster.merge(self.cluster.member_of().statements()))

    async def _leave(self) -> int:
        await self.cluster.say_leaving()
        await self.cluster.forget()
        return self.told


def done(work: Any) -> Any:
    """What comes of work that waits for nothing."""
    result: list[Any] = []
    Deferred.fromCoroutine(work).addBoth(result.append)
    (value,) = result
    if hasattr(value, "raiseException"):
        value.raiseException()
    return value
