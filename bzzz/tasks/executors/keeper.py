"""The keeper: the process that runs the commands of a node (``docs/tasks.rst``, "Who kills").

    python -m bzzz.tasks.executors.keeper

Enters: orders through standard input. Leaves: reports through standard output, both as
:mod:`~bzzz.tasks.executors.keeper_messages` has them; complaints as lines through standard error.
It ends when it was told to, or when its standard input ends: then the daemon is gone.

How a run is held together
    Each run has a process above it, its *shim*: a fork of the keeper that is a child subreaper
    (prctl(2)). Whatever descends from the command, also what forked twice and called setsid(2), has
    the shim among its ancestors for as long as the shim lives, for the kernel gives orphans to the
    nearest subreaper. So wait(2) in the shim says exactly when nothing is left of a run, without a
    look at ``/proc`` for a command that leaves nothing behind. What is left is found from the shim
    downwards, stopped, killed, and looked for again until wait(2) is content
    (:mod:`~bzzz.tasks.executors.keeper_tree`).

    If the keeper alone were the subreaper, the orphans of all runs would be its children, and to
    tell them apart it would have only what they can change: an environment, a session. A cgroup
    could be killed at once, but to have one takes a systemd that delegates it, and there the
    systemd executor is at hand. So could a PID namespace, but not every machine permits it, and
    the command would not see the processes that it is among.

    A shim has one run at a time, and takes another when wait(2) has said that nothing is left of
    the last: a fork of Python for each would cost more than all the rest. The shim does all for its
    run: output, timeouts, memory, and the lease. So a run that prints without end, or a file on a
    disk that hangs, is trouble for its own shim alone.

Who watches whom
    =================================== ==========================================================
    what is gone                        what happens
    =================================== ==========================================================
    the daemon                          standard input ends: the keeper has the shims kill all,
                                        and ends
    the keeper                          its sockets close: each shim kills its run, and ends
    a shim                              the command, and what is below it, become children of the
                                        keeper. They are no shims, so they are killed, whatever
                                        run they were of
    a shim hangs, or is stopped         ``LATE`` seconds after the lease's end, the keeper
                                        kills the run from outside. The lease of one that is
                                        stopped is not extended
    =================================== ==========================================================

    Not covered: a command that kills or stops both its shim and the keeper, whose user it has; one
    that has another service of the machine run something, such as cron; in profile ``trusted``,
    programs with a set-user-ID bit, which only root may kill. The systemd executor covers the
    first. Processes that start their like and end, faster than ``/proc`` is read, are caught in the
    end, but not within a time: it takes longer the less processor time there is. A shim that waits
    for a disk sees no timeout; the lease ends all the same.
"""

from __future__ import annotations

import gc
import os
import resource
import selectors
import signal
import socket
import sys
import traceback
from typing import Final, NoReturn

from bzzz.errors import RemoteProtocolError
from bzzz.tasks.executors.keeper_exec import COMMON_PROFILE
from bzzz.tasks.executors.keeper_kernel import BoottimeTimer, become_subreaper, boottime
from bzzz.tasks.executors.keeper_messages import (
    Ended,
    Frames,
    Order,
    Ready,
    Report,
    Shutdown,
    Start,
    Stop,
    clip,
    decode_order,
    decode_report,
    encode,
    frame,
)
from bzzz.tasks.executors.keeper_runs import Kept, KnownShim
from bzzz.tasks.executors.keeper_shim import (
    MAX_HANDED,
    Shim,
    extend_message,
    stop_message,
)
from bzzz.tasks.executors.keeper_tree import kill_descendants, processes, send

__all__ = ["Keeper", "main"]

# Seconds between two looks for what a dead shim left behind.
LOOK_AGAIN: Final = 0.01

# Shims that wait for a run. A node that has more short commands at once forks for the rest.
SPARE: Final = 8

READ_SIZE: Final = 1 << 16
MAX_REPORT: Final = 1 << 16

NEVER: Final = float("inf")


