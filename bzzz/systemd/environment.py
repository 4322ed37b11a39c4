"""What systemd tells a process that it starts, from the process's environment.

Enters: the environment, and the process's own numbers. Leaves: :class:`Environment`. Shells of a
desktop inherit some of these variables, so that one alone proves little; ``docs/systemd.rst`` has
the table. Spec: :manpage:`systemd.exec(5)`, "Environment Variables in Spawned Processes";
:manpage:`sd_watchdog_enabled(3)`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["Environment", "find_systemd"]


@dataclass(frozen=True)
class Environment:
    """How systemd started this process.

    :ivar supervised: whether it did at all.
    :ivar notify_socket: where notifications go; empty for nowhere.
    :ivar watchdog_seconds: within which the watchdog wants to hear; None without one.
    :ivar journal: whether standard error leads to the journal.
    """

    supervised: bool = False
    notify_socket: str = ""
    watchdog_seconds: float | None = None
    journal: bool = False


def find_systemd(
    environ: Mapping[str, str], pid: int, parent: int, stderr: os.stat_result | None
) -> Environment:
    """What ``environ`` says to the process ``pid``.

    :param parent: the pid of its parent.
    :param stderr: of standard error; None where it is closed.
    """
    notify_socket = environ.get("NOTIFY_SOCKET", "")
    started = environ.get("SYSTEMD_EXEC_PID")
    if started is not None:
        # Or it started the shell that started this one.
        supervised = started in {str(pid), str(parent)}
    else:
        # systemd before 248 does not say whom it started, but is the parent of those it did.
        supervised = bool(notify_socket) or ("INVOCATION_ID" in environ and parent == 1)
    return Environment(
        supervised=supervised,
        # What another service was given is not for this one to use.
        notify_socket=notify_socket if supervised else "",
        watchdog_seconds=_watchdog(environ, pid),
        journal=stderr is not None
        and environ.get("JOURNAL_STREAM") == f"{stderr.st_dev}:{stderr.st_ino}",
    )


def _watchdog(environ: Mapping[str, str], pid: int) -> float | None:
    text = environ.get("WATCHDOG_USEC", "")
    if environ.get("WATCHDOG_PID", str(pid)) != str(pid):
        return None
    return int(text) / 1e6 if text.isdecimal() and int(text) > 0 else None
