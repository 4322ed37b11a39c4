"""Which files below a directory are wanted, by patterns as a shell has them.

Enters: patterns, and names on the way down. Leaves: whether a name is wanted, and what may be below
it. ``*``, ``?`` and ``[...]`` stand for what is in one name, names with a dot in front too; ``**``,
alone between slashes, for any directories or none. A directory that is wanted is wanted whole, and
``name/**`` wants the directory.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Sequence

from bzzz.tasks.files.errors import PackError

__all__ = ["Globs", "Position"]

# A pattern and how many of its components have been met, of each that may still match.
Position = frozenset[tuple[int, int]]

# Components of one pattern: each costs time at each name.
MAX_COMPONENTS = 64


class Globs:
    """Some patterns.

    :ivar start: the position at the directory itself.
    :raises PackError: one cannot be a pattern below a directory.
    """

    def __init__(self, patterns: Sequence[str]) -> None:
        self.patterns = tuple(patterns)
        # None is ``**``.
        self._components: list[list[re.Pattern[str] | None]] = []
        for pattern in patterns:
            names = [name for name in pattern.split("/") if name not in {"", "."}]
            if pattern.startswith("/") or ".." in names or "\0" in pattern:
                raise PackError(f"the pattern {pattern!r} does not stay below the directory")
            if not names or len(names) > MAX_COMPONENTS:
                raise PackError(
                    f"the pattern {pattern!r} has no name, or more than {MAX_COMPONENTS}"
                )
            self._components.append(
                [None if name == "**" else re.compile(fnmatch.translate(name)) for name in names]
            )
        self.start = self._closed((number, 0) for number in range(len(patterns)))

    def step(self, position: Position, name: str) -> Position:
        """The position at ``name`` in the directory that has ``position``."""
        met = []
        for number, index in position:
            components = self._components[number]
            if index == len(components):
                continue
            component = components[index]
            if component is None:
                met.append((number, index))
            elif component.match(name):
                met.append((number, index + 1))
        return self._closed(met)

    def wanted(self, position: Position) -> set[int]:
        """Numbers of the patterns that have been met."""
        return {number for number, index in position if index == len(self._components[number])}

    def _closed(self, position: Iterable[tuple[int, int]]) -> Position:
        """With what is met without any further name: ``**`` may stand for none."""
        found = set(position)
        for number, index in list(found):
            components = self._components[number]
            end = index
            while end < len(components) and components[end] is None:
                end += 1
                found.add((number, end))
        return frozenset(found)
