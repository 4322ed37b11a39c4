"""Which of the peer's stream IDs were used.

Enters: IDs that the peer opens. Leaves: nothing, or the error that it opened one twice. libp2p
specs, yamux/README.md, "StreamID Field".
"""

from __future__ import annotations

from bzzz.errors import RemoteProtocolError

__all__ = ["RemoteIDs"]

# How far below the highest ID seen one may still be opened, in IDs. go-yamux opens from several
# threads: each takes its ID and then sends its SYN, so they overtake each other, with no more than
# 256 streams unacknowledged. Beyond: what was left out is taken for used.
SKIPPED_IDS = 1024

_ALL_SKIPPED = (1 << SKIPPED_IDS) - 1


class RemoteIDs:
    """The IDs of the side that has those of one parity."""

    __slots__ = ("_highest", "_parity", "_skipped")

    def __init__(self, odd: bool) -> None:
        self._parity = int(odd)
        self._highest = -1 if odd else 0
        # Bit n stands for the ID n + 1 places below the highest, and is set while that was left
        # out. An integer, because a peer can leave out a thousand IDs with every 12 bytes it sends.
        self._skipped = 0

    def owns(self, stream_id: int) -> bool:
        """Whether the ID is the peer's to open."""
        return stream_id > 0 and stream_id & 1 == self._parity

    def was_used(self, stream_id: int) -> bool:
        """Whether a stream of this ID was opened, or can be no more."""
        if stream_id >= self._highest:
            return stream_id == self._highest
        return not self._skipped >> ((self._highest - stream_id) // 2 - 1) & 1

    def use(self, stream_id: int) -> None:
        """The peer opens a stream.

        :raises RemoteProtocolError: it did before, or the ID is not its own.
        """
        if not self.owns(stream_id):
            raise RemoteProtocolError(
                f"the peer opened stream {stream_id}, an ID that is not its own", "yamux_stream_id"
            )
        if self.was_used(stream_id):
            raise RemoteProtocolError(
                f"the peer opened stream {stream_id} twice", "stream_id_reused"
            )
        if stream_id < self._highest:
            self._skipped ^= 1 << ((self._highest - stream_id) // 2 - 1)
            return
        places = (stream_id - self._highest) // 2
        self._highest = stream_id
        if places > SKIPPED_IDS:
            self._skipped = _ALL_SKIPPED
        else:
            left_out = (1 << (places - 1)) - 1
            self._skipped = (self._skipped << places | left_out) & _ALL_SKIPPED
