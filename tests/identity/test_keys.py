"""Keys and peer IDs against the examples of libp2p specs, peer-ids/peer-ids.md."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from bzzz.errors import IdentityError
from bzzz.identity import base58
from bzzz.identity.keys import KeyType, PrivateKey, PublicKey
from bzzz.identity.peer_id import PeerID

# "Test vectors" of the specification.
ED25519_PRIVATE = bytes.fromhex(
    "080112407e0830617c4a7de83925dfb2694556b12936c477a0e1feb2e148ec9da60fee7d"
    "1ed1e8fae2c4a144b8be8fd4b47bf3d3b34b871c3cacf6010f0e42d474fce27e"
)
ED25519_PUBLIC = bytes.fromhex(
    "080112201ed1e8fae2c4a144b8be8fd4b47bf3d3b34b871c3cacf6010f0e42d474fce27e"
)
SECP256K1_PUBLIC = bytes.fromhex(
    "08021221037777e994e452c21604f91de093ce415f5432f701dd8cd1a7a6fea0e630bfca99"
)
ECDSA_PUBLIC = bytes.fromhex(
    "0803125b3059301306072a8648ce3d020106082a8648ce3d03010703420004de3d300fa36ae0e8f5d530899d83abab"
    "44abf3161f162a4bc901d8e6ecda020e8b6d5f8da30525e71d6851510c098e5c47c646a597fb4dcec034e9f77c409e"
    "62"
)


class KeyTests(SynchronousTestCase):
    """Ed25519 keys and their encoding."""

    def test_vector(self) -> None:
        """The specification's private key has the specification's public key, encoded alike."""
        key = PrivateKey.decode(ED25519_PRIVATE)
        self.assertEqual(key.public.encode(), ED25519_PUBLIC)
        self.assertEqual(key.encode(), ED25519_PRIVATE)
        self.assertEqual(PublicKey.decode(ED25519_PUBLIC), key.public)
        self.assertEqual(key.public.key_type, KeyType.ED25519)

    def test_older_encoding(self) -> None:
        """A private key that names its public key twice is read; and written anew."""
        public = ED25519_PUBLIC[4:]
        older = b"\x08\x01\x12\x60" + ED25519_PRIVATE[4:] + public
        self.assertEqual(PrivateKey.decode(older).encode(), ED25519_PRIVATE)
        self.assertRaises(IdentityError, PrivateKey.decode, older[:-1] + b"\0")
        # The lengths of one with the prefix of the other.
        self.assertRaises(IdentityError, PrivateKey.decode, older[:-32])
        self.assertRaises(IdentityError, PrivateKey.decode, ED25519_PRIVATE + public)

    def test_rfc_8032(self) -> None:
        """The first test of RFC 8032, section 7.1: key, and signature of nothing."""
        key = PrivateKey.from_seed(
            bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
        )
        signature = bytes.fromhex(
            "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e"
            "39701cf9b46bd25bf5f0595bbe24655141438e7a100b"
        )
        self.assertEqual(
            key.public.raw.hex(), "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
        )
        self.assertEqual(key.sign(b""), signature)
        self.assertTrue(key.public.verify(b"", signature))

    def test_generated(self) -> None:
        """A new key is what the randomness given made it."""
        asked: list[int] = []

        def random_bytes(size: int) -> bytes:
            asked.append(size)
            return b"r" * size

        key = PrivateKey.generate(random_bytes)
        self.assertEqual((asked, key.seed), ([32], b"r" * 32))
        self.assertEqual(PeerID.from_public_key(key.public), key.peer_id)

    def test_lengths(self) -> None:
        """Seeds and keys of the wrong length are refused."""
        for length in (0, 31, 33):
            self.assertRaises(IdentityError, PrivateKey, b"s" * length)
            self.assertRaises(IdentityError, PublicKey, b"p" * length)

    def test_forged_for_a_weak_key(self) -> None:
        """A public key of low order, for which anybody can make signatures, signs nothing."""
        weak = PublicKey(b"\1" + b"\0" * 31)
        self.assertFalse(weak.verify(b"anything", b"\1" + b"\0" * 63))

    def test_signature(self) -> None:
        """A signature is good for what was signed, by whom it was, and for nothing else."""
        key, other = PrivateKey(b"a" * 32), PrivateKey(b"b" * 32)
        signature = key.sign(b"said")
        self.assertTrue(key.public.verify(b"said", signature))
        self.assertFalse(key.public.verify(b"sbid", signature))
        self.assertFalse(other.public.verify(b"said", signature))
        self.assertFalse(key.public.verify(b"said", signature[:-1]))
        self.assertFalse(key.public.verify(b"said", b""))

    def test_other_types_are_named(self) -> None:
        """A key of another type is refused by the type's name."""
        for encoded, name in (
            (SECP256K1_PUBLIC, "secp256k1"),
            (ECDSA_PUBLIC, "ECDSA"),
            (b"\x08\x00\x12\x00", "RSA"),
        ):
            error = self.assertRaises(IdentityError, PublicKey.decode, encoded)
            self.assertIn(name, str(error))

    def test_damaged(self) -> None:
        """A damaged key of either kind is an IdentityError, whatever the damage."""
        mixed = ED25519_PRIVATE[:-32] + b"x" * 32
        for damaged in (b"", b"\x08", ED25519_PRIVATE[:-1], ED25519_PRIVATE + b"x", mixed):
            self.assertRaises(IdentityError, PrivateKey.decode, damaged)
        for damaged in (b"", b"\x08", ED25519_PUBLIC[:-1], ED25519_PUBLIC + b"x", b"\xff" * 36):
            self.assertRaises(IdentityError, PublicKey.decode, damaged)

    def test_secret_is_not_shown(self) -> None:
        """No representation of a private key shows its secret."""
        key = PrivateKey(b"secretsecretsecretsecretsecretse")
        for text in (repr(key), str(key), f"{key}"):
            self.assertNotIn("secret", text)
            self.assertNotIn(key.seed.hex(), text)
            self.assertIn(str(key.peer_id), text)

    def test_equal_keys(self) -> None:
        """Equal public keys are one key of a dict, and nothing but a key is equal to one."""
        one, again = PublicKey(b"k" * 32), PublicKey(b"k" * 32)
        self.assertEqual({one: 1}[again], 1)
        self.assertNotEqual(one, PublicKey(b"l" * 32))
        self.assertNotEqual(one, b"k" * 32)
        self.assertIn(str(one.peer_id), repr(one))

    @given(st.binary(max_size=80))
    def test_decode_anything(self, data: bytes) -> None:
        """Bytes of any kind are a key or an IdentityError."""
        try:
            self.assertEqual(PublicKey.decode(data).encode(), data)
        except IdentityError:
            pass


