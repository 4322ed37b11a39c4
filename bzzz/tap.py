"""``twistd bzzz``: the options, what is checked before anything starts, and the process.

Enters: the command line and the environment. Leaves: the service tree of one node; or one line on
stderr that says what is wrong, and exit code 1. Nothing that exists is overwritten by then.
"""

from __future__ import annotations

import atexit
import contextlib
import faulthandler
import gc
import os
import re
import resource
import signal
import sys
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from typing import Any

from setproctitle import setproctitle
from twisted.application.service import IService, MultiService
from twisted.internet.defer import Deferred
from twisted.internet.error import ReactorNotRunning
from twisted.logger import ILogObserver, Logger
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

# What ends the process in order.
STOPPING = (signal.SIGTERM, signal.SIGINT)

# Seconds after which a thread that computes lets another one go on. The database's thread waits
# after each statement, and with the interpreter's 5 ms a busy node would wait for its disk.
SWITCH_INTERVAL = 0.0002

# Objects that may be made before the interpreter looks for those that hold each other, and looks
# after which it looks through the older ones, too. A node makes next to none of these; but the
# tasks under way on a busy one have tens of thousands of objects, and to look through them after
# each 5,000 took a twelfth more of its time. Links wait for as long as a look takes, some ms.
COLLECT_AFTER = 15_000
COLLECT_OLDER = 4

# linux/prctl.h
PR_SET_DUMPABLE = 4

_log = Logger()


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
    said = f"{option.help}{note} [default: {option.default_text}]"
    method.__doc__ = said.replace("``", "")
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
    :param restart: of this process.
    """

    def __init__(
        self,
        name: str,
        state: OpenState,
        log: NodeLog,
        reactor: Any,
        reload: Callable[[], None],
        systemd: Environment,
        restart: Restart,
    ) -> None:
        super().__init__()
        self._name = name
        self._reactor = reactor
        self._state = state
        self._log = log
        self._reload = reload
        self._systemd = systemd
        self._restart = restart

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
        gc.set_threshold(COLLECT_AFTER, COLLECT_OLDER)
        self._reactor.addSystemEventTrigger(
            "before", "shutdown", expect_second_signals, self._restart
        )
        self._reactor.addSystemEventTrigger("after", "shutdown", self._log.finish)
        sys.setswitchinterval(SWITCH_INTERVAL)
        super().startService()

    def stopService(self) -> Deferred[None]:
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        try:
            await super().stopService()
        finally:
            self._state.close()


class Restart:
    """Has the process end in order and go on as a new one: by the same command line, in its place.
    And it has the exit code be 1 where that is not wanted, but something has failed.

    To systemd, or to a shell, it is the same process all the time, so that nobody has to start it
    again. What the old one had in memory is gone, keys included.

    :param environ: what was taken out of the environment, and the new one is to have again.
    """

    def __init__(self, reactor: Any, environ: Mapping[str, str]) -> None:
        self.wanted = False
        self.failed = False
        self._reactor = reactor
        self._environ = environ
        # twistd changes to another directory, where a relative name would mean another file.
        self._directory = _current_directory()
        self._ignored = [each for each in STOPPING if signal.getsignal(each) is signal.SIG_IGN]
        # First, to be called last, when all that others have to write is written.
        atexit.register(self._begin)

    def __call__(self) -> None:
        """Do so, unless the process ends already."""
        try:
            self._reactor.stop()
        except ReactorNotRunning:
            return
        self.wanted = True
        signal.signal(signal.SIGTERM, self.cancel)

    def cancel(self, *_: object) -> None:
        """The process was told to end: it does so for good."""
        self.wanted = False

    def fail(self) -> None:
        """When it ends its exit code is 1: it cannot do what it is for. Twisted has 0 for whoever
        stops its reactor."""
        self.failed = True

    def _begin(self) -> None:
        if not self.wanted:
            if self.failed:
                _flush()
                os._exit(1)
            return
        for each in STOPPING:
            # What is ignored stays ignored in the new process.
            signal.signal(each, signal.SIG_IGN if each in self._ignored else signal.SIG_DFL)
        # Again: it may have been cancelled until now. A signal from now on ends the process.
        if not self.wanted:
            return
        _flush()
        try:
            if self._directory is not None:
                os.chdir(self._directory)
            os.execve(  # nosec B606  # noqa: S606 - this very program
                sys.executable,
                [sys.executable, *sys.orig_argv[1:]],
                {**os.environ, **self._environ},
            )
        except OSError as error:
            with contextlib.suppress(OSError):
                os.write(2, f"bzzz: it cannot start again: {error}; start it by hand\n".encode())
            os._exit(1)


def _flush() -> None:
    for stream in (sys.__stdout__, sys.__stderr__):
        if stream is not None:
            with contextlib.suppress(OSError, ValueError):
                stream.flush()


def _current_directory() -> str | None:
    try:
        return os.getcwd()
    except OSError:
        return None  # it was removed


def expect_second_signals(restart: Restart) -> None:
    """While the node stops, SIGTERM changes nothing and SIGINT ends the process at once.

    If it stops to start again, SIGTERM keeps it from that. Twisted's handlers would stop the
    reactor again, which logs a traceback.
    """
    signal.signal(signal.SIGTERM, restart.cancel if restart.wanted else signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def forbid_core_dumps() -> None:
    """Keep the private key out of core files, and other processes of the user out of this one.

    A limit of 0 bytes keeps the kernel from writing a file, in what the node starts as well. It
    does not keep it from giving the core to a program, where ``kernel.core_pattern`` names one
    (:manpage:`core(5)`); a process that is not dumpable has none. Nor can another process of the
    same user read its memory, or trace it (:manpage:`PR_SET_DUMPABLE(2const)`). Programs that are
    started by exec are dumpable again.
    """
    import ctypes

    try:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        forbidden = ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) == 0
    except OSError:
        forbidden = False
    if not forbidden:
        # A filter of system calls, maybe. It runs as it did before there was this function.
        _log.warn("The system does not let this process forbid its core dumps")


def makeService(options: Options) -> IService:
    """Open what the node needs and build its tree, or refuse in one line."""
    # Only here: the options and their errors need nothing of the node, and are told sooner.
    from twisted.internet import reactor

    from bzzz.node import Launch, make_node

    # Before the key is read.
    forbid_core_dumps()
    config = options.config
    # A command that the node runs must not speak in its name.
    of_this_process = {name: os.environ.pop(name) for name in OF_THIS_PROCESS if name in os.environ}
    restart = Restart(reactor, of_this_process)
    state: OpenState | None = None
    control: ControlSocket | None = None
    try:
        state = StateDirectory(config.state_dir).open()
        control = bind_control_socket(config.runtime_dir, os.environ)
        log = NodeLog(
            getattr(options, "parent", None),
            config.log_level,
            journal=options.systemd.journal,
            reactor=reactor,
        )
        launch = Launch(
            systemd=options.systemd,
            read_config=options.read,
            set_log_level=log.set_level,
            restart=restart,
            fail=restart.fail,
        )
        node = make_node(config, state, control, launch)
        daemon = Daemon(config.name, state, log, reactor, node.reload, options.systemd, restart)
        node.setServiceParent(daemon)
    except BzzzError as error:
        if control is not None:
            control.close()
        if state is not None:
            state.close()
        raise refuse(error) from None
    return daemon
