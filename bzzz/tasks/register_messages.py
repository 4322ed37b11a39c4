"""What a register's requests and answers may say (``docs/tasks.rst``, "On the wire").

Enters: what a peer sent, already of the right types. Leaves: nothing, or an error. The messages
that they travel in are in :mod:`bzzz.tasks.messages`.
"""

from __future__ import annotations

import math
from typing import Final

from bzzz.errors import RemoteProtocolError
from bzzz.tasks.ballots import Accept, Answer, Ballot, Conflict, NotYet, Promise, Request

__all__ = ["MAX_VALUE", "check_answer", "check_request"]

# Bytes of a record: what a task is to run with its environment, of 128 KiB at most, and how its
# last 16 attempts ended, with a reason of up to 8000 bytes for each. The longest that can be made
# fits, whatever workers say: a task whose end could not be recorded would never end.
MAX_VALUE: Final = 288 << 10

# Counters go up by one with each try: one that is greater is made up. A replica keeps them in 64
# bits.
MAX_COUNTER: Final = 1 << 53
MAX_PLACE: Final = 64

# Seconds that a replica may ask for before it closes a token; leases are of minutes at most.
MAX_SECONDS: Final = 3600.0


def check_request(request: Request) -> None:
    """See that a proposer sends such a request.

    :raises RemoteProtocolError: none does.
    """
    _check_ballot(request.ballot)
    if isinstance(request, Accept):
        if request.then != (request.ballot.counter + 1, request.ballot.place):
            raise RemoteProtocolError("an accept promises another ballot than the next")
        _check_value(request.value)
    elif not 0 <= request.close <= MAX_COUNTER:
        raise RemoteProtocolError("a prepare closes a token that cannot be")


def check_answer(answer: Answer) -> None:
    """See that a replica gives such an answer.

    :raises RemoteProtocolError: none does.
    """
    _check_ballot(answer.ballot)
    if isinstance(answer, Promise):
        _check_promise(answer)
    elif isinstance(answer, NotYet):
        if not (math.isfinite(answer.seconds) and 0 < answer.seconds <= MAX_SECONDS):
            raise RemoteProtocolError("a replica wants to wait for longer than a lease lasts")
    elif isinstance(answer, Conflict):
        _check_ballot(answer.promised)


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
