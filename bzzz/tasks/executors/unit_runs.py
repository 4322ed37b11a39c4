"""A run as the systemd executor sees it.

Enters: what was said of it. Leaves: when somebody has to look at it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from twisted.internet.interfaces import IDelayedCall

from bzzz.tasks.executors.interfaces import Over, Run
from bzzz.tasks.executors.keeper_messages import Ended
from bzzz.tasks.executors.keeper_runs import LATE
from bzzz.tasks.executors.unit_channel import Channel
from bzzz.tasks.executors.unit_interfaces import UnitEnd

__all__ = ["NEVER", "UNIT_LATE", "UnitRun"]

NEVER: Final = float("inf")

# Seconds from a shim's end to that of its unit, after which the unit is killed once more.
UNIT_LATE: Final = 2.0


class UnitRun:
    """A run that is not over.

    :ivar name: of its unit.
    :ivar launched: whether systemd was asked to start that.
    :ivar unheard: whether systemd may have started it, but tells nobody when it is over.
    :ivar asked: whether its shim has asked what to run.
    :ivar began: whether its shim was told what to run.
    :ivar channel: to its shim, while that is there.
    :ivar cgroup: the path of its control group, once its shim has said it.
    :ivar told: what its shim has said of its end.
    :ivar end: what systemd has said of its unit's end.
    :ivar cause: why the daemon had its unit killed, if it had.
    :ivar ask_by: when its shim has to be there, or the bus.
    :ivar stop_at: when it is to be over, since it was told to stop.
    :ivar alone_since: when its shim has hung up.
    """

    def __init__(self, run: Run, until: float, over: Callable[[Over], object], name: str) -> None:
        self.run = run
        self.until = until
        self.over = over
        self.name = name
        self.launched = False
        self.unheard = False
        self.asked = False
        self.began = False
        self.channel: Channel | None = None
        self.cgroup = ""
        self.told: Ended | None = None
        self.end: UnitEnd | None = None
        self.cause: Over | None = None
        self.ask_by = NEVER
        self.stop_at = NEVER
        self.alone_since = NEVER
        self.call: IDelayedCall | None = None
        self.call_at = NEVER
        self.looked_at = float("-inf")

    def due(self, systemd: bool) -> float:
        """When the daemon has to do something about it.

        :param systemd: whether systemd can be asked, which tells when the unit is over.
        """
        if not self.began:
            return self.ask_by
        if self.channel is None:
            return self.alone_since + (UNIT_LATE if systemd and not self.unheard else 0.0)
        if self.cause is not None:
            return self.looked_at
        if self.told is not None:
            # It is about to hang up.
            return max(self.until, self.stop_at if self.stop_at < NEVER else 0.0) + UNIT_LATE
        return min(self.until + LATE, self.stop_at)
