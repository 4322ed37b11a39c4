"""Nodes with tasks on virtual time: what they are asked, what goes wrong, and what has to hold.

Enters: a seed. Leaves: a history, for :mod:`bzzz.testing.tasks.checker`.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Collection
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.logger import Logger

from bzzz.errors import BzzzError
from bzzz.identity.keys import PrivateKey
from bzzz.identity.peer_id import PeerID
from bzzz.net.background import in_background
from bzzz.tasks.executors.interfaces import Run
from bzzz.tasks.messages import Refused
from bzzz.tasks.reading import is_open
from bzzz.tasks.record import Produced, State
from bzzz.tasks.service import TaskService
from bzzz.tasks.submission import Submission
from bzzz.tasks.value import TaskRecord, decode_record
from bzzz.tasks.world import TaskWorld
from bzzz.testing.clock import NodeClock, SimReactor
from bzzz.testing.tasks.checker import same_end
from bzzz.testing.tasks.disk import Platter, SimDisk
from bzzz.testing.tasks.executor import SimExecutor
from bzzz.testing.tasks.history import (
    Acknowledged,
    CancelWanted,
    Decided,
    Final,
    History,
    RetryWanted,
    Submitted,
)
from bzzz.testing.tasks.network import SimPeers, TaskNetwork
from bzzz.testing.tasks.placer import SimPlacer

__all__ = ["TaskNode", "TaskSimulation"]

# By how much a node's clock is fast or slow at most.
DRIFT = 0.1

# Tasks that one node runs at once.
ROOM = 12

# Seconds that the network and all nodes are left well at the end, for tasks to end.
PEACE = 240.0


class _Everybody:
    """Implements :class:`bzzz.tasks.world.Trusted`: all nodes are members with all rights."""

    def __init__(self, peers: Collection[PeerID]) -> None:
        self._peers = peers

    def members(self) -> Collection[PeerID]:
        return self._peers

    def may_submit(self, peer: PeerID) -> bool:
        return True

    def may_run(self, peer: PeerID) -> bool:
        return True


class _Workspace:
    """Implements :class:`bzzz.tasks.interfaces.Workspace` without files."""

    def prepare(self, submission: Submission, token: int, env: dict[str, str]) -> Deferred[Run]:
        return succeed(
            Run(
                key=f"{submission.task}.{token}",
                argv=submission.command,
                env=env,
                directory="/",
                stdout="",
                stderr="",
                timeout=submission.timeout,
            )
        )

    def collect(self, submission: Submission, token: int) -> Deferred[Produced]:
        return succeed(Produced())

    def clean(self, task: str, token: int) -> None:
        pass


class TaskNode:
    """One machine.

    :ivar service: of the process that runs; None while none does.
    """

    def __init__(self, simulation: TaskSimulation, number: int) -> None:
        self.name = f"n{number}"
        self.simulation = simulation
        self.key = PrivateKey(simulation.random.randbytes(32))
        self.peer = self.key.peer_id
        self.platter = Platter()
        self.service: TaskService | None = None
        self.executor: SimExecutor | None = None
        self.clock: NodeClock
        self.draining = False

    def start(self) -> None:
        """Start the process."""
        simulation = self.simulation
        draw = simulation.random
        own = random.Random(draw.randbytes(16))  # nosec B311  # noqa: S311 - no secrets
        clock = self.clock = NodeClock(
            simulation.reactor,
            1.0 + DRIFT * (2 * draw.random() - 1) * simulation.drift,
            draw.random() * 1000,
            draw.random() * 20 - 10,
        )
        disk = SimDisk(self.platter, clock, own, is_open, lambda: self.end("fsync failed"))
        executor = self.executor = SimExecutor(
            simulation.reactor, clock, own, str(self.peer), simulation.history
        )
        peers = SimPeers(simulation.network, self.peer, clock)
        taken: set[str] = set()

        def admit(peer: PeerID, submission: Submission) -> Refused | dict[str, str]:
            if self.draining or len(taken) >= ROOM:
                return Refused("draining" if self.draining else "busy")
            taken.add(submission.task)
            return {}

        world = TaskWorld(
            clock=clock,
            wall_time=clock.wall_time,
            rng=own,
            random_bytes=own.randbytes,
            key=self.key,
            store=disk,
            peers=peers,
            trusted=_Everybody(simulation.peers),
            executor=executor,
            workspace=_Workspace(),
            admit=admit,
            give_back=taken.discard,
        )
        service = self.service = TaskService(
            world,
            lambda place: SimPlacer(
                clock,
                own.random,
                lambda: [self.peer, *peers.linked()],
                place,
                ROOM,
            ),
        )
        peers.answer = service.answer
        peers.links_changed = service.driver.links_changed
        service.on_change(self._changed)
        simulation.network.join(peers)
        in_background(service.start(), "starting", simulation.log)

    def end(self, why: str, silently: bool = False) -> None:
        """The process ends, without having been asked.

        :param silently: the whole machine does.
        """
        if self.service is None:
            return
        self.simulation.note(self.name, why)
        self.clock.crashed = True
        self.service = None
        self.simulation.network.leave(self.peer, silently)
        if self.executor is not None:
            self.executor.daemon_died(silently)
            self.executor = None

    def _changed(self, record: TaskRecord, settled: bool) -> None:
        if settled:
            simulation = self.simulation
            simulation.history.add(Decided(simulation.reactor.now, record.task, record.state))


class TaskSimulation:
    """All of it.

    :param seed: the same gives the same.
    :param nodes: how many.
    :param drift: share of :data:`DRIFT` by which clocks are wrong.
    """

    log = Logger()

    def __init__(self, seed: int, nodes: int = 7, drift: float = 1.0) -> None:
        self.random = random.Random(seed)  # nosec B311  # noqa: S311 - a simulation
        self.reactor = SimReactor(self.random)
        self.network = TaskNetwork(self.reactor, self.random)
        self.history = History()
        self.drift = drift
        self.notes: list[str] = []
        self.failures: list[str] = []
        self.known: dict[str, TaskRecord] = {}
        self._digest = hashlib.blake2b(digest_size=8)
        self.peers: list[PeerID] = []
        self.nodes = [TaskNode(self, number) for number in range(nodes)]
        self.peers = [node.peer for node in self.nodes]
        for node in self.nodes:
            node.start()

    # -- what is done

    def plan_tasks(self, count: int, seconds: float) -> None:
        """Have tasks submitted in the coming seconds, some of them cancelled or retried."""
        for _ in range(count):
            at = 2.0 + self.random.random() * seconds
            self.reactor.callLater(at, self._submit)

    def plan_faults(self, count: int, seconds: float) -> None:
        """Have things go wrong in the coming seconds; then all is mended."""
        for _ in range(count):
            self.reactor.callLater(2.0 + self.random.random() * seconds, self._fault, seconds)
        self.reactor.callLater(seconds + 2.0, self._mend)

    def run(self, seconds: float) -> None:
        """Let time pass, and until all tasks have ended, or have had the time to."""
        self.reactor.run_until(self.reactor.now + seconds)
        self._mend()
        end = self.reactor.now + PEACE
        while self.reactor.now < end and not self._all_ended():
            self.reactor.run_until(self.reactor.now + 5.0)
        self._look()

    @property
    def digest(self) -> str:
        """Of the history."""
        told = hashlib.blake2b(digest_size=8)
        for event in self.history.events:
            told.update(repr(event).encode())
        return told.hexdigest()

    def note(self, node: str, what: str) -> None:
        """Remember what went wrong, and when."""
        self.notes.append(f"{self.reactor.now:8.3f} {node} {what}")

    # -- inside

    def _live(self) -> list[TaskNode]:
        return [node for node in self.nodes if node.service is not None]

    def _submit(self) -> None:
        live = self._live()
        if not live:
            return
        draw = self.random
        node = draw.choice(live)
        service = node.service
        if service is None:
            return
        seconds = round(0.02 + draw.expovariate(1.0), 3)
        status = 0 if draw.random() < 0.85 else 1
        once = draw.random() < 0.15
        task = service.new_id()
        wanted = Submission(
            task=task,
            origin="",
            replicas=("",),
            command=("sim", str(seconds), str(status)),
            retries=0 if once else draw.choice((0, 0, 1, 3)),
            restart=not once,
            timeout=draw.choice((0.0, 0.0, 0.0, 2.0)),
            lease=draw.choice((1.0, 3.0, 3.0)),
        )
        placer: Any = service.placer
        worker = placer.suggest() if draw.random() < 0.9 else ""
        self.history.add(Submitted(self.reactor.now, task, at_most_once=once))
        in_background(self._submitting(service, wanted, worker), "submitting", self.log)
        if draw.random() < 0.07:
            self.reactor.callLater(draw.expovariate(0.5), self._cancel, task)
        if draw.random() < 0.05:
            self.reactor.callLater(10.0 + draw.expovariate(0.2), self._retry, task)

    async def _submitting(self, service: TaskService, wanted: Submission, worker: str) -> None:
        try:
            record = await service.submit(wanted, worker)
        except BzzzError:
            return
        self.known[record.task] = record
        self.history.add(Acknowledged(self.reactor.now, record.task))

    def _cancel(self, task: str) -> None:
        live = self._live()
        record = self.known.get(task)
        if live and record is not None:
            self.history.add(CancelWanted(self.reactor.now, task))
            service: Any = self.random.choice(live).service
            in_background(self._trying(service.cancel(record)), "cancelling", self.log)

    def _retry(self, task: str) -> None:
        live = self._live()
        if live and task in self.known:
            service: Any = self.random.choice(live).service
            in_background(self._retrying(service, task), "retrying", self.log)

    async def _retrying(self, service: TaskService, task: str) -> None:
        try:
            record = await service.find(task)
        except BzzzError:
            return
        if record.has_ended:
            self.history.add(RetryWanted(self.reactor.now, task))
            await self._trying(service.retry(record))

    async def _trying(self, doing: Any) -> None:
        try:
            await doing
        except BzzzError:
            return

    def _fault(self, seconds: float) -> None:
        draw = self.random
        node = draw.choice(self.nodes)
        length = draw.choice((0.3, 2.0, 10.0, 25.0)) * draw.random()
        kind = draw.choice(
            (
                "kill",
                "kill",
                "vanish",
                "partition",
                "loss",
                "stall",
                "reset",
                "full",
                "fsync",
                "drain",
            )
        )
        self.note(node.name, f"{kind} for {length:.2f}")
        later = self.reactor.callLater
        if kind in ("kill", "vanish"):
            node.end(kind, silently=kind == "vanish")
            later(length, self._start, node)
        elif kind == "partition":
            group = [each.peer for each in self.nodes if draw.random() < 0.4]
            self.network.partition(group)
            later(length, self.network.heal)
        elif kind == "loss":
            self.network.loss = 0.2
            later(length, setattr, self.network, "loss", 0.0)
        elif kind == "stall":
            if node.service is not None:
                node.clock.stall(length)
        elif kind == "reset":
            self.network.reset()
        elif kind == "full":
            node.platter.full = True
            later(length, setattr, node.platter, "full", False)
        elif kind == "drain":
            node.draining = True
            later(length, setattr, node, "draining", False)
        else:
            node.platter.failing = True

    def _start(self, node: TaskNode) -> None:
        if node.service is None:
            node.start()

    def _mend(self) -> None:
        self.network.loss = 0.0
        self.network.heal()
        for node in self.nodes:
            node.platter.full = False
            node.platter.failing = False
            node.draining = False
            self._start(node)

    def _all_ended(self) -> bool:
        return all(node.service is not None and not len(node.service.driver) for node in self.nodes)

    def _look(self) -> None:
        """See what a majority of each task's replicas has."""
        platters = {str(node.peer): node.platter for node in self.nodes}
        for event in [each for each in self.history.events if isinstance(each, Submitted)]:
            kept = [
                platter.kept[event.task]
                for platter in platters.values()
                if event.task in platter.kept and platter.kept[event.task].accepted is not None
            ]
            state = None
            problem = ""
            if kept:
                # The greatest ballot that was accepted. Where it is not of a majority, whoever
                # reads decides it, or one before it; the nodes had the time to.
                last = max(kept, key=lambda each: each.accepted or (0, 0))
                record = decode_record(last.value)
                state = record.state
                having = sum(each.accepted == last.accepted for each in kept)
                majority = len(record.submission.replicas) // 2 + 1
                if having < majority and state.state is State.ENDED:
                    # Late words of attempts that count no more may be on fewer.
                    same = sum(same_end(decode_record(each.value).state, state) for each in kept)
                    if same < majority:
                        problem = f"its end is on {same} replicas"
            self.history.add(Final(self.reactor.now, event.task, state, problem))
