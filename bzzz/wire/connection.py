"""One libp2p connection, from its first byte to its last: the composition of the cores.

Enters: bytes of the transport (:meth:`Connection.receive_data`). Leaves: events, and bytes for the
transport (:meth:`Connection.take_output`). Upgrading is a state of this object, so nothing swaps
protocols under a transport. libp2p specs, connections/README.md and inlined-muxer-negotiation.md::

    NEW      start()
    SECURITY multistream for /noise             bytes as they are
    CHANNEL  the Noise handshake                Noise messages
    MUXER    multistream for /yamux/1.0.0       within Noise messages; left out where both sides
                                                offered a common muxer during the handshake
    OPEN     yamux, on each stream multistream  within Noise messages
             and then the application's bytes
    CLOSED   the peer said goodbye, or failed

``/plaintext/2.0.0`` takes the place of ``/noise`` in the simulator, without early offers of muxers.

What is written is encrypted when it is taken, so that a burst of small frames is one Noise message.
The caller of :meth:`~Connection.take_output` should not call it while its transport takes no more:
what a peer that does not read makes this side answer is then counted here, and has a cap.

What breaks the rules in the negotiation of one stream costs that stream, because a refused stream
may carry application data that was sent with the proposal. All else costs the link.
"""

from __future__ import annotations

import enum
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Sequence

from bzzz.errors import LocalProtocolError, RemoteProtocolError
from bzzz.identity.keys import PrivateKey
from bzzz.identity.peer_id import PeerID
from bzzz.wire.connection_events import (
    Event,
    LinkEnded,
    LinkReady,
    LinkSecured,
    PongReceived,
    StreamData,
    StreamEnded,
    StreamNegotiated,
    StreamRefused,
    StreamWasReset,
    StreamWritable,
)
from bzzz.wire.limits import ConnectionLimits
from bzzz.wire.multistream import Initiator, Responder
from bzzz.wire.noise import NoiseXX
from bzzz.wire.noise_channel import Buffer, NoiseChannel, SecureChannel
from bzzz.wire.plaintext import PlaintextChannel
from bzzz.wire.yamux import Yamux
from bzzz.wire.yamux_frame import MAX_DATA, GoAway

__all__ = [
    "MAX_DATA",
    "Connection",
    "ConnectionLimits",
    "Event",
    "GoAway",
    "LinkEnded",
    "LinkReady",
    "LinkSecured",
    "PongReceived",
    "StreamData",
    "StreamEnded",
    "StreamNegotiated",
    "StreamRefused",
    "StreamWasReset",
    "StreamWritable",
]

YAMUX = "/yamux/1.0.0"
SECURITY = {"noise": "/noise", "plaintext": "/plaintext/2.0.0"}

_GOODBYES: dict[int, str] = {
    GoAway.NORMAL: "normal end",
    GoAway.PROTOCOL_ERROR: "it saw a protocol error",
    GoAway.INTERNAL_ERROR: "it had an internal error",
    GoAway.RESOURCE_LIMIT_EXCEEDED: "it has no place for it",
}


class State(enum.Enum):
    """How far a connection has come; see the module's page."""

    NEW = enum.auto()
    SECURITY = enum.auto()
    CHANNEL = enum.auto()
    MUXER = enum.auto()
    OPEN = enum.auto()
    CLOSED = enum.auto()


