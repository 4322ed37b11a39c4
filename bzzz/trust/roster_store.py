"""The roster on disk.

Enters and leaves: statements, in an order in which none comes before its parents. A write may fail:
what should be there, and is not, is written with what comes next.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Protocol as Shape

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from bzzz.database import Database
from bzzz.errors import BzzzError
from bzzz.net.background import in_background
from bzzz.trust.statements import SignedStatement, StatementID

__all__ = ["MIGRATIONS", "RosterStore", "RosterWriter", "SqliteRosterStore"]

# See bzzz.database: what is here is never changed, only added to.
MIGRATIONS = (
    """
    CREATE TABLE roster_statements (
        position INTEGER PRIMARY KEY,
        id BLOB NOT NULL UNIQUE,
        data BLOB NOT NULL
    ) STRICT
    """,
)


class RosterStore(Shape):
    """Where statements are kept. What a Deferred has told of is not lost."""

    def load(self) -> Deferred[list[bytes]]:
        """All statements, as :meth:`SignedStatement.encode` has them."""

    def add(self, statements: Sequence[SignedStatement]) -> Deferred[None]:
        """Keep these too; those that are there are left."""

    def replace(self, statements: Sequence[SignedStatement]) -> Deferred[None]:
        """Keep these and no others; if that fails, what was there."""

    def clear(self) -> Deferred[None]:
        """Keep none."""


class SqliteRosterStore:
    """Implements :class:`RosterStore` with a table of the node's database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def load(self) -> Deferred[list[bytes]]:
        """See :class:`RosterStore`."""

        def work(connection: sqlite3.Connection) -> list[bytes]:
            rows = connection.execute("SELECT data FROM roster_statements ORDER BY position")
            return [bytes(row[0]) for row in rows]

        return self._database.run(work)

    def add(self, statements: Sequence[SignedStatement]) -> Deferred[None]:
        """See :class:`RosterStore`."""
        rows = [(each.id, each.encode()) for each in statements]
        return self._database.run(lambda connection: _insert(connection, rows))

    def replace(self, statements: Sequence[SignedStatement]) -> Deferred[None]:
        """See :class:`RosterStore`."""
        rows = [(each.id, each.encode()) for each in statements]

        def work(connection: sqlite3.Connection) -> None:
            connection.execute("DELETE FROM roster_statements")
            _insert(connection, rows)

        return self._database.run(work)

    def clear(self) -> Deferred[None]:
        """See :class:`RosterStore`."""

        def work(connection: sqlite3.Connection) -> None:
            connection.execute("DELETE FROM roster_statements")

        return self._database.run(work)


class RosterWriter:
    """Writes what is said, never without what was said before it.

    The statements that are in the roster and not on disk yet are kept here until they are: not
    more than a roster takes, and it has them in memory already.
    """

    _log = Logger()

    def __init__(self, store: RosterStore) -> None:
        self._store = store
        self._unstored: dict[StatementID, SignedStatement] = {}
        self._is_writing = False

    async def add(self, own: Sequence[SignedStatement] = ()) -> None:
        """Have these on disk, which are not in the roster yet, and all that is in it.

        :raises DatabaseError: they may be there or not.
        """
        # Of those who left a cluster meanwhile it is another.
        unstored = self._unstored
        written = list(unstored.values())
        await self._store.add([*written, *own])
        for each in written:
            unstored.pop(each.id, None)

    def owe(self, statements: Sequence[SignedStatement]) -> None:
        """These are in the roster: the next :meth:`add` writes them, too."""
        self._unstored.update((each.id, each) for each in statements)

    def news(self, statements: Sequence[SignedStatement]) -> None:
        """These are in the roster: write them soon. What fails is tried again with what follows."""
        self.owe(statements)
        if not self._is_writing:
            self._is_writing = True
            in_background(self._write_news(), "keeping the roster on disk", self._log)

    async def replace(self, statements: Sequence[SignedStatement]) -> None:
        """Have these on disk and no others.

        :raises DatabaseError: they may be there, or what was there before.
        """
        await self._store.replace(statements)

    async def clear(self) -> None:
        """Have none on disk.

        :raises DatabaseError: they may be there still.
        """
        self._unstored = {}
        await self._store.clear()

    async def _write_news(self) -> None:
        try:
            tried: StatementID | None = None
            # One write at a time, of all that came during the one before.
            while self._unstored and (newest := next(reversed(self._unstored))) != tried:
                tried = newest
                try:
                    await self.add()
                except BzzzError as error:
                    if not self._unstored:
                        return
                    self._log.error(
                        "{count} statements of the roster are not on disk, {newest} the newest of"
                        " them: {error}. They are written with the next; a restart before that"
                        " loses them until another member sends them again",
                        count=len(self._unstored),
                        newest=newest.hex()[:16],
                        error=error,
                    )
        finally:
            self._is_writing = False


def _insert(connection: sqlite3.Connection, rows: Sequence[tuple[bytes, bytes]]) -> None:
    connection.executemany("INSERT OR IGNORE INTO roster_statements (id, data) VALUES (?, ?)", rows)
