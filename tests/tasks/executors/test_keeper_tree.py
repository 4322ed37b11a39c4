"""The processes below one, as /proc tells of them."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable, Iterator
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from bzzz.tasks.executors.keeper_tree import descendants, kill_descendants, memory, processes


class TreeTests(SynchronousTestCase):
    """A /proc of the test's own."""

    def setUp(self) -> None:
        self.proc = Path(self.mktemp())
        self.proc.mkdir()
        (self.proc / "self").mkdir()

    def add(self, pid: int, parent: int, name: str = "sh", state: str = "S") -> Path:
        directory = self.proc / str(pid)
        directory.mkdir()
        (directory / "stat").write_text(f"{pid} ({name}) {state} {parent} 1 1 0 -1 4194304")
        return directory

    def test_processes(self) -> None:
        """A process may call itself what it wants; the dead do not count, nor those just gone."""
        self.add(2, 1)
        self.add(3, 2, name="a) S 1 (b")
        self.add(4, 2, state="Z")
        (self.proc / "5").mkdir()
        self.assertEqual(dict(processes(str(self.proc))), {2: 1, 3: 2})

    def test_descendants(self) -> None:
        """Children of children are found, and nobody else."""
        self.assertEqual(descendants(1, {5: 3, 2: 1, 3: 2, 9: 8, 4: 1}), [2, 4, 3, 5])

    def test_kill(self) -> None:
        """All are stopped before one is killed, those too that were started meanwhile."""
        looks = [[(8, 7), (2, 1)], [(3, 2), (2, 1)], [(5, 4), (4, 1), (3, 2), (2, 1)]]
        looks.append(looks[-1])
        sent: list[tuple[list[int], signal.Signals]] = []

        def send(pids: Iterable[int], number: signal.Signals) -> None:
            if pids := sorted(pids):
                sent.append((pids, number))

        kill_descendants(1, lambda: looks.pop(0), send)
        stops = [([pid], signal.SIGSTOP) for pid in (2, 3, 4, 5)]
        self.assertEqual(sent, [*stops, ([2, 3, 4, 5], signal.SIGKILL)])

    def test_stopped_at_once(self) -> None:
        """A process whose parent is known is stopped before the next is looked at."""
        sent: list[int] = []

        def look() -> Iterator[tuple[int, int]]:
            yield 9, 1
            seen.append(list(sent))
            yield 10, 9
            seen.append(list(sent))

        seen: list[list[int]] = []
        kill_descendants(1, look, lambda pids, _: sent.extend(pids))
        self.assertEqual(seen[:2], [[9], [9, 10]])

    def test_kill_ends(self) -> None:
        """Where others are started for ever, those that were seen are killed all the same."""
        started = iter(range(2, 10000))
        sent: list[signal.Signals] = []
        kill_descendants(1, lambda: [(next(started), 1)], lambda _, number: sent.append(number))
        self.assertEqual(sent[-1], signal.SIGKILL)

    def test_memory(self) -> None:
        """What is shared counts once for all, where it would be too much otherwise."""
        page = os.sysconf("SC_PAGE_SIZE")
        for pid in (2, 3):
            directory = self.add(pid, 1)
            (directory / "statm").write_text("900 10 5 1 0 3 0")
            (directory / "smaps_rollup").write_text("0-1 rollup\nRss: 40 kB\nPss: 24 kB\nx: 9 kB\n")
        pids = [2, 3, 4]
        self.assertEqual(memory(pids, 20 * page, str(self.proc)), 20 * page)
        self.assertEqual(memory(pids, 20 * page - 1, str(self.proc)), 48 * 1024)
        (self.proc / "3" / "smaps_rollup").unlink()
        self.assertEqual(memory(pids, 0, str(self.proc)), 24 * 1024 + 10 * page)
