"""What a :class:`~bzzz.wire.connection.Connection` tells its owner, in the order it happened.

Nothing enters; what leaves are these values. :mod:`~bzzz.wire.connection` exports them all.
"""

from __future__ import annotations

from dataclasses import dataclass

from bzzz.identity.keys import PublicKey
from bzzz.identity.peer_id import PeerID

__all__ = [
    "Event",
    "LinkEnded",
    "LinkReady",
    "LinkSecured",
    "PongReceived",
    "StreamData",
    "StreamEnded",
    "StreamEvent",
    "StreamNegotiated",
    "StreamOpened",
    "StreamRefused",
    "StreamWasReset",
    "StreamWritable",
]


@dataclass(frozen=True, slots=True)
class Event:
    """Something happened on the link."""


@dataclass(frozen=True, slots=True)
class LinkSecured(Event):
    """The security handshake is done: who the peer is, proved (with plaintext: claimed)."""

    remote_peer: PeerID
    remote_key: PublicKey


@dataclass(frozen=True, slots=True)
class LinkReady(Event):
    """Streams can be opened; ``muxer`` is ``/yamux/1.0.0``."""

    muxer: str


@dataclass(frozen=True, slots=True)
class LinkEnded(Event):
    """The peer ended the link with this yamux code; nothing follows.

    :ivar reason: the code in words.
    """

    code: int
    reason: str


@dataclass(frozen=True, slots=True)
class PongReceived(Event):
    """The peer answered the ping of this value."""

    value: int


@dataclass(frozen=True, slots=True)
class StreamEvent(Event):
    """Something happened on one stream."""

    stream_id: int


@dataclass(frozen=True, slots=True)
class StreamOpened(StreamEvent):
    """The peer opened a stream. Between yamux and the connection only: its protocol is not known."""


@dataclass(frozen=True, slots=True)
class StreamNegotiated(StreamEvent):
    """Both sides agree on what is spoken on the stream.

    :ivar inbound: whether the peer opened it; then this is the first that is heard of it.
    """

    protocol: str
    inbound: bool


@dataclass(frozen=True, slots=True)
class StreamRefused(StreamEvent):
    """The peer speaks none of the protocols proposed for this outbound stream, which is gone."""

    reason: str


@dataclass(frozen=True, slots=True)
class StreamData(StreamEvent):
    """Bytes of the stream. The peer may send as many more once ``consumed()`` was told of them."""

    data: bytes


@dataclass(frozen=True, slots=True)
class StreamEnded(StreamEvent):
    """The peer will send no more on the stream; it may still read."""


@dataclass(frozen=True, slots=True)
class StreamWasReset(StreamEvent):
    """The stream is gone: reset by the peer, or here for exceeding a limit."""


@dataclass(frozen=True, slots=True)
class StreamWritable(StreamEvent):
    """The peer takes data again, after ``send_data()`` accepted less than was offered."""
