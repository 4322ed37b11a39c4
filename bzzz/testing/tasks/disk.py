"""Registers on the disk of a simulated machine: slow, full at times, and failing."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from twisted.internet.defer import Deferred, succeed

from bzzz.database import DatabaseError
from bzzz.net.interfaces import Clock, Randomness
from bzzz.tasks.acceptor import EMPTY, Kept
from bzzz.tasks.ballots import Ballot
from bzzz.tasks.reading import counts
from bzzz.tasks.register_store import Answered, Asked, Row, answer, row_of

__all__ = ["SimDisk"]

# Seconds that a write with its fsync takes, and now and then.
FSYNC = 0.002
SLOW_FSYNC = 0.5


class Platter:
    """What is kept; it outlives the process.

    :ivar decided: the ballots of ends that are known to be decided.
    :ivar full: whether nothing more can be written.
    :ivar failing: whether the next fsync fails.
    """

    def __init__(self) -> None:
        self.kept: dict[str, Kept] = {}
        self.decided: dict[str, Ballot] = {}
        self.full = False
        self.failing = False


class SimDisk:
    """Implements :class:`bzzz.tasks.register_store.RegisterStore` for one process.

    :param clock: of the process; none of its calls is made once it is gone.
    :param is_open: whether something is still to be done for what a value is about.
    :param broken: called after an fsync failed: the process does not trust its disk any more.
    """

    def __init__(
        self,
        platter: Platter,
        clock: Clock,
        rng: Randomness,
        is_open: Callable[[bytes], bool],
        broken: Callable[[], object],
    ) -> None:
        self._platter = platter
        self._clock = clock
        self._rng = rng
        self._is_open = is_open
        self._broken = broken
        self._decided: dict[str, Ballot] = {}
        self._before: Deferred[None] | None = None
        self._free_at = 0.0

    def load(self) -> Deferred[dict[str, Kept]]:
        """See :class:`RegisterStore`."""
        kept = self._platter.kept
        return succeed(
            {
                task: each
                for task, each in kept.items()
                if each.accepted is not None
                and (
                    self._is_open(each.value)
                    or not (counts(each.value) or self._platter.decided.get(task) == each.accepted)
                )
            }
        )

    def decided(self, task: str, ballot: Ballot) -> None:
        """See :class:`RegisterStore`."""
        self._decided[task] = ballot

    def read(self, task: str) -> Deferred[Kept | None]:
        """See :class:`RegisterStore`."""
        kept = self._platter.kept.get(task)
        return succeed(kept if kept is not None and kept.accepted is not None else None)

    def page(self, before: str, since: str, every: bool, most: int) -> Deferred[list[Row]]:
        """See :class:`RegisterStore`."""
        kept = self._platter.kept
        tasks = sorted((task for task in kept if since <= task < (before or "~")), reverse=True)
        rows = [
            row_of(task, kept[task].value, self._is_open)
            for task in tasks
            if kept[task].accepted is not None
        ]
        return succeed(
            [row for row in rows if every or row.value is None or self._is_open(row.value)][:most]
        )

    def forget(self, before: str, keep: int, most: int) -> Deferred[int]:
        """See :class:`RegisterStore`."""
        return succeed(0)

    def ask(self, batch: Sequence[Asked]) -> Deferred[list[Answered]]:
        """See :class:`RegisterStore`."""
        written: Deferred[list[Answered]] = Deferred()
        draw = self._rng.random
        slow = draw() < 0.005
        took = SLOW_FSYNC * draw() if slow else FSYNC * (0.5 + draw())
        # A process that ends after this moment and before the answer may have kept it, or not.
        reached = took * draw()
        changed: dict[str, Kept] = {}
        answers: list[Answered] = []
        decided, self._decided = self._decided, {}

        def write() -> None:
            platter = self._platter
            if platter.full or platter.failing:
                return
            for asked in batch:
                before = changed.get(asked.task) or platter.kept.get(asked.task, EMPTY)
                answered = answer(before, asked)
                changed[asked.task] = answered.kept
                answers.append(answered)
            platter.kept.update(changed)
            platter.decided.update(decided)

        def end() -> None:
            if answers or not batch:
                written.callback(answers)
            elif self._platter.failing:
                self._platter.failing = False
                written.errback(DatabaseError("the disk fails"))
                self._broken()
            else:
                written.errback(DatabaseError("the disk is full"))

        self._clock.callLater(reached, write)
        self._clock.callLater(took, end)
        return written
