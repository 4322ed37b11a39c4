"""Inbound connections until their handshake is done: who is let in, and whose place is taken.

Enters: connections that come, handshakes that end. Leaves: links, or nothing for a connection that
is one too many: it is closed before a byte of it is read.

Hosts are served fairly, since who they are is not known yet. Each IP address has caps. One machine
can have all addresses of an IPv6 /64 by itself, and the machines of a LAN are mostly in one; so a
/64 has caps of its own, as if it were some machines. Those of one IPv4 /24 or IPv6 /48 have caps
together, too. There is no cap of handshakes a second for all: one low enough to spare the
processor would be used up by whoever comes most often, and would hold up a hundred nodes that start
together; the turns of the reactor (:mod:`bzzz.net.turns`) let members have their share of the time
meanwhile.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable
from ipaddress import IPv6Address
from socket import AF_INET6, inet_pton
from typing import Any

from twisted.internet.interfaces import ILoggingContext
from twisted.internet.protocol import Factory, Protocol
from twisted.logger import Logger
from zope.interface import implementer

from bzzz.net.interfaces import Clock
from bzzz.net.link import Link
from bzzz.net.swarm_limits import SwarmLimits
from bzzz.net.token_bucket import Rate, TokenBuckets
from bzzz.wire.multiaddr import Multiaddr

__all__ = ["HOSTS_PER_SUBNET", "REFUND_RATE", "Accepting", "LinkFactory", "Place", "place_of"]

# An IPv6 /64 has as much as so many IP addresses: a LAN is mostly one, and a single machine can
# have each address of it. As an IPv4 /24 has of new connections.
HOSTS_PER_SUBNET = 4

# Handshakes of one host (an IPv4 address, or an IPv6 /64) that count for nothing, because a link
# came of them that is kept. Whoever is admitted may so come and go faster, but not without end: a
# node that is in no cluster admits everybody.
REFUND_RATE = Rate(1024, 64.0)

# Addresses, /64s and networks that are remembered, of each: at some 300 bytes each. One that is
# forgotten may come again as if it were new; but one network brings 1024 at once and 64 a second,
# and a bucket is full again after 16 s without use.
MAX_REMEMBERED = 4096

# That connections are refused is said again after so many seconds.
REFUSED_AGAIN = 60.0

# What begins each IPv4 address in IPv6 notation, ::ffff:192.0.2.1.
MAPPED = bytes(10) + b"\xff\xff"

# Bytes of an IPv6 address that are the subnet's, and the network's.
SUBNET_BYTES = 8
PREFIX_BYTES = 6

Place = str | bytes


def place_of(host: str) -> tuple[Place, Place, Place]:
    """An IP address, the subnet and the network that it is of.

    The subnet is the /64 of an IPv6 address, all of which one machine may have, and an IPv4 address
    itself; the network is a /48 or a /24.
    """
    if ":" in host:
        packed = inet_pton(AF_INET6, host.partition("%")[0])
        if not packed.startswith(MAPPED):
            return packed, packed[:SUBNET_BYTES], packed[:PREFIX_BYTES]
        host = ".".join(map(str, packed[len(MAPPED) :]))
    return host, host, host.rpartition(".")[0]


class Accepting:
    """Keeps count of the connections that came.

    :ivar pending: the links whose handshake is under way, the oldest first.
    :ivar counts: connections that were closed, by why.
    """

    _log = Logger()

    def __init__(self, clock: Clock, limits: SwarmLimits) -> None:
        self.pending: dict[Link, tuple[Place, Place]] = {}
        self.counts: Counter[str] = Counter()
        self._clock = clock
        self._limits = limits
        self._hosts = TokenBuckets[Place](limits.host_rate, MAX_REMEMBERED)
        self._subnets = TokenBuckets[Place](limits.host_rate * HOSTS_PER_SUBNET, MAX_REMEMBERED)
        self._prefixes = TokenBuckets[Place](limits.prefix_rate, MAX_REMEMBERED)
        self._refunds = TokenBuckets[Place](REFUND_RATE, MAX_REMEMBERED)
        # The address of which a link was made longest ago comes first.
        self._linked: OrderedDict[Place, None] = OrderedDict()
        self._of_host: dict[Place, dict[Link, None]] = {}
        self._of_prefix: dict[Place, dict[Link, None]] = {}
        self._said_at = float("-inf")
        self._unsaid = 0

    def takes(self, host: str) -> bool:
        """Whether a connection that comes from this IP address now is let in."""
        now = self._clock.seconds()
        address, subnet, prefix = place_of(host)
        wider = (self._subnets, subnet, "subnet"), (self._prefixes, prefix, "network")
        # Strangers around it do not keep out an address whose links were kept.
        if address not in self._linked:
            # First, or one that has a /64 would fill the table of addresses with new ones.
            for buckets, place, whose in wider:
                if not buckets.has(place, now):
                    self._refused(whose, place, buckets.rate, now)
                    return False
        if not self._hosts.take(address, now):
            self._refused("host", address, self._hosts.rate, now)
            return False
        for buckets, place, _ in wider:
            buckets.take(place, now)
        return True

    def started(self, link: Link, host: str) -> None:
        """A connection from this IP address starts its handshake.

        Where there are too many, the oldest goes: of the host or the network that has too many,
        or else of the host that has most. So connections that never finish keep nobody out.
        """
        # A /64 is one host here: one machine that has many addresses must not look like many.
        _, place, prefix = place_of(host)
        near = self._of_host.setdefault(place, {})
        around = self._of_prefix.setdefault(prefix, {})
        if len(near) >= self._limits.handshakes_per_host:
            self._drop(near, "host")
        elif len(around) >= self._limits.handshakes_per_prefix:
            self._drop(around, "network")
        elif len(self.pending) >= self._limits.handshakes:
            self._drop(max(self._of_host.values(), key=len), "all")
        self.pending[link] = place, prefix
        # Both may have been emptied, and forgotten, just now.
        self._of_host.setdefault(place, near)[link] = None
        self._of_prefix.setdefault(prefix, around)[link] = None

    def over(self, link: Link) -> None:
        """Its handshake is done, or it is gone."""
        places = self.pending.pop(link, None)
        if places is None:
            return
        for table, place in zip((self._of_host, self._of_prefix), places, strict=True):
            links = table[place]
            del links[link]
            if not links:
                del table[place]

    def linked(self, host: str) -> None:
        """A peer at this IP address, which either side dialled, has a link that is kept."""
        address, _, _ = place_of(host)
        self._linked[address] = None
        self._linked.move_to_end(address)
        if len(self._linked) > MAX_REMEMBERED:
            self._linked.popitem(last=False)

    def admitted(self, host: str) -> None:
        """What came from this IP address is a peer's link that is kept: it counts for nothing."""
        now = self._clock.seconds()
        address, subnet, prefix = place_of(host)
        # Of a /64 together, or one machine would come and go without end in a mesh that admits all.
        if self._refunds.take(subnet, now):
            self._hosts.give_back(address, now)
            self._subnets.give_back(subnet, now)
            self._prefixes.give_back(prefix, now)

    def _drop(self, links: dict[Link, None], whose: str) -> None:
        link = next(iter(links))
        # At once: that TCP is gone the link hears later, and others may come before.
        self.over(link)
        self.counts[f"dropped_{whose}"] += 1
        link.abort("too many connections are in their handshake")

    def _refused(self, whose: str, place: Place, rate: Rate, now: float) -> None:
        self.counts[f"refused_{whose}"] += 1
        self._unsaid += 1
        if now - self._said_at < REFUSED_AGAIN:
            return
        self._log.warn(
            "Connections are refused, {count} of them since this was last said: the {whose} {place}"
            " opens too many ({rate}). If it is none of yours, block it in this machine's firewall;"
            " if it is, find what there connects again and again",
            count=self._unsaid,
            whose=whose,
            place=_words(place, whose),
            rate=str(rate),
        )
        self._said_at = now
        self._unsaid = 0


