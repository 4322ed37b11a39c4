"""The database: one file, one thread, and what it says when either fails."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred, execute, gatherResults
from twisted.trial.unittest import SynchronousTestCase, TestCase

from bzzz import database
from bzzz.database import Database, DatabaseError
from bzzz.errors import StateDirectoryError

MIGRATIONS = (
    "CREATE TABLE invitations (code TEXT PRIMARY KEY)",
    "CREATE TABLE uses (code TEXT REFERENCES invitations);\nINSERT INTO uses VALUES (NULL); -- one",
)


def add(code: str) -> Callable[[sqlite3.Connection], None]:
    """Adds an invitation."""

    def work(connection: sqlite3.Connection) -> None:
        connection.execute("INSERT INTO invitations VALUES (?)", (code,))

    return work


def codes(connection: sqlite3.Connection) -> list[str]:
    """All invitations."""
    return [row[0] for row in connection.execute("SELECT code FROM invitations ORDER BY code")]


def pragma(name: str) -> Callable[[sqlite3.Connection], Any]:
    """Asks for a setting, or sets it."""

    def work(connection: sqlite3.Connection) -> Any:
        return (connection.execute(f"PRAGMA {name}").fetchone() or [None])[0]

    return work


class DatabaseTests(SynchronousTestCase):
    """Without threads."""

    def setUp(self) -> None:
        directory = Path(self.mktemp()).absolute()
        directory.mkdir(parents=True)
        self.path = directory / "bzzz.db"

    def make(self, migrations: tuple[str, ...] = MIGRATIONS) -> Database:
        made = Database(self.path, None, migrations, in_thread=execute)
        self.addCleanup(made.close)
        return made

    def opened(self, migrations: tuple[str, ...] = MIGRATIONS) -> Database:
        made = self.make(migrations)
        self.assertIsNone(self.successResultOf(made.open()))
        return made

    def run_in(self, made: Database, work: Callable[[sqlite3.Connection], Any]) -> Any:
        return self.successResultOf(made.run(work))

    def not_opened(self, migrations: tuple[str, ...] = MIGRATIONS) -> str:
        failure = self.failureResultOf(self.make(migrations).open(), StateDirectoryError)
        return str(failure.value)

    def failed(self, made: Database, work: Callable[[sqlite3.Connection], Any]) -> str:
        return str(self.failureResultOf(made.run(work), DatabaseError).value)

    # -- opening

    def test_settings(self) -> None:
        """A new file is private, as are those beside it, and is written to the disk each time."""
        previous = os.umask(0)
        self.addCleanup(os.umask, previous)
        made = self.opened()
        self.run_in(made, add("7-guitar-lunar"))
        self.assertEqual(
            {path.name: path.stat().st_mode & 0o777 for path in self.path.parent.iterdir()},
            {"bzzz.db": 0o600, "bzzz.db-wal": 0o600, "bzzz.db-shm": 0o600},
        )
        settings = ("journal_mode", "synchronous", "foreign_keys", "busy_timeout", "user_version")
        self.assertEqual(
            [self.run_in(made, pragma(name)) for name in settings],
            ["wal", 2, 1, database.BUSY_MILLISECONDS, 2],
        )

    def test_again(self) -> None:
        """What was put into it is there when it is opened again, and nothing lies beside it."""
        made = self.opened()
        self.run_in(made, add("7-guitar-lunar"))
        self.successResultOf(made.close())
        self.assertEqual(os.listdir(self.path.parent), ["bzzz.db"])
        self.assertEqual(self.run_in(self.opened(), codes), ["7-guitar-lunar"])

    def test_migrations(self) -> None:
        """Those that are missing are applied, each once."""
        self.successResultOf(self.opened(MIGRATIONS[:1]).close())
        for _ in range(2):
            made = self.opened()
            uses = self.run_in(made, lambda each: each.execute("SELECT * FROM uses").fetchall())
            self.assertEqual(uses, [(None,)])
            self.successResultOf(made.close())

    def test_migration_that_fails(self) -> None:
        """A migration is applied wholly or not at all; those before it stay."""
        wrong = "CREATE TABLE half (x); INSERT INTO nothing VALUES (1)"
        made = self.make((MIGRATIONS[0], wrong))
        self.failureResultOf(made.open(), sqlite3.OperationalError)
        made = self.opened(MIGRATIONS[:1])
        tables = self.run_in(
            made, lambda each: each.execute("SELECT name FROM sqlite_schema").fetchall()
        )
        self.assertNotIn(("half",), tables)
        self.assertIn(("invitations",), tables)
        self.assertEqual(self.run_in(made, pragma("user_version")), 1)

    def test_newer(self) -> None:
        """A file of a newer version is refused, and is not changed."""
        self.successResultOf(self.opened().close())
        before = self.path.read_bytes()
        self.assertEqual(
            self.not_opened(MIGRATIONS[:1]),
            f"{self.path} was written by a newer Bzzz (its tables have version 2, this one knows"
            " 1); install that Bzzz again, or move the file away to begin without what is in it",
        )
        self.assertEqual(self.path.read_bytes(), before)

    def test_damaged(self) -> None:
        """A file that is damaged, at its head or within, is refused, and is not changed."""
        made = self.opened()
        self.run_in(made, lambda each: [add(f"{n}-guitar-lunar")(each) for n in range(2000)])
        self.successResultOf(made.close())
        whole = self.path.read_bytes()
        self.assertGreater(len(whole), 40_000)
        for damaged in (
            b"precious" * 100,
            whole[:100] + b"\xff" * 4000 + whole[4100:],
            whole[:20_000] + b"\xff" * 8000 + whole[28_000:],
            whole[:20_000],
        ):
            self.path.write_bytes(damaged)
            self.assertIn(f"{self.path}: it is damaged; restore it", self.not_opened())
            self.assertEqual(self.path.read_bytes(), damaged)

    def test_cut_off_at_its_beginning(self) -> None:
        """An empty file, which a crash may have left, is a new database."""
        self.path.touch(0o600)
        self.assertEqual(self.run_in(self.opened(), codes), [])

    def test_no_file(self) -> None:
        """What is no file, or that others can read, is refused."""
        self.path.mkdir()
        self.assertIn(f"{self.path} is not a file; move it away", self.not_opened())
        self.path.rmdir()
        self.path.touch()
        self.path.chmod(0o640)
        self.assertIn(f"(mode 0640); make it private: chmod 600 {self.path}", self.not_opened())
        self.path.unlink()
        self.path.symlink_to(self.path.parent / "elsewhere")
        self.assertIn(f"{self.path} is not a file", self.not_opened())
        self.assertEqual(os.listdir(self.path.parent), ["bzzz.db"])

    def test_no_directory(self) -> None:
        """Where no file can be made the directory is named."""
        self.path = self.path / "below" / "bzzz.db"
        self.assertIn(f"{self.path} cannot be made: No such file", self.not_opened())

    # -- running

    def test_result(self) -> None:
        """What the work returns is what the Deferred fires with."""
        made = self.opened()
        self.assertIsNone(self.run_in(made, add("a")))
        self.assertEqual(self.run_in(made, codes), ["a"])

    def test_undone(self) -> None:
        """What the work raises undoes it, and comes out as it was raised."""
        made = self.opened()

        def half(connection: sqlite3.Connection) -> None:
            add("a")(connection)
            raise KeyError("b")

        self.failureResultOf(made.run(half), KeyError)
        self.assertEqual(self.run_in(made, codes), [])
        self.run_in(made, add("a"))
        self.failureResultOf(made.run(add("a")), sqlite3.IntegrityError)
        orphan = "INSERT INTO uses VALUES ('nobody')"
        self.failureResultOf(made.run(lambda each: each.execute(orphan)), sqlite3.IntegrityError)
        self.assertEqual(self.run_in(made, codes), ["a"])

    def test_disk_full(self) -> None:
        """A full disk is told, and undoes what did not fit; with room again all is well."""
        made = self.opened()
        pages = self.run_in(made, pragma("page_count"))
        self.run_in(made, pragma(f"max_page_count = {pages}"))
        said = self.failed(made, add("x" * 10_000))
        self.assertEqual(
            said,
            f"{self.path}: the disk is full; make room (database or disk is full)",
        )
        self.run_in(made, pragma(f"max_page_count = {pages + 100}"))
        self.run_in(made, add("y" * 10_000))
        self.assertEqual(self.run_in(made, codes), ["y" * 10_000])

    def test_read_only(self) -> None:
        """A file that cannot be written is told."""
        made = self.opened()
        self.run_in(made, pragma("query_only = ON"))
        self.assertIn(f"{self.path}: it cannot be written", self.failed(made, add("a")))

    def test_locked(self) -> None:
        """Another program that holds the file is told, once the time for that is over."""
        made = self.opened()
        assert made._connection is not None
        made._connection.execute("PRAGMA busy_timeout = 0")
        other = sqlite3.connect(self.path, isolation_level=None)
        self.addCleanup(other.close)
        other.execute("BEGIN IMMEDIATE")
        self.assertIn("another program has locked it", self.failed(made, add("a")))
        other.execute("ROLLBACK")
        self.run_in(made, add("a"))

    def test_too_many(self) -> None:
        """More than the limit do not wait; there is room again as it is worked off."""
        jobs: list[tuple[Callable[[], Any], Deferred[Any]]] = []

        def later(work: Callable[[], Any]) -> Deferred[Any]:
            jobs.append((work, Deferred()))
            return jobs[-1][1]

        made = Database(self.path, None, MIGRATIONS, in_thread=later)
        opening = made.open()
        waiting = [made.run(codes) for _ in range(database.MAX_WAITING)]
        self.assertIn("wait for the disk already", self.failed(made, codes))
        for work, deferred in jobs[:2]:
            deferred.callback(work())
        self.successResultOf(opening)
        self.assertEqual(self.successResultOf(waiting[0]), [])
        self.assertNoResult(made.run(codes))
        made._close()

    def test_not_open(self) -> None:
        """What is not open runs nothing, before and after; closing it twice does no harm."""
        made = self.make()
        self.assertIn("is not open", self.failed(made, codes))
        self.successResultOf(made.open())
        self.failureResultOf(made.open(), DatabaseError)
        self.successResultOf(made.close())
        self.successResultOf(made.close())
        self.assertIn("is not open", self.failed(made, codes))
        self.failureResultOf(made.open(), DatabaseError)

    def test_not_opened(self) -> None:
        """After an opening that failed nothing runs, and closing it is no error."""
        self.path.mkdir()
        made = self.make()
        self.failureResultOf(made.open(), StateDirectoryError)
        self.assertIn("is not open", self.failed(made, codes))
        self.successResultOf(made.close())


class ThreadTests(TestCase):
    """With the thread that a node has."""

    def setUp(self) -> None:
        directory = Path(self.mktemp()).absolute()
        directory.mkdir(parents=True)
        self.database = Database(directory / "bzzz.db", reactor, MIGRATIONS)

    async def test_one_thread(self) -> None:
        """All of it runs in one thread that is not the reactor's, and is gone in the end."""
        before = threading.active_count()
        await self.database.open()
        threads = {await self.database.run(lambda _: threading.current_thread()) for _ in range(5)}
        self.assertEqual(len(threads), 1)
        (thread,) = threads
        self.assertNotIn(thread, {threading.main_thread(), threading.current_thread()})
        self.assertTrue(thread.daemon)
        await self.database.close()
        self.assertFalse(thread.is_alive())
        self.assertEqual(threading.active_count(), before)

    async def test_close_waits(self) -> None:
        """What was to be run before is run, in its order, before it is closed."""
        opening = self.database.open()
        held = threading.Event()
        ran: list[object] = []

        def hold(connection: sqlite3.Connection) -> None:
            held.wait(10)
            ran.append("held")

        work = [self.database.run(hold), *(self.database.run(add(str(n))) for n in range(9))]
        found = self.database.run(codes)
        closing = self.database.close()
        self.assertEqual(ran, [])
        held.set()
        await closing
        await opening
        await gatherResults(work)
        self.assertEqual(len(await found), 9)
        self.assertEqual(ran, ["held"])

    async def test_cannot_be_opened(self) -> None:
        """An opening that fails leaves no thread behind."""
        before = threading.active_count()
        self.database.path.mkdir()
        with self.assertRaises(StateDirectoryError):
            await self.database.open()
        self.assertEqual(threading.active_count(), before)
