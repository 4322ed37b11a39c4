"""Peer scores (gossipsub-v1.1.md "The Score Function")."""

from __future__ import annotations

from dataclasses import replace

from twisted.trial.unittest import SynchronousTestCase

from bzzz.errors import LocalProtocolError
from bzzz.wire.gossip_params import GossipParams, ScoreParams, TopicScoreParams
from bzzz.wire.gossip_score import MAX_RECORDS, PeerScores
from tests.wire.gossip_network import key_of

PEER = key_of(1).peer_id
OTHER = key_of(2).peer_id

# Each parameter counts by itself, with round weights and halves for decays.
TOPIC = TopicScoreParams(
    mesh_time_weight=1.0,
    mesh_time_cap=10.0,
    first_delivery_weight=2.0,
    first_delivery_decay=0.5,
    first_delivery_cap=4.0,
    invalid_weight=-3.0,
    invalid_decay=0.5,
)
WATCHING = replace(
    TOPIC,
    mesh_time_weight=0.0,
    first_delivery_weight=0.0,
    mesh_delivery_weight=-1.0,
    mesh_delivery_threshold=4.0,
    mesh_delivery_activation=5.0,
    mesh_delivery_cap=6.0,
    mesh_delivery_decay=0.5,
    mesh_failure_weight=-1.0,
    mesh_failure_decay=0.5,
)


