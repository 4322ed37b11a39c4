"""The control API of tasks, over HTTP with bytes in place of a socket."""

from __future__ import annotations

import base64
import gc
import json
from collections.abc import Callable
from random import Random
from typing import Any

import msgspec
from twisted.internet.defer import Deferred, fail, maybeDeferred, succeed

from bzzz.database import DatabaseError
from bzzz.identity.peer_id import PeerID
from bzzz.mesh.capability import OwnerRules
from bzzz.net.calls import AnswerLost
from bzzz.tasks.executors.interfaces import Ending, Over
from bzzz.tasks.following import BEGIN_OUTPUT
from bzzz.tasks.messages import Cancel, Failed, Find, Found, Listed, Listing, TaskCodec
from bzzz.tasks.output import NoOutput, Sink
from bzzz.tasks.placing import Placing
from bzzz.tasks.record import Produced, begin
from bzzz.tasks.service import TaskService
from bzzz.tasks.submission import TASK
from bzzz.tasks.value import TaskRecord, encode_record
from bzzz.tasks.workflows.file import parse
from bzzz.tasks.workflows.plan import encode
from bzzz.web import listing as listing_module
from bzzz.web import submitting, task_finding
from bzzz.web.api import ControlApi
from bzzz.web.credentials import Credentials
from bzzz.web.many_routes import ManyRoutes
from bzzz.web.requests import Refusal
from bzzz.web.routes import Routes
from bzzz.web.submit_routes import TOGETHER, SubmitRoutes
from bzzz.web.submitting import Submitting
from bzzz.web.task_finding import TaskFinding
from bzzz.web.task_lines import TaskLines
from bzzz.web.task_routes import TaskRoutes
from bzzz.web.workflow_routes import WorkflowRoutes
from bzzz.web.workflow_why import WorkflowWhy
from tests.tasks.fakes import name, peer, record, task_id
from tests.tasks.test_placement import facts, member
from tests.tasks.test_service import ServiceCase, done
from tests.web.fakes import FakeNode
from tests.web.test_api import SOMEBODY, Exchange

RUN = {"command": ["make", "all"]}
NAMES = {name(each): each for each in ("walnut", "ironwood", "acacia", "hazel", "larch")}


class FakeOutputs:
    """In the place of :class:`bzzz.tasks.output_streams.OutputStreams`.

    :ivar asked: of whom, which task and token, and whether until its end.
    :ivar parts: what the next who asks gets at once.
    :ivar ended: fires when there is no more.
    :ivar cancelled: what was not waited for until then.
    """

    def __init__(self) -> None:
        self.asked: list[tuple[PeerID, str, int, bool]] = []
        self.cancelled: list[Deferred[None]] = []
        self.parts: list[tuple[int, bytes]] = []
        self.ended: Deferred[None] = succeed(None)
        self.sink: Sink = lambda which, data: None

    def wait(self) -> None:
        """There is more to come."""
        self.ended = Deferred(self.cancelled.append)

    def get(
        self,
        peer: PeerID,
        task: str,
        token: int,
        offsets: tuple[int, int],
        follow: bool,
        sink: Sink,
    ) -> Deferred[None]:
        self.asked.append((peer, task, token, follow))
        self.sink = sink
        for part in self.parts:
            sink(*part)
        return self.ended


class TaskRouteCase(ServiceCase):
    """One node that is asked, ironwood, alone unless a test says otherwise."""

    def setUp(self) -> None:
        self.machines = {"ironwood": member("ironwood", facts(cpus=4))}
        super().setUp()
        self.alone()
        self.placing.member_changed(name("ironwood"))
        self.workers = [name("ironwood")]
        self.outputs: Any = FakeOutputs()
        self.requests: list[str] = []
        self.control = self.api()

    def api(self) -> ControlApi:
        def name_of(peer: str) -> str:
            return NAMES.get(peer, peer[-6:])

        finding = TaskFinding(self.service)
        lines = TaskLines(self.clock, self.service, self.outputs, name_of)
        submits = Submitting(
            self.service, self.placing, self.find_node, name_of, lambda: self.workers
        )
        routes: list[Routes] = [
            SubmitRoutes(self.clock, submits, finding, lines, name_of),
            ManyRoutes(self.clock, self.service, submits, self.outputs, name_of),
            TaskRoutes(self.service, finding, lines, name_of),
            WorkflowRoutes(
                self.clock,
                self.service,
                finding,
                WorkflowWhy(self.service, submits, name_of),
                maybeDeferred,
                self.find_node,
                name_of,
            ),
        ]
        control = ControlApi(
            FakeNode(), lambda: 0.0, routes, lambda by, request: self.requests.append(request)
        )
        self.addCleanup(control.close)
        return control

    def make(self) -> TaskService:
        made = super().make()
        placing = Placing(
            self.clock, Random(1), made.place, self.describe, lambda peer: NAMES.get(peer, "")
        )
        self.placing = placing
        made.placer = placing
        made.driver._placer = placing
        return made

    def describe(self, peer: str) -> Any:
        known = self.machines.get(NAMES[peer])
        return None if known is None else msgspec.structs.replace(known, peer=peer)

    def find_node(self, text: str) -> str:
        if text not in NAMES.values():
            raise Refusal(404, "no_such_member", f"no member is called '{text}'")
        return name(text)

    def alone(self) -> None:
        self.rights.all = {peer("ironwood")}
        self.peers.members = set()

    def ask(  # type: ignore[override] # a request over HTTP, not one of a member
        self,
        method: str,
        path: str,
        body: object = None,
        by: Credentials | None = SOMEBODY,
    ) -> Exchange:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        exchange = Exchange(
            self.control, f"/v1/{path}", method, b"" if body is None else content, by=by
        )
        # Replicas write at the end of the turn.
        self.clock.advance(0)
        return exchange

    def refused(self, exchange: Exchange) -> tuple[int, str]:
        return exchange.status, exchange.json()["error"]["code"]

    def told_why(self, exchange: Exchange) -> str:
        message: str = exchange.json()["error"]["message"]
        return message

    def submit(self, **wanted: Any) -> Exchange:
        return self.ask("POST", "tasks", {**RUN, **wanted})

    def events(self, exchange: Exchange) -> list[str]:
        return [line.get("event", "error") for line in exchange.lines()]

    def submitted(self, **wanted: Any) -> str:
        """A task that is kept here."""
        task: str = self.submit(follow=False, **wanted).lines()[0]["task"]
        self.run_for(0.3)
        return task

    def over(self, exit_status: int = 0) -> None:
        """The attempt that runs here ends."""
        self.run_for(0.3)
        [key] = self.executor.runs
        self.executor.end(key, Over(Ending.EXITED, exit_status))
        self.clock.advance(0.2)

    def run_for(self, seconds: float) -> None:
        for _ in range(int(seconds * 10)):
            self.clock.advance(0.1)


