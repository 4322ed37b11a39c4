"""Failure detection: which links lead to a peer that still answers.

A killed process is noticed by its kernel closing the sockets, and a machine that vanished by this
node's kernel (:mod:`bzzz.net.keepalive`); this is for processes that hang. A link over which
nothing came for :data:`IDLE` seconds is pinged; one that then stays silent for :data:`DEADLINE`
seconds *during which this node's own reactor ran on time* is cut. Whatever arrives is proof of
life, so busy links are never pinged. A new link is pinged once, for its round-trip time: at once
while there are few, and else when the mesh has formed.
"""

from __future__ import annotations

from collections.abc import Callable

from twisted.logger import Logger
from twisted.python.failure import Failure

from bzzz.errors import BzzzError
from bzzz.identity.peer_id import PeerID
from bzzz.mesh.lag import ReactorLag
from bzzz.net.interfaces import Clock, Randomness
from bzzz.net.link import Link
from bzzz.net.periodic import Periodic
from bzzz.net.ping import PingService
from bzzz.wire.identify import Identify
from bzzz.wire.multiaddr import Multiaddr

__all__ = ["Liveness"]

# Seconds without a byte until a ping, drawn anew each time between these two: were they one number
# the same side would always ping first and the other never learn its round-trip time.
IDLE = (12.0, 15.0)

# With more links than this the time grows as their number, so that a node of a large mesh is not
# busy with pings: of 100 nodes each hears from each other by its broadcasts about as often.
IDLE_LINKS = 32

# Seconds that a ping may stay unanswered while the peer's kernel answers. A peer that is busy takes
# milliseconds.
DEADLINE = 4.0

# How often links are looked at, in seconds.
TICK = 0.5

# With no more links than this, new ones are pinged at the next look.
FEW_LINKS = 8

# With more, so many at one look, once none came for so many seconds: while some nodes of a mesh
# have all their links others still form it, and this can wait.
FIRST_PINGS = 2
FORMED_AFTER = 10.0

# A link that is as old, in seconds, does not wait for that: in some meshes somebody always comes.
LONG_ENOUGH = 60.0

# Weight of the newest sample in the smoothed round-trip time (RFC 6298, section 2).
SMOOTHING = 0.125


class _Watch:
    """What is known of one link's liveness."""

    def __init__(self, idle: float, since: float) -> None:
        self.idle = idle
        self.since = since
        self.is_new = True
        self.pinged_at: float | None = None
        self.lag_then = 0.0


class Liveness:
    """Pings idle links and cuts dead ones. An observer of the swarm.

    :param calm: whether no mesh is forming. While handshakes are under way a round trip tells how
        long they take, and new links can wait for their first ping.
    :ivar rtts: smoothed round-trip time of each linked peer, in seconds.
    """

    _log = Logger()

    def __init__(
        self,
        clock: Clock,
        random: Randomness,
        pings: PingService,
        lag: ReactorLag,
        calm: Callable[[], bool],
    ) -> None:
        self.rtts: dict[PeerID, float] = {}
        self._clock = clock
        self._random = random
        self._pings = pings
        self._lag = lag
        self._calm = calm
        self._watched: dict[Link, _Watch] = {}
        self._ticks = Periodic(clock, TICK, self._tick, "checking which links are alive", self._log)

    def start(self) -> None:
        """Start to check."""
        self._ticks.start(now=False)

    def stop(self) -> None:
        """Check no more."""
        self._ticks.stop()

    def link_up(self, link: Link) -> None:
        """Watch the link."""
        self._watched[link] = _Watch(self._random.uniform(*IDLE), self._clock.seconds())

    def link_down(self, link: Link, reason: str) -> None:
        """Watch it no more."""
        self._watched.pop(link, None)
        self.rtts.pop(link.remote_peer, None)

    def identified(self, link: Link, identify: Identify) -> None:
        """Not of interest here."""

    def copy_found(self, address: Multiaddr | None) -> None:
        """Not of interest here."""

    def _tick(self) -> None:
        now = self._clock.seconds()
        many = max(1.0, len(self._watched) / IDLE_LINKS)
        few = len(self._watched) <= FEW_LINKS
        newest = max((watch.since for watch in self._watched.values()), default=now)
        formed = few or now - newest >= FORMED_AFTER
        first = (FEW_LINKS if few else FIRST_PINGS) if self._calm() else 0
        for link, watch in list(self._watched.items()):
            silent = now - link.last_received
            if watch.pinged_at is None:
                if watch.is_new and first > 0 and (formed or now - watch.since >= LONG_ENOUGH):
                    first -= 1
                    self._ping(link, watch)
                elif silent >= watch.idle * many:
                    self._ping(link, watch)
                continue
            if link.last_received > watch.pinged_at:
                # Anything that came is proof of life, also when the ping's answer is stuck
                # behind it.
                watch.pinged_at = None
                continue
            waited = now - watch.pinged_at - (self._lag.so_far() - watch.lag_then)
            if waited >= DEADLINE:
                link.abort(f"no sign of life for {silent:.1f} s")

    def _ping(self, link: Link, watch: _Watch) -> None:
        watch.is_new = False
        watch.pinged_at = self._clock.seconds()
        watch.lag_then = self._lag.so_far()
        watch.idle = self._random.uniform(*IDLE)

        def answered(rtt: float) -> None:
            watch.pinged_at = None
            peer = link.remote_peer
            if self._watched.get(link) is watch:
                old = self.rtts.get(peer)
                self.rtts[peer] = rtt if old is None else old + SMOOTHING * (rtt - old)

        def failed(failure: Failure) -> None:
            # A peer that does not speak ping, or reset the stream, said so over the link, which is
            # a sign of life; a dead link is the deadline's to find.
            failure.trap(BzzzError)

        self._pings.ping(link).addCallbacks(answered, failed)
