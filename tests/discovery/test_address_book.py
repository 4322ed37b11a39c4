"""The address book: what is kept, in which order, and that no file is lost."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

from twisted.internet.defer import Deferred, execute
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from bzzz.discovery import address_book
from bzzz.discovery.address_book import AddressBook
from bzzz.discovery.network_interfaces import InterfaceAddress, NetworkInterface
from bzzz.identity.keys import PrivateKey
from bzzz.identity.peer_id import PeerID
from bzzz.wire.multiaddr import Multiaddr

START = 1_700_000_000.0


def peer(number: int) -> PeerID:
    return PrivateKey.from_seed(number.to_bytes(32, "big")).peer_id


def at(host: str, port: int = 4001) -> Multiaddr:
    return Multiaddr.tcp(host, port)


class BookCase(SynchronousTestCase):
    """A book on a virtual clock, with its file in a directory of its own."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.directory = Path(self.mktemp())
        self.directory.mkdir(parents=True)
        self.path = self.directory / "addresses.json"
        self.held: list[tuple[Callable[[], Any], Deferred[Any]]] | None = None
        self.writes = 0

    def in_thread(self, call: Callable[[], Any]) -> Deferred[Any]:
        self.writes += 1
        if self.held is not None:
            waiting: Deferred[Any] = Deferred()
            self.held.append((call, waiting))
            return waiting
        return execute(call)

    def book(self) -> AddressBook:
        book = AddressBook(
            self.path, self.clock, lambda: START + self.clock.seconds(), self.in_thread
        )
        self.successResultOf(book.load())
        return book

    def files(self) -> list[str]:
        return sorted(os.listdir(self.directory))


class OrderTests(BookCase):
    """What comes first."""

    def test_order(self) -> None:
        """Where it was reached last, then the networks of this node, then the rest as given."""
        book = self.book()
        lan = NetworkInterface("eth0", 2, (InterfaceAddress("192.0.2.1", 24),), used=True)
        book.use_interfaces([lan])
        far, near, old, new = (
            at("203.0.113.1"),
            at("192.0.2.77"),
            at("203.0.113.2"),
            at("203.0.113.3"),
        )
        book.seen(peer(1), [far, near, old, new], "mdns")
        book.succeeded(peer(1), old)
        self.clock.advance(10)
        book.succeeded(peer(1), new)
        self.assertEqual(book.ordered(peer(1), [far, near, old, new]), [new, old, near, far])
        self.assertEqual(book.ordered(peer(2), [far, near]), [near, far], "an unknown peer's")
        self.assertEqual(book.entries()[0].addresses[:2], (new, old))

    def test_with_peer_id(self) -> None:
        """An address is the same with its peer ID behind it."""
        book = self.book()
        book.succeeded(peer(1), at("192.0.2.2").with_peer(peer(1)))
        self.assertEqual(
            book.ordered(peer(1), [at("192.0.2.1"), at("192.0.2.2")])[0], at("192.0.2.2")
        )

    def test_peers(self) -> None:
        """The peers reached last come first."""
        book = self.book()
        for number in range(3):
            book.seen(peer(number), [at("192.0.2.1")], "mdns", f"node{number}")
        book.succeeded(peer(1), at("192.0.2.1"))
        self.assertEqual(book.entries()[0].name, "node1")


class LimitTests(BookCase):
    """What others can make the book hold."""

    def test_peers(self) -> None:
        """Beyond the limit those that were never reached go, and reached ones stay."""
        book = self.book()
        book.succeeded(peer(1), at("192.0.2.1"))
        for number in range(2, address_book.MAX_PEERS + 100):
            self.clock.advance(0.01)
            book.seen(peer(number), [at("192.0.2.2")], "mdns")
        kept = {entry.peer_id for entry in book.entries()}
        self.assertEqual(len(kept), address_book.MAX_PEERS)
        self.assertIn(peer(1), kept)
        self.assertIn(peer(address_book.MAX_PEERS + 99), kept)

    def test_addresses(self) -> None:
        """Beyond the limit of a peer's addresses the same."""
        book = self.book()
        book.succeeded(peer(1), at("192.0.2.1"))
        for port in range(1, 100):
            self.clock.advance(1)
            book.seen(peer(1), [at("192.0.2.2", port)], "mdns")
        (entry,) = book.entries()
        self.assertEqual(len(entry.addresses), address_book.MAX_ADDRESSES)
        self.assertIn(at("192.0.2.1"), entry.addresses)
        self.assertIn(at("192.0.2.2", 99), entry.addresses)


