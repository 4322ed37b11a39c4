"""The audit log on the disk: nothing blocks or is lost, and what was done to it is noticed."""

from __future__ import annotations

import errno
import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

from twisted.internet.defer import Deferred, execute
from twisted.internet.task import Clock
from twisted.logger import LogLevel
from twisted.trial.unittest import SynchronousTestCase

from bzzz.errors import LocalProtocolError
from bzzz.identity.keys import PrivateKey
from bzzz.trust import audit, audit_file
from bzzz.trust.audit import GROUP, MAX_QUEUED, MAX_SUMS, RETRY_MOST, SUM_SECONDS, AuditLog
from bzzz.trust.audit_chain import MAX_LINE, Chain, hash_line
from bzzz.trust.audit_disk import KEPT_FILES, MAX_ASIDE, open_files, open_for_reading, read_lines
from bzzz.trust.audit_file import read_head
from bzzz.trust.audit_report import Report
from bzzz.trust.audit_verify import verify
from tests.logs import lines_at

OURS, WALNUT = (PrivateKey(letter * 32) for letter in (b"o", b"w"))
START = 1_795_482_123.0


def no_space(*arguments: object) -> int:
    """The disk is full."""
    raise OSError(errno.ENOSPC, "No space left on device")


class AuditCase(SynchronousTestCase):
    """A log on a virtual clock, in a directory of its own.

    :ivar held: what is to be done in the thread, where it is not done at once.
    """

    def setUp(self) -> None:
        self.clock = Clock()
        self.directory = Path(self.mktemp())
        self.directory.mkdir(parents=True)
        self.path = self.directory / "audit.log"
        self.held: list[tuple[Callable[[], Any], Deferred[Any]]] | None = None
        self.errors = lines_at(self, LogLevel.error)
        self.runs = 0
        self.max_bytes = audit_file.MAX_FILE
        # The disk of the machine that runs tests is not what is tested.
        self.patch(os, "fdatasync", lambda file: None)
        self.patch(os, "fsync", lambda file: None)

    def in_thread(self, call: Callable[[], Any]) -> Deferred[Any]:
        self.runs += 1
        if self.held is not None:
            waiting: Deferred[Any] = Deferred()
            self.held.append((call, waiting))
            return waiting
        return execute(call)

    def let_go(self) -> None:
        """Do what waits for the thread."""
        held, self.held = self.held or [], None
        for call, waiting in held:
            execute(call).chainDeferred(waiting)

    def new(self, key: PrivateKey = OURS) -> AuditLog:
        return AuditLog(
            self.path,
            key,
            self.clock,
            lambda: START + self.clock.seconds(),
            self.in_thread,
            "cluster-7",
            self.max_bytes,
        )

    def started(self, key: PrivateKey = OURS) -> AuditLog:
        log = self.new(key)
        self.successResultOf(log.start())
        return log

    def run_once(self, *events: str, key: PrivateKey = OURS) -> None:
        """A node that records these and stops."""
        log = self.started(key)
        for event in events:
            self.assertTrue(self.successResultOf(log.record(event)))
        self.successResultOf(log.close())

    def lines(self) -> list[dict[str, Any]]:
        found = []
        for _, file in open_files(self.path):
            with file:
                found += [json.loads(line) for line in read_lines(file)]
        return found

    def events(self) -> list[str]:
        return [line["event"] for line in self.lines()]

    def report(self, node: PrivateKey = OURS) -> Report:
        opened = open_files(self.path)
        report = verify(
            [(path.name, list(read_lines(file))) for path, file in opened], (), str(node.peer_id)
        )
        for _, file in opened:
            file.close()
        return report

    def assert_whole(self) -> None:
        report = self.report()
        self.assertTrue(report.whole, report.problems)

    def files(self) -> list[str]:
        return sorted(os.listdir(self.directory))


