"""Announcing and listening on one network interface. Runs in the thread of its zeroconf instance.

Enters: DNS records that zeroconf has parsed. Leaves: packets, and calls of an :class:`Ear`.

One instance per interface, for zeroconf sends one answer to whoever asks: an instance that knew the
addresses of two interfaces would tell hosts on the one of addresses on the other. For the same
reason each has a peer name of its own.

Questions follow RFC 6762 section 5.2, announcements section 8.3.
"""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Callable, Collection, Container, Iterator
from typing import Protocol

from zeroconf import (  # type: ignore[attr-defined]  # exported, but not marked so
    DNSPointer,
    DNSRecord,
    DNSText,
    IPVersion,
    RecordUpdate,
    RecordUpdateListener,
    ServiceInfo,
    Zeroconf,
)
from zeroconf.asyncio import AsyncZeroconf

from bzzz.discovery import mdns_records
from bzzz.discovery.mdns_records import DNS_SD, SERVICE, Announced, Heard
from bzzz.errors import RemoteProtocolError
from bzzz.identity.peer_id import PeerID
from bzzz.net.interfaces import Randomness
from bzzz.wire.multiaddr import Multiaddr

__all__ = ["Ear", "MdnsInterface", "Timer", "open_zeroconf", "question_times"]

# Peers kept per interface: more is not a LAN but somebody inventing peers; the oldest is dropped.
MAX_PEERS = 4096

# Questions for the addresses of peers of which only the name was said, per second. Nobody known
# does that; without a limit one packet full of made-up names would bring a hundred of ours.
MAX_TEXT_QUESTIONS = 16

# The same announcement is reported again only after this many seconds: each node's question brings
# an answer of all others, which everybody hears.
REPORT_AGAIN = 5.0

# The same for our own peer ID with foreign addresses, which leads to a dial of those.
CONFLICT_AGAIN = 60.0

# Announcements after the first, in seconds: RFC 6762 wants at least two, a second apart. On Wi-Fi
# multicast is not repeated by the link layer.
ANNOUNCE_AGAIN = (1.0,)

# Seconds before the first question, at random, so that hosts that start together do not ask
# together. RFC 6762 section 5.2 has 20 to 120 ms for programs that have nothing but the answers to
# go by. Here the peers that hear our announcement dial us, and tell of the others; a question would
# have all of them answer to all, and both sides dial.
FIRST_QUESTION = (1.0, 1.5)

# Further questions: the first after a second, each next one this many times later, to 10 minutes.
# Announcements tell of new peers; questions find those whose announcement was lost.
QUESTION_FACTOR = 3.0
QUESTION_MAX = 600.0

# A node that is in touch with others leaves out the questions that come sooner than so many seconds
# after the one before.
UNNEEDED_IN_TOUCH = 27.0

# From this many seconds between questions on, the node answers its own question, so that it is
# announced again to all; before, its announcements do.
ANSWER_OWN = 9.0

# Until our own announcement must have come back, in seconds; it takes less than a millisecond.
COMES_BACK = 3.0

# Seconds after the start until the node is announced as a DNS-SD service: people look at that, and
# what nodes need to find each other goes first.
DNS_SD_AFTER = (30.0, 60.0)

# Seconds that the owner of a name has to object: RFC 6762 section 8.1.
PROBE = 0.25

_TYPE_PTR = 12
_TYPE_TXT = 16
_CLASS_IN = 1

# From linux/in.h and linux/in6.h.
_IP_MULTICAST_ALL = 49
_IPV6_MULTICAST_ALL = 29


class Timer(Protocol):
    """What ``call_later`` returns."""

    def cancel(self) -> None:
        """Do not call."""


class Ear(Protocol):
    """What is told of an interface."""

    def heard(self, interface: str, peer: Heard) -> None:
        """A peer is there; its addresses are reachable from this interface."""

    def gone(self, interface: str, peer: PeerID) -> None:
        """A peer says that it leaves."""

    def copied(self, interface: str, addresses: tuple[Multiaddr, ...]) -> None:
        """Somebody else announces our own peer ID."""

    def problem(self, interface: str, what: str, mend: str) -> None:
        """It does not work, and what to do about it; nothing in ``what``: it works."""


