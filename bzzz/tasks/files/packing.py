"""From files to chunks and their manifest. It blocks on the disk: it is called in a thread.

Enters: a file or directory, or patterns of what is wanted below one. Leaves: chunks in the cache,
the manifest's digest, and what was left out and why. No link is followed on the way down, and
what is read is what was opened, so that nothing from outside gets in while others write there.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from bzzz.tasks.files import manifest as manifests
from bzzz.tasks.files.chunk_places import ChunkSink
from bzzz.tasks.files.chunk_store import Hold
from bzzz.tasks.files.errors import PackError
from bzzz.tasks.files.globs import Globs, Position
from bzzz.tasks.files.manifest import CHUNK, MAX_ENTRIES, Directory, Entry, File, Link
from bzzz.tasks.files.names import target_of, wrong_path, wrong_target

__all__ = ["MAX_SKIPPED", "Packed", "collect", "pack"]

# What was left out is told one by one up to so many.
MAX_SKIPPED = 100

_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


@dataclass(frozen=True)
class Packed:
    """What was packed.

    :ivar digest: of the manifest, in hex.
    :ivar size: bytes, of all files.
    :ivar files: how many there are.
    :ivar skipped: what was left out, each with its reason, for people.
    :ivar unmatched: patterns that nothing was found for.
    """

    digest: str
    size: int
    files: int
    skipped: tuple[str, ...] = ()
    unmatched: tuple[str, ...] = ()


def pack(store: ChunkSink, path: Path, hold: Hold, stopped: Callable[[], bool]) -> Packed:
    """Pack a file or directory whole. Sockets, pipes and devices are left out, and told.

    :param hold: gets the chunks.
    :param stopped: whether to give up.
    :raises PackError: something in it cannot be read, changes meanwhile, or leads outside.
    :raises StoreError: there is no room.
    """
    return _Packing(store, path, hold, stopped).run(None)


def collect(
    store: ChunkSink, directory: Path, globs: Globs, hold: Hold, stopped: Callable[[], bool]
) -> Packed:
    """Pack what is wanted below a directory. What cannot be packed is left out, and told.

    :raises PackError: the directory cannot be read.
    :raises StoreError: there is no room.
    """
    return _Packing(store, directory, hold, stopped).run(globs)


class _Ended(PackError):
    """Nothing more is to be packed, whatever else may be left out."""


class _Packing:
    """One file or directory.

    :param root: its path, which is followed where it is a link: its owner has named it.
    """

    def __init__(
        self, store: ChunkSink, root: Path, hold: Hold, stopped: Callable[[], bool]
    ) -> None:
        self._store = store
        self._root = root
        self._hold = hold
        self._stopped = stopped
        self._globs: Globs | None = None
        self._entries: dict[str, Entry] = {}
        self._skipped: list[str] = []
        self._left_out = 0
        self._matched: set[int] = set()

    def run(self, globs: Globs | None) -> Packed:
        self._globs = globs
        try:
            descriptor = os.open(self._root, _READ & ~os.O_NOFOLLOW)
        except OSError as error:
            raise PackError(f"{self._root} cannot be read: {error.strerror}") from None
        try:
            status = os.fstat(descriptor)
            if stat.S_ISDIR(status.st_mode):
                self._entries[""] = Directory("")
                start: Position = frozenset() if globs is None else globs.start
                found = set() if globs is None else globs.wanted(start)
                self._matched |= found
                self._walk(descriptor, "", start, globs is None or bool(found))
            elif stat.S_ISREG(status.st_mode) and globs is None:
                self._file(descriptor, "")
            else:
                raise PackError(f"{self._root} is no directory" + " and no file" * (globs is None))
        except OSError as error:
            raise PackError(f"{self._root} cannot be read: {error.strerror}") from None
        finally:
            os.close(descriptor)
        root, *parts = manifests.encode(self._entries.values())
        for part in parts:
            self._store.put(part, self._hold)
        digest = self._store.put(root, self._hold)
        files = [entry for entry in self._entries.values() if isinstance(entry, File)]
        if self._left_out > len(self._skipped):
            self._skipped.append(f"and {self._left_out - len(self._skipped)} more")
        patterns = () if globs is None else globs.patterns
        return Packed(
            digest.hex(),
            sum(entry.size for entry in files),
            len(files),
            tuple(self._skipped),
            tuple(each for number, each in enumerate(patterns) if number not in self._matched),
        )

    def _walk(self, descriptor: int, path: str, position: Position, whole: bool) -> None:
        """Pack what is in a directory.

        :param whole: whether all of it is wanted.
        """
        prefix = f"{path}/" if path else ""
        for name in sorted(os.listdir(descriptor)):
            below, wanted = position, whole
            if self._globs is not None:
                below = self._globs.step(position, name)
                found = self._globs.wanted(below)
                self._matched |= found
                wanted = whole or bool(found)
                if not (below or wanted):
                    continue
            try:
                try:
                    self._one(descriptor, name, prefix + name, below, wanted)
                except OSError as error:
                    self._refuse(prefix + name, f"it cannot be read: {error.strerror}")
            except _Ended:
                raise
            except PackError as error:
                if self._globs is None:
                    raise
                self._skip(str(error))

    def _one(self, parent: int, name: str, path: str, position: Position, wanted: bool) -> None:
        if self._stopped():
            raise _Ended("packing was ended, as the node is stopping")
        if reason := wrong_path(path):
            self._refuse(path, reason)
        mode = os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode
        if stat.S_ISLNK(mode):
            if wanted:
                self._link(path, os.readlink(name, dir_fd=parent))
        elif stat.S_ISDIR(mode) or (stat.S_ISREG(mode) and wanted):
            descriptor = os.open(name, _READ, dir_fd=parent)
            try:
                if not stat.S_ISDIR(mode):
                    self._file(descriptor, path)
                    return
                if wanted:
                    self._add(Directory(path))
                self._walk(descriptor, path, position, wanted)
            finally:
                os.close(descriptor)
        elif wanted:
            self._skip(f"{self._root / path} is no file, directory or link")

    def _link(self, path: str, raw: str) -> None:
        target = target_of(raw)
        if reason := wrong_target(path, target):
            self._refuse(path, f"as a link to {raw!r}, {reason}")
        self._add(Link(path, target))

    def _file(self, descriptor: int, path: str) -> None:
        before = os.fstat(descriptor)
        if not stat.S_ISREG(before.st_mode):
            self._refuse(path, "it was a file, and is another now")
        digests = bytearray()
        size = 0
        while data := _read(descriptor):
            size += len(data)
            if self._stopped():
                raise _Ended("packing was ended, as the node is stopping")
            if size > before.st_size:
                break
            digests += self._store.put(data, self._hold)
        after = os.fstat(descriptor)
        if size != before.st_size or after.st_mtime_ns != before.st_mtime_ns:
            self._refuse(path, "it changed while it was read; try again when nobody writes it")
        executable = before.st_mode & stat.S_IXUSR != 0
        self._add(File(path, executable, size, bytes(digests)))

    def _add(self, entry: Entry) -> None:
        parent = entry.path.rpartition("/")[0]
        while parent and parent not in self._entries:
            self._entries[parent] = Directory(parent)
            parent = parent.rpartition("/")[0]
        self._entries[entry.path] = entry
        if len(self._entries) > MAX_ENTRIES:
            raise _Ended(
                f"{self._root} has more than {MAX_ENTRIES} files and directories; put them into an"
                " archive"
            )

    def _refuse(self, path: str, reason: str) -> NoReturn:
        where = str(self._root / path) if path else str(self._root)
        # A name that is not UTF-8 is shown with its bytes.
        where = where.encode(errors="backslashreplace").decode()
        raise PackError(f"{where} cannot be packed: {reason}")

    def _skip(self, reason: str) -> None:
        self._left_out += 1
        if self._left_out <= MAX_SKIPPED:
            self._skipped.append(reason.encode(errors="backslashreplace").decode())


def _read(descriptor: int) -> bytes:
    """A chunk, or what is left; reads may bring less than was asked for."""
    data = os.read(descriptor, CHUNK)
    while data and len(data) < CHUNK:
        more = os.read(descriptor, CHUNK - len(data))
        if not more:
            break
        data += more
    return data
