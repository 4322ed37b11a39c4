"""Manifests in the cache. It blocks on the disk: it is called in a thread.

Enters: a manifest's digest. Leaves: the manifest, and all chunks that belong to it.
"""

from __future__ import annotations

from dataclasses import dataclass

from bzzz.errors import RemoteProtocolError
from bzzz.tasks.files.chunk_places import ChunkSource
from bzzz.tasks.files.errors import BadManifest
from bzzz.tasks.files.manifest import Chunk, Manifest, Parts, chunks_of, decode, read_root

__all__ = ["Stored", "load", "load_parts"]


@dataclass(frozen=True)
class Stored:
    """A manifest.

    :ivar chunks: of its files, each once, in the order of the files.
    :ivar own: digests of the chunks that it is in itself.
    """

    manifest: Manifest
    chunks: tuple[Chunk, ...]
    own: tuple[bytes, ...]

    @property
    def digests(self) -> list[bytes]:
        """Of all chunks that it needs."""
        return [*self.own, *(chunk.digest for chunk in self.chunks)]


def load_parts(store: ChunkSource, digest: bytes) -> list[Chunk]:
    """The chunks that a manifest is in beside its first.

    :raises ChunkMissing: the first is not there.
    :raises BadManifest: it is none.
    """
    root = _root(store, digest)
    return list(chunks_of(root.digests, root.size)) if isinstance(root, Parts) else []


def load(store: ChunkSource, digest: bytes) -> Stored:
    """Read a manifest.

    :raises ChunkMissing: not all of it is there.
    :raises BadManifest: it is none.
    """
    root = _root(store, digest)
    own = [digest]
    if isinstance(root, Parts):
        parts = [chunk.digest for chunk in chunks_of(root.digests, root.size)]
        own += parts
        try:
            root = decode([store.get(part) for part in parts])
        except RemoteProtocolError as error:
            raise _bad(digest, error) from None
    return Stored(root, tuple(dict.fromkeys(root.chunks())), tuple(own))


def _root(store: ChunkSource, digest: bytes) -> Manifest | Parts:
    data = store.get(digest)
    try:
        return read_root(data)
    except RemoteProtocolError as error:
        raise _bad(digest, error) from None


def _bad(digest: bytes, error: RemoteProtocolError) -> BadManifest:
    return BadManifest(f"the list of files {digest.hex()} cannot be used: {error}")
