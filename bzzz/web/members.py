"""Which member of the cluster somebody means.

Enters: what somebody typed, and the roster. Leaves: the member, or a refusal that says whom there
is.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from bzzz.errors import IdentityError
from bzzz.identity.peer_id import PeerID
from bzzz.trust.roster import Member, Roster
from bzzz.web.requests import Refusal
from bzzz.web.resolve import Ambiguous, NoSuchPeer, resolve

__all__ = ["find_member", "some_names", "whom_to_admit"]

# Names that an error tells.
MAX_TOLD = 10


@dataclass(frozen=True)
class _Candidate:
    """A member that may be meant. A linked one is no more likely than others: nobody is to be
    revoked because the one that is meant is off.
    """

    peer_id: str
    short_id: str
    name: str
    member: Member
    state: None = None


def find_member(roster: Roster, text: str) -> Member:
    """The member that somebody means: a name, a short ID, a peer ID, or a beginning of one.

    :raises Refusal: there is none, or several.
    """
    candidates = [
        _Candidate(str(each.peer_id), each.peer_id.short, each.name, each)
        for each in roster.members.values()
    ]
    try:
        return resolve(text, candidates).member
    except Ambiguous as error:
        raise Refusal(409, "ambiguous_member", str(error)) from None
    except NoSuchPeer:
        pass
    if text in {name for peer in roster.revoked for name in (str(peer), peer.short)}:
        message = f"{text} is no member of {roster.cluster} any more: it was revoked, or left"
    else:
        there = some_names(roster.members.values())
        message = f"no member of {roster.cluster} is called '{text}' (there are {there})"
    raise Refusal(404, "no_such_member", message)


def whom_to_admit(roster: Roster, text: str) -> PeerID:
    """A peer by its whole ID, or a member by its name or short ID, not by a beginning.

    :raises Refusal: it is neither, or several members are meant.
    """
    # First, as a member can call itself by another peer's ID.
    try:
        peer = PeerID.parse(text)
    except IdentityError as error:
        why = str(error)
    else:
        if peer.public_key is not None:
            return peer
        raise _nobody(roster, text, "it has only the hash of a key")
    # Together, so that nobody can hide another by taking its short ID for a name.
    found = [each for each in roster.members.values() if text in (each.name, each.peer_id.short)]
    if len(found) > 1:
        several = ", ".join(f"{each.peer_id} ({each.name})" for each in found[:MAX_TOLD])
        raise Refusal(
            409, "ambiguous_member", f"'{text}' may be any of {several}; give the whole peer ID"
        )
    if not found:
        raise _nobody(roster, text, why)
    return found[0].peer_id


def _nobody(roster: Roster, text: str, why: str) -> Refusal:
    return Refusal(
        400,
        "bad_argument",
        f"'{text}' is neither a member of {roster.cluster} nor the peer ID of a Bzzz node"
        f" ({why}): bzzz id tells it, on that machine",
    )


def some_names(members: Iterable[Member]) -> str:
    """Names of the first few."""
    names = sorted(each.name for each in members)
    more = f" and {len(names) - MAX_TOLD} more" if len(names) > MAX_TOLD else ""
    return ", ".join(names[:MAX_TOLD]) + more
