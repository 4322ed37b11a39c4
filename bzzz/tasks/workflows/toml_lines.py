"""Where in a TOML text each key and value stands, which tomllib does not tell.

Enters: a text. Leaves: the line of every table, key and item of a list in it, as far as it is valid
TOML 1.0.0. Whether it is, tomllib says: this only finds where strings, lists and inline tables end.
It goes first all the same, to stop at what is nested too deeply: tomllib takes time with the square
of the parts of a dotted key, minutes for one of 100 KiB.
"""

from __future__ import annotations

import re
import tomllib
from bisect import bisect_left
from collections.abc import Iterator
from typing import Final, NamedTuple

__all__ = ["MAX_DEPTH", "Lines", "Path", "TooDeep"]

# Keys and places in lists that lead to a value.
MAX_DEPTH: Final = 32

# Keys of tables, and places in lists: ("steps", "compile", "needs", 0).
Path = tuple[str | int, ...]

# A string of several lines may have one or two quotes before the three that end it. What is
# repeated has one way to match, so that a string without an end costs no more than one with it.
# Possessive quantifiers would say so, but those of Python 3.11.2, Debian's, match too little.
STRING: Final = re.compile(
    r'"""[^"\\]*(?:(?:\\.|"(?!""))[^"\\]*)*"""(?:"{0,2})'
    r"|'''[^']*(?:'(?!'')[^']*)*'''(?:'{0,2})"
    r'|"[^"\\\n]*(?:\\.[^"\\\n]*)*"'
    r"|'[^'\n]*'",
    re.DOTALL,
)
BARE_KEY: Final = re.compile(r"[A-Za-z0-9_-]+")
BARE_VALUE: Final = re.compile(r"[^,\]}#\n]+")
BLANK: Final = re.compile(r"(?:[ \t\n]+|#[^\n]*)*")
SPACE: Final = re.compile(r"[ \t]*")
COMMA: Final = re.compile(",?")


class TooDeep(Exception):
    """A value is nested deeper than :data:`MAX_DEPTH`.

    :ivar line: of its key.
    """

    def __init__(self, line: int) -> None:
        super().__init__(line)
        self.line = line


class _Lost(Exception):
    """The text is not what it was taken for."""


class _Place(NamedTuple):
    """Offsets in the text.

    :ivar key: of the key, the table's header or the item.
    :ivar start: of the value, or of the header.
    :ivar end: behind it.
    :ivar named: whether it is written in full there, and not only as a part of a longer name.
    """

    key: int
    start: int
    end: int
    named: bool


class Lines:
    """The places of what is in a text.

    :raises TooDeep: a value is nested too deeply.
    """

    def __init__(self, text: str) -> None:
        scan = _Scan(text.replace("\r\n", "\n"))
        try:
            scan.document()
        except _Lost:
            pass  # what was found until there is kept, and the rest has the place of its table
        self._text = scan.text
        self._places = scan.places
        self._ends = [at for at, character in enumerate(scan.text) if character == "\n"]

    def line(self, path: Path, containing: str = "") -> int:
        """The line of a key or an item, the first being 1.

        :param containing: a part of its value: then the line that this is in, if it is found there
            as it is.
        :returns: for what is not in the text, the line of what it would be in.
        """
        for length in range(len(path), 0, -1):
            place = self._places.get(path[:length])
            if place is not None:
                found = -1
                if containing and length == len(path):
                    found = self._text.find(containing, place.start, place.end)
                return bisect_left(self._ends, place.key if found < 0 else found) + 1
        return 1

    def value(self, path: Path) -> str:
        """A value as it is written.

        :raises KeyError: no value is written for that path.
        """
        place = self._places[path]
        return self._text[place.start : place.end]

    def __iter__(self) -> Iterator[Path]:
        return iter(self._places)