def open_zeroconf(announced: Announced) -> Zeroconf:
    """A zeroconf instance that sends on one interface, in the running asyncio loop.

    :raises OSError: port 5353 is held by somebody who does not share it, or there is no multicast.
    """
    attempts: list[tuple[list[str | int], IPVersion]] = []
    if announced.ipv4 is not None and announced.ipv6:
        attempts.append(([announced.ipv4, announced.index], IPVersion.All))
    if announced.ipv4 is not None:
        attempts.append(([announced.ipv4], IPVersion.V4Only))
    if announced.ipv6:
        attempts.append(([announced.index], IPVersion.V6Only))
    problem: Exception | None = None
    for interfaces, version in attempts:
        try:
            # Blocks for as long as it takes to make a few sockets.
            return Zeroconf(interfaces=interfaces, ip_version=version, use_asyncio=True)
        except (OSError, RuntimeError) as error:
            # RuntimeError: the interface has lost the address meanwhile.
            problem = error
    raise OSError(str(problem or "the interface has no address"))


def only_this_interface(zeroconf: Zeroconf, announced: Announced) -> None:
    """Let the sockets hear only what arrives on the interface.

    A socket bound to the wildcard address otherwise gets what any socket of the machine has joined.
    """
    for reader in zeroconf.engine.readers:
        sock = reader.transport.get_extra_info("socket")
        if sock is None:
            continue
        try:
            # Allowed to everybody since Linux 5.7, if it was not bound to another before.
            sock.setsockopt(
                socket.SOL_SOCKET, socket.SO_BINDTODEVICE, announced.interface.encode() + b"\0"
            )
        except OSError:
            for level, option in (
                (socket.IPPROTO_IP, _IP_MULTICAST_ALL),
                (socket.IPPROTO_IPV6, _IPV6_MULTICAST_ALL),
            ):
                try:
                    sock.setsockopt(level, option, 0)
                except OSError:
                    # Of the other family. Without any of it unreachable addresses of other
                    # interfaces' peers may be heard; dialling them fails, and does no harm.
                    pass


def question_times(random: Randomness) -> Iterator[float]:
    """Seconds from one question to the next, without end."""
    yield random.uniform(*FIRST_QUESTION)  # nosec B311 # when it asks is no secret
    delay = 1.0
    while True:
        yield delay * random.uniform(1.0, 1.05)  # nosec B311 # likewise
        delay = min(delay * QUESTION_FACTOR, QUESTION_MAX)


