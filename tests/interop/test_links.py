"""Links on real sockets of the loopback interface: what the kernel makes of what they do."""

from __future__ import annotations

import socket
import time
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory
from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase

from bzzz.net.link import CLOSE_TIMEOUT
from tests.interop.bzzz_peer import BzzzPeer

# Seconds in which the reactor gets to all that is due.
A_MOMENT = 0.05


async def pause(seconds: float) -> None:
    await deferLater(reactor, seconds)


class LinkCase(TestCase):
    """Two swarms."""

    async def begin(self) -> Any:
        """Link them; the second one's TCP."""
        self.first, self.second = BzzzPeer(reactor), BzzzPeer(reactor)
        for peer in (self.first, self.second):
            self.addCleanup(self.stop, peer)
        address = await self.first.start()
        self.link = await self.second.swarm.dial([address], self.first.swarm.peer_id)
        await self.second.until(lambda: self.first.swarm.peer_id in self.second.identities)
        await pause(A_MOMENT)
        return self.link.transport

    def stop(self, peer: BzzzPeer) -> Deferred[None]:
        return Deferred.fromCoroutine(peer.stop())

    async def heard(self) -> str:
        """Why the link is gone, as the second one knows it."""
        ((peer, reason),) = await self.second.until(lambda: self.second.downs)
        self.assertEqual(peer, self.first.swarm.peer_id)
        return str(reason)


class ClosingTests(LinkCase):
    """The first one stops."""

    async def test_peer_that_sends(self) -> None:
        """The goodbye is heard by a peer that is busy, and sends before it reads."""
        transport = await self.begin()
        transport.pauseProducing()
        stopped = self.stop(self.first)
        for _ in range(3):
            await pause(A_MOMENT)
            transport.write(b"nobody reads it")
        self.assertEqual(self.second.downs, [])
        transport.resumeProducing()
        self.assertEqual(await self.heard(), "the peer closed it")
        await stopped

    async def test_peer_that_hangs(self) -> None:
        """It is cut."""
        transport = await self.begin()
        transport.pauseProducing()
        begin = time.monotonic()
        await self.stop(self.first)
        took = time.monotonic() - begin
        self.assertTrue(CLOSE_TIMEOUT - 0.1 < took < CLOSE_TIMEOUT + 1, took)
        transport.resumeProducing()
        await self.heard()

    async def test_peer_that_lives(self) -> None:
        """Nobody waits for longer than it needs to read the goodbye."""
        await self.begin()
        begin = time.monotonic()
        await self.stop(self.first)
        self.assertLess(time.monotonic() - begin, CLOSE_TIMEOUT / 2)
        self.assertEqual(await self.heard(), "the peer closed it")

    async def test_both_at_once(self) -> None:
        """Neither waits for the other."""
        await self.begin()
        begin = time.monotonic()
        both = self.stop(self.first), self.stop(self.second)
        for each in both:
            await each
        self.assertLess(time.monotonic() - begin, CLOSE_TIMEOUT / 2)
        self.assertEqual(await self.heard(), "this node is stopping")


class SendingTests(LinkCase):
    """The second one says something."""

    async def test_at_once(self) -> None:
        """It is with the other's kernel when the call returns."""
        transport = await self.begin()
        (link,) = self.first.swarm.links.values()
        other: Any = link.transport
        handle: socket.socket = other.getHandle()
        self.assertRaises(BlockingIOError, handle.recv, 1, socket.MSG_PEEK)
        self.link.open_stream(["/nothing"], Factory()).addErrback(lambda _: None)
        self.assertEqual(len(handle.recv(1, socket.MSG_PEEK)), 1)
        self.assertNotIn(transport, reactor.getWriters())

    async def test_reset(self) -> None:
        """A peer that resets the connection while this side says something is lost as such."""
        transport = await self.begin()
        (link,) = self.first.swarm.links.values()
        link.abort("a test")
        for _ in range(2):
            transport.pauseProducing()
            await pause(A_MOMENT)
            self.link.open_stream(["/nothing"], Factory()).addErrback(lambda _: None)
        transport.resumeProducing()
        self.assertEqual(await self.heard(), "connection lost")
