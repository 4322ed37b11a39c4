"""What one peer may make one link hold, in one place.

Nothing enters or leaves: these are the caps that :mod:`~bzzz.wire.connection` and
:mod:`~bzzz.wire.yamux` keep to. Each default stands beside its reason and the answer that the peer
gets when it is reached.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["INITIAL_WINDOW", "ConnectionLimits"]

# Not a choice: yamux fixes it ("Flow Control"), for every stream and both directions.
INITIAL_WINDOW = 256 * 1024

# Streams that the peer has open here. A stream costs about 1 kB before its first byte, and go-yamux
# admits 1000. Beyond: the new stream is reset.
INBOUND_STREAMS = 1024

# Inbound streams without an agreed protocol. Agreement takes one message, so those that are left
# wait on purpose or are on a slow link; as many as a peer may have unacknowledged. Beyond: the new
# stream is reset.
NEGOTIATING_STREAMS = 256

# Streams that this side has open. Nobody here needs as many, so a leak is noticed. Beyond: opening
# one is a LocalProtocolError.
OUTBOUND_STREAMS = 4096

# Pings of this side that may be unanswered; answers to older ones are ignored. A node pings a link
# once in a while and gives it up after a few.
OUTSTANDING_PINGS = 32

# Own streams opened and not acknowledged: "at most an ACK backlog of 256 streams" (yamux, "ACK
# backlog"). Beyond: they wait here, and are opened in order as others are acknowledged.
UNACKNOWLEDGED_STREAMS = 256

# Streams refused for the limits above, less those that ended in order since. A peer that was told
# no this often is not going to stop. Beyond: the link ends.
REFUSED_STREAMS = 1024

# How far the window of a stream that carries much may grow: a gigabit with 30 ms of round trip, or
# ten with 3 ms. Beyond: it stays.
STREAM_WINDOW = 4 * 1024 * 1024

# By how much all windows of a link together may have grown beyond their first 256 KiB: two streams
# at full speed. Beyond: the others stay at what they have.
WINDOW_GROWTH = 8 * 1024 * 1024

# Bytes received and not yet taken by the application, all streams together. Yamux has no window for
# the link, so without this 1024 paused streams could hold 256 MiB. It is twice what windows may
# grow by, so two paused transfers and 30 paused streams fit. Beyond: the stream is reset.
UNCONSUMED_BYTES = 16 * 1024 * 1024

# Answers (to pings, to refused streams, to proposals) that wait to be sent. They only pile up if
# the peer keeps asking and does not read, and the transport takes no more. Beyond: the link ends.
QUEUED_REPLIES = 256 * 1024

# Proposals in one negotiation. A node speaks a dozen protocols in a few versions each. Beyond: the
# stream (or the link, where it is the link's own negotiation) ends.
PROPOSALS = 100


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """Caps on what a peer can make one link hold; the reasons are beside the constants above.

    :ivar inbound_streams: streams that the peer has open.
    :ivar negotiating_streams: those of them that have no protocol yet.
    :ivar outbound_streams: streams that this side has open.
    :ivar unacknowledged_streams: those of them that the peer has not acknowledged.
    :ivar outstanding_pings: pings of this side that are remembered.
    :ivar refused_streams: refusals before the link ends.
    :ivar stream_window: how far one stream's receive window may grow, in bytes.
    :ivar window_growth: how far all windows together may have grown, in bytes.
    :ivar unconsumed_bytes: received bytes that the application has not taken.
    :ivar queued_replies: bytes of answers that wait to be sent.
    :ivar proposals: proposals in one negotiation.
    """

    inbound_streams: int = INBOUND_STREAMS
    negotiating_streams: int = NEGOTIATING_STREAMS
    outbound_streams: int = OUTBOUND_STREAMS
    unacknowledged_streams: int = UNACKNOWLEDGED_STREAMS
    outstanding_pings: int = OUTSTANDING_PINGS
    refused_streams: int = REFUSED_STREAMS
    stream_window: int = STREAM_WINDOW
    window_growth: int = WINDOW_GROWTH
    unconsumed_bytes: int = UNCONSUMED_BYTES
    queued_replies: int = QUEUED_REPLIES
    proposals: int = PROPOSALS
