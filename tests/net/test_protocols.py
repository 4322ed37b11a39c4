"""How fast a peer may open streams, and what it gets when it opens more."""

from __future__ import annotations

from typing import Any

from twisted.internet.protocol import Factory
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from bzzz.errors import LimitExceeded
from bzzz.identity.keys import PrivateKey
from bzzz.net import identify, ping
from bzzz.net.protocols import GUEST_PROPOSALS, MAX_COUNTED, STRIKES, LinkProtocols, Protocols
from bzzz.net.token_bucket import Rate
from bzzz.wire.connection import StreamNegotiated, StreamWasReset
from tests.net.swarms import Echo, RawCase

PEER = PrivateKey.from_seed(b"p" * 32).peer_id
OTHER = PrivateKey.from_seed(b"o" * 32).peer_id


class LinkProtocolsTests(SynchronousTestCase):
    """What is answered on one link."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.node = Protocols(self.clock)
        self.factory: Any = Factory()
        self.node.handle("/open", self.factory, guests=True, rate=None)
        self.node.handle("/closed", self.factory, guests=False, rate=Rate(3, 1.0))

    def member(self) -> LinkProtocols:
        protocols = LinkProtocols(self.node)
        protocols.is_guest = False
        return protocols

    def test_guest_at_first(self) -> None:
        """Before anybody has said who it is of, a link is a guest's."""
        protocols = LinkProtocols(self.node)
        self.assertEqual([protocols.speaks(name) for name in ("/open", "/closed")], [True, False])
        self.assertEqual(protocols.names(), ("/open",))
        self.assertIs(protocols.factory("/open", PEER), self.factory)
        self.assertIsNone(protocols.factory("/closed", PEER))

    def test_member(self) -> None:
        """A member finds all of them, and none that there is not."""
        protocols = self.member()
        self.assertEqual(protocols.names(), ("/open", "/closed"))
        for name in protocols.names():
            self.assertTrue(protocols.speaks(name))
            self.assertIs(protocols.factory(name, PEER), self.factory)
        self.assertFalse(protocols.speaks("/nobody"))
        self.assertIsNone(protocols.factory("/nobody", PEER))

    def test_no_member_since(self) -> None:
        """A stream that was agreed on before the peer became a guest has nobody who answers."""
        protocols = self.member()
        self.assertTrue(protocols.speaks("/closed"))
        protocols.is_guest = True
        self.assertIsNone(protocols.factory("/closed", PEER))

    def test_rate(self) -> None:
        """So many streams at once, then so many a second; the others are counted."""
        protocols = self.member()
        got = [protocols.factory("/closed", PEER) is not None for _ in range(5)]
        self.assertEqual(got, [True] * 3 + [False] * 2)
        self.assertEqual(self.node.counts, {"/closed": 2})
        self.clock.advance(1)
        self.assertIsNotNone(protocols.factory("/closed", PEER))
        self.assertIsNone(protocols.factory("/closed", PEER))
        self.assertEqual(protocols.offence, "")

    def test_apart(self) -> None:
        """Each peer has its own, whatever link it comes on; other protocols have theirs."""
        protocols = self.member()
        for _ in range(3):
            protocols.factory("/closed", PEER)
        self.assertIsNone(self.member().factory("/closed", PEER))
        self.assertIsNotNone(self.member().factory("/closed", OTHER))
        self.assertIsNotNone(protocols.factory("/open", PEER))

    def test_goes_on(self) -> None:
        """Who is refused again and again is to lose the link; an odd one is forgiven."""
        protocols = self.member()
        for _ in range(3 + STRIKES.burst):
            protocols.factory("/closed", PEER)
        self.assertEqual(protocols.offence, "")
        protocols.factory("/closed", PEER)
        self.assertEqual(protocols.offence, "it opens streams of /closed too fast")
        patient = self.member()
        for _ in range(200):
            self.clock.advance(1)
            patient.factory("/closed", OTHER)
            patient.factory("/closed", OTHER)
        self.assertEqual(patient.offence, "")

    def test_guest_rate(self) -> None:
        """All that a guest proposes has one rate, be it spoken or not."""
        protocols = LinkProtocols(self.node)
        for number in range(GUEST_PROPOSALS.burst):
            protocols.speaks(("/open", "/closed", "/nobody", "ls")[number % 4])
        self.assertRaises(LimitExceeded, protocols.speaks, "/open")
        self.assertEqual(self.node.counts, {"guest": 1})
        self.clock.advance(1)
        self.assertTrue(protocols.speaks("/open"))
        for _ in range(int(GUEST_PROPOSALS.per_second) - 1 + STRIKES.burst):
            try:
                protocols.speaks("/open")
            except LimitExceeded:
                pass
        self.assertEqual(protocols.offence, "")
        self.assertRaises(LimitExceeded, protocols.speaks, "/open")
        self.assertNotEqual(protocols.offence, "")

    def test_table(self) -> None:
        """However many peers come, so many are counted."""
        protocols = self.member()
        for number in range(2 * MAX_COUNTED):
            protocols.factory("/closed", PrivateKey.from_seed(number.to_bytes(32, "big")).peer_id)
        buckets = self.node.answered["/closed"].buckets
        assert buckets is not None
        self.assertEqual(len(buckets), MAX_COUNTED)


