"""Which interfaces are used, and that changes are noticed."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, execute
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from bzzz.discovery.network_interfaces import (
    InterfaceAddress,
    InterfaceWatcher,
    NetworkInterface,
    Verdicts,
    container_kind,
    judge,
    listen_hosts,
    local_addresses,
    system_interfaces,
)


def address(text: str) -> InterfaceAddress:
    ip, _, prefix = text.partition("/")
    return InterfaceAddress(ip, int(prefix))


def interface(name: str, index: int, *addresses: str, **rest: Any) -> NetworkInterface:
    return NetworkInterface(name, index, tuple(address(each) for each in addresses), **rest)


LO = interface("lo", 1, "127.0.0.1/8", "::1/128", is_loopback=True, multicast=False)
ETH0 = interface("eth0", 2, "192.0.2.7/24", "fe80::1/64", "2001:db8::7/64")
WLAN0 = interface("wlan0", 3, "198.51.100.7/24")
DOCKER0 = interface("docker0", 4, "172.17.0.1/16", kind="a bridge of Docker")


def names(verdicts: Verdicts) -> list[str]:
    return [each.name for each in verdicts.used]


class JudgeTests(SynchronousTestCase):
    """:func:`judge`."""

    def test_default(self) -> None:
        """All that are up with an address others can dial; not loopback, not containers."""
        down = interface("eth1", 5, "192.0.2.8/24", up=False)
        bare = interface("eth2", 6)
        local_only = interface("eth3", 7, "fe80::3/64")
        vpn = interface("wg0", 8, "10.0.0.2/32", multicast=False)
        verdicts = judge([DOCKER0, ETH0, WLAN0, LO, down, bare, local_only, vpn])
        self.assertEqual(names(verdicts), ["eth0", "wlan0", "wg0"])
        reasons = {each.name: each.reason for each in verdicts.interfaces}
        self.assertEqual(
            reasons,
            {
                "lo": "loopback leads to no other machine",
                "eth0": "up, with an address that others can reach",
                "wlan0": "up, with an address that others can reach",
                "docker0": "a bridge of Docker; to use it: --interface docker0",
                "eth1": "it is down",
                "eth2": "it has no address",
                "eth3": "it has only an IPv6 link-local address, which others cannot dial",
                "wg0": "up, with an address that others can reach",
            },
        )

    def test_offline(self) -> None:
        """With nothing but loopback, nodes of one machine still meet."""
        verdicts = judge([LO, DOCKER0])
        self.assertEqual(names(verdicts), ["lo"])
        self.assertIn("nothing else is up", verdicts.used[0].reason)

    def test_wanted_by_name(self) -> None:
        """--interface takes exactly those named, whatever they are."""
        self.assertEqual(names(judge([LO, ETH0, DOCKER0], ["lo"])), ["lo"])
        self.assertEqual(
            names(judge([LO, ETH0, DOCKER0], ["docker0", "eth0"])), ["eth0", "docker0"]
        )

    def test_wanted_by_address(self) -> None:
        """An interface wanted by an address is used with that address only."""
        for value in ("2001:db8::7", "2001:DB8:0::7"):
            (used,) = judge([LO, ETH0], [value]).used
            self.assertEqual(used.addresses, (address("2001:db8::7/64"),))
            self.assertEqual(used.reason, f"asked for by --interface {value}")

    def test_wanted_and_absent(self) -> None:
        """What is absent now is told apart, and nothing else is used in its stead."""
        verdicts = judge([LO, ETH0], ["usb0", "192.0.2.99"])
        self.assertEqual(verdicts.used, ())
        self.assertEqual(verdicts.missing, ("usb0", "192.0.2.99"))

    def test_wanted_and_down(self) -> None:
        """What is asked for but unusable says so."""
        verdicts = judge([interface("eth1", 5, "192.0.2.8/24", up=False)], ["eth1"])
        self.assertEqual(verdicts.missing, ())
        self.assertEqual(verdicts.interfaces[0].reason, "asked for, but it is down")

    def test_hosts(self) -> None:
        """What to listen on and tell: IPv4 first, no link-local IPv6, loopback last."""
        used = judge([LO, ETH0, WLAN0], ["lo", "eth0", "wlan0"]).used
        self.assertEqual(
            listen_hosts(used), ("127.0.0.1", "::1", "192.0.2.7", "2001:db8::7", "198.51.100.7")
        )
        self.assertEqual(
            [str(each) for each in local_addresses(used, 4001)],
            [
                "/ip4/192.0.2.7/tcp/4001",
                "/ip6/2001:db8::7/tcp/4001",
                "/ip4/198.51.100.7/tcp/4001",
                "/ip4/127.0.0.1/tcp/4001",
                "/ip6/::1/tcp/4001",
            ],
        )
        self.assertEqual(listen_hosts([ETH0]), (), "not judged, not used")


class ContainerKindTests(SynchronousTestCase):
    """:func:`container_kind`."""

    def setUp(self) -> None:
        self.sysfs = Path(tempfile.mkdtemp(dir=self.mktemp_parent()))

    def mktemp_parent(self) -> str:
        parent = Path(self.mktemp())
        parent.mkdir(parents=True)
        return str(parent)

    def make(self, name: str, index: int, **files: str) -> None:
        home = self.sysfs / name
        home.mkdir()
        (home / "ifindex").write_text(f"{index}\n")
        for file, content in files.items():
            (home / file).write_text(content)

    def bridge(self, name: str, index: int, *ports: str) -> None:
        self.make(name, index)
        (self.sysfs / name / "bridge").mkdir()
        (self.sysfs / name / "brif").mkdir()
        for port in ports:
            (self.sysfs / name / "brif" / port).mkdir()

    def test_names(self) -> None:
        """Names of engines and hypervisors, and names that only look alike."""
        for name in (
            *("docker0", "docker_gwbridge", "br-0123456789ab", "veth12ab", "virbr0", "virbr0-nic"),
            *("vnet3", "tap0", "tap1234-5", "cni0", "flannel.1", "cali0123", "podman1", "lxcbr0"),
            *("lxdbr0", "vmnet8", "vboxnet0", "kube-ipvs0", "incusbr0"),
        ):
            self.assertTrue(container_kind(name, 9, self.sysfs), name)
        for name in (
            *("eth0", "enp3s0", "wlp2s0", "br0", "br-lan", "bond0", "eth0.12", "wg0", "tailscale0"),
            *("ztabcdef12", "tun0", "ppp0", "usb0", "en0", "tapestry", "lo", "dockyard"),
        ):
            self.assertEqual(container_kind(name, 9, self.sysfs), "", name)

    def test_taps(self) -> None:
        """A tap under any name is a virtual machine's, but for those of overlay networks."""
        self.make("guest", 9, tun_flags="0x1002\n")
        self.make("office", 10, tun_flags="0x1001\n")
        self.make("ztabcdef12", 11, tun_flags="0x1002\n")
        self.assertEqual(container_kind("guest", 9, self.sysfs), "the tap of a virtual machine")
        self.assertEqual(container_kind("office", 10, self.sysfs), "")
        self.assertEqual(container_kind("ztabcdef12", 11, self.sysfs), "")

    def test_bridges(self) -> None:
        """A bridge with a network card is the machine's own; one that joins only guests is not."""
        self.bridge("br0", 9, "enp3s0", "vnet0")
        self.bridge("br1", 10, "vnet1", "veth3")
        self.bridge("br2", 11)
        self.assertEqual(container_kind("br0", 9, self.sysfs), "")
        self.assertIn("only containers", container_kind("br1", 10, self.sysfs))
        self.assertIn("joins nothing", container_kind("br2", 11, self.sysfs))

    def test_other_namespace(self) -> None:
        """What /sys tells of another network namespace's interface of that name does not count."""
        self.make("eth0", 9, tun_flags="0x1002\n")
        self.assertEqual(container_kind("eth0", 77, self.sysfs), "")


