"""The part of the composition root that has to do with tasks.

Everything here is wiring; what it does is in :mod:`bzzz.tasks`.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, TimeoutError, succeed
from twisted.logger import Logger

from bzzz.config import Config
from bzzz.config.options import PROFILES
from bzzz.errors import IdentityError, LocalProtocolError
from bzzz.identity.peer_id import PeerID
from bzzz.mesh.availability import Availability
from bzzz.mesh.capability import CapabilityDocument, OwnerRules
from bzzz.mesh.node import MeshNode
from bzzz.net.background import in_background
from bzzz.net.link import Link
from bzzz.net.periodic import Periodic
from bzzz.node_trust import NodeTrust
from bzzz.state import OpenState
from bzzz.tasks.announcing import Announcing
from bzzz.tasks.boot_clock import BootClock
from bzzz.tasks.candidates import Candidates
from bzzz.tasks.draining import Draining
from bzzz.tasks.executors.chosen import ChosenExecutor
from bzzz.tasks.files.files import Files
from bzzz.tasks.input_pins import InputPins
from bzzz.tasks.messages import Answer, Drain, Request
from bzzz.tasks.offering import Offering
from bzzz.tasks.output import OutputFiles
from bzzz.tasks.output_streams import OutputStreams
from bzzz.tasks.peers import SwarmPeers
from bzzz.tasks.placement import Candidate
from bzzz.tasks.placing import Placing
from bzzz.tasks.reading import counts, is_open
from bzzz.tasks.register_store import SqliteRegisterStore
from bzzz.tasks.rights import RosterRights
from bzzz.tasks.service import TaskService
from bzzz.tasks.value import TaskRecord, peer_id
from bzzz.tasks.workspace import AttemptFiles
from bzzz.tasks.world import TaskWorld
from bzzz.web.drain_routes import DrainRoutes
from bzzz.web.file_routes import FileRoutes
from bzzz.web.many_routes import ManyRoutes
from bzzz.web.members import find_member
from bzzz.web.requests import Refusal
from bzzz.web.routes import Routes, RoutesWhen
from bzzz.web.schema import DrainInfo
from bzzz.web.submit_routes import SubmitRoutes
from bzzz.web.submitting import Submitting
from bzzz.web.task_finding import TaskFinding
from bzzz.web.task_lines import TaskLines
from bzzz.web.task_routes import TaskRoutes
from bzzz.web.workflow_routes import WorkflowRoutes
from bzzz.web.workflow_why import WorkflowWhy
from bzzz.wire.identify import Identify
from bzzz.wire.multiaddr import Multiaddr

__all__ = ["RULES", "NodeTasks", "TaskLimits", "owner_rules"]

ATTEMPTS = "tasks"
CACHE = "chunks"

# Seconds that replicas have to hear of the attempts that are killed when the node stops. Where none
# does, the next attempt begins when their leases are over.
TELL_TIMEOUT = 5.0

# Seconds between two looks for tasks that ended long ago.
FORGET_EVERY = 3600.0


# Keys of the configuration that are an owner's rules.
RULES = (
    "task_forbid_command",
    "task_forbid_submitter",
    "task_profile",
    "task_cpus",
    "task_memory",
    "task_gpus",
)


def owner_rules(config: Config) -> OwnerRules:
    """What tasks may do here, as the configuration has it."""
    every = set(config.task_profile) == set(PROFILES)
    return OwnerRules(
        forbidden_commands=config.task_forbid_command,
        forbidden_submitters=config.task_forbid_submitter,
        profiles=() if every else config.task_profile,
        cpus=config.task_cpus,
        memory=config.task_memory,
        gpus=config.task_gpus,
    )


@dataclass(frozen=True)
class TaskLimits:
    """What tasks may take of the disk.

    :ivar output: bytes that are kept of each of an attempt's two outputs.
    :ivar output_quota: bytes that the output of all ended attempts may take.
    :ivar cache_quota: bytes that the cache of files may take.
    """

    output: int
    output_quota: int
    cache_quota: int

    @classmethod
    def of(cls, config: Config) -> TaskLimits:
        """As the configuration has it."""
        return cls(config.task_output_limit, config.task_output_quota, config.cache_quota)


class NodeTasks:
    """Tasks, for one node on a real machine.

    :param document: this node's capability document as it is now, with its owner's rules.
    :param disk_broken: has the process end, as its disk cannot be trusted any more.
    :param executor: runs commands.
    """

    _log = Logger()

    def __init__(
        self,
        state: OpenState,
        reactor: Any,
        rng: random.Random,
        trust: NodeTrust,
        availability: Availability,
        document: Callable[[], CapabilityDocument],
        limits: TaskLimits,
        mesh: MeshNode,
        in_thread: Callable[[Callable[[], Any]], Deferred[Any]],
        disk_broken: Callable[[str], object],
        executor: ChosenExecutor,
    ) -> None:
        cluster = trust.cluster
        self._cluster = cluster
        self._mesh = mesh
        self._own = state.peer_id
        self._own_text = str(state.peer_id)
        self._limits = limits
        self._is_started = False
        self._reactor = reactor
        self._clock = BootClock(reactor)
        self._in_thread = in_thread
        self._rights = RosterRights(cluster)
        self._directory = Path(state.path) / ATTEMPTS
        self.executor = executor
        self.files = Files(
            mesh.swarm,
            self._clock,
            Path(state.path) / CACHE,
            limits.cache_quota,
            in_thread,
            self._rights.is_member,
            cluster.admission.name_of,
        )
        self.workspace = AttemptFiles(
            self._directory, limits.output, limits.output_quota, in_thread, self.files
        )
        self.offering = Offering(
            self._own_text,
            document,
            availability,
            lambda: self._rights.may_run(self._own),
            self.name_of,
        )
        self.offering.problem = self._problem
        peers = SwarmPeers(mesh.swarm, self._answer, self._rights.is_member, self._links_changed)
        self.service = TaskService(
            TaskWorld(
                clock=self._clock,
                wall_time=time.time,
                rng=rng,
                random_bytes=os.urandom,
                key=state.identity,
                store=SqliteRegisterStore(trust.database, is_open, counts),
                peers=peers,
                trusted=self._rights,
                executor=self.executor,
                workspace=self.workspace,
                admit=self.offering.admit,
                give_back=self.offering.give_back,
                run_over=self._run_over,
                disk_broken=disk_broken,
                files=self.files,
                name_of=self.name_of,
            ),
            lambda place: Placing(self._clock, rng, place, self._describe, self.name_of),
        )
        self._others = Candidates(
            self.service.peers.linked,
            lambda: mesh.broadcasts.documents,
            lambda: mesh.broadcasts.availabilities,
            self._rights.may_run,
            self.name_of,
        )
        self._draining = Draining(
            self._own,
            availability,
            self.service.peers,
            self._rights.may_administer,
            self.name_of,
            trust.audit.record,
        )
        placing = self.service.placer
        if not isinstance(placing, Placing):
            raise TypeError("tasks are placed by another placer")
        self.placing = placing
        self.service.workflows.find_node = self._find_step_node
        worker = self.service.worker
        self._output = OutputFiles(
            self._clock, self.workspace.directory_of, worker.is_running, in_thread
        )
        self.outputs = OutputStreams(
            mesh.swarm,
            self._own,
            self._output,
            lambda peer: self._rights.is_member(peer) and self._rights.may_submit(peer),
        )
        self._forgetting = Periodic(
            self._clock, FORGET_EVERY, self.service.forget, "forgetting old tasks", self._log
        )
        self._announcing = Announcing(self._own_text, self._clock, mesh.broadcasts.tell_news)
        self.service.on_change(self._record_changed)
        self.workspace.share = self.service.share_outputs
        pins = InputPins(self.files)
        self.service.on_change(pins.changed)
        self.service.on_workflow(pins.workflow_changed)
        mesh.swarm.add_observer(peers)
        mesh.swarm.add_observer(self)
        mesh.broadcasts.on_update = lambda peer: self.placing.member_changed(str(peer))
        cluster.on_change(self._everybody_changed)
        availability.room = self.offering.room
        availability.on_change(lambda: self.placing.own_changed(self._own_text))

    async def start(self) -> None:
        """Go on with the tasks that are on disk: when the mesh has started.

        :raises BzzzError: what is on disk cannot be used, or commands cannot be run.
        """
        await self.executor.choose()
        self.offering.start()
        await self.workspace.start()
        await self.files.start()
        await self.service.start()
        self._forgetting.start()
        self._everybody_changed()
        self._is_started = True

    @property
    def running(self) -> int:
        """Attempts here whose ends are not recorded yet."""
        return len(self.service.worker)

    def drained(self) -> Deferred[None]:
        """Fires when there are none, which is later than when their commands have ended."""
        return self.service.worker.drain()

    async def stop(self) -> None:
        """End what runs, tell of it, and do nothing more: before the mesh stops."""
        self._forgetting.stop()
        self.placing.stop()
        self.service.worker.close()
        await self.executor.close()
        try:
            await self.drained().addTimeout(TELL_TIMEOUT, self._reactor)
        except TimeoutError:
            self._log.warn(
                "Nobody could be told how {count} task{s} ended",
                count=self.running,
                s="" if self.running == 1 else "s",
            )
        self.service.stop()
        self._announcing.stop()
        self.files.stop()

    def routes(self) -> Sequence[Routes]:
        """The routes of the control API."""
        finding = TaskFinding(self.service)
        lines = TaskLines(self._clock, self.service, self.outputs, self.name_of)
        find_node, name_of = self._find_node, self.name_of
        submitting = Submitting(
            self.service, self.placing, find_node, name_of, self._rights.workers
        )
        routes: Sequence[Routes] = (
            FileRoutes(self._clock, self.files),
            WorkflowRoutes(
                self._clock,
                self.service,
                finding,
                WorkflowWhy(self.service, submitting, name_of),
                self._in_thread,
                find_node,
                name_of,
            ),
            SubmitRoutes(self._clock, submitting, finding, lines, name_of),
            ManyRoutes(self._clock, self.service, submitting, self.outputs, name_of),
            TaskRoutes(self.service, finding, lines, name_of),
            DrainRoutes(self._own_text, self._draining, find_node, name_of, self._drains),
        )
        # Before, no task would be told to fit this node.
        return [RoutesWhen(each, lambda: self._is_started) for each in routes]

    def name_of(self, peer: str) -> str:
        """What the member with a peer ID is called; its short ID where that is not known."""
        if peer == self._own_text:
            return self._cluster.admission.name_of(self._own) or self._mesh.settings.name
        try:
            each = peer_id(peer)
        except IdentityError:
            return peer[-6:]
        on_roster = self._cluster.admission.name_of(each)
        return on_roster or self._mesh.membership.name_of(each) or each.short

    def drain_wish(self) -> DrainInfo | None:
        """Whose wish it is that this node takes no new tasks; None for nobody's."""
        wish = self._draining.wish
        if wish is None:
            return None
        return DrainInfo(name=self.name_of(wish.peer), peer_id=wish.peer, user=wish.user or None)

    def offer_changed(self) -> None:
        """The node's document says something else, or another number of tasks may run here."""
        self.offering.look()
        self.placing.member_changed(self._own_text)

    def limit(self, limits: TaskLimits) -> None:
        """Tasks may take so much of the disk from now on."""
        before, self._limits = self._limits, limits
        if limits.cache_quota != before.cache_quota:
            in_background(
                self.files.limit(limits.cache_quota), "limiting the cache of files", self._log
            )
        if (limits.output, limits.output_quota) != (before.output, before.output_quota):
            in_background(
                self.workspace.limit(limits.output, limits.output_quota),
                "limiting the output of tasks",
                self._log,
            )

    # -- swarm observer

    def link_up(self, link: Link) -> None:
        """Identify follows, and says whether it can be asked."""

    def link_down(self, link: Link, reason: str) -> None:
        """It cannot be given tasks any more."""
        self.placing.member_changed(str(link.remote_peer))

    def identified(self, link: Link, identify: Identify) -> None:
        """It may be given tasks."""
        self.placing.member_changed(str(link.remote_peer))

    def copy_found(self, address: Multiaddr | None) -> None:
        """Not of interest here."""

    # -- inside

    def _answer(self, peer: PeerID, request: Request) -> Deferred[Answer]:
        if isinstance(request, Drain):
            return succeed(self._draining.asked(peer, request))
        return self.service.answer(peer, request)

    def _links_changed(self) -> None:
        self.service.driver.links_changed()

    def _everybody_changed(self) -> None:
        if self.offering.is_started:
            for peer in (self._own, *self._rights.members(), *self._mesh.swarm.links):
                self.placing.member_changed(str(peer))

    def _record_changed(self, record: TaskRecord, settled: bool) -> None:
        if settled:
            self.placing.ended(record)
            self._announcing.decided(record)

    def _problem(self) -> str:
        """Why this node takes no tasks at the moment; empty where it does."""
        return self.executor.problem or self.service.replica.problem

    def _run_over(self, task: str, token: int) -> None:
        self._output.over(task, token)

    def _drains(self, peer: str) -> bool:
        """Whether another member drains, as it said last."""
        candidate = self._others.describe(peer)
        return candidate is not None and candidate.draining

    def _describe(self, peer: str) -> Candidate | None:
        """What a member said last."""
        if peer == self._own_text:
            return self.offering.candidate()
        return self._others.describe(peer)

    def _find_step_node(self, text: str) -> str:
        """The same for a workflow's step.

        :raises BzzzError: there is none, or several.
        """
        try:
            return self._find_node(text)
        except Refusal as refusal:
            raise LocalProtocolError(str(refusal)) from None

    def _find_node(self, text: str) -> str:
        """The peer ID of the member that somebody means.

        :raises Refusal: there is none, or several.
        """
        roster = self._cluster.roster
        if roster is not None:
            return str(find_member(roster, text).peer_id)
        if text in (self._own_text, self._own.short, self.name_of(self._own_text)):
            return self._own_text
        raise Refusal(
            404,
            "no_such_member",
            f"'{text}' is not this node, and it is in no cluster: only members run tasks of each"
            " other. To found one: bzzz cluster create NAME. To join one: bzzz invite on a machine"
            " that is in it, then bzzz join CODE here",
        )
