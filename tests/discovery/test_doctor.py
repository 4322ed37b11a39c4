"""The checks of bzzz doctor, on made-up machines."""

from __future__ import annotations

import socket
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, execute, fail, succeed
from twisted.trial.unittest import SynchronousTestCase

from bzzz.discovery import doctor, system_probes
from bzzz.discovery.doctor import Doctor, NodeHealth, SystemProbes
from bzzz.discovery.finding import Finding
from bzzz.discovery.firewall import examine_firewall
from bzzz.discovery.mdns import MdnsState
from bzzz.discovery.network_interfaces import (
    InterfaceAddress,
    NetworkInterface,
    Verdicts,
    judge,
    local_addresses,
    system_interfaces,
)
from bzzz.discovery.system_probes import ClockState, PortUser
from bzzz.errors import BzzzError

LO = NetworkInterface(
    "lo", 1, (InterfaceAddress("127.0.0.1", 8),), is_loopback=True, multicast=False
)
ETH0 = NetworkInterface(
    "eth0", 2, (InterfaceAddress("192.0.2.7", 24), InterfaceAddress("2001:db8::7", 64))
)
WG0 = NetworkInterface("wg0", 3, (InterfaceAddress("10.0.0.7", 24),), multicast=False)


def in_thread(call: Callable[[], Any]) -> Deferred[Any]:
    return execute(call)


def refuse(argv: Sequence[str], timeout: float) -> Deferred[bytes]:
    return fail(BzzzError("not permitted"))


def health(**changes: Any) -> NodeHealth:
    verdicts = changes.pop("verdicts", judge([LO, ETH0]))
    values: dict[str, Any] = {
        "verdicts": verdicts,
        "listening": local_addresses(verdicts.used, 4001),
        "mdns": [MdnsState("eth0", "", 2, ())],
    }
    return NodeHealth(**{**values, **changes})


def well(**changes: Any) -> SystemProbes:
    values: dict[str, Any] = {
        "multicast_comes_back": lambda interface, version: "",
        "port_users": lambda port: [],
        "listening_ports": lambda: {4001},
        "clock_state": lambda: ClockState(True, 0.01),
    }
    return SystemProbes(**{**values, **changes})