class PeerIDTests(SynchronousTestCase):
    """Peer IDs, in binary and both forms of text."""

    def test_examples_of_the_specification(self) -> None:
        """The specification's examples parse, and the base58 ones print as they are written."""
        for text in (
            "QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N",
            "12D3KooWD3eckifWpRn9wQpMG9R9hX3sD158z7EqHWmweQAJU5SA",
        ):
            self.assertEqual(str(PeerID.parse(text)), text)
        cid = PeerID.parse("bafzbeie5745rpv2m6tjyuugywy4d5ewrqgqqhfnf445he3omzpjbx5xqxe")
        self.assertEqual(str(cid), "QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N")

    def test_ed25519_key_inside(self) -> None:
        """A peer ID of the running cluster decodes to an Ed25519 key and encodes back."""
        text = "12D3KooWEeVXdHkXtUp2ewzdqD56gDJCCuMGNAqoJrJ7CKaXHoUh"
        key = PeerID.parse(text).public_key
        assert key is not None
        self.assertEqual(key.key_type, KeyType.ED25519)
        self.assertEqual(str(key.peer_id), text)
        self.assertEqual(key.peer_id.short, "aXHoUh")

    def test_large_keys_are_hashed(self) -> None:
        """A key of more than 42 bytes has the ID of its SHA-256, which does not hold the key."""
        peer = PeerID.from_encoded_key(ECDSA_PUBLIC)
        self.assertTrue(str(peer).startswith("Qm"))
        self.assertIsNone(peer.public_key)

    def test_small_keys_of_other_types(self) -> None:
        """The ID of a secp256k1 key holds the key, which is refused by name when asked for."""
        peer = PeerID.from_encoded_key(SECP256K1_PUBLIC)
        self.assertTrue(str(peer).startswith("16Uiu2"))
        self.assertRaises(IdentityError, lambda: peer.public_key)

    def test_wrong_text(self) -> None:
        """Text that is no peer ID is refused; the error has the text, cut, and why."""
        identity = base58.encode(b"\0\x2b" + b"k" * 43)
        unknown = base58.encode(b"\x11\x14" + b"h" * 20)
        for text, why in (
            ("", "neither"),
            ("x", "neither"),
            (unknown, "neither"),
            ("1", "whole multihash"),
            ("12D3KooW0", "'0'"),
            ("Qm", "whole multihash"),
            (identity, "42 bytes"),
            ("11", "more than 42 bytes, or none"),
            ("bafz", "not"),
            ("b@", "not base32"),
            ("bafybeigdyrzt5sfp7udm7hu76uh7y26nf3efuylqabf3oclgtqy55fbzdi", "libp2p key"),
            ("12D3KooW" * 20, "at most 128 characters"),
            ("1" * 40, "whole multihash"),
        ):
            error = self.assertRaises(IdentityError, PeerID.parse, text)
            self.assertIn(why, str(error))

    def test_wrong_bytes(self) -> None:
        """Only the whole multihash of a key is a peer ID: SHA-256, or the key itself if small."""
        for data, why in (
            (b"", "whole multihash"),
            (b"\x12", "whole multihash"),
            (b"\x12\x20" + b"h" * 31, "whole multihash"),
            (b"\x12\x20" + b"h" * 33, "whole multihash"),
            (b"\x12\x1f" + b"h" * 31, "SHA-256"),
            (b"\x11\x14" + b"h" * 20, "0x11"),
            (b"\0\0", "or none"),
            (b"\0\x2b" + b"k" * 43, "42 bytes"),
        ):
            self.assertIn(why, str(self.assertRaises(IdentityError, PeerID, data)))

    def test_order_and_hash(self) -> None:
        """Peer IDs are ordered by their bytes, and equal ones are one key of a dict."""
        one, two = PrivateKey(b"1" * 32).peer_id, PrivateKey(b"2" * 32).peer_id
        self.assertEqual(one < two, one.bytes < two.bytes)
        self.assertEqual({one: 1}[PeerID(one.bytes)], 1)
        self.assertNotEqual(one, two)
        self.assertNotEqual(one, one.bytes)

    @given(st.binary(max_size=60))
    def test_decode_anything(self, data: bytes) -> None:
        """Bytes of any kind are a peer ID that prints and parses back, or an IdentityError."""
        try:
            peer = PeerID(data)
        except IdentityError:
            return
        self.assertEqual(base58.decode(str(peer)), data)

    @given(st.binary(max_size=60))
    def test_base58(self, data: bytes) -> None:
        """base58 gives back what it was given, leading zeros included."""
        self.assertEqual(base58.decode(base58.encode(data)), data)

    @given(st.text(max_size=60))
    def test_parse_anything(self, text: str) -> None:
        """Text of any kind is a peer ID or an IdentityError."""
        try:
            PeerID.parse(text)
        except IdentityError:
            pass
