"""The mesh as people see it: what the control API answers, read off the live node."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred

from bzzz import __version__
from bzzz.config import Config
from bzzz.events import EventLog, rfc3339
from bzzz.mesh.availability import Availability
from bzzz.mesh.capability import CapabilityDocument
from bzzz.mesh.member import Member
from bzzz.mesh.node import MeshNode
from bzzz.net.interfaces import Clock
from bzzz.systemd.unit import Unit
from bzzz.web.schema import (
    ConfigEntry,
    DrainInfo,
    Finding,
    NodeDocument,
    NodeState,
    PeerInfo,
    Status,
    UnitStatus,
)

__all__ = ["MeshView"]


class MeshView:
    """Implements :class:`~bzzz.web.view.NodeView` on a :class:`MeshNode`.

    :ivar state: None once the node takes part in the mesh, until it stops.
    :ivar config: in effect.
    :ivar unit: the systemd unit that the node runs in.
    :ivar executor: what runs the commands of tasks, and why that is not systemd; None for both
        until that is known.
    :ivar drain_wish: whose wish it is that it drains, None for nobody's.

    :param document: this node's capability document as it is now.
    :param mdns: the state of mDNS in words.
    :param doctor: looks for what keeps the node from meeting others.
    """

    def __init__(
        self,
        mesh: MeshNode,
        config: Config,
        events: EventLog,
        clock: Clock,
        wall_time: Callable[[], float],
        document: Callable[[], CapabilityDocument],
        availability: Availability,
        control_socket: Path,
        mdns: Callable[[], str],
        doctor: Callable[[], Deferred[Sequence[Finding]]],
    ) -> None:
        self.state: NodeState | None = "starting"
        self._mesh = mesh
        self.config = lambda: config
        self.unit: Callable[[], Unit | None] = lambda: None
        self.executor: Callable[[], tuple[str | None, str | None]] = lambda: (None, None)
        self.drain_wish: Callable[[], DrainInfo | None] = lambda: None
        self._events = events
        self._clock = clock
        self._wall_time = wall_time
        self._document = document
        self._availability = availability
        self._control_socket = control_socket
        self._mdns = mdns
        self._doctor = doctor
        self._started = wall_time()
        self._started_clock = clock.seconds()

    def status(self) -> Status:
        """See :class:`~bzzz.web.view.NodeView`."""
        mesh = self._mesh
        linked, taken = len(mesh.swarm.links), mesh.member_links
        roster = None if mesh.cluster is None else mesh.cluster.roster
        member = None if roster is None else roster.members.get(mesh.peer_id)
        executor, executor_reason = self.executor()
        return Status(
            name=self.config().name,
            peer_id=str(mesh.peer_id),
            short_id=mesh.peer_id.short,
            version=__version__,
            state=self.state or ("connected" if taken else "alone"),
            pid=os.getpid(),
            started=rfc3339(self._started),
            uptime_seconds=self._clock.seconds() - self._started_clock,
            listen_addresses=[str(address) for address in mesh.swarm.listen_addresses],
            peers_connected=linked,
            peers_known=len(mesh.membership.shown()),
            max_links=self.config().max_links,
            mdns=self._mdns(),
            available_for_work=self._availability.available_for_work,
            control_socket=str(self._control_socket),
            state_dir=str(self.config().state_dir),
            reactor_lag_seconds=mesh.lag.worst(),
            cluster=None if roster is None else roster.cluster,
            role=None if member is None else str(member.role or "no role"),
            guest_links=linked - taken,
            guest_peers=len(mesh.hosts()),
            unit=_unit(self.unit()),
            executor=executor,
            executor_reason=executor_reason,
            draining=(self.drain_wish() or DrainInfo()) if self._availability.draining else None,
        )

    def status_line(self) -> str:
        """``walnut: 2 peers, 0 tasks, ready``, for :program:`systemctl status`."""
        linked = self._mesh.member_links
        tasks = self._availability.current_tasks
        return (
            f"{self.config().name}: {linked} peer{'' if linked == 1 else 's'},"
            f" {tasks} task{'' if tasks == 1 else 's'}, {self.state or self._availability.status}"
        )

    def peers(self) -> Sequence[PeerInfo]:
        """See :class:`~bzzz.web.view.NodeView`."""
        return [self._peer(member) for member in self._mesh.membership.shown()]

    def capabilities(self) -> Sequence[NodeDocument]:
        """See :class:`~bzzz.web.view.NodeView`."""
        mesh = self._mesh
        own = self._document()
        nodes = [
            NodeDocument(
                peer_id=str(mesh.peer_id),
                short_id=mesh.peer_id.short,
                name=self.config().name,
                is_self=True,
                summary=own.describe(),
                capabilities=own,
                availability=self._availability.document(str(mesh.peer_id)),
            )
        ]
        return nodes + [self._node(member) for member in mesh.membership.shown()]

    def recent_events(self) -> Sequence[bytes]:
        """See :class:`~bzzz.web.view.NodeView`."""
        return self._events.recent_lines()

    def subscribe_events(self, callback: Callable[[dict[str, Any]], object]) -> Callable[[], None]:
        """See :class:`~bzzz.web.view.NodeView`."""
        return self._events.subscribe(callback)

    def config_entries(self) -> Sequence[ConfigEntry]:
        """See :class:`~bzzz.web.view.NodeView`."""
        return [
            ConfigEntry(key=setting.key, value=setting.value, source=setting.source)
            for setting in self.config().effective()
        ]

    def doctor(self) -> Deferred[Sequence[Finding]]:
        """See :class:`~bzzz.web.view.NodeView`."""
        return self._doctor()

    def _peer(self, member: Member) -> PeerInfo:
        link = member.link
        heard = self._mesh.broadcasts
        document = heard.documents.get(member.peer_id)
        availability = heard.availabilities.get(member.peer_id)
        due = member.next_dial
        return PeerInfo(
            peer_id=str(member.peer_id),
            short_id=member.peer_id.short,
            name=member.name or (document.name if document is not None else None) or None,
            state=member.state.value,
            since=rfc3339(member.since),
            address=None if link is None else str(link.remote_multiaddr),
            addresses=[str(address) for address in reversed(member.addresses)],
            sources=list(member.sources),
            direction=None if link is None else ("outbound" if link.is_initiator else "inbound"),
            agent=member.agent or None,
            rtt_seconds=self._mesh.liveness.rtts.get(member.peer_id),
            reason=member.reason or None,
            attempts=member.attempts,
            next_dial_seconds=None if due is None else max(0.0, due - self._clock.seconds()),
            capabilities=document.capabilities if document is not None else (),
            summary=document.describe() if document is not None else None,
            available_for_work=None if availability is None else availability.available_for_work,
        )

    def _node(self, member: Member) -> NodeDocument:
        heard = self._mesh.broadcasts
        peer = member.peer_id
        document = heard.documents.get(peer)
        received = heard.heard.received_at(peer)
        return NodeDocument(
            peer_id=str(peer),
            short_id=peer.short,
            name=member.name or (document.name if document is not None else None) or None,
            state=member.state.value,
            received=None if received is None else rfc3339(received),
            summary=document.describe() if document is not None else None,
            capabilities=document,
            availability=heard.availabilities.get(peer),
        )


def _unit(unit: Unit | None) -> UnitStatus | None:
    if unit is None:
        return None
    return UnitStatus(
        id=unit.id,
        type=unit.type,
        active_state=unit.active_state,
        sub_state=unit.sub_state,
        since=None if unit.started is None else rfc3339(unit.started),
        restarts=unit.restarts,
        main_pid=unit.main_pid,
        memory_bytes=unit.memory_bytes,
        file=unit.path or None,
        file_state=unit.file_state or None,
        needs_daemon_reload=unit.needs_daemon_reload,
    )
