"""From a run to the process of its command.

Enters: the run, and its standard streams. Leaves: a process; or an exit status and a reason why
there is none.
"""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Iterator
from typing import Final

from bzzz.tasks.executors.keeper_kernel import leave_network, refuse_new_privileges
from bzzz.tasks.executors.keeper_messages import Start

__all__ = ["COMMON_PROFILE", "Refused", "execute", "restrict"]

# The profile whose shims take another run. Those of others have what the next must not have.
COMMON_PROFILE: Final = "default"
PROFILES: Final = (COMMON_PROFILE, "no-network", "trusted")

NOT_FOUND: Final = 127
NOT_EXECUTABLE: Final = 126

# What execvp(3) takes where there is no PATH.
DEFAULT_PATH: Final = "/bin:/usr/bin"


class Refused(Exception):
    """A command was not started.

    :ivar exit_status: what a shell would tell, None where it would have started it.
    """

    def __init__(self, exit_status: int | None, reason: str) -> None:
        super().__init__(reason)
        self.exit_status = exit_status


def restrict(profile: str) -> None:
    """Take from this process what a profile forbids; its children inherit that.

    :raises Refused: it cannot be taken, or there is no profile of that name.
    """
    if profile not in PROFILES:
        known = ", ".join(PROFILES)
        raise Refused(None, f"profile {profile}: there is none of that name, but {known}")
    if profile == "no-network":
        try:
            leave_network()
        except OSError as error:
            raise Refused(
                None,
                f"profile no-network: no network namespace could be made ({error.strerror}); this"
                " machine, or the node's unit, forbids user namespaces",
            ) from None
    if profile != "trusted":
        refuse_new_privileges()


def execute(run: Start, stdin: int, stdout: int, stderr: int) -> int:
    """Start a command in a session of its own; returns its process.

    All files but these are closed, and signals are as they are by default: the caller has handlers
    for those that it does not want, which do not outlast execve(2).

    :raises Refused: it cannot be started.
    """
    path = _find(run)
    try:
        # It takes vfork(2): a fork of Python has hundreds of pages copied for it before execve(2).
        child = subprocess.Popen(  # nosec B603  # noqa: S603 - it is there to run what it is given
            run.argv,
            executable=path,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            cwd=run.directory,
            env=run.env,
            start_new_session=True,
        )
    except OSError as error:
        if error.filename == run.directory:
            raise Refused(
                NOT_EXECUTABLE, f"working directory {run.directory}: {error.strerror}"
            ) from None
        raise Refused(NOT_EXECUTABLE, f"{path}: {_why(error)}") from None
    except ValueError as error:
        raise Refused(NOT_EXECUTABLE, f"command {run.argv[0]}: {error}") from None
    # The caller waits for all of its children, and this object shall not.
    child.returncode = 0
    return child.pid


def _find(run: Start) -> str:
    """The path of the command, which may be relative to its working directory."""
    if not run.argv:
        raise Refused(NOT_FOUND, "the command has no words")
    command = run.argv[0]
    found = ""
    for path in _candidates(command, run.env):
        there = os.path.join(run.directory, path)
        try:
            if os.path.isfile(there) and os.access(there, os.X_OK):
                return path
            if os.path.exists(there):
                what = "is a directory" if os.path.isdir(there) else "is not executable"
                found = found or f"{path}: {what}"
        except ValueError as error:
            raise Refused(NOT_EXECUTABLE, f"command {command!r}: {error}") from None
    if not os.path.isdir(run.directory):
        raise Refused(NOT_EXECUTABLE, f"working directory {run.directory}: it is not there")
    if found:
        raise Refused(NOT_EXECUTABLE, found)
    where = "" if "/" in command else f" in PATH, which is {run.env.get('PATH', DEFAULT_PATH)}"
    raise Refused(NOT_FOUND, f"command {command}: not found{where}")


def _candidates(command: str, env: dict[str, str]) -> Iterator[str]:
    if "/" in command:
        yield command
    elif command:
        for directory in env.get("PATH", DEFAULT_PATH).split(os.pathsep):
            # An empty one is the working directory, as for execvp(3).
            yield os.path.join(directory or ".", command)


def _why(error: OSError) -> str:
    if error.errno == errno.ENOEXEC:
        return "is no program, and has no line #! that names an interpreter"
    if error.errno == errno.ENOENT:
        return "its interpreter is not there"
    return error.strerror or str(error)
