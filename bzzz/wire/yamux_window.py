"""What of the peer's is on its way to the application, over all streams of a session.

Enters: bytes handed out and bytes taken. Leaves: how much the peer may be credited. libp2p specs,
yamux/README.md, "Flow Control".
"""

from __future__ import annotations

from bzzz.errors import LocalProtocolError
from bzzz.wire.limits import INITIAL_WINDOW, ConnectionLimits
from bzzz.wire.yamux_frame import StreamRecord

__all__ = ["ReceiveWindows"]


class ReceiveWindows:
    """The receive windows of a session's streams, and the two budgets that they share.

    Windows grow without knowing round-trip times: each time half a window was taken and nothing is
    left to take, the application keeps up and the window may be what limits the peer, so it is
    doubled. A stream that carries little never gets there.
    """

    __slots__ = ("_growth", "_limits", "_unconsumed")

    def __init__(self, limits: ConnectionLimits) -> None:
        self._limits = limits
        self._growth = 0
        self._unconsumed = 0

    def hand_out(self, stream: StreamRecord, size: int) -> bool:
        """Count ``size`` bytes as handed out; False if that is more than the session may hold."""
        stream.unconsumed += size
        self._unconsumed += size
        return self._unconsumed <= self._limits.unconsumed_bytes

    def take(self, stream: StreamRecord, size: int) -> int:
        """Count ``size`` bytes as taken.

        :return: what to credit the peer with; 0 while it is too little to tell it.
        :raises LocalProtocolError: more than was handed out.
        """
        if not 0 <= size <= stream.unconsumed:
            raise LocalProtocolError(
                f"{size} bytes of a stream were consumed; {stream.unconsumed} were handed out"
            )
        stream.unconsumed -= size
        self._unconsumed -= size
        stream.credit += size
        if stream.credit * 2 < stream.window or stream.remote_ended:
            return 0
        grant = stream.credit
        stream.credit = 0
        if stream.unconsumed == 0:
            growth = min(
                stream.window,
                self._limits.stream_window - stream.window,
                self._limits.window_growth - self._growth,
            )
            if growth > 0:
                stream.window += growth
                self._growth += growth
                grant += growth
        stream.receive_window += grant
        return grant

    def forget(self, stream: StreamRecord) -> None:
        """The stream is gone, and with it its part of the budgets."""
        self._unconsumed -= stream.unconsumed
        self._growth -= stream.window - INITIAL_WINDOW
