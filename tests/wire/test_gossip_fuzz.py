"""Whatever peers send to the gossipsub core."""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from bzzz.errors import RemoteProtocolError
from bzzz.wire.gossip_message import sign
from bzzz.wire.gossip_params import PROTOCOLS, GossipParams
from bzzz.wire.gossipsub import MessageReceived
from bzzz.wire.pb import rpc_pb2
from tests.wire.gossip_network import TOPIC, Lab, key_of

TIGHT = GossipParams(
    max_topics_per_peer=5,
    max_seen=20,
    max_cache_bytes=2000,
    max_pending=4,
    max_backoffs=4,
    max_asked=10,
    max_ihave_length=8,
    max_ihave_messages=3,
    max_idontwant_messages=6,
    max_held_bytes=1000,
    max_origins=2,
)

# Few values, so that what is sent has to do with what was sent before.
TOPICS = st.sampled_from([TOPIC, "other", "a", "b", "c", "d", "e", ""])
SIGNED = [sign(key_of(40 + number % 3), TOPIC, b"%d" % number, number) for number in range(30)]
IDS = st.one_of(st.sampled_from([message.id for message in SIGNED]), st.binary(max_size=300))


@st.composite
def rpcs(draw: Any) -> bytes:
    """A well-formed RPC, of any sense."""
    rpc = rpc_pb2.RPC()
    for topic, subscribe in draw(st.lists(st.tuples(TOPICS, st.booleans()), max_size=8)):
        rpc.subscriptions.add(subscribe=subscribe, topicid=topic)
    for message in draw(st.lists(st.sampled_from(SIGNED), max_size=5)):
        rpc.MergeFromString(message.encoded)
    for fields in draw(
        st.lists(
            st.fixed_dictionaries(
                {},
                optional={
                    "from": st.binary(max_size=40),
                    "data": st.binary(max_size=40),
                    "seqno": st.binary(max_size=9),
                    "topic": TOPICS,
                    "signature": st.binary(max_size=64),
                    "key": st.binary(max_size=40),
                },
            ),
            max_size=3,
        )
    ):
        wire = rpc.publish.add()
        for name, value in fields.items():
            setattr(wire, name, value)
    ids = st.lists(IDS, max_size=12)
    for topic, some in draw(st.lists(st.tuples(TOPICS, ids), max_size=5)):
        rpc.control.ihave.add(topicID=topic, messageIDs=some)
    for some in draw(st.lists(ids, max_size=3)):
        rpc.control.iwant.add(messageIDs=some)
    for topic in draw(st.lists(TOPICS, max_size=3)):
        rpc.control.graft.add(topicID=topic)
    for topic, backoff in draw(st.lists(st.tuples(TOPICS, st.integers(0, 2**64 - 1)), max_size=3)):
        rpc.control.prune.add(topicID=topic, backoff=backoff).peers.add(peerID=b"x")
    for some in draw(st.lists(ids, max_size=3)):
        rpc.control.idontwant.add(messageIDs=some)
    encoded: bytes = rpc.SerializeToString()
    return encoded


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("rpc"), st.integers(0, 5), rpcs()),
        st.tuples(st.just("beat"), st.integers(1, 5), st.none()),
        st.tuples(st.just("publish"), st.just(0), TOPICS.filter(bool)),
        st.tuples(st.just("join"), st.just(0), TOPICS.filter(bool)),
        st.tuples(st.just("leave"), st.just(0), TOPICS.filter(bool)),
        st.tuples(st.just("verdict"), st.integers(0, 2), st.none()),
        st.tuples(st.just("gone"), st.integers(0, 5), st.none()),
        st.tuples(st.just("lost"), st.integers(0, 5), st.none()),
        st.tuples(st.just("back"), st.integers(0, 5), st.sampled_from(PROTOCOLS)),
        st.tuples(st.just("take"), st.just(0), st.none()),
    ),
    max_size=40,
)


