"""What a gossipsub node remembers of messages: IDs for long, bodies for a few heartbeats.

Enters: messages and their IDs. Leaves: whether an ID is known, IDs to tell, messages that a peer
asks for. libp2p specs: pubsub/gossipsub/gossipsub-v1.0.md "Message Cache".
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from itertools import chain, islice

from bzzz.identity.peer_id import PeerID
from bzzz.wire.gossip_message import Sendable

__all__ = ["MessageCache", "SeenCache"]


class SeenCache:
    """Message IDs seen in the last ``ttl`` seconds.

    An ID keeps the time of its first sight, so the oldest is always in front. When ``limit`` is
    reached the oldest is forgotten early: its message could then be accepted once more, which
    readers of state have to bear anyway.

    :ivar evicted: how many were forgotten early.
    """

    def __init__(self, ttl: float, limit: int) -> None:
        self._ttl = ttl
        self._limit = limit
        self._since: dict[bytes, float] = {}
        self.evicted = 0

    def __contains__(self, message_id: bytes) -> bool:
        return message_id in self._since

    def __len__(self) -> int:
        return len(self._since)

    def add(self, message_id: bytes, now: float) -> bool:
        """Remember the ID; whether it is new."""
        since = self._since
        if message_id in since:
            return False
        if len(since) >= self._limit:
            del since[next(iter(since))]
            self.evicted += 1
        since[message_id] = now
        return True

    def forget(self, message_id: bytes) -> None:
        """Take the message for new when it comes again."""
        self._since.pop(message_id, None)

    def expire(self, now: float) -> None:
        """Forget what is older than the time to live; costs only what is forgotten."""
        since = self._since
        before = now - self._ttl
        while since:
            oldest = next(iter(since))
            if since[oldest] > before:
                return
            del since[oldest]


@dataclass(slots=True)
class _Window:
    """IDs of one heartbeat's messages."""

    told: dict[str, list[bytes]] = field(default_factory=dict)
    quiet: list[bytes] = field(default_factory=list)


class MessageCache:
    """The messages of the last ``length`` heartbeats, for peers that ask for them.

    When ``max_bytes`` is reached the oldest messages go early: peers that ask for them get
    nothing from here.

    :param gossip: for how many heartbeats IDs are told.
    :ivar bytes: what all messages held cost, about.
    :ivar evicted: how many went early.
    """

    def __init__(self, length: int, gossip: int, max_bytes: int) -> None:
        self._gossip = gossip
        self._max_bytes = max_bytes
        self._messages: dict[bytes, Sendable] = {}
        self._sent: dict[bytes, dict[PeerID, int]] = {}
        self._windows: deque[_Window] = deque((_Window() for _ in range(length)), length)
        self.bytes = 0
        self.evicted = 0

    def __len__(self) -> int:
        return len(self._messages)

    def put(self, message: Sendable, told: bool = True) -> None:
        """Keep a message in the current window.

        :param told: whether its ID is for :meth:`gossip_ids`.
        """
        if message.id in self._messages:
            return
        self._messages[message.id] = message
        self.bytes += message.cost
        window = self._windows[0]
        (window.told.setdefault(message.topic, []) if told else window.quiet).append(message.id)
        while self.bytes > self._max_bytes and len(self._messages) > 1:
            self._forget(next(iter(self._messages)))
            self.evicted += 1

    def get(self, message_id: bytes) -> Sendable | None:
        """The message, if it is still held."""
        return self._messages.get(message_id)

    def get_for_peer(self, message_id: bytes, peer: PeerID, most: int) -> Sendable | None:
        """The message, counting that ``peer`` asked; None when it did more than ``most`` times."""
        message = self._messages.get(message_id)
        if message is None:
            return None
        sent = self._sent.setdefault(message_id, {})
        count = sent.get(peer, 0)
        if count >= most:
            return None
        sent[peer] = count + 1
        return message

    def gossip_ids(self, topic: str) -> list[bytes]:
        """IDs of the topic's messages in the windows that are told."""
        ids: list[bytes] = []
        messages = self._messages
        for window in islice(self._windows, self._gossip):
            known = window.told.get(topic)
            if known:
                ids.extend(message_id for message_id in known if message_id in messages)
        return ids

    def clear(self) -> None:
        """Keep no message; who asks for one gets nothing."""
        for _ in range(len(self._windows)):
            self.shift()

    def shift(self) -> None:
        """A heartbeat has passed: forget the oldest window, and start a new one."""
        windows = self._windows
        oldest = windows[-1]
        for message_id in chain(oldest.quiet, *oldest.told.values()):
            if message_id in self._messages:
                self._forget(message_id)
        windows.appendleft(_Window())  # drops the last, the deque has its length

    def _forget(self, message_id: bytes) -> None:
        message = self._messages.pop(message_id)
        self.bytes -= message.cost
        self._sent.pop(message_id, None)
