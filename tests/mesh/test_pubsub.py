"""Pubsub on links: the adapter, over links and streams in memory."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from twisted.internet.defer import Deferred, fail
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IProtocol, IProtocolFactory
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from bzzz.errors import LinkClosed, NegotiationError, StreamReset
from bzzz.identity.keys import PrivateKey
from bzzz.identity.peer_id import PeerID
from bzzz.mesh.pubsub import SLOW, TOO_SLOW, PubSub, ValidationResult
from bzzz.net.stream import StreamAddress
from bzzz.net.turns import Turns
from bzzz.wire.framing import FrameReader, frame
from bzzz.wire.gossip_message import Message, sign
from bzzz.wire.gossip_params import GOSSIPSUB_1_1, GOSSIPSUB_1_2, PROTOCOLS, GossipParams
from bzzz.wire.gossip_peers import subscription
from bzzz.wire.identify import Identify
from bzzz.wire.multiaddr import Multiaddr
from bzzz.wire.pb import rpc_pb2

TOPIC = "bzzz/coordination/v1"


class FakeStream:
    """One end of a stream; what is written arrives at the other end in the clock's next step."""

    def __init__(self, link: FakeLink, protocol_id: str) -> None:
        self.link = link
        self.protocol_id = protocol_id
        self.protocol: IProtocol | None = None
        self.other: FakeStream | None = None
        self.blocked = False
        self.pending: list[bytes] = []
        self.lost = False

    @property
    def pending_bytes(self) -> int:
        return sum(len(data) for data in self.pending)

    def write(self, data: bytes) -> None:
        self.pending.append(data)
        if not self.blocked:
            self.unblock()

    def unblock(self) -> None:
        self.blocked = False
        data, self.pending = b"".join(self.pending), []
        if data and self.other is not None:
            self.link.clock.callLater(0, self.other.arrive, data)

    def arrive(self, data: bytes) -> None:
        if not self.lost and self.protocol is not None:
            self.protocol.dataReceived(data)

    def loseConnection(self) -> None:
        self.link.clock.callLater(0, self.end, ConnectionDone())

    def abortConnection(self) -> None:
        self.end(StreamReset("reset by this side"))

    def end(self, reason: BaseException) -> None:
        """Both ends are over."""
        for stream in (self, self.other):
            if stream is not None and not stream.lost:
                stream.lost = True
                stream.link.streams.remove(stream)
                if stream.protocol is not None:
                    stream.protocol.connectionLost(Failure(reason))


class FakeLink:
    """One end of a link between two fake swarms."""

    def __init__(self, swarm: FakeSwarm, other: FakeSwarm, is_initiator: bool) -> None:
        self.clock = swarm.clock
        self.turns = Turns(swarm.clock)
        self.swarm = swarm
        self.remote_peer = other.peer_id
        self.is_initiator = is_initiator
        self.remote_multiaddr = Multiaddr.parse("/ip4/127.0.0.1/tcp/4001")
        self.streams: list[FakeStream] = []
        self.far: FakeLink | None = None
        self.closed: str | None = None
        self.proposals: list[Sequence[str]] = []

    def open_stream(
        self, protocols: Sequence[str], factory: IProtocolFactory, optimistic: bool = False
    ) -> Deferred[IProtocol]:
        self.proposals.append(protocols)
        if self.closed is not None:
            return fail(LinkClosed("the link is closed"))
        opened: Deferred[IProtocol] = Deferred()
        self.clock.callLater(0, self._negotiate, opened, protocols, factory)
        return opened

    def _negotiate(
        self, opened: Deferred[IProtocol], protocols: Sequence[str], factory: IProtocolFactory
    ) -> None:
        far = self.far
        if opened.called:
            return
        if far is None or self.closed is not None:
            opened.errback(LinkClosed("the link is closed"))
            return
        common = [name for name in protocols if name in far.swarm.factories]
        if not common:
            opened.errback(NegotiationError("no protocol in common"))
            return
        inbound = far.accept(common[0])
        if inbound is None:
            opened.errback(StreamReset("reset by the peer"))
            return
        stream = FakeStream(self, common[0])
        stream.other, inbound.other = inbound, stream
        stream.protocol = factory.buildProtocol(StreamAddress(self, common[0]))  # type: ignore[arg-type]
        assert stream.protocol is not None
        self.streams.append(stream)
        stream.protocol.makeConnection(stream)  # type: ignore[arg-type]
        opened.callback(stream.protocol)

    def accept(self, protocol_id: str) -> FakeStream | None:
        stream = FakeStream(self, protocol_id)
        protocol = self.swarm.factories[protocol_id].buildProtocol(
            StreamAddress(self, protocol_id)  # type: ignore[arg-type]
        )
        if protocol is None:
            return None
        stream.protocol = protocol
        self.streams.append(stream)
        protocol.makeConnection(stream)  # type: ignore[arg-type]
        return stream

    def abort(self, reason: str) -> None:
        if self.closed is None:
            self.closed = reason
            self._lost(reason)
            if self.far is not None and self.far.closed is None:
                self.far.abort("connection closed")

    def _lost(self, reason: str) -> None:
        for stream in list(self.streams):
            if not stream.lost:
                stream.lost = True
                self.streams.remove(stream)
                if stream.protocol is not None:
                    stream.protocol.connectionLost(Failure(LinkClosed(reason)))
        if self.swarm.links.get(self.remote_peer) is self:
            del self.swarm.links[self.remote_peer]
            for observer in self.swarm.observers:
                observer.link_down(self, reason)


