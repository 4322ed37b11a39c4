"""What commands that change something have of a session."""

from __future__ import annotations

from typing import Any

import click

from bzzz.cli.main import bzzz
from bzzz.cli.session import Session
from bzzz.errors import BzzzError
from bzzz.web.credentials import Credentials
from bzzz.web.requests import Body, Refusal
from bzzz.web.routes import RouteTable
from bzzz.web.stream import LineStream
from tests.cli.node import CommandTests


class Code(Body, frozen=True):
    """What the test's routes take."""

    code: str


class TestRoutes:
    """Routes of the test."""

    def add_to(self, table: RouteTable) -> None:
        table.post("/v1/codes", lambda by, body: {"made": body.code}, Code)
        table.delete("/v1/codes/<code>", self.remove)
        table.stream("/v1/use", self.use, Code)

    def remove(self, by: Credentials, code: str) -> None:
        raise Refusal(404, "no_such_code", f"there is no code {code}")

    async def use(self, lines: LineStream, by: Credentials, body: Code) -> None:
        lines.send({"step": 1})
        if body.code != "7-guitar-lunar":
            raise BzzzError("the code is wrong")
        lines.send({"step": 2})


class SessionTests(CommandTests):
    """Against the control API."""

    routes = (TestRoutes(),)

    def run_with(self, work: Any) -> tuple[int, str, str]:
        @click.command("try")
        @click.pass_obj
        def command(session: Session) -> None:
            click.echo(str(work(session)))

        self.patch(bzzz, "commands", {**bzzz.commands, "try": command})
        result = self.run_command("try")
        return result.exit_code, result.stdout.strip(), result.stderr.strip()

    def test_done(self) -> None:
        """Answers come decoded."""
        posted = self.run_with(lambda session: session.post("codes", {"code": "7"}))
        self.assertEqual(posted, (0, "{'made': '7'}", ""))
        body = {"code": "7-guitar-lunar"}
        streamed = self.run_with(lambda session: list(session.stream("use", body)))
        self.assertEqual(streamed, (0, "[{'step': 1}, {'step': 2}]", ""))

    def test_refused(self) -> None:
        """What the node refuses ends the command with 4 and the node's words."""
        for work, said in (
            (lambda session: session.post("codes", {}), "code: is missing"),
            (lambda session: session.delete("codes/7"), "there is no code 7"),
            (lambda session: list(session.stream("use", {"code": "8"})), "the code is wrong"),
        ):
            self.assertEqual(self.run_with(work), (4, "", f"The node answered: {said}"))

    def test_nobody(self) -> None:
        """Without a node each ends the command with 3."""
        self.node = None
        for work in (
            lambda session: session.post("codes", {}),
            lambda session: session.delete("codes/7"),
            lambda session: list(session.stream("use", {})),
        ):
            code, _, said = self.run_with(work)
            self.assertEqual(code, 3)
            self.assertIn("No node is running here", said)
