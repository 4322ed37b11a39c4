"""Statements for tests, and a slow judge of rosters that is written straight from docs/trust.rst.

Builders take the statements that are to be the parents, so that a test says what its author knew.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache

from bzzz.identity.keys import PrivateKey
from bzzz.identity.peer_id import PeerID
from bzzz.trust.roster import Roster
from bzzz.trust.statements import (
    Admit,
    Found,
    Rename,
    Revoke,
    Right,
    Role,
    Rotate,
    SignedStatement,
    StatementID,
    prove_rotation,
    sign,
)

__all__ = [
    "NONCE",
    "TIME",
    "Judge",
    "admit",
    "found",
    "key",
    "parents_of",
    "rename",
    "revoke",
    "roster_of",
    "rotate",
]

TIME = "2026-11-24T01:02:03Z"
NONCE = b"n" * 16


@cache
def key(name: str) -> PrivateKey:
    """The key of a machine, by the machine's name."""
    return PrivateKey.from_seed(name.encode().ljust(32, b"."))


def ids(parents: Iterable[SignedStatement]) -> tuple[StatementID, ...]:
    """Parents as a statement has them."""
    return tuple(sorted({parent.id for parent in parents}))


def found(by: str, nonce: bytes = NONCE) -> SignedStatement:
    """A cluster called ``home``."""
    return sign(key(by), Found(key(by).peer_id, (), TIME, "home", by, nonce))


def admit(
    by: str,
    target: str,
    *parents: SignedStatement,
    role: Role = Role.MEMBER,
    name: str | None = None,
) -> SignedStatement:
    """``by`` admits ``target``, which is called so unless ``name`` says otherwise."""
    author, admitted = key(by), key(target).peer_id
    return sign(author, Admit(author.peer_id, ids(parents), TIME, admitted, name or target, role))


def revoke(by: str, target: str, *parents: SignedStatement, reason: str = "") -> SignedStatement:
    """``by`` revokes ``target``."""
    author = key(by)
    return sign(author, Revoke(author.peer_id, ids(parents), TIME, key(target).peer_id, reason))


def rename(by: str, target: str, name: str, *parents: SignedStatement) -> SignedStatement:
    """``by`` calls ``target`` ``name``."""
    author = key(by)
    return sign(author, Rename(author.peer_id, ids(parents), TIME, key(target).peer_id, name))


def rotate(by: str, to: str, *parents: SignedStatement) -> SignedStatement:
    """``by`` has the key of ``to`` from then on."""
    author, new = key(by), key(to)
    proof = prove_rotation(new, author.peer_id, ids(parents))
    return sign(author, Rotate(author.peer_id, ids(parents), TIME, new.peer_id, proof))


def roster_of(*statements: SignedStatement) -> Roster:
    """A roster with all of them."""
    roster = Roster.load(statements)
    assert len(roster) == len({each.id for each in statements}), "a parent is missing"
    return roster


Set = frozenset[StatementID]


