"""``/bzzz/chunks/1.0.0`` on links: who serves, and who may be served (``docs/tasks.rst``, "Files").

Enters: streams that members open, what this node wants of others. Leaves: chunks that are here,
streams that ask for others (:mod:`~bzzz.tasks.files.chunk_asking`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IHalfCloseableProtocol, IPushProducer
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from bzzz.errors import RemoteProtocolError
from bzzz.identity.peer_id import PeerID
from bzzz.net.interfaces import Clock
from bzzz.net.link import Link
from bzzz.net.stream import TURN, Stream
from bzzz.net.swarm import Swarm
from bzzz.net.token_bucket import Rate
from bzzz.tasks.files.chunk_messages import PROTOCOL, Requests, header, missing
from bzzz.tasks.files.errors import ChunkMissing, FilesError
from bzzz.tasks.files.manifest import Chunk

__all__ = ["MAX_SERVED", "MAX_SERVED_LINK", "QUIET", "ChunkStreams"]

# Streams that a member may open: one for each fetch, and again when one was lost.
RATE = Rate(64, 2.0)

# Streams that are served at once, of all members and of one. Each holds two chunks: one that is
# being sent and the next. Beyond: the new stream is reset.
MAX_SERVED = 32
MAX_SERVED_LINK = 4

# Seconds without a request, or in which the peer takes nothing, after which a stream is reset.
QUIET = 60.0


class ChunkStreams:
    """Serves this node's chunks to members.

    :param read: a chunk of this node's.
    :param admits: whether a peer is a member that may have them.
    """

    _log = Logger()

    def __init__(
        self,
        swarm: Swarm,
        clock: Clock,
        read: Callable[[bytes], Deferred[bytes]],
        admits: Callable[[PeerID], bool],
    ) -> None:
        self._clock = clock
        self._read = read
        self._admits = admits
        self._served: Counter[Link] = Counter()
        self._stopped = False
        self._serving: set[_Serving] = set()
        swarm.handle(PROTOCOL, _Servings(self._build), rate=RATE)

    def stop(self) -> None:
        """Serve no more."""
        self._stopped = True
        for serving in list(self._serving):
            serving.abort()

    @property
    def served(self) -> int:
        """How many streams are served."""
        return len(self._serving)

    def offended(self, link: Link, error: RemoteProtocolError) -> None:
        """A peer broke the rules: it loses the link."""
        self._log.warn(
            "{peer} broke the rules of {protocol}: {error}",
            peer=link.remote_peer,
            protocol=PROTOCOL,
            error=error,
        )
        link.abort(f"{error} ({error.code})")

    def _build(self, link: Link) -> Protocol | None:
        if (
            self._stopped
            or not self._admits(link.remote_peer)
            or self.served >= MAX_SERVED
            or self._served[link] >= MAX_SERVED_LINK
        ):
            return None
        self._served[link] += 1
        serving = _Serving(self, link, self._clock, self._read)
        self._serving.add(serving)
        return serving

    def lost(self, serving: _Serving) -> None:
        """A stream is gone."""
        self._serving.discard(serving)
        link = serving.link
        self._served[link] -= 1
        if not self._served[link]:
            del self._served[link]


class _Servings(Factory):
    noisy = False

    def __init__(self, build: Callable[[Link], Protocol | None]) -> None:
        self._build = build

    def buildProtocol(self, addr: Any) -> Protocol | None:
        return self._build(addr.link)


@implementer(IHalfCloseableProtocol, IPushProducer)
class _Serving(Protocol):
    """The end of a stream that has chunks.

    One chunk is being sent and one is read ahead; others wait as digests.
    """

    _log = Logger()
    transport: Stream

    def __init__(
        self,
        streams: ChunkStreams,
        link: Link,
        clock: Clock,
        read: Callable[[bytes], Deferred[bytes]],
    ) -> None:
        self.link = link
        self._streams = streams
        self._clock = clock
        self._read = read
        self._requests = Requests()
        self._reading = False
        self._ready: list[bytes] = []
        self._sending = b""
        self._sent = 0
        self._paused = False
        self._pumping = False
        self._lost = False
        self._active = clock.seconds()
        self._quiet: IDelayedCall | None = None

    def abort(self) -> None:
        """Serve it no more."""
        self.transport.abortConnection()

    def connectionMade(self) -> None:
        """The stream is open."""
        self._quiet = self._clock.callLater(QUIET, self._look)
        self.transport.registerProducer(self, True)

    def dataReceived(self, data: bytes) -> None:
        """Requests, or parts of them."""
        self._active = self._clock.seconds()
        try:
            self._requests.receive(data)
        except RemoteProtocolError as error:
            self._streams.offended(self.link, error)
            return
        self._read_ahead()

    def readConnectionLost(self) -> None:
        """The asker has what it wanted, or wants no more of it."""
        if self._sent < len(self._sending) or self._ready or self._requests.waiting:
            self.abort()
        else:
            self.transport.unregisterProducer()
            self.transport.loseConnection()

    def writeConnectionLost(self) -> None:
        """This end has ended the stream."""

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The stream is gone."""
        self._lost = True
        self._sending, self._sent = b"", 0
        self._ready.clear()
        self._requests.waiting.clear()
        if self._quiet is not None:
            self._quiet.cancel()
            self._quiet = None
        self._streams.lost(self)

    # -- IPushProducer

    def resumeProducing(self) -> None:
        """The link can take more."""
        self._paused = False
        self._pump()

    def pauseProducing(self) -> None:
        """The link can take no more."""
        self._paused = True

    def stopProducing(self) -> None:
        """The stream is gone; connectionLost follows."""
        self._paused = True

    # -- inside

    def _read_ahead(self) -> None:
        if self._reading or self._ready or self._lost or not self._requests.waiting:
            return
        self._reading = True
        digest = self._requests.waiting.popleft()
        self._read(digest).addCallbacks(
            self._has_read, self._not_read, callbackArgs=(digest,), errbackArgs=(digest,)
        )

    def _has_read(self, data: bytes, digest: bytes) -> None:
        head = header(Chunk(digest, len(data)))
        if len(data) < TURN:
            self._answer(head + data)
        else:
            self._answer(head, data)

    def _not_read(self, failure: Failure, digest: bytes) -> None:
        if failure.check(FilesError) is None:
            self._log.failure("A chunk could not be read", failure)
        elif failure.check(ChunkMissing) is None:
            self._log.error("A chunk is not given: {why}", why=failure.getErrorMessage())
        self._answer(missing(digest))

    def _answer(self, *answer: bytes) -> None:
        self._reading = False
        if not self._lost:
            self._ready = list(answer)
            self._pump()

    def _pump(self) -> None:
        """Send until the link can take no more, a piece at a time, so that others have a turn."""
        if self._pumping:
            return
        self._pumping = True
        try:
            while not (self._paused or self._lost):
                if self._sent == len(self._sending):
                    if not self._ready:
                        break
                    self._sending, self._sent = self._ready.pop(0), 0
                    self._read_ahead()
                piece = self._sending[self._sent : self._sent + TURN]
                self._sent += len(piece)
                self._active = self._clock.seconds()
                self.transport.write(piece)
        finally:
            self._pumping = False

    def _look(self) -> None:
        """See whether anything has moved for a while."""
        left = self._active + QUIET - self._clock.seconds()
        self._quiet = None
        if left > 0:
            self._quiet = self._clock.callLater(left, self._look)
        else:
            self.abort()
