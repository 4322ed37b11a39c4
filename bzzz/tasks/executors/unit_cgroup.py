"""What is left of a unit, where systemd cannot be asked: its control group (cgroups(7)).

Enters: the path of a control group of version 2. Leaves: its processes, and SIGKILL for them.
"""

from __future__ import annotations

import os
import signal
from typing import Final

from bzzz.tasks.executors.keeper_tree import send

__all__ = ["CGROUPS", "kill_group", "processes_of"]

CGROUPS: Final = "/sys/fs/cgroup"


def processes_of(cgroup: str, top: str = CGROUPS) -> list[int] | None:
    """The processes in a group and in those below it; None where nothing can be said of it.

    A group that is not there has none.
    """
    if not cgroup.startswith("/") or ".." in cgroup or not os.path.exists(f"{top}/cgroup.procs"):
        return None
    found: list[int] = []
    for directory, _, _ in os.walk(f"{top}{cgroup}"):
        try:
            with open(f"{directory}/cgroup.procs", encoding="ascii") as file:
                found += [int(line) for line in file]
        except FileNotFoundError:
            continue  # it went meanwhile
        except OSError:
            return None
    # 0 is one that cannot be seen from here.
    return found


def kill_group(cgroup: str, top: str = CGROUPS) -> None:
    """Send SIGKILL to all that is there now; what is started meanwhile takes another time."""
    send([pid for pid in processes_of(cgroup, top) or () if pid > 0], signal.SIGKILL)
