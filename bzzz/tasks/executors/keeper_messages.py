"""What the daemon and its keeper say to each other through pipes (``docs/tasks.rst``, "Who kills").

Enters: bytes of a pipe. Leaves: messages, each in MessagePack after its length of four bytes. The
keeper imports this module, so it has no Twisted, nor what imports it: the fields of a
:class:`~bzzz.tasks.executors.interfaces.Run` are written down here a second time.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final, Generic, Literal, TypeVar

import msgspec
from msgspec import Struct

from bzzz.errors import BzzzError, RemoteProtocolError

__all__ = [
    "MAX_MESSAGE",
    "MAX_REASON",
    "Ended",
    "EndingName",
    "Extend",
    "Frames",
    "Order",
    "Ready",
    "Report",
    "Shutdown",
    "Start",
    "Started",
    "Stop",
    "TooLong",
    "clip",
    "decode_order",
    "decode_report",
    "encode",
    "frame",
]

# Bytes of a message. A command line with its environment; Linux takes no more than 2 MiB of them,
# and a submission has far less.
MAX_MESSAGE: Final = 1 << 20

# Characters of a reason: it is for people, and names a path or two.
MAX_REASON: Final = 1000

LENGTH_BYTES: Final = 4

# The values of interfaces.Ending.
EndingName = Literal["exited", "timed_out", "stopped", "lease_ended", "not_started", "over_limit"]


class Start(Struct, frozen=True, array_like=True, kw_only=True, tag="start"):
    """Run a command; see :class:`~bzzz.tasks.executors.interfaces.Run`.

    :ivar until: when its lease ends, in seconds of ``CLOCK_BOOTTIME``.
    :ivar grace: seconds from SIGTERM to SIGKILL when its time is over.
    """

    key: str
    argv: tuple[str, ...]
    env: dict[str, str]
    directory: str
    stdout: str
    stderr: str
    max_output: int
    timeout: float
    memory: int
    cpus: float
    profile: str
    until: float
    grace: float


class Extend(Struct, frozen=True, array_like=True, tag="extend"):
    """The lease of a run now lasts until then."""

    key: str
    until: float


class Stop(Struct, frozen=True, array_like=True, tag="stop"):
    """End a run: SIGTERM, and SIGKILL after ``grace`` seconds."""

    key: str
    grace: float


class Shutdown(Struct, frozen=True, array_like=True, tag="shutdown"):
    """Kill all runs, and end when nothing of them is left."""


class Ready(Struct, frozen=True, array_like=True, tag="ready"):
    """The keeper takes orders. It is the first thing that it says."""


class Started(Struct, frozen=True, array_like=True, tag="started"):
    """The command of a run is being executed."""

    key: str
    pid: int


class Ended(Struct, frozen=True, array_like=True, tag="ended"):
    """Nothing is left of a run; see :class:`~bzzz.tasks.executors.interfaces.Over`."""

    key: str
    ending: EndingName
    exit_status: int | None = None
    reason: str = ""


Order = Start | Extend | Stop | Shutdown
Report = Ready | Started | Ended

Message = TypeVar("Message")

_orders = msgspec.msgpack.Decoder(Order)
_reports = msgspec.msgpack.Decoder(Report)

# What msgspec raises for bytes that are wrong, or nested too deeply.
_UNREADABLE = (msgspec.MsgspecError, RecursionError, UnicodeError)


class TooLong(BzzzError):
    """A message that was to be sent cannot be: it is too long, or is no text."""


def encode(message: Order | Report) -> bytes:
    """Encode a message, without its length.

    :raises TooLong: it is longer than :data:`MAX_MESSAGE`, or has what UTF-8 cannot say.
    """
    try:
        data = msgspec.msgpack.encode(message)
    except (UnicodeError, OverflowError) as error:
        raise TooLong(f"it cannot be encoded: {error}") from None
    if len(data) > MAX_MESSAGE:
        raise TooLong(f"it has {len(data)} bytes, and may have {MAX_MESSAGE}")
    return data


def frame(data: bytes) -> bytes:
    """An encoded message as it goes through the pipe."""
    return len(data).to_bytes(LENGTH_BYTES, "big") + data


def clip(reason: str) -> str:
    """A reason that is not longer than it may be."""
    return reason if len(reason) <= MAX_REASON else reason[: MAX_REASON - 3] + "..."


def decode_order(data: bytes) -> Order:
    """Read what the daemon says.

    :raises RemoteProtocolError: it is not as it has to be.
    """
    try:
        order: Order = _orders.decode(data)
    except _UNREADABLE as error:
        raise RemoteProtocolError(f"an order to the keeper cannot be read: {error}") from None
    if isinstance(order, Start):
        numbers = (order.until, order.grace, order.timeout, order.memory, order.max_output)
        if not (all(map(math.isfinite, numbers)) and min(numbers[1:]) >= 0):
            raise RemoteProtocolError("a run has a time or a size that cannot be")
    elif isinstance(order, Extend):
        if not math.isfinite(order.until):
            raise RemoteProtocolError("a lease ends at no time")
    elif isinstance(order, Stop) and not (math.isfinite(order.grace) and order.grace >= 0):
        raise RemoteProtocolError("a run is to be stopped after a time that cannot be")
    return order


def decode_report(data: bytes) -> Report:
    """Read what the keeper says.

    :raises RemoteProtocolError: it is not as it has to be.
    """
    try:
        report: Report = _reports.decode(data)
    except _UNREADABLE as error:
        raise RemoteProtocolError(f"a report of the keeper cannot be read: {error}") from None
    if isinstance(report, Ended):
        if len(report.reason) > MAX_REASON:
            raise RemoteProtocolError("a reason of the keeper is too long")
        if report.exit_status is not None and not 0 <= report.exit_status <= 255:
            raise RemoteProtocolError("the keeper tells an exit status that cannot be")
    return report


class Frames(Generic[Message]):
    """Cuts what comes through a pipe into messages.

    :param decode: reads one.
    """

    def __init__(self, decode: Callable[[bytes], Message]) -> None:
        self._decode = decode
        self._received = bytearray()

    def receive(self, data: bytes) -> list[Message]:
        """Take bytes; returns the messages that are complete.

        :raises RemoteProtocolError: one is too long or cannot be read; nothing is read after it.
        """
        self._received += data
        messages = []
        at = 0
        while len(self._received) - at >= LENGTH_BYTES:
            start = at + LENGTH_BYTES
            end = start + int.from_bytes(self._received[at:start], "big")
            if end - start > MAX_MESSAGE:
                raise RemoteProtocolError("a message between daemon and keeper is too long")
            if len(self._received) < end:
                break
            messages.append(self._decode(bytes(self._received[start:end])))
            at = end
        del self._received[:at]
        return messages
