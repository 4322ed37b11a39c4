"""All links of a node: listening, dialling, one link per peer, and who speaks which protocol.

Enters: addresses to dial and to listen on, protocols and who answers them. Leaves: to observers,
links that are up, identified or down. The identify protocol (libp2p specs, identify/README.md)
runs on each link from here.

One link per pair. Two nodes that discover each other at the same moment both dial. Of two links
younger than :data:`SIMULTANEOUS` both sides keep the one that the smaller peer ID dialled; of links
further apart, or dialled by the same side, they keep the newer, because a live peer does not dial
while it holds a link, so the older is half-open. The other is closed after :data:`LINGER`, so that
it never looks lost to a side that has not yet seen the end of the second handshake.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from itertools import chain
from typing import Any
from typing import Protocol as Shape

from twisted.internet.defer import CancelledError, Deferred, fail
from twisted.internet.error import CannotListenError, ConnectError
from twisted.internet.interfaces import (
    IDelayedCall,
    IListeningPort,
    ILoggingContext,
    IProtocolFactory,
)
from twisted.internet.protocol import Factory, Protocol
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from bzzz.errors import BzzzError, DialError, LinkClosed
from bzzz.identity.keys import PrivateKey
from bzzz.identity.peer_id import PeerID
from bzzz.net.identify import IdentifyService
from bzzz.net.interfaces import Clock, INetwork
from bzzz.net.link import Link
from bzzz.net.turns import Turns
from bzzz.wire.connection import Connection
from bzzz.wire.identify import Identify
from bzzz.wire.multiaddr import Multiaddr

__all__ = ["Swarm", "SwarmLimits", "SwarmObserver"]

# That all links are in use is said again after so many seconds.
FULL_AGAIN = 60.0

# Two links to one peer that became ready within this many seconds of each other were dialled at
# the same moment by both sides.
SIMULTANEOUS = 3.0

# How long the link that lost goes on being read, in seconds: longer than the other side's
# handshake.
LINGER = 1.0

# How long the near end of a connection to oneself is remembered, in seconds, so that its far end,
# whose handshake ends a moment later, is recognised.
OWN_SOCKET_MEMORY = 10.0

# Between starting one address and the next of the same peer, in seconds (RFC 8305, section 5), and
# the same once TCP is up: the peer is there, and is given the time of a slow handshake.
STAGGER = 0.25
STAGGER_HANDSHAKE = 3.0


@dataclass(frozen=True)
class SwarmLimits:
    """Caps on what peers can make the swarm hold.

    :ivar links: peers linked at once. More are refused.
    :ivar handshakes: inbound connections whose handshake is not done. A whole mesh may dial at
        once, so it is as large as a large mesh; when it is reached the oldest is dropped, so
        that connections which never finish cannot keep others out.
    :ivar addresses: addresses tried in one dial.
    :ivar dial_timeout: for TCP to connect, in seconds; on a LAN a SYN and one retransmission.
    """

    links: int = 256
    handshakes: int = 256
    addresses: int = 8
    dial_timeout: float = 5.0


class SwarmObserver(Shape):
    """Told about links. Nothing here may raise."""

    def link_up(self, link: Link) -> None:
        """A peer is linked that was not, or its link was replaced by this one."""

    def link_down(self, link: Link, reason: str) -> None:
        """The link of a peer is gone; with reason ``replaced``, :meth:`link_up` follows at once."""

    def identified(self, link: Link, identify: Identify) -> None:
        """The peer said who it is; comes again when the peer pushes a change."""

    def copy_found(self, address: Multiaddr | None) -> None:
        """Another machine proved that it holds this node's own key."""


