"""The node's database: one SQLite file in the state directory, used in one thread of its own.

Enters: functions that are given the connection. Leaves: what they return, once it is on the disk.
The number of migrations that the file has had is its ``user_version``. Spec:
https://sqlite.org/pragma.html; https://sqlite.org/wal.html.
"""

from __future__ import annotations

import os
import sqlite3
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from threading import Thread
from typing import Any, TypeVar

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.threads import deferToThreadPool
from twisted.python.failure import Failure
from twisted.python.threadpool import ThreadPool

from bzzz.errors import BzzzError, StateDirectoryError

__all__ = ["Database", "DatabaseError"]

# Milliseconds that a person who looks into the file with another program may hold it.
BUSY_MILLISECONDS = 5000

# Functions that wait for the thread. Each takes a millisecond or two of a disk; so many waiting are
# minutes of a disk that hangs, and more would only take memory.
MAX_WAITING = 1024

# What the machine does to a database; everything else is a mistake in a statement.
REASONS = {
    sqlite3.SQLITE_FULL: "the disk is full; make room",
    sqlite3.SQLITE_READONLY: "it cannot be written; is the disk mounted read-only?",
    sqlite3.SQLITE_PERM: "it may not be used; look at its owner and mode",
    sqlite3.SQLITE_CANTOPEN: "it cannot be opened; look at its owner and mode, and its directory's",
    sqlite3.SQLITE_IOERR: "the disk fails; the system's log may tell why",
    sqlite3.SQLITE_BUSY: "another program has locked it; end that one",
    sqlite3.SQLITE_CORRUPT: "it is damaged; restore it from a backup, or move it away",
    sqlite3.SQLITE_NOTADB: "it is damaged; restore it from a backup, or move it away",
}
# Of these, after which nothing is to be trusted.
LASTING = frozenset({sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
DAMAGED = REASONS[sqlite3.SQLITE_CORRUPT]

T = TypeVar("T")

InThread = Callable[[Callable[[], Any]], Deferred[Any]]


class DatabaseError(BzzzError):
    """The database cannot be read or written; names the file and what to do.

    :ivar is_lasting: whether what this process reads from now on may not be what is on the disk:
        that has failed, and the kernel may have thrown away what it could not write.
    """

    def __init__(self, message: str, *, is_lasting: bool = False) -> None:
        super().__init__(message)
        self.is_lasting = is_lasting


class Database:
    """A database that is not open yet.

    :param reactor: provides IReactorThreads.
    :param migrations: SQL scripts that made the tables what they are, the oldest first. They are
        only ever added to. None may begin or end a transaction.
    :param in_thread: what calls a function in the thread, in place of a thread of its own.
    """

    def __init__(
        self,
        path: Path,
        reactor: Any,
        migrations: Sequence[str],
        in_thread: InThread | None = None,
    ) -> None:
        self.path = path
        self._migrations = migrations
        self._thread = _OneThread(reactor) if in_thread is None else None
        self._in_thread: InThread = in_thread or self._thread  # type: ignore[assignment]  # one is
        self._connection: sqlite3.Connection | None = None
        self._waiting = 0
        self._opened = False
        self._closed = False

    def open(self) -> Deferred[None]:
        """Open the file, or make it, and bring its tables up to date.

        Fails with a StateDirectoryError if it is damaged, of a newer version, readable by others or
        cannot be used. Nothing in it is changed then.
        """
        if self._opened or self._closed:
            return fail(DatabaseError(f"{self.path} has been opened before"))
        self._opened = True
        if self._thread is not None:
            self._thread.start()
        return self._in_thread(self._open).addErrback(self._not_opened)

    def run(self, work: Callable[[sqlite3.Connection], T]) -> Deferred[T]:
        """Call ``work`` in a transaction, which is on the disk when the Deferred fires.

        What it raises undoes all that it did. It must return values, not cursors, and not commit.

        Fails with a DatabaseError if the disk is full, fails, or too many wait for it.
        """
        if not self._opened or self._closed:
            return fail(DatabaseError(f"{self.path} is not open"))
        if self._waiting >= MAX_WAITING:
            return fail(
                DatabaseError(f"{self.path}: {MAX_WAITING} changes wait for the disk already")
            )
        self._waiting += 1
        return self._in_thread(partial(self._run, work)).addBoth(self._done)

    def close(self) -> Deferred[None]:
        """Close it, after all that was to be run. A second time does nothing."""
        if self._closed or not self._opened:
            self._closed = True
            return succeed(None)
        self._closed = True
        return self._in_thread(self._close).addBoth(self._end_thread)

    def _done(self, result: Any) -> Any:
        self._waiting -= 1
        return result

    def _not_opened(self, failure: Failure) -> Failure:
        self._closed = True
        self._end_thread(None)
        return failure

    def _end_thread(self, result: Any) -> Any:
        if self._thread is not None:
            # What it had to do is done, so this waits for no disk.
            self._thread.stop()
        return result

    # -- in the thread

    def _open(self) -> None:
        try:
            _make_private_file(self.path)
        except OSError as error:
            raise StateDirectoryError(
                f"{error.filename or self.path} cannot be made: {error.strerror}; mend that, or"
                " choose another --state-dir"
            ) from None
        try:
            with _named(self.path):
                self._connection = self._connect()
        except DatabaseError as error:
            raise StateDirectoryError(str(error)) from error

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path, isolation_level=None)
        try:
            connection.execute(f"PRAGMA busy_timeout = {BUSY_MILLISECONDS}")
            connection.execute("PRAGMA foreign_keys = ON")
            # First, so that nothing is written to a file that is not to be written to.
            version = self._version(connection)
            if [row[0] for row in connection.execute("PRAGMA quick_check(1)")] != ["ok"]:
                raise DatabaseError(f"{self.path}: {DAMAGED}")
            # File systems on which several programs cannot share memory keep another mode.
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            for number, script in enumerate(self._migrations[version:], version + 1):
                with _undone(connection):
                    # The script ends its last line, which may be a comment.
                    connection.executescript(
                        f"BEGIN IMMEDIATE;\n{script}\n;\nPRAGMA user_version = {number};\nCOMMIT;"
                    )
        except BaseException:
            connection.close()
            raise
        return connection

    def _version(self, connection: sqlite3.Connection) -> int:
        version = int(connection.execute("PRAGMA user_version").fetchone()[0])
        known = len(self._migrations)
        if version > known:
            raise StateDirectoryError(
                f"{self.path} was written by a newer Bzzz (its tables have version {version}, this"
                f" one knows {known}); install that Bzzz again, or move the file away to begin"
                " without what is in it"
            )
        return version

    def _run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        connection = self._connection
        if connection is None:
            raise DatabaseError(f"{self.path} is not open")
        with _named(self.path), _undone(connection):
            connection.execute("BEGIN IMMEDIATE")
            result = work(connection)
            connection.execute("COMMIT")
        return result

    def _close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with _named(self.path):
                connection.close()


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """What the machine did is an error that names the file."""
    try:
        yield
    except sqlite3.Error as error:
        # The upper bytes have the details.
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        reason = REASONS.get(code)
        if reason is None:
            raise
        raise DatabaseError(f"{path}: {reason} ({error})", is_lasting=code in LASTING) from error


@contextmanager
def _undone(connection: sqlite3.Connection) -> Iterator[None]:
    """What was begun and not ended is undone."""
    try:
        yield
    except BaseException:
        # SQLite has done it already after some errors.
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _make_private_file(path: Path) -> None:
    """Make an empty file that this user alone can read, which SQLite then takes for a new database.

    The files that SQLite makes beside it have its mode.

    :raises StateDirectoryError: there is something that is not such a file.
    :raises OSError: it cannot be made.
    """
    try:
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        os.close(os.open(path, flags, 0o600))
    except FileExistsError:
        mode = path.lstat().st_mode
        if not stat.S_ISREG(mode):
            raise StateDirectoryError(f"{path} is not a file; move it away") from None
        if mode & 0o077:
            raise StateDirectoryError(
                f"{path} can be read by others (mode {stat.S_IMODE(mode):04o}); make it private:"
                f" chmod 600 {path}"
            ) from None
        return
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


class _OneThread:
    """Calls functions in one thread, one after the other."""

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._pool = _Pool(1, 1, "database")

    def start(self) -> None:
        self._pool.start()

    def __call__(self, work: Callable[[], T]) -> Deferred[T]:
        return deferToThreadPool(self._reactor, self._pool, work)

    def stop(self) -> None:
        self._pool.stop()


class _Pool(ThreadPool):
    @staticmethod
    def threadFactory(*arguments: Any, **keywords: Any) -> Thread:  # type: ignore[override]  # a type there
        # A process that ends without having closed the database must not wait for ever at its end.
        return Thread(*arguments, daemon=True, **keywords)
