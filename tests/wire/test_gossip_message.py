"""Signing and verifying pubsub messages (pubsub/README.md, StrictSign)."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from nacl import bindings
from twisted.trial.unittest import SynchronousTestCase

from bzzz.errors import RemoteProtocolError
from bzzz.identity.peer_id import PeerID
from bzzz.wire.gossip_message import Authors, Message, sign
from bzzz.wire.pb import rpc_pb2
from tests.wire.gossip_network import TOPIC, key_of

KEY = key_of(1)


def field(number: int, data: bytes) -> bytes:
    """One length-delimited protobuf field of less than 128 bytes."""
    return bytes((number << 3 | 2, len(data))) + data


def wire_of(message: Message) -> rpc_pb2.Message:
    """The message as a peer decodes it."""
    return rpc_pb2.RPC.FromString(message.encoded).publish[0]


class SignTests(SynchronousTestCase):
    """What this node publishes."""

    def test_bytes(self) -> None:
        """Fields go from, data, seqno, topic, signature; the first four are signed, prefixed."""
        message = sign(KEY, "t", b"data", 0x0102)
        signed = (
            field(1, KEY.peer_id.bytes)
            + field(2, b"data")
            + field(3, bytes.fromhex("0000000000000102"))
            + field(4, b"t")
        )
        signature = KEY.sign(b"libp2p-pubsub:" + signed)
        body = signed + field(5, signature)
        self.assertEqual(message.encoded, b"\x12" + bytes((len(body),)) + body)
        bindings.crypto_sign_open(signature + b"libp2p-pubsub:" + signed, KEY.public.raw)

    def test_id(self) -> None:
        """The ID is the author's peer ID and the 8 bytes of the sequence number."""
        self.assertEqual(sign(KEY, "t", b"", 1).id, KEY.peer_id.bytes + bytes(7) + b"\x01")

    def test_attributes(self) -> None:
        """A message says what it is made of."""
        message = sign(KEY, "t", b"data", 7)
        self.assertEqual(
            (message.origin, message.seqno, message.topic, message.data),
            (KEY.peer_id, 7, "t", b"data"),
        )
        self.assertIn("7 of 12D3", repr(message))


