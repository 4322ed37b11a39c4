"""The stream from a peer: how much of it is taken at a time."""

from __future__ import annotations

from typing import Any

from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.trial.unittest import SynchronousTestCase

from bzzz.errors import RemoteProtocolError
from bzzz.mesh.pubsub_streams import MESSAGES, SHORT, Inbound
from bzzz.net.turns import BUDGET, Turns
from bzzz.wire.framing import frame
from bzzz.wire.pb import rpc_pb2


class Owner:
    """Keeps what it gets, each of which costs a third of a turn's budget."""

    max_rpc_size = 100_000

    def __init__(self) -> None:
        self.rpcs: list[bytes] = []
        self.offences: list[str] = []
        self.lost = 0
        self.spent = 0.0

    def received(self, link: object, rpc: bytes) -> None:
        self.spent += BUDGET / 3
        if rpc == b"wrong":
            raise RemoteProtocolError("that is wrong", "wrong")
        self.rpcs.append(rpc)

    def offended(self, link: object, error: RemoteProtocolError) -> None:
        self.offences.append(error.code)

    def inbound_lost(self, link: object, inbound: object) -> None:
        self.lost += 1


class Link:
    def __init__(self, turns: Turns) -> None:
        self.turns = turns


class OneTurn(Clock):
    """Goes on by one turn, and not by those that are asked for in it."""

    def turn(self) -> None:
        calls, self.calls = self.calls, []
        for call in calls:
            call.called = 1
            call.func(*call.args, **call.kw)


class InboundTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = OneTurn()
        self.owner = Owner()
        owner: Any = self.owner
        link: Any = Link(Turns(self.clock, lambda: self.owner.spent))
        self.inbound = Inbound(owner, link)
        self.transport = StringTransport()
        self.inbound.makeConnection(self.transport)

    def send(self, *rpcs: bytes) -> None:
        self.inbound.dataReceived(b"".join(map(frame, rpcs)))

    def test_little(self) -> None:
        """What is little is taken at once, and reading goes on."""
        self.send(b"one", b"two")
        self.assertEqual(self.owner.rpcs, [b"one", b"two"])
        self.assertEqual(self.transport.producerState, "producing")

    def test_much(self) -> None:
        """What is much is taken in turns, in order, and meanwhile nothing more is read."""
        rpcs = [b"%d" % number for number in range(7)]
        self.send(*rpcs[:5])
        self.assertEqual(self.owner.rpcs, rpcs[:3])
        self.assertEqual(self.transport.producerState, "paused")
        # What was under way before the stream heard of the pause.
        self.send(*rpcs[5:])
        self.assertEqual(self.owner.rpcs, rpcs[:3])
        self.clock.turn()
        self.assertEqual(self.owner.rpcs, rpcs[:4])
        self.assertEqual(self.transport.producerState, "paused")
        self.clock.turn()
        self.assertEqual(self.owner.rpcs, rpcs)
        self.clock.turn()
        self.assertEqual(self.transport.producerState, "producing")

    def test_many_messages(self) -> None:
        """Time is looked at between the messages of a long RPC, too; nothing of it is lost."""
        sent = rpc_pb2.RPC()
        sent.subscriptions.add(subscribe=True, topicid="topic")
        for number in range(4 * MESSAGES + 1):
            sent.publish.add(data=b"%d" % number, topic="topic" * 30)
        sent.control.graft.add(topicID="topic")
        encoded = sent.SerializeToString()
        self.assertGreater(len(encoded), SHORT)
        self.send(encoded)
        taken = len(self.owner.rpcs)
        self.assertEqual(taken, 3)
        for _ in range(3):
            self.clock.turn()
        parts = [rpc_pb2.RPC.FromString(rpc) for rpc in self.owner.rpcs]
        self.assertEqual(max(len(part.publish) for part in parts), MESSAGES)
        self.assertEqual(len(parts), 1 + 5 + 1)
        whole = rpc_pb2.RPC()
        for part in parts:
            whole.MergeFrom(part)
        self.assertEqual(whole, sent)

    def test_long_garbage(self) -> None:
        """What cannot be decoded is handed on as it is, for the core to refuse."""
        garbage = b"\xff" * (SHORT + 1)
        self.send(garbage)
        self.assertEqual(self.owner.rpcs, [garbage])

    def test_wrong_later(self) -> None:
        """An offence in a later turn is told, and what follows it is not taken."""
        self.send(b"x", b"x", b"x", b"wrong", b"y")
        self.assertEqual(self.owner.offences, [])
        self.clock.turn()
        self.clock.turn()
        self.assertEqual(self.owner.offences, ["wrong"])
        self.assertEqual(self.owner.rpcs, [b"x"] * 3)

    def test_lost(self) -> None:
        """With the stream goes what has waited."""
        self.send(b"x", b"x", b"x", b"y")
        self.inbound.connectionLost()
        self.clock.turn()
        self.clock.turn()
        self.assertEqual((len(self.owner.rpcs), self.owner.lost), (3, 1))
        self.assertEqual(self.clock.getDelayedCalls(), [])
