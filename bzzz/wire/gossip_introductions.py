"""Messages with which peers introduce themselves, and which need not be pushed to all others.

A node of Bzzz sends each new peer its last broadcasts. Were they forwarded like any other message,
then in a mesh that forms everybody would get everybody's from the author and from the whole mesh:
of 50 nodes each would read six copies of each. So what the application calls an introduction, and
comes from its author within ``introduction`` seconds of the author's entry, waits here. Once it has
waited for ``introduction_ticks`` heartbeats peers are told by IHAVE that it is there, and those who
lack it, because they have no link to the author, ask.

Enters: messages, heartbeats. Leaves: messages whose time has come. gossipsub-v1.0.md has pushing
("eager push") and telling ("lazy push") for every message; this only chooses between them.
"""

from __future__ import annotations

from collections import deque

from bzzz.wire.gossip_message import Message
from bzzz.wire.gossip_params import GossipParams

__all__ = ["Introductions"]


class Introductions:
    """The messages that wait."""

    def __init__(self, params: GossipParams) -> None:
        self._params = params
        self._waiting: deque[tuple[int, Message]] = deque()
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def take(self, message: Message, entered: float | None, now: float, tick: int) -> bool:
        """Keep the message if it is an introduction and there is room; whether it was kept.

        :param entered: when its author, who sent it, entered the topic, in seconds.
        :param tick: the number of this heartbeat.
        """
        size = len(message.encoded)
        if entered is None or now - entered >= self._params.introduction:
            return False
        if self.bytes + size > self._params.max_introduction_bytes:
            return False
        self._waiting.append((tick + self._params.introduction_ticks, message))
        self.bytes += size
        return True

    def due(self, tick: int) -> list[Message]:
        """The messages that have waited for long enough, the oldest first."""
        messages = []
        while self._waiting and self._waiting[0][0] <= tick:
            _, message = self._waiting.popleft()
            self.bytes -= len(message.encoded)
            messages.append(message)
        return messages
