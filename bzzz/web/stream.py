"""Events to one follower, who may read slower than they happen.

Enters: events. Leaves: lines of JSON, as fast as the follower takes them. What does not fit into
the queue is dropped, oldest first, and a line tells how many were.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable

from twisted.internet.interfaces import IPushProducer
from twisted.web.server import Request
from zope.interface import implementer

from bzzz.events import Event, encode_event, rfc3339

__all__ = ["EventStream"]

# Bytes that are written at a time, after which the transport may say that it has enough.
MAX_WRITE = 64 << 10

# Bytes of events that wait for a follower; a terminal that is scrolled up reads nothing for long.
MAX_QUEUED_BYTES = 1 << 20


@implementer(IPushProducer)
class EventStream:
    """Writes events to a request until its connection ends or :meth:`finish` is called.

    :param recent: what is sent first.
    """

    def __init__(
        self, request: Request, wall_time: Callable[[], float], recent: Iterable[bytes] = ()
    ) -> None:
        self._request = request
        self._wall_time = wall_time
        self._queue: deque[bytes] = deque()
        self._queued_bytes = 0
        self._dropped = 0
        self._paused = True
        self._ended = False
        self._finish_when_empty = False
        for line in recent:
            self._add(line)

    def start(self, *, finish_when_empty: bool = False) -> None:
        """Begin to write; ``finish_when_empty`` with what is there, which then is all."""
        self._finish_when_empty = finish_when_empty
        self._request.registerProducer(self, True)
        # Nothing, but the headers before it: the follower learns that it follows.
        self._request.write(b"")
        self.resumeProducing()

    def send(self, event: Event) -> None:
        """Write an event, or keep it until the follower reads on."""
        if not self._ended:
            self._add(encode_event(event))
            self._flush()

    def _add(self, line: bytes) -> None:
        line += b"\n"
        self._queue.append(line)
        self._queued_bytes += len(line)
        while self._queued_bytes > MAX_QUEUED_BYTES:
            self._queued_bytes -= len(self._queue.popleft())
            self._dropped += 1

    def _flush(self) -> None:
        while self._queue and not self._paused:
            if self._dropped:
                dropped, self._dropped = self._dropped, 0
                lost: Event = {
                    "time": rfc3339(self._wall_time()),
                    "event": "events_dropped",
                    "count": dropped,
                }
                self._request.write(encode_event(lost) + b"\n")
            # Many at a time: a write of its own for each of a thousand lines is 10 ms.
            lines = []
            size = 0
            while self._queue and size < MAX_WRITE:
                line = self._queue.popleft()
                lines.append(line)
                size += len(line)
            self._queued_bytes -= size
            self._request.write(b"".join(lines))
        if self._finish_when_empty and not self._queue and not self._ended:
            self.finish()

    def finish(self) -> None:
        """End the answer in order."""
        if not self._ended:
            self._ended = True
            self._request.unregisterProducer()
            self._request.finish()

    def lost(self) -> None:
        """The connection ended."""
        self._ended = True
        self._queue.clear()

    def pauseProducing(self) -> None:
        self._paused = True

    def resumeProducing(self) -> None:
        self._paused = False
        self._flush()

    def stopProducing(self) -> None:
        self.lost()
