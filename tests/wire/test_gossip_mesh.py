"""Meshes: GRAFT, PRUNE, backoffs, degrees (gossipsub-v1.0.md and -v1.1.md)."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from bzzz.wire import varint
from bzzz.wire.gossip_message import sign
from bzzz.wire.gossip_params import GOSSIPSUB_1_0, GOSSIPSUB_1_1, GossipParams
from tests.wire.gossip_network import TOPIC, Lab, key_of


def grafted(sent: object, lab: Lab) -> list[int]:
    """The numbers of the peers that got a GRAFT for the topic."""
    assert isinstance(sent, dict)
    return sorted(
        lab.ids.index(peer)
        for peer, rpc in sent.items()
        if any(graft.topicID == TOPIC for graft in rpc.control.graft)
    )


def pruned(sent: object, lab: Lab) -> dict[int, int]:
    """The numbers of the peers that got a PRUNE for the topic, and its backoff."""
    assert isinstance(sent, dict)
    return {
        lab.ids.index(peer): prune.backoff
        for peer, rpc in sent.items()
        for prune in rpc.control.prune
        if prune.topicID == TOPIC
    }


class JoinTests(SynchronousTestCase):
    """Joining and leaving a topic."""

    def test_join(self) -> None:
        """Joining takes up to D of the topic's peers into the mesh, and tells them."""
        lab = Lab(20, subscribe=False)
        lab.core.subscribe(TOPIC, 0.0)
        self.assertEqual(len(lab.mesh), 6)
        self.assertEqual(grafted(lab.sent(), lab), lab.mesh)

    def test_join_few(self) -> None:
        """Or all there are."""
        lab = Lab(3, subscribe=False)
        lab.core.subscribe(TOPIC, 0.0)
        self.assertEqual(lab.mesh, [0, 1, 2])

    def test_late_peers(self) -> None:
        """A peer that comes later is taken in at once while the mesh has less than D_low."""
        lab = Lab(0)
        lab.ids = [key_of(100 + number).peer_id for number in range(7)]
        for number in range(7):
            sent = lab.add(number)
            self.assertEqual(grafted(sent, lab), [number] if number < 5 else [])

    def test_leave(self) -> None:
        """Leaving tells the mesh, with the short backoff."""
        lab = Lab(3)
        lab.core.unsubscribe(TOPIC, 0.0)
        self.assertEqual(pruned(lab.sent(), lab), {0: 10, 1: 10, 2: 10})

    def test_rejoin(self) -> None:
        """Who left and joins again waits for the backoff, and grafts in time after it."""
        lab = Lab(3)
        lab.core.unsubscribe(TOPIC, 0.0)
        lab.core.subscribe(TOPIC, 0.0)
        self.assertEqual(grafted(lab.sent(), lab), [])
        self.assertEqual(grafted(lab.beat(10), lab), [])
        self.assertEqual(grafted(lab.beat(1), lab), [0, 1, 2])

    def test_peer_leaves(self) -> None:
        """A peer that unsubscribes leaves the mesh."""
        lab = Lab(3)
        lab.say(1, unsubscribe=TOPIC)
        self.assertEqual(lab.mesh, [0, 2])


