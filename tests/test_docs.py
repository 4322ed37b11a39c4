"""The examples of the documentation are what the code understands."""

from __future__ import annotations

import inspect
import json
import os
import re
import shutil
import subprocess
import textwrap
from pathlib import Path

import msgspec
from twisted.trial.unittest import SynchronousTestCase

from bzzz import web
from bzzz.client import Client
from bzzz.client.plain import Task
from bzzz.identity.peer_id import PeerID
from bzzz.mesh import messages
from bzzz.tasks.requirements import compile as compile_requirement
from bzzz.tasks.workflows.file import Checks, parse
from bzzz.tasks.workflows.plan import Plan, plan
from tests.needs import needs, without_tools

DOCS = Path(__file__).parent.parent / "docs"
PROTOCOL = DOCS / "protocol.rst"
EXAMPLES = DOCS / "examples"


class ExampleTests(SynchronousTestCase):
    def examples(self) -> list[bytes]:
        blocks = re.findall(
            r"^\.\. code-block:: json\n\n((?: {3}.*\n)+)", PROTOCOL.read_text("utf-8"), re.MULTILINE
        )
        return [textwrap.dedent(block).encode() for block in blocks]

    def test_messages(self) -> None:
        """Each message in protocol.rst is understood."""
        kinds = []
        for example in self.examples():
            sender = PeerID.parse(json.loads(example)["from"])
            kinds.append(messages.decode(example, sender).type)
        self.assertEqual(kinds, [messages.CAPABILITY, messages.AVAILABILITY, messages.AVAILABILITY])

    def test_fields(self) -> None:
        """The first two have every field that there is, and no other."""
        for example in self.examples()[:2]:
            data = json.loads(example)["data"]
            document = messages.decode(example, PeerID.parse(data["node_id"])).document
            assert document is not None
            self.assertEqual(set(data), set(msgspec.structs.asdict(document)))


class RouteTests(SynchronousTestCase):
    """The manual has the whole control API."""

    def routes(self) -> set[tuple[str, str]]:
        """Every method and path that a module of the control API answers."""
        found = set()
        for module in Path(web.__file__).parent.glob("*.py"):
            calls = re.findall(
                r'^ {8}table\.(\w+)\(\s*"(/v1/[^"]*)"', module.read_text(), re.MULTILINE
            )
            for how, path in calls:
                method = {"stream": "POST"}.get(how, how.upper())
                found.add((method, re.sub(r"<(?:path:)?(\w+)>", r"<\1>", path)))
        return found

    def test_routes(self) -> None:
        """Each is in the table."""
        text = (DOCS / "commands.rst").read_text("utf-8").partition("\nThe control API\n")[2]
        told = set()
        for row in re.findall(r"^   \* - (``(?:GET|POST|DELETE) /v1/.*)$", text, re.MULTILINE):
            method = ""
            for one in re.findall(r"``([^`]+)``", row):
                first, _, path = one.rpartition(" ")
                method = first or method
                told.add((method, path))
        routes = self.routes()
        self.assertGreater(len(routes), 40)
        self.assertEqual(sorted(routes - told), [])
        self.assertEqual(sorted(told - routes), [])


class ClientTests(SynchronousTestCase):
    """The manual has what a Python client takes."""

    def test_arguments(self) -> None:
        """Every method, with its arguments, but options, which bzzz run has too."""
        text = (DOCS / "client.rst").read_text("utf-8")
        for kind in (Client, Task):
            for name, method in inspect.getmembers(kind, inspect.isfunction):
                if name.startswith("_") and name != "__init__":
                    continue
                if kind is Task and name == "__init__":
                    continue
                said = f"``{name}" in text or f".{name}(" in text or name == "__init__"
                self.assertTrue(said, f"{kind.__name__}.{name}")
                for argument in inspect.signature(method).parameters:
                    known = re.search(rf"\b{argument}\b", text) is not None
                    self.assertTrue(
                        known or argument in ("self", "task_id"),
                        f"{argument} of {kind.__name__}.{name}",
                    )


class WorkflowTests(SynchronousTestCase):
    """The workflows of the documentation have all that they take."""

    def test_inputs(self) -> None:
        """What is read from beside a file is there, and what is asked of machines can be."""

        def wrong_input(path: str) -> str | None:
            return None if (EXAMPLES / path).is_file() else f"{path} is not there"

        def wrong_requirement(expression: str) -> str | None:
            compile_requirement(expression)
            return None

        files = sorted(EXAMPLES.glob("*.toml"))
        self.assertEqual([file.name for file in files], ["build.toml", "three.toml"])
        for file in files:
            parse(file.read_bytes(), str(file), Checks(inputs=wrong_input, where=wrong_requirement))


@needs(without_tools("cc", "make", "tar", "awk"))
class WorkflowRunTests(SynchronousTestCase):
    """Their steps do what they say, one after the other, each with the files that it gets."""

    def run_steps(self, name: str) -> list[tuple[str, str]]:
        """What each step prints, by its label."""
        made = plan(parse((EXAMPLES / name).read_bytes(), name))
        top = Path(self.mktemp()).absolute()
        printed = []
        for place, instance in enumerate(made.instances):
            work = top / str(place)
            work.mkdir(parents=True)
            self.bring(made, place, top)
            ran = subprocess.run(
                instance.work.command,
                cwd=work,
                env={"PATH": os.environ["PATH"], **instance.work.env},
                capture_output=True,
                text=True,
                check=False,
            )
            self.assertEqual((ran.returncode, ran.stderr), (0, ""), instance.name)
            printed.append((instance.name, ran.stdout))
        return printed

    def bring(self, made: Plan, place: int, top: Path) -> None:
        """Put the files of an instance into its directory."""
        work, instance = top / str(place), made.instances[place]
        for path in instance.work.inputs:
            shutil.copy(EXAMPLES / path, work / path)
        for source in instance.sources:
            other = top / str(source.instance)
            for glob in made.instances[source.instance].work.outputs:
                for found in other.glob(glob):
                    target = work / source.directory / found.relative_to(other)
                    target.parent.mkdir(parents=True, exist_ok=True)
                    self.assertFalse(target.exists(), target)
                    shutil.copy(found, target)

    def test_build(self) -> None:
        """What build.toml builds runs, and its report has all of it."""
        printed = dict(self.run_steps("build.toml"))
        words = [f"hello, in C of {year}" for year in (2011, 2011, 1999, 1999)]
        self.assertEqual(printed["test"].splitlines(), words)
        self.assertEqual(
            sorted(printed["report"].splitlines()),
            [
                f"./built/{standard},{level}/out/{standard}-O{level}/hello"
                for standard in ("c11", "c99")
                for level in (0, 2)
            ],
        )

    def test_three(self) -> None:
        """three.toml adds up what README.rst says."""
        self.assertEqual(dict(self.run_steps("three.toml"))["sum"], "50\n")
