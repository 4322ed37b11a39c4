"""The constants of gossipsub, each with its reason, and how random choices are made.

libp2p specs: pubsub/gossipsub/gossipsub-v1.0.md "Parameters", gossipsub-v1.1.md "Overview of New
Parameters", gossipsub-v1.2.md "Parameters". Nothing enters or leaves here.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from bzzz.errors import LocalProtocolError

__all__ = [
    "FLOODSUB",
    "GOSSIPSUB_1_0",
    "GOSSIPSUB_1_1",
    "GOSSIPSUB_1_2",
    "PROTOCOLS",
    "GossipParams",
    "Randomness",
    "ScoreParams",
    "TopicScoreParams",
    "choose",
]

GOSSIPSUB_1_2 = "/meshsub/1.2.0"
GOSSIPSUB_1_1 = "/meshsub/1.1.0"
GOSSIPSUB_1_0 = "/meshsub/1.0.0"
FLOODSUB = "/floodsub/1.0.0"

# What is offered and answered, best first.
PROTOCOLS = (GOSSIPSUB_1_2, GOSSIPSUB_1_1, GOSSIPSUB_1_0, FLOODSUB)

T = TypeVar("T")


class Randomness(Protocol):
    """What is used of :class:`random.Random`: one float in [0, 1) at a time."""

    def random(self) -> float:
        """The next float."""


def choose(random: Randomness, candidates: Iterable[T], count: int) -> list[T]:
    """Up to ``count`` of ``candidates`` in random order (a partial Fisher-Yates shuffle).

    The candidates must come in an order that does not depend on hashes, or a run could not be
    repeated from its seed.
    """
    pool = list(candidates)
    size = len(pool)
    count = min(count, size)
    for index in range(count):
        other = index + int(random.random() * (size - index))  # nosec B311 # the caller's choice
        pool[index], pool[other] = pool[other], pool[index]
    del pool[count:]
    return pool


@dataclass(frozen=True)
class TopicScoreParams:
    """How a peer's behaviour in one topic counts (gossipsub-v1.1.md "The Score Function").

    The defaults suit a mesh of machines in one or few places: little is won by being there (P1)
    or first (P2), so that no peer can save up for misbehaving; a message that is provably invalid
    (P4) costs a lot. Decays are factors per ``decay_interval``.

    :ivar mesh_delivery_weight: P3, 0 by default: it needs a known message rate, and a mesh at
        rest sends next to nothing, so it would punish honest silence.
    :ivar invalid_weight: P4, on the square of the count: one takes a new peer out of the mesh,
    three
        silence its gossip, five cost it the link.
    """

    weight: float = 1.0
    mesh_time_weight: float = 1.0 / 3600
    mesh_time_quantum: float = 1.0
    mesh_time_cap: float = 3600.0
    first_delivery_weight: float = 0.05
    first_delivery_decay: float = 0.995
    first_delivery_cap: float = 100.0
    mesh_delivery_weight: float = 0.0
    mesh_delivery_decay: float = 0.99
    mesh_delivery_cap: float = 100.0
    mesh_delivery_threshold: float = 10.0
    mesh_delivery_activation: float = 60.0
    mesh_delivery_window: float = 0.01
    mesh_failure_weight: float = 0.0
    mesh_failure_decay: float = 0.99
    invalid_weight: float = -10.0
    invalid_decay: float = 0.995

    def __post_init__(self) -> None:
        for name in ("mesh_delivery_weight", "mesh_failure_weight", "invalid_weight"):
            if getattr(self, name) > 0:
                raise LocalProtocolError(f"{name} is a penalty and must not be positive")
        for name in ("mesh_time_weight", "first_delivery_weight", "weight"):
            if getattr(self, name) < 0:
                raise LocalProtocolError(f"{name} must not be negative")
        for name in ("first_delivery", "mesh_delivery", "mesh_failure", "invalid"):
            if not 0 < getattr(self, f"{name}_decay") < 1:
                raise LocalProtocolError(f"{name}_decay must be between 0 and 1")

    @property
    def watches_deliveries(self) -> bool:
        """Whether P3 or P3b is in use, which costs bookkeeping for each duplicate."""
        return self.mesh_delivery_weight != 0 or self.mesh_failure_weight != 0


@dataclass(frozen=True)
class ScoreParams:
    """How peers are scored across topics (gossipsub-v1.1.md "Score Thresholds").

    :ivar topic_score_cap: the most that topics can add. Small against the thresholds, so that a
        good past buys no more than one invalid message.
    :ivar colocation_weight: P6, 0 by default: machines behind one address, containers of one host
        and whole clusters on loopback are the normal case here, not an attack.
    :ivar behaviour_threshold: infractions (P7) that honest peers commit by restarting or being
        slow, and that cost nothing.
    :ivar decay_interval: in seconds.
    :ivar retain_score: how long a peer that went away is remembered, in seconds, so that
        reconnecting does not clear its record.
    """

    topic: TopicScoreParams = field(default_factory=TopicScoreParams)
    topics: dict[str, TopicScoreParams] = field(default_factory=dict)
    topic_score_cap: float = 10.0
    application_weight: float = 1.0
    colocation_weight: float = 0.0
    colocation_threshold: int = 8
    behaviour_weight: float = -10.0
    behaviour_threshold: float = 6.0
    behaviour_decay: float = 0.995
    decay_interval: float = 1.0
    decay_to_zero: float = 0.01
    retain_score: float = 600.0
    gossip_threshold: float = -60.0
    publish_threshold: float = -100.0
    graylist_threshold: float = -200.0
    opportunistic_graft_threshold: float = 1.0

    def __post_init__(self) -> None:
        if not 0 > self.gossip_threshold >= self.publish_threshold > self.graylist_threshold:
            raise LocalProtocolError(
                "score thresholds must be 0 > gossip >= publish > graylist, not "
                f"{self.gossip_threshold}, {self.publish_threshold}, {self.graylist_threshold}"
            )
        if self.colocation_weight > 0 or self.behaviour_weight > 0:
            raise LocalProtocolError("the weights of P6 and P7 must not be positive")
        if not 0 < self.behaviour_decay < 1:
            raise LocalProtocolError("behaviour_decay must be between 0 and 1")


@dataclass(frozen=True)
class GossipParams:
    """The constants of the protocol and the caps on what peers can make this node hold.

    Times are in seconds.

    :ivar d: wanted degree of each topic's mesh.
    :ivar d_low: below it, peers are grafted up to ``d``.
    :ivar d_high: above it, peers are pruned down to ``d``.
    :ivar d_score: how many of the survivors of a prune are chosen by score.
    :ivar d_out: how many mesh peers must be ones that this node dialled.
    :ivar d_lazy: least number of peers told what was seen, if anything was.
    :ivar gossip_factor: or this part of the topic's other peers, if that is more. The
        specification's 0.25 is for nodes that know some dozens of thousands; here each knows all,
        and of 100 nodes each would tell 24 others each second.
    :ivar history_length: heartbeats for which a message can be asked for: 5 as in go-libp2p.
    :ivar history_gossip: heartbeats for which its ID is told.
    :ivar fanout_ttl: how long peers are remembered for a topic only published to.
    :ivar prune_backoff: how long after a prune neither side grafts.
    :ivar unsubscribe_backoff: the same after leaving the topic.
    :ivar backoff_slack: added to a backoff, as the other side's clock and heartbeat differ.
    :ivar max_backoff: longest backoff that a peer's PRUNE can impose.
    :ivar graft_flood_threshold: a GRAFT this soon after the PRUNE counts twice.
    :ivar postponed_ticks: heartbeats until others are told of a message that need not be pushed,
        and between one telling and the next: about what a mesh of 50 nodes takes to form on two
        cores, when all have it from its author.
    :ivar calm_ticks: heartbeats without a new peer until the mesh counts as formed. Until then
        postponed messages go on waiting.
    :ivar max_postponed_ticks: heartbeats for which they wait at most, and up to ``postponed_ticks``
        more until the next telling.
    :ivar max_postponed_bytes: memory of messages that wait so; more are pushed at once.
    :ivar flood_publish: own messages go to every peer in the topic, not only to the mesh.
    :ivar seen_ttl: how long a message ID is remembered; 120 as in go-libp2p.
    :ivar opportunistic_graft_ticks: heartbeats between looks at the mesh's median score.
    :ivar opportunistic_graft_peers: how many are grafted when it is low.
    :ivar iwant_followup: how long a peer has to send what it said it has.
    :ivar gossip_retransmission: how often one message is sent to one peer that asks.
    :ivar max_ihave_length: IDs asked for, or told, per peer and heartbeat.
    :ivar max_ihave_messages: IHAVEs of one peer looked at per heartbeat.
    :ivar max_iwant_bytes: sent to one peer that asks, per heartbeat; above the largest message,
        well below what a slow peer's queue may hold.
    :ivar max_idontwant_messages: IDONTWANT IDs of one peer kept per heartbeat: the messages of a
        heartbeat at ten times the rate this mesh is measured at.
    :ivar idontwant_threshold: size in bytes above which a message is announced by IDONTWANT. An
        RPC costs about as much as a duplicate of a few KiB on a LAN, so it is well above that.
    :ivar idontwant_ttl: heartbeats for which an IDONTWANT is honoured.
    :ivar max_rpc_size: 1 MiB, go-libp2p's limit: it closes the stream on more.
    :ivar max_message_size: leaves room in an RPC for what is around a message, so that all that
        arrives can be forwarded.
    :ivar batch_size: small messages to one peer share an RPC up to this size in bytes;
        rust-libp2p refuses RPCs over 64 KiB.
    :ivar max_topics_per_peer: subscriptions of one peer that are kept; Bzzz uses two topics.
    :ivar max_topic_length: longest topic name kept, in UTF-8 bytes.
    :ivar max_seen: message IDs remembered, about 3.5 MB: 130 a second for ``seen_ttl``. When more
        come, the oldest is forgotten sooner; copies come within seconds.
    :ivar max_cache_bytes: memory of messages kept for peers that ask.
    :ivar max_pending: messages waiting for their validation's result.
    :ivar max_held_bytes: bytes kept for a peer whose outbound stream is not open yet.
    :ivar max_backoffs: backoffs remembered: some topics of more peers than a node can link.
    :ivar max_asked: IDs asked for per heartbeat, of all peers.
    :ivar max_origins: authors whose keys and last sequence numbers are remembered.
    """

    d: int = 6
    d_low: int = 5
    d_high: int = 12
    d_score: int = 4
    d_out: int = 2
    d_lazy: int = 6
    gossip_factor: float = 0.05
    history_length: int = 5
    history_gossip: int = 3
    heartbeat_interval: float = 1.0
    fanout_ttl: float = 60.0
    prune_backoff: float = 60.0
    unsubscribe_backoff: float = 10.0
    backoff_slack: float = 1.0
    max_backoff: float = 3600.0
    graft_flood_threshold: float = 10.0
    postponed_ticks: int = 5
    calm_ticks: int = 3
    max_postponed_ticks: int = 30
    max_postponed_bytes: int = 1 << 20
    flood_publish: bool = True
    seen_ttl: float = 120.0
    opportunistic_graft_ticks: int = 60
    opportunistic_graft_peers: int = 2
    iwant_followup: float = 3.0
    gossip_retransmission: int = 3
    max_ihave_length: int = 5000
    max_ihave_messages: int = 10
    max_iwant_bytes: int = 2 << 20
    max_idontwant_messages: int = 2000
    idontwant_threshold: int = 16384
    idontwant_ttl: int = 3
    max_rpc_size: int = 1 << 20
    max_message_size: int = (1 << 20) - 4096
    batch_size: int = 32768
    max_topics_per_peer: int = 128
    max_topic_length: int = 256
    max_seen: int = 16_384
    max_cache_bytes: int = 1 << 20
    max_pending: int = 1024
    max_held_bytes: int = 256 << 10
    max_backoffs: int = 4096
    max_asked: int = 20_000
    max_origins: int = 1024
    score: ScoreParams = field(default_factory=ScoreParams)

    def __post_init__(self) -> None:
        if not 0 <= self.d_low <= self.d <= self.d_high:
            raise LocalProtocolError(
                f"the mesh degrees must be d_low <= d <= d_high, not "
                f"{self.d_low}, {self.d}, {self.d_high}"
            )
        if self.d > 0 and (self.d_out >= self.d_low or self.d_out > self.d // 2):
            raise LocalProtocolError("d_out must be below d_low and at most half of d")
        if self.d_score > self.d:
            raise LocalProtocolError("d_score must be at most d")
        if not 1 <= self.history_gossip <= self.history_length:
            raise LocalProtocolError("history_gossip must be from 1 to history_length")
        if self.postponed_ticks < 1:
            raise LocalProtocolError("postponed_ticks must be at least 1")
        if self.max_message_size > self.max_rpc_size - 1024:
            raise LocalProtocolError("max_message_size must leave 1 KiB of an RPC free")
