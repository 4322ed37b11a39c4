"""The commands about the cluster that this node is in: create, show, export, import, leave."""

from __future__ import annotations

import json
import os
import stat
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import click

from bzzz.cli.session import NodeRefused, Refusal, Session, shared

__all__ = ["UNCLAIMED", "ask_first", "cluster", "leave", "of_members", "yes_option"]

UNCLAIMED = (
    "This node is in no cluster. To found one: bzzz cluster create NAME. To join one: bzzz invite"
    " on a machine that is in it, then bzzz join CODE here"
)

# Bytes that a node takes of a roster: the limit of the control API (bzzz.web.requests).
MAX_IMPORT = 1 << 20

# Bytes of a file that are read, with its white space.
MAX_FILE = 16 << 20

# Seconds for the whole roster of a large cluster, and for the last words of a node that leaves.
ROSTER_TIMEOUT = 60.0
LEAVE_TIMEOUT = 60.0

C = TypeVar("C", bound=Callable[..., Any])


def yes_option(command: C) -> C:
    """``--yes``."""
    return click.option("--yes", "-y", is_flag=True, help="Do not ask first.")(command)


def ask_first(question: str, yes: bool) -> None:
    """Have whoever is at the terminal confirm it; where nobody is, it is as with ``--yes``."""
    from bzzz.cli.text import safe

    if yes or not _at_terminal():
        return
    if not click.confirm(safe(question), err=True):
        raise Refusal("Nothing was changed.")


def _at_terminal() -> bool:
    return sys.stdin.isatty()


def of_members(count: int) -> str:
    """``3 members``."""
    return f"{count} member{'' if count == 1 else 's'}"


@click.group()
@shared
def cluster() -> None:
    """The cluster that this node is in: found one, show it, carry its roster in a file."""


@cluster.command()
@click.argument("name")
@click.option(
    "--name",
    "node",
    metavar="NODE",
    help="What the cluster is to call this node, if otherwise than now.",
)
@shared
@click.pass_obj
def create(session: Session, name: str, node: str | None) -> None:
    """Found a cluster called NAME, with this node as its first member and admin.

    From then on the node keeps links with members alone. Let them in with bzzz invite.
    """
    body = {"name": name} if node is None else {"name": name, "node": node}
    answer = session.post("cluster", body)
    if session.json:
        session.print_json(answer)
        return
    from bzzz.cli.text import safe

    made = answer["cluster"]
    click.echo(safe(f"Founded {made['name']}, with this node, {made['name_here']}, as its admin."))
    click.echo("To let a machine in: bzzz invite")


@cluster.command()
@shared
@click.pass_obj
def show(session: Session) -> None:
    """Which cluster this node is in, and as what. bzzz members lists the others."""
    answer = session.ask("cluster")
    if session.json:
        session.print_json(answer)
        return
    known = answer["cluster"]
    if known is None:
        click.echo(UNCLAIMED)
        return
    from bzzz.cli.text import show as show_table
    from bzzz.cli.text import table

    show_table(
        table(
            ("", ""),
            [
                ("cluster", known["name"]),
                ("id", known["id"]),
                ("this node", _this_node(known)),
                ("members", known["members"]),
            ],
            head=False,
        )
    )


def _this_node(known: Mapping[str, Any]) -> str:
    if known["revoked"]:
        return "was revoked, so no member links with it. To come back: bzzz leave, then bzzz join"
    return f"{known['name_here']}, {known['role'] or 'with the rights that several roles share'}"


@cluster.command("export")
@click.argument("file", default="-", type=click.Path(allow_dash=True, readable=False))
@shared
@click.pass_obj
def export(session: Session, file: str) -> None:
    """Write the roster, who is in the cluster and why, to FILE, or to standard output.

    For a backup, or for a machine that was let in by bzzz admit. There is no secret in it, but the
    names of all machines: FILE is for its owner alone. Whoever reads it can check it, and change
    nothing in it.
    """
    answer = session.ask("roster", ROSTER_TIMEOUT)
    text = json.dumps(answer, indent=1) + "\n"
    if file == "-":
        click.echo(text, nl=False)
        return
    try:
        _write(file, text)
    except OSError as error:
        raise Refusal(f"{file} cannot be written: {error.strerror}") from None
    if session.json:
        session.print_json({"file": file, "cluster": answer["cluster"]})
        return
    from bzzz.cli.text import safe

    click.echo(safe(f"Wrote the roster of {answer['cluster']} to {file}"))


