"""What the control API asks of the node it belongs to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from twisted.internet.defer import Deferred

from bzzz.web.schema import ConfigEntry, Finding, NodeDocument, PeerInfo, Status

__all__ = ["NodeView"]


class NodeView(Protocol):
    """A node, as people see it. Every call answers at once, apart from :meth:`doctor`."""

    def status(self) -> Status:
        """This node."""

    def peers(self) -> Sequence[PeerInfo]:
        """Every other node that is known, in any order."""

    def capabilities(self) -> Sequence[NodeDocument]:
        """What every node can do, this one among them, in any order."""

    def recent_events(self) -> Sequence[bytes]:
        """The events kept (:meth:`bzzz.events.EventLog.recent_lines`)."""

    def subscribe_events(self, callback: Callable[[dict[str, Any]], object]) -> Callable[[], None]:
        """Call ``callback`` with each event to come, until the function returned is called."""

    def config_entries(self) -> Sequence[ConfigEntry]:
        """The configuration in effect."""

    def doctor(self) -> Deferred[Sequence[Finding]]:
        """Look for what keeps this node from meeting others."""
