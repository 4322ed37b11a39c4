"""The Noise handshake of libp2p: ``Noise_XX_25519_ChaChaPoly_SHA256`` with signed identities.

Enters and leaves: Noise messages without their 2-byte length (the connection frames them). Comes
out of it: who the peer is, and a cipher each way.

The handshake is that of "The Noise Protocol Framework", revision 34, sections 5 (processing rules)
and 7.5 (pattern XX); what its payloads say is libp2p specs, noise/README.md, "Libp2p Data in
Handshake Messages". Message by message:

=== ==================== =========================================================================
1   initiator -> e        no payload: it would be in clear, so one that is there is refused
2   responder -> e, ee,   the responder's identity, in clear to nobody but an active attacker
    s, es
3   initiator -> s, se    the initiator's identity
=== ==================== =========================================================================
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Sequence

from google.protobuf.message import DecodeError
from nacl import bindings

# What nacl.bindings itself calls. Its own functions format two error messages on every call, which
# triples the cost of a small message (3.8 us instead of 1.2) and is 7 % of one of 64 KiB.
from nacl._sodium import ffi, lib
from nacl.exceptions import CryptoError

from bzzz.errors import IdentityError, LocalProtocolError, RemoteProtocolError
from bzzz.identity.keys import PrivateKey, PublicKey
from bzzz.identity.peer_id import PeerID
from bzzz.wire.pb import noise_pb2

__all__ = ["MAX_MESSAGE", "TAG", "CipherState", "HandshakeXX", "NoiseXX"]

PROTOCOL_NAME = b"Noise_XX_25519_ChaChaPoly_SHA256"

# What is signed with the identity key to bind the static Noise key to it.
SIGNATURE_PREFIX = b"noise-libp2p-static-key:"

# Bytes of one Noise message at most (framework, section 3), and of its authentication tag.
MAX_MESSAGE = 65535
TAG = 16

KEY = 32
# The framework reserves the last nonce for rekeying (section 5.1).
MAX_NONCE = (1 << 64) - 1

# Muxers that are read of one peer, and characters of each: a handful exist.
MAX_MUXERS = 32
MAX_MUXER_TEXT = 128

_encrypt = lib.crypto_aead_chacha20poly1305_ietf_encrypt
_decrypt = lib.crypto_aead_chacha20poly1305_ietf_decrypt
# Every byte is written before it is read, so it need not be zeroed first.
_allocate = ffi.new_allocator(should_clear_after_alloc=False)
_contents = ffi.buffer
_NULL = ffi.NULL


class CipherState:
    """One direction of the cipher, with its nonce (framework, section 5.1).

    :param nonce: of the first message; 0 but in tests.
    """

    __slots__ = ("_key", "_nonce")

    def __init__(self, key: bytes, nonce: int = 0) -> None:
        if len(key) != KEY:
            raise LocalProtocolError(f"a Noise cipher key has {KEY} bytes, not {len(key)}")
        self._key = key
        self._nonce = nonce

    def encrypt(self, plaintext: bytes, associated: bytes = b"") -> bytes:
        """The ciphertext with its tag.

        :raises LocalProtocolError: the nonces are used up.
        """
        nonce = self._nonce
        if nonce >= MAX_NONCE:
            raise LocalProtocolError("all nonces of a Noise cipher are used up")
        size = len(plaintext)
        sealed = _allocate("unsigned char[]", size + TAG)
        _encrypt(
            sealed,
            _NULL,
            plaintext,
            size,
            associated,
            len(associated),
            _NULL,
            # Four zero bytes, then the counter in little-endian order (section 12.3).
            (nonce << 32).to_bytes(12, "little"),
            self._key,
        )
        self._nonce = nonce + 1
        text: bytes = _contents(sealed)[:]
        return text

    def decrypt(self, ciphertext: bytes, associated: bytes = b"") -> bytes:
        """The plaintext.

        :raises RemoteProtocolError: it was altered, replayed, or is not from the peer; or the peer
            sent more messages than there are nonces.
        """
        nonce = self._nonce
        if nonce >= MAX_NONCE:
            raise RemoteProtocolError("the peer used up its nonces", "noise_nonces_used_up")
        size = len(ciphertext)
        if size < TAG:
            raise RemoteProtocolError("a Noise message is too short", "decrypt_failed")
        opened = _allocate("unsigned char[]", size - TAG)
        failed = _decrypt(
            opened,
            _NULL,
            _NULL,
            ciphertext,
            size,
            associated,
            len(associated),
            (nonce << 32).to_bytes(12, "little"),
            self._key,
        )
        if failed:
            raise RemoteProtocolError("a Noise message cannot be decrypted", "decrypt_failed")
        self._nonce = nonce + 1
        text: bytes = _contents(opened)[:]
        return text


class HandshakeXX:
    """The XX handshake pattern, whatever its payloads say.

    Once a message could not be read, it goes no further (framework, section 5.3).


    :param static: this side's static private key.
    :param ephemeral: this side's ephemeral private key.
    :ivar remote_static: the peer's static public key, once it is known.
    :ivar handshake_hash: binds everything said in the handshake; complete with it.
    """

    def __init__(
        self, initiator: bool, static: bytes, ephemeral: bytes, prologue: bytes = b""
    ) -> None:
        self.initiator = initiator
        self.remote_static: bytes | None = None
        self.complete = False
        self._static = static
        self.static_public = bindings.crypto_scalarmult_base(static)
        self._ephemeral = ephemeral
        self._ephemeral_public = bindings.crypto_scalarmult_base(ephemeral)
        self._remote_ephemeral = b""
        self._step = 0
        self._broken = False
        # Exactly 32 bytes, so it is the first hash itself (section 5.2, InitializeSymmetric).
        self.handshake_hash = PROTOCOL_NAME
        self._chaining_key = PROTOCOL_NAME
        self._cipher: CipherState | None = None
        self._mix_hash(prologue)

    @property
    def our_turn(self) -> bool:
        """Whether the next message is this side's to write."""
        mine = (self._step % 2 == 0) == self.initiator
        return mine and not self.complete and not self._broken

    def write(self, payload: bytes) -> bytes:
        """The next message, carrying ``payload``.

        :raises LocalProtocolError: it is the peer's turn, or the handshake is over.
        :raises RemoteProtocolError: the peer's last message had a key of low order.
        """
        if not self.our_turn:
            raise LocalProtocolError("it is not this side's turn in the Noise handshake")
        self._broken = True  # until it worked
        message = b""
        if self._step < 2:
            message += self._ephemeral_public
            self._mix_hash(self._ephemeral_public)
        if self._step == 1:
            self._mix_key(self._ephemeral, self._remote_ephemeral)
        if self._step > 0:
            message += self._encrypt_and_hash(self.static_public)
            self._mix_key(self._static, self._remote_ephemeral)
        message += self._encrypt_and_hash(payload)
        self._advance()
        return message

    def read(self, message: bytes) -> bytes:
        """The payload of the peer's next message.

        :raises RemoteProtocolError: it is too short, not authentic, or has a key of low order.
        """
        if self.complete or self.our_turn or self._broken:
            raise RemoteProtocolError("a Noise handshake message out of turn", "noise_out_of_turn")
        self._broken = True  # until it worked
        if self._step < 2:
            self._remote_ephemeral, message = _cut(message, KEY)
            self._mix_hash(self._remote_ephemeral)
        if self._step == 1:
            self._mix_key(self._ephemeral, self._remote_ephemeral)
        if self._step > 0:
            sealed, message = _cut(message, KEY + TAG)
            self.remote_static = self._decrypt_and_hash(sealed)
            self._mix_key(self._ephemeral, self.remote_static)
        payload = self._decrypt_and_hash(message)
        self._advance()
        return payload

    def split(self) -> tuple[CipherState, CipherState]:
        """The ciphers for sending and for receiving. Once: nothing that they came from is kept.

        :raises LocalProtocolError: the handshake is not complete, or was split before.
        """
        if not self.complete:
            raise LocalProtocolError("the Noise handshake is not complete")
        if not self._chaining_key:
            raise LocalProtocolError("the Noise handshake was split before")
        first, second = _hkdf(self._chaining_key, b"")
        self._chaining_key = b""
        ours, theirs = (first, second) if self.initiator else (second, first)
        return CipherState(ours), CipherState(theirs)

    def _advance(self) -> None:
        self._broken = False
        self._step += 1
        if self._step == 3:
            self.complete = True
            # A link lives for days; who reads its memory then should not be able to read what was
            # said before.
            self._static = self._ephemeral = b""
            self._cipher = None

    def _mix_hash(self, data: bytes) -> None:
        self.handshake_hash = hashlib.sha256(self.handshake_hash + data).digest()

    def _mix_key(self, private: bytes, public: bytes) -> None:
        try:
            shared = bindings.crypto_scalarmult(private, public)
        except (CryptoError, RuntimeError) as error:
            # libsodium refuses points of low order, which would make the secret public.
            raise RemoteProtocolError(
                "the peer sent a Noise key of low order", "noise_bad_key"
            ) from error
        self._chaining_key, key = _hkdf(self._chaining_key, shared)
        self._cipher = CipherState(key)

    def _encrypt_and_hash(self, plaintext: bytes) -> bytes:
        sealed = plaintext
        if self._cipher is not None:
            sealed = self._cipher.encrypt(plaintext, self.handshake_hash)
        self._mix_hash(sealed)
        return sealed

    def _decrypt_and_hash(self, sealed: bytes) -> bytes:
        plaintext = sealed
        if self._cipher is not None:
            plaintext = self._cipher.decrypt(sealed, self.handshake_hash)
        self._mix_hash(sealed)
        return plaintext


