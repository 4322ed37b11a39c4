"""Multiaddrs: addresses that say how they are to be used (libp2p specs, addressing/README.md).

Text such as ``/ip4/192.0.2.1/tcp/4001/p2p/12D3KooW...`` and the binary form that goes over the
wire: per component the protocol's code as a varint, then its value. The protocol table is a part of
multiformats/multiaddr, ``protocols.csv``.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from bzzz.errors import BzzzError, IdentityError, RemoteProtocolError
from bzzz.identity.peer_id import PeerID
from bzzz.wire import varint

__all__ = ["AddressError", "Multiaddr"]

# Bytes of one address in binary, characters in text: a relayed WebTransport address with two
# certificate hashes and two peer IDs has about 300.
MAX_BYTES = 1024
MAX_TEXT = 2048

# Components of one address; the longest in use have about 10.
MAX_COMPONENTS = 20


class AddressError(BzzzError):
    """A text is not a multiaddr, or not of the kind needed; names the part that is wrong."""


@dataclass(frozen=True)
class _Protocol:
    """How the value of one protocol looks.

    :ivar size: bytes of the value; None for one with its length before it.
    """

    name: str
    code: int
    size: int | None
    pack: Callable[[str], bytes]
    unpack: Callable[[bytes], str]


def _pack_ip4(text: str) -> bytes:
    try:
        return ipaddress.IPv4Address(text).packed
    except ValueError as error:
        raise AddressError(f"{text!r} is not an IPv4 address") from error


def _pack_ip6(text: str) -> bytes:
    try:
        address = ipaddress.IPv6Address(text)
    except ValueError as error:
        raise AddressError(f"{text!r} is not an IPv6 address") from error
    if address.scope_id is not None:
        raise AddressError(f"{text!r}: a zone is written /ip6zone/{address.scope_id} before /ip6")
    return address.packed


def _pack_port(text: str) -> bytes:
    if not (text.isascii() and text.isdigit() and len(text) <= 5 and int(text) <= 65535):
        raise AddressError(f"{text!r} is not a port of 0-65535")
    return int(text).to_bytes(2, "big")


def _unpack_port(value: bytes) -> str:
    return str(int.from_bytes(value, "big"))


def _pack_text(text: str) -> bytes:
    if not text or len(text) > 255 or not text.isprintable() or any(c.isspace() for c in text):
        raise AddressError(f"{text!r} is not a name")
    return text.encode()


def _unpack_text(value: bytes) -> str:
    try:
        text = value.decode()
    except UnicodeDecodeError as error:
        raise RemoteProtocolError("a name in a multiaddr is not UTF-8", "multiaddr_name") from error
    if not text or not text.isprintable() or "/" in text or any(c.isspace() for c in text):
        raise RemoteProtocolError("a name in a multiaddr is not printable", "multiaddr_name")
    return text


def _pack_peer(text: str) -> bytes:
    try:
        return PeerID.parse(text).bytes
    except IdentityError as error:
        raise AddressError(str(error)) from error


def _unpack_peer(value: bytes) -> str:
    try:
        return str(PeerID(value))
    except IdentityError as error:
        raise RemoteProtocolError(f"a multiaddr: {error}", "multiaddr_peer_id") from error


def _none(_: object) -> bytes:
    return b""


def _no_text(_: bytes) -> str:
    return ""


_PROTOCOLS = (
    _Protocol("ip4", 4, 4, _pack_ip4, lambda value: str(ipaddress.IPv4Address(value))),
    _Protocol("tcp", 6, 2, _pack_port, _unpack_port),
    _Protocol("ip6", 41, 16, _pack_ip6, lambda value: str(ipaddress.IPv6Address(value))),
    _Protocol("ip6zone", 42, None, _pack_text, _unpack_text),
    _Protocol("dns", 53, None, _pack_text, _unpack_text),
    _Protocol("dns4", 54, None, _pack_text, _unpack_text),
    _Protocol("dns6", 55, None, _pack_text, _unpack_text),
    _Protocol("dnsaddr", 56, None, _pack_text, _unpack_text),
    _Protocol("udp", 273, 2, _pack_port, _unpack_port),
    _Protocol("p2p-circuit", 290, 0, _none, _no_text),
    _Protocol("p2p", 421, None, _pack_peer, _unpack_peer),
    _Protocol("tls", 448, 0, _none, _no_text),
    _Protocol("sni", 449, None, _pack_text, _unpack_text),
    _Protocol("noise", 454, 0, _none, _no_text),
    _Protocol("quic", 460, 0, _none, _no_text),
    _Protocol("quic-v1", 461, 0, _none, _no_text),
    _Protocol("webtransport", 465, 0, _none, _no_text),
    _Protocol("http", 480, 0, _none, _no_text),
    _Protocol("https", 443, 0, _none, _no_text),
    _Protocol("ws", 477, 0, _none, _no_text),
    _Protocol("wss", 478, 0, _none, _no_text),
    _Protocol("webrtc-direct", 280, 0, _none, _no_text),
    _Protocol("webrtc", 281, 0, _none, _no_text),
)
_BY_NAME = {protocol.name: protocol for protocol in _PROTOCOLS} | {
    # The older name of /p2p; read, never written.
    "ipfs": next(protocol for protocol in _PROTOCOLS if protocol.name == "p2p")
}
_BY_CODE = {protocol.code: protocol for protocol in _PROTOCOLS}

_HOSTS = ("ip4", "ip6", "dns", "dns4", "dns6", "dnsaddr")


class Multiaddr:
    """An address. Immutable, hashable; equal when the binary forms are equal.

    :ivar components: pairs of a protocol's name and its value; None for one without a value.
    """

    __slots__ = ("_encoded", "_hash", "_text", "components")

    components: tuple[tuple[str, str | None], ...]

    def __init__(self, components: tuple[tuple[str, str | None], ...], encoded: bytes) -> None:
        self.components = components
        self._encoded = encoded
        self._hash = hash(encoded)
        self._text: str | None = None

    @classmethod
    def parse(cls, text: str) -> Multiaddr:
        """An address from its text.

        :raises AddressError: it is none; names the part that is wrong.
        """
        if len(text) > MAX_TEXT:
            raise AddressError(f"a multiaddr has at most {MAX_TEXT} characters, not {len(text)}")
        try:
            return cls._build(_parsed(text))
        except AddressError as error:
            raise AddressError(f"{text}: {error}") from error

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
        if host.startswith("::ffff:") and "." in host:
            host = host.removeprefix("::ffff:")
        components: list[tuple[str, str | None]] = []
        if ":" in host and zone:
            components.append(("ip6zone", zone))
        components.append(("ip6" if ":" in host else "ip4", host))
        components.append(("tcp", str(port)))
        return cls._build(components)

    @classmethod
    def _build(cls, parts: list[tuple[str, str | None]]) -> Multiaddr:
        encoded = b""
        components = []
        for name, text in parts:
            protocol = _BY_NAME[name]
            value = protocol.pack(text or "")
            encoded += varint.encode(protocol.code)
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
        name, value = self.components[-1]
        return PeerID.parse(value) if name == "p2p" and value else None

    def with_peer(self, peer_id: PeerID) -> Multiaddr:
        """The address with ``/p2p/<peer_id>`` at its end."""
        parts = list(self.without_peer().components)
        return Multiaddr._build([*parts, ("p2p", str(peer_id))])

    def without_peer(self) -> Multiaddr:
        """The address without a peer ID at its end."""
        if self.components[-1][0] != "p2p" or len(self.components) == 1:
            return self
        return Multiaddr._build(list(self.components[:-1]))

    def __str__(self) -> str:
        if self._text is None:
            self._text = "".join(
                f"/{name}" if value is None else f"/{name}/{value}"
                for name, value in self.components
            )
        return self._text

    def __repr__(self) -> str:
        return f"<Multiaddr {self}>"

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Multiaddr) and self._encoded == other._encoded


def _parsed(text: str) -> list[tuple[str, str | None]]:
    if not text.startswith("/"):
        raise AddressError("a multiaddr starts with /, such as /ip4/192.0.2.1/tcp/4001")
    words = text.rstrip("/").split("/")[1:]
    if not words or words == [""]:
        raise AddressError("it is empty")
    parts: list[tuple[str, str | None]] = []
    position = 0
    while position < len(words):
        name = words[position]
        protocol = _BY_NAME.get(name)
        if protocol is None:
            raise AddressError(f"{name!r} is not a protocol known here")
        position += 1
        value = None
        if protocol.size != 0:
            if position >= len(words):
                raise AddressError(f"/{name} lacks its value")
            value = words[position]
            position += 1
        parts.append((name, value))
        if len(parts) > MAX_COMPONENTS:
            raise AddressError(f"it has more than {MAX_COMPONENTS} parts")
    return parts


def _decoded(data: bytes) -> Iterator[tuple[str, str | None]]:
    offset = 0
    count = 0
    while offset < len(data):
        code, offset = _whole(varint.decode(data, offset))
        protocol = _BY_CODE.get(code)
        if protocol is None:
            raise RemoteProtocolError(
                f"a multiaddr has the unknown protocol {code}", "multiaddr_protocol"
            )
        size = protocol.size
        if size is None:
            size, offset = _whole(varint.decode(data, offset))
        if offset + size > len(data):
            raise RemoteProtocolError("a multiaddr ends within a value", "multiaddr_truncated")
        value = data[offset : offset + size]
        offset += size
        if protocol.size is None and not value:
            raise RemoteProtocolError("a multiaddr has an empty value", "multiaddr_empty_value")
        count += 1
        if count > MAX_COMPONENTS:
            raise RemoteProtocolError("a multiaddr has too many parts", "multiaddr_too_long")
        yield protocol.name, protocol.unpack(value) if protocol.size != 0 else None


def _whole(decoded: tuple[int, int] | None) -> tuple[int, int]:
    if decoded is None:
        raise RemoteProtocolError("a multiaddr ends within a number", "multiaddr_truncated")
    return decoded
