"""Messages on a stream, each behind its length as an unsigned varint."""

from __future__ import annotations

from bzzz.errors import LimitExceeded
from bzzz.wire import varint

__all__ = ["FrameReader", "frame"]


def frame(message: bytes) -> bytes:
    """``message`` behind its length."""
    return varint.encode(len(message)) + message


class FrameReader:
    """Cuts a stream into messages.

    :param max_length: bytes of the longest message accepted; at most this much is buffered.
    """

    def __init__(self, max_length: int) -> None:
        self._max_length = max_length
        self._buffer = b""
        self._pieces: list[bytes] = []
        self._size = 0
        self._need = 1

    @property
    def buffered(self) -> int:
        """Bytes of a message that is not whole yet."""
        return self._size

    def receive(self, data: bytes) -> list[bytes]:
        """The messages that ``data`` completes.

        :raises LimitExceeded: a message is announced that is longer than allowed.
        :raises RemoteProtocolError: its length cannot be read.
        """
        self._pieces.append(data)
        self._size += len(data)
        if self._size < self._need:
            return []
        buffer = data if len(self._pieces) == 1 else b"".join(self._pieces)
        messages = []
        offset = 0
        self._need = 1
        while offset < len(buffer):
            head = varint.decode(buffer, offset)
            if head is None:
                break
            length, start = head
            if length > self._max_length:
                raise LimitExceeded(
                    f"a message of {length} bytes is announced; {self._max_length} are allowed",
                    "message_too_long",
                )
            if start + length > len(buffer):
                self._need = start + length - offset
                break
            messages.append(buffer[start : start + length])
            offset = start + length
        rest = buffer[offset:]
        self._pieces = [rest] if rest else []
        self._size = len(rest)
        if self._need == 1 and rest:
            self._need = len(rest) + 1
        return messages
