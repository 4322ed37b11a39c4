"""The control API: what the ``bzzz`` command asks of a node, as JSON over HTTP on a UNIX socket.

============================= ====================================================================
GET /v1/status                :class:`~bzzz.web.schema.Status`
GET /v1/id                    :class:`~bzzz.web.schema.Identity`
GET /v1/peers                 ``{"peers": [PeerInfo]}``
GET /v1/capabilities          ``{"nodes": [NodeDocument]}``, the node that answers first
GET /v1/capabilities/<peer>   :class:`~bzzz.web.schema.NodeDocument` of that node
GET /v1/events                the recent events, a line of JSON each; with ``?follow=1`` also those
                              to come, with ``?recent=N`` at most N of the recent ones
GET /v1/config                ``{"config": [ConfigEntry]}``
GET /v1/doctor                ``{"findings": [Finding]}``
============================= ====================================================================

What changes something has a body that is an object of JSON, of
``Content-Type: application/json`` and at most :data:`bzzz.web.requests.MAX_BODY_BYTES`:

============================= ====================================================================
POST, one answer              JSON. The work goes on when the client hangs up
DELETE                        likewise, without a body
POST, answered by lines       a line of JSON for each thing that happens, then the end. A line
                              ``{"error": {"code", "message"}}`` is the last, and says that it
                              failed. Who hangs up ends the work
============================= ====================================================================

An error is ``{"error": {"code", "message"}}`` with a fitting status. Who may open the socket may
ask everything: :mod:`bzzz.web.credentials` says who that is. What changes something is told who
asks, and is not done for anybody else than those.

Routes of another module are an object with ``add_to``, which the composition root makes and gives
to :class:`ControlApi`::

    class Invite(Body, frozen=True):
        role: str
        seconds: float = 600.0

    class ClusterRoutes:
        def __init__(self, cluster):
            self._cluster = cluster

        def add_to(self, table):
            table.post("/v1/invitations", self.invite, Invite)
            table.delete("/v1/invitations/<channel>", self.withdraw)
            table.stream("/v1/join", self.join, Join)

        async def invite(self, by, body):
            code = await self._cluster.invite(body.role, body.seconds)
            self._cluster.audit("invited", by=await by.user_name(), uid=by.uid)
            return {"code": code}

        async def withdraw(self, by, channel):
            if not await self._cluster.withdraw(channel):
                raise Refusal(404, "no_such_invitation", f"there is no invitation {channel}")

        async def join(self, lines, by, body):
            async for step in self._cluster.join(body.code):
                lines.send({"step": step})
                await lines.ready()

    ControlApi(view, routes=[ClusterRoutes(cluster)])

:class:`~bzzz.web.routes.RouteTable` has the rest.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from klein import Klein
from twisted.web.iweb import IRequest
from twisted.web.server import Request

from bzzz.web.requests import Refusal, argument
from bzzz.web.resolve import Ambiguous, NoSuchPeer, resolve
from bzzz.web.routes import OnRequest, Routes, RouteTable
from bzzz.web.schema import ConfigEntry, Finding, Identity, NodeDocument, PeerInfo, Status
from bzzz.web.server import ControlServer
from bzzz.web.site import ControlSite
from bzzz.web.stream import EventStream, Streams
from bzzz.web.view import NodeView

__all__ = ["ControlApi", "ControlServer"]

# Followers of the events at one time; each may have a megabyte waiting.
MAX_FOLLOWERS = 8


class ControlApi:
    """The routes.

    :param wall_time: seconds since the epoch.
    :param routes: those of other modules.
    :param ready: whether those can be answered, as what they are about was read from disk.
    :param on_request: told of what is asked that changes something, see
        :class:`~bzzz.web.routes.RouteTable`.
    """

    def __init__(
        self,
        view: NodeView,
        wall_time: Callable[[], float] = time.time,
        routes: Iterable[Routes] = (),
        on_request: OnRequest = lambda by, request: None,
        ready: Callable[[], bool] = lambda: True,
    ) -> None:
        self._view = view
        self._wall_time = wall_time
        self._streams = Streams()
        self._followers = 0
        self._app = Klein()
        table = RouteTable(self._app, self._streams, on_request)
        self.add_to(table)
        table.ready = ready
        for some in routes:
            some.add_to(table)

    def site(self, reactor: Any) -> ControlSite:
        """A factory of HTTP connections."""
        return ControlSite(self._app.resource(), reactor)

    def close(self) -> None:
        """End the streams."""
        self._streams.close()

    def add_to(self, table: RouteTable) -> None:
        """The routes that every node has."""
        table.get("/v1/status", self.status)
        table.get("/v1/id", self.id)
        table.get("/v1/peers", self.peers)
        table.get("/v1/capabilities", self.capabilities)
        table.get("/v1/capabilities/<path:peer>", self.capabilities_of)
        table.get("/v1/events", self.events)
        table.get("/v1/config", self.config)
        table.get("/v1/doctor", self.doctor)

    def status(self, request: IRequest) -> Status:
        return self._view.status()

    def id(self, request: IRequest) -> Identity:
        status = self._view.status()
        return Identity(
            name=status.name,
            peer_id=status.peer_id,
            short_id=status.short_id,
            addresses=[f"{address}/p2p/{status.peer_id}" for address in status.listen_addresses],
        )

    def peers(self, request: IRequest) -> dict[str, Sequence[PeerInfo]]:
        peers = self._view.peers()
        return {"peers": sorted(peers, key=lambda peer: (peer.name or "~", peer.peer_id))}

    def capabilities(self, request: IRequest) -> dict[str, Sequence[NodeDocument]]:
        nodes = sorted(
            self._view.capabilities(),
            key=lambda node: (not node.is_self, node.name or "~", node.peer_id),
        )
        return {"nodes": nodes}

    def capabilities_of(self, request: IRequest, peer: str) -> NodeDocument:
        try:
            return resolve(peer, self._view.capabilities())
        except NoSuchPeer as error:
            raise Refusal(404, "no_such_peer", str(error)) from None
        except Ambiguous as error:
            raise Refusal(409, "ambiguous_peer", str(error)) from None

    def events(self, request: Request) -> EventStream:
        most = argument(request, b"recent")
        if most is not None and not (most.isascii() and most.isdigit()):
            raise Refusal(400, "bad_argument", f"recent={most} is not a whole number")
        # Nobody reads the lines of a HEAD, and a follower that never leaves would hold a place.
        follow = argument(request, b"follow") in {"1", "true", "yes"} and request.method != b"HEAD"
        if follow and self._followers >= MAX_FOLLOWERS:
            raise Refusal(
                503, "too_many_followers", f"{MAX_FOLLOWERS} programs follow the events already"
            )
        recent = self._view.recent_events()
        if most is not None:
            recent = recent[max(0, len(recent) - int(most[:9])) :]
        stream = EventStream(request, self._wall_time, recent)
        if follow:
            stream.on_end(self._view.subscribe_events(stream.send))
            stream.on_end(self._unfollowed)
            self._followers += 1
        else:
            stream.end()
        return stream

    def _unfollowed(self) -> None:
        self._followers -= 1

    def config(self, request: IRequest) -> dict[str, Sequence[ConfigEntry]]:
        return {"config": self._view.config_entries()}

    async def doctor(self, request: IRequest) -> dict[str, Sequence[Finding]]:
        return {"findings": await self._view.doctor()}
