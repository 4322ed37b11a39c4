"""The commands, which are imported when they are asked for."""

from __future__ import annotations

import subprocess
import sys

import click
from twisted.trial.unittest import SynchronousTestCase

from bzzz.cli.main import COMMANDS, bzzz


class CommandsTests(SynchronousTestCase):
    """The table of commands."""

    def test_names(self) -> None:
        """Each is there, and has the name in the table."""
        context = click.Context(bzzz)
        self.assertEqual(bzzz.list_commands(context), sorted(COMMANDS))
        for name in COMMANDS:
            command = bzzz.get_command(context, name)
            assert command is not None, name
            self.assertEqual(command.name, name)
        self.assertIsNone(bzzz.get_command(context, "nothing"))

    def test_others_are_not_imported(self) -> None:
        """What one command needs is no load on another one."""
        program = (
            "import sys\n"
            "from bzzz.cli.main import bzzz\n"
            "bzzz(['tasks', '--help'], standalone_mode=False)\n"
            "print([name for name in sys.modules if name in ('bzzz.cli.audit', 'bzzz.cli.run')])\n"
        )
        said = subprocess.run(
            [sys.executable, "-c", program], check=True, capture_output=True, text=True
        )
        self.assertEqual(said.stdout.splitlines()[-1], "[]")
