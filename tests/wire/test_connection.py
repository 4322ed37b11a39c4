"""The connection as a whole: upgrading, negotiating streams, and what costs a link or a stream."""

from __future__ import annotations

import dataclasses
import gc
import weakref
from collections.abc import Iterator, Sequence

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from bzzz.errors import LimitExceeded, LocalProtocolError, RemoteProtocolError
from bzzz.identity.peer_id import PeerID
from bzzz.wire.connection import (
    MAX_DATA,
    YAMUX,
    Connection,
    ConnectionLimits,
    Event,
    LinkEnded,
    LinkReady,
    LinkSecured,
    PongReceived,
    State,
    StreamData,
    StreamEnded,
    StreamNegotiated,
    StreamRefused,
    StreamWasReset,
    StreamWritable,
)
from bzzz.wire.limits import INITIAL_WINDOW
from bzzz.wire.multistream import HEADER, Initiator, Responder, encode_line
from bzzz.wire.noise import MAX_MESSAGE, TAG, NoiseXX
from bzzz.wire.noise_channel import MAX_HANDSHAKE_MESSAGE, NoiseChannel
from bzzz.wire.yamux_frame import DATA, FIN, GO_AWAY, PING, RST, SYN, WINDOW_UPDATE
from bzzz.wire.yamux_frame import HEADER as FRAME
from tests.wire.connection_pair import (
    INITIATOR_KEY,
    PROTOCOL,
    RESPONDER_KEY,
    ConnectionPair,
    Cut,
    bytewise,
    counting_bytes,
    joined,
    make_connection,
    whole,
)

PROPOSAL = encode_line(HEADER) + encode_line(PROTOCOL)
OTHER_PEER = PeerID(b"\x12\x20" + b"o" * 32)


def named(events: Sequence[Event]) -> list[str]:
    return [type(event).__name__ for event in events]


def frame(kind: int, flags: int, stream_id: int, data: bytes | int) -> bytes:
    if isinstance(data, int):
        return FRAME.pack(kind, flags, stream_id, data)
    return FRAME.pack(kind, flags, stream_id, len(data)) + data


