"""Where attempts have their files on this machine.

Enters: submissions of attempts that are to begin, and that have ended. Leaves: directories, and
what was left in them. Below the directory of all of them::

    <task>.<token>/work      the working directory; gone when the attempt's end is recorded
    <task>.<token>/stdout    its output, kept within the quota, what ended first goes first;
                             where there is none, nothing is kept
    <task>.<token>/stderr

docs/tasks.rst, "Execution".
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Final
from typing import Protocol as Shape

from twisted.internet.defer import Deferred, DeferredLock
from twisted.logger import Logger

from bzzz.errors import BzzzError
from bzzz.identity.peer_id import PeerID
from bzzz.net.background import in_background
from bzzz.tasks.batches import Batches
from bzzz.tasks.executors.interfaces import Run
from bzzz.tasks.output import open_printed
from bzzz.tasks.record import TAIL, Produced
from bzzz.tasks.removal import remove_tree
from bzzz.tasks.submission import Submission
from bzzz.tasks.value import peer_id

__all__ = ["AttemptFiles", "Stored", "TaskFiles", "WorkspaceError"]

# Where commands are looked for that are given without a path.
PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class WorkspaceError(BzzzError):
    """The files of an attempt cannot be made, read or removed; names them."""


class Stored(Shape):
    """Files that were put into the cache."""

    digest: str
    size: int


class TaskFiles(Shape):
    """Files that travel; :class:`bzzz.tasks.files.files.Files` is one."""

    def pin(self, digest: str) -> Deferred[None]:
        """Have them stay in the cache."""

    def unpin(self, digest: str) -> None:
        """Take back one pin."""

    def fetch(self, digest: str, peers: Sequence[PeerID]) -> Deferred[None]:
        """Have them in the cache."""

    def unpack(self, digest: str, into: Path, name: str) -> Deferred[None]:
        """Write them below a directory."""

    def collect(self, directory: Path, globs: Sequence[str]) -> Deferred[Any]:
        """Put what matches into the cache; fires with a :class:`Stored`."""


class AttemptFiles:
    """Implements :class:`bzzz.tasks.interfaces.Workspace`.

    :param directory: of all attempts of this node.
    :param max_output: bytes that are kept of each of an attempt's two outputs.
    :param quota: bytes of the output of ended attempts.
    :param in_thread: calls a function in a thread.
    :ivar share: has what an attempt has put out kept by another member; raises a BzzzError.
    """

    _log = Logger()

    def __init__(
        self,
        directory: Path,
        max_output: int,
        quota: int,
        in_thread: Callable[[Callable[[], Any]], Deferred[Any]],
        files: TaskFiles,
    ) -> None:
        self._directory = directory
        self._max_output = max_output
        self._in_thread = in_thread
        self._batches = Batches(in_thread)
        self._removing = DeferredLock()
        self._kept = _Kept(quota)
        self._files = files
        self._put_out: dict[Path, str] = {}
        self.share: Callable[[Submission, str], Awaitable[None]] = _not_shared

    def start(self) -> Deferred[None]:
        """Remove what attempts have left that a killed daemon has not cleaned up.

        Fails with a WorkspaceError.
        """
        return self._in_thread(self._open)

    def limit(self, max_output: int, quota: int) -> Deferred[None]:
        """Keep so much from now on; see the class. What runs keeps the limit that it has."""
        self._max_output = max_output
        return self._batches(lambda: self._kept.limit(quota))

    def directory_of(self, task: str, token: int) -> Path:
        """Where an attempt's output is, if it is still there."""
        return self._directory / f"{task}.{token}"

    def prepare(self, submission: Submission, token: int, env: dict[str, str]) -> Deferred[Run]:
        """See :class:`~bzzz.tasks.interfaces.Workspace`."""
        return Deferred.fromCoroutine(self._prepare(submission, token, env))

    def collect(self, submission: Submission, token: int) -> Deferred[Produced]:
        """See :class:`~bzzz.tasks.interfaces.Workspace`."""
        return Deferred.fromCoroutine(self._collect(submission, token))

    def clean(self, task: str, token: int) -> None:
        """See :class:`~bzzz.tasks.interfaces.Workspace`."""
        directory = self.directory_of(task, token)
        digest = self._put_out.pop(directory, "")
        if digest:
            self._files.unpin(digest)
        in_background(self._remove(directory), "removing an attempt", self._log)

    # -- inside

    async def _remove(self, directory: Path) -> None:
        if await self._batches(lambda: self._clean(directory)):
            return
        # That takes as long as there are files. Others do not wait for it, and one thread does it.
        work = directory / "work"
        await self._removing.run(self._in_thread, partial(remove_tree, work))
        if not await self._batches(lambda: self._clean(directory)):
            self._log.warn("{work} cannot be removed: see who owns what is in it", work=work)
            await self._batches(lambda: self._keep(directory))

    async def _prepare(self, submission: Submission, token: int, env: dict[str, str]) -> Run:
        directory = self.directory_of(submission.task, token)
        work = directory / "work"
        await self._batches(lambda: _make(directory, work))
        sources = [peer_id(each) for each in submission.replicas]
        for each in submission.inputs:
            pinned = self._files.pin(each.digest)
            try:
                await pinned
                await self._files.fetch(each.digest, sources)
                await self._files.unpack(each.digest, work, each.path)
            finally:
                self._files.unpin(each.digest)
        return Run(
            key=f"{submission.task}.{token}",
            argv=submission.command,
            env={
                "PATH": PATH,
                "HOME": str(work),
                "TMPDIR": "/tmp",  # nosec B108  # noqa: S108 - its own in the sandboxes
                "LANG": "C.UTF-8",
                **submission.env,
                **env,
            },
            directory=str(work),
            stdout=str(directory / "stdout"),
            stderr=str(directory / "stderr"),
            max_output=self._max_output,
            timeout=submission.timeout,
            memory=submission.memory,
            cpus=submission.cpus,
            profile=submission.profile,
        )

    async def _collect(self, submission: Submission, token: int) -> Produced:
        directory = self.directory_of(submission.task, token)
        tails: Sequence[tuple[bytes, int]] = await self._batches(
            lambda: [_tail(directory / name) for name in ("stdout", "stderr")]
        )
        (stdout, stdout_size), (stderr, stderr_size) = tails
        outputs, outputs_size = "", 0
        if submission.outputs:
            stored: Stored = await self._files.collect(directory / "work", submission.outputs)
            outputs, outputs_size = stored.digest, stored.size
            # Until the attempt's end is recorded.
            self._put_out[directory] = outputs
            await self._files.pin(outputs)
            await self.share(submission, outputs)
        return Produced(stdout, stderr, stdout_size, stderr_size, outputs, outputs_size)

    def _open(self) -> None:
        try:
            self._directory.mkdir(mode=0o700, exist_ok=True)
            found = sorted(self._directory.iterdir(), key=_last_printed)
        except OSError as error:
            raise WorkspaceError(
                f"{self._directory} cannot be used: {error.strerror}; mend that"
            ) from None
        for path in found:
            remove_tree(path / "work")
            self._keep(path)

    def _clean(self, directory: Path) -> bool:
        """Remove what is not output; False where that takes longer, and nothing was done."""
        try:
            # Mostly it is empty.
            (directory / "work").rmdir()
        except FileNotFoundError:
            pass
        except OSError:
            return False
        self._keep(directory)
        return True

    def _keep(self, directory: Path) -> None:
        """Keep output, without the oldest that is too much."""
        files = [directory / name for name in ("stdout", "stderr")]
        size = sum(map(_size, files))
        if size:
            self._kept.add(directory, size)
            return
        for each in files:
            with suppress(OSError):
                each.unlink()
        remove_tree(directory)


