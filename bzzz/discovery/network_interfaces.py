"""Which of this machine's network interfaces the node uses, and why.

Enters: what the system says of its interfaces, and the ``--interface`` values. Leaves: a verdict on
each, with its reason in words, and a call when something of it has changed.

IPv6 link-local addresses (``fe80::``) are neither listened on nor announced in this version: they
mean nothing without a zone, a zone means nothing on another machine, and a peer that hears one over
mDNS would have to remember on which interface for as long as the address lives. A host has an IPv4,
a unique local or a global IPv6 address wherever there is a router or a DHCP server, and an IPv4
link-local one (169.254/16, which is used) where there is neither.
"""

from __future__ import annotations

import fcntl
import ipaddress
import re
import socket
import struct
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import ifaddr
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from bzzz.net.interfaces import Clock
from bzzz.net.periodic import Periodic
from bzzz.wire.multiaddr import Multiaddr

__all__ = [
    "InterfaceAddress",
    "InterfaceWatcher",
    "NetworkInterface",
    "Verdicts",
    "judge",
    "listen_hosts",
    "local_addresses",
    "system_interfaces",
]

# Names that container engines and hypervisors give to their side of a virtual link. Their addresses
# lead nowhere from other machines. Not here: VPNs (wg*, tailscale*, zt*, tun*), whose do.
CONTAINER_NAMES = (
    (r"docker\d*", "a bridge of Docker"),
    (r"docker_gwbridge", "a bridge of Docker"),
    (r"br-[0-9a-f]{12}", "a bridge of Docker"),
    (r"(cni|podman|nerdctl)\d+", "a bridge for containers"),
    (r"(flannel|cali|kube-|cilium|lxc_|weave|nodelocaldns).*", "a network of Kubernetes pods"),
    (r"(lxc|lxd|incus)(br)?\d+", "a bridge for containers"),
    (r"veth.*", "one end of a container's virtual cable"),
    (r"virbr\d+(-nic)?", "a bridge of libvirt for virtual machines"),
    (r"(vnet|tap|macvtap|fwpr|fwln|fwbr)\d.*", "the tap of a virtual machine"),
    (r"tap", "the tap of a virtual machine"),
    (r"vmnet\d+", "a network of VMware"),
    (r"vboxnet\d+", "a network of VirtualBox"),
)
_CONTAINERS = tuple((re.compile(pattern), what) for pattern, what in CONTAINER_NAMES)

# ZeroTier's are taps, but lead to other machines.
_OVERLAY_TAPS = re.compile(r"zt.*")

# From linux/if.h and linux/if_tun.h.
_IFF_UP = 0x1
_IFF_LOOPBACK = 0x8
_IFF_RUNNING = 0x40
_IFF_MULTICAST = 0x1000
_IFF_TAP = 0x2
_SIOCGIFFLAGS = 0x8913

# How often the interfaces are looked at, in seconds: a new address is announced within this. A look
# takes 2 ms in a thread.
INTERVAL = 2.0

_SYSFS = Path("/sys/class/net")


@dataclass(frozen=True, slots=True, order=True)
class InterfaceAddress:
    """An address of an interface.

    :ivar ip: the literal, without zone.
    :ivar prefix: bits of the network part.
    """

    ip: str
    prefix: int

    @property
    def version(self) -> int:
        """4 or 6."""
        return 6 if ":" in self.ip else 4

    @property
    def usable(self) -> bool:
        """Whether a node can listen there and tell it to others (see the module's docstring)."""
        address = ipaddress.ip_address(self.ip)
        if address.is_unspecified or address.is_multicast:
            return False
        return not (address.version == 6 and address.is_link_local)

    @property
    def network(self) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
        """The network it is in."""
        return ipaddress.ip_network((self.ip, self.prefix), strict=False)

    def __str__(self) -> str:
        return f"{self.ip}/{self.prefix}"


@dataclass(frozen=True, slots=True)
class NetworkInterface:
    """An interface, and after :func:`judge` the verdict on it.

    :ivar running: it has a carrier: a cable, an access point.
    :ivar kind: in words why it is one of a container or a virtual machine, or nothing.
    :ivar used: whether the node listens, announces and browses there.
    :ivar reason: why it is used or not, for people.
    """

    name: str
    index: int
    addresses: tuple[InterfaceAddress, ...] = ()
    up: bool = True
    running: bool = True
    is_loopback: bool = False
    multicast: bool = True
    kind: str = ""
    used: bool = False
    reason: str = ""

    @property
    def usable_addresses(self) -> tuple[InterfaceAddress, ...]:
        """Those that a node can listen on and tell to others, IPv4 first."""
        return tuple(
            sorted(
                (address for address in self.addresses if address.usable),
                key=lambda address: address.version,
            )
        )


