"""The control API of workflows, over HTTP with bytes in place of a socket."""

from __future__ import annotations

from typing import Any

import msgspec

from bzzz.errors import LocalProtocolError
from bzzz.tasks.executors.interfaces import Ending, Over
from bzzz.tasks.messages import Find, Found
from bzzz.tasks.record import Outcome, Produced, begin
from bzzz.tasks.submission import TASK, Input
from bzzz.tasks.workflows.progress import Entry, Progress, Status
from bzzz.tasks.workflows.record import encode_workflow
from bzzz.web import workflow_why
from bzzz.web.workflow_routes import POLL
from tests.tasks.fakes import name, peer, record, task_id
from tests.tasks.workflows.test_record import record as workflow_record
from tests.tasks.workflows.test_record import submitted
from tests.web.test_api import Exchange
from tests.web.test_task_routes import TaskRouteCase

TWO = """
[steps.a]
run = "make"
[steps.b]
needs = ["a"]
run = "make test"
"""


class WorkflowRouteCase(TaskRouteCase):
    """One node that is asked, ironwood, alone unless a test says otherwise."""

    def setUp(self) -> None:
        super().setUp()
        self.service.workflows.find_node = name

    def send(self, text: str, **more: Any) -> Exchange:
        body = {"file": "build.toml", "text": text, **more}
        return self.ask("POST", "workflows", body)

    def kept(self, text: str) -> str:
        """A workflow that is kept here."""
        flow: str = self.send(text, follow=False).lines()[0]["workflow"]
        self.run_for(0.3)
        return flow

    def info(self, flow: str) -> dict[str, Any]:
        known: dict[str, Any] = self.ask("GET", f"workflows/{flow}").json()
        return known

    def states(self, flow: str) -> dict[str, str]:
        return {step["label"]: step["state"] for step in self.info(flow)["steps"]}

    def task_of(self, flow: str, label: str) -> str:
        [task] = [step["task"] for step in self.info(flow)["steps"] if step["label"] == label]
        return str(task)

    def end(self, task: str, exit_status: int = 0) -> None:
        """The attempt of a task that runs here ends."""
        self.executor.end(f"{task}.1", Over(Ending.EXITED, exit_status))
        self.run_for(0.5)


class FindTests(WorkflowRouteCase):
    """A workflow is found as a task is, and what is asked about a task says what it is."""

    def test_found(self) -> None:
        """By its ID in any case, by its beginning, and by its end."""
        flow = self.kept("[steps.a]\nrun = 'x'\nwhere = 'false'")
        for text in (flow, flow.lower(), flow[:20], flow[-8:].lower()):
            self.assertEqual(self.info(text)["id"], flow)
            self.assertEqual(self.ask("GET", f"workflows/{text}/why").status, 200)

    def test_no_task(self) -> None:
        """Whatever is asked of it as of a task says that it is a workflow, and what to do."""
        flow = self.kept(TWO)
        for text in (flow, flow[-8:]):
            for method, path in (("GET", ""), ("GET", "/why"), ("POST", "/cancel")):
                answer = self.ask(method, f"tasks/{text}{path}")
                self.assertEqual(self.refused(answer), (409, "is_workflow"))
                self.assertIn(f"bzzz task {flow}", self.told_why(answer))
        answer = self.ask("POST", f"tasks/{flow}/output", {})
        self.assertEqual(self.refused(answer), (409, "is_workflow"))

    def test_no_workflow(self) -> None:
        """What is none is told to be so."""
        task = self.submitted()
        for text in ("7" * 26, "7" * 27, "UUU", task, task[-8:]):
            answer = self.ask("GET", f"workflows/{text}")
            self.assertEqual(self.refused(answer), (404, "no_such_task"), text)

    def test_ambiguous(self) -> None:
        """A part of an ID may be of a task, too."""
        flow = self.kept(TWO)
        answer = self.ask("GET", f"workflows/{flow[:10]}")
        self.assertEqual(self.refused(answer), (409, "ambiguous_task"))

    def test_elsewhere(self) -> None:
        """One that others keep is asked of them."""
        self.peers.members = {peer("walnut"), peer("acacia")}
        made = workflow_record(submitted())
        answer = self.ask("GET", f"workflows/{made.workflow}")
        for each in self.peers.take(Find):
            each.answer.callback(Found(encode_workflow(made)))
        self.assertEqual(answer.json()["id"], made.workflow)
        answer = self.ask("GET", f"tasks/{made.workflow}")
        for _ in range(2):
            for each in self.peers.take(Find):
                each.answer.callback(Found(encode_workflow(made)))
        self.assertEqual(self.refused(answer), (409, "is_workflow"))


