"""What this node tells all others of itself, and what it heard of them.

Enters: this node's capability document and availability, and the messages of peers. Leaves: a
``capability_broadcast`` and an ``availability_broadcast`` on ``bzzz/coordination/v1`` each interval
and at once on a change; the latest of both, sent straight to a peer that enters the topic; the
tables of what peers said; log lines and events. ``antennae/meta-discussion/v1`` is listened to and
shown.

A message that is wrong is rejected, which counts against its sender, only when the sender is also
its author: Go nodes forward without looking, and are not to be blamed for others.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping
from typing import Any, Protocol, TypeVar

import msgspec
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from bzzz.errors import RemoteProtocolError
from bzzz.identity.peer_id import PeerID
from bzzz.mesh import messages
from bzzz.mesh.availability import Availability, AvailabilityDocument
from bzzz.mesh.capability import CapabilityDocument
from bzzz.mesh.heard import Heard
from bzzz.mesh.line_limit import LineLimit
from bzzz.mesh.messages import AVAILABILITY, CAPABILITY, COORDINATION_TOPIC, DISCUSSION_TOPIC
from bzzz.mesh.pubsub import ValidationResult
from bzzz.net.interfaces import Clock
from bzzz.wire.gossip_message import Message

__all__ = ["Broadcasts", "Topics"]

D = TypeVar("D", CapabilityDocument, AvailabilityDocument)

# Seconds between two broadcasts of one kind: a program that changes something in a loop must not
# flood the mesh.
APART = 0.1


class Topics(Protocol):
    """What is used of :class:`bzzz.mesh.pubsub.PubSub`."""

    def subscribe(
        self,
        topic: str,
        validator: Callable[[Message, PeerID], ValidationResult],
        on_message: Callable[[Message, PeerID], object],
    ) -> None:
        """Be in the topic."""

    def publish(self, topic: str, data: bytes) -> Message:
        """Sign and send to everybody in the topic."""

    def send_directly(self, peer: PeerID, message: Message) -> None:
        """Send one peer what was published before."""

    def on_peer_subscribed(self, callback: Callable[[PeerID, str], object]) -> None:
        """Have ``callback`` told of each peer that enters a topic."""

    def topic_peers(self, topic: str) -> Collection[PeerID]:
        """The peers in the topic that are linked."""


class Broadcasts:
    """Tells and listens.

    :param wall_time: seconds since the epoch.
    :param interval: seconds between two broadcasts.
    :param document: makes this node's capability document as it is now.
    :param emit: takes an event's name and its fields.
    :param name_of: the name of a peer as far as it is known otherwise.
    :ivar on_update: called with a peer that has said something.
    :ivar heard: what peers said.
    :ivar rejected: how often a message was wrong, by code; :mod:`bzzz.mesh.messages` has the table.
    """

    _log = Logger()

    def __init__(
        self,
        *,
        pubsub: Topics,
        clock: Clock,
        wall_time: Callable[[], float],
        interval: float,
        peer_id: PeerID,
        document: Callable[[], CapabilityDocument],
        availability: Availability,
        emit: Callable[..., Any],
        name_of: Callable[[PeerID], str] = lambda peer: "",
        on_update: Callable[[PeerID], object] = lambda peer: None,
    ) -> None:
        self.heard = Heard(wall_time, clock)
        self.rejected: Counter[str] = Counter()
        self._pubsub = pubsub
        self._clock = clock
        self._wall_time = wall_time
        self._interval = interval
        self._peer_id = peer_id
        self._emit = emit
        self._name_of = name_of
        self.on_update = on_update
        self._running = False
        self._last_decoded: tuple[Message, messages.Received] | None = None
        # What is not at info is at debug.
        self._lines = LineLimit(clock)
        self._capability = _Outlet(self, CAPABILITY, document)
        self._availability = _Outlet(
            self, AVAILABILITY, lambda: availability.document(str(peer_id))
        )
        self._loop = LoopingCall(self._tick)
        self._loop.clock = clock  # type: ignore[assignment]  # typed as the global reactor
        availability.on_change(self._availability.changed)
        pubsub.on_peer_subscribed(self._peer_subscribed)

    # -- for the node

    def start(self) -> None:
        """Enter the topics and tell at once."""
        if self._running:
            return
        self._running = True
        self._pubsub.subscribe(COORDINATION_TOPIC, self._validate, self._received)
        self._pubsub.subscribe(DISCUSSION_TOPIC, self._validate_discussion, self._discussed)
        self._loop.start(self._interval)

    def stop(self) -> None:
        """Tell no more."""
        self._running = False
        if self._loop.running:
            self._loop.stop()
        self._capability.stop()
        self._availability.stop()

    def set_interval(self, interval: float) -> None:
        """Tell each ``interval`` seconds from now on; the next time is so far from now."""
        self._interval = interval
        if self._loop.running:
            self._loop.stop()
            self._loop.start(interval, now=False)

    def changed(self) -> None:
        """The capability document may say something else now: tell if it does."""
        self._capability.changed()

    def tell_anew(self) -> None:
        """Tell all again: who has heard it before, and was to forget it, takes no copy of it."""
        if self._running:
            self._tick()

    @property
    def documents(self) -> dict[PeerID, CapabilityDocument]:
        """The newest capability document of each peer that sent one."""
        return self.heard.documents

    @property
    def availabilities(self) -> dict[PeerID, AvailabilityDocument]:
        """The newest availability of each peer that sent one."""
        return self.heard.availabilities

    def forget(self, peer: PeerID) -> None:
        """The peer is no member any more."""
        self.heard.forget(peer)

    def forget_all(self) -> None:
        """Nobody who was heard so far is of interest."""
        self.forget_others(lambda peer: False)

    def forget_others(self, kept: Callable[[PeerID], bool]) -> None:
        """Forget whoever is not to be kept."""
        for peer in {*self.heard.documents, *self.heard.availabilities}:
            if not kept(peer):
                self.heard.forget(peer)

    # -- telling

    @property
    def running(self) -> bool:
        """Whether anything is told at present."""
        return self._running

    def _tick(self) -> None:
        # A LoopingCall ends for ever when its body raises. Each of the two has its own chance.
        for outlet in (self._capability, self._availability):
            outlet.tell()

    def later(self, delay: float, call: Callable[[], object]) -> Any:
        """On this node's clock."""
        return self._clock.callLater(delay, call)

    def now(self) -> float:
        """Seconds of this node's clock."""
        return self._clock.seconds()

    def publish(
        self,
        kind: str,
        document: CapabilityDocument | AvailabilityDocument,
        news: bool,
        loud: bool,
    ) -> Message:
        """Tell everybody.

        :param loud: whether a line at info says so; else it is at debug, but for capabilities.
        """
        payload = messages.encode(kind, self._peer_id, self._wall_time(), document)
        message = self._pubsub.publish(COORDINATION_TOPIC, payload)
        count = len(self._pubsub.topic_peers(COORDINATION_TOPIC))
        summary = document.describe()
        write = self._log.info if kind == CAPABILITY or loud else self._log.debug
        write(
            "{kind} sent: {summary} to {count} peer{s}",
            kind=kind,
            event=kind,
            summary=summary,
            count=count,
            s="" if count == 1 else "s",
        )
        self._log.debug("{kind} sent in full: {payload}", kind=kind, payload=payload.decode())
        self._emit(kind, direction="sent", summary=summary, peers=count, changed=news)
        return message

    def tell_news(self, kind: str, data: Mapping[str, object]) -> None:
        """Tell everybody something else, once."""
        if self._running:
            payload = messages.encode_news(kind, self._peer_id, self._wall_time(), data)
            self._pubsub.publish(COORDINATION_TOPIC, payload)

    def publish_failed(self, kind: str) -> None:
        """Called in the handling of an exception; the next tick comes all the same."""
        self._log.failure("{kind} could not be sent", kind=kind)

    def _peer_subscribed(self, peer: PeerID, topic: str) -> None:
        if topic != COORDINATION_TOPIC or not self._running:
            return
        for outlet in (self._capability, self._availability):
            if outlet.last is not None:
                self._pubsub.send_directly(peer, outlet.last)

    # -- listening

    def _validate(self, message: Message, sender: PeerID) -> ValidationResult:
        try:
            received = messages.decode(message.data, message.origin)
        except RemoteProtocolError as error:
            self.rejected[error.code] += 1
            write = self._log.warn if self._lines.allows(error.code) else self._log.debug
            write(
                "A message of {peer}, sent by {sender}, is wrong: {error} ({code})",
                peer=str(message.origin),
                sender=str(sender),
                error=str(error),
                code=error.code,
            )
            if message.origin == sender:
                return ValidationResult.REJECT
            return ValidationResult.IGNORE
        # It is delivered next, and need not be decoded again.
        self._last_decoded = (message, received)
        document = received.document
        if document is None or document.node_id != str(message.origin):
            return ValidationResult.ACCEPT
        # Of a node like this one, which sends it to each peer; Go nodes, whose IDs are in their
        # short form here, do not. News that a known peer has is for all, by the shortest way.
        if self.heard.is_news(received, document):
            return ValidationResult.ACCEPT
        return ValidationResult.UNHURRIED

    def _received(self, message: Message, sender: PeerID) -> None:
        decoded, self._last_decoded = self._last_decoded, None
        if message.origin == self._peer_id:
            return
        if decoded is not None and decoded[0] is message:
            received = decoded[1]
        else:
            received = messages.decode(message.data, message.origin)
        document = received.document
        if document is None:
            self._log.debug(
                "{kind} from {peer}: not of a kind known here",
                kind=messages.shown_type(received.type),
                peer=message.origin.short,
            )
            return
        linked = self._pubsub.topic_peers(COORDINATION_TOPIC)
        before, kept = self.heard.keep(received, document, linked)
        if not kept:
            self._log.debug(
                "{kind} from {peer} is older than what it said last, or there is no room for it",
                kind=received.type,
                peer=message.origin.short,
            )
            return
        changed = before is None or not before.same_as(document)  # type: ignore[arg-type]  # kinds are kept apart
        self._tell_of(received, document, changed, before)
        self.on_update(message.origin)

    def _tell_of(
        self,
        received: messages.Received,
        document: CapabilityDocument | AvailabilityDocument,
        changed: bool,
        before: CapabilityDocument | AvailabilityDocument | None,
    ) -> None:
        peer = received.sender
        name = self._name(peer)
        summary = document.describe()
        # What a new peer is doing at the moment is no news; that it is there has its own line.
        news = changed and not (before is None and received.type == AVAILABILITY)
        what: list[str] = []
        if (
            changed
            and isinstance(document, CapabilityDocument)
            and isinstance(before, CapabilityDocument)
        ):
            # The summary may be the same as before, such as when the node's unit was restarted.
            what = document.changed_since(before)
        write = (
            self._log.info
            if news and self._lines.allows((peer, received.type))
            else self._log.debug
        )
        write(
            "{kind} from {short} ({name}): {summary}{changes}",
            kind=received.type,
            event=received.type,
            short=peer.short,
            name=name or "name unknown",
            summary=summary,
            changes=f"; changed: {', '.join(what)}" if what else "",
            peer_id=str(peer),
        )
        # Repeats are most of the messages, and say nothing that is not known.
        fields = {"document": msgspec.to_builtins(document)} if changed else {}
        if changed:
            self._log.debug(
                "{kind} from {short} in full: {document}",
                kind=received.type,
                short=peer.short,
                **fields,
            )
        self._emit(
            received.type,
            direction="received",
            peer_id=str(peer),
            name=name,
            summary=summary,
            changed=changed,
            **fields,
        )

    def _name(self, peer: PeerID) -> str:
        document = self.heard.documents.get(peer)
        return (document.name if document is not None else "") or self._name_of(peer)

    # -- the discussion of the Go nodes

    def _validate_discussion(self, message: Message, sender: PeerID) -> ValidationResult:
        # It is whatever the Go nodes' models say to each other, with no form to check.
        return ValidationResult.ACCEPT

    def _discussed(self, message: Message, sender: PeerID) -> None:
        if message.origin == self._peer_id:
            return
        kind, text = messages.discussion_text(message.data)
        name = self._name(message.origin)
        write = self._log.info if self._lines.allows(DISCUSSION_TOPIC) else self._log.debug
        write(
            "{kind} from {short} ({name}): {text}",
            kind=kind or "discussion",
            event="discussion",
            short=message.origin.short,
            name=name or "name unknown",
            text=text,
            peer_id=str(message.origin),
        )
        self._emit(
            "discussion",
            peer_id=str(message.origin),
            name=name,
            type=kind,
            text=text,
        )


