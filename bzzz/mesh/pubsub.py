"""Pubsub on the links of a swarm: the gossipsub core fed by streams.

Enters: links, the bytes of their pubsub streams, what the application publishes. Leaves: RPCs on
those streams, validated messages to the application. As libp2p has it (specs, pubsub/README.md
"Stream management"), each side sends on a stream that it opened and only reads the other.

Bad input costs the peer its link. A peer that reads too slowly is sent no gossip, and loses its
link when too much waits for it. A stream to a peer that is lost or refused is opened again, ever
more rarely, while the link lives.
"""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Callable

from twisted.logger import Logger

from bzzz.errors import RemoteProtocolError
from bzzz.identity.keys import PrivateKey
from bzzz.identity.peer_id import PeerID
from bzzz.mesh.pubsub_streams import Conversation, Inbound, Inbounds
from bzzz.net.interfaces import Clock
from bzzz.net.link import Link
from bzzz.net.periodic import Periodic
from bzzz.net.swarm import Swarm
from bzzz.net.token_bucket import Rate
from bzzz.wire.framing import frame
from bzzz.wire.gossip_params import PROTOCOLS, GossipParams, Randomness
from bzzz.wire.gossip_score import ScoreParts
from bzzz.wire.gossipsub import (
    GossipEvent,
    Gossipsub,
    Message,
    MessageReceived,
    PeerSubscribed,
)
from bzzz.wire.identify import Identify
from bzzz.wire.multiaddr import Multiaddr

__all__ = ["PubSub", "ValidationResult"]

# What may wait for one peer before gossip to it stops, in bytes: about a second of a busy mesh.
SLOW = 256 << 10

# What may wait for one peer before its link is closed, in bytes: some of the largest RPCs, and
# some 1000 messages of 4 KiB. A peer further behind gets more from a fresh start.
TOO_SLOW = 4 << 20

# Peers that are sent to in one go, with or without time left in the turn: 2 to 3 ms, as a message
# to 99 took 12 to 17.
AT_ONCE = 16


# How fast one peer may open streams of one version: one for each link, and another when that was
# lost or refused, a second later at first and ever later then.
STREAMS = Rate(32, 1.0)


class ValidationResult(enum.Enum):
    """What a validator says of a message (gossipsub-v1.1.md "Extended Validators").

    REJECT blames whoever sent it, so it is only for what every implementation on the topic
    refuses; what this node alone knows to be wrong is for IGNORE. UNHURRIED is ACCEPT for what
    authors send to each of their peers, which then need not push it at once.
    """

    ACCEPT = "accept"
    UNHURRIED = "unhurried"
    IGNORE = "ignore"
    REJECT = "reject"


Validator = Callable[[Message, PeerID], ValidationResult]
OnMessage = Callable[[Message, PeerID], object]
OnPeerSubscribed = Callable[[PeerID, str], object]