class UpgradeTests(SynchronousTestCase):
    def test_both_learn_who_the_other_is(self) -> None:
        """With either security both sides end up ready, and know each other."""
        for security in ("noise", "plaintext"):
            pair = ConnectionPair(security=security)
            pair.pump()
            self.assertEqual(
                pair.taken(pair.initiator),
                [LinkSecured(RESPONDER_KEY.peer_id, RESPONDER_KEY.public), LinkReady(YAMUX)],
            )
            self.assertEqual(
                pair.taken(pair.responder),
                [LinkSecured(INITIATOR_KEY.peer_id, INITIATOR_KEY.public), LinkReady(YAMUX)],
            )

    def test_flights(self) -> None:
        """Noise with an early muxer is ready after two round trips, and sends in five flights."""
        pair = ConnectionPair(security="noise")
        flights = 0
        while pair.flush(pair.initiator) or pair.flush(pair.responder):
            flights += 1
        self.assertEqual(flights, 5)

    def test_first_write(self) -> None:
        """The initiator sends header and proposal at once; the responder waits."""
        pair = ConnectionPair(security="noise")
        self.assertEqual(pair.initiator.data_to_send(), encode_line(HEADER) + encode_line("/noise"))
        self.assertEqual(pair.responder.data_to_send(), b"")

    def test_channel_binding(self) -> None:
        """Both sides have the same hash of what was said in the handshake."""
        pair = ConnectionPair.ready(security="noise")
        self.assertEqual(len(pair.initiator.handshake_hash), 32)
        self.assertEqual(pair.initiator.handshake_hash, pair.responder.handshake_hash)

    def test_expected_peer(self) -> None:
        """The expected peer is accepted; another one costs the link, whatever the security."""
        for security in ("noise", "plaintext"):
            good = ConnectionPair(
                security=security, initiator={"expected_peer": RESPONDER_KEY.peer_id}
            )
            good.pump()
            self.assertIs(good.initiator.state, State.OPEN)
            bad = ConnectionPair(security=security, initiator={"expected_peer": OTHER_PEER})
            with self.assertRaises(RemoteProtocolError) as caught:
                bad.pump()
            self.assertEqual(caught.exception.code, "peer_id_mismatch")
            self.assertIs(bad.initiator.state, State.CLOSED)

    def test_no_security_in_common(self) -> None:
        """Different securities end the link at the side that proposed."""
        pair = ConnectionPair(initiator={"security": "noise"}, responder={"security": "plaintext"})
        with self.assertRaises(RemoteProtocolError) as caught:
            pair.pump()
        self.assertEqual(caught.exception.code, "no_common_security")

    def test_unknown_security(self) -> None:
        """A security that does not exist is this side's mistake."""
        with self.assertRaises(LocalProtocolError):
            make_connection(True, security="tls")

    def test_no_libp2p(self) -> None:
        """A peer that speaks something else is refused in the first state."""
        for initiator in (True, False):
            for said in (b"GET / HTTP/1.1\r\n" + b"x" * 80, b"SSH-2.0-x\r\n" + b"y" * 80):
                connection = make_connection(initiator, security="noise")
                connection.start()
                with self.assertRaises(RemoteProtocolError):
                    connection.receive_data(said)

    def test_not_started(self) -> None:
        """Data before start(), and starting twice, are this side's mistakes."""
        connection = make_connection(True)
        with self.assertRaises(LocalProtocolError):
            connection.receive_data(b"x")
        connection.start()
        with self.assertRaises(LocalProtocolError):
            connection.start()

    def test_calls_before_ready(self) -> None:
        """A link that is not ready has no streams and no pings; a goodbye says nothing."""
        connection = make_connection(True)
        connection.start()
        connection.go_away()
        for call in (lambda: connection.open_stream([PROTOCOL]), connection.send_ping):
            with self.assertRaises(LocalProtocolError):
                call()


class NoisePeer:
    """A peer put together by hand, that offers other muxers early, or none."""

    def __init__(self, initiator: bool, muxers: Sequence[str]) -> None:
        self.target = make_connection(not initiator, security="noise")
        self.target.start()
        self.events: list[Event] = []
        key = INITIATOR_KEY if initiator else RESPONDER_KEY
        security = Initiator(["/noise"]) if initiator else Responder("/noise".__eq__)
        while not security.done:
            self.give(security.take_output())
            security.receive(self.target.data_to_send())
        self.give(security.take_output())
        self.channel = NoiseChannel(NoiseXX(initiator, key, None, muxers, counting_bytes()))
        self.received = self.channel.receive(security.rest)
        while not self.channel.complete:
            self.exchange()
        self.exchange()

    def give(self, data: bytes) -> None:
        self.events += self.target.receive_data(data)

    def exchange(self) -> None:
        self.give(b"".join(self.channel.take_output()))
        self.received += self.channel.receive(self.target.data_to_send())

    def send(self, data: bytes) -> None:
        """Send ``data`` encrypted, and take what comes back."""
        sealed: list[bytes | memoryview] = []
        self.channel.seal([data], sealed)
        self.give(b"".join(sealed))
        self.received += self.channel.receive(self.target.data_to_send())

    def heard(self) -> bytes:
        received, self.received = self.received, []
        return b"".join(received)


