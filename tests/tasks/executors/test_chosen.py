"""Which executor a node has, and how that is found out."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from typing import Any, cast

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.logger import LogLevel
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from bzzz.errors import BzzzError
from bzzz.tasks.executors.chosen import TRIAL_TIMEOUT, ChosenExecutor, prove
from bzzz.tasks.executors.interfaces import Ending, IExecutor, Over, Run
from tests.logs import lines_at
from tests.tasks.fakes import FakeExecutor


class FakeSystemdExecutor:
    """One that works, or does not.

    :ivar does: to a run, what its command would do.
    """

    def __init__(self) -> None:
        # Its bus is itself.
        self.bus = self
        self.ready: Deferred[None] = succeed(None)
        self.over: Over | None = Over(Ending.EXITED, 0)
        self.does: Callable[[Run], object] = lambda run: open(f"{run.directory}/here", "w").close()
        self.cannot_open = ""
        self.runs: list[Run] = []

    def open(self) -> None:
        if self.cannot_open:
            raise BzzzError(self.cannot_open)

    def when_ready(self) -> Deferred[None]:
        return self.ready

    def start(self, run: Run, until: float, over: Callable[[Over], object]) -> None:
        self.runs.append(run)
        self.does(run)
        if self.over is not None:
            over(self.over)


class ProveTests(SynchronousTestCase):
    """A trial in earnest."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.executor = FakeSystemdExecutor()
        self.top = tempfile.mkdtemp(prefix="bzzz-trial-")
        self.addCleanup(shutil.rmtree, self.top)
        self.directory = f"{self.top}/trial"

    def prove(self) -> Deferred[None]:
        executor: Any = self.executor
        return Deferred.fromCoroutine(
            prove(executor, self.clock, self.directory, "/var/lib/bzzz/identity.key")
        )

    def failed(self) -> str:
        message = str(self.failureResultOf(self.prove(), BzzzError).value)
        self.assertFalse(os.path.exists(self.directory))
        return message

    def test_works(self) -> None:
        """A command ran, did not see the key, and wrote into its directory, which is gone then."""
        os.mkdir(self.directory)
        self.successResultOf(self.prove())
        (run,) = self.executor.runs
        self.assertIn("/var/lib/bzzz/identity.key", run.argv)
        self.assertEqual(os.listdir(self.top), [])

    def test_fails(self) -> None:
        """Whatever it is that fails is the reason."""
        self.executor.over = Over(Ending.NOT_STARTED, None, "no namespace")
        self.assertEqual(self.failed(), "a trial failed: no namespace")
        self.executor.over = Over(Ending.EXITED, 1)
        self.assertIn("hid nothing: /var/lib/bzzz/identity.key was seen", self.failed())
        self.executor.over = Over(Ending.EXITED, 0)
        self.executor.does = lambda run: None
        self.assertIn("could not write into its own directory", self.failed())
        self.executor.ready = fail(BzzzError("there is no systemd on the bus"))
        self.assertEqual(self.failed(), "there is no systemd on the bus")
        self.executor.cannot_open = "no socket"
        self.assertEqual(self.failed(), "no socket")

    def test_hangs(self) -> None:
        """One that does not end, or is never ready, is given up."""
        self.executor.over = None
        proved = self.prove()
        self.clock.advance(TRIAL_TIMEOUT)
        message = self.failureResultOf(proved, BzzzError).getErrorMessage()
        self.assertEqual(message, "a trial had no end within 12 s")
        self.executor.ready = Deferred()
        proved = self.prove()
        self.clock.advance(TRIAL_TIMEOUT)
        self.failureResultOf(proved, BzzzError)

    def test_no_directory(self) -> None:
        """A directory that cannot be made is named."""
        self.directory = f"{self.top}/none/trial"
        self.assertEqual(self.failed(), f"{self.directory}: No such file or directory")


class ChosenTests(SynchronousTestCase):
    """The choice."""

    def setUp(self) -> None:
        self.process, self.systemd = FakeExecutor(), FakeExecutor()
        self.process.name, self.systemd.name = "process", "systemd"
        self.tries = 0
        self.works: Deferred[IExecutor] = succeed(cast(IExecutor, self.systemd))
        self.infos = lines_at(self, LogLevel.info)

    def made(self, wanted: str) -> ChosenExecutor:
        self.executor = ChosenExecutor(wanted, cast(IExecutor, self.process), self.make)
        self.assertFalse(self.executor.is_chosen)
        return self.executor

    def make(self) -> Deferred[IExecutor]:
        self.tries += 1
        return self.works

    def choose(self, wanted: str) -> Deferred[None]:
        return Deferred.fromCoroutine(self.made(wanted).choose())

    def test_interface(self) -> None:
        """It is an executor itself."""
        verifyObject(IExecutor, self.made("auto"))

    def test_systemd(self) -> None:
        """Where it works it is taken, and everything goes to it."""
        for wanted in ("auto", "systemd"):
            self.works = succeed(cast(IExecutor, self.systemd))
            self.successResultOf(self.choose(wanted))
            self.assertEqual((self.executor.name, self.executor.reason), ("systemd", ""))
            self.assertTrue(self.executor.is_chosen)
            self.assertEqual(self.infos[-1], "Commands of tasks are run by the systemd executor")
        run = Run(key="t.1", argv=("a",), env={}, directory="/", stdout="/a", stderr="/b")
        self.executor.start(run, 5.0, lambda over: None)
        self.executor.extend("t.1", 9.0)
        self.executor.stop("t.1", 3.0)
        self.assertEqual(self.systemd.until("t.1"), 9.0)
        self.assertEqual(self.systemd.stopped, [("t.1", 3.0)])
        self.assertEqual(self.executor.problem, "")

    def test_falls_back(self) -> None:
        """Where it does not the other is taken, if nobody insists, and the log says why."""
        self.works = fail(BzzzError("there is no bus"))
        self.successResultOf(self.choose("auto"))
        self.assertEqual((self.executor.name, self.executor.reason), ("process", "there is no bus"))
        self.assertEqual(
            self.infos[-1], "Commands of tasks are run by the process executor: there is no bus"
        )
        self.works = fail(BzzzError("there is no bus"))
        error = self.failureResultOf(self.choose("systemd"), BzzzError).getErrorMessage()
        self.assertIn('executor is "systemd", and that does not work here: there is no bus', error)
        self.assertIn("loginctl enable-linger", error)
        self.assertFalse(self.executor.is_chosen)

    def test_process(self) -> None:
        """Where the other is asked for nothing is tried."""
        self.successResultOf(self.choose("process"))
        self.assertEqual((self.executor.name, self.tries), ("process", 0))
        self.assertEqual(self.executor.reason, "the configuration says so")

    def test_closed_meanwhile(self) -> None:
        """One that comes when the node ends is closed."""
        self.works = Deferred()
        chosen = self.choose("auto")
        self.executor.close()
        self.assertNoResult(chosen)
        self.works.callback(cast(IExecutor, self.systemd))
        self.successResultOf(chosen)
        self.assertTrue(self.systemd.closed)
