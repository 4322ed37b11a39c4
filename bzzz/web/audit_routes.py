"""The route by which ``bzzz audit verify`` learns what others keep of a log.

================================= ================================================================
GET /v1/audit/checkpoints?node=ID :class:`~bzzz.trust.audit_streams.Collected`: checkpoints of that
                                  node, by default this one, that this node and those that are
                                  linked keep
================================= ================================================================
"""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.web.iweb import IRequest

from bzzz.errors import IdentityError
from bzzz.identity.peer_id import PeerID
from bzzz.trust.audit_streams import AuditStreams, Collected
from bzzz.web.requests import Refusal, argument
from bzzz.web.routes import RouteTable

__all__ = ["AuditRoutes"]


class AuditRoutes:
    """The routes.

    :param own: this node.
    """

    def __init__(self, streams: AuditStreams, own: PeerID) -> None:
        self._streams = streams
        self._own = own

    def add_to(self, table: RouteTable) -> None:
        """Put the routes into the table."""
        table.get("/v1/audit/checkpoints", self.checkpoints)

    def checkpoints(self, request: IRequest) -> Deferred[Collected]:
        """What is kept of a node's log."""
        node = argument(request, b"node")
        try:
            peer = self._own if node is None else PeerID.parse(node)
        except IdentityError as error:
            raise Refusal(400, "bad_argument", f"node={node}: {error}") from None
        return self._streams.collect(peer)