class ScoreTests(SynchronousTestCase):
    """One parameter after the other."""

    def scores(self, topic: TopicScoreParams = TOPIC, **others: float) -> PeerScores:
        params = ScoreParams(topic=topic, topic_score_cap=100.0, **others)  # type: ignore[arg-type]
        return PeerScores(params)

    def test_stranger(self) -> None:
        """A peer that did nothing has 0."""
        scores = self.scores()
        self.assertEqual(scores.score(PEER), 0)
        scores.add_peer(PEER, "10.0.0.1")
        self.assertEqual(scores.score(PEER), 0)
        self.assertFalse(scores.below(PEER, 0.0))

    def test_mesh_time(self) -> None:
        """P1: time in the mesh counts up to its cap, and ends with the membership."""
        scores = self.scores()
        scores.joined_mesh(PEER, "t", 0.0)
        scores.advance(5.0)
        self.assertEqual(scores.score(PEER), 5)
        scores.advance(100.0)
        self.assertEqual(scores.score(PEER), 10)
        scores.left_mesh(PEER, "t")
        self.assertEqual(scores.score(PEER), 0)

    def test_first_deliveries(self) -> None:
        """P2: first deliveries count up to their cap, and decay."""
        scores = self.scores()
        for number in range(10):
            scores.delivered(b"%d" % number, PEER, "t", {}, 0.0)
        self.assertEqual(scores.score(PEER), 8)
        scores.advance(1.0)
        self.assertEqual(scores.score(PEER), 4)
        scores.advance(3.0)
        self.assertEqual(scores.score(PEER), 1)
        scores.advance(30.0)
        self.assertEqual(scores.score(PEER), 0)

    def test_invalid(self) -> None:
        """P4: the square of invalid messages; decays, and taints until it is gone."""
        scores = self.scores()
        scores.invalid(PEER, "t")
        scores.invalid(PEER, "t")
        self.assertEqual(scores.score(PEER), -12)
        self.assertTrue(scores.below(PEER, 0.0))
        self.assertEqual(scores.suspects(), [PEER])
        scores.advance(1.0)
        self.assertEqual(scores.score(PEER), -3)
        scores.advance(20.0)
        self.assertEqual(scores.score(PEER), 0)
        self.assertEqual(scores.suspects(), [])

    def test_topics_add_up(self) -> None:
        """Behaviour in every topic counts."""
        scores = self.scores()
        scores.invalid(PEER, "t")
        scores.invalid(PEER, "u")
        self.assertEqual(scores.score(PEER), -6)

    def test_own_params_of_a_topic(self) -> None:
        """A topic can have its own weights."""
        params = ScoreParams(topic=TOPIC, topics={"u": replace(TOPIC, invalid_weight=-50.0)})
        scores = PeerScores(params)
        scores.invalid(PEER, "u")
        self.assertEqual(scores.score(PEER), -50)

    def test_cap(self) -> None:
        """What topics add is capped, what they take is not: good deeds do not hide bad ones."""
        scores = PeerScores(ScoreParams(topic=TOPIC, topic_score_cap=1.0))
        for number in range(4):
            scores.delivered(b"%d" % number, PEER, "t", {}, 0.0)
        self.assertEqual(scores.score(PEER), 1)
        scores.invalid(PEER, "t")
        self.assertEqual(scores.score(PEER), -2)

    def test_mesh_deliveries(self) -> None:
        """P3: the square of what is missing, once the peer was in the mesh for a while."""
        scores = self.scores(WATCHING)
        scores.joined_mesh(PEER, "t", 0.0)
        scores.advance(5.0)
        self.assertEqual(scores.score(PEER), 0)
        scores.advance(6.0)
        self.assertEqual(scores.score(PEER), -16)
        self.assertTrue(scores.below(PEER, 0.0))
        scores.delivered(b"1", PEER, "t", {}, 6.0)
        self.assertEqual(scores.score(PEER), -9)
        for number in range(10):
            scores.delivered(b"x%d" % number, PEER, "t", {}, 6.0)
        self.assertEqual(scores.score(PEER), 0)
        scores.advance(8.0)
        self.assertEqual(scores.score(PEER), -(2.5**2))

    def test_near_first(self) -> None:
        """P3: who delivers during validation or within the window counts too, once."""
        scores = self.scores(WATCHING)
        peers = [key_of(number).peer_id for number in range(4)]
        for peer in peers:
            scores.joined_mesh(peer, "t", 0.0)
        scores.advance(6.0)
        scores.delivered(b"1", peers[0], "t", {peers[1]: None}, 6.0)
        for _ in range(3):
            scores.duplicate(b"1", peers[2], 6.01)
        scores.duplicate(b"1", peers[3], 6.02)
        self.assertEqual([scores.score(peer) for peer in peers], [-9, -9, -9, -16])

    def test_failure_sticks(self) -> None:
        """P3b: a deficit at the time of a prune is remembered, and decays."""
        scores = self.scores(WATCHING)
        scores.joined_mesh(PEER, "t", 0.0)
        scores.advance(10.0)
        scores.left_mesh(PEER, "t")
        self.assertEqual(scores.score(PEER), -16)
        scores.advance(11.0)
        self.assertEqual(scores.score(PEER), -8)

    def test_application(self) -> None:
        """P5: what the application thinks."""
        scores = self.scores()
        scores.set_application_score(PEER, -5.0)
        self.assertEqual(scores.score(PEER), -5)
        self.assertTrue(scores.below(PEER, 0.0))
        scores.set_application_score(PEER, 5.0)
        scores.advance(1.0)
        self.assertEqual(scores.score(PEER), 5)
        self.assertEqual(scores.suspects(), [])

    def test_colocation(self) -> None:
        """P6: the square of the surplus of peers on one address, if it is given a weight."""
        scores = self.scores(colocation_weight=-1.0, colocation_threshold=2)
        peers = [key_of(number).peer_id for number in range(5)]
        for peer in peers[:4]:
            scores.add_peer(peer, "10.0.0.1")
        scores.add_peer(peers[4], "10.0.0.2")
        self.assertEqual([scores.score(peer) for peer in peers], [-4, -4, -4, -4, 0])
        self.assertTrue(scores.below(peers[0], 0.0))
        scores.remove_peer(peers[0], 0.0)
        self.assertEqual(scores.score(peers[1]), -1)

    def test_no_colocation_by_default(self) -> None:
        """Any number of peers may share an address: clusters of containers do."""
        scores = PeerScores(ScoreParams())
        peers = [key_of(number).peer_id for number in range(50)]
        for peer in peers:
            scores.add_peer(peer, "127.0.0.1")
        self.assertEqual({scores.score(peer) for peer in peers}, {0.0})

    def test_behaviour(self) -> None:
        """P7: the square of infractions above the threshold; decays."""
        scores = self.scores(behaviour_weight=-2.0, behaviour_threshold=3.0, behaviour_decay=0.5)
        scores.misbehaved(PEER, 3)
        self.assertEqual(scores.score(PEER), 0)
        scores.misbehaved(PEER, 2)
        self.assertEqual(scores.score(PEER), -8)
        scores.advance(1.0)
        self.assertEqual(scores.score(PEER), 0)

    def test_reconnecting(self) -> None:
        """A peer that goes and comes back keeps what is held against it."""
        scores = self.scores()
        scores.add_peer(PEER, "10.0.0.1")
        scores.invalid(PEER, "t")
        scores.remove_peer(PEER, 0.0)
        scores.add_peer(PEER, "10.0.0.1")
        self.assertEqual(scores.score(PEER), -3)

    def test_innocent_peers_are_forgotten(self) -> None:
        """A peer that is gone and did no wrong takes no room."""
        scores = self.scores()
        scores.add_peer(PEER, "10.0.0.1")
        scores.delivered(b"1", PEER, "t", {}, 0.0)
        scores.remove_peer(PEER, 0.0)
        self.assertEqual(len(scores), 0)

    def test_guilty_peers_are_forgotten_in_time(self) -> None:
        """What is held against a peer that is gone is forgotten at last."""
        scores = PeerScores(ScoreParams(retain_score=600.0))
        scores.add_peer(PEER, None)
        scores.invalid(PEER, "t")
        scores.remove_peer(PEER, 0.0)
        scores.expire(599.0)
        self.assertEqual(len(scores), 1)
        scores.expire(600.0)
        self.assertEqual((len(scores), scores.suspects()), (0, []))

    def test_records_are_bounded(self) -> None:
        """However many guilty peers come and go, a limited number is remembered."""
        scores = self.scores()
        scores.add_peer(OTHER, None)
        scores.invalid(OTHER, "t")
        for number in range(10, MAX_RECORDS + 100):
            peer = key_of(number).peer_id
            scores.add_peer(peer, None)
            scores.invalid(peer, "t")
            scores.remove_peer(peer, float(number))
        self.assertEqual(len(scores), MAX_RECORDS)
        self.assertEqual(scores.score(OTHER), -3)