class WriteTests(TaskRouteCase):
    """What changes something is for those alone who were checked, and has a body that is read."""

    def test_not_checked(self) -> None:
        """Nothing is done for somebody whom nobody has checked, and nothing is told to them."""
        task = self.submitted()
        kept = dict(self.disk.kept)
        for path, body in (
            ("tasks", RUN),
            ("fitting", RUN),
            (f"tasks/{task}/cancel", None),
            (f"tasks/{task}/retry", None),
            (f"tasks/{task}/output", {}),
        ):
            answer = self.ask("POST", path, body, by=None)
            self.assertEqual(self.refused(answer), (403, "not_allowed"), path)
        self.assertEqual((self.disk.kept, self.outputs.asked), (kept, []))
        self.assertEqual(self.requests, ["POST /v1/tasks"])

    def test_bad_bodies(self) -> None:
        """A body that is none, that has a field too many, or a value that cannot be, is refused
        with the field's name, and nothing is submitted."""
        for body, words in (
            (None, "missing"),
            (b"{", "cannot be read"),
            (b"[]", "the body"),
            ({}, "command: is missing"),
            ({"command": []}, "command"),
            ({"command": "make"}, "command"),
            ({**RUN, "cpu": 1}, "cpu: there is no such field"),
            ({**RUN, "cpus": -1}, "cpus"),
            ({**RUN, "memory": "1G"}, "memory"),
            ({**RUN, "retries": -1}, "retries"),
            ({**RUN, "env": {"A": 1}}, "env"),
            ({**RUN, "inputs": [["x", "no digest", 1]]}, "inputs[0][1]"),
            ({**RUN, "inputs": [["x", "0" * 64, -1]]}, "inputs[0][2]"),
        ):
            answer = self.ask("POST", "tasks", body)
            self.assertEqual(self.refused(answer), (400, "bad_body"), body)
            self.assertIn(words, self.told_why(answer))
        self.assertEqual(self.disk.kept, {})

    def test_numbers(self) -> None:
        """A number that is more than there can be is refused with the field's name, wherever it is
        given."""
        for path in ("tasks", "fitting"):
            for field, values in (
                ("cpus", ["65537", "1e5", "1e308", "-0.1"]),
                ("memory", [str((1 << 53) + 1), str(1 << 63), "1.5"]),
                ("gpus", ["65"]),
                ("timeout", ["31622401", "1e308"]),
                ("retries", ["1001"]),
                ("priority", ["1001", "-1001"]),
            ):
                for value in (*values, "1e400", "-1e400", "9" * 23, "-" + "9" * 23, "9" * 5000):
                    body = f'{{"command": ["make"], "wait": true, "{field}": {value}}}'.encode()
                    answer = self.ask("POST", path, body)
                    self.assertEqual(self.refused(answer), (400, "bad_body"), (path, field, value))
                    self.assertTrue(self.told_why(answer).startswith(f"{field}: "), value)
                for value in ("NaN", "Infinity"):
                    body = f'{{"command": ["make"], "{field}": {value}}}'.encode()
                    self.assertEqual(self.refused(self.ask("POST", path, body)), (400, "bad_body"))
        self.assertEqual(self.disk.kept, {})

    def test_bad_wishes(self) -> None:
        """What the body may have, and a task may not, is refused before anything is told."""
        for fields, words in (
            ({"name": "x" * 129}, "name"),
            ({"env": {"A B": "x"}}, "'A B' is no name of a variable"),
            ({"env": {"A": "x\0"}}, "zero byte"),
            ({"command": ["x\0"]}, "zero byte"),
            ({"command": ["x" * (1 << 17)]}, "--in"),
            ({"outputs": ["../x"]}, "'../x' is not below"),
            ({"inputs": [["/etc", "0" * 64, 1]]}, "'/etc' is not below"),
        ):
            answer = self.submit(**fields)
            self.assertEqual(self.refused(answer), (400, "not_submitted"), fields)
            self.assertIn(words, self.told_why(answer))
        self.assertEqual(self.disk.kept, {})

    def test_other_bodies(self) -> None:
        """The other routes want their bodies, too."""
        task = self.submitted()
        for path, body in (
            ("fitting", {}),
            (f"tasks/{task}/output", {"follow": 1}),
            (f"tasks/{task}/output", {"tail": True}),
        ):
            self.assertEqual(self.refused(self.ask("POST", path, body)), (400, "bad_body"), path)

    def test_no_right(self) -> None:
        """A node whose role does not let it submit says so."""
        self.rights.submitters.clear()
        answer = self.submit()
        self.assertEqual(self.refused(answer), (400, "not_submitted"))
        self.assertIn("role", self.told_why(answer))


