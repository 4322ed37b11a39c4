"""The streams that pubsub uses on a link: one this way, one that way.

Enters: links, bytes of streams that peers open. Leaves: RPCs to and from a
:class:`~bzzz.mesh.pubsub.PubSub`. libp2p specs: pubsub/README.md "Stream management": each side
sends on the stream that it opened, and only reads the other.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any
from typing import Protocol as Shape

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IProtocol
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure

from bzzz.errors import RemoteProtocolError
from bzzz.net.link import Link
from bzzz.net.stream import Stream, StreamAddress
from bzzz.wire.framing import FrameReader
from bzzz.wire.gossip_message import split
from bzzz.wire.gossip_params import PROTOCOLS

__all__ = ["Conversation", "Inbound", "Inbounds", "StreamOwner"]

# Between attempts to open the stream to a peer, in seconds, doubling. Refusals come from a peer
# that speaks no pubsub, or is still starting.
RETRY_FIRST = 1.0
RETRY_MOST = 60.0

# Messages that are taken between looks at the time: a new one costs 0.3 ms or more.
MESSAGES = 4

# An RPC that is shorter is not searched for messages: it holds few, or such that are none.
SHORT = 2048


class StreamOwner(Shape):
    """What the streams need of pubsub."""

    @property
    def max_rpc_size(self) -> int:
        """The longest RPC that is read, in bytes."""

    def opened(self, conversation: Conversation, protocol_id: str) -> None:
        """The stream to a peer is open."""

    def closed(self, conversation: Conversation) -> None:
        """The stream to a peer was lost, perhaps with its link."""

    def inbound(self, link: Link) -> Inbound | None:
        """Who reads a stream that a peer opened; None if the peer is not talked to."""

    def inbound_lost(self, link: Link, inbound: Inbound) -> None:
        """The stream from a peer is gone."""

    def received(self, link: Link, rpc: bytes) -> None:
        """A peer sent an RPC."""

    def offended(self, link: Link, error: RemoteProtocolError) -> None:
        """A peer broke the rules."""


class Conversation:
    """Pubsub with the peer at the other end of a link: the stream to it, kept open.

    :ivar link: the link; a peer whose link is replaced gets a new conversation.
    """

    def __init__(self, owner: StreamOwner, link: Link) -> None:
        self.link = link
        self._owner = owner
        self._stream: Stream | None = None
        self._opening: Deferred[IProtocol] | None = None
        self._retry: IDelayedCall | None = None
        self._delay = RETRY_FIRST
        self._since = 0.0
        self._mute = False
        self._ended = False

    def open(self) -> None:
        """Open the stream to the peer."""
        self._retry = None
        self._opening = self.link.open_stream(PROTOCOLS, _Outbounds(self))
        self._opening.addCallbacks(self._open_succeeded, self._open_failed)

    def speaks(self, pubsub: bool) -> None:
        """Identify told whether the peer speaks pubsub: try now, or not again until it does."""
        self._mute = not pubsub
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
        if pubsub and self._stream is None and self._opening is None:
            self.open()

    def connected(self, stream: Stream) -> None:
        """The stream is open."""
        if self._ended:
            stream.abortConnection()
            return
        self._stream = stream
        self._since = self.link.clock.seconds()
        self._owner.opened(self, stream.protocol_id)

    def lost(self, stream: Stream) -> None:
        """The stream was lost; perhaps with the link, which then says so in the same turn."""
        if self._stream is stream:
            self._stream = None
            if self.link.clock.seconds() - self._since > RETRY_MOST:
                self._delay = RETRY_FIRST
            if not self._ended:
                self._owner.closed(self)
                self._open_later()

    def write(self, data: bytes) -> int:
        """Send ``data``; how many bytes wait to be sent now."""
        if self._stream is None:
            return 0
        self._stream.write(data)
        return self.waiting

    @property
    def waiting(self) -> int:
        """How many bytes wait to be sent."""
        return 0 if self._stream is None else self._stream.pending_bytes

    def offended(self, error: RemoteProtocolError) -> None:
        """The peer broke the rules."""
        self._owner.offended(self.link, error)

    def end(self) -> None:
        """Talk no more; the link may live on."""
        self._ended = True
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
        if self._opening is not None:
            self._opening.cancel()
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.loseConnection()

    def _open_succeeded(self, _: IProtocol) -> None:
        self._opening = None

    def _open_failed(self, failure: Failure) -> None:
        """Refused, reset, timed out or cancelled: none of it is an offence."""
        self._opening = None
        if not self._ended:
            self._open_later()

    def _open_later(self) -> None:
        if self._retry is None and self._opening is None and not self._mute:
            self._retry = self.link.clock.callLater(self._delay, self.open)
            self._delay = min(self._delay * 2, RETRY_MOST)


class _Outbounds(Factory):
    """Makes the protocol of the stream to a peer."""

    noisy = False

    def __init__(self, conversation: Conversation) -> None:
        self._conversation = conversation

    def buildProtocol(self, addr: Any) -> Protocol:
        """The sending side."""
        return _Outbound(self._conversation)


class _Outbound(Protocol):
    """The stream to a peer: this side sends, the peer may not."""

    transport: Stream

    def __init__(self, conversation: Conversation) -> None:
        self._conversation = conversation

    def connectionMade(self) -> None:
        """The stream is open."""
        self._conversation.connected(self.transport)

    def dataReceived(self, data: bytes) -> None:
        """The peer sent something where it may not."""
        self._conversation.offended(
            RemoteProtocolError("data came on the stream that only this side sends on", "wrong_way")
        )

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The stream is gone."""
        self._conversation.lost(self.transport)


