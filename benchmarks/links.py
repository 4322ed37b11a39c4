"""Links: dialling, pings, streams and throughput, Bzzz beside js-libp2p and py-libp2p.

    python -m benchmarks.links [--rounds 3] [--quick] [--peers bzzz,js,py] [--json FILE]

Each measurement runs against a server in a process of its own on loopback, the peers taking turns
in each round, so that whatever else the machine does meets all of them. Printed are medians of the
rounds, how much better Bzzz is than the better of the others, and Bzzz's target with its verdict.
A target is a figure that was asked for beside what the others did on one machine. On a slower one
Bzzz may reach it by as many times more than the better of them as that was.
The foreign peers come from ``python -m benchmarks.setup``; one that is not there is left out, and
said to be.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.common import (
    PEERS,
    Children,
    Target,
    arguments,
    cpu_seconds,
    number,
    progress,
    rss_mb,
    table,
    write_json,
)
from benchmarks.control import Node

__all__ = ["main"]


@dataclass(frozen=True)
class Row:
    """A figure: the mode that measures it, how much of it, and what Bzzz has to reach.

    :ivar beside: what the better of the others did where the target comes from; None where a target
        is no matter of speed.
    """

    mode: str
    amount: int
    quick: int
    figure: str
    label: str
    target: Target
    beside: float | None

    @property
    def times(self) -> float | None:
        """How many times better than the better of the others the target is."""
        if self.beside is None:
            return None
        return self.target.better(self.target.value, self.beside)

    def verdict(self, ours: float, times: float | None) -> str:
        """In a word or three, from the figure and from how many times better it is."""
        if self.times is None or times is None or self.target.met(ours):
            return self.target.verdict(ours)
        return "met by ratio" if times >= self.times else "MISSED"


ROWS = (
    Row("dial", 300, 60, "per_second", "dials/s, one after the other", Target(300, False), 121),
    Row("dial", 300, 60, "cpu_ms", "CPU ms a dial, both sides", Target(3, True), 14),
    Row("dial-together", 50, 50, "per_second", "dials/s, 50 at once", Target(500, False), 300),
    Row("ping", 2000, 500, "p50_ms", "ping p50 ms", Target(0.25, True), 0.24),
    Row("ping", 2000, 500, "p99_ms", "ping p99 ms", Target(0.6, True), 1.1),
    Row("streams", 1000, 200, "p50_ms", "stream to first answer p50 ms", Target(0.6, True), 1.6),
    Row(
        "throughput",
        200_000_000,
        50_000_000,
        "mb_per_second",
        "one stream MB/s",
        Target(250, False),
        233,
    ),
    Row("hold", 2, 2, "rss_mb", "idle with 2 links, MB (Bzzz: the daemon)", Target(64, True), None),
)

# Seconds for one measurement.
TIMEOUT = 90.0

# Seconds after which an idle node's memory is what it stays at.
SETTLE = 3.0


def first_line(process: subprocess.Popen[str]) -> dict[str, Any]:
    """What a peer says first; raises ValueError when it ends instead."""
    assert process.stdout is not None
    answer: dict[str, Any] = json.loads(process.stdout.readline())
    return answer


def measure(command: list[str], mode: str, amount: int) -> dict[str, float]:
    """One measurement in two fresh processes.

    :raises CalledProcessError: one of them failed.
    """
    with Children() as children:
        server = children.start(
            [*command, "serve"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        address = first_line(server)["address"]
        start_cpu = cpu_seconds(server.pid)
        client = children.start(
            [*command, mode, address, str(amount)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        if mode == "hold":
            first_line(client)
            time.sleep(SETTLE)
            return {"rss_mb": rss_mb(server.pid)}
        said, _ = client.communicate(timeout=TIMEOUT)
        if client.returncode:
            raise subprocess.CalledProcessError(client.returncode, client.args)
        result: dict[str, float] = json.loads(said.splitlines()[-1])
        if "client_cpu_ms" in result:
            # The client dials 20 times before it measures.
            served = (cpu_seconds(server.pid) - start_cpu) * 1000 / (amount + 20)
            result["cpu_ms"] = result["client_cpu_ms"] + served
        return result


def daemon_memory(links: int) -> dict[str, float]:
    """Memory of a whole ``twistd bzzz`` with mDNS, on loopback, that others are linked to."""
    with tempfile.TemporaryDirectory(prefix="bzzz-bench-") as place, Children() as children:
        node = Node(children, "idle", Path(place, "idle"), dict(os.environ))
        node.listening()
        addresses = node.ask("id")["addresses"]
        address = next(one for one in addresses if one.startswith("/ip4/127."))
        client = children.start(
            [*PEERS["bzzz"]("peer"), "hold", address, str(links)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        first_line(client)
        time.sleep(SETTLE)
        return {"rss_mb": rss_mb(node.pid)}


def one(peer: str, mode: str, amount: int) -> dict[str, float]:
    """One measurement of one peer."""
    if peer == "bzzz" and mode == "hold":
        return daemon_memory(amount)
    return measure(PEERS[peer]("peer" if peer == "bzzz" else "bench"), mode, amount)


Results = dict[str, dict[str, list[dict[str, float]]]]


def median(results: Results, peer: str, row: Row) -> float | None:
    """The median of a figure; None where it was not measured."""
    found = [
        result[row.figure]
        for result in results.get(peer, {}).get(row.mode, [])
        if row.figure in result
    ]
    return statistics.median(found) if found else None


def report(results: Results, peers: Sequence[str]) -> str:
    """The table."""
    rows = []
    for row in ROWS:
        medians = {peer: median(results, peer, row) for peer in peers}
        ours = medians.get("bzzz")
        others = [value for peer, value in medians.items() if peer != "bzzz" and value is not None]
        times = None
        if ours and others:
            best = min(others) if row.target.at_most else max(others)
            times = row.target.better(ours, best)
        verdict = "-" if ours is None else row.verdict(ours, times)
        cells = [number(medians[peer]) for peer in peers]
        asked = "" if row.times is None else f"{row.times:.1f}x"
        better = "-" if times is None else f"{times:.1f}x"
        rows.append([row.label, *cells, better, str(row.target), asked, verdict])
    return table(["", *peers, "better by", "target", "or", ""], rows)


def main() -> None:
    """Print the table."""
    assert __doc__ is not None
    parser = arguments(__doc__, 3)
    parser.add_argument("--peers", default="bzzz,js,py")
    options = parser.parse_args()
    rounds = options.rounds or (1 if options.quick else options.default_rounds)
    peers = options.peers.split(",")
    results: Results = {}
    problems: dict[tuple[str, str], str] = {}
    modes = dict.fromkeys((row.mode, row.quick if options.quick else row.amount) for row in ROWS)
    for turn in range(rounds):
        for mode, amount in modes:
            for peer in peers:
                progress(f"round {turn + 1}: {mode} {peer}")
                try:
                    figures = one(peer, mode, amount)
                except (OSError, ValueError, subprocess.SubprocessError) as error:
                    problems[peer, mode] = str(error)
                else:
                    results.setdefault(peer, {}).setdefault(mode, []).append(figures)
    progress()
    print(report(results, peers))
    for (peer, mode), problem in problems.items():
        print(f"{peer} {mode} failed: {problem}")
    write_json(options.json, "links", results)


if __name__ == "__main__":
    main()
