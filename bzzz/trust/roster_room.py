"""How many statements a roster keeps, and of whom.

Enters: statements, before they are kept and when they are. Leaves: whether there is room for one;
and those for which there was none, should it turn out that they are needed.
docs/trust.rst, "Keeping rosters the same".

What members say of themselves (leaving, rotating, a name) needs no right. So each has a room of its
own for that, which its keys share, and which nobody else can fill. Who says more than that, and
something else to each half of a cluster that is cut in two, has both keep what the other does not.
That is of no matter but to itself, until an admin says something that comes after it, such as that
it is a member again: then it is taken all the same, or what the admin says would not be.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from bzzz.errors import BzzzError
from bzzz.identity.peer_id import PeerID
from bzzz.trust.statements import Rename, Revoke, Rotate, SignedStatement, Statement, StatementID

__all__ = [
    "ANY",
    "FROM_DISK",
    "FROM_OTHERS",
    "MAX_ASIDE",
    "MAX_OWN",
    "MAX_OWN_EACH",
    "MAX_REVOKES_ABOVE",
    "MAX_STATEMENTS",
    "Room",
    "RosterFull",
    "RosterRoom",
    "is_own",
]

# Statements of one roster. 500 machines of which a fifth is replaced each year make 200 a year.
# Every member keeps them in memory: 8192 take some 50 MB, and 90 with 64 parents each.
MAX_STATEMENTS = 8192

# Revokes that an admin can say beyond that, so that whoever filled the roster can be revoked. Those
# that a member says of itself, to leave, are not among them, or any member could use them up.
MAX_REVOKES_ABOVE = 1024

# Statements that one machine says of itself: it leaves each week of a year, and is renamed.
MAX_OWN_EACH = 64

# The same of all machines: as many as 128 can say that say all they may.
MAX_OWN = 8192

# Statements for which there was no room that are remembered, should they be needed.
MAX_ASIDE = 1024


class RosterFull(BzzzError):
    """The roster takes no more statements of this kind."""


@dataclass(frozen=True)
class Room:
    """How much of each kind is taken.

    :ivar others: what is no member's word of itself; with an admin's revokes, ``revokes``.
    :ivar own: what members say of themselves; what one says, ``own_each``.
    """

    others: int = MAX_STATEMENTS
    revokes: int = MAX_STATEMENTS + MAX_REVOKES_ABOVE
    own: int = MAX_OWN
    own_each: int = MAX_OWN_EACH


FROM_OTHERS = Room()

# In another order than statements once came, more of one kind may be among the last.
FROM_DISK = Room(FROM_OTHERS.revokes, FROM_OTHERS.revokes, 2 * MAX_OWN, 2 * MAX_OWN_EACH)

# Of what an admin's statement needs.
ANY = Room(FROM_OTHERS.others, FROM_OTHERS.revokes, sys.maxsize, sys.maxsize)


def is_own(statement: Statement) -> bool:
    """Whether it is of its author, so that it needs no right."""
    return isinstance(statement, Rotate) or (
        isinstance(statement, Revoke | Rename) and statement.target == statement.author
    )


class RosterRoom:
    """Counts the statements of one roster.

    :param cluster: what people call it.
    :ivar own: the set of those that members said of themselves, see
        :mod:`bzzz.trust.roster_graph`.
    """

    def __init__(self, cluster: str) -> None:
        self.own = 0
        self._cluster = cluster
        self._said: Counter[PeerID] = Counter()
        # The first key of the machine that has this one.
        self._machines: dict[PeerID, PeerID] = {}
        self._aside: dict[StatementID, SignedStatement] = {}

    def copy(self) -> RosterRoom:
        """Another that counts by itself."""
        other = RosterRoom(self._cluster)
        other.own = self.own
        other._said = self._said.copy()
        other._machines = self._machines.copy()
        other._aside = self._aside.copy()
        return other

    def check(self, statement: Statement, count: int, room: Room) -> None:
        """Whether one more may be kept.

        :param count: statements that are.
        :raises RosterFull: it may not.
        """
        own = self.own.bit_count()
        if is_own(statement):
            said = self._said[self._machine(statement.author)]
            if said >= room.own_each:
                raise RosterFull(
                    f"the roster of {self._cluster} has {said} statements that"
                    f" {statement.author} said of itself, and takes no more of these; an admin can"
                    " revoke or rename it"
                )
            if own >= room.own:
                raise RosterFull(
                    f"the roster of {self._cluster} has {own} statements that members said of"
                    " themselves, and takes no more of these; an admin can revoke or rename them"
                )
            return
        if count - own >= (room.revokes if isinstance(statement, Revoke) else room.others):
            raise RosterFull(
                f"the roster of {self._cluster} is full, with {count} statements: "
                "it takes only an admin's revokes. Found a new cluster"
            )

    def enter(self, signed: SignedStatement, number: int) -> None:
        """It is kept, with this number in the graph."""
        statement = signed.statement
        self._aside.pop(signed.id, None)
        if is_own(statement):
            self.own |= 1 << number
            machine = self._machine(statement.author)
            self._said[machine] += 1
            if isinstance(statement, Rotate):
                self._machines.setdefault(statement.target, machine)

    # -- those for which there was none

    def set_aside(self, signed: SignedStatement) -> None:
        """Remember one of which nobody knows yet that it is needed; its signature is right."""
        self._aside[signed.id] = signed
        while len(self._aside) > MAX_ASIDE:
            del self._aside[next(iter(self._aside))]

    def is_aside(self, statements: Iterable[StatementID]) -> bool:
        """Whether all of these are remembered."""
        return all(each in self._aside for each in statements)

    def needed(self, statements: Iterable[StatementID]) -> list[SignedStatement]:
        """These, and all that are remembered and before one of them; none before its parents."""
        found: dict[StatementID, SignedStatement] = {}
        waiting = list(statements)
        while waiting:
            signed = self._aside.get(waiting[-1])
            if signed is None or signed.id in found:
                waiting.pop()
                continue
            before = [
                each
                for each in signed.statement.parents
                if each in self._aside and each not in found
            ]
            if before:
                waiting += before
            else:
                found[signed.id] = signed
                waiting.pop()
        return list(found.values())

    def _machine(self, peer: PeerID) -> PeerID:
        return self._machines.get(peer, peer)
