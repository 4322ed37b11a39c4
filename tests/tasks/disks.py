"""Registers on a disk that is as slow and as broken as a test wants it."""

from __future__ import annotations

from collections.abc import Sequence

from twisted.internet.defer import Deferred, succeed

from bzzz.database import DatabaseError
from bzzz.tasks.acceptor import EMPTY, Kept
from bzzz.tasks.ballots import Ballot
from bzzz.tasks.reading import is_open
from bzzz.tasks.register_store import Answered, Asked, Row, answer, row_of

__all__ = ["FULL", "Disk"]

FULL = DatabaseError("the disk is full; make room")


class Disk:
    """Implements :class:`bzzz.tasks.register_store.RegisterStore`; it is as slow as it is told to.

    :ivar writes: batches that wait for :meth:`finish`.
    """

    def __init__(self) -> None:
        self.kept: dict[str, Kept] = {}
        self.slow = False
        self.writes: list[tuple[Sequence[Asked], Deferred[list[Answered]]]] = []

    def load(self) -> Deferred[dict[str, Kept]]:
        return succeed(
            {task: kept for task, kept in self.kept.items() if kept.accepted is not None}
        )

    def read(self, task: str) -> Deferred[Kept | None]:
        return succeed(self.kept.get(task))

    def page(self, before: str, since: str, every: bool, most: int) -> Deferred[list[Row]]:
        inside = [task for task in self.kept if since <= task < (before or "~")]
        tasks = sorted(inside, reverse=True)
        return succeed([row_of(task, self.kept[task].value, is_open) for task in tasks[:most]])

    def decided(self, task: str, ballot: Ballot) -> None:
        pass

    def forget(self, before: str, keep: int, most: int) -> Deferred[int]:
        return succeed(0)

    def ask(self, batch: Sequence[Asked]) -> Deferred[list[Answered]]:
        if not self.slow:
            return succeed(self._answer(batch))
        written: Deferred[list[Answered]] = Deferred()
        self.writes.append((batch, written))
        return written

    def finish(self) -> None:
        """End the write that waits."""
        batch, written = self.writes.pop(0)
        written.callback(self._answer(batch))

    def break_down(self) -> None:
        """Let the write that waits fail, with nothing written."""
        self.writes.pop(0)[1].errback(FULL)

    def _answer(self, batch: Sequence[Asked]) -> list[Answered]:
        answers = []
        for asked in batch:
            answered = answer(self.kept.get(asked.task, EMPTY), asked)
            self.kept[asked.task] = answered.kept
            answers.append(answered)
        return answers
