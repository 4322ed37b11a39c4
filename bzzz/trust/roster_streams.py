"""``/bzzz/roster/1.0.0`` on the links of members: the exchange core fed by streams.

Enters: links of members, what comes on their streams. Leaves: messages on those streams, and news
to the cluster. One stream per link, opened by the side that dialled, used both ways; one that is
lost is opened again while the link lives. Where both sides open one, that of the side that dialled
stays. docs/trust.rst, "Keeping rosters the same".
"""

from __future__ import annotations

from collections import deque
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure

from bzzz.errors import BzzzError, RemoteProtocolError
from bzzz.identity.peer_id import PeerID
from bzzz.net.interfaces import Clock, Randomness
from bzzz.net.link import Link
from bzzz.net.periodic import Periodic
from bzzz.net.stream import Stream
from bzzz.net.swarm import Swarm
from bzzz.trust.cluster import Cluster
from bzzz.trust.roster_exchange import MAX_MESSAGE, PROTOCOL, TICK, RosterExchange
from bzzz.wire.framing import FrameReader, frame
from bzzz.wire.identify import Identify
from bzzz.wire.multiaddr import Multiaddr

__all__ = ["RosterStreams"]

# Between two comparisons with one member at random, in seconds: what a bug or a full table
# kept from a member gets there all the same.
ASK_EVERY = 30.0

# Until a stream that was lost is opened again on the same link, in seconds; twice that the next
# time, and so on up to ASK_EVERY. A peer without a roster, which ends each, is not asked so soon.
REOPEN_AFTER = 1.0

# Bytes that may wait for a member that does not read before its link is closed: news of some
# thousand statements.
TOO_SLOW = 1 << 20


class RosterStreams:
    """Talks with each linked member about the roster.

    Add it to the swarm's observers.
    """

    _log = Logger()

    def __init__(self, swarm: Swarm, cluster: Cluster, clock: Clock, random: Randomness) -> None:
        self._swarm = swarm
        self._cluster = cluster
        self._clock = clock
        self._random = random
        self._streams: dict[PeerID, _Talk] = {}
        self._speaks: set[PeerID] = set()
        self._exchange: RosterExchange | None = None
        self._tick: IDelayedCall | None = None
        # Streams to be opened again, and after how many seconds the next one will be.
        self._reopening: dict[PeerID, IDelayedCall] = {}
        self._delays: dict[PeerID, float] = {}
        self._asking = Periodic(
            clock, ASK_EVERY, self._ask_one, "comparing the roster with a member", self._log
        )
        swarm.handle(PROTOCOL, _Talks(self, opened=False))
        cluster.on_change(self._cluster_changed)

    def start(self) -> None:
        """Compare rosters now and then."""
        self._asking.start(now=False)

    def stop(self) -> None:
        """Compare no more, and call nothing later."""
        self._asking.stop()
        for call in [self._tick, *self._reopening.values()]:
            if call is not None:
                call.cancel()
        self._tick = None
        self._reopening.clear()

    @property
    def talking(self) -> tuple[PeerID, ...]:
        """The members with whom there is a stream."""
        return tuple(self._streams)

    def flush(self) -> None:
        """Send what the exchange has for others."""
        exchange = self._exchange
        if exchange is None:
            return
        for peer, messages in exchange.take_output().items():
            talk = self._streams.get(peer)
            if talk is not None:
                talk.send(messages)
        if exchange.waiting and self._tick is None and self._asking.running:
            self._tick = self._clock.callLater(TICK, self._ticked)

    # -- swarm observer

    def link_up(self, link: Link) -> None:
        """Identify follows, and says whether the peer speaks of rosters."""

    def link_down(self, link: Link, reason: str) -> None:
        """Its stream goes with it, at once: a link that takes its place needs one of its own."""
        peer = link.remote_peer
        self._speaks.discard(peer)
        self._delays.pop(peer, None)
        reopening = self._reopening.pop(peer, None)
        if reopening is not None:
            reopening.cancel()
        talk = self._streams.get(peer)
        if talk is not None and talk.link is link:
            talk.abort()

    def identified(self, link: Link, identify: Identify) -> None:
        """Open the stream where this side dialled, and the peer takes this node for a member."""
        if PROTOCOL not in identify.protocols:
            self._speaks.discard(link.remote_peer)
            return
        self._speaks.add(link.remote_peer)
        self._open(link)

    def copy_found(self, address: Multiaddr | None) -> None:
        """Not of interest here."""

    # -- for the streams

    def made(self, talk: _Talk) -> None:
        """A stream is open; it takes the place of an older one that is not to be kept."""
        peer = talk.link.remote_peer
        exchange = self._exchange
        older = self._streams.get(peer)
        if (
            exchange is None
            or self._swarm.links.get(peer) is not talk.link
            or (older is not None and older.outlives(talk))
        ):
            talk.abort()
            return
        self._streams[peer] = talk
        if older is not None:
            older.abort()
        exchange.peer_up(peer)
        self.flush()

    def lost(self, talk: _Talk) -> None:
        """A stream is gone."""
        peer = talk.link.remote_peer
        if self._streams.get(peer) is talk:
            del self._streams[peer]
            if self._exchange is not None:
                self._exchange.peer_down(peer)
                self.flush()
            # A link that has taken its place needs one. On the same link the peer may not want
            # it, such as while it has no roster: it is asked again in a while.
            link = self._swarm.links.get(peer)
            if link is talk.link:
                if talk.heard or peer in self._delays:
                    self._open_later(link)
            elif link is not None and peer in self._speaks:
                self._open(link)

    def received(self, talk: _Talk, message: bytes) -> None:
        """A member said something."""
        exchange = self._exchange
        peer = talk.link.remote_peer
        if (
            exchange is None
            or exchange is not self._cluster.exchange
            or self._streams.get(peer) is not talk
        ):
            return
        talk.heard = True
        told = exchange.full
        try:
            exchange.receive(peer, message)
        except RemoteProtocolError as error:
            self._log.warn(
                "{peer} sent what does not belong into a roster: {error}", peer=peer, error=error
            )
            talk.link.abort(f"{error} ({error.code})")
        except Exception:  # noqa: BLE001 - a mistake here must not keep back what came before it
            self._log.failure("What {peer} says of the roster was not understood", peer=peer)
        if exchange.full and not told:
            self._log.error("A statement for the roster is not kept: {why}", why=exchange.full)
        # Passed on before it is acted on, as one who is revoked by it may know, too.
        self.flush()
        self._cluster.news(exchange.take_news())

    # -- inside

    def _cluster_changed(self) -> None:
        exchange = self._cluster.exchange
        if exchange is not self._exchange:
            self._exchange = exchange
            for talk in list(self._streams.values()):
                talk.abort()
            self._streams.clear()
            for peer in sorted(self._speaks):
                link = self._swarm.links.get(peer)
                if link is not None:
                    # Also where the other side dialled, which was refused before.
                    self._open(link, either=True)
        self.flush()

    def _open(self, link: Link, either: bool = False) -> None:
        if (
            not (link.is_initiator or either)
            or self._exchange is None
            or link.remote_peer in self._streams
            or self._swarm.links.get(link.remote_peer) is not link
        ):
            return
        opened: Deferred[Any] = link.open_stream([PROTOCOL], _Talks(self, opened=True))
        opened.addErrback(self._failed, link)

    def _failed(self, failure: Failure, link: Link) -> None:
        failure.trap(BzzzError)
        self._log.debug(
            "{peer} could not be asked for its roster: {error}",
            peer=link.remote_peer,
            error=failure.getErrorMessage(),
        )
        if link.remote_peer in self._delays:
            self._open_later(link)

    def _open_later(self, link: Link) -> None:
        """Open a stream again after a while, if by then there is none."""
        peer = link.remote_peer
        if (
            not link.is_initiator
            or peer not in self._speaks
            or peer in self._reopening
            or not self._asking.running
        ):
            return
        delay = self._delays.get(peer, REOPEN_AFTER)
        self._delays[peer] = min(2 * delay, ASK_EVERY)
        self._reopening[peer] = self._clock.callLater(delay, self._reopen, link)

    def _reopen(self, link: Link) -> None:
        del self._reopening[link.remote_peer]
        self._open(link)

    def _ticked(self) -> None:
        self._tick = None
        if self._exchange is not None:
            self._exchange.tick()
            self.flush()

    def _ask_one(self) -> None:
        if self._exchange is None:
            return
        for peer in sorted(self._speaks):
            link = self._swarm.links.get(peer)
            if link is not None:
                self._open(link)
        peers = list(self._streams)
        if peers:
            self._exchange.ask(peers[int(self._random.random() * len(peers))])
            self.flush()


