"""The gossipsub core: peers, subscriptions, messages, validation."""

from __future__ import annotations

from dataclasses import replace

from twisted.trial.unittest import SynchronousTestCase

from bzzz.errors import LimitExceeded, LocalProtocolError, RemoteProtocolError
from bzzz.wire.gossip_message import sign
from bzzz.wire.gossip_params import FLOODSUB, GOSSIPSUB_1_1, GOSSIPSUB_1_2, GossipParams
from bzzz.wire.gossipsub import (
    MessageReceived,
    MessageRejected,
    PeerSubscribed,
    PeerUnsubscribed,
)
from bzzz.wire.pb import rpc_pb2
from tests.wire.gossip_network import ADDRESS, TOPIC, Lab, core, key_of

NO_FLOOD = GossipParams(flood_publish=False)
AUTHOR = key_of(50)


class SubscriptionTests(SynchronousTestCase):
    """Who is in which topic."""

    def test_greeting(self) -> None:
        """A new peer is told all subscriptions, in one RPC."""
        lab = Lab(1, subscribe=False)
        lab.core.subscribe("one", 0.0)
        lab.core.subscribe("two", 0.0)
        lab.core.remove_peer(lab.ids[0], 0.0)
        lab.sent()
        lab.core.add_peer(lab.ids[0], GOSSIPSUB_1_2, outbound=True, address=None, now=0.0)
        rpcs = lab.core.take_rpcs()
        self.assertEqual(len(rpcs), 1)
        told = rpc_pb2.RPC.FromString(rpcs[0][1]).subscriptions
        self.assertEqual(
            [(option.subscribe, option.topicid) for option in told], [(True, "one"), (True, "two")]
        )

    def test_changes_are_told(self) -> None:
        """Every peer is told of a subscription and of its end, whatever it is in itself."""
        lab = Lab(2, subscribe=False)
        lab.core.subscribe("new", 0.0)
        for rpc in lab.sent().values():
            self.assertEqual([(o.subscribe, o.topicid) for o in rpc.subscriptions], [(True, "new")])
        lab.core.subscribe("new", 0.0)
        self.assertEqual(lab.sent(), {})
        lab.core.unsubscribe("new", 0.0)
        sent = lab.sent()
        self.assertEqual(list(sent), lab.ids)
        for rpc in sent.values():
            self.assertEqual(
                [(o.subscribe, o.topicid) for o in rpc.subscriptions], [(False, "new")]
            )
        lab.core.unsubscribe("new", 0.0)
        self.assertEqual(lab.sent(), {})

    def test_events(self) -> None:
        """A peer's subscriptions are events where they change something."""
        lab = Lab(1)
        peer = lab.ids[0]
        self.assertEqual(lab.say(0, subscribe="x"), [PeerSubscribed(peer, "x")])
        self.assertEqual(lab.say(0, subscribe="x"), [])
        self.assertEqual(lab.core.topic_peers("x"), (peer,))
        self.assertEqual(lab.say(0, unsubscribe="x"), [PeerUnsubscribed(peer, "x")])
        self.assertEqual(lab.say(0, unsubscribe="x"), [])
        self.assertEqual(lab.core.topic_peers("x"), ())

    def test_topics_per_peer_are_bounded(self) -> None:
        """A peer's subscriptions beyond the limit, and odd ones, are not kept."""
        lab = Lab(1, GossipParams(max_topics_per_peer=10))
        for number in range(20):
            lab.say(0, subscribe=f"topic {number}")
        lab.say(0, subscribe="")
        lab.core.remove_peer(lab.ids[0], 0.0)
        lab.add(0)
        lab.say(0, subscribe="x" * 257)
        lab.say(0, raw=b"\x0a\x07\x08\x01\x12\x03\xff\xfe\xfd")
        ignored = lab.core.ignored
        self.assertEqual(
            (
                ignored["too_many_topics"],
                ignored["topic_name_invalid"],
                ignored["topic_name_too_long"],
            ),
            (11, 2, 1),
        )

    def test_own_topics_have_names(self) -> None:
        """A topic's name is neither empty nor endless."""
        for topic in ("", "x" * 257):
            self.assertRaises(LocalProtocolError, core().subscribe, topic, 0.0)

    def test_removed(self) -> None:
        """Of a removed peer nothing is left, and nothing is sent to it."""
        lab = Lab(2)
        lab.core.publish(TOPIC, b"x", 0.0)
        lab.core.remove_peer(lab.ids[0], 0.0)
        self.assertEqual(list(lab.sent()), [lab.ids[1]])
        self.assertEqual(lab.core.peers, (lab.ids[1],))
        self.assertEqual(lab.core.topic_peers(TOPIC), (lab.ids[1],))
        self.assertEqual(lab.mesh, [1])
        lab.core.remove_peer(lab.ids[0], 0.0)

    def test_wrong_peers(self) -> None:
        """A node is not its own peer, and protocols are known ones."""
        lab = Lab(1)
        for peer, protocol in ((key_of(0).peer_id, GOSSIPSUB_1_2), (lab.ids[0], "/x/1")):
            with self.assertRaises(LocalProtocolError):
                lab.core.add_peer(peer, protocol, outbound=True, address=None, now=0.0)

    def test_before_the_stream(self) -> None:
        """A peer may speak before this node's stream to it is open; what is for it is held."""
        lab = Lab(0)
        lab.ids = [key_of(100).peer_id]
        lab.say(0, subscribe=TOPIC)
        message = lab.core.publish(TOPIC, b"held", 0.0)
        self.assertEqual(lab.sent(), {})
        self.assertEqual(lab.mesh, [])
        lab.core.add_peer(lab.ids[0], GOSSIPSUB_1_2, outbound=False, address=ADDRESS, now=0.0)
        sent = lab.sent()[lab.ids[0]]
        self.assertEqual([o.topicid for o in sent.subscriptions], [TOPIC])
        self.assertEqual([m.data for m in sent.publish], [message.data])
        self.assertEqual([g.topicID for g in sent.control.graft], [TOPIC])
        self.assertEqual(lab.mesh, [0])

    def test_held_bytes_are_bounded(self) -> None:
        """What is held for a peer without a stream has its limit."""
        lab = Lab(0, GossipParams(max_held_bytes=10_000))
        lab.ids = [key_of(100).peer_id]
        lab.say(0, subscribe=TOPIC)
        for _ in range(20):
            lab.core.publish(TOPIC, bytes(1000), 0.0)
        lab.core.add_peer(lab.ids[0], GOSSIPSUB_1_2, outbound=False, address=ADDRESS, now=0.0)
        self.assertEqual(len(lab.sent()[lab.ids[0]].publish), 8)
        self.assertEqual(lab.core.ignored["held_too_much"], 12)

    def test_stream_lost(self) -> None:
        """While its stream is lost a peer keeps its subscriptions, but is in no mesh."""
        lab = Lab(2)
        lab.core.publish(TOPIC, b"lost with the stream", 0.0)
        lab.core.stream_lost(lab.ids[0])
        self.assertEqual(list(lab.sent()), [lab.ids[1]])
        self.assertEqual(lab.mesh, [1])
        self.assertEqual(lab.core.topic_peers(TOPIC), tuple(lab.ids))
        lab.beat()
        self.assertEqual(lab.mesh, [1])
        lab.core.add_peer(lab.ids[0], GOSSIPSUB_1_2, outbound=False, address=ADDRESS, now=0.0)
        sent = lab.sent()[lab.ids[0]]
        self.assertEqual([o.topicid for o in sent.subscriptions], [TOPIC])
        self.assertEqual(lab.mesh, [0, 1])