class FakeSwarm:
    """Links by peer, protocols by name, and observers."""

    def __init__(self, peer_id: PeerID, clock: Clock) -> None:
        self.peer_id = peer_id
        self.clock = clock
        self.turns = Turns(clock)
        self.links: dict[PeerID, FakeLink] = {}
        self.factories: dict[str, IProtocolFactory] = {}
        self.observers: list[Any] = []

    def handle(self, protocol_id: str, factory: IProtocolFactory, rate: object = None) -> None:
        self.factories[protocol_id] = factory

    def add_observer(self, observer: Any) -> None:
        self.observers.append(observer)

    def keep(self, link: FakeLink) -> None:
        """The link is up, and replaces what there was."""
        old = self.links.get(link.remote_peer)
        if old is not None:
            for observer in self.observers:
                observer.link_down(old, "replaced")
        self.links[link.remote_peer] = link
        for observer in self.observers:
            observer.link_up(link)


def connect(a: FakeSwarm, b: FakeSwarm) -> tuple[FakeLink, FakeLink]:
    """``a`` dials ``b``."""
    near, far = FakeLink(a, b, True), FakeLink(b, a, False)
    near.far, far.far = far, near
    a.keep(near)
    b.keep(far)
    return near, far


class Node:
    """A swarm with pubsub, and what its application saw."""

    def __init__(self, number: int, clock: Clock, params: GossipParams | None = None) -> None:
        self.key = PrivateKey.from_seed(number.to_bytes(32, "big"))
        self.id = self.key.peer_id
        self.swarm = FakeSwarm(self.id, clock)
        self.pubsub = PubSub(
            self.swarm,  # type: ignore[arg-type]
            self.key,
            clock,
            random.Random(number),
            params or GossipParams(),
            1,
        )
        self.result = ValidationResult.ACCEPT
        self.judged: list[bytes] = []
        self.got: list[bytes] = []
        self.senders: list[PeerID] = []
        self.subscribers: list[tuple[PeerID, str]] = []
        self.pubsub.on_peer_subscribed(lambda peer, topic: self.subscribers.append((peer, topic)))

    def validate(self, message: Message, sender: PeerID) -> ValidationResult:
        self.judged.append(message.data)
        return self.result

    def on_message(self, message: Message, sender: PeerID) -> None:
        self.got.append(message.data)
        self.senders.append(sender)

    def join(self) -> None:
        self.pubsub.subscribe(TOPIC, self.validate, self.on_message)
        self.pubsub.start()


class RawPeer(Node):
    """A peer without pubsub of its own: the test writes and reads its streams."""

    def __init__(self, number: int, clock: Clock, protocol_id: str = GOSSIPSUB_1_2) -> None:
        super().__init__(number, clock)
        self.swarm = FakeSwarm(self.id, clock)
        self.opened: list[RawProtocol] = []
        self.factory = RawFactory(self.opened)
        self.swarm.handle(protocol_id, self.factory)

    @property
    def received(self) -> rpc_pb2.RPC:
        """All RPCs that came, merged."""
        merged = rpc_pb2.RPC()
        for protocol in self.opened:
            for rpc in protocol.rpcs:
                merged.MergeFromString(rpc)
        return merged


