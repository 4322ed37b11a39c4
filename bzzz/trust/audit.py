"""The audit log of a node: events that concern security, in a file that shows what was done to it.

Enters: events, from the reactor's thread. Leaves: lines on the disk, written in order in another
thread; what could not be written is kept and written when it can be. docs/trust.rst, "Audit log".
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from bzzz.errors import LocalProtocolError
from bzzz.identity.keys import PrivateKey
from bzzz.net.background import after, in_background
from bzzz.net.interfaces import Clock
from bzzz.trust.audit_chain import Chain, Checkpoint, Value, rfc3339
from bzzz.trust.audit_events import clean, sum_key
from bzzz.trust.audit_file import MAX_FILE, AuditFile, Entry, Head, Notice

__all__ = ["CHECKPOINT_LINES", "CHECKPOINT_SECONDS", "AuditLog"]

# After so many lines, or so many seconds after the first line that is in none, a checkpoint is
# given to others (bzzz.trust.audit_streams). It costs a signature and a message of 500 bytes to
# each of two; what is younger can be cut off unnoticed.
CHECKPOINT_LINES = 32
CHECKPOINT_SECONDS = 60.0

# Events that wait for the disk, and those of them that are written at once. Each takes 1 kB, and
# signing one 50 us. Beyond: the newest are dropped, and a line says how many.
MAX_QUEUED = 4096
GROUP = 64

# Seconds between an attempt to write that failed and the next, doubling.
RETRY_FIRST = 1.0
RETRY_MOST = 60.0

# Seconds between two lines of events that are summed up, and how many sorts of them are told
# apart: four times the largest mesh. Beyond: the rest of a kind are summed up together.
SUM_SECONDS = 60.0
MAX_SUMS = 1024


class _Queued:
    """An event that waits."""

    __slots__ = ("done", "entry")

    def __init__(self, entry: Entry) -> None:
        self.entry = entry
        self.done: Deferred[bool] = Deferred(lambda done: done.callback(False))

    def fire(self, written: bool) -> None:
        """Tell who waits, unless that one has given up."""
        if not self.done.called:
            self.done.callback(written)


class _Sum:
    """Events that are summed up: how many there were since the last line, and the last of them."""

    __slots__ = ("count", "event", "fields", "timer")

    def __init__(self, event: str) -> None:
        self.event = event
        self.count = 0
        self.fields: Mapping[str, Value] = {}
        self.timer: IDelayedCall | None = None


class _Lost:
    """Events that were dropped because the queue was full."""

    __slots__ = ("count", "since", "until")

    def __init__(self, since: float) -> None:
        self.count = 0
        self.since = self.until = since

    def entry(self, now: float) -> Entry:
        """The line that says so."""
        fields: dict[str, Value] = {
            "lost": self.count,
            "since": rfc3339(self.since),
            "until": rfc3339(self.until),
        }
        return Entry("events_lost", fields, now)

    def and_then(self, later: _Lost) -> _Lost:
        """These and those that were dropped later."""
        self.count += later.count
        self.until = later.until
        return self


class AuditLog:
    """See the module. No method raises or blocks; what goes wrong is logged.

    :param path: of the file; others are beside it, see :mod:`bzzz.trust.audit_file`.
    :param key: signs.
    :param wall_time: seconds since the epoch.
    :param in_thread: runs a function in a thread.
    :param cluster: the ID of the node's cluster, for the first line of a new log.
    :param max_bytes: of a file, after which another is begun.
    """

    _log = Logger()

    def __init__(
        self,
        path: Path,
        key: PrivateKey,
        clock: Clock,
        wall_time: Callable[[], float],
        in_thread: Callable[[Callable[[], Any]], Deferred[Any]],
        cluster: str = "",
        max_bytes: int = MAX_FILE,
    ) -> None:
        self._path = path
        self._key = key
        self._clock = clock
        self._wall_time = wall_time
        self._in_thread = in_thread
        self._file = AuditFile(path, key, cluster, max_bytes)
        self._head: Head | None = None
        self._queue: deque[_Queued] = deque()
        self._lost: _Lost | None = None
        self._sums: dict[tuple[object, ...], _Sum] = {}
        self._started = False
        self._opened = False
        self._busy = False
        self._writing: Deferred[None] = succeed(None)
        self._retry: IDelayedCall | None = None
        self._delay = RETRY_FIRST
        self._problem = ""
        self._head_problem = ""
        self._closed = False
        self._observers: list[Callable[[], object]] = []

    # -- life

    def start(self) -> Deferred[None]:
        """Find the end of the log and write what has been recorded; call once.

        :return: fires when that was done, or could not be done and will be tried again.
        """
        self._started = True
        self._write()
        return after(self._writing)

    def close(self) -> Deferred[None]:
        """Write what is not yet written, once more if it failed before, and close the file."""
        return in_background(self._close(), "closing the audit log", self._log)

    async def _close(self) -> None:
        for total in self._sums.values():
            self._end_sum(total)
        self._sums.clear()
        self._closed = True
        await after(self._writing)
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
            self._write()
            await after(self._writing)
        lost = len(self._queue) + (self._lost.count if self._lost is not None else 0)
        if lost:
            self._log.error(
                "{count} events of the audit log {path} could not be written and are lost",
                count=lost,
                path=str(self._path),
            )
        for queued in self._queue:
            queued.fire(False)
        self._queue.clear()
        await self._in_thread(self._file.close)

    # -- for others of the node

    def record(self, event: str, **fields: object) -> Deferred[bool]:
        """Write down that something happened. Only what is in ``EVENTS`` can be told.

        :return: fires with True when the line is on the disk, and with False if the event gets no
            line of its own, because it is summed up or had to be dropped. While the disk takes
            nothing it does not fire. Nobody has to wait for it; cancelling it makes it False, and
            the event is written all the same.
        """
        try:
            cleaned = clean(event, fields)
            key = sum_key(event, cleaned)
        except LocalProtocolError:
            # What is audited must not fail because it is; tests fail by what is logged.
            self._log.failure("{event} was not recorded", Failure(), event=event)
            return succeed(False)
        if key is not None and self._is_summed(key, event, cleaned):
            return succeed(False)
        return self._enqueue(Entry(event, cleaned, self._wall_time()))

    def rotate_key(self, key: PrivateKey) -> Deferred[bool]:
        """Have the old key say that ``key`` follows it, and sign with that from then on.

        :return: as :meth:`record`'s.
        """
        fields = clean("key_rotated", {"new_key": str(key.peer_id)})
        # Also when the queue is full: without this line nothing after it would count.
        return self._append(Entry("key_rotated", fields, self._wall_time(), key))

    @property
    def head(self) -> Head | None:
        """The last line on the disk; None before the first."""
        return self._head

    def checkpoint(self) -> Checkpoint | None:
        """A checkpoint of the last line on the disk, signed now."""
        head = self._head
        if head is None:
            return None
        return Chain(self._key, head.seq, head.hash).checkpoint(self._wall_time())

    def on_written(self, callback: Callable[[], object]) -> None:
        """Have ``callback`` called whenever lines were written."""
        self._observers.append(callback)

    # -- summing up

    def _is_summed(self, key: tuple[object, ...], event: str, fields: Mapping[str, Value]) -> bool:
        """Whether the event is one of those that come as a sum later."""
        if key not in self._sums and len(self._sums) >= MAX_SUMS:
            key = (event,)
        total = self._sums.get(key)
        if total is None:
            total = self._sums[key] = _Sum(event)
            if not self._closed:
                total.timer = self._clock.callLater(SUM_SECONDS, self._sum_due, key)
            return False
        total.count += 1
        total.fields = fields
        return True

    def _sum_due(self, key: tuple[object, ...]) -> None:
        total = self._sums[key]
        if not total.count:
            del self._sums[key]
            return
        self._end_sum(total)
        total.timer = self._clock.callLater(SUM_SECONDS, self._sum_due, key)

    def _end_sum(self, total: _Sum) -> None:
        if total.timer is not None and total.timer.active():
            total.timer.cancel()
        if total.count:
            fields = {**total.fields, "count": total.count}
            total.count = 0
            self._enqueue(Entry(total.event, fields, self._wall_time()))

    # -- the queue

    def _enqueue(self, entry: Entry) -> Deferred[bool]:
        if self._closed:
            self._log.warn("{event} came after the audit log was closed", event=entry.event)
            return succeed(False)
        if self._lost is not None or len(self._queue) >= MAX_QUEUED:
            return self._drop(entry)
        return self._append(entry)

    def _append(self, entry: Entry) -> Deferred[bool]:
        queued = _Queued(entry)
        self._queue.append(queued)
        self._write()
        return queued.done

    def _drop(self, entry: Entry) -> Deferred[bool]:
        if self._lost is None:
            self._lost = _Lost(entry.time)
            self._log.error(
                "The queue of the audit log {path} is full: events are lost until it can be"
                " written again",
                path=str(self._path),
            )
        self._lost.count += 1
        self._lost.until = entry.time
        return succeed(False)

    def _write(self) -> None:
        """Write what is in the queue, unless that is being done or has to wait."""
        if not self._started or self._busy or self._retry is not None:
            return
        if self._queue or self._lost is not None or not self._opened:
            self._busy = True
            self._writing = in_background(self._work(), "writing the audit log", self._log)

    async def _work(self) -> None:
        try:
            while self._queue or self._lost is not None or not self._opened:
                if not await self._write_group():
                    if not self._closed:
                        self._retry = self._clock.callLater(self._delay, self._try_again)
                        self._delay = min(self._delay * 2, RETRY_MOST)
                    return
        finally:
            self._busy = False

    def _try_again(self) -> None:
        self._retry = None
        self._write()

    async def _write_group(self) -> bool:
        """Write the first events of the queue; whether that succeeded."""
        group = list(islice(self._queue, GROUP))
        entries = [queued.entry for queued in group]
        lost = self._lost if len(group) == len(self._queue) else None
        if lost is not None:
            # They came after all that is in the queue.
            self._lost = None
            entries.append(lost.entry(self._wall_time()))
        file, now = self._file, self._wall_time()
        try:
            notices = await self._in_thread(lambda: file.append(entries, now))
        except Exception as error:  # noqa: BLE001 - whatever it is, the events are kept
            self._failed(error)
            if lost is not None:
                self._lost = lost if self._lost is None else lost.and_then(self._lost)
            return False
        self._succeeded(notices)
        for queued in group:
            self._queue.popleft()
            self._key = queued.entry.next_key or self._key
            queued.fire(True)
        for observer in self._observers:
            observer()
        return True

    def _succeeded(self, notices: Sequence[Notice]) -> None:
        self._opened = True
        self._head = self._file.head
        self._delay = RETRY_FIRST
        for notice in notices:
            self._log.error("{words}", words=notice.words)
        if self._problem:
            self._problem = ""
            self._log.info("The audit log {path} is written again", path=str(self._path))
        if self._file.head_problem not in ("", self._head_problem):
            self._log.warn(
                "{problem}; a log that is cut off while the node is not running may not be noticed",
                problem=self._file.head_problem,
            )
        self._head_problem = self._file.head_problem

    def _failed(self, error: Exception) -> None:
        if not isinstance(error, OSError):
            self._log.failure("Writing the audit log failed", Failure(error))
        if str(error) == self._problem:
            return
        # Once, until it works again: a full disk stays full for a while.
        self._problem = str(error)
        words = error.strerror if isinstance(error, OSError) and error.strerror else error
        self._log.error(
            "{path} cannot be written: {error}. Up to {most} events are kept and written when it"
            " can be: make room on the disk, or let this node's user write to the file",
            path=str(getattr(error, "filename", None) or self._path),
            error=words,
            most=MAX_QUEUED,
        )
