"""Where the log goes, and the form of its lines.

Enters: twistd's own options, the level, and how systemd started this process. Leaves: the observer
that twistd is given, to a terminal, a file or the journal; a level that can be changed later.
"""

from __future__ import annotations

import atexit
import signal
import sys
from collections.abc import Callable, Mapping
from typing import Any

from twisted.logger import (
    FileLogObserver,
    FilteringLogObserver,
    ILogObserver,
    LogEvent,
    LogLevel,
    LogLevelFilterPredicate,
    eventAsText,
)
from twisted.python.logfile import LogFile

from bzzz.events import rfc3339
from bzzz.systemd.journal import JournalObserver, writer

__all__ = ["NodeLog", "log_line"]

STANDARD_ERROR = 2

# Control characters, which could forge a line or drive a terminal when a peer put them into a name.
# Ends of lines are kept for tracebacks, and what follows them is indented.
_VISIBLE = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160)) if code != 10} | {
    9: "\t",
    10: "\n\t",
}


def _words(event: LogEvent) -> str:
    """What eventAsText() says, in a tenth of the time for the plain events that are nearly all.

    A node that meets fifty others writes 150 lines in a second or two.
    """
    words = event.get("log_format")
    plain = isinstance(words, str) and "(" not in words
    if plain and "log_failure" not in event and "log_flattened" not in event:
        try:
            return str(words).format_map(event)
        except Exception:  # nosec B110  # noqa: BLE001,S110 - a value's __str__ may raise anything; told below
            pass
    return eventAsText(event, includeTimestamp=False, includeSystem=False)


def log_text(event: LogEvent) -> str | None:
    """The words of an event without what could drive a terminal; None for an event without any."""
    text = _words(event)
    return text.rstrip("\n").translate(_VISIBLE) if text.strip() else None


def log_line(event: LogEvent) -> str | None:
    """``2026-11-24T01:02:03.004Z [info] Connected to ...``, or None for an event without words."""
    text = log_text(event)
    if text is None:
        return None
    level = event.get("log_level", LogLevel.info).name
    return f"{rfc3339(event['log_time'])} [{level}] {text}\n"


class NodeLog:
    """The observer that twistd's options and systemd's environment ask for, with a level.

    :param parent: twistd's own options; None where the node is not run by twistd.
    :param journal: whether standard error leads to systemd's journal.
    :param reactor: the global one, for rotating a file at SIGUSR1 and for the journal.
    :ivar observer: None where twistd's own is to be used.
    :ivar finish: to be called when the reactor has ended, so that nothing waits for it any more.
    """

    def __init__(
        self, parent: Mapping[str, Any] | None, level: str, *, journal: bool, reactor: Any
    ) -> None:
        self._least = LogLevelFilterPredicate(defaultLogLevel=LogLevel.levelWithName(level))
        self._reactor = reactor
        self.finish: Callable[[], object] = lambda: None
        chosen = self._chosen(parent, journal)
        self.observer: ILogObserver | None = (
            None if chosen is None else FilteringLogObserver(chosen, [self._least])
        )

    def set_level(self, level: str) -> None:
        """Write the events of ``level`` and above from now on."""
        self._least.setLogLevelForNamespace("", LogLevel.levelWithName(level))

    def _chosen(self, parent: Mapping[str, Any] | None, journal: bool) -> ILogObserver | None:
        if parent is None or parent["logger"] or parent["syslog"]:
            return None
        name = parent["logfile"] or ("-" if parent["nodaemon"] else "twistd.log")
        if name != "-":
            return FileLogObserver(self._file(name), log_line)
        if not parent["nodaemon"]:
            # A daemon that should log to stdout gets twistd's own error.
            return None
        if journal:
            # Once the log has begun, sys.stderr is a part of it.
            entries = JournalObserver(log_text, self._later, writer(STANDARD_ERROR))
            # Not the reactor's last event, after which there is still something to say; nor this
            # alone, because a process that a signal ends does not come to it.
            atexit.register(entries.finish)
            self.finish = entries.finish
            return entries
        return FileLogObserver(sys.stdout, log_line)

    def _later(self, delay: float, call: Callable[[], None]) -> None:
        self._reactor.callFromThread(self._reactor.callLater, delay, call)

    def _file(self, name: str) -> Any:
        file = LogFile.fromFullPath(name)
        if signal.getsignal(signal.SIGUSR1) in {signal.SIG_DFL, None}:
            # What twistd does with its own observer, for logrotate.
            rotate = file.rotate
            signal.signal(signal.SIGUSR1, lambda *_: self._reactor.callFromThread(rotate))
        return file
