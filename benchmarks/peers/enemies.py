"""The connections of a hostile peer, and what each kind of them does to a node.

Enters: what the node says, and the time. Leaves: bytes for the node, and counts of what came of
them. What the node refuses costs no more than some system calls, as nothing is computed before it
has said something.
"""

from __future__ import annotations

import os
import random
import socket
from dataclasses import dataclass, field
from itertools import cycle
from typing import TYPE_CHECKING, ClassVar

from bzzz.errors import BzzzError, LocalProtocolError
from bzzz.identity.keys import PrivateKey
from bzzz.trust import pairing, presenting
from bzzz.trust.pairing import Joiner
from bzzz.wire import identify, ping
from bzzz.wire.connection import (
    Connection,
    LinkReady,
    StreamData,
    StreamNegotiated,
    StreamRefused,
    StreamWasReset,
    StreamWritable,
)
from bzzz.wire.framing import FrameReader, frame

if TYPE_CHECKING:
    from benchmarks.peers.attacker import Attack

__all__ = ["ATTACKS", "Enemy", "Guest", "Tally"]

# Bytes of garbage, and of what may wait on one connection.
GARBAGE = 4096
MOST_WAITING = 65536

# Seconds that garbage waits for the end of its connection, and between two bytes of a slow one.
PATIENCE = 1.0
SLOWNESS = 0.5

# What each begins with; a slow one says more, a byte each time.
PROPOSAL = b"\x13/multistream/1.0.0\n\x07/noise\n"
BEGINNING = PROPOSAL + b"\x00\x20" + bytes(32)

# Pings that a guest sends at once, and streams that it opens.
PINGS = 16
STREAMS = 4

# Half of the guests know how many streams they may open: each so many seconds. The others open as
# many as they can, and are thrown out.
POLITE = 0.25

# A wrong code.
PASSWORD = b"7-guitar-lunar"


@dataclass
class Tally:
    """What came of an attack.

    :ivar attempts: connections begun.
    :ivar arrived: those that TCP has made: the node's kernel has them.
    :ivar refused: those that were closed before the node said a word.
    :ivar answered: those on which it said something.
    :ivar proved: those on which the handshake was completed.
    :ivar dropped: those that the node ended later.
    :ivar failed: those that TCP did not make.
    :ivar sent: bytes.
    :ivar streams: what came of the streams of guests.
    :ivar seconds: how long it took.
    :ivar cpu: seconds of CPU time of this process.
    """

    attempts: int = 0
    arrived: int = 0
    refused: int = 0
    answered: int = 0
    proved: int = 0
    dropped: int = 0
    failed: int = 0
    sent: int = 0
    streams: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    cpu: float = 0.0

    def stream(self, what: str) -> None:
        """Count what came of a guest's stream."""
        self.streams[what] = self.streams.get(what, 0) + 1


class Enemy:
    """One connection.

    :ivar up: whether TCP has made it.
    :ivar heard: whether the node said something.
    """

    closes_at_once: ClassVar[bool] = False

    def __init__(self, attack: Attack, connection: socket.socket, now: float) -> None:
        self.attack = attack
        self.socket = connection
        self.since = now
        self.up = False
        self.heard = False
        self._waiting = b""

    def begin(self) -> None:
        """TCP is up."""

    def received(self, data: bytes) -> None:
        """The node said something."""

    def tick(self, now: float) -> None:
        """Some time has passed."""

    @property
    def is_full(self) -> bool:
        """Whether TCP takes no more for now."""
        return len(self._waiting) > MOST_WAITING

    def send(self, data: bytes = b"") -> None:
        """Send what TCP takes, and keep the rest."""
        self._waiting += data
        if not self._waiting:
            return
        try:
            sent = self.socket.send(self._waiting)
        except BlockingIOError:
            sent = 0
        except OSError:
            return  # that it is gone is read next
        self.attack.tally.sent += sent
        self._waiting = self._waiting[sent:]
        self.attack.watch(self, bool(self._waiting))


class Connecting(Enemy):
    """Closes it."""

    closes_at_once = True


class Garbage(Enemy):
    """Sends random bytes instead of a handshake."""

    def begin(self) -> None:
        self.send(random.randbytes(GARBAGE))

    def tick(self, now: float) -> None:
        if now - self.since > PATIENCE:
            self.attack.close(self)


class Slow(Enemy):
    """Says a byte now and then."""

    _said = 0
    _then = 0.0

    def tick(self, now: float) -> None:
        if self.up and now - self._then >= SLOWNESS and self._said < len(BEGINNING):
            self.send(BEGINNING[self._said : self._said + 1])
            self._said += 1
            self._then = now


