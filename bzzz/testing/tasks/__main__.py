"""``python -m bzzz.testing.tasks``: seeds one after the other, each checked."""

from __future__ import annotations

import argparse
import sys
import time

from bzzz.testing.tasks.checker import check
from bzzz.testing.tasks.history import Acknowledged, Started
from bzzz.testing.tasks.simulation import TaskSimulation

__all__ = ["main"]


def main() -> int:
    """Run seeds; 1 if one of them went wrong."""
    parser = argparse.ArgumentParser(prog="python -m bzzz.testing.tasks", description=__doc__)
    parser.add_argument("--first", type=int, default=1, help="the first seed")
    parser.add_argument("--seeds", type=int, default=1, help="how many")
    parser.add_argument("--nodes", type=int, default=7)
    parser.add_argument("--tasks", type=int, default=1000)
    parser.add_argument("--faults", type=int, default=40)
    parser.add_argument("--seconds", type=float, default=60.0, help="for which things go wrong")
    parser.add_argument("--notes", action="store_true", help="tell all that went wrong")
    options = parser.parse_args()
    print("  seed  submitted  kept  attempts  virtual s  wall s  digest            result")
    failed = 0
    for seed in range(options.first, options.first + options.seeds):
        began = time.monotonic()
        simulation = TaskSimulation(seed, options.nodes)
        simulation.plan_tasks(options.tasks, options.seconds)
        simulation.plan_faults(options.faults, options.seconds)
        simulation.run(options.seconds + 5.0)
        problems = check(simulation.history)
        events = simulation.history.events
        print(
            f"{seed:6} {options.tasks:10}"
            f" {sum(isinstance(each, Acknowledged) for each in events):5}"
            f" {sum(isinstance(each, Started) for each in events):9}"
            f" {simulation.reactor.now:10.1f} {time.monotonic() - began:7.1f}"
            f"  {simulation.digest}  {'ok' if not problems else 'FAILED'}",
            flush=True,
        )
        if problems:
            failed += 1
            print("\n".join(f"        {problem}" for problem in problems))
            if options.notes:
                print("\n".join(f"        {note}" for note in simulation.notes))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
