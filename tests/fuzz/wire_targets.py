"""The cores below the streams: framing, security, muxer, and the connection made of them."""

from __future__ import annotations

from typing import Any

from bzzz.errors import IdentityError, LocalProtocolError, RemoteProtocolError
from bzzz.identity.keys import PublicKey
from bzzz.identity.peer_id import PeerID
from bzzz.wire import varint
from bzzz.wire.connection import Connection, State, StreamData, StreamNegotiated
from bzzz.wire.framing import FrameReader
from bzzz.wire.identify import Identify
from bzzz.wire.limits import ConnectionLimits
from bzzz.wire.multiaddr import AddressError, Multiaddr
from bzzz.wire.multistream import Initiator, Responder
from bzzz.wire.noise import HandshakeXX, NoiseXX
from bzzz.wire.noise_channel import NoiseChannel
from bzzz.wire.plaintext import PlaintextChannel
from bzzz.wire.yamux import Yamux
from bzzz.wire.yamux_frame import MAX_DATA
from tests.fuzz.registry import (
    EPHEMERAL,
    OURS,
    STATIC,
    STREAM_PROTOCOL,
    THEIRS,
    fixed_bytes,
    pieces,
    target,
    told,
)

# Small, so that a short input reaches them.
LIMITS = ConnectionLimits(
    inbound_streams=4,
    negotiating_streams=3,
    outbound_streams=8,
    unacknowledged_streams=2,
    outstanding_pings=2,
    refused_streams=4,
    stream_window=512 * 1024,
    window_growth=256 * 1024,
    unconsumed_bytes=256,
    queued_replies=512,
    proposals=4,
)
FRAME_LIMIT = 1000

# One for all runs: as many new ones would scatter the allocator's memory, which looks like a leak.
MORE_THAN_A_WINDOW = bytes(300_000)


# -- pieces of the wire


@target
def varints(data: bytes) -> None:
    """Integers, at any place, of any length allowed."""
    for offset in range(min(len(data), 4)):
        try:
            found = varint.decode(data, offset)
        except RemoteProtocolError as error:
            told(error)
            continue
        if found is not None:
            value, end = found
            assert data[offset:end] == varint.encode(value)


@target
def framing(data: bytes) -> None:
    """Length-prefixed messages."""
    reader = FrameReader(FRAME_LIMIT)
    try:
        for piece in pieces(data):
            for message in reader.receive(piece):
                assert len(message) <= FRAME_LIMIT
            assert reader.buffered <= FRAME_LIMIT + 9
    except RemoteProtocolError as error:
        told(error)


@target
def identities(data: bytes) -> None:
    """Public keys and peer IDs, as bytes and as text."""
    try:
        assert PublicKey.decode(data).encode()
    except IdentityError as error:
        told(error)
    try:
        peer = PeerID(data)
        assert PeerID.parse(str(peer)) == peer
        assert peer.public_key is None or peer.public_key.peer_id == peer
    except IdentityError as error:
        told(error)
    try:
        PeerID.parse(data.decode("utf-8", "surrogateescape"))
    except IdentityError as error:
        told(error)


@target
def multiaddrs(data: bytes) -> None:
    """Addresses, as bytes and as text; one that is read can be written."""
    found = []
    try:
        found.append(Multiaddr.decode(data))
    except RemoteProtocolError as error:
        told(error)
    try:
        found.append(Multiaddr.parse(data.decode("utf-8", "surrogateescape")))
    except AddressError as error:
        told(error)
    for address in found:
        assert Multiaddr.decode(address.encode()) == address
        assert Multiaddr.parse(str(address)) == address
        address.host_port()
        address.without_peer()
        if address.peer_id is None:
            assert address.with_peer(OURS.peer_id).peer_id == OURS.peer_id


@target
def multistream(data: bytes) -> None:
    """Both sides of a negotiation."""
    sides: tuple[Initiator | Responder, ...] = (
        Initiator((STREAM_PROTOCOL, "/fuzz/0.9.0")),
        Responder(STREAM_PROTOCOL.__eq__, lambda: (STREAM_PROTOCOL,), 4),
    )
    for side in sides:
        try:
            for piece in pieces(data):
                if side.done:
                    break
                side.receive(piece)
                assert len(side.take_output()) <= 4 * 64
                assert side.done or len(side.rest) <= 1026
        except RemoteProtocolError as error:
            told(error)


@target
def identify(data: bytes) -> None:
    """Who a peer says it is; what was read can be said again."""
    try:
        read = Identify.decode(data)
    except RemoteProtocolError as error:
        told(error)
        return
    assert Identify.decode(read.encode()) == read


# -- security


def noise_sides() -> tuple[NoiseXX, NoiseXX]:
    """Our two roles."""
    return (
        NoiseXX(True, OURS, None, ("/yamux/1.0.0",), fixed_bytes),
        NoiseXX(False, OURS, None, ("/yamux/1.0.0",), fixed_bytes),
    )


@target
def noise_handshake(data: bytes) -> None:
    """Messages of the handshake, as they come from somebody without a key."""
    for side in noise_sides():
        side.take_message()
        try:
            for piece in pieces(data):
                side.receive_message(piece)
                side.take_message()
        except RemoteProtocolError as error:
            told(error)


