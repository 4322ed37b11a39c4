"""Several hosts on one machine: network namespaces on a bridge, for tests of real daemons.

Enters: names of hosts, and what is to go wrong. Leaves: processes that run there. Nothing touches
the machine's own interfaces: the bridge too is in a namespace of its own. What a :class:`Network`
made is gone when its ``with`` block ends, and what an earlier run left behind by dying is gone when
the next begins. Only processes that were started here are ever ended.
"""

from __future__ import annotations

import itertools
import os
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self, TypeVar

from tests.needs import find_tool, without_root, without_tools

__all__ = ["Host", "Network", "until", "without_namespaces"]

PREFIX = "bzzz-test-"

# TEST-NET-2 (RFC 5737): no real network has these addresses.
SUBNET = "198.51.100."
BRIDGE = "br0"
INTERFACE = "eth0"

# Seconds that a process gets after SIGTERM.
TERM_TIMEOUT = 5.0

# For an `ip` command, in seconds. Removing a namespace waits for the kernel.
COMMAND_TIMEOUT = 30.0

_counter = itertools.count(1)
Found = TypeVar("Found")


def without_namespaces(*tools: str) -> str | None:
    """The reason why hosts cannot be made, or None.

    :param tools: what the test needs beyond.
    """
    return without_root() or without_tools("ip", *tools)


def until(
    found: Callable[[], Found | None], timeout: float, what: str, interval: float = 0.02
) -> Found:
    """The first true result of ``found``; raises :class:`AssertionError` after ``timeout``."""
    end = time.monotonic() + timeout
    while True:
        if result := found():
            return result
        if time.monotonic() > end:
            raise AssertionError(f"after {timeout:g} s still not: {what}")
        time.sleep(interval)


def command(*argv: str, check: bool = True, stdin: str | None = None) -> str:
    """Run a command to its end; raises :class:`AssertionError` with what it said."""
    tool = find_tool(argv[0])
    assert tool is not None, f"{argv[0]} not found"
    done = subprocess.run(
        [tool, *argv[1:]],
        input=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=COMMAND_TIMEOUT,
        check=False,
    )
    if check and done.returncode:
        raise AssertionError(f"{' '.join(argv)}: {done.stdout.strip()}")
    return done.stdout


class Host:
    """One host of a :class:`Network`, which makes it.

    :ivar address: its IPv4 address.
    """

    def __init__(self, network: Network, name: str, namespace: str, number: int) -> None:
        self.name = name
        self.namespace = namespace
        self.address = f"{SUBNET}{number}"
        self._network = network
        self._port = f"port{number}"
        self._processes: list[subprocess.Popen[bytes]] = []

    def set_up(self) -> None:
        """Make the namespace and plug it into the bridge."""
        command("ip", "netns", "add", self.namespace)
        command(
            *("ip", "-n", self._network.switch, "link", "add", self._port, "type", "veth"),
            *("peer", "name", INTERFACE, "netns", self.namespace),
        )
        command("ip", "-n", self._network.switch, "link", "set", self._port, "master", BRIDGE, "up")
        self.ip("link", "set", "lo", "up")
        self.ip("link", "set", INTERFACE, "up")
        self._give_address()

    def _give_address(self) -> None:
        self.ip("address", "add", f"{self.address}/24", "dev", INTERFACE)
        # Multicast needs a route.
        self.ip("route", "add", "default", "dev", INTERFACE)

    def ip(self, *arguments: str) -> str:
        """Run ``ip`` in this host."""
        return command("ip", "-n", self.namespace, *arguments)

    def run(self, *argv: str, stdin: str | None = None) -> str:
        """Run a command in this host to its end and return what it printed."""
        return command("ip", "netns", "exec", self.namespace, *argv, stdin=stdin)

    def start(
        self, argv: Sequence[str], output: IO[Any], env: Mapping[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        """Start a process in this host; it is ended with the network."""
        tool = find_tool("ip")
        assert tool is not None
        # ip replaces itself by the command, so the pid is the command's.
        process = subprocess.Popen(
            [tool, "netns", "exec", self.namespace, *argv],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=None if env is None else {**os.environ, **env},
        )
        self._processes.append(process)
        return process

    def plug(self, plugged: bool) -> None:
        """Put the cable into the bridge, or pull it out at that end."""
        state = "up" if plugged else "down"
        command("ip", "-n", self._network.switch, "link", "set", self._port, state)

    def move(self, number: int) -> None:
        """Change the address, as a new lease would."""
        # In this order: the old one would take the new one, its secondary, with it.
        self.ip("address", "del", f"{self.address}/24", "dev", INTERFACE)
        self.address = f"{SUBNET}{number}"
        self._give_address()

    def block_multicast(self) -> None:
        """Drop all multicast but what IPv6 itself needs, both ways."""
        rules = "".join(
            f"chain {hook} {{ type filter hook {hook} priority 0; "
            "ip daddr 224.0.0.0/4 drop; ip6 daddr ff00::/8 udp dport 1-65535 drop; }\n"
            for hook in ("input", "output")
        )
        self.run("nft", "-f", "-", stdin=f"table inet no_multicast {{ {rules} }}")

    def degrade(self, *netem: str) -> None:
        """Have what leaves this host be lost or late, such as ``"delay", "20ms"``; no argument
        ends it."""
        if netem:
            self.run("tc", "qdisc", "replace", "dev", INTERFACE, "root", "netem", *netem)
        else:
            self.run("tc", "qdisc", "del", "dev", INTERFACE, "root")

    def tear_down(self) -> None:
        """End what was started here and remove the namespace."""
        running = [process for process in self._processes if process.poll() is None]
        for process in running:
            process.terminate()
        for process in running:
            try:
                process.wait(TERM_TIMEOUT)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        command("ip", "netns", "del", self.namespace, check=False)


class Network:
    """Hosts on one bridge; a context manager.

    :ivar switch: the namespace of the bridge.
    :ivar hosts: by name.
    """

    def __init__(self, *names: str) -> None:
        self._prefix = f"{PREFIX}{os.getpid()}-{next(_counter)}-"
        self.switch = f"{self._prefix}sw"
        self.hosts = {
            name: Host(self, name, f"{self._prefix}{name}", number)
            for number, name in enumerate(names, 1)
        }

    def __enter__(self) -> Self:
        _sweep()
        try:
            command("ip", "netns", "add", self.switch)
            # The kernel's snooping would hold back groups that nobody has asked for yet.
            bridge = ("type", "bridge", "mcast_snooping", "0")
            command("ip", "-n", self.switch, "link", "add", BRIDGE, *bridge)
            command("ip", "-n", self.switch, "link", "set", BRIDGE, "up")
            for host in self.hosts.values():
                host.set_up()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Remove everything. A second time does nothing."""
        for host in self.hosts.values():
            host.tear_down()
        command("ip", "netns", "del", self.switch, check=False)


def _sweep() -> None:
    """Remove the namespaces of runs whose process is gone."""
    for line in command("ip", "netns", "list").splitlines():
        name = line.split()[0]
        if left_behind(name):
            command("ip", "netns", "del", name, check=False)


def left_behind(name: str) -> bool:
    """Whether it is a name that a :class:`Network` gave, in a process that is gone."""
    pid = name.removeprefix(PREFIX).split("-")[0]
    return name.startswith(PREFIX) and pid.isdecimal() and not Path("/proc", pid).exists()
