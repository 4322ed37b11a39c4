"""A hostile peer: ``python -m tests.cluster.attacks NAME HOST PORT SECONDS``.

Enters: what to do to the node at an address, and for how long. Leaves: a line of JSON that says how
often it was thrown out and came back. It proves an identity where an attack takes one, a fresh one
each time.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import random
import socket
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass

from bzzz.identity.keys import PrivateKey
from bzzz.wire import framing, gossip_message
from bzzz.wire.connection import Connection, LinkReady
from bzzz.wire.multistream import Initiator
from bzzz.wire.pb import rpc_pb2
from bzzz.wire.yamux_frame import ACK, DATA, HEADER, PING, SYN, WINDOW_UPDATE

__all__ = ["ATTACKS"]

TOPIC = "bzzz/coordination/v1"
GOSSIP = "/meshsub/1.1.0"
PINGS = "/ipfs/ping/1.0.0"

# A varint of 4 GiB, as a length.
HUGE = b"\xff\xff\xff\xff\x0f"
MILLION = 1_000_000

# Connections held at once by the slow attacks; more than a node's handshakes at one time.
MANY = 400

Address = tuple[str, int]


@dataclass
class Tally:
    """What came of an attack.

    :ivar attempts: connections made.
    :ivar dropped: those that the node ended.
    :ivar sent: bytes.
    """

    attempts: int = 0
    dropped: int = 0
    sent: int = 0


class Dropped(Exception):
    """The node ended the connection, or takes nothing more."""


class Enemy:
    """One connection."""

    def __init__(self, address: Address, tally: Tally) -> None:
        self.key = PrivateKey.generate(os.urandom)
        self._tally = tally
        tally.attempts += 1
        try:
            self.socket = socket.create_connection(address, timeout=3.0)
        except OSError as error:
            raise Dropped from error
        self._connection = Connection(
            True, self.key, random_bytes=os.urandom, protocols=lambda name: True
        )
        self._streams = itertools.count(1, 2)

    def handshake(self) -> None:
        """Do as libp2p has it, up to the muxer."""
        self._connection.start()
        ready = False
        while not ready:
            self.send(self._connection.data_to_send())
            events = self._connection.receive_data(self._receive())
            ready = any(isinstance(event, LinkReady) for event in events)
        self.send(self._connection.data_to_send())

    def send(self, data: bytes) -> None:
        """Bytes as they are. What comes back is read and thrown away meanwhile."""
        view = memoryview(data)
        self.socket.settimeout(2.0)
        try:
            while view:
                sent = self.socket.send(view)
                view = view[sent:]
                self._tally.sent += sent
        except OSError as error:
            raise Dropped from error

    def frames(self, data: bytes) -> None:
        """Bytes for the muxer, encrypted."""
        channel = self._connection._channel
        assert channel is not None
        output: list[bytes | memoryview] = []
        channel.seal([data], output)
        self.send(b"".join(output))

    def drain(self) -> None:
        """Read what is there."""
        self.socket.settimeout(0.0)
        try:
            while True:
                if not self.socket.recv(1 << 16):
                    raise Dropped
        except BlockingIOError:
            return
        except OSError as error:
            raise Dropped from error

    def stream(self, protocol: str) -> int:
        """Open a stream with a protocol that the node speaks."""
        stream = next(self._streams)
        proposal = Initiator([protocol]).take_output()
        self.frames(HEADER.pack(DATA, SYN, stream, len(proposal)) + proposal)
        return stream

    def data(self, stream: int, data: bytes) -> None:
        """Send data on a stream, whether its window admits it or not."""
        self.frames(HEADER.pack(DATA, 0, stream, len(data)) + data)

    def close(self) -> None:
        self.socket.close()

    def _receive(self) -> bytes:
        self.socket.settimeout(3.0)
        try:
            data = self.socket.recv(1 << 16)
        except OSError as error:
            raise Dropped from error
        if not data:
            raise Dropped
        return data


Attack = Callable[[Enemy], Iterator[None]]


# Each does a bit of harm and yields; it begins again with a new connection when it is dropped.


def garbage(enemy: Enemy) -> Iterator[None]:
    """Random bytes instead of a handshake."""
    while True:
        enemy.send(random.randbytes(1 << 16))
        yield


def oversized(enemy: Enemy) -> Iterator[None]:
    """Lengths of 4 GiB, one layer further up in each connection."""
    layer = random.randrange(4)
    if layer == 0:
        enemy.send(HUGE)
    else:
        enemy.handshake()
        if layer == 1:
            enemy.frames(HEADER.pack(DATA, SYN, 1, 0xFFFFFFFF))
        elif layer == 2:
            enemy.frames(HEADER.pack(DATA, SYN, 1, len(HUGE)) + HUGE)
        else:
            enemy.data(enemy.stream(GOSSIP), HUGE)
    while True:
        if layer:
            enemy.frames(bytes(1 << 16))
        else:
            enemy.send(bytes(1 << 16))
        yield


def streams(enemy: Enemy) -> Iterator[None]:
    """A million streams."""
    enemy.handshake()
    for first in range(1, 2 * MILLION, 4096):
        frames = (
            HEADER.pack(WINDOW_UPDATE, SYN, each, 0) for each in range(first, first + 4096, 2)
        )
        enemy.frames(b"".join(frames))
        yield


def held_streams(enemy: Enemy) -> Iterator[None]:
    """A million streams with a protocol, of which each has said a little and none ends."""
    enemy.handshake()
    for _ in range(MILLION // 64):
        for _ in range(64):
            enemy.data(enemy.stream(PINGS), b"x" * 31)
        yield


def windows(enemy: Enemy) -> Iterator[None]:
    """More than the window admits, credit without end, and data of streams that are not there."""
    enemy.handshake()
    kind = random.randrange(3)
    stream = enemy.stream("/ipfs/id/1.0.0" if kind else PINGS)
    while True:
        if kind == 0:
            enemy.data(stream, bytes(60_000))
        elif kind == 1:
            enemy.frames(HEADER.pack(WINDOW_UPDATE, 0, stream, 0xFFFFFFFF))
        else:
            enemy.frames((HEADER.pack(DATA, 0, 2 * random.randrange(MILLION), 4) + b"what") * 64)
        yield


def pings(enemy: Enemy) -> Iterator[None]:
    """Pings of the muxer, and of libp2p, as many as the node takes."""
    enemy.handshake()
    stream = enemy.stream(PINGS)
    while True:
        enemy.frames(HEADER.pack(PING, SYN, 0, 7) * 1024)
        enemy.data(stream, bytes(32 * 256))
        yield


def updates(enemy: Enemy) -> Iterator[None]:
    """Window updates of nothing, and acknowledgements."""
    enemy.handshake()
    stream = enemy.stream(PINGS)
    while True:
        enemy.frames(HEADER.pack(WINDOW_UPDATE, 0, stream, 0) * 4096)
        enemy.frames(HEADER.pack(PING, ACK, 0, 9) * 1024)
        yield


def deaf(enemy: Enemy) -> Iterator[None]:
    """Asks without end and reads no answer."""
    enemy.handshake()
    while True:
        for _ in range(64):
            enemy.stream("/ipfs/id/1.0.0")
        enemy.frames(HEADER.pack(PING, SYN, 0, 7) * 1024)
        yield


def _gossip(enemy: Enemy) -> int:
    enemy.handshake()
    stream = enemy.stream(GOSSIP)
    rpc = rpc_pb2.RPC()
    rpc.subscriptions.add(subscribe=True, topicid=TOPIC)
    enemy.data(stream, framing.frame(rpc.SerializeToString()))
    return stream


def _spread(enemy: Enemy, stream: int, data: bytes) -> None:
    """Send so much that the stream's window will be exceeded only if the node stops reading."""
    for first in range(0, len(data), 60_000):
        enemy.data(stream, data[first : first + 60_000])


