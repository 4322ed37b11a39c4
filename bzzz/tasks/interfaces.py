"""What tasks need of the node that they run on: peers to ask, somebody who places, a workspace."""

from __future__ import annotations

from collections.abc import Collection
from typing import Protocol as Shape

from twisted.internet.defer import Deferred

from bzzz.identity.peer_id import PeerID
from bzzz.tasks.executors.interfaces import Run
from bzzz.tasks.messages import Answer, Request
from bzzz.tasks.record import Produced
from bzzz.tasks.submission import Submission
from bzzz.tasks.value import TaskRecord

__all__ = ["Peers", "Placer", "Workspace"]


class Peers(Shape):
    """The members that can be asked about tasks."""

    def linked(self) -> Collection[PeerID]:
        """Those that can be asked now, without this node."""

    def ask(self, peer: PeerID, request: Request) -> Deferred[Answer]:
        """Ask one of them, or this node.

        Fails with :class:`~bzzz.net.calls.NotAsked` or :class:`~bzzz.net.calls.AnswerLost`.
        """

    def send_now(self) -> None:
        """Do not keep what was asked until the end of the turn, with what else may come in it,
        where those who were asked have nothing else to answer."""


class Placer(Shape):
    """Finds workers for waiting tasks, and tells :meth:`bzzz.tasks.driver.Driver.place`, once for
    each wish: a task that was not placed after all is wanted again."""

    def want(self, record: TaskRecord) -> None:
        """A task waits."""

    def drop(self, task: str) -> None:
        """It waits no more, or somebody else places it."""

    def assigned(self, submission: Submission, token: int, worker: str, mine: bool) -> None:
        """A task was assigned.

        :param mine: by this node, so that the worker hears of it later than this node does. Of what
            others assign, the worker may have said already that it has it.
        """

    def over(self, task: str) -> None:
        """Its attempt is over."""

    def refused(self, submission: Submission, worker: str, reason: str, for_good: bool) -> None:
        """A worker has refused it.

        :param for_good: whether it will not take it later either.
        """

    def lost(self, worker: str) -> None:
        """A worker was not heard of for so long that its attempt was given up."""


class Workspace(Shape):
    """Where an attempt has its files."""

    def prepare(self, submission: Submission, token: int, env: dict[str, str]) -> Deferred[Run]:
        """Make a directory with the task's inputs.

        Fails with a BzzzError that says why the attempt cannot begin.
        """

    def collect(self, submission: Submission, token: int) -> Deferred[Produced]:
        """What the attempt has left. Fails with a BzzzError."""

    def clean(self, task: str, token: int) -> None:
        """The working directory is not needed any more; its output is."""
