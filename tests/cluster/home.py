"""A cluster of three machines with a real systemd, and one next to them that is in none.

Enters: nothing. Leaves: :func:`home`, the machines, booted and made a cluster by whoever asks
first. Each test finds them so and leaves them so.
"""

from __future__ import annotations

import functools
import re
import time
from collections.abc import Sequence
from functools import partial

from tests.cluster.machine import Machine
from tests.cluster.netns import until
from tests.cluster.nodes import when
from tests.cluster.service import Service, ask, connected, events, service

__all__ = ["CLUSTER", "PATIENCE", "Home", "home", "is_whole", "linked_at"]

NAMES = ("walnut", "ironwood", "acacia", "elm")
CLUSTER = "home"

# For what has no promise, in seconds. A cable that is pulled is noticed within 10, and who was
# dialled in vain is dialled again within 60.
PATIENCE = 90.0

TOKEN = re.compile(r"bzzz-join-\w+")


class Home:
    """The machines, and how three of them became a cluster.

    :ivar transcript: what was typed, and what it said.
    :ivar founded: seconds from the first command to the whole mesh of members.
    :ivar joined: seconds from the start of the last command to that.
    :ivar commands: how many there were.
    """

    def __init__(self) -> None:
        self.service: Service = service(*NAMES)
        walnut, ironwood, acacia, elm = self.service.all
        started = time.monotonic()
        self.service.install(*self.service.all)
        self.installed = time.monotonic() - started
        for machine in self.service.all:
            until(lambda one=machine: len(connected(one)) == 3, PATIENCE, "fresh nodes meet", 0.2)  # type: ignore[misc]  # bound at once
        self.transcript: list[str] = []
        self.commands = 0
        began = time.time()
        self.type(walnut, f"bzzz cluster create {CLUSTER}")
        token = self.type(walnut, "bzzz invite --token --uses 2")
        self.type(ironwood, "bzzz join -", token)
        last = time.time()
        self.type(acacia, "bzzz join -", token)
        members = (walnut, ironwood, acacia)
        for machine in members:
            until(partial(is_whole, machine, members), PATIENCE, "a mesh of members", 0.1)
        meshed = max(linked_at(one, members, began) for one in members)
        self.founded = meshed - began
        self.joined = meshed - last
        for machine in (walnut, acacia):
            self.type(machine, "bzzz members")
        for machine in (acacia, elm):
            self.type(machine, "bzzz peers")
        self.commands -= 4

    def type(self, machine: Machine, command: str, stdin: str = "") -> str:
        """Run it, and keep it; returns what was printed."""
        self.commands += 1
        shown = f"{machine.name}$ sudo {command}{' <token' if stdin else ''}"
        ran = machine.shell(command, stdin=stdin)
        self.transcript += [shown, TOKEN.sub("bzzz-join-...", ran.stderr + ran.stdout)]
        return ran.stdout


@functools.cache
def home() -> Home:
    """The cluster, made by whoever asks first."""
    return Home()


def is_whole(machine: Machine, members: Sequence[Machine]) -> bool:
    """Whether a machine has all of these as members, and is linked to them, and to nobody else."""
    answer = ask(machine, "members") or {"members": []}
    names = sorted(member["name"] for member in answer["members"] if member["connected"])
    others = sorted(one.name for one in members if one is not machine)
    return names == sorted(one.name for one in members) and connected(machine) == others


def linked_at(machine: Machine, others: Sequence[Machine], since: float) -> float:
    """When the last of the links of a machine with others was there, as both ends tell."""
    pairs = [(machine, other) for other in others if other is not machine]
    pairs += [(other, machine) for _, other in pairs]
    times = []
    for one, other in pairs:
        all_times = [when(each["time"]) for each in events(one, "connected", name=other.name)]
        times.append(max(at for at in all_times if at >= since))
    return max(times)