class SubmitTests(WorkflowRouteCase):
    """Workflows are submitted, and told of until they end."""

    def test_follow(self) -> None:
        """The ID comes first, then that it is kept, each step as it changes, and the end."""
        answer = self.send(TWO)
        self.run_for(0.3)
        self.assertEqual(self.events(answer), ["id", "kept", "step"])
        lines = answer.lines()
        flow = lines[0]["workflow"]
        self.assertIsNotNone(TASK.fullmatch(flow))
        self.assertEqual(lines[1]["replicas"], ["ironwood"])
        first, second = (self.task_of(flow, "a"), "")
        self.assertEqual(
            lines[2], {"event": "step", "label": "a", "state": "submitted", "task": first}
        )
        self.end(first)
        second = self.task_of(flow, "b")
        self.end(second)
        self.assertEqual(
            [(line["label"], line["state"], line["task"]) for line in answer.lines()[3:-1]],
            [("a", "done", first), ("b", "submitted", second), ("b", "done", second)],
        )
        ended = answer.lines()[-1]
        self.assertEqual(ended["event"], "ended")
        self.assertEqual(
            {name: ended["workflow"][name] for name in ("id", "name", "state", "submitter")},
            {"id": flow, "name": "build", "state": "done", "submitter": "4000000000"},
        )
        self.assertTrue(answer.ended)
        self.assertEqual(self.service.watched, 0)

    def test_detached(self) -> None:
        """Without ``follow`` the telling ends when it is kept."""
        answer = self.send(TWO, follow=False)
        self.assertEqual((self.events(answer), answer.ended), (["id", "kept"], True))

    def test_mistakes(self) -> None:
        """All that is wrong is told, each with its line, also what only the node knows."""
        text = (
            "[steps.a]\nrun = 'x'\nwhere = 'docker &&'\n"
            "[steps.b]\nrun = 'x'\non = 'oak'\nprofile = 'rooty'\nneeds = ['c']\n"
        )
        answer = self.send(text)
        self.assertEqual(self.refused(answer), (400, "bad_workflow"))
        told = self.told_why(answer).splitlines()
        self.assertEqual(
            [line.partition(": ")[0] for line in told],
            [f"build.toml:{number}" for number in (3, 6, 7, 8)],
        )
        self.assertIn("no member is called 'oak'", told[1])
        self.assertIn("there is no profile 'rooty'", told[2])
        self.assertEqual(self.disk.kept, {})

    def test_files(self) -> None:
        """What its steps take travels with it, and they get it."""
        text = "[steps.a]\nrun = 'x'\nin = ['src']\ncpus = 5\n"
        flow = self.send(text, files=[["src", "0" * 64, 7]], follow=False).lines()[0]["workflow"]
        self.run_for(0.3)
        task = self.successResultOf(self.wait(self.service.find(self.task_of(flow, "a"))))
        self.assertEqual(task.submission.inputs, (Input("src", "0" * 64, 7),))

    def test_no_right(self) -> None:
        """A node whose role does not let it submit says so."""
        self.rights.submitters.clear()
        answer = self.send(TWO)
        self.assertEqual(self.refused(answer), (400, "not_submitted"))
        self.assertIn("role", self.told_why(answer))

    def test_unknown(self) -> None:
        """Where it is not known whether it was submitted, that is told."""
        self.rights.all = {peer(each) for each in ("walnut", "ironwood", "acacia")}
        self.peers.members = {peer("walnut"), peer("acacia")}
        answer = self.send(TWO)
        self.run_for(15)
        self.assertEqual(answer.lines()[-1]["error"]["code"], "unknown")

    def test_bodies(self) -> None:
        """A body that is none, or of somebody whom nobody has checked, does nothing."""
        for wrong in ({}, {"file": "x"}, {"file": "x", "text": TWO, "where": "y"}):
            answer = self.ask("POST", "workflows", wrong)
            self.assertEqual(self.refused(answer), (400, "bad_body"))
        flow = self.kept(TWO)
        kept = dict(self.disk.kept)
        for path, body in (
            ("workflows", {"file": "x", "text": TWO}),
            (f"workflows/{flow}/cancel", None),
            (f"workflows/{flow}/retry", None),
            (f"workflows/{flow}/follow", None),
        ):
            answer = self.ask("POST", path, body, by=None)
            self.assertEqual(self.refused(answer), (403, "not_allowed"), path)
        self.assertEqual(self.disk.kept, kept)


