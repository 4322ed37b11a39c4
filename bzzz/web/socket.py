"""The control socket: a UNIX socket in the runtime directory that belongs to one node at a time.

Enters: the runtime directory. Leaves: :class:`ControlSocket`, listening; or an error that names who
has it. Bound before the reactor runs, so that a mistake ends the start with one line.

The socket has mode 0600. It has 0660, and belongs to the group of the process, if systemd made the
directory with ``RuntimeDirectoryMode=0750``: then the unit's author lets in that group
(``Group=``), and nobody else. Spec: :manpage:`systemd.exec(5)`, RuntimeDirectory=.
"""

from __future__ import annotations

import fcntl
import grp
import os
import socket
import stat
import struct
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from bzzz.errors import StateDirectoryError
from bzzz.state import open_runtime_directory
from bzzz.web.credentials import ServiceGroup

__all__ = ["SOCKET_NAME", "ControlSocket", "bind_control_socket", "pid_behind"]

SOCKET_NAME = "control.sock"

# Connections that the kernel holds while the node is busy: a program that runs hundreds of tasks
# opens one for each.
BACKLOG = 1024


class ControlSocket:
    """A listening UNIX socket and the lock on its directory.

    The lock decides whose socket it is, also after a crash has left one behind, and keeps
    systemd-tmpfiles from cleaning a directory in ``/tmp`` while the node runs.

    :ivar group: whose members may connect; None for nobody but the node's user and root.
    """

    def __init__(
        self,
        path: Path,
        listening: socket.socket,
        lock: int,
        group: ServiceGroup | None = None,
    ) -> None:
        self.path = path
        self.socket = listening
        self.group = group
        self._lock = lock
        self._inode = path.stat().st_ino

    def listen(self) -> None:
        """Listen; again after a fork, so that the kernel names the process that now answers."""
        self.socket.listen(BACKLOG)

    @property
    def is_there(self) -> bool:
        """Whether its path still leads to this socket."""
        try:
            return self.path.lstat().st_ino == self._inode
        except OSError:
            return False

    def close(self) -> None:
        """Remove the socket, if it is still this one, and let another node have the directory."""
        if self._lock < 0:
            return
        self.socket.close()
        # Somebody may have tidied up.
        if self.is_there:
            self.path.unlink(missing_ok=True)
        os.close(self._lock)
        self._lock = -1


def bind_control_socket(
    runtime_dir: Path, environ: Mapping[str, str] = MappingProxyType({})
) -> ControlSocket:
    """Listen on ``control.sock`` in the directory, for this user and, in a service, its group.

    :param environ: of the process; says which directories systemd made.
    :raises StateDirectoryError: another node listens there, or the directory cannot be used.
    """
    path = open_runtime_directory(runtime_dir) / SOCKET_NAME
    try:
        lock = os.open(runtime_dir, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise _unusable(runtime_dir, error) from None
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise _taken(path) from None
        _remove_stale(path)
        listening.bind(str(path))
        group = _service_group(runtime_dir, environ)
        # Nobody can connect before listen(), so that the mode is in force from the beginning.
        path.chmod(0o600 if group is None else 0o660)
        # Who connected may be gone again by the time it is accepted.
        listening.setblocking(False)
        control = ControlSocket(path, listening, lock, group)
        control.listen()
        return control
    except OSError as error:
        listening.close()
        os.close(lock)
        raise _unusable(path, error) from None
    except BaseException:
        listening.close()
        os.close(lock)
        raise


def _service_group(runtime_dir: Path, environ: Mapping[str, str]) -> ServiceGroup | None:
    """The group that the unit lets in, if it does."""
    if str(runtime_dir) not in environ.get("RUNTIME_DIRECTORY", "").split(":"):
        # A directory of one's own may be open to a group by its umask, and nobody meant this.
        return None
    status = runtime_dir.stat()
    if stat.S_IMODE(status.st_mode) != 0o750 or status.st_gid != os.getegid():
        return None
    try:
        return ServiceGroup(status.st_gid, grp.getgrgid(status.st_gid).gr_name)
    except KeyError:
        return ServiceGroup(status.st_gid, str(status.st_gid))


def _remove_stale(path: Path) -> None:
    """Remove what a crash left; never what answers, and never what is not a socket."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise StateDirectoryError(f"{path} is in the way and not a socket; remove it")
    if pid_behind(path) is not None:
        raise _taken(path)
    path.unlink()


def pid_behind(path: Path) -> int | None:
    """The pid of whoever answers on a UNIX socket (0 if it cannot be told); None if nobody does."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return None
        except OSError:  # busy, or not ours to ask: somebody is there
            return 0
        # struct ucred: pid, uid, gid
        credentials = probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        return int(struct.unpack("3i", credentials)[0])


def _taken(path: Path) -> StateDirectoryError:
    pid = pid_behind(path)
    who = f"the node with pid {pid}" if pid else "another node"
    return StateDirectoryError(
        f"{path.parent} is in use by {who}; stop that one, or give this one another --runtime-dir"
    )


def _unusable(path: Path, error: OSError) -> StateDirectoryError:
    return StateDirectoryError(
        f"{error.filename or path} cannot be used: {error.strerror}; mend that, or choose another "
        "--runtime-dir"
    )