class _Talks(Factory):
    noisy = False

    def __init__(self, streams: RosterStreams, opened: bool) -> None:
        self._streams = streams
        self._opened = opened

    def buildProtocol(self, addr: Any) -> Protocol:
        return _Talk(self._streams, addr.link, self._opened)


class _Talk(Protocol):
    """One stream, at either end. Messages are acted on as the reactor has time.

    :param opened: whether this side has opened it.
    :ivar heard: whether the peer has said anything on it.
    """

    transport: Stream

    def __init__(self, streams: RosterStreams, link: Link, opened: bool) -> None:
        self.link = link
        self.heard = False
        self._of_initiator = opened == link.is_initiator
        self._streams = streams
        self._reader = FrameReader(MAX_MESSAGE)
        self._unread: deque[bytes] = deque()
        self._waiting = False

    def send(self, messages: list[bytes]) -> None:
        """Send messages; a peer that reads none of them loses its link."""
        self.transport.write(b"".join(frame(message) for message in messages))
        if self.transport.pending_bytes > TOO_SLOW:
            self.link.abort("it does not read what it is told of the roster")

    def outlives(self, newer: _Talk) -> bool:
        """Whether it stays, and not another one that was opened after it; both sides say the same.

        They see two streams that were opened at the same time in different orders, so of these it
        is the one that the link's initiator has opened.
        """
        return self.link is newer.link and self._of_initiator and not newer._of_initiator

    def abort(self) -> None:
        """Talk no more."""
        self._unread.clear()
        self.transport.abortConnection()

    def connectionMade(self) -> None:
        """The stream is open."""
        self._streams.made(self)

    def dataReceived(self, data: bytes) -> None:
        """Messages, or parts of them."""
        self._unread.extend(self._reader.receive(data))
        if not self._waiting:
            self._read()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The stream is gone."""
        self._unread.clear()
        self._streams.lost(self)

    def _read(self) -> None:
        """Act on one message, and on more as long as this turn of the reactor has time."""
        while self._unread:
            self._streams.received(self, self._unread.popleft())
            if self._unread and not self.link.turns.has_time:
                if not self._waiting:
                    self._waiting = True
                    self.transport.pauseProducing()
                self.link.turns.wait(self._read)
                return
        if self._waiting:
            self._waiting = False
            self.transport.resumeProducing()
