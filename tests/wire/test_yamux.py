"""yamux: streams, windows, and everything that a peer must not do."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from bzzz.errors import LimitExceeded, LocalProtocolError, RemoteProtocolError
from bzzz.wire.limits import INITIAL_WINDOW, ConnectionLimits
from bzzz.wire.yamux import Yamux
from bzzz.wire.yamux_frame import (
    ACK,
    DATA,
    FIN,
    GO_AWAY,
    HEADER,
    MAX_DATA,
    MAX_U32,
    PING,
    RST,
    SYN,
    WINDOW_UPDATE,
    GoAway,
)
from bzzz.wire.yamux_ids import SKIPPED_IDS, RemoteIDs

LIMITS = ConnectionLimits()


def frame(kind: int, flags: int, stream_id: int, length: int) -> bytes:
    """A header."""
    return HEADER.pack(kind, flags, stream_id, length)


def data_frame(stream_id: int, data: bytes, flags: int = 0) -> bytes:
    """A data frame."""
    return frame(DATA, flags, stream_id, len(data)) + data


class Recorder:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[object, ...]] = []

    def stream_opened(self, stream_id: int) -> None:
        self.told.append(("opened", stream_id))

    def stream_data(self, stream_id: int, data: bytes) -> None:
        self.told.append(("data", stream_id, data))

    def stream_ended(self, stream_id: int) -> None:
        self.told.append(("ended", stream_id))

    def stream_reset(self, stream_id: int) -> None:
        self.told.append(("reset", stream_id))

    def stream_writable(self, stream_id: int) -> None:
        self.told.append(("writable", stream_id))

    def pong_received(self, value: int) -> None:
        self.told.append(("pong", value))

    def session_ended(self, code: int) -> None:
        self.told.append(("ended session", code))

    def taken(self) -> list[tuple[object, ...]]:
        told, self.told = self.told, []
        return told


class YamuxTestCase(SynchronousTestCase):
    """With a responder, so that the peer's streams are odd and its own even."""

    def setUp(self) -> None:
        self.make()

    def make(self, initiator: bool = False, **limits: int) -> None:
        self.sink = Recorder()
        self.limits = replace(LIMITS, **limits)
        self.yamux = Yamux(initiator, self.sink, self.limits)

    def receive(self, *frames: bytes) -> list[tuple[object, ...]]:
        """What the session tells when it receives the frames."""
        self.yamux.receive(b"".join(frames))
        return self.sink.taken()

    def sent(self) -> bytes:
        """What the session sends."""
        return b"".join(self.yamux.take_output())

    def broken(self, code: str, *frames: bytes) -> None:
        """The frames break a rule."""
        with self.assertRaises(RemoteProtocolError) as caught:
            self.yamux.receive(b"".join(frames))
        self.assertEqual(caught.exception.code, code)

    def open_theirs(self, stream_id: int = 1) -> int:
        self.receive(frame(WINDOW_UPDATE, SYN, stream_id, 0))
        return stream_id

    def open_ours(self) -> int:
        """An acknowledged stream of this side."""
        stream_id = self.yamux.open_stream(b"hello")
        self.sent()
        self.receive(frame(WINDOW_UPDATE, ACK, stream_id, 0))
        return stream_id


