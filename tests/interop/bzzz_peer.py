"""Bzzz's end of the interop tests: a swarm on real sockets, and the protocols of ``peer.mjs``."""

from __future__ import annotations

import array
import hashlib
import json
import os
import random
import sys
import time
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from bzzz.identity.keys import PrivateKey
from bzzz.identity.peer_id import PeerID
from bzzz.mesh.lag import ReactorLag
from bzzz.mesh.liveness import Liveness
from bzzz.mesh.pubsub import PubSub, ValidationResult
from bzzz.net.link import Link
from bzzz.net.ping import PingService
from bzzz.net.stream import Stream
from bzzz.net.swarm import Swarm
from bzzz.net.tcp import TCPNetwork
from bzzz.wire.gossip_message import Message
from bzzz.wire.gossip_params import GossipParams
from bzzz.wire.identify import Identify
from bzzz.wire.multiaddr import Multiaddr

__all__ = ["AGENT", "BzzzPeer", "Digest", "digest_of"]

AGENT = "bzzz-py/interop"
ECHO = "/interop/echo/1.0.0"
SINK = "/interop/sink/1.0.0"
SOURCE = "/interop/source/1.0.0"

# The slow reader of peer.mjs.
SLOW_START = 0.5
SLOW_BYTES = 256 * 1024
SLOW_PAUSE = 0.01

PIECE = 65536

# For anything that a test waits for, in seconds. The machine may be busy.
TIMEOUT = 20.0

Digest = dict[str, Any]


