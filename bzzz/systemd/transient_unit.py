"""What systemd is told of the unit of a task: the properties of ``StartTransientUnit``.

Pure. Enters: a :class:`~bzzz.tasks.executors.unit_interfaces.UnitSpec`. Leaves: pairs of a name and
a value, which knows its D-Bus type. Spec: :manpage:`systemd.exec(5)`,
:manpage:`systemd.service(5)`, :manpage:`systemd.resource-control(5)`, whose names these are but for
a few that :manpage:`org.freedesktop.systemd1(5)` has.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from typing import Final

from bzzz.tasks.executors.unit_interfaces import UnitSpec

__all__ = ["UInt32", "UInt64", "properties", "unit_path"]

# mount(2), MS_REC: what is mounted below a place comes with it.
MS_REC: Final = 16384

# Seconds that systemd has to make the sandbox, and until it gives up on what SIGKILL has not ended,
# such as processes that wait for a disk.
START_TIMEOUT: Final = 20.0
STOP_TIMEOUT: Final = 10.0

# systemd's own in a user's runtime directory: the shim says there that it lives.
NOTIFY: Final = "/run/user/{uid}/systemd/notify"


class UInt32(int):
    """A number as D-Bus has it."""

    dbusSignature = "u"


class UInt64(int):
    """A number as D-Bus has it."""

    dbusSignature = "t"


def _microseconds(seconds: float) -> UInt64:
    return UInt64(round(seconds * 1e6))


def unit_path(name: str) -> str:
    """The path of a unit's object: what is neither a letter nor a digit is written as ``_xx``."""
    data = name.encode()
    escaped = "".join(
        chr(byte)
        if chr(byte).isalnum() and byte < 128 and not (at == 0 and chr(byte).isdigit())
        else f"_{byte:02x}"
        for at, byte in enumerate(data)
    )
    return f"/org/freedesktop/systemd1/unit/{escaped}"


def properties(spec: UnitSpec, uid: int) -> list[tuple[str, object]]:
    """The properties of the unit, for the systemd of the user ``uid``."""
    return [*_service(spec), *_limits(spec), *_sandbox(spec, uid)]


def _service(spec: UnitSpec) -> Iterator[tuple[str, object]]:
    yield "Description", spec.description
    # So that a sandbox which cannot be made is a start that failed.
    yield "Type", "exec"
    yield "ExecStart", [(spec.argv[0], list(spec.argv), False)]
    yield "Environment", [f"{name}={value}" for name, value in spec.environment.items()]
    yield "WorkingDirectory", "/"
    yield "UMask", UInt32(0o077)
    yield "IgnoreSIGPIPE", False
    # A path that leads to a socket is connected to (systemd.exec(5), StandardInput=). With the same
    # for both it can be written to as well.
    yield "StandardInput", "file"
    yield "StandardInputFile", spec.control
    yield "StandardOutput", "file"
    yield "StandardOutputFile", spec.control
    yield "StandardError", "journal"
    yield "KillMode", "control-group"
    yield "KillSignal", int(signal.SIGKILL)
    yield "SendSIGHUP", False
    yield "TimeoutStartUSec", _microseconds(START_TIMEOUT)
    yield "TimeoutStopUSec", _microseconds(STOP_TIMEOUT)
    yield "NotifyAccess", "main"
    yield "WatchdogUSec", _microseconds(spec.watchdog)
    yield "WatchdogSignal", int(signal.SIGKILL)
    yield "OOMPolicy", "kill"
    # What it was is in the last signal about it; nobody has to tidy up after a node that died.
    yield "CollectMode", "inactive-or-failed"


def _limits(spec: UnitSpec) -> Iterator[tuple[str, object]]:
    yield "LimitCORE", UInt64(0)
    yield "TasksMax", UInt64(spec.tasks)
    if spec.memory:
        yield "MemoryMax", UInt64(spec.memory)
        yield "MemorySwapMax", UInt64(0)
    if spec.cpus:
        yield "CPUQuotaPerSecUSec", _microseconds(spec.cpus)
    if spec.runtime:
        yield "RuntimeMaxUSec", _microseconds(spec.runtime)


def _sandbox(spec: UnitSpec, uid: int) -> Iterator[tuple[str, object]]:
    # Without rights only a user namespace permits the rest. It also keeps a command from looking
    # into other processes of its user, by whose eyes it could see what is hidden here.
    yield "PrivateUsers", True
    notify = NOTIFY.format(uid=uid)
    if spec.strict:
        yield "NoNewPrivileges", True
        yield "ProtectSystem", "strict"
        yield "ProtectHome", "tmpfs"
        yield "PrivateTmp", True
        yield "PrivateIPC", True
        yield "KeyringMode", "private"
        # Not ProtectKernelLogs=: it cannot be made in a container, and needs rights to be of use.
        for name in (
            "ProtectKernelTunables",
            "ProtectKernelModules",
            "ProtectControlGroups",
            "ProtectClock",
            "ProtectHostname",
            "RestrictRealtime",
            "RestrictSUIDSGID",
            "LockPersonality",
        ):
            yield name, True
        yield "ReadWritePaths", [spec.writable]
        hidden = spec.hidden
        # What it leaves there would stay, and takes memory.
        own = [("/dev/shm", "mode=1777")]  # nosec B108  # noqa: S108 - its own
    else:
        hidden = ("/run/user", *spec.hidden)
        own = []
    yield "TemporaryFileSystem", [*((each, "ro") for each in hidden), *own]
    yield "BindPaths", [(spec.writable, spec.writable, False, UInt64(MS_REC))]
    yield (
        "BindReadOnlyPaths",
        [(each, each, False, UInt64(MS_REC)) for each in (notify, *spec.readable)],
    )
    if not spec.network:
        yield "PrivateNetwork", True
