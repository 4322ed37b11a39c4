"""How busy a node is: the data of an ``availability_broadcast``, and this node's own state.

======== ==========================================================================================
ready    no task runs and there is room for one
working  tasks run and there is room for another
busy     there is no room; also of a node that is set to run none
draining it finishes what runs and takes nothing new
======== ==========================================================================================
"""

from __future__ import annotations

import datetime
from collections.abc import Callable
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from bzzz.errors import LocalProtocolError
from bzzz.mesh.capability import Count, Name

__all__ = ["Availability", "AvailabilityDocument", "FreeRoom", "Status"]

Status = Literal["ready", "working", "busy", "draining"]

Moment = Annotated[datetime.datetime, Meta(tz=True)]


class FreeRoom(msgspec.Struct, frozen=True, kw_only=True):
    """What of a node is free for tasks.

    :ivar cpus: cores.
    :ivar memory_bytes: likewise.
    :ivar gpus: how many.
    """

    cpus: Annotated[float, Meta(ge=0, le=65536)] = 0.0
    memory_bytes: Count = 0
    gpus: Annotated[int, Meta(ge=0, le=64)] = 0


class AvailabilityDocument(msgspec.Struct, frozen=True, kw_only=True):
    """How busy one node is.

    :ivar node_id: its peer ID; Go nodes send ``<peer.ID 12*aBcDeF>``.
    :ivar available_for_work: whether it would take one more task.
    :ivar current_tasks: that run there.
    :ivar max_tasks: that it runs at most.
    :ivar status: in a word.
    :ivar last_activity: when a task began or ended there last, or when it started.
    :ivar timestamp: when this was said.
    :ivar room: what is free for tasks; None of one that does not tell.
    """

    node_id: Name
    available_for_work: bool = False
    current_tasks: Count = 0
    max_tasks: Count = 0
    status: Status = "busy"
    last_activity: Moment | None = None
    timestamp: Moment | None = None
    room: FreeRoom | None = None

    def same_as(self, other: AvailabilityDocument) -> bool:
        """Whether both say the same, apart from when."""
        return (
            self.available_for_work == other.available_for_work
            and self.current_tasks == other.current_tasks
            and self.max_tasks == other.max_tasks
            and self.status == other.status
            and self.room == other.room
        )

    def describe(self) -> str:
        """A summary for people: ``working, 2 of 8 tasks``."""
        return f"{self.status}, {self.current_tasks} of {self.max_tasks} tasks"


class Availability:
    """How busy this node is.

    :param wall_time: seconds since the epoch.
    :ivar room: tells what is free for tasks; None where that is not known.
    """

    def __init__(self, max_tasks: int, wall_time: Callable[[], float]) -> None:
        self._max_tasks = max_tasks
        self._wall_time = wall_time
        self._current = 0
        self._drained = False
        self._leaving = False
        self._last_activity = wall_time()
        # What is free, where it is known.
        self.room: Callable[[], FreeRoom | None] = lambda: None
        self._observers: list[Callable[[], None]] = []

    def on_change(self, observer: Callable[[], None]) -> None:
        """Call ``observer`` after each change."""
        self._observers.append(observer)

    @property
    def current_tasks(self) -> int:
        """Tasks running."""
        return self._current

    @property
    def max_tasks(self) -> int:
        """Most tasks to run at one time."""
        return self._max_tasks

    @property
    def draining(self) -> bool:
        """Whether nothing new is taken."""
        return self._drained or self._leaving

    @property
    def available_for_work(self) -> bool:
        """Whether one more task would be taken."""
        return not self.draining and self._current < self._max_tasks

    @property
    def status(self) -> Status:
        """See the module's table."""
        if self.draining:
            return "draining"
        if self._current >= self._max_tasks:
            return "busy"
        return "working" if self._current else "ready"

    def task_started(self) -> None:
        """One more task runs."""
        self._current += 1
        self._last_activity = self._wall_time()
        self._changed()

    def task_ended(self) -> None:
        """One task fewer runs.

        :raises LocalProtocolError: none ran.
        """
        if not self._current:
            raise LocalProtocolError("a task ended that was not counted when it started")
        self._current -= 1
        self._last_activity = self._wall_time()
        self._changed()

    def set_max_tasks(self, max_tasks: int) -> None:
        """Run at most ``max_tasks`` from now on; those that run are left to end."""
        if max_tasks != self._max_tasks:
            self._max_tasks = max_tasks
            self._changed()

    def room_changed(self) -> None:
        """Something else is free for tasks, with as many of them as before."""
        self._changed()

    def drain(self) -> None:
        """Take nothing new: somebody wants it so."""
        self._set_draining(True, self._leaving)

    def resume(self) -> None:
        """Nobody wants that any more. New tasks are taken again, unless the node is to end."""
        self._set_draining(False, self._leaving)

    def leave(self) -> None:
        """Take nothing new: the node is to end."""
        self._set_draining(self._drained, True)

    def stay(self) -> None:
        """It does not end after all."""
        self._set_draining(self._drained, False)

    def document(self, node_id: str) -> AvailabilityDocument:
        """The state at this moment."""
        return AvailabilityDocument(
            node_id=node_id,
            available_for_work=self.available_for_work,
            current_tasks=self._current,
            max_tasks=self._max_tasks,
            status=self.status,
            last_activity=_moment(self._last_activity),
            timestamp=_moment(self._wall_time()),
            room=self.room(),
        )

    def _set_draining(self, drained: bool, leaving: bool) -> None:
        before = self.draining
        self._drained, self._leaving = drained, leaving
        if self.draining is not before:
            self._changed()

    def _changed(self) -> None:
        for observer in self._observers:
            observer()


def _moment(seconds: float) -> datetime.datetime:
    # Whole milliseconds: nobody needs more of it, and it is 3 digits less in each broadcast.
    return datetime.datetime.fromtimestamp(round(seconds, 3), datetime.UTC)
