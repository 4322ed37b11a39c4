"""The commands about tasks that are there: tasks, task, logs, cancel, retry, why."""

from __future__ import annotations

import json
import os
import pwd
import signal
import time

from bzzz.cli import task_list as module
from bzzz.tasks.submission import TASK as TASK_ID
from bzzz.tasks.submission import submitted_at
from bzzz.web.requests import Refusal
from tests.cli.task_node import (
    FLOW,
    KEPT,
    OTHER,
    RUNNING,
    TASK,
    TaskCase,
    info,
    output,
    reason,
    step,
    summary,
    verdict,
    workflow,
)
from tests.web.fakes import WALNUT

NOBODY = "The node answered: there is no task {}\n"


class ListingTests(TaskCase):
    """``bzzz tasks``."""

    def setUp(self) -> None:
        super().setUp()
        self.patch(module, "_user", lambda: "anna")

    def test_open(self) -> None:
        """Those that have not ended, with where they run and whose they are."""
        self.tasks.tasks = [
            info(OTHER, "running", name="build"),
            info(TASK, "waiting", worker_name="", submitter="", cancel=True),
        ]
        lines = self.output("tasks").splitlines()
        self.assertEqual(lines[0].split(), ["ID", "KIND", "STATE", "ON", "AGE", "BY", "WHAT"])
        self.assertEqual(lines[1].split()[:4], [OTHER, "task", "running", "ironwood"])
        self.assertEqual(lines[1].split()[-2:], ["anna", "build"])
        # Whoever submitted it is not known, but where.
        self.assertIn("walnut", lines[2])
        self.assertIn("cancelling", lines[2])
        self.assertTrue(lines[2].endswith("make -j8 'all targets'"), lines[2])
        self.assertEqual(self.tasks.queries, [{"limit": "100", "open": "1"}])

    def test_all(self) -> None:
        """With --all also those that have ended; with --limit so many."""
        self.tasks.tasks = [info(state="failed")]
        self.assertIn("failed", self.output("tasks", "--all", "--limit", "7"))
        self.assertEqual(self.tasks.queries, [{"limit": "7"}])

    def test_state(self) -> None:
        """Of one state alone; for one that has ended all are asked for."""
        self.tasks.tasks = [
            info(OTHER, "running"),
            info(TASK, "running", cancel=True),
            info(TASK, "failed"),
        ]
        for state, found, asked in (
            ("running", [OTHER], {"limit": "500", "open": "1"}),
            ("cancelling", [TASK], {"limit": "500", "open": "1"}),
            ("failed", [TASK], {"limit": "500"}),
        ):
            lines = self.output("tasks", "--state", state).splitlines()
            self.assertEqual([line.split()[0] for line in lines[1:]], found, state)
            self.assertEqual(self.tasks.queries[-1], asked)
        self.assertIn("'waiting', 'running'", self.refused(2, "tasks", "--state", "runing"))

    def test_since(self) -> None:
        """Submitted in the last so much: from an ID of then."""
        self.tasks.tasks = [info()]
        self.patch(time, "time", lambda: 1_795_482_123.0)
        self.output("tasks", "--since", "2h")
        since = self.tasks.queries[-1]["since"]
        self.assertTrue(TASK_ID.fullmatch(since))
        self.assertEqual(submitted_at(since), 1_795_482_123.0 - 7200)
        for wrong in ("yesterday", "1e400", "9" * 400 + "d", "-1h"):
            self.assertIn("--since=", self.refused(2, "tasks", "--since", wrong))

    def test_mine(self) -> None:
        """Of this user on this machine."""
        self.tasks.tasks = [
            info(TASK, origin=WALNUT),
            info(OTHER, origin=WALNUT, submitter="bert"),
            info(FLOW, origin="peer-acacia"),
        ]
        lines = self.output("tasks", "--mine").splitlines()
        self.assertEqual([line.split()[0] for line in lines[1:]], [TASK])

    def test_none(self) -> None:
        """That there are none is told, and how to see others."""
        for options, said in (
            ((), "No task or workflow waits or runs. All of them: bzzz tasks --all"),
            (
                ("--mine",),
                "No task or workflow waits or runs, of yours on this machine. All of them: bzzz",
            ),
            (
                ("--state", "running"),
                "No task or workflow is running. All of them: bzzz tasks --all",
            ),
            (("--state", "timed_out"), "No task or workflow is timed out."),
            (("--all",), "There is no task and no workflow."),
            (
                ("--all", "--since", "2h"),
                "There is no task and no workflow, of those submitted since then.",
            ),
        ):
            self.assertTrue(self.output("tasks", *options).startswith(said), options)

    def test_more(self) -> None:
        """That there are more, or may be, is told beside them."""
        self.tasks.tasks = [info()]
        self.tasks.more = True
        self.tasks.answered = 1
        self.assertEqual(
            self.told(0, "tasks", "--limit", "1").stderr.splitlines(),
            [
                "The newest 1 are listed, and there are more: --limit N",
                "1 member did not answer, so tasks may be missing: bzzz peers",
            ],
        )
        self.tasks.more = False
        self.tasks.answered = 0
        self.assertTrue(self.told(0, "tasks").stderr.startswith("2 members did not answer"))

    def test_workflows(self) -> None:
        """Workflows are among them, with how far they are."""
        self.tasks.tasks = [info(TASK, "running")]
        flow = workflow("running", step("a", "done", TASK), step("b", "waiting"))
        self.tasks.flows = [{**flow, "submitter": "bert"}]
        lines = [line.split() for line in self.output("tasks").splitlines()[1:]]
        self.assertEqual(lines[0][:3], [FLOW, "workflow", "running"])
        self.assertEqual(lines[0][-6:], ["build:", "1", "of", "2", "steps", "done"])
        self.assertEqual(lines[1][:3], [TASK, "task", "running"])
        answer = json.loads(self.output("tasks", "--json", "--mine"))
        self.assertEqual(([each["id"] for each in answer["tasks"]], answer["workflows"]), ([], []))
        answer = json.loads(self.output("tasks", "--json", "--state", "running"))
        [found] = answer["workflows"]
        self.assertEqual((found["id"], found["done"], found["steps"]), (FLOW, 1, 2))

    def test_steps(self) -> None:
        """The tasks of a workflow's steps are behind it, in the order of its file; those of another
        one, which is not listed, by their names."""
        base, other = FLOW[:-2], TASK.replace("K", "J")
        names = ("zip", "add", "mix")
        ids = [f"{base}{number}" for number in ("44", "55", "11")]
        steps = [step(name, "submitted", task) for name, task in zip(names, ids, strict=True)]
        self.tasks.flows = [workflow("running", *steps)]
        self.tasks.tasks = [
            *(
                info(task, "running", workflow=FLOW, step=name)
                for name, task in zip(names, ids, strict=True)
            ),
            info(f"{base}99", "running"),
            info(f"{other[:-2]}77", "running", workflow=other, step="one"),
            info(f"{other[:-2]}88", "running", workflow=other, step="two"),
        ]
        lines = self.output("tasks").splitlines()[1:]
        behind = [f"{base}99", FLOW, *ids, f"{other[:-2]}77", f"{other[:-2]}88"]
        self.assertEqual([line.split()[0] for line in lines], behind)
        answer = json.loads(self.output("tasks", "--json"))
        behind.remove(FLOW)
        self.assertEqual([each["id"] for each in answer["tasks"]], behind)

    def test_limit(self) -> None:
        """The limit is of those that are listed, however many others are among them: page after
        page is looked at."""
        self.patch(module, "MAX_PAGE", 2)
        ids = [f"01KAY4Q2M800000000000000{number:02}" for number in range(9)]
        self.tasks.tasks = [info(each, "running") for each in ids]
        for place in (0, 1, 3):
            self.tasks.tasks[place] = info(ids[place], "waiting")
        result = self.told(0, "tasks", "--state", "waiting", "--limit", "2")
        found = [line.split()[0] for line in result.stdout.splitlines()[1:]]
        self.assertEqual(found, [ids[3], ids[1]])
        self.assertEqual(result.stderr, "The newest 2 are listed, and there are more: --limit N\n")
        self.assertEqual(
            [query.get("before") for query in self.tasks.queries], [None, ids[7], ids[5], ids[3]]
        )
        answer = json.loads(self.output("tasks", "--state", "waiting", "--json"))
        self.assertEqual(
            ([each["id"] for each in answer["tasks"]], answer["more"]),
            ([ids[3], ids[1], ids[0]], False),
        )

    def test_looked_at(self) -> None:
        """That none was found is no promise that there is none, where not all were looked at."""
        self.patch(module, "MAX_PAGE", 2)
        self.patch(module, "MAX_LOOKED", 4)
        self.tasks.tasks = [
            info(f"01KAY4Q2M800000000000000{number:02}", "running") for number in range(9)
        ]
        result = self.told(0, "tasks", "--state", "waiting")
        self.assertEqual(result.stdout, "None of the newest 4 is of those.\n")
        self.assertEqual(result.stderr, "The newest 4 were looked at, and there are more.\n")

    def test_unreadable(self) -> None:
        """Records that cannot be read are named, some of them where they are many."""
        self.assertEqual(self.told(0, "tasks").stderr, "")
        for unreadable, said in (
            (["A", "B"], "left out: A, B. The logs"),
            (["A", "B", "C", "D", "E"], "left out: A, B, C and 2 more. The logs"),
        ):
            self.tasks.unreadable = unreadable
            self.assertIn(said, self.told(0, "tasks").stderr)

    def test_json(self) -> None:
        """All that the node says, of those that are wanted."""
        self.tasks.tasks = [info(OTHER, "running"), info(TASK, "failed")]
        answer = json.loads(self.output("tasks", "--json", "--state", "failed"))
        self.assertEqual([each["id"] for each in answer["tasks"]], [TASK])
        self.assertEqual((answer["more"], answer["asked"], answer["answered"]), (False, 2, 2))

    def test_long(self) -> None:
        """A long command is cut; one with control characters cannot drive the terminal."""
        self.tasks.tasks = [info(command=["sh", "-c", "echo \x1b[2J" + "x" * 99])]
        line = self.output("tasks", "--all").splitlines()[1]
        self.assertTrue(line.endswith("xxx…"), line)
        self.assertNotIn("\x1b", line)

    def test_wrong(self) -> None:
        """Limits that cannot be, and nodes that do not answer."""
        for wrong in ("0", "501", "x", "99999999999999999999999"):
            self.refused(2, "tasks", "--limit", wrong)
        self.tasks.refusal = Refusal(500, "node_error", "the disk is full")
        self.assertEqual(self.refused(4, "tasks"), "The node answered: the disk is full\n")
        self.node = None
        self.assertIn("No node is running here", self.refused(3, "tasks"))

    def test_user(self) -> None:
        """Whose name nobody knows is a number."""
        self.patch(pwd, "getpwuid", {}.__getitem__)
        self.assertEqual(_real_user(), str(os.getuid()))