class MuxerTests(SynchronousTestCase):
    def test_offered_early(self) -> None:
        """A common muxer of the handshake is used with no more words."""
        for initiator in (True, False):
            peer = NoisePeer(initiator, ["/mplex/6.7.0", YAMUX])
            self.assertEqual(named(peer.events), ["LinkSecured", "LinkReady"])
            self.assertEqual(peer.heard(), b"")

    def test_not_offered_responder(self) -> None:
        """Who is dialled by a peer without early offers answers its negotiation."""
        peer = NoisePeer(True, [])
        self.assertEqual(named(peer.events), ["LinkSecured"])
        negotiation = Initiator(["/mplex/6.7.0", YAMUX])
        while not negotiation.done:
            peer.send(negotiation.take_output())
            negotiation.receive(peer.heard())
        self.assertEqual(negotiation.protocol, YAMUX)
        self.assertEqual(named(peer.events), ["LinkSecured", "LinkReady"])

    def test_not_offered_initiator(self) -> None:
        """Who dials a peer without early offers negotiates; muxed bytes may follow the answer."""
        peer = NoisePeer(False, [])
        negotiation = Responder(YAMUX.__eq__)
        negotiation.receive(peer.heard())
        self.assertEqual(negotiation.protocol, YAMUX)
        peer.send(negotiation.take_output() + frame(PING, SYN, 0, 7))
        self.assertEqual(named(peer.events), ["LinkSecured", "LinkReady"])
        self.assertEqual(len(peer.heard()), 12)

    def test_none_in_common(self) -> None:
        """Offers without a common muxer fail the handshake, as the specification demands."""
        for initiator in (True, False):
            with self.assertRaises(RemoteProtocolError) as caught:
                NoisePeer(initiator, ["/mplex/6.7.0"])
            self.assertEqual(caught.exception.code, "no_common_muxer")

    def test_refused(self) -> None:
        """A peer that speaks no yamux costs the link."""
        peer = NoisePeer(False, [])
        with self.assertRaises(RemoteProtocolError) as caught:
            peer.send(encode_line(HEADER) + encode_line("na"))
        self.assertEqual(caught.exception.code, "no_common_muxer")


class NoiseChannelTests(SynchronousTestCase):
    def test_handshake_message_cap(self) -> None:
        """Nobody who is not authenticated makes this side hold 64 KiB."""
        peer = make_connection(False, security="noise")
        peer.start()
        peer.receive_data(encode_line(HEADER) + encode_line("/noise"))
        with self.assertRaises(LimitExceeded) as caught:
            peer.receive_data((MAX_HANDSHAKE_MESSAGE + 1).to_bytes(2, "big"))
        self.assertEqual(caught.exception.code, "noise_message_too_long")

    def test_altered(self) -> None:
        """A message that was altered, or is none, ends the link."""
        for altered in (b"\x00\x00", b"\x00\x10" + bytes(16)):
            pair = ConnectionPair.ready(security="noise")
            with self.assertRaises(RemoteProtocolError) as caught:
                pair.responder.receive_data(altered)
            self.assertEqual(caught.exception.code, "decrypt_failed")

    def test_burst_is_one_message(self) -> None:
        """What is written in one turn is encrypted at once, if it fits."""
        pair = ConnectionPair.ready(security="noise")
        streams = [pair.initiator.open_stream([PROTOCOL]) for _ in range(20)]
        for stream in streams:
            pair.initiator.send_data(stream, b"x" * 50)
        data = pair.initiator.data_to_send()
        self.assertEqual(int.from_bytes(data[:2], "big"), len(data) - 2)

    def test_large_writes_fill_messages(self) -> None:
        """A frame of the largest size is one Noise message of the largest size."""
        pair = ConnectionPair.ready(security="noise")
        stream = pair.initiator.open_stream([PROTOCOL])
        pair.pump()
        pair.initiator.send_data(stream, bytes(MAX_DATA))
        data = pair.initiator.data_to_send()
        self.assertEqual(int.from_bytes(data[:2], "big"), MAX_MESSAGE)
        self.assertEqual(len(data), 2 + MAX_MESSAGE)

    def test_pieces_longer_than_a_message(self) -> None:
        """Whatever the pieces, messages are within the limit and in order."""
        sides = [
            NoiseXX(initiator, key, None, (), counting_bytes())
            for initiator, key in ((True, INITIATOR_KEY), (False, RESPONDER_KEY))
        ]
        first, second = NoiseChannel(sides[0]), NoiseChannel(sides[1])
        while not second.complete:
            second.receive(b"".join(first.take_output()))
            first.receive(b"".join(second.take_output()))
        limit = MAX_MESSAGE - TAG
        for sizes in ([10, limit, 10], [3 * limit + 5], [limit, limit], [limit + 1, 1], [5] * 9):
            pieces = [bytes((number,)) * size for number, size in enumerate(sizes)]
            output: list[bytes | memoryview] = []
            first.seal(pieces, output)
            received: list[bytes] = []
            for piece in output:
                received += second.receive(bytes(piece))
            self.assertEqual(b"".join(received), b"".join(pieces))
            self.assertLessEqual(max(map(len, received)), limit)


class StreamTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.pair = ConnectionPair.ready()
        self.initiator, self.responder = self.pair.initiator, self.pair.responder

    def events(self) -> list[Event]:
        """What happened at the responder."""
        self.pair.pump()
        return self.pair.taken(self.responder)

    def answers(self) -> list[Event]:
        """What happened at the initiator."""
        self.pair.pump()
        return self.pair.taken(self.initiator)

    def test_optimistic(self) -> None:
        """Data travels with a single proposal, and the answer with the data that answers."""
        stream = self.initiator.open_stream([PROTOCOL])
        self.initiator.send_data(stream, b"question")
        self.assertEqual(
            self.initiator.data_to_send(),
            frame(DATA, SYN, 1, PROPOSAL) + frame(DATA, 0, 1, b"question"),
        )

    def test_negotiated(self) -> None:
        """Each side is told once; the inbound side hears of the stream only then."""
        stream = self.initiator.open_stream([PROTOCOL])
        self.initiator.send_data(stream, b"question")
        self.assertEqual(
            self.events(),
            [StreamNegotiated(stream, PROTOCOL, True), StreamData(stream, b"question")],
        )
        self.assertEqual(self.answers(), [StreamNegotiated(stream, PROTOCOL, False)])

    def test_second_choice(self) -> None:
        """Of several proposals the first that is spoken is taken; data waits for it."""
        stream = self.initiator.open_stream(["/other/1", PROTOCOL])
        for call in (
            lambda: self.initiator.send_data(stream, b"x"),
            lambda: self.initiator.end_stream(stream),
        ):
            with self.assertRaises(LocalProtocolError):
                call()
        self.assertEqual(self.answers(), [StreamNegotiated(stream, PROTOCOL, False)])
        self.initiator.send_data(stream, b"x")
        self.assertEqual(
            self.events(), [StreamNegotiated(stream, PROTOCOL, True), StreamData(stream, b"x")]
        )

    def test_refused(self) -> None:
        """A stream whose protocols nobody speaks is gone at both ends, and the link lives."""
        stream = self.initiator.open_stream(["/other/1", "/other/2"])
        self.assertEqual(named(self.answers()), ["StreamRefused"])
        self.assertEqual(self.events(), [])
        self.assertEqual(self.initiator.stream_count + self.responder.stream_count, 0)
        self.assertEqual(self.initiator.send_data(stream, b"late"), 0)

    def test_refused_with_data(self) -> None:
        """Data sent with a proposal that is refused costs the stream only."""
        stream = self.initiator.open_stream(["/other/1"])
        self.initiator.send_data(stream, b"\xff\xff\xffno multistream at all")
        answers = self.answers()
        self.assertIn(type(answers[0]), (StreamRefused, StreamWasReset))
        self.assertEqual(len(answers), 1)
        self.assertEqual(self.events(), [])
        self.assertEqual(self.initiator.stream_count + self.responder.stream_count, 0)

    def test_half_close_both_ways(self) -> None:
        """Each half ends by itself; after both the stream is forgotten."""
        stream = self.initiator.open_stream([PROTOCOL])
        self.initiator.send_data(stream, b"question")
        self.initiator.end_stream(stream)
        self.assertEqual(self.events()[1:], [StreamData(stream, b"question"), StreamEnded(stream)])
        self.responder.send_data(stream, b"answer")
        self.responder.end_stream(stream)
        self.assertEqual(self.answers()[1:], [StreamData(stream, b"answer"), StreamEnded(stream)])
        self.assertEqual(self.initiator.stream_count + self.responder.stream_count, 0)

    def test_reset(self) -> None:
        """A reset reaches the other side, from either side and in any state."""
        for resetting in (self.initiator, self.responder):
            stream = self.initiator.open_stream([PROTOCOL])
            self.pair.pump()
            self.answers(), self.events()
            resetting.reset_stream(stream)
            self.pair.pump()
            self.assertEqual(self.pair.taken(self.pair.other(resetting)), [StreamWasReset(stream)])
            self.assertEqual(self.pair.taken(resetting), [])

    def test_reset_before_the_answer(self) -> None:
        """A peer's stream that is reset before it has a protocol was never heard of."""
        stream = self.initiator.open_stream(["/other/1", PROTOCOL])
        self.pair.flush(self.initiator)
        self.initiator.reset_stream(stream)
        self.assertEqual(self.events(), [])
        self.assertEqual(self.answers(), [])
        self.assertEqual(self.responder.streams_negotiating, ())

    def test_ended_before_the_answer(self) -> None:
        """A peer that ends a stream instead of answering has refused it."""
        stream = self.initiator.open_stream([PROTOCOL])
        self.initiator.data_to_send()
        self.assertEqual(
            named(self.initiator.receive_data(frame(WINDOW_UPDATE, FIN, stream, 0))),
            ["StreamRefused"],
        )
        self.assertEqual(self.initiator.data_to_send(), frame(WINDOW_UPDATE, RST, stream, 0))

    def test_ended_before_the_proposal(self) -> None:
        """A peer that opens a stream and ends it without a proposal has it reset."""
        self.assertEqual(
            self.responder.receive_data(frame(DATA, SYN | FIN, 1, encode_line(HEADER))), []
        )
        self.assertIn(frame(WINDOW_UPDATE, RST, 1, 0), self.responder.data_to_send())
        self.assertEqual(self.responder.streams_negotiating, ())

    def test_window_exhausted(self) -> None:
        """A reader who takes nothing stops the writer; taking lets it go on."""
        self.pair.consume = False
        stream = self.initiator.open_stream([PROTOCOL])
        data = bytes(INITIAL_WINDOW)
        sent = self.initiator.send_data(stream, data)
        self.assertEqual(sent, INITIAL_WINDOW - len(PROPOSAL))
        self.assertEqual(self.initiator.send_data(stream, b"x"), 0)
        self.assertEqual(self.initiator.stream_window(stream), 0)
        self.pair.pump()
        self.answers()
        self.responder.consumed(stream, sent)
        self.assertEqual(self.answers(), [StreamWritable(stream)])
        self.assertEqual(self.initiator.send_data(stream, b"x"), 1)

    def test_paused_streams_do_not_stop_others(self) -> None:
        """One stream's full window is no other's."""
        self.pair.consume = False
        full, free = (self.initiator.open_stream([PROTOCOL]) for _ in range(2))
        self.initiator.send_data(full, bytes(INITIAL_WINDOW))
        self.pair.pump()
        self.events()
        self.initiator.send_data(free, b"x")
        self.assertEqual(self.events(), [StreamData(free, b"x")])

    def test_ping(self) -> None:
        """The answer to a ping has its value."""
        value = self.initiator.send_ping()
        self.assertEqual(self.answers(), [PongReceived(value)])

    def test_list(self) -> None:
        """A peer that asks is told the protocols."""
        responder = make_connection(False, protocol_names=lambda: [PROTOCOL])
        pair = ConnectionPair.ready(responder={"protocol_names": lambda: [PROTOCOL]})
        pair.responder.receive_data(
            frame(DATA, SYN, 1, encode_line(HEADER)) + frame(DATA, 0, 1, encode_line("ls"))
        )
        self.assertIn(encode_line(PROTOCOL), pair.responder.data_to_send())
        self.assertIs(responder.state, State.NEW)

    def test_events_in_one_piece_with_a_reset(self) -> None:
        """What was said before a reset is told before it; calls meanwhile come to nothing."""
        events = self.responder.receive_data(
            frame(DATA, SYN, 1, PROPOSAL + b"hello") + frame(WINDOW_UPDATE, RST, 1, 0)
        )
        self.assertEqual(
            events,
            [StreamNegotiated(1, PROTOCOL, True), StreamData(1, b"hello"), StreamWasReset(1)],
        )
        self.assertEqual(self.responder.send_data(1, b"answer"), 0)
        self.responder.consumed(1, 5)
        self.responder.end_stream(1)
        self.responder.reset_stream(1)


