"""``bzzz submit``: a workflow's file, what is told of it, and what it exits with."""

from __future__ import annotations

import json
import signal
import threading
from functools import partial
from pathlib import Path
from typing import Any

from bzzz.cli import run_files, silence
from bzzz.cli.client import NoNode
from bzzz.web.requests import Refusal
from tests.cli.task_node import FLOW, OTHER, TASK, TaskCase, reason, step, workflow

GOOD = '[steps.a]\nrun = "make"\n'
BEGUN: tuple[Any, ...] = ({"event": "id", "workflow": FLOW}, {"event": "kept", "replicas": []})


def interrupt() -> None:
    """Ctrl-C."""
    signal.raise_signal(signal.SIGINT)


def ended(state: str, *steps: Any) -> dict[str, Any]:
    return {"event": "ended", "workflow": workflow(state, *steps)}


def news(label: str, state: str, task: str = "") -> dict[str, str]:
    return {"event": "step", "label": label, "state": state, "task": task}


def until_told(seconds: float) -> None:
    """Wait for what is told after no time; what is told later is not waited for."""
    if not seconds:
        for thread in threading.enumerate():
            if isinstance(thread, threading.Timer):
                thread.join(5.0)


class SubmitTests(TaskCase):
    """A workflow that is submitted."""

    def setUp(self) -> None:
        super().setUp()
        place = Path(self.mktemp())
        place.mkdir()
        self.file = place / "build.toml"
        self.file.write_text(GOOD)

    def submit(self, *options: str) -> tuple[str, ...]:
        return ("submit", *options, str(self.file))

    def test_done(self) -> None:
        """Each step is told as it goes on; where it runs until it is done."""
        self.tasks.say(
            *BEGUN,
            news("a", "submitted", TASK),
            news("a", "done", TASK),
            news("b\x1b", "skipped"),
            ended("done", step("a", "done", TASK)),
        )
        self.assertEqual(
            self.output(*self.submit()).splitlines(),
            [
                FLOW,
                f"submitted  a  {TASK}",
                "done       a",
                "skipped    b\\u001b",
                "The workflow is done.",
            ],
        )
        [body] = self.tasks.submitted
        self.assertEqual((body.file, body.text, body.follow), (str(self.file), GOOD, True))

    def test_waits(self) -> None:
        """Of a step whose task waits for long the reason is told; of one that runs nothing is."""
        self.tasks.flows = [workflow("running")]
        self.tasks.reasons = [
            reason("a", "submitted", TASK, task_state="waiting", why="no machine has gcc\x1b"),
            reason("b", "submitted", TASK, task_state="running", worker_name="oak"),
        ]
        news_of_both = (news("a", "submitted", TASK), news("b", "submitted", TASK))
        for seconds, told in ((60.0, ""), (0.0, "a waits: no machine has gcc\\u001b\n")):
            self.patch(silence, "SECONDS", seconds)
            lines = (*BEGUN, *news_of_both, ended("cancelled"))
            self.during(lines, *[lambda: None] * 3, *[partial(until_told, seconds)] * 2)
            self.assertEqual(self.told(130, *self.submit()).stderr, told)

    def test_failed(self) -> None:
        """Why a step failed is told, with the end of what it has printed, and how to see more."""
        self.tasks.flows = [workflow("failed")]
        printed = "".join(f"{number}\x1b\n" for number in range(20))
        self.tasks.reasons = [
            reason("a", "failed", TASK, exit_status=2, worker_name="oak", stderr=printed),
            reason("b", "failed", OTHER, why="it took longer than 5 s", worker_name="ash"),
            reason("c", "failed", why="it could not be submitted"),
        ]
        steps = (
            step("a", "failed", TASK, "failed"),
            step("b", "failed", OTHER, "timed_out"),
            step("c", "failed", "", "failed"),
            step("d", "skipped"),
        )
        self.tasks.say(*BEGUN, ended("failed", *steps))
        result = self.told(1, *self.submit())
        self.assertEqual(result.stdout.splitlines()[-1], "The workflow has failed.")
        self.assertEqual(
            result.stderr.splitlines(),
            [
                "a failed: exit status 2 on oak",
                *(f"  {number}\\u001b" for number in range(10, 20)),
                f"  All that it has printed: bzzz logs {TASK}",
                "b timed out: it took longer than 5 s on ash",
                f"  All that it has printed: bzzz logs {OTHER}",
                "c failed: it could not be submitted",
            ],
        )

    def test_failed_many(self) -> None:
        """Some that have failed are told, also where the node cannot tell why."""
        steps = [step(str(number), "failed", TASK, "failed") for number in range(7)]
        self.tasks.say(*BEGUN, ended("failed", *steps))
        said = self.told(1, *self.submit()).stderr.splitlines()
        self.assertEqual(said[:2], ["0 failed", f"  All that it has printed: bzzz logs {TASK}"])
        self.assertEqual(said[10:], [f"2 more failed: bzzz why {FLOW}"])

    def test_cancelled(self) -> None:
        """It exits as a command that was interrupted."""
        self.tasks.say(*BEGUN, ended("cancelled"))
        self.assertIn("The workflow is cancelled.", self.told(130, *self.submit()).stdout)

    def test_detach(self) -> None:
        """The ID alone is printed, when it is kept."""
        self.tasks.say(*BEGUN)
        self.assertEqual(self.output(*self.submit("--detach")), f"{FLOW}\n")
        self.assertFalse(self.tasks.submitted[0].follow)

    def test_json(self) -> None:
        """With --json a line for each event is all."""
        self.tasks.say(*BEGUN, ended("failed", step("a", "failed", TASK, "failed")))
        result = self.told(1, *self.submit("--json"))
        events = [json.loads(line)["event"] for line in result.stdout.splitlines()]
        self.assertEqual((events, result.stderr), (["id", "kept", "ended"], ""))

    def test_cut_short(self) -> None:
        """An answer that ends too early is no success."""
        self.tasks.say(*BEGUN)
        self.assertIn("without the workflow's end", self.told(125, *self.submit()).stderr)
        self.tasks.say()
        self.assertIn("without the workflow's end", self.refused(125, *self.submit("--detach")))

    def test_mistakes(self) -> None:
        """All mistakes of the file are told, each with its line, and nothing is asked."""
        self.file.write_text(
            '[steps.a]\nrun = "x"\nwhere = "resources.cpus >"\nin = ["absent"]\n'
            'memory = "1e400"\ntimeout = "1e999h"\ncpus = nan\n'
            "gpus = 99999999999999999999999\n"
        )
        said = self.refused(122, *self.submit()).splitlines()
        self.assertEqual([line.split(":")[1] for line in said], ["3", "4", "5", "6", "7", "8"])
        self.assertTrue(all(line.startswith(f"{self.file}:") for line in said))
        self.assertEqual(self.asked, [])

    def test_unreadable(self) -> None:
        """A file that is not there is a wrong argument; one that cannot be read is refused."""
        self.assertIn("does not exist", self.refused(2, "submit", "absent.toml"))

        def read(path: Path) -> bytes:
            raise PermissionError(13, "Permission denied")

        self.patch(Path, "read_bytes", read)
        self.assertEqual(
            self.refused(122, *self.submit()), f"{self.file} cannot be read: Permission denied\n"
        )

    def test_refused(self) -> None:
        """What the node refuses exits with 122, and what may have been submitted with 125."""
        for status, code, said, exits in (
            (400, "bad_workflow", "w:1: no member is called oak\nw:2: nor ash", 122),
            (400, "not_submitted", "this node may not submit tasks", 122),
            (400, "bad_body", "text: expected `str`", 122),
            (503, "unknown", "it is not known whether the workflow was submitted", 125),
            (500, "internal_error", "the node's log has what went wrong", 125),
        ):
            self.tasks.refusal = Refusal(status, code, said)
            self.assertEqual(self.refused(exits, *self.submit()), f"{said}\n")
        self.node = None
        self.assertIn("No node is running", self.refused(125, *self.submit()))

    def test_broken_off(self) -> None:
        """A node that dies does not end the workflow."""

        def die() -> None:
            raise NoNode("it broke off")

        self.during((*BEGUN, news("a", "done")), *[lambda: None] * 2, die)
        self.assertEqual(
            self.told(125, *self.submit()).stderr,
            f"it broke off\nThe workflow goes on. To see how far it is: bzzz task {FLOW}\n",
        )

    def test_interrupted(self) -> None:
        """Ctrl-C cancels it once, and the second time leaves it alone."""
        self.tasks.flows = [workflow("cancelling")]
        lines = (*BEGUN, news("a", "submitted", TASK), ended("cancelled"))
        self.during(lines, *[lambda: None] * 2, interrupt)
        result = self.told(130, *self.submit())
        self.assertEqual(self.tasks.acts, [("cancel", FLOW)])
        self.assertEqual(
            result.stderr, "Cancelling it; press Ctrl-C again not to wait for its end.\n"
        )
        self.during(lines, *[lambda: None] * 2, interrupt, interrupt)
        self.assertIn(
            f"It goes on. To see how far it is: bzzz task {FLOW}\n",
            self.told(130, *self.submit()).stderr,
        )
        self.tasks.flows = []
        self.during(lines, *[lambda: None] * 2, interrupt)
        self.assertIn("It could not be cancelled", self.told(130, *self.submit()).stderr)

    def test_interrupted_early(self) -> None:
        """Before anything is known to be submitted that is what is told."""
        self.during(BEGUN, interrupt)
        self.assertEqual(
            self.refused(130, *self.submit()),
            "It is not known whether the workflow was submitted.\n",
        )

        def send(*arguments: object) -> None:
            raise KeyboardInterrupt

        self.patch(run_files, "send_inputs", send)
        (self.file.parent / "in").write_text("x")
        self.file.write_text('[steps.a]\nrun = "make"\nin = ["in"]\n')
        self.assertEqual(self.refused(130, *self.submit()), "Nothing was submitted.\n")

    def test_inputs(self) -> None:
        """Files of its steps are sent first, by their paths beside the file."""
        (self.file.parent / "in").write_text("x")
        self.file.write_text('[steps.a]\nrun = "make"\nin = ["in"]\n')
        sent: list[Any] = []

        def send(session: object, inputs: Any) -> list[dict[str, Any]]:
            sent.extend(inputs)
            return [{"path": path, "digest": "0" * 64, "size": 1} for path, _ in inputs]

        self.patch(run_files, "send_inputs", send)
        self.tasks.say(*BEGUN, ended("done"))
        self.output(*self.submit())
        self.assertEqual(sent, [("in", self.file.parent / "in")])
        self.assertEqual([each.path for each in self.tasks.submitted[0].files], ["in"])
