"""The keys of a pairing: SPAKE2, HKDF and the confirmations (``docs/trust.rst``, "Pairing").

Enters: the code, who the two sides are, their link's handshake hash, and the peer's SPAKE2 message.
Leaves: this side's message, and the confirmations of both.

- SPAKE2 is the ``spake2`` package's, with the joiner as its side A, over libsodium's group
  (:mod:`bzzz.trust.spake2_group`). The package is older than RFC 9382: its M, its N and its
  transcript are not those of the RFC. The identities are ``bzzz-pair-v1:joiner:`` and
  ``bzzz-pair-v1:inviter:``, each followed by the peer IDs of joiner and inviter with ``:`` between.
- HKDF-SHA256 (RFC 5869) of its key, with the link's handshake hash as salt, gives a key for each
  confirmation; ``info`` is ``bzzz-pair-v1:confirm:`` and ``joiner`` or ``inviter``.
- The joiner's confirmation is HMAC-SHA256 of messages 1 and 2, each behind its length as on the
  stream; the inviter's is that of the same, and of the value of ``statements`` as it is in
  message 4, behind its length.

Every multiplication of an element is libsodium's. What the package does with scalars is not in
constant time, as it is Python: it makes them of hashed passwords and random numbers, and negates
them. Those are a few operations on numbers of 32 to 64 bytes, each of less than a microsecond; a
code is good for minutes, and for :data:`bzzz.trust.invitations.RUNS_PER_MINUTE` runs in each.
"""

from __future__ import annotations

import enum
import hmac
from collections.abc import Callable
from typing import Any

from nacl.exceptions import CryptoError

from bzzz.errors import LocalProtocolError, RemoteProtocolError
from bzzz.identity.peer_id import PeerID
from bzzz.trust import codes, spake2_group
from bzzz.wire import varint
from bzzz.wire.framing import frame

__all__ = [
    "CONFIRM_LENGTH",
    "SPAKE_LENGTH",
    "Confirmations",
    "Exchange",
    "Side",
    "check_message",
    "hkdf",
    "prepare",
]

LABEL = "bzzz-pair-v1:"

# A byte that says the side, and an element.
SPAKE_LENGTH = 1 + spake2_group.ELEMENT_LENGTH
CONFIRM_LENGTH = 32
HASH_LENGTH = 32


class Side(enum.Enum):
    """The sides of a pairing; their values are how SPAKE2 messages of each begin."""

    JOINER = b"A"
    INVITER = b"B"

    @property
    def other(self) -> Side:
        """The peer's."""
        return Side.INVITER if self is Side.JOINER else Side.JOINER


def prepare() -> None:
    """Load what the first pairing of a process needs, in 35 to 100 ms: call it in a thread."""
    spake2_group.parameters()
    codes.word_list()


def check_message(message: bytes, sender: Side, peer: PeerID) -> None:
    """See that a SPAKE2 message is one that ``sender`` may send.

    :raises RemoteProtocolError: it is none.
    """
    if (
        len(message) != SPAKE_LENGTH
        or message[:1] != sender.value
        or not spake2_group.is_element(message[1:])
    ):
        raise RemoteProtocolError(f"{peer} sent a wrong SPAKE2 message", "pair_bad_element")


class Exchange:
    """One side of SPAKE2, once.

    :param handshake_hash: of the link; empty only where ``unbound`` says that it may be.
    :raises LocalProtocolError: the link has no handshake hash.
    :ivar message: what this side sends.
    """

    def __init__(
        self,
        side: Side,
        password: bytes,
        joiner: PeerID,
        inviter: PeerID,
        handshake_hash: bytes,
        random_bytes: Callable[[int], bytes],
        unbound: bool = False,
    ) -> None:
        from spake2 import (  # type: ignore[import-untyped]  # it has no types
            SPAKE2_A,
            SPAKE2_B,
        )

        if len(handshake_hash) < HASH_LENGTH and not unbound:
            raise LocalProtocolError("a link without a handshake hash is not for pairing")
        self._peer = inviter if side is Side.JOINER else joiner
        self._side = side
        self._salt = handshake_hash
        spake2_side = SPAKE2_A if side is Side.JOINER else SPAKE2_B
        self._spake: Any = spake2_side(
            password,
            idA=f"{LABEL}joiner:{joiner}:{inviter}".encode(),
            idB=f"{LABEL}inviter:{joiner}:{inviter}".encode(),
            params=spake2_group.parameters(),
            entropy_f=random_bytes,
        )
        self.message: bytes = self._spake.start()

    def finish(self, message: bytes) -> Confirmations:
        """Take the peer's message. Whether the peer has the same password is not known yet.

        :raises RemoteProtocolError: it is none, or this side's own.
        """
        from spake2 import SPAKEError

        check_message(message, self._side.other, self._peer)
        try:
            key = self._spake.finish(message)
        except (SPAKEError, CryptoError, ValueError) as error:
            raise RemoteProtocolError(
                f"{self._peer} sent a SPAKE2 message of this side", "pair_bad_element"
            ) from error
        return Confirmations(key, self._salt)


class Confirmations:
    """The confirmations of both sides, from one key. Has no representation.

    :param salt: the link's handshake hash.
    """

    __slots__ = ("_inviter", "_joiner")

    def __init__(self, key: bytes, salt: bytes) -> None:
        self._joiner = hkdf(key, salt, f"{LABEL}confirm:joiner".encode())
        self._inviter = hkdf(key, salt, f"{LABEL}confirm:inviter".encode())

    def of_joiner(self, first: bytes, second: bytes) -> bytes:
        """That of message 3.

        :param first: message 1 as it was sent, and ``second`` message 2.
        """
        return hmac.digest(self._joiner, frame(first) + frame(second), "sha256")

    def of_inviter(self, first: bytes, second: bytes, statements: bytes) -> bytes:
        """That of message 4."""
        # Piece by piece: the statements may be megabytes, which are not to be copied.
        said = hmac.new(self._inviter, frame(first) + frame(second), "sha256")
        said.update(varint.encode(len(statements)))
        said.update(statements)
        return said.digest()


def hkdf(key: bytes, salt: bytes, info: bytes, length: int = 32) -> bytes:
    """HKDF-SHA256 (RFC 5869).

    :param key: the input keying material.
    :param length: bytes wanted, at most 8160.
    """
    secret = hmac.digest(salt or bytes(HASH_LENGTH), key, "sha256")
    block = output = b""
    for counter in range(1, -(-length // HASH_LENGTH) + 1):
        block = hmac.digest(secret, block + info + bytes((counter,)), "sha256")
        output += block
    return output[:length]
