"""Streams of rosters: which of two stays, when one is opened again, and who is asked when."""

from __future__ import annotations

import json
import random
from collections import deque
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from bzzz.errors import StreamReset
from bzzz.identity.keys import PrivateKey
from bzzz.identity.peer_id import PeerID
from bzzz.net.turns import Turns
from bzzz.trust.roster import Roster
from bzzz.trust.roster_exchange import PROTOCOL, TICK, TURN_TICKS, RosterExchange, encode_batch
from bzzz.trust.roster_streams import ASK_EVERY, REOPEN_AFTER, RosterStreams
from bzzz.trust.statements import Role, SignedStatement
from bzzz.wire.framing import frame

NOW = "2026-11-27T00:00:00Z"
KEYS = [PrivateKey.from_seed(bytes([number]) * 32) for number in range(1, 7)]


class End:
    """One end of a stream: its transport; and an address, for the factory."""

    pending_bytes = 0

    def __init__(self, link: Link) -> None:
        self.link = link
        self.other: End | None = None
        self.protocol: Any = None
        self.over = False

    def write(self, data: bytes) -> None:
        if not self.over:
            self.link.send(lambda: self._other().hear(data))

    def hear(self, data: bytes) -> None:
        if not self.over and self.protocol is not None:
            self.protocol.dataReceived(data)

    def pauseProducing(self) -> None:
        """What it hears it can hear at once."""

    resumeProducing = pauseProducing

    def abortConnection(self) -> None:
        self.link.send(lambda: self._other().lose())
        self.lose()

    def lose(self) -> None:
        if not self.over:
            self.over = True
            if self.protocol is not None:
                self.protocol.connectionLost(Failure(StreamReset("reset")))

    def connect(self, factory: Any) -> None:
        self.protocol = factory.buildProtocol(self)
        self.protocol.makeConnection(self)

    def _other(self) -> End:
        assert self.other is not None
        return self.other


class Link:
    """One end of a link; what goes over it comes in the order in which it was sent."""

    def __init__(self, here: Node, there: Node, is_initiator: bool) -> None:
        self.here, self.there = here, there
        self.is_initiator = is_initiator
        self.remote_peer = there.peer
        self.turns = here.turns
        self.sent: deque[Callable[[], object]] = deque()
        self.opened = 0
        self.gone = ""

    def send(self, what: Callable[[], object]) -> None:
        self.sent.append(what)

    def abort(self, reason: str) -> None:
        self.gone = reason

    def open_stream(self, protocols: list[str], factory: Any) -> Deferred[Any]:
        assert protocols == [PROTOCOL]
        self.opened += 1
        back = self.there.links[self.here.peer]
        mine, yours = End(self), End(back)
        mine.other, yours.other = yours, mine
        opened: Deferred[Any] = Deferred()

        def accepted() -> None:
            if not mine.over:
                mine.connect(factory)
                opened.callback(mine.protocol)

        def proposed() -> None:
            back.send(accepted)
            yours.connect(self.there.factory)

        self.send(proposed)
        return opened


class Node:
    """A member: its swarm and its cluster as far as streams see them, and its streams."""

    def __init__(self, number: int, roster: Roster, clock: Clock) -> None:
        self.key = KEYS[number]
        self.peer = self.key.peer_id
        self.turns = Turns(clock)
        self.links: dict[PeerID, Link] = {}
        self.factory: Any = None
        self.exchange: RosterExchange | None = RosterExchange(roster, random.Random(number))
        self.told: list[SignedStatement] = []
        node: Any = self
        self.streams = RosterStreams(node, node, clock, random.Random(number))
        self.streams.start()
        self.streams._cluster_changed()

    def handle(self, protocol: str, factory: Any) -> None:
        self.factory = factory

    def on_change(self, callback: Callable[[], object]) -> None:
        """Nobody's membership changes here."""

    def news(self, statements: list[SignedStatement]) -> None:
        self.told += statements

    @property
    def roster(self) -> Roster:
        assert self.exchange is not None
        return self.exchange.roster


class StreamsCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        roster = Roster.found(KEYS[0], "lab", "n0", bytes(16), NOW)
        for number, each in enumerate(KEYS[1:]):
            roster.add(roster.make_admit(KEYS[0], each.peer_id, f"n{number + 1}", Role.ADMIN, NOW))
        self.nodes = [Node(number, roster.copy(), self.clock) for number in range(len(KEYS))]

    def tearDown(self) -> None:
        for node in self.nodes:
            node.streams.stop()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def link(self, one: int, other: int, opens: bool = True) -> None:
        """The first dials the second; each learns of what the other one speaks."""
        here, there = self.nodes[one], self.nodes[other]
        here.links[there.peer] = Link(here, there, True)
        there.links[here.peer] = Link(there, here, False)
        said: Any = type("Said", (), {"protocols": [PROTOCOL] if opens else []})
        for node, peer in ((here, there.peer), (there, here.peer)):
            node.streams.identified(node.links[peer], said)  # type: ignore[arg-type]  # a stand-in

    def deliver(self) -> None:
        """All that is under way arrives, and what is answered to that."""
        while True:
            links = [link for node in self.nodes for link in node.links.values() if link.sent]
            if not links:
                return
            for link in links:
                link.sent.popleft()()

    def pass_time(self, seconds: float) -> None:
        for _ in range(round(8 * seconds)):
            self.clock.advance(0.125)
            self.deliver()

    def say(self, author: int, *others: int) -> SignedStatement:
        """Something new that these have, and nobody was told of."""
        node = self.nodes[author]
        count = len(node.roster)
        target = PrivateKey.from_seed(bytes([count]) * 32).peer_id
        statement = node.roster.make_admit(node.key, target, f"o{count}", Role.MEMBER, NOW)
        for each in (author, *others):
            self.nodes[each].roster.add(statement)
        return statement

    def talk(self, here: int, there: int) -> Any:
        """The end of the stream at ``here``."""
        return self.nodes[here].streams._streams[self.nodes[there].peer]


class OpeningTests(StreamsCase):
    """There is one stream on a link."""

    def test_one(self) -> None:
        """The side that dialled opens it."""
        self.link(0, 1)
        self.deliver()
        one, other = self.nodes[:2]
        self.assertEqual(one.streams.talking, (other.peer,))
        self.assertEqual(other.streams.talking, (one.peer,))
        self.assertEqual(other.links[one.peer].opened, 0)

    def test_both_open(self) -> None:
        """Where both sides open one at once, both keep the one of the side that dialled."""
        self.link(0, 1, opens=False)
        one, other = self.nodes[:2]
        for here, there in ((one, other), (other, one)):
            here.streams._open(here.links[there.peer], either=True)  # type: ignore[arg-type]  # a stand-in
        self.deliver()
        self.assertEqual(one.streams.talking, (other.peer,))
        self.assertEqual(other.streams.talking, (one.peer,))
        self.assertTrue(self.talk(0, 1)._of_initiator)
        self.assertIs(self.talk(0, 1).transport.other, self.talk(1, 0).transport)
        statement = self.say(0)
        self.nodes[0].exchange.announce([statement])  # type: ignore[union-attr]  # it is a member
        one.streams.flush()
        self.deliver()
        self.assertIn(statement.id, other.roster)

    def test_same_side(self) -> None:
        """Of two that one side opened the newer one stays."""
        self.link(0, 1)
        self.deliver()
        one, other = self.nodes[:2]
        before = self.talk(1, 0)
        factory = type(one.factory)(one.streams, opened=True)
        one.links[other.peer].open_stream([PROTOCOL], factory)
        self.deliver()
        self.assertIsNot(self.talk(1, 0), before)
        self.assertIs(self.talk(0, 1).transport.other, self.talk(1, 0).transport)

    def test_lost(self) -> None:
        """One that is lost on a link that lives is opened again, later each time that fails."""
        self.link(0, 1)
        self.deliver()
        one, other = self.nodes[:2]
        link = one.links[other.peer]
        self.talk(1, 0).abort()
        self.deliver()
        self.assertEqual((one.streams.talking, other.streams.talking), ((), ()))
        self.clock.advance(REOPEN_AFTER)
        self.deliver()
        self.assertEqual(one.streams.talking, (other.peer,))
        # The peer has no roster from here on.
        other.exchange, kept = None, other.exchange
        other.streams._cluster_changed()
        self.deliver()
        opened = []
        before = link.opened
        for second in range(int(ASK_EVERY) - 2):
            self.pass_time(1.0)
            if link.opened > before:
                opened.append(second + 1)
                before = link.opened
        self.assertEqual(opened, [2, 6, 14])
        other.exchange = kept
        other.streams._cluster_changed()
        self.deliver()
        self.assertEqual(one.streams.talking, (other.peer,))

    def test_refused(self) -> None:
        """A peer that has no roster, and so ends each at once, is asked again in a while."""
        self.nodes[1].exchange = None
        self.nodes[1].streams._cluster_changed()
        self.link(0, 1)
        self.deliver()
        link = self.nodes[0].links[self.nodes[1].peer]
        self.pass_time(ASK_EVERY - 1)
        self.assertEqual(link.opened, 1)
        self.pass_time(1 + 1)
        self.assertEqual(link.opened, 2)

    def test_link_down(self) -> None:
        """With the link ends what was to be opened on it."""
        self.link(0, 1)
        self.deliver()
        one, other = self.nodes[:2]
        link: Any = one.links[other.peer]
        self.talk(1, 0).abort()
        self.deliver()
        del one.links[other.peer]
        one.streams.link_down(link, "gone")
        self.assertEqual(one.streams._reopening, {})
        self.assertEqual(one.streams._delays, {})


