"""Finding workers for this node's tasks, as members and what is free on them change.

Enters: tasks that wait, what is told of members, who was given what, and how it ended. Leaves:
placements, and for each member why a task does not go there. docs/tasks.rst, "Placement"; the
deciding is in :mod:`bzzz.tasks.waiting` and :mod:`bzzz.tasks.placement`.

What is free on a member is what it said last, without what it was given since, and with what of
its tasks ended since, as far as this node keeps their records.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from random import Random
from typing import Final

import msgspec
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from bzzz.tasks.placement import Candidate, Outlook, Unfit, Wanted, choose, judge, outlook, suited
from bzzz.tasks.quarantine import Quarantine, Standing
from bzzz.tasks.record import Attempt, End
from bzzz.tasks.requirements import compile as compile_requirement
from bzzz.tasks.slots import Need, Room
from bzzz.tasks.submission import Submission
from bzzz.tasks.value import TaskRecord
from bzzz.tasks.waiting import Waiting

__all__ = ["Placing"]

# Seconds for which a member that has refused is given nothing, if it does not say what is free;
# doubled each time that it refuses and has said nothing, up to so many. What it lacks may be
# something else than room, such as a disk that can be written.
AVOID: Final = 1.0
MAX_AVOID: Final = 30.0
REFUSED: Final = "it has refused a task, and has not said since what is free"

# The same for one that was not heard of. A link to a machine that vanished is noticed to be dead
# within 10 s, to a process that hangs within 20.
AVOID_SILENT: Final = 30.0
SILENT: Final = "it was not heard of any more when it had a task, and has said nothing since"

# Attempts of which it is remembered that their end was counted.
MAX_COUNTED: Final = 10_000


class _Sum:
    """Needs together."""

    __slots__ = ("cpus", "gpus", "memory", "tasks")

    def __init__(self) -> None:
        self.cpus = 0.0
        self.memory = 0
        self.gpus = 0
        self.tasks = 0

    def add(self, need: Need, times: int = 1) -> None:
        self.cpus += times * need.cpus
        self.memory += times * need.memory
        self.gpus += times * need.gpus
        self.tasks += times


class _Member:
    """What this node knows of a member.

    :ivar told: as the member said last.
    :ivar refusals: how often it has refused since.
    """

    __slots__ = ("_before", "_ended", "_given", "_now", "_offered", "_since", "refusals", "told")

    def __init__(self, told: Candidate) -> None:
        # What it was given before it said so, and has counted; and what it was given since.
        self._before: dict[str, Need] = {}
        self._since: dict[str, Need] = {}
        self.tell(told)

    def tell(self, told: Candidate) -> None:
        """It has said something."""
        self.told = told
        self.refusals = 0
        self._before.update(self._since)
        self._since.clear()
        self._given = _Sum()
        self._ended = _Sum()
        self._offered = told.offered
        self._now: Candidate | None = None

    def assigned(self, task: str, need: Need) -> None:
        """It was given a task."""
        self._since[task] = need
        self._given.add(need)
        self._now = None

    def over(self, task: str) -> None:
        """It has the task no more."""
        need = self._since.pop(task, None)
        if need is not None:
            self._given.add(need, -1)
        else:
            need = self._before.pop(task, None)
            if need is not None:
                self._ended.add(need)
        self._now = None

    def nothing_more(self) -> None:
        """Nothing of what has ended since it said something is free beyond what it said."""
        self._ended = _Sum()
        self._now = None

    @property
    def now(self) -> Candidate:
        """With what is free now."""
        now = self._now
        if now is None:
            told, offered, given, ended = self.told.room, self._offered, self._given, self._ended
            cpus = min(offered.cpus, told.cpus + ended.cpus) - given.cpus
            room = Room(
                max(0.0, round(cpus, 3)),
                max(0, min(offered.memory, told.memory + ended.memory) - given.memory),
                max(0, min(offered.gpus, told.gpus + ended.gpus) - given.gpus),
                max(0, min(offered.tasks, told.tasks + ended.tasks) - given.tasks),
            )
            part = 0.0 if not offered.tasks else 1.0 - room.tasks / offered.tasks
            now = self._now = msgspec.structs.replace(self.told, room=room, part=part)
        return now


class Placing:
    """Implements :class:`bzzz.tasks.interfaces.Placer`.

    :param place: gives a task to a member; whether that is tried.
    :param describe: what a member said last; None where it is not linked, or is none.
    :param name_of: what the member with a peer ID is called.
    """

    _log = Logger()

    def __init__(
        self,
        clock: IReactorTime,
        rng: Random,
        place: Callable[[str, str], bool],
        describe: Callable[[str], Candidate | None],
        name_of: Callable[[str], str],
    ) -> None:
        self._clock = clock
        self._rng = rng
        self._place = place
        self._describe = describe
        self._name_of = name_of
        self._waiting = Waiting(rng)
        self._quarantine = Quarantine()
        self._members: dict[str, _Member] = {}
        # Members on which something else is free than the queue knows: it need not while no task
        # waits. And those that are to be described when that is of use.
        self._changed: set[str] = set()
        self._stale: set[str] = set()
        self._given: dict[str, str] = {}
        self._counted: OrderedDict[tuple[str, int], None] = OrderedDict()
        # By task: where it is tried, as the one of a member that was in quarantine.
        self._trials: dict[str, str] = {}
        # Of members that the queue takes for something else than free: for what.
        self._standings: dict[str, Standing] = {}
        self._stopped = False
        self._look_call: IDelayedCall | None = None
        self._look_at = 0.0

    def __len__(self) -> int:
        return len(self._waiting)

    def stop(self) -> None:
        """Place nothing more, whatever is still wanted."""
        self._stopped = True
        if self._look_call is not None and self._look_call.active():
            self._look_call.cancel()
        self._look_call = None

    # -- members

    def member_changed(self, peer: str) -> None:
        """A member has said something, was linked, or is not linked any more."""
        self._stale.discard(peer)
        told = self._describe(peer)
        if told is None:
            if self._members.pop(peer, None) is not None:
                self._standings.pop(peer, None)
                self._waiting.gone(peer)
            return
        member = self._members.get(peer)
        if member is None:
            self._members[peer] = _Member(told)
        else:
            before = member.told
            member.tell(told)
            if self._is_free_alone(peer, before, told):
                self._changed.add(peer)
                return
        self._update(peer, said=True)

    def _is_free_alone(self, peer: str, before: Candidate, told: Candidate) -> bool:
        """Whether nothing has changed for the queue but what is free, which it need not know."""
        return not (
            len(self._waiting)
            or peer in self._standings
            or self._waiting.is_avoided(peer)
            or not told.same_for_all(before)
        )

    def own_changed(self, peer: str) -> None:
        """The same of a member that can be described at any time, as this node: it is when that is
        of use."""
        if len(self._waiting) or peer not in self._members:
            self.member_changed(peer)
        else:
            self._stale.add(peer)

    def knows(self, peer: str) -> bool:
        """Whether it is known what a member can do."""
        self._catch_up()
        return peer in self._members

    @property
    def quarantined(self) -> dict[str, float]:
        """Members in quarantine, with the seconds that are left of it."""
        now = self._clock.seconds()
        return {peer: until - now for peer, until in self._quarantine.quarantined(now).items()}

    # -- for the driver

    def want(self, record: TaskRecord) -> None:
        """See :class:`~bzzz.tasks.interfaces.Placer`."""
        submission = record.submission
        self._catch_up()
        for peer in sorted(self._changed):
            self._update(peer)
        self._count_attempts(record)
        self._no_trial(record.task)
        self._waiting.add(
            record.task,
            self._wanted(submission),
            compile_requirement(submission.where),
            submission.priority,
            self._clock.seconds(),
        )
        self._plan(0.0)

    def drop(self, task: str) -> None:
        """See :class:`~bzzz.tasks.interfaces.Placer`."""
        self._waiting.remove(task)

    def assigned(self, submission: Submission, token: int, worker: str, mine: bool) -> None:
        """See :class:`~bzzz.tasks.interfaces.Placer`."""
        before = self._given.get(submission.task)
        if before == worker:
            return
        self.over(submission.task)
        self._given[submission.task] = worker
        if self._trials.get(submission.task) != worker:
            self._no_trial(submission.task)
        member = self._members.get(worker)
        if member is not None:
            self._try(submission.task, worker)
            if mine:
                member.assigned(submission.task, Need.of(submission))
            self._has_changed(worker)

    def over(self, task: str) -> None:
        """See :class:`~bzzz.tasks.interfaces.Placer`."""
        worker = self._given.pop(task, None)
        member = None if worker is None else self._members.get(worker)
        if worker is None or member is None:
            return
        member.over(task)
        self._has_changed(worker)

    def refused(self, submission: Submission, worker: str, reason: str, for_good: bool) -> None:
        """See :class:`~bzzz.tasks.interfaces.Placer`."""
        self._no_trial(submission.task)
        now = self._clock.seconds()
        if for_good:
            self._waiting.refused(self._wanted(submission), worker, now, reason)
        else:
            member = self._members.get(worker)
            if member is not None:
                wait = min(AVOID * 2**member.refusals, MAX_AVOID)
                member.refusals = min(member.refusals + 1, 16)
                self._waiting.avoid(worker, now + wait, f"{REFUSED} ({reason})")
                # What seemed to be free beyond its word was in its word.
                member.nothing_more()
                self._has_changed(worker)
        self._log.debug(
            "{worker} has refused task {task}: {reason}",
            worker=worker,
            task=submission.task,
            reason=reason,
        )

    def lost(self, worker: str) -> None:
        """See :class:`~bzzz.tasks.interfaces.Placer`."""
        self._waiting.avoid(worker, self._clock.seconds() + AVOID_SILENT, SILENT)

    def ended(self, record: TaskRecord) -> None:
        """Count how a task's attempts ended, for or against their workers."""
        self._count_attempts(record)
        if record.has_ended:
            self._no_trial(record.task)
            self._quarantine.ended(record.task)

    # -- for who submits

    def suggest(self, submission: Submission) -> str:
        """Who takes a new task now; "" where the queue has to say."""
        if len(self._waiting) or self._stopped:
            return ""
        wanted = self._wanted(submission)
        requirement = compile_requirement(submission.where)
        fitting = []
        now = self._clock.seconds()
        for candidate in self._candidates():
            if (
                candidate.room.has(wanted.need)
                and not self._waiting.avoided(wanted, candidate.peer, now)
                and suited(wanted, requirement, candidate, candidate.offered)
            ):
                fitting.append(candidate)
        chosen = choose(fitting, self._rng)
        if chosen is None or chosen.standing is Standing.ONE:
            # It would be given to others as well until this one is recorded; the queue sees to
            # that.
            return ""
        return chosen.peer

    def why(self, submission: Submission) -> Sequence[tuple[Candidate, tuple[Unfit, ...]]]:
        """For each member what it lacks for a task; nothing where it fits."""
        now = self._clock.seconds()
        if submission.task in self._waiting:
            return self._waiting.judge(submission.task, now)
        wanted = self._wanted(submission)
        requirement = compile_requirement(submission.where)
        return [
            (
                each,
                judge(wanted, requirement, each) or self._waiting.avoided(wanted, each.peer, now),
            )
            for each in self._candidates()
        ]

    def could_run(self, submission: Submission) -> bool:
        """Whether some member that is linked could run a task, now or later."""
        wanted = self._wanted(submission)
        requirement = compile_requirement(submission.where)
        if any(suited(wanted, requirement, each, each.offered) for each in self._candidates()):
            # The answer for most, which takes much less to find.
            return True
        return self.outlook(submission) is not Outlook.NEVER

    def outlook(self, submission: Submission) -> Outlook:
        """What may become of a task with the members that are linked now."""
        return outlook(unfits for _, unfits in self.why(submission))

    # -- inside

    def _wanted(self, submission: Submission) -> Wanted:
        return Wanted.of(submission, self._name_of(submission.origin))

    def _candidates(self) -> list[Candidate]:
        self._catch_up()
        now = self._clock.seconds()
        return [self._standing(peer, member.now, now) for peer, member in self._members.items()]

    def _standing(self, peer: str, candidate: Candidate, now: float) -> Candidate:
        standing = self._quarantine.standing(peer, now)
        if candidate.standing is standing:
            return candidate
        return msgspec.structs.replace(candidate, standing=standing)

    def _catch_up(self) -> None:
        """Describe who was not."""
        while self._stale:
            self.member_changed(self._stale.pop())

    def _has_changed(self, peer: str) -> None:
        """Something else is free on a member."""
        if len(self._waiting) or peer in self._standings:
            self._update(peer)
        else:
            self._changed.add(peer)

    def _update(self, peer: str, *, said: bool = False) -> None:
        """Tell the queue of a member."""
        self._changed.discard(peer)
        member = self._members.get(peer)
        if member is not None:
            candidate = self._standing(peer, member.now, self._clock.seconds())
            if candidate.standing is Standing.FREE:
                self._standings.pop(peer, None)
            else:
                self._standings[peer] = candidate.standing
            self._waiting.member(candidate, said=said)
            if len(self._waiting):
                self._plan(0.0)

    def _plan(self, seconds: float) -> None:
        if self._stopped:
            return
        at = self._clock.seconds() + seconds
        if self._look_call is not None and self._look_call.active():
            if self._look_at <= at:
                return
            self._look_call.cancel()
        self._look_at = at
        self._look_call = self._clock.callLater(seconds, self._look)

    def _look(self) -> None:
        self._look_call = None
        now = self._clock.seconds()
        for peer in tuple(self._standings):
            self._see_standing(peer, now)
        wakes = self._quarantine.wakes_at(now)
        placed, more = self._waiting.place(now)
        for task, peer in placed:
            # It is counted as what the member was given as soon as that is decided.
            self._waiting.answered(task, peer)
            self._try(task, peer)
            if not self._place(task, peer):
                self._no_trial(task)
                self._update(peer)
        if more:
            self._plan(0.0)
            return
        wakes = min(self._waiting.wakes_at(), float("inf") if wakes is None else wakes)
        if len(self._waiting) and wakes < float("inf"):
            self._plan(max(0.0, wakes - now))

    # -- quarantine

    def _count_attempts(self, record: TaskRecord) -> None:
        now = self._clock.seconds()
        for attempt in record.state.attempts:
            if (record.task, attempt.token) not in self._counted:
                self._counted[record.task, attempt.token] = None
                self._count(record.task, attempt, now)
        while len(self._counted) > MAX_COUNTED:
            self._counted.popitem(last=False)

    def _count(self, task: str, attempt: Attempt, now: float) -> None:
        caught: Sequence[str] = ()
        if attempt.end in (End.FAILED, End.TIMED_OUT):
            caught = self._quarantine.failed(task, attempt.worker, now)
        elif attempt.end is End.DONE:
            caught = self._quarantine.succeeded(task, attempt.worker, now)
        if self._trials.get(task) == attempt.worker:
            # A success or a failure has told; anything else has not.
            self._no_trial(task)
        for peer in caught:
            self._log.warn(
                "{name} ({peer}) gets no tasks for {seconds:.0f} s: tasks failed there that"
                " succeeded elsewhere",
                name=self._name_of(peer),
                peer=peer,
                seconds=(self._quarantine.until(peer, now) or now) - now,
            )
        for peer in (attempt.worker, *caught):
            self._see_standing(peer, now)

    def _see_standing(self, peer: str, now: float) -> None:
        """Have the queue know of a member whose quarantine has begun or is over."""
        known = self._standings.get(peer, Standing.FREE)
        if self._quarantine.standing(peer, now) is not known:
            self._update(peer)

    def _try(self, task: str, peer: str) -> None:
        """A member is given a task, which may be the one that shows whether it is well."""
        now = self._clock.seconds()
        if self._quarantine.standing(peer, now) is Standing.ONE:
            self._quarantine.started(task, peer, now)
            self._trials[task] = peer

    def _no_trial(self, task: str) -> None:
        """Nothing is learnt of a task any more about where it was tried."""
        peer = self._trials.pop(task, None)
        if peer is not None:
            self._quarantine.not_started(task, peer)
            self._update(peer)
