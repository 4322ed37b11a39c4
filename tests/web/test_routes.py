"""Routes of another module: writes, and answers that are long in coming."""

from __future__ import annotations

import json
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.logger import LogLevel
from twisted.trial.unittest import SynchronousTestCase

from bzzz.errors import BzzzError
from bzzz.web import requests, routes, stream
from bzzz.web.api import ControlApi
from bzzz.web.credentials import Accounts, Credentials
from bzzz.web.requests import Body, Refusal
from bzzz.web.routes import RoutesWhen, RouteTable
from bzzz.web.stream import LineStream
from tests.logs import lines_at
from tests.web.fakes import FakeNode
from tests.web.test_api import SOMEBODY, Exchange


class Nut(Body, frozen=True):
    """One part of an order."""

    kind: str
    count: int = 1


class Order(Body, frozen=True):
    """What the test's route takes."""

    name: str
    nuts: tuple[Nut, ...] = ()


class OtherRoutes:
    """Another module's."""

    def add_to(self, table: RouteTable) -> None:
        table.get("/v1/others", lambda request: {"others": 1})


class NutRoutes:
    """Routes of a test.

    :ivar done: what was asked for, and by whom.
    :ivar waiting: what the work waits for.
    :ivar held: whether the lines of those that wait are held.
    """

    def __init__(self) -> None:
        self.done: list[Any] = []
        self.waiting: Deferred[Any] = Deferred()
        self.streams: list[LineStream] = []
        self.held = False

    def add_to(self, table: RouteTable) -> None:
        table.get("/v1/nuts", lambda request: {"nuts": 7})
        table.post("/v1/nuts", self.order, Order)
        table.post("/v1/shake", self.shake)
        table.delete("/v1/nuts/<name>", self.remove)
        table.stream("/v1/crack", self.crack, Order)
        table.stream("/v1/wait", self.wait)

    async def order(self, by: Credentials, body: Order) -> Any:
        self.done.append((await by.user_name(), body))
        return {"ordered": await self.waiting}

    def shake(self, by: Credentials) -> None:
        self.done.append(by)

    def remove(self, by: Credentials, name: str) -> Deferred[str]:
        if name == "acorn":
            raise Refusal(404, "no_such_nut", f"there is no {name}")
        return succeed(name)

    async def crack(self, lines: LineStream, by: Credentials, body: Order) -> None:
        if not body.nuts:
            raise Refusal(409, "no_nuts", "there is nothing to crack")
        for nut in body.nuts:
            lines.send({"cracked": nut.kind})
        lines.send({"result": await self.waiting})

    async def wait(self, lines: LineStream, by: Credentials) -> None:
        self.streams.append(lines)
        if self.held:
            lines.hold()
        try:
            await self.waiting
        except CancelledError:
            self.done.append("hung up")
            raise


