"""One encrypted connection to one peer: the pure core fed by a TCP transport.

Enters: bytes of the transport. Leaves: bytes to the transport, streams to the application, and to
the owner (the swarm) that the link is up or closed, and why.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any
from typing import Protocol as Shape

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IDelayedCall, IProtocol, IProtocolFactory, IPushProducer
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.tcp import Connection as TcpConnection
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from bzzz.errors import (
    LinkClosed,
    LocalProtocolError,
    NegotiationError,
    RemoteProtocolError,
    StreamReset,
)
from bzzz.identity.keys import PublicKey
from bzzz.identity.peer_id import PeerID
from bzzz.net import keepalive
from bzzz.net.interfaces import Clock
from bzzz.net.protocols import LinkProtocols
from bzzz.net.stream import Stream, StreamAddress
from bzzz.net.turns import Turns
from bzzz.wire.connection import (
    Connection,
    LinkEnded,
    LinkReady,
    LinkSecured,
    StreamData,
    StreamEnded,
    StreamNegotiated,
    StreamRefused,
    StreamWasReset,
    StreamWritable,
)
from bzzz.wire.limits import UNCONSUMED_BYTES
from bzzz.wire.multiaddr import Multiaddr

__all__ = ["Link", "LinkOwner"]

# From the first byte of TCP to a ready muxer, in seconds. Three round trips; a peer that needs
# more is gone or holds the place on purpose (slow loris).
HANDSHAKE_TIMEOUT = 10.0

# Bytes that a peer may send before it has proved who it is. An honest handshake takes some 300, and
# 2 kB with the largest keys and proposals there are. Without it a hundred lines of 1 KiB would be
# taken, and each of them answered.
MAX_UNPROVED = 16384

# What one read counts as at least, in bytes, towards that: the reactor spends more on a read than
# on its bytes, and a peer could send single ones.
LEAST_READ = 256

# The only argument of Twisted's exception for each loss that the kernel reports.
TWISTED_LOST = "Connection lost"

# From a stream's opening to its protocol, either way, in seconds.
NEGOTIATION_TIMEOUT = 10.0

# An inbound stream that has no protocol at two looks this many seconds apart is reset.
NEGOTIATION_LOOK = 10.0

# Frames of the peer that are acted on before other links get their turn: opening a stream takes
# 0.1 ms, and a peer can have 5000 frames in what one read of TCP brings.
FRAMES = 48

# The same of a guest, who has nothing to say that cannot wait.
GUEST_FRAMES = 8

# Frames of the peer between two looks at whether there is time left in this turn.
SLICE = 1

# What is no longer than this, in bytes, is given to the kernel at once: whoever waits for it at the
# other end need not wait for a turn of the reactor here. What is longer takes more of this turn's
# time, and is sent in the next one, with what else there is by then.
SHORT = 16384

# How long a closing link may take to send what it has, and its peer to end it, in seconds, before
# it is cut.
CLOSE_TIMEOUT = 2.0

# Bytes of the peer that a closing link takes and throws away: an honest one has no more under way
# than its windows let it, which is not more than may wait for the application. Beyond: it is cut.
MAX_IGNORED = UNCONSUMED_BYTES


class LinkOwner(Shape):
    """What a link needs of the swarm."""

    def link_ready(self, link: Link) -> None:
        """The handshake is done: the peer's identity is proved and streams can be opened."""

    def link_closing(self, link: Link) -> bool:
        """This side closes the link; whether it may wait for the peer's end."""

    def link_closed(self, link: Link, reason: str) -> None:
        """The link is gone; called once, also for one that never was ready."""