class EndTests(SynchronousTestCase):
    def test_goodbye(self) -> None:
        """A goodbye is told with its reason; then nothing is read and nothing sent."""
        pair = ConnectionPair.ready()
        stream = pair.initiator.open_stream([PROTOCOL])
        pair.pump()
        pair.taken(pair.responder)
        pair.initiator.go_away()
        with self.assertRaises(LocalProtocolError):
            pair.initiator.open_stream([PROTOCOL])
        pair.pump()
        self.assertEqual(pair.taken(pair.responder), [LinkEnded(0, "normal end")])
        self.assertIs(pair.responder.state, State.CLOSED)
        self.assertEqual(pair.responder.receive_data(b"\xff" * 100), [])
        self.assertEqual(pair.responder.send_data(stream, b"x"), 0)
        self.assertEqual(pair.responder.send_data(pair.responder.open_stream(["/a", "/b"]), b""), 0)
        pair.responder.send_ping()
        pair.responder.go_away()

    def test_codes_in_words(self) -> None:
        """Every code of a goodbye has words."""
        for code in (0, 1, 2, 77):
            pair = ConnectionPair.ready()
            (event,) = pair.responder.receive_data(frame(GO_AWAY, 0, 0, code))
            assert isinstance(event, LinkEnded)
            self.assertEqual(event.code, code)
            self.assertTrue(event.reason)

    def test_protocol_error(self) -> None:
        """A peer that breaks the rules is told so, and read no more."""
        pair = ConnectionPair.ready()
        with self.assertRaises(RemoteProtocolError):
            pair.responder.receive_data(frame(DATA, SYN, 1, PROPOSAL) + frame(9, 0, 0, 0))
        self.assertTrue(pair.responder.data_to_send().endswith(frame(GO_AWAY, 0, 0, 1)))
        pair.responder.send_ping()
        self.assertEqual(pair.responder.data_to_send(), b"")
        self.assertIs(pair.responder.state, State.CLOSED)
        self.assertEqual(pair.responder.receive_data(frame(9, 0, 0, 0)), [])

    def test_error_while_upgrading(self) -> None:
        """A handshake that fails leaves a closed connection, not a half open one."""
        for security in ("noise", "plaintext"):
            for steps in range(4):
                pair = ConnectionPair(security=security)
                for _ in range(steps):
                    pair.flush(pair.initiator)
                    pair.flush(pair.responder)
                for side in (pair.initiator, pair.responder):
                    if side.state is State.OPEN:
                        continue
                    with self.assertRaises(RemoteProtocolError):
                        side.receive_data(b"\x40" + b"x" * 0x4040)
                    self.assertIs(side.state, State.CLOSED)
                    self.assertEqual(side.receive_data(b"anything"), [])


