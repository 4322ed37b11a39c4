"""What happened, for people and programs that watch: the last events, and those to come.

Enters: an event's name and its fields. Leaves: dicts ``{"time": RFC 3339, "event": name, ...}``, to
subscribers at once and to whoever asks for the recent ones.
"""

from __future__ import annotations

import datetime
from collections import deque
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import msgspec
from twisted.logger import Logger

from bzzz.errors import BzzzError

__all__ = ["Event", "EventLog", "encode_event", "rfc3339"]

Event = dict[str, Any]

# Events kept for those who ask what happened: at two broadcasts a member every 30 s this is the
# last 5 minutes of a mesh of 50.
CAPACITY = 1000

# Bytes of JSON kept, because messages of peers are among the events and a peer chooses their size.
MAX_BYTES = 4 << 20

# An event that is larger loses its large fields. Documents of real nodes have 1-4 KB.
MAX_EVENT_BYTES = 64 << 10

# A field that an event that is too large may keep, in bytes.
KEPT_FIELD_BYTES = 256

# Whoever follows costs an encoding and a queue; more than this is a program that forgets to stop.
MAX_SUBSCRIBERS = 64

# Anything that JSON does not know (peer IDs, multiaddrs) is shown as its text.
_ENCODER = msgspec.json.Encoder(enc_hook=str)


def rfc3339(seconds: float) -> str:
    """Seconds since the epoch as ``2026-11-24T01:02:03.456Z``."""
    second, micros = divmod(round(seconds * 1_000_000), 1_000_000)
    return f"{_second(second)}.{micros // 1000:03}Z"


@lru_cache(maxsize=256)
def _second(seconds: int) -> str:
    # Most of what is told at one time happened in a few seconds.
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).isoformat()[:19]


def encode_event(event: Event) -> bytes:
    """One line of JSON, without its end."""
    return _ENCODER.encode(event)


class EventLog:
    """A ring of events and those who listen.

    :param wall_time: seconds since the epoch.
    """

    _log = Logger()

    def __init__(self, wall_time: Callable[[], float], capacity: int = CAPACITY) -> None:
        self._wall_time = wall_time
        self._capacity = capacity
        # Encoded, which is a tenth of the size of the dicts and cannot be changed by a subscriber.
        self._ring: deque[bytes] = deque()
        self._bytes = 0
        self._subscribers: dict[object, Callable[[Event], object]] = {}

    def emit(self, event: str, **fields: object) -> None:
        """Something happened. ``fields`` are values that JSON has, or objects with a clear text."""
        entry: Event = {"time": rfc3339(self._wall_time()), "event": event, **fields}
        encoded = encode_event(entry)
        if len(encoded) > MAX_EVENT_BYTES:
            entry = self._without_large_fields(entry, len(encoded))
            encoded = encode_event(entry)
        self._ring.append(encoded)
        self._bytes += len(encoded)
        while len(self._ring) > self._capacity or self._bytes > MAX_BYTES:
            self._bytes -= len(self._ring.popleft())
        for key, subscriber in list(self._subscribers.items()):
            try:
                subscriber(entry)
            except Exception:  # noqa: BLE001 - a watcher's fault must not reach what it watches
                self._log.failure("A subscriber of events failed and gets no more")
                self._subscribers.pop(key, None)

    def _without_large_fields(self, entry: Event, size: int) -> Event:
        kept = {
            key: value
            for key, value in entry.items()
            if len(_ENCODER.encode(value)) <= KEPT_FIELD_BYTES
        }
        return {**dict(list(kept.items())[:32]), "truncated_from_bytes": size}

    def subscribe(self, callback: Callable[[Event], object]) -> Callable[[], None]:
        """Call ``callback`` with each event to come, until the function returned is called.

        The callback must not block or keep the caller waiting; one that raises is dropped.

        :raises BzzzError: when too many listen already.
        """
        if len(self._subscribers) >= MAX_SUBSCRIBERS:
            raise BzzzError(f"{MAX_SUBSCRIBERS} programs follow the events of this node already")
        key = object()
        self._subscribers[key] = callback

        def unsubscribe() -> None:
            self._subscribers.pop(key, None)

        return unsubscribe

    def recent(self) -> list[Event]:
        """The events kept, oldest first."""
        return [msgspec.json.decode(encoded) for encoded in self._ring]

    def recent_lines(self) -> list[bytes]:
        """The same as JSON, without the end of the line: nothing is decoded to be encoded again."""
        return list(self._ring)