class SubmitTests(TaskRouteCase):
    """Tasks are submitted, and told of until they end."""

    def test_follow(self) -> None:
        """The ID comes first, then that it is kept, where it runs, what it prints, and its end."""
        self.outputs.parts = [(1, b"one\n"), (2, b"\xff")]
        answer = self.submit(name="build")
        self.run_for(BEGIN_OUTPUT)
        self.assertEqual(answer.status, 200)
        self.assertEqual(self.events(answer), ["id", "kept", "running", "stdout", "stderr"])
        self.over(3)
        lines = answer.lines()
        task = lines[0]["task"]
        self.assertIsNotNone(TASK.fullmatch(task))
        self.assertEqual(lines[1]["replicas"], ["ironwood"])
        self.assertEqual(
            lines[2],
            {
                "event": "running",
                "worker": name("ironwood"),
                "worker_name": "ironwood",
                "token": 1,
                "begun": 0,
            },
        )
        self.assertEqual(
            [base64.b64decode(line["data"]) for line in lines[3:5]], [b"one\n", b"\xff"]
        )
        ended = lines[-1]["task"]
        self.assertEqual(lines[-1]["event"], "ended")
        self.assertEqual(
            (ended["id"], ended["name"], ended["state"], ended["exit_status"], ended["submitter"]),
            (task, "build", "failed", 3, "4000000000"),
        )
        self.assertTrue(answer.ended)
        self.assertEqual(self.outputs.asked, [(peer("ironwood"), task, 1, True)])

    def test_detached(self) -> None:
        """Without ``follow`` the telling ends when the task is kept."""
        answer = self.submit(follow=False)
        self.assertEqual((self.events(answer), answer.ended), (["id", "kept"], True))
        self.run_for(0.3)
        self.assertEqual(len(self.executor.runs), 1)

    def test_waits(self) -> None:
        """One that has to wait says so once, and goes on when there is room."""
        self.machines["ironwood"] = member("ironwood", facts(), draining=True)
        self.placing.member_changed(name("ironwood"))
        answer = self.submit()
        self.run_for(3)
        self.assertEqual(self.events(answer), ["id", "kept", "waiting"])
        self.machines["ironwood"] = member("ironwood", facts())
        self.placing.member_changed(name("ironwood"))
        self.run_for(1)
        self.assertEqual(self.events(answer)[3:], ["running"])

    def test_first_lines(self) -> None:
        """Those of a task that is followed come together, after a moment or when it has ended; that
        one is kept which nobody follows is told at once."""
        answer = self.submit()
        self.assertEqual(answer.transport.value(), b"")
        self.clock.advance(TOGETHER)
        self.assertEqual(self.events(answer), ["id", "kept", "running"])
        self.over()
        short = self.submit()
        self.over(2)
        self.assertEqual(self.events(short)[:3], ["id", "kept", "running"])
        self.assertEqual(self.events(short)[-1], "ended")
        self.assertEqual(self.events(self.submit(follow=False)), ["id", "kept"])

    def test_hang_up_at_once(self) -> None:
        """Who hangs up before the first line is told nothing, and the task goes on."""
        answer = self.submit()
        answer.disconnect()
        self.run_for(1)
        self.assertEqual(answer.transport.value(), b"")
        self.assertEqual(self.service.watched, 0)
        self.assertEqual(len(self.executor.started), 1)

    def test_hang_up(self) -> None:
        """Who hangs up ends the telling, and not the task; nothing is left of the telling."""
        self.outputs.wait()
        answer = self.submit()
        self.clock.advance(TOGETHER)
        self.assertEqual(self.events(answer)[-1], "running")
        self.run_for(BEGIN_OUTPUT)
        task = answer.lines()[0]["task"]
        answer.disconnect()
        self.assertEqual(len(self.outputs.cancelled), 1)
        self.assertEqual(self.service.watched, 0)
        self.over()
        self.assertEqual(self.ask("GET", f"tasks/{task}").json()["state"], "done")

    def test_hang_up_at_the_end(self) -> None:
        """Who hangs up while the last of the output comes ends that, too."""
        self.outputs.wait()
        self.workspace.produced = Produced(b"out", b"err", 4, 3)
        answer = self.submit()
        self.over()
        self.assertEqual(self.outputs.cancelled, [])
        answer.disconnect()
        self.assertEqual(len(self.outputs.cancelled), 1)

    def test_reads_slowly(self) -> None:
        """A client that does not read holds up the output, and not more than that."""
        self.outputs.wait()
        answer = self.submit()
        self.run_for(BEGIN_OUTPUT)
        transport: Any = answer.transport
        transport.producer.pauseProducing()
        waiting = self.outputs.sink(1, bytes(1 << 17))
        assert waiting is not None
        self.assertNoResult(waiting)
        transport.producer.resumeProducing()
        self.successResultOf(waiting)

    def test_unknown(self) -> None:
        """Where it is not known whether it was submitted, that is told, and how to find out."""
        self.rights.all = {peer(each) for each in ("walnut", "ironwood", "acacia")}
        self.peers.members = {peer("walnut"), peer("acacia")}
        answer = self.submit()
        self.clock.advance(TOGETHER)
        task = answer.lines()[0]["task"]
        self.run_for(15)
        error = answer.lines()[-1]["error"]
        self.assertEqual(error["code"], "unknown")
        self.assertIn(f"bzzz task {task}", error["message"])

    def test_nobody_linked(self) -> None:
        """Where nobody else can keep it, it is not submitted."""
        self.rights.all = {peer(each) for each in ("walnut", "ironwood", "acacia")}
        answer = self.submit()
        self.assertEqual(self.refused(answer), (400, "not_submitted"))
        self.assertIn("bzzz peers", self.told_why(answer))

    def test_bad_requirement(self) -> None:
        """An expression that is none is refused with where it is wrong, with ``wait``, too."""
        for wait in (False, True):
            answer = self.submit(where="docker &&", wait=wait)
            self.assertEqual(self.refused(answer), (400, "bad_requirement"))
        answer = self.ask("POST", "fitting", {**RUN, "where": "("})
        self.assertEqual(self.refused(answer), (400, "bad_requirement"))

    def test_bad_profile(self) -> None:
        """A profile that there is not is refused before anything runs."""
        for wait in (False, True):
            answer = self.submit(profile="rooty", wait=wait)
            self.assertEqual(self.refused(answer), (400, "bad_profile"))
            self.assertIn("'rooty', but default, no-network, trusted", self.told_why(answer))
        self.assertEqual(self.disk.kept, {})

    def test_unplaceable(self) -> None:
        """What no node could ever run is refused, with what each lacks, unless it is to wait."""
        answer = self.submit(cpus=5)
        self.assertEqual(self.refused(answer), (409, "unplaceable"))
        self.assertIn("ironwood: ", self.told_why(answer))
        self.assertIn("--wait", self.told_why(answer))
        self.assertEqual(self.disk.kept, {})
        waits = self.submit(cpus=5, wait=True)
        self.clock.advance(TOGETHER)
        self.assertEqual(self.events(waits), ["id", "kept", "waiting"])

    def test_submitter_forbidden(self) -> None:
        """Whose tasks an owner does not run is told so, and not left to wait; so is who asks where
        it could run."""
        for name_of_one in ("4000000000", "ironwood"):
            rules = OwnerRules(forbidden_submitters=(name_of_one,))
            self.machines["ironwood"] = member("ironwood", facts(cpus=4), rules=rules)
            self.placing.member_changed(name("ironwood"))
            answer = self.submit()
            self.assertEqual(self.refused(answer), (409, "unplaceable"))
            words = f'its owner runs nothing of "{name_of_one}"'
            self.assertIn(f"ironwood: {words}", self.told_why(answer))
            [verdict] = self.ask("POST", "fitting", RUN).json()["nodes"]
            self.assertEqual([each["text"] for each in verdict["unfit"]], [words])
        self.assertEqual(self.disk.kept, {})

    def test_unplaceable_many(self) -> None:
        """Of many nodes some are told, and how many more there are."""
        machines = [f"m{number:02}" for number in range(submitting.MAX_TOLD + 3)]
        for machine in machines:
            NAMES[name(machine)] = machine
            self.addCleanup(NAMES.pop, name(machine))
            self.machines[machine] = member(machine)
            self.placing.member_changed(name(machine))
        told = self.told_why(self.submit(cpus=5))
        self.assertIn("m08: ", told)
        self.assertNotIn("m09", told)
        self.assertIn("and 4 more", told)

    def test_unplaceable_on(self) -> None:
        """Where one node is meant, what it lacks is told, and nothing of the others."""
        self.machines["acacia"] = member("acacia")
        self.placing.member_changed(name("acacia"))
        answer = self.submit(cpus=5, on="ironwood")
        self.assertEqual(self.refused(answer), (409, "unplaceable"))
        self.assertEqual(
            self.told_why(answer),
            "it cannot run there:\nironwood: needs 5 cores, and it offers 4 cores to tasks\n"
            "To have it wait until one can: --wait",
        )

    def test_on(self) -> None:
        """A node that is not linked, and one that is none, are told apart."""
        answer = self.submit(on="hazel")
        self.assertEqual(self.refused(answer), (409, "unplaceable"))
        self.assertIn("hazel is not linked", self.told_why(answer))
        self.assertEqual(self.refused(self.submit(on="oak")), (404, "no_such_member"))
        answer = self.submit(on="ironwood")
        self.clock.advance(TOGETHER)
        self.assertEqual(self.events(answer)[2:3], ["running"])

    def test_fitting(self) -> None:
        """Who could run it is told, and who not, and why; nothing is submitted."""
        NAMES[name("birch")] = "birch"
        self.addCleanup(NAMES.pop, name("birch"))
        self.machines["birch"] = member("birch", facts(cpus=8))
        self.placing.member_changed(name("birch"))
        [birch, ironwood] = self.ask("POST", "fitting", {**RUN, "cpus": 6}).json()["nodes"]
        self.assertEqual((birch["name"], birch["fits"], birch["unfit"]), ("birch", True, []))
        self.assertEqual((ironwood["name"], ironwood["fits"]), ("ironwood", False))
        self.assertEqual([each["code"] for each in ironwood["unfit"]], ["cpus"])
        self.assertEqual(self.disk.kept, {})

    def test_away(self) -> None:
        """Members that run tasks and have not said what they can do are named."""
        self.assertEqual(self.ask("POST", "fitting", RUN).json()["away"], [])
        self.workers += [name("hazel"), name("acacia")]
        self.assertEqual(self.ask("POST", "fitting", RUN).json()["away"], ["acacia", "hazel"])


