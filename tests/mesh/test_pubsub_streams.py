"""The stream from a peer: how much of it is taken at a time."""

from __future__ import annotations

from typing import Any

from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.trial.unittest import SynchronousTestCase

from bzzz.errors import RemoteProtocolError
from bzzz.mesh.pubsub_streams import TURN, Inbound
from bzzz.wire.framing import frame


class Owner:
    """Keeps what it gets."""

    max_rpc_size = 1000

    def __init__(self) -> None:
        self.turns: list[list[bytes]] = []
        self.offences: list[str] = []
        self.lost = 0

    def received(self, link: object, rpcs: list[bytes]) -> None:
        if b"wrong" in rpcs:
            raise RemoteProtocolError("that is wrong", "wrong")
        self.turns.append(rpcs)

    def offended(self, link: object, error: RemoteProtocolError) -> None:
        self.offences.append(error.code)

    def inbound_lost(self, link: object, inbound: object) -> None:
        self.lost += 1


class Link:
    def __init__(self, clock: Clock) -> None:
        self.clock = clock


class InboundTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.owner = Owner()
        owner: Any = self.owner
        link: Any = Link(self.clock)
        self.inbound = Inbound(owner, link)
        self.transport = StringTransport()
        self.inbound.makeConnection(self.transport)

    def send(self, *rpcs: bytes) -> None:
        self.inbound.dataReceived(b"".join(map(frame, rpcs)))

    def test_little(self) -> None:
        """What is little is taken at once."""
        self.send(b"one", b"two")
        self.assertEqual(self.owner.turns, [[b"one", b"two"]])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_much(self) -> None:
        """What is much is taken in turns, in order, and meanwhile nothing more is read."""
        rpcs = [b"%d" % number for number in range(2 * TURN + 1)]
        self.send(*rpcs)
        self.assertEqual(self.owner.turns, [rpcs[:TURN]])
        self.assertEqual(self.transport.producerState, "paused")
        self.clock.advance(0)
        self.assertEqual(self.transport.producerState, "producing")
        self.assertEqual(self.owner.turns, [rpcs[:TURN], rpcs[TURN : 2 * TURN], rpcs[-1:]])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_wrong_later(self) -> None:
        """An offence in a later turn is told, and what follows it is not taken."""
        self.send(*[b"x"] * TURN, b"wrong", *[b"y"] * TURN)
        self.clock.advance(0)
        self.assertEqual(self.owner.offences, ["wrong"])
        self.clock.advance(1)
        self.assertEqual(self.owner.turns, [[b"x"] * TURN])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_lost(self) -> None:
        """With the stream goes what has waited."""
        self.send(*[b"x"] * TURN, b"y")
        self.inbound.connectionLost()
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertEqual((len(self.owner.turns), self.owner.lost), (1, 1))