@dataclass(frozen=True, slots=True)
class Verdicts:
    """What :func:`judge` leaves.

    :ivar interfaces: all, used and not, by index.
    :ivar missing: the ``--interface`` values that match nothing at this moment; waited for.
    """

    interfaces: tuple[NetworkInterface, ...]
    missing: tuple[str, ...] = field(default=())

    @property
    def used(self) -> tuple[NetworkInterface, ...]:
        """The interfaces in use."""
        return tuple(interface for interface in self.interfaces if interface.used)


def judge(interfaces: Iterable[NetworkInterface], wanted: Sequence[str] = ()) -> Verdicts:
    """Say of each interface whether the node uses it, and why.

    :param wanted: the ``--interface`` values, names or addresses; empty for the default rules. An
        interface wanted by its address is used with that address only.
    """
    ordered = sorted(interfaces, key=lambda interface: interface.index)
    if wanted:
        return _judge_wanted(ordered, wanted)
    judged = [_judge_default(interface) for interface in ordered]
    if not any(interface.used for interface in judged):
        judged = [
            replace(interface, used=True, reason="nothing else is up: nodes of this machine only")
            if interface.is_loopback and interface.up and interface.usable_addresses
            else interface
            for interface in judged
        ]
    return Verdicts(tuple(judged))


def _judge_default(interface: NetworkInterface) -> NetworkInterface:
    reason = _unusable(interface)
    if reason:
        return replace(interface, used=False, reason=reason)
    if interface.is_loopback:
        return replace(interface, used=False, reason="loopback leads to no other machine")
    if interface.kind:
        return replace(
            interface,
            used=False,
            reason=f"{interface.kind}; to use it: --interface {interface.name}",
        )
    return replace(interface, used=True, reason="up, with an address that others can reach")


def _judge_wanted(interfaces: Sequence[NetworkInterface], wanted: Sequence[str]) -> Verdicts:
    matched: set[str] = set()
    judged = []
    for interface in interfaces:
        addresses: dict[InterfaceAddress, None] = {}
        by = []
        for value in wanted:
            chosen = _chosen(interface, value)
            if chosen is None:
                continue
            matched.add(value)
            by.append(value)
            addresses.update(dict.fromkeys(chosen))
        if not by:
            judged.append(
                replace(interface, used=False, reason="not among those given by --interface")
            )
            continue
        narrowed = replace(interface, addresses=tuple(addresses))
        reason = _unusable(narrowed)
        if reason:
            judged.append(replace(interface, used=False, reason=f"asked for, but {reason}"))
        else:
            reason = "asked for by " + ", ".join(f"--interface {value}" for value in by)
            judged.append(replace(narrowed, used=True, reason=reason))
    return Verdicts(
        tuple(judged), tuple(value for value in dict.fromkeys(wanted) if value not in matched)
    )


def _chosen(interface: NetworkInterface, value: str) -> tuple[InterfaceAddress, ...] | None:
    """The addresses of the interface that ``value`` asks for, or None if it asks for none."""
    if value == interface.name:
        return interface.addresses
    try:
        asked = ipaddress.ip_address(value.split("%", 1)[0])
    except ValueError:
        return None
    found = tuple(
        address for address in interface.addresses if ipaddress.ip_address(address.ip) == asked
    )
    return found or None


def _unusable(interface: NetworkInterface) -> str:
    if not interface.up:
        return "it is down"
    if not interface.addresses:
        return "it has no address"
    if not interface.usable_addresses:
        return "it has only an IPv6 link-local address, which others cannot dial"
    return ""


def listen_hosts(interfaces: Iterable[NetworkInterface]) -> tuple[str, ...]:
    """The IP literals to listen on, those of the used interfaces, without doubles."""
    hosts: dict[str, None] = {}
    for interface in interfaces:
        if interface.used:
            hosts.update(dict.fromkeys(address.ip for address in interface.usable_addresses))
    return tuple(hosts)


def local_addresses(interfaces: Iterable[NetworkInterface], port: int) -> tuple[Multiaddr, ...]:
    """Where others can dial a node that listens on ``port`` of the used interfaces.

    Loopback addresses come last: they serve only nodes on this machine.
    """
    used = [interface for interface in interfaces if interface.used]
    used.sort(key=lambda interface: interface.is_loopback)
    return tuple(Multiaddr.tcp(host, port) for host in listen_hosts(used))


# -- the system


def system_interfaces() -> list[NetworkInterface]:
    """The interfaces of this machine (of this network namespace), not yet judged. Takes 2 ms."""
    found: dict[str, NetworkInterface] = {}
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        for adapter in ifaddr.get_adapters(include_unconfigured=True):
            # eth0:1 is a label on an address of eth0.
            name = adapter.name.split(":", 1)[0]
            addresses = tuple(
                InterfaceAddress(
                    address.ip[0] if isinstance(address.ip, tuple) else address.ip,
                    address.network_prefix,
                )
                for address in adapter.ips
            )
            known = found.get(name)
            if known is None:
                known = _described(asking, name)
                if known is None:
                    continue
            together = dict.fromkeys((*known.addresses, *addresses))
            found[name] = replace(known, addresses=tuple(together))
    return list(found.values())


