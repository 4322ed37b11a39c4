"""The lazy half of gossipsub: telling of messages, asking for them, and saying not to send them.

Enters: IHAVE, IWANT and IDONTWANT of peers, heartbeats. Leaves: the same, for peers, and messages
that were asked for. libp2p specs: gossipsub-v1.0.md "Gossip Emission"; gossipsub-v1.1.md "Adaptive
Gossip Dissemination" and "Spam Protection Measures"; gossipsub-v1.2.md "IDONTWANT Message".
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Container, Iterable

from bzzz.identity.peer_id import PeerID
from bzzz.wire.gossip_cache import MessageCache, SeenCache
from bzzz.wire.gossip_message import Message
from bzzz.wire.gossip_params import GossipParams, Randomness, choose
from bzzz.wire.gossip_peers import Peer, Peers
from bzzz.wire.gossip_score import PeerScores

__all__ = ["LazyGossip"]

# How many peers one message is asked of in one heartbeat: a second, in case the first does not
# keep its word; more would only bring duplicates.
ASKED_PER_MESSAGE = 2

# A message ID of ours has 46 bytes; go-libp2p lets programs choose theirs, hashes mostly.
MAX_ID_SIZE = 256

# IDs of one RPC's IHAVEs that are looked up: 5000 each for some topics, in about 2 ms.
MAX_LOOKS = 20_000

# Heartbeats for which a peer that asked for a message is told of each: some intervals of
# broadcasts.
ASKED_LATELY = 120


class LazyGossip:
    """What goes around the meshes, to peers that are not in them."""

    def __init__(
        self,
        params: GossipParams,
        peers: Peers,
        scores: PeerScores,
        seen: SeenCache,
        cache: MessageCache,
        *,
        random: Randomness,
        ignored: Counter[str],
    ) -> None:
        self._params = params
        self._peers = peers
        self._scores = scores
        self._seen = seen
        self._cache = cache
        self._random = random
        self._ignored = ignored
        self._tick = 0
        self._asked: dict[bytes, int] = {}
        # One random ID of each IWANT: who promised it. In order of time in _due.
        self._promises: dict[bytes, dict[PeerID, None]] = {}
        self._due: deque[tuple[float, int, bytes, PeerID]] = deque()
        self._refusing: dict[PeerID, Peer] = {}

    @property
    def promises(self) -> int:
        """How many promised messages are tracked."""
        return len(self._promises)

    # -- received

    def ihave_received(
        self,
        peer: Peer,
        offers: Iterable[tuple[object, Iterable[bytes]]],
        topics: Container[object],
        now: float,
    ) -> None:
        """The peer has messages: ask for those not seen.

        :param offers: a topic and message IDs each.
        :param topics: those whose messages are wanted.
        """
        params = self._params
        if self._scores.below(peer.peer_id, params.score.gossip_threshold):
            self._ignored["ihave_low_score"] += 1
            return
        peer.count_from(self._tick)
        wanted: dict[bytes, None] = {}
        room = params.max_ihave_length - peer.iasked
        peer.ihaves += 1
        if peer.ihaves > params.max_ihave_messages:
            self._ignored["ihave_too_many"] += 1
            return
        looks = MAX_LOOKS
        for topic, ids in offers:
            if topic not in topics:
                continue
            for message_id in ids:
                looks -= 1
                if len(wanted) >= room or looks < 0:
                    self._ignored["ihave_too_many_ids"] += 1
                    break
                if message_id in self._seen or message_id in wanted:
                    continue
                if len(message_id) <= MAX_ID_SIZE and self._may_ask(message_id, len(wanted)):
                    wanted[message_id] = None
        if not wanted or not peer.writable:
            return
        ids_wanted = choose(self._random, wanted, len(wanted))
        peer.iasked += len(ids_wanted)
        for message_id in ids_wanted:
            self._asked[message_id] = self._asked.get(message_id, 0) + 1
        self._promised(peer, ids_wanted[0], now)
        self._peers.iwant(peer, ids_wanted)

    def iwant_received(self, peer: Peer, wants: Iterable[Iterable[bytes]]) -> None:
        """The peer asks for messages: send those that are still held."""
        params = self._params
        if self._scores.below(peer.peer_id, params.score.gossip_threshold):
            self._ignored["iwant_low_score"] += 1
            return
        if peer.congested:
            self._ignored["iwant_congested"] += 1
            return
        peer.count_from(self._tick)
        for ids in wants:
            for message_id in ids:
                peer.iwants += 1
                if peer.iwants > params.max_ihave_length:
                    self._ignored["iwant_too_many_ids"] += 1
                    return
                message = self._cache.get_for_peer(
                    message_id, peer.peer_id, params.gossip_retransmission
                )
                if message is None:
                    self._ignored["iwant_not_sent"] += 1
                    continue
                peer.iwant_bytes += len(message.encoded)
                if peer.iwant_bytes > params.max_iwant_bytes:
                    self._ignored["iwant_too_many_bytes"] += 1
                    return
                peer.asked = self._tick
                self._peers.send(peer, message.encoded)

    def idontwant_received(self, peer: Peer, refusals: Iterable[Iterable[bytes]]) -> None:
        """The peer has messages that it need not be sent."""
        peer.count_from(self._tick)
        for ids in refusals:
            for message_id in ids:
                peer.dontwant_ids += 1
                if peer.dontwant_ids > self._params.max_idontwant_messages:
                    self._ignored["idontwant_too_many"] += 1
                    return
                if len(message_id) <= MAX_ID_SIZE:
                    peer.dont_send[message_id] = self._tick
                    self._refusing[peer.peer_id] = peer

    def message_arrived(self, message_id: bytes) -> None:
        """The message came, from whomever: promises to send it are kept."""
        if self._promises:
            self._promises.pop(message_id, None)

    # -- sent

    def announce(self, message: Message, mesh: Iterable[Peer], sender: PeerID) -> None:
        """Tell the mesh that a large message is here, before it is even validated."""
        if len(message.data) < self._params.idontwant_threshold:
            return
        for peer in mesh:
            if peer.knows_idontwant and peer.peer_id not in (sender, message.origin):
                self._peers.idontwant(peer, message.id)

    def tell(self, topic: str, ids: list[bytes], members: dict[PeerID, Peer]) -> None:
        """Tell of messages that nobody was sent, for those who lack them to ask.

        Told are the mesh, who asked for something lately (it has few links, so nobody else may tell
        it), and some others, who will ask if they are such.
        """
        for peer in members.values():
            if self._may_be_told(peer):
                self._tell(peer, topic, ids)
        since = self._tick - ASKED_LATELY
        rest = []
        for peer in self._others(topic, members):
            if peer.asked is not None and peer.asked >= since:
                self._tell(peer, topic, ids)
            else:
                rest.append(peer)
        for peer in self._some(rest):
            self._tell(peer, topic, ids)

    def heartbeat(
        self, now: float, tick: int, topics: Iterable[tuple[str, dict[PeerID, Peer]]]
    ) -> None:
        """Tell some peers what was seen, and find broken promises.

        :param topics: each with its mesh or fanout, whose members need not be told.
        """
        self._tick = tick
        self._asked.clear()
        self._check_promises(now)
        oldest = tick - self._params.idontwant_ttl
        for peer_id, peer in list(self._refusing.items()):
            for message_id in [k for k, said in peer.dont_send.items() if said <= oldest]:
                del peer.dont_send[message_id]
            if not peer.dont_send:
                del self._refusing[peer_id]
        for topic, members in topics:
            self._emit(topic, members)
        self._cache.shift()

    def remove_peer(self, peer: Peer) -> None:
        """The peer is gone; a promise that its link's end broke is nothing to blame it for."""
        self._refusing.pop(peer.peer_id, None)
        for message_id, promisers in list(self._promises.items()):
            promisers.pop(peer.peer_id, None)
            if not promisers:
                del self._promises[message_id]

    # -- inside

    def _may_ask(self, message_id: bytes, wanted: int) -> bool:
        asked = self._asked.get(message_id)
        if asked is None:
            return len(self._asked) + wanted < self._params.max_asked
        return asked < ASKED_PER_MESSAGE

    def _promised(self, peer: Peer, message_id: bytes, now: float) -> None:
        promisers = self._promises.setdefault(message_id, {})
        if peer.peer_id not in promisers:
            promisers[peer.peer_id] = None
            self._due.append(
                (now + self._params.iwant_followup, self._tick, message_id, peer.peer_id)
            )

    def _check_promises(self, now: float) -> None:
        """Blame peers whose promise is overdue.

        It must be overdue in heartbeats too: when this node did not run for a while, what was
        promised may wait unread in its own sockets.
        """
        due = self._due
        beats = int(self._params.iwant_followup / self._params.heartbeat_interval)
        while due and due[0][0] <= now and due[0][1] + beats < self._tick:
            _, _, message_id, peer_id = due.popleft()
            promisers = self._promises.get(message_id)
            if promisers is None or peer_id not in promisers:
                continue
            del promisers[peer_id]
            if not promisers:
                del self._promises[message_id]
            self._ignored["promise_broken"] += 1
            self._scores.misbehaved(peer_id)

    def _emit(self, topic: str, members: dict[PeerID, Peer]) -> None:
        ids = self._cache.gossip_ids(topic)
        if not ids:
            return
        for peer in self._some(self._others(topic, members)):
            self._tell(peer, topic, ids)

    def _others(self, topic: str, members: dict[PeerID, Peer]) -> list[Peer]:
        return [
            peer
            for peer_id, peer in self._peers.in_topic(topic).items()
            if peer_id not in members and self._may_be_told(peer)
        ]

    def _some(self, candidates: list[Peer]) -> list[Peer]:
        count = max(self._params.d_lazy, int(self._params.gossip_factor * len(candidates)))
        return choose(self._random, candidates, count)

    def _may_be_told(self, peer: Peer) -> bool:
        threshold = self._params.score.gossip_threshold
        return (
            peer.meshes and not peer.congested and not self._scores.below(peer.peer_id, threshold)
        )

    def _tell(self, peer: Peer, topic: str, ids: list[bytes]) -> None:
        if len(ids) > self._params.max_ihave_length:
            # Each is told of others, so that together they hear of all.
            ids = choose(self._random, ids, self._params.max_ihave_length)
        self._peers.ihave(peer, topic, ids)
