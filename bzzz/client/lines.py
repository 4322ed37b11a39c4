"""Answers that are lines of JSON, as :mod:`bzzz.web.task_routes` has them.

Enters: the parts of a body. Leaves: lines, typed; what a task printed, and how it ended.
"""

from __future__ import annotations

from typing import Final

import msgspec

from bzzz.client.schema import Output, Result, Stream, TaskInfo
from bzzz.errors import RemoteProtocolError

__all__ = ["MAX_OUTPUT", "ErrorInfo", "Gathering", "Line", "LineSplitter", "output_of"]

# Bytes of one line. Output comes in parts of 32 KiB, and a task has 128 KiB of command at most,
# which JSON makes six times as long at worst.
MAX_LINE: Final = 1 << 20

# Bytes of each of standard output and error that a Result has, unless more are asked for.
MAX_OUTPUT: Final = 16 << 20


class ErrorInfo(msgspec.Struct, frozen=True):
    """Why something was not done."""

    code: str
    message: str


class Line(msgspec.Struct, frozen=True):
    """One line.

    :ivar event: what it tells; those that this version does not know are to be ignored.
    :ivar task: an ID, and of ``ended`` the task.
    :ivar place: of many tasks, which one.
    """

    event: str = ""
    task: str | TaskInfo = ""
    replicas: tuple[str, ...] = ()
    why: str = ""
    worker: str = ""
    worker_name: str = ""
    token: int = 0
    data: bytes = b""
    place: int = 0
    code: str = ""
    message: str = ""
    error: ErrorInfo | None = None


_lines: Final = msgspec.json.Decoder(Line)


class LineSplitter:
    """Makes lines of parts of them."""

    def __init__(self) -> None:
        self._rest = b""

    def receive_data(self, data: bytes) -> list[Line]:
        """The lines that end in these bytes.

        :raises RemoteProtocolError: one is too long, or is not as a node has them.
        """
        *whole, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > MAX_LINE or any(len(line) > MAX_LINE for line in whole):
            raise RemoteProtocolError(f"a line has more than {MAX_LINE} bytes", "line_length")
        return [_read(line) for line in whole]

    def receive_end(self) -> None:
        """There is no more.

        :raises RemoteProtocolError: the last line has no end.
        """
        if self._rest:
            raise RemoteProtocolError("the last line has no end", "line_end")


def _read(line: bytes) -> Line:
    try:
        return _lines.decode(line)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise RemoteProtocolError(f"a line cannot be read: {error}", "line") from None


def output_of(line: Line) -> Output | None:
    """What the task printed, if the line tells that."""
    if line.event == "stdout":
        return "stdout", line.data
    return ("stderr", line.data) if line.event == "stderr" else None


class Gathering:
    """Gathers the output of a task's current attempt, until the task has ended.

    :param max_output: bytes of each; the rest is counted out, and not kept.
    """

    def __init__(self, max_output: int = MAX_OUTPUT) -> None:
        self._max_output = max_output
        self._begin()
        self._token = 0

    def receive(self, line: Line) -> Result | None:
        """Take a line; the result, if it is the end."""
        output = output_of(line)
        if output is not None:
            self._keep(*output)
        elif line.event == "running" and line.token != self._token:
            # What an attempt before it printed is no part of this one's.
            self._token = line.token
            self._begin()
        elif line.event == "ended" and isinstance(line.task, TaskInfo):
            return self._result(line.task)
        return None

    def _begin(self) -> None:
        self._output: dict[Stream, bytearray] = {"stdout": bytearray(), "stderr": bytearray()}
        self._truncated = False

    def _keep(self, stream: Stream, data: bytes) -> None:
        kept = self._output[stream]
        room = self._max_output - len(kept)
        kept += data[:room]
        self._truncated = self._truncated or len(data) > room

    def _result(self, task: TaskInfo) -> Result:
        return Result(
            exit_status=task.exit_status,
            stdout=bytes(self._output["stdout"]),
            stderr=bytes(self._output["stderr"]),
            task=task,
            truncated=self._truncated,
        )