class GraftTests(SynchronousTestCase):
    """GRAFTs of peers."""

    def test_accepted(self) -> None:
        """A GRAFT is agreed to in silence."""
        lab = Lab(8)
        self.assertNotIn(7, lab.mesh)
        lab.say(7, graft=TOPIC)
        self.assertIn(7, lab.mesh)
        self.assertEqual(lab.sent(), {})
        lab.say(7, graft=TOPIC)
        self.assertEqual(lab.sent(), {})

    def test_unknown_topic(self) -> None:
        """One for a topic that this node is not in is not even answered."""
        lab = Lab(1)
        lab.say(0, graft="other")
        self.assertEqual(lab.sent(), {})
        self.assertEqual(lab.core.mesh_peers("other"), ())

    def test_full(self) -> None:
        """With D_high in the mesh, a peer that dialled in is refused, one dialled is let in."""
        lab = Lab(13)
        for number in range(12):
            lab.say(number, graft=TOPIC)
        self.assertEqual(lab.mesh, list(range(12)))
        lab.say(12, graft=TOPIC)
        self.assertEqual(pruned(lab.sent(), lab), {12: 60})
        self.assertEqual(lab.mesh, list(range(12)))
        lab.ids.append(key_of(200).peer_id)
        lab.add(13, outbound=True)
        lab.say(13, graft=TOPIC)
        self.assertEqual(lab.sent(), {})
        self.assertIn(13, lab.mesh)

    def test_low_score(self) -> None:
        """A peer below zero is refused."""
        lab = Lab(8)
        lab.taint(7, 1)
        lab.say(7, graft=TOPIC)
        self.assertEqual(pruned(lab.sent(), lab), {7: 60})
        self.assertNotIn(7, lab.mesh)

    def test_in_backoff(self) -> None:
        """A GRAFT within the backoff is refused, makes it longer, and counts as misbehaviour."""
        lab = Lab(3)
        lab.say(0, prune=(TOPIC, 60))
        lab.now = 20.0
        lab.say(0, graft=TOPIC)
        self.assertEqual(pruned(lab.sent(), lab), {0: 60})
        self.assertEqual(lab.mesh, [1, 2])
        self.assertEqual(lab.core.ignored["graft_in_backoff"], 1)
        lab.now = 79.0
        lab.say(0, graft=TOPIC)
        self.assertEqual(lab.core.ignored["graft_in_backoff"], 2)
        lab.now = 200.0
        lab.say(0, graft=TOPIC)
        self.assertEqual(lab.mesh, [0, 1, 2])

    def test_graft_flood(self) -> None:
        """Grafting again and again after a prune takes a peer below zero, then silences it."""
        lab = Lab(3)
        lab.say(0, prune=(TOPIC, 60))
        for _ in range(3):
            lab.say(0, graft=TOPIC)
        self.assertEqual(lab.core.scores()[lab.ids[0]].total, 0)
        lab.say(0, graft=TOPIC)
        self.assertLess(lab.core.scores()[lab.ids[0]].total, 0)
        for _ in range(6):
            lab.say(0, graft=TOPIC)
        self.assertGreater(lab.core.ignored["rpc_graylisted"], 0)
        self.assertEqual(lab.core.peers_to_drop(), [])

    def test_repeated_in_one_rpc(self) -> None:
        """A thousand GRAFTs in one RPC get one answer and count once."""
        lab = Lab(8)
        lab.say(7, prune=(TOPIC, 60))
        graft = b"\x0a" + bytes((len(TOPIC),)) + TOPIC.encode()
        control = (b"\x1a" + bytes((len(graft),)) + graft) * 1000
        lab.say(7, raw=b"\x1a" + varint.encode(len(control)) + control)
        sent = lab.sent()
        self.assertEqual(len(sent[lab.ids[7]].control.prune), 1)
        self.assertEqual(lab.core.ignored["graft_in_backoff"], 1)


class PruneTests(SynchronousTestCase):
    """PRUNEs of peers."""

    def test_backoff_is_kept(self) -> None:
        """A pruned node grafts that peer again after the backoff it was given, not before."""
        lab = Lab(3)
        lab.say(1, prune=(TOPIC, 30))
        self.assertEqual(lab.mesh, [0, 2])
        self.assertEqual(grafted(lab.beat(30), lab), [])
        self.assertEqual(grafted(lab.beat(2), lab), [1])

    def test_without_backoff(self) -> None:
        """A PRUNE that gives none, as in 1.0, means the usual minute."""
        lab = Lab(3, protocol=GOSSIPSUB_1_0)
        lab.say(1, prune=(TOPIC, 0))
        self.assertEqual(grafted(lab.beat(60), lab), [])
        self.assertEqual(grafted(lab.beat(2), lab), [1])

    def test_endless_backoff(self) -> None:
        """A peer cannot impose more than the longest backoff."""
        lab = Lab(1, GossipParams(max_backoff=100.0))
        lab.say(0, prune=(TOPIC, 2**64 - 1))
        self.assertEqual(grafted(lab.beat(100), lab), [])
        self.assertEqual(grafted(lab.beat(2), lab), [0])

    def test_old_peers_get_no_backoff(self) -> None:
        """A PRUNE to a peer of 1.0 has no backoff in it; to one of 1.1 it has."""
        for protocol, backoff in ((GOSSIPSUB_1_0, 0), (GOSSIPSUB_1_1, 10)):
            lab = Lab(1, protocol=protocol)
            lab.core.unsubscribe(TOPIC, 0.0)
            self.assertEqual(pruned(lab.sent(), lab), {0: backoff})

    def test_offered_peers_are_ignored(self) -> None:
        """No peer exchange: peers in a PRUNE change nothing."""
        lab = Lab(2)
        other = key_of(300).peer_id.bytes
        info = b"\x0a" + bytes((len(other),)) + other
        prune = (
            b"\x0a" + bytes((len(TOPIC),)) + TOPIC.encode() + b"\x12" + bytes((len(info),)) + info
        )
        control = b"\x22" + bytes((len(prune),)) + prune
        lab.say(0, raw=b"\x1a" + bytes((len(control),)) + control)
        self.assertEqual(lab.mesh, [1])
        self.assertEqual(lab.core.peers, tuple(lab.ids))

    def test_survives_reconnecting(self) -> None:
        """A backoff outlives the link."""
        lab = Lab(3)
        lab.say(1, prune=(TOPIC, 60))
        lab.core.remove_peer(lab.ids[1], lab.now)
        self.assertEqual(grafted(lab.add(1), lab), [])
        self.assertEqual(grafted(lab.beat(60), lab), [])
        self.assertEqual(grafted(lab.beat(2), lab), [1])


