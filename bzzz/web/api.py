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

An error is ``{"error": {"code", "message"}}`` with a fitting status. Who may open the socket may
ask everything; the file's mode 0600 is the access control.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from typing import Any

from klein import Klein
from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReadDescriptor
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.iweb import IRequest
from twisted.web.resource import IResource, Resource
from twisted.web.server import Request, Site
from werkzeug.exceptions import HTTPException
from zope.interface import implementer

from bzzz.errors import BzzzError
from bzzz.net.periodic import Periodic
from bzzz.web.resolve import Ambiguous, NoSuchPeer, resolve
from bzzz.web.schema import Identity, encode
from bzzz.web.socket import ControlSocket
from bzzz.web.stream import EventStream
from bzzz.web.view import NodeView

__all__ = ["ControlApi", "ControlServer"]

# Followers of the events at one time; each may have a megabyte waiting.
MAX_FOLLOWERS = 8

# Seconds that a connection without a request is kept open.
IDLE_TIMEOUT = 60


# Seconds between two looks at whether the socket can still be found.
LOOK_INTERVAL = 60.0

# Seconds without accepting after the system refused to.
ACCEPT_PAUSE = 1.0


class _Refusal(Exception):
    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code = status, code


def _answer(request: IRequest, answer: object, status: int = 200) -> bytes:
    request.setResponseCode(status)
    request.setHeader(b"content-type", b"application/json")
    return encode(answer)


def _error(request: IRequest, status: int, code: str, message: str) -> bytes:
    return _answer(request, {"error": {"code": code, "message": message}}, status)


def _argument(request: IRequest, name: bytes) -> str | None:
    values = request.args.get(name)
    return values[-1].decode("utf-8", "replace") if values else None


class ControlApi:
    """The routes.

    :param wall_time: seconds since the epoch.
    """

    _log = Logger()
    app = Klein()

    def __init__(self, view: NodeView, wall_time: Callable[[], float] = time.time) -> None:
        self._view = view
        self._wall_time = wall_time
        self._streams: set[EventStream] = set()

    def site(self, reactor: Any) -> Site:
        """A factory of HTTP connections."""
        return _QuietSite(self.app.resource(), timeout=IDLE_TIMEOUT, reactor=reactor)

    def close(self) -> None:
        """End the streams."""
        for stream in list(self._streams):
            stream.finish()

    @app.route("/v1/status", methods=["GET"])
    def status(self, request: IRequest) -> bytes:
        return _answer(request, self._view.status())

    @app.route("/v1/id", methods=["GET"])
    def id(self, request: IRequest) -> bytes:
        status = self._view.status()
        identity = Identity(
            name=status.name,
            peer_id=status.peer_id,
            short_id=status.short_id,
            addresses=[f"{address}/p2p/{status.peer_id}" for address in status.listen_addresses],
        )
        return _answer(request, identity)

    @app.route("/v1/peers", methods=["GET"])
    def peers(self, request: IRequest) -> bytes:
        peers = sorted(self._view.peers(), key=lambda peer: (peer.name or "~", peer.peer_id))
        return _answer(request, {"peers": peers})

    @app.route("/v1/capabilities", methods=["GET"])
    def capabilities(self, request: IRequest) -> bytes:
        nodes = sorted(
            self._view.capabilities(),
            key=lambda node: (not node.is_self, node.name or "~", node.peer_id),
        )
        return _answer(request, {"nodes": nodes})

    @app.route("/v1/capabilities/<path:peer>", methods=["GET"])
    def capabilities_of(self, request: IRequest, peer: str) -> bytes:
        try:
            node = resolve(peer, self._view.capabilities())
        except NoSuchPeer as error:
            raise _Refusal(404, "no_such_peer", str(error)) from None
        except Ambiguous as error:
            raise _Refusal(409, "ambiguous_peer", str(error)) from None
        return _answer(request, node)

    @app.route("/v1/events", methods=["GET"])
    def events(self, request: IRequest) -> Deferred[None] | bytes:
        most = _argument(request, b"recent")
        if most is not None and not (most.isascii() and most.isdigit()):
            raise _Refusal(400, "bad_argument", f"recent={most} is not a whole number")
        follow = _argument(request, b"follow") in {"1", "true", "yes"}
        if follow and len(self._streams) >= MAX_FOLLOWERS:
            raise _Refusal(
                503, "too_many_followers", f"{MAX_FOLLOWERS} programs follow the events already"
            )
        if request.method == b"HEAD":
            # Nobody would read the lines, and a follower that never comes would hold a place.
            request.setHeader(b"content-type", b"application/x-ndjson")
            return b""
        recent = self._view.recent_events()
        if most is not None:
            recent = recent[max(0, len(recent) - int(most[:9])) :]
        if not isinstance(request, Request):
            raise TypeError(f"{request!r} cannot be written to as time goes by")
        stream = EventStream(request, self._wall_time, recent)
        unsubscribe = self._view.subscribe_events(stream.send) if follow else None
        self._streams.add(stream)

        def ended(_: object) -> None:
            stream.lost()
            self._streams.discard(stream)
            if unsubscribe is not None:
                unsubscribe()

        request.notifyFinish().addBoth(ended)
        request.setHeader(b"content-type", b"application/x-ndjson")
        stream.start(finish_when_empty=not follow)
        # Klein leaves a request alone whose Deferred has not fired; the stream finishes it.
        return Deferred()

    @app.route("/v1/config", methods=["GET"])
    def config(self, request: IRequest) -> bytes:
        return _answer(request, {"config": self._view.config_entries()})

    @app.route("/v1/doctor", methods=["GET"])
    async def doctor(self, request: IRequest) -> bytes:
        return _answer(request, {"findings": await self._view.doctor()})

    @app.handle_errors(_Refusal)
    def refused(self, request: IRequest, failure: Failure) -> bytes:
        refusal = failure.value
        assert isinstance(refusal, _Refusal)  # noqa: S101 - for mypy
        return _error(request, refusal.status, refusal.code, str(refusal))

    @app.handle_errors(HTTPException)
    def wrong_request(self, request: IRequest, failure: Failure) -> bytes:
        wrong = failure.value
        assert isinstance(wrong, HTTPException)  # noqa: S101 - for mypy
        name = str(wrong.name).lower()
        return _error(request, wrong.code or 500, name.replace(" ", "_"), name)

    @app.handle_errors(BzzzError)
    def node_error(self, request: IRequest, failure: Failure) -> bytes:
        return _error(request, 500, "node_error", str(failure.value))

    @app.handle_errors(Exception)
    def bug(self, request: IRequest, failure: Failure) -> bytes:
        self._log.failure("The control API failed at {uri}", failure, uri=request.uri)
        return _error(request, 500, "internal_error", "the node's log has what went wrong")