_real_user = module._user


class TaskTests(TaskCase):
    """``bzzz task``."""

    def test_running(self) -> None:
        """What is known of it, and nothing of what is not."""
        self.tasks.tasks = [info(state="running", name="build", where="os == 'Debian'")]
        lines = self.output("task", TASK).splitlines()
        self.assertEqual(
            [line.split()[0] for line in lines],
            [
                *("task", "name", "command", "state", "on", "submitted", "changed", "kept"),
                *("where", "needs"),
            ],
        )
        self.assertIn("command      make -j8 'all targets'", lines)
        self.assertIn("kept by      walnut, acacia", lines)
        self.assertTrue(lines[5].endswith("by anna on walnut"), lines[5])

    def test_ended(self) -> None:
        """How it ended, what it has put out, and the attempts before."""
        attempts = [
            {"token": 1, "worker_name": "acacia", "end": "lost", "exit_status": None},
            {"token": 2, "worker_name": "ironwood", "end": "failed", "exit_status": 3},
        ]
        self.tasks.tasks = [
            info(
                state="failed",
                why="it has failed",
                stdout_size=5,
                stderr_size=7168,
                attempts=[{**each, "worker": "", "reason": "why\x1b"} for each in attempts],
            )
        ]
        lines = self.output("task", TASK[-4:]).splitlines()
        self.assertIn("exit status  3", lines)
        self.assertIn("why          it has failed", lines)
        self.assertIn("output       5 bytes, and 7 KiB of standard error", lines)
        self.assertEqual(lines[-3].split(), ["ATTEMPT", "ON", "END", "EXIT", "REASON"])
        self.assertEqual(lines[-2].split(), ["1", "acacia", "lost", "why\\u001b"])
        self.assertEqual(lines[-1].split(), ["2", "ironwood", "failed", "3", "why\\u001b"])

    def test_waiting(self) -> None:
        """How to see why it waits is told."""
        self.tasks.tasks = [info(state="waiting", worker_name="")]
        self.assertEqual(
            self.output("task", TASK).splitlines()[-1],
            f"Why it does not run yet, for every machine: bzzz why {TASK}",
        )

    def test_exit_status_0(self) -> None:
        """A status of 0 is one that is known."""
        self.tasks.tasks = [info()]
        self.assertIn("exit status  0", self.output("task", TASK).splitlines())

    def test_json(self) -> None:
        """All that the node says."""
        self.tasks.tasks = [info()]
        self.assertEqual(json.loads(self.output("task", TASK, "--json")), self.tasks.tasks[0])

    def test_workflow(self) -> None:
        """A workflow's ID shows its steps."""
        self.tasks.flows = [workflow("running", step("a", "done", TASK), step("b", "waiting"))]
        lines = self.output("task", FLOW[-4:]).splitlines()
        self.assertEqual(lines[0], f"workflow     {FLOW}")
        self.assertEqual(
            [line.split() for line in lines[-4:-2]], [["a", "done", TASK], ["b", "waiting"]]
        )
        self.assertEqual(lines[-1], f"Why steps wait, or have failed: bzzz why {FLOW}")
        self.assertEqual(json.loads(self.output("task", FLOW, "--json")), self.tasks.flows[0])

    def test_needs(self) -> None:
        """What it needs is told in the words of other outputs."""
        for fields, words in (
            ({"memory": 3 << 29, "cpus": 0.5, "gpus": 1}, "0.5 cores, 1.5 GiB of memory, 1 GPU"),
            ({"memory": 100 << 20, "gpus": 2}, "1 core, 100 MiB of memory, 2 GPUs"),
        ):
            self.tasks.tasks = [info(**fields)]
            self.assertIn(
                f"needs        {words}, at most 5 s", self.output("task", TASK).splitlines()
            )

    def test_step(self) -> None:
        """A step's task names its workflow."""
        self.tasks.tasks = [info(workflow=FLOW, step="compile[gcc,0]")]
        lines = self.output("task", TASK).splitlines()
        self.assertIn(f"workflow     {FLOW}", lines)
        self.assertIn("step         compile[gcc,0]", lines)

    def test_nobody(self) -> None:
        """What nobody knows; strange letters are one ID, and no other path."""
        for wrong in (TASK, "a b\n", "%2e", "x?open=1#"):
            self.assertIn("there is no task", self.refused(4, "task", wrong))
        for wrong in ("", "../status", "/"):
            self.refused(4, "task", wrong)
        self.node = None
        self.assertIn("No node is running here", self.refused(3, "task", TASK))


