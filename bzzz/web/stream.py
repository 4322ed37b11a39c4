"""Answers that are lines of JSON and may be long in coming.

Enters: objects, as they happen. Leaves: a line for each, as fast as the client takes them.
:class:`LineStream` keeps every line: who sends many waits for :meth:`LineStream.ready`.
:class:`EventStream` is for events, which do not wait: what does not fit into its queue is dropped,
oldest first, and a line tells how many were.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IPushProducer
from twisted.web.server import Request
from zope.interface import implementer

from bzzz.events import Event, encode_event, rfc3339
from bzzz.net.sending import send_now
from bzzz.web.schema import encode

__all__ = ["EventStream", "LineStream", "Streams"]

# Bytes that are written at a time, after which the transport may say that it has enough.
MAX_WRITE = 64 << 10

# Bytes of lines that wait for a client; a terminal that is scrolled up reads nothing for long.
MAX_QUEUED_BYTES = 1 << 20


@implementer(IPushProducer)
class LineStream:
    """Writes lines to a request until :meth:`end`, :meth:`fail`, or its connection ends.

    :ivar ended: whether it has ended: what is sent then goes nowhere.
    :ivar hung_up: whether the client ended it.
    """

    def __init__(self, request: Request) -> None:
        self._request = request
        self._queue: deque[bytes] = deque()
        self._queued_bytes = 0
        self._paused = True
        self._started = False
        self._last = False
        self._held = False
        self._ready: list[Deferred[None]] = []
        self._at_end: list[Callable[[], object]] = []
        self.ended = False
        self.hung_up = False

    # -- for routes

    def send(self, line: object) -> None:
        """Write an object of JSON, or keep it until the client reads on."""
        if not (self.ended or self._last):
            self._add(encode(line))
            self._flush()

    def send_all(self, some: Iterable[object]) -> None:
        """The same with several objects, which are written together."""
        for each in some:
            if self.ended or self._last:
                return
            self._add(encode(each))
            if self._queued_bytes >= MAX_WRITE:
                # The client may take them at once, however many they are.
                self._flush()
        self._flush()

    def hold(self) -> None:
        """Keep lines until :meth:`release`, the end, or there are many: whoever reads them is woken
        once for all."""
        self._held = True

    def release(self) -> None:
        """Write what was kept, and what comes, as fast as the client takes it."""
        self._held = False
        if self._started and not self.ended:
            self._begin()
            self._flush()

    def ready(self) -> Deferred[None]:
        """Fires when the client has read most of what was sent. Fires also at the end."""
        if self.ended or self._queued_bytes < MAX_WRITE:
            return succeed(None)
        ready: Deferred[None] = Deferred()
        self._ready.append(ready)
        return ready

    def on_end(self, call: Callable[[], object]) -> None:
        """Have this called once it has ended, however that was."""
        self._at_end.append(call)

    # -- for who answers the request

    def start(self) -> None:
        """Begin to write."""
        self._started = True
        self._request.setHeader(b"content-type", b"application/x-ndjson")
        self._request.notifyFinish().addCallbacks(lambda _: self._over(), self._lost)
        self._request.registerProducer(self, True)
        if not self._held:
            self._begin()
        self.resumeProducing()

    def end(self) -> None:
        """End the answer in order, once the client has what was sent."""
        self._last = True
        self._flush()

    def fail(self, code: str, message: str) -> None:
        """End likewise, with a last line that says what went wrong."""
        if not (self.ended or self._last):
            self._queue.append(_error(code, message))
            self._queued_bytes += len(self._queue[-1])
            self.end()

    def finish(self) -> None:
        """End the answer now, whatever waits."""
        if self._started and not self.ended:
            self._over()
            transport = self._request.transport
            self._request.unregisterProducer()
            self._request.finish()
            send_now(transport)

    def stop(self) -> None:
        """End the answer now, because the node stops."""
        if self._started and not (self.ended or self._last):
            self._held = False
            self._flush()
            self._request.write(_error("stopping", "the node stops"))
        self.finish()

    # -- inside

    def _begin(self) -> None:
        # Nothing, but the headers before it: the client learns that it is answered.
        self._request.write(b"")

    def _add(self, line: bytes) -> None:
        self._queue.append(line)
        self._queued_bytes += len(line)
        if self._queued_bytes > MAX_QUEUED_BYTES:
            self._overflow()

    def _overflow(self) -> None:
        """More waits than may: the route did not wait until it was ready."""
        self._queue.clear()
        self._queued_bytes = 0
        self.fail("too_slow", f"{MAX_QUEUED_BYTES} bytes of the answer were waiting to be read")
        # Whoever does not read must not keep the route at work.
        self._paused = False
        self._flush()

    def _before(self) -> bytes:
        """What is written before the next line."""
        return b""

    def _flush(self) -> None:
        held = self._held and not self._last and self._queued_bytes < MAX_WRITE
        while self._queue and not (self._paused or held):
            # Many at a time: a write of its own for each of a thousand lines is 10 ms.
            lines = [self._before()]
            size = 0
            while self._queue and size < MAX_WRITE:
                line = self._queue.popleft()
                lines.append(line)
                size += len(line)
            self._queued_bytes -= size
            self._request.write(b"".join(lines))
        if self._queued_bytes < MAX_WRITE:
            self._tell_ready()
        if self._last and not self._queue:
            self.finish()

    def _tell_ready(self) -> None:
        waiting, self._ready = self._ready, []
        for ready in waiting:
            ready.callback(None)

    def _lost(self, _: object) -> None:
        if not self.ended:
            self.hung_up = True
            self._over()

    def _over(self) -> None:
        if self.ended:
            return
        self.ended = True
        self._queue.clear()
        self._queued_bytes = 0
        self._tell_ready()
        calls, self._at_end = self._at_end, []
        for call in calls:
            call()

    def pauseProducing(self) -> None:
        self._paused = True

    def resumeProducing(self) -> None:
        self._paused = False
        self._flush()

    def stopProducing(self) -> None:
        self._lost(None)


class EventStream(LineStream):
    """Writes events to one follower, who may read slower than they happen.

    :param recent: what is sent first.
    """

    def __init__(
        self, request: Request, wall_time: Callable[[], float], recent: Iterable[bytes] = ()
    ) -> None:
        super().__init__(request)
        self._wall_time = wall_time
        self._dropped = 0
        for line in recent:
            self._add(line + b"\n")

    def send(self, line: Any) -> None:
        """Write an event, or keep it until the follower reads on."""
        if not (self.ended or self._last):
            self._add(encode_event(line) + b"\n")
            self._flush()

    def stop(self) -> None:
        """End the answer now: that the node stops is no failure of who follows it."""
        self.finish()

    def _overflow(self) -> None:
        """More happened than fits: the oldest of it goes."""
        while self._queued_bytes > MAX_QUEUED_BYTES:
            self._queued_bytes -= len(self._queue.popleft())
            self._dropped += 1

    def _before(self) -> bytes:
        if not self._dropped:
            return b""
        dropped, self._dropped = self._dropped, 0
        lost: Event = {
            "time": rfc3339(self._wall_time()),
            "event": "events_dropped",
            "count": dropped,
        }
        return encode_event(lost) + b"\n"


class Streams:
    """The streams that are open."""

    def __init__(self) -> None:
        self._open: set[LineStream] = set()

    def __len__(self) -> int:
        return len(self._open)

    def start(self, stream: LineStream) -> None:
        """Begin to write it."""
        self._open.add(stream)
        stream.on_end(lambda: self._open.discard(stream))
        stream.start()

    def close(self) -> None:
        """End them all, because the node stops."""
        for stream in list(self._open):
            stream.stop()


def _error(code: str, message: str) -> bytes:
    return encode({"error": {"code": code, "message": message}})
