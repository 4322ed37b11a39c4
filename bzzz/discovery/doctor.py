"""What keeps a node from meeting others: the checks of ``bzzz doctor``.

Enters: what the node knows of itself. Leaves: findings, each with its mend. A check that fails is a
finding itself; none can keep the others from being made.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from bzzz.discovery import system_probes
from bzzz.discovery.finding import Finding, Verdict
from bzzz.discovery.firewall import Runner, examine_firewall
from bzzz.discovery.mdns import MdnsState
from bzzz.discovery.network_interfaces import NetworkInterface, Verdicts
from bzzz.discovery.system_probes import ClockState, PortUser
from bzzz.wire.multiaddr import Multiaddr

__all__ = ["Doctor", "Finding", "NodeHealth", "SystemProbes", "Verdict"]

# Clocks may differ by so many seconds before it is said: timestamps are shown to people, and
# nothing is decided by them.
SKEW = 5.0

# Peers that cannot be reached, of which each is a finding.
MAX_UNREACHABLE = 10

# Peers that a finding names.
MAX_NAMED = 10


@dataclass(frozen=True, kw_only=True)
class NodeHealth:
    """What a node knows of itself.

    :ivar listening: its listening addresses.
    :ivar mdns: how mDNS does on each interface; None when it is off.
    :ivar skews: by peer's name, how many seconds its clock is ahead of ours.
    :ivar links: how many peers are linked, without those to whom this node is a guest.
    :ivar hosts: peers that take this node for a guest.
    :ivar unreachable: bootstrap addresses and peers that are not linked, each with the reason.
    """

    verdicts: Verdicts
    listening: Sequence[Multiaddr]
    mdns: Sequence[MdnsState] | None
    skews: Mapping[str, float] = field(default_factory=dict)
    links: int = 0
    hosts: Sequence[str] = ()
    unreachable: Sequence[tuple[str, str]] = ()

    @property
    def port(self) -> int | None:
        """The port it listens on."""
        for address in self.listening:
            place = address.host_port()
            if place is not None:
                return place[2]
        return None


@dataclass(frozen=True)
class SystemProbes:
    """The questions to the machine, each of which blocks; for tests to replace."""

    multicast_comes_back: Callable[[NetworkInterface, int], str] = (
        system_probes.multicast_comes_back
    )
    port_users: Callable[[int], list[PortUser]] = system_probes.port_users
    listening_ports: Callable[[], set[int]] = system_probes.listening_ports
    clock_state: Callable[[], ClockState] = system_probes.clock_state


class Doctor:
    """Makes the checks.

    :param defer_to_thread: runs a function in a thread.
    :param run: runs a command; see :data:`~bzzz.discovery.firewall.Runner`.
    """

    _log = Logger()

    def __init__(
        self,
        defer_to_thread: Callable[[Callable[[], Any]], Deferred[Any]],
        run: Runner,
        probes: SystemProbes | None = None,
    ) -> None:
        self._defer_to_thread = defer_to_thread
        self._run = run
        self._probes = probes or SystemProbes()

    def examine(self, node: NodeHealth) -> Deferred[list[Finding]]:
        """Make all checks; takes up to some seconds. Never fails."""
        return Deferred.fromCoroutine(self._examine(node))

    async def _examine(self, node: NodeHealth) -> list[Finding]:
        findings: list[Finding] = []
        checks: dict[str, Callable[[NodeHealth], Awaitable[list[Finding]]]] = {
            "interfaces": self._interfaces,
            "mdns": self._mdns,
            "multicast": self._multicast,
            "port-5353": self._port_5353,
            "listening": self._listening,
            "peers": self._peers,
            "clock": self._clock,
            "firewall": lambda node: examine_firewall(node.port, self._run),
        }
        for name, check in checks.items():
            try:
                findings += await check(node)
            except Exception as error:  # noqa: BLE001 - the others are to be made all the same
                self._log.failure("The check {name} of the doctor failed", name=name)
                findings.append(Finding(name, "unknown", f"could not be checked: {error}"))
        return findings

    async def _interfaces(self, node: NodeHealth) -> list[Finding]:
        findings = []
        for interface in node.verdicts.interfaces:
            addresses = ", ".join(str(address) for address in interface.addresses) or "no address"
            used = "used" if interface.used else "not used"
            what = f"{interface.name} ({addresses}) is {used}: {interface.reason}"
            if interface.used and not interface.running:
                findings.append(
                    Finding("interfaces", "warning", f"{what}; but no cable or network", "plug in")
                )
            else:
                findings.append(Finding("interfaces", "ok", what))
        for missing in node.verdicts.missing:
            findings.append(
                Finding(
                    "interfaces",
                    "error",
                    f"no interface matches --interface {missing}",
                    "correct the name or address, or connect it: it is used once it is there",
                )
            )
        if not node.verdicts.used:
            mend = "bring an interface up, or name one by --interface"
            findings.append(Finding("interfaces", "error", "no interface is used", mend))
        return findings

    async def _mdns(self, node: NodeHealth) -> list[Finding]:
        if node.mdns is None:
            what = "mDNS is off: only bootstrap addresses and known peers are tried"
            return [Finding("mdns", "warning", what, "leave out --no-mdns")]
        if not node.mdns:
            what = "no interface in use has multicast: nobody is found by mDNS"
            return [Finding("mdns", "warning", what, "name another node by --bootstrap")]
        findings = []
        for state in node.mdns:
            ignored = ", ".join(f"{count} {reason}" for reason, count in state.ignored)
            if state.problem:
                mend = "see the findings on multicast and port 5353"
                what = f"on {state.interface}: {state.problem}"
                findings.append(Finding("mdns", "error", what, mend))
            else:
                nodes = "other node announces itself"
                if state.peers != 1:
                    nodes = "other nodes announce themselves"
                what = f"on {state.interface}: {state.peers} {nodes}"
                if ignored:
                    what += f"; passed over: {ignored}"
                findings.append(Finding("mdns", "ok", what))
        return findings

    async def _multicast(self, node: NodeHealth) -> list[Finding]:
        findings = []
        for interface in node.verdicts.used:
            if not interface.multicast and not interface.is_loopback:
                what = f"{interface.name} has none; peers there need --bootstrap or each other"
                findings.append(Finding("multicast", "ok", what))
                continue
            versions = sorted({address.version for address in interface.addresses})
            if interface.is_loopback:
                versions = [version for version in versions if version == 4]
            for version in versions:
                findings.append(await self._multicast_on(interface, version))
        return findings

    async def _multicast_on(self, interface: NetworkInterface, version: int) -> Finding:
        where = f"IPv{version} on {interface.name}"
        try:
            problem = await self._defer_to_thread(
                lambda: self._probes.multicast_comes_back(interface, version)
            )
        except OSError as error:
            return Finding(
                "multicast",
                "error",
                f"{where}: {error.strerror or error}",
                "see the finding on port 5353",
            )
        if not problem:
            return Finding("multicast", "ok", f"{where}: what is sent comes back")
        group = system_probes.GROUP4 if version == 4 else system_probes.GROUP6
        return Finding(
            "multicast",
            "error" if version == 4 else "warning",
            f"{where}: {problem}",
            f"let UDP port 5353 to and from {group} through the firewall of this machine",
        )

    async def _port_5353(self, node: NodeHealth) -> list[Finding]:
        users = await self._defer_to_thread(
            lambda: self._probes.port_users(system_probes.MDNS_PORT)
        )
        findings = []
        for user in users:
            if user.pid == os.getpid():
                continue
            if user.pid is None:
                who = f"a program of {user.user} that may not be seen from here"
                mend = "sudo ss -ulpn sport = :5353"
            else:
                who = f"{user.name or 'a program'} (pid {user.pid}, {user.user})"
                mend = None
            findings.append(Finding("port-5353", "ok", f"also used by {who}", mend))
        if not findings:
            findings.append(Finding("port-5353", "ok", "nobody else uses it"))
        if any(state.problem.startswith("UDP port 5353") for state in node.mdns or ()):
            findings.append(
                Finding(
                    "port-5353",
                    "error",
                    "one of them does not share it",
                    "stop it; for avahi-daemon set disallow-other-stacks=no in"
                    " /etc/avahi/avahi-daemon.conf and restart it",
                )
            )
        return findings

    async def _listening(self, node: NodeHealth) -> list[Finding]:
        port = node.port
        if port is None:
            return [
                Finding(
                    "listening",
                    "error",
                    "this node listens nowhere, so that nobody can dial it",
                    "look at the log for why, and at the interfaces",
                )
            ]
        ports = await self._defer_to_thread(self._probes.listening_ports)
        if port not in ports:
            what = f"the kernel knows of no listener on port {port}"
            return [Finding("listening", "error", what, "restart the node")]
        return [Finding("listening", "ok", ", ".join(str(each) for each in node.listening))]

    async def _peers(self, node: NodeHealth) -> list[Finding]:
        findings = _kept_out(node)
        if not node.unreachable:
            # Where nobody is known, or no node runs, the other checks are for that.
            if node.links:
                said = "one peer is" if node.links == 1 else f"{node.links} peers are"
                findings.append(Finding("peers", "ok", f"{said} linked; none is out of reach"))
            return findings
        mend = "see whether it runs, at that address, and whether a firewall lets its port through"
        shown = node.unreachable[:MAX_UNREACHABLE]
        findings += [
            Finding("peers", "warning", f"{who} is not linked: {why}", mend) for who, why in shown
        ]
        if len(node.unreachable) > len(shown):
            what = f"{len(node.unreachable) - len(shown)} more are not linked"
            findings.append(Finding("peers", "warning", what, "bzzz peers lists them"))
        return findings

    async def _clock(self, node: NodeHealth) -> list[Finding]:
        findings = []
        mend = "sudo timedatectl set-ntp true, or install chrony where there is no systemd"
        try:
            clock = await self._defer_to_thread(self._probes.clock_state)
        except OSError as error:
            findings.append(Finding("clock", "unknown", f"the kernel does not say: {error}"))
        else:
            if clock.synchronised:
                findings.append(Finding("clock", "ok", "it is kept right by a time service"))
            else:
                what = "no time service keeps it right; timestamps may mislead"
                findings.append(Finding("clock", "warning", what, mend))
        off = {name: skew for name, skew in node.skews.items() if abs(skew) > SKEW}
        if off and abs(median(node.skews.values())) > SKEW:
            typical = median(node.skews.values())
            direction = "behind" if typical > 0 else "ahead of"
            what = f"this clock is {abs(typical):.0f} s {direction} that of most other nodes"
            findings.append(Finding("clock", "warning", what, mend))
        elif off:
            each = ", ".join(f"{name} by {skew:+.0f} s" for name, skew in sorted(off.items()))
            what = f"clocks of other nodes differ from most: {each}"
            findings.append(Finding("clock", "warning", what, f"there: {mend}"))
        return findings


def _kept_out(node: NodeHealth) -> list[Finding]:
    """That peers take this node for a guest, which links alone do not show."""
    count = len(node.hosts)
    if not count:
        return []
    names = ", ".join(node.hosts[:MAX_NAMED])
    more = f" and {count - MAX_NAMED} more" if count > MAX_NAMED else ""
    who = "every peer that answers takes" if not node.links else "some peers take"
    return [
        Finding(
            "peers",
            "warning",
            f"{who} this node for a guest, as it was revoked, or they have not heard yet that it"
            f" is a member: {names}{more}",
            "if it was revoked: on this machine bzzz leave, then bzzz join with a new code. If not,"
            " they hear of it from another member",
        )
    ]
