"""Gossipsub among many nodes, in memory."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from bzzz.wire.gossip_params import FLOODSUB, GOSSIPSUB_1_0, GossipParams
from bzzz.wire.pb import rpc_pb2
from tests.wire.gossip_network import TOPIC, Network, key_of

NO_FLOOD = GossipParams(flood_publish=False)


class MeshTests(SynchronousTestCase):
    """Meshes form, heal, and carry everything to everybody."""

    def full(self, size: int, params: GossipParams | None = None, seed: object = 0) -> Network:
        network = Network(size, params, seed)
        network.subscribe_all()
        network.link_all()
        return network

    def test_degrees(self) -> None:
        """Of 30 fully linked nodes each has a mesh between D_low and D_high."""
        for seed in range(3):
            network = self.full(30, seed=seed)
            network.pass_time(5)
            degrees = network.degrees()
            self.assertGreaterEqual(min(degrees), 5, f"seed {seed}")
            self.assertLessEqual(max(degrees), 12, f"seed {seed}")

    def test_meshes_agree(self) -> None:
        """Mesh membership is mutual once things are quiet."""
        network = self.full(30)
        network.pass_time(5)
        for index, node in enumerate(network.nodes):
            for peer in node.mesh_peers(TOPIC):
                other = network.nodes[network.index[peer]]
                self.assertIn(network.ids[index], other.mesh_peers(TOPIC))

    def test_small_mesh_is_whole(self) -> None:
        """Three nodes are in each other's mesh as soon as they are linked, before a heartbeat."""
        network = self.full(3)
        self.assertEqual(network.degrees(), [2, 2, 2])

    def test_all_reach_all(self) -> None:
        """Without flood publishing, a message of each node reaches every other one once."""
        network = self.full(20, NO_FLOOD)
        network.pass_time(3)
        for index in range(20):
            network.publish(index, b"from %d" % index)
        for index in range(20):
            self.assertEqual(network.got(b"from %d" % index), [i for i in range(20) if i != index])
        self.assertEqual({len(messages) for messages in network.delivered}, {19})

    def test_line(self) -> None:
        """A message goes along a line of nodes that are not linked otherwise."""
        network = Network(8)
        network.subscribe_all()
        for index in range(7):
            network.link(index, index + 1)
        network.publish(0, b"hello")
        self.assertEqual(network.got(b"hello"), list(range(1, 8)))

    def test_mixed_protocols(self) -> None:
        """Peers that speak 1.0, or floodsub only, take part."""
        network = Network(5)
        network.subscribe_all()
        network.link(0, 1, FLOODSUB)
        network.link(1, 2, GOSSIPSUB_1_0)
        network.link(2, 3, FLOODSUB)
        network.link(3, 4)
        network.pass_time(1)
        self.assertEqual(network.nodes[1].mesh_peers(TOPIC), (network.ids[2],))
        network.publish(0, b"hello")
        network.publish(4, b"back")
        self.assertEqual(network.got(b"hello"), [1, 2, 3, 4])
        self.assertEqual(network.got(b"back"), [0, 1, 2, 3])

    def test_publisher_outside(self) -> None:
        """Who is not in the topic publishes through a fanout of at most D peers."""
        network = Network(12, NO_FLOOD)
        for node in network.nodes[1:]:
            node.subscribe(TOPIC, 0.0)
        network.link_all()
        network.pass_time(2)
        before = network.rpcs
        network.nodes[0].publish(TOPIC, b"hello", network.now)
        self.assertEqual(len(network.nodes[0].take_rpcs()), 6)
        network.publish(0, b"again")
        self.assertGreater(network.rpcs, before)
        self.assertEqual(network.got(b"again"), list(range(1, 12)))

    def test_lost_peers_are_replaced(self) -> None:
        """When half of the nodes vanish the others' meshes are full again a heartbeat later."""
        network = self.full(20)
        network.pass_time(3)
        for gone in range(10):
            for other in range(20):
                if (gone, other) in network.links:
                    network.unlink(gone, other)
        network.pass_time(2)
        self.assertGreaterEqual(min(network.degrees()[10:]), 5)
        network.publish(19, b"still here")
        self.assertEqual(network.got(b"still here"), list(range(10, 19)))

    def test_partition_heals(self) -> None:
        """What was said shortly before two halves are linked again reaches the other half."""
        network = Network(10)
        network.subscribe_all()
        for half in (range(5), range(5, 10)):
            for a in half:
                for b in half:
                    if b < a:
                        network.link(a, b)
        network.pass_time(2)
        network.publish(0, b"in the dark")
        self.assertEqual(network.got(b"in the dark"), [1, 2, 3, 4])
        for a in range(5):
            for b in range(5, 10):
                network.link(a, b)
        network.pass_time(3)
        self.assertEqual(network.got(b"in the dark"), list(range(1, 10)))

    def test_loss_on_mesh_links(self) -> None:
        """A message lost on every mesh link is told of by IHAVE, asked for, and arrives."""
        network = self.full(20, NO_FLOOD)
        network.pass_time(3)
        publisher = network.nodes[0]
        mesh = {network.index[peer] for peer in publisher.mesh_peers(TOPIC)}

        def lose(sender: int, receiver: int, rpc: bytes) -> bool:
            return bool(rpc_pb2.RPC.FromString(rpc).publish) and receiver in mesh

        network.lose = lose
        network.publish(0, b"lost")
        self.assertEqual(network.got(b"lost"), [])
        network.lose = lambda sender, receiver, rpc: False
        network.pass_time(3)
        self.assertEqual(network.got(b"lost"), list(range(1, 20)))

    def test_lossy_network(self) -> None:
        """With every tenth RPC lost, everything still reaches everybody."""
        network = self.full(15)
        network.pass_time(3)
        network.lose = lambda sender, receiver, rpc: network.random.random() < 0.1
        for number in range(20):
            network.publish(number % 15, b"%d" % number)
            network.pass_time(1)
        network.pass_time(4)
        for number in range(20):
            self.assertEqual(len(network.got(b"%d" % number)), 14, f"message {number}")

    def test_repeatable(self) -> None:
        """The same seed gives the same meshes and the same traffic; another seed others."""

        def run(seed: object) -> tuple[str, int, int]:
            network = self.full(20, NO_FLOOD, seed)
            network.lose = lambda sender, receiver, rpc: network.random.random() < 0.2
            network.pass_time(3)
            for index in range(20):
                network.publish(index, b"x")
            network.pass_time(3)
            meshes = " ".join(
                peer.short for node in network.nodes for peer in node.mesh_peers(TOPIC)
            )
            return meshes, network.rpcs, network.bytes

        self.assertTrue(run("a") == run("a"))
        self.assertFalse(run("a") == run("b"))

    def test_duplicates_are_bounded(self) -> None:
        """Without flood publishing a node gets a message no more often than its mesh is wide."""
        network = self.full(20, NO_FLOOD)
        network.pass_time(5)
        for number in range(10):
            network.publish(number, b"%d" % number)
        for node in network.nodes:
            self.assertLessEqual(node.counts["duplicates"], 10 * 12)

    def test_leaving(self) -> None:
        """Who leaves the topic gets nothing more, and is back in the mesh after its backoff."""
        network = self.full(4)
        network.nodes[0].unsubscribe(TOPIC, network.now)
        network.settle()
        network.publish(1, b"without you")
        self.assertEqual(network.got(b"without you"), [2, 3])
        self.assertEqual(network.degrees(), [0, 2, 2, 2])
        network.nodes[0].subscribe(TOPIC, network.now)
        network.settle()
        network.publish(1, b"with you")
        self.assertEqual(network.got(b"with you"), [0, 2, 3])
        self.assertEqual(network.degrees(), [0, 2, 2, 2])
        network.pass_time(12)
        self.assertEqual(network.degrees(), [3, 3, 3, 3])
        for node in network.nodes:
            self.assertEqual(node.ignored["graft_in_backoff"], 0)


