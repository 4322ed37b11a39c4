"""A whole node: the daemon's own code above the network, with peers that say anything.

They speak the protocols of the link as they are, so that the fuzzer's bytes come to what stands
behind them. An input is a list of steps, each a byte that says what is done
(:meth:`World.step`), the length of its payload in two bytes, big-endian, and the payload.
"""

from __future__ import annotations

import gc
import random
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionRefusedError
from twisted.internet.task import Clock
from twisted.logger import ILogObserver, globalLogPublisher
from twisted.python.failure import Failure
from zope.interface import implementer

from bzzz.errors import LocalProtocolError, RemoteProtocolError
from bzzz.identity.keys import PrivateKey
from bzzz.identity.peer_id import PeerID
from bzzz.mesh import peer_exchange
from bzzz.mesh.availability import Availability
from bzzz.mesh.capability import CapabilityDocument
from bzzz.mesh.node import MeshNode, MeshSettings, Surroundings
from bzzz.trust import pairing, presenting, roster_exchange
from bzzz.trust.cluster import Cluster
from bzzz.wire import identify, ping
from bzzz.wire.connection import Connection, State, StreamNegotiated
from bzzz.wire.gossip_params import PROTOCOLS
from bzzz.wire.multiaddr import Multiaddr
from tests.fuzz.registry import OURS, THEIRS, fixed_bytes, target

__all__ = ["KEYS", "SPOKEN", "WALL", "World", "encode_step", "live", "made_node"]

HERE = IPv4Address("TCP", "127.0.0.1", 4001)
THERE = IPv4Address("TCP", "127.0.0.1", 54321)
WALL = 1_767_000_000.0

# What the peer may open streams for.
SPOKEN = (
    identify.PROTOCOL,
    identify.PUSH,
    ping.PROTOCOL,
    PROTOCOLS[0],
    peer_exchange.PROTOCOL,
    pairing.PROTOCOL,
    presenting.PROTOCOL,
    roster_exchange.PROTOCOL,
)

# The kinds of steps; see :meth:`World.step`. Below them, the index of what a stream is opened for.
ANSWER, AGAIN, RAW, WAIT, CONNECT, TURN, HANG_UP, JAM = range(8, 16)
ENDING = 16
RESET = 32

# Who connects: the first peer again, another one, or one with the node's own key.
KEYS = (THEIRS, PrivateKey.from_seed(b"u" * 32), OURS)

# Steps that are taken; more make runs slow and find nothing else.
MOST_STEPS = 32

# Turns of handing bytes to and fro. Nothing honest takes ten.
MOST_TURNS = 1000

# Seconds that a step may wait.
WAITS = (0.1, 1.0, 15.0, 120.0)


def encode_step(kind: int, payload: bytes) -> bytes:
    """A step of an input."""
    return bytes([kind]) + len(payload).to_bytes(2, "big") + payload