class LogsTests(TaskCase):
    """``bzzz logs``."""

    def setUp(self) -> None:
        super().setUp()
        self.tasks.tasks = [info()]

    def test_whole(self) -> None:
        """Each output is where the command wrote it."""
        self.tasks.say(RUNNING, output("one\n"), output("two\n", "stderr"), output("three"))
        result = self.told(0, "logs", TASK)
        self.assertEqual((result.stdout, result.stderr), ("one\nthree", "two\n"))
        self.assertEqual(self.tasks.acts, [("output False", TASK)])

    def test_json(self) -> None:
        """With --json a line for each event."""
        self.tasks.say(RUNNING, output("one\n"))
        lines = self.output("logs", "--json", TASK).splitlines()
        self.assertEqual([json.loads(line)["event"] for line in lines], ["running", "stdout"])

    def test_follow(self) -> None:
        """-f goes on until its end, and exits as bzzz run would have."""
        ended = {"event": "ended", "task": info(state="failed", exit_status=3)}
        self.tasks.say(RUNNING, output("one\n"), ended)
        result = self.told(3, "logs", "-f", TASK[-4:])
        self.assertEqual((result.stdout, result.stderr), ("one\n", ""))
        self.assertEqual(self.tasks.acts, [("output True", TASK)])

    def test_follow_interrupted(self) -> None:
        """Ctrl-C ends the telling, and not the task."""
        self.during(
            (RUNNING, output("one\n"), RUNNING),
            *[lambda: None] * 2,
            lambda: signal.raise_signal(signal.SIGINT),
        )
        result = self.told(130, "logs", "-f", TASK)
        self.assertEqual(
            (result.stdout, result.stderr),
            ("one\n", f"It runs on. To see more of it: bzzz logs -f {TASK}\n"),
        )
        self.assertEqual(self.tasks.acts, [])

    def test_follow_error(self) -> None:
        """An error while it is followed does not say that it was not run."""
        self.tasks.say(Refusal(404, "no_such_task", "nobody has it"))
        self.assertEqual(self.refused(125, "logs", "-f", TASK), "nobody has it\n")

    def test_workflow(self) -> None:
        """Of a workflow, whose output is that of its steps, these are told."""
        self.tasks.flows = [workflow("running", step("a", "done", OTHER), step("b", "waiting"))]
        for options in ((), ("-f",)):
            self.assertEqual(
                self.refused(1, "logs", *options, FLOW[-4:]).splitlines(),
                [
                    f"{FLOW} is a workflow, and each of its steps has its output:",
                    f"  bzzz logs {OTHER}  a  done",
                ],
            )
        self.tasks.flows = [workflow("running", step("b", "waiting"))]
        self.assertIn(f"none has begun yet: bzzz why {FLOW}", self.refused(1, "logs", FLOW))

    def test_wrong(self) -> None:
        """What nobody knows, and nodes that do not answer, end as of other commands."""
        for options in ((), ("-f",)):
            self.assertEqual(self.refused(4, "logs", *options, "X"), NOBODY.format("X"))
        self.node = None
        for options in ((), ("-f",)):
            self.assertIn("No node is running", self.refused(3, "logs", *options, TASK))