class SystemTests(SynchronousTestCase):
    """:func:`system_interfaces`, on whatever machine this is."""

    def test_loopback(self) -> None:
        """Loopback is there, and is known as such."""
        (lo,) = [each for each in system_interfaces() if each.name == "lo"]
        self.assertTrue(lo.is_loopback)
        self.assertTrue(lo.up)
        self.assertIn(address("127.0.0.1/8"), lo.addresses)


class WatcherTests(SynchronousTestCase):
    """:class:`InterfaceWatcher`."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.interfaces: list[NetworkInterface] = [LO, ETH0]
        self.failing = False
        self.changes: list[list[str]] = []

    def watcher(self, wanted: tuple[str, ...] = ()) -> InterfaceWatcher:
        def enumerate_interfaces() -> list[NetworkInterface]:
            if self.failing:
                raise OSError("no netlink today")
            return list(self.interfaces)

        def defer_to_thread(call: Callable[[], Any]) -> Deferred[Any]:
            return execute(call)

        watcher = InterfaceWatcher(
            self.clock,
            enumerate_interfaces,
            defer_to_thread,
            lambda verdicts: self.changes.append(names(verdicts)),
            wanted=wanted,
        )
        self.addCleanup(watcher.stop)
        return watcher

    def test_changes(self) -> None:
        """Each change is told once, within 2 s; no change, no call."""
        watcher = self.watcher()
        first = self.successResultOf(Deferred.fromCoroutine(watcher.look()))
        self.assertEqual(names(first), ["eth0"])
        watcher.start()
        self.clock.pump([1.0] * 10)
        self.assertEqual(self.changes, [["eth0"]])
        self.interfaces.append(WLAN0)
        self.clock.pump([1.0] * 10)
        self.assertEqual(self.changes, [["eth0"], ["eth0", "wlan0"]])
        self.interfaces.remove(ETH0)
        self.clock.advance(2.0)
        self.assertEqual(self.changes[-1], ["wlan0"])

    def test_failure(self) -> None:
        """A look that fails changes nothing and is followed by the next."""
        watcher = self.watcher()
        watcher.start()
        self.failing = True
        self.clock.advance(2.0)
        self.assertEqual(len(self.flushLoggedErrors(OSError)), 1)
        self.failing = False
        self.clock.advance(2.0)
        self.assertEqual(self.changes, [["eth0"]])

    def test_others_wanted(self) -> None:
        """Other wishes are acted on at once, and kept."""
        self.interfaces.append(WLAN0)
        watcher = self.watcher(("eth0",))
        self.successResultOf(Deferred.fromCoroutine(watcher.look()))
        self.successResultOf(Deferred.fromCoroutine(watcher.want(["wlan0"])))
        self.successResultOf(Deferred.fromCoroutine(watcher.look()))
        self.assertEqual(self.changes, [["eth0"], ["wlan0"]])

    def test_wanted_comes_later(self) -> None:
        """An interface that is asked for and absent is used from when it appears."""
        watcher = self.watcher(("wlan0",))
        self.successResultOf(Deferred.fromCoroutine(watcher.look()))
        self.assertEqual((self.changes, watcher.verdicts.missing), ([[]], ("wlan0",)))
        watcher.start()
        self.interfaces.append(WLAN0)
        self.clock.advance(2.0)
        self.assertEqual(self.changes[-1], ["wlan0"])
        self.assertEqual(watcher.verdicts.missing, ())
