"""Who is there, what each peer subscribed to, and what waits to be sent to it.

Enters: peers, their subscriptions, messages and control messages for them. Leaves: encoded RPCs.
libp2p specs: pubsub/README.md "The RPC"; gossipsub-v1.0.md "Peering State" and "Control Message
Piggybacking".
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from bzzz.identity.peer_id import PeerID
from bzzz.wire.gossip_params import (
    FLOODSUB,
    GOSSIPSUB_1_0,
    GOSSIPSUB_1_2,
    GossipParams,
)
from bzzz.wire.pb import rpc_pb2

__all__ = ["Peer", "Peers", "subscription"]


def subscription(topic: str, subscribe: bool) -> bytes:
    """An RPC that tells of one subscription and does nothing else."""
    return rpc_pb2.RPC(
        subscriptions=[rpc_pb2.RPC.SubOpts(subscribe=subscribe, topicid=topic)]
    ).SerializeToString()


class Peer:
    """What is known of one peer, and its outbound queue.

    :ivar protocol: what the outbound stream speaks; empty before there is one.
    :ivar writable: whether there is an outbound stream.
    :ivar outbound: whether this node dialled the link.
    :ivar congested: whether the peer takes slowly, so that gossip is not worth sending.
    :ivar topics: its subscriptions.
    :ivar asked: the heartbeat in which it last asked for a message and was sent it.
    :ivar dont_send: messages it has, by IDONTWANT, and the heartbeat that said so.
    """

    __slots__ = (
        "asked",
        "chunks",
        "congested",
        "control",
        "dont_send",
        "dontwant_ids",
        "heartbeat",
        "held",
        "iasked",
        "ihaves",
        "iwant_bytes",
        "iwants",
        "outbound",
        "peer_id",
        "protocol",
        "topics",
        "writable",
    )

    def __init__(self, peer_id: PeerID) -> None:
        self.peer_id = peer_id
        self.protocol = ""
        self.writable = False
        self.outbound = False
        self.congested = False
        self.topics: dict[str, None] = {}
        self.chunks: list[bytes] = []
        self.held = 0
        self.asked: int | None = None
        self.control: rpc_pb2.ControlMessage | None = None
        self.dont_send: dict[bytes, int] = {}
        # What it did in the heartbeat of this number; another number means nothing yet.
        self.heartbeat = -1
        self.ihaves = 0
        self.iasked = 0
        self.iwants = 0
        self.iwant_bytes = 0
        self.dontwant_ids = 0

    def __repr__(self) -> str:
        return f"<Peer {self.peer_id} {self.protocol}>"

    @property
    def meshes(self) -> bool:
        """Whether it can be in a mesh: it speaks gossipsub, and can be written to."""
        return self.writable and self.protocol != FLOODSUB

    @property
    def knows_backoff(self) -> bool:
        """Whether a PRUNE to it may carry a backoff."""
        return self.protocol not in (FLOODSUB, GOSSIPSUB_1_0)

    @property
    def knows_idontwant(self) -> bool:
        """Whether it understands IDONTWANT."""
        return self.protocol == GOSSIPSUB_1_2

    def count_from(self, heartbeat: int) -> None:
        """Start its counts anew if a heartbeat has passed."""
        if self.heartbeat != heartbeat:
            self.heartbeat = heartbeat
            self.ihaves = self.iasked = self.dontwant_ids = 0
            self.iwants = self.iwant_bytes = 0


class Peers:
    """All peers, by ID and by topic, and their outbound queues.

    :ivar flooding: peers that speak floodsub only, and have to be sent everything.
    :ivar ignored: how often something of a peer was not done, by reason.
    """

    def __init__(self, params: GossipParams, ignored: Counter[str]) -> None:
        self._params = params
        self.by_id: dict[PeerID, Peer] = {}
        self.by_topic: dict[str, dict[PeerID, Peer]] = {}
        self.flooding: dict[PeerID, Peer] = {}
        self.ignored = ignored
        self._waiting: dict[PeerID, Peer] = {}

    # -- who is there

    def get_or_add(self, peer_id: PeerID) -> Peer:
        """The peer, new if need be."""
        peer = self.by_id.get(peer_id)
        if peer is None:
            peer = self.by_id[peer_id] = Peer(peer_id)
        return peer

    def opened(self, peer_id: PeerID, protocol: str, outbound: bool) -> Peer:
        """A stream to the peer is open."""
        peer = self.get_or_add(peer_id)
        peer.protocol = protocol
        peer.outbound = outbound
        peer.writable = True
        peer.congested = False
        if protocol == FLOODSUB:
            self.flooding[peer_id] = peer
        else:
            self.flooding.pop(peer_id, None)
        return peer

    def closed(self, peer: Peer) -> None:
        """The stream to the peer is gone, and with it what waits; its subscriptions are kept."""
        peer.writable = False
        peer.chunks.clear()
        peer.held = 0
        peer.control = None
        self._waiting.pop(peer.peer_id, None)

    def remove(self, peer: Peer) -> None:
        """Forget the peer, its subscriptions and its queue."""
        self.closed(peer)
        for topic in peer.topics:
            self._leave(peer, topic)
        self.flooding.pop(peer.peer_id, None)
        del self.by_id[peer.peer_id]

    def in_topic(self, topic: str) -> dict[PeerID, Peer]:
        """The peers that subscribed to the topic."""
        return self.by_topic.get(topic, {})

    def subscribed(self, peer: Peer, topic: object) -> str | None:
        """The peer subscribes; the topic if that is news and was kept.

        :param topic: as decoded; it is bytes where it is no valid UTF-8.
        """
        if not isinstance(topic, str) or not topic:
            self.ignored["topic_name_invalid"] += 1
            return None
        if topic in peer.topics:
            return None
        if len(topic.encode()) > self._params.max_topic_length:
            self.ignored["topic_name_too_long"] += 1
            return None
        if len(peer.topics) >= self._params.max_topics_per_peer:
            self.ignored["too_many_topics"] += 1
            return None
        peer.topics[topic] = None
        self.by_topic.setdefault(topic, {})[peer.peer_id] = peer
        return topic

    def unsubscribed(self, peer: Peer, topic: object) -> str | None:
        """The peer unsubscribes; the topic if that is news."""
        if not isinstance(topic, str) or topic not in peer.topics:
            return None
        del peer.topics[topic]
        self._leave(peer, topic)
        return topic

    def _leave(self, peer: Peer, topic: str) -> None:
        members = self.by_topic[topic]
        del members[peer.peer_id]
        if not members:
            del self.by_topic[topic]

    # -- what is sent

    def send(self, peer: Peer, chunk: bytes) -> bool:
        """Queue an encoded RPC, a message or a subscription; whether it is kept.

        A peer whose outbound stream is not open yet gets what fits in ``max_held_bytes``; what
        does not it can ask for later, when it is told of it by gossip.
        """
        if not peer.writable:
            if peer.held + len(chunk) > self._params.max_held_bytes:
                self.ignored["held_too_much"] += 1
                return False
            peer.held += len(chunk)
        peer.chunks.append(chunk)
        self._waiting[peer.peer_id] = peer
        return True

    def greet(self, peer: Peer, topics: Iterable[str]) -> None:
        """The outbound stream is open: send subscriptions, before all that was held."""
        peer.chunks[:0] = [subscription(topic, True) for topic in topics]
        peer.held = 0
        if peer.chunks:
            self._waiting[peer.peer_id] = peer

    def graft(self, peer: Peer, topic: str) -> None:
        """Queue a GRAFT. Like all control messages it is for peers that can be written to."""
        self._control(peer).graft.add(topicID=topic)

    def prune(self, peer: Peer, topic: str, backoff: float) -> None:
        """Queue a PRUNE; without peers to go to instead, as this node does no peer exchange."""
        prune = self._control(peer).prune.add(topicID=topic)
        if peer.knows_backoff:
            prune.backoff = int(backoff)

    def ihave(self, peer: Peer, topic: str, ids: list[bytes]) -> None:
        """Queue an IHAVE."""
        self._control(peer).ihave.add(topicID=topic, messageIDs=ids)

    def iwant(self, peer: Peer, ids: list[bytes]) -> None:
        """Queue an IWANT."""
        self._control(peer).iwant.add(messageIDs=ids)

    def idontwant(self, peer: Peer, message_id: bytes) -> None:
        """Queue an IDONTWANT."""
        self._control(peer).idontwant.add(messageIDs=[message_id])

    def take_rpcs(self) -> list[tuple[PeerID, bytes]]:
        """Everything queued for peers that can be written to, as RPCs, in order.

        Small messages to one peer travel together; a message alone is not copied, so that
        all its recipients share one bytes object.
        """
        rpcs: list[tuple[PeerID, bytes]] = []
        waiting, self._waiting = self._waiting, {}
        for peer_id, peer in waiting.items():
            if not peer.writable:
                self._waiting[peer_id] = peer
                continue
            if peer.control is not None:
                peer.chunks.append(rpc_pb2.RPC(control=peer.control).SerializeToString())
                peer.control = None
            chunks = peer.chunks
            if len(chunks) == 1:
                rpcs.append((peer_id, chunks[0]))
                chunks.clear()
            else:
                peer.chunks = []
                rpcs.extend((peer_id, rpc) for rpc in self._joined(chunks))
        return rpcs

    def _joined(self, chunks: list[bytes]) -> Iterable[bytes]:
        """The chunks in order, as few RPCs as ``batch_size`` allows."""
        batch: list[bytes] = []
        size = 0
        for chunk in chunks:
            if batch and size + len(chunk) > self._params.batch_size:
                yield b"".join(batch)
                batch = []
                size = 0
            batch.append(chunk)
            size += len(chunk)
        if batch:
            yield b"".join(batch)

    def _control(self, peer: Peer) -> rpc_pb2.ControlMessage:
        if not peer.writable:
            # Never held: what it says would be old by the time the stream is open.
            return rpc_pb2.ControlMessage()
        control = peer.control
        if control is None:
            control = peer.control = rpc_pb2.ControlMessage()
            self._waiting[peer.peer_id] = peer
        return control
