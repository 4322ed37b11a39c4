"""The client knows what a node takes and answers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
from twisted.trial.unittest import SynchronousTestCase

import bzzz
from bzzz import client
from bzzz.client import Options, Result, TaskFailed, TaskInfo, amounts
from bzzz.client.lines import MAX_LINE
from bzzz.client.wanted import wanted
from bzzz.mesh.availability import AvailabilityDocument
from bzzz.tasks import submission
from bzzz.tasks.output import PART
from bzzz.tasks.submission import MAX_SUBMISSION
from bzzz.web import schema, task_schema
from bzzz.web.requests import MAX_BODY_BYTES
from bzzz.web.submitting import Wanted
from tests.client.fake_node import ID


class SchemaTests(SynchronousTestCase):
    """One contract, in two places."""

    def test_fields(self) -> None:
        """The client has the fields that the node answers."""
        for mine, theirs in (
            (client.TaskInfo, task_schema.TaskInfo),
            (client.AttemptInfo, task_schema.AttemptInfo),
            (client.NodeVerdict, task_schema.NodeVerdict),
            (client.UnfitInfo, task_schema.UnfitInfo),
            (client.Status, schema.Status),
            (client.NodeDocument, schema.NodeDocument),
            (client.Availability, AvailabilityDocument),
        ):
            here, there = (
                {(each.name, each.encode_name) for each in msgspec.structs.fields(kind)}
                for kind in (mine, theirs)
            )
            self.assertEqual(here, there, mine.__name__)

    def test_options(self) -> None:
        """What is wanted is what the node takes, each option with its meaning."""
        given: Options = {
            "where": "true",
            "on": "walnut",
            "cpus": 2,
            "memory": "4GiB",
            "gpus": 1,
            "timeout": "90s",
            "retries": 3,
            "restart": False,
            "priority": -1,
            "env": {"A": "b"},
            "profile": "no-network",
            "name": "build",
            "wait": True,
        }
        self.assertEqual(given.keys(), Options.__annotations__.keys())
        body = msgspec.json.encode(wanted(["make", "-j8"], given))
        read = msgspec.structs.asdict(msgspec.json.decode(body, type=Wanted))
        amounts = {"memory": 4 << 30, "timeout": 90.0}
        self.assertEqual(read, {**read, **given, **amounts, "command": ("make", "-j8")})
        # Files travel by a way of their own.
        self.assertEqual(read.keys() - given.keys(), {"command", "follow", "inputs", "outputs"})

    def test_amounts(self) -> None:
        """Sizes and times are numbers, or texts as on the command line."""
        for option, text, value in (
            ("memory", 5, 5),
            ("memory", "1.5 KiB", 1536),
            ("memory", "2GB", 2_000_000_000),
            ("timeout", 5, 5.0),
            ("timeout", "2h", 7200.0),
            ("timeout", "5 ms", 0.005),
        ):
            some: Any = {option: text}
            self.assertEqual(wanted(["x"], some)[option], value)
        bad: tuple[tuple[str, Any], ...] = (
            ("memory", "4 stones"),
            ("memory", "1e400"),
            ("memory", "9" * 400),
            ("memory", "99999999999999999999999"),
            ("memory", "8193TiB"),
            ("memory", 16**5000),
            ("memory", -1),
            ("timeout", "-1s"),
            ("timeout", ""),
            ("timeout", "1e999h"),
            ("timeout", "9" * 400 + "h"),
            ("timeout", "367d"),
            ("timeout", float("nan")),
            ("timeout", float("inf")),
            ("timeout", -1),
        )
        for option, text in bad:
            wrong: Any = {option: text}
            said = str(self.assertRaises(ValueError, wanted, ["x"], wrong))
            self.assertTrue(said.startswith(f"{option}="), said)
            self.assertLess(len(said), 120)
        self.assertEqual(amounts.size("8192TiB", "memory"), submission.MAX_COUNT)
        self.assertEqual(amounts.seconds("366d", "timeout"), submission.MAX_SECONDS)

    def test_limits(self) -> None:
        """A line has room for what a node puts into one, a question for what it takes."""
        self.assertGreater(MAX_LINE, 6 * MAX_SUBMISSION + (64 << 10))
        self.assertGreater(MAX_LINE, 2 * PART)
        self.assertEqual(client.conversation.MAX_BODY, MAX_BODY_BYTES)

    def test_check(self) -> None:
        """How a task ended is told in words."""
        for state, status, why, said in (
            ("failed", 3, "", "ended with exit status 3 on oak"),
            ("failed", None, "no such program", "failed on oak: no such program"),
            ("timed_out", None, "", "took longer than 5 s on oak"),
            ("cancelled", None, "", "was cancelled on oak"),
            ("lost", None, "", "was lost on oak"),
        ):
            task = TaskInfo(
                id=ID, state=state, exit_status=status, why=why, worker_name="oak", timeout=5.0
            )
            result = Result(exit_status=status, stdout=b"", stderr=b"", task=task)
            self.assertEqual(str(self.assertRaises(TaskFailed, result.check)), f"task {ID} {said}")


class ImportTests(SynchronousTestCase):
    """What a program loads with it."""

    def test_imports(self) -> None:
        """Neither Twisted, nor asyncio, nor a node's keys, but where they are asked for."""
        for module, loads in (
            ("bzzz.client", "set()"),
            ("bzzz.client.aio", "{'asyncio'}"),
            ("bzzz.client.core", "set()"),
        ):
            ran = subprocess.run(
                [
                    sys.executable,
                    "-c",
                    f"import sys, {module}\n"
                    "print({'twisted', 'asyncio', 'nacl', 'klein', 'click'} & set(sys.modules))",
                ],
                capture_output=True,
                text=True,
                check=False,
                env={"PYTHONPATH": str(Path(bzzz.__file__).parent.parent)},
            )
            self.assertEqual((ran.stdout.strip(), ran.stderr), (loads, ""))