class StreamTests(RawCase):
    """The same for streams that come."""

    def setUp(self) -> None:
        super().setUp()
        self.swarm.handle("/work", Factory.forProtocol(Echo), rate=Rate(4, 1.0))

    def ready(self, is_member: bool) -> None:
        if is_member:
            self.gate.members.add(self.key.peer_id)
        self.handshake()
        self.send()

    def open(self, protocol: str, count: int) -> list[type[Any]]:
        """The kinds of events after ``count`` streams were opened, in their order."""
        seen: list[type[Any]] = []
        for _ in range(count):
            self.peer.open_stream([protocol])
            seen += [type(event) for event in self.send()]
            if self.wire.aborted:
                break
        return seen

    def test_reset(self) -> None:
        """A stream too many is reset, and the link lives on."""
        self.ready(True)
        own = self.link.stream_count
        events = self.open("/work", 6)
        self.assertEqual(events.count(StreamNegotiated), 6)
        self.assertEqual(events.count(StreamWasReset), 2)
        self.assertEqual(self.swarm.refused_streams, {"/work": 2})
        self.assertEqual(self.link.stream_count, own + 4)
        self.assertFalse(self.wire.aborted)

    def test_link_ends(self) -> None:
        """Who goes on loses the link, with a reason that the log names."""
        told: list[str] = []
        self.ready(True)
        self.patch(self.swarm, "_tell_down", lambda link, reason: told.append(reason))
        events = self.open("/work", 1000)
        self.assertTrue(self.wire.aborted)
        self.assertEqual(events.count(StreamWasReset), STRIKES.burst)
        self.lose()
        self.assertEqual(told, ["it opens streams of /work too fast"])

    def test_guest(self) -> None:
        """A guest that only asks for what is not for it loses its link too."""
        self.ready(False)
        self.open("/work", 1000)
        self.assertTrue(self.wire.aborted)
        self.assertEqual(self.swarm.refused_streams, {"guest": STRIKES.burst + 1})
        self.lose()
        self.assertEqual((self.swarm.guests, self.clock.getDelayedCalls()), ({}, []))

    def test_a_new_link_is_no_new_start(self) -> None:
        """Who comes back finds its bucket as it was left."""
        self.ready(True)
        self.open("/work", 5)
        self.lose()
        self.connect()
        self.ready(True)
        self.assertIn(StreamWasReset, self.open("/work", 1))

    def test_honest(self) -> None:
        """What honest peers do is within the rates: one ping stream per ping, ten in a second."""
        for rate, streams, seconds in ((ping.STREAMS, 10, 60), (identify.ASKS, 1, 60)):
            protocols = Protocols(self.clock)
            protocols.handle("/x", Factory(), guests=False, rate=rate)
            link = LinkProtocols(protocols)
            link.is_guest = False
            for _ in range(seconds):
                self.clock.advance(1)
                for _ in range(streams):
                    self.assertIsNotNone(link.factory("/x", PEER))
