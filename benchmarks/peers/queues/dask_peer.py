"""Dask distributed: tasks that do nothing on three worker processes; prints JSON.

python dask_peer.py TASKS ONE_BY_ONE
"""

from __future__ import annotations

import json
import statistics
import sys
import time

from distributed import Client, LocalCluster


def nothing(number: int) -> int:
    return number


def main() -> None:
    many, few = int(sys.argv[1]), int(sys.argv[2])
    with (
        LocalCluster(n_workers=3, threads_per_worker=1, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        client.gather(client.map(nothing, range(-100, 0), pure=False))
        begin = time.perf_counter()
        client.gather(client.map(nothing, range(many), pure=False))
        rate = many / (time.perf_counter() - begin)
        times = []
        for number in range(few):
            begin = time.perf_counter()
            client.submit(nothing, number, pure=False).result()
            times.append(time.perf_counter() - begin)
    print(json.dumps({"rate": rate, "one_ms": statistics.median(times) * 1000}))


if __name__ == "__main__":
    main()