class FindTests(TaskRouteCase):
    """A task is found by its ID, and those that are kept here by a part of it."""

    def test_found(self) -> None:
        """By its ID in any case, by its beginning, and by its end."""
        task = self.submitted(name="one")
        for text in (task, task.lower(), task[:12], task[-4:].lower()):
            self.assertEqual(self.ask("GET", f"tasks/{text}").json()["id"], task)
            self.assertEqual(self.ask("GET", f"tasks/{text}/why").status, 200)

    def test_why(self) -> None:
        """Why it waits, where it runs, or how it ended."""
        waits = self.submitted(cpus=5, wait=True)
        answer = self.ask("GET", f"tasks/{waits}/why").json()
        self.assertEqual((answer["task"]["id"], answer["task"]["state"]), (waits, "waiting"))
        self.assertEqual(answer["why"], "no machine that is linked could run it")
        self.assertEqual([each["name"] for each in answer["nodes"]], ["ironwood"])
        runs = self.submitted()
        answer = self.ask("GET", f"tasks/{runs}/why").json()
        self.assertEqual((answer["task"]["worker_name"], answer["why"]), ("ironwood", ""))
        self.over(3)
        answer = self.ask("GET", f"tasks/{runs}/why").json()
        self.assertEqual((answer["task"]["state"], answer["task"]["exit_status"]), ("failed", 3))

    def test_unknown(self) -> None:
        """What nobody has is told to be so, whatever is asked of it."""
        self.submitted()
        unknown = "7" * 26
        for method, path, body in (
            ("GET", f"tasks/{unknown}", None),
            ("GET", "tasks/UUU", None),
            ("GET", f"tasks/{unknown}0", None),
            ("GET", f"tasks/{unknown}/why", None),
            ("POST", f"tasks/{unknown}/cancel", None),
            ("POST", f"tasks/{unknown}/retry", None),
            ("POST", f"tasks/{unknown}/output", {}),
            ("POST", f"tasks/{unknown}/output", {"follow": True}),
        ):
            self.assertEqual(self.refused(self.ask(method, path, body)), (404, "no_such_task"))

    def test_ambiguous(self) -> None:
        """A part of several is told with some of them, and changes none."""
        tasks = [self.submitted() for _ in range(4)]
        for method, path in (("GET", ""), ("POST", "/cancel"), ("POST", "/retry")):
            answer = self.ask(method, f"tasks/{tasks[0][:6]}{path}")
            self.assertEqual(self.refused(answer), (409, "ambiguous_task"))
            self.assertEqual(sum(task in self.told_why(answer) for task in tasks), 3)
        for task in tasks:
            self.assertFalse(self.ask("GET", f"tasks/{task}").json()["cancel"])

    def test_ambiguous_with_an_old_one(self) -> None:
        """One of those that it may be is not the one because it is newer."""
        self.patch(task_finding, "MAX_LISTED", 2)
        tasks = [self.submitted() for _ in range(5)]
        answer = self.ask("GET", f"tasks/{tasks[0][:6]}")
        self.assertEqual(self.refused(answer), (409, "ambiguous_task"))
        self.assertEqual(self.ask("GET", f"tasks/{tasks[0][-8:]}").json()["id"], min(tasks))

    def elsewhere(self) -> TaskRecord:
        """A task that others keep, as one of them says, once it is asked."""
        self.peers.members = {peer("walnut"), peer("acacia")}
        return record(begin(name("hazel")), replicas=("walnut", "acacia", "hazel"))

    def found(self, made: TaskRecord) -> None:
        for each in self.peers.take(Find):
            each.answer.callback(Found(encode_record(made.signed, made.state)))

    def test_elsewhere(self) -> None:
        """Of a task that others keep its record is asked of them, and what is wanted of it, too."""
        made = self.elsewhere()
        answer = self.ask("GET", f"tasks/{made.task}")
        self.found(made)
        self.assertEqual(answer.json()["worker_name"], "hazel")
        answer = self.ask("POST", f"tasks/{made.task}/cancel")
        self.found(made)
        [asked] = self.peers.take(Cancel)
        self.assertEqual(asked.peer, peer("walnut"))
        ended = msgspec.structs.replace(made.state, cancel=True)
        asked.answer.callback(Found(encode_record(made.signed, ended)))
        self.assertTrue(answer.json()["cancel"])

    def test_not_changed(self) -> None:
        """What none of its replicas could do is told as an error, with what each has said."""
        made = self.elsewhere()
        answer = self.ask("POST", f"tasks/{made.task}/cancel")
        self.found(made)
        for _ in range(3):
            for each in self.peers.take(Cancel):
                each.answer.callback(Failed("the disk is full"))
        self.assertEqual(self.refused(answer), (500, "node_error"))
        self.assertIn("the disk is full", self.told_why(answer))


