"""What happened in a run with tasks, in the order in which it did."""

from __future__ import annotations

from dataclasses import dataclass, field

from bzzz.tasks.record import TaskState

__all__ = [
    "Acknowledged",
    "CancelWanted",
    "Decided",
    "Ended",
    "Event",
    "Final",
    "History",
    "RetryWanted",
    "Started",
    "Submitted",
]


@dataclass(frozen=True)
class Submitted:
    """Somebody asks for a task."""

    at: float
    task: str
    at_most_once: bool = False


@dataclass(frozen=True)
class Acknowledged:
    """They were told that it is kept."""

    at: float
    task: str


@dataclass(frozen=True)
class CancelWanted:
    """Somebody asks for a task's end."""

    at: float
    task: str


@dataclass(frozen=True)
class RetryWanted:
    """Somebody asks for a task that has ended to be begun anew."""

    at: float
    task: str


@dataclass(frozen=True)
class Started:
    """A command began to run on a machine."""

    at: float
    task: str
    token: int
    worker: str


@dataclass(frozen=True)
class Ended:
    """It runs no more.

    :ivar exit_status: None where it was killed.
    """

    at: float
    task: str
    token: int
    worker: str
    exit_status: int | None


@dataclass(frozen=True)
class Decided:
    """A node says that a state of a task was decided."""

    at: float
    task: str
    state: TaskState


@dataclass(frozen=True)
class Final:
    """What a task's replicas say when all is over; None: a majority has no record.

    :ivar problem: why it could not be read.
    """

    at: float
    task: str
    state: TaskState | None
    problem: str = ""


Event = Submitted | Acknowledged | CancelWanted | RetryWanted | Started | Ended | Decided | Final


@dataclass
class History:
    """All of it."""

    events: list[Event] = field(default_factory=list)

    def add(self, event: Event) -> None:
        """What happens now."""
        self.events.append(event)
