"""How a run ended, from what its shim and systemd have said (``docs/tasks.rst``, "The systemd
executor").
"""

from __future__ import annotations

import signal
from typing import Final

from bzzz.tasks.executors.interfaces import Ending, Over, Run
from bzzz.tasks.executors.keeper_messages import Ended
from bzzz.tasks.executors.keeper_words import size
from bzzz.tasks.executors.unit_interfaces import UnitEnd

__all__ = ["how_it_ended"]

# waitid(2), si_code.
EXITED: Final = 1

# What systemd ends a process with that it could not make ready for the program (systemd.exec(5),
# "Process Exit Codes"). The first of its numbers, and those that it may come to for our settings.
FIRST_OF_SYSTEMD: Final = 200
STEPS: Final = {
    200: "CHDIR",
    203: "EXEC",
    208: "STDIN",
    209: "STDOUT",
    217: "USER",
    218: "CAPABILITIES",
    219: "CGROUP",
    222: "STDERR",
    225: "NETWORK",
    226: "NAMESPACE",
    227: "NO_NEW_PRIVILEGES",
    228: "SECCOMP",
}


def how_it_ended(run: Run, told: Ended | None, end: UnitEnd, began: bool) -> Over:
    """What is made of both.

    :param told: what the shim has said of the end, if it has.
    :param end: what systemd says.
    :param began: whether the shim was told what to run.
    """
    if end.result == "oom-kill":
        limit = f"the {size(run.memory)} of memory that it may use" if run.memory else "memory"
        return Over(Ending.OVER_LIMIT, None, f"it used more than {limit}, and was killed for it")
    if told is not None:
        return Over(Ending(told.ending), told.exit_status, told.reason)
    if not began:
        return Over(Ending.NOT_STARTED, None, f"its unit ended before the start: {_words(end)}")
    match end.result:
        case "timeout":
            return Over(
                Ending.TIMED_OUT, None, f"it took over {run.timeout:g} s, and systemd ended it"
            )
        case "watchdog":
            return Over(
                Ending.LEASE_ENDED,
                None,
                "its lease ended, and its shim had not killed it: systemd did",
            )
        case _:
            return Over(Ending.STOPPED, None, f"its unit ended under it: {_words(end)}")


def _words(end: UnitEnd) -> str:
    """What systemd says, for people."""
    if end.result in ("", "success"):
        return "somebody, or the end of the user's systemd, has stopped it"
    if end.result == "exit-code" and end.status >= FIRST_OF_SYSTEMD:
        step = f"/{STEPS[end.status]}" if end.status in STEPS else ""
        return f"systemd could not make its sandbox ({end.status}{step})"
    if end.result in ("signal", "core-dump"):
        return f"its shim was killed by {_signal(end.status)}"
    if end.code == EXITED:
        return f"result {end.result}, exit status {end.status}"
    return f"result {end.result}"


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
