"""A cluster of two whole nodes, and a js-libp2p peer that is let in and put out by its peer ID.

js-libp2p listens nowhere and dials one of the two, so that what it exchanges with the other is
forwarded.
"""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.protocol import ProcessProtocol
from twisted.internet.task import deferLater
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase

from bzzz.identity.peer_id import PeerID
from bzzz.mesh.messages import COORDINATION_TOPIC, DISCUSSION_TOPIC, decode
from bzzz.trust import pairing, presenting
from bzzz.wire import identify, ping
from tests.interop.js_peer import JSPeer, JSPeerError, without_js
from tests.interop.node_process import ROOT, NodeProcess
from tests.needs import needs

# Seconds in which somebody who is not admitted hears nothing, while members talk. With a link of
# members each message takes milliseconds.
SILENCE = 2.0

# Within so many seconds of the command a member that is revoked has lost its link.
REVOKED_WITHIN = 1.0

# Seconds between two looks.
AGAIN = 0.02

# What a guest is told that it may open streams of.
GUESTS = {identify.PROTOCOL, ping.PROTOCOL, pairing.PROTOCOL, presenting.PROTOCOL}


class Following(ProcessProtocol):
    """``bzzz events --follow`` at one node.

    :ivar events: what happened to the node, the oldest first.
    """

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []
        self.ended: Deferred[None] = Deferred()
        self._buffer = b""

    def outReceived(self, data: bytes) -> None:
        """Lines of JSON."""
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        self.events += map(json.loads, lines)

    def processEnded(self, reason: Failure) -> None:
        """It was stopped, or the node has ended."""
        self.ended.callback(None)


class Node(NodeProcess):
    """A node whose events are followed, with a label of which others hear.

    :ivar address: to dial, with its peer ID.
    """

    peer_id: PeerID
    address: str

    def __init__(self, directory: Path, name: str) -> None:
        super().__init__(reactor, directory)
        self.name = name
        self._config = directory.with_suffix(".toml")
        self._following: Following | None = None

    async def begin(self, *options: str) -> None:
        """Start it: it finds nobody by itself."""
        self.label("0")
        self.address = await self.start(
            *("--name", self.name, "--no-mdns", "--config", str(self._config), *options)
        )
        self.peer_id = PeerID.parse(self.address.rpartition("/")[2])
        self._following = Following()
        argv = [sys.executable, "-m", "bzzz.cli", "--runtime-dir", self._runtime.name]
        argv += ["events", "--follow", "-n", "1000", "--json"]
        environment = self._environment()
        untyped: Any = reactor
        untyped.spawnProcess(self._following, argv[0], argv, environment, str(ROOT))

    async def stop(self) -> None:
        """End it, and who follows it."""
        await super().stop()
        if self._following is not None:
            await self._following.ended

    def label(self, value: str) -> None:
        """Have it tell everybody, if it runs already, that it has another label."""
        self._config.write_text(f'[label]\nrack = "{value}"\n')
        if self._alive:
            self.transport.signalProcess("HUP")  # type: ignore[union-attr]  # alive

    def events(self, event: str, **fields: Any) -> list[dict[str, Any]]:
        """What happened to it so far."""
        found = [] if self._following is None else self._following.events
        return [one for one in found if one["event"] == event and fields.items() <= one.items()]


async def until(found: Callable[[], Any]) -> None:
    """Wait until there is a true result; trial's time limit ends it."""
    while not found():
        await deferLater(reactor, AGAIN)