def _write(file: str, text: str) -> None:
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with open(descriptor, "w", encoding="utf-8") as stream:
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.fchmod(descriptor, 0o600)
        stream.write(text)


@cluster.command("import")
@click.argument("file", type=click.Path(allow_dash=True, readable=False))
@shared
@click.pass_obj
def import_(session: Session, file: str) -> None:
    """Take the roster in FILE, which bzzz cluster export wrote on a member; - is standard input.

    A node that is in no cluster becomes a member, if the roster has it. A member learns what is new
    in it, also who was revoked.
    """
    answer = session.post("roster", _roster_in(file), ROSTER_TIMEOUT)
    if session.json:
        session.print_json(answer)
        return
    from bzzz.cli.text import safe

    count = of_members(answer["members"])
    if answer["joined"]:
        click.echo(safe(f"This node is in {answer['cluster']} now, which has {count}."))
    elif answer["new"]:
        news = "1 statement was" if answer["new"] == 1 else f"{answer['new']} statements were"
        click.echo(safe(f"{news} new. {answer['cluster']} has {count}."))
    else:
        click.echo(safe(f"Nothing in it was new. {answer['cluster']} has {count}."))


def _roster_in(file: str) -> Any:
    """What a file has, if it looks like a roster."""
    shown = "standard input" if file == "-" else file
    try:
        with click.open_file(file, "rb") as stream:
            content = stream.read(MAX_FILE + 1)
    except OSError as error:
        raise Refusal(f"{shown} cannot be read: {error.strerror}") from None
    try:
        read = json.loads(content)
    except (ValueError, RecursionError):
        read = None
    if not isinstance(read, dict) or not str(read.get("format")).startswith("bzzz-roster-"):
        raise Refusal(
            f"{shown} is no whole roster of Bzzz. To write one, on a member: bzzz cluster export"
            " FILE"
        )
    if len(json.dumps(read)) > MAX_IMPORT:
        raise Refusal(
            f"{shown} is too large: a node takes {MAX_IMPORT} bytes. Let this machine in with bzzz"
            " invite instead: it gets the roster over the network"
        )
    return read


@click.command()
@click.option(
    "--force",
    is_flag=True,
    help="Leave also as the only admin: then nobody can let in or revoke anybody any more.",
)
@yes_option
@shared
@click.pass_obj
def leave(session: Session, force: bool, yes: bool) -> None:
    """Leave the cluster: the node forgets it and tells the others.

    To come back it has to be invited again. At a terminal it asks first; with -y, or without a
    terminal, it does not.
    """
    known = session.ask("cluster")["cluster"]
    if known is None:
        raise NodeRefused(UNCLAIMED)
    ask_first(f"Leave {known['name']}? {_price(session, known, force)}", yes)
    answer = session.post("leave", {"force": force}, LEAVE_TIMEOUT)
    if session.json:
        session.print_json(answer)
        return
    from bzzz.cli.text import safe

    click.echo(safe(f"Left {answer['cluster']}. {_told(known, answer['told'])}".rstrip()))


def _price(session: Session, known: Mapping[str, Any], force: bool) -> str:
    """What is lost by leaving, for who is asked."""
    if known["members"] == 1 and not known["revoked"]:
        return "It has no other member, so it ends, and nobody can come back to it."
    # Without --force the node keeps its cluster's only admin.
    if force and _is_only_admin(session.ask("members")["members"]):
        return (
            "This node is its only admin: nobody will be left who can let in or revoke anybody, so"
            " this node cannot come back either."
        )
    return "To come back this node has to be invited again."


def _is_only_admin(members: Sequence[Mapping[str, Any]]) -> bool:
    admins = [member for member in members if "administer" in member["rights"]]
    return len(admins) == 1 and bool(admins[0]["self"])


def _told(known: Mapping[str, Any], told: int) -> str:
    if known["revoked"]:
        return ""
    if told:
        return f"{of_members(told)} heard it, and tell{'s' if told == 1 else ''} the others."
    if known["members"] == 1:
        return "It has no members any more."
    return (
        "No member was linked to hear it. If it was revoked already, nothing needs to be done."
        " Else, to take this node off their list, on an admin's machine:"
        f" bzzz revoke {known['name_here']}"
    )
