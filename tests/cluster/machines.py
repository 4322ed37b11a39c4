"""Several machines with a real systemd on one machine, for tests of the service and its installer.

Enters: names of machines. Leaves: machines (:mod:`tests.cluster.machine`) that have booted, each
with the network of a :class:`tests.cluster.netns.Host` and a disk of :mod:`tests.cluster.disk`.
What :class:`Machines` made is gone when its ``with`` block ends. If the process dies before, all
but network namespaces and control groups ends with it, and the next run removes those.
"""

from __future__ import annotations

import atexit
import functools
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.cluster.disk import Entry, differences
from tests.cluster.machine import COMMAND_TIMEOUT, GROUPS, Machine, Ran
from tests.cluster.netns import Network, command, left_behind
from tests.needs import without_root, without_tools

__all__ = ["Entry", "Machine", "Machines", "Ran", "differences", "list_groups", "without_machines"]

# Control groups are not seen everywhere, so they are mounted for the purpose. A group in which
# something runs is left alone: its number may be that of a process which is not seen from here.
LIST_GROUPS = "mount -t cgroup2 cgroup2 /tmp && ls /tmp"
REMOVE_GROUPS = """
mount -t cgroup2 cgroup2 /tmp
for group; do
    group=/tmp/$group
    tries=100
    while [ -d "$group" ] && [ "$tries" -gt 0 ]; do
        { grep -q "populated 0" "$group/cgroup.events" &&
            find "$group" -depth -type d -exec rmdir {} +; } 2>/dev/null || sleep 0.05
        tries=$((tries - 1))
    done
done
"""

# Says what it cannot do, of what HOLD does.
TRY = f"""
mount -t tmpfs try /{GROUPS} && mount -t cgroup2 cgroup2 /{GROUPS} && mount -t tmpfs try /tmp &&
mkdir /tmp/upper /tmp/work /tmp/root &&
mount -t overlay -o lowerdir=/,upperdir=/tmp/upper,workdir=/tmp/work try /tmp/root
"""


@functools.cache
def without_machines(*tools: str) -> str | None:
    """The reason why machines cannot be booted, or None.

    :param tools: what the test needs beyond.
    """
    needed = ("systemd-nspawn", "dbus-daemon", "ip", "unshare", "nsenter", "setpriv")
    return without_root() or without_tools(*needed, *tools) or _without_disk() or _without_python()


def _without_disk() -> str | None:
    apart = {"/usr", "/etc", "/var", "/var/lib"}
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        where = line.split()[4]
        if where in apart:
            return f"{where} is a file system of its own; a machine's disk would lack it"
    tried = subprocess.run(
        ["unshare", "--mount", "--pid", "--fork", "sh", "-c", TRY],
        capture_output=True,
        text=True,
        timeout=COMMAND_TIMEOUT,
        check=False,
    )
    return (
        f"a machine's disk cannot be mounted: {tried.stderr.strip()}" if tried.returncode else None
    )


def _without_python() -> str | None:
    python = "/usr/bin/python3"
    asked = (python, "-I", "-c", "import venv, ensurepip")
    if not os.path.exists(python) or subprocess.call(asked, stderr=subprocess.DEVNULL):
        return "Debian's python3 has no venv; script/setup installs python3-venv"
    return None


class Machines:
    """Machines on one bridge, all booted; a context manager.

    Make it in a thread that lives as long as they do.

    :ivar machines: by name.
    """

    def __init__(self, *names: str) -> None:
        self.network = Network(*names)
        self.machines = {name: Machine(host) for name, host in self.network.hosts.items()}

    def __enter__(self) -> Self:
        _remove_groups(*(name for name in list_groups() if left_behind(name)))
        # Whoever is interrupted may not come to the end of the block.
        atexit.register(self.close)
        try:
            self.network.__enter__()
            for machine in self.machines.values():
                machine.hold()
            for machine in self.machines.values():
                machine.begin()
            for machine in self.machines.values():
                machine.until_booted()
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

    @contextmanager
    def shown(self) -> Iterator[None]:
        """With a failure in the block, show the machines' journals."""
        try:
            yield
        except BaseException:
            for machine in self.machines.values():
                try:
                    told = machine.journal()
                except (AssertionError, OSError) as error:
                    told = f"cannot be read: {error}"
                print(f"\n--- the journal of {machine.name}:\n{told}", flush=True)
            raise

    def close(self) -> None:
        """Remove everything. A second time does nothing."""
        for machine in self.machines.values():
            machine.close()
        _remove_groups(*(machine.host.namespace for machine in self.machines.values()))
        self.network.close()
        atexit.unregister(self.close)


def list_groups() -> list[str]:
    """The control groups at the top."""
    return command("unshare", "--mount", "sh", "-c", LIST_GROUPS).split()


def _remove_groups(*names: str) -> None:
    if names:
        command("unshare", "--mount", "sh", "-c", REMOVE_GROUPS, "sh", *names)
