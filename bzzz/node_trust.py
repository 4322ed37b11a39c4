"""The part of the composition root that has to do with trust: database, roster, pairing, audit.

Everything here is wiring; what it does is in :mod:`bzzz.trust`.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from bzzz import __version__
from bzzz.database import Database
from bzzz.errors import BzzzError, RemoteProtocolError, StateDirectoryError
from bzzz.events import rfc3339
from bzzz.identity.peer_id import PeerID
from bzzz.mesh.node import MeshNode
from bzzz.net.background import in_background
from bzzz.state import OpenState
from bzzz.tasks import register_store
from bzzz.trust import invitation_store, roster_store
from bzzz.trust.audit import AuditLog
from bzzz.trust.audit_kept import KeptCheckpoints
from bzzz.trust.audit_links import LinkAudit
from bzzz.trust.audit_streams import AuditStreams
from bzzz.trust.cluster import Cluster
from bzzz.trust.invitation_store import SqliteInvitationStore
from bzzz.trust.joining import Candidate, Joining
from bzzz.trust.pairing_streams import Pairing
from bzzz.trust.roster import Roster
from bzzz.trust.roster_store import SqliteRosterStore
from bzzz.trust.rotation import Rotation, Whereabouts, drop_tokens, finish, settle
from bzzz.web.audit_routes import AuditRoutes
from bzzz.web.cluster_routes import ClusterRoutes
from bzzz.web.credentials import Credentials
from bzzz.web.identity_routes import IdentityRoutes
from bzzz.web.routes import Routes

__all__ = ["MIGRATIONS", "NodeTrust", "check_database"]

# In the order in which they were written; what is here is never changed, only added to.
MIGRATIONS = (
    *roster_store.MIGRATIONS,
    *invitation_store.MIGRATIONS,
    *register_store.MIGRATIONS,
)

DATABASE = "bzzz.db"
AUDIT_LOG = "audit.log"
CHECKPOINTS = "checkpoints.json"

# The source of an address of a member that had another key there.
ROTATED = "rotation"

# Seconds that members have to hear that this node leaves, before it does.
LEAVE_SECONDS = 2.0


def check_database(state: OpenState) -> None:
    """See that the database can be used, and which key it gives this node, before anything starts.

    A roster that cannot be read is no reason to go on as an unclaimed node, which admits everybody.

    :raises StateDirectoryError: it cannot.
    :raises IdentityError: the key that it gives is lost.
    """
    path = state.path / DATABASE
    database = Database(path, None, MIGRATIONS, maybeDeferred)

    def read(_: None) -> Deferred[list[bytes]]:
        return SqliteRosterStore(database).load()

    rosters: list[Roster] = []

    def judge(statements: list[bytes]) -> None:
        if statements:
            rosters.append(Roster.load(statements, verify=False))

    problems: list[BaseException] = []

    def failed(failure: Failure) -> None:
        problems.append(failure.value or BzzzError(f"{path} cannot be used"))

    database.open().addCallback(read).addCallback(judge).addErrback(failed)
    database.close().addErrback(failed)
    for problem in problems:
        if isinstance(problem, RemoteProtocolError):
            raise StateDirectoryError(
                f"the roster in {path} is damaged ({problem}): restore the file from a backup, or"
                " move it away and join the cluster again"
            ) from problem
        raise problem
    settle(state, rosters[0] if rosters else None, state.path / AUDIT_LOG)


class NodeTrust:
    """Who may be here, for one node on a real machine.

    :ivar cluster: what the mesh is given; :meth:`connect` comes after it was made.
    :ivar is_started: whether what is on disk was read. Until then this node does not know whether
        it is in a cluster, and who asks it to found one has to wait.
    """

    _log = Logger()

    def __init__(
        self,
        state: OpenState,
        reactor: Any,
        rng: random.Random,
        emit: Callable[..., Any],
        in_thread: Callable[[Callable[[], Any]], Deferred[Any]],
    ) -> None:
        self._state = state
        self._reactor = reactor
        self._in_thread = in_thread
        self.is_started = False
        self.database = Database(state.path / DATABASE, reactor, MIGRATIONS)
        self.audit = AuditLog(
            state.path / AUDIT_LOG,
            state.previous or state.identity,
            reactor,
            time.time,
            in_thread,
        )
        self.cluster = Cluster(
            state.identity,
            SqliteRosterStore(self.database),
            lambda: rfc3339(time.time()),
            os.urandom,
            rng,
            emit,
            in_thread,
            self.audit.record,
        )
        self._mesh: MeshNode | None = None
        self._finishing: Deferred[None] | None = None
        self.pairing: Pairing
        self.joining: Joining
        self.kept: KeptCheckpoints
        self.checkpoints: AuditStreams
        self.whereabouts: Whereabouts

    def connect(self, mesh: MeshNode) -> None:
        """Use the mesh that was made with :attr:`cluster`."""
        swarm, cluster = mesh.swarm, self.cluster
        self._mesh = mesh
        self.pairing = Pairing(
            swarm,
            cluster,
            SqliteInvitationStore(self.database),
            self._reactor,
            time.time,
            os.urandom,
            self._in_thread,
            self._pairing_event,
        )
        self.joining = Joining(
            swarm,
            cluster,
            self._reactor,
            os.urandom,
            self._in_thread,
            lambda: [
                Candidate(member.peer_id, tuple(member.addresses))
                for member in mesh.membership.possible_inviters()
            ],
        )
        self.kept = KeptCheckpoints(
            self._state.path / CHECKPOINTS,
            cluster.peer_id,
            self._reactor,
            time.time,
            self._in_thread,
            cluster.admission.name_of,
        )
        self.checkpoints = AuditStreams(
            swarm,
            cluster.peer_id,
            self.audit,
            self.kept,
            self._reactor,
            lambda peer: not cluster.admission.is_open and cluster.admission.admits(peer),
            cluster.admission.name_of,
        )
        swarm.add_observer(self.checkpoints)
        LinkAudit(swarm, cluster, self.audit.record)
        members = mesh.membership.members
        self.whereabouts = Whereabouts(
            cluster,
            lambda peer: tuple(members[peer].addresses) if peer in members else (),
            lambda peer, addresses, name: mesh.membership.found(peer, addresses, ROTATED, name),
        )

    def routes(self, name: Callable[[], str], restart: Callable[[], object]) -> Sequence[Routes]:
        """The routes of the control API.

        :param name: of this node in its configuration.
        :param restart: has the process end in order, and be started again.
        """
        return (
            IdentityRoutes(
                Rotation(
                    self._state,
                    self.cluster,
                    self.pairing,
                    self,
                    self._reactor,
                    self._in_thread,
                    restart,
                )
            ),
            ClusterRoutes(
                self.cluster,
                self.pairing,
                self.joining,
                name,
                self._is_linked,
                self.leave,
            ),
            AuditRoutes(self.checkpoints, self.cluster.peer_id),
        )

    def control_request(self, by: Credentials, request: str) -> None:
        """Record that somebody asked over the control socket for what changes something.

        :param request: the method and the route, without what was given in it.
        """
        self.audit.record("control_request", uid=by.uid, pid=by.pid, request=request)

    def _pairing_event(self, event: str, **fields: Any) -> object:
        """Record what happens with an invitation, with what is known of it here alone."""
        if event == "invited":
            invitation = self.pairing.find(fields["invitation"])
            if invitation is not None:
                fields.setdefault("expires", rfc3339(invitation.expires_at))
        elif event == "invitation_used":
            link = self.pairing.swarm.link_to(PeerID.parse(fields["peer_id"]))
            if link is not None:
                fields.setdefault("address", link.remote_host)
        return self.audit.record(event, **fields)

    @property
    def talking(self) -> Sequence[PeerID]:
        """The members that are talked to about the roster."""
        streams = None if self._mesh is None else self._mesh.roster
        return () if streams is None else streams.talking

    def flush(self) -> None:
        """Send what there is for them."""
        if self._mesh is not None and self._mesh.roster is not None:
            self._mesh.roster.flush()

    def _is_linked(self, peer: PeerID) -> bool:
        """Whether there is a link on which each side takes the other for a member."""
        link = None if self._mesh is None else self._mesh.swarm.links.get(peer)
        return link is not None and not link.guest_there

    async def start(self) -> None:
        """Read what is on disk: before the node listens.

        :raises BzzzError: it cannot be read.
        """
        await self.database.open()
        if self._state.previous is not None:
            # Before all other lines, which are the new key's.
            written = self.audit.rotate_key(self._state.identity)
            self._finishing = in_background(
                finish(self._state, written, self._in_thread), "destroying the old key", self._log
            )
        await self.audit.start()
        await self.kept.load()
        await self.cluster.load()
        await drop_tokens(
            SqliteInvitationStore(self.database), self.cluster.peer_id, self.audit.record
        )
        await self.pairing.load()
        self.is_started = True
        roster = self.cluster.roster
        self.audit.record(
            "started",
            version=__version__,
            pid=os.getpid(),
            mode="unclaimed" if roster is None else "member",
        )

    async def stop(self, reason: str = "") -> None:
        """Write what is to be written: after the mesh has stopped.

        :param reason: why the node stops, if that is known.
        """
        self.pairing.stop()
        self.checkpoints.stop()
        self.audit.record("stopped", **({"reason": reason} if reason else {}))
        await self.audit.close()
        if self._finishing is not None:
            # Whoever has the directory next must not find it half done.
            await self._finishing
        await self.kept.close()
        try:
            await self.database.close()
        except BzzzError as error:
            self._log.error("The database was not closed: {error}", error=error)

    async def leave(self) -> int:
        """Leave the cluster.

        :return: how many members were told.
        :raises ClusterError: the node is in none.
        :raises NotForgotten: it has left, but a token is still on disk.
        """
        mesh = self._mesh
        said = await self.cluster.say_leaving()
        told: set[PeerID] = set()
        if said and mesh is not None and mesh.roster is not None:
            members = set(mesh.roster.talking)
            mesh.roster.flush()
            # They close the links when they have heard it.
            end = self._reactor.seconds() + LEAVE_SECONDS
            while members & set(mesh.roster.talking) and self._reactor.seconds() < end:
                await _pause(self._reactor, 0.05)
            told = members - set(mesh.roster.talking)
        await self.cluster.forget()
        await self.pairing.forget_void()
        return len(told)


def _pause(reactor: Any, seconds: float) -> Deferred[None]:
    paused: Deferred[None] = Deferred()
    reactor.callLater(seconds, paused.callback, None)
    return paused
