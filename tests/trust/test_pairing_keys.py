"""The keys of a pairing: HKDF by the vectors of its RFC, and what the keys depend on."""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from bzzz.errors import LocalProtocolError, RemoteProtocolError
from bzzz.identity.keys import PrivateKey
from bzzz.trust.pairing_keys import Exchange, Side, hkdf, prepare

ACACIA = PrivateKey(b"a" * 32).peer_id
WALNUT = PrivateKey(b"w" * 32).peer_id
IRONWOOD = PrivateKey(b"i" * 32).peer_id


def exchange(side: Side, **changes: Any) -> Exchange:
    arguments = {
        "password": b"7-guitar-lunar",
        "joiner": ACACIA,
        "inviter": WALNUT,
        "handshake_hash": b"h" * 32,
        "random_bytes": lambda size: side.value * size,
        **changes,
    }
    return Exchange(side, **arguments)


class HKDFTests(SynchronousTestCase):
    """RFC 5869, appendix A, the cases with SHA-256."""

    def check(self, key: str, salt: str, info: str, length: int, expected: str) -> None:
        found = hkdf(bytes.fromhex(key), bytes.fromhex(salt), bytes.fromhex(info), length)
        self.assertEqual(found.hex(), expected)

    def test_basic(self) -> None:
        """A.1, the basic case."""
        self.check(
            "0b" * 22,
            "000102030405060708090a0b0c",
            "f0f1f2f3f4f5f6f7f8f9",
            42,
            "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865",
        )

    def test_long(self) -> None:
        """A.2, long inputs and output."""
        self.check(
            bytes(range(0x50)).hex(),
            bytes(range(0x60, 0xB0)).hex(),
            bytes(range(0xB0, 0x100)).hex(),
            82,
            "b11e398dc80327a1c8e7f78c596a49344f012eda2d4efad8a050cc4c19afa97c"
            "59045a99cac7827271cb41c65e590e09da3275600c2f09b8367793a9aca3db71"
            "cc30c58179ec3e87c14c01d5c1f3434f1d87",
        )

    def test_empty(self) -> None:
        """A.3, neither salt nor info."""
        self.check(
            "0b" * 22,
            "",
            "",
            42,
            "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8",
        )


class ExchangeTests(SynchronousTestCase):
    """Both sides come to the same confirmations if they agree about everything."""

    def confirmations(self, joiner: Any = None, inviter: Any = None) -> list[tuple[bytes, bytes]]:
        """Those of the joiner and of the inviter, as either side computes them."""
        ends = [exchange(Side.JOINER, **joiner or {}), exchange(Side.INVITER, **inviter or {})]
        keys = [ends[0].finish(ends[1].message), ends[1].finish(ends[0].message)]
        return [(key.of_joiner(b"1", b"2"), key.of_inviter(b"1", b"2", b"[]")) for key in keys]

    def test_agree(self) -> None:
        """They are the same on both sides, and each role has another one."""
        first, second = self.confirmations()
        self.assertEqual(first, second)
        self.assertNotEqual(first[0], first[1])

    def test_disagree(self) -> None:
        """Another code, handshake or peer ID on one side makes both confirmations others."""
        for changes in (
            {"password": b"8-guitar-lunar"},
            {"handshake_hash": b"i" * 32},
            {"joiner": IRONWOOD},
            {"inviter": IRONWOOD},
            {"joiner": WALNUT, "inviter": ACACIA},
        ):
            here, there = self.confirmations(inviter=changes)
            self.assertNotEqual(here[0], there[0], changes)
            self.assertNotEqual(here[1], there[1], changes)

    def test_messages_are_not_run_together(self) -> None:
        """Where one message ends and the next begins is confirmed too."""
        ends = [exchange(Side.JOINER), exchange(Side.INVITER)]
        keys = ends[0].finish(ends[1].message)
        self.assertNotEqual(keys.of_joiner(b"ab", b"c"), keys.of_joiner(b"a", b"bc"))
        self.assertNotEqual(keys.of_inviter(b"a", b"b", b"cd"), keys.of_inviter(b"a", b"bc", b"d"))

    def test_no_handshake_hash(self) -> None:
        """A link that binds nothing is refused, unless somebody says that it may be."""
        for missing in (b"", b"h" * 31):
            self.assertRaises(LocalProtocolError, exchange, Side.JOINER, handshake_hash=missing)
        unbound = {"handshake_hash": b"", "unbound": True}
        here, there = self.confirmations(unbound, unbound)
        self.assertEqual(here, there)

    def test_reflected(self) -> None:
        """A side's own message, as it is or as the other side's, is an error of the peer."""
        for side in Side:
            ours = exchange(side)
            error = self.assertRaises(RemoteProtocolError, ours.finish, ours.message)
            self.assertEqual(error.code, "pair_bad_element")
            ours = exchange(side)
            turned = side.other.value + ours.message[1:]
            error = self.assertRaises(RemoteProtocolError, ours.finish, turned)
            self.assertEqual(error.code, "pair_bad_element")

    def test_hidden(self) -> None:
        """Neither the code nor a key is shown."""
        ours, theirs = exchange(Side.JOINER), exchange(Side.INVITER)
        keys = ours.finish(theirs.message)
        self.assertNotIn("guitar", repr(ours))
        self.assertRegex(repr(keys), r"^<bzzz\.trust\.pairing_keys\.Confirmations object at \w+>$")

    def test_prepare(self) -> None:
        """What is loaded before can be loaded again."""
        prepare()
        prepare()
