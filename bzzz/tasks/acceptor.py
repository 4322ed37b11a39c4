"""What one replica keeps of one register, and how it answers (``docs/tasks.rst``, "The register").

Enters: what is kept, and a request. Leaves: what is to be kept from now on, and the answer, which
is to be sent when that is on the disk, and not before. Rystsov, arXiv:1802.07000.
"""

from __future__ import annotations

from msgspec import Struct

from bzzz.tasks.ballots import (
    RESERVED,
    Accept,
    Accepted,
    Answer,
    Ballot,
    Conflict,
    NotYet,
    Prepare,
    Promise,
)

__all__ = ["EMPTY", "Kept", "accept", "prepare"]


class Kept(Struct, frozen=True):
    """One register, as a replica has it on its disk.

    :ivar promised: nothing below it is accepted.
    :ivar accepted: the ballot of ``value``; None: there is no value yet.
    :ivar closed: no lease of this token or a lower one is granted any more.
    """

    promised: Ballot = RESERVED
    accepted: Ballot | None = None
    value: bytes = b""
    closed: int = 0


EMPTY = Kept()


def prepare(kept: Kept, asked: Prepare, until_closed: float = 0.0) -> tuple[Kept, Answer]:
    """Promise a ballot, and close a token.

    :param until_closed: seconds for which the token that is to be closed may be in use still.
    """
    if asked.ballot <= kept.promised:
        return kept, Conflict(asked.ballot, kept.promised)
    if asked.close > kept.closed and until_closed > 0:
        return kept, NotYet(asked.ballot, until_closed)
    closed = max(kept.closed, asked.close)
    kept = Kept(asked.ballot, kept.accepted, kept.value, closed)
    return kept, Promise(asked.ballot, kept.accepted, kept.value, closed)


def accept(kept: Kept, asked: Accept) -> tuple[Kept, Answer]:
    """Accept a value, and promise the ballot after it.

    Asked again for what it has accepted, it says so again, and its promise stays. Another value of
    the same ballot is from a proposer that has used it twice.
    """
    if asked.ballot == kept.accepted and asked.value == kept.value:
        return kept, Accepted(asked.ballot)
    if asked.ballot == kept.accepted:
        return kept, Conflict(asked.ballot, kept.promised)
    if asked.ballot < kept.promised or asked.then <= asked.ballot:
        return kept, Conflict(asked.ballot, kept.promised)
    return Kept(asked.then, asked.ballot, asked.value, kept.closed), Accepted(asked.ballot)
