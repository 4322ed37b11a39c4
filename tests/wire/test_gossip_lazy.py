"""IHAVE, IWANT, IDONTWANT, and promises (gossipsub-v1.1.md "Spam Protection Measures")."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from bzzz.wire.gossip_lazy import MAX_LOOKS
from bzzz.wire.gossip_message import Message, sign
from bzzz.wire.gossip_params import GOSSIPSUB_1_1, GossipParams
from bzzz.wire.gossipsub import MessageReceived
from bzzz.wire.pb import rpc_pb2
from tests.wire.gossip_network import TOPIC, Lab, key_of

AUTHOR = key_of(50)


def message(number: int, size: int = 5) -> Message:
    return sign(AUTHOR, TOPIC, bytes(size), number)


def told(sent: dict[object, rpc_pb2.RPC] | object) -> list[list[bytes]]:
    """The IDs of each peer that got an IHAVE."""
    assert isinstance(sent, dict)
    return [
        [mid for ihave in rpc.control.ihave for mid in ihave.messageIDs]
        for rpc in sent.values()
        if rpc.control.ihave
    ]


def asked(sent: object) -> dict[object, list[bytes]]:
    """The IDs that each peer was asked for."""
    assert isinstance(sent, dict)
    return {
        peer: [mid for iwant in rpc.control.iwant for mid in iwant.messageIDs]
        for peer, rpc in sent.items()
        if rpc.control.iwant
    }


class TellTests(SynchronousTestCase):
    """IHAVE of this node."""

    def test_who(self) -> None:
        """D_lazy peers outside the mesh are told, or a part of them if that is more."""
        for peers, count in ((8, 3), (20, 6), (105, 25)):
            lab = Lab(peers, GossipParams(gossip_factor=0.25))
            published = lab.core.publish(TOPIC, b"x", 0.0)
            lab.sent()
            sent = lab.beat()
            ids = told(sent)
            self.assertEqual(ids, [[published.id]] * count)
            mesh = {lab.ids[number] for number in range(5)}
            self.assertEqual({p for p, rpc in sent.items() if rpc.control.ihave} & mesh, set())

    def test_how_long(self) -> None:
        """For three heartbeats; when there is nothing to tell nobody is told."""
        lab = Lab(20)
        lab.beat()
        self.assertEqual(told(lab.beat()), [])
        lab.core.publish(TOPIC, b"x", 0.0)
        lab.sent()
        self.assertEqual([len(told(lab.beat())) for _ in range(5)], [6, 6, 6, 0, 0])

    def test_not_ignored_ones(self) -> None:
        """Only accepted messages are told of."""
        lab = Lab(20)
        lab.say(0, message=message(1))
        lab.core.ignore(message(1).id)
        self.assertEqual(told(lab.beat()), [])

    def test_not_to_everybody(self) -> None:
        """Peers with a low score, slow ones and floodsub ones are not told."""
        lab = Lab(8)
        lab.taint(5, 3)
        lab.core.set_congested(lab.ids[6], True)
        lab.core.publish(TOPIC, b"x", 0.0)
        lab.sent()
        sent = lab.beat()
        self.assertEqual([p for p, rpc in sent.items() if rpc.control.ihave], [lab.ids[7]])
        lab.core.set_congested(lab.ids[6], False)
        self.assertEqual(len(told(lab.beat())), 2)

    def test_many(self) -> None:
        """No more IDs at once than a peer would look at; each peer is told of others."""
        lab = Lab(8, GossipParams(max_ihave_length=10))
        for number in range(30):
            lab.core.publish(TOPIC, b"%d" % number, 0.0)
        lab.sent()
        ids = told(lab.beat())
        self.assertEqual([len(each) for each in ids], [10, 10, 10])
        self.assertGreater(len({mid for each in ids for mid in each}), 10)

    def test_fanout_topics(self) -> None:
        """Peers outside the fanout are told of what was published to a topic not joined."""
        lab = Lab(20, GossipParams(flood_publish=False), subscribe=False)
        published = lab.core.publish(TOPIC, b"x", 0.0)
        lab.sent()
        self.assertEqual(told(lab.beat()), [[published.id]] * 6)


class AskTests(SynchronousTestCase):
    """IHAVE of peers, and promises."""

    def test_unseen(self) -> None:
        """What was not seen is asked for, and nothing else."""
        lab = Lab(8)
        lab.say(0, message=message(1))
        lab.say(7, ihave=(TOPIC, [message(1).id, message(2).id]))
        self.assertEqual(asked(lab.sent()), {lab.ids[7]: [message(2).id]})
        lab.say(7, ihave=(TOPIC, [message(1).id]))
        lab.say(7, ihave=("other", [b"unknown"]))
        self.assertEqual(lab.sent(), {})

    def test_promise_kept(self) -> None:
        """A peer that sends what it promised keeps its score, whoever else sends it first."""
        lab = Lab(8)
        lab.say(7, ihave=(TOPIC, [message(2).id]))
        self.assertEqual(lab.core.sizes()["promises"], 1)
        self.assertIsInstance(lab.say(3, message=message(2))[0], MessageReceived)
        self.assertEqual(lab.core.sizes()["promises"], 0)
        lab.beat(10)
        self.assertEqual(lab.core.ignored["promise_broken"], 0)

    def test_promise_broken(self) -> None:
        """A peer that does not, for some seconds, misbehaved; many times, and it is graylisted."""
        lab = Lab(8)
        lab.say(7, ihave=(TOPIC, [b"bogus"]))
        lab.beat(3)
        self.assertEqual(lab.core.ignored["promise_broken"], 0)
        lab.beat()
        self.assertEqual(lab.core.ignored["promise_broken"], 1)
        self.assertEqual(lab.core.scores()[lab.ids[7]].total, 0)
        for number in range(40):
            lab.say(7, ihave=(TOPIC, [b"bogus %d" % number]))
            lab.beat()
        self.assertLess(lab.core.scores()[lab.ids[7]].behaviour, -150)
        self.assertGreater(lab.core.ignored["rpc_graylisted"], 0)

    def test_starved_node(self) -> None:
        """A node that did not run for a while blames nobody for what it may not have read yet."""
        lab = Lab(8)
        lab.say(7, ihave=(TOPIC, [message(2).id]))
        lab.now += 60.0
        lab.core.heartbeat(lab.now)
        self.assertEqual(lab.core.ignored["promise_broken"], 0)
        lab.say(7, message=message(2))
        lab.beat(10)
        self.assertEqual(lab.core.ignored["promise_broken"], 0)

    def test_promiser_leaves(self) -> None:
        """A promise ends with the link, and is not blamed on the peer."""
        lab = Lab(8)
        lab.say(7, ihave=(TOPIC, [b"bogus"]))
        lab.core.remove_peer(lab.ids[7], 0.0)
        self.assertEqual(lab.core.sizes()["promises"], 0)
        lab.beat(10)
        self.assertEqual(lab.core.ignored["promise_broken"], 0)

    def test_asked_of_two(self) -> None:
        """One message is asked of two peers in a heartbeat, of others in the next."""
        lab = Lab(8)
        for number in range(3, 8):
            lab.say(number, ihave=(TOPIC, [message(2).id]))
        self.assertEqual(list(asked(lab.sent())), lab.ids[3:5])
        lab.beat()
        lab.say(7, ihave=(TOPIC, [message(2).id]))
        self.assertEqual(list(asked(lab.sent())), lab.ids[7:])

    def test_too_many_ihaves(self) -> None:
        """A peer is listened to for 10 IHAVEs a heartbeat."""
        lab = Lab(8)
        for number in range(12):
            lab.say(7, ihave=(TOPIC, [b"%d" % number]))
        self.assertEqual(len(asked(lab.sent())[lab.ids[7]]), 10)
        self.assertEqual(lab.core.ignored["ihave_too_many"], 2)
        lab.beat()
        lab.say(7, ihave=(TOPIC, [b"next"]))
        self.assertEqual(len(asked(lab.sent())), 1)

    def test_too_many_ids(self) -> None:
        """And for so many IDs, in one IHAVE or in several."""
        lab = Lab(8, GossipParams(max_ihave_length=10))
        lab.say(7, ihave=(TOPIC, [b"a%d" % number for number in range(8)]))
        lab.say(7, ihave=(TOPIC, [b"b%d" % number for number in range(8)]))
        self.assertEqual(len(asked(lab.sent())[lab.ids[7]]), 10)

    def test_looks_are_bounded(self) -> None:
        """IDs that are known cost looking them up, so their number is limited too."""
        lab = Lab(8)
        known = message(1)
        lab.say(0, message=known)
        lab.say(7, ihave=(TOPIC, [known.id] * MAX_LOOKS + [b"beyond"]))
        self.assertEqual(lab.sent(), {})
        self.assertEqual(lab.core.ignored["ihave_too_many_ids"], 1)

    def test_all_asked_ids_are_bounded(self) -> None:
        """All peers together make this node ask for so many in a heartbeat."""
        lab = Lab(8, GossipParams(max_asked=15))
        for peer in range(3):
            lab.say(peer, ihave=(TOPIC, [b"%d %d" % (peer, number) for number in range(10)]))
        self.assertEqual(sum(len(ids) for ids in asked(lab.sent()).values()), 15)

    def test_low_score(self) -> None:
        """A peer below the gossip threshold is not listened to."""
        lab = Lab(8)
        lab.taint(7, 3)
        lab.say(7, ihave=(TOPIC, [b"a"]))
        self.assertEqual(lab.sent(), {})


class AnswerTests(SynchronousTestCase):
    """IWANT of peers."""

    def setUp(self) -> None:
        self.lab = Lab(8)
        self.message = self.lab.core.publish(TOPIC, b"x", 0.0)
        self.lab.sent()

    def test_answered(self) -> None:
        """A message that is held is sent to who asks for it; others are not."""
        self.lab.say(7, iwant=[self.message.id, b"unknown"])
        self.assertEqual(self.lab.core.take_rpcs(), [(self.lab.ids[7], self.message.encoded)])

    def test_retransmissions(self) -> None:
        """Three times, to one peer."""
        self.lab.say(7, iwant=[self.message.id] * 10)
        self.assertEqual(len(self.lab.sent()[self.lab.ids[7]].publish), 3)
        self.lab.say(7, iwant=[self.message.id])
        self.assertEqual(self.lab.sent(), {})
        self.lab.say(6, iwant=[self.message.id])
        self.assertEqual(len(self.lab.sent()), 1)

    def test_history(self) -> None:
        """For five heartbeats."""
        self.lab.beat(4)
        self.lab.say(7, iwant=[self.message.id])
        self.assertEqual(len(self.lab.sent()[self.lab.ids[7]].publish), 1)
        self.lab.beat()
        self.lab.say(7, iwant=[self.message.id])
        self.assertEqual(self.lab.sent(), {})

    def test_slow_and_bad_peers(self) -> None:
        """A slow peer gets no answer, nor does one below the gossip threshold."""
        self.lab.core.set_congested(self.lab.ids[7], True)
        self.lab.say(7, iwant=[self.message.id])
        self.lab.taint(6, 3)
        self.lab.say(6, iwant=[self.message.id])
        self.assertEqual(self.lab.sent(), {})

    def test_bounds(self) -> None:
        """IDs and bytes per peer and heartbeat are limited."""
        lab = Lab(8, GossipParams(max_ihave_length=20, max_iwant_bytes=10_000))
        lab.say(7, iwant=[b"unknown"] * 100)
        self.assertEqual(lab.core.ignored["iwant_not_sent"], 20)
        lab.beat()
        messages = [lab.core.publish(TOPIC, bytes(3000), lab.now) for _ in range(10)]
        lab.sent()
        lab.say(7, iwant=[each.id for each in messages])
        self.assertEqual(len(lab.sent()[lab.ids[7]].publish), 3)


class DontWantTests(SynchronousTestCase):
    """IDONTWANT (gossipsub-v1.2.md)."""

    def test_sent(self) -> None:
        """A large message is announced to the mesh before it is validated, not to its sender."""
        lab = Lab(4)
        lab.say(0, message=message(1, 20_000))
        sent = lab.sent()
        self.assertEqual(list(sent), lab.ids[1:4])
        for rpc in sent.values():
            self.assertEqual(list(rpc.control.idontwant[0].messageIDs), [message(1).id])

    def test_not_for_small_ones(self) -> None:
        """A small one is not."""
        lab = Lab(4)
        lab.say(0, message=message(1))
        self.assertEqual(lab.sent(), {})

    def test_not_to_older_peers(self) -> None:
        """Peers that speak 1.1 do not know it."""
        lab = Lab(4, protocol=GOSSIPSUB_1_1)
        lab.say(0, message=message(1, 20_000))
        self.assertEqual(lab.sent(), {})

    def test_honoured(self) -> None:
        """A peer that says it has a message is not sent it, for three heartbeats."""
        lab = Lab(4)
        lab.say(1, idontwant=[message(1).id, message(2).id])
        lab.say(0, message=message(1))
        lab.core.accept(message(1).id, 0.0)
        self.assertEqual(list(lab.sent()), lab.ids[2:4])
        lab.beat(4)
        lab.say(0, message=message(2))
        lab.core.accept(message(2).id, 0.0)
        self.assertEqual(list(lab.sent()), lab.ids[1:4])

    def test_bounded(self) -> None:
        """Of one peer, so many are kept per heartbeat, and none too long."""
        lab = Lab(1, GossipParams(max_idontwant_messages=100))
        lab.say(0, idontwant=[b"%d" % number for number in range(1000)])
        peer = lab.core._peers.by_id[lab.ids[0]]
        self.assertEqual(len(peer.dont_send), 100)
        lab.beat(4)
        self.assertEqual(len(peer.dont_send), 0)
        lab.say(0, idontwant=[bytes(1000)])
        self.assertEqual(len(peer.dont_send), 0)