def counters(offset: int, size: int) -> bytes:
    """Bytes ``offset`` to ``offset + size`` of the 32-bit counters that peer.mjs sends too."""
    numbers = array.array("I", range(offset // 4, (offset + size) // 4))
    if sys.byteorder == "little":
        numbers.byteswap()
    return numbers.tobytes()


def digest_of(size: int) -> Digest:
    """What an intact transfer of ``size`` bytes is told as."""
    return {"bytes": size, "sha256": hashlib.sha256(counters(0, size)).hexdigest()}


@implementer(IHalfCloseableProtocol)
class Talk(Protocol):
    """A stream that is read to its end.

    :ivar finished: fires when both sides have ended the stream; fails if it was reset.
    """

    transport: Stream

    def __init__(self) -> None:
        self.finished: Deferred[None] = Deferred()

    def readConnectionLost(self) -> None:
        """The other side has sent everything."""
        self.transport.loseConnection()

    def writeConnectionLost(self) -> None:
        """This side has sent everything."""

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Say how it ended."""
        if reason.check(ConnectionDone):
            self.finished.callback(None)
        else:
            self.finished.errback(reason)


class Hashing(Talk):
    """Reads slowly, and hashes what comes."""

    def __init__(self, clock: Any) -> None:
        super().__init__()
        self._clock = clock
        self._hash = hashlib.sha256()
        self._bytes = 0
        self._unpaused = 0

    @property
    def digest(self) -> Digest:
        """What has come."""
        return {"bytes": self._bytes, "sha256": self._hash.hexdigest()}

    def connectionMade(self) -> None:
        self._pause(SLOW_START)

    def dataReceived(self, data: bytes) -> None:
        self._hash.update(data)
        self._bytes += len(data)
        self._unpaused += len(data)
        if self._unpaused >= SLOW_BYTES:
            self._unpaused = 0
            self._pause(SLOW_PAUSE)

    def _pause(self, seconds: float) -> None:
        self.transport.pauseProducing()
        self._clock.callLater(seconds, self.transport.resumeProducing)


class Sink(Hashing):
    """Tells at the end what has come."""

    def readConnectionLost(self) -> None:
        self.transport.write(json.dumps(self.digest).encode())
        super().readConnectionLost()


class Receiving(Hashing):
    """Asks the other side for bytes."""

    def __init__(self, clock: Any, size: int) -> None:
        super().__init__(clock)
        self._size = size

    def connectionMade(self) -> None:
        self.transport.write(str(self._size).encode())
        self.transport.loseWriteConnection()
        super().connectionMade()


class Collecting(Talk):
    """Keeps what comes. Only for little."""

    def __init__(self) -> None:
        super().__init__()
        self.data = b""

    def dataReceived(self, data: bytes) -> None:
        self.data += data


class Sending(Collecting):
    """Sends counters as fast as the stream takes them, then reads the answer."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self._size = size
        self._sent = 0
        self._paused = False

    def connectionMade(self) -> None:
        self.pour()

    def pour(self) -> None:
        """Start sending."""
        self.transport.registerProducer(self, True)
        self.resumeProducing()

    def resumeProducing(self) -> None:
        self._paused = False
        while self._sent < self._size and not self._paused:
            piece = counters(self._sent, min(PIECE, self._size - self._sent))
            self._sent += len(piece)
            self.transport.write(piece)
        if self._sent >= self._size:
            self.transport.unregisterProducer()
            self.transport.loseWriteConnection()

    def pauseProducing(self) -> None:
        self._paused = True

    def stopProducing(self) -> None:
        self._sent = self._size


class Source(Sending):
    """Is told how much to send."""

    def __init__(self) -> None:
        super().__init__(0)

    def connectionMade(self) -> None:
        pass

    def readConnectionLost(self) -> None:
        self._size = int(self.data)
        self.pour()


class Echo(Talk):
    """Sends back what comes."""

    def dataReceived(self, data: bytes) -> None:
        self.transport.write(data)


class Saying(Collecting):
    """Says one thing and reads to the end."""

    def __init__(self, said: bytes) -> None:
        super().__init__()
        self._said = said

    def connectionMade(self) -> None:
        self.transport.write(self._said)
        self.transport.loseWriteConnection()


def factory(build: Callable[[], Protocol]) -> Factory:
    """A factory of protocols that need no address."""
    made = Factory()
    made.noisy = False
    made.buildProtocol = lambda addr: build()  # type: ignore[method-assign]
    return made


class BzzzPeer:
    """A swarm with ping, gossipsub and the answering protocols.

    :ivar downs: for each link that was lost, its peer and why.
    """

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        key = PrivateKey.generate(os.urandom)
        self.swarm = Swarm(key, reactor, TCPNetwork(reactor), os.urandom, AGENT, "interop")
        self.pings = PingService(self.swarm, os.urandom)
        self.lag = ReactorLag(reactor)
        self.liveness = Liveness(reactor, random.Random(), self.pings, self.lag, lambda: True)
        self.pubsub = PubSub(
            self.swarm, key, reactor, random.Random(), GossipParams(), time.time_ns()
        )
        self.identities: dict[PeerID, Identify] = {}
        self.messages: list[Message] = []
        self.downs: list[tuple[PeerID, str]] = []
        self._awaited: list[tuple[Callable[[], Any], Deferred[Any]]] = []
        self.swarm.handle(ECHO, factory(Echo))
        self.swarm.handle(SINK, factory(lambda: Sink(reactor)))
        self.swarm.handle(SOURCE, factory(Source))
        for observer in (self.liveness, self):
            self.swarm.add_observer(observer)

    async def start(self) -> Multiaddr:
        """Listen on loopback; returns where, with the peer ID."""
        self.lag.start()
        self.liveness.start()
        self.pubsub.start()
        port = await self.swarm.listen("127.0.0.1", 0)
        return Multiaddr.tcp("127.0.0.1", port).with_peer(self.swarm.peer_id)

    async def stop(self) -> None:
        """Close everything."""
        self.pubsub.stop()
        self.liveness.stop()
        self.lag.stop()
        await self.swarm.stop()

    def until(self, found: Callable[[], Any]) -> Deferred[Any]:
        """The first true result of ``found``, which is asked again whenever something happens."""
        result: Deferred[Any] = Deferred()
        self._awaited.append((found, result))
        self._look()
        return result.addTimeout(TIMEOUT, self._reactor)

    def subscribe(self, topic: str) -> None:
        """Be in a topic, and keep its messages."""

        def keep(message: Message, sender: PeerID) -> None:
            self.messages.append(message)
            self._look()

        self.pubsub.subscribe(topic, lambda message, sender: ValidationResult.ACCEPT, keep)

    async def talk(self, link: Link, protocol_id: str, talk: Talk) -> None:
        """Open a stream and wait for its end."""
        await link.open_stream([protocol_id], factory(lambda: talk))
        await talk.finished

    async def echo(self, link: Link, data: bytes) -> bytes:
        """What the peer sends back."""
        saying = Saying(data)
        await self.talk(link, ECHO, saying)
        return saying.data

    async def send(self, link: Link, size: int) -> Digest:
        """What the peer says to have got."""
        sending = Sending(size)
        await self.talk(link, SINK, sending)
        told: Digest = json.loads(sending.data)
        return told

    async def receive(self, link: Link, size: int) -> Digest:
        """What came of the bytes that the peer was asked for."""
        receiving = Receiving(self._reactor, size)
        await self.talk(link, SOURCE, receiving)
        return receiving.digest

    # -- swarm observer

    def link_up(self, link: Link) -> None:
        """Somebody may be waiting for it."""
        self._look()

    def link_down(self, link: Link, reason: str) -> None:
        """Keep why."""
        self.downs.append((link.remote_peer, reason))
        self._look()

    def identified(self, link: Link, identify: Identify) -> None:
        """Keep who it is."""
        self.identities[link.remote_peer] = identify
        self._look()

    def copy_found(self, address: Multiaddr | None) -> None:
        """Cannot be here."""

    def _look(self) -> None:
        for entry in list(self._awaited):
            found, result = entry
            if result.called:
                self._awaited.remove(entry)
            elif value := found():
                self._awaited.remove(entry)
                result.callback(value)
