"""Manifests: what is in a file or directory, in one form (``docs/tasks.rst``, "Files").

Enters: entries, or bytes of a manifest, perhaps of a peer. Leaves: its bytes, cut into chunks where
they are many; or entries that may be written below a directory.

A manifest is MessagePack, ``["manifest", entries]``, each entry an array::

    ["d", path]                             a directory
    ["f", path, executable, size, digests]  a file; the digests of its chunks, one after the other
    ["l", path, target]                     a symbolic link

in the order of the paths' bytes. The first has the path ``""`` and is the file or directory itself;
the directory of each other is an entry before it. A manifest of more than a chunk is cut like a
file, and in its place stands ``["parts", size, digests]``, which is always one chunk.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Annotated, Final, NamedTuple

import msgspec
from msgspec import Meta, Struct

from bzzz.errors import RemoteProtocolError
from bzzz.tasks.files.errors import PackError
from bzzz.tasks.files.names import wrong_path, wrong_target

__all__ = [
    "CHUNK",
    "DIGEST_SIZE",
    "MAX_ENTRIES",
    "MAX_MANIFEST",
    "Chunk",
    "Directory",
    "Entry",
    "File",
    "Link",
    "Manifest",
    "Parts",
    "chunks_of",
    "cut",
    "decode",
    "digest_of",
    "encode",
    "read_root",
]

# Bytes of a chunk; of the last one of a file, fewer.
CHUNK: Final = 1 << 20

DIGEST_SIZE: Final = 32

# Files, directories and links of one manifest: some 80 MB of memory while it is in use. A checkout
# of Linux has 90,000.
MAX_ENTRIES: Final = 200_000

# Bytes of a manifest: one of files with a terabyte has as many.
MAX_MANIFEST: Final = 32 << 20

MAX_SIZE: Final = 1 << 53

# An array of two, then the tag: what a manifest begins with, before the length of its entries.
_HEAD: Final = b"\x92" + msgspec.msgpack.encode("manifest")

# What msgspec raises for bytes that are wrong, or nested too deeply.
_UNREADABLE = (msgspec.MsgspecError, RecursionError, UnicodeError)

Size = Annotated[int, Meta(ge=0, le=MAX_SIZE)]


class Directory(Struct, frozen=True, array_like=True, tag="d", forbid_unknown_fields=True):
    """A directory."""

    path: str


class File(Struct, frozen=True, array_like=True, tag="f", forbid_unknown_fields=True):
    """A file.

    :ivar executable: by its owner.
    :ivar size: bytes.
    :ivar digests: of its chunks, one after the other.
    """

    path: str
    executable: bool
    size: Size
    digests: bytes


class Link(Struct, frozen=True, array_like=True, tag="l", forbid_unknown_fields=True):
    """A symbolic link; see :mod:`bzzz.tasks.files.names`."""

    path: str
    target: str


Entry = Directory | File | Link


class Manifest(Struct, frozen=True, array_like=True, tag="manifest", forbid_unknown_fields=True):
    """What is in a file or directory."""

    entries: tuple[Entry, ...]

    @property
    def size(self) -> int:
        """Bytes, of all files in it."""
        return sum(entry.size for entry in self.entries if isinstance(entry, File))

    @property
    def files(self) -> int:
        """How many files it has."""
        return sum(isinstance(entry, File) for entry in self.entries)

    def chunks(self) -> Iterator[Chunk]:
        """Those of all its files; one that is in it twice comes twice."""
        for entry in self.entries:
            if isinstance(entry, File):
                yield from chunks_of(entry.digests, entry.size)


class Parts(Struct, frozen=True, array_like=True, tag="parts", forbid_unknown_fields=True):
    """Where a manifest is that is longer than a chunk.

    :ivar size: bytes of the manifest.
    :ivar digests: of its chunks, one after the other.
    """

    size: Annotated[int, Meta(gt=CHUNK, le=MAX_MANIFEST)]
    digests: bytes


class Chunk(NamedTuple):
    """A chunk's name, and how many bytes it has."""

    digest: bytes
    size: int


_root: msgspec.msgpack.Decoder[Manifest | Parts] = msgspec.msgpack.Decoder(Manifest | Parts)


def digest_of(data: bytes) -> bytes:
    """The name of a chunk."""
    return hashlib.blake2b(data, digest_size=DIGEST_SIZE).digest()


def cut(data: bytes) -> list[bytes]:
    """Chunks of which ``data`` is made; none of nothing."""
    return [data[start : start + CHUNK] for start in range(0, len(data), CHUNK)]


