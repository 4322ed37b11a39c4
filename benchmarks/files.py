"""Files of tasks: a directory packed, sent to another node on loopback, and unpacked there.

    python -m benchmarks.files [--rounds 3] [--quick] [--json FILE]

The directory has one file of half its size, eight of an eighth of the rest, and so on down to a
thousand small ones; the two nodes are processes of their own. Beside it stand in the same run
``cp -r`` of the same directory, which crosses no network and verifies nothing, and one stream
between two nodes without files behind it. While the directory travels the link is pinged.
"""

from __future__ import annotations

import filecmp
import json
import os
import shutil
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

from benchmarks.common import (
    PEERS,
    Children,
    Target,
    arguments,
    cpu_seconds,
    number,
    progress,
    table,
    write_json,
)
from benchmarks.links import first_line, measure

__all__ = ["main"]

SIZE = 1_000_000_000
QUICK = 100_000_000

# Seconds for one fetch.
TIMEOUT = 300.0

ROWS = (
    ("pack_mb", "pack into the cache, MB/s", Target(200, False)),
    ("fetch_mb", "fetch over loopback, MB/s", Target(100, False)),
    ("unpack_mb", "unpack, MB/s", None),
    ("cp_mb", "cp -r, MB/s", None),
    ("stream_mb", "one stream without files, MB/s", None),
    ("fetch_cpu_ms", "CPU ms a MB, fetching side", None),
    ("serve_cpu_ms", "CPU ms a MB, serving side", None),
    ("idle_p50_ms", "ping before, p50 ms", None),
    ("idle_max_ms", "ping before, longest ms", None),
    ("busy_p50_ms", "ping while it travels, p50 ms", None),
    ("busy_p99_ms", "ping while it travels, p99 ms", Target(50, True)),
    ("busy_max_ms", "ping while it travels, longest ms", Target(50, True)),
)


def make_tree(root: Path, size: int) -> int:
    """Write a directory of about ``size`` bytes that cannot be compressed; how many it has."""
    made = 0
    for name, files, part in (("one", 1, 2), ("some", 8, 4), ("many", 64, 8), ("small", 1000, 8)):
        (root / name).mkdir(parents=True)
        for index in range(files):
            length = size // part // files
            (root / name / f"{index}.bin").write_bytes(os.urandom(length))
            made += length
    return made


def same(one: Path, other: Path) -> bool:
    """Whether two directories have the same in them."""
    compared = filecmp.dircmp(one, other)
    if compared.left_only or compared.right_only or compared.funny_files:
        return False
    _, differ, failed = filecmp.cmpfiles(one, other, compared.common_files, shallow=False)
    if differ or failed:
        return False
    return all(same(one / name, other / name) for name in compared.common_dirs)


def travel(place: Path, tree: Path, size: int) -> dict[str, float]:
    """One journey of the directory between two fresh nodes.

    :raises ValueError: what arrived is not what was sent.
    """
    with Children() as children:
        command = PEERS["bzzz"]("files")
        server = children.start(
            [*command, "serve", str(place / "serve"), str(tree)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        told = first_line(server)
        start_cpu = cpu_seconds(server.pid)
        client = children.start(
            [*command, "fetch", str(place / "fetch"), told["address"], told["digest"]],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        said, _ = client.communicate(timeout=TIMEOUT)
        if client.returncode:
            raise subprocess.CalledProcessError(client.returncode, client.args)
        figures: dict[str, float] = json.loads(said.splitlines()[-1])
        figures["serve_cpu_ms"] = (cpu_seconds(server.pid) - start_cpu) * 1e9 / size
        figures["pack_mb"] = told["pack_mb"]
    if not same(tree, place / "fetch.out"):
        raise ValueError("what arrived is not what was sent")
    return figures


def copied(place: Path, tree: Path, size: int) -> float:
    """MB/s of ``cp -r``."""
    start = time.perf_counter()
    subprocess.run(["cp", "-r", str(tree), str(place / "cp")], check=True)
    return size / 1e6 / (time.perf_counter() - start)


def main() -> None:
    """Print the table."""
    assert __doc__ is not None
    parser = arguments(__doc__, 3)
    parser.add_argument("--directory", type=Path, help="where the files are made, on which disk")
    options = parser.parse_args()
    rounds = options.rounds or (1 if options.quick else options.default_rounds)
    results: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory(prefix="bzzz-bench-", dir=options.directory) as name:
        tree = Path(name, "tree")
        size = make_tree(tree, QUICK if options.quick else SIZE)
        for turn in range(rounds):
            place = Path(name, "round")
            place.mkdir()
            progress(f"round {turn + 1}: cp -r")
            figures = {"cp_mb": copied(place, tree, size)}
            progress(f"round {turn + 1}: one stream")
            stream = measure(PEERS["bzzz"]("peer"), "throughput", size // 4)
            figures["stream_mb"] = stream["mb_per_second"]
            progress(f"round {turn + 1}: the directory travels")
            figures |= travel(place, tree, size)
            results.append(figures)
            shutil.rmtree(place)
    progress()
    rows = []
    for figure, label, target in ROWS:
        value = statistics.median(result[figure] for result in results)
        verdict = ["", ""] if target is None else [str(target), target.verdict(value)]
        rows.append([label, number(value), *verdict])
    print(table(["", "Bzzz", "target", ""], rows))
    write_json(options.json, "files", results)


if __name__ == "__main__":
    main()