class DoctorTests(SynchronousTestCase):
    """:class:`Doctor`."""

    def setUp(self) -> None:
        async def no_firewall(port: int | None, run: object) -> list[Finding]:
            return []

        self.patch(doctor, "examine_firewall", no_firewall)

    def examine(self, node: NodeHealth, probes: SystemProbes) -> list[Finding]:
        return self.successResultOf(Doctor(in_thread, refuse, probes).examine(node))

    def bad(self, node: NodeHealth, probes: SystemProbes) -> list[tuple[str, str]]:
        """The findings that are not ok; each has to have a mend."""
        found = [each for each in self.examine(node, probes) if each.status != "ok"]
        for finding in found:
            if finding.status != "unknown":
                self.assertTrue(finding.mend, finding)
        return [(each.check, each.status) for each in found]

    def test_well(self) -> None:
        """A node that is well: every check says so, each interface with its reason."""
        findings = self.examine(health(links=1), well())
        self.assertEqual({finding.status for finding in findings}, {"ok"})
        self.assertEqual(
            [finding.check for finding in findings],
            [
                *("interfaces", "interfaces", "mdns", "multicast", "multicast"),
                *("port-5353", "listening", "peers", "clock"),
            ],
        )
        self.assertEqual(
            findings[0].what,
            "lo (127.0.0.1/8) is not used: loopback leads to no other machine",
        )

    def test_who_announces_itself(self) -> None:
        """So many others announce themselves on an interface, in good English."""
        for count, words in (
            (0, "0 other nodes announce themselves"),
            (1, "1 other node announces itself"),
            (2, "2 other nodes announce themselves"),
        ):
            state = MdnsState("eth0", "", count, ())
            findings = self.examine(health(links=1, mdns=[state]), well())
            (finding,) = (each for each in findings if each.check == "mdns")
            self.assertEqual(finding.what, f"on eth0: {words}")

    def test_kept_out(self) -> None:
        """A link at which this node is a guest is not well; the mend is to leave and join again."""
        findings = self.examine(health(links=0, hosts=["aXgZfP (acacia)"]), well())
        (found,) = [each for each in findings if each.check == "peers"]
        self.assertEqual(found.status, "warning")
        self.assertIn("every peer that answers takes this node for a guest", found.what)
        self.assertTrue(found.what.endswith(": aXgZfP (acacia)"), found.what)
        self.assertIn(
            "on this machine bzzz leave, then bzzz join with a new code", found.mend or ""
        )

    def test_kept_out_by_some(self) -> None:
        """Where others take it for a member that is said, too; of many hosts some are named."""
        hosts = [f"x{number}" for number in range(doctor.MAX_NAMED + 2)]
        findings = self.examine(health(links=1, hosts=hosts), well())
        first, second = [each for each in findings if each.check == "peers"]
        self.assertIn("some peers take this node for a guest", first.what)
        self.assertTrue(first.what.endswith(", x9 and 2 more"), first.what)
        self.assertEqual(
            (second.status, second.what), ("ok", "one peer is linked; none is out of reach")
        )

    def test_ills(self) -> None:
        """Each ill is found by its check."""
        unplugged = NetworkInterface("eth0", 2, ETH0.addresses, running=False)

        def no_route(interface: NetworkInterface, version: int) -> str:
            return "it cannot be sent: Network is unreachable" if version == 4 else ""

        def busy(interface: NetworkInterface, version: int) -> str:
            raise OSError(98, "Address already in use")

        in_use = "UDP port 5353 is in use"
        cases: list[tuple[NodeHealth, SystemProbes, list[tuple[str, str]]]] = [
            (
                health(verdicts=judge([LO, ETH0], ["usb0"]), mdns=[]),
                well(),
                [
                    *(("interfaces", "error"), ("interfaces", "error")),
                    *(("mdns", "warning"), ("listening", "error")),
                ],
            ),
            (health(verdicts=judge([unplugged])), well(), [("interfaces", "warning")]),
            (health(mdns=None), well(), [("mdns", "warning")]),
            (
                health(links=3, unreachable=[("/ip4/192.0.2.9/tcp/1", "refused")]),
                well(),
                [("peers", "warning")],
            ),
            (
                health(unreachable=[(str(n), "gone") for n in range(doctor.MAX_UNREACHABLE + 1)]),
                well(),
                [("peers", "warning")] * (doctor.MAX_UNREACHABLE + 1),
            ),
            (health(), well(multicast_comes_back=no_route), [("multicast", "error")]),
            (
                health(mdns=[MdnsState("eth0", in_use, 0, ())]),
                well(multicast_comes_back=busy),
                [("mdns", "error"), *[("multicast", "error")] * 2, ("port-5353", "error")],
            ),
            (health(listening=()), well(), [("listening", "error")]),
            (health(), well(listening_ports=lambda: {22}), [("listening", "error")]),
            (
                health(),
                well(clock_state=lambda: ClockState(False, 16.0)),
                [("clock", "warning")],
            ),
        ]
        for node, probes, expected in cases:
            self.assertEqual(self.bad(node, probes), expected)

    def test_vpn(self) -> None:
        """A VPN without multicast is nothing bad."""
        self.assertEqual(self.bad(health(verdicts=judge([ETH0, WG0])), well()), [])

    def test_port_users(self) -> None:
        """Others on port 5353 are named, or who may name them."""
        others = [PortUser(312, "avahi-daemon", "avahi"), PortUser(None, "", "root")]
        findings = self.examine(health(), well(port_users=lambda port: others))
        said = [finding for finding in findings if finding.check == "port-5353"]
        self.assertEqual(said[0].what, "also used by avahi-daemon (pid 312, avahi)")
        self.assertIn("a program of root", said[1].what)
        self.assertEqual(said[1].mend, "sudo ss -ulpn sport = :5353")

    def test_skew(self) -> None:
        """Where one clock differs it is that one; where most do it is ours."""
        cases: list[tuple[Mapping[str, float], str | None]] = [
            ({"walnut": 0.2, "ironwood": -0.3}, None),
            ({"walnut": 0.2, "ironwood": -0.3, "acacia": 61.0}, "acacia by +61 s"),
            ({"walnut": 60.0, "ironwood": 61.0, "acacia": 0.0}, "60 s behind"),
            ({"walnut": -60.0}, "60 s ahead of"),
        ]
        for skews, expected in cases:
            findings = self.examine(health(skews=skews), well())
            said = [each.what for each in findings if each.status == "warning"]
            if expected is None:
                self.assertEqual(said, [])
            else:
                self.assertEqual(len(said), 1)
                self.assertIn(expected, said[0])

    def test_failing_check(self) -> None:
        """A check that fails is said, and keeps none of the others from being made."""

        def broken(port: int) -> list[PortUser]:
            raise RuntimeError("no /proc here")

        findings = self.examine(health(), well(port_users=broken))
        (unknown,) = (finding for finding in findings if finding.status == "unknown")
        self.assertEqual(unknown.check, "port-5353")
        self.assertIn("no /proc here", unknown.what)
        self.assertEqual(findings[-1].check, "clock")
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)


