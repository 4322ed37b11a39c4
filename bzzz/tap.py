"""``twistd bzzz``: the options, what is checked before anything starts, and the process.

Enters: the command line and the environment. Leaves: the service tree of one node; or one line on
stderr that says what is wrong, and exit code 1. Nothing that exists is overwritten by then.
"""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import os
import re
import signal
import sys
from collections.abc import Callable
from difflib import get_close_matches
from typing import Any

from setproctitle import setproctitle
from twisted.application.service import IService, MultiService
from twisted.internet.defer import Deferred
from twisted.logger import ILogObserver
from twisted.python import usage
from twisted.python.components import Componentized

from bzzz import __version__
from bzzz.config import CONFIG_VARIABLE, OPTIONS, Config, Option, load
from bzzz.config.kinds import Boolean
from bzzz.errors import BzzzError
from bzzz.log import NodeLog
from bzzz.state import OpenState, StateDirectory
from bzzz.systemd.environment import Environment, find_systemd
from bzzz.web.socket import ControlSocket, bind_control_socket

__all__ = ["Options", "makeService"]

# What systemd tells a service, and only it.
OF_THIS_PROCESS = (
    *("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "SYSTEMD_EXEC_PID"),
    *("LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"),
)

FLAGS = [option.flag for option in OPTIONS]


def refuse(error: object) -> SystemExit:
    """Ends the program in one line. A UsageError would make twistd print a page of its options.

    For the journal the line has the priority of an error (:manpage:`sd-daemon(3)`).
    """
    journal = find_systemd(os.environ, os.getpid(), os.getppid(), _status_of_stderr()).journal
    return SystemExit(f"{'<3>' if journal else ''}bzzz: {error}")


class Options(usage.Options):
    """The options of the table in :mod:`bzzz.config`, and ``--config``.

    :ivar config: set once the command line is parsed; so is the next.
    :ivar systemd: how systemd started this process, if it did.
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
    systemd: Environment

    def __init__(self) -> None:
        super().__init__()
        self.given: dict[str, list[str]] = {}
        self._file: str | None = None

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

    def read(self) -> Config:
        """The configuration by the same flags and environment, and the file as it is now.

        :raises ConfigError: it is wrong.
        """
        file = self["config"] or os.environ.get(CONFIG_VARIABLE)
        if file and self._file is None:
            # twistd changes to another directory, where a relative name would mean another file.
            self._file = os.path.abspath(os.path.expanduser(file))
            return load(self.given, os.environ, file)
        return load(self.given, os.environ, self._file)

    def opt_version(self) -> None:
        """Print the version and exit."""
        sys.stdout.write(f"bzzz {__version__}\n")
        raise SystemExit(0)

    def postOptions(self) -> None:
        try:
            self.config = self.read()
        except BzzzError as error:
            raise refuse(error) from None
        self.systemd = find_systemd(os.environ, os.getpid(), os.getppid(), _status_of_stderr())
        parent = getattr(self, "parent", None)
        if parent is not None and self.systemd.supervised:
            # systemd takes a daemon that forks away for one that has ended.
            parent["nodaemon"] = True
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


def _has_terminal() -> bool:
    """Whether a terminal that is closed should end this process."""
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY))
    except OSError:
        return False
    return True


def _status_of_stderr() -> os.stat_result | None:
    try:
        return os.fstat(2)
    except OSError:
        return None  # closed


class Daemon(MultiService):
    """The root of the tree, and the process: the state directory is held while the node lives.

    :param name: of the node; the process is called after it.
    :param systemd: how systemd started the process, if it did.
    :param reload: has the node read its configuration again.
    """

    def __init__(
        self,
        name: str,
        state: OpenState,
        log: NodeLog,
        reactor: Any,
        reload: Callable[[], None],
        systemd: Environment,
    ) -> None:
        super().__init__()
        self._name = name
        self._reactor = reactor
        self._state = state
        self._log = log
        self._reload = reload
        self._systemd = systemd

    def setServiceParent(self, parent: Any) -> None:
        # The application is where twistd looks for a log observer, and this is the only moment at
        # which a plugin sees the application before the log begins.
        if self._log.observer is not None and isinstance(parent, Componentized):
            parent.setComponent(ILogObserver, self._log.observer)
        super().setServiceParent(parent)

    def startService(self) -> None:
        # twistd may have forked since the directory was opened.
        self._state.write_pid()
        # `ps` and `netstat` then show which node it is, instead of an interpreter.
        setproctitle(f"bzzz: {self._name}")
        if sys.__stderr__ is not None:
            # A watchdog ends a process that is stuck by SIGABRT: then it says where it was stuck.
            with contextlib.suppress(OSError, ValueError):
                faulthandler.enable(sys.__stderr__)
        ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN and not self._systemd.supervised
        if not ignored and not _has_terminal():
            # With a terminal it means that the terminal is gone, which should end the node.
            signal.signal(signal.SIGHUP, lambda *_: self._reactor.callFromThread(self._reload))
        # What was imported stays for good: without looking at it, a full collection takes 2 ms
        # instead of 30, in which no link gets its turn.
        gc.collect()
        gc.freeze()
        self._reactor.addSystemEventTrigger("before", "shutdown", expect_second_signals)
        self._reactor.addSystemEventTrigger("after", "shutdown", self._log.finish)
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


def makeService(options: Options) -> IService:
    """Open what the node needs and build its tree, or refuse in one line."""
    # Only here: the options and their errors need nothing of the node, and are told sooner.
    from twisted.internet import reactor

    from bzzz.node import Launch, make_node

    config = options.config
    for name in OF_THIS_PROCESS:
        # A command that the node runs must not speak in its name.
        os.environ.pop(name, None)
    state: OpenState | None = None
    control: ControlSocket | None = None
    try:
        state = StateDirectory(config.state_dir).open()
        control = bind_control_socket(config.runtime_dir)
        log = NodeLog(
            getattr(options, "parent", None),
            config.log_level,
            journal=options.systemd.journal,
            reactor=reactor,
        )
        launch = Launch(
            systemd=options.systemd, read_config=options.read, set_log_level=log.set_level
        )
        node = make_node(config, state, control, launch)
        daemon = Daemon(config.name, state, log, reactor, node.reload, options.systemd)
        node.setServiceParent(daemon)
    except BzzzError as error:
        if control is not None:
            control.close()
        if state is not None:
            state.close()
        raise refuse(error) from None
    return daemon
