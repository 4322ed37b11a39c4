"""The audit log, checkpoints of other members: judged, and kept in a file.

Enters: checkpoints that members give of their own logs. Leaves: what is to be thought of each, and
those that are kept, for whoever checks a member's log. docs/trust.rst, "Audit log".

Of each member :data:`MAX_KEPT` are kept. Of more the one goes that lies closest between its
neighbours for its age: recent ones lie close together, old ones far apart, and a burst of new ones
cannot push the old ones out.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger

from bzzz.atomic_file import write_atomically
from bzzz.errors import BzzzError
from bzzz.identity.peer_id import PeerID
from bzzz.net.background import after, in_background
from bzzz.net.interfaces import Clock
from bzzz.trust.audit_chain import Checkpoint, Kept, rfc3339
from bzzz.trust.audit_disk import open_for_reading, put_aside

__all__ = ["MAX_KEPT", "MAX_NODES", "KeptCheckpoints", "Verdict", "read_kept"]

# Checkpoints of one member: one of each minute or so now, one of each month or so after years.
MAX_KEPT = 32

# Nodes of which any are kept, more than the roster has members, because those who are gone may have
# to be asked about most. Beyond: the one that gave none for the longest time is forgotten.
MAX_NODES = 1024

# Seconds between a checkpoint and its writing, for more to come along. Who gave one that a crash
# took away gives the next to a node that is linked.
DEBOUNCE = 5.0

# Bytes of the largest file that is read: twice what MAX_NODES fill.
MAX_FILE = 32 << 20

VERSION = 1


class Verdict(enum.Enum):
    """What a checkpoint is beside those of the same node that are kept."""

    NEW = "new"
    KNOWN = "known"
    # It was made before one that is kept, and comes after it over another link.
    LATE = "late"
    # It and one that is kept cannot both be of one log that only grew.
    CONTRADICTION = "contradiction"


class _One(msgspec.Struct, frozen=True):
    checkpoint: Checkpoint
    received: float


class _Node(msgspec.Struct):
    """What is kept of one node, with its number rising."""

    node: str
    name: str
    checkpoints: list[_One]


class _Stored(msgspec.Struct):
    version: int
    kept_by: str
    kept_by_name: str
    nodes: list[_Node]


class KeptCheckpoints:
    """See the module.

    :param path: of the file.
    :param own: this node's peer ID.
    :param wall_time: seconds since the epoch.
    :param in_thread: runs a function in a thread.
    :param name_of: what a member, or this node, is called; nothing if that is not known.
    """

    _log = Logger()

    def __init__(
        self,
        path: Path,
        own: PeerID,
        clock: Clock,
        wall_time: Callable[[], float],
        in_thread: Callable[[Callable[[], Any]], Deferred[Any]],
        name_of: Callable[[PeerID], str] = lambda peer: "",
    ) -> None:
        self._path = path
        self._own = own
        self._clock = clock
        self._wall_time = wall_time
        self._in_thread = in_thread
        self._name_of = name_of
        self._nodes: dict[str, _Node] = {}
        self._dirty = False
        self._timer: IDelayedCall | None = None
        self._writing: Deferred[None] = succeed(None)
        self._problem = ""

    # -- life

    def load(self) -> Deferred[None]:
        """Read the file; call once, before all else. A damaged one is put aside. Never fails."""
        return in_background(self._load(), "reading the checkpoints of others", self._log)

    async def _load(self) -> None:
        try:
            stored = await self._in_thread(lambda: _read(self._path))
        except OSError as error:
            self._log.error(
                "The checkpoints of others, {path}, cannot be read: {error}. Until that is mended"
                " this node vouches for less",
                path=str(self._path),
                error=error.strerror or error,
            )
            return
        except BzzzError as damage:
            aside = await self._in_thread(lambda: put_aside(self._path))
            self._log.error(
                "{damage}. It was put aside as {aside}; checkpoints are collected anew",
                damage=damage,
                aside=str(aside),
            )
            return
        for node in stored.nodes[:MAX_NODES] if stored is not None else ():
            if node.checkpoints:
                self._nodes[node.node] = node

    def close(self) -> Deferred[None]:
        """Write what is not yet written. Never fails."""
        return in_background(self._close(), "writing the checkpoints of others", self._log)

    async def _close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        await after(self._writing)
        if self._dirty:
            await self._write()

    # -- checkpoints

    def take(self, checkpoint: Checkpoint) -> tuple[Verdict, Checkpoint]:
        """Judge a checkpoint that its node has signed and given, and keep it if it is new.

        :return: with ``CONTRADICTION`` the one that it contradicts, else itself.
        """
        node = self._nodes.get(checkpoint.node)
        kept = node.checkpoints if node is not None else []
        for each in kept:
            if each.checkpoint.seq == checkpoint.seq:
                same = each.checkpoint.hash == checkpoint.hash
                return Verdict.KNOWN if same else Verdict.CONTRADICTION, each.checkpoint
        if kept and checkpoint.seq < kept[-1].checkpoint.seq:
            # RFC 3339 as it is written here sorts like the times.
            late = checkpoint.time <= kept[-1].checkpoint.time
            return Verdict.LATE if late else Verdict.CONTRADICTION, kept[-1].checkpoint
        self._keep(checkpoint)
        return Verdict.NEW, checkpoint

    def of(self, node: str) -> list[Kept]:
        """What is kept of a node, oldest first."""
        found = self._nodes.get(node)
        return [] if found is None else _kept(found, str(self._own), self._name_of(self._own))

    def _keep(self, checkpoint: Checkpoint) -> None:
        name = self._name_of(PeerID.parse(checkpoint.node))
        # Whoever gave one last is at the end.
        node = self._nodes.pop(checkpoint.node, None) or _Node(checkpoint.node, name, [])
        if len(self._nodes) >= MAX_NODES:
            del self._nodes[next(iter(self._nodes))]
        self._nodes[checkpoint.node] = node
        node.name = name or node.name
        now = self._wall_time()
        node.checkpoints.append(_One(checkpoint, now))
        if len(node.checkpoints) > MAX_KEPT:
            del node.checkpoints[_dispensable([each.received for each in node.checkpoints], now)]
        self._dirty = True
        if self._timer is None:
            self._timer = self._clock.callLater(DEBOUNCE, self._due)

    # -- the file

    def _due(self) -> None:
        self._timer = None
        if not self._writing.called:
            self._timer = self._clock.callLater(DEBOUNCE, self._due)
            return
        self._writing = in_background(self._write(), "writing the checkpoints of others", self._log)

    async def _write(self) -> None:
        self._dirty = False
        stored = _Stored(
            VERSION, str(self._own), self._name_of(self._own), list(self._nodes.values())
        )
        data = msgspec.json.encode(stored) + b"\n"
        try:
            await self._in_thread(lambda: write_atomically(self._path, data))
        except OSError as error:
            self._dirty = True
            if str(error) != self._problem:
                self._problem = str(error)
                self._log.error(
                    "The checkpoints of others, {path}, cannot be written: {error}",
                    path=str(self._path),
                    error=error.strerror or error,
                )
        else:
            self._problem = ""


def read_kept(path: Path) -> list[Kept]:
    """All that is in a file of kept checkpoints. Blocks.

    :raises OSError: it cannot be read.
    :raises BzzzError: it is damaged.
    """
    stored = _read(path)
    if stored is None:
        return []
    return [
        kept for node in stored.nodes for kept in _kept(node, stored.kept_by, stored.kept_by_name)
    ]


def _kept(node: _Node, kept_by: str, kept_by_name: str) -> list[Kept]:
    return [
        Kept(each.checkpoint, node.name, kept_by, kept_by_name, rfc3339(each.received))
        for each in node.checkpoints
    ]


def _dispensable(received: Sequence[float], now: float) -> int:
    """Which one lies closest between its neighbours for its age; neither the first nor the last."""

    def room(index: int) -> float:
        return (received[index + 1] - received[index - 1]) / (now - received[index] + 1.0)

    return min(range(1, len(received) - 1), key=room)


def _read(path: Path) -> _Stored | None:
    try:
        with open_for_reading(path) as file:
            content = file.read(MAX_FILE + 1)
    except FileNotFoundError:
        return None
    if len(content) > MAX_FILE:
        raise BzzzError(f"{path} is damaged: it has more than {MAX_FILE} bytes")
    try:
        stored = msgspec.json.decode(content, type=_Stored)
    except (msgspec.MsgspecError, RecursionError, UnicodeError) as error:
        raise BzzzError(f"{path} is damaged: {error}") from None
    if stored.version != VERSION:
        raise BzzzError(f"{path} is of version {stored.version}; this is for version {VERSION}")
    return stored
