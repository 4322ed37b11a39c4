"""One replica of many registers: what it answers, and which leases it grants.

Enters: requests, and workers that want their leases renewed. Leaves: answers, when they are on the
disk. Requests that come while the disk is busy are written together. docs/tasks.rst, "The register"
and "Leases".
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeVar

from twisted.internet.defer import Deferred, fail
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from bzzz.database import DatabaseError
from bzzz.errors import BzzzError
from bzzz.tasks.acceptor import Kept
from bzzz.tasks.askers import Asker, Denied, has_place
from bzzz.tasks.ballots import Accept, Accepted, Answer, Ballot, Prepare, Request
from bzzz.tasks.leases import MAX_LEASE, Grants
from bzzz.tasks.register_store import Answered, Asked, RegisterStore

__all__ = ["MAX_ASKED", "AskerDenied", "Current", "Replica", "ReplicaBusy"]

# Requests that wait for the disk. A disk that syncs writes some thousands a second, so these are
# seconds of work, after which who asks has long asked again.
MAX_ASKED = 10_000

# Requests of one write, so that those after them are not kept waiting by one long one.
MAX_BATCH = 500


T = TypeVar("T")

# Seconds after which it is tried whether a disk that could not be written can be.
TRY_AGAIN = 10.0

# Registers that are taken in one turn of the reactor at the start: a few milliseconds.
LOADED = 100


class ReplicaBusy(BzzzError):
    """Too many requests wait for this replica's disk."""


class AskerDenied(BzzzError):
    """Who asks may not."""


class Current(NamedTuple):
    """The attempt that a value says is current.

    :ivar worker: peer ID of whom it was given to. Until it is decided, two workers may have been
        given one token.
    :ivar lease: seconds.
    :ivar replicas: peer IDs of those that keep the task.
    """

    token: int
    worker: str
    lease: float
    replicas: tuple[str, ...] = ()


class _Live(NamedTuple):
    current: Current
    closed: int