class ChangeTests(TaskRouteCase):
    """Cancel and retry."""

    def test_cancel(self) -> None:
        """A task that runs is told to stop, and ends when its worker says so."""
        task = self.submitted()
        answer = self.ask("POST", f"tasks/{task}/cancel").json()
        self.assertEqual((answer["state"], answer["cancel"]), ("running", True))
        self.run_for(2)
        self.assertEqual([key for key, _ in self.executor.stopped][:1], [f"{task}.1"])
        again = self.ask("POST", f"tasks/{task}/cancel").json()
        self.assertEqual((again["state"], again["cancel"]), ("running", True))

    def test_cancel_waiting(self) -> None:
        """One that waits has ended at once, and whoever follows it hears that."""
        follower = self.submit(cpus=5, wait=True)
        self.clock.advance(TOGETHER)
        task = follower.lines()[0]["task"]
        self.assertEqual(self.ask("POST", f"tasks/{task}/cancel").json()["state"], "cancelled")
        self.run_for(1)
        self.assertEqual(follower.lines()[-1]["task"]["state"], "cancelled")

    def test_retry(self) -> None:
        """What has ended begins anew; what has not is refused."""
        task = self.submitted()
        self.assertEqual(self.refused(self.ask("POST", f"tasks/{task}/retry")), (409, "not_ended"))
        self.over(1)
        answer = self.ask("POST", f"tasks/{task}/retry").json()
        self.assertEqual((answer["state"], answer["exit_status"]), ("waiting", None))
        self.run_for(1)
        self.assertEqual(list(self.executor.runs), [f"{task}.2"])


