"""A guest's link and stream, of which only what proofs need of them is here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from bzzz.errors import RemoteProtocolError, StreamReset
from bzzz.identity.peer_id import PeerID
from bzzz.net.turns import Turns
from bzzz.trust.roster import Roster
from bzzz.trust.statements import SignedStatement

__all__ = ["GuestLink", "Guests", "Talk", "TrustedCluster"]


class Guests:
    """A swarm with guests.

    :ivar factories: who answers which protocol.
    """

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.turns = Turns(clock)
        self.guests: dict[PeerID, GuestLink] = {}
        self.factories: dict[str, Any] = {}

    def handle(self, protocol_id: str, factory: Any, guests: bool = False) -> None:
        """Streams of this protocol are answered."""
        self.factories[protocol_id] = factory

    def link_to(self, peer: PeerID) -> GuestLink | None:
        """The link of a peer."""
        return self.guests.get(peer)


class GuestLink:
    """The link of one guest."""

    closed = False

    def __init__(self, swarm: Guests, peer: PeerID, host: str = "192.0.2.1") -> None:
        self.remote_peer = peer
        self.remote_host = host
        self.turns = swarm.turns
        self._swarm = swarm
        swarm.guests[peer] = self

    def talk(self, protocol_id: str) -> Talk:
        """Open a stream."""
        return Talk(self._swarm.factories[protocol_id], self)


class Talk:
    """The node's end of a stream that the guest has opened; an address for the factory, too.

    :ivar said: what the node has sent.
    :ivar error: with which the node has refused what it heard.
    :ivar over: whether the stream is gone.
    """

    def __init__(self, factory: Any, link: GuestLink) -> None:
        self.link = link
        self.said = b""
        self.error: RemoteProtocolError | None = None
        self.over = False
        self.reading = True
        self._unread: list[bytes] = []
        self.protocol: Any = factory.buildProtocol(self)
        self.protocol.makeConnection(self)

    def hear(self, data: bytes) -> None:
        """Have the node hear it, as soon as it reads."""
        self._unread.append(data)
        self._read()

    def hang_up(self) -> None:
        """The guest has reset the stream."""
        self._lost(StreamReset("reset by the peer"))

    # -- the transport

    def write(self, data: bytes) -> None:
        self.said += data

    def pauseProducing(self) -> None:
        self.reading = False

    def resumeProducing(self) -> None:
        self.reading = True
        self._read()

    def loseConnection(self) -> None:
        self._lost(ConnectionDone())

    def abortConnection(self) -> None:
        self._lost(StreamReset("reset here"))

    def _read(self) -> None:
        while self._unread and self.reading and not self.over:
            try:
                self.protocol.dataReceived(self._unread.pop(0))
            except RemoteProtocolError as error:
                self.error = error
                self._lost(error)

    def _lost(self, reason: Exception) -> None:
        if not self.over:
            self.over = True
            self.protocol.connectionLost(Failure(reason))


class TrustedCluster:
    """A node's cluster, of which its members prove to be.

    :ivar taken: statements that were proved.
    """

    def __init__(self, owner: PeerID, roster: Roster) -> None:
        self.peer_id = owner
        self.roster: Roster | None = roster
        self.taken: list[SignedStatement] = []

    def present(self, statements: Sequence[SignedStatement]) -> None:
        """Somebody is a member by these."""
        self.taken += statements
