"""The mesh of one node: everything between the network and the person, composed.

It takes its surroundings as arguments, so that the daemon runs it on TCP and multicast and the
simulator runs the same code on a virtual clock and an in-memory network.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from bzzz.discovery.interfaces import FoundPeer, IPeerSource
from bzzz.identity.keys import PrivateKey
from bzzz.identity.peer_id import PeerID
from bzzz.mesh.asking import Asking
from bzzz.mesh.availability import Availability
from bzzz.mesh.broadcasts import Broadcasts
from bzzz.mesh.capability import CapabilityDocument
from bzzz.mesh.kept_out import KeptOut
from bzzz.mesh.lag import ReactorLag
from bzzz.mesh.liveness import Liveness
from bzzz.mesh.member import Member
from bzzz.mesh.membership import Book, Membership
from bzzz.mesh.peer_exchange import KnownPeer, PeerExchange
from bzzz.mesh.pubsub import PubSub
from bzzz.mesh.seeds import Seeds
from bzzz.net.background import in_background
from bzzz.net.interfaces import Clock, INetwork, Randomness
from bzzz.net.link import Link
from bzzz.net.periodic import Periodic
from bzzz.net.ping import PingService
from bzzz.net.swarm import Swarm, SwarmLimits
from bzzz.net.turns import Turns
from bzzz.trust.cluster import Cluster
from bzzz.trust.presenting import Presenting
from bzzz.trust.roster_streams import RosterStreams
from bzzz.wire.gossip_params import GossipParams
from bzzz.wire.identify import Identify
from bzzz.wire.multiaddr import Multiaddr

__all__ = ["MeshNode", "MeshSettings", "Surroundings"]

# Between two rounds of asking one peer at random, in seconds.
ASK_EVERY = 30.0

# An address of ours that is not ours is dialled again after so many seconds: in most cases it is
# one that this machine had before. So many are remembered.
COPY_AGAIN = 3600.0
MAX_FOREIGN = 64


@dataclass(frozen=True)
class Surroundings:
    """The world of a node.

    :ivar wall_time: seconds since the epoch.
    :ivar random_bytes: randomness fit for keys.
    :ivar turns: what the links share of a turn of the reactor.
    """

    clock: Clock
    network: INetwork
    wall_time: Callable[[], float]
    random: Randomness
    random_bytes: Callable[[int], bytes]
    turns: Turns | None = None


@dataclass(frozen=True)
class MeshSettings:
    """What is configured of the mesh.

    :ivar broadcast_interval: seconds between capability broadcasts.
    :ivar security: ``noise``; ``plaintext`` in the simulator only.
    """

    name: str
    agent: str
    broadcast_interval: float = 30.0
    max_links: int = 256
    bootstrap: tuple[Multiaddr, ...] = ()
    security: str = "noise"


class MeshNode:
    """One node of the mesh.

    :param document: makes the node's capability document as it is now.
    :param emit: takes an event's name and its fields.
    :param resolve: concrete addresses of a bootstrap address.
    :param cluster: which this node may be a member of; None for a node that is always unclaimed.
    """

    _log = Logger()

    def __init__(
        self,
        key: PrivateKey,
        settings: MeshSettings,
        world: Surroundings,
        book: Book,
        document: Callable[[], CapabilityDocument],
        availability: Availability,
        emit: Callable[..., Any],
        sources: Sequence[IPeerSource],
        resolve: Callable[[Multiaddr], Deferred[Sequence[Multiaddr]]],
        gossip: GossipParams | None = None,
        cluster: Cluster | None = None,
    ) -> None:
        clock = world.clock
        admission = None if cluster is None else cluster.admission
        admits = (lambda peer: True) if admission is None else admission.admits
        self.peer_id = key.peer_id
        self.settings = settings
        self.swarm = Swarm(
            key,
            clock,
            world.network,
            world.random_bytes,
            settings.agent,
            settings.name,
            SwarmLimits(links=settings.max_links),
            settings.security,
            world.turns,
            gate=admission,
        )
        self.lag = ReactorLag(clock)
        self.pings = PingService(self.swarm, world.random_bytes)
        self.liveness = Liveness(clock, world.random, self.pings, self.lag, self._calm)
        self.seeds = Seeds(
            self.swarm, clock, world.random, settings.bootstrap, resolve, self._is_claimed
        )
        self.membership = Membership(
            self.swarm,
            clock,
            world.wall_time,
            world.random,
            book,
            emit,
            self._tried,
            admits=admits,
        )
        self.exchange = PeerExchange(
            self.swarm,
            self.membership.not_sought,
            self._linked,
            self._describe,
            self._learnt,
        )
        self.pubsub = PubSub(
            self.swarm,
            key,
            clock,
            world.random,
            gossip or GossipParams(),
            int(world.wall_time() * 1e9),
            admits,
        )
        self.broadcasts = Broadcasts(
            pubsub=self.pubsub,
            clock=clock,
            wall_time=world.wall_time,
            interval=settings.broadcast_interval,
            peer_id=self.peer_id,
            document=document,
            availability=availability,
            emit=emit,
            name_of=self.membership.name_of,
        )
        self._admits = admits
        self._cluster_id = ""
        self._clock = clock
        self._random = world.random
        self._sources = list(sources)
        self._asking_one = Periodic(
            clock, ASK_EVERY, self._ask_one, "asking a peer for other peers", self._log
        )
        self._foreign: dict[Multiaddr, float] = {}
        self._asking = Asking(clock, self._ask, self._calm)
        self.membership.on_forgotten = self.broadcasts.forget
        self.cluster = cluster
        self.roster: RosterStreams | None = None
        self._kept_out = KeptOut()
        for observer in (self.membership, self.liveness, self._kept_out, self):
            self.swarm.add_observer(observer)
        if cluster is not None:
            # First, because who is revoked may hear of it before the link is closed.
            self.roster = RosterStreams(self.swarm, cluster, clock, world.random)
            cluster.on_change(self._members_changed)
            self.swarm.add_observer(self.roster)
            self.swarm.add_observer(Presenting(self.swarm, cluster, clock))

    def start(self) -> None:
        """Join the mesh. Listening is begun before, at addresses that the swarm is given."""
        self.lag.start()
        self.liveness.start()
        self.pubsub.start()
        self.broadcasts.start()
        self.membership.start()
        self.seeds.start()
        self._asking_one.start(now=False)
        if self.roster is not None:
            self.roster.start()
        for source in self._sources:
            in_background(source.start(self._found), f"starting {source}", self._log)

    async def stop(self) -> None:
        """Leave the mesh in order: no more discovery, then goodbye on every link."""
        self._asking_one.stop()
        self._asking.stop()
        if self.roster is not None:
            self.roster.stop()
        self.seeds.stop()
        self.membership.stop()
        stopping = [
            in_background(source.stop(), f"stopping {source}", self._log)
            for source in self._sources
        ]
        self.broadcasts.stop()
        self.pubsub.stop()
        self.liveness.stop()
        await self.swarm.stop()
        self.lag.stop()
        for stopped in stopping:
            await stopped

    def unreachable(self) -> list[tuple[str, str]]:
        """Bootstrap addresses and peers that are not linked, each with the reason."""
        members = self.membership.shown()
        return self.seeds.failing() + [
            (member.label, member.reason)
            for member in members
            if member.link is None and member.reason and not self._only_kept_out(member)
        ]

    def hosts(self) -> list[Member]:
        """The peers that took this node for a guest when they last spoke, linked now or not.

        They have not heard that it is a member, or have revoked it: this node cannot tell.
        """
        return [member for member in self.membership.shown() if member.peer_id in self._kept_out]

    @property
    def member_links(self) -> int:
        """How many links there are on which the peer does not take this node for a guest."""
        return sum(not link.guest_there for link in self.swarm.links.values())

    # -- swarm observer

    def link_up(self, link: Link) -> None:
        """Ask a new peer for others."""
        self._asking.link_up(link)

    def link_down(self, link: Link, reason: str) -> None:
        """A peer that is gone is not asked."""
        self._asking.link_down(link)

    def identified(self, link: Link, identify: Identify) -> None:
        """Not of interest here."""

    def copy_found(self, address: Multiaddr | None) -> None:
        """Not of interest here."""

    # -- inside

    def _only_kept_out(self, member: Member) -> bool:
        """Whether it ended its link because this node is a guest to it, and answers dials."""
        return member.peer_id in self._kept_out and not member.attempts

    def _members_changed(self) -> None:
        """Somebody became a member, or is none any more, or this node did."""
        roster = None if self.cluster is None else self.cluster.roster
        cluster_id = "" if roster is None else roster.cluster_id
        if self._cluster_id not in ("", cluster_id):
            # What members said is not for those with whom this node links from now on.
            self.pubsub.forget_messages()
            self.broadcasts.forget_all()
            self._kept_out.forget_all()
            for link in list(self.swarm.links.values()):
                # Who has not heard that this node left would go on telling it.
                link.sever("this node has left its cluster")
        joined = bool(cluster_id) and not self._cluster_id
        self._cluster_id = cluster_id
        self.swarm.gate_changed()
        self.membership.reconsider()
        self.seeds.look_again()
        self.broadcasts.forget_others(self._admits)
        if joined:
            # Members have forgotten what this node said while it was none.
            self.broadcasts.tell_anew()

    def _is_claimed(self, peer: PeerID) -> bool:
        member = self.membership.members.get(peer)
        return member is not None and member.claimed_until is not None

    def _found(self, found: FoundPeer) -> None:
        if found.peer_id is not None:
            self.membership.found(found.peer_id, found.addresses, found.source, found.name)

    def _learnt(self, peer: PeerID, name: str, addresses: tuple[Multiaddr, ...]) -> None:
        if peer == self.peer_id:
            self._told_of_ourselves(addresses)
        else:
            self.membership.found(peer, addresses, "member", name)

    def _told_of_ourselves(self, addresses: tuple[Multiaddr, ...]) -> None:
        """Where this node is not, another may have its key; without mDNS only others know."""
        now = self._clock.seconds()
        foreign = [
            address
            for address in addresses
            if address not in self.swarm.listen_addresses
            and now - self._foreign.get(address, float("-inf")) >= COPY_AGAIN
        ]
        for address in foreign:
            self._foreign[address] = now
        while len(self._foreign) > MAX_FOREIGN:
            del self._foreign[next(iter(self._foreign))]
        self.membership.conflict(foreign)

    def _calm(self) -> bool:
        return not self.swarm.pending_handshakes

    def _linked(self) -> list[PeerID]:
        return list(self.swarm.links)

    def _describe(self, peer: PeerID) -> KnownPeer:
        member = self.membership.members.get(peer)
        if member is None:
            return KnownPeer(str(peer))
        addresses = [str(address) for address in reversed(member.addresses)]
        return KnownPeer(str(peer), member.name, addresses)

    def _ask(self, link: Link) -> None:
        if not link.closed:
            self.exchange.ask(link)

    def _ask_one(self) -> None:
        links = list(self.swarm.links.values())
        if links:
            self._ask(links[int(self._random.random() * len(links))])

    def _tried(self) -> str:
        tried = [str(source) for source in self._sources] + self.seeds.tried()
        known = len(self.membership.shown())
        if known:
            tried.append("one known peer" if known == 1 else f"{known} known peers")
        return "; ".join(tried) or "nothing: mDNS is off and there is no bootstrap address"
