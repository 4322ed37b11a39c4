"""``/bzzz/output/1.0.0``: what attempts print, from the nodes that run them.

Enters: a question on each stream, of a member that may submit tasks. Leaves: parts of the output,
then that it is at its end, or why there is none. All are MessagePack after their length as an
unsigned varint:

===================================== ============================================================
``[task, token, out, err, follow]``   the question: from which byte of both outputs on, and whether
                                      to go on until the attempt is over
``[1, bytes]``, ``[2, bytes]``        a part of standard output, or of standard error
``[0, b""]``                          that is all
``[3, reason]``                       there is none; in UTF-8
===================================== ============================================================

docs/tasks.rst, "Output".
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure

from bzzz.errors import BzzzError, RemoteProtocolError, StreamReset
from bzzz.identity.peer_id import PeerID
from bzzz.net.background import in_background
from bzzz.net.link import Link
from bzzz.net.stream import Stream
from bzzz.net.swarm import Swarm
from bzzz.net.token_bucket import Rate
from bzzz.tasks.output import PART, NoOutput, OutputFiles, Sink
from bzzz.tasks.submission import TASK
from bzzz.wire.framing import FrameReader, frame

__all__ = ["PROTOCOL", "OutputStreams"]

PROTOCOL: Final = "/bzzz/output/1.0.0"

MAX_QUESTION: Final = 256
MAX_MESSAGE: Final = PART + 64

# How fast a member may open streams: one for each task that somebody looks at.
RATE: Final = Rate(256, 32.0)

# Streams of one peer at a time: each reads a file twenty times a second.
MAX_STREAMS: Final = 256

Offset = Annotated[int, Meta(ge=0, le=1 << 53)]
_Question = tuple[Annotated[str, Meta(pattern=TASK.pattern + r"\Z")], Offset, Offset, Offset, bool]

_questions = msgspec.msgpack.Decoder(_Question)
_parts = msgspec.msgpack.Decoder(tuple[Annotated[int, Meta(ge=0, le=3)], bytes])


class OutputStreams:
    """Gives the output of this node's attempts, and gets that of others.

    :param admits: whether a peer may have it.
    """

    _log = Logger()

    def __init__(
        self,
        swarm: Swarm,
        own: PeerID,
        files: OutputFiles,
        admits: Callable[[PeerID], bool],
    ) -> None:
        self._swarm = swarm
        self._own = own
        self.files = files
        self._admits = admits
        self._count: dict[PeerID, int] = {}
        swarm.handle(PROTOCOL, _Factory(self._answering), rate=RATE)

    def get(
        self,
        peer: PeerID,
        task: str,
        token: int,
        offsets: tuple[int, int],
        follow: bool,
        sink: Sink,
    ) -> Deferred[None]:
        """Get the output of an attempt of a peer, or of this node.

        :return: fires when there is no more. Fails with a BzzzError. Cancelling it ends the
            stream.
        """
        if peer == self._own:
            return Deferred.fromCoroutine(self.files.send(task, token, offsets, follow, sink))
        link = self._swarm.links.get(peer)
        if link is None:
            failed: Deferred[None] = Deferred()
            failed.errback(NoOutput(f"{peer}, which has the output, is not linked"))
            return failed
        asking = _Asking(msgspec.msgpack.encode((task, token, *offsets, follow)), sink)
        opened: Deferred[Any] = link.open_stream([PROTOCOL], _Factory(lambda link: asking))
        opened.addErrback(asking.failed)
        return asking.ended

    def opened(self, link: Link) -> bool:
        """Count a stream of a peer; whether it may have it."""
        count = self._count.get(link.remote_peer, 0)
        if count >= MAX_STREAMS:
            return False
        self._count[link.remote_peer] = count + 1
        return True

    def closed(self, link: Link) -> None:
        """A stream that was counted is gone."""
        left = self._count[link.remote_peer] - 1
        if left:
            self._count[link.remote_peer] = left
        else:
            del self._count[link.remote_peer]

    def offended(self, link: Link, error: RemoteProtocolError) -> None:
        """A peer broke the rules."""
        self._log.warn(
            "{peer} broke the rules of {protocol}: {error}",
            peer=link.remote_peer,
            protocol=PROTOCOL,
            error=error,
        )
        link.abort(f"{error} ({error.code})")

    def _answering(self, link: Link) -> Protocol | None:
        return _Answering(self, link) if self._admits(link.remote_peer) else None


class _Factory(Factory):
    noisy = False

    def __init__(self, build: Callable[[Link], Protocol | None]) -> None:
        self._build = build

    def buildProtocol(self, addr: Any) -> Protocol | None:
        return self._build(addr.link)


class _Answering(Protocol):
    """The end that has the output. It is paused where the peer does not read."""

    transport: Stream
    _log = Logger()

    def __init__(self, streams: OutputStreams, link: Link) -> None:
        self._streams = streams
        self._link = link
        self._reader = FrameReader(MAX_QUESTION)
        self._sending: Deferred[None] | None = None
        self._room: Deferred[None] | None = None
        self._paused = False
        self._counted = False

    def connectionMade(self) -> None:
        """The stream is open."""
        self._counted = self._streams.opened(self._link)
        if not self._counted:
            self.transport.abortConnection()

    def dataReceived(self, data: bytes) -> None:
        """The question, or a part of it."""
        try:
            for message in self._reader.receive(data):
                if self._sending is not None:
                    raise RemoteProtocolError("a second question on a stream", "output_question")
                self._answer(message)
        except RemoteProtocolError as error:
            self._streams.offended(self._link, error)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The stream is gone, perhaps before the end."""
        if self._counted:
            self._counted = False
            self._streams.closed(self._link)
        self._room = None
        if self._sending is not None:
            self._sending.cancel()

    # -- producer

    def pauseProducing(self) -> None:
        """The peer does not read, or the link is full."""
        self._paused = True

    def resumeProducing(self) -> None:
        """Go on."""
        self._paused = False
        room, self._room = self._room, None
        if room is not None:
            room.callback(None)

    def stopProducing(self) -> None:
        """The stream is gone; so it is said to be."""

    # -- inside

    def _answer(self, message: bytes) -> None:
        try:
            task, token, out, err, follow = _questions.decode(message)
        except (msgspec.MsgspecError, UnicodeError) as error:
            raise RemoteProtocolError(
                f"a question for output cannot be read: {error}", "output_question"
            ) from None
        self.transport.registerProducer(self, streaming=True)
        self._sending = Deferred.fromCoroutine(
            self._streams.files.send(task, token, (out, err), follow, self._send)
        )
        self._sending.addCallbacks(self._sent, self._not_sent)
        in_background(self._sending, "sending output", self._log)

    def _send(self, which: int, data: bytes) -> Deferred[None] | None:
        self.transport.write(frame(msgspec.msgpack.encode((which, data))))
        if not self._paused:
            return None
        room = self._room = Deferred()
        return room

    def _sent(self, _: None) -> None:
        self._end((0, b""))

    def _not_sent(self, failure: Failure) -> None:
        failure.trap(BzzzError)
        self._end((3, failure.getErrorMessage()[:1000].encode()))

    def _end(self, last: tuple[int, bytes]) -> None:
        self.transport.write(frame(msgspec.msgpack.encode(last)))
        self.transport.unregisterProducer()
        self.transport.loseConnection()


