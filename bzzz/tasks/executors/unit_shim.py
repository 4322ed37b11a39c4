"""The shim of a unit: its main process, between systemd and a command (``docs/tasks.rst``, "The
systemd executor").

    python -m bzzz.tasks.executors.unit_shim KEY

Enters: through standard input, a socket, what to run and for how long, and the files of its output.
Leaves: the command, its output in these, how it ended through the socket; to systemd, each time
that the lease was extended, until when this process is to have said so again. Spec:
:manpage:`sd_notify(3)`, ``WATCHDOG=1`` and ``WATCHDOG_USEC=``; :manpage:`unix(7)`, SCM_RIGHTS.

It differs from the shims of a keeper in that it is alone, with one run: what is left when it ends
is killed by systemd.
"""

from __future__ import annotations

import os
import resource
import signal
import socket
import sys
import traceback
from typing import Final

from msgspec.structs import replace

from bzzz.errors import RemoteProtocolError
from bzzz.tasks.executors.keeper_exec import Refused
from bzzz.tasks.executors.keeper_kernel import boottime, hide_from_debuggers
from bzzz.tasks.executors.keeper_messages import (
    Ended,
    Extend,
    Frames,
    Order,
    Report,
    Start,
    Stop,
    decode_order,
    encode,
    frame,
)
from bzzz.tasks.executors.keeper_runs import LATE
from bzzz.tasks.executors.keeper_shim import EXTEND, STOP, Shim
from bzzz.tasks.executors.unit_messages import Hello, encode_hello

__all__ = ["STDERR", "STDOUT", "UnitShim", "live", "main", "own_cgroup"]

# What the run's files of output are called in what this process is told: they come with it, open,
# in this order. In the sandbox they cannot be seen.
STDOUT: Final = "stdout"
STDERR: Final = "stderr"
OUTPUTS: Final = (STDOUT, STDERR)

READ_SIZE: Final = 1 << 16

CGROUPS: Final = "/sys/fs/cgroup"


def own_cgroup(proc: str = "/proc") -> str:
    """The path of this process's control group of version 2; empty where there is none."""
    try:
        with open(f"{proc}/self/cgroup", encoding="utf-8", errors="surrogateescape") as file:
            lines = file.read().splitlines()
    except OSError:
        return ""
    return next((line[3:] for line in lines if line.startswith("0::/")), "")


class UnitShim(Shim):
    """A shim that systemd has started.

    :param control: a stream to the daemon.
    :param notify: where systemd is told of this process; empty where it does not want to hear.
    :param cgroup: the path of this process's control group.
    """

    GONE = "the node is gone"

    def __init__(self, control: socket.socket, notify: str, cgroup: str) -> None:
        super().__init__(control)
        self._files: list[int] = []
        self._cgroup = cgroup
        self._frames: Frames[Order] = Frames(decode_order)
        self._orders: list[Order] = []
        self._notify: socket.socket | None = None
        self._fed = False
        if notify:
            self._notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
            self._notify.setblocking(False)
            self._address = "\0" + notify[1:] if notify.startswith("@") else notify

    def live_for(self, key: str) -> None:
        """Ask what to run, and run it; without an answer, do nothing."""
        try:
            self.control.sendall(frame(encode_hello(Hello(key, self._cgroup))))
            while not self._orders:
                self._receive()
        except (EOFError, OSError):
            return
        first, *others = self._orders
        self._orders = []
        if not isinstance(first, Start) or len(self._files) != len(OUTPUTS):
            return
        for order in others:
            if isinstance(order, Extend):
                first = replace(first, until=order.until)
            elif isinstance(order, Stop):
                self.tell(Ended(first.key, "stopped", None, "it was stopped before its start"))
                return
        self.do(first)

    def tell(self, report: Report) -> None:
        """Say something to the daemon."""
        try:
            self.control.sendall(frame(encode(report)))
        except OSError:
            pass  # the daemon is gone, and nobody is left to hear it

    def hear(self) -> list[tuple[bytes, float]]:
        """See :class:`Shim`."""
        self._receive()
        orders, self._orders = self._orders, []
        heard = []
        for order in orders:
            if isinstance(order, Extend):
                heard.append((EXTEND, order.until))
            elif isinstance(order, Stop):
                heard.append((STOP, order.grace))
        return heard

    def open_output(self, path: str) -> int:
        """See :class:`Shim`."""
        return os.dup(self._files[OUTPUTS.index(path)])

    def lease_lasts(self, until: float) -> None:
        """Have systemd kill all of the unit a moment after the lease, unless it is told again."""
        if self._notify is None:
            return
        left = max(0.0, until - boottime()) + LATE
        said = f"WATCHDOG=1\nWATCHDOG_USEC={max(1, int(left * 1e6))}"
        try:
            self._notify.sendto(said.encode(), self._address)
        except OSError as error:
            # Where it does not hear of an extension the lease ends earlier, which is safe.
            if not self._fed:
                reason = error.strerror or str(error)
                raise Refused(
                    None, f"systemd cannot be told how long the lease lasts: {reason}"
                ) from None
        self._fed = True

    def watches_memory(self, limit: int) -> bool:
        """See :class:`Shim`. Not where the kernel holds the control group to a limit."""
        try:
            with open(f"{CGROUPS}{self._cgroup}/memory.max", encoding="ascii") as file:
                kept = file.read().strip()
        except OSError:
            return limit > 0
        return limit > 0 and not kept.isdecimal()

    def _receive(self) -> None:
        """Wait for bytes.

        :raises EOFError: the daemon is gone, or cannot be understood.
        """
        try:
            data, files, _, _ = socket.recv_fds(
                self.control, READ_SIZE, len(OUTPUTS), socket.MSG_CMSG_CLOEXEC
            )
        except ConnectionError:
            raise EOFError from None
        self._files += files
        if not data:
            raise EOFError
        try:
            self._orders += self._frames.receive(data)
        except RemoteProtocolError:
            raise EOFError from None


def main() -> None:
    """Be the shim of the run whose key is the first argument."""
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    # systemd kills, and does not ask. Not SIG_IGN, which commands would inherit.
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGPIPE", "SIGXFSZ"):
        signal.signal(signal.Signals[name], lambda *_: None)
    # Or the command could take this process's place: it has the same user.
    hide_from_debuggers()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.umask(0o077)
    control = socket.socket(fileno=os.dup(0))
    nothing = os.open(os.devnull, os.O_RDWR)
    # Standard error leads to the journal.
    for standard in (0, 1):
        os.dup2(nothing, standard)
    os.close(nothing)
    shim = UnitShim(control, os.environ.get("NOTIFY_SOCKET", ""), own_cgroup())
    try:
        live(shim, sys.argv[1])
    finally:
        # What is left is killed by systemd; the end of the interpreter has nothing to add.
        os._exit(0)


def live(shim: UnitShim, key: str) -> None:
    """Have a shim run what it is for. A flaw of it is told to the daemon, and to the journal."""
    try:
        shim.live_for(key)
    except BaseException as error:  # noqa: BLE001 - there is nobody above who would hear of it
        traceback.print_exc()
        shim.tell(Ended(key, "stopped", None, f"its shim failed: {error!r:.500}"))


if __name__ == "__main__":
    main()
