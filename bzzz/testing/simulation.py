"""Whole nodes in one process: the daemon's own mesh code on virtual time and an in-memory network.

Enters: a seed and a number of nodes; faults. Leaves: the history of everything that the nodes
said, with a digest that is the same for the same seed, and the answer to what has to hold at the
end: every live node is linked to every live node by one link, and to nobody else, and knows who it
is. Where there are more nodes than a node may have links, they are one mesh all the same, and no
two are left that would both rather have each other than what they have.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet.defer import Deferred, maybeDeferred, succeed

from bzzz.events import rfc3339
from bzzz.identity.keys import PrivateKey
from bzzz.identity.peer_id import PeerID
from bzzz.mesh.availability import Availability
from bzzz.mesh.capability import CapabilityDocument, Resources
from bzzz.mesh.membership import ADDRESS_BOOK
from bzzz.mesh.node import MeshNode, MeshSettings, Surroundings
from bzzz.net.link import Link
from bzzz.net.places import rank
from bzzz.testing.clock import NodeClock, SimReactor
from bzzz.testing.discovery import Multicast
from bzzz.testing.network import Host, SimNetwork
from bzzz.testing.roster import SimRosterStore
from bzzz.trust.cluster import Cluster
from bzzz.trust.roster import Roster
from bzzz.trust.statements import Role
from bzzz.wire.gossip_params import GossipParams
from bzzz.wire.multiaddr import Multiaddr

__all__ = ["SimBook", "SimNode", "Simulation", "link_problems"]

PORT = 40000

# When the clusters of a simulation were founded.
BEFORE = "2026-01-01T00:00:00Z"


class SimBook:
    """An address book that lives as long as the node's disk."""

    def __init__(self) -> None:
        self.addresses: dict[PeerID, dict[Multiaddr, None]] = {}

    def seen(
        self, peer: PeerID, addresses: Sequence[Multiaddr], source: str, name: str = ""
    ) -> None:
        """See :class:`bzzz.mesh.membership.Book`."""
        self.addresses.setdefault(peer, {}).update(dict.fromkeys(addresses))

    def succeeded(self, peer: PeerID, address: Multiaddr) -> None:
        """See :class:`bzzz.mesh.membership.Book`."""
        self.addresses.setdefault(peer, {})[address] = None

    def ordered(self, peer: PeerID, addresses: Sequence[Multiaddr]) -> list[Multiaddr]:
        """See :class:`bzzz.mesh.membership.Book`."""
        return list(addresses)


class SimNode:
    """One machine with a node on it.

    :ivar mesh: the node that runs; None while it does not.
    :ivar document: what it can do, from its first start on; after a change call
        ``mesh.broadcasts.changed()``.
    :ivar starts: how often it was started.
    :ivar statements: the roster on its disk.
    :ivar cluster: of the node that runs.
    """

    def __init__(self, simulation: Simulation, number: int) -> None:
        self.name = f"n{number}"
        self.simulation = simulation
        self.key = PrivateKey(simulation.random.randbytes(32))
        self.book = SimBook()
        self.statements: list[bytes] = []
        self.mesh: MeshNode | None = None
        self.cluster: Cluster | None = None
        self.document: CapabilityDocument
        self.starts = 0
        self.host: Host = simulation.network.add_host(self._clock())
        self.host.clock.crashed = True

    @property
    def alive(self) -> bool:
        """Whether the node runs."""
        return self.mesh is not None

    def start(self, bootstrap: Sequence[Multiaddr] = ()) -> None:
        """Start the node, or start it again with what is on its disk."""
        simulation = self.simulation
        clock = self._clock()
        self.host.restart(clock)
        self.starts += 1
        # Drawn anew at each start, as a process would, but from the seed.
        own = random.Random(simulation.random.randbytes(16))  # nosec B311  # noqa: S311 - no secrets
        address = Multiaddr.tcp(self.host.address, PORT)
        self.document = CapabilityDocument(
            node_id=str(self.key.peer_id),
            name=self.name,
            version="simulated",
            capabilities=("simulated",),
            resources=Resources(cpu_cores=2, memory_bytes=1 << 30),
        )
        cluster = Cluster(
            self.key,
            SimRosterStore(self.statements, clock),
            lambda: rfc3339(clock.wall_time()),
            own.randbytes,
            own,
            self._emit,
            maybeDeferred,
        )
        mesh = MeshNode(
            self.key,
            MeshSettings(
                name=self.name,
                agent="bzzz-py/simulated",
                bootstrap=tuple(bootstrap),
                max_links=simulation.max_links,
                security=simulation.security,
                broadcast_interval=simulation.broadcast_interval,
            ),
            Surroundings(
                clock, simulation.network.of(self.host), clock.wall_time, own, own.randbytes
            ),
            self.book,
            lambda: self.document,
            Availability(2, clock.wall_time),
            self._emit,
            [simulation.multicast.source(self.host, clock, self.key.peer_id, lambda: (address,))]
            if simulation.use_multicast
            else [],
            _resolved,
            simulation.gossip,
            cluster,
        )
        self.mesh, self.cluster = mesh, cluster
        Deferred.fromCoroutine(cluster.load()).addErrback(simulation.failed)
        listening = mesh.swarm.listen(self.host.address, PORT)
        Deferred.fromCoroutine(listening).addErrback(simulation.failed)
        for peer, addresses in self.book.addresses.items():
            mesh.membership.found(peer, tuple(addresses), ADDRESS_BOOK)
        mesh.start()

    def kill(self) -> None:
        """The process dies; its kernel closes the sockets."""
        self.mesh = self.cluster = None
        self.host.kill()
        self.simulation.record(self.name, "killed", {})

    def vanish(self) -> None:
        """The machine dies without a word."""
        self.mesh = self.cluster = None
        self.host.vanish()
        self.simulation.record(self.name, "vanished", {})

    def stop(self) -> None:
        """The node leaves in order."""
        mesh = self.mesh
        self.mesh = self.cluster = None
        if mesh is not None:
            Deferred.fromCoroutine(mesh.stop()).addErrback(self.simulation.failed)

    def _clock(self) -> NodeClock:
        simulation = self.simulation
        drift = 1.0 + simulation.drift * (2 * simulation.random.random() - 1)
        return NodeClock(simulation.reactor, drift, simulation.random.random() * 1000)

    def _emit(self, event: str, **fields: Any) -> None:
        self.simulation.record(self.name, event, fields)


