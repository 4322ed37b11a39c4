"""``twistd bzzz``: the options, what is checked before anything starts, and the log's lines.

Enters: the command line and the environment. Leaves: the service tree of one node; or one line on
stderr that says what is wrong, and exit code 1. Nothing that exists is overwritten by then.
"""

from __future__ import annotations

import gc
import os
import re
import signal
import sys
from collections.abc import Callable
from difflib import get_close_matches
from typing import IO, Any

from twisted.application.service import IService, MultiService
from twisted.internet.defer import Deferred
from twisted.logger import (
    FileLogObserver,
    FilteringLogObserver,
    ILogObserver,
    LogEvent,
    LogLevel,
    LogLevelFilterPredicate,
    eventAsText,
)
from twisted.python import usage
from twisted.python.components import Componentized
from twisted.python.logfile import LogFile

from bzzz import __version__
from bzzz.config import OPTIONS, Config, Option, load
from bzzz.config.kinds import Boolean
from bzzz.errors import BzzzError
from bzzz.events import rfc3339
from bzzz.state import OpenState, StateDirectory
from bzzz.web.socket import ControlSocket, bind_control_socket

__all__ = ["Options", "log_line", "makeService"]

# Control characters, which could forge a line or drive a terminal when a peer put them into a name.
# Ends of lines are kept for tracebacks, and what follows them is indented.
_VISIBLE = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160)) if code != 10} | {
    9: "\t",
    10: "\n\t",
}

FLAGS = [option.flag for option in OPTIONS]


def refuse(error: object) -> SystemExit:
    """Ends the program in one line. A UsageError would make twistd print a page of its options."""
    return SystemExit(f"bzzz: {error}")


class Options(usage.Options):
    """The options of the table in :mod:`bzzz.config`, and ``--config``.

    :ivar config: set once the command line is parsed.
    """

    synopsis = "[options]"
    longdesc = (
        "Run a node of the mesh. Everything has a default. Each option can also be set by a key of"
        " the same name in a TOML file, and by an environment variable BZZZ_<KEY>; a flag wins over"
        " a variable, and a variable over the file."
    )
    optParameters = [  # noqa: RUF012 - Twisted's way
        [
            "config",
            "c",
            None,
            "TOML file to read. Without it $BZZZ_CONFIG, else bzzz/bzzz.toml in the XDG"
            " configuration directory if it is there.",
        ],
    ]
    config: Config

    def __init__(self) -> None:
        super().__init__()
        self.given: dict[str, list[str]] = {}

    def parseOptions(self, options: Any = None) -> None:
        try:
            super().parseOptions(options)
        except usage.UsageError as error:
            unknown = re.fullmatch(r"option (--\S+) not recognized", str(error))
            close = get_close_matches(unknown[1], ["--config", *FLAGS], 1) if unknown else []
            hint = f"did you mean {close[0]}?" if close else "see twistd bzzz --help"
            raise refuse(f"{error}; {hint}") from None

    def parseArgs(self, *arguments: str) -> None:
        if arguments:
            raise usage.UsageError(f"unexpected argument '{arguments[0]}'")

    def opt_version(self) -> None:
        """Print the version and exit."""
        sys.stdout.write(f"bzzz {__version__}\n")
        raise SystemExit(0)

    def postOptions(self) -> None:
        try:
            self.config = load(self.given, os.environ, self["config"])
        except BzzzError as error:
            raise refuse(error) from None
        parent = getattr(self, "parent", None)
        if parent is not None and parent["nodaemon"] and parent["pidfile"] == "twistd.pid":
            # The lock of the state directory names the pid. twistd's own default would be a file in
            # the current directory, which need not be writable and may have another node's.
            parent["pidfile"] = ""


def _setter(option: Option, value: str | None = None) -> Callable[..., None]:
    def take(self: Options, text: str) -> None:
        self.given.setdefault(option.key, []).append(text)

    def switch(self: Options) -> None:
        self.given[option.key] = [value or ""]

    method = switch if value else take
    note = " Repeatable." if option.kind.repeatable else ""
    default = option.default_text.replace("``", "")
    method.__doc__ = f"{option.help}{note} [default: {default}]"
    if value == "no":
        method.__doc__ = f"The opposite of {option.flag}."
    return method


