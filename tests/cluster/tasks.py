"""Tasks on machines, seen from outside: asked about over control sockets, and found as processes.

Enters: machines of :mod:`tests.cluster.machine`. Leaves: what their nodes answer, the processes of
a task, what an attempt has printed. A command in a machine takes up to a second, and this a few
milliseconds. All machines have the clock of this one.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from bzzz.cli.client import NodeError, NoNode
from bzzz.client import Client
from tests.cluster.machine import Machine
from tests.cluster.service import RUNTIME, client

__all__ = ["Beats", "beating", "beats", "fits", "kill", "node", "processes", "verdicts"]

ATTEMPTS = "/var/lib/bzzz/tasks"

# Seconds between two lines of what prints its beats; a machine that tests may be slower.
BEAT = 0.05

# A command that prints its token, the time again and again, and that it is done.
_BEATING = f"""
echo $BZZZ_FENCING_TOKEN
for beat in $(seq $BEATS); do date +%s.%N; sleep {BEAT}; done
echo done by $BZZZ_FENCING_TOKEN
"""


def node(machine: Machine) -> Client:
    """What asks the node of a machine, over the socket that is in it."""
    return Client(machine.inside(RUNTIME))


def verdicts(machine: Machine) -> dict[str, bool]:
    """The names of the members that a machine's node could give a task to, and whether it would
    now; none of a node that does not answer."""
    try:
        judged = client(machine).post("fitting", {"command": ["true"]})["nodes"]
    except (NoNode, NodeError):
        return {}
    return {each["name"]: each["fits"] for each in judged}


def fits(machine: Machine) -> list[str]:
    """Those to which it would."""
    return sorted(name for name, fit in verdicts(machine).items() if fit)


# -- processes


def processes(machine: Machine, text: str) -> list[int]:
    """The processes of a machine that have this text in their environment or command line, by
    their numbers here. A task's ID is in the environment of all that it starts."""
    found = []
    wanted = text.encode()
    for pid in _in_machine(machine):
        try:
            told = (_proc(pid, "environ").read_bytes(), _proc(pid, "cmdline").read_bytes())
        except OSError:  # it has ended
            continue
        if any(wanted in each for each in told):
            found.append(pid)
    return found


def kill(machine: Machine) -> float:
    """End the node of a machine, and nothing else, without a chance to say goodbye; returns when.

    Systemd starts it again, 10 s later if nobody asks for it sooner.
    """
    number = str(node(machine).status().pid)
    for pid in _in_machine(machine):
        status = _proc(pid, "status").read_text().splitlines()
        (numbers,) = (line.split()[1:] for line in status if line.startswith("NSpid:"))
        if numbers[-1] == number:
            at = time.time()
            os.kill(pid, signal.SIGKILL)
            return at
    raise AssertionError(f"{machine.name} has no process {number}")


def _in_machine(machine: Machine) -> Iterator[int]:
    namespace = os.readlink(_proc(machine.init, "ns/pid"))
    for each in Path("/proc").iterdir():
        if each.name.isdecimal():
            try:
                there = os.readlink(each / "ns" / "pid") == namespace
            except OSError:  # it has ended
                continue
            if there:
                yield int(each.name)


def _proc(pid: int, what: str) -> Path:
    return Path("/proc", str(pid), what)


# -- what shows when an attempt ran


class Beats(NamedTuple):
    """What an attempt of :func:`beating` has printed.

    :ivar token: as it was told.
    :ivar times: when it was alive, in seconds since the epoch.
    :ivar is_done: whether it came to its end.
    """

    token: int
    times: list[float]
    is_done: bool


def beating(seconds: float) -> list[str]:
    """A command that tells when it is alive, for at least so many seconds."""
    return ["sh", "-c", _BEATING.replace("$BEATS", str(round(seconds / BEAT)))]


def beats(machine: Machine, task: str, token: int) -> Beats | None:
    """What an attempt of such a command has told on a machine; None before its first beat."""
    try:
        text = machine.inside(f"{ATTEMPTS}/{task}.{token}/stdout").read_text()
    except OSError:
        return None
    lines = text.splitlines()
    is_done = lines[-1:] == [f"done by {token}"] and text.endswith("\n")
    times = lines[1 : -1 if is_done or not text.endswith("\n") else None]
    return Beats(int(lines[0]), [float(each) for each in times], is_done) if times else None
