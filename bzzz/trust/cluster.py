"""The cluster that this node is a member of, or that it is in none.

Enters: what the owner wants (create, admit, revoke, rename, leave, join), and statements that other
members send. Leaves: the roster on disk, events, and calls to those who act on who is a member.
What the owner does is on disk before anybody hears of it. docs/trust.rst, "The roster".
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
from twisted.internet.defer import Deferred, DeferredLock
from twisted.logger import Logger

from bzzz.errors import BzzzError, RemoteProtocolError
from bzzz.identity.keys import PrivateKey
from bzzz.identity.peer_id import PeerID
from bzzz.trust.admission import Admission
from bzzz.trust.roster import Member, Revocation, Roster, RosterFull
from bzzz.trust.roster_exchange import Randomness, RosterExchange
from bzzz.trust.roster_store import RosterStore, RosterWriter
from bzzz.trust.statements import Right, Role, SignedStatement

__all__ = ["Cluster", "ClusterError"]

FORMAT = "bzzz-roster-1"

# Statements of an imported roster that are taken in one turn of the reactor.
MERGED_AT_ONCE = 48

# What happened to a member, in the log.
WORDS = {
    "admitted": "was admitted",
    "renamed": "was renamed",
    "role_changed": "has another role",
    "revoked": "was revoked",
}

Record = Callable[..., object]
InThread = Callable[[Callable[[], Any]], Deferred[Any]]


class ClusterError(BzzzError):
    """What the owner asked for cannot be done; says why, and what can.

    :ivar code: a short, stable, snake_case name.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class _Export(msgspec.Struct):
    format: str
    cluster: str
    cluster_id: str
    statements: list[str]


