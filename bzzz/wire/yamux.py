"""yamux 1.0: many streams over one connection.

Enters: decrypted bytes of the peer. Leaves: calls on a :class:`YamuxSink`, and frames to send
(:meth:`Yamux.take_output`). libp2p specs, yamux/README.md, which is hashicorp's spec.md.

Data is handed out as it comes, so nothing of the peer's is buffered here but an unfinished header.
What a peer can make the application hold is bounded by the receive windows: each starts at 256 KiB,
is credited when half of it was consumed, and is doubled meanwhile if the application keeps up, so
that only streams which carry much, to somebody who reads, get large windows.

Two things that are not in the specification, learnt from go-yamux: a peer that opens streams from
several threads sends their SYNs out of order; and the length of a reset is an error code.
"""

from __future__ import annotations

from typing import Protocol

from bzzz.errors import LimitExceeded, LocalProtocolError, RemoteProtocolError
from bzzz.wire.limits import ConnectionLimits
from bzzz.wire.yamux_frame import (
    ACK,
    DATA,
    FIN,
    GO_AWAY,
    HEADER,
    HEADER_SIZE,
    MAX_DATA,
    MAX_U32,
    PING,
    RST,
    SYN,
    WINDOW_UPDATE,
    GoAway,
    StreamRecord,
)
from bzzz.wire.yamux_ids import RemoteIDs
from bzzz.wire.yamux_window import ReceiveWindows

__all__ = ["Yamux", "YamuxSink"]

_ALL_FLAGS = SYN | ACK | FIN | RST
_unpack = HEADER.unpack_from
_pack = HEADER.pack


class YamuxSink(Protocol):
    """Told what happens, while it is received. May call the session back from within."""

    def stream_opened(self, stream_id: int) -> None:
        """The peer opened a stream."""

    def stream_data(self, stream_id: int, data: bytes) -> None:
        """Data came."""

    def stream_ended(self, stream_id: int) -> None:
        """The peer ended its half."""

    def stream_reset(self, stream_id: int) -> None:
        """The stream is gone, by the peer or for going over a limit."""

    def stream_writable(self, stream_id: int) -> None:
        """The window of a stream that was full has opened."""

    def pong_received(self, value: int) -> None:
        """The peer answered a ping."""

    def session_ended(self, code: int) -> None:
        """The peer goes away; nothing more of it is read."""


