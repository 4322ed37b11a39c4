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
    "StreamNegotiated",
    "StreamRefused",
    "StreamWasReset",
    "StreamWritable",
]


@dataclass(frozen=True, slots=True)
class LinkSecured:
    """The security handshake is done: who the peer is, proved (with plaintext: only claimed)."""

    remote_peer: PeerID
    remote_key: PublicKey


@dataclass(frozen=True, slots=True)
class LinkReady:
    """Streams can be opened; ``muxer`` is ``/yamux/1.0.0``."""

    muxer: str


@dataclass(frozen=True, slots=True)
class LinkEnded:
    """The peer ends the link, with this yamux code; nothing follows.

    :ivar reason: the code in words.
    """

    code: int
    reason: str


@dataclass(frozen=True, slots=True)
class PongReceived:
    """The peer answered the ping of this value."""

    value: int


@dataclass(frozen=True, slots=True)
class StreamNegotiated:
    """Both sides agree on what is spoken on the stream.

    :ivar inbound: whether the peer opened it; then this is the first that is heard of it.
    """

    stream_id: int
    protocol: str
    inbound: bool


@dataclass(frozen=True, slots=True)
class StreamRefused:
    """The peer speaks none of the protocols proposed for this outbound stream, which is gone."""

    stream_id: int
    reason: str


@dataclass(frozen=True, slots=True)
class StreamData:
    """Bytes of the stream. The peer may send as many more once ``consumed()`` was told of them."""

    stream_id: int
    data: bytes


@dataclass(frozen=True, slots=True)
class StreamEnded:
    """The peer sends no more on the stream; it may still read."""

    stream_id: int


@dataclass(frozen=True, slots=True)
class StreamWasReset:
    """The stream is gone: reset by the peer, or here for going over a limit."""

    stream_id: int


@dataclass(frozen=True, slots=True)
class StreamWritable:
    """The peer takes data again, after ``send_data()`` accepted less than was offered."""

    stream_id: int


Event = (
    LinkSecured
    | LinkReady
    | LinkEnded
    | PongReceived
    | StreamNegotiated
    | StreamRefused
    | StreamData
    | StreamEnded
    | StreamWasReset
    | StreamWritable
)
