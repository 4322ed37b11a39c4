"""identify and identify/push on every link (libp2p specs, identify/README.md).

Each side asks the other when the link is up, and again until it has heard something: the stream
of a question to a process that was starved is reset, and the link lives on. A change of this node's
addresses or protocols is pushed to those peers that speak the push protocol.

A guest is told neither name nor addresses nor the protocols of members, and that it is a guest. It
is not asked. To a node that is in no cluster such an answer says that it has no business there. A
member that gets one from another member keeps the link: that one has not heard yet that it is a
member, and pushes another answer when it has. docs/trust.rst, "Guests".
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure

from bzzz.errors import BzzzError, RemoteProtocolError
from bzzz.identity.keys import PublicKey
from bzzz.net.guests import CLAIMED
from bzzz.net.link import Link
from bzzz.net.stream import Stream, StreamAddress
from bzzz.net.token_bucket import Rate
from bzzz.wire.framing import FrameReader, frame
from bzzz.wire.identify import PROTOCOL, PUSH, Identify

if TYPE_CHECKING:
    from bzzz.net.swarm import Swarm

__all__ = ["IdentifyService"]

# go-libp2p's cap on one identify message, in bytes; a few dozen addresses and protocols fit well.
MAX_MESSAGE = 8192

# Seconds until a peer that has said nothing of itself is asked again: the first time, the second
# one, and so on; the last one from then on.
AGAIN = (5.0, 10.0, 20.0, 40.0, 60.0)

PROTOCOL_VERSION = "ipfs/0.1.0"

# How often one peer may ask. Each does so once when it is linked, and seldom again; a peer that was
# restarted a few times in a row is within it.
ASKS = Rate(16, 1.0)

# How often one peer may push: it does so when an address or a protocol of it comes or goes, and a
# program that starts may do so for one after the other.
PUSHES = Rate(64, 2.0)


class IdentifyService:
    """Says who this node is, and asks each peer who it is."""

    _log = Logger()

    def __init__(self, swarm: Swarm, key: PublicKey, agent: str, name: str) -> None:
        self._swarm = swarm
        self._key = key
        self._agent = agent
        self._name = name
        # In the order in which they came, and of no link that is gone.
        self._pushable: WeakKeyDictionary[Link, None] = WeakKeyDictionary()
        self._again: dict[Link, IDelayedCall] = {}
        swarm.handle(PROTOCOL, _Answering(self), guests=True, rate=ASKS)
        swarm.handle(PUSH, _Listening(self), rate=PUSHES)

    def ask(self, link: Link) -> None:
        """Ask the peer who it is, until it has said so or :meth:`forget` is called."""
        self.forget(link)
        self._ask(link, 0)

    def forget(self, link: Link) -> None:
        """The peer need not be asked again, or the link is gone."""
        again = self._again.pop(link, None)
        if again is not None and again.active():
            again.cancel()

    def _ask(self, link: Link, failed: int) -> None:
        if link.closed:
            return
        delay = AGAIN[min(failed, len(AGAIN) - 1)]
        self._again[link] = self._swarm.clock.callLater(delay, self._ask, link, failed + 1)
        opened = link.open_stream([PROTOCOL], _Reading(self), optimistic=True)
        opened.addErrback(self._failed, link)

    def message(self, link: Link) -> bytes:
        """What this node says of itself on ``link``."""
        guest = link.is_guest
        return frame(
            Identify(
                protocol_version=PROTOCOL_VERSION,
                agent_version=self._agent,
                public_key=self._key,
                listen_addrs=() if guest else self._swarm.listen_addresses,
                observed_addr=link.remote_multiaddr,
                protocols=self._swarm.guest_protocols if guest else self._swarm.protocols,
                name="" if guest else self._name,
                guest=guest,
            ).encode()
        )

    def changed(self) -> None:
        """This node's addresses or protocols changed: push them."""
        for link in list(self._pushable):
            if not (link.closed or link.is_guest):
                self.push(link)

    def push(self, link: Link) -> None:
        """Tell the peer who this node is, though it has not asked."""
        opened: Deferred[Any] = link.open_stream([PUSH], _Pushing(self))
        opened.addErrback(self._failed, link)

    def received(self, link: Link, message: bytes) -> None:
        """A peer said who it is.

        :raises RemoteProtocolError: it cannot be read, or names another key than the handshake's.
        """
        identify = Identify.decode(message)
        if identify.public_key is not None and identify.public_key != link.remote_key:
            raise RemoteProtocolError(
                f"{link.remote_peer} names a public key in identify that is not its own",
                "identify_key_mismatch",
            )
        self.forget(link)
        link.guest_there = identify.guest
        if identify.guest and self._swarm.gate.is_open:
            self._swarm.demote(link, CLAIMED)
            return
        if PUSH in identify.protocols:
            self._pushable[link] = None
        self._swarm.identified(link, identify)

    def _failed(self, failure: Failure, link: Link) -> None:
        failure.trap(BzzzError)
        self._log.debug(
            "identify with {peer} failed: {error}",
            peer=link.remote_peer,
            error=failure.getErrorMessage(),
        )


class _IdentifyFactory(Factory):
    noisy = False

    def __init__(self, service: IdentifyService) -> None:
        self.service = service


class _Answering(_IdentifyFactory):
    def buildProtocol(self, addr: Any) -> Protocol:
        return _Speaker(self.service, addr)


class _Pushing(_IdentifyFactory):
    def buildProtocol(self, addr: Any) -> Protocol:
        return _Speaker(self.service, addr)


class _Reading(_IdentifyFactory):
    def buildProtocol(self, addr: Any) -> Protocol:
        return _Hearer(self.service, addr)


class _Listening(_IdentifyFactory):
    def buildProtocol(self, addr: Any) -> Protocol:
        return _Hearer(self.service, addr)


class _Speaker(Protocol):
    """Sends one message and closes."""

    transport: Stream

    def __init__(self, service: IdentifyService, address: StreamAddress) -> None:
        self._service = service
        self._address = address

    def connectionMade(self) -> None:
        self.transport.write(self._service.message(self._address.link))
        self.transport.loseConnection()


class _Hearer(Protocol):
    """Reads one message and closes."""

    transport: Stream

    def __init__(self, service: IdentifyService, address: StreamAddress) -> None:
        self._service = service
        self._address = address
        self._reader = FrameReader(MAX_MESSAGE)

    def dataReceived(self, data: bytes) -> None:
        for message in self._reader.receive(data):
            self._service.received(self._address.link, message)
            self.transport.loseConnection()
            return

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if reason.check(ConnectionDone) is None:
            self._service._failed(reason, self._address.link)
