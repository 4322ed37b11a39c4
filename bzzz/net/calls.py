"""Questions to peers and answers to theirs, on streams that are kept open.

Enters: questions, with whom to ask; links. Leaves: answers. For each peer there is a stream that
this side opened, on which it asks and the peer answers, and one the other way. What is asked in one
turn of the reactor travels in one frame, and so do answers. Where nothing else is under way, nobody
is kept waiting for the end of the turn: answers leave when all are there, and questions when
:meth:`Calls.send_now` is called. Numbers of questions count within one stream, so an answer can
never be taken for one to a question of an earlier stream, or of a process that is gone.

A question that was sent, and whose stream is lost before the answer came, may have been acted on:
:class:`AnswerLost`. One that was not sent has not: :class:`NotAsked`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar
from typing import Protocol as Shape

from twisted.internet.defer import Deferred, fail
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure

from bzzz.errors import BzzzError, RemoteProtocolError
from bzzz.identity.peer_id import PeerID
from bzzz.net.link import Link
from bzzz.net.stream import Stream
from bzzz.net.swarm import Swarm
from bzzz.net.token_bucket import Rate
from bzzz.wire.framing import FrameReader, frame

__all__ = ["AnswerLost", "Calls", "Codec", "NotAsked"]

# Questions of one peer that are being answered. Beyond, no more are read until some are: they wait
# in the stream's window, and then at the peer.
MAX_ANSWERING = 4096

# Questions to one peer that wait for an answer. A peer that hangs is noticed within 10 s.
MAX_ASKED = 20_000

# Bytes that may wait for a peer that does not read. Beyond, nothing more is asked of it.
MAX_WAITING = 16 << 20

# How fast a peer may open streams of one protocol: one per link is what it takes.
RATE = Rate(16, 0.5)

Q = TypeVar("Q")
A = TypeVar("A")


class NotAsked(BzzzError):
    """The peer was not asked: it is not linked, does not speak the protocol, or does not read."""


class AnswerLost(BzzzError):
    """The peer was asked, and no answer came. It may have acted on it."""


class Codec(Shape[Q, A]):
    """How questions and answers are written.

    :ivar protocol_id: such as ``/bzzz/task/1.0.0``.
    :ivar max_message: bytes of a frame.
    """

    protocol_id: str
    max_message: int

    def encode(self, message: Q | A) -> bytes:
        """One message."""

    def join(self, messages: Sequence[tuple[int, bytes]]) -> bytes:
        """A frame of encoded messages with their numbers."""

    def read_requests(self, data: bytes) -> Sequence[tuple[int, Q]]:
        """Read a frame of questions; raises RemoteProtocolError."""

    def read_answers(self, data: bytes) -> Sequence[tuple[int, A]]:
        """Read a frame of answers; raises RemoteProtocolError."""


class Calls(Generic[Q, A]):
    """One protocol of questions and answers on the links of a swarm.

    :param answer: answers a peer's question, now or later. It does not fail.
    :param admits: whether a peer may ask, and is asked.
    """

    _log = Logger()

    def __init__(
        self,
        swarm: Swarm,
        codec: Codec[Q, A],
        answer: Callable[[PeerID, Q], Deferred[A]],
        admits: Callable[[PeerID], bool],
    ) -> None:
        self.codec = codec
        self.answer = answer
        self.admits = admits
        self._swarm = swarm
        self._asking: dict[PeerID, _Asking[Q, A]] = {}
        # Those of whom something may wait to be sent.
        self._to_send: set[_Asking[Q, A]] = set()
        swarm.handle(codec.protocol_id, _Answerings(self), rate=RATE)

    def ask(self, peer: PeerID, question: Q) -> Deferred[A]:
        """Ask a peer. Fails with :class:`NotAsked` or :class:`AnswerLost`."""
        link = self._swarm.links.get(peer)
        if link is None or not self.admits(peer):
            return fail(NotAsked(f"{peer} is not linked"))
        asking = self._asking.get(peer)
        if asking is None or asking.link is not link or asking.is_over:
            asking = _Asking(self, link)
            if not asking.is_over:
                self._asking[peer] = asking
        if not asking.is_over:
            self._to_send.add(asking)
        return asking.ask(question)

    def send_now(self) -> None:
        """Send what was asked in this turn, to those of whom nothing else is asked: they have
        nothing else to do."""
        if self._to_send:
            to_send, self._to_send = self._to_send, set()
            for asking in to_send:
                asking.send_now()

    def lost(self, asking: _Asking[Q, A]) -> None:
        """A stream that this side opened is gone."""
        self._to_send.discard(asking)
        if self._asking.get(asking.link.remote_peer) is asking:
            del self._asking[asking.link.remote_peer]

    def offended(self, link: Link, error: RemoteProtocolError) -> None:
        """A peer broke the rules."""
        self._log.warn(
            "{peer} broke the rules of {protocol}: {error}",
            peer=link.remote_peer,
            protocol=self.codec.protocol_id,
            error=error,
        )
        link.abort(f"{error} ({error.code})")


class _Frames:
    """Messages that leave in one frame at the end of the turn."""

    def __init__(self, link: Link, codec: Codec[Any, Any]) -> None:
        self._link = link
        self._codec = codec
        self._waiting: list[tuple[int, bytes]] = []
        self._planned = False
        self.stream: Stream | None = None

    def send(self, number: int, data: bytes) -> None:
        self._waiting.append((number, data))
        if not self._planned and self.stream is not None:
            self._planned = True
            self._link.clock.callLater(0, self._end_of_turn)

    def _end_of_turn(self) -> None:
        self._planned = False
        self.flush()

    def __len__(self) -> int:
        """How many wait for that."""
        return len(self._waiting)

    def flush(self) -> None:
        """Send what there is, if the stream is open."""
        stream = self.stream
        if stream is None:
            return
        waiting, self._waiting = self._waiting, []
        frames = []
        batch: list[tuple[int, bytes]] = []
        size = 0
        for number, data in waiting:
            # A number has at most nine bytes, and the pair's head one.
            if batch and size + len(data) + 10 > self._codec.max_message - 5:
                frames.append(frame(self._codec.join(batch)))
                batch, size = [], 0
            batch.append((number, data))
            size += len(data) + 10
        if batch:
            frames.append(frame(self._codec.join(batch)))
        if frames:
            stream.write(b"".join(frames))


class _Asking(Protocol, Generic[Q, A]):
    """The stream on which this side asks."""

    transport: Stream

    def __init__(self, calls: Calls[Q, A], link: Link) -> None:
        self.link = link
        self.is_over = False
        self._calls = calls
        self._reader = FrameReader(calls.codec.max_message)
        self._frames = _Frames(link, calls.codec)
        self._asked: dict[int, Deferred[A]] = {}
        self._next = 0
        opened = link.open_stream([calls.codec.protocol_id], _One(self))
        opened.addErrback(self._failed)

    def ask(self, question: Q) -> Deferred[A]:
        if self.is_over:
            # The link is being closed: no stream could be opened.
            return fail(NotAsked(f"{self.link.remote_peer} cannot be asked any more"))
        stream = self._frames.stream
        if len(self._asked) >= MAX_ASKED or (
            stream is not None and stream.pending_bytes > MAX_WAITING
        ):
            return fail(NotAsked(f"{self.link.remote_peer} does not keep up with what is asked"))
        number = self._next
        self._next += 1
        asked = self._asked[number] = Deferred()
        self._frames.send(number, self._calls.codec.encode(question))
        return asked

    def send_now(self) -> None:
        """Send what was asked, if nothing else is."""
        if len(self._frames) == len(self._asked):
            self._frames.flush()

    def connectionMade(self) -> None:
        """The stream is open."""
        self._frames.stream = self.transport
        self._frames.flush()

    def dataReceived(self, data: bytes) -> None:
        """Answers, or parts of them."""
        try:
            for message in self._reader.receive(data):
                for number, answer in self._calls.codec.read_answers(message):
                    asked = self._asked.pop(number, None)
                    if asked is None:
                        raise RemoteProtocolError("an answer to no question", "no_question")
                    asked.callback(answer)
        except RemoteProtocolError as error:
            self._calls.offended(self.link, error)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The stream is gone."""
        error: type[BzzzError] = NotAsked if self._frames.stream is None else AnswerLost
        self._frames.stream = None
        self._end(error, reason)

    def _failed(self, failure: Failure) -> None:
        failure.trap(BzzzError)
        self._end(NotAsked, failure)

    def _end(self, error: type[BzzzError], reason: Failure) -> None:
        if self.is_over:
            return
        self.is_over = True
        self._calls.lost(self)
        asked, self._asked = self._asked, {}
        for each in asked.values():
            each.errback(error(f"{self.link.remote_peer}: {reason.getErrorMessage()}"))


