"""The unit that a node belongs to, and what is wrong with it.

Pure. Enters: properties as systemd gives them over D-Bus. Leaves: :class:`Unit`, and the settings
in it that contradict the node, each with its mend. Spec: :manpage:`org.freedesktop.systemd1(5)`,
:manpage:`systemd.service(5)`; what is a contradiction is in ``docs/systemd.rst``.
"""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from bzzz.errors import BzzzError

__all__ = ["PROPERTIES", "Contradiction", "Process", "Unit", "contradictions", "files_needed"]

# "infinity", "not set" and "not counted" of systemd's 64-bit numbers.
UNLIMITED = 2**64 - 1

# Descriptors of a node without links: listening sockets, the log, the database, the control API
# with its followers, mDNS, epoll.
BASE_FILES = 64

# Descriptors of a link: its socket, and that of a dial to another address of the same node.
FILES_PER_LINK = 2

# What a Type= does to a program that stays in the foreground, where that is not "runs".
_UNFIT_TYPES = {
    "forking": "waits for it to go to the background and takes it for a failed start",
    "oneshot": "waits for it to end before it counts as started",
    "dbus": "waits for a name on the bus that it never takes and takes it for a failed start",
}


def _known(number: int) -> int | None:
    return None if number == UNLIMITED else number


def _seconds(microseconds: int) -> float | None:
    return None if microseconds in (0, UNLIMITED) else microseconds / 1e6


_UNIT = "org.freedesktop.systemd1.Unit"
_SERVICE = "org.freedesktop.systemd1.Service"

# Property: its interface, the field of Unit, the type that it has, and what makes the field of it.
_TABLE: dict[str, tuple[str, str, type, Callable[[Any], object] | None]] = {
    "Id": (_UNIT, "id", str, None),
    "ActiveState": (_UNIT, "active_state", str, None),
    "SubState": (_UNIT, "sub_state", str, None),
    "FragmentPath": (_UNIT, "path", str, None),
    "UnitFileState": (_UNIT, "file_state", str, None),
    "NeedDaemonReload": (_UNIT, "needs_daemon_reload", bool, None),
    "Type": (_SERVICE, "type", str, None),
    "MainPID": (_SERVICE, "main_pid", int, lambda pid: pid or None),
    "NRestarts": (_SERVICE, "restarts", int, None),
    "ExecMainStartTimestamp": (_SERVICE, "started", int, _seconds),
    "NotifyAccess": (_SERVICE, "notify_access", str, None),
    "WatchdogUSec": (_SERVICE, "watchdog_seconds", int, _seconds),
    # Without Soft these are the hard limits, up to which a process would have to raise its own;
    # systemd's default is 1024 for the one and 524288 for the other.
    "LimitNOFILESoft": (_SERVICE, "limit_files", int, _known),
    "LimitNPROCSoft": (_SERVICE, "limit_processes", int, _known),
    "MemoryCurrent": (_SERVICE, "memory_bytes", int, _known),
    "MemoryMax": (_SERVICE, "memory_max", int, _known),
}

# Each property that a Unit is made of, and the D-Bus interface that has it.
PROPERTIES: Mapping[str, str] = {name: row[0] for name, row in _TABLE.items()}