class Judge:
    """Judges statements by the rules as they are written, with sets, from the beginning each time.

    :ivar taken: the statements that are well-formed.
    """

    def __init__(self) -> None:
        self.taken: dict[StatementID, SignedStatement] = {}
        self._before: dict[StatementID, Set] = {}
        self._void: dict[tuple[StatementID, Set], bool] = {}

    def take(self, signed: SignedStatement) -> bool:
        """Take a statement if it is well-formed; whether it is."""
        if not self.well_formed(signed):
            return False
        self.taken[signed.id] = signed
        return True

    @property
    def everything(self) -> Set:
        """All that was taken."""
        return frozenset(self.taken)

    # -- before, concurrent

    def before(self, signed: SignedStatement) -> Set:
        """All that is before it."""
        if signed.id not in self._before:
            found: set[StatementID] = set()
            for parent in signed.statement.parents:
                found |= {parent} | self.before(self.taken[parent])
            self._before[signed.id] = frozenset(found)
        return self._before[signed.id]

    def concurrent(self, one: SignedStatement, other: SignedStatement) -> bool:
        """Whether neither is before the other."""
        return (
            one.id != other.id
            and one.id not in self.before(other)
            and other.id not in self.before(one)
        )

    # -- what a statement says

    @staticmethod
    def admits(signed: SignedStatement, peer: PeerID) -> bool:
        """Whether it makes the peer a member."""
        statement = signed.statement
        if isinstance(statement, Found):
            return statement.author == peer
        return isinstance(statement, Admit | Rotate) and statement.target == peer

    @staticmethod
    def revokes(signed: SignedStatement, peer: PeerID) -> bool:
        """Whether it ends the peer's membership."""
        statement = signed.statement
        if isinstance(statement, Rotate):
            return statement.author == peer
        return isinstance(statement, Revoke) and statement.target == peer

    def gives(self, signed: SignedStatement) -> frozenset[Right]:
        """The rights that an admit gives."""
        statement = signed.statement
        if isinstance(statement, Admit):
            return statement.role.rights
        if isinstance(statement, Found):
            return frozenset(Right)
        return self.rights(statement.author, self.before(signed))

    def needs(self, signed: SignedStatement) -> frozenset[Right]:
        """The rights without which it cannot be said."""
        statement = signed.statement
        if isinstance(statement, Rotate):
            return self.gives(signed)
        if isinstance(statement, Revoke | Rename) and statement.target == statement.author:
            return frozenset()
        return frozenset({Right.ADMINISTER})

    # -- the rules

    def well_formed(self, signed: SignedStatement) -> bool:
        """Whether its author had the right to say it, by what is before it."""
        statement = signed.statement
        if isinstance(statement, Found):
            return not self.taken
        before = self.before(signed)
        if not self.counting(statement.author, before):
            return False
        if isinstance(statement, Rotate) and any(
            self.admits(self.taken[each], statement.target)
            or self.revokes(self.taken[each], statement.target)
            for each in before
        ):
            return False
        return self.needs(signed) <= self.rights(statement.author, before)

    def void(self, signed: SignedStatement, within: Set) -> bool:
        """Whether it is void by the set ``within``."""
        if (signed.id, within) not in self._void:
            self._void[signed.id, within] = self._is_void(signed, within)
        return self._void[signed.id, within]

    def _is_void(self, signed: SignedStatement, within: Set) -> bool:
        author = signed.statement.author
        if isinstance(signed.statement, Found | Revoke):
            return False
        for other in (self.taken[each] for each in within):
            if self.concurrent(signed, other) and (
                self.revokes(other, author)
                or (self.admits(other, author) and not self.needs(signed) <= self.gives(other))
            ):
                return True
        return any(self.void(each, within) for each in self.counting(author, self.before(signed)))

    def counting(self, peer: PeerID, within: Set) -> list[SignedStatement]:
        """The admits of a peer that count."""
        every = [self.taken[each] for each in within]
        revokes = {each.id for each in every if self.revokes(each, peer)}
        admits = [
            each
            for each in every
            if self.admits(each, peer)
            and revokes <= self.before(each)
            and not self.void(each, within)
        ]
        return [
            each for each in admits if not any(each.id in self.before(other) for other in admits)
        ]

    def rights(self, peer: PeerID, within: Set) -> frozenset[Right]:
        """What a peer may do."""
        counting = self.counting(peer, within)
        rights = frozenset(Right) if counting else frozenset()
        for each in counting:
            rights &= self.gives(each)
        return rights

    def name(self, peer: PeerID, within: Set) -> str:
        """What a member is called."""
        names = self.counting(peer, within) + [
            each
            for each in (self.taken[one] for one in within)
            if isinstance(each.statement, Rename)
            and each.statement.target == peer
            and not self.void(each, within)
        ]
        newest = [
            each for each in names if not any(each.id in self.before(other) for other in names)
        ]
        statement = min(newest, key=lambda each: (self.is_own(each), each.id))
        if isinstance(statement.statement, Rotate):
            return self.name(statement.statement.author, self.before(statement))
        assert not isinstance(statement.statement, Revoke)
        return statement.statement.name

    @staticmethod
    def is_own(signed: SignedStatement) -> bool:
        """Whether a name was given by the member itself."""
        statement = signed.statement
        return isinstance(statement, Rotate) or (
            isinstance(statement, Rename) and statement.target == statement.author
        )

    def peers(self, within: Set) -> set[PeerID]:
        """All that are spoken of."""
        found = set()
        for each in within:
            statement = self.taken[each].statement
            found.add(statement.author)
            if not isinstance(statement, Found):
                found.add(statement.target)
        return found

    def members(self, within: Set) -> dict[PeerID, tuple[str, frozenset[Right]]]:
        """Names and rights of the members."""
        return {
            peer: (self.name(peer, within), self.rights(peer, within))
            for peer in self.peers(within)
            if self.counting(peer, within)
        }

    def revoked(self, within: Set) -> set[PeerID]:
        """Peers that were revoked and are no members."""
        return {
            peer
            for peer in self.peers(within)
            if any(self.revokes(self.taken[each], peer) for each in within)
            and not self.counting(peer, within)
        }


def parents_of(known: Iterable[SignedStatement], judge: Judge) -> list[SignedStatement]:
    """Those of ``known`` that are before no other one."""
    every = list(known)
    before = {each for one in every for each in judge.before(one)}
    return [each for each in every if each.id not in before]
