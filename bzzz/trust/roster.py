"""The roster: signed statements that only grow in number, and who is a member by them.

Enters: statements in any order in which each comes after its parents, from anybody. Leaves:
the members, the same wherever the statements are the same; statements for others and of one's own.
docs/trust.rst, "The roster".

=========================== ======================================================================
code of InvalidStatement    what is wrong
=========================== ======================================================================
``statement_no_right``      the author was no admin, or no member, by what is before the statement
``statement_target_known``  a ``rotate`` to a peer that is or was on the roster
``statement_second_found``  it founds another cluster
``statement_no_found``      the statements to begin with have none that founds a cluster
``statement_signature``     the signature is not the author's, or the proof not the new key's
=========================== ======================================================================
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from msgspec import structs

from bzzz.errors import BzzzError, LocalProtocolError, RemoteProtocolError
from bzzz.identity.keys import PrivateKey
from bzzz.identity.peer_id import PeerID
from bzzz.trust.roster_graph import Graph
from bzzz.trust.roster_members import Member, Revocation
from bzzz.trust.roster_room import (
    ANY,
    FROM_DISK,
    FROM_OTHERS,
    Room,
    RosterFull,
    RosterRoom,
    is_own,
)
from bzzz.trust.roster_view import Judgement, View
from bzzz.trust.statements import (
    MAX_PARENTS,
    Admit,
    Found,
    Rename,
    Revoke,
    Right,
    Role,
    Rotate,
    SignedStatement,
    Statement,
    StatementID,
    decode_statement,
    prove_rotation,
    sign,
    verify,
)

__all__ = [
    "InvalidStatement",
    "Member",
    "MissingParents",
    "Revocation",
    "Roster",
    "RosterFull",
]

_NO_RIGHTS: frozenset[Right] = frozenset()


class InvalidStatement(RemoteProtocolError):
    """A statement is not well-formed, and never will be.

    :ivar merged: those that :meth:`Roster.merge` took before it.
    """

    def __init__(self, message: str, code: str) -> None:
        super().__init__(message, code)
        self.merged: tuple[SignedStatement, ...] = ()


class MissingParents(BzzzError):
    """A statement cannot be judged before its parents are here.

    :ivar missing: their IDs.
    """

    def __init__(self, missing: tuple[StatementID, ...]) -> None:
        super().__init__(f"{len(missing)} statements that come before this one are not here")
        self.missing = missing


class Roster:
    """The statements of one cluster.

    Made by :meth:`found` or :meth:`load`.

    :ivar cluster_id: the ID of the statement that founded the cluster, in hex.
    :ivar cluster: what people call it.
    """

    def __init__(self, founding: SignedStatement) -> None:
        statement = founding.statement
        if not isinstance(statement, Found):
            raise InvalidStatement("no statement here founds a cluster", "statement_no_found")
        self.cluster_id = founding.id.hex()
        self.cluster = statement.cluster
        self._graph = Graph()
        self._room = RosterRoom(statement.cluster)
        self._view = View(self._graph)
        self._view.enter(founding, (), self._view.judge(statement, ()))

    @classmethod
    def found(cls, key: PrivateKey, cluster: str, name: str, nonce: bytes, time: str) -> Roster:
        """Found a cluster, with the key's owner, called ``name``, as its admin.

        :param nonce: 16 random bytes, so that no two clusters have one ID.
        :param time: now, RFC 3339.
        :raises LocalProtocolError: a name or the time is not as it should be.
        """
        return cls(sign(key, Found(key.peer_id, (), time, cluster, name, nonce)))

    @classmethod
    def load(cls, statements: Iterable[SignedStatement | bytes], verify: bool = True) -> Roster:
        """A roster of statements in any order; those whose parents are missing are left out.

        :param verify: whether to check signatures. What this node itself has stored can go without.
        :raises RemoteProtocolError: they do not found a cluster, or one of them is not well-formed.
        """
        read = [
            each if isinstance(each, SignedStatement) else decode_statement(each)
            for each in statements
        ]
        founding = next((each for each in read if isinstance(each.statement, Found)), None)
        if founding is None:
            raise InvalidStatement("no statement here founds a cluster", "statement_no_found")
        if verify:
            _check_signature(founding)
        roster = cls(founding)
        roster._merge(read, verify, FROM_DISK)
        return roster

    def copy(self) -> Roster:
        """Another with the same statements, that grows by itself."""
        other = Roster.__new__(Roster)
        other.cluster_id = self.cluster_id
        other.cluster = self.cluster
        other._view = self._view.copy()
        other._graph = other._view.graph
        other._room = self._room.copy()
        return other

    # -- who is a member

    @property
    def members(self) -> Mapping[PeerID, Member]:
        """The members now. It does not change when the roster does."""
        return self._view.members

    @property
    def revoked(self) -> Mapping[PeerID, Revocation]:
        """Likewise, the peers that were revoked and are no members."""
        return self._view.revoked

    def admits(self, peer: PeerID) -> bool:
        """Whether the peer is a member."""
        return self._view.admits(peer)

    def rights(self, peer: PeerID) -> frozenset[Right]:
        """What the peer may do; nothing if it is no member."""
        member = self._view.members.get(peer)
        return _NO_RIGHTS if member is None else member.rights

    def name_of(self, peer: PeerID) -> str:
        """What the member is called; nothing if it is none."""
        member = self._view.members.get(peer)
        return "" if member is None else member.name

    def by_name(self, name: str) -> list[Member]:
        """The members that are called so, in the order of their peer IDs."""
        return sorted(
            (member for member in self._view.members.values() if member.name == name),
            key=lambda member: member.peer_id,
        )

    # -- statements

    def __len__(self) -> int:
        return len(self._graph)

    def __contains__(self, statement: object) -> bool:
        return statement in self._graph

    @property
    def heads(self) -> tuple[StatementID, ...]:
        """IDs of the statements that are before no other, sorted."""
        return self._graph.heads

    @property
    def full(self) -> bool:
        """Whether only an admin's revokes are taken any more."""
        return len(self._graph) - self._room.own.bit_count() >= FROM_OTHERS.others

    def statements(self) -> list[SignedStatement]:
        """All, in an order that is the same everywhere; none before its parents."""
        return self._in_order(self._graph.everything)

    def since(self, have: Iterable[StatementID]) -> list[SignedStatement]:
        """All that are neither among ``have`` nor before one of them, in the same order.

        IDs that are not known here are left out of account.
        """
        return self._in_order(self._graph.everything & ~self._graph.known(have))

    def wanted(
        self, want: Iterable[StatementID], have: Iterable[StatementID]
    ) -> list[SignedStatement]:
        """Likewise of those that are among ``want`` or before one of them."""
        return self._in_order(self._graph.known(want) & ~self._graph.known(have))

    def up_to(self, statements: Iterable[StatementID]) -> int:
        """The set of the known ones of these and of all before them; sets are bit masks."""
        return self._graph.known(statements)

    def listed(self, statements: int) -> list[SignedStatement]:
        """A set, in the order of :meth:`statements`."""
        return self._in_order(statements)

    def add(self, signed: SignedStatement) -> list[SignedStatement]:
        """Take a statement; what is new by that.

        That is the statement, if it was not here. Before it there may be some for which there was
        no room as long as nobody needed them.

        :raises InvalidStatement: it is not well-formed.
        :raises MissingParents: it cannot be judged yet.
        :raises RosterFull: there is no room for it.
        """
        return self._add(signed, True, FROM_OTHERS)

    def merge(
        self, statements: Iterable[SignedStatement], verify: bool = True
    ) -> list[SignedStatement]:
        """Take statements in any order; those that are new, each after its parents.

        Those whose parents are missing are left out, and those for which there is no room.

        :param verify: whether to check signatures. What :meth:`load` has taken can go without.
        :raises InvalidStatement: one is not well-formed. Those after it are not looked at; the
            error has those before it.
        """
        return self._merge(statements, verify, FROM_OTHERS)

    def _in_order(self, statements: int) -> list[SignedStatement]:
        return [self._view.statements[number] for number in self._graph.in_order(statements)]

    def _add(self, signed: SignedStatement, check: bool, room: Room) -> list[SignedStatement]:
        # What is cheap comes first, and the signature last.
        if signed.id in self._graph:
            return []
        statement = signed.statement
        if isinstance(statement, Found):
            raise InvalidStatement(
                f"a statement founds another cluster than {self.cluster}", "statement_second_found"
            )
        missing = self._graph.missing(statement.parents)
        new = self._add_needed(signed, missing, check, room) if missing else []
        try:
            self._room.check(statement, len(self._graph), room)
        except RosterFull:
            if is_own(statement):
                self._judge(signed, check)
                self._room.set_aside(signed)
            raise
        try:
            judgement = self._judge(signed, check)
        except InvalidStatement as error:
            error.merged = tuple(new)
            raise
        parents = self._graph.numbers(statement.parents)
        self._room.enter(signed, len(self._graph))
        self._view.enter(self._sharing(signed, parents), parents, judgement)
        return [*new, signed]

    def _judge(self, signed: SignedStatement, check: bool) -> Judgement:
        """What the statement does, whose parents are here.

        :raises InvalidStatement: it is not well-formed.
        """
        parents = self._graph.numbers(signed.statement.parents)
        judgement = self._view.judge(signed.statement, parents)
        if judgement.objection is not None:
            raise InvalidStatement(*judgement.objection)
        if check:
            _check_signature(signed)
        return judgement

    def _add_needed(
        self, signed: SignedStatement, missing: tuple[StatementID, ...], check: bool, room: Room
    ) -> list[SignedStatement]:
        """Take what there was no room for, and an admin's statement needs.

        :raises MissingParents: something else is missing.
        """
        if not self._room.is_aside(missing):
            raise MissingParents(missing)
        statement = signed.statement
        if is_own(statement):
            # Whether it is well-formed is seen when it is needed.
            if check:
                _check_signature(signed)
            self._room.set_aside(signed)
            raise RosterFull(
                f"the roster of {self.cluster} had no room for what {statement.author} said before"
            )
        needed = self._room.needed(missing)
        known = {each.id for each in needed}
        before = {each for one in needed for each in one.statement.parents} - known
        lacking = self._graph.missing((*before, *(set(missing) - known)))
        if lacking or Right.ADMINISTER not in self.rights(statement.author):
            raise MissingParents(lacking or missing)
        self._room.check(statement, len(self._graph), room)
        if check:
            _check_signature(signed)
        return [new for each in needed for new in self._add(each, False, ANY)]

    def _sharing(self, signed: SignedStatement, parents: Sequence[int]) -> SignedStatement:
        """The same statement, with the IDs of its parents that are in memory already."""
        shared = tuple(self._graph.ids[parent] for parent in parents)
        statement = structs.replace(signed.statement, parents=shared)
        return SignedStatement(statement, signed.body, signed.signature, signed.id)

    def _merge(
        self, statements: Iterable[SignedStatement], check: bool, room: Room
    ) -> list[SignedStatement]:
        new: list[SignedStatement] = []
        waiting: dict[StatementID, list[SignedStatement]] = {}
        for signed in statements:
            ready = [signed]
            while ready:
                each = ready.pop()
                try:
                    added = self._add(each, check, room)
                except MissingParents as error:
                    waiting.setdefault(error.missing[0], []).append(each)
                except RosterFull:
                    # What needs it may wait for it.
                    ready += waiting.pop(each.id, ())
                except InvalidStatement as error:
                    error.merged = (*new, *error.merged)
                    raise
                else:
                    new += added
                    for one in added:
                        ready += waiting.pop(one.id, ())
        return new

    # -- making statements; they are not added

    def make_admit(
        self, key: PrivateKey, target: PeerID, name: str, role: Role, time: str
    ) -> SignedStatement:
        """Make ``target`` a member, or a member in another role.

        :param time: now, RFC 3339; so of the others.
        :raises LocalProtocolError: the key's owner is no admin, or the name is not one.
        :raises RosterFull: there is no room for it; so of the others.
        """
        # Of admits at the same time only the rights that all give would count.
        over = self._view.revokes_of(target)
        for number in self._view.standing(target).counting:
            over |= 1 << number
        return self._say(
            key, lambda parents: Admit(key.peer_id, parents, time, target, name, role), over
        )

    def make_revoke(
        self, key: PrivateKey, target: PeerID, reason: str, time: str
    ) -> SignedStatement:
        """End the membership of ``target``.

        There need not be room for a revoke of the key's owner: it is given to the others, who take
        it or not.

        :raises LocalProtocolError: the key's owner is no admin, and not ``target`` or no member.
        """
        return self._say(
            key,
            lambda parents: Revoke(key.peer_id, parents, time, target, reason),
            own=target == key.peer_id,
        )

    def make_rename(self, key: PrivateKey, target: PeerID, name: str, time: str) -> SignedStatement:
        """Call ``target`` something else.

        :raises LocalProtocolError: the key's owner is neither an admin nor ``target``, or one of
            them is no member, or the name is not one.
        """
        if not self.admits(target):
            raise LocalProtocolError(f"{target} is no member of {self.cluster}")
        return self._say(
            key,
            lambda parents: Rename(key.peer_id, parents, time, target, name),
            own=target == key.peer_id,
        )

    def make_rotate(self, key: PrivateKey, new_key: PrivateKey, time: str) -> SignedStatement:
        """Put the new key's owner in the place of the key's.

        :raises LocalProtocolError: the key's owner is no member, or the new one's is or was one.
        """

        def make(parents: tuple[StatementID, ...]) -> Rotate:
            proof = prove_rotation(new_key, key.peer_id, parents)
            return Rotate(key.peer_id, parents, time, new_key.peer_id, proof)

        return self._say(key, make, self._view.revokes_of(new_key.peer_id), own=True)

    def _say(
        self,
        key: PrivateKey,
        make: Callable[[tuple[StatementID, ...]], Statement],
        over: int = 0,
        own: bool = False,
    ) -> SignedStatement:
        """Sign what ``make`` makes, with all of the set ``over`` before it.

        :param own: whether it is of its author, and so has what the author said of itself before
            it, too.
        """
        for number in self._view.standing(key.peer_id).counting:
            over |= 1 << number
        but = self._room.own
        if own:
            but &= ~self._view.acts_of(key.peer_id)
        parents = self._graph.heads_over(over, MAX_PARENTS, but)
        if parents is None:
            raise LocalProtocolError(
                f"the peer was revoked by more admins at the same time than the {MAX_PARENTS} "
                "that one statement can know of; revoke it once more, then admit it"
            )
        statement = make(parents)
        judgement = self._view.judge(statement, self._graph.numbers(parents))
        if judgement.objection is not None:
            raise LocalProtocolError(judgement.objection[0])
        if not (isinstance(statement, Revoke) and statement.target == statement.author):
            self._room.check(statement, len(self._graph), FROM_OTHERS)
        return sign(key, statement)


def _check_signature(signed: SignedStatement) -> None:
    if not verify(signed):
        raise InvalidStatement(
            f"a statement of {signed.statement.author} has a wrong signature", "statement_signature"
        )
