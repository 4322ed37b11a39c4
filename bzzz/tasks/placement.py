"""Who may run a task, who fits it, who is chosen, and why the others are not.

Enters: what a task asks for, and what is known of each member. Leaves: for each member what it
lacks, with the value seen, and one that lacks nothing (``docs/tasks.rst``, "Placement"). The worker
has the last word: what is known here may be of a moment ago.

=================== ============================================================================
code of an Unfit    what does not fit; those with a star may fit later, with nothing changed
=================== ============================================================================
``on``              the task is for another member
``role``            the member's role runs no tasks
``where``           a condition of the requirement, one entry for each
``owner_command``   its owner forbids the command
``owner_submitter`` its owner runs nothing of the submitter
``owner_profile``   its owner does not allow the profile
``tasks``           it is set to run none
``cpus``            it offers fewer cores; ``memory`` and ``gpus`` likewise
``draining`` *      it takes nothing new
``quarantined`` *   tasks failed there that then succeeded elsewhere
``tasks_free`` *    it runs as many as it may
``cpus_free`` *     fewer cores are free; ``memory_free`` and ``gpus_free`` likewise
``avoided`` *       it refused a task a moment ago
``refused`` *       it refused one that asks for the same for good, and has said nothing new since
``kept`` *          what is free is kept for a task that has waited longer
=================== ============================================================================
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from enum import Enum
from typing import Final, Protocol

from msgspec import Struct

from bzzz.mesh.capability import OwnerRules
from bzzz.tasks.owner_rules import EVERYTHING, offered, refusals
from bzzz.tasks.quarantine import Standing
from bzzz.tasks.requirements import Facts, Requirement, evaluate, explain
from bzzz.tasks.slots import Need, Room, too_little, too_much
from bzzz.tasks.submission import Submission

__all__ = [
    "Candidate",
    "Outlook",
    "Random",
    "Unfit",
    "Wanted",
    "choose",
    "judge",
    "outlook",
    "suited",
    "suits",
]


class Random(Protocol):
    """As much of :class:`random.Random` as is wanted here."""

    def randrange(self, stop: int, /) -> int:
        """A number from 0 to below ``stop``."""


class Wanted(Struct, frozen=True):
    """What a task asks of a member. Tasks that ask for the same fit the same members.

    :ivar on: peer ID of the member that it is for, "" for any.
    :ivar where: a requirement, see :func:`bzzz.tasks.requirements.compile`.
    :ivar command: its first word.
    :ivar submitters: all names of whose task it is.
    """

    on: str
    where: str
    need: Need
    profile: str
    command: str
    submitters: tuple[str, ...]

    @classmethod
    def of(cls, submission: Submission, origin_name: str = "") -> Wanted:
        """What a submission asks for.

        :param origin_name: of the member that it was submitted to, on the roster.
        """
        names = (submission.submitter, origin_name, submission.origin)
        return cls(
            submission.on,
            submission.where,
            Need.of(submission),
            submission.profile,
            submission.command[0],
            tuple(filter(None, names)),
        )


class Candidate(Struct, frozen=True, kw_only=True):
    """What is known of a linked member.

    :ivar peer: its peer ID.
    :ivar name: on the roster.
    :ivar facts: its capability document.
    :ivar may_run: whether its role runs tasks.
    :ivar draining: as it said last.
    :ivar max_tasks: likewise.
    :ivar room: what is free, as it said last.
    :ivar part: which part of it is taken, from 0 to 1.
    :ivar rules: of its owner.
    :ivar standing: see :mod:`bzzz.tasks.quarantine`.
    :ivar everything: what it offers, where that was found before.
    """

    peer: str
    name: str
    facts: Facts
    may_run: bool = True
    draining: bool = False
    max_tasks: int = 0
    room: Room = Room()
    part: float = 0.0
    rules: OwnerRules = EVERYTHING
    standing: Standing = Standing.FREE
    everything: Room | None = None

    @property
    def offered(self) -> Room:
        """What it has for tasks when none runs."""
        if self.everything is not None:
            return self.everything
        return offered(self.facts.document.resources, self.rules, self.max_tasks)

    def same_for_all(self, other: Candidate) -> bool:
        """Whether both differ in what is free at most."""
        return (
            self.facts is other.facts
            and self.may_run == other.may_run
            and self.draining == other.draining
            and self.max_tasks == other.max_tasks
            and self.standing is other.standing
            and self.rules == other.rules
        )


class Unfit(Struct, frozen=True):
    """Why a member does not run a task.

    :ivar code: see the module's table.
    :ivar text: for people; goes after the member's name.
    :ivar never: whether it stays so even when nothing else runs there.
    """

    code: str
    text: str
    never: bool


class Outlook(Enum):
    """What may become of a task: a member takes it now, one may later, or none that is known."""

    NOW = "now"
    LATER = "later"
    NEVER = "never"


_QUARANTINED: Final = {
    Standing.NONE: "it is quarantined: tasks failed there that then succeeded elsewhere",
    Standing.TRIAL: "it was quarantined, and has the one task that shows whether it is well",
}


def judge(wanted: Wanted, requirement: Requirement, candidate: Candidate) -> tuple[Unfit, ...]:
    """All that a member lacks for a task; nothing where it fits now.

    :param requirement: the compiled ``wanted.where``.
    """
    found = list(suits(wanted, requirement, candidate))
    everything = candidate.offered
    lacking = everything.lacks(wanted.need)
    for what in candidate.room.lacks(wanted.need):
        if what not in lacking:
            text = too_little(what, wanted.need, candidate.room, everything)
            found.append(Unfit(f"{what}_free", text, never=False))
    return tuple(found)


def suits(wanted: Wanted, requirement: Requirement, candidate: Candidate) -> tuple[Unfit, ...]:
    """What a member lacks for a task whatever is free there."""
    found = []
    if wanted.on and wanted.on != candidate.peer:
        found.append(Unfit("on", "the task is for another member", never=True))
    if not candidate.may_run:
        found.append(Unfit("role", "its role runs no tasks", never=True))
    if candidate.draining:
        found.append(Unfit("draining", "it is draining and takes nothing new", never=False))
    text = _QUARANTINED.get(candidate.standing)
    if text is not None:
        found.append(Unfit("quarantined", text, never=False))
    found += [Unfit("where", text, never=True) for text in explain(requirement, candidate.facts)]
    found += [
        Unfit(code, text, never=True)
        for code, text in refusals(
            candidate.rules, wanted.command, wanted.submitters, wanted.profile
        )
    ]
    everything = candidate.offered
    found += [
        Unfit(what, too_much(what, wanted.need, everything), never=True)
        for what in everything.lacks(wanted.need)
    ]
    return tuple(found)


def suited(
    wanted: Wanted, requirement: Requirement, candidate: Candidate, everything: Room
) -> bool:
    """Whether :func:`suits` finds nothing, which is much faster to say.

    :param everything: what the candidate offers.
    """
    return (
        (not wanted.on or wanted.on == candidate.peer)
        and candidate.may_run
        and not candidate.draining
        and candidate.standing not in _QUARANTINED
        and everything.has(wanted.need)
        and evaluate(requirement, candidate.facts)
        and (
            candidate.rules is EVERYTHING
            or not refusals(candidate.rules, wanted.command, wanted.submitters, wanted.profile)
        )
    )


def outlook(judged: Iterable[Collection[Unfit]]) -> Outlook:
    """What the members together say of a task."""
    best = Outlook.NEVER
    for unfits in judged:
        if not unfits:
            return Outlook.NOW
        if not any(unfit.never for unfit in unfits):
            best = Outlook.LATER
    return best


def choose(
    fitting: Sequence[Candidate], rng: Random, avoid: Collection[str] = ()
) -> Candidate | None:
    """Of two at random, the one of which less is taken.

    Two are enough for none to be loaded much more than the others, and with all of them the one
    that is idle would be chosen by everybody at once (Mitzenmacher, *The Power of Two Choices in
    Randomized Load Balancing*, 2001).

    :param avoid: peer IDs of those that refused lately.
    """
    left = [each for each in fitting if each.peer not in avoid] if avoid else fitting
    if not left:
        return None
    first = rng.randrange(len(left))
    if len(left) == 1:
        return left[first]
    second = (first + 1 + rng.randrange(len(left) - 1)) % len(left)
    return min(left[first], left[second], key=lambda each: each.part)