class ActTests(TaskCase):
    """``bzzz cancel`` and ``bzzz retry``."""

    def test_cancel(self) -> None:
        """What has become of each is told."""
        self.tasks.tasks = [info(TASK, "running"), info(OTHER, "cancelled")]
        self.tasks.flows = [workflow("cancelling")]
        self.assertEqual(
            self.output("cancel", TASK, OTHER, FLOW).splitlines(),
            [
                f"{TASK} is being ended on ironwood.",
                f"{OTHER} is cancelled.",
                f"Workflow {FLOW} is cancelling.",
            ],
        )
        self.assertEqual(self.tasks.acts, [("cancel", TASK), ("cancel", OTHER), ("cancel", FLOW)])

    def test_had_ended(self) -> None:
        """One that had ended is no error: it is as it was to be."""
        self.tasks.tasks = [info()]
        self.assertEqual(self.output("cancel", TASK), f"{TASK} had ended: done.\n")
        self.assertEqual(json.loads(self.output("cancel", "--json", TASK))["tasks"][0]["id"], TASK)

    def test_cancel_others(self) -> None:
        """One that nobody knows does not keep the others from being cancelled."""
        self.tasks.tasks = [info(TASK, "cancelled")]
        result = self.told(4, "cancel", "X", TASK, "Y")
        self.assertEqual(result.stdout, f"{TASK} is cancelled.\n")
        self.assertEqual(result.stderr, NOBODY.format("X") + NOBODY.format("Y"))
        self.assertIn("Missing argument", self.refused(2, "cancel"))

    def test_retry(self) -> None:
        """It begins anew, and how to see more of it is told."""
        self.tasks.tasks = [info(TASK, "waiting")]
        self.tasks.flows = [workflow("running")]
        self.assertEqual(
            self.output("retry", TASK[-4:]),
            f"{TASK} begins anew. To see more of it: bzzz logs -f {TASK}\n",
        )
        self.assertEqual(
            self.output("retry", FLOW),
            f"{FLOW} begins anew. To see more of it: bzzz task {FLOW}\n",
        )
        self.assertEqual(json.loads(self.output("retry", TASK, "--json"))["id"], TASK)

    def test_retry_refused(self) -> None:
        """The refusal is told of what the ID is of."""
        self.tasks.flows = [workflow("running")]
        self.tasks.flow_refusal = Refusal(409, "not_ended", f"workflow {FLOW} has not ended")
        self.assertEqual(
            self.refused(4, "retry", FLOW), f"The node answered: workflow {FLOW} has not ended\n"
        )
        self.tasks.refusal = Refusal(409, "not_ended", f"task {TASK} has not ended")
        self.assertEqual(
            self.refused(4, "retry", TASK), f"The node answered: task {TASK} has not ended\n"
        )
        self.node = None
        self.assertIn("No node is running", self.refused(3, "retry", TASK))


