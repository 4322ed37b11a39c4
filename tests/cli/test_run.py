"""``bzzz run``: what is asked of the node, what is told, and what it exits with."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any
from unittest.mock import patch

from bzzz.cli import run as run_module
from bzzz.cli import silence
from bzzz.cli.client import NodeClient, NodeError, NoNode
from bzzz.cli.run import exit_code
from bzzz.tasks import submission
from bzzz.web.requests import Refusal
from tests.cli.task_node import ID, KEPT, RUNNING, TASK, TaskCase, info, output, verdict

RUN = ("run", "--", "make", "-j8")


def _until_told(seconds: float) -> None:
    """Wait for what is told after no time; what is told later is not waited for."""
    if not seconds:
        for thread in threading.enumerate():
            if isinstance(thread, threading.Timer):
                thread.join(5.0)


def interrupt() -> None:
    """Ctrl-C."""
    signal.raise_signal(signal.SIGINT)


class OptionTests(TaskCase):
    """The command line, and what the node is asked for."""

    def test_all(self) -> None:
        """Each option is what the node is told."""
        self.ends(on="acacia")
        self.output(
            *("run", "--where", "resources.cpus > 2", "--on", "acacia", "--cpus", "2.5"),
            *("--memory", "4GiB", "--gpus", "1", "--timeout", "10m", "--retries", "3"),
            *("--no-restart", "--priority", "-7", "--env", "A=b=c", "--env", "HOME"),
            *("--profile", "no-network", "--name", "build", "--wait", "--", "make", "--on", "x"),
        )
        [wanted] = self.tasks.wanted
        self.assertEqual(wanted.command, ("make", "--on", "x"))
        self.assertEqual((wanted.where, wanted.on), ("resources.cpus > 2", "acacia"))
        self.assertEqual((wanted.cpus, wanted.memory, wanted.gpus), (2.5, 4 << 30, 1))
        self.assertEqual((wanted.timeout, wanted.retries, wanted.restart), (600.0, 3, False))
        self.assertEqual(
            (wanted.priority, wanted.profile, wanted.name), (-7, "no-network", "build")
        )
        self.assertEqual(wanted.env, {"A": "b=c", "HOME": self.home})
        self.assertEqual((wanted.wait, wanted.follow, wanted.inputs), (True, True, ()))

    def test_none(self) -> None:
        """Without options it is one core, and nothing else."""
        self.ends()
        self.output(*RUN)
        [wanted] = self.tasks.wanted
        self.assertEqual((wanted.command, wanted.cpus, wanted.memory), (("make", "-j8"), 1.0, 0))
        self.assertEqual((wanted.timeout, wanted.restart, wanted.wait), (0.0, True, False))

    def test_wrong(self) -> None:
        """A wrong option is named with what it has to be, and nothing is asked of the node."""
        for option, value, said in (
            ("--memory", "1e400", "--memory='1e400': it is written as 512MiB or 4GiB"),
            ("--memory", "99999999999999999999999", "it is from 0 to 8192TiB"),
            ("--memory", "9" * 400, "it is from 0 to 8192TiB"),
            ("--memory", "9" * 400 + "GiB", "it is from 0 to 8192TiB"),
            ("--memory", "nan", "it is written as 512MiB or 4GiB"),
            ("--timeout", "1e999h", "--timeout='1e999h': it is written as 90s, 10m or 2h"),
            ("--timeout", "9" * 400 + "h", "it is from 0s to 366d"),
            ("--timeout", "367d", "it is from 0s to 366d"),
            ("--timeout", "-1s", "it is written as 90s, 10m or 2h"),
            ("--cpus", "nan", "'nan' is not a number"),
            ("--cpus", "inf", "is not in the range 0<=x<=65536"),
            ("--cpus", "1e400", "is not in the range 0<=x<=65536"),
            ("--cpus", "99999999999999999999999", "is not in the range 0<=x<=65536"),
            ("--cpus", "-1", "is not in the range 0<=x<=65536"),
            ("--gpus", "99999999999999999999999", "is not in the range 0<=x<=64"),
            ("--gpus", "9" * 5000, "is not a valid integer range"),
            ("--retries", "99999999999999999999999", "is not in the range 0<=x<=1000"),
            ("--priority", "99999999999999999999999", "is not in the range -1000<=x<=1000"),
            ("--on", "", "--on: the name of the machine is missing"),
            ("--env", "NOT_SET", "NOT_SET is not set here; give it as --env NOT_SET=VALUE"),
        ):
            told = " ".join(self.refused(2, "run", option, value, "--", "true").split())
            self.assertIn(option.lstrip("-"), told)
            self.assertIn(said, told)
        self.assertIn("Missing argument", self.refused(2, "run"))
        self.assertEqual(self.asked, [])

    def test_most(self) -> None:
        """The most that can be given is the most that a task can ask for."""
        self.assertEqual(
            (run_module.MAX_CORES, run_module.MAX_GPUS, run_module.MAX_RETRIES),
            (submission.MAX_CORES, submission.MAX_GPUS, submission.MAX_RETRIES),
        )
        self.assertEqual(run_module.MAX_PRIORITY, submission.MAX_PRIORITY)


class EndTests(TaskCase):
    """How it ends: the exit status, and what is said on standard error."""

    def test_done(self) -> None:
        """Output is where the command wrote it, and nothing else is told."""
        self.ends("done", output("one\n"), output("two\n", "stderr"), output("no end"))
        result = self.told(0, *RUN)
        self.assertEqual((result.stdout, result.stderr), ("one\nno end", "two\n"))

    def test_no_such_option(self) -> None:
        """What is mistyped is not taken for the command, and sent somewhere."""
        for words, said in (
            (("--timout", "5m", "--", "make"), "'--timout'"),
            (("--cpu=3", "make"), "'--cpu'"),
            (("--", "--foo"), "'--foo'"),
        ):
            self.assertIn(f"No such option {said}", self.refused(2, "run", *words))
        self.assertEqual(self.tasks.wanted, [])

    def test_waits_long(self) -> None:
        """That a task waits is told when it is for long, with where to look; not if it is short."""
        waiting = {"event": "waiting", "why": ""}
        said = f"It is waiting for a machine. What each machine lacks: bzzz why {TASK}\n"
        for seconds, told in ((60.0, ""), (0.0, said)):
            self.patch(silence, "SECONDS", seconds)
            self.during(
                (*KEPT, waiting, RUNNING, {"event": "ended", "task": info()}),
                *[_nothing] * 3,
                partial(_until_told, seconds),
            )
            self.assertEqual(self.told(0, *RUN).stderr, told)

    def test_output_lost(self) -> None:
        """That some of the output is missing is told, also of a command that is done."""
        self.ends("done", exit_status=0, why="output was lost: No space left on device")
        result = self.told(0, *RUN)
        said = "On ironwood: output was lost: No space left on device\n"
        self.assertEqual((result.stdout, result.stderr), ("", said))

    def test_ends(self) -> None:
        """Each end has its own, and a reason where there is one to tell."""
        for state, fields, code, said in (
            ("failed", {"exit_status": 3}, 3, ""),
            ("failed", {"exit_status": 137}, 137, ""),
            (
                "failed",
                {"exit_status": 127, "why": "command nosuch: not found in /usr/bin"},
                127,
                "On ironwood: command nosuch: not found in /usr/bin\n",
            ),
            ("failed", {"exit_status": None, "why": "too much"}, 125, "On ironwood: too much\n"),
            (
                "failed",
                {"exit_status": 0, "why": "its files are gone"},
                125,
                "On ironwood: its files are gone\n",
            ),
            ("timed_out", {"exit_status": None}, 124, "It took longer than 5 s, and was ended.\n"),
            ("cancelled", {"exit_status": None}, 130, "Cancelled.\n"),
            (
                "lost",
                {"exit_status": None, "why": "it was not heard of any more"},
                121,
                "Lost: it was not heard of any more\n",
            ),
        ):
            self.ends(state, **fields)
            self.assertEqual(self.refused(code, *RUN), said, state)

    def test_again(self) -> None:
        """An attempt that is not the first is told, with where it is; not that another machine is
        asked to begin, as one has refused."""
        other = {**RUNNING, "worker_name": "acacia", "token": 2}
        third = {**other, "worker_name": "walnut", "token": 3, "begun": 1}
        fourth = {**other, "token": 4, "begun": 1}
        waiting = {"event": "waiting", "why": "it was not heard of any more"}
        self.ends("done", waiting, other, output("a"), waiting, third, waiting, fourth, output("b"))
        result = self.told(0, *RUN)
        self.assertEqual(result.stdout, "ab")
        self.assertEqual(
            result.stderr.splitlines(),
            ["It runs again, on walnut (attempt 3).", "It runs again, on acacia (attempt 4)."],
        )

    def test_terminal(self) -> None:
        """What machines say of themselves does not drive the terminal."""
        self.ends("failed", exit_status=1, why="bad\x1b[2Jword")
        self.assertEqual(self.refused(1, *RUN), "On ironwood: bad\\u001b[2Jword\n")

    def test_json(self) -> None:
        """With --json a line for each event is all that is on standard output."""
        self.ends("failed", output("x"), exit_status=3, why="because")
        result = self.told(3, "run", "--json", "--", "make")
        events = [json.loads(line) for line in result.stdout.splitlines()]
        self.assertEqual(
            [each["event"] for each in events], ["id", "kept", "running", "stdout", "ended"]
        )
        self.assertEqual((events[-1]["task"]["exit_status"], result.stderr), (3, ""))

    def test_detach(self) -> None:
        """The ID is printed when the task is kept, and nobody waits."""
        self.tasks.say(*KEPT)
        self.assertEqual(self.output("run", "--detach", "--", "make"), f"{TASK}\n")
        self.assertFalse(self.tasks.wanted[0].follow)
        lines = self.output("run", "--detach", "--json", "--", "make").splitlines()
        self.assertEqual([json.loads(line)["event"] for line in lines], ["id", "kept"])

    def test_cut_short(self) -> None:
        """An answer that ends too early is no success."""
        ended = "The node has ended the answer without the task's end.\n"
        for lines in ((ID,), KEPT, (*KEPT, RUNNING)):
            self.tasks.say(*lines)
            self.assertEqual(self.refused(125, *RUN), ended)
        self.tasks.say(ID)
        self.assertEqual(self.refused(125, "run", "--detach", "--", "make"), ended)


class RefusalTests(TaskCase):
    """What was refused before it ran exits with 122, and says why."""

    REFUSALS = (
        (400, "bad_requirement", "1:3: an operator is missing"),
        (404, "no_such_member", "no member of home is called 'oak' (there are acacia, walnut)"),
        (409, "ambiguous_member", "'a' may be any of acacia, ash"),
        (409, "unplaceable", "no node that is linked could run it:\nacacia: it has 4 cores"),
        (400, "not_submitted", "this node may not submit tasks: its role does not allow it"),
        (400, "bad_body", "cpus: expected `float` <= 65536.0"),
        (403, "not_allowed", "this is done over the control socket only"),
        (413, "too_large", "the body of a request may have 1048576 bytes"),
        (503, "too_many_streams", "128 programs wait for answers already"),
        (404, "not_found", "not found"),
    )
    UNKNOWN = (
        (503, "unknown", "it is not known whether the task was submitted"),
        (500, "internal_error", "the node's log has what went wrong"),
        (500, "node_error", "the disk is full"),
    )

    def test_refused(self) -> None:
        """Whatever the node refuses, in words as it has said them."""
        for each in ((), ("--detach",), ("--each",)):
            for refusal in self.REFUSALS:
                self.tasks.refusal = Refusal(*refusal)
                self.assertEqual(
                    self.refused(122, "run", *each, "--", "make"), f"{refusal[2]}\n", refusal
                )

    def test_not_known(self) -> None:
        """What does not say that nothing was run exits with 125."""
        for each in ((), ("--detach",), ("--each",)):
            for refusal in self.UNKNOWN:
                self.tasks.refusal = Refusal(*refusal)
                self.assertEqual(
                    self.refused(125, "run", *each, "--", "make"), f"{refusal[2]}\n", refusal
                )

    def test_kept(self) -> None:
        """Once it is kept no error says that it was not run."""
        error = NodeError("bad_requirement", "x")
        self.assertEqual((exit_code(error), exit_code(error, True)), (122, 125))
        self.assertEqual(exit_code(NodeError("stopping", "the node stops")), 125)

    def test_no_node(self) -> None:
        """Where no node answers that is told, with how to start one."""
        self.node = None
        for each in ((), ("--detach",), ("--each",)):
            said = self.refused(125, "run", *each, "--", "make")
            self.assertIn("No node is running here", said)
            self.assertIn("Start one with: twistd -n bzzz", said)

    def test_broken_off(self) -> None:
        """A node that dies on the way: what may have become of the task depends on how far it
        was."""
        for before, said in (
            ((), "it broke off\nNothing was submitted.\n"),
            (
                (ID,),
                "it broke off\nIt is not known whether the task was submitted. To see whether it"
                f" was: bzzz task {TASK}\n",
            ),
            (
                KEPT,
                "it broke off\nThe task may go on; its end, on this machine or another member's:"
                f" bzzz logs -f {TASK}\n",
            ),
        ):

            def stream(
                client: NodeClient, what: str, body: object = None, before: Any = before
            ) -> Iterator[Any]:
                yield from before
                raise NoNode("it broke off")

            with patch.object(NodeClient, "stream", stream):
                self.assertEqual(self.refused(125, *RUN), said)


class InterruptTests(TaskCase):
    """Ctrl-C."""

    def test_once(self) -> None:
        """It is cancelled, and its end is waited for."""
        self.tasks.tasks = [info()]
        ended = {"event": "ended", "task": info(state="cancelled", exit_status=None)}
        self.during((*KEPT, RUNNING, output("x"), ended), *[_nothing] * 3, interrupt)
        result = self.told(130, *RUN)
        self.assertEqual(self.tasks.acts, [("cancel", TASK)])
        self.assertEqual(
            (result.stdout, result.stderr),
            ("x", "Cancelling it; press Ctrl-C again not to wait for its end.\nCancelled.\n"),
        )

    def test_twice(self) -> None:
        """It is cancelled, and its end is not waited for: how to see that is told."""
        self.tasks.tasks = [info()]
        self.during((*KEPT, RUNNING, RUNNING), *[_nothing] * 2, interrupt, interrupt)
        said = self.refused(130, *RUN)
        self.assertEqual(
            said.splitlines()[1:],
            [f"It is being cancelled. To see its end: bzzz logs -f {TASK}"],
        )

    def test_at_once(self) -> None:
        """Pressed again before the node has answered to the first, the task is left alone."""

        def post(client: NodeClient, what: str, body: object = None, **others: Any) -> None:
            interrupt()

        self.during((*KEPT, RUNNING, RUNNING), *[_nothing] * 2, interrupt)
        with patch.object(NodeClient, "post", post):
            said = self.refused(130, *RUN)
        self.assertEqual(
            said.splitlines()[1:], [f"It runs on. To see more of it: bzzz logs -f {TASK}"]
        )

    def test_not_cancelled(self) -> None:
        """What could not be cancelled is told, and is waited for all the same."""
        ended = {"event": "ended", "task": info()}
        self.during((*KEPT, RUNNING, ended), *[_nothing] * 2, interrupt)
        self.assertIn(
            f"It could not be cancelled: there is no task {TASK}\n", self.told(0, *RUN).stderr
        )

    def test_too_early(self) -> None:
        """Before it is kept there is nothing to be cancelled: hanging up ends it."""
        self.during((ID, *KEPT), interrupt)
        self.assertEqual(self.refused(130, *RUN), "Nothing was submitted.\n")
        self.during((ID, *KEPT), _nothing, interrupt)
        self.assertEqual(
            self.refused(130, *RUN),
            "It is not known whether the task was submitted. To see whether it was:"
            f" bzzz task {TASK}\n",
        )
        self.assertEqual(self.tasks.acts, [])

    def test_while_files_are_sent(self) -> None:
        """Nothing is submitted then."""

        def send(*arguments: object) -> None:
            raise KeyboardInterrupt

        self.patch(run_module_files(), "send_inputs", send)
        self.assertEqual(
            self.refused(130, "run", "--in", os.devnull, "--", "true"), "Nothing was submitted.\n"
        )


class EachTests(TaskCase):
    """``--each``: one command on every machine that it fits."""

    def setUp(self) -> None:
        super().setUp()
        self.tasks.verdicts = [
            verdict("oak"),
            verdict("ash", ("cpus_free", "no core is free", False)),
            verdict("yew", ("draining", "it is draining", False), ("where", "os was Debian", True)),
        ]

    def test_output(self) -> None:
        """Lines have the machine's name before them, and the greatest status is that of all."""
        self.ends("done", output("one\ntwo"), output("bad\n", "stderr"), on="peer-oak")
        self.ends("failed", exit_status=3, on="peer-ash")
        result = self.told(3, "run", "--each", "--", "uptime")
        self.assertEqual(sorted(result.stdout.splitlines()), ["oak | one", "oak | two"])
        self.assertEqual(
            result.stderr.splitlines(), ["oak | bad", "1 of 2 did not succeed: ash (3)"]
        )
        # Where there is no room now it waits, and where it could never run it is not tried.
        self.assertEqual(
            sorted(wanted.on for wanted in self.tasks.wanted), ["", "peer-ash", "peer-oak"]
        )

    def test_away(self) -> None:
        """Of which machines it is not known whether it fits them is told, as it does not run there:
        also where it runs nowhere."""
        self.tasks.away = ["elm", "fir\x1b"]
        told = "Not linked, and so not asked: elm, fir\\u001b"
        self.ends(on="peer-oak")
        self.ends(on="peer-ash")
        self.assertEqual(self.told(0, "run", "--each", "--", "x").stderr, f"{told}\n")
        self.tasks.verdicts = []
        said = self.refused(122, "run", "--each", "--", "x").splitlines()
        self.assertEqual(said, [told, "No machine that runs tasks is known here."])

    def test_all_ends(self) -> None:
        """Why one did not succeed is told behind its name."""
        self.ends("failed", exit_status=127, why="command x: not\x1b found", on="peer-oak")
        self.ends("lost", exit_status=None, why="it was not heard of", on="peer-ash")
        result = self.told(127, "run", "--each", "--", "x")
        *said, last = result.stderr.splitlines()
        self.assertEqual(
            sorted(said), ["ash | it was not heard of", "oak | command x: not\\u001b found"]
        )
        self.assertEqual(last, "2 of 2 did not succeed: oak (127), ash (121)")

    def test_waits_long(self) -> None:
        """That one waits for long is told behind its name, with where to look."""
        self.tasks.verdicts = [verdict("oak")]
        self.patch(silence, "SECONDS", 0.0)
        waiting = {"event": "waiting", "why": ""}
        ended = {"event": "ended", "task": info()}
        self.during((*KEPT, waiting, ended), *[_nothing] * 3, partial(_until_told, 0.0))
        self.assertEqual(
            self.told(0, "run", "--each", "--", "x").stderr,
            f"oak | It is waiting for this machine. What it lacks: bzzz why {TASK}\n",
        )

    def test_refused_by_one(self) -> None:
        """One that is refused is told, and the others run."""
        self.ends(on="peer-oak")
        self.tasks.say(Refusal(409, "unplaceable", "ash is not linked"), on="peer-ash")
        result = self.told(122, "run", "--each", "--", "x")
        self.assertIn("ash | ash is not linked\n", result.stderr)

    def test_nobody(self) -> None:
        """Where it fits no machine, why is told of each."""
        self.tasks.verdicts = [
            verdict("oak", ("cpus", "it offers 4 cores", True), ("tasks_free", "full", False)),
            verdict("ash", ("where", "os was Debian", True), ("cpus", "it has 1 core", True)),
        ]
        self.assertEqual(
            self.refused(122, "run", "--each", "--", "x").splitlines(),
            [
                "No machine could run it.",
                "oak: it offers 4 cores",
                "ash: os was Debian; it has 1 core",
            ],
        )
        self.tasks.verdicts = []
        self.assertEqual(
            self.refused(122, "run", "--each", "--", "x"),
            "No machine that runs tasks is known here.\n",
        )

    def test_detach(self) -> None:
        """The IDs are printed behind the machines' names."""
        for machine in ("oak", "ash"):
            self.tasks.say(*KEPT, on=f"peer-{machine}")
        lines = self.output("run", "--each", "--detach", "--", "x").splitlines()
        self.assertEqual(sorted(lines), [f"ash | {TASK}", f"oak | {TASK}"])
        self.assertEqual([each.follow for each in self.tasks.wanted], [False] * 3)

    def test_json(self) -> None:
        """With --json each line has its machine."""
        self.ends(on="peer-oak")
        self.ends("failed", exit_status=1, why="because", on="peer-ash")
        result = self.told(1, "run", "--each", "--json", "--", "x")
        lines = [json.loads(line) for line in result.stdout.splitlines()]
        self.assertEqual({each["node"] for each in lines}, {"oak", "ash"})
        self.assertEqual(sum(each["event"] == "ended" for each in lines), 2)
        self.assertEqual(result.stderr, "ash: because\n")

    def interrupted(self, at_cancel: Callable[[], object]) -> Any:
        """Ctrl-C is pressed while both run, and something happens when the first is cancelled."""
        self.tasks.tasks = [info()]
        signal.signal(signal.SIGINT, signal.default_int_handler)
        here = threading.Barrier(2)
        end = threading.Event()
        self.addCleanup(end.set)

        def stream(client: NodeClient, what: str, body: Any = None) -> Iterator[Any]:
            yield from KEPT
            if here.wait() == 0:
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
            end.wait()
            yield {"event": "ended", "task": info(state="cancelled", exit_status=None)}

        acts: list[str] = []

        def post(client: NodeClient, what: str, body: object = None, timeout: float = 0) -> Any:
            if what == "fitting":
                return {"nodes": self.tasks.verdicts}
            acts.append(what)
            at_cancel()
            if len(acts) == 2:
                end.set()
            return {}

        self.patch(NodeClient, "stream", stream)
        self.patch(NodeClient, "post", post)
        result = self.told(130, "run", "--each", "--", "x")
        return result.stderr.splitlines(), acts

    def test_interrupted(self) -> None:
        """Ctrl-C cancels all."""
        said, acts = self.interrupted(_nothing)
        self.assertEqual(acts, [f"tasks/{TASK}/cancel"] * 2)
        self.assertEqual(said[0], "Cancelling all; press Ctrl-C again not to wait for their ends.")
        self.assertEqual(said[-1], "2 of 2 did not succeed: oak (130), ash (130)")

    def test_interrupted_twice(self) -> None:
        """Pressed again, it leaves alone what runs, and tells how to end it."""
        said, _ = self.interrupted(interrupt)
        self.assertEqual(said[1:], [f"They run on. To end them: bzzz cancel {TASK} {TASK}"])


def run_module_files() -> Any:
    from bzzz.cli import run_files

    return run_files


def _nothing() -> None:
    pass
