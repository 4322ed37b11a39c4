"""The value of a task's register."""

from __future__ import annotations

from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from bzzz.errors import RemoteProtocolError
from bzzz.tasks import value as value_module
from bzzz.tasks.ballots import RESERVED, Ballot
from bzzz.tasks.record import (
    ATTEMPTS_KEPT,
    MAX_REASON,
    Attempt,
    End,
    Outcome,
    Policy,
    Produced,
    State,
    TaskState,
    begin,
)
from bzzz.tasks.register_messages import MAX_VALUE
from bzzz.tasks.submission import MAX_SUBMISSION, SubmissionError, sign
from bzzz.tasks.value import SHORT, decode_record, encode_record
from tests.tasks.fakes import key, name, record, submission

ENDED = TaskState(
    State.ENDED,
    token=2,
    version=5,
    outcome=Outcome.DONE,
    exit_status=0,
    by=name("hazel"),
    produced=Produced(b"out", b"", 3, 0),
    changed=12.5,
    attempts=(Attempt(1, name("acacia"), End.LOST), Attempt(2, name("hazel"), End.DONE, 0)),
)


class ValueTests(SynchronousTestCase):
    """Records as bytes."""

    def test_round(self) -> None:
        """A record comes back as it was, with the ballot that is said."""
        made = record(ENDED, retries=2, restart=False)
        value = encode_record(made.signed, made.state)
        self.assertEqual(decode_record(value), made)
        read = decode_record(value, Ballot(4, 1))
        self.assertEqual((read.ballot, read.state), (Ballot(4, 1), ENDED))
        self.assertEqual((read.task, read.has_ended), (made.submission.task, True))
        self.assertEqual(read.policy, Policy(2, False))
        self.assertFalse(record(begin()).has_ended)

    def test_known(self) -> None:
        """The submission of a record that is known is not read again; another one is. Short ones
        are remembered anyway."""
        made = record(begin(), command=("x" * SHORT,))
        value = encode_record(made.signed, ENDED)
        other = record(begin(), 2)

        def unread(data: bytes) -> Any:
            raise AssertionError("it was read")

        self.patch(value_module, "read", unread)
        read = decode_record(value, Ballot(1, 0), made)
        self.assertIs(read.submission, made.submission)
        self.assertEqual((read.state, read.ballot), (ENDED, Ballot(1, 0)))
        self.assertRaises(AssertionError, decode_record, value, RESERVED, other)

    def test_unreadable(self) -> None:
        """What is no record is an error that is meant."""
        made = record(begin())
        value = encode_record(made.signed, made.state)
        raw = msgspec.msgpack.decode(value)
        for wrong in (
            b"",
            b"\xc1",
            value[:-1],
            value + b"\x00",
            b"\x91" * 5000,
            msgspec.msgpack.encode([raw[0], {**raw[1], "state": "sleeping"}]),
            msgspec.msgpack.encode([raw[0], {**raw[1], "token": "1"}]),
            msgspec.msgpack.encode([[b"", b""], raw[1]]),
            msgspec.msgpack.encode([[raw[0][0] + b"\x00", raw[0][1]], raw[1]]),
        ):
            self.assertRaises(RemoteProtocolError, decode_record, wrong)

    def test_states_that_cannot_be(self) -> None:
        """A member that makes up a time, a count or a status does not get it into a listing."""
        wrongs: tuple[dict[str, Any], ...] = (
            {"changed": float("nan")},
            {"changed": float("inf")},
            {"changed": 1e300},
            {"changed": -1.0},
            {"token": -1},
            {"version": 1 << 60},
            {"lost": -1},
            {"exit_status": 256},
            {"worker": "x" * 129},
            {"attempts": (Attempt(1, "x", End.DONE),) * (ATTEMPTS_KEPT + 1)},
            {"attempts": (Attempt(-1, "x", End.DONE),)},
        )
        for wrong in wrongs:
            made = record(msgspec.structs.replace(begin(), **wrong))
            value = encode_record(made.signed, made.state)
            self.assertRaises(RemoteProtocolError, decode_record, value)

    @given(st.binary(max_size=100))
    def test_any_bytes(self, data: bytes) -> None:
        """Whatever is on a disk or comes from a peer."""
        self.assertRaises(RemoteProtocolError, decode_record, data)

    def test_newer_version(self) -> None:
        """Fields that a newer version has added do not keep an older one from reading it."""
        made = record(begin())
        raw = msgspec.msgpack.decode(encode_record(made.signed, made.state))
        value = msgspec.msgpack.encode([raw[0], {**raw[1], "later": 1}])
        self.assertEqual(decode_record(value), made)

    def test_too_long(self) -> None:
        """A record that no replica would take is not made."""
        made = record(begin())
        state = TaskState(why="x" * MAX_VALUE)
        self.assertRaises(SubmissionError, encode_record, made.signed, state)

    def test_longest(self) -> None:
        """The longest submission with the longest of all that workers may say of it has room: a
        task whose end could not be recorded would never end."""
        over = len(sign(submission(env={"A": "x" * 70_000}), key("walnut")).data) - 70_000
        wanted = submission(env={"A": "x" * (MAX_SUBMISSION - over)})
        signed = sign(wanted, key("walnut"))
        reason = "\U0001f41d" * MAX_REASON
        state = msgspec.structs.replace(
            ENDED,
            why=reason,
            produced=Produced(bytes(2048), bytes(2048)),
            attempts=tuple(
                Attempt(token, name("hazel"), End.FAILED, 1, reason)
                for token in range(ATTEMPTS_KEPT)
            ),
        )
        self.assertGreater(len(encode_record(signed, state)), MAX_SUBMISSION)

    def test_longer(self) -> None:
        """What is longer than a state may be is not taken from a peer either: to change it would be
        to make it longer still."""
        made = record(ENDED)
        for longer in (
            {"why": "x" * (MAX_REASON + 1)},
            {"by": "x" * 200},
            {"attempts": ENDED.attempts * ATTEMPTS_KEPT},
            {"attempts": (Attempt(1, "x" * 200, End.LOST),)},
            {"attempts": (Attempt(1, name("hazel"), End.LOST, None, "x" * (MAX_REASON + 1)),)},
        ):
            state = msgspec.structs.replace(ENDED, **longer)
            value = encode_record(made.signed, state)
            self.assertRaises(RemoteProtocolError, decode_record, value)
