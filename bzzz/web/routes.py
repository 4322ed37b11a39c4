"""The table of routes: what every route has in common, so that none can forget it.

Enters: paths, and the functions that do the work. Leaves: answers, as JSON or as lines of it, and
errors. Whatever changes something (:meth:`RouteTable.post`, :meth:`~RouteTable.delete`,
:meth:`~RouteTable.stream`) is told who asks, and is not called for anybody whom nobody has checked.
"""

from __future__ import annotations

from collections.abc import Callable
from inspect import isawaitable
from typing import Any, Protocol

from klein import Klein
from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.iweb import IRequest
from twisted.web.server import Request
from werkzeug.exceptions import HTTPException

from bzzz.errors import BzzzError
from bzzz.web.credentials import Credentials
from bzzz.web.requests import (
    Body,
    Refusal,
    answer,
    credentials_of,
    read_body,
    read_bytes,
    refuse,
)
from bzzz.web.stream import LineStream, Streams

__all__ = ["OnRequest", "RouteTable", "Routes", "RoutesWhen"]

# Streams at one time, followers of the events among them. Each may have a megabyte waiting. Whoever
# runs tasks by a script waits for many of them.
MAX_STREAMS = 128

Work = Callable[..., Any]

# Who asks, and the method and path of the route, as the table has it: ``DELETE /v1/nuts/<name>``.
OnRequest = Callable[[Credentials, str], object]


class Routes(Protocol):
    """Some routes of the control API, and what they need."""

    def add_to(self, table: RouteTable) -> None:
        """Put the routes into the table."""


class RoutesWhen:
    """Routes that are answered from when what they are about is ready; until then it is said that
    the node is starting.

    :param routes: they.
    :param ready: whether it is.
    """

    def __init__(self, routes: Routes, ready: Callable[[], bool]) -> None:
        self._routes = routes
        self._ready = ready

    def add_to(self, table: RouteTable) -> None:
        """Put them into the table."""
        before = table.ready
        table.ready = lambda: before() and self._ready()
        self._routes.add_to(table)
        table.ready = before


