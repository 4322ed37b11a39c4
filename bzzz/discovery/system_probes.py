"""What ``bzzz doctor`` asks this machine itself. Everything here blocks: call it in a thread.

Linux only: ``/proc/net`` (proc(5)), adjtimex(2).
"""

from __future__ import annotations

import ctypes
import os
import pwd
import secrets
import socket
import struct
import time
from dataclasses import dataclass
from pathlib import Path

from bzzz.discovery.network_interfaces import NetworkInterface

__all__ = [
    "ClockState",
    "PortUser",
    "clock_state",
    "listening_ports",
    "multicast_comes_back",
    "port_users",
]

MDNS_PORT = 5353
GROUP4 = "224.0.0.251"
GROUP6 = "ff02::fb"

# Until a multicast packet must have come back, in seconds; it takes less than a millisecond.
COMES_BACK = 1.0

_PROC = Path("/proc")
_TCP_LISTEN = "0A"


# -- sockets of this machine


@dataclass(frozen=True, slots=True)
class PortUser:
    """A process that has a socket on a port.

    :ivar pid: None where it may not be seen.
    :ivar name: of the program, or nothing.
    :ivar user: whose socket it is.
    """

    pid: int | None
    name: str
    user: str


def _rows(proc: Path, *tables: str) -> list[list[str]]:
    rows = []
    for table in tables:
        try:
            lines = (proc / "net" / table).read_text().splitlines()[1:]
        except OSError:
            # No IPv6, or no such protocol.
            continue
        rows += [line.split() for line in lines]
    return [row for row in rows if len(row) > 9]


def _local_port(row: list[str]) -> int:
    return int(row[1].rsplit(":", 1)[1], 16)


def listening_ports(proc: Path = _PROC) -> set[int]:
    """The TCP ports that somebody of this network namespace listens on."""
    return {_local_port(row) for row in _rows(proc, "tcp", "tcp6") if row[3] == _TCP_LISTEN}


def port_users(port: int, proc: Path = _PROC) -> list[PortUser]:
    """Who has a UDP socket on ``port``."""
    owners = {row[9]: int(row[7]) for row in _rows(proc, "udp", "udp6") if _local_port(row) == port}
    found: dict[PortUser, None] = {}
    seen: set[str] = set()
    for pid in sorted(int(each.name) for each in proc.iterdir() if each.name.isdigit()):
        held = _sockets(proc, pid) & owners.keys()
        if held:
            seen |= held
            found[PortUser(pid, _program(proc, pid), _user(owners[min(held)]))] = None
    for inode in sorted(owners.keys() - seen):
        found[PortUser(None, "", _user(owners[inode]))] = None
    return list(found)


def _sockets(proc: Path, pid: int) -> set[str]:
    inodes: set[str] = set()
    try:
        descriptors = list((proc / str(pid) / "fd").iterdir())
    except OSError:
        # Of another user, or it has ended.
        return inodes
    for descriptor in descriptors:
        try:
            target = os.readlink(descriptor)
        except OSError:
            # Closed by now; of this process, it is the one of the list itself.
            continue
        if target.startswith("socket:["):
            inodes.add(target[8:-1])
    return inodes


def _program(proc: Path, pid: int) -> str:
    try:
        return (proc / str(pid) / "comm").read_text().strip()
    except OSError:
        return ""


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"


# -- multicast


def multicast_comes_back(interface: NetworkInterface, version: int) -> str:
    """Send one mDNS packet on ``interface`` and wait for it. Returns nothing, or what is wrong.

    The packet asks for a name that nobody has, so that nobody answers.

    :param version: 4 or 6.
    :raises OSError: the sockets cannot be made.
    """
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    token = secrets.token_hex(8)
    question = _question(f"{token}.bzzz-doctor.local")
    with (
        socket.socket(family, socket.SOCK_DGRAM) as listener,
        socket.socket(family, socket.SOCK_DGRAM) as sender,
    ):
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if version == 4:
            anywhere = socket.inet_aton("0.0.0.0")  # nosec B104 # the index names the interface
            member = struct.pack("4s4si", socket.inet_aton(GROUP4), anywhere, interface.index)
            listener.bind((GROUP4, MDNS_PORT))
            listener.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, member)
            sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, member)
            sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 255)
            target: tuple[str, int] | tuple[str, int, int, int] = (GROUP4, MDNS_PORT)
        else:
            index = struct.pack("@I", interface.index)
            listener.bind(("::", MDNS_PORT))
            listener.setsockopt(
                socket.IPPROTO_IPV6,
                socket.IPV6_JOIN_GROUP,
                socket.inet_pton(socket.AF_INET6, GROUP6) + index,
            )
            sender.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, index)
            sender.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255)
            target = (GROUP6, MDNS_PORT, 0, interface.index)
        try:
            sender.sendto(question, target)
        except OSError as error:
            return f"it cannot be sent: {error.strerror}"
        deadline = time.monotonic() + COMES_BACK
        while (left := deadline - time.monotonic()) > 0:
            listener.settimeout(left)
            try:
                if listener.recv(9000) == question:
                    return ""
            except TimeoutError:
                break
    return "what is sent does not come back"


def _question(name: str) -> bytes:
    """A DNS packet that asks for the address of ``name``."""
    labels = b"".join(bytes((len(label),)) + label.encode() for label in name.split("."))
    return struct.pack("!6H", 0, 0, 1, 0, 0, 0) + labels + b"\0" + struct.pack("!2H", 1, 1)


# -- the clock


@dataclass(frozen=True, slots=True)
class ClockState:
    """What the kernel knows of the clock.

    :ivar synchronised: whether somebody (systemd-timesyncd, chrony, ntpd) keeps it right.
    :ivar error: by how much it may be wrong at most, in seconds, as the kernel guesses.
    """

    synchronised: bool
    error: float


class _Timex(ctypes.Structure):
    # Only what comes before and with the status; the rest of struct timex is room.
    _fields_ = (
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long),
        ("status", ctypes.c_int),
        ("rest", ctypes.c_char * 256),
    )


_STA_UNSYNC = 0x40


def clock_state() -> ClockState:
    """What the kernel says of its clock.

    :raises OSError: it does not say.
    """
    timex = _Timex()
    libc = ctypes.CDLL(None, use_errno=True)
    # With modes 0 it only reads, which everybody may.
    if libc.adjtimex(ctypes.byref(timex)) == -1:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return ClockState(not timex.status & _STA_UNSYNC, timex.maxerror / 1e6)
