"""The reference of the ``bzzz`` command as reST, from the command itself."""

from __future__ import annotations

import inspect
from collections.abc import Iterator

import click

from bzzz.cli.main import bzzz

__all__ = ["commands", "reference"]


def commands() -> Iterator[tuple[click.Context, click.Command]]:
    """Every command that does something, each with the context that knows its full name.

    A group that does something by itself comes before its commands.
    """
    yield from _commands(bzzz, click.Context(bzzz, info_name="bzzz"))


def _commands(
    command: click.Command, context: click.Context
) -> Iterator[tuple[click.Context, click.Command]]:
    if not isinstance(command, click.Group) or command.invoke_without_command:
        yield context, command
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            if inner is not None:
                yield from _commands(inner, click.Context(inner, parent=context, info_name=name))


def _section(context: click.Context, command: click.Command) -> Iterator[str]:
    title = f"``{context.command_path}``"
    yield from (title, "-" * len(title), "")
    usage = " ".join(command.collect_usage_pieces(context))
    yield from (".. code-block:: text", "", f"   {context.command_path} {usage}", "")
    # \b on a line of its own tells click to leave the paragraph as it is: a literal block here.
    for paragraph in inspect.cleandoc(command.help or "").split("\n\n"):
        if paragraph.startswith("\b\n"):
            yield from (".. code-block:: text", "")
            yield from (f"   {line}" for line in paragraph[2:].splitlines())
        else:
            yield paragraph
        yield ""
    for parameter in command.params:
        record = parameter.get_help_record(context)
        # Arguments are told by the usage and the words above.
        if record is not None and record[1]:
            yield from (f"``{record[0]}``", f"   {record[1]}", "")


def reference() -> str:
    """A section for each command."""
    return "\n".join(line for context, command in commands() for line in _section(context, command))
