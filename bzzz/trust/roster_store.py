"""The roster on disk.

Enters and leaves: statements, in an order in which none comes before its parents.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Protocol as Shape

from twisted.internet.defer import Deferred

from bzzz.database import Database
from bzzz.trust.statements import SignedStatement

__all__ = ["MIGRATIONS", "RosterStore", "SqliteRosterStore"]

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

        def work(connection: sqlite3.Connection) -> None:
            connection.executemany(
                "INSERT OR IGNORE INTO roster_statements (id, data) VALUES (?, ?)", rows
            )

        return self._database.run(work)

    def clear(self) -> Deferred[None]:
        """See :class:`RosterStore`."""

        def work(connection: sqlite3.Connection) -> None:
            connection.execute("DELETE FROM roster_statements")

        return self._database.run(work)
