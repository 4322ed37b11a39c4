"""Swarms on simulated hosts, and a swarm that the test speaks to byte by byte."""

from __future__ import annotations

import random
from typing import Any

from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, ensureDeferred, succeed
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from bzzz.identity.keys import PrivateKey
from bzzz.identity.peer_id import PeerID
from bzzz.net.link import Link
from bzzz.net.swarm import Swarm, SwarmLimits
from bzzz.testing.clock import NodeClock, SimReactor
from bzzz.testing.network import Host, SimNetwork
from bzzz.wire.connection import Connection, LinkReady
from bzzz.wire.identify import Identify
from bzzz.wire.multiaddr import Multiaddr

PORT = 4001
LATENCY = 0.01


class Echo(Protocol):
    def dataReceived(self, data: bytes) -> None:
        transport: Any = self.transport
        transport.write(data)


class Keeper(Protocol):
    """Keeps what it gets."""

    def __init__(self) -> None:
        self.data = b""
        self.lost: Any = None

    def dataReceived(self, data: bytes) -> None:
        self.data += data

    def connectionLost(self, reason: Any = None) -> None:
        self.lost = reason


def always(protocol: Protocol) -> Any:
    return lambda addr: protocol


class Roster:
    """A gate that admits those that it has; everybody as long as it is open."""

    def __init__(self, *members: PeerID, is_open: bool = False) -> None:
        self.members = set(members)
        self.is_open = is_open

    def admits(self, peer: PeerID) -> bool:
        return self.is_open or peer in self.members

    def refusal(self, peer: PeerID) -> str:
        return "revoked by walnut"


class Peer:
    """A swarm on a host of its own, and what its observer was told."""

    def __init__(
        self, case: SwarmCase, number: int, gate: Roster | None = None, **limits: Any
    ) -> None:
        self.host: Host = case.network.add_host(NodeClock(case.reactor))
        draw = random.Random(number)
        self.swarm = Swarm(
            PrivateKey.from_seed(bytes([number]) * 32),
            self.host.clock,
            case.network.of(self.host),
            draw.randbytes,
            "test/1",
            f"node{number}",
            SwarmLimits(**limits),
            gate=gate,
        )
        self.told: list[tuple[str, Any]] = []
        self.dialling: Deferred[Link] | None = None
        self.swarm.add_observer(self)
        self.swarm.handle("/echo", Factory.forProtocol(Echo))
        case.successResultOf(ensureDeferred(self.swarm.listen(self.host.address, PORT)))

    @property
    def address(self) -> Multiaddr:
        return Multiaddr.tcp(self.host.address, PORT)

    @property
    def ups(self) -> list[Link]:
        return [about for what, about in self.told if what == "up"]

    def dial(self, *others: Peer, expected: Any = None, guest_ok: bool = False) -> Deferred[Link]:
        self.dialling = self.swarm.dial(
            [other.address for other in others], expected or others[-1].swarm.peer_id, guest_ok
        )
        return self.dialling

    def link_up(self, link: Link) -> None:
        self.told.append(("up", link))
        if self.dialling is not None:
            self.told.append(("dial was over", self.dialling.called))

    def link_down(self, link: Link, reason: str) -> None:
        self.told.append(("down", reason))

    def identified(self, link: Link, identify: Identify) -> None:
        self.told.append(("guest" if identify.guest else "name", identify.name))

    def copy_found(self, address: Multiaddr | None) -> None:
        self.told.append(("copy", address))


class SwarmCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.reactor = SimReactor(random.Random(1))
        self.network = SimNetwork(self.reactor, random.Random(1), LATENCY, jitter=0.0)

    def run_for(self, seconds: float) -> None:
        self.reactor.run_until(self.reactor.now + seconds)


class Wire:
    """TCP as a link sees it. Written data is kept, pauses are counted."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.reading = True
        self.aborted = False
        self.closing = False
        self.half_closed = False

    def getHost(self) -> IPv4Address:
        return IPv4Address("TCP", "192.0.2.1", 4001)

    def getPeer(self) -> IPv4Address:
        return IPv4Address("TCP", "192.0.2.2", 4002)

    def setTcpNoDelay(self, _: bool) -> None:
        pass

    def setTcpKeepAlive(self, _: bool) -> None:
        pass

    def registerProducer(self, producer: object, streaming: bool) -> None:
        pass

    def unregisterProducer(self) -> None:
        pass

    def writeSequence(self, data: list[bytes]) -> None:
        self.written += data

    def pauseProducing(self) -> None:
        self.reading = False

    def resumeProducing(self) -> None:
        self.reading = True

    def loseWriteConnection(self) -> None:
        self.half_closed = True

    def loseConnection(self) -> None:
        self.closing = True

    def abortConnection(self) -> None:
        self.aborted = True


class Door:
    """A network on which somebody listens, and nobody is but the test."""

    factory: Any

    def listen(self, host: str, port: int, factory: Factory) -> Deferred[Door]:
        self.factory = factory
        return succeed(self)

    def getHost(self) -> IPv4Address:
        return IPv4Address("TCP", "192.0.2.1", 4001)


class RawCase(SynchronousTestCase):
    """A swarm whose peer is a bare core: the test decides what comes in one read of TCP."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.gate = Roster()
        door: Any = Door()
        self.door = door
        self.swarm = Swarm(
            PrivateKey.from_seed(b"s" * 32),
            self.clock,
            door,
            random.Random(1).randbytes,
            "test/1",
            "walnut",
            gate=self.gate,
        )
        self.successResultOf(ensureDeferred(self.swarm.listen("192.0.2.1", 4001)))
        self.key = PrivateKey.from_seed(b"p" * 32)
        self.connect()

    def connect(self) -> None:
        """Open a connection, on which nothing has been said."""
        self.wire = Wire()
        link: Link = self.door.factory.buildProtocol(IPv4Address("TCP", "192.0.2.2", 4002))
        self.link = link
        link.makeConnection(self.wire)
        self.peer = Connection(
            True, self.key, random_bytes=random.Random(2).randbytes, protocols=lambda name: True
        )
        self.peer.start()

    def handshake(self) -> None:
        """Say everything up to the last message, which is the peer's and is not sent yet."""
        ready = False
        while not ready:
            self.link.dataReceived(self.peer.data_to_send())
            ready = any(isinstance(event, LinkReady) for event in self.hear())

    def hear(self) -> list[Any]:
        """What the swarm has sent, as the peer understands it."""
        written, self.wire.written = b"".join(self.wire.written), []
        return self.peer.receive_data(written)

    def send(self) -> list[Any]:
        """Have all that the peer has to say come in one read; what is answered."""
        self.link.dataReceived(self.peer.data_to_send())
        return self.hear()

    def lose(self) -> None:
        """TCP is gone, as the reactor says it after an end."""
        self.link.connectionLost(connectionDone)
