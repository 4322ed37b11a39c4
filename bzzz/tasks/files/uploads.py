"""Chunks that a program of this machine puts into the cache, or is to read from it.

Enters: chunks, one by one, whose manifest may come last. Leaves: chunks that stay for
:data:`KEPT` seconds at least, by when a task that needs them has pinned them; but not those of a
user whose files turn out to have no room, as nobody will submit them. docs/tasks.rst, "Files".
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from bzzz.net.background import in_background
from bzzz.net.interfaces import Clock
from bzzz.tasks.files.chunk_store import MAX_CHUNKS, ChunkStore, Hold
from bzzz.tasks.files.errors import ChunkMissing, StoreError
from bzzz.tasks.files.stored import load

__all__ = ["KEPT", "Uploads"]

# Seconds that a chunk stays after it came; up to twice as long, as they are let go together.
KEPT: Final = 600.0

T = TypeVar("T")


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
        # By the user who has sent it.
        self._new: dict[int, Hold] = {}
        self._old: dict[int, Hold] = {}
        self._timer: IDelayedCall | None = None

    def missing(self, user: int, digests: Sequence[bytes]) -> Deferred[list[bytes]]:
        """Those of some chunks that are not here; the others stay.

        Fails with a StoreError if too many stay already.

        :param user: who asks, as a number.
        """
        hold = self._hold(user)

        def work() -> list[bytes]:
            # What is only asked for is held, too, until it comes: a name costs memory.
            if len(hold.digests) + len(digests) > MAX_CHUNKS:
                raise StoreError(
                    f"more than {MAX_CHUNKS} chunks were sent in a short time; try again in"
                    f" {2 * KEPT / 60:g} minutes"
                )
            return self._store.hold(hold, digests)

        return self._sent(user, work)

    def put(self, user: int, digest: bytes, data: bytes) -> Deferred[bytes]:
        """Keep a chunk.

        Fails with WrongChunk if it is another one, with a StoreError where there is no room.
        """
        hold = self._hold(user)
        return self._sent(user, lambda: self._store.put(data, hold, digest))

    def put_all(self, user: int, chunks: Sequence[bytes]) -> Deferred[None]:
        """Keep some chunks, whatever they are called.

        Fails with a StoreError where there is no room.
        """
        hold = self._hold(user)

        def work() -> None:
            for data in chunks:
                self._store.put(data, hold)

        return self._sent(user, work)

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

    def keep(self, user: int, digest: str) -> Deferred[None]:
        """Have what a manifest names stay. Fails with ChunkMissing if not all is here."""
        hold = self._hold(user)

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

    def _hold(self, user: int) -> Hold:
        if self._timer is None:
            self._timer = self._clock.callLater(KEPT, self._aged)
        return self._new.setdefault(user, Hold())

    def _sent(self, user: int, work: Callable[[], T]) -> Deferred[T]:
        """Take what a user sends; where that fails, the rest will not be submitted either."""

        def failed(failure: Failure) -> Failure:
            if failure.check(StoreError):
                holds = [holds.pop(user) for holds in (self._old, self._new) if user in holds]
                self._let_go(holds)
            return failure

        return self._short(work).addErrback(failed)

    def _aged(self) -> None:
        over, self._old, self._new = self._old, self._new, {}
        self._let_go(list(over.values()))
        self._timer = self._clock.callLater(KEPT, self._aged) if self._old else None

    def _let_go(self, holds: Sequence[Hold]) -> None:
        def work() -> None:
            for hold in holds:
                self._store.release(hold)

        in_background(self._short(work), "letting go of chunks", self._log)
