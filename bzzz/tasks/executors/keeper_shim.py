"""A shim: the process between the keeper and a command (``keeper.py`` says why there is one).

Enters: through a socket, runs, one after the other, and what the keeper is told about them. Leaves:
the command with its limits, its output in files, and through the socket what the daemon is to hear.
A run is over when wait(2) says that nothing of it is left. When the keeper is gone, the shim kills
its run and ends.
"""

from __future__ import annotations

import os
import selectors
import signal
import socket
import struct
from collections.abc import Callable
from functools import partial
from typing import Final

from bzzz.tasks.executors.keeper_exec import COMMON_PROFILE, Refused, execute, restrict
from bzzz.tasks.executors.keeper_kernel import BoottimeTimer, become_subreaper, boottime
from bzzz.tasks.executors.keeper_messages import (
    Ended,
    EndingName,
    Order,
    Report,
    Start,
    Started,
    clip,
    decode_order,
    encode,
)
from bzzz.tasks.executors.keeper_output import Output, open_output
from bzzz.tasks.executors.keeper_tree import (
    descendants,
    kill_descendants,
    memory,
    processes,
    send,
)
from bzzz.tasks.executors.keeper_words import size

__all__ = ["EXTEND", "MAX_HANDED", "STOP", "Shim", "extend_message", "receive", "stop_message"]

# What the keeper says to a shim about its run: which, and a number.
MESSAGE: Final = struct.Struct("!cd")
EXTEND: Final = b"e"
STOP: Final = b"s"

# Bytes of a run that is handed to a shim which is there already. A socket takes at least these in
# one message.
MAX_HANDED: Final = 64 << 10

# Seconds between two looks at the memory of a run, and how many times longer than the look itself
# that is at least: a look reads all of /proc.
MEMORY_INTERVAL: Final = 0.5
MEMORY_SHARE: Final = 50

# Seconds until a kill is repeated where something is left. What was sent SIGKILL ends without
# help, so it is for those that were not seen.
KILL_AGAIN: Final = 0.002
KILL_AGAIN_AT_MOST: Final = 0.1

NEVER: Final = float("inf")


def extend_message(until: float) -> bytes:
    """The lease of the run now lasts until then."""
    return MESSAGE.pack(EXTEND, until)


def stop_message(grace: float) -> bytes:
    """End the run within so many seconds."""
    return MESSAGE.pack(STOP, grace)


def receive(control: socket.socket, size: int) -> bytes:
    """Take a message; an empty one when the keeper is gone."""
    try:
        return control.recv(size)
    except ConnectionError:
        return b""  # it had not read all that it was told


class Shim:
    """What a shim has for all its runs.

    :param control: of kind SOCK_SEQPACKET, to the keeper.
    """

    GONE = "the keeper is gone"

    def __init__(self, control: socket.socket) -> None:
        self.control = control
        self.timer = BoottimeTimer()
        self.stdin = os.open(os.devnull, os.O_RDONLY)
        self.woken, wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        become_subreaper()

    def live(self, first: Start) -> None:
        """Do runs, one at a time, until the keeper wants no more."""
        run: Order | None = first
        while isinstance(run, Start):
            self.do(run)
            if run.profile != COMMON_PROFILE:
                return
            run = self._next()

    def do(self, run: Start) -> None:
        """Run a command; returns when nothing of it is left and that was told."""
        _Run(run, self).do()

    def hear(self) -> list[tuple[bytes, float]]:
        """What was said about the run: :data:`EXTEND` or :data:`STOP`, and the number.

        :raises EOFError: nobody is left to say anything.
        """
        data = receive(self.control, MESSAGE.size)
        if not data:
            raise EOFError
        return [MESSAGE.unpack(data)]

    def open_output(self, path: str) -> int:
        """The file that a stream of the command goes to."""
        return open_output(path)

    def lease_lasts(self, until: float) -> None:
        """Called with the lease before the command begins, and with each extension.

        :raises Refused: the command is not to begin.
        """

    def watches_memory(self, limit: int) -> bool:
        """Whether it is left to this process to hold the run to its memory."""
        return limit > 0

    def _next(self) -> Order | None:
        """Wait for the next run. What comes before it was about the last."""
        while True:
            data = receive(self.control, MAX_HANDED)
            if len(data) != MESSAGE.size:
                return decode_order(data) if data else None

    def tell(self, report: Report) -> None:
        """Say something to the daemon."""
        try:
            self.control.send(encode(report))
        except OSError:
            pass  # the keeper is gone, and nobody is left to hear it


