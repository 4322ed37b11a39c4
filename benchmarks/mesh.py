"""Whole nodes by the dozen: how soon they are one mesh, and what it costs. Serf beside them.

    python -m benchmarks.mesh [--sizes 3,10,30,50,100] [--idle 30] [--rounds 1] [--quick]
                              [--json FILE]

Every node is a ``twistd bzzz`` process with its defaults, mDNS on, on the loopback interface of a
network namespace that is made for this run; without root it is the machine's own loopback, and the
traffic cannot be told. All of a size are started at once, and each size goes through this:

=================== ===============================================================================
full mesh           from when the last one listens until the last one has its last link identified
change heard        a node finds a model in an Ollama that was not there before: from when it tells
                    until the last of the others has heard; median and worst of some nodes
kill noticed        SIGKILL to one after the other, until the last of the others has lost it; worst
idle CPU            of a core, mean over the nodes, over some seconds, broadcasts included
memory              resident, the largest of the nodes
idle traffic        bytes a second on the interface, divided by the nodes
longest turn        of any node's reactor, in CPU time, in each of these
a loop              how fast the machine itself is just before; a shared one changes by the hour
=================== ===============================================================================

Serf's agents have the LAN profile and join the first one's address; the change is a user event. The
poller asks one node at a time, so it costs next to nothing. Every process is ended, also by Ctrl-C,
and in a namespace the kernel sees to it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from benchmarks import serf
from benchmarks.common import (
    Children,
    Target,
    arguments,
    cpu_seconds,
    number,
    progress,
    reference_ms,
    rss_mb,
    table,
    write_json,
)
from benchmarks.control import Node, when

__all__ = ["main"]

SIZES = (3, 10, 30, 50, 100)

# Serf's agents all start at once, too; what it does with more is not in question.
SERF_MOST = 50

# Seconds after which the mesh will not become full any more.
MESH_TIMEOUT = 120.0

# Seconds in which a mesh that became full comes to rest: mDNS repeats itself for 3 s, members ask
# each other for members.
SETTLE = 10.0

# A node looks for models each 60 s, and a few seconds more when the machine is busy.
CHANGE_TIMEOUT = 75.0

# Nodes whose capabilities change, and nodes that are killed.
CHANGES = 3
KILLS = 3
KILL_TIMEOUT = 20.0

# Ports of the Ollamas.
OLLAMA_PORT = 21900

Figures = dict[str, float | None]

# Figure, its words, its target by size.
BZZZ_ROWS: tuple[tuple[str, str, dict[int, float]], ...] = (
    ("start_s", "all listen after the first start, s", {}),
    ("full_mesh_s", "last listens to full mesh, s", {3: 0.5, 10: 1, 30: 2, 50: 5, 100: 15}),
    ("change_ms", "change heard by all, ms", {50: 50}),
    ("change_worst_ms", "  the worst", {}),
    ("noticed_s", "kill noticed by all, s, worst", dict.fromkeys(SIZES, 1.0)),
    ("cpu_percent", "idle CPU, % of a core", {3: 0.5, 50: 2}),
    ("rss_mb", "memory, MB, the largest", {3: 64, 100: 80}),
    ("traffic", "idle traffic, bytes/s a node", {}),
    ("turn_mesh_ms", "longest turn, mesh forms, CPU ms", dict.fromkeys(SIZES, 10.0)),
    ("turn_idle_ms", "longest turn, idle, CPU ms", dict.fromkeys(SIZES, 10.0)),
    ("turn_change_ms", "longest turn, change, CPU ms", dict.fromkeys(SIZES, 10.0)),
    ("turn_kill_ms", "longest turn, kill, CPU ms", dict.fromkeys(SIZES, 10.0)),
    ("reference_ms", "a loop of 1,000,000 in Python, CPU ms", {}),
)
SERF_ROWS: tuple[tuple[str, str, dict[int, float]], ...] = (
    ("start_s", "all listen after the first start, s", {}),
    ("full_mesh_s", "last listens to all see all, s", {}),
    ("change_ms", "user event heard by all, ms", {}),
    ("change_worst_ms", "  the worst", {}),
    ("noticed_s", "kill seen failed by all, s", {}),
    ("cpu_percent", "idle CPU, % of a core", {}),
    ("rss_mb", "memory, MB, the largest", {}),
    ("traffic", "idle traffic, bytes/s a node", {}),
    ("reference_ms", "a loop of 1,000,000 in Python, CPU ms", {}),
)


def loopback_bytes() -> int | None:
    """Bytes that went over this namespace's loopback; None where others use it, too."""
    if os.environ.get("BENCHMARK_NAMESPACE") != "1":
        return None
    for line in Path("/proc/net/dev").read_text().splitlines():
        name, _, counters = line.partition(":")
        if name.strip() == "lo":
            return int(counters.split()[0])
    return None


