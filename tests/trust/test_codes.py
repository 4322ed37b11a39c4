"""Codes that people type, and tokens that they paste."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from bzzz.identity import base58
from bzzz.identity.keys import PrivateKey
from bzzz.identity.peer_id import PeerID
from bzzz.trust import codes
from bzzz.trust.codes import (
    Code,
    InvalidCode,
    Token,
    is_token,
    make_code,
    make_token,
    parse_code,
    parse_token,
    word_list,
)

WALNUT = PrivateKey(b"w" * 32).peer_id
CHANNEL = bytes(range(8))
GUITAR = Code("7", ("guitar", "lunar"))

# Frozen: tokens are kept on paper and in databases.
TOKEN_TEXT = (
    "bzzz-join-3VgRmRCCowkSqsCN9Xmznqfa5eUhuM9B3Lxuns2W9EJ2RbFuLt"
    "EjfkH8so4UYU4SCYLwgfgomyrtwq8maWmRUR1JTwZ"
)


def fixed(data: bytes) -> Callable[[int], bytes]:
    """These bytes, a piece at each call."""
    rest = data

    def take(size: int) -> bytes:
        nonlocal rest
        taken, rest = rest[:size], rest[size:]
        assert len(taken) == size
        return taken

    return take


def token() -> Token:
    return make_token(WALNUT, CHANNEL, fixed(b"s" * 16))


class Base(SynchronousTestCase):
    def assert_invalid(self, parse: Callable[[str], object], text: str, *says: str) -> str:
        error = str(self.assertRaises(InvalidCode, parse, text))
        self.assertTrue(error.isprintable(), error)
        for part in says:
            self.assertIn(part, error)
        return error


class WordTests(Base):
    """What parsing relies on in the list of words."""

    def test_list(self) -> None:
        """It is BIP 39's: 2048 words in order, told apart by their first four letters."""
        words = word_list()
        self.assertEqual(len(words), 2048)
        self.assertEqual(list(words), sorted(set(words)))
        self.assertEqual((words[0], words[-1]), ("abandon", "zoo"))
        self.assertEqual(len({word[:4] for word in words}), 2048)
        self.assertTrue(all(word.isascii() and word.islower() for word in words))


class CodeTests(Base):
    """Codes, made and typed."""

    def test_text(self) -> None:
        """A code is read as it is written."""
        self.assertEqual(GUITAR.text, "7-guitar-lunar")
        self.assertEqual(GUITAR.password, b"7-guitar-lunar")
        self.assertEqual(parse_code("7-guitar-lunar"), GUITAR)

    def test_made_of_two_numbers(self) -> None:
        """Each word is that of 11 bits; the five above them do not matter."""
        words = word_list()
        made = make_code("3", fixed(bytes.fromhex("0001 07ff")))
        self.assertEqual(made, Code("3", (words[1], words[2047])))
        self.assertEqual(make_code("3", fixed(bytes.fromhex("f801 ffff"))), made)

    def test_uniform(self) -> None:
        """Of all pairs of bytes each word has as many."""
        counts = Counter(
            make_code("1", fixed(number.to_bytes(2, "big") + b"\0\0")).words[0]
            for number in range(1 << 16)
        )
        self.assertEqual(set(counts.values()), {32})
        self.assertEqual(len(counts), 2048)

    @given(st.integers(1, 9999), st.binary(min_size=4, max_size=4))
    def test_round_trip(self, channel: int, data: bytes) -> None:
        """Whatever is made can be typed, and so can its first four letters."""
        made = make_code(str(channel), fixed(data))
        self.assertEqual(parse_code(made.text), made)
        short = "-".join((made.channel, *(word[:4] for word in made.words)))
        self.assertEqual(parse_code(short), made)

    def test_as_people_type(self) -> None:
        """Case, spaces, kinds of dashes, a zero in front and short forms do not matter."""
        for text in (
            "  7-Guitar-LUNAR\n",
            "7 guitar lunar",
            "7 - guitar - lunar",
            "7\u2013guitar\u2014lunar",
            "7\u2011guitar\u2212lunar",
            "07-guit-luna",
            "7-guita-lunar",
            "\uff17\u3000guitar lunar",
            "7-guitar-lunar.",
        ):
            self.assertEqual(parse_code(text), GUITAR, text)

    def test_short_words(self) -> None:
        """A word of three letters stands for itself, also where longer ones begin with it."""
        self.assertIn("act", word_list())
        self.assertIn("action", word_list())
        self.assertEqual(parse_code("7-act-zoo").words, ("act", "zoo"))
        self.assertEqual(parse_code("7-acti-zoo").words, ("action", "zoo"))
        self.assertEqual(len([word for word in word_list() if word.startswith("zeb")]), 1)
        self.assert_invalid(parse_code, "7-zeb-lunar", "word 1", "'zeb'", "mean zebra?")

    def test_wrong_word(self) -> None:
        """The word that is wrong is named, with the nearest one that is right."""
        self.assert_invalid(parse_code, "7-guitar-lunr", "word 2", "'lunr'", "mean lunar?")
        self.assert_invalid(parse_code, "7-gitar-lunar", "word 1", "'gitar'", "mean guitar?")
        self.assert_invalid(parse_code, "7-guitarre-lunar", "word 1", "mean guitar?")
        error = self.assert_invalid(parse_code, "7-qqqqqq-lunar", "word 1", "read it again")
        self.assertNotIn("mean", error)
        error = self.assert_invalid(parse_code, "7-" + "\x1bx" * 50 + "-lunar", "word 1")
        self.assertLess(len(error), 160)

    def test_wrong_form(self) -> None:
        """What is missing or too much is said; words are not repeated, as they may be right."""
        self.assert_invalid(parse_code, " - ", "missing")
        for text in ("zebra-ozone", "x-zebra-ozone", "0-zebra-ozone", "-7x-zebra-ozone"):
            self.assertNotIn("zebra", self.assert_invalid(parse_code, text, "number"))
        self.assert_invalid(parse_code, "7-guitar", "2 words", "has 1")
        self.assert_invalid(parse_code, "7", "has 0")
        self.assert_invalid(parse_code, "7-guitar-lunar-lunar", "has 3")
        self.assert_invalid(parse_code, "7-guitar-lunar " * 20, "too long")
        self.assert_invalid(parse_code, token().text, "token")

    def test_hidden(self) -> None:
        """No representation of a code has its words."""
        for shown in (repr(GUITAR), str(GUITAR), f"{GUITAR}"):
            self.assertEqual(shown, "<Code of channel 7>")

    @given(st.text(max_size=40))
    def test_anything(self, text: str) -> None:
        """Any text is a code, or an error that can be shown."""
        try:
            found = parse_code(text)
        except InvalidCode as error:
            self.assertTrue(str(error).isprintable())
        else:
            self.assertEqual(parse_code(found.text), found)


