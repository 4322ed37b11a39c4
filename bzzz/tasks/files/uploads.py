"""Chunks that a program of this machine puts into the cache, or is to read from it.

Enters: chunks, one by one, whose manifest may come last. Leaves: chunks that stay for
:data:`KEPT` seconds at least, by when a task that needs them has pinned them. docs/tasks.rst,
"Files".
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger

from bzzz.net.background import in_background
from bzzz.net.interfaces import Clock
from bzzz.tasks.files.chunk_store import MAX_CHUNKS, ChunkStore, Hold
from bzzz.tasks.files.errors import ChunkMissing, StoreError
from bzzz.tasks.files.stored import load

__all__ = ["KEPT", "Uploads"]

# Seconds that a chunk stays after it came; up to twice as long, as they are let go together.
KEPT: Final = 600.0


class Uploads:
    """What came lately.

    :param short: calls a function in a thread.
    """

    _log = Logger()

    def __init__(
        self,
        clock: Clock,
        store: ChunkStore,
        short: Callable[[Callable[[], Any]], Deferred[Any]],
    ) -> None:
        self._clock = clock
        self._store = store
        self._short = short
        self._new = Hold()
        self._old = Hold()
        self._timer: IDelayedCall | None = None

    def missing(self, digests: Sequence[bytes]) -> Deferred[list[bytes]]:
        """Those of some chunks that are not here; the others stay.

        Fails with a StoreError if too many stay already.
        """
        hold = self._hold()

        def work() -> list[bytes]:
            # What is only asked for is held, too, until it comes: a name costs memory.
            if len(hold.digests) + len(digests) > MAX_CHUNKS:
                raise StoreError(
                    f"more than {MAX_CHUNKS} chunks were sent in a short time; try again in"
                    f" {2 * KEPT / 60:g} minutes"
                )
            return self._store.hold(hold, digests)

        return self._short(work)

    def put(self, digest: bytes, data: bytes) -> Deferred[bytes]:
        """Keep a chunk.

        Fails with WrongChunk if it is another one, with a StoreError where there is no room.
        """
        hold = self._hold()
        return self._short(lambda: self._store.put(data, hold, digest))

    def put_all(self, chunks: Sequence[bytes]) -> Deferred[None]:
        """Keep some chunks, whatever they are called.

        Fails with a StoreError where there is no room.
        """
        hold = self._hold()

        def work() -> None:
            for data in chunks:
                self._store.put(data, hold)

        return self._short(work)

    def get(self, digest: bytes) -> Deferred[bytes]:
        """Read a chunk. Fails with ChunkMissing if it is not here."""
        return self._short(lambda: self._store.get(digest))

    def get_some(self, digests: Sequence[bytes], size: int) -> Deferred[list[bytes]]:
        """Read chunks: the first, and those after it until there are ``size`` bytes.

        Fails with ChunkMissing if one is not here.
        """

        def work() -> list[bytes]:
            chunks: list[bytes] = []
            left = size
            for digest in digests:
                if left <= 0:
                    break
                chunks.append(self._store.get(digest))
                left -= len(chunks[-1])
            return chunks

        return self._short(work)

    def keep(self, digest: str) -> Deferred[None]:
        """Have what a manifest names stay. Fails with ChunkMissing if not all is here."""
        hold = self._hold()

        def work() -> None:
            absent = self._store.hold(hold, load(self._store, bytes.fromhex(digest)).digests)
            if absent:
                raise ChunkMissing(f"the chunk {absent[0].hex()} is not here any more")

        return self._short(work)

    def stop(self) -> None:
        """Hold nothing for longer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # -- inside

    def _hold(self) -> Hold:
        if self._timer is None:
            self._timer = self._clock.callLater(KEPT, self._aged)
        return self._new

    def _aged(self) -> None:
        over, self._old, self._new = self._old, self._new, Hold()
        in_background(
            self._short(lambda: self._store.release(over)), "letting go of chunks", self._log
        )
        # A thread may just be at work with it: nothing may have come, and the timer goes on.
        self._timer = self._clock.callLater(KEPT, self._aged) if self._old.digests else None
