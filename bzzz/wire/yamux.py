"""yamux 1.0: many streams over one connection (libp2p specs, yamux/README.md; hashicorp's spec.md).

Enters: decrypted bytes of the peer. Leaves: events, and frames to send (:meth:`Yamux.take_output`). A frame
is a header of 12 bytes (version, type, flags, stream ID, length) and, for data, that many bytes. Data is
handed out as it comes, so nothing is buffered here but an unfinished header.

A stream's receive window starts at 256 KiB. When half of it has been consumed the peer is credited,
and a stream that is read that fast gets a larger window, up to 1 MiB while the connection's budget lasts:
what a paused reader can make this side hold is bounded by the windows alone.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from struct import Struct

from bzzz.errors import LimitExceeded, LocalProtocolError, RemoteProtocolError

__all__ = ["GoAway", "Yamux", "YamuxEvents", "YamuxLimits"]

VERSION = 0
HEADER = Struct(">BBHII")
HEADER_SIZE = 12

DATA, WINDOW_UPDATE, PING, GO_AWAY = 0, 1, 2, 3
SYN, ACK, FIN, RST = 1, 2, 4, 8

INITIAL_WINDOW = 262144
MAX_U32 = (1 << 32) - 1


class GoAway(enum.IntEnum):
    """Why a session ends."""

    NORMAL = 0
    PROTOCOL_ERROR = 1
    INTERNAL_ERROR = 2


@dataclass(frozen=True)
class YamuxLimits:
    """Caps on what the peer can make this side hold.

    :ivar inbound_streams: streams of the peer that are open at once; more are reset. Bzzz holds about
        three per link, go-libp2p allows 1000.
    :ivar refusals: streams reset for that before the link is cut: nobody does it by mistake.
    :ivar window: bytes of the largest receive window.
    :ivar window_budget: bytes by which the windows of one connection may in all exceed their
        initial size.
    :ivar frame: bytes of data in one frame sent, so that frame and header fit one Noise message.
    """

    inbound_streams: int = 1024
    refusals: int = 4096
    window: int = 1 << 20
    window_budget: int = 8 << 20
    frame: int = 65535 - 16 - HEADER_SIZE


class YamuxEvents:
    """Told what happens; the connection overrides what it needs."""

    def stream_opened(self, stream_id: int) -> None:
        """The peer opened a stream."""

    def stream_data(self, stream_id: int, data: bytes) -> None:
        """Data came."""

    def stream_ended(self, stream_id: int) -> None:
        """The peer sends no more on the stream."""

    def stream_reset(self, stream_id: int) -> None:
        """The peer reset the stream."""

    def stream_writable(self, stream_id: int) -> None:
        """The window of a stream that was full has opened."""

    def pong(self, value: int) -> None:
        """The peer answered a ping."""

    def gone_away(self, code: int) -> None:
        """The peer ends the session."""


class _Stream:
    __slots__ = (
        "acknowledged",
        "blocked",
        "consumed",
        "ended",
        "inbound",
        "receive_window",
        "remote_ended",
        "send_window",
        "window",
    )

    def __init__(self, inbound: bool) -> None:
        self.inbound = inbound
        self.acknowledged = not inbound
        self.send_window = INITIAL_WINDOW
        self.receive_window = INITIAL_WINDOW
        self.window = INITIAL_WINDOW
        self.consumed = 0
        self.blocked = False
        self.ended = False
        self.remote_ended = False


class Yamux:
    """One session.

    :param initiator: whether this side dialled; it opens the odd streams.
    :param events: told what happens, within :meth:`receive`.
    """

    def __init__(
        self, initiator: bool, events: YamuxEvents, limits: YamuxLimits | None = None
    ) -> None:
        self._events = events
        self._limits = limits or YamuxLimits()
        self._next_id = 1 if initiator else 2
        self._remote_parity = 0 if initiator else 1
        self._streams: dict[int, _Stream] = {}
        self._inbound = 0
        self._refused = 0
        self._head = b""
        self._left = 0
        self._left_stream = 0
        self._left_flags = 0
        self._output: list[bytes] = []
        self._extra_window = 0
        self._next_ping = 0
        self._pings: set[int] = set()
        self._went_away = False

    # -- this side

    def open_stream(self) -> int:
        """Open a stream.

        :raises LocalProtocolError: the session ends, or the stream IDs are used up.
        """
        if self._went_away or self._next_id > MAX_U32:
            raise LocalProtocolError("no stream can be opened on this session any more")
        stream_id = self._next_id
        self._next_id += 2
        self._streams[stream_id] = _Stream(inbound=False)
        self._output.append(HEADER.pack(VERSION, WINDOW_UPDATE, SYN, stream_id, 0))
        return stream_id

    def send_data(self, stream_id: int, data: bytes) -> int:
        """Send as much of ``data`` as the peer's window admits; the count of bytes taken."""
        stream = self._own(stream_id)
        if stream.ended:
            raise LocalProtocolError(f"stream {stream_id} is ended")
        size = len(data)
        if size > stream.send_window:
            size = stream.send_window
            stream.blocked = True
            if size == 0:
                return 0
        stream.send_window -= size
        flags = 0 if stream.acknowledged else self._acknowledge(stream)
        frame = self._limits.frame
        output = self._output
        if size <= frame:
            output.append(HEADER.pack(VERSION, DATA, flags, stream_id, size))
            output.append(data if size == len(data) else data[:size])
            return size
        for start in range(0, size, frame):
            piece = data[start : min(start + frame, size)]
            output.append(HEADER.pack(VERSION, DATA, flags, stream_id, len(piece)))
            output.append(piece)
            flags = 0
        return size

    def stream_window(self, stream_id: int) -> int:
        """Bytes that may be sent on the stream now."""
        return self._own(stream_id).send_window

    def end_stream(self, stream_id: int) -> None:
        """Send no more on the stream."""
        stream = self._own(stream_id)
        if stream.ended:
            return
        stream.ended = True
        flags = FIN if stream.acknowledged else FIN | self._acknowledge(stream)
        self._output.append(HEADER.pack(VERSION, WINDOW_UPDATE, flags, stream_id, 0))
        if stream.remote_ended:
            self._forget(stream_id)

    def reset_stream(self, stream_id: int) -> None:
        """Forget the stream at both ends; harmless for one that is gone."""
        if stream_id in self._streams:
            self._output.append(HEADER.pack(VERSION, WINDOW_UPDATE, RST, stream_id, 0))
            self._forget(stream_id)

    def consumed(self, stream_id: int, size: int) -> None:
        """``size`` bytes were taken by the application; harmless for a stream that is gone."""
        stream = self._streams.get(stream_id)
        if stream is None:
            return
        stream.consumed += size
        if stream.consumed * 2 < stream.window or stream.remote_ended:
            return
        credit = stream.consumed
        stream.consumed = 0
        more = min(
            stream.window,
            self._limits.window - stream.window,
            self._limits.window_budget - self._extra_window,
        )
        if more > 0:
            stream.window += more
            self._extra_window += more
            credit += more
        stream.receive_window += credit
        flags = 0 if stream.acknowledged else self._acknowledge(stream)
        self._output.append(HEADER.pack(VERSION, WINDOW_UPDATE, flags, stream_id, credit))

    def send_ping(self) -> int:
        """Ping the peer; the value that its answer will have."""
        value = self._next_ping
        self._next_ping = (value + 1) & MAX_U32
        self._pings.add(value)
        self._output.append(HEADER.pack(VERSION, PING, SYN, 0, value))
        return value

    def go_away(self, code: GoAway = GoAway.NORMAL) -> None:
        """Tell the peer that the session ends."""
        if not self._went_away:
            self._went_away = True
            self._output.append(HEADER.pack(VERSION, GO_AWAY, 0, 0, code))

    def take_output(self) -> list[bytes]:
        """What is to be sent: headers and pieces of data."""
        output, self._output = self._output, []
        return output

    @property
    def stream_count(self) -> int:
        """Open streams, of both sides."""
        return len(self._streams)

    # -- the peer

    def receive(self, data: bytes) -> None:
        """Take decrypted bytes of the peer; events are told meanwhile.

        :raises RemoteProtocolError: the peer broke the protocol or a limit.
        """
        position = 0
        size = len(data)
        if self._head:
            position = HEADER_SIZE - len(self._head)
            self._head += data[:position]
            if len(self._head) < HEADER_SIZE:
                return
            head, self._head = self._head, b""
            self._frame(*HEADER.unpack(head))
        while position < size:
            if self._left:
                end = min(position + self._left, size)
                self._left -= end - position
                stream_id = self._left_stream
                if stream_id in self._streams:
                    whole = position == 0 and end == size
                    self._events.stream_data(stream_id, data if whole else data[position:end])
                position = end
                if not self._left and self._left_flags:
                    self._ended(stream_id)
            elif size - position < HEADER_SIZE:
                self._head = data[position:]
                return
            else:
                fields = HEADER.unpack_from(data, position)
                position += HEADER_SIZE
                self._frame(*fields)

    def _frame(self, version: int, kind: int, flags: int, stream_id: int, length: int) -> None:
        if version != VERSION:
            raise RemoteProtocolError(f"yamux version {version} is not known", "yamux_version")
        if kind == DATA:
            self._data_frame(flags, stream_id, length)
        elif kind == WINDOW_UPDATE:
            self._window_frame(flags, stream_id, length)
        elif kind == PING:
            self._ping_frame(flags, stream_id, length)
        elif kind == GO_AWAY:
            if stream_id:
                raise RemoteProtocolError("yamux GO_AWAY names a stream", "yamux_stream_id")
            self._events.gone_away(length)
        else:
            raise RemoteProtocolError(f"yamux frame type {kind} is not known", "yamux_type")

    def _data_frame(self, flags: int, stream_id: int, length: int) -> None:
        stream = self._flagged(flags, stream_id)
        if stream is None:
            # Under way while the stream was reset here: at most what its window had admitted.
            if length > self._limits.window:
                raise RemoteProtocolError(
                    f"{length} bytes are announced on a stream that is not open",
                    "window_exceeded",
                )
        else:
            if stream.remote_ended:
                raise RemoteProtocolError("data on a stream after its end", "yamux_after_end")
            if length > stream.receive_window:
                raise RemoteProtocolError(
                    f"{length} bytes are announced where {stream.receive_window} are admitted",
                    "window_exceeded",
                )
            stream.receive_window -= length
        if length:
            self._left = length
            self._left_stream = stream_id
            self._left_flags = flags & FIN
        elif flags & FIN:
            self._ended(stream_id)

    def _window_frame(self, flags: int, stream_id: int, delta: int) -> None:
        stream = self._flagged(flags, stream_id)
        if stream is None:
            return
        if delta:
            if stream.send_window + delta > MAX_U32:
                raise RemoteProtocolError("a yamux window overflows", "window_overflow")
            stream.send_window += delta
            if stream.blocked:
                stream.blocked = False
                self._events.stream_writable(stream_id)
        if flags & FIN:
            self._ended(stream_id)

    def _ping_frame(self, flags: int, stream_id: int, value: int) -> None:
        if stream_id:
            raise RemoteProtocolError("a yamux ping names a stream", "yamux_stream_id")
        if flags & SYN:
            self._output.append(HEADER.pack(VERSION, PING, ACK, 0, value))
        elif flags & ACK and value in self._pings:
            self._pings.remove(value)
            self._events.pong(value)

    def _flagged(self, flags: int, stream_id: int) -> _Stream | None:
        """Act on SYN and RST; the stream, or None where it is not open."""
        if flags & ~(SYN | ACK | FIN | RST):
            raise RemoteProtocolError(f"yamux flags {flags:#x} are not known", "yamux_flags")
        if stream_id == 0:
            raise RemoteProtocolError("a yamux frame of the session's own stream", "yamux_stream_id")
        if flags & SYN:
            return self._opened(stream_id)
        stream = self._streams.get(stream_id)
        if stream is not None and flags & RST:
            self._forget(stream_id)
            self._events.stream_reset(stream_id)
            return None
        return stream

    def _opened(self, stream_id: int) -> _Stream | None:
        if stream_id % 2 != self._remote_parity:
            raise RemoteProtocolError("the peer opened a stream with our parity", "yamux_parity")
        if stream_id in self._streams:
            raise RemoteProtocolError("the peer opened a stream twice", "yamux_reopened")
        if self._inbound >= self._limits.inbound_streams or self._went_away:
            self._refused += 1
            if self._refused > self._limits.refusals:
                raise LimitExceeded("the peer opens streams without end", "too_many_streams")
            self._output.append(HEADER.pack(VERSION, WINDOW_UPDATE, RST, stream_id, 0))
            return None
        stream = self._streams[stream_id] = _Stream(inbound=True)
        self._inbound += 1
        self._events.stream_opened(stream_id)
        return self._streams.get(stream_id, stream)

    def _ended(self, stream_id: int) -> None:
        stream = self._streams.get(stream_id)
        if stream is None or stream.remote_ended:
            return
        stream.remote_ended = True
        if stream.ended:
            self._forget(stream_id)
        self._events.stream_ended(stream_id)

    # -- inside

    def _acknowledge(self, stream: _Stream) -> int:
        stream.acknowledged = True
        return ACK

    def _own(self, stream_id: int) -> _Stream:
        stream = self._streams.get(stream_id)
        if stream is None:
            raise LocalProtocolError(f"stream {stream_id} is not open")
        return stream

    def _forget(self, stream_id: int) -> None:
        stream = self._streams.pop(stream_id)
        self._extra_window -= stream.window - INITIAL_WINDOW
        if stream.inbound:
            self._inbound -= 1


