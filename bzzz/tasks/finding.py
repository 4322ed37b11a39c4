"""Tasks and workflows of others: found at any member, and changed at one that keeps them.

Enters: an ID, or a record and what is wanted of it. Leaves: questions to members, and the newest
record that one of them has told.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import TypeVar

from twisted.python.failure import Failure

from bzzz.errors import BzzzError
from bzzz.tasks.interfaces import Peers
from bzzz.tasks.messages import Answer, Cancel, Failed, Find, Retry
from bzzz.tasks.record_checks import RecordChecks
from bzzz.tasks.value import TaskRecord, peer_id
from bzzz.tasks.workflows.record import Outline, WorkflowRecord

__all__ = ["Finding", "NoSuchTask", "newest"]

Kind = TypeVar("Kind", TaskRecord, WorkflowRecord, Outline)


class NoSuchTask(BzzzError):
    """No member that could be asked has the task."""


class Finding:
    """Asks the other members.

    :param checks: of what they say.
    """

    def __init__(self, peers: Peers, checks: RecordChecks) -> None:
        self._peers = peers
        self._checks = checks

    async def find(self, task: str, among: Sequence[str] = ()) -> TaskRecord | None:
        """The newest record of a task that a member has; None where there is none.

        :param among: peer IDs of those that keep it, where that is known: nobody else is asked.
        """
        told: list[TaskRecord] = []
        peers = sorted(self._peers.linked())
        if among:
            peers = [peer for peer in peers if str(peer) in among]
        asking = [self._peers.ask(peer, Find(task)).addErrback(_failed) for peer in peers]
        for peer, each in zip(peers, asking, strict=True):
            try:
                record = self._checks.found(peer, task, await each)
            except BzzzError:
                continue
            if record is not None:
                told.append(record)
        return newest(told, lambda record: record.state.version) if told else None

    async def find_workflow(self, workflow: str) -> WorkflowRecord | None:
        """The same of a workflow."""
        told: list[WorkflowRecord] = []
        peers = sorted(self._peers.linked())
        asking = [self._peers.ask(peer, Find(workflow)).addErrback(_failed) for peer in peers]
        for peer, each in zip(peers, asking, strict=True):
            try:
                record = self._checks.found_workflow(peer, workflow, await each)
            except BzzzError:
                continue
            if record is not None:
                told.append(record)
        return newest(told, lambda record: record.version) if told else None

    async def change(self, record: TaskRecord, request: Cancel | Retry) -> TaskRecord:
        """Have a task changed by the first of its replicas that can.

        :raises NoSuchTask: none could, and it is not known whether it was recorded.
        """
        reasons = []
        for each in record.submission.replicas:
            try:
                answer = await self._peers.ask(peer_id(each), request)
                found = self._checks.found(peer_id(each), record.task, answer)
            except BzzzError as error:
                reasons.append(str(error))
                continue
            if found is not None:
                return found
            reasons.append(answer.reason if isinstance(answer, Failed) else "has no record of it")
        raise NoSuchTask(f"task {record.task} could not be changed: {'; '.join(reasons)}")

    async def change_workflow(self, record: WorkflowRecord, request: Cancel | Retry) -> None:
        """The same of a workflow.

        :raises NoSuchTask: likewise.
        """
        reasons = []
        for each in record.submission.replicas:
            try:
                answer = await self._peers.ask(peer_id(each), request)
            except BzzzError as error:
                reasons.append(str(error))
                continue
            if not isinstance(answer, Failed):
                return
            reasons.append(answer.reason)
        raise NoSuchTask(f"workflow {record.workflow} could not be changed: {'; '.join(reasons)}")


def newest(told: Sequence[Kind], version: Callable[[Kind], int]) -> Kind:
    """The newest of the records that members have told of one task or workflow.

    Where they tell of several submissions it is of the one that most have told of: a submitter may
    give a task of its own the ID of another's, which two members keep, if there are three.

    :param told: at least one.
    """
    count = Counter(record.signed for record in told)
    return max(told, key=lambda record: (count[record.signed], version(record)))


def _failed(failure: Failure) -> Answer:
    """Who cannot be asked has no record. Nobody may be waiting any more when that is known."""
    failure.trap(BzzzError)
    return Failed(failure.getErrorMessage())
