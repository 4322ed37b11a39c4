"""Messages behind their lengths."""

from __future__ import annotations

import sys

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from bzzz.errors import LimitExceeded, RemoteProtocolError
from bzzz.wire import varint
from bzzz.wire.framing import FrameReader, frame


class FrameTests(SynchronousTestCase):
    """Length-prefixed messages."""

    @given(st.lists(st.binary(max_size=300), max_size=6), st.integers(1, 50))
    def test_any_cut(self, messages: list[bytes], step: int) -> None:
        """The messages come out as they went in, however the stream is cut."""
        stream = b"".join(frame(message) for message in messages)
        reader = FrameReader(300)
        out: list[bytes] = []
        for start in range(0, len(stream), step):
            out += reader.receive(stream[start : start + step])
        self.assertEqual(out, messages)
        self.assertEqual(reader.buffered, 0)

    def test_byte_at_a_time(self) -> None:
        """A message that comes a byte at a time is handed out with its last byte."""
        reader = FrameReader(1000)
        stream = frame(b"x" * 500)
        for position in range(len(stream) - 1):
            self.assertEqual(reader.receive(stream[position : position + 1]), [])
        self.assertEqual(reader.receive(stream[-1:]), [b"x" * 500])

    def test_too_long(self) -> None:
        """A message over the limit is refused at its announcement, before it is buffered."""
        reader = FrameReader(10)
        error = self.assertRaises(LimitExceeded, reader.receive, varint.encode(11))
        self.assertEqual(error.code, "message_too_long")
        self.assertEqual(FrameReader(10).receive(frame(b"x" * 10)), [b"x" * 10])

    def test_length_is_refused_while_it_comes(self) -> None:
        """A length that never ends is refused at its ninth byte."""
        reader = FrameReader(1 << 20)
        for _ in range(8):
            self.assertEqual(reader.receive(b"\xff"), [])
        error = self.assertRaises(RemoteProtocolError, reader.receive, b"\xff")
        self.assertEqual(error.code, "varint_too_long")

    def test_small_pieces_cost_little(self) -> None:
        """A message that trickles in costs about its size, not a list of its pieces."""
        reader = FrameReader(1 << 20)
        reader.receive(varint.encode(200_000))
        for _ in range(50_000):
            reader.receive(b"ab")
        self.assertEqual(reader.buffered, 100_003)
        self.assertLess(sum(map(sys.getsizeof, vars(reader).values())), 2 * 100_003)

    def test_empty_messages(self) -> None:
        """A message of no bytes is a message."""
        self.assertEqual(FrameReader(0).receive(b"\0\0"), [b"", b""])

    @given(st.binary(max_size=100))
    def test_anything(self, data: bytes) -> None:
        """Bytes of any kind are messages or a RemoteProtocolError, and never more than the cap."""
        reader = FrameReader(20)
        try:
            for message in reader.receive(data):
                self.assertLessEqual(len(message), 20)
        except RemoteProtocolError:
            return
        self.assertLessEqual(reader.buffered, 20 + 9)
