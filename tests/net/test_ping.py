"""The ping protocol on a link that is not there."""

from __future__ import annotations

import gc
import weakref
from types import SimpleNamespace
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.protocol import Protocol
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from bzzz.errors import StreamReset
from bzzz.net.ping import PingService
from bzzz.wire.ping import LENGTH


class Transport(StringTransport):
    """A stream."""

    aborted = False

    def abortConnection(self) -> None:
        self.aborted = True


class Link:
    """Opens streams that the test answers on."""

    def __init__(self) -> None:
        self.pingers: list[Protocol] = []

    def open_stream(self, protocols: object, factory: Any, optimistic: bool) -> Deferred[Any]:
        pinger = factory.buildProtocol(None)
        pinger.makeConnection(Transport())
        self.pingers.append(pinger)
        return Deferred()


class PingTests(SynchronousTestCase):
    """The asking side."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.link: Any = Link()
        swarm: Any = self
        self.pings = PingService(swarm, lambda size: b"p" * size)

    def handle(self, protocol_id: str, factory: Any, guests: bool, rate: object) -> None:
        self.answering = factory

    def test_answered(self) -> None:
        """The round trip is measured, also of an answer that comes in pieces."""
        answer = self.pings.ping(self.link)
        (pinger,) = self.link.pingers
        self.assertEqual(pinger.transport.value(), b"p" * LENGTH)
        self.clock.advance(0.25)
        for _ in range(LENGTH):
            self.assertNoResult(answer)
            pinger.dataReceived(b"p")
        self.assertEqual(self.successResultOf(answer), 0.25)

    def test_ended(self) -> None:
        """A peer that ends the stream in good order, but does not answer, has not answered."""
        answer = self.pings.ping(self.link)
        self.link.pingers[0].connectionLost(Failure(ConnectionDone()))
        self.failureResultOf(answer, StreamReset)
        self.pings.ping(self.link)
        self.assertEqual(len(self.link.pingers), 2)

    def test_wrong_answer(self) -> None:
        """What was not asked for is no answer: the stream is given up."""
        answer = self.pings.ping(self.link)
        (pinger,) = self.link.pingers
        pinger.dataReceived(b"q" * LENGTH)
        self.assertTrue(pinger.transport.aborted)
        self.assertNoResult(answer)
        pinger.connectionLost(Failure(StreamReset("reset by this side")))
        self.failureResultOf(answer, StreamReset)

    def test_nothing_is_left(self) -> None:
        """An end that answered is gone with its stream, without the garbage collector."""
        gc.disable()
        self.addCleanup(gc.enable)
        address: Any = SimpleNamespace(link=self.link)
        echo = self.answering.buildProtocol(address)
        echo.makeConnection(Transport())
        echo.dataReceived(b"p" * LENGTH)
        self.assertEqual(echo.transport.value(), b"p" * LENGTH)
        echo.connectionLost()
        left = weakref.ref(echo)
        del echo
        self.assertIsNone(left())
