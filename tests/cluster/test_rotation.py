"""Three real nodes in a cluster, on the loopback interface, of which one gets another key."""

from __future__ import annotations

import os
import signal
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.protocol import DatagramProtocol
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import TestCase

from bzzz.cli.client import NodeClient, NoNode
from tests.interop.node_process import NodeProcess

# Seconds from the answer of `bzzz id rotate` until all are linked with the new peer ID; and where
# nobody was linked to hear of it, from when the others are there.
LINKED_WITHIN = 5.0
PROVED_WITHIN = 15.0

# Seconds after the wish for another key at which the node is killed: with one member linked, it is
# told of within 0.1, and the process has ended within 0.5.
KILLED_AFTER = (0.0, 0.02, 0.1, 0.5)

AGAIN = 0.1


class Node(NodeProcess):
    """A node that can be killed, and started again where it was.

    :ivar name: of it, and its own in the cluster.
    """

    def __init__(self, directory: Path, name: str, **environment: str) -> None:
        super().__init__(reactor, directory)
        self.name = name
        self.directory = directory
        self._options: tuple[str, ...] = ()
        self._given = environment

    async def begin(self, *options: str) -> str:
        """Start it: it finds nobody by itself."""
        self._options = ("--name", self.name, "--no-mdns", *options)
        return await self.start(*self._options)

    async def again(self) -> None:
        """Start it again, after it has ended."""
        self._listens, self._ended = Deferred(), Deferred()
        self._log = b""
        await self.start(*self._options)

    async def end(self, number: str = "INT") -> None:
        """End the process, and nothing else."""
        self.transport.signalProcess(number)  # type: ignore[union-attr]  # alive
        await self._ended

    @property
    def log(self) -> str:
        """What it has logged."""
        return self._log.decode(errors="replace")

    async def get(self, what: str) -> Any:
        """What the control API answers: a process for each question takes too long."""
        return await deferToThread(self._client().get, what)

    def post(self, what: str) -> Deferred[Any]:
        """What it answers when it has done something."""
        return deferToThread(self._client().post, what)

    async def peer_id(self) -> str:
        return str((await self.get("id"))["peer_id"])

    async def linked(self) -> dict[str, str]:
        """The peer IDs of those that it is linked with, by name."""
        peers = (await self.get("peers"))["peers"]
        return {each["name"]: each["peer_id"] for each in peers if each["state"] == "connected"}

    async def members(self) -> dict[str, tuple[str, str]]:
        """Peer IDs and roles, by name."""
        members = (await self.get("members"))["members"]
        return {each["name"]: (each["peer_id"], each["role"]) for each in members}

    def _client(self) -> NodeClient:
        return NodeClient(Path(self._runtime.name) / "control.sock")

    def _environment(self) -> dict[str, str]:
        return {**super()._environment(), **self._given}


