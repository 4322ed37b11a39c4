"""Who may ask a replica about a register (``docs/tasks.rst``, "Who may ask a replica").

Enters: what a replica keeps, who asks it, and for what. Leaves: that it may be answered, or what is
answered instead. It is looked at in the store's thread, in the transaction that answers: what was
true when the question came need not be so any more.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import msgspec
from msgspec import Struct

from bzzz.errors import RemoteProtocolError
from bzzz.tasks.acceptor import Kept
from bzzz.tasks.ballots import Accept, Ballot, Prepare, Request, Unknown
from bzzz.tasks.workflows.record import is_workflow

__all__ = ["Asker", "Denied", "Submitted", "has_place", "same_step", "submitted"]


class Submitted(NamedTuple):
    """What never changes of a register's value, as far as it is asked for here.

    :ivar signed: the submission's bytes, and its origin's signature.
    :ivar replicas: peer IDs.
    :ivar task: its ID; "" of a workflow.
    :ivar workflow: that a task is a step of, "" for none.
    :ivar step: its name.
    """

    signed: tuple[bytes, bytes]
    replicas: tuple[str, ...]
    task: str
    workflow: str
    step: str


class Denied(Struct, frozen=True):
    """The asker is not answered.

    :ivar reason: for people.
    """

    reason: str


class Asker(Struct, frozen=True):
    """Who asks a replica.

    :ivar peer: its peer ID, which its link has proved.
    :ivar shown: whether a record came along, that was found to be good; or this node asks itself.
    """

    peer: str
    shown: bool

    def judge(self, kept: Kept, request: Request) -> Unknown | Denied | None:
        """What it is answered instead of what it has asked for; None where it may ask that.

        :param request: if it is an accept, its value was found to be good.
        """
        if kept.accepted is None:
            if isinstance(request, Prepare) and not self.shown:
                return Unknown(request.ballot)
            return None
        try:
            before = submitted(kept.value)
        except RemoteProtocolError as error:
            return Denied(f"the record that is kept here cannot be read: {error}")
        if not has_place(before.replicas, request.ballot, self.peer):
            return Denied("the ballot is another replica's of the record that is kept here")
        if isinstance(request, Accept):
            after = submitted(request.value)
            if after.signed != before.signed and not same_step(before, after):
                return Denied("another task with this ID is kept here")
        return None


def has_place(replicas: Sequence[str], ballot: Ballot, peer: str) -> bool:
    """Whether a peer may use a ballot."""
    return ballot.place < len(replicas) and replicas[ballot.place] == peer


def same_step(one: Submitted, other: Submitted) -> bool:
    """Whether two submissions are of one step of a workflow, by whichever of its replicas."""
    return bool(one.task and one.workflow) and one[1:] == other[1:]


def submitted(value: bytes) -> Submitted:
    """Read the part of a value that never changes. Neither its form nor its signature is looked at.

    :raises RemoteProtocolError: it has none.
    """
    try:
        if is_workflow(value):
            data, signature = _workflow_values.decode(value).signed
            workflow = _workflows.decode(data)
            return Submitted((data, signature), workflow.replicas, "", "", "")
        data, signature = _task_values.decode(value).signed
        task = _tasks.decode(data)
    except (msgspec.MsgspecError, RecursionError, UnicodeError) as error:
        raise RemoteProtocolError(
            f"what was submitted cannot be read: {error}", "submission_unreadable"
        ) from None
    return Submitted((data, signature), task.replicas, task.task, task.workflow, task.step)


class _TaskValue(Struct, array_like=True):
    signed: tuple[bytes, bytes]
    state: msgspec.Raw


class _WorkflowValue(Struct, array_like=True):
    kind: str
    signed: tuple[bytes, bytes]
    state: msgspec.Raw


class _Task(Struct):
    task: str
    replicas: tuple[str, ...]
    workflow: str = ""
    step: str = ""


class _Workflow(Struct):
    replicas: tuple[str, ...]


_task_values: Final = msgspec.msgpack.Decoder(_TaskValue)
_workflow_values: Final = msgspec.msgpack.Decoder(_WorkflowValue)
_tasks: Final = msgspec.msgpack.Decoder(_Task)
_workflows: Final = msgspec.msgpack.Decoder(_Workflow)