class Cluster:
    """What this node knows of its cluster, and what its owner changes in it.

    :param time: now as RFC 3339, put into statements for people to read.
    :param emit: takes an event's name and its fields, for those who watch.
    :param in_thread: runs what takes long.
    :param record: the same, for the audit log.
    :ivar admission: who may be linked.
    :ivar exchange: keeps the roster the same as the others'; None in an unclaimed node.
    """

    _log = Logger()

    def __init__(
        self,
        key: PrivateKey,
        store: RosterStore,
        time: Callable[[], str],
        random_bytes: Callable[[int], bytes],
        random: Randomness,
        emit: Callable[..., Any],
        in_thread: InThread,
        record: Record = lambda event, **fields: None,
    ) -> None:
        self.peer_id = key.peer_id
        self.admission = Admission(key.peer_id)
        self.exchange: RosterExchange | None = None
        self._key = key
        self._store = store
        self._writer = RosterWriter(store)
        self._time = time
        self._random_bytes = random_bytes
        self._random = random
        self._emit = emit
        self._in_thread = in_thread
        self._record = record
        self._changed: list[Callable[[], object]] = []
        self._lock = DeferredLock()
        self._rotation: SignedStatement | None = None
        self._members: dict[PeerID, Member] = {}
        self._revoked: dict[PeerID, Revocation] = {}

    # -- for others of the node

    def on_change(self, callback: Callable[[], object]) -> None:
        """Have ``callback`` called when somebody became a member or is none any more.

        Callbacks are called in the order in which they were added.
        """
        self._changed.append(callback)

    async def load(self) -> None:
        """Read the roster from disk.

        :raises ClusterError: what is there is no roster.
        """
        encoded = await self._store.load()
        if not encoded:
            return
        try:
            roster: Roster = await self._in_thread(lambda: Roster.load(encoded, verify=False))
        except BzzzError as error:
            raise ClusterError(
                "damaged", f"the roster in this node's database cannot be read: {error}"
            ) from error
        left_out = len(set(encoded)) - len(roster)
        if left_out:
            self._log.error(
                "{left_out} of the {count} statements of {cluster} on disk do not count,"
                " because what was said before them is not there. Until another member has sent"
                " that, who is a member may be wrong here: see bzzz members",
                left_out=left_out,
                count=len(set(encoded)),
                cluster=roster.cluster,
            )
        self._adopt(roster)
        if self.admission.is_revoked:
            self._log.warn(
                "This node was revoked from {cluster}: no member links with it. To let it join"
                " again: bzzz leave, then bzzz join",
                cluster=roster.cluster,
            )
        self._tell()

    @property
    def roster(self) -> Roster | None:
        """The roster; None in an unclaimed node."""
        return self.admission.roster

    def news(self, statements: Sequence[SignedStatement]) -> None:
        """Statements of others are in the roster now: act on them, and keep them."""
        if statements:
            # First to disk, of what is acted on: whatever a callback has this node say comes after.
            self._writer.news(statements)
            self._tell()

    def present(self, statements: Sequence[SignedStatement]) -> None:
        """A peer has proved its admission by these statements, none before its parents."""
        roster = self.member_of()
        new = roster.merge(statements)
        if self.exchange is not None:
            self.exchange.announce(new)
        self.news(new)

    # -- for the owner

    async def create(self, cluster: str, name: str) -> Roster:
        """Found a cluster with this node, called ``name``, as its first member and admin.

        :raises ClusterError: the node is a member of one.
        """
        return await self._lock.run(self._create, cluster, name)

    async def admit(
        self,
        peer: PeerID,
        name: str,
        role: Role,
        check: Callable[[], object] = lambda: None,
    ) -> Member:
        """Make a peer a member, or change its role.

        :param check: called right before it is said, which may be later; what it raises is raised.
        :raises ClusterError: this node is no admin, or the name is another member's.
        """
        return await self._lock.run(self._admit, peer, name, role, check)

    async def revoke(self, peer: PeerID, reason: str = "") -> None:
        """Make a member none.

        :raises ClusterError: this node is no admin, or the peer is no member.
        """
        await self._lock.run(self._revoke, peer, reason)

    async def rename(self, peer: PeerID, name: str) -> None:
        """Call a member otherwise.

        :raises ClusterError: this node is no admin and not that member, or the name is taken.
        """
        await self._lock.run(self._rename, peer, name)

    async def say_leaving(self) -> bool:
        """Say that this node leaves; :meth:`forget` follows when members had time to hear it.

        :return: whether there was anything to say, and room for it: a node that was revoked has
            nothing to say.
        :raises ClusterError: the node is in no cluster.
        """
        return await self._lock.run(self._say_leaving)

    async def say_rotating(self, new_key: PrivateKey) -> None:
        """Say that the owner of ``new_key`` takes this node's place, which has to start with it.

        Nothing can be said in the name of this node after that.

        :raises ClusterError: the node is in no cluster, or has said so of another key.
        :raises LocalProtocolError: it is no member, or the new key's owner is or was one.
        :raises RosterFull: there is no room for it.
        :raises DatabaseError: it may be on the disk, or not; then :attr:`is_rotating` is true.
        """
        await self._lock.run(self._say_rotating, new_key)

    @property
    def is_rotating(self) -> bool:
        """Whether this node may have said that another key takes its place."""
        return self._rotation is not None

    async def forget(self) -> None:
        """Be unclaimed: keep nothing of the cluster.

        :raises ClusterError: the node is in no cluster.
        :raises DatabaseError: the node is unclaimed, but may not be after a restart.
        """
        await self._lock.run(self._forget)

    async def adopt(self, encoded: Sequence[bytes], by: PeerID | None = None) -> Roster:
        """Be a member of the cluster whose roster this is.

        :param by: who gave it, and has to be an admin in it.
        :raises ClusterError: it is no roster, this node is not on it, or is in another cluster.
        """
        return await self._lock.run(self._adopt_from, encoded, by)

    async def export(self) -> bytes:
        """The roster as a file for :meth:`import_roster`; there is no secret in it.

        :raises ClusterError: the node is in no cluster.
        """
        roster = self.member_of()
        statements = roster.statements()

        def encode() -> bytes:
            encoded = [base64.b64encode(each.encode()).decode() for each in statements]
            file = _Export(FORMAT, roster.cluster, roster.cluster_id, encoded)
            return msgspec.json.format(msgspec.json.encode(file), indent=1) + b"\n"

        # 60 ms of a roster that is full.
        exported: bytes = await self._in_thread(encode)
        return exported

    async def import_roster(self, file: bytes) -> Roster:
        """Take a roster from a file.

        :raises ClusterError: it is no roster, or not one for this node.
        """
        try:
            read = msgspec.json.decode(file, type=_Export)
            encoded = [base64.b64decode(each, validate=True) for each in read.statements]
        except (msgspec.MsgspecError, RecursionError, binascii.Error, ValueError) as error:
            raise ClusterError("not_a_roster", f"this is no roster of Bzzz: {error}") from error
        if read.format != FORMAT:
            raise ClusterError(
                "not_a_roster", f"this roster has the format {read.format!r}, not {FORMAT!r}"
            )
        return await self.adopt(encoded)

    def member_of(self) -> Roster:
        """The roster.

        :raises ClusterError: the node is in no cluster.
        """
        roster = self.admission.roster
        if roster is None:
            raise ClusterError(
                "unclaimed",
                "this node is in no cluster: bzzz cluster create NAME founds one, bzzz join CODE"
                " joins one",
            )
        return roster

    def administered(self) -> Roster:
        """The roster, if this node may change it.

        :raises ClusterError: it may not, or is in no cluster.
        """
        roster = self.member_of()
        if Right.ADMINISTER not in roster.rights(self.peer_id):
            admins = [
                member.name
                for member in roster.members.values()
                if Right.ADMINISTER in member.rights
            ]
            raise ClusterError(
                "not_admin",
                f"this node is no admin of {roster.cluster}; ask on one that is:"
                f" {', '.join(sorted(admins)) or 'there is none left'}",
            )
        self._check_not_rotating()
        return roster

    def check_name(self, name: str, peer: PeerID) -> None:
        """See that no other member has the name.

        :raises ClusterError: one has.
        """
        others = [each for each in self.member_of().by_name(name) if each.peer_id != peer]
        if others:
            raise ClusterError(
                "name_taken", f"{name} is the name of {others[0].peer_id} already; give another"
            )

    # -- inside

    async def _say_leaving(self) -> bool:
        roster = self.member_of()
        if not roster.admits(self.peer_id):
            return False
        statement = roster.make_revoke(self._key, self.peer_id, "", self._time())
        await self._writer.add([statement])
        try:
            # Nobody is told of what is not in it.
            roster.add(statement)
        except RosterFull:
            # The others have no room for it either.
            return False
        if self.exchange is not None:
            self.exchange.announce([statement])
        return True

    async def _forget(self) -> None:
        roster = self.member_of()
        # Before the disk is cleared, or what comes from others meanwhile would be written after it.
        self.exchange = None
        self.admission.roster = None
        self._members, self._revoked = {}, {}
        self._rotation = None
        # At once, as from now on everybody is admitted.
        self._call_changed()
        try:
            await self._writer.clear()
        except BzzzError as error:
            self._log.error(
                "The roster of {cluster} is still on this node's disk, and counts again after a"
                " restart, unless the node is in another cluster by then: {error}",
                cluster=roster.cluster,
                error=error,
            )
            raise
        finally:
            self._log.info("This node has left {cluster}", cluster=roster.cluster)
            self._emit("left_cluster", cluster=roster.cluster)
            self._record("left", cluster=roster.cluster, cluster_id=roster.cluster_id)

    async def _create(self, cluster: str, name: str) -> Roster:
        self._check_unclaimed()
        roster = Roster.found(self._key, cluster, name, self._random_bytes(16), self._time())
        await self._writer.replace(roster.statements())
        self._log.info(
            "Founded the cluster {cluster}, with this node, {name}, as its admin",
            cluster=cluster,
            name=name,
        )
        self._record("cluster_created", cluster=cluster, cluster_id=roster.cluster_id, name=name)
        self._adopt(roster)
        self._tell()
        return roster

    async def _admit(
        self, peer: PeerID, name: str, role: Role, check: Callable[[], object]
    ) -> Member:
        roster = self.administered()
        check()
        self.check_name(name, peer)
        known = roster.members.get(peer)
        if known is not None and (known.name, known.role) == (name, role):
            return known
        await self._say(roster.make_admit(self._key, peer, name, role, self._time()))
        admitted = roster.members.get(peer)
        if admitted is None:
            raise ClusterError(
                "not_admitted",
                f"{name} could not be admitted: while that was written to disk, this node was"
                f" revoked, or {name} was; see bzzz members",
            )
        return admitted

    async def _revoke(self, peer: PeerID, reason: str) -> None:
        roster = self.administered()
        if peer not in roster.members:
            raise ClusterError("no_such_member", f"{peer} is no member of {roster.cluster}")
        await self._say(roster.make_revoke(self._key, peer, reason, self._time()))

    async def _rename(self, peer: PeerID, name: str) -> None:
        roster = self.member_of() if peer == self.peer_id else self.administered()
        self._check_not_rotating()
        if peer not in roster.members:
            raise ClusterError("no_such_member", f"{peer} is no member of {roster.cluster}")
        self.check_name(name, peer)
        await self._say(roster.make_rename(self._key, peer, name, self._time()))

    async def _say_rotating(self, new_key: PrivateKey) -> None:
        roster = self.member_of()
        statement = self._rotation
        if statement is None:
            statement = roster.make_rotate(self._key, new_key, self._time())
        elif getattr(statement.statement, "target", None) != new_key.peer_id:
            raise ClusterError(
                "rotation_begun",
                "a rotation was begun whose new key is gone: restart the node, then try again",
            )
        # What failed is said in the same bytes again: of two rotations each makes the other void.
        self._rotation = statement
        await self._writer.add([statement])
        try:
            roster.add(statement)
        except RosterFull:
            # As in say_leaving().
            return
        if self.exchange is not None:
            self.exchange.announce([statement])

    async def _say(self, statement: SignedStatement) -> None:
        """Keep a statement of this node, act on it, and tell the others."""
        roster = self.member_of()
        await self._writer.add([statement])
        roster.add(statement)
        if self.exchange is not None:
            # Before those who are revoked by it lose their links: they may know, too.
            self.exchange.announce([statement])
        self._tell()

    async def _adopt_from(self, encoded: Sequence[bytes], by: PeerID | None) -> Roster:
        try:
            # 0.1 ms for each signature.
            roster: Roster = await self._in_thread(lambda: Roster.load(encoded))
        except RemoteProtocolError as error:
            raise ClusterError("not_a_roster", f"this is no whole roster: {error}") from error
        current = self.admission.roster
        if current is not None:
            if current.cluster_id != roster.cluster_id:
                self._check_unclaimed()
            await self._merge(current, roster.statements())
            return current
        if not roster.admits(self.peer_id):
            raise ClusterError(
                "not_on_roster",
                f"this node, {self.peer_id}, is not on the roster of {roster.cluster}: an admin of"
                " it can invite or admit it",
            )
        if by is not None and Right.ADMINISTER not in roster.rights(by):
            raise ClusterError(
                "not_admin", f"{by}, who gave the roster of {roster.cluster}, is no admin in it"
            )
        await self._writer.replace(roster.statements())
        self._record(
            "joined", cluster=roster.cluster, cluster_id=roster.cluster_id, by=str(by or "")
        )
        self._adopt(roster)
        self._tell()
        self._log.info(
            "Joined the cluster {cluster}, of {count} members",
            cluster=roster.cluster,
            count=len(roster.members),
        )
        self._emit("joined_cluster", cluster=roster.cluster, by=str(by or ""))
        return roster

    async def _merge(self, current: Roster, statements: Sequence[SignedStatement]) -> None:
        """Take statements whose signatures were checked, none before its parents, in turns."""
        for at in range(0, len(statements), MERGED_AT_ONCE):
            if at:
                await self._in_thread(lambda: None)
            new = current.merge(statements[at : at + MERGED_AT_ONCE], verify=False)
            # They count from here on, whether the disk takes them or not.
            self._writer.owe(new)
            if self.exchange is not None:
                self.exchange.announce(new)
        self._tell()
        await self._writer.add()

    def _check_not_rotating(self) -> None:
        """A rotation that failed may be said again, in the same bytes: it revokes its author, by
        what was before it, and with that what the author says after it.
        """
        if self.is_rotating:
            raise ClusterError(
                "rotation_begun",
                "a rotation of this node's key was begun and has failed: bzzz id rotate ends it,"
                " or restart the node",
            )

    def _check_unclaimed(self) -> None:
        current = self.admission.roster
        if current is not None:
            raise ClusterError(
                "already_member",
                f"this node is a member of {current.cluster}: bzzz leave comes first",
            )

    def _adopt(self, roster: Roster) -> None:
        self.admission.roster = roster
        if self.exchange is None:
            self.exchange = RosterExchange(roster, self._random)
        else:
            self.exchange.roster = roster

    def _tell(self) -> None:
        """Compare the members with those of before, and say what is other."""
        roster = self.member_of()
        before, revoked = self._members, self._revoked
        self._members, self._revoked = dict(roster.members), dict(roster.revoked)
        for peer, member in self._members.items():
            old = before.get(peer)
            by = roster.name_of(member.admitted_by) or member.admitted_by.short
            if old is None and before:
                self._say_change("admitted", peer, member.name, by=by, role=str(member.role))
            elif old is not None and old.name != member.name:
                self._say_change("renamed", peer, member.name, was=old.name)
            elif old is not None and old.rights != member.rights:
                self._say_change("role_changed", peer, member.name, by=by, role=str(member.role))
        for peer, revocation in self._revoked.items():
            if peer not in revoked and before:
                gone = before.get(peer)
                self._say_change(
                    "revoked",
                    peer,
                    gone.name if gone is not None else "",
                    by=_name_of(roster, revocation.by, before),
                    reason=revocation.reason,
                )
        self._call_changed()

    def _say_change(self, what: str, peer: PeerID, name: str, **fields: str) -> None:
        self._log.info(
            "{name} ({peer}) {words}{details}",
            name=name or peer.short,
            peer=peer.short,
            words=WORDS[what],
            details="".join(f", {key} {value}" for key, value in fields.items() if value),
            event=what,
        )
        self._emit(f"member_{what}", peer_id=str(peer), name=name, **fields)
        self._record(what, peer_id=str(peer), name=name, **fields)

    def _call_changed(self) -> None:
        for callback in self._changed:
            try:
                callback()
            except Exception:  # noqa: BLE001 - the others may be what ends the link of one revoked
                self._log.failure("a callback at a change of the members failed")


def _name_of(roster: Roster, peer: PeerID, before: dict[PeerID, Member]) -> str:
    """What somebody is called, who may have left by just that."""
    gone = before.get(peer)
    return roster.name_of(peer) or (gone.name if gone is not None else peer.short)