@implementer(ILoggingContext)
class LinkFactory(Factory):
    """Makes the links of the connections that come to one listening port.

    :param host: where it listens.
    :param make: makes the link of a connection from an address.
    """

    noisy = False

    def __init__(self, accepting: Accepting, host: str, make: Callable[[Multiaddr], Link]) -> None:
        self._accepting = accepting
        self._host = host
        self._make = make

    def logPrefix(self) -> str:  # Twisted's name
        """The subject of Twisted's own log line ``... starting on <port>``."""
        return f"Accepting links at {self._host},"

    def buildProtocol(self, addr: Any) -> Protocol | None:
        """A link for the connection from ``addr``; None has Twisted close it."""
        if not self._accepting.takes(addr.host):
            return None
        link = self._make(Multiaddr.tcp(addr.host, addr.port))
        self._accepting.started(link, addr.host)
        return link


def _words(place: Place, whose: str) -> str:
    """``192.0.2.1``, ``192.0.2.0/24``, ``2001:db8::1``, ``2001:db8::/64`` or ``2001:db8::/48``."""
    if isinstance(place, str):
        return f"{place}.0/24" if whose == "network" else place
    address = IPv6Address(place.ljust(16, bytes(1)))
    return str(address) if whose == "host" else f"{address}/{len(place) * 8}"
