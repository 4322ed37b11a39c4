"""Protocols and pairs for the tests of the simulator's network."""

from __future__ import annotations

import random
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IListeningPort
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from bzzz.testing.clock import NodeClock, SimReactor
from bzzz.testing.network import Host, SimNetwork
from bzzz.testing.transport import SimTransport


class Recorder(Protocol):
    """Notes what happens to it, with the time."""

    transport: SimTransport

    def __init__(self, reactor: SimReactor) -> None:
        self.reactor = reactor
        self.chunks: list[bytes] = []
        self.times: list[float] = []
        self.lost: Failure | None = None
        self.lost_at: float | None = None

    @property
    def received(self) -> bytes:
        return b"".join(self.chunks)

    def dataReceived(self, data: bytes) -> None:
        self.chunks.append(data)
        self.times.append(self.reactor.now)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        assert self.lost is None, "connectionLost came twice"
        self.lost = reason
        self.lost_at = self.reactor.now


class Recorders(Factory):
    """Makes them and keeps them."""

    noisy = False

    def __init__(self, reactor: SimReactor, make: type[Recorder] = Recorder) -> None:
        self.reactor = reactor
        self.make = make
        self.made: list[Recorder] = []

    def buildProtocol(self, addr: Any) -> Recorder:
        made = self.make(self.reactor)
        self.made.append(made)
        return made


class WorldCase(SynchronousTestCase):
    """Two hosts, 10 ms apart."""

    latency = 0.01

    def setUp(self) -> None:
        draw = random.Random(1)
        self.reactor = SimReactor(draw)
        self.network = SimNetwork(self.reactor, draw, latency=self.latency, jitter=0.0)
        self.near = self.network.add_host(NodeClock(self.reactor))
        self.far = self.network.add_host(NodeClock(self.reactor))

    def run_for(self, seconds: float) -> None:
        self.reactor.run_until(self.reactor.now + seconds)

    def listen(
        self, host: Host | None = None, port: int = 7, make: type[Recorder] = Recorder
    ) -> Recorders:
        at = host or self.far
        factory = Recorders(self.reactor, make)
        self.port: IListeningPort = self.successResultOf(
            self.network.of(at).listen(at.address, port, factory)
        )
        return factory

    def dial(
        self,
        target: Host | None = None,
        port: int = 7,
        timeout: float = 5.0,
        make: type[Recorder] = Recorder,
    ) -> Deferred[Any]:
        address = (target or self.far).address
        factory = Recorders(self.reactor, make)
        return self.network.of(self.near).connect(address, port, factory, timeout, None)

    def pair(
        self, near: type[Recorder] = Recorder, far: type[Recorder] = Recorder
    ) -> tuple[Recorder, Recorder]:
        """Both ends of an established connection, the one that dialled first."""
        accepted = self.listen(make=far)
        dialled = self.dial(make=near)
        self.run_for(0.1)
        return self.successResultOf(dialled), accepted.made[0]
