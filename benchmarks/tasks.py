"""Tasks: three nodes on one machine, beside Dask distributed and Celery with Redis.

    python -m benchmarks.tasks [--rounds 3] [--quick] [--json FILE]

Bzzz's tasks are durable on two of three nodes before they are acknowledged; those of the others are
not durable. What each runs does nothing, but in the row of ``/bin/true``: Bzzz's nodes have an
executor for this benchmark that ends each attempt at once. All nodes and workers are processes of
their own. Dask and Celery are installed into an environment of their own when they are not there;
Celery needs Redis, which is a Debian package (redis-server).
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.common import (
    QUEUES,
    Children,
    Target,
    arguments,
    number,
    progress,
    reference_ms,
    table,
    write_json,
)
from benchmarks.setup import install_queues
from bzzz.cli.client import NodeClient, NodeError, NoNode
from bzzz.client import Result
from bzzz.client.aio import Client

__all__ = ["main"]

PYTHON = QUEUES / ".venv" / "bin" / "python"

TWISTD = "from twisted.scripts.twistd import run; run()"

# Programs that wait for results at one time.
AT_ONCE = 64

# Seconds for nodes to be there.
PATIENCE = 60.0

ROWS = (
    ("bzzz_rate", "Bzzz, on 2 of 3 disks, tasks/s", Target(700, False)),
    ("each_rate", "  with a question for each, tasks/s", None),
    ("bzzz_one_ms", "  one at a time, p50 ms", Target(5, True)),
    ("bzzz_99_ms", "  one at a time, p99 ms", None),
    ("alone_rate", "  on its own disk alone, tasks/s", Target(1500, False)),
    ("alone_one_ms", "  on its own disk alone, p50 ms", None),
    ("true_rate", "  /bin/true, tasks/s", Target(150, False)),
    ("killed_s", "  worker killed, runs elsewhere, s", Target(5, True)),
    ("dask_rate", "Dask distributed, tasks/s", None),
    ("dask_one_ms", "  one at a time, p50 ms", None),
    ("celery_rate", "Celery with Redis, tasks/s", None),
    ("celery_one_ms", "  one at a time, p50 ms", None),
    ("loop_ms", "loop of 1,000,000, ms", None),
)


class Nodes:
    """Some nodes of one cluster.

    :param none: whether they have an executor that does nothing.
    """

    def __init__(self, children: Children, place: Path, count: int, *, none: bool) -> None:
        self.places = [place / f"n{index}" for index in range(count)]
        program = ["-m", "benchmarks.peers.bzzz_tasks"] if none else ["-c", TWISTD]
        self.processes = []
        for index, each in enumerate(self.places):
            each.mkdir(parents=True)
            options = ["--nodaemon", "--pidfile=", "bzzz", "--name", f"n{index}"]
            options += ["--state-dir", str(each / "state"), "--runtime-dir", str(each / "run")]
            options += ["--interface", "lo", "--no-mdns", "--max-tasks", "256"]
            options += ["--executor", "process"]
            options += ["--log-level", "warn"]
            with (each / "log").open("wb") as log:
                self.processes.append(
                    children.start([sys.executable, *program, *options], stdout=log, stderr=log)
                )
        self.asks = [NodeClient(each / "run" / "control.sock") for each in self.places]
        for ask in self.asks:
            _patiently(lambda ask=ask: ask.get("id")["addresses"])
        if count > 1:
            self._found()

    def client(self, index: int = 0) -> Client:
        """The Python API of one."""
        return Client(runtime_dir=self.places[index] / "run")

    def _found(self) -> None:
        first = self.asks[0]
        first.post("cluster", {"name": "bench"})
        token = first.post("tokens", {"uses": len(self.asks)})["token"]
        addresses = first.get("id")["addresses"]
        for ask in self.asks[1:]:
            for _ in ask.stream("join", {"code": token, "at": addresses}):
                pass
        body = {"command": ["true"]}
        for ask in self.asks:
            _patiently(
                lambda ask=ask: (
                    sum(node["fits"] for node in ask.post("fitting", body)["nodes"])
                    == len(self.asks)
                )
            )


def _patiently(what: Any) -> None:
    """Wait until something is so."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        try:
            if what():
                return
        except (NoNode, NodeError, OSError):
            pass
        time.sleep(0.1)
    raise TimeoutError("what was started did not become what it should")


def _listens(port: int) -> bool:
    """Whether somebody does.

    :raises OSError: nobody.
    """
    socket.create_connection(("127.0.0.1", port), 1).close()
    return True


async def _rate(client: Client, count: int) -> float:
    """Tasks a second, from the first submission to the last result."""
    gate = asyncio.Semaphore(AT_ONCE)

    async def one() -> None:
        async with gate:
            result = await client.run(["true"], cpus=0.01)
            if result.exit_status:
                raise ValueError(f"a task ended with {result.exit_status}")

    await asyncio.gather(*(one() for _ in range(AT_ONCE)))
    begin = time.perf_counter()
    await asyncio.gather(*(one() for _ in range(count)))
    return count / (time.perf_counter() - begin)


