"""What goes wrong when a program asks a node."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bzzz.errors import BzzzError

if TYPE_CHECKING:
    from bzzz.client.schema import Result

__all__ = ["ClientError", "NoNode", "NotAllowed", "Refused", "TaskFailed"]


class ClientError(BzzzError):
    """The base of all errors of :mod:`bzzz.client`.

    :ivar task: ID of the task that it is about, "" where there is none. One that was submitted may
        go on: ``client.task(error.task)``, on this node or another member's.
    """

    task: str = ""


class NoNode(ClientError):
    """No node can be asked, or it went before it had answered; says why.

    :ivar mend: the command that starts one, where that is the mend.
    """

    def __init__(self, message: str, mend: str | None = None) -> None:
        super().__init__(message)
        self.mend = mend


class NotAllowed(NoNode):
    """There may be a node, but this user may not ask it."""


class Refused(ClientError):
    """The node answered with an error.

    :ivar code: its stable name, such as ``unplaceable``; docs/client.rst has them.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class TaskFailed(ClientError):
    """A task has ended otherwise than with exit status 0.

    :ivar result: how.
    """

    def __init__(self, message: str, result: Result) -> None:
        super().__init__(message)
        self.result = result
        self.task = result.task.id