class WhyTests(TaskCase):
    """``bzzz why``."""

    def test_why(self) -> None:
        """Every reason of every machine."""
        self.tasks.tasks = [info(state="waiting", worker_name="", why="no machine has room\x1b")]
        self.tasks.verdicts = [
            verdict("oak"),
            verdict("ash", ("cpus", "it offers 4 cores", True), ("draining", "it drains", False)),
        ]
        lines = self.output("why", TASK).splitlines()
        self.assertEqual(
            [" ".join(line.split()) for line in lines],
            [
                "It waits: no machine has room\\u001b",
                "MACHINE FITS WHY",
                "oak yes it could run here",
                "ash no it offers 4 cores",
                "no it drains",
            ],
        )
        answer = json.loads(self.output("why", "--json", TASK))
        self.assertEqual(answer["nodes"], self.tasks.verdicts)

    def test_where_it_is(self) -> None:
        """Of one that runs, where; of one that has ended, how: it does not wait for any of them."""
        self.tasks.verdicts = [verdict("oak")]
        for fields, said in (
            ({"state": "running", "token": 2}, "It runs on ironwood, attempt 2."),
            ({"state": "running", "cancel": True}, "It is being ended on ironwood, attempt 1."),
            ({"state": "waiting", "cancel": True, "worker_name": ""}, "It is being cancelled."),
            ({"state": "done"}, "It is done on ironwood, with exit status 0."),
            ({"state": "failed"}, "It has failed on ironwood, with exit status 3."),
            (
                {"state": "failed", "exit_status": None, "why": "its files are gone"},
                "It has failed on ironwood: its files are gone",
            ),
            (
                {"state": "timed_out", "why": "late"},
                "It took longer than 5 s on ironwood, and was ended.",
            ),
            ({"state": "cancelled", "worker_name": ""}, "It is cancelled."),
            (
                {"state": "lost", "why": "its machine is gone"},
                "It is lost on ironwood: its machine",
            ),
        ):
            self.tasks.tasks = [info(**fields)]
            lines = self.output("why", TASK).splitlines()
            self.assertTrue(lines[0].startswith(said), lines[0])
            self.assertEqual("If it began now:" in lines, fields["state"] != "waiting")

    def test_nobody(self) -> None:
        """Where no machine is known that is told."""
        self.tasks.tasks = [info(state="waiting", worker_name="")]
        self.assertEqual(
            self.output("why", TASK), "It waits.\nNo machine that runs tasks is known here.\n"
        )
        self.tasks.tasks = [info()]
        self.assertEqual(self.output("why", TASK), "It is done on ironwood, with exit status 0.\n")
        self.assertEqual(self.refused(4, "why", "X"), NOBODY.format("X"))


