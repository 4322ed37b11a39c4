"""What Linux offers and Python 3.11 does not: parts of prctl(2), unshare(2), timerfd_create(2).

Enters: what a process wants for itself. Leaves: OSError where the kernel refuses.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import socket
import struct
import time
from typing import Final

__all__ = [
    "BoottimeTimer",
    "become_subreaper",
    "boottime",
    "hide_from_debuggers",
    "leave_network",
    "refuse_new_privileges",
]

PR_SET_DUMPABLE: Final = 4
PR_SET_CHILD_SUBREAPER: Final = 36
PR_SET_NO_NEW_PRIVS: Final = 38
CLONE_NEWUSER: Final = 0x10000000
CLONE_NEWNET: Final = 0x40000000
TFD_TIMER_ABSTIME: Final = 1
SIOCSIFFLAGS: Final = 0x8914
IFF_UP: Final = 0x1

_libc = ctypes.CDLL(None, use_errno=True)
_libc.prctl.argtypes = (ctypes.c_int, *[ctypes.c_ulong] * 4)
_libc.unshare.argtypes = (ctypes.c_int,)
_libc.timerfd_create.argtypes = (ctypes.c_int, ctypes.c_int)
_TimerSpec = ctypes.c_long * 4
_libc.timerfd_settime.argtypes = (
    ctypes.c_int,
    ctypes.c_int,
    ctypes.POINTER(_TimerSpec),
    ctypes.c_void_p,
)


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def boottime() -> float:
    """Seconds of ``CLOCK_BOOTTIME``."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def become_subreaper() -> None:
    """Descendants whose parent dies become children of this process, and not of init."""
    _checked(_libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0))


def hide_from_debuggers() -> None:
    """Others of the same user can neither trace this process nor read its memory or files."""
    _checked(_libc.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0))


def refuse_new_privileges() -> None:
    """Nothing that is executed from here on gets rights by a set-user-ID bit or the like."""
    _checked(_libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))


def leave_network() -> None:
    """Go into a network namespace that has nothing but a loopback interface of its own.

    The user namespace that this takes without rights has this user and group, and no others.
    """
    user, group = os.geteuid(), os.getegid()
    _checked(_libc.unshare(CLONE_NEWUSER | CLONE_NEWNET))
    for name, line in (
        # Without it an unprivileged process may not write the map of groups (user_namespaces(7)).
        ("setgroups", "deny"),
        ("uid_map", f"{user} {user} 1"),
        ("gid_map", f"{group} {group} 1"),
    ):
        with open(f"/proc/self/{name}", "w", encoding="ascii") as file:
            file.write(line)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        fcntl.ioctl(sock, SIOCSIFFLAGS, struct.pack("16sH22x", b"lo", IFF_UP))


class BoottimeTimer:
    """Readable when a time of ``CLOCK_BOOTTIME`` has come.

    The timeout of poll(2) does not go on while the machine is suspended: a lease that ended then
    would be seen to have ended that much later.
    """

    def __init__(self) -> None:
        self._fd = _checked(_libc.timerfd_create(time.CLOCK_BOOTTIME, os.O_NONBLOCK | os.O_CLOEXEC))
        self._when: float | None = None

    def fileno(self) -> int:
        """For selectors."""
        return self._fd

    def set(self, when: float) -> None:
        """Fire then, and not at the time that was set before; infinity: not at all."""
        if when == self._when:
            return
        self._when = when
        seconds, fraction = (0, 0.0) if when == float("inf") else divmod(max(when, 1e-3), 1.0)
        spec = _TimerSpec(0, 0, int(seconds), int(fraction * 1e9))
        _checked(_libc.timerfd_settime(self._fd, TFD_TIMER_ABSTIME, spec, None))

    def clear(self) -> None:
        """It has been seen to have fired."""
        self._when = None
        try:
            os.read(self._fd, 8)
        except BlockingIOError:
            pass  # it was set anew since

    def close(self) -> None:
        """Give it back."""
        os.close(self._fd)
