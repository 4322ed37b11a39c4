"""The commands with which an owner lets machines into the cluster: invite, invitations."""

from __future__ import annotations

import datetime
import re
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

import click

from bzzz.cli.members import ROLES
from bzzz.cli.session import NobodyAnswers, NodeRefused, Refusal, Session, shared

__all__ = ["invitations", "invite"]

LENGTHS = {"s": 1, "m": 60, "h": 3600, "d": 86400}

# What a node takes (bzzz.trust.invitations, bzzz.web.pairing_routes).
MAX_USES = 512
MAX_DAYS = 366


def _seconds(ctx: click.Context, param: click.Parameter, value: str | None) -> float | None:
    """What a length of time such as ``24h`` is."""
    if value is None:
        return None
    found = re.fullmatch(r"([0-9]{1,9})([smhd])", value)
    seconds = 0 if found is None else int(found[1]) * LENGTHS[found[2]]
    if not 0 < seconds <= MAX_DAYS * LENGTHS["d"]:
        raise click.BadParameter(
            f"{value} is no length of time such as 30m, 24h or 7d, of at most {MAX_DAYS}d"
        )
    return float(seconds)


@click.command()
@click.option(
    "--role",
    type=click.Choice(ROLES),
    default="member",
    show_default=True,
    help="What the machine may do: an admin lets in others, a member submits and runs tasks.",
)
@click.option(
    "--token",
    is_flag=True,
    help="Print a token, for several machines and for longer, in place of a code. It is a secret.",
)
@click.option(
    "--uses",
    type=click.IntRange(1, MAX_USES),
    metavar="N",
    help="For how many machines the token is; 1 if not given.",
)
@click.option(
    "--expires",
    callback=_seconds,
    metavar="LENGTH",
    help="How long the token is good, such as 30m, 24h or 7d; 24h if not given.",
)
@shared
@click.pass_obj
def invite(
    session: Session, role: str, token: bool, uses: int | None, expires: float | None
) -> None:
    """Let a machine into the cluster: shows a code, and what to type on that machine.

    The code is for one machine and 10 minutes. This command waits until the machine has joined, and
    tells each wrong guess; three make the code void, and so does Ctrl-C. Nobody can use a code that
    was used, so it may stay in the history of a shell.

    With --token it prints a token and ends. The token lets in whoever has it: keep it as you keep a
    password. bzzz invitations lists what is open, and bzzz invitations withdraw CHANNEL makes it
    void.

    \b
    Exit codes: 0 the machine has joined, or the token is there; 1 the code is void.
    """
    if token:
        _token(session, role, uses or 1, expires or float(LENGTHS["d"]))
        return
    if uses is not None or expires is not None:
        raise click.UsageError(
            "--uses and --expires are for a token: add --token. A code is for one machine and 10"
            " minutes."
        )
    _code(session, role)


def _code(session: Session, role: str) -> None:
    from bzzz.cli.text import as_json, safe

    first: Mapping[str, Any] | None = None
    try:
        for line in session.stream("invitations", {"role": role}):
            if session.json:
                click.echo(as_json(line, line=True))
            if first is None:
                first = line
                if not session.json:
                    _show_code(line)
                continue
            event = line.get("event")
            if event == "void":
                if session.json:
                    raise SystemExit(1)
                raise Refusal(f"The code is void: {line['reason']}. For a new one: bzzz invite")
            if not session.json:
                click.echo(safe(_words(line, first)))
            if event == "joined":
                return
    except KeyboardInterrupt:
        # By hanging up: the node makes it void.
        click.echo(err=True)
        raise Refusal("Interrupted: the code is void now.") from None
    except (NodeRefused, NobodyAnswers) as refusal:
        if first is None:
            raise
        message = f"{refusal.message}. The code is void; for a new one: bzzz invite"
        raise type(refusal)(message) from None
    raise NobodyAnswers("The node has stopped, so the code is void.")


def _show_code(line: Mapping[str, Any]) -> None:
    from bzzz.cli.text import duration, safe

    click.echo(
        safe(f"To let a machine into {line['cluster']}, as {line['role']}, type on that machine:")
    )
    click.echo()
    click.echo(safe(f"    bzzz join {line['code']}"))
    click.echo()
    click.echo(f"The code is good for {duration(line['seconds'])}. Ctrl-C makes it void.")