class VerifyTests(SynchronousTestCase):
    """What others published."""

    def setUp(self) -> None:
        self.authors = Authors(10)
        self.wire = wire_of(sign(KEY, TOPIC, b"data", 7))

    def assert_refused(self, code: str) -> None:
        error = self.assertRaises(RemoteProtocolError, self.authors.verify, self.wire)
        self.assertEqual(error.code, code)

    def sign_again(self, wire: rpc_pb2.Message) -> None:
        wire.ClearField("signature")
        wire.signature = KEY.sign(b"libp2p-pubsub:" + wire.SerializeToString(deterministic=True))

    def test_round_trip(self) -> None:
        """A signed message comes out as it went in, and is forwarded as the same bytes."""
        message = sign(KEY, TOPIC, b"data", 7)
        for _ in range(2):
            self.assertEqual(self.authors.verify(wire_of(message)), message)

    @given(st.binary(max_size=2000), st.text(min_size=1), st.integers(0, 2**64 - 1))
    def test_any_round_trip(self, data: bytes, topic: str, seqno: int) -> None:
        """That holds for any data, topic and sequence number."""
        message = sign(KEY, topic.encode("utf-8", "replace").decode(), data, seqno)
        self.assertEqual(Authors(1).verify(wire_of(message)), message)

    @given(st.integers(0, 5000), st.integers(0, 7))
    def test_any_flipped_bit(self, place: int, bit: int) -> None:
        """A message with any bit flipped is not verified as something else."""
        message = sign(KEY, TOPIC, b"data", 7)
        raw = bytearray(wire_of(message).SerializeToString())
        raw[place % len(raw)] ^= 1 << bit
        wire = rpc_pb2.Message()
        try:
            wire.ParseFromString(bytes(raw))
            verified = Authors(1).verify(wire)
        except Exception as error:  # noqa: BLE001 - the test is about which
            self.assertIn(type(error).__name__, ("DecodeError", "RemoteProtocolError"))
        else:
            self.assertEqual(verified, message)

    def test_changed(self) -> None:
        """Changing the data, the topic, the number or the author breaks the signature."""
        for name, value in (
            ("data", b"other"),
            ("topic", "other"),
            ("seqno", bytes(8)),
            ("from", key_of(2).peer_id.bytes),
        ):
            self.wire = wire_of(sign(KEY, TOPIC, b"data", 7))
            setattr(self.wire, name, value)
            self.assert_refused("signature_invalid")

    def test_missing(self) -> None:
        """Author, sequence number and signature must be there."""
        for name in ("from", "seqno", "signature"):
            self.wire = wire_of(sign(KEY, TOPIC, b"data", 7))
            self.wire.ClearField(name)
            self.assert_refused(f"{name}_missing")

    def test_odd_seqno(self) -> None:
        """A sequence number has 8 bytes, so that IDs cannot be ambiguous."""
        self.wire.seqno = bytes(9)
        self.sign_again(self.wire)
        self.assert_refused("seqno_invalid")

    def test_odd_author(self) -> None:
        """The author must be a peer ID."""
        for author in (b"\x00", b"somebody", bytes(1000), PeerID(KEY.peer_id.bytes).bytes + b"x"):
            setattr(self.wire, "from", author)
            self.assert_refused("from_invalid")

    def test_own_key_in_message(self) -> None:
        """The author's own key may be in the message; it is not signed."""
        self.wire.key = KEY.public.encode()
        message = self.authors.verify(self.wire)
        self.assertEqual(message.data, b"data")
        self.assertEqual(wire_of(message).key, KEY.public.encode())

    def test_other_key_in_message(self) -> None:
        """Somebody else's key is refused, also when the author is known."""
        for _ in range(2):
            self.wire = wire_of(sign(KEY, TOPIC, b"data", 7))
            self.wire.key = key_of(2).public.encode()
            self.assert_refused("key_mismatch")
            self.authors.verify(wire_of(sign(KEY, TOPIC, b"data", 7)))

    def test_other_key_types(self) -> None:
        """A key of a type that is not supported says so: whoever forwards it is not to blame."""
        secp256k1 = b"\x08\x02\x12\x21" + b"\x02" + bytes(32)
        setattr(self.wire, "from", b"\x00" + bytes((len(secp256k1),)) + secp256k1)
        self.assert_refused("key_unsupported")
        hashed = b"\x12\x20" + bytes(32)
        setattr(self.wire, "from", hashed)
        self.assert_refused("key_missing")
        self.wire.key = b"\x08\x00\x12\x03abc"
        self.assert_refused("key_unsupported")

    def test_hashed_author(self) -> None:
        """A hashed peer ID is verified against the key in the message, not just any key."""
        setattr(self.wire, "from", b"\x12\x20" + bytes(32))
        self.wire.key = KEY.public.encode()
        self.assert_refused("key_mismatch")

    def test_unknown_fields(self) -> None:
        """Fields unknown here are covered by the signature and forwarded."""
        signed = (
            field(1, KEY.peer_id.bytes)
            + field(2, b"data")
            + field(3, bytes(8))
            + field(4, b"t")
            + field(9, b"new")
        )
        signature = KEY.sign(b"libp2p-pubsub:" + signed)
        self.wire = rpc_pb2.Message.FromString(signed + field(5, signature))
        message = self.authors.verify(self.wire)
        self.assertIn(field(9, b"new"), message.encoded)
        self.assertEqual(Authors(1).verify(wire_of(message)), message)

    def test_long_signature(self) -> None:
        """A signature longer than any key type's is not looked at."""
        self.wire.signature = bytes(2000)
        self.assert_refused("signature_invalid")

    def test_authors_are_bounded(self) -> None:
        """However many authors there are, a limited number is remembered."""
        authors = Authors(3)
        for number in range(10):
            authors.verify(wire_of(sign(key_of(number), TOPIC, b"data", 7)))
        self.assertEqual(len(authors._known), 3)
        self.assertEqual(authors.verify(wire_of(sign(KEY, TOPIC, b"x", 8))).data, b"x")

    def test_forgers_take_no_place(self) -> None:
        """An author is remembered only after a valid signature."""
        self.wire.signature = bytes(64)
        self.assert_refused("signature_invalid")
        self.assertEqual(len(self.authors._known), 0)