class _Kept:
    """The output of ended attempts, in a thread.

    :param quota: bytes.
    """

    def __init__(self, quota: int) -> None:
        self._quota = quota
        self._total = 0
        # By when they ended: of a task that ran for long much may have been submitted since.
        self._oldest: deque[tuple[str, int, Path]] = deque()
        self._names: set[str] = set()

    def add(self, directory: Path, size: int) -> None:
        """Keep one, and remove the oldest that are too much with it."""
        if directory.name in self._names:
            return
        # A directory and its files take blocks.
        size += 4096
        self._names.add(directory.name)
        self._oldest.append((directory.name, size, directory))
        self._total += size
        self._keep()

    def limit(self, quota: int) -> None:
        """Keep so much from now on."""
        self._quota = quota
        self._keep()

    def _keep(self) -> None:
        while self._total > self._quota:
            name, size, oldest = self._oldest.popleft()
            self._names.discard(name)
            self._total -= size
            remove_tree(oldest)


async def _not_shared(submission: Submission, digest: str) -> None:
    """What is put out is here alone."""


def _make(directory: Path, work: Path) -> None:
    try:
        directory.mkdir(mode=0o700)
        work.mkdir(mode=0o700)
    except OSError as error:
        raise WorkspaceError(
            f"{error.filename or directory} cannot be made: {error.strerror}"
        ) from None


def _last_printed(directory: Path) -> int:
    """When that was, in nanoseconds: about when the attempt ended."""
    times = []
    for name in ("stdout", "stderr"):
        with suppress(OSError):
            times.append((directory / name).lstat().st_mtime_ns)
    return max(times, default=0)


def _size(path: Path) -> int:
    try:
        return path.lstat().st_size
    except OSError:
        return 0


def _tail(path: Path) -> tuple[bytes, int]:
    """The end of a file, and its size; nothing of one that is not there."""
    try:
        with open_printed(path) as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - TAIL))
            return file.read(TAIL), size
    except OSError:
        return b"", 0
