"""A peer that sends thousands of small frames gets its share of the reactor's turns."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from typing import Any

from twisted.internet.error import ConnectionDone
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from bzzz.errors import RemoteProtocolError
from bzzz.identity.keys import PrivateKey
from bzzz.net.link import FRAMES, Link
from bzzz.net.protocols import LinkProtocols, Protocols
from bzzz.wire.connection import Connection
from bzzz.wire.multistream import Initiator
from bzzz.wire.yamux_frame import DATA, HEADER, PING, SYN
from tests.net.swarms import Wire

ECHO = "/echo/1.0.0"


class Echo(Protocol):
    def __init__(self, owner: Owner) -> None:
        self.owner = owner

    def connectionMade(self) -> None:
        self.owner.opened += 1
        self.owner.opening()

    def dataReceived(self, data: bytes) -> None:
        self.owner.heard.append(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.owner.ended += 1


class Owner(Factory):
    """What a swarm is to a link."""

    def __init__(self) -> None:
        self.opened = 0
        self.ended = 0
        self.heard: list[bytes] = []
        self.closed: list[str] = []
        self.may_wait = True
        self.opening: Callable[[], object] = lambda: None

    def link_ready(self, link: Link) -> None:
        pass

    def link_closing(self, link: Link) -> bool:
        return self.may_wait

    def link_closed(self, link: Link, reason: str) -> None:
        self.closed.append(reason)

    def buildProtocol(self, addr: Any) -> Protocol:
        return Echo(self)


class LinkCase(SynchronousTestCase):
    """One link, whose peer is a bare core."""

    def setUp(self) -> None:
        randomness = random.Random(7)
        self.clock = Clock()
        self.owner = Owner()
        self.wire = Wire()
        keys = [PrivateKey.generate(randomness.randbytes) for _ in range(2)]
        self.peer = Connection(
            True, keys[0], random_bytes=randomness.randbytes, protocols=lambda name: True
        )
        protocols = Protocols(self.clock)
        protocols.handle(ECHO, self.owner, guests=True, rate=None)
        spoken = LinkProtocols(protocols)
        spoken.is_guest = False
        core = Connection(
            False, keys[1], random_bytes=randomness.randbytes, protocols=spoken.speaks
        )
        self.link = Link(core, spoken, self.clock, self.owner, False)
        self.link.makeConnection(self.wire)
        self.peer.start()
        for _ in range(6):
            self.link.dataReceived(self.peer.data_to_send())
            self.peer.receive_data(self.answer())
        self.streams = itertools.count(1, 2)
        self.assertIsNotNone(self.link.ready_at)

    def answer(self) -> bytes:
        written, self.wire.written = b"".join(self.wire.written), []
        return written

    def send(self, *frames: bytes) -> None:
        """Have the peer's muxer say ``frames`` in one Noise message, read at once from TCP."""
        channel = self.peer._channel
        assert channel is not None
        output: list[Any] = []
        channel.seal([b"".join(frames)], output)
        self.link.dataReceived(b"".join(output))

    def opening(self, data: bytes = b"") -> bytes:
        proposal = Initiator([ECHO]).take_output() + data
        return HEADER.pack(DATA, SYN, next(self.streams), len(proposal)) + proposal


