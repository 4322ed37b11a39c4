"""Who asks: the user and the process at the other end of a control connection.

Enters: a connected UNIX socket. Leaves: :class:`Credentials`, for which the kernel vouches, and
whether they may ask. Names of users and groups are looked up in a thread, because the databases
that have them may be on the network. Spec: :manpage:`unix(7)`, SO_PEERCRED; SO_PEERGROUPS, of Linux
4.13, is in no manual page: the supplementary groups of the process, as SO_PEERCRED has its user.
"""

from __future__ import annotations

import os
import pwd
import socket
import struct
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple, Protocol

from twisted.internet.defer import Deferred, succeed

__all__ = [
    "Access",
    "Accounts",
    "Credentials",
    "ServiceGroup",
    "peer_credentials",
    "peer_groups",
]

ROOT = 0

# asm-generic/socket.h; Python has no name for it. On two architectures it is another option.
SO_PEERGROUPS = None if os.uname().machine.startswith(("parisc", "sparc")) else 59

# Python asks for no more, which is 256 groups. Of a process with more the database tells.
MAX_GROUPS_BYTES = 1024

# Seconds for which a user's name is remembered, as who submits a thousand tasks is one user; and
# how many are.
NAME_SECONDS = 60.0
MAX_NAMES = 1000

InThread = Callable[[Callable[[], Any]], Deferred[Any]]


class ServiceGroup(NamedTuple):
    """The group of a control socket, whose members may ask.

    :ivar gid: its number.
    :ivar name: or the number again, where it has none.
    """

    gid: int
    name: str


class Options(Protocol):
    """What is used of a socket."""

    def getsockopt(self, level: int, option: int, length: int, /) -> bytes: ...


class Accounts:
    """The system's users and groups.

    :param in_thread: calls a function that may block, and has its result.
    :param now: seconds on a clock that goes on evenly.
    """

    def __init__(self, in_thread: InThread, now: Callable[[], float] = time.monotonic) -> None:
        self._in_thread = in_thread
        self._now = now
        self._names: dict[int, tuple[str, float]] = {}

    def name_of(self, uid: int) -> Deferred[str]:
        """A user's name, or the number where there is none; as it was :data:`NAME_SECONDS` ago at
        most."""
        name, until = self._names.get(uid, ("", float("-inf")))
        if self._now() < until:
            return succeed(name)
        return self._in_thread(partial(_name_of, uid)).addCallback(self._named, uid)

    def _named(self, name: str, uid: int) -> str:
        if len(self._names) >= MAX_NAMES:
            self._names.clear()
        self._names[uid] = (name, self._now() + NAME_SECONDS)
        return name

    def is_member(self, uid: int, gid: int) -> Deferred[bool]:
        """Whether the database has the user in the group."""
        return self._in_thread(partial(_is_member, uid, gid))


def _name_of(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _is_member(uid: int, gid: int) -> bool:
    try:
        user = pwd.getpwuid(uid)
    except KeyError:
        return False
    return gid in os.getgrouplist(user.pw_name, user.pw_gid)


@dataclass(frozen=True)
class Credentials:
    """Who connected, as the kernel noted it at that moment.

    :ivar pid: of the process; 0 for one that this one cannot see. Later it may be another's.
    :ivar uid: of its user.
    :ivar gid: of its group, without the supplementary ones.
    """

    pid: int
    uid: int
    gid: int
    accounts: Accounts = field(repr=False, compare=False)

    def user_name(self) -> Deferred[str]:
        """The user's name, or the number where there is none."""
        return self.accounts.name_of(self.uid)


def peer_credentials(connection: Options, accounts: Accounts) -> Credentials:
    """Who is at the other end of a UNIX socket.

    :raises OSError: the kernel does not tell.
    """
    # struct ucred
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    pid, uid, gid = struct.unpack("=iII", raw)
    return Credentials(pid, uid, gid, accounts)


def peer_groups(connection: Options) -> Sequence[int] | None:
    """The supplementary groups of who is there; None where the kernel does not tell."""
    if SO_PEERGROUPS is None:
        return None
    try:
        raw = connection.getsockopt(socket.SOL_SOCKET, SO_PEERGROUPS, MAX_GROUPS_BYTES)
    except OSError:  # an older kernel, or more groups than there is room for
        return None
    return struct.unpack(f"={len(raw) // 4}I", raw)


class Access:
    """Who may ask a node: root, its own user, and the members of the service's group.

    :param uid: of the node's process.
    :param group: None where the socket is the user's alone.
    """

    def __init__(self, uid: int, group: ServiceGroup | None) -> None:
        self._uid = uid
        self._group = group

    def __str__(self) -> str:
        group = f" and members of the group {self._group.name}" if self._group else ""
        return f"root, the node's own user{group}"

    def judge(self, credentials: Credentials, connection: Options) -> bool | None:
        """Whether they may ask. None where that has to be looked up (:meth:`look_up`)."""
        if credentials.uid in {ROOT, self._uid}:
            return True
        if self._group is None:
            return False
        gid = self._group.gid
        if credentials.gid == gid:
            return True
        groups = peer_groups(connection)
        return None if groups is None else gid in groups

    def look_up(self, credentials: Credentials) -> Deferred[bool]:
        """Whether they are a member of the group, by the system's database."""
        if self._group is None:
            return succeed(False)
        return credentials.accounts.is_member(credentials.uid, self._group.gid)