class WorkflowWhyTests(TaskCase):
    """``bzzz why`` of a workflow."""

    def test_steps(self) -> None:
        """Each step that is not over, and each that has failed, with its reason."""
        self.tasks.flows = [workflow("running")]
        self.tasks.reasons = [
            reason("a", "failed", TASK, task_state="failed", exit_status=2, worker_name="oak"),
            reason("b", "submitted", OTHER, task_state="waiting", why="no machine has gcc"),
            reason("c", "submitted", OTHER, task_state="running", worker_name="ash"),
            reason("d", "waiting", why="it comes after b"),
        ]
        lines = self.output("why", FLOW[-4:]).splitlines()
        self.assertEqual(
            [" ".join(line.split()) for line in lines if line],
            [
                "STEP STATE TASK WHY",
                f"a failed {TASK} exit status 2 on oak",
                f"b waiting {OTHER} no machine has gcc",
                f"c running {OTHER} it runs on ash",
                "d waiting it comes after b",
                "For every machine: bzzz why, with the ID of the task",
                "What a step has printed: bzzz logs, with the ID of its task",
            ],
        )
        answer = json.loads(self.output("why", "--json", FLOW))
        self.assertEqual(answer["steps"], self.tasks.reasons)

    def test_none(self) -> None:
        """Where no step waits that is told."""
        self.tasks.flows = [workflow("done")]
        self.assertEqual(self.output("why", FLOW), f"Workflow {FLOW} is done: no step waits.\n")


class KeptTests(TaskCase):
    """Answers of the fake node, so that these tests are of what a node says."""

    def test_fields(self) -> None:
        """They have the fields of the control API."""
        from bzzz.web.task_schema import NodeVerdict, TaskInfo, UnfitInfo
        from bzzz.web.workflow_schema import StepInfo, WorkflowInfo, WorkflowSummary
        from bzzz.web.workflow_why import StepWhy

        self.assertEqual(set(info()), set(TaskInfo.__struct_fields__))
        self.assertEqual(set(workflow("done")), set(WorkflowInfo.__struct_fields__))
        self.assertEqual(set(summary(workflow("done"))), set(WorkflowSummary.__struct_fields__))
        self.assertEqual(set(verdict("a")), set(NodeVerdict.__struct_fields__))
        self.assertEqual(
            set(verdict("a", ("b", "c", True))["unfit"][0]), set(UnfitInfo.__struct_fields__)
        )
        self.assertEqual(set(reason("a", "done")), set(StepWhy.__struct_fields__))
        self.assertEqual(set(step("a", "done")), set(StepInfo.__struct_fields__))
        self.assertEqual([line["event"] for line in KEPT], ["id", "kept"])
