"""The messages about tasks: what is read is what was written, and all else is an error."""

from __future__ import annotations

from typing import Any

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
    Unknown,
)
from bzzz.tasks.messages import (
    Answer,
    Coming,
    Done,
    Drain,
    Failed,
    Find,
    Hold,
    Register,
    Renew,
    Report,
    Request,
    Stop,
    Taken,
    TaskCodec,
    Told,
)
from bzzz.tasks.record import End
from bzzz.tasks.register_messages import MAX_COUNTER, MAX_SECONDS, MAX_VALUE

ID = "01ARZ3NDEKTSV4RRFFQ69G5FAV"
CODEC = TaskCodec()
BALLOTS = st.builds(Ballot, st.integers(0, MAX_COUNTER), st.integers(0, 63))
REQUESTS = st.one_of(
    st.builds(
        Register,
        st.just(ID),
        st.builds(Prepare, BALLOTS, st.integers(0, MAX_COUNTER)),
        st.binary(max_size=100),
    ),
    st.builds(
        lambda ballot, value: Register(
            ID, Accept(ballot, value, Ballot(ballot.counter + 1, ballot.place))
        ),
        BALLOTS,
        st.binary(max_size=100),
    ),
    st.builds(Renew, st.lists(st.tuples(st.just(ID), st.integers(0, 9)), max_size=4).map(tuple)),
    st.builds(
        Report,
        st.just(ID),
        st.integers(0, 9),
        st.sampled_from([end for end in End if end is not End.STALE]),
        st.none() | st.integers(0, 255),
        st.text(max_size=20),
    ),
    st.builds(Stop, st.just(ID), st.integers(0, 9)),
    st.builds(Drain, st.booleans(), st.text("ab ä-", max_size=128)),
    st.builds(
        Hold,
        st.just(ID),
        st.lists(st.binary(min_size=32, max_size=32).map(bytes.hex), min_size=1, max_size=4).map(
            tuple
        ),
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
    st.builds(Told, PROMISES),
    st.builds(Told, st.builds(Accepted, BALLOTS)),
    st.builds(Told, st.builds(Unknown, BALLOTS)),
    st.builds(Told, st.builds(Conflict, BALLOTS, BALLOTS)),
    st.builds(Told, st.builds(NotYet, BALLOTS, st.floats(0.001, MAX_SECONDS))),
    st.builds(Failed, st.text(max_size=20)),
    st.just(Done()),
    st.builds(Coming, st.integers(0, 1 << 53), st.integers(0, 1 << 53)),
)
NUMBERS = st.integers(0, 1000)


def pack(*messages: tuple[int, Request | Answer]) -> bytes:
    """A frame."""
    return CODEC.join([(number, CODEC.encode(message)) for number, message in messages])


class MessageTests(SynchronousTestCase):
    """Both directions."""

    @given(st.lists(st.tuples(NUMBERS, REQUESTS), max_size=5))
    def test_requests(self, requests: Any) -> None:
        """Requests come as they were sent."""
        self.assertEqual(CODEC.read_requests(pack(*requests)), requests)

    @given(st.lists(st.tuples(NUMBERS, ANSWERS), max_size=5))
    def test_answers(self, answers: Any) -> None:
        """Answers, too."""
        self.assertEqual(CODEC.read_answers(pack(*answers)), answers)

    @given(st.binary(max_size=200))
    def test_garbage(self, data: bytes) -> None:
        """Whatever comes is a message or a protocol error."""
        for read in (CODEC.read_requests, CODEC.read_answers):
            try:
                read(data)
            except RemoteProtocolError:
                continue

    def test_wrong_requests(self) -> None:
        """What a member never sends is refused."""
        high = Ballot(MAX_COUNTER + 1, 0)
        for request in (
            Register("", Prepare(RESERVED)),
            Register(ID.lower(), Prepare(RESERVED)),
            Register("8" + ID[1:], Prepare(RESERVED)),
            Register(ID + "\n", Prepare(RESERVED)),
            Register(ID, Prepare(high)),
            Register(ID, Prepare(Ballot(-1, 0))),
            Register(ID, Prepare(Ballot(0, 64))),
            Register(ID, Prepare(RESERVED, -1)),
            Register(ID, Prepare(RESERVED, MAX_COUNTER + 1)),
            Register(ID, Accept(high, b"", Ballot(MAX_COUNTER + 2, 0))),
            Register(ID, Accept(RESERVED, b"", Ballot(2, 0))),
            Register(ID, Accept(RESERVED, b"", Ballot(1, 1))),
            Register(ID, Accept(RESERVED, b"x" * (MAX_VALUE + 1), Ballot(1, 0))),
            Report(ID, 1, End.STALE),
            Stop(ID, -1),
            Register(ID, Accept(RESERVED, b"", Ballot(1, 0)), b"x"),
            Register(ID, Prepare(Ballot(1, 0)), b"x" * (MAX_VALUE + 1)),
            Hold(ID, ()),
            Hold(ID, ("ab" * 31,)),
            Hold(ID, ("ab" * 32 + "\n",)),
            Hold(ID, ("AB" * 32,)),
            Hold(ID, ("ab" * 32,) * 257),
        ):
            self.assertRaises(RemoteProtocolError, CODEC.read_requests, pack((1, request)))

    def test_wrong_answers(self) -> None:
        """What a replica never answers is refused."""
        one = Ballot(1, 0)
        for answer in (
            Promise(one, one, b"", 0),
            Promise(one, Ballot(-1, 0), b"", 0),
            Promise(one, None, b"x" * (MAX_VALUE + 1), 0),
            Promise(one, None, b"", -1),
            Accepted(Ballot(0, -1)),
            Unknown(Ballot(-1, 0)),
            Conflict(one, Ballot(0, 64)),
            NotYet(one, 0.0),
            NotYet(one, -1.0),
            NotYet(one, float("inf")),
            NotYet(one, float("nan")),
            NotYet(one, MAX_SECONDS + 1),
        ):
            self.assertRaises(RemoteProtocolError, CODEC.read_answers, pack((1, Told(answer))))

    def test_wrong_sizes(self) -> None:
        """Sizes are no less than nothing."""
        for answer in (Coming(-1, 0), Coming(0, -1), Coming(0, (1 << 53) + 1)):
            self.assertRaises(RemoteProtocolError, CODEC.read_answers, pack((1, answer)))

    def test_nested(self) -> None:
        """Lists in lists without end are an error like others."""
        deep = b"\x91" * 100_000
        self.assertRaises(RemoteProtocolError, CODEC.read_requests, deep)
        self.assertRaises(RemoteProtocolError, CODEC.read_answers, deep)

    def test_other_message(self) -> None:
        """Answers are no requests."""
        self.assertRaises(RemoteProtocolError, CODEC.read_requests, pack((1, Taken())))
        self.assertRaises(RemoteProtocolError, CODEC.read_answers, pack((1, Find(ID))))
