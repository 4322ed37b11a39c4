"""Multiaddrs in text and binary."""

from __future__ import annotations

import base64

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from bzzz.errors import RemoteProtocolError
from bzzz.identity import base58
from bzzz.identity.keys import PrivateKey
from bzzz.identity.peer_id import PeerID
from bzzz.wire import varint
from bzzz.wire.multiaddr import AddressError, Multiaddr
from bzzz.wire.multiaddr_protocols import BY_CODE

PEER = PrivateKey(b"p" * 32).peer_id
OTHER = PrivateKey(b"o" * 32).peer_id
# A SHA-256 multihash in multibase base64url.
CERTHASH = "u" + base64.urlsafe_b64encode(b"\x12\x20" + b"c" * 32).decode().rstrip("=")
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
    f"/p2p/{PEER}",
    f"/ip4/192.0.2.1/udp/1/quic-v1/webtransport/certhash/{CERTHASH}/certhash/{CERTHASH}",
    f"/ip4/192.0.2.1/udp/1/webrtc-direct/certhash/{CERTHASH}",
    "/dns/example.com/tcp/443/tls/sni/www.example.com/ws",
    "/ip4/192.0.2.1/tcp/80/http",
    "/ip4/192.0.2.1/tcp/443/https",
    "/ip4/192.0.2.1/udp/1/quic",
    "/dns6/example.com/tcp/1/noise",
    "/unix/run/bzzz/api.sock",
    f"/onion3/{'a2' * 28}:1234",
    # Of libp2p's addressing/README.md, whose "198.51.100" is no whole IPv4 address.
    "/ip4/198.51.100.0/tcp/80/ws",
    "/ip6/fe80::883:a581:fff1:833",
    "/dns4/example.com/tcp/42",
    "/dnsaddr/libp2p.io",
    "/p2p/QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N",
    "/ip4/198.51.100.0/tcp/1234/p2p/QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N",
    "/ip4/192.0.2.0/tcp/5002/p2p/QmdPU7PfRyKehdrP5A3WqmjyD6bhVpU1mLGKppa2FjGDjZ/p2p-circuit"
    "/p2p/QmVT6GYwjeeAF5TR485Yc58S3xRF5EFsZ5YAF4VcP3URHt",
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
            ("//", "empty"),
            ("//ip4/1.2.3.4", "'' is not a protocol"),
            ("/ip4/1.2.3.4/tcp/-1", "'-1' is not a port"),
            ("/ip4/1.2.3.4/tcp/１", "is not a port"),
            ("/ip4/01.2.3.4/tcp/1", "not an IPv4 address"),
            ("/unix", "'' is not a path"),
            ("/ip4/1.2.3.4/udp/1/webrtc-direct/certhash/u", "not a certificate's hash"),
            ("/certhash/uEiA", "not a certificate's hash"),
            ("/certhash/x" + "a" * 40, "not a certificate's hash"),
            ("/certhash/u" + "A" * 400, "not a certificate's hash"),
            ("/certhash/z0", "not a certificate's hash"),
            ("/onion3/abc:1", "not an onion service"),
            (f"/onion3/{'a2' * 28}", "not an onion service"),
            (f"/onion3/{'a1' * 28}:1", "not an onion service"),
            (f"/onion3/{'a2' * 28}:70000", "not an onion service"),
            ("/dns/" + "a" * 256, "not a name"),
            ("/dns/a\ud800", "not a name"),
            ("", "starts with /"),
            ("/ip4/1.2.3.4/tcp/1/p2p/xyz", "not a peer ID"),
            ("/dns4/a b/tcp/1", "'a b' is not a name"),
            ("/tls" * 21, "more than 20 parts"),
            ("/" + "a" * 3000, "at most 2048 characters"),
        ):
            error = self.assertRaises(AddressError, Multiaddr.parse, text)
            self.assertIn(part, str(error))

    def test_control_characters_are_not_echoed(self) -> None:
        """What is printed of a wrong address cannot steer a terminal."""
        for text in ("/ip4/\x1b[2J/tcp/1", "/ip6/::1%\x1b[2J/tcp/1", "/\x1b[2J", "/p2p/\x1b[2J"):
            error = self.assertRaises(AddressError, Multiaddr.parse, text)
            self.assertTrue(str(error).isprintable(), str(error))

    def test_longest(self) -> None:
        """An address whose binary form would be too long is refused in text as well."""
        text = "".join(f"/dns/{letter * 250}" for letter in "abcde")
        self.assertIn(
            "at most 1024 bytes", str(self.assertRaises(AddressError, Multiaddr.parse, text))
        )

    def test_base58_certificate_hash(self) -> None:
        """A certificate's hash in base58 is read, and written in base64url."""
        text = "z" + base58.encode(b"\x12\x20" + b"c" * 32)
        self.assertEqual(str(Multiaddr.parse(f"/certhash/{text}")), f"/certhash/{CERTHASH}")

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
            # A code that is longer than it need be, which would make two forms of one address.
            b"\x84\x00\x7f\x00\x00\x01",
            # A name that is too long; that is not UTF-8.
            b"\x35\x80\x02" + b"a" * 256,
            b"\x35\x02\xff\xfe",
            # A path with something after it, without a slash, with one too many, not UTF-8.
            b"\x90\x03\x02/a\x06\x00\x01",
            b"\x90\x03\x01a",
            b"\x90\x03\x03/a/",
            b"\x90\x03\x02/\xff",
            # A certificate's hash that is none.
            b"\xd2\x03\x03\x12\x20a",
            b"\xd2\x03\x01\x12",
            b"\xd2\x03\x02\x92\x00",
        ):
            self.assertRaises(RemoteProtocolError, Multiaddr.decode, data)

    @given(st.binary(max_size=120))
    def test_any_bytes(self, data: bytes) -> None:
        """Bytes of any kind are an address or a RemoteProtocolError."""
        self._address_or_error(data)

    @given(
        st.lists(
            st.tuples(st.sampled_from(sorted(BY_CODE)), st.binary(max_size=40), st.booleans()),
            min_size=1,
            max_size=6,
        )
    )
    def test_any_values(self, parts: list[tuple[int, bytes, bool]]) -> None:
        """Known protocols with values of any kind are an address or a RemoteProtocolError."""
        data = b""
        for code, value, right_size in parts:
            size = BY_CODE[code].size
            data += BY_CODE[code].head
            if size is None:
                data += varint.encode(len(value))
            data += value if size is None or not right_size else value[:size].ljust(size, b"v")
        self._address_or_error(data)

    def _address_or_error(self, data: bytes) -> None:
        """An address that was decoded is the same one when it goes through its text."""
        try:
            address = Multiaddr.decode(data)
        except RemoteProtocolError:
            return
        self.assertEqual(address.encode(), data)
        self.assertTrue(str(address).isprintable())
        self.assertEqual(Multiaddr.parse(str(address)), address)
        self.assertEqual(Multiaddr.parse(str(address)).components, address.components)


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
        self.assertEqual(str(Multiaddr.tcp("::ffff:c000:201", 7)), "/ip4/192.0.2.1/tcp/7")
        for address in (Multiaddr.tcp("fe80::1%eth0", 7), Multiaddr.tcp("fe80::1", 7, "eth0")):
            self.assertEqual(str(address), "/ip6zone/eth0/ip6/fe80::1/tcp/7")
        for host, port in (("walnut", 7), ("", 7), ("fe80::x", 7), ("192.0.2.1", 65536)):
            self.assertRaises(AddressError, Multiaddr.tcp, host, port)

    def test_peer(self) -> None:
        """The peer ID at the end can be read, put there and taken away."""
        plain = Multiaddr.parse("/ip4/192.0.2.1/tcp/7")
        self.assertIsNone(plain.peer_id)
        full = plain.with_peer(PEER)
        self.assertEqual(full.peer_id, PEER)
        self.assertEqual(full.with_peer(PEER), full)
        self.assertEqual(full.without_peer(), plain)
        self.assertEqual(plain.without_peer(), plain)
        self.assertEqual(full.with_peer(OTHER), plain.with_peer(OTHER))

    def test_peer_parts_are_whole_addresses(self) -> None:
        """An address with its peer ID added, replaced or removed is as if parsed from its text."""
        relayed = f"/ip4/192.0.2.1/tcp/7/p2p/{PEER}/p2p-circuit"
        hashed = PeerID.parse("QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N")
        for text in ("/ip4/192.0.2.1/tcp/7", relayed, f"/p2p/{PEER}", f"{relayed}/p2p/{PEER}"):
            address = Multiaddr.parse(text)
            for made in (
                address,
                address.with_peer(PEER),
                address.with_peer(OTHER),
                address.with_peer(hashed),
                address.with_peer(hashed).without_peer(),
            ):
                again = Multiaddr.parse(str(made))
                self.assertEqual(again, made)
                self.assertEqual(again.components, made.components)
                self.assertEqual(again.peer_id, made.peer_id)
        self.assertIsNone(Multiaddr.parse(relayed).peer_id)
        alone = Multiaddr.parse(f"/p2p/{PEER}")
        self.assertEqual(alone.without_peer(), alone)
        self.assertEqual(str(alone.with_peer(OTHER)), f"/p2p/{OTHER}")

    def test_a_peer_can_always_be_added(self) -> None:
        """The longest address that a peer may send can still be given its peer ID."""
        name = b"\x35\xfb\x01" + b"a" * 251
        address = Multiaddr.decode(name * 4)
        self.assertEqual(address.with_peer(PEER).peer_id, PEER)
