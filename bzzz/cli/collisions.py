"""Whether two inputs of a task have something at one place.

Enters: names in the task, and where each is here. Leaves: what meets. Where the task runs nothing
is put over what is there, so that it would fail before it begins. Directories may meet, as what is
in one is put beside what is in the other.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

__all__ = ["Collision", "collision"]


class Collision(NamedTuple):
    """Two paths here that are one in the task."""

    first: Path
    second: Path
    name: str


def collision(inputs: Sequence[tuple[str, Path]]) -> Collision | None:
    """The first two of them that meet.

    :param inputs: name in the task, ``.`` for a directory's content, and where it is here. What is
        not there, or cannot be looked at, meets nothing.
    """
    for number, (name, path) in enumerate(inputs):
        for other, place in inputs[:number]:
            found = _below(place, path, _parts(other), _parts(name)) or _below(
                path, place, _parts(name), _parts(other)
            )
            if found is not None:
                return found
    return None


def _parts(name: str) -> tuple[str, ...]:
    return () if name == "." else tuple(name.split("/"))


def _below(
    upper: Path, lower: Path, above: tuple[str, ...], name: tuple[str, ...]
) -> Collision | None:
    """Where one whose name begins with the other's meets what is in that one."""
    if name[: len(above)] != above or not upper.exists():
        return None
    place, is_directory = upper, upper.is_dir()
    if not (above or is_directory):
        # Which is wrong whatever else there is.
        return None
    for depth in range(len(above), len(name)):
        if not is_directory:
            return Collision(place, lower, "/".join(name[:depth]))
        place = place / name[depth]
        kind = _kind(place)
        if kind is None:
            return None
        is_directory = stat.S_ISDIR(kind)
    if not lower.exists():
        return None
    if is_directory and lower.is_dir():
        return _inside(place, lower, "/".join(name))
    return Collision(place, lower, "/".join(name))


def _inside(one: Path, other: Path, name: str) -> Collision | None:
    """Where the contents of two directories meet."""
    try:
        names = sorted(os.listdir(other))
    except OSError:
        return None
    for each in names:
        here, there = _kind(one / each), _kind(other / each)
        if here is None or there is None:
            continue
        path = f"{name}/{each}" if name else each
        if not (stat.S_ISDIR(here) and stat.S_ISDIR(there)):
            return Collision(one / each, other / each, path)
        found = _inside(one / each, other / each, path)
        if found is not None:
            return found
    return None


def _kind(path: Path) -> int | None:
    """The kind of what travels: a file, a directory or a link; None of anything else."""
    try:
        mode = path.lstat().st_mode
    except OSError:
        return None
    return mode if stat.S_ISREG(mode) or stat.S_ISDIR(mode) or stat.S_ISLNK(mode) else None
