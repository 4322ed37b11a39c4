"""The output of a run: from its pipe to its file, up to a number of bytes.

Enters: a pipe that a command writes to. Leaves: a file, with a line in the place of what was too
much, or why it could not be written.
"""

from __future__ import annotations

import os
from typing import Final

__all__ = ["Output", "open_output"]

# What one read takes: as much as a pipe holds.
CHUNK: Final = 64 << 10

# Reads of one turn, so that a command which prints without end does not keep its shim from the
# lease. A pipe can be made to hold as much as these (fcntl(2), F_SETPIPE_SZ), so they empty it too
# when nobody is left who could write to it.
READS_A_TURN: Final = 16


def open_output(path: str) -> int:
    """Open a file to append to, which is made, for its owner alone, where it is not there."""
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY
    return os.open(path, flags, 0o600)


class Output:
    """One of a run's two streams.

    :param source: the reading end of its pipe, which does not block.
    :param target: file that it goes to.
    :param limit: bytes that are kept.
    :ivar failed: why its file lacks some of it, where the limit is not the reason.
    """

    def __init__(self, source: int, target: int, limit: int) -> None:
        self.source = source
        self.failed = ""
        self._target = target
        self._limit = limit
        self._left = limit
        self._full = False
        self._in_line = False

    def turn(self) -> bool:
        """Take some of what is there; returns whether there may be more, now or later."""
        for _ in range(READS_A_TURN):
            try:
                data = os.read(self.source, CHUNK)
            except BlockingIOError:
                return True
            if not data:
                return False
            if not self._full:
                self._keep(data)
        return True

    def close(self) -> None:
        """Give back what is open."""
        os.close(self.source)
        os.close(self._target)

    def _keep(self, data: bytes) -> None:
        kept = data[: self._left]
        self._left -= len(kept)
        self._in_line = kept[-1:] != b"\n" if kept else self._in_line
        if len(kept) < len(data):
            self._full = True
            line = f"[bzzz: the output after these {self._limit} bytes was thrown away]\n"
            kept += (b"\n" if self._in_line else b"") + line.encode()
        try:
            while kept:
                kept = kept[os.write(self._target, kept) :]
        except OSError as error:
            self._full = True
            self.failed = error.strerror or "it could not be written"
