"""Varints and the messages behind them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from bzzz.errors import LimitExceeded, LocalProtocolError, RemoteProtocolError
from bzzz.wire import varint
from bzzz.wire.framing import FrameReader, frame


class VarintTests(SynchronousTestCase):
    """Unsigned varints."""

    def test_examples(self) -> None:
        """The examples of multiformats/unsigned-varint."""
        for value, encoded in ((1, "01"), (127, "7f"), (128, "8001"), (255, "ff01"), (300, "ac02")):
            self.assertEqual(varint.encode(value).hex(), encoded)
            self.assertEqual(varint.decode(bytes.fromhex(encoded)), (value, len(encoded) // 2))

    @given(st.integers(0, (1 << 63) - 1), st.binary(max_size=4))
    def test_round_trip(self, value: int, after: bytes) -> None:
        """What is encoded is decoded, whatever follows; and cut short it is not whole."""
        encoded = varint.encode(value)
        self.assertEqual(varint.decode(encoded + after), (value, len(encoded)))
        self.assertIsNone(varint.decode(encoded[:-1]))

    def test_wrong(self) -> None:
        """Too long, longer than need be, and out of range are told apart from unfinished."""
        self.assertRaises(RemoteProtocolError, varint.decode, b"\x80" * 9)
        self.assertRaises(RemoteProtocolError, varint.decode, b"\x81\x00")
        self.assertRaises(RemoteProtocolError, varint.decode, b"\x80\x80\x80", 0, 2)
        self.assertRaises(LocalProtocolError, varint.encode, -1)
        self.assertRaises(LocalProtocolError, varint.encode, 1 << 63)


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