@implementer(IPushProducer)
class Link(Protocol):
    """A link. Made by the swarm for each connection, dialled or accepted.

    Whoever closes it says goodbye, ends its half of TCP, and throws away what the peer sends until
    that has ended, too: were the socket closed with data unread, the kernel would reset the
    connection, and the peer might never read the goodbye. A peer that hears a goodbye, or reads
    that TCP has ended, closes the socket at once.

    :param protocols: which the peer may open streams of; shared with ``connection``.
    :ivar turns: shared with the node's other links, and for what its streams bring, too.
    :ivar remote_multiaddr: where the peer is, seen from here.
    :ivar local_host: this node's IP address; empty until TCP is up.
    :ivar remote_host: the peer's.
    :ivar last_received: when the last bytes came, in the clock's seconds.
    :ivar ready_at: when the handshake was done, in the clock's seconds; None before.
    :ivar congested: whether TCP takes no more for now.
    :ivar guest_ok: whether it was dialled for a peer that need not be admitted.
    :ivar held: whether the peer pairs, so that a guest's link is kept for longer.
    :ivar guest_there: whether the peer said that it takes this node for a guest.
    :ivar goodbye: the code with which the peer has ended it; None if it has said none.
    """

    _log = Logger()

    def __init__(
        self,
        connection: Connection,
        protocols: LinkProtocols,
        clock: Clock,
        owner: LinkOwner,
        is_initiator: bool,
        remote_multiaddr: Multiaddr | None = None,
        turns: Turns | None = None,
    ) -> None:
        self.connection = connection
        self.clock = clock
        self.turns = turns or Turns(clock)
        self.is_initiator = is_initiator
        self.remote_multiaddr = remote_multiaddr
        self.last_received = clock.seconds()
        self.ready_at: float | None = None
        self.congested = False
        self.closed = False
        self.local_host = ""
        self.remote_host = ""
        self.guest_ok = False
        self.held = False
        self.guest_there = False
        self.goodbye: int | None = None
        self._protocols = protocols
        self._owner = owner
        self._peer: PeerID | None = None
        self._key: PublicKey | None = None
        self._streams: dict[int, Stream] = {}
        self._opening: dict[int, tuple[Deferred[IProtocol], IProtocolFactory, IDelayedCall]] = {}
        self._waiting: deque[Stream] = deque()
        self._reason: str | None = None
        self._dispatching = False
        self._deadline: IDelayedCall | None = None
        self._look: IDelayedCall | None = None
        self._closing = False
        self._aborted = False
        self._ignored = 0
        self._is_tcp = False
        self._broken = False
        # Whether the transport may have something that the kernel has not taken.
        self._in_transport = False
        self._started = False
        self._in_line = False
        self._paused = False
        self._unread = b""
        self._unproved = 0

    def __repr__(self) -> str:
        return f"<Link to {self._peer} at {self.remote_multiaddr}>"

    @property
    def remote_peer(self) -> PeerID:
        """Who is at the other end; known once the link is ready.

        :raises LinkClosed: before that.
        """
        if self._peer is None:
            raise LinkClosed("the peer is not known before the handshake is done")
        return self._peer

    @property
    def remote_key(self) -> PublicKey:
        """The peer's public key; known once the link is ready.

        :raises LinkClosed: before that.
        """
        if self._key is None:
            raise LinkClosed("the peer's key is not known before the handshake is done")
        return self._key

    @property
    def is_guest(self) -> bool:
        """Whether the peer is not admitted, or not judged yet."""
        return self._protocols.is_guest

    @is_guest.setter
    def is_guest(self, value: bool) -> None:
        self._protocols.is_guest = value

    @property
    def stream_count(self) -> int:
        """How many streams are open, of both directions."""
        return len(self._streams)

    # -- for the application

    def open_stream(
        self, protocols: Sequence[str], factory: IProtocolFactory, optimistic: bool = False
    ) -> Deferred[IProtocol]:
        """Open a stream and agree on one of ``protocols``, the first that the peer speaks.

        :param factory: builds the protocol, from a :class:`StreamAddress`.
        :param optimistic: with a single protocol, connect it at once and let its first data
            travel with the proposal; a refusal is then the reason of its ``connectionLost``.
        :return: the connected protocol. Fails with :class:`NegotiationError` (the peer speaks none
            of them, or does not answer), :class:`StreamReset`, :class:`LinkClosed`, or
            :class:`LocalProtocolError` (more streams are open than any use explains).
        """
        if self.closed or self._reason is not None or self.ready_at is None:
            return fail(LinkClosed(f"the link to {self._peer} is closed"))
        try:
            stream_id = self.connection.open_stream(protocols)
        except LocalProtocolError as error:
            return fail(error)
        stream = self._streams[stream_id] = Stream(self, stream_id)
        timeout = self.clock.callLater(NEGOTIATION_TIMEOUT, self._negotiation_late, stream)
        deferred: Deferred[IProtocol] = Deferred(
            lambda _: self.reset(stream, StreamReset("opening the stream was cancelled"))
        )
        self._opening[stream_id] = (deferred, factory, timeout)
        if optimistic and len(protocols) == 1:
            dispatching, self._dispatching = self._dispatching, True
            try:
                protocol = self._build(factory, stream, protocols[0])
            finally:
                self._dispatching = dispatching
            self.flush()
            if protocol is None:
                return fail(StreamReset(f"nobody here speaks {protocols[0]}"))
            return succeed(protocol)
        self.flush()
        return deferred

    def close(self, reason: str) -> None:
        """Say goodbye to the peer, send what is under way, and close when the peer has.

        What the peer sends from now on, and what of it nobody has acted on, counts no more. The
        link's streams are gone when it is.
        """
        if self.closed or self._reason is not None:
            return
        self._reason = reason
        if self.ready_at is not None:
            self.connection.go_away()
        self._dispatching = False
        self.flush()
        self._closing = True
        self._unread = b""
        self._set_deadline(CLOSE_TIMEOUT, self._cut)
        transport: Any = self.transport
        # A transport ends nothing while a paused producer is registered with it.
        transport.unregisterProducer()
        if self._owner.link_closing(self):
            transport.loseWriteConnection()
            # The peer's end is only seen by who reads.
            self._unpause()
        else:
            transport.loseConnection()

    def abort(self, reason: str) -> None:
        """Close at once."""
        if self.closed:
            return
        if self._reason is None:
            self._reason = reason
        self._cut()

    def sever(self, reason: str) -> None:
        """Close at once, within this call.

        Its streams are gone when it returns, and what the peer has sent and nobody has acted on, or
        what waits to be sent, counts no more.
        """
        if self.closed:
            return
        self.abort(reason)
        self.connectionLost()

    # -- for its streams

    def flush(self) -> None:
        """Put what the core wants to send on the transport; in a dispatch, at its end."""
        if self._dispatching or self.closed or self._closing or self._aborted:
            return
        if self.congested and self._reason is None:
            # While TCP takes no more, frames wait in the core, whose caps hold for them: a peer
            # that asks without end and reads nothing must not fill the transport's buffer.
            return
        chunks = self.connection.take_output()
        if chunks:
            self._hand_over(chunks)

    def _hand_over(self, chunks: list[bytes | memoryview]) -> None:
        """Give the transport what is to be sent; what is short, to the kernel at once.

        To ask the reactor whether the kernel would take it costs as much as the sending. Where it
        did not take all before, this is left to the reactor. So is an error, for which the
        transport goes on asking: what the peer has said is read first. Nothing of the link is
        called from here, since no producer is paused and nothing is being closed.
        """
        transport: Any = self.transport
        is_short = sum(map(len, chunks)) <= SHORT
        if not self._is_tcp or self.congested or transport.disconnecting or not is_short:
            self._in_transport = True
            transport.writeSequence(chunks)
        elif self._in_transport:
            transport.writeSequence(chunks)
            if transport.dataBuffer or self.congested:
                # To send it could end the congestion within this call, and have producers write
                # before what the caller has yet to keep.
                return
            if transport.doWrite() is not None:
                self._broken = True
            else:
                self._in_transport = bool(transport.dataBuffer)
        else:
            data = b"".join(chunks)
            taken = transport.writeSomeData(data)
            if not isinstance(taken, int):
                self._broken, taken = True, 0
            if taken < len(data):
                self._in_transport = True
                transport.write(data[taken:])

    def credit(self, stream: Stream, size: int) -> None:
        """``size`` bytes of the stream were taken: the peer may send as many again."""
        if not self.closed and stream.stream_id in self._streams:
            self.connection.consumed(stream.stream_id, size)
            self.flush()

    def has_pending(self, stream: Stream) -> None:
        """The stream holds data that did not fit."""
        if stream not in self._waiting:
            self._waiting.append(stream)

    def end(self, stream: Stream) -> None:
        """The stream's sending half is done."""
        if not self.closed and stream.stream_id in self._streams:
            self.connection.end_stream(stream.stream_id)
            self.flush()

    def finished(self, stream: Stream) -> None:
        """Both halves of the stream are done."""
        self._forget(stream)

    def reset(self, stream: Stream, reason: BaseException) -> None:
        """Reset the stream and tell its protocol why."""
        if stream.stream_id in self._streams and not self.closed:
            self.connection.reset_stream(stream.stream_id)
        self._stream_lost(stream, reason)
        self.flush()

    # -- Protocol

    def connectionMade(self) -> None:
        """TCP is up: start the handshake."""
        transport: Any = self.transport
        self.local_host = transport.getHost().host
        self.remote_host = transport.getPeer().host
        self._is_tcp = isinstance(transport, TcpConnection)
        transport.setTcpNoDelay(True)
        keepalive.watch(transport)
        transport.registerProducer(self, True)
        self._set_deadline(HANDSHAKE_TIMEOUT, self._handshake_late)
        if self.turns.is_free:
            self._start()
        else:
            self._wait()

    def dataReceived(self, data: bytes) -> None:
        """Feed the core and act on what it says, now or when this link's turn comes."""
        if self.closed:
            return
        if self._closing:
            self._ignored += len(data)
            if self._ignored > MAX_IGNORED:
                self._cut()
            return
        self.last_received = self.clock.seconds()
        if self._in_line:
            self._unread += data
            self._pause()
        elif self.turns.is_free:
            self._receive(data)
            if self.connection.has_unread and not (self.closed or self._closing):
                self._wait()
        else:
            self._unread = data
            self._wait()

    def _start(self) -> None:
        self._started = True
        self.connection.start()
        self.flush()

    def _wait(self) -> None:
        """Go on in a later turn."""
        self._in_line = True
        if self.connection.has_unread:
            self._pause()
        self.turns.wait(self._go_on, stranger=self.is_guest)

    def _pause(self) -> None:
        """Leave what more the peer sends in TCP.

        Not done before there is more than one read: it costs two system calls, and in a handshake
        the peer waits for the answer.
        """
        if not self._paused:
            self._paused = True
            transport: Any = self.transport
            transport.pauseProducing()

    def _unpause(self) -> None:
        if self._paused:
            self._paused = False
            transport: Any = self.transport
            transport.resumeProducing()

    def _go_on(self) -> None:
        """This link's turn has come."""
        self._in_line = False
        if self.closed or self._closing:
            return
        if not self._started:
            self._start()
        data, self._unread = self._unread, b""
        if data or self.connection.has_unread:
            self._receive(data)
        if self.closed or self._closing:
            return
        if self.connection.has_unread:
            self._in_line = True
            self.turns.wait(self._go_on, stranger=self.is_guest)
        else:
            self._unpause()

    def _receive(self, data: bytes) -> None:
        self._dispatching = True
        if self._peer is None:
            self._unproved += max(len(data), LEAST_READ)
        try:
            for _ in range(0, GUEST_FRAMES if self.is_guest else FRAMES, SLICE):
                # What comes with the last bytes of the handshake waits until the owner has judged
                # whose link it is.
                frames = 0 if self.ready_at is None else SLICE
                for event in self.connection.receive_data(data, frames):
                    self._dispatch(event)
                    if self.closed or self._closing:
                        return
                if not (self.connection.has_unread and self.turns.has_time):
                    break
                data = b""
        except RemoteProtocolError as error:
            self._dispatching = False
            self.flush()
            self.abort(f"{error} ({error.code})")
            return
        finally:
            self._dispatching = False
        if self._protocols.offence:
            self.abort(self._protocols.offence)
            return
        if self._peer is None and self._unproved > MAX_UNPROVED:
            self.abort(f"it sent more than {MAX_UNPROVED} bytes and has not proved who it is")
            return
        if self._waiting and not self.congested:
            self._drain()
        self.flush()
        if self._look is None and self.ready_at is not None:
            negotiating = self.connection.streams_negotiating
            if negotiating:
                self._look = self.clock.callLater(
                    NEGOTIATION_LOOK, self._look_at_negotiating, negotiating
                )

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """TCP is gone: tell every stream and the owner."""
        if self.closed:
            return
        self.closed = True
        self._set_deadline(None, None)
        if self._reason is None and self._in_line and self._started:
            self._hear_goodbye()
        self._unread = b""
        if self._look is not None and self._look.active():
            self._look.cancel()
        # The kernel tells of a failure once, and then as if the peer had ended TCP.
        text = self._reason or ("connection lost" if self._broken else _words(reason))
        for stream in list(self._streams.values()):
            self._stream_lost(stream, LinkClosed(text))
        self._waiting.clear()
        self._owner.link_closed(self, text)

    def _hear_goodbye(self) -> None:
        """Look whether what was received, and waits for this link's turn, has the peer's goodbye.

        Nothing else of it counts any more.
        """
        try:
            events = self.connection.receive_data(self._unread)
        except RemoteProtocolError:
            # It has broken the protocol, and is gone.
            return
        for event in events:
            if isinstance(event, LinkEnded):
                self._said_goodbye(event)

    # -- IPushProducer: TCP's backpressure

    def pauseProducing(self) -> None:
        """TCP's buffer is full."""
        self.congested = True
        for stream in list(self._streams.values()):
            stream.pause_producer()

    def resumeProducing(self) -> None:
        """TCP's buffer is empty."""
        self.congested = False
        self.flush()
        self._drain()
        for stream in list(self._streams.values()):
            if self.congested:
                return
            stream.resume_producer()

    def stopProducing(self) -> None:
        """TCP is gone; connectionLost follows."""

    # -- inside

    def _dispatch(self, event: object) -> None:
        if isinstance(event, StreamData):
            stream = self._streams.get(event.stream_id)
            if stream is not None:
                stream.data_received(event.data)
        elif isinstance(event, StreamNegotiated):
            self._negotiated(event)
        elif isinstance(event, StreamEnded):
            stream = self._streams.get(event.stream_id)
            if stream is not None:
                stream.end_received()
        elif isinstance(event, StreamWritable):
            stream = self._streams.get(event.stream_id)
            if stream is not None and stream.pending_bytes:
                self.has_pending(stream)
        elif isinstance(event, StreamWasReset):
            stream = self._streams.get(event.stream_id)
            if stream is not None:
                self._stream_lost(stream, StreamReset("reset by the peer"))
        elif isinstance(event, StreamRefused):
            stream = self._streams.get(event.stream_id)
            if stream is not None:
                self._stream_lost(stream, NegotiationError(event.reason))
        elif isinstance(event, LinkSecured):
            self._peer = event.remote_peer
            self._key = event.remote_key
        elif isinstance(event, LinkReady):
            self._set_deadline(None, None)
            self.ready_at = self.clock.seconds()
            self._owner.link_ready(self)
        elif isinstance(event, LinkEnded):
            self._said_goodbye(event)
            self.abort(self._reason or "")

    def _said_goodbye(self, event: LinkEnded) -> None:
        self.goodbye = event.code
        if self._reason is None:
            said = f": {event.reason}" if event.code else ""
            self._reason = f"the peer closed it{said}"

    def _negotiated(self, event: StreamNegotiated) -> None:
        if event.inbound:
            stream = self._streams[event.stream_id] = Stream(self, event.stream_id)
            factory = self._protocols.factory(event.protocol, self.remote_peer)
            if factory is None or self._build(factory, stream, event.protocol) is None:
                self.reset(stream, StreamReset(f"nobody here speaks {event.protocol}"))
            return
        opening = self._opening.pop(event.stream_id, None)
        known = self._streams.get(event.stream_id)
        if opening is None or known is None:
            return
        deferred, factory, timeout = opening
        timeout.cancel()
        if known.protocol is not None:
            return
        protocol = self._build(factory, known, event.protocol)
        if protocol is None:
            deferred.errback(StreamReset(f"nobody here speaks {event.protocol}"))
        else:
            deferred.callback(protocol)

    def _build(
        self, factory: IProtocolFactory, stream: Stream, protocol_id: str
    ) -> IProtocol | None:
        protocol = factory.buildProtocol(StreamAddress(self, protocol_id))
        if protocol is None:
            self.reset(stream, StreamReset(f"nobody here speaks {protocol_id}"))
            return None
        stream.connected(protocol_id, protocol)
        return protocol

    def _drain(self) -> None:
        """Give each stream with pending data its turn, until TCP or their windows are full."""
        while self._waiting and not self.congested and not self.closed:
            stream = self._waiting.popleft()
            if stream.drain():
                self._waiting.append(stream)
            self.flush()
            if self._dispatching:
                return

    def _negotiation_late(self, stream: Stream) -> None:
        self.reset(
            stream, NegotiationError("the peer did not answer the stream's proposal in time")
        )

    def _stream_lost(self, stream: Stream, reason: BaseException) -> None:
        opening = self._opening.pop(stream.stream_id, None)
        self._forget(stream)
        if opening is not None:
            deferred, _, timeout = opening
            if timeout.active():
                timeout.cancel()
            if stream.protocol is None and not deferred.called:
                deferred.errback(reason)
        stream.lost(reason)

    def _forget(self, stream: Stream) -> None:
        self._streams.pop(stream.stream_id, None)
        if stream in self._waiting:
            self._waiting.remove(stream)

    def _look_at_negotiating(self, before: tuple[int, ...]) -> None:
        """Reset the streams that were without a protocol last time and still are."""
        self._look = None
        for stream_id in set(before).intersection(self.connection.streams_negotiating):
            self.connection.reset_stream(stream_id)
        self.flush()

    def _handshake_late(self) -> None:
        self._deadline = None
        self.abort("the handshake took too long")

    def _cut(self) -> None:
        self._set_deadline(None, None)
        # The transport sends nothing of what it has; what came after it would leave a gap.
        self._aborted = True
        self.transport.abortConnection()  # type: ignore[union-attr]  # ITCPTransport has it

    def _set_deadline(self, delay: float | None, call: Any) -> None:
        if self._deadline is not None and self._deadline.active():
            self._deadline.cancel()
        self._deadline = None if delay is None else self.clock.callLater(delay, call)


def _words(reason: Failure) -> str:
    """Why TCP was lost, in few words."""
    if reason.check(ConnectionDone):
        return "connection closed"
    if isinstance(reason.value, ConnectionLost):
        said = "".join(str(each) for each in reason.value.args if each != TWISTED_LOST)
        return f"connection lost: {said}" if said else "connection lost"
    return reason.getErrorMessage().rstrip(".")
