"""The commands about audit logs: verify, show, checkpoints. They need no node.

The log is that of FILE, or that of the node here; with a running node, other members are asked for
the checkpoints that they keep. What is in the files is not trusted: whoever could write there may
have written anything.
"""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import click

from bzzz.cli.audit_files import (
    Unreadable,
    asked_of_members,
    checkpoints_in,
    node_of,
    open_given,
    open_log,
    remembered_by,
    state_dir_of,
    status_of_node,
    unreadable,
)
from bzzz.cli.session import Refusal, Session, shared

if TYPE_CHECKING:
    from bzzz.trust.audit_chain import Kept, Line
    from bzzz.trust.audit_report import Report

__all__ = ["audit"]

# Keys for which a node is asked; a log has more only if its key is rotated that often.
MAX_KEYS = 8

LENGTHS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def state_option(command: Any) -> Any:
    """``--state-dir``."""
    return click.option(
        "--state-dir",
        type=click.Path(path_type=Path, readable=False),
        metavar="DIR",
        help="State directory of the node, if it is another than configured.",
    )(command)


@click.group()
@shared
def audit() -> None:
    """The record of what concerned security, and whether anybody changed it."""


@audit.command()
@click.argument(
    "files", nargs=-1, type=click.Path(path_type=Path, readable=False), metavar="[FILE]..."
)
@click.option(
    "--checkpoints",
    "checkpoint_files",
    multiple=True,
    type=click.Path(path_type=Path, readable=False),
    metavar="FILE",
    help="Checkpoints that another node keeps: what bzzz audit checkpoints --json printed there.",
)
@click.option("--node", metavar="PEER_ID", help="The node whose log it should be.")
@state_option
@shared
@click.pass_obj
def verify(
    session: Session,
    files: Sequence[Path],
    checkpoint_files: Sequence[Path],
    node: str | None,
    state_dir: Path | None,
) -> None:
    """Tell everything in an audit log that is not as the node wrote it, each with its line.

    Without FILE it is the log of the node here, with all its older files; several are given oldest
    first. The verdict names the files. A node that runs here asks the linked members for the
    checkpoints that they keep. What nobody can know is told, too.

    \b
    Exit codes: 0 the log is whole; 1 it is not; 2 the command line is wrong;
    5 a file cannot be read.
    """
    given = [each for file in checkpoint_files for each in checkpoints_in(file)]
    status, notes = status_of_node(session)
    remembered = None
    if not files:
        directory = state_dir or state_dir_of(session, status)
        node = node or node_of(directory, status if state_dir is None else None)
        remembered = remembered_by(directory)
    with ExitStack() as stack:
        opened = open_given(files, stack) if files else open_log(directory, stack)
        if status is not None:
            asked, more = asked_of_members(session, _keys(opened))
            given += asked
            notes += more
        report = _verify(opened, given, node, remembered)
    report.notes[:0] = notes
    if session.json:
        session.print_json(_as_json(report))
    else:
        _show_report(report, [name for name, _ in opened])
    if not report.whole:
        raise SystemExit(1)


@audit.command()
@click.argument(
    "files", nargs=-1, type=click.Path(path_type=Path, readable=False), metavar="[FILE]..."
)
@click.option(
    "--since",
    metavar="WHEN",
    help="Only what happened since then: 30m, 2h, 7d, or a time such as 2026-11-24T10:00.",
)
@click.option("--event", "events", multiple=True, metavar="NAME", help="Only events of this name.")
@state_option
@shared
@click.pass_obj
def show(
    session: Session,
    files: Sequence[Path],
    since: str | None,
    events: Sequence[str],
    state_dir: Path | None,
) -> None:
    """What an audit log says, as it is: bzzz audit verify tells whether that is true.

    Without FILE it is the log of the node here, with all its older files. With --json it prints an
    object for each line. A line that cannot be read is named on standard error.

    \b
    Exit codes: 0 it was shown; 2 the command line is wrong; 5 a file cannot be read, or has no line
    that can.
    """
    from bzzz.trust.audit_chain import DamagedLine, read_line
    from bzzz.trust.audit_disk import read_lines

    begin = None if since is None else _moment(since)
    for event in events:
        _check_event(event)
    with ExitStack() as stack:
        if files:
            opened = open_given(files, stack)
        else:
            directory = state_dir or state_dir_of(session, status_of_node(session)[0])
            opened = open_log(directory, stack)
        others = []
        for name, file in opened:
            number = readable = 0
            for number, raw in enumerate(read_lines(file), 1):
                try:
                    line = read_line(raw.rstrip(b"\n"))
                except DamagedLine:
                    click.echo(f"{name}:{number}: this cannot be read", err=True)
                    continue
                readable += 1
                if events and line.event not in events:
                    continue
                if begin is not None and _time_of(line) < begin:
                    continue
                _show_line(session, line)
            if number and not readable:
                others.append(name)
        if others:
            raise Unreadable(f"No line of {', '.join(others)} can be read: is it an audit log?")


