"""Where audit logs are, and what is known of them beside what they say.

Enters: files and directories that somebody named, or nothing; the node here, if one runs. Leaves:
open files, checkpoints, or the end of the command with what is in the way.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO
from urllib.parse import quote

from bzzz.cli.client import NodeError, NoNode
from bzzz.cli.session import SYSTEM_SOCKET, Refusal, Session

if TYPE_CHECKING:
    from bzzz.trust.audit_chain import Kept

__all__ = [
    "Unreadable",
    "asked_of_members",
    "checkpoints_in",
    "node_of",
    "open_given",
    "open_log",
    "remembered_by",
    "state_dir_of",
    "status_of_node",
    "unreadable",
]

# Where the service has its configuration and its state.
SYSTEM_CONFIG = Path("/etc/bzzz/bzzz.toml")
SYSTEM_STATE = "/var/lib/bzzz"

# Seconds for the node's answer: it waits for those of others (bzzz.trust.audit_asking).
TIMEOUT = 15.0

# Bytes of the largest file of checkpoints that is read: all that a node keeps of all others.
MAX_CHECKPOINTS = 64 << 20


class Unreadable(Refusal):
    """A file cannot be read, so nothing is known of the log."""

    exit_code = 5


def status_of_node(session: Session) -> tuple[dict[str, Any] | None, list[str]]:
    """What the node here says of itself; without it, what that means for a check."""
    try:
        status = session.client().get("status")
    except (NoNode, NodeError) as error:
        return None, [
            f"no other member was asked for checkpoints: {str(error).split('. Start')[0]}"
        ]
    return (status, []) if isinstance(status, dict) else (None, [])


def state_dir_of(session: Session, status: dict[str, Any] | None) -> Path:
    """The state directory of the node that runs here, else of one that would."""
    from bzzz.config import load
    from bzzz.errors import ConfigError

    if status is not None and isinstance(status.get("state_dir"), str):
        return Path(status["state_dir"])
    environ: dict[str, str] = dict(os.environ)
    file = None
    if session.socket() == SYSTEM_SOCKET:
        environ, file = {"STATE_DIRECTORY": SYSTEM_STATE}, str(SYSTEM_CONFIG)
    try:
        return load({}, environ, file).state_dir
    except ConfigError as error:
        if file is not None:
            return Path(SYSTEM_STATE)
        raise Refusal(str(error)) from None


def node_of(directory: Path, status: dict[str, Any] | None) -> str | None:
    """The peer ID of the node whose state directory it is, if that can be known."""
    from bzzz.errors import IdentityError
    from bzzz.state import read_key

    if status is not None and isinstance(status.get("peer_id"), str):
        return str(status["peer_id"])
    try:
        return str(read_key(directory / "identity.key").peer_id)
    except (OSError, IdentityError):
        return None


def remembered_by(directory: Path) -> tuple[int, str] | None:
    """The last line that the node remembers to have written; read before the log, which grows."""
    from bzzz.trust.audit_disk import LOG_NAME
    from bzzz.trust.audit_file import HEAD_SUFFIX, read_head

    head = read_head((directory / LOG_NAME).with_suffix(HEAD_SUFFIX))
    return None if head is None else (head.seq, head.hash)


def open_log(directory: Path, stack: ExitStack) -> list[tuple[str, BinaryIO]]:
    from bzzz.trust.audit_disk import LOG_NAME, open_files

    path = directory / LOG_NAME
    try:
        opened = open_files(path)
        if not opened:
            path.lstat()
    except FileNotFoundError:
        raise Unreadable(
            f"There is no audit log in {directory}: no node has run with it, or the log was"
            " removed. Another node's is read with: bzzz audit verify FILE"
        ) from None
    except OSError as error:
        raise unreadable(path, error) from None
    return [(str(each), stack.enter_context(file)) for each, file in opened]


def open_given(files: Sequence[Path], stack: ExitStack) -> list[tuple[str, BinaryIO]]:
    from bzzz.trust.audit_disk import open_for_reading

    opened = []
    for path in files:
        try:
            opened.append((str(path), stack.enter_context(open_for_reading(path))))
        except OSError as error:
            raise unreadable(path, error) from None
    return opened


def unreadable(path: Path, error: OSError) -> Unreadable:
    if isinstance(error, PermissionError):
        return Unreadable(
            f"{error.filename or path} belongs to another user; read it as that user or as root,"
            " such as with sudo"
        )
    return Unreadable(f"{error.filename or path} cannot be read: {error.strerror or error}")


def checkpoints_in(path: Path) -> list[Kept]:
    from msgspec import MsgspecError, json

    from bzzz.trust.audit_chain import Kept
    from bzzz.trust.audit_disk import open_for_reading

    try:
        with open_for_reading(path) as file:
            content = file.read(MAX_CHECKPOINTS)
        return json.decode(content, type=dict[str, list[Kept]])["checkpoints"]
    except OSError as error:
        raise unreadable(path, error) from None
    except (MsgspecError, RecursionError, UnicodeError, KeyError):
        raise Unreadable(f"{path} is not what bzzz audit checkpoints --json prints") from None


def asked_of_members(session: Session, keys: Sequence[str]) -> tuple[list[Kept], list[str]]:
    """What the node here and the members linked to it keep of a log, and what to say of that."""
    from msgspec import MsgspecError, convert

    from bzzz.trust.audit_chain import Kept

    kept: list[Kept] = []
    for key in keys:
        try:
            answer = session.client().get(f"audit/checkpoints?node={quote(key, safe='')}", TIMEOUT)
            kept += convert(answer["checkpoints"], list[Kept])
            silent = answer["asked"] - answer["answered"]
        except (NoNode, NodeError) as error:
            return kept, [f"no other member was asked for checkpoints: {error}"]
        except (MsgspecError, KeyError, TypeError):
            return kept, ["the node here answered with something else than checkpoints"]
    if not keys:
        return kept, []
    if not answer["asked"]:
        return kept, ["no other member is linked that could be asked for checkpoints"]
    return kept, [f"{silent} of {answer['asked']} members did not answer"] if silent else []