class TurnTests(LinkCase):
    def turn(self) -> None:
        """One turn of the reactor: Twisted's clock would make all that follow at once."""
        calls = [call for call in self.clock.getDelayedCalls() if call.getTime() <= 0]
        self.assertEqual(len(calls), 1)
        call: Callable[[], None] = calls[0].func  # type: ignore[attr-defined]
        calls[0].cancel()
        call()

    def test_few_frames_take_one_turn(self) -> None:
        """What honest peers send is acted on at once, and TCP is read on."""
        self.send(*(self.opening(b"hello") for _ in range(FRAMES)))
        self.assertEqual(self.owner.opened, FRAMES)
        self.assertEqual(self.owner.heard, [b"hello"] * FRAMES)
        self.assertTrue(self.wire.reading)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_many_frames_take_turns(self) -> None:
        """So many frames in one turn, and no more is read of TCP until all are acted on."""
        count = 2 * FRAMES + 5
        self.send(*(self.opening(b"%d" % each) for each in range(count)))
        self.assertEqual(self.owner.opened, FRAMES)
        self.assertFalse(self.wire.reading)
        self.turn()
        self.assertEqual(self.owner.opened, 2 * FRAMES)
        self.assertFalse(self.wire.reading)
        self.turn()
        self.assertEqual(self.owner.heard, [b"%d" % each for each in range(count)])
        self.assertTrue(self.wire.reading)

    def test_many_messages_take_turns(self) -> None:
        """Frames count, however few of them each Noise message has."""
        channel = self.peer._channel
        assert channel is not None
        output: list[Any] = []
        for _ in range(FRAMES + 1):
            channel.seal([self.opening()], output)
        self.link.dataReceived(b"".join(output))
        self.assertEqual(self.owner.opened, FRAMES)
        self.turn()
        self.assertEqual(self.owner.opened, FRAMES + 1)

    def test_data_meanwhile(self) -> None:
        """A transport that had read more before it was paused: its data comes after the rest."""
        self.send(*(self.opening(b"first") for _ in range(FRAMES + 1)))
        self.send(self.opening(b"last"))
        while not self.wire.reading:
            self.turn()
        self.assertEqual(self.owner.heard, [b"first"] * (FRAMES + 1) + [b"last"])

    def test_offence_later(self) -> None:
        """A frame that breaks the rules costs the link, in whichever turn it comes."""
        bad = HEADER.pack(9, 0, 0, 0)
        self.send(*(self.opening() for _ in range(FRAMES)), bad)
        self.assertFalse(self.wire.aborted)
        self.turn()
        self.assertTrue(self.wire.aborted)
        self.link.connectionLost()
        self.assertEqual(len(self.owner.closed), 1)
        self.assertEqual(self.owner.ended, FRAMES)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_lost_between(self) -> None:
        """TCP fails between two turns: nothing of the link remains to be called."""
        self.send(*(self.opening() for _ in range(FRAMES + 1)))
        self.link.connectionLost()
        self.turn()
        self.assertEqual(self.owner.ended, FRAMES)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_goodbye_between(self) -> None:
        """That the peer has said goodbye is known, though TCP was gone before the link's turn."""
        self.send(*(self.opening() for _ in range(FRAMES + 1)))
        self.peer.go_away()
        self.link.dataReceived(self.peer.data_to_send())
        self.link.connectionLost()
        self.assertEqual(self.owner.closed, ["the peer closed it"])
        self.assertEqual((self.owner.opened, self.owner.ended), (FRAMES, FRAMES))

    def test_offence_between(self) -> None:
        """An offence that nobody has seen yet counts no more when TCP is gone."""
        self.send(*(self.opening() for _ in range(FRAMES + 1)), HEADER.pack(9, 0, 0, 0))
        self.link.connectionLost(Failure(ConnectionDone()))
        self.assertEqual(self.owner.closed, ["connection closed"])

    def test_answers_each_turn(self) -> None:
        """What a turn's frames have this side answer is sent at its end, not piled up."""
        self.send(*(HEADER.pack(PING, SYN, 0, each) for each in range(FRAMES + 1)))
        self.assertNotEqual(self.answer(), b"")
        self.turn()
        self.assertNotEqual(self.answer(), b"")


class FramesTests(SynchronousTestCase):
    """The core's side of it."""

    def test_a_core_that_ended_holds_nothing(self) -> None:
        """After an offence there is nothing left to be read."""
        test = TurnTests("test_lost_between")
        test.setUp()
        core = test.link.connection
        channel = test.peer._channel
        assert channel is not None
        output: list[Any] = []
        channel.seal([HEADER.pack(9, 0, 0, 0) + bytes(1200)], output)
        with self.assertRaises(RemoteProtocolError):
            core.receive_data(b"".join(output), 10)
        self.assertFalse(core.has_unread)
