"""``/bzzz/present/1.0.0``: proof of an admission that the other side has not heard of yet.

Enters: links on which this node is a guest although it is a member; what guests of this node
present. Leaves: proofs, and statements to the cluster when they make the guest a member.
docs/trust.rst, "Proof of an admission".

A proof is judged on a copy of the roster, a few statements at a time, one proof after the
other. The first statement that is wrong ends it, so that a guest can cost this node one signature
that is checked in vain per proof.
"""

from __future__ import annotations

from collections import deque
from typing import Any

import msgspec
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure

from bzzz.errors import BzzzError, RemoteProtocolError
from bzzz.identity.peer_id import PeerID
from bzzz.net.interfaces import Clock
from bzzz.net.link import Link
from bzzz.net.stream import Stream
from bzzz.net.swarm import Swarm
from bzzz.net.token_bucket import TokenBucket
from bzzz.trust.cluster import Cluster
from bzzz.trust.roster import MissingParents, Roster
from bzzz.trust.roster_exchange import decode_batch, encode_batch
from bzzz.trust.statements import SignedStatement
from bzzz.wire.framing import FrameReader, frame
from bzzz.wire.identify import Identify
from bzzz.wire.multiaddr import Multiaddr

__all__ = ["MAX_PROOF", "PROTOCOL", "Presenting"]

PROTOCOL = "/bzzz/present/1.0.0"

# Bytes of a proof: some 1500 statements. A member whose roster is longer waits until the other has
# heard of it from somebody else.
MAX_PROOF = 1 << 20

# Proofs judged in a minute. One that is good is needed once by each member that was away.
PER_MINUTE = 30
BURST = 10

# Seconds that a guest has for sending its proof once it is its turn, and guests that may wait.
TIME_LIMIT = 5.0
MAX_WAITING = 16

# Statements judged before others have their turn.
SLICE = 24


class _Proof(msgspec.Struct):
    statements: list[str]


class Presenting:
    """Presents this node's admission, and judges what guests present.

    Add it to the swarm's observers.
    """

    _log = Logger()

    def __init__(self, swarm: Swarm, cluster: Cluster, clock: Clock) -> None:
        self._swarm = swarm
        self._cluster = cluster
        self._clock = clock
        self._bucket = TokenBucket(BURST, PER_MINUTE / 60)
        self._waiting: deque[_Judging] = deque()
        self._current: _Judging | None = None
        self._presented: set[Link] = set()
        swarm.handle(PROTOCOL, _Factory(lambda link: _Judging(self, link)), guests=True)

    # -- swarm observer

    def link_up(self, link: Link) -> None:
        """Identify follows, and says what this node is to the peer."""

    def link_down(self, link: Link, reason: str) -> None:
        """Another link to the peer needs a proof of its own."""
        self._presented.discard(link)

    def identified(self, link: Link, identify: Identify) -> None:
        """The peer takes this node for a guest: prove that it is a member."""
        roster = self._cluster.roster
        if (
            not identify.guest
            or roster is None
            or link in self._presented
            or not roster.admits(self._cluster.peer_id)
        ):
            return
        own = roster.members[self._cluster.peer_id].statement
        message = msgspec.json.encode(_Proof(encode_batch(roster.wanted([own], []))))
        if len(message) > MAX_PROOF:
            return
        self._presented.add(link)
        opened: Deferred[Any] = link.open_stream(
            [PROTOCOL], _Factory(lambda _: _Presenting(message))
        )
        opened.addErrback(self._failed, link)

    def copy_found(self, address: Multiaddr | None) -> None:
        """Not of interest here."""

    # -- for the streams

    def came(self, judging: _Judging) -> bool:
        """A guest wants to present something; whether it may."""
        if (
            self._cluster.roster is None
            or judging.link.remote_peer not in self._swarm.guests
            or len(self._waiting) >= MAX_WAITING
            or any(other.link is judging.link for other in (*self._waiting, self._current) if other)
            or not self._bucket.take(self._clock.seconds())
        ):
            return False
        self._waiting.append(judging)
        self._next()
        return True

    def ended(self, judging: _Judging) -> None:
        """A proof has been judged, or its stream is gone."""
        if judging in self._waiting:
            self._waiting.remove(judging)
        if self._current is judging:
            self._current = None
            self._next()

    def begin(self) -> Roster | None:
        """A copy of the roster to judge a proof on."""
        roster = self._cluster.roster
        return None if roster is None else roster.copy()

    def proved(self, peer: PeerID, merged: Roster, new: list[SignedStatement]) -> None:
        """All of a proof is well-formed."""
        if self._cluster.roster is not None and merged.admits(peer):
            self._log.info(
                "{peer} has proved that it was admitted to {cluster}",
                peer=peer,
                cluster=merged.cluster,
            )
            self._cluster.present(new)

    def _next(self) -> None:
        if self._current is None and self._waiting:
            self._current = self._waiting.popleft()
            self._current.begin(self._clock.callLater(TIME_LIMIT, self._current.abort))

    def _failed(self, failure: Failure, link: Link) -> None:
        failure.trap(BzzzError)
        self._log.debug(
            "{peer} could not be shown this node's admission: {error}",
            peer=link.remote_peer,
            error=failure.getErrorMessage(),
        )


