"""``twistd``, which also measures how long its reactor is busy in one turn.

    python -m benchmarks.peers.bzzz_node FILE --nodaemon bzzz ...

A turn is from when the kernel says what has happened until the reactor asks it again. FILE gets two
doubles: the longest turn by the clock, which on a machine with more nodes than cores is mostly
waiting for a core, and by the CPU time of the reactor's thread, which is what the node itself is to
blame for. Whoever writes zeros there begins anew.
"""

from __future__ import annotations

import mmap
import os
import struct
import sys
import time
from typing import Any

__all__ = ["TURNS", "main"]

TURNS = struct.Struct("dd")


class Poller:
    """An epoll object that looks at the clock on the way in and out."""

    def __init__(self, inner: Any, page: mmap.mmap) -> None:
        self._inner = inner
        self._page = page
        self._since = time.perf_counter()
        self._cpu = time.thread_time()
        # The reactor calls these for each link; they need no detour.
        self.register, self.modify, self.unregister = (
            inner.register,
            inner.modify,
            inner.unregister,
        )

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def poll(self, *arguments: Any) -> Any:
        """The end of a turn, and the begin of the next."""
        wall, cpu = time.perf_counter() - self._since, time.thread_time() - self._cpu
        worst_wall, worst_cpu = TURNS.unpack_from(self._page)
        if wall > worst_wall or cpu > worst_cpu:
            TURNS.pack_into(self._page, 0, max(wall, worst_wall), max(cpu, worst_cpu))
        happened = self._inner.poll(*arguments)
        self._since = time.perf_counter()
        self._cpu = time.thread_time()
        return happened


def main() -> None:
    """Run twistd with the arguments after the first."""
    descriptor = os.open(sys.argv.pop(1), os.O_RDWR | os.O_CREAT, 0o600)
    os.ftruncate(descriptor, TURNS.size)
    page = mmap.mmap(descriptor, TURNS.size)
    os.close(descriptor)
    from twisted.internet import reactor
    from twisted.scripts.twistd import run

    untyped: Any = reactor
    # Only the epoll reactor, Linux's default, has it.
    untyped._poller = Poller(untyped._poller, page)
    run()


if __name__ == "__main__":
    main()
