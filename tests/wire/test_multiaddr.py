"""Multiaddrs in text and binary."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from bzzz.errors import RemoteProtocolError
from bzzz.identity.keys import PrivateKey
from bzzz.wire.multiaddr import AddressError, Multiaddr

PEER = PrivateKey(b"p" * 32).peer_id
GOOD = (
    "/ip4/127.0.0.1/tcp/4001",
    "/ip6/::1/tcp/0",
    "/ip6/2001:db8::7/tcp/65535",
    "/ip6zone/eth0/ip6/fe80::1/tcp/1",
    "/dns4/example.com/tcp/443/wss",
    "/dnsaddr/bootstrap.example.com",
    "/ip4/192.0.2.1/udp/4001/quic-v1",
    f"/ip4/192.0.2.1/tcp/4001/p2p/{PEER}",
    f"/ip4/192.0.2.1/tcp/4001/p2p/{PEER}/p2p-circuit",
)


class TextTests(SynchronousTestCase):
    """From text and back."""

    def test_round_trip(self) -> None:
        """Text, binary and text again are the same address."""
        for text in GOOD:
            address = Multiaddr.parse(text)
            self.assertEqual(str(address), text)
            again = Multiaddr.decode(address.encode())
            self.assertEqual(again, address)
            self.assertEqual(hash(again), hash(address))
            self.assertEqual(str(again), text)

    def test_known_bytes(self) -> None:
        """The binary form is the one of the multiaddr specification."""
        self.assertEqual(
            Multiaddr.parse("/ip4/127.0.0.1/tcp/4001").encode().hex(), "047f000001060fa1"
        )
        self.assertEqual(
            Multiaddr.parse("/ip6/::1/udp/4001/quic-v1").encode().hex(),
            "29" + "00" * 15 + "01" + "91020fa1" + "cd03",
        )

    def test_ipfs_is_p2p(self) -> None:
        """The old name of /p2p is read, and written anew."""
        self.assertEqual(
            str(Multiaddr.parse(f"/ip4/192.0.2.1/tcp/1/ipfs/{PEER}")),
            f"/ip4/192.0.2.1/tcp/1/p2p/{PEER}",
        )

    def test_wrong_text_names_its_part(self) -> None:
        """The error has the whole text and the part that is wrong."""
        for text, part in (
            ("/ip4/300.1.1.1/tcp/1", "'300.1.1.1' is not an IPv4 address"),
            ("/ip4/1.2.3.4/tcp/65536", "'65536' is not a port"),
            ("/ip4/1.2.3.4/tcp/x", "'x' is not a port"),
            ("/ip4/1.2.3.4/tcp", "/tcp lacks its value"),
            ("/ip6/1.2.3.4/tcp/1", "not an IPv6 address"),
            ("/ip6/fe80::1%eth0/tcp/1", "/ip6zone/eth0"),
            ("/ip5/1.2.3.4", "'ip5' is not a protocol"),
            ("ip4/1.2.3.4/tcp/1", "starts with /"),
            ("/", "empty"),
            ("", "starts with /"),
            ("/ip4/1.2.3.4/tcp/1/p2p/xyz", "not a peer ID"),
            ("/dns4/a b/tcp/1", "'a b' is not a name"),
            ("/tls" * 21, "more than 20 parts"),
            ("/" + "a" * 3000, "at most 2048 characters"),
        ):
            error = self.assertRaises(AddressError, Multiaddr.parse, text)
            self.assertIn(part, str(error))

    @given(st.text(alphabet="/ip46tcdns.:0127p", max_size=60))
    def test_any_text(self, text: str) -> None:
        """Text of any kind is an address that prints and parses back, or an AddressError."""
        try:
            address = Multiaddr.parse(text)
        except AddressError:
            return
        self.assertEqual(Multiaddr.parse(str(address)), address)


class BinaryTests(SynchronousTestCase):
    """From the wire."""

    def test_wrong_bytes(self) -> None:
        """What cannot be read is the peer's error: cut short, unknown, empty or too long."""
        for data in (
            b"",
            b"\x04\x7f\x00",
            b"\x06\x00",
            b"\x7f",
            b"\x35\x00",
            b"\x35\x05a",
            b"\x80" * 12,
            b"\x35\x03a/b",
            b"\xa5\x03\x02\x00\x00",
            b"\x04\x7f\x00\x00\x01" * 21,
            b"\x04" * 2000,
        ):
            self.assertRaises(RemoteProtocolError, Multiaddr.decode, data)

    @given(st.binary(max_size=120))
    def test_any_bytes(self, data: bytes) -> None:
        """Bytes of any kind are an address or a RemoteProtocolError."""
        try:
            address = Multiaddr.decode(data)
        except RemoteProtocolError:
            return
        self.assertTrue(str(address).startswith("/"))


class PartTests(SynchronousTestCase):
    """What an address says."""

    def test_host_port(self) -> None:
        """Only plain TCP has a host and a port; a zone travels with the host."""
        for text, expected in (
            ("/ip4/192.0.2.1/tcp/7", ("ip4", "192.0.2.1", 7)),
            (f"/ip6/::1/tcp/7/p2p/{PEER}", ("ip6", "::1", 7)),
            ("/ip6zone/eth0/ip6/fe80::1/tcp/1", ("ip6", "fe80::1%eth0", 1)),
            ("/dns/walnut.lan/tcp/7", ("dns", "walnut.lan", 7)),
            ("/ip4/192.0.2.1/udp/7", None),
            ("/ip4/192.0.2.1/tcp/7/ws", None),
            ("/dnsaddr/example.com", None),
        ):
            self.assertEqual(Multiaddr.parse(text).host_port(), expected)

    def test_tcp(self) -> None:
        """A socket's address becomes a multiaddr; IPv4 mapped into IPv6 is told as IPv4."""
        self.assertEqual(str(Multiaddr.tcp("192.0.2.1", 7)), "/ip4/192.0.2.1/tcp/7")
        self.assertEqual(str(Multiaddr.tcp("::ffff:192.0.2.1", 7)), "/ip4/192.0.2.1/tcp/7")
        self.assertEqual(str(Multiaddr.tcp("fe80::1%eth0", 7)), "/ip6zone/eth0/ip6/fe80::1/tcp/7")

    def test_peer(self) -> None:
        """The peer ID at the end can be read, put there and taken away."""
        plain = Multiaddr.parse("/ip4/192.0.2.1/tcp/7")
        self.assertIsNone(plain.peer_id)
        full = plain.with_peer(PEER)
        self.assertEqual(full.peer_id, PEER)
        self.assertEqual(full.with_peer(PEER), full)
        self.assertEqual(full.without_peer(), plain)
        self.assertEqual(plain.without_peer(), plain)
