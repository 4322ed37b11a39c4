"""A node that keeps 100,000 ended tasks and 10,000 that wait: its memory, start and listing.

    python -m benchmarks.stored [--rounds 3] [--quick] [--json FILE]

The tasks are written into the node's database directly, as a node would have kept them; it is a
mesh of one node. The waiting ones ask for a machine that is not there. A start is from the process
until tasks can be asked for.
"""

from __future__ import annotations

import os
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.common import (
    Children,
    Target,
    arguments,
    number,
    progress,
    rss_mb,
    table,
    write_json,
)
from benchmarks.tasks import PATIENCE, TWISTD
from bzzz.cli.client import NodeClient, NodeError, NoNode
from bzzz.identity.keys import PrivateKey
from bzzz.state import KEY, read_key
from bzzz.tasks import record as states
from bzzz.tasks.record import End, Policy, TaskState, begin
from bzzz.tasks.register_store import REPLACE
from bzzz.tasks.submission import Submission, new_task_id, sign
from bzzz.tasks.value import encode_record

__all__ = ["main"]

ENDED, WAITING = 100_000, 10_000

ROWS = (
    ("start_s", "start until tasks are told, s", Target(2, True)),
    ("memory_mb", "memory, MB", Target(150, True)),
    ("list_ms", "GET /v1/tasks, p50 ms", None),
    ("command_ms", "bzzz tasks --all, p50 ms", Target(200, True)),
    ("open_ms", "bzzz tasks, p50 ms", Target(200, True)),
    ("help_ms", "  of which bzzz --version, p50 ms", None),
    ("empty_start_s", "start without tasks, s", None),
    ("empty_mb", "memory without tasks, MB", None),
)


class Node:
    """One node, which is started and stopped."""

    def __init__(self, place: Path) -> None:
        self.state = place / "state"
        self.run = place / "run"
        self.log = place / "log"
        self.ask = NodeClient(self.run / "control.sock")

    def start(self, children: Children) -> tuple[subprocess.Popen[Any], float]:
        """Start it: its process, and how many seconds it took."""
        options = ["--nodaemon", "--pidfile=", "bzzz", "--name", "n0", "--state-dir"]
        options += [str(self.state), "--runtime-dir", str(self.run)]
        options += ["--interface", "lo", "--no-mdns", "--log-level", "warn"]
        begin = time.perf_counter()
        with self.log.open("ab") as log:
            process = children.start(
                [sys.executable, "-c", TWISTD, *options], stdout=log, stderr=log
            )
        while time.perf_counter() < begin + PATIENCE:
            try:
                self.ask.get("tasks?limit=1")
            except (NoNode, NodeError):
                time.sleep(0.01)
            else:
                return process, time.perf_counter() - begin
        raise TimeoutError(f"the node did not start: {self.log.read_text()[-2000:]}")


def _states(key: PrivateKey, ended: int, waiting: int) -> Iterator[tuple[Submission, TaskState]]:
    """Tasks of the last hours, in the order of their IDs."""
    own = str(key.peer_id)
    now = int(time.time() * 1000) - 100 * (ended + waiting)
    for index in range(ended + waiting):
        waits = index % ((ended + waiting) // waiting) == 0
        submission = Submission(
            task=new_task_id(now + 100 * index, os.urandom(10)),
            origin=own,
            replicas=(own,),
            command=("make", "-C", f"/srv/build/{index}", "all"),
            submitter="amelia",
            where='name == "nobody"' if waits else "",
        )
        state = begin("" if waits else own, own)
        if not waits:
            over = states.finish(state, Policy(0), own, state.token, End.DONE, 0)
            assert over is not None
            state = over
        yield submission, state


def fill(node: Node, ended: int, waiting: int) -> None:
    """Write tasks into the database of a node that does not run."""
    key = read_key(node.state / KEY)
    database = sqlite3.connect(node.state / "bzzz.db", isolation_level=None)
    database.execute("BEGIN")
    for submission, state in _states(key, ended, waiting):
        value = encode_record(sign(submission, key), state)
        is_open = state.state is not states.State.ENDED
        database.execute(REPLACE, (submission.task, 1, 0, 0, 0, value, 0, is_open))
    database.execute("COMMIT")
    database.close()


def _median_ms(count: int, work: Any) -> float:
    times = []
    for _ in range(count):
        begin = time.perf_counter()
        work()
        times.append(time.perf_counter() - begin)
    return statistics.median(times) * 1000


def measure(ended: int, waiting: int) -> dict[str, float]:
    """One round."""
    figures = {}
    bzzz = [sys.executable, "-m", "bzzz.cli"]
    with tempfile.TemporaryDirectory(prefix="bzzz-bench-") as place:
        node = Node(Path(place))
        with Children() as children:
            process, figures["empty_start_s"] = node.start(children)
            figures["empty_mb"] = rss_mb(process.pid)
        progress("writing tasks")
        fill(node, ended, waiting)
        progress("starting the node")
        with Children() as children:
            process, figures["start_s"] = node.start(children)

            def run(*words: str) -> None:
                subprocess.run(
                    [*bzzz, *words],
                    check=True,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                )

            where = ("--runtime-dir", str(node.run))
            figures["list_ms"] = _median_ms(10, lambda: node.ask.get("tasks?limit=100"))
            figures["command_ms"] = _median_ms(10, lambda: run("tasks", "--all", *where))
            figures["open_ms"] = _median_ms(10, lambda: run("tasks", *where))
            figures["help_ms"] = _median_ms(10, lambda: run("--version"))
            time.sleep(3)
            figures["memory_mb"] = rss_mb(process.pid)
    return figures


def main() -> None:
    """Print the table."""
    options = arguments(__doc__ or "", 3).parse_args()
    ended, waiting = (10_000, 1000) if options.quick else (ENDED, WAITING)
    rounds = options.rounds or (1 if options.quick else options.default_rounds)
    results = [measure(ended, waiting) for _ in range(rounds)]
    progress()
    print(f"{ended} ended tasks and {waiting} that wait; medians of {rounds} rounds\n")
    rows = []
    for key, name, target in ROWS:
        value = statistics.median(each[key] for each in results)
        verdict = ("", "") if target is None else (str(target), target.verdict(value))
        rows.append((name, number(value), *verdict))
    print(table(("", "median", "wanted", ""), rows))
    write_json(options.json, "stored", results)


if __name__ == "__main__":
    main()