class RawFactory(Factory):
    """Makes raw protocols, and keeps them."""

    noisy = False

    def __init__(self, made: list[RawProtocol]) -> None:
        self.made = made

    def buildProtocol(self, addr: Any) -> RawProtocol:
        protocol = RawProtocol()
        self.made.append(protocol)
        return protocol


class RawProtocol(Protocol):
    """Keeps RPCs."""

    transport: Any

    def __init__(self) -> None:
        self.reader = FrameReader(1 << 20)
        self.rpcs: list[bytes] = []
        self.reason: Failure | None = None

    def dataReceived(self, data: bytes) -> None:
        self.rpcs.extend(self.reader.receive(data))

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.reason = reason


class PubSubTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()

    def turn(self, turns: int = 20) -> None:
        """Let the reactor run, without time passing."""
        for _ in range(turns):
            self.clock.advance(0)

    def wait(self, seconds: int) -> None:
        for _ in range(seconds * 2):
            self.clock.advance(0.5)
            self.turn(10)

    def nodes(self, count: int, params: GossipParams | None = None) -> list[Node]:
        nodes = [Node(number + 1, self.clock, params) for number in range(count)]
        for node in nodes:
            node.join()
        return nodes

    def pair(self) -> tuple[Node, Node]:
        a, b = self.nodes(2)
        connect(a.swarm, b.swarm)
        self.turn()
        return a, b

    def with_raw_peer(self) -> tuple[Node, RawPeer, FakeLink]:
        """A node, a raw peer in the topic, and the raw peer's link."""
        node, raw = Node(1, self.clock), RawPeer(2, self.clock)
        node.join()
        _, far = connect(node.swarm, raw.swarm)
        self.turn()
        return node, raw, far

    def open_raw(self, link: FakeLink, protocol_id: str = GOSSIPSUB_1_2) -> RawProtocol:
        """The raw peer opens a stream."""
        made: list[RawProtocol] = []
        failures: list[Failure] = []
        link.open_stream([protocol_id], RawFactory(made)).addErrback(failures.append)
        self.turn()
        self.assertEqual(failures, [])
        return made[0]


