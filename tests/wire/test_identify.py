"""What a peer says of itself."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from bzzz.errors import RemoteProtocolError
from bzzz.identity.keys import PrivateKey
from bzzz.wire.identify import MAX_ADDRESSES, MAX_PROTOCOLS, MAX_TEXT, Identify
from bzzz.wire.multiaddr import Multiaddr
from bzzz.wire.pb import identify_pb2

ADDRESS = Multiaddr.parse("/ip4/192.0.2.1/tcp/7")


class IdentifyTests(SynchronousTestCase):
    """The identify message."""

    def test_round_trip(self) -> None:
        """What is said is what is heard."""
        said = Identify(
            protocol_version="ipfs/0.1.0",
            agent_version="bzzz-py/0.1.0",
            public_key=PrivateKey(b"k" * 32).public,
            listen_addrs=(ADDRESS,),
            observed_addr=ADDRESS,
            protocols=("/ipfs/ping/1.0.0",),
            name="walnut",
            guest=True,
        )
        self.assertEqual(Identify.decode(said.encode()), said)
        self.assertEqual(Identify.decode(b""), Identify())

    def test_guest(self) -> None:
        """Field 1002 is there only where it says something: members see what they always saw."""
        self.assertEqual(Identify(guest=True).encode(), Identify().encode() + b"\xd0\x3e\x01")
        self.assertEqual(Identify(guest=False).encode(), Identify().encode())
        self.assertFalse(Identify.decode(b"\xd0\x3e\x00").guest)

    def test_unknown_addresses_are_left_out(self) -> None:
        """An address of a transport that is not known here does not spoil the others."""
        message = identify_pb2.Identify(listenAddrs=[b"\x7f\x01", ADDRESS.encode(), b""])
        self.assertEqual(Identify.decode(message.SerializeToString()).listen_addrs, (ADDRESS,))

    def test_bounds(self) -> None:
        """Lists and texts are cut, and control characters do not reach logs and terminals."""
        message = identify_pb2.Identify(
            listenAddrs=[ADDRESS.encode()] * 1000,
            protocols=["/y" * 1000, "", "/\x1b[2J"] + ["/x"] * 1000,
            protocolVersion="v\r\n" * 1000,
            agentVersion="a\x1b[2J\n" * 1000,
            bzzzName="wal\nnut\x07",
        )
        heard = Identify.decode(message.SerializeToString())
        self.assertEqual(len(heard.listen_addrs), MAX_ADDRESSES)
        self.assertEqual(heard.protocols, ("/x",) * (MAX_PROTOCOLS - 3))
        for text in (heard.agent_version, heard.protocol_version):
            self.assertTrue(text.isprintable())
            self.assertLessEqual(len(text), MAX_TEXT)
        self.assertEqual(heard.name, "walnut")

    def test_wrong(self) -> None:
        """A message that cannot be read, or has a key that cannot be, is the peer's error."""
        bad_key = identify_pb2.Identify(publicKey=b"\x08\x00\x12\x00").SerializeToString()
        for data, code in (
            (b"\xff", "identify_unreadable"),
            # A protocol's and an agent's name that is not UTF-8.
            (b"\x1a\x01\xff", "identify_unreadable"),
            (b"\x32\x01\xff", "identify_unreadable"),
            (bad_key, "identify_bad_key"),
        ):
            error = self.assertRaises(RemoteProtocolError, Identify.decode, data)
            self.assertEqual(error.code, code)

    @given(st.binary(max_size=200))
    def test_anything(self, data: bytes) -> None:
        """Bytes of any kind are a message or a RemoteProtocolError."""
        try:
            heard = Identify.decode(data)
        except RemoteProtocolError:
            return
        self.assertEqual(Identify.decode(heard.encode()), heard)

    @given(st.lists(st.tuples(st.sampled_from(range(1, 9)), st.binary(max_size=60)), max_size=8))
    def test_any_fields(self, fields: list[tuple[int, bytes]]) -> None:
        """Fields with content of any kind are a message or a RemoteProtocolError."""
        data = b"".join(bytes((number << 3 | 2, len(value))) + value for number, value in fields)
        try:
            heard = Identify.decode(data)
        except RemoteProtocolError:
            return
        self.assertEqual(Identify.decode(heard.encode()), heard)

    def test_partial(self) -> None:
        """A push says only what changed; what it does not say is empty."""
        heard = Identify.decode(Identify(listen_addrs=(ADDRESS,)).encode())
        self.assertEqual(heard, Identify(listen_addrs=(ADDRESS,)))
        self.assertIsNone(heard.public_key)
        self.assertIsNone(heard.observed_addr)
