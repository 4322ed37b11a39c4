"""What the daemon and the shim of a unit say to each other (``docs/tasks.rst``, "The systemd
executor").

Enters: bytes of a socket. Leaves: messages. They are those of the daemon and its keeper
(:mod:`~bzzz.tasks.executors.keeper_messages`), but for the first, by which a shim says for which
run it is.
"""

from __future__ import annotations

from typing import Final

import msgspec
from msgspec import Struct

from bzzz.errors import RemoteProtocolError
from bzzz.tasks.executors.keeper_messages import Ended, Started, decode_report

__all__ = ["MAX_CGROUP", "Hello", "UnitReport", "decode_unit_report", "encode_hello"]

# Characters of the path of a control group. Each part is a unit's name, of at most 255.
MAX_CGROUP: Final = 4096


class Hello(Struct, frozen=True, array_like=True, tag="hello"):
    """A shim wants to know what to run.

    :ivar key: of its run.
    :ivar cgroup: the path of its control group of version 2, empty where there is none.
    """

    key: str
    cgroup: str


UnitReport = Hello | Started | Ended

_reports = msgspec.msgpack.Decoder(Hello | Started | Ended)


def encode_hello(hello: Hello) -> bytes:
    """Encode it, without its length."""
    return msgspec.msgpack.encode(hello)


def decode_unit_report(data: bytes) -> UnitReport:
    """Read what a shim says.

    :raises RemoteProtocolError: it is not as it has to be.
    """
    try:
        report: UnitReport = _reports.decode(data)
    except (msgspec.MsgspecError, RecursionError, UnicodeError) as error:
        raise RemoteProtocolError(f"a report of a shim cannot be read: {error}") from None
    if isinstance(report, Ended):
        decode_report(data)
    elif isinstance(report, Hello) and len(report.cgroup) > MAX_CGROUP:
        raise RemoteProtocolError("the control group that a shim names is too long")
    return report
