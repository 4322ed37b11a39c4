"""Files that are there wholly or not at all, also after a power cut.

Enters: a path and what is to be in it. All of it blocks on the disk.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

__all__ = ["opened", "sync_directory", "write_atomically"]


def write_atomically(path: Path, content: bytes, *, new: bool = False) -> None:
    """Write a file of mode 0600 that is there wholly or not at all, also after a power cut.

    :param new: never replace a file that exists.
    :raises FileExistsError: ``new``, and it exists.
    :raises OSError: it cannot be written.
    """
    # The name is the same each time so that what a crash left is replaced, not collected; the
    # directory's lock is why nobody else writes to it.
    temporary = path.with_name(f".{path.name}.new")
    temporary.unlink(missing_ok=True)
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        with opened(temporary, flags) as descriptor:
            os.fchmod(descriptor, 0o600)
            view = memoryview(content)
            while view:
                view = view[os.write(descriptor, view) :]
            os.fsync(descriptor)
        if new:
            _move_to_new(temporary, path)
        else:
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_directory(path.parent)


def sync_directory(directory: Path) -> None:
    """Have the names in a directory outlive a power cut."""
    with opened(directory, os.O_RDONLY | os.O_DIRECTORY) as descriptor:
        os.fsync(descriptor)


def _move_to_new(temporary: Path, path: Path) -> None:
    try:
        os.link(temporary, path)
    except OSError as error:
        if error.errno not in {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS}:
            raise
        # File systems without hard links (vfat, some network ones): the lock makes looking enough.
        if path.exists():
            raise FileExistsError(errno.EEXIST, "File exists", str(path)) from None
        temporary.rename(path)


@contextlib.contextmanager
def opened(path: Path, flags: int, mode: int = 0o600) -> Iterator[int]:
    """The descriptor of a file, open while the block runs."""
    descriptor = os.open(path, flags | os.O_CLOEXEC, mode)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
