"""Which step comes after which, and whether what two of them put out may meet.

Enters: steps whose needs are all known. Leaves: the cycles among them, an order in which they can
run, and the steps that would get two files at one place.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from typing import Final

from bzzz.tasks.workflows.matrix import PREFIX
from bzzz.tasks.workflows.paths import WILD, below, covers, overlap
from bzzz.tasks.workflows.plan import Plan, Source, Step

__all__ = ["MAX_GLOBS", "conflicts", "cycles", "in_order"]

# Globs whose files one step gets from others: each is compared with each.
MAX_GLOBS: Final = 512


def in_order(steps: Sequence[Step]) -> tuple[Step, ...]:
    """The steps, each behind all that it needs, else as they were; without what waits for ever."""
    places = {step.name: place for place, step in enumerate(steps)}
    needs = {step.name: set(step.needs) for step in steps}
    followers: dict[str, list[str]] = {step.name: [] for step in steps}
    for step in steps:
        for need in dict.fromkeys(step.needs):
            followers[need].append(step.name)
    pending = [places[step.name] for step in steps if not step.needs]
    ordered = []
    while pending:
        step = steps[heapq.heappop(pending)]
        ordered.append(step)
        for follower in followers[step.name]:
            needs[follower].discard(step.name)
            if not needs[follower]:
                heapq.heappush(pending, places[follower])
    return tuple(ordered)


def cycles(steps: Sequence[Step]) -> list[list[str]]:
    """Steps that wait for each other, each need before the step that needs it.

    Each step is in one of them at most. Each begins with the one that comes first in the file, and
    when one need of each is taken away, others may be left: those that shared a step with it.
    """
    needs = {step.name: list(step.needs) for step in steps}
    found: list[list[str]] = []
    while True:
        needs = _entangled(needs)
        if not needs:
            return found
        # Whoever is left needs somebody who is left: going on leads round a cycle.
        name = next(iter(needs))
        way: dict[str, None] = {}
        while name not in way:
            way[name] = None
            name = needs[name][0]
        names = list(way)
        cycle = names[names.index(name) :]
        places = {each: place for place, each in enumerate(needs)}
        first = cycle.index(min(cycle, key=places.__getitem__))
        found.append(cycle[first:] + cycle[:first])
        for each in cycle:
            del needs[each]


def _entangled(needs: dict[str, list[str]]) -> dict[str, list[str]]:
    """Without those that could run, again and again."""
    followers: dict[str, list[str]] = {name: [] for name in needs}
    waiting = {}
    for name, all_needs in needs.items():
        inside = {need for need in all_needs if need in needs}
        waiting[name] = len(inside)
        for need in inside:
            followers[need].append(name)
    free = [name for name, number in waiting.items() if not number]
    gone = set(free)
    while free:
        for follower in followers[free.pop()]:
            waiting[follower] -= 1
            if not waiting[follower]:
                free.append(follower)
                gone.add(follower)
    return {
        name: [need for need in all_needs if need in needs and need not in gone]
        for name, all_needs in needs.items()
        if name not in gone
    }


def conflicts(plan: Plan) -> Iterator[tuple[str, str]]:
    """Steps that may get two files at one place, and what to do.

    Nothing that a step is given is ever replaced: which of two would stay is hard to foresee, and
    is found out when the step does something else than was meant.
    """
    told: dict[tuple[Source, ...], str] = {}
    for place, step in enumerate(plan.workflow.steps):
        instances = plan.instances[slice(*plan.ranges[place])]
        sources = instances[0].sources
        if sources not in told:
            told[sources] = _conflict(plan, sources)
        reason = told[sources]
        for inputs in dict.fromkeys(instance.work.inputs for instance in instances):
            reason = reason or _covered(plan, sources, inputs)
        if reason:
            yield step.name, f"step {step.name} {reason}"


def _globs(plan: Plan, sources: tuple[Source, ...]) -> Iterator[tuple[int, str]]:
    """What is put out, where it is put, with the instance that does."""
    for source in sources:
        for glob in plan.instances[source.instance].work.outputs:
            yield source.instance, below(source.directory, glob)


def _covered(plan: Plan, sources: tuple[Source, ...], inputs: tuple[str, ...]) -> str:
    """Whether what is put out may be where the submitter's files are."""
    if not inputs:
        return ""
    for instance, glob in _globs(plan, sources):
        for path in inputs:
            if covers(glob, path):
                name = plan.workflow.steps[plan.instances[instance].step].name
                return (
                    f"takes {path!r} from the submitter, and {name} may put it out too ({glob!r});"
                    f" leave it out of in, or write from.{name} = '{name}' for a directory of its"
                    " own"
                )
    return ""


def _conflict(plan: Plan, sources: tuple[Source, ...]) -> str:
    globs = [
        (plan.instances[instance].step, instance, _literal(glob), glob)
        for instance, glob in _globs(plan, sources)
    ]
    if len(globs) > MAX_GLOBS:
        return (
            f"gets the files of {len(globs)} globs, and {MAX_GLOBS} at most; put out directories"
            " in their place, or leave some out with from.STEP = false"
        )
    for number, (step, instance, literal, glob) in enumerate(globs):
        for other, another, other_literal, other_glob in globs[number + 1 :]:
            if instance == another:
                continue
            shared = min(len(literal), len(other_literal))
            if literal[:shared] == other_literal[:shared] and overlap(glob, other_glob):
                return _told(plan, step, other, glob, other_glob)
    return ""


def _literal(glob: str) -> tuple[str, ...]:
    """The directories at the beginning of a glob that are only themselves."""
    names = [] if glob == "." else glob.split("/")
    for number, name in enumerate(names):
        if WILD.search(name):
            return tuple(names[:number])
    return tuple(names)


def _told(plan: Plan, step: int, other: int, glob: str, other_glob: str) -> str:
    name, other_name = plan.workflow.steps[step].name, plan.workflow.steps[other].name
    both = f"{glob!r}" if glob == other_glob else f"{glob!r} and {other_glob!r}"
    if step == other:
        matrix = next(iter(plan.workflow.steps[step].matrix))
        return (
            f"gets the files of all instances of {name}, and two may be at one place ({both});"
            f" write from.{name} = '{name}' for a directory each, or put"
            f" ${{{{ {PREFIX}{matrix} }}}} into the paths that {name} puts out"
        )
    return (
        f"gets files of {name} and of {other_name}, and two may be at one place ({both}); write"
        f" from.{other_name} = '{other_name}' for a directory of its own, or"
        f" from.{other_name} = false for none of them"
    )
