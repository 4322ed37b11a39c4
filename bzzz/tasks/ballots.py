"""Ballots, and the messages of a register (``docs/tasks.rst``, "The register").

Rystsov, *CASPaxos: Replicated State Machines without logs* (arXiv:1802.07000).
"""

from __future__ import annotations

from typing import NamedTuple

from msgspec import Struct

__all__ = [
    "RESERVED",
    "Accept",
    "Accepted",
    "Answer",
    "Ballot",
    "Conflict",
    "NotYet",
    "Prepare",
    "Promise",
    "Request",
    "Unknown",
]


class Ballot(NamedTuple):
    """What orders proposals. No two proposers have one in common.

    :ivar counter: goes up with each try.
    :ivar place: of the proposer among the replicas of the register.
    """

    counter: int
    place: int


# The origin's, whose place is 0, for the first value of a register, without a prepare.
RESERVED = Ballot(0, 0)


class Prepare(Struct, frozen=True, array_like=True, tag=1):
    """Asks a replica to promise a ballot, and to close a token (0: none)."""

    ballot: Ballot
    close: int = 0


class Accept(Struct, frozen=True, array_like=True, tag=2):
    """Asks a replica to accept a value, and to promise the proposer's next ballot."""

    ballot: Ballot
    value: bytes
    then: Ballot


class Promise(Struct, frozen=True, array_like=True, tag=3):
    """The replica has promised ``ballot``.

    :ivar accepted: the ballot of the value that it has, None where it has none.
    :ivar closed: the greatest token that it has closed, 0 for none.
    """

    ballot: Ballot
    accepted: Ballot | None
    value: bytes
    closed: int


class Accepted(Struct, frozen=True, array_like=True, tag=4):
    """The replica has accepted the value of ``ballot``."""

    ballot: Ballot


class Conflict(Struct, frozen=True, array_like=True, tag=5):
    """The replica has promised a ballot that is not below the one that was asked for.

    :ivar ballot: that was asked for.
    :ivar promised: that is in its way.
    """

    ballot: Ballot
    promised: Ballot


class NotYet(Struct, frozen=True, array_like=True, tag=6):
    """The replica may not close the token for so many more seconds; it has promised nothing."""

    ballot: Ballot
    seconds: float


class Unknown(Struct, frozen=True, array_like=True, tag=7):
    """The replica has nothing of the register, and promises nothing until it is shown a record."""

    ballot: Ballot


Request = Prepare | Accept
Answer = Promise | Accepted | Conflict | NotYet | Unknown
