"""The commands about the key of this node: its peer ID, and another one in its place."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import click

from bzzz.cli.client import NodeClient, NodeError, NoNode
from bzzz.cli.cluster import ask_first, of_members, yes_option
from bzzz.cli.session import NobodyAnswers, NodeRefused, Session, shared

__all__ = ["identity"]

# Seconds for the node to write its new key and tell the members that are linked.
ROTATE_TIMEOUT = 60.0

# Seconds for it to end, where it runs no task, and to be up again; and between two looks.
BACK_TIMEOUT = 60.0
LOOK_INTERVAL = 0.1
LOOK_TIMEOUT = 5.0


@click.group("id", invoke_without_command=True, subcommand_metavar="[COMMAND]")
@shared
@click.pass_context
def identity(ctx: click.Context) -> None:
    """The node's peer ID, then the addresses that another node can be given by --bootstrap."""
    if ctx.invoked_subcommand is not None:
        return
    session = ctx.ensure_object(Session)
    answer = session.ask("id")
    if session.json:
        session.print_json(answer)
        return
    from bzzz.cli.text import safe

    click.echo(safe(answer["peer_id"]))
    for address in answer["addresses"]:
        click.echo(safe(address))


@identity.command()
@yes_option
@shared
@click.pass_obj
def rotate(session: Session, yes: bool) -> None:
    """Give this node another key, and so another peer ID, and destroy the old key.

    The node is started again. In its cluster it keeps its name and its role. The codes and tokens
    that it has made are void, and --bootstrap addresses with the old peer ID lead to nobody. At a
    terminal it asks first; with -y, or without a terminal, it does not.

    It does not help against somebody who has the old key: have an admin revoke this node, then
    bzzz leave, bzzz id rotate and bzzz join here.
    """
    client = session.client()
    before = session.ask("status")
    ask_first(
        f"Give {before['name']} another key? It gets another peer ID, and is started again.", yes
    )
    answer = session.post("id/rotate", timeout=ROTATE_TIMEOUT)
    _wait(client, before, answer["new"])
    if session.json:
        session.print_json(answer)
        return
    from bzzz.cli.text import safe

    click.echo(safe(f"This node is {answer['new']} now."))
    click.echo(safe(f"It was {answer['old']}."))
    for line in _words(answer):
        click.echo(safe(line))


def _wait(client: NodeClient, before: Mapping[str, Any], new: str) -> None:
    """Wait until the node is up again; ends the command if it is not, or is who it was."""
    end = time.monotonic() + BACK_TIMEOUT
    while True:
        problem = "nobody answers"
        try:
            # The same socket, also while there is none and another node's would be asked.
            status = client.get("status", LOOK_TIMEOUT)
            problem = f"it is {status['state']}"
            if status["peer_id"] == new and status["state"] not in {"starting", "stopping"}:
                return
            if status["peer_id"] != new and status["started"] != before["started"]:
                raise NodeRefused(
                    f"The node was started again and is still {status['peer_id']}: its log has what"
                    " kept it from taking the new key"
                )
        except (NoNode, NodeError) as error:
            problem = str(error)
        if time.monotonic() >= end:
            raise NobodyAnswers(
                f"The node has not come back within {BACK_TIMEOUT:.0f} s ({problem}). It is {new}"
                " as soon as it starts"
            )
        time.sleep(LOOK_INTERVAL)


def _words(answer: Mapping[str, Any]) -> list[str]:
    """What else there is to know."""
    lines = []
    if answer["cluster"] is not None:
        lines.append(f"It is still {answer['name']} in {answer['cluster']}, in its role.")
        told = answer["told"]
        if told:
            lines.append(
                f"{of_members(told)} heard of it, and tell{'s' if told == 1 else ''} the others."
            )
        elif answer["can_prove"]:
            lines.append("No member has heard of it yet: each is shown a proof when they meet.")
        else:
            lines.append(
                "No member has heard of it, and the roster is too long for a proof: carry it to one"
                " with bzzz cluster export here and bzzz cluster import there."
            )
    void = answer["void"]
    if void:
        lines.append(
            f"Its invitation{'s' if len(void) > 1 else ''} {', '.join(void)}"
            f" {'are' if len(void) > 1 else 'is'} void. To make another: bzzz invite"
        )
    return lines