def _words(line: Mapping[str, Any], first: Mapping[str, Any]) -> str:
    """What has happened, for the owner."""
    event = line.get("event")
    if event == "joined":
        return f"{line['name']} ({line['short_id']}) has joined {first['cluster']}"
    if event == "wrong_code":
        left = line["left"]
        more = f"{left} more make{'s' if left == 1 else ''} the code void. " if left else ""
        return (
            f"Wrong code from {line['host']} ({line['short_id']}). {more}If nobody has mistyped it,"
            " somebody is guessing."
        )
    if event == "failed":
        return f"A machine ({line['short_id']}) has not joined: {line['reason']}"
    if event == "admitted":
        return (
            f"{line['name']} ({line['short_id']}) was admitted, but may not know it:"
            f" {line['reason']}. The same bzzz join again on it tells it. If it is not to be in the"
            f" cluster: bzzz revoke {line['short_id']}"
        )
    if event == "busy":
        return (
            f"Somebody uses up the runs of this code, most of them from {', '.join(line['hosts'])}:"
            " your machine may be refused. If those addresses are none of yours, block them in this"
            " machine's firewall, or use a token: bzzz invite --token"
        )
    return f"{event}: {line.get('reason') or ''}"


def _token(session: Session, role: str, uses: int, seconds: float) -> None:
    answer = session.post("tokens", {"role": role, "uses": uses, "seconds": seconds})
    if session.json:
        session.print_json(answer)
        return
    from bzzz.cli.text import safe

    machines = "one machine" if uses == 1 else f"{uses} machines"
    click.echo(
        safe(
            f"This token lets {machines} into {answer['cluster']}, as {answer['role']}, for"
            f" {_exactly(int(answer['seconds']))}. Whoever has it can use it: keep it secret."
        ),
        err=True,
    )
    where = "On that machine" if uses == 1 else "On each machine"
    click.echo(
        f"{where}, put it into a file of its owner alone; then: bzzz join --token-file FILE",
        err=True,
    )
    # Alone, so that it can be redirected into a file.
    click.echo(answer["token"])


@click.group(invoke_without_command=True, subcommand_metavar="[COMMAND]")
@shared
@click.pass_context
def invitations(ctx: click.Context) -> None:
    """The codes and tokens of this node that let in somebody now. None of it is secret.

    One whose uses are used up is kept until it expires, for the machines that it has let in: these
    are counted, and listed with --json.
    """
    if ctx.invoked_subcommand is not None:
        return
    session = ctx.ensure_object(Session)
    answer = session.ask("invitations")
    if session.json:
        session.print_json(answer)
        return
    known = [each for each in answer["invitations"] if each["used"] < each["uses"]]
    used_up = len(answer["invitations"]) - len(known)
    if known:
        _show_invitations(known)
    else:
        click.echo("No invitation is open. To make one: bzzz invite")
    if used_up:
        click.echo(
            f"{used_up} more {'is' if used_up == 1 else 'are'} used up, and kept until"
            f" {'it expires' if used_up == 1 else 'they expire'}; bzzz invitations --json lists"
            f" {'it' if used_up == 1 else 'them'}"
        )


def _show_invitations(known: Sequence[Mapping[str, Any]]) -> None:
    from bzzz.cli.text import show, table

    rows = [
        (
            each["channel"],
            each["kind"],
            each["role"],
            f"{each['used']} of {each['uses']}",
            _left(each["expires"]),
        )
        for each in known
    ]
    show(table(("channel", "kind", "role", "used", "good for"), rows))


@invitations.command()
@click.argument("channel")
@shared
@click.pass_obj
def withdraw(session: Session, channel: str) -> None:
    """Make a code or a token void. CHANNEL is the number that bzzz invitations shows."""
    session.delete(f"invitations/{quote(channel, safe='')}")
    if session.json:
        session.print_json({"channel": channel, "open": False})
        return
    from bzzz.cli.text import safe

    click.echo(safe(f"Invitation {channel} is void now. Machines that it has let in stay."))


def _exactly(seconds: int) -> str:
    """``90 min``: a length of time in the largest unit of which it is so many whole ones."""
    for size, unit in ((86400, "day"), (3600, "h"), (60, "min")):
        if seconds % size == 0:
            count = seconds // size
            return f"{count} {unit}{'s' if unit == 'day' and count > 1 else ''}"
    return f"{seconds} s"


def _left(expires: str) -> str:
    from bzzz.cli.text import duration, safe

    try:
        end = datetime.datetime.fromisoformat(expires)
        return duration((end - datetime.datetime.now(datetime.UTC)).total_seconds())
    except (ValueError, TypeError):
        return safe(expires)
