"""The seam between the systemd executor and a systemd (``docs/tasks.rst``, "The systemd executor").

Enters: what a unit shall be like. Leaves: that it is over, and what systemd says of that; whether
systemd can be asked at all. :mod:`bzzz.systemd.task_units` asks one over D-Bus.
"""

from __future__ import annotations

from typing import Protocol

from msgspec import Struct
from twisted.internet.defer import Deferred

__all__ = ["UnitEnd", "UnitListener", "UnitSpec", "Units"]


class UnitSpec(Struct, frozen=True, kw_only=True):
    """A transient service.

    All paths are absolute, and of files and directories as this process sees them.

    :ivar name: ending in ``.service``; no other unit has it.
    :ivar argv: of its main process; the first is a path.
    :ivar environment: of that, beside what systemd puts there.
    :ivar control: the socket that its standard input and output are connected to.
    :ivar writable: the directory that can be written to.
    :ivar hidden: directories that are empty for it, but for what lies in ``writable`` or
        ``readable``.
    :ivar readable: places that it can read though they are in a place that is hidden.
    :ivar strict: whether the rest of the file system can only be read.
    :ivar network: whether it has the machine's.
    :ivar memory: bytes, 0 for no limit.
    :ivar cpus: cores, 0 for no limit.
    :ivar tasks: processes and threads.
    :ivar runtime: seconds after which it is killed, 0 for none.
    :ivar watchdog: seconds after its start within which the main process has to say that it lives.
    """

    name: str
    description: str
    argv: tuple[str, ...]
    environment: dict[str, str]
    control: str
    writable: str
    hidden: tuple[str, ...] = ()
    readable: tuple[str, ...] = ()
    strict: bool = True
    network: bool = True
    memory: int = 0
    cpus: float = 0.0
    tasks: int
    runtime: float = 0.0
    watchdog: float


class UnitEnd(Struct, frozen=True):
    """A unit is over, and nothing is left in its control group.

    :ivar result: ``success``, ``exit-code``, ``signal``, ``timeout``, ``oom-kill``, ``watchdog``
        and so on, as systemd names them; empty where it is gone and nobody knows any more.
    :ivar code: how the main process ended: 1 by itself, 2 by a signal, 3 with a core dump
        (waitid(2), ``si_code``); 0 where it was not started.
    :ivar status: with which exit status, or which signal.
    """

    result: str = ""
    code: int = 0
    status: int = 0


class UnitListener(Protocol):
    """Who has units run."""

    def units_up(self) -> None:
        """Systemd can be asked. Ends of units that came while it could not are told after this."""

    def units_lost(self, reason: str) -> None:
        """Systemd cannot be asked any more, or cannot be reached at the first try."""

    def unit_over(self, name: str, end: UnitEnd) -> None:
        """A unit that was started is over; called once, and not after :meth:`Units.forget`."""


class Units(Protocol):
    """A systemd that runs units."""

    @property
    def up(self) -> bool:
        """Whether it can be asked now."""

    def start(self, listener: UnitListener) -> None:
        """Connect, and stay connected."""

    def stop(self) -> Deferred[None]:
        """Ask nothing more; what runs goes on. Fires when the connection is closed."""

    def run(self, spec: UnitSpec) -> Deferred[None]:
        """Start a unit; fires when systemd has taken it.

        Fails with a :class:`~bzzz.errors.BzzzError`; then nobody is told of the unit's end.
        """

    def kill(self, name: str) -> None:
        """Send SIGKILL to all that is in a unit, if it is there."""

    def forget(self, name: str) -> None:
        """The end of a unit is not of interest any more."""

    def names(self, prefix: str) -> Deferred[list[str]]:
        """The names of units that are there and begin so; fails with a BzzzError."""
