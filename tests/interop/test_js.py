"""Bzzz and js-libp2p, an independent implementation, on real sockets of the loopback interface."""

from __future__ import annotations

import base64
import os
import random
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase

from bzzz.discovery.interfaces import FoundPeer
from bzzz.discovery.mdns import MdnsSource
from bzzz.discovery.network_interfaces import judge, system_interfaces
from bzzz.errors import DialError, NegotiationError
from bzzz.identity.keys import PrivateKey
from bzzz.identity.peer_id import PeerID
from bzzz.net.link import Link
from bzzz.wire.identify import Identify
from bzzz.wire.multiaddr import Multiaddr
from tests.interop.bzzz_peer import AGENT, BzzzPeer, Collecting, digest_of
from tests.interop.js_peer import JSPeer, JSPeerError, without_js
from tests.needs import needs

TAG = "bzzz-peer-discovery.local"
TOPIC = "bzzz/coordination/v1"
YAMUX = "/yamux/1.0.0"
TEN_MB = 10_000_000

# js-libp2p resets each ping stream that it answers, this many seconds after its first ping.
JS_PING_STREAM_AGE = 10.0


async def pause(seconds: float) -> None:
    await deferLater(reactor, seconds)


class Both(TestCase):
    """A Bzzz swarm and a js-libp2p peer."""

    js: JSPeer
    bzzz: BzzzPeer
    address: Multiaddr

    async def begin(self, **options: Any) -> None:
        self.bzzz = BzzzPeer(reactor)
        self.addCleanup(lambda: Deferred.fromCoroutine(self.bzzz.stop()))
        self.address = await self.bzzz.start()
        self.js = await JSPeer.spawn(reactor, **options)
        self.addCleanup(lambda: Deferred.fromCoroutine(self.js.stop()))

    @property
    def js_id(self) -> PeerID:
        return PeerID.parse(self.js.peer)

    @property
    def bzzz_id(self) -> str:
        return str(self.bzzz.swarm.peer_id)


