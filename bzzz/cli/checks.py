"""The commands that also work without a node: config, doctor, completion."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from bzzz.cli.client import NodeError, NoNode, NotAllowed
from bzzz.cli.session import NobodyAnswers, NodeRefused, Refusal, Session, shared

__all__ = ["completion", "config", "doctor"]

# Seconds for all checks of the doctor, several of which wait for packets that may not come.
DOCTOR_TIMEOUT = 60.0


@click.group()
@shared
def config() -> None:
    """The configuration in effect, and the check of a file."""


@config.command("show")
@click.option(
    "--config",
    "file",
    type=click.Path(),
    metavar="FILE",
    help="Show what a node started with this file would use, whether one runs or not.",
)
@shared
@click.pass_obj
def config_show(session: Session, file: str | None) -> None:
    """Every value and where it came from.

    That of the running node; without one, what a node started here and now would use.
    """
    entries: Sequence[Mapping[str, Any]] | None = None
    if file is None:
        try:
            entries = session.client().get("config")["config"]
        except NotAllowed as error:
            raise NobodyAnswers(str(error)) from None
        except NoNode:
            click.echo("No node is running. One started here and now would use:", err=True)
        except NodeError as error:
            raise NodeRefused(f"The node answered: {error}") from None
    if entries is None:
        entries = _local_config(file)
    if session.json:
        session.print_json({"config": entries})
        return
    from bzzz.cli.text import show, table

    show(
        table(
            ("key", "value", "from"),
            [(entry["key"], _shown(entry), entry["source"]) for entry in entries],
        )
    )


def _local_config(file: str | None) -> list[Mapping[str, Any]]:
    from bzzz.config import load
    from bzzz.errors import ConfigError

    try:
        loaded = load({}, os.environ, file)
    except ConfigError as error:
        raise Refusal(str(error)) from None
    return [
        {"key": setting.key, "value": setting.value, "source": setting.source}
        for setting in loaded.effective()
    ]


def _shown(entry: Mapping[str, Any]) -> str:
    from bzzz.config import OPTIONS
    from bzzz.config.amounts import size_text

    value = entry["value"]
    if isinstance(value, int) and any(
        option.kind.is_size for option in OPTIONS if option.key == entry["key"]
    ):
        return size_text(value)
    return _value(value)


def _value(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(str, value))
    if isinstance(value, dict):
        return ", ".join(f"{key}={text}" for key, text in value.items())
    return str(value)


@config.command("check")
# What cannot be read is told by the check, with what is wrong.
@click.argument("file", type=click.Path(readable=False))
@shared
@click.pass_obj
def config_check(session: Session, file: str) -> None:
    """Tell everything that is wrong with FILE, a line each; exit 1 if anything is."""
    from bzzz.config import problems_of_file

    problems = problems_of_file(Path(file))
    if session.json:
        session.print_json({"file": file, "ok": not problems, "problems": problems})
    elif problems:
        from bzzz.cli.text import safe

        for problem in problems:
            click.echo(safe(problem))
    else:
        click.echo(f"{file}: ok")
    if problems:
        raise SystemExit(1)


@click.command()
@shared
@click.pass_obj
def doctor(session: Session) -> None:
    """What keeps this node from meeting others, and what to do about it; exit 1 on an error.

    Without a node the checks that need none are made.
    """
    findings: list[Mapping[str, Any]]
    try:
        findings = session.client().get("doctor", DOCTOR_TIMEOUT)["findings"]
        if os.geteuid() == 0:
            findings = _with_roots_view(session, findings)
    except NoNode as error:
        findings = [
            {
                "check": "node",
                "level": "warning",
                "message": str(error).split(". Start")[0],
                "mend": error.mend,
            },
            *_local_findings(),
        ]
    except NodeError as error:
        raise NodeRefused(f"The node answered: {error}") from None
    if session.json:
        session.print_json({"findings": findings})
    else:
        from bzzz.cli.text import show, table

        rows = []
        for finding in findings:
            rows.append((finding["level"], finding["check"], finding["message"]))
            if finding.get("mend"):
                rows.append(("", "", f"-> {finding['mend']}"))
        show(table(("", "check", "found"), rows))
    if any(finding["level"] == "error" for finding in findings):
        raise SystemExit(1)


def _with_roots_view(
    session: Session, findings: Sequence[Mapping[str, Any]]
) -> list[Mapping[str, Any]]:
    """The firewall as root sees it, in place of what the node, which is not root, could tell."""
    from bzzz.cli.local_doctor import examine_firewall_here

    addresses = " ".join(session.ask("status")["listen_addresses"])
    port = re.search(r"/tcp/(\d{1,5})\b", addresses)
    # The node is trusted less than root, to whom a port is told that should be opened.
    known = int(port[1]) if port is not None and 0 < int(port[1]) < 65536 else None
    here = examine_firewall_here(known)
    if not here:
        return list(findings)
    return [each for each in findings if each["check"] != "firewall"] + here


def _local_findings() -> list[Mapping[str, Any]]:
    """The doctor's checks of the machine, made in this process."""
    from bzzz.cli.local_doctor import examine
    from bzzz.config import load
    from bzzz.errors import ConfigError

    try:
        interfaces = load({}, os.environ).interface
    except ConfigError as error:
        wrong = {"check": "config", "level": "error", "message": str(error), "mend": None}
        return [wrong, *examine(())]
    return examine(interfaces)


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the completion for a shell.

    \b
    bash:  eval "$(bzzz completion bash)"    in ~/.bashrc
    zsh:   eval "$(bzzz completion zsh)"     in ~/.zshrc
    fish:  bzzz completion fish > ~/.config/fish/completions/bzzz.fish
    """
    from click.shell_completion import get_completion_class

    made = get_completion_class(shell)
    if made is None:
        raise Refusal(f"This click knows no completion for {shell}")
    root = ctx.find_root()
    click.echo(made(root.command, {}, "bzzz", "_BZZZ_COMPLETE").source())
