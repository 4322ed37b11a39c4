"""Invitations by a token on disk, so that they outlive a restart. A token is a secret: the database
is its owner's alone.
"""

from __future__ import annotations

import sqlite3
from typing import Protocol as Shape

import msgspec
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from bzzz.database import Database
from bzzz.trust.codes import InvalidCode, parse_token
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

    _log = Logger()

    def __init__(self, database: Database) -> None:
        self._database = database

    def load(self) -> Deferred[list[tuple[TokenRecord, Role]]]:
        """See :class:`InvitationStore`. What is damaged is removed: nobody can join by it."""
        kept: list[tuple[TokenRecord, Role]] = []
        damaged: list[str] = []

        def work(connection: sqlite3.Connection) -> None:
            rows = connection.execute(
                "SELECT channel, record, role FROM invitations ORDER BY channel"
            )
            for channel, encoded, role in rows.fetchall():
                record = _decode(channel, encoded)
                if record is None or role not in set(Role):
                    damaged.append(channel)
                    connection.execute("DELETE FROM invitations WHERE channel = ?", (channel,))
                else:
                    kept.append((record, Role(role)))

        def told(_: None) -> list[tuple[TokenRecord, Role]]:
            for channel in damaged:
                self._log.warn(
                    "The record of the token of invitation {channel} is damaged, so the token is"
                    " void: make a new one",
                    channel=channel,
                )
            return kept

        return self._database.run(work).addCallback(told)

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


def _decode(channel: str, encoded: bytes) -> TokenRecord | None:
    """The record of a channel; None if it is damaged."""
    try:
        record = msgspec.json.decode(encoded, type=TokenRecord)
        return record if parse_token(record.token).channel == channel else None
    except (msgspec.MsgspecError, InvalidCode, ValueError, RecursionError):
        return None
