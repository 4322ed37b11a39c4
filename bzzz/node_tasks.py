"""The part of the composition root that has to do with tasks.

Everything here is wiring; what it does is in :mod:`bzzz.tasks`.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, TimeoutError
from twisted.logger import Logger

from bzzz.errors import BzzzError, LocalProtocolError
from bzzz.identity.peer_id import PeerID
from bzzz.mesh.availability import Availability, FreeRoom
from bzzz.mesh.capability import CapabilityDocument
from bzzz.mesh.node import MeshNode
from bzzz.net.link import Link
from bzzz.net.periodic import Periodic
from bzzz.node_trust import NodeTrust
from bzzz.state import OpenState
from bzzz.tasks.announcing import Announcing
from bzzz.tasks.boot_clock import BootClock
from bzzz.tasks.executors.process import ProcessExecutor
from bzzz.tasks.files.files import Files
from bzzz.tasks.input_pins import InputPins
from bzzz.tasks.messages import Answer, Refused, Request
from bzzz.tasks.output import OutputFiles
from bzzz.tasks.output_streams import OutputStreams
from bzzz.tasks.owner_rules import EVERYTHING, OwnerRules, offered
from bzzz.tasks.peers import SwarmPeers
from bzzz.tasks.placement import Candidate, Wanted, suits
from bzzz.tasks.placing import Placing
from bzzz.tasks.reading import is_open
from bzzz.tasks.register_store import SqliteRegisterStore
from bzzz.tasks.requirements import Facts
from bzzz.tasks.requirements import compile as compile_requirement
from bzzz.tasks.service import TaskService
from bzzz.tasks.slots import Need, Room, Short, Slots, gpu_environment, usable_gpus
from bzzz.tasks.submission import Submission
from bzzz.tasks.value import TaskRecord
from bzzz.tasks.workspace import AttemptFiles
from bzzz.tasks.world import TaskWorld
from bzzz.trust.cluster import Cluster
from bzzz.trust.statements import Right
from bzzz.web.file_routes import FileRoutes
from bzzz.web.members import find_member
from bzzz.web.requests import Refusal
from bzzz.web.routes import Routes
from bzzz.web.task_routes import TaskRoutes
from bzzz.web.workflow_routes import WorkflowRoutes
from bzzz.wire.identify import Identify
from bzzz.wire.multiaddr import Multiaddr

__all__ = ["NodeTasks"]

ATTEMPTS = "tasks"
CACHE = "chunks"

# Bytes of the output of ended attempts, and of the cache of files, that are kept.
OUTPUT_QUOTA = 1 << 30
CACHE_QUOTA = 10 << 30


# Seconds that replicas have to hear of the attempts that are killed when the node stops. Where none
# does, the next attempt begins when their leases are over.
TELL_TIMEOUT = 5.0

# Seconds between two looks for tasks that ended long ago.
FORGET_EVERY = 3600.0


class _Rights:
    """Implements :class:`bzzz.tasks.world.Trusted` by the roster.

    An unclaimed node runs what its owner submits to it, and nothing else.
    """

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._own = cluster.peer_id

    def members(self) -> Collection[PeerID]:
        roster = self._cluster.roster
        return (self._own,) if roster is None else tuple(roster.members)

    def may_submit(self, peer: PeerID) -> bool:
        return self._may(peer, Right.SUBMIT)

    def may_run(self, peer: PeerID) -> bool:
        return self._may(peer, Right.RUN)

    def is_member(self, peer: PeerID) -> bool:
        admission = self._cluster.admission
        return not admission.is_open and admission.admits(peer)

    def _may(self, peer: PeerID, right: Right) -> bool:
        admission = self._cluster.admission
        if admission.is_open:
            return peer == self._own
        return admission.admits(peer) and right in admission.rights(peer)


class NodeTasks:
    """Tasks, for one node on a real machine.

    :param document: this node's capability document as it is now.
    :param disk_broken: has the process end, as its disk cannot be trusted any more.
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
        mesh: MeshNode,
        in_thread: Callable[[Callable[[], Any]], Deferred[Any]],
        disk_broken: Callable[[str], object],
    ) -> None:
        cluster = trust.cluster
        self._cluster = cluster
        self._mesh = mesh
        self._own = state.peer_id
        self._own_text = str(state.peer_id)
        self._availability = availability
        self._document = document
        self._facts: dict[str, Facts] = {}
        self._rules: OwnerRules = EVERYTHING
        self._slots: Slots | None = None
        self._reactor = reactor
        self._clock = BootClock(reactor)
        self._in_thread = in_thread
        self._rights = _Rights(cluster)
        self._directory = Path(state.path) / ATTEMPTS
        self.executor = ProcessExecutor(reactor)
        self.files = Files(
            mesh.swarm,
            self._clock,
            Path(state.path) / CACHE,
            CACHE_QUOTA,
            in_thread,
            self._rights.is_member,
            cluster.admission.name_of,
        )
        self.workspace = AttemptFiles(self._directory, OUTPUT_QUOTA, in_thread, self.files)
        peers = SwarmPeers(mesh.swarm, self._answer, self._rights.is_member, self._links_changed)
        self.service = TaskService(
            TaskWorld(
                clock=self._clock,
                wall_time=time.time,
                rng=rng,
                random_bytes=os.urandom,
                key=state.identity,
                store=SqliteRegisterStore(trust.database, is_open),
                peers=peers,
                trusted=self._rights,
                executor=self.executor,
                workspace=self.workspace,
                admit=self._admit,
                give_back=self._give_back,
                run_over=self._run_over,
                disk_broken=disk_broken,
                files=self.files,
                name_of=self.name_of,
            ),
            lambda place: Placing(self._clock, rng, place, self._describe, self.name_of),
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
        availability.room = self._room
        availability.on_change(lambda: self.placing.member_changed(self._own_text))

    async def start(self) -> None:
        """Go on with the tasks that are on disk: when the mesh has started.

        :raises BzzzError: what is on disk cannot be used.
        """
        resources = self._document().resources
        room = offered(resources, self._rules, self._availability.max_tasks)
        gpus = usable_gpus(resources.gpus)[: room.gpus]
        self._slots = Slots(room.cpus, room.memory, gpus, room.tasks)
        await self.workspace.start()
        await self.files.start()
        await self.service.start()
        self._forgetting.start()
        self._everybody_changed()

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
        self.files.stop()

    def routes(self) -> Sequence[Routes]:
        """The routes of the control API."""
        return (
            FileRoutes(self._clock, self.files),
            WorkflowRoutes(
                self._clock, self.service, self._in_thread, self._find_node, self.name_of
            ),
            TaskRoutes(
                self._clock,
                self.service,
                self.placing,
                self.outputs,
                self._find_node,
                self.name_of,
                self._drain,
            ),
        )

    def name_of(self, peer: str) -> str:
        """What the member with a peer ID is called; its short ID where that is not known."""
        if peer == self._own_text:
            return self._cluster.admission.name_of(self._own) or self._mesh.settings.name
        for each in (*self._rights.members(), *self._mesh.swarm.links):
            if str(each) == peer:
                return (
                    self._cluster.admission.name_of(each)
                    or self._mesh.membership.name_of(each)
                    or each.short
                )
        return peer[-6:]

    def max_tasks_changed(self) -> None:
        """Another number of tasks may run at one time."""
        if self._slots is not None:
            self._slots.set_max_tasks(self._availability.max_tasks)
        self.placing.member_changed(self._own_text)

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
        return self.service.answer(peer, request)

    def _links_changed(self) -> None:
        self.service.driver.links_changed()

    def _everybody_changed(self) -> None:
        if self._slots is not None:
            for peer in (self._own, *self._rights.members(), *self._mesh.swarm.links):
                self.placing.member_changed(str(peer))

    def _record_changed(self, record: TaskRecord, settled: bool) -> None:
        if settled:
            self.placing.ended(record)
            self._announcing.decided(record)

    # -- what this machine can do

    def _room(self) -> FreeRoom | None:
        if self._slots is None:
            return None
        free = self._slots.free
        return FreeRoom(cpus=free.cpus, memory_bytes=free.memory, gpus=free.gpus)

    def _admit(self, peer: PeerID, submission: Submission) -> Refused | dict[str, str]:
        """See :data:`bzzz.tasks.worker.Admit`."""
        slots = self._slots
        own = self._describe(self._own_text)
        if slots is None or own is None:
            return Refused("the node is starting")
        try:
            requirement = compile_requirement(submission.where)
        except BzzzError as error:
            return Refused(str(error), for_good=True)
        wanted = Wanted.of(submission, self.name_of(submission.origin))
        unfit = suits(wanted, requirement, own)
        if unfit:
            return Refused(unfit[0].text, for_good=unfit[0].never)
        taken = slots.take(submission.task, Need.of(submission))
        if isinstance(taken, Short):
            return Refused(taken.reason, for_good=taken.never)
        self._availability.task_started()
        return gpu_environment(self._document().resources.gpus, taken.gpus)

    def _give_back(self, task: str) -> None:
        if self._slots is not None and self._slots.give_back(task):
            self._availability.task_ended()

    def _run_over(self, task: str, token: int) -> None:
        self._output.over(task, token)

    def _drain(self, on: bool) -> None:
        if on:
            self._availability.drain()
        else:
            self._availability.resume()

    def _describe(self, peer: str) -> Candidate | None:
        """What a member said last."""
        if peer == self._own_text:
            return self._own_candidate()
        each = next((one for one in self.service.peers.linked() if str(one) == peer), None)
        if each is None:
            return None
        document = self._mesh.broadcasts.documents.get(each)
        said = self._mesh.broadcasts.availabilities.get(each)
        if document is None or said is None:
            # Both come as soon as it is in the topic.
            return None
        everything = offered(document.resources, EVERYTHING, said.max_tasks)
        room = said.room
        return Candidate(
            peer=peer,
            name=self.name_of(peer),
            facts=self._facts_of(peer, document),
            may_run=self._rights.may_run(each),
            draining=said.status == "draining",
            max_tasks=said.max_tasks,
            room=Room(
                everything.cpus if room is None else room.cpus,
                everything.memory if room is None else room.memory_bytes,
                everything.gpus if room is None else room.gpus,
                max(0, said.max_tasks - said.current_tasks),
            ),
        )

    def _own_candidate(self) -> Candidate | None:
        if self._slots is None:
            return None
        return Candidate(
            peer=self._own_text,
            name=self.name_of(self._own_text),
            facts=self._facts_of(self._own_text, self._document()),
            may_run=self._rights.may_run(self._own),
            draining=self._availability.draining,
            max_tasks=self._availability.max_tasks,
            room=self._slots.free,
            rules=self._rules,
        )

    def _facts_of(self, peer: str, document: CapabilityDocument) -> Facts:
        known = self._facts.get(peer)
        if known is None or known.document != document:
            known = self._facts[peer] = Facts(document)
        return known

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
            " other. To make one: bzzz cluster create",
        )
