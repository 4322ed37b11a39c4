"""What the instances of a workflow that have no task yet wait for.

Enters: a plan and a state. Leaves: for each that waits, the steps that are not over yet.
"""

from __future__ import annotations

from bzzz.tasks.workflows.plan import Plan
from bzzz.tasks.workflows.progress import OVER, Progress, Status

__all__ = ["waits_for"]


def waits_for(plan: Plan, progress: Progress) -> dict[int, tuple[str, ...]]:
    """For each instance that waits, by its place, the names of steps that come before it and are
    not over; none of one that is the next, as soon as ``max_parallel`` lets it begin."""
    over = [
        all(entry.status in OVER for entry in progress.entries[slice(*places)])
        for places in plan.ranges
    ]
    names = [
        tuple(plan.workflow.steps[need].name for need in needs if not over[need])
        for needs in plan.needs
    ]
    return {
        place: names[plan.instances[place].step]
        for place, entry in enumerate(progress.entries)
        if entry.status is Status.WAITING
    }
