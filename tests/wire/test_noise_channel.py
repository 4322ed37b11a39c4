"""Noise on a byte stream, however the stream is cut."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from bzzz.errors import RemoteProtocolError
from bzzz.identity.keys import PrivateKey
from bzzz.wire.noise import TAG, NoiseXX
from bzzz.wire.noise_channel import MAX_PIECES, MAX_PLAINTEXT, Buffer, NoiseChannel

DIALLER, LISTENER = PrivateKey(b"d" * 32), PrivateKey(b"l" * 32)
SAID = (b"a", b"", b"hello" * 100, b"b" * MAX_PLAINTEXT, b"c" * (MAX_PLAINTEXT + 1))

Cut = Callable[[bytes], Iterator[bytes]]


def whole(data: bytes) -> Iterator[bytes]:
    yield data


def bytewise(data: bytes) -> Iterator[bytes]:
    for position in range(len(data)):
        yield data[position : position + 1]


def in_pieces(sizes: Sequence[int]) -> Cut:
    """Pieces of these sizes, over and over."""

    def cut(data: bytes) -> Iterator[bytes]:
        position, turn = 0, 0
        while position < len(data):
            size = sizes[turn % len(sizes)]
            yield data[position : position + size]
            position += size
            turn += 1

    return cut


def pair(cut: Cut = whole) -> tuple[NoiseChannel, NoiseChannel]:
    """Both ends after the handshake, whose bytes came cut."""
    dialler, listener = (
        NoiseChannel(
            NoiseXX(key is DIALLER, key, None, ("/yamux/1.0.0",), lambda size: b"\x07" * size)
        )
        for key in (DIALLER, LISTENER)
    )
    while not (dialler.complete and listener.complete):
        for source, target in ((dialler, listener), (listener, dialler)):
            for piece in cut(b"".join(source.take_output())):
                target.receive(piece)
    return dialler, listener


def sealed(channel: NoiseChannel, *pieces: bytes) -> bytes:
    output: list[Buffer] = []
    channel.seal(pieces, output)
    return b"".join(output)


def heard(channel: NoiseChannel, data: bytes, cut: Cut = whole) -> bytes:
    return b"".join(plaintext for piece in cut(data) for plaintext in channel.receive(piece))


class ChannelTests(SynchronousTestCase):
    """What one end says is what the other hears."""

    def check(self, cut: Cut) -> None:
        dialler, listener = pair(cut)
        self.assertEqual(dialler.remote_key, LISTENER.public)
        self.assertEqual(listener.remote_key, DIALLER.public)
        self.assertEqual(dialler.handshake_hash, listener.handshake_hash)
        for source, target in ((dialler, listener), (listener, dialler)):
            self.assertEqual(heard(target, sealed(source, *SAID), cut), b"".join(SAID))

    def test_bytewise(self) -> None:
        """A byte at a time."""
        self.check(bytewise)

    @given(st.lists(st.integers(1, 70_000), min_size=1, max_size=5))
    def test_any_cutting(self, sizes: list[int]) -> None:
        """In pieces of any size."""
        self.check(in_pieces(sizes))

    def test_trickle(self) -> None:
        """A message that comes in many small pieces is not held as many small pieces."""
        dialler, listener = pair()
        for byte in bytewise(sealed(dialler, b"x" * 10_000)[:-1]):
            self.assertEqual(listener.receive(byte), [])
            self.assertLessEqual(len(listener._pieces), MAX_PIECES)

    def test_burst(self) -> None:
        """Small pieces that are written together are one message; what is too long is more."""
        dialler, _ = pair()
        self.assertEqual(len(sealed(dialler, *[b"x"] * 100)), 2 + 100 + TAG)
        self.assertEqual(
            len(sealed(dialler, b"x" * (MAX_PLAINTEXT + 1))), MAX_PLAINTEXT + 1 + 2 * (2 + TAG)
        )

    def test_too_short(self) -> None:
        """A message that cannot hold its authenticator is refused."""
        for length in range(TAG):
            _, listener = pair()
            with self.assertRaises(RemoteProtocolError):
                listener.receive(length.to_bytes(2, "big") + bytes(length))

    @given(st.integers(0, 200), st.integers(0, 7))
    def test_any_flipped_bit(self, place: int, bit: int) -> None:
        """No change of what travels is taken for what was said."""
        dialler, listener = pair()
        data = bytearray(sealed(dialler, b"x" * 185))
        data[place] ^= 1 << bit
        try:
            self.assertEqual(listener.receive(bytes(data)), [])
        except RemoteProtocolError:
            pass

    @given(st.booleans(), st.binary(max_size=300), st.integers(1, 20))
    def test_arbitrary_bytes(self, ready: bool, data: bytes, step: int) -> None:
        """Any bytes, before or after the handshake, are waited for or refused."""
        _, after = pair()
        before = NoiseChannel(NoiseXX(False, LISTENER, None, (), lambda size: b"\x07" * size))
        try:
            heard(after if ready else before, data, in_pieces([step]))
        except RemoteProtocolError:
            pass