class HeartbeatTests(SynchronousTestCase):
    """Keeping the degree."""

    def test_too_few(self) -> None:
        """Below D_low the mesh is filled up to D."""
        lab = Lab(20)
        self.assertEqual(len(lab.mesh), 5)
        lab.core.remove_peer(lab.core.mesh_peers(TOPIC)[0], 0.0)
        sent = lab.beat()
        self.assertEqual(len(lab.mesh), 6)
        self.assertEqual(len(grafted(sent, lab)), 2)

    def test_between(self) -> None:
        """From D_low to D_high nothing changes."""
        lab = Lab(20)
        for number in range(12):
            lab.say(number, graft=TOPIC)
        lab.sent()
        lab.beat(10)
        self.assertEqual(lab.mesh, list(range(12)))

    def test_too_many(self) -> None:
        """Above D_high the mesh is cut to D, and the others are told with a backoff."""
        lab = Lab(0)
        lab.ids = [key_of(100 + number).peer_id for number in range(20)]
        for number in range(20):
            lab.add(number, outbound=True)
            lab.say(number, graft=TOPIC)
        self.assertEqual(len(lab.mesh), 20)
        told = pruned(lab.beat(), lab)
        self.assertEqual(len(lab.mesh), 6)
        self.assertEqual(sorted([*told, *lab.mesh]), list(range(20)))
        self.assertEqual(set(told.values()), {60})

    def test_best_survive(self) -> None:
        """Of too many, the D_score best stay."""
        lab = Lab(0)
        lab.ids = [key_of(100 + number).peer_id for number in range(20)]
        lab.keys = [key_of(100 + number) for number in range(20)]
        for number in range(20):
            lab.add(number, outbound=True)
            lab.say(number, graft=TOPIC)
        for number in (3, 8, 13, 17):
            message = sign(lab.keys[number], TOPIC, b"x", 1)
            lab.say(number, message=message)
            lab.core.accept(message.id, 0.0)
        lab.sent()
        lab.beat()
        self.assertTrue({3, 8, 13, 17} <= set(lab.mesh))

    def test_dialled_survive(self) -> None:
        """Of too many, at least D_out stay that this node dialled."""
        for dialled in range(2, 10):
            lab = Lab(0)
            lab.ids = [key_of(100 + number).peer_id for number in range(11 + dialled)]
            for number in range(11 + dialled):
                lab.add(number, outbound=number >= 11)
                lab.say(number, graft=TOPIC)
            self.assertEqual(len(lab.mesh), 11 + dialled)
            told = pruned(lab.beat(), lab)
            self.assertEqual(len(lab.mesh), 6)
            self.assertEqual(sorted([*told, *lab.mesh]), list(range(11 + dialled)))
            self.assertGreaterEqual(len([number for number in lab.mesh if number >= 11]), 2)

    def test_dialled_are_added(self) -> None:
        """A mesh that has enough peers, but too few dialled ones, takes some of those."""
        lab = Lab(6)
        for number in range(6):
            lab.say(number, graft=TOPIC)
        lab.ids += [key_of(200 + number).peer_id for number in range(4)]
        for number in range(6, 10):
            lab.add(number, outbound=True)
        sent = lab.beat()
        self.assertEqual(len(grafted(sent, lab)), 2)
        self.assertEqual(len([number for number in lab.mesh if number >= 6]), 2)

    def test_low_scores_leave(self) -> None:
        """Peers below zero leave the mesh, and are not taken back."""
        lab = Lab(4)
        lab.taint(2, 1)
        self.assertEqual(pruned(lab.beat(), lab), {2: 60})
        self.assertEqual(lab.mesh, [0, 1, 3])
        lab.beat(5)
        self.assertEqual(lab.mesh, [0, 1, 3])

    def test_opportunistic_graft(self) -> None:
        """Each minute, a mesh of low scores takes two peers that score above its median."""
        lab = Lab(0)
        lab.keys = [key_of(100 + number) for number in range(20)]
        lab.ids = [key.peer_id for key in lab.keys]
        for number in range(20):
            lab.add(number, outbound=True)
        lab.beat(2)
        self.assertEqual(len(lab.mesh), 5)
        outside = [number for number in range(20) if number not in lab.mesh][:3]
        lab.beat(57)
        for number in outside:
            for count in range(10):
                message = sign(lab.keys[number], TOPIC, b"x", count)
                lab.say(number, message=message)
                lab.core.accept(message.id, lab.now)
        lab.sent()
        sent = lab.beat()
        self.assertEqual(len(grafted(sent, lab)), 2)
        self.assertTrue(set(grafted(sent, lab)) <= set(outside))
        self.assertEqual(len(lab.mesh), 7)

    def test_idle_heartbeat_says_nothing(self) -> None:
        """A mesh that is well needs no words."""
        lab = Lab(6)
        lab.beat()
        self.assertEqual(lab.beat(50), {})
