"""HTTP on the control socket: one factory of connections for each peer that may ask."""

from __future__ import annotations

from functools import partial
from typing import Any

from twisted.internet.interfaces import IAddress
from twisted.internet.protocol import Factory
from twisted.web.iweb import IRequest
from twisted.web.resource import IResource, Resource
from twisted.web.server import Request, Site

from bzzz.web.credentials import Credentials
from bzzz.web.requests import LocalRequest, Refusal, refuse

__all__ = ["ControlSite"]

# Seconds that a connection without a request is kept open.
IDLE_TIMEOUT = 60


class ControlSite(Site):
    """HTTP without an access log, which ``bzzz peers --watch`` would fill.

    :param reactor: provides IReactorTime.
    """

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

    # Nothing of the base's: it keeps a timer that wakes an idle node each second, for the log.
    def startFactory(self) -> None:
        pass

    def stopFactory(self) -> None:
        pass

    def log(self, request: object) -> None:
        pass

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
