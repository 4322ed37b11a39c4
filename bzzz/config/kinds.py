"""The types that an option can have.

Enters: text (a flag, an environment variable) or a TOML value. Leaves: a checked Python value, or
:class:`BadValue` saying what is wrong with it in the words that follow the value's place.
"""

from __future__ import annotations

import ipaddress
import math
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Generic, TypeGuard, TypeVar

from bzzz.wire.multiaddr import AddressError, Multiaddr

__all__ = [
    "BadValue",
    "Boolean",
    "Choice",
    "Directory",
    "Kind",
    "Labels",
    "Many",
    "Seconds",
    "Text",
    "Whole",
    "interface",
    "is_number",
    "multiaddr",
    "one_of",
    "pattern",
    "shown",
    "submitter",
    "wildcard",
]

T = TypeVar("T")

# Entries in one list or table of the configuration. Labels and capabilities travel in every
# capability_broadcast, so that a longer list is a mistake that each member would pay for.
MAX_ENTRIES = 64

# Bytes of the entries of one list of an owner's rules, for the same reason.
MAX_RULE_BYTES = 4096

UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}
TRUE = {"1", "true", "yes", "on"}
FALSE = {"0", "false", "no", "off"}


class BadValue(Exception):
    """What is wrong with a value; ``value`` is shown before it where there is one to show."""


class Kind(Generic[T]):
    """One type of option.

    :ivar metavar: stands for the value in a synopsis.
    :ivar repeatable: given more than once, the flag collects.
    :ivar is_size: whether a whole number is one of bytes.
    """

    metavar = "VALUE"
    repeatable = False
    is_size = False

    def from_text(self, text: str) -> T:
        """The value of one flag or environment variable."""
        raise NotImplementedError

    def from_texts(self, texts: list[str]) -> T:
        """The value of a flag given several times: the last, unless it collects."""
        return self.from_text(texts[-1])

    def from_toml(self, value: object) -> T:
        """The value of a key of the file; also checks values given in Python."""
        raise NotImplementedError

    def plain(self, value: T) -> object:
        """The value in the types that JSON has."""
        return value


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise BadValue(f"{shown(value)} is not a string (write it in quotes)")
    return value


def shown(value: object) -> str:
    """A value as TOML would have it, shortened."""
    if isinstance(value, bool):
        return "true" if value else "false"
    try:
        text = repr(value)
    except ValueError:  # a whole number of thousands of digits, written in base 16
        return "a number"
    return text if len(text) <= 80 else text[:77] + "..."


def is_number(value: object) -> TypeGuard[int | float]:
    """Whether it is one, which neither a boolean is, nor NaN."""
    if isinstance(value, float):
        return not math.isnan(value)
    return isinstance(value, int) and not isinstance(value, bool)


class Text(Kind[str]):
    """A string that satisfies ``check``, which raises :class:`BadValue`."""

    def __init__(self, metavar: str, check: Callable[[str], object]) -> None:
        self.metavar = metavar
        self._check = check

    def from_text(self, text: str) -> str:
        self._check(text)
        return text

    def from_toml(self, value: object) -> str:
        return self.from_text(_text(value))


class Choice(Kind[str]):
    """One of a few words."""

    def __init__(self, *words: str) -> None:
        self.words = words
        self.metavar = "|".join(words)

    def from_text(self, text: str) -> str:
        return one_of(*self.words)(text)

    def from_toml(self, value: object) -> str:
        return self.from_text(_text(value))


