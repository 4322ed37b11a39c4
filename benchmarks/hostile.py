"""A member under attack by strangers: pings of other members, memory and CPU time, Bzzz beside
js-libp2p.

    python -m benchmarks.hostile [--rounds 3] [--quick] [--peers bzzz,js] [--json FILE]

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
"""

from __future__ import annotations

import json
import os
import secrets
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
    JS,
    ROOT,
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
from benchmarks.peers.members import PING_EVERY
from bzzz.identity.keys import PrivateKey
from bzzz.trust.presenting import MAX_PROOF
from bzzz.trust.roster import Roster
from bzzz.trust.statements import Role

__all__ = ["ATTACKS", "Bzzz", "JSLibp2p", "Victim", "main"]

ATTACKS = ("connect", "garbage", "prove", "slow", "guest")

# Connections a second.
RATE = 1000.0

# Seconds of each attack, and after it, in which the node gets rid of what is left of it.
SECONDS = 10.0
QUICK_SECONDS = 4.0
AFTER = 2.0

# Seconds between two looks at the node's memory.
LOOK = 0.05

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
    "peak_mb": "peak +MB",
    "after_mb": "after +MB",
}

Figures = dict[str, float | None]


@contextmanager
def on_core(index: int) -> Iterator[None]:
    """Have what is started in the block, and this process meanwhile, run on one core."""
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[index % len(cores)]})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


