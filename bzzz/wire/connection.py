"""One libp2p connection, from its first byte to its last: the composition of the cores.

Enters: bytes of the transport (:meth:`Connection.receive_data`). Leaves: events, and bytes for the transport
(:meth:`Connection.take_output`). Upgrading is a state here, so nothing swaps protocols under a transport::

    multistream "/noise"  ->  Noise XX  ->  [multistream "/yamux/1.0.0"]  ->  yamux
                                                                         each stream: multistream -> data

The muxer's own negotiation is left out where both sides offered it within the handshake (libp2p specs,
connections/inlined-muxer-negotiation.md). ``security="plaintext"`` is for the simulator only: each side
sends its public key, unproved, and yamux follows at once.

What the application writes is encrypted when it is taken, so that a burst of small frames is one
Noise message.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bzzz.errors import IdentityError, LocalProtocolError, NegotiationError, RemoteProtocolError
from bzzz.identity.keys import PrivateKey, PublicKey
from bzzz.identity.peer_id import PeerID
from bzzz.wire.framing import FrameReader, frame
from bzzz.wire.multistream import Initiator, Responder
from bzzz.wire.noise import MAX_MESSAGE, TAG, CipherState, NoiseXX
from bzzz.wire.yamux import GoAway, Yamux, YamuxEvents, YamuxLimits

__all__ = [
    "Connection",
    "ConnectionLimits",
    "Event",
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

NOISE = "/noise"
YAMUX = "/yamux/1.0.0"

MAX_PLAINTEXT = MAX_MESSAGE - TAG

# Bytes of a public key that is sent in plaintext mode.
MAX_PLAIN_KEY = 64


@dataclass(frozen=True)
class ConnectionLimits:
    """Caps on what the peer can make this side hold.

    :ivar negotiating: inbound streams whose protocol is not agreed on; more are reset. An honest peer
        sends the proposal with the opening, so they are only ever a few.
    """

    yamux: YamuxLimits = YamuxLimits()
    negotiating: int = 256


@dataclass(frozen=True, slots=True)
class LinkSecured:
    """The peer has proved its identity."""

    remote_peer: PeerID
    remote_key: PublicKey


@dataclass(frozen=True, slots=True)
class LinkReady:
    """Streams can be opened."""

    muxer: str


@dataclass(frozen=True, slots=True)
class StreamNegotiated:
    """A stream's protocol is agreed on; an inbound stream is first heard of by this."""

    stream_id: int
    protocol: str
    inbound: bool


@dataclass(frozen=True, slots=True)
class StreamRefused:
    """The peer speaks none of the protocols proposed; the stream is gone."""

    stream_id: int
    reason: str


@dataclass(frozen=True, slots=True)
class StreamData:
    """Data came; :meth:`Connection.consumed` credits the peer when it has been taken."""

    stream_id: int
    data: bytes


@dataclass(frozen=True, slots=True)
class StreamEnded:
    """The peer sends no more on the stream."""

    stream_id: int


@dataclass(frozen=True, slots=True)
class StreamWasReset:
    """The peer reset the stream."""

    stream_id: int


@dataclass(frozen=True, slots=True)
class StreamWritable:
    """A stream whose window was full can be written to again."""

    stream_id: int


@dataclass(frozen=True, slots=True)
class PongReceived:
    """The peer answered a muxer ping."""

    value: int


@dataclass(frozen=True, slots=True)
class LinkEnded:
    """The peer says that it ends the connection."""

    code: int
    reason: str


Event = (
    LinkSecured
    | LinkReady
    | StreamNegotiated
    | StreamRefused
    | StreamData
    | StreamEnded
    | StreamWasReset
    | StreamWritable
    | PongReceived
    | LinkEnded
)


class _State(enum.Enum):
    NEW = enum.auto()
    SECURITY = enum.auto()  # multistream for /noise
    HANDSHAKE = enum.auto()  # Noise, or the exchange of keys in plaintext mode
    MUXER = enum.auto()  # multistream for the muxer, encrypted
    OPEN = enum.auto()
    FAILED = enum.auto()


