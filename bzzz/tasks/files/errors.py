"""What goes wrong with the files of tasks."""

from __future__ import annotations

from bzzz.errors import BzzzError

__all__ = [
    "BadManifest",
    "ChunkMissing",
    "FilesError",
    "Missing",
    "PackError",
    "StoreError",
    "UnpackError",
    "WrongChunk",
]


class FilesError(BzzzError):
    """The base of the errors of this package."""


class PackError(FilesError):
    """A file or directory cannot be packed; names the file."""


class UnpackError(FilesError):
    """What was packed cannot be written where it is wanted; names the place."""


class StoreError(FilesError):
    """The cache on disk takes no more, or fails; says what to do."""


class BadManifest(FilesError):
    """A list of files, as its submitter made it, cannot be used here; says why."""


class WrongChunk(FilesError):
    """Bytes are not those that the digest names."""


class ChunkMissing(FilesError):
    """A chunk is not in the cache, or is damaged there and was dropped."""


class Missing(FilesError):
    """Nobody who was asked has it; names what, and what each has said."""
