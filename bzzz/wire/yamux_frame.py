"""The header of a yamux frame, and one stream as both its ends count it.

Enters and leaves: numbers. libp2p specs, yamux/README.md, "Framing" and "Flow Control".
"""

from __future__ import annotations

import enum
from struct import Struct

from bzzz.wire.limits import INITIAL_WINDOW

__all__ = [
    "ACK",
    "DATA",
    "FIN",
    "GO_AWAY",
    "HEADER",
    "HEADER_SIZE",
    "MAX_DATA",
    "MAX_U32",
    "PING",
    "RST",
    "SYN",
    "WINDOW_UPDATE",
    "GoAway",
    "StreamRecord",
]

# Version (always 0) and type are read as one number, so a known type proves the version too.
HEADER = Struct(">HHII")
HEADER_SIZE = HEADER.size

DATA, WINDOW_UPDATE, PING, GO_AWAY = 0, 1, 2, 3
SYN, ACK, FIN, RST = 1, 2, 4, 8

MAX_U32 = 0xFFFFFFFF

# Bytes of data in one frame sent: with its header it fills one Noise message of 65535 bytes, 16 of
# which are the tag. Fewer would cost more calls of the cipher, more would be cut by it anyway.
MAX_DATA = 65535 - 16 - HEADER_SIZE


class GoAway(enum.IntEnum):
    """Why a session ends ("Session termination").

    The last one is of libp2p's own ("error-codes"): one may try again after a while. Other
    implementations of yamux take any code as the end.
    """

    NORMAL = 0
    PROTOCOL_ERROR = 1
    INTERNAL_ERROR = 2
    RESOURCE_LIMIT_EXCEEDED = 0x1001


class StreamRecord:
    """What is known of one stream while it is open.

    :ivar inbound: whether the peer opened it.
    :ivar due: flags that ride on the next frame sent: SYN of an own stream, ACK of the peer's.
    :ivar waiting: an own stream that is not open yet, because too many are unacknowledged.
    :ivar held: for such a stream, what is sent as soon as it is open.
    :ivar acknowledged: whether the peer has answered an own stream; always true for the peer's.
    :ivar send_window: bytes the peer still admits.
    :ivar blocked: whether something did not fit ``send_window``, so that opening it is news.
    :ivar receive_window: bytes the peer may still send.
    :ivar window: what ``receive_window`` is filled up to.
    :ivar unconsumed: bytes handed out and not yet taken by the application.
    :ivar credit: bytes taken, for which the peer has not been credited yet.
    :ivar ended: whether this side has ended its half.
    :ivar remote_ended: whether the peer has ended its half.
    """

    __slots__ = (
        "acknowledged",
        "blocked",
        "credit",
        "due",
        "ended",
        "held",
        "inbound",
        "receive_window",
        "remote_ended",
        "send_window",
        "unconsumed",
        "waiting",
        "window",
    )

    def __init__(self, inbound: bool) -> None:
        self.inbound = inbound
        self.due = ACK if inbound else SYN
        self.waiting = False
        self.held = b""
        self.acknowledged = inbound
        self.send_window = INITIAL_WINDOW
        self.blocked = False
        self.receive_window = INITIAL_WINDOW
        self.window = INITIAL_WINDOW
        self.unconsumed = 0
        self.credit = 0
        self.ended = False
        self.remote_ended = False