class FollowTests(WorkflowRouteCase):
    """Workflows that were submitted before."""

    def follow(self, flow: str) -> Exchange:
        return self.ask("POST", f"workflows/{flow}/follow")

    def test_follow(self) -> None:
        """What has begun is told, and what comes."""
        flow = self.kept(TWO)
        answer = self.follow(flow[-8:])
        self.assertEqual(self.events(answer), ["step"])
        self.end(self.task_of(flow, "a"), 1)
        self.assertEqual(
            [(line["label"], line["state"]) for line in answer.lines()[1:-1]],
            [("a", "failed"), ("b", "skipped")],
        )
        self.assertEqual(answer.lines()[-1]["workflow"]["state"], "failed")

    def test_over(self) -> None:
        """One that has ended is told at once, whole."""
        flow = self.kept("[steps.a]\nrun = 'x'")
        self.end(self.task_of(flow, "a"))
        answer = self.follow(flow)
        self.assertEqual((self.events(answer), answer.ended), (["step", "ended"], True))

    def test_hang_up(self) -> None:
        """Who hangs up ends the telling, and not the workflow; nothing is left of the telling."""
        flow = self.kept(TWO)
        answer = self.follow(flow)
        self.assertEqual(self.service.watched, 1)
        answer.disconnect()
        self.run_for(POLL)
        self.assertEqual(self.service.watched, 0)
        self.assertEqual(self.info(flow)["state"], "running")

    def test_elsewhere(self) -> None:
        """One that others keep is asked for again and again."""
        self.peers.members = {peer("walnut"), peer("acacia")}
        made = workflow_record(submitted())
        entries = tuple(
            Entry(Status.DONE, task_id(place + 1), outcome=Outcome.DONE)
            for place in range(len(made.plan.instances))
        )
        over = msgspec.structs.replace(made, progress=Progress(entries), version=1)
        answer = self.follow(made.workflow)
        for told in (made, made, over):
            self.assertFalse(answer.ended)
            for each in self.peers.take(Find):
                each.answer.callback(Found(encode_workflow(told)))
            self.run_for(POLL + 0.2)
        self.assertEqual(self.events(answer), ["step"] * len(entries) + ["ended"])


class ChangeTests(WorkflowRouteCase):
    """Cancel and retry."""

    def change(self, flow: str, how: str) -> Exchange:
        return self.ask("POST", f"workflows/{flow}/{how}")

    def test_cancel(self) -> None:
        """What has not begun is skipped, and what runs is ended; a second time is no error."""
        flow = self.kept(TWO)
        answer = self.change(flow[-8:], "cancel").json()
        self.assertEqual((answer["id"], answer["state"]), (flow, "cancelling"))
        self.assertEqual(self.states(flow)["b"], "skipped")
        self.run_for(1)
        self.assertEqual(
            [key for key, _ in self.executor.stopped][:1], [f"{self.task_of(flow, 'a')}.1"]
        )
        self.assertEqual(self.change(flow, "cancel").json()["state"], "cancelling")
        self.end(self.task_of(flow, "a"), 143)
        self.assertEqual(self.info(flow)["state"], "cancelled")
        self.assertEqual(self.change(flow, "cancel").json()["state"], "cancelled")

    def test_cancel_always(self) -> None:
        """The first cancel lets steps run that always do, the second does not."""
        flow = self.kept(
            "[steps.a]\nrun = 'x'\n[steps.b]\nrun = 'y'\nneeds = ['a']\nwhen = 'always'"
        )
        self.change(flow, "cancel")
        self.assertEqual(self.states(flow)["b"], "waiting")
        self.change(flow, "cancel")
        self.assertEqual(self.states(flow)["b"], "skipped")

    def test_retry(self) -> None:
        """What did not succeed begins anew; one that has not ended is refused."""
        flow = self.kept(TWO)
        self.assertEqual(self.refused(self.change(flow, "retry")), (409, "not_ended"))
        first = self.task_of(flow, "a")
        self.end(first, 1)
        answer = self.change(flow[-8:], "retry").json()
        self.assertEqual((answer["state"], answer["round"]), ("running", 1))
        self.run_for(0.3)
        self.assertEqual(self.states(flow), {"a": "submitted", "b": "waiting"})
        self.assertNotEqual(self.task_of(flow, "a"), first)

    def test_retry_done(self) -> None:
        """One that is done stays so."""
        flow = self.kept("[steps.a]\nrun = 'x'")
        self.end(self.task_of(flow, "a"))
        answer = self.change(flow, "retry").json()
        self.assertEqual((answer["state"], answer["round"]), ("done", 0))

    def test_nobody(self) -> None:
        """What nobody knows is not changed."""
        for how in ("cancel", "retry", "follow"):
            answer = self.change("7" * 26, how)
            self.assertEqual(self.refused(answer), (404, "no_such_task"))