def gossip(enemy: Enemy) -> Iterator[None]:
    """Well-signed messages, as fast as they can be written."""
    stream = _gossip(enemy)
    seqno = time.time_ns()
    document = {"node_id": str(enemy.key.peer_id), "name": "enemy", "version": "0"}
    message = {"type": "capability_broadcast", "from": document["node_id"], "data": document}
    while True:
        rpcs = []
        for _ in range(32):
            seqno += 1
            message["timestamp"] = f"2026-11-24T00:00:{seqno % 60:02}Z"
            body = json.dumps(message).encode()
            rpcs.append(framing.frame(gossip_message.sign(enemy.key, TOPIC, body, seqno).encoded))
        _spread(enemy, stream, b"".join(rpcs))
        yield


def gossip_invalid(enemy: Enemy) -> Iterator[None]:
    """Messages with signatures that are not right, small and large."""
    stream = _gossip(enemy)
    seqno = time.time_ns()
    while True:
        rpcs = []
        for _ in range(64):
            seqno += 1
            body = random.randbytes(random.choice((16, 1000)))
            signed = bytearray(gossip_message.sign(enemy.key, TOPIC, body, seqno).encoded)
            signed[-1] ^= 1
            rpcs.append(framing.frame(bytes(signed)))
        _spread(enemy, stream, b"".join(rpcs))
        yield


