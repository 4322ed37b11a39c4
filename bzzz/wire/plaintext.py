"""``/plaintext/2.0.0``: who the peer says it is, and nothing hidden. For the simulator and tests.

Enters: bytes of the transport. Leaves: bytes for the transport, and what the peer sent. Each side
sends one length-prefixed Exchange message and everything after it is as it is. libp2p specs,
plaintext/README.md.
"""

from __future__ import annotations

from collections.abc import Sequence

from google.protobuf.message import DecodeError

from bzzz.errors import IdentityError, LimitExceeded, LocalProtocolError, RemoteProtocolError
from bzzz.identity.keys import PrivateKey, PublicKey
from bzzz.identity.peer_id import PeerID
from bzzz.wire import varint
from bzzz.wire.framing import frame
from bzzz.wire.noise_channel import Buffer
from bzzz.wire.pb import plaintext_pb2

__all__ = ["PlaintextChannel"]

# Bytes of an Exchange message: an Ed25519 key and its peer ID are 78. Keys of other types are
# refused anyway, but by their name, and an RSA key of 4096 bits has to be read for that.
MAX_EXCHANGE = 1024

# Bytes of its length: two say up to 16383.
MAX_PREFIX = 2


class PlaintextChannel:
    """One side of an unencrypted connection; see :class:`~bzzz.wire.noise_channel.SecureChannel`.

    :param expected_peer: whose claim alone is accepted; None for anybody's.
    """

    def __init__(self, identity: PrivateKey, expected_peer: PeerID | None) -> None:
        self.complete = False
        self.remote_muxers: tuple[str, ...] = ()
        self.handshake_hash = b""
        self._expected = expected_peer
        self._remote_key: PublicKey | None = None
        self._received = b""
        exchange = plaintext_pb2.Exchange(
            id=identity.peer_id.bytes, pubkey=identity.public.encode()
        )
        self._output = [frame(exchange.SerializeToString())]

    @property
    def remote_key(self) -> PublicKey:
        """See :class:`~bzzz.wire.noise_channel.SecureChannel`."""
        if self._remote_key is None:
            raise LocalProtocolError("the peer's identity is not known yet")
        return self._remote_key

    def take_output(self) -> list[bytes]:
        """See :class:`~bzzz.wire.noise_channel.SecureChannel`."""
        output, self._output = self._output, []
        return output

    def receive(self, data: bytes) -> list[bytes]:
        """See :class:`~bzzz.wire.noise_channel.SecureChannel`.

        :raises RemoteProtocolError: the peer's claim is malformed, or not of whom was expected.
        """
        if self.complete:
            return [data]
        self._received += data
        prefix = varint.decode(self._received, 0, MAX_PREFIX)
        if prefix is None:
            return []
        length, start = prefix
        if length > MAX_EXCHANGE:
            raise LimitExceeded(f"a plaintext handshake of {length} bytes", "exchange_too_long")
        end = start + length
        if len(self._received) < end:
            return []
        message, rest = self._received[start:end], self._received[end:]
        self._received = b""
        self._remote_key = self._read(message)
        self.complete = True
        return [rest] if rest else []

    def seal(self, pieces: Sequence[Buffer], output: list[Buffer]) -> None:
        """See :class:`~bzzz.wire.noise_channel.SecureChannel`: nothing is done to them."""
        output.extend(pieces)

    def _read(self, message: bytes) -> PublicKey:
        try:
            exchange = plaintext_pb2.Exchange.FromString(message)
            key = PublicKey.decode(exchange.pubkey)
        except DecodeError as error:
            raise RemoteProtocolError(
                "the peer's plaintext handshake cannot be read", "exchange_malformed"
            ) from error
        except IdentityError as error:
            raise RemoteProtocolError(str(error), "identity_unsupported") from error
        if key.peer_id.bytes != exchange.id:
            raise RemoteProtocolError(
                "the peer's ID is not that of the key it sent", "peer_id_mismatch"
            )
        if self._expected is not None and key.peer_id != self._expected:
            raise RemoteProtocolError(
                f"the peer is {key.peer_id}, not {self._expected} that was dialled",
                "peer_id_mismatch",
            )
        return key
