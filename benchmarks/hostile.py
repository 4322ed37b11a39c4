"""A member under attack by strangers: pings of other members, memory and CPU time, Bzzz beside
js-libp2p.

    python -m benchmarks.hostile [--rounds 3] [--quick] [--peers bzzz,js] [--first] [--json FILE]

A stranger opens 1000 connections a second for ten seconds, each time from one address that is no
member's, and does harm with those that it is let have (:mod:`benchmarks.peers.attacker`). Meanwhile
two members ping the node 50 times a second each, and a third dials it each second. Bzzz is a whole
node that founded a cluster and has an invitation open; js-libp2p, which has no members, is one
with its own limits and with identify and ping. Both have each attack in each round, after a calm
time of the same length. Printed are medians of the rounds.

The node and its members are pinned to one core, and the attackers to another one: a remote attacker
does not take the node's CPU time away. On loopback the kernel handles a packet on the core of who
sent it, so its work for what arrives is the attackers', too. Each ping that took longer than the
time between two stands for those that would have been sent meanwhile.

Of the columns, ``arrived`` counts connections that TCP has made, ``refused`` those that were closed
before the node said a word, ``proved`` handshakes that were completed; ``turn`` is the longest turn
of the node's reactor in CPU time; memory is counted from before the first attack.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

from benchmarks.common import (
    Children,
    Target,
    arguments,
    number,
    progress,
    reference_ms,
    rss_mb,
    table,
    write_json,
)
from benchmarks.victims import AFTER, Bzzz, Figures, JSLibp2p, Victim

__all__ = ["ATTACKS", "MEMORY", "PINGS", "main"]

ATTACKS = ("connect", "garbage", "prove", "slow", "guest")

# Seconds of each attack.
SECONDS = 10.0
QUICK_SECONDS = 4.0

# What is promised, under each attack.
PINGS = Target(20.0, True)
MEMORY = Target(20.0, True)

# The figures of a row, in their order in the table, with what is above the column.
COLUMNS = {
    "arrived": "arrived/s",
    "refused": "refused/s",
    "proved": "proved/s",
    "p50_ms": "ping p50",
    "p99_ms": "p99",
    "longest_ms": "longest",
    "dial_ms": "dial p50",
    "dials_failed": "failed",
    "cpu": "CPU %",
    "turn_ms": "turn",
    "peak_mb": "peak +MB",
    "after_mb": "after +MB",
}

PEERS: dict[str, type[Bzzz] | type[JSLibp2p]] = {"bzzz": Bzzz, "js": JSLibp2p}

Results = dict[str, dict[str, list[Figures]]]


def one_round(
    kind: type[Victim], first: bool, seconds: float, results: dict[str, list[Figures]]
) -> None:
    """All attacks on a fresh node."""
    with tempfile.TemporaryDirectory(prefix="bzzz-bench-") as place, Children() as children:
        victim = kind(children, Path(place), first)
        time.sleep(AFTER)
        results.setdefault("none", []).append(victim.calm(seconds))
        before = rss_mb(victim.pid)
        for attack in ATTACKS:
            progress(f"{kind.__name__}: {attack}")
            results.setdefault(attack, []).append(victim.attacked(attack, seconds, before))


def median(figures: list[Figures], name: str) -> float | None:
    """The median of a figure; None where it was not measured."""
    found = [value for each in figures if (value := each.get(name)) is not None]
    return statistics.median(found) if found else None


def report(peer: str, results: dict[str, list[Figures]]) -> str:
    """The table of one peer, and what came of the streams of guests."""
    rows = []
    for attack, figures in results.items():
        cells = [number(median(figures, name)) for name in COLUMNS]
        rows.append([attack, *cells])
    lines = [table([PEERS[peer].name, *COLUMNS.values()], rows)]
    guests = results.get("guest", [])
    streams = sorted({name for each in guests for name in each if name.startswith("stream ")})
    if streams:
        told = [f"{name[7:]} {number(median(guests, name))}" for name in streams]
        lines.append(f"streams of guests: {', '.join(told)}")
    lost = sum(each["lost"] or 0 for figures in results.values() for each in figures)
    if lost:
        lines.append(f"links of members that were lost: {lost:g}")
    return "\n".join(lines)


def verdicts(results: dict[str, list[Figures]]) -> str:
    """What Bzzz has to reach, and whether it does."""
    rows = []
    for name, target, label in (
        ("p99_ms", PINGS, "ping p99 ms under each attack"),
        ("peak_mb", MEMORY, "more memory, MB"),
    ):
        worst = {
            attack: value
            for attack, figures in results.items()
            if attack != "none" and (value := median(figures, name)) is not None
        }
        if worst:
            attack = max(worst, key=lambda each: worst[each])
            value = worst[attack]
            rows.append([label, str(target), number(value), attack, target.verdict(value)])
    return table(["", "target", "worst", "under", ""], rows)


def main() -> None:
    """Print the tables."""
    assert __doc__ is not None
    parser = arguments(__doc__, 3)
    parser.add_argument("--peers", default="bzzz,js")
    parser.add_argument(
        "--first", action="store_true", help="go before others of this machine; takes root"
    )
    options = parser.parse_args()
    rounds = options.rounds or (1 if options.quick else options.default_rounds)
    seconds = QUICK_SECONDS if options.quick else SECONDS
    results: Results = {}
    problems: dict[str, str] = {}
    if len(os.sched_getaffinity(0)) < 2:
        print("There is one core only: node and attackers take each other's time.")
    for _ in range(rounds):
        for peer in options.peers.split(","):
            try:
                one_round(PEERS[peer], options.first, seconds, results.setdefault(peer, {}))
            except (OSError, ValueError, subprocess.SubprocessError) as error:
                problems[peer] = str(error)
    progress()
    print(f"a loop of 1,000,000 takes {number(reference_ms())} ms here", end="\n\n")
    for peer, measured in results.items():
        if measured:
            print(report(peer, measured), end="\n\n")
    if results.get("bzzz"):
        print(verdicts(results["bzzz"]))
    for peer, problem in problems.items():
        mend = "; python -m benchmarks.setup gets js-libp2p" if peer == "js" else ""
        print(f"{peer} failed: {problem}{mend}")
    write_json(options.json, "hostile", results)


if __name__ == "__main__":
    main()
