"""The service that accepts connections on the control socket and hands them to the control API.

Enters: connections. Leaves: those whose other end may ask (:mod:`bzzz.web.credentials`), to a
:class:`~bzzz.web.site.ControlSite`; a line in the log for the rest, which are closed.
"""

from __future__ import annotations

import os
import socket
from functools import partial
from typing import Any, Protocol

from twisted.application.service import Service
from twisted.internet.defer import Deferred, TimeoutError
from twisted.internet.interfaces import IDelayedCall, IReadDescriptor
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from bzzz.mesh.line_limit import LineLimit
from bzzz.net.background import in_background
from bzzz.net.periodic import Periodic
from bzzz.web.credentials import Access, Accounts, Credentials, peer_credentials
from bzzz.web.site import ControlSite
from bzzz.web.socket import ControlSocket

__all__ = ["Acceptor", "ControlServer"]

# Seconds between two looks at whether the socket can still be found.
LOOK_INTERVAL = 60.0

# Seconds without accepting after the system refused to.
ACCEPT_PAUSE = 1.0

# Questions to the database of groups at a time; it may hang, and the node has only ten threads for
# what may. Who would ask one more is refused.
MAX_LOOKUPS = 4

# Seconds that a connection waits for the answer, as the bzzz command does.
LOOKUP_SECONDS = 10.0

NO_ANSWER = "the system's database of groups does not answer"


class Api(Protocol):
    """What answers."""

    def site(self, reactor: Any) -> ControlSite:
        """A factory of HTTP connections."""

    def close(self) -> None:
        """The node stops."""


class ControlServer(Service):
    """Answers on the control socket while it runs, and removes it in the end.

    It accepts by itself because Twisted's port for UNIX sockets opens the file to everybody at
    first, and never ends stopping where somebody has removed it, as a logout does.

    :param reactor: provides IReactorFDSet, IReactorSocket, IReactorThreads and IReactorTime.
    """

    _log = Logger()

    def __init__(self, reactor: Any, control: ControlSocket, api: Api) -> None:
        self._reactor = reactor
        self._control = control
        self._api = api
        self._site: ControlSite | None = None
        self._acceptor: Acceptor | None = None
        self._looking = Periodic(
            reactor, LOOK_INTERVAL, self._look, "looking for the control socket", self._log
        )
        self._missed = False

    def startService(self) -> None:
        super().startService()
        self._control.listen()
        self._site = self._api.site(self._reactor)
        self._acceptor = Acceptor(
            self._reactor,
            self._control.socket,
            self._site,
            # Only here: twistd may have changed its user until now.
            Access(os.geteuid(), self._control.group),
            Accounts(partial(_in_thread, self._reactor)),
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
        if self._site is not None:
            self._site.close()
            self._site = None
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


def _in_thread(reactor: Any, work: Any) -> Deferred[Any]:
    return deferToThreadPool(reactor, reactor.getThreadPool(), work)


@implementer(IReadDescriptor)
class Acceptor:
    """Takes connections from a listening socket and gives those that may ask to a site."""

    _log = Logger()

    def __init__(
        self,
        reactor: Any,
        listening: socket.socket,
        site: ControlSite,
        access: Access,
        accounts: Accounts,
    ) -> None:
        self._reactor = reactor
        self._socket = listening
        self._site = site
        self._access = access
        self._accounts = accounts
        self._pause: IDelayedCall | None = None
        self._lookups = 0
        self._waiting: set[Deferred[None]] = set()
        self._lines = LineLimit(reactor)

    def start(self) -> None:
        """Accept from now on."""
        self._pause = None
        self._reactor.addReader(self)

    def stop(self) -> None:
        """Accept no more, and close what has not been judged."""
        self._reactor.removeReader(self)
        if self._pause is not None:
            self._pause.cancel()
            self._pause = None
        for waiting in list(self._waiting):
            waiting.cancel()

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
        connection.setblocking(False)
        self._judge(connection)

    def _judge(self, connection: socket.socket) -> None:
        try:
            credentials = peer_credentials(connection, self._accounts)
        except OSError as error:
            connection.close()
            self._log.error("The kernel does not tell who asks: {error}", error=error)
            return
        allowed = self._access.judge(credentials, connection)
        if allowed is not None:
            self._judged(connection, credentials, allowed)
        elif self._lookups >= MAX_LOOKUPS:
            self._refuse(connection, credentials, NO_ANSWER)
        else:
            waiting = in_background(
                self._wait(connection, credentials), "looking up a group", self._log
            )
            if not waiting.called:
                self._waiting.add(waiting)
                waiting.addBoth(lambda _: self._waiting.discard(waiting))

    async def _wait(self, connection: socket.socket, credentials: Credentials) -> None:
        try:
            allowed = await self._look_up(credentials).addTimeout(LOOKUP_SECONDS, self._reactor)
        except TimeoutError:
            self._refuse(connection, credentials, NO_ANSWER)
        except BaseException:
            connection.close()
            raise
        else:
            self._judged(connection, credentials, allowed)

    def _look_up(self, credentials: Credentials) -> Deferred[bool]:
        # Who waits no longer does not end the thread, which counts until it has its answer.
        self._lookups += 1
        waiting: Deferred[bool] = Deferred()

        def looked(result: Any) -> Any:
            self._lookups -= 1
            return result

        answer = self._access.look_up(credentials).addBoth(looked)
        answer.addCallbacks(waiting.callback, waiting.errback)
        return waiting

    def _judged(self, connection: socket.socket, credentials: Credentials, allowed: bool) -> None:
        if not allowed:
            self._refuse(connection, credentials, f"only {self._access} may ask")
            return
        with connection:
            # Twisted makes its own copy of the descriptor.
            self._reactor.adoptStreamConnection(
                connection.fileno(), socket.AF_UNIX, self._site.for_peer(credentials)
            )

    def _refuse(self, connection: socket.socket, credentials: Credentials, why: str) -> None:
        connection.close()
        # A user may ask as often as they like; that must not decide how fast the log grows.
        if self._lines.allows(credentials.uid):
            self._log.warn(
                "Refused a connection to the control socket, of uid {uid}, pid {pid}: {why}",
                uid=credentials.uid,
                pid=credentials.pid,
                why=why,
            )

    def fileno(self) -> int:
        return self._socket.fileno()

    def connectionLost(self, reason: Failure) -> None:
        pass  # the reactor ends

    def logPrefix(self) -> str:
        return "control socket"
