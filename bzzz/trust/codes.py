"""What a person carries from the inviting machine to the joining one: a code, or a token.

Enters: what somebody typed or pasted, and random bytes. Leaves: a :class:`Code` or a
:class:`Token`. ``docs/trust.rst``, "Pairing".

======= ==========================================================================================
code    ``7-guitar-lunar``: a channel, and two of the 2048 English words of BIP 39, 22 bits
token   ``bzzz-join-`` and, in base58, a version byte, 16 secret bytes, 8 of the channel, the
        inviter's peer ID, and the BLAKE2b hash of all these, of 4 bytes
======= ==========================================================================================

Both show their secret where ``text`` or ``password`` is asked for, and in no representation. An
:class:`InvalidCode` may suggest a word that is the right one: it is for the person who typed, and
for no log.
"""

from __future__ import annotations

import difflib
import hashlib
import re
import unicodedata
from collections.abc import Callable
from functools import lru_cache

from bzzz.errors import BzzzError, IdentityError
from bzzz.identity import base58
from bzzz.identity.peer_id import PeerID

__all__ = [
    "Code",
    "InvalidCode",
    "Token",
    "is_token",
    "make_code",
    "make_token",
    "parse_code",
    "parse_token",
    "word_list",
]

WORDS = 2

# Letters that tell a word of BIP 39 from all others. Shorter words are in the list too.
PREFIX_LETTERS = 4

# Characters that are read: a code has 22 at most, and a token about 110. More is something else
# that was pasted.
MAX_CODE_TEXT = 200
MAX_TOKEN_TEXT = 400

# Characters of somebody's input that an error repeats.
MAX_SHOWN = 24

# What people and their telephones put between words: white space, and dashes of every kind.
_BETWEEN = re.compile(r"[\s_.,;:/+\u2010-\u2015\u2212-]+")
_CHANNEL = re.compile(r"0*([1-9][0-9]{0,3})")

EXAMPLE = "7-guitar-lunar"

TOKEN_PREFIX = "bzzz-join-"  # nosec B105  # noqa: S105 - how tokens are told from codes, no secret
TOKEN_VERSION = 1
SECRET_BYTES = 16
CHANNEL_BYTES = 8
CHECKSUM_BYTES = 4

RandomBytes = Callable[[int], bytes]


class InvalidCode(BzzzError):
    """What somebody typed or pasted is no code, or no token; says what about it is wrong."""


class Code:
    """A code.

    :ivar channel: which of the inviter's invitations it is, a number in digits; no secret.
    :ivar words: the secret.
    """

    __slots__ = ("channel", "words")

    def __init__(self, channel: str, words: tuple[str, ...]) -> None:
        self.channel = channel
        self.words = words

    @property
    def text(self) -> str:
        """As a person reads and types it: the secret."""
        return "-".join((self.channel, *self.words))

    @property
    def password(self) -> bytes:
        """What both sides have to know: the secret."""
        return self.text.encode()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Code) and self.text == other.text

    def __hash__(self) -> int:
        return hash(self.text)

    def __repr__(self) -> str:
        return f"<Code of channel {self.channel}>"


class Token:
    """A token.

    :ivar inviter: the node that it is of.
    :ivar channel: which of the inviter's invitations it is, 16 hexadecimal digits; no secret.
    :ivar password: 16 bytes that both sides have to know: the secret.
    """

    __slots__ = ("channel", "inviter", "password")

    def __init__(self, inviter: PeerID, channel: bytes, password: bytes) -> None:
        self.inviter = inviter
        self.channel = channel.hex()
        self.password = password

    @property
    def text(self) -> str:
        """As a person copies it: the secret."""
        payload = b"".join(
            (
                bytes((TOKEN_VERSION,)),
                self.password,
                bytes.fromhex(self.channel),
                self.inviter.bytes,
            )
        )
        return TOKEN_PREFIX + base58.encode(payload + _checksum(payload))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Token) and self.text == other.text

    def __hash__(self) -> int:
        return hash(self.text)

    def __repr__(self) -> str:
        return f"<Token of {self.inviter}, channel {self.channel}>"


@lru_cache(maxsize=1)
def word_list() -> tuple[str, ...]:
    """The words of codes. The first call reads a file, which takes 4 ms."""
    from mnemonic import Mnemonic

    return tuple(Mnemonic("english").wordlist)


