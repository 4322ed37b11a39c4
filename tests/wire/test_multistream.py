"""multistream-select: agreement, refusal, and what is no multistream-select."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from bzzz.errors import LimitExceeded, LocalProtocolError, RemoteProtocolError
from bzzz.wire import varint
from bzzz.wire.limits import PROPOSALS
from bzzz.wire.multistream import HEADER, MAX_LINE, Initiator, Responder, encode_line

HEADER_LINE = b"\x13/multistream/1.0.0\n"
NA_LINE = b"\x03na\n"


def agree(initiator: Initiator, responder: Responder, size: int = 1 << 20) -> None:
    """Carry lines both ways, ``size`` bytes at a time, until there are none."""
    while True:
        there = initiator.take_output()
        back = responder.take_output()
        if not there and not back:
            return
        for start in range(0, len(there), size):
            responder.receive(there[start : start + size])
        for start in range(0, len(back), size):
            initiator.receive(back[start : start + size])


class LineTests(SynchronousTestCase):
    def test_short_line(self) -> None:
        """A line stands behind its length, which counts the newline."""
        self.assertEqual(encode_line("na"), NA_LINE)
        self.assertEqual(encode_line(HEADER), HEADER_LINE)

    def test_long_line(self) -> None:
        """A line of 128 bytes and more has a length of two bytes."""
        self.assertEqual(encode_line("x" * 199), b"\xc8\x01" + b"x" * 199 + b"\n")

    def test_too_long_to_propose(self) -> None:
        """A name beyond the cap is this side's mistake."""
        with self.assertRaises(LocalProtocolError):
            encode_line("x" * MAX_LINE)


class InitiatorTests(SynchronousTestCase):
    def test_one_write(self) -> None:
        """The header and the first proposal are one write."""
        initiator = Initiator(["/a"])
        self.assertEqual(initiator.take_output(), HEADER_LINE + b"\x03/a\n")
        self.assertEqual(initiator.take_output(), b"")

    def test_nothing_to_propose(self) -> None:
        """A negotiation without proposals is this side's mistake."""
        with self.assertRaises(LocalProtocolError):
            Initiator([])

    def test_agreed(self) -> None:
        """An echo is agreement; the bytes after it belong to the protocol."""
        initiator = Initiator(["/a"])
        initiator.receive(HEADER_LINE + b"\x03/a\nmore")
        self.assertEqual((initiator.protocol, initiator.done), ("/a", True))
        self.assertEqual(initiator.rest, b"more")

    def test_second_choice(self) -> None:
        """After ``na`` the next one is proposed, without the header."""
        initiator = Initiator(["/a", "/b"])
        initiator.take_output()
        initiator.receive(HEADER_LINE + NA_LINE)
        self.assertEqual(initiator.take_output(), b"\x03/b\n")
        initiator.receive(b"\x03/b\n")
        self.assertEqual(initiator.protocol, "/b")

    def test_refused(self) -> None:
        """After the last ``na`` the negotiation is over without a protocol."""
        initiator = Initiator(["/a", "/b"])
        initiator.receive(HEADER_LINE + NA_LINE + NA_LINE)
        self.assertEqual((initiator.protocol, initiator.done), (None, True))

    def test_optimistic(self) -> None:
        """Data need not wait for the answer to a single proposal."""
        self.assertTrue(Initiator(["/a"]).optimistic)
        self.assertFalse(Initiator(["/a", "/b"]).optimistic)

    def test_illegal_answers(self) -> None:
        """Whatever answers no proposal is refused, with a code that says what was wrong."""
        for data, code in (
            (b"\x03/a\n", "multistream_header"),
            (b"\x14/multistream/2.0.00\n", "multistream_header"),
            (HEADER_LINE + b"\x03/b\n", "multistream_answer"),
            (HEADER_LINE + HEADER_LINE, "multistream_answer"),
            (HEADER_LINE + b"\x03ls\n", "multistream_answer"),
            (HEADER_LINE + b"\x03/a ", "multistream_malformed"),
            (HEADER_LINE + b"\x00", "multistream_malformed"),
            (HEADER_LINE + b"\x03\xff\xff\n", "multistream_malformed"),
            (b"\x81\x08", "multistream_line_too_long"),
            (b"\xff\xff", "varint_too_long"),
            (b"\x80\x00", "varint_not_minimal"),
        ):
            with self.assertRaises(RemoteProtocolError) as caught:
                Initiator(["/a"]).receive(data)
            self.assertEqual(caught.exception.code, code, data)


