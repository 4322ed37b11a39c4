"""One direction of a connection in the simulator's network: TCP, as far as its users notice it.

Enters: what one end sends, and the state of the path. Leaves: the same bytes in the same order at
the other end, later, or a reset, or the end of a connection that was cut for too long.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from bzzz.net.keepalive import INTERVAL, SILENCE
from bzzz.testing.clock import SimCall

if TYPE_CHECKING:
    from bzzz.testing.network import SimNetwork
    from bzzz.testing.transport import SimTransport

__all__ = ["BUFFER", "FIN", "KERNEL", "OPEN", "RETRANSMISSION", "RST", "Pipe", "Sign"]

# TCP's first retransmission timeout on a LAN, in seconds (Linux: TCP_RTO_MIN), and its longest.
RETRANSMISSION = 0.2
LONGEST_RETRANSMISSION = 120.0

# Unacknowledged data ends a connection after so many seconds (Linux: tcp_retries2 = 15), unless it
# is watched by keep-alives.
GIVES_UP = 924.6

# Bytes that the kernels of both sides hold in one direction: a send and a receive buffer.
KERNEL = 262144

# Bytes that wait outside of the kernel before Twisted pauses a producer, and the most that it
# reads at once (twisted.internet.abstract.FileDescriptor.bufferSize).
BUFFER = 65536


class Sign:
    """What travels in a pipe that is not data."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __repr__(self) -> str:
        return self._name


OPEN, FIN, RST = Sign("OPEN"), Sign("FIN"), Sign("RST")


def _retransmission_after(begin: float, now: float) -> float:
    """When TCP, whose first loss was at ``begin``, sends again after ``now``."""
    timeout = RETRANSMISSION
    while begin <= now:
        begin += timeout
        timeout = min(timeout * 2, LONGEST_RETRANSMISSION)
    return begin


class Pipe:
    """One direction of a connection: what is under way, in order, until the far end reads it.

    :ivar size: bytes that were sent and not read.
    :ivar severed: whether nothing gets through any more, because an end has another address now.
    """

    __slots__ = (
        "_call",
        "_gives_up",
        "_held",
        "_network",
        "_queue",
        "_reset",
        "_stalled_at",
        "severed",
        "size",
        "source",
        "target",
    )

    def __init__(self, network: SimNetwork, source: SimTransport, target: SimTransport) -> None:
        self.source = source
        self.target = target
        self.size = 0
        self.severed = False
        self._network = network
        self._queue: deque[tuple[float, bytes | Sign]] = deque()
        # At most one of these three keeps what is first in the queue from being delivered.
        self._call: SimCall | None = None
        self._stalled_at: float | None = None
        self._held = False
        self._reset = False
        self._gives_up: SimCall | None = None

    def send(self, what: bytes | Sign) -> None:
        """Put ``what`` on its way."""
        network = self._network
        queue = self._queue
        length = 0 if isinstance(what, Sign) else len(what)
        due = network.arrival(self.source.host, self.target.host, length)
        if queue and queue[-1][0] > due:
            due = queue[-1][0]
        queue.append((due, what))
        self.size += length
        if self._call is None and self._stalled_at is None and not self._held:
            self._call = network.reactor.call_at(None, due, self._arrive)

    def send_reset(self) -> None:
        """End the connection at once. What was sent before may still arrive; nothing is sent
        again."""
        self._reset = True
        network = self._network
        if self._stalled_at is not None:
            self.drop()
        elif network.loss and network.random.random() < network.loss:
            # What went before it was sent by a kernel that still had it.
            if self.target.getTcpKeepAlive():
                reactor = network.reactor
                reactor.call_at(None, reactor.now + INTERVAL, self.target.answered)
            return
        else:
            self.send(RST)
            if self._held:
                self._held = False
                self._again(0.0)

    def read_again(self) -> None:
        """The far end reads again."""
        if self._held:
            self._held = False
            self._again(0.0)

    def unread(self) -> bool:
        """Whether data has arrived that the far end has not read."""
        queue = self._queue
        return bool(queue) and queue[0][0] <= self._network.reactor.now and self.size > 0

    def unread_is_lost(self) -> None:
        """The far end is closed, with what waited for it to read."""
        if self._held:
            self.drop()

    def put_back(self, data: bytes) -> None:
        """The far end did not read all that was delivered."""
        self._queue.appendleft((self._network.reactor.now, data))
        self.size += len(data)

    def unstall(self) -> None:
        """The path may be free again: TCP notices when it sends again the next time."""
        if self._stalled_at is not None:
            now = self._network.reactor.now
            again = _retransmission_after(self._stalled_at, now)
            self._end_stall()
            self._again(again - now)

    def drop(self) -> None:
        """Nothing of what is under way will arrive."""
        self._queue.clear()
        self.size = 0
        self._held = False
        self._end_stall()
        if self._call is not None:
            self._call.cancel()
            self._call = None

    # -- inside

    def _again(self, delay: float) -> None:
        reactor = self._network.reactor
        self._call = reactor.call_at(None, reactor.now + delay, self._arrive)

    def _arrive(self) -> None:
        """What is first in the queue is due."""
        self._call = None
        if self.severed or self._network.is_blocked(self.source.host, self.target.host):
            self._stall()
            return
        now = self._network.reactor.now
        queue = self._queue
        target = self.target
        full = self.size > KERNEL
        while queue:
            due, what = queue[0]
            if due > now:
                self._call = self._network.reactor.call_at(None, due, self._arrive)
                break
            if target.gone:
                self._refuse()
                return
            if target.clock.stalled_until > now:
                # Its kernel has it; the process does not run.
                self._again(target.clock.stalled_until - now)
                break
            if not target.reading and what is not RST and what is not OPEN:
                if queue[-1][1] is not RST:
                    self._held = True
                    break
                # A reset throws away what was not read.
                what = RST
                self.drop()
            else:
                queue.popleft()
            if isinstance(what, Sign):
                target.notified(what)
            else:
                self.size -= len(what)
                target.arrived(what)
        if full and self.size <= KERNEL and not self.source.gone:
            self.source.has_room()

    def _refuse(self) -> None:
        """There is no such connection at the far end: its kernel answers data with a reset."""
        answer = any(what is not FIN and what is not RST for _, what in self._queue)
        self.drop()
        if answer and not self.source.gone:
            back = self.target.out
            back.drop()
            back.send_reset()

    def _stall(self) -> None:
        reactor = self._network.reactor
        if self._reset or self.source.host.down:
            # Nobody is left who would send it again.
            self.drop()
            return
        self._stalled_at = reactor.now
        self._network.stalled[self] = None
        patience = SILENCE if self.source.getTcpKeepAlive() else GIVES_UP
        self._gives_up = reactor.call_at(None, reactor.now + patience, self._give_up)

    def _end_stall(self) -> None:
        if self._stalled_at is not None:
            self._stalled_at = None
            self._network.stalled.pop(self, None)
            if self._gives_up is not None and self._gives_up.active():
                self._gives_up.cancel()

    def _give_up(self) -> None:
        self.drop()
        self.source.timed_out()
