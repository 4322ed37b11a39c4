"""A run and a shim, as the keeper sees them.

Enters: what was ordered and said. Leaves: when the keeper has to act by itself.
"""

from __future__ import annotations

import socket
from typing import Final

from bzzz.tasks.executors.keeper_messages import EndingName

__all__ = ["LATE", "Kept", "KnownShim"]

# Seconds after the end of a lease that a shim has for the kill, before the keeper does it. Both
# together are to be done within bzzz.tasks.leases.KILL.
LATE: Final = 0.1

# The same for a run that was told to stop, which nobody counts on by the tenth of a second.
STOP_LATE: Final = 1.0

NEVER: Final = float("inf")


class Kept:
    """A run, as the keeper sees it.

    :ivar stop_at: when it is to be over at the latest, for a reason other than its lease.
    :ivar ending: why the keeper itself had to kill it, if it had to.
    """

    def __init__(self, key: str, until: float) -> None:
        self.key = key
        self.until = until
        self._wanted = until
        self.stop_at = NEVER
        self.ending: EndingName | None = None
        self.reason = ""

    def extend(self, until: float, stopped: bool) -> None:
        """The lease lasts until then.

        :param stopped: whether its shim is: then it is not extended, or nothing would ever end it.
        """
        self._wanted = until
        self.until = min(self.until, until) if stopped else until

    def goes_on(self) -> None:
        """Its shim is stopped no more."""
        if self.ending is None:
            self.until = self._wanted

    def end(self, ending: EndingName, reason: str) -> None:
        """Note why the keeper ends it."""
        self.ending, self.reason = ending, reason

    @property
    def due(self) -> float:
        """When the keeper has to kill it, because its shim does not."""
        return NEVER if self.ending else min(self.until + LATE, self.stop_at + STOP_LATE)


class KnownShim:
    """A shim, as the keeper sees it.

    :ivar run: what it has, None while it waits for one.
    :ivar common: whether it takes another; one that has given something up does not.
    :ivar stopped: whether somebody has stopped it (signal(7)).
    """

    def __init__(self, pid: int, control: socket.socket, run: Kept, common: bool) -> None:
        self.pid = pid
        self.control = control
        self.run: Kept | None = run
        self.common = common
        self.stopped = False

    def say(self, message: bytes) -> bool:
        """Send it something; returns whether it is on its way."""
        try:
            self.control.send(message)
        except OSError:
            return False  # it has ended, or does not listen
        return True
