"""Why the steps of a workflow are where they are.

Enters: a workflow's record. Leaves: for each instance that is not done, what it waits for, where it
runs, or why it has failed, with the end of what it has printed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from bzzz.errors import BzzzError
from bzzz.tasks.service import TaskService
from bzzz.tasks.value import TaskRecord
from bzzz.tasks.workflows.progress import ACTIVE, Status
from bzzz.tasks.workflows.record import WorkflowRecord
from bzzz.tasks.workflows.waits import waits_for
from bzzz.web.submitting import Submitting
from bzzz.web.task_schema import NodeVerdict, TaskInfo, task_info
from bzzz.web.verdict_words import why_it_waits
from bzzz.web.workflow_schema import step_infos

__all__ = ["StepWhy", "WorkflowWhy"]

# Tasks that are looked up for one answer, and those that wait for which each node is judged: that
# takes a millisecond with many nodes. Of others their ID is told, by which to ask.
MAX_LOOKED_UP: Final = 100
MAX_JUDGED: Final = 10

# Of a step whose task there never was, or was long ago.
NEVER_SUBMITTED: Final = (
    "there is no task of it: it could not be submitted, and the log of a node that keeps the"
    " workflow says why"
)


class StepWhy(msgspec.Struct, kw_only=True):
    """Why an instance of a step is where it is.

    :ivar label: the step's name, with what was chosen of its matrix.
    :ivar state: ``waiting``, ``submitted`` or ``failed``.
    :ivar task: ID of its task, "" without one.
    :ivar task_state: of its task: ``waiting``, ``running``, ``cancelling``, or how that ended; ""
        where it was not looked up.
    :ivar worker_name: the machine where it runs or ran.
    :ivar exit_status: of its command, null where it has none.
    :ivar why: what it waits for, or how it ended.
    :ivar stderr: the end of what it has printed on standard error, or else on standard output, once
        it has ended.
    :ivar nodes: of one whose task waits, what each machine lacks; for some of them alone, where
        they are many.
    """

    label: str
    state: str
    task: str
    task_state: str = ""
    worker_name: str = ""
    exit_status: int | None = None
    why: str = ""
    stderr: str = ""
    nodes: Sequence[NodeVerdict] = ()


class WorkflowWhy:
    """Looks at workflows.

    :param name_of: what the member with a peer ID is called.
    """

    def __init__(
        self, service: TaskService, submitting: Submitting, name_of: Callable[[str], str]
    ) -> None:
        self._service = service
        self._submitting = submitting
        self._name_of = name_of

    async def steps(self, record: WorkflowRecord) -> list[StepWhy]:
        """Those instances that wait, that have a task which has not ended, and that have failed."""
        waiting = waits_for(record.plan, record.progress)
        told: list[StepWhy] = []
        looked_up = judged = 0
        infos = step_infos(record)
        for place, entry in enumerate(record.progress.entries):
            info = infos[place]
            if place in waiting:
                why = _why_not_begun(waiting[place], record)
                told.append(StepWhy(label=info.label, state=info.state, task="", why=why))
            elif entry.status in ACTIVE or entry.status is Status.FAILED:
                each = StepWhy(label=info.label, state=info.state, task=info.task)
                told.append(each)
                if looked_up == MAX_LOOKED_UP:
                    continue
                looked_up += 1
                found = await self._find(entry.task, record)
                if found is not None:
                    self._tell_task(each, found, judged < MAX_JUDGED)
                    judged += bool(each.nodes)
                elif entry.status is Status.FAILED:
                    each.why = NEVER_SUBMITTED
        return told

    async def _find(self, task: str, record: WorkflowRecord) -> TaskRecord | None:
        """The task of one of its steps; None where there is none yet, or nobody can be asked."""
        try:
            found = await self._service.find(task, record.submission.replicas)
        except BzzzError:
            return None
        # Others may submit tasks of their own that have the IDs of steps, as these are known.
        return found if found.submission.workflow == record.workflow else None

    def _tell_task(self, each: StepWhy, found: TaskRecord, judge: bool) -> None:
        task = task_info(found, self._name_of)
        each.task_state = "cancelling" if task.cancel and not found.has_ended else task.state
        each.exit_status = task.exit_status
        each.why = _why(task)
        if task.state == "waiting":
            if judge:
                each.nodes = self._submitting.verdicts(found.submission)
                each.why = "; ".join(filter(None, (why_it_waits(each.nodes), task.why)))
            return
        each.worker_name = task.worker_name
        produced = found.state.produced
        if produced is not None and found.has_ended:
            each.stderr = (produced.stderr or produced.stdout).decode("utf-8", "replace")


def _why_not_begun(steps: Sequence[str], record: WorkflowRecord) -> str:
    if steps:
        return f"it comes after {', '.join(steps)}"
    most = record.plan.workflow.max_parallel
    return f"max_parallel lets {most} run at once" if most else "it is about to begin"


def _why(task: TaskInfo) -> str:
    if task.state == "timed_out":
        return task.why or f"it took longer than {task.timeout:g} s"
    return task.why
