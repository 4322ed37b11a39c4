"""What pubsub sends to many peers takes several turns of the reactor."""

from __future__ import annotations

from typing import Any

from bzzz.mesh import pubsub
from bzzz.net.turns import BUDGET, Turns
from bzzz.wire.pb import rpc_pb2
from tests.mesh.test_pubsub import TOPIC, FakeStream, Node, PubSubTestCase, RawPeer, connect

PEERS = 9


class FlushTests(PubSubTestCase):
    """A node whose every write takes half of a turn's time, and peers."""

    def setUp(self) -> None:
        super().setUp()
        self.node = Node(1, self.clock)
        self.node.join()
        self.peers = [RawPeer(2 + number, self.clock) for number in range(PEERS)]
        for peer in self.peers:
            connect(self.node.swarm, peer.swarm)
        self.turn()
        for peer in self.peers:
            rpc = rpc_pb2.RPC()
            rpc.subscriptions.add(subscribe=True, topicid=TOPIC)
            self.node.pubsub.core.receive_rpc(peer.id, rpc.SerializeToString(), 0.0)
        self.turn()
        self.spent = 0.0
        self.patch(pubsub, "AT_ONCE", 1)
        self.node.swarm.turns = Turns(self.clock, lambda: self.spent)
        write = FakeStream.write
        case = self

        def slow_write(stream: Any, data: bytes) -> None:
            case.spent += BUDGET / 2
            write(stream, data)

        self.patch(FakeStream, "write", slow_write)

    def one_turn(self) -> None:
        """What is due, and not what is asked for in it."""
        due = [call for call in self.clock.calls if call.getTime() <= self.clock.seconds()]
        for call in due:
            self.clock.calls.remove(call)
            call.called = 1
            call.func(*call.args, **call.kw)

    def got(self) -> list[int]:
        """How many messages each peer has, those that have any."""
        counts = [len(peer.received.publish) for peer in self.peers]
        return [count for count in counts if count]

    def test_in_turns(self) -> None:
        """A turn sends to as many as it has time for; in the end each has it once."""
        self.node.pubsub.publish(TOPIC, b"news")
        for turn in range(1, 20):
            self.one_turn()
            self.assertLessEqual(self.spent, turn * BUDGET)
        self.assertEqual(self.got(), [1] * PEERS)

    def test_order(self) -> None:
        """What is published meanwhile comes after what waits, and goes with it."""
        self.node.pubsub.publish(TOPIC, b"one")
        self.one_turn()
        self.node.pubsub.publish(TOPIC, b"two")
        self.turn(40)
        self.assertEqual(self.got(), [2] * PEERS)
        for peer in self.peers:
            self.assertEqual([each.data for each in peer.received.publish], [b"one", b"two"])

    def test_stop(self) -> None:
        """What waits is sent before the end."""
        self.node.pubsub.publish(TOPIC, b"last words")
        self.one_turn()
        self.node.pubsub.stop()
        self.turn()
        self.assertEqual(self.got(), [1] * PEERS)

    def test_lost(self) -> None:
        """What waits for a peer goes with its link; the next one starts with a greeting."""
        self.node.pubsub.publish(TOPIC, b"news")
        self.one_turn()
        last = self.peers[-1]
        connect(self.node.swarm, last.swarm)
        for _ in range(20):
            self.one_turn()
        self.assertEqual(self.got(), [1] * (PEERS - 1))
        first = rpc_pb2.RPC.FromString(last.opened[-1].rpcs[0])
        self.assertEqual([each.topicid for each in first.subscriptions], [TOPIC])
