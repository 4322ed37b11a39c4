"""What this node answers other members that ask it about tasks.

Enters: questions of members, and of this node itself. Leaves: answers. What its own owner wants is
in :mod:`bzzz.tasks.service`. docs/tasks.rst, "On the wire".
"""

from __future__ import annotations

from twisted.internet.defer import Deferred, succeed
from twisted.python.failure import Failure

from bzzz.errors import BzzzError, RemoteProtocolError
from bzzz.identity.peer_id import PeerID
from bzzz.tasks import submission as submissions
from bzzz.tasks.driver import Driver
from bzzz.tasks.holding import Holding
from bzzz.tasks.kept_records import KeptRecords, found
from bzzz.tasks.messages import (
    Answer,
    Cancel,
    Done,
    Failed,
    Find,
    Hold,
    Listing,
    Offer,
    Refused,
    Register,
    Renew,
    Report,
    Request,
    Retry,
    Settled,
    Stop,
    Told,
)
from bzzz.tasks.record import shorten
from bzzz.tasks.record_checks import RecordChecks
from bzzz.tasks.renewing import Renewing
from bzzz.tasks.replica import Replica
from bzzz.tasks.value import peer_id
from bzzz.tasks.worker import Worker
from bzzz.tasks.workflows.driver import WorkflowDriver
from bzzz.tasks.world import Trusted

__all__ = ["Answering"]


class Answering:
    """Answers for one node.

    :param holding: None where it keeps no files.
    """

    def __init__(
        self,
        own: PeerID,
        trusted: Trusted,
        replica: Replica,
        renewing: Renewing,
        driver: Driver,
        workflows: WorkflowDriver,
        worker: Worker,
        kept: KeptRecords,
        checks: RecordChecks,
        holding: Holding | None,
    ) -> None:
        self._own = own
        self._trusted = trusted
        self._replica = replica
        self._renewing = renewing
        self._driver = driver
        self._workflows = workflows
        self._worker = worker
        self._kept = kept
        self._checks = checks
        self._holding = holding

    def answer(self, peer: PeerID, request: Request) -> Deferred[Answer]:
        """Answer a member. It does not fail."""
        if isinstance(request, Renew):
            return self._renewing.answer(str(peer), request.attempts)
        if isinstance(request, Offer):
            try:
                return succeed(self._offered(peer, request))
            except BzzzError as error:
                return succeed(_failure(error))
        if isinstance(request, Register) and not self._kept.is_old(request.task):
            # Most of what is asked.
            try:
                return self._ask_replica(peer, request)
            except BzzzError as error:
                return succeed(_failure(error))
        return Deferred.fromCoroutine(self._answer(peer, request))

    def _ask_replica(self, peer: PeerID, request: Register) -> Deferred[Answer]:
        """Ask this node's replica.

        :raises RemoteProtocolError: the peer may not.
        """
        asker = self._checks.asker(peer, request)
        asking = self._replica.ask(request.task, request.request, asker)
        return asking.addCallbacks(Told, _failed)

    async def _answer(self, peer: PeerID, request: Request) -> Answer:
        try:
            if isinstance(request, Report):
                return await self._reported(peer, request)
            return await self._answer_other(peer, request)
        except BzzzError as error:
            return _failure(error)

    async def _answer_other(self, peer: PeerID, request: Request) -> Answer:
        match request:
            case Register(task):
                await self._kept.check_age(task)
                return await self._ask_replica(peer, request)
            case Stop(task, token):
                self._worker.stop_attempt(peer, task, token)
                return Done()
            case Find(task):
                return await self._kept.find(task)
            case Cancel() | Retry():
                self._checks.check_right(peer)
                return await self._change(request)
            case Listing():
                return await self._kept.page(request)
            case Settled(tasks):
                self._driver.settled(peer, tasks)
                return Done()
            case Hold():
                return await self._hold(peer, request)
        raise RemoteProtocolError(f"{type(request).__name__} is not answered", "not_answered")

    async def _reported(self, peer: PeerID, report: Report) -> Answer:
        record = await self._kept.required(report.task)
        if report.submission != submissions.digest(record.signed):
            raise RemoteProtocolError(
                f"{peer} has run another task with the ID {report.task}", "report_of_another"
            )
        await self._driver.report(peer, report, record)
        return Done()

    async def _change(self, request: Cancel | Retry) -> Answer:
        workflow = await self._kept.workflow(request.task)
        if workflow is not None:
            await self._workflows.change(workflow, request)
            return Done()
        record = await self._kept.required(request.task)
        if isinstance(request, Cancel):
            return found(await self._driver.cancel(record))
        return found(await self._driver.retry(record, request.token))

    def _offered(self, peer: PeerID, offer: Offer) -> Answer:
        submission = self._checks.verified(offer.signed)
        if str(peer) not in submission.replicas:
            raise RemoteProtocolError(f"{peer} does not keep the task that it offers", "offer")
        if not self._trusted.may_submit(peer_id(submission.origin)):
            return Refused(f"{submission.origin} may not submit tasks", for_good=True)
        if not self._trusted.may_run(self._own):
            return Refused("its role does not let it run tasks", for_good=True)
        answer = self._worker.offer(peer, offer.signed, submission, offer.token)
        if isinstance(answer, Refused):
            return Refused(shorten(answer.reason), answer.for_good)
        return answer

    async def _hold(self, peer: PeerID, request: Hold) -> Answer:
        """Keep files of a task that is to be submitted, or that was run by who has them.

        :raises RemoteProtocolError: the peer may not have them kept.
        """
        if self._holding is None:
            return Failed("it keeps no files")
        if not self._trusted.may_submit(peer):
            record = await self._kept.task(request.task)
            if record is None or record.state.worker != str(peer):
                raise RemoteProtocolError(
                    f"{peer} does not run task {request.task}, as far as is known here, and may"
                    " not submit any"
                )
        return await self._holding.hold(peer, request)


def _failed(failure: Failure) -> Answer:
    failure.trap(BzzzError)
    return _failure(failure.value)


def _failure(error: object) -> Failed:
    return Failed(shorten(str(error)))
