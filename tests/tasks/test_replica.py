"""A replica: what it keeps, when it answers, and whom it grants a lease."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path

from twisted.internet.defer import CancelledError, Deferred, execute, fail
from twisted.internet.task import Clock
from twisted.logger import LogLevel
from twisted.trial.unittest import SynchronousTestCase

from bzzz.database import Database, DatabaseError
from bzzz.errors import BzzzError, RemoteProtocolError
from bzzz.tasks import register_store
from bzzz.tasks import replica as replica_module
from bzzz.tasks.acceptor import Kept
from bzzz.tasks.askers import Denied
from bzzz.tasks.ballots import (
    RESERVED,
    Accept,
    Accepted,
    Answer,
    Ballot,
    Conflict,
    NotYet,
    Prepare,
    Promise,
)
from bzzz.tasks.leases import grace
from bzzz.tasks.register_store import MIGRATIONS, Asked, Row, SqliteRegisterStore
from bzzz.tasks.replica import TRY_AGAIN, Current, Replica, ReplicaBusy
from tests.logs import lines_at
from tests.tasks.disks import FULL, Disk

LEASE = 3.0


def current(value: bytes) -> Current | None:
    """Values of these tests are a token, or nothing."""
    if value == b"unreadable":
        raise BzzzError("of a newer version")
    if value == b"mistake":
        raise ValueError("a mistake of ours")
    return Current(int(value), "walnut", LEASE) if value.isdigit() else None


def first(token: int) -> Accept:
    """The origin's first value, with this token."""
    return Accept(RESERVED, str(token).encode(), Ballot(1, 0))


