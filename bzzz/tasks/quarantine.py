"""Members on which tasks fail that then succeed elsewhere: they get none for a while.

Enters: where each attempt failed or succeeded, and when. Leaves: whether a member may be given
tasks. A task that fails everywhere is held against nobody. After :data:`FAILURES` in a row a member
is quarantined for :data:`FIRST` seconds, then gets one task: it is free again when that succeeds,
and quarantined for twice as long, up to :data:`LONGEST`, when that fails.
"""

from __future__ import annotations

from collections import OrderedDict
from enum import Enum
from typing import Final

__all__ = ["FAILURES", "FIRST", "LONGEST", "Quarantine", "Standing"]

# One or two may be chance, such as a full disk that the task itself had filled.
FAILURES: Final = 3

# Seconds of the first quarantine, and of the longest.
FIRST: Final = 60.0
LONGEST: Final = 3600.0

# Seconds after which a member that got its one task, and was not heard of since, gets another.
TRIAL: Final = 3600.0

# Tasks whose failures are remembered until they succeed somewhere, and on how many members each.
# What is forgotten is held against nobody.
MAX_TASKS: Final = 4096
MAX_PLACES: Final = 16

# Members that something is remembered of; the one that was longest without news is forgotten.
MAX_MEMBERS: Final = 1024


class Standing(Enum):
    """What a member may be given.

    ``FREE``: anything. ``ONE``: one task, to see. ``TRIAL``: nothing, until that one has ended.
    ``NONE``: nothing, until a time.
    """

    FREE = "free"
    ONE = "one"
    TRIAL = "trial"
    NONE = "none"


class _Member:
    __slots__ = ("failures", "length", "successes", "trial", "until")

    def __init__(self) -> None:
        # In a row, of those that are held against it.
        self.failures = 0
        # Counts what succeeded, to tell what failed before from what failed after.
        self.successes = 0
        # Seconds of the quarantine that it is in, or was in last; 0 for none since it was free.
        self.length = 0.0
        self.until = 0.0
        # Its one task, and when it got it.
        self.trial: tuple[str, float] | None = None


class Quarantine:
    """Who is quarantined, as one node sees it. Times are seconds on one clock."""

    def __init__(self) -> None:
        self._members: OrderedDict[str, _Member] = OrderedDict()
        # By task: on which members it failed, and how much had succeeded there until then.
        self._failed: OrderedDict[str, dict[str, int]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._members) + len(self._failed)

    def standing(self, peer: str, now: float) -> Standing:
        """What a member may be given now."""
        member = self._members.get(peer)
        if member is None or not member.length:
            return Standing.FREE
        if now < member.until:
            return Standing.NONE
        if member.trial is not None and now < member.trial[1] + TRIAL:
            return Standing.TRIAL
        return Standing.ONE

    def until(self, peer: str, now: float) -> float | None:
        """When its quarantine ends; None where it is in none."""
        member = self._members.get(peer)
        return member.until if member is not None and now < member.until else None

    def quarantined(self, now: float) -> dict[str, float]:
        """All that are in quarantine, with when it ends."""
        return {peer: member.until for peer, member in self._members.items() if now < member.until}

    def wakes_at(self, now: float) -> float | None:
        """When the next quarantine ends; None where nobody is in one."""
        return min(self.quarantined(now).values(), default=None)

    def started(self, task: str, peer: str, now: float) -> None:
        """A member is given a task; the one, if it is to have no more."""
        if self.standing(peer, now) is Standing.ONE:
            self._members[peer].trial = (task, now)

    def not_started(self, task: str, peer: str) -> None:
        """The member refused it, or it ended by another's will: the one task is to come."""
        if self._is_trial(task, peer):
            self._members[peer].trial = None

    def failed(self, task: str, peer: str, now: float) -> tuple[str, ...]:
        """An attempt of a task failed on a member.

        Those that this puts into quarantine: the member, where it was its one task.
        """
        member = self._member(peer)
        if self._is_trial(task, peer):
            self._quarantine(member, now)
            return (peer,)
        places = self._failed.setdefault(task, {})
        self._failed.move_to_end(task)
        if len(places) < MAX_PLACES:
            places[peer] = member.successes
        while len(self._failed) > MAX_TASKS:
            self._failed.popitem(last=False)
        return ()

    def succeeded(self, task: str, peer: str, now: float) -> tuple[str, ...]:
        """An attempt succeeded on a member: it is free, and those on which it failed are not.

        Those that this puts into quarantine.
        """
        member = self._member(peer)
        member.successes += 1
        member.failures = 0
        member.length = 0.0
        member.until = 0.0
        member.trial = None
        caught = []
        for place, successes in self._failed.pop(task, {}).items():
            other = self._members.get(place)
            # What it has done since speaks for it, and what is in quarantine stays there as it is.
            if place == peer or other is None or other.successes != successes or other.length:
                continue
            other.failures += 1
            if other.failures >= FAILURES:
                self._quarantine(other, now)
                caught.append(place)
        return tuple(caught)

    def ended(self, task: str) -> None:
        """A task is over and succeeded nowhere: nothing of it is held against anybody."""
        self._failed.pop(task, None)

    def forget(self, peer: str) -> None:
        """A member is none any more."""
        self._members.pop(peer, None)

    def _is_trial(self, task: str, peer: str) -> bool:
        member = self._members.get(peer)
        return member is not None and member.trial is not None and member.trial[0] == task

    def _member(self, peer: str) -> _Member:
        member = self._members.get(peer)
        if member is None:
            member = self._members[peer] = _Member()
        self._members.move_to_end(peer)
        while len(self._members) > MAX_MEMBERS:
            self._members.popitem(last=False)
        return member

    def _quarantine(self, member: _Member, now: float) -> None:
        member.length = min(LONGEST, member.length * 2) if member.length else FIRST
        member.until = now + member.length
        member.failures = 0
        member.trial = None
