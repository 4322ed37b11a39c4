"""From a run to its unit: the sandbox of each profile (``docs/tasks.rst``, "The systemd executor").

Enters: a run, and where the node has what. Leaves: a
:class:`~bzzz.tasks.executors.unit_interfaces.UnitSpec`, and what its shim is told and given.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from typing import Final

from msgspec import Struct
from msgspec.structs import asdict

from bzzz.tasks.executors.interfaces import Run
from bzzz.tasks.executors.keeper_exec import PROFILES
from bzzz.tasks.executors.keeper_messages import Start, TooLong, encode
from bzzz.tasks.executors.keeper_output import open_output
from bzzz.tasks.executors.unit_interfaces import UnitSpec
from bzzz.tasks.executors.unit_shim import STDERR, STDOUT

__all__ = [
    "MAX_PROCESSES",
    "SHIM_MEMORY",
    "Places",
    "open_outputs",
    "order_of",
    "own_python",
    "spec_of",
    "why_not",
]

# Bytes of memory that the shim may have beside the run's. It takes about 12 MB.
SHIM_MEMORY: Final = 32 << 20

# Processes and threads of one run. A build with a hundred compilers has a few hundred.
MAX_PROCESSES: Final = 4096

# What can be a part of a unit's name as it is.
NAMEABLE: Final = re.compile(r"[A-Za-z0-9_.]{1,100}")

# Seconds beyond all that a run may take, its shim's start included, after which systemd ends it.
RUNTIME_LATE: Final = 30.0

# The system's bus: by it other services would start something outside the sandbox.
SYSTEM_BUS: Final = "/run/dbus"

# What a sandbox has of its own, where the node's Python could not be read.
OWN_THERE: Final = ("/home", "/root", "/run/user", "/tmp", "/var/tmp")  # nosec B108  # noqa: S108 - names, nothing is made there


class Places(Struct, frozen=True, kw_only=True):
    """Where the node has what a unit needs, or shall not see.

    :ivar node: names this node among those of its user.
    :ivar socket: where shims find the daemon.
    :ivar private: directories that no command shall see.
    :ivar python: the interpreter, an absolute path.
    :ivar modules: where that finds modules.
    :ivar readable: of these what a sandbox would hide.
    """

    node: str
    socket: str
    private: tuple[str, ...]
    python: str = sys.executable
    modules: tuple[str, ...] = ()
    readable: tuple[str, ...] = ()

    @property
    def unit_prefix(self) -> str:
        """What the names of the units of this node begin with."""
        return f"bzzz-task-{self.node}-"

    def unit_name(self, key: str) -> str:
        """The name of the unit of a run."""
        return f"{self.unit_prefix}{key}.service"


def own_python(private: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The places that this interpreter finds modules in, and those that a sandbox would hide.

    :param private: see :class:`Places`.
    """
    modules = tuple(os.path.abspath(each) for each in sys.path)
    needed = {
        *modules,
        os.path.abspath(sys.prefix),
        os.path.abspath(sys.base_prefix),
        os.path.dirname(os.path.realpath(sys.executable)),
        os.path.realpath(sys.prefix),
    }
    hiding = (*OWN_THERE, *private)
    readable = sorted(
        each
        for each in needed
        if os.path.exists(each) and any(each.startswith(f"{top}/") for top in hiding)
    )
    return modules, tuple(readable)


def spec_of(run: Run, places: Places, grace: float, watchdog: float) -> UnitSpec:
    """The unit of a run.

    :param grace: seconds from SIGTERM to SIGKILL for a run whose timeout has passed.
    :param watchdog: seconds that its shim has to say that it lives.
    """
    trusted = run.profile == "trusted"
    return UnitSpec(
        name=places.unit_name(run.key),
        description=f"Bzzz task {run.key}",
        argv=(
            *(places.python, "-P", "-X", "utf8"),
            *("-m", "bzzz.tasks.executors.unit_shim", run.key),
        ),
        environment={"PYTHONPATH": os.pathsep.join(places.modules)},
        control=places.socket,
        writable=run.directory,
        hidden=(*places.private, SYSTEM_BUS),
        readable=places.readable,
        strict=not trusted,
        network=run.profile != "no-network",
        memory=run.memory + SHIM_MEMORY if run.memory else 0,
        cpus=run.cpus,
        tasks=MAX_PROCESSES,
        runtime=run.timeout + grace + RUNTIME_LATE if run.timeout else 0.0,
        watchdog=watchdog,
    )


def why_not(run: Run, grace: float) -> str:
    """Why a run cannot be one of a unit, for people; empty where it can."""
    if run.profile not in PROFILES:
        return f"profile {run.profile}: there is none of that name, but {', '.join(PROFILES)}"
    if not NAMEABLE.fullmatch(run.key):
        return f"the key {run.key!r} cannot be a part of a unit's name"
    try:
        encode(order_of(run, 0.0, grace))
    except TooLong as error:
        return f"the command with its environment: {error}"
    return ""


def order_of(run: Run, until: float, grace: float) -> Start:
    """What the shim of a run is told."""
    order = {
        **asdict(run),
        "stdout": STDOUT,
        "stderr": STDERR,
        # The unit is without network by itself.
        "profile": "default" if run.profile == "no-network" else run.profile,
    }
    return Start(**order, until=until, grace=grace)


def open_outputs(run: Run) -> tuple[int, ...]:
    """Open the files that a run's output goes to.

    :raises OSError: one cannot be opened; it has its name.
    """
    stdout = open_output(run.stdout)
    try:
        return stdout, open_output(run.stderr)
    except OSError:
        os.close(stdout)
        raise
