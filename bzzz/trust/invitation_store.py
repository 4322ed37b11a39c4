"""Invitations by a token on disk, so that they outlive a restart. A token is a secret: the database
is its owner's alone.
"""

from __future__ import annotations

import sqlite3
from typing import Protocol as Shape

import msgspec
from twisted.internet.defer import Deferred

from bzzz.database import Database
from bzzz.trust.invitations import TokenRecord
from bzzz.trust.statements import Role

__all__ = ["MIGRATIONS", "InvitationStore", "SqliteInvitationStore"]

# See bzzz.database: what is here is never changed, only added to.
MIGRATIONS = (
    """
    CREATE TABLE invitations (
        channel TEXT PRIMARY KEY,
        record BLOB NOT NULL,
        role TEXT NOT NULL
    ) STRICT
    """,
)


class InvitationStore(Shape):
    """Where tokens are kept."""

    def load(self) -> Deferred[list[tuple[TokenRecord, Role]]]:
        """All of them."""

    def put(self, channel: str, record: TokenRecord, role: Role) -> Deferred[None]:
        """Keep one, in the place of what was kept of its channel."""

    def remove(self, channel: str) -> Deferred[None]:
        """Keep it no more."""


class SqliteInvitationStore:
    """Implements :class:`InvitationStore` with a table of the node's database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def load(self) -> Deferred[list[tuple[TokenRecord, Role]]]:
        """See :class:`InvitationStore`."""

        def work(connection: sqlite3.Connection) -> list[tuple[TokenRecord, Role]]:
            rows = connection.execute("SELECT record, role FROM invitations ORDER BY channel")
            return [
                (msgspec.json.decode(record, type=TokenRecord), Role(role)) for record, role in rows
            ]

        return self._database.run(work)

    def put(self, channel: str, record: TokenRecord, role: Role) -> Deferred[None]:
        """See :class:`InvitationStore`."""
        row = (channel, msgspec.json.encode(record), role.value)

        def work(connection: sqlite3.Connection) -> None:
            connection.execute(
                "INSERT OR REPLACE INTO invitations (channel, record, role) VALUES (?, ?, ?)", row
            )

        return self._database.run(work)

    def remove(self, channel: str) -> Deferred[None]:
        """See :class:`InvitationStore`."""

        def work(connection: sqlite3.Connection) -> None:
            connection.execute("DELETE FROM invitations WHERE channel = ?", (channel,))

        return self._database.run(work)