@audit.command()
@click.argument("name", required=False)
@state_option
@shared
@click.pass_obj
def checkpoints(session: Session, name: str | None, state_dir: Path | None) -> None:
    """What the node here keeps of other members' audit logs, or of that of NAME.

    NAME is a name, a short ID or a peer ID. What it prints with --json can be carried to another
    machine and given there to bzzz audit verify --checkpoints, also when that log's node is gone.
    """
    from bzzz.errors import BzzzError
    from bzzz.trust.audit_disk import CHECKPOINTS_NAME
    from bzzz.trust.audit_kept import read_kept

    path = (state_dir or state_dir_of(session, status_of_node(session)[0])) / CHECKPOINTS_NAME
    try:
        kept = read_kept(path)
    except OSError as error:
        raise unreadable(path, error) from None
    except BzzzError as error:
        raise Unreadable(str(error)) from None
    if name is not None:
        kept = [
            each
            for each in kept
            if name == each.node_name
            or each.checkpoint.node.startswith(name)
            or each.checkpoint.node.endswith(name)
        ]
        if not kept:
            raise Refusal(f"No checkpoint of {name} is kept here")
    if session.json:
        from msgspec import to_builtins

        session.print_json({"checkpoints": to_builtins(kept)})
        return
    from bzzz.cli.text import show as show_table
    from bzzz.cli.text import table

    rows = [
        (
            each.node_name or "?",
            each.checkpoint.node[-6:],
            each.checkpoint.seq,
            each.checkpoint.time,
            each.received,
            each.checkpoint.hash[:16],
        )
        for each in kept
    ]
    show_table(table(("name", "id", "line", "given", "received", "hash"), rows))


# -- reading and telling


def _keys(opened: Sequence[tuple[str, BinaryIO]]) -> list[str]:
    """The keys that a log names, the last ones."""
    from bzzz.trust.audit_chain import DamagedLine, read_line
    from bzzz.trust.audit_disk import read_lines

    keys: dict[str, None] = {}
    for name, file in opened:
        try:
            for raw in read_lines(file):
                try:
                    key = read_line(raw.rstrip(b"\n")).key
                except DamagedLine:
                    continue
                keys.pop(key, None)
                keys[key] = None
                if len(keys) > MAX_KEYS:
                    del keys[next(iter(keys))]
            file.seek(0)
        except OSError as error:
            raise unreadable(Path(name), error) from None
    return list(keys)


def _verify(
    opened: Sequence[tuple[str, BinaryIO]],
    kept: Sequence[Kept],
    node: str | None,
    remembered: tuple[int, str] | None,
) -> Report:
    from bzzz.trust.audit_disk import read_lines
    from bzzz.trust.audit_verify import verify as verify_lines

    def lines(name: str, file: BinaryIO) -> Iterator[bytes]:
        try:
            yield from read_lines(file)
        except OSError as error:
            raise unreadable(Path(name), error) from None

    return verify_lines(
        [(name, lines(name, file)) for name, file in opened], kept, node, remembered
    )


def _as_json(report: Report) -> dict[str, Any]:
    from msgspec import to_builtins

    answer: dict[str, Any] = {"whole": report.whole}
    answer.update(to_builtins(report))
    return answer


def _show_report(report: Report, files: Sequence[str]) -> None:
    from bzzz.cli.text import safe

    for problem in report.problems:
        click.echo(safe(f"{problem.file}:{problem.line}: {problem.message}"))
    if report.more_problems:
        click.echo(f"{report.more_problems} more problems are not listed")
    if report.lines:
        verdict = "it is whole" if report.whole else "it is NOT as the node wrote it"
        click.echo(
            safe(
                f"{', '.join(files)}: {report.lines} lines, {report.first_seq} to"
                f" {report.last_seq}, the last of {report.last_time}, signed by"
                f" {', '.join(report.keys)}: {verdict}"
            )
        )
    vouched = report.vouched
    if vouched is not None:
        vouch = "vouches" if len(vouched.by) == 1 else "vouch"
        click.echo(
            safe(
                f"{', '.join(vouched.by)} {vouch} for what is up to line {vouched.seq}, of"
                f" {vouched.time} ({vouched.file}:{vouched.line})"
            )
        )
    for note in report.notes:
        click.echo(safe(f"Note: {note}"))
    for unknown in report.unknown:
        click.echo(safe(f"Cannot be known: {unknown}"))


def _show_line(session: Session, line: Line) -> None:
    from bzzz.cli.text import as_json, safe

    if session.json:
        from msgspec import to_builtins

        click.echo(as_json(to_builtins(line), line=True))
        return
    fields = dict(line.fields)
    parts = [f"{_time_of(line).astimezone():%Y-%m-%d %H:%M:%S}", line.event]
    peer = fields.pop("peer_id", None)
    if peer:
        parts.append(f"{fields.pop('name', None) or '?'} ({str(peer)[-6:]})")
    for key, value in fields.items():
        if value not in (None, "", []):
            text = ",".join(value) if isinstance(value, list) else str(value)
            parts.append(f"{key}={json.dumps(text, ensure_ascii=False) if ' ' in text else text}")
    click.echo(safe(" ".join(parts)))


def _time_of(line: Line) -> datetime.datetime:
    try:
        return datetime.datetime.fromisoformat(line.time)
    except ValueError:  # such as a 13th month
        return datetime.datetime.fromtimestamp(0, datetime.UTC)


def _moment(text: str) -> datetime.datetime:
    """``2h``, or a time, by the clock here where it names no zone."""
    found = re.fullmatch(r"([0-9]{1,6})([smhd])", text)
    try:
        if found is not None:
            ago = datetime.timedelta(seconds=int(found[1]) * LENGTHS[found[2]])
            return datetime.datetime.now(datetime.UTC) - ago
        return datetime.datetime.fromisoformat(text).astimezone()
    except (ValueError, OverflowError):
        raise click.BadParameter(
            f"{text} is neither a length of time such as 2h nor a time such as 2026-11-24T10:00",
            param_hint="'--since'",
        ) from None


def _check_event(name: str) -> None:
    import difflib

    from bzzz.trust.audit_events import EVENTS

    if name in EVENTS:
        return
    near = difflib.get_close_matches(name, EVENTS, 1)
    hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(EVENTS)}"
    raise click.BadParameter(f"{name} is no event of the audit log; {hint}", param_hint="'--event'")
