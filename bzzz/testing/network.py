"""An in-memory network: hosts, byte streams between them as TCP has it, and multicast.

Enters: listens, connects and writes of the nodes, and faults. Leaves: the same bytes in the same
order at the other end, later. What is modelled, and how:

============== =====================================================================================
latency        a base and a jitter, drawn for each batch; a connection never reorders
loss           a lost batch comes one retransmission timeout later (:data:`RETRANSMISSION`), doubled
               while it is lost again
partition      batches wait where they are, and go on after a retransmission timeout when it heals
kill           a process dies and its kernel closes the sockets: the others see resets
vanish         a machine dies: nothing is heard of it, what is sent to it is lost; once it is up
               again its kernel resets connections that it does not know
backpressure   a sender with more than :data:`BUFFER` under way has its producer paused
multicast      an announcement reaches each host that is up, connected and not excluded, once, or is
               lost
============== =====================================================================================
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import (
    CannotListenError,
    ConnectionDone,
    ConnectionLost,
    ConnectionRefusedError,
    TimeoutError,
)
from twisted.internet.interfaces import IListeningPort, IProtocol, IProtocolFactory
from twisted.python.failure import Failure
from zope.interface import implementer

from bzzz.net.interfaces import INetwork, Randomness
from bzzz.testing.clock import NodeClock, SimCall, SimReactor

__all__ = ["Host", "SimNetwork"]

# TCP's first retransmission timeout on a LAN, in seconds (Linux: TCP_RTO_MIN).
RETRANSMISSION = 0.2

# Bytes under way in one direction before its sender is paused: Twisted's buffer and a socket's.
BUFFER = 65536 + 262144

# The range that the kernel gives to outgoing connections.
FIRST_EPHEMERAL = 32768

_FIN, _RST = object(), object()


class _Pipe:
    """One direction of a connection: what is under way, in order."""

    __slots__ = ("_call", "_network", "_source", "_target", "size", "under_way")

    def __init__(self, network: SimNetwork, source: SimTransport, target: SimTransport) -> None:
        self._network = network
        self._source = source
        self._target = target
        self._call: SimCall | None = None
        self.under_way: deque[tuple[float, Any]] = deque()
        self.size = 0

    def send(self, what: Any) -> None:
        network = self._network
        source, target = self._source.host, self._target.host
        now = network.reactor.now
        due = now + network.delay(source, target)
        if self.under_way and self.under_way[-1][0] > due:
            due = self.under_way[-1][0]
        self.under_way.append((due, what))
        if isinstance(what, bytes):
            self.size += len(what)
        if self._call is None:
            self._call = network.reactor.call_at(None, due, self._arrive)

    def _arrive(self) -> None:
        self._call = None
        network = self._network
        source, target = self._source.host, self._target.host
        if source.down or target.down:
            # A machine that is off neither sends again nor acknowledges.
            if source.down:
                self.under_way.clear()
                return
            self._again(RETRANSMISSION * 4)
            return
        if network.is_cut(source, target):
            self._again(RETRANSMISSION)
            return
        now = network.reactor.now
        while self.under_way and self.under_way[0][0] <= now:
            _, what = self.under_way.popleft()
            if isinstance(what, bytes):
                self.size -= len(what)
            self._target.arrived(what)
        if self.under_way:
            self._call = network.reactor.call_at(None, self.under_way[0][0], self._arrive)
        self._source.sent()

    def _again(self, delay: float) -> None:
        reactor = self._network.reactor
        jitter = 0.5 + self._network.random.random()
        self._call = reactor.call_at(None, reactor.now + delay * jitter, self._arrive)


class SimTransport:
    """One end of a connection. What :class:`~twisted.internet.interfaces.ITCPTransport` has."""

    def __init__(
        self, network: SimNetwork, host: Host, address: tuple[str, int], peer: tuple[str, int]
    ) -> None:
        self.host = host
        self.clock = host.clock
        self.protocol: Any = None
        self.disconnecting = False
        self._network = network
        self._address = address
        self._peer = peer
        self._out: _Pipe | None = None
        self._other: SimTransport | None = None
        self._batch: list[bytes] = []
        self._flush_call: SimCall | None = None
        self._producer: Any = None
        self._producer_paused = False
        self._closed = False
        self._fin_sent = False
        self._reading = True
        self._held: list[Any] = []
        host.transports[self] = None

    def connect_to(self, other: SimTransport) -> None:
        """``other`` is the far end."""
        self._other = other
        self._out = _Pipe(self._network, self, other)

    # -- ITransport and friends

    def write(self, data: bytes) -> None:
        """Send ``data``."""
        if data and not self._closed and not self._fin_sent:
            self._batch.append(bytes(data))
            if self._flush_call is None:
                # What is written in one turn of the reactor goes out together.
                reactor = self._network.reactor
                self._flush_call = reactor.call_at(self.clock, reactor.now, self._flush)

    def writeSequence(self, data: Iterable[bytes]) -> None:
        """Send the pieces."""
        self.write(b"".join(data))

    def loseConnection(self) -> None:
        """Close once everything written is sent."""
        if not self.disconnecting and not self._closed:
            self.disconnecting = True
            reactor = self._network.reactor
            reactor.call_at(self.clock, reactor.now, self._close)

    def abortConnection(self) -> None:
        """Close at once."""
        if not self._closed and self._out is not None:
            self._batch.clear()
            self._out.send(_RST)
            reactor = self._network.reactor
            reactor.call_at(self.clock, reactor.now, self._lost, (ConnectionLost(),))

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        """Pause and resume ``producer``."""
        self._producer = producer

    def unregisterProducer(self) -> None:
        """Pause nobody any more."""
        self._producer = None

    def pauseProducing(self) -> None:
        """Deliver nothing."""
        self._reading = False

    def resumeProducing(self) -> None:
        """Deliver what has waited."""
        self._reading = True
        held, self._held = self._held, []
        for what in held:
            self.arrived(what)

    def setTcpNoDelay(self, enabled: bool) -> None:
        """Nothing is delayed here."""

    def setTcpKeepAlive(self, enabled: bool) -> None:
        """There is no keep-alive here."""

    def getHost(self) -> IPv4Address:
        """This end."""
        return IPv4Address("TCP", *self._address)

    def getPeer(self) -> IPv4Address:
        """The other end."""
        return IPv4Address("TCP", *self._peer)

    # -- the network

    def arrived(self, what: Any) -> None:
        """The pipe brings data, the end, or a reset."""
        if self._closed or self.clock.crashed:
            # Closed, or of a process that is no more: the kernel answers with a reset.
            if what is not _RST and self._other is not None and self._out is not None:
                self._out.send(_RST)
            return
        if not self._reading:
            self._held.append(what)
        elif what is _FIN:
            self._flush()
            if self._out is not None and not self._fin_sent:
                self._fin_sent = True
                self._out.send(_FIN)
            self._lost(ConnectionDone())
        elif what is _RST:
            self._lost(ConnectionLost())
        else:
            self.protocol.dataReceived(what)

    def sent(self) -> None:
        """Something has arrived at the far end, so there is room again."""
        if self._producer_paused and self._out is not None and self._out.size < BUFFER // 2:
            self._producer_paused = False
            if self._producer is not None and not self._closed and not self.clock.crashed:
                self._producer.resumeProducing()

    def killed(self) -> None:
        """The process is gone and its kernel closes the connection."""
        self._closed = True
        if self._out is not None:
            self._out.send(_RST)

    def _flush(self) -> None:
        self._flush_call = None
        if self._batch and self._out is not None and not self._closed:
            data = self._batch[0] if len(self._batch) == 1 else b"".join(self._batch)
            self._batch.clear()
            self._out.send(data)
            if self._out.size > BUFFER and self._producer is not None and not self._producer_paused:
                self._producer_paused = True
                self._producer.pauseProducing()

    def _close(self) -> None:
        self._flush()
        if self._out is not None and not self._fin_sent and not self._closed:
            self._fin_sent = True
            self._out.send(_FIN)

    def _lost(self, reason: Exception) -> None:
        if self._closed:
            return
        self._closed = True
        self.host.transports.pop(self, None)
        self.protocol.connectionLost(Failure(reason))


class Host:
    """A machine of the simulation.

    :ivar clock: of the process that runs on it; another one after a restart.
    :ivar down: whether the machine itself is off.
    """

    def __init__(self, network: SimNetwork, address: str, clock: NodeClock) -> None:
        self.address = address
        self.clock = clock
        self.down = False
        self.network = network
        self.listeners: dict[int, IProtocolFactory] = {}
        self.transports: dict[SimTransport, None] = {}
        self.next_port = FIRST_EPHEMERAL

    def kill(self) -> None:
        """The process dies; the kernel closes its sockets."""
        self.clock.crashed = True
        self.listeners.clear()
        for transport in list(self.transports):
            transport.killed()
        self.transports.clear()

    def vanish(self) -> None:
        """The machine dies, and nobody is told."""
        self.clock.crashed = True
        self.down = True
        self.listeners.clear()
        self.transports.clear()

    def restart(self, clock: NodeClock) -> None:
        """The machine is up, and a new process with this clock runs on it."""
        self.down = False
        self.clock = clock


@implementer(IListeningPort)
class _Listening:
    def __init__(self, host: Host, port: int) -> None:
        self._host = host
        self._port = port

    def startListening(self) -> None:
        """It listens already."""

    def stopListening(self) -> Deferred[None]:
        self._host.listeners.pop(self._port, None)
        return succeed(None)

    def getHost(self) -> IPv4Address:
        return IPv4Address("TCP", self._host.address, self._port)


@implementer(INetwork)
class _HostNetwork:
    """The network as one host sees it."""

    def __init__(self, network: SimNetwork, host: Host) -> None:
        self._network = network
        self._host = host

    def listen(self, host: str, port: int, factory: IProtocolFactory) -> Deferred[IListeningPort]:
        if host not in (self._host.address, "0.0.0.0"):
            return fail(CannotListenError(host, port, OSError("not an address of this host")))
        actual = port or self._host.next_port
        self._host.next_port += 1
        if actual in self._host.listeners:
            return fail(CannotListenError(host, port, OSError("address in use")))
        self._host.listeners[actual] = factory
        return succeed(_Listening(self._host, actual))

    def connect(
        self, host: str, port: int, factory: IProtocolFactory, timeout: float, bind_host: str | None
    ) -> Deferred[IProtocol]:
        return self._network.connect(self._host, host, port, factory, timeout)


class SimNetwork:
    """All hosts.

    :param latency: least seconds from one host to another.
    :param jitter: seconds that may be added to it.
    :param loss: probability that a batch, a connection attempt or an announcement is lost.
    """

    def __init__(
        self,
        reactor: SimReactor,
        random: Randomness,
        latency: float = 0.0002,
        jitter: float = 0.0003,
        loss: float = 0.0,
    ) -> None:
        self.reactor = reactor
        self.random = random
        self.latency = latency
        self.jitter = jitter
        self.loss = loss
        self.hosts: dict[str, Host] = {}
        self._groups: dict[str, int] = {}

    def add_host(self, clock: NodeClock) -> Host:
        """A host with an address of its own."""
        number = len(self.hosts) + 1
        address = f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"
        host = self.hosts[address] = Host(self, address, clock)
        return host

    def of(self, host: Host) -> INetwork:
        """The network as ``host`` sees it."""
        return _HostNetwork(self, host)

    def partition(self, groups: Iterable[Iterable[Host]]) -> None:
        """Hosts of different groups cannot reach each other; hosts in none are in a group."""
        self._groups = {
            host.address: number for number, group in enumerate(groups, 1) for host in group
        }

    def heal(self) -> None:
        """Everybody can reach everybody."""
        self._groups = {}

    def is_cut(self, one: Host, other: Host) -> bool:
        """Whether a partition is between the two."""
        groups = self._groups
        return bool(groups) and groups.get(one.address, 0) != groups.get(other.address, 0)

    def delay(self, source: Host, target: Host) -> float:
        """Seconds that a batch takes, with what its losses cost."""
        random = self.random.random
        delay = self.latency + self.jitter * random()
        again = RETRANSMISSION
        while self.loss and random() < self.loss:
            delay += again
            again *= 2
        return delay

    def connect(
        self, source: Host, address: str, port: int, factory: IProtocolFactory, timeout: float
    ) -> Deferred[IProtocol]:
        """A connection attempt, as TCP makes it: one round trip, refused, or no answer."""
        clock = source.clock
        reactor = self.reactor
        timer: list[SimCall] = []

        def cancelled(_: object) -> None:
            for call in timer:
                if call.active():
                    call.cancel()

        result: Deferred[IProtocol] = Deferred(cancelled)

        def settle(what: Callable[[], None]) -> None:
            if not result.called:
                cancelled(None)
                what()

        def syn_arrives() -> None:
            if result.called or clock.crashed or source.down:
                return
            target = self.hosts.get(address)
            if target is None or target.down or self.is_cut(source, target):
                timer.append(reactor.call_at(clock, reactor.now + 1.0, syn_arrives))
                return
            back = reactor.now + self.delay(target, source)
            listening = target.listeners.get(port)
            if listening is None:
                timer.append(
                    reactor.call_at(
                        clock, back, settle, (lambda: result.errback(ConnectionRefusedError()),)
                    )
                )
                return
            timer.append(reactor.call_at(clock, back, settle, (lambda: established(target),)))

        def established(target: Host) -> None:
            listening = target.listeners.get(port)
            if listening is None or target.down:
                result.errback(ConnectionRefusedError())
                return
            source.next_port += 1
            here = (source.address, source.next_port)
            near = SimTransport(self, source, here, (address, port))
            far = SimTransport(self, target, (address, port), here)
            near.connect_to(far)
            far.connect_to(near)
            protocol = factory.buildProtocol(near.getPeer())
            accepted = listening.buildProtocol(far.getPeer())
            if protocol is None or accepted is None:
                result.errback(ConnectionRefusedError())
                return
            near.protocol, far.protocol = protocol, accepted
            accepted.makeConnection(far)  # type: ignore[arg-type]  # has what is used of it
            protocol.makeConnection(near)  # type: ignore[arg-type]  # has what is used of it
            result.callback(protocol)

        timer.append(
            reactor.call_at(
                clock,
                reactor.now + timeout,
                settle,
                (lambda: result.errback(TimeoutError()),),
            )
        )
        there = self.hosts.get(address)
        first = self.delay(source, there) if there is not None else self.latency
        timer.append(reactor.call_at(clock, reactor.now + first, syn_arrives))
        return result