class WritingTests(AuditCase):
    """Lines that are written."""

    def test_first_line(self) -> None:
        """A new log begins with the node and its cluster, in files that only its user can read."""
        self.run_once("started")
        first, second = self.lines()
        self.assertEqual(first["event"], "log_created")
        self.assertEqual(first["fields"], {"node": str(OURS.peer_id), "cluster": "cluster-7"})
        self.assertEqual((second["event"], second["time"]), ("started", "2026-11-24T01:02:03.000Z"))
        self.assertEqual(self.files(), ["audit.head", "audit.log"])
        for name in self.files():
            self.assertEqual(stat.S_IMODE((self.directory / name).stat().st_mode), 0o600)
        self.assert_whole()

    def test_mode_is_mended(self) -> None:
        """A log that others can read is closed to them."""
        self.run_once()
        self.path.chmod(0o644)
        self.run_once("started")
        self.assertEqual(stat.S_IMODE(self.path.stat().st_mode), 0o600)

    def test_fields(self) -> None:
        """Fields have the order of the list of events, and no control characters."""
        log = self.started()
        log.record("revoked", reason="\x1b[2J\n", name="walnut", by=OURS.peer_id, peer_id=None)
        fields = self.lines()[-1]["fields"]
        self.assertEqual(
            list(fields.items()),
            [
                ("peer_id", None),
                ("name", "walnut"),
                ("by", str(OURS.peer_id)),
                ("reason", "\\x1b[2J\\n"),
            ],
        )

    def test_goes_on(self) -> None:
        """The next start goes on with the chain, from the end of the file alone."""
        for _ in range(3):
            self.run_once("started", "stopped")
        self.assertEqual([line["seq"] for line in self.lines()], list(range(1, 8)))
        self.assert_whole()
        self.assertEqual(self.errors, [])

    def test_recorded_before_the_start(self) -> None:
        """What is recorded before the log is started is written then."""
        log = self.new()
        recorded = log.record("started")
        self.assertNoResult(recorded)
        self.successResultOf(log.start())
        self.assertTrue(self.successResultOf(recorded))
        self.assertEqual(self.events(), ["log_created", "started"])

    def test_never_blocks(self) -> None:
        """While the thread is busy events wait, in order, and then are written in groups."""
        log = self.started()
        self.held = []
        self.runs = 0
        recorded = [log.record("admitted", name=str(number)) for number in range(2 * GROUP)]
        self.assertEqual((len(self.held), self.runs), (1, 1))
        for each in recorded:
            self.assertNoResult(each)
        self.let_go()
        self.assertTrue(all(self.successResultOf(each) for each in recorded))
        self.assertEqual(self.runs, 3, "the first alone, then the others in groups")
        names = [line["fields"]["name"] for line in self.lines()[1:]]
        self.assertEqual(names, [str(number) for number in range(2 * GROUP)])

    def test_on_the_disk(self) -> None:
        """Whoever waits hears of it when the line has been synchronised, not before."""
        log = self.started()
        order: list[str] = []
        synchronise = os.fdatasync

        def fdatasync(file: int) -> None:
            order.append(f"synchronised with {len(self.lines())} lines")
            synchronise(file)

        with mock.patch("os.fdatasync", fdatasync):
            log.record("started").addCallback(lambda result: order.append(f"told {result}"))
        self.assertEqual(order, ["synchronised with 2 lines", "told True"])

    def test_cancelled(self) -> None:
        """Who has waited long enough is told False, and the line is written all the same."""
        log = self.started()
        self.held = []
        waiting = log.record("started").addTimeout(5, self.clock)
        self.clock.advance(5)
        self.assertFalse(self.successResultOf(waiting))
        self.let_go()
        self.assertEqual(self.events()[-1], "started")

    def test_unknown(self) -> None:
        """An event or a field that is not in the list is not written, and nobody is harmed."""
        log = self.started()
        self.assertFalse(self.successResultOf(log.record("surprise")))
        self.assertFalse(self.successResultOf(log.record("invited", code="7-guitar-lunar")))
        errors = self.flushLoggedErrors(LocalProtocolError)
        self.assertEqual(len(errors), 2)
        self.assertNotIn("guitar", "".join(map(str, errors)) + "".join(self.errors))
        self.assertEqual(self.events(), ["log_created"])

    def test_closed(self) -> None:
        """Closing writes what waits; what comes later is not written."""
        log = self.started()
        self.held = []
        log.record("started")
        log.record("stopped")
        closing = log.close()
        self.assertNoResult(closing)
        self.let_go()
        self.successResultOf(closing)
        self.assertEqual(self.events(), ["log_created", "started", "stopped"])
        self.assertFalse(self.successResultOf(log.record("started")))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_told(self) -> None:
        """Those who watch are told when lines were written, and find the last one."""
        log = self.new()
        heads: list[Any] = []
        log.on_written(lambda: heads.append(log.head))
        self.successResultOf(log.start())
        log.record("started")
        last = self.path.read_bytes().splitlines()[-1]
        self.assertEqual([head.seq for head in heads], [1, 2])
        self.assertEqual(heads[1].hash, hash_line(last))
        checkpoint = log.checkpoint()
        assert checkpoint is not None
        checkpoint.check()
        self.assertEqual((checkpoint.seq, checkpoint.hash), (2, hash_line(last)))

    def test_no_checkpoint(self) -> None:
        """Before the first line there is no checkpoint."""
        self.assertIsNone(self.new().checkpoint())