class Yamux:
    """One session.

    Calls on a stream that is gone do nothing, because the peer may have reset it in the same bytes
    that told the application something else. Calls on one that never was are a
    :class:`LocalProtocolError`.

    :param initiator: whether this side dialled; it opens the odd streams.
    :param sink: told what happens.
    :ivar frames_left: how many frames :meth:`receive` takes from here on; negative for all.
    """

    def __init__(
        self, initiator: bool, sink: YamuxSink, limits: ConnectionLimits | None = None
    ) -> None:
        self.frames_left = -1
        self._sink = sink
        self._limits = limits or ConnectionLimits()
        self._streams: dict[int, StreamRecord] = {}
        self._next_id = 1 if initiator else 2
        self._remote_ids = RemoteIDs(odd=not initiator)
        self._inbound = 0
        self._outbound = 0
        self._refused = 0
        self._unacknowledged = 0
        self._waiting: dict[int, StreamRecord] = {}
        self._windows = ReceiveWindows(self._limits)
        self._partial_header = b""
        self._body_left = 0
        self._body_stream = 0
        self._body_ends = False
        self._output: list[bytes | memoryview] = []
        self._reply_bytes = 0
        self._next_ping = 0
        self._pings: dict[int, None] = {}
        self._went_away = False
        self._closed = False

    # -- this side

    @property
    def stream_count(self) -> int:
        """Streams that are open, of both directions."""
        return len(self._streams)

    def open_stream(self, opening: bytes) -> int:
        """Open a stream, whose first data is ``opening``.

        Where too many streams are unacknowledged it waits here, and takes no more data until then.

        :raises LocalProtocolError: this side has said goodbye, or has too many streams.
        """
        if self._went_away and not self._closed:
            raise LocalProtocolError("this side has ended the session; no stream can be opened")
        if self._outbound >= self._limits.outbound_streams:
            raise LocalProtocolError(
                f"{self._outbound} streams are open on one link already; something leaks them"
            )
        stream_id = self._next_id
        if stream_id > MAX_U32:
            raise LocalProtocolError("the session has used up its stream IDs")
        self._next_id += 2
        if self._closed:
            return stream_id
        stream = self._streams[stream_id] = StreamRecord(inbound=False)
        self._outbound += 1
        if self._unacknowledged >= self._limits.unacknowledged_streams:
            stream.waiting = True
            stream.held = opening
            self._waiting[stream_id] = stream
        else:
            self._unacknowledged += 1
            self.send_data(stream_id, opening)
        return stream_id

    def send_data(self, stream_id: int, data: bytes) -> int:
        """Send as much of ``data`` as the peer's window admits.

        :return: how many bytes; if not all, ``stream_writable`` tells when to go on.
        """
        stream = self._streams.get(stream_id)
        if stream is None:
            return self._is_gone(stream_id)
        if stream.ended:
            raise LocalProtocolError(f"stream {stream_id} was ended by this side")
        size = len(data)
        if size > stream.send_window or stream.waiting:
            stream.blocked = True
            size = 0 if stream.waiting else stream.send_window
        if size == 0:
            return 0
        stream.send_window -= size
        flags, stream.due = stream.due, 0
        output = self._output
        if size <= MAX_DATA:
            output.append(_pack(DATA, flags, stream_id, size))
            output.append(data if size == len(data) else data[:size])
            return size
        view = memoryview(data)
        for start in range(0, size, MAX_DATA):
            piece = view[start : min(start + MAX_DATA, size)]
            output.append(_pack(DATA, flags, stream_id, len(piece)))
            output.append(piece)
            flags = 0
        return size

    def stream_window(self, stream_id: int) -> int:
        """Bytes that may be sent on the stream now."""
        stream = self._streams.get(stream_id)
        if stream is None:
            return self._is_gone(stream_id)
        return 0 if stream.waiting or stream.ended else stream.send_window

    def end_stream(self, stream_id: int) -> None:
        """End this side's half of the stream."""
        stream = self._streams.get(stream_id)
        if stream is None:
            self._is_gone(stream_id)
            return
        if stream.ended:
            return
        stream.ended = True
        if stream.waiting:
            return
        self._output.append(_pack(WINDOW_UPDATE, FIN | stream.due, stream_id, 0))
        stream.due = 0
        if stream.remote_ended:
            self._forget(stream_id)

    def reset_stream(self, stream_id: int, code: int = 0) -> None:
        """Give the stream up at both ends.

        :param code: told to a peer that reads such codes, as go-yamux does.
        """
        stream = self._streams.get(stream_id)
        if stream is None:
            self._is_gone(stream_id)
            return
        if not stream.waiting:
            self._output.append(_pack(WINDOW_UPDATE, RST, stream_id, code))
        self._forget(stream_id)

    def refuse_stream(self, stream_id: int) -> None:
        """Reset a stream of the peer's that is over a limit.

        :raises LimitExceeded: it has happened too often.
        """
        if stream_id in self._streams:
            self._forget(stream_id)
        self._refused += 1
        if self._refused > self._limits.refused_streams:
            raise LimitExceeded(
                f"{self._refused} streams were refused and the peer opens more", "too_many_streams"
            )
        self._output.append(_pack(WINDOW_UPDATE, RST, stream_id, 0))
        self.count_reply(HEADER_SIZE)

    def consumed(self, stream_id: int, size: int) -> None:
        """The application took ``size`` bytes of the stream: the peer may send as many more."""
        stream = self._streams.get(stream_id)
        if stream is None:
            self._is_gone(stream_id)
            return
        grant = self._windows.take(stream, size)
        if grant:
            self._output.append(_pack(WINDOW_UPDATE, stream.due, stream_id, grant))
            stream.due = 0

    def send_ping(self) -> int:
        """Ping the peer; the value that ``pong_received`` will tell."""
        value = self._next_ping
        self._next_ping = (value + 1) & MAX_U32
        if len(self._pings) >= self._limits.outstanding_pings:
            del self._pings[next(iter(self._pings))]
        self._pings[value] = None
        if not self._closed:
            self._output.append(_pack(PING, SYN, 0, value))
        return value

    def go_away(self, code: GoAway = GoAway.NORMAL) -> None:
        """Tell the peer that this side ends the session; its new streams are refused from here."""
        if not self._went_away and not self._closed:
            self._went_away = True
            self._output.append(_pack(GO_AWAY, 0, 0, code))

    def close(self) -> None:
        """Read no more; all streams are gone."""
        self._closed = True
        self._streams.clear()
        self._waiting.clear()

    def count_reply(self, size: int) -> None:
        """Note that ``size`` bytes to send were caused by the peer alone.

        :raises LimitExceeded: too many of them wait to be sent.
        """
        self._reply_bytes += size
        if self._reply_bytes > self._limits.queued_replies:
            raise LimitExceeded(
                "the peer asks and asks and does not read the answers", "replies_not_read"
            )

    def take_output(self) -> list[bytes | memoryview]:
        """What is to be sent, in order: headers and pieces of data."""
        output, self._output = self._output, []
        self._reply_bytes = 0
        return output

    # -- the peer

    def receive(self, data: bytes) -> bytes:
        """Take decrypted bytes of the peer.

        :return: what was not taken when :attr:`frames_left` came down to zero; to be given again,
            before anything else.
        :raises RemoteProtocolError: they break the protocol or go over a limit.
        """
        if self._closed:
            return b""
        if self._partial_header:
            data = self._partial_header + data
            self._partial_header = b""
        position = self._receive_body(data) if self._body_left else 0
        size = len(data)
        streams = self._streams
        while size - position >= HEADER_SIZE:
            if self.frames_left == 0:
                return data[position:]
            self.frames_left -= 1
            kind, flags, stream_id, length = _unpack(data, position)
            position += HEADER_SIZE
            if kind != DATA:
                self._control(kind, flags, stream_id, length)
                if self._closed:
                    return b""
                continue
            stream = streams.get(stream_id)
            if flags or stream is None or stream.remote_ended or not stream.acknowledged:
                stream = self._flagged(flags, stream_id)
            if stream is None:
                self._check_discarded(length)
            elif length > stream.receive_window:
                raise RemoteProtocolError(
                    f"{length} bytes on a stream that admits {stream.receive_window}",
                    "window_exceeded",
                )
            elif stream.remote_ended and length:
                raise RemoteProtocolError("data on a stream after its end", "data_after_end")
            else:
                stream.receive_window -= length
            end = position + length
            if end > size:
                self._body_left = length
                self._body_stream = stream_id
                self._body_ends = flags & FIN != 0
                if position < size:
                    self._receive_body(data[position:])
                return b""
            if stream is not None:
                if length:
                    self._deliver(stream_id, stream, data[position:end])
                if flags & FIN:
                    self._end_received(stream_id)
            position = end
        if position < size:
            self._partial_header = data[position:]
        return b""

    # -- inside: receiving

    def _receive_body(self, data: bytes) -> int:
        """More of a data frame's body, of which only the beginning had come; where it ends."""
        stream_id = self._body_stream
        taken = min(self._body_left, len(data))
        self._body_left -= taken
        # A stream that is gone by now is discarded; IDs are never used twice.
        stream = self._streams.get(stream_id)
        if stream is not None:
            self._deliver(stream_id, stream, data[:taken])
        if self._body_ends and not self._body_left:
            self._end_received(stream_id)
        return taken

    def _deliver(self, stream_id: int, stream: StreamRecord, data: bytes) -> None:
        if self._windows.hand_out(stream, len(data)):
            self._sink.stream_data(stream_id, data)
        else:
            self.reset_stream(stream_id)
            self._sink.stream_reset(stream_id)

    def _check_discarded(self, length: int) -> None:
        # What was under way when the stream was given up; never more than a window.
        if length > self._limits.stream_window:
            raise RemoteProtocolError(
                f"{length} bytes on a stream that is not open", "window_exceeded"
            )

    def _control(self, kind: int, flags: int, stream_id: int, value: int) -> None:
        if kind == WINDOW_UPDATE:
            self._window_update(flags, stream_id, value)
            return
        if kind not in (PING, GO_AWAY):
            what = f"version {kind >> 8}" if kind >> 8 else f"frame type {kind}"
            raise RemoteProtocolError(f"yamux {what} is not known", "yamux_header")
        if stream_id:
            raise RemoteProtocolError("a yamux ping or goodbye on a stream", "yamux_stream_id")
        if kind == GO_AWAY:
            if flags:
                raise RemoteProtocolError(f"yamux flags {flags:#x} on a goodbye", "yamux_flags")
            self.close()
            self._sink.session_ended(value)
        elif flags == SYN:
            self._output.append(_pack(PING, ACK, 0, value))
            self.count_reply(HEADER_SIZE)
        elif flags == ACK:
            if value in self._pings:
                del self._pings[value]
                self._sink.pong_received(value)
        else:
            raise RemoteProtocolError(f"yamux flags {flags:#x} on a ping", "yamux_flags")

    def _window_update(self, flags: int, stream_id: int, delta: int) -> None:
        stream = self._flagged(flags, stream_id)
        if stream is None:
            return
        if delta:
            stream.send_window += delta
            if stream.send_window > MAX_U32:
                raise RemoteProtocolError(
                    "the peer opened a window beyond 4 GiB", "window_overflow"
                )
            if stream.blocked and not stream.ended:
                stream.blocked = False
                self._sink.stream_writable(stream_id)
        if flags & FIN:
            self._end_received(stream_id)

    def _flagged(self, flags: int, stream_id: int) -> StreamRecord | None:
        """Act on SYN, ACK and RST; the stream, or None if what is on it is of no interest."""
        if flags & ~_ALL_FLAGS or flags & (SYN | ACK) == SYN | ACK:
            raise RemoteProtocolError(f"yamux flags {flags:#x} on a stream", "yamux_flags")
        stream = self._streams.get(stream_id)
        if flags & SYN:
            return self._opened(stream_id, flags)
        if stream is None or stream.waiting:
            self._check_was_open(stream_id)
            return None
        if not stream.acknowledged:
            # Any frame proves that the peer has the stream.
            stream.acknowledged = True
            self._unacknowledged -= 1
            self._open_waiting()
        elif flags & ACK and stream.inbound:
            raise RemoteProtocolError("the peer acknowledged its own stream", "yamux_flags")
        if flags & RST:
            self._forget(stream_id)
            self._sink.stream_reset(stream_id)
            return None
        return stream

    def _opened(self, stream_id: int, flags: int) -> StreamRecord | None:
        self._remote_ids.use(stream_id)
        if flags & RST:
            return None
        if self._went_away:
            # It may not have seen the goodbye yet, so it is not held against it.
            self._output.append(_pack(WINDOW_UPDATE, RST, stream_id, 0))
            self.count_reply(HEADER_SIZE)
            return None
        if self._inbound >= self._limits.inbound_streams:
            self.refuse_stream(stream_id)
            return None
        self._streams[stream_id] = StreamRecord(inbound=True)
        self._inbound += 1
        self._sink.stream_opened(stream_id)
        return self._streams.get(stream_id)

    def _end_received(self, stream_id: int) -> None:
        stream = self._streams.get(stream_id)
        if stream is None or stream.remote_ended:
            return
        stream.remote_ended = True
        if stream.ended:
            self._forget(stream_id)
        self._sink.stream_ended(stream_id)

    # -- inside: the table of streams

    def _was_open(self, stream_id: int) -> bool:
        if self._remote_ids.owns(stream_id):
            return self._remote_ids.was_used(stream_id)
        return 0 < stream_id < self._next_id and stream_id not in self._waiting

    def _check_was_open(self, stream_id: int) -> None:
        if not self._was_open(stream_id):
            raise RemoteProtocolError(
                f"a frame on stream {stream_id}, which was never opened", "stream_not_open"
            )

    def _is_gone(self, stream_id: int) -> int:
        """0, for a stream that was open and is not any more."""
        if not self._was_open(stream_id) and not self._closed:
            raise LocalProtocolError(f"stream {stream_id} was never opened")
        return 0

    def _open_waiting(self) -> None:
        """Open the streams for which there is room again, in their order."""
        while self._waiting and self._unacknowledged < self._limits.unacknowledged_streams:
            stream_id, stream = next(iter(self._waiting.items()))
            del self._waiting[stream_id]
            self._unacknowledged += 1
            stream.waiting = False
            opening, stream.held = stream.held, b""
            ended, stream.ended = stream.ended, False
            self.send_data(stream_id, opening)
            if ended:
                self.end_stream(stream_id)
            elif stream.blocked:
                stream.blocked = False
                self._sink.stream_writable(stream_id)

    def _forget(self, stream_id: int) -> None:
        stream = self._streams.pop(stream_id)
        self._windows.forget(stream)
        if stream.inbound:
            self._inbound -= 1
            if self._refused and stream.ended and stream.remote_ended:
                self._refused -= 1
            return
        self._outbound -= 1
        if stream.waiting:
            del self._waiting[stream_id]
        elif not stream.acknowledged:
            self._unacknowledged -= 1
            self._open_waiting()