class WhyTests(WorkflowRouteCase):
    """Why the steps of a workflow are where they are."""

    def why(self, flow: str) -> dict[str, dict[str, Any]]:
        answer = self.ask("GET", f"workflows/{flow}/why").json()
        self.assertEqual(answer["workflow"]["id"], flow)
        return {step["label"]: step for step in answer["steps"]}

    def test_cannot_run(self) -> None:
        """A step that no machine could run says so, with what each lacks; one after it says for
        what it waits."""
        flow = self.kept("[steps.a]\nrun = 'x'\ncpus = 5\n[steps.b]\nrun = 'y'\nneeds = ['a']")
        found = self.why(flow)
        self.assertEqual((found["a"]["state"], found["a"]["task_state"]), ("submitted", "waiting"))
        self.assertEqual(
            found["a"]["why"],
            "no machine that is linked could run it: ironwood (needs 5 cores, and it offers 4 cores"
            " to tasks)",
        )
        self.assertEqual([each["name"] for each in found["a"]["nodes"]], ["ironwood"])
        self.assertEqual((found["b"]["why"], found["b"]["nodes"]), ("it comes after a", []))

    def test_no_room(self) -> None:
        """One that could run later is told apart, and so is one for a machine that is away."""
        flow = self.kept(
            "[steps.a]\nrun = 'x'\ncpus = 3\n[steps.b]\nrun = 'x'\ncpus = 3\n"
            "[steps.c]\nrun = 'x'\non = 'hazel'"
        )
        found = self.why(flow)
        waits, runs = sorted((found["a"], found["b"]), key=lambda each: each["worker_name"])
        self.assertEqual((runs["task_state"], runs["worker_name"]), ("running", "ironwood"))
        self.assertTrue(
            waits["why"].startswith("no machine that could run it takes it now: ironwood ("),
            waits["why"],
        )
        self.assertIn("is not linked", found["c"]["why"])

    def test_turn(self) -> None:
        """One that max_parallel holds back says so."""
        flow = self.kept("max_parallel = 1\n[steps.a]\nrun = 'x'\n[steps.b]\nrun = 'y'")
        self.assertEqual(self.why(flow)["b"]["why"], "max_parallel lets 1 run at once")

    def test_failed(self) -> None:
        """One that has failed has its status, and the end of what it has printed."""
        self.workspace.produced = Produced(b"out", b"make: no rule\n\xff", 3, 14)
        flow = self.kept(TWO)
        self.end(self.task_of(flow, "a"), 2)
        self.assertEqual(self.states(flow), {"a": "failed", "b": "skipped"})
        found = self.why(flow)
        self.assertEqual(list(found), ["a"])
        self.assertEqual(
            (found["a"]["exit_status"], found["a"]["worker_name"], found["a"]["stderr"]),
            (2, "ironwood", "make: no rule\n\ufffd"),
        )

    def test_printed(self) -> None:
        """Where nothing is on standard error, the end of standard output is told."""
        self.workspace.produced = Produced(b"out", b"", 3, 0)
        flow = self.kept("[steps.a]\nrun = 'x'")
        self.end(self.task_of(flow, "a"), 2)
        self.assertEqual(self.why(flow)["a"]["stderr"], "out")

    def test_not_submitted(self) -> None:
        """One that could not be submitted has no task, and says so."""

        def nobody(text: str) -> str:
            raise LocalProtocolError("no member is called so")

        self.service.workflows.find_node = nobody
        flow = self.kept("[steps.a]\nrun = 'x'\non = 'hazel'")
        self.assertEqual(self.states(flow), {"a": "failed"})
        self.assertIn("could not be submitted", self.why(flow)["a"]["why"])

    def test_done(self) -> None:
        """Of one that is done there is nothing to tell."""
        flow = self.kept("[steps.a]\nrun = 'x'")
        self.end(self.task_of(flow, "a"))
        self.assertEqual(self.why(flow), {})

    def test_many(self) -> None:
        """Of many that wait, nodes are judged for some, and some are looked up."""
        self.patch(workflow_why, "MAX_JUDGED", 2)
        self.patch(workflow_why, "MAX_LOOKED_UP", 3)
        flow = self.kept("[steps.a]\nrun = 'x'\ncpus = 5\n[steps.a.matrix]\nn = [1, 2, 3, 4]")
        found = list(self.why(flow).values())
        self.assertEqual([len(each["nodes"]) for each in found], [1, 1, 0, 0])
        self.assertEqual([each["task_state"] for each in found], ["waiting"] * 3 + [""])

    def test_anothers(self) -> None:
        """A task of somebody else with the ID of a step tells nothing of the step."""
        flow = self.kept("[steps.a]\nrun = 'x'\ncpus = 5")
        task = self.task_of(flow, "a")
        theirs = msgspec.structs.replace(record(begin()).submission, task=task)
        self.patch(self.service, "find", _found(theirs))
        self.assertEqual(self.why(flow)["a"]["task_state"], "")


def _found(submission: Any) -> Any:
    async def find(task: str, among: Any = ()) -> Any:
        made = record(begin())
        return msgspec.structs.replace(made, submission=submission)

    return find