class Swarm:
    """The links of one node.

    :param key: this node's identity.
    :param random_bytes: randomness for keys.
    :param agent: identify's ``agentVersion``.
    :param name: this node's name, told in identify.
    :param security: ``noise``, or ``plaintext`` in the simulator.
    :param turns: what all links share of a turn of the reactor.
    :ivar links: the one link of each linked peer.
    """

    _log = Logger()

    def __init__(
        self,
        key: PrivateKey,
        clock: Clock,
        network: INetwork,
        random_bytes: Callable[[int], bytes],
        agent: str,
        name: str = "",
        limits: SwarmLimits | None = None,
        security: str = "noise",
        turns: Turns | None = None,
    ) -> None:
        self.peer_id = key.peer_id
        self.clock = clock
        self.links: dict[PeerID, Link] = {}
        self.limits = limits or SwarmLimits()
        self._key = key
        self._network = network
        self._random_bytes = random_bytes
        self._security = security
        self.turns = turns or Turns(clock)
        self._factories: dict[str, IProtocolFactory] = {}
        self._observers: list[SwarmObserver] = []
        self._ports: dict[tuple[str, int], IListeningPort] = {}
        self._addresses: tuple[Multiaddr, ...] | None = None
        self._handshakes: dict[Link, None] = {}
        self._dialling: dict[Link, Deferred[Link]] = {}
        self._redundant: dict[Link, IDelayedCall] = {}
        self._own_sockets: set[tuple[str, int]] = set()
        self._stopped = False
        self._identify = IdentifyService(self, key.public, agent, name)

    # -- for the application

    def handle(self, protocol_id: str, factory: IProtocolFactory) -> None:
        """Have ``factory`` answer inbound streams of this protocol."""
        self._factories[protocol_id] = factory

    @property
    def protocols(self) -> tuple[str, ...]:
        """The protocols answered here."""
        return tuple(self._factories)

    def add_observer(self, observer: SwarmObserver) -> None:
        """Tell ``observer`` about links from now on."""
        self._observers.append(observer)

    @property
    def listen_addresses(self) -> tuple[Multiaddr, ...]:
        """Where this node listens."""
        if self._addresses is None:
            self._addresses = tuple(Multiaddr.tcp(host, port) for host, port in self._ports)
        return self._addresses

    def in_touch(self, hosts: Collection[str]) -> bool:
        """Whether TCP is up between one of these IP addresses of ours and another machine.

        Or, over loopback, another node. May be asked from another thread.
        """
        # Copied first, which is atomic: the reactor's thread may change them meanwhile.
        links = (tuple(self.links.values()), tuple(self._handshakes), tuple(self._dialling))
        return any(
            link.local_host in hosts
            and (link.remote_host not in hosts or ip_address(link.local_host).is_loopback)
            for link in chain(*links)
        )

    @property
    def pending_handshakes(self) -> int:
        """How many inbound connections are in their handshake."""
        return len(self._handshakes)

    async def listen(self, host: str, port: int) -> int:
        """Listen on one address.

        :param port: 0 for any free one.
        :return: the port.
        :raises CannotListenError: the port is taken or the address is not of this machine.
        """
        listening = await self._network.listen(host, port, _Accepting(self, host))
        actual = int(listening.getHost().port)  # type: ignore[attr-defined]  # of IPv4 or 6
        if self._stopped:
            await _stopped(listening)
            raise CannotListenError(host, port, OSError("the node is stopping"))
        self._ports[host, actual] = listening
        self._addresses = None
        self._identify.changed()
        return actual

    async def stop_listening(self, host: str, port: int) -> None:
        """Listen there no more; links that came that way stay."""
        listening = self._ports.pop((host, port), None)
        if listening is not None:
            self._addresses = None
            await _stopped(listening)
            self._identify.changed()

    def dial(self, addresses: Sequence[Multiaddr], expected: PeerID | None) -> Deferred[Link]:
        """Connect to the first of ``addresses`` that answers as ``expected``.

        They are tried in order, each :data:`STAGGER` after the one before or when that failed; one
        whose TCP is up has longer.

        :param expected: whose proof of identity is accepted; None for anybody's.
        :return: the ready link. Fails with :class:`DialError`, naming what each address said.
        """
        if self._stopped:
            return fail(DialError("the node is stopping"))
        race = _Race(self, addresses[: self.limits.addresses], expected)
        return race.result

    async def stop(self, reason: str = "this node is stopping") -> None:
        """Stop listening and close every link in order."""
        self._stopped = True
        for host, port in list(self._ports):
            await self.stop_listening(host, port)
        for pending in list(self._dialling) + list(self._handshakes):
            pending.abort(reason)
        closing = [*self.links.values(), *self._redundant]
        waiting = [link for link in closing if not link.closed]
        if not waiting:
            return
        done: Deferred[None] = Deferred()
        self._all_closed = done
        for link in waiting:
            link.close(reason)
        if any(not link.closed for link in waiting):
            await done

    _all_closed: Deferred[None] | None = None
    _full_said_at = float("-inf")

    # -- for links

    def factory_for(self, protocol_id: str) -> IProtocolFactory | None:
        """See :class:`~bzzz.net.link.LinkOwner`."""
        return self._factories.get(protocol_id)

    def link_ready(self, link: Link) -> None:
        """See :class:`~bzzz.net.link.LinkOwner`: decide whether the link is kept."""
        self._handshakes.pop(link, None)
        peer = link.remote_peer
        if peer == self.peer_id:
            self._own_identity(link)
            return
        existing = self.links.get(peer)
        if existing is None and len(self.links) >= self.limits.links:
            self._say_full(link)
            # Closing it tells the one who dialled, through link_closed().
            link.close(f"this node has its {self.limits.links} links already")
            return
        kept = existing is None or self._newer_wins(existing, link)
        if kept:
            self.links[peer] = link
        # Whoever dialled gets the link that is kept, be it this one or the other; before the
        # observers hear of it, who would else find that dial still under way.
        waiting = self._dialling.pop(link, None)
        if waiting is not None and not waiting.called:
            waiting.callback(self.links.get(peer, link))
        if not kept:
            self._retire(link)
            return
        if existing is not None:
            self._retire(existing)
            self._tell_down(existing, "replaced")
        if self.links.get(peer) is link:
            self._keep(link)

    def _say_full(self, link: Link) -> None:
        now = self.clock.seconds()
        if now - self._full_said_at < FULL_AGAIN:
            return
        self._full_said_at = now
        self._log.warn(
            "All {limit} links are in use: {peer} at {address} was refused, and others may be;"
            " raise max_links to link more peers",
            limit=self.limits.links,
            peer=str(link.remote_peer),
            address=str(link.remote_multiaddr),
        )

    def link_closed(self, link: Link, reason: str) -> None:
        """See :class:`~bzzz.net.link.LinkOwner`."""
        self._handshakes.pop(link, None)
        linger = self._redundant.pop(link, None)
        if linger is not None and linger.active():
            linger.cancel()
        waiting = self._dialling.pop(link, None)
        if waiting is not None and not waiting.called:
            waiting.errback(DialError(reason))
        if link.ready_at is not None and self.links.get(link.remote_peer) is link:
            del self.links[link.remote_peer]
            self._tell_down(link, reason)
        if self._all_closed is not None and not self.links and not self._redundant:
            done, self._all_closed = self._all_closed, None
            done.callback(None)

    def identified(self, link: Link, identify: Identify) -> None:
        """The identify service read who the peer is."""
        if self.links.get(link.remote_peer) is link:
            for observer in self._observers:
                observer.identified(link, identify)

    def accepted(self, link: Link) -> None:
        """An inbound connection starts its handshake."""
        if len(self._handshakes) >= self.limits.handshakes:
            oldest = next(iter(self._handshakes))
            oldest.abort("too many connections are in their handshake")
        self._handshakes[link] = None

    def make_link(
        self,
        is_initiator: bool,
        remote: Multiaddr | None,
        expected: PeerID | None,
    ) -> Link:
        """A link for a connection that was dialled or accepted."""
        connection = Connection(
            is_initiator,
            self._key,
            random_bytes=self._random_bytes,
            expected_peer=expected,
            protocols=self._factories.__contains__,
            security=self._security,
        )
        return Link(connection, self.clock, self, is_initiator, remote, self.turns)

    # -- inside

    def _newer_wins(self, existing: Link, link: Link) -> bool:
        if existing.is_initiator == link.is_initiator:
            return True
        if (link.ready_at or 0.0) - (existing.ready_at or 0.0) > SIMULTANEOUS:
            return True
        return link.is_initiator == (self.peer_id < link.remote_peer)

    def _keep(self, link: Link) -> None:
        for observer in self._observers:
            observer.link_up(link)
        self._identify.ask(link)

    def _retire(self, link: Link) -> None:
        self._redundant[link] = self.clock.callLater(
            LINGER, link.close, "another link to the peer is kept"
        )

    def _tell_down(self, link: Link, reason: str) -> None:
        for observer in self._observers:
            observer.link_down(link, reason)

    def _own_identity(self, link: Link) -> None:
        """The peer proved to have our own key: this very node, or a copy of its state directory.

        A connection to oneself has both its ends in this process, so its far end is one of our
        own sockets.
        """
        transport: Any = link.transport
        here, there = transport.getHost(), transport.getPeer()
        if link.is_initiator:
            socket = (here.host, here.port)
            self._own_sockets.add(socket)
            self.clock.callLater(OWN_SOCKET_MEMORY, self._own_sockets.discard, socket)
            itself = (there.host, there.port) in self._ports
        else:
            itself = (there.host, there.port) in self._own_sockets
        waiting = self._dialling.pop(link, None)
        if waiting is not None and not waiting.called:
            waiting.errback(DialError("it answered with this node's own identity"))
        link.close("connected to itself")
        if not itself:
            for observer in self._observers:
                observer.copy_found(link.remote_multiaddr)