class OpeningTests(YamuxTestCase):
    def test_syn_rides_on_data(self) -> None:
        """A stream is opened by its first data, without a frame for it alone."""
        self.assertEqual(self.yamux.open_stream(b"hello"), 2)
        self.assertEqual(self.sent(), data_frame(2, b"hello", SYN))

    def test_parities(self) -> None:
        """The initiator's streams are odd, the responder's even, and none is used twice."""
        self.assertEqual([self.yamux.open_stream(b"x") for _ in range(3)], [2, 4, 6])
        self.make(initiator=True)
        self.assertEqual([self.yamux.open_stream(b"x") for _ in range(3)], [1, 3, 5])
        self.yamux.reset_stream(5)
        self.assertEqual(self.yamux.open_stream(b"x"), 7)

    def test_opened_by_either_frame(self) -> None:
        """The peer opens a stream with data or with a window update."""
        self.assertEqual(
            self.receive(data_frame(1, b"hello", SYN)), [("opened", 1), ("data", 1, b"hello")]
        )
        self.assertEqual(self.receive(frame(WINDOW_UPDATE, SYN, 3, 0)), [("opened", 3)])

    def test_acknowledged_with_the_answer(self) -> None:
        """The ACK rides on the first frame that answers."""
        self.open_theirs()
        self.assertEqual(self.sent(), b"")
        self.yamux.send_data(1, b"answer")
        self.yamux.send_data(1, b"more")
        self.assertEqual(self.sent(), data_frame(1, b"answer", ACK) + data_frame(1, b"more"))

    def test_larger_first_window(self) -> None:
        """A peer may offer more than 256 KiB with its SYN."""
        self.receive(frame(WINDOW_UPDATE, SYN, 1, 1000))
        self.assertEqual(self.yamux.stream_window(1), INITIAL_WINDOW + 1000)

    def test_out_of_order(self) -> None:
        """The SYNs of go-yamux overtake each other; each ID is still good once."""
        told = self.receive(*(frame(WINDOW_UPDATE, SYN, n, 0) for n in (5, 1, 9, 3, 7)))
        self.assertEqual([entry[1] for entry in told], [5, 1, 9, 3, 7])
        for stream_id in (1, 5, 9):
            self.broken("stream_id_reused", frame(WINDOW_UPDATE, SYN, stream_id, 0))

    def test_skipped_ids_are_bounded(self) -> None:
        """A peer that leaves IDs out makes this side remember only the last of them."""
        high = 1 + 2 * 1_000_000
        self.open_theirs(high)
        self.assertEqual(self.open_theirs(high - 2), high - 2)
        self.open_theirs(high - 2 * SKIPPED_IDS)
        self.broken("stream_id_reused", frame(WINDOW_UPDATE, SYN, high - 2 * SKIPPED_IDS - 2, 0))

    def test_lowest_skipped_ids_go_first(self) -> None:
        """Of too many IDs left out the lowest are taken for used."""
        self.open_theirs(5)
        self.open_theirs(1 + 2 * 10_000)
        self.broken("stream_id_reused", frame(WINDOW_UPDATE, SYN, 1, 0))
        self.open_theirs(1 + 2 * 9_999)

    def test_ids_are_never_reused(self) -> None:
        """A stream that is over cannot be opened again."""
        self.receive(data_frame(1, b"", SYN | FIN))
        self.yamux.end_stream(1)
        self.assertEqual(self.yamux.stream_count, 0)
        self.broken("stream_id_reused", frame(WINDOW_UPDATE, SYN, 1, 0))

    def test_opened_and_reset(self) -> None:
        """A stream that is opened and reset by one frame never was."""
        self.assertEqual(self.receive(frame(WINDOW_UPDATE, SYN | RST, 1, 0)), [])
        self.broken("stream_id_reused", frame(WINDOW_UPDATE, SYN, 1, 0))

    def test_unacknowledged_streams_wait(self) -> None:
        """Beyond the backlog a stream is opened when one before it is acknowledged, in order."""
        self.make(unacknowledged_streams=2)
        streams = [self.yamux.open_stream(b"hello") for _ in range(4)]
        self.assertEqual(self.sent(), data_frame(2, b"hello", SYN) + data_frame(4, b"hello", SYN))
        self.assertEqual(self.yamux.send_data(6, b"later"), 0)
        self.assertEqual(self.yamux.stream_window(6), 0)
        self.yamux.end_stream(8)
        self.broken("stream_not_open", frame(WINDOW_UPDATE, ACK, 6, 0))
        self.assertEqual(self.receive(frame(WINDOW_UPDATE, ACK, 2, 0)), [("writable", 6)])
        self.assertEqual(self.sent(), data_frame(6, b"hello", SYN))
        self.yamux.reset_stream(4)
        self.assertEqual(
            self.sent(),
            frame(WINDOW_UPDATE, RST, 4, 0)
            + data_frame(8, b"hello", SYN)
            + frame(WINDOW_UPDATE, FIN, 8, 0),
        )
        self.assertEqual(streams, [2, 4, 6, 8])

    def test_waiting_stream_given_up(self) -> None:
        """A stream that was reset before it was opened is never heard of by the peer."""
        self.make(unacknowledged_streams=1)
        first, second, third = (self.yamux.open_stream(b"hello") for _ in range(3))
        self.sent()
        self.yamux.reset_stream(second)
        self.assertEqual(self.sent(), b"")
        self.receive(data_frame(first, b"an answer is an ACK too"))
        self.assertEqual(self.sent(), data_frame(third, b"hello", SYN))

    def test_leak(self) -> None:
        """More own streams than anybody needs is this side's mistake."""
        self.make(outbound_streams=2)
        self.yamux.open_stream(b"x")
        self.yamux.open_stream(b"x")
        with self.assertRaises(LocalProtocolError):
            self.yamux.open_stream(b"x")
        self.yamux.reset_stream(2)
        self.assertEqual(self.yamux.open_stream(b"x"), 6)


