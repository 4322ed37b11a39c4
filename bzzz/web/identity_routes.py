"""The control API of this node's key: another one takes its place.

Enters: requests of the control socket. Leaves: what :class:`~bzzz.trust.rotation.Rotation` made of
them. ``docs/trust.rst``, "Rotating a key".

======================= ==========================================================================
POST /v1/id/rotate      without a body; :class:`RotationInfo`, and a moment later the node ends in
                        order and is started again, with the new peer ID
======================= ==========================================================================

Errors have the codes of :class:`~bzzz.trust.cluster.ClusterError`, among them ``revoked``,
``busy``, ``unfinished`` and ``nobody_linked``; or ``roster_full``.
"""

from __future__ import annotations

from typing import Protocol

from msgspec import Struct

from bzzz.trust.rotation import Rotated
from bzzz.web.credentials import Credentials
from bzzz.web.pairing_routes import refusing
from bzzz.web.routes import RouteTable

__all__ = ["IdentityRoutes", "RotationInfo"]


class RotationInfo(Struct):
    """A rotation of this node's key that counts when the node starts again.

    :ivar old: the peer ID of before.
    :ivar new: the peer ID from the next start on.
    :ivar short_id: of ``new``.
    :ivar cluster: the name of its cluster; ``null`` for none.
    :ivar name: what the cluster calls this node, before and after; ``null`` without one.
    :ivar linked: members that could be told at once.
    :ivar told: those of them that have heard it.
    :ivar can_prove: whether the others can be shown a proof of it when they are met.
    :ivar void: the channels of this node's invitations, which are void.
    """

    old: str
    new: str
    short_id: str
    cluster: str | None
    name: str | None
    linked: int
    told: int
    can_prove: bool
    void: list[str]


class Rotating(Protocol):
    """What is used of :class:`~bzzz.trust.rotation.Rotation`."""

    async def rotate(self) -> Rotated:
        """Have the node take another key."""


class IdentityRoutes:
    """The routes."""

    def __init__(self, rotation: Rotating) -> None:
        self._rotation = rotation

    def add_to(self, table: RouteTable) -> None:
        """Put the routes into the table."""
        table.post("/v1/id/rotate", self.rotate)

    async def rotate(self, by: Credentials) -> RotationInfo:
        with refusing():
            rotated = await self._rotation.rotate()
        return RotationInfo(
            old=str(rotated.old),
            new=str(rotated.new),
            short_id=rotated.new.short,
            cluster=rotated.cluster or None,
            name=rotated.name or None,
            linked=rotated.linked,
            told=rotated.told,
            can_prove=rotated.can_prove,
            void=list(rotated.void),
        )
