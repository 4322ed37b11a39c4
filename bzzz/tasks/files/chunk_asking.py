"""``/bzzz/chunks/1.0.0``: the end of a stream that needs chunks (``docs/tasks.rst``, "Files").

Enters: chunks that are wanted, bytes of the peer. Leaves: requests, and each chunk to whoever keeps
it, who verifies it. So much is asked for at a time, and the peer is read only while the disk keeps
up.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure

from bzzz.errors import RemoteProtocolError, StreamReset
from bzzz.net.interfaces import Clock
from bzzz.net.link import Link
from bzzz.net.stream import Stream
from bzzz.tasks.files.chunk_messages import MAX_GET, PROTOCOL, AnswerReader, get
from bzzz.tasks.files.errors import WrongChunk
from bzzz.tasks.files.manifest import CHUNK

__all__ = ["ANSWER_SECONDS", "IN_FLIGHT", "MAX_WRITING", "Wanted", "ask"]

# A digest, and the size that the chunk is said to have; None where that is not known.
Wanted = tuple[bytes, int | None]

# Bytes asked for and not here yet: the next chunk is asked for when half of the one before is here,
# which is enough for a gigabit with a round trip of 4 ms. It all waits in buffers of the network,
# and a ping behind it: with 4 MiB pings took twice as long as with 2, and chunks came no faster.
IN_FLIGHT = 3 * CHUNK // 2

# Chunks that wait for the disk. Beyond: the peer is not read until there is one less.
MAX_WRITING = 4

# Seconds without an answer after which a peer is given up: a chunk takes as long at 17 kB/s.
ANSWER_SECONDS = 60.0


def ask(
    link: Link,
    wanted: Sequence[Wanted],
    put: Callable[[bytes, list[bytes]], Deferred[Any]],
    got: Callable[[int], object],
    clock: Clock,
) -> Deferred[list[bytes]]:
    """Ask a peer for chunks.

    :param put: keeps a chunk: its digest, and its bytes in pieces. Fails with
        :class:`~bzzz.tasks.files.errors.WrongChunk` if these are others.
    :param got: is told of each chunk that was kept, with its size.
    :return: digests of those that the peer does not have. Fails with a
        :class:`~bzzz.errors.BzzzError` if the stream is lost before, with a
        :class:`~bzzz.errors.RemoteProtocolError` if the peer broke the rules, or with what ``put``
        failed with. Nothing is being kept any more then.
    """
    asking = _Asking(wanted, put, got, clock)
    opened: Deferred[Any] = link.open_stream([PROTOCOL], _Given(asking))
    opened.addErrback(asking.failed)

    def ended(result: Any) -> Any:
        opened.cancel()
        return result

    return asking.answered.addBoth(ended)


class _Given(Factory):
    noisy = False

    def __init__(self, protocol: Protocol) -> None:
        self._protocol = protocol

    def buildProtocol(self, addr: Any) -> Protocol:
        return self._protocol


class _Asking(Protocol):
    """The stream.

    :ivar answered: see :func:`ask`.
    """

    transport: Stream | None = None

    def __init__(
        self,
        wanted: Sequence[Wanted],
        put: Callable[[bytes, list[bytes]], Deferred[Any]],
        got: Callable[[int], object],
        clock: Clock,
    ) -> None:
        self.answered: Deferred[list[bytes]] = Deferred(self.cancel)
        self._wanted = deque(wanted)
        self._put = put
        self._got = got
        self._clock = clock
        self._reader = AnswerReader()
        self._in_flight: dict[bytes, int] = {}
        self._bytes = 0
        self._missing: list[bytes] = []
        self._writing = 0
        self._paused = False
        self._failure: Failure | None = None
        self._over = False
        self._late: IDelayedCall | None = None

    def failed(self, failure: Failure) -> None:
        """Nothing more comes, and that is why."""
        if self._failure is None and not self._over:
            self._failure = failure
            self._settle()

    def cancel(self, _: object) -> None:
        """Nobody waits for the answer any more."""
        self._over = True
        self._end()

    def connectionMade(self) -> None:
        """The stream is open."""
        self._ask()
        self._wait()

    def dataReceived(self, data: bytes) -> None:
        """Answers, or parts of them."""
        if self._failure is not None or self._over:
            return
        try:
            answers = self._reader.receive(data)
        except RemoteProtocolError:
            self.failed(Failure())
            return
        if answers:
            self._wait()
        for digest, pieces in answers:
            self._bytes -= self._in_flight.pop(digest)
            if pieces is None:
                self._missing.append(digest)
            else:
                self._keep(digest, pieces)
        if self._writing >= MAX_WRITING and self.transport is not None and not self._paused:
            self._paused = True
            self.transport.pauseProducing()
            self._stop_waiting()
        self._ask()
        self._settle()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The stream is gone."""
        self.transport = None
        self._stop_waiting()
        if reason.check(ConnectionDone) is not None:
            reason = Failure(StreamReset("it ended the stream before it had answered"))
        if self._in_flight or self._wanted:
            self.failed(reason)

    # -- inside

    def _ask(self) -> None:
        """Ask for as much as may be under way."""
        if self.transport is None or self._failure is not None:
            return
        digests: list[bytes] = []
        while self._wanted and len(self._in_flight) < MAX_GET:
            digest, size = self._wanted[0]
            counted = CHUNK if size is None else size
            under_way = self._bytes - self._reader.received
            if self._in_flight and under_way + counted > IN_FLIGHT:
                break
            self._wanted.popleft()
            self._in_flight[digest] = counted
            self._bytes += counted
            self._reader.expect(digest)
            digests.append(digest)
        if digests:
            self.transport.write(get(digests))

    def _keep(self, digest: bytes, pieces: list[bytes]) -> None:
        self._writing += 1
        self._put(digest, pieces).addCallbacks(
            self._kept, self._not_kept, callbackArgs=(sum(map(len, pieces)),)
        )

    def _kept(self, _: object, size: int) -> None:
        self._got(size)
        self._written()

    def _not_kept(self, failure: Failure) -> None:
        if failure.check(WrongChunk) is not None:
            failure = Failure(RemoteProtocolError(failure.getErrorMessage(), "chunks_wrong"))
        if self._failure is None:
            self._failure = failure
        self._written()

    def _written(self) -> None:
        self._writing -= 1
        if self._paused and self._failure is None and self.transport is not None:
            self._paused = False
            self._wait()
            self.transport.resumeProducing()
        self._settle()

    def _settle(self) -> None:
        """Answer, once all is here or nothing more comes, and nothing is still being kept."""
        if self._over or (self._failure is None and (self._in_flight or self._wanted)):
            return
        if self._failure is not None:
            self._end()
        if self._writing:
            return
        self._over = True
        self._end()
        if self._failure is None:
            self.answered.callback(self._missing)
        else:
            self.answered.errback(self._failure)

    def _end(self) -> None:
        self._stop_waiting()
        transport, self.transport = self.transport, None
        if transport is None:
            return
        if self._failure is None and not self._in_flight and not self._wanted:
            transport.loseConnection()
        else:
            transport.abortConnection()

    def _wait(self) -> None:
        """The peer has so many seconds for the next answer."""
        if self._late is None:
            self._late = self._clock.callLater(ANSWER_SECONDS, self._is_late)
        else:
            self._late.reset(ANSWER_SECONDS)

    def _stop_waiting(self) -> None:
        late, self._late = self._late, None
        if late is not None and late.active():
            late.cancel()

    def _is_late(self) -> None:
        self._late = None
        if self._in_flight:
            self.failed(Failure(StreamReset(f"it answered nothing for {ANSWER_SECONDS:g} s")))
