"""A schedule of faults, drawn from the seed of the simulation."""

from __future__ import annotations

from dataclasses import dataclass

from bzzz.testing.simulation import SimNode, Simulation

__all__ = ["Fault", "plan_faults"]


# Share of the faults that end only when all do.
TO_THE_END = 1 / 3

# Seconds that a process may be starved of CPU: longer than others wait for it to answer.
LONGEST_STARVING = 20.0


@dataclass(frozen=True)
class Fault:
    """What happens when; printed with a seed that failed."""

    time: float
    what: str


def plan_faults(simulation: Simulation, seconds: float, count: int) -> list[Fault]:
    """Plan ``count`` faults within the coming ``seconds``, and their ends.

    Processes are killed and machines vanish, and come back; processes are starved; the network is
    cut in two and heals; packets are lost for a while. A third of the faults last until the time is
    over. Then everything is up and healed, but for some nodes that stay dead.
    """
    draw = simulation.random
    reactor = simulation.reactor
    planned: list[Fault] = []

    def plan(delay: float, what: str, call: object, *arguments: object) -> None:
        planned.append(Fault(reactor.now + delay, what))
        reactor.callLater(delay, call, *arguments)  # type: ignore[arg-type]  # any callable will do

    for _ in range(count):
        begin = draw.random() * seconds * 0.95
        length = seconds - begin
        if draw.random() > TO_THE_END:
            length *= draw.random()
        kind = draw.choice(("kill", "kill", "vanish", "partition", "loss", "stop", "starve"))
        node = draw.choice(simulation.nodes)
        if kind in ("kill", "vanish", "stop"):
            plan(begin, f"{kind} {node.name}", _end, node, kind)
            if draw.random() < 0.8:
                plan(begin + length, f"start {node.name}", _start, node)
        elif kind == "starve":
            length = min(length, LONGEST_STARVING)
            plan(begin, f"starve {node.name} for {length:.1f} s", _starve, node, length)
        elif kind == "partition":
            half = [each for each in simulation.nodes if draw.random() < 0.5]
            groups = [[each.host for each in half]]
            plan(begin, f"partition {len(half)} away", simulation.network.partition, groups)
            plan(begin + length, "heal", simulation.network.heal)
        else:
            plan(begin, "lose 10 %", setattr, simulation.network, "loss", 0.1)
            plan(begin + length, "lose nothing", setattr, simulation.network, "loss", 0.0)
    plan(seconds, "heal", simulation.network.heal)
    plan(seconds, "lose nothing", setattr, simulation.network, "loss", 0.0)
    return sorted(planned, key=lambda fault: fault.time)


def _end(node: SimNode, kind: str) -> None:
    if node.alive:
        {"kill": node.kill, "vanish": node.vanish, "stop": node.stop}[kind]()


def _starve(node: SimNode, seconds: float) -> None:
    if node.alive:
        node.host.clock.stall(seconds)


def _start(node: SimNode) -> None:
    if not node.alive:
        node.start()
