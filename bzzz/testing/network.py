"""An in-memory network: hosts, byte streams between them as TCP has it, and what goes wrong.

Enters: listens, connects and writes of the nodes, and faults. Leaves: the same bytes in the same
order at the other end, later. What is modelled, and how:

============== =====================================================================================
latency        a base and a jitter, drawn for each batch, and more for a slow host; a connection
               never reorders
bandwidth      of each host's uplink, if set
loss           a lost batch comes one retransmission timeout later, doubled while it is lost again;
               a lost reset never comes
partition      what is under way waits, and goes on when TCP next sends again after it has healed,
               which is the later the longer it lasted; after 15 minutes the connection ends
kill           a process dies and its kernel closes the sockets
vanish         a machine dies: nothing is heard of it, and what is sent to it waits; once it is up
               again its kernel resets connections that it does not know
move           a host has another address: connections of the old one hear nothing any more
stall          a process that gets no CPU: its kernel goes on for it (see :class:`NodeClock`)
backpressure   a receiver that does not read stops its sender (see :mod:`bzzz.testing.transport`)
============== =====================================================================================
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import (
    CannotListenError,
    ConnectBindError,
    ConnectingCancelledError,
    ConnectionRefusedError,
    NoProtocol,
    TimeoutError,
)
from twisted.internet.interfaces import IListeningPort, IProtocol, IProtocolFactory
from twisted.logger import Logger
from zope.interface import implementer

from bzzz.net.interfaces import INetwork, Randomness
from bzzz.net.keepalive import INTERVAL as KEEPALIVE_INTERVAL
from bzzz.net.keepalive import SILENCE
from bzzz.testing.clock import NodeClock, SimCall, SimReactor
from bzzz.testing.pipe import RETRANSMISSION, Pipe
from bzzz.testing.transport import SimTransport

__all__ = ["Host", "SimNetwork"]

_log = Logger()

# The range that the kernel gives to outgoing connections.
EPHEMERAL = range(32768, 61000)

# A connection attempt that is not answered is repeated after so many seconds, doubled each time
# (RFC 6298, section 2).
SYN_RETRANSMISSION = 1.0

# Addresses that mean every address of the host.
ANY_IPV4 = "0.0.0.0"  # nosec B104 # of a simulated host
ANY = ("", ANY_IPV4)

# Seconds until a kernel that keeps a connection alive ends it: it looks once in its interval.
KEEPALIVE = SILENCE + KEEPALIVE_INTERVAL / 2


class Host:
    """A machine of the simulation.

    :ivar address: its IP address.
    :ivar clock: of the process that runs on it; another one after a restart.
    :ivar down: whether the machine itself is off.
    :ivar slowness: seconds that are added to the latency of whatever it sends or receives.
    :ivar listeners: the port of each listening socket.
    """

    def __init__(self, network: SimNetwork, address: str, clock: NodeClock) -> None:
        self.address = address
        self.clock = clock
        self.down = False
        self.slowness = 0.0
        self.network = network
        self.listeners: dict[int, _Listening] = {}
        self.transports: dict[SimTransport, None] = {}
        self.uplink_free = 0.0
        self._outgoing: set[int] = set()
        self._next_port = EPHEMERAL.start

    def __repr__(self) -> str:
        return f"<Host {self.address}{' down' if self.down else ''}>"

    def kill(self) -> None:
        """The process dies; the kernel closes its sockets."""
        self.clock.crashed = True
        self.listeners.clear()
        for transport in list(self.transports):
            transport.killed()
        self._outgoing.clear()

    def vanish(self) -> None:
        """The machine dies, and nobody is told."""
        self.clock.crashed = True
        self.down = True
        self.listeners.clear()
        for transport in self.transports:
            transport.vanished()
        self.transports.clear()
        self._outgoing.clear()
        self.network.broken()

    def restart(self, clock: NodeClock) -> None:
        """The machine is up, and a new process with this clock runs on it."""
        self.down = False
        self.clock = clock
        self.network.changed()

    def move(self) -> str:
        """The machine has another address from now on; what listens on the old one is lost."""
        network = self.network
        for transport in self.transports:
            transport.out.severed = transport.incoming.severed = True
        self.listeners = {
            port: listening for port, listening in self.listeners.items() if listening.host in ANY
        }
        del network.hosts[self.address]
        self.address = network.free_address()
        network.hosts[self.address] = self
        network.broken()
        return self.address

    def free_port(self) -> int | None:
        """A port for an outgoing connection or a listening socket; None if all are taken."""
        for _ in EPHEMERAL:
            port = self._next_port
            self._next_port = port + 1 if port + 1 in EPHEMERAL else EPHEMERAL.start
            if port not in self._outgoing and port not in self.listeners:
                return port
        return None

    def take_port(self, port: int) -> None:
        """An outgoing connection has this port."""
        self._outgoing.add(port)

    def forget_port(self, port: int) -> None:
        """An outgoing connection has it no more."""
        self._outgoing.discard(port)

    def forget(self, transport: SimTransport) -> None:
        """This end of a connection is closed."""
        self.transports.pop(transport, None)
        if transport.outgoing:
            self._outgoing.discard(transport.address[1])

    def listening_on(self, address: str, port: int) -> _Listening | None:
        """Who takes connections there."""
        listening = self.listeners.get(port)
        if listening is None or (listening.host not in ANY and listening.host != address):
            return None
        return listening


@implementer(IListeningPort)
class _Listening:
    """A listening socket."""

    def __init__(self, at: Host, host: str, port: int, factory: IProtocolFactory) -> None:
        self.host = host
        self.factory = factory
        self._at = at
        self._port = port

    def startListening(self) -> None:
        """It listens already."""

    def stopListening(self) -> Deferred[None]:
        """Listen no more."""
        if self._at.listeners.get(self._port) is self:
            del self._at.listeners[self._port]
            self.factory.doStop()
        return succeed(None)

    def getHost(self) -> IPv4Address:
        """Where it listens."""
        return IPv4Address("TCP", self.host, self._port)


@implementer(INetwork)
class _HostNetwork:
    """The network as one process sees it."""

    def __init__(self, network: SimNetwork, host: Host) -> None:
        self._network = network
        self._host = host

    def listen(self, host: str, port: int, factory: IProtocolFactory) -> Deferred[IListeningPort]:
        """See :meth:`INetwork.listen`."""
        here = self._host
        if host not in ANY and host != here.address:
            return fail(CannotListenError(host, port, OSError("not an address of this host")))
        actual = port or here.free_port()
        if actual is None or actual in here.listeners:
            return fail(CannotListenError(host, port, OSError("address already in use")))
        listening = here.listeners[actual] = _Listening(here, host, actual, factory)
        factory.doStart()
        return succeed(listening)

    def connect(
        self, host: str, port: int, factory: IProtocolFactory, timeout: float, bind_host: str | None
    ) -> Deferred[IProtocol]:
        """See :meth:`INetwork.connect`."""
        here = self._host
        own = here.free_port()
        if own is None or (bind_host is not None and bind_host not in (*ANY, here.address)):
            return fail(ConnectBindError(None, "cannot assign requested address"))
        return _Connecting(self._network, here, own, (host, port), factory, timeout).result


class _Connecting:
    """A connection attempt, as TCP makes it: one round trip, refused, or no answer."""

    def __init__(
        self,
        network: SimNetwork,
        source: Host,
        own_port: int,
        address: tuple[str, int],
        factory: IProtocolFactory,
        timeout: float,
    ) -> None:
        self.result: Deferred[IProtocol] = Deferred(self._cancelled)
        self._network = network
        self._source = source
        self._clock = source.clock
        self._here = (source.address, own_port)
        self._address = address
        self._factory = factory
        self._again_after = SYN_RETRANSMISSION
        self._step: SimCall | None = None
        source.take_port(own_port)
        self._timer = source.clock.callLater(timeout, self._failed, TimeoutError())
        self._send()

    def _send(self) -> None:
        """Send the SYN; it is on its way when nothing stops it."""
        target = self._network.hosts.get(self._address[0])
        if target is None or self._lost(self._source, target):
            self._later(self._again_after, self._send)
            self._again_after *= 2
        else:
            self._later(self._network.travel(self._source, target), self._arrives, target)

    def _arrives(self, target: Host) -> None:
        network = self._network
        if self._lost(target, self._source):
            # Its answer is lost, so that the attempt is repeated.
            self._later(self._again_after, self._send)
            self._again_after *= 2
            return
        back = network.travel(target, self._source)
        if target.listening_on(*self._address) is None:
            self._later(back, self._failed, ConnectionRefusedError())
        else:
            self._later(back, self._established, target)

    def _established(self, target: Host) -> None:
        self._end()
        peer = IPv4Address("TCP", *self._address)
        try:
            protocol = self._factory.buildProtocol(peer)
        except Exception:  # noqa: BLE001 - whatever it is, it is the caller's
            self._source.forget_port(self._here[1])
            self.result.errback()
            return
        if protocol is None:
            self._source.forget_port(self._here[1])
            self.result.errback(NoProtocol())
            return
        near = SimTransport(self._network, self._source, self._here, self._address)
        far = SimTransport(self._network, target, self._address, self._here, _accept)
        near.join(far)
        if target.down:
            far.vanished()
        near.connect(protocol)
        self.result.callback(protocol)

    def _failed(self, error: Exception) -> None:
        self._end()
        self._source.forget_port(self._here[1])
        self.result.errback(error)

    def _cancelled(self, result: Deferred[IProtocol]) -> None:
        self._end()
        self._source.forget_port(self._here[1])
        result.errback(ConnectingCancelledError(IPv4Address("TCP", *self._address)))

    def _end(self) -> None:
        for call in (self._timer, self._step):
            if call is not None and call.active():
                call.cancel()

    def _later(self, delay: float, call: Any, *arguments: object) -> None:
        reactor = self._network.reactor
        self._step = reactor.call_at(self._clock, reactor.now + delay, call, arguments)

    def _lost(self, source: Host, target: Host) -> bool:
        network = self._network
        return network.is_blocked(source, target) or (
            network.loss > 0 and network.random.random() < network.loss
        )


def _accept(end: SimTransport) -> None:
    """A connection is there whose far end dialled: the kernel hands it to whoever listens."""
    listening = end.host.listening_on(*end.address)
    if listening is None:
        end.refuse()
        return
    end.clock = end.host.clock
    try:
        protocol = listening.factory.buildProtocol(IPv4Address("TCP", *end.peer))
    except Exception:  # noqa: BLE001 - as a port does; the simulation counts it
        _log.failure("Unhandled error in accepting a connection")
        protocol = None
    if protocol is None:
        end.refuse()
    else:
        end.connect(protocol)


class SimNetwork:
    """All hosts, and the state of the paths between them.

    :param latency: least seconds from one host to another.
    :param jitter: seconds that may be added to it.
    :param loss: probability that a batch, a connection attempt or an announcement is lost.
    :param bandwidth: of each host's uplink, in bytes per second; None for no limit.
    :ivar stalled: the directions of connections that wait for their path to be free again.
    """

    def __init__(
        self,
        reactor: SimReactor,
        random: Randomness,
        latency: float = 0.0002,
        jitter: float = 0.0003,
        loss: float = 0.0,
        bandwidth: float | None = None,
    ) -> None:
        self.reactor = reactor
        self.random = random
        self.latency = latency
        self.jitter = jitter
        self.loss = loss
        self.bandwidth = bandwidth
        self.hosts: dict[str, Host] = {}
        self.stalled: dict[Pipe, None] = {}
        self._groups: dict[Host, int] = {}
        self._cuts: set[tuple[Host, Host]] = set()
        self._addresses = 0

    def add_host(self, clock: NodeClock) -> Host:
        """A host with an address of its own."""
        address = self.free_address()
        host = self.hosts[address] = Host(self, address, clock)
        return host

    def free_address(self) -> str:
        """An address that no host has or had."""
        self._addresses += 1
        number = self._addresses
        return f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"

    def of(self, host: Host) -> INetwork:
        """The network as the process on ``host`` sees it."""
        return _HostNetwork(self, host)

    # -- faults

    def partition(self, groups: Iterable[Iterable[Host]]) -> None:
        """Hosts of different groups cannot reach each other; hosts in none are in one together."""
        self._groups = {host: number for number, group in enumerate(groups, 1) for host in group}
        self.changed()
        self.broken()

    def cut(self, source: Host, target: Host) -> None:
        """Nothing that ``source`` sends gets to ``target``; the other way is another cut."""
        self._cuts.add((source, target))
        self.broken()

    def mend(self, source: Host, target: Host) -> None:
        """Take back one cut."""
        self._cuts.discard((source, target))
        self.changed()

    def heal(self) -> None:
        """Everybody can reach everybody."""
        self._groups = {}
        self._cuts.clear()
        self.changed()

    def changed(self) -> None:
        """Paths may be free that were not."""
        for pipe in list(self.stalled):
            if not self.is_blocked(pipe.source.host, pipe.target.host) and not pipe.severed:
                pipe.unstall()
        for transport in self._watched():
            if transport.silent_since is not None and not transport.is_silent:
                transport.answered()

    def broken(self) -> None:
        """Paths may be blocked that were free: the kernels that keep connections alive ask."""
        now = self.reactor.now
        asking = False
        for transport in self._watched():
            if transport.silent_since is None and transport.is_silent:
                transport.silent_since = now
                asking = True
        if asking:
            self.reactor.call_at(None, now + KEEPALIVE, self._look_at_silent)

    def _look_at_silent(self) -> None:
        since = self.reactor.now - SILENCE
        for transport in self._watched():
            if transport.silent_since is not None and transport.silent_since <= since:
                transport.timed_out()

    def _watched(self) -> list[SimTransport]:
        """The ends whose kernels ask the other end whether it is there."""
        return [
            transport
            for host in self.hosts.values()
            for transport in host.transports
            if transport.getTcpKeepAlive()
        ]

    # -- paths

    def is_cut(self, source: Host, target: Host) -> bool:
        """Whether the network lets nothing through from one to the other."""
        groups = self._groups
        if groups and groups.get(source, 0) != groups.get(target, 0):
            return True
        return bool(self._cuts) and (source, target) in self._cuts

    def is_blocked(self, source: Host, target: Host) -> bool:
        """Whether nothing gets from one to the other, be it the path or one of them."""
        if source.down or target.down:
            return True
        if not self._groups and not self._cuts:
            return False
        return self.is_cut(source, target)

    def travel(self, source: Host, target: Host) -> float:
        """Seconds that a packet takes that is not lost."""
        return self.latency + self.jitter * self.random.random() + source.slowness + target.slowness

    def arrival(self, source: Host, target: Host, size: int) -> float:
        """When so many bytes arrive that are sent now, with what losses cost."""
        random = self.random.random
        due = self.reactor.now
        if self.bandwidth is not None:
            due = source.uplink_free = max(due, source.uplink_free) + size / self.bandwidth
        due += self.latency + self.jitter * random() + source.slowness + target.slowness
        if self.loss:
            again = RETRANSMISSION
            while random() < self.loss:
                due += again
                again *= 2
        return due
