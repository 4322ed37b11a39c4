"""A host with two networks, in network namespaces: each network hears its own addresses only."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from tests.cluster.netns import PREFIX, command, without_namespaces
from tests.needs import find_tool, needs

ROOT = Path(__file__).resolve().parent.parent.parent

# Long enough for two announcements on a busy machine.
SECONDS = 4.0


@needs(without_namespaces())
class TwoNetworksTests(SynchronousTestCase):
    """Real processes, real multicast, IPv4 and IPv6."""

    def setUp(self) -> None:
        self.prefix = f"{PREFIX}{os.getpid()}-mdns-"
        for host in ("middle", "left", "right"):
            command("ip", "netns", "add", self.prefix + host)
            self.addCleanup(command, "ip", "netns", "del", self.prefix + host, check=False)
            self.ip(host, "link", "set", "lo", "up")
        for number, other in ((1, "left"), (2, "right")):
            device = f"eth{number}"
            peer = ("peer", "name", "eth0", "netns", self.prefix + other)
            self.ip("middle", "link", "add", device, "type", "veth", *peer)
            for host, name, last in (("middle", device, 1), (other, "eth0", 2)):
                # Parts of TEST-NET-2, and a unique local prefix.
                v4 = f"198.51.100.{number * 64 + last}/26"
                self.ip(host, "address", "add", v4, "dev", name)
                self.ip(host, "address", "add", f"fd0{number}::{last}/64", "dev", name, "nodad")
                self.ip(host, "link", "set", name, "up")

    def ip(self, host: str, *arguments: str) -> None:
        command("ip", "-n", self.prefix + host, *arguments)

    def start(self, host: str, seed: int) -> subprocess.Popen[str]:
        tool = find_tool("ip")
        assert tool is not None
        arguments = ["-m", "tests.discovery.mdns_process", str(seed), str(4000 + seed)]
        process = subprocess.Popen(
            [
                *(tool, "netns", "exec", self.prefix + host),
                *(sys.executable, *arguments, str(SECONDS)),
            ],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.addCleanup(self.end, process)
        return process

    def end(self, process: subprocess.Popen[str]) -> None:
        if process.poll() is None:
            process.kill()
        process.communicate()

    def found(self, process: subprocess.Popen[str]) -> dict[str, list[str]]:
        output, _ = process.communicate(timeout=SECONDS + 20)
        lines: list[dict[str, Any]] = [json.loads(line) for line in output.splitlines()]
        return {line["name"]: line["addresses"] for line in lines if "name" in line}

    def test_addresses(self) -> None:
        """Who asks on one network never learns an address on the other; nobody hears through."""
        processes = [
            self.start(host, seed) for seed, host in enumerate(("middle", "left", "right"), 1)
        ]
        middle, left, right = (self.found(process) for process in processes)
        self.assertEqual(left, {"node1": ["/ip4/198.51.100.65/tcp/4001", "/ip6/fd01::1/tcp/4001"]})
        self.assertEqual(
            right, {"node1": ["/ip4/198.51.100.129/tcp/4001", "/ip6/fd02::1/tcp/4001"]}
        )
        self.assertEqual(
            middle,
            {
                "node2": ["/ip4/198.51.100.66/tcp/4002", "/ip6/fd01::2/tcp/4002"],
                "node3": ["/ip4/198.51.100.130/tcp/4003", "/ip6/fd02::2/tcp/4003"],
            },
        )
