"""Which node a program asks: by the same rules as the ``bzzz`` command.

Enters: a runtime directory, or the environment and what is on this machine. Leaves: the path of a
control socket, and what to say when nobody answers there.
"""

from __future__ import annotations

import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

__all__ = ["ControlSocket", "control_socket"]

# Where the service has its socket; asked when the user has no node of their own.
SYSTEM_SOCKET = Path("/run/bzzz/control.sock")
SYSTEM_UNIT = Path("/etc/systemd/system/bzzz.service")


@dataclass(frozen=True)
class ControlSocket:
    """Where a node is asked.

    :ivar path: of its control socket.
    :ivar start: the command that starts a node there.
    """

    path: Path
    start: str = "twistd -n bzzz"

    def join(self) -> str | None:
        """What lets a user ask it, where the service lets in a group."""
        if self.path != SYSTEM_SOCKET:
            return None
        import grp

        try:
            status = self.path.parent.stat()
            group = grp.getgrgid(status.st_gid).gr_name
        except (OSError, KeyError):
            return None
        if stat.S_IMODE(status.st_mode) & 0o070 != 0o050:
            return None
        return f"become one of its group: sudo usermod -aG {group} USER, and log in again"


def control_socket(
    runtime_dir: str | Path | None, environ: Mapping[str, str], user: int
) -> ControlSocket:
    """That of a runtime directory; else the user's own, else the system's.

    :param runtime_dir: as ``--runtime-dir``.
    :param environ: the environment.
    :param user: the effective user's number.
    """
    if runtime_dir is not None:
        path = Path(runtime_dir).absolute() / "control.sock"
        return ControlSocket(path, f"twistd -n bzzz --runtime-dir {runtime_dir}")
    configured, chosen = _configured_runtime_dir(environ)
    own = configured / "control.sock"
    if chosen or (_is_there(own) and _is_ours(configured, user)):
        return ControlSocket(own)
    if _is_there(SYSTEM_UNIT):
        # Systemd may be starting it again and again.
        start = "sudo systemctl start bzzz; if it does not stay: journalctl -u bzzz -n 20"
        return ControlSocket(SYSTEM_SOCKET, start)
    return ControlSocket(SYSTEM_SOCKET if _is_there(SYSTEM_SOCKET) else own)


def _configured_runtime_dir(environ: Mapping[str, str]) -> tuple[Path, bool]:
    """The user's own runtime directory, and whether somebody chose it."""
    from bzzz.config import load, places
    from bzzz.errors import ConfigError

    try:
        config = load({}, environ)
    except ConfigError:
        # What is wrong with the configuration is for the node to say, and for `bzzz config`.
        return places.runtime_dir(environ), False
    return config.runtime_dir, "runtime_dir" in config.sources


def _is_there(path: Path) -> bool:
    try:
        path.stat()
    except PermissionError:
        # The service's directory is closed to others: asking will say whom to ask as.
        return True
    except OSError:
        return False
    return True


def _is_ours(directory: Path, user: int) -> bool:
    """Whether this user alone could have put a socket there: in /tmp anybody can be first."""
    try:
        status = directory.lstat()
    except OSError:
        return False
    return (
        stat.S_ISDIR(status.st_mode) and status.st_uid == user and not status.st_mode & stat.S_IWGRP
    ) and not status.st_mode & stat.S_IWOTH
