"""Acting for the tasks that this node is a replica of (``docs/tasks.rst``, "Who drives").

Enters: records as this replica learns them, workers' reports, what owners want, time, links.
Leaves: changes of records, offers to workers. Whatever this does may be done by another replica at
the same time, or be interrupted at any point: the records are what counts.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from random import Random
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from bzzz.errors import BzzzError
from bzzz.identity.peer_id import PeerID
from bzzz.net.background import in_background
from bzzz.net.calls import NotAsked
from bzzz.net.periodic import Periodic
from bzzz.tasks import record as states
from bzzz.tasks.ballots import RESERVED, Ballot
from bzzz.tasks.interfaces import Peers, Placer
from bzzz.tasks.leases import grace
from bzzz.tasks.messages import MAX_RENEWED, Failed, Offer, Refused, Report, Settled, Stop
from bzzz.tasks.record import End, State, TaskState
from bzzz.tasks.records import Edit, Records
from bzzz.tasks.value import TaskRecord, peer_id

__all__ = ["CHANGE_SECONDS", "TICK", "Driver"]

# Seconds between two looks at what is assigned.
TICK: Final = 0.2

# Seconds for a change of a record; a majority that is there takes milliseconds.
CHANGE_SECONDS: Final = 10.0

# Seconds by which each replica waits for those before it to begin.
APART: Final = 0.5

# Seconds after a change that could not be made, doubled each time up to so many.
AGAIN: Final = 0.5
MAX_AGAIN: Final = 15.0

# Seconds between two messages to a worker that it is to stop an attempt.
STOP_AGAIN: Final = 1.0

# Seconds between two looks at all tasks.
CHECK: Final = 2.0

# Tasks that are looked at in one turn of the reactor: a few milliseconds.
LOOKS: Final = 200

# Seconds until other replicas are told that a task's end is decided, together with others.
SETTLE: Final = 0.25

# Seconds, times its place from 1, after which a replica that has accepted an end finds out whether
# it is decided.
CONFIRM: Final = 3.0

# Ended tasks of which it is remembered that they were settled: what comes later than that about
# them, from a slow disk, has hours.
MAX_OVER: Final = 10_000

# Ends that another replica has said are decided and that are not here yet; without its word each
# is found out about later, at the price of a round.
MAX_EARLY: Final = 10_000

# Seconds, times its place, after which a replica looks for a worker although one before it is
# linked: that one's disk may fail.
PATIENCE: Final = 30.0


class _Live:
    """A task that has not ended.

    :ivar record: the newest that is known.
    :ivar busy: whether something is being done for it.
    :ivar again: whether it is to be looked at when that is done.
    :ivar wanted: whether the placer has it: it lets go of it when it calls :meth:`Driver.place`.
    :ivar due: when this node closes its token, if nothing is heard.
    :ivar since: when the state was learnt.
    :ivar settled: whether the record is known to be decided.
    """

    __slots__ = (
        "again",
        "busy",
        "due",
        "place",
        "record",
        "settled",
        "since",
        "stop_at",
        "wait",
        "wanted",
    )

    def __init__(self, record: TaskRecord, place: int, now: float) -> None:
        self.record = record
        self.place = place
        self.busy = False
        self.again = False
        self.wanted = False
        self.settled = False
        self.wait = AGAIN
        self.due = 0.0
        self.stop_at = 0.0
        self.since = now


class Driver:
    """Drives the tasks of one replica.

    :param own: this node's peer ID.
    :param until_closed: seconds until this replica may close a task's token, 0 for now.
    :param told: is given each newer record, and whether it is known to be decided.
    """

    _log = Logger()

    def __init__(
        self,
        clock: IReactorTime,
        rng: Random,
        own: PeerID,
        records: Records,
        peers: Peers,
        placer: Placer,
        until_closed: Callable[[str, int, float], float],
        told: Callable[[TaskRecord, bool], object] = lambda record, settled: None,
    ) -> None:
        self._clock = clock
        self._rng = rng
        self._own = own
        self._own_text = str(own)
        self._records = records
        self._peers = peers
        self._placer = placer
        self._until_closed = until_closed
        self._told = told
        self._live: dict[str, _Live] = {}
        self._assigned: dict[str, _Live] = {}
        # The ballot and the version of records that were settled.
        self._over: OrderedDict[str, tuple[Ballot, int]] = OrderedDict()
        # By task and by who said so.
        self._early: OrderedDict[tuple[str, str], Ballot] = OrderedDict()
        self._settled: dict[str, list[tuple[str, Ballot]]] = {}
        self._settling: IDelayedCall | None = None
        self._sleeping: set[IDelayedCall] = set()
        self._stopped = False
        self._background = partial(in_background, log=self._log)
        self._ticking = Periodic(clock, TICK, self._tick, "looking at leases", self._log)
        self._checking = Periodic(clock, CHECK, self._check, "looking at tasks", self._log)

    def start(self) -> None:
        """Look at leases from now on."""
        self._ticking.start(now=False)
        self._checking.start(now=False)

    def stop(self) -> None:
        """Begin nothing more."""
        self._stopped = True
        self._ticking.stop()
        self._checking.stop()
        for call in [self._settling, *self._sleeping]:
            if call is not None and call.active():
                call.cancel()
        self._settling = None
        self._sleeping.clear()

    def __len__(self) -> int:
        return len(self._live)

    def known(self, task: str) -> TaskRecord | None:
        """The newest record of a task that has not ended, as far as this node knows."""
        live = self._live.get(task)
        return None if live is None else live.record

    def learnt(self, record: TaskRecord) -> None:
        """This replica has accepted a record. It may not be decided yet, or ever."""
        self._take(record, settled=record.has_ended and self._is_settled(record))

    def decided(self, record: TaskRecord) -> None:
        """A record was decided."""
        self._take(record, settled=True)

    def settled(self, peer: PeerID, tasks: Sequence[tuple[str, Ballot]]) -> None:
        """Another replica has these ended tasks' records decided.

        It may say so before this one has heard of them: it is asked to accept an end later than
        those who are needed for it.

        :param peer: who says so. Of a task that it does not keep it cannot know.
        """
        name = str(peer)
        for task, ballot in tasks:
            live = self._live.get(task)
            known = self._over.get(task, (RESERVED, 0))[0] if live is None else live.record.ballot
            if ballot > known:
                self._early[task, name] = ballot
                if len(self._early) > MAX_EARLY:
                    self._early.popitem(last=False)
            elif live is not None and ballot == known and name in live.record.submission.replicas:
                self.decided(live.record)

    def _is_settled(self, record: TaskRecord) -> bool:
        """Whether one of those that keep a task has said that its end is decided."""
        for each in record.submission.replicas:
            if self._early.get((record.task, each)) == record.ballot:
                del self._early[record.task, each]
                return True
        return False

    def _take(self, record: TaskRecord, settled: bool) -> None:
        task, replicas = record.task, record.submission.replicas
        over, version = self._over.get(task, (RESERVED, -1))
        if self._own_text not in replicas or record.ballot < over:
            return
        live = self._live.get(task)
        if live is None:
            if record.has_ended and not settled and record.state.version <= version:
                # This replica's own disk was slower than the others.
                return
            place = replicas.index(self._own_text)
            live = self._live[task] = _Live(record, place, self._clock.seconds())
        elif record.ballot < live.record.ballot or (
            record.ballot == live.record.ballot and (live.settled or not settled)
        ):
            return
        else:
            before, live.record = live.record.state, record
            if record.state != before:
                live.since, live.due, live.wait = self._clock.seconds(), 0.0, AGAIN
        live.settled = settled
        self._count(live)
        if record.has_ended and settled:
            self._forget(record)
        self._told(record, settled)
        if self._live.get(task) is live:
            self._look(live)

    def _count(self, live: _Live) -> None:
        """Tell the placer what a worker has to do."""
        record, state = live.record, live.record.state
        if state.state is State.ASSIGNED:
            self._assigned[record.task] = live
            mine = state.driver == self._own_text
            self._placer.assigned(record.submission, state.token, state.worker, mine)
        elif self._assigned.pop(record.task, None) is not None:
            self._placer.over(record.task)

    def links_changed(self) -> None:
        """Other members are linked than before: others may be the first now, and what could not be
        done without them is tried again."""
        for call in self._sleeping:
            call.reset(0)
        self._background(self._look_at_all(self._look_waiting), "looking at tasks")

    # -- what is asked of it

    async def create(self, record: TaskRecord, within: float, *, fresh: bool = True) -> TaskRecord:
        """Give a task its record, and offer it where it is assigned.

        :param fresh: see :meth:`bzzz.tasks.records.Records.create`. Only then it may be assigned:
            else somebody may have offered it already.
        :raises NoMajority: it is not known whether it has it.
        """
        offering: Deferred[Refused | None] | None = None
        state = record.state

        def asked() -> None:
            nonlocal offering
            if state.state is State.ASSIGNED:
                # Before the worker can tell what it has left with that.
                self._placer.assigned(record.submission, state.token, state.worker, True)
                # Behind what the replicas are asked to accept, so that it travels with that. Until
                # a majority has it on the disk, the worker gets no lease, and does not begin.
                offering = self._put(record)
            self._peers.send_now()

        creating = self._records.create(record, within, fresh=fresh, asked=asked if fresh else None)
        try:
            decided = await creating
            self.decided(decided)
        finally:
            if offering is not None and record.task not in self._assigned:
                self._placer.over(record.task)
        if offering is not None:
            offering.addCallback(self._offered, decided, state)
            self._background(offering, "offering a task")
        return decided

    def place(self, task: str, worker: str) -> bool:
        """Give a waiting task to a worker; whether that is tried."""
        live = self._live.get(task)
        if live is None:
            return False
        live.wanted = False
        if live.busy or self._stopped or live.record.state.state is not State.WAITING:
            # It is looked at again when that is over.
            live.again = True
            return False
        self._act(live, self._assign(live, worker))
        return True

    async def report(self, worker: PeerID, report: Report, record: TaskRecord) -> None:
        """Record that an attempt is over.

        :param record: of the task.
        :raises BzzzError: it is not known whether it was recorded.
        """
        peer = str(worker)

        def edit(state: TaskState) -> TaskState | None:
            if report.end is End.LOST:
                mine = state.worker == peer
                return (
                    states.lose(state, record.policy, report.token, report.reason) if mine else None
                )
            if report.end is End.REFUSED:
                return states.refuse(state, peer, report.token, report.reason)
            return states.finish(
                state,
                record.policy,
                peer,
                report.token,
                report.end,
                report.exit_status,
                report.reason,
                report.produced,
            )

        await self._change(record, edit)

    async def cancel(self, record: TaskRecord) -> TaskRecord:
        """Have a task end.

        :raises BzzzError: it is not known whether it was recorded.
        """
        return await self._change(record, states.cancel)

    async def retry(self, record: TaskRecord, token: int) -> TaskRecord:
        """Begin anew a task that ended with this as its greatest token.

        :raises BzzzError: it is not known whether it was recorded.
        """
        return await self._change(record, lambda state: states.retry(state, token))

    # -- inside

    async def _change(self, record: TaskRecord, edit: Edit, *, close: int = 0) -> TaskRecord:
        within = CHANGE_SECONDS + (grace(record.submission.lease) if close else 0.0)
        decided = await self._records.change(record, edit, within, close=close)
        if decided.has_ended and decided.ballot.place == self._place(decided):
            self._tell_settled(decided)
        self.decided(decided)
        return decided

    def _place(self, record: TaskRecord) -> int:
        return record.submission.replicas.index(self._own_text)

    def _forget(self, record: TaskRecord) -> None:
        live = self._live.pop(record.task, None)
        if live is not None and live.wanted:
            self._placer.drop(record.task)
        self._over[record.task] = (record.ballot, record.state.version)
        if len(self._over) > MAX_OVER:
            self._over.popitem(last=False)

    def _tell_settled(self, record: TaskRecord) -> None:
        """Tell the other replicas, together with what else is decided soon."""
        if self._stopped:
            return
        for each in record.submission.replicas:
            if each != self._own_text:
                self._settled.setdefault(each, []).append((record.task, record.ballot))
        if self._settling is None:
            self._settling = self._clock.callLater(SETTLE, self._settle)

    def _settle(self) -> None:
        self._settling = None
        waiting, self._settled = self._settled, {}
        for each, tasks in waiting.items():
            for start in range(0, len(tasks), MAX_RENEWED):
                some = Settled(tuple(tasks[start : start + MAX_RENEWED]))
                asking = self._peers.ask(peer_id(each), some)
                # Who does not hear it finds out by itself.
                asking.addErrback(lambda failure: failure.trap(BzzzError))

    def _is_mine(self, live: _Live, now: float) -> bool:
        """Whether this node is to act: no replica before it is linked, or those have not acted."""
        if now >= live.since + PATIENCE * live.place:
            return True
        linked = self._peers.linked()
        before = live.record.submission.replicas[: live.place]
        return not any(peer_id(each) in linked for each in before)

    def _look(self, live: _Live) -> None:
        """See what is to be done for a task now."""
        if live.busy:
            live.again = True
            return
        state = live.record.state
        if state.state is not State.WAITING:
            if live.wanted:
                live.wanted = False
                self._placer.drop(live.record.task)
            return
        mine = self._is_mine(live, self._clock.seconds())
        if mine and not live.wanted:
            live.wanted = True
            self._placer.want(live.record)
        elif not mine and live.wanted:
            live.wanted = False
            self._placer.drop(live.record.task)

    def _act(self, live: _Live, doing: Coroutine[Any, Any, None]) -> None:
        live.busy = True
        self._background(self._acting(live, doing), "acting for a task")

    async def _acting(self, live: _Live, doing: Coroutine[Any, Any, None]) -> None:
        task = live.record.task
        try:
            await doing
            live.wait = AGAIN
        except BzzzError as error:
            if self._stopped:
                return
            self._log.info("Task {task} has to wait: {error}", task=task, error=error)
            await self._sleep(live.wait)
            live.wait = min(2 * live.wait, MAX_AGAIN)
        finally:
            live.busy = False
        if self._live.get(task) is live and not self._stopped:
            live.again = False
            self._look(live)

    async def _assign(self, live: _Live, worker: str) -> None:
        token = live.record.state.token
        made = False

        def edit(state: TaskState) -> TaskState | None:
            nonlocal made
            assigned = states.assign(state, token, worker, self._own_text)
            made = made or assigned is not None
            return assigned

        decided = await self._change(live.record, edit)
        state = decided.state
        if (
            made
            and state.state is State.ASSIGNED
            and (state.token, state.worker, state.driver) == (token + 1, worker, self._own_text)
        ):
            self._offer(decided)

    def _offer(self, record: TaskRecord) -> None:
        """Offer a task to its worker: once, by whoever has assigned it."""
        if not record.state.cancel:
            offering = self._put(record).addCallback(self._offered, record, record.state)
            self._background(offering, "offering a task")

    def _put(self, record: TaskRecord) -> Deferred[Refused | None]:
        """Offer a task to its worker; fires with why it does not take it, if it does not."""
        state = record.state
        putting = self._peers.ask(peer_id(state.worker), Offer(record.signed, state.token))
        return putting.addCallbacks(_refusal, self._not_put, errbackArgs=(record,))

    def _not_put(self, failure: Failure, record: TaskRecord) -> Refused | None:
        if failure.check(NotAsked):
            # It has not heard of it, and never will.
            return Refused(failure.getErrorMessage())
        failure.trap(BzzzError)
        self._log.info(
            "It is not known whether {worker} runs task {task}: {error}",
            worker=record.state.worker,
            task=record.task,
            error=failure.value,
        )
        return None

    def _offered(self, refused: Refused | None, record: TaskRecord, offered: TaskState) -> None:
        """Take back what its worker refuses.

        :param record: the last that was decided.
        :param offered: the state with the token that was offered.
        """
        if refused is None:
            return
        worker, token, reason = offered.worker, offered.token, refused.reason
        self._placer.refused(record.submission, worker, reason, refused.for_good)
        self._background(
            self._until_changed(record, lambda last: states.refuse(last, worker, token, reason)),
            "recording a refusal",
        )

    async def _until_changed(self, record: TaskRecord, edit: Edit) -> None:
        """Make a change that nobody else would make soon; the lease's end makes up for it."""
        try:
            await self._change(record, edit)
        except BzzzError as error:
            self._log.info("Task {task} has to wait: {error}", task=record.task, error=error)

    def _tick(self) -> None:
        now = self._clock.seconds()
        for live in list(self._assigned.values()):
            if not live.busy:
                self._watch(live, now)

    async def _check(self) -> None:
        """Look at what waits for others, who may have forgotten it."""
        await self._look_at_all(self._look_again)

    async def _look_at_all(self, look: Callable[[_Live, float], None]) -> None:
        """Look at all tasks, some in each turn of the reactor."""
        every = list(self._live.values())
        for start in range(0, len(every), LOOKS):
            if start:
                await self._sleep(0.0)
            now = self._clock.seconds()
            for live in every[start : start + LOOKS]:
                if self._live.get(live.record.task) is live:
                    look(live, now)

    def _look_waiting(self, live: _Live, now: float) -> None:
        if live.record.state.state is State.WAITING:
            self._look(live)

    def _look_again(self, live: _Live, now: float) -> None:
        state = live.record.state.state
        if live.busy:
            return
        if state is State.WAITING:
            self._look(live)
        elif state is State.ENDED and now >= live.since + CONFIRM * (live.place + 1):
            self._act(live, self._confirm(live.record))

    async def _confirm(self, record: TaskRecord) -> None:
        """See whether an end that this replica has accepted is decided, and decide it if not."""
        await self._change(record, lambda state: None)

    def _watch(self, live: _Live, now: float) -> None:
        """Close the token of an attempt whose worker is not heard of."""
        record = live.record
        state = record.state
        left = self._until_closed(record.task, state.token, record.submission.lease)
        if left > 0:
            live.due = 0.0
            if state.cancel and now >= live.stop_at and self._is_mine(live, now):
                live.stop_at = now + STOP_AGAIN
                self._background(self._tell_stop(record), "stopping an attempt")
            return
        if not live.due:
            live.due = now + APART * (live.place + self._rng.random() * 0.5)
        if now < live.due:
            return
        live.due = 0.0
        self._act(live, self._lose(record))

    async def _lose(self, record: TaskRecord) -> None:
        token, worker = record.state.token, record.state.worker
        made = False

        def edit(state: TaskState) -> TaskState | None:
            nonlocal made
            lost = states.lose(state, record.policy, token, "it was not heard of any more")
            made = made or lost is not None
            return lost

        await self._change(record, edit, close=token)
        if made:
            self._placer.lost(worker)

    async def _tell_stop(self, record: TaskRecord) -> None:
        try:
            worker = peer_id(record.state.worker)
            await self._peers.ask(worker, Stop(record.task, record.state.token))
        except BzzzError as error:
            self._log.debug(
                "{worker} could not be told to stop task {task}: {error}",
                worker=record.state.worker,
                task=record.task,
                error=error,
            )

    async def _sleep(self, seconds: float) -> None:
        slept: Deferred[None] = Deferred()
        call = self._clock.callLater(seconds, slept.callback, None)
        self._sleeping.add(call)
        await slept
        self._sleeping.discard(call)


def _refusal(answer: object) -> Refused | None:
    if isinstance(answer, Failed):
        return Refused(answer.reason)
    return answer if isinstance(answer, Refused) else None
