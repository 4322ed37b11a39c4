"""The plaintext handshake: whom the peer claims to be, and what is no claim."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from bzzz.errors import LimitExceeded, LocalProtocolError, RemoteProtocolError
from bzzz.identity.keys import PrivateKey
from bzzz.identity.peer_id import PeerID
from bzzz.wire.framing import frame
from bzzz.wire.pb import plaintext_pb2
from bzzz.wire.plaintext import MAX_EXCHANGE, PlaintextChannel

OURS = PrivateKey.from_seed(b"o" * 32)
THEIRS = PrivateKey.from_seed(b"t" * 32)


def claim(peer_id: bytes, key: bytes) -> bytes:
    """An Exchange message on the wire."""
    return frame(plaintext_pb2.Exchange(id=peer_id, pubkey=key).SerializeToString())


TRUE_CLAIM = claim(THEIRS.peer_id.bytes, THEIRS.public.encode())


class PlaintextTests(SynchronousTestCase):
    def channel(self, expected: PeerID | None = None) -> PlaintextChannel:
        return PlaintextChannel(OURS, expected)

    def refused(self, data: bytes, code: str, expected: PeerID | None = None) -> None:
        with self.assertRaises(RemoteProtocolError) as caught:
            self.channel(expected).receive(data)
        self.assertEqual(caught.exception.code, code)

    def test_says_who_it_is(self) -> None:
        """Each side sends its claim first, before it has heard anything."""
        self.assertEqual(
            self.channel().take_output(), [claim(OURS.peer_id.bytes, OURS.public.encode())]
        )

    def test_learns_who_the_peer_is(self) -> None:
        """What follows the peer's claim is its data, as it is."""
        channel = self.channel(THEIRS.peer_id)
        self.assertEqual(channel.receive(TRUE_CLAIM + b"data"), [b"data"])
        self.assertTrue(channel.complete)
        self.assertEqual(channel.remote_key, THEIRS.public)
        self.assertEqual(channel.receive(b"more"), [b"more"])

    def test_bytewise(self) -> None:
        """A claim that comes a byte at a time is the same claim."""
        channel = self.channel()
        received = [channel.receive(bytes((byte,))) for byte in TRUE_CLAIM + b"d"]
        self.assertEqual(received, [[]] * len(TRUE_CLAIM) + [[b"d"]])
        self.assertEqual(channel.remote_key.peer_id, THEIRS.peer_id)

    def test_unknown_before(self) -> None:
        """Asking who the peer is before it has said so is this side's mistake."""
        with self.assertRaises(LocalProtocolError):
            _ = self.channel().remote_key

    def test_another_peer(self) -> None:
        """Somebody else than was dialled is refused."""
        self.refused(TRUE_CLAIM, "peer_id_mismatch", OURS.peer_id)

    def test_id_of_another_key(self) -> None:
        """An ID that does not belong to the key is refused."""
        self.refused(claim(OURS.peer_id.bytes, THEIRS.public.encode()), "peer_id_mismatch")

    def test_other_keys(self) -> None:
        """A key of another type is refused."""
        self.refused(claim(b"", b"\x08\x00\x12\x01x"), "identity_unsupported")

    def test_malformed(self) -> None:
        """What is no Exchange message is refused."""
        self.refused(frame(b"\xff\xff\xff"), "exchange_malformed")

    def test_too_long(self) -> None:
        """A length beyond the cap is refused before anything is held for it."""
        with self.assertRaises(LimitExceeded):
            self.channel().receive(frame(b"x" * (MAX_EXCHANGE + 1))[:2])
        with self.assertRaises(RemoteProtocolError):
            self.channel().receive(b"\xff\xff\xff\xff")

    @given(st.binary(max_size=200))
    def test_arbitrary_bytes(self, data: bytes) -> None:
        """Arbitrary bytes are not enough, or the peer's error; nothing else."""
        for message in (data, frame(data)):
            try:
                self.channel().receive(message)
            except RemoteProtocolError:
                pass
