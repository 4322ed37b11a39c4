"""What of a node's tokens is on its disk, and what of that is still good.

Enters: tokens and their uses, those that are void. Leaves: records that a start may open again.
docs/trust.rst, "Pairing".
"""

from __future__ import annotations

from collections.abc import Container

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from bzzz.errors import BzzzError
from bzzz.identity.peer_id import PeerID
from bzzz.net.background import in_background
from bzzz.trust.cluster import Cluster, ClusterError
from bzzz.trust.invitation_store import InvitationStore
from bzzz.trust.invitations import Invitation, InvitationError, TokenRecord
from bzzz.trust.statements import Admit, Role, Rotate

__all__ = ["NotForgotten", "TokenDisk"]


class NotForgotten(BzzzError):
    """A token is void, but still on disk; says what that means."""


class TokenDisk:
    """The tokens of one node on disk.

    What is written and removed is done in the order of the calls.

    :ivar void: channels of tokens that are void, and may still be on disk.
    """

    _log = Logger()

    def __init__(self, store: InvitationStore, cluster: Cluster) -> None:
        self.void: set[str] = set()
        self._store = store
        self._cluster = cluster

    def load(self) -> Deferred[list[tuple[TokenRecord, Role]]]:
        """All that are there."""
        return self._store.load()

    def check(self, record: TokenRecord) -> None:
        """See that a record is of a token that may let somebody in.

        :raises InvitationError: it is not; says why.
        """
        try:
            roster = self._cluster.administered()
        except ClusterError:
            raise InvitationError("this node is no admin of a cluster any more") from None
        if not record.cluster:
            raise InvitationError(
                "an older Bzzz has kept it, without the cluster that it is for: make a new one"
            )
        if record.cluster != roster.cluster_id:
            raise InvitationError("it is for another cluster, which this node has left")

    def admitted(self) -> Container[PeerID]:
        """Those that were ever admitted to the cluster."""
        roster = self._cluster.member_of()
        said = (each.statement for each in roster.statements())
        admitted = {each.target for each in said if isinstance(each, Admit | Rotate)}
        return admitted | roster.members.keys()

    def keep(self, invitation: Invitation, role: Role) -> Deferred[None]:
        """Write a token, with its uses as they are now. Fires when that is on the disk.

        :raises InvitationError: it is a code.
        """
        record = invitation.record()
        if record is None:
            raise InvitationError("a code is not kept on disk")
        return self._store.put(invitation.channel, record, role)

    async def forget(self, channel: str) -> None:
        """Have nothing on disk of a token that is void.

        :raises NotForgotten: the disk does not do that. It is in :attr:`void` until then.
        """
        self.void.add(channel)
        try:
            await self._store.remove(channel)
        except BzzzError as error:
            raise NotForgotten(
                f"invitation {channel} is void now, but open again after a restart if this node is"
                f" an admin of the same cluster then, as it is still on disk: {error}; to try"
                f" again: bzzz invitations withdraw {channel}"
            ) from error
        self.void.discard(channel)

    def forget_in_background(self, channel: str) -> None:
        """The same; a failure is told in the log."""

        async def forget() -> None:
            try:
                await self.forget(channel)
            except NotForgotten as error:
                self._log.error("{error}", error=error)

        in_background(forget(), "forgetting an invitation", self._log)
