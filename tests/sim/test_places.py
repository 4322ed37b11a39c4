"""Clusters of more members than a node has links: one mesh that comes to rest, and hears all."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.logger import LogLevel
from twisted.trial.unittest import SynchronousTestCase

from bzzz.identity.peer_id import PeerID
from bzzz.net.link import Link
from bzzz.testing.clusters import ClusterSimulation
from bzzz.testing.faults import plan_faults
from bzzz.testing.simulation import SimNode
from bzzz.trust.roster_streams import ASK_EVERY
from tests.logs import lines_at

MEMBERS = 12
MAX_LINKS = 4

# In seconds: dials that were refused are up to a minute apart, and one link that is given up leads
# to another.
AT_REST_WITHIN = 600.0


def links_of(world: ClusterSimulation) -> dict[str, frozenset[PeerID]]:
    """Of the members; one that was revoked may not know, and dial on, as a guest."""
    members = world.truth().members
    return {
        node.name: frozenset(node.mesh.swarm.links)
        for node in world.live()
        if node.mesh is not None and node.key.peer_id in members
    }


class FullTests(SynchronousTestCase):
    def world(self, seed: int) -> ClusterSimulation:
        return ClusterSimulation(seed, MEMBERS, MEMBERS, 2, max_links=MAX_LINKS, keep_history=True)

    def at_rest(self, world: ClusterSimulation) -> None:
        """One mesh, whose links are the same a minute later."""
        self.assertIsNotNone(
            world.run_until_whole(AT_REST_WITHIN, step=1.0), (world.seed, world.problems())
        )
        before = links_of(world)
        world.run(60.0)
        self.assertEqual(links_of(world), before, world.seed)
        self.assertEqual(world.problems(), [], world.seed)

    def test_two_halves(self) -> None:
        """Those that start later, when the first have all their links, are in the same mesh."""
        for seed in range(1, 6):
            world = self.world(seed)
            first, later = world.nodes[:6], world.nodes[6:]
            for node in first:
                node.start()
            world.run(20.0)
            for node in later:
                world.reactor.callLater(world.random.random(), node.start)
            self.at_rest(world)
            gone = world.nodes[-1]
            cluster = world.nodes[0].cluster
            assert cluster is not None
            done = Deferred.fromCoroutine(cluster.revoke(gone.key.peer_id, ""))
            world.run(ASK_EVERY)
            self.successResultOf(done)
            self.assertFalse(
                any(gone.key.peer_id in links for links in links_of(world).values()), seed
            )
            self.at_rest(world)

    def test_faults(self) -> None:
        """So it is after nodes were killed, vanished, were cut off and came again."""
        for seed in range(1, 4):
            world = self.world(seed)
            world.start_all()
            world.run(20.0)
            plan_faults(world, 30.0, 8)
            world.run(30.001)
            self.at_rest(world)

    def test_quiet(self) -> None:
        """At rest those that have no place dial seldom, and people hear nothing of it."""
        world = self.world(1)
        world.start_all()
        self.at_rest(world)
        world.run(300.0)
        lines = lines_at(self, LogLevel.info)
        since = world.reactor.now
        dialled = [0]
        for node in world.nodes:
            self.count_dials(node, dialled)
        world.run(600.0)
        told = [
            event
            for at, _, event, _ in world.history
            if at > since and event in ("connected", "lost", "forgotten")
        ]
        self.assertEqual(told, [])
        self.assertEqual([line for line in lines if "each" in line or "link" in line], [])
        # Each of the pairs that are not linked is dialled by one side at most, each 30 to 60 s.
        apart = (MEMBERS * (MEMBERS - 1) - sum(map(len, links_of(world).values()))) // 2
        self.assertLessEqual(dialled[0], apart * 600 / 30)

    def count_dials(self, node: SimNode, dialled: list[int]) -> None:
        """Add the node's dials up."""
        assert node.mesh is not None
        swarm = node.mesh.swarm
        dial = swarm.dial

        def counted(*arguments: Any) -> Deferred[Link]:
            dialled[0] += 1
            return dial(*arguments)

        self.patch(swarm, "dial", counted)