def gossip_control(enemy: Enemy) -> Iterator[None]:
    """Subscriptions to a million topics, and control messages about messages that do not exist."""
    stream = _gossip(enemy)
    while True:
        rpc = rpc_pb2.RPC()
        for _ in range(200):
            rpc.subscriptions.add(subscribe=True, topicid=random.randbytes(20).hex())
        ids = [random.randbytes(46) for _ in range(500)]
        rpc.control.ihave.add(topicID=TOPIC, messageIDs=ids)
        rpc.control.iwant.add(messageIDs=ids)
        for _ in range(50):
            rpc.control.graft.add(topicID=TOPIC)
            rpc.control.prune.add(topicID=TOPIC, backoff=1 << 40)
        _spread(enemy, stream, framing.frame(rpc.SerializeToString()))
        yield


def gossip_large(enemy: Enemy) -> Iterator[None]:
    """Well-signed messages of 900 KB."""
    stream = _gossip(enemy)
    seqno = time.time_ns()
    while True:
        seqno += 1
        message = gossip_message.sign(enemy.key, TOPIC, random.randbytes(900_000), seqno)
        _spread(enemy, stream, framing.frame(message.encoded))
        yield


ATTACKS: dict[str, Attack] = {
    each.__name__: each
    for each in (
        *(garbage, oversized, streams, held_streams, windows, pings, updates, deaf),
        *(gossip, gossip_invalid, gossip_control, gossip_large),
    )
}


def run(attack: Attack, address: Address, seconds: float) -> Tally:
    """Attack until the time is over."""
    tally = Tally()
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        enemy = None
        try:
            enemy = Enemy(address, tally)
            for _ in attack(enemy):
                if attack is not deaf:
                    enemy.drain()
                if time.monotonic() > end:
                    break
        except Dropped:
            tally.dropped += 1
        finally:
            if enemy is not None:
                with contextlib.suppress(AttributeError):
                    enemy.close()
    return tally


def slow(address: Address, seconds: float) -> Tally:
    """Connections that say nothing, and some that say a byte now and then (slow loris)."""
    tally = Tally()
    said = b"\x13/multistream/1.0.0\n\x07/noise\n\x00\x20" + bytes(8)
    held: dict[socket.socket, int] = {}
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        while len(held) < MANY:
            try:
                connection = socket.create_connection(address, timeout=3.0)
            except OSError:
                break
            connection.setblocking(False)
            tally.attempts += 1
            held[connection] = 0
        for number, (connection, at) in enumerate(list(held.items())):
            try:
                if number % 2 and at < len(said):
                    tally.sent += connection.send(said[at : at + 1])
                    held[connection] = at + 1
                if not connection.recv(4096):
                    raise ConnectionResetError
            except BlockingIOError:
                continue
            except OSError:
                tally.dropped += 1
                connection.close()
                del held[connection]
        time.sleep(0.5)
    for connection in held:
        connection.close()
    return tally


def main() -> None:
    """See the module's docstring."""
    name, host, port, seconds = sys.argv[1:]
    address = (host, int(port))
    if name == slow.__name__:
        tally = slow(address, float(seconds))
    else:
        tally = run(ATTACKS[name], address, float(seconds))
    print(json.dumps(asdict(tally)))


if __name__ == "__main__":
    main()
