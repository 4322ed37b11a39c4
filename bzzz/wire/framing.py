"""Messages on a stream, each behind its length as an unsigned varint.

Enters: bytes of a stream, however they are cut. Leaves: the messages that are whole. This is the
framing of identify, gossipsub and Bzzz's own protocols (multiformats/unsigned-varint; libp2p specs,
pubsub/README.md, "The RPC").
"""

from __future__ import annotations

from bzzz.errors import LimitExceeded
from bzzz.wire import varint

__all__ = ["FrameReader", "frame"]


def frame(message: bytes) -> bytes:
    """``message`` behind its length."""
    return varint.encode(len(message)) + message


class FrameReader:
    """Cuts a stream into messages.

    Once it raised it is of no more use, and messages before the wrong one in the same bytes are
    lost: the stream is to be reset.

    :param max_length: bytes of the longest message accepted; at most this, its length and what one
        :meth:`receive` brings is held.
    """

    def __init__(self, max_length: int) -> None:
        self._max_length = max_length
        # Not a list of the pieces: a peer that sends two bytes at a time would make each of them
        # cost twenty times its size.
        self._buffer = bytearray()
        self._need = 0

    @property
    def buffered(self) -> int:
        """Bytes of a message that is not whole yet."""
        return len(self._buffer)

    def receive(self, data: bytes) -> list[bytes]:
        """The messages that ``data`` completes.

        :raises LimitExceeded: a message is announced that is longer than allowed.
        :raises RemoteProtocolError: its length cannot be read.
        """
        buffer = self._buffer
        if buffer:
            buffer += data
            if len(buffer) < self._need:
                return []
            data = bytes(buffer)
            buffer.clear()
        messages = []
        offset = 0
        size = len(data)
        while offset < size:
            head = varint.decode(data, offset)
            if head is None:
                self._need = 0
                break
            length, start = head
            if length > self._max_length:
                raise LimitExceeded(
                    f"a message of {length} bytes is announced; {self._max_length} are allowed",
                    "message_too_long",
                )
            end = start + length
            if end > size:
                self._need = end - offset
                break
            messages.append(data[start:end])
            offset = end
        if offset < size:
            buffer += data[offset:]
        return messages
