"""The ``bzzz`` command: asks the node on this machine, over its control socket.

What takes long to import is imported by the command that needs it: pressing Tab runs this too.
"""

from __future__ import annotations

import click

from bzzz import __version__
from bzzz.cli import (
    audit,
    checks,
    cluster,
    fetch,
    identity,
    invite,
    join,
    members,
    nodes,
    run,
    submit,
    tasks,
)
from bzzz.cli.session import Session, shared

__all__ = ["bzzz", "main"]

CODES = """
\b
Exit codes: 0 it is so; 1 the answer is negative (a wrong configuration, an
error found by the doctor); 2 the command line is wrong; 3 no node is running
here, or none that answers; 4 the node answered with an error; 5 bzzz audit
cannot read a file (other commands: 1).
"""


@click.group(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=CODES,
)
@click.version_option(__version__, "--version", prog_name="bzzz")
@shared
@click.pass_context
def bzzz(ctx: click.Context) -> None:
    """Ask the Bzzz node that runs on this machine. Start one with: twistd -n bzzz"""
    ctx.ensure_object(Session)


for command in (
    run.run,
    fetch.fetch,
    submit.submit,
    tasks.tasks,
    tasks.task,
    tasks.logs,
    tasks.cancel,
    tasks.retry,
    tasks.why,
    tasks.drain,
    tasks.undrain,
    nodes.status,
    nodes.peers,
    identity.identity,
    nodes.capabilities,
    nodes.events,
    cluster.cluster,
    invite.invite,
    invite.invitations,
    join.join,
    members.members,
    members.admit,
    members.rename,
    members.revoke,
    cluster.leave,
    audit.audit,
    checks.config,
    checks.doctor,
    checks.completion,
):
    bzzz.add_command(command)


def main() -> None:
    """The entry point of the ``bzzz`` script."""
    bzzz(prog_name="bzzz")
