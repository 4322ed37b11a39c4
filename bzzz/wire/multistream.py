"""multistream-select 1.0: two sides agree on what is spoken next on a connection or a stream.

Enters: bytes of the peer. Leaves: lines to send, and in the end the protocol agreed on and the
bytes that followed. Both classes are the same for a connection being upgraded and for each stream.
libp2p specs, connections/README.md, "multistream-select".

A message is an unsigned varint length, a UTF-8 line and a newline that the length counts. Each side
sends :data:`HEADER` first. The initiator then proposes a protocol; the responder echoes it or says
``na``, which makes the initiator propose the next one. ``ls`` asks the responder for its list.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from bzzz.errors import LimitExceeded, LocalProtocolError, RemoteProtocolError
from bzzz.wire import varint
from bzzz.wire.limits import PROPOSALS

__all__ = ["HEADER", "MAX_LINE", "Initiator", "Responder", "encode_line"]

HEADER = "/multistream/1.0.0"

# The longest line, its newline included, in bytes. Protocol names are under a hundred; rust-libp2p
# and js-libp2p take 1 KiB too.
MAX_LINE = 1024

_SHORT = 0x80  # lengths below it are one byte
_NEWLINE = 0x0A
_NOT_AVAILABLE = "na"
_LIST = "ls"


def encode_line(text: str) -> bytes:
    """The wire form of one line.

    :raises LocalProtocolError: it is longer than :data:`MAX_LINE`.
    """
    body = text.encode() + b"\n"
    if len(body) > MAX_LINE:
        raise LocalProtocolError(f"a protocol name of {len(body)} bytes; {MAX_LINE} is the most")
    return varint.encode(len(body)) + body


_HEADER_LINE = encode_line(HEADER)
_NA_LINE = encode_line(_NOT_AVAILABLE)


class _Lines:
    """Takes bytes and gives lines. Holds less than one line of at most :data:`MAX_LINE`, plus what
    came after the negotiation in the same piece."""

    __slots__ = ("rest",)

    def __init__(self) -> None:
        self.rest = b""

    def next(self) -> str | None:
        """The next line without its newline; None if it is not complete."""
        rest = self.rest
        if not rest:
            return None
        length, start = rest[0], 1
        if length >= _SHORT:
            # 1024 needs two bytes of varint, so three are too long whatever they say.
            decoded = varint.decode(rest, 0, 2)
            if decoded is None:
                return None
            length, start = decoded
        if length > MAX_LINE:
            raise LimitExceeded(
                f"a multistream line of more than {MAX_LINE} bytes", "multistream_line_too_long"
            )
        end = start + length
        if len(rest) < end:
            return None
        if length == 0 or rest[end - 1] != _NEWLINE:
            raise RemoteProtocolError(
                "a multistream line without a newline at its end", "multistream_malformed"
            )
        self.rest = rest[end:]
        try:
            return rest[start : end - 1].decode()
        except UnicodeDecodeError:
            raise RemoteProtocolError(
                "a multistream line that is not UTF-8", "multistream_malformed"
            ) from None


def _not_multistream() -> RemoteProtocolError:
    return RemoteProtocolError(
        "the peer does not speak multistream-select 1.0, so it is no libp2p node",
        "multistream_header",
    )


class Initiator:
    """The side that proposes, of one negotiation.

    :param protocols: what to propose, the preferred one first. With a single one, its data may
        follow the proposal at once.
    :ivar protocol: what was agreed on; None until then, and None if the peer speaks none of them.
    :ivar done: whether the negotiation is over.
    """

    __slots__ = (
        "_header_seen",
        "_index",
        "_lines",
        "_opening",
        "_output",
        "_protocols",
        "done",
        "protocol",
    )

    def __init__(self, protocols: Sequence[str]) -> None:
        if not protocols:
            raise LocalProtocolError("no protocol to propose")
        self._protocols = protocols
        self._index = 0
        self._lines = _Lines()
        self._header_seen = False
        # The header and the first proposal in one piece save a round trip.
        self._opening = self._output = _HEADER_LINE + encode_line(protocols[0])
        self.protocol: str | None = None
        self.done = False

    @property
    def rest(self) -> bytes:
        """Once done: the bytes that came after the answer."""
        return self._lines.rest

    @property
    def optimistic(self) -> bool:
        """Whether data need not wait for the answer, because there is no second proposal."""
        return len(self._protocols) == 1

    def take_output(self) -> bytes:
        """What is to be sent now; empty for nothing."""
        output, self._output = self._output, b""
        return output

    def receive(self, data: bytes) -> None:
        """Take bytes of the peer.

        :raises RemoteProtocolError: they are no answer to what was proposed.
        """
        lines = self._lines
        if not lines.rest and not self._header_seen and data.startswith(self._opening):
            # Nearly every answer: the whole echo in one piece.
            lines.rest = data[len(self._opening) :]
            self.protocol = self._protocols[0]
            self.done = True
            return
        lines.rest += data
        while not self.done:
            line = lines.next()
            if line is None:
                return
            if not self._header_seen:
                if line != HEADER:
                    raise _not_multistream()
                self._header_seen = True
            elif line == self._protocols[self._index]:
                self.protocol = line
                self.done = True
            elif line == _NOT_AVAILABLE:
                self._index += 1
                if self._index == len(self._protocols):
                    self.done = True
                else:
                    self._output += encode_line(self._protocols[self._index])
            else:
                raise RemoteProtocolError(
                    f"{self._protocols[self._index]} was proposed and {line[:80]!r} answered",
                    "multistream_answer",
                )


class Responder:
    """The side that is proposed to, of one negotiation.

    :param supported: whether a protocol is spoken here.
    :param names: the protocols to answer ``ls`` with.
    :param max_proposals: lines after which the peer is given up.
    :ivar protocol: what was agreed on; None until then.
    :ivar done: whether the negotiation is over.
    """

    __slots__ = (
        "_header_seen",
        "_lines",
        "_names",
        "_output",
        "_proposals",
        "_supported",
        "done",
        "protocol",
    )

    def __init__(
        self,
        supported: Callable[[str], bool],
        names: Callable[[], Iterable[str]] = tuple,
        max_proposals: int = PROPOSALS,
    ) -> None:
        self._supported = supported
        self._names = names
        self._proposals = max_proposals
        self._lines = _Lines()
        self._output = b""
        self._header_seen = False
        self.protocol: str | None = None
        self.done = False

    @property
    def rest(self) -> bytes:
        """Once done: the bytes that came after the proposal."""
        return self._lines.rest

    def take_output(self) -> bytes:
        """What is to be sent now; empty for nothing."""
        output, self._output = self._output, b""
        return output

    def receive(self, data: bytes) -> None:
        """Take bytes of the peer.

        :raises RemoteProtocolError: they are not multistream-select, or there is no end of them.
        """
        lines = self._lines
        lines.rest += data
        while not self.done:
            line = lines.next()
            if line is None:
                return
            if not self._header_seen:
                if line != HEADER:
                    raise _not_multistream()
                self._header_seen = True
                self._output += _HEADER_LINE
                continue
            self._proposals -= 1
            if self._proposals < 0:
                raise LimitExceeded(
                    "more proposals than a node has protocols", "multistream_proposals"
                )
            if self._supported(line):
                self.protocol = line
                self.done = True
                self._output += encode_line(line)
            elif line == _LIST:
                self._output += self._list()
            else:
                self._output += _NA_LINE

    def _list(self) -> bytes:
        """The answer to ``ls``: one message that holds each line as a message, and a newline."""
        body = b"".join(encode_line(name) for name in self._names()) + b"\n"
        return varint.encode(len(body)) + body
