"""The meshes of gossipsub: which peers of a topic messages go to, kept at their degree.

Enters: joining and leaving topics, GRAFT and PRUNE of peers, heartbeats. Leaves: GRAFT and PRUNE
for peers, and the peers to send a message to. libp2p specs: gossipsub-v1.0.md "Topic Membership",
"Mesh Maintenance" and "Fanout Maintenance"; gossipsub-v1.1.md "PRUNE Backoff and Peer Exchange",
"Outbound Mesh Quotas", "Heartbeat Maintenance" and "Opportunistic Grafting".

No peer exchange: links are made by membership, which knows who may be linked. Peers offered in
a PRUNE are ignored and none are offered.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from statistics import median

from bzzz.identity.peer_id import PeerID
from bzzz.wire.gossip_backoff import Backoffs
from bzzz.wire.gossip_params import GossipParams, Randomness, choose
from bzzz.wire.gossip_peers import Peer, Peers
from bzzz.wire.gossip_score import PeerScores

__all__ = ["Meshes"]


class Meshes:
    """The meshes of the topics that this node is in, and the fanout of those it only publishes to.

    :ivar meshes: by topic, the peers that messages are exchanged with.
    """

    def __init__(
        self,
        params: GossipParams,
        peers: Peers,
        scores: PeerScores,
        random: Randomness,
        ignored: Counter[str],
    ) -> None:
        self._params = params
        self._peers = peers
        self._scores = scores
        self._random = random
        self._ignored = ignored
        self._backoffs = Backoffs(params.backoff_slack, params.max_backoffs)
        self._fanout: dict[str, dict[PeerID, Peer]] = {}
        self._published: dict[str, float] = {}
        self.meshes: dict[str, dict[PeerID, Peer]] = {}

    # -- this node

    def join(self, topic: str, now: float) -> None:
        """This node subscribes: build a mesh, from the fanout first."""
        self.meshes[topic] = {}
        self._published.pop(topic, None)
        for peer in self._fanout.pop(topic, {}).values():
            if self._eligible(peer, topic, now):
                self._graft(peer, topic, now)
        self._fill(topic, now)

    def leave(self, topic: str, now: float) -> None:
        """This node unsubscribes: take leave of the mesh."""
        backoff = self._params.unsubscribe_backoff
        for peer in list(self.meshes[topic].values()):
            self._prune(peer, topic, backoff, now)
        del self.meshes[topic]

    def fanout(self, topic: str, now: float) -> dict[PeerID, Peer]:
        """The peers that get what this node publishes in a topic that it is not in."""
        self._published[topic] = now
        fanout = self._fanout.setdefault(topic, {})
        self._fill_fanout(topic, fanout)
        return fanout

    def gossip_topics(self) -> list[str]:
        """The topics that peers are told about: meshes and fanouts."""
        return [*self.meshes, *self._fanout]

    def members(self, topic: str) -> dict[PeerID, Peer]:
        """The mesh or the fanout of the topic."""
        mesh = self.meshes.get(topic)
        return mesh if mesh is not None else self._fanout.get(topic, {})

    # -- peers

    def peer_ready(self, peer: Peer, now: float) -> None:
        """The peer can be written to: take it into the meshes that lack peers."""
        for topic in peer.topics:
            self.peer_subscribed(peer, topic, now)

    def peer_subscribed(self, peer: Peer, topic: str, now: float) -> None:
        """The peer subscribed: a mesh that lacks peers does not wait for the heartbeat."""
        mesh = self.meshes.get(topic)
        if (
            mesh is not None
            and len(mesh) < self._params.d_low
            and peer.peer_id not in mesh
            and self._eligible(peer, topic, now)
        ):
            self._graft(peer, topic, now)

    def peer_unsubscribed(self, peer: Peer, topic: str) -> None:
        """The peer left the topic."""
        self._drop(peer, topic)
        fanout = self._fanout.get(topic)
        if fanout is not None:
            fanout.pop(peer.peer_id, None)

    def remove_peer(self, peer: Peer) -> None:
        """The peer is gone, or cannot be written to for now."""
        for topic in self.meshes:
            self._drop(peer, topic)
        for fanout in self._fanout.values():
            fanout.pop(peer.peer_id, None)

    def graft_received(self, peer: Peer, topic: str, now: float) -> None:
        """The peer took this node into its mesh; agree, or refuse with a PRUNE."""
        mesh = self.meshes.get(topic)
        if mesh is None:
            # Not answered: that would let a peer have this node send at will.
            self._ignored["graft_unknown_topic"] += 1
            return
        if peer.peer_id in mesh:
            return
        if not peer.meshes:
            self._ignored["graft_without_stream"] += 1
            return
        until = self._backoffs.until(topic, peer.peer_id)
        if until is not None and now < until:
            self._ignored["graft_in_backoff"] += 1
            self._scores.misbehaved(peer.peer_id)
            params = self._params
            if now < until - params.prune_backoff + params.graft_flood_threshold:
                self._scores.misbehaved(peer.peer_id)
            self._refuse(peer, topic, now)
        elif self._scores.below(peer.peer_id, 0.0):
            self._ignored["graft_low_score"] += 1
            self._refuse(peer, topic, now)
        elif len(mesh) >= self._params.d_high and not peer.outbound:
            # A peer that this node dialled is let in: not all members shall be of the kind that
            # chose this node; the heartbeat takes the surplus out.
            self._refuse(peer, topic, now)
        else:
            mesh[peer.peer_id] = peer
            self._scores.joined_mesh(peer.peer_id, topic, now)

    def prune_received(self, peer: Peer, topic: str, backoff: int, now: float) -> None:
        """The peer took this node out of its mesh.

        :param backoff: how long not to graft it, in seconds; 0 if the peer did not say.
        """
        if topic not in self.meshes:
            self._ignored["prune_unknown_topic"] += 1
            return
        self._drop(peer, topic)
        wait = backoff or self._params.prune_backoff
        self._backoffs.add(topic, peer.peer_id, now + min(wait, self._params.max_backoff))

    # -- heartbeat

    def heartbeat(self, now: float, tick: int) -> None:
        """Keep every mesh and fanout at its degree."""
        if tick % 15 == 0:
            self._backoffs.expire(now)
        opportune = tick % self._params.opportunistic_graft_ticks == 0
        for topic in list(self.meshes):
            self._maintain(topic, now, opportune)
        for topic, published in list(self._published.items()):
            if now - published > self._params.fanout_ttl:
                del self._published[topic]
                self._fanout.pop(topic, None)
            else:
                self._keep_fanout(topic)

    def _maintain(self, topic: str, now: float, opportune: bool) -> None:
        params = self._params
        mesh = self.meshes[topic]
        for peer in list(mesh.values()):
            if self._scores.below(peer.peer_id, 0.0):
                self._prune(peer, topic, params.prune_backoff, now)
        if len(mesh) < params.d_low:
            self._fill(topic, now)
        if len(mesh) > params.d_high:
            for peer in self._surplus(mesh):
                self._prune(peer, topic, params.prune_backoff, now)
        if len(mesh) >= params.d_low:
            missing = params.d_out - sum(peer.outbound for peer in mesh.values())
            if missing > 0:
                self._fill(topic, now, missing, lambda peer: peer.outbound)
        if opportune and len(mesh) > 1:
            scores = self._scores
            middle = median(scores.score(peer_id) for peer_id in mesh)
            if middle < params.score.opportunistic_graft_threshold:
                self._fill(
                    topic,
                    now,
                    params.opportunistic_graft_peers,
                    lambda peer: scores.score(peer.peer_id) > middle,
                )

    def _surplus(self, mesh: dict[PeerID, Peer]) -> list[Peer]:
        """Who to prune: all but ``d_score`` by score and the rest at random, ``d_out`` dialled."""
        params = self._params
        ranked = choose(self._random, mesh.values(), len(mesh))
        ranked.sort(key=lambda peer: self._scores.score(peer.peer_id), reverse=True)
        kept = ranked[: params.d_score]
        others = choose(self._random, ranked[params.d_score :], len(mesh))
        kept += others[: params.d - len(kept)]
        pruned = others[params.d - params.d_score :]
        missing = params.d_out - sum(peer.outbound for peer in kept)
        for candidate in [peer for peer in pruned if peer.outbound][: max(missing, 0)]:
            # Takes the place of the last one kept that was not dialled from here.
            place = max(index for index, peer in enumerate(kept) if not peer.outbound)
            pruned[pruned.index(candidate)] = kept[place]
            kept[place] = candidate
        return pruned

    def _fill(
        self,
        topic: str,
        now: float,
        count: int | None = None,
        wanted: Callable[[Peer], bool] = lambda peer: True,
    ) -> None:
        """Graft ``count`` peers of the topic, or as many as the mesh lacks of its degree."""
        mesh = self.meshes[topic]
        if count is None:
            count = self._params.d - len(mesh)
        if count <= 0:
            return
        candidates = [
            peer
            for peer_id, peer in self._peers.in_topic(topic).items()
            if peer_id not in mesh and wanted(peer) and self._eligible(peer, topic, now)
        ]
        for peer in choose(self._random, candidates, count):
            self._graft(peer, topic, now)

    def _keep_fanout(self, topic: str) -> None:
        fanout = self._fanout.get(topic)
        if fanout is None:
            return
        threshold = self._params.score.publish_threshold
        for peer_id in list(fanout):
            if self._scores.below(peer_id, threshold):
                del fanout[peer_id]
        self._fill_fanout(topic, fanout)

    def _fill_fanout(self, topic: str, fanout: dict[PeerID, Peer]) -> None:
        missing = self._params.d - len(fanout)
        if missing <= 0:
            return
        threshold = self._params.score.publish_threshold
        candidates = [
            peer
            for peer_id, peer in self._peers.in_topic(topic).items()
            if peer_id not in fanout and peer.meshes and not self._scores.below(peer_id, threshold)
        ]
        for peer in choose(self._random, candidates, missing):
            fanout[peer.peer_id] = peer

    # -- one peer in one mesh

    def _eligible(self, peer: Peer, topic: str, now: float) -> bool:
        return (
            peer.meshes
            and not self._backoffs.forbids(topic, peer.peer_id, now)
            and not self._scores.below(peer.peer_id, 0.0)
        )

    def _graft(self, peer: Peer, topic: str, now: float) -> None:
        self.meshes[topic][peer.peer_id] = peer
        self._scores.joined_mesh(peer.peer_id, topic, now)
        self._peers.graft(peer, topic)

    def _prune(self, peer: Peer, topic: str, backoff: float, now: float) -> None:
        self._drop(peer, topic)
        self._backoffs.add(topic, peer.peer_id, now + backoff)
        self._peers.prune(peer, topic, backoff)

    def _refuse(self, peer: Peer, topic: str, now: float) -> None:
        backoff = self._params.prune_backoff
        self._backoffs.add(topic, peer.peer_id, now + backoff)
        self._peers.prune(peer, topic, backoff)

    def _drop(self, peer: Peer, topic: str) -> None:
        mesh = self.meshes.get(topic)
        if mesh is not None and mesh.pop(peer.peer_id, None) is not None:
            self._scores.left_mesh(peer.peer_id, topic)
