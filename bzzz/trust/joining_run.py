"""``/bzzz/pair/1.0.0`` at the joiner, with one peer that may be the inviter.

Enters: a stream to the peer, and when it may be told message 3. Leaves: the messages of
:class:`~bzzz.trust.pairing.Joiner`, the roster on this node's disk, and what came of the run.
docs/trust.rst, "Pairing".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from typing import Protocol as Shape

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.protocol import Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure

from bzzz.errors import BzzzError, RemoteProtocolError
from bzzz.identity.peer_id import PeerID
from bzzz.net.background import in_background
from bzzz.net.interfaces import Clock
from bzzz.net.link import Link
from bzzz.net.stream import Stream
from bzzz.net.swarm import Swarm
from bzzz.trust.cluster import Cluster, ClusterError
from bzzz.trust.codes import Code, Token
from bzzz.trust.pairing import MAX_ROSTER, Admission, Joiner, PairingRefused
from bzzz.trust.pairing_streams import STEP_SECONDS
from bzzz.wire.framing import FrameReader, frame

__all__ = ["InThread", "JoinError", "Joined", "JoiningNode", "Run", "Runs", "code_of"]

InThread = Callable[[Callable[[], Any]], Deferred[Any]]

# Seconds for the inviter's next message: that of its own steps, and its disk has as long again.
ANSWER_SECONDS = 2 * STEP_SECONDS

# Seconds for which message 3 may have to wait for others' runs: then the inviter has given up.
TURN_SECONDS = STEP_SECONDS


class JoinError(BzzzError):
    """The node did not join; says why, and what to do.

    :ivar code: a short, stable, snake_case name.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True)
class Joined:
    """What came of it.

    :ivar cluster: its name.
    :ivar name: of this node in it.
    :ivar by: who let it in, and its name.
    """

    cluster: str
    name: str
    by: PeerID
    by_name: str


class JoiningNode(Shape):
    """What is needed of the node; see :class:`bzzz.trust.joining.Joining`."""

    swarm: Swarm
    cluster: Cluster
    clock: Clock
    random_bytes: Callable[[int], bytes]
    in_thread: InThread
    unbound: bool


class Runs(Shape):
    """The ``bzzz join`` of which a run is one.

    :ivar over: whether it has come to an end.
    """

    secret: Code | Token
    name: str
    over: bool

    def started(self, run: Run) -> None:
        """The peer is asked."""

    def offered(self, run: Run) -> None:
        """The peer has the channel; :meth:`Run.confirm` is called when it has its turn."""

    def refused(self, run: Run, error: BzzzError) -> None:
        """The peer said no, or talked nonsense, before it was told anything."""

    def guessed(self, run: Run, error: BzzzError) -> None:
        """The peer was told message 3, and has not shown that it has the code."""

    def fail(self, error: BzzzError) -> None:
        """No other peer can help."""

    def succeed(self, run: Run, joined: Joined) -> None:
        """This node is a member."""

    def ended(self, run: Run) -> None:
        """The stream is gone, and what came of the run is told."""


