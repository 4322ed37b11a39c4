"""Lists the benchmarks."""

from __future__ import annotations

__all__ = ["main"]

LIST = """\
python -m benchmarks.setup      gets what is measured beside Bzzz; what is missing is left out
python -m benchmarks.links      dials, pings, streams, throughput: Bzzz, js-libp2p, py-libp2p
python -m benchmarks.pubsub     publish to delivered, and messages a second: the same three
python -m benchmarks.mesh       3 to 100 whole nodes: time to a full mesh, changes, crashes, CPU,
                                memory, idle traffic; Bzzz and HashiCorp's Serf
python -m benchmarks.hostile    a member under attack by strangers: pings of other members, CPU,
                                memory; Bzzz and js-libp2p
python -m benchmarks.tasks      tasks on three nodes: Bzzz, Dask distributed, Celery with Redis
python -m benchmarks.files      a directory sent to another node; cp -r
python -m benchmarks.wire_core  the protocol code alone, in memory

Each prints a table; --rounds N, --quick and --json FILE go with all but the last. Figures mean
something only on a machine that does nothing else, and only beside others of the same run."""


def main() -> None:
    """Print the list."""
    print(LIST)


if __name__ == "__main__":
    main()
