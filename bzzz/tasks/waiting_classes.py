"""What the queue of waiting tasks keeps of each class of tasks, and of each member.

:mod:`bzzz.tasks.waiting` alone changes them.
"""

from __future__ import annotations

from typing import Final

import msgspec

from bzzz.tasks.placement import Candidate, Wanted
from bzzz.tasks.requirements import Requirement
from bzzz.tasks.slots import Need, Room

__all__ = ["NO_KEY", "Key", "Member", "TaskClass", "with_room"]

# By this a class has its turn: the greater priority, then the older task.
Key = tuple[int, str]
NO_KEY: Final[Key] = (0, "")


class TaskClass:
    """Tasks that ask for the same, with the same priority."""

    __slots__ = (
        "age",
        "fresh",
        "judged",
        "kept",
        "key",
        "priority",
        "requirement",
        "suits",
        "tasks",
        "wanted",
    )

    def __init__(self, priority: int, wanted: Wanted, requirement: Requirement) -> None:
        self.priority = priority
        self.wanted = wanted
        self.requirement = requirement
        # Sorted by age. Mostly the last comes and the first goes.
        self.tasks: list[str] = []
        # A bit for each member: whether it has been judged, and whether it suits. That is small
        # where there are many members and many classes.
        self.judged = 0
        self.suits = 0
        # Whether all members are to be looked at.
        self.fresh = False
        self.key: Key = NO_KEY
        # Since when its oldest task waits.
        self.age = 0.0
        # The member that keeps something free for it.
        self.kept: str = ""


class Member:
    """What is known of a member."""

    __slots__ = ("avoided", "bit", "candidate", "kept", "offered", "offers", "why_avoided")

    def __init__(self, candidate: Candidate, bit: int) -> None:
        # Its room is without what was given to it since it told it.
        self.candidate = candidate
        self.offered = candidate.offered
        self.bit = bit
        # Until when nothing is given to it, and why.
        self.avoided = float("-inf")
        self.why_avoided = ""
        # The class for which it keeps something free.
        self.kept: TaskClass | None = None
        # What it has been given and has not answered yet, by task.
        self.offers: dict[str, Need] = {}


def with_room(candidate: Candidate, room: Room, everything: Room) -> Candidate:
    """The same member with something else free of everything that it offers."""
    return msgspec.structs.replace(candidate, room=room, part=room.taken_of(everything))