class TokenTests(Base):
    """Tokens, made and pasted."""

    def test_frozen(self) -> None:
        """A token has the same text for ever."""
        self.assertEqual(token().text, TOKEN_TEXT)

    def test_round_trip(self) -> None:
        """A token has its inviter, its channel and its secret."""
        found = parse_token(token().text)
        self.assertEqual(found, token())
        self.assertEqual((found.inviter, found.channel), (WALNUT, CHANNEL.hex()))
        self.assertEqual(found.password, b"s" * 16)

    def test_hashed_peer_id(self) -> None:
        """An inviter whose peer ID is a hash is no other case."""
        hashed = PeerID(b"\x12\x20" + b"h" * 32)
        made = make_token(hashed, CHANNEL, fixed(b"s" * 16))
        self.assertEqual(parse_token(made.text).inviter, hashed)

    def test_wrapped(self) -> None:
        """White space around a token and in it does not matter."""
        text = token().text
        wrapped = f"\n  {text[:40]}\n  {text[40:80]}\r\n{text[80:]} "
        self.assertEqual(parse_token(wrapped), token())
        self.assertEqual(parse_token("BZZZ-Join-" + text[10:]), token())

    def test_told_from_a_code(self) -> None:
        """A token is known by how it begins, also if it is damaged."""
        self.assertTrue(is_token(token().text))
        self.assertTrue(is_token(" bzzz-join-"))
        self.assertFalse(is_token(GUITAR.text))
        self.assertFalse(is_token("bzzz"))

    @given(st.data())
    def test_damaged(self, data: st.DataObject) -> None:
        """A token in which a character is another one, is missing or is there twice is refused."""
        text = token().text
        place = data.draw(st.integers(len(codes.TOKEN_PREFIX), len(text) - 1))
        other = data.draw(st.sampled_from(base58.ALPHABET + "0OIl-é"))
        for damaged in (
            text[:place] + other + text[place + 1 :],
            text[:place] + text[place + 1 :],
            text[:place] + text[place] + text[place:],
        ):
            if damaged != text:
                error = self.assertRaises(InvalidCode, parse_token, damaged)
                self.assertIn("copy it again", str(error))
                self.assertNotIn(text[20:30], str(error))
                self.assertIsNone(error.__cause__)
                self.assertTrue(error.__suppress_context__ or error.__context__ is None)

    def test_cut(self) -> None:
        """No beginning of a token is one."""
        text = token().text
        for end in range(len(text)):
            self.assertRaises(InvalidCode, parse_token, text[:end])

    def test_errors(self) -> None:
        """What is no token, too long, of a later version or without a node is told as such."""
        self.assert_invalid(parse_token, "7-guitar-lunar", "no token", "bzzz invite --token")
        self.assert_invalid(parse_token, codes.TOKEN_PREFIX + "1" * 500, "too long")
        later = b"\x02anything at all"
        sealed = base58.encode(later + codes._checksum(later))
        self.assert_invalid(parse_token, codes.TOKEN_PREFIX + sealed, "later version")
        for payload in (b"\x01", b"\x01" + b"s" * 16 + CHANNEL, b"\x01" + b"s" * 24 + b"\x13\x01x"):
            sealed = base58.encode(payload + codes._checksum(payload))
            self.assert_invalid(parse_token, codes.TOKEN_PREFIX + sealed, "names no node")

    def test_hidden(self) -> None:
        """No representation of a token has its secret."""
        made = token()
        self.assertEqual(repr(made), f"<Token of {WALNUT}, channel {CHANNEL.hex()}>")
        self.assertEqual(f"{made}", repr(made))

    @given(st.text(max_size=40))
    def test_anything(self, text: str) -> None:
        """Any text behind the prefix is a token, or an error that can be shown."""
        try:
            parse_token(codes.TOKEN_PREFIX + text)
        except InvalidCode as error:
            self.assertTrue(str(error).isprintable())
