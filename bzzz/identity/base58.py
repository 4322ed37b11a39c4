"""base58btc, the text form of peer IDs (multiformats, ``multibase``; alphabet of Bitcoin)."""

from __future__ import annotations

from bzzz.errors import IdentityError

__all__ = ["decode", "encode"]

ALPHABET = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
_VALUES = {character: value for value, character in enumerate(ALPHABET)}


def encode(data: bytes) -> str:
    """The text of ``data``; each leading zero byte is a leading ``1``."""
    number = int.from_bytes(data, "big")
    text = ""
    while number:
        number, digit = divmod(number, 58)
        text = ALPHABET[digit] + text
    zeros = len(data) - len(data.lstrip(b"\0"))
    return "1" * zeros + text


def decode(text: str) -> bytes:
    """The bytes that ``text`` stands for.

    :raises IdentityError: a character is not in the alphabet.
    """
    number = 0
    for character in text:
        value = _VALUES.get(character)
        if value is None:
            raise IdentityError(f"{character!r} in {text[:64]!r} is not a base58 character")
        number = number * 58 + value
    zeros = len(text) - len(text.lstrip("1"))
    return b"\0" * zeros + number.to_bytes((number.bit_length() + 7) // 8, "big")