class PublishTests(SynchronousTestCase):
    """Who gets this node's messages."""

    def test_flood(self) -> None:
        """With flood publishing all peers in the topic get it, in the mesh or not."""
        lab = Lab(20)
        message = lab.core.publish(TOPIC, b"x", 0.0)
        rpcs = lab.core.take_rpcs()
        self.assertEqual([peer for peer, _ in rpcs], lab.ids)
        self.assertLess(len(lab.mesh), 20)
        for _, rpc in rpcs:
            self.assertIs(rpc, message.encoded)

    def test_mesh_only(self) -> None:
        """Without, only the mesh."""
        lab = Lab(20, NO_FLOOD)
        lab.core.publish(TOPIC, b"x", 0.0)
        self.assertEqual(sorted(lab.sent()), sorted(lab.core.mesh_peers(TOPIC)))

    def test_seqno(self) -> None:
        """Sequence numbers go up from the first one given."""
        node = core(first_seqno=1000)
        numbers = [node.publish(TOPIC, b"x", 0.0).seqno for _ in range(3)]
        self.assertEqual(numbers, [1000, 1001, 1002])

    def test_own_message_comes_back(self) -> None:
        """A peer that returns this node's message gives it a duplicate."""
        lab = Lab(2)
        message = lab.core.publish(TOPIC, b"x", 0.0)
        lab.sent()
        self.assertEqual(lab.say(0, message=message), [])
        self.assertEqual(lab.sent(), {})
        self.assertEqual(lab.core.counts["duplicates"], 1)

    def test_too_long(self) -> None:
        """A message that would not fit an RPC is refused; the longest allowed does fit."""
        lab = Lab(1)
        size = lab.core.params.max_message_size
        self.assertRaises(LocalProtocolError, lab.core.publish, TOPIC, bytes(size + 1), 0.0)
        lab.core.publish(TOPIC, bytes(size), 0.0)
        ((_, rpc),) = lab.core.take_rpcs()
        self.assertLessEqual(len(rpc), lab.core.params.max_rpc_size)

    def test_low_score(self) -> None:
        """A peer below the publish threshold gets nothing of this node's own."""
        lab = Lab(2)
        lab.taint(0, 4)
        lab.sent()
        lab.core.publish(TOPIC, b"x", 0.0)
        self.assertEqual(list(lab.sent()), [lab.ids[1]])

    def test_outside_the_topic(self) -> None:
        """A node that is not in the topic publishes to all of its peers that are, if flooding."""
        lab = Lab(10, subscribe=False)
        lab.core.publish(TOPIC, b"x", 0.0)
        self.assertEqual(list(lab.sent()), lab.ids)

    def test_fanout(self) -> None:
        """Else to D of them: the same for a while, then forgotten."""
        lab = Lab(20, NO_FLOOD, subscribe=False)
        lab.core.publish(TOPIC, b"x", lab.now)
        first = list(lab.sent())
        self.assertEqual(len(first), 6)
        lab.core.publish(TOPIC, b"x", lab.now)
        self.assertEqual(list(lab.sent()), first)
        lab.core.remove_peer(first[0], lab.now)
        lab.core.publish(TOPIC, b"x", lab.now)
        second = list(lab.sent())
        self.assertEqual((len(second), set(first[1:]) - set(second)), (6, set()))
        lab.beat(62)
        lab.core.publish(TOPIC, b"x", lab.now)
        self.assertNotEqual(set(lab.sent()), set(second))

    def test_fanout_drops_bad_peers(self) -> None:
        """A peer of the fanout that falls below the publish threshold is replaced."""
        lab = Lab(20, NO_FLOOD, subscribe=False)
        lab.core.publish(TOPIC, b"x", lab.now)
        bad = next(iter(lab.sent()))
        lab.core.set_application_score(bad, -150.0)
        lab.beat()
        lab.core.publish(TOPIC, b"x", lab.now)
        sent = lab.sent()
        self.assertEqual((len(sent), bad in sent), (6, False))
        lab.say(lab.ids.index(next(iter(sent))), unsubscribe=TOPIC)
        lab.core.publish(TOPIC, b"x", lab.now)
        self.assertNotIn(next(iter(sent)), lab.sent())

    def test_fanout_becomes_the_mesh(self) -> None:
        """Who joins the topic takes its fanout into the mesh."""
        lab = Lab(20, NO_FLOOD, subscribe=False)
        lab.core.publish(TOPIC, b"x", lab.now)
        fanout = set(lab.sent())
        lab.core.subscribe(TOPIC, lab.now)
        self.assertEqual(set(lab.core.mesh_peers(TOPIC)), fanout)
        grafted = {peer for peer, rpc in lab.sent().items() if rpc.control.graft}
        self.assertEqual(grafted, fanout)

    def test_send_directly(self) -> None:
        """One peer can be sent one message again."""
        lab = Lab(3)
        message = lab.core.publish(TOPIC, b"state", 0.0)
        lab.sent()
        lab.core.send_directly(lab.ids[1], message)
        self.assertEqual(lab.core.take_rpcs(), [(lab.ids[1], message.encoded)])
        lab.core.send_directly(key_of(9).peer_id, message)
        self.assertEqual(lab.core.take_rpcs(), [])

    def test_batches(self) -> None:
        """Messages of one turn share RPCs of limited size, in order; long ones go alone."""
        lab = Lab(1)
        sizes = [1000] * 40 + [100_000] + [1000] * 2
        for size in sizes:
            lab.core.publish(TOPIC, bytes(size), 0.0)
        rpcs = [rpc_pb2.RPC.FromString(rpc) for _, rpc in lab.core.take_rpcs()]
        self.assertEqual([len(m.data) for rpc in rpcs for m in rpc.publish], sizes)
        self.assertEqual([len(rpc.publish) for rpc in rpcs], [28, 12, 1, 2])


