"""Members with files, on simulated hosts, and a peer that says what it is told to."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, ensureDeferred, execute
from twisted.internet.protocol import Factory, Protocol
from twisted.logger import LogLevel
from twisted.trial.unittest import SynchronousTestCase

from bzzz.identity.keys import PrivateKey
from bzzz.identity.peer_id import PeerID
from bzzz.net.stream import Stream
from bzzz.net.swarm import Swarm
from bzzz.tasks.files.chunk_messages import PROTOCOL
from bzzz.tasks.files.files import Files
from bzzz.tasks.files.manifest import CHUNK
from bzzz.testing.clock import NodeClock, SimReactor
from bzzz.testing.network import SimNetwork
from bzzz.wire.multiaddr import Multiaddr
from tests.logs import lines_at

__all__ = ["FilesCase", "Node", "Talk"]

PORT = 4001
NAMES = ("acacia", "birch", "cedar", "dogwood")


class Talk(Protocol):
    """A stream whose bytes are kept, and on which the test says what it wants."""

    transport: Stream

    def __init__(self) -> None:
        self.data = b""
        self.lost = False
        self.on_data: Callable[[Talk], object] = lambda talk: None

    def dataReceived(self, data: bytes) -> None:
        self.data += data
        self.on_data(self)

    def connectionLost(self, reason: Any = None) -> None:
        self.lost = True


class Node:
    """A member.

    :param speaks: whether it has files; else the test handles the protocol.
    """

    def __init__(self, case: FilesCase, number: int, speaks: bool = True) -> None:
        self.case = case
        self.key = PrivateKey.from_seed(bytes([number]) * 32)
        self.peer_id = self.key.peer_id
        self.name = NAMES[number - 1]
        self.place = case.place / self.name
        self.host = case.network.add_host(NodeClock(case.reactor))
        self.swarm = Swarm(
            self.key,
            self.host.clock,
            case.network.of(self.host),
            random.Random(number).randbytes,
            "test/1",
            self.name,
            security="plaintext",
        )
        case.members[self.peer_id] = self.name
        case.successResultOf(ensureDeferred(self.swarm.listen(self.host.address, PORT)))
        # Calls that wait to be made, while the disk is slow.
        self.slow = False
        self.waiting: list[tuple[Deferred[Any], Callable[[], Any]]] = []
        if speaks:
            self.start()

    def start(self, quota: int = 64 * CHUNK) -> None:
        """Have files, as after a start."""
        self.files = Files(
            self.swarm,
            self.host.clock,
            self.place,
            quota,
            self._in_thread,
            lambda peer: peer in self.case.members,
            lambda peer: self.case.members.get(peer, ""),
        )
        self.case.successResultOf(self.files.start())

    def _in_thread(self, work: Callable[[], Any]) -> Deferred[Any]:
        if not self.slow:
            return execute(work)
        waiting: Deferred[Any] = Deferred()
        self.waiting.append((waiting, work))
        return waiting

    def disk(self, count: int = 1) -> None:
        """Make some of the calls that wait."""
        for _ in range(count):
            waiting, work = self.waiting.pop(0)
            execute(work).addCallbacks(waiting.callback, waiting.errback)

    def says(self, on_data: Callable[[Talk], object]) -> list[Talk]:
        """Answer the protocol by hand; the streams that were opened."""
        talks: list[Talk] = []

        class Talks(Factory):
            noisy = False

            def buildProtocol(self, addr: Any) -> Protocol:
                talk = Talk()
                talk.on_data = on_data
                talks.append(talk)
                return talk

        self.swarm.handle(PROTOCOL, Talks())
        return talks

    def chunks(self) -> int:
        """How many chunks are in its cache."""
        return sum(1 for each in self.place.glob("??/*"))


class FilesCase(SynchronousTestCase):
    """Members that are linked; what the disk does is done at once."""

    def setUp(self) -> None:
        self.reactor = SimReactor(random.Random(1))
        self.network = SimNetwork(self.reactor, random.Random(1), 0.001, jitter=0.0)
        self.place = Path(self.mktemp()).absolute()
        self.place.mkdir(parents=True)
        self.members: dict[PeerID, str] = {}
        self.warnings = lines_at(self, LogLevel.warn)
        self.errors = lines_at(self, LogLevel.error)

    def run_for(self, seconds: float) -> None:
        self.reactor.run_until(self.reactor.now + seconds)

    def link(self, one: Node, *others: Node) -> None:
        """Link the first to all others."""
        for other in others:
            one.swarm.dial([Multiaddr.tcp(other.host.address, PORT)], other.peer_id)
        self.run_for(0.5)
        for other in others:
            self.assertIn(other.peer_id, one.swarm.links)

    def open(self, one: Node, other: Node) -> Talk:
        """A stream on which the test asks."""
        talk = Talk()
        made: list[Any] = []

        class Talks(Factory):
            noisy = False

            def buildProtocol(self, addr: Any) -> Protocol:
                return talk

        one.swarm.links[other.peer_id].open_stream([PROTOCOL], Talks()).addBoth(made.append)
        self.run_for(0.1)
        return talk