class MessageTests(PubSubTestCase):
    """What is published arrives."""

    def test_publish(self) -> None:
        """Two nodes that are linked hear each other's messages, and not their own."""
        a, b = self.pair()
        a.pubsub.publish(TOPIC, b"to b")
        b.pubsub.publish(TOPIC, b"to a")
        self.turn()
        self.assertEqual((a.got, b.got), ([b"to a"], [b"to b"]))
        self.assertEqual(a.senders, [b.id])

    def test_without_time(self) -> None:
        """Subscriptions are exchanged and meshes made as soon as a link is up."""
        a, b = self.pair()
        self.assertEqual(self.clock.seconds(), 0)
        self.assertEqual(a.subscribers, [(b.id, TOPIC)])
        self.assertEqual(a.pubsub.mesh_peers(TOPIC), (b.id,))
        self.assertEqual(b.pubsub.mesh_peers(TOPIC), (a.id,))
        self.assertEqual(a.pubsub.topic_peers(TOPIC), (b.id,))

    def test_forwarding(self) -> None:
        """A message goes on to peers of peers, once it is accepted."""
        a, b, c = self.nodes(3)
        connect(a.swarm, b.swarm)
        connect(b.swarm, c.swarm)
        self.turn()
        a.pubsub.publish(TOPIC, b"hello")
        self.turn()
        self.assertEqual(c.got, [b"hello"])
        self.assertEqual(c.senders, [b.id])

    def test_ignored(self) -> None:
        """What the validator ignores is neither delivered nor forwarded, and blames nobody."""
        a, b, c = self.nodes(3)
        connect(a.swarm, b.swarm)
        connect(b.swarm, c.swarm)
        self.turn()
        b.result = ValidationResult.IGNORE
        for number in range(20):
            a.pubsub.publish(TOPIC, b"%d" % number)
        self.wait(3)
        self.assertEqual((len(b.judged), b.got, c.got), (20, [], []))
        self.assertGreaterEqual(b.pubsub.scores()[a.id].total, 0)
        self.assertEqual(b.pubsub.stats["validation_ignore"], 20)

    def test_author_not_admitted(self) -> None:
        """What somebody wrote who is not admitted is neither judged, delivered nor forwarded."""
        a, b, c = self.nodes(3)
        connect(a.swarm, b.swarm)
        connect(b.swarm, c.swarm)
        self.turn()
        b.pubsub._admits = lambda peer: peer != a.id
        for number in range(20):
            a.pubsub.publish(TOPIC, b"%d" % number)
        self.wait(3)
        self.assertEqual((b.judged, b.got, c.got), ([], [], []))
        self.assertGreaterEqual(b.pubsub.scores()[a.id].total, 0)
        self.assertGreaterEqual(b.pubsub.stats["author_not_admitted"], 20)

    def test_author_admitted_later(self) -> None:
        """A message that came before its author was admitted counts when it comes again."""
        a, b = self.pair()
        b.pubsub._admits = lambda peer: False
        message = a.pubsub.publish(TOPIC, b"early")
        self.turn()
        self.assertEqual(b.got, [])
        b.pubsub._admits = lambda peer: True
        a.pubsub.send_directly(b.id, message)
        self.turn()
        self.assertEqual(b.got, [b"early"])

    def test_rejected(self) -> None:
        """Whose messages the validator rejects again and again loses the link."""
        a, b = self.pair()
        b.result = ValidationResult.REJECT
        for number in range(5):
            a.pubsub.publish(TOPIC, b"%d" % number)
        self.wait(2)
        self.assertEqual((b.got, b.swarm.links), ([], {}))
        self.assertEqual(b.pubsub.stats["dropped_invalid"], 1)
        self.assertEqual(b.pubsub.core.peers, ())

    def test_validator_fails(self) -> None:
        """A bug in a validator is logged, and the message ignored."""
        a, b = self.pair()

        def broken(message: Message, sender: PeerID) -> ValidationResult:
            raise RuntimeError("bug")

        b.pubsub.subscribe(TOPIC, broken, b.on_message)
        a.pubsub.publish(TOPIC, b"hello")
        self.turn()
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)
        self.assertEqual(b.got, [])
        self.assertEqual(b.pubsub.stats["validator_failed"], 1)
        self.assertIn(a.id, b.swarm.links)

    def test_callbacks_fail(self) -> None:
        """A bug in a callback is logged, and costs neither the link nor what else arrived."""
        a, b = self.nodes(2)

        def broken(*_: object) -> None:
            raise RuntimeError("bug")

        b.pubsub.on_peer_subscribed(broken)
        b.pubsub.subscribe(TOPIC, b.validate, broken)
        connect(a.swarm, b.swarm)
        self.turn()
        a.pubsub.publish(TOPIC, b"one")
        a.pubsub.publish(TOPIC, b"two")
        self.turn()
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 3)
        self.assertEqual(b.judged, [b"one", b"two"])
        self.assertIn(a.id, b.swarm.links)

    def test_send_directly(self) -> None:
        """The state published before a link came up can be sent to the new peer at once."""
        a, b = self.nodes(2)
        state = a.pubsub.publish(TOPIC, b"state")
        a.pubsub.on_peer_subscribed(lambda peer, topic: a.pubsub.send_directly(peer, state))
        connect(a.swarm, b.swarm)
        self.turn()
        self.assertEqual(b.got, [b"state"])
        self.assertEqual(self.clock.seconds(), 0)

    def test_one_turn_one_write(self) -> None:
        """Messages published in one turn of the reactor go to a peer in one write and one RPC."""
        node, raw, far = self.with_raw_peer()
        inbound = self.open_raw(far)
        inbound.transport.write(frame(subscription(TOPIC, True)))
        self.turn()
        before = len(raw.opened[0].rpcs)
        for number in range(10):
            node.pubsub.publish(TOPIC, b"%d" % number)
        self.turn()
        self.assertEqual(len(raw.opened[0].rpcs), before + 1)
        self.assertEqual(len(raw.received.publish), 10)

    def test_unsubscribe(self) -> None:
        """After leaving, nothing comes and the peers know."""
        a, b = self.pair()
        b.pubsub.unsubscribe(TOPIC)
        self.turn()
        self.assertEqual(a.pubsub.topic_peers(TOPIC), ())
        a.pubsub.publish(TOPIC, b"hello")
        self.turn()
        self.assertEqual(b.got, [])

    def test_lost_message_is_recovered(self) -> None:
        """A peer that was not yet linked when a message was sent hears of it from the heartbeat."""
        a, b = self.nodes(2, GossipParams(d=0, d_low=0, d_high=0, d_out=0, d_score=0))
        a.pubsub.publish(TOPIC, b"early")
        connect(a.swarm, b.swarm)
        self.turn()
        self.assertEqual(b.got, [])
        self.wait(2)
        self.assertEqual(b.got, [b"early"])


