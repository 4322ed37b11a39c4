"""The disk of a machine of :mod:`tests.cluster.machines`, and what changed on it.

Enters: the directory that is the upper layer of an overlay, whose lower layer is the build
machine's ``/``. Leaves: a disk that looks like that of a fresh Debian with the build machine's
packages; and, of what a machine has done to its disk, snapshots that can be compared. What marks a
path as removed, and a directory as hiding the one below, is in the kernel's
Documentation/filesystems/overlayfs.rst, section "whiteouts and opaque directories".
"""

from __future__ import annotations

import fnmatch
import hashlib
import os
import stat
import uuid
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

__all__ = ["Disk", "Entry", "differences"]

# Of the build machine's / a machine has these, and none of what else may be there.
SHARED = {"usr", "etc", "var", "bin", "sbin", "lib", "lib32", "lib64", "libx32"}
# What a fresh Debian has beside, with their modes; systemd mounts something on most.
PLAIN = {"boot": 0o755, "dev": 0o755, "home": 0o755, "media": 0o755, "mnt": 0o755, "opt": 0o755}
PLAIN |= {"proc": 0o555, "root": 0o700, "run": 0o755, "srv": 0o755, "sys": 0o555, "tmp": 0o1777}
# Directories that are there, without what the build machine has in them: units that were enabled,
# links of init scripts, logs, states, and what somebody installed beside Debian.
EMPTIED = {f"etc/rc{level}.d": 0o755 for level in "0123456S"}
EMPTIED |= {f"etc/systemd{part}": 0o755 for part in ("", "/system", "/user", "/network")}
EMPTIED |= {"var/log": 0o755, "var/log/journal": 0o755, "var/tmp": 0o1777}
EMPTIED |= {"var/lib/systemd": 0o755, "var/lib/private": 0o700, "usr/local": 0o755}
EMPTIED |= {f"usr/local/{part}": 0o755 for part in ("bin", "etc", "lib", "sbin", "share", "src")}
HIDDEN = ("etc/bzzz", "etc/gitconfig", "etc/npmrc", "etc/pip.conf", "var/lib/bzzz")

# Accounts that people made, by their numbers in Debian.
PEOPLE = range(1000, 60000)
ACCOUNT_FILES = ("passwd", "shadow", "group", "gshadow", "subuid", "subgid")

# Any machine changes these by itself.
RESTLESS = (
    *(f"/var/log/{name}" for name in ("journal", "wtmp", "lastlog", "btmp")),
    *(f"/var/lib/systemd/{name}" for name in ("random-seed", "timers", "catalog")),
    "/var/tmp/systemd-private-*",
)

REMOVED = "removed"
OPAQUE = "trusted.overlay.opaque"


class Entry(NamedTuple):
    """A path where a machine's disk is not as the build machine's.

    :ivar size: in bytes; 0 of what is no file.
    :ivar content: the SHA-256 of a file, where a link leads, or what else it is.
    :ivar below: the build machine has something there.
    """

    mode: int
    uid: int
    gid: int
    size: int
    content: str
    below: bool = False


def differences(before: Mapping[str, Entry], after: Mapping[str, Entry]) -> list[str]:
    """What happened to a disk between two snapshots, such as ``"made /etc/bzzz"``, by path."""
    said = []
    for path in sorted(before.keys() | after.keys()):
        old, new = before.get(path), after.get(path)
        if old == new:
            continue
        # Where a snapshot has no entry, all is as on the build machine.
        was = old.content != REMOVED if old else bool(new and new.below)
        is_ = new.content != REMOVED if new else bool(old and old.below)
        if was and is_:
            said.append(f"changed {path}")
        elif was or is_:
            said.append(f"{'removed' if was else 'made'} {path}")
    return said


