"""The messages of ``/bzzz/register/1.0.0`` (``docs/tasks.rst``, "On the wire").

Enters and leaves: messages without their lengths, and what they say. Each has as many requests, or
answers, as came in one turn.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Final

import msgspec
from msgspec import Struct

from bzzz.errors import RemoteProtocolError
from bzzz.tasks.ballots import Accept, Answer, Ballot, Conflict, NotYet, Promise, Request

__all__ = [
    "MAX_MESSAGE",
    "MAX_VALUE",
    "PROTOCOL",
    "TASK",
    "Answers",
    "Failed",
    "Requests",
    "decode_answers",
    "decode_requests",
    "encode",
]

PROTOCOL: Final = "/bzzz/register/1.0.0"

# Bytes of a record: what a task is to run with its environment, and its last attempts.
MAX_VALUE: Final = 256 << 10

# Bytes of a message. Who sends begins another one before a further value would pass it.
MAX_MESSAGE: Final = 1 << 20

# Counters go up by one with each try: one that is greater is made up. A replica keeps them in 64
# bits.
MAX_COUNTER: Final = 1 << 53
MAX_PLACE: Final = 64

# Crockford's base 32, without I, L, O and U: 130 bits, of which the first two are 0.
TASK: Final = re.compile(r"[0-7][0-9A-HJKMNP-TV-Z]{25}")

# Seconds that a replica may ask for before it closes a token; leases are of minutes at most.
MAX_SECONDS: Final = 3600.0


class Failed(Struct, frozen=True, array_like=True, tag=7):
    """The replica could not keep what was asked; it has answered nothing.

    :ivar reason: for people.
    """

    reason: str


class Requests(Struct, frozen=True, array_like=True, tag="requests"):
    """Requests, each with a number that its answer has too."""

    requests: tuple[tuple[int, str, Request], ...]


class Answers(Struct, frozen=True, array_like=True, tag="answers"):
    """Answers, in any order."""

    answers: tuple[tuple[int, Answer | Failed], ...]


_requests = msgspec.msgpack.Decoder(Requests)
_answers = msgspec.msgpack.Decoder(Answers)

# What msgspec raises for bytes that are wrong, or nested too deeply.
_UNREADABLE = (msgspec.MsgspecError, RecursionError, UnicodeError)


def encode(message: Requests | Answers) -> bytes:
    """Encode a message."""
    return msgspec.msgpack.encode(message)


def decode_requests(data: bytes) -> Sequence[tuple[int, str, Request]]:
    """Read requests.

    :raises RemoteProtocolError: they are not as they have to be.
    """
    try:
        requests = _requests.decode(data).requests
    except _UNREADABLE as error:
        raise RemoteProtocolError(f"requests to registers cannot be read: {error}") from None
    for _, task, request in requests:
        if TASK.fullmatch(task) is None:
            raise RemoteProtocolError("a request to a register has no task's ID")
        _check_ballot(request.ballot)
        if isinstance(request, Accept):
            if request.then != (request.ballot.counter + 1, request.ballot.place):
                raise RemoteProtocolError("an accept promises another ballot than the next")
            _check_value(request.value)
        elif not 0 <= request.close <= MAX_COUNTER:
            raise RemoteProtocolError("a prepare closes a token that cannot be")
    return requests


def decode_answers(data: bytes) -> Sequence[tuple[int, Answer | Failed]]:
    """Read answers.

    :raises RemoteProtocolError: they are not as they have to be.
    """
    try:
        answers = _answers.decode(data).answers
    except _UNREADABLE as error:
        raise RemoteProtocolError(f"answers of registers cannot be read: {error}") from None
    for _, answer in answers:
        if isinstance(answer, Failed):
            continue
        _check_ballot(answer.ballot)
        if isinstance(answer, Promise):
            _check_promise(answer)
        elif isinstance(answer, NotYet):
            if not (math.isfinite(answer.seconds) and 0 < answer.seconds <= MAX_SECONDS):
                raise RemoteProtocolError("a replica wants to wait for longer than a lease lasts")
        elif isinstance(answer, Conflict):
            _check_ballot(answer.promised)
    return answers


def _check_promise(answer: Promise) -> None:
    if answer.accepted is not None:
        _check_ballot(answer.accepted)
        if answer.accepted >= answer.ballot:
            raise RemoteProtocolError("a promise is of a ballot that is not above the value's")
    _check_value(answer.value)
    if not 0 <= answer.closed <= MAX_COUNTER:
        raise RemoteProtocolError("a promise has closed a token that cannot be")


def _check_ballot(ballot: Ballot) -> None:
    if not (0 <= ballot.counter <= MAX_COUNTER and 0 <= ballot.place < MAX_PLACE):
        raise RemoteProtocolError("a ballot is out of range")


def _check_value(value: bytes) -> None:
    if len(value) > MAX_VALUE:
        raise RemoteProtocolError(f"a value has more than {MAX_VALUE} bytes")
