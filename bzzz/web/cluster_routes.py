"""The control API of the cluster: what an owner founds, whom they let in, and whom they put out.

Enters: requests of the control socket. Leaves: what :class:`~bzzz.trust.cluster.Cluster` made of
them, as :mod:`bzzz.web.cluster_schema` has it. ``docs/trust.rst``.

=============================== ==================================================================
GET /v1/cluster                 ``{"cluster": ClusterInfo or null}``
POST /v1/cluster                ``{"name", "node"?}`` founds one; the same answer
GET /v1/members                 ``{"cluster", "members": [MemberInfo], "revoked": [RevokedInfo]}``
GET /v1/members/<member>        :class:`~bzzz.web.cluster_schema.MemberInfo`
POST /v1/members                ``{"peer_id", "name"?, "role"?}`` admits a peer, or changes a
                                member's role; ``{"cluster", "member": MemberInfo, "new"}``
POST /v1/members/rename         ``{"member", "name"}``; ``{"cluster", "member", "was"}``
POST /v1/members/revoke         ``{"member", "reason"?}``; ``{"cluster", "revoked": RevokedInfo}``
POST /v1/leave                  ``{"force"?}``; ``{"cluster", "told"}``, the number of members told
GET /v1/roster                  the roster as a file
POST /v1/roster                 such a file; ``{"cluster", "members", "joined", "new"}``
=============================== ==================================================================

A member is a name, a short ID, a peer ID, or the beginning of one of them. The routes of
invitations are in :mod:`bzzz.web.pairing_routes`. Errors have the codes of
:class:`~bzzz.trust.cluster.ClusterError` and of :class:`~bzzz.trust.joining.JoinError`, or:

======================== =========================================================================
``bad_argument``         a name, a peer ID, an address or a code is none; says why
``no_such_member``       nobody is meant
``ambiguous_member``     several members are meant; tells them
``own_node``             this node itself is meant, for which there is another command
``still_member``         who was revoked was admitted again by another admin meanwhile
``last_admin``           nobody would be left who can let in or revoke anybody
``roster_full``          the roster takes no more statements
``invitation_refused``   so many invitations are open already
``no_such_invitation``   no open one has this channel
======================== =========================================================================
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence

import msgspec
from twisted.web.iweb import IRequest

from bzzz.identity.peer_id import PeerID
from bzzz.trust.cluster import Cluster
from bzzz.trust.joining import Joining
from bzzz.trust.pairing_streams import Pairing
from bzzz.trust.roster import Member, Revocation, Roster
from bzzz.trust.statements import Admit, Found, Rename, Right, Role, Rotate, SignedStatement
from bzzz.web.cluster_schema import ClusterInfo, MemberInfo, RevokedInfo
from bzzz.web.credentials import Credentials
from bzzz.web.members import find_member, some_names, whom_to_admit
from bzzz.web.pairing_routes import PairingRoutes, refusing
from bzzz.web.requests import Body, Refusal
from bzzz.web.routes import RouteTable

__all__ = ["ClusterRoutes"]

NO_NAMES: Mapping[PeerID, str] = {}


class Create(Body, frozen=True):
    """What ``POST /v1/cluster`` takes; ``node`` is what this node is called, if otherwise."""

    name: str
    node: str | None = None


class AdmitPeer(Body, frozen=True):
    """What ``POST /v1/members`` takes; name and role are those of a member, if there is one."""

    peer_id: str
    name: str | None = None
    role: Role | None = None


class RenameMember(Body, frozen=True):
    """What ``POST /v1/members/rename`` takes."""

    member: str
    name: str


class RevokeMember(Body, frozen=True):
    """What ``POST /v1/members/revoke`` takes."""

    member: str
    reason: str = ""


class Leave(Body, frozen=True):
    """What ``POST /v1/leave`` takes; ``force`` leaves a cluster without an admin."""

    force: bool = False


class Import(Body, frozen=True, forbid_unknown_fields=False):
    """What ``POST /v1/roster`` takes. A later format may have more fields: its name is refused."""

    format: str
    cluster: str
    cluster_id: str
    statements: list[str]


class ClusterRoutes:
    """The routes.

    :param name: what this node is called in its configuration.
    :param connected: whether this node has a link with a peer.
    :param leave: leaves the cluster; the number of members that were told.
    """

    def __init__(
        self,
        cluster: Cluster,
        pairing: Pairing,
        joining: Joining,
        name: Callable[[], str],
        connected: Callable[[PeerID], bool],
        leave: Callable[[], Awaitable[int]],
    ) -> None:
        self._cluster = cluster
        self._pairing = PairingRoutes(cluster, pairing, joining, name)
        self._name = name
        self._in_thread = joining.in_thread
        self._connected = connected
        self._leave = leave

    def add_to(self, table: RouteTable) -> None:
        """Put the routes into the table."""
        table.get("/v1/cluster", self.cluster)
        table.post("/v1/cluster", self.create, Create)
        table.get("/v1/members", self.members)
        table.get("/v1/members/<path:member>", self.member)
        table.post("/v1/members", self.admit, AdmitPeer)
        table.post("/v1/members/rename", self.rename, RenameMember)
        table.post("/v1/members/revoke", self.revoke, RevokeMember)
        table.post("/v1/leave", self.leave, Leave)
        table.get("/v1/roster", self.roster)
        table.post("/v1/roster", self.import_roster, Import)
        self._pairing.add_to(table)

    def cluster(self, request: IRequest) -> dict[str, ClusterInfo | None]:
        return {"cluster": self._info()}

    async def create(self, by: Credentials, body: Create) -> dict[str, ClusterInfo | None]:
        with refusing():
            await self._cluster.create(body.name, body.node or self._name())
        return {"cluster": self._info()}

    async def members(self, request: IRequest) -> dict[str, object]:
        roster = self._cluster.roster
        if roster is None:
            return {"cluster": None, "members": [], "revoked": []}
        names: dict[PeerID, str] = {}
        if roster.revoked:
            statements = roster.statements()
            # 20 ms of a roster that is full.
            names = await self._in_thread(lambda: _last_names(statements))
        members = [self._member(roster, each, names) for each in roster.members.values()]
        revoked = [_revoked(roster, each, names) for each in roster.revoked.values()]
        return {
            "cluster": roster.cluster,
            "members": sorted(members, key=lambda each: (each.name, each.peer_id)),
            "revoked": sorted(revoked, key=lambda each: (each.time, each.peer_id)),
        }

    def member(self, request: IRequest, member: str) -> MemberInfo:
        with refusing():
            roster = self._cluster.member_of()
        return self._member(roster, find_member(roster, member))

    async def admit(self, by: Credentials, body: AdmitPeer) -> dict[str, object]:
        with refusing():
            roster = self._cluster.administered()
            peer = whom_to_admit(roster, body.peer_id)
            known = roster.members.get(peer)
            if peer == self._cluster.peer_id:
                raise Refusal(
                    409,
                    "own_node",
                    "a node cannot admit itself: another admin can change its role, and bzzz rename"
                    " its name",
                )
            name = body.name or (known.name if known is not None else "")
            if not name:
                raise Refusal(400, "bad_argument", f"{peer} is no member yet: give it a name")
            role = body.role or (known.role if known is not None else None) or Role.MEMBER
            member = await self._cluster.admit(peer, name, role)
        return {
            "cluster": roster.cluster,
            "member": self._member(roster, member),
            "new": known is None,
        }

    async def rename(self, by: Credentials, body: RenameMember) -> dict[str, object]:
        with refusing():
            roster = self._cluster.member_of()
            member = find_member(roster, body.member)
            await self._cluster.rename(member.peer_id, body.name)
        renamed = roster.members.get(member.peer_id)
        if renamed is None:
            raise Refusal(
                409,
                "no_such_member",
                f"{member.name} was revoked while that was written to disk; see bzzz members",
            )
        return {
            "cluster": roster.cluster,
            "member": self._member(roster, renamed),
            "was": member.name,
        }

    async def revoke(self, by: Credentials, body: RevokeMember) -> dict[str, object]:
        with refusing():
            roster = self._cluster.administered()
            member = find_member(roster, body.member)
            if member.peer_id == self._cluster.peer_id:
                raise Refusal(
                    409, "own_node", f"{member.name} is this node: it leaves by bzzz leave"
                )
            await self._cluster.revoke(member.peer_id, body.reason)
        revocation = roster.revoked.get(member.peer_id)
        if revocation is None:
            raise Refusal(
                409,
                "still_member",
                f"{member.name} was admitted again by another admin meanwhile; see bzzz members",
            )
        return {
            "cluster": roster.cluster,
            "revoked": _revoked(roster, revocation, {member.peer_id: member.name}),
        }

    async def leave(self, by: Credentials, body: Leave) -> dict[str, object]:
        with refusing():
            roster = self._cluster.member_of()
            if not body.force:
                _check_another_admin(roster, self._cluster.peer_id)
            told = await self._leave()
        return {"cluster": roster.cluster, "told": told}

    async def roster(self, request: IRequest) -> msgspec.Raw:
        with refusing():
            return msgspec.Raw(await self._cluster.export())

    async def import_roster(self, by: Credentials, body: Import) -> dict[str, object]:
        before = self._cluster.roster
        known = 0 if before is None else len(before)
        with refusing():
            roster = await self._cluster.import_roster(msgspec.json.encode(body))
        return {
            "cluster": roster.cluster,
            "members": len(roster.members),
            "joined": before is None,
            "new": len(roster) - known,
        }

    # -- inside

    def _info(self) -> ClusterInfo | None:
        roster = self._cluster.roster
        if roster is None:
            return None
        own = roster.members.get(self._cluster.peer_id)
        return ClusterInfo(
            name=roster.cluster,
            id=roster.cluster_id,
            members=len(roster.members),
            role=_role(own),
            revoked=own is None,
            name_here=None if own is None else own.name,
        )

    def _member(
        self, roster: Roster, member: Member, names: Mapping[PeerID, str] = NO_NAMES
    ) -> MemberInfo:
        peer = member.peer_id
        is_self = peer == self._cluster.peer_id
        return MemberInfo(
            name=member.name,
            peer_id=str(peer),
            short_id=peer.short,
            role=_role(member),
            rights=[right.name.lower() for right in Right if right in member.rights],
            connected=is_self or self._connected(peer),
            is_self=is_self,
            admitted_by=str(member.admitted_by),
            admitted_by_name=_name(roster, member.admitted_by, names),
            since=member.since,
        )


def _role(member: Member | None) -> str | None:
    return None if member is None or member.role is None else str(member.role)


def _revoked(roster: Roster, revocation: Revocation, names: Mapping[PeerID, str]) -> RevokedInfo:
    peer = revocation.peer_id
    return RevokedInfo(
        peer_id=str(peer),
        short_id=peer.short,
        name=names.get(peer) or None,
        by=str(revocation.by),
        by_name=_name(roster, revocation.by, names),
        time=revocation.time,
        reason=revocation.reason,
    )


def _name(roster: Roster, peer: PeerID, names: Mapping[PeerID, str]) -> str | None:
    return roster.name_of(peer) or names.get(peer) or None


def _last_names(statements: Sequence[SignedStatement]) -> dict[PeerID, str]:
    """What everybody was called last, whether that counts or not. May run in a thread."""
    names: dict[PeerID, str] = {}
    for signed in statements:
        statement = signed.statement
        if isinstance(statement, Found):
            names[statement.author] = statement.name
        elif isinstance(statement, Admit | Rename):
            names[statement.target] = statement.name
        elif isinstance(statement, Rotate):
            names[statement.target] = names.get(statement.author, "")
    return names


def _check_another_admin(roster: Roster, own: PeerID) -> None:
    """See that the others have an admin when this node has left.

    :raises Refusal: they have none.
    """
    others = [each for each in roster.members.values() if each.peer_id != own]
    if (
        Right.ADMINISTER in roster.rights(own)
        and others
        and not any(Right.ADMINISTER in each.rights for each in others)
    ):
        raise Refusal(
            409,
            "last_admin",
            f"this node is the only admin of {roster.cluster}: without it nobody could let in or"
            f" revoke anybody. Make another member admin first ({some_names(others)}), such as with"
            f" bzzz admit {min(each.name for each in others)} --role admin; or leave all the same"
            " with bzzz leave --force",
        )
