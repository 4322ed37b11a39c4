"""``bzzz join``: this node joins the cluster of whoever made the code or the token.

Enters: a code, or a token from a file, the environment, standard input or an argument. Leaves: what
the node says while it looks for the inviter, and in the end that it has joined, or why not.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import click

from bzzz.cli.client import NodeError, NoNode
from bzzz.cli.session import NobodyAnswers, Refusal, Session, shared

__all__ = ["VARIABLE", "join"]

# Where a token may be, such as in the environment of a script that sets up machines.
VARIABLE = "BZZZ_JOIN_TOKEN"

# Characters of a file or of standard input that are read: a token has about 110.
MAX_SECRET = 4096

STANDARD_INPUT = ("-",)


class NoCode(Refusal):
    """What was given is no code, and no token."""

    exit_code = 2


def _hide(ctx: click.Context, param: click.Parameter, words: Sequence[str]) -> Sequence[str]:
    """Have ``ps`` show no arguments, among which there may be a token. Before anything else."""
    if words and tuple(words) != STANDARD_INPUT:
        from setproctitle import setproctitle

        setproctitle("bzzz join")
    return words


def _addresses(ctx: click.Context, param: click.Parameter, values: Sequence[str]) -> Sequence[str]:
    from bzzz.wire.multiaddr import AddressError, Multiaddr

    for value in values:
        try:
            where = Multiaddr.parse(value).host_port()
        except AddressError as error:
            raise click.BadParameter(f"{error}; bzzz id on the other machine tells it") from None
        if where is None or where[0] not in {"ip4", "ip6"}:
            raise click.BadParameter(
                f"{value} is no IP address with a TCP port, such as /ip4/192.0.2.1/tcp/4001; bzzz"
                " id on the other machine tells it"
            )
    return values


@click.command()
@click.argument("words", nargs=-1, metavar="CODE|TOKEN|-", is_eager=True, callback=_hide)
@click.option(
    "--at",
    multiple=True,
    metavar="MULTIADDR",
    callback=_addresses,
    help="Where the inviting machine is, if it is not found: what bzzz id tells there. Repeatable.",
)
@click.option("--name", help="What the cluster is to call this node, if otherwise than now.")
@click.option(
    "--token-file",
    type=click.Path(allow_dash=True, readable=False),
    metavar="FILE",
    help="Read the token from FILE.",
)
@shared
@click.pass_obj
def join(
    session: Session,
    words: Sequence[str],
    at: Sequence[str],
    name: str | None,
    token_file: str | None,
) -> None:
    """Join a cluster, with the CODE that bzzz invite shows on a machine that is in it.

    The code is like 7-guitar-lunar. Upper case and spaces do not matter, and four letters of a word
    will do.

    A token of bzzz invite --token is a secret, so it is better not typed here, where the history of
    the shell keeps it: give it by --token-file, in the variable BZZZ_JOIN_TOKEN, or on standard
    input with -. The node has to be in no cluster: bzzz leave comes first.

    \b
    Exit codes: 0 this node has joined; 1 interrupted; 2 there is no such code;
    3 no node is running here; 4 it has not joined.
    """
    secret = _parsed(*_given(words, token_file))
    body: dict[str, Any] = {"code": secret, "at": list(at)}
    if name is not None:
        body["name"] = name
    _join(session, body)


def _join(session: Session, body: Mapping[str, Any]) -> None:
    from bzzz.cli.text import as_json, safe

    places: dict[str, str] = {}
    try:
        for line in session.stream("join", body):
            if session.json:
                click.echo(as_json(line, line=True))
            elif line.get("event") == "joined":
                by = f"{line['by_name']} ({line['by_short_id']})"
                click.echo(
                    safe(f"Joined {line['cluster']}: {by} let this node in as {line['name']}")
                )
            else:
                said = _words(line, places)
                if said:
                    click.echo(safe(said), err=True)
            if line.get("event") == "joined":
                return
    except KeyboardInterrupt:
        click.echo(err=True)
        raise Refusal(_interrupted(session)) from None
    raise NobodyAnswers("The node has stopped. Once it runs again: bzzz cluster show")


def _words(line: Mapping[str, Any], places: dict[str, str]) -> str:
    """What goes on, for who waits."""
    from bzzz.cli.text import duration, place

    match line.get("event"):
        case "looking":
            return f"Looking for the machine that made it, for {duration(line['seconds'])} at most"
        case "asking":
            # In a large mesh many are asked: who has the invitation is told.
            places[line["peer_id"]] = place(line.get("address"))
        case "found":
            where = places.get(line["peer_id"])
            return f"Found it{f' at {where}' if where else ''} ({line['short_id']})"
    return ""


def _interrupted(session: Session) -> str:
    """Whether the node had joined by then."""
    try:
        known = session.client().get("cluster")["cluster"]
    except (NoNode, NodeError):
        return "Interrupted. Whether this node has joined: bzzz cluster show"
    if known is None:
        return "Interrupted: this node has not joined."
    return f"Interrupted, but this node had joined {known['name']} already."


# -- the code or token


def _given(words: Sequence[str], token_file: str | None) -> tuple[str, str]:
    """What somebody typed, or put elsewhere, and where that is; nothing for the command line."""
    # Taken out: to the configuration it is an unknown variable.
    variable = os.environ.pop(VARIABLE, "")
    if words and token_file is not None:
        raise click.UsageError("Give the code or --token-file, not both.")
    if token_file is not None:
        return _read(token_file), _shown(token_file)
    if tuple(words) == STANDARD_INPUT:
        if _at_terminal():
            return str(click.prompt("Code or token", hide_input=True, err=True)), ""
        return _read("-"), _shown("-")
    if words:
        return " ".join(words), ""
    if variable:
        return variable, VARIABLE
    raise click.UsageError(
        "The code is missing: bzzz invite shows it, on a machine that is in the cluster."
    )


def _at_terminal() -> bool:
    return sys.stdin.isatty()


def _shown(file: str) -> str:
    return "Standard input" if file == "-" else file


def _read(file: str) -> str:
    shown = _shown(file)
    try:
        with click.open_file(file, encoding="utf-8") as stream:
            return str(stream.read(MAX_SECRET))
    except UnicodeDecodeError:
        raise NoCode(f"{shown} has no token: it is not text") from None
    except OSError as error:
        raise Refusal(f"{shown} cannot be read: {error.strerror}") from None


def _parsed(text: str, place: str) -> str:
    """The code or token in the one form that it has.

    :param place: where it was read; nothing for what was typed.
    """
    from bzzz.trust.codes import InvalidCode, is_token, parse_code, parse_token

    try:
        return parse_token(text).text if is_token(text) else parse_code(text).text
    except InvalidCode as error:
        message = str(error)
        if place and is_token(text):
            raise NoCode(f"{place}: {message}") from None
        if place:
            raise NoCode(
                f"{place} has no token, which bzzz invite --token makes, and no code: {message}"
            ) from None
        raise NoCode(f"{message[:1].upper()}{message[1:]}") from None
