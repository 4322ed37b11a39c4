"""The audit log, its files on the disk: what is read, opened, copied and renamed. All of it blocks.

Enters: paths. Leaves: open files, lines. docs/trust.rst, "Audit log".
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from bzzz.trust.audit_chain import MAX_LINE, DamagedLine, Line, open_line

__all__ = [
    "CHECKPOINTS_NAME",
    "KEPT_FILES",
    "LOG_NAME",
    "append_to",
    "end_of_lines",
    "files_of",
    "last_line",
    "older",
    "open_files",
    "open_for_appending",
    "open_for_reading",
    "put_aside",
    "read_lines",
    "sync_directory",
    "write_all",
]

# In the state directory: the log, and the checkpoints of others.
LOG_NAME = "audit.log"
CHECKPOINTS_NAME = "checkpoints.json"

# Older files that are kept; the oldest is deleted for the next one.
KEPT_FILES = 4

# Files put aside because nothing in them could be read; beyond, the last one is overwritten.
MAX_ASIDE = 10

# What is read at once of a file whose last line is looked for: two of the longest lines.
TAIL = 2 * MAX_LINE


def open_files(path: Path) -> list[tuple[Path, BinaryIO]]:
    """The files of a log, oldest first, open for reading.

    :raises OSError: one cannot be read.
    """
    opened: dict[tuple[int, int], tuple[Path, BinaryIO]] = {}
    # The newest first: a file that is renamed meanwhile is met a second time and not missed.
    for each in reversed(files_of(path)):
        file = open_for_reading(each)
        status = os.fstat(file.fileno())
        if opened.setdefault((status.st_dev, status.st_ino), (each, file))[1] is not file:
            file.close()
    return list(reversed(opened.values()))


def open_for_reading(path: Path) -> BinaryIO:
    """A file, open.

    :raises OSError: it cannot be read.
    """
    file = open(path, "rb", opener=_open_at_once)  # noqa: SIM115 - the caller's from here on
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError(errno.EINVAL, "It is not a file", str(path))
    return file


def read_lines(file: BinaryIO) -> Iterator[bytes]:
    """The lines of a file with their newlines; what is longer than any line may be is cut.

    :raises OSError: it cannot be read.
    """
    while line := file.readline(MAX_LINE + 1):
        if len(line) > MAX_LINE and not line.endswith(b"\n"):
            while (more := file.readline(MAX_LINE)) and not more.endswith(b"\n"):
                pass
            line = line[:MAX_LINE] + b"\n"
        yield line


def older(path: Path, number: int) -> Path:
    return path.with_name(f"{path.name}.{number}")


def files_of(path: Path) -> list[Path]:
    """The files of a log that are there, oldest first."""
    rotated = [older(path, number) for number in reversed(range(1, KEPT_FILES + 1))]
    return [each for each in (*rotated, path) if os.path.lexists(each)]


def last_line(files: Sequence[Path]) -> tuple[Line | None, bytes | None, Path]:
    """The last line of the newest file that has one: what it says if it is right, its bytes, the
    file."""
    for path in reversed(files):
        if not os.path.lexists(path):
            continue
        with open_for_reading(path) as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - TAIL))
            content = file.read(TAIL)
        if content:
            raw = content.removesuffix(b"\n").rpartition(b"\n")[2]
            try:
                return open_line(raw), raw, path
            except DamagedLine:
                return None, raw, path
    return None, None, Path()


def end_of_lines(file: int, size: int) -> int:
    """Where the last newline ends; 0 if there is none."""
    end = size
    while end > 0:
        start = max(0, end - TAIL)
        at = os.pread(file, end - start, start).rfind(b"\n")
        if at >= 0:
            return start + at + 1
        end = start
    return 0


def open_for_appending(path: Path) -> tuple[int, os.stat_result]:
    flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    file = os.open(path, flags, 0o600)
    try:
        status = os.fstat(file)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "It is not a file", str(path))
        if status.st_mode & 0o077:
            os.fchmod(file, 0o600)
        if not status.st_size:
            sync_directory(path)
    except BaseException:
        os.close(file)
        raise
    return file, status


def append_to(target: Path, source: int, start: int, end: int) -> None:
    file, _ = open_for_appending(target)
    try:
        while start < end:
            piece = os.pread(source, min(TAIL, end - start), start)
            if not piece:
                break
            write_all(file, piece)
            start += len(piece)
        write_all(file, b"\n")
        os.fsync(file)
    finally:
        os.close(file)


def put_aside(path: Path) -> Path:
    for number in range(1, MAX_ASIDE + 1):
        aside = path.with_name(f"{path.name}.damaged-{number}")
        if not os.path.lexists(aside):
            break
    os.replace(path, aside)
    sync_directory(path)
    return aside


def write_all(file: int, data: bytes | bytearray) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(file, view) :]


def _open_at_once(path: str, flags: int) -> int:
    # Without waiting, as a FIFO in its place would have it.
    return os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC)


def sync_directory(path: Path) -> None:
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
