"""The ``bzzz`` command: asks the node on this machine, over its control socket.

What takes long to import is imported by the command that needs it: pressing Tab runs this too.
"""

from __future__ import annotations

from importlib import import_module

import click

from bzzz import __version__
from bzzz.cli.session import Session, shared

__all__ = ["bzzz", "main"]

CODES = """
\b
Exit codes: 0 it is so; 1 the answer is negative (a wrong configuration, an
error found by the doctor); 2 the command line is wrong; 3 no node is running
here, or none that answers; 4 the node answered with an error; 5 bzzz audit
cannot read a file (other commands: 1).
"""


# Where the commands are, below bzzz.cli. A module is not imported for others than its own: all of
# them together take longer than most answers.
COMMANDS = {
    "run": "run.run",
    "fetch": "fetch.fetch",
    "submit": "submit.submit",
    "tasks": "task_list.tasks",
    "task": "tasks.task",
    "logs": "tasks.logs",
    "cancel": "tasks.cancel",
    "retry": "tasks.retry",
    "why": "tasks.why",
    "drain": "tasks.drain",
    "undrain": "tasks.undrain",
    "status": "nodes.status",
    "peers": "nodes.peers",
    "id": "identity.identity",
    "capabilities": "nodes.capabilities",
    "events": "nodes.events",
    "cluster": "cluster.cluster",
    "invite": "invite.invite",
    "invitations": "invite.invitations",
    "join": "join.join",
    "members": "members.members",
    "admit": "members.admit",
    "rename": "members.rename",
    "revoke": "members.revoke",
    "leave": "cluster.leave",
    "audit": "audit.audit",
    "config": "checks.config",
    "doctor": "checks.doctor",
    "completion": "checks.completion",
}


class _Commands(click.Group):
    """The commands, each imported when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*COMMANDS, *self.commands})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.commands and cmd_name in COMMANDS:
            module, _, name = COMMANDS[cmd_name].partition(".")
            self.add_command(getattr(import_module(f"bzzz.cli.{module}"), name))
        return self.commands.get(cmd_name)


@click.group(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=CODES,
)
@click.version_option(__version__, "--version", prog_name="bzzz")
@shared
@click.pass_context
def bzzz(ctx: click.Context) -> None:
    """Ask the Bzzz node that runs on this machine. Start one with: twistd -n bzzz"""
    ctx.ensure_object(Session)


def main() -> None:
    """The entry point of the ``bzzz`` script."""
    bzzz(prog_name="bzzz")
