"""The messages of registers: what is read is what was written, and all else is an error."""

from __future__ import annotations

from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from bzzz.errors import RemoteProtocolError
from bzzz.tasks.ballots import (
    RESERVED,
    Accept,
    Accepted,
    Ballot,
    Conflict,
    NotYet,
    Prepare,
    Promise,
)
from bzzz.tasks.register_messages import (
    MAX_COUNTER,
    MAX_SECONDS,
    MAX_VALUE,
    Answers,
    Failed,
    Requests,
    decode_answers,
    decode_requests,
    encode,
)

ID = "01ARZ3NDEKTSV4RRFFQ69G5FAV"
BALLOTS = st.builds(Ballot, st.integers(0, MAX_COUNTER), st.integers(0, 63))
REQUESTS = st.one_of(
    st.builds(Prepare, BALLOTS, st.integers(0, MAX_COUNTER)),
    st.builds(
        lambda ballot, value: Accept(ballot, value, Ballot(ballot.counter + 1, ballot.place)),
        BALLOTS,
        st.binary(max_size=100),
    ),
)
PROMISES = st.builds(
    Promise,
    BALLOTS,
    st.none() | BALLOTS,
    st.binary(max_size=100),
    st.integers(0, MAX_COUNTER),
).filter(lambda told: told.accepted is None or told.accepted < told.ballot)
ANSWERS = st.one_of(
    PROMISES,
    st.builds(Accepted, BALLOTS),
    st.builds(Conflict, BALLOTS, BALLOTS),
    st.builds(NotYet, BALLOTS, st.floats(0.001, MAX_SECONDS)),
    st.builds(Failed, st.text(max_size=20)),
)
NUMBERS = st.integers(0, 1000)


class MessageTests(SynchronousTestCase):
    """Both directions."""

    @given(st.lists(st.tuples(NUMBERS, st.just(ID), REQUESTS), max_size=5).map(tuple))
    def test_requests(self, requests: Any) -> None:
        """Requests come as they were sent."""
        self.assertEqual(decode_requests(encode(Requests(requests))), requests)

    @given(st.lists(st.tuples(NUMBERS, ANSWERS), max_size=5).map(tuple))
    def test_answers(self, answers: Any) -> None:
        """Answers, too."""
        self.assertEqual(decode_answers(encode(Answers(answers))), answers)

    @given(st.binary(max_size=200))
    def test_garbage(self, data: bytes) -> None:
        """Whatever comes is a message or a protocol error."""
        for decode in (decode_requests, decode_answers):
            try:
                decode(data)
            except RemoteProtocolError:
                continue

    def test_wrong_requests(self) -> None:
        """What a proposer never sends is refused."""
        high = Ballot(MAX_COUNTER + 1, 0)
        for task, request in (
            ("", Prepare(RESERVED)),
            (ID.lower(), Prepare(RESERVED)),
            ("8" + ID[1:], Prepare(RESERVED)),
            (ID, Prepare(high)),
            (ID, Prepare(Ballot(-1, 0))),
            (ID, Prepare(Ballot(0, 64))),
            (ID, Prepare(RESERVED, -1)),
            (ID, Prepare(RESERVED, MAX_COUNTER + 1)),
            (ID, Accept(high, b"", Ballot(MAX_COUNTER + 2, 0))),
            (ID, Accept(RESERVED, b"", Ballot(2, 0))),
            (ID, Accept(RESERVED, b"", Ballot(1, 1))),
            (ID, Accept(RESERVED, b"x" * (MAX_VALUE + 1), Ballot(1, 0))),
        ):
            wrong = encode(Requests(((1, task, request),)))
            self.assertRaises(RemoteProtocolError, decode_requests, wrong)

    def test_wrong_answers(self) -> None:
        """What a replica never answers is refused."""
        one = Ballot(1, 0)
        for answer in (
            Promise(one, one, b"", 0),
            Promise(one, Ballot(-1, 0), b"", 0),
            Promise(one, None, b"x" * (MAX_VALUE + 1), 0),
            Promise(one, None, b"", -1),
            Accepted(Ballot(0, -1)),
            Conflict(one, Ballot(0, 64)),
            NotYet(one, 0.0),
            NotYet(one, -1.0),
            NotYet(one, float("inf")),
            NotYet(one, float("nan")),
            NotYet(one, MAX_SECONDS + 1),
        ):
            wrong = encode(Answers(((1, answer),)))
            self.assertRaises(RemoteProtocolError, decode_answers, wrong)

    def test_nested(self) -> None:
        """Lists in lists without end are an error like others."""
        deep = b"\x91" * 100_000
        self.assertRaises(RemoteProtocolError, decode_requests, deep)
        self.assertRaises(RemoteProtocolError, decode_answers, deep)

    def test_other_message(self) -> None:
        """Answers are no requests."""
        self.assertRaises(RemoteProtocolError, decode_requests, encode(Answers(())))
        self.assertRaises(RemoteProtocolError, decode_answers, encode(Requests(())))
        self.assertRaises(RemoteProtocolError, decode_requests, msgspec.msgpack.encode({}))