def _resolved(address: Multiaddr) -> Deferred[Sequence[Multiaddr]]:
    return succeed((address,))


class Simulation:
    """A world.

    :param seed: everything that is random is drawn from it.
    :param drift: share by which clocks may run fast or slow.
    :param security: ``plaintext`` where thousands of links are needed, or ``noise``.
    :ivar history: ``(time, node, event, fields)``; kept only with ``keep_history``.
    """

    def __init__(
        self,
        seed: int,
        nodes: int,
        *,
        loss: float = 0.0,
        latency: float = 0.0002,
        drift: float = 0.0001,
        security: str = "plaintext",
        max_links: int = 256,
        broadcast_interval: float = 30.0,
        use_multicast: bool = True,
        hears: Callable[[Host, Host], bool] = lambda one, other: True,
        gossip: GossipParams | None = None,
        keep_history: bool = False,
    ) -> None:
        self.seed = seed
        self.random = random.Random(seed)  # nosec B311  # noqa: S311 - reproducible on purpose
        self.reactor = SimReactor(self.random)
        self.network = SimNetwork(self.reactor, self.random, latency, latency * 1.5, loss)
        self.multicast = Multicast(self.network, hears)
        self.use_multicast = use_multicast
        self.drift = drift
        self.security = security
        self.max_links = max_links
        self.broadcast_interval = broadcast_interval
        self.gossip = gossip
        self.failures: list[str] = []
        self.history: list[tuple[float, str, str, str]] = []
        self.events = 0
        self._keep = keep_history
        self._digest = hashlib.sha256()
        self.nodes = [SimNode(self, number) for number in range(nodes)]

    def claim(self, admins: int, members: int) -> None:
        """Put the first nodes into one cluster, before they start: admins first, then members."""
        founder = self.nodes[0]
        roster = Roster.found(
            founder.key, "simulated", founder.name, self.random.randbytes(16), BEFORE
        )
        for number, node in enumerate(self.nodes[1:members], 1):
            role = Role.ADMIN if number < admins else Role.MEMBER
            roster.add(roster.make_admit(founder.key, node.key.peer_id, node.name, role, BEFORE))
        for node in self.nodes[:members]:
            node.statements[:] = [each.encode() for each in roster.statements()]

    @property
    def digest(self) -> str:
        """Of the whole history so far."""
        return self._digest.hexdigest()

    def record(self, node: str, event: str, fields: dict[str, Any]) -> None:
        """Something was said."""
        self.events += 1
        said = repr(sorted((key, str(value)) for key, value in fields.items()))
        entry = (self.reactor.now, node, event, said)
        self._digest.update(repr(entry).encode())
        if self._keep:
            self.history.append(entry)

    def failed(self, failure: Any) -> None:
        """Something failed that should not have."""
        self.failures.append(failure.getTraceback())

    def start_all(self, within: float = 1.0) -> None:
        """Start every node at a moment within so many seconds."""
        for node in self.nodes:
            self.reactor.callLater(self.random.random() * within, node.start)

    def run(self, seconds: float, done: Callable[[], bool] | None = None) -> bool:
        """Let time pass; see :meth:`SimReactor.run_until`."""
        return self.reactor.run_until(self.reactor.now + seconds, done)

    def run_until_whole(self, limit: float, step: float = 0.25) -> float | None:
        """Let time pass until the mesh is whole.

        :return: the seconds that took, or None if it was not whole within ``limit``.
        """
        begin = self.reactor.now
        while self.reactor.now - begin < limit:
            self.run(step)
            if not self.problems(1):
                return self.reactor.now - begin
        return None

    def live(self) -> list[SimNode]:
        """The nodes that run."""
        return [node for node in self.nodes if node.mesh is not None]

    def problems(self, most: int = 20) -> list[str]:
        """What is not as it has to be, at most so many of it. Empty for a whole mesh."""
        live = self.live()
        found = [*self.failures, *link_problems(live, self.max_links)][:most]
        alive = {node.key.peer_id for node in live}
        names = {node.key.peer_id: node.name for node in self.nodes}
        links: dict[frozenset[PeerID], set[str]] = {}
        for node in live:
            mesh = node.mesh
            assert mesh is not None  # nosec B101  # noqa: S101 - live() says so
            linked = set(mesh.swarm.links)
            known = set(mesh.broadcasts.documents)
            connected = {member.peer_id for member in mesh.membership.connected()}
            others = alive - {node.key.peer_id}
            for what, peers in (
                ("is linked to the dead", linked - others),
                ("shows as connected", connected ^ linked),
                ("has not heard what can do", others - known),
            ):
                for peer in sorted(peers)[: most - len(found)]:
                    found.append(f"{node.name} {what} {names.get(peer, str(peer))}")
            for peer, link in mesh.swarm.links.items():
                initiator = node.key.peer_id if link.is_initiator else peer
                links.setdefault(frozenset((node.key.peer_id, peer)), set()).add(str(initiator))
            if len(found) >= most:
                return found
        for pair, initiators in links.items():
            if len(initiators) > 1:
                who = " and ".join(sorted(names.get(peer, str(peer)) for peer in pair))
                found.append(f"{who} do not hold the same link")
        return found[:most]


