"""Bootstrap addresses made concrete: names are looked up anew for each try.

Enters: an address such as ``/dns/walnut.lan/tcp/40001`` or
``/ip4/192.0.2.7/tcp/40001/p2p/12D3...``. Leaves: addresses with IP literals. Whoever dials them
tries again and again, and the address behind a name may be another one by then.

``/dnsaddr/<name>`` stands for the addresses in the TXT records of ``_dnsaddr.<name>`` (libp2p
specs, addressing/README.md, "dnsaddr").
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet.defer import Deferred

from bzzz.errors import DialError
from bzzz.wire.multiaddr import AddressError, Multiaddr

__all__ = ["Bootstrap", "text_lookup"]

# Concrete addresses of one bootstrap address: what a name with several hosts, each with IPv4 and
# IPv6, may have.
MAX_ADDRESSES = 16

# How deep /dnsaddr may refer to /dnsaddr: libp2p's own bootstrap names need 2.
MAX_DEPTH = 3

# TXT records looked at behind one name.
MAX_TEXTS = 32

_FAMILIES = {"dns": socket.AF_UNSPEC, "dns4": socket.AF_INET, "dns6": socket.AF_INET6}


def system_lookup(host: str, port: int, family: int) -> list[str]:
    """The addresses of ``host`` as this machine's resolver has them. Blocks.

    :raises OSError: it has none, or nobody could be asked.
    """
    answers = socket.getaddrinfo(host, port, family, socket.SOCK_STREAM)
    return list(dict.fromkeys(str(answer[4][0]) for answer in answers))


def text_lookup(reactor: Any) -> Callable[[str], Deferred[list[bytes]]]:
    """Looks up TXT records by the name servers of ``/etc/resolv.conf``."""

    def lookup(name: str) -> Deferred[list[bytes]]:
        # Rarely needed, and a megabyte of modules.
        from twisted.names import client, dns

        resolver = client.Resolver(resolv="/etc/resolv.conf", reactor=reactor)
        found: Deferred[Any] = resolver.lookupText(name, timeout=(2, 4))

        def texts(answer: Any) -> list[bytes]:
            records = [record.payload for record in answer[0] if record.type == dns.TXT]
            # A long text comes in pieces of 255 bytes.
            return [b"".join(record.data) for record in records]

        return found.addCallback(texts)

    return lookup


class Bootstrap:
    """Makes bootstrap addresses concrete.

    :param defer_to_thread: runs a function in a thread.
    :param lookup: :func:`system_lookup`, or a fake.
    :param lookup_text: from :func:`text_lookup`; without it ``/dnsaddr`` is refused.
    """

    def __init__(
        self,
        defer_to_thread: Callable[[Callable[[], Any]], Deferred[Any]],
        lookup_text: Callable[[str], Deferred[list[bytes]]] | None = None,
        *,
        lookup: Callable[[str, int, int], list[str]] = system_lookup,
    ) -> None:
        self._defer_to_thread = defer_to_thread
        self._lookup = lookup
        self._lookup_text = lookup_text

    def resolve(self, address: Multiaddr) -> Deferred[Sequence[Multiaddr]]:
        """The concrete addresses of ``address`` now, without ``/p2p``; at least one.

        Fails with :class:`DialError`, which names what could not be looked up.
        """
        return Deferred.fromCoroutine(self._resolve(address))

    async def _resolve(self, address: Multiaddr) -> Sequence[Multiaddr]:
        found = await self._concrete(address, MAX_DEPTH)
        if not found:
            raise DialError(f"{address} stands for no address over TCP")
        return tuple(dict.fromkeys(found))[:MAX_ADDRESSES]

    async def _concrete(self, address: Multiaddr, depth: int) -> list[Multiaddr]:
        if address.components[0][0] == "dnsaddr":
            return await self._behind_dnsaddr(address, depth)
        place = address.host_port()
        if place is None:
            return []
        kind, host, port = place
        if kind in {"ip4", "ip6"}:
            return [address.without_peer()]
        try:
            hosts = await self._defer_to_thread(lambda: self._lookup(host, port, _FAMILIES[kind]))
        except (OSError, UnicodeError) as error:
            # UnicodeError: a label of the name is empty or too long.
            reason = getattr(error, "strerror", None) or str(error)
            raise DialError(f"the name {host} cannot be looked up: {reason}") from error
        return [Multiaddr.tcp(each, port) for each in hosts]

    async def _behind_dnsaddr(self, address: Multiaddr, depth: int) -> list[Multiaddr]:
        name = address.components[0][1] or ""
        if self._lookup_text is None:
            raise DialError(f"/dnsaddr is not supported here; use /dns/{name}/tcp/PORT")
        if depth == 0:
            raise DialError(f"/dnsaddr/{name} refers to itself, or too deep")
        # Imported here for it is only reached when the resolver, which imports it, was used.
        from twisted.names.error import DNSQueryTimeoutError, DomainError, ResolverError

        try:
            texts = await self._lookup_text(f"_dnsaddr.{name}")
        except (DomainError, ResolverError, DNSQueryTimeoutError, OSError) as error:
            raise DialError(
                f"the name _dnsaddr.{name} has no TXT record that can be looked up"
            ) from error
        wanted = address.peer_id
        found: list[Multiaddr] = []
        for text in texts[:MAX_TEXTS]:
            try:
                theirs = Multiaddr.parse(text.removeprefix(b"dnsaddr=").decode("ascii"))
            except (AddressError, UnicodeDecodeError):
                # Somebody else's record, or an address of a kind that we do not know.
                continue
            if wanted is not None and theirs.peer_id not in {None, wanted}:
                continue
            try:
                found += await self._concrete(theirs, depth - 1)
            except DialError:
                # The others may do.
                continue
            if len(found) >= MAX_ADDRESSES:
                break
        return found
