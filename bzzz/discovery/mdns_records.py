"""The DNS records by which nodes find each other, made and read. No sockets, no clock.

libp2p specs, discovery/mdns.md, with the service name that the running nodes use::

    bzzz-peer-discovery.local.         PTR  <peer name>.bzzz-peer-discovery.local.
    <peer name>.bzzz-peer-discovery... TXT  "dnsaddr=/ip4/192.0.2.7/tcp/4001/p2p/12D3KooW..." ...
    <peer name>.bzzz-peer-discovery... SRV  <peer name>.local. and that name's A and AAAA records

and for people with ``avahi-browse _bzzz._tcp``, RFC 6763::

    _bzzz._tcp.local.                  PTR  <node name>._bzzz._tcp.local.

What other implementations do, and what follows for ours:

- go-libp2p reads one TXT record per peer with all addresses as its strings, and drops answers that
  lack an A or AAAA record for the SRV record's host. It ignores strings that are not ``dnsaddr=``.
- js-libp2p answers with one TXT record per address, takes all TXT records of a packet as one peer,
  only looks at the last PTR record and ignores TTLs. So a packet announces one peer, and a goodbye
  has no TXT record, or it would be taken for a peer that has just come.
"""

from __future__ import annotations

import base64
import ipaddress
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

# All but ServiceInfo are there for others to import, but not marked so for type checkers.
from zeroconf import (  # type: ignore[attr-defined]
    DNSOutgoing,
    DNSPointer,
    DNSQuestion,
    DNSRecord,
    ServiceInfo,
    current_time_millis,
)

from bzzz.discovery.network_interfaces import NetworkInterface
from bzzz.errors import RemoteProtocolError
from bzzz.identity.peer_id import PeerID
from bzzz.net.interfaces import Randomness
from bzzz.wire.multiaddr import AddressError, Multiaddr

__all__ = [
    "DNS_SD",
    "SERVICE",
    "Announced",
    "Heard",
    "announced_on",
    "announcement",
    "dns_sd_service",
    "goodbye",
    "hosts",
    "parse_texts",
    "peer_name",
    "peer_service",
    "probe",
    "question",
    "reachable",
    "text_question",
]

SERVICE = "bzzz-peer-discovery.local."
DNS_SD = "_bzzz._tcp.local."

# Addresses in one announcement: with IPv6 and a peer ID each takes up to 125 bytes, and a record is
# not to be split over packets of 1500 bytes.
MAX_ANNOUNCED = 8

# Addresses taken of one peer, and TXT strings looked at to find them: as many as membership keeps,
# and some for protocols we do not speak (QUIC, WebSocket, WebTransport of each address).
MAX_HEARD = 16
MAX_STRINGS = 128

# Known answers in one question: more would be many packets each time, to save as many answers.
MAX_KNOWN = 200

# The longest name a peer may give itself, in characters (a DNS label).
MAX_NAME = 63

_PREFIX = b"dnsaddr="
_NAME = b"name="

# RFC 6762 section 18, RFC 1035 section 3.2.
_RESPONSE = 0x8400
_QUERY = 0x0000
_TYPE_PTR = 12
_TYPE_TXT = 16
_TYPE_ANY = 255
_CLASS_IN = 1


@dataclass(frozen=True, slots=True)
class Announced:
    """What is announced on one interface, and how its sockets are made.

    :ivar addresses: without ``/p2p``; all reachable on this interface.
    :ivar ipv4: the interface's address to send from, or None without IPv4.
    :ivar ipv6: whether to send over IPv6 too.
    """

    interface: str
    index: int
    is_loopback: bool
    addresses: tuple[Multiaddr, ...]
    ipv4: str | None
    ipv6: bool


@dataclass(frozen=True, slots=True)
class Heard:
    """A peer as it announces itself.

    :ivar addresses: those over TCP, without ``/p2p``.
    """

    peer_id: PeerID
    addresses: tuple[Multiaddr, ...]
    name: str


def milliseconds() -> float:
    """The time as zeroconf's records have it."""
    return float(current_time_millis())


def peer_name(random: Randomness) -> str:
    """A fresh random name of 32 lower-case letters and digits, as the specification asks for."""
    name = random.randbytes(20)  # nosec B311 # it is announced to everybody
    return base64.b32encode(name).decode().lower()


def announced_on(interface: NetworkInterface, port: int) -> Announced | None:
    """What to announce on ``interface`` for a node that listens on ``port``.

    None where nothing is: it is not used, or has no multicast (a VPN). Loopback has none by its
    flags, but does deliver it.
    """
    if not interface.used or not (interface.multicast or interface.is_loopback):
        return None
    addresses = interface.usable_addresses[:MAX_ANNOUNCED]
    if not addresses:
        return None
    ipv4 = next((address.ip for address in addresses if address.version == 4), None)
    return Announced(
        interface.name,
        interface.index,
        interface.is_loopback,
        tuple(Multiaddr.tcp(address.ip, port) for address in addresses),
        ipv4,
        # Loopback has no route for IPv6 multicast.
        not interface.is_loopback and any(address.version == 6 for address in interface.addresses),
    )


def _text(strings: Iterable[bytes]) -> bytes:
    """The data of a TXT record: each string after its length."""
    return b"".join(bytes((len(string),)) + string for string in strings if len(string) <= 255)


def hosts(announced: Announced) -> list[str]:
    """The IP addresses that are announced."""
    return [place[1] for each in announced.addresses if (place := each.host_port()) is not None]


def _port(announced: Announced) -> int:
    place = announced.addresses[0].host_port()
    return place[2] if place is not None else 0


