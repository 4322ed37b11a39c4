"""The lines of the log, and where they go."""

from __future__ import annotations

import io
import re
import signal
import sys
from typing import Any

from twisted.logger import Logger, eventAsText
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from bzzz import log
from bzzz.log import NodeLog
from bzzz.systemd.journal import JournalObserver

# twistd's options in the foreground.
FOREGROUND = {"logger": None, "syslog": False, "logfile": None, "nodaemon": True}


class LogTests(SynchronousTestCase):
    """The lines that operators search."""

    def lines(self, level: str, emit: Any) -> list[str]:
        out = io.StringIO()
        self.patch(sys, "stdout", out)
        made = NodeLog(FOREGROUND, level, journal=False, reactor=None)
        assert made.observer is not None
        emit(Logger("test", observer=made.observer))
        return out.getvalue().splitlines()

    def test_line(self) -> None:
        """A line has the time in UTC, the level and the event's words."""
        (line,) = self.lines("info", lambda log: log.info("Connected to {peer}", peer="aXgZfP"))
        self.assertTrue(
            re.fullmatch(
                r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z \[info\] Connected to aXgZfP", line
            ),
            line,
        )

    def test_level(self) -> None:
        """Events below the level are not written."""

        def emit(log: Logger) -> None:
            log.debug("a")
            log.info("b")
            log.warn("c")

        self.assertEqual(len(self.lines("debug", emit)), 3)
        self.assertEqual(len(self.lines("warn", emit)), 1)

    def test_forged_lines(self) -> None:
        """What a peer puts into a name cannot begin a line of its own nor drive the terminal."""
        lines = self.lines("info", lambda log: log.info("{n}", n="a\n2026 [info] b\x1b[2J\r\x9b"))
        self.assertEqual(lines[1], "\t2026 [info] b\\x1b[2J\\x0d\\x9b")

    def test_traceback(self) -> None:
        """A failure is written with its traceback, indented under its line."""

        def emit(log: Logger) -> None:
            try:
                raise ValueError("wrong")
            except ValueError:
                log.failure("it broke")

        lines = self.lines("info", emit)
        self.assertIn("[critical] it broke", lines[0])
        self.assertTrue(all(line.startswith("\t") for line in lines[1:]))
        self.assertIn("ValueError: wrong", lines[-1])

    def test_level_changes(self) -> None:
        """The level can be another from one event to the next."""
        out = io.StringIO()
        self.patch(sys, "stdout", out)
        made = NodeLog(FOREGROUND, "warn", journal=False, reactor=None)
        write = Logger("test", observer=made.observer).info
        write("a")
        made.set_level("info")
        write("b")
        made.set_level("error")
        write("c")
        self.assertEqual([line[-1] for line in out.getvalue().splitlines()], ["b"])

    def test_log_words(self) -> None:
        """Whatever an event holds, the line says what Twisted would have it say."""
        failing = type("Failing", (), {"__str__": lambda self: 1 // 0, "__repr__": lambda _: "it"})
        events: list[dict[str, Any]] = [
            {"log_format": "plain"},
            {"log_format": "{a} and {b!r}, {c:.2f} {{braces}}", "a": 1, "b": "two", "c": 3.0},
            {"log_format": "{call()} {a.real}", "call": lambda: "called", "a": 1},
            {"log_format": "{missing}"},
            {"log_format": "{a", "a": 1},
            {"log_format": "{a}", "a": failing()},
            {"log_format": b"bytes {a}", "a": 1},
            {"log_format": None},
            {},
            {"log_format": "{a}", "a": 1, "log_failure": Failure(ValueError("wrong"))},
        ]
        for event in events:
            expected = eventAsText(dict(event), includeTimestamp=False, includeSystem=False)
            self.assertEqual(log._words(dict(event)), expected)


class PlaceTests(SynchronousTestCase):
    """Where the log goes."""

    def chosen(self, journal: bool = True, **options: Any) -> object:
        made = NodeLog({**FOREGROUND, **options}, "info", journal=journal, reactor=None)
        return made._chosen({**FOREGROUND, **options}, journal)

    def test_journal(self) -> None:
        """Where standard error leads to the journal, entries go there themselves."""
        self.assertIsInstance(self.chosen(), JournalObserver)
        self.assertNotIsInstance(self.chosen(journal=False), JournalObserver)

    def test_asked_for_elsewhere(self) -> None:
        """What twistd was told of the log wins over the journal."""
        before = signal.getsignal(signal.SIGUSR1)
        self.addCleanup(signal.signal, signal.SIGUSR1, before)
        file = self.mktemp()
        self.assertNotIsInstance(self.chosen(logfile=file), JournalObserver)
        self.assertIsNone(self.chosen(syslog=True))
        self.assertIsNone(self.chosen(logger=print))
