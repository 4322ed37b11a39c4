"""One node under systemd: tells it how the node is, feeds its watchdog, follows the node's unit.

Enters: what systemd said at the start, and how the node is. Leaves: notifications, errors about a
unit that contradicts the node, and the unit as it is now. ``docs/systemd.rst`` has the protocol.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

from twisted.internet.defer import Deferred, succeed
from twisted.logger import Logger

from bzzz.net.interfaces import Clock
from bzzz.net.periodic import Periodic
from bzzz.systemd.notify import Notifier
from bzzz.systemd.unit import Process, Unit, contradictions

__all__ = ["Supervision", "Watch", "service_state"]

# Seconds between two looks at whether the STATUS says something else.
STATUS_INTERVAL = 1.0

# While tasks run on in a node that stops, systemd is told each EXTEND_INTERVAL seconds that it
# takes EXTENSION more: two may get lost.
EXTEND_INTERVAL = 5.0
EXTENSION = 15.0


def service_state(unit: Unit) -> dict[str, str | int]:
    """What the other nodes are told of a unit: ``service`` of a capability document."""
    # A reload is over in a moment, and nobody else's business.
    state = "active" if unit.active_state == "reloading" else unit.active_state
    return {
        "unit": unit.id,
        "active_state": state,
        "file_state": unit.file_state,
        "restarts": unit.restarts,
    }


class Watch(Protocol):
    """What is used of :class:`bzzz.systemd.unit_watch.UnitWatch`."""

    @property
    def unit(self) -> Unit | None:
        """As last heard, its use of memory included."""

    def start(self) -> None:
        """Ask for the unit, and follow it."""

    def stop(self) -> Deferred[None]:
        """Follow it no more."""


class Supervision:
    """Everything between one node and systemd.

    Outside systemd it is made with a :class:`Notifier` without a path and without a watch, and
    does nothing.

    :param watchdog_seconds: within which systemd wants to hear; None for no watchdog.
    :param process: this process, as its unit should have it.
    :param status: how the node is, in a line.
    :param on_unit: called with the unit when it changed, and with None when it is not known.
    :param on_deactivating: called with True when systemd begins to stop the unit, and with False
        if it gave that up.
    """

    _log = Logger()

    def __init__(
        self,
        clock: Clock,
        notifier: Notifier,
        watchdog_seconds: float | None,
        process: Process,
        status: Callable[[], str],
        on_unit: Callable[[Unit | None], object],
        on_deactivating: Callable[[bool], object],
    ) -> None:
        self.watch: Watch | None = None
        self._notifier = notifier
        self._process = process
        self._status = status
        self._on_unit = on_unit
        self._on_deactivating = on_deactivating
        self._told_status = ""
        self._unit: Unit | None = None
        self._complained: set[str] = set()
        self._feeding = (
            Periodic(
                clock, watchdog_seconds / 2, notifier.alive, "feeding systemd's watchdog", self._log
            )
            if watchdog_seconds
            else None
        )
        self._telling = Periodic(
            clock, STATUS_INTERVAL, self._tell_status, "telling systemd the status", self._log
        )
        self._extending = Periodic(
            clock,
            EXTEND_INTERVAL,
            lambda: notifier.extend_timeout(EXTENSION),
            "asking systemd for more time",
            self._log,
        )

    def start(self) -> None:
        """The reactor runs."""
        if self._feeding is not None:
            self._feeding.start()
        if self._notifier.path:
            self._telling.start()
        if self.watch is not None:
            self.watch.start()

    def ready(self) -> None:
        """The node takes part in the mesh."""
        self._notifier.ready()

    def reloading(self) -> None:
        """The configuration is read again; :meth:`ready` ends it."""
        self._notifier.reloading()

    def stopping(self) -> None:
        """The node begins to stop."""
        self._notifier.stopping()

    def more_time(self, needed: bool) -> None:
        """While a stop takes its time, such as for tasks that run on, systemd waits longer."""
        if needed:
            self._extending.start()
        else:
            self._extending.stop()

    def stop(self) -> Deferred[None]:
        """The node has stopped."""
        self._notifier.status("stopped")
        for job in (self._feeding, self._telling, self._extending):
            if job is not None:
                job.stop()
        return self.watch.stop() if self.watch is not None else succeed(None)

    @property
    def unit(self) -> Unit | None:
        """The unit as it was last heard of; None outside systemd, and while it is not known."""
        return self._unit if self.watch is None else self.watch.unit

    def unit_changed(self, unit: Unit | None) -> None:
        """The unit is another than before, or is not known any more."""
        before, self._unit = self._unit, unit
        if unit is not None:
            self._complain(unit)
            was = before.active_state if before is not None else ""
            if "deactivating" in (was, unit.active_state) and was != unit.active_state:
                self._on_deactivating(unit.active_state == "deactivating")
        self._on_unit(unit)

    def limits_changed(self, max_links: int) -> None:
        """The node may have other links than before, which its unit may not allow for."""
        self._process = replace(self._process, max_links=max_links)
        if self._unit is not None:
            self._complain(self._unit)

    # -- inside

    def _complain(self, unit: Unit) -> None:
        found = contradictions(unit, self._process)
        for each in found:
            if each.key not in self._complained:
                write = self._log.error if each.level == "error" else self._log.warn
                write("{text}", text=each.text, event="unit_problem")
        # What was mended and comes back is said again.
        self._complained = {each.key for each in found}

    def _tell_status(self) -> None:
        status = self._status()
        if status != self._told_status and self._notifier.status(status):
            self._told_status = status
