"""The files of attempts: what is there before the command, and what is kept of what it left."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from twisted.internet.defer import Deferred, execute, fail, succeed
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from bzzz.errors import BzzzError
from bzzz.identity.peer_id import PeerID
from bzzz.tasks import workspace as workspace_module
from bzzz.tasks.removal import remove_tree
from bzzz.tasks.submission import Input, Submission
from bzzz.tasks.workspace import AttemptFiles, WorkspaceError
from tests.tasks.fakes import REPLICAS, peer, submission, task_id

ONE, TWO, OUT = "aa" * 32, "bb" * 32, "cc" * 32


class Stored(NamedTuple):
    """What was collected."""

    digest: str
    size: int


class Files:
    """Implements :class:`bzzz.tasks.workspace.TaskFiles`.

    :ivar missing: what cannot be fetched.
    """

    def __init__(self) -> None:
        self.pins: Counter[str] = Counter()
        self.missing: set[str] = set()
        self.fetched: list[tuple[str, list[PeerID]]] = []

    @property
    def pinned(self) -> dict[str, int]:
        return {digest: count for digest, count in self.pins.items() if count}

    def pin(self, digest: str) -> Deferred[None]:
        self.pins[digest] += 1
        return succeed(None)

    def unpin(self, digest: str) -> None:
        self.pins[digest] -= 1

    def fetch(self, digest: str, peers: Sequence[PeerID]) -> Deferred[None]:
        self.fetched.append((digest, list(peers)))
        return fail(BzzzError("nobody has it")) if digest in self.missing else succeed(None)

    def unpack(self, digest: str, into: Path, name: str) -> Deferred[None]:
        assert self.pins[digest], "it might be dropped meanwhile"
        (into / name).write_text(digest)
        return succeed(None)

    def collect(self, directory: Path, globs: Sequence[str]) -> Deferred[Stored]:
        return succeed(Stored(OUT, 7))


class AttemptFilesTests(SynchronousTestCase):
    """One attempt."""

    def setUp(self) -> None:
        self.place = Path(self.mktemp()).absolute()
        self.files = Files()
        self.workspace = self.opened()
        self.successResultOf(self.workspace.start())
        self.wanted = submission(
            inputs=(Input("one", ONE, 1), Input("two", TWO, 1)), outputs=("*.o",)
        )
        self.shared: list[tuple[str, str]] = []
        self.refusal = ""
        self.workspace.share = self.share

    def opened(self) -> AttemptFiles:
        return AttemptFiles(self.place, 5000, 1 << 20, execute, self.files)

    async def share(self, wanted: Submission, digest: str) -> None:
        assert self.files.pins[digest], "it might be dropped meanwhile"
        self.shared.append((wanted.task, digest))
        if self.refusal:
            raise BzzzError(self.refusal)

    def test_inputs(self) -> None:
        """Inputs are had of the replicas, written, and needed no more then."""
        run = self.successResultOf(self.workspace.prepare(self.wanted, 3, {"X": "y"}))
        work = Path(run.directory)
        self.assertEqual((work / "one").read_text(), ONE)
        self.assertEqual((work / "two").read_text(), TWO)
        peers = [peer(each) for each in REPLICAS]
        self.assertEqual(self.files.fetched, [(ONE, peers), (TWO, peers)])
        self.assertEqual(self.files.pinned, {})
        self.assertEqual((run.env["X"], run.env["HOME"]), ("y", str(work)))
        self.assertEqual(run.max_output, 5000)

    def test_missing_input(self) -> None:
        """An attempt without its inputs does not begin, and pins nothing."""
        self.files.missing.add(TWO)
        error = self.failureResultOf(self.workspace.prepare(self.wanted, 3, {}), BzzzError)
        self.assertEqual(error.getErrorMessage(), "nobody has it")
        self.assertEqual(self.files.pinned, {})

    def test_twice(self) -> None:
        """A directory that is there is another attempt's: nothing is written into it."""
        self.successResultOf(self.workspace.prepare(self.wanted, 3, {}))
        self.failureResultOf(self.workspace.prepare(self.wanted, 3, {}), WorkspaceError)

    def test_outputs(self) -> None:
        """What was put out is at another member before it is told, and stays until that is
        recorded."""
        self.successResultOf(self.workspace.prepare(self.wanted, 3, {}))
        directory = self.workspace.directory_of(task_id(), 3)
        (directory / "stdout").write_bytes(b"x" * 5000)
        produced = self.successResultOf(self.workspace.collect(self.wanted, 3))
        self.assertEqual((produced.outputs, produced.outputs_size), (OUT, 7))
        self.assertEqual((produced.stdout_size, len(produced.stdout)), (5000, 2048))
        self.assertEqual(self.shared, [(task_id(), OUT)])
        self.assertEqual(self.files.pinned, {OUT: 1})
        for _ in range(2):
            self.workspace.clean(task_id(), 3)
            self.assertEqual(self.files.pinned, {})
        self.assertFalse((directory / "work").exists())
        self.assertTrue((directory / "stdout").exists())

    def test_not_shared(self) -> None:
        """What no other member takes is not put out."""
        self.successResultOf(self.workspace.prepare(self.wanted, 3, {}))
        self.refusal = "full"
        error = self.failureResultOf(self.workspace.collect(self.wanted, 3), BzzzError)
        self.assertEqual(error.getErrorMessage(), "full")
        self.workspace.clean(task_id(), 3)
        self.assertEqual(self.files.pinned, {})

    def test_nothing_wanted(self) -> None:
        """A task that says of no files is asked for none."""
        wanted = submission()
        self.successResultOf(self.workspace.prepare(wanted, 1, {}))
        produced = self.successResultOf(self.workspace.collect(wanted, 1))
        self.assertEqual((produced.outputs, self.shared, self.files.pinned), ("", [], {}))

    def test_output_replaced(self) -> None:
        """What is no file any more has no end that could be kept."""
        wanted = submission()
        self.successResultOf(self.workspace.prepare(wanted, 1, {}))
        directory = self.workspace.directory_of(wanted.task, 1)
        (directory / "secret").write_text("key")
        (directory / "stdout").symlink_to("secret")
        os.mkfifo(directory / "stderr")
        produced = self.successResultOf(self.workspace.collect(wanted, 1))
        self.assertEqual((produced.stdout, produced.stderr), (b"", b""))

    def leave(self, number: int, size: int) -> Path:
        """An attempt that has ended with so much output."""
        wanted = submission()
        self.successResultOf(self.workspace.prepare(wanted, number, {}))
        directory = self.workspace.directory_of(wanted.task, number)
        (directory / "work" / "file").touch()
        (directory / "stdout").write_bytes(bytes(size))
        self.workspace.clean(wanted.task, number)
        return directory

    def test_quota(self) -> None:
        """The oldest output goes when there is too much, that of before a restart with it."""
        size = (1 << 20) // 4 - 4096
        first, second, third = (self.leave(number, size) for number in (1, 2, 3))
        self.assertTrue(first.exists())
        self.workspace = self.opened()
        self.successResultOf(self.workspace.start())
        self.leave(4, size)
        self.assertTrue(first.exists())
        self.leave(5, size)
        self.assertEqual([each.exists() for each in (first, second, third)], [False, True, True])

    def test_oldest(self) -> None:
        """The oldest is what ended first, whichever was submitted first; after a restart, too."""
        size = (1 << 20) // 3 - 4096
        first, second, third = (self.leave(number, size) for number in (3, 1, 2))
        fourth = self.leave(4, size)
        self.assertEqual([each.exists() for each in (first, second, third)], [False, True, True])
        # As if the last one had ended before the others.
        os.utime(fourth / "stdout", (0, 0))
        self.workspace = self.opened()
        self.successResultOf(self.workspace.start())
        self.leave(5, 10)
        self.assertEqual([each.exists() for each in (second, third, fourth)], [True, True, False])

    def test_no_output(self) -> None:
        """Of an attempt that has printed nothing, nothing is kept."""
        self.assertFalse(self.leave(1, 0).exists())
        # Of one that a killed daemon has left behind neither.
        self.successResultOf(self.workspace.prepare(submission(), 2, {}))
        directory = self.workspace.directory_of(submission().task, 2)
        self.assertTrue(directory.exists())
        self.successResultOf(self.opened().start())
        self.assertFalse(directory.exists())

    def test_left_behind(self) -> None:
        """What a command has left goes aside, one after the other: others do not wait for it."""
        waiting: list[tuple[Deferred[Any], Callable[[], Any]]] = []

        def in_thread(work: Callable[[], Any]) -> Deferred[Any]:
            called: Deferred[Any] = Deferred()
            waiting.append((called, work))
            return called

        def go_on(number: int = 0) -> None:
            called, work = waiting.pop(number)
            called.callback(work())

        self.workspace = AttemptFiles(self.place, 5000, 1 << 20, in_thread, self.files)
        for number in (1, 2):
            directory = self.workspace.directory_of(task_id(), number)
            (directory / "work" / "left").mkdir(parents=True)
            self.workspace.clean(task_id(), number)
        go_on()
        go_on()
        # The two are being looked at; the first is being removed.
        prepared = self.workspace.prepare(submission(), 3, {})
        self.assertEqual(len(waiting), 2)
        go_on(1)
        self.successResultOf(prepared)
        while waiting:
            go_on()
        self.assertEqual([each.name for each in self.place.iterdir()], [f"{task_id()}.3"])

    def test_not_removed(self) -> None:
        """What cannot be removed is told, and its output counts all the same."""

        def remove(directory: Path) -> None:
            if directory.name != "work":
                remove_tree(directory)

        self.patch(workspace_module, "remove_tree", remove)
        with capturedLogs() as logs:
            directory = self.leave(1, 10)
        [event] = [event for event in logs if "work" in event]
        self.assertEqual(event["work"], directory / "work")
        self.successResultOf(self.workspace.limit(5000, 0))
        self.assertFalse(directory.exists())

    def test_limit(self) -> None:
        """With a smaller quota the oldest output goes at once, but none of what runs; the next
        attempt may print what is the limit then."""
        old, new = self.leave(1, 400_000), self.leave(2, 400_000)
        run = self.successResultOf(self.workspace.prepare(submission(), 3, {}))
        self.assertTrue(old.exists())
        self.successResultOf(self.workspace.limit(7000, 500_000))
        self.assertEqual([each.exists() for each in (old, new)], [False, True])
        self.successResultOf(self.workspace.limit(7000, 0))
        self.assertEqual([new.exists(), Path(run.directory).exists()], [False, True])
        run = self.successResultOf(self.workspace.prepare(submission(), 4, {}))
        self.assertEqual(run.max_output, 7000)