class FileTests(BookCase):
    """The file."""

    def test_survives(self) -> None:
        """What was learnt is there after a restart, with names, order and sources."""
        book = self.book()
        book.seen(peer(1), [at("192.0.2.1"), at("192.0.2.2")], "mdns", "walnut")
        book.succeeded(peer(1), at("192.0.2.2"))
        self.successResultOf(book.close())
        (entry,) = self.book().entries()
        self.assertEqual((entry.peer_id, entry.name), (peer(1), "walnut"))
        self.assertEqual(entry.addresses, (at("192.0.2.2"), at("192.0.2.1")))
        self.assertEqual(entry.places[at("192.0.2.1")].source, "mdns")
        self.assertEqual(self.files(), ["addresses.json"])

    def test_debounced(self) -> None:
        """Many changes make one write, 5 s after the first; being seen again makes none."""
        book = self.book()
        self.writes = 0
        for number in range(50):
            book.seen(peer(number), [at("192.0.2.1")], "mdns")
        self.clock.advance(4.9)
        self.assertEqual(self.writes, 0)
        self.clock.advance(0.2)
        self.assertEqual(self.writes, 1)
        for _ in range(100):
            book.seen(peer(1), [at("192.0.2.1")], "mdns")
            book.succeeded(peer(2), at("192.0.2.1"))
            self.clock.advance(10)
        self.assertEqual(self.writes, 2, "only the first success was news")
        self.clock.advance(3600)
        book.seen(peer(1), [at("192.0.2.1")], "mdns")
        self.clock.advance(5)
        self.assertEqual(self.writes, 3, "the time on disk stays true to the hour")

    def test_slow_disk(self) -> None:
        """Changes during a write are written after it, one write at a time; so at the end."""
        book = self.book()
        self.held = []
        book.seen(peer(1), [at("192.0.2.1")], "mdns")
        self.clock.advance(5)
        book.seen(peer(2), [at("192.0.2.2")], "mdns")
        self.clock.advance(60)
        self.assertEqual(len(self.held), 1)
        closing = book.close()
        self.assertNoResult(closing)
        call, waiting = self.held.pop()
        self.held = None
        waiting.callback(call())
        self.successResultOf(closing)
        self.assertEqual(len(self.book().entries()), 2)
        self.clock.advance(60)

    def test_full_disk(self) -> None:
        """A write that fails is said, leaves the old file, and is made up for later."""
        book = self.book()
        book.seen(peer(1), [at("192.0.2.1")], "mdns")
        self.clock.advance(5)
        before = self.path.read_bytes()
        book.seen(peer(2), [at("192.0.2.1")], "mdns")
        with mock.patch("os.fsync", side_effect=OSError(28, "No space left on device")):
            self.clock.advance(5)
        self.assertEqual(self.path.read_bytes(), before)
        self.assertEqual(self.files(), ["addresses.json"], "no temporary file is left")
        self.successResultOf(book.close())
        self.assertEqual(len(self.book().entries()), 2)

    def test_damaged(self) -> None:
        """A damaged file is put aside whole, each under a name of its own."""
        for number, damage in enumerate((b"{", b"\xff\xfe", b'{"version": 99, "peers": []}', b"")):
            self.path.write_bytes(damage)
            book = self.book()
            self.assertEqual(book.entries(), [])
            aside = self.path.with_name(f"addresses.json.damaged-{number + 1}")
            self.assertEqual(aside.read_bytes(), damage)
            self.successResultOf(book.close())

    def test_damaged_entry(self) -> None:
        """One bad entry costs only itself, and the file is kept."""
        book = self.book()
        for number in (1, 2):
            book.seen(peer(number), [at("192.0.2.1")], "mdns")
        self.successResultOf(book.close())
        stored = json.loads(self.path.read_bytes())
        stored["peers"][0]["addresses"][0]["address"] = "/ip4/192.0.2.300/tcp/1"
        self.path.write_text(json.dumps(stored))
        book = self.book()
        self.assertEqual(len(book.entries()), 1)
        self.successResultOf(book.close())
        self.assertEqual(self.files(), ["addresses.json", "addresses.json.damaged-1"])

    def test_no_file(self) -> None:
        """What would keep a reader waiting is put aside like a damaged file."""
        os.mkfifo(self.path)
        self.assertEqual(self.book().entries(), [])
        self.assertEqual(self.files(), ["addresses.json.damaged-1"])

    def test_unreadable(self) -> None:
        """A file that cannot be read is left alone."""
        self.path.mkdir()
        self.assertEqual(self.book().entries(), [])
        self.assertEqual(self.files(), ["addresses.json"])

    def test_expiry(self) -> None:
        """After 30 days without a word a peer is forgotten; a clock ahead does not keep it."""
        book = self.book()
        book.seen(peer(1), [at("192.0.2.1")], "mdns")
        self.clock.advance(20 * 86400)
        book.seen(peer(2), [at("192.0.2.1")], "mdns")
        self.successResultOf(book.close())
        stored = json.loads(self.path.read_bytes())
        self.assertEqual(len(stored["peers"]), 2)
        self.clock.advance(11 * 86400)
        book = self.book()
        self.assertEqual([entry.peer_id for entry in book.entries()], [peer(2)])
        stored["peers"][0]["addresses"][0]["last_seen"] = START * 100
        self.path.write_text(json.dumps(stored))
        for entry in self.book().entries():
            self.assertLessEqual(entry.last_heard, START + self.clock.seconds())