@target
def noise_payload(data: bytes) -> None:
    """What a peer says under a handshake that is otherwise right."""
    for ours, theirs in zip(
        noise_sides(),
        (HandshakeXX(False, STATIC, EPHEMERAL), HandshakeXX(True, STATIC, EPHEMERAL)),
        strict=True,
    ):
        try:
            while not ours.complete:
                message = ours.take_message()
                if message is not None:
                    theirs.read(message)
                if theirs.our_turn:
                    first = theirs.initiator and message is None
                    ours.receive_message(theirs.write(b"" if first else data))
                elif message is None:
                    break
        except RemoteProtocolError as error:
            told(error)


@target
def noise_channel(data: bytes) -> None:
    """The bytes of a Noise connection."""
    for side in noise_sides():
        channel = NoiseChannel(side)
        try:
            for piece in pieces(data):
                channel.receive(piece)
                channel.take_output()
        except RemoteProtocolError as error:
            told(error)


@target
def plaintext(data: bytes) -> None:
    """The simulator's handshake."""
    channel = PlaintextChannel(OURS, None)
    try:
        for piece in pieces(data):
            channel.receive(piece)
    except RemoteProtocolError as error:
        told(error)


# -- muxer, and all of it together


class Taking:
    """Takes what yamux hands out, every other piece at once and the rest never.

    :ivar held: bytes not taken.
    """

    def __init__(self) -> None:
        self.session: Yamux | None = None
        self.held = 0
        self._turn = False

    def stream_opened(self, stream_id: int) -> None:
        """Answered at once."""
        assert self.session is not None
        self.session.send_data(stream_id, b"hello")

    def stream_data(self, stream_id: int, data: bytes) -> None:
        """Taken or kept."""
        assert self.session is not None
        self._turn = not self._turn
        if self._turn:
            self.session.consumed(stream_id, len(data))
        else:
            self.held += len(data)

    def stream_ended(self, stream_id: int) -> None:
        """Ended here as well."""
        assert self.session is not None
        self.session.end_stream(stream_id)

    def stream_reset(self, stream_id: int) -> None:
        """Gone."""

    def stream_writable(self, stream_id: int) -> None:
        """More is sent."""
        assert self.session is not None
        self.session.send_data(stream_id, bytes(100))

    def pong_received(self, value: int) -> None:
        """Not of interest."""

    def session_ended(self, code: int) -> None:
        """Nothing is read any more."""


@target
def yamux(data: bytes) -> None:
    """Frames, to both sides."""
    for initiator in (True, False):
        sink = Taking()
        session = sink.session = Yamux(initiator, sink, LIMITS)
        opened = session.open_stream(b"opening")
        session.send_data(opened, MORE_THAN_A_WINDOW)
        session.send_ping()
        try:
            for piece in pieces(data):
                session.receive(piece)
                assert session.stream_count <= LIMITS.inbound_streams + 1
                for chunk in session.take_output():
                    assert len(chunk) <= MAX_DATA
        except RemoteProtocolError as error:
            told(error)


def take(side: Connection, events: list[Any], written: set[int]) -> None:
    """What an application does with events: takes data, answers once on each stream."""
    for event in events:
        if isinstance(event, StreamData):
            side.consumed(event.stream_id, len(event.data))
        elif isinstance(event, StreamNegotiated) and event.stream_id not in written:
            written.add(event.stream_id)
            try:
                side.send_data(event.stream_id, b"answer")
            except LocalProtocolError:
                # It was given up later in the same bytes.
                assert side.state is State.CLOSED


def made_connection(initiator: bool, security: str) -> Connection:
    """One of ours."""
    return Connection(
        initiator,
        OURS,
        random_bytes=fixed_bytes,
        protocols=STREAM_PROTOCOL.__eq__,
        protocol_names=lambda: (STREAM_PROTOCOL,),
        security=security,
        limits=LIMITS,
    )


@target
def connection_raw(data: bytes) -> None:
    """A connection from its first byte, either side, either security."""
    for security in ("noise", "plaintext"):
        for initiator in (True, False):
            side = made_connection(initiator, security)
            side.start()
            try:
                for piece in pieces(data):
                    take(side, side.receive_data(piece), set())
                    side.take_output()
            except RemoteProtocolError as error:
                told(error)


def connection_inside(data: bytes, security: str) -> None:
    """A ready connection, fed by a peer whose muxer says anything, with the right keys."""
    for initiator in (True, False):
        ours = made_connection(initiator, security)
        theirs = Connection(
            not initiator,
            THEIRS,
            random_bytes=lambda size: bytes(size - 1) + b"\x07",
            protocols=STREAM_PROTOCOL.__eq__,
            security=security,
        )
        ours.start()
        theirs.start()
        while ours.state is not State.OPEN or theirs.state is not State.OPEN:
            for source, destination in ((ours, theirs), (theirs, ours)):
                sent = source.data_to_send()
                if sent:
                    destination.receive_data(sent)
        ours.open_stream((STREAM_PROTOCOL,))
        ours.send_ping()
        channel = theirs._channel
        assert channel is not None
        written: set[int] = set()
        try:
            for piece in pieces(data):
                sealed: list[Any] = []
                channel.seal([piece], sealed)
                take(ours, ours.receive_data(b"".join(sealed)), written)
                ours.take_output()
                assert ours.stream_count <= LIMITS.inbound_streams + 1
                assert len(ours.streams_negotiating) <= LIMITS.negotiating_streams
        except RemoteProtocolError as error:
            told(error)
            ours.take_output()


@target
def connection_noise(data: bytes) -> None:
    """Inside Noise."""
    connection_inside(data, "noise")


@target
def connection_plaintext(data: bytes) -> None:
    """The same, without the time that encryption takes."""
    connection_inside(data, "plaintext")
