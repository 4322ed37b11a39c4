"""The messages about chunks, however they are cut, and what is refused."""

from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from bzzz.errors import LimitExceeded, RemoteProtocolError
from bzzz.tasks.files.chunk_messages import (
    LEAST_PIECE,
    MAX_ASKED,
    MAX_GET,
    AnswerReader,
    Requests,
    get,
    header,
    missing,
)
from bzzz.tasks.files.manifest import CHUNK, Chunk, digest_of
from bzzz.wire.framing import frame

DIGESTS = [digest_of(bytes([number])) for number in range(MAX_GET)]


def joined(answers: list[tuple[bytes, list[bytes] | None]]) -> list[tuple[bytes, bytes | None]]:
    return [(digest, None if pieces is None else b"".join(pieces)) for digest, pieces in answers]


class RequestsTests(SynchronousTestCase):
    """What is asked."""

    def test_byte_at_a_time(self) -> None:
        """Requests are read however they are cut."""
        requests = Requests()
        for byte in get(DIGESTS) + get(DIGESTS[:1]):
            requests.receive(bytes([byte]))
        self.assertEqual(list(requests.waiting), [*DIGESTS, DIGESTS[0]])

    def test_too_many(self) -> None:
        """Who asks on and on without waiting is refused."""
        requests = Requests()
        for _ in range(MAX_ASKED // MAX_GET):
            requests.receive(get(DIGESTS))
        with self.assertRaises(LimitExceeded) as raised:
            requests.receive(get(DIGESTS[:1]))
        self.assertEqual(raised.exception.code, "chunks_too_many")

    def test_wrong(self) -> None:
        """What is no request is refused."""
        for message in (
            b"",
            b"\xc1",
            msgspec.msgpack.encode(["get", []]),
            msgspec.msgpack.encode(["get", [b"short"]]),
            msgspec.msgpack.encode(["get", DIGESTS + DIGESTS[:1]]),
            msgspec.msgpack.encode(["get", DIGESTS[:1], "more"]),
            msgspec.msgpack.encode(["put", DIGESTS[:1]]),
            b"\x91" * 4000,
        ):
            with self.assertRaises(RemoteProtocolError):
                Requests().receive(frame(message))

    @given(st.binary(max_size=100))
    def test_any_bytes(self, data: bytes) -> None:
        """Any bytes are read, waited for or refused."""
        try:
            Requests().receive(data)
        except RemoteProtocolError:
            pass


class AnswersTests(SynchronousTestCase):
    """What is answered."""

    def setUp(self) -> None:
        self.chunks = [b"a", b"b" * 10_000, b"c" * 70]
        self.reader = AnswerReader()
        self.stream = b""
        self.expected: list[tuple[bytes, bytes | None]] = []
        for chunk in self.chunks:
            digest = digest_of(chunk)
            self.stream += header(Chunk(digest, len(chunk))) + chunk + missing(DIGESTS[0])
            self.expected += [(digest, chunk), (DIGESTS[0], None)]
        for digest, _ in self.expected:
            self.reader.expect(digest)

    def test_byte_at_a_time(self) -> None:
        """Answers are read however they are cut, and single bytes are not kept as such."""
        answers = []
        for byte in self.stream:
            for digest, pieces in self.reader.receive(bytes([byte])):
                self.assertLessEqual(len(pieces or ()), 1 + 10_000 // LEAST_PIECE)
                answers += joined([(digest, pieces)])
        self.assertEqual(answers, self.expected)
        self.assertEqual(self.reader.expected, 0)

    def test_any_cut(self) -> None:
        """The same in two parts, wherever the cut is near a header."""
        for cut in [*range(100), *range(10_000, len(self.stream))]:
            self.setUp()
            answers = self.reader.receive(self.stream[:cut])
            answers += self.reader.receive(self.stream[cut:])
            self.assertEqual(joined(answers), self.expected)

    def refused(self, data: bytes, code: str) -> None:
        reader = AnswerReader()
        reader.expect(DIGESTS[0])
        with self.assertRaises(RemoteProtocolError) as raised:
            reader.receive(data)
        self.assertEqual(raised.exception.code, code)

    def test_wrong(self) -> None:
        """Out of order, not asked for, too large, empty, unreadable, too long."""
        self.refused(header(Chunk(DIGESTS[1], 5)), "chunks_order")
        self.refused(missing(DIGESTS[1]), "chunks_order")
        self.refused(missing(DIGESTS[0]) + missing(DIGESTS[0]), "chunks_not_asked")
        for size in (0, -1, CHUNK + 1):
            self.refused(header(Chunk(DIGESTS[0], size)), "chunks_bad_message")
        self.refused(frame(b"\xc1"), "chunks_bad_message")
        self.refused(frame(bytes(65)), "chunks_header_length")

    @given(st.binary(max_size=100))
    def test_any_bytes(self, data: bytes) -> None:
        """Any bytes are read, waited for or refused."""
        reader = AnswerReader()
        reader.expect(DIGESTS[0])
        try:
            reader.receive(data)
        except RemoteProtocolError:
            pass
