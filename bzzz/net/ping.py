"""The libp2p ping protocol on links (libp2p specs, ping/ping.md): round-trip times, and proof of
life.

One stream per link and direction stays open and is used for ping after ping.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from bzzz.errors import BzzzError, StreamReset
from bzzz.net.link import Link
from bzzz.net.stream import Stream, StreamAddress
from bzzz.net.swarm import Swarm
from bzzz.net.token_bucket import Rate
from bzzz.wire.ping import LENGTH, PROTOCOL

__all__ = ["PingService"]

# Inbound ping streams per link that are answered: one is what the specification lets a peer hold,
# the second is for one that replaces its first.
MAX_INBOUND = 2

# How fast one peer may open ping streams: js-libp2p opens one for each ping, and a person who looks
# how long they take has one follow the other.
STREAMS = Rate(256, 32.0)


class PingService:
    """Answers pings and sends them."""

    def __init__(self, swarm: Swarm, random_bytes: Callable[[int], bytes]) -> None:
        self._clock = swarm.clock
        self._random_bytes = random_bytes
        self._pingers: dict[Link, _Pinger] = {}
        swarm.handle(PROTOCOL, _Answering(), guests=True, rate=STREAMS)

    def ping(self, link: Link) -> Deferred[float]:
        """Ping the peer; pings of one link are answered in order.

        :return: the round-trip time in seconds. Fails with :class:`StreamReset`,
            :class:`LinkClosed` or :class:`NegotiationError`; never by itself for lack of an answer.
        """
        pinger = self._pingers.get(link)
        if pinger is None:
            pinger = self._pingers[link] = _Pinger(self._clock.seconds, self._random_bytes)

            def gone() -> None:
                self._pingers.pop(link, None)

            pinger.gone = gone
            opened = link.open_stream([PROTOCOL], _Sending(pinger), optimistic=True)
            opened.addErrback(pinger.failed)
        return pinger.ping()


class _Sending(Factory):
    noisy = False

    def __init__(self, pinger: _Pinger) -> None:
        self._pinger = pinger

    def buildProtocol(self, addr: Any) -> Protocol:
        return self._pinger


class _Pinger(Protocol):
    """The asking end of one ping stream."""

    gone: Callable[[], None]

    def __init__(self, seconds: Callable[[], float], random_bytes: Callable[[int], bytes]) -> None:
        self._seconds = seconds
        self._random_bytes = random_bytes
        self._waiting: list[tuple[bytes, float, Deferred[float]]] = []
        self._unsent: list[bytes] = []
        self._buffer = b""

    def ping(self) -> Deferred[float]:
        answer: Deferred[float] = Deferred()
        payload = self._random_bytes(LENGTH)
        self._waiting.append((payload, self._seconds(), answer))
        if self.transport is None:
            self._unsent.append(payload)
        else:
            self.transport.write(payload)
        return answer

    def failed(self, reason: Failure) -> None:
        """The stream could not be opened or is gone."""
        self.gone()
        waiting, self._waiting = self._waiting, []
        for _, _, answer in waiting:
            answer.errback(reason)

    def connectionMade(self) -> None:
        unsent, self._unsent = self._unsent, []
        for payload in unsent:
            self.transport.write(payload)  # type: ignore[union-attr]  # just connected

    def dataReceived(self, data: bytes) -> None:
        self._buffer += data
        while len(self._buffer) >= LENGTH:
            payload, self._buffer = self._buffer[:LENGTH], self._buffer[LENGTH:]
            if not self._waiting or self._waiting[0][0] != payload:
                # An answer to nothing that was asked: this stream proves nothing any more.
                self.transport.abortConnection()  # type: ignore[union-attr]  # a Stream has it
                return
            _, sent, answer = self._waiting.pop(0)
            answer.callback(self._seconds() - sent)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if reason.check(BzzzError) is None:
            # In good order, but for one that still waits for an answer none comes any more.
            reason = Failure(StreamReset("the peer ended the stream without an answer"))
        self.failed(reason)


class _Answering(Factory):
    noisy = False

    def __init__(self) -> None:
        self._open: dict[Link, list[_Echo]] = {}

    def buildProtocol(self, addr: StreamAddress) -> Protocol | None:  # type: ignore[override]  # of a stream
        echoes = self._open.setdefault(addr.link, [])
        if len(echoes) >= MAX_INBOUND:
            return None
        echo = _Echo(addr.link, self._ended)
        echoes.append(echo)
        return echo

    def _ended(self, link: Link, echo: _Echo) -> None:
        echoes = self._open[link]
        echoes.remove(echo)
        if not echoes:
            del self._open[link]


@implementer(IHalfCloseableProtocol)
class _Echo(Protocol):
    """The answering end of one ping stream.

    It reads no more as long as its answers are not read, or a peer that only asks would fill this
    side's memory with them.
    """

    transport: Stream

    def __init__(self, link: Link, ended: Callable[[Link, _Echo], None]) -> None:
        self._link = link
        self._ended = ended
        self._buffer = b""

    def connectionMade(self) -> None:
        self.transport.registerProducer(self.transport, streaming=True)

    def dataReceived(self, data: bytes) -> None:
        # Whole payloads only, as the specification has it; the usual case is exactly one.
        if self._buffer:
            data = self._buffer + data
        whole = len(data) - len(data) % LENGTH
        self._buffer = data[whole:]
        if whole:
            self.transport.write(data[:whole])

    def readConnectionLost(self) -> None:
        """The peer asks no more."""
        self.transport.unregisterProducer()
        self.transport.loseConnection()

    def writeConnectionLost(self) -> None:
        """Everything is answered."""

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._ended(self._link, self)