class LimitTests(SynchronousTestCase):
    def ready(self, **limits: int) -> ConnectionPair:
        return ConnectionPair.ready(limits=dataclasses.replace(ConnectionLimits(), **limits))

    def test_negotiating_streams(self) -> None:
        """Streams that never say what they are for have a limit; those that do are not counted."""
        pair = self.ready(negotiating_streams=2)
        opened = b"".join(frame(WINDOW_UPDATE, SYN, stream_id, 0) for stream_id in (1, 3, 5))
        pair.responder.receive_data(opened)
        self.assertEqual(pair.responder.streams_negotiating, (1, 3))
        self.assertEqual(pair.responder.data_to_send(), frame(WINDOW_UPDATE, RST, 5, 0))
        self.assertEqual(
            named(pair.responder.receive_data(frame(DATA, 0, 1, PROPOSAL))), ["StreamNegotiated"]
        )
        pair.responder.reset_stream(3)
        self.assertEqual(pair.responder.streams_negotiating, ())
        for stream_id in range(7, 47, 2):
            events = pair.responder.receive_data(frame(DATA, SYN, stream_id, PROPOSAL))
            self.assertEqual(named(events), ["StreamNegotiated"])

    def test_a_million_streams(self) -> None:
        """Opening without end ends the link, and costs little until then."""
        pair = ConnectionPair.ready()
        limits = ConnectionLimits()
        opened = 0
        with self.assertRaises(LimitExceeded) as caught:
            for stream_id in range(1, 2_000_000, 2):
                pair.responder.receive_data(frame(WINDOW_UPDATE, SYN, stream_id, 0))
                pair.responder.take_output()
                opened += 1
        self.assertEqual(caught.exception.code, "too_many_streams")
        self.assertEqual(opened, limits.negotiating_streams + limits.refused_streams)

    def test_proposals_without_end(self) -> None:
        """A stream with too many proposals is reset."""
        pair = self.ready(proposals=3)
        said = encode_line(HEADER) + encode_line("/no") * 4
        self.assertEqual(pair.responder.receive_data(frame(DATA, SYN, 1, said)), [])
        self.assertEqual(pair.responder.stream_count, 0)

    def test_answers_beyond_the_window(self) -> None:
        """Asking for more answers than the stream's window holds costs the stream."""
        names = [f"/{number:0100}" for number in range(50)]
        pair = ConnectionPair.ready(responder={"protocol_names": lambda: names})
        said = encode_line(HEADER) + encode_line("ls") * 80
        self.assertEqual(pair.responder.receive_data(frame(DATA, SYN, 1, said)), [])
        self.assertEqual(pair.responder.stream_count, 0)
        self.assertEqual(pair.responder.streams_negotiating, ())

    def test_answers_not_read(self) -> None:
        """Proposals whose answers are not read end the link."""
        pair = self.ready(queued_replies=1000)
        said = encode_line(HEADER) + encode_line("/no")
        with self.assertRaises(LimitExceeded) as caught:
            for stream_id in range(1, 1000, 2):
                pair.responder.receive_data(frame(DATA, SYN, stream_id, said))
        self.assertEqual(caught.exception.code, "replies_not_read")

    def test_four_gigabytes(self) -> None:
        """A header of 4 GiB is refused before anything of it is held."""
        pair = ConnectionPair.ready(security="noise")
        stream = pair.initiator.open_stream([PROTOCOL])
        pair.pump()
        sealed: list[bytes | memoryview] = []
        channel = pair.initiator._channel
        assert channel is not None
        channel.seal([frame(DATA, 0, stream, 0xFFFFFFFF)], sealed)
        with self.assertRaises(RemoteProtocolError) as caught:
            pair.responder.receive_data(b"".join(sealed))
        self.assertEqual(caught.exception.code, "window_exceeded")


