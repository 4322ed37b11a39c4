"""What a peer says of itself (libp2p specs, identify/README.md).

Enters and leaves: the message of ``/ipfs/id/1.0.0`` and ``/ipfs/id/push/1.0.0``, without its length
prefix. An address that cannot be read is left out: it may be of a transport that is not known here.
What comes out is safe to log and to print.
"""

from __future__ import annotations

from dataclasses import dataclass

from google.protobuf.message import DecodeError

from bzzz.errors import IdentityError, RemoteProtocolError
from bzzz.identity.keys import PublicKey
from bzzz.wire.multiaddr import Multiaddr
from bzzz.wire.pb import identify_pb2

__all__ = ["PROTOCOL", "PUSH", "Identify"]

PROTOCOL = "/ipfs/id/1.0.0"
PUSH = "/ipfs/id/push/1.0.0"

# Addresses of one machine: several cards with IPv4 and IPv6 and several transports. Those beyond
# are not read.
MAX_ADDRESSES = 64

# Protocols of one peer; go-libp2p with everything on has about 30. Those beyond are not read.
MAX_PROTOCOLS = 256

# Characters of a version or a name, which are cut, and of a protocol, which is left out: half a
# protocol's name would be that of another.
MAX_TEXT = 256


@dataclass(frozen=True)
class Identify:
    """What a peer says of itself.

    :ivar observed_addr: where the peer sees the one who asked.
    :ivar name: what its owner calls it; empty for peers other than Bzzz.
    :ivar guest: whether it is in a cluster that the one who asked is not in.
    """

    protocol_version: str = ""
    agent_version: str = ""
    public_key: PublicKey | None = None
    listen_addrs: tuple[Multiaddr, ...] = ()
    observed_addr: Multiaddr | None = None
    protocols: tuple[str, ...] = ()
    name: str = ""
    guest: bool = False

    def encode(self) -> bytes:
        """The protobuf message."""
        message = identify_pb2.Identify(
            protocolVersion=self.protocol_version,
            agentVersion=self.agent_version,
            listenAddrs=[address.encode() for address in self.listen_addrs],
            protocols=self.protocols,
        )
        if self.public_key is not None:
            message.publicKey = self.public_key.encode()
        if self.observed_addr is not None:
            message.observedAddr = self.observed_addr.encode()
        if self.name:
            message.bzzzName = self.name
        if self.guest:
            message.bzzzGuest = True
        return message.SerializeToString()

    @classmethod
    def decode(cls, data: bytes) -> Identify:
        """A message.

        :raises RemoteProtocolError: it cannot be read, or names a key that cannot be.
        """
        try:
            message = identify_pb2.Identify.FromString(data)
        except DecodeError as error:
            raise RemoteProtocolError("identify cannot be read", "identify_unreadable") from error
        key = None
        if message.HasField("publicKey"):
            try:
                key = PublicKey.decode(message.publicKey)
            except IdentityError as error:
                raise RemoteProtocolError(f"identify: {error}", "identify_bad_key") from error
        observed = _address(message.observedAddr) if message.HasField("observedAddr") else None
        addresses = [_address(encoded) for encoded in message.listenAddrs[:MAX_ADDRESSES]]
        return cls(
            protocol_version=_printable(message.protocolVersion),
            agent_version=_printable(message.agentVersion),
            public_key=key,
            listen_addrs=tuple(address for address in addresses if address is not None),
            observed_addr=observed,
            protocols=tuple(
                protocol
                for protocol in message.protocols[:MAX_PROTOCOLS]
                if 0 < len(protocol) <= MAX_TEXT and protocol.isprintable()
            ),
            name=_printable(message.bzzzName),
            guest=message.bzzzGuest,
        )


def _address(encoded: bytes) -> Multiaddr | None:
    try:
        return Multiaddr.decode(encoded)
    except RemoteProtocolError:
        return None


def _printable(text: str) -> str:
    """The text for logs and terminals: without control characters, and of bounded length."""
    return "".join(character for character in text[:MAX_TEXT] if character.isprintable())