class _Run:
    """One run, from before its command is started until nothing of it is left."""

    def __init__(self, run: Start, shim: Shim) -> None:
        self._run = run
        self._shim = shim
        self._until = run.until
        self._ending: EndingName | None = None
        self._reason = ""
        self._command = 0
        self._exit_status: int | None = None
        self._childless = True
        self._outputs: list[Output] = []
        self._timeout_at = NEVER
        self._kill_at = NEVER
        self._memory_at = NEVER
        self._killing = False
        self._kill_pause = KILL_AGAIN
        self._selector = selectors.PollSelector()

    def do(self) -> None:
        """Run the command; returns when nothing of it is left and the keeper was told."""
        try:
            if boottime() >= self._until:
                self._ending, self._reason = "lease_ended", "the lease had ended before the start"
            else:
                self._start()
        except Refused as refused:
            self._ending, self._reason = "not_started", str(refused)
            self._exit_status = refused.exit_status
        while not self._childless:
            self._turn()
        for output in self._outputs:
            output.turn()
            if output.failed and not self._reason:
                self._reason = f"output was lost: {output.failed}"
            output.close()
        ending = self._ending or "exited"
        self._shim.tell(Ended(self._run.key, ending, self._exit_status, clip(self._reason)))

    # -- the start

    def _start(self) -> None:
        run = self._run
        restrict(run.profile)
        self._shim.lease_lasts(self._until)
        try:
            sinks = [self._open(path) for path in (run.stdout, run.stderr)]
        except OSError as error:
            raise Refused(None, f"no pipe could be made for it: {error.strerror}") from None
        try:
            self._command = execute(run, self._shim.stdin, *sinks)
        finally:
            for sink in sinks:
                os.close(sink)
        self._childless = False
        self._shim.tell(Started(run.key, self._command))
        self._watch(self._shim.woken, self._child_ended)
        self._watch(self._shim.timer.fileno(), self._time_has_come)
        self._watch(self._shim.control.fileno(), self._hear)
        for output in self._outputs:
            self._watch(output.source, partial(self._pump, output))
        if run.timeout:
            self._timeout_at = boottime() + run.timeout
        if self._shim.watches_memory(run.memory):
            self._memory_at = boottime() + MEMORY_INTERVAL

    def _open(self, path: str) -> int:
        """Make the pipe to a file of output; returns the end for the command."""
        try:
            target = self._shim.open_output(path)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise Refused(None, f"file of output {path}: {reason}") from None
        source, sink = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(source, False)
        self._outputs.append(Output(source, target, self._run.max_output))
        return sink

    # -- while it runs

    def _turn(self) -> None:
        times = (self._until, self._timeout_at, self._kill_at, self._memory_at)
        self._shim.timer.set(min(times))
        for key, _ in self._selector.select():
            if key.fd in self._selector.get_map():
                key.data()

    def _watch(self, fd: int, call: Callable[[], object]) -> None:
        self._selector.register(fd, selectors.EVENT_READ, call)

    def _pump(self, output: Output) -> None:
        if not output.turn():
            self._selector.unregister(output.source)

    def _hear(self) -> None:
        try:
            heard = self._shim.hear()
        except EOFError:
            self._selector.unregister(self._shim.control)
            self._kill("stopped", self._shim.GONE)
            return
        for what, number in heard:
            if what == EXTEND:
                self._until = number
                self._shim.lease_lasts(number)
            else:
                self._end("stopped", "it was told to stop", number)

    def _time_has_come(self) -> None:
        self._shim.timer.clear()
        now = boottime()
        if now >= self._until:
            self._until = NEVER
            self._kill("lease_ended", "its lease ended")
        if now >= self._timeout_at:
            self._timeout_at = NEVER
            self._end("timed_out", f"it took over {self._run.timeout:g} s", self._run.grace)
        if now >= self._kill_at:
            self._kill("stopped", "")
        if now >= self._memory_at:
            self._look_at_memory(now)

    def _look_at_memory(self, now: float) -> None:
        limit = self._run.memory
        used = memory(descendants(os.getpid(), dict(processes())), limit)
        took = boottime() - now
        self._memory_at = now + max(MEMORY_INTERVAL, MEMORY_SHARE * took)
        if used > limit:
            more = f"more than the {size(limit)} that it may use"
            self._kill("over_limit", f"it used {size(used)} of memory, {more}")

    # -- the end

    def _end(self, ending: EndingName, reason: str, grace: float) -> None:
        """SIGTERM to all, and SIGKILL after so many seconds."""
        self._because(ending, reason)
        if self._killing:
            return
        if grace <= 0:
            self._kill(ending, reason)
            return
        if self._kill_at == NEVER:
            pids = descendants(os.getpid(), dict(processes()))
            send(pids, signal.SIGTERM)
            # What is stopped would not see it.
            send(pids, signal.SIGCONT)
        self._kill_at = min(self._kill_at, boottime() + grace)

    def _kill(self, ending: EndingName, reason: str) -> None:
        """SIGKILL to all, now and until nothing is left."""
        self._because(ending, reason)
        self._killing = True
        self._timeout_at = self._memory_at = NEVER
        kill_descendants(os.getpid())
        self._kill_at = boottime() + self._kill_pause
        self._kill_pause = min(2 * self._kill_pause, KILL_AGAIN_AT_MOST)

    def _because(self, ending: EndingName, reason: str) -> None:
        """Why it ends; the first reason is the one that is told."""
        if self._ending is None:
            self._ending, self._reason = ending, reason

    def _child_ended(self) -> None:
        os.read(self._shim.woken, 4096)
        try:
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if not pid:
                    break
                if pid == self._command:
                    code = os.waitstatus_to_exitcode(status)
                    self._exit_status = code if code >= 0 else 128 - code
                    self._command = 0
        except ChildProcessError:
            self._childless = True
            return
        if not self._command and self._ending is None:
            # What it left behind goes with it.
            self._kill("exited", "")