class AbuseTests(SynchronousTestCase):
    """What a dishonest node can do to honest ones."""

    def setUp(self) -> None:
        self.network = Network(4)
        self.network.subscribe_all()
        self.network.link_all()
        self.network.pass_time(1)

    def forged(self, number: int) -> bytes:
        """An RPC with a message of node 2 that node 2 never signed."""
        rpc = rpc_pb2.RPC()
        message = rpc.publish.add(
            data=b"forged %d" % number,
            seqno=(2**40 + number).to_bytes(8, "big"),
            topic=TOPIC,
            signature=bytes(64),
        )
        setattr(message, "from", self.network.ids[2].bytes)
        return rpc.SerializeToString()

    def test_forger_is_dropped(self) -> None:
        """A forged message is delivered nowhere, and a few of them cost the sender its link."""
        network = self.network
        for number in range(5):
            network.receive(3, 0, self.forged(number))
        self.assertEqual(network.rejections(0), ["signature_invalid"] * 5)
        self.assertEqual(network.delivered[0], [])
        network.pass_time(1)
        self.assertNotIn((0, 3), network.links)
        self.assertIn((1, 3), network.links)
        network.publish(1, b"fine")
        self.assertIn(0, network.got(b"fine"))

    def test_one_forged_message(self) -> None:
        """A single one costs the place in the mesh, not the link; the place comes back in time."""
        network = self.network
        network.receive(3, 0, self.forged(0))
        network.pass_time(1)
        self.assertIn((0, 3), network.links)
        self.assertNotIn(network.ids[3], network.nodes[0].mesh_peers(TOPIC))
        network.pass_time(1500)
        self.assertIn(network.ids[3], network.nodes[0].mesh_peers(TOPIC))

    def test_forgery_does_not_suppress(self) -> None:
        """A forged message under an ID that is used later does not keep the true one out."""
        network = self.network
        seqno = network.nodes[2].publish(TOPIC, b"first", network.now).seqno + 1
        network.settle()
        rpc = rpc_pb2.RPC()
        message = rpc.publish.add(
            data=b"forged", seqno=seqno.to_bytes(8, "big"), topic=TOPIC, signature=bytes(64)
        )
        setattr(message, "from", network.ids[2].bytes)
        network.receive(3, 0, rpc.SerializeToString())
        true = network.publish(2, b"true")
        self.assertEqual(true.seqno, seqno)
        self.assertEqual(network.got(b"true"), [0, 1, 3])

    def test_reconnecting_does_not_help(self) -> None:
        """A peer that was dropped and comes back is still graylisted: nothing of it is read."""
        network = self.network
        for number in range(5):
            network.receive(3, 0, self.forged(number))
        network.pass_time(1)
        network.link(0, 3)
        network.publish(3, b"let me in")
        self.assertEqual(network.nodes[0].ignored["rpc_graylisted"], 2)
        self.assertEqual(
            network.nodes[0].peers_to_drop(),
            [(network.ids[3], "it sent too many invalid messages")],
        )

    def test_replay(self) -> None:
        """A message sent again, by anybody, is a duplicate: neither delivered nor forwarded."""
        network = self.network
        message = network.publish(1, b"once")
        network.pass_time(100)
        for sender in (1, 2, 3):
            network.receive(sender, 0, message.encoded)
        self.assertEqual([m.data for m in network.delivered[0]], [b"once"])
        self.assertEqual(network.nodes[0].take_rpcs(), [])

    def test_own_messages_of_an_earlier_run(self) -> None:
        """A node ignores messages in its own name that it does not know, and blames nobody."""
        network = self.network
        old = Network(2)
        old.keys[0] = key_of(1)
        message = old.nodes[0].publish(TOPIC, b"before the restart", 0.0)
        network.receive(1, 0, message.encoded)
        self.assertEqual(network.delivered[0], [])
        self.assertEqual(network.nodes[0].ignored["message_own"], 1)
        self.assertGreaterEqual(network.nodes[0].scores()[network.ids[1]].total, 0)
