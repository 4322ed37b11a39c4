"""``/bzzz/audit/1.0.0``, the streams: one question on each, and one answer.

Enters: questions of this node, bytes of streams that members open. Leaves: answers. Both are JSON
objects behind their length as an unsigned varint:

================================ =================================================================
``{"checkpoint": {...}}``        keep this one of the asker's own log. ``{"kept": true}``, or
                                 ``{"kept": false, "contradicts": {...}}`` with one that was kept
                                 before and cannot be of the same log
``{"of": "12D3..."}``            ``{"checkpoints": [...]}``: those that are kept of that node
================================ =================================================================

docs/trust.rst, "Audit log".
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar
from typing import Protocol as Shape

import msgspec
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure

from bzzz.errors import RemoteProtocolError, StreamReset
from bzzz.identity.peer_id import PeerID
from bzzz.net.interfaces import Clock
from bzzz.net.link import Link
from bzzz.net.stream import Stream
from bzzz.trust.audit_chain import Checkpoint
from bzzz.wire.framing import FrameReader, frame

__all__ = [
    "ANSWER_SECONDS",
    "MAX_MESSAGE",
    "PROTOCOL",
    "Answering",
    "Answers",
    "Found",
    "FoundOne",
    "Given",
    "Question",
    "ask",
    "decode",
    "factory",
]

PROTOCOL = "/bzzz/audit/1.0.0"

# Bytes of one message: the checkpoints that are kept of a node (bzzz.trust.audit_kept.MAX_KEPT), of
# 400 bytes each.
MAX_MESSAGE = 32768

# Seconds that a question or an answer may take.
ANSWER_SECONDS = 10.0

# What msgspec raises for JSON that is wrong, or nested too deeply even where it is to be ignored.
UNREADABLE = (msgspec.MsgspecError, RecursionError, UnicodeError)

M = TypeVar("M", bound=msgspec.Struct)


class Question(msgspec.Struct, omit_defaults=True):
    """Either of the two questions."""

    checkpoint: Checkpoint | None = None
    of: str | None = None


class Given(msgspec.Struct, omit_defaults=True):
    """The answer to a checkpoint."""

    kept: bool
    contradicts: Checkpoint | None = None


class FoundOne(msgspec.Struct, omit_defaults=True):
    """A checkpoint, and when the keeper got it; RFC 3339."""

    checkpoint: Checkpoint
    received: str = ""


class Found(msgspec.Struct):
    """The answer to the question for a node."""

    checkpoints: list[FoundOne]


class Answers(Shape):
    """Who answers questions."""

    def answer(self, message: bytes, asker: PeerID) -> bytes:
        """The answer.

        :raises RemoteProtocolError: there is none.
        """

    def offended(self, link: Link, error: RemoteProtocolError) -> None:
        """The peer broke the rules."""


def decode(message: bytes, kind: type[M], peer: PeerID) -> M:
    """A message of a peer.

    :raises RemoteProtocolError: it cannot be read.
    """
    try:
        return msgspec.json.decode(message, type=kind)
    except UNREADABLE as error:
        # What msgspec says names the field; a field of ours, never a peer's words.
        raise RemoteProtocolError(
            f"{peer} said something unreadable about audit logs: {error}", "audit_bad_message"
        ) from error


def ask(link: Link, question: Question, clock: Clock) -> Deferred[bytes]:
    """Ask the peer at the other end of a link.

    :return: the answer. Fails with a :class:`~bzzz.errors.BzzzError` if there is none within
        :data:`ANSWER_SECONDS`; with a :class:`~bzzz.errors.RemoteProtocolError` where the peer
        broke the rules.
    """
    asking = _Asking(msgspec.json.encode(question))
    opened: Deferred[Any] = link.open_stream([PROTOCOL], factory(lambda link: asking))
    opened.addErrback(asking.failed)
    late = clock.callLater(
        ANSWER_SECONDS, asking.failed, Failure(StreamReset("it did not answer in time"))
    )

    def ended(result: Any) -> Any:
        if late.active():
            late.cancel()
        opened.cancel()
        return result

    return asking.answer.addBoth(ended)


def factory(build: Callable[[Link], Protocol | None]) -> Factory:
    """Makes the protocol of a stream from the link that it is on."""
    return _Factory(build)


class _Factory(Factory):
    noisy = False

    def __init__(self, build: Callable[[Link], Protocol | None]) -> None:
        self._build = build

    def buildProtocol(self, addr: Any) -> Protocol | None:
        return self._build(addr.link)


class _Asking(Protocol):
    """The end that asks."""

    transport: Stream | None = None

    def __init__(self, question: bytes) -> None:
        self.answer: Deferred[bytes] = Deferred()
        self._question = question
        self._reader = FrameReader(MAX_MESSAGE)

    def failed(self, failure: Failure) -> None:
        """There is no answer."""
        if not self.answer.called:
            self.answer.errback(failure)
            if self.transport is not None:
                self.transport.abortConnection()

    def connectionMade(self) -> None:
        """The stream is open."""
        if self.transport is None:
            return
        if self.answer.called:
            self.transport.abortConnection()
        else:
            self.transport.write(frame(self._question))

    def dataReceived(self, data: bytes) -> None:
        """The answer, or a part of it."""
        for message in self._reader.receive(data):
            if self.transport is not None:
                self.transport.loseConnection()
            if not self.answer.called:
                self.answer.callback(message)
            return

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The stream is gone, perhaps without an answer."""
        self.transport = None
        if reason.check(ConnectionDone) is not None:
            reason = Failure(StreamReset("it ended the stream without an answer"))
        self.failed(reason)


class Answering(Protocol):
    """The end that answers."""

    transport: Stream

    def __init__(self, answers: Answers, link: Link, clock: Clock) -> None:
        self._answers = answers
        self._link = link
        self._clock = clock
        self._reader = FrameReader(MAX_MESSAGE)
        self._late: IDelayedCall | None = None

    def connectionMade(self) -> None:
        """The stream is open; whoever opened it has something to ask."""
        self._late = self._clock.callLater(ANSWER_SECONDS, self._is_late)

    def dataReceived(self, data: bytes) -> None:
        """The question, or a part of it."""
        try:
            for message in self._reader.receive(data):
                self.transport.write(frame(self._answers.answer(message, self._link.remote_peer)))
                self.transport.loseConnection()
                return
        except RemoteProtocolError as error:
            self._answers.offended(self._link, error)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The stream is gone."""
        if self._late is not None and self._late.active():
            self._late.cancel()

    def _is_late(self) -> None:
        self.transport.abortConnection()
