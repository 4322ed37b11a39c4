"""Where chunks go to and come from: the cache, or a node that has it (``docs/tasks.rst``, "Files").

Enters and leaves: chunks. Packing needs a :class:`ChunkSink`, unpacking a :class:`ChunkSource`;
:class:`bzzz.tasks.files.chunk_store.ChunkStore` is both.
"""

from __future__ import annotations

from typing import Any, Protocol

__all__ = ["ChunkSink", "ChunkSource"]


class ChunkSink(Protocol):
    """Takes chunks."""

    def put(self, data: bytes, hold: Any = None) -> bytes:
        """Keep a chunk.

        :param hold: a :class:`bzzz.tasks.files.chunk_store.Hold`, of the cache.
        :return: its digest.
        :raises FilesError: it cannot be kept.
        """


class ChunkSource(Protocol):
    """Gives chunks."""

    def get(self, digest: bytes) -> bytes:
        """A chunk.

        :raises ChunkMissing: it is not there.
        """