@implementer(ILoggingContext)
class _Accepting(Factory):
    """Makes the links of inbound connections."""

    noisy = False

    def __init__(self, swarm: Swarm, host: str) -> None:
        self._swarm = swarm
        self._host = host

    def logPrefix(self) -> str:  # Twisted's name
        """The subject of Twisted's own log line ``... starting on <port>``."""
        return f"Accepting links at {self._host},"

    def buildProtocol(self, addr: Any) -> Protocol | None:
        """A link for the connection from ``addr``."""
        link = self._swarm.make_link(False, Multiaddr.tcp(addr.host, addr.port), None)
        self._swarm.accepted(link)
        return link


class _Dialling(Factory):
    """Makes the link of one outbound connection."""

    noisy = False

    def __init__(self, link: Link, answers: Callable[[], None]) -> None:
        self._link = link
        self._answers = answers

    def buildProtocol(self, addr: Any) -> Protocol:
        """The link; TCP is up."""
        self._answers()
        return self._link


class _Race:
    """Several addresses of one peer, tried one after the other until one is a ready link."""

    def __init__(
        self, swarm: Swarm, addresses: Sequence[Multiaddr], expected: PeerID | None
    ) -> None:
        self.result: Deferred[Link] = Deferred(lambda _: self._abandon())
        self._swarm = swarm
        self._expected = expected
        self._untried = list(addresses)
        self._attempts: dict[Multiaddr, Deferred[Link]] = {}
        self._failures: list[str] = []
        self._next: IDelayedCall | None = None
        self._over = False
        swarm.turns.when_there_is_time(self._try_next)

    def _try_next(self) -> None:
        self._set_next(None)
        if self._over:
            return
        if not self._untried:
            if not self._attempts:
                self._over = True
                said = "; ".join(self._failures) or "no address is known"
                self.result.errback(DialError(said))
            return
        address = self._untried.pop(0)
        if self._untried:
            self._set_next(STAGGER)
        attempt = _attempt(self._swarm, address, self._expected, self._answers)
        self._attempts[address] = attempt
        attempt.addCallbacks(
            self._ready, self._failed, callbackArgs=(address,), errbackArgs=(address,)
        )

    def _ready(self, link: Link, address: Multiaddr) -> None:
        self._attempts.pop(address, None)
        if self._over:
            return
        self._abandon()
        self.result.callback(link)

    def _failed(self, failure: Failure, address: Multiaddr) -> None:
        self._attempts.pop(address, None)
        if self._over:
            return
        self._failures.append(f"{address}: {_dial_words(failure)}")
        self._try_next()

    def _answers(self) -> None:
        """The TCP of an attempt is up."""
        if self._untried and not self._over:
            self._set_next(STAGGER_HANDSHAKE)

    def _late(self) -> None:
        # When this node itself was held up, the answer may be there, unread: a turn to read it.
        self._next = self._swarm.clock.callLater(0, self._try_next)

    def _set_next(self, delay: float | None) -> None:
        if self._next is not None and self._next.active():
            self._next.cancel()
        self._next = None if delay is None else self._swarm.clock.callLater(delay, self._late)

    def _abandon(self) -> None:
        self._over = True
        self._set_next(None)
        for attempt in list(self._attempts.values()):
            attempt.cancel()


