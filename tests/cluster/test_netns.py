"""The hosts that the cluster tests run on, by themselves."""

from __future__ import annotations

import sys
import tempfile
from typing import IO

from twisted.trial.unittest import SynchronousTestCase

from tests.cluster.netns import SUBNET, Host, Network, command, until, without_namespaces
from tests.needs import needs

# Joins a multicast group and answers each packet that comes, multicast or not.
SERVER = """
import socket, struct
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(("", 5999))
s.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP,
             struct.pack("4s4s", socket.inet_aton("224.0.0.250"), socket.inet_aton("%s")))
print("ready", flush=True)
while True:
    data, sender = s.recvfrom(100)
    s.sendto(data, sender)
"""
CLIENT = """
import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(0.5)
try:
    s.sendto(b"hello", (sys.argv[1], 5999))
    print(s.recvfrom(100)[1][0])
except OSError as error:
    print(type(error).__name__)
"""


@needs(without_namespaces("nft"))
class NetworkTests(SynchronousTestCase):
    """What the harness promises."""

    def network(self) -> tuple[Network, Host, Host]:
        network = Network("walnut", "ironwood")
        network.__enter__()
        self.addCleanup(network.close)
        return network, network.hosts["walnut"], network.hosts["ironwood"]

    def serve(self, host: Host) -> None:
        output: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed by the cleanup
        self.addCleanup(output.close)
        host.start([sys.executable, "-u", "-c", SERVER % host.address], output)

        def ready() -> bool:
            output.seek(0)
            return b"ready" in output.read()

        until(ready, 10, "the server listens")

    def ask(self, host: Host, address: str) -> str:
        return host.run(sys.executable, "-c", CLIENT, address).strip()

    def test_faults(self) -> None:
        """Hosts reach each other, by multicast too, unless that is taken from them."""
        _, walnut, ironwood = self.network()
        self.serve(ironwood)
        self.assertEqual(self.ask(walnut, ironwood.address), ironwood.address)
        self.assertEqual(self.ask(walnut, "224.0.0.250"), ironwood.address)

        ironwood.plug(False)
        self.assertIn(self.ask(walnut, ironwood.address), ("TimeoutError", "OSError"))
        ironwood.plug(True)
        until(lambda: self.ask(walnut, ironwood.address) == ironwood.address, 5, "healed")

        ironwood.move(77)
        self.assertEqual(ironwood.address, f"{SUBNET}77")
        self.assertEqual(self.ask(walnut, ironwood.address), ironwood.address)

        walnut.block_multicast()
        self.assertNotEqual(self.ask(walnut, "224.0.0.250"), ironwood.address)
        self.assertEqual(self.ask(walnut, ironwood.address), ironwood.address)

    def test_leaves_nothing(self) -> None:
        """Processes and namespaces are gone afterwards, and the machine's own are untouched."""
        before = command("ip", "link")
        network, walnut, _ = self.network()
        with tempfile.TemporaryFile() as output:
            process = walnut.start(["sleep", "100"], output)
            network.close()
        self.assertIsNotNone(process.returncode)
        self.assertNotIn(walnut.namespace, command("ip", "netns", "list"))
        self.assertEqual(command("ip", "link"), before)
