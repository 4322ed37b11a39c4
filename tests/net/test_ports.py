"""Which TCP ports a node tries."""

from __future__ import annotations

import random

from twisted.trial.unittest import SynchronousTestCase

from bzzz.net.ports import PORT_TRIES, PORTS, choose_ports, ephemeral_ports


class PortTests(SynchronousTestCase):
    """Which ports are tried for listening."""

    def test_outside_the_kernels_range(self) -> None:
        """The kernel's range for outgoing connections is kept out of, wherever it lies."""
        for ephemeral in (range(32768, 61000), range(1024, 40000), range(50000, 65536), range(0)):
            ports = choose_ports(random.Random(1), ephemeral)
            self.assertEqual(len(set(ports)), PORT_TRIES)
            self.assertEqual([port for port in ports if port in ephemeral], [])
            self.assertEqual([port for port in ports if port not in PORTS], [])

    def test_no_other_ports(self) -> None:
        """Where the kernel's range is all there is, ports in it are tried."""
        for ephemeral in (range(1024, 65536), range(32768, 65535 + 1)):
            ports = choose_ports(random.Random(1), ephemeral)
            self.assertEqual(len(set(ports)), PORT_TRIES)
            self.assertEqual([port for port in ports if port not in PORTS], [])

    def test_this_machine(self) -> None:
        """The kernel's own range is read, or nothing is assumed."""
        self.assertLessEqual(len(ephemeral_ports()), 65536)
