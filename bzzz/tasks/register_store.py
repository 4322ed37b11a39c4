"""Registers on disk, and the replica's answers, which are made where the disk is.

Enters: requests, several at once. Leaves: the answers, when all that they speak of is on the disk:
one transaction and one fsync for all of them. docs/tasks.rst, "The register".
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple
from typing import Protocol as Shape

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from bzzz.database import Database
from bzzz.errors import BzzzError
from bzzz.tasks import acceptor
from bzzz.tasks.acceptor import EMPTY, Kept
from bzzz.tasks.askers import Asker, Denied
from bzzz.tasks.ballots import Answer, Ballot, Prepare, Request

__all__ = [
    "MIGRATIONS",
    "Answered",
    "Asked",
    "RegisterStore",
    "Row",
    "SqliteRegisterStore",
    "answer",
    "row_of",
]

# See bzzz.database: what is here is never changed, only added to.
MIGRATIONS = (
    """
    CREATE TABLE registers (
        task TEXT PRIMARY KEY,
        promised_counter INTEGER NOT NULL,
        promised_place INTEGER NOT NULL,
        accepted_counter INTEGER,
        accepted_place INTEGER,
        value BLOB NOT NULL,
        closed INTEGER NOT NULL,
        open INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX open_registers ON registers (task) WHERE open = 1;
    """,
    # Ends that were accepted here, with their ballots, until they are known to be decided. They are
    # few, and the registers themselves are not written again for it.
    """
    CREATE TABLE unconfirmed (
        task TEXT PRIMARY KEY,
        counter INTEGER NOT NULL,
        place INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
    """,
)

SELECT = """
    SELECT task, promised_counter, promised_place, accepted_counter, accepted_place, value, closed
    FROM registers
"""
SELECT_ONE = SELECT + "WHERE task = ?"
SELECT_OPEN = SELECT + "WHERE open = 1"
SELECT_UNCONFIRMED = SELECT + "JOIN unconfirmed USING (task) WHERE open = 0"
SELECT_PAGE = """
    SELECT task, value FROM registers
    WHERE task < ? AND task >= ? AND accepted_counter IS NOT NULL
    ORDER BY task DESC LIMIT ?
"""
SELECT_OPEN_PAGE = SELECT_PAGE.replace("WHERE", "WHERE open = 1 AND")
# Of what is not open: all below an ID, and all but the last so many; a part of them at a time, so
# that nobody waits for long.
FORGET = """
    DELETE FROM registers WHERE task IN (
        SELECT task FROM registers WHERE open = 0 AND (task < :before OR task <= (
            SELECT task FROM registers WHERE open = 0 ORDER BY task DESC LIMIT 1 OFFSET :keep
        )) AND task NOT IN (SELECT task FROM unconfirmed) ORDER BY task LIMIT :most
    )
"""
REPLACE = "INSERT OR REPLACE INTO registers VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
REMEMBER = "INSERT OR REPLACE INTO unconfirmed VALUES (?, ?, ?)"
CONFIRM = "DELETE FROM unconfirmed WHERE task = ? AND counter = ? AND place = ?"

# Registers that are remembered, as they are open and were written a moment ago, and bytes of one
# that is: a few megabytes in all.
RECENT = 2048
SHORT = 4096

# Greater than every task's ID.
LAST = "~"


class Asked(NamedTuple):
    """A request to the register of a task.

    :ivar until_closed: seconds for which the token that it is to close may be in use still.
    :ivar asker: who asks; None: whoever it is may.
    """

    task: str
    request: Request
    until_closed: float = 0.0
    asker: Asker | None = None


class Answered(NamedTuple):
    """An answer, and what is kept since."""

    answer: Answer | Denied
    kept: Kept


class Row(NamedTuple):
    """A value in a listing.

    :ivar value: None where it cannot be read, as of a newer version or of a damaged disk.
    :ivar error: why, for people.
    """

    task: str
    value: bytes | None
    error: str = ""


class RegisterStore(Shape):
    """Where registers are kept. What a Deferred has told of is not lost."""

    def load(self) -> Deferred[dict[str, Kept]]:
        """Those that are open, see ``is_open``, and ends that :meth:`decided` was not told of."""

    def read(self, task: str) -> Deferred[Kept | None]:
        """One of them; None where it has no value."""

    def page(self, before: str, since: str, every: bool, most: int) -> Deferred[list[Row]]:
        """The values of the last tasks before one, the last first.

        :param before: "" for the last of all.
        :param since: none below it.
        :param every: whether those that are not open are wanted, too.
        """

    def ask(self, batch: Sequence[Asked]) -> Deferred[list[Answered]]:
        """Answer one after the other, and keep what comes of it: of all, or where that fails of
        none."""

    def decided(self, task: str, ballot: Ballot) -> None:
        """The end that was accepted with this ballot is known to be decided: with the next write,
        or none, it is loaded no more."""

    def forget(self, before: str, keep: int, most: int) -> Deferred[int]:
        """Remove what is over: below an ID, and all but the last ``keep``.

        :param most: to be removed by this call.
        :return: how many were.
        """


class SqliteRegisterStore:
    """Implements :class:`RegisterStore` with a table of the node's database.

    :param is_open: whether something is still to be done for what a value is about. It is called
        in the database's thread.
    :param counts: whether an end that a value tells counts when it was accepted; likewise.
    """

    def __init__(
        self,
        database: Database,
        is_open: Callable[[bytes], bool],
        counts: Callable[[bytes], bool] = lambda value: False,
    ) -> None:
        self._database = database
        self._is_open = is_open
        self._counts = counts
        # Ends that are known to be decided, which the disk does not say yet.
        self._decided: list[tuple[str, int, int]] = []
        # What was written last of those that are open, as long as it is known to be on the disk:
        # the batches that have begun, and the last one of which that is known.
        self._recent: dict[str, Kept] = {}
        self._begun = 0
        self._written = 0

    def load(self) -> Deferred[dict[str, Kept]]:
        """See :class:`RegisterStore`."""

        def work(connection: sqlite3.Connection) -> dict[str, Kept]:
            return {
                task: _kept(row)
                for select in (SELECT_OPEN, SELECT_UNCONFIRMED)
                for task, *row in connection.execute(select)
            }

        return self._database.run(work)

    def read(self, task: str) -> Deferred[Kept | None]:
        """See :class:`RegisterStore`."""

        def work(connection: sqlite3.Connection) -> Kept | None:
            row = connection.execute(SELECT_ONE, (task,)).fetchone()
            kept = None if row is None else _kept(row[1:])
            return kept if kept is not None and kept.accepted is not None else None

        return self._database.run(work)

    def page(self, before: str, since: str, every: bool, most: int) -> Deferred[list[Row]]:
        """See :class:`RegisterStore`."""

        def work(connection: sqlite3.Connection) -> list[Row]:
            select = SELECT_PAGE if every else SELECT_OPEN_PAGE
            rows = connection.execute(select, (before or LAST, since, most))
            return [row_of(task, value, self._is_open) for task, value in rows]

        return self._database.run(work)

    def forget(self, before: str, keep: int, most: int) -> Deferred[int]:
        """See :class:`RegisterStore`."""

        def work(connection: sqlite3.Connection) -> int:
            self._recent.clear()
            given = {"before": before, "keep": keep, "most": most}
            return connection.execute(FORGET, given).rowcount

        return self._database.run(work)

    def ask(self, batch: Sequence[Asked]) -> Deferred[list[Answered]]:
        """See :class:`RegisterStore`."""
        number = 0
        decided, self._decided = self._decided, []

        def work(connection: sqlite3.Connection) -> list[Answered]:
            nonlocal number
            if self._written != self._begun:
                # The last one has failed, or nobody has heard of it yet.
                self._recent.clear()
            self._begun = number = self._begun + 1
            answers = self._ask(connection, batch)
            if decided:
                connection.executemany(CONFIRM, decided)
            return answers

        def written(answers: list[Answered]) -> list[Answered]:
            self._written = number
            return answers

        def failed(failure: Failure) -> Failure:
            self._decided = decided + self._decided
            return failure

        return self._database.run(work).addCallbacks(written, failed)

    def decided(self, task: str, ballot: Ballot) -> None:
        """See :class:`RegisterStore`."""
        self._decided.append((task, *ballot))

    def _ask(self, connection: sqlite3.Connection, batch: Sequence[Asked]) -> list[Answered]:
        answers = []
        changed: dict[str, tuple[Kept, bool]] = {}
        ends: dict[str, Ballot] = {}
        for asked in batch:
            task = asked.task
            before = changed[task][0] if task in changed else self._read(connection, task)
            answered = answer(before, asked)
            kept = answered.kept
            if kept is not before:
                try:
                    is_open = kept.accepted is not None and self._is_open(kept.value)
                    if kept.accepted is not None and kept.accepted != before.accepted:
                        ends.pop(task, None)
                        if not (is_open or self._counts(kept.value)):
                            ends[task] = kept.accepted
                    changed[task] = (kept, is_open)
                except BzzzError as error:
                    # Those that are answered in the same transaction are not to suffer from it.
                    denied = Denied(f"the record that is kept here: {error}")
                    answered = Answered(denied, before)
            answers.append(answered)
        rows = []
        for task, (kept, is_open) in changed.items():
            accepted = kept.accepted or (None, None)
            rows.append((task, *kept.promised, *accepted, kept.value, kept.closed, is_open))
            self._recent.pop(task, None)
            if is_open and len(kept.value) <= SHORT:
                self._recent[task] = kept
        # One statement: after each one the thread may have to wait.
        connection.executemany(REPLACE, rows)
        if ends:
            connection.executemany(REMEMBER, [(task, *ballot) for task, ballot in ends.items()])
        while len(self._recent) > RECENT:
            del self._recent[next(iter(self._recent))]
        return answers

    def _read(self, connection: sqlite3.Connection, task: str) -> Kept:
        recent = self._recent.get(task)
        if recent is not None:
            return recent
        row = connection.execute(SELECT_ONE, (task,)).fetchone()
        return EMPTY if row is None else _kept(row[1:])


def answer(kept: Kept, asked: Asked) -> Answered:
    """What a replica answers that has this, and what it has then."""
    instead = None if asked.asker is None else asked.asker.judge(kept, asked.request)
    if instead is not None:
        return Answered(instead, kept)
    told: Answer
    if isinstance(asked.request, Prepare):
        kept, told = acceptor.prepare(kept, asked.request, asked.until_closed)
    else:
        kept, told = acceptor.accept(kept, asked.request)
    return Answered(told, kept)


def row_of(task: str, value: bytes, is_open: Callable[[bytes], bool]) -> Row:
    """A value for a listing, if it can be read."""
    try:
        is_open(value)
    except BzzzError as error:
        return Row(task, None, str(error))
    return Row(task, value)


def _kept(row: Sequence[Any]) -> Kept:
    counter, place, accepted_counter, accepted_place, value, closed = row
    accepted = None if accepted_counter is None else Ballot(accepted_counter, accepted_place)
    return Kept(Ballot(counter, place), accepted, value, closed)