class FuzzTests(SynchronousTestCase):
    """Nothing that a peer sends does more than cost it its link."""

    @settings(max_examples=300, deadline=None)
    @given(st.binary(max_size=200))
    def test_any_bytes(self, data: bytes) -> None:
        """Any bytes are an RPC or a protocol error."""
        lab = Lab(3)
        try:
            lab.core.receive_rpc(lab.ids[0], data, 0.0)
        except RemoteProtocolError:
            pass
        lab.beat(2)

    @settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(rpcs(), st.data())
    def test_any_damage(self, rpc: bytes, data: st.DataObject) -> None:
        """So is an RPC with a byte changed."""
        lab = Lab(3)
        damaged = bytearray(rpc)
        if damaged:
            place = data.draw(st.integers(0, len(damaged) - 1))
            damaged[place] = data.draw(st.integers(0, 255))
        try:
            lab.core.receive_rpc(lab.ids[0], bytes(damaged), 0.0)
        except RemoteProtocolError:
            pass
        lab.beat(2)

    @settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(STEPS)
    def test_any_history(self, steps: list[tuple[str, int, Any]]) -> None:
        """After any RPCs, in any order with all else that happens, every table keeps its limit."""
        lab = Lab(4, TIGHT)
        lab.ids += [key_of(200).peer_id, key_of(201).peer_id]
        core = lab.core
        pending: list[bytes] = []
        for what, number, value in steps:
            if what == "rpc":
                events = core.receive_rpc(lab.ids[number], value, lab.now)
                pending += [e.message.id for e in events if isinstance(e, MessageReceived)]
            elif what == "beat":
                lab.beat(number)
            elif what == "publish":
                core.publish(value, b"x", lab.now)
            elif what == "join":
                core.subscribe(value, lab.now)
            elif what == "leave":
                core.unsubscribe(value, lab.now)
            elif what == "verdict" and pending:
                message_id = pending.pop()
                if number == 0:
                    core.accept(message_id, lab.now)
                elif number == 1:
                    core.ignore(message_id)
                else:
                    core.reject(message_id)
            elif what == "gone":
                core.remove_peer(lab.ids[number], lab.now)
            elif what == "lost":
                core.stream_lost(lab.ids[number])
            elif what == "back":
                core.add_peer(
                    lab.ids[number], value, outbound=bool(number % 2), address=None, now=lab.now
                )
            elif what == "take":
                lab.sent()
            self.check(lab)
        lab.beat(10)
        self.check(lab)

    def check(self, lab: Lab) -> None:
        """Every table is within its limit, and they agree with each other."""
        core, params = lab.core, lab.core.params
        sizes = core.sizes()
        self.assertLessEqual(sizes["peers"], len(lab.ids))
        self.assertLessEqual(sizes["seen"], params.max_seen)
        self.assertLessEqual(sizes["cached_bytes"], params.max_cache_bytes)
        self.assertLessEqual(sizes["pending"], params.max_pending)
        self.assertLessEqual(sizes["promises"], params.max_asked * 8)
        peers = core._peers
        self.assertLessEqual(len(core._meshes._backoffs), params.max_backoffs)
        self.assertLessEqual(len(core._lazy._asked), params.max_asked)
        self.assertLessEqual(len(core._authors._known), params.max_origins)
        for peer in peers.by_id.values():
            self.assertLessEqual(len(peer.topics), params.max_topics_per_peer)
            self.assertLessEqual(len(peer.dont_send), params.max_idontwant_messages * 4)
            if not peer.writable:
                self.assertLessEqual(sum(map(len, peer.chunks)), params.max_held_bytes)
                self.assertIsNone(peer.control)
            for topic in peer.topics:
                self.assertIs(peers.by_topic[topic][peer.peer_id], peer)
        for topic, members in peers.by_topic.items():
            self.assertTrue(members, topic)
        self.assertEqual(tuple(core._meshes.meshes), core.topics)
        for topic in core.topics:
            for peer_id in core.mesh_peers(topic):
                self.assertTrue(peers.by_id[peer_id].meshes)
