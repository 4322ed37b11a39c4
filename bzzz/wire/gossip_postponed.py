"""Messages that everybody is sent by their author, and which need not be pushed to all others.

A node of Bzzz sends its broadcasts to each peer it is linked to, and the last of them to each new
peer. Were they forwarded like any other message, then in a full mesh everybody would get
everybody's from the author and from the whole mesh: of 50 nodes each would read six copies of each.
So what the application calls unhurried waits here. Once it has waited for ``postponed_ticks``
heartbeats or up to twice as long, and no new peer has come for ``calm_ticks``, the topic's mesh and
some others are told by IHAVE that it is there, and those who lack it, because they have no link to
the author, ask. Who asks is told of all from then on: it may be in nobody's mesh.

Enters: messages, heartbeats. Leaves: messages whose time has come. gossipsub-v1.0.md has pushing
("eager push") and telling ("lazy push") for every message; this only chooses between them.
"""

from __future__ import annotations

from collections import deque

from bzzz.wire.gossip_message import Sendable
from bzzz.wire.gossip_params import GossipParams

__all__ = ["Postponed"]


class Postponed:
    """The messages that wait."""

    def __init__(self, params: GossipParams) -> None:
        self._params = params
        self._waiting: deque[tuple[int, Sendable]] = deque()
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def take(self, message: Sendable, tick: int) -> bool:
        """Keep the message if there is room; whether it was kept.

        :param tick: the number of this heartbeat.
        """
        cost = message.cost
        if self.bytes + cost > self._params.max_postponed_bytes:
            return False
        self._waiting.append((tick + self._params.postponed_ticks, message))
        self.bytes += cost
        return True

    def clear(self) -> None:
        """Keep none."""
        self._waiting.clear()
        self.bytes = 0

    def due(self, tick: int, newcomer: int) -> list[Sendable]:
        """The messages that have waited for long enough, the oldest first.

        There are some only each ``postponed_ticks`` heartbeats: an IHAVE costs each peer about the
        same, of how many messages it may be.

        :param newcomer: the heartbeat in which a peer came last. While a mesh forms, who lacks
            something is likely to get it from its author, with the link that it is about to make.
        """
        params = self._params
        if tick % params.postponed_ticks:
            return []
        if tick - newcomer < params.calm_ticks:
            tick -= params.max_postponed_ticks - params.postponed_ticks
        messages = []
        while self._waiting and self._waiting[0][0] <= tick:
            _, message = self._waiting.popleft()
            self.bytes -= message.cost
            messages.append(message)
        return messages