def idle(pids: Sequence[int], seconds: float) -> Figures:
    """What processes use while nobody asks anything of them."""
    before, traffic = [cpu_seconds(pid) for pid in pids], loopback_bytes()
    start = time.monotonic()
    time.sleep(seconds)
    wall = time.monotonic() - start
    after, traffic_after = [cpu_seconds(pid) for pid in pids], loopback_bytes()
    used = [late - early for early, late in zip(before, after, strict=True)]
    return {
        "cpu_percent": statistics.mean(used) / wall * 100,
        "cpu_worst_percent": max(used) / wall * 100,
        "rss_mb": max(rss_mb(pid) for pid in pids),
        "rss_mean_mb": statistics.mean(rss_mb(pid) for pid in pids),
        "traffic": None
        if traffic is None or traffic_after is None
        else (traffic_after - traffic) / wall / len(pids),
    }


def until(true: Callable[[], bool], timeout: float, interval: float = 0.05) -> bool:
    """Whether it becomes true in time."""
    deadline = time.monotonic() + timeout
    while not true():
        if time.monotonic() > deadline:
            return False
        time.sleep(interval)
    return True


# -- Bzzz


class Ollama(BaseHTTPRequestHandler):
    """An Ollama with one model."""

    def do_GET(self) -> None:
        """What it has."""
        body = json.dumps({"models": [{"name": "benchmark:latest"}]}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Not to the terminal."""


@contextlib.contextmanager
def ollamas(count: int) -> Iterator[None]:
    """As many of them, each on a port of its own."""
    servers = []
    try:
        for index in range(count):
            server = ThreadingHTTPServer(("127.0.0.1", OLLAMA_PORT + index), Ollama)
            servers.append(server)
            threading.Thread(target=server.serve_forever, daemon=True).start()
        yield
    finally:
        for server in servers:
            server.shutdown()
            server.server_close()


def environment(directory: Path, port: int) -> dict[str, str]:
    """Of a node: nothing that this user has configured, and an Ollama to look for."""
    kept = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(("BZZZ_", "XDG_", "BENCHMARK_"))
    }
    return {**kept, "HOME": str(directory), "OLLAMA_HOST": f"127.0.0.1:{port}"}


class Mesh:
    """Nodes, all of which should be linked."""

    def __init__(self, nodes: Sequence[Node]) -> None:
        self.nodes = list(nodes)
        self.ids: dict[str, str] = {}

    def wait_linked(self, timeout: float) -> bool:
        """Until every node is linked to all others. It asks one until it is, then the next."""
        deadline = time.monotonic() + timeout

        def linked(node: Node) -> bool:
            return int(node.ask("status")["peers_connected"]) >= len(self.nodes) - 1

        for node in self.nodes:
            if not until(lambda node=node: linked(node), deadline - time.monotonic()):  # type: ignore[misc]
                return False
        return True

    def longest_turn_ms(self) -> float:
        """Of all nodes since this was asked last, in CPU time."""
        return max(node.longest_turn()[1] for node in self.nodes) * 1000

    def full_since(self) -> float:
        """When the last link was told of, in seconds since the epoch."""
        last = 0.0
        for node in self.nodes:
            first: dict[str, float] = {}
            for event in node.events():
                if event["event"] == "connected":
                    first.setdefault(event["peer_id"], when(event["time"]))
            last = max(last, *first.values())
        return last

    def changes(self, changing: Sequence[Node]) -> list[float]:
        """Have the capabilities of some nodes change; seconds until all others had heard of each.

        :raises TimeoutError: some have not.
        """
        since = time.time()
        told: dict[str, float] = {}

        def all_told() -> bool:
            for node in changing:
                for event in node.events():
                    if _is_change(event, "sent", since):
                        told.setdefault(self.ids[node.name], when(event["time"]))
            return len(told) == len(changing)

        with ollamas(len(changing)):
            if not until(all_told, CHANGE_TIMEOUT, 1.0):
                raise TimeoutError("no node has told of a new model")
            time.sleep(1.0)
        heard: dict[str, list[float]] = {peer: [] for peer in told}
        for node in self.nodes:
            first: dict[str, float] = {}
            for event in node.events():
                if _is_change(event, "received", since) and event["peer_id"] in told:
                    first.setdefault(event["peer_id"], when(event["time"]))
            for peer, at in first.items():
                heard[peer].append(at - told[peer])
        short = [peer for peer, delays in heard.items() if len(delays) < len(self.nodes) - 1]
        if short:
            raise TimeoutError(f"a change of {short} was not heard by all within a second")
        return [max(delays) for delays in heard.values()]

    def kill(self, victim: Node) -> float:
        """Kill one; seconds until all others have lost it.

        :raises TimeoutError: they have not.
        """
        self.nodes.remove(victim)
        since = time.time()
        victim.process.kill()
        victim.process.wait()
        lost = dict.fromkeys((node.name for node in self.nodes), 0.0)
        deadline = time.monotonic() + KILL_TIMEOUT
        time.sleep(1.0)
        for node in self.nodes:
            while not lost[node.name]:
                for event in node.events():
                    if (
                        event["event"] == "lost"
                        and event["peer_id"] == self.ids[victim.name]
                        and when(event["time"]) >= since - 0.001
                    ):
                        lost[node.name] = when(event["time"])
                        break
                else:
                    if time.monotonic() > deadline:
                        raise TimeoutError(f"{node.name} has not lost {victim.name}")
                    time.sleep(0.2)
        return max(lost.values()) - since


def _is_change(event: dict[str, Any], direction: str, since: float) -> bool:
    return (
        event["event"] == "capability_broadcast"
        and event["direction"] == direction
        and event["changed"]
        and when(event["time"]) >= since
    )


def measure_bzzz(size: int, idle_seconds: float, problems: list[str]) -> Figures:
    """All figures of one size; what cannot be had is among the problems."""
    figures: Figures = {"reference_ms": reference_ms()}
    place = Path(tempfile.mkdtemp(prefix="bzzz-bench-"))
    try:
        with Children(kill=True) as children:
            started = time.time()
            nodes = []
            for index in range(size):
                directory = place / f"n{index}"
                port = OLLAMA_PORT + index if index < CHANGES else 1
                nodes.append(Node(children, f"n{index}", directory, environment(directory, port)))
            progress(f"bzzz {size}: starting")
            listening = max(node.listening() for node in nodes)
            mesh = Mesh(nodes)
            # What their start took is not of interest here.
            mesh.longest_turn_ms()
            figures["start_s"] = listening - started
            progress(f"bzzz {size}: meshing")
            if not mesh.wait_linked(MESH_TIMEOUT):
                raise TimeoutError(f"not full after {MESH_TIMEOUT:.0f} s")
            figures["full_mesh_s"] = mesh.full_since() - listening
            figures["turn_mesh_ms"] = mesh.longest_turn_ms()
            mesh.ids = {node.name: node.ask("id")["peer_id"] for node in nodes}
            time.sleep(SETTLE)
            progress(f"bzzz {size}: idle")
            mesh.longest_turn_ms()
            figures.update(idle([node.pid for node in nodes], idle_seconds))
            figures["turn_idle_ms"] = mesh.longest_turn_ms()
            progress(f"bzzz {size}: a change")
            try:
                changes = mesh.changes(nodes[:CHANGES])
            except TimeoutError as error:
                problems.append(f"bzzz {size}: {error}")
            else:
                figures["change_ms"] = statistics.median(changes) * 1000
                figures["change_worst_ms"] = max(changes) * 1000
                figures["turn_change_ms"] = mesh.longest_turn_ms()
            progress(f"bzzz {size}: kills")
            mesh.longest_turn_ms()
            noticed = [mesh.kill(nodes[-1 - turn]) for turn in range(min(KILLS, size - 2))]
            figures["noticed_s"] = max(noticed)
            figures["turn_kill_ms"] = mesh.longest_turn_ms()
    except (OSError, TimeoutError) as error:
        problems.append(f"bzzz {size}: {error}")
    finally:
        shutil.rmtree(place, ignore_errors=True)
    return figures


# -- Serf


def measure_serf(size: int, idle_seconds: float, problems: list[str]) -> Figures:
    """All figures of one size of Serf."""
    figures: Figures = {"reference_ms": reference_ms()}
    agents: list[serf.Agent] = []
    try:
        with Children(kill=True) as children:
            progress(f"serf {size}: starting")
            started = time.monotonic()
            # The first has to listen before others can join it.
            agents.append(serf.Agent(children, 0))
            agents[0].connect()
            agents += [serf.Agent(children, number) for number in range(1, size)]
            for agent in agents[1:]:
                agent.connect()
            listening = time.monotonic()
            figures["start_s"] = listening - started
            for agent in agents:
                if not until(lambda agent=agent: agent.alive() == size, MESH_TIMEOUT, 0.01):  # type: ignore[misc]
                    raise TimeoutError("not all see all")
            figures["full_mesh_s"] = time.monotonic() - listening
            time.sleep(SETTLE)
            progress(f"serf {size}: idle")
            figures.update(idle([agent.process.pid for agent in agents], idle_seconds))
            for agent in agents:
                agent.stream()
            times = []
            teller = serf.Agent(None, 1)
            teller.connect()
            for turn in range(CHANGES):
                progress(f"serf {size}: a user event")
                teller.user_event(f"change{turn}")
                heard = serf.watch(agents, {"Name": f"change{turn}"}, None, KILL_TIMEOUT)
                if heard is None:
                    raise TimeoutError("a user event was not heard by all")
                times.append(heard)
            teller.close()
            figures["change_ms"] = statistics.median(times) * 1000
            figures["change_worst_ms"] = max(times) * 1000
            progress(f"serf {size}: a kill")
            victim = agents[-1]
            victim.process.kill()
            failed = serf.watch(
                agents[:-1], {"Event": "member-failed"}, victim.name, KILL_TIMEOUT + 20
            )
            if failed is None:
                raise TimeoutError("a kill was not seen by all")
            figures["noticed_s"] = failed
    except (OSError, RuntimeError, TimeoutError) as error:
        problems.append(f"serf {size}: {error}")
    finally:
        for agent in agents:
            agent.close()
    return figures


# -- all


Results = dict[str, dict[int, list[Figures]]]


def report(
    results: dict[int, list[Figures]], rows: Sequence[tuple[str, str, dict[int, float]]]
) -> str:
    """A table: a line for each figure, a column for each size."""
    lines = []
    for figure, label, targets in rows:
        cells = []
        for size, rounds in results.items():
            found = [value for one in rounds if (value := one.get(figure)) is not None]
            median = statistics.median(found) if found else None
            cell = number(median)
            if median is not None and size in targets:
                target = Target(targets[size], True)
                cell += f" ({target}: {target.verdict(median)})"
            cells.append(cell)
        lines.append([label, *cells])
    return table(["", *(str(size) for size in results)], lines)


def in_namespace() -> int | None:
    """Run this again in a network namespace of its own; the exit code, or None if it cannot be.

    In a PID namespace, too: when its first process ends, the kernel ends all others.
    """
    if os.environ.get("BENCHMARK_NAMESPACE") or os.geteuid() != 0 or not shutil.which("unshare"):
        return None
    unshare = ["unshare", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"]
    command = [*unshare, sys.executable, "-m", "benchmarks.mesh", *sys.argv[1:]]
    environ = {**os.environ, "BENCHMARK_NAMESPACE": "1"}
    inside = subprocess.Popen(command, env=environ)
    while True:
        try:
            return inside.wait()
        except KeyboardInterrupt:
            pass  # the process inside got it as well, and ends in order


def main() -> None:
    """Print the tables."""
    code = in_namespace()
    if code is not None:
        sys.exit(code)
    if os.environ.get("BENCHMARK_NAMESPACE") == "1":
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    else:
        print("Without root: on the machine's own loopback, and the traffic cannot be told.")
    options = _options()
    rounds = options.rounds or options.default_rounds
    sizes = [
        int(size)
        for size in (options.sizes or ("3,10" if options.quick else "")).split(",")
        if size
    ]
    sizes = sizes or list(SIZES)
    seconds = options.idle or (5.0 if options.quick else 30.0)
    results: Results = {"bzzz": {}, "serf": {}}
    problems: list[str] = []
    try:
        for _ in range(rounds):
            for size in sizes:
                figures = measure_bzzz(size, seconds, problems)
                results["bzzz"].setdefault(size, []).append(figures)
                if size <= SERF_MOST and serf.available() and not options.no_serf:
                    figures = measure_serf(size, seconds, problems)
                    results["serf"].setdefault(size, []).append(figures)
    except KeyboardInterrupt:
        problems.append("interrupted")
    progress()
    print("Bzzz, by the number of nodes")
    print(report(results["bzzz"], BZZZ_ROWS))
    if results["serf"]:
        print("\nSerf, by the number of agents")
        print(report(results["serf"], SERF_ROWS))
    elif not serf.available():
        print("\nSerf is not installed: python -m benchmarks.setup")
    for problem in problems:
        print(problem)
    write_json(options.json, "mesh", results)
    sys.exit(1 if problems else 0)


def _options() -> argparse.Namespace:
    assert __doc__ is not None
    parser = arguments(__doc__, 1)
    parser.add_argument("--sizes", help="how many nodes [default: 3,10,30,50,100]")
    parser.add_argument("--idle", type=float, help="seconds to be idle for [default: 30]")
    parser.add_argument("--no-serf", action="store_true", help="Bzzz alone")
    return parser.parse_args()


if __name__ == "__main__":
    main()
