"""Whether a link on which the peer proved this node's own key leads to this very node.

Enters: such links. Leaves: whether both ends are in this process; if not, somebody has a copy of
the key.
"""

from __future__ import annotations

from collections.abc import Container
from typing import Any

from bzzz.net.interfaces import Clock
from bzzz.net.link import Link

__all__ = ["OwnSockets"]

# How long the near end of a connection to oneself is remembered, in seconds, so that its far end,
# whose handshake ends a moment later, is recognised.
MEMORY = 10.0


class OwnSockets:
    """The near ends of this node's connections to itself.

    A connection to oneself has both its ends in this process, so its far end is one of our own
    sockets.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._near: set[tuple[str, int]] = set()

    def has(self, link: Link, listening: Container[tuple[str, int]]) -> bool:
        """Whether the far end of ``link`` is one of ours.

        :param listening: where this node listens.
        """
        transport: Any = link.transport
        here, there = transport.getHost(), transport.getPeer()
        if not link.is_initiator:
            return (there.host, there.port) in self._near
        socket = (here.host, here.port)
        self._near.add(socket)
        self._clock.callLater(MEMORY, self._near.discard, socket)
        return (there.host, there.port) in listening
