"""The client on Twisted."""

from __future__ import annotations

from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.task import Clock, deferLater
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from bzzz.client.tx import Client, OutputParts, _Connection
from tests.client import contract
from tests.client.contract import Scenario
from tests.client.fake_node import ID, chunks, line, output, stay, task, whole


class TwistedTests(contract.ContractCase):
    """The contract, and cancellation."""

    def play(self, scenario: Scenario) -> Deferred[None]:
        played: Any = scenario(Client(reactor, self.runtime_dir))
        return Deferred.fromCoroutine(played)

    async def pause(self, seconds: float) -> None:
        clock: Any = reactor
        await deferLater(clock, seconds)

    async def close(self, parts: OutputParts) -> None:
        parts.close()

    def test_cancelled(self) -> Deferred[None]:
        """A cancelled run hangs up, as does one that is cancelled while it connects."""
        begun = [chunks(line(event="id", task=ID), end=False)]
        node = self.node([*begun, stay])

        async def scenario(client: Any) -> None:
            running = client.run(["make"])
            while not node.asked:
                await self.pause(0.01)
            await self.pause(0.05)
            running.cancel()
            await self.fails(CancelledError, running)
            await self.hung_up(node)
            connecting = client.status()
            connecting.cancel()
            await self.fails(CancelledError, connecting)

        return self.play(scenario)

    def test_part_by_part(self) -> Deferred[None]:
        """Output can be taken without a coroutine; after the end there is no more."""
        lines = chunks(output("stdout", b"1"), line(event="ended", task=task()))
        self.node([whole(task())], [lines])

        async def scenario(client: Any) -> None:
            parts = (await client.task(ID)).output()
            self.assertEqual([await parts.next() for _ in range(3)], [("stdout", b"1"), None, None])

        return self.play(scenario)


class Handle:
    """A socket; nothing comes, or these bytes."""

    found: bytes | None = None
    closed = False

    def recv(self, size: int, flags: int) -> bytes:
        if self.found is None:
            raise BlockingIOError
        return self.found

    def close(self) -> None:
        self.closed = True


class Transport(StringTransport):
    """With a socket."""

    def __init__(self) -> None:
        super().__init__()
        self.handle = Handle()

    def getHandle(self) -> Handle:
        return self.handle


class ConnectionTests(SynchronousTestCase):
    """A connection, in memory."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.transport = Transport()
        self.connection = _Connection(self.clock)
        self.connection.makeConnection(self.transport)

    def receive(self, timeout: float | None = None) -> Deferred[bytes]:
        return Deferred.fromCoroutine(self.connection.receive(timeout))

    def test_paused(self) -> None:
        """It reads only while somebody waits."""
        self.assertEqual(self.transport.producerState, "paused")
        received = self.receive()
        self.assertEqual(self.transport.producerState, "producing")
        self.connection.dataReceived(b"a")
        self.assertEqual(self.successResultOf(received), b"a")
        self.assertEqual(self.transport.producerState, "paused")

    def test_ended(self) -> None:
        """What came before the end is received before it; the end stays the end."""
        self.connection.dataReceived(b"a")
        self.connection.connectionLost(Failure(ConnectionDone()))
        self.assertEqual(self.successResultOf(self.receive()), b"a")
        self.assertEqual(self.successResultOf(self.receive()), b"")
        self.assertEqual(self.successResultOf(self.receive()), b"")

    def test_lost(self) -> None:
        """A connection that is lost is no end."""
        received = self.receive()
        self.connection.connectionLost(Failure(ConnectionLost()))
        self.failureResultOf(received, ConnectionResetError)

    def test_timed_out(self) -> None:
        """Nothing for so long is told; what comes later is there for the next."""
        received = self.receive(2.0)
        self.clock.advance(1.9)
        self.assertNoResult(received)
        self.clock.advance(0.2)
        self.failureResultOf(received, TimeoutError)
        self.connection.dataReceived(b"a")
        self.assertEqual(self.successResultOf(self.receive()), b"a")
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_between_questions(self) -> None:
        """The reactor is not told to read, and the socket is looked at and closed past it."""
        handle = self.transport.handle
        received = self.receive()
        self.connection.dataReceived(b"a")
        self.assertEqual(self.successResultOf(received), b"a")
        self.assertEqual(self.transport.producerState, "paused")
        self.assertTrue(self.connection.silent())
        self.connection.drop()
        self.assertTrue(handle.closed)
        self.assertFalse(self.transport.disconnected or self.transport.disconnecting)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_not_silent(self) -> None:
        """Bytes that were not asked for, and an end, are seen whether they were read or not."""
        handle = self.transport.handle
        handle.found = b"a"
        self.assertFalse(self.connection.silent())
        handle.found = None
        self.connection.dataReceived(b"a")
        self.assertFalse(self.connection.silent())
        self.successResultOf(self.receive())
        self.assertTrue(self.connection.silent())
        self.connection.connectionLost(Failure(ConnectionDone()))
        self.assertFalse(self.connection.silent())
        self.connection.drop()
        self.assertFalse(handle.closed)

    def test_closed(self) -> None:
        """It is closed at once, and once it was lost there is nothing to close."""
        self.connection.close()
        self.assertTrue(self.transport.disconnected or self.transport.disconnecting)
        self.connection.connectionLost(Failure(ConnectionDone()))
        self.connection.close()