def _described(asking: socket.socket, name: str) -> NetworkInterface | None:
    """The interface without its addresses, or None if it has gone meanwhile."""
    try:
        index = socket.if_nametoindex(name)
        # Asked by ioctl, for /sys may show another network namespace's interfaces.
        request = struct.pack("16sH14x", name.encode()[:15], 0)
        (flags,) = struct.unpack_from("H", fcntl.ioctl(asking.fileno(), _SIOCGIFFLAGS, request), 16)
    except OSError:
        return None
    return NetworkInterface(
        name,
        index,
        up=bool(flags & _IFF_UP),
        running=bool(flags & _IFF_RUNNING),
        is_loopback=bool(flags & _IFF_LOOPBACK),
        multicast=bool(flags & _IFF_MULTICAST),
        kind=container_kind(name, index),
    )


def container_kind(name: str, index: int, sysfs: Path = _SYSFS) -> str:
    """In words, why an interface is one of containers or virtual machines; nothing if it is not.

    By its name, and by what the kernel tells of it where that can be read: a tap, or a bridge that
    joins nothing but such interfaces. A bridge with a network card in it is the machine's own.
    """
    for pattern, what in _CONTAINERS:
        if pattern.fullmatch(name):
            return what
    home = sysfs / name
    if _read(home / "ifindex") != str(index):
        return ""
    flags = _read(home / "tun_flags")
    if flags and int(flags, 16) & _IFF_TAP and not _OVERLAY_TAPS.fullmatch(name):
        return "the tap of a virtual machine"
    if (home / "bridge").is_dir():
        try:
            ports = sorted(port.name for port in (home / "brif").iterdir())
        except OSError:
            return ""
        if not ports:
            return "a bridge that joins nothing"
        if all(_virtual(port, sysfs) for port in ports):
            return "a bridge that joins only containers or virtual machines"
    return ""


def _virtual(port: str, sysfs: Path) -> bool:
    if any(pattern.fullmatch(port) for pattern, _ in _CONTAINERS):
        return True
    return bool(_read(sysfs / port / "tun_flags"))


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


class InterfaceWatcher:
    """Calls ``changed`` whenever the verdict on the interfaces is another than before.

    The first call comes from :meth:`look`, which a node awaits before it listens.

    :param enumerate_interfaces: :func:`system_interfaces`, or a fake; may block.
    :param defer_to_thread: runs a function in a thread.
    :param wanted: the ``--interface`` values.
    :param interval: seconds between two looks.
    """

    _log = Logger()

    def __init__(
        self,
        clock: Clock,
        enumerate_interfaces: Callable[[], Iterable[NetworkInterface]],
        defer_to_thread: Callable[[Callable[[], Any]], Deferred[Any]],
        changed: Callable[[Verdicts], None],
        *,
        wanted: Sequence[str] = (),
        interval: float = INTERVAL,
    ) -> None:
        self.verdicts = Verdicts(())
        self._enumerate = enumerate_interfaces
        self._defer_to_thread = defer_to_thread
        self._changed = changed
        self._wanted = tuple(wanted)
        self._missing_said: tuple[str, ...] = ()
        self._looking = Periodic(
            clock, interval, self.look, "looking at the network interfaces", self._log
        )

    def start(self) -> None:
        """Look again every ``interval`` seconds."""
        self._looking.start(now=False)

    def stop(self) -> None:
        """Look no more."""
        self._looking.stop()

    async def want(self, wanted: Sequence[str]) -> None:
        """Use other ``--interface`` values from now on."""
        self._wanted = tuple(wanted)
        await self.look()

    async def look(self) -> Verdicts:
        """Look now, call ``changed`` if something is new, and return the verdicts."""
        interfaces = await self._defer_to_thread(self._enumerate)
        verdicts = judge(interfaces, self._wanted)
        if verdicts != self.verdicts:
            self._say(verdicts)
            self.verdicts = verdicts
            self._changed(verdicts)
        return verdicts

    def _say(self, verdicts: Verdicts) -> None:
        before = {interface.name for interface in self.verdicts.used}
        after = {interface.name for interface in verdicts.used}
        for interface in verdicts.used:
            if interface.name not in before:
                self._log.info(
                    "Using interface {name} ({addresses}): {reason}",
                    name=interface.name,
                    addresses=", ".join(str(address) for address in interface.usable_addresses),
                    reason=interface.reason,
                )
        for interface in self.verdicts.used:
            if interface.name not in after:
                reasons = {each.name: each.reason for each in verdicts.interfaces}
                self._log.info(
                    "No longer using interface {name}: {reason}",
                    name=interface.name,
                    reason=reasons.get(interface.name, "it is gone"),
                )
        if verdicts.missing and verdicts.missing != self._missing_said:
            self._log.warn(
                "No interface matches --interface {missing}; waiting for it. Present: {present}",
                missing=", ".join(verdicts.missing),
                present=", ".join(each.name for each in verdicts.interfaces) or "none",
            )
        self._missing_said = verdicts.missing
