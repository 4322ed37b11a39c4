"""Multiaddrs: addresses that say how they are to be used (libp2p specs, addressing/README.md).

Text such as ``/ip4/192.0.2.1/tcp/4001/p2p/12D3KooW...`` and the binary form that goes over the
wire: per component the protocol's code as a varint, then its value. Which protocols are known and
how their values look is in :mod:`~bzzz.wire.multiaddr_protocols`.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from functools import lru_cache

from bzzz.errors import RemoteProtocolError
from bzzz.identity.peer_id import PeerID
from bzzz.wire import varint
from bzzz.wire.multiaddr_protocols import BY_CODE, BY_NAME, P2P, AddressError

__all__ = ["AddressError", "Multiaddr"]

# Bytes of one address in binary, characters in text: a relayed WebTransport address with two
# certificate hashes and two peer IDs has about 300.
MAX_BYTES = 1024
MAX_TEXT = 2048

# Components of one address; the longest in use have about 10.
MAX_COMPONENTS = 20

_HOSTS = ("ip4", "ip6", "dns", "dns4", "dns6", "dnsaddr")

Component = tuple[str, str | None]


class Multiaddr:
    """An address. Immutable, hashable; equal when the binary forms are equal.

    :ivar components: pairs of a protocol's name and its value; None for one without a value.
    """

    __slots__ = ("_encoded", "_hash", "_peer_id", "_text", "components")

    components: tuple[Component, ...]

    def __init__(self, components: tuple[Component, ...], encoded: bytes) -> None:
        self.components = components
        self._encoded = encoded
        self._hash = hash(encoded)
        self._peer_id: PeerID | None = None
        self._text: str | None = None

    @classmethod
    @lru_cache(maxsize=1024)  # a forming mesh tells each node of each address once per other peer
    def parse(cls, text: str) -> Multiaddr:
        """An address from its text.

        :raises AddressError: it is none; names the part that is wrong.
        """
        if len(text) > MAX_TEXT:
            raise AddressError(f"a multiaddr has at most {MAX_TEXT} characters, not {len(text)}")
        try:
            return cls._build(_parsed(text))
        except AddressError as error:
            shown = text if text.isprintable() else repr(text)
            raise AddressError(f"{shown}: {error}") from error

    @classmethod
    def decode(cls, data: bytes) -> Multiaddr:
        """An address from its binary form.

        :raises RemoteProtocolError: it cannot be read, or has a protocol that is not known here.
        """
        if len(data) > MAX_BYTES:
            raise RemoteProtocolError(
                f"a multiaddr has {len(data)} bytes; {MAX_BYTES} are allowed", "multiaddr_too_long"
            )
        data = bytes(data)
        components = tuple(_decoded(data))
        if not components:
            raise RemoteProtocolError("a multiaddr is empty", "multiaddr_empty")
        return cls(components, data)

    @classmethod
    def tcp(cls, host: str, port: int, zone: str | None = None) -> Multiaddr:
        """The address of a TCP port on an IP literal, with its zone as ``%eth0`` or apart.

        An IPv4 address mapped into IPv6 is told as IPv4.

        :raises AddressError: ``host`` is no IP literal.
        """
        if "%" in host:
            host, zone = host.split("%", 1)
        components: list[Component] = [("tcp", str(port))]
        if ":" not in host:
            components.insert(0, ("ip4", host))
        elif (mapped := _mapped(host)) is not None:
            components.insert(0, ("ip4", mapped))
        else:
            components.insert(0, ("ip6", host))
            if zone:
                components.insert(0, ("ip6zone", zone))
        return cls._build(components)

    @classmethod
    def _build(cls, parts: list[Component]) -> Multiaddr:
        encoded = b""
        components = []
        for name, text in parts:
            protocol = BY_NAME[name]
            value = protocol.pack(text or "")
            encoded += protocol.head
            if protocol.size is None:
                encoded += varint.encode(len(value))
            encoded += value
            components.append((protocol.name, protocol.unpack(value) if value else None))
        if len(encoded) > MAX_BYTES:
            raise AddressError(f"a multiaddr has at most {MAX_BYTES} bytes")
        return cls(tuple(components), encoded)

    def encode(self) -> bytes:
        """The binary form."""
        return self._encoded

    def host_port(self) -> tuple[str, str, int] | None:
        """The kind of host (``ip4``, ``ip6``, ``dns``, ...), the host and the TCP port.

        None where it is not just TCP. An IPv6 host carries its zone as ``%eth0``.
        """
        parts = list(self.components)
        zone = ""
        if parts and parts[0][0] == "ip6zone":
            zone = f"%{parts.pop(0)[1]}"
        if parts and parts[-1][0] == "p2p":
            parts.pop()
        if len(parts) != 2 or parts[0][0] not in _HOSTS or parts[1][0] != "tcp":
            return None
        kind, host = parts[0]
        return kind, f"{host}{zone}", int(parts[1][1] or 0)

    @property
    def peer_id(self) -> PeerID | None:
        """The peer ID at the end, or None."""
        if self._peer_id is None:
            name, value = self.components[-1]
            if name == P2P.name and value:
                self._peer_id = PeerID.parse(value)
        return self._peer_id

    def with_peer(self, peer_id: PeerID) -> Multiaddr:
        """The address with ``/p2p/<peer_id>`` at its end, in place of another that is there.

        Never fails: an address of the greatest length may grow beyond it.
        """
        own = self.peer_id
        if own == peer_id:
            return self
        components, encoded = self.components, self._encoded
        if own is not None:
            components, encoded = components[:-1], encoded[: -len(_peer_component(own))]
        made = Multiaddr(
            (*components, (P2P.name, str(peer_id))), encoded + _peer_component(peer_id)
        )
        made._peer_id = peer_id
        return made

    def without_peer(self) -> Multiaddr:
        """The address without a peer ID at its end; as it is where there is nothing else."""
        own = self.peer_id
        if own is None or len(self.components) == 1:
            return self
        return Multiaddr(self.components[:-1], self._encoded[: -len(_peer_component(own))])

    def __str__(self) -> str:
        if self._text is None:
            self._text = "".join(
                # A path brings its own slash.
                f"/{name}{'' if not value or value[0] == '/' else '/'}{value or ''}"
                for name, value in self.components
            )
        return self._text

    def __repr__(self) -> str:
        return f"<Multiaddr {self}>"

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Multiaddr) and self._encoded == other._encoded


def _peer_component(peer_id: PeerID) -> bytes:
    return P2P.head + varint.encode(len(peer_id.bytes)) + peer_id.bytes


def _mapped(host: str) -> str | None:
    """The IPv4 address that an IPv6 address stands for, as a socket for both kinds tells it."""
    try:
        mapped = ipaddress.IPv6Address(host).ipv4_mapped
    except ValueError:
        return None
    return None if mapped is None else str(mapped)


def _parsed(text: str) -> list[Component]:
    if not text.startswith("/"):
        raise AddressError("a multiaddr starts with /, such as /ip4/192.0.2.1/tcp/4001")
    words = text.rstrip("/").split("/")[1:]
    if not words:
        raise AddressError("it is empty")
    parts: list[Component] = []
    position = 0
    while position < len(words):
        name = words[position]
        protocol = BY_NAME.get(name)
        if protocol is None:
            raise AddressError(f"{name!r} is not a protocol known here")
        position += 1
        value = None
        if protocol.path:
            value = "".join(f"/{word}" for word in words[position:])
            position = len(words)
        elif protocol.size != 0:
            if position >= len(words):
                raise AddressError(f"/{name} lacks its value")
            value = words[position]
            position += 1
        parts.append((name, value))
        if len(parts) > MAX_COMPONENTS:
            raise AddressError(f"it has more than {MAX_COMPONENTS} parts")
    return parts


def _decoded(data: bytes) -> Iterator[Component]:
    offset = 0
    count = 0
    while offset < len(data):
        code, offset = _whole(varint.decode(data, offset))
        protocol = BY_CODE.get(code)
        if protocol is None:
            raise RemoteProtocolError(
                f"a multiaddr has the unknown protocol {code}", "multiaddr_protocol"
            )
        size = protocol.size
        if size is None:
            size, offset = _whole(varint.decode(data, offset))
            if not size:
                raise RemoteProtocolError("a multiaddr has an empty value", "multiaddr_empty_value")
        end = offset + size
        if end > len(data):
            raise RemoteProtocolError("a multiaddr ends within a value", "multiaddr_truncated")
        if protocol.path and end < len(data):
            # In text, what follows a path would be a part of it.
            raise RemoteProtocolError("a multiaddr goes on after a path", "multiaddr_path")
        count += 1
        if count > MAX_COMPONENTS:
            raise RemoteProtocolError("a multiaddr has too many parts", "multiaddr_too_long")
        yield protocol.name, protocol.unpack(data[offset:end]) if size else None
        offset = end


def _whole(decoded: tuple[int, int] | None) -> tuple[int, int]:
    if decoded is None:
        raise RemoteProtocolError("a multiaddr ends within a number", "multiaddr_truncated")
    return decoded