class TalkingTests(StreamsCase):
    """The exchange hears of what comes, of time, and of who is gone."""

    def test_left(self) -> None:
        """What comes while the node leaves its cluster is not taken: its disk is being cleared."""
        self.link(0, 1)
        self.deliver()
        other = self.nodes[1]
        before = other.roster
        statement = self.say(0)
        other.exchange = None
        message = json.dumps({"statements": encode_batch([statement])}).encode()
        self.talk(1, 0).dataReceived(frame(message))
        self.assertEqual(other.told, [])
        self.assertNotIn(statement.id, before)

    def test_compared(self) -> None:
        """What was never told is found by comparing rosters now and then."""
        self.link(0, 1)
        self.deliver()
        statement = self.say(0)
        self.pass_time(ASK_EVERY - 1)
        self.assertNotIn(statement.id, self.nodes[1].roster)
        self.pass_time(1 + 1)
        self.assertIn(statement.id, self.nodes[1].roster)
        self.assertEqual(self.nodes[1].told, [statement])

    def silence(self, number: int) -> None:
        """Have a node say no more, though it hears what it is told."""
        exchange: Any = self.nodes[number].exchange
        exchange.receive = lambda peer, message: None

    def test_silent(self) -> None:
        """One that sends nothing of what it told of is asked for some seconds, then another."""
        statement = self.say(0, 1)
        self.link(0, 2)
        self.silence(0)
        self.deliver()
        self.link(1, 2)
        self.deliver()
        self.assertNotIn(statement.id, self.nodes[2].roster)
        self.pass_time(TURN_TICKS * TICK)
        self.assertIn(statement.id, self.nodes[2].roster)

    def test_gone(self) -> None:
        """When its stream is lost another one is asked at once."""
        statement = self.say(0, 1)
        self.link(0, 2)
        self.silence(0)
        self.deliver()
        self.link(1, 2)
        self.deliver()
        self.assertNotIn(statement.id, self.nodes[2].roster)
        self.talk(0, 2).abort()
        self.deliver()
        self.assertIn(statement.id, self.nodes[2].roster)

    def test_no_ticks(self) -> None:
        """No time is waited for where nothing is to be done."""
        self.link(0, 1)
        self.deliver()
        self.assertEqual(len(self.clock.getDelayedCalls()), len(self.nodes))