class Disk:
    """The upper layer of a machine's disk, as the build machine sees it."""

    def __init__(self, upper: Path) -> None:
        self._upper = upper

    def fill(self, name: str) -> None:
        """Make a fresh Debian of the build machine's, before it is mounted."""
        self._upper.chmod(0o755)
        for found in os.listdir("/"):
            if found not in SHARED and found not in PLAIN:
                self._hide(found)
        for path, mode in (PLAIN | EMPTIED).items():
            self._empty(path, mode)
        for path in HIDDEN:
            self._hide(path)
        self._write("etc/machine-id", f"{uuid.uuid4().hex}\n")
        self._write("etc/hostname", f"{name}\n")
        self._write("etc/hosts", f"127.0.0.1\tlocalhost\n127.0.1.1\t{name}\n::1\tlocalhost\n")
        for path in ("etc/resolv.conf", "etc/fstab", "etc/environment"):
            self._write(path, "")
        self._place("var/lib/dbus/machine-id").symlink_to("/etc/machine-id")
        self._forget_people()

    def _place(self, path: str) -> Path:
        """Where a path is in this layer; the directories above it are as they were."""
        here = self._upper
        for part in Path(path).parts[:-1]:
            here /= part
            if not here.is_dir():
                here.mkdir()
                _like(here, Path("/") / here.relative_to(self._upper))
        return self._upper / path

    def _hide(self, path: str) -> None:
        if os.path.lexists(f"/{path}"):
            os.mknod(self._place(path), stat.S_IFCHR, os.makedev(0, 0))

    def _empty(self, path: str, mode: int) -> None:
        place = self._place(path)
        place.mkdir()
        place.chmod(mode)
        os.setxattr(place, OPAQUE, b"y")

    def _write(self, path: str, text: str) -> None:
        place = self._place(path)
        place.write_text(text)
        place.chmod(0o644)
        if Path("/", path).is_file():
            _like(place, Path("/", path))

    def _forget_people(self) -> None:
        gone = {"bzzz"}
        for name in ("passwd", "group"):
            for line in Path("/etc", name).read_text().splitlines():
                fields = line.split(":")
                if fields[2].isdecimal() and int(fields[2]) in PEOPLE:
                    gone.add(fields[0])
        for name in ACCOUNT_FILES:
            file = Path("/etc", name)
            if file.is_file():
                lines = file.read_text().splitlines(keepends=True)
                kept = (line for line in lines if line.split(":")[0] not in gone)
                self._write(f"etc/{name}", "".join(kept))

    def snapshot(self, exclude: Iterable[str]) -> dict[str, Entry]:
        """Every path that is not as on the build machine, without what any machine changes.

        :param exclude: patterns of paths that are left out too, with all below them.
        """
        found: dict[str, Entry] = {}
        excluded = [*RESTLESS, *(pattern.rstrip("/") for pattern in exclude)]
        _compare(self._upper, Path("/"), "", excluded, found)
        return found


def _like(path: Path, model: Path) -> None:
    status = model.stat()
    os.chown(path, status.st_uid, status.st_gid)
    path.chmod(stat.S_IMODE(status.st_mode))


def _compare(
    upper: Path, lower: Path | None, path: str, excluded: list[str], found: dict[str, Entry]
) -> None:
    """Collect what is in ``upper`` and different in ``lower``, which is None where it is hidden."""
    for here in sorted(upper.iterdir()):
        name = f"{path}/{here.name}"
        if any(fnmatch.fnmatchcase(name, pattern) for pattern in excluded):
            continue
        there = lower / here.name if lower else None
        if there and not os.path.lexists(there):
            there = None
        entry = _describe(here)
        directory = stat.S_ISDIR(entry.mode)
        below = there is not None
        if there is None:
            # What marks something as removed may outlive it.
            if entry.content != REMOVED:
                found[name] = entry
        elif entry != _describe(there):
            found[name] = entry._replace(below=below)
        if directory:
            hidden = entry.content == OPAQUE or there is None or there.is_symlink()
            _compare(here, None if hidden else there, name, excluded, found)


def _describe(path: Path) -> Entry:
    status = path.lstat()
    kind = stat.S_IFMT(status.st_mode)
    size = 0
    if kind == stat.S_IFREG:
        size = status.st_size
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
    elif kind == stat.S_IFLNK:
        content = str(path.readlink())
    elif kind == stat.S_IFCHR and status.st_rdev == 0:
        content = REMOVED
    elif kind == stat.S_IFDIR and OPAQUE in os.listxattr(path):
        # It was removed, with all that was in it, and made again.
        content = OPAQUE
    else:
        content = ""
    return Entry(status.st_mode, status.st_uid, status.st_gid, size, content)