class FirewallTests(SynchronousTestCase):
    """:func:`examine_firewall`."""

    def setUp(self) -> None:
        self.outputs: dict[str, str] = {}
        self.installed: set[str] = set()
        self.port = 4001
        self.etc = Path(self.mktemp())
        (self.etc / "ufw").mkdir(parents=True)

    def run_command(self, argv: Sequence[str], timeout: float) -> Deferred[bytes]:
        try:
            return succeed(self.outputs[" ".join(argv)].encode())
        except KeyError:
            return fail(BzzzError("Operation not permitted (you must be root)"))

    def examine(self) -> Finding:
        for command in self.outputs:
            self.installed.add(command.split()[0])
        findings = self.successResultOf(
            Deferred.fromCoroutine(
                examine_firewall(
                    self.port,
                    self.run_command,
                    find=lambda name: name if name in self.installed else None,
                    etc=self.etc,
                )
            )
        )
        (finding,) = findings
        return finding

    def test_none(self) -> None:
        """Without any, all is well."""
        self.assertEqual(self.examine().status, "ok")

    def test_not_permitted(self) -> None:
        """Where only root is told, the command for root is named."""
        for tool in ("nft", "iptables"):
            self.installed = {tool}
            finding = self.examine()
            self.assertEqual(finding.status, "unknown")
            self.assertTrue(finding.mend and finding.mend.startswith(f"sudo {tool}"))

    def test_nftables(self) -> None:
        """The usual kinds of rule sets."""
        chain = (
            "table inet filter {{\n chain input {{\n  type filter hook input priority filter; {}"
        )
        cases = [
            ("", "ok"),
            (chain.format("policy accept;\n }\n}"), "ok"),
            (chain.format("policy drop;\n  tcp dport 22 accept\n }\n}"), "warning"),
            (
                chain.format("policy accept;\n  tcp dport 22 accept\n  counter drop\n }\n}"),
                "warning",
            ),
            (
                chain.format("policy drop;\n  tcp dport { 22, 4001 } accept\n  udp dport 5353\n"),
                "ok",
            ),
            (chain.format("policy drop;\n  tcp dport 14001 accept\n  udp dport 5353\n"), "warning"),
        ]
        for rules, expected in cases:
            self.outputs = {"nft list ruleset": rules}
            self.assertEqual(self.examine().status, expected, rules)
        self.assertIn("TCP port 4001", self.examine().what)

    def test_iptables(self) -> None:
        """Where there is only iptables."""
        for rules, expected in (
            ("-P INPUT ACCEPT\n", "ok"),
            ("-P INPUT DROP\n-A INPUT -p tcp --dport 22 -j ACCEPT\n", "warning"),
            ("-P INPUT ACCEPT\n-A INPUT -j REJECT\n", "warning"),
            ("-P INPUT DROP\n-A INPUT -p udp --dport 5353\n-A INPUT --dport 4001\n", "ok"),
        ):
            self.outputs = {"iptables -S INPUT": rules}
            self.assertEqual(self.examine().status, expected, rules)

    def test_ufw(self) -> None:
        """ufw, off, on and silent, on and telling."""
        conf = self.etc / "ufw" / "ufw.conf"
        conf.write_text("ENABLED=no\n")
        self.assertEqual(self.examine().status, "ok")
        conf.write_text("# on\nENABLED=yes\n")
        finding = self.examine()
        self.assertEqual(finding.status, "unknown")
        self.assertIn("sudo ufw allow 4001/tcp", finding.mend or "")
        for status, expected in (
            ("Status: active\n\n22/tcp  ALLOW  Anywhere\n", "warning"),
            ("Status: active\n\n4001/tcp  ALLOW  Anywhere\n", "ok"),
            ("Status: active\n\nBzzz  ALLOW  Anywhere\n", "warning"),
        ):
            self.outputs = {"ufw status": status}
            self.assertEqual(self.examine().status, expected)
        # The profile that the installer ships opens the ports that a node chooses from.
        (self.etc / "ufw" / "applications.d").mkdir()
        (self.etc / "ufw" / "applications.d" / "bzzz").touch()
        self.assertEqual(self.examine().mend, "sudo ufw allow 4001/tcp")
        self.port = 40001
        self.assertEqual(self.examine().status, "ok")
        self.outputs = {"ufw status": "Status: active\n"}
        self.assertEqual(self.examine().mend, "sudo ufw allow Bzzz")

    def test_firewalld(self) -> None:
        """firewalld, not running, silent and telling."""
        self.outputs = {"firewall-cmd --state": "not running\n"}
        self.assertEqual(self.examine().status, "ok")
        self.outputs = {"firewall-cmd --state": "running\n"}
        self.assertEqual(self.examine().status, "unknown")
        for listed, expected in (
            ("services: ssh\n ports: \n", "warning"),
            ("services: mdns ssh\n ports: 4001/tcp\n", "ok"),
            ("services: ssh\n interfaces: bzzz\n ports: \n", "warning"),
            ("services: bzzz ssh\n ports: \n", "warning"),
        ):
            self.outputs["firewall-cmd --list-all"] = listed
            self.assertEqual(self.examine().status, expected)
        for listed, lacking in (
            ("services: mdns ssh\n ports: \n", "TCP port 4001"),
            ("services: ssh\n ports: 4001/tcp\n", "UDP port 5353"),
        ):
            self.outputs["firewall-cmd --list-all"] = listed
            self.assertEqual(self.examine().what, f"firewalld does not let in {lacking}")
        self.assertIn("--add-port=4001/tcp --add-service=mdns", self.examine().mend or "")
        (self.etc / "firewalld" / "services").mkdir(parents=True)
        (self.etc / "firewalld" / "services" / "bzzz.xml").touch()
        self.port = 40001
        self.assertIn("--permanent --add-service=bzzz", self.examine().mend or "")
        self.outputs["firewall-cmd --list-all"] = " services: bzzz ssh\n ports: \n"
        self.assertEqual(self.examine().status, "ok")