def steps(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The steps of an input; the last one may be cut."""
    position = 0
    for _ in range(MOST_STEPS):
        if len(data) - position < 3:
            return
        size = int.from_bytes(data[position + 1 : position + 3], "big")
        yield data[position], data[position + 3 : position + 3 + size]
        position += 3 + size


class Wire:
    """A TCP connection, seen from the node."""

    def __init__(self) -> None:
        self.sent: deque[bytes] = deque()
        self.lost: type[Exception] | None = None

    def write(self, data: bytes) -> None:
        """To the peer."""
        self.sent.append(bytes(data))

    def writeSequence(self, chunks: Sequence[bytes]) -> None:
        """To the peer."""
        self.sent.extend(map(bytes, chunks))

    def loseWriteConnection(self) -> None:
        """The peer ends it, too, when it has heard what was sent."""
        self.lost = self.lost or ConnectionDone

    def loseConnection(self) -> None:
        """Close it, soon."""
        self.lost = self.lost or ConnectionDone

    def abortConnection(self) -> None:
        """Close it, soon."""
        self.lost = self.lost or ConnectionAborted

    def registerProducer(self, producer: object, streaming: bool) -> None:
        """It is never full."""

    def unregisterProducer(self) -> None:
        """Likewise."""

    def setTcpNoDelay(self, enabled: bool) -> None:
        """There are no packets."""

    def setTcpKeepAlive(self, enabled: bool) -> None:
        """There is no kernel."""

    def getHost(self) -> IPv4Address:
        """This end."""
        return HERE

    def getPeer(self) -> IPv4Address:
        """The other."""
        return THERE


class Listening:
    """A port."""

    def getHost(self) -> IPv4Address:
        """Where it is."""
        return HERE

    def stopListening(self) -> None:
        """Nothing came anyway."""


class Network:
    """Who dials finds nobody; who listens is remembered."""

    factory: Any

    def listen(self, host: str, port: int, factory: Any) -> Deferred[Any]:
        """Keep the factory."""
        self.factory = factory
        return succeed(Listening())

    def connect(self, *_: Any) -> Deferred[Any]:
        """Nobody is there."""
        return fail(ConnectionRefusedError())


class NoBook:
    """An address book that keeps nothing."""

    def seen(
        self, peer: PeerID, addresses: Sequence[Multiaddr], source: str, name: str = ""
    ) -> None:
        """Forgotten."""

    def succeeded(self, peer: PeerID, address: Multiaddr) -> None:
        """Forgotten."""

    def ordered(self, peer: PeerID, addresses: Sequence[Multiaddr]) -> list[Multiaddr]:
        """As they come."""
        return list(addresses)


def made_node(clock: Clock, network: Network, cluster: Cluster | None = None) -> MeshNode:
    """A node as the simulator makes them."""

    def wall_time() -> float:
        return WALL + float(clock.seconds())

    return MeshNode(
        OURS,
        MeshSettings(name="walnut", agent="bzzz-py/fuzzed", security="plaintext"),
        Surroundings(clock, network, wall_time, random.Random(1), fixed_bytes),  # type: ignore[arg-type]
        NoBook(),
        lambda: CapabilityDocument(node_id=str(OURS.peer_id), name="walnut"),
        Availability(2, wall_time),
        lambda event, **fields: None,
        [],
        lambda address: succeed(()),
        cluster=cluster,
    )


class Peer:
    """The other end of a link to the node."""

    def __init__(self, network: Network, key: PrivateKey) -> None:
        self.wire = Wire()
        self.link = network.factory.buildProtocol(THERE)
        self.gone = False
        self.jammed = False
        self.connection = Connection(
            True,
            key,
            random_bytes=fixed_bytes,
            protocols=lambda protocol: True,
            security="plaintext",
        )
        self.asked: list[int] = []
        self.opened: list[int] = []
        self.connection.start()
        self.link.makeConnection(self.wire)
        self.pump()

    def pump(self) -> None:
        """Hand bytes to and fro until nobody has any."""
        for _ in range(MOST_TURNS):
            output = self.connection.data_to_send()
            if output and not self.gone:
                self.link.dataReceived(output)
            moved = bool(output)
            while self.wire.sent and not self.jammed:
                moved = True
                self._hear(self.wire.sent.popleft())
            if self.wire.lost is not None and not self.gone:
                self.gone = True
                self.link.connectionLost(Failure(self.wire.lost()))
            if not moved:
                return
        raise AssertionError("node and peer never fall silent")

    def hang_up(self) -> None:
        """Be gone without a goodbye."""
        self.wire.abortConnection()

    def jam(self) -> None:
        """Read nothing until it is called again; TCP's buffers are full at once."""
        if self.gone:
            return
        self.jammed = not self.jammed
        if self.jammed:
            self.link.pauseProducing()
        else:
            self.link.resumeProducing()

    def _hear(self, data: bytes) -> None:
        try:
            events = self.connection.receive_data(data)
        except RemoteProtocolError:
            return  # an answer to what this peer said past its own core
        for event in events:
            if isinstance(event, StreamNegotiated) and event.inbound:
                self.asked.append(event.stream_id)

    def say(self, stream_id: int, kind: int, payload: bytes) -> None:
        """Send on a stream, as far as its window goes; then perhaps end or reset it."""
        try:
            self.connection.send_data(stream_id, payload)
            if kind & RESET:
                self.connection.reset_stream(stream_id)
            elif kind & ENDING:
                self.connection.end_stream(stream_id)
        except LocalProtocolError:
            pass  # it was ended before, or has no protocol yet

    def raw(self, frames: bytes) -> None:
        """Send what may be no yamux at all."""
        channel = self.connection._channel
        assert channel is not None
        sealed: list[Any] = []
        channel.seal([frames], sealed)
        if not self.gone:
            self.link.dataReceived(b"".join(sealed))


class World:
    """A node, its clock and its peers.

    :ivar peers: of whom the last one is the one that says something.
    """

    def __init__(self) -> None:
        self.clock, self.network = Clock(), Network()
        self.node = self.made_node()
        self.peers: list[Peer] = []

    def made_node(self) -> MeshNode:
        """The node."""
        return made_node(self.clock, self.network)

    def check(self) -> None:
        """What holds after each step."""
        assert OURS.peer_id not in self.node.swarm.links

    def pump(self) -> None:
        """Let all of them talk."""
        for peer in self.peers:
            peer.pump()

    def step(self, kind: int, payload: bytes) -> None:
        """Wait; connect a peer, or have another take its turn; or have this one say something."""
        what = kind & 15
        if what == WAIT:
            self.clock.advance(WAITS[kind >> 6])
        elif what == CONNECT:
            self.peers.append(Peer(self.network, KEYS[(kind >> 6) % len(KEYS)]))
        elif what == TURN:
            self.peers.append(self.peers.pop(0))
        elif what == HANG_UP:
            self.peers[-1].hang_up()
        elif what == JAM:
            self.peers[-1].jam()
        else:
            say(self.peers[-1], kind, payload)


def say(peer: Peer, kind: int, payload: bytes) -> None:
    """Open a stream, answer on one that the node opened, or go on with one."""
    what = kind & 15
    connection = peer.connection
    if connection.state is not State.OPEN or peer.gone:
        return
    if what == ANSWER:
        if peer.asked:
            peer.say(peer.asked.pop(0), kind, payload)
    elif what == AGAIN:
        if peer.opened:
            peer.say(peer.opened[-1], kind, payload)
    elif what == RAW:
        peer.raw(payload)
    elif what < len(SPOKEN):
        try:
            peer.opened.append(connection.open_stream((SPOKEN[what],)))
        except LocalProtocolError:
            return  # too many of them
        peer.say(peer.opened[-1], kind, payload)


@implementer(ILogObserver)
class Findings:
    """An observer of the log: a failure that is only logged is a failure."""

    def __init__(self) -> None:
        self.found: list[Failure] = []

    def __call__(self, event: dict[str, Any]) -> None:
        """One entry."""
        if event.get("log_failure") is not None:
            self.add(event["log_failure"])

    def add(self, failure: Failure) -> None:
        """Keep it, as an errback."""
        self.found.append(failure)

    def check(self) -> None:
        """Raise the first."""
        if self.found:
            self.found[0].raiseException()


def run(data: bytes, findings: Findings, world: World) -> None:
    """The whole life of a node."""
    node = world.node
    listening = Deferred.fromCoroutine(node.swarm.listen("127.0.0.1", 4001))
    listening.addErrback(findings.add)
    node.start()
    world.step(CONNECT, b"")
    assert node.swarm.link_to(THEIRS.peer_id) is not None
    for kind, payload in steps(data):
        world.step(kind, payload)
        world.pump()
        world.check()
    for member in node.membership.members.values():
        assert member.name.isprintable()
        assert member.reason.isprintable()
    stopping = Deferred.fromCoroutine(node.stop())
    stopping.addErrback(findings.add)
    world.pump()
    assert stopping.called
    assert not node.swarm.links
    assert not node.swarm.guests


def live(data: bytes, make: Callable[[], World]) -> None:
    """Run the life of a node in a world, and raise what failed in it."""
    findings = Findings()
    globalLogPublisher.addObserver(findings)
    # A Deferred that fails unheard says so when it is collected, which is to be in this run. Only
    # what the run has made is looked at, or each would take as long as a hundred.
    gc.freeze()
    try:
        run(data, findings, make())
        gc.collect()
        findings.check()
    finally:
        gc.unfreeze()
        globalLogPublisher.removeObserver(findings)


@target
def node(data: bytes) -> None:
    """A node and its peers, with minutes between their steps if need be."""
    live(data, World)