class OutputTests(TaskRouteCase):
    """What a task has printed."""

    def output(self, task: str, follow: bool = False) -> Exchange:
        return self.ask("POST", f"tasks/{task}/output", {"follow": follow})

    def test_now(self) -> None:
        """What there is now, of one that runs, without its end."""
        task = self.submitted()
        self.outputs.parts = [(1, b"so far")]
        answer = self.output(task)
        self.assertEqual((self.events(answer), answer.ended), (["stdout"], True))
        self.assertEqual(self.outputs.asked, [(peer("ironwood"), task, 1, False)])

    def test_waiting(self) -> None:
        """One that has not begun has printed nothing."""
        answer = self.output(self.submitted(cpus=5, wait=True))
        self.assertEqual((answer.lines(), answer.ended, self.outputs.asked), ([], True, []))

    def test_follow(self) -> None:
        """With ``follow`` until its end, which is told."""
        task = self.submitted()
        answer = self.output(task, True)
        self.assertEqual(self.events(answer), ["running"])
        self.over()
        self.assertEqual(self.events(answer), ["running", "stdout", "stderr", "ended"])

    def test_ended(self) -> None:
        """Of one that has ended what is left, and its end."""
        self.workspace.produced = Produced(b"ut", b"err", 3, 3)
        task = self.submitted()
        self.over()
        self.outputs.parts = [(1, b"out"), (2, b"err")]
        answer = self.output(task)
        self.assertEqual(self.events(answer), ["stdout", "stderr", "ended"])
        self.assertEqual(self.outputs.asked, [(peer("ironwood"), task, 1, False)])

    def test_ended_and_gone(self) -> None:
        """Where its worker has it no more, the end of it is in the record."""
        self.workspace.produced = Produced(b"ut", b"err", 3, 3)
        task = self.submitted()
        self.over()
        self.outputs.ended = fail(NoOutput("gone"))
        answer = self.output(task)
        self.assertEqual(self.events(answer), ["stderr", "ended"])
        self.assertEqual(base64.b64decode(answer.lines()[0]["data"]), b"err")

    def test_ended_short(self) -> None:
        """Where the record has all of it nobody is asked."""
        task = self.submitted()
        self.over()
        answer = self.output(task)
        self.assertEqual(self.events(answer), ["stdout", "stderr", "ended"])
        self.assertEqual(base64.b64decode(answer.lines()[0]["data"]), b"out")
        self.assertEqual(self.outputs.asked, [])

    def test_not_there(self) -> None:
        """Where it cannot be had now, that is told."""
        task = self.submitted()
        self.outputs.ended = fail(NoOutput("it is not here"))
        self.assertEqual(self.refused(self.output(task)), (500, "node_error"))

    def test_worker_not_linked(self) -> None:
        """The output of an attempt is asked of its worker alone, linked or not."""
        made = record(begin(name("hazel"), name("ironwood")), replicas=("ironwood",))
        self.service.driver.learnt(made)
        self.output(made.task)
        self.assertEqual(self.outputs.asked, [(peer("hazel"), made.task, 1, False)])

    def test_hang_up(self) -> None:
        """Who hangs up ends the asking."""
        task = self.submitted()
        self.outputs.wait()
        answer = self.output(task)
        self.assertEqual(self.outputs.cancelled, [])
        answer.disconnect()
        self.assertEqual(len(self.outputs.cancelled), 1)


