"""Connections that wait for the next question.

Enters: connections whose answer was read to its end. Leaves: one that may carry another question,
or none. Nothing here waits, and no timer runs: what is too old is closed at the next look, when
the client is closed or goes, or by the node, which waits for
:data:`bzzz.web.site.BETWEEN_QUESTIONS` seconds.
"""

from __future__ import annotations

from collections import deque
from typing import Final, Generic, NamedTuple, Protocol, TypeVar

__all__ = ["Idle", "Kept"]

# How many: a program that asks one thing after the other needs one, and one that asks much at once
# a few, as most of its connections are busy. Each costs the node a descriptor.
MAX_IDLE: Final = 4

# Seconds that one is used after its answer. Less than a third of what the node waits, so that
# neither a busy node nor a busy program makes a question meet the node's end of it.
IDLE_SECONDS: Final = 3.0


class Kept(Protocol):
    """What is kept."""

    def silent(self) -> bool:
        """Whether the other end has neither closed it nor sent anything. Does not wait."""

    def drop(self) -> None:
        """Close it at once, without the loop that it was used in, which may be over."""


K = TypeVar("K", bound=Kept)


class _Place(NamedTuple, Generic[K]):
    connection: K
    since: float
    owner: object


class Idle(Generic[K]):
    """Some connections of one client.

    No lock guards them, which a fork could leave locked for ever: each step on the queue is one
    that no other thread can divide, so that no two take the same connection.
    """

    def __init__(self) -> None:
        self._places: deque[_Place[K]] = deque()

    def __len__(self) -> int:
        return len(self._places)

    def give(self, connection: K, now: float, owner: object) -> None:
        """Keep a connection.

        :param now: seconds on a clock that goes on evenly.
        :param owner: who alone may use it, such as this process.
        """
        self._places.append(_Place(connection, now, owner))
        while len(self._places) > MAX_IDLE and (oldest := self._oldest()) is not None:
            oldest.connection.drop()

    def take(self, now: float, owner: object) -> K | None:
        """The one that was used last, if it can be used. Those that cannot be are closed."""
        while (place := self._newest()) is not None:
            # A clock that went back is another one, and tells nothing.
            fresh = 0 <= now - place.since <= IDLE_SECONDS
            if fresh and place.owner == owner and place.connection.silent():
                return place.connection
            place.connection.drop()
        return None

    def close(self) -> None:
        """Close them all. May be called again."""
        while (place := self._newest()) is not None:
            place.connection.drop()

    def _newest(self) -> _Place[K] | None:
        try:
            return self._places.pop()
        except IndexError:
            return None

    def _oldest(self) -> _Place[K] | None:
        try:
            return self._places.popleft()
        except IndexError:
            return None
