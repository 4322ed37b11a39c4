"""Chunks on disk, within a quota. All of it blocks: it is called in threads, several at once.

Enters: chunks, and who needs which. Leaves: chunks, verified. A chunk is ``DIR/aa/bbbb...``, its
digest in hex, and has that name only once it is whole: it is written to ``DIR/new`` before, which
is emptied at the start. It is fsynced only where a task counts on it (:meth:`ChunkStore.sync`):
what a power cut leaves of others is noticed when they are read (``docs/tasks.rst``, "Files").

A chunk is verified before it is written, and when it is read: after a start the first time, and
again when its file has changed since, by the time of its last change, which no program can set.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
from collections import Counter, OrderedDict
from collections.abc import Iterable
from itertools import count
from pathlib import Path
from threading import Lock
from typing import Final

from bzzz.atomic_file import opened, sync_directory
from bzzz.tasks.files.errors import ChunkMissing, StoreError, WrongChunk
from bzzz.tasks.files.manifest import CHUNK, Chunk, digest_of

__all__ = ["BLOCK", "MAX_CHUNKS", "ChunkStore", "Hold"]

# Bytes that a chunk takes on a disk at least, so that many small ones count too.
BLOCK: Final = 4096

# Chunks that are kept: each takes 400 bytes of memory, and 70 more where it is synced. Beyond: as
# beyond the quota.
MAX_CHUNKS: Final = 400_000

# Where chunks are until they are whole.
NEW: Final = "new"

_DIRECTORY: Final = re.compile(r"[0-9a-f]{2}")
_NAME: Final = re.compile(r"[0-9a-f]{62}")

_REASONS: Final = {
    errno.ENOSPC: "the disk is full; make room",
    errno.EDQUOT: "the disk quota of this user is used up; make room",
    errno.EROFS: "it cannot be written; is the disk mounted read-only?",
    errno.EACCES: "it may not be used; look at its owner and mode",
    errno.EIO: "the disk fails; the system's log may tell why",
}


class Hold:
    """Chunks that somebody needs; see :meth:`ChunkStore.hold`.

    :ivar digests: which, in the order in which they were asked for; the values say nothing.
    :ivar ended: whether it holds nothing any more, and is to hold nothing again.
    """

    def __init__(self) -> None:
        self.digests: dict[bytes, None] = {}
        self.ended = False


class ChunkStore:
    """The chunks in one directory, which nobody else writes to.

    The lock is held while a name is given or taken, so that what is known and what is on the disk
    are the same: the reactor's thread must not wait for it.

    :param directory: is made if it is not there.
    :param quota: bytes that all chunks may take together.
    """

    def __init__(self, directory: Path, quota: int) -> None:
        self.directory = directory
        self.quota = quota
        self._lock = Lock()
        self._numbers = count()
        # Of those that nobody holds, the one that was used least recently is the first.
        self._free: OrderedDict[bytes, int] = OrderedDict()
        self._held: dict[bytes, int] = {}
        self._holds: Counter[bytes] = Counter()
        # When the file of each that was verified had changed last, in nanoseconds.
        self._verified: dict[bytes, int] = {}
        # Those that a power cut does not cost any more, by what was done since the start.
        self._synced: set[bytes] = set()
        self._used = 0
        self._writing = 0

    @property
    def used(self) -> int:
        """Bytes of the quota that are taken."""
        return self._used

    def open(self) -> None:
        """Find the chunks that are there, and drop what is not whole.

        :raises StoreError: the directory cannot be used.
        """
        try:
            found = self._find()
        except OSError as error:
            raise self._failed(error) from None
        with self._lock:
            for _, chunk in sorted(found):
                self._add(chunk)
            self._make_room(0)

    def limit(self, quota: int) -> None:
        """Have another quota from now on. What is held stays, also where it is more than that.

        :raises StoreError: the disk fails.
        """
        with self._lock:
            self.quota = quota
            self._make_room(0)

    def has(self, digest: bytes) -> bool:
        """Whether a chunk is there, as far as is known. It may be asked from any thread."""
        return digest in self._free or digest in self._held

    def hold(self, hold: Hold, digests: Iterable[bytes]) -> list[bytes]:
        """Have chunks not be dropped, whether they are there or come later.

        :return: those that are not there.
        """
        absent = []
        with self._lock:
            for digest in digests:
                self._hold(hold, digest)
                if not self.has(digest):
                    absent.append(digest)
        return absent

    def release(self, hold: Hold) -> None:
        """End a hold."""
        with self._lock:
            hold.ended = True
            digests, hold.digests = hold.digests, {}
            for digest in digests:
                self._holds[digest] -= 1
                if not self._holds[digest]:
                    del self._holds[digest]
                    size = self._held.pop(digest, None)
                    if size is not None:
                        self._free[digest] = size

    def check_room(self, chunks: Iterable[Chunk]) -> None:
        """See that chunks have room beside those that are held.

        :raises StoreError: they have none, whatever else is dropped.
        """
        with self._lock:
            wanted = {chunk.digest: chunk.size for chunk in chunks}
            size = sum(_taken(size) for digest, size in wanted.items() if digest not in self._held)
            held = sum(map(_taken, self._held.values()))
            if size + held > self.quota or len(wanted) > MAX_CHUNKS:
                raise self._full()

    def put(self, data: bytes, hold: Hold | None = None, digest: bytes | None = None) -> bytes:
        """Keep a chunk.

        :param digest: that it has to have.
        :return: its digest.
        :raises WrongChunk: it has another one.
        :raises StoreError: there is no room for it, or the disk fails.
        """
        size = len(data)
        if not 0 < size <= CHUNK:
            raise ValueError(f"a chunk has 1 to {CHUNK} bytes")
        found = digest_of(data)
        if digest is not None and found != digest:
            raise WrongChunk(f"a chunk {digest.hex()} has other bytes")
        taken = _taken(size)
        with self._lock:
            if hold is not None:
                self._hold(hold, found)
            if self._touch(found):
                return found
            self._make_room(taken)
            self._used += taken
            self._writing += 1
        temporary = self.directory / NEW / str(next(self._numbers))
        try:
            _write(temporary, data)
            with self._lock:
                self._verified[found] = self._name(temporary, found)
                self._written(taken)
                self._add(Chunk(found, size))
        except OSError as error:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            with self._lock:
                self._written(taken)
            raise self._failed(error) from None
        return found

    def get(self, digest: bytes) -> bytes:
        """Read a chunk, which is what it is called.

        :raises ChunkMissing: it is not there, or was not what it is called and is dropped.
        :raises StoreError: the disk fails.
        """
        with self._lock:
            self._touch(digest)
        path = self._path(digest)
        try:
            with opened(path, os.O_RDONLY | os.O_NOFOLLOW) as descriptor:
                changed = os.fstat(descriptor).st_ctime_ns
                data = _read(descriptor)
        except FileNotFoundError:
            self.drop(digest)
            raise ChunkMissing(f"the chunk {digest.hex()} is not there") from None
        except OSError as error:
            raise self._failed(error) from None
        if self._verified.get(digest) != changed:
            if digest_of(data) != digest:
                self.drop(digest)
                raise ChunkMissing(f"the chunk {digest.hex()} was damaged, and is dropped")
            with self._lock:
                if self.has(digest):
                    self._verified[digest] = changed
        return data

    def sync(self, digests: Iterable[bytes]) -> None:
        """Have chunks outlive a power cut, once :meth:`sync_names` was called too.

        :raises ChunkMissing: one is not there, or was not what it is called and is dropped.
        :raises StoreError: the disk fails; the chunk is dropped, as nobody knows what of it is on
            the disk.
        """
        for digest in digests:
            if digest in self._synced:
                continue
            if digest not in self._verified:
                # From before the start, of which an earlier power cut may have left a part.
                self.get(digest)
            try:
                with opened(self._path(digest), os.O_RDONLY | os.O_NOFOLLOW) as descriptor:
                    os.fsync(descriptor)
            except FileNotFoundError:
                self.drop(digest)
                raise ChunkMissing(f"the chunk {digest.hex()} is not there") from None
            except OSError as error:
                self.drop(digest)
                raise self._failed(error) from None
            with self._lock:
                if self.has(digest):
                    self._synced.add(digest)

    def sync_names(self, digests: Iterable[bytes]) -> None:
        """Have the names of chunks that are there outlive a power cut.

        :raises StoreError: the disk fails.
        """
        places = {self._path(digest).parent for digest in digests}
        try:
            for place in (*sorted(places), self.directory):
                sync_directory(place)
        except OSError as error:
            raise self._failed(error) from None

    def drop(self, digest: bytes) -> None:
        """Remove a chunk, whoever holds it."""
        with self._lock:
            size = self._free.pop(digest, None)
            if size is None:
                size = self._held.pop(digest, None)
            if size is not None:
                self._gone(Chunk(digest, size))

    # -- with the lock

    def _touch(self, digest: bytes) -> bool:
        if digest in self._free:
            self._free.move_to_end(digest)
            return True
        return digest in self._held

    def _hold(self, hold: Hold, digest: bytes) -> None:
        if digest not in hold.digests and not hold.ended:
            hold.digests[digest] = None
            self._holds[digest] += 1
            size = self._free.pop(digest, None)
            if size is not None:
                self._held[digest] = size

    def _add(self, chunk: Chunk) -> None:
        if self.has(chunk.digest):
            return
        self._used += _taken(chunk.size)
        if chunk.digest in self._holds:
            self._held[chunk.digest] = chunk.size
        else:
            self._free[chunk.digest] = chunk.size

    def _make_room(self, size: int) -> None:
        """Drop what is over the quota, with ``size`` bytes more."""
        while (
            self._used + size > self.quota
            or len(self._free) + len(self._held) + self._writing >= MAX_CHUNKS
        ):
            if not self._free:
                if size:
                    raise self._full()
                return
            digest, dropped = self._free.popitem(last=False)
            self._gone(Chunk(digest, dropped))

    def _written(self, size: int) -> None:
        """What was kept free for a chunk is so no more."""
        self._used -= size
        self._writing -= 1

    def _gone(self, chunk: Chunk) -> None:
        """A chunk is not to be there any more."""
        self._used -= _taken(chunk.size)
        self._verified.pop(chunk.digest, None)
        self._synced.discard(chunk.digest)
        try:
            self._path(chunk.digest).unlink(missing_ok=True)
        except OSError as error:
            raise self._failed(error) from None

    def _name(self, temporary: Path, digest: bytes) -> int:
        """Give a chunk its name; when its file has changed last, which is now."""
        path = self._path(digest)
        try:
            temporary.replace(path)
        except FileNotFoundError:
            path.parent.mkdir(mode=0o700, exist_ok=True)
            temporary.replace(path)
        return path.stat().st_ctime_ns

    # -- inside

    def _path(self, digest: bytes) -> Path:
        name = digest.hex()
        return self.directory / name[:2] / name[2:]

    def _find(self) -> list[tuple[float, Chunk]]:
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        new = self.directory / NEW
        new.mkdir(mode=0o700, exist_ok=True)
        for left in new.iterdir():
            left.unlink()
        found = []
        for place in os.scandir(self.directory):
            if _DIRECTORY.fullmatch(place.name) is None or not place.is_dir(follow_symlinks=False):
                continue
            for each in os.scandir(place.path):
                status = each.stat(follow_symlinks=False)
                if _NAME.fullmatch(each.name) is None or not stat.S_ISREG(status.st_mode):
                    continue
                if not 0 < status.st_size <= CHUNK:
                    # A power cut may leave a name and no bytes.
                    os.unlink(each.path)
                    continue
                digest = bytes.fromhex(place.name + each.name)
                found.append((status.st_mtime, Chunk(digest, status.st_size)))
        return found

    def _full(self) -> StoreError:
        return StoreError(
            f"the cache of files {self.directory} is full: it may have {self.quota >> 20} MiB, and"
            " files that tasks need take that, or would with these; use fewer files, wait until"
            " tasks have ended, or give it a greater quota: cache_quota"
        )

    def _failed(self, error: OSError) -> StoreError:
        reason = _REASONS.get(error.errno or 0, error.strerror or str(error))
        return StoreError(f"{self.directory}: {reason}")


def _taken(size: int) -> int:
    return -(-size // BLOCK) * BLOCK


def _write(path: Path, data: bytes) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    with opened(path, flags) as descriptor:
        # A disk that is nearly full takes a part, and fails with the next.
        view = memoryview(data)
        while view:
            view = view[os.write(descriptor, view) :]


def _read(descriptor: int) -> bytes:
    """All of a chunk, and of a file that has grown beyond one a byte more."""
    pieces = []
    left = CHUNK + 1
    while left:
        piece = os.read(descriptor, left)
        if not piece:
            break
        pieces.append(piece)
        left -= len(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)