class Connection(YamuxEvents):
    """One side of a connection.

    :param initiator: whether this side dialled.
    :param identity: proves who this side is.
    :param random_bytes: randomness fit for keys.
    :param expected_peer: whose proof alone is accepted; None for anybody's.
    :param protocols: whether an inbound stream's protocol is spoken here.
    :param protocol_names: the protocols spoken here, for a peer that asks for the list.
    :param security: ``noise``; ``plaintext`` in the simulator only.
    :ivar remote_peer: who the peer is, once it is proved.
    :ivar handshake_hash: binds everything said in the handshake; empty before its end.
    """

    def __init__(
        self,
        initiator: bool,
        identity: PrivateKey,
        *,
        random_bytes: Callable[[int], bytes],
        expected_peer: PeerID | None = None,
        protocols: Callable[[str], bool],
        protocol_names: Callable[[], Sequence[str]] = tuple,
        security: str = "noise",
        limits: ConnectionLimits | None = None,
    ) -> None:
        if security not in ("noise", "plaintext"):
            raise LocalProtocolError(f"unknown security {security!r}")
        self.initiator = initiator
        self.remote_peer: PeerID | None = None
        self.handshake_hash = b""
        self._identity = identity
        self._random_bytes = random_bytes
        self._expected = expected_peer
        self._protocols = protocols
        self._protocol_names = protocol_names
        self._plain = security == "plaintext"
        self._limits = limits or ConnectionLimits()
        self._state = _State.NEW
        self._events: list[Event] = []
        self._output: list[bytes] = []
        self._negotiation: Initiator | Responder | None = None
        self._keys: FrameReader | None = None
        self._noise: NoiseXX | None = None
        self._pieces: list[bytes] = []
        self._size = 0
        self._need = 2
        self._encryptor: CipherState | None = None
        self._decryptor: CipherState | None = None
        self._mux = Yamux(initiator, self, self._limits.yamux)
        self._outbound: dict[int, Initiator] = {}
        self._inbound: dict[int, Responder] = {}
        self._ended_early: set[int] = set()

    # -- this side

    def start(self) -> None:
        """The transport is connected."""
        if self._state is not _State.NEW:
            raise LocalProtocolError("the connection was started before")
        if self._plain:
            self._state = _State.HANDSHAKE
            self._keys = FrameReader(MAX_PLAIN_KEY)
            self._output.append(frame(self._identity.public.encode()))
            return
        self._state = _State.SECURITY
        self._negotiate(NOISE)

    def open_stream(self, protocols: Sequence[str]) -> int:
        """Open a stream and propose ``protocols`` on it, the preferred first.

        With a single one, data may be sent at once: it travels with the proposal.

        :raises LocalProtocolError: the connection is not ready, or ends.
        """
        if self._state is not _State.OPEN:
            raise LocalProtocolError("streams can be opened on a ready connection only")
        stream_id = self._mux.open_stream()
        negotiation = Initiator(protocols)
        self._outbound[stream_id] = negotiation
        self._mux.send_data(stream_id, negotiation.take_output())
        return stream_id

    def send_data(self, stream_id: int, data: bytes) -> int:
        """Send as much of ``data`` as the peer's window admits; the count of bytes taken.

        The rest is the caller's to keep; :class:`StreamWritable` says when to try again.
        """
        return self._mux.send_data(stream_id, data)

    def stream_window(self, stream_id: int) -> int:
        """Bytes that the peer admits on the stream now."""
        return self._mux.stream_window(stream_id)

    def end_stream(self, stream_id: int) -> None:
        """Send no more on the stream."""
        self._mux.end_stream(stream_id)

    def reset_stream(self, stream_id: int) -> None:
        """Forget the stream at both ends; harmless for one that is gone."""
        self._outbound.pop(stream_id, None)
        self._inbound.pop(stream_id, None)
        self._ended_early.discard(stream_id)
        self._mux.reset_stream(stream_id)

    def consumed(self, stream_id: int, size: int) -> None:
        """``size`` bytes of the stream were taken by the application."""
        self._mux.consumed(stream_id, size)

    def send_ping(self) -> int:
        """Ping the peer's muxer; the value of its :class:`PongReceived`."""
        return self._mux.send_ping()

    def go_away(self, code: GoAway = GoAway.NORMAL) -> None:
        """Tell the peer that this side ends the connection."""
        if self._state is _State.OPEN:
            self._mux.go_away(code)

    @property
    def streams_negotiating(self) -> tuple[int, ...]:
        """Inbound streams whose protocol is not agreed on yet."""
        return tuple(self._inbound)

    def take_output(self) -> list[bytes]:
        """What is to be sent, in pieces."""
        output, self._output = self._output, []
        frames = self._mux.take_output()
        if frames:
            self._seal(frames, output)
        return output

    # -- the peer

    def receive_data(self, data: bytes) -> list[Event]:
        """Take bytes of the transport.

        :raises RemoteProtocolError: the peer broke a protocol or a limit. What is to be sent to it
            still can be taken; then the transport is to be closed.
        """
        if self._state in (_State.NEW, _State.FAILED):
            raise LocalProtocolError("the connection is not running")
        try:
            self._take(data)
        except NegotiationError as error:
            self._failed()
            raise RemoteProtocolError(str(error), "negotiation_failed") from error
        except RemoteProtocolError:
            self._failed()
            raise
        events, self._events = self._events, []
        return events

    def _failed(self) -> None:
        if self._state is _State.OPEN:
            self._mux.go_away(GoAway.PROTOCOL_ERROR)
        self._state = _State.FAILED

    def _take(self, data: bytes) -> None:
        if self._state is _State.SECURITY:
            rest = self._negotiated(data)
            if rest is None:
                return
            self._start_noise()
            data = rest
        if self._plain:
            self._take_plain(data)
        else:
            self._take_noise(data)

    def _take_plain(self, data: bytes) -> None:
        if self._state is _State.OPEN:
            self._mux.receive(data)
            return
        keys = self._keys
        if keys is None:
            raise LocalProtocolError("no key is awaited")
        # One byte at a time up to the key's end, which happens once per connection.
        for position in range(len(data)):
            messages = keys.receive(data[position : position + 1])
            if messages:
                try:
                    key = PublicKey.decode(messages[0])
                except IdentityError as error:
                    raise RemoteProtocolError(str(error), "identity_unsupported") from error
                if self._expected is not None and key.peer_id != self._expected:
                    raise RemoteProtocolError(
                        f"the peer is {key.peer_id}, not {self._expected} that was dialled",
                        "peer_id_mismatch",
                    )
                self._secured(key)
                self._ready()
                self._mux.receive(data[position + 1 :])
                return

    def _take_noise(self, data: bytes) -> None:
        """Cut Noise messages out of ``data``, each behind its length of two bytes."""
        if self._pieces:
            self._pieces.append(data)
            self._size += len(data)
            if self._size < self._need:
                return
            data = b"".join(self._pieces)
            self._pieces = []
        size = len(data)
        position = 0
        need = 2
        while size - position >= 2:
            end = position + 2 + (data[position] << 8 | data[position + 1])
            if end > size:
                need = end - position
                break
            self._message(data[position + 2 : end])
            position = end
        if position < size:
            self._pieces = [data[position:] if position else data]
            self._size = size - position
            self._need = need

    def _message(self, message: bytes) -> None:
        if self._decryptor is not None:
            plaintext = self._decryptor.decrypt(message)
            if self._state is _State.OPEN:
                self._mux.receive(plaintext)
            else:
                rest = self._negotiated(plaintext)
                if rest is not None:
                    self._ready()
                    self._mux.receive(rest)
            return
        noise = self._noise
        if noise is None:
            raise LocalProtocolError("no handshake is under way")
        noise.receive_message(message)
        self._send_handshake(noise)
        if noise.complete:
            self._noise = None
            self._encryptor, self._decryptor = noise.split()
            self.handshake_hash = noise.handshake_hash
            self._secured(noise.remote_key)
            if YAMUX in noise.remote_muxers:
                self._ready()
            else:
                self._state = _State.MUXER
                self._negotiate(YAMUX)

    # -- upgrading

    def _negotiate(self, protocol: str) -> None:
        if self.initiator:
            self._negotiation = Initiator([protocol])
        else:
            self._negotiation = Responder(protocol.__eq__, lambda: [protocol])
        self._send_negotiation()

    def _negotiated(self, data: bytes) -> bytes | None:
        """What of ``data`` comes after the negotiation, or None while it goes on."""
        negotiation = self._negotiation
        if negotiation is None:
            raise LocalProtocolError("no negotiation is under way")
        negotiation.receive(data)
        self._send_negotiation()
        if not negotiation.done:
            return None
        if negotiation.protocol is None:
            what = NOISE if self._state is _State.SECURITY else YAMUX
            raise NegotiationError(f"the peer does not speak {what}")
        self._negotiation = None
        return negotiation.rest

    def _send_negotiation(self) -> None:
        if self._negotiation is None:
            return
        output = self._negotiation.take_output()
        if not output:
            return
        if self._encryptor is None:
            self._output.append(output)
        else:
            self._seal([output], self._output)

    def _start_noise(self) -> None:
        self._state = _State.HANDSHAKE
        self._noise = NoiseXX(
            self.initiator, self._identity, self._expected, [YAMUX], self._random_bytes
        )
        self._send_handshake(self._noise)

    def _send_handshake(self, noise: NoiseXX) -> None:
        message = noise.take_message()
        if message is not None:
            self._output.append(len(message).to_bytes(2, "big") + message)

    def _secured(self, key: PublicKey) -> None:
        self.remote_peer = key.peer_id
        self._events.append(LinkSecured(key.peer_id, key))

    def _ready(self) -> None:
        self._state = _State.OPEN
        self._events.append(LinkReady(YAMUX))

    def _seal(self, frames: list[bytes], output: list[bytes]) -> None:
        """Encrypt ``frames``, as many in one Noise message as fit."""
        if self._plain:
            output.extend(frames)
            return
        encryptor = self._encryptor
        if encryptor is None:
            raise LocalProtocolError("nothing can be encrypted before the handshake")
        batch: list[bytes] = []
        size = 0
        for piece in frames:
            if size + len(piece) > MAX_PLAINTEXT:
                self._seal_one(encryptor, batch, output)
                batch, size = [], 0
            batch.append(piece)
            size += len(piece)
        self._seal_one(encryptor, batch, output)

    @staticmethod
    def _seal_one(encryptor: CipherState, batch: list[bytes], output: list[bytes]) -> None:
        if batch:
            sealed = encryptor.encrypt(batch[0] if len(batch) == 1 else b"".join(batch))
            output.append(len(sealed).to_bytes(2, "big"))
            output.append(sealed)

    # -- told by the muxer

    def stream_opened(self, stream_id: int) -> None:
        """See :class:`YamuxEvents`."""
        if len(self._inbound) >= self._limits.negotiating:
            self._mux.reset_stream(stream_id)
            return
        self._inbound[stream_id] = Responder(self._protocols, self._protocol_names)

    def stream_data(self, stream_id: int, data: bytes) -> None:
        """See :class:`YamuxEvents`."""
        negotiation = self._inbound.get(stream_id) or self._outbound.get(stream_id)
        if negotiation is None:
            self._events.append(StreamData(stream_id, data))
            return
        self._mux.consumed(stream_id, len(data))
        try:
            negotiation.receive(data)
        except RemoteProtocolError as error:
            # It costs the stream only: another of the peer's protocols may be sound.
            outbound = stream_id in self._outbound
            self.reset_stream(stream_id)
            if outbound:
                self._events.append(StreamRefused(stream_id, str(error)))
            return
        output = negotiation.take_output()
        if output:
            self._mux.send_data(stream_id, output)
        if negotiation.done:
            self._stream_done(stream_id, negotiation)

    def _stream_done(self, stream_id: int, negotiation: Initiator | Responder) -> None:
        inbound = self._inbound.pop(stream_id, None) is not None
        self._outbound.pop(stream_id, None)
        if negotiation.protocol is None:
            self._mux.reset_stream(stream_id)
            self._events.append(StreamRefused(stream_id, "the peer speaks none of the protocols"))
            return
        self._events.append(StreamNegotiated(stream_id, negotiation.protocol, inbound))
        if negotiation.rest:
            # The whole piece was credited; what belongs to the application is so counted twice,
            # within the window's slack of one negotiation.
            self._events.append(StreamData(stream_id, negotiation.rest))

    def stream_ended(self, stream_id: int) -> None:
        """See :class:`YamuxEvents`."""
        if stream_id in self._inbound:
            self.reset_stream(stream_id)
        elif self._outbound.pop(stream_id, None) is not None:
            self._mux.reset_stream(stream_id)
            self._events.append(
                StreamRefused(stream_id, "the peer ended the stream without an answer")
            )
        else:
            self._events.append(StreamEnded(stream_id))

    def stream_reset(self, stream_id: int) -> None:
        """See :class:`YamuxEvents`."""
        if self._inbound.pop(stream_id, None) is not None:
            return
        self._outbound.pop(stream_id, None)
        self._events.append(StreamWasReset(stream_id))

    def stream_writable(self, stream_id: int) -> None:
        """See :class:`YamuxEvents`."""
        if stream_id not in self._inbound:
            self._events.append(StreamWritable(stream_id))

    def pong(self, value: int) -> None:
        """See :class:`YamuxEvents`."""
        self._events.append(PongReceived(value))

    def gone_away(self, code: int) -> None:
        """See :class:`YamuxEvents`."""
        reason = {0: "normally", 1: "for a protocol error", 2: "for an internal error"}.get(code)
        self._events.append(LinkEnded(code, reason or f"with code {code}"))