class _Scan:
    """Goes through a text once."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.places: dict[Path, _Place] = {}
        self._at = 0
        # Lists of tables, with the number of tables that they have so far.
        self._tables: dict[Path, int] = {}

    def document(self) -> None:
        """All of it."""
        here: Path = ()
        while self._next():
            start = self._at
            if self.text.startswith("[[", start):
                self._at += 2
                here = self._another(start, self._keys())
                self._at += 2
            elif self.text.startswith("[", start):
                self._at += 1
                here = self._inside(start, self._keys())
                self._at += 1
                self._note(here, start, start, self._at, named=True)
            else:
                self._pair(here)

    def _pair(self, table: Path) -> None:
        start = self._at
        path = table
        keys = self._keys()
        for key in keys[:-1]:
            path = (*path, key)
            self._note(path, start, start, start)
        path = (*path, keys[-1])
        self._take("=")
        self._match(SPACE)
        self._value(path, start)

    def _value(self, path: Path, key: int) -> None:
        self._deep(path)
        start = self._at
        opening = self.text[start : start + 1]
        if opening in ('"', "'"):
            self._match(STRING)
        elif opening == "[":
            self._at += 1
            number = 0
            while self._next() not in ("]", ""):
                self._value((*path, number), self._at)
                number += 1
                self._match(BLANK)
                self._match(COMMA)
            self._at += 1
        elif opening == "{":
            self._at += 1
            while self._next() not in ("}", ""):
                self._pair(path)
                self._match(BLANK)
                self._match(COMMA)
            self._at += 1
        else:
            self._match(BARE_VALUE)
            self._at = start + len(self.text[start : self._at].rstrip(" \t"))
            if self._at == start:
                # In a list it would be looked for again and again.
                raise _Lost
        self._note(path, key, start, self._at, named=True)

    def _deep(self, path: Path) -> None:
        if len(path) > MAX_DEPTH:
            raise TooDeep(self.text.count("\n", 0, self._at) + 1)

    def _keys(self) -> list[str]:
        keys = []
        while True:
            self._match(SPACE)
            if self.text[self._at : self._at + 1] in ('"', "'"):
                try:
                    keys.append(tomllib.loads(f"key = {self._match(STRING)}")["key"])
                except tomllib.TOMLDecodeError:
                    raise _Lost from None
            else:
                keys.append(self._match(BARE_KEY))
            self._match(SPACE)
            if not self.text.startswith(".", self._at):
                return keys
            self._deep(tuple(keys))
            self._at += 1

    def _inside(self, start: int, keys: list[str]) -> Path:
        """The path of a header: in a list of tables, that is in the last of them."""
        path: Path = ()
        for number, key in enumerate(keys):
            path = (*path, key)
            if number < len(keys) - 1:
                self._note(path, start, start, start)
            if path in self._tables:
                path = (*path, self._tables[path] - 1)
        return path

    def _another(self, start: int, keys: list[str]) -> Path:
        """The path of one more table in a list."""
        parent = self._inside(start, keys[:-1])
        if parent:
            self._note(parent, start, start, start)
        path = (*parent, keys[-1])
        number = self._tables.get(path, 0)
        self._tables[path] = number + 1
        for noted in (path, (*path, number)):
            self._note(noted, start, start, start, named=True)
        return (*path, number)

    def _note(self, path: Path, key: int, start: int, end: int, *, named: bool = False) -> None:
        before = self.places.get(path)
        if before is None or (named and not before.named):
            self.places[path] = _Place(key, start, end, named)

    def _next(self) -> str:
        """The next character that is neither blank nor in a comment; "" at the end."""
        self._match(BLANK)
        return self.text[self._at : self._at + 1]

    def _take(self, expected: str) -> None:
        if not self.text.startswith(expected, self._at):
            raise _Lost
        self._at += len(expected)

    def _match(self, pattern: re.Pattern[str]) -> str:
        found = pattern.match(self.text, self._at)
        if found is None:
            raise _Lost
        self._at = found.end()
        return found[0]
