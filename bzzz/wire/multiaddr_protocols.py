"""The protocols of multiaddrs: how the value of each looks in text and in binary.

Enters and leaves: the value of one component. The table is a part of multiformats/multiaddr,
``protocols.csv``; the forms of the values are those of its section "Protocols".
"""

from __future__ import annotations

import base64
import ipaddress
from collections.abc import Callable
from dataclasses import dataclass

from bzzz.errors import BzzzError, IdentityError, RemoteProtocolError
from bzzz.identity import base58
from bzzz.identity.peer_id import PeerID
from bzzz.wire import varint

__all__ = ["BY_CODE", "BY_NAME", "P2P", "AddressError", "Protocol"]

# Bytes of a name: DNS allows 253, Linux 15 for an interface. Of a path: sun_path has 108.
MAX_NAME = 255

# Bytes of a certificate's hash with its multihash header: SHA-512 is the longest in use.
MAX_CERTHASH = 66

# An onion service of version 3: its address in bytes, and in characters of base32.
ONION = 35
ONION_TEXT = 56


class AddressError(BzzzError):
    """A text is not a multiaddr, or not of the kind needed; names the part that is wrong."""


@dataclass(frozen=True, slots=True)
class Protocol:
    """How the value of one protocol looks.

    :ivar size: bytes of the value; None for one with its length before it.
    :ivar pack: from text to binary; raises :class:`AddressError`.
    :ivar unpack: from binary to text; raises :class:`RemoteProtocolError`.
    :ivar path: whether the value is all the rest of the text, slashes and all.
    :ivar head: the code as it stands in binary.
    """

    name: str
    code: int
    size: int | None
    pack: Callable[[str], bytes]
    unpack: Callable[[bytes], str]
    path: bool
    head: bytes


def _pack_ip4(text: str) -> bytes:
    try:
        return ipaddress.IPv4Address(text).packed
    except ValueError as error:
        raise AddressError(f"{text!r} is not an IPv4 address") from error


def _unpack_ip4(value: bytes) -> str:
    return f"{value[0]}.{value[1]}.{value[2]}.{value[3]}"


def _pack_ip6(text: str) -> bytes:
    try:
        address = ipaddress.IPv6Address(text)
    except ValueError as error:
        raise AddressError(f"{text!r} is not an IPv6 address") from error
    if address.scope_id is not None:
        raise AddressError(f"{text!r}: a zone is written before /ip6, as in /ip6zone/eth0/ip6/...")
    return address.packed


def _unpack_ip6(value: bytes) -> str:
    return str(ipaddress.IPv6Address(value))


def _pack_port(text: str) -> bytes:
    if not (text.isascii() and text.isdigit() and len(text) <= 5 and int(text) <= 65535):
        raise AddressError(f"{text!r} is not a port of 0-65535")
    return int(text).to_bytes(2, "big")


def _unpack_port(value: bytes) -> str:
    return str(int.from_bytes(value, "big"))


def _is_name(text: str) -> bool:
    # What is printed, logged and looked up: no control characters, nothing that ends a component.
    return text != "" and text.isprintable() and "/" not in text and " " not in text


def _pack_name(text: str) -> bytes:
    value = text.encode(errors="replace")
    if len(value) > MAX_NAME or not _is_name(text):
        raise AddressError(f"{text!r} is not a name")
    return value


def _unpack_name(value: bytes) -> str:
    if len(value) > MAX_NAME:
        raise RemoteProtocolError("a name in a multiaddr is too long", "multiaddr_name")
    try:
        text = value.decode()
    except UnicodeDecodeError as error:
        raise RemoteProtocolError("a name in a multiaddr is not UTF-8", "multiaddr_name") from error
    if not _is_name(text):
        raise RemoteProtocolError("a name in a multiaddr is not printable", "multiaddr_name")
    return text


def _is_path(text: str) -> bool:
    return len(text) > 1 and text[0] == "/" and text[-1] != "/" and text.isprintable()


def _pack_path(text: str) -> bytes:
    value = text.encode(errors="replace")
    if len(value) > MAX_NAME or not _is_path(text):
        raise AddressError(f"{text!r} is not a path")
    return value