class Replica:
    """The registers of one node.

    :param clock: whose time goes on while the machine sleeps, or its leases would.
    :param current: tells of a value which attempt is current; None: none is. It may raise a
        BzzzError for what it cannot read.
    :param learnt: is told what this replica has accepted, and at its start what it had.
    :param broken: is told why the disk cannot be trusted any more: this process is to end.
    """

    _log = Logger()

    def __init__(
        self,
        store: RegisterStore,
        clock: IReactorTime,
        current: Callable[[bytes], Current | None],
        learnt: Callable[[str, Kept], object] = lambda task, kept: None,
        broken: Callable[[str], object] = lambda reason: None,
    ) -> None:
        self._store = store
        self._clock = clock
        self._current = current
        self._told = learnt
        self._disk_broken = broken
        self._grants = Grants(clock.seconds())
        # What leases are granted by: of tasks that have a current attempt.
        self._live: dict[str, _Live] = {}
        # Tokens that somebody wants closed. That they are not may be known once the disk has said
        # so; until then nobody is granted a lease that a promise on its way out denies.
        self._closing: dict[str, int] = {}
        self._waiting: list[tuple[Asked, Deferred[Answer]]] = []
        # The last request to accept a value of those whose answer is still to come.
        self._accepting: dict[str, Deferred[Answer]] = {}
        self._is_writing = False
        self._failed_at = float("-inf")
        self._reason = ""

    @property
    def problem(self) -> str:
        """Why nothing can be kept, for people; empty where it can, and to have it tried again."""
        return self._reason if self._clock.seconds() < self._failed_at + TRY_AGAIN else ""

    async def load(self) -> None:
        """Read what is on the disk; to be called before anything else.

        :raises DatabaseError: it cannot be read.
        """
        loaded = await self._store.load()
        for number, (task, kept) in enumerate(loaded.items(), 1):
            self._learn(task, kept)
            self._tell(task, kept)
            if number % LOADED == 0:
                await deferLater(self._clock, 0)

    def ask(self, task: str, request: Request, asker: Asker | None = None) -> Deferred[Answer]:
        """Answer a request. Fires when the answer may be sent.

        Fails with an AskerDenied if it may not be answered, with a ReplicaBusy if too many wait,
        and with a DatabaseError if it is not known whether it is on the disk; nothing may be
        answered then.

        :param asker: None: whoever it is may.
        """
        if len(self._waiting) >= MAX_ASKED:
            return fail(ReplicaBusy(f"{MAX_ASKED} requests wait for the disk of this replica"))
        answered: Deferred[Answer] = Deferred()
        self._waiting.append((Asked(task, request, asker=asker), answered))
        if isinstance(request, Accept):
            self._accepting[task] = answered
        if not self._is_writing:
            # At the end of this turn, with what else comes in it, and behind what it sends.
            self._is_writing = True
            self._clock.callLater(0, self._write)
        return answered

    def decided(self, task: str, ballot: Ballot) -> None:
        """The end that was accepted with this ballot is known to be decided; see
        :meth:`bzzz.tasks.register_store.RegisterStore.decided`."""
        self._store.decided(task, ballot)

    def renew(self, task: str, worker: str, token: int) -> bool:
        """Whether a worker's lease of a token is granted.

        :param worker: its peer ID, which its link has proved.
        """
        live = self._live.get(task)
        if live is None or live.current[:2] != (token, worker):
            return False
        if token <= max(live.closed, self._closing.get(task, 0)):
            return False
        self._grants.grant(task, token, self._clock.seconds())
        return True

    def accepting(self, task: str) -> Deferred[None] | None:
        """Fires when what this replica was asked to accept for a task is on the disk, or could not
        be written; None: nothing is being written."""
        writing = self._accepting.get(task)
        if writing is None:
            return None
        written: Deferred[None] = Deferred()

        def over(result: T) -> T:
            written.callback(None)
            return result

        writing.addBoth(over)
        return written

    def until_closed(self, task: str, token: int, lease: float) -> float:
        """Seconds for which this replica may not close a token, 0 if it may."""
        return self._grants.until_closed(task, token, lease, self._clock.seconds())

    def _write(self) -> None:
        """Write what waits, as long as something does."""
        batch, self._waiting = self._waiting[:MAX_BATCH], self._waiting[MAX_BATCH:]
        self._is_writing = bool(batch)
        if not batch:
            return
        asked = [self._timed(each) for each, _ in batch]
        writing = self._store.ask(asked)
        writing.addCallbacks(
            self._written, self._failed, callbackArgs=(batch,), errbackArgs=(batch,)
        )
        writing.addErrback(self._broken, batch)

    def _timed(self, asked: Asked) -> Asked:
        """With how long the token cannot be closed; if it can, it is granted no more."""
        task, request, _, asker = asked
        if not isinstance(request, Prepare) or not request.close:
            return asked
        live = self._live.get(task)
        if live is None or live.current.token > request.close:
            # It grants no lease of a token that it has not heard of, or that has a successor here.
            return asked
        if asker is not None and not has_place(live.current.replicas, request.ballot, asker.peer):
            # It will be denied; what it wants closed is not.
            return asked
        # A greater token is closed with all before it, of which one may be in use.
        token, lease = live.current.token, live.current.lease
        now = self._clock.seconds()
        until = self._grants.until_closed(task, token, min(lease, MAX_LEASE), now)
        if until == 0.0:
            self._closing[task] = max(request.close, self._closing.get(task, 0))
        return Asked(task, request, until, asker)

    def _written(
        self, answers: list[Answered], batch: list[tuple[Asked, Deferred[Answer]]]
    ) -> None:
        now = self._clock.seconds()
        self._reason = ""
        for (asked, _), answered in zip(batch, answers, strict=True):
            # What was to be closed is, or is not, as it is kept.
            self._closing.pop(asked.task, None)
            begun = self._learn(asked.task, answered.kept)
            if begun:
                self._grants.grant(asked.task, begun, now)
        self._write()
        for (asked, waiting), answered in zip(batch, answers, strict=True):
            self._is_written(asked.task, waiting)
            if isinstance(answered.answer, Denied):
                waiting.errback(AskerDenied(answered.answer.reason))
                continue
            waiting.callback(answered.answer)
            if isinstance(answered.answer, Accepted):
                self._tell(asked.task, answered.kept)

    def _failed(self, failure: Failure, batch: list[tuple[Asked, Deferred[Answer]]]) -> None:
        # What was to be closed stays so in memory: it may be on the disk.
        error = failure.value
        if isinstance(error, DatabaseError):
            if not self._reason:
                self._log.error("Records of tasks cannot be kept: {reason}", reason=str(error))
            self._reason, self._failed_at = str(error), self._clock.seconds()
            if error.is_lasting:
                self._disk_broken(str(error))
        self._write()
        for asked, waiting in batch:
            self._is_written(asked.task, waiting)
            waiting.errback(failure)

    def _broken(self, failure: Failure, batch: list[tuple[Asked, Deferred[Answer]]]) -> None:
        """A mistake of ours, which is not to keep all other tasks waiting."""
        self._log.failure("What a replica has written could not be told of", failure)
        for asked, waiting in batch:
            self._is_written(asked.task, waiting)
            if not waiting.called:
                waiting.errback(failure)
        self._write()

    def _is_written(self, task: str, waiting: Deferred[Answer]) -> None:
        """What was to be accepted is on the disk, or could not be written."""
        if self._accepting.get(task) is waiting:
            del self._accepting[task]

    def _tell(self, task: str, kept: Kept) -> None:
        try:
            self._told(task, kept)
        except BzzzError as error:
            self._log.warn("The record of {task} cannot be read: {error}", task=task, error=error)

    def _current_of(self, value: bytes) -> Current | None:
        """What is current by a value; nothing by one that cannot be read, as of a newer version."""
        try:
            return self._current(value)
        except BzzzError:
            return None

    def _learn(self, task: str, kept: Kept) -> int:
        """Take what is kept of a task; returns the token that is new by that, or 0."""
        current = self._current_of(kept.value) if kept.accepted is not None else None
        if current is None:
            self._live.pop(task, None)
            self._grants.forget(task)
            return 0
        before = self._live.get(task)
        self._live[task] = _Live(current, kept.closed)
        same = before is not None and before.current == current
        return 0 if same else current.token