class Whole(Kind[int]):
    """A whole number in a range."""

    metavar = "N"

    def __init__(self, least: int, most: int, metavar: str = "N") -> None:
        self.least, self.most, self.metavar = least, most, metavar

    def from_text(self, text: str) -> int:
        if re.fullmatch(r"[+-]?[0-9]{1,18}", text.strip()) is None:
            raise BadValue(f"{shown(text)} is not a whole number")
        return self._in_range(int(text))

    def from_toml(self, value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise BadValue(f"{shown(value)} is not a whole number")
        return self._in_range(value)

    def _in_range(self, number: int) -> int:
        if not self.least <= number <= self.most:
            raise BadValue(f"{shown(number)} is not between {self.least} and {self.most}")
        return number


class Seconds(Kind[float]):
    """A length of time: seconds, or a number with its unit."""

    metavar = "TIME"

    def __init__(self, least: float, most: float) -> None:
        self.least, self.most = least, most

    def from_text(self, text: str) -> float:
        found = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)\s*([a-z]*)", text.strip())
        if found is None or (found[2] and found[2] not in UNITS):
            raise BadValue(f"{shown(text)} is not a time (write for example 30, 30s, 500ms or 2m)")
        return self._in_range(float(found[1]) * UNITS[found[2] or "s"])

    def from_toml(self, value: object) -> float:
        if isinstance(value, str):
            return self.from_text(value)
        if not is_number(value):
            raise BadValue(f"{shown(value)} is not a time (write for example 30 or '500ms')")
        return float(self._in_range(value))

    def _in_range(self, seconds: float) -> float:
        if not self.least <= seconds <= self.most:
            raise BadValue(
                f"{shown(seconds)} s is not between {self.least:g} s and {self.most:g} s"
            )
        return seconds


class Boolean(Kind[bool]):
    """Yes or no. Its flags are ``--name`` and ``--no-name``."""

    metavar = "yes|no"

    def from_text(self, text: str) -> bool:
        word = text.strip().lower()
        if word not in TRUE | FALSE:
            raise BadValue(f"{shown(text)} is neither yes nor no")
        return word in TRUE

    def from_toml(self, value: object) -> bool:
        if not isinstance(value, bool):
            raise BadValue(f"{shown(value)} is neither true nor false (write it without quotes)")
        return value


class Directory(Kind[Path]):
    """The path of a directory, made absolute. ``~`` is the user's home."""

    metavar = "DIR"

    def from_text(self, text: str) -> Path:
        return self._expanded(text).absolute()

    def from_toml(self, value: object) -> Path:
        path = value if isinstance(value, Path) else self._expanded(_text(value))
        if not path.is_absolute():
            # It would mean another directory each time the node is started from elsewhere.
            raise BadValue(f"{shown(str(path))} is not an absolute path (start it with / or ~)")
        return path

    def _expanded(self, text: str) -> Path:
        if not text or "\0" in text:
            raise BadValue(f"{shown(text)} is not a path")
        try:
            return Path(text).expanduser()
        except RuntimeError:  # no such user
            raise BadValue(f"{shown(text)} names the home of a user who does not exist") from None

    def plain(self, value: Path) -> object:
        return str(value)


class Many(Kind[tuple[T, ...]]):
    """A list of single values: the flag repeats, an environment variable has commas.

    :param one: checks an entry.
    :param most_bytes: of all entries as UTF-8.
    :param empty: what is wrong with a list without entries; "" where nothing is.
    """

    repeatable = True

    def __init__(
        self, metavar: str, one: Callable[[str], T], *, most_bytes: int = 1 << 20, empty: str = ""
    ) -> None:
        self.metavar = metavar
        self._one = one
        self._most_bytes = most_bytes
        self._empty = empty

    def from_text(self, text: str) -> tuple[T, ...]:
        return self.from_texts([part.strip() for part in text.split(",") if part.strip()])

    def from_texts(self, texts: Iterable[str]) -> tuple[T, ...]:
        # Twice the same is once, and the order is kept.
        values = tuple(dict.fromkeys(self._one(text) for text in texts))
        if len(values) > MAX_ENTRIES:
            raise BadValue(f"{len(values)} entries are more than {MAX_ENTRIES}")
        size = sum(len(str(value).encode()) for value in values)
        if size > self._most_bytes:
            raise BadValue(f"the entries have {size} bytes, more than {self._most_bytes}")
        if not values and self._empty:
            raise BadValue(self._empty)
        return values

    def from_toml(self, value: object) -> tuple[T, ...]:
        if not isinstance(value, list | tuple):
            raise BadValue(f"{shown(value)} is not a list (write [{shown(value)}])")
        return self.from_texts(
            str(item) if isinstance(item, Multiaddr) else _text(item) for item in value
        )

    def plain(self, value: tuple[T, ...]) -> object:
        return [str(item) for item in value]