class ReplicaTests(SynchronousTestCase):
    """One node's registers, on a disk that is fast, slow or broken."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.advance(1000.0)
        self.disk = Disk()
        self.replica = self.start()

    def start(self) -> Replica:
        """A replica on what the disk has now."""
        replica = Replica(self.disk, self.clock, current)
        self.successResultOf(Deferred.fromCoroutine(replica.load()))
        return replica

    def ask(self, request: Prepare | Accept, task: str = "a") -> Answer:
        return self.successResultOf(self.asked(request, task))

    def asked(self, request: Prepare | Accept, task: str = "a") -> Deferred[Answer]:
        """The same, of a disk that may be slow."""
        answering = self.replica.ask(task, request)
        self.clock.advance(0)
        return answering

    def test_many_loaded(self) -> None:
        """Where many are on the disk, some are taken in each turn of the reactor."""
        self.patch(replica_module, "LOADED", 2)
        for task in "abcde":
            self.ask(first(1), task)
        told: list[str] = []
        replica = Replica(self.disk, self.clock, current, lambda task, kept: told.append(task))
        loading = Deferred.fromCoroutine(replica.load())
        self.assertEqual((len(told), loading.called), (2, False))
        self.clock.advance(0)
        self.successResultOf(loading)
        self.assertEqual(sorted(told), [*"abcde"])

    def test_answered_when_written(self) -> None:
        """Nothing is answered before it is on the disk."""
        self.disk.slow = True
        told = self.asked(first(1))
        self.assertNoResult(told)
        self.disk.finish()
        self.assertEqual(self.successResultOf(told), Accepted(RESERVED))

    def test_written_together(self) -> None:
        """What comes in one turn, or while the disk is busy, is written at once, and in its
        order."""
        self.disk.slow = True
        told = [self.replica.ask(task, first(1)) for task in "abca"]
        self.assertEqual(self.disk.writes, [])
        self.clock.advance(0)
        told += [self.asked(first(1), task) for task in "de"]
        for expected in ("abca", "de"):
            self.assertEqual(
                [[each.task for each in batch] for batch, _ in self.disk.writes], [[*expected]]
            )
            self.disk.finish()
        for each in told:
            self.assertEqual(self.successResultOf(each), Accepted(RESERVED))

    def test_parts(self) -> None:
        """A write is no longer than a batch; the rest follows it."""
        self.patch(replica_module, "MAX_BATCH", 2)
        self.disk.slow = True
        told = [self.asked(first(1), str(number)) for number in range(6)]
        sizes = []
        while self.disk.writes:
            sizes.append(len(self.disk.writes[0][0]))
            self.disk.finish()
        self.assertEqual(sizes, [1, 2, 2, 1])
        for each in told:
            self.successResultOf(each)

    def test_too_many(self) -> None:
        """A disk that hangs is not waited for by any number."""
        self.patch(replica_module, "MAX_ASKED", 2)
        self.disk.slow = True
        waiting = [self.asked(first(1)) for _ in range(3)]
        self.failureResultOf(self.asked(first(1)), ReplicaBusy)
        while self.disk.writes:
            self.disk.finish()
        for each in waiting:
            self.successResultOf(each)

    def test_disk_fails(self) -> None:
        """Of a write that failed nothing is answered, and the next is tried."""
        self.disk.slow = True
        before = self.asked(first(1))
        after = self.asked(first(1))
        self.disk.break_down()
        self.failureResultOf(before, DatabaseError)
        self.disk.finish()
        self.assertEqual(self.successResultOf(after), Accepted(RESERVED))

    def test_problem(self) -> None:
        """That nothing can be kept is known until a write does not fail, or is to be tried again;
        the log says it once."""
        errors = lines_at(self, LogLevel.error)
        self.disk.slow = True
        self.assertEqual(self.replica.problem, "")
        for _ in range(2):
            failed = self.asked(first(1))
            self.disk.break_down()
            self.failureResultOf(failed, DatabaseError)
            self.assertEqual(self.replica.problem, str(FULL))
        self.assertEqual(len(errors), 1)
        self.clock.advance(TRY_AGAIN)
        self.assertEqual(self.replica.problem, "")
        failed = self.asked(first(1))
        self.disk.break_down()
        self.failureResultOf(failed, DatabaseError)
        self.assertEqual(self.replica.problem, str(FULL))
        kept = self.asked(first(1))
        self.disk.finish()
        self.successResultOf(kept)
        self.assertEqual(self.replica.problem, "")

    def test_renew(self) -> None:
        """The current token's lease is granted, and no other."""
        self.assertFalse(self.replica.renew("a", "walnut", 1))
        self.ask(first(1))
        self.assertTrue(self.replica.renew("a", "walnut", 1))
        self.assertFalse(self.replica.renew("a", "walnut", 2))
        self.ask(Accept(Ballot(1, 0), b"2", Ballot(2, 0)))
        self.assertFalse(self.replica.renew("a", "walnut", 1))
        self.assertTrue(self.replica.renew("a", "walnut", 2))
        self.ask(Accept(Ballot(2, 0), b"ended", Ballot(3, 0)))
        self.assertFalse(self.replica.renew("a", "walnut", 2))

    def test_close(self) -> None:
        """A token is closed when its last grant is old enough, and is granted no more."""
        self.ask(first(1))
        self.clock.advance(2.0)
        self.assertTrue(self.replica.renew("a", "walnut", 1))
        self.clock.advance(3.0)
        asked = Prepare(Ballot(1, 1), close=1)
        told = self.ask(asked)
        assert isinstance(told, NotYet)
        self.assertAlmostEqual(told.seconds, grace(LEASE) - 3.0)
        self.clock.advance(told.seconds)
        self.assertEqual(self.ask(asked), Promise(Ballot(1, 1), RESERVED, b"1", 1))
        self.assertFalse(self.replica.renew("a", "walnut", 1))

    def test_close_counts_from_accepting(self) -> None:
        """What has just been accepted is not closed at once."""
        self.clock.advance(60.0)
        self.ask(first(1))
        told = self.ask(Prepare(Ballot(1, 1), close=1))
        assert isinstance(told, NotYet)
        self.assertAlmostEqual(told.seconds, grace(LEASE))

    def test_renewed_while_closing(self) -> None:
        """While the promise is on its way to the disk nobody is granted what it denies."""
        self.ask(first(1))
        self.clock.advance(60.0)
        self.disk.slow = True
        told = self.asked(Prepare(Ballot(1, 1), close=1))
        self.assertFalse(self.replica.renew("a", "walnut", 1))
        self.disk.finish()
        self.successResultOf(told)
        self.assertFalse(self.replica.renew("a", "walnut", 1))

    def test_renewed_when_not_closed(self) -> None:
        """Who wanted it closed and was beaten has closed nothing."""
        self.ask(first(1))
        self.ask(Prepare(Ballot(9, 2)))
        self.clock.advance(60.0)
        told = self.ask(Prepare(Ballot(1, 1), close=1))
        self.assertEqual(told, Conflict(Ballot(1, 1), Ballot(9, 2)))
        self.assertTrue(self.replica.renew("a", "walnut", 1))

    def test_closed_perhaps(self) -> None:
        """When the disk fails while a token is closed, it may be closed: none is granted until that
        is known."""
        self.ask(first(1))
        self.clock.advance(60.0)
        self.disk.slow = True
        told = self.asked(Prepare(Ballot(1, 1), close=1))
        self.disk.break_down()
        self.failureResultOf(told, DatabaseError)
        self.assertFalse(self.replica.renew("a", "walnut", 1))
        again = self.asked(Prepare(Ballot(2, 1)))
        self.disk.finish()
        self.successResultOf(again)
        self.assertTrue(self.replica.renew("a", "walnut", 1))

    def test_restarted(self) -> None:
        """After a restart it knows what is current and closed, and counts from the start."""
        self.ask(first(1))
        self.ask(first(1), "b")
        self.clock.advance(60.0)
        self.ask(Prepare(Ballot(1, 1), close=1), "b")
        self.replica = self.start()
        self.assertFalse(self.replica.renew("b", "walnut", 1))
        told = self.ask(Prepare(Ballot(1, 1), close=1))
        assert isinstance(told, NotYet)
        self.assertAlmostEqual(told.seconds, grace(LEASE))
        self.assertTrue(self.replica.renew("a", "walnut", 1))

    def test_renewed_by_another(self) -> None:
        """A token is its worker's, as long as it is not known who has it."""
        self.ask(first(1))
        self.assertFalse(self.replica.renew("a", "acacia", 1))

    def test_unreadable(self) -> None:
        """A value that this version cannot read is kept, answered for, and grants nothing."""
        wrong = Accept(RESERVED, b"unreadable", Ballot(1, 0))
        self.assertEqual(self.ask(wrong), Accepted(RESERVED))
        self.assertEqual(self.ask(first(1), "b"), Accepted(RESERVED))
        self.replica = self.start()
        self.assertFalse(self.replica.renew("a", "walnut", 1))
        self.assertTrue(self.replica.renew("b", "walnut", 1))

    def test_mistake(self) -> None:
        """What goes wrong with one value is logged, told to who asked, and stops nobody else."""
        self.disk.slow = True
        wrong = self.asked(Accept(RESERVED, b"mistake", Ballot(1, 0)))
        other = self.replica.ask("b", first(1))
        self.disk.finish()
        self.failureResultOf(wrong, ValueError)
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)
        self.disk.finish()
        self.assertEqual(self.successResultOf(other), Accepted(RESERVED))
        self.assertTrue(self.replica.renew("b", "walnut", 1))

    def test_mistake_of_nobody(self) -> None:
        """So it is where who asked wants no answer any more: nothing is kept of the question."""
        self.disk.slow = True
        asked = self.asked(Accept(RESERVED, b"mistake", Ballot(1, 0)))
        asked.cancel()
        self.failureResultOf(asked, CancelledError)
        self.disk.finish()
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)
        self.assertIsNone(self.replica.accepting("a"))

    def test_close_of_next(self) -> None:
        """A greater token is not closed before the one that may be in use."""
        self.clock.advance(60.0)
        self.ask(first(1))
        told = self.ask(Prepare(Ballot(1, 1), close=2))
        assert isinstance(told, NotYet)
        self.assertAlmostEqual(told.seconds, grace(LEASE))

    def test_close_of_unheard(self) -> None:
        """A token that it has not heard of is closed at once, and never granted."""
        self.ask(Prepare(Ballot(1, 1), close=1))
        self.ask(Accept(Ballot(1, 1), b"1", Ballot(2, 1)))
        self.assertFalse(self.replica.renew("a", "walnut", 1))


