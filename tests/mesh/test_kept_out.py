"""Who takes this node for a guest, and how the node then says that it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.trial.unittest import SynchronousTestCase

from bzzz.config import Config
from bzzz.events import EventLog
from bzzz.identity.keys import PrivateKey
from bzzz.mesh import kept_out
from bzzz.mesh.availability import Availability
from bzzz.mesh.kept_out import KeptOut
from bzzz.mesh.node import MeshNode
from bzzz.net.guests import GUEST_SECONDS
from bzzz.testing.simulation import Simulation
from bzzz.web.node_view import MeshView
from bzzz.wire.identify import Identify


class KeptOutTests(SynchronousTestCase):
    """:class:`KeptOut`."""

    def setUp(self) -> None:
        self.kept_out = KeptOut()
        self.peers = [PrivateKey.from_seed(bytes([number]) * 32).peer_id for number in range(1, 4)]

    def says(self, number: int, guest: bool) -> None:
        link: Any = type("Link", (), {"remote_peer": self.peers[number]})
        self.kept_out.identified(link, Identify(guest=guest))

    def known(self) -> list[bool]:
        return [peer in self.kept_out for peer in self.peers]

    def test_last_word(self) -> None:
        """What a peer said last counts, also when its link is gone."""
        self.says(0, True)
        self.says(1, True)
        self.says(2, False)
        self.assertEqual(self.known(), [True, True, False])
        self.says(0, False)
        self.assertEqual(self.known(), [False, True, False])
        self.kept_out.forget_all()
        self.assertEqual(self.known(), [False, False, False])

    def test_full(self) -> None:
        """Of one too many the one that spoke longest ago is forgotten."""
        self.patch(kept_out, "MAX_PEERS", 2)
        for number in (0, 1, 0, 2):
            self.says(number, True)
        self.assertEqual(self.known(), [True, False, True])


class RevokedTests(SynchronousTestCase):
    """A node that was revoked, and was not told so."""

    def setUp(self) -> None:
        self.world = Simulation(7, 3)
        self.world.claim(1, 3)
        self.world.start_all(0.0)
        self.world.run(5.0)

    def mesh(self, number: int) -> MeshNode:
        mesh = self.world.nodes[number].mesh
        assert mesh is not None
        return mesh

    def view(self, number: int) -> MeshView:
        node = self.world.nodes[number]
        clock = node.host.clock
        view = MeshView(
            self.mesh(number),
            Config(name=node.name),
            EventLog(lambda: 0.0),
            clock,
            clock.wall_time,
            lambda: node.document,
            Availability(2, clock.wall_time),
            Path("control.sock"),
            lambda: "on",
            lambda: succeed([]),
        )
        view.state = None
        return view

    def revoke(self) -> None:
        """The first node revokes the last one, which is not running and starts again then."""
        first, last = self.world.nodes[0], self.world.nodes[2]
        last.stop()
        self.world.run(3.0)
        assert first.cluster is not None
        revoking = Deferred.fromCoroutine(first.cluster.revoke(last.key.peer_id))
        self.world.run(2.0)
        self.successResultOf(revoking)
        last.start()

    def test_well(self) -> None:
        """Members among themselves are kept out by nobody."""
        status = self.view(2).status()
        self.assertEqual((status.state, status.peers_connected), ("connected", 2))
        self.assertEqual((status.guest_links, status.guest_peers), (0, 0))
        self.assertEqual(self.mesh(2).hosts(), [])

    def test_linked(self) -> None:
        """Its links are counted apart, and it is alone."""
        self.revoke()
        self.world.run(5.0)
        status = self.view(2).status()
        self.assertEqual((status.state, status.peers_connected), ("alone", 2))
        self.assertEqual((status.guest_links, status.guest_peers), (2, 2))
        self.assertEqual(self.view(2).status_line(), "n2: 0 peers, 0 tasks, ready")
        self.assertEqual(self.mesh(2).member_links, 0)

    def test_between_links(self) -> None:
        """When those have ended it still says so, and not that the peers are out of reach."""
        self.revoke()
        mesh = self.mesh(2)
        self.world.run(GUEST_SECONDS, lambda: len(mesh.swarm.links) == 2)
        self.world.run(2 * GUEST_SECONDS, lambda: not mesh.swarm.links)
        self.assertEqual(mesh.swarm.links, {})
        status = self.view(2).status()
        self.assertEqual((status.state, status.peers_connected), ("alone", 0))
        self.assertEqual((status.guest_links, status.guest_peers), (0, 2))
        self.assertEqual(mesh.unreachable(), [])

    def test_out_of_reach(self) -> None:
        """A peer that cannot be dialled any more is told of as that, too."""
        self.revoke()
        self.world.run(5.0)
        self.world.nodes[0].kill()
        self.world.run(120.0)
        name = self.world.nodes[0].key.peer_id.short
        self.assertIn(name, "".join(who for who, _ in self.mesh(2).unreachable()))

    def test_left(self) -> None:
        """After it has left the cluster nobody keeps it out."""
        self.revoke()
        self.world.run(5.0)
        cluster = self.world.nodes[2].cluster
        assert cluster is not None
        leaving = Deferred.fromCoroutine(cluster.forget())
        self.world.run(2.0)
        self.successResultOf(leaving)
        self.assertEqual(self.mesh(2).hosts(), [])
        self.assertEqual(self.view(2).status().guest_peers, 0)