class ProbeTests(SynchronousTestCase):
    """:mod:`bzzz.discovery.system_probes`."""

    def proc(self) -> Path:
        parent = Path(self.mktemp())
        parent.mkdir(parents=True)
        proc = Path(tempfile.mkdtemp(dir=parent))
        (proc / "net").mkdir()
        head = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid"
        row = (
            " {n}: {local} 00000000:0000 {st} 00000000:00000000 00:00000000 00000000 {uid} 0 {ino}"
        )
        udp = [
            row.format(n=1, local="00000000:14E9", st="07", uid=0, ino=111),
            row.format(n=2, local="FB0000E0:14E9", st="07", uid=4294967294, ino=222),
            row.format(n=3, local="00000000:0044", st="07", uid=0, ino=333),
        ]
        (proc / "net" / "udp").write_text("\n".join([head, *udp]))
        tcp = [
            row.format(n=1, local="0100007F:0FA1", st="0A", uid=0, ino=444),
            row.format(n=2, local="0100007F:0FA2", st="01", uid=0, ino=555),
        ]
        (proc / "net" / "tcp").write_text("\n".join([head, *tcp]))
        home = proc / "77"
        (home / "fd").mkdir(parents=True)
        (home / "comm").write_text("avahi-daemon\n")
        # Listed, and closed when it is looked at; the first of all.
        (home / "fd" / "0").touch()
        iterdir = Path.iterdir
        self.patch(Path, "iterdir", lambda path: iter(sorted(iterdir(path))))
        (home / "fd" / "3").symlink_to("socket:[111]")
        (home / "fd" / "4").symlink_to("/dev/null")
        (proc / "78").mkdir()
        return proc

    def test_port_users(self) -> None:
        """Sockets are told with their process, or with their user where it cannot be seen."""
        self.assertEqual(
            system_probes.port_users(5353, self.proc()),
            [PortUser(77, "avahi-daemon", "root"), PortUser(None, "", "uid 4294967294")],
        )

    def test_listening_ports(self) -> None:
        """Listeners only, not connections."""
        self.assertEqual(system_probes.listening_ports(self.proc()), {4001})

    def test_this_machine(self) -> None:
        """On the real /proc: a socket of ours is found as ours."""
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
            listener.bind(("127.0.0.1", 0))
            listener.listen()
            self.assertIn(listener.getsockname()[1], system_probes.listening_ports())

    def test_clock(self) -> None:
        """The kernel says something of its clock."""
        self.assertIsInstance(system_probes.clock_state().synchronised, bool)

    def test_multicast(self) -> None:
        """On loopback multicast comes back."""
        verdicts: Verdicts = judge(system_interfaces(), ["lo"])
        self.assertEqual(system_probes.multicast_comes_back(verdicts.used[0], 4), "")