class Connection:
    """One side of a connection.

    :param initiator: whether this side dialled.
    :param identity: proves who this side is.
    :param random_bytes: randomness fit for keys.
    :param expected_peer: whose proof alone is accepted; None for anybody's.
    :param protocols: whether an inbound stream's protocol is spoken here.
    :param protocol_names: those protocols, for a peer that asks for the list.
    :param security: ``noise``; ``plaintext`` in the simulator only.
    :ivar state: how far it has come.
    :ivar handshake_hash: binds everything said in the security handshake; empty before its end.
    """

    def __init__(
        self,
        initiator: bool,
        identity: PrivateKey,
        *,
        random_bytes: Callable[[int], bytes],
        expected_peer: PeerID | None = None,
        protocols: Callable[[str], bool],
        protocol_names: Callable[[], Iterable[str]] = tuple,
        security: str = "noise",
        limits: ConnectionLimits | None = None,
    ) -> None:
        if security not in SECURITY:
            raise LocalProtocolError(f"there is no security {security!r}, only noise and plaintext")
        self.initiator = initiator
        self.state = State.NEW
        self.handshake_hash = b""
        self._identity = identity
        self._random_bytes = random_bytes
        self._expected_peer = expected_peer
        self._protocols = protocols
        self._protocol_names = protocol_names
        self._security = security
        self._limits = limits or ConnectionLimits()
        self._events: list[Event] = []
        self._unread: deque[bytes] = deque()
        self._upgrade_output: list[Buffer] = []
        self._upgrade: Initiator | Responder | None = None
        self._channel: SecureChannel | None = None
        # Not a cycle: what a connection holds goes with it at once. Waiting for the collector, the
        # remains of connections that come and go as fast as they can would be 100 MB.
        self._yamux = Yamux(initiator, weakref.proxy(self), self._limits)
        self._negotiating: dict[int, Initiator | Responder] = {}
        self._inbound_negotiating = 0

    # -- the transport

    def start(self) -> None:
        """The transport is connected."""
        if self.state is not State.NEW:
            raise LocalProtocolError("the connection was started before")
        self.state = State.SECURITY
        self._negotiate(SECURITY[self._security])

    def receive_data(self, data: bytes, frames: int = -1) -> list[Event]:
        """Take bytes of the transport.

        Once the peer has said goodbye or failed, they are ignored.

        :param frames: act on so many of the muxer's frames, and leave the others for the next call
            (see :attr:`has_unread`): a peer can send thousands at once. Negative for all.
        :return: what happened, in order.
        :raises RemoteProtocolError: the peer broke the rules, or went over a limit. What remains to
            be sent tells it so; then the transport is to be closed.
        """
        try:
            if self.state is State.OPEN:
                assert self._channel is not None  # nosec B101  # noqa: S101 - OPEN follows CHANNEL
                self._unread += self._channel.receive(data)
            elif self.state is State.NEW:
                raise LocalProtocolError("data before start()")
            else:
                self._receive_upgrading(data)
            self._read(frames)
        except RemoteProtocolError:
            if self.state is State.OPEN:
                self._yamux.go_away(GoAway.PROTOCOL_ERROR)
            self._close()
            self._events = []
            raise
        events, self._events = self._events, []
        return events

    @property
    def has_unread(self) -> bool:
        """Whether frames were left by :meth:`receive_data`; no more data may be due after them."""
        return bool(self._unread)

    def take_output(self) -> list[Buffer]:
        """What is to be sent now, in pieces."""
        output, self._upgrade_output = self._upgrade_output, []
        frames = self._yamux.take_output()
        if frames and self._channel is not None:
            self._channel.seal(frames, output)
        return output

    def data_to_send(self) -> bytes:
        """What is to be sent now, in one piece."""
        return b"".join(self.take_output())

    # -- the application

    def open_stream(self, protocols: Sequence[str]) -> int:
        """Open a stream and propose ``protocols`` on it, the preferred one first.

        With a single one data may be sent at once, and travels with the proposal. After the peer
        has ended the link the stream comes to nothing.

        :raises LocalProtocolError: the link is not ready, this side has said goodbye, or it leaks
            streams.
        """
        if self.state is not State.OPEN and self.state is not State.CLOSED:
            raise LocalProtocolError("streams can be opened on a link that is ready only")
        negotiation = Initiator(protocols)
        stream_id = self._yamux.open_stream(negotiation.take_output())
        if self.state is State.OPEN:
            self._negotiating[stream_id] = negotiation
        return stream_id

    def send_data(self, stream_id: int, data: bytes) -> int:
        """Send as much of ``data`` as the peer admits on the stream.

        :return: how many bytes; the rest is the caller's to keep, until :class:`StreamWritable`.
        """
        if self._negotiating:
            self._check_negotiated(stream_id)
        return self._yamux.send_data(stream_id, data)

    def stream_window(self, stream_id: int) -> int:
        """Bytes that the peer admits on the stream now."""
        return self._yamux.stream_window(stream_id)

    def end_stream(self, stream_id: int) -> None:
        """End this side's half of the stream; the other may go on."""
        if self._negotiating:
            self._check_negotiated(stream_id)
        self._yamux.end_stream(stream_id)

    def reset_stream(self, stream_id: int, code: int = 0) -> None:
        """Give the stream up at both ends; also one that :attr:`streams_negotiating` tells of."""
        self._forget_negotiation(stream_id)
        self._yamux.reset_stream(stream_id, code)

    def consumed(self, stream_id: int, size: int) -> None:
        """``size`` bytes of the stream were taken: the peer may send as many more."""
        self._yamux.consumed(stream_id, size)

    def send_ping(self) -> int:
        """Ping the peer's muxer; the value of the :class:`PongReceived` to come."""
        if self.state is not State.OPEN and self.state is not State.CLOSED:
            raise LocalProtocolError("there is no muxer to ping yet")
        return self._yamux.send_ping()

    def go_away(self, code: GoAway = GoAway.NORMAL) -> None:
        """Say goodbye: no streams are opened from here on, in either direction."""
        if self.state is State.OPEN:
            self._yamux.go_away(code)

    @property
    def streams_negotiating(self) -> tuple[int, ...]:
        """The peer's streams that have no protocol yet, the oldest first."""
        return tuple(
            stream_id
            for stream_id, negotiation in self._negotiating.items()
            if isinstance(negotiation, Responder)
        )

    @property
    def stream_count(self) -> int:
        """Streams that are open, of both directions."""
        return self._yamux.stream_count

    # -- inside: upgrading

    def _receive_upgrading(self, data: bytes) -> None:
        if self.state is State.SECURITY:
            rest = self._upgraded(data)
            if rest is None:
                return
            self._channel = self._make_channel()
            self.state = State.CHANNEL
            self._upgrade_output += self._channel.take_output()
            data = rest
        channel = self._channel
        if channel is None or self.state is State.CLOSED:
            return
        plaintexts = channel.receive(data)
        if self.state is State.CHANNEL:
            self._upgrade_output += channel.take_output()
            if channel.complete:
                self._secured(channel)
        for plaintext in plaintexts:
            if self.state is State.MUXER:
                rest = self._upgraded(plaintext)
                if rest is None:
                    continue
                self._ready(YAMUX)
                plaintext = rest  # noqa: PLW2901 - what is left of it
            self._unread.append(plaintext)

    def _read(self, frames: int) -> None:
        """Give the muxer what was decrypted."""
        unread = self._unread
        yamux = self._yamux
        yamux.frames_left = frames
        while unread:
            rest = yamux.receive(unread.popleft())
            if rest:
                unread.appendleft(rest)
                return

    def _make_channel(self) -> SecureChannel:
        if self._security == "plaintext":
            return PlaintextChannel(self._identity, self._expected_peer)
        return NoiseChannel(
            NoiseXX(
                self.initiator,
                self._identity,
                self._expected_peer,
                (YAMUX,),
                self._random_bytes,
            )
        )

    def _secured(self, channel: SecureChannel) -> None:
        self.handshake_hash = channel.handshake_hash
        key = channel.remote_key
        self._events.append(LinkSecured(key.peer_id, key))
        if not channel.remote_muxers:
            self.state = State.MUXER
            self._negotiate(YAMUX)
        elif YAMUX in channel.remote_muxers:
            # With one muxer on this side, whose preference counts makes no difference.
            self._ready(YAMUX)
        else:
            # "If there is no overlap [...] the handshake MUST fail."
            raise RemoteProtocolError(
                f"the peer offers the muxers {', '.join(channel.remote_muxers)[:200]!r}; "
                f"only {YAMUX} is spoken here",
                "no_common_muxer",
            )

    def _ready(self, muxer: str) -> None:
        self.state = State.OPEN
        self._events.append(LinkReady(muxer))

    def _negotiate(self, protocol: str) -> None:
        if self.initiator:
            self._upgrade = Initiator((protocol,))
        else:
            self._upgrade = Responder(protocol.__eq__, lambda: (protocol,), self._limits.proposals)
        self._send_upgrade(self._upgrade)

    def _upgraded(self, data: bytes) -> bytes | None:
        """What comes after the negotiation of the layer, or None while that goes on."""
        negotiation = self._upgrade
        # SECURITY and MUXER begin with _negotiate().
        assert negotiation is not None  # nosec B101  # noqa: S101 - for mypy
        negotiation.receive(data)
        self._send_upgrade(negotiation)
        if not negotiation.done:
            return None
        self._upgrade = None
        if negotiation.protocol is None:
            if self.state is State.MUXER:
                raise RemoteProtocolError(f"the peer does not speak {YAMUX}", "no_common_muxer")
            raise RemoteProtocolError(
                f"the peer does not speak {SECURITY[self._security]}", "no_common_security"
            )
        return negotiation.rest

    def _send_upgrade(self, negotiation: Initiator | Responder) -> None:
        output = negotiation.take_output()
        if not output:
            return
        if self._channel is not None:
            self._channel.seal([output], self._upgrade_output)
        else:
            self._upgrade_output.append(output)

    def _close(self) -> None:
        self.state = State.CLOSED
        self._unread.clear()
        self._yamux.close()
        self._negotiating.clear()
        self._inbound_negotiating = 0

    # -- inside: streams in negotiation

    def _check_negotiated(self, stream_id: int) -> None:
        negotiation = self._negotiating.get(stream_id)
        if negotiation is None or (isinstance(negotiation, Initiator) and negotiation.optimistic):
            return
        raise LocalProtocolError(f"stream {stream_id} has no protocol yet")

    def _forget_negotiation(self, stream_id: int) -> Initiator | Responder | None:
        negotiation = self._negotiating.pop(stream_id, None)
        if isinstance(negotiation, Responder):
            self._inbound_negotiating -= 1
        return negotiation

    def _receive_negotiating(
        self, stream_id: int, negotiation: Initiator | Responder, data: bytes
    ) -> None:
        try:
            negotiation.receive(data)
        except RemoteProtocolError as error:
            self._give_up(stream_id, str(error))
            return
        done = negotiation.done
        rest = negotiation.rest if done else b""
        self._yamux.consumed(stream_id, len(data) - len(rest))
        output = negotiation.take_output()
        if output:
            if self._yamux.send_data(stream_id, output) < len(output):
                self._give_up(stream_id, "the peer admits no answer to its proposals")
                return
            self._yamux.count_reply(len(output))
        if not done:
            return
        if negotiation.protocol is None:
            self._give_up(stream_id, "the peer speaks none of the protocols proposed")
            return
        self._forget_negotiation(stream_id)
        inbound = isinstance(negotiation, Responder)
        self._events.append(StreamNegotiated(stream_id, negotiation.protocol, inbound))
        if rest:
            self._events.append(StreamData(stream_id, rest))

    def _give_up(self, stream_id: int, reason: str) -> None:
        """Reset a stream whose negotiation failed; nobody has heard of it if it is the peer's."""
        negotiation = self._forget_negotiation(stream_id)
        self._yamux.reset_stream(stream_id)
        if isinstance(negotiation, Initiator):
            self._events.append(StreamRefused(stream_id, reason))

    # -- YamuxSink

    def stream_opened(self, stream_id: int) -> None:
        """See :class:`~bzzz.wire.yamux.YamuxSink`."""
        if self._inbound_negotiating >= self._limits.negotiating_streams:
            self._yamux.refuse_stream(stream_id)
            return
        self._inbound_negotiating += 1
        self._negotiating[stream_id] = Responder(
            self._protocols, self._protocol_names, self._limits.proposals
        )

    def stream_data(self, stream_id: int, data: bytes) -> None:
        """See :class:`~bzzz.wire.yamux.YamuxSink`."""
        negotiation = self._negotiating.get(stream_id)
        if negotiation is None:
            self._events.append(StreamData(stream_id, data))
        else:
            self._receive_negotiating(stream_id, negotiation, data)

    def stream_ended(self, stream_id: int) -> None:
        """See :class:`~bzzz.wire.yamux.YamuxSink`."""
        if stream_id in self._negotiating:
            self._give_up(stream_id, "the peer ended the stream without an answer")
        else:
            self._events.append(StreamEnded(stream_id))

    def stream_reset(self, stream_id: int) -> None:
        """See :class:`~bzzz.wire.yamux.YamuxSink`."""
        if not isinstance(self._forget_negotiation(stream_id), Responder):
            self._events.append(StreamWasReset(stream_id))

    def stream_writable(self, stream_id: int) -> None:
        """See :class:`~bzzz.wire.yamux.YamuxSink`."""
        self._events.append(StreamWritable(stream_id))

    def pong_received(self, value: int) -> None:
        """See :class:`~bzzz.wire.yamux.YamuxSink`."""
        self._events.append(PongReceived(value))

    def session_ended(self, code: int) -> None:
        """See :class:`~bzzz.wire.yamux.YamuxSink`."""
        self._events.append(LinkEnded(code, _GOODBYES.get(code, f"code {code}")))
        self._close()