class DataTests(YamuxTestCase):
    def test_pieces_as_they_come(self) -> None:
        """A frame is handed out as its bytes come; nothing waits for its end."""
        self.open_theirs()
        data = data_frame(1, b"abcdef", FIN)
        self.assertEqual(self.receive(data[:5]), [])
        self.assertEqual(self.receive(data[5:14]), [("data", 1, b"ab")])
        self.assertEqual(self.receive(data[14:17]), [("data", 1, b"cde")])
        self.assertEqual(
            self.receive(data[17:], data_frame(3, b"x", SYN)),
            [("data", 1, b"f"), ("ended", 1), ("opened", 3), ("data", 3, b"x")],
        )

    def test_reset_within_a_frame(self) -> None:
        """The rest of a frame whose stream was given up meanwhile is thrown away."""
        self.open_theirs()
        data = data_frame(1, b"abcdef", FIN)
        self.receive(data[:14])
        self.yamux.reset_stream(1)
        self.assertEqual(
            self.receive(data[14:], data_frame(3, b"x", SYN)),
            [("opened", 3), ("data", 3, b"x")],
        )

    def test_empty_frames(self) -> None:
        """A data frame without data says nothing, even after the end."""
        self.open_theirs()
        self.assertEqual(self.receive(data_frame(1, b"")), [])
        self.assertEqual(self.receive(data_frame(1, b"", FIN), data_frame(1, b"")), [("ended", 1)])

    def test_cut_to_noise_messages(self) -> None:
        """A large write is cut so that each frame fills one Noise message."""
        stream = self.open_ours()
        data = bytes(range(256)) * 400
        self.assertEqual(self.yamux.send_data(stream, data), len(data))
        self.assertEqual(
            self.sent(),
            data_frame(stream, data[:MAX_DATA]) + data_frame(stream, data[MAX_DATA:]),
        )

    def test_nothing_to_send(self) -> None:
        """Sending nothing sends nothing."""
        stream = self.open_ours()
        self.assertEqual(self.yamux.send_data(stream, b""), 0)
        self.assertEqual(self.sent(), b"")
        self.assertEqual(self.receive(frame(WINDOW_UPDATE, 0, stream, 1)), [])


class SendWindowTests(YamuxTestCase):
    def test_exhausted(self) -> None:
        """Data beyond the window is the caller's to keep until the stream is writable."""
        stream = self.open_ours()
        room = INITIAL_WINDOW - len(b"hello")
        self.assertEqual(self.yamux.send_data(stream, bytes(room + 10)), room)
        self.assertEqual(self.yamux.send_data(stream, b"x"), 0)
        self.assertEqual(self.yamux.stream_window(stream), 0)
        self.sent()
        told = self.receive(frame(WINDOW_UPDATE, 0, stream, 4))
        self.assertEqual(told, [("writable", stream)])
        self.assertEqual(self.yamux.send_data(stream, b"0123456789"), 4)
        self.assertEqual(self.sent(), data_frame(stream, b"0123"))

    def test_not_news(self) -> None:
        """A window that opens is no news to whom nothing was refused."""
        stream = self.open_ours()
        self.assertEqual(self.receive(frame(WINDOW_UPDATE, 0, stream, 1000)), [])

    def test_overflow(self) -> None:
        """A window beyond 4 GiB cannot be meant."""
        stream = self.open_ours()
        room = MAX_U32 - self.yamux.stream_window(stream)
        self.receive(frame(WINDOW_UPDATE, 0, stream, room))
        self.broken("window_overflow", frame(WINDOW_UPDATE, 0, stream, 1))


