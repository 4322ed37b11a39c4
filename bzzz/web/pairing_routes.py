"""The control API of invitations: who lets a machine in, and the machine that is let in.

Enters: requests of the control socket. Leaves: codes and tokens for the owner, and lines that tell
what happens with them. ``docs/trust.rst``, "Pairing".

=============================== ==================================================================
POST /v1/invitations            ``{"role"?}``, answered by lines: first
                                ``{"cluster", "code", "channel", "role", "expires", "seconds"}``,
                                then what happens, until a machine has joined or the code is void.
                                Who hangs up makes it void
POST /v1/tokens                 ``{"role"?, "uses"?, "seconds"?}``; ``{"cluster", "token",
                                "channel", "role", "uses", "expires", "seconds"}``
GET /v1/invitations             ``{"invitations": [InvitationInfo]}``
DELETE /v1/invitations/CHANNEL  makes a code or a token void, here and on disk
POST /v1/join                   ``{"code", "name"?, "at"?}``, answered by lines, of which the last
                                is ``joined``, or an error. ``code`` may be a token, and ``at`` are
                                multiaddrs of the inviter
=============================== ==================================================================

The lines of an invitation and of a join have ``event`` and further fields:

============== ===================================================================================
``wrong_code`` ``left``, guesses until it is void; ``peer_id``, ``host``
``failed``     ``reason``, ``peer_id``: somebody has begun to join and has not joined; it stays good
``busy``       ``hosts``: so many runs were begun, most of them from these IP addresses, that others
               are refused for the moment; told once
``admitted``   ``name``, ``peer_id``, ``short_id``, ``reason``: this one is a member and may not
               know it; the code stays good for it, to hear it
``joined``     ``name``, ``peer_id``, ``short_id``
``void``       ``reason``
============== ===================================================================================

============== ===================================================================================
``looking``    ``seconds``, for which the inviter is looked for at most; not where this node
               cannot join at all
``asking``     ``peer_id``, ``short_id``, ``address``
``found``      ``peer_id``, ``short_id``: this one has such an invitation
``joined``     ``cluster``, ``name``, ``by``, ``by_short_id``, ``by_name``
============== ===================================================================================
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any

from msgspec import Meta
from twisted.internet.defer import Deferred
from twisted.web.iweb import IRequest

from bzzz.errors import LocalProtocolError
from bzzz.events import rfc3339
from bzzz.trust.cluster import Cluster, ClusterError
from bzzz.trust.codes import Code, InvalidCode, Token, is_token, parse_code, parse_token
from bzzz.trust.invitations import CODE_SECONDS, MAX_USES, Invitation, InvitationError
from bzzz.trust.joining import JoinError, Joining
from bzzz.trust.pairing_streams import Pairing
from bzzz.trust.roster import RosterFull
from bzzz.trust.statements import Role
from bzzz.web.cluster_schema import InvitationInfo
from bzzz.web.credentials import Credentials
from bzzz.web.requests import Body, Refusal
from bzzz.web.routes import RouteTable
from bzzz.web.stream import LineStream
from bzzz.wire.multiaddr import AddressError, Multiaddr

__all__ = ["PairingRoutes", "refusing"]

# Seconds that a token is good for at most: whoever needs one for longer makes another. It is a
# secret that lies about.
MAX_TOKEN_SECONDS = 366 * 86400

DAY = 86400.0

# Addresses of one inviter: as many as are tried in one dial.
MAX_AT = 8


class Invite(Body, frozen=True):
    """What ``POST /v1/invitations`` takes."""

    role: Role = Role.MEMBER


class MakeToken(Body, frozen=True):
    """What ``POST /v1/tokens`` takes."""

    role: Role = Role.MEMBER
    uses: Annotated[int, Meta(ge=1, le=MAX_USES)] = 1
    seconds: Annotated[float, Meta(gt=0, le=MAX_TOKEN_SECONDS)] = DAY


class Join(Body, frozen=True):
    """What ``POST /v1/join`` takes. ``code`` is a secret."""

    code: str
    name: str | None = None
    at: Annotated[tuple[str, ...], Meta(max_length=MAX_AT)] = ()

    def __repr__(self) -> str:
        return "<Join>"


class PairingRoutes:
    """The routes.

    :param name: what this node is called in its configuration.
    """

    def __init__(
        self, cluster: Cluster, pairing: Pairing, joining: Joining, name: Callable[[], str]
    ) -> None:
        self._cluster = cluster
        self._pairing = pairing
        self._joining = joining
        self._name = name

    def add_to(self, table: RouteTable) -> None:
        """Put the routes into the table."""
        table.stream("/v1/invitations", self.invite, Invite)
        table.post("/v1/tokens", self.make_token, MakeToken)
        table.get("/v1/invitations", self.invitations)
        table.delete("/v1/invitations/<channel>", self.withdraw)
        table.stream("/v1/join", self.join, Join)

    async def invite(self, lines: LineStream, by: Credentials, body: Invite) -> None:
        over: Deferred[None] = Deferred()

        def happened(event: str, **fields: object) -> None:
            if over.called:
                return
            lines.send({"event": event, **_with_short_id(fields)})
            if event in {"joined", "void"}:
                over.callback(None)

        with refusing():
            invitation = await self._pairing.open_code(body.role, happened, by.uid)
        end = "bzzz invite was interrupted"
        try:
            lines.send(
                {
                    "cluster": self._cluster.member_of().cluster,
                    "code": invitation.secret.text,
                    "channel": invitation.channel,
                    "role": str(body.role),
                    "expires": rfc3339(invitation.expires_at),
                    "seconds": CODE_SECONDS,
                }
            )
            await over
            end = "it was used"
        finally:
            self._pairing.close(invitation, end)

    async def make_token(self, by: Credentials, body: MakeToken) -> dict[str, object]:
        with refusing():
            invitation = await self._pairing.open_token(body.role, body.uses, body.seconds, by.uid)
            cluster = self._cluster.member_of().cluster
        return {
            "cluster": cluster,
            "token": invitation.secret.text,
            "channel": invitation.channel,
            "role": str(body.role),
            "uses": invitation.uses,
            "expires": rfc3339(invitation.expires_at),
            "seconds": body.seconds,
        }

    def invitations(self, request: IRequest) -> dict[str, list[InvitationInfo]]:
        return {"invitations": [_info(*each) for each in self._pairing.open_ones()]}

    async def withdraw(self, by: Credentials, channel: str) -> None:
        if not await self._pairing.withdraw(channel):
            raise Refusal(
                404,
                "no_such_invitation",
                f"this node has no open invitation {channel}; bzzz invitations lists them",
            )

    async def join(self, lines: LineStream, by: Credentials, body: Join) -> None:
        addresses = [_address(each) for each in body.at]
        # The first look at the list of words reads a file.
        secret: Code | Token = await self._joining.in_thread(lambda: _secret(body.code))

        def say(event: str, **fields: object) -> None:
            lines.send({"event": event, **_with_short_id(fields)})

        with refusing():
            joined = await self._joining.join(secret, body.name or self._name(), addresses, say)
        say(
            "joined",
            cluster=joined.cluster,
            name=joined.name,
            by=str(joined.by),
            by_short_id=joined.by.short,
            by_name=joined.by_name,
        )


@contextmanager
def refusing() -> Iterator[None]:
    """Answer the errors of the cluster with their own codes, not as failures of the node."""
    try:
        yield
    except (ClusterError, JoinError) as error:
        raise Refusal(409, error.code, str(error)) from error
    except InvitationError as error:
        raise Refusal(409, "invitation_refused", f"{error}; bzzz invitations lists them") from error
    except RosterFull as error:
        raise Refusal(409, "roster_full", str(error)) from error
    except LocalProtocolError as error:
        # A name, a reason or a key that no statement can have.
        raise Refusal(400, "bad_argument", str(error)) from error


def _with_short_id(fields: dict[str, object]) -> dict[str, object]:
    peer: Any = fields.get("peer_id")
    return fields if peer is None else {**fields, "short_id": str(peer)[-6:]}


def _info(invitation: Invitation, role: Role) -> InvitationInfo:
    return InvitationInfo(
        channel=invitation.channel,
        kind="token" if invitation.is_token else "code",
        role=str(role),
        uses=invitation.uses,
        used=len(invitation.machines),
        expires=rfc3339(invitation.expires_at),
        guesses_left=invitation.guesses_left,
    )


def _secret(text: str) -> Code | Token:
    """What somebody typed or pasted. May take some milliseconds.

    :raises Refusal: it is no code, and no token.
    """
    try:
        return parse_token(text) if is_token(text) else parse_code(text)
    except InvalidCode as error:
        # Its words are for the person who typed: nobody else reads this answer.
        raise Refusal(400, "bad_argument", str(error)) from None


def _address(text: str) -> Multiaddr:
    """An address that can be dialled.

    :raises Refusal: it is none.
    """
    try:
        address = Multiaddr.parse(text)
    except AddressError as error:
        raise Refusal(400, "bad_argument", f"at: {error}") from None
    where = address.host_port()
    if where is None or where[0] not in {"ip4", "ip6"}:
        raise Refusal(
            400,
            "bad_argument",
            f"at: {address} is no IP address with a TCP port, such as /ip4/192.0.2.1/tcp/4001",
        )
    return address
