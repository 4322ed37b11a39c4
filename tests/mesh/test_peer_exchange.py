"""What peers are asked about other peers, and what is believed."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from bzzz.errors import RemoteProtocolError
from bzzz.identity.keys import PrivateKey
from bzzz.identity.peer_id import PeerID
from bzzz.mesh.peer_exchange import MAX_NAME, MAX_PEERS, KnownPeer, PeerExchange
from bzzz.wire.multiaddr import Multiaddr

OURS, WALNUT, ACACIA = (PrivateKey(letter * 32).peer_id for letter in (b"o", b"w", b"a"))
ADDRESS = "/ip4/192.0.2.7/tcp/4001"


class ExchangeTests(SynchronousTestCase):
    """Questions and answers."""

    def setUp(self) -> None:
        self.learnt: list[tuple[PeerID, str, tuple[Multiaddr, ...]]] = []
        swarm: Any = self
        self.link: Any = self
        self.remote_peer = WALNUT
        self.exchange = PeerExchange(
            swarm,
            lambda: (OURS, WALNUT),
            lambda: (WALNUT, ACACIA),
            lambda peer: KnownPeer(str(peer), "acacia", [ADDRESS]),
            lambda *told: self.learnt.append(told),
        )

    def handle(self, protocol_id: str, factory: object, rate: object) -> None:
        """Nobody opens streams here."""

    def answer(self, *peers: dict[str, Any]) -> None:
        self.exchange.answered(json.dumps({"peers": peers}).encode(), self.link)

    def test_round_trip(self) -> None:
        """Who asks is told of those that it does not know."""
        said = self.exchange.answer(self.exchange.question(), OURS)
        self.exchange.answered(said, self.link)
        self.assertEqual(self.learnt, [(ACACIA, "acacia", (Multiaddr.parse(ADDRESS),))])

    def test_the_asker(self) -> None:
        """Who asks is told of itself, too: where it is not, somebody else has its key."""
        said = self.exchange.answer(b'{"have": ""}', ACACIA)
        self.exchange.answered(said, self.link)
        self.assertEqual([peer for peer, _, _ in self.learnt], [WALNUT, ACACIA])

    def test_names(self) -> None:
        """A name that a peer gives another cannot steer a terminal, forge a log or fill a table."""
        self.answer({"id": str(ACACIA), "name": "a\x1b[2J\n" + "a" * 100_000})
        ((_, name, _),) = self.learnt
        self.assertTrue(name.isprintable())
        self.assertLess(len(name), MAX_NAME + 20)

    def test_many(self) -> None:
        """No more peers are taken from one answer than a mesh has."""
        self.answer(*[{"id": str(ACACIA)}] * (MAX_PEERS + 1))
        self.assertEqual(len(self.learnt), MAX_PEERS)

    def test_wrong(self) -> None:
        """What is no answer costs the peer its link, and is told in one line."""
        for peer in (
            {"id": "x"},
            {"id": 1},
            {"id": str(ACACIA), "addresses": ["/ip4/\x1b[2J/tcp/1"]},
            {"id": "1\x1b[2J"},
            {"id": str(ACACIA), "addresses": ["/ip4/" + "\x7f" * 1000]},
        ):
            with self.assertRaises(RemoteProtocolError) as raised:
                self.answer(peer)
            self.assertTrue(str(raised.exception).isprintable())
            self.assertLess(len(str(raised.exception)), 400)

    def test_nested(self) -> None:
        """Messages that are nested deeply are refused, even where nobody would look."""
        deep = b'{"x": ' + b"[" * 10_000 + b"]" * 10_000 + b', "have": "", "peers": []}'
        with self.assertRaises(RemoteProtocolError):
            self.exchange.answer(deep, WALNUT)
        with self.assertRaises(RemoteProtocolError):
            self.exchange.answered(deep, self.link)

    @given(st.binary() | st.binary().map(lambda have: json.dumps({"have": have.hex()}).encode()))
    def test_any_bytes(self, message: bytes) -> None:
        """Any message is read or refused, as a question and as an answer."""
        try:
            self.exchange.answer(message, WALNUT)
        except RemoteProtocolError:
            pass
        try:
            self.exchange.answered(message, self.link)
        except RemoteProtocolError:
            pass
