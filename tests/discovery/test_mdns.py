"""The source of peers over its thread: what does not work is said, retried, and given back."""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable
from random import Random
from typing import cast

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.logger import LogEvent, globalLogPublisher
from twisted.trial.unittest import TestCase
from zeroconf import Zeroconf

from bzzz.discovery import mdns_interface, mdns_worker
from bzzz.discovery.interfaces import FoundPeer, IPeerSource
from bzzz.discovery.mdns import MdnsSource
from bzzz.discovery.mdns_records import Announced, Heard
from bzzz.discovery.network_interfaces import InterfaceAddress, NetworkInterface
from bzzz.identity.keys import PrivateKey
from bzzz.wire.multiaddr import Multiaddr
from tests.discovery.fakes import FakeAsyncZeroconf, FakeEngine, FakeZeroconf

OWN = PrivateKey.from_seed(b"\1" * 32).peer_id
OTHER = PrivateKey.from_seed(b"\2" * 32).peer_id


def interface(name: str, ip: str, running: bool = True) -> NetworkInterface:
    return NetworkInterface(name, 2, (InterfaceAddress(ip, 24),), running=running, used=True)


ETH0 = interface("eth0", "192.0.2.1")
WLAN0 = interface("wlan0", "198.51.100.1")


class SourceTests(TestCase):
    """:class:`MdnsSource`: a real thread, fake zeroconf instances."""

    timeout = 10.0

    def setUp(self) -> None:
        self.patch(mdns_interface, "AsyncZeroconf", FakeAsyncZeroconf)
        self.patch(mdns_worker, "FIRST_RETRY", 0.05)
        self.patch(mdns_worker, "RETRY", 0.1)
        self.opened: list[tuple[Announced, FakeZeroconf]] = []
        self.refusals: list[Exception] = []
        self.found: list[FoundPeer] = []
        self.warnings: list[LogEvent] = []
        globalLogPublisher.addObserver(self.observe)  # type: ignore[arg-type]
        self.addCleanup(globalLogPublisher.removeObserver, self.observe)  # type: ignore[arg-type]
        self.source = MdnsSource(
            OWN,
            "walnut",
            reactor.callFromThread,  # type: ignore[attr-defined]
            Random(1),
            open_zeroconf=self.open_zeroconf,
        )
        self.addCleanup(self.source.stop)

    def observe(self, event: LogEvent) -> None:
        if event.get("log_namespace", "").startswith("bzzz") and event["log_level"].name == "warn":
            self.warnings.append(event)

    def open_zeroconf(self, announced: Announced) -> Zeroconf:
        if self.refusals:
            raise self.refusals.pop(0)
        zeroconf = FakeZeroconf()
        self.opened.append((announced, zeroconf))
        return cast(Zeroconf, zeroconf)

    async def until(self, condition: Callable[[], bool]) -> None:
        while not condition():  # trial's time limit ends it
            await deferLater(reactor, 0.01)

    def test_interface(self) -> None:
        """It is a source of peers."""
        self.assertTrue(IPeerSource.providedBy(self.source))

    async def test_retried(self) -> None:
        """A port in use is said once with its mend, and tried until it is free."""
        busy = OSError(errno.EADDRINUSE, "Address already in use")
        self.refusals = [busy, busy, busy]
        self.source.update([ETH0], 4001)
        await self.source.start(self.found.append)
        await self.until(lambda: bool(self.warnings))
        self.assertIn("failed: UDP port 5353 is in use (eth0)", self.source.state)
        await self.until(lambda: bool(self.opened))
        (warning,) = self.warnings
        self.assertEqual(warning["what"], "UDP port 5353 is in use")
        self.assertIn("avahi", warning["mend"])

    async def test_ipv6_later(self) -> None:
        """Where IPv6 cannot be sent over yet, it is tried again, while IPv4 works."""
        both = (InterfaceAddress("192.0.2.1", 24), InterfaceAddress("2001:db8::1", 64))
        self.source.update([NetworkInterface("eth0", 2, both, used=True)], 4001)
        await self.source.start(self.found.append)
        await self.until(lambda: len(self.opened) == 1)
        zeroconf = self.opened[0][1]
        await self.until(lambda: zeroconf.repairs == 1)
        await deferLater(reactor, 0.3)
        self.assertEqual(zeroconf.repairs, 1)
        self.assertEqual(self.warnings, [])

    async def test_no_multicast(self) -> None:
        """Where nothing can be sent over, it is said, and tried again."""
        self.patch(FakeEngine, "nothing", True)
        self.source.update([ETH0], 4001)
        await self.source.start(self.found.append)
        await self.until(lambda: len(self.opened) >= 3)
        self.patch(FakeEngine, "nothing", False)
        await self.until(lambda: bool(self.opened[-1][1].listeners))
        (warning,) = self.warnings
        self.assertEqual(warning["what"], "it takes no multicast")

    async def test_others_go_on(self) -> None:
        """An interface that does not work keeps none of the others from it."""
        self.refusals = [OSError("no such device")]
        self.source.update([ETH0, WLAN0], 4001)
        await self.source.start(self.found.append)
        await self.until(lambda: bool(self.opened))
        self.assertEqual(self.opened[0][0].interface, "wlan0")
        self.assertEqual(self.source.state, "on")

    async def test_changes(self) -> None:
        """Interfaces that come are opened, those that go closed, those that stay left alone."""
        await self.source.start(self.found.append)
        self.source.update([ETH0], 4001)
        await self.until(lambda: len(self.opened) == 1)
        self.source.update([ETH0, WLAN0], 4001)
        await self.until(lambda: len(self.opened) == 2)
        self.source.update([WLAN0], 4001)
        eth0 = self.opened[0][1]
        await self.until(lambda: not eth0.listeners)
        goodbye = eth0.sent[-1].answers()[0]
        self.assertEqual(goodbye.ttl, 0)
        self.assertEqual([each[0].interface for each in self.opened], ["eth0", "wlan0"])
        self.assertTrue(self.opened[1][1].listeners)

    async def test_address_changes(self) -> None:
        """Another address or port is announced under another name, after a goodbye."""
        self.source.update([ETH0], 4001)
        await self.source.start(self.found.append)
        await self.until(lambda: len(self.opened) == 1)
        self.source.update([interface("eth0", "192.0.2.9")], 4001)
        await self.until(lambda: len(self.opened) == 2)
        self.source.update([interface("eth0", "192.0.2.9")], 4002)
        await self.until(lambda: len(self.opened) == 3)
        self.assertEqual(
            [str(announced.addresses[0]) for announced, _ in self.opened],
            ["/ip4/192.0.2.1/tcp/4001", "/ip4/192.0.2.9/tcp/4001", "/ip4/192.0.2.9/tcp/4002"],
        )
        names = {zeroconf.sent[0].answers()[0] for _, zeroconf in self.opened}
        self.assertEqual(len(names), 3)

    async def test_cable(self) -> None:
        """When a cable is plugged in again the node announces itself at once."""
        self.source.update([ETH0], 4001)
        await self.source.start(self.found.append)
        await self.until(lambda: len(self.opened) == 1)
        zeroconf = self.opened[0][1]
        self.source.update([interface("eth0", "192.0.2.1", running=False)], 4001)
        await deferLater(reactor, 0.05)
        before = sum(packet.is_response() for packet in zeroconf.sent)
        self.source.update([ETH0], 4001)
        await self.until(lambda: sum(packet.is_response() for packet in zeroconf.sent) > before)
        self.assertEqual(len(self.opened), 1)

    async def test_stop(self) -> None:
        """After a stop the thread is gone and nothing is reported."""
        self.source.update([ETH0], 4001)
        await self.source.start(self.found.append)
        await self.until(lambda: len(self.opened) == 1)
        await self.source.stop()
        self.source.worker_heard("eth0", Heard(OTHER, (Multiaddr.parse("/ip4/1.2.3.4/tcp/1"),), ""))
        self.assertEqual(self.found, [])
        await self.until(
            lambda: all(thread.name != "bzzz-mdns" for thread in threading.enumerate())
        )
        await self.source.stop()
        self.source.update([WLAN0], 4001)

    async def test_stopped_at_once(self) -> None:
        """A stop right after the start, or without one, ends."""
        await self.source.stop()
        self.source.update([ETH0], 4001)
        await self.source.start(self.found.append)
        await self.source.stop()

    async def test_bug(self) -> None:
        """Whatever a zeroconf instance raises, the source says it and goes on."""
        self.refusals = [KeyError("surprise")]
        self.source.update([ETH0], 4001)
        await self.source.start(self.found.append)
        await self.until(lambda: bool(self.opened))
        self.assertIn("surprise", self.warnings[0]["what"])

    async def test_reported(self) -> None:
        """What is heard arrives in the reactor's thread."""
        where: Deferred[int] = Deferred()
        self.source.update([ETH0], 4001)
        await self.source.start(lambda peer: where.callback(threading.get_ident()))
        heard = Heard(OTHER, (Multiaddr.parse("/ip4/192.0.2.2/tcp/4002"),), "ironwood")
        await self.until(lambda: len(self.opened) == 1)
        worker = self.source._worker
        threading.Thread(target=worker.heard, args=("eth0", heard)).start()
        self.assertEqual(await where, threading.get_ident())
