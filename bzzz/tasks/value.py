"""The value of a task's register: its signed submission and its state (``docs/tasks.rst``).

Enters: bytes from a disk or a peer. Leaves: a record, or an error; and what a replica has to know
of it.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

import msgspec
from msgspec import Struct

from bzzz.errors import RemoteProtocolError
from bzzz.tasks.ballots import RESERVED, Ballot
from bzzz.tasks.record import Policy, State, TaskState
from bzzz.tasks.register_messages import MAX_VALUE
from bzzz.tasks.submission import SignedSubmission, Submission, SubmissionError, peer_id, read

__all__ = ["Record", "TaskRecord", "decode_record", "encode_record", "peer_id"]


class Record(Struct, frozen=True, array_like=True):
    """What a register holds."""

    signed: SignedSubmission
    state: TaskState


class TaskRecord(Struct, frozen=True):
    """A record whose submission was read.

    :ivar submission: of ``signed``.
    :ivar ballot: that the value was decided with, or that a replica accepted it with. Of two
        records of a task, the one with the greater is the newer.
    """

    signed: SignedSubmission
    submission: Submission
    state: TaskState
    ballot: Ballot = RESERVED

    @property
    def task(self) -> str:
        """The task's ID."""
        return self.submission.task

    @property
    def policy(self) -> Policy:
        """What the submission says of attempts that fail."""
        return Policy(self.submission.retries, self.submission.restart)

    @property
    def has_ended(self) -> bool:
        """Whether nothing more is to be done for it."""
        return self.state.state is State.ENDED


# Bytes of a value that is remembered, and how many are: those that change now, each of which is
# read several times; in a few megabytes.
SHORT: Final = 4096
REMEMBERED: Final = 1024

_encoder: Final = msgspec.msgpack.Encoder()
_decoder: Final = msgspec.msgpack.Decoder(Record)


def encode_record(signed: SignedSubmission, state: TaskState) -> bytes:
    """The value of a register.

    :raises SubmissionError: it is too long.
    """
    data = _encoder.encode(Record(signed, state))
    if len(data) > MAX_VALUE:
        raise SubmissionError(f"the record of a task would have {len(data)} bytes")
    return data


def decode_record(
    value: bytes, ballot: Ballot = RESERVED, known: TaskRecord | None = None
) -> TaskRecord:
    """Read the value of a register. The submission's signature is not looked at.

    :param known: an earlier record, whose submission is not read again if it is the same.
    :raises RemoteProtocolError: it is none.
    """
    if len(value) <= SHORT:
        read_before = _decode_short(value)
        if ballot == RESERVED:
            return read_before
        return TaskRecord(read_before.signed, read_before.submission, read_before.state, ballot)
    record = _decode(value)
    if known is not None and known.signed == record.signed:
        return TaskRecord(known.signed, known.submission, record.state, ballot)
    return TaskRecord(record.signed, read(record.signed.data), record.state, ballot)


def _decode(value: bytes) -> Record:
    try:
        return _decoder.decode(value)
    except (msgspec.MsgspecError, RecursionError, UnicodeError) as error:
        raise RemoteProtocolError(
            f"a task's record cannot be read: {error}", "record_unreadable"
        ) from None


@lru_cache(maxsize=REMEMBERED)
def _decode_short(value: bytes) -> TaskRecord:
    record = _decode(value)
    return TaskRecord(record.signed, read(record.signed.data), record.state)
