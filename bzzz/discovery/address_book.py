"""The addresses of peers seen, kept on disk for the next start and for where multicast fails.

Enters: who is said to be where, and where who was reached. Leaves: peers to try at start, and the
order in which the addresses of one are dialled. The file is JSON, replaced atomically, written at
most every 5 s and only when something in it is new. It holds nothing secret and nothing that cannot
be learnt again.
"""

from __future__ import annotations

import ipaddress
import os
import stat
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger

from bzzz.atomic_file import write_atomically
from bzzz.discovery.network_interfaces import NetworkInterface
from bzzz.errors import IdentityError
from bzzz.identity.peer_id import PeerID
from bzzz.net.background import in_background
from bzzz.net.interfaces import Clock
from bzzz.wire.multiaddr import AddressError, Multiaddr

__all__ = ["AddressBook", "BookEntry"]

# Peers kept: four times the largest mesh that the links allow. Those never reached go first.
MAX_PEERS = 1024

# Addresses kept per peer, as in the membership.
MAX_ADDRESSES = 16

# Seconds that a peer is kept of which nobody says anything: a machine on holiday comes back.
EXPIRY = 30 * 86400.0

# Seconds between a change and its writing, for more changes to come along.
DEBOUNCE = 5.0

# How exact the times on disk need be, in seconds: no write for a peer that is merely seen again.
RESOLUTION = 3600.0

# Bytes of the largest file that is read: ten times what MAX_PEERS fill.
MAX_FILE = 32 * 1024 * 1024

# Files put aside because they were damaged; beyond, the last one is overwritten.
MAX_DAMAGED = 10

VERSION = 1


class _StoredAddress(msgspec.Struct, omit_defaults=True):
    address: str
    last_seen: float
    source: str = ""
    last_success: float | None = None


class _StoredPeer(msgspec.Struct, omit_defaults=True):
    peer_id: str
    addresses: list[_StoredAddress]
    name: str = ""


class _StoredBook(msgspec.Struct):
    version: int
    peers: list[_StoredPeer]


class _Damaged(Exception):
    """The file cannot be used as it is; says why."""


class _Place:
    """What is known of one address."""

    __slots__ = ("last_seen", "last_success", "source")

    def __init__(self, last_seen: float, source: str, last_success: float | None = None) -> None:
        self.last_seen = last_seen
        self.source = source
        self.last_success = last_success

    @property
    def worth(self) -> tuple[float, float]:
        """The least is forgotten first."""
        return (self.last_success or 0.0, self.last_seen)


class BookEntry:
    """A peer in the book.

    :ivar places: by address, what is known of it.
    """

    __slots__ = ("name", "peer_id", "places")

    def __init__(self, peer_id: PeerID, name: str = "") -> None:
        self.peer_id = peer_id
        self.name = name
        self.places: dict[Multiaddr, _Place] = {}

    @property
    def addresses(self) -> tuple[Multiaddr, ...]:
        """The addresses, those where it was reached last first."""
        return tuple(
            sorted(self.places, key=lambda address: self.places[address].worth, reverse=True)
        )

    @property
    def worth(self) -> tuple[float, float]:
        """The least is forgotten first."""
        return max((place.worth for place in self.places.values()), default=(0.0, 0.0))

    @property
    def last_heard(self) -> float:
        """When it was last seen or reached."""
        return max(
            (max(place.last_seen, place.last_success or 0.0) for place in self.places.values()),
            default=0.0,
        )


