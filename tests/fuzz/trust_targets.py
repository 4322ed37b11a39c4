"""Statements of rosters, and rosters that statements of any kind come to."""

from __future__ import annotations

import json

from bzzz.errors import RemoteProtocolError
from bzzz.identity.keys import PrivateKey
from bzzz.trust.roster import MissingParents, Roster
from bzzz.trust.statements import (
    Admit,
    Found,
    Rename,
    Revoke,
    Role,
    Rotate,
    SignedStatement,
    Statement,
    decode_statement,
    prove_rotation,
    sign,
    verify,
)
from tests.fuzz.registry import OURS, THEIRS, target, told
from tests.trust.rosters import TIME, Judge, parents_of

__all__ = ["KEYS", "ROOT", "history"]

KEYS = [OURS, THEIRS, *(PrivateKey.from_seed(bytes((seed,)) * 32) for seed in b"uvw")]
BY_TEXT = {str(key.peer_id): key for key in KEYS}
ROOT = sign(OURS, Found(OURS.peer_id, (), TIME, "home", "walnut", bytes(16)))

# Statements of one history; more make runs slow and find nothing else.
MOST_STATEMENTS = 10

# Bytes of one of its steps.
STEP = 4


def check_roster(roster: Roster) -> None:
    """Whatever it took, it is a roster."""
    statements = roster.statements()
    again = Roster.load([each.encode() for each in statements[::-1]])
    assert again.statements() == statements
    assert again.members == roster.members
    assert again.revoked == roster.revoked
    assert again.heads == roster.heads
    assert not set(roster.members) & set(roster.revoked)
    for peer, member in roster.members.items():
        assert roster.admits(peer)
        assert member in roster.by_name(member.name)
        assert roster.wanted([member.statement], [])[-1].id == member.statement


@target
def statements(data: bytes) -> None:
    """A statement as it comes from a peer; the same with a signature that is good or not."""
    for encoded in (data, bytes(64) + data):
        try:
            read = decode_statement(encoded)
        except RemoteProtocolError as error:
            told(error)
            continue
        assert read.encode() == encoded
        assert not verify(read) or encoded is data


@target
def rosters(data: bytes) -> None:
    """The bodies of statements in lines; those by authors whose keys are here are signed."""
    roster = Roster.load([ROOT])
    for body in data.split(b"\n"):
        try:
            author = json.loads(body).get("author")
            key = BY_TEXT.get(author, OURS)
        except (ValueError, AttributeError, TypeError, RecursionError):
            key = OURS
        try:
            roster.add(decode_statement(key.sign(b"bzzz-roster-v1:" + body) + body))
        except RemoteProtocolError as error:
            told(error)
        except MissingParents as error:
            told(error)
            assert error.missing
    check_roster(roster)


def history(data: bytes) -> list[SignedStatement]:
    """What some machines say, each knowing some of what was said, in steps of four bytes.

    They are: of which of the last eight statements it does not know, unless they are before others;
    who says it; of whom; and what.
    """
    judge = Judge()
    judge.take(ROOT)
    said = [ROOT]
    for start in range(0, min(len(data), MOST_STATEMENTS * STEP) - STEP + 1, STEP):
        forget, who, whom, what = data[start : start + STEP]
        known = [
            each
            for place, each in enumerate(judge.taken.values())
            if not place or not forget >> place % 8 & 1
        ]
        parents = tuple(sorted(each.id for each in parents_of(known, judge)))
        author, other = KEYS[who % len(KEYS)], KEYS[whom % len(KEYS)]
        statement = step(author, other, what, parents)
        if statement is not None:
            signed = sign(author, statement)
            if signed.id not in judge.taken:
                judge.take(signed)
                said.append(signed)
    return said


def step(
    author: PrivateKey, other: PrivateKey, what: int, parents: tuple[bytes, ...]
) -> Statement | None:
    """One of the things that can be said."""
    said = (author.peer_id, parents, TIME)
    role, kind = list(Role)[what >> 4 & 3], what & 3
    if kind == 1:
        return Revoke(*said, other.peer_id, "")
    if kind == 2:
        return Rename(*said, other.peer_id, f"n{what}")
    if author is other:
        return None
    if kind == 0:
        return Admit(*said, other.peer_id, f"n{what}", role)
    return Rotate(*said, other.peer_id, prove_rotation(other, author.peer_id, parents))


@target
def roster_histories(data: bytes) -> None:
    """A history: what is taken of it, and who is a member, is what the slow judge says."""
    judge = Judge()
    judge.take(ROOT)
    roster = Roster.load([ROOT])
    for signed in history(data)[1:]:
        taken = judge.take(signed)
        try:
            assert roster.add(signed)
            assert taken
        except RemoteProtocolError as error:
            told(error)
            assert not taken
    members = {peer: (each.name, each.rights) for peer, each in roster.members.items()}
    assert members == judge.members(judge.everything)
    assert set(roster.revoked) == judge.revoked(judge.everything)
    check_roster(roster)
