"""Removing what a command has left, whatever that is.

Enters: a directory. Leaves: nothing of it, but for what belongs to others. It blocks on the disk:
it is called in a thread.

:func:`shutil.rmtree` calls itself for each level and has a file open for each, so a few thousand
directories in each other, which any command may leave, are too much for it; and it stops at a
directory that its owner may not write to, as the module cache of Go has them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Final

__all__ = ["remove_tree"]

_DIRECTORY: Final = os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_WRITABLE: Final = 0o700


def remove_tree(directory: Path) -> None:
    """Remove a directory with all that is in it, or what is in its place; what cannot be removed
    stays.

    No link is followed. Directories below those in it are moved up, so that two files are open at
    most, however deep they are.
    """
    with suppress(OSError), _opened(str(directory), None) as top:
        names = set(os.listdir(top))
        free = filter(lambda each: each not in names, (f".{number}" for number in count()))
        waiting = _emptied(top, top, iter(()))
        while waiting:
            name = waiting.pop()
            with suppress(OSError), _opened(name, top) as descriptor:
                waiting += _emptied(descriptor, top, free)
            with suppress(OSError):
                os.rmdir(name, dir_fd=top)
    with suppress(OSError):
        try:
            directory.rmdir()
        except NotADirectoryError:
            directory.unlink()


def _emptied(descriptor: int, top: int, free: Iterator[str]) -> list[str]:
    """Remove the files of a directory, and have its directories in the top one.

    :param free: names that are not taken there.
    :return: the names of these directories.
    """
    moved = []
    with os.scandir(descriptor) as entries:
        found = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
    for name, is_directory in found:
        with suppress(OSError):
            if not is_directory:
                os.unlink(name, dir_fd=descriptor)
            elif descriptor == top:
                moved.append(name)
            else:
                # Without the right to write to it, it cannot be moved either.
                with _opened(name, descriptor):
                    new = next(free)
                    os.rename(name, new, src_dir_fd=descriptor, dst_dir_fd=top)
                moved.append(new)
    return moved


@contextmanager
def _opened(name: str, parent: int | None) -> Iterator[int]:
    """A directory, in which its owner may change what is there from now on."""
    place = os.open(name, os.O_PATH | _DIRECTORY, dir_fd=parent)
    try:
        if os.fstat(place).st_mode & _WRITABLE != _WRITABLE:
            # By this name, since fchmod(2) does not take what is open for its path alone.
            os.chmod(f"/proc/self/fd/{place}", _WRITABLE)
        descriptor = os.open(".", os.O_RDONLY | _DIRECTORY, dir_fd=place)
    finally:
        os.close(place)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
