"""Connections of the simulator's network: byte streams that behave as TCP does under Twisted.

Enters: what the two ends write, and the state of the path between them. Leaves: the same bytes in
the same order at the other end, later; or the end of the connection, as each side's kernel learns
of it. Each direction is a :class:`~bzzz.testing.pipe.Pipe`; :class:`SimTransport` is one
end as a protocol sees it, with the semantics of :class:`twisted.internet.tcp.Connection`:

- nothing is delivered, and no protocol called, from inside a call of its own;
- a producer is paused in ``write`` when more than 64 KiB wait outside of the kernel, and resumed
  when nothing does;
- ``loseConnection`` reads no more, waits for the producer and for the kernel to take everything,
  and is over at this end then, whatever the other end does;
- ``abortConnection`` sends a reset, which nobody sends again if it is lost.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from twisted.internet.address import IPv4Address
from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.interfaces import (
    IConsumer,
    IHalfCloseableProtocol,
    IPushProducer,
    ITCPTransport,
)
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from bzzz.net.keepalive import INTERVAL as KEEPALIVE_INTERVAL
from bzzz.testing.pipe import BUFFER, FIN, KERNEL, OPEN, RST, Pipe, Sign

if TYPE_CHECKING:
    from bzzz.testing.network import Host, SimNetwork

__all__ = ["SimTransport"]


@implementer(ITCPTransport, IConsumer, IPushProducer)
class SimTransport:
    """One end of a connection.

    :param clock: of the process that has it.
    :param accept: for the end that was dialled: makes the protocol when the connection is there.
    :ivar outgoing: whether this end dialled.
    :ivar reading: whether the process reads.
    :ivar silent_since: since when its kernel hears nothing of the other one, if it asks.
    :ivar gone: whether this end is closed, or its process or machine gone.
    """

    _log = Logger()

    def __init__(
        self,
        network: SimNetwork,
        host: Host,
        address: tuple[str, int],
        peer: tuple[str, int],
        accept: Callable[[SimTransport], None] | None = None,
    ) -> None:
        self.host = host
        self.clock = host.clock
        self.address = address
        self.peer = peer
        self.protocol: Any = None
        self.connected = True
        self.disconnecting = False
        self.reading = True
        self.gone = False
        self.out: Pipe
        self.incoming: Pipe
        self.outgoing = accept is None
        self._network = network
        self._accept = accept
        self._batch: list[bytes | memoryview] = []
        self._batch_size = 0
        self._waking = False
        self._producer: Any = None
        self._streaming = False
        self._paused = False
        self._half_closing = False
        self._fin_sent = False
        self._aborting = False
        self._no_delay = False
        self._keep_alive = False
        self.silent_since: float | None = None
        host.transports[self] = None

    def __repr__(self) -> str:
        return f"<SimTransport {self.address} to {self.peer}{' gone' if self.gone else ''}>"

    def join(self, other: SimTransport) -> None:
        """``other`` is the far end."""
        self.out = other.incoming = Pipe(self._network, self, other)
        other.out = self.incoming = Pipe(self._network, other, self)

    # -- ITransport

    def write(self, data: bytes) -> None:
        """Send ``data``, with all else that is written in this turn of the reactor."""
        if isinstance(data, str):
            raise TypeError("Data must be bytes")
        if data:
            self.writeSequence((data,))

    def writeSequence(self, data: Iterable[bytes | memoryview]) -> None:
        """Send the pieces."""
        if not self.connected or self._half_closing or self._aborting:
            return
        batch = self._batch
        before = len(batch)
        batch.extend(data)
        for piece in batch[before:]:
            self._batch_size += len(piece)
        if not self._waking:
            self._waking = True
            self._network.reactor.turn_ends.append(self._turn_over)
        if self._producer is not None and self._streaming and not self._paused:
            waiting = self._batch_size + max(0, self.out.size - KERNEL)
            if waiting > BUFFER:
                self._paused = True
                self._producer.pauseProducing()

    def loseConnection(self) -> None:
        """Read no more, and close once everything written is with the kernel."""
        if self.connected and not self.disconnecting:
            self.disconnecting = True
            self.reading = False
            self._wake()

    def getHost(self) -> IPv4Address:
        """This end."""
        return IPv4Address("TCP", *self.address)

    def getPeer(self) -> IPv4Address:
        """The other end."""
        return IPv4Address("TCP", *self.peer)

    # -- ITCPTransport

    def abortConnection(self) -> None:
        """Close at once."""
        if self.connected and not self._aborting:
            self._aborting = True
            self.reading = False
            reactor = self._network.reactor
            reactor.call_at(self.clock, reactor.now, self._lost, (ConnectionAborted(),))

    def loseWriteConnection(self) -> None:
        """Say that nothing more will be written, once everything written is with the kernel."""
        if self.connected:
            self._half_closing = True
            self._wake()

    def getTcpNoDelay(self) -> bool:
        """What was set."""
        return self._no_delay

    def setTcpNoDelay(self, enabled: bool) -> None:
        """Nothing is ever delayed here."""
        self._no_delay = bool(enabled)

    def getTcpKeepAlive(self) -> bool:
        """What was set."""
        return self._keep_alive

    def setTcpKeepAlive(self, enabled: bool) -> None:
        """Have the kernels find a machine or a path that is gone, as :mod:`bzzz.net.keepalive`."""
        self._keep_alive = bool(enabled)

    @property
    def is_silent(self) -> bool:
        """Whether nothing gets from here to the other kernel and back."""
        here, there = self.host, self.out.target.host
        blocked = self._network.is_blocked
        return self.out.severed or blocked(here, there) or blocked(there, here)

    def answered(self) -> None:
        """The other kernel answers again; with a reset if it knows of no such connection."""
        self.silent_since = None
        if self.out.target.gone and not self.gone:
            reactor = self._network.reactor
            reset = ConnectionLost("reset by the peer")
            reactor.call_at(self.clock, reactor.now + KEEPALIVE_INTERVAL, self._lost, (reset,))

    # -- IConsumer

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        """Have ``producer`` asked for data while there is room for it."""
        if self._producer is not None:
            raise RuntimeError("a producer is registered on this transport already")
        if not self.connected:
            producer.stopProducing()
            return
        self._producer = producer
        self._streaming = streaming
        self._paused = False
        if not streaming:
            producer.resumeProducing()

    def unregisterProducer(self) -> None:
        """The producer has written all it had."""
        self._producer = None
        if self.connected and (self.disconnecting or self._half_closing):
            self._wake()

    # -- IPushProducer

    def pauseProducing(self) -> None:
        """Read no more for now."""
        self.reading = False

    def resumeProducing(self) -> None:
        """Read again."""
        if self.connected and not self.disconnecting and not self._aborting:
            self.reading = True
            self.incoming.read_again()

    def stopProducing(self) -> None:
        """The same as :meth:`loseConnection`."""
        self.loseConnection()

    # -- what the network tells it

    def connect(self, protocol: Any) -> None:
        """Have ``protocol`` use this end."""
        self.protocol = protocol
        if self.outgoing:
            self.out.send(OPEN)
        protocol.makeConnection(self)

    def refuse(self) -> None:
        """Nobody takes the connection."""
        self._close(RST)

    def arrived(self, data: bytes) -> None:
        """Data came."""
        for start in range(0, len(data), BUFFER) if len(data) > BUFFER else (0,):
            if not self.reading:
                # Paused or closed halfway: the rest is read later or never.
                self.incoming.put_back(data[start:])
                return
            try:
                self.protocol.dataReceived(
                    data if len(data) <= BUFFER else data[start : start + BUFFER]
                )
            except Exception:  # noqa: BLE001 - as a reactor does; the simulation counts it
                self._log.failure("Unhandled error in dataReceived")
                self._lost(None)
                return

    def notified(self, sign: Sign) -> None:
        """The connection is there, the other side has ended, or has reset it."""
        if sign is OPEN:
            assert self._accept is not None  # nosec B101  # noqa: S101 - only the dialled end gets it
            self._accept(self)
        elif sign is RST:
            self._lost(ConnectionLost("reset by the peer"))
        elif sign is FIN:
            half = IHalfCloseableProtocol(self.protocol, None)
            if half is not None and not self._fin_sent:
                half.readConnectionLost()
            else:
                self._lost(ConnectionDone())

    def has_room(self) -> None:
        """The kernel has taken everything: in the next turn whoever waits for that may go on."""
        if self._producer is not None:
            waits = self._paused or not self._streaming
        else:
            waits = self.disconnecting or self._half_closing
        if waits:
            reactor = self._network.reactor
            reactor.call_at(self.clock, reactor.now, self._drained)

    def timed_out(self) -> None:
        """What was sent was not acknowledged for too long."""
        if not self.gone:
            reactor = self._network.reactor
            reactor.call_at(
                self.clock, reactor.now, self._lost, (ConnectionLost("connection timed out"),)
            )

    def killed(self) -> None:
        """The process is gone; its kernel closes the connection."""
        self._close(RST if self.incoming.unread() else FIN)

    def vanished(self) -> None:
        """The machine is gone."""
        self.gone = True
        self.connected = False
        self.incoming.unread_is_lost()
        self.out.drop()

    # -- inside

    def _wake(self) -> None:
        if not self._waking:
            self._waking = True
            self._network.reactor.turn_ends.append(self._turn_over)

    def _turn_over(self) -> None:
        """Hand to the kernel what was written in this turn."""
        self._waking = False
        batch = self._batch
        if not self.connected or self.clock.crashed or self._aborting:
            batch.clear()
            return
        if batch:
            data = bytes(batch[0]) if len(batch) == 1 else b"".join(batch)
            batch.clear()
            self._batch_size = 0
            self.out.send(data)
        if self.out.size <= KERNEL:
            self.has_room()

    def _drained(self) -> None:
        """Everything written is with the kernel."""
        if not self.connected or self._aborting or self.out.size > KERNEL or self._batch:
            return
        producer = self._producer
        if producer is not None:
            if not self._streaming or self._paused:
                self._paused = False
                producer.resumeProducing()
        elif self.disconnecting:
            self._lost(ConnectionDone())
        elif self._half_closing and not self._fin_sent:
            self._fin_sent = True
            self.out.send(FIN)
            half = IHalfCloseableProtocol(self.protocol, None)
            if half is not None:
                half.writeConnectionLost()

    def _lost(self, reason: Exception | None) -> None:
        """This end is over.

        :param reason: None for the exception that is being handled.
        """
        if self.gone:
            return
        failure = Failure(reason) if reason is not None else Failure()
        # ConnectionAborted is a kind of ConnectionLost.
        aborted = isinstance(reason, ConnectionAborted)
        if isinstance(reason, ConnectionLost) and not aborted:
            self._close(None)
        else:
            self._close(RST if aborted or self.incoming.unread() else FIN)
        producer, self._producer = self._producer, None
        if producer is not None:
            producer.stopProducing()
        if self.protocol is not None:
            self.protocol.connectionLost(failure)

    def _close(self, sign: Sign | None) -> None:
        """The kernel closes this end, and tells the other one so or not."""
        self.gone = True
        self.connected = False
        self.host.forget(self)
        self.incoming.unread_is_lost()
        if sign is RST:
            self.out.send_reset()
        elif sign is FIN and not self._fin_sent:
            self._fin_sent = True
            self.out.send(FIN)
