"""The seams between the mesh and the world: clock, network, randomness.

Everything above takes these as arguments, so that the whole daemon runs in the simulator.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IListeningPort, IProtocol, IProtocolFactory
from zope.interface import Interface

__all__ = ["Clock", "INetwork", "Randomness"]


class Clock(Protocol):
    """What is used of a reactor's time (:class:`twisted.internet.interfaces.IReactorTime`)."""

    def seconds(self) -> float:
        """Monotonic seconds, from an arbitrary start."""

    def callLater(
        self, delay: float, callable: Callable[..., Any], *args: object, **kwargs: object
    ) -> IDelayedCall:
        """Call ``callable`` after ``delay`` seconds."""


class Randomness(Protocol):
    """What is used of :class:`random.Random`; the simulator passes a seeded one."""

    def random(self) -> float:
        """A float in [0, 1)."""

    def uniform(self, a: float, b: float) -> float:
        """A float between ``a`` and ``b``."""

    def randbytes(self, n: int) -> bytes:
        """``n`` random bytes."""


class INetwork(Interface):
    """Reliable byte streams between hosts: TCP, or the simulator's memory."""

    def listen(host: str, port: int, factory: IProtocolFactory) -> Deferred[IListeningPort]:
        """Listen on the IP literal ``host`` (``fe80::1%eth0`` for a scoped one) and ``port``.

        Fails with :class:`twisted.internet.error.CannotListenError`.
        """

    def connect(
        host: str, port: int, factory: IProtocolFactory, timeout: float, bind_host: str | None
    ) -> Deferred[IProtocol]:
        """Connect to the IP literal ``host``, from ``bind_host`` if given, within ``timeout``
        seconds.

        Cancelling the Deferred abandons the attempt. Fails with
        :class:`twisted.internet.error.ConnectError`.
        """