class ParamsTests(SynchronousTestCase):
    """Parameters that make no sense are refused."""

    def test_thresholds(self) -> None:
        """Thresholds are ordered."""
        self.assertRaises(LocalProtocolError, ScoreParams, gossip_threshold=1.0)
        self.assertRaises(LocalProtocolError, ScoreParams, publish_threshold=-1.0)
        self.assertRaises(LocalProtocolError, ScoreParams, graylist_threshold=-1.0)

    def test_weights(self) -> None:
        """Penalties are not positive, rewards not negative, decays factors."""
        self.assertRaises(LocalProtocolError, TopicScoreParams, invalid_weight=1.0)
        self.assertRaises(LocalProtocolError, TopicScoreParams, mesh_time_weight=-1.0)
        self.assertRaises(LocalProtocolError, TopicScoreParams, invalid_decay=1.0)
        self.assertRaises(LocalProtocolError, ScoreParams, behaviour_weight=1.0)
        self.assertRaises(LocalProtocolError, ScoreParams, behaviour_decay=0.0)

    def test_degrees(self) -> None:
        """Degrees are ordered, as gossipsub-v1.1.md has it."""
        self.assertRaises(LocalProtocolError, GossipParams, d_low=7)
        self.assertRaises(LocalProtocolError, GossipParams, d_high=5)
        self.assertRaises(LocalProtocolError, GossipParams, d_out=4)
        self.assertRaises(LocalProtocolError, GossipParams, d_score=7)
        self.assertRaises(LocalProtocolError, GossipParams, history_gossip=6)
        self.assertRaises(LocalProtocolError, GossipParams, max_message_size=1 << 20)

    def test_five_invalid_messages(self) -> None:
        """By default the fifth invalid message graylists a peer, however good it was before."""
        params = ScoreParams()
        scores = PeerScores(params)
        scores.joined_mesh(PEER, "t", 0.0)
        scores.advance(100_000.0)
        for number in range(1000):
            scores.delivered(b"%d" % number, PEER, "t", {}, 100_000.0)
        totals = []
        for _ in range(5):
            scores.invalid(PEER, "t")
            totals.append(scores.score(PEER))
        self.assertLess(totals[1], 0)
        self.assertLess(totals[2], params.gossip_threshold)
        self.assertGreater(totals[3], params.graylist_threshold)
        self.assertLess(totals[4], params.graylist_threshold)
