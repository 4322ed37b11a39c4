"""Whole nodes on virtual time: how a mesh forms, what it does about faults, and that it replays.

Many nodes and many seeds are for ``python -m bzzz.testing``; what is here is small enough for each
run of the tests.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
from twisted.trial.unittest import SynchronousTestCase

from bzzz.mesh.node import MeshNode
from bzzz.testing.faults import plan_faults
from bzzz.testing.network import Host
from bzzz.testing.simulation import PORT, SimNode, Simulation
from bzzz.wire.multiaddr import Multiaddr

# What DESIGN promises: a mesh within 2 s, a silent death noticed within 10 s.
FORMED_WITHIN = 2.0
NOTICED_WITHIN = 10.0

# The longest wait between two dials, the time until a silent death is noticed, and a broadcast.
WHOLE_WITHIN = 60.0 + 10.0 + 30.0


class SimulationCase(SynchronousTestCase):
    def world(self, nodes: int, seed: int = 1, **options: Any) -> Simulation:
        return Simulation(seed, nodes, keep_history=True, **options)

    def formed(self, nodes: int, seed: int = 1, **options: Any) -> Simulation:
        """A whole mesh."""
        world = self.world(nodes, seed, **options)
        world.start_all(0.0)
        self.assertIsNotNone(world.run_until_whole(10.0), world.problems())
        return world

    def whole(self, world: Simulation, within: float) -> None:
        self.assertIsNotNone(world.run_until_whole(within), world.problems())

    def events(self, world: Simulation, event: str, since: float = 0.0) -> list[tuple[str, str]]:
        """Who said so, and what."""
        return [
            (node, said) for at, node, name, said in world.history if name == event and at >= since
        ]

    def mesh(self, node: SimNode) -> MeshNode:
        assert node.mesh is not None
        return node.mesh

    def hears_neighbours(self, world: Callable[[], Simulation]) -> Callable[[Host, Host], bool]:
        """Multicast reaches only the next host on either side."""

        def hears(one: Host, other: Host) -> bool:
            hosts = [node.host for node in world().nodes]
            return abs(hosts.index(one) - hosts.index(other)) == 1

        return hears


class FormingTests(SimulationCase):
    def test_at_once(self) -> None:
        """Nodes that start in the same moment are one encrypted mesh within 2 s."""
        world = self.world(12, security="noise")
        world.start_all(0.0)
        self.whole(world, FORMED_WITHIN)
        self.assertEqual(self.events(world, "lost"), [])

    def test_simultaneous_dials(self) -> None:
        """Two that dial each other in the same moment end with one link, whoever wins."""
        initiators = set()
        for seed in range(20):
            world = self.formed(2, seed, drift=0.0)
            world.run(10.0)
            self.assertEqual(world.problems(), [], f"seed {seed}")
            self.assertEqual(self.events(world, "lost"), [], f"seed {seed}")
            (link,) = self.mesh(world.nodes[0]).swarm.links.values()
            initiators.add(link.is_initiator)
        self.assertEqual(initiators, {True, False})

    def test_bootstrap(self) -> None:
        """Without multicast one address is enough for all to find all."""
        world = self.world(8, use_multicast=False)
        first, *others = world.nodes
        first.start()
        address = Multiaddr.tcp(first.host.address, PORT)
        for node in others:
            node.start(bootstrap=[address])
        self.whole(world, FORMED_WITHIN)

    def test_out_of_reach(self) -> None:
        """Whoever cannot be reached is named with the reason, until it is linked."""
        world = self.world(2, use_multicast=False)
        one, other = world.nodes
        address = Multiaddr.tcp(other.host.address, PORT)
        one.start(bootstrap=[address])
        world.run(5.0)
        ((who, why),) = self.mesh(one).unreachable()
        self.assertEqual(who, str(address))
        self.assertIn("refused", why)
        other.start()
        self.whole(world, WHOLE_WITHIN)
        self.assertEqual(self.mesh(one).unreachable(), [])
        other.kill()
        world.run(5.0)
        self.assertIn(
            "refused", dict(self.mesh(one).unreachable())[f"{other.key.peer_id.short} (n1)"]
        )

    def test_bootstrap_from_a_stale_book(self) -> None:
        """What the address books say of those who have moved keeps nobody from learning where they
        are now."""
        world = self.world(6, use_multicast=False)
        first, *others = world.nodes
        for node in others:
            for other in others:
                if other is not node:
                    dead = Multiaddr.parse("/ip4/10.99.99.99/tcp/40000")
                    node.book.seen(other.key.peer_id, [dead], "mdns")
        first.start()
        address = Multiaddr.tcp(first.host.address, PORT)
        for node in others:
            node.start(bootstrap=[address])
        self.whole(world, 10.0)

    def test_multicast_reaches_some(self) -> None:
        """Where each hears only its neighbours, members tell of members."""
        worlds: list[Simulation] = []
        worlds.append(self.world(8, hears=self.hears_neighbours(lambda: worlds[0])))
        worlds[0].start_all(0.0)
        self.whole(worlds[0], 60.0)

    def test_few_links(self) -> None:
        """Nodes that may not link all hear of those that they are not linked to."""
        worlds: list[Simulation] = []
        hears = self.hears_neighbours(lambda: worlds[0])
        worlds.append(self.world(7, hears=hears, max_links=4))
        (world,) = worlds
        world.start_all(0.0)

        def all_heard() -> bool:
            return all(len(self.mesh(node).broadcasts.documents) == 6 for node in world.nodes)

        self.assertTrue(world.run(60.0, all_heard))
        self.whole(world, 300.0)
        # News take the shortest way.
        node = world.nodes[0]
        node.document = msgspec.structs.replace(node.document, models=("phi3",))
        self.mesh(node).broadcasts.changed()

        def all_know() -> bool:
            return all(
                self.mesh(other).broadcasts.documents[node.key.peer_id].models == ("phi3",)
                for other in world.nodes[1:]
            )

        self.assertTrue(world.run(1.0, all_know))


class BroadcastTests(SimulationCase):
    def test_change(self) -> None:
        """What has changed is heard by all within 50 ms, and once."""
        world = self.formed(10)
        world.run(40.0)
        node = world.nodes[3]
        before = world.reactor.now
        node.document = msgspec.structs.replace(node.document, models=("phi3",))
        self.mesh(node).broadcasts.changed()
        world.run(0.05)
        heard = [
            who
            for who, said in self.events(world, "capability_broadcast", before)
            if "('direction', 'received')" in said and "('changed', 'True')" in said
        ]
        self.assertEqual(sorted(heard), sorted(n.name for n in world.nodes if n is not node))

    def test_repeats(self) -> None:
        """Each hears each every 30 s, whether or not anything has changed, and no copy."""
        world = self.formed(10)
        world.run(5.0)
        before = world.reactor.now
        world.run(60.0)
        received = [
            who
            for who, said in self.events(world, "capability_broadcast", before)
            if "('direction', 'received')" in said
        ]
        for node in world.nodes:
            self.assertEqual(received.count(node.name), 2 * 9)
        counts = [self.mesh(node).pubsub.stats for node in world.nodes]
        messages = sum(count["messages"] for count in counts)
        copies = sum(count.get("duplicates", 0) for count in counts)
        # Two kinds, at the start and twice in a minute, from nine others each, and no copy.
        self.assertEqual((messages, copies), (10 * 9 * 3 * 2, 0))


class FaultTests(SimulationCase):
    def others_lost(self, world: Simulation, node: SimNode, since: float, within: float) -> None:
        """All others lose the node, and nobody else, within so many seconds."""
        others = {other.name for other in world.nodes if other is not node}
        peer = str(node.key.peer_id)

        def lost() -> bool:
            return {who for who, _ in self.events(world, "lost", since)} >= others

        self.assertTrue(world.run(within, lost), self.events(world, "lost", since))
        for who, said in self.events(world, "lost", since):
            if who in others:
                self.assertIn(peer, said, f"{who} lost somebody else")

    def test_killed(self) -> None:
        """A process that is killed is noticed at once, and is back soon after its start."""
        world = self.formed(6)
        node = world.nodes[2]
        before = world.reactor.now
        node.kill()
        self.others_lost(world, node, before, 1.0)
        world.run(20.0)
        node.start()
        self.whole(world, 3.0)

    def test_stopped(self) -> None:
        """One that leaves in order is noticed at once."""
        world = self.formed(6)
        before = world.reactor.now
        world.nodes[2].stop()
        self.others_lost(world, world.nodes[2], before, 1.0)

    def test_vanished(self) -> None:
        """A machine that dies without a word is noticed in time, and is back after its return."""
        world = self.formed(6)
        world.run(20.0)
        node = world.nodes[2]
        before = world.reactor.now
        node.vanish()
        self.others_lost(world, node, before, NOTICED_WITHIN)
        world.run(20.0)
        node.start()
        self.whole(world, 3.0)

    def test_partition(self) -> None:
        """Both halves of a network that is cut notice in time, live on, and are one again."""
        world = self.formed(8)
        world.run(20.0)
        half = world.nodes[:4]
        before = world.reactor.now
        world.network.partition([[node.host for node in half]])
        world.run(NOTICED_WITHIN)
        self.assertEqual(len(self.events(world, "lost", before)), 2 * 4 * 4)
        for node in world.nodes:
            self.assertEqual(len(self.mesh(node).swarm.links), 3)
        world.run(50.0)
        world.network.heal()
        self.whole(world, WHOLE_WITHIN)

    def test_starved(self) -> None:
        """A process that gets no CPU for some seconds accuses nobody, and nobody accuses it."""
        world = self.formed(6)
        world.run(20.0)
        world.nodes[2].host.clock.stall(8.0)
        world.run(60.0)
        self.assertEqual(self.events(world, "lost"), [])
        self.assertEqual(world.problems(), [])

    def test_loss(self) -> None:
        """A network that loses one packet of twenty loses no link."""
        world = self.formed(6)
        world.network.loss = 0.05
        world.run(60.0)
        world.network.loss = 0.0
        self.assertEqual(self.events(world, "lost"), [])
        self.assertEqual(world.problems(), [])

    def test_copied_identity_without_multicast(self) -> None:
        """They do so, too, where only a third node knows of both."""
        world = self.world(3, use_multicast=False)
        hub, one, other = world.nodes
        other.key = one.key
        hub.start()
        address = Multiaddr.tcp(hub.host.address, PORT)
        one.start(bootstrap=[address])
        world.run(5.0)
        other.start(bootstrap=[address])
        world.run(60.0)
        said = {who for who, _ in self.events(world, "identity_conflict")}
        self.assertEqual(said, {one.name, other.name})

    def test_copied_identity(self) -> None:
        """Two machines with one key both say so."""
        world = self.formed(4)
        one, other = world.nodes[0], world.nodes[3]
        other.stop()
        world.run(1.0)
        other.key = one.key
        before = world.reactor.now
        other.start()
        world.run(5.0)
        # As mDNS does when it hears its own peer ID from somebody else.
        self.mesh(one).membership.conflict([Multiaddr.tcp(other.host.address, PORT)])
        world.run(5.0)
        said = {who for who, _ in self.events(world, "identity_conflict", before)}
        self.assertEqual(said, {one.name, other.name})


class SeedTests(SimulationCase):
    def history(self, seed: int, **options: Any) -> Simulation:
        """Twelve faults in 30 s, and then until the mesh is whole."""
        world = self.world(12, seed, **options)
        world.start_all()
        world.run(20.0)
        plan_faults(world, 30.0, 12)
        world.run(30.001)
        world.run_until_whole(WHOLE_WITHIN)
        return world

    def test_seeds(self) -> None:
        """After the faults end all who live know and are linked to all who live."""
        for seed in range(1, 9):
            self.assertEqual(self.history(seed).problems(), [], f"seed {seed}")

    def test_encrypted(self) -> None:
        """So it is with encrypted links."""
        self.assertEqual(self.history(1, security="noise").problems(), [])

    def test_replay(self) -> None:
        """The same seed is the same history, event for event; another seed is another one."""
        first, again, other = self.history(3), self.history(3), self.history(4)
        self.assertEqual(first.history, again.history)
        self.assertEqual(first.digest, again.digest)
        self.assertNotEqual(first.digest, other.digest)
        self.assertGreater(len(first.history), 1000)
