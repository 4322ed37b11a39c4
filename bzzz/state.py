"""The state directory: the lock, the identity key, the remembered port. And the runtime directory.

Enters: two paths. Leaves: :class:`OpenState`, or an error that names the file and its mend. All of
it blocks on the disk, so it is called before the reactor runs or in a thread.

================ =================================================================================
lock             held with flock(2) while a node runs; contains its pid
identity.key     the libp2p PrivateKey protobuf in base64, one line, mode 0600; replaced by a
                 rotation (:mod:`bzzz.trust.rotation`) and by nothing else
identity.key.new likewise: the key that is to follow, while a rotation is under way
listen_port      the TCP port of last time, in decimal
================ =================================================================================
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import errno
import fcntl
import os
import stat
from collections.abc import Callable
from pathlib import Path

from bzzz.atomic_file import opened, sync_directory, write_atomically
from bzzz.errors import BzzzError, IdentityError, StateDirectoryError
from bzzz.identity.keys import PrivateKey
from bzzz.identity.peer_id import PeerID

__all__ = [
    "OpenState",
    "StateDirectory",
    "open_runtime_directory",
    "read_key",
    "write_atomically",
]

KEY = "identity.key"
NEXT_KEY = "identity.key.new"

# Longer than any private key that this program reads; a file that is longer is something else.
MAX_KEY_FILE_BYTES = 4096

# sockaddr_un has 108 bytes for the path, the last of them zero.
MAX_SOCKET_PATH_BYTES = 107


class OpenState:
    """A state directory that this process holds.

    :param random_bytes: where another key comes from.
    :ivar identity: this node's private key.
    :ivar previous: the key before it, while that is still the one on the disk.
    :ivar is_new: whether the identity was made just now.
    :ivar instance: made anew at each start, in hex. Two nodes with one peer ID and different
        instances are a copied state directory.
    """

    def __init__(
        self,
        path: Path,
        identity: PrivateKey,
        is_new: bool,
        instance: str,
        lock: int,
        random_bytes: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self.path = path
        self.identity = identity
        self.previous: PrivateKey | None = None
        self.is_new = is_new
        self.instance = instance
        self._lock = lock
        self._random_bytes = random_bytes

    @property
    def peer_id(self) -> PeerID:
        """This node's peer ID."""
        return self.identity.peer_id

    @property
    def listen_port(self) -> int | None:
        """The remembered port; None at first start, and when the file makes no sense."""
        try:
            # A FIFO in its place would otherwise keep the node waiting for a writer.
            with opened(self.path / "listen_port", os.O_RDONLY | os.O_NONBLOCK) as descriptor:
                text = os.read(descriptor, 16).decode("ascii").strip()
        except (OSError, UnicodeDecodeError):
            # A port that cannot be read is chosen anew, which costs less than not starting.
            return None
        return int(text) if text.isdigit() and len(text) < 6 and 0 < int(text) < 65536 else None

    def remember_port(self, port: int) -> None:
        """Use this port at the next start.

        :raises StateDirectoryError: when it cannot be written.
        """
        path = self.path / "listen_port"
        try:
            write_atomically(path, f"{port}\n".encode())
        except OSError as error:
            raise _unusable(path, error) from None

    # -- the key that is to follow; what decides is in bzzz.trust.rotation

    def next_identity(self) -> PrivateKey | None:
        """The key that is to follow; None if there is none.

        :raises IdentityError: it is damaged, or others can read it.
        """
        path = self.path / NEXT_KEY
        try:
            return read_key(path)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise IdentityError(f"{path} cannot be read: {error.strerror}") from None

    def make_next_identity(self) -> PrivateKey:
        """Make the key that is to follow, on the disk; or the one that is there already.

        :raises IdentityError: that one is damaged, or ``identity.key`` is a link, whose place the
            key could not take.
        :raises StateDirectoryError: it cannot be written.
        """
        path = self.path / KEY
        if path.is_symlink():
            raise IdentityError(
                f"{path} is a link, and a new key would not get to where it leads: move the file"
                " itself there, then try again"
            )
        key = self.next_identity()
        if key is None:
            key = PrivateKey.generate(self._random_bytes)
            path = self.path / NEXT_KEY
            try:
                _write_key(path, key)
            except OSError as error:
                raise _unusable(path, error) from None
        return key

    def forget_next_identity(self) -> None:
        """Delete the key that was to follow: this one stays.

        :raises StateDirectoryError: it cannot be deleted.
        """
        path = self.path / NEXT_KEY
        try:
            path.unlink(missing_ok=True)
            sync_directory(path.parent)
        except OSError as error:
            raise _unusable(path, error) from None

    def follow(self, key: PrivateKey) -> None:
        """Go on with the key that is to follow; :meth:`take_next_identity` does so on the disk."""
        self.previous, self.identity = self.identity, key

    def take_next_identity(self) -> None:
        """Put the key that is to follow into the old one's place, and destroy that one.

        A crash leaves both of them, or the new one in its place.

        :raises StateDirectoryError: it cannot be done, or need not outlive a power cut.
        """
        path = self.path / KEY
        with contextlib.ExitStack() as stack:
            old = -1
            # A file that may only be read is replaced, too.
            with contextlib.suppress(OSError):
                old = stack.enter_context(opened(path, os.O_WRONLY | os.O_NOFOLLOW))
            try:
                (self.path / NEXT_KEY).replace(path)
                sync_directory(self.path)
            except OSError as error:
                raise _unusable(path, error) from None
            self.previous = None
            # It has no name any more, but is on the disk until something else is written there. No
            # disk promises that these bytes get to the same place, so a failure is no error.
            with contextlib.suppress(OSError):
                os.pwrite(old, bytes(os.fstat(old).st_size), 0)
                os.fsync(old)

    def write_pid(self) -> None:
        """Put this process's id into the lock; again after a fork, because the lock survives it."""
        _write_pid(self._lock)

    def close(self) -> None:
        """Let another node have the directory."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


class StateDirectory:
    """A state directory that is not open yet.

    :param random_bytes: where the key and the instance come from.
    """

    def __init__(self, path: Path, random_bytes: Callable[[int], bytes] = os.urandom) -> None:
        self.path = path
        self._random_bytes = random_bytes

    def open(self) -> OpenState:
        """Make the directory if it is missing, lock it, and read or make the key.

        :raises StateDirectoryError: it cannot be written, or another node has it.
        :raises IdentityError: the key is damaged or others can read it.
        """
        try:
            _make_directory(self.path)
            _refuse_writable_by_others(self.path)
            lock = _lock(self.path / "lock", self.path)
        except OSError as error:
            raise _unusable(self.path, error) from None
        try:
            identity, is_new = self._identity()
        except BaseException:
            os.close(lock)
            raise
        instance = self._random_bytes(8).hex()
        return OpenState(self.path, identity, is_new, instance, lock, self._random_bytes)

    def _identity(self) -> tuple[PrivateKey, bool]:
        path = self.path / KEY
        try:
            return read_key(path), False
        except FileNotFoundError:
            pass  # the first start
        except OSError as error:
            raise IdentityError(f"{path} cannot be read: {error.strerror}") from None
        identity = PrivateKey.generate(self._random_bytes)
        try:
            _write_key(path, identity)
        except OSError as error:
            raise _unusable(path, error) from None
        return identity, True


def read_key(path: Path) -> PrivateKey:
    """The private key in a file.

    :raises IdentityError: it is damaged, of another type, or not private.
    :raises OSError: it cannot be read.
    """
    with opened(path, os.O_RDONLY | os.O_NONBLOCK) as descriptor:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise IdentityError(f"{path} is not a file; move it away")
        if status.st_mode & 0o077:
            raise IdentityError(
                f"{path} can be read by others (mode {stat.S_IMODE(status.st_mode):04o}); if it "
                f"was not copied, make it private: chmod 600 {path}"
            )
        content = os.read(descriptor, MAX_KEY_FILE_BYTES + 1)
    mend = (
        "restore it from a backup, or move it away to start with a new key, by which other nodes "
        "will not know this machine"
    )
    if len(content) > MAX_KEY_FILE_BYTES:
        raise IdentityError(f"{path} is damaged (too long for a key); {mend}")
    try:
        return PrivateKey.decode(base64.b64decode(content.strip(), validate=True))
    except binascii.Error:
        raise IdentityError(f"{path} is damaged (not base64); {mend}") from None
    except BzzzError as error:
        raise IdentityError(f"{path} is damaged ({error}); {mend}") from None


def _write_key(path: Path, key: PrivateKey) -> None:
    write_atomically(path, base64.b64encode(key.encode()) + b"\n", new=True)


def _make_directory(path: Path) -> None:
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except FileExistsError:
        # "File exists" would be true of what is wrong, and tell nobody what that is.
        raise NotADirectoryError(errno.ENOTDIR, "Not a directory", str(path)) from None


def _refuse_writable_by_others(path: Path) -> None:
    """Whoever may write to the directory may replace the key in it."""
    status = path.stat()
    if status.st_mode & 0o022:
        raise StateDirectoryError(
            f"{path}: others can write to it (mode {stat.S_IMODE(status.st_mode):04o}); "
            f"close it: chmod 700 {path}"
        )


def _lock(path: Path, directory: Path) -> int:
    """Lock the directory with a file in it. Also shows that it can be written."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _write_pid(descriptor)
    except BlockingIOError:
        pid = os.pread(descriptor, 20, 0).decode("ascii", "replace").strip() or "unknown"
        os.close(descriptor)
        raise StateDirectoryError(
            f"{directory} is in use by the node with pid {pid}; stop that one, or give this one "
            "another --state-dir"
        ) from None
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _write_pid(descriptor: int) -> None:
    text = b"%d\n" % os.getpid()
    os.pwrite(descriptor, text, 0)
    os.ftruncate(descriptor, len(text))


