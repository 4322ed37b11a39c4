"""Links: dialling, pings, streams and throughput, Bzzz beside js-libp2p and py-libp2p in the same
run.

    python -m benchmarks.links [--rounds 3] [--peers bzzz,js,py]

Each measurement runs against a server in a process of its own on loopback; printed are medians of
the rounds. The foreign peers are set up by ``benchmarks/peers/setup``; one that is not there is
left out, and the table says so.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
PEERS = {
    "bzzz": [sys.executable, "-m", "benchmarks.peers.bzzz_peer"],
    "js": ["node", str(HERE / "peers" / "js" / "bench.mjs")],
    "py": [
        str(HERE / "peers" / "py" / ".venv" / "bin" / "python"),
        str(HERE / "peers" / "py" / "bench.py"),
    ],
}

# Mode, argument, the figure to show, its unit, and what Bzzz has to reach.
ROWS = (
    ("dial", "300", "per_second", "dials/s, one after the other", ">= 300"),
    ("dial", "300", "cpu_ms", "CPU ms a dial, both sides", "<= 3"),
    ("dial-together", "50", "per_second", "dials/s, 50 at once", ">= 500"),
    ("ping", "2000", "p50_ms", "ping p50 ms", "<= 0.25"),
    ("ping", "2000", "p99_ms", "ping p99 ms", "<= 0.6"),
    ("streams", "1000", "p50_ms", "stream to first answer p50 ms", "<= 0.6"),
    ("throughput", "200000000", "mb_per_second", "one stream MB/s", ">= 250"),
)
TIMEOUT = 120.0


def measure(command: list[str], mode: str, amount: str) -> dict[str, float]:
    """One measurement in two fresh processes; raises CalledProcessError when one fails."""
    server = subprocess.Popen(
        [*command, "serve"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert server.stdin is not None and server.stdout is not None
    try:
        address = json.loads(server.stdout.readline())["address"]
        client = subprocess.run(
            [*command, mode, address, amount],
            stdout=subprocess.PIPE,
            text=True,
            check=True,
            timeout=TIMEOUT,
        )
        result: dict[str, float] = json.loads(client.stdout.splitlines()[-1])
        server.stdin.close()
        told = server.stdout.readline()
        if "client_cpu_ms" in result and told:
            served = json.loads(told)["cpu"] - json.loads(told).get("start_cpu", 0.0)
            result["cpu_ms"] = result["client_cpu_ms"] + served * 1000 / (int(amount) + 20)
        return result
    finally:
        if not server.stdin.closed:
            server.stdin.close()
        try:
            server.wait(10)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peers", default="bzzz,js,py")
    options = parser.parse_args()
    columns = options.peers.split(",")
    results: dict[tuple[str, str], list[dict[str, float]]] = {}
    problems: dict[str, str] = {}
    modes = list(dict.fromkeys((mode, amount) for mode, amount, *_ in ROWS))
    for _ in range(options.rounds):
        for mode, amount in modes:
            for peer in columns:
                if peer in problems:
                    continue
                try:
                    results.setdefault((peer, mode), []).append(measure(PEERS[peer], mode, amount))
                except (OSError, ValueError, KeyError, subprocess.SubprocessError) as error:
                    problems[peer] = f"{mode}: {error}"
    print(f"{'':34}" + "".join(f"{peer:>12}" for peer in columns) + f"{'target':>12}")
    for mode, _, figure, label, target in ROWS:
        cells = []
        for peer in columns:
            values: list[Any] = [
                result[figure] for result in results.get((peer, mode), []) if figure in result
            ]
            cells.append(f"{statistics.median(values):12.2f}" if values else f"{'-':>12}")
        print(f"{label:34}" + "".join(cells) + f"{target:>12}")
    for peer, problem in problems.items():
        print(f"{peer} left out: {problem}")


if __name__ == "__main__":
    main()
