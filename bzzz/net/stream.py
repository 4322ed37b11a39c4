"""One muxed stream of a link, as a Twisted transport.

Enters: what the link's core says happened to the stream. Leaves: calls on the application's
protocol, and bytes and window credit to the core. Flow control follows the yamux specification
("Flow Control"): the peer may send again only what the application has taken, so a protocol that
pauses its transport slows the sender down over the network.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import (
    IAddress,
    IConsumer,
    IHalfCloseableProtocol,
    IProtocol,
    IPushProducer,
    ITransport,
)
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from bzzz.errors import BzzzError, StreamReset
from bzzz.identity.peer_id import PeerID
from bzzz.wire.connection import MAX_DATA

if TYPE_CHECKING:
    from bzzz.net.link import Link

__all__ = ["Stream", "StreamAddress"]

# How long after loseConnection() the peer may go on sending before the stream is reset, in
# seconds: what it sends then is thrown away, and a stream must not be held open for ever.
LINGER = 10.0

# What one stream may put on the link before others get their turn, in bytes: at a gigabit it is
# half a millisecond, so small messages never wait long behind a transfer; and it is one Noise
# message, so one call of the cipher.
TURN = MAX_DATA


@implementer(IAddress)
class StreamAddress:
    """Who is at the other end of a stream, and what is spoken on it."""

    def __init__(self, link: Link, protocol_id: str) -> None:
        self.link = link
        self.protocol_id = protocol_id

    @property
    def peer_id(self) -> PeerID:
        """The peer ID, proved by the link's handshake."""
        return self.link.remote_peer

    def __repr__(self) -> str:
        return f"<{self.protocol_id} with {self.peer_id}>"