def link_problems(nodes: Sequence[SimNode], max_links: int) -> list[str]:
    """Which of these live nodes are not linked as they should be with each other."""
    linked = {node: {} if node.mesh is None else dict(node.mesh.swarm.links) for node in nodes}
    found = []
    for node, links in linked.items():
        mesh = node.mesh
        if mesh is None:
            continue
        if len(links) > max_links:
            found.append(f"{node.name} has {len(links)} links")
        for other in nodes:
            peer = other.key.peer_id
            member = mesh.membership.members.get(peer)
            if peer in links and (member is None or not member.told_up):
                found.append(f"{node.name} does not know who is linked as {other.name}")
    reached = _reached(linked)
    if len(reached) < len(nodes):
        apart = [node.name for node in nodes if node not in reached]
        found.append(f"{nodes[0].name} has no way to {', '.join(apart)}")

    def wants(node: SimNode, other: SimNode) -> bool:
        own = node.key.peer_id
        ranks = [rank(own, peer) for peer in linked[node]]
        return len(ranks) < max_links or rank(own, other.key.peer_id) < max(ranks)

    for node in nodes:
        for other in nodes:
            if (
                other.key.peer_id not in linked[node]
                and other.key.peer_id != node.key.peer_id
                and wants(node, other)
                and wants(other, node)
            ):
                found.append(f"{node.name} is not linked to {other.name}")
    return found


def _reached(linked: dict[SimNode, dict[PeerID, Link]]) -> set[SimNode]:
    """The nodes that the first one is linked to, by way of others, too."""
    by_peer = {node.key.peer_id: node for node in linked}
    waiting = list(linked)[:1]
    reached = set(waiting)
    while waiting:
        links = linked[waiting.pop()]
        new = [by_peer[peer] for peer in links if peer in by_peer and by_peer[peer] not in reached]
        reached.update(new)
        waiting += new
    return reached
