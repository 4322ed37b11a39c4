"""Celery with Redis: tasks that do nothing on three worker processes; prints JSON.

python celery_peer.py REDIS_PORT TASKS ONE_BY_ONE
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time

from celery import Celery

app = Celery("celery_peer")
URL = os.environ.get("BROKER", "")
app.conf.update(broker_url=URL, result_backend=URL, worker_prefetch_multiplier=8)


@app.task
def nothing(number: int) -> int:
    return number


def main() -> None:
    port, many, few = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    url = f"redis://127.0.0.1:{port}/0"
    app.conf.update(broker_url=url, result_backend=url)
    worker = subprocess.Popen(
        [sys.executable, "-m", "celery", "-A", "celery_peer", "worker", "-c", "3", "-l", "ERROR"],
        env={**os.environ, "BROKER": url, "C_FORCE_ROOT": "1"},
        cwd=os.path.dirname(os.path.abspath(__file__)),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        for result in [nothing.delay(number) for number in range(50)]:
            result.get(timeout=60)
        begin = time.perf_counter()
        for result in [nothing.delay(number) for number in range(many)]:
            result.get(timeout=60)
        rate = many / (time.perf_counter() - begin)
        times = []
        for number in range(few):
            begin = time.perf_counter()
            nothing.delay(number).get(timeout=60)
            times.append(time.perf_counter() - begin)
    finally:
        worker.terminate()
        worker.wait(30)
    print(json.dumps({"rate": rate, "one_ms": statistics.median(times) * 1000}))


if __name__ == "__main__":
    main()
