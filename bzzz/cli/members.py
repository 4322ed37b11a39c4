"""The commands about the members of the cluster: members, admit, rename, revoke."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import click
from click.shell_completion import CompletionItem

from bzzz.cli.client import NodeError, NoNode
from bzzz.cli.cluster import UNCLAIMED, ask_first, of_members, yes_option
from bzzz.cli.session import Session, shared

__all__ = ["ROLES", "admit", "complete_member", "members", "rename", "revoke"]

# Those of bzzz.trust.statements, which a press of Tab need not import.
ROLES = ("admin", "member", "submit-only", "run-only")

# Seconds that the completion of a member's name may hold up the shell.
COMPLETION_TIMEOUT = 0.5

HEADINGS = ("name", "id", "role", "link", "in since", "let in by")


def complete_member(
    ctx: click.Context, param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Names and short IDs of members."""
    session = ctx.find_object(Session) or Session()
    try:
        known = session.client().get("members", COMPLETION_TIMEOUT)["members"]
    except (NoNode, NodeError):
        return []
    words = [str(member[key]) for key in ("name", "short_id") for member in known]
    return [
        CompletionItem(word) for word in words if word.startswith(incomplete) and word.isprintable()
    ]


@click.command()
@shared
@click.pass_obj
def members(session: Session) -> None:
    """Who is in this node's cluster, as what, and who was revoked."""
    answer = session.ask("members")
    if session.json:
        session.print_json(answer)
        return
    if answer["cluster"] is None:
        click.echo(UNCLAIMED)
        return
    from bzzz.cli.text import ago, safe, show, table

    known = answer["members"]
    if not any(member["self"] for member in known):
        click.echo("This node was revoked: this is what it knew then. To come back: bzzz leave,")
        click.echo("then bzzz join with a new code.")
    linked = sum(member["connected"] for member in known if not member["self"])
    click.echo(
        safe(f"{answer['cluster']} has {of_members(len(known))}, {linked} linked with this node")
    )
    show(table(HEADINGS, map(_row, known)))
    if answer["revoked"]:
        click.echo()
        rows = [
            (each["name"] or "?", each["short_id"], ago(each["time"]), _by(each), each["reason"])
            for each in answer["revoked"]
        ]
        show(table(("revoked", "id", "when", "by", "reason"), rows))


def _row(member: Mapping[str, Any]) -> tuple[object, ...]:
    from bzzz.cli.text import ago

    link = "connected" if member["connected"] else "none"
    founder = member["admitted_by"] == member["peer_id"]
    by = member["admitted_by_name"] or str(member["admitted_by"])[-6:]
    return (
        member["name"],
        member["short_id"],
        # Of one without a role what it may do says more.
        member["role"] or ", ".join(member["rights"]) or "no rights",
        "this node" if member["self"] else link,
        ago(member["since"]),
        "founder" if founder else by,
    )


def _by(revoked: Mapping[str, Any]) -> str:
    if revoked["by"] == revoked["peer_id"]:
        return "itself"
    return str(revoked["by_name"] or str(revoked["by"])[-6:])


@click.command()
@click.argument("peer_id")
@click.option("--name", help="What the cluster calls it.")
@click.option("--role", type=click.Choice(ROLES), help="What it may do; for a new one: member.")
@shared
@click.pass_obj
def admit(session: Session, peer_id: str, name: str | None, role: str | None) -> None:
    """Let in the machine with PEER_ID, which bzzz id tells on it, without a code.

    It does not hear of that by itself: carry the roster there with bzzz cluster export and import.
    bzzz invite needs none of this. With the name or the ID of a member it changes that one's role.
    """
    body = {"peer_id": peer_id, "name": name, "role": role}
    answer = session.post("members", {key: value for key, value in body.items() if value})
    if session.json:
        session.print_json(answer)
        return
    from bzzz.cli.text import safe

    member = answer["member"]
    who, home = _who(member), answer["cluster"]
    if not answer["new"]:
        click.echo(safe(f"{who} is in {home}, as {member['role']}."))
        return
    click.echo(safe(f"Admitted {who} to {home}, as {member['role']}."))
    click.echo("It does not know that yet. Here: bzzz cluster export FILE. Then, with FILE, there:")
    click.echo("bzzz cluster import FILE")


@click.command()
@click.argument("member", shell_complete=complete_member)
@click.argument("name")
@shared
@click.pass_obj
def rename(session: Session, member: str, name: str) -> None:
    """Have the cluster call a member NAME. Admins can rename all, other members only themselves.

    MEMBER is a name, a short ID, a peer ID, or the beginning of one of them.
    """
    answer = session.post("members/rename", {"member": member, "name": name})
    if session.json:
        session.print_json(answer)
        return
    from bzzz.cli.text import safe

    known = answer["member"]
    click.echo(safe(f"{answer['was']} ({known['short_id']}) is called {known['name']} now."))


@click.command()
@click.argument("member", shell_complete=complete_member)
@click.option("--reason", default="", metavar="TEXT", help="Why, for the other members to read.")
@yes_option
@shared
@click.pass_obj
def revoke(session: Session, member: str, reason: str, yes: bool) -> None:
    """Put a member out of the cluster: it loses its links at once.

    MEMBER is a name, a short ID, a peer ID, or the beginning of one of them. At a terminal it asks
    first; with -y, or without a terminal, it does not.
    """
    # What is confirmed is what is revoked, whatever has the name a moment later.
    known = session.ask(f"members/{quote(os.fsencode(member), safe='')}")
    ask_first(
        f"Revoke {_who(known)}? It loses its links with all members, and comes back only if it is"
        " let in again.",
        yes,
    )
    answer = session.post("members/revoke", {"member": known["peer_id"], "reason": reason})
    if session.json:
        session.print_json(answer)
        return
    from bzzz.cli.text import safe

    click.echo(safe(f"Revoked {_who(answer['revoked'])} from {answer['cluster']}."))
    for token in _open_tokens(session):
        click.echo(
            safe(
                f"If that machine may have the token {token} of this node, it can come back under"
                f" another key: bzzz invitations withdraw {token}"
            ),
            err=True,
        )


def _open_tokens(session: Session) -> list[str]:
    """Channels of the tokens that still let somebody in."""
    try:
        known = session.client().get("invitations")["invitations"]
    except (NoNode, NodeError):
        return []
    return [
        each["channel"] for each in known if each["kind"] == "token" and each["used"] < each["uses"]
    ]


def _who(member: Mapping[str, Any]) -> str:
    """``acacia (aXgZfP)``."""
    return f"{member['name'] or '?'} ({member['short_id']})"