class RouteTable:
    """Adds routes to a Klein application.

    A path may have parts ``<name>``, or ``<path:name>`` with slashes; they are keyword arguments of
    the work. What the work returns, or a Deferred or coroutine of it gives, is answered as JSON;
    None as ``{}``, bytes as they are. It may raise :class:`~bzzz.web.requests.Refusal` and
    BzzzError, whose messages are answered.

    :param streams: those that are open.
    :param on_request: called before each request that changes something, whatever comes of it. It
        gets neither the body, which may be a secret, nor what stands for the parts of the path.
    """

    _log = Logger()

    def __init__(
        self, app: Klein, streams: Streams, on_request: OnRequest = lambda by, request: None
    ) -> None:
        self._app = app
        self._streams = streams
        self._on_request = on_request
        #: Whether routes that are entered from now on are answered; else it is said that they will.
        self.ready: Callable[[], bool] = lambda: True
        app.handle_errors(Refusal, HTTPException, BzzzError, Exception)(self._error)

    def get(self, path: str, work: Work) -> None:
        """``work(request)`` answers ``GET``; with a :class:`LineStream`, by what is sent on it."""

        async def render(request: IRequest, **parts: str) -> bytes:
            result = await _result(work(request, **parts))
            if isinstance(result, LineStream):
                self._streams.start(result)
                await _never()
            return answer(request, result)

        self._add("GET", path, render)

    def post(self, path: str, work: Work, body: type[Body | bytes] | None = None) -> None:
        """``work(by, body)`` answers ``POST``, ``work(by)`` where it takes no body.

        With ``bytes`` the body is no JSON.

        ``by`` are the :class:`~bzzz.web.credentials.Credentials` of who asks. The work goes on when
        the client hangs up.
        """

        async def render(request: IRequest, **parts: str) -> bytes:
            given = self._given(request, f"POST {path}", body)
            return answer(request, await self._whole(path, _result(work(*given, **parts))))

        self._add("POST", path, render)

    def delete(self, path: str, work: Work) -> None:
        """``work(by)`` answers ``DELETE``, likewise."""

        async def render(request: IRequest, **parts: str) -> bytes:
            given = self._given(request, f"DELETE {path}", None)
            return answer(request, await self._whole(path, _result(work(*given, **parts))))

        self._add("DELETE", path, render)

    def stream(self, path: str, work: Work, body: type[Body] | None = None) -> None:
        """``work(lines, by, body)`` answers ``POST`` by lines, ``work(lines, by)`` without a body.

        It is a coroutine function. ``lines`` is a :class:`LineStream`; the answer ends with the
        work. When the client hangs up, what the work awaits is cancelled. An error before the first
        ``await`` is answered as any other, a later one by the last line:
        ``{"error": {"code", "message"}}``.
        """

        def render(request: IRequest, **parts: str) -> Deferred[bytes]:
            given = self._given(request, f"POST {path}", body)
            if len(self._streams) >= MAX_STREAMS:
                raise Refusal(
                    503, "too_many_streams", f"{MAX_STREAMS} programs wait for answers already"
                )
            lines = LineStream(_writable(request))
            result = Deferred.fromCoroutine(work(lines, *given, **parts))
            if result.called and isinstance(result.result, Failure):
                return result
            lines.on_end(result.cancel)
            self._streams.start(lines)
            result.addCallbacks(lambda _: lines.end(), self._failed, errbackArgs=(lines, path))
            return _never()

        self._add("POST", path, render)

    # -- inside

    def _given(
        self, request: IRequest, what: str, body: type[Body | bytes] | None
    ) -> tuple[Any, ...]:
        """What the work is given of a request that changes something."""
        by = credentials_of(request)
        self._on_request(by, what)
        if body is None:
            return (by,)
        if issubclass(body, Body):
            return (by, read_body(request, body))
        return (by, read_bytes(request))

    def _add(self, method: str, path: str, render: Callable[..., Any]) -> None:
        ready = self.ready

        def render_if_ready(request: IRequest, **parts: str) -> Any:
            if not ready():
                raise Refusal(503, "starting", "the node is starting: try again in a moment")
            return render(request, **parts)

        # The endpoint would be the function's name, of which there is one each.
        route = self._app.route(path, methods=[method], endpoint=f"{method} {path}")
        route(render_if_ready)

    def _whole(self, path: str, work: Deferred[Any]) -> Deferred[Any]:
        """What comes of the work. Who hangs up cancels the waiting, and not the work."""
        waiting: Deferred[Any] = Deferred()

        def failed(failure: Failure) -> None:
            if waiting.called:
                # Nobody is there to be told.
                _, _, said = self._words(failure, path)
                self._log.warn("{path} has failed: {said}", path=path, said=said)
            waiting.errback(failure)

        work.addCallbacks(waiting.callback, failed)
        return waiting

    def _failed(self, failure: Failure, lines: LineStream, path: str) -> None:
        if failure.check(CancelledError) and lines.ended:
            return
        _, code, message = self._words(failure, path)
        lines.fail(code, message)

    def _error(self, request: IRequest, failure: Failure) -> bytes:
        return refuse(request, *self._words(failure, request.uri))

    def _words(self, failure: Failure, where: object) -> tuple[int, str, str]:
        """The status, code and message of an error. What no code expected is for the log."""
        error = failure.value
        if isinstance(error, Refusal):
            return error.status, error.code, str(error)
        if isinstance(error, HTTPException):
            name = str(error.name).lower()
            return error.code or 500, name.replace(" ", "_"), name
        if isinstance(error, BzzzError):
            return 500, "node_error", str(error)
        self._log.failure("The control API failed at {path}", failure, path=where)
        return 500, "internal_error", "the node's log has what went wrong"


def _result(work: Any) -> Deferred[Any]:
    """What comes of it, whether it is there or not."""

    async def wait() -> Any:
        result = await work if isawaitable(work) else work
        return {} if result is None else result

    return Deferred.fromCoroutine(wait())


def _never() -> Deferred[Any]:
    """Klein leaves a request alone whose Deferred has not fired; the stream finishes it."""
    return Deferred()


def _writable(request: IRequest) -> Request:
    if not isinstance(request, Request):
        raise TypeError(f"{request!r} cannot be written to as time goes by")
    return request
