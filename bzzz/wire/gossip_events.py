"""What the gossipsub core tells: the events that :meth:`Gossipsub.receive_rpc` returns."""

from __future__ import annotations

from dataclasses import dataclass

from bzzz.identity.peer_id import PeerID
from bzzz.wire.gossip_message import Message

__all__ = [
    "GossipEvent",
    "MessageReceived",
    "MessageRejected",
    "PeerSubscribed",
    "PeerUnsubscribed",
]


@dataclass(frozen=True, slots=True)
class MessageReceived:
    """A new message with a valid signature; it waits for accept, ignore or reject."""

    message: Message
    sender: PeerID


@dataclass(frozen=True, slots=True)
class MessageRejected:
    """A message broke StrictSign, see ``code``, and was thrown away."""

    sender: PeerID
    code: str


@dataclass(frozen=True, slots=True)
class PeerSubscribed:
    """The peer is in the topic now."""

    peer: PeerID
    topic: str


@dataclass(frozen=True, slots=True)
class PeerUnsubscribed:
    """The peer left the topic; not said of peers that are removed."""

    peer: PeerID
    topic: str


GossipEvent = MessageReceived | MessageRejected | PeerSubscribed | PeerUnsubscribed
