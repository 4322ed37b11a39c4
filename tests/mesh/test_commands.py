"""Running commands, on a reactor in memory."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import CancelledError
from twisted.internet.error import ProcessDone, ProcessExitedAlready, ProcessTerminated
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from bzzz.mesh.commands import MAX_OUTPUT, CommandError, Commands


class FakeProcess:
    def __init__(self) -> None:
        self.signals: list[str] = []
        self.ended = False

    def signalProcess(self, signal: str) -> None:
        if self.ended:
            raise ProcessExitedAlready()
        self.signals.append(signal)


class FakeReactor(Clock):
    error: OSError | None = None

    def spawnProcess(self, protocol: Any, executable: str, args: Any, env: Any) -> FakeProcess:
        if self.error is not None:
            raise self.error
        self.protocol, self.executable, self.args, self.env = protocol, executable, args, env
        self.process = FakeProcess()
        protocol.makeConnection(self.process)
        return self.process


class CommandsTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.reactor = FakeReactor()
        self.commands = Commands(self.reactor)

    def run_it(self) -> Any:
        return self.commands.run(["/bin/x", "-v"], 5)

    def end(self, status: int = 0) -> None:
        self.reactor.process.ended = True
        self.reactor.protocol.processEnded(
            Failure(ProcessTerminated(status) if status else ProcessDone(0))
        )

    def test_output(self) -> None:
        """The output, when the command ends well; in English."""
        running = self.run_it()
        self.assertEqual((self.reactor.executable, self.reactor.args), ("/bin/x", ["/bin/x", "-v"]))
        self.assertEqual(self.reactor.env["LC_ALL"], "C")
        self.reactor.protocol.outReceived(b"a")
        self.reactor.protocol.errReceived(b"a warning")
        self.reactor.protocol.outReceived(b"b")
        self.assertNoResult(running)
        self.end()
        self.assertEqual(self.successResultOf(running), b"ab")
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_failure(self) -> None:
        """An exit code is an error, and so is a command that is not there."""
        running = self.run_it()
        self.end(3)
        self.assertIn("exit code 3", self.failureResultOf(running, CommandError).getErrorMessage())
        self.reactor.error = FileNotFoundError(2, "No such file or directory")
        missing = self.failureResultOf(self.run_it(), CommandError)
        self.assertIn("No such file", missing.getErrorMessage())
        self.reactor.error = None
        self.run_it()
        self.end()

    def test_too_slow(self) -> None:
        """What takes too long is killed, and not started again while it does not die."""
        running = self.run_it()
        self.reactor.advance(5)
        self.failureResultOf(running, CommandError)
        self.assertEqual(self.reactor.process.signals, ["KILL"])
        self.assertIn("hangs", self.failureResultOf(self.run_it(), CommandError).getErrorMessage())
        self.end(9)
        again = self.run_it()
        self.end()
        self.assertEqual(self.successResultOf(again), b"")

    def test_too_much(self) -> None:
        """So is what writes without end."""
        running = self.run_it()
        self.reactor.protocol.outReceived(b"x" * (MAX_OUTPUT + 1))
        self.failureResultOf(running, CommandError)
        self.assertEqual(self.reactor.process.signals, ["KILL"])
        self.end(9)

    def test_cancelled(self) -> None:
        """So is what nobody waits for any more."""
        running = self.run_it()
        running.cancel()
        self.failureResultOf(running, CancelledError)
        self.assertEqual(self.reactor.process.signals, ["KILL"])
        self.end(9)
        self.assertEqual(self.reactor.getDelayedCalls(), [])