class Labels(Kind[Mapping[str, str]]):
    """Names with values: ``--label K=V`` repeated, ``K=V,K=V`` in a variable, a TOML table."""

    metavar = "K=V"
    repeatable = True

    def from_text(self, text: str) -> Mapping[str, str]:
        return self.from_texts([part.strip() for part in text.split(",") if part.strip()])

    def from_texts(self, texts: list[str]) -> Mapping[str, str]:
        labels: dict[str, object] = {}
        for text in texts:
            key, equals, value = text.partition("=")
            if not equals:
                raise BadValue(f"{shown(text)} is not of the form K=V")
            labels[key.strip()] = value.strip()
        return self.from_toml(labels)

    def from_toml(self, value: object) -> Mapping[str, str]:
        if not isinstance(value, Mapping):
            raise BadValue(f"{shown(value)} is not a table (write {{ key = 'value' }})")
        if len(value) > MAX_ENTRIES:
            raise BadValue(f"{len(value)} labels are more than {MAX_ENTRIES}")
        for key, text in value.items():
            if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,62}", key) is None:
                raise BadValue(
                    f"{shown(key)} is not a label's name (letters, digits and . _ / -, at most 63)"
                )
            if not isinstance(text, str):
                raise BadValue(f"{key} = {shown(text)} is not a string (write it in quotes)")
            if len(text) > 255 or not text.isprintable():
                raise BadValue(f"the value of {key} is longer than 255 or not printable")
        return MappingProxyType(dict(value))

    def plain(self, value: Mapping[str, str]) -> object:
        return dict(value)


def pattern(regex: str, what: str) -> Callable[[str], str]:
    """A check that a text matches ``regex`` wholly; ``what`` says what it should have been."""

    def check(text: str) -> str:
        if re.fullmatch(regex, text) is None:
            raise BadValue(f"{shown(text)} is not {what}")
        return text

    return check


def one_of(*words: str) -> Callable[[str], str]:
    """A check that a text is one of a few words."""

    def check(text: str) -> str:
        if text not in words:
            raise BadValue(f"{shown(text)} is none of: {', '.join(words)}")
        return text

    return check


def wildcard(text: str) -> str:
    """A pattern for the first word of a command, in which ``*`` is anything."""
    if not text or len(text) > 255 or not text.isprintable():
        raise BadValue(
            f"{shown(text)} is not a pattern for commands (at most 255 printable characters, such"
            " as docker or /opt/*)"
        )
    if re.search(r"\s", text):
        # It is held against the first word alone, and would never match.
        first = shown(text.split(maxsplit=1)[0]) if text.strip() else "a word"
        raise BadValue(
            f"{shown(text)} has a space: a pattern is for a command's first word (write {first})"
        )
    return text


def submitter(text: str) -> str:
    """The name of a user or of a machine, or a peer ID."""
    if not text or len(text) > 127 or not text.isprintable() or re.search(r"\s", text):
        raise BadValue(
            f"{shown(text)} is not the name of a user or of a machine, nor a peer ID (at most 127"
            " printable characters, and no spaces)"
        )
    return text


def interface(text: str) -> str:
    """The name of a network interface, or an IP address that one has."""
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        pass  # then it is a name, or nothing
    # 15 is the kernel's IFNAMSIZ without the closing zero. Names made of digits and dots or with
    # colons are allowed by the kernel too, but are addresses with a slip of the finger.
    named = re.fullmatch(r"(?![0-9.]+$)[^\s/:,]{1,15}", text)
    if named is None or not text.isprintable():
        raise BadValue(f"{shown(text)} is neither the name of an interface nor an IP address")
    return text


def multiaddr(text: str) -> Multiaddr:
    """A multiaddr that can be dialled over TCP."""
    try:
        address = Multiaddr.parse(text)
    except AddressError as error:
        reason = str(error)
        shown = text in reason or not text.isprintable()
        raise BadValue(reason if shown else f"{text}: {reason}") from None
    if address.host_port() is None:
        raise BadValue(
            f"{text} is not an address over TCP (write for example /ip4/192.0.2.7/tcp/4001)"
        )
    return address