@dataclass(frozen=True, kw_only=True)
class Unit:
    """A service, as its manager last described it. Two that differ in their use of memory alone are
    equal: a figure that never rests is no news.

    :ivar user: whether a user's manager runs it, and not the system's.
    :ivar main_pid: of the process that systemd takes for the service; None for none.
    :ivar restarts: how often systemd has restarted it by itself.
    :ivar started: when the main process was started, in seconds since the epoch.
    :ivar path: of the unit file; ``file_state`` is ``enabled``, ``disabled`` and so on.
    :ivar needs_daemon_reload: whether the file changed since systemd read it.
    :ivar watchdog_seconds: None without a watchdog.
    :ivar limit_files: open files allowed, None for any number; ``limit_processes`` likewise.
    :ivar memory_bytes: in use by the whole service; None where it is not counted.
    :ivar memory_max: in bytes; None for no limit.
    """

    id: str = ""
    user: bool = False
    type: str = ""
    active_state: str = ""
    sub_state: str = ""
    main_pid: int | None = None
    restarts: int = 0
    started: float | None = None
    path: str = ""
    file_state: str = ""
    needs_daemon_reload: bool = False
    notify_access: str = ""
    watchdog_seconds: float | None = None
    limit_files: int | None = None
    limit_processes: int | None = None
    memory_bytes: int | None = field(default=None, compare=False)
    memory_max: int | None = None

    @classmethod
    def from_properties(cls, properties: Mapping[str, object], *, user: bool = False) -> Unit:
        """The unit that has these properties; one that is missing leaves its field's default.

        :raises BzzzError: a property has another type than systemd documents.
        """
        fields: dict[str, Any] = {"user": user}
        for name, (_, target, kind, convert) in _TABLE.items():
            if name not in properties:
                continue
            value = properties[name]
            # A bool is an int to isinstance(), but a boolean is no number to D-Bus.
            if type(value) is not kind:
                raise BzzzError(
                    f"systemd gave {reprlib.repr(value)} as {name} of the unit,"
                    f" where {kind.__name__} is documented"
                )
            fields[target] = value if convert is None else convert(value)
        return cls(**fields)


@dataclass(frozen=True)
class Process:
    """This node, as far as its unit has to fit it.

    :ivar uid: of its effective user.
    :ivar max_links: the limit configured.
    """

    pid: int
    uid: int
    max_links: int


@dataclass(frozen=True)
class Contradiction:
    """A setting of the unit with which the node cannot do its work.

    :ivar key: short and stable, so that it is said once.
    :ivar text: what is wrong, what comes of it, and the mend.
    """

    key: str
    text: str
    level: Literal["error", "warning"] = "error"


def files_needed(max_links: int) -> int:
    """How many descriptors a node with so many links may have open."""
    return BASE_FILES + FILES_PER_LINK * max_links


def contradictions(unit: Unit, process: Process) -> list[Contradiction]:
    """What in ``unit`` does not fit the node that runs as ``process``, gravest first."""
    return list(_contradictions(unit, process))


def _contradictions(unit: Unit, process: Process) -> Iterator[Contradiction]:
    systemctl = "systemctl --user" if unit.user else "systemctl"
    mend = f"{systemctl} edit {unit.id}"
    if unit.type in _UNFIT_TYPES:
        yield Contradiction(
            "type",
            f"{unit.id} has Type={unit.type}, but this node stays in the foreground: systemd"
            f" {_UNFIT_TYPES[unit.type]}. Set Type=simple: {mend}",
        )
    if unit.main_pid is not None and unit.main_pid != process.pid:
        yield Contradiction(
            "main_pid",
            f"systemd takes process {unit.main_pid} for {unit.id}, but this node is process"
            f" {process.pid}: its end is not noticed, and its notifications are not accepted. Let"
            f" ExecStart= run twistd itself, in the foreground and without a shell: {mend}",
        )
    if process.uid == 0:
        yield Contradiction(
            "root",
            f"{unit.id} runs this node as root, whose every file a flaw in it would open."
            + (
                " Run it as a service of another user."
                if unit.user
                else f" Set User= and Group= to a user of its own, such as bzzz: {mend}"
            ),
        )
    needed = files_needed(process.max_links)
    if unit.limit_files is not None and unit.limit_files < needed:
        yield Contradiction(
            "files",
            f"{unit.id} may open {unit.limit_files} files, but max_links = {process.max_links}"
            f" needs {needed}: links will fail. Set LimitNOFILE={needed} or more: {mend};"
            " or lower max_links",
        )
    if unit.watchdog_seconds is not None and unit.notify_access == "none":
        yield Contradiction(
            "notify_access",
            f"{unit.id} has WatchdogSec={unit.watchdog_seconds:g} and NotifyAccess=none: systemd"
            " does not listen to what it waits for, and will kill this node. Set"
            f" NotifyAccess=main: {mend}",
        )
    if unit.needs_daemon_reload:
        yield Contradiction(
            "changed",
            f"{unit.path or unit.id} or a drop-in of it changed on disk since systemd read it;"
            f" run: {systemctl} daemon-reload",
            "warning",
        )