class Keeper:
    """Starts shims, hands on what is said to and by them, and kills where they do not.

    :param incoming: where orders come from.
    :param outgoing: where reports go to.
    """

    def __init__(self, incoming: int, outgoing: int) -> None:
        self._incoming = incoming
        self._outgoing = outgoing
        self._frames: Frames[Order] = Frames(decode_order)
        # Two reports of each run at most. A daemon that does not read starts none either.
        self._unsent = bytearray()
        self._ending = False
        # Those that have a run, by its key; all that were not waited for, by their number; those
        # that wait for a run.
        self._busy: dict[str, KnownShim] = {}
        self._shims: dict[int, KnownShim] = {}
        self._spare: list[KnownShim] = []
        # Of these the shim is dead, and something may be left.
        self._orphaned: list[Kept] = []
        self._look_at = NEVER
        self._timer = BoottimeTimer()
        self._selector = selectors.DefaultSelector()
        self._woken, self._wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def run(self) -> None:
        """Do what is ordered until the end."""
        os.set_blocking(self._incoming, False)
        os.set_blocking(self._outgoing, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._wake, warn_on_full_buffer=False)
        self._selector.register(self._incoming, selectors.EVENT_READ, self._hear)
        self._selector.register(self._woken, selectors.EVENT_READ, self._wait_for_children)
        self._selector.register(self._timer, selectors.EVENT_READ, self._timer.clear)
        self._tell(Ready())
        # What is there now is shared with the shims for as long as nothing writes to it.
        gc.freeze()
        while not (self._ending and not self._shims and not self._orphaned and not self._unsent):
            self._timer.set(min((self._look_at, *(run.due for _, run in self._running()))))
            for key, _ in self._selector.select():
                if key.fd in self._selector.get_map():
                    key.data()
            self._look_at_times()

    # -- the daemon

    def _hear(self) -> None:
        try:
            data = os.read(self._incoming, READ_SIZE)
        except BlockingIOError:
            return
        if not data:
            self._selector.unregister(self._incoming)
            self._end()
            return
        for order in self._frames.receive(data):
            self._obey(order)

    def _obey(self, order: Order) -> None:
        if isinstance(order, Start):
            self._start(order)
        elif isinstance(order, Shutdown):
            self._end()
        elif (shim := self._busy.get(order.key)) is not None and shim.run is not None:
            if isinstance(order, Stop):
                self._stop(shim, shim.run, order.grace)
            elif shim.run.ending is None:
                shim.run.extend(order.until, shim.stopped)
                # Where it is not heard, the lease ends when it would have, which is safe.
                shim.say(extend_message(order.until))

    def _tell(self, report: Report) -> None:
        self._unsent += frame(encode(report))
        self._flush()

    def _flush(self) -> None:
        try:
            while self._unsent:
                del self._unsent[: os.write(self._outgoing, self._unsent)]
        except BlockingIOError:
            pass
        except BrokenPipeError:
            self._unsent.clear()
            self._end()
        registered = self._outgoing in self._selector.get_map()
        if self._unsent and not registered:
            self._selector.register(self._outgoing, selectors.EVENT_WRITE, self._flush)
        elif registered and not self._unsent:
            self._selector.unregister(self._outgoing)

    # -- shims

    def _running(self) -> list[tuple[KnownShim, Kept]]:
        return [(shim, shim.run) for shim in self._busy.values() if shim.run is not None]

    def _start(self, order: Start) -> None:
        if order.key in self._busy or self._ending:
            self._tell(Ended(order.key, "not_started", None, "a run of that name is there"))
        elif not self._hand(order):
            try:
                self._fork(order)
            except OSError as error:
                reason = f"no process could be made for it: {error.strerror}"
                self._tell(Ended(order.key, "not_started", None, reason))

    def _hand(self, order: Start) -> bool:
        """Give a run to a shim that waits; returns whether there was one that took it."""
        if not self._spare or order.profile != COMMON_PROFILE:
            return False
        data = encode(order)
        if len(data) > MAX_HANDED or not self._spare[-1].say(data):
            return False
        shim = self._spare.pop()
        shim.run = Kept(order.key, order.until)
        self._busy[order.key] = shim
        return True

    def _fork(self, order: Start) -> None:
        """Make a shim for a run."""
        ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with its:
            try:
                pid = os.fork()
            except OSError:
                ours.close()
                raise
            if not pid:
                self._become_shim(order, ours, its)
        ours.setblocking(False)
        run = Kept(order.key, order.until)
        shim = KnownShim(pid, ours, run, order.profile == COMMON_PROFILE)
        self._busy[order.key] = self._shims[pid] = shim
        self._selector.register(ours, selectors.EVENT_READ, lambda: self._listen(shim))

    def _become_shim(self, order: Start, ours: socket.socket, its: socket.socket) -> NoReturn:
        code = 1
        try:
            # A copy of another shim's socket would keep that shim from seeing the keeper's end.
            for shim in self._shims.values():
                shim.control.close()
            ours.close()
            self._selector.close()
            self._timer.close()
            signal.set_wakeup_fd(-1)
            os.close(self._wake)
            os.close(self._woken)
            nothing = os.open(os.devnull, os.O_RDWR)
            os.dup2(nothing, self._incoming)
            os.dup2(nothing, self._outgoing)
            os.close(nothing)
            os.setsid()
            Shim(its).live(order)
            code = 0
        except BaseException:  # noqa: BLE001 - a fork of the keeper must not go on as the keeper
            traceback.print_exc()
            kill_descendants(os.getpid())
        finally:
            os._exit(code)

    def _listen(self, shim: KnownShim) -> None:
        """Hand on what a shim says, all of it."""
        while shim.control.fileno() >= 0:
            try:
                data = shim.control.recv(MAX_REPORT)
            except BlockingIOError:
                return
            except ConnectionError:
                data = b""
            if not data:
                self._close(shim)
                return
            report = decode_report(data)
            self._tell(report)
            if isinstance(report, Ended):
                self._over(shim, report.key)

    def _over(self, shim: KnownShim, key: str) -> None:
        shim.run = None
        del self._busy[key]
        if shim.common and len(self._spare) < SPARE and not self._ending:
            self._spare.append(shim)
        else:
            self._close(shim)

    def _close(self, shim: KnownShim) -> None:
        """Say no more to a shim; one that waits ends."""
        if shim in self._spare:
            self._spare.remove(shim)
        if shim.control.fileno() >= 0:
            self._selector.unregister(shim.control)
            shim.control.close()

    def _wait_for_children(self) -> None:
        os.read(self._woken, 4096)
        try:
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG | os.WUNTRACED | os.WCONTINUED)
                if not pid:
                    return
                if os.WIFSTOPPED(status) or os.WIFCONTINUED(status):
                    self._stopped(pid, os.WIFSTOPPED(status))
                    continue
                shim = self._shims.pop(pid, None)
                if shim is None:
                    continue  # an orphan that was killed
                self._listen(shim)
                self._close(shim)
                if shim.run is not None:
                    self._shim_died(shim.run, os.waitstatus_to_exitcode(status))
        except ChildProcessError:
            return

    def _stopped(self, pid: int, stopped: bool) -> None:
        """Somebody has stopped a process, or has it go on."""
        shim = self._shims.get(pid)
        if shim is None:
            return  # an orphan that is being killed
        shim.stopped = stopped
        if shim.run is None:
            # It would take no run.
            self._close(shim)
            send([pid], signal.SIGKILL)
        elif not stopped:
            shim.run.goes_on()

    # -- what shims do not do

    def _look_at_times(self) -> None:
        now = boottime()
        for shim, run in self._running():
            if run.due > now:
                continue
            if run.until <= now:
                run.end("lease_ended", "its lease ended, and its shim had not killed it")
            else:
                run.end("stopped", "it was told to stop, and its shim had not killed it")
            # It may be telling the end of its run just now.
            shim.common = False
            kill_descendants(shim.pid)
            send([shim.pid], signal.SIGKILL)
        if self._look_at <= now:
            self._look_for_orphans()

    def _shim_died(self, run: Kept, code: int) -> None:
        if run.ending is None:
            how = f"was killed by signal {-code}" if code < 0 else f"failed with {code}"
            run.end("stopped", f"the process that watched over it {how}")
        self._orphaned.append(run)
        self._look_for_orphans()

    def _look_for_orphans(self) -> None:
        """Kill the children that are no shims, and all that is below them."""
        # Nothing is seen once by chance: see keeper_tree.
        if self._kill_orphans() or self._kill_orphans():
            self._look_at = boottime() + LOOK_AGAIN
            return
        self._look_at = NEVER
        orphaned, self._orphaned = self._orphaned, []
        for run in orphaned:
            del self._busy[run.key]
            self._tell(Ended(run.key, run.ending or "stopped", None, clip(run.reason)))

    def _kill_orphans(self) -> bool:
        """Whether there were any."""
        me = os.getpid()
        orphans = []
        for pid, parent in processes():
            if parent == me and pid not in self._shims:
                send([pid], signal.SIGSTOP)
                orphans.append(pid)
        for orphan in orphans:
            kill_descendants(orphan)
        send(orphans, signal.SIGKILL)
        return bool(orphans)

    def _stop(self, shim: KnownShim, run: Kept, grace: float) -> None:
        run.stop_at = min(run.stop_at, boottime() + grace)
        shim.say(stop_message(grace))

    def _end(self) -> None:
        """Kill all runs; the keeper ends when nothing of them is left."""
        if not self._ending:
            self._ending = True
            for shim, run in self._running():
                self._stop(shim, run, 0.0)
            for shim in list(self._spare):
                self._close(shim)


def main() -> None:
    """Run the keeper on standard input and output."""
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    # What a terminal or systemd sends to all of the daemon's group is the daemon's to act on. Not
    # SIG_IGN, which commands would inherit.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, lambda *_: None)
    # Of these the system call fails too, with an error that says where.
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, lambda *_: None)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    try:
        os.setsid()
    except PermissionError:
        pass  # it was started by a shell, as the leader of its group
    become_subreaper()
    os.umask(0o077)
    os.chdir("/")
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2:
            try:
                os.set_inheritable(int(name), False)
            except OSError:
                pass  # it was the list's own
    try:
        # Of the keeper, and of all that it runs.
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    except (OSError, ValueError) as error:
        print(f"core dumps could not be turned off: {error}", file=sys.stderr)  # noqa: T201 - read by the daemon
    try:
        Keeper(0, 1).run()
    except RemoteProtocolError as error:
        sys.exit(f"the daemon cannot be understood: {error}")


if __name__ == "__main__":
    main()