class Conversations(Both):
    """What has to work on a link, whoever dialled it."""

    async def linked(self, **options: Any) -> tuple[Link, dict[str, Any]]:
        """The link at Bzzz's side, and what js-libp2p says of its own."""
        raise NotImplementedError

    async def check_negotiated(self, offered: tuple[str, ...], **options: Any) -> None:
        link, told = await self.linked(**options)
        self.assertEqual(told["encryption"], "/noise")
        self.assertEqual(told["muxer"], YAMUX)
        self.assertEqual(told["peer"], self.bzzz_id)
        self.assertEqual(link.remote_peer, self.js_id)
        self.assertEqual(link.remote_key.peer_id, self.js_id)
        channel = link.connection._channel
        assert channel is not None
        self.assertEqual(channel.remote_muxers, offered)
        self.assertEqual(await self.bzzz.echo(link, b"buzz"), b"buzz")

    async def test_negotiated(self) -> None:
        """Both prove their identity with Noise, and agree on yamux in its handshake."""
        await self.check_negotiated((YAMUX,))

    async def test_negotiated_after_the_handshake(self) -> None:
        """With a js-libp2p that offers no muxer in the handshake, yamux is negotiated after it."""
        await self.check_negotiated((), earlyMuxer=False)

    async def test_identify(self) -> None:
        """Each reads the other's agent, protocols and addresses."""
        await self.linked()
        seen = await self.js.ask("identify", peer=self.bzzz_id)
        self.assertEqual(seen["agent"], AGENT)
        for protocol in ("/ipfs/id/1.0.0", "/ipfs/ping/1.0.0", "/meshsub/1.1.0"):
            self.assertIn(protocol, seen["protocols"])
        port = self.bzzz.swarm.listen_addresses[0].host_port()[2]  # type: ignore[index]
        self.assertIn(f"/ip4/127.0.0.1/tcp/{port}", seen["addrs"])
        self.assertTrue(seen["observed"].startswith("/ip4/127.0.0.1/tcp/"))

        read: Identify = await self.bzzz.until(lambda: self.bzzz.identities.get(self.js_id))
        self.assertTrue(read.agent_version.startswith("js-libp2p"))
        for protocol in ("/ipfs/id/1.0.0", "/ipfs/ping/1.0.0", "/meshsub/1.1.0"):
            self.assertIn(protocol, read.protocols)
        listening = self.js.addrs[0].partition("/p2p/")[0]
        self.assertIn(listening, [str(address.without_peer()) for address in read.listen_addrs])

    async def test_ping(self) -> None:
        """Each is answered by the other, more than once."""
        link, _ = await self.linked()
        for _ in range(3):
            self.assertGreater(await self.bzzz.pings.ping(link), 0.0)
            self.assertLess((await self.js.ask("ping", peer=self.bzzz_id))["ms"], 5000)

    async def test_echo(self) -> None:
        """A small stream each way, ended by both sides in order."""
        link, _ = await self.linked()
        self.assertEqual(await self.bzzz.echo(link, b"buzz"), b"buzz")
        said = base64.b64encode(b"hello").decode()
        heard = await self.js.ask("echo", peer=self.bzzz_id, data=said)
        self.assertEqual(heard["data"], said)

    async def test_unknown_protocol(self) -> None:
        """A protocol that is not spoken is refused, and the link goes on."""
        link, _ = await self.linked()
        with self.assertRaises(NegotiationError):
            await self.bzzz.talk(link, "/interop/nothing/1.0.0", Collecting())
        self.assertEqual(await self.bzzz.echo(link, b"still here"), b"still here")

    async def test_ten_megabytes_to_js(self) -> None:
        """10 MB to a slow js-libp2p reader arrive intact, whoever opened the stream."""
        link, _ = await self.linked()
        self.assertEqual(await self.bzzz.send(link, TEN_MB), digest_of(TEN_MB))
        came = await self.js.ask("receive", peer=self.bzzz_id, bytes=TEN_MB, timeout=60.0)
        self.assertEqual(came, digest_of(TEN_MB))

    async def test_ten_megabytes_from_js(self) -> None:
        """10 MB to a slow Bzzz reader arrive intact, whoever opened the stream."""
        link, _ = await self.linked()
        self.assertEqual(await self.bzzz.receive(link, TEN_MB), digest_of(TEN_MB))
        told = await self.js.ask("send", peer=self.bzzz_id, bytes=TEN_MB, timeout=60.0)
        self.assertEqual(told["sent"], digest_of(TEN_MB))
        self.assertEqual(told["got"], digest_of(TEN_MB))

    async def in_topic(self) -> None:
        """Both are in the topic, and know it of the other."""
        self.bzzz.subscribe(TOPIC)
        await self.js.ask("subscribe", topic=TOPIC)
        await self.bzzz.until(lambda: self.js_id in self.bzzz.pubsub.topic_peers(TOPIC))
        while self.bzzz_id not in await self.js.ask("subscribers", topic=TOPIC):
            await pause(0.02)

    async def test_gossip(self) -> None:
        """Messages on the coordination topic reach the other, signed, both ways."""
        await self.linked()
        await self.in_topic()
        self.bzzz.pubsub.publish(TOPIC, b'{"from": "bzzz"}')
        heard = await self.js.event("message")
        self.assertEqual((heard["type"], heard["topic"]), ("signed", TOPIC))
        self.assertEqual(heard["from"], self.bzzz_id)
        self.assertEqual(base64.b64decode(heard["data"]), b'{"from": "bzzz"}')

        said = base64.b64encode(b'{"from": "js"}').decode()
        await self.js.ask("publish", topic=TOPIC, data=said)
        (message,) = await self.bzzz.until(lambda: self.bzzz.messages)
        self.assertEqual(message.data, b'{"from": "js"}')
        self.assertEqual(message.topic, TOPIC)

    async def test_unsigned(self) -> None:
        """What is not signed by its author is not taken, and the link goes on."""
        link, _ = await self.linked(gossip={"globalSignaturePolicy": "StrictNoSign"})
        await self.in_topic()
        said = base64.b64encode(b"unsigned").decode()
        told = await self.js.ask("publish", topic=TOPIC, data=said)
        self.assertEqual(told["recipients"], [self.bzzz_id])
        while not any("from_missing" in reason for reason in self.bzzz.pubsub.stats):
            await pause(0.02)
        self.assertEqual(self.bzzz.messages, [])
        self.assertEqual(await self.bzzz.echo(link, b"still here"), b"still here")


