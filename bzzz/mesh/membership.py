"""Who is here: every peer this node knows, in which state it is, and the dialling of those not
linked.

Enters: peers found by discovery or told of by members, links that come up and go down. Leaves:
dials, log lines in the words operators search for, events, and the table that people see
(:mod:`bzzz.mesh.member` has its states).

When two nodes discover each other, the one with the smaller peer ID dials at once and the other
:data:`POLITE` seconds later if it is not linked by then, so that mostly one handshake is made.
While others' handshakes with this node are under way, one of them may be that peer's, and the wait
begins anew, for :data:`PATIENCE` seconds at most. Should both dial all the same, the swarm keeps
one link.

A peer that is not admitted stays in the table as long as there is room, so that it is known where
it is once it is; but it is not dialled, people are not told of it, and nothing of it is kept on
disk. Of a peer that says to be in a cluster, while this node is in none, see :data:`CLAIMED_AGAIN`.

One for which this node has no place, or that has none for this node (:mod:`bzzz.net.places`), is
looked at, or dialled, again with the backoff of one that cannot be reached, but it is not lost: it
is heard of by way of others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol as Shape

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from bzzz.errors import BzzzError
from bzzz.identity.peer_id import PeerID
from bzzz.mesh.alone import Alone
from bzzz.mesh.dial_limit import DialLimit
from bzzz.mesh.line_limit import LineLimit
from bzzz.mesh.member import Member, MemberState
from bzzz.net.backoff import Backoff
from bzzz.net.guests import CLAIMED
from bzzz.net.interfaces import Clock, Randomness
from bzzz.net.link import HANDSHAKE_TIMEOUT, Link
from bzzz.net.places import FULL_HERE, FULL_THERE
from bzzz.net.swarm import Swarm
from bzzz.wire.identify import Identify
from bzzz.wire.multiaddr import Multiaddr

__all__ = ["ADDRESS_BOOK", "CLAIMED_AGAIN", "Book", "Member", "MemberState", "Membership"]

# How long the peer with the greater ID leaves the dialling to the other, in seconds: a dial on a
# LAN takes 5 ms, on a loaded machine ten times that.
POLITE = (0.15, 0.3)

# How long handshakes that others began can put off a dial, in seconds: longer than fifty nodes on
# two cores take to form a mesh.
PATIENCE = 20.0

# A link that lived this long ends in a dial at once when it is lost; one that did not, in the
# backoff, or a peer that closes each new link would be dialled without a pause.
STABLE = 5.0

# A peer that is in a cluster is dialled again after so many seconds by a node that is in none, to
# see whether that is still so; each time it costs both a handshake and comes to nothing. This node
# is told at once where it matters: when it becomes a member itself.
CLAIMED_AGAIN = 600.0

# Peers in the table. A full mesh is limited by links long before; what is more than this is not a
# LAN but somebody inventing peers.
MAX_MEMBERS = 2048

# Addresses kept per peer.
MAX_ADDRESSES = 16

# A peer that is not linked and of which nobody says anything is forgotten after this, in seconds.
FORGET_AFTER = 86400.0

# One that was linked and can never be dialled, because it told no address, after this.
FORGET_UNREACHABLE = 600.0

# How often a copy of this node's identity is told of, in seconds: it dials again and again.
COPY_TELL_EVERY = 60.0

# What is shown of a peer that takes this node for a guest. Which of the two it is it does not say.
TAKEN_FOR_GUEST = "it has not heard that this node is a member, or has revoked it"

# The source of what this node knew when it started.
ADDRESS_BOOK = "address book"


class Book(Shape):
    """What is used of the address book."""

    def seen(
        self, peer: PeerID, addresses: Sequence[Multiaddr], source: str, name: str = ""
    ) -> None:
        """The peer is said to be at these addresses."""

    def succeeded(self, peer: PeerID, address: Multiaddr) -> None:
        """The peer was reached there."""

    def ordered(self, peer: PeerID, addresses: Sequence[Multiaddr]) -> list[Multiaddr]:
        """The addresses, the most promising first."""


class Membership:
    """The table of peers, and their dialling. An observer of the swarm.

    :param wall_time: seconds since the epoch, for what people see.
    :param book: the address book.
    :param emit: takes an event's name and its fields.
    :param tried: what discovery has tried so far, in words, for a node that is alone.
    :param admits: whether links with a peer are kept. When its answers change, :meth:`reconsider`
        has to be called, after the swarm was told.
    :ivar on_forgotten: is told of each peer that leaves the table.
    """

    _log = Logger()

    def __init__(
        self,
        swarm: Swarm,
        clock: Clock,
        wall_time: Callable[[], float],
        random: Randomness,
        book: Book,
        emit: Callable[..., None],
        tried: Callable[[], str],
        admits: Callable[[PeerID], bool] = lambda peer: True,
    ) -> None:
        self.members: dict[PeerID, Member] = {}
        self.on_forgotten: Callable[[PeerID], None] = lambda peer: None
        self._swarm = swarm
        self._clock = clock
        self._wall_time = wall_time
        self._random = random
        self._book = book
        self._emit = emit
        self._admits = admits
        self._dials = 0
        self._dial_limit = DialLimit()
        self._queue: list[Member] = []
        self._alone = Alone(clock, tried, lambda: len(self.claimed()), emit)
        self._stopped = True
        # Those for which there was no place, here or there, when that was looked at last.
        self._no_place: set[PeerID] = set()
        self._lines = LineLimit(clock)
        self._copy_told: float | None = None

    # -- life

    def start(self) -> None:
        """Start to dial, and to notice when the node is alone."""
        self._stopped = False
        self._alone.begin()
        for member in self.members.values():
            self._plan(member, self._courtesy(member))

    def stop(self) -> None:
        """Dial no more."""
        self._stopped = True
        self._alone.end()
        for member in self.members.values():
            self._unplan(member)
            if member.dial is not None:
                member.dial.cancel()

    # -- what discovery says

    def found(
        self, peer: PeerID, addresses: Sequence[Multiaddr], source: str, name: str = ""
    ) -> None:
        """A peer is said to be at ``addresses``.

        A peer in backoff is dialled now when an address is new, or when it just announced itself,
        unless there was no place.
        """
        if peer == self._swarm.peer_id:
            return
        member = self._member(peer)
        if member is None:
            return
        fresh = not member.sources
        member.heard_at = self._clock.seconds()
        member.sources[source] = None
        if name and not member.name:
            member.name = name
        new = self._learn(member, addresses)
        if not member.admitted:
            return
        self._book.seen(peer, addresses, source, name)
        self._announce(member, source, addresses)
        if self._stopped or member.link is not None or member.dial is not None or member.queued:
            return
        if new or fresh or (source == "mdns" and peer not in self._no_place):
            member.backoff.reset()
            self._plan(member, self._courtesy(member))

    def conflict(self, addresses: Sequence[Multiaddr]) -> None:
        """This node's own peer ID is announced from elsewhere: look whether that is proved."""
        if not self._stopped and addresses:
            # The dial never succeeds; the swarm tells copy_found() if the other proves our key.
            self._swarm.dial(addresses, self._swarm.peer_id).addErrback(
                lambda failure: failure.trap(BzzzError)
            )

    # -- what the swarm says

    def link_up(self, link: Link) -> None:
        """The peer is linked."""
        member = self._member(link.remote_peer, known_to_exist=True)
        if member is None:
            return
        replaced = member.link is not None or member.told_up
        member.link = link
        member.admitted = True
        member.was_linked = True
        member.attempts = 0
        member.reason = ""
        member.told_failure = False
        member.patient_until = None
        member.linked_at = member.heard_at = self._clock.seconds()
        self._unplan(member)
        if member.dial is not None:
            dial, member.dial = member.dial, None
            dial.cancel()
        if link.is_initiator and link.remote_multiaddr is not None:
            self._learn(member, [link.remote_multiaddr])
            self._book.succeeded(member.peer_id, link.remote_multiaddr)
        if not replaced:
            member.since = self._wall_time()
        self._no_place.discard(member.peer_id)
        self._alone.end()

    def link_down(self, link: Link, reason: str) -> None:
        """The peer's link is gone."""
        member = self.members.get(link.remote_peer)
        if member is None or member.link is not link:
            return
        member.link = None
        if reason == "replaced":
            return
        if not member.told_up and not member.sources and not member.addresses:
            # It never said who it is, and nobody else spoke of it: there is nothing to keep.
            self._forget(member)
            self._now_alone_if_last()
            return
        no_place = reason in {FULL_HERE, FULL_THERE}
        member.since = self._wall_time()
        member.reason = "" if no_place else reason
        member.admitted = self._admits(member.peer_id)
        if no_place:
            self._no_place.add(member.peer_id)
            member.was_linked = False
        if member.told_up:
            member.told_up = False
            self._log.info(
                "Not linked with {label} any more, which is not lost: {reason}"
                if no_place
                else "Lost {label}: {reason}",
                label=member.label,
                reason=reason,
                peer_id=str(member.peer_id),
                event="lost",
            )
            self._emit("lost", peer_id=str(member.peer_id), name=member.name, reason=reason)
        now = self._clock.seconds()
        member.heard_at = now
        if reason == CLAIMED:
            self._claimed(member)
        if not self._stopped:
            # One that takes this node for a guest ends its link after a while, each time.
            if now - member.linked_at >= STABLE and not link.guest_there and not no_place:
                member.backoff.reset()
                self._plan(member, self._courtesy(member))
            else:
                self._plan(member, member.backoff.next_delay())
            self._now_alone_if_last()

    def identified(self, link: Link, identify: Identify) -> None:
        """The peer said who it is: it can be named now, unless it takes this node for a guest."""
        member = self.members.get(link.remote_peer)
        if member is None or member.link is not link:
            return
        if identify.guest:
            member.reason = TAKEN_FOR_GUEST
            return
        member.reason = ""
        member.claimed_until = None
        member.agent = identify.agent_version
        if identify.name:
            member.name = identify.name
        self._learn(member, identify.listen_addrs)
        self._book.seen(member.peer_id, identify.listen_addrs, "identify", member.name)
        if not member.told_up:
            member.told_up = True
            self._log.info(
                "Connected to {label} at {address}",
                label=member.label,
                address=str(link.remote_multiaddr),
                peer_id=str(member.peer_id),
                event="connected",
            )
            self._emit(
                "connected",
                peer_id=str(member.peer_id),
                name=member.name,
                address=str(link.remote_multiaddr),
                direction="outbound" if link.is_initiator else "inbound",
                agent=member.agent,
            )

    def reconsider(self) -> None:
        """Others are admitted than before.

        Who is admitted now and was not, or was known to be in a cluster, is dialled at once; who is
        not admitted any more, no more. Their links are the swarm's to end.
        """
        dials: list[Deferred[Link]] = []
        for member in list(self.members.values()):
            before = member.admitted and member.claimed_until is None
            member.admitted = self._admits(member.peer_id)
            member.claimed_until = None
            if not member.admitted:
                self._unplan(member)
                if member.dial is not None:
                    dials.append(member.dial)
                    member.dial = None
            elif not before:
                if member.sources:
                    source, addresses = next(iter(member.sources)), list(member.addresses)
                    self._book.seen(member.peer_id, addresses, source, member.name)
                    self._announce(member, source, addresses)
                member.backoff.reset()
                self._plan(member, self._courtesy(member))
        # Last: a dial that ends makes way for one that waits, which must not be one of these.
        for dial in dials:
            dial.cancel()

    def copy_found(self, address: Multiaddr | None) -> None:
        """Another machine has this node's key; said again once a minute while it tries."""
        now = self._clock.seconds()
        if self._copy_told is not None and now - self._copy_told < COPY_TELL_EVERY:
            return
        self._copy_told = now
        self._log.error(
            "Another node, at {address}, has this node's identity {peer_id}: a state directory "
            "was copied. Neither can be reached reliably. Mend: stop one of the two, delete "
            "identity.key in its state directory, and start it again; it will make an identity of "
            "its own.",
            address=str(address),
            peer_id=str(self._swarm.peer_id),
            event="identity_conflict",
        )
        self._emit("identity_conflict", address=str(address), peer_id=str(self._swarm.peer_id))

    # -- views

    def connected(self) -> list[Member]:
        """The linked peers."""
        return [member for member in self.members.values() if member.link is not None]

    def shown(self) -> list[Member]:
        """The peers that people see: those that are admitted."""
        return [member for member in self.members.values() if member.admitted]

    def claimed(self) -> list[Member]:
        """The peers that are known to be in a cluster while this node is in none."""
        return [member for member in self.members.values() if member.claimed_until is not None]

    def possible_inviters(self) -> list[Member]:
        """The peers that may let this node into a cluster, which is in none.

        Who is linked is among them: it may have admitted this node, which had no time to hear it.
        """
        return [*self.claimed(), *self.connected()]

    def not_sought(self) -> list[PeerID]:
        """The peers that are linked, or about to be dialled where no dial has failed yet.

        Others need not tell of them; for the rest they may know a better address. What only the
        address book says may be of long ago.
        """
        return [
            peer
            for peer, member in self.members.items()
            if member.link is not None
            or (
                member.addresses
                and not member.attempts
                # Else it would be forgotten when nobody speaks of it.
                and peer not in self._no_place
                and (member.dial is not None or member.queued or member.timer is not None)
                and any(source != ADDRESS_BOOK for source in member.sources)
            )
        ]

    def name_of(self, peer: PeerID) -> str:
        """The peer's name, or nothing."""
        member = self.members.get(peer)
        return member.name if member is not None else ""

    # -- dialling

    def _plan(self, member: Member, delay: float) -> None:
        """Dial ``member`` after ``delay`` seconds, unless it is linked by then."""
        if self._stopped or member.link is not None or member.dial is not None or member.queued:
            return
        if not member.admitted:
            return
        if not member.addresses:
            if member.timer is None:
                member.timer = self._clock.callLater(FORGET_UNREACHABLE, self._forget, member)
            return
        now = self._clock.seconds()
        if member.claimed_until is not None:
            delay = max(delay, member.claimed_until - now)
        due = now + delay
        if member.timer is not None:
            if member.next_dial is not None and member.next_dial <= due:
                return
            self._unplan(member)
        member.next_dial = due
        member.timer = self._clock.callLater(delay, self._due, member)

    def _unplan(self, member: Member) -> None:
        self._cancel(member.timer)
        member.timer = None
        member.next_dial = None
        if member.queued:
            member.queued = False
            self._queue.remove(member)

    def _due(self, member: Member) -> None:
        member.timer = None
        member.next_dial = None
        if self._clock.seconds() - member.heard_at > FORGET_AFTER:
            self._forget(member)
            return
        if self._may_be_dialling_us(member):
            self._plan(member, self._courtesy(member))
            return
        if self._dials >= self._dial_limit.value:
            member.queued = True
            self._queue.append(member)
            return
        self._dial(member)

    def _dial(self, member: Member) -> None:
        if not self._swarm.takes(member.peer_id):
            self._no_place.add(member.peer_id)
            self._plan(member, member.backoff.next_delay())
            return
        self._dials += 1
        member.dialled_at = self._clock.seconds()
        newest_first = list(reversed(member.addresses))
        member.dial = self._swarm.dial(
            self._book.ordered(member.peer_id, newest_first), member.peer_id
        )
        member.dial.addCallbacks(
            self._dialled, self._dial_failed, callbackArgs=(member,), errbackArgs=(member,)
        )

    def _dialled(self, link: Link, member: Member) -> None:
        # link_up() follows, and does what there is to do.
        member.dial = None
        self._tell_limit(member)
        self._dial_over()

    def _dial_failed(self, failure: Failure, member: Member) -> None:
        member.dial = None
        if self._clock.seconds() - member.dialled_at >= HANDSHAKE_TIMEOUT:
            # TCP gives up sooner than this, so there was a handshake.
            self._tell_limit(member)
        self._dial_over()
        if self._stopped or member.link is not None or failure.check(CancelledError):
            return
        failure.trap(BzzzError)
        reason = failure.getErrorMessage()
        if FULL_THERE in reason or FULL_HERE in reason:
            self._no_place.add(member.peer_id)
            member.was_linked = False
            member.reason = ""
            self._plan(member, member.backoff.next_delay())
            return
        self._no_place.discard(member.peer_id)
        member.attempts += 1
        member.reason = reason
        level = self._log.debug
        if not member.told_failure and self._lines.allows("cannot reach"):
            member.told_failure = True
            level = self._log.info
        level(
            "Cannot reach {label}: {reason}; trying again, at most 60 s apart",
            label=member.label,
            reason=member.reason,
            peer_id=str(member.peer_id),
        )
        self._plan(member, member.backoff.next_delay())

    def _tell_limit(self, member: Member) -> None:
        now = self._clock.seconds()
        self._dial_limit.took(now - member.dialled_at, now)

    def _dial_over(self) -> None:
        self._dials -= 1
        while self._queue and self._dials < self._dial_limit.value and not self._stopped:
            member = self._queue.pop(0)
            member.queued = False
            self._dial(member)

    def _courtesy(self, member: Member) -> float:
        if self._swarm.peer_id < member.peer_id:
            return 0.0
        return self._random.uniform(*POLITE)

    def _may_be_dialling_us(self, member: Member) -> bool:
        if self._swarm.peer_id < member.peer_id or not self._swarm.pending_handshakes:
            return False
        now = self._clock.seconds()
        if member.patient_until is None:
            member.patient_until = now + PATIENCE
        return now < member.patient_until

    # -- inside

    def _member(self, peer: PeerID, known_to_exist: bool = False) -> Member | None:
        member = self.members.get(peer)
        if member is None:
            admitted = self._admits(peer)
            if len(self.members) >= MAX_MEMBERS and not (
                admitted and self._make_room(known_to_exist)
            ):
                return None
            member = self.members[peer] = Member(
                peer,
                Backoff(random=self._random),
                self._clock.seconds(),
                self._wall_time(),
                admitted,
            )
        return member

    def _make_room(self, known_to_exist: bool) -> bool:
        """Forget a peer for one that is admitted, those first that are not.

        For one that is linked there is room where one was that never was, or else is no more; for
        one that is only spoken of, where a peer was that told no address.
        """
        unlinked = [member for member in self.members.values() if member.link is None]
        for member in unlinked:
            if not member.admitted:
                self._forget(member)
                return True
        for member in unlinked:
            if not member.addresses or (known_to_exist and not member.was_linked):
                self._forget(member)
                return True
        if known_to_exist and unlinked:
            self._forget(min(unlinked, key=lambda member: member.heard_at))
            return True
        return False

    def _forget(self, member: Member) -> None:
        self._unplan(member)
        if member.dial is not None:
            member.dial.cancel()
        self._no_place.discard(member.peer_id)
        if self.members.pop(member.peer_id, None) is not None:
            if member.announced or member.agent or (member.name and member.admitted):
                self._emit("forgotten", peer_id=str(member.peer_id), name=member.name)
            self.on_forgotten(member.peer_id)

    def _announce(self, member: Member, source: str, addresses: Sequence[Multiaddr]) -> None:
        """Tell people that the peer is there, once."""
        if member.announced:
            return
        member.announced = True
        self._emit(
            "discovered",
            peer_id=str(member.peer_id),
            name=member.name,
            source=source,
            addresses=[str(address) for address in addresses],
        )

    def _claimed(self, member: Member) -> None:
        """The peer is in a cluster, and this node is in none."""
        if member.claimed_until is None and self._lines.allows("claimed"):
            self._log.info(
                "{label} belongs to a cluster. To be let in: bzzz invite there, bzzz join here",
                label=member.label,
                peer_id=str(member.peer_id),
                event="claimed",
            )
        member.claimed_until = self._clock.seconds() + CLAIMED_AGAIN

    def _learn(self, member: Member, addresses: Sequence[Multiaddr]) -> bool:
        """Add addresses, the newest last; whether one of them is new."""
        new = False
        for address in addresses:
            plain = address.without_peer()
            if plain in member.addresses:
                del member.addresses[plain]
            else:
                new = True
            member.addresses[plain] = None
        while len(member.addresses) > MAX_ADDRESSES:
            del member.addresses[next(iter(member.addresses))]
        return new

    def _now_alone_if_last(self) -> None:
        if not self._stopped and not any(other.link for other in self.members.values()):
            self._alone.begin()

    @staticmethod
    def _cancel(call: IDelayedCall | None) -> None:
        if call is not None and call.active():
            call.cancel()
