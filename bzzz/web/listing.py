"""What the members keep, put together, a page at a time.

Enters: which page. Leaves: the newest record of each task and workflow of it, the newest first, and
where the next page begins.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

from twisted.python.failure import Failure

from bzzz.errors import BzzzError, RemoteProtocolError
from bzzz.identity.peer_id import PeerID
from bzzz.tasks.askers import submitted
from bzzz.tasks.finding import newest
from bzzz.tasks.messages import Listed, Listing
from bzzz.tasks.service import TaskService
from bzzz.tasks.submission import TASK
from bzzz.tasks.value import TaskRecord, decode_record
from bzzz.tasks.workflows.record import Outline, is_workflow, read_outline

__all__ = ["Page", "list_page"]

Record = TaskRecord | Outline


class Page(NamedTuple):
    """A page of what the members keep.

    :ivar following: the ID before which the next page begins; "" where there is none.
    :ivar more: whether there may be more.
    :ivar asked: how many other members were, and how many of them have answered.
    :ivar unreadable: IDs of tasks that are kept and cannot be read.
    """

    tasks: Sequence[TaskRecord]
    workflows: Sequence[Outline]
    following: str
    more: bool
    asked: int
    answered: int
    unreadable: Sequence[str]


async def list_page(service: TaskService, listing: Listing) -> Page:
    """Ask this node and all members that are linked.

    :raises DatabaseError: this node's own cannot be read.
    """
    others = sorted(service.peers.linked())
    asking = [service.peers.ask(peer, listing).addErrback(_not_listed) for peer in others]
    listings = [(service.own, await service.list_here(listing))]
    for peer, each in zip(others, asking, strict=True):
        answer = await each
        if isinstance(answer, Listed):
            listings.append((peer, answer))
    told = _Told(listing)
    for peer, listed in listings:
        told.take(peer, listed)
    records = told.newest()
    if not listing.ended:
        records = [record for record in records if not record.has_ended]
    kept = records[: listing.most]
    following = _id_of(kept[-1]) if len(records) > len(kept) else told.horizon
    if not listing.ended:
        answered = {str(peer) for peer, _ in listings}
        kept = [
            record
            for record in kept
            if not isinstance(record, TaskRecord)
            or not await _ended(service, record, answered - told.tellers[record.task])
        ]
    return Page(
        tasks=[record for record in kept if isinstance(record, TaskRecord)],
        workflows=[record for record in kept if isinstance(record, Outline)],
        following=following,
        more=bool(following) or any(listed.more for _, listed in listings),
        asked=len(others),
        answered=len(listings) - 1,
        unreadable=told.unreadable(),
    )


class _Told:
    """What members have told.

    :ivar tellers: for each task, those that have told of it.
    :ivar horizon: the least ID down to which everybody has told all; "" where that is the end. What
        is beyond comes with the next page: somebody may have newer ones than those.
    """

    def __init__(self, listing: Listing) -> None:
        self._listing = listing
        self._tasks: dict[str, list[TaskRecord]] = {}
        self._workflows: dict[str, list[Outline]] = {}
        self._unreadable: set[str] = set()
        # By their bytes: those who keep a task have the same record of it, as a rule.
        self._known: dict[bytes, Record | None] = {}
        self.tellers: dict[str, set[str]] = {}
        self.horizon = ""

    def take(self, peer: PeerID, listed: Listed) -> None:
        """A member has told this."""
        self._unreadable.update(listed.unreadable)
        last = ""
        for value in listed.records:
            if value not in self._known:
                self._known[value] = self._read(value)
            record = self._known[value]
            if record is None or str(peer) not in record.submission.replicas:
                continue
            each = last = _id_of(record)
            if isinstance(record, TaskRecord):
                self._tasks.setdefault(each, []).append(record)
                self.tellers.setdefault(each, set()).add(str(peer))
            else:
                self._workflows.setdefault(each, []).append(record)
        if listed.more:
            self.horizon = max(self.horizon, last)

    def newest(self) -> list[Record]:
        """The newest record of each down to the horizon, the newest first."""
        records: list[Record] = [
            *(newest(each, lambda one: one.state.version) for each in self._tasks.values()),
            *(newest(each, lambda one: one.version) for each in self._workflows.values()),
        ]
        return sorted(
            (record for record in records if _id_of(record) >= self.horizon),
            key=_id_of,
            reverse=True,
        )

    def unreadable(self) -> list[str]:
        """IDs of tasks that nobody could read."""
        return sorted(self._unreadable - self._tasks.keys() - self._workflows.keys(), reverse=True)

    def _read(self, value: bytes) -> Record | None:
        try:
            record = read_outline(value) if is_workflow(value) else decode_record(value)
        except RemoteProtocolError:
            # A member of a newer version can read it.
            self._unreadable |= _id_as_submitted(value)
            return None
        # Who tells of others would have whoever asks for the next page go round in circles.
        before = self._listing.before
        return record if not before or _id_of(record) < before else None


def _id_of(record: Record) -> str:
    return record.task if isinstance(record, TaskRecord) else record.workflow


async def _ended(service: TaskService, record: TaskRecord, others: Collection[str]) -> bool:
    """Whether a task has ended that a member takes for open, as one whose disk is full may.

    :param others: members that did not list it.
    """
    replicas = [each for each in record.submission.replicas if each in others]
    if not replicas:
        return False
    try:
        found = await service.find(record.task, replicas)
    except BzzzError:
        return False
    return found.signed == record.signed and found.has_ended


def _not_listed(failure: Failure) -> None:
    """A member does not answer. Nobody may be waiting any more when that is known."""
    failure.trap(BzzzError)


def _id_as_submitted(value: bytes) -> set[str]:
    """The ID of a task whose record cannot be read, where as much of it can."""
    try:
        task = submitted(value).task
    except RemoteProtocolError:
        return set()
    return {task} if TASK.fullmatch(task) else set()
