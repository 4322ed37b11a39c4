"""Pubsub: publish to delivered, and messages a second, Bzzz beside js-libp2p and py-libp2p.

    python -m benchmarks.pubsub [--rounds 3] [--quick] [--peers bzzz,js,py] [--json FILE]

10 and 20 nodes, half of them in each of two processes, every one linked to every other on loopback,
all in one topic; messages have 1 KB and their authors take turns. Every delivery to another node
counts, by the clock that processes of one machine share. For the latencies 5 messages a second are
published; for the throughput as many as go, with a few under way: those that all nodes got, by the
time until the last was delivered. The peers take turns in each round, printed are medians.
"""

from __future__ import annotations

import json
import select
import statistics
import subprocess
import time
from collections.abc import Sequence
from typing import Any

from benchmarks.common import (
    PEERS,
    Children,
    Target,
    arguments,
    number,
    progress,
    table,
    write_json,
)

__all__ = ["main"]

PROCESSES = 2

# Bytes of a message.
SIZE = 1024

# Messages a second for the latencies: half of what the slowest of them can do.
RATE = 5.0

# For the throughput, messages of one process that have not reached all of its own nodes: enough to
# keep it busy, few enough to wait in no queue.
WINDOW = 8

# Seconds in which gossipsub's heartbeats make the meshes what they stay.
SETTLE = 4.0

# Seconds for the last messages to be delivered.
DRAIN = 3.0

TIMEOUT = 60.0

# More py-libp2p nodes than this do not become ready.
MOST = {"py": 10}

ROWS: tuple[tuple[int, str, str, Target], ...] = (
    (10, "p50_ms", "10 nodes: delivered p50 ms", Target(4, True)),
    (10, "p99_ms", "10 nodes: delivered p99 ms", Target(12, True)),
    (10, "per_second", "10 nodes: messages/s", Target(200, False)),
    (10, "lost_percent", "10 nodes: lost in the flood, %", Target(0, True)),
    (20, "p50_ms", "20 nodes: delivered p50 ms", Target(8, True)),
    (20, "p99_ms", "20 nodes: delivered p99 ms", Target(30, True)),
    (20, "per_second", "20 nodes: messages/s", Target(80, False)),
    (20, "lost_percent", "20 nodes: lost in the flood, %", Target(0, True)),
)

Figures = dict[str, float]


class Worker:
    """One of the processes."""

    def __init__(self, children: Children, peer: str, count: int) -> None:
        self._process = children.start(
            [*PEERS[peer]("gossip"), str(count)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def tell(self, do: str, **what: Any) -> None:
        """Have it do something."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"do": do, **what}) + "\n")
        self._process.stdin.flush()

    def answer(self, timeout: float = TIMEOUT) -> dict[str, Any]:
        """What it says next.

        :raises TimeoutError: nothing.
        """
        assert self._process.stdout is not None
        # Each answer is one line and nothing comes unasked, so the buffer has nothing of the next.
        if not select.select([self._process.stdout], [], [], timeout)[0]:
            raise TimeoutError(f"no answer within {timeout:g} s")
        line = self._process.stdout.readline()
        if not line:
            raise ChildProcessError("it has ended")
        answer: dict[str, Any] = json.loads(line)
        return answer


def both(workers: Sequence[Worker], do: str, **what: Any) -> list[dict[str, Any]]:
    """Have all do something, and what they answer."""
    for worker in workers:
        worker.tell(do, **what)
    return [worker.answer() for worker in workers]


def measure(peer: str, size: int, count: int, seconds: float) -> Figures:
    """One round of one peer with ``size`` nodes.

    :param count: messages for the latencies.
    :param seconds: of the flood.
    :raises TimeoutError: some nodes do not find each other.
    """
    with Children(kill=True) as children:
        workers = [Worker(children, peer, size // PROCESSES) for _ in range(PROCESSES)]
        addresses = [worker.answer()["addresses"] for worker in workers]
        everybody = [one for some in addresses for one in some]
        # Each dials those before it.
        at = 0
        for worker, some in zip(workers, addresses, strict=True):
            pairs = [
                (index, address)
                for index in range(len(some))
                for address in everybody[: at + index]
            ]
            worker.tell("dial", pairs=pairs)
            worker.answer()
            at += len(some)
        both(workers, "ready", peers=size - 1)
        time.sleep(SETTLE)
        both(workers, "publish", count=40, interval=0.1, delay=0, size=SIZE)
        time.sleep(DRAIN)
        both(workers, "report")

        each = PROCESSES / RATE
        for index, worker in enumerate(workers):
            worker.tell(
                "publish",
                count=count // PROCESSES,
                interval=each,
                delay=each * index / PROCESSES,
                size=SIZE,
            )
        for worker in workers:
            worker.answer()
        time.sleep(DRAIN / 2)
        latencies = sorted(ms for said in both(workers, "report") for ms in said["ms"])

        sent = both(workers, "flood", seconds=seconds, window=WINDOW, size=SIZE)
        time.sleep(DRAIN)
        said = both(workers, "report")
        delivered = sum(one["delivered"] for one in said) / (size - 1)
        wall = max(one["last"] for one in said) - min(one["first"] for one in sent)
        published = sum(one["sent"] for one in sent)
    return {
        "p50_ms": latencies[len(latencies) // 2],
        "p99_ms": latencies[len(latencies) * 99 // 100],
        "delivered_percent": len(latencies) / (count * (size - 1)) * 100,
        "per_second": delivered / wall,
        "lost_percent": max(0.0, (1 - delivered / published) * 100),
    }


Results = dict[str, dict[int, list[Figures]]]


def report(results: Results, peers: Sequence[str]) -> str:
    """The table."""
    rows = []
    for size, figure, label, target in ROWS:
        medians: dict[str, float | None] = {}
        for peer in peers:
            rounds = results.get(peer, {}).get(size, [])
            medians[peer] = statistics.median(one[figure] for one in rounds) if rounds else None
        ours = medians.get("bzzz")
        others = [value for peer, value in medians.items() if peer != "bzzz" and value is not None]
        ratio = "-"
        if ours and others:
            best = min(others) if target.at_most else max(others)
            ratio = f"{best / ours if target.at_most else ours / best:.1f}x"
        verdict = "-" if ours is None else target.verdict(ours)
        cells = [number(medians[peer]) for peer in peers]
        rows.append([label, *cells, ratio, str(target), verdict])
    return table(["", *peers, "better by", "target", ""], rows)


def main() -> None:
    """Print the table."""
    assert __doc__ is not None
    parser = arguments(__doc__, 3)
    parser.add_argument("--peers", default="bzzz,js,py")
    parser.add_argument("--sizes", default="10,20")
    options = parser.parse_args()
    rounds = options.rounds or (1 if options.quick else options.default_rounds)
    count, seconds = (20, 3.0) if options.quick else (100, 8.0)
    peers = options.peers.split(",")
    results: Results = {}
    problems = []
    for turn in range(rounds):
        for size in map(int, options.sizes.split(",")):
            for peer in peers:
                if size > MOST.get(peer, size):
                    continue
                progress(f"round {turn + 1}: {size} nodes of {peer}")
                try:
                    figures = measure(peer, size, count, seconds)
                except (OSError, ValueError, IndexError, TimeoutError) as error:
                    problems.append(f"{peer}, {size} nodes: {error}")
                else:
                    results.setdefault(peer, {}).setdefault(size, []).append(figures)
    progress()
    print(report(results, peers))
    for problem in problems:
        print(problem)
    write_json(options.json, "pubsub", results)


if __name__ == "__main__":
    main()
