"""Bzzz as a service on machines with a real systemd: installed, and asked.

Enters: names of machines. Leaves: a :class:`Service`, the machines, which are booted by whoever
asks first and are gone when the process ends; what their nodes and their systemd say.
"""

from __future__ import annotations

import functools
import json
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from bzzz.cli.client import NodeClient, NodeError, NoNode
from tests.cluster.machine import ROOT, Machine, Ran
from tests.cluster.machines import Machines
from tests.cluster.netns import until

__all__ = [
    "ACCOUNTS",
    "CHECKOUT",
    "INSTALL_TIMEOUT",
    "RUNTIME",
    "WHEELS",
    "Service",
    "ServiceTestCase",
    "ask",
    "client",
    "connected",
    "events",
    "install",
    "invite",
    "invited",
    "log",
    "service",
    "show",
    "typed",
    "with_journals",
]

# Where they are in a machine.
CHECKOUT = "/root/bzzz"
WHEELS = "/root/wheels"

RUNTIME = "/run/bzzz"

INVITED = "/root/invited"

# Seconds.
COMMAND_TIMEOUT = 30.0
INSTALL_TIMEOUT = 240.0
MESH_TIMEOUT = 30.0

# Files that making and removing an account changes, and that have no other content than before.
ACCOUNTS = (
    "/etc/.pwd.lock",
    *(f"/etc/{name}" for name in ("passwd", "group", "shadow", "gshadow", "subuid", "subgid")),
    *(f"/etc/{name}-" for name in ("passwd", "group", "shadow", "gshadow", "subuid", "subgid")),
)


class Service:
    """Machines of one network, each with what an installation takes.

    :ivar all: the machines, in the order of their names.
    :ivar before: the disk of each before Bzzz was installed.
    :ivar installed: by name, how many seconds the first installation took, and what it said.
    """

    def __init__(self, *names: str) -> None:
        self.machines = Machines(*names)
        self.machines.__enter__()
        self.all = list(self.machines.machines.values())
        self.installed: dict[str, tuple[float, str]] = {}
        for number, machine in enumerate(self.all, 1):
            # A documentation prefix (RFC 3849); the network gives IPv4 alone.
            machine.host.ip(*f"address add 2001:db8::{number}/64 dev eth0 nodad".split())
        wheels = Path(tempfile.mkdtemp(prefix="bzzz-wheels-"))
        try:
            # For the machines' Python, which need not be the one of this test.
            made = subprocess.run(
                [str(ROOT / "script" / "wheelhouse"), str(wheels)],
                capture_output=True,
                text=True,
                check=False,
                env={**os.environ, "PYTHON": "/usr/bin/python3"},
            )
            assert made.returncode == 0, made.stderr
            for machine in self.all:
                machine.put(wheels, WHEELS)
                machine.put_checkout(CHECKOUT)
        finally:
            shutil.rmtree(wheels)
        self.before = {machine.name: machine.snapshot(*ACCOUNTS) for machine in self.all}

    def install(self, *machines: Machine) -> None:
        """Install it where that was not done yet, at the same time on all of these."""

        def first(machine: Machine) -> None:
            started = time.monotonic()
            output = install(machine).output
            self.installed[machine.name] = time.monotonic() - started, output

        missing = [machine for machine in machines if machine.name not in self.installed]
        with ThreadPoolExecutor() as pool:
            for _ in pool.map(first, missing):
                pass


_service: Service | None = None


def service(*names: str) -> Service:
    """The machines of these names. Others that were booted before are switched off."""
    global _service  # noqa: PLW0603 - trial has no fixtures that tests share
    if _service is None or [machine.name for machine in _service.all] != list(names):
        if _service is not None:
            _service.machines.close()
        _service = Service(*names)
    return _service


def install(machine: Machine, checkout: str = CHECKOUT, *options: str, check: bool = True) -> Ran:
    """Run the installer, from a checkout in the machine."""
    return machine.run(
        f"{checkout}/install-service.sh",
        *("--wheelhouse", WHEELS),
        *options,
        check=check,
        timeout=INSTALL_TIMEOUT,
    )