class ReceiveWindowTests(YamuxTestCase):
    def fill(self, size: int, stream_id: int = 1) -> None:
        self.receive(frame(DATA, 0, stream_id, size), bytes(size))

    def test_credited_at_half(self) -> None:
        """The peer is credited when half of the window was taken, and not before."""
        self.open_theirs()
        half = INITIAL_WINDOW // 2
        self.fill(half + 1)
        self.yamux.consumed(1, half - 1)
        self.assertEqual(self.sent(), b"")
        self.yamux.consumed(1, 1)
        self.assertEqual(self.sent(), frame(WINDOW_UPDATE, ACK, 1, half))

    def test_grows_for_a_reader_who_keeps_up(self) -> None:
        """The window doubles while everything is taken at once, up to its cap."""
        self.open_theirs()
        granted = INITIAL_WINDOW
        total = 0
        while total < 64 << 20:
            self.fill(1 << 16)
            self.yamux.consumed(1, 1 << 16)
            total += 1 << 16
            sent = self.sent()
            if sent:
                granted += HEADER.unpack(sent)[3]
        self.assertLessEqual(granted - total, self.limits.stream_window)
        self.assertGreater(granted - total, self.limits.stream_window // 2)

    def test_does_not_grow_for_a_slow_reader(self) -> None:
        """Whoever leaves data lying gets back what was taken and no more."""
        self.open_theirs()
        half = INITIAL_WINDOW // 2
        self.fill(half)
        for _ in range(8):
            self.fill(half)
            self.yamux.consumed(1, half)
            self.assertEqual(HEADER.unpack(self.sent())[3], half)

    def test_growth_is_shared(self) -> None:
        """All windows together grow by no more than the link's budget; a gone stream gives back."""
        self.make(window_growth=INITIAL_WINDOW)
        for stream_id in (1, 3):
            self.open_theirs(stream_id)
            self.fill(INITIAL_WINDOW // 2, stream_id)
        self.yamux.consumed(1, INITIAL_WINDOW // 2)
        self.yamux.consumed(3, INITIAL_WINDOW // 2)
        self.assertEqual(
            self.sent(),
            frame(WINDOW_UPDATE, ACK, 1, INITIAL_WINDOW // 2 + INITIAL_WINDOW)
            + frame(WINDOW_UPDATE, ACK, 3, INITIAL_WINDOW // 2),
        )
        self.yamux.reset_stream(1)
        self.sent()
        self.fill(INITIAL_WINDOW // 2, 3)
        self.yamux.consumed(3, INITIAL_WINDOW // 2)
        self.assertEqual(
            self.sent(), frame(WINDOW_UPDATE, 0, 3, INITIAL_WINDOW // 2 + INITIAL_WINDOW)
        )

    def test_no_credit_after_the_end(self) -> None:
        """A peer that has ended its half needs no credit."""
        self.open_theirs()
        self.fill(INITIAL_WINDOW)
        self.receive(data_frame(1, b"", FIN))
        self.yamux.consumed(1, INITIAL_WINDOW)
        self.assertEqual(self.sent(), b"")

    def test_violated(self) -> None:
        """More data than the window admits ends the link, at the header."""
        self.open_theirs()
        self.fill(INITIAL_WINDOW - 10)
        self.broken("window_exceeded", frame(DATA, 0, 1, 11))

    def test_four_gigabytes(self) -> None:
        """A frame of 4 GiB is refused at its header, on any stream."""
        self.open_theirs()
        self.broken("window_exceeded", frame(DATA, 0, 1, MAX_U32))
        self.make()
        self.open_theirs()
        self.yamux.reset_stream(1)
        self.broken("window_exceeded", frame(DATA, 0, 1, MAX_U32))
        self.make()
        self.broken("window_exceeded", frame(DATA, SYN, 1, MAX_U32))

    def test_more_than_the_link_may_hold(self) -> None:
        """Where nobody reads, the stream that goes over the link's budget is reset."""
        self.make(unconsumed_bytes=INITIAL_WINDOW + 10)
        self.open_theirs(1)
        self.open_theirs(3)
        self.fill(INITIAL_WINDOW, 1)
        self.fill(10, 3)
        told = self.receive(data_frame(3, b"x"), data_frame(3, b"late"))
        self.assertEqual(told, [("reset", 3)])
        self.assertEqual(self.sent(), frame(WINDOW_UPDATE, RST, 3, 0))
        self.yamux.consumed(1, 10)
        self.assertEqual(
            self.receive(data_frame(5, b"room again", SYN))[1:], [("data", 5, b"room again")]
        )

    def test_consumed_too_much(self) -> None:
        """Taking more than was handed out is this side's mistake."""
        self.open_theirs()
        self.fill(10)
        with self.assertRaises(LocalProtocolError):
            self.yamux.consumed(1, 11)
        with self.assertRaises(LocalProtocolError):
            self.yamux.consumed(1, -1)


class EndingTests(YamuxTestCase):
    def test_half_close_by_the_peer(self) -> None:
        """After its end the peer still reads; the stream is forgotten when both have ended."""
        self.open_theirs()
        self.assertEqual(self.receive(data_frame(1, b"bye", FIN))[-1], ("ended", 1))
        self.assertEqual(self.yamux.send_data(1, b"answer"), 6)
        self.assertEqual(self.yamux.stream_count, 1)
        self.yamux.end_stream(1)
        self.assertEqual(
            self.sent(), data_frame(1, b"answer", ACK) + frame(WINDOW_UPDATE, FIN, 1, 0)
        )
        self.assertEqual(self.yamux.stream_count, 0)

    def test_half_close_by_this_side(self) -> None:
        """After its end this side still reads."""
        stream = self.open_ours()
        self.yamux.end_stream(stream)
        self.yamux.end_stream(stream)
        self.assertEqual(self.sent(), frame(WINDOW_UPDATE, FIN, stream, 0))
        with self.assertRaises(LocalProtocolError):
            self.yamux.send_data(stream, b"x")
        self.assertEqual(
            self.receive(data_frame(stream, b"x"), frame(WINDOW_UPDATE, FIN, stream, 0)),
            [("data", stream, b"x"), ("ended", stream)],
        )
        self.assertEqual(self.yamux.stream_count, 0)

    def test_not_writable_after_the_end(self) -> None:
        """A window that opens after the end is of no interest."""
        stream = self.open_ours()
        self.yamux.send_data(stream, bytes(INITIAL_WINDOW))
        self.yamux.end_stream(stream)
        self.assertEqual(self.receive(frame(WINDOW_UPDATE, 0, stream, 10)), [])

    def test_reset_by_the_peer(self) -> None:
        """A reset ends both halves; its length is an error code, not a window."""
        self.open_theirs()
        told = self.receive(frame(WINDOW_UPDATE, RST, 1, MAX_U32), data_frame(1, b"overtaken"))
        self.assertEqual(told, [("reset", 1)])
        self.assertEqual(self.yamux.send_data(1, b"x"), 0)
        self.assertEqual(self.sent(), b"")

    def test_reset_by_this_side(self) -> None:
        """What was under way when a stream was reset here is thrown away."""
        stream = self.open_ours()
        self.yamux.reset_stream(stream, 7)
        self.assertEqual(self.sent(), frame(WINDOW_UPDATE, RST, stream, 7))
        told = self.receive(
            data_frame(stream, b"late"),
            frame(WINDOW_UPDATE, 0, stream, 10),
            frame(WINDOW_UPDATE, FIN, stream, 0),
            frame(WINDOW_UPDATE, RST, stream, 0),
        )
        self.assertEqual(told, [])
        self.assertEqual(self.sent(), b"")

    def test_calls_on_a_gone_stream(self) -> None:
        """The peer may end a stream at any time, so calls on one that is gone do nothing."""
        self.open_theirs()
        self.receive(frame(WINDOW_UPDATE, RST, 1, 0))
        self.assertEqual(self.yamux.send_data(1, b"x"), 0)
        self.assertEqual(self.yamux.stream_window(1), 0)
        self.yamux.consumed(1, 10)
        self.yamux.end_stream(1)
        self.yamux.reset_stream(1)
        self.assertEqual(self.sent(), b"")

    def test_calls_on_a_stream_that_never_was(self) -> None:
        """Calls on a stream that was never opened are this side's mistake."""
        for stream_id in (0, 1, 2, -1):
            with self.assertRaises(LocalProtocolError):
                self.yamux.send_data(stream_id, b"x")
            with self.assertRaises(LocalProtocolError):
                self.yamux.reset_stream(stream_id)


class SessionTests(YamuxTestCase):
    def test_ping_answered(self) -> None:
        """A ping is answered with its value."""
        self.receive(frame(PING, SYN, 0, 0xDEADBEEF))
        self.assertEqual(self.sent(), frame(PING, ACK, 0, 0xDEADBEEF))

    def test_pong(self) -> None:
        """The answer to a ping is told once; answers to nothing are ignored."""
        first, second = self.yamux.send_ping(), self.yamux.send_ping()
        self.assertEqual(self.sent(), frame(PING, SYN, 0, first) + frame(PING, SYN, 0, second))
        told = self.receive(
            frame(PING, ACK, 0, second), frame(PING, ACK, 0, second), frame(PING, ACK, 0, 99)
        )
        self.assertEqual(told, [("pong", second)])

    def test_pings_remembered(self) -> None:
        """Only the last pings are remembered."""
        values = [self.yamux.send_ping() for _ in range(self.limits.outstanding_pings + 1)]
        self.assertEqual(self.receive(frame(PING, ACK, 0, values[0])), [])
        self.assertEqual(self.receive(frame(PING, ACK, 0, values[1])), [("pong", values[1])])

    def test_ping_flood(self) -> None:
        """A peer that pings and does not read is cut off; one that reads is not."""
        pings = frame(PING, SYN, 0, 1) * 1000
        for _ in range(100):
            self.receive(pings)
            self.sent()
        with self.assertRaises(LimitExceeded) as caught:
            for _ in range(100):
                self.receive(pings)
        self.assertEqual(caught.exception.code, "replies_not_read")
        self.assertLess(len(self.sent()), self.limits.queued_replies + 100)

    def test_goodbye_of_the_peer(self) -> None:
        """After a goodbye nothing is read, and calls come to nothing."""
        self.open_theirs()
        told = self.receive(frame(GO_AWAY, 0, 0, 2), data_frame(1, b"x"), b"\xff" * 12)
        self.assertEqual(told, [("ended session", 2)])
        self.assertEqual(self.receive(b"\xff" * 12), [])
        self.assertEqual(self.yamux.send_data(1, b"x"), 0)
        stream = self.yamux.open_stream(b"x")
        self.assertEqual(self.yamux.send_data(stream, b"x"), 0)
        self.assertEqual(self.sent(), b"")

    def test_goodbye_of_this_side(self) -> None:
        """After its goodbye this side opens nothing and refuses what the peer opens."""
        self.yamux.go_away(GoAway.INTERNAL_ERROR)
        self.yamux.go_away()
        self.assertEqual(self.sent(), frame(GO_AWAY, 0, 0, 2))
        with self.assertRaises(LocalProtocolError):
            self.yamux.open_stream(b"x")
        self.assertEqual(self.receive(data_frame(1, b"hello", SYN)), [])
        self.assertEqual(self.sent(), frame(WINDOW_UPDATE, RST, 1, 0))

    def test_too_many_streams(self) -> None:
        """A stream over the limit is reset, and what came with it thrown away."""
        self.make(inbound_streams=2)
        self.open_theirs(1)
        self.open_theirs(3)
        self.assertEqual(self.receive(data_frame(5, b"hello", SYN), data_frame(5, b"x")), [])
        self.assertEqual(self.sent(), frame(WINDOW_UPDATE, RST, 5, 0))
        self.receive(frame(WINDOW_UPDATE, RST, 1, 0))
        self.assertEqual(self.receive(frame(WINDOW_UPDATE, SYN, 7, 0)), [("opened", 7)])

    def test_a_million_streams(self) -> None:
        """A peer that goes on opening what is refused ends the link."""
        opened = 0
        with self.assertRaises(LimitExceeded) as caught:
            for stream_id in range(1, 2_000_000, 2):
                self.receive(frame(WINDOW_UPDATE, SYN, stream_id, 0))
                self.sent()
                opened += 1
        self.assertEqual(caught.exception.code, "too_many_streams")
        self.assertEqual(opened, self.limits.inbound_streams + self.limits.refused_streams)
        self.assertEqual(self.yamux.stream_count, self.limits.inbound_streams)

    def test_refusals_are_forgiven(self) -> None:
        """Streams that end in order make up for streams that were refused."""
        self.make(inbound_streams=1, refused_streams=2)
        for number in range(20):
            stream_id = 1 + 4 * number
            self.open_theirs(stream_id)
            self.open_theirs(stream_id + 2)
            self.receive(data_frame(stream_id, b"", FIN))
            self.yamux.end_stream(stream_id)


class IllegalInputTests(YamuxTestCase):
    def test_headers(self) -> None:
        """A header that says nothing known ends the link."""
        for code, header in (
            ("yamux_header", frame(0x0100, 0, 1, 0)),
            ("yamux_header", frame(4, 0, 0, 0)),
            ("yamux_header", frame(0xFFFF, 0, 0, 0)),
            ("yamux_flags", frame(DATA, 16, 1, 0)),
            ("yamux_flags", frame(WINDOW_UPDATE, 0x8000, 1, 0)),
            ("yamux_flags", frame(WINDOW_UPDATE, SYN | ACK, 1, 0)),
            ("yamux_flags", frame(PING, 0, 0, 0)),
            ("yamux_flags", frame(PING, SYN | ACK, 0, 0)),
            ("yamux_flags", frame(PING, FIN, 0, 0)),
            ("yamux_flags", frame(GO_AWAY, SYN, 0, 0)),
            ("yamux_stream_id", frame(PING, SYN, 1, 0)),
            ("yamux_stream_id", frame(GO_AWAY, 0, 1, 0)),
            ("yamux_stream_id", frame(DATA, SYN, 0, 0)),
            ("yamux_stream_id", frame(DATA, SYN, 2, 0)),
            ("stream_not_open", frame(DATA, 0, 0, 0)),
            ("stream_not_open", frame(DATA, 0, 1, 0)),
            ("stream_not_open", frame(WINDOW_UPDATE, 0, 1, 0)),
            ("stream_not_open", frame(WINDOW_UPDATE, RST, 2, 0)),
            ("stream_not_open", frame(WINDOW_UPDATE, ACK, 2, 0)),
        ):
            self.make()
            self.broken(code, header)

    def test_on_streams(self) -> None:
        """What is illegal in each state of a stream: the table of (state, input)."""
        data, empty = data_frame(1, b"x"), data_frame(1, b"")
        update, end = frame(WINDOW_UPDATE, 0, 1, 1), frame(WINDOW_UPDATE, FIN, 1, 0)
        reset, opened = frame(WINDOW_UPDATE, RST, 1, 0), frame(WINDOW_UPDATE, SYN, 1, 0)
        ack = frame(WINDOW_UPDATE, ACK, 1, 0)
        inputs = {
            "data": data,
            "empty data": empty,
            "update": update,
            "end": end,
            "reset": reset,
            "open": opened,
            "ack": ack,
        }
        states = {"never opened": (b"", False), "open": (opened, False)}
        states["ended by the peer"] = (opened + end, False)
        states["ended by this side"] = (opened, True)
        states["ended by both"] = (opened + end, True)
        states["reset by the peer"] = (opened + reset, False)
        never = dict.fromkeys(inputs, "stream_not_open") | {"open": None}
        alive = {"open": "stream_id_reused", "ack": "yamux_flags"}
        expected: dict[str, dict[str, str | None]] = {
            "never opened": never,
            "open": {**alive},
            "ended by the peer": {**alive, "data": "data_after_end"},
            "ended by this side": {**alive},
            "ended by both": {"open": "stream_id_reused"},
            "reset by the peer": {"open": "stream_id_reused"},
        }
        for state, (before, ended) in states.items():
            for name, said in inputs.items():
                self.make()
                self.receive(before)
                if ended:
                    self.yamux.end_stream(1)
                code = expected[state].get(name)
                if code is None:
                    self.receive(said)
                else:
                    self.broken(code, said)

    def test_acknowledged_twice(self) -> None:
        """A second ACK of an own stream does no harm."""
        stream = self.open_ours()
        self.assertEqual(self.receive(frame(WINDOW_UPDATE, ACK, stream, 0)), [])


class RemoteIDsTests(SynchronousTestCase):
    @settings(deadline=None)
    @given(st.booleans(), st.lists(st.integers(-SKIPPED_IDS - 3, SKIPPED_IDS + 3), max_size=60))
    def test_like_a_set(self, odd: bool, steps: list[int]) -> None:
        """An ID is good once, in any order, unless it is too far below the highest one."""
        ids = RemoteIDs(odd)
        used: set[int] = set()
        highest = -1 if odd else 0
        for step in steps:
            stream_id = highest + 2 * step
            if stream_id <= 0:
                continue
            good = stream_id not in used and highest - stream_id <= 2 * SKIPPED_IDS
            self.assertEqual(ids.was_used(stream_id), stream_id <= highest and not good)
            if good:
                ids.use(stream_id)
                used.add(stream_id)
                highest = max(highest, stream_id)
            else:
                with self.assertRaises(RemoteProtocolError):
                    ids.use(stream_id)


FRAMES = st.builds(
    frame,
    st.sampled_from([DATA, WINDOW_UPDATE, PING, GO_AWAY, DATA, DATA, 4, 0x0100]),
    st.sampled_from([0, 0, 0, SYN, ACK, FIN, RST, SYN | FIN, SYN | RST, 16]),
    st.integers(0, 6),
    st.sampled_from([0, 1, 20, INITIAL_WINDOW, MAX_U32]),
)
OPENED = b"".join(frame(WINDOW_UPDATE, SYN, stream_id, 0) for stream_id in (1, 3))


class FuzzTests(SynchronousTestCase):
    @settings(max_examples=300, deadline=None)
    @given(st.lists(FRAMES | st.binary(max_size=40), max_size=12), st.booleans())
    def test_only_remote_errors(self, frames: list[bytes], is_open: bool) -> None:
        """Whatever comes is taken, or is the peer's error; nothing else."""
        yamux = Yamux(False, Recorder())
        yamux.open_stream(b"hello")
        try:
            if is_open:
                yamux.receive(OPENED)
            for data in frames:
                yamux.receive(data)
        except RemoteProtocolError:
            pass

    @settings(max_examples=100, deadline=None)
    @given(st.data())
    def test_cutting_changes_nothing(self, data: st.DataObject) -> None:
        """However the bytes are cut, the same is told and the same is sent."""
        parts = data.draw(
            st.lists(
                st.builds(data_frame, st.sampled_from([1, 3]), st.binary(max_size=50), st.just(0))
                | st.builds(frame, st.just(PING), st.just(SYN), st.just(0), st.integers(0, 9))
                | st.builds(
                    frame, st.just(WINDOW_UPDATE), st.just(0), st.sampled_from([1, 3]), st.just(5)
                ),
                max_size=10,
            )
        )
        stream = OPENED + b"".join(parts) + frame(WINDOW_UPDATE, FIN, 1, 0)
        cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=20)))
        outcomes = []
        for edges in ([], cuts, list(range(len(stream)))):
            sink = Recorder()
            yamux = Yamux(False, sink)
            for start, end in zip([0, *edges], [*edges, len(stream)], strict=True):
                yamux.receive(stream[start:end])
            outcomes.append((_joined(sink.told), b"".join(yamux.take_output())))
        self.assertEqual(outcomes[0], outcomes[1])
        self.assertEqual(outcomes[0], outcomes[2])


def _joined(told: list[tuple[object, ...]]) -> list[tuple[object, ...]]:
    """With data that was cut put together again."""
    result: list[tuple[object, ...]] = []
    for entry in told:
        if entry[0] == "data" and result and result[-1][:2] == entry[:2]:
            before, now = result[-1][2], entry[2]
            assert isinstance(before, bytes) and isinstance(now, bytes)
            result[-1] = (*entry[:2], before + now)
        else:
            result.append(entry)
    return result