for _option in OPTIONS:
    if isinstance(_option.kind, Boolean):
        setattr(Options, f"opt_{_option.key}", _setter(_option, "yes"))
        setattr(Options, f"opt_no_{_option.key}", _setter(_option, "no"))
    else:
        setattr(Options, f"opt_{_option.key}", _setter(_option))


def _words(event: LogEvent) -> str:
    """What eventAsText() says, in a tenth of the time for the plain events that are nearly all.

    A node that meets fifty others writes 150 lines in a second or two.
    """
    words = event.get("log_format")
    plain = isinstance(words, str) and "(" not in words
    if plain and "log_failure" not in event and "log_flattened" not in event:
        try:
            return str(words).format_map(event)
        except Exception:  # noqa: BLE001,S110 - a value's __str__ may raise anything; told below
            pass
    return eventAsText(event, includeTimestamp=False, includeSystem=False)


def log_line(event: LogEvent) -> str | None:
    """``2026-11-24T01:02:03.004Z [info] Connected to ...``, or None for an event without words."""
    text = _words(event)
    if not text.strip():
        return None
    level = event.get("log_level", LogLevel.info).name
    visible = text.rstrip("\n").translate(_VISIBLE)
    return f"{rfc3339(event['log_time'])} [{level}] {visible}\n"


def log_observer(out: IO[str], level: str) -> ILogObserver:
    """Writes the events of ``level`` and above to ``out``, a line each."""
    least = LogLevelFilterPredicate(defaultLogLevel=LogLevel.levelWithName(level))
    return FilteringLogObserver(FileLogObserver(out, log_line), [least])


class Daemon(MultiService):
    """The root of the tree: holds the state directory while the node below it lives."""

    def __init__(self, state: OpenState, observer: ILogObserver | None, reactor: Any) -> None:
        super().__init__()
        self._reactor = reactor
        self._state = state
        self._observer = observer

    def setServiceParent(self, parent: Any) -> None:
        # The application is where twistd looks for a log observer, and this is the only moment at
        # which a plugin sees the application before the log begins.
        if self._observer is not None and isinstance(parent, Componentized):
            parent.setComponent(ILogObserver, self._observer)
        super().setServiceParent(parent)

    def startService(self) -> None:
        # twistd may have forked since the directory was opened.
        self._state.write_pid()
        # What was imported stays for good: without looking at it, a full collection takes 2 ms
        # instead of 30, in which no link gets its turn.
        gc.collect()
        gc.freeze()
        self._reactor.addSystemEventTrigger("before", "shutdown", expect_second_signals)
        super().startService()

    def stopService(self) -> Deferred[None]:
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        try:
            await super().stopService()
        finally:
            self._state.close()


def expect_second_signals() -> None:
    """While the node stops, SIGTERM changes nothing and SIGINT ends the process at once.

    Twisted's handlers would stop the reactor again, which logs a traceback.
    """
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _observer_for(parent: Any, level: str) -> ILogObserver | None:
    """The log observer that twistd's own options ask for, with our lines and level."""
    if parent is None or parent["logger"] or parent["syslog"]:
        return None
    name = parent["logfile"] or ("-" if parent["nodaemon"] else "twistd.log")
    if name == "-":
        # A daemon that should log to stdout gets twistd's own error.
        return log_observer(sys.stdout, level) if parent["nodaemon"] else None
    file = LogFile.fromFullPath(name)
    if signal.getsignal(signal.SIGUSR1) in {signal.SIG_DFL, None}:
        # What twistd does with its own observer, for logrotate.
        from twisted.internet import reactor

        rotate = file.rotate
        signal.signal(signal.SIGUSR1, lambda *_: reactor.callFromThread(rotate))  # type: ignore[attr-defined]  # set at import
    return log_observer(file, level)


def makeService(options: Options) -> IService:
    """Open what the node needs and build its tree, or refuse in one line."""
    # Only here: the options and their errors need nothing of the node, and are told sooner.
    from twisted.internet import reactor

    from bzzz.node import make_node

    config = options.config
    state: OpenState | None = None
    control: ControlSocket | None = None
    try:
        state = StateDirectory(config.state_dir).open()
        control = bind_control_socket(config.runtime_dir)
        observer = _observer_for(getattr(options, "parent", None), config.log_level)
        daemon = Daemon(state, observer, reactor)
        make_node(config, state, control).setServiceParent(daemon)
    except BzzzError as error:
        if control is not None:
            control.close()
        if state is not None:
            state.close()
        raise refuse(error) from None
    return daemon
