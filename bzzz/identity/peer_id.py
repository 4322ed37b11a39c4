"""Peer IDs: the multihash of a public key (libp2p specs, peer-ids/peer-ids.md, "Peer Ids")."""

from __future__ import annotations

import base64
import hashlib
from functools import lru_cache, total_ordering
from typing import TYPE_CHECKING

from bzzz.errors import IdentityError
from bzzz.identity import base58

if TYPE_CHECKING:
    from bzzz.identity.keys import PublicKey

__all__ = ["PeerID"]

# Multihash codes (multiformats/multihash): the key itself where its encoding has at most 42 bytes,
# else its SHA-256.
IDENTITY = 0x00
SHA256 = 0x12
MAX_INLINE = 42

# The bytes before the CID's multihash: CIDv1, codec libp2p-key.
CID_PREFIX = b"\x01\x72"

# Characters of a peer ID's text: an inline key is the longest, at 60; a CIDv1 has a few more.
MAX_TEXT = 128


@total_ordering
class PeerID:
    """A peer's name on the wire. Hashable, ordered by its bytes.

    :ivar bytes: the multihash.
    :raises IdentityError: the bytes are not the multihash of a key.
    """

    __slots__ = ("_hash", "_text", "bytes")

    def __init__(self, multihash: bytes) -> None:
        if len(multihash) < 2 or multihash[1] != len(multihash) - 2:
            raise IdentityError("a peer ID is not a whole multihash")
        if multihash[0] == SHA256:
            if multihash[1] != 32:
                raise IdentityError("a peer ID has a SHA-256 multihash that is not 32 bytes long")
        elif multihash[0] != IDENTITY:
            raise IdentityError(f"a peer ID has the unknown multihash code {multihash[0]:#x}")
        elif not 0 < multihash[1] <= MAX_INLINE:
            raise IdentityError("a peer ID holds a key of more than 42 bytes, or none")
        self.bytes = bytes(multihash)
        self._hash = hash(self.bytes)
        self._text: str | None = None

    @classmethod
    def from_public_key(cls, key: PublicKey) -> PeerID:
        """The peer ID of ``key``."""
        return cls.from_encoded_key(key.encode())

    @classmethod
    def from_encoded_key(cls, encoded: bytes) -> PeerID:
        """The peer ID of a key in its protobuf encoding."""
        if len(encoded) <= MAX_INLINE:
            return cls(bytes((IDENTITY, len(encoded))) + encoded)
        return cls(bytes((SHA256, 32)) + hashlib.sha256(encoded).digest())

    @classmethod
    @lru_cache(maxsize=1024)  # a forming mesh tells each node of each peer once per other peer
    def parse(cls, text: str) -> PeerID:
        """A peer ID from its base58btc text, or from a CIDv1 in base32 (``bafz...``).

        :raises IdentityError: it is neither; says why.
        """
        if len(text) > MAX_TEXT:
            raise IdentityError(f"a peer ID has at most {MAX_TEXT} characters, not {len(text)}")
        if text.startswith(("1", "Qm")):
            try:
                return cls(base58.decode(text))
            except IdentityError as error:
                raise IdentityError(f"{text!r} is not a peer ID: {error}") from error
        if text.startswith("b"):
            padded = text[1:].upper() + "=" * (-(len(text) - 1) % 8)
            try:
                cid = base64.b32decode(padded)
            except ValueError as error:
                raise IdentityError(f"{text!r} is not a peer ID: not base32") from error
            if not cid.startswith(CID_PREFIX):
                raise IdentityError(f"{text!r} is not a peer ID: not a CIDv1 of a libp2p key")
            return cls(cid[len(CID_PREFIX) :])
        raise IdentityError(f"{text!r} is not a peer ID: it starts with neither 1, Qm nor b")

    @property
    def short(self) -> str:
        """The last 6 characters, for logs."""
        return str(self)[-6:]

    @property
    def public_key(self) -> PublicKey | None:
        """The key that the ID holds, or None where it is only a hash.

        :raises IdentityError: it holds something else, or a key of a type not supported here.
        """
        from bzzz.identity.keys import PublicKey

        if self.bytes[0] != IDENTITY:
            return None
        return PublicKey.decode(self.bytes[2:])

    def __str__(self) -> str:
        if self._text is None:
            self._text = base58.encode(self.bytes)
        return self._text

    def __repr__(self) -> str:
        return f"<PeerID {self}>"

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        if isinstance(other, PeerID):
            return self.bytes == other.bytes
        return NotImplemented

    def __lt__(self, other: object) -> bool:
        if isinstance(other, PeerID):
            return self.bytes < other.bytes
        return NotImplemented
