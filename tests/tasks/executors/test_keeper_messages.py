"""What daemon and keeper say: what is read is what was written, and all else is an error."""

from __future__ import annotations

from typing import get_args

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import fields
from twisted.trial.unittest import SynchronousTestCase

from bzzz.errors import RemoteProtocolError
from bzzz.tasks.executors.interfaces import Ending, Run
from bzzz.tasks.executors.keeper_messages import (
    MAX_MESSAGE,
    MAX_REASON,
    Ended,
    EndingName,
    Extend,
    Frames,
    Order,
    Ready,
    Report,
    Shutdown,
    Start,
    Started,
    Stop,
    TooLong,
    clip,
    decode_order,
    decode_report,
    encode,
    frame,
)

TIMES = st.floats(0, 1e9)
SIZES = st.integers(0, 1 << 53)
TEXT = st.text(st.characters(codec="utf-8"), max_size=20)
STARTS = st.builds(
    Start,
    key=TEXT,
    argv=st.lists(TEXT, max_size=3).map(tuple),
    env=st.dictionaries(TEXT, TEXT, max_size=3),
    directory=TEXT,
    stdout=TEXT,
    stderr=TEXT,
    max_output=SIZES,
    timeout=TIMES,
    memory=SIZES,
    cpus=TIMES,
    profile=TEXT,
    until=TIMES,
    grace=TIMES,
)
ORDERS: st.SearchStrategy[Order] = st.one_of(
    STARTS, st.builds(Extend, TEXT, TIMES), st.builds(Stop, TEXT, TIMES), st.just(Shutdown())
)
REPORTS: st.SearchStrategy[Report] = st.one_of(
    st.just(Ready()),
    st.builds(Started, TEXT, st.integers(1, 1 << 22)),
    st.builds(
        Ended,
        TEXT,
        st.sampled_from([ending.value for ending in Ending]),
        st.none() | st.integers(0, 255),
        TEXT,
    ),
)

START = Start(
    key="t.1",
    argv=("true",),
    env={},
    directory="/",
    stdout="/dev/null",
    stderr="/dev/null",
    max_output=1,
    timeout=0.0,
    memory=0,
    cpus=0.0,
    profile="default",
    until=1.0,
    grace=1.0,
)


class MessageTests(SynchronousTestCase):
    """One message."""

    @given(st.lists(ORDERS, max_size=4))
    def test_orders_byte_at_a_time(self, orders: list[Order]) -> None:
        """Orders are cut from the pipe as they were sent, wherever the reads end."""
        frames = Frames(decode_order)
        received: list[Order] = []
        for byte in b"".join(frame(encode(order)) for order in orders):
            received += frames.receive(bytes([byte]))
        self.assertEqual(received, orders)

    @given(st.lists(REPORTS, max_size=4))
    def test_reports_at_once(self, reports: list[Report]) -> None:
        """Reports that come in one read are told apart."""
        data = b"".join(frame(encode(report)) for report in reports)
        self.assertEqual(Frames(decode_report).receive(data), reports)

    @given(st.binary(max_size=40))
    def test_garbage(self, data: bytes) -> None:
        """Bytes that are no message are an error of the protocol, and never another."""
        for decode in (decode_order, decode_report):
            try:
                decode(data)
            except RemoteProtocolError:
                pass

    def test_wrong_side(self) -> None:
        """An order is no report, nor is a report an order."""
        self.assertRaises(RemoteProtocolError, decode_report, encode(Shutdown()))
        self.assertRaises(RemoteProtocolError, decode_order, encode(Ready()))

    def test_impossible_numbers(self) -> None:
        """Times that are none, and sizes below nothing, are refused."""
        for order in (
            Extend("t.1", float("nan")),
            Extend("t.1", float("inf")),
            Stop("t.1", -1.0),
            Stop("t.1", float("nan")),
            msgspec.structs.replace(START, until=float("inf")),
            msgspec.structs.replace(START, timeout=-1.0),
            msgspec.structs.replace(START, memory=-1),
            msgspec.structs.replace(START, max_output=-1),
            msgspec.structs.replace(START, grace=float("nan")),
        ):
            self.assertRaises(RemoteProtocolError, decode_order, encode(order))

    def test_impossible_ends(self) -> None:
        """An exit status above 255, and a reason that fills memory, are refused."""
        for report in (
            Ended("t.1", "exited", 256),
            Ended("t.1", "exited", -1),
            Ended("t.1", "exited", 0, "x" * (MAX_REASON + 1)),
        ):
            self.assertRaises(RemoteProtocolError, decode_report, encode(report))

    def test_too_long(self) -> None:
        """What is longer than a message may be is neither sent nor read."""
        self.assertRaises(TooLong, encode, Extend("x" * MAX_MESSAGE, 1.0))
        length = (MAX_MESSAGE + 1).to_bytes(4, "big")
        self.assertRaises(RemoteProtocolError, Frames(decode_order).receive, length)

    def test_no_text(self) -> None:
        """A command line with a half of a character is refused before it is sent."""
        self.assertRaises(TooLong, encode, msgspec.structs.replace(START, argv=("\ud800",)))

    def test_clip(self) -> None:
        """A reason is cut where it would be refused."""
        self.assertEqual(clip("no"), "no")
        self.assertEqual(len(clip("x" * 5000)), MAX_REASON)

    def test_same_as_the_interface(self) -> None:
        """A start has all that a run has, and an end is one of those that there are."""
        of_run = {field.name: field.type for field in fields(Run)}
        of_start = {field.name: field.type for field in fields(Start)}
        self.assertEqual(of_start, {**of_run, "until": float, "grace": float})
        self.assertEqual(set(get_args(EndingName)), {ending.value for ending in Ending})
