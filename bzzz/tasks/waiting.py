"""The tasks that wait for a member, and who gets which.

Enters: tasks, members and what changes of them, and the time. Leaves: which task goes to which
member. By priority, then age; a task is looked at again when something has changed that could
matter to it (``docs/tasks.rst``, "Placement").

Tasks with the same priority that ask for the same are a class: what is found of one of them holds
for all, and the work of a change grows with the classes. It is done in slices, so that with ten
thousand of them nothing else has to wait for it.

A class that has waited for :data:`PATIENCE` seconds gets a member that it suits, one of which
nothing is kept yet. What its oldest task needs is kept free there until a task of the class has
been placed. The classes that have waited longest come first. So each task that suits somebody is
placed when those before it have been and what runs has ended, whatever else is submitted.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left, bisect_right, insort
from collections import OrderedDict
from typing import Final, NamedTuple

import msgspec

from bzzz.tasks.placement import Candidate, Random, Unfit, Wanted, choose, judge, suited
from bzzz.tasks.quarantine import Standing
from bzzz.tasks.refusals import Refusals
from bzzz.tasks.requirements import Requirement
from bzzz.tasks.slots import Room
from bzzz.tasks.waiting_classes import NO_KEY, Key, Member, TaskClass, with_room

__all__ = ["PATIENCE", "SLICE", "Placed", "Waiting"]

# Seconds of waiting after which a member keeps free what a task needs: longer than most tasks run,
# because meanwhile that part of the member idles.
PATIENCE: Final = 60.0

# Looks of one slice: at one class and one member. One takes 2 to 5 microseconds, and one at a
# member that the class was not judged by yet as much as three.
SLICE: Final = 1000
JUDGING: Final = 3

# Seconds between two searches for members that keep something free.
SEARCH: Final = 1.0

# Seconds between two slices of such a search, so that it takes a small part of the time however
# many classes there are.
PAUSE: Final = 0.02

# Classes without tasks whose verdicts are kept: what is submitted over and over.
IDLE_CLASSES: Final = 256


class Placed(NamedTuple):
    """A task goes to a member."""

    task: str
    peer: str


class Waiting:
    """Waiting tasks. Times are seconds on one clock.

    :param rng: chooses between members.
    """

    def __init__(self, rng: Random) -> None:
        self._rng = rng
        self._members: dict[str, Member] = {}
        self._classes: dict[tuple[int, Wanted], TaskClass] = {}
        self._idle: OrderedDict[tuple[int, Wanted], TaskClass] = OrderedDict()
        self._tasks: dict[str, tuple[TaskClass, float]] = {}
        # Keys of the classes that have tasks, sorted, and the classes by them.
        self._order: list[Key] = []
        # The same by how long they have waited.
        self._ages: list[tuple[float, Key]] = []
        self._by_key: dict[Key, TaskClass] = {}
        # Members with more room than when all classes were looked at last.
        self._changed: set[str] = set()
        # Keys of classes with new tasks, a heap; some of them are not theirs any more.
        self._fresh: list[Key] = []
        # Members that have room for a task at all.
        self._open: set[str] = set()
        self._looks = 0
        # The pass that is under way: for which members, and after which class it goes on.
        self._passing: set[str] = set()
        self._cursor: Key | None = None
        # When to search for members that keep something free, when that began last, and after
        # which class it goes on.
        self._search_at = float("inf")
        self._searched = float("-inf")
        self._search_after: tuple[float, Key] | None = None
        # When the next member need not be avoided any more.
        self._avoided_until = float("inf")
        self._refusals = Refusals()

    def __len__(self) -> int:
        return len(self._tasks)

    def __contains__(self, task: str) -> bool:
        return task in self._tasks

    @property
    def classes(self) -> int:
        """How many different kinds of tasks wait."""
        return len(self._order)

    @property
    def kept(self) -> dict[str, str]:
        """For which task a member keeps something free, by peer ID."""
        return {
            peer: member.kept.tasks[0]
            for peer, member in self._members.items()
            if member.kept is not None and member.kept.tasks
        }

    # -- tasks

    def add(
        self, task: str, wanted: Wanted, requirement: Requirement, priority: int, since: float
    ) -> None:
        """A task waits. One that is there already stays as it is.

        :param since: when it began to.
        """
        if task in self._tasks:
            return
        group = self._class(priority, wanted, requirement)
        self._tasks[task] = (group, since)
        # Where others of the class wait, no member has room for this one either.
        group.fresh = group.fresh or not group.tasks
        insort(group.tasks, task)
        self._move(group)
        self._search_at = min(self._search_at, max(since + PATIENCE, self._searched + SEARCH))

    def remove(self, task: str) -> None:
        """A task does not wait any more: it was cancelled, or somebody else placed it."""
        there = self._tasks.pop(task, None)
        if there is not None:
            group = there[0]
            del group.tasks[bisect_left(group.tasks, task)]
            self._move(group)

    def _class(self, priority: int, wanted: Wanted, requirement: Requirement) -> TaskClass:
        name = (priority, wanted)
        group = self._classes.get(name)
        if group is None:
            group = self._idle.pop(name, None) or TaskClass(priority, wanted, requirement)
            self._classes[name] = group
        return group

    def _move(self, group: TaskClass) -> None:
        """Its oldest task is another one, or it has none any more."""
        key = (-group.priority, group.tasks[0]) if group.tasks else None
        changed = key != group.key
        if changed:
            if self._by_key.pop(group.key, None) is not None:
                del self._order[bisect_left(self._order, group.key)]
                del self._ages[bisect_left(self._ages, (group.age, group.key))]
            if key is not None:
                group.key = key
                group.age = self._tasks[key[1]][1]
                insort(self._order, key)
                insort(self._ages, (group.age, key))
                self._by_key[key] = group
        if key is None:
            self._retire(group)
        elif changed and group.fresh:
            heapq.heappush(self._fresh, key)

    def _retire(self, group: TaskClass) -> None:
        self._let_go(group)
        group.key = NO_KEY
        group.fresh = False
        name = (group.priority, group.wanted)
        if self._classes.pop(name, None) is not None:
            self._idle[name] = group
            if len(self._idle) > IDLE_CLASSES:
                self._idle.popitem(last=False)

    # -- members

    def member(self, candidate: Candidate, *, said: bool = True) -> None:
        """A member has come, or something new is known of it.

        :param said: whether by its own word, so that it need not be avoided any more.
        """
        if candidate.standing is Standing.ONE:
            # One task to see whether it is well again; what it has begun before may go on.
            one = min(1, candidate.room.tasks)
            candidate = msgspec.structs.replace(
                candidate, room=msgspec.structs.replace(candidate.room, tasks=one)
            )
        member = self._members.get(candidate.peer)
        if member is None:
            self._members[candidate.peer] = member = Member(candidate, self._free_bit())
            self._set(member, candidate)
            self._changed.add(candidate.peer)
            self._search_soon()
            return
        room = candidate.room
        for need in member.offers.values():
            # It may not have known of these when it said so.
            room = room.without(need)
        if member.offers:
            candidate = with_room(candidate, room, candidate.offered)
        before = member.candidate
        self._set(member, candidate)
        if said and member.avoided > float("-inf"):
            member.avoided = float("-inf")
            self._changed.add(candidate.peer)
        if not candidate.same_for_all(before):
            member.offered = candidate.offered
            self._forget(member)
            self._search_soon()
            if member.kept is not None and not self._suits(member.kept, member):
                self._let_go(member.kept)
            self._changed.add(candidate.peer)
        elif room.more_than(before.room):
            self._changed.add(candidate.peer)

    def gone(self, peer: str) -> None:
        """A member is not linked any more, or is none."""
        member = self._members.pop(peer, None)
        if member is not None:
            if member.kept is not None:
                self._let_go(member.kept)
            for peers in (self._changed, self._passing, self._open):
                peers.discard(peer)
            self._forget(member)

    def _free_bit(self) -> int:
        taken = 0
        for member in self._members.values():
            taken |= member.bit
        return ~taken & (taken + 1)

    def _forget(self, member: Member) -> None:
        """What was found of a member does not hold any more."""
        self._refusals.forget(member.candidate.peer)
        others = ~member.bit
        for group in (*self._classes.values(), *self._idle.values()):
            group.judged &= others

    def _set(self, member: Member, candidate: Candidate) -> None:
        member.candidate = candidate
        if candidate.room.tasks:
            self._open.add(candidate.peer)
        else:
            self._open.discard(candidate.peer)
            self._passing.discard(candidate.peer)

    def avoid(self, peer: str, until: float, why: str) -> None:
        """A member gets nothing until then, or until it says what is free.

        :param why: for people; goes after the member's name.
        """
        member = self._members.get(peer)
        if member is not None:
            member.avoided, member.why_avoided = until, why
            self._avoided_until = min(self._avoided_until, until)

    def refused(self, wanted: Wanted, peer: str, now: float, reason: str) -> None:
        """A member will run nothing that asks for this; see :mod:`bzzz.tasks.refusals`."""
        if peer in self._members:
            self._refusals.add(wanted, peer, now, reason)

    def avoided(self, wanted: Wanted, peer: str, now: float) -> tuple[Unfit, ...]:
        """Why a member gets nothing that asks for this now; nothing where it does."""
        member = self._members.get(peer)
        if member is None:
            return ()
        reason = self._refusals.reason(wanted, peer, now)
        if reason:
            return (Unfit("refused", f"it refused such a task: {reason}", never=False),)
        if member.avoided <= now:
            return ()
        return (Unfit("avoided", member.why_avoided, never=False),)

    def is_avoided(self, peer: str) -> bool:
        """Whether a member gets nothing until it says what is free, or until a time that may be
        over."""
        member = self._members.get(peer)
        return member is not None and member.avoided > float("-inf")

    def answered(self, task: str, peer: str) -> None:
        """A member has answered the offer of a task: what it says from now on counts it."""
        member = self._members.get(peer)
        if member is not None:
            member.offers.pop(task, None)

    def judge(self, task: str, now: float) -> list[tuple[Candidate, tuple[Unfit, ...]]]:
        """What each member lacks for a waiting task."""
        there = self._tasks.get(task)
        if there is None:
            return []
        group = there[0]
        judged = []
        for member in self._members.values():
            found = judge(group.wanted, group.requirement, member.candidate)
            found = found or self.avoided(group.wanted, member.candidate.peer, now)
            if not found and not self._room(group, member).has(group.wanted.need):
                oldest = member.kept.tasks[0] if member.kept is not None else ""
                text = f"what is free is kept for task {oldest}, which has waited longer"
                found = (Unfit("kept", text, never=False),)
            judged.append((member.candidate, found))
        return judged

    # -- placing

    def place(self, now: float, looks: int = SLICE) -> tuple[list[Placed], bool]:
        """Give tasks to members, as far as some looks go.

        The member's room is without the task from now on, and it is said to have been offered it
        until :meth:`answered`.

        :return: what goes where, in this order; and whether there is more to be looked at.
        """
        if now >= self._avoided_until:
            self._end_avoiding(now)
        if now >= self._refusals.ends_at:
            self._changed |= self._refusals.end(now) & self._members.keys()
        self._looks = looks
        if now >= self._search_at:
            self._search(now)
        placed: list[Placed] = []
        while self._looks > 0:
            group = self._next()
            if group is None:
                break
            self._look(group, now, placed)
        return placed, bool(self._passing or self._changed or self._fresh)

    def wakes_at(self) -> float:
        """When :meth:`place` has something to do though nothing changed; infinity for never."""
        return min(self._search_at, self._avoided_until, self._refusals.ends_at)

    def _next(self) -> TaskClass | None:
        """The class whose turn it is."""
        while True:
            if not self._passing:
                self._passing, self._changed = self._changed & self._open, set()
                self._cursor = None
                if not self._passing:
                    return self._next_fresh()
            at = bisect_right(self._order, self._cursor) if self._cursor is not None else 0
            if at < len(self._order):
                self._cursor = self._order[at]
                return self._by_key[self._cursor]
            self._passing = set()

    def _next_fresh(self) -> TaskClass | None:
        """Where no member has changed: the class with a new task whose turn it is."""
        while self._fresh:
            group = self._by_key.get(self._fresh[0])
            if group is not None and group.fresh:
                return group
            heapq.heappop(self._fresh)
        return None

    def _look(self, group: TaskClass, now: float, placed: list[Placed]) -> None:
        """Place the oldest task of a class, if there is a member for it."""
        peers = self._open if group.fresh else self._passing
        self._looks -= 1 + len(peers)
        need = group.wanted.need
        fitting = []
        for peer in peers:
            member = self._members[peer]
            # Those that have changed since the pass began get one of their own.
            if (
                member.avoided <= now
                and peer not in self._changed
                and self._room(group, member).has(need)
                and self._suits(group, member)
                and not self._refusals.reason(group.wanted, peer, now)
            ):
                fitting.append(member.candidate)
        if not fitting:
            group.fresh = False
            return
        # Sets have no order that two runs have in common.
        fitting.sort(key=_peer)
        chosen = choose(fitting, self._rng)
        if chosen is not None:
            task = group.tasks[0]
            placed.append(Placed(task, chosen.peer))
            self._take(group, task, self._members[chosen.peer])

    def _take(self, group: TaskClass, task: str, member: Member) -> None:
        need = group.wanted.need
        candidate = member.candidate
        self._set(member, with_room(candidate, candidate.room.without(need), member.offered))
        member.offers[task] = need
        self._let_go(group)
        self.remove(task)

    def _suits(self, group: TaskClass, member: Member) -> bool:
        """Whether a member could run a class now if all of it were free."""
        bit = member.bit
        if not group.judged & bit:
            self._looks -= JUDGING
            group.judged |= bit
            if suited(group.wanted, group.requirement, member.candidate, member.offered):
                group.suits |= bit
            else:
                group.suits &= ~bit
        return bool(group.suits & bit)

    def _room(self, group: TaskClass, member: Member) -> Room:
        """What of a member's room a class may use."""
        room = member.candidate.room
        if member.kept is None or member.kept is group:
            return room
        return room.without(member.kept.wanted.need)

    # -- keeping free

    def _let_go(self, group: TaskClass) -> None:
        """Nothing has to be kept free for a class any more."""
        member = self._members.get(group.kept)
        group.kept = ""
        if member is not None:
            member.kept = None
            self._changed.add(member.candidate.peer)
            self._search_soon()

    def _search_soon(self) -> None:
        self._search_at = min(self._search_at, self._searched + SEARCH)

    def _search(self, now: float) -> None:
        """Find members for the classes that have waited long."""
        after = self._search_after
        if after is None:
            self._searched = now
        free = [member for member in self._members.values() if member.kept is None]
        at = 0 if after is None else bisect_right(self._ages, after)
        while free and at < len(self._ages) and self._ages[at][0] + PATIENCE <= now:
            if self._looks <= 0:
                self._search_at = now + PAUSE
                return
            self._search_after = self._ages[at]
            group = self._by_key[self._ages[at][1]]
            at += 1
            self._looks -= 1
            if not group.kept:
                self._keep(group, free, now)
        # For those that found none, there is another search when a member changes or keeps nothing
        # any more.
        soonest = self._ages[at][0] + PATIENCE if free and at < len(self._ages) else float("inf")
        self._search_at = max(soonest, now + SEARCH)
        self._search_after = None

    def _keep(self, group: TaskClass, free: list[Member], now: float) -> None:
        self._looks -= len(free)
        suiting = [
            member
            for member in free
            if self._suits(group, member)
            and not self._refusals.reason(group.wanted, member.candidate.peer, now)
        ]
        if suiting:
            member = min(suiting, key=lambda each: each.candidate.part)
            member.kept, group.kept = group, member.candidate.peer
            free.remove(member)

    def _end_avoiding(self, now: float) -> None:
        self._avoided_until = float("inf")
        for peer, member in self._members.items():
            if member.avoided > now:
                self._avoided_until = min(self._avoided_until, member.avoided)
            elif member.avoided > float("-inf"):
                member.avoided = float("-inf")
                self._changed.add(peer)


def _peer(candidate: Candidate) -> str:
    return candidate.peer