class ReceiveTests(SynchronousTestCase):
    """What peers send."""

    def setUp(self) -> None:
        self.lab = Lab(4)
        self.core = self.lab.core
        self.message = sign(AUTHOR, TOPIC, b"hello", 1)

    def test_new(self) -> None:
        """A new message is an event; it is forwarded to the mesh once it is accepted."""
        lab = self.lab
        self.assertEqual(
            lab.say(0, message=self.message), [MessageReceived(self.message, lab.ids[0])]
        )
        self.assertEqual(lab.sent(), {})
        self.core.accept(self.message.id, 0.0)
        rpcs = self.core.take_rpcs()
        self.assertEqual(rpcs, [(peer, self.message.encoded) for peer in lab.ids[1:]])

    def test_not_back(self) -> None:
        """It is sent neither to its author nor to those who sent it meanwhile."""
        lab = self.lab
        message = sign(lab.keys[1], TOPIC, b"hello", 1)
        lab.say(0, message=message)
        self.assertEqual(lab.say(2, message=message), [])
        self.core.accept(message.id, 0.0)
        self.assertEqual(list(lab.sent()), [lab.ids[3]])

    def test_duplicates(self) -> None:
        """The same message again is nothing, accepted or not, within the seen cache's time."""
        lab = self.lab
        lab.say(0, message=self.message)
        self.assertEqual(lab.say(0, message=self.message), [])
        self.core.accept(self.message.id, 0.0)
        self.core.accept(self.message.id, 0.0)
        self.assertEqual(lab.say(1, message=self.message), [])
        self.assertEqual(self.core.counts["duplicates"], 2)
        self.assertEqual(self.core.counts["forwarded"], 3)
        lab.beat(121)
        self.assertEqual(len(lab.say(1, message=self.message)), 1)

    def test_ignored(self) -> None:
        """An ignored message is not forwarded, and does not count against its sender."""
        self.lab.say(0, message=self.message)
        self.core.ignore(self.message.id)
        self.core.accept(self.message.id, 0.0)
        self.assertEqual(self.lab.sent(), {})
        self.assertEqual(self.core.scores()[self.lab.ids[0]].total, 0)

    def test_rejected(self) -> None:
        """A rejected one counts against all who sent it."""
        lab = self.lab
        lab.say(0, message=self.message)
        lab.say(1, message=self.message)
        self.core.reject(self.message.id)
        self.assertEqual(lab.sent(), {})
        scores = self.core.scores()
        self.assertEqual([scores[peer].invalid for peer in lab.ids], [-10, -10, 0, 0])

    def test_other_topics(self) -> None:
        """Messages of topics that this node is not in are not looked at."""
        message = sign(AUTHOR, "other", b"hello", 1)
        self.assertEqual(self.lab.say(0, message=message), [])
        self.assertEqual(self.core.ignored["message_unknown_topic"], 1)

    def test_invalid(self) -> None:
        """A message with a bad signature is an event that says why, and counts."""
        wire = rpc_pb2.RPC.FromString(self.message.encoded)
        wire.publish[0].data = b"changed"
        events = self.core.receive_rpc(self.lab.ids[0], wire.SerializeToString(), 0.0)
        self.assertEqual(events, [MessageRejected(self.lab.ids[0], "signature_invalid")])
        self.assertEqual(self.core.scores()[self.lab.ids[0]].invalid, -10)
        self.assertEqual(len(self.lab.say(0, message=self.message)), 1)

    def test_unsupported_keys_are_nobodys_fault(self) -> None:
        """A message of an author whose key is of another type does not count."""
        wire = rpc_pb2.RPC.FromString(self.message.encoded)
        key = b"\x08\x02\x12\x21" + bytes(33)
        setattr(wire.publish[0], "from", b"\x00" + bytes((len(key),)) + key)
        events = self.core.receive_rpc(self.lab.ids[0], wire.SerializeToString(), 0.0)
        self.assertEqual(events, [MessageRejected(self.lab.ids[0], "key_unsupported")])
        self.assertEqual(self.core.scores()[self.lab.ids[0]].invalid, 0)

    def test_garbage(self) -> None:
        """What is no RPC, or too long, is an offence."""
        self.assertRaises(RemoteProtocolError, self.core.receive_rpc, self.lab.ids[0], b"\xff", 0.0)
        too_long = bytes(self.core.params.max_rpc_size + 1)
        self.assertRaises(LimitExceeded, self.core.receive_rpc, self.lab.ids[0], too_long, 0.0)

    def test_too_long_message(self) -> None:
        """A message longer than may be forwarded is left out, and nobody blamed."""
        lab = Lab(2, GossipParams(max_message_size=1000))
        message = sign(AUTHOR, TOPIC, bytes(1001), 1)
        self.assertEqual(lab.say(0, message=message), [])
        self.assertEqual(lab.core.ignored["message_too_long"], 1)
        self.assertEqual(lab.core.scores()[lab.ids[0]].invalid, 0)

    def test_pending_is_bounded(self) -> None:
        """When too many messages wait for validation the oldest is given up."""
        lab = Lab(2, GossipParams(max_pending=3))
        messages = [sign(AUTHOR, TOPIC, b"x", number) for number in range(5)]
        for message in messages:
            lab.say(0, message=message)
        self.assertEqual(lab.core.sizes()["pending"], 3)
        for message in messages:
            lab.core.accept(message.id, 0.0)
        self.assertEqual(lab.core.counts["forwarded"], 3)
        self.assertEqual(lab.core.ignored["validation_overload"], 2)

    def test_left_while_validating(self) -> None:
        """A message whose topic this node leaves meanwhile goes nowhere."""
        self.lab.say(0, message=self.message)
        self.core.unsubscribe(TOPIC, 0.0)
        self.lab.sent()
        self.core.accept(self.message.id, 0.0)
        self.assertEqual(self.lab.sent(), {})

    def test_graylisted(self) -> None:
        """Nothing is read of a peer that sent too much that is invalid; it is to be dropped."""
        lab = self.lab
        self.assertEqual(self.core.peers_to_drop(), [])
        lab.taint(0, 5)
        self.assertEqual([peer for peer, _ in self.core.peers_to_drop()], [lab.ids[0]])
        self.assertEqual(lab.say(0, message=self.message), [])
        self.assertEqual(self.core.ignored["rpc_graylisted"], 1)
        self.assertEqual(self.core.receive_rpc(lab.ids[0], b"\xff", 0.0), [])
        self.core.remove_peer(lab.ids[0], 0.0)
        self.assertEqual(self.core.peers_to_drop(), [])

    def test_floodsub(self) -> None:
        """Peers that speak floodsub only get everything, and are in no mesh."""
        lab = Lab(2, NO_FLOOD)
        lab.ids.append(key_of(70).peer_id)
        lab.add(2, FLOODSUB)
        self.assertEqual(lab.mesh, [0, 1])
        lab.core.publish(TOPIC, b"x", 0.0)
        self.assertIn(lab.ids[2], lab.sent())
        lab.say(0, message=self.message)
        lab.core.accept(self.message.id, 0.0)
        self.assertEqual(set(lab.sent()), {lab.ids[1], lab.ids[2]})
        self.assertNotIn(lab.ids[2], lab.beat())

    def test_application_score(self) -> None:
        """A peer that the application dislikes leaves the mesh."""
        self.core.set_application_score(self.lab.ids[0], -1.0)
        self.lab.beat()
        self.assertEqual(self.lab.mesh, [1, 2, 3])

    def test_status(self) -> None:
        """Tables tell how full they are."""
        lab = Lab(2, replace(NO_FLOOD, seen_ttl=10.0), GOSSIPSUB_1_1)
        lab.say(0, message=self.message)
        sizes = lab.core.sizes()
        self.assertEqual((sizes["peers"], sizes["seen"], sizes["pending"]), (2, 1, 1))
        lab.core.accept(self.message.id, 0.0)
        sizes = lab.core.sizes()
        self.assertEqual(sizes["cached_bytes"], self.message.sendable().cost)
        self.assertEqual(lab.core.topics, (TOPIC,))
        lab.beat(11)
        sizes = lab.core.sizes()
        self.assertEqual((sizes["seen"], sizes["cached"], sizes["cached_bytes"]), (0, 0, 0))
