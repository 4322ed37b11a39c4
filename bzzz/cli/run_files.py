"""Files that go to the node with a task: ``--in`` and ``--dir`` of ``bzzz run``, ``in`` of a
workflow's file.

Enters: paths of this machine. Leaves: what a task's inputs are, whose chunks the node has. The node
runs as another user, so the files are read here, and what it has not is sent to it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import click

from bzzz.cli.client import NodeClient, NodeError, NoNode
from bzzz.cli.session import Refusal, Session

__all__ = ["NotSent", "Progress", "WrongInput", "inputs_of", "outputs_of", "send_inputs"]

# Bytes and chunks that wait in memory until the node was asked which of them it has.
BATCH_BYTES: Final = 16 << 20
BATCH: Final = 1024

# Chunks of no more bytes are sent together, in bodies of no more than a mebibyte.
SMALL: Final = 64 << 10
BODY: Final = 1 << 20

# Seconds that the node may take for one chunk: its disk may be slow.
CHUNK_SECONDS: Final = 60.0


class WrongInput(Refusal):
    """An input cannot be used as it is; nothing was submitted."""

    exit_code = 122


class NotSent(Refusal):
    """The node cannot be asked; nothing was submitted."""

    exit_code = 125


def inputs_of(given: Sequence[str], directory: Path | None) -> list[tuple[str, Path]]:
    """What ``--in`` and ``--dir`` say: names in the task, and where each is here.

    :raises click.BadParameter: a name cannot be one, or is there twice.
    """
    from bzzz.cli.collisions import collision
    from bzzz.tasks.files.names import wrong_path

    inputs: dict[str, Path] = {}
    if directory is not None:
        inputs["."] = directory
    for text in given:
        path, name = _split(text)
        if reason := wrong_path(name):
            raise click.BadParameter(f"{text}: {name!r} is no name for an input: {reason}")
        if name in inputs:
            raise click.BadParameter(
                f"{inputs[name]} and {path} are both {name} for the command; give one of them"
                f" another name: --in {path}:NAME"
            )
        inputs[name] = path
    met = collision(list(inputs.items()))
    if met is not None:
        raise click.BadParameter(
            f"{met.first} and {met.second} are both {met.name} for the command; give one of them"
            " another name: --in PATH:NAME"
        )
    return list(inputs.items())


def outputs_of(globs: Sequence[str]) -> list[str]:
    """What ``--out`` says.

    :raises click.BadParameter: a pattern cannot be one.
    """
    from bzzz.tasks.files.errors import PackError
    from bzzz.tasks.files.globs import Globs

    try:
        Globs(globs)
    except PackError as error:
        raise click.BadParameter(f"--out: {error}") from None
    return list(globs)


def send_inputs(session: Session, inputs: Sequence[tuple[str, Path]]) -> list[dict[str, Any]]:
    """Have the node have the chunks of files and directories.

    :param inputs: name in the task, ``.`` for a directory's content, and where it is here.
    :return: for each its ``path``, ``digest`` and ``size``.
    :raises WrongInput: one is not there or cannot be read, or the node has no room.
    :raises NotSent: the node cannot be asked.
    """
    from bzzz.tasks.files.chunk_store import Hold
    from bzzz.tasks.files.errors import FilesError
    from bzzz.tasks.files.packing import pack

    for name, path in inputs:
        _check(name, path)
    progress = Progress(session)
    sent = []
    try:
        for name, path in inputs:
            sink = _Sink(session.client(), progress, f"sending {path}")
            packed = pack(sink, path, Hold(), lambda: False)
            sink.flush()
            progress.clear()
            for reason in packed.skipped:
                progress.say(f"Left out: {reason}")
            sent.append({"path": name, "digest": packed.digest, "size": packed.size})
    except FilesError as error:
        raise WrongInput(f"{error}; nothing was submitted") from None
    except NodeError as error:
        raise WrongInput(f"{path} could not be sent: {error}; nothing was submitted") from None
    except NoNode as error:
        raise NotSent(str(error)) from None
    finally:
        progress.clear()
    return sent


class Progress:
    """A line on a terminal, nothing elsewhere."""

    def __init__(self, session: Session) -> None:
        self._terminal = sys.stderr.isatty() and not session.json
        self._shown = ""

    def show(self, text: str) -> None:
        """Show this in place of what was shown."""
        if self._terminal:
            from bzzz.cli.text import safe

            self.clear()
            self._shown = safe(text)[-70:]
            sys.stderr.write(f"\r{self._shown}")
            sys.stderr.flush()

    def clear(self) -> None:
        """Show nothing."""
        if self._shown:
            sys.stderr.write("\r" + " " * len(self._shown) + "\r")
            sys.stderr.flush()
            self._shown = ""

    def say(self, text: str) -> None:
        """Print a line that stays, on a terminal or not."""
        from bzzz.cli.text import safe

        self.clear()
        click.echo(safe(text), err=True)


class _Sink:
    """Implements :class:`bzzz.tasks.files.chunk_places.ChunkSink` by the node's cache.

    :param what: is shown while it goes on.
    """

    def __init__(self, client: NodeClient, progress: Progress, what: str) -> None:
        self._client = client
        self._progress = progress
        self._what = what
        self._sent: set[bytes] = set()
        self._waiting: dict[bytes, bytes] = {}
        self._bytes = 0
        self._done = 0

    def put(self, data: bytes, hold: Any = None) -> bytes:
        from bzzz.tasks.files.manifest import digest_of

        digest = digest_of(data)
        self._done += len(data)
        if digest not in self._sent and digest not in self._waiting:
            self._waiting[digest] = data
            self._bytes += len(data)
            if self._bytes >= BATCH_BYTES or len(self._waiting) >= BATCH:
                self.flush()
        return digest

    def flush(self) -> None:
        """Send what waits, and the node has not."""
        if not self._waiting:
            return
        digests = [digest.hex() for digest in self._waiting]
        answer = self._client.post("chunks/have", {"digests": digests}, CHUNK_SECONDS)
        together = bytearray()
        for digest in answer["missing"]:
            data = self._waiting[bytes.fromhex(digest)]
            if len(data) > SMALL:
                self._send(f"chunks/{digest}", data)
                continue
            if len(together) + 4 + len(data) > BODY:
                self._send("chunks", bytes(together))
                together.clear()
            together += len(data).to_bytes(4, "big") + data
        if together:
            self._send("chunks", bytes(together))
        self._sent.update(self._waiting)
        self._waiting.clear()
        self._bytes = 0

    def _send(self, what: str, body: bytes) -> None:
        self._client.post(what, body, CHUNK_SECONDS)
        self._progress.show(f"{self._what}: {self._done / (1 << 20):.1f} MiB")


def _split(text: str) -> tuple[Path, str]:
    """The path and the name of an ``--in``. A file whose own name has a colon is meant as it is."""
    path, colon, name = text.rpartition(":")
    if colon and path and name and not os.path.lexists(text):
        return Path(path), name
    return Path(text), Path(os.path.abspath(text)).name


def _check(name: str, path: Path) -> None:
    """See that an input is there, before any is sent.

    :raises WrongInput: it is not, or cannot be read.
    """
    try:
        found = os.stat(path)
    except OSError as error:
        reason = "is not there" if isinstance(error, FileNotFoundError) else error.strerror
        raise WrongInput(f"The input {path} {reason}; nothing was submitted") from None
    directory = os.path.isdir(path)
    if not directory and name == ".":
        raise WrongInput(f"{path} is no directory; give a file with --in")
    if not (directory or os.path.isfile(path)):
        raise WrongInput(f"The input {path} is no file and no directory (mode {found.st_mode:o})")
    if not os.access(path, os.R_OK | (os.X_OK if directory else 0)):
        raise WrongInput(f"The input {path} may not be read by you; nothing was submitted")