class StoreTests(SynchronousTestCase):
    """Registers in a database."""

    def setUp(self) -> None:
        directory = Path(self.mktemp()).absolute()
        directory.mkdir(parents=True)
        self.path = directory / "bzzz.db"

    def open(
        self,
        is_open: Callable[[bytes], bool] = lambda value: value not in (b"3", b"4"),
        counts: Callable[[bytes], bool] = lambda value: value == b"4",
    ) -> SqliteRegisterStore:
        database = Database(self.path, None, MIGRATIONS, in_thread=execute)
        self.successResultOf(database.open())
        self.addCleanup(database.close)
        return SqliteRegisterStore(database, is_open, counts)

    def loaded(self) -> str:
        """What is found by a process that starts."""
        kept = self.successResultOf(self.open().load())
        return "".join(sorted(kept))

    def test_kept(self) -> None:
        """What was answered is there after a restart, as it was."""
        batch = [
            Asked("a", first(1)),
            Asked("b", Prepare(Ballot(4, 2), close=7)),
            Asked("a", Accept(Ballot(1, 0), b"2", Ballot(2, 0))),
            Asked("a", Prepare(Ballot(5, 1), close=2), 1.5),
            Asked("c", first(3)),
        ]
        answers = self.successResultOf(self.open().ask(batch))
        self.assertEqual(
            [each.answer for each in answers],
            [
                Accepted(RESERVED),
                Promise(Ballot(4, 2), None, b"", 7),
                Accepted(Ballot(1, 0)),
                NotYet(Ballot(5, 1), 1.5),
                Accepted(RESERVED),
            ],
        )
        kept = Kept(Ballot(2, 0), Ballot(1, 0), b"2")
        store = self.open()
        over = Kept(Ballot(1, 0), RESERVED, b"3")
        self.assertEqual(self.successResultOf(store.load()), {"a": kept, "c": over})
        self.assertEqual(self.successResultOf(store.read("a")), kept)
        self.assertIsNone(self.successResultOf(store.read("b")))
        for every, since, before, found in (
            (True, "", "", [b"3", b"2"]),
            (False, "", "", [b"2"]),
            (True, "b", "", [b"3"]),
            (True, "", "c", [b"2"]),
        ):
            rows = self.successResultOf(store.page(before, since, every, 9))
            self.assertEqual([row.value for row in rows], found)
        rows = self.successResultOf(store.page("", "", True, 1))
        self.assertEqual(rows, [Row("c", b"3")])
        told = self.successResultOf(store.ask([Asked("b", Prepare(Ballot(4, 2)))]))
        self.assertEqual(told[0].answer, Conflict(Ballot(4, 2), Ballot(4, 2)))
        self.assertEqual(told[0].kept, Kept(Ballot(4, 2), None, b"", 7))

    def test_forget(self) -> None:
        """What is not open is removed below an ID, and but for the last; what is open stays."""
        store = self.open()
        batch = [Asked(task, first(2 if task in "bf" else 3)) for task in "abcdefgh"]
        self.successResultOf(store.ask(batch))
        self.assertEqual(self.successResultOf(store.forget("z", 0, 10)), 0)
        for task in "abcdefgh":
            store.decided(task, RESERVED)
        self.successResultOf(store.ask([]))

        def left() -> str:
            return "".join(
                task for task in "abcdefgh" if self.successResultOf(store.read(task)) is not None
            )

        self.assertEqual(self.successResultOf(store.forget("c", 10, 10)), 1)
        self.assertEqual(left(), "bcdefgh")
        self.assertEqual(self.successResultOf(store.forget("", 3, 10)), 2)
        self.assertEqual(left(), "befgh")
        self.assertEqual(self.successResultOf(store.forget("z", 10, 2)), 2)
        self.assertEqual(left(), "bfh")
        self.assertEqual(self.successResultOf(store.forget("z", 10, 2)), 1)
        self.assertEqual(self.successResultOf(store.forget("z", 0, 2)), 0)
        self.assertEqual(left(), "bf")

    def test_decided(self) -> None:
        """An end is loaded until it is known to be decided, whatever is promised since."""
        store = self.open()
        self.successResultOf(store.ask([Asked(task, first(3)) for task in "abc"]))
        self.successResultOf(store.ask([Asked("d", first(4)), Asked("e", first(2))]))
        self.assertEqual(self.loaded(), "abce")
        # Of another ballot it says nothing, nor of what is open.
        for task, ballot in (("a", RESERVED), ("b", Ballot(1, 0)), ("e", RESERVED)):
            store.decided(task, ballot)
        self.assertEqual(self.loaded(), "abce")
        self.successResultOf(store.ask([Asked("c", Prepare(Ballot(4, 1)))]))
        self.assertEqual(self.loaded(), "bce")
        told = self.successResultOf(store.ask([Asked("a", Prepare(Ballot(4, 1)))]))
        self.assertEqual(told[0].answer, Promise(Ballot(4, 1), RESERVED, b"3", 0))
        self.assertEqual(self.loaded(), "bce")
        kept = self.successResultOf(self.open().read("a"))
        self.assertEqual(kept, Kept(Ballot(4, 1), RESERVED, b"3"))
        # It is accepted anew, with a promise in the same write.
        accept = Asked("a", Accept(Ballot(4, 1), b"3", Ballot(5, 1)))
        self.successResultOf(store.ask([accept, Asked("a", Prepare(Ballot(9, 2)))]))
        self.assertEqual(self.loaded(), "abce")
        kept = self.successResultOf(self.open().read("a"))
        self.assertEqual(kept, Kept(Ballot(9, 2), Ballot(4, 1), b"3"))

    def test_decided_and_not_written(self) -> None:
        """What a write that failed was to say too is said by the next one."""
        store = self.open()
        self.successResultOf(store.ask([Asked("a", first(3)), Asked("b", first(3))]))
        store.decided("a", RESERVED)
        wrong = Accept(RESERVED, "no bytes", Ballot(1, 0))  # type: ignore[arg-type]  # to fail
        self.failureResultOf(store.ask([Asked("c", wrong)]))
        self.assertEqual(self.loaded(), "ab")
        store.decided("b", RESERVED)
        self.successResultOf(store.ask([]))
        self.assertEqual(self.loaded(), "")

    def test_unreadable(self) -> None:
        """A value that cannot be read is left as it is, keeps nobody else from an answer, and has a
        row in listings."""
        self.successResultOf(self.open().ask([Asked("a", first(1)), Asked("b", first(2))]))

        def is_open(value: bytes) -> bool:
            if value == b"1":
                raise RemoteProtocolError("it is of a later version")
            return True

        store = self.open(is_open)
        batch = [
            Asked("b", Prepare(Ballot(4, 1))),
            Asked("a", Prepare(Ballot(4, 1))),
            Asked("c", first(3)),
        ]
        told = self.successResultOf(store.ask(batch))
        self.assertIsInstance(told[0].answer, Promise)
        assert isinstance(told[1].answer, Denied)
        self.assertIn("later version", told[1].answer.reason)
        self.assertEqual(told[2].answer, Accepted(RESERVED))
        kept = Kept(Ballot(1, 0), RESERVED, b"1")
        self.assertEqual(told[1].kept, kept)
        self.assertEqual(self.successResultOf(store.read("a")), kept)
        rows = self.successResultOf(store.page("", "", True, 9))
        self.assertEqual(
            rows, [Row("c", b"3"), Row("b", b"2"), Row("a", None, "it is of a later version")]
        )

    def test_all_or_none(self) -> None:
        """Of a batch that fails nothing is kept."""
        store = self.open()
        wrong = Accept(RESERVED, "no bytes", Ballot(1, 0))  # type: ignore[arg-type]  # to fail
        self.failureResultOf(store.ask([Asked("a", first(1)), Asked("b", wrong)]))
        self.assertEqual(self.successResultOf(store.load()), {})

    def test_read_once(self) -> None:
        """What was written a moment ago is not read again, unless that may have failed."""
        store = self.open()
        self.successResultOf(store.ask([Asked("a", first(1)), Asked("c", first(3))]))
        reads: list[str] = []
        read = store._read

        def counted(connection: sqlite3.Connection, task: str) -> Kept:
            if task not in store._recent:
                reads.append(task)
            return read(connection, task)

        self.patch(store, "_read", counted)
        second = Asked("a", Accept(Ballot(1, 0), b"2", Ballot(2, 0)))
        self.successResultOf(store.ask([second, Asked("c", Prepare(Ballot(1, 1)))]))
        # What has ended changes no more.
        self.assertEqual(reads, ["c"])
        wrong = Accept(RESERVED, "no bytes", Ballot(1, 0))  # type: ignore[arg-type]  # to fail
        third = Asked("a", Accept(Ballot(2, 0), b"1", Ballot(3, 0)))
        self.failureResultOf(store.ask([third, Asked("b", wrong)]))
        told = self.successResultOf(store.ask([Asked("a", Prepare(Ballot(2, 1)))]))
        self.assertEqual(reads, ["c", "b", "a"])
        self.assertEqual(told[0].answer, Promise(Ballot(2, 1), Ballot(1, 0), b"2", 0))

    def test_few_remembered(self) -> None:
        """No more than some are remembered, and none that is long."""
        self.patch(register_store, "RECENT", 3)
        self.patch(register_store, "SHORT", 2)
        store = self.open()
        batch = [Asked(task, first(2)) for task in "abcde"]
        self.successResultOf(
            store.ask([*batch, Asked("f", Accept(RESERVED, b"123", Ballot(1, 0)))])
        )
        self.assertEqual([*store._recent], ["c", "d", "e"])

    def test_broken(self) -> None:
        """A disk that fails ends the process; one that is full does not."""
        for error, broken in (
            (FULL, []),
            (DatabaseError("it fails", is_lasting=True), ["it fails"]),
        ):
            disk = Disk()
            told: list[str] = []
            clock = Clock()
            replica = Replica(disk, clock, current, broken=told.append)
            self.patch(disk, "ask", lambda batch, error=error: fail(error))
            failing = replica.ask("a", first(1))
            clock.advance(0)
            self.failureResultOf(failing, DatabaseError)
            self.assertEqual(told, broken)

    def test_no_answer_without_disk(self) -> None:
        """A replica on a disk that cannot be read does not start."""
        disk = Disk()
        self.patch(disk, "load", lambda: fail(FULL))
        replica = Replica(disk, Clock(), current)
        self.failureResultOf(Deferred.fromCoroutine(replica.load()), DatabaseError)