def _attempt(
    swarm: Swarm, address: Multiaddr, expected: PeerID | None, answers: Callable[[], None]
) -> Deferred[Link]:
    """Dial one address: TCP, then the handshake.

    :param answers: told when TCP is up.
    """
    where = address.host_port()
    wanted = expected or address.peer_id
    if where is None or where[0] not in ("ip4", "ip6"):
        return fail(DialError("not an IP address and TCP port"))
    _, host, port = where
    link = swarm.make_link(True, address.without_peer(), wanted)
    connecting = swarm._network.connect(
        host, port, _Dialling(link, answers), swarm.limits.dial_timeout, None
    )

    def cancel(_: Deferred[Link]) -> None:
        connecting.cancel()
        # A link that is ready may be the one that is kept: it is the swarm's from then on.
        if link.transport is not None and link.ready_at is None:
            link.abort("the dial was abandoned")

    ready: Deferred[Link] = Deferred(cancel)
    swarm._dialling[link] = ready

    def failed(failure: Failure) -> None:
        if swarm._dialling.pop(link, None) is not None and not ready.called:
            ready.errback(failure)

    connecting.addErrback(failed)
    return ready


def _dial_words(failure: Failure) -> str:
    """Why a dial failed, in few words."""
    error = failure.value
    if isinstance(error, (BzzzError, LinkClosed)):
        return str(error)
    if isinstance(error, CancelledError):
        return "abandoned"
    if type(error) is ConnectError and error.osError:
        # Twisted has a class, and words, for the most frequent ones only.
        return os.strerror(error.osError).lower()
    if isinstance(error, ConnectError):
        first = (error.__doc__ or type(error).__name__).strip().splitlines()[0].rstrip(".")
        return first[0].lower() + first[1:]
    return f"{type(error).__name__}: {error}"


async def _stopped(listening: IListeningPort) -> None:
    """Wait until the port is closed."""
    result = listening.stopListening()
    if isinstance(result, Deferred):
        await result
