"""``bzzz fetch``: what a task has put out, into a directory here.

Enters: a task or workflow. Leaves: files. Its node brings their chunks from the machine that ran
it; they are written here, as the node is another user.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import click

from bzzz.cli.client import NodeClient, NodeError, NoNode
from bzzz.cli.session import NobodyAnswers, NodeRefused, Refusal, Session, shared
from bzzz.cli.workflows import IS_WORKFLOW

__all__ = ["NOT_FETCHED", "bring_back", "fetch"]

# Exit status of ``bzzz run`` where the command is done, and what it put out is not here.
NOT_FETCHED: Final = 123

# Chunks that are asked for at once; the node gives a mebibyte of them.
AT_ONCE: Final = 1024

# Names of files that an error tells.
MAX_TOLD: Final = 10


class NothingPutOut(Refusal):
    """There is nothing to be fetched."""


@click.command()
@click.argument("task", metavar="ID")
@click.option(
    "--into",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("."),
    metavar="DIR",
    help="Where to put the files: this directory, unless said.",
)
@click.option("--force", is_flag=True, help="Replace files that are there.")
@shared
@click.pass_obj
def fetch(session: Session, task: str, into: Path, force: bool) -> None:
    """Bring here what a task has put out: the files that --out was given for.

    With a workflow's ID, what its steps have put out, each into a directory with the step's name.
    """
    client = session.client()
    try:
        found = _get(client, f"tasks/{_part(task)}")
    except NodeError as error:
        if error.code != IS_WORKFLOW:
            raise NodeRefused(f"The node answered: {error}") from None
        workflow = session.ask(f"workflows/{_part(task)}", 30.0)
        _fetch_steps(session, workflow, into, force)
        return
    _fetch_task(session, found, into, force)


def bring_back(session: Session, task: Mapping[str, Any], status: int, force: bool) -> int:
    """What is done at the end of ``bzzz run --out``.

    :param status: the task's exit status.
    :return: that, or :data:`NOT_FETCHED`.
    """
    if task["state"] != "done":
        if task["outputs"]:
            click.echo(f"To see what it has put out: bzzz fetch {task['id']}", err=True)
        return status
    try:
        _fetch_task(session, task, Path("."), force)
    except Refusal as refusal:
        refusal.show()
        if not isinstance(refusal, NothingPutOut):
            click.echo(f"To fetch it later: bzzz fetch {task['id']}", err=True)
        return NOT_FETCHED
    return status


def _fetch_task(session: Session, task: Mapping[str, Any], into: Path, force: bool) -> None:
    if task["state"] in {"waiting", "running"}:
        raise Refusal(f"Task {task['id']} has not ended. To wait for it: bzzz logs -f {task['id']}")
    if not task["outputs"]:
        raise NothingPutOut(
            f"Task {task['id']} has put out nothing: --out of bzzz run says which files are kept"
        )
    peers = [task["worker"], *task["replicas"]]
    _bring(session, task["id"], task["outputs"], peers, into, force)


def _fetch_steps(session: Session, workflow: Mapping[str, Any], into: Path, force: bool) -> None:
    steps = [step for step in workflow["steps"] if step["output"]]
    if not steps:
        raise NothingPutOut(f"Workflow {workflow['id']} has put out nothing so far")
    client = session.client()
    for step in steps:
        try:
            task = _get(client, f"tasks/{step['task']}")
        except NodeError as error:
            raise NodeRefused(f"The node answered: {error}") from None
        peers = [task["worker"], *task["replicas"]]
        name = step["label"].replace("/", "_")
        _bring(session, step["label"], step["output"], peers, into / name, force)


def _bring(
    session: Session, of: str, digest: str, peers: Sequence[str], into: Path, force: bool
) -> None:
    """Write what a manifest names.

    :param of: whose it is, for people.
    :raises Refusal: something is in the way, or nobody has it.
    """
    from bzzz.cli.run_files import Progress
    from bzzz.tasks.files.errors import FilesError
    from bzzz.tasks.files.manifest import File
    from bzzz.tasks.files.stored import load
    from bzzz.tasks.files.unpacking import unpack

    progress = Progress(session)
    client = session.client()
    try:
        asked = {"digest": digest, "from": [peer for peer in dict.fromkeys(peers) if peer]}
        for line in client.stream("fetch", asked):
            match line:
                case {"event": "progress", "done": int(done), "total": int(total)}:
                    progress.show(f"fetching {done / (1 << 20):.1f} of {total / (1 << 20):.1f} MiB")
        source = _Source(client)
        stored = load(source, bytes.fromhex(digest))
        manifest = stored.manifest
        source.expect(chunk.digest for chunk in stored.chunks)
        files = [entry.path for entry in manifest.entries if isinstance(entry, File)]
        if not manifest.entries[1:]:
            raise NothingPutOut(f"{of} has put out nothing: it left no file as --out says")
        _see_that_nothing_is_in_the_way(into, manifest.entries[1:], force)
        into.mkdir(parents=True, exist_ok=True)
        unpack(source, manifest, into, ".", lambda: False)
    except FilesError as error:
        raise Refusal(str(error)) from None
    except NodeError as error:
        raise NodeRefused(f"What {of} has put out cannot be fetched: {error}") from None
    except NoNode as error:
        raise NobodyAnswers(str(error)) from None
    except OSError as error:
        raise Refusal(f"{error.filename or into} cannot be written: {error.strerror}") from None
    finally:
        progress.clear()
    if session.json:
        from bzzz.cli.text import as_json

        line = {"event": "fetched", "of": of, "into": str(into), "files": files}
        click.echo(as_json(line, line=True))
    else:
        count = "1 file" if len(files) == 1 else f"{len(files)} files"
        where = "here" if into == Path(".") else f"in {into}"
        progress.say(f"{count} of {of} {'is' if len(files) == 1 else 'are'} {where}.")


def _see_that_nothing_is_in_the_way(into: Path, entries: Sequence[Any], force: bool) -> None:
    """Refuse what would replace a file, or remove the file.

    :raises Refusal: something is in the way.
    """
    from bzzz.tasks.files.manifest import Directory

    lasting, files = [], []
    for entry in entries:
        path = into / entry.path
        is_directory = path.is_dir() and not path.is_symlink()
        if is_directory != isinstance(entry, Directory) and os.path.lexists(path):
            # A directory here, or what should be one.
            lasting.append(path)
        elif not isinstance(entry, Directory) and os.path.lexists(path):
            files.append(path)
    if lasting:
        raise Refusal(
            f"{_listed(lasting)} cannot be replaced, as one is a directory and the other is not."
            " To put the files elsewhere: --into DIR"
        )
    if files and not force:
        raise Refusal(
            f"{_listed(files)} would be replaced; nothing was written. To put the files elsewhere:"
            " --into DIR of bzzz fetch; to replace them: --force"
        )
    for path in files:
        path.unlink()


def _listed(paths: Sequence[Path]) -> str:
    more = len(paths) - MAX_TOLD
    return ", ".join(map(str, paths[:MAX_TOLD])) + (f" and {more} more" if more > 0 else "")


class _Source:
    """Implements :class:`bzzz.tasks.files.chunk_places.ChunkSource` by the node's cache."""

    def __init__(self, client: NodeClient) -> None:
        self._client = client
        self._order: list[str] = []
        self._places: dict[str, int] = {}
        self._ready: dict[bytes, bytes] = {}

    def expect(self, digests: Iterable[bytes]) -> None:
        """Tell in which order chunks will be wanted, each once."""
        self._order = [digest.hex() for digest in digests]
        self._places = {digest: place for place, digest in enumerate(self._order)}

    def get(self, digest: bytes) -> bytes:
        if digest not in self._ready:
            self._ask(digest.hex())
        try:
            return self._ready.pop(digest)
        except KeyError:
            from bzzz.tasks.files.errors import ChunkMissing

            raise ChunkMissing(f"the node gave other bytes for the chunk {digest.hex()}") from None

    def _ask(self, digest: str) -> None:
        """Get a chunk, and those that will be wanted after it as far as the node gives them."""
        from bzzz.tasks.files.manifest import digest_of

        place = self._places.get(digest)
        wanted = [digest] if place is None else self._order[place : place + AT_ONCE]
        answer = self._client.post_for_bytes("chunks/get", {"digests": wanted}, 60.0)
        # What was not wanted in the order that was told is not kept.
        self._ready.clear()
        start = 0
        while start < len(answer):
            size = int.from_bytes(answer[start : start + 4], "big")
            data = answer[start + 4 : start + 4 + size]
            self._ready[digest_of(data)] = data
            start += 4 + size


def _get(client: NodeClient, what: str) -> Any:
    try:
        return client.get(what, 30.0)
    except NoNode as error:
        raise NobodyAnswers(str(error)) from None


def _part(text: str) -> str:
    return quote(os.fsencode(text), safe="")