class Rotations(TestCase):
    """walnut, which is admin, ironwood and acacia."""

    timeout = 180

    async def begin(self, **environment: str) -> None:
        directory = Path(self.mktemp()).absolute()
        directory.mkdir()
        self.walnut = Node(directory / "walnut", "walnut")
        self.ironwood = Node(directory / "ironwood", "ironwood", **environment)
        self.acacia = Node(directory / "acacia", "acacia")
        self.nodes = (self.walnut, self.ironwood, self.acacia)
        for node in self.nodes:
            self.addCleanup(self.stop, node)
        address = await self.walnut.begin()
        await self.walnut.ask("cluster", "create", "homelab")
        others = (self.ironwood, self.acacia)
        await together(*(node.begin("--bootstrap", address) for node in others))
        for node in others:
            await self.walnut.ask("admit", await node.peer_id(), "--name", node.name)
        roster = str(directory / "roster")
        await self.walnut.ask("cluster", "export", roster)
        await together(*(node.ask("cluster", "import", roster) for node in others))
        await self.until_linked()

    def stop(self, node: Node) -> Deferred[None]:
        return Deferred.fromCoroutine(node.stop())

    async def until_linked(self) -> float:
        """Wait until each is linked with each other by its peer ID; how many seconds that took."""
        began = time.monotonic()
        who = dict(await together(*(self.who(node) for node in self.nodes)))
        while True:
            linked = await together(*(node.linked() for node in self.nodes))
            if all(
                links == {name: peer for name, peer in who.items() if name != node.name}
                for node, links in zip(self.nodes, linked, strict=True)
            ):
                return time.monotonic() - began
            await deferLater(reactor, AGAIN)

    async def who(self, node: Node) -> tuple[str, str]:
        return node.name, await node.peer_id()

    async def rotate(self, node: Node) -> tuple[dict[str, Any], float]:
        """What ``bzzz id rotate`` prints, and how long it took."""
        began = time.monotonic()
        answer = await node.ask("id", "rotate")
        return answer, time.monotonic() - began

    async def check(self, node: Node, old: str, role: str) -> None:
        """Everybody knows the node by its new peer ID, and nobody by the old one."""
        new = await node.peer_id()
        self.assertNotEqual(new, old)
        for each in self.nodes:
            answer = await each.get("members")
            self.assertEqual((await each.members())[node.name], (new, role))
            self.assertEqual(len(answer["members"]), 3)
            self.assertIn(old, [one["peer_id"] for one in answer["revoked"]])
            self.assertNotIn(old, [one["peer_id"] for one in (await each.get("peers"))["peers"]])
        report = await node.ask("audit", "verify")
        self.assertTrue(report["whole"], report)
        self.assertEqual(report["keys"], [old, new])
        self.assertFalse((node.directory / "identity.key.new").exists())

    def figure(self, what: str, seconds: float, limit: float) -> None:
        """Print a measured time, and fail if it is above what is promised."""
        print(f"\n      {what}: {seconds:.2f} s (promised: {limit:g})", end=" ", flush=True)
        self.assertLessEqual(seconds, limit, what)

    async def test_member(self) -> None:
        """A member keeps its name, its role, its process and its port; the others link again."""
        await self.begin()
        old, before = await self.ironwood.peer_id(), await self.ironwood.get("status")
        answer, took = await self.rotate(self.ironwood)
        linked = await self.until_linked()
        print(f"\n      bzzz id rotate: {took:.2f} s", end=" ")
        self.figure("linked again", linked, LINKED_WITHIN)
        self.assertEqual((answer["old"], answer["linked"], answer["told"]), (old, 2, 2))
        self.assertEqual((answer["cluster"], answer["name"]), ("homelab", "ironwood"))
        await self.check(self.ironwood, old, "member")
        after = await self.ironwood.get("status")
        self.assertEqual(after["peer_id"], answer["new"])
        self.assertEqual(after["pid"], before["pid"])
        self.assertEqual(after["listen_addresses"], before["listen_addresses"])
        # It has said all that it had to say before.
        self.assertIn("Server Shut Down.", self.ironwood.log)

    async def test_admin(self) -> None:
        """The only admin, which nobody is linked with, is known again by a proof; it is admin."""
        await self.begin()
        token = await self.walnut.ask("invite", "--token")
        old = await self.walnut.peer_id()
        others = (self.ironwood, self.acacia)
        await together(*(node.end() for node in others))
        while await self.walnut.linked():
            await deferLater(reactor, AGAIN)
        answer, _ = await self.rotate(self.walnut)
        self.assertEqual((answer["linked"], answer["told"], answer["can_prove"]), (0, 0, True))
        self.assertEqual(answer["void"], [token["channel"]])
        self.assertEqual((await self.walnut.get("invitations"))["invitations"], [])
        await together(*(node.again() for node in others))
        self.figure("linked by a proof", await self.until_linked(), PROVED_WITHIN)
        await self.check(self.walnut, old, "admin")
        await self.walnut.ask("rename", "acacia", "oak")
        while "oak" not in await self.ironwood.members():
            await deferLater(reactor, AGAIN)

    async def test_killed(self) -> None:
        """A node that is killed while it rotates is wholly the old one or wholly the new one."""
        await self.begin()
        outcomes = []
        for seconds in KILLED_AFTER:
            old = await self.acacia.peer_id()
            asking = self.acacia.post("id/rotate")
            asking.addErrback(lambda failure: failure.trap(NoNode))
            await deferLater(reactor, seconds)
            await self.acacia.end("KILL")
            await asking
            await self.acacia.again()
            await self.until_linked()
            new = await self.acacia.peer_id()
            outcomes.append(new != old)
            for each in self.nodes:
                self.assertEqual((await each.members())["acacia"], (new, "member"))
                self.assertEqual(len(await each.members()), 3)
            report = await self.acacia.ask("audit", "verify")
            self.assertTrue(report["whole"], report)
            self.assertEqual(report["keys"][-1], new)
            self.assertFalse((self.acacia.directory / "identity.key.new").exists())
        print(f"\n      another key after {KILLED_AFTER} s: {outcomes}", end=" ", flush=True)

    async def test_systemd(self) -> None:
        """To systemd it is a reload: the same process, which never says that it stops."""
        with tempfile.TemporaryDirectory(prefix="bzzz-notify-") as directory:
            told = Notifications(f"{directory}/notify")
            self.addCleanup(told.stop)
            # The parent of the process may be a shell that systemd has started.
            systemd = {"NOTIFY_SOCKET": f"{directory}/notify", "SYSTEMD_EXEC_PID": str(os.getpid())}
            await self.begin(**systemd, WATCHDOG_USEC="30000000")
            await until(lambda: "READY=1" in told.said)
            pid = (await self.ironwood.get("status"))["pid"]
            told.said.clear()
            await self.rotate(self.ironwood)
            await until(lambda: "READY=1" in told.said)
            self.assertIn("RELOADING=1", told.said)
            self.assertNotIn("STOPPING=1", told.said)
            ready = told.said.index("READY=1")
            self.assertIn("WATCHDOG=1", told.said[told.said.index("RELOADING=1") : ready])
            self.assertEqual((await self.ironwood.get("status"))["pid"], pid)
            await self.until_linked()
            # Told to stop while it ends to start again, it stops.
            told.said.clear()
            await self.ironwood.post("id/rotate")
            await until(lambda: "RELOADING=1" in told.said)
            os.kill(pid, signal.SIGTERM)
            await self.ironwood._ended


class Notifications(DatagramProtocol):
    """What a service says to systemd.

    :ivar said: the lines, the oldest first.
    """

    def __init__(self, path: str) -> None:
        self.said: list[str] = []
        untyped: Any = reactor
        self._port = untyped.listenUNIXDatagram(path, self)

    def datagramReceived(self, datagram: bytes, addr: object) -> None:
        """Some lines."""
        self.said += datagram.decode().splitlines()

    def stop(self) -> Any:
        return self._port.stopListening()


async def until(found: Callable[[], bool]) -> None:
    """Wait until it is true; trial's time limit ends it."""
    while not found():
        await deferLater(reactor, AGAIN / 10)


async def together(*works: Any) -> Sequence[Any]:
    """What comes of several things that go on at the same time."""
    return await gatherResults([Deferred.fromCoroutine(work) for work in works])
