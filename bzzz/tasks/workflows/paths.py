"""Paths and globs of a workflow's steps: in one form, and whether two may meet.

Enters: text. Leaves: a path without ``.`` and doubled slashes, or :class:`BadPath`; and whether
what two globs stand for could be at one place.

In a glob, ``*`` and ``?`` stand for characters of one name, ``[...]`` for one character, and a name
``**`` for any number of directories. What stands for a directory stands for all that is in it.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

__all__ = ["BadPath", "below", "covers", "normal", "overlap"]

# One step of a name: a wildcard, a set of characters, or a character.
TOKEN: Final = re.compile(r"\*+|\?|\[[!^]?\]?[^\]]*\]|.", re.DOTALL)
WILD: Final = re.compile(r"[*?\[]")

# What a name begins and ends with, whatever its wildcards stand for.
HEAD: Final = re.compile(r"^[^*?\[]*")
TAIL: Final = re.compile(r"[^*?\]]*\Z")


class BadPath(Exception):
    """A path is not one below the directory that it is relative to."""


def normal(path: str) -> str:
    """A path in the form that has one way to be written; ``.`` for the directory itself.

    :raises BadPath: it is empty, absolute, leads out of the directory or is not printable.
    """
    if not path:
        raise BadPath("it is empty (write . for the directory itself)")
    if path.startswith("/"):
        raise BadPath(f"{path[:80]!r} is absolute (write it relative to its directory)")
    if not path.isprintable():
        raise BadPath(f"{path[:80]!r} has a character that is not printable")
    names = [name for name in path.split("/") if name not in ("", ".")]
    if ".." in names:
        raise BadPath(f"{path[:80]!r} leads out of its directory (leave out ..)")
    return "/".join(names) or "."


def below(directory: str, path: str) -> str:
    """A path in a directory, both in their normal form."""
    if directory == ".":
        return path
    return directory if path == "." else f"{directory}/{path}"


def overlap(one: str, other: str) -> bool:
    """Whether two globs may stand for the same place, or one for a place inside the other's.

    It errs on the side of True: a set of characters counts as any character.
    """
    return _meet(one, other, inside=True)


def covers(glob: str, path: str) -> bool:
    """Whether a glob may stand for a path, or for a directory that the path is in."""
    return _meet(glob, path, inside=False)


def _meet(one: str, other: str, *, inside: bool) -> bool:
    left = () if one == "." else tuple(one.split("/"))
    right = () if other == "." else tuple(other.split("/"))
    # The pairs of places in both that a common path may have led to.
    seen = set()
    pending = [(0, 0)]
    while pending:
        here = pending.pop()
        if here in seen:
            continue
        seen.add(here)
        i, j = here
        if i == len(left) or (inside and j == len(right)):
            return True
        if j == len(right):
            if left[i] == "**":
                pending.append((i + 1, j))
            continue
        if left[i] == "**":
            pending += [(i + 1, j), (i, j + 1)]
        if right[j] == "**":
            pending += [(i, j + 1), (i + 1, j)]
        if "**" not in (left[i], right[j]) and _names_overlap(left[i], right[j]):
            pending.append((i + 1, j + 1))
    return False


@lru_cache(maxsize=4096)
def _tokens(name: str) -> tuple[str, ...]:
    return tuple(TOKEN.findall(name))


def _names_overlap(one: str, other: str) -> bool:
    if one == other:
        return True
    if not WILD.search(one) and not WILD.search(other):
        return False
    for end in (HEAD, TAIL):
        mine, its = end.search(one), end.search(other)
        if mine and its and not _same_end(mine[0], its[0], last=end is TAIL):
            return False
    left, right = _tokens(one), _tokens(other)
    seen = set()
    pending = [(0, 0)]
    while pending:
        here = pending.pop()
        if here in seen:
            continue
        seen.add(here)
        i, j = here
        if (i, j) == (len(left), len(right)):
            return True
        for step in _steps(left, right, i, j):
            pending.append(step)
    return False


def _same_end(one: str, other: str, *, last: bool) -> bool:
    shared = min(len(one), len(other))
    return (
        one[len(one) - shared :] == other[len(other) - shared :]
        if last
        else (one[:shared] == other[:shared])
    )


def _steps(left: tuple[str, ...], right: tuple[str, ...], i: int, j: int) -> list[tuple[int, int]]:
    """Where one more character, or the end of a ``*``, leads in both."""
    if i < len(left) and left[i].startswith("*"):
        return [(i + 1, j), (i, j + 1)] if j < len(right) else [(i + 1, j)]
    if j < len(right) and right[j].startswith("*"):
        return [(i, j + 1), (i + 1, j)] if i < len(left) else [(i, j + 1)]
    if i == len(left) or j == len(right):
        return []
    same = left[i] == right[j] or _any(left[i]) or _any(right[j])
    return [(i + 1, j + 1)] if same else []


def _any(part: str) -> bool:
    return part == "?" or len(part) > 1
