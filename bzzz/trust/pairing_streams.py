"""``/bzzz/pair/1.0.0`` at the inviter: invitations that the owner opens, and joiners that use them.

Enters: what the owner opens and closes; streams of guests. Leaves: members of the cluster, and what
happens with an invitation, for those who watch it. docs/trust.rst, "Pairing".
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure

from bzzz.errors import BzzzError, LinkClosed, RemoteProtocolError
from bzzz.identity.peer_id import PeerID
from bzzz.net.accepting import place_of
from bzzz.net.background import in_background
from bzzz.net.interfaces import Clock
from bzzz.net.link import Link
from bzzz.net.stream import Stream
from bzzz.net.swarm import Swarm
from bzzz.trust.cluster import Cluster, ClusterError
from bzzz.trust.codes import InvalidCode, parse_token
from bzzz.trust.invitation_store import InvitationStore
from bzzz.trust.invitations import Invitation, InvitationError, Invitations
from bzzz.trust.pairing import (
    MAX_MESSAGE,
    PROTOCOL,
    Confirmed,
    Inviter,
    Joined,
    Request,
    State,
    WrongCode,
    encode_statements,
)
from bzzz.trust.pairing_keys import prepare
from bzzz.trust.roster import RosterFull
from bzzz.trust.statements import Role
from bzzz.wire.framing import FrameReader, frame

__all__ = ["MAX_RUNS", "MAX_RUNS_PER_HOST", "STEP_SECONDS", "Pairing"]

# Between two messages of a pairing, in seconds. Machines answer in milliseconds; the last step has
# a disk at the other end.
STEP_SECONDS = 10.0

# Runs under way at one time: each holds a guest's link for as long as it takes.
MAX_RUNS = 16

# The same with one host: as many as it may have guests, so that no host has all the runs.
MAX_RUNS_PER_HOST = 4

InThread = Callable[[Callable[[], Any]], Deferred[Any]]
Watch = Callable[..., object]


class Pairing:
    """The invitations of one node, and who uses them.

    :param wall_time: seconds since the epoch; tokens outlive a restart.
    :param record: for the audit log.
    :param unbound: take links that have no handshake hash; in the simulator only.
    """

    _log = Logger()

    def __init__(
        self,
        swarm: Swarm,
        cluster: Cluster,
        store: InvitationStore,
        clock: Clock,
        wall_time: Callable[[], float],
        random_bytes: Callable[[int], bytes],
        in_thread: InThread,
        record: Callable[..., object] = lambda event, **fields: None,
        unbound: bool = False,
    ) -> None:
        self.clock = clock
        self.in_thread = in_thread
        self.swarm = swarm
        self._cluster = cluster
        self._store = store
        self._wall_time = wall_time
        self._random_bytes = random_bytes
        self._record = record
        self._unbound = unbound
        self._invitations = Invitations(cluster.peer_id, random_bytes)
        self._roles: dict[Invitation, Role] = {}
        self._watches: dict[Invitation, Watch] = {}
        # The oldest first. Those that are told that there is no room are in it, too: one a link.
        self._runs: dict[_Run, None] = {}
        self._expiry: IDelayedCall | None = None
        swarm.handle(PROTOCOL, _Runs(self), guests=True)
        cluster.on_change(self._cluster_changed)

    # -- for the owner

    async def load(self) -> None:
        """Open the tokens of before again, and forget those that are void by now."""
        for record, role in await self._store.load():
            reason = "it has expired"
            try:
                invitation = self._invitations.restore(record, self._wall_time())
            except InvitationError as error:
                self._log.warn("A token of this node is void: {error}", error=error)
                invitation, reason = None, str(error)
            if invitation is not None:
                self._roles[invitation] = role
                continue
            try:
                channel = parse_token(record.token).channel
            except InvalidCode:
                # The store has it by its channel, and looks after that.
                continue
            self._record("invitation_void", invitation=channel, reason=reason)
            self._forget(channel)
        self._await_expiry()

    async def open_code(self, role: Role, watch: Watch, uid: int | None = None) -> Invitation:
        """Invite one machine by a code.

        :param uid: of the user of this machine who asks, for the audit log.
        :param watch: told of what happens: ``wrong_code`` (``left``), ``joined`` (``name``,
            ``peer_id``), ``failed`` (``reason``), ``void`` (``reason``).
        :raises ClusterError: this node is no admin.
        :raises InvitationError: too many invitations are open.
        """
        await self._prepare()
        invitation = self._invitations.open_code(self._wall_time())
        self._roles[invitation] = role
        self._watches[invitation] = watch
        self._record(
            "invited", invitation=invitation.channel, kind="code", role=str(role), uses=1, uid=uid
        )
        self._await_expiry()
        return invitation

    async def open_token(
        self, role: Role, uses: int, seconds: float, uid: int | None = None
    ) -> Invitation:
        """Invite machines by a token.

        :param uses: how many.
        :param seconds: for which it is good.
        :param uid: of the user of this machine who asks, for the audit log.
        :raises ClusterError: this node is no admin.
        :raises InvitationError: too many invitations are open, or it is for too many machines.
        """
        await self._prepare()
        now = self._wall_time()
        invitation = self._invitations.open_token(uses, now + seconds, now)
        self._roles[invitation] = role
        kept = False
        try:
            await self._keep(invitation)
            self._cluster.administered()
            kept = True
        finally:
            # Nobody was given the token.
            if not kept and self._invitations.close(invitation):
                self._roles.pop(invitation, None)
                self._forget(invitation.channel)
        self._record(
            "invited",
            invitation=invitation.channel,
            kind="token",
            role=str(role),
            uses=uses,
            uid=uid,
        )
        self._await_expiry()
        return invitation

    def close(self, invitation: Invitation, reason: str) -> None:
        """Make its code void."""
        if self._invitations.close(invitation):
            self._ended(invitation, reason)

    def find(self, channel: str) -> Invitation | None:
        """The open invitation with this channel."""
        return self._invitations.look_up(channel, self._wall_time())

    def open_ones(self) -> list[tuple[Invitation, Role]]:
        """All that are open."""
        now = self._wall_time()
        return [
            (each, self._roles[each])
            for each in self._invitations.all
            if now < each.expires_at and each in self._roles
        ]

    def stop(self) -> None:
        """Pair no more."""
        if self._expiry is not None and self._expiry.active():
            self._expiry.cancel()
        for run in list(self._runs):
            run.abort()

    # -- for the runs

    def began(self, run: _Run) -> bool:
        """A peer wants to pair; whether there is room for it.

        Those that have named no invitation, or are told their last word, make room: the oldest.
        A link has one run, and besides at most one that is told that there is no room.
        """
        for other in [each for each in self._runs if each.link is run.link and each.is_idle]:
            self._abort(other, "its peer has begun another")
        runs = [each for each in self._runs if each.has_room]
        host, _ = place_of(run.link.remote_host)
        near = [each for each in runs if place_of(each.link.remote_host)[0] == host]
        has_room = not any(each.link is run.link for each in runs)
        if len(near) >= MAX_RUNS_PER_HOST:
            has_room = has_room and self._make_room(near)
        elif len(runs) >= MAX_RUNS:
            has_room = has_room and self._make_room(runs)
        self._runs[run] = None
        return has_room

    def over(self, run: _Run) -> None:
        """Its stream is gone."""
        self._runs.pop(run, None)
        if not any(each.link is run.link and not each.is_idle for each in self._runs):
            self.swarm.release_guest(run.link)

    def inviter(self, link: Link) -> Inviter:
        """The core of one run."""
        return Inviter(
            self._cluster.peer_id,
            link.remote_peer,
            link.connection.handshake_hash,
            self._random_bytes,
            unbound=self._unbound,
        )

    def requested(self, channel: str, peer: PeerID) -> tuple[Invitation | None, str]:
        """The invitation that a peer names, if it may use it; else why not."""
        now = self._wall_time()
        invitation = self._invitations.look_up(channel, now)
        if invitation is None or self._cluster.roster is None:
            return None, "no_channel"
        refusal = self._invitations.begin_run(invitation, peer, now)
        return (invitation, "") if refusal is None else (None, refusal)

    def is_open(self, invitation: Invitation) -> bool:
        """Whether its code is still good, so that a guess at it may be looked at."""
        return self._invitations.look_up(invitation.channel, self._wall_time()) is invitation

    def wrong_code(self, invitation: Invitation, peer: PeerID, host: str) -> None:
        """A peer did not have the code."""
        left = self._invitations.wrong_guess(invitation)
        self._log.warn(
            "{peer} at {host} tried to join with a wrong code for invitation {channel}, or somebody"
            " is in between{left}",
            peer=peer,
            host=host,
            channel=invitation.channel,
            left="" if left is None else f"; {left} more make it void",
        )
        self._record(
            "wrong_code",
            invitation=invitation.channel,
            peer_id=str(peer),
            address=host,
            left=left,
        )
        self._tell(invitation, "wrong_code", left=left, peer_id=str(peer), host=host)
        if left == 0:
            self._ended(invitation, "there were too many wrong guesses")
        elif invitation.is_token:
            self._keep_in_background(invitation)

    async def admit(self, invitation: Invitation, name: str, peer: PeerID) -> bytes:
        """Make a peer that has the code a member.

        :return: the roster, encoded.
        :raises _Refused: it cannot be one.
        """
        if peer in invitation.machines and self._was_revoked(peer):
            # Or whoever is put out would come back by the token that has let it in.
            self.failed(invitation, peer, "it was revoked after this invitation had let it in")
            raise _Refused("failed")
        refusal = self._invitations.use(invitation, peer, self._wall_time())
        if refusal is not None:
            raise _Refused(refusal)
        try:
            roster = self._cluster.administered()
            if peer not in roster.members:
                await self._cluster.admit(peer, name, self._roles[invitation])
        except ClusterError as error:
            self._invitations.give_back(invitation, peer)
            self._tell(invitation, "failed", reason=str(error), peer_id=str(peer))
            raise _Refused("name_taken" if error.code == "name_taken" else "failed") from error
        except BzzzError as error:
            self._invitations.give_back(invitation, peer)
            self._log.error("{peer} cannot be let in: {error}", peer=peer, error=error)
            self._tell(invitation, "failed", reason=str(error), peer_id=str(peer))
            raise _Refused("roster_full" if isinstance(error, RosterFull) else "failed") from error
        self._invitations.admitted(invitation, peer)
        if invitation.is_token:
            self._keep_in_background(invitation)
        current = self._cluster.roster
        if current is None:
            self.failed(invitation, peer, "this node has left its cluster meanwhile")
            raise _Refused("failed")
        statements = [each.encode() for each in current.statements()]
        encoded: bytes = await self.in_thread(lambda: encode_statements(statements))
        return encoded

    def joined(self, invitation: Invitation, name: str, peer: PeerID) -> None:
        """The peer has the roster."""
        self._record("invitation_used", invitation=invitation.channel, peer_id=str(peer), name=name)
        roster = self._cluster.roster
        called = "" if roster is None else roster.name_of(peer)
        self._tell(invitation, "joined", name=called or name, peer_id=str(peer))

    def failed(self, invitation: Invitation, peer: PeerID, reason: str) -> None:
        """A run came to nothing."""
        self._log.info(
            "Pairing with {peer} over invitation {channel} has failed: {reason}",
            peer=peer,
            channel=invitation.channel,
            reason=reason,
        )
        self._tell(invitation, "failed", reason=reason, peer_id=str(peer))

    # -- inside

    def _was_revoked(self, peer: PeerID) -> bool:
        """Whether it was put out; one that left by itself was not."""
        roster = self._cluster.roster
        revocation = None if roster is None else roster.revoked.get(peer)
        return revocation is not None and revocation.by != peer

    def _tell(self, invitation: Invitation, event: str, **fields: object) -> None:
        watch = self._watches.get(invitation)
        if watch is not None:
            watch(event, **fields)

    def _ended(self, invitation: Invitation, reason: str) -> None:
        if self._roles.pop(invitation, None) is None:
            return
        self._record("invitation_void", invitation=invitation.channel, reason=reason)
        self._tell(invitation, "void", reason=reason)
        self._watches.pop(invitation, None)
        if invitation.is_token:
            self._forget(invitation.channel)

    def _forget(self, channel: str) -> None:
        in_background(self._store.remove(channel), "forgetting an invitation", self._log)

    def _make_room(self, among: list[_Run]) -> bool:
        for run in among:
            if run.is_idle:
                self._abort(run, "another one has its place")
                return True
        return False

    def _abort(self, run: _Run, reason: str) -> None:
        self._runs.pop(run, None)
        run.abort(reason)

    async def _prepare(self) -> None:
        """See that this node may invite, before and after what takes long."""
        self._cluster.administered()
        await self.in_thread(prepare)
        self._cluster.administered()
        # Or the next invitation would take the place of one whose end nobody has heard of.
        self._expire()

    def _keep(self, invitation: Invitation) -> Deferred[None]:
        record = invitation.record()
        if record is None:
            raise InvitationError("a code is not kept on disk")
        return self._store.put(invitation.channel, record, self._roles[invitation])

    def _keep_in_background(self, invitation: Invitation) -> None:
        if invitation in self._roles:
            in_background(self._keep(invitation), "keeping an invitation", self._log)

    def _await_expiry(self) -> None:
        if self._expiry is not None and self._expiry.active():
            self._expiry.cancel()
        self._expiry = None
        due = self._invitations.next_expiry
        if due is not None:
            delay = max(0.0, due - self._wall_time())
            self._expiry = self.clock.callLater(delay + 0.1, self._expire)

    def _expire(self) -> None:
        for invitation in self._invitations.expire(self._wall_time()):
            self._ended(invitation, "it has expired")
        self._await_expiry()

    def _cluster_changed(self) -> None:
        """Who is no admin any more has nobody to invite."""
        try:
            self._cluster.administered()
        except ClusterError:
            for invitation in self._invitations.all:
                self.close(invitation, "this node is no admin of a cluster any more")


class _Refused(BzzzError):
    """The joiner is told no.

    :ivar code: what it is told.
    """

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


class _Runs(Factory):
    noisy = False

    def __init__(self, pairing: Pairing) -> None:
        self._pairing = pairing

    def buildProtocol(self, addr: Any) -> Protocol:
        return _Run(self._pairing, addr.link)


class _Run(Protocol):
    """One run, from message 1 to message 5.

    :ivar link: to the peer.
    :ivar has_room: whether it may go on; else its request is refused.
    """

    transport: Stream
    _log = Logger()

    def __init__(self, pairing: Pairing, link: Link) -> None:
        self.link = link
        self.has_room = False
        self._pairing = pairing
        self._reader = FrameReader(MAX_MESSAGE)
        self._core: Inviter | None = None
        self._invitation: Invitation | None = None
        self._name = ""
        self._timer: IDelayedCall | None = None
        self._work: Deferred[None] | None = None
        self._reason = ""
        self._done = False

    def connectionMade(self) -> None:
        """A peer wants something."""
        self._core = self._pairing.inviter(self.link)
        self.has_room = self._pairing.began(self)
        self._wait()

    @property
    def is_idle(self) -> bool:
        """Whether nothing is lost by its end: it has named no invitation, or has its answer."""
        return self._done or self._invitation is None

    def dataReceived(self, data: bytes) -> None:
        """Messages, or parts of them.

        :raises RemoteProtocolError: one breaks the rules; the stream is reset.
        """
        if self._core is None or self._done:
            return
        try:
            for message in self._reader.receive(data):
                if self._done:
                    return
                self._received(self._core, message)
        except RemoteProtocolError as error:
            self._reason = str(error)
            raise

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The stream is gone."""
        self._cancel_timer()
        self._pairing.over(self)
        if self._invitation is not None and not self._done:
            why = self._reason or "the other side has hung up"
            if self._core is not None and self._core.state is State.ADMITTED:
                why += " after it was admitted, so it may not know that it is a member: the same"
                why += " bzzz join again tells it"
            self._pairing.failed(self._invitation, self.link.remote_peer, why)
        self._done = True

    def abort(self, reason: str = "this node stops") -> None:
        """Pair no more."""
        self._reason = reason
        self.transport.abortConnection()

    # -- inside

    def _received(self, core: Inviter, message: bytes) -> None:
        event = core.receive(message)
        self._wait()
        if isinstance(event, Request):
            self._requested(core, event)
        elif isinstance(event, Confirmed | WrongCode) and self._is_void():
            self._refuse(core, "no_channel")
        elif isinstance(event, Confirmed):
            self._cancel_timer()
            in_background(self._admit(core, event), "letting a peer in", self._log)
        elif isinstance(event, WrongCode):
            if self._invitation is not None:
                self._pairing.wrong_code(
                    self._invitation, self.link.remote_peer, self.link.remote_host
                )
            self._refuse(core, "wrong_code")
        elif isinstance(event, Joined):
            self._done = True
            if self._invitation is not None:
                self._pairing.joined(self._invitation, self._name, self.link.remote_peer)
            self.transport.loseConnection()

    def _is_void(self) -> bool:
        """Whether the code is void by now: nobody is told whether it was the right one."""
        invitation = self._invitation
        if invitation is None or self._pairing.is_open(invitation):
            return False
        self._pairing.failed(invitation, self.link.remote_peer, "the code was void by then")
        return True

    def _requested(self, core: Inviter, request: Request) -> None:
        if not self.has_room:
            self._refuse(core, "busy")
            return
        invitation, refusal = self._pairing.requested(request.channel, self.link.remote_peer)
        if invitation is None:
            self._refuse(core, refusal)
            return
        self._invitation = invitation
        self._name = request.name
        self._pairing.swarm.hold_guest(self.link)
        self._send(core.offer(invitation.secret.password))

    async def _admit(self, core: Inviter, confirmed: Confirmed) -> None:
        if self._invitation is None:
            raise LinkClosed("no invitation was named")
        try:
            statements = await self._pairing.admit(self._invitation, confirmed.name, confirmed.peer)
        except _Refused as refused:
            if not self._done:
                self._refuse(core, refused.code)
            return
        if not self._done:
            self._send(core.accept(statements))
            self._wait()

    def _refuse(self, core: Inviter, code: str) -> None:
        self._done = True
        self._send(core.refuse(code))
        self.transport.loseConnection()

    def _send(self, message: bytes) -> None:
        self.transport.write(frame(message))

    def _wait(self) -> None:
        self._cancel_timer()
        self._timer = self._pairing.clock.callLater(
            STEP_SECONDS, self.abort, f"the other side said nothing for {STEP_SECONDS:.0f} s"
        )

    def _cancel_timer(self) -> None:
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None
