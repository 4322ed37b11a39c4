"""Unsigned varints."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from bzzz.errors import LocalProtocolError, RemoteProtocolError
from bzzz.wire import varint


class VarintTests(SynchronousTestCase):
    """Numbers and their bytes."""

    def test_examples(self) -> None:
        """The examples of multiformats/unsigned-varint."""
        for value, encoded in (
            (0, "00"),
            (1, "01"),
            (127, "7f"),
            (128, "8001"),
            (255, "ff01"),
            (300, "ac02"),
            (16384, "808001"),
            ((1 << 63) - 1, "ffffffffffffffff7f"),
        ):
            self.assertEqual(varint.encode(value).hex(), encoded)
            self.assertEqual(varint.decode(bytes.fromhex(encoded)), (value, len(encoded) // 2))

    @given(st.integers(0, (1 << 63) - 1), st.binary(max_size=4), st.binary(max_size=4))
    def test_round_trip(self, value: int, before: bytes, after: bytes) -> None:
        """What is encoded is decoded wherever it stands; and cut short it is not whole."""
        encoded = varint.encode(value)
        start = len(before)
        for kind in (bytes, bytearray, memoryview):
            self.assertEqual(
                varint.decode(kind(before + encoded + after), start), (value, start + len(encoded))
            )
        for size in range(len(encoded)):
            self.assertIsNone(varint.decode(encoded[:size]))

    def test_wrong(self) -> None:
        """What is too long, or longer than need be, is told apart from what is unfinished."""
        for data, limit, code in (
            (b"\x80" * 9, 9, "varint_too_long"),
            (b"\xff" * 8 + b"\x80\x01", 9, "varint_too_long"),
            (b"\x80\x80\x80", 2, "varint_too_long"),
            (b"\x80\x80\x01", 2, "varint_too_long"),
            (b"\x81\x00", 9, "varint_not_minimal"),
            (b"\x80\x80\x00", 9, "varint_not_minimal"),
        ):
            error = self.assertRaises(RemoteProtocolError, varint.decode, data, 0, limit)
            self.assertEqual(error.code, code)

    def test_out_of_range(self) -> None:
        """A number that has no varint is this side's own error."""
        for value in (-1, 1 << 63):
            self.assertRaises(LocalProtocolError, varint.encode, value)

    @given(st.binary(max_size=12), st.integers(0, 12))
    def test_anything(self, data: bytes, offset: int) -> None:
        """Bytes of any kind are a number in its shortest form, unfinished, or the peer's error."""
        try:
            decoded = varint.decode(data, offset)
        except RemoteProtocolError:
            return
        if decoded is not None:
            value, end = decoded
            self.assertEqual(varint.encode(value), data[offset:end])
