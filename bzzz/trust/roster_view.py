"""Who is a member, judged by any set of statements that has with each all that are before it.

Enters: statements, each after its parents. Leaves: whether they are well-formed, members, and
revocations. docs/trust.rst, "The roster".

News can only make more statements void. What makes one void is a revoke, or an admit with less
rights, of its author that is concurrent with it, whether that is void itself or not: a *reason*. A
statement *stands on* itself, the admits that gave its author the right, those that gave theirs to
their authors, and so on, which never changes. So it is void by a set of statements in which there
is a reason of one that it stands on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from bzzz.identity.peer_id import PeerID
from bzzz.trust.roster_graph import Graph, numbers_in
from bzzz.trust.roster_members import (
    ADMINISTER,
    ALL_RIGHTS,
    Member,
    Revocation,
    bits_of,
    rights_of,
    role_of,
)
from bzzz.trust.roster_peer import PeerStatements, Standing
from bzzz.trust.statements import (
    Admit,
    Found,
    Rename,
    Revoke,
    Rotate,
    SignedStatement,
    Statement,
)

__all__ = ["Judgement", "View"]


@dataclass(frozen=True, slots=True)
class Judgement:
    """What the statements before one say of it.

    :ivar objection: why it is not well-formed, and the code of that; None if it is.
    :ivar before: the set of them.
    :ivar author: what its author is by them.
    :ivar need: the rights without which it could not be said.
    """

    objection: tuple[str, str] | None
    before: int
    author: Standing
    need: int


class View:
    """Judges statements and keeps the members up to date.

    :param graph: which statements are before which; grows by :meth:`enter` alone.
    :ivar statements: by number.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.statements: list[SignedStatement] = []
        self._stands_on: list[int] = []
        self._rights: list[int] = []  # that an admit gives
        self._names: list[str | None] = []  # that it gives; of a rotate, once it was asked for
        self._void = 0  # for a reason of its own, by all statements
        self._peers: dict[PeerID, PeerStatements] = {}
        self._own: set[PeerID] = set()  # whose are of no copy, too
        self._changed: set[PeerID] = set()
        self._void_told = 0  # what was void when the members were looked at last
        self._members: dict[PeerID, Member] = {}
        self._revoked: dict[PeerID, Revocation] = {}

    def copy(self) -> View:
        """Another, with a graph of its own, that grows by itself.

        What it has of each peer is copied when there is more of that, in either of the two.
        """
        other = View(self.graph.copy())
        other.statements = self.statements.copy()
        other._stands_on = self._stands_on.copy()
        other._rights = self._rights.copy()
        other._names = self._names.copy()
        other._void = self._void
        other._peers = self._peers.copy()
        self._own.clear()
        other._changed = self._changed.copy()
        other._void_told = self._void_told
        other._members = self._members  # these two are never changed, but replaced
        other._revoked = self._revoked
        return other

    @property
    def members(self) -> Mapping[PeerID, Member]:
        """Of all statements. The mapping does not change when more are entered."""
        if self._changed:
            self._refresh()
        return MappingProxyType(self._members)

    @property
    def revoked(self) -> Mapping[PeerID, Revocation]:
        """Likewise, the peers that were revoked and are no members."""
        if self._changed:
            self._refresh()
        return MappingProxyType(self._revoked)

    def admits(self, peer_id: PeerID) -> bool:
        """Whether the peer is a member."""
        if self._changed:
            self._refresh()
        return peer_id in self._members

    def standing(self, peer_id: PeerID) -> Standing:
        """What a peer is by all statements."""
        return self._standing(peer_id, self.graph.everything)

    def revokes_of(self, peer_id: PeerID) -> int:
        """The set of the revokes of a peer."""
        peer = self._peers.get(peer_id)
        return 0 if peer is None else peer.revokes

    def acts_of(self, peer_id: PeerID) -> int:
        """The set of what a peer said and can be void."""
        peer = self._peers.get(peer_id)
        return 0 if peer is None else peer.acted

    def judge(self, statement: Statement, parents: Sequence[int]) -> Judgement:
        """Whether a statement with these parents is well-formed, apart from its signature."""
        before = self.graph.up_to_any(parents)
        author = self._standing(statement.author, before)
        need = author.rights if isinstance(statement, Rotate) else _need(statement)
        objection = None
        if isinstance(statement, Found):
            author = Standing((), ALL_RIGHTS, 0, 0)
        elif not author.counting or need & ~author.rights:
            kind = type(statement).__name__.lower()
            who = "an admin" if need & ADMINISTER else "a member"
            objection = (f"{statement.author} is not {who} and cannot {kind}", "statement_no_right")
        elif isinstance(statement, Rotate):
            target = self._peers.get(statement.target)
            if target is not None and (target.admitted | target.revokes) & before:
                objection = (
                    f"{statement.author} cannot take the key of {statement.target}, "
                    "which is or was a member",
                    "statement_target_known",
                )
        return Judgement(objection, before, author, need)

    def enter(self, signed: SignedStatement, parents: Sequence[int], judged: Judgement) -> None:
        """Take a statement that is well-formed."""
        statement = signed.statement
        number = self.graph.add(signed.id, parents, judged.before)
        bit = 1 << number
        concurrent = self.graph.everything & ~judged.before & ~bit
        about = statement.author if isinstance(statement, Found) else statement.target
        rights = stands_on = 0
        name: str | None = ""
        if isinstance(statement, Admit | Rename | Rotate):
            stands_on = bit | judged.author.stands_on
            self._act(statement, judged.need, bit, concurrent)
        if isinstance(statement, Revoke):
            self._revoke(about, bit, concurrent)
        elif isinstance(statement, Rename):
            name = statement.name
            self._peer(about).renames |= bit
            self._peer(about).renames_on |= stands_on
        elif isinstance(statement, Rotate):
            rights, name = judged.author.rights, None
            self._admit(about, rights, bit, stands_on, concurrent)
            self._revoke(statement.author, bit, concurrent)
        else:
            rights = ALL_RIGHTS if isinstance(statement, Found) else bits_of(statement.role)
            name = statement.name
            self._admit(about, rights, bit, stands_on, concurrent)
        self.statements.append(signed)
        self._stands_on.append(stands_on)
        self._rights.append(rights)
        self._names.append(name)
        self._changed.update((about, statement.author))

    # -- what a statement does

    def _peer(self, peer_id: PeerID) -> PeerStatements:
        """What there is of a peer, to be changed."""
        if peer_id not in self._own:
            known = self._peers.get(peer_id)
            self._peers[peer_id] = PeerStatements() if known is None else known.copy()
            self._own.add(peer_id)
        return self._peers[peer_id]

    def _admit(
        self, peer_id: PeerID, rights: int, bit: int, stands_on: int, concurrent: int
    ) -> None:
        peer = self._peer(peer_id)
        peer.admits[rights] = peer.admits.get(rights, 0) | bit
        peer.admitted |= bit
        peer.stands_on |= stands_on
        self._make_void(peer, peer.threatened(rights) & concurrent, bit, concurrent)

    def _revoke(self, peer_id: PeerID, bit: int, concurrent: int) -> None:
        peer = self._peer(peer_id)
        peer.revokes |= bit
        self._make_void(peer, peer.acted & concurrent, bit, concurrent)

    def _act(self, statement: Statement, need: int, bit: int, concurrent: int) -> None:
        peer = self._peer(statement.author)
        peer.acts[need] = peer.acts.get(need, 0) | bit
        peer.acted |= bit
        reasons = peer.threats(need) & concurrent
        if reasons:
            self._void |= bit
        if isinstance(statement, Rotate):
            reasons |= bit  # so that all rotations at the same time have the same
        if not isinstance(statement, Rename):
            peer.grounds |= bit
            if peer.reasons and peer.reasons[-1][0] == reasons:
                bit |= peer.reasons.pop()[1]
            peer.reasons.append((reasons, bit))

    def _make_void(self, peer: PeerStatements, acts: int, reason: int, concurrent: int) -> None:
        self._void |= acts
        before = self.graph.everything ^ concurrent ^ reason
        left = acts & peer.grounds
        # The newest are the last, and mostly the only ones.
        at = len(peer.reasons)
        while left:
            at -= 1
            reasons, some = peer.reasons[at]
            hit = some & left
            left ^= hit
            # Where a reason is before the new one, that adds nothing.
            if hit and not reasons & before:
                peer.reasons[at] = reasons | reason, hit
                if hit != some:
                    peer.reasons.insert(at, (reasons, some ^ hit))

    # -- judging

    def _void_in(self, statements: int, within: int) -> int:
        """Those of some admits that are void by the set ``within`` for a reason of their own."""
        left = statements & self._void
        if within == self.graph.everything:
            return left
        void = 0
        left &= within
        while left:
            number = left.bit_length() - 1
            peer = self._peers[self.statements[number].statement.author]
            some = left & peer.grounds
            at = len(peer.reasons)
            while some:
                at -= 1
                reasons, acts = peer.reasons[at]
                hit = acts & some
                if not hit:
                    continue
                some ^= hit
                found = reasons & within
                if found:
                    # What is there alone is no reason for itself.
                    void |= hit ^ found if found & hit and found.bit_count() == 1 else hit
            left &= ~peer.acted
        return void

    def _is_void(self, number: int, within: int) -> bool:
        """Whether a rename is void by the set ``within``."""
        if within != self.graph.everything and self._void >> number & 1:
            statement = self.statements[number].statement
            threats = self._peers[statement.author].threats(_need(statement)) & within
            for threat in numbers_in(threats & ~self.graph.before[number]):
                if not self.graph.before[threat] >> number & 1:
                    return True
        return bool(self._void_in(self._stands_on[number], within))

    def _standing(self, peer_id: PeerID, within: int) -> Standing:
        """What a peer is by the set ``within``."""
        peer = self._peers.get(peer_id)
        if peer is None:
            return Standing((), 0, 0, 0)
        void = self._void_in(peer.stands_on, within)
        revokes = peer.revokes & within
        # None that came here before a revoke can have it before itself.
        admits = (peer.admitted & within & ~void) >> revokes.bit_length() << revokes.bit_length()
        key = (admits, revokes, void)
        if peer.last is not None and peer.last[0] == key:
            return peer.last[1]
        counting = []
        while admits:
            # The newest that is left is before no other.
            number = admits.bit_length() - 1
            before = self.graph.before[number]
            admits ^= 1 << number
            if not revokes & ~before and not self._stands_on[number] & void:
                counting.append(number)
                admits &= ~before
        rights = ALL_RIGHTS if counting else 0
        stands_on = 0
        for number in counting:
            rights &= self._rights[number]
            stands_on |= self._stands_on[number]
        standing = Standing(tuple(counting), rights, stands_on, void)
        peer.last = key, standing
        return standing

    def _naming(self, peer_id: PeerID, standing: Standing, within: int) -> int:
        """The statement that says what a member is called by the set ``within``."""
        names = self._peers[peer_id].renames & within
        admits = 0
        for number in standing.counting:
            admits |= 1 << number
        names |= admits
        newest = []
        while names:
            number = names.bit_length() - 1
            names ^= 1 << number
            if admits >> number & 1 or not self._is_void(number, within):
                newest.append(number)
                names &= ~self.graph.before[number]
        return min(newest, key=lambda number: (self._is_own(number), self.graph.ids[number]))

    def _is_own(self, number: int) -> bool:
        """Whether it is the member itself that gave a name."""
        statement = self.statements[number].statement
        return isinstance(statement, Rotate) or (
            isinstance(statement, Rename) and statement.target == statement.author
        )

    def _name(self, peer_id: PeerID, standing: Standing) -> str:
        """What a member is called by all statements."""
        naming = self._naming(peer_id, standing, self.graph.everything)
        rotates = []
        while (name := self._names[naming]) is None:
            # That of the key before, when it was rotated.
            rotates.append(naming)
            author, within = self.statements[naming].statement.author, self.graph.before[naming]
            naming = self._naming(author, self._standing(author, within), within)
        for rotate in rotates:
            self._names[rotate] = name
        return name

    def _refresh(self) -> None:
        changed, self._changed = self._changed, set()
        void = self._void & ~self._void_told
        self._void_told = self._void
        if void:
            for peer_id, peer in self._peers.items():
                if (peer.stands_on | peer.renames_on) & void:
                    changed.add(peer_id)
        members, revoked = self._members.copy(), self._revoked.copy()
        # In an order that is the same in every process, as it is that of the members, too.
        for peer_id in sorted(changed):
            standing = self.standing(peer_id)
            members.pop(peer_id, None)
            revoked.pop(peer_id, None)
            if standing.counting:
                members[peer_id] = self._member(peer_id, standing)
            elif self._peers[peer_id].revokes:
                revoked[peer_id] = self._revocation(peer_id)
        self._members, self._revoked = members, revoked

    def _member(self, peer_id: PeerID, standing: Standing) -> Member:
        signed = self.statements[self.graph.newest(standing.counting)]
        rights = rights_of(standing.rights)
        return Member(
            peer_id,
            self._name(peer_id, standing),
            rights,
            role_of(rights),
            signed.statement.author,
            signed.statement.time,
            signed.id,
        )

    def _revocation(self, peer_id: PeerID) -> Revocation:
        signed = self.statements[self.graph.newest(numbers_in(self._peers[peer_id].revokes))]
        statement = signed.statement
        if isinstance(statement, Revoke):
            reason = statement.reason
        else:
            reason = (
                "" if isinstance(statement, Found) else f"has the key of {statement.target} now"
            )
        return Revocation(peer_id, statement.author, statement.time, reason, signed.id)


def _need(statement: Statement) -> int:
    """The rights without which it cannot be said; not of a rotate."""
    if isinstance(statement, Revoke | Rename) and statement.target == statement.author:
        return 0
    return ADMINISTER