class _Outlet:
    """One kind of broadcast: told each interval, and on a change at once, but not too often.

    :ivar last: the last message sent.
    """

    def __init__(
        self,
        broadcasts: Broadcasts,
        kind: str,
        document: Callable[[], CapabilityDocument] | Callable[[], AvailabilityDocument],
    ) -> None:
        self.last: Message | None = None
        self._broadcasts = broadcasts
        self._kind = kind
        self._document = document
        self._told: CapabilityDocument | AvailabilityDocument | None = None
        self._told_at: float | None = None
        self._timer: Any = None

    def changed(self) -> None:
        """Tell it now, or as soon as it may be told again."""
        if not self._broadcasts.running or self._timer is not None:
            return
        delay = 0.0
        if self._told_at is not None:
            delay = self._told_at + APART - self._broadcasts.now()
        if delay <= 0:
            self.tell(only_news=True)
        else:
            self._timer = self._broadcasts.later(delay, self._due)

    def tell(self, only_news: bool = False) -> None:
        """Tell it; when ``only_news``, unless it is what was told last."""
        self.stop()
        try:
            document = self._document()
            news = self._told is None or not self._told.same_as(document)  # type: ignore[arg-type]  # one kind each
            if only_news and not news:
                return
            self.last = self._broadcasts.publish(
                self._kind, document, news, news and self._loud(document)
            )
            self._told = document
            self._told_at = self._broadcasts.now()
        except Exception:  # noqa: BLE001 - whatever one round raises, the next has to come
            self._broadcasts.publish_failed(self._kind)

    def _loud(self, document: CapabilityDocument | AvailabilityDocument) -> bool:
        """Whether people want to know: not of each task that begins or ends."""
        before = self._told
        return not (
            isinstance(before, AvailabilityDocument)
            and isinstance(document, AvailabilityDocument)
            and before.status == document.status
        )

    def stop(self) -> None:
        """Wait for nothing."""
        if self._timer is not None:
            timer, self._timer = self._timer, None
            if timer.active():
                timer.cancel()

    def _due(self) -> None:
        self._timer = None
        self.tell(only_news=True)
