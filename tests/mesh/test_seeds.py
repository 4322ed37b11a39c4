"""Bootstrap addresses: tried for ever, whatever comes of it."""

from __future__ import annotations

import random
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from bzzz.errors import DialError
from bzzz.identity.keys import PrivateKey
from bzzz.mesh.seeds import REST, Seeds
from bzzz.net.backoff import CAP
from bzzz.wire.multiaddr import Multiaddr

PEER = PrivateKey.from_seed(bytes(32)).peer_id
ADDRESS = Multiaddr.parse("/dns4/walnut.example/tcp/4001")
CONCRETE = Multiaddr.parse("/ip4/192.0.2.7/tcp/4001")


class Link:
    remote_peer = PEER


class SeedTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.links: dict[Any, Any] = {}
        self.resolving: list[Deferred[Any]] = []
        self.dials: list[Deferred[Any]] = []
        swarm: Any = self
        self.seeds = Seeds(swarm, self.clock, random.Random(1), [ADDRESS], self.resolve)
        self.seeds.start()

    def resolve(self, address: Multiaddr) -> Deferred[Any]:
        self.resolving.append(Deferred())
        return self.resolving[-1]

    def dial(self, addresses: Any, expected: Any) -> Deferred[Any]:
        self.assertEqual(list(addresses), [CONCRETE])
        self.dials.append(Deferred())
        return self.dials[-1]

    def test_linked(self) -> None:
        """A linked address rests, and is dialled again once its peer is gone."""
        self.resolving[0].callback([CONCRETE])
        self.links[PEER] = Link()
        self.dials[0].callback(Link())
        self.assertEqual(self.seeds.tried(), [f"{ADDRESS} (linked)"])
        self.clock.pump([REST] * 3)
        self.assertEqual(len(self.resolving), 1)
        del self.links[PEER]
        self.clock.advance(REST)
        self.assertEqual(len(self.resolving), 2)

    def test_for_ever(self) -> None:
        """Each failure ends in another try, at most a minute later; each is a resolving anew."""
        for turn in range(50):
            if turn % 2:
                self.resolving[-1].callback([CONCRETE])
                self.dials[-1].errback(DialError("refused"))
            else:
                self.resolving[-1].errback(DialError("no such name"))
            self.clock.advance(CAP)
            self.assertEqual(len(self.resolving), turn + 2)

    def test_a_bug(self) -> None:
        """What nobody foresaw is logged, and does not end the trying."""
        self.resolving[0].errback(ZeroDivisionError())
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.clock.advance(CAP)
        self.resolving[1].cancel()
        self.assertEqual(len(self.flushLoggedErrors()), 1)
        self.clock.advance(CAP)
        self.assertEqual(len(self.resolving), 3)

    def test_other_addresses(self) -> None:
        """Addresses that stay go on as they were; new ones are dialled, dropped ones no more."""
        other = Multiaddr.parse("/dns4/ironwood.example/tcp/4001")
        self.seeds.use([ADDRESS, other])
        self.assertEqual(len(self.resolving), 2)
        self.seeds.use([other])
        self.resolving[1].errback(DialError("no such name"))
        self.clock.advance(CAP)
        self.assertEqual(len(self.resolving), 3)
        self.assertEqual(self.seeds.tried(), [f"{other} (no such name)"])
        self.seeds.use([])
        self.clock.advance(CAP)
        self.assertEqual((self.seeds.tried(), self.clock.getDelayedCalls()), ([], []))
        self.seeds.use([ADDRESS])
        self.assertEqual(len(self.resolving), 4)

    def test_stop(self) -> None:
        """Nothing is left to do, whether it was resolving, dialling or waiting."""
        self.seeds.stop()
        self.resolving[0].addErrback(lambda failure: None)
        self.seeds.start()
        self.resolving[1].callback([CONCRETE])
        self.seeds.stop()
        self.seeds.start()
        self.resolving[2].errback(DialError("no such name"))
        self.seeds.stop()
        self.clock.advance(CAP)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertEqual(len(self.resolving), 3)