def peer_service(label: str, announced: Announced, peer_id: PeerID, name: str) -> ServiceInfo:
    """The records under :data:`SERVICE`; ``label`` is from :func:`peer_name`."""
    strings = [_PREFIX + str(each.with_peer(peer_id)).encode() for each in announced.addresses]
    if name:
        strings.append(_NAME + name.encode())
    return ServiceInfo(
        SERVICE,
        f"{label}.{SERVICE}",
        _port(announced),
        properties=_text(strings),
        server=f"{label}.local.",
        parsed_addresses=hosts(announced),
    )


def dns_sd_service(
    instance: str, label: str, announced: Announced, peer_id: PeerID, version: str
) -> ServiceInfo:
    """The records under :data:`DNS_SD`.

    Its host is ``label`` and not the host's name: that one belongs to the host's own responder,
    which would take ours for a conflict and rename the host.
    """
    return ServiceInfo(
        DNS_SD,
        f"{instance}.{DNS_SD}",
        _port(announced),
        properties=_text((f"id={peer_id}".encode(), f"v={version}".encode())),
        server=f"{label}.local.",
        parsed_addresses=hosts(announced),
    )


def announcement(service: ServiceInfo) -> DNSOutgoing:
    """An unsolicited response with all records of ``service``: RFC 6762 section 8.3."""
    out = DNSOutgoing(_RESPONSE)
    records: list[DNSRecord] = [service.dns_pointer(), service.dns_service(), service.dns_text()]
    for record in (*records, *service.dns_addresses()):
        out.add_answer_at_time(record, 0)
    return out


def goodbye(service: ServiceInfo) -> DNSOutgoing:
    """RFC 6762 section 10.1. No TXT record: see the module's docstring."""
    out = DNSOutgoing(_RESPONSE)
    out.add_answer_at_time(service.dns_pointer(override_ttl=0), 0)
    return out


def question(known: Sequence[DNSPointer] = (), now: float = 0.0) -> DNSOutgoing:
    """Who is there? Peers among ``known`` need not answer: RFC 6762 section 7.1.

    :param now: in zeroconf's milliseconds; a pointer past half its life is not known any more.
    """
    out = DNSOutgoing(_QUERY)
    out.add_question(DNSQuestion(SERVICE, _TYPE_PTR, _CLASS_IN))
    fresh = [pointer for pointer in known if not pointer.is_stale(now)]
    for pointer in fresh[:MAX_KNOWN]:
        out.add_answer_at_time(pointer, now)
    return out


def text_question(name: str) -> DNSOutgoing:
    """What are the addresses of the peer announced as ``name``?"""
    out = DNSOutgoing(_QUERY)
    out.add_question(DNSQuestion(name, _TYPE_TXT, _CLASS_IN))
    return out


def probe(service: ServiceInfo) -> DNSOutgoing:
    """Is the name of ``service`` taken? RFC 6762 section 8.1."""
    out = DNSOutgoing(_QUERY)
    out.add_question(DNSQuestion(service.name, _TYPE_ANY, _CLASS_IN))
    return out


# -- what others announce


def parse_texts(texts: Iterable[bytes]) -> Heard:
    """Read the TXT records of one peer; several records are as one.

    An address over something other than TCP on an IP literal is passed over, as is one of another
    peer than the first.

    :raises RemoteProtocolError: no string names a peer.
    """
    peer_id: PeerID | None = None
    addresses: dict[Multiaddr, None] = {}
    name = ""
    for string in _strings(texts):
        if string.startswith(_NAME):
            name = _printable(string.removeprefix(_NAME))
        if not string.startswith(_PREFIX):
            continue
        try:
            address = Multiaddr.parse(string.removeprefix(_PREFIX).decode("ascii"))
        except (AddressError, UnicodeDecodeError):
            # Of a kind that we do not know; the others may be of use.
            continue
        theirs = address.peer_id
        if theirs is None or (peer_id is not None and theirs != peer_id):
            continue
        peer_id = theirs
        place = address.host_port()
        if place is not None and place[0] in {"ip4", "ip6"} and len(addresses) < MAX_HEARD:
            addresses[address.without_peer()] = None
    if peer_id is None:
        raise RemoteProtocolError("an mDNS announcement names no peer", "mdns_no_peer")
    return Heard(peer_id, tuple(addresses), name)


def _strings(texts: Iterable[bytes]) -> Iterable[bytes]:
    count = 0
    for text in texts:
        offset = 0
        while offset < len(text) and count < MAX_STRINGS:
            end = offset + 1 + text[offset]
            if end > len(text):
                raise RemoteProtocolError("an mDNS TXT record is cut off", "mdns_text_truncated")
            yield text[offset + 1 : end]
            offset = end
            count += 1


def _printable(name: bytes) -> str:
    text = name.decode("utf-8", "replace")[:MAX_NAME]
    return text if text.isprintable() else ""


def reachable(addresses: Iterable[Multiaddr], on_loopback: bool) -> tuple[Multiaddr, ...]:
    """Those of ``addresses`` that can be dialled when heard on an interface.

    A loopback address heard from another machine is that machine's own; an IPv6 link-local one
    lacks the zone. On loopback everything comes from this machine.
    """
    good = []
    for address in addresses:
        place = address.host_port()
        if place is None:
            continue
        _, host, port = place
        ip = ipaddress.ip_address(host)
        if port == 0 or ip.is_unspecified or ip.is_multicast:
            continue
        if ip.version == 6 and (ip.is_link_local or ip.ipv4_mapped is not None):
            continue
        if ip.is_loopback and not on_loopback:
            continue
        good.append(address)
    return tuple(good)
