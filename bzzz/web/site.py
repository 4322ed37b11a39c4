"""HTTP on the control socket: one factory of connections for each peer that may ask.

A connection may carry one question after the other. One that waits for the next holds a descriptor
and nothing else: no place among the answers that are under way.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from twisted.internet.interfaces import IAddress
from twisted.internet.protocol import Factory, connectionDone
from twisted.python.failure import Failure
from twisted.web.http import HTTPChannel
from twisted.web.iweb import IRequest
from twisted.web.resource import IResource, Resource
from twisted.web.server import Request, Site

from bzzz.web.credentials import Credentials
from bzzz.web.requests import LocalRequest, Refusal, refuse

__all__ = ["ControlSite"]

# Seconds that a connection is kept open until its first request is there, or while one comes: a
# program that is busy may connect long before it asks.
IDLE_TIMEOUT = 60

# Seconds that it is kept open for the next one. Who does not ask at once for more may connect anew,
# and each that waits is a descriptor. Well above bzzz.client.idle.IDLE_SECONDS.
BETWEEN_QUESTIONS = 10


class _Channel(HTTPChannel):
    """A connection."""

    site: ControlSite

    def connectionMade(self) -> None:
        super().connectionMade()
        self.site.open.add(self)

    def requestDone(self, request: Request) -> None:
        super().requestDone(request)
        # The next one may have come already.
        if self.persistent and not self.requests:
            self.setTimeout(BETWEEN_QUESTIONS)

    def timeoutConnection(self) -> None:
        # The base's breaks off what has not been read 15 s later. Who reads an answer slowly gets
        # all of it, as they do where it is the last one. Nor is this worth a line in the log.
        self.loseConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.site.open.discard(self)
        super().connectionLost(reason)

    def end(self) -> None:
        """Close it, once what was asked is answered."""
        if self.requests:
            self.persistent = False
        else:
            self.loseConnection()


class ControlSite(Site):
    """HTTP without an access log, which ``bzzz peers --watch`` would fill.

    :ivar open: the connections.
    :param reactor: provides IReactorTime.
    """

    # Not the base's, which has a layer between for HTTP/2; its annotation is that layer's.
    protocol = _Channel  # type: ignore[assignment]
    noisy = False
    displayTracebacks = False

    def __init__(self, resource: IResource, reactor: Any) -> None:
        # Forms are nothing that this API takes, and a large one takes long to read.
        super().__init__(
            resource,
            LocalRequest,
            timeout=IDLE_TIMEOUT,
            reactor=reactor,
            parsePOSTFormSubmission=False,
        )
        self.open: set[_Channel] = set()

    # Nothing of the base's: it keeps a timer that wakes an idle node each second, for the log.
    def startFactory(self) -> None:
        pass

    def stopFactory(self) -> None:
        pass

    def log(self, request: object) -> None:
        pass

    def close(self) -> None:
        """The node stops: nothing more is asked on the connections that are open."""
        for channel in list(self.open):
            channel.end()

    def for_peer(self, credentials: Credentials) -> Factory:
        """Makes connections whose requests have these credentials."""
        return _PeerFactory(self, credentials)

    def getResourceFor(self, request: Request) -> IResource:
        if isinstance(request, LocalRequest) and request.refusal is not None:
            return _Refused(request.refusal)
        try:
            b"/".join(request.postpath or ()).decode()
        except UnicodeDecodeError:
            # Klein would log it as a failure.
            return _Refused(Refusal(400, "bad_argument", "the path is not UTF-8"))
        found: IResource = super().getResourceFor(request)
        return found


class _PeerFactory(Factory):
    noisy = False

    def __init__(self, site: ControlSite, credentials: Credentials) -> None:
        self._site = site
        self._credentials = credentials

    def buildProtocol(self, addr: IAddress | None) -> Any:
        channel = self._site.buildProtocol(addr)
        channel.requestFactory = partial(LocalRequest, credentials=self._credentials)
        return channel


class _Refused(Resource):
    """Answers whatever is asked with an error."""

    isLeaf = True

    def __init__(self, refusal: Refusal) -> None:
        super().__init__()
        self._refusal = refusal

    def render(self, request: IRequest) -> bytes:
        refusal = self._refusal
        return refuse(request, refusal.status, refusal.code, str(refusal))