@needs(without_js())
class TrustTests(TestCase):
    """Two members, and one who is none yet."""

    timeout = 60

    async def begin(self) -> None:
        """Found the cluster, and start a peer that is in both topics and in no cluster."""
        directory = Path(self.mktemp()).absolute()
        directory.mkdir()
        self.admin = Node(directory / "walnut", "walnut")
        self.member = Node(directory / "ironwood", "ironwood")
        self.addCleanup(lambda: Deferred.fromCoroutine(self.admin.stop()))
        self.addCleanup(lambda: Deferred.fromCoroutine(self.member.stop()))
        spawning = Deferred.fromCoroutine(JSPeer.spawn(reactor, listen=[]))
        await self.admin.begin()
        await self.admin.ask("cluster", "create", "homelab")
        await self.member.begin("--bootstrap", self.admin.address)
        await self.admin.ask("admit", str(self.member.peer_id), "--name", "ironwood")
        roster = str(directory / "roster")
        await self.admin.ask("cluster", "export", roster)
        await self.member.ask("cluster", "import", roster)
        self.js = await spawning
        self.addCleanup(lambda: Deferred.fromCoroutine(self.js.stop()))
        for topic in (COORDINATION_TOPIC, DISCUSSION_TOPIC):
            await self.js.ask("subscribe", topic=topic)
        await until(lambda: self.admin.events("capability_broadcast", name="ironwood"))

    async def change(self, label: str) -> None:
        """The member tells everybody of a new label, and the admin has heard it."""
        self.member.label(label)

        def heard() -> bool:
            events = self.admin.events("capability_broadcast", name="ironwood", changed=True)
            return any(one["document"]["labels"] == {"rack": label} for one in events)

        await until(heard)

    async def publish(self, text: str) -> list[str]:
        """js-libp2p says something; to whom it has sent it."""
        data = base64.b64encode(json.dumps({"data": {"message": text}}).encode()).decode()
        said = await self.js.ask("publish", topic=DISCUSSION_TOPIC, data=data)
        recipients: list[str] = said["recipients"]
        return recipients

    def heard_of_js(self) -> list[list[str]]:
        """What js-libp2p has said, to the ears of each node."""
        return [
            [str(one["text"]) for one in node.events("discussion", peer_id=self.js.peer)]
            for node in (self.admin, self.member)
        ]

    async def kept_out(self, label: str) -> None:
        """js-libp2p has a link, and hears nothing, and is heard by nobody."""
        before = self.heard_of_js()
        await self.js.ask("dial", addr=self.admin.address)
        who = await self.js.ask("identify", peer=str(self.admin.peer_id))
        self.assertEqual(set(who["protocols"]), GUESTS)
        self.assertEqual(who["addrs"], [])
        await self.js.ask("ping", peer=str(self.admin.peer_id))
        with self.assertRaises(JSPeerError):
            await self.js.ask("echo", peer=str(self.admin.peer_id), data="")
        self.assertEqual(await self.publish(f"let me in, {label}"), [])
        await self.change(label)
        await deferLater(reactor, SILENCE)
        self.assertEqual([one for one in self.js.events if one["event"] == "message"], [])
        self.assertEqual(await self.js.ask("subscribers", topic=COORDINATION_TOPIC), [])
        self.assertEqual(self.heard_of_js(), before)

    async def heard(self, node: Node, label: str) -> None:
        """js-libp2p hears that a node has this label, in a message that the node has signed."""
        author: dict[str, Any] = {"from": str(node.peer_id)}
        while True:
            message = await self.js.event("message", **author)
            self.assertEqual((message["type"], message["topic"]), ("signed", COORDINATION_TOPIC))
            document: Any = decode(base64.b64decode(message["data"]), node.peer_id).document
            if getattr(document, "labels", None) == {"rack": label}:
                return

    async def test_admitted_by_peer_id(self) -> None:
        """js-libp2p hears nothing before it is admitted, then everything, and nothing again from
        1 s after it was revoked."""
        await self.begin()
        await self.kept_out("1")

        await self.admin.ask("admit", self.js.peer, "--name", "jsnode")
        # Its link as a guest may have come to its end meanwhile, on a machine that is busy.
        await self.js.ask("dial", addr=self.admin.address)
        only = [str(self.admin.peer_id)]
        for topic in (COORDINATION_TOPIC, DISCUSSION_TOPIC):
            while await self.js.ask("subscribers", topic=topic) != only:
                await deferLater(reactor, AGAIN)
        await self.heard(self.admin, "0")
        await self.change("2")
        await self.heard(self.member, "2")
        await until(lambda: self.member.events("member_admitted", peer_id=self.js.peer))
        self.assertEqual(await self.publish("hello"), only)
        await until(lambda: all(self.heard_of_js()))
        self.assertEqual(self.heard_of_js(), [["hello"], ["hello"]])
        self.assertEqual([link["peer"] for link in await self.js.ask("links")], only)

        await self.admin.ask("revoke", "jsnode", "--yes")
        await self.js.event("close", timeout=REVOKED_WITHIN, peer=str(self.admin.peer_id))
        self.js.events.clear()
        await self.kept_out("3")