async def _rate_together(client: Client, count: int) -> float:
    """The same, of tasks that are submitted through one connection."""
    await client.run_many([["true"]] * AT_ONCE, cpus=0)
    begin = time.perf_counter()
    for result in await client.run_many([["true"]] * count, cpus=0):
        if not isinstance(result, Result):
            raise result
        result.check()
    return count / (time.perf_counter() - begin)


async def _one_by_one(client: Client, count: int) -> tuple[float, float]:
    """Milliseconds from submission to result: the median, and what one in a hundred takes."""
    times = []
    for _ in range(count):
        begin = time.perf_counter()
        await client.run(["true"], cpus=0.01)
        times.append((time.perf_counter() - begin) * 1000)
    return statistics.median(times), sorted(times)[int(0.99 * len(times))]


async def _killed(nodes: Nodes) -> float:
    """Seconds from the kill of a worker until its task runs elsewhere."""
    client = nodes.client()
    task = await client.submit(["sh", "-c", "echo began; sleep 60"], where='name != "n0"')
    begun = 0
    killed = 0.0
    async for _, _ in task.output():
        begun += 1
        if begun == 1:
            worker = int((await task.info()).worker_name[1:])
            nodes.processes[worker].send_signal(signal.SIGKILL)
            killed = time.perf_counter()
        else:
            break
    seconds = time.perf_counter() - killed
    await task.cancel()
    return seconds


@contextmanager
def _nodes(count: int, *, none: bool) -> Iterator[Nodes]:
    with tempfile.TemporaryDirectory(prefix="bzzz-bench-") as place, Children() as children:
        yield Nodes(children, Path(place), count, none=none)


def bzzz(many: int, few: int) -> dict[str, float]:
    """One round of Bzzz."""
    figures = {"loop_ms": reference_ms()}
    progress("Bzzz")
    with _nodes(3, none=True) as nodes:
        figures["bzzz_rate"] = asyncio.run(_rate_together(nodes.client(), many))
        figures["each_rate"] = asyncio.run(_rate(nodes.client(), many))
        one_by_one = asyncio.run(_one_by_one(nodes.client(), few))
        figures["bzzz_one_ms"], figures["bzzz_99_ms"] = one_by_one
    with _nodes(1, none=True) as nodes:
        figures["alone_rate"] = asyncio.run(_rate_together(nodes.client(), many))
        figures["alone_one_ms"], _ = asyncio.run(_one_by_one(nodes.client(), few))
    with _nodes(3, none=False) as nodes:
        figures["true_rate"] = asyncio.run(_rate_together(nodes.client(), many // 2))
        figures["killed_s"] = asyncio.run(_killed(nodes))
    return figures


def dask(many: int, few: int) -> dict[str, float]:
    """One round of Dask."""
    progress("Dask")
    said = subprocess.run(
        [str(PYTHON), str(QUEUES / "dask_peer.py"), str(many), str(few)],
        check=True,
        capture_output=True,
        text=True,
        timeout=300,
    )
    return {f"dask_{key}": value for key, value in json.loads(said.stdout).items()}


def celery(many: int, few: int) -> dict[str, float]:
    """One round of Celery with Redis."""
    progress("Celery")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as place, Children() as children:
        redis = ["redis-server", "--bind", "127.0.0.1", "--port", str(port), "--save", ""]
        children.start([*redis, "--dir", place], stdout=subprocess.DEVNULL)
        _patiently(lambda: _listens(port))
        said = subprocess.run(
            [str(PYTHON), str(QUEUES / "celery_peer.py"), str(port), str(many), str(few)],
            check=True,
            capture_output=True,
            text=True,
            timeout=300,
        )
    return {f"celery_{key}": value for key, value in json.loads(said.stdout).items()}


def report(rounds: Sequence[dict[str, float]]) -> str:
    """The table: medians of the rounds."""
    rows = []
    for key, name, target in ROWS:
        values = [each[key] for each in rounds if key in each]
        if not values:
            rows.append((name, "-", "", "not measured"))
            continue
        median = statistics.median(values)
        verdict = "" if target is None else target.verdict(median)
        rows.append((name, number(median), "" if target is None else str(target), verdict))
    return table(("", "median", "wanted", ""), rows)


def main() -> None:
    """Measure, and print the table."""
    options = arguments(__doc__ or "", 3).parse_args()
    many, few = (300, 30) if options.quick else (2000, 200)
    problem = install_queues()
    if problem:
        print(f"Dask and Celery are left out: {problem}", file=sys.stderr)
    redis = shutil.which("redis-server") is not None
    if not redis:
        print(
            "Celery is left out: there is no redis-server, which is a Debian package:"
            " sudo apt-get install redis-server",
            file=sys.stderr,
        )
    rounds = []
    for _ in range(options.rounds or (1 if options.quick else options.default_rounds)):
        figures = bzzz(many, few)
        if not problem:
            figures |= dask(many, few)
            if redis:
                figures |= celery(many, few)
        rounds.append(figures)
    progress()
    print(f"3 nodes on one machine of {os.cpu_count()} cores; medians of {len(rounds)} rounds\n")
    print(report(rounds))
    write_json(options.json, "tasks", rounds)


if __name__ == "__main__":
    main()
