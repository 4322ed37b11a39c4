"""Dialling peers, each of which is said to be at several addresses.

Enters: addresses; links whose handshake is done, and which of them are kept. Leaves: to whoever
dialled, the first ready link, or what each address said.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, fail
from twisted.internet.error import ConnectError
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.protocol import Factory, Protocol
from twisted.python.failure import Failure

from bzzz.errors import BzzzError, DialError
from bzzz.identity.peer_id import PeerID
from bzzz.net.interfaces import Clock, INetwork
from bzzz.net.link import Link
from bzzz.net.swarm_limits import SwarmLimits
from bzzz.net.turns import Turns
from bzzz.wire.multiaddr import Multiaddr

__all__ = ["STAGGER", "STAGGER_HANDSHAKE", "Dialler", "dial_words"]

# Between starting one address and the next of the same peer, in seconds (RFC 8305, section 5), and
# the same once TCP is up: the peer is there, and is given the time of a slow handshake.
STAGGER = 0.25
STAGGER_HANDSHAKE = 3.0

# Tries one address; tells the second argument when TCP is up.
Attempt = Callable[[Multiaddr, Callable[[], None]], Deferred[Link]]


class Dialler:
    """The dials of one node.

    :param make: makes the link of a connection to an address, of whose peer this or any ID is
        accepted.
    :ivar under_way: who waits for each link that was dialled and is not ready.
    """

    def __init__(
        self,
        clock: Clock,
        turns: Turns,
        network: INetwork,
        limits: SwarmLimits,
        make: Callable[[Multiaddr, PeerID | None], Link],
    ) -> None:
        self.under_way: dict[Link, Deferred[Link]] = {}
        self._clock = clock
        self._turns = turns
        self._network = network
        self._limits = limits
        self._make = make

    def dial(
        self, addresses: Sequence[Multiaddr], expected: PeerID | None, guest_ok: bool
    ) -> Deferred[Link]:
        """See :meth:`bzzz.net.swarm.Swarm.dial`."""
        attempt = partial(self._attempt, expected, guest_ok)
        tried = addresses[: self._limits.addresses]
        return _Race(self._clock, self._turns, tried, attempt).result

    def succeeded(self, link: Link, kept: Link) -> None:
        """``link`` is ready: whoever dialled it gets the one that is kept, be it another."""
        waiting = self.under_way.pop(link, None)
        if waiting is not None and not waiting.called:
            kept.guest_ok = kept.guest_ok or link.guest_ok
            waiting.callback(kept)

    def failed(self, link: Link, reason: Failure | DialError) -> None:
        """Nothing comes of ``link``; of no account if it was not dialled, or was ready."""
        waiting = self.under_way.pop(link, None)
        if waiting is not None and not waiting.called:
            waiting.errback(reason)

    def _attempt(
        self,
        expected: PeerID | None,
        guest_ok: bool,
        address: Multiaddr,
        answers: Callable[[], None],
    ) -> Deferred[Link]:
        """Dial one address: TCP, then the handshake.

        :param answers: told when TCP is up.
        """
        where = address.host_port()
        if where is None or where[0] not in ("ip4", "ip6"):
            return fail(DialError("not an IP address and TCP port"))
        _, host, port = where
        link = self._make(address.without_peer(), expected or address.peer_id)
        link.guest_ok = guest_ok
        connecting = self._network.connect(
            host, port, _DialFactory(link, answers), self._limits.dial_timeout, None
        )

        def cancel(_: Deferred[Link]) -> None:
            connecting.cancel()
            # A link that is ready may be the one that is kept: it is the swarm's from then on.
            if link.transport is not None and link.ready_at is None:
                link.abort("the dial was abandoned")

        self.under_way[link] = ready = Deferred[Link](cancel)
        connecting.addErrback(lambda failure: self.failed(link, failure))
        return ready


class _DialFactory(Factory):
    """Makes the link of one outbound connection.

    :param answers: told when TCP is up.
    """

    noisy = False

    def __init__(self, link: Link, answers: Callable[[], None]) -> None:
        self._link = link
        self._answers = answers

    def buildProtocol(self, addr: Any) -> Protocol:
        """The link; TCP is up."""
        self._answers()
        return self._link


class _Race:
    """Several addresses of one peer, tried one after the other until one is a ready link.

    :ivar result: the link. Fails with :class:`DialError`, naming what each address said.
    """

    def __init__(
        self, clock: Clock, turns: Turns, addresses: Sequence[Multiaddr], attempt: Attempt
    ) -> None:
        self.result: Deferred[Link] = Deferred(lambda _: self._abandon())
        self._clock = clock
        self._attempt = attempt
        self._untried = list(addresses)
        self._attempts: dict[Multiaddr, Deferred[Link]] = {}
        self._failures: list[str] = []
        self._next: IDelayedCall | None = None
        self._over = False
        turns.when_there_is_time(self._try_next)

    def _try_next(self) -> None:
        self._set_next(None)
        if self._over:
            return
        if not self._untried:
            if not self._attempts:
                self._over = True
                said = "; ".join(self._failures) or "no address is known"
                self.result.errback(DialError(said))
            return
        address = self._untried.pop(0)
        if self._untried:
            self._set_next(STAGGER)
        attempt = self._attempt(address, self._answers)
        self._attempts[address] = attempt
        attempt.addCallbacks(
            self._ready, self._failed, callbackArgs=(address,), errbackArgs=(address,)
        )

    def _ready(self, link: Link, address: Multiaddr) -> None:
        self._attempts.pop(address, None)
        if self._over:
            return
        self._abandon()
        self.result.callback(link)

    def _failed(self, failure: Failure, address: Multiaddr) -> None:
        self._attempts.pop(address, None)
        if self._over:
            return
        self._failures.append(f"{address}: {dial_words(failure)}")
        self._try_next()

    def _answers(self) -> None:
        """The TCP of an attempt is up."""
        if self._untried and not self._over:
            self._set_next(STAGGER_HANDSHAKE)

    def _late(self) -> None:
        # When this node itself was held up, the answer may be there, unread: a turn to read it.
        self._next = self._clock.callLater(0, self._try_next)

    def _set_next(self, delay: float | None) -> None:
        if self._next is not None and self._next.active():
            self._next.cancel()
        self._next = None if delay is None else self._clock.callLater(delay, self._late)

    def _abandon(self) -> None:
        self._over = True
        self._set_next(None)
        for attempt in list(self._attempts.values()):
            attempt.cancel()


def dial_words(failure: Failure) -> str:
    """Why a dial failed, in few words."""
    error = failure.value
    if isinstance(error, BzzzError):
        return str(error)
    if isinstance(error, CancelledError):
        return "abandoned"
    if type(error) is ConnectError and error.osError:
        # Twisted has a class, and words, for the most frequent ones only.
        return os.strerror(error.osError).lower()
    if isinstance(error, ConnectError):
        first = (error.__doc__ or type(error).__name__).strip().splitlines()[0].rstrip(".")
        return first[0].lower() + first[1:]
    return f"{type(error).__name__}: {error}"
