"""A hostile peer: connects so many times a second to a node, and does harm with what it gets.

    python -m benchmarks.peers.attacker ATTACK --to HOST:PORT --seconds N [--help]

========= ========================================================================================
ATTACK    what it does with each connection
========= ========================================================================================
connect   closes it
garbage   sends random bytes
prove     completes the handshake with a fresh key, and sits there
slow      says a byte of a handshake now and then (slow loris)
guest     completes the handshake, and then does all that a guest can, as fast as it is let:
          identify, pings, pairings with wrong codes, proofs of admission that are none
========= ========================================================================================

Leaves: a line of JSON, see :class:`~benchmarks.peers.enemies.Tally`. It is one process without
threads, and can make some thousand connections a second on one core.
"""

from __future__ import annotations

import argparse
import json
import resource
import select
import socket
import time
from collections.abc import Iterator
from dataclasses import asdict
from itertools import cycle
from pathlib import Path

from benchmarks.peers.enemies import ATTACKS, Enemy, Guest, Tally
from bzzz.identity.peer_id import PeerID
from bzzz.wire.framing import frame

__all__ = ["Attack", "main"]

# Linux's IP_BIND_ADDRESS_NO_PORT, which Python 3.11 does not name: the port is chosen with the
# other end known, so that one address is good for more connections than it has ports.
BIND_ADDRESS_NO_PORT = 24

# Connections begun in one go, so that those that are there are served between.
AT_ONCE = 16

# Seconds between two looks at connections on which nothing happens.
TICK = 0.1


class Attack:
    """All connections of one attack.

    :param proofs: what is presented, in turn.
    :param channel: of the invitation that is guessed at.
    :ivar inviter: who the node has proved to be.
    """

    def __init__(
        self,
        kind: type[Enemy],
        source: str,
        to: tuple[str, int],
        proofs: list[bytes],
        channel: str,
        most: int,
    ) -> None:
        self.tally = Tally()
        self.proofs: Iterator[bytes] = cycle(proofs)
        self.channel = channel
        self.inviter: PeerID | None = None
        self._kind = kind
        self._source = source
        self._to = to
        self._most = most
        self._epoll = select.epoll()
        self._enemies: dict[int, Enemy] = {}

    def run(self, rate: float, seconds: float) -> Tally:
        """Attack until the time is over."""
        start = now = time.monotonic()
        ticked = start
        while now - start < seconds:
            due = int((now - start) * rate) - self.tally.attempts
            for _ in range(min(due, AT_ONCE)):
                self._connect(now)
            busy = any(isinstance(each, Guest) and each.ready for each in self._enemies.values())
            for descriptor, mask in self._epoll.poll(0 if busy or due > AT_ONCE else 0.5 / rate):
                self._happened(descriptor, mask)
            now = time.monotonic()
            if busy or now - ticked > TICK:
                ticked = now
                for enemy in list(self._enemies.values()):
                    enemy.tick(now)
        self.tally.seconds = now - start
        for enemy in list(self._enemies.values()):
            self.close(enemy)
        usage = resource.getrusage(resource.RUSAGE_SELF)
        self.tally.cpu = usage.ru_utime + usage.ru_stime
        return self.tally

    def watch(self, enemy: Enemy, writing: bool) -> None:
        """Have it told when something comes, and perhaps when more can be sent."""
        mask = select.EPOLLIN | (select.EPOLLOUT if writing else 0)
        self._epoll.modify(enemy.socket.fileno(), mask)

    def close(self, enemy: Enemy) -> None:
        """Hang up."""
        if self._enemies.pop(enemy.socket.fileno(), None) is not None:
            enemy.socket.close()

    def _connect(self, now: float) -> None:
        if len(self._enemies) >= self._most:
            self.close(next(iter(self._enemies.values())))
        connection = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        connection.setsockopt(socket.IPPROTO_IP, BIND_ADDRESS_NO_PORT, 1)
        connection.bind((self._source, 0))
        self.tally.attempts += 1
        try:
            connection.connect(self._to)
        except BlockingIOError:
            pass
        except OSError:
            self.tally.failed += 1
            connection.close()
            return
        self._enemies[connection.fileno()] = self._kind(self, connection, now)
        self._epoll.register(connection.fileno(), select.EPOLLIN | select.EPOLLOUT)

    def _happened(self, descriptor: int, mask: int) -> None:
        enemy = self._enemies.get(descriptor)
        if enemy is None:
            return
        if not enemy.up:
            if enemy.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                self.tally.failed += 1
                self.close(enemy)
                return
            enemy.up = True
            self.tally.arrived += 1
            if enemy.closes_at_once:
                self.close(enemy)
                return
            self.watch(enemy, False)
            enemy.begin()
        if mask & ~select.EPOLLOUT:
            self._read(enemy)
        if mask & select.EPOLLOUT and descriptor in self._enemies:
            enemy.send()

    def _read(self, enemy: Enemy) -> None:
        try:
            data = enemy.socket.recv(1 << 16)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.tally.dropped += enemy.heard
            self.tally.refused += not enemy.heard
            self.close(enemy)
            return
        if not enemy.heard:
            enemy.heard = True
            self.tally.answered += 1
        enemy.received(data)


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers.attacker")
    parser.add_argument("attack", choices=ATTACKS)
    parser.add_argument("--to", required=True, metavar="HOST:PORT")
    parser.add_argument("--source", default="127.0.0.2", help="the address that it comes from")
    parser.add_argument("--rate", type=float, default=1000.0, help="connections a second")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--channel", default="1", help="of the invitation that is guessed at")
    parser.add_argument("--proofs", type=Path, help="a directory of what is presented")
    options = parser.parse_args()
    files = sorted(options.proofs.iterdir()) if options.proofs is not None else []
    proofs = [frame(file.read_bytes()) for file in files] or [frame(b"{}")]
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    host, _, port = options.to.rpartition(":")
    attack = Attack(
        *(ATTACKS[options.attack], options.source, (host, int(port)), proofs),
        *(options.channel, most - 64),
    )
    print(json.dumps(asdict(attack.run(options.rate, options.seconds))), flush=True)


if __name__ == "__main__":
    main()
