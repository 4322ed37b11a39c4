"""Commands about a cluster, and the node that answers them."""

from __future__ import annotations

import json
from typing import Any

import click
import setproctitle

from bzzz.cli import cluster
from tests.cli.node import CommandTests
from tests.trust.rosters import key
from tests.web.clusters import Home

__all__ = ["ACACIA", "IRONWOOD", "REFUSED", "UNCLAIMED", "WALNUT", "ClusterCase"]
ACACIA, IRONWOOD = key("acacia").peer_id, key("ironwood").peer_id
WALNUT = key("walnut").peer_id

UNCLAIMED = (
    "This node is in no cluster. To found one: bzzz cluster create NAME. To join one: bzzz invite"
    " on a machine that is in it, then bzzz join CODE here"
)
REFUSED = (
    "The node answered: this node is in no cluster: bzzz cluster create NAME founds one, bzzz join"
    " CODE joins one\n"
)


class ClusterCase(CommandTests):
    """The node is ``walnut``.

    :ivar titles: what ``ps`` was made to show.
    """

    def setUp(self) -> None:
        super().setUp()
        self.use(Home())
        self.titles: list[str] = []
        self.patch(setproctitle, "setproctitle", self.titles.append)

    def use(self, home: Home) -> None:
        """Ask this node from now on."""
        self.machine = home
        self.routes = (home.routes,)

    def json(self, *arguments: str) -> Any:
        return json.loads(self.output(*arguments, "--json"))

    def refused(self, code: int, *arguments: str, **environ: str) -> str:
        """What is said on stderr by a command that ends with this code, and says nothing else."""
        result = self.run_command(*arguments, **environ)
        self.assertEqual((result.exit_code, result.stdout), (code, ""), result.stderr)
        return result.stderr

    def at_terminal(self, answer: bool) -> list[str]:
        """Have somebody there who answers so; the questions that they are asked."""
        asked: list[str] = []

        def confirm(question: str, **options: object) -> bool:
            asked.append(question)
            return answer

        self.patch(cluster, "_at_terminal", lambda: True)
        self.patch(click, "confirm", confirm)
        return asked
