"""The messages of ``/bzzz/chunks/1.0.0`` (``docs/tasks.rst``, "Files").

Enters: bytes of a stream, however they are cut. Leaves: requests; or answers, with the bytes of
chunks, in the order in which they were asked for.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Annotated, Final

import msgspec
from msgspec import Meta, Struct

from bzzz.errors import LimitExceeded, RemoteProtocolError
from bzzz.tasks.files.manifest import CHUNK, DIGEST_SIZE, Chunk
from bzzz.wire import varint
from bzzz.wire.framing import FrameReader, frame

__all__ = [
    "MAX_ASKED",
    "MAX_GET",
    "PROTOCOL",
    "Answer",
    "AnswerReader",
    "Requests",
    "get",
    "header",
    "missing",
]

PROTOCOL: Final = "/bzzz/chunks/1.0.0"

# Digests in one message.
MAX_GET: Final = 64

# Digests that were asked for on one stream and are not answered. An honest asker has a few: what is
# under way is of chunks, and those are large.
MAX_ASKED: Final = 256

# Bytes of a message to the one who has chunks: MAX_GET digests, with two bytes before each.
MAX_REQUEST: Final = 4096

# Bytes of a message to the asker, without the chunk behind it.
MAX_HEADER: Final = 64

# Bytes of each piece of a chunk but the last: a peer that sends single bytes must not make each of
# them cost forty times its size.
LEAST_PIECE: Final = 4096

Answer = tuple[bytes, list[bytes] | None]
"""A digest, and the pieces of its chunk in order; None where the peer does not have it."""

Digest = Annotated[bytes, Meta(min_length=DIGEST_SIZE, max_length=DIGEST_SIZE)]


class Get(Struct, frozen=True, array_like=True, tag="get", forbid_unknown_fields=True):
    """The asker wants these."""

    digests: Annotated[tuple[Digest, ...], Meta(min_length=1, max_length=MAX_GET)]


class Here(Struct, frozen=True, array_like=True, tag="chunk", forbid_unknown_fields=True):
    """This many bytes of a chunk follow."""

    digest: Digest
    size: Annotated[int, Meta(gt=0, le=CHUNK)]


class NotHere(Struct, frozen=True, array_like=True, tag="missing", forbid_unknown_fields=True):
    """This chunk cannot be had."""

    digest: Digest


_get = msgspec.msgpack.Decoder(Get)
_answer = msgspec.msgpack.Decoder(Here | NotHere)

# What msgspec raises for bytes that are wrong, or nested too deeply.
_UNREADABLE = (msgspec.MsgspecError, RecursionError, UnicodeError)


def get(digests: Sequence[bytes]) -> bytes:
    """Ask for up to :data:`MAX_GET` chunks."""
    return frame(msgspec.msgpack.encode(Get(tuple(digests))))


def header(chunk: Chunk) -> bytes:
    """Say that a chunk follows."""
    return frame(msgspec.msgpack.encode(Here(*chunk)))


def missing(digest: bytes) -> bytes:
    """Say that a chunk cannot be had."""
    return frame(msgspec.msgpack.encode(NotHere(digest)))


class Requests:
    """What is asked on one stream.

    :ivar waiting: digests that are to be answered, the first one first.
    """

    def __init__(self) -> None:
        self.waiting: deque[bytes] = deque()
        self._reader = FrameReader(MAX_REQUEST)

    def receive(self, data: bytes) -> None:
        """Take bytes of the asker.

        :raises RemoteProtocolError: they are no requests, or too many.
        """
        for message in self._reader.receive(data):
            try:
                self.waiting += _get.decode(message).digests
            except _UNREADABLE as error:
                raise RemoteProtocolError(
                    f"a request for chunks cannot be read: {error}", "chunks_bad_message"
                ) from None
            if len(self.waiting) > MAX_ASKED:
                raise LimitExceeded(
                    f"more than {MAX_ASKED} chunks were asked for and not waited for",
                    "chunks_too_many",
                )


class AnswerReader:
    """Reads the answers to what was asked on one stream.

    Holds a chunk at most, which is not verified here.
    """

    def __init__(self) -> None:
        self._expected: deque[bytes] = deque()
        self._head = bytearray()
        self._pieces: list[bytes] = []
        self._left = 0
        self._size = 0

    @property
    def expected(self) -> int:
        """How many answers are to come."""
        return len(self._expected)

    @property
    def received(self) -> int:
        """Bytes that are here of a chunk which is not whole yet."""
        return self._size - self._left if self._left else 0

    def expect(self, digest: bytes) -> None:
        """A chunk was asked for. What size it has is no matter between the two: a manifest, which
        says it, may be wrong, and the peer has not made it.
        """
        self._expected.append(digest)

    def receive(self, data: bytes) -> list[Answer]:
        """The answers that ``data`` completes.

        :raises RemoteProtocolError: the peer broke the rules; it is of no more use.
        """
        answers: list[Answer] = []
        position = 0
        while position < len(data):
            if self._left:
                piece = data[position : position + self._left]
                position += len(piece)
                self._left -= len(piece)
                self._append(piece)
                if not self._left:
                    pieces, self._pieces = self._pieces, []
                    answers.append((self._expected.popleft(), pieces))
                continue
            before = len(self._head)
            self._head += data[position : position + MAX_HEADER + 2 - before]
            end = self._read_head(answers)
            if not end:
                break
            position += end - before
            self._head.clear()
        return answers

    def _append(self, piece: bytes) -> None:
        if self._pieces and len(self._pieces[-1]) < LEAST_PIECE:
            self._pieces[-1] += piece
        else:
            self._pieces.append(piece)

    def _read_head(self, answers: list[Answer]) -> int:
        """Read a header; where it ends, 0 if it is not whole."""
        found = varint.decode(self._head)
        if found is None:
            return 0
        length, start = found
        if length > MAX_HEADER:
            raise LimitExceeded(f"a header of {length} bytes is announced", "chunks_header_length")
        end = start + length
        if end > len(self._head):
            return 0
        try:
            answer = _answer.decode(self._head[start:end])
        except _UNREADABLE as error:
            raise RemoteProtocolError(
                f"an answer about chunks cannot be read: {error}", "chunks_bad_message"
            ) from None
        if not self._expected:
            raise RemoteProtocolError("a chunk came that was not asked for", "chunks_not_asked")
        digest = self._expected[0]
        if answer.digest != digest:
            raise RemoteProtocolError("a chunk came out of its order", "chunks_order")
        if isinstance(answer, NotHere):
            self._expected.popleft()
            answers.append((digest, None))
        else:
            self._left = self._size = answer.size
        return end
