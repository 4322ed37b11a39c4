"""What a register's value says, be it a task's or a workflow's.

Enters: values, as replicas accept them. Leaves: what a replica has to know of them.
"""

from __future__ import annotations

from bzzz.tasks.acceptor import Kept
from bzzz.tasks.record import State
from bzzz.tasks.replica import Current
from bzzz.tasks.value import TaskRecord, decode_record
from bzzz.tasks.workflows.record import decode_workflow, is_workflow

__all__ = ["LastRead", "counts", "is_open"]


class LastRead:
    """Reads values of tasks; several ask for the same one after the other."""

    def __init__(self) -> None:
        self._record: TaskRecord | None = None
        self._value = b""

    def read(self, value: bytes, kept: Kept | None = None) -> TaskRecord:
        """The record that a value is.

        :param kept: what the replica has accepted, with the value.
        :raises RemoteProtocolError: it is none.
        """
        last = self._record
        if last is None or self._value is not value:
            last = self._record = decode_record(value)
            self._value = value
        if kept is not None and kept.accepted is not None and last.ballot != kept.accepted:
            last = TaskRecord(last.signed, last.submission, last.state, kept.accepted)
        return last

    def current(self, value: bytes) -> Current | None:
        """The attempt that is current by a value; None: none is.

        :raises RemoteProtocolError: it is no record.
        """
        if is_workflow(value):
            return None
        record = self.read(value)
        if record.state.state is not State.ASSIGNED:
            return None
        submission = record.submission
        return Current(
            record.state.token, record.state.worker, submission.lease, submission.replicas
        )


def is_open(value: bytes) -> bool:
    """Whether something is still to be done for what a register's value is about.

    :raises RemoteProtocolError: it is neither a task nor a workflow.
    """
    if is_workflow(value):
        return not decode_workflow(value).has_ended
    return not decode_record(value).has_ended


def counts(value: bytes) -> bool:
    """Whether an end that a replica has accepted counts, without a word that it is decided: where
    there is no other replica; and a workflow's, which any of them finds again.

    :raises RemoteProtocolError: it is neither a task nor a workflow.
    """
    return is_workflow(value) or len(decode_record(value).submission.replicas) == 1
