"""Noise over a byte stream: the handshake, then encrypted bytes each way.

Enters: bytes of the transport. Leaves: bytes for the transport, and what the peer sent, decrypted.
Each Noise message stands behind its length in two bytes, big-endian. libp2p specs, noise/README.md,
"Wire Format" and "Encryption and I/O".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from bzzz.errors import LimitExceeded
from bzzz.identity.keys import PublicKey
from bzzz.wire.noise import MAX_MESSAGE, TAG, CipherState, NoiseXX

__all__ = ["Buffer", "NoiseChannel", "SecureChannel"]

# Bytes that fit one Noise message.
MAX_PLAINTEXT = MAX_MESSAGE - TAG

# Bytes of one message of the handshake. The largest known has a 4096-bit RSA key and signature,
# about 1.3 kB; nobody is authenticated yet, so there is no reason to hold 64 KiB for it.
MAX_HANDSHAKE_MESSAGE = 4096

# A message that trickles in is joined each time it is in this many pieces, so that the pieces never
# cost much more than their bytes.
MAX_PIECES = 64

# Bytes of a message's length.
LENGTH = 2

Buffer = bytes | memoryview


class SecureChannel(Protocol):
    """What a connection needs of its security: :class:`NoiseChannel`, or plaintext's.

    :ivar complete: whether the handshake is done.
    :ivar remote_muxers: what the peer offers for early negotiation; empty if it does not take part.
    :ivar handshake_hash: binds everything said in the handshake; empty if nothing is bound.
    """

    complete: bool
    remote_muxers: tuple[str, ...]
    handshake_hash: bytes

    @property
    def remote_key(self) -> PublicKey:
        """The peer's identity, once complete."""

    def receive(self, data: bytes) -> list[bytes]:
        """Take bytes of the transport; what the peer sent after the handshake, decrypted."""

    def take_output(self) -> list[bytes]:
        """The handshake's messages, as they go on the transport."""

    def seal(self, pieces: Sequence[Buffer], output: list[Buffer]) -> None:
        """Encrypt ``pieces`` in their order onto ``output``, once complete."""


class NoiseChannel:
    """One side of a Noise connection; see :class:`SecureChannel`.

    :param handshake: not started yet.
    """

    def __init__(self, handshake: NoiseXX) -> None:
        self.complete = False
        self.remote_muxers: tuple[str, ...] = ()
        self.handshake_hash = b""
        self._handshake = handshake
        self._encryptor: CipherState | None = None
        self._decryptor: CipherState | None = None
        self._output: list[bytes] = []
        self._pieces: list[Buffer] = []
        self._missing = 0
        self._half_length = b""
        self._write()

    @property
    def remote_key(self) -> PublicKey:
        """See :class:`SecureChannel`."""
        return self._handshake.remote_key

    def take_output(self) -> list[bytes]:
        """See :class:`SecureChannel`."""
        output, self._output = self._output, []
        return output

    def receive(self, data: bytes) -> list[bytes]:
        """See :class:`SecureChannel`.

        :raises RemoteProtocolError: a message is not authentic, or the handshake fails.
        """
        plaintexts: list[bytes] = []
        position = 0
        size = len(data)
        if self._missing:
            if size < self._missing:
                self._hold(data)
                return plaintexts
            position = self._missing
            self._pieces.append(memoryview(data)[:position])
            message = b"".join(self._pieces)
            self._pieces = []
            self._missing = 0
            self._message(message, plaintexts)
        elif self._half_length:
            data = self._half_length + data
            self._half_length = b""
            size = len(data)
        while size - position >= LENGTH:
            length = data[position] << 8 | data[position + 1]
            if not self.complete and length > MAX_HANDSHAKE_MESSAGE:
                raise LimitExceeded(
                    f"a Noise handshake message of {length} bytes", "noise_message_too_long"
                )
            start = position + LENGTH
            position = start + length
            if position > size:
                self._missing = position - size
                self._pieces.append(memoryview(data)[start:])
                return plaintexts
            self._message(data[start:position], plaintexts)
        if position < size:
            self._half_length = data[position:]
        return plaintexts

    def seal(self, pieces: Sequence[Buffer], output: list[Buffer]) -> None:
        """See :class:`SecureChannel`. Small pieces share a message, so one call of the cipher."""
        size = sum(map(len, pieces))
        if size <= MAX_PLAINTEXT:
            self._seal_one(pieces, output)
            return
        batch: list[Buffer] = []
        size = 0
        for piece in pieces:
            rest = piece
            if size + len(rest) > MAX_PLAINTEXT:
                if batch:
                    self._seal_one(batch, output)
                    batch, size = [], 0
                while len(rest) > MAX_PLAINTEXT:
                    self._seal_one([rest[:MAX_PLAINTEXT]], output)
                    rest = rest[MAX_PLAINTEXT:]
            batch.append(rest)
            size += len(rest)
        self._seal_one(batch, output)

    # -- inside

    def _seal_one(self, pieces: Sequence[Buffer], output: list[Buffer]) -> None:
        # Sealing before the end is a bug here.
        assert self._encryptor is not None  # nosec B101  # noqa: S101 - for mypy
        sealed = self._encryptor.encrypt(b"".join(pieces))
        output.append(len(sealed).to_bytes(LENGTH, "big"))
        output.append(sealed)

    def _hold(self, data: Buffer) -> None:
        """More of a message that is not complete yet."""
        self._missing -= len(data)
        self._pieces.append(data)
        if len(self._pieces) > MAX_PIECES:
            self._pieces = [b"".join(self._pieces)]

    def _message(self, message: bytes, plaintexts: list[bytes]) -> None:
        if self._decryptor is not None:
            plaintexts.append(self._decryptor.decrypt(message))
            return
        self._handshake.receive_message(message)
        self._write()

    def _write(self) -> None:
        handshake = self._handshake
        message = handshake.take_message()
        if message is not None:
            self._output.append(len(message).to_bytes(LENGTH, "big") + message)
        if handshake.complete:
            self._encryptor, self._decryptor = handshake.split()
            self.remote_muxers = handshake.remote_muxers
            self.handshake_hash = handshake.handshake_hash
            self.complete = True
