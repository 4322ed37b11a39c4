"""The processes of a run: all that descend from one process, by ``/proc`` (proc(5)).

Enters: the process at the root. Leaves: signals to its descendants, and how much memory they use.

A look at ``/proc`` is not one moment: who forks and exits meanwhile may be missed. So nothing here
says that a tree is empty; only wait(2) of a subreaper at its root does, and
:func:`kill_descendants` is repeated until then. In between signal and look, a number could belong
to another process: only after all others up to ``pid_max`` have been given out.
"""

from __future__ import annotations

import os
import signal
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final

__all__ = ["descendants", "kill_descendants", "memory", "processes", "send"]

# Looks of one kill until no new process is seen. Who was sent SIGSTOP cannot finish a fork(2) any
# more, so each look finds the last children of those of the one before.
MAX_LOOKS: Final = 50

PAGE: Final = os.sysconf("SC_PAGE_SIZE")

# Of what has ended, and waits for its parent to see it.
DEAD = b"ZX"


def _read(path: str) -> bytes:
    fd = os.open(path, os.O_RDONLY)
    try:
        return os.read(fd, 4096)
    finally:
        os.close(fd)


def processes(proc: str = "/proc") -> Iterator[tuple[int, int]]:
    """Each process that is alive, and its parent.

    The list of names is in the order of numbers. Its end comes first here: the youngest are those
    that may be gone in a moment, having started another.
    """
    for name in reversed(os.listdir(proc)):
        if not name.isdecimal():
            continue
        try:
            stat = _read(f"{proc}/{name}/stat")
        except OSError:
            continue  # it has ended meanwhile
        # The name in parentheses is the process's own choice, and may have any byte in it.
        state, parent, *_ = stat[stat.rfind(b")") + 2 :].split(None, 2)
        if state not in DEAD:
            yield int(name), int(parent)


def descendants(root: int, parent_of: Mapping[int, int]) -> list[int]:
    """Those below a process, parents before their children."""
    children = defaultdict(list)
    for pid, parent in parent_of.items():
        children[parent].append(pid)
    found: list[int] = []
    level = children[root]
    while level:
        found += level
        level = [child for pid in level for child in children[pid]]
    return found


def send(pids: Iterable[int], number: signal.Signals) -> None:
    """Send a signal to each that is still there and may be sent one."""
    for pid in pids:
        try:
            os.kill(pid, number)
        except (ProcessLookupError, PermissionError):
            pass  # it has ended; or a set-user-ID program, which profile ``trusted`` allows


def kill_descendants(
    root: int,
    look: Callable[[], Iterable[tuple[int, int]]] = processes,
    send: Callable[[Iterable[int], signal.Signals], None] = send,
) -> None:
    """Stop all processes below one, so that none can start another, and kill them then."""
    stopped: set[int] = set()
    for _ in range(MAX_LOOKS):
        before = len(stopped)
        parent_of = {}
        for pid, parent in look():
            parent_of[pid] = parent
            # At once, before it is gone.
            if (parent == root or parent in stopped) and pid not in stopped:
                send([pid], signal.SIGSTOP)
                stopped.add(pid)
        rest = [pid for pid in descendants(root, parent_of) if pid not in stopped]
        send(rest, signal.SIGSTOP)
        stopped.update(rest)
        if len(stopped) == before:
            break
    send(stopped, signal.SIGKILL)


def memory(pids: Iterable[int], limit: int, proc: str = "/proc") -> int:
    """Bytes of memory that processes use together.

    What is shared is counted once for each where that is not over the limit, and by its parts where
    it would be: the kernel has to look at all pages for that.
    """
    pids = list(pids)
    used = sum(_resident(pid, proc) for pid in pids)
    return used if used <= limit else sum(_proportional(pid, proc) for pid in pids)


def _resident(pid: int, proc: str) -> int:
    try:
        return int(_read(f"{proc}/{pid}/statm").split()[1]) * PAGE
    except (OSError, IndexError):
        return 0  # it has ended


def _proportional(pid: int, proc: str) -> int:
    try:
        lines = _read(f"{proc}/{pid}/smaps_rollup").splitlines()
    except OSError:
        # It has ended, or is not to be looked into.
        return _resident(pid, proc)
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith(b"Pss:"))
