"""``python -m bzzz.testing``: many seeds of a faulty mesh, a line for each."""

from __future__ import annotations

import argparse
import gc
import sys
import time

from bzzz.testing.clusters import ClusterSimulation
from bzzz.testing.faults import Fault, plan_faults
from bzzz.testing.simulation import Simulation

# Virtual seconds after the last fault in which the mesh has to be whole: the longest wait between
# two dials, the time until a silent death is noticed, and a broadcast.
WHOLE_WITHIN = 60.0 + 10.0 + 30.0

# Seconds after that in which nobody who is no member may hear one: longer than between broadcasts.
QUIET = 35.0


def run(
    seed: int,
    nodes: int,
    faults: int,
    seconds: float,
    security: str,
    members: int,
    admins: int,
    acts: int,
) -> tuple[str, str]:
    """One seed: what came of it, in words, and the digest of its history."""
    cluster: ClusterSimulation | None = None
    if members:
        cluster = ClusterSimulation(seed, nodes, members, admins, security=security)
        simulation: Simulation = cluster
    else:
        simulation = Simulation(seed, nodes, security=security)
    begin = time.perf_counter()
    simulation.start_all()
    simulation.run(1.0)
    formed = simulation.run_until_whole(60.0)
    planned: list[Fault] = plan_faults(simulation, seconds, faults)
    if cluster is not None:
        planned = sorted(planned + cluster.plan_acts(seconds, acts), key=lambda fault: fault.time)
    simulation.run(seconds + 0.001)
    whole = simulation.run_until_whole(WHOLE_WITHIN)
    wall = time.perf_counter() - begin
    problems = simulation.problems()
    if cluster is not None:
        since = simulation.reactor.now
        simulation.run(QUIET)
        problems += cluster.leaks(since)
    print(
        f"{seed:>6} {simulation.reactor.calls:>10} {simulation.events:>9} "
        f"{simulation.reactor.now:>8.1f} {wall:>7.1f} "
        f"{'never' if formed is None else f'{formed + 1:.2f}':>7} "
        f"{'never' if whole is None else f'{whole:.2f}':>7} {len(simulation.live()):>5} "
        f"{simulation.digest[:16]} {'FAILED' if problems else 'ok'}",
        flush=True,
    )
    if problems:
        print(f"seed {seed} failed; its faults were:")
        for fault in planned:
            print(f"  {fault.time:9.3f} {fault.what}")
        for problem in problems:
            print(f"  {problem}")
    return ("failed" if problems else "ok"), simulation.digest


def main() -> int:
    """Run the seeds; 1 if one failed."""
    parser = argparse.ArgumentParser(prog="python -m bzzz.testing", description=__doc__)
    parser.add_argument("--nodes", type=int, default=30)
    parser.add_argument("--seeds", type=int, default=5, help="how many")
    parser.add_argument("--first", type=int, default=1, help="the first seed")
    parser.add_argument("--faults", type=int, default=12)
    parser.add_argument("--seconds", type=float, default=60.0, help="virtual time with faults")
    parser.add_argument("--noise", action="store_true", help="encrypt the links; slower")
    parser.add_argument("--replay", action="store_true", help="run each seed twice and compare")
    parser.add_argument("--members", type=int, default=0, help="of a cluster; 0 for none")
    parser.add_argument("--admins", type=int, default=4, help="among the members")
    parser.add_argument("--acts", type=int, default=30, help="of admins while there are faults")
    options = parser.parse_args()
    print(
        f"{'seed':>6} {'calls':>10} {'events':>9} {'virtual':>8} {'wall s':>7} {'formed':>7} "
        f"{'whole':>7} {'live':>5} {'digest':16} result"
    )
    failed = 0
    security = "noise" if options.noise else "plaintext"
    for seed in range(options.first, options.first + options.seeds):
        # Collecting while a world grows costs a third of the time; its remains go here.
        gc.disable()
        gc.collect()
        runs = [
            run(
                seed,
                options.nodes,
                options.faults,
                options.seconds,
                security,
                options.members,
                options.admins,
                options.acts,
            )
            for _ in range(2 if options.replay else 1)
        ]
        if any(result == "failed" for result, _ in runs):
            failed += 1
        if len({digest for _, digest in runs}) > 1:
            print(f"seed {seed} was not the same when it was replayed")
            failed += 1
    print(f"{options.seeds - failed} seeds ok, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