class AddressBook:
    """See the module.

    :param path: the file.
    :param wall_time: seconds since the epoch.
    :param defer_to_thread: runs a function in a thread.
    """

    _log = Logger()

    def __init__(
        self,
        path: Path,
        clock: Clock,
        wall_time: Callable[[], float],
        defer_to_thread: Callable[[Callable[[], Any]], Deferred[Any]],
    ) -> None:
        self._path = path
        self._clock = clock
        self._wall_time = wall_time
        self._defer_to_thread = defer_to_thread
        self._peers: dict[PeerID, BookEntry] = {}
        self._networks: tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...] = ()
        self._dirty = False
        self._timer: IDelayedCall | None = None
        self._writing: Deferred[None] | None = None
        self._failed = ""

    # -- life

    def load(self) -> Deferred[None]:
        """Read the file; call once, before all else. A damaged one is put aside. Never fails."""
        return Deferred.fromCoroutine(self._load())

    async def _load(self) -> None:
        try:
            data = await self._defer_to_thread(lambda: _read(self._path))
            if data is None:
                return
            skipped = self._take(data)
            if skipped:
                raise _Damaged(f"{skipped} entries cannot be read; the others are used")
        except OSError as error:
            self._log.warn(
                "The address book {path} cannot be read: {error}. Starting with none",
                path=str(self._path),
                error=error,
            )
        except _Damaged as damage:
            aside = await self._put_aside()
            self._log.warn(
                "The address book {path} is damaged: {damage}. It was put aside as {aside};"
                " addresses are learnt again",
                path=str(self._path),
                damage=str(damage),
                aside=aside,
            )
            self._change()

    def close(self) -> Deferred[None]:
        """Write what is not yet written. Never fails."""
        return in_background(self._close(), "writing the address book", self._log)

    async def _close(self) -> None:
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None
        if self._writing is not None:
            await _after(self._writing)
        if self._dirty:
            await self._write()

    # -- what is learnt

    def seen(
        self, peer: PeerID, addresses: Sequence[Multiaddr], source: str, name: str = ""
    ) -> None:
        """``peer`` is said to be at ``addresses``."""
        entry = self._entry(peer)
        if name and entry.name != name:
            entry.name = name
            self._change()
        for address in addresses:
            self._at(entry, address, source)

    def succeeded(self, peer: PeerID, address: Multiaddr) -> None:
        """``peer`` was reached at ``address``."""
        entry = self._entry(peer)
        place = self._at(entry, address, "dialled")
        now = self._wall_time()
        best = max((each.last_success or 0.0 for each in entry.places.values()), default=0.0)
        before, place.last_success = place.last_success, now
        if before is None or before < best or now - before >= RESOLUTION:
            self._change()

    def use_interfaces(self, interfaces: Iterable[NetworkInterface]) -> None:
        """Which networks this node is in, for the order of dialling."""
        self._networks = tuple(
            address.network
            for interface in interfaces
            if interface.used
            for address in interface.usable_addresses
        )

    def _entry(self, peer: PeerID) -> BookEntry:
        entry = self._peers.get(peer)
        if entry is None:
            if len(self._peers) >= MAX_PEERS:
                least = min(self._peers.values(), key=lambda each: each.worth)
                del self._peers[least.peer_id]
            entry = self._peers[peer] = BookEntry(peer)
        return entry

    def _at(self, entry: BookEntry, address: Multiaddr, source: str) -> _Place:
        now = self._wall_time()
        plain = address.without_peer()
        place = entry.places.get(plain)
        if place is None:
            if len(entry.places) >= MAX_ADDRESSES:
                del entry.places[min(entry.places, key=lambda each: entry.places[each].worth)]
            place = entry.places[plain] = _Place(now, source)
            self._change()
        elif now - place.last_seen >= RESOLUTION:
            self._change()
        else:
            return place
        place.last_seen = now
        place.source = source
        return place

    # -- what is asked

    def entries(self) -> list[BookEntry]:
        """All peers, those reached last first."""
        return sorted(self._peers.values(), key=lambda entry: entry.worth, reverse=True)

    def ordered(self, peer: PeerID, addresses: Sequence[Multiaddr]) -> list[Multiaddr]:
        """``addresses``, the most promising first.

        Those where the peer was reached, the last one first; then those in a network of this
        node's; then the others as they are.
        """
        entry = self._peers.get(peer)

        def rank(address: Multiaddr) -> tuple[float, bool]:
            place = entry.places.get(address.without_peer()) if entry is not None else None
            success = place.last_success if place is not None else None
            return (-(success or 0.0), not self._is_near(address))

        return sorted(addresses, key=rank)

    def _is_near(self, address: Multiaddr) -> bool:
        place = address.host_port()
        if place is None or place[0] not in {"ip4", "ip6"}:
            return False
        ip = ipaddress.ip_address(place[1])
        return any(ip.version == network.version and ip in network for network in self._networks)

    # -- the file

    def _take(self, data: bytes) -> int:
        """Fill the book; returns how many entries could not be read.

        :raises _Damaged: nothing could.
        """
        try:
            stored = msgspec.json.decode(data, type=_StoredBook)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise _Damaged(str(error)) from error
        if stored.version != VERSION:
            raise _Damaged(f"it is of version {stored.version}; this is for version {VERSION}")
        now = self._wall_time()
        skipped = 0
        for peer in stored.peers[:MAX_PEERS]:
            try:
                entry = BookEntry(PeerID.parse(peer.peer_id), peer.name[:63])
                for each in peer.addresses[:MAX_ADDRESSES]:
                    # A clock that was wrong once must not keep an entry for ever.
                    success = None if each.last_success is None else min(each.last_success, now)
                    entry.places[Multiaddr.parse(each.address)] = _Place(
                        min(each.last_seen, now), each.source, success
                    )
            except (IdentityError, AddressError):
                skipped += 1
                continue
            if now - entry.last_heard <= EXPIRY:
                self._peers.setdefault(entry.peer_id, entry)
        return skipped

    def _stored(self) -> bytes:
        now = self._wall_time()
        for entry in list(self._peers.values()):
            if now - entry.last_heard > EXPIRY:
                del self._peers[entry.peer_id]
        book = _StoredBook(
            VERSION,
            [
                _StoredPeer(
                    str(entry.peer_id),
                    [
                        _StoredAddress(
                            str(address),
                            entry.places[address].last_seen,
                            entry.places[address].source,
                            entry.places[address].last_success,
                        )
                        for address in entry.addresses
                    ],
                    entry.name,
                )
                for entry in self.entries()
                if entry.places
            ],
        )
        return msgspec.json.format(msgspec.json.encode(book), indent=1) + b"\n"

    def _change(self) -> None:
        self._dirty = True
        if self._timer is None:
            self._timer = self._clock.callLater(DEBOUNCE, self._due)

    def _due(self) -> None:
        self._timer = None
        if self._writing is not None:
            self._timer = self._clock.callLater(DEBOUNCE, self._due)
            return
        self._writing = in_background(self._write(), "writing the address book", self._log)
        self._writing.addCallback(self._written)

    def _written(self, _: None) -> None:
        self._writing = None

    async def _write(self) -> None:
        self._dirty = False
        data = self._stored()
        try:
            await self._defer_to_thread(lambda: write_atomically(self._path, data))
        except OSError as error:
            self._dirty = True
            if str(error) != self._failed:
                # Once, until it works again: a full disk stays full for a while.
                self._failed = str(error)
                self._log.warn(
                    "The address book {path} cannot be written: {error}",
                    path=str(self._path),
                    error=error,
                )
        else:
            self._failed = ""

    async def _put_aside(self) -> str:
        try:
            return str(await self._defer_to_thread(lambda: _put_aside(self._path)))
        except OSError as error:
            return f"nothing ({error})"


def _after(deferred: Deferred[None]) -> Deferred[None]:
    """Fires when ``deferred`` does, without taking its result."""
    waiting: Deferred[None] = Deferred()

    def fired(result: Any) -> Any:
        waiting.callback(None)
        return result

    deferred.addBoth(fired)
    return waiting


def _open_at_once(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)


def _read(path: Path) -> bytes | None:
    try:
        # Without waiting, as a FIFO in its place would have it.
        with open(path, "rb", opener=_open_at_once) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise _Damaged("it is not a file")
            data = file.read(MAX_FILE + 1)
    except FileNotFoundError:
        return None
    if len(data) > MAX_FILE:
        raise _Damaged(f"it has more than {MAX_FILE} bytes")
    return data


def _put_aside(path: Path) -> Path:
    for number in range(1, MAX_DAMAGED + 1):
        aside = path.with_name(f"{path.name}.damaged-{number}")
        if number == MAX_DAMAGED or not aside.exists():
            break
    os.replace(path, aside)
    return aside
