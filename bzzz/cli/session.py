"""What every command has: ``--json``, ``--runtime-dir``, the node to ask, and the exit codes.

==== =====================================================================================
0    it is so
1    the answer is negative: the configuration is wrong, the doctor found an error
2    the command line is wrong
3    no node is running here, or none that answers
4    the node answered with an error
5    a file cannot be read (``bzzz audit``)
==== =====================================================================================
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeVar

import click

from bzzz.cli.client import TIMEOUT, NodeClient, NodeError, NoNode, NotAllowed

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
    """No node is running here, or none that answers.

    :ivar lasting: whether waiting for one will not help.
    """

    exit_code = 3
    lasting = False


class NodeRefused(Refusal):
    """The node answered with an error.

    :ivar code: its stable name.
    """

    exit_code = 4
    code = ""


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
        configured, chosen = _configured_runtime_dir()
        own = configured / "control.sock"
        if chosen or (_is_there(own) and _is_ours(configured)):
            return own
        return SYSTEM_SOCKET if _is_there(SYSTEM_SOCKET) or _is_there(SYSTEM_UNIT) else own

    def client(self) -> NodeClient:
        """Asks the node."""
        socket = self.socket()
        if socket == SYSTEM_SOCKET and _is_there(SYSTEM_UNIT):
            # Systemd may be starting it again and again.
            start = "sudo systemctl start bzzz; if it does not stay: journalctl -u bzzz -n 20"
            return NodeClient(socket, start, _join_group)
        options = "" if self.runtime_dir is None else f" --runtime-dir {self.runtime_dir}"
        return NodeClient(socket, f"twistd -n bzzz{options}")

    def ask(self, what: str, timeout: float = TIMEOUT) -> Any:
        """The node's answer, or the end of the command."""
        with _ends_the_command():
            return self.client().get(what, timeout)

    def lines(self, what: str, *, follow: bool) -> Iterator[str]:
        """The node's answer by lines, or the end of the command."""
        with _ends_the_command():
            yield from self.client().lines(what, follow)

    def post(self, what: str, body: object = None, timeout: float = TIMEOUT) -> Any:
        """What the node answers when it has done it, or the end of the command."""
        with _ends_the_command():
            return self.client().post(what, body, timeout)

    def delete(self, what: str, timeout: float = TIMEOUT) -> Any:
        """What the node answers when it has removed it, or the end of the command."""
        with _ends_the_command():
            return self.client().delete(what, timeout)

    def stream(self, what: str, body: object = None) -> Iterator[Any]:
        """What the node says while it does it, or the end of the command."""
        with _ends_the_command():
            yield from self.client().stream(what, body)

    def print_json(self, answer: object) -> None:
        """An answer for a program."""
        from bzzz.cli.text import as_json

        click.echo(as_json(answer))


@contextmanager
def _ends_the_command() -> Iterator[None]:
    try:
        yield
    except NoNode as error:
        nobody = NobodyAnswers(str(error))
        nobody.lasting = isinstance(error, NotAllowed)
        raise nobody from None
    except NodeError as error:
        refused = NodeRefused(f"The node answered: {error}")
        refused.code = error.code
        raise refused from None


def _configured_runtime_dir() -> tuple[Path, bool]:
    """The user's own runtime directory, and whether somebody chose it."""
    from bzzz.config import load, places
    from bzzz.errors import ConfigError

    try:
        config = load({}, os.environ)
    except ConfigError:
        # What is wrong with the configuration is for the node to say, and for `bzzz config`.
        return places.runtime_dir(os.environ), False
    return config.runtime_dir, "runtime_dir" in config.sources


def _is_there(path: Path) -> bool:
    try:
        path.stat()
    except PermissionError:
        # The service's directory is closed to others: asking will say whom to ask as.
        return True
    except OSError:
        return False
    return True


def _join_group() -> str | None:
    """What to do where the service lets in a group."""
    import grp

    try:
        status = SYSTEM_SOCKET.parent.stat()
        group = grp.getgrgid(status.st_gid).gr_name
    except (OSError, KeyError):
        return None
    if stat.S_IMODE(status.st_mode) & 0o070 != 0o050:
        return None
    return f"become one of its group: sudo usermod -aG {group} USER, and log in again"


def _is_ours(directory: Path) -> bool:
    """Whether this user alone could have put a socket there: in /tmp anybody can be first."""
    try:
        status = directory.lstat()
    except OSError:
        return False
    ours = stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid()
    return ours and not status.st_mode & 0o022


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