class _One(Factory):
    """Gives a stream the protocol that waits for it."""

    noisy = False

    def __init__(self, asking: _Asking[Any, Any]) -> None:
        self._asking = asking

    def buildProtocol(self, addr: Any) -> Protocol:
        return self._asking


class _Answerings(Factory):
    noisy = False

    def __init__(self, calls: Calls[Any, Any]) -> None:
        self._calls = calls

    def buildProtocol(self, addr: Any) -> Protocol | None:
        link: Link = addr.link
        return _Answering(self._calls, link) if self._calls.admits(link.remote_peer) else None


class _Answering(Protocol, Generic[Q, A]):
    """The stream on which the peer asks. Questions are acted on as the reactor has time."""

    transport: Stream
    _log = Logger()

    def __init__(self, calls: Calls[Q, A], link: Link) -> None:
        self._calls = calls
        self._link = link
        self._reader = FrameReader(calls.codec.max_message)
        self._frames = _Frames(link, calls.codec)
        self._unread: deque[tuple[int, Q]] = deque()
        self._answering = 0
        self._in_line = False
        self._reading = False
        self._paused = False
        self._clogged = False

    def connectionMade(self) -> None:
        """The stream is open."""
        self._frames.stream = self.transport
        self.transport.registerProducer(self, streaming=True)

    # -- producer of answers

    def pauseProducing(self) -> None:
        """The peer does not read its answers, or the link is full: no more is answered."""
        self._clogged = True

    def resumeProducing(self) -> None:
        """Go on."""
        self._clogged = False
        self._read_soon()

    def stopProducing(self) -> None:
        """The stream is gone; so it is said to be."""

    def dataReceived(self, data: bytes) -> None:
        """Questions, or parts of them."""
        try:
            for message in self._reader.receive(data):
                self._unread.extend(self._calls.codec.read_requests(message))
        except RemoteProtocolError as error:
            self._unread.clear()
            self._calls.offended(self._link, error)
            return
        if not self._in_line:
            self._read()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The stream is gone. What is being answered goes on, and its answer nowhere."""
        self._unread.clear()
        self._frames.stream = None

    def _read(self) -> None:
        self._in_line = False
        self._reading = True
        turns = self._link.turns
        while self._unread and self._answering < MAX_ANSWERING and not self._clogged:
            if not turns.has_time:
                self._in_line = True
                turns.wait(self._read)
                break
            number, question = self._unread.popleft()
            if not self._calls.admits(self._link.remote_peer):
                self._unread.clear()
                self._reading = False
                self.transport.abortConnection()
                return
            self._answering += 1
            answering = self._calls.answer(self._link.remote_peer, question)
            answering.addCallback(self._answered, number)
            answering.addErrback(self._broken)
        self._reading = False
        self._pace()

    def _pace(self) -> None:
        """Read no more while there is enough to do."""
        if self._frames.stream is None:
            return
        if self._unread and not self._paused:
            self._paused = True
            self.transport.pauseProducing()
        elif not self._unread and self._paused:
            self._paused = False
            self.transport.resumeProducing()

    def _answered(self, answer: A, number: int) -> None:
        self._answering -= 1
        self._frames.send(number, self._calls.codec.encode(answer))
        if not (self._answering or self._unread or self._reading):
            # There is nothing that could travel with it.
            self._frames.flush()
        self._read_soon()

    def _read_soon(self) -> None:
        if self._unread and not self._in_line and not self._reading:
            self._in_line = True
            self._link.turns.wait(self._read)

    def _broken(self, failure: Failure) -> None:
        """A mistake here: the peer would wait for an answer that does not come."""
        self._log.failure(
            "A question of {peer} was not answered", failure, peer=self._link.remote_peer
        )
        if self._frames.stream is not None:
            self.transport.abortConnection()