def _unusable(path: Path, error: OSError) -> StateDirectoryError:
    return StateDirectoryError(
        f"{error.filename or path} cannot be written: {error.strerror or error}; "
        "mend that, or choose another --state-dir"
    )


def open_runtime_directory(path: Path) -> Path:
    """Make the directory of the control socket, and see that it is ours alone to write to.

    :raises StateDirectoryError: it is not, or cannot be made.
    """
    socket = os.fsencode(path / "control.sock")
    if len(socket) > MAX_SOCKET_PATH_BYTES:
        raise StateDirectoryError(
            f"{path} is too long for a socket's path ({len(socket)} bytes with control.sock, the "
            f"system allows {MAX_SOCKET_PATH_BYTES}); choose a shorter --runtime-dir"
        )
    try:
        _make_directory(path)
        # Not followed: in /tmp somebody else may have put a link in our place.
        status = path.lstat()
    except OSError as error:
        raise StateDirectoryError(
            f"{error.filename or path} cannot be made: {error.strerror}; "
            "choose another --runtime-dir"
        ) from None
    ours = stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid()
    if not ours or status.st_mode & 0o022:
        raise StateDirectoryError(
            f"{path} is not a directory that this user alone can write to; remove it, or choose "
            "another --runtime-dir"
        )
    return path
