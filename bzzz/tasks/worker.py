"""Running attempts on this machine, as long as their leases last (``docs/tasks.rst``, "Leases").

Enters: offers, grants of replicas, how runs ended. Leaves: renewals and reports to replicas, runs
to the executor. An attempt holds its lease from before its command begins until its result is
recorded, so that nobody begins the next one in between.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from enum import Enum
from functools import partial
from typing import Final

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from bzzz.errors import BzzzError, RemoteProtocolError
from bzzz.identity.peer_id import PeerID
from bzzz.net.alarms import Alarm, Alarms
from bzzz.net.background import in_background
from bzzz.tasks.executors.interfaces import Ending, IExecutor, Over, Run
from bzzz.tasks.interfaces import Peers, Workspace
from bzzz.tasks.leases import Lease
from bzzz.tasks.messages import (
    MAX_RENEWED,
    Answer,
    Done,
    Failed,
    Granted,
    Refused,
    Renew,
    Report,
    Request,
    Taken,
)
from bzzz.tasks.nearest import nearest
from bzzz.tasks.proposer import majority
from bzzz.tasks.record import End, Produced, shorten
from bzzz.tasks.submission import SignedSubmission, Submission, digest
from bzzz.tasks.value import peer_id

__all__ = ["Admit", "Worker"]

# Renewals in the time of one lease: two may be lost.
RENEWALS: Final = 3

# Seconds after which a lease that has not begun is asked for again: a replica may hear of the
# record a moment later than the worker.
ASK_AGAIN: Final = 0.1

# Seconds from SIGTERM to SIGKILL of an attempt that is cancelled.
STOP_GRACE: Final = 10.0

# Seconds between two tries to report, doubled each time up to so many.
REPORT_AGAIN: Final = 0.2
MAX_REPORT_AGAIN: Final = 15.0

# Seconds for which all replicas may answer that they cannot record an end, as while their disks are
# full; its files stay as long, see bzzz.tasks.holding.
GIVE_UP: Final = 600.0

# Tasks of which the last token offered is remembered; an offer is sent once, so a second one that
# comes later than this many others would be very late.
MAX_SEEN: Final = 100_000

Admit = Callable[[PeerID, Submission], Refused | dict[str, str]]
"""Counts an attempt in: what is missing, or the variables that say what was taken for it."""


class _Phase(Enum):
    PREPARING = 1
    RUNNING = 2
    COLLECTING = 3
    REPORTING = 4


class _Attempt:
    """One attempt of a task on this machine.

    :ivar digest: tells its submission from any other.
    :ivar asked_for: when its lease is to be asked for again.
    :ivar denied: places of the replicas whose last word was no.
    :ivar run: what is to be run, once that is prepared.
    :ivar stopping: whether a cancel was told.
    :ivar lost: whether others may have it: its lease is not wanted any more.
    :ivar counted: whether it takes of the machine what it needs.
    :ivar near: the replicas that are asked first, see :func:`bzzz.tasks.nearest.nearest`; then all.
    :ivar left: places of those that were not asked first, until all are.
    """

    def __init__(self, digest: bytes, submission: Submission, token: int) -> None:
        self.digest = digest
        self.submission = submission
        self.task = submission.task
        self.token = token
        self.key = f"{submission.task}.{token}"
        self.replicas = [peer_id(each) for each in submission.replicas]
        self.lease = Lease(len(self.replicas), submission.lease)
        self.phase = _Phase.PREPARING
        self.asked_for = float("-inf")
        self.denied: set[int] = set()
        self.run: Run | None = None
        self.stopping = False
        self.lost = False
        self.counted = True
        self.near: set[PeerID] = set()
        self.left: list[int] = []
        self.expiry: Alarm | None = None

    def asks(self, replica: PeerID) -> bool:
        """Whether a replica is asked for the lease now."""
        return not self.near or replica in self.near


class Worker:
    """The attempts of one node.

    :param clock: whose time goes on while the machine sleeps.
    :param admit: see :data:`Admit`; asked once per attempt.
    :param give_back: what was taken for an attempt, by its task, is free again.
    :param over: called when an attempt's command runs no more.
    """

    _log = Logger()

    def __init__(
        self,
        clock: IReactorTime,
        own: PeerID,
        peers: Peers,
        executor: IExecutor,
        workspace: Workspace,
        admit: Admit,
        give_back: Callable[[str], object],
        over: Callable[[str, int], object] = lambda task, token: None,
    ) -> None:
        self._clock = clock
        self._alarms = Alarms(clock)
        self._own = own
        self._peers = peers
        self._executor = executor
        self._workspace = workspace
        self._admit = admit
        self._give_back = give_back
        self._is_over = over
        self._attempts: dict[str, _Attempt] = {}
        # The greatest token that was offered of each task, and with which submission.
        self._seen: OrderedDict[str, tuple[int, bytes]] = OrderedDict()
        self._timer: IDelayedCall | None = None
        self._renew_at = 0.0
        self._calls: set[IDelayedCall] = set()
        self._idle: list[Deferred[None]] = []
        self._closing = False
        self._stopped = False
        self._background = partial(in_background, log=self._log)

    def __len__(self) -> int:
        return len(self._attempts)

    def runs(self, task: str) -> int:
        """The token of the task's attempt here, 0 for none."""
        attempt = self._attempts.get(task)
        return 0 if attempt is None else attempt.token

    def is_running(self, task: str, token: int) -> bool:
        """Whether the attempt runs here, or is about to."""
        attempt = self._attempts.get(task)
        return (
            attempt is not None
            and attempt.token == token
            and attempt.phase in (_Phase.PREPARING, _Phase.RUNNING)
        )

    def offer(
        self, peer: PeerID, signed: SignedSubmission, submission: Submission, token: int
    ) -> Taken | Refused:
        """Begin an attempt, or say why not.

        :param peer: who offers it.
        :param submission: of ``signed``, whose signature and origin were looked at.
        """
        task = submission.task
        offered = digest(signed)
        before, seen = self._seen.get(task, (0, offered))
        if seen != offered:
            # A submitter may give a task of its own the ID of another's. What one has left here is
            # not to be taken for the other's.
            return Refused("another task with its ID was run here", for_good=True)
        if token <= before:
            # What was offered before was taken or refused then. To refuse it now could end an
            # attempt that runs.
            return Taken()
        if self._closing or self._stopped:
            return Refused("the node stops")
        if task in self._attempts:
            return Refused("an older attempt of the task has not ended here yet")
        attempt = _Attempt(offered, submission, token)
        admitted = self._admit(peer, submission)
        if isinstance(admitted, Refused):
            return admitted
        self._seen[task] = (token, offered)
        self._seen.move_to_end(task)
        if len(self._seen) > MAX_SEEN:
            self._seen.popitem(last=False)
        attempt.near = nearest(attempt.replicas, peer, self._own)
        self._attempts[task] = attempt
        env = {**admitted, "BZZZ_TASK": task, "BZZZ_FENCING_TOKEN": str(token)}
        # What does not begin within the time of its lease will have been given to others.
        self._expire_in(attempt, submission.lease)
        self._prepare(attempt, env)
        if len(self._attempts) > 1:
            # With what else is offered in this turn.
            self._renew_soon(0.0)
        else:
            self._renew()
        return Taken()

    def stop_attempt(self, peer: PeerID, task: str, token: int) -> None:
        """A cancel is recorded: end the attempt, if it is here.

        :param peer: who says so.
        :raises RemoteProtocolError: it is none of the task's replicas.
        """
        attempt = self._attempts.get(task)
        if attempt is None or attempt.token != token:
            return
        if peer not in attempt.replicas:
            raise RemoteProtocolError(f"{peer} does not keep the task that it stops", "stop")
        if attempt.stopping:
            return
        attempt.stopping = True
        if attempt.phase is _Phase.RUNNING:
            self._executor.stop(attempt.key, STOP_GRACE)
        elif attempt.phase is _Phase.PREPARING:
            self._end(attempt, End.CANCELLED, reason="it was cancelled before it began")

    def close(self) -> None:
        """Begin nothing more: the executor is about to kill what runs, which is told as lost."""
        self._closing = True
        for attempt in [*self._attempts.values()]:
            if attempt.phase is _Phase.PREPARING:
                self._end(attempt, End.LOST, reason="the node stopped before it could begin")

    def drain(self) -> Deferred[None]:
        """Fires when no attempt is left, and the ends of all are recorded."""
        idle: Deferred[None] = Deferred()
        self._idle.append(idle)
        self._look_idle()
        return idle

    def stop(self) -> None:
        """Take nothing more, and renew no lease: what runs is killed by the executor."""
        self._stopped = True
        for attempt in self._attempts.values():
            if attempt.expiry is not None:
                attempt.expiry.cancel()
        for call in [self._timer, *self._calls]:
            if call is not None and call.active():
                call.cancel()
        self._timer = None
        self._calls.clear()
        self._alarms.tidy()

    # -- beginning

    def _prepare(self, attempt: _Attempt, env: dict[str, str]) -> None:
        preparing = self._workspace.prepare(attempt.submission, attempt.token, env)
        preparing.addErrback(self._not_prepared, attempt)
        self._background(preparing.addCallback(self._prepared, attempt), "preparing an attempt")

    def _not_prepared(self, failure: Failure, attempt: _Attempt) -> None:
        # An attempt that nobody ends would keep its lease.
        reason = self._why(failure, attempt)
        if self._is_here(attempt, _Phase.PREPARING):
            self._end(attempt, End.FAILED, reason=reason)

    def _prepared(self, run: Run | None, attempt: _Attempt) -> None:
        attempt.run = run
        if self._attempts.get(attempt.task) is attempt:
            self._begin(attempt)
        else:
            # Its end was recorded meanwhile, and files came after they had been removed.
            self._workspace.clean(attempt.task, attempt.token)

    def _begin(self, attempt: _Attempt) -> None:
        """Run the command, when there is all that it needs."""
        if not self._is_here(attempt, _Phase.PREPARING) or attempt.run is None or self._stopped:
            return
        until = attempt.lease.until
        if until <= self._clock.seconds():
            return
        attempt.phase = _Phase.RUNNING
        self._executor.start(attempt.run, until, lambda over: self._over(attempt, over))

    def _is_here(self, attempt: _Attempt, phase: _Phase) -> bool:
        return self._attempts.get(attempt.task) is attempt and attempt.phase is phase

    # -- leases

    def _renew_soon(self, seconds: float) -> None:
        at = self._clock.seconds() + seconds
        if self._timer is not None:
            if self._renew_at <= at:
                return
            self._timer.cancel()
        self._renew_at = at
        self._timer = self._clock.callLater(seconds, self._renew)

    def _renew(self) -> None:
        """Ask the replicas for what is due, all of one replica in one message."""
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None
        now = self._clock.seconds()
        # What has no lease yet apart: a replica may have to write something before it answers that.
        asked: dict[tuple[PeerID, bool], list[tuple[_Attempt, int]]] = {}
        soonest = float("inf")
        for attempt in self._attempts.values():
            if attempt.lost:
                continue
            every = attempt.submission.lease / RENEWALS
            holds = attempt.lease.until > now
            if not holds:
                every = min(every, ASK_AGAIN)
            # What is due soon is asked for with the others.
            if now >= attempt.asked_for + every / 2:
                attempt.asked_for = now
                attempt.left = []
                for place, replica in enumerate(attempt.replicas):
                    if attempt.asks(replica):
                        asked.setdefault((replica, holds), []).append((attempt, place))
                    else:
                        attempt.left.append(place)
                attempt.near = set()
            soonest = min(soonest, attempt.asked_for + every)
        for (replica, _), attempts in asked.items():
            for start in range(0, len(attempts), MAX_RENEWED):
                self._ask_for(replica, attempts[start : start + MAX_RENEWED], now)
        self._peers.send_now()
        if soonest < float("inf") and not self._stopped:
            self._renew_soon(max(0.0, soonest - now))

    def _ask_for(self, replica: PeerID, attempts: list[tuple[_Attempt, int]], now: float) -> None:
        renew = Renew(tuple((attempt.task, attempt.token) for attempt, _ in attempts))
        asking = self._peers.ask(replica, renew)
        asking.addCallbacks(
            self._granted,
            self._not_asked,
            callbackArgs=(attempts, now),
            errbackArgs=(attempts,),
        )

    def _not_asked(self, failure: Failure, attempts: list[tuple[_Attempt, int]]) -> None:
        """Who cannot be asked grants nothing."""
        failure.trap(BzzzError)
        self._ask_others([attempt for attempt, _ in attempts])

    def _ask_others(self, attempts: list[_Attempt]) -> None:
        """Ask those that were not asked first, as one of the others does not grant its lease: the
        record is sent to them then, too."""
        now = self._clock.seconds()
        asked: dict[PeerID, list[tuple[_Attempt, int]]] = {}
        for attempt in attempts:
            left, attempt.left = attempt.left, []
            if attempt.lost or self._stopped or self._attempts.get(attempt.task) is not attempt:
                continue
            for place in left:
                asked.setdefault(attempt.replicas[place], []).append((attempt, place))
        for replica, some in asked.items():
            self._ask_for(replica, some, now)
        if asked:
            self._peers.send_now()

    def _granted(self, answer: Answer, attempts: list[tuple[_Attempt, int]], asked: float) -> None:
        if self._stopped:
            return
        if not isinstance(answer, Granted) or len(answer.granted) != len(attempts):
            self._ask_others([attempt for attempt, _ in attempts])
            return
        denied = []
        for (attempt, place), granted in zip(attempts, answer.granted, strict=True):
            if self._attempts.get(attempt.task) is not attempt:
                continue
            if not granted:
                attempt.denied.add(place)
                self._denied(attempt)
                denied.append(attempt)
                continue
            attempt.denied.discard(place)
            before = attempt.lease.until
            attempt.lease.granted(place, asked)
            if attempt.lease.until > before:
                self._extended(attempt)
        self._ask_others(denied)

    def _extended(self, attempt: _Attempt) -> None:
        until = attempt.lease.until
        if until <= self._clock.seconds():
            return
        if attempt.phase is _Phase.PREPARING:
            self._begin(attempt)
        elif attempt.phase is _Phase.RUNNING:
            self._executor.extend(attempt.key, until)

    def _denied(self, attempt: _Attempt) -> None:
        """A majority says that the token is not current: nobody will take its result."""
        if len(attempt.denied) < majority(len(attempt.replicas)):
            return
        if attempt.phase is _Phase.RUNNING:
            self._executor.stop(attempt.key, 0.0)

    def _expire_in(self, attempt: _Attempt, seconds: float) -> None:
        """See then whether it has begun, or has a lease that is longer."""
        attempt.expiry = self._alarms.call_later(seconds, partial(self._expired, attempt))

    def _expired(self, attempt: _Attempt) -> None:
        """The lease has ended. What runs is killed by the executor, which says so."""
        if not self._is_here(attempt, _Phase.PREPARING):
            return
        left = attempt.lease.until - self._clock.seconds()
        if left > 0:
            self._expire_in(attempt, left)
        else:
            self._end(attempt, End.LOST, reason="its lease ended before it could begin")

    # -- ending

    def _over(self, attempt: _Attempt, over: Over) -> None:
        """The run has ended, and nothing of it is left."""
        if not self._is_here(attempt, _Phase.RUNNING):
            return
        end = _ends(over, attempt.stopping)
        if end is End.LOST:
            self._end(attempt, end, reason=over.reason)
            return
        attempt.phase = _Phase.COLLECTING
        self._free(attempt)
        self._background(self._collect(attempt, over, end), "ending an attempt")

    async def _collect(self, attempt: _Attempt, over: Over, end: End) -> None:
        produced: Produced | None = None
        reason = over.reason
        try:
            produced = await self._workspace.collect(attempt.submission, attempt.token)
        except Exception as error:  # noqa: BLE001 - likewise
            why = self._why(Failure(error), attempt)
            if end is End.DONE:
                end, reason = End.FAILED, why
        if self._is_here(attempt, _Phase.COLLECTING):
            report = self._ending(attempt, end, over.exit_status, reason, produced)
            await self._report(attempt, report)

    def _why(self, failure: Failure, attempt: _Attempt) -> str:
        if failure.check(BzzzError) is not None:
            return str(failure.value)
        self._log.failure("The files of {attempt}: a flaw", failure, attempt=attempt.key)
        return f"a flaw of the node, which its log has: {failure.value!r}"

    def _end(self, attempt: _Attempt, end: End, *, reason: str) -> None:
        report = self._ending(attempt, end, None, reason, None)
        self._background(self._report(attempt, report), "reporting the end of an attempt")

    def _ending(
        self,
        attempt: _Attempt,
        end: End,
        exit_status: int | None,
        reason: str,
        produced: Produced | None,
    ) -> Report:
        attempt.phase = _Phase.REPORTING
        attempt.lost = end is End.LOST
        self._free(attempt)
        return Report(
            attempt.task,
            attempt.token,
            end,
            exit_status,
            shorten(reason),
            produced,
            attempt.digest,
        )

    def _free(self, attempt: _Attempt) -> None:
        if attempt.counted:
            attempt.counted = False
            self._give_back(attempt.task)
            self._is_over(attempt.task, attempt.token)

    async def _report(self, attempt: _Attempt, report: Report) -> None:
        """Tell the replicas, one after the other, until one has it in the record.

        Not for ever where all answer that they cannot record it: they may have no such task. What
        was lost and never had the word of a replica may be a task that was never kept: once is
        enough, as the replicas find out by themselves.
        """
        wait = REPORT_AGAIN
        give_up = float("inf")
        while not self._stopped:
            answers = []
            for replica in attempt.replicas:
                answers.append(await self._told(replica, report))
                if isinstance(answers[-1], Done):
                    self._forget(attempt)
                    return
            if self._stopped:
                return
            now = self._clock.seconds()
            refused = [each.reason for each in answers if isinstance(each, Failed)]
            give_up = min(give_up, now + GIVE_UP) if len(refused) == len(answers) else float("inf")
            if report.end is End.LOST and not attempt.lease.has_grant:
                give_up = now
            if now >= give_up:
                self._log.info(
                    "No replica of {attempt} records that it is {end}: {reasons}",
                    attempt=attempt.key,
                    end=report.end.value,
                    reasons="; ".join(dict.fromkeys(refused)) or "none can be asked",
                )
                self._forget(attempt)
                return
            await self._sleep(wait)
            wait = min(2 * wait, MAX_REPORT_AGAIN)

    async def _told(self, replica: PeerID, report: Request) -> Answer | None:
        """What a replica answers; None where it cannot be asked."""
        try:
            asking = self._peers.ask(replica, report)
            self._peers.send_now()
            answer = await asking
        except BzzzError as error:
            self._log.debug("{peer} could not be told: {error}", peer=replica, error=error)
            return None
        return answer

    def _forget(self, attempt: _Attempt) -> None:
        if attempt.expiry is not None:
            attempt.expiry.cancel()
        if self._attempts.get(attempt.task) is attempt:
            del self._attempts[attempt.task]
        self._workspace.clean(attempt.task, attempt.token)
        self._look_idle()

    def _look_idle(self) -> None:
        if not self._attempts:
            waiting, self._idle = self._idle, []
            for idle in waiting:
                idle.callback(None)

    async def _sleep(self, seconds: float) -> None:
        slept: Deferred[None] = Deferred()
        call = self._clock.callLater(seconds, slept.callback, None)
        self._calls.add(call)
        await slept
        self._calls.discard(call)


def _ends(over: Over, stopping: bool) -> End:
    """What an attempt's end is to its task."""
    match over.ending:
        case Ending.EXITED:
            return End.DONE if over.exit_status == 0 else End.FAILED
        case Ending.TIMED_OUT:
            return End.TIMED_OUT
        case Ending.NOT_STARTED | Ending.OVER_LIMIT:
            return End.FAILED
        case Ending.STOPPED if stopping:
            return End.CANCELLED
        case _:
            return End.LOST