class MdnsInterface(RecordUpdateListener):
    """One interface.

    :param zeroconf: opened for this interface.
    :param peer_id: of this node.
    :param name: of this node, for people.
    :param own_names: the PTR targets of this node on all its interfaces, now and before.
    :param own_addresses: the addresses of this node on all its interfaces.
    :param in_touch: whether a connection is up between one of these IP addresses and another node.
    :param now: monotonic seconds.
    """

    def __init__(
        self,
        zeroconf: Zeroconf,
        announced: Announced,
        *,
        peer_id: PeerID,
        name: str,
        version: str,
        label: str,
        own_names: Container[str],
        own_addresses: Callable[[], Container[Multiaddr]],
        in_touch: Callable[[Collection[str]], bool],
        ear: Ear,
        random: Randomness,
        now: Callable[[], float],
        call_later: Callable[[float, Callable[[], None]], Timer],
    ) -> None:
        self.announced = announced
        self.counts: Counter[str] = Counter()
        self.service = mdns_records.peer_service(label, announced, peer_id, name)
        self._dns_sd: ServiceInfo | None = None
        self._text_questions = 0
        self._zeroconf = zeroconf
        self._peer_id = peer_id
        self._name = name
        self._version = version
        self._label = label
        self._own_names = own_names
        self._own_addresses = own_addresses
        self._in_touch = in_touch
        self._ear = ear
        self._random = random
        self._now = now
        self._call_later = call_later
        self._timers: dict[str, Timer] = {}
        # By PTR target, the longest unheard first: what was last reported, when, and its texts, for
        # most of what is heard is known, and need not be parsed again.
        self._peers: dict[str, tuple[Heard, float, list[bytes]]] = {}
        self._conflict_at = float("-inf")
        self._came_back = False
        self._closed = False

    @property
    def peers(self) -> int:
        """How many others are announced here now. May be asked from another thread."""
        # Copied first, which is atomic, for this thread may change it meanwhile.
        return len({heard.peer_id for heard, _, _ in tuple(self._peers.values())})

    @property
    def incomplete(self) -> bool:
        """Whether it sends over only one of IPv4 and IPv6 where it should over both."""
        wanted = (self.announced.ipv4 is not None) + self.announced.ipv6
        return len(self._zeroconf.engine.senders) < wanted

    # -- life

    def start(self) -> None:
        """Announce, ask, and keep doing so."""
        self._zeroconf.async_add_listener(self, None)
        self._zeroconf.registry.async_add(self.service)
        self.refresh()
        self._after("dns-sd", self._random.uniform(*DNS_SD_AFTER), self._probe_dns_sd)

    def refresh(self) -> None:
        """Announce and ask as at the start: the network may have changed."""
        if self._closed:
            return
        self._came_back = False
        self._announce(list(ANNOUNCE_AGAIN))
        self._question_times = question_times(self._random)
        self._plan_question()
        self._after("comes back", COMES_BACK, self._check_came_back)

    async def repair(self) -> None:
        """Make the sockets that could not be made: an IPv6 address takes a while to be usable."""
        if self._closed or not self.incomplete:
            return
        # What fails is for zeroconf to log; the interface stays as it is.
        await self._zeroconf.async_update_interfaces()
        only_this_interface(self._zeroconf, self.announced)

    async def close(self) -> None:
        """Say goodbye and give the sockets back."""
        if self._closed:
            return
        self._closed = True
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        self._zeroconf.async_remove_listener(self)
        registry = self._zeroconf.registry
        services = registry.async_get_service_infos()
        # Removed before, or zeroconf would say a goodbye of its own, with the TXT record.
        registry.async_remove(services)
        for service in services:
            self._zeroconf.async_send(mdns_records.goodbye(service))
        await AsyncZeroconf(zc=self._zeroconf).async_close()

    def _after(self, what: str, delay: float, call: Callable[[], None]) -> None:
        before = self._timers.pop(what, None)
        if before is not None:
            before.cancel()

        def due() -> None:
            del self._timers[what]
            call()

        self._timers[what] = self._call_later(delay, due)

    # -- what we say

    def _announce(self, again: list[float]) -> None:
        self._zeroconf.async_send(mdns_records.announcement(self.service))
        if again:
            self._after("announce", again[0], lambda: self._announce(again[1:]))

    def _plan_question(self) -> None:
        delay = next(self._question_times)
        self._after("ask", delay, lambda: self._ask_if_needed(delay))

    def _ask_if_needed(self, delay: float) -> None:
        if delay >= UNNEEDED_IN_TOUCH or not self._in_touch(mdns_records.hosts(self.announced)):
            self._ask(delay >= ANSWER_OWN)
        self._plan_question()

    def _ask(self, answer_own: bool) -> None:
        now = mdns_records.milliseconds()
        known = [
            record
            for record in self._zeroconf.cache.async_all_by_details(SERVICE, _TYPE_PTR, _CLASS_IN)
            if isinstance(record, DNSPointer)
            and not (answer_own and record.alias.lower() in self._own_names)
        ]
        self._zeroconf.async_send(mdns_records.question(known, now))

    def _check_came_back(self) -> None:
        if self._came_back:
            return
        self._ear.problem(
            self.announced.interface,
            "our own announcement does not come back: something filters multicast",
            "allow UDP port 5353 to and from 224.0.0.251 (and ff02::fb) in the firewall,"
            " or name another node by --bootstrap",
        )

    # -- DNS-SD, for people

    def _probe_dns_sd(self) -> None:
        taken = set()
        for record in self._zeroconf.cache.async_all_by_details(DNS_SD, _TYPE_PTR, _CLASS_IN):
            if isinstance(record, DNSPointer):
                taken.add(record.alias.lower())
        # A dot would end the label.
        plain = (self._name or "bzzz").replace(".", "-")[:58]
        instance, number = plain, 1
        while f"{instance}.{DNS_SD}".lower() in taken:
            number += 1
            instance = f"{plain}-{number}"
        self._dns_sd = mdns_records.dns_sd_service(
            instance, self._label, self.announced, self._peer_id, self._version
        )
        self._zeroconf.async_send(mdns_records.probe(self._dns_sd))
        self._after("dns-sd", PROBE, self._add_dns_sd)

    def _add_dns_sd(self) -> None:
        service = self._dns_sd
        if service is None:
            return
        if self._zeroconf.cache.async_entries_with_name(service.name.lower()):
            # Its owner objected, or announced itself meanwhile.
            self._after("dns-sd", self._random.uniform(*DNS_SD_AFTER), self._probe_dns_sd)
            return
        self._zeroconf.registry.async_add(service)
        self._announce_dns_sd(list(ANNOUNCE_AGAIN))

    def _announce_dns_sd(self, again: list[float]) -> None:
        if self._dns_sd is None:
            return
        self._zeroconf.async_send(mdns_records.announcement(self._dns_sd))
        if again:
            self._after("dns-sd", again[0], lambda: self._announce_dns_sd(again[1:]))

    # -- what others say

    def async_update_records(self, zc: Zeroconf, now: float, records: list[RecordUpdate]) -> None:
        """Called by zeroconf with the records of one packet, or with those that have expired."""
        try:
            self._take(now, [update.new for update in records])
        except Exception as error:  # noqa: BLE001 - else zeroconf would lose the rest of the packet
            self.counts["bug"] += 1
            self._ear.problem(self.announced.interface, f"bug: {error!r}", "please report it")

    def async_update_records_complete(self) -> None:
        """Called by zeroconf when its cache has the records. Not of interest here."""

    def _take(self, now: float, records: list[DNSRecord]) -> None:
        texts: dict[str, list[bytes]] = {}
        named: dict[str, None] = {}
        for record in records:
            if isinstance(record, DNSPointer) and record.key == SERVICE:
                target = record.alias.lower()
                if record.is_expired(now):
                    self._ended(target, goodbye=record.ttl == 0)
                elif target.endswith(f".{SERVICE}"):
                    named[target] = None
            elif isinstance(record, DNSText) and record.key.endswith(f".{SERVICE}"):
                if record.is_expired(now):
                    continue
                texts.setdefault(record.key, []).append(record.text)
                named[record.key] = None
        for target in named:
            if target in self._own_names:
                self._own_came_back()
                continue
            found = texts.get(target) or [
                record.text
                for record in self._zeroconf.cache.async_all_by_details(
                    target, _TYPE_TXT, _CLASS_IN
                )
                if isinstance(record, DNSText)
            ]
            if found:
                self._announced(target, found)
            elif target not in self._peers:
                self._ask_texts(target)

    def _ask_texts(self, target: str) -> None:
        """Ask a responder that sends addresses only when asked for them."""
        if self._text_questions >= MAX_TEXT_QUESTIONS:
            self.counts["mdns_many_names"] += 1
            return
        if self._text_questions == 0:
            self._after("text questions", 1.0, self._allow_text_questions)
        self._text_questions += 1
        self._zeroconf.async_send(mdns_records.text_question(target))

    def _allow_text_questions(self) -> None:
        self._text_questions = 0

    def _own_came_back(self) -> None:
        if not self._came_back:
            self._came_back = True
            self._ear.problem(self.announced.interface, "", "")

    def _announced(self, target: str, texts: list[bytes]) -> None:
        now = self._now()
        before = self._peers.get(target)
        if before is not None and before[2] == texts and now - before[1] < REPORT_AGAIN:
            self._peers[target] = self._peers.pop(target)
            return
        try:
            heard = mdns_records.parse_texts(texts)
        except RemoteProtocolError as error:
            self.counts[error.code] += 1
            return
        addresses = mdns_records.reachable(heard.addresses, self.announced.is_loopback)
        if not addresses:
            self.counts["mdns_unreachable"] += 1
            return
        if heard.peer_id == self._peer_id:
            self._copied(addresses, now)
            return
        heard = Heard(heard.peer_id, addresses, heard.name)
        self._peers.pop(target, None)
        if before is not None and before[0] == heard and now - before[1] < REPORT_AGAIN:
            self._peers[target] = (heard, before[1], texts)
            return
        while len(self._peers) >= MAX_PEERS:
            del self._peers[next(iter(self._peers))]
        self._peers[target] = (heard, now, texts)
        self._ear.heard(self.announced.interface, heard)

    def _copied(self, addresses: tuple[Multiaddr, ...], now: float) -> None:
        ours = self._own_addresses()
        foreign = tuple(address for address in addresses if address not in ours)
        if foreign and now - self._conflict_at >= CONFLICT_AGAIN:
            self._conflict_at = now
            self._ear.copied(self.announced.interface, foreign)

    def _ended(self, target: str, goodbye: bool) -> None:
        before = self._peers.pop(target, None)
        if before is None or not goodbye:
            return
        peer = before[0].peer_id
        # One that has restarted meanwhile is there under its new name.
        if all(heard.peer_id != peer for heard, _, _ in self._peers.values()):
            self._ear.gone(self.announced.interface, peer)