class Victim:
    """A node that is attacked, with members that are linked to it.

    :ivar address: where it listens, with its peer ID.
    :ivar pid: of its process.
    :ivar channel: of an invitation that is open, which a stranger would have to find.
    :ivar proofs: a directory of what its guests present; None if it has nobody to present it to.
    """

    address: str
    pid: int
    channel = "1"
    proofs: Path | None = None

    def __init__(self, children: Children, directory: Path) -> None:
        self._children = children
        self._pings = directory / "pings"
        self._attacks = 0
        with on_core(0):
            with self._pings.open("wb") as output:
                self._members = children.start(
                    [sys.executable, "-m", "benchmarks.peers.members"],
                    stdin=subprocess.PIPE,
                    stdout=output,
                    text=True,
                )
            self.start(children, directory)
        deadline = time.monotonic() + 30.0
        while not (said := self._pings.read_text()).endswith("\n"):
            if time.monotonic() > deadline:
                raise TimeoutError("the members do not start")
            time.sleep(0.05)
        self.admit(json.loads(said)["peers"])
        assert self._members.stdin is not None
        self._members.stdin.write(self.address + "\n")
        self._members.stdin.flush()

    def start(self, children: Children, directory: Path) -> None:
        """Start it, and wait until it listens."""
        raise NotImplementedError

    def admit(self, peers: Sequence[str]) -> None:
        """Make its members members."""

    def heard(self, since: float) -> list[list[str]]:
        """The lines of the members about what came after a time, split."""
        lines = [line.split(" ", 2) for line in self._pings.read_text().splitlines()[1:]]
        return [line for line in lines if len(line) == 3 and float(line[1]) >= since]

    def calm(self, seconds: float) -> Figures:
        """Measure while nobody attacks."""
        return self._measure(None, seconds, rss_mb(self.pid))

    def attacked(self, attack: str, seconds: float, rss_before: float) -> Figures:
        """Measure under an attack, from an address that none has come from yet.

        :param rss_before: what memory is counted from, in MB.
        """
        self._attacks += 1
        argv = [sys.executable, "-m", "benchmarks.peers.attacker", attack]
        host, port = self.address.split("/")[2:5:2]
        argv += ["--to", f"{host}:{port}", "--seconds", str(seconds), "--rate", str(RATE)]
        argv += ["--source", f"127.0.0.{self._attacks + 1}", "--channel", self.channel]
        if self.proofs is not None:
            argv += ["--proofs", str(self.proofs)]
        with on_core(1):
            attacker = self._children.start(argv, stdout=subprocess.PIPE, text=True)
            return self._measure(attacker, seconds, rss_before)

    def _measure(
        self, attacker: subprocess.Popen[str] | None, seconds: float, rss_before: float
    ) -> Figures:
        since, cpu = time.time(), cpu_seconds(self.pid)
        peak = rss_mb(self.pid)
        while time.time() - since < seconds if attacker is None else attacker.poll() is None:
            peak = max(peak, rss_mb(self.pid))
            time.sleep(LOOK)
        lasted, cpu = time.time() - since, cpu_seconds(self.pid) - cpu
        time.sleep(AFTER)
        figures = self._of_members(self.heard(since))
        figures |= {
            "cpu": 100 * cpu / lasted,
            "peak_mb": max(peak, rss_mb(self.pid)) - rss_before,
            "after_mb": rss_mb(self.pid) - rss_before,
        }
        if attacker is not None:
            assert attacker.stdout is not None
            told = json.loads(attacker.stdout.read())
            for count in ("arrived", "refused", "proved"):
                figures[count] = told[count] / told["seconds"]
            figures["attacker_cpu"] = 100 * told["cpu"] / told["seconds"]
            figures |= {f"stream {name}": count for name, count in told["streams"].items()}
        return figures

    def _of_members(self, lines: list[list[str]]) -> Figures:
        lost = [line for line in lines if line[0] == "lost"]
        trips = []
        for kind, _, words in lines:
            if kind == "ping":
                trip = float(words)
                while trip > 0:
                    trips.append(trip * 1000)
                    trip = trip - PING_EVERY if trip > PING_EVERY else 0
        dials = [words for kind, _, words in lines if kind == "dial"]
        took = [float(words) * 1000 for words in dials if not words.startswith("failed")]
        trips.sort()
        return {
            "lost": len(lost),
            "pings": len(trips),
            "p50_ms": trips[len(trips) // 2] if trips else None,
            "p99_ms": trips[len(trips) * 99 // 100] if trips else None,
            "longest_ms": trips[-1] if trips else None,
            "dial_ms": statistics.median(took) if took else None,
            "dials_failed": len(dials) - len(took),
        }


class Bzzz(Victim):
    """A whole node that has founded a cluster."""

    name = "bzzz"

    def start(self, children: Children, directory: Path) -> None:
        """See :class:`Victim`."""
        self._run = directory / "node" / "run"
        environment = {**os.environ, "BZZZ_MDNS": "false"}
        node = Node(children, "walnut", directory / "node", environment)
        node.listening()
        self.pid = node.pid
        addresses = node.ask("id")["addresses"]
        self.address = next(one for one in addresses if one.startswith("/ip4/127."))

    def ask(self, *command: str) -> Any:
        """What ``bzzz`` prints."""
        argv = [sys.executable, "-m", "bzzz.cli", "--runtime-dir", str(self._run), *command]
        done = subprocess.run([*argv, "--json"], cwd=ROOT, check=True, stdout=subprocess.PIPE)
        return json.loads(done.stdout)

    def admit(self, peers: Sequence[str]) -> None:
        """Found a cluster, invite somebody, and revoke an admin, who attacks, too."""
        self.ask("cluster", "create", "homelab")
        for index, peer in enumerate(peers):
            self.ask("admit", peer, "--name", f"member-{index}")
        self.channel = str(self.ask("invite", "--token", "--uses", "2")["channel"])
        admin = PrivateKey.generate(os.urandom)
        self.ask("admit", str(admin.peer_id), "--name", "mallory", "--role", "admin")
        file = self._run.parent / "roster.json"
        self.ask("cluster", "export", str(file))
        self.ask("revoke", "mallory", "--yes")
        self.proofs = self._run.parent / "proofs"
        self.proofs.mkdir()
        for index, proof in enumerate(made_proofs(file, admin)):
            (self.proofs / str(index)).write_bytes(proof)


def made_proofs(roster: Path, admin: PrivateKey) -> list[bytes]:
    """What guests present: garbage, and all that a proof may have of what looks like one.

    :param roster: of the cluster, as it was exported while the admin was one.
    """
    from base64 import b64decode

    own = Roster.load([b64decode(each) for each in json.loads(roster.read_text())["statements"]])
    key = PrivateKey.generate(os.urandom)
    now = "2026-11-24T01:02:03Z"
    other = Roster.found(key, "homelab", "walnut", os.urandom(16), now)
    return [
        secrets.token_bytes(1000),
        b'{"statements":[' + b'"",' * (MAX_PROOF // 3 - 10) + b'""]}',
        b'{"statements":' + b"[" * (MAX_PROOF - 20),
        grown(other, key, now),
        grown(own, admin, now),
    ]


def grown(roster: Roster, key: PrivateKey, now: str) -> bytes:
    """A proof with the roster and as many admissions by the key's owner as there is room for."""
    from bzzz.trust.roster_exchange import encode_batch

    encoded = encode_batch(roster.statements())
    size = sum(map(len, encoded)) + 3 * len(encoded) + 20
    while True:
        target = PrivateKey.generate(os.urandom).peer_id
        statement = roster.make_admit(key, target, "accomplice", Role.ADMIN, now)
        roster.add(statement)
        encoded += encode_batch([statement])
        size += len(encoded[-1]) + 3
        if size > MAX_PROOF:
            return json.dumps({"statements": encoded[:-1]}, separators=(",", ":")).encode()


class JSLibp2p(Victim):
    """js-libp2p as it comes."""

    name = "js-libp2p"

    def start(self, children: Children, directory: Path) -> None:
        """See :class:`Victim`."""
        process = children.start(
            ["node", str(JS / "plain.mjs")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.pid = process.pid
        assert process.stdout is not None
        self.address = json.loads(process.stdout.readline())["address"]


PEERS: dict[str, type[Bzzz] | type[JSLibp2p]] = {"bzzz": Bzzz, "js": JSLibp2p}

Results = dict[str, dict[str, list[Figures]]]


def one_round(kind: type[Victim], seconds: float, results: dict[str, list[Figures]]) -> None:
    """All attacks on a fresh node."""
    with tempfile.TemporaryDirectory(prefix="bzzz-bench-") as place, Children() as children:
        victim = kind(children, Path(place))
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
    """The table of one peer."""
    rows = []
    for attack, figures in results.items():
        cells = [number(median(figures, name)) for name in COLUMNS]
        rows.append([attack, *cells])
    return table([peer, *COLUMNS.values()], rows)


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
        attack = max(worst, key=lambda each: worst[each])
        value = worst[attack]
        rows.append([label, str(target), number(value), attack, target.verdict(value)])
    return table(["", "target", "worst", "under", ""], rows)


def main() -> None:
    """Print the tables."""
    assert __doc__ is not None
    parser = arguments(__doc__, 3)
    parser.add_argument("--peers", default="bzzz,js")
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
                one_round(PEERS[peer], seconds, results.setdefault(peer, {}))
            except (OSError, ValueError, subprocess.SubprocessError) as error:
                problems[peer] = str(error)
    progress()
    for peer, measured in results.items():
        if measured:
            print(report(peer, measured), end="\n\n")
    if results.get("bzzz"):
        print(verdicts(results["bzzz"]))
    for peer, problem in problems.items():
        print(f"{peer} failed: {problem}; js-libp2p comes from python -m benchmarks.setup")
    write_json(options.json, "hostile", results)


if __name__ == "__main__":
    main()
