"""Chunks that are not here, from whom of several peers has them (``docs/tasks.rst``, "Files").

Enters: a manifest's digest, peers in the order in which they are asked. Leaves: all its chunks in
the cache; or an error that says what is missing, and what each peer has said. What has come is not
asked for again, however often links are lost meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from bzzz.errors import BzzzError, NegotiationError, RemoteProtocolError
from bzzz.identity.peer_id import PeerID
from bzzz.net.interfaces import Clock
from bzzz.net.link import Link
from bzzz.tasks.files.chunk_asking import Wanted, ask
from bzzz.tasks.files.chunk_store import ChunkStore, Hold
from bzzz.tasks.files.errors import BadManifest, FilesError, Missing
from bzzz.tasks.files.manifest import Chunk, File, Manifest, chunks_of
from bzzz.tasks.files.stored import Stored, load, load_parts

__all__ = ["AGAIN", "PATIENCE", "Fetching", "Progress"]

# Seconds until peers whose links were lost are asked again.
AGAIN = 1.0

# Seconds that a fetch goes on which gets no chunk: a link that broke is there again by then, or its
# peer is gone.
PATIENCE = 30.0

Progress = Callable[[int, int], object]
"""Is told how many bytes are here, and how many there are in all."""


class Fetching:
    """One fetch.

    :param hold: gets the chunks.
    :param in_thread: calls what blocks on the disk.
    :param link_to: the link of a peer, None where it has none.
    :param name_of: what a peer is called.
    """

    def __init__(
        self,
        store: ChunkStore,
        hold: Hold,
        clock: Clock,
        in_thread: Callable[[Callable[[], Any]], Deferred[Any]],
        link_to: Callable[[PeerID], Link | None],
        offended: Callable[[Link, RemoteProtocolError], object],
        name_of: Callable[[PeerID], str],
        peers: Sequence[PeerID],
        progress: Progress,
    ) -> None:
        self._store = store
        self._hold = hold
        self._clock = clock
        self._in_thread = in_thread
        self._link_to = link_to
        self._offended = offended
        self._name_of = name_of
        self._peers = list(dict.fromkeys(peers))
        self._progress = progress
        self._done = 0
        self._total = 0
        self._moved_at = clock.seconds()
        # What each peer has said last.
        self._said: dict[PeerID, str] = {}

    async def run(self, digest: bytes) -> Stored:
        """Fetch a manifest, and all that it names.

        :raises Missing: nobody has all of it.
        :raises FilesError: it has no room here, or is not what can be unpacked.
        """
        what = f"the list of files {digest.hex()}"
        await self._get([(digest, None)], lambda absent: what)
        parts: list[Chunk] = await self._in_thread(lambda: load_parts(self._store, digest))
        await self._get([*parts], lambda absent: what)
        stored: Stored = await self._in_thread(lambda: load(self._store, digest))
        await self._in_thread(lambda: self._store.check_room(stored.chunks))
        self._total = sum(chunk.size for chunk in stored.chunks)
        absent = set(await self._absent(stored.chunks))
        self._done = sum(chunk.size for chunk in stored.chunks if chunk.digest not in absent)
        self._progress(self._done, self._total)
        await self._get(
            [*stored.chunks], lambda absent: f"{_files(stored.manifest, absent)} of {digest.hex()}"
        )
        return stored

    async def _absent(self, wanted: Sequence[Wanted]) -> list[bytes]:
        digests = [digest for digest, _ in wanted]
        absent: list[bytes] = await self._in_thread(lambda: self._store.hold(self._hold, digests))
        return absent

    async def _get(
        self, wanted: Sequence[Wanted], what: Callable[[Collection[bytes]], str]
    ) -> None:
        """Have these here.

        :param what: says what some of them are, in a thread.
        """
        # A chunk may be in it twice.
        wanted = list(dict(wanted).items())
        # Those who may have something that others lack, though they have not answered.
        left = list(self._peers)
        self._moved_at = self._clock.seconds()
        while True:
            lost = []
            for peer in left:
                absent = set(await self._absent(wanted))
                if not absent:
                    return
                asked = [each for each in wanted if each[0] in absent]
                self._said[peer], again = await self._ask(peer, asked)
                if again:
                    lost.append(peer)
                    # The next time it is asked after those who have answered.
                    self._peers.remove(peer)
                    self._peers.append(peer)
            absent = set(await self._absent(wanted))
            if not absent:
                return
            left = lost
            waited = self._clock.seconds() - self._moved_at
            if not left or waited + AGAIN > PATIENCE:
                raise self._missing(len(absent), await self._in_thread(partial(what, absent)))
            # One who was lost is asked for what the others lack.
            await deferLater(self._clock, AGAIN)  # type: ignore[arg-type]  # all that it uses

    async def _ask(self, peer: PeerID, wanted: Sequence[Wanted]) -> tuple[str, bool]:
        """What a peer says, and whether it is to be asked again."""
        link = self._link_to(peer)
        if link is None:
            return "it is not linked", True
        try:
            lacks = await ask(
                link, wanted, partial(self._put, dict(wanted)), self._got, self._clock
            )
        except FilesError:
            raise
        except RemoteProtocolError as error:
            self._offended(link, error)
            self._peers.remove(peer)
            return f"it broke the rules: {error}", False
        except NegotiationError as error:
            return str(error), False
        except BzzzError as error:
            return str(error), True
        return f"it lacks {len(lacks)}", False

    def _put(
        self, sizes: dict[bytes, int | None], digest: bytes, pieces: list[bytes]
    ) -> Deferred[Any]:
        def work() -> None:
            # Joined here, where it does not keep the reactor.
            data = b"".join(pieces)
            self._store.put(data, self._hold, digest)
            size = sizes[digest]
            if size is not None and size != len(data):
                raise BadManifest(
                    f"a chunk of {len(data)} bytes is one of {size} in the list of files; whoever"
                    " made the list is to be asked"
                )

        return self._in_thread(work)

    def _got(self, size: int) -> None:
        self._moved_at = self._clock.seconds()
        if self._total:
            self._done += size
            self._progress(self._done, self._total)

    def _missing(self, count: int, what: str) -> Missing:
        told = "; ".join(f"{self._called(peer)}: {words}" for peer, words in self._said.items())
        chunks = f"{count} chunk" + "s" * (count != 1)
        return Missing(
            f"{chunks} of {what} cannot be had" + (f" ({told})" if told else ": nobody may have it")
        )

    def _called(self, peer: PeerID) -> str:
        return self._name_of(peer) or str(peer)


def _files(manifest: Manifest, absent: Collection[bytes]) -> str:
    """The files that some chunks are of; one by its path, and how many others."""
    paths = [
        entry.path
        for entry in manifest.entries
        if isinstance(entry, File)
        and any(chunk.digest in absent for chunk in chunks_of(entry.digests, entry.size))
    ]
    first = repr(paths[0]) if paths[0] else "the file"
    return first + (f" and {len(paths) - 1} more files" if len(paths) > 1 else "")
