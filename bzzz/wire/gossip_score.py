"""Peer scores of gossipsub 1.1: what a peer did, weighed, decaying with time.

Enters: what peers do (join a mesh, deliver messages, break promises). Leaves: a score per peer,
0 for a stranger. libp2p specs: pubsub/gossipsub/gossipsub-v1.1.md "Peer Scoring".

Counters decay when they are looked at, by as many intervals as have passed, so that a node with
hundreds of quiet peers spends nothing on them; and a peer that never did wrong cannot be below
zero, which is the usual case and answered first.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from bzzz.identity.peer_id import PeerID
from bzzz.wire.gossip_params import ScoreParams, TopicScoreParams

__all__ = ["PeerScores", "ScoreParts"]

# Peers remembered at once, linked and gone ones: four times the links that a node admits.
MAX_RECORDS = 1024

# Messages whose near-first deliveries are watched (P3) at once: a window is some milliseconds.
MAX_WATCHED = 4096


class ScoreParts(NamedTuple):
    """A score and what it is made of, weighed, for status pages."""

    total: float
    topics: float
    invalid: float
    application: float
    colocation: float
    behaviour: float


class _Topic:
    """One peer in one topic."""

    __slots__ = ("failure", "first", "invalid", "mesh", "mesh_since", "tick")

    def __init__(self, tick: int) -> None:
        self.tick = tick
        self.mesh_since: float | None = None
        self.first = 0.0
        self.mesh = 0.0
        self.failure = 0.0
        self.invalid = 0.0


class _Record:
    """One peer."""

    __slots__ = ("address", "application", "behaviour", "gone_at", "tick", "topics")

    def __init__(self, tick: int) -> None:
        self.tick = tick
        self.topics: dict[str, _Topic] = {}
        self.behaviour = 0.0
        self.application = 0.0
        self.address: str | None = None
        self.gone_at: float | None = None


@dataclass(slots=True)
class _Watched:
    """A message that arrived, while near-first deliveries of it count."""

    topic: str
    until: float
    peers: dict[PeerID, None]


class PeerScores:
    """The scores that one node gives its peers."""

    def __init__(self, params: ScoreParams) -> None:
        self._params = params
        self._records: dict[PeerID, _Record] = {}
        self._addresses: dict[str, int] = {}
        self._watched: dict[bytes, _Watched] = {}
        self._tainted: dict[PeerID, None] = {}
        self._tick = 0
        self._now = 0.0
        every = (params.topic, *params.topics.values())
        self.watches_deliveries = any(topic.watches_deliveries for topic in every)
        # With P3 or P6 in use silence or company alone can push a peer below zero.
        self._all_suspect = self.watches_deliveries or params.colocation_weight != 0

    def __len__(self) -> int:
        return len(self._records)

    # -- what happens

    def advance(self, now: float) -> None:
        """Tell the time; call it each heartbeat. Forgets peers that went away long ago."""
        self._now = now
        self._tick = int(now / self._params.decay_interval)
        if self._watched:
            for message_id in [k for k, v in self._watched.items() if v.until < now]:
                del self._watched[message_id]
        for peer in list(self._tainted):
            # Clears the taint, and drops the record, of whoever has nothing held against it.
            self._look(peer)

    def expire(self, now: float) -> None:
        """Forget peers that went away long ago; looks at every record, so call it rarely."""
        before = now - self._params.retain_score
        for peer, record in list(self._records.items()):
            if record.gone_at is not None and record.gone_at <= before:
                del self._records[peer]
                self._tainted.pop(peer, None)

    def add_peer(self, peer: PeerID, address: str | None) -> None:
        """A peer is linked."""
        record = self._record(peer)
        if record.gone_at is None:
            self._leave_address(record)
        record.gone_at = None
        record.address = address
        if address is not None:
            self._addresses[address] = self._addresses.get(address, 0) + 1

    def remove_peer(self, peer: PeerID, now: float) -> None:
        """A peer is gone. What it earned is forgotten, what is held against it is kept a while."""
        record = self._records.get(peer)
        if record is None or record.gone_at is not None:
            return
        for topic in list(record.topics):
            self.left_mesh(peer, topic)
        self._leave_address(record)
        record.address = None
        record.gone_at = now
        self._look(peer)

    def joined_mesh(self, peer: PeerID, topic: str, now: float) -> None:
        """The peer is in the topic's mesh (P1, P3)."""
        state = self._topic(peer, topic)
        state.mesh_since = now
        state.mesh = 0.0

    def left_mesh(self, peer: PeerID, topic: str) -> None:
        """The peer is no longer in the topic's mesh; a deficit at this time sticks (P3b)."""
        record = self._records.get(peer)
        state = None if record is None else record.topics.get(topic)
        if record is None or state is None or state.mesh_since is None:
            return
        params = self._of(topic)
        if params.watches_deliveries:
            self._decay(record)
            deficit = self._deficit(state, params)
            if deficit > 0:
                state.failure += deficit * deficit
                self._tainted[peer] = None
        state.mesh_since = None

    def delivered(
        self, message_id: bytes, peer: PeerID, topic: str, also: dict[PeerID, None], now: float
    ) -> None:
        """The peer was the first with a valid message (P2, P3).

        :param also: who sent it too while it was being validated.
        """
        state = self._topic(peer, topic)
        params = self._of(topic)
        state.first = min(state.first + 1.0, params.first_delivery_cap)
        if params.watches_deliveries:
            watched = _Watched(topic, now + params.mesh_delivery_window, {})
            if len(self._watched) < MAX_WATCHED:
                self._watched[message_id] = watched
            for each in (peer, *also):
                self._near_first(watched, each)

    def duplicate(self, message_id: bytes, peer: PeerID, now: float) -> None:
        """The peer sent a message that is known and valid (P3)."""
        watched = self._watched.get(message_id)
        if watched is not None and now <= watched.until:
            self._near_first(watched, peer)

    def invalid(self, peer: PeerID, topic: str) -> None:
        """The peer sent an invalid message (P4)."""
        self._topic(peer, topic).invalid += 1.0
        self._tainted[peer] = None

    def misbehaved(self, peer: PeerID, count: float = 1.0) -> None:
        """The peer broke a promise or a backoff (P7)."""
        record = self._record(peer)
        self._decay(record)
        record.behaviour += count
        self._tainted[peer] = None

    def set_application_score(self, peer: PeerID, value: float) -> None:
        """What the application thinks of the peer (P5)."""
        self._record(peer).application = value
        if value < 0:
            self._tainted[peer] = None

    # -- what it comes to

    def below(self, peer: PeerID, threshold: float) -> bool:
        """Whether the score is below ``threshold``, which is 0 or less; cheap for the innocent."""
        if peer not in self._tainted and not self._all_suspect:
            return False
        return self.score(peer) < threshold

    def score(self, peer: PeerID) -> float:
        """The score, 0 for a stranger."""
        return self.parts(peer).total

    def parts(self, peer: PeerID) -> ScoreParts:
        """The score and what it is made of."""
        record = self._records.get(peer)
        if record is None:
            return ScoreParts(0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
        self._decay(record)
        topics = invalid = 0.0
        for topic, state in record.topics.items():
            params = self._of(topic)
            gained = params.first_delivery_weight * state.first
            if state.mesh_since is not None:
                quanta = max(self._now - state.mesh_since, 0.0) / params.mesh_time_quantum
                gained += params.mesh_time_weight * min(quanta, params.mesh_time_cap)
                deficit = self._deficit(state, params)
                gained += params.mesh_delivery_weight * deficit * deficit
            gained += params.mesh_failure_weight * state.failure
            topics += params.weight * gained
            invalid += params.weight * params.invalid_weight * state.invalid * state.invalid
        own = self._params
        # The cap is for the good alone: what is held against a peer counts in full.
        topics = min(topics, own.topic_score_cap)
        application = own.application_weight * record.application
        colocation = 0.0
        if own.colocation_weight != 0 and record.address is not None:
            surplus = self._addresses.get(record.address, 0) - own.colocation_threshold
            if surplus > 0:
                colocation = own.colocation_weight * surplus * surplus
        behaviour = 0.0
        if record.behaviour > own.behaviour_threshold:
            excess = record.behaviour - own.behaviour_threshold
            behaviour = own.behaviour_weight * excess * excess
        total = topics + invalid + application + colocation + behaviour
        return ScoreParts(total, topics, invalid, application, colocation, behaviour)

    def suspects(self) -> list[PeerID]:
        """Peers that something is held against."""
        return list(self._tainted)

    # -- inside

    def _of(self, topic: str) -> TopicScoreParams:
        return self._params.topics.get(topic, self._params.topic)

    def _record(self, peer: PeerID) -> _Record:
        record = self._records.get(peer)
        if record is None:
            if len(self._records) >= MAX_RECORDS:
                self._make_room()
            record = self._records[peer] = _Record(self._tick)
        return record

    def _make_room(self) -> None:
        """Forget the peer that is gone longest; linked ones are fewer than the limit."""
        gone = [(r.gone_at, p) for p, r in self._records.items() if r.gone_at is not None]
        peer = min(gone)[1] if gone else next(iter(self._records))
        del self._records[peer]
        self._tainted.pop(peer, None)

    def _topic(self, peer: PeerID, topic: str) -> _Topic:
        record = self._record(peer)
        self._decay(record)
        state = record.topics.get(topic)
        if state is None:
            state = record.topics[topic] = _Topic(self._tick)
        return state

    def _decay(self, record: _Record) -> None:
        ticks = self._tick - record.tick
        if ticks <= 0:
            return
        record.tick = self._tick
        floor = self._params.decay_to_zero
        if record.behaviour:
            record.behaviour = _decayed(
                record.behaviour, self._params.behaviour_decay, ticks, floor
            )
        for topic, state in record.topics.items():
            params = self._of(topic)
            if state.first:
                state.first = _decayed(state.first, params.first_delivery_decay, ticks, floor)
            if state.mesh:
                state.mesh = _decayed(state.mesh, params.mesh_delivery_decay, ticks, floor)
            if state.failure:
                state.failure = _decayed(state.failure, params.mesh_failure_decay, ticks, floor)
            if state.invalid:
                state.invalid = _decayed(state.invalid, params.invalid_decay, ticks, floor)

    def _deficit(self, state: _Topic, params: TopicScoreParams) -> float:
        if (
            state.mesh_since is None
            or self._now - state.mesh_since <= params.mesh_delivery_activation
        ):
            return 0.0
        return max(params.mesh_delivery_threshold - state.mesh, 0.0)

    def _near_first(self, watched: _Watched, peer: PeerID) -> None:
        if peer in watched.peers:
            return
        watched.peers[peer] = None
        state = self._topic(peer, watched.topic)
        if state.mesh_since is not None:
            cap = self._of(watched.topic).mesh_delivery_cap
            state.mesh = min(state.mesh + 1.0, cap)

    def _leave_address(self, record: _Record) -> None:
        if record.address is None:
            return
        left = self._addresses.get(record.address, 0) - 1
        if left > 0:
            self._addresses[record.address] = left
        else:
            self._addresses.pop(record.address, None)

    def _look(self, peer: PeerID) -> None:
        """Take the taint off a peer that nothing is held against any more."""
        record = self._records.get(peer)
        if record is None:
            self._tainted.pop(peer, None)
            return
        self._decay(record)
        guilty = (
            record.behaviour > 0
            or record.application < 0
            or any(state.invalid > 0 or state.failure > 0 for state in record.topics.values())
        )
        if not guilty:
            self._tainted.pop(peer, None)
            if record.gone_at is not None:
                del self._records[peer]


def _decayed(value: float, factor: float, ticks: int, floor: float) -> float:
    value *= factor**ticks
    return value if value >= floor else 0.0
