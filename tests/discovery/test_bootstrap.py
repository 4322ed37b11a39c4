"""Bootstrap addresses made concrete."""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet.defer import Deferred, execute, fail, succeed
from twisted.names.error import DNSNameError
from twisted.trial.unittest import SynchronousTestCase

from bzzz.discovery.bootstrap import MAX_ADDRESSES, Bootstrap
from bzzz.errors import DialError
from bzzz.identity.keys import PrivateKey
from bzzz.wire.multiaddr import Multiaddr

PEER = PrivateKey.from_seed(b"\1" * 32).peer_id
OTHER = PrivateKey.from_seed(b"\2" * 32).peer_id


def in_thread(call: Callable[[], Any]) -> Deferred[Any]:
    return execute(call)


class BootstrapTests(SynchronousTestCase):
    """:class:`Bootstrap`."""

    def setUp(self) -> None:
        self.hosts: dict[tuple[str, int], list[str]] = {}
        self.texts: dict[str, list[bytes]] = {}
        self.bootstrap = Bootstrap(in_thread, self.lookup_text, lookup=self.lookup)

    def lookup(self, host: str, port: int, family: int) -> list[str]:
        try:
            return self.hosts[host, family]
        except KeyError:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known") from None

    def lookup_text(self, name: str) -> Deferred[list[bytes]]:
        if name not in self.texts:
            return fail(DNSNameError())
        return succeed(self.texts[name])

    def resolve(self, text: str) -> list[str]:
        found: Sequence[Multiaddr] = self.successResultOf(
            self.bootstrap.resolve(Multiaddr.parse(text))
        )
        return [str(address) for address in found]

    def refusal(self, text: str) -> str:
        failure = self.failureResultOf(self.bootstrap.resolve(Multiaddr.parse(text)), DialError)
        return str(failure.value)

    def test_literal(self) -> None:
        """An address that is concrete stays, without its peer ID."""
        self.assertEqual(self.resolve("/ip4/192.0.2.7/tcp/4001"), ["/ip4/192.0.2.7/tcp/4001"])
        self.assertEqual(
            self.resolve(f"/ip6/2001:db8::7/tcp/4001/p2p/{PEER}"), ["/ip6/2001:db8::7/tcp/4001"]
        )

    def test_names(self) -> None:
        """Each kind of name asks for its kind of address."""
        self.hosts["walnut", socket.AF_UNSPEC] = ["192.0.2.7", "2001:db8::7"]
        self.hosts["walnut", socket.AF_INET] = ["192.0.2.7"]
        self.hosts["walnut", socket.AF_INET6] = ["2001:db8::7"]
        four, six = "/ip4/192.0.2.7/tcp/4001", "/ip6/2001:db8::7/tcp/4001"
        self.assertEqual(self.resolve("/dns/walnut/tcp/4001"), [four, six])
        self.assertEqual(self.resolve("/dns4/walnut/tcp/4001"), [four])
        self.assertEqual(self.resolve(f"/dns6/walnut/tcp/4001/p2p/{PEER}"), [six])

    def test_looked_up_anew(self) -> None:
        """A name whose address changes is found at the new one."""
        self.hosts["walnut", socket.AF_UNSPEC] = ["192.0.2.7"]
        self.resolve("/dns/walnut/tcp/4001")
        self.hosts["walnut", socket.AF_UNSPEC] = ["192.0.2.8"]
        self.assertEqual(self.resolve("/dns/walnut/tcp/4001"), ["/ip4/192.0.2.8/tcp/4001"])

    def test_unknown_name(self) -> None:
        """A name that cannot be looked up is named."""
        self.assertEqual(
            self.refusal("/dns/nobody/tcp/4001"),
            "the name nobody cannot be looked up: Name or service not known",
        )

    def test_no_name(self) -> None:
        """So is one that is no name of DNS: the resolver refuses to encode it."""

        def lookup(host: str, port: int, family: int) -> list[str]:
            host.encode("idna")
            return []

        self.bootstrap = Bootstrap(in_thread, self.lookup_text, lookup=lookup)
        for name in ("a..b", "x" * 64):
            self.assertIn(
                f"the name {name} cannot be looked up", self.refusal(f"/dns/{name}/tcp/1")
            )

    def test_not_tcp(self) -> None:
        """An address over something else is refused."""
        self.assertIn("no address over TCP", self.refusal("/ip4/192.0.2.7/udp/4001/quic-v1"))

    def test_dnsaddr(self) -> None:
        """/dnsaddr stands for what the TXT records say, through other names too."""
        self.hosts["walnut", socket.AF_INET] = ["192.0.2.9"]
        self.texts["_dnsaddr.lan"] = [
            f"dnsaddr=/ip4/192.0.2.7/tcp/4001/p2p/{PEER}".encode(),
            f"dnsaddr=/ip4/192.0.2.8/tcp/4001/p2p/{OTHER}".encode(),
            f"dnsaddr=/ip4/192.0.2.8/udp/4001/quic-v1/p2p/{OTHER}".encode(),
            b"v=spf1 -all",
            b"dnsaddr=\xff",
            b"dnsaddr=/dnsaddr/more.lan",
            b"dnsaddr=/dns/nobody/tcp/1",
        ]
        self.texts["_dnsaddr.more.lan"] = [b"dnsaddr=/dns4/walnut/tcp/4002"]
        self.assertEqual(
            self.resolve("/dnsaddr/lan"),
            ["/ip4/192.0.2.7/tcp/4001", "/ip4/192.0.2.8/tcp/4001", "/ip4/192.0.2.9/tcp/4002"],
        )
        self.assertEqual(
            self.resolve(f"/dnsaddr/lan/p2p/{OTHER}"),
            ["/ip4/192.0.2.8/tcp/4001", "/ip4/192.0.2.9/tcp/4002"],
        )

    def test_dnsaddr_loop(self) -> None:
        """Names that refer to each other end in an error."""
        self.texts["_dnsaddr.a"] = [b"dnsaddr=/dnsaddr/b"] * 3
        self.texts["_dnsaddr.b"] = [b"dnsaddr=/dnsaddr/a"] * 3
        self.assertIn("stands for no address", self.refusal("/dnsaddr/a"))

    def test_dnsaddr_unknown(self) -> None:
        """A /dnsaddr name without records is named, and so is that it is not supported."""
        self.assertIn("_dnsaddr.nobody", self.refusal("/dnsaddr/nobody"))
        self.bootstrap = Bootstrap(in_thread, lookup=self.lookup)
        self.assertIn("use /dns/lan/tcp/PORT", self.refusal("/dnsaddr/lan"))

    def test_many(self) -> None:
        """Only so many addresses are taken, without doubles."""
        self.hosts["big", socket.AF_UNSPEC] = [f"192.0.2.{i // 2}" for i in range(200)]
        found = self.resolve("/dns/big/tcp/4001")
        self.assertEqual(len(found), MAX_ADDRESSES)
        self.assertEqual(len(set(found)), MAX_ADDRESSES)
