"""Which peers have the links of a node that is known to more of them than it takes.

Enters: links that are ready, and whether their peers have a place for this node, too. Leaves:
whether a link is taken, and which one has to go for it.

Each pair of peers has a rank, which both compute from their IDs alone. Where all links are in use,
a peer is taken if its pair ranks before the last one of the links, and that one is given up. Both
ends have to want a link. As a rank is the same at both, links are given up for better ones only,
so that it comes to rest, without a word about it and from wherever it began: in the end no two
peers are left that would both rather have each other. What is then linked is as random as the
ranks are, so it is one mesh in nearly all cases: of 20 000 drawn with 12 nodes of 4 links 0.5 %
fell apart, of 200 with 300 nodes of 16 links none. Without it those who came first would keep the
others out for ever.

The peer may have no place for this node, which it says a round trip after the link is ready here.
So nothing is given up before the peer has said who it is; until then the link is on trial, and so
is one that was dialled at a peer that had no place the last time: observers hear of it when it is
clear that there is one.
"""

from __future__ import annotations

from collections.abc import Callable
from hashlib import blake2b

from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger

from bzzz.identity.peer_id import PeerID
from bzzz.net.interfaces import Clock
from bzzz.net.link import Link
from bzzz.wire.yamux_frame import GoAway

__all__ = ["FULL_AGAIN", "FULL_HERE", "FULL_THERE", "Places", "rank", "said_full", "say_full"]

# That all links are in use is said again after so many seconds. In a mesh of more nodes than a node
# has links that is how it is, and nothing is lost by it.
FULL_AGAIN = 3600.0

# How long a link may be on trial, in seconds: an answer takes a round trip, and some seconds of a
# process that is starved.
TRIAL = 10.0

# Links on trial beyond those that a node may have. Each side dials no more than sixteen at once.
SPARE = 16

# Peers of whom is remembered that they had no place: as many as are known of in any mesh.
MAX_FULL = 2048

# Why a link is none any more, or did not become one, when it is the peer that has no place, and
# when it is this node.
FULL_THERE = "its links are all in use, with others"
FULL_HERE = "all links are in use, with others"


def rank(one: PeerID, other: PeerID) -> bytes:
    """The rank of a pair, the same for both of the two; the smaller one comes first."""
    return blake2b(b"".join(sorted((one.bytes, other.bytes))), digest_size=16).digest()


def said_full(link: Link) -> bool:
    """Whether the peer has told that there is no place for the link."""
    return link.goodbye == GoAway.RESOURCE_LIMIT_EXCEEDED


def say_full(link: Link) -> None:
    """Tell the peer that there is no place for the link; it closes it then."""
    link.connection.go_away(GoAway.RESOURCE_LIMIT_EXCEEDED)
    link.flush()


class Places:
    """The places of one node.

    :param own: this node's peer ID.
    :param links: those that are taken; the swarm's own table.
    :param limit: how many there may be.
    :param late: called with a link that was on trial for too long.
    :ivar trials: the links that are on trial, taken or not.
    """

    _log = Logger()

    def __init__(
        self,
        own: PeerID,
        clock: Clock,
        links: dict[PeerID, Link],
        limit: Callable[[], int],
        late: Callable[[Link], None],
    ) -> None:
        self.trials: dict[Link, IDelayedCall] = {}
        self._own = own
        self._clock = clock
        self._links = links
        self._limit = limit
        self._late = late
        self._full_there: dict[PeerID, None] = {}
        self._said_at = float("-inf")

    @property
    def is_full(self) -> bool:
        """Whether a link would have to go for another one."""
        limit = self._limit()
        return len(self._links) >= limit and len(self._settled()) >= limit

    def takes(self, peer: PeerID) -> bool:
        """Whether there is a place for a peer that is not linked, or one would be made."""
        if not self.is_full:
            return True
        last = self._last()
        if last is not None and rank(self._own, peer) < rank(self._own, last.remote_peer):
            return len(self.trials) < SPARE
        return False

    def is_doubtful(self, peer: PeerID) -> bool:
        """Whether observers should not hear of a link to the peer before it is clear."""
        return peer in self._full_there or self.is_full

    def try_out(self, link: Link) -> None:
        """The link is on trial from now on."""
        self.trials[link] = self._clock.callLater(TRIAL, self._too_late, link)

    def over(self, link: Link) -> bool:
        """The link's trial is over; whether it was on one."""
        timer = self.trials.pop(link, None)
        if timer is not None and timer.active():
            timer.cancel()
        return timer is not None

    def one_too_many(self) -> Link | None:
        """The link that has to go, if one has to."""
        return self._last() if len(self._settled()) > self._limit() else None

    def full_there(self, peer: PeerID, is_full: bool) -> None:
        """Whether the peer had a place for this node when that was known last."""
        self._full_there.pop(peer, None)
        if is_full:
            self._full_there[peer] = None
            if len(self._full_there) > MAX_FULL:
                del self._full_there[next(iter(self._full_there))]

    def warn(self) -> None:
        """Tell the log that there are more peers than places."""
        now = self._clock.seconds()
        if now - self._said_at < FULL_AGAIN:
            return
        self._said_at = now
        self._log.warn(
            "All {limit} links are in use, and there are more members. Which of them are linked"
            " follows from the peer IDs; the others are heard of by way of those. To link more,"
            " raise max_links",
            limit=self._limit(),
        )

    def _settled(self) -> list[Link]:
        if not self.trials:
            return list(self._links.values())
        return [link for link in self._links.values() if link not in self.trials]

    def _last(self) -> Link | None:
        return max(
            self._settled(), key=lambda link: rank(self._own, link.remote_peer), default=None
        )

    def _too_late(self, link: Link) -> None:
        del self.trials[link]
        self._late(link)
