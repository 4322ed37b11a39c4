"""Manual pages, made from the commands and the table of options: ``python -m bzzz.cli.man DIR``.

Writes ``bzzz.1``, ``bzzz.toml.5`` and ``bzzz.service.8``. They are made where Bzzz is installed, so
that they are those of the version that is. Format: :manpage:`man(7)`.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from bzzz import __version__
from bzzz.cli.main import bzzz
from bzzz.cli.reference import commands
from bzzz.config.kinds import Boolean
from bzzz.config.options import OPTIONS, Option

__all__ = ["pages"]


def _text(text: str) -> str:
    """A text for roff. reST's quotes become bold; a leading dot or quote would be a request."""
    text = text.replace("\\", "\\e").replace("-", "\\-")
    text = re.sub(r"``(.+?)``", r"\\fB\1\\fR", text)
    return "\n".join(f"\\&{line}" if line[:1] in {".", "'"} else line for line in text.split("\n"))


def _head(name: str, section: int, what: str) -> Iterator[str]:
    yield f'.TH {name.upper()} {section} "" "Bzzz {__version__}" "Bzzz"'
    yield from (".SH NAME", f"{_text(name)} \\- {_text(what)}")


def _paragraphs(text: str) -> Iterator[str]:
    # \b on a line of its own tells click to leave the paragraph as it is.
    for paragraph in inspect.cleandoc(text).split("\n\n"):
        yield ".PP"
        if paragraph.startswith("\b\n"):
            yield from (".nf", ".RS 4", _text(paragraph[2:]), ".RE", ".fi")
        else:
            yield _text(" ".join(paragraph.split()))


def _command(context: click.Context, command: click.Command) -> Iterator[str]:
    usage = " ".join(command.collect_usage_pieces(context))
    yield f".SS {_text(context.command_path)} {_text(usage)}"
    yield from _paragraphs(command.help or "")
    for parameter in command.params:
        record = parameter.get_help_record(context)
        # Arguments are told by the usage and the words above.
        if record is not None and record[1]:
            yield from (".TP", f"\\fB{_text(record[0])}\\fR", _text(record[1]))


def _bzzz() -> Iterator[str]:
    yield from _head("bzzz", 1, "ask the Bzzz node that runs on this machine")
    yield from (".SH SYNOPSIS", "\\fBbzzz\\fR [\\fIOPTIONS\\fR] \\fICOMMAND\\fR [\\fIARGS\\fR]...")
    yield ".SH DESCRIPTION"
    yield from _paragraphs(bzzz.help or "")
    yield ".SH COMMANDS"
    for context, command in commands():
        yield from _command(context, command)
    yield ".SH EXIT STATUS"
    yield from _paragraphs((bzzz.epilog or "").removeprefix("\n"))
    yield from (".SH SEE ALSO", "\\fBbzzz.toml\\fR(5), \\fBbzzz.service\\fR(8)")


def _option(option: Option) -> Iterator[str]:
    yield from (".TP", f"\\fB{option.key}\\fR", _text(option.help), ".br")
    flag = option.flag
    flag += (
        f" or --no-{flag[2:]}" if isinstance(option.kind, Boolean) else f" {option.kind.metavar}"
    )
    yield f"Flag {_text(flag)}, variable {_text(option.variable)}."
    yield f"Default: {_text(option.default_text)}."
    yield f"Changes {'by a reload' if option.live else 'at the next start'}."


def _toml() -> Iterator[str]:
    yield from _head("bzzz.toml", 5, "configuration of a Bzzz node")
    yield ".SH DESCRIPTION"
    yield from _paragraphs(
        "A TOML file, read by the node at its start, and again when it gets SIGHUP. Each key can"
        " also be given as a flag of ``twistd bzzz`` and as an environment variable; a flag wins"
        " over a variable, and a variable over the file. A list or table given in one place"
        " replaces that of another.\n\n"
        "The service reads ``/etc/bzzz/bzzz.toml``. ``bzzz config check`` tells what is wrong with"
        " a file, ``bzzz config show`` what is in effect."
    )
    yield ".SH KEYS"
    for option in OPTIONS:
        yield from _option(option)
    yield from (".SH SEE ALSO", "\\fBbzzz\\fR(1), \\fBbzzz.service\\fR(8)")


def _service() -> Iterator[str]:
    yield from _head("bzzz.service", 8, "the Bzzz node of this machine, as a systemd service")
    yield ".SH DESCRIPTION"
    yield from _paragraphs(
        "The service is used by ``systemctl status, start, stop, restart, enable, disable bzzz``."
        " ``systemctl reload bzzz`` checks the configuration and has the node read it again. Its"
        " log is in the journal: ``journalctl -u bzzz``, with ``-p err`` for errors alone. Settings"
        " of the unit are changed by ``systemctl edit bzzz``.\n\n"
        "It is stopped in order within 2 seconds if it runs no task, restarted 10 seconds after it"
        " ended for whatever reason, and killed and restarted if it is stuck for 30 seconds."
    )
    yield ".SH FILES"
    for path, what in (
        ("/etc/bzzz/bzzz.toml", "the configuration"),
        ("/etc/systemd/system/bzzz.service", "the unit"),
        ("/var/lib/bzzz", "the state: the node's key, its port, addresses of others"),
        ("/run/bzzz/control.sock", "where \\fBbzzz\\fR(1) asks; root and the service's user may"),
        ("/opt/bzzz", "the program; \\fIcurrent\\fR is the version that runs"),
        (
            "/opt/bzzz/uninstall-service.sh",
            "removes the service; with \\fB\\-\\-purge\\fR all of it",
        ),
    ):
        yield from (".TP", f"\\fI{path}\\fR", what)
    yield from (
        ".SH SEE ALSO",
        "\\fBbzzz\\fR(1), \\fBbzzz.toml\\fR(5), \\fBsystemctl\\fR(1), \\fBjournalctl\\fR(1)",
    )


def pages() -> dict[str, str]:
    """Each page's text by the name of its file."""
    made = {"bzzz.1": _bzzz(), "bzzz.toml.5": _toml(), "bzzz.service.8": _service()}
    return {name: "\n".join(lines) + "\n" for name, lines in made.items()}


def main() -> None:
    """See the module's docstring."""
    directory = Path(sys.argv[1])
    for name, text in pages().items():
        (directory / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