class NoiseXX:
    """The handshake with libp2p's payloads: proves this side's identity and checks the peer's.

    :param identity: signs the static Noise key.
    :param expected_peer: whose identity alone is accepted; None for anybody's.
    :param muxers: offered for early negotiation (libp2p specs,
        connections/inlined-muxer-negotiation.md), the preferred first.
    :ivar remote_muxers: what the peer offers.
    """

    def __init__(
        self,
        initiator: bool,
        identity: PrivateKey,
        expected_peer: PeerID | None,
        muxers: Sequence[str],
        random_bytes: Callable[[int], bytes],
    ) -> None:
        static = random_bytes(KEY)
        self._handshake = HandshakeXX(initiator, static, random_bytes(KEY))
        self._expected = expected_peer
        self._payload = _payload(identity, self._handshake.static_public, muxers)
        self._key: PublicKey | None = None
        self.remote_muxers: tuple[str, ...] = ()
        self._received = 0

    @property
    def complete(self) -> bool:
        """Whether both sides have proved who they are, and nothing is left to send."""
        return self._handshake.complete and self._key is not None

    @property
    def handshake_hash(self) -> bytes:
        """Binds everything said in the handshake; for channel binding, once complete."""
        return self._handshake.handshake_hash

    @property
    def remote_key(self) -> PublicKey:
        """The peer's identity key.

        :raises LocalProtocolError: it is not known yet.
        """
        if self._key is None:
            raise LocalProtocolError("the peer's identity is not known yet")
        return self._key

    @property
    def remote_peer(self) -> PeerID:
        """The peer ID of :attr:`remote_key`."""
        return self.remote_key.peer_id

    def take_message(self) -> bytes | None:
        """The next message to send, or None while it is the peer's turn or the peer was refused.

        :raises RemoteProtocolError: the peer's last message had a key of low order.
        """
        if not self._handshake.our_turn:
            return None
        if not self._handshake.initiator:
            return self._handshake.write(self._payload)
        if not self._received:
            # Not encrypted, so it says nothing.
            return self._handshake.write(b"")
        # Whom the peer did not prove to be is not told who this is.
        return None if self._key is None else self._handshake.write(self._payload)

    def receive_message(self, message: bytes) -> None:
        """Take the peer's next message.

        :raises RemoteProtocolError: it is out of turn, not authentic, or its identity is not proved
            or not the one expected.
        """
        payload = self._handshake.read(message)
        self._received += 1
        if self._handshake.initiator or self._received > 1:
            self._check(payload)
        elif payload:
            # Anybody could have written it, and the specification has nothing to say here.
            raise RemoteProtocolError(
                f"the peer's first Noise message says {len(payload)} bytes in clear",
                "noise_early_payload",
            )

    def split(self) -> tuple[CipherState, CipherState]:
        """The ciphers for sending and for receiving. Once: nothing that they came from is kept.

        :raises LocalProtocolError: it is not :attr:`complete`, or was split before.
        """
        if not self.complete:
            raise LocalProtocolError("the Noise handshake is not complete")
        return self._handshake.split()

    def _check(self, payload: bytes) -> None:
        try:
            said = noise_pb2.NoiseHandshakePayload.FromString(payload)
        except DecodeError as error:
            raise RemoteProtocolError(
                "the peer's Noise payload cannot be read", "noise_bad_payload"
            ) from error
        if not said.identity_key:
            raise RemoteProtocolError("the peer sent no identity key", "noise_no_identity")
        try:
            key = PublicKey.decode(said.identity_key)
        except IdentityError as error:
            raise RemoteProtocolError(str(error), "identity_unsupported") from error
        signed = SIGNATURE_PREFIX + (self._handshake.remote_static or b"")
        if not key.verify(signed, said.identity_sig):
            raise RemoteProtocolError(
                "the peer did not prove its identity: the signature is wrong", "noise_bad_signature"
            )
        if self._expected is not None and key.peer_id != self._expected:
            raise RemoteProtocolError(
                f"the peer is {key.peer_id}, not {self._expected} that was dialled",
                "peer_id_mismatch",
            )
        self._key = key
        self.remote_muxers = tuple(
            muxer[:MAX_MUXER_TEXT] for muxer in said.extensions.stream_muxers[:MAX_MUXERS]
        )


def _payload(identity: PrivateKey, static_public: bytes, muxers: Sequence[str]) -> bytes:
    payload = noise_pb2.NoiseHandshakePayload(
        identity_key=identity.public.encode(),
        identity_sig=identity.sign(SIGNATURE_PREFIX + static_public),
    )
    if muxers:
        payload.extensions.stream_muxers.extend(muxers)
    return payload.SerializeToString()


def _hkdf(chaining_key: bytes, material: bytes) -> tuple[bytes, bytes]:
    """Two keys (framework, section 4.3; RFC 5869 with an empty info)."""
    secret = hmac.digest(chaining_key, material, "sha256")
    first = hmac.digest(secret, b"\x01", "sha256")
    return first, hmac.digest(secret, first + b"\x02", "sha256")


def _cut(message: bytes, size: int) -> tuple[bytes, bytes]:
    if len(message) < size:
        raise RemoteProtocolError("a Noise handshake message is too short", "noise_too_short")
    return message[:size], message[size:]
