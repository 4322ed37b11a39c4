"""Gossipsub 1.1 with IDONTWANT of 1.2, for peers of 1.0 and floodsub too: the core.

Enters: peers, RPCs of peers, topics to be in, data to publish, the results of validation, and
heartbeats. Leaves: events, and RPCs for peers (:meth:`Gossipsub.take_rpcs`). libp2p specs:
pubsub/README.md, pubsub/gossipsub/gossipsub-v1.0.md, -v1.1.md, -v1.2.md.

The way of a received message, cheapest step first: a topic that this node is not in, an ID seen
before, StrictSign; then the application validates it, and only what it accepts is forwarded.
Time is an argument everywhere, in seconds of any monotonic clock.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from google.protobuf.message import DecodeError

from bzzz.errors import LimitExceeded, LocalProtocolError, RemoteProtocolError
from bzzz.identity.keys import PrivateKey
from bzzz.identity.peer_id import PeerID
from bzzz.wire.gossip_cache import MessageCache, SeenCache
from bzzz.wire.gossip_events import (
    GossipEvent,
    MessageReceived,
    MessageRejected,
    PeerSubscribed,
    PeerUnsubscribed,
)
from bzzz.wire.gossip_lazy import LazyGossip
from bzzz.wire.gossip_mesh import Meshes
from bzzz.wire.gossip_message import Authors, Message, sign
from bzzz.wire.gossip_params import PROTOCOLS, GossipParams, Randomness
from bzzz.wire.gossip_peers import Peer, Peers, subscription
from bzzz.wire.gossip_postponed import Postponed
from bzzz.wire.gossip_score import PeerScores, ScoreParts
from bzzz.wire.pb import rpc_pb2

__all__ = [
    "PROTOCOLS",
    "GossipEvent",
    "Gossipsub",
    "Message",
    "MessageReceived",
    "MessageRejected",
    "PeerSubscribed",
    "PeerUnsubscribed",
]

# Rejections that whoever forwards a message cannot see coming: it is of a kind that this node
# does not support. They do not count against the sender.
BLAMELESS = frozenset({"key_unsupported"})


@dataclass(slots=True)
class _Pending:
    """A message being validated.

    :ivar also: who sent it too meanwhile.
    """

    message: Message
    sender: PeerID
    also: dict[PeerID, None]


class Gossipsub:
    """One node's pubsub, without its network.

    :param key: signs what this node publishes.
    :param first_seqno: the sequence number of the first message published. No later run of the
        node may use a number again, so it is taken from a clock (nanoseconds, as in Go) or a file.
    :ivar counts: how many ``messages`` and ``duplicates`` came, and were ``published`` and
        ``forwarded``.
    :ivar ignored: what of a peer was not done, by reason.
    """

    def __init__(
        self, key: PrivateKey, params: GossipParams, random: Randomness, first_seqno: int
    ) -> None:
        self.params = params
        self.counts: Counter[str] = Counter()
        self.ignored: Counter[str] = Counter()
        self._key = key
        self._own_id = key.peer_id
        self._own_bytes = key.peer_id.bytes
        self._seqno = first_seqno
        self._tick = 0
        self._newcomer = 0
        self._subscriptions: dict[str, None] = {}
        self._pending: dict[bytes, _Pending] = {}
        self._authors = Authors(params.max_origins)
        self._seen = SeenCache(params.seen_ttl, params.max_seen)
        self._cache = MessageCache(
            params.history_length, params.history_gossip, params.max_cache_bytes
        )
        self._postponed = Postponed(params)
        self._scores = PeerScores(params.score)
        self._peers = Peers(params, self.ignored)
        self._meshes = Meshes(params, self._peers, self._scores, random, self.ignored)
        self._lazy = LazyGossip(
            params,
            self._peers,
            self._scores,
            self._seen,
            self._cache,
            random=random,
            ignored=self.ignored,
        )

    # -- peers

    def add_peer(
        self, peer_id: PeerID, protocol: str, *, outbound: bool, address: str | None, now: float
    ) -> None:
        """A stream to the peer is open, over which RPCs can be sent.

        A known peer keeps its subscriptions: its stream was lost and is open again, or it sent
        something before this node's stream was open.

        :param protocol: what was agreed on, of :data:`PROTOCOLS`.
        :param outbound: whether this node dialled the peer.
        :param address: the peer's IP address, for the colocation score.
        """
        if protocol not in PROTOCOLS:
            raise LocalProtocolError(f"{protocol} is no pubsub protocol")
        if peer_id == self._own_id:
            raise LocalProtocolError("a node is not its own peer")
        self.stream_lost(peer_id)  # of the stream before, if there is one still
        if peer_id not in self._peers.by_id:
            self._newcomer = self._tick
        peer = self._peers.opened(peer_id, protocol, outbound)
        self._scores.add_peer(peer_id, address)
        self._peers.greet(peer, self._subscriptions)
        self._meshes.peer_ready(peer, now)

    def stream_lost(self, peer_id: PeerID) -> None:
        """The stream to the peer is gone, but its link is not: send it nothing for now."""
        peer = self._peers.by_id.get(peer_id)
        if peer is not None and peer.writable:
            self._meshes.remove_peer(peer)
            self._lazy.remove_peer(peer)
            self._peers.closed(peer)

    def remove_peer(self, peer_id: PeerID, now: float) -> None:
        """The peer is gone; its score is kept for a while."""
        peer = self._peers.by_id.get(peer_id)
        if peer is not None:
            self._meshes.remove_peer(peer)
            self._lazy.remove_peer(peer)
            self._peers.remove(peer)
        self._scores.remove_peer(peer_id, now)

    def set_congested(self, peer_id: PeerID, congested: bool) -> None:
        """Whether the peer takes what it is sent too slowly; then gossip to it is left out."""
        peer = self._peers.by_id.get(peer_id)
        if peer is not None:
            peer.congested = congested

    def set_application_score(self, peer_id: PeerID, value: float) -> None:
        """What the application thinks of the peer; negative is bad (P5)."""
        self._scores.set_application_score(peer_id, value)

    # -- topics and messages of this node

    def subscribe(self, topic: str, now: float) -> None:
        """Be in the topic: receive its messages and forward them."""
        if not topic or len(topic.encode()) > self.params.max_topic_length:
            raise LocalProtocolError(
                f"a topic's name has 1 to {self.params.max_topic_length} bytes, not {topic!r}"
            )
        if topic in self._subscriptions:
            return
        self._subscriptions[topic] = None
        self._announce(subscription(topic, True))
        self._meshes.join(topic, now)

    def unsubscribe(self, topic: str, now: float) -> None:
        """Leave the topic."""
        if topic not in self._subscriptions:
            return
        del self._subscriptions[topic]
        self._announce(subscription(topic, False))
        self._meshes.leave(topic, now)
        for message_id in [k for k, v in self._pending.items() if v.message.topic == topic]:
            del self._pending[message_id]

    def publish(self, topic: str, data: bytes, now: float) -> Message:
        """Sign and send a message. It does not come back as an event.

        :raises LocalProtocolError: it is larger than ``max_message_size``.
        """
        if len(data) > self.params.max_message_size:
            raise LocalProtocolError(
                f"a message has at most {self.params.max_message_size} bytes, not {len(data)}"
            )
        message = sign(self._key, topic, data, self._seqno)
        self._seqno += 1
        self._seen.add(message.id, now)
        self._cache.put(message.sendable())
        self.counts["published"] += 1
        for peer in self._recipients(topic, now):
            self._peers.send(peer, message.encoded)
        return message

    def send_directly(self, peer_id: PeerID, message: Message) -> None:
        """Send one peer a message published before, for example to one that came later."""
        peer = self._peers.by_id.get(peer_id)
        if peer is not None:
            self._peers.send(peer, message.encoded)

    def _recipients(self, topic: str, now: float) -> list[Peer]:
        """Who gets what this node publishes."""
        threshold = self.params.score.publish_threshold
        scores = self._scores
        in_topic = self._peers.in_topic(topic)
        mesh = self._meshes.meshes.get(topic)
        if self.params.flood_publish:
            targets = in_topic
        else:
            targets = dict(self._meshes.fanout(topic, now) if mesh is None else mesh)
            for peer_id, peer in self._peers.flooding.items():
                if topic in peer.topics:
                    targets[peer_id] = peer
        return [peer for peer_id, peer in targets.items() if not scores.below(peer_id, threshold)]

    def _announce(self, chunk: bytes) -> None:
        for peer in self._peers.by_id.values():
            if peer.writable:
                self._peers.send(peer, chunk)

    # -- received

    def receive_rpc(self, peer_id: PeerID, data: bytes, now: float) -> list[GossipEvent]:
        """The peer sent an RPC.

        :raises RemoteProtocolError: it is none, or too long; the link is to be closed.
        """
        if len(data) > self.params.max_rpc_size:
            raise LimitExceeded(
                f"an RPC of {len(data)} bytes is longer than {self.params.max_rpc_size}",
                "rpc_too_long",
            )
        if self._scores.below(peer_id, self.params.score.graylist_threshold):
            self.ignored["rpc_graylisted"] += 1
            return []
        try:
            rpc = rpc_pb2.RPC.FromString(data)
        except (DecodeError, ValueError) as error:
            raise RemoteProtocolError(
                f"an RPC cannot be decoded: {error}", "rpc_invalid"
            ) from error
        peer = self._peers.by_id.get(peer_id) or self._peers.get_or_add(peer_id)
        events: list[GossipEvent] = []
        if rpc.subscriptions:
            self._subscriptions_received(peer, rpc, now, events)
        for wire in rpc.publish:
            self._message_received(peer, wire, now, events)
        if rpc.HasField("control"):
            self._control_received(peer, rpc.control, now)
        return events

    def _subscriptions_received(
        self, peer: Peer, rpc: rpc_pb2.RPC, now: float, events: list[GossipEvent]
    ) -> None:
        for option in rpc.subscriptions:
            if option.subscribe:
                topic = self._peers.subscribed(peer, option.topicid)
                if topic is not None:
                    self._meshes.peer_subscribed(peer, topic, now)
                    events.append(PeerSubscribed(peer.peer_id, topic))
            else:
                topic = self._peers.unsubscribed(peer, option.topicid)
                if topic is not None:
                    self._meshes.peer_unsubscribed(peer, topic)
                    events.append(PeerUnsubscribed(peer.peer_id, topic))

    def _message_received(
        self, peer: Peer, wire: rpc_pb2.Message, now: float, events: list[GossipEvent]
    ) -> None:
        topic = wire.topic
        author: bytes = getattr(wire, "from")
        message_id = author + wire.seqno
        if topic not in self._subscriptions:
            self.ignored["message_unknown_topic"] += 1
            self._lazy.message_arrived(message_id)
            return
        if message_id in self._seen:
            self._duplicate_received(peer, message_id, now)
            return
        if author == self._own_bytes:
            # Published before a restart and still on its way; also what an impostor would say.
            self.ignored["message_own"] += 1
            return
        if len(wire.data) > self.params.max_message_size:
            self.ignored["message_too_long"] += 1
            return
        try:
            message = self._authors.verify(wire)
        except RemoteProtocolError as error:
            # Not remembered as seen: whoever guesses an ID must not keep the true message out.
            self.ignored[f"message_{error.code}"] += 1
            if error.code not in BLAMELESS:
                self._scores.invalid(peer.peer_id, topic)
            events.append(MessageRejected(peer.peer_id, error.code))
            return
        self._seen.add(message_id, now)
        self._lazy.message_arrived(message_id)
        if len(self._pending) >= self.params.max_pending:
            oldest = next(iter(self._pending))
            del self._pending[oldest]
            self.ignored["validation_overload"] += 1
        self._pending[message_id] = _Pending(message, peer.peer_id, {})
        self.counts["messages"] += 1
        self._lazy.announce(message, self._meshes.meshes[topic].values(), peer.peer_id)
        events.append(MessageReceived(message, peer.peer_id))

    def _duplicate_received(self, peer: Peer, message_id: bytes, now: float) -> None:
        self.counts["duplicates"] += 1
        pending = self._pending.get(message_id)
        if pending is not None:
            pending.also[peer.peer_id] = None
        elif self._scores.watches_deliveries:
            self._scores.duplicate(message_id, peer.peer_id, now)

    def _control_received(self, peer: Peer, control: rpc_pb2.ControlMessage, now: float) -> None:
        lazy = self._lazy
        if control.ihave:
            offers = [(ihave.topicID, ihave.messageIDs) for ihave in control.ihave]
            lazy.ihave_received(peer, offers, self._subscriptions, now)
        if control.iwant:
            lazy.iwant_received(peer, [iwant.messageIDs for iwant in control.iwant])
        # Once per topic, however often it is said: each may cost an answer.
        for topic in dict.fromkeys(graft.topicID for graft in control.graft):
            self._meshes.graft_received(peer, topic, now)
        for topic, backoff in {prune.topicID: prune.backoff for prune in control.prune}.items():
            self._meshes.prune_received(peer, topic, backoff, now)
        if control.idontwant:
            lazy.idontwant_received(peer, [refusal.messageIDs for refusal in control.idontwant])

    # -- validation

    def accept(self, message_id: bytes, now: float, unhurried: bool = False) -> None:
        """The message is valid: forward it. Does nothing for one that is not pending.

        :param unhurried: its author sends it to each of its peers, so that it need not be pushed:
            others are told of it some heartbeats later.
        """
        pending = self._pending.pop(message_id, None)
        if pending is None:
            return
        message = pending.message.sendable()
        topic = message.topic
        sender = pending.sender
        origin = message.origin
        self._scores.delivered(message_id, sender, topic, pending.also, now)
        if unhurried and self._postponed.take(message, self._tick):
            targets: Mapping[PeerID, Peer] = self._floods(topic)
        else:
            self._cache.put(message)
            targets = self._forward_to(topic)
        send = self._peers.send
        forwarded = 0
        for peer_id, peer in targets.items():
            if peer_id in (sender, origin) or peer_id in pending.also:
                continue
            if peer.dont_send and message_id in peer.dont_send:
                self.ignored["not_wanted"] += 1
                continue
            send(peer, message.encoded)
            forwarded += 1
        self.counts["forwarded"] += forwarded

    def ignore(self, message_id: bytes) -> None:
        """The message is of no use, and nobody is to blame: it is not forwarded."""
        self._pending.pop(message_id, None)

    def unsee(self, message_id: bytes) -> None:
        """The message is of no use now, and may be later: as :meth:`ignore`, and new next time."""
        self._pending.pop(message_id, None)
        self._seen.forget(message_id)

    def forget_messages(self) -> None:
        """Forward nothing more of what came so far: it is not for those who come from now on."""
        self._pending.clear()
        self._cache.clear()
        self._postponed.clear()

    def reject(self, message_id: bytes) -> None:
        """The message is invalid for every honest node, so whoever forwards it is to blame (P4).

        Only for what all implementations on the topic check; else it splits the mesh: use
        :meth:`ignore`.
        """
        pending = self._pending.pop(message_id, None)
        if pending is not None:
            for peer_id in (pending.sender, *pending.also):
                self._scores.invalid(peer_id, pending.message.topic)

    def _forward_to(self, topic: str) -> Mapping[PeerID, Peer]:
        mesh = self._meshes.meshes.get(topic, {})
        return {**mesh, **self._floods(topic)} if self._peers.flooding else mesh

    def _floods(self, topic: str) -> dict[PeerID, Peer]:
        """The peers that cannot be told what is here, and have to be sent it."""
        threshold = self.params.score.publish_threshold
        return {
            peer_id: peer
            for peer_id, peer in self._peers.flooding.items()
            if topic in peer.topics and not self._scores.below(peer_id, threshold)
        }

    # -- time, and what goes out

    def heartbeat(self, now: float) -> None:
        """Keep meshes at their degree, tell of messages; once each ``heartbeat_interval``."""
        self._tick += 1
        self._scores.advance(now)
        if self._tick % 60 == 0:
            self._scores.expire(now)
        self._seen.expire(now)
        self._meshes.heartbeat(now, self._tick)
        postponed: dict[str, list[bytes]] = {}
        for message in self._postponed.due(self._tick, self._newcomer):
            # Told of once, below, and not in each of the next heartbeats.
            self._cache.put(message, told=False)
            postponed.setdefault(message.topic, []).append(message.id)
            for peer_id, peer in self._meshes.members(message.topic).items():
                # It is sent messages only, and the mesh is told but once.
                if peer.congested and peer_id != message.origin:
                    self._peers.send(peer, message.encoded)
        for topic, ids in postponed.items():
            self._lazy.tell(topic, ids, self._meshes.members(topic))
        topics = self._meshes.gossip_topics()
        self._lazy.heartbeat(
            now, self._tick, [(topic, self._meshes.members(topic)) for topic in topics]
        )

    def take_rpcs(self) -> list[tuple[PeerID, bytes]]:
        """RPCs to send, in order per peer, each yet to be framed by its length."""
        return self._peers.take_rpcs()

    def peers_to_drop(self) -> list[tuple[PeerID, str]]:
        """Peers that sent so much that is invalid that they are not worth a link, and why."""
        threshold = self.params.score.graylist_threshold
        dropped = []
        for peer_id in self._scores.suspects():
            parts = self._scores.parts(peer_id)
            if parts.invalid < threshold > parts.total and peer_id in self._peers.by_id:
                dropped.append((peer_id, "it sent too many invalid messages"))
        return dropped

    # -- status

    @property
    def topics(self) -> tuple[str, ...]:
        """The topics that this node is in."""
        return tuple(self._subscriptions)

    @property
    def peers(self) -> tuple[PeerID, ...]:
        """All peers."""
        return tuple(self._peers.by_id)

    def mesh_peers(self, topic: str) -> tuple[PeerID, ...]:
        """The topic's mesh."""
        return tuple(self._meshes.meshes.get(topic, ()))

    def topic_peers(self, topic: str) -> tuple[PeerID, ...]:
        """The peers that are in the topic."""
        return tuple(self._peers.in_topic(topic))

    def scores(self) -> dict[PeerID, ScoreParts]:
        """What each peer is worth, and why."""
        return {peer_id: self._scores.parts(peer_id) for peer_id in self._peers.by_id}

    def sizes(self) -> dict[str, int]:
        """How full each table is."""
        return {
            "peers": len(self._peers.by_id),
            "seen": len(self._seen),
            "cached": len(self._cache),
            "cached_bytes": self._cache.bytes,
            "pending": len(self._pending),
            "postponed": len(self._postponed),
            "promises": self._lazy.promises,
            "scores": len(self._scores),
        }