def typed(command: str) -> str:
    """What the shell of a machine is given for a command of the guide: root, in the checkout."""
    line = command.removeprefix("sudo ")
    if line.startswith("./install-service.sh"):
        line += f" --wheelhouse {WHEELS}"
    return f"cd {CHECKOUT} && {line}" if line.startswith("./") else line


def invite(machine: Machine, *options: str) -> str:
    """Have ``bzzz invite`` show a code in a machine, and wait there; returns the code."""
    machine.shell(f"bzzz invite {' '.join(options)} >{INVITED} 2>&1 &")

    def shown() -> str | None:
        found = re.search(r"bzzz join (\S+)", invited(machine))
        return found and found[1]

    return until(shown, COMMAND_TIMEOUT, "a code is shown", 0.02)


def invited(machine: Machine) -> str:
    """What the last :func:`invite` has said by now."""
    return machine.run("cat", INVITED, check=False).stdout


def client(machine: Machine) -> NodeClient:
    """What asks the node of a machine, over the socket that is in it: no command has to start."""
    return NodeClient(machine.inside(RUNTIME) / "control.sock")


def ask(machine: Machine, *command: str) -> Any:
    """The JSON that the node of a machine answers to a command of ``bzzz``; None for no answer."""
    try:
        return client(machine).get("/".join(word for word in command if word != "show"))
    except (NoNode, NodeError):
        return None


def connected(machine: Machine) -> list[str]:
    """The names of the nodes that a machine's node is linked to."""
    answer = ask(machine, "peers") or {"peers": []}
    return sorted(peer["name"] or "?" for peer in answer["peers"] if peer["state"] == "connected")


def events(machine: Machine, event: str, **fields: Any) -> list[dict[str, Any]]:
    """The node's events of this kind and these fields, the oldest first."""
    return [
        one
        for one in map(json.loads, client(machine).lines("events", follow=False))
        if one["event"] == event and fields.items() <= one.items()
    ]


def show(machine: Machine, *properties: str) -> dict[str, str]:
    """What systemd says of the unit."""
    said = machine.run("systemctl", "show", "bzzz", "-p", ",".join(properties)).stdout
    return dict(line.split("=", 1) for line in said.splitlines())


def log(machine: Machine, since: float, *arguments: str) -> str:
    """The unit's lines in the journal since a time."""
    said = machine.run(
        *("journalctl", "-u", "bzzz", "--no-pager", "-o", "cat", "--since", f"@{since:.3f}"),
        *arguments,
    )
    return said.stdout.replace("-- No entries --\n", "")


def with_journals(case: type[SynchronousTestCase]) -> type[SynchronousTestCase]:
    """With a test that fails, show the machines' journals."""

    def shown(test: Callable[[Any], None]) -> Callable[[Any], None]:
        @functools.wraps(test)
        def run(self: Any) -> None:
            assert _service is not None
            with _service.machines.shown():
                test(self)

        return run

    for name in [name for name in vars(case) if name.startswith("test_")]:
        setattr(case, name, shown(getattr(case, name)))
    return case


class ServiceTestCase(SynchronousTestCase):
    """What tests of the service have in common."""

    timeout = 900.0

    def until_whole(self, *machines: Machine, timeout: float = MESH_TIMEOUT) -> None:
        """Wait until each of these is linked to each other of them, once, and to nobody else."""

        def whole(machine: Machine) -> bool:
            return connected(machine) == sorted(one.name for one in machines if one is not machine)

        for machine in machines:
            until(partial(whole, machine), timeout, f"{machine.name} has its peers", 0.2)

    def figure(self, what: str, seconds: float, limit: float) -> None:
        """Print a measured time, and fail if it is above what is promised."""
        print(f"\n      {what}: {seconds:.2f} s (promised: {limit:g})", end=" ", flush=True)
        self.assertLessEqual(seconds, limit, what)