class ResponderTests(SynchronousTestCase):
    def test_agreed_in_one_piece(self) -> None:
        """Header and proposal in one piece are answered in one piece."""
        responder = Responder("/a".__eq__)
        responder.receive(HEADER_LINE + b"\x03/a\nmore")
        self.assertEqual(responder.take_output(), HEADER_LINE + b"\x03/a\n")
        self.assertEqual((responder.protocol, responder.rest), ("/a", b"more"))

    def test_header_at_once(self) -> None:
        """The header is answered before a proposal has come."""
        responder = Responder("/a".__eq__)
        responder.receive(HEADER_LINE)
        self.assertEqual(responder.take_output(), HEADER_LINE)

    def test_not_available(self) -> None:
        """What is not spoken here is ``na``, and the peer may try again."""
        responder = Responder("/a".__eq__)
        responder.receive(HEADER_LINE + b"\x03/b\n\x03/a\n")
        self.assertEqual(responder.take_output(), HEADER_LINE + NA_LINE + b"\x03/a\n")

    def test_list(self) -> None:
        """``ls`` is answered with one message that holds the names as messages."""
        responder = Responder("/a".__eq__, lambda: ["/a", "/bc"])
        responder.receive(HEADER_LINE + b"\x03ls\n")
        self.assertEqual(responder.take_output(), HEADER_LINE + b"\x0a\x03/a\n\x04/bc\n\n")
        self.assertFalse(responder.done)

    def test_list_unknown(self) -> None:
        """Without names to tell, the list is empty."""
        responder = Responder("/a".__eq__)
        responder.receive(HEADER_LINE + b"\x03ls\n")
        self.assertEqual(responder.take_output(), HEADER_LINE + b"\x01\n")

    def test_no_end_of_proposals(self) -> None:
        """A peer that proposes and proposes is given up."""
        responder = Responder("/a".__eq__)
        responder.receive(HEADER_LINE + b"\x03/b\n" * PROPOSALS)
        with self.assertRaises(LimitExceeded) as caught:
            responder.receive(b"\x03/b\n")
        self.assertEqual(caught.exception.code, "multistream_proposals")

    def test_line_cap(self) -> None:
        """A line of 1024 bytes is the longest; one more is refused by its length alone."""
        responder = Responder("/a".__eq__)
        responder.receive(HEADER_LINE + encode_line("x" * (MAX_LINE - 1)))
        self.assertEqual(responder.take_output(), HEADER_LINE + NA_LINE)
        with self.assertRaises(LimitExceeded) as caught:
            responder.receive(varint.encode(MAX_LINE + 1))
        self.assertEqual(caught.exception.code, "multistream_line_too_long")

    def test_illegal_input(self) -> None:
        """What is not multistream-select is refused, with words for a person."""
        for data in (b"GET / HTTP/1.1\r\n" + b"x" * 80, b"\x16\x03\x01\x02\x00", b"\x02a\n"):
            with self.assertRaises(RemoteProtocolError):
                Responder("/a".__eq__).receive(data + b"x" * MAX_LINE)


class BothTests(SynchronousTestCase):
    def test_bytewise(self) -> None:
        """The result does not depend on how the bytes are cut."""
        for size in (1, 2, 3, 7, 1 << 20):
            initiator = Initiator(["/no", "/x" * 100, "/yes"])
            responder = Responder(["/yes", "/other"].__contains__)
            agree(initiator, responder, size)
            self.assertEqual((initiator.protocol, responder.protocol), ("/yes", "/yes"))
            self.assertEqual((initiator.rest, responder.rest), (b"", b""))

    @given(st.lists(st.binary(max_size=80), max_size=8), st.booleans(), st.booleans())
    def test_arbitrary_bytes(self, pieces: list[bytes], is_initiator: bool, header: bool) -> None:
        """Arbitrary bytes are taken, or are the peer's error; nothing else."""
        side = Initiator(["/a", "/b"]) if is_initiator else Responder("/a".__eq__)
        try:
            if header:
                side.receive(HEADER_LINE)
            for piece in pieces:
                side.receive(piece)
        except RemoteProtocolError:
            pass