@implementer(ITransport, IConsumer, IPushProducer)
class Stream:
    """A transport over one stream. Made by :class:`~bzzz.net.link.Link` only.

    Beyond :class:`ITransport` it offers ``abortConnection`` (resets the stream),
    ``loseWriteConnection`` (ends the sending half) and ``registerProducer``.

    :ivar link: the link it belongs to.
    :ivar protocol_id: the negotiated protocol, such as ``/ipfs/ping/1.0.0``.
    """

    _log = Logger()
    disconnecting = False

    def __init__(self, link: Link, stream_id: int) -> None:
        self.link = link
        self.stream_id = stream_id
        self.protocol_id = ""
        self.protocol: IProtocol | None = None
        self._pending: deque[bytes] = deque()
        self._pending_size = 0
        self._received: list[bytes] = []
        self._paused = False
        self._producer: Any = None
        self._producer_streaming = False
        self._producer_paused = False
        self._ending = False  # no more writes; the half-close goes out when pending is empty
        self._write_ended = False
        self._read_ended = False
        self._end_to_deliver = False
        self._discarding = False
        self._lost = False
        self._linger: Any = None

    # -- what the link tells it

    def connected(self, protocol_id: str, protocol: IProtocol) -> None:
        """The stream's protocol is agreed on: connect the application's protocol to it."""
        self.protocol_id = protocol_id
        self.protocol = protocol
        self._call(protocol.makeConnection, self)

    def data_received(self, data: bytes) -> None:
        """The peer sent data."""
        if self._discarding or self._lost:
            self.link.credit(self, len(data))
        elif self._paused or self.protocol is None:
            self._received.append(data)
        else:
            self._call(self.protocol.dataReceived, data)
            self.link.credit(self, len(data))

    def end_received(self) -> None:
        """The peer ended its sending half."""
        self._read_ended = True
        if self._paused or self.protocol is None or self._received:
            self._end_to_deliver = True
        else:
            self._deliver_end()

    def lost(self, reason: BaseException) -> None:
        """The stream is over: reset, refused, or its link is gone."""
        if self._lost:
            return
        self._lost = True
        self.disconnecting = True
        if self._linger is not None:
            self._linger.cancel()
            self._linger = None
        self._pending.clear()
        self._pending_size = 0
        self._received.clear()
        producer, self._producer = self._producer, None
        if producer is not None:
            self._call(producer.stopProducing)
        # No cycle is left: a link's remains would wait for the collector.
        protocol, self.protocol = self.protocol, None
        if protocol is not None:
            self._call(protocol.connectionLost, Failure(reason))

    def drain(self) -> bool:
        """Hand one turn of what is pending to the core; whether more could be sent at once."""
        budget = TURN
        pending = self._pending
        while pending and budget > 0:
            chunk = pending[0]
            offered = chunk if len(chunk) <= budget else chunk[:budget]
            sent = self.link.connection.send_data(self.stream_id, offered)
            if sent == 0:
                return False
            self._pending_size -= sent
            budget -= sent
            if sent == len(chunk):
                pending.popleft()
            else:
                pending[0] = chunk[sent:]
                if sent < len(offered):
                    return False
        if pending:
            return True
        self._all_sent()
        return False

    # -- ITransport

    def write(self, data: bytes) -> None:
        """Send ``data``; what the peer's window does not admit waits here."""
        if self._ending or self._lost or not data:
            return
        if self._pending or self.link.congested:
            self._hold(data)
            return
        view = data
        while view:
            turn = view if len(view) <= TURN else view[:TURN]
            sent = self.link.connection.send_data(self.stream_id, turn)
            view = view[sent:] if sent else view
            self.link.flush()
            if sent < len(turn) or (view and self.link.congested):
                break
        if view:
            self._hold(view)
        elif self.link.congested:
            self.pause_producer()

    def writeSequence(self, data: Iterable[bytes]) -> None:
        """Send the joined pieces."""
        self.write(b"".join(data))

    def loseWriteConnection(self) -> None:
        """End the sending half once everything written is on its way."""
        if self._ending or self._lost:
            return
        self._ending = True
        if not self._pending and self._producer is None:
            self._end()

    def loseConnection(self) -> None:
        """End the sending half once everything written is on its way, and read no more."""
        if self._lost:
            return
        self.disconnecting = True
        self._discarding = True
        held, self._received = self._received, []
        for data in held:
            self.link.credit(self, len(data))
        self.loseWriteConnection()
        if not self._lost and self._linger is None:
            self._linger = self.link.clock.callLater(LINGER, self._linger_over)

    def abortConnection(self) -> None:
        """Reset the stream: neither side may rely on anything that was under way."""
        if not self._lost:
            self.link.reset(self, StreamReset("reset by this side"))

    def getPeer(self) -> StreamAddress:
        """Who is at the other end."""
        return StreamAddress(self.link, self.protocol_id)

    def getHost(self) -> StreamAddress:
        """The same address: a stream has no address of its own."""
        return self.getPeer()

    # -- IConsumer, for what the application sends

    @property
    def pending_bytes(self) -> int:
        """How much was written and waits for the peer's window or for the link."""
        return self._pending_size

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        """Have ``producer`` asked for data while the peer and the link can take it."""
        if self._producer is not None:
            raise RuntimeError("a producer is registered on this stream already")
        if self._lost:
            producer.stopProducing()
            return
        self._producer = producer
        self._producer_streaming = streaming
        self._producer_paused = False
        if not streaming:
            producer.resumeProducing()
        elif self._pending or self.link.congested:
            self.pause_producer()

    def unregisterProducer(self) -> None:
        """The producer has written all it had."""
        self._producer = None
        if self._ending and not self._pending and not self._write_ended:
            self._end()

    def pause_producer(self) -> None:
        """Ask the application's streaming producer to stop writing for now."""
        if self._producer is not None and self._producer_streaming and not self._producer_paused:
            self._producer_paused = True
            self._producer.pauseProducing()

    def resume_producer(self) -> None:
        """Ask the application's producer for more, if everything it wrote is on its way."""
        if self._producer is None or self._pending or self.link.congested:
            return
        if not self._producer_streaming:
            self._producer.resumeProducing()
        elif self._producer_paused:
            self._producer_paused = False
            self._producer.resumeProducing()

    # -- IPushProducer, for what the application receives

    def pauseProducing(self) -> None:
        """Deliver nothing for now; the peer is stopped by its window."""
        self._paused = True

    def resumeProducing(self) -> None:
        """Deliver what has waited, and go on."""
        self._paused = False
        while self._received and not self._paused and self.protocol is not None:
            data = self._received.pop(0)
            self._call(self.protocol.dataReceived, data)
            self.link.credit(self, len(data))
        if self._end_to_deliver and not self._received and not self._paused:
            self._deliver_end()

    def stopProducing(self) -> None:
        """The same as :meth:`loseConnection`."""
        self.loseConnection()

    # -- inside

    def _hold(self, data: bytes) -> None:
        self._pending.append(data)
        self._pending_size += len(data)
        self.link.has_pending(self)
        self.pause_producer()

    def _all_sent(self) -> None:
        if self._ending and self._producer is None:
            if not self._write_ended:
                self._end()
        else:
            self.resume_producer()

    def _end(self) -> None:
        self._write_ended = True
        self.link.end(self)
        half_closeable = IHalfCloseableProtocol(self.protocol, None)
        if half_closeable is not None and not self._discarding:
            self._call(half_closeable.writeConnectionLost)
        self._finish_if_both_ended()

    def _deliver_end(self) -> None:
        self._end_to_deliver = False
        half_closeable = IHalfCloseableProtocol(self.protocol, None)
        if half_closeable is not None and not self._discarding:
            self._call(half_closeable.readConnectionLost)
        else:
            self.loseWriteConnection()
        self._finish_if_both_ended()

    def _finish_if_both_ended(self) -> None:
        if self._write_ended and self._read_ended and not self._end_to_deliver:
            self.link.finished(self)
            self.lost(ConnectionDone())

    def _linger_over(self) -> None:
        self._linger = None
        self.link.reset(self, ConnectionDone())

    def _call(self, method: Any, *arguments: object) -> None:
        """Call the application; a bug there costs it this stream, not the link."""
        try:
            method(*arguments)
        except Exception as error:  # noqa: BLE001 - the application may raise anything
            if not isinstance(error, BzzzError):
                self._log.failure(
                    "{protocol} failed in {method}",
                    protocol=self.protocol_id,
                    method=getattr(method, "__name__", "?"),
                )
            if not self._lost:
                self.link.reset(self, error)
