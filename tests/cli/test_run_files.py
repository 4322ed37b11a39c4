"""``bzzz run --in``, ``--dir``, ``--out`` and ``bzzz fetch``, against a node with a cache."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

from click import BadParameter
from click.testing import Result
from twisted.web.iweb import IRequest

from bzzz.cli import run_files
from bzzz.cli.run_files import WrongInput, inputs_of, send_inputs
from bzzz.cli.session import Session
from bzzz.tasks.files.manifest import CHUNK
from bzzz.web.credentials import Credentials
from bzzz.web.file_routes import FileRoutes
from bzzz.web.requests import Refusal
from bzzz.web.routes import RouteTable
from bzzz.web.stream import LineStream
from bzzz.web.submitting import Wanted
from tests.cli.node import CommandTests
from tests.tasks.files.nodes import FilesCase, Node

TASK = "01KAY4Q2M80000000000000001"
FLOW = "01KAY4Q2M80000000000000002"


class TaskRoutes:
    """Tasks that do nothing.

    :ivar wanted: what was submitted.
    :ivar ended: what is said of the task.
    """

    def __init__(self, worker: Node) -> None:
        self.wanted: list[Wanted] = []
        self.ended: dict[str, Any] = {
            "id": TASK,
            "state": "done",
            "exit_status": 0,
            "why": "",
            "worker": str(worker.peer_id),
            "replicas": [str(worker.peer_id)],
            "outputs": "",
        }
        self.steps: list[dict[str, str]] = []

    def add_to(self, table: RouteTable) -> None:
        table.stream("/v1/tasks", self.submit, Wanted)
        table.get("/v1/tasks/<task>", self.task)
        table.get("/v1/workflows/<workflow>", self.workflow)

    async def submit(self, lines: LineStream, by: Credentials, body: Wanted) -> None:
        self.wanted.append(body)
        lines.send({"event": "id", "task": TASK})
        lines.send({"event": "kept", "replicas": []})
        if body.follow:
            lines.send({"event": "ended", "task": self.ended})

    def task(self, request: IRequest, task: str) -> Any:
        if task == FLOW:
            raise Refusal(409, "is_workflow", "it is a workflow")
        if task != TASK:
            raise Refusal(404, "no_such_task", "there is none")
        return self.ended

    def workflow(self, request: IRequest, workflow: str) -> Any:
        if workflow != FLOW:
            raise Refusal(404, "no_such_task", "there is no workflow")
        return {"id": FLOW, "steps": self.steps}


class RunFilesTests(FilesCase, CommandTests):
    """What goes with a task, and what comes back."""

    def setUp(self) -> None:
        CommandTests.setUp(self)
        FilesCase.setUp(self)
        self.acacia = Node(self, 1)
        self.tasks = TaskRoutes(self.acacia)
        files = FileRoutes(self.acacia.host.clock, self.acacia.files)
        self.routes = (self.tasks, files)
        self.addCleanup(signal.signal, signal.SIGINT, signal.getsignal(signal.SIGINT))
        self.here = self.place / "here"
        self.here.mkdir()
        self.addCleanup(os.chdir, Path.cwd())
        os.chdir(self.here)

    def refused(self, code: int, *arguments: str) -> str:
        result: Result = self.run_command(*arguments)
        self.assertEqual(result.exit_code, code, result.output)
        return result.stderr

    def puts_out(self, **files: str) -> None:
        """The task has put out these."""
        work = self.place / "work"
        work.mkdir()
        for name, content in files.items():
            (work / name).write_text(content)
        packed = self.successResultOf(self.acacia.files.collect(work, list(files) or ["x"]))
        self.tasks.ended["outputs"] = packed.digest

    # -- in

    def test_in(self) -> None:
        """Files and directories are sent, and are the task's inputs by their names."""
        (self.here / "big").write_bytes(os.urandom(2 * CHUNK + 1))
        (self.here / "tree").mkdir()
        (self.here / "tree" / "small").write_text("small")
        self.output("run", "--in", "big", "--in", "./tree/", "--in", "big:data/b", "--", "true")
        names = [(each.path, each.size) for each in self.tasks.wanted[0].inputs]
        self.assertEqual(names, [("big", 2 * CHUNK + 1), ("tree", 5), ("data/b", 2 * CHUNK + 1)])
        into = self.place / "into"
        into.mkdir()
        for each in self.tasks.wanted[0].inputs:
            self.successResultOf(self.acacia.files.unpack(each.digest, into, each.path))
        self.assertEqual((into / "data/b").read_bytes(), (self.here / "big").read_bytes())
        self.assertEqual((into / "tree/small").read_text(), "small")

    def test_again(self) -> None:
        """What the node has is not sent again."""
        (self.here / "big").write_bytes(os.urandom(2 * CHUNK))
        self.output("run", "--in", "big", "--", "true")
        sent = sum("/v1/chunks" in each for each in self.asked)
        self.asked.clear()
        self.output("run", "--in", "big", "--", "true")
        again = [each for each in self.asked if "/v1/chunks" in each]
        self.assertEqual((sent, len(again)), (4, 1), again)

    def test_batches(self) -> None:
        """No more than a batch waits in memory, and nothing of it is forgotten."""
        self.patch(run_files, "BATCH", 2)
        (self.here / "tree").mkdir()
        for number in range(5):
            (self.here / "tree" / str(number)).write_text(str(number))
        self.output("run", "--dir", "tree", "--", "true")
        (sent,) = self.tasks.wanted[0].inputs
        self.assertEqual(sent.path, ".")
        self.assertTrue(self.successResultOf(self.acacia.files.has(sent.digest)))

    def test_wrong_input(self) -> None:
        """An input that cannot be used is named before anything is submitted or sent."""
        (self.here / "there").write_text("x")
        os.mkfifo(self.here / "pipe")
        (self.here / "tree").mkdir()
        (self.here / "tree" / "link").symlink_to("/etc")
        for given, said in (
            (("--in", "absent"), "The input absent is not there; nothing was submitted"),
            (("--in", "pipe"), "pipe is no file and no directory"),
            (("--dir", "there"), "there is no directory; give a file with --in"),
        ):
            self.assertIn(said, self.refused(122, "run", "--in", "there:a", *given, "--", "true"))
        self.assertFalse([each for each in self.asked if "chunks" in each])
        self.assertIn("tree/link", self.refused(122, "run", "--in", "tree", "--", "true"))
        self.assertEqual(self.tasks.wanted, [])

    def test_inputs_meet(self) -> None:
        """Two inputs that are one for the command are refused before anything is sent."""
        (self.here / "tree").mkdir()
        (self.here / "tree" / "a").write_text("x")
        (self.here / "a").write_text("y")
        said = self.refused(2, "run", "--dir", "tree", "--in", "a", "--", "true")
        self.assertIn("tree/a and a are both a for the command", " ".join(said.split()))
        self.assertEqual(self.asked, [])
        self.output("run", "--dir", "tree", "--in", "a:b", "--", "true")

    def test_unreadable(self) -> None:
        """A file that may not be read is named."""
        (self.here / "secret").write_text("x")
        self.patch(os, "access", lambda path, mode: False)
        with self.assertRaisesRegex(WrongInput, "secret may not be read"):
            send_inputs(Session(), [("secret", Path("secret"))])

    def test_names(self) -> None:
        """A name after a colon is the input's; a file whose own name has one is meant as it is."""
        (self.here / "a:b").write_text("x")
        self.assertEqual(inputs_of(["a:b"], None), [("a:b", Path("a:b"))])
        self.assertEqual(inputs_of(["c:b"], Path("d")), [(".", Path("d")), ("b", Path("c"))])
        self.assertEqual(inputs_of(["."], None), [("here", Path("."))])
        for wrong in (["a:../x"], ["a:/x"], ["x/a", "y/a"]):
            self.assertRaises(BadParameter, inputs_of, wrong, None)

    def test_no_node(self) -> None:
        """Where nobody can be asked, that is said, and not that a file is wrong."""
        (self.here / "there").write_text("x")
        self.node = None
        self.assertIn("No node is running", self.refused(125, "run", "--in", "there", "--", "true"))

    # -- out

    def test_out(self) -> None:
        """What was put out is here when the command is done."""
        self.puts_out(one="1", two="2")
        result = self.run_command("run", "--out", "*", "--", "true")
        self.assertEqual((result.exit_code, result.stdout), (0, ""))
        self.assertEqual(result.stderr, f"2 files of {TASK} are here.\n")
        self.assertEqual((self.here / "one").read_text(), "1")
        self.assertEqual(self.tasks.wanted[0].outputs, ("*",))

    def test_out_many(self) -> None:
        """Files of several chunks, and the same twice, are as they were put out."""
        work = self.place / "tree"
        work.mkdir()
        big = os.urandom(2 * CHUNK) + b"z"
        contents = [b"", b"x", big, b"y", b"x", os.urandom(70_000)]
        for number, content in enumerate(contents):
            (work / str(number)).write_bytes(content)
        packed = self.successResultOf(self.acacia.files.collect(work, ["*"]))
        self.tasks.ended["outputs"] = packed.digest
        self.assertEqual(self.run_command("fetch", TASK).exit_code, 0)
        found = [Path(str(number)).read_bytes() for number in range(len(contents))]
        self.assertEqual(found, contents)
        asked = [each for each in self.asked if "chunks" in each]
        # The list, the first three chunks, and the rest, of which one was had before.
        self.assertLessEqual(len(asked), 6, asked)

    def test_in_the_way(self) -> None:
        """A file that is here is not replaced, and nothing is written, unless that is wanted."""
        self.puts_out(one="1", two="2")
        (self.here / "two").write_text("mine")
        said = self.refused(123, "run", "--out", "*", "--", "true")
        self.assertIn("two would be replaced; nothing was written", said)
        self.assertIn(f"bzzz fetch {TASK}", said)
        self.assertEqual(((self.here / "two").read_text(), len(os.listdir())), ("mine", 1))
        self.assertEqual(self.run_command("fetch", TASK, "--force").exit_code, 0)
        self.assertEqual((self.here / "two").read_text(), "2")

    def test_directory_in_the_way(self) -> None:
        """A directory is never removed for a file, and no link to one is followed."""
        self.puts_out(one="1")
        (self.here / "one").mkdir()
        self.assertIn("one cannot be replaced", self.refused(1, "fetch", TASK, "--force"))
        self.assertTrue((self.here / "one").is_dir())

    def test_failed(self) -> None:
        """What a command has put out that failed is not brought, but how to is told."""
        self.puts_out(one="1")
        self.tasks.ended |= {"state": "failed", "exit_status": 3}
        self.assertIn(f"bzzz fetch {TASK}", self.refused(3, "run", "--out", "*", "--", "true"))
        self.assertEqual(os.listdir(), [])

    def test_nothing_put_out(self) -> None:
        """That nothing was put out is told."""
        self.assertIn("has put out nothing", self.refused(1, "fetch", TASK))
        self.puts_out()
        self.assertIn("no file as --out says", self.refused(123, "run", "--out", "x", "--", "true"))

    def test_wrong_out(self) -> None:
        """A pattern that leads outside is refused, and files of several machines with one name."""
        self.refused(2, "run", "--out", "../x", "--", "true")
        self.assertIn("--detach", self.refused(2, "run", "--each", "--out", "x", "--", "true"))

    def test_gone(self) -> None:
        """Files that nobody has any more are told."""
        self.tasks.ended["outputs"] = "ab" * 32
        self.assertIn("cannot be fetched", self.refused(4, "fetch", TASK))

    # -- fetch

    def test_fetch(self) -> None:
        """Files of a task that ran before are put where they are wanted."""
        self.puts_out(one="1")
        said = self.run_command("fetch", TASK, "--into", "new/place")
        self.assertEqual((said.exit_code, said.stderr), (0, f"1 file of {TASK} is in new/place.\n"))
        self.assertEqual(Path("new/place/one").read_text(), "1")
        found = json.loads(self.output("fetch", TASK, "--force", "--json", "--into", "new/place"))
        self.assertEqual(
            found, {"event": "fetched", "of": TASK, "into": "new/place", "files": ["one"]}
        )

    def test_fetch_workflow(self) -> None:
        """Files of a workflow's steps are put below the steps' names."""
        self.puts_out(one="1")
        step = {"label": "step/1", "task": TASK, "output": self.tasks.ended["outputs"]}
        self.tasks.steps = [step, {"label": "none", "task": "", "output": ""}]
        self.assertEqual(self.run_command("fetch", FLOW).exit_code, 0)
        self.assertEqual(Path("step_1/one").read_text(), "1")
        self.tasks.steps = []
        self.assertIn("has put out nothing", self.refused(1, "fetch", FLOW))

    def test_fetch_without_node(self) -> None:
        """Where no node answers that is told."""
        self.node = None
        self.assertIn("No node is running", self.refused(3, "fetch", TASK))

    def test_fetch_other(self) -> None:
        """A task that has not ended is not fetched, nor one that nobody knows."""
        self.tasks.ended["state"] = "running"
        self.assertIn("has not ended", self.refused(1, "fetch", TASK))
        self.assertEqual(self.refused(4, "fetch", "X"), "The node answered: there is none\n")
