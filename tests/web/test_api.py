"""The control API over HTTP, with bytes in place of a socket."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from msgspec.structs import replace
from twisted.internet.defer import Deferred, succeed
from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.logger import LogLevel
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from bzzz.errors import BzzzError
from bzzz.web import api, site, stream
from bzzz.web.api import ControlApi
from bzzz.web.credentials import Accounts, Credentials
from bzzz.web.schema import Finding
from bzzz.web.view import NodeView
from tests.logs import lines_at
from tests.web.fakes import IRONWOOD, WALNUT, FakeNode

# A user whom no machine has.
SOMEBODY = Credentials(4242, 4_000_000_000, 1000, Accounts(lambda look: succeed(look())))


class Exchange:
    """One connection and what came back over it.

    :param body: of JSON, unless ``headers`` say otherwise.
    :param by: who asks; None for somebody whom nobody has checked.
    """

    def __init__(
        self,
        control: ControlApi,
        path: str,
        method: str = "GET",
        body: bytes = b"",
        *headers: str,
        by: Credentials | None = SOMEBODY,
    ) -> None:
        self.transport = StringTransport()
        self.clock = Clock()
        made = control.site(self.clock)
        factory: Any = made if by is None else made.for_peer(by)
        self.protocol = factory.buildProtocol(None)
        self.protocol.makeConnection(self.transport)
        self.ask(path, method, body, *headers)

    def ask(self, path: str, method: str = "GET", body: bytes = b"", *headers: str) -> None:
        """Ask something, after another if need be."""
        if body and not headers:
            headers = ("Content-Type: application/json",)
        lines = [f"{method} {path} HTTP/1.1", "Host: bzzz", *headers]
        if body:
            lines.append(f"Content-Length: {len(body)}")
        self.protocol.dataReceived("\r\n".join([*lines, "", ""]).encode() + body)

    @property
    def head(self) -> str:
        return str(self._raw().partition(b"\r\n\r\n")[0], "latin-1")

    def _raw(self) -> bytes:
        raw: bytes = self.transport.value()
        return raw

    @property
    def status(self) -> int:
        return int(self.head.split()[1])

    @property
    def body(self) -> bytes:
        body = self._raw().partition(b"\r\n\r\n")[2]
        if "chunked" not in self.head:
            return body
        whole = b""
        while body:
            size, _, body = body.partition(b"\r\n")
            whole, body = whole + body[: int(size, 16)], body[int(size, 16) + 2 :]
        return whole

    @property
    def ended(self) -> bool:
        return self._raw().endswith(b"0\r\n\r\n")

    def json(self) -> Any:
        return json.loads(self.body)

    def lines(self) -> list[Any]:
        return [json.loads(line) for line in self.body.splitlines()]

    def disconnect(self) -> None:
        self.protocol.connectionLost(Failure(ConnectionDone()))


class ControlApiTests(SynchronousTestCase):
    """What is asked and what is answered."""

    def setUp(self) -> None:
        self.node = FakeNode()
        view: NodeView = self.node
        self.control = ControlApi(view, wall_time=lambda: self.node.now)

    def get(self, path: str, method: str = "GET") -> Exchange:
        return Exchange(self.control, path, method)

    def test_status(self) -> None:
        """The node's status, with null for what it does not know."""
        answer = self.get("/v1/status")
        self.assertEqual(answer.status, 200)
        self.assertIn("application/json", answer.head)
        self.assertEqual(answer.json()["peers_connected"], 1)
        self.assertIsNone(answer.json()["unit"])

    def test_id(self) -> None:
        """Who the node is, with addresses that another node can be given."""
        answer = self.get("/v1/id").json()
        self.assertEqual(answer["addresses"], [f"/ip4/192.0.2.1/tcp/40001/p2p/{WALNUT}"])

    def test_peers(self) -> None:
        """All that are known, by name."""
        peers = self.get("/v1/peers").json()["peers"]
        self.assertEqual([peer["name"] for peer in peers], ["acacia", "ironwood"])
        self.assertEqual(peers[0]["reason"], "no answer to pings for 6 s")

    def test_capabilities(self) -> None:
        """The node that answers is first, the others by name."""
        nodes = self.get("/v1/capabilities").json()["nodes"]
        self.assertEqual([node["name"] for node in nodes], ["walnut", "ironwood"])
        self.assertEqual([node["self"] for node in nodes], [True, False])

    def test_capabilities_of_one(self) -> None:
        """A node is found by its name, its short ID, its ID or a beginning."""
        for text in ("ironwood", IRONWOOD[-6:], IRONWOOD, IRONWOOD[:12], IRONWOOD[8:12], "iro"):
            answer = self.get(f"/v1/capabilities/{text}")
            self.assertEqual(answer.json()["peer_id"], IRONWOOD)
            self.assertEqual(answer.json()["capabilities"]["labels"], {"rack": "a3"})

    def test_no_such_peer(self) -> None:
        """Nobody of that name is 404, several are 409; both tell whom there is."""
        answer = self.get("/v1/capabilities/oak")
        self.assertEqual(answer.status, 404)
        self.assertEqual(
            answer.json()["error"],
            {
                "code": "no_such_peer",
                "message": "no node is called 'oak' (known: ironwood, walnut)",
            },
        )
        answer = self.get("/v1/capabilities/12D3KooW")
        self.assertEqual((answer.status, answer.json()["error"]["code"]), (409, "ambiguous_peer"))

    def test_a_short_id_for_a_name(self) -> None:
        """Nobody hides another by taking its short ID for a name."""
        other, here = self.node.capabilities()
        impostor = replace(other, name=here.short_id)
        self.patch(self.node, "capabilities", lambda: [impostor, here])
        self.assertEqual(self.get(f"/v1/capabilities/{here.short_id}").status, 409)

    def test_a_node_that_is_here_wins(self) -> None:
        """A name that a node has as well which is not linked means the one that is."""
        lost, here = self.node.capabilities()
        twins = [replace(lost, name="twin", state="lost"), replace(here, name="twin")]
        self.patch(self.node, "capabilities", lambda: twins)
        self.assertEqual(self.get("/v1/capabilities/twin").json()["peer_id"], here.peer_id)
        twins[0] = replace(lost, name="twin", state="discovered")
        self.assertEqual(self.get("/v1/capabilities/twin").json()["peer_id"], here.peer_id)
        twins[1] = replace(twins[1], state="lost")
        self.assertEqual(self.get("/v1/capabilities/twin").status, 409)

    def test_config(self) -> None:
        """Keys, values and sources."""
        entries = self.get("/v1/config").json()["config"]
        self.assertEqual(entries[0], {"key": "name", "value": "walnut", "source": "flag --name"})

    def test_doctor(self) -> None:
        """The findings, once the checks have ended."""
        waiting: Deferred[Sequence[Finding]] = Deferred()
        self.node.findings = waiting
        answer = self.get("/v1/doctor")
        self.assertEqual(answer.body, b"")
        waiting.callback([])
        self.assertEqual(answer.json(), {"findings": []})

    def test_errors(self) -> None:
        """Each mistake of a client is told in JSON, with its status."""
        for path, method, status, code in (
            ("/nothing", "GET", 404, "not_found"),
            ("/v1/status", "POST", 405, "method_not_allowed"),
            ("/v1/events?recent=x", "GET", 400, "bad_argument"),
        ):
            answer = self.get(path, method)
            self.assertEqual((answer.status, answer.json()["error"]["code"]), (status, code))

    def test_failures_of_the_node(self) -> None:
        """What the node cannot answer is 500: its own errors in words, faults in the log only."""

        def refuse() -> Any:
            raise BzzzError("the mesh is stopping")

        self.node.peers = refuse  # type: ignore[method-assign]
        answer = self.get("/v1/peers")
        self.assertEqual(answer.status, 500)
        self.assertEqual(
            answer.json()["error"], {"code": "node_error", "message": "the mesh is stopping"}
        )

        def fail() -> Any:
            raise ZeroDivisionError("secret")

        self.node.peers = fail  # type: ignore[method-assign]
        answer = self.get("/v1/peers")
        self.assertEqual((answer.status, answer.json()["error"]["code"]), (500, "internal_error"))
        self.assertNotIn(b"secret", answer.body)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_recent_events(self) -> None:
        """The recent events, at most as many as asked for, and then the end."""
        for number in range(5):
            self.node.log.emit("tick", number=number)
        answer = self.get("/v1/events")
        self.assertIn("application/x-ndjson", answer.head)
        self.assertEqual([line["number"] for line in answer.lines()], [0, 1, 2, 3, 4])
        self.assertTrue(answer.ended)
        answer = self.get("/v1/events?recent=2")
        self.assertEqual([line["number"] for line in answer.lines()], [3, 4])
        self.assertEqual(self.get("/v1/events?recent=0").lines(), [])

    def test_follow(self) -> None:
        """A follower gets the recent events and each new one, until it leaves."""
        self.node.log.emit("old")
        answer = self.get("/v1/events?follow=1")
        self.node.log.emit("new")
        self.assertEqual([line["event"] for line in answer.lines()], ["old", "new"])
        self.assertFalse(answer.ended)
        answer.disconnect()
        self.node.log.emit("later")
        self.assertEqual(len(answer.lines()), 2)
        self.assertEqual(self.node.log._subscribers, {})

    def test_slow_follower(self) -> None:
        """A follower that does not read costs a limited amount, and is told of its loss."""
        answer = self.get("/v1/events?follow=1")
        producer: Any = answer.transport.producer
        producer.pauseProducing()
        for number in range(200):
            self.node.log.emit("message", number=number, text="x" * 20_000)
        self.assertEqual(answer.lines(), [])
        producer.resumeProducing()
        lost, *lines = answer.lines()
        self.assertEqual(lost["event"], "events_dropped")
        self.assertEqual(lost["count"] + len(lines), 200)
        self.assertLessEqual(len(answer.body), stream.MAX_QUEUED_BYTES + 1000)
        self.assertEqual(lines[-1]["number"], 199)

    def test_too_many_followers(self) -> None:
        """More followers than the limit are refused; one that leaves makes room."""
        for _ in range(api.MAX_FOLLOWERS + 1):
            answer = self.get("/v1/events?follow=1", "HEAD")
            self.assertEqual((answer.status, answer.body), (200, b""))
        followers = [self.get("/v1/events?follow=1") for _ in range(api.MAX_FOLLOWERS)]
        self.assertEqual(self.get("/v1/events?follow=1").status, 503)
        self.assertEqual(self.get("/v1/events").status, 200)
        followers[0].disconnect()
        self.assertEqual(self.get("/v1/events?follow=1").status, 200)

    def test_close(self) -> None:
        """When the node stops the followers' answers end in order."""
        answer = self.get("/v1/events?follow=1")
        self.control.close()
        self.assertTrue(answer.ended)
        self.node.log.emit("later")
        self.assertEqual(answer.lines(), [])

    def test_next_question(self) -> None:
        """A connection carries one question after the other, and is closed where none comes for
        a while, which is shorter than for the first."""
        sent = self.get("/v1/id")
        sent.clock.advance(site.BETWEEN_QUESTIONS - 1)
        sent.transport.clear()
        sent.ask("/v1/id")
        self.assertEqual(sent.status, 200)
        sent.clock.advance(site.BETWEEN_QUESTIONS - 1)
        self.assertFalse(sent.transport.disconnecting)
        infos = lines_at(self, LogLevel.info)
        sent.clock.advance(1)
        self.assertTrue(sent.transport.disconnecting)
        # Nothing is broken off: what the client has not read yet waits for it.
        sent.clock.advance(3600)
        self.assertFalse(sent.transport.disconnected)
        self.assertEqual((sent.clock.getDelayedCalls(), infos), ([], []))

    def test_long_answer(self) -> None:
        """An answer may take as long as it takes, also the second one on its connection."""
        sent = self.get("/v1/id")
        sent.ask("/v1/events?follow=1")
        sent.clock.advance(3600)
        self.assertFalse(sent.transport.disconnecting)
        self.control.close()
        self.assertTrue(sent.ended)
        sent.clock.advance(site.BETWEEN_QUESTIONS)
        self.assertTrue(sent.transport.disconnecting)

    def test_two_at_once(self) -> None:
        """The time for the next question does not run while one that came early is answered."""
        sent = self.get("/v1/events?follow=1")
        sent.ask("/v1/events?follow=1")
        self.control.close()
        sent.clock.advance(3600)
        self.assertFalse(sent.transport.disconnecting)

    def test_first_question(self) -> None:
        """Who has just connected has longer."""
        clock = Clock()
        made = self.control.site(clock)
        channel = made.buildProtocol(None)
        transport = StringTransport()
        channel.makeConnection(transport)
        clock.advance(site.IDLE_TIMEOUT - 1)
        self.assertFalse(transport.disconnecting)
        clock.advance(1)
        self.assertTrue(transport.disconnecting)

    def test_stopped(self) -> None:
        """At a stop, connections that wait are closed, and the others once they are answered."""
        made = self.control.site(Clock())
        transports = [StringTransport() for _ in range(3)]
        for transport, path in zip(transports, ("id", "events?follow=1", "id"), strict=True):
            channel = made.buildProtocol(None)
            channel.makeConnection(transport)
            channel.dataReceived(f"GET /v1/{path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        channel.connectionLost(Failure(ConnectionDone()))
        made.close()
        self.assertEqual([each.disconnecting for each in transports], [True, False, False])
        self.control.close()
        self.assertTrue(transports[1].disconnecting)

    def test_idle(self) -> None:
        """Without a connection no timer wakes the node."""
        clock = Clock()
        made = self.control.site(clock)
        made.doStart()
        self.assertEqual(clock.getDelayedCalls(), [])
        made.doStop()
