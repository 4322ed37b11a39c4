"""Which of the peer's stream IDs were used.

Enters: IDs that the peer opens. Leaves: nothing, or the error that it opened one twice. libp2p
specs, yamux/README.md, "StreamID Field".
"""

from __future__ import annotations

from bzzz.errors import RemoteProtocolError

__all__ = ["RemoteIDs"]

# IDs below the highest one seen that may still be opened. go-yamux opens from several threads: each
# takes its ID and then sends its SYN, so they overtake each other, by no more than its 256
# unacknowledged streams. Beyond: the lowest are taken for used.
SKIPPED_IDS = 256


class RemoteIDs:
    """The IDs of the side that has those of one parity."""

    __slots__ = ("_highest", "_parity", "_skipped")

    def __init__(self, odd: bool) -> None:
        self._parity = int(odd)
        self._highest = -1 if odd else 0
        self._skipped: dict[int, None] = {}

    def owns(self, stream_id: int) -> bool:
        """Whether the ID is the peer's to open."""
        return stream_id > 0 and stream_id & 1 == self._parity

    def was_used(self, stream_id: int) -> bool:
        """Whether a stream of this ID was opened, or can be no more."""
        return stream_id <= self._highest and stream_id not in self._skipped

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
            del self._skipped[stream_id]
            return
        first = max(self._highest + 2, stream_id - 2 * SKIPPED_IDS)
        self._highest = stream_id
        if first == stream_id:
            return
        self._skipped.update(dict.fromkeys(range(first, stream_id, 2)))
        while len(self._skipped) > SKIPPED_IDS:
            del self._skipped[next(iter(self._skipped))]
