"""Peers that a joiner may ask: right ones, and those that guess. Links and streams are fakes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import Any

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from bzzz.errors import BzzzError, StreamReset
from bzzz.identity.peer_id import PeerID
from bzzz.trust.codes import Code, Token
from bzzz.trust.joining import Candidate, JoinError, Joining
from bzzz.trust.pairing import MAX_ROSTER, Inviter, State, encode_statements
from bzzz.wire.framing import FrameReader, frame
from bzzz.wire.multiaddr import Multiaddr
from tests.trust.rosters import key

__all__ = ["ADDRESS", "CODE", "TOKEN", "JoiningCase", "Network", "Peer", "Talk"]

CODE = Code("7", ("guitar", "lunar"))
TOKEN = Token(key("walnut").peer_id, bytes(range(8)), b"t" * 16)
ADDRESS = Multiaddr.parse("/ip4/192.0.2.1/tcp/4001")
HASH = b"h" * 32
ROSTER = encode_statements([b"found", b"admit oak"])


class Network:
    """A swarm whose dials go on until a test ends them.

    :ivar dials: those under way, and whom each is to reach.
    :ivar held: links that are kept because their peers pair.
    """

    def __init__(self) -> None:
        self.links: dict[PeerID, Peer] = {}
        self.dials: list[tuple[PeerID | None, Deferred[Any]]] = []
        self.held: set[Peer] = set()

    def link_to(self, peer: PeerID) -> Peer | None:
        return self.links.get(peer)

    def dial(
        self, addresses: Sequence[Multiaddr], expected: PeerID | None, guest_ok: bool
    ) -> Deferred[Any]:
        dialled: Deferred[Any] = Deferred()
        self.dials.append((expected, dialled))
        return dialled

    def hold_guest(self, link: Peer) -> None:
        self.held.add(link)

    def release_guest(self, link: Peer) -> None:
        self.held.discard(link)


class Peer:
    """The link to a candidate.

    :ivar openings: streams that wait for its answer.
    :ivar talks: streams that it has answered.
    """

    handshake_hash = HASH
    remote_multiaddr = ADDRESS
    closed = False

    def __init__(self, network: Network, name: str) -> None:
        self.remote_peer = key(name).peer_id
        self.connection = self
        self.openings: list[tuple[Deferred[Any], Any]] = []
        self.talks: list[Talk] = []
        self._network = network

    def link(self) -> None:
        """Be linked."""
        self._network.links[self.remote_peer] = self

    def come_up(self) -> None:
        """End the dial that is to reach it."""
        (dial,) = [each for each in self._network.dials if each[0] in {self.remote_peer, None}]
        self._network.dials.remove(dial)
        self.link()
        dial[1].callback(self)

    def open_stream(self, protocols: Sequence[str], factory: Any) -> Deferred[Any]:
        def cancel(opened: Deferred[Any]) -> None:
            self.openings = [each for each in self.openings if each[0] is not opened]
            opened.errback(StreamReset("opening the stream was cancelled"))

        opened: Deferred[Any] = Deferred(cancel)
        self.openings.append((opened, factory))
        return opened

    def refuse_stream(self, error: BzzzError) -> None:
        """Open no stream."""
        self.openings.pop(0)[0].errback(error)

    def answer(self) -> Talk:
        """Open the stream that was asked for first."""
        opened, factory = self.openings.pop(0)
        talk = Talk(self, factory)
        self.talks.append(talk)
        opened.callback(talk.protocol)
        return talk

    def offer(self, password: bytes = CODE.password) -> Talk:
        """Answer up to message 2, with the code or a guess."""
        talk = self.answer()
        talk.offer(password)
        return talk


class Talk:
    """A candidate's end of a stream; to the joiner its transport, and who is there.

    :ivar over: whether the stream is gone.
    """

    def __init__(self, link: Peer, factory: Any) -> None:
        self.link = link
        self.over = False
        self._reader = FrameReader(MAX_ROSTER)
        self._said: list[bytes] = []
        self.protocol: Any = factory.buildProtocol(self)
        self._core = Inviter(
            link.remote_peer, key("oak").peer_id, HASH, Random(link.remote_peer.short).randbytes
        )
        self.protocol.makeConnection(self)

    def offer(self, password: bytes) -> None:
        """Send message 2."""
        self._core.receive(self._said.pop(0))
        self.hear(frame(self._core.offer(password)))

    @property
    def told(self) -> bool:
        """Whether message 3 has come."""
        return bool(self._said)

    def guess(self) -> bytes:
        """Message 4 by the password that it has offered, without having heard message 3."""
        self._core.state = State.CONFIRMED
        return frame(self._core.accept(ROSTER))

    def admit(self) -> None:
        """Send message 4, to a joiner that has the code."""
        self._core.receive(self._said.pop(0))
        self.hear(frame(self._core.accept(ROSTER)))

    def refuse(self, code: str) -> None:
        """Refuse message 1 or 3."""
        self._core.receive(self._said.pop(0))
        self.hear(frame(self._core.refuse(code)))

    def hear(self, data: bytes) -> None:
        """Have the joiner hear it."""
        if not self.over:
            self.protocol.dataReceived(data)

    def hang_up(self) -> None:
        """Reset the stream."""
        self._lose(StreamReset("reset by the peer"))

    # -- the transport

    def write(self, data: bytes) -> None:
        self._said += self._reader.receive(data)

    def loseConnection(self) -> None:
        self._lose(ConnectionDone())

    def abortConnection(self) -> None:
        self._lose(StreamReset("reset here"))

    def _lose(self, reason: Exception) -> None:
        if not self.over:
            self.over = True
            self.protocol.connectionLost(Failure(reason))


class Homeless:
    """The cluster of a node that is in none, and takes any roster.

    :ivar error: why it does not.
    """

    roster = None
    error: BzzzError | None = None

    def __init__(self) -> None:
        self.peer_id = key("oak").peer_id

    async def adopt(self, statements: Sequence[bytes], by: PeerID) -> Any:
        if self.error is not None:
            raise self.error
        return Taken()


class Taken:
    cluster = "homelab"

    def name_of(self, peer: PeerID) -> str:
        return "oak" if peer == key("oak").peer_id else "walnut"


class JoiningCase(SynchronousTestCase):
    """A node that joins.

    :ivar found: who is discovered.
    :ivar results: what came of ``bzzz join``.
    """

    def setUp(self) -> None:
        self.clock = Clock()
        self.network = Network()
        self.cluster = Homeless()
        self.found: list[Candidate] = []
        self.results: list[Any] = []
        network: Any = self.network
        cluster: Any = self.cluster
        self.joining = Joining(
            network, cluster, self.clock, Random(0).randbytes, maybeDeferred, lambda: self.found
        )

    def peer(self, name: str, linked: bool = True) -> Peer:
        """A peer that is discovered."""
        peer = Peer(self.network, name)
        if linked:
            peer.link()
        self.found.append(Candidate(peer.remote_peer, (ADDRESS,)))
        return peer

    def join(
        self,
        secret: Code | Token = CODE,
        at: Sequence[Multiaddr] = (),
        say: Callable[..., object] = lambda event, **fields: None,
    ) -> Deferred[Any]:
        """Begin, and keep what comes of it."""
        work = Deferred.fromCoroutine(self.joining.join(secret, "oak", at, say))
        work.addBoth(self.results.append)
        return work

    def wait(self, seconds: float) -> None:
        """Let time go by."""
        self.clock.pump([0.25] * int(seconds / 0.25))

    def result(self) -> Any:
        """What came of it."""
        (result,) = self.results
        return result

    def error(self) -> JoinError:
        """Why it came to nothing."""
        error = self.result().value
        assert isinstance(error, JoinError)
        return error

    def assert_over(self) -> None:
        """Nothing is left of it."""
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertEqual(self.network.held, set())
