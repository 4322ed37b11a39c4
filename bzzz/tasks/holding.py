"""Files of tasks at more than one member (``docs/tasks.rst``, "Files").

Enters: files that a task reads or has put out, replicas, what they are asked. Leaves: files that
are on the disk of this node and of one replica beside it, so that one of them may be lost before
whoever needs them has come. They stay here for :data:`HELD` s: until then the task's record, or its
workflow's, says that they are needed (:mod:`bzzz.tasks.input_pins`).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final
from typing import Protocol as Shape

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from bzzz.errors import BzzzError
from bzzz.identity.peer_id import PeerID
from bzzz.net.background import in_background
from bzzz.tasks.files.errors import ChunkMissing
from bzzz.tasks.files.fetching import Progress
from bzzz.tasks.interfaces import Peers
from bzzz.tasks.messages import Answer, Coming, Done, Failed, Hold
from bzzz.tasks.record import shorten
from bzzz.tasks.submission import peer_id

__all__ = ["HELD", "Copied", "HeldFiles", "Holding", "NotHeld"]

# Seconds that files stay for which no record was heard of: a worker whose replicas cannot decide
# tries for that long to have its result recorded, and loses nothing.
HELD: Final = 600.0

# Files that stay so at once; each has a pin and a timer. Beyond, those that came first stay only as
# long as the cache has room.
MAX_HELD: Final = 4096

# Of these, those that are not here yet. Beyond, it is refused, and another replica is asked.
MAX_COMING: Final = 256

# Seconds after which a replica says how far it is, and is asked again.
ANSWER: Final = 2.0

# Seconds between two questions, from an answer that came sooner.
ASK_AGAIN: Final = 0.2

# Seconds for which a replica may say that it has got no more. It gives up by itself after half of
# that without a chunk, but may have to wait for its turn before.
STALLED: Final = 60.0

# Seconds in which files that came are taken to be here without a look at the cache.
FRESH: Final = 5.0

# Seconds until replicas that could not hold files are asked again, doubled each time up to so many.
AGAIN: Final = 0.5
MAX_AGAIN: Final = 15.0

STOPS: Final = "the node stops"

# Is told which replica gets files, how many bytes it has, and how many there are.
Copied = Callable[[str, int, int], object]


class NotHeld(BzzzError):
    """Files are not where they have to be; says what each member said."""


class HeldFiles(Shape):
    """Files that travel; :class:`bzzz.tasks.files.files.Files` is one."""

    def pin(self, digest: str) -> Deferred[None]:
        """Have what a manifest names stay."""

    def unpin(self, digest: str) -> None:
        """Take back one pin."""

    def has(self, digest: str) -> Deferred[bool]:
        """Whether all that a manifest names is in the cache."""

    def fetch(
        self, digest: str, peers: Sequence[PeerID], progress: Progress = ...
    ) -> Deferred[None]:
        """Have what a manifest names in the cache."""

    def sync(self, digest: str) -> Deferred[None]:
        """Have it outlive a power cut."""


class _Held:
    """What a manifest names, and is to be here.

    :ivar pinned: whether it stays.
    :ivar coming: whether it is being brought here.
    :ivar since: when it was seen to be here last.
    :ivar reason: why it is not.
    :ivar waiting: who wants to know when that is over.
    """

    def __init__(self) -> None:
        self.pinned = False
        self.coming = False
        self.since = float("-inf")
        self.done = 0
        self.total = 0
        self.reason = ""
        self.waiting: set[Deferred[None]] = set()
        self.ends: IDelayedCall | None = None


class Holding:
    """The files that this node holds for others, and has others hold.

    :param own: this node's peer ID.
    :param name_of: what the member with a peer ID is called.
    """

    _log = Logger()

    def __init__(
        self,
        clock: IReactorTime,
        own: PeerID,
        peers: Peers,
        files: HeldFiles,
        name_of: Callable[[str], str],
    ) -> None:
        self._name_of = name_of
        self._clock = clock
        self._own = own
        self._peers = peers
        self._files = files
        self._held: OrderedDict[str, _Held] = OrderedDict()
        self._coming = 0
        self._calls: set[IDelayedCall] = set()
        self._stopped = False

    def stop(self) -> None:
        """Do nothing more."""
        self._stopped = True
        for call in [*self._calls, *(held.ends for held in self._held.values())]:
            if call is not None and call.active():
                call.cancel()
        self._calls.clear()

    async def share(
        self,
        task: str,
        files: Sequence[str],
        replicas: Sequence[str],
        told: Copied = lambda peer, done, total: None,
        patience: float = 0.0,
    ) -> None:
        """Have files on the disk of this node, and of a replica that is another one.

        :param files: digests of manifests.
        :param replicas: peer IDs; the first that is linked is asked first.
        :param patience: seconds in which all are asked again.
        :raises NotHeld: it is not so.
        """
        files = list(dict.fromkeys(files))
        others = [each for each in map(peer_id, replicas) if each != self._own]
        reason = await self._hold_all(files, others)
        if reason:
            raise NotHeld(reason)
        if not others:
            return
        end, wait = self._clock.seconds() + patience, AGAIN
        while True:
            said = []
            linked = self._peers.linked()
            for peer in sorted(others, key=lambda each: each not in linked):
                try:
                    await self._have(peer, Hold(task, tuple(files)), partial(told, str(peer)))
                except BzzzError as error:
                    said.append(str(error))
                else:
                    return
            if self._clock.seconds() >= end:
                raise NotHeld(
                    "no other member that keeps the task could take its files:"
                    f" {'; '.join(dict.fromkeys(said))}"
                )
            await self._sleep(wait)
            wait = min(2 * wait, MAX_AGAIN)

    async def hold(self, peer: PeerID, request: Hold) -> Answer:
        """Answer a member that has files."""
        over = Deferred.fromCoroutine(self._hold_all(request.files, [peer]))
        late = self._clock.callLater(ANSWER, over.cancel)
        try:
            reason = await over
        except CancelledError:
            known = [self._held[digest] for digest in request.files if digest in self._held]
            return Coming(sum(each.done for each in known), sum(each.total for each in known))
        finally:
            if late.active():
                late.cancel()
        return Failed(shorten(reason)) if reason else Done()

    # -- inside

    async def _hold_all(self, files: Sequence[str], sources: Sequence[PeerID]) -> str:
        """Why files are not here; "" when they are. Who waits no more does not end it."""
        if self._stopped:
            return STOPS
        begun = []
        for digest in dict.fromkeys(files):
            held = self._begin(digest, sources)
            if held is None:
                return f"{MAX_COMING} other files are on their way there already"
            begun.append(held)
        reasons = {await self._until_here(held): None for held in begun}
        return "; ".join(filter(None, reasons))

    def _begin(self, digest: str, sources: Sequence[PeerID]) -> _Held | None:
        """Have something come, if it is not here; None if too much comes already."""
        held = self._held.get(digest)
        if held is None:
            if self._coming >= MAX_COMING:
                return None
            held = self._held[digest] = _Held()
        self._stay(digest, held)
        if not held.coming and self._clock.seconds() >= held.since + FRESH:
            held.coming = True
            self._coming += 1
            in_background(self._bring(digest, held, sources), "bringing files here", self._log)
        return held

    async def _until_here(self, held: _Held) -> str:
        if held.coming:
            waiting: Deferred[None] = Deferred()
            held.waiting.add(waiting)
            try:
                await waiting
            finally:
                held.waiting.discard(waiting)
        return held.reason

    async def _bring(self, digest: str, held: _Held, sources: Sequence[PeerID]) -> None:
        held.reason = STOPS
        try:
            if not held.pinned:
                held.pinned = True
                await self._files.pin(digest)
            await self._fetch(digest, held, sources)
            held.since = self._clock.seconds()
            held.reason = ""
        except BzzzError as error:
            held.reason = str(error)
        finally:
            held.coming = False
            self._coming -= 1
            if held.reason:
                self._forget(digest, held)
            for each in list(held.waiting):
                each.callback(None)
        self._keep_few()

    async def _fetch(self, digest: str, held: _Held, sources: Sequence[PeerID]) -> None:
        def progress(done: int, total: int) -> None:
            held.done, held.total = done, total

        # A fetch may have to wait for others, which what is here need not.
        if not await self._files.has(digest):
            await self._files.fetch(digest, sources, progress)
        try:
            await self._files.sync(digest)
        except ChunkMissing:
            # A chunk was damaged, and is gone now: it may be had once more.
            await self._files.fetch(digest, sources, progress)
            await self._files.sync(digest)

    def _stay(self, digest: str, held: _Held) -> None:
        if held.ends is not None and held.ends.active():
            held.ends.cancel()
        self._held.move_to_end(digest)
        held.ends = self._clock.callLater(HELD, self._ended, digest, held)

    def _ended(self, digest: str, held: _Held) -> None:
        if held.coming:
            self._stay(digest, held)
        else:
            self._forget(digest, held)

    def _keep_few(self) -> None:
        while len(self._held) > MAX_HELD:
            digest = next((each for each, held in self._held.items() if not held.coming), None)
            if digest is None:
                return
            self._forget(digest, self._held[digest])

    def _forget(self, digest: str, held: _Held) -> None:
        if held.ends is not None and held.ends.active():
            held.ends.cancel()
        if self._held.get(digest) is held:
            del self._held[digest]
        if held.pinned:
            held.pinned = False
            self._files.unpin(digest)

    async def _have(self, peer: PeerID, question: Hold, told: Callable[[int, int], object]) -> None:
        """Have a replica hold files.

        :raises BzzzError: it does not.
        """
        name = self._name_of(str(peer))
        last, moved = (-1, -1), self._clock.seconds()
        while True:
            asked = self._clock.seconds()
            answer = await self._peers.ask(peer, question)
            if isinstance(answer, Done):
                return
            if isinstance(answer, Failed):
                raise NotHeld(f"{name}: {answer.reason}")
            if not isinstance(answer, Coming):
                raise NotHeld(f"{name}: an answer of another kind")
            now = self._clock.seconds()
            if (answer.done, answer.total) != last:
                last, moved = (answer.done, answer.total), now
                told(*last)
            elif now >= moved + STALLED:
                raise NotHeld(f"{name}: it got no more for {STALLED:g} s")
            await self._sleep(max(0.0, asked + ASK_AGAIN - now))

    async def _sleep(self, seconds: float) -> None:
        slept: Deferred[Any] = Deferred()
        call = self._clock.callLater(seconds, slept.callback, None)
        self._calls.add(call)
        try:
            await slept
        finally:
            self._calls.discard(call)
            if call.active():
                call.cancel()