class ListTests(TaskRouteCase):
    """Tasks of all members, the newest first."""

    def listed(self, question: str = "") -> Exchange:
        return self.ask("GET", f"tasks{question}")

    def ids(self, question: str = "") -> list[str]:
        return [each["id"] for each in self.listed(question).json()["tasks"]]

    def test_alone(self) -> None:
        """The newest first, as many as are wanted, and whether there are more."""
        tasks = sorted((self.submitted() for _ in range(4)), reverse=True)
        self.assertEqual(self.ids(), tasks)
        answer = self.listed("?limit=3").json()
        self.assertEqual([each["id"] for each in answer["tasks"]], tasks[:3])
        self.assertEqual((answer["more"], answer["asked"], answer["answered"]), (True, 0, 0))
        self.assertEqual(self.ids(f"?before={tasks[1].lower()}"), tasks[2:])
        self.assertEqual(self.ids(f"?since={tasks[1].lower()}"), tasks[:2])
        self.assertFalse(self.listed("?limit=4").json()["more"])

    def test_workflows(self) -> None:
        """Workflows are among them, with how many of their steps are done; the limit is of both
        together, and the next page begins where the last one has ended."""
        plain = self.submitted()
        plan = b'[steps.a]\nrun = "x"\n[steps.b]\nrun = "y"\nneeds = ["a"]\n'
        flow = self.workflow(plan)
        self.run_for(0.3)
        answer = self.listed("?open=1").json()
        [step] = [each["id"] for each in answer["tasks"] if each["workflow"] == flow]
        self.assertEqual(sorted(each["id"] for each in answer["tasks"]), sorted((plain, step)))
        [found] = answer["workflows"]
        self.assertEqual(
            {name: found[name] for name in ("id", "name", "state", "done", "steps", "tasks")},
            {
                "id": flow,
                "name": "build",
                "state": "running",
                "done": 0,
                "steps": 2,
                "tasks": [step],
            },
        )
        self.assertEqual((answer["more"], answer["next"]), (False, ""))
        pages: list[str] = []
        before = ""
        while not pages or before:
            page = self.listed(f"?open=1&limit=1&before={before}").json()
            pages += [each["id"] for each in (*page["tasks"], *page["workflows"])]
            self.assertEqual(page["more"], page["next"] != "")
            before = page["next"]
        self.assertEqual(pages, sorted((plain, step, flow), reverse=True))

    def test_workflow_done(self) -> None:
        """One that has ended is not among those that have not."""
        flow = self.workflow(b'[steps.a]\nrun = "x"\n')
        self.over()
        self.run_for(0.3)
        self.assertEqual(self.listed("?open=1").json()["workflows"], [])
        [found] = self.listed().json()["workflows"]
        self.assertEqual((found["id"], found["state"], found["done"]), (flow, "done", 1))

    def workflow(self, text: bytes) -> str:
        """A workflow that is kept here."""
        plan = encode(parse(text, "build.toml"))
        made = self.successResultOf(self.wait(self.service.submit_workflow(plan, "anna")))
        return made.workflow

    def test_pages_of_members(self) -> None:
        """What somebody has told is not listed as long as another one, who has more to tell, may
        have something newer; nobody can have it begin again."""
        self.peers.members = {peer("walnut"), peer("acacia")}
        records = {number: record(begin(), number) for number in (2, 4, 5, 7)}
        values = {
            number: encode_record(each.signed, each.state) for number, each in records.items()
        }
        for before, told, listed, following in (
            ("", {"walnut": ([7, 5], True), "acacia": ([4], False)}, [7, 5], task_id(5)),
            (task_id(5), {"walnut": ([7, 2], False), "acacia": ([4], True)}, [4], task_id(4)),
            (task_id(4), {"walnut": ([7], True), "acacia": ([2], False)}, [2], ""),
        ):
            listing = self.listed(f"?before={before}")
            for each in self.peers.take(Listing):
                numbers, more = told[NAMES[str(each.peer)]]
                each.answer.callback(Listed(tuple(values[one] for one in numbers), more=more))
            answer = listing.json()
            self.assertEqual(
                [each["id"] for each in answer["tasks"]], [task_id(one) for one in listed]
            )
            self.assertEqual(answer["next"], following)

    def test_open(self) -> None:
        """Those alone that have not ended."""
        task = self.submitted()
        self.over()
        other = self.submitted()
        self.assertEqual(self.ids("?open=1"), [other])
        self.assertEqual(self.ids("?open=no"), sorted((task, other), reverse=True))

    def test_bad_arguments(self) -> None:
        """Numbers and IDs that are none are refused, and no member is asked for them: it would
        take that for an offence and end the link."""
        self.peers.members = {peer("walnut")}
        for question in (
            "?limit=0",
            "?limit=-1",
            "?limit=x",
            "?limit=%C2%B2",
            "?limit=99999999999",
            "?limit=0000000015000",
            f"?limit={'9' * 5000}",
            f"?before={'0' * 27}",
            "?since=../x",
            "?before=%00",
        ):
            self.assertEqual(self.refused(self.listed(question)), (400, "bad_argument"), question)
        self.assertEqual(self.peers.asked, [])

    def test_asked(self) -> None:
        """What members are asked can be sent."""
        self.peers.members = {peer("walnut")}
        self.listed(f"?before={'7' * 26}&since=0&limit=5&open=1")
        [asked] = self.peers.take(Listing)
        codec = TaskCodec()
        frame = codec.join([(1, codec.encode(asked.request))])
        self.assertEqual(codec.read_requests(frame), [(1, asked.request)])
        self.assertEqual(asked.request, Listing("7" * 26, "0", ended=False, most=5))

    def test_members(self) -> None:
        """What each has is put together, each task once, as it is known newest; who does not
        answer is told by a number."""
        self.peers.members = {peer(each) for each in ("walnut", "acacia", "hazel")}
        # All of them have it, and acacia has heard most of it.
        running = record(begin(name("hazel")))
        ended = msgspec.structs.replace(done(running.state), version=7)
        listing = self.listed()
        asked: dict[PeerID, Callable[[Any], None]] = {
            each.peer: each.answer.callback for each in self.peers.take(Listing)
        }
        value = encode_record(running.signed, running.state)
        asked[peer("walnut")](Listed((value,), more=True))
        asked[peer("acacia")](Listed((encode_record(running.signed, ended),)))
        asked[peer("hazel")](Failed("it is starting"))
        answer = listing.json()
        self.assertEqual(
            [(each["id"], each["state"]) for each in answer["tasks"]], [(task_id(), "done")]
        )
        self.assertEqual((answer["more"], answer["asked"], answer["answered"]), (True, 3, 2))

    def test_read_once(self) -> None:
        """A record that several have told is read once: a long workflow takes a millisecond."""
        self.peers.members = {peer("walnut"), peer("acacia")}
        made = record(begin(name("hazel")))
        value = encode_record(made.signed, made.state)
        reads: list[bytes] = []

        def read(told: bytes) -> TaskRecord:
            reads.append(told)
            return made

        self.patch(listing_module, "decode_record", read)
        listing = self.listed()
        for each in self.peers.take(Listing):
            each.answer.callback(Listed((bytes(bytearray(value)),)))
        self.assertEqual([each["id"] for each in listing.json()["tasks"]], [made.task])
        self.assertEqual(len(reads), 1)

    def test_not_here(self) -> None:
        """Where this node cannot read its own nobody waits for the others, and what becomes of
        their answers is no error of its own."""
        self.peers.members = {peer("walnut"), peer("acacia")}
        self.patch(self.service, "list_here", lambda listing: fail(DatabaseError("it is broken")))
        self.assertEqual(self.refused(self.listed()), (500, "node_error"))
        self.peers.lose()
        gc.collect()
        self.assertEqual(self.flushLoggedErrors(AnswerLost), [])

    def test_lies(self) -> None:
        """Who does not keep a task tells nothing of it, and a submitter's own task with its ID does
        not hide it."""
        self.peers.members = {peer(each) for each in ("walnut", "acacia", "hazel", "larch")}
        running = record(begin(name("hazel")))
        lie = msgspec.structs.replace(done(running.state), version=7)
        theirs = record(msgspec.structs.replace(lie, version=99), replicas=("larch", "hazel"))
        told = {
            "walnut": (running.signed, running.state),
            "acacia": (running.signed, running.state),
            "hazel": (running.signed, lie),
            "larch": (theirs.signed, theirs.state),
        }
        listing = self.listed()
        for each in self.peers.take(Listing):
            [value] = [encode_record(*told[one]) for one in told if peer(one) == each.peer]
            each.answer.callback(Listed((value,)))
        [task] = listing.json()["tasks"]
        self.assertEqual((task["state"], task["origin"]), ("running", name("walnut")))

    def test_unreadable(self) -> None:
        """What cannot be read is named, unless somebody else has told it, and hides nothing."""
        self.peers.members = {peer("walnut"), peer("hazel")}
        task = self.submitted()
        other = record(begin(), 2)
        raw = msgspec.msgpack.decode(encode_record(other.signed, other.state))
        later = msgspec.msgpack.encode([raw[0], {**raw[1], "state": "of a later version"}])
        listing = self.listed()
        for each in self.peers.take(Listing):
            if each.peer == peer("walnut"):
                each.answer.callback(Listed((later, b"\xc1"), unreadable=(task, task_id(3))))
            else:
                each.answer.callback(Listed(()))
        answer = listing.json()
        self.assertEqual([each["id"] for each in answer["tasks"]], [task])
        self.assertEqual(answer["unreadable"], [task_id(3), task_id(2)])
        self.assertEqual((answer["asked"], answer["answered"]), (2, 2))

    def test_ended_elsewhere(self) -> None:
        """What one takes for open, and another for ended, has ended."""
        self.peers.members = {peer("walnut"), peer("acacia")}
        running = record(begin(name("hazel")))
        ended = msgspec.structs.replace(done(running.state), version=7)
        open_, over = (encode_record(running.signed, each) for each in (running.state, ended))
        for found, tasks in ((over, []), (open_, [running.task]), (None, [running.task])):
            listing = self.listed("?open=1")
            for each in self.peers.take(Listing):
                each.answer.callback(Listed((open_,) if each.peer == peer("walnut") else ()))
            # Only acacia keeps it, has answered and has not listed it.
            [asked] = self.peers.take(Find)
            self.assertEqual(asked.peer, peer("acacia"))
            asked.answer.callback(Found(found))
            self.assertEqual([each["id"] for each in listing.json()["tasks"]], tasks)
