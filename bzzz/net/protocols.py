"""Which protocols peers may open streams of, and how fast.

Enters: protocols and who answers them; whether the peer of a link is a guest; proposals that come
on a link. Leaves: who answers a stream, or that nobody does; that a peer opens streams too fast.

A link's peer is a guest until the swarm says otherwise, so that nothing that comes with the last
bytes of a handshake, or of one who is not admitted, finds a protocol that is for members.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from twisted.internet.interfaces import IProtocolFactory

from bzzz.errors import LimitExceeded
from bzzz.identity.peer_id import PeerID
from bzzz.net.interfaces import Clock
from bzzz.net.token_bucket import Rate, TokenBucket, TokenBuckets

__all__ = ["GUEST_PROPOSALS", "STRIKES", "LinkProtocols", "Protocols"]

# What a guest may propose, all protocols together. A libp2p node that finds a peer proposes up to
# twenty, some of them in a few versions. Beyond: the stream is reset.
GUEST_PROPOSALS = Rate(64, 4.0)

# Streams reset for being too many, of one link. Who was told no this often is not going to stop.
# Beyond: the link ends.
STRIKES = Rate(64, 1.0)

# Peers whose streams of one protocol are counted: more than are linked, so that a peer finds its
# bucket as it left it when it comes back.
MAX_COUNTED = 1024


@dataclass(frozen=True, slots=True)
class _Answered:
    """A protocol that is answered here."""

    factory: IProtocolFactory
    guests: bool
    buckets: TokenBuckets[PeerID] | None


class Protocols:
    """The protocols of one node.

    :ivar names: all of them.
    :ivar guest_names: those that are spoken with guests.
    :ivar counts: streams that were reset for being too many, by protocol; those of guests under
        ``guest``.
    """

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.names: tuple[str, ...] = ()
        self.guest_names: tuple[str, ...] = ()
        self.counts: Counter[str] = Counter()
        self.answered: dict[str, _Answered] = {}

    def handle(
        self, protocol_id: str, factory: IProtocolFactory, guests: bool, rate: Rate | None
    ) -> None:
        """Have ``factory`` answer inbound streams of this protocol.

        :param guests: whether also those of guests.
        :param rate: of the streams that a member may open.
        """
        buckets: TokenBuckets[PeerID] | None = None
        if rate is not None:
            buckets = TokenBuckets(rate, MAX_COUNTED)
        self.answered[protocol_id] = _Answered(factory, guests, buckets)
        self.names = tuple(self.answered)
        self.guest_names = tuple(name for name, each in self.answered.items() if each.guests)


class LinkProtocols:
    """The same for one link. Link and core share it, so that neither has to know the other.

    :ivar is_guest: whether the peer is a guest.
    :ivar offence: why the link has to end; empty as long as it has not.
    """

    __slots__ = ("_node", "_proposals", "_strikes", "is_guest", "offence")

    def __init__(self, node: Protocols) -> None:
        self.is_guest = True
        self.offence = ""
        self._node = node
        self._proposals: TokenBucket | None = None
        self._strikes: TokenBucket | None = None

    def speaks(self, protocol_id: str) -> bool:
        """Whether a stream of this protocol that the peer opens is answered.

        :raises LimitExceeded: a guest proposes too much.
        """
        answered = self._node.answered
        if not self.is_guest:
            return protocol_id in answered
        if self._proposals is None:
            self._proposals = TokenBucket(GUEST_PROPOSALS.burst, GUEST_PROPOSALS.per_second)
        if not self._proposals.take(self._node.clock.seconds()):
            self._over("guest", "a guest opens streams too fast")
            raise LimitExceeded("a guest proposes protocols too fast", "guest_proposals")
        known = answered.get(protocol_id)
        return known is not None and known.guests

    def names(self) -> tuple[str, ...]:
        """The protocols, for a peer that asks for the list."""
        return self._node.guest_names if self.is_guest else self._node.names

    def factory(self, protocol_id: str, peer: PeerID) -> IProtocolFactory | None:
        """Who answers a stream that ``peer`` has opened; None if it is to be reset."""
        known = self._node.answered.get(protocol_id)
        if known is None or (self.is_guest and not known.guests):
            return None
        buckets = known.buckets
        if (
            buckets is not None
            and not self.is_guest
            and not buckets.take(peer, self._node.clock.seconds())
        ):
            self._over(protocol_id, f"it opens streams of {protocol_id} too fast")
            return None
        return known.factory

    def _over(self, what: str, offence: str) -> None:
        self._node.counts[what] += 1
        if self._strikes is None:
            self._strikes = TokenBucket(STRIKES.burst, STRIKES.per_second)
        if not self._strikes.take(self._node.clock.seconds()):
            self.offence = offence
