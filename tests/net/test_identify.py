"""Who the peer is, asked again where nothing was heard."""

from __future__ import annotations

from typing import Any

from twisted.internet.protocol import Factory, Protocol

from bzzz.net.identify import AGAIN, _Answering
from bzzz.wire.identify import PROTOCOL
from tests.net.swarms import Peer, SwarmCase


class Silent(Factory):
    """Answers nothing, and counts how often it was asked."""

    noisy = False
    asked = 0

    def buildProtocol(self, addr: Any) -> Protocol:
        self.asked += 1
        return Protocol()


class AskAgainTests(SwarmCase):
    def setUp(self) -> None:
        super().setUp()
        self.a, self.b = Peer(self, 1), Peer(self, 2)
        self.silent = Silent()
        self.b.swarm.handle(PROTOCOL, self.silent, guests=True)
        self.a.dial(self.b)
        self.run_for(1)

    def test_asked_again(self) -> None:
        """A peer that says nothing is asked ever more rarely, as long as the link lives."""
        self.assertEqual(self.silent.asked, 1)
        for number, delay in enumerate((*AGAIN, AGAIN[-1], AGAIN[-1]), 1):
            self.run_for(delay - 1.1)
            self.assertEqual(self.silent.asked, number)
            self.run_for(1.1)
            self.assertEqual(self.silent.asked, number + 1)
        self.assertEqual(len(self.a.swarm.links), 1)

    def test_answers_late(self) -> None:
        """It is told of when it answers at last, once, and then not asked any more."""
        self.assertNotIn(("name", "node2"), self.a.told)
        self.b.swarm.handle(PROTOCOL, _Answering(self.b.swarm._identify), guests=True)
        self.run_for(AGAIN[0])
        self.assertEqual(self.a.told.count(("name", "node2")), 1)
        self.run_for(600)
        self.assertEqual(self.a.told.count(("name", "node2")), 1)

    def test_gone(self) -> None:
        """Nobody is asked when the link is gone."""
        self.b.host.kill()
        self.run_for(30)
        self.assertEqual(self.a.swarm.links, {})
        self.assertEqual(self.reactor.getDelayedCalls(), [])
