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

from bzzz.database import Database
from bzzz.tasks import acceptor
from bzzz.tasks.acceptor import EMPTY, Kept
from bzzz.tasks.ballots import Answer, Ballot, Prepare, Request

__all__ = ["MIGRATIONS", "Answered", "Asked", "RegisterStore", "SqliteRegisterStore", "answer"]

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
        closed INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID
    """,
)

SELECT = """
    SELECT task, promised_counter, promised_place, accepted_counter, accepted_place, value, closed
    FROM registers
"""
SELECT_ONE = SELECT + "WHERE task = ?"
REPLACE = "INSERT OR REPLACE INTO registers VALUES (?, ?, ?, ?, ?, ?, ?)"


class Asked(NamedTuple):
    """A request to the register of a task.

    :ivar until_closed: seconds for which the token that it is to close may be in use still.
    """

    task: str
    request: Request
    until_closed: float = 0.0


class Answered(NamedTuple):
    """An answer, and what is kept since."""

    answer: Answer
    kept: Kept


class RegisterStore(Shape):
    """Where registers are kept. What a Deferred has told of is not lost."""

    def load(self, wanted: Callable[[bytes], bool]) -> Deferred[dict[str, Kept]]:
        """Those whose value is wanted, which is asked in another thread."""

    def ask(self, batch: Sequence[Asked]) -> Deferred[list[Answered]]:
        """Answer one after the other, and keep what comes of it: of all, or where that fails of
        none."""


class SqliteRegisterStore:
    """Implements :class:`RegisterStore` with a table of the node's database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def load(self, wanted: Callable[[bytes], bool]) -> Deferred[dict[str, Kept]]:
        """See :class:`RegisterStore`."""

        def work(connection: sqlite3.Connection) -> dict[str, Kept]:
            rows = connection.execute(SELECT)
            every = ((task, _kept(row)) for task, *row in rows)
            return {task: kept for task, kept in every if kept.accepted and wanted(kept.value)}

        return self._database.run(work)

    def ask(self, batch: Sequence[Asked]) -> Deferred[list[Answered]]:
        """See :class:`RegisterStore`."""

        def work(connection: sqlite3.Connection) -> list[Answered]:
            return [_ask(connection, asked) for asked in batch]

        return self._database.run(work)


def answer(kept: Kept, asked: Asked) -> Answered:
    """What a replica answers that has this, and what it has then."""
    if isinstance(asked.request, Prepare):
        kept, told = acceptor.prepare(kept, asked.request, asked.until_closed)
    else:
        kept, told = acceptor.accept(kept, asked.request)
    return Answered(told, kept)


def _ask(connection: sqlite3.Connection, asked: Asked) -> Answered:
    row = connection.execute(SELECT_ONE, (asked.task,)).fetchone()
    before = EMPTY if row is None else _kept(row[1:])
    answered = answer(before, asked)
    kept = answered.kept
    if kept is not before:
        connection.execute(
            REPLACE,
            (asked.task, *kept.promised, *(kept.accepted or (None, None)), kept.value, kept.closed),
        )
    return answered


def _kept(row: Sequence[Any]) -> Kept:
    counter, place, accepted_counter, accepted_place, value, closed = row
    accepted = None if accepted_counter is None else Ballot(accepted_counter, accepted_place)
    return Kept(Ballot(counter, place), accepted, value, closed)