def chunks_of(digests: bytes, size: int) -> Iterator[Chunk]:
    """The chunks of a file of ``size`` bytes."""
    for start in range(0, len(digests), DIGEST_SIZE):
        digest = digests[start : start + DIGEST_SIZE]
        yield Chunk(digest, min(CHUNK, size - start // DIGEST_SIZE * CHUNK))


def encode(entries: Iterable[Entry]) -> list[bytes]:
    """The chunks of a manifest of ``entries``, in any order. The first one's digest names it.

    :raises PackError: they cannot be in one.
    """
    manifest = Manifest(tuple(sorted(entries, key=lambda entry: entry.path.encode())))
    if len(manifest.entries) > MAX_ENTRIES:
        raise PackError(
            f"there are more than {MAX_ENTRIES} files and directories; put them into an archive"
        )
    try:
        _check(manifest)
    except RemoteProtocolError as error:
        raise PackError(str(error)) from None
    data = msgspec.msgpack.encode(manifest)
    if len(data) > MAX_MANIFEST:
        raise PackError(
            f"the list of the files has more than {MAX_MANIFEST >> 20} MiB; put them into several"
        )
    if len(data) <= CHUNK:
        return [data]
    parts = cut(data)
    root = Parts(len(data), b"".join(digest_of(part) for part in parts))
    return [msgspec.msgpack.encode(root), *parts]


def read_root(data: bytes) -> Manifest | Parts:
    """Read a manifest's first chunk.

    :raises RemoteProtocolError: it is none.
    """
    _check_count(data)
    try:
        root = _root.decode(data)
    except _UNREADABLE as error:
        raise RemoteProtocolError(
            f"a manifest cannot be read: {error}", "manifest_unreadable"
        ) from None
    if msgspec.msgpack.encode(root) != data:
        raise RemoteProtocolError("a manifest is not in its one form", "manifest_not_canonical")
    if isinstance(root, Manifest):
        _check(root)
    elif not _fits(root.digests, root.size):
        raise RemoteProtocolError("a manifest has other parts than its size", "manifest_digests")
    return root


def decode(parts: Sequence[bytes]) -> Manifest:
    """Read a manifest from all its parts.

    :raises RemoteProtocolError: it is none.
    """
    data = b"".join(parts)
    root = read_root(data)
    if isinstance(root, Parts):
        raise RemoteProtocolError("the parts of a manifest are parts", "manifest_nested")
    if len(data) <= CHUNK:
        raise RemoteProtocolError("a short manifest is in parts", "manifest_not_canonical")
    return root


def _fits(digests: bytes, size: int) -> bool:
    return len(digests) == -(-size // CHUNK) * DIGEST_SIZE


def _check_count(data: bytes) -> None:
    """See how many entries there are before memory is taken for them."""
    if not data.startswith(_HEAD):
        return
    kind = data[len(_HEAD) : len(_HEAD) + 1]
    width = {b"\xdc": 2, b"\xdd": 4}.get(kind, 0)
    start = len(_HEAD) + 1
    if int.from_bytes(data[start : start + width], "big") > MAX_ENTRIES:
        raise RemoteProtocolError(
            f"a manifest has more than {MAX_ENTRIES} entries", "manifest_entries"
        )


def _check(manifest: Manifest) -> None:
    entries = manifest.entries
    if not entries or entries[0].path or isinstance(entries[0], Link):
        raise RemoteProtocolError(
            "a manifest has no file or directory at its root", "manifest_root"
        )
    directories = {""} if isinstance(entries[0], Directory) else set()
    before = b""
    for entry in entries:
        if entry is not entries[0]:
            if reason := wrong_path(entry.path):
                raise RemoteProtocolError(f"{entry.path!r}: {reason}", "manifest_path")
            path = entry.path.encode()
            if path <= before:
                what = "is there twice" if path == before else "is not in its place"
                raise RemoteProtocolError(f"{entry.path!r} {what}", "manifest_order")
            before = path
            if entry.path.rpartition("/")[0] not in directories:
                raise RemoteProtocolError(
                    f"{entry.path!r} is in what is no directory", "manifest_parent"
                )
        if isinstance(entry, Directory):
            directories.add(entry.path)
        elif isinstance(entry, File):
            if not _fits(entry.digests, entry.size):
                raise RemoteProtocolError(
                    f"{entry.path!r} has other chunks than its size", "manifest_digests"
                )
        elif reason := wrong_target(entry.path, entry.target):
            raise RemoteProtocolError(
                f"the link {entry.path!r} to {entry.target!r}: {reason}", "manifest_link"
            )
