"""Who is admitted to links, and those who are linked though they are not.

Enters: links of guests, which have proved who they are, and what is done with them (a pairing takes
longer). Leaves: the table of guests; links that are closed because their time is over, or to make
room. docs/trust.rst, "Two modes" and "Guests".
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol as Shape

from twisted.internet.interfaces import IDelayedCall

from bzzz.identity.peer_id import PeerID
from bzzz.net.accepting import HOSTS_PER_SUBNET, place_of
from bzzz.net.interfaces import Clock
from bzzz.net.link import Link

__all__ = [
    "CLAIMED",
    "GUEST_SECONDS",
    "MAX_GUESTS",
    "MAX_GUESTS_PER_HOST",
    "MAX_GUESTS_PER_SUBNET",
    "PAIRING_SECONDS",
    "Gate",
    "Guests",
    "OpenGate",
]

# How long a guest's link is kept, in seconds. Asking who is there takes milliseconds, and to prove
# an admission some tenths of a second.
GUEST_SECONDS = 15.0

# The same for one that pairs, counted from the same moment: five messages, each in time, and
# somebody who looks at two screens in between.
PAIRING_SECONDS = 120.0

# Guests at once. They are strangers, and each has a connection, and streams of its own, here.
MAX_GUESTS = 32

# Guests of one IP address at once: some nodes of one machine.
MAX_GUESTS_PER_HOST = 4

# Guests of one IPv6 /64 at once: some machines of a LAN, and not all that there may be, since one
# machine can have all of its addresses.
MAX_GUESTS_PER_SUBNET = HOSTS_PER_SUBNET * MAX_GUESTS_PER_HOST

# How long the link of a guest whose pairing is over is kept at least, in seconds, so that the last
# word of it arrives.
LAST_WORD = 1.0

# Why a guest's link is closed before its time.
REPLACED = "another guest has its place"

# Why the link to a node is gone that said it takes this one for a guest.
CLAIMED = "it belongs to a cluster that this node is not in"


class Gate(Shape):
    """Who is admitted to links.

    When its answers change :meth:`~bzzz.net.swarm.Swarm.gate_changed` has to be called.
    """

    @property
    def is_open(self) -> bool:
        """Whether everybody is admitted, because this node is in no cluster."""

    def admits(self, peer: PeerID) -> bool:
        """Whether links with the peer are kept."""

    def refusal(self, peer: PeerID) -> str:
        """Why the peer is not admitted, in few words."""


class OpenGate:
    """Admits everybody."""

    is_open = True

    def admits(self, peer: PeerID) -> bool:
        """See :class:`Gate`."""
        return True

    def refusal(self, peer: PeerID) -> str:
        """See :class:`Gate`."""
        return ""


class Guests:
    """The guests of one node.

    The caps are for those who came. Whom this node dialled itself, to pair with or to prove
    something to, has the same time and no more, but makes nobody go.

    :ivar links: the one link of each guest, the oldest first.
    :ivar on_refused: called with the link of each that came and is not admitted, or has to go for
        another one, and with the reason. It may not raise.
    """

    def __init__(self, clock: Clock) -> None:
        self.links: dict[PeerID, Link] = {}
        self.on_refused: Callable[[Link, str], object] = lambda link, reason: None
        self._clock = clock
        self._since: dict[Link, float] = {}
        self._timers: dict[Link, IDelayedCall] = {}

    def enter(self, link: Link) -> bool:
        """Have the peer of ``link``, who has no other here, as a guest.

        :return: whether there was room, or could be made.
        """
        if not link.is_initiator:
            came = [each for each in self.links.values() if not each.is_initiator]
            address, subnet, _ = place_of(link.remote_host)
            around = [each for each in came if place_of(each.remote_host)[1] == subnet]
            near = [each for each in around if place_of(each.remote_host)[0] == address]
            if len(near) >= MAX_GUESTS_PER_HOST:
                full = near
            elif len(around) >= MAX_GUESTS_PER_SUBNET:
                full = around
            else:
                full = came if len(came) >= MAX_GUESTS else []
            if full and not self._make_room(full):
                return False
        self.links[link.remote_peer] = link
        self._since[link] = self._clock.seconds()
        self._set_timer(link)
        return True

    def leave(self, link: Link) -> None:
        """The link is gone, or one of a member's now."""
        if self._since.pop(link, None) is not None:
            del self.links[link.remote_peer]
            timer = self._timers.pop(link)
            if timer.active():
                timer.cancel()

    def hold(self, link: Link) -> None:
        """The guest pairs: it has longer, and makes room for nobody."""
        link.held = True
        if link in self._since:
            self._set_timer(link)

    def release(self, link: Link) -> None:
        """It does not pair any more."""
        link.held = False
        if link in self._since:
            self._set_timer(link, LAST_WORD)

    def _set_timer(self, link: Link, least: float = 0.0) -> None:
        timer = self._timers.get(link)
        if timer is not None and timer.active():
            timer.cancel()
        limit = PAIRING_SECONDS if link.held else GUEST_SECONDS
        left = self._since[link] + limit - self._clock.seconds()
        self._timers[link] = self._clock.callLater(max(left, least), self._over, link, limit)

    def _over(self, link: Link, limit: float) -> None:
        self.leave(link)
        link.close(f"a guest's link is closed after {limit:.0f} s")

    def _make_room(self, among: Iterable[Link]) -> bool:
        """Let the oldest go that does not pair."""
        for link in among:
            if not link.held:
                self.leave(link)
                link.close(REPLACED)
                self.on_refused(link, REPLACED)
                return True
        return False