class LinkTests(PubSubTestCase):
    """Links come, go, and are replaced."""

    def test_link_down(self) -> None:
        """A peer whose link is gone is forgotten."""
        a, b = self.pair()
        a.swarm.links[b.id].abort("test")
        self.assertEqual((a.pubsub.core.peers, b.pubsub.core.peers), ((), ()))
        self.wait(3)
        self.assertEqual(a.pubsub.mesh_peers(TOPIC), ())

    def test_link_replaced(self) -> None:
        """When another link replaces a peer's, the peer is in the topic and the mesh as before."""
        a, b = self.pair()
        old = a.swarm.links[b.id]
        connect(b.swarm, a.swarm)
        self.turn()
        self.assertEqual(a.pubsub.mesh_peers(TOPIC), (b.id,))
        self.assertEqual(b.pubsub.topic_peers(TOPIC), (a.id,))
        self.assertEqual(a.subscribers, [(b.id, TOPIC)] * 2)
        old.abort("another link to the peer is kept")
        a.pubsub.publish(TOPIC, b"to b")
        b.pubsub.publish(TOPIC, b"to a")
        self.turn()
        self.assertEqual((a.got, b.got), ([b"to a"], [b"to b"]))

    def test_last_words_of_a_replaced_link(self) -> None:
        """What was on its way over the replaced link is still read."""
        a, b = self.pair()
        a.pubsub.publish(TOPIC, b"on its way")
        self.clock.advance(0)  # written, not arrived
        old_links = (a.swarm.links[b.id], b.swarm.links[a.id])
        connect(a.swarm, b.swarm)
        self.turn()
        self.assertEqual(b.got, [b"on its way"])
        for link in old_links:
            link.abort("another link to the peer is kept")
        self.assertIn(a.id, b.pubsub.core.peers)

    def test_started_later(self) -> None:
        """Links that are there when pubsub starts are used."""
        a, b = Node(1, self.clock), Node(2, self.clock)
        connect(a.swarm, b.swarm)
        a.join()
        self.turn()
        b.join()
        self.wait(2)
        self.assertEqual(a.pubsub.mesh_peers(TOPIC), (b.id,))

    def test_stop(self) -> None:
        """After stopping nothing is sent, nothing is left on the clock, and links stay up."""
        a, b = self.pair()
        b.pubsub.stop()
        a.pubsub.publish(TOPIC, b"last words")
        a.pubsub.stop()
        self.turn()
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertIn(b.id, a.swarm.links)
        connect(a.swarm, b.swarm)
        self.turn()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_stop_while_opening(self) -> None:
        """Stopping, or losing the link, while a stream is being opened leaves nothing behind."""
        a, b = self.nodes(2)
        near, _ = connect(a.swarm, b.swarm)
        a.pubsub.stop()
        b.pubsub.stop()
        self.turn()
        self.assertEqual((self.clock.getDelayedCalls(), near.streams), ([], []))
        a.join()
        near.abort("test")
        self.turn()
        a.pubsub.stop()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_start_again(self) -> None:
        """Pubsub can be started after it was stopped; starting twice is starting once."""
        a, b = self.pair()
        a.pubsub.stop()
        a.pubsub.stop()
        self.wait(1)
        a.pubsub.start()
        a.pubsub.start()
        self.wait(2)
        a.pubsub.publish(TOPIC, b"again")
        b.pubsub.publish(TOPIC, b"too")
        self.turn()
        self.assertEqual((a.got, b.got), ([b"too"], [b"again"]))

    def test_last_words(self) -> None:
        """What was published in the turn in which pubsub stops is sent."""
        a, b = self.pair()
        a.pubsub.publish(TOPIC, b"goodbye")
        a.pubsub.stop()
        self.turn()
        self.assertEqual(b.got, [b"goodbye"])


