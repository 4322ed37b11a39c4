"""What a roster says of a peer: that it is a member, or that it was revoked.

Rights are counted as bits within the roster, and are sets outside.
"""

from __future__ import annotations

from dataclasses import dataclass

from bzzz.identity.peer_id import PeerID
from bzzz.trust.statements import Right, Role, StatementID

__all__ = [
    "ADMINISTER",
    "ALL_RIGHTS",
    "Member",
    "Revocation",
    "bits_of",
    "rights_of",
    "role_of",
]

ADMINISTER = Right.ADMINISTER.value
ALL_RIGHTS = sum(right.value for right in Right)

_RIGHTS = [
    frozenset(right for right in Right if bits & right.value) for bits in range(ALL_RIGHTS + 1)
]
_BITS = {role: sum(right.value for right in role.rights) for role in Role}
_ROLES = {role.rights: role for role in Role}


@dataclass(frozen=True, slots=True)
class Member:
    """A peer that is in the cluster.

    :ivar name: what people call it.
    :ivar rights: what it may do.
    :ivar role: the one with these rights; None where there is none, after it was admitted in
        several roles at the same time.
    :ivar admitted_by: who said the statement.
    :ivar since: when, by the author's clock, RFC 3339.
    :ivar statement: the admission that counts, the newest if there are several.
    """

    peer_id: PeerID
    name: str
    rights: frozenset[Right]
    role: Role | None
    admitted_by: PeerID
    since: str
    statement: StatementID


@dataclass(frozen=True, slots=True)
class Revocation:
    """A peer that was revoked and is not in the cluster.

    :ivar by: who said so; the peer itself if it left or has another key now.
    :ivar time: by the author's clock, RFC 3339.
    :ivar reason: for people.
    :ivar statement: the newest that says so.
    """

    peer_id: PeerID
    by: PeerID
    time: str
    reason: str
    statement: StatementID


def bits_of(role: Role) -> int:
    """The rights of a role, as bits."""
    return _BITS[role]


def rights_of(bits: int) -> frozenset[Right]:
    """Rights that were bits."""
    return _RIGHTS[bits]


def role_of(rights: frozenset[Right]) -> Role | None:
    """The role with these rights, if there is one."""
    return _ROLES.get(rights)