class RouteTests(SynchronousTestCase):
    """Asking them."""

    def setUp(self) -> None:
        self.nuts = NutRoutes()
        self.requests: list[tuple[Credentials, str]] = []
        self.control = ControlApi(
            FakeNode(), lambda: 0.0, [self.nuts], lambda *told: self.requests.append(told)
        )
        self.warnings = lines_at(self, LogLevel.warn)

    def ask(self, method: str, path: str, body: Any = None, **by: Any) -> Exchange:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        return Exchange(self.control, path, method, b"" if body is None else content, **by)

    def refused(self, exchange: Exchange) -> tuple[int, str, str]:
        error = exchange.json()["error"]
        return exchange.status, error["code"], error["message"]

    def test_starting(self) -> None:
        """Before the node has read what is on disk, others' routes do nothing, and say why."""
        ready = False
        self.control = ControlApi(FakeNode(), lambda: 0.0, [self.nuts], ready=lambda: ready)
        for method, path in (("GET", "/v1/nuts"), ("POST", "/v1/shake")):
            self.assertEqual(
                self.refused(self.ask(method, path)),
                (503, "starting", "the node is starting: try again in a moment"),
            )
        self.assertEqual(self.ask("GET", "/v1/id").status, 200)
        ready = True
        self.assertEqual(self.ask("POST", "/v1/shake").status, 200)

    def test_some_are_ready_later(self) -> None:
        """Routes of which something more has to be ready say so until it is, and those alone."""
        ready = {"node": False, "nuts": False}
        later = RoutesWhen(self.nuts, lambda: ready["nuts"])
        others = OtherRoutes()
        self.control = ControlApi(
            FakeNode(), lambda: 0.0, [later, others], ready=lambda: ready["node"]
        )
        for one, both, nuts, other in (
            ("nuts", True, 503, 503),
            ("node", True, 200, 200),
            ("nuts", False, 503, 200),
        ):
            ready[one] = both
            self.assertEqual(self.ask("GET", "/v1/nuts").status, nuts)
            self.assertEqual(self.ask("GET", "/v1/others").status, other)

    # -- one answer

    def test_get(self) -> None:
        """A route of another module stands beside those that every node has."""
        self.assertEqual(self.ask("GET", "/v1/nuts").json(), {"nuts": 7})
        self.assertEqual(self.ask("GET", "/v1/id").json()["name"], "walnut")

    def test_post(self) -> None:
        """The work has the body, checked, and who asks; what it gives is the answer."""
        nuts = [{"kind": "hazel", "count": 2}]
        answer = self.ask("POST", "/v1/nuts", {"name": "winter", "nuts": nuts})
        self.assertEqual(answer.body, b"")
        self.nuts.waiting.callback(2)
        self.assertEqual((answer.status, answer.json()), (200, {"ordered": 2}))
        order = Order(name="winter", nuts=(Nut(kind="hazel", count=2),))
        self.assertEqual(self.nuts.done, [(str(SOMEBODY.uid), order)])

    def test_nothing_to_say(self) -> None:
        """Work without a body and without a result is answered all the same."""
        answer = self.ask("POST", "/v1/shake")
        self.assertEqual((answer.status, answer.json()), (200, {}))
        self.assertEqual(self.nuts.done, [SOMEBODY])

    def test_delete(self) -> None:
        """Parts of the path are arguments; what is not there is told."""
        self.assertEqual(self.ask("DELETE", "/v1/nuts/hazel").json(), "hazel")
        self.assertEqual(
            self.refused(self.ask("DELETE", "/v1/nuts/acorn")),
            (404, "no_such_nut", "there is no acorn"),
        )

    def test_other_methods(self) -> None:
        """What a path does not take is refused."""
        for method, path in (("DELETE", "/v1/nuts"), ("GET", "/v1/shake"), ("PUT", "/v1/crack")):
            self.assertEqual(self.ask(method, path).status, 405)

    def test_nobody(self) -> None:
        """Nothing is changed for somebody whom nobody has checked."""
        order = {"name": "winter", "nuts": [{"kind": "hazel"}]}
        for method, path, body in (
            ("POST", "/v1/nuts", order),
            ("POST", "/v1/shake", None),
            ("DELETE", "/v1/nuts/hazel", None),
            ("POST", "/v1/crack", order),
            ("POST", "/v1/wait", None),
        ):
            self.assertEqual(
                self.refused(self.ask(method, path, body, by=None)),
                (403, "not_allowed", "this is done over the control socket only"),
            )
        self.assertEqual((self.nuts.done, self.nuts.streams), ([], []))

    def test_on_request(self) -> None:
        """Each request that changes something is told before, with the route and who asks."""
        order = {"name": "winter", "nuts": [{"kind": "hazel"}]}
        self.ask("GET", "/v1/nuts")
        self.assertEqual(self.requests, [])
        for method, path, body, told in (
            ("POST", "/v1/nuts", order, "POST /v1/nuts"),
            ("POST", "/v1/nuts", b"{", "POST /v1/nuts"),
            ("POST", "/v1/shake", None, "POST /v1/shake"),
            ("DELETE", "/v1/nuts/acorn", None, "DELETE /v1/nuts/<name>"),
            ("POST", "/v1/crack", order, "POST /v1/crack"),
            ("POST", "/v1/wait", None, "POST /v1/wait"),
        ):
            self.ask(method, path, body)
            self.assertEqual(self.requests.pop(), (SOMEBODY, told))
            self.assertEqual(self.requests, [])
        self.ask("POST", "/v1/shake", by=None)
        self.assertEqual(self.requests, [])

    def test_wrong_body(self) -> None:
        """What is wrong with a body is told with the field's name."""
        for body, message in (
            ({"name": 3}, "name: expected `str`, got `int`"),
            ({}, "name: is missing"),
            ({"name": "a", "nutz": []}, "nutz: there is no such field"),
            ({"name": "a", "nuts": [{}]}, "nuts[0].kind: is missing"),
            ({"name": "a", "nuts": [{"kind": "b", "size": 1}]}, "nuts[0].size: there is no such"),
            ({"name": "a", "nuts": [{"kind": "b", "count": "1"}]}, "nuts[0].count: expected `int`"),
            ([], "the body: expected `object`, got `array`"),
            (b"{", "the body cannot be read: Input data was truncated"),
            (b"nuts", "the body cannot be read: JSON is malformed"),
            (b'{"name": "\xff"}', "the body cannot be read: "),
            (b'{"name": ' + b"[" * 100_000, "name: expected `str`, got `array`"),
            (None, "a body is missing"),
        ):
            status, code, said = self.refused(self.ask("POST", "/v1/nuts", body))
            self.assertEqual((status, code), (400, "bad_body"))
            self.assertIn(message, said)
        self.assertEqual(self.nuts.done, [])

    def test_only_json(self) -> None:
        """A body has to say that it is JSON, in any spelling of that."""
        order = b'{"name": "winter"}'
        for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""):
            header = f"Content-Type: {kind}" if kind else "X: y"
            refused = Exchange(self.control, "/v1/nuts", "POST", order, header)
            self.assertEqual(
                self.refused(refused),
                (
                    415,
                    "not_json",
                    "the body of a request has to be of Content-Type: application/json",
                ),
            )
        self.nuts.waiting = succeed(1)
        spelt = "Content-Type: Application/JSON; charset=utf-8"
        self.assertEqual(Exchange(self.control, "/v1/nuts", "POST", order, spelt).status, 200)

    def test_large_body(self) -> None:
        """A body that is too large is read to its end, not kept, and refused."""
        largest = b'{"name": "' + b"x" * (requests.MAX_BODY_BYTES - 12) + b'"}'
        self.assertEqual(len(largest), requests.MAX_BODY_BYTES)
        self.nuts.waiting = succeed(1)
        self.assertEqual(self.ask("POST", "/v1/nuts", largest).status, 200)
        self.nuts.done.clear()
        self.assertEqual(
            self.refused(self.ask("POST", "/v1/nuts", largest + b" ")),
            (413, "too_large", f"the body of a request may have {requests.MAX_BODY_BYTES} bytes"),
        )
        self.assertEqual(self.refused(self.ask("POST", "/v1/id", largest * 2))[0], 413)
        self.assertEqual(self.nuts.done, [])

    def test_body_without_end(self) -> None:
        """A body in chunks has the same limit; one that goes on and on ends the connection."""
        sent = Exchange(
            self.control,
            "/v1/nuts",
            "POST",
            b"",
            "Transfer-Encoding: chunked",
            "Content-Type: application/json",
        )
        chunk = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"
        (request,) = sent.protocol.requests
        for number in range(requests.MAX_DISCARDED_BYTES // 0x10000):
            sent.protocol.dataReceived(chunk)
            self.assertLessEqual(len(request._body.getvalue()), requests.MAX_BODY_BYTES, number)
        self.assertFalse(sent.transport.disconnecting)
        sent.protocol.dataReceived(chunk)
        self.assertTrue(sent.transport.disconnecting)

    def test_client_leaves(self) -> None:
        """Work that has begun goes on when the client hangs up; how it failed is in the log."""
        for outcome, logged in ((2, []), (BzzzError("no wind"), ["/v1/nuts has failed: no wind"])):
            self.nuts.waiting = Deferred()
            answer = self.ask("POST", "/v1/nuts", {"name": "winter"})
            answer.disconnect()
            self.assertFalse(self.nuts.waiting.called)
            if isinstance(outcome, int):
                self.nuts.waiting.callback(outcome)
            else:
                self.nuts.waiting.errback(outcome)
            self.assertEqual(self.warnings, logged)
            self.assertEqual(answer.transport.value(), b"")
        self.nuts.waiting = Deferred()
        self.ask("POST", "/v1/nuts", {"name": "winter"}).disconnect()
        self.nuts.waiting.errback(ZeroDivisionError())
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_failures(self) -> None:
        """The node's own errors are told, faults are in the log only."""
        for error, code in (
            (Refusal(409, "busy", "not now"), (409, "busy", "not now")),
            (BzzzError("no wind"), (500, "node_error", "no wind")),
        ):
            self.nuts.waiting = Deferred()
            answer = self.ask("POST", "/v1/nuts", {"name": "winter"})
            self.nuts.waiting.errback(error)
            self.assertEqual(self.refused(answer), code)
        self.nuts.waiting = Deferred()
        answer = self.ask("POST", "/v1/nuts", {"name": "winter"})
        self.nuts.waiting.errback(ZeroDivisionError("secret"))
        self.assertEqual(self.refused(answer)[:2], (500, "internal_error"))
        self.assertNotIn(b"secret", answer.body)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    # -- lines

    def crack(self) -> Exchange:
        nuts = [{"kind": "hazel"}, {"kind": "wal"}]
        return self.ask("POST", "/v1/crack", {"name": "winter", "nuts": nuts})

    def test_lines(self) -> None:
        """Lines come as they are sent; the answer ends with the work."""
        answer = self.crack()
        self.assertEqual(answer.status, 200)
        self.assertIn("application/x-ndjson", answer.head)
        self.assertEqual(answer.lines(), [{"cracked": "hazel"}, {"cracked": "wal"}])
        self.assertFalse(answer.ended)
        self.nuts.waiting.callback(2)
        self.assertEqual(answer.lines()[2:], [{"result": 2}])
        self.assertTrue(answer.ended)

    def test_held(self) -> None:
        """Lines that are held come together when they are released, and then each by itself."""
        self.nuts.held = True
        answer = self.ask("POST", "/v1/wait")
        (lines,) = self.nuts.streams
        lines.send({"a": 1})
        lines.send({"b": 2})
        self.assertEqual(answer.transport.value(), b"")
        self.assertTrue(lines.ready().called)
        lines.release()
        self.assertEqual((answer.status, answer.lines()), (200, [{"a": 1}, {"b": 2}]))
        lines.send({"c": 3})
        self.assertEqual(answer.lines()[2:], [{"c": 3}])

    def test_held_and_ended(self) -> None:
        """Nothing that is held is lost: not at the end, nor when it fails, or the node stops."""
        for number, (end, last) in enumerate(
            (
                (lambda lines: lines.end(), []),
                (lambda lines: lines.fail("x", "why"), [("x", "why")]),
                (lambda lines: self.control.close(), [("stopping", "the node stops")]),
            )
        ):
            self.nuts.held = True
            self.nuts.waiting = Deferred()
            answer = self.ask("POST", "/v1/wait")
            lines = self.nuts.streams[number]
            lines.send({"a": 1})
            end(lines)
            errors = [{"error": {"code": code, "message": message}} for code, message in last]
            self.assertEqual(answer.lines(), [{"a": 1}, *errors])
            self.assertTrue(answer.ended)
            lines.release()
            self.assertEqual(len(answer.lines()), 1 + len(errors))

    def test_held_and_many(self) -> None:
        """No more is held than is written at one time."""
        self.nuts.held = True
        answer = self.ask("POST", "/v1/wait")
        (lines,) = self.nuts.streams
        for number in range(9):
            lines.send({"number": number, "text": "x" * 10_000})
        self.assertEqual([line["number"] for line in answer.lines()], list(range(7)))
        lines.release()
        self.assertEqual([line["number"] for line in answer.lines()], list(range(9)))

    def test_held_and_slow(self) -> None:
        """When they are released, a client that does not read is waited for as ever."""
        self.nuts.held = True
        answer = self.ask("POST", "/v1/wait")
        (lines,) = self.nuts.streams
        producer: Any = answer.transport.producer
        producer.pauseProducing()
        lines.send({"a": 1})
        lines.release()
        self.assertEqual(answer.lines(), [])
        producer.resumeProducing()
        self.assertEqual(answer.lines(), [{"a": 1}])

    def test_no_stream(self) -> None:
        """What is refused before the first line is refused as any other request is."""
        answer = self.ask("POST", "/v1/crack", {"name": "winter"})
        self.assertEqual(self.refused(answer), (409, "no_nuts", "there is nothing to crack"))
        self.assertEqual(self.refused(self.ask("POST", "/v1/crack", {}))[0], 400)

    def test_lines_that_fail(self) -> None:
        """What goes wrong later is the last line; a fault is in the log only."""
        for error, code, message in (
            (Refusal(409, "busy", "not now"), "busy", "not now"),
            (BzzzError("no wind"), "node_error", "no wind"),
            (ZeroDivisionError("x"), "internal_error", "the node's log has what went wrong"),
            (CancelledError(), "internal_error", "the node's log has what went wrong"),
        ):
            self.nuts.waiting = Deferred()
            answer = self.crack()
            self.nuts.waiting.errback(error)
            self.assertEqual(answer.lines()[2:], [{"error": {"code": code, "message": message}}])
            self.assertTrue(answer.ended)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError, CancelledError)), 2)

    def test_hung_up(self) -> None:
        """When the client hangs up, the work is told, and what it sends goes nowhere."""
        answer = self.ask("POST", "/v1/wait")
        ended: list[bool] = []
        (lines,) = self.nuts.streams
        lines.on_end(lambda: ended.append(lines.hung_up))
        answer.disconnect()
        self.assertEqual((self.nuts.done, ended), (["hung up"], [True]))
        lines.send({"a": 1})
        lines.fail("late", "too late")
        lines.end()
        self.assertTrue(self.successResultOf(lines.ready()) is None)
        self.assertEqual(answer.lines(), [])
        self.assertEqual(len(self.control._streams), 0)

    def test_node_stops(self) -> None:
        """When the node stops, the work is told, and the client by a last line."""
        answer = self.ask("POST", "/v1/wait")
        self.control.close()
        self.assertEqual(self.nuts.done, ["hung up"])
        self.assertEqual(
            answer.lines(), [{"error": {"code": "stopping", "message": "the node stops"}}]
        )
        self.assertTrue(answer.ended)
        self.assertFalse(self.nuts.streams[0].hung_up)

    def test_too_many(self) -> None:
        """More streams than the limit are refused; one that ends makes room."""
        waiting = [self.ask("POST", "/v1/wait") for _ in range(routes.MAX_STREAMS)]
        refused = self.ask("POST", "/v1/wait")
        self.assertEqual(self.refused(refused)[:2], (503, "too_many_streams"))
        self.assertEqual(len(self.nuts.streams), routes.MAX_STREAMS)
        waiting[0].disconnect()
        self.assertEqual(self.ask("POST", "/v1/wait").status, 200)

    def test_slow_client(self) -> None:
        """Work that waits until the client is ready loses no line, and keeps few."""
        answer = self.ask("POST", "/v1/wait")
        (lines,) = self.nuts.streams
        producer: Any = answer.transport.producer
        producer.pauseProducing()
        sent = 0
        while lines.ready().called:
            lines.send({"number": sent, "text": "x" * 1000})
            sent += 1
        ready = lines.ready()
        self.assertLess(sent, 100)
        self.assertEqual(answer.lines(), [])
        producer.resumeProducing()
        self.successResultOf(ready)
        self.assertEqual([line["number"] for line in answer.lines()], list(range(sent)))

    def test_client_too_slow(self) -> None:
        """Work that does not wait, for a client that does not read, is ended at the limit."""
        answer = self.ask("POST", "/v1/wait")
        (lines,) = self.nuts.streams
        producer: Any = answer.transport.producer
        producer.pauseProducing()
        for number in range(200):
            lines.send({"number": number, "text": "x" * 20_000})
        self.assertEqual(self.nuts.done, ["hung up"])
        (last,) = answer.lines()
        self.assertEqual(last["error"]["code"], "too_slow")
        self.assertIn(str(stream.MAX_QUEUED_BYTES), last["error"]["message"])
        self.assertTrue(answer.ended)

    def test_many_at_once(self) -> None:
        """Lines that are sent together may be more than may wait, for a client that reads."""
        answer = self.ask("POST", "/v1/wait")
        (lines,) = self.nuts.streams
        lines.send_all({"number": number, "text": "x" * 20_000} for number in range(200))
        self.assertEqual([line["number"] for line in answer.lines()], list(range(200)))
        self.assertEqual(self.nuts.done, [])
        producer: Any = answer.transport.producer
        producer.pauseProducing()
        lines.send_all({"number": number, "text": "x" * 20_000} for number in range(200))
        self.assertEqual(answer.lines()[-1]["error"]["code"], "too_slow")

    def test_too_much_at_once(self) -> None:
        """The limit holds also for what is sent before the answer has begun."""

        async def flood(lines: LineStream, by: Credentials) -> None:
            for _ in range(200):
                lines.send("x" * 20_000)
            await self.nuts.wait(lines, by)

        class Flood:
            def add_to(self, table: RouteTable) -> None:
                table.stream("/v1/flood", flood)

        self.control = ControlApi(FakeNode(), lambda: 0.0, [Flood()])
        answer = self.ask("POST", "/v1/flood")
        (last,) = answer.lines()
        self.assertEqual(last["error"]["code"], "too_slow")
        self.assertTrue(answer.ended)
        self.assertEqual(self.nuts.done, ["hung up"])

    def test_who(self) -> None:
        """What is told of who asks is what the kernel said of that connection."""
        root = Credentials(17, 0, 0, Accounts(lambda look: succeed(look())))
        self.ask("POST", "/v1/shake", by=root)
        self.ask("POST", "/v1/shake")
        self.assertEqual([by.uid for by in self.nuts.done], [0, SOMEBODY.uid])
