"""The end of a process that is to go on as a new one."""

from __future__ import annotations

import atexit
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.internet.error import ReactorNotRunning
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from bzzz.tap import Restart, expect_second_signals


class Executed(Exception):
    """The process is another one from here on."""


class FakeReactor(Clock):
    """A reactor that can be stopped once."""

    stopped = False

    def stop(self) -> None:
        if self.stopped:
            raise ReactorNotRunning
        self.stopped = True


class RestartTests(SynchronousTestCase):
    """Made when the process starts, called when it is to start again."""

    def setUp(self) -> None:
        self.reactor = FakeReactor()
        self.at_exit: list[Callable[[], object]] = []
        self.patch(atexit, "register", self.at_exit.append)
        self.signals: dict[int, Any] = {}
        self.patch(signal, "signal", self.signals.__setitem__)
        self.patch(signal, "getsignal", lambda each: self.signals.get(each, signal.SIG_DFL))
        self.executed: list[tuple[str, list[str], dict[str, str]]] = []
        self.patch(os, "execve", self.execute)
        self.exited: list[int] = []
        self.patch(os, "_exit", self.exited.append)
        self.directories: list[str] = []
        self.patch(os, "chdir", self.directories.append)
        self.patch(os, "environ", {"HOME": "/root"})

    def execute(self, path: str, arguments: list[str], environ: dict[str, str]) -> None:
        self.executed.append((path, arguments, environ))
        raise Executed

    def end(self) -> None:
        """The process comes to its end."""
        (at_exit,) = self.at_exit
        at_exit()

    def test_not_wanted(self) -> None:
        """A process that ends for another reason ends."""
        Restart(self.reactor, {})
        self.end()
        self.assertEqual(self.executed, [])

    def test_failed(self) -> None:
        """Of one that ends as something has failed the exit code is 1, unless it is restarted."""
        restart = Restart(self.reactor, {})
        restart.fail()
        self.end()
        self.assertEqual((self.exited, self.executed), ([1], []))
        restart()
        self.assertRaises(Executed, self.end)
        self.assertEqual(self.exited, [1])

    def test_again(self) -> None:
        """The same command line in the same directory, with what systemd had told the process."""
        restart = Restart(self.reactor, {"NOTIFY_SOCKET": "/run/notify"})
        restart()
        self.assertTrue(self.reactor.stopped)
        self.assertRaises(Executed, self.end)
        ((path, arguments, environ),) = self.executed
        self.assertEqual(path, sys.executable)
        self.assertEqual(arguments, [sys.executable, *sys.orig_argv[1:]])
        self.assertEqual(environ, {"HOME": "/root", "NOTIFY_SOCKET": "/run/notify"})
        self.assertEqual(self.directories, [str(Path.cwd())])

    def test_told_to_end(self) -> None:
        """SIGTERM, while it ends to start again, has it end for good."""
        restart = Restart(self.reactor, {})
        restart()
        expect_second_signals(restart)
        self.signals[signal.SIGTERM](signal.SIGTERM, None)
        self.end()
        self.assertEqual(self.executed, [])

    def test_told_to_end_at_the_last_moment(self) -> None:
        """A SIGTERM that came just before the next process would not know of it is not lost."""
        restart = Restart(self.reactor, {})
        restart()
        expect_second_signals(restart)
        come = self.signals[signal.SIGTERM]

        def set_signal(number: int, action: Any) -> None:
            # Python calls its own handlers a moment after the kernel has called its.
            if (number, action) == (signal.SIGTERM, signal.SIG_DFL):
                come(number, None)

        self.patch(signal, "signal", set_signal)
        self.end()
        self.assertEqual(self.executed, [])

    def test_ends_already(self) -> None:
        """A process that was told to end is not started again."""
        self.reactor.stop()
        restart = Restart(self.reactor, {})
        restart()
        self.end()
        self.assertEqual((restart.wanted, self.executed), (False, []))

    def test_signals(self) -> None:
        """The new process can be ended from its first moment, and ignores what this one ignored."""
        self.signals[signal.SIGINT] = signal.SIG_IGN
        restart = Restart(self.reactor, {})
        restart()
        expect_second_signals(restart)
        self.assertRaises(Executed, self.end)
        self.assertEqual(
            self.signals, {signal.SIGTERM: signal.SIG_DFL, signal.SIGINT: signal.SIG_IGN}
        )

    def test_cannot(self) -> None:
        """Where the program is gone, that is said and the exit code is 1."""

        def gone(*arguments: object) -> None:
            raise FileNotFoundError(2, "No such file or directory", sys.executable)

        said: list[bytes] = []

        def write(file: int, text: bytes) -> int:
            said.append(text)
            return len(text)

        self.patch(os, "execve", gone)
        self.patch(os, "write", write)
        Restart(self.reactor, {})()
        self.end()
        self.assertEqual(self.exited, [1])
        self.assertIn(b"it cannot start again", said[-1])
        self.assertIn(sys.executable.encode(), said[-1])

    def test_directory_is_gone(self) -> None:
        """A directory that was removed is no reason not to run."""

        def gone() -> str:
            raise FileNotFoundError

        self.patch(os, "getcwd", gone)
        restart = Restart(self.reactor, {})
        restart()
        self.assertRaises(Executed, self.end)
        self.assertEqual(self.directories, [])
