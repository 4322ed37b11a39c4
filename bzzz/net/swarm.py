"""All links of a node: listening, dialling, one link per peer, and who speaks which protocol.

Enters: addresses to dial and to listen on, protocols and who answers them. Leaves: to observers,
links that are up, identified or down. The identify protocol (libp2p specs, identify/README.md)
runs on each link from here.

One link per pair. Two nodes that discover each other at the same moment both dial. Of two links
younger than :data:`SIMULTANEOUS` both sides keep the one that the smaller peer ID dialled; of links
further apart, or dialled by the same side, they keep the newer, because a live peer does not dial
while it holds a link, so the older is half-open. The other is closed after :data:`LINGER`, so that
it never looks lost to a side that has not yet seen the end of the second handshake.

A gate says who is admitted, by the peer ID that the handshake has proved. Who is not is a guest
(:mod:`bzzz.net.guests`), of whom observers hear nothing. When the gate's answers change, each link
is judged again.

Where more peers are known than this node may have links, :mod:`bzzz.net.places` says which of them
have one.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from functools import partial
from ipaddress import ip_address
from itertools import chain
from typing import Protocol as Shape

from twisted.internet.defer import Deferred, fail
from twisted.internet.interfaces import IDelayedCall, IProtocolFactory
from twisted.logger import Logger

from bzzz.errors import DialError
from bzzz.identity.keys import PrivateKey
from bzzz.identity.peer_id import PeerID
from bzzz.net.accepting import Accepting
from bzzz.net.dialling import Dialler
from bzzz.net.guests import Gate, Guests, OpenGate
from bzzz.net.identify import IdentifyService
from bzzz.net.interfaces import Clock, INetwork
from bzzz.net.link import Link
from bzzz.net.listeners import Listeners
from bzzz.net.own_sockets import OwnSockets
from bzzz.net.places import FULL_HERE, FULL_THERE, Places, said_full, say_full
from bzzz.net.protocols import LinkProtocols, Protocols
from bzzz.net.swarm_limits import SwarmLimits
from bzzz.net.token_bucket import Rate
from bzzz.net.turns import Turns
from bzzz.wire.connection import Connection
from bzzz.wire.identify import Identify
from bzzz.wire.multiaddr import Multiaddr

__all__ = ["Swarm", "SwarmLimits", "SwarmObserver"]

# Two links to one peer that became ready within this many seconds of each other were dialled at
# the same moment by both sides.
SIMULTANEOUS = 3.0

# How long the link that lost goes on being read, in seconds: longer than the other side's
# handshake.
LINGER = 1.0


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
    :param gate: who is admitted; None for everybody.
    :ivar links: the one link of each linked peer that is admitted.
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
        gate: Gate | None = None,
    ) -> None:
        self.peer_id = key.peer_id
        self.clock = clock
        self.gate: Gate = OpenGate() if gate is None else gate
        self.links: dict[PeerID, Link] = {}
        self.limits = limits or SwarmLimits()
        self.turns = turns or Turns(clock)
        self._key = key
        self._network = network
        self._random_bytes = random_bytes
        self._security = security
        self.accepting = Accepting(clock, self.limits)
        self._dials = Dialler(
            clock, self.turns, network, self.limits, partial(self._make_link, True)
        )
        self._guests = Guests(clock)
        self._places = Places(
            self.peer_id, clock, self.links, lambda: self.limits.links, self._give_up
        )
        self._protocols = Protocols(clock)
        self._observers: list[SwarmObserver] = []
        self._redundant: dict[Link, IDelayedCall] = {}
        self._closing: dict[Link, None] = {}
        self._own_sockets = OwnSockets(clock)
        self._stopped = False
        self._identify = IdentifyService(self, key.public, agent, name)
        self._listeners = Listeners(
            network, self.accepting, partial(self._make_link, False), self._identify.changed
        )

    # -- for the application

    def handle(
        self,
        protocol_id: str,
        factory: IProtocolFactory,
        guests: bool = False,
        rate: Rate | None = None,
    ) -> None:
        """Have ``factory`` answer inbound streams of this protocol.

        :param guests: whether also those of guests, for all of whose streams there is one rate.
        :param rate: how fast one peer may open them; None for no limit. A stream beyond is reset,
            and who goes on loses the link.
        """
        self._protocols.handle(protocol_id, factory, guests, rate)

    @property
    def protocols(self) -> tuple[str, ...]:
        """The protocols answered here."""
        return self._protocols.names

    @property
    def guest_protocols(self) -> tuple[str, ...]:
        """Those of them that are spoken with guests."""
        return self._protocols.guest_names

    @property
    def refused_streams(self) -> dict[str, int]:
        """Streams that were reset because they came too fast, by protocol, or ``guest``."""
        return dict(self._protocols.counts)

    @property
    def guests(self) -> dict[PeerID, Link]:
        """The one link of each peer that is linked and not admitted."""
        return self._guests.links

    def link_to(self, peer: PeerID) -> Link | None:
        """The link of a peer, whether it is admitted or a guest."""
        return self.links.get(peer) or self.guests.get(peer)

    def takes(self, peer: PeerID) -> bool:
        """Whether this side would keep a link with this peer, which has none."""
        taken = self._places.takes(peer)
        if not taken:
            self._places.warn()
        return taken

    def on_refused(self, callback: Callable[[Link, str], object]) -> None:
        """See :attr:`bzzz.net.guests.Guests.on_refused`. There is one callback."""
        self._guests.on_refused = callback

    def add_observer(self, observer: SwarmObserver) -> None:
        """Tell ``observer`` about links from now on."""
        self._observers.append(observer)

    @property
    def listen_addresses(self) -> tuple[Multiaddr, ...]:
        """Where this node listens."""
        return self._listeners.addresses

    def in_touch(self, hosts: Collection[str]) -> bool:
        """Whether TCP is up between one of these IP addresses of ours and another machine.

        Or, over loopback, another node. May be asked from another thread.
        """
        # Copied first, which is atomic: the reactor's thread may change them meanwhile.
        pending = tuple(self.accepting.pending)
        links = (tuple(self.links.values()), pending, tuple(self._dials.under_way))
        return any(
            link.local_host in hosts
            and (link.remote_host not in hosts or ip_address(link.local_host).is_loopback)
            for link in chain(*links)
        )

    @property
    def pending_handshakes(self) -> int:
        """How many inbound connections are in their handshake."""
        return len(self.accepting.pending)

    async def listen(self, host: str, port: int) -> int:
        """Listen on one address.

        :param port: 0 for any free one.
        :return: the port.
        :raises CannotListenError: the port is taken or the address is not of this machine.
        """
        return await self._listeners.listen(host, port)

    async def stop_listening(self, host: str, port: int) -> None:
        """Listen there no more; links that came that way stay."""
        await self._listeners.stop_listening(host, port)

    def dial(
        self,
        addresses: Sequence[Multiaddr],
        expected: PeerID | None,
        guest_ok: bool = False,
    ) -> Deferred[Link]:
        """Connect to the first of ``addresses`` that answers as ``expected``.

        They are tried in order, each :data:`~bzzz.net.dialling.STAGGER` after the one before or
        when that failed; one whose TCP is up has longer.

        :param expected: whose proof of identity is accepted; None for anybody's.
        :param guest_ok: whether the peer need not be admitted: then it is a guest, and its link
            is kept for so long also where the peer turns out to be in a cluster, and this node not.
        :return: the ready link. Fails with :class:`DialError`, naming what each address said.
        """
        if self._stopped:
            return fail(DialError("the node is stopping"))
        return self._dials.dial(addresses, expected, guest_ok)

    def hold_guest(self, link: Link) -> None:
        """The link's peer pairs with this node, or this node with it: keep the link for longer."""
        self._guests.hold(link)

    def release_guest(self, link: Link) -> None:
        """That is over; nothing changes if the peer is admitted by now."""
        self._guests.release(link)

    def gate_changed(self) -> None:
        """The gate's answers may have changed: judge every link again.

        Who is not admitted any more loses the link within this call; a guest who is admitted has
        a link like others from here on.
        """
        links = self.links.values(), self._redundant, self._places.trials, self._closing
        for link in list(chain(*links)):
            if not self.gate.admits(link.remote_peer):
                link.is_guest = True
                link.sever(self.gate.refusal(link.remote_peer))
        for link in list(self.guests.values()):
            # In no cluster the gate is open, also for whoever takes this node for a guest.
            kept_out = self.gate.is_open and link.guest_there
            if not kept_out and self.gate.admits(link.remote_peer):
                self._promote(link)

    def demote(self, link: Link, reason: str) -> None:
        """The peer turned out to be none to have a link with: to observers the link is gone.

        It is closed, unless it was dialled, or is held, to pair; then the peer is a guest.
        """
        peer = link.remote_peer
        if self._places.over(link) and peer not in self.links:
            self._take(link, identified=True)
        if self.links.get(peer) is not link:
            return
        link.is_guest = True
        existing = self.guests.get(peer)
        wanted = link.guest_ok or link.held
        if wanted and existing is not None and not existing.held:
            self._guests.leave(existing)
            self._retire(existing)
            existing = None
        if not wanted or existing is not None or not self._guests.enter(link):
            link.sever(reason)
            return
        del self.links[peer]
        self._tell_down(link, reason)

    async def stop(self, reason: str = "this node is stopping") -> None:
        """Stop listening and close every link in order."""
        self._stopped = True
        await self._listeners.stop()
        for pending in [*self._dials.under_way, *self.accepting.pending]:
            pending.abort(reason)
        closing = dict.fromkeys(
            [
                *self.links.values(),
                *self.guests.values(),
                *self._redundant,
                *self._places.trials,
                *self._closing,
            ]
        )
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

    # -- for links

    def link_ready(self, link: Link) -> None:
        """See :class:`~bzzz.net.link.LinkOwner`: decide whether the link is kept, and as what."""
        self.accepting.over(link)
        peer = link.remote_peer
        if peer == self.peer_id:
            self._own_identity(link)
        elif self.gate.admits(peer):
            self._member_ready(link)
        else:
            self._guest_ready(link)

    def link_closing(self, link: Link) -> bool:
        """See :class:`~bzzz.net.link.LinkOwner`."""
        if len(self._closing) >= self.limits.closing:
            return False
        self._closing[link] = None
        return True

    def link_closed(self, link: Link, reason: str) -> None:
        """See :class:`~bzzz.net.link.LinkOwner`."""
        self._closing.pop(link, None)
        self.accepting.over(link)
        self._guests.leave(link)
        self._places.over(link)
        self._identify.forget(link)
        if said_full(link):
            reason = FULL_THERE
            if link.ready_at is not None:
                self._places.full_there(link.remote_peer, True)
        linger = self._redundant.pop(link, None)
        if linger is not None and linger.active():
            linger.cancel()
        self._dials.failed(link, DialError(reason))
        if link.ready_at is not None and self.links.get(link.remote_peer) is link:
            del self.links[link.remote_peer]
            self._tell_down(link, reason)
        if (
            self._all_closed is not None
            and not self.links
            and not self.guests
            and not self._redundant
            and not self._places.trials
            and not self._closing
        ):
            done, self._all_closed = self._all_closed, None
            done.callback(None)

    def identified(self, link: Link, identify: Identify) -> None:
        """The identify service read who the peer is, so the peer has not refused the link."""
        peer = link.remote_peer
        was_tried = link in self._places.trials
        if was_tried and self.links.get(peer) is not link:
            self._take(link, identified=True)
        if self.links.get(peer) is link:
            for observer in self._observers:
                observer.identified(link, identify)
        if identify.guest:
            return
        self._places.full_there(peer, False)
        if self._places.over(link):
            last = self._places.one_too_many()
            if last is not None:
                self._places.warn()
                self._give_up(last)

    # -- inside

    def _make_link(
        self, is_initiator: bool, remote: Multiaddr, expected: PeerID | None = None
    ) -> Link:
        """A link for a connection that was dialled or accepted."""
        protocols = LinkProtocols(self._protocols)
        connection = Connection(
            is_initiator,
            self._key,
            random_bytes=self._random_bytes,
            expected_peer=expected,
            protocols=protocols.speaks,
            protocol_names=protocols.names,
            security=self._security,
        )
        return Link(connection, protocols, self.clock, self, is_initiator, remote, self.turns)

    def _member_ready(self, link: Link) -> None:
        peer = link.remote_peer
        if peer not in self.links:
            if not self.takes(peer):
                self._refuse(link)
                return
            if link.is_initiator and self._places.is_doubtful(peer):
                link.is_guest = False
                self._places.try_out(link)
                self._identify.ask(link)
                return
            if self._places.is_full:
                self._places.try_out(link)
        self._take(link)

    def _take(self, link: Link, identified: bool = False) -> None:
        """Have ``link``, or the one that the peer has already, be the peer's.

        :param identified: whether the peer has said on it who it is.
        """
        peer = link.remote_peer
        existing = self.links.get(peer)
        link.is_guest = False
        kept = existing is None or self._newer_wins(existing, link)
        if kept:
            self.links[peer] = link
        # Before the observers hear of it, who would else find that dial still under way.
        self._dials.succeeded(link, self.links.get(peer, link))
        if not kept:
            self._places.over(link)
            self._retire(link)
            return
        if existing is not None:
            if self._places.over(existing) and link not in self._places.trials:
                self._places.try_out(link)
            self._retire(existing)
            self._tell_down(existing, "replaced")
        else:
            self.accepting.linked(link.remote_host)
        if existing is None and not link.is_initiator:
            self.accepting.admitted(link.remote_host)
        if self.links.get(peer) is link:
            self._tell_up(link, identified)

    def _guest_ready(self, link: Link) -> None:
        peer = link.remote_peer
        if link.is_initiator and not link.guest_ok:
            refusal = f"{peer} is not a member of this cluster"
            self._dials.failed(link, DialError(refusal))
            link.close(refusal)
            return
        existing = self.guests.get(peer)
        if existing is not None:
            # One that pairs is not ended by a dial that did not know of it.
            if existing.held or not self._newer_wins(existing, link):
                self._dials.succeeded(link, existing)
                self._retire(link)
                return
            self._guests.leave(existing)
            self._retire(existing)
        reason = self.gate.refusal(peer)
        if self._guests.enter(link):
            self._dials.succeeded(link, link)
        else:
            reason = "this node has as many guests as it takes"
            link.close(reason)
        if not link.is_initiator:
            self._guests.on_refused(link, reason)

    def _promote(self, link: Link) -> None:
        """A guest is admitted."""
        self._guests.leave(link)
        if link.remote_peer in self.links:
            self._retire(link)
            return
        if not self.takes(link.remote_peer):
            self._refuse(link)
            return
        if self._places.is_full:
            self._places.try_out(link)
        link.is_guest = link.held = False
        self.links[link.remote_peer] = link
        self._tell_up(link)
        # What it was told so far is what guests are told.
        self._identify.push(link)

    def _newer_wins(self, existing: Link, link: Link) -> bool:
        if existing.is_initiator == link.is_initiator:
            return True
        if (link.ready_at or 0.0) - (existing.ready_at or 0.0) > SIMULTANEOUS:
            return True
        return link.is_initiator == (self.peer_id < link.remote_peer)

    def _tell_up(self, link: Link, identified: bool = False) -> None:
        for observer in self._observers:
            observer.link_up(link)
        if not identified:
            self._identify.ask(link)

    def _retire(self, link: Link) -> None:
        self._redundant[link] = self.clock.callLater(
            LINGER, link.close, "another link to the peer is kept"
        )

    @staticmethod
    def _refuse(link: Link) -> None:
        """There is no place for this link, which has just come."""
        say_full(link)
        # Closing it tells the one who dialled, through link_closed().
        link.close(FULL_HERE)

    def _give_up(self, link: Link) -> None:
        """There is no place for this link any more; it may be on trial and not taken yet."""
        say_full(link)
        link.close(FULL_HERE)
        self._dials.failed(link, DialError(FULL_HERE))
        if self.links.get(link.remote_peer) is link:
            del self.links[link.remote_peer]
            self._tell_down(link, FULL_HERE)

    def _tell_down(self, link: Link, reason: str) -> None:
        for observer in self._observers:
            try:
                observer.link_down(link, reason)
            except Exception:  # noqa: BLE001 - a bug there must not keep the next link up
                self._log.failure("an observer failed at the end of a link")

    def _own_identity(self, link: Link) -> None:
        """The peer proved to have our own key: this very node, or a copy of its state directory."""
        self._dials.failed(link, DialError("it answered with this node's own identity"))
        itself = self._own_sockets.has(link, self._listeners.ports)
        link.close("connected to itself")
        if not itself:
            for observer in self._observers:
                observer.copy_found(link.remote_multiaddr)