def make_code(channel: str, random_bytes: RandomBytes) -> Code:
    """A new code; each pair of words is as likely as every other."""
    words = word_list()
    # The number of words divides 2^16, so the remainders are equally likely.
    return Code(
        channel,
        tuple(words[int.from_bytes(random_bytes(2), "big") % len(words)] for _ in range(WORDS)),
    )


def parse_code(text: str) -> Code:
    """The code that somebody typed.

    Case, white space and the kind of dash do not matter, and four letters of a word will do.

    :raises InvalidCode: it is none; names the word that is wrong, and the nearest that is not,
        which takes 10 ms to find.
    """
    if is_token(text):
        raise InvalidCode("this is a token, not a code")
    if len(text) > MAX_CODE_TEXT:
        raise InvalidCode(f"this is too long for a code, which is like {EXAMPLE}")
    parts = [part for part in _BETWEEN.split(unicodedata.normalize("NFKC", text).lower()) if part]
    if not parts:
        raise InvalidCode(f'the code is missing: "bzzz invite" shows it, like {EXAMPLE}')
    number = _CHANNEL.fullmatch(parts[0])
    if number is None:
        # What it begins with may be a word of the code.
        raise InvalidCode(f"a code begins with a number, like {EXAMPLE}; this one does not")
    typed = parts[1:]
    if len(typed) != WORDS:
        raise InvalidCode(
            f"a code has {WORDS} words after its number, like {EXAMPLE}; this one has {len(typed)}"
        )
    return Code(number[1], tuple(_word(part, place) for place, part in enumerate(typed, 1)))


def make_token(inviter: PeerID, channel: bytes, random_bytes: RandomBytes) -> Token:
    """A new token.

    :param channel: 8 bytes, random so that nobody finds the invitation without the token.
    """
    return Token(inviter, channel, random_bytes(SECRET_BYTES))


def is_token(text: str) -> bool:
    """Whether the text is meant as a token, be it a good one or not."""
    return text.lstrip()[: len(TOKEN_PREFIX)].lower() == TOKEN_PREFIX


def parse_token(text: str) -> Token:
    """The token that somebody pasted. White space in it does not matter, as lines are wrapped.

    :raises InvalidCode: it is none, or damaged, or of a later Bzzz.
    """
    if not is_token(text):
        raise InvalidCode(f'this is no token: "bzzz invite --token" makes one, {TOKEN_PREFIX}...')
    if len(text) > MAX_TOKEN_TEXT:
        raise InvalidCode("this is too long for a token: copy the token alone")
    body = "".join(text.split())[len(TOKEN_PREFIX) :]
    try:
        data = base58.decode(body)
    except IdentityError:
        # Its text has the token in it.
        raise InvalidCode(
            "the token has characters that none has: copy it again, all of it"
        ) from None
    payload, checksum = data[:-CHECKSUM_BYTES], data[-CHECKSUM_BYTES:]
    if _checksum(payload) != checksum:
        raise InvalidCode("the token is damaged, or a part is missing: copy it again, all of it")
    if payload[:1] != bytes((TOKEN_VERSION,)):
        raise InvalidCode("the token was made by a later version of Bzzz: update Bzzz here")
    secret_end = 1 + SECRET_BYTES
    channel_end = secret_end + CHANNEL_BYTES
    try:
        inviter = PeerID(payload[channel_end:])
    except IdentityError as error:
        raise InvalidCode(f"the token names no node: {error}") from None
    return Token(inviter, payload[secret_end:channel_end], payload[1:secret_end])


def _checksum(payload: bytes) -> bytes:
    return hashlib.blake2b(payload, digest_size=CHECKSUM_BYTES).digest()


def _word(typed: str, place: int) -> str:
    words = word_list()
    if typed in words:
        return typed
    if len(typed) >= PREFIX_LETTERS:
        fitting = [word for word in words if word.startswith(typed)]
        if len(fitting) == 1:
            return fitting[0]
    near = difflib.get_close_matches(typed[:MAX_SHOWN], words, n=1)
    advice = f"did you mean {near[0]}?" if near else "read it again where the code is shown"
    cut = typed if len(typed) <= MAX_SHOWN else typed[: MAX_SHOWN - 1] + "…"
    raise InvalidCode(f"word {place}, {cut!r}, is in no code: {advice}")
