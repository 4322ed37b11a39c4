"""What all three clients do, on a real socket, as what can go wrong is its."""

from __future__ import annotations

import select
import socket
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

from twisted.trial.unittest import TestCase

from bzzz.client import NoNode, Refused, TaskFailed, conversation, core
from bzzz.client.lines import MAX_LINE
from tests.client.fake_node import (
    ID,
    NEXT,
    FakeNode,
    Step,
    chunks,
    error,
    line,
    output,
    stay,
    task,
    whole,
)

__all__ = ["ContractCase"]

Scenario = Callable[[Any], Awaitable[None]]

NODE = {"peer_id": "12D3KooWx", "name": "walnut"}


class ContractCase(TestCase):
    """The tests, for one kind of client. :meth:`play` makes each of its methods one to await."""

    # A test that waits for what does not come is a failure, and not a test that hangs.
    timeout = 20

    def setUp(self) -> None:
        directory = tempfile.TemporaryDirectory(prefix="bzzz-")
        self.addCleanup(directory.cleanup)
        self.runtime_dir = Path(directory.name)
        self.path = self.runtime_dir / "control.sock"
        self.patch(conversation, "AGAIN", 0.01)

    def play(self, scenario: Scenario) -> Any:
        """Have this done with a client of :attr:`runtime_dir`."""
        raise NotImplementedError

    def node(self, *connections: Sequence[Step]) -> FakeNode:
        node = FakeNode(self.path)
        self.addCleanup(node.close)
        node.serve(*connections)
        return node

    async def fails(self, kind: type[Exception], work: Awaitable[object]) -> Any:
        try:
            result = await work
        except kind as raised:
            return raised
        return self.fail(f"{result!r} and not {kind.__name__}")

    # -- what is asked

    def test_questions(self) -> Any:
        """Each is asked of its path, and answered by typed values."""
        verdict = {**NODE, "fits": False, "unfit": [{"code": "cpus", "text": "few", "never": True}]}
        member = {
            "short_id": "x",
            "role": "admin",
            "rights": ["run"],
            "connected": True,
            "self": True,
            "admitted_by": "y",
            "admitted_by_name": None,
            "since": "",
        }
        answers: list[object] = [
            {**NODE, "a_field_of_later": 1},
            {"cluster": "lab", "members": [{**NODE, **member}]},
            {"nodes": [{**NODE, "self": True, "capabilities": {"node_id": "x", "models": ["m"]}}]},
            {},
            {},
            {"name": "oak"},
            {"name": "oak"},
            {"tasks": [task("running")], "more": True, "asked": 2, "answered": 1},
            {"tasks": []},
            task("waiting", replica_names=["walnut"]),
            task("running"),
            {"nodes": [verdict]},
            task("cancelled", cancel=True),
            task("waiting"),
        ]
        node = self.node(*([whole(answer)] for answer in answers))

        async def scenario(client: Any) -> None:
            self.assertEqual((await client.status()).name, "walnut")
            self.assertTrue((await client.members())[0].is_self)
            self.assertEqual((await client.capabilities())[0].capabilities.models, ("m",))
            self.assertIsNone(await client.drain())
            self.assertIsNone(await client.undrain())
            self.assertIsNone(await client.drain("oak"))
            self.assertIsNone(await client.undrain(node="oak"))
            listed = await client.tasks()
            self.assertEqual([each.id for each in listed], [ID])
            self.assertEqual((len(listed), listed.more, listed.answered), (1, True, 1))
            await client.tasks(ended=True, limit=5, before="B", since="S")
            found = await client.task("JBW/Y")
            self.assertEqual((found.id, found.replicas), (ID, ("walnut",)))
            self.assertFalse((await found.info()).has_ended)
            why = await found.why()
            self.assertEqual((why[0].could, why[0].unfit[0].text), (False, "few"))
            self.assertTrue((await found.cancel()).cancel)
            self.assertEqual((await found.retry()).state, "waiting")
            node.close()
            self.assertEqual(
                node.asked,
                [
                    ("GET", "/v1/status", None),
                    ("GET", "/v1/members", None),
                    ("GET", "/v1/capabilities", None),
                    ("POST", "/v1/drain", {"on": True}),
                    ("POST", "/v1/drain", {"on": False}),
                    ("POST", "/v1/drain", {"on": True, "node": "oak"}),
                    ("POST", "/v1/drain", {"on": False, "node": "oak"}),
                    ("GET", "/v1/tasks?limit=100&open=1", None),
                    ("GET", "/v1/tasks?limit=5&before=B&since=S", None),
                    ("GET", "/v1/tasks/JBW%2FY", None),
                    ("GET", f"/v1/tasks/{ID}", None),
                    ("GET", f"/v1/tasks/{ID}/why", None),
                    ("POST", f"/v1/tasks/{ID}/cancel", None),
                    ("POST", f"/v1/tasks/{ID}/retry", None),
                ],
            )

        return self.play(scenario)

    def test_run(self) -> Any:
        """A command's output and exit status, and what was asked for."""
        ended = task("failed", exit_status=3, worker_name="oak", why="")
        node = self.node(
            [
                chunks(
                    line(event="id", task=ID),
                    line(event="kept", replicas=["walnut"]),
                    line(event="waiting", why="for a machine"),
                    line(event="running", worker="x", worker_name="oak", token=1),
                    output("stdout", b"a\n"),
                    line(event="of_later", data=""),
                    output("stderr", b"b\n"),
                    output("stdout", b"\xff\n"),
                    line(event="ended", task=ended),
                )
            ]
        )

        async def scenario(client: Any) -> None:
            result = await client.run(["make"], memory="1KiB", timeout="2m", env={"A": "b"}, cpus=2)
            self.assertEqual((result.exit_status, result.stderr), (3, b"b\n"))
            self.assertEqual((result.stdout, result.truncated), (b"a\n\xff\n", False))
            self.assertFalse(result.succeeded)
            node.close()
            body = {
                "command": ["make"],
                "memory": 1024,
                "timeout": 120.0,
                "env": {"A": "b"},
                "cpus": 2,
                "follow": True,
            }
            self.assertEqual(node.asked, [("POST", "/v1/tasks", body)])

        return self.play(scenario)

    def test_check(self) -> Any:
        """A task that did not succeed is an error where that is asked for."""
        lost = task("lost", why="n2 was lost", worker_name="n2")
        self.node([chunks(line(event="id", task=ID), line(event="ended", task=lost))])

        async def scenario(client: Any) -> None:
            failed = await self.fails(TaskFailed, client.run(["make"], check=True))
            self.assertEqual(str(failed), f"task {ID} was lost on n2: n2 was lost")
            self.assertEqual((failed.task, failed.result.exit_status), (ID, None))

        return self.play(scenario)

    def test_wrong_options(self) -> Any:
        """What no node could be asked is told before one is."""

        async def scenario(client: Any) -> None:
            self.assertIn("a list of words", str(await self.fails(TypeError, client.run("make"))))
            self.assertIn("'wher'", str(await self.fails(TypeError, client.submit(["x"], wher=""))))
            await self.fails(ValueError, client.run_each([]))
            self.assertIn(
                "memory=", str(await self.fails(ValueError, client.run(["x"], memory="x")))
            )

        return self.play(scenario)

    def test_submit(self) -> Any:
        """A task is there when it is kept; then it can be waited for."""
        node = self.node(
            [chunks(line(event="id", task=ID), line(event="kept", replicas=["walnut", "oak"]))],
            [chunks(output("stdout", b"x"), line(event="ended", task=task()))],
        )

        async def scenario(client: Any) -> None:
            kept = await client.submit(["make"])
            self.assertEqual((kept.id, kept.replicas), (ID, ("walnut", "oak")))
            self.assertEqual((await kept.wait()).check().stdout, b"x")
            node.close()
            self.assertEqual(node.asked[0].body, {"command": ["make"], "follow": False})
            self.assertEqual(node.asked[1], ("POST", f"/v1/tasks/{ID}/output", {"follow": True}))

        return self.play(scenario)

    def test_not_kept(self) -> Any:
        """A task whose keeping was not told is an error that has its ID."""
        self.node(
            [chunks(line(event="id", task=ID))],
            [chunks(line(event="id", task=ID), line(error={"code": "unknown", "message": "?"}))],
        )

        async def scenario(client: Any) -> None:
            self.assertEqual((await self.fails(NoNode, client.submit(["make"]))).task, ID)
            refused = await self.fails(Refused, client.submit(["make"]))
            self.assertEqual((refused.code, refused.task, str(refused)), ("unknown", ID, "?"))

        return self.play(scenario)

    def test_run_each(self) -> Any:
        """Every node that it could ever fit has it; what one refuses is told with its name."""
        never = [{"code": "cpus", "text": "", "never": True}]
        later = [{"code": "cpus", "text": "", "never": False}]
        verdicts = [
            {"peer_id": "P1", "name": "n1", "fits": True, "unfit": []},
            {"peer_id": "P2", "name": "n2", "fits": False, "unfit": never},
            {"peer_id": "P3", "name": "n3", "fits": False, "unfit": later},
            {"peer_id": "P4", "name": "n4", "fits": True, "unfit": []},
        ]
        kept = [chunks(line(event="id", task=ID), line(event="kept", replicas=[]))]
        node = self.node(
            [whole({"nodes": verdicts})],
            list(kept),
            [error("unplaceable")],
            list(kept),
            [chunks(output("stdout", b"1"), line(event="ended", task=task()))],
            [chunks(output("stdout", b"1"), end=False)],
        )

        async def scenario(client: Any) -> None:
            results = await client.run_each(["uname"], cpus=2)
            self.assertEqual([each.name for each in results], ["n1", "n3", "n4"])
            self.assertEqual(results[0].result.stdout, b"1")
            self.assertEqual((results[1].result, results[1].error.code), (None, "unplaceable"))
            self.assertEqual((results[2].result, results[2].error.task), (None, ID))
            node.close()
            self.assertEqual(node.asked[0].path, "/v1/fitting")
            self.assertEqual([each.body.get("on") for each in node.asked[1:4]], ["P1", "P3", "P4"])

        return self.play(scenario)

    def test_run_many(self) -> Any:
        """Each has its result, or why there is none, in its order; as few questions as hold them
        are asked."""
        lines = [
            line(event="id", place=0, task=ID),
            line(event="id", place=1, task=ID),
            line(event="kept", place=0, replicas=[]),
            line(event="refused", place=1, code="unknown", message="?"),
            line(event="refused", place=2, code="unplaceable", message="no"),
            line(event="stdout", place=3, data="Mw=="),
            line(event="stdout", place=0, data="MA=="),
            line(event="ended", place=3, task=task()),
            line(event="ended", place=0, task=task()),
        ]
        node = self.node(
            [chunks(*lines)], [chunks(line(event="ended", place=0, task=task("failed")))]
        )
        self.patch(core, "QUESTION", 200)

        async def scenario(client: Any) -> None:
            commands = [["a"], ["b"], ["c"], ["d"], ["e" * 150]]
            first, second, third, fourth, fifth = await client.run_many(commands, cpus=2)
            self.assertEqual((first.stdout, fourth.stdout), (b"0", b"3"))
            self.assertEqual((second.code, second.task, third.code), ("unknown", ID, "unplaceable"))
            self.assertFalse(fifth.succeeded)
            node.close()
            self.assertEqual([each.path for each in node.asked], ["/v1/tasks/many"] * 2)
            self.assertEqual([len(each.body["tasks"]) for each in node.asked], [4, 1])
            self.assertEqual(
                node.asked[1].body["tasks"], [{"command": commands[4], "cpus": 2, "follow": True}]
            )

        return self.play(scenario)

    def test_run_many_cut_short(self) -> Any:
        """An answer that ends before all have ended says so."""
        self.node([chunks(line(event="ended", place=1, task=task()))])

        async def scenario(client: Any) -> None:
            self.assertEqual(await client.run_many([]), [])
            await self.fails(NoNode, client.run_many([["a"], ["b"]]))

        return self.play(scenario)

    def test_run_on_none(self) -> Any:
        """Where it fits no node it is refused."""
        self.node([whole({"nodes": []})])

        async def scenario(client: Any) -> None:
            refused = await self.fails(Refused, client.run_each(["uname"]))
            self.assertEqual(refused.code, "unplaceable")

        return self.play(scenario)

    # -- output

    def test_output(self) -> Any:
        """Parts in their order, whatever else is told; the last is the last before the end."""
        parts = [
            line(event="running", worker="x", worker_name="oak", token=1),
            output("stdout", b"1"),
            output("stderr", b"2"),
            line(event="running", worker="y", worker_name="elm", token=2),
            output("stdout", b"3"),
        ]
        node = self.node(
            [whole(task("running"))],
            [chunks(*parts, line(event="ended", task=task()))],
            [chunks(*parts)],
        )

        async def scenario(client: Any) -> None:
            found = await client.task(ID)
            expected = [("stdout", b"1"), ("stderr", b"2"), ("stdout", b"3")]
            self.assertEqual([part async for part in found.output()], expected)
            # What there is of a task that has not ended ends without an end.
            self.assertEqual([part async for part in found.output(follow=False)], expected)
            node.close()
            self.assertEqual(
                [each.body for each in node.asked[1:]], [{"follow": True}, {"follow": False}]
            )

        return self.play(scenario)

    def test_output_without_an_end(self) -> Any:
        """Who follows a task is told when its end did not come."""
        self.node([whole(task("running"))], [chunks(output("stdout", b"1"))])

        async def scenario(client: Any) -> None:
            parts = (await client.task(ID)).output()
            self.assertEqual(await parts.__anext__(), ("stdout", b"1"))
            self.assertEqual((await self.fails(NoNode, parts.__anext__())).task, ID)
            await self.fails(StopAsyncIteration, parts.__anext__())

        return self.play(scenario)

    def test_second_attempt(self) -> Any:
        """A result has what its own attempt printed."""
        self.node(
            [
                chunks(
                    line(event="id", task=ID),
                    line(event="running", token=1),
                    output("stdout", b"of the first"),
                    line(event="waiting", why=""),
                    line(event="running", token=2),
                    output("stdout", b"of the second"),
                    line(event="running", token=2),
                    line(event="ended", task=task()),
                )
            ]
        )

        async def scenario(client: Any) -> None:
            self.assertEqual((await client.run(["make"])).stdout, b"of the second")

        return self.play(scenario)

    def test_huge_output(self) -> Any:
        """A result has as much as it may; the rest is read, and told to be missing."""
        part = output("stdout", bytes(32 << 10))
        body = chunks(*[part] * 256, line(event="ended", task=task()))
        self.node([body], [whole(task("running"))], [body])

        async def scenario(client: Any) -> None:
            result = await client.run(["yes"], max_output=100_000)
            self.assertEqual((len(result.stdout), result.truncated), (100_000, True))
            got = 0
            async for stream, data in (await client.task(ID)).output():
                self.assertEqual(stream, "stdout")
                got += len(data)
            self.assertEqual(got, 8 << 20)

        return self.play(scenario)

    def test_slow_reader(self) -> Any:
        """A node sends no faster than the output is taken."""
        part = output("stdout", bytes(32 << 10))
        chunk = b"%x\r\n%s\r\n" % (len(part), part)
        sent = 0
        full: list[bool] = []

        def flood(connection: socket.socket) -> bool:
            nonlocal sent
            connection.sendall(chunks(end=False))
            # As long as there is room within a moment.
            while sent < 64 << 20:
                if not select.select([], [connection], [], 0.3)[1]:
                    full.append(True)
                    break
                sent += connection.send(chunk)
            return stay(connection)

        node = self.node([whole(task("running"))], [flood])

        async def scenario(client: Any) -> None:
            parts = (await client.task(ID)).output()
            await parts.__anext__()
            until = time.monotonic() + 10
            while not full and time.monotonic() < until:
                await self.pause(0.05)
            self.assertEqual(full, [True])
            # The socket's own buffers, and a little of the client.
            self.assertLess(sent, 2 << 20)
            await self.close(parts)
            await self.hung_up(node)

        return self.play(scenario)

    # -- what goes wrong

    def test_cut_anywhere(self) -> Any:
        """An answer may come in any pieces."""
        answer = chunks(
            line(event="id", task=ID)[:20],
            line(event="id", task=ID)[20:] + output("stdout", b"a") + output("stderr", b"b")[:9],
            output("stderr", b"b")[9:] + line(event="ended", task=task()),
        )
        self.node([answer[at : at + 1] for at in range(len(answer))])

        async def scenario(client: Any) -> None:
            result = await client.run(["make"])
            self.assertEqual((result.stdout, result.stderr), (b"a", b"b"))

        return self.play(scenario)

    def test_nobody(self) -> Any:
        """No socket, and one that nobody listens on, are no node; it is told what to do."""

        async def scenario(client: Any) -> None:
            nobody = await self.fails(NoNode, client.status())
            start = f"twistd -n bzzz --runtime-dir {self.runtime_dir}"
            self.assertEqual(nobody.mend, start)
            self.assertEqual(
                str(nobody), f"No node is running here ({self.path}). Start one with: {start}"
            )
            left = socket.socket(socket.AF_UNIX)
            left.bind(str(self.path))
            left.close()
            self.assertEqual((await self.fails(NoNode, client.run(["x"]))).mend, start)

        return self.play(scenario)

    def test_starting(self) -> Any:
        """A node that is starting is asked again, with all that it was asked."""
        starting = error("starting", "wait", "503 Service Unavailable")
        node = self.node([starting], [starting], [whole({})])

        async def scenario(client: Any) -> None:
            await client.drain()
            node.close()
            self.assertEqual(node.asked, [("POST", "/v1/drain", {"on": True})] * 3)

        return self.play(scenario)

    def test_refused(self) -> Any:
        """An error of the node has its code, wherever it comes."""
        self.node(
            [error("no_such_task", "there is none", "404 Not Found")],
            [b"HTTP/1.1 502 Bad Gateway\r\nConnection: close\r\nContent-Length: 2\r\n\r\nno"],
            [error("unplaceable")],
            [chunks(line(event="id", task=ID), line(error={"code": "stopping", "message": "so"}))],
        )

        async def scenario(client: Any) -> None:
            refused = await self.fails(Refused, client.task("7"))
            self.assertEqual((refused.code, str(refused)), ("no_such_task", "there is none"))
            refused = await self.fails(Refused, client.status())
            self.assertEqual(
                (refused.code, str(refused)), ("unknown", "the node answered 502 Bad Gateway")
            )
            refused = await self.fails(Refused, client.run(["x"]))
            self.assertEqual((refused.code, refused.task), ("unplaceable", ""))
            refused = await self.fails(Refused, client.run(["x"]))
            self.assertEqual((refused.code, refused.task), ("stopping", ID))

        return self.play(scenario)

    def test_node_dies(self) -> Any:
        """A node that goes in the middle is told from an end, with the task that may go on."""
        self.node(
            [],
            [whole({"name": "walnut"})[:-3]],
            [chunks(line(event="id", task=ID), line(event="kept", replicas=[]), end=False)],
            [chunks(line(event="id", task=ID), output("stdout", b"12345")[:20], end=False)],
        )

        async def scenario(client: Any) -> None:
            self.assertIn("broke off", str(await self.fails(NoNode, client.status())))
            self.assertIn("broke off", str(await self.fails(NoNode, client.status())))
            for _ in range(2):
                died = await self.fails(NoNode, client.run(["x"]))
                self.assertIn("broke off", str(died))
                self.assertEqual((died.task, died.mend), (ID, None))

        return self.play(scenario)

    def test_somebody_else(self) -> Any:
        """Another program behind the socket is said to be one."""
        answers: list[bytes] = [
            b"220 mail.example ESMTP\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
            whole({"name": 7, "peer_id": ""}),
            chunks(b"hello\n"),
            chunks(b"\xff\n"),
            chunks(b"[]\n"),
            chunks(b'{"event": 7}\n'),
            chunks(b'{"event": "stdout", "data": "*"}\n'),
            chunks(b'{"event": "id"}'),
            chunks(b"x" * (MAX_LINE + 1)),
        ]
        self.node(*([answer] for answer in answers))

        async def scenario(client: Any) -> None:
            for at in range(len(answers)):
                asked = client.status() if at < 3 else client.run(["x"])
                self.assertIn(
                    "no Bzzz node", str(await self.fails(NoNode, asked)), answers[at][:60]
                )

        return self.play(scenario)

    def test_not_in_time(self) -> Any:
        """Who waits for some time hangs up after it, and the task goes on."""
        node = self.node([whole(task("running"))], [chunks(end=False), stay])

        async def scenario(client: Any) -> None:
            found = await client.task(ID)
            late = await self.fails(TimeoutError, found.wait(0.05))
            self.assertEqual(str(late), f"task {ID} has not ended after 0.05 s")
            await self.hung_up(node)

        return self.play(scenario)

    def test_stopped_reading(self) -> Any:
        """Who closes the output hangs up."""
        node = self.node(
            [whole(task("running"))],
            [chunks(output("stdout", b"1"), end=False), stay],
        )

        async def scenario(client: Any) -> None:
            parts = (await client.task(ID)).output()
            await parts.__anext__()
            await self.close(parts)
            await self.hung_up(node)
            await self.fails(StopAsyncIteration, parts.__anext__())

        return self.play(scenario)

    # -- connections

    def test_kept(self) -> Any:
        """One connection carries what is asked one after the other; what is left of it at the end
        is nothing that the reactor or a loop has."""
        lines = chunks(line(event="id", task=ID), line(event="ended", task=task()), keep=True)
        status = whole(NODE, keep=True)
        node = self.node([status, NEXT, lines, NEXT, lines[:50], lines[50:], NEXT, status, stay])

        async def scenario(client: Any) -> None:
            self.assertEqual((await client.status()).name, "walnut")
            for _ in range(2):
                self.assertTrue((await client.run(["make"])).succeeded)
            self.assertEqual((await client.status()).name, "walnut")
            self.assertEqual((len(node.asked), node.closed), (4, 0))
            self.assertFalse(node.left.is_set())

        return self.play(scenario)

    def test_closed(self) -> Any:
        """A client that is closed hangs up, and connects anew when it is used again."""
        node = self.node([whole(NODE, keep=True), stay], [whole(NODE)])

        async def scenario(client: Any) -> None:
            await client.status()
            await client.close()
            await self.hung_up(node)
            self.assertEqual((await client.status()).name, "walnut")

        return self.play(scenario)

    def test_node_went(self) -> Any:
        """A node that went while nothing was asked is asked anew, also to do something."""
        node = self.node([whole(NODE, keep=True)], [whole({})])

        async def scenario(client: Any) -> None:
            await client.status()
            while not node.closed:
                await self.pause(0.01)
            await client.drain()
            self.assertEqual([each.path for each in node.asked], ["/v1/status", "/v1/drain"])

        return self.play(scenario)

    def test_node_goes_as_it_is_asked(self) -> Any:
        """Whether what changes something was done is then not known; what does not is asked
        again."""
        node = self.node(
            [whole(NODE, keep=True), NEXT], [whole(NODE, keep=True), NEXT], [whole(NODE)]
        )

        async def scenario(client: Any) -> None:
            await client.status()
            self.assertIn("broke off", str(await self.fails(NoNode, client.drain())))
            await client.status()
            await client.status()
            node.close()
            self.assertEqual(len(node.asked), 5)

        return self.play(scenario)

    def test_something_behind_it(self) -> Any:
        """What comes behind an answer is not taken for the next one."""
        said = threading.Event()
        node = self.node(
            [whole(NODE, keep=True), lambda _: not said.wait(10), whole({"name": 7}), stay],
            [whole(NODE)],
        )

        async def scenario(client: Any) -> None:
            await client.status()
            said.set()
            await self.pause(0.1)
            self.assertEqual((await client.status()).name, "walnut")
            await self.hung_up(node)

        return self.play(scenario)

    # -- of each kind

    async def pause(self, seconds: float) -> None:
        """Let other things happen."""
        raise NotImplementedError

    async def close(self, parts: Any) -> None:
        """Stop to go through output."""
        raise NotImplementedError

    async def hung_up(self, node: FakeNode) -> None:
        """Wait until the client has hung up."""
        until = time.monotonic() + 10
        while not node.left.is_set() and time.monotonic() < until:
            await self.pause(0.01)
        self.assertTrue(node.left.is_set())