class _Asking(Protocol):
    """The end that gets it."""

    transport: Stream | None = None

    def __init__(self, question: bytes, sink: Sink) -> None:
        self.ended: Deferred[None] = Deferred(self._cancelled)
        self._question = question
        self._sink = sink
        self._reader = FrameReader(MAX_MESSAGE)
        self._parts: deque[bytes] = deque()
        self._waiting = False
        self._over = False

    def failed(self, failure: Failure) -> None:
        """There is no more."""
        if self._over:
            return
        self._over = True
        if self.transport is not None:
            self.transport.abortConnection()
        self.ended.errback(failure)

    def connectionMade(self) -> None:
        """The stream is open."""
        if self.transport is None:
            return
        if self._over:
            self.transport.abortConnection()
        else:
            self.transport.write(frame(self._question))

    def dataReceived(self, data: bytes) -> None:
        """Parts, or parts of parts."""
        try:
            self._parts.extend(self._reader.receive(data))
        except RemoteProtocolError:
            self.failed(Failure())
            return
        if not self._waiting:
            self._take()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The stream is gone, perhaps before the end."""
        self.transport = None
        if not self._waiting:
            self.failed(Failure(StreamReset("the stream with the output was lost")))

    def _take(self, _: object = None) -> None:
        self._waiting = False
        while self._parts and not self._over:
            try:
                which, data = _read_part(self._parts.popleft())
            except RemoteProtocolError:
                self.failed(Failure())
                return
            if which == 0:
                self._over = True
                if self.transport is not None:
                    self.transport.loseConnection()
                self.ended.callback(None)
            elif which == 3:
                self.failed(Failure(NoOutput(data.decode("utf-8", "replace"))))
            else:
                waiting = self._sink(which, data)
                if waiting is not None:
                    self._wait(waiting)
                    return
        if self.transport is not None:
            self.transport.resumeProducing()
        elif not self._over:
            self.failed(Failure(StreamReset("the stream with the output was lost")))

    def _wait(self, waiting: Deferred[None]) -> None:
        self._waiting = True
        if self.transport is not None:
            self.transport.pauseProducing()
        waiting.addCallbacks(self._take, self.failed)

    def _cancelled(self, ended: Deferred[None]) -> None:
        self.failed(Failure(CancelledError()))


def _read_part(message: bytes) -> tuple[int, bytes]:
    try:
        return _parts.decode(message)
    except (msgspec.MsgspecError, UnicodeError) as error:
        raise RemoteProtocolError(f"output cannot be read: {error}", "output_part") from None
