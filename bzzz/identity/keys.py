"""Identity keys and their protobuf encoding (libp2p specs, peer-ids/peer-ids.md, "Keys").

Enters and leaves: keys in their protobuf encoding, what is signed, signatures. Ed25519 through
libsodium. Keys of other types are told by their name and refused.
"""

from __future__ import annotations

import enum
from collections.abc import Callable

from nacl import bindings
from nacl.exceptions import BadSignatureError

from bzzz.errors import IdentityError
from bzzz.identity.peer_id import PeerID

__all__ = ["KeyType", "PrivateKey", "PublicKey"]

SEED_LENGTH = 32
PUBLIC_LENGTH = 32
SIGNATURE_LENGTH = 64

# The encoding of an Ed25519 key is always field 1 (type, varint) then field 2 (data, bytes).
_PUBLIC_PREFIX = b"\x08\x01\x12\x20"
_PRIVATE_PREFIX = b"\x08\x01\x12\x40"
# Older libp2p wrote the public key twice ("Keys", "Ed25519").
_OLD_PRIVATE_PREFIX = b"\x08\x01\x12\x60"


class KeyType(enum.IntEnum):
    """The key types of libp2p."""

    RSA = 0
    ED25519 = 1
    SECP256K1 = 2
    ECDSA = 3


_NAMES = {0: "an RSA", 2: "a secp256k1", 3: "an ECDSA"}


class PublicKey:
    """An Ed25519 public key. Hashable.

    :ivar raw: its 32 bytes.
    """

    __slots__ = ("_peer_id", "raw")

    key_type = KeyType.ED25519

    def __init__(self, raw: bytes) -> None:
        if len(raw) != PUBLIC_LENGTH:
            raise IdentityError(f"an Ed25519 public key has 32 bytes, not {len(raw)}")
        self.raw = bytes(raw)
        self._peer_id: PeerID | None = None

    @classmethod
    def decode(cls, encoded: bytes) -> PublicKey:
        """A key from its protobuf encoding.

        :raises IdentityError: it is damaged, or of a type that is not supported; names the type.
        """
        if encoded.startswith(_PUBLIC_PREFIX) and len(encoded) == 36:
            return cls(encoded[4:])
        if len(encoded) >= 2 and encoded[0] == 8 and encoded[1] in _NAMES:
            raise IdentityError(
                f"the peer has {_NAMES[encoded[1]]} identity; only Ed25519 is supported"
            )
        raise IdentityError("a public key cannot be read")

    def encode(self) -> bytes:
        """The deterministic protobuf encoding."""
        return _PUBLIC_PREFIX + self.raw

    def verify(self, data: bytes, signature: bytes) -> bool:
        """Whether ``signature`` is this key's of ``data``."""
        if len(signature) != SIGNATURE_LENGTH:
            return False
        try:
            bindings.crypto_sign_open(bytes(signature) + bytes(data), self.raw)
        except BadSignatureError:
            return False
        return True

    @property
    def peer_id(self) -> PeerID:
        """The peer ID of the key."""
        if self._peer_id is None:
            self._peer_id = PeerID.from_encoded_key(self.encode())
        return self._peer_id

    def __repr__(self) -> str:
        return f"<PublicKey of {self.peer_id}>"

    def __hash__(self) -> int:
        return hash(self.raw)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PublicKey) and self.raw == other.raw


class PrivateKey:
    """An Ed25519 private key. Its representation never shows the secret.

    :ivar seed: the 32 secret bytes.
    :ivar public: the public key.
    """

    __slots__ = ("_secret", "public", "seed")

    def __init__(self, seed: bytes) -> None:
        if len(seed) != SEED_LENGTH:
            raise IdentityError(f"an Ed25519 seed has 32 bytes, not {len(seed)}")
        public, secret = bindings.crypto_sign_seed_keypair(bytes(seed))
        self.seed = bytes(seed)
        self._secret = secret
        self.public = PublicKey(public)

    @classmethod
    def from_seed(cls, seed: bytes) -> PrivateKey:
        """The key of a seed."""
        return cls(seed)

    @classmethod
    def generate(cls, random_bytes: Callable[[int], bytes]) -> PrivateKey:
        """A new key."""
        return cls(random_bytes(SEED_LENGTH))

    @classmethod
    def decode(cls, encoded: bytes) -> PrivateKey:
        """A key from its protobuf encoding, the present or the older one.

        :raises IdentityError: it is damaged or of another type.
        """
        if not (
            (encoded.startswith(_PRIVATE_PREFIX) and len(encoded) == 68)
            or (encoded.startswith(_OLD_PRIVATE_PREFIX) and len(encoded) == 100)
        ):
            raise IdentityError("it is not the encoding of an Ed25519 private key")
        key = cls(encoded[4:36])
        if encoded[36:] not in (key.public.raw, key.public.raw * 2):
            raise IdentityError("its private half does not belong to its public half")
        return key

    def encode(self) -> bytes:
        """The protobuf encoding: seed and public key."""
        return _PRIVATE_PREFIX + self.seed + self.public.raw

    @property
    def peer_id(self) -> PeerID:
        """The peer ID of the public key."""
        return self.public.peer_id

    def sign(self, data: bytes) -> bytes:
        """The 64-byte signature of ``data``."""
        return bindings.crypto_sign(bytes(data), self._secret)[:SIGNATURE_LENGTH]

    def __repr__(self) -> str:
        return f"<PrivateKey of {self.peer_id}>"