class PubSub:
    """Topics of one node.

    :param first_seqno: higher than any that an earlier run of this node can have reached, such as
        the wall clock in nanoseconds.
    :param admits: whether a peer may be the author of a message. What others have written is
        neither delivered nor forwarded, and nobody is blamed, as rosters differ for moments.
    :ivar core: the protocol, for status pages and tests.
    """

    _log = Logger()

    def __init__(
        self,
        swarm: Swarm,
        key: PrivateKey,
        clock: Clock,
        random: Randomness,
        params: GossipParams,
        first_seqno: int,
        admits: Callable[[PeerID], bool] = lambda peer: True,
    ) -> None:
        self._admits = admits
        self.core = Gossipsub(key, params, random, first_seqno)
        self._swarm = swarm
        self._clock = clock
        self._params = params
        self._topics: dict[str, tuple[Validator, OnMessage]] = {}
        self._on_peer_subscribed: list[OnPeerSubscribed] = []
        self._peers: dict[PeerID, Conversation] = {}
        self._inbounds: dict[Link, Inbound] = {}
        self._slow: dict[PeerID, Conversation] = {}
        self._counts: Counter[str] = Counter()
        # Frames that have no time in this turn: a message to a hundred peers takes 10 ms and more.
        self._unsent: dict[PeerID, list[bytes]] = {}
        self._flush_planned = False
        self._running = False
        self._heartbeat = Periodic(
            clock, params.heartbeat_interval, self._beat, "the gossip heartbeat", self._log
        )
        for protocol_id in PROTOCOLS:
            swarm.handle(protocol_id, Inbounds(self), rate=STREAMS)
        swarm.add_observer(self)

    # -- for the application

    def start(self) -> None:
        """Talk to the peers that are linked, and to those that come."""
        if self._running:
            return
        self._running = True
        self._heartbeat.start(now=False)
        for link in list(self._swarm.links.values()):
            self.link_up(link)

    def stop(self) -> None:
        """Send what is queued, and talk no more."""
        if not self._running:
            return
        self._flush()
        self._running = False
        self._heartbeat.stop()
        for conversation in list(self._peers.values()):
            self._forget(conversation)
        for inbound in list(self._inbounds.values()):
            inbound.abort()

    def subscribe(self, topic: str, validator: Validator, on_message: OnMessage) -> None:
        """Be in the topic.

        :param validator: judges each new message, given with the peer that sent it (not its
            author), before it is forwarded; called in the reactor, so it has to be quick.
        :param on_message: gets each accepted message, and who sent it.
        """
        self._topics[topic] = (validator, on_message)
        self.core.subscribe(topic, self._clock.seconds())
        self._flush_soon()

    def unsubscribe(self, topic: str) -> None:
        """Leave the topic."""
        self._topics.pop(topic, None)
        self.core.unsubscribe(topic, self._clock.seconds())
        self._flush_soon()

    def publish(self, topic: str, data: bytes) -> Message:
        """Sign and send ``data`` to everybody in the topic but this node's own callbacks.

        :raises LocalProtocolError: it is too long.
        """
        message = self.core.publish(topic, data, self._clock.seconds())
        self._flush_soon()
        return message

    def forget_messages(self) -> None:
        """Forward nothing more of what came so far, nor send what waits to be sent."""
        self.core.forget_messages()
        self._take_rpcs()
        self._unsent.clear()

    def send_directly(self, peer: PeerID, message: Message) -> None:
        """Send one peer a message that was published before."""
        self.core.send_directly(peer, message)
        self._flush_soon()

    def on_peer_subscribed(self, callback: OnPeerSubscribed) -> None:
        """Have ``callback`` told of each peer that enters a topic, and of the topic.

        A peer whose link was replaced enters anew.
        """
        self._on_peer_subscribed.append(callback)

    def set_application_score(self, peer: PeerID, value: float) -> None:
        """What the application thinks of the peer; negative takes it out of the meshes."""
        self.core.set_application_score(peer, value)

    @property
    def stats(self) -> dict[str, int]:
        """Counts since the start, by name: what was done, and what was not and why."""
        counts = dict(self.core.counts)
        counts.update(self._counts)
        for reason, count in self.core.ignored.items():
            counts[f"ignored_{reason}"] = count
        return counts

    def mesh_peers(self, topic: str) -> tuple[PeerID, ...]:
        """The peers that the topic's messages are exchanged with."""
        return self.core.mesh_peers(topic)

    def topic_peers(self, topic: str) -> tuple[PeerID, ...]:
        """The peers that are in the topic."""
        return self.core.topic_peers(topic)

    def scores(self) -> dict[PeerID, ScoreParts]:
        """What each peer is worth."""
        return self.core.scores()

    # -- swarm observer

    def link_up(self, link: Link) -> None:
        """Open the stream to a new peer."""
        if not self._running:
            return
        existing = self._peers.get(link.remote_peer)
        if existing is not None:
            if existing.link is link:
                return
            self._forget(existing)
        conversation = self._peers[link.remote_peer] = Conversation(self, link)
        conversation.open()

    def link_down(self, link: Link, reason: str) -> None:
        """The peer is gone, or its link is about to be replaced."""
        conversation = self._peers.get(link.remote_peer)
        if conversation is not None and conversation.link is link:
            self._forget(conversation)

    def identified(self, link: Link, identify: Identify) -> None:
        """The peer says what it speaks: do not wait to try again if it is pubsub."""
        conversation = self._peers.get(link.remote_peer)
        if conversation is not None and conversation.link is link:
            conversation.speaks(any(name in PROTOCOLS for name in identify.protocols))

    def copy_found(self, address: Multiaddr | None) -> None:
        """Not of interest here."""

    # -- for the streams

    @property
    def max_rpc_size(self) -> int:
        """The longest RPC that is read, in bytes."""
        return self._params.max_rpc_size

    def opened(self, conversation: Conversation, protocol_id: str) -> None:
        """The stream to a peer is open."""
        link = conversation.link
        where = None if link.remote_multiaddr is None else link.remote_multiaddr.host_port()
        self.core.add_peer(
            link.remote_peer,
            protocol_id,
            outbound=link.is_initiator,
            address=None if where is None else where[1],
            now=self._clock.seconds(),
        )
        self._flush_soon()

    def closed(self, conversation: Conversation) -> None:
        """The stream to a peer was lost."""
        peer = conversation.link.remote_peer
        self._slow.pop(peer, None)
        self._unsent.pop(peer, None)
        self.core.stream_lost(peer)

    def inbound(self, link: Link) -> Inbound | None:
        """Who reads a stream that a peer opened; None if the peer is not talked to.

        The link may be one that was replaced and still delivers its last. Of a link's streams
        only the newest is read, so that a peer cannot have many half-sent RPCs kept here.
        """
        if link.remote_peer not in self._peers:
            return None
        older = self._inbounds.get(link)
        inbound = self._inbounds[link] = Inbound(self, link)
        if older is not None:
            self._counts["inbound_replaced"] += 1
            older.abort()
        return inbound

    def inbound_lost(self, link: Link, inbound: Inbound) -> None:
        """The stream from a peer is gone."""
        if self._inbounds.get(link) is inbound:
            del self._inbounds[link]

    def received(self, link: Link, rpc: bytes) -> None:
        """A peer sent an RPC.

        :raises RemoteProtocolError: it is none.
        """
        peer = link.remote_peer
        if peer not in self._peers:
            return
        now = self._clock.seconds()
        self._counts["rpcs_received"] += 1
        for event in self.core.receive_rpc(peer, rpc, now):
            self._dispatch(event, now)
        self._flush_soon()

    def offended(self, link: Link, error: RemoteProtocolError) -> None:
        """A peer broke the rules: its link goes."""
        self._counts[f"offence_{error.code}"] += 1
        self._log.info(
            "{peer} broke the rules of pubsub: {error}", peer=link.remote_peer, error=error
        )
        link.abort(f"{error} ({error.code})")

    # -- inside

    def _dispatch(self, event: GossipEvent, now: float) -> None:
        if isinstance(event, MessageReceived):
            self._judge(event.message, event.sender, now)
        elif isinstance(event, PeerSubscribed):
            for callback in self._on_peer_subscribed:
                try:
                    callback(event.peer, event.topic)
                except Exception:  # noqa: BLE001 - a bug there must not cost the peer its link
                    self._log.failure("a callback of a subscription failed")

    def _judge(self, message: Message, sender: PeerID, now: float) -> None:
        if not self._admits(message.origin):
            self.core.unsee(message.id)
            self._counts["author_not_admitted"] += 1
            return
        validator, on_message = self._topics[message.topic]
        try:
            result = validator(message, sender)
        except Exception:  # noqa: BLE001 - whatever is wrong in it, the peer is not to blame
            self._log.failure("the validator of {topic} failed", topic=message.topic)
            result = ValidationResult.IGNORE
            self._counts["validator_failed"] += 1
        self._counts[f"validation_{result.value}"] += 1
        if result is ValidationResult.REJECT:
            self.core.reject(message.id)
        elif result is ValidationResult.IGNORE:
            self.core.ignore(message.id)
        else:
            # Others first: the application may take its time.
            self.core.accept(message.id, now, result is ValidationResult.UNHURRIED)
            try:
                on_message(message, sender)
            except Exception:  # noqa: BLE001 - a bug there must not cost the peer its link
                self._log.failure("a message on {topic} was not handled", topic=message.topic)
                self._counts["delivery_failed"] += 1

    def _beat(self) -> None:
        self._look_at_slow_peers()
        self.core.heartbeat(self._clock.seconds())
        for peer, reason in self.core.peers_to_drop():
            conversation = self._peers.get(peer)
            if conversation is not None:
                self._counts["dropped_invalid"] += 1
                conversation.link.abort(reason)
        self._flush_soon()

    def _flush_soon(self) -> None:
        """Send at this turn's end or in the next ones: what comes together goes together.

        When links wait for their turn this waits behind them, so that a busy node sends fewer and
        longer RPCs, and so do its peers read.
        """
        if not self._flush_planned and self._running:
            self._flush_planned = True
            self._swarm.turns.wait(self._flush_as_planned)

    def _flush_as_planned(self) -> None:
        self._flush_planned = False
        if self._running:
            self._take_rpcs()
            turns = self._swarm.turns
            sent = 0
            while self._unsent and (sent < AT_ONCE or turns.has_time):
                self._send_next()
                sent += 1
            if self._unsent:
                self._flush_soon()

    def _flush(self) -> None:
        """Send all there is, however long it takes."""
        self._take_rpcs()
        while self._unsent:
            self._send_next()

    def _take_rpcs(self) -> None:
        unsent = self._unsent
        last = framed = b""
        for peer, rpc in self.core.take_rpcs():
            # Usually one message for many peers: they share its frame, too.
            if rpc is not last:
                last, framed = rpc, frame(rpc)
            unsent.setdefault(peer, []).append(framed)

    def _send_next(self) -> None:
        peer = next(iter(self._unsent))
        frames = self._unsent.pop(peer)
        conversation = self._peers.get(peer)
        if conversation is not None:
            self._counts["rpcs_sent"] += len(frames)
            self._write(conversation, frames[0] if len(frames) == 1 else b"".join(frames))

    def _write(self, conversation: Conversation, data: bytes) -> None:
        waiting = conversation.write(data)
        if waiting <= SLOW:
            return
        peer = conversation.link.remote_peer
        if waiting > TOO_SLOW:
            self._counts["dropped_slow"] += 1
            conversation.link.abort(
                f"it reads its pubsub messages too slowly, {waiting} bytes are waiting"
            )
        elif peer not in self._slow:
            self._slow[peer] = conversation
            self._counts["slow"] += 1
            self.core.set_congested(peer, True)

    def _look_at_slow_peers(self) -> None:
        for peer, conversation in list(self._slow.items()):
            if conversation.waiting <= SLOW:
                del self._slow[peer]
                self.core.set_congested(peer, False)

    def _forget(self, conversation: Conversation) -> None:
        peer = conversation.link.remote_peer
        del self._peers[peer]
        self._unsent.pop(peer, None)
        self._slow.pop(peer, None)
        self.core.remove_peer(peer, self._clock.seconds())
        conversation.end()
