"""From chunks to files. It blocks on the disk: it is called in a thread.

Enters: a manifest that was read, whose chunks are in the cache. Leaves: files below a directory.
Each is opened from its directory's descriptor, no link is followed, and nothing that is there is
written to.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from bzzz.tasks.files.chunk_places import ChunkSource
from bzzz.tasks.files.errors import UnpackError
from bzzz.tasks.files.manifest import Directory, File, Link, Manifest, chunks_of
from bzzz.tasks.files.names import target_of, wrong_path

__all__ = ["unpack"]

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def unpack(
    store: ChunkSource, manifest: Manifest, into: Path, name: str, stopped: Callable[[], bool]
) -> None:
    """Write what is in a manifest.

    What was written before an error stays; half a file does not.

    :param into: a directory, which is followed where it is a link.
    :param name: path of the file or directory below it; ``.`` for a directory's content.
    :param stopped: whether to give up.
    :raises UnpackError: the place is taken or cannot be written.
    :raises ChunkMissing: a chunk is not in the cache any more.
    """
    place = target_of(name)
    root = manifest.entries[0]
    if name.startswith("/") or (place and wrong_path(place)):
        raise UnpackError(f"{name!r} is no path below {into}")
    if not place and not isinstance(root, Directory):
        raise UnpackError(f"a file needs a name below {into}")
    with _Tree(into) as tree:
        prefix, _, last = place.rpartition("/")
        tree.make_all(place if isinstance(root, Directory) else prefix)
        if isinstance(root, File):
            _write(store, tree, prefix, last, root, stopped)
            return
        for entry in manifest.entries[1:]:
            if stopped():
                raise UnpackError("unpacking was ended, as the node is stopping")
            path = f"{place}/{entry.path}" if place else entry.path
            parent, _, last = path.rpartition("/")
            if isinstance(entry, Directory):
                tree.make(path)
            elif isinstance(entry, Link):
                with tree.named(path):
                    os.symlink(entry.target, last, dir_fd=tree.descriptor(parent))
            else:
                _write(store, tree, parent, last, entry, stopped)


def _write(
    store: ChunkSource,
    tree: _Tree,
    parent: str,
    name: str,
    file: File,
    stopped: Callable[[], bool],
) -> None:
    directory = tree.descriptor(parent)
    with tree.named(f"{parent}/{name}" if parent else name):
        # What others may do with it is the umask's affair.
        descriptor = os.open(name, _NEW, 0o777 if file.executable else 0o666, dir_fd=directory)
        try:
            for chunk in chunks_of(file.digests, file.size):
                if stopped():
                    raise UnpackError("unpacking was ended, as the node is stopping")
                view = memoryview(store.get(chunk.digest))
                if len(view) != chunk.size:
                    raise UnpackError(f"a chunk of {file.path!r} has another size than is said")
                while view:
                    view = view[os.write(descriptor, view) :]
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(name, dir_fd=directory)
            raise
        finally:
            os.close(descriptor)


class _Tree:
    """Directories below one, of which those down to the last one used are open."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._open: list[tuple[str, int]] = []
        # By device and inode, to notice names that the file system takes for the same.
        self._made: dict[tuple[int, int], str] = {}

    def __enter__(self) -> _Tree:
        with self.named(""):
            self._open.append(("", os.open(self._root, _DIRECTORY & ~os.O_NOFOLLOW)))
        return self

    def __exit__(self, *_: object) -> None:
        for name_and_descriptor in self._open:
            os.close(name_and_descriptor[1])
        self._open.clear()

    @contextlib.contextmanager
    def named(self, path: str) -> Iterator[None]:
        """What goes wrong in the block is an error that names the place."""
        where = self._root / path
        try:
            yield
        except FileExistsError:
            raise UnpackError(
                f"{where} is there already, or a name that is the same for this file system"
            ) from None
        except OSError as error:
            raise UnpackError(f"{where} cannot be written: {error.strerror}") from None

    def make_all(self, path: str) -> None:
        """Make a directory, and those that it is in."""
        names = path.split("/") if path else []
        for count in range(1, len(names) + 1):
            self.make("/".join(names[:count]))

    def make(self, path: str) -> None:
        """Make a directory, which may be there."""
        parent, _, name = path.rpartition("/")
        directory = self.descriptor(parent)
        with self.named(path), contextlib.suppress(FileExistsError):
            os.mkdir(name, 0o777, dir_fd=directory)
        status = os.fstat(self.descriptor(path))
        same = self._made.setdefault((status.st_dev, status.st_ino), path)
        if same != path:
            raise UnpackError(
                f"{self._root / path} and {self._root / same} are the same for this file system"
            )

    def descriptor(self, path: str) -> int:
        """An open directory.

        :raises UnpackError: it is none, or a link.
        """
        names = path.split("/") if path else []
        shared = 0
        while shared < min(len(names), len(self._open) - 1):
            if self._open[shared + 1][0] != names[shared]:
                break
            shared += 1
        while len(self._open) > shared + 1:
            os.close(self._open.pop()[1])
        for name in names[shared:]:
            with self.named(path):
                descriptor = os.open(name, _DIRECTORY, dir_fd=self._open[-1][1])
            self._open.append((name, descriptor))
        return self._open[-1][1]
