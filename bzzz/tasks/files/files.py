"""What others use of this package: files in and out of a node (``docs/tasks.rst``, "Files").

Enters: files and directories of this machine, digests of manifests. Leaves: digests, and files. A
manifest is named by its first chunk's digest in hex, as in a task's inputs. Chunks are in the cache
only for as long as it has room, but those of what is pinned stay.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from twisted.internet.defer import Deferred, DeferredLock, DeferredSemaphore
from twisted.logger import Logger

from bzzz.identity.peer_id import PeerID
from bzzz.net.background import in_background
from bzzz.net.interfaces import Clock
from bzzz.net.swarm import Swarm
from bzzz.tasks.files.chunk_store import ChunkStore, Hold
from bzzz.tasks.files.chunk_streams import ChunkStreams
from bzzz.tasks.files.errors import BadManifest, FilesError
from bzzz.tasks.files.fetching import Fetching, Progress
from bzzz.tasks.files.globs import Globs
from bzzz.tasks.files.manifest import DIGEST_SIZE
from bzzz.tasks.files.packing import Packed, collect, pack
from bzzz.tasks.files.stored import load
from bzzz.tasks.files.unpacking import unpack
from bzzz.tasks.files.uploads import Uploads

__all__ = ["Files", "Packed"]

# Chunks that are read or written at once: as many as keep a disk busy, and few of the threads that
# all of the node has.
SHORT = 4

# Chunks that are fsynced before others have a turn at the disk: a second of a slow one.
SYNCED = 64

# Files and directories that are packed or unpacked at once, each in a thread for as long as it
# takes. Others wait.
LONG = 2

# Fetches at once. Each has some ten chunks in memory. Others wait.
FETCHES = 4

T = TypeVar("T")


class _Pin:
    """Why what a manifest names stays.

    :ivar count: how many need it.
    :ivar hold: the chunks.
    :ivar whole: whether they are all of them; else they are not known yet.
    """

    def __init__(self) -> None:
        self.count = 0
        self.hold = Hold()
        self.whole = False


class Files:
    """The files of one node.

    :ivar uploads: chunks that a program of this machine sends or reads.

    What a Deferred of :meth:`pack`, :meth:`collect` or :meth:`fetch` has told of stays at least
    until its callbacks have returned: who needs it for longer calls :meth:`pin` there.

    :param directory: of the cache.
    :param quota: bytes of the cache.
    :param in_thread: calls a function in a thread.
    :param admits: whether a peer is a member, who may have what is here.
    :param name_of: what a peer is called.
    """

    _log = Logger()

    def __init__(
        self,
        swarm: Swarm,
        clock: Clock,
        directory: Path,
        quota: int,
        in_thread: Callable[[Callable[[], Any]], Deferred[Any]],
        admits: Callable[[PeerID], bool],
        name_of: Callable[[PeerID], str] = lambda peer: "",
    ) -> None:
        self._swarm = swarm
        self._clock = clock
        self._thread = in_thread
        self._name_of = name_of
        self._store = ChunkStore(directory, quota)
        self._short_gate = DeferredSemaphore(SHORT)
        self._long_gate = DeferredSemaphore(LONG)
        self._fetch_gate = DeferredSemaphore(FETCHES)
        self._pins: dict[str, _Pin] = {}
        self._locks: dict[str, DeferredLock] = {}
        self._fetches: set[Deferred[None]] = set()
        self._stopped = False
        self.uploads = Uploads(clock, self._store, self._short)
        self._streams = ChunkStreams(swarm, clock, self._read, admits)

    @property
    def used(self) -> int:
        """Bytes of the cache that are taken."""
        return self._store.used

    def start(self) -> Deferred[None]:
        """Find what is in the cache.

        Fails with a StoreError if it cannot be used.
        """
        return self._short(self._store.open)

    def limit(self, quota: int) -> Deferred[None]:
        """Have another quota from now on: what is over it is dropped, but nothing that is pinned.

        Fails with a StoreError.
        """
        return self._short(lambda: self._store.limit(quota))

    def stop(self) -> None:
        """Serve nothing more; fetches are cancelled, and packing ends soon, with an error."""
        self._stopped = True
        self._streams.stop()
        self.uploads.stop()
        for fetching in list(self._fetches):
            fetching.cancel()

    def pack(self, path: Path) -> Deferred[Packed]:
        """Copy a file or directory into the cache.

        Fails with a PackError that names a file which cannot be read, changes meanwhile or is a
        link to outside, or with a StoreError.
        """
        return self._packed(lambda hold: pack(self._store, path, hold, self._is_stopped))

    def collect(self, directory: Path, globs: Sequence[str]) -> Deferred[Packed]:
        """Copy what patterns match below a directory into the cache, as a directory.

        A pattern has ``*``, ``?`` and ``[...]``, and ``**`` for any directories or none. No link is
        followed. What cannot be packed is left out; the result says what, and which patterns
        matched nothing. Fails with a PackError or StoreError.
        """

        def work(hold: Hold) -> Packed:
            return collect(self._store, directory, Globs(globs), hold, self._is_stopped)

        return self._packed(work)

    def fetch(
        self, digest: str, peers: Sequence[PeerID], progress: Progress = lambda done, total: None
    ) -> Deferred[None]:
        """Have what a manifest names in the cache.

        :param peers: who may have it, in the order in which they are asked. This node's own ID may
            be among them.
        :param progress: is told of bytes that are here, and of those that there are.
        :return: fires when all is here. Fails with Missing, which names what nobody has and what
            each has said, with a StoreError where there is no room, or with a BadManifest.
            Cancelling it ends the streams.
        """
        return self._fetched(digest, Deferred.fromCoroutine(self._fetch(digest, peers, progress)))

    def sync(self, digest: str) -> Deferred[None]:
        """Have what a manifest names outlive a power cut; it is to be pinned.

        Fails with ChunkMissing if not all of it is in the cache, or what is there was damaged; with
        a BadManifest, or with a StoreError if the disk fails.
        """
        return Deferred.fromCoroutine(self._sync(digest))

    def unpack(self, digest: str, into: Path, name: str) -> Deferred[None]:
        """Write files that are in the cache.

        :param into: a directory.
        :param name: path below it of the file or directory; ``.`` for a directory's content.
        :return: fires when all is written. Fails with an UnpackError that names the place, with
            ChunkMissing if not all is in the cache, or with a BadManifest.
        """

        def work() -> None:
            stored = load(self._store, _raw(digest))
            unpack(self._store, stored.manifest, into, name, self._is_stopped)

        return self._long(work)

    def has(self, digest: str) -> Deferred[bool]:
        """Whether all that a manifest names is in the cache."""

        def work() -> bool:
            try:
                stored = load(self._store, _raw(digest))
            except FilesError:
                return False
            return all(map(self._store.has, stored.digests))

        return self._short(work)

    def pin(self, digest: str) -> Deferred[None]:
        """Have what a manifest names stay, once it is here, until :meth:`unpin` as many times.

        Pins are not kept on disk: after a restart they are to be made again.

        :return: fires when what is here stays.
        """
        pin = self._pinned(digest)

        def work() -> None:
            if pin.whole:
                return
            raw = _raw(digest)
            self._store.hold(pin.hold, [raw])
            try:
                stored = load(self._store, raw)
            except FilesError:
                # It is not here yet; the fetch that brings it shares this pin.
                return
            self._store.hold(pin.hold, stored.digests)
            pin.whole = True

        return in_background(self._short(work), "pinning files", self._log)

    def unpin(self, digest: str) -> None:
        """Take back one :meth:`pin`."""
        pin = self._pins[digest]
        pin.count -= 1
        if not pin.count:
            del self._pins[digest]
            self._release(pin.hold)

    # -- inside

    def _packed(self, work: Callable[[Hold], Packed]) -> Deferred[Packed]:
        return _told(
            Deferred.fromCoroutine(self._pack(work)), lambda packed: self.unpin(packed.digest)
        )

    async def _pack(self, work: Callable[[Hold], Packed]) -> Packed:
        hold = Hold()
        try:
            packed: Packed = await self._long(lambda: work(hold))
        except BaseException:
            self._release(hold)
            raise
        pin = self._pinned(packed.digest)
        if pin.count == 1:
            pin.hold = hold
        else:
            # It is pinned already, perhaps by one who waits for it.
            try:
                await self._short(lambda: self._store.hold(pin.hold, list(hold.digests)))
            except BaseException:
                self.unpin(packed.digest)
                raise
            finally:
                self._release(hold)
        pin.whole = True
        return packed

    async def _sync(self, digest: str) -> None:
        stored = await self._short(lambda: load(self._store, _raw(digest)))
        digests = stored.digests
        for start in range(0, len(digests), SYNCED):
            some = digests[start : start + SYNCED]
            await self._short(partial(self._store.sync, some))
        await self._short(lambda: self._store.sync_names(digests))

    def _fetched(self, digest: str, fetching: Deferred[None]) -> Deferred[None]:
        self._fetches.add(fetching)

        def over(_: None) -> None:
            self.unpin(digest)

        def ended(result: Any) -> Any:
            self._fetches.discard(fetching)
            return result

        return _told(fetching.addBoth(ended), over)

    async def _fetch(self, digest: str, peers: Sequence[PeerID], progress: Progress) -> None:
        pin = self._pinned(digest)
        # One fetch of the same at a time: the next one finds all of it here.
        lock = self._locks.setdefault(digest, DeferredLock())
        try:
            async with lock, self._fetch_gate:
                fetching = Fetching(
                    self._store,
                    pin.hold,
                    self._clock,
                    self._short,
                    self._swarm.links.get,
                    self._streams.offended,
                    self._name_of,
                    [peer for peer in peers if peer != self._swarm.peer_id],
                    progress,
                )
                await fetching.run(_raw(digest))
                pin.whole = True
        except BaseException:
            self.unpin(digest)
            raise
        finally:
            if not (lock.locked or lock.waiting):
                self._locks.pop(digest, None)

    def _pinned(self, digest: str) -> _Pin:
        pin = self._pins.setdefault(digest, _Pin())
        pin.count += 1
        return pin

    def _release(self, hold: Hold) -> None:
        in_background(self._short(lambda: self._store.release(hold)), "unpinning files", self._log)

    def _read(self, digest: bytes) -> Deferred[bytes]:
        return self._short(lambda: self._store.get(digest))

    def _short(self, work: Callable[[], T]) -> Deferred[T]:
        return self._short_gate.run(self._thread, work)

    def _long(self, work: Callable[[], T]) -> Deferred[T]:
        return self._long_gate.run(self._thread, work)

    def _is_stopped(self) -> bool:
        return self._stopped


def _raw(digest: str) -> bytes:
    """A digest's bytes.

    :raises BadManifest: it is none.
    """
    try:
        raw = bytes.fromhex(digest)
    except ValueError:
        raw = b""
    if len(raw) != DIGEST_SIZE:
        raise BadManifest(f"{digest!r} is no digest: it has {2 * DIGEST_SIZE} hexadecimal digits")
    return raw


def _told(work: Deferred[T], over: Callable[[T], object]) -> Deferred[T]:
    """What ``work`` brings, and ``over`` once those who were told of it have returned."""
    told: Deferred[T] = Deferred(lambda _: work.cancel())

    def done(result: T) -> None:
        told.callback(result)
        over(result)

    work.addCallbacks(done, told.errback)
    return told