class Inbounds(Factory):
    """Answers the streams that peers open."""

    noisy = False

    def __init__(self, owner: StreamOwner) -> None:
        self._owner = owner

    def buildProtocol(self, addr: Any) -> Protocol | None:
        """The receiving side, or None for a peer that pubsub does not know."""
        address: StreamAddress = addr
        return self._owner.inbound(address.link)


class Inbound(Protocol):
    """The stream from a peer: the peer sends, this side does not.

    A peer that sends much gets its share of the reactor's time and no more. The rest waits, first
    here, then in the stream's window, then at the peer.
    """

    transport: Stream

    def __init__(self, owner: StreamOwner, link: Link) -> None:
        self._owner = owner
        self._link = link
        self._reader = FrameReader(owner.max_rpc_size)
        self._waiting: deque[bytes] = deque()
        self._parts: Iterator[bytes] = iter(())
        self._in_line = False
        self._lost = False

    def abort(self) -> None:
        """Read no more."""
        self.transport.abortConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The stream is gone."""
        self._lose()
        self._owner.inbound_lost(self._link, self)

    def dataReceived(self, data: bytes) -> None:
        """RPCs, or parts of them."""
        try:
            self._waiting.extend(self._reader.receive(data))
        except RemoteProtocolError as error:
            self._offended(error)
            return
        if not self._in_line:
            self._read()

    def _read(self) -> None:
        """Take what there is time for in this turn of the reactor, and the rest in others."""
        turns = self._link.turns
        while not self._lost:
            if not turns.has_time:
                if not self._in_line:
                    self._in_line = True
                    self.transport.pauseProducing()
                turns.wait(self._read)
                return
            rpc = self._next()
            if rpc is None:
                break
            try:
                self._owner.received(self._link, rpc)
            except RemoteProtocolError as error:
                self._offended(error)
        if self._in_line and not self._lost:
            self._in_line = False
            self.transport.resumeProducing()

    def _next(self) -> bytes | None:
        """An RPC of few messages."""
        part = next(self._parts, None)
        if part is None and self._waiting:
            rpc = self._waiting.popleft()
            if len(rpc) <= SHORT:
                return rpc
            self._parts = split(rpc, MESSAGES)
            part = next(self._parts)
        return part

    def _offended(self, error: RemoteProtocolError) -> None:
        self._lose()
        self._owner.offended(self._link, error)

    def _lose(self) -> None:
        self._lost = True
        self._waiting.clear()
        self._parts = iter(())
