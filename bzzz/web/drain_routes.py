"""The control API of draining: nodes that take no new tasks.

Enters: requests of the control socket. Leaves: this node, or another member, drained or not.

=============== ==================================================================================
POST /v1/drain  ``{"on", "node"?}``: take nothing new, or take tasks again; ``{"name", "peer_id",
                "already"}`` of whom it was wanted of: this node, unless another member is named;
                ``already``: whether it did so before; of another member, whether it drained
                before, as far as this node has heard
=============== ==================================================================================

=================== ==============================================================================
code of an error    what it means
=================== ==============================================================================
``not_linked``      the other member cannot be asked
``drain_refused``   it does not do it: this node is no admin, or what it says
``unknown``         it was asked, and has not answered
=================== ==============================================================================
"""

from __future__ import annotations

from collections.abc import Callable

from bzzz.tasks.draining import Draining, NotDrained
from bzzz.tasks.value import peer_id
from bzzz.web.credentials import Credentials
from bzzz.web.requests import Body, Refusal
from bzzz.web.routes import RouteTable

__all__ = ["DrainRoutes"]


class Drain(Body, frozen=True):
    """What ``POST /v1/drain`` takes.

    :ivar node: a member by its name, its short ID or its peer ID; "" for this node.
    """

    on: bool
    node: str = ""


class DrainRoutes:
    """The route.

    :param own: this node's peer ID.
    :param find_node: the peer ID of a member that somebody means; raises Refusal.
    :param name_of: what the member with a peer ID is called.
    :param drains: whether another member takes nothing new, as it said last.
    """

    def __init__(
        self,
        own: str,
        draining: Draining,
        find_node: Callable[[str], str],
        name_of: Callable[[str], str],
        drains: Callable[[str], bool],
    ) -> None:
        self._own = own
        self._draining = draining
        self._find_node = find_node
        self._name_of = name_of
        self._drains = drains

    def add_to(self, table: RouteTable) -> None:
        """Put the route into the table."""
        table.post("/v1/drain", self.drain, Drain)

    async def drain(self, by: Credentials, body: Drain) -> dict[str, object]:
        peer = self._find_node(body.node) if body.node else self._own
        user = await by.user_name()
        if peer == self._own:
            already = body.on == (self._draining.wish is not None)
        else:
            already = body.on and self._drains(peer)
        try:
            await self._draining.ask(peer_id(peer), body.on, user)
        except NotDrained as error:
            raise Refusal(409, error.code, str(error)) from None
        return {"name": self._name_of(peer), "peer_id": peer, "already": already}