class StreamTests(PubSubTestCase):
    """One stream each way."""

    def test_proposal(self) -> None:
        """The outbound stream is offered the protocols, best first."""
        a, b = self.pair()
        self.assertEqual(a.swarm.links[b.id].proposals, [PROTOCOLS])

    def test_older_protocol(self) -> None:
        """A peer that speaks 1.1 only is spoken to in that."""
        node, raw = Node(1, self.clock), RawPeer(2, self.clock, GOSSIPSUB_1_1)
        node.join()
        connect(node.swarm, raw.swarm)
        self.turn()
        self.assertEqual(raw.opened[0].transport.protocol_id, GOSSIPSUB_1_1)
        self.assertEqual([s.topicid for s in raw.received.subscriptions], [TOPIC])

    def test_peer_without_pubsub(self) -> None:
        """A peer that refuses is asked again ever more rarely, at most once a minute."""
        node, other = Node(1, self.clock), FakeSwarm(Node(2, self.clock).id, self.clock)
        node.join()
        near, _ = connect(node.swarm, other)
        self.wait(60)
        self.assertEqual(len(near.proposals), 6)
        self.wait(600)
        self.assertLessEqual(len(near.proposals), 17)
        near.abort("test")
        self.turn()
        node.pubsub.stop()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_identify_ends_the_asking(self) -> None:
        """Identify without pubsub ends the asking; with it, the stream is opened at once."""
        node, raw = Node(1, self.clock), RawPeer(2, self.clock)
        raw.swarm.factories.clear()
        node.join()
        near, _ = connect(node.swarm, raw.swarm)
        self.turn()
        node.pubsub.identified(near, self.identify())  # type: ignore[arg-type]
        self.wait(600)
        self.assertEqual(len(near.proposals), 1)
        raw.swarm.handle(GOSSIPSUB_1_2, raw.factory)
        node.pubsub.identified(near, self.identify(GOSSIPSUB_1_2))  # type: ignore[arg-type]
        self.turn()
        self.assertEqual(len(raw.opened), 1)
        node.pubsub.identified(near, self.identify(GOSSIPSUB_1_2))  # type: ignore[arg-type]
        self.turn()
        self.assertEqual(len(raw.opened), 1)

    def identify(self, *protocols: str) -> Identify:
        return Identify("", "", None, (), None, protocols)

    def test_stream_reset(self) -> None:
        """A stream that the peer resets is opened again, and told the subscriptions again."""
        a, b = self.pair()
        outbound = next(
            s for s in a.swarm.links[b.id].streams if type(s.protocol).__name__ == "_Outbound"
        )
        outbound.end(StreamReset("reset by the peer"))
        self.assertEqual(a.pubsub.mesh_peers(TOPIC), ())
        self.assertEqual(a.pubsub.topic_peers(TOPIC), (b.id,))
        self.wait(3)
        self.assertEqual(a.pubsub.mesh_peers(TOPIC), (b.id,))
        a.pubsub.publish(TOPIC, b"again")
        self.turn()
        self.assertEqual(b.got, [b"again"])

    def test_newest_inbound_stream(self) -> None:
        """Of a link's inbound streams only the newest is read."""
        node, raw, far = self.with_raw_peer()
        first = self.open_raw(far)
        second = self.open_raw(far)
        self.assertIsNotNone(first.reason)
        self.assertIsNone(second.reason)
        second.transport.write(frame(subscription(TOPIC, True)))
        self.turn()
        self.assertEqual(node.pubsub.topic_peers(TOPIC), (raw.id,))
        self.assertEqual(len(node.pubsub._inbounds), 1)

    def test_inbound_first(self) -> None:
        """What a peer sends before the stream to it is open counts."""
        node, raw = Node(1, self.clock), RawPeer(2, self.clock)
        raw.swarm.factories.clear()
        node.join()
        _, far = connect(node.swarm, raw.swarm)
        inbound = self.open_raw(far)
        inbound.transport.write(
            frame(subscription(TOPIC, True)) + frame(sign(raw.key, TOPIC, b"early", 1).encoded)
        )
        self.turn()
        self.assertEqual(node.got, [b"early"])
        node.pubsub.publish(TOPIC, b"answer")
        raw.swarm.handle(GOSSIPSUB_1_2, raw.factory)
        self.wait(4)
        self.assertEqual([m.data for m in raw.received.publish], [b"answer"])
        self.assertEqual(node.pubsub.mesh_peers(TOPIC), (raw.id,))

    def test_unknown_peer(self) -> None:
        """A stream of a peer that pubsub does not know is refused."""
        node, raw = Node(1, self.clock), RawPeer(2, self.clock)
        node.pubsub.subscribe(TOPIC, node.validate, node.on_message)
        _, far = connect(node.swarm, raw.swarm)
        failures: list[Failure] = []
        far.open_stream([GOSSIPSUB_1_2], raw.factory).addErrback(failures.append)
        self.turn()
        self.assertEqual([type(f.value) for f in failures], [StreamReset])