class Run(Protocol):
    """The joiner's side with one peer.

    :ivar link: to the peer.
    :ivar asked: whom the peer was asked as; None for whoever is at an address.
    """

    transport: Stream
    _log = Logger()

    def __init__(self, runs: Runs, node: JoiningNode, link: Link, asked: PeerID | None) -> None:
        self.link = link
        self.asked = asked
        self._runs = runs
        self._node = node
        self._reader = FrameReader(MAX_ROSTER)
        self._core = Joiner(
            node.cluster.peer_id,
            link.remote_peer,
            runs.secret.channel,
            runs.secret.password,
            runs.name,
            link.connection.handshake_hash,
            node.random_bytes,
            unbound=node.unbound,
        )
        self._timer: IDelayedCall | None = None
        # The inviter has shown that it has the code: whether this node joins is up to it alone.
        self._has_admission = False
        self._lost = False
        self._done = False

    def connectionMade(self) -> None:
        """Ask for the channel."""
        self._runs.started(self)
        if self._runs.over:
            self.transport.abortConnection()
            return
        self._send(self._core.begin())

    def dataReceived(self, data: bytes) -> None:
        """Messages, or parts of them."""
        if self._done or self._has_admission:
            return
        try:
            messages = self._reader.receive(data)
            # Of the roster no byte is due before message 3: until then a run holds 4 KiB.
            if self._reader.buffered > self._core.max_length:
                raise RemoteProtocolError(
                    f"{self.link.remote_peer} sends more than is due", "pair_too_long"
                )
            for message in messages:
                self._received(message)
                if self._done or self._has_admission:
                    return
        except (RemoteProtocolError, PairingRefused) as error:
            self._failed(error)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The stream is gone."""
        self._lost = True
        self._cancel_timer()
        self._node.swarm.release_guest(self.link)
        if self._has_admission and not self._done:
            # It is being written to disk, and _admitted tells what came of that.
            return
        if not self._done and not self._runs.over:
            self._done = True
            words = "the inviter has hung up; if its owner sees no reason, try again"
            self._tell(JoinError("cut_off", f"{self.link.remote_peer}: {words}"))
        self._runs.ended(self)

    def confirm(self) -> None:
        """Send message 3: it is this peer's turn."""
        self._send(self._core.confirm())

    def abort(self) -> None:
        """Another peer was the right one, or all is over."""
        self._done = True
        self.transport.abortConnection()

    # -- inside

    def _received(self, message: bytes) -> None:
        event = self._core.receive(message)
        self._cancel_timer()
        if isinstance(event, Admission):
            self._has_admission = True
            in_background(self._admitted(event), "joining a cluster", self._log)
        else:
            self._await(
                TURN_SECONDS,
                "kept_waiting",
                f"did not have its turn within {TURN_SECONDS:.0f} s: others that say that they have"
                " this invitation were first; give the address of the right one with --at",
            )
            self._runs.offered(self)

    async def _admitted(self, admission: Admission) -> None:
        peer = self.link.remote_peer
        cluster = self._node.cluster
        try:
            statements: list[bytes] = await self._node.in_thread(admission.decode)
            if self._runs.over:
                return
            roster = await cluster.adopt(statements, peer)
        except (ClusterError, RemoteProtocolError) as error:
            self._not_joined(JoinError(code_of(error), str(error)))
            return
        except BzzzError as error:
            self._not_joined(
                JoinError(
                    "not_kept",
                    f"{peer} has let this node in, but this node cannot keep the roster: {error};"
                    " then the same bzzz join again",
                )
            )
            return
        self._done = True
        if not (self._lost or self.link.closed):
            self.transport.write(frame(self._core.joined()))
            self.transport.loseConnection()
        self._runs.succeed(
            self,
            Joined(roster.cluster, roster.name_of(cluster.peer_id), peer, roster.name_of(peer)),
        )

    def _failed(self, error: BzzzError) -> None:
        """The run is over."""
        self._done = True
        self._tell(error)
        self.transport.abortConnection()

    def _not_joined(self, error: JoinError) -> None:
        """The right inviter was found, and nobody else can help."""
        self._done = True
        # In this order: with the stream ends its turn, and another one would be told message 3.
        self._runs.fail(error)
        self.transport.abortConnection()

    def _tell(self, error: BzzzError) -> None:
        # What counts is that message 3 was sent, whatever the peer said to it.
        if self._core.guess_given:
            self._runs.guessed(self, error)
        else:
            self._runs.refused(self, error)

    def _send(self, message: bytes) -> None:
        self.transport.write(frame(message))
        self._await(ANSWER_SECONDS, "too_late", f"said nothing for {ANSWER_SECONDS:.0f} s")

    def _await(self, seconds: float, code: str, words: str) -> None:
        """Give up after so long."""
        self._cancel_timer()
        error = JoinError(code, f"{self.link.remote_peer} {words}")
        self._timer = self._node.clock.callLater(seconds, self._failed, error)

    def _cancel_timer(self) -> None:
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None


def code_of(error: BzzzError) -> str:
    """The error's short name, if it has one."""
    code = getattr(error, "code", "")
    return code if isinstance(code, str) and code else "failed"