class SumTests(AuditCase):
    """Events that peers can cause as often as they like."""

    def test_summed(self) -> None:
        """There is a line at once, and then one a minute with a count, as long as there are any."""
        log = self.started()
        self.assertTrue(self.successResultOf(log.record("guest_refused", address="a")))
        for number in range(1000):
            refused = log.record("guest_refused", address=str(number))
            self.assertFalse(self.successResultOf(refused))
        self.assertEqual(self.events().count("guest_refused"), 1)
        self.clock.advance(SUM_SECONDS)
        fields = self.lines()[-1]["fields"]
        self.assertEqual(fields, {"address": "999", "count": 1000})
        self.clock.advance(10 * SUM_SECONDS)
        self.assertEqual(self.events().count("guest_refused"), 2)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        log.record("guest_refused", address="again")
        self.assertEqual(self.events().count("guest_refused"), 3)

    def test_apart(self) -> None:
        """Members are summed up each by itself."""
        log = self.started()
        for peer in "abab":
            log.record("link_member", peer_id=peer, state="up")
        self.clock.advance(SUM_SECONDS)
        said = [
            (line["fields"]["peer_id"], line["fields"].get("count")) for line in self.lines()[1:]
        ]
        self.assertEqual(said, [("a", None), ("b", None), ("a", 1), ("b", 1)])

    def test_many_sorts(self) -> None:
        """Beyond so many sorts the rest is summed up together."""
        log = self.started()
        for number in range(MAX_SUMS + 500):
            log.record("link_member", peer_id=str(number), state="up")
        self.assertEqual(self.events().count("link_member"), MAX_SUMS + 1)
        self.clock.advance(SUM_SECONDS)
        self.assertEqual(self.lines()[-1]["fields"]["count"], 499)

    def test_at_the_end(self) -> None:
        """What is summed up when the node stops is written."""
        log = self.started()
        log.record("guest_refused")
        log.record("guest_refused")
        self.successResultOf(log.close())
        self.assertEqual(self.lines()[-1]["fields"], {"count": 1})
        self.assertEqual(self.clock.getDelayedCalls(), [])