class _LocalRequest(Request):
    """A request over a UNIX socket, where there is no host to tell and a client may name none."""

    def getRequestHostname(self) -> bytes:
        return b"localhost"


class _NotText(Resource):
    """Answers a request whose path is no UTF-8, which Klein would log as a failure."""

    isLeaf = True

    def render(self, request: IRequest) -> bytes:
        return _error(request, 400, "bad_argument", "the path is not UTF-8")


class _QuietSite(Site):
    """HTTP without an access log, which ``bzzz peers --watch`` would fill."""

    requestFactory = _LocalRequest
    noisy = False
    displayTracebacks = False

    # Nothing of the base's: it keeps a timer that wakes an idle node each second, for the log.
    def startFactory(self) -> None:
        pass

    def stopFactory(self) -> None:
        pass

    def log(self, request: object) -> None:
        pass

    def getResourceFor(self, request: Request) -> IResource:
        try:
            b"/".join(request.postpath or ()).decode()
        except UnicodeDecodeError:
            return _NotText()
        found: IResource = super().getResourceFor(request)
        return found


class ControlServer(Service):
    """Answers on the control socket while it runs, and removes it in the end.

    It accepts by itself because Twisted's port for UNIX sockets opens the file to everybody at
    first, and never ends stopping where somebody has removed it, as a logout does.

    :param reactor: provides IReactorFDSet, IReactorSocket and IReactorTime.
    """

    _log = Logger()

    def __init__(self, reactor: Any, control: ControlSocket, api: ControlApi) -> None:
        self._reactor = reactor
        self._control = control
        self._api = api
        self._acceptor: _Acceptor | None = None
        self._looking = Periodic(
            reactor, LOOK_INTERVAL, self._look, "looking for the control socket", self._log
        )
        self._missed = False

    def startService(self) -> None:
        super().startService()
        self._control.listen()
        self._acceptor = _Acceptor(
            self._reactor, self._control.socket, self._api.site(self._reactor)
        )
        self._acceptor.start()
        self._looking.start()

    def stopService(self) -> None:
        super().stopService()
        self._looking.stop()
        self._api.close()
        if self._acceptor is not None:
            self._acceptor.stop()
            self._acceptor = None
        self._control.close()

    def _look(self) -> None:
        if self._missed or self._control.is_there:
            return
        self._missed = True
        # Not made again: under systemd the directory is not the node's to make.
        self._log.error(
            "The control socket {path} was removed: bzzz cannot ask this node any more. It runs on;"
            " restart it to be asked again",
            path=str(self._control.path),
        )


@implementer(IReadDescriptor)
class _Acceptor:
    """Takes connections from a listening socket and gives them to a factory."""

    _log = Logger()

    def __init__(self, reactor: Any, listening: socket.socket, factory: Site) -> None:
        self._reactor = reactor
        self._socket = listening
        self._factory = factory
        self._pause: IDelayedCall | None = None

    def start(self) -> None:
        self._pause = None
        self._reactor.addReader(self)

    def stop(self) -> None:
        self._reactor.removeReader(self)
        if self._pause is not None:
            self._pause.cancel()
            self._pause = None

    def doRead(self) -> None:
        try:
            connection, _ = self._socket.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return  # it left again
        except OSError as error:
            # Mostly no file descriptor left. The connection stays in the kernel's queue, and asking
            # for it again at once would keep the node busy with nothing else.
            self._log.error("The control socket cannot accept: {error}", error=error)
            self._reactor.removeReader(self)
            self._pause = self._reactor.callLater(ACCEPT_PAUSE, self.start)
            return
        with connection:
            # Twisted makes its own copy of the descriptor.
            connection.setblocking(False)
            self._reactor.adoptStreamConnection(connection.fileno(), socket.AF_UNIX, self._factory)

    def fileno(self) -> int:
        return self._socket.fileno()

    def connectionLost(self, reason: Failure) -> None:
        pass  # the reactor ends

    def logPrefix(self) -> str:
        return "control socket"