def scenario(cut: Cut, security: str, consume: bool = True) -> list[list[Event]]:
    """A bit of everything, and what both sides were told."""
    pair = ConnectionPair(cut=cut, security=security, consume=consume)
    pair.pump()
    first = pair.initiator.open_stream([PROTOCOL])
    second = pair.responder.open_stream(["/other/1", PROTOCOL])
    pair.initiator.open_stream(["/other/1"])
    pair.initiator.send_data(first, bytes(range(256)) * 20)
    pair.pump()
    pair.responder.send_data(second, b"from the responder")
    pair.responder.send_data(first, b"answer")
    pair.responder.end_stream(first)
    pair.initiator.send_ping()
    pair.pump()
    pair.initiator.end_stream(first)
    pair.initiator.reset_stream(second)
    pair.pump()
    pair.responder.go_away()
    pair.pump()
    return [joined(pair.events[pair.initiator]), joined(pair.events[pair.responder])]


def shape(sides: list[list[Event]]) -> list[list[Event]]:
    """By stream: how streams interleave depends on when which bytes come, the rest does not."""
    return [
        sorted(events, key=lambda event: getattr(event, "stream_id", 1 << 40)) for events in sides
    ]


class CuttingTests(SynchronousTestCase):
    def test_bytewise(self) -> None:
        """A byte at a time, the same happens."""
        for security in ("plaintext", "noise"):
            self.assertEqual(shape(scenario(bytewise, security)), shape(scenario(whole, security)))

    @settings(max_examples=40, deadline=None)
    @given(st.lists(st.integers(1, 3000), min_size=1, max_size=30), st.booleans())
    def test_any_cutting(self, sizes: list[int], encrypted: bool) -> None:
        """However the bytes are cut, the same happens."""

        def cut(data: bytes) -> Iterator[bytes]:
            position = number = 0
            while position < len(data):
                size = sizes[number % len(sizes)]
                yield data[position : position + size]
                position += size
                number += 1

        security = "noise" if encrypted else "plaintext"
        self.assertEqual(shape(scenario(cut, security)), shape(scenario(whole, security)))

    def test_large_transfer(self) -> None:
        """Eight megabytes arrive as they were sent, through windows that fill and grow."""
        for security in ("plaintext", "noise"):
            pair = ConnectionPair.ready(security=security)
            stream = pair.initiator.open_stream([PROTOCOL])
            data = bytes(range(251)) * 33_000
            rest = memoryview(data)
            while rest:
                rest = rest[pair.initiator.send_data(stream, bytes(rest[:100_000])) :]
                pair.pump()
            received = b"".join(
                event.data for event in pair.taken(pair.responder) if isinstance(event, StreamData)
            )
            self.assertEqual(received, data)


