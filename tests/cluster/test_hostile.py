"""A hostile peer on the network of a real node: it is dropped, and nobody else suffers.

Measured for each attack: the node's memory, and the round trips of a well-behaved peer's pings. The
attacker yields the CPU to the node, as it would have a machine of its own; and the node and its
friend go before the other tests that run at the same time, which are no part of the attack.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from tests.cluster.attacks import ATTACKS
from tests.cluster.netns import Network, until, without_namespaces
from tests.cluster.nodes import ROOT, NodeProcess
from tests.needs import needs

# What is promised.
MEMORY_WITHIN = 20 * 1024
PINGS_WITHIN = 0.05

# Seconds of one attack; of the slow one, longer than a handshake may take.
SECONDS = 4.0
SLOW_SECONDS = 13.0

# What the machine does to a ping happens once; what an attack does to it, each time.
TRIES = 3

# Of the node and of who pings it, and of the attacker.
FIRST = -10
LAST = 10

# Seconds in which the node may take an attacker for a peer that is still to be pinged.
AFTER = 1.0


@needs(without_namespaces())
class HostileTests(SynchronousTestCase):
    """One attack after the other on one node, which has a friend."""

    def setUp(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="bzzz-hostile-"))
        self.addCleanup(shutil.rmtree, self.directory, ignore_errors=True)
        network = Network("walnut", "ironwood", "mallory")
        network.__enter__()
        self.addCleanup(network.close)
        self.friend = network.hosts["ironwood"]
        self.mallory = network.hosts["mallory"]
        self.node = NodeProcess(network.hosts["walnut"], self.directory / "walnut", niceness=FIRST)
        self.other = NodeProcess(self.friend, self.directory / "ironwood")
        self.node.start()
        self.node.listening()
        self.other.start()
        until(lambda: self.node.connected() == ["ironwood"], 30.0, "a friend")
        self.peer_id, self.port = self.node.identity()
        self.pid = int(self.node.status()["pid"])
        self.pings = self.directory / "round-trips"
        self.start_pinger()

    def start_pinger(self) -> None:
        address = f"/ip4/{self.node.host.address}/tcp/{self.port}/p2p/{self.peer_id}"
        argv = ["nice", "-n", str(FIRST), sys.executable, "-m", "tests.cluster.pinger", address]
        with self.pings.open("wb") as output:
            self.friend.start(argv, output, {"PYTHONPATH": str(ROOT)})
        until(lambda: self.pings.stat().st_size, 30.0, "the first ping")

    def memory(self) -> int:
        """The node's, in KiB."""
        status = Path(f"/proc/{self.pid}/status").read_text("ascii")
        found = re.search(r"VmRSS:\s+(\d+) kB", status)
        assert found is not None
        return int(found[1])

    def round_trips(self, since: float) -> list[float]:
        """Of the pings that were answered since, and of the one that waits; in seconds."""
        lines = self.pings.read_text("ascii").splitlines()
        lost = [line for line in lines if line.startswith("lost")]
        self.assertEqual(lost, [])
        answered = [tuple(map(float, line.split())) for line in lines if line.count(" ") == 1]
        silence = time.time() - answered[-1][0] - 0.1
        return [rtt for at, rtt in answered if at >= since] + ([silence] if silence > 0 else [])

    def attack(self, name: str, seconds: float) -> tuple[dict[str, Any], int]:
        """Returns what the attacker tells, and the most memory that the node had."""
        argv = [*("nice", "-n", str(LAST), sys.executable, "-m", "tests.cluster.attacks", name)]
        argv += [self.node.host.address, self.port, str(seconds)]
        output = self.directory / name
        most = 0
        with output.open("wb") as file:
            process = self.mallory.start(argv, file, {"PYTHONPATH": str(ROOT)})
            while process.poll() is None:
                most = max(most, self.memory())
                time.sleep(0.02)
        try:
            told: dict[str, Any] = json.loads(output.read_bytes().splitlines()[-1])
        except (ValueError, IndexError):
            self.fail(f"{name}: {output.read_text()}")
        return told, most

    def test_attacks(self) -> None:
        """Whatever it does, memory stays within 20 MB and the pings of others within 50 ms."""
        time.sleep(2.0)
        calm = self.round_trips(0.0)
        before = self.memory()
        print(
            f"\n  {'attack':16} {'links':>6} {'dropped':>7} {'sent MB':>8} {'memory +MB':>10}",
            end="",
        )
        print(f" {'pings':>6} {'median ms':>9} {'p99':>7} {'longest':>8}")
        self.row("none", {"attempts": 0, "dropped": 0, "sent": 0}, 0, calm)
        worst = {}
        for name in (*ATTACKS, "slow"):
            for _ in range(TRIES):
                since = time.time()
                told, most = self.attack(name, SLOW_SECONDS if name == "slow" else SECONDS)
                time.sleep(AFTER)
                trips = self.round_trips(since)
                self.row(name, told, max(most, self.memory()) - before, trips)
                worst[name] = (max(most, self.memory()) - before, max(trips))
                if max(trips) <= PINGS_WITHIN:
                    break
        self.assertEqual(self.node.connected().count("ironwood"), 1)
        log = self.node.log
        print(f"  the node logged {len(log.splitlines())} lines")
        self.assertNotIn("Traceback", log)
        self.assertEqual(
            {name for name, (grown, _) in worst.items() if grown > MEMORY_WITHIN}, set()
        )
        self.assertEqual({name for name, (_, trip) in worst.items() if trip > PINGS_WITHIN}, set())

    def row(self, name: str, told: dict[str, Any], grown: int, trips: list[float]) -> None:
        ordered = sorted(trips)
        pick = [ordered[len(ordered) // 2], ordered[len(ordered) * 99 // 100], ordered[-1]]
        median, p99, longest = (each * 1000 for each in pick)
        print(
            f"  {name:16} {told['attempts']:>6} {told['dropped']:>7} {told['sent'] / 1e6:>8.1f} "
            f"{grown / 1024:>10.1f} {len(trips):>6} {median:>9.2f} {p99:>7.2f} {longest:>8.2f}",
            flush=True,
        )
