"""A roster on a disk that fails when it is told to."""

from __future__ import annotations

from collections.abc import Sequence

from twisted.internet.defer import Deferred, fail, succeed

from bzzz.database import DatabaseError
from bzzz.trust.roster import Roster
from bzzz.trust.statements import SignedStatement, StatementID

__all__ = ["FailingStore"]


class FailingStore:
    """Implements :class:`bzzz.trust.roster_store.RosterStore`.

    :ivar rows: what is on the disk.
    :ivar failing: whether each change fails.
    :ivar slow: whether changes wait in ``waiting``, to be made or not.
    """

    def __init__(self) -> None:
        self.rows: dict[StatementID, bytes] = {}
        self.failing = False
        self.slow = False
        self.waiting: list[tuple[Deferred[None], list[SignedStatement]]] = []

    def roster(self) -> Roster:
        """What a node finds that starts now."""
        return Roster.load(list(self.rows.values()), verify=False)

    def finish(self, well: bool = True) -> None:
        """End the change that waits for longest."""
        written, statements = self.waiting.pop(0)
        if well:
            self._insert(statements)
            written.callback(None)
        else:
            written.errback(DatabaseError("the disk is full; make room"))

    def load(self) -> Deferred[list[bytes]]:
        return succeed(list(self.rows.values()))

    def add(self, statements: Sequence[SignedStatement]) -> Deferred[None]:
        if self.slow:
            written: Deferred[None] = Deferred()
            self.waiting.append((written, list(statements)))
            return written
        return self._change(statements, False)

    def replace(self, statements: Sequence[SignedStatement]) -> Deferred[None]:
        return self._change(statements, True)

    def clear(self) -> Deferred[None]:
        return self._change((), True)

    def _change(self, statements: Sequence[SignedStatement], alone: bool) -> Deferred[None]:
        if self.failing:
            return fail(DatabaseError("the disk is full; make room"))
        if alone:
            self.rows.clear()
        self._insert(statements)
        return succeed(None)

    def _insert(self, statements: Sequence[SignedStatement]) -> None:
        for each in statements:
            self.rows.setdefault(each.id, each.encode())
