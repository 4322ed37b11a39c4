"""The real network: TCP through Twisted's reactor."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred, execute
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP6ClientEndpoint
from twisted.internet.interfaces import IListeningPort, IProtocol, IProtocolFactory
from twisted.internet.tcp import Port
from zope.interface import implementer

from bzzz.net.interfaces import INetwork
from bzzz.net.turns import Turns

__all__ = ["TCPNetwork"]

# A whole mesh may dial a node in the moment it starts; the kernel's own cap (somaxconn) still
# holds.
LISTEN_BACKLOG = 512

# Connections taken in one turn of the reactor, if it has the time; else one.
ACCEPTS = 8


@implementer(INetwork)
class TCPNetwork:
    """TCP over IPv4 and IPv6.

    :param reactor: provides ``IReactorTCP``, ``IReactorFDSet`` and ``IReactorTime``.
    :param turns: shared with the links.
    """

    def __init__(self, reactor: Any, turns: Turns | None = None) -> None:
        self._reactor = reactor
        self._turns = turns or Turns(reactor)

    def listen(self, host: str, port: int, factory: IProtocolFactory) -> Deferred[IListeningPort]:
        """See :meth:`INetwork.listen`."""
        return execute(self._listen, host, port, factory)

    def connect(
        self,
        host: str,
        port: int,
        factory: IProtocolFactory,
        timeout: float,
        bind_host: str | None,
    ) -> Deferred[IProtocol]:
        """See :meth:`INetwork.connect`."""
        endpoint = TCP6ClientEndpoint if ":" in host else TCP4ClientEndpoint
        bind = None if bind_host is None else (bind_host, 0)
        return endpoint(self._reactor, host, port, timeout, bind).connect(factory)

    def _listen(self, host: str, port: int, factory: IProtocolFactory) -> IListeningPort:
        listening = _Port(port, factory, LISTEN_BACKLOG, host, self._reactor)
        listening.turns = self._turns
        listening.startListening()
        return listening


class _Port(Port):
    """A port whose newcomers leave the links their turn, in a reactor that does TCP by sockets."""

    turns: Turns

    @property
    def numberAccepts(self) -> int:
        """Twisted takes 100 at first, and more the more come: 40 ms."""
        return ACCEPTS if self.turns.has_time else 1

    @numberAccepts.setter
    def numberAccepts(self, _: int) -> None:
        """Twisted would adapt it."""

    def _logConnectionLostMsg(self) -> None:
        """The node says itself where it listens, and when it stops."""
