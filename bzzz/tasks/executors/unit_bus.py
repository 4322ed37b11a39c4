"""Whether units can be started now: systemd can be asked, and no run of before is left.

Enters: what :class:`~bzzz.tasks.executors.unit_interfaces.Units` says of its connection. Leaves:
SIGKILL for units that a daemon before this one has left; the word that runs may begin.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from bzzz.errors import BzzzError
from bzzz.net.background import in_background
from bzzz.tasks.executors.unit_interfaces import UnitEnd, Units

__all__ = ["UnitBus"]

# Seconds between two looks at units of before, and at those that could not be listed.
LOOK_AGAIN: Final = 0.2
LIST_AGAIN: Final = 5.0

# Units of before that are named in the log.
NAMED: Final = 5


class UnitBus:
    """Implements :class:`~bzzz.tasks.executors.unit_interfaces.UnitListener`.

    :param prefix: of the names of this node's units.
    :param changed: called when units can be started, and when systemd was lost.
    :param over: called when a unit is over, with its name and what systemd says.
    """

    _log = Logger()

    def __init__(
        self,
        clock: IReactorTime,
        units: Units,
        prefix: str,
        changed: Callable[[], object],
        over: Callable[[str, UnitEnd], object],
    ) -> None:
        self._clock = clock
        self._units = units
        self._prefix = prefix
        self._changed = changed
        self._over = over
        self._swept = False
        self._lost = "it was not reached yet"
        self._waiting: list[Deferred[None]] = []

    @property
    def ready(self) -> bool:
        """Whether units can be started now."""
        return self._units.up and self._swept

    @property
    def problem(self) -> str:
        """Why not, for people; empty if they can."""
        return "" if self.ready else self._lost

    def when_ready(self) -> Deferred[None]:
        """Fires when units can be started; fails with a BzzzError if the next try did not do."""
        ready: Deferred[None] = Deferred()
        if self.ready:
            ready.callback(None)
        else:
            self._waiting.append(ready)
        return ready

    def units_up(self) -> None:
        """Systemd can be asked: what a daemon before this one has left is to go first."""
        if self._swept:
            self._is_ready()
        else:
            in_background(self._sweep(), "ending units of before", self._log)

    def units_lost(self, reason: str) -> None:
        """Systemd cannot be asked. What runs goes on."""
        self._lost = reason
        waiting, self._waiting = self._waiting, []
        for each in waiting:
            each.errback(BzzzError(reason))
        self._changed()

    def unit_over(self, name: str, end: UnitEnd) -> None:
        """A unit that was started is over."""
        self._over(name, end)

    def _is_ready(self) -> None:
        waiting, self._waiting = self._waiting, []
        for each in waiting:
            each.callback(None)
        self._changed()

    async def _sweep(self) -> None:
        """Kill units of before, and wait until they are gone."""
        told = False
        while self._units.up:
            try:
                left = await self._units.names(self._prefix)
            except BzzzError as error:
                self.units_lost(f"its units cannot be listed: {error}")
                await self._sleep(LIST_AGAIN)
                continue
            if not left:
                self._swept = True
                self._is_ready()
                return
            if not told:
                told = True
                self._tell(left)
            for name in left:
                self._units.kill(name)
            await self._sleep(LOOK_AGAIN)

    def _tell(self, left: list[str]) -> None:
        self._log.warn(
            "{count} run{s} of this node's process before {are} still there: {units}. They are"
            " ended now",
            count=len(left),
            s="" if len(left) == 1 else "s",
            are="is" if len(left) == 1 else "are",
            units=", ".join(left[:NAMED]),
        )

    def _sleep(self, seconds: float) -> Deferred[None]:
        slept: Deferred[None] = Deferred()
        self._clock.callLater(seconds, slept.callback, None)
        return slept
