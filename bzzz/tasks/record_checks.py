"""What members say of tasks, and whether it may be so: signatures, rights, whose a record is.

Enters: records that peers propose or tell. Leaves: nothing, or an error. docs/tasks.rst, "On the
wire".
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Final

from bzzz.errors import RemoteProtocolError
from bzzz.identity.peer_id import PeerID
from bzzz.tasks import submission as submissions
from bzzz.tasks.askers import Asker, has_place, same_step, submitted
from bzzz.tasks.ballots import Accept, Ballot
from bzzz.tasks.messages import Answer, Found, Register
from bzzz.tasks.reading import LastRead
from bzzz.tasks.submission import SignedSubmission, Submission, SubmissionError
from bzzz.tasks.value import TaskRecord, decode_record, peer_id
from bzzz.tasks.workflows.record import (
    WorkflowRecord,
    decode_workflow,
    is_workflow,
    verify_workflow,
)
from bzzz.tasks.world import Trusted

__all__ = ["RecordChecks"]

# Submissions whose signature is remembered as good: those of tasks that change often.
MAX_VERIFIED: Final = 10_000


class RecordChecks:
    """The checks of one node.

    :param known: the newest record of a task that is driven here.
    :param known_workflow: the same of a workflow.
    """

    def __init__(
        self,
        own: PeerID,
        trusted: Trusted,
        reading: LastRead,
        known: Callable[[str], TaskRecord | None],
        known_workflow: Callable[[str], WorkflowRecord | None],
    ) -> None:
        self._own = own
        self._own_text = str(own)
        self._trusted = trusted
        self._reading = reading
        self._known = known
        self._known_workflow = known_workflow
        self._verified: OrderedDict[bytes, None] = OrderedDict()

    def remember(self, signed: SignedSubmission) -> None:
        """A submission's signature is good."""
        self._verified[submissions.digest(signed)] = None
        if len(self._verified) > MAX_VERIFIED:
            self._verified.popitem(last=False)

    def verified(self, signed: SignedSubmission) -> Submission:
        """Read a submission, whose signature is looked at where that was not done before.

        :raises RemoteProtocolError: it is none, or not signed by its origin.
        """
        if submissions.digest(signed) in self._verified:
            return submissions.read(signed.data)
        return submissions.verify(signed)

    def check_right(self, peer: PeerID) -> None:
        """See that a member may change tasks.

        :raises RemoteProtocolError: it may not.
        """
        if not self._trusted.may_submit(peer):
            raise RemoteProtocolError(f"{peer} may not change tasks: its role does not allow it")

    def check_own_right(self) -> None:
        """See that this node's owner may have tasks submitted and changed by it.

        :raises SubmissionError: they may not.
        """
        if not self._trusted.may_submit(self._own):
            raise SubmissionError(
                "this node may neither submit nor change tasks: its role does not allow it. Use"
                " another machine, or have an admin give this one another role: bzzz admit"
                f" {self._own.short} --role member"
            )

    def asker(self, peer: PeerID, register: Register) -> Asker:
        """Who asks about a register, when what has come along was found to be good. What this node
        asks itself is: it proposes what it has signed, or what it keeps.

        :raises RemoteProtocolError: it is not.
        """
        request, name = register.request, str(peer)
        if name != self._own_text:
            if isinstance(request, Accept):
                self._check_good(peer, register.task, request.ballot, request.value)
            elif register.record:
                self._check_good(peer, register.task, request.ballot, register.record)
            else:
                return Asker(name, shown=False)
        return Asker(name, shown=True)

    def check_promised(self, task: str, shown: bytes, value: bytes) -> None:
        """See that a replica has promised to change what its proposer goes by.

        :param shown: that.
        :param value: what the replica has.
        :raises RemoteProtocolError: it is another task.
        """
        before, after = submitted(shown), submitted(value)
        if before.signed == after.signed:
            return
        if not same_step(before, after):
            raise RemoteProtocolError(
                f"another task has the ID {task} at a replica", "promise_of_another"
            )
        record = decode_record(value)
        self._check_signed(record.signed, record.submission)

    def _check_good(self, peer: PeerID, task: str, ballot: Ballot, value: bytes) -> None:
        """See that a value's submission is good: docs/tasks.rst, "Who may ask a replica".

        :raises RemoteProtocolError: it is not.
        """
        if is_workflow(value):
            known = self._known_workflow(task)
            workflow = decode_workflow(value, known=known)
            self._check_place(peer, ballot, workflow.workflow, task, workflow.submission.replicas)
            if known is None or known.signed != workflow.signed:
                verify_workflow(workflow.signed)
                self._check_rights(workflow.submission.origin, peer)
            return
        record = self._reading.read(value)
        submission = record.submission
        self._check_place(peer, ballot, submission.task, task, submission.replicas)
        self._check_signed(record.signed, submission, peer)

    def found(self, peer: PeerID, task: str, answer: Answer) -> TaskRecord | None:
        """What a member has told of a task; None where it has told of none.

        Whether its origin may submit now is not looked at: it could when its replicas took it.

        :raises RemoteProtocolError: it is no record of the task, or not the member's to tell.
        """
        if not isinstance(answer, Found) or answer.record is None or is_workflow(answer.record):
            return None
        record = decode_record(answer.record)
        _check_told(peer, record.task, task, record.submission.replicas)
        if submissions.digest(record.signed) not in self._verified:
            submissions.verify(record.signed)
        return record

    def found_workflow(self, peer: PeerID, workflow: str, answer: Answer) -> WorkflowRecord | None:
        """The same of a workflow.

        :raises RemoteProtocolError: likewise.
        """
        if not isinstance(answer, Found) or not answer.record or not is_workflow(answer.record):
            return None
        record = decode_workflow(answer.record)
        _check_told(peer, record.workflow, workflow, record.submission.replicas)
        verify_workflow(record.signed)
        return record

    def _check_place(
        self, peer: PeerID, ballot: Ballot, about: str, task: str, replicas: Sequence[str]
    ) -> None:
        if about != task:
            raise RemoteProtocolError("a record is of another task", "record_task")
        if self._own_text not in replicas:
            raise RemoteProtocolError("a record is not this node's to keep", "record_replica")
        if not has_place(replicas, ballot, str(peer)):
            raise RemoteProtocolError("a ballot is another replica's", "record_proposer")

    def _check_signed(
        self, signed: SignedSubmission, submission: Submission, asker: PeerID | None = None
    ) -> None:
        known = self._known(submission.task)
        if (known is not None and known.signed == signed) or submissions.digest(
            signed
        ) in self._verified:
            return
        submissions.verify(signed)
        self._check_rights(submission.origin, asker)
        self.remember(signed)

    def _check_rights(self, origin: str, asker: PeerID | None) -> None:
        """See that one of them may submit: who goes on with what an origin has submitted that may
        not any more, and was acknowledged, could as well have submitted it.

        :raises RemoteProtocolError: neither may.
        """
        if self._trusted.may_submit(peer_id(origin)):
            return
        if asker is None or not self._trusted.may_submit(asker):
            raise RemoteProtocolError(f"{origin} may not submit tasks", "submission_right")


def _check_told(peer: PeerID, about: str, task: str, replicas: Sequence[str]) -> None:
    if about != task:
        raise RemoteProtocolError(f"{peer} has told of {about}, not of {task}", "found_task")
    if str(peer) not in replicas:
        raise RemoteProtocolError(f"{peer} does not keep the record that it tells", "found_replica")