def _unpack_path(value: bytes) -> str:
    try:
        text = value.decode()
    except UnicodeDecodeError as error:
        raise RemoteProtocolError("a path in a multiaddr is not UTF-8", "multiaddr_path") from error
    if len(value) > MAX_NAME or not _is_path(text):
        raise RemoteProtocolError("a path in a multiaddr is not one", "multiaddr_path")
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


def _is_multihash(value: bytes) -> bool:
    try:
        code = varint.decode(value)
        size = varint.decode(value, code[1]) if code else None
    except RemoteProtocolError:
        return False
    return size is not None and 0 < size[0] == len(value) - size[1]


def _pack_certhash(text: str) -> bytes:
    """A multihash in multibase: base64url (``u``), which everybody writes, or base58 (``z``)."""
    value = b""
    try:
        if len(text) > 2 * MAX_CERTHASH:
            pass
        elif text.startswith("u"):
            value = base64.b64decode(text[1:] + "=" * (-(len(text) - 1) % 4), b"-_", validate=True)
        elif text.startswith("z"):
            value = base58.decode(text[1:])
    except (ValueError, IdentityError) as error:
        raise AddressError(f"{text!r} is not a certificate's hash") from error
    if len(value) > MAX_CERTHASH or not _is_multihash(value):
        raise AddressError(f"{text!r} is not a certificate's hash")
    return value


def _unpack_certhash(value: bytes) -> str:
    if len(value) > MAX_CERTHASH or not _is_multihash(value):
        raise RemoteProtocolError("a multiaddr has a damaged hash", "multiaddr_certhash")
    return "u" + base64.urlsafe_b64encode(value).decode().rstrip("=")


def _pack_onion3(text: str) -> bytes:
    host, colon, port = text.partition(":")
    try:
        if not colon or len(host) != ONION_TEXT:
            raise ValueError(text)
        return base64.b32decode(host.upper()) + _pack_port(port)
    except (ValueError, AddressError) as error:
        raise AddressError(f"{text!r} is not an onion service and its port") from error


def _unpack_onion3(value: bytes) -> str:
    host = base64.b32encode(value[:ONION]).decode().lower()
    return f"{host}:{_unpack_port(value[ONION:])}"


def _pack_nothing(_: str) -> bytes:
    return b""


def _unpack_nothing(_: bytes) -> str:
    return ""


def _table() -> tuple[Protocol, ...]:
    def protocol(
        name: str,
        code: int,
        size: int | None = 0,
        pack: Callable[[str], bytes] = _pack_nothing,
        unpack: Callable[[bytes], str] = _unpack_nothing,
        path: bool = False,
    ) -> Protocol:
        return Protocol(name, code, size, pack, unpack, path, varint.encode(code))

    return (
        protocol("ip4", 4, 4, _pack_ip4, _unpack_ip4),
        protocol("tcp", 6, 2, _pack_port, _unpack_port),
        protocol("ip6", 41, 16, _pack_ip6, _unpack_ip6),
        protocol("ip6zone", 42, None, _pack_name, _unpack_name),
        protocol("dns", 53, None, _pack_name, _unpack_name),
        protocol("dns4", 54, None, _pack_name, _unpack_name),
        protocol("dns6", 55, None, _pack_name, _unpack_name),
        protocol("dnsaddr", 56, None, _pack_name, _unpack_name),
        protocol("udp", 273, 2, _pack_port, _unpack_port),
        protocol("webrtc-direct", 280),
        protocol("webrtc", 281),
        protocol("p2p-circuit", 290),
        protocol("unix", 400, None, _pack_path, _unpack_path, path=True),
        protocol("p2p", 421, None, _pack_peer, _unpack_peer),
        protocol("https", 443),
        protocol("onion3", 445, ONION + 2, _pack_onion3, _unpack_onion3),
        protocol("tls", 448),
        protocol("sni", 449, None, _pack_name, _unpack_name),
        protocol("noise", 454),
        protocol("quic", 460),
        protocol("quic-v1", 461),
        protocol("webtransport", 465),
        protocol("certhash", 466, None, _pack_certhash, _unpack_certhash),
        protocol("ws", 477),
        protocol("wss", 478),
        protocol("http", 480),
    )


BY_CODE = {protocol.code: protocol for protocol in _table()}
P2P = BY_CODE[421]
# "ipfs" is the older name of /p2p; read, never written.
BY_NAME = {protocol.name: protocol for protocol in BY_CODE.values()} | {"ipfs": P2P}
