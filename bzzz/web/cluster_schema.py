"""What the control API answers about the cluster, and ``bzzz --json`` prints: fields are a promise.

As in :mod:`bzzz.web.schema`: fields are added, never renamed nor removed, and a value that is not
known is null.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec

__all__ = ["ClusterInfo", "InvitationInfo", "MemberInfo", "RevokedInfo"]


class ClusterInfo(msgspec.Struct, frozen=True, kw_only=True):
    """The cluster that this node is in.

    :ivar name: what people call it.
    :ivar id: the hash of the statement that founded it; no two clusters have one ID.
    :ivar members: how many there are.
    :ivar role: of this node; null for a node that was revoked, and for one that was admitted in
        several roles at the same time.
    :ivar revoked: whether this node was revoked.
    :ivar name_here: what the cluster calls this node; null for a node that was revoked.
    """

    name: str
    id: str
    members: int
    role: str | None
    revoked: bool
    name_here: str | None


class MemberInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A member of the cluster.

    :ivar name: what the cluster calls it.
    :ivar peer_id: in base58.
    :ivar short_id: the last six characters of the peer ID.
    :ivar role: ``admin``, ``member``, ``submit-only`` or ``run-only``; null for one that was
        admitted in several roles at the same time, and has the rights that all of them give.
    :ivar rights: some of ``administer``, ``submit``, ``run``.
    :ivar connected: whether the node that answers has a link with it; true for that node itself.
    :ivar is_self: whether it is the node that answers.
    :ivar admitted_by: peer ID of the admin that let it in.
    :ivar admitted_by_name: what the cluster called that admin last; null if that is not known.
    :ivar since: when it was let in, by the clock of the admin.
    """

    name: str
    peer_id: str
    short_id: str
    role: str | None
    rights: Sequence[str]
    connected: bool
    is_self: bool = msgspec.field(name="self")
    admitted_by: str
    admitted_by_name: str | None
    since: str


class RevokedInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A node that was a member and is none any more.

    :ivar peer_id: in base58.
    :ivar short_id: the last six characters of the peer ID.
    :ivar name: what the cluster called it last.
    :ivar by: peer ID of who said so; its own if it left, or has another key now.
    :ivar by_name: what the cluster called that one last; null if that is not known.
    :ivar time: when, by the clock of who said so.
    :ivar reason: for people; may be empty.
    """

    peer_id: str
    short_id: str
    name: str | None
    by: str
    by_name: str | None
    time: str
    reason: str


class InvitationInfo(msgspec.Struct, frozen=True, kw_only=True):
    """An open invitation, without its secret.

    :ivar channel: what it is named by: the number of a code, or 16 hexadecimal digits.
    :ivar kind: ``code`` or ``token``.
    :ivar role: of the machines that it lets in.
    :ivar uses: how many machines it is for.
    :ivar used: how many of these it has let in.
    :ivar expires: until when it is good.
    :ivar guesses_left: wrong codes that make it void; null for a token, which none do.
    """

    channel: str
    kind: Literal["code", "token"]
    role: str
    uses: int
    used: int
    expires: str
    guesses_left: int | None
