"""Names of files that may be written, wherever they come from (``docs/tasks.rst``, "Files").

Enters: paths and targets of links, of this machine or of a peer. Leaves: what is wrong with them.

A link's target is some ``..``, no more than there are directories above the link, and then names.
Its directory is a real one, so these ``..`` lead to a real one above it, not above the root. From
there the names lead down, and through links that are as this one. So none leads outside, whatever
other links there are: no ``..`` comes after a name, which might be a link to somewhere higher.
"""

from __future__ import annotations

from typing import Final

__all__ = ["MAX_DEPTH", "MAX_NAME", "MAX_PATH", "target_of", "wrong_path", "wrong_target"]

# What Linux takes (NAME_MAX, PATH_MAX with its zero byte), in bytes.
MAX_NAME: Final = 255
MAX_PATH: Final = 4095

# Directories that one is in: each is open while what is in it is read or written.
MAX_DEPTH: Final = 100


def wrong_path(path: str) -> str:
    """Why a path below a directory cannot be one; "" if it can."""
    try:
        length = len(path.encode())
    except UnicodeEncodeError:
        return "its name is not UTF-8"
    if length > MAX_PATH:
        return f"its path has more than {MAX_PATH} bytes"
    if "\0" in path:
        return "its name has a zero byte"
    if path.startswith("/"):
        return "its path is absolute"
    if path.count("/") > MAX_DEPTH:
        return f"it is in more than {MAX_DEPTH} directories"
    for name in path.split("/"):
        if name in {"", ".", ".."}:
            return f"its path has a component {name!r}"
        if len(name.encode()) > MAX_NAME:
            return f"its name has more than {MAX_NAME} bytes"
    return ""


def wrong_target(path: str, target: str) -> str:
    """Why the link at ``path`` may not lead to ``target``; "" if it may."""
    if target.startswith("/"):
        return "it leads to an absolute path"
    up = 0
    names = target.split("/")
    while up < len(names) and names[up] == "..":
        up += 1
    if up > path.count("/"):
        return "it leads outside"
    rest = "/".join(names[up:])
    if ".." in names[up:]:
        return "it leads up again after a name"
    if not rest:
        # Up and nothing else: to a directory that it is below of.
        return "" if up else "it leads nowhere"
    if reason := wrong_path(rest):
        return f"of what it leads to, {reason}"
    if len(target) > MAX_PATH:
        return f"what it leads to has more than {MAX_PATH} bytes"
    return ""


def target_of(raw: str) -> str:
    """A link's target as it is packed: without what changes nothing, such as ``./``."""
    if raw.startswith("/"):
        return raw
    return "/".join(name for name in raw.split("/") if name not in {"", "."})
