"""What every command has: ``--json``, ``--runtime-dir``, the node to ask, and the exit codes.

==== =====================================================================================
0    it is so
1    the answer is negative: the configuration is wrong, the doctor found an error
2    the command line is wrong
3    no node is running here, or none that answers
4    the node answered with an error
==== =====================================================================================
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeVar

import click

from bzzz.cli.client import TIMEOUT, NodeClient, NodeError, NoNode

__all__ = ["NobodyAnswers", "NodeRefused", "Refusal", "Session", "shared"]

# Where the service has its socket; asked when the user has no node of their own.
SYSTEM_SOCKET = Path("/run/bzzz/control.sock")
SYSTEM_UNIT = Path("/etc/systemd/system/bzzz.service")

C = TypeVar("C", bound=Callable[..., Any])


class Refusal(click.ClickException):
    """Ends the command with a line on stderr: the answer is negative."""

    exit_code = 1

    def show(self, file: IO[Any] | None = None) -> None:
        from bzzz.cli.text import safe

        click.echo(safe(self.format_message()), file=file, err=file is None)


class NobodyAnswers(Refusal):
    """No node is running here, or none that answers."""

    exit_code = 3


class NodeRefused(Refusal):
    """The node answered with an error."""

    exit_code = 4


@dataclass
class Session:
    """One run of the command.

    :ivar runtime_dir: from ``--runtime-dir``.
    :ivar json: whether ``--json`` was given.
    """

    runtime_dir: Path | None = None
    json: bool = False

    def socket(self) -> Path:
        """The control socket to ask: that of ``--runtime-dir``, the user's own, the system's."""
        if self.runtime_dir is not None:
            return self.runtime_dir.absolute() / "control.sock"
        own = _configured_runtime_dir() / "control.sock"
        there = SYSTEM_SOCKET.exists() or SYSTEM_UNIT.exists()
        return SYSTEM_SOCKET if not own.exists() and there else own

    def client(self) -> NodeClient:
        """Asks the node."""
        socket = self.socket()
        if socket == SYSTEM_SOCKET and SYSTEM_UNIT.exists():
            return NodeClient(socket, "sudo systemctl start bzzz")
        options = "" if self.runtime_dir is None else f" --runtime-dir {self.runtime_dir}"
        return NodeClient(socket, f"twistd -n bzzz{options}")

    def ask(self, what: str, timeout: float = TIMEOUT) -> Any:
        """The node's answer, or the end of the command."""
        try:
            return self.client().get(what, timeout)
        except NoNode as error:
            raise NobodyAnswers(str(error)) from None
        except NodeError as error:
            raise NodeRefused(f"The node answered: {error}") from None

    def lines(self, what: str, *, follow: bool) -> Iterator[str]:
        """The node's answer by lines, or the end of the command."""
        try:
            yield from self.client().lines(what, follow)
        except NoNode as error:
            raise NobodyAnswers(str(error)) from None
        except NodeError as error:
            raise NodeRefused(f"The node answered: {error}") from None

    def print_json(self, answer: object) -> None:
        """An answer for a program."""
        from bzzz.cli.text import as_json

        click.echo(as_json(answer))


def _configured_runtime_dir() -> Path:
    from bzzz.config import load, places
    from bzzz.errors import ConfigError

    try:
        return load({}, os.environ).runtime_dir
    except ConfigError:
        # What is wrong with the configuration is for the node to say, and for `bzzz config`.
        return places.runtime_dir(os.environ)


def _set_runtime_dir(ctx: click.Context, _: click.Parameter, value: Path | None) -> None:
    if value is not None:
        ctx.ensure_object(Session).runtime_dir = value


def _set_json(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    if value:
        ctx.ensure_object(Session).json = True


def shared(command: C) -> C:
    """The options that every command takes."""
    command = click.option(
        "--runtime-dir",
        # Another user's may not be readable, which the answer will tell better.
        type=click.Path(path_type=Path, readable=False),
        metavar="DIR",
        expose_value=False,
        callback=_set_runtime_dir,
        help="Runtime directory of the node to ask.",
    )(command)
    return click.option(
        "--json",
        is_flag=True,
        expose_value=False,
        callback=_set_json,
        help="Print JSON, with the fields that the manual promises.",
    )(command)