@needs(without_js())
class DiallerTests(Conversations):
    """Bzzz dials js-libp2p."""

    async def linked(self, **options: Any) -> tuple[Link, dict[str, Any]]:
        await self.begin(**options)
        link = await self.bzzz.swarm.dial([Multiaddr.parse(self.js.addrs[0])], self.js_id)
        return link, await self.js.event("open", peer=self.bzzz_id)

    async def test_wrong_peer(self) -> None:
        """Who proves to be another than was dialled gets no link."""
        await self.begin()
        other = Multiaddr.parse(self.js.addrs[0]).without_peer()
        expected = PrivateKey.generate(os.urandom).peer_id
        with self.assertRaises(DialError):
            await self.bzzz.swarm.dial([other], expected)
        self.assertEqual(self.bzzz.swarm.links, {})

    async def test_stays(self) -> None:
        """The link outlives js-libp2p's habit of resetting each ping stream after 10 s."""
        link, _ = await self.linked()
        await pause(JS_PING_STREAM_AGE + 4.0)
        self.assertEqual(self.bzzz.downs, [])
        self.assertGreater(await self.bzzz.pings.ping(link), 0.0)


@needs(without_js())
class ListenerTests(Conversations):
    """js-libp2p dials Bzzz."""

    async def linked(self, **options: Any) -> tuple[Link, dict[str, Any]]:
        await self.begin(**options)
        told = await self.js.ask("dial", addr=str(self.address))
        link: Link = await self.bzzz.until(lambda: self.bzzz.swarm.links.get(self.js_id))
        return link, told

    async def test_wrong_peer(self) -> None:
        """js-libp2p, expecting another peer, hangs up; Bzzz goes on."""
        await self.begin()
        other = self.address.without_peer().with_peer(self.js_id)
        with self.assertRaises(JSPeerError):
            await self.js.ask("dial", addr=str(other))
        await self.js.ask("dial", addr=str(self.address))

    async def test_lost(self) -> None:
        """A js-libp2p peer that hangs up is lost at once."""
        link, _ = await self.linked()
        await self.js.ask("hangup", peer=self.bzzz_id)
        await self.bzzz.until(lambda: self.bzzz.downs)
        self.assertTrue(link.closed)


@needs(without_js())
class DiscoveryTests(Both):
    """mDNS with the service tag, on the loopback interface."""

    async def test_both_ways(self) -> None:
        """Each finds the other, at an address that works."""
        await self.begin(networkInterface="lo", serviceTag=TAG)
        found: dict[PeerID, FoundPeer] = {}

        def on_found(peer: FoundPeer) -> None:
            if peer.peer_id is not None:
                found[peer.peer_id] = peer

        source = MdnsSource(
            self.bzzz.swarm.peer_id,
            "interop",
            reactor.callFromThread,  # type: ignore[attr-defined]
            random.Random(),
        )
        port = self.address.host_port()[2]  # type: ignore[index]
        source.update(judge(system_interfaces(), ["127.0.0.1"]).used, port)
        source.start(on_found)
        self.addCleanup(source.stop)

        heard = await self.js.event("discovered", peer=self.bzzz_id)
        self.assertEqual(heard["addrs"], [f"/ip4/127.0.0.1/tcp/{port}"])
        while self.js_id not in found:  # trial's time limit ends it
            await pause(0.05)
        link = await self.bzzz.swarm.dial(found[self.js_id].addresses, self.js_id)
        self.assertEqual(link.remote_peer, self.js_id)


# They are no tests by themselves, and trial would run them.
del Both, Conversations