class Proving(Enemy):
    """Completes the handshake; with a node that refuses it, it computes nothing."""

    _core: Connection | None = None
    ready = False

    def begin(self) -> None:
        self.send(PROPOSAL)

    def received(self, data: bytes) -> None:
        core = self._core
        if core is None:
            self.key = PrivateKey.generate(os.urandom)
            core = self._core = Connection(
                True, self.key, random_bytes=os.urandom, protocols=lambda name: False
            )
            core.start()
            core.take_output()  # it was sent already
        try:
            events = core.receive_data(data)
        except BzzzError:
            self.attack.close(self)
            return
        for event in events:
            if isinstance(event, LinkReady):
                self.ready = True
                self.attack.tally.proved += 1
            self.happened(core, event)
        self.send(core.data_to_send())

    def happened(self, core: Connection, event: object) -> None:
        """An event of the link."""


class Guest(Proving):
    """Does all that a guest can."""

    _made = 0

    def __init__(self, attack: Attack, connection: socket.socket, now: float) -> None:
        super().__init__(attack, connection, now)
        Guest._made += 1
        self._is_polite = Guest._made % 2 == 0
        self._then = 0.0
        self._inviter = b""
        self._pings: int | None = None
        self._pairings: dict[int, tuple[Joiner, FrameReader]] = {}
        self._pouring: dict[int, memoryview] = {}
        self._next = cycle(
            (identify.PROTOCOL, ping.PROTOCOL, pairing.PROTOCOL, presenting.PROTOCOL)
        )

    def tick(self, now: float) -> None:
        core = self._core
        if core is None or not self.ready or self.is_full:
            return
        for stream in list(self._pouring):
            self._pour(core, stream)
        try:
            if self._pings is not None:
                core.send_data(self._pings, os.urandom(32 * PINGS))
            if not self._is_polite:
                for _ in range(STREAMS):
                    self._open(core)
            elif now - self._then >= POLITE:
                self._then = now
                self._open(core)
        except LocalProtocolError:
            pass  # a stream is gone, or the node lets this peer open no more
        self.send(core.data_to_send())

    def _open(self, core: Connection) -> None:
        protocol = next(self._next)
        stream = core.open_stream([protocol])
        self.attack.tally.stream(f"opened {protocol}")
        if protocol == ping.PROTOCOL:
            core.send_data(stream, os.urandom(32))
        elif protocol == pairing.PROTOCOL:
            self._pair(core, stream)
        elif protocol == presenting.PROTOCOL:
            self._pouring[stream] = memoryview(next(self.attack.proofs))
            self._pour(core, stream)

    def _pair(self, core: Connection, stream: int) -> None:
        inviter = self.attack.inviter
        if inviter is None:
            return
        joiner = Joiner(
            *(self.key.peer_id, inviter, self.attack.channel, PASSWORD, "mallory"),
            core.handshake_hash,
            os.urandom,
        )
        self._pairings[stream] = joiner, FrameReader(pairing.MAX_MESSAGE)
        core.send_data(stream, frame(joiner.begin()))

    def _pour(self, core: Connection, stream: int) -> None:
        left = self._pouring[stream]
        try:
            sent = core.send_data(stream, bytes(left[:MOST_WAITING]))
        except LocalProtocolError:
            del self._pouring[stream]
            return
        self._pouring[stream] = left[sent:]
        if not self._pouring[stream]:
            del self._pouring[stream]
            core.end_stream(stream)

    def happened(self, core: Connection, event: object) -> None:
        if isinstance(event, LinkReady) and core._channel is not None:
            self.attack.inviter = core._channel.remote_key.peer_id
        elif isinstance(event, StreamNegotiated):
            self.attack.tally.stream(f"agreed {event.protocol}")
            if event.protocol == ping.PROTOCOL and self._pings is None:
                self._pings = event.stream_id
        elif isinstance(event, StreamData):
            core.consumed(event.stream_id, len(event.data))
            self._answered(core, event)
        elif isinstance(event, StreamWasReset | StreamRefused):
            self.attack.tally.stream("reset")
            self._pouring.pop(event.stream_id, None)
            self._pairings.pop(event.stream_id, None)
            if event.stream_id == self._pings:
                self._pings = None
        elif isinstance(event, StreamWritable) and event.stream_id in self._pouring:
            self._pour(core, event.stream_id)

    def _answered(self, core: Connection, event: StreamData) -> None:
        """Of a pairing: make a guess, which is counted as wrong."""
        run = self._pairings.get(event.stream_id)
        if run is None:
            return
        joiner, reader = run
        try:
            for message in reader.receive(event.data):
                if joiner.receive(message) is None:
                    self.attack.tally.stream("guesses")
                    core.send_data(event.stream_id, frame(joiner.confirm()))
        except BzzzError as error:
            self.attack.tally.stream(str(getattr(error, "code", "refused")))
            del self._pairings[event.stream_id]


ATTACKS: dict[str, type[Enemy]] = {
    "connect": Connecting,
    "garbage": Garbage,
    "prove": Proving,
    "slow": Slow,
    "guest": Guest,
}
