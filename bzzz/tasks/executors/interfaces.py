"""The seam between a worker and what runs its commands (``docs/tasks.rst``, "Execution").

Enters: what to run, until when, and what may be taken of the machine. Leaves: how it ended. An
executor never outlives its lease: it kills a run by itself when ``until`` passes without having
been moved, whatever the daemon does, and all runs when the daemon is gone.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum

from msgspec import Struct
from twisted.internet.defer import Deferred
from zope.interface import Attribute, Interface

__all__ = ["Ending", "IExecutor", "Over", "Run"]


class Run(Struct, frozen=True, kw_only=True):
    """One attempt, as the machine is to run it.

    :ivar key: names it among all runs of this machine, such as ``<task>.<token>``.
    :ivar argv: the command; the first is looked up in ``PATH`` of ``env`` if it has no slash.
    :ivar env: all of the command's environment.
    :ivar directory: its working directory, which exists; an absolute path.
    :ivar stdout: file that its standard output is appended to; made where it is not there.
    :ivar stderr: likewise for standard error.
    :ivar max_output: bytes that are kept of each of them. What comes after that is read and thrown
        away, and one line says so in its place.
    :ivar timeout: seconds after which it is ended, 0 for none.
    :ivar memory: bytes that all its processes may have together, 0 for no limit.
    :ivar cpus: cores that they may use together, 0 for no limit.
    :ivar profile: name of the sandbox: ``default``, ``no-network`` or ``trusted``.
    """

    key: str
    argv: tuple[str, ...]
    env: dict[str, str]
    directory: str
    stdout: str
    stderr: str
    max_output: int = 64 << 20
    timeout: float = 0.0
    memory: int = 0
    cpus: float = 0.0
    profile: str = "default"


class Ending(Enum):
    """How a run ended.

    ``EXITED``: by itself, with an exit status or by a signal that the executor did not send.
    ``TIMED_OUT``, ``STOPPED``, ``LEASE_ENDED``: it was killed, for that reason.
    ``NOT_STARTED``: the command could not be run, such as for a name that is not found.
    ``OVER_LIMIT``: it was killed because it used more memory than it may.
    """

    EXITED = "exited"
    TIMED_OUT = "timed_out"
    STOPPED = "stopped"
    LEASE_ENDED = "lease_ended"
    NOT_STARTED = "not_started"
    OVER_LIMIT = "over_limit"


class Over(Struct, frozen=True):
    """A run has ended, and nothing of it is left.

    :ivar exit_status: of the command, 128 + N where signal N ended it; 127 not found, 126 cannot
        be executed; None where there is none to tell.
    :ivar reason: for people; empty where the command ended by itself.
    """

    ending: Ending
    exit_status: int | None = None
    reason: str = ""


class IExecutor(Interface):
    """Runs commands. All times are seconds of ``CLOCK_BOOTTIME``."""

    name: str = Attribute("as in the configuration, such as ``process``")

    def start(run: Run, until: float, over: Callable[[Over], object]) -> None:
        """Run a command; ``over`` is called once, later, whatever happens."""

    def extend(key: str, until: float) -> None:
        """The lease of a run now lasts until then; unknown keys are ignored."""

    def stop(key: str, grace: float) -> None:
        """End a run: SIGTERM to all its processes, SIGKILL after ``grace`` seconds."""

    def close() -> Deferred[None]:
        """Kill all runs; fires when nothing of them is left."""
