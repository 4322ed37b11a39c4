"""``/bzzz/peers/1.0.0``: members tell each other where other members are.

Multicast often reaches only some. A node asks each peer when a link to it comes up, and now and
then one of its peers at random, for the peers that it lacks. One stream, one question, one answer:

=========== ======================================================================================
question    ``{"have": "<base64 of the last 6 bytes of each known peer ID>"}``
answer      ``{"peers": [{"id": "12D3...", "name": "walnut", "addresses": ["/ip4/..."]}, ...]}``
=========== ======================================================================================

Both are JSON, length-prefixed by an unsigned varint. The answer holds peers that the answering
node is *linked to* at that moment, so the dead do not live on as rumours.
"""

from __future__ import annotations

import base64
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure

from bzzz.errors import BzzzError, IdentityError, RemoteProtocolError
from bzzz.identity.peer_id import PeerID
from bzzz.mesh.capability import printable
from bzzz.net.link import Link
from bzzz.net.stream import Stream
from bzzz.net.swarm import Swarm
from bzzz.net.token_bucket import Rate
from bzzz.wire.framing import FrameReader, frame
from bzzz.wire.multiaddr import AddressError, Multiaddr

__all__ = ["PROTOCOL", "KnownPeer", "PeerExchange"]

PROTOCOL = "/bzzz/peers/1.0.0"

# Peers in one answer: a whole mesh of the size that is supported.
MAX_PEERS = 512

# Addresses of one peer: a machine with several cards, IPv4 and IPv6 on each.
MAX_ADDRESSES = 16

# Characters kept of a peer's name, which goes into tables, files, logs and onto terminals. A node
# lets its owner give it fewer.
MAX_NAME = 80

# Bytes of one message: 512 peers with a few addresses each.
MAX_MESSAGE = 262144

# Bytes at the end of a peer ID that tell it from all others of a mesh, in a question.
TAIL = 6


# How fast one peer may ask. Each asks once when it is linked and each half minute one of all its
# peers; an answer about a large mesh takes milliseconds.
QUESTIONS = Rate(16, 1.0)

# What msgspec raises for JSON that is wrong, or nested too deeply even where it is to be ignored.
UNREADABLE = (msgspec.MsgspecError, RecursionError)


class KnownPeer(msgspec.Struct, frozen=True):
    """Where a peer is, as told to others."""

    id: str
    name: str = ""
    addresses: list[str] = []


class _Question(msgspec.Struct):
    have: str


class _Answer(msgspec.Struct):
    peers: list[KnownPeer]


class PeerExchange:
    """Asks and answers.

    :param known: the peers whose addresses this node need not be told.
    :param linked: the peers that this node is linked to.
    :param describe: what is told of one of them.
    :param learnt: told of each peer that an answer names.
    """

    _log = Logger()

    def __init__(
        self,
        swarm: Swarm,
        known: Callable[[], Sequence[PeerID]],
        linked: Callable[[], Sequence[PeerID]],
        describe: Callable[[PeerID], KnownPeer],
        learnt: Callable[[PeerID, str, tuple[Multiaddr, ...]], None],
    ) -> None:
        self._known = known
        self._linked = linked
        self._describe = describe
        self._learnt = learnt
        swarm.handle(PROTOCOL, _Factory(lambda link: _Answering(self, link)), rate=QUESTIONS)

    def ask(self, link: Link) -> None:
        """Ask the peer for the peers that this node lacks."""
        opened: Deferred[Any] = link.open_stream(
            [PROTOCOL], _Factory(lambda link: _Asking(self, link)), optimistic=True
        )
        opened.addErrback(self.failed, link)

    def question(self) -> bytes:
        """What this node asks."""
        tails = b"".join(peer.bytes[-TAIL:] for peer in self._known()[:MAX_PEERS])
        return msgspec.json.encode(_Question(base64.b64encode(tails).decode()))

    def answer(self, message: bytes, asker: PeerID) -> bytes:
        """What this node answers to ``message``.

        :raises RemoteProtocolError: it is no question.
        """
        try:
            question = msgspec.json.decode(message, type=_Question)
            tails = base64.b64decode(question.have, validate=True)
        except (*UNREADABLE, ValueError) as error:
            raise RemoteProtocolError(
                f"{asker} asked for peers unreadably: {printable(str(error), 200)}",
                "peers_bad_question",
            ) from error
        have = {tails[start : start + TAIL] for start in range(0, len(tails), TAIL)}
        lacking = [peer for peer in self._linked() if peer.bytes[-TAIL:] not in have]
        return msgspec.json.encode(_Answer([self._describe(peer) for peer in lacking[:MAX_PEERS]]))

    def answered(self, message: bytes, link: Link) -> None:
        """A peer answered.

        :raises RemoteProtocolError: it is no answer.
        """
        try:
            answer = msgspec.json.decode(message, type=_Answer)
            peers = [
                (
                    PeerID.parse(peer.id),
                    printable(peer.name, MAX_NAME),
                    tuple(Multiaddr.parse(text) for text in peer.addresses[:MAX_ADDRESSES]),
                )
                for peer in answer.peers[:MAX_PEERS]
            ]
        except (*UNREADABLE, IdentityError, AddressError, UnicodeError) as error:
            raise RemoteProtocolError(
                f"{link.remote_peer} told of peers unreadably: {printable(str(error), 200)}",
                "peers_bad_answer",
            ) from error
        for peer, name, addresses in peers:
            self._learnt(peer, name, addresses)

    def failed(self, failure: Failure, link: Link) -> None:
        """The stream failed; a peer that does not speak this is nothing to report."""
        failure.trap(BzzzError)
        self._log.debug(
            "asking {peer} for peers failed: {error}",
            peer=link.remote_peer,
            error=failure.getErrorMessage(),
        )


class _Factory(Factory):
    noisy = False

    def __init__(self, build: Callable[[Link], Protocol]) -> None:
        self._build = build

    def buildProtocol(self, addr: Any) -> Protocol:
        return self._build(addr.link)


class _End(Protocol, ABC):
    """Either end: reads one message."""

    transport: Stream

    @abstractmethod
    def _received(self, message: bytes) -> None:
        """The other end's message."""

    def __init__(self, exchange: PeerExchange, link: Link) -> None:
        self._exchange = exchange
        self._link = link
        self._reader = FrameReader(MAX_MESSAGE)

    def dataReceived(self, data: bytes) -> None:
        for message in self._reader.receive(data):
            self._received(message)
            self.transport.loseConnection()
            return

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if reason.check(ConnectionDone) is None:
            self._exchange.failed(reason, self._link)


class _Asking(_End):
    def connectionMade(self) -> None:
        self.transport.write(frame(self._exchange.question()))

    def _received(self, message: bytes) -> None:
        self._exchange.answered(message, self._link)


class _Answering(_End):
    def _received(self, message: bytes) -> None:
        self.transport.write(frame(self._exchange.answer(message, self._link.remote_peer)))
