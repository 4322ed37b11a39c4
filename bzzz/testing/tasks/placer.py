"""A placer for the simulator: random workers, by what this node knows that it has given them."""

from __future__ import annotations

from collections.abc import Callable, Collection

from bzzz.identity.peer_id import PeerID
from bzzz.net.interfaces import Clock
from bzzz.tasks.submission import Submission
from bzzz.tasks.value import TaskRecord

__all__ = ["SimPlacer"]

# Seconds between two looks, and for which a worker that has refused is not asked again.
LOOK = 0.25
AVOID = 1.0


class SimPlacer:
    """Implements :class:`bzzz.tasks.interfaces.Placer`.

    :param candidates: peers that may run tasks and are linked, this node with them.
    :param rng: has ``random()``.
    :param room: tasks that one worker runs at once.
    """

    def __init__(
        self,
        clock: Clock,
        rng: Callable[[], float],
        candidates: Callable[[], Collection[PeerID]],
        place: Callable[[str, str], bool],
        room: int,
    ) -> None:
        self._clock = clock
        self._rng = rng
        self._candidates = candidates
        self._place = place
        self._room = room
        self._waiting: dict[str, TaskRecord] = {}
        self._given: dict[str, str] = {}
        self._taken: dict[str, int] = {}
        self._avoid: dict[str, float] = {}
        self._planned = False

    def want(self, record: TaskRecord) -> None:
        """See :class:`Placer`."""
        self._waiting[record.task] = record
        self._plan(0.0)

    def drop(self, task: str) -> None:
        """See :class:`Placer`."""
        self._waiting.pop(task, None)

    def assigned(self, submission: Submission, token: int, worker: str, mine: bool) -> None:
        """See :class:`Placer`."""
        self.over(submission.task)
        self._given[submission.task] = worker
        self._taken[worker] = self._taken.get(worker, 0) + 1

    def over(self, task: str) -> None:
        """See :class:`Placer`."""
        worker = self._given.pop(task, None)
        if worker is not None:
            self._taken[worker] -= 1
            self._plan(0.0)

    def refused(self, submission: Submission, worker: str, reason: str, for_good: bool) -> None:
        """See :class:`Placer`."""
        self._avoid[worker] = self._clock.seconds() + AVOID

    def lost(self, worker: str) -> None:
        """See :class:`Placer`."""
        self._avoid[worker] = self._clock.seconds() + AVOID

    def suggest(self) -> str:
        """Who has room, or ""."""
        now = self._clock.seconds()
        fitting = [
            str(peer)
            for peer in sorted(self._candidates())
            if self._taken.get(str(peer), 0) < self._room and self._avoid.get(str(peer), 0.0) <= now
        ]
        if not fitting:
            return ""
        two = [fitting[int(self._rng() * len(fitting))] for _ in range(2)]
        return min(two, key=lambda worker: self._taken.get(worker, 0))

    def _plan(self, seconds: float) -> None:
        if not self._planned:
            self._planned = True
            self._clock.callLater(seconds, self._look)

    def _look(self) -> None:
        self._planned = False
        for task in sorted(self._waiting):
            worker = self.suggest()
            if not worker:
                break
            del self._waiting[task]
            self._place(task, worker)
        if self._waiting:
            self._plan(LOOK)
