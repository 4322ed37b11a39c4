"""A whole node, started as a user starts it, and a js-libp2p peer that knows nothing of Bzzz."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase

from bzzz.identity.peer_id import PeerID
from bzzz.mesh.availability import AvailabilityDocument
from bzzz.mesh.capability import CapabilityDocument
from bzzz.mesh.messages import AVAILABILITY, CAPABILITY, COORDINATION_TOPIC, decode
from tests.interop.js_peer import JSPeer, without_js
from tests.interop.node_process import NodeProcess
from tests.needs import needs

JS_AGENT = "js-libp2p-interop/1"
TAG = "bzzz-peer-discovery.local"
NOW = "2026-01-02T03:04:05Z"

# Seconds between two questions to the node.
AGAIN = 0.1


@needs(without_js())
class NodeTests(TestCase):
    """``twistd bzzz`` and js-libp2p on the loopback interface."""

    async def spawn(self, **options: Any) -> None:
        self.js = await JSPeer.spawn(reactor, **options)
        self.addCleanup(lambda: Deferred.fromCoroutine(self.js.stop()))

    async def start(self, *options: str) -> str:
        self.node = NodeProcess(reactor, Path(self.mktemp()).absolute())
        self.addCleanup(lambda: Deferred.fromCoroutine(self.node.stop()))
        address = await self.node.start(*options)
        self.node_id = PeerID.parse(address.rpartition("/")[2])
        return address

    async def begin(self) -> None:
        """js-libp2p dials a node that nobody finds by itself."""
        address = await self.start("--no-mdns")
        await self.spawn()
        # Before it dials: what the node says to those who are new is not to be missed.
        await self.js.ask("subscribe", topic=COORDINATION_TOPIC)
        await self.js.ask("dial", addr=address)

    async def heard(self, kind: str) -> Any:
        """The document of the next message of this type, as any node would read it."""
        while True:
            message = await self.js.event("message", topic=COORDINATION_TOPIC)
            self.assertEqual((message["type"], message["from"]), ("signed", str(self.node_id)))
            received = decode(base64.b64decode(message["data"]), self.node_id)
            if received.type == kind:
                return received.document

    async def js_as_listed(self, **fields: Any) -> dict[str, Any]:
        """The js-libp2p peer in ``bzzz peers``, once it is listed with these fields."""
        while True:  # trial's time limit ends it
            for peer in (await self.node.ask("peers"))["peers"]:
                if peer["peer_id"] == self.js.peer and fields.items() <= peer.items():
                    listed: dict[str, Any] = peer
                    return listed
            await deferLater(reactor, AGAIN)

    async def test_broadcasts_are_heard(self) -> None:
        """js-libp2p hears soon what the node can do and how busy it is."""
        await self.begin()
        capability = await self.heard(CAPABILITY)
        self.assertIsInstance(capability, CapabilityDocument)
        self.assertEqual(capability.node_id, str(self.node_id))
        self.assertEqual(capability.name, "interop")
        availability = await self.heard(AVAILABILITY)
        self.assertIsInstance(availability, AvailabilityDocument)
        self.assertEqual(availability.node_id, str(self.node_id))
        self.assertEqual(availability.status, "ready")

    async def test_listed(self) -> None:
        """The node lists a js-libp2p peer, with its agent, and then what that says of itself."""
        await self.begin()
        listed = await self.js_as_listed(state="connected")
        self.assertEqual(listed["direction"], "inbound")
        listed = await self.js_as_listed(agent=JS_AGENT)
        self.assertEqual(listed["name"], None)

        resources = {"cpu_cores": 8, "memory_bytes": 16 << 30, "gpus": []}
        document = {
            "node_id": self.js.peer,
            "name": "acacia",
            "version": "1",
            "capabilities": ["js"],
            "models": [],
            "specialization": "",
            "resources": resources,
        }
        message = {"type": CAPABILITY, "from": self.js.peer, "timestamp": NOW, "data": document}
        data = base64.b64encode(json.dumps(message).encode()).decode()
        while str(self.node_id) not in await self.js.ask("subscribers", topic=COORDINATION_TOPIC):
            await deferLater(reactor, AGAIN)
        await self.js.ask("publish", topic=COORDINATION_TOPIC, data=data)
        listed = await self.js_as_listed(name="acacia")
        self.assertEqual(listed["capabilities"], ["js"])

    async def test_lost(self) -> None:
        """A js-libp2p peer that hangs up is listed as lost, and the node goes on."""
        await self.begin()
        await self.js_as_listed(state="connected")
        await self.js.ask("hangup", peer=str(self.node_id))
        await self.js_as_listed(state="lost")
        self.assertLess((await self.node.ask("status"))["uptime_seconds"], 600)

    async def test_bootstrap(self) -> None:
        """A node dials the js-libp2p peer that its configuration names."""
        await self.spawn()
        await self.start("--no-mdns", "--bootstrap", self.js.addrs[0])
        opened = await self.js.event("open", peer=str(self.node_id))
        self.assertEqual((opened["direction"], opened["encryption"]), ("inbound", "/noise"))
        listed = await self.js_as_listed(state="connected", agent=JS_AGENT)
        self.assertEqual(listed["direction"], "outbound")

    async def test_zero_configuration(self) -> None:
        """A node and a js-libp2p peer find each other by mDNS, and the node makes the link."""
        await self.start()
        await self.spawn(networkInterface="lo", serviceTag=TAG)
        await self.js.event("discovered", peer=str(self.node_id))
        listed = await self.js_as_listed(state="connected")
        self.assertIn("mdns", listed["sources"])
        self.assertEqual(listed["direction"], "outbound")
