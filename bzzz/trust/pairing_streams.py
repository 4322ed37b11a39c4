"""``/bzzz/pair/1.0.0`` at the inviter: invitations that the owner opens, and joiners that use them.

Enters: what the owner opens and closes; streams of guests. Leaves: members of the cluster, and what
happens with an invitation, for those who watch it. docs/trust.rst, "Pairing".
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger

from bzzz.errors import BzzzError
from bzzz.identity.peer_id import PeerID
from bzzz.net.accepting import place_of
from bzzz.net.background import in_background
from bzzz.net.interfaces import Clock
from bzzz.net.link import Link
from bzzz.net.swarm import Swarm
from bzzz.trust.cluster import Cluster, ClusterError
from bzzz.trust.codes import InvalidCode, parse_token
from bzzz.trust.invitation_store import InvitationStore
from bzzz.trust.invitations import Invitation, InvitationError, Invitations
from bzzz.trust.pairing import PROTOCOL, Inviter, encode_statements
from bzzz.trust.pairing_keys import prepare
from bzzz.trust.pairing_runs import (
    MAX_RUNS,
    MAX_RUNS_PER_HOST,
    MAX_RUNS_PER_SUBNET,
    STEP_SECONDS,
    Refused,
    Run,
    RunFactory,
    Runs,
)
from bzzz.trust.roster import Roster, RosterFull
from bzzz.trust.statements import Role
from bzzz.trust.token_disk import NotForgotten, TokenDisk

__all__ = [
    "MAX_RUNS",
    "MAX_RUNS_PER_HOST",
    "MAX_RUNS_PER_SUBNET",
    "STEP_SECONDS",
    "NotForgotten",
    "Pairing",
]

# Why somebody with the code is not let in, for the owner.
REASONS = {
    "no_channel": "the code was void by then",
    "used": "all uses of the invitation are used up, or it has let in this machine before, which is"
    " no member any more",
    "busy": "another run of the same machine is under way",
}

InThread = Callable[[Callable[[], Any]], Deferred[Any]]
Watch = Callable[..., object]


class _IsMember(BzzzError):
    """Whoever is let in is a member by now, so there is nothing to say."""


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
        self._disk = TokenDisk(store, cluster)
        self._wall_time = wall_time
        self._random_bytes = random_bytes
        self._record = record
        self._unbound = unbound
        self._invitations = Invitations(cluster.peer_id, random_bytes)
        self._roles: dict[Invitation, Role] = {}
        self._watches: dict[Invitation, Watch] = {}
        # Codes whose owners know that somebody uses up their runs.
        self._told_busy: set[Invitation] = set()
        self._runs = Runs()
        self._expiry: IDelayedCall | None = None
        swarm.handle(PROTOCOL, RunFactory(self), guests=True)
        cluster.on_change(self._cluster_changed)

    # -- for the owner

    async def load(self) -> None:
        """Open the tokens of before again, and forget those that are void by now."""
        for record, role in await self._disk.load():
            reason = "it has expired"
            try:
                self._disk.check(record)
                invitation = self._invitations.restore(record, self._wall_time())
            except InvitationError as error:
                self._log.warn("A token of this node is void: {error}", error=error)
                invitation, reason = None, str(error)
            if invitation is not None:
                # A crash may have come between what was written of a use and the admission.
                self._invitations.keep_uses_of(invitation, self._disk.admitted())
                self._roles[invitation] = role
                continue
            try:
                channel = parse_token(record.token).channel
            except InvalidCode:
                # The store has it by its channel, and looks after that.
                continue
            self._record("invitation_void", invitation=channel, reason=reason)
            self._disk.forget_in_background(channel)
        self._await_expiry()

    async def open_code(self, role: Role, watch: Watch, uid: int | None = None) -> Invitation:
        """Invite one machine by a code.

        :param uid: of the user of this machine who asks, for the audit log.
        :param watch: told of what happens: ``wrong_code`` (``left``), ``joined`` (``name``,
            ``peer_id``), ``admitted`` (the same and ``reason``), ``failed`` (``reason``), ``busy``
            (``hosts``), ``void`` (``reason``).
        :raises ClusterError: this node is no admin.
        :raises InvitationError: too many invitations are open.
        """
        roster = await self._prepare()
        invitation = self._invitations.open_code(self._wall_time(), roster.cluster_id)
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
        roster = await self._prepare()
        now = self._wall_time()
        invitation = self._invitations.open_token(uses, now + seconds, now, roster.cluster_id)
        self._roles[invitation] = role
        kept = False
        try:
            await self._disk.keep(invitation, role)
            self._cluster.administered()
            if not invitation.open:
                raise InvitationError("the token was void before it was on disk: make another")
            kept = True
        finally:
            # Nobody was given the token.
            if not kept and self._invitations.close(invitation):
                self._roles.pop(invitation, None)
                self._disk.forget_in_background(invitation.channel)
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
        """Make it void at once. A token is on disk no more a little later."""
        if self._invitations.close(invitation) and self._ended(invitation, reason):
            self._disk.forget_in_background(invitation.channel)

    async def withdraw(self, channel: str) -> bool:
        """Make the invitation of a channel void: at once, and then on disk.

        :return: whether there was one.
        :raises NotForgotten: it is void, but still on disk. To withdraw it again tries again.
        """
        invitation = self.find(channel)
        if invitation is None:
            if channel not in self._disk.void:
                return False
        elif not (
            self._invitations.close(invitation) and self._ended(invitation, "it was withdrawn")
        ):
            return True
        await self._disk.forget(channel)
        return True

    async def forget_void(self) -> None:
        """Have nothing on disk of tokens that are void: after the node has left its cluster.

        :raises NotForgotten: the disk does not do that.
        """
        for channel in sorted(self._disk.void):
            try:
                await self._disk.forget(channel)
            except NotForgotten as error:
                raise NotForgotten(f"this node has left its cluster, but {error}") from error

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
        for run in self._runs:
            run.abort()

    # -- for the runs

    def began(self, run: Run) -> bool:
        """A peer wants to pair; whether there is room for it."""
        return self._runs.began(run)

    def over(self, run: Run) -> None:
        """Its stream is gone."""
        if self._runs.over(run):
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

    def requested(self, channel: str, link: Link) -> tuple[Invitation | None, str]:
        """The invitation that a peer names, if it may use it; else why not."""
        now = self._wall_time()
        invitation = self._invitations.look_up(channel, now)
        if invitation is None or self._cluster.roster is None:
            return None, "no_channel"
        peer, host = link.remote_peer, link.remote_host
        _, subnet, _ = place_of(host)
        refusal = self._invitations.begin_run(
            invitation, peer, now, self._is_member(peer), host, subnet
        )
        if refusal is None:
            return invitation, ""
        if invitation.is_dry:
            self._busy(invitation, now)
        return None, refusal

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
            # Of a code nothing is on disk.
            self._ended(invitation, "there were too many wrong guesses")
        elif invitation.is_token:
            self._keep_in_background(invitation)

    async def admit(self, invitation: Invitation, name: str, peer: PeerID, host: str = "") -> bytes:
        """Make a peer that has the code a member, or tell one that it is.

        One that is a member keeps its name and its role.

        :param host: its IP address, for the audit log.
        :return: the roster, encoded.
        :raises Refused: it cannot be one; the owner is told why.
        """
        is_new = peer not in invitation.machines
        refusal = self._invitations.use(invitation, peer, self._wall_time(), self._is_member(peer))
        if refusal is not None:
            self.failed(invitation, peer, REASONS[refusal])
            raise Refused(refusal)
        has_use = False
        try:
            await self._let_in(invitation, name, peer)
            has_use = True
        except Refused as refused:
            self.failed(invitation, peer, REASONS[refused.code])
            raise
        except ClusterError as error:
            # Then it was said that it is a member, and somebody has put it out meanwhile.
            has_use = error.code == "not_admitted"
            self.failed(invitation, peer, str(error))
            raise Refused("name_taken" if error.code == "name_taken" else "failed") from error
        except BzzzError as error:
            self._log.error("{peer} cannot be let in: {error}", peer=peer, error=error)
            self.failed(invitation, peer, str(error))
            raise Refused("roster_full" if isinstance(error, RosterFull) else "failed") from error
        finally:
            if has_use:
                self._invitations.admitted(invitation, peer)
            elif self._invitations.give_back(invitation, peer) and invitation.is_token:
                self._keep_in_background(invitation)
        if is_new:
            where = {"address": host} if host else {}
            self._record(
                "invitation_used",
                invitation=invitation.channel,
                peer_id=str(peer),
                name=name,
                **where,
            )
        roster = self._cluster.roster
        if roster is None or not roster.admits(peer):
            self.failed(invitation, peer, "it, or this node, has left the cluster meanwhile")
            raise Refused("failed")
        statements = [each.encode() for each in roster.statements()]
        encoded: bytes = await self.in_thread(lambda: encode_statements(statements))
        return encoded

    def joined(self, invitation: Invitation, name: str, peer: PeerID) -> None:
        """The peer has the roster."""
        self._tell(invitation, "joined", name=self._name_of(peer) or name, peer_id=str(peer))

    def unheard(self, invitation: Invitation, peer: PeerID, reason: str) -> None:
        """The peer was admitted, and may not know it: its run ended too soon."""
        name = self._name_of(peer) or peer.short
        self._log.warn(
            "{name} ({peer}) was admitted over invitation {channel}, but may not know it: {reason}."
            " The same bzzz join again on it tells it, as long as the invitation is open; if it is"
            " not to be in the cluster: bzzz revoke {peer}",
            name=name,
            peer=peer,
            channel=invitation.channel,
            reason=reason,
        )
        self._tell(invitation, "admitted", name=name, peer_id=str(peer), reason=reason)

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

    def _is_member(self, peer: PeerID) -> bool:
        roster = self._cluster.roster
        return roster is not None and roster.admits(peer)

    def _name_of(self, peer: PeerID) -> str:
        roster = self._cluster.roster
        return "" if roster is None else roster.name_of(peer)

    async def _let_in(self, invitation: Invitation, name: str, peer: PeerID) -> None:
        """Have a peer that has a use of the invitation on the roster.

        :raises Refused: the invitation is void by then.
        """
        role = self._roles.get(invitation)
        if role is None:
            raise Refused("no_channel")
        if invitation.is_token:
            # First the use, or after a crash another machine would have it.
            await self._disk.keep(invitation, role)

        def check() -> None:
            if self._is_member(peer):
                raise _IsMember("it is a member")
            if not self.is_open(invitation):
                raise Refused("no_channel")

        try:
            await self._cluster.admit(peer, name, role, check)
        except _IsMember:
            return

    def _busy(self, invitation: Invitation, now: float) -> None:
        """Tell the owner of a code, once, that somebody uses up its runs."""
        if invitation.is_token or invitation in self._told_busy:
            return
        self._told_busy.add(invitation)
        hosts = invitation.busiest(now)
        self._log.warn(
            "Somebody uses up the runs of invitation {channel}, most of them from {hosts}: the"
            " machine that is invited may be refused. If those addresses are none of yours, block"
            " them in this machine's firewall, or use a token: bzzz invite --token",
            channel=invitation.channel,
            hosts=", ".join(hosts),
        )
        self._tell(invitation, "busy", hosts=hosts)

    def _tell(self, invitation: Invitation, event: str, **fields: object) -> None:
        watch = self._watches.get(invitation)
        if watch is not None:
            watch(event, **fields)

    def _ended(self, invitation: Invitation, reason: str) -> bool:
        """Tell that it is void, once; whether it has to be forgotten on disk, too."""
        if self._roles.pop(invitation, None) is None:
            return False
        self._record("invitation_void", invitation=invitation.channel, reason=reason)
        if invitation.admitting:
            reason += "; a machine was being let in at that moment, and bzzz members tells whether"
            reason += " it is in"
        self._tell(invitation, "void", reason=reason)
        self._watches.pop(invitation, None)
        self._told_busy.discard(invitation)
        return invitation.is_token

    async def _prepare(self) -> Roster:
        """The roster, if this node may invite: before and after what takes long."""
        self._cluster.administered()
        await self.in_thread(prepare)
        roster = self._cluster.administered()
        # Or the next invitation would take the place of one whose end nobody has heard of.
        self._expire()
        return roster

    def _keep_in_background(self, invitation: Invitation) -> None:
        # What is void is not written again: its removal may be before this.
        role = self._roles.get(invitation)
        if role is not None:
            in_background(self._disk.keep(invitation, role), "keeping an invitation", self._log)

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
            if self._ended(invitation, "it has expired"):
                self._disk.forget_in_background(invitation.channel)
        self._await_expiry()

    def _cluster_changed(self) -> None:
        """Who is no admin any more has nobody to invite."""
        try:
            self._cluster.administered()
        except ClusterError as error:
            if error.code == "rotation_begun":
                # It is an admin until that has ended.
                return
            for invitation in self._invitations.all:
                self.close(invitation, "this node is no admin of a cluster any more")
