"""Nodes that are attacked, with members that ping them, and what is measured of both.

Enters: which attack, and for how long. Leaves: figures of the members' pings and dials, of the
node's CPU time and memory, and of what the attackers met.
"""

from __future__ import annotations

import json
import os
import secrets
import statistics
import subprocess
import sys
import time
from base64 import b64decode
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from benchmarks.common import JS, ROOT, Children, cpu_seconds, rss_mb
from benchmarks.control import Node
from benchmarks.peers.members import PING_EVERY
from bzzz.identity.keys import PrivateKey
from bzzz.trust.presenting import MAX_PROOF
from bzzz.trust.roster import Roster
from bzzz.trust.roster_exchange import encode_batch
from bzzz.trust.statements import Role

__all__ = ["AFTER", "RATE", "Bzzz", "Figures", "JSLibp2p", "Victim"]

# Connections a second.
RATE = 1000.0

# Seconds after an attack, in which the node gets rid of what is left of it.
AFTER = 2.0

# Seconds between two looks at the node's memory.
LOOK = 0.05

# For the members to start, in seconds.
START_TIMEOUT = 30.0

# What statements are told to have been said at.
NOW = "2026-11-24T01:02:03Z"

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


def go_first(pid: int) -> None:
    """Have a process go before others of this machine, as far as this user may decide that."""
    with suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, pid, -20)
    with suppress(OSError):
        # Where sessions are scheduled against each other, that alone says nothing to the others.
        Path(f"/proc/{pid}/autogroup").write_text("-20")


class Victim:
    """A node that is attacked, with members that are linked to it.

    :param first: have all of them, and the attackers, go before others of this machine, as on a
        machine that does nothing else.
    :ivar address: where it listens, with its peer ID.
    :ivar pid: of its process.
    :ivar channel: of an invitation that is open, which a stranger would have to find.
    :ivar proofs: a directory of what its guests present; None if it has nobody to present it to.
    """

    name: str
    address: str
    pid: int
    channel = "1"
    proofs: Path | None = None

    def __init__(self, children: Children, directory: Path, first: bool = False) -> None:
        self._children = children
        self._first = first
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
        if first:
            go_first(self.pid)
            go_first(self._members.pid)
        deadline = time.monotonic() + START_TIMEOUT
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

    def longest_turn(self) -> float | None:
        """Of its reactor, since this was asked last, in ms of CPU time, if that is known."""
        return None

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
            if self._first:
                go_first(attacker.pid)
            return self._measure(attacker, seconds, rss_before)

    def _measure(
        self, attacker: subprocess.Popen[str] | None, seconds: float, rss_before: float
    ) -> Figures:
        self.longest_turn()
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
            "turn_ms": self.longest_turn(),
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
        self._node = Node(children, "walnut", directory / "node", environment)
        self._node.listening()
        self.pid = self._node.pid
        addresses = self._node.ask("id")["addresses"]
        self.address = next(one for one in addresses if one.startswith("/ip4/127."))

    def longest_turn(self) -> float | None:
        """See :class:`Victim`."""
        _, cpu = self._node.longest_turn()
        return cpu * 1000

    @property
    def log(self) -> str:
        """What it has logged."""
        return (self._run.parent / "log").read_text(errors="replace")

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
    own = Roster.load([b64decode(each) for each in json.loads(roster.read_text())["statements"]])
    key = PrivateKey.generate(os.urandom)
    other = Roster.found(key, "homelab", "walnut", os.urandom(16), NOW)
    return [
        secrets.token_bytes(1000),
        b'{"statements":[' + b'"",' * (MAX_PROOF // 3 - 10) + b'""]}',
        b'{"statements":' + b"[" * (MAX_PROOF - 20),
        grown(other, key),
        grown(own, admin),
    ]


def grown(roster: Roster, key: PrivateKey) -> bytes:
    """A proof with the roster and as many admissions by the key's owner as there is room for."""
    encoded = encode_batch(roster.statements())
    size = sum(map(len, encoded)) + 3 * len(encoded) + 20
    while True:
        target = PrivateKey.generate(os.urandom).peer_id
        statement = roster.make_admit(key, target, "accomplice", Role.ADMIN, NOW)
        roster.add(statement)
        encoded += encode_batch([statement])
        size += len(encoded[-1]) + 3
        if size > MAX_PROOF:
            return json.dumps({"statements": encoded[:-1]}, separators=(",", ":")).encode()


class JSLibp2p(Victim):
    """js-libp2p as it comes."""

    name = "js-libp2p"

    def __init__(self, children: Children, directory: Path, first: bool = False) -> None:
        if not (JS / "node_modules").exists():
            raise FileNotFoundError("js-libp2p is not installed")
        super().__init__(children, directory, first)

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