class OffenceTests(PubSubTestCase):
    """Bad input costs the peer its link, never the node."""

    def offend(self, data: bytes) -> tuple[Node, str | None]:
        node, raw, far = self.with_raw_peer()
        near = node.swarm.links[raw.id]
        inbound = self.open_raw(far)
        inbound.transport.write(data)
        self.turn()
        return node, near.closed

    def test_garbage(self) -> None:
        """An RPC that cannot be decoded."""
        node, reason = self.offend(frame(b"\xff\xff\xff"))
        self.assertIn("rpc_invalid", reason or "")
        self.assertEqual(node.pubsub.stats["offence_rpc_invalid"], 1)
        self.assertEqual(node.pubsub.core.peers, ())

    def test_too_long(self) -> None:
        """The announcement of an RPC that is too long."""
        _, reason = self.offend(b"\xff\xff\xff\x7f")
        self.assertIn("message_too_long", reason or "")

    def test_data_the_wrong_way(self) -> None:
        """Data on the stream that the node opened."""
        node, raw, _ = self.with_raw_peer()
        near = node.swarm.links[raw.id]
        raw.opened[0].transport.write(b"hello")
        self.turn()
        self.assertIn("wrong_way", near.closed or "")

    def test_after_the_offence(self) -> None:
        """What follows the offending RPC is not read."""
        message = sign(Node(2, self.clock).key, TOPIC, b"after", 1)
        node, reason = self.offend(frame(b"\xff\xff\xff") + frame(message.encoded))
        self.assertIsNotNone(reason)
        self.assertEqual(node.got, [])

    def test_slow_reader(self) -> None:
        """A peer that reads nothing is sent no gossip, then loses its link."""
        node, raw, far = self.with_raw_peer()
        near = node.swarm.links[raw.id]
        self.open_raw(far).transport.write(frame(subscription(TOPIC, True)))
        self.turn()
        outbound = raw.opened[0].transport.other
        outbound.blocked = True
        sent = 0
        while sent <= SLOW:
            node.pubsub.publish(TOPIC, bytes(60_000))
            sent += 60_000
            self.turn()
        self.assertEqual(node.pubsub.stats["slow"], 1)
        self.assertIsNone(near.closed)
        while sent <= TOO_SLOW:
            node.pubsub.publish(TOPIC, bytes(60_000))
            sent += 60_000
            self.turn()
        self.assertIn("too slowly", near.closed or "")
        self.assertEqual(node.pubsub.stats["dropped_slow"], 1)

    def test_slow_reader_recovers(self) -> None:
        """A peer that reads again gets gossip again."""
        node, raw, far = self.with_raw_peer()
        self.open_raw(far).transport.write(frame(subscription(TOPIC, True)))
        self.turn()
        outbound = raw.opened[0].transport.other
        outbound.blocked = True
        for _ in range(10):
            node.pubsub.publish(TOPIC, bytes(60_000))
            self.turn()
        peer = node.pubsub.core._peers.by_id[raw.id]
        self.assertTrue(peer.congested)
        outbound.unblock()
        self.wait(2)
        self.assertFalse(peer.congested)
        self.assertEqual(len(raw.received.publish), 10)
