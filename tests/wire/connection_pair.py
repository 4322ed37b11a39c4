"""Two connections that are each other's transport, with a choice of how the bytes are cut."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from bzzz.identity.keys import PrivateKey
from bzzz.wire.connection import Connection, Event, StreamData

PROTOCOL = "/test/1.0.0"
INITIATOR_KEY = PrivateKey.from_seed(b"i" * 32)
RESPONDER_KEY = PrivateKey.from_seed(b"r" * 32)

Cut = Callable[[bytes], Iterator[bytes]]


def whole(data: bytes) -> Iterator[bytes]:
    """As it is."""
    yield data


def bytewise(data: bytes) -> Iterator[bytes]:
    """A byte at a time."""
    for position in range(len(data)):
        yield data[position : position + 1]


def counting_bytes() -> Callable[[int], bytes]:
    """A source of "randomness" that is the same in every run."""
    calls = 0

    def random_bytes(size: int) -> bytes:
        nonlocal calls
        calls += 1
        return bytes((calls * 37 + position) % 256 for position in range(size))

    return random_bytes


def make_connection(initiator: bool, **options: Any) -> Connection:
    """One side that speaks :data:`PROTOCOL`."""
    options.setdefault("protocols", PROTOCOL.__eq__)
    options.setdefault("security", "plaintext")
    key = INITIATOR_KEY if initiator else RESPONDER_KEY
    return Connection(initiator, key, random_bytes=counting_bytes(), **options)


def joined(events: list[Event]) -> list[Event]:
    """The events, with data that was cut into pieces put together again."""
    result: list[Event] = []
    for event in events:
        last = result[-1] if result else None
        if (
            isinstance(event, StreamData)
            and isinstance(last, StreamData)
            and last.stream_id == event.stream_id
        ):
            result[-1] = StreamData(event.stream_id, last.data + event.data)
        else:
            result.append(event)
    return result


class ConnectionPair:
    """An initiator and a responder.

    :param cut: how the bytes of one flush come to the other side.
    :param consume: whether data is taken as soon as it comes.
    """

    def __init__(
        self,
        cut: Cut = whole,
        consume: bool = True,
        initiator: dict[str, Any] | None = None,
        responder: dict[str, Any] | None = None,
        **options: Any,
    ) -> None:
        self.cut = cut
        self.consume = consume
        self.initiator = make_connection(True, **{**options, **(initiator or {})})
        self.responder = make_connection(False, **{**options, **(responder or {})})
        self.events: dict[Connection, list[Event]] = {self.initiator: [], self.responder: []}
        self.initiator.start()
        self.responder.start()

    @classmethod
    def ready(cls, **options: Any) -> ConnectionPair:
        """A pair that streams can be opened on, its first events taken."""
        pair = cls(**options)
        pair.pump()
        pair.taken(pair.initiator)
        pair.taken(pair.responder)
        return pair

    def other(self, side: Connection) -> Connection:
        """The opposite side."""
        return self.responder if side is self.initiator else self.initiator

    def feed(self, target: Connection, data: bytes) -> None:
        """Let ``target`` receive ``data``."""
        for piece in self.cut(data):
            for event in target.receive_data(piece):
                self.events[target].append(event)
                if self.consume and isinstance(event, StreamData):
                    target.consumed(event.stream_id, len(event.data))

    def flush(self, source: Connection) -> int:
        """Carry what ``source`` has to send; how many bytes that was."""
        data = source.data_to_send()
        if data:
            self.feed(self.other(source), data)
        return len(data)

    def pump(self) -> None:
        """Carry bytes both ways until there are none."""
        while self.flush(self.initiator) + self.flush(self.responder):
            pass

    def taken(self, side: Connection) -> list[Event]:
        """What happened at ``side`` since the last call."""
        events, self.events[side] = self.events[side], []
        return joined(events)
