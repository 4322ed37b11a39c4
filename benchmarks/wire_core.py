"""The pure connection core alone: two connections back to back in memory, on one CPU.

    python -m benchmarks.wire_core [--security noise] [--rounds 5]

What is measured is the CPU time of both sides together, so a daemon with a side on each of two CPUs
does about twice as well. Printed are the best of the rounds, which is what the code can do where
nothing else runs on the machine.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable

from bzzz.identity.keys import PrivateKey
from bzzz.wire.connection import MAX_DATA, Connection, StreamData

WRITE = 65536
PROTOCOL = "/bench/1.0.0"


class Pair:
    """Two connections that are each other's transport."""

    def __init__(self, security: str, keys: tuple[PrivateKey, PrivateKey]) -> None:
        self.security = security
        self.initiator, self.responder = (
            Connection(
                key is keys[0],
                key,
                random_bytes=os.urandom,
                protocols=PROTOCOL.__eq__,
                security=security,
            )
            for key in keys
        )
        self.initiator.start()
        self.responder.start()

    def pump(self) -> None:
        """Carry bytes both ways until there are none."""
        while self.move(self.initiator, self.responder) | self.move(self.responder, self.initiator):
            pass

    @staticmethod
    def move(source: Connection, target: Connection, chunk: int = WRITE) -> int:
        """Carry bytes one way, in what a TCP socket gives at once; the bytes of the application."""
        data = source.data_to_send()
        size = 0
        for start in range(0, len(data), chunk):
            for event in target.receive_data(data[start : start + chunk]):
                if type(event) is StreamData:
                    target.consumed(event.stream_id, len(event.data))
                    size += len(event.data)
        return size if size else int(bool(data))


def keys() -> tuple[PrivateKey, PrivateKey]:
    """Two identities."""
    return PrivateKey.generate(os.urandom), PrivateKey.generate(os.urandom)


def handshakes(security: str, count: int = 200) -> float:
    """Milliseconds of CPU for a link, both sides, from nothing to ready."""
    pair_of_keys = keys()
    start = time.process_time()
    for _ in range(count):
        Pair(security, pair_of_keys).pump()
    return (time.process_time() - start) * 1000 / count


def throughput(security: str, size: int = WRITE, total: int = 64 << 20) -> float:
    """Megabytes a second over one stream in writes of ``size``, flushed one by one."""
    pair = Pair(security, keys())
    pair.pump()
    stream = pair.initiator.open_stream([PROTOCOL])
    pair.pump()
    data = os.urandom(size)
    sent = 0
    start = time.process_time()
    while sent < total:
        rest = data
        while rest:
            taken = pair.initiator.send_data(stream, rest)
            pair.move(pair.initiator, pair.responder)
            pair.move(pair.responder, pair.initiator)
            rest = rest[taken:]
        sent += size
    return total / (time.process_time() - start) / 1e6


def round_trips(security: str, count: int = 5000) -> float:
    """Microseconds of CPU for 32 bytes there and back on an open stream, both sides."""
    pair = Pair(security, keys())
    pair.pump()
    stream = pair.initiator.open_stream([PROTOCOL])
    pair.pump()
    data = os.urandom(32)
    start = time.process_time()
    for _ in range(count):
        pair.initiator.send_data(stream, data)
        pair.move(pair.initiator, pair.responder)
        pair.responder.send_data(stream, data)
        pair.move(pair.responder, pair.initiator)
    return (time.process_time() - start) * 1e6 / count


def opens(security: str, count: int = 2000) -> float:
    """Microseconds of CPU to open a stream, agree, send 32 bytes and end it both ways."""
    pair = Pair(security, keys())
    pair.pump()
    data = os.urandom(32)
    start = time.process_time()
    for _ in range(count):
        stream = pair.initiator.open_stream([PROTOCOL])
        pair.initiator.send_data(stream, data)
        pair.initiator.end_stream(stream)
        pair.move(pair.initiator, pair.responder)
        pair.responder.end_stream(stream)
        pair.move(pair.responder, pair.initiator)
    assert pair.initiator.stream_count == pair.responder.stream_count == 0
    return (time.process_time() - start) * 1e6 / count


def burst(security: str, count: int = 256, repeat: int = 20) -> float:
    """Microseconds of CPU for one of many small messages on as many streams in one turn."""
    pair = Pair(security, keys())
    pair.pump()
    streams = [pair.initiator.open_stream([PROTOCOL]) for _ in range(count)]
    pair.pump()
    data = os.urandom(200)
    start = time.process_time()
    for _ in range(repeat):
        for stream in streams:
            pair.initiator.send_data(stream, data)
        pair.move(pair.initiator, pair.responder)
    return (time.process_time() - start) * 1e6 / (count * repeat)


ROWS: tuple[tuple[str, str, Callable[[str], float], bool], ...] = (
    ("link from nothing to ready, both sides", "ms CPU", handshakes, False),
    ("one stream, writes of 64 KiB", "MB/s", throughput, True),
    (
        f"one stream, writes of {MAX_DATA} bytes",
        "MB/s",
        lambda security: throughput(security, MAX_DATA),
        True,
    ),
    (
        "one stream, writes of 1 KiB",
        "MB/s",
        lambda security: throughput(security, 1024, 8 << 20),
        True,
    ),
    ("32 bytes there and back", "us CPU", round_trips, False),
    ("stream opened, used and ended", "us CPU", opens, False),
    ("a message in a burst of 256 streams", "us CPU", burst, False),
)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--security", default="noise", choices=("noise", "plaintext"))
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    for what, unit, measure, more_is_better in ROWS:
        figures = [measure(options.security) for _ in range(options.rounds)]
        best = max(figures) if more_is_better else min(figures)
        print(f"{what:42} {best:10.2f} {unit}")


if __name__ == "__main__":
    main()