class _Factory(Factory):
    noisy = False

    def __init__(self, build: Any) -> None:
        self._build = build

    def buildProtocol(self, addr: Any) -> Protocol:
        built: Protocol = self._build(addr.link)
        return built


class _Presenting(Protocol):
    """Sends a proof and closes."""

    transport: Stream

    def __init__(self, message: bytes) -> None:
        self._message = message

    def connectionMade(self) -> None:
        self.transport.write(frame(self._message))
        self.transport.loseConnection()


class _Judging(Protocol):
    """Reads a proof when it is its turn, and judges it."""

    transport: Stream

    def __init__(self, presenting: Presenting, link: Link) -> None:
        self.link = link
        self._presenting = presenting
        self._reader = FrameReader(MAX_PROOF)
        self._deadline: IDelayedCall | None = None
        self._unread: list[SignedStatement] = []
        self._encoded: list[str] = []
        self._new: list[SignedStatement] = []
        self._merged: Roster | None = None
        self._over = False

    def connectionMade(self) -> None:
        """Read nothing before the turn of this proof, so that waiting ones are not held here."""
        self.transport.pauseProducing()
        if not self._presenting.came(self):
            self.transport.abortConnection()

    def begin(self, deadline: IDelayedCall) -> None:
        """It is its turn."""
        self._deadline = deadline
        self.transport.resumeProducing()

    def abort(self) -> None:
        """It took too long, or is no proof."""
        if not self._over:
            self.transport.abortConnection()

    def dataReceived(self, data: bytes) -> None:
        """The proof, or a part of it."""
        for message in self._reader.receive(data):
            self.transport.pauseProducing()
            try:
                self._encoded = msgspec.json.decode(message, type=_Proof).statements
            except (msgspec.MsgspecError, RecursionError) as error:
                raise RemoteProtocolError(
                    f"{self.link.remote_peer} presented what cannot be read", "present_bad_message"
                ) from error
            self._merged = self._presenting.begin()
            self.link.turns.wait(self._judge)
            return

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The stream is gone. One that was read to its end is judged all the same."""
        if self._merged is None:
            self._end()

    def _judge(self) -> None:
        if self._over or self._merged is None:
            self._end()
            return
        slice_, self._encoded = self._encoded[:SLICE], self._encoded[SLICE:]
        try:
            for statement in decode_batch(self.link.remote_peer, slice_):
                if self._merged.add(statement):
                    self._new.append(statement)
        except (RemoteProtocolError, MissingParents):
            self._end()
            return
        if self._encoded:
            self.link.turns.wait(self._judge)
            return
        if not self.link.closed:
            self._presenting.proved(self.link.remote_peer, self._merged, self._new)
        self._end()

    def _end(self) -> None:
        if self._over:
            return
        self._over = True
        self._encoded, self._new, self._merged = [], [], None
        if self._deadline is not None and self._deadline.active():
            self._deadline.cancel()
        self.transport.abortConnection()
        self._presenting.ended(self)
