"""The js-libp2p peer alone: two of them, so that what fails elsewhere is not its doing."""

from __future__ import annotations

import base64
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.trial.unittest import TestCase

from tests.interop.js_peer import JSPeer, JSPeerError, without_js
from tests.needs import needs

TAG = "bzzz-peer-discovery.local"
TOPIC = "bzzz/coordination/v1"
TEN_MB = 10_000_000


@needs(without_js())
class JSPeerTests(TestCase):
    """What the tests against Bzzz use works between two js-libp2p peers."""

    async def spawn(self, **options: Any) -> JSPeer:
        peer = await JSPeer.spawn(reactor, **options)
        self.addCleanup(lambda: Deferred.fromCoroutine(peer.stop()))
        return peer

    async def pair(self, **options: Any) -> tuple[JSPeer, JSPeer]:
        made: list[JSPeer] = await gatherResults(
            [Deferred.fromCoroutine(self.spawn(**options)) for _ in range(2)]
        )
        return made[0], made[1]

    async def test_everything(self) -> None:
        """Dial, identify, ping, streams, ten megabytes each way and gossipsub."""
        one, two = await self.pair()
        link = await one.ask("dial", addr=two.addrs[0])
        self.assertEqual((link["encryption"], link["muxer"]), ("/noise", "/yamux/1.0.0"))
        self.assertEqual((await two.event("open"))["peer"], one.peer)

        who = await one.ask("identify", peer=two.peer)
        self.assertTrue(who["agent"].startswith("js-libp2p"))
        self.assertIn("/meshsub/1.1.0", who["protocols"])
        self.assertLess((await one.ask("ping", peer=two.peer))["ms"], 5000)

        said = base64.b64encode(b"hello").decode()
        self.assertEqual((await one.ask("echo", peer=two.peer, data=said))["data"], said)
        told = await one.ask("send", peer=two.peer, bytes=TEN_MB)
        self.assertEqual(told["sent"], told["got"])
        came = await one.ask("receive", peer=two.peer, bytes=TEN_MB)
        self.assertEqual(came, told["sent"])

        for peer in (one, two):
            await peer.ask("subscribe", topic=TOPIC)
        while not await one.ask("subscribers", topic=TOPIC):
            pass
        await one.ask("publish", topic=TOPIC, data=said)
        message = await two.event("message")
        self.assertEqual((message["from"], message["data"]), (one.peer, said))
        self.assertEqual((message["type"], message["topic"]), ("signed", TOPIC))

    async def test_discovery(self) -> None:
        """Two peers find each other by mDNS on the loopback interface."""
        one, two = await self.pair(networkInterface="lo", serviceTag=TAG)
        await one.event("discovered", peer=two.peer)
        await two.event("discovered", peer=one.peer)

    async def test_error(self) -> None:
        """A command that fails in the peer fails in the test, with the peer's words."""
        one = await self.spawn()
        with self.assertRaises(JSPeerError):
            await one.ask("dial", addr="/ip4/127.0.0.1/tcp/1")
        with self.assertRaises(JSPeerError):
            await one.ask("nonsense")
