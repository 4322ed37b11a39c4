"""A small, strict core of HTTP/1.1 for one question and its answer.

Enters: what is asked; the bytes that come back. Leaves: the bytes to send; the status, and the
parts of the body as they come. Spec: RFC 9112, as a node's control API uses it: an answer has
either a length, or chunks, or ends with its connection. Nothing of the body is kept. Another
question may follow on the connection where the answer lets it (section 9.3).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from enum import Enum, auto
from typing import Final

from bzzz.errors import RemoteProtocolError

__all__ = ["AnswerReader", "request"]

# Bytes of the head of an answer, and of the trailers behind one; a node's head has about 150.
MAX_HEAD: Final = 16 << 10

# Bytes of the line with a chunk's size; eight digits, and extensions that nobody uses.
MAX_SIZE_LINE: Final = 256

_STATUS: Final = re.compile(rb"HTTP/1\.([01]) ([2-5][0-9]{2})(?: ([\x20-\x7e]*))?")
_HEADER: Final = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+):[ \t]*([^\x00\r\n]*?)[ \t]*")
_LENGTH: Final = re.compile(rb"[0-9]{1,15}")
_CHUNK: Final = re.compile(rb"([0-9A-Fa-f]{1,8})[ \t]*(?:;[^\x00\r\n]*)?")

# Answers that have no body, whatever their head says.
_EMPTY: Final = frozenset({204, 304})


def request(method: str, path: str, body: bytes | None, kind: str = "application/json") -> bytes:
    """The bytes of a question, behind which the connection stays open.

    :param path: quoted, with the query.
    :param body: None for no body.
    :param kind: its media type.
    """
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost"]
    if body is not None:
        lines += [f"Content-Type: {kind}", f"Content-Length: {len(body)}"]
    elif method == "POST":
        lines.append("Content-Length: 0")
    return "\r\n".join([*lines, "", ""]).encode("ascii") + (body or b"")


class _State(Enum):
    HEAD = auto()
    SIZED = auto()
    CHUNK_SIZE = auto()
    CHUNK_DATA = auto()
    CHUNK_END = auto()
    TRAILER = auto()
    TO_THE_END = auto()
    WHOLE = auto()


class AnswerReader:
    """Reads one answer. What comes behind it is ignored.

    :ivar status: its number; 0 until its head is there.
    :ivar reason: the words behind that.
    """

    def __init__(self) -> None:
        self.status = 0
        self.reason = ""
        self._state = _State.HEAD
        self._stays = False
        self._buffer = bytearray()
        self._left = 0
        self._trailers = 0
        self._parts: list[bytes] = []
        self._steps: dict[_State, Callable[[], bool]] = {
            _State.HEAD: self._head,
            _State.SIZED: self._sized,
            _State.CHUNK_SIZE: self._chunk_size,
            _State.CHUNK_DATA: self._chunk_data,
            _State.CHUNK_END: self._chunk_end,
            _State.TRAILER: self._trailer,
            _State.TO_THE_END: self._to_the_end,
            _State.WHOLE: lambda: False,
        }

    @property
    def whole(self) -> bool:
        """Whether all of it is there."""
        return self._state is _State.WHOLE

    @property
    def stays(self) -> bool:
        """Whether the connection can carry another question: all of this answer is there, nothing
        came behind it, and the other end has not said that it closes."""
        return self.whole and self._stays and not self._buffer

    def receive_data(self, data: bytes) -> list[bytes]:
        """The parts of the body that are in these bytes.

        :raises RemoteProtocolError: this is no answer of HTTP/1.1.
        """
        if self.whole:
            self._stays = False
            return []
        self._buffer += data
        while self._steps[self._state]():
            pass
        parts, self._parts = self._parts, []
        return parts

    def receive_end(self) -> None:
        """The connection has ended.

        :raises RemoteProtocolError: the answer has not; its code is ``cut_short``.
        """
        self._stays = False
        if self._state is _State.TO_THE_END:
            self._state = _State.WHOLE
        if not self.whole:
            said = "in the middle of its answer" if self.status else "before it had answered"
            raise RemoteProtocolError(f"the connection ended {said}", "cut_short")

    # -- one step each: whether another may follow

    def _head(self) -> bool:
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0 or end > MAX_HEAD:
            if len(self._buffer) > MAX_HEAD:
                raise _no_http("its head is too long")
            return False
        first, *fields = bytes(self._buffer[:end]).split(b"\r\n")
        del self._buffer[: end + 4]
        status = _STATUS.fullmatch(first)
        if status is None:
            raise _no_http(f"it begins with {first[:40]!r}")
        self._stays = status[1] == b"1"
        self._frame(int(status[2]), fields)
        self.status = int(status[2])
        self.reason = (status[3] or b"").decode("ascii")
        return True

    def _frame(self, status: int, fields: list[bytes]) -> None:
        """How the body ends."""
        lengths, codings = [], []
        for field in fields:
            found = _HEADER.fullmatch(field)
            if found is None:
                raise _no_http(f"a field of its head is {field[:40]!r}")
            if found[1].lower() == b"content-length":
                lengths.append(found[2])
            elif found[1].lower() == b"transfer-encoding":
                codings.append(found[2].lower())
            elif found[1].lower() == b"connection":
                said = [each.strip() for each in found[2].lower().split(b",")]
                self._stays = self._stays and b"close" not in said
        if status in _EMPTY:
            self._state = _State.WHOLE
        elif codings:
            # Both together is how one answer is passed off as another (RFC 9112, section 6.3).
            if codings != [b"chunked"] or lengths:
                raise _no_http("its length is told in two ways, or in an unknown one")
            self._state = _State.CHUNK_SIZE
        elif lengths:
            if len(lengths) > 1 or _LENGTH.fullmatch(lengths[0]) is None:
                raise _no_http(f"its length is {lengths[0][:40]!r}")
            self._left = int(lengths[0])
            self._state = _State.SIZED if self._left else _State.WHOLE
        else:
            self._state = _State.TO_THE_END

    def _sized(self) -> bool:
        return self._take_until(_State.WHOLE)

    def _chunk_data(self) -> bool:
        return self._take_until(_State.CHUNK_END)

    def _take_until(self, then: _State) -> bool:
        part = bytes(self._buffer[: self._left])
        if not part:
            return False
        del self._buffer[: len(part)]
        self._parts.append(part)
        self._left -= len(part)
        if self._left == 0:
            self._state = then
        return True

    def _to_the_end(self) -> bool:
        if self._buffer:
            self._parts.append(bytes(self._buffer))
            self._buffer.clear()
        return False

    def _chunk_size(self) -> bool:
        line = self._line(MAX_SIZE_LINE)
        if line is None:
            return False
        size = _CHUNK.fullmatch(line)
        if size is None:
            raise _no_http(f"the size of a chunk is {line[:40]!r}")
        self._left = int(size[1], 16)
        self._state = _State.CHUNK_DATA if self._left else _State.TRAILER
        return True

    def _chunk_end(self) -> bool:
        if len(self._buffer) < 2:
            return False
        if self._buffer[:2] != b"\r\n":
            raise _no_http("a chunk is longer than its size")
        del self._buffer[:2]
        self._state = _State.CHUNK_SIZE
        return True

    def _trailer(self) -> bool:
        line = self._line(MAX_HEAD)
        if line is None:
            return False
        self._trailers += len(line)
        if self._trailers > MAX_HEAD:
            raise _no_http("its trailers are too long")
        if not line:
            self._state = _State.WHOLE
        return True

    def _line(self, most: int) -> bytes | None:
        end = self._buffer.find(b"\r\n", 0, most + 2)
        if end < 0:
            if len(self._buffer) > most + 1:
                raise _no_http("a line of it is too long")
            return None
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 2]
        return line


def _no_http(why: str) -> RemoteProtocolError:
    return RemoteProtocolError(f"the answer is not HTTP: {why}", "not_http")
