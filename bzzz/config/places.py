"""Where a node keeps its things when nobody says so: the XDG directories, or those systemd made.

Enters: the environment. Leaves: paths and the other defaults that depend on the machine.
Spec: XDG Base Directory Specification 0.8; systemd.exec(5), RuntimeDirectory= and StateDirectory=.
"""

from __future__ import annotations

import os
import pwd
import re
import socket
from collections.abc import Mapping
from pathlib import Path

__all__ = ["config_file", "cores", "host_name", "runtime_dir", "state_dir"]

Environ = Mapping[str, str]


def _absolute(environ: Environ, variable: str) -> Path | None:
    """A directory named by a variable. One that is not absolute is invalid and ignored (XDG)."""
    path = Path(environ.get(variable, ""))
    return path if path.is_absolute() else None


def _from_systemd(environ: Environ, variable: str) -> Path | None:
    """The first of the directories that systemd made for the unit."""
    first = environ.get(variable, "").split(":")[0]
    return Path(first) if first.startswith("/") else None


def _home(environ: Environ) -> Path:
    home = _absolute(environ, "HOME")
    if home is not None:
        return home
    try:
        return Path(pwd.getpwuid(os.getuid()).pw_dir)
    except KeyError:  # a user without an entry, as in some containers
        return Path("/")


def state_dir(environ: Environ) -> Path:
    """``$STATE_DIRECTORY`` under systemd, else ``$XDG_STATE_HOME/bzzz``."""
    made = _from_systemd(environ, "STATE_DIRECTORY")
    if made is not None:
        return made
    base = _absolute(environ, "XDG_STATE_HOME") or _home(environ) / ".local" / "state"
    return base / "bzzz"


def runtime_dir(environ: Environ) -> Path:
    """``$RUNTIME_DIRECTORY`` under systemd, else ``$XDG_RUNTIME_DIR/bzzz``, else in ``/tmp``."""
    made = _from_systemd(environ, "RUNTIME_DIRECTORY")
    if made is not None:
        return made
    base = _absolute(environ, "XDG_RUNTIME_DIR")
    if base is not None:
        return base / "bzzz"
    # The place in /tmp can be taken by another user first; state.open_runtime_directory() refuses
    # a directory that is not ours.
    return Path(f"/tmp/bzzz-{os.getuid()}")  # nosec B108  # noqa: S108 - see above


def config_file(environ: Environ) -> Path:
    """``$XDG_CONFIG_HOME/bzzz/bzzz.toml``, read when it is there."""
    base = _absolute(environ, "XDG_CONFIG_HOME") or _home(environ) / ".config"
    return base / "bzzz" / "bzzz.toml"


def host_name(environ: Environ) -> str:
    """The machine's name without its domain, in the characters that a node's name may have."""
    first = socket.gethostname().split(".")[0]
    return re.sub(r"[^A-Za-z0-9_-]", "-", first).strip("-_")[:63] or "node"


def cores(environ: Environ) -> int:
    """The cores that this process may use, which in a container is fewer than there are."""
    return len(os.sched_getaffinity(0))