class FuzzTests(SynchronousTestCase):
    def attack(self, connection: Connection, pieces: list[bytes]) -> None:
        try:
            for piece in pieces:
                for event in connection.receive_data(piece):
                    if isinstance(event, StreamData):
                        connection.consumed(event.stream_id, len(event.data))
        except RemoteProtocolError:
            pass
        connection.take_output()

    @settings(max_examples=200, deadline=None)
    @given(
        st.lists(st.binary(max_size=60), max_size=6),
        st.booleans(),
        st.sampled_from(["noise", "plaintext"]),
        st.integers(0, 4),
    )
    def test_arbitrary_bytes(
        self, pieces: list[bytes], initiator: bool, security: str, steps: int
    ) -> None:
        """In every state arbitrary bytes are taken, or are the peer's error; nothing else."""
        pair = ConnectionPair(security=security)
        for _ in range(steps):
            pair.flush(pair.initiator)
            pair.flush(pair.responder)
        self.attack(pair.initiator if initiator else pair.responder, pieces)

    @settings(max_examples=300, deadline=None)
    @given(
        st.lists(
            st.builds(
                frame,
                st.sampled_from([DATA, DATA, DATA, WINDOW_UPDATE, PING, GO_AWAY]),
                st.sampled_from([0, 0, SYN, FIN, RST, SYN | FIN]),
                st.sampled_from([0, 1, 1, 2, 3]),
                st.sampled_from(
                    [PROPOSAL, encode_line(HEADER), encode_line("/no"), encode_line("ls"), b"xyz"]
                ),
            ),
            max_size=12,
        )
    )
    def test_arbitrary_frames(self, frames: list[bytes]) -> None:
        """So are arbitrary frames on an open link, whatever negotiation they carry."""
        pair = ConnectionPair.ready()
        pair.responder.open_stream([PROTOCOL])
        pair.responder.open_stream(["/a", PROTOCOL])
        self.attack(pair.responder, frames)


class RemainsTests(SynchronousTestCase):
    """What is left of connections that come and go faster than garbage is collected."""

    def test_nothing(self) -> None:
        """A connection is in no cycle: it goes when nobody holds it."""
        gc.disable()
        self.addCleanup(gc.enable)
        made = make_connection(False)
        made.start()
        connection, yamux = weakref.ref(made), weakref.ref(made._yamux)
        del made
        self.assertIsNone(connection())
        self.assertIsNone(yamux())
