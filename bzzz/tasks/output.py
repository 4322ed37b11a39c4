"""What an attempt has printed, read from where it runs (``docs/tasks.rst``, "Output").

Enters: files that grow. Leaves: their bytes from a place on, in parts, until the attempt is over.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Final

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime

from bzzz.errors import BzzzError

__all__ = ["PART", "NoOutput", "OutputFiles", "Sink", "open_printed"]

# Bytes of one part: a few of them fill a link's buffers.
PART: Final = 32 << 10

# Seconds between two looks at a file that did not grow, doubled each time up to so many; a person
# sees no difference.
FIRST_LOOK: Final = 0.005
LOOK: Final = 0.05

Sink = Callable[[int, bytes], Deferred[None] | None]
"""Is given 1 or 2, as standard output or standard error, and bytes; what it returns is waited for
before there is more."""


class NoOutput(BzzzError):
    """There is no output of an attempt here, or not any more."""


class OutputFiles:
    """The output of this node's attempts.

    :param directory_of: where an attempt's output is.
    :param is_running: whether an attempt of a task is running here, or about to.
    """

    def __init__(
        self,
        clock: IReactorTime,
        directory_of: Callable[[str, int], Path],
        is_running: Callable[[str, int], bool],
        in_thread: Callable[[Callable[[], Any]], Deferred[Any]],
    ) -> None:
        self._clock = clock
        self._directory_of = directory_of
        self._is_running = is_running
        self._in_thread = in_thread
        self._waiting: dict[tuple[str, int], list[Deferred[None]]] = {}

    def over(self, task: str, token: int) -> None:
        """An attempt has ended: what is left of its output is looked for at once."""
        # A copy: each that goes on takes itself off the list.
        for waiting in tuple(self._waiting.pop((task, token), ())):
            if not waiting.called:
                waiting.callback(None)

    def has(self, task: str, token: int) -> bool:
        """Whether the attempt runs here."""
        return self._is_running(task, token)

    async def send(
        self, task: str, token: int, offsets: tuple[int, int], follow: bool, sink: Sink
    ) -> None:
        """Hand over what there is, and with ``follow`` what comes until the attempt is over.

        :param offsets: bytes of both outputs that are known already.
        :raises NoOutput: there is none.
        """
        directory = self._directory_of(task, token)
        paths = (directory / "stdout", directory / "stderr")
        at = list(offsets)
        found = False
        pause = FIRST_LOOK
        while True:
            # Asked before the files are read: what was written until then is in them.
            running = self._is_running(task, token)
            grew = False
            for which, path in enumerate(paths):
                data: bytes | None = await self._in_thread(partial(_read, path, at[which]))
                if data is None:
                    continue
                found = True
                if data:
                    grew = True
                    at[which] += len(data)
                    waiting = sink(which + 1, data)
                    if waiting is not None:
                        await waiting
            if grew:
                pause = FIRST_LOOK
                continue
            if not running or not follow:
                if not found and not running:
                    raise NoOutput(f"the output of attempt {token} of task {task} is not here")
                return
            await self._pause((task, token), pause)
            pause = min(2 * pause, LOOK)

    async def _pause(self, attempt: tuple[str, int], seconds: float) -> None:
        paused: Deferred[None] = Deferred()
        waiting = self._waiting.setdefault(attempt, [])
        waiting.append(paused)
        call = self._clock.callLater(seconds, paused.callback, None)
        try:
            await paused
        finally:
            if call.active():
                call.cancel()
            if paused in waiting:
                waiting.remove(paused)
            if not waiting and self._waiting.get(attempt) is waiting:
                del self._waiting[attempt]


def open_printed(path: Path) -> BinaryIO:
    """Open a file of output.

    Where commands run as the node's user it may be anything by now. A pipe in its place would keep
    the thread for ever.

    :raises OSError: it is not there, or no file.
    """
    return open(path, "rb", opener=_opened)


def _opened(path: str, flags: int) -> int:
    descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY)
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return descriptor
    os.close(descriptor)
    raise OSError(errno.EINVAL, "it is no file", path)


def _read(path: Path, offset: int) -> bytes | None:
    """A part of a file; None if it is not there."""
    try:
        with open_printed(path) as file:
            file.seek(offset)
            return file.read(PART)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise NoOutput(f"{path} cannot be read: {error.strerror}") from None