class FullDiskTests(AuditCase):
    """A disk that takes nothing."""

    def test_kept(self) -> None:
        """Events are kept and written in order when it works again; it is told once each way."""
        log = self.started()
        with mock.patch("os.write", no_space):
            recorded = [log.record("admitted", name=str(number)) for number in range(10)]
            self.clock.pump([1.0] * 100)
        self.assertEqual(len(self.errors), 1)
        self.assertIn(f"{self.path} cannot be written: No space left on device", self.errors[0])
        self.assertIn("make room on the disk", self.errors[0])
        for each in recorded:
            self.assertNoResult(each)
        self.clock.advance(RETRY_MOST)
        self.assertTrue(all(self.successResultOf(each) for each in recorded))
        names = [line["fields"]["name"] for line in self.lines()[1:]]
        self.assertEqual(names, [str(number) for number in range(10)])
        self.assert_whole()

    def test_half_a_line(self) -> None:
        """What went to a full disk by half is taken back."""
        log = self.started()
        write = os.write

        def half(file: int, data: Any) -> int:
            if len(data) < 200:
                no_space()
            return write(file, bytes(data)[: len(data) // 2])

        with mock.patch("os.write", half):
            log.record("started")
        self.assertEqual(self.events(), ["log_created"])
        self.clock.advance(RETRY_MOST)
        self.assertEqual(self.events(), ["log_created", "started"])
        self.assert_whole()

    def test_half_a_line_that_stays(self) -> None:
        """Where not even that works it is put aside at the next try, and nothing is lost."""
        log = self.started()
        write = os.write

        def half(file: int, data: Any) -> int:
            if len(data) < 200:
                no_space()
            return write(file, bytes(data)[: len(data) // 2])

        with mock.patch("os.write", half), mock.patch("os.ftruncate", no_space):
            log.record("started")
        rest = self.path.read_bytes().splitlines()[-1]
        self.clock.advance(RETRY_MOST)
        self.assertEqual(self.events(), ["log_created", "log_repaired", "started"])
        self.assertEqual((self.directory / "audit.log.damaged").read_bytes(), rest + b"\n")
        self.assert_whole()

    def test_not_synchronised(self) -> None:
        """What could not be synchronised is not believed to be there."""
        log = self.started()
        with mock.patch("os.fdatasync", no_space):
            recorded = log.record("started")
        self.assertNoResult(recorded)
        self.assertEqual(self.events(), ["log_created"])
        self.clock.advance(RETRY_MOST)
        self.assertTrue(self.successResultOf(recorded))
        self.assert_whole()

    def test_not_taken_back(self) -> None:
        """Where it may be there or not, it is rather there twice, and nobody else is blamed."""
        log = self.started()
        with mock.patch("os.fdatasync", no_space), mock.patch("os.ftruncate", no_space):
            log.record("started")
        self.clock.advance(RETRY_MOST)
        self.assertEqual(self.events(), ["log_created", "started", "started"])
        self.assertEqual(len(self.errors), 1)
        self.assert_whole()

    def test_ever_more_rarely(self) -> None:
        """A disk that stays full is tried ever more rarely."""
        log = self.started()
        self.runs = 0
        with mock.patch("os.write", no_space):
            log.record("started")
            self.clock.pump([1.0] * 63)
            self.assertEqual(self.runs, 7, "at 0, 1, 3, 7, 15, 31 and 63 s")
            self.clock.pump([1.0] * 600)
            self.assertEqual(self.runs, 17)

    def test_too_many(self) -> None:
        """Beyond the queue the newest are lost, and a line after the others says how many."""
        log = self.started()
        with mock.patch("os.write", no_space):
            recorded = [log.record("renamed", was=str(number)) for number in range(MAX_QUEUED + 7)]
            self.clock.advance(100)
            log.record("renamed", was="late")
        for each in recorded[MAX_QUEUED:]:
            self.assertFalse(self.successResultOf(each))
        self.assertIn("events are lost", self.errors[-1])
        self.clock.advance(RETRY_MOST)
        self.assertTrue(self.successResultOf(recorded[MAX_QUEUED - 1]))
        *others, last = self.lines()
        self.assertEqual(len(others), 1 + MAX_QUEUED)
        self.assertEqual(last["event"], "events_lost")
        self.assertEqual(
            last["fields"],
            {"lost": 8, "since": "2026-11-24T01:02:03.000Z", "until": "2026-11-24T01:03:43.000Z"},
        )
        log.record("started")
        self.assertEqual(self.events()[-1], "started")
        self.assert_whole()

    def test_lost_twice(self) -> None:
        """Where the line about it cannot be written either, later losses are added to it."""
        self.patch(audit, "MAX_QUEUED", 3)
        log = self.started()
        with mock.patch("os.write", no_space):
            for number in range(5):
                log.record("renamed", was=str(number))
                self.clock.advance(RETRY_MOST)
        self.clock.advance(RETRY_MOST)
        self.assertEqual([line["fields"].get("lost") for line in self.lines()[-2:]], [None, 2])
        self.assert_whole()

    def test_stopped_on_a_full_disk(self) -> None:
        """A node that stops tries once more, and says how much is lost for good."""
        log = self.started()
        with mock.patch("os.write", no_space):
            recorded = log.record("stopped")
            self.successResultOf(log.close())
        self.assertFalse(self.successResultOf(recorded))
        self.assertIn("1 events of the audit log", self.errors[-1])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_not_ours(self) -> None:
        """A file that the node may not write is told with what to do, also at the start."""
        with mock.patch("os.open", side_effect=PermissionError(errno.EACCES, "Permission denied")):
            log = self.started()
            log.record("started")
        self.assertEqual(len(self.errors), 1)
        self.assertIn("let this node's user write", self.errors[0])
        self.clock.advance(RETRY_MOST)
        self.assertEqual(self.events(), ["log_created", "started"])

    def test_something_else(self) -> None:
        """What is no file is not written to."""
        os.mkfifo(self.path)
        self.started()
        self.assertIn(f"{self.path} cannot be written: It is not a file", self.errors[0])
        self.path.unlink()
        elsewhere = self.directory.absolute() / "elsewhere"
        self.path.symlink_to(elsewhere)
        self.clock.advance(RETRY_MOST)
        self.assertIn("symbolic links", self.errors[1])
        self.assertFalse(elsewhere.exists())

    def test_head(self) -> None:
        """Where only the head cannot be written, the log is, and it is told once."""
        (self.directory / "audit.head").mkdir()
        warnings = lines_at(self, LogLevel.warn)
        log = self.started()
        for _ in range(3):
            self.assertTrue(self.successResultOf(log.record("started")))
        self.assertEqual(len(warnings), 1)
        self.assertIn("audit.head cannot be written", warnings[0])
        self.successResultOf(log.close())
        self.run_once("started")
        self.assert_whole()

    def test_a_bug(self) -> None:
        """What else may fail keeps the events, too."""
        log = self.started()
        with mock.patch("os.fdatasync", side_effect=ZeroDivisionError):
            recorded = log.record("started")
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.clock.advance(RETRY_MOST)
        self.assertTrue(self.successResultOf(recorded))
        self.assertEqual(self.events(), ["log_created", "started"])
        self.assert_whole()


class AccidentTests(AuditCase):
    """What is found at the start."""

    def test_unfinished_line(self) -> None:
        """Half a line is moved aside, nothing of it is lost, and a line tells of it."""
        for number in (1, 2):
            self.run_once("started")
            content = self.path.read_bytes()
            self.path.write_bytes(content + b'{"seq":%d,"ti' % number)
        self.run_once("started")
        aside = self.directory / "audit.log.damaged"
        self.assertEqual(aside.read_bytes(), b'{"seq":1,"ti\n{"seq":2,"ti\n')
        self.assertEqual(stat.S_IMODE(aside.stat().st_mode), 0o600)
        repaired = [line for line in self.lines() if line["event"] == "log_repaired"]
        self.assertEqual(
            [line["fields"] for line in repaired],
            [{"bytes": 12, "file": "audit.log.damaged"}] * 2,
        )
        self.assertIn("ended in the middle of a line", self.errors[0])
        self.assert_whole()

    def test_long_rest(self) -> None:
        """Also a rest that is longer than any line."""
        self.run_once("started")
        with open(self.path, "ab") as file:
            file.write(b"x" * (5 * MAX_LINE))
        self.run_once("started")
        self.assertEqual((self.directory / "audit.log.damaged").stat().st_size, 5 * MAX_LINE + 1)
        self.assert_whole()

    def test_every_place(self) -> None:
        """Wherever a crash cuts the last line, the log is whole after the next start."""
        self.run_once("started")
        content = self.path.read_bytes()
        last = content.rstrip(b"\n").rfind(b"\n") + 1
        # The crash came before the head was written.
        self.run_once()
        for cut in range(last, len(content), 7):
            self.path.write_bytes(content[:cut])
            (self.directory / "audit.head").unlink(missing_ok=True)
            self.run_once("started")
            self.assert_whole()

    def test_truncated(self) -> None:
        """Lines that are gone are noticed, and stay missing: the log goes on behind the gap."""
        self.run_once("started", "stopped", "started", "stopped")
        lines = self.path.read_bytes().splitlines(keepends=True)
        self.path.write_bytes(b"".join(lines[:2]))
        self.run_once("started")
        self.assertIn("ends with line 2, and this node had written 5", self.errors[0])
        self.assertEqual(
            [(line["seq"], line["event"]) for line in self.lines()[2:]],
            [(6, "log_truncated"), (7, "started")],
        )
        self.assertEqual(self.lines()[2]["fields"], {"last": 2, "expected": 5})
        self.assertEqual(
            [(each.line, each.kind) for each in self.report().problems], [(3, "missing")]
        )

    def test_removed(self) -> None:
        """So is a log that is gone as a whole."""
        self.run_once("started", "stopped")
        self.path.unlink()
        self.run_once("started")
        self.assertIn("has no lines, and this node had written 3", self.errors[0])
        self.assertEqual(self.lines()[0]["seq"], 4)
        problem = self.report().problems[0]
        self.assertEqual((problem.line, problem.kind), (1, "missing"))

    def test_last_line_changed(self) -> None:
        """A last line that was changed is told, and the next one follows the one that was."""
        self.run_once("started", "stopped")
        self.path.write_bytes(self.path.read_bytes().replace(b'"stopped"', b'"Stopped"'))
        self.run_once("started")
        self.assertIn("its last line is not as the node wrote it", self.errors[0])
        self.assertEqual(self.events()[-2:], ["log_damaged", "started"])
        self.assertEqual(
            [(each.line, each.kind) for each in self.report().problems], [(3, "altered")]
        )

    def test_last_line_exchanged(self) -> None:
        """So is one that was exchanged for another with the node's key."""
        self.run_once("started", "stopped")
        *lines, _ = self.path.read_bytes().splitlines(keepends=True)
        chain = Chain(OURS, 2, hash_line(lines[-1][:-1]))
        self.path.write_bytes(b"".join(lines) + chain.append("left", {}, START))
        self.run_once("started")
        self.assertIn("its last line is not the one that the node wrote", self.errors[0])
        self.assertEqual(
            [(each.line, each.kind) for each in self.report().problems], [(4, "broken")]
        )

    def test_rubbish_and_no_head(self) -> None:
        """Where nothing tells how to go on the file is kept, and a new log begins."""
        for number in range(MAX_ASIDE + 2):
            self.path.write_bytes(b"rubbish %d\n" % number)
            (self.directory / "audit.head").unlink(missing_ok=True)
            self.run_once("started")
            self.assertEqual(self.events(), ["log_created", "log_damaged", "started"])
            self.assert_whole()
            aside = self.directory / f"audit.log.damaged-{min(number + 1, MAX_ASIDE)}"
            self.assertEqual(aside.read_bytes(), b"rubbish %d\n" % number)
            self.assertIn(str(aside), self.errors[-1])

    def test_head_is_rubbish(self) -> None:
        """A head that cannot be read counts for nothing."""
        for head in (b"", b"0" * 200, b"\0" * 86, b"%020d %s\n" % (0, b"0" * 64)):
            (self.directory / "audit.head").write_bytes(head)
            self.run_once("started")
        self.assertEqual(self.errors, [])
        self.assert_whole()

    def test_head_is_older(self) -> None:
        """A crash between a line and its number is nothing to tell."""
        self.run_once("started")
        head = (self.directory / "audit.head").read_bytes()
        self.run_once("stopped", "started")
        (self.directory / "audit.head").write_bytes(head)
        self.run_once("stopped")
        self.assertEqual(self.errors, [])
        self.assert_whole()

    def test_changed_while_running(self) -> None:
        """What others do to the file while the node runs is noticed with the next line."""
        log = self.started()
        log.record("started")
        self.path.unlink()
        log.record("stopped")
        self.assertEqual(self.events(), ["log_truncated", "stopped"])
        with open(self.path, "ab") as file:
            file.write(b"rubbish\n")
        log.record("started")
        self.assertEqual(self.events_readable()[-2:], ["log_damaged", "started"])
        content = self.path.read_bytes()
        self.path.unlink()
        self.path.write_bytes(content)
        log.record("started")
        self.assertIn("somebody else replaced it", self.errors[-1])

    def events_readable(self) -> list[str]:
        lines = self.path.read_bytes().splitlines()
        return [json.loads(line)["event"] for line in lines if line.startswith(b"{")]

    def test_another_key(self) -> None:
        """A log that another key has signed until now is told, once."""
        self.run_once("started")
        self.run_once("started", key=WALNUT)
        self.assertIn(f"it was signed by {OURS.peer_id} until now", self.errors[0])
        self.run_once("started", key=WALNUT)
        self.assertEqual(len(self.errors), 1)
        report = self.report(WALNUT)
        self.assertEqual([each.kind for each in report.problems], ["wrong_key"])


class KeyTests(AuditCase):
    """A key that is rotated."""

    def test_rotated(self) -> None:
        """The old key names the new one, which signs from then on, also after a restart."""
        log = self.started()
        log.record("started")
        self.assertTrue(self.successResultOf(log.rotate_key(WALNUT)))
        log.record("stopped")
        checkpoint = log.checkpoint()
        assert checkpoint is not None
        self.assertEqual(checkpoint.node, str(WALNUT.peer_id))
        checkpoint.check()
        self.successResultOf(log.close())
        self.run_once("started", key=WALNUT)
        report = self.report(WALNUT)
        self.assertTrue(report.whole, report.problems)
        self.assertEqual(report.keys, [str(OURS.peer_id), str(WALNUT.peer_id)])
        self.assertEqual(self.errors, [])

    def test_restart_at_once(self) -> None:
        """The new key follows also where the line that names it is the last one."""
        log = self.started()
        log.rotate_key(WALNUT)
        self.successResultOf(log.close())
        self.run_once("started", key=WALNUT)
        self.assertTrue(self.report(WALNUT).whole)
        self.assertEqual(self.errors, [])

    def test_on_a_full_disk(self) -> None:
        """The old key signs until the line that names the new one is on the disk; that line is
        never dropped."""
        self.patch(audit, "MAX_QUEUED", 1)
        log = self.started()
        with mock.patch("os.write", no_space):
            log.record("started")
            rotated = log.rotate_key(WALNUT)
            checkpoint = log.checkpoint()
        assert checkpoint is not None
        self.assertEqual(checkpoint.node, str(OURS.peer_id))
        self.clock.advance(RETRY_MOST)
        self.assertTrue(self.successResultOf(rotated))
        log.record("stopped")
        self.assertTrue(self.report(WALNUT).whole)


class RotationTests(AuditCase):
    """Files that are full."""

    def setUp(self) -> None:
        super().setUp()
        self.max_bytes = 2000

    def fill(self, log: AuditLog, count: int) -> None:
        for number in range(count):
            self.assertTrue(self.successResultOf(log.record("admitted", name=str(number))))

    def test_rotated(self) -> None:
        """A full file is renamed, the chain goes on in the next, and the oldest are deleted."""
        log = self.started()
        self.fill(log, 40)
        expected = ["audit.head", "audit.log"] + [f"audit.log.{n + 1}" for n in range(KEPT_FILES)]
        self.assertEqual(self.files(), expected)
        for name in self.files():
            path = self.directory / name
            self.assertEqual(stat.S_IMODE(path.stat().st_mode), 0o600)
            self.assertLess(path.stat().st_size, 3000)
        report = self.report()
        self.assertTrue(report.whole, report.problems)
        self.assertGreater(report.first_seq, 1)
        rotated = [line["fields"] for line in self.lines() if line["event"] == "log_rotated"]
        self.assertEqual(rotated[-1], {"oldest": report.first_seq})
        self.assertEqual(self.errors, [])
        self.successResultOf(log.close())
        self.run_once("started")
        self.assert_whole()

    def test_removed_by_somebody(self) -> None:
        """A file that somebody else removed stays missing, also when the log rotates on."""
        log = self.started()
        self.fill(log, 40)
        (self.directory / f"audit.log.{KEPT_FILES}").unlink()
        self.assertFalse(self.report().whole)
        self.fill(log, 5)
        self.assertFalse(self.report().whole)
        (self.directory / f"audit.log.{KEPT_FILES - 1}").unlink()
        self.fill(log, 5)
        self.assertFalse(self.report().whole)
        self.fill(log, 40)
        self.assert_whole()

    def test_hole(self) -> None:
        """Where a file is missing in between the oldest is not deleted, and not said to be."""
        log = self.started()
        self.fill(log, 40)
        (self.directory / f"audit.log.{KEPT_FILES - 1}").unlink()
        first = self.lines()[0]
        rotated = self.events().count("log_rotated")
        while f"audit.log.{KEPT_FILES - 1}" not in self.files():
            self.fill(log, 1)
        self.assertEqual(self.lines()[0], first)
        self.assertEqual(self.events().count("log_rotated"), rotated)

    def test_crash_while_rotating(self) -> None:
        """Whatever a crash leaves of a rotation, the log is whole, before and after a start."""
        replace = os.replace
        log = self.started()
        self.fill(log, 40)
        self.successResultOf(log.close())
        for step in range(KEPT_FILES + 1):
            log = self.started()
            done = 0

            def crash(source: Any, target: Any, step: int = step) -> None:
                nonlocal done
                done += 1
                if done > step:
                    raise OSError(errno.EIO, "the machine went down")
                replace(source, target)

            def last_crash(path: Path) -> None:
                raise OSError(errno.EIO, "the machine went down")

            with (
                mock.patch("os.replace", crash),
                mock.patch.object(audit_file, "sync_directory", last_crash),
            ):
                while not self.errors:
                    log.record("admitted")
            self.assertIn("the machine went down", self.errors.pop())
            self.assert_whole()
            self.run_once("started")
            self.assert_whole()
            self.assertEqual(self.errors, [])

    def test_full_disk(self) -> None:
        """A rotation that fails is tried again, and nothing is lost."""
        log = self.started()
        self.fill(log, 4)
        with mock.patch("os.replace", side_effect=OSError(errno.EROFS, "Read-only file system")):
            recorded = [log.record("started") for _ in range(5)]
        self.clock.advance(RETRY_MOST)
        self.assertTrue(all(self.successResultOf(each) for each in recorded))
        self.assert_whole()


class ReadingTests(AuditCase):
    """What others read."""

    def test_long_lines(self) -> None:
        """A line longer than any may be is cut, and reading goes on behind it."""
        self.path.write_bytes(b"x" * (3 * MAX_LINE) + b"\nshort\n" + b"y" * MAX_LINE)
        with open_for_reading(self.path) as file:
            lines = list(read_lines(file))
        self.assertEqual([len(line) for line in lines], [MAX_LINE + 1, 6, MAX_LINE])

    def test_head(self) -> None:
        """The head says which line is the last."""
        self.run_once("started")
        head = read_head(self.directory / "audit.head")
        assert head is not None
        self.assertEqual(head.seq, 2)
        self.assertEqual(head.hash, hash_line(self.path.read_bytes().splitlines()[-1]))
