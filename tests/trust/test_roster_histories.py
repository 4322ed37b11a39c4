"""Rosters of any history: the same everywhere, and as a slow judge has them who reads the rules.

Several admins say things, each knowing a part of what the others said, or pretending to: also after
they were revoked.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from bzzz.identity.peer_id import PeerID
from bzzz.trust.roster import InvalidStatement, Roster
from bzzz.trust.statements import Found, Revoke, Right, Role, SignedStatement
from tests.trust.rosters import Judge, admit, found, key, parents_of, rename, revoke, rotate

NAMES = [f"m{number}" for number in range(6)]


@dataclass(frozen=True)
class Step:
    """Somebody says something.

    :ivar kind: what.
    :ivar forget: of what was said so far the author does not know that with these remainders,
        unless it is before something that it does know: a partial view, or a pretended one.
    :ivar who: by whom, among those who may.
    :ivar target: about whom.
    :ivar role: in which role, where one is given.
    :ivar anybody: said by whoever, who mostly may not.
    """

    kind: str
    forget: frozenset[int]
    who: int
    target: int
    role: Role
    anybody: bool


KINDS = ["admit"] * 4 + ["revoke"] * 3 + ["leave", "rename", "call", "rotate"]
ROLES = [Role.ADMIN, Role.ADMIN, *Role]

steps = st.lists(
    st.builds(
        Step,
        st.sampled_from(KINDS),
        st.frozensets(st.integers(0, 4), max_size=4),
        st.integers(0, 99),
        st.integers(0, 99),
        st.sampled_from(ROLES),
        st.sampled_from([False] * 9 + [True]),
    ),
    min_size=6,
    max_size=20,
)


class History:
    """What several admins said, each knowing a part of what the others did, or pretending to.

    :ivar judge: has taken what is well-formed.
    :ivar refused: what is not.
    """

    def __init__(self, said: list[Step]) -> None:
        self.judge = Judge()
        self.judge.take(found("m0"))
        self.refused: list[SignedStatement] = []
        self._names = {key(name).peer_id: name for name in NAMES}
        for number, step in enumerate(said):
            self._say(number, step)

    @property
    def statements(self) -> list[SignedStatement]:
        """The well-formed ones."""
        return list(self.judge.taken.values())

    def _say(self, number: int, step: Step) -> None:
        judge = self.judge
        parents = parents_of(
            [
                each
                for place, each in enumerate(self.statements)
                if place == 0 or place % 5 not in step.forget
            ],
            judge,
        )
        known = frozenset(each.id for each in parents).union(*map(judge.before, parents))
        may = frozenset() if step.kind in ("leave", "call", "rotate") else {Right.ADMINISTER}
        able = sorted(peer for peer, (_, rights) in judge.members(known).items() if may <= rights)
        if step.anybody or not able:
            able = sorted(self._names)
        who = self._names[able[step.who % len(able)]]
        targets = [name for name in self._names.values() if name != who]
        target = targets[step.target % len(targets)]
        if step.kind == "admit":
            said = admit(who, target, *parents, role=step.role, name=f"n{number % 3}")
        elif step.kind == "revoke":
            said = revoke(who, target, *parents)
        elif step.kind == "leave":
            said = revoke(who, who, *parents)
        elif step.kind == "rename":
            said = rename(who, target, f"n{number}", *parents)
        elif step.kind == "call":
            said = rename(who, who, f"n{number}", *parents)
        else:
            new = f"r{step.target % 8}"
            if new == who:
                return
            self._names[key(new).peer_id] = new
            said = rotate(who, new, *parents)
        if said.id not in judge.taken and not judge.take(said):
            self.refused.append(said)


def long_history(seed: int, count: int) -> list[Step]:
    """Longer than Hypothesis would try many of."""
    dice = random.Random(seed)
    most = dice.randrange(4)
    return [
        Step(
            dice.choice(KINDS),
            frozenset(dice.randrange(5) for _ in range(dice.randint(0, most))),
            dice.randrange(100),
            dice.randrange(100),
            dice.choice(ROLES),
            dice.random() < 0.05,
        )
        for _ in range(count)
    ]


def members(roster: Roster) -> dict[PeerID, tuple[str, frozenset[Right]]]:
    """As the slow judge has them."""
    return {member.peer_id: (member.name, member.rights) for member in roster.members.values()}


class HistoryTests(SynchronousTestCase):
    """Any history."""

    def same(self, one: Roster, other: Roster) -> None:
        """Both rosters are the same in everything."""
        self.assertEqual(
            [each.encode() for each in one.statements()],
            [each.encode() for each in other.statements()],
        )
        self.assertEqual(one.members, other.members)
        self.assertEqual(one.revoked, other.revoked)
        self.assertEqual(one.heads, other.heads)

    @settings(max_examples=80, deadline=None)
    @given(steps)
    def test_as_the_rules_say(self, said: list[Step]) -> None:
        """The fast roster has the members, names, rights and refusals of the slow judge."""
        history = History(said)
        judge = Judge()
        roster = Roster.load(history.statements[:1])
        judge.take(history.statements[0])
        for statement in history.statements[1:]:
            judge.take(statement)
            self.assertTrue(roster.add(statement))
            self.assertEqual(members(roster), judge.members(judge.everything))
            self.assertEqual(set(roster.revoked), judge.revoked(judge.everything))
        for statement in history.refused:
            self.assertRaises(InvalidStatement, roster.add, statement)

    def test_long(self) -> None:
        """So it is after longer histories, in which more depends on more."""
        for seed in range(40):
            with self.subTest(seed):
                history = History(long_history(seed, 40))
                judge, statements = history.judge, history.statements
                random.Random(seed).shuffle(statements)
                roster = Roster.load(statements)
                self.assertEqual(len(roster), len(statements))
                self.assertEqual(members(roster), judge.members(judge.everything))
                self.assertEqual(set(roster.revoked), judge.revoked(judge.everything))
                for statement in history.refused:
                    self.assertRaises(InvalidStatement, roster.add, statement)

    @settings(max_examples=50, deadline=None)
    @given(steps, st.randoms(use_true_random=False))
    def test_any_order(self, said: list[Step], order: random.Random) -> None:
        """Merging is commutative: whatever the order, the roster is the same."""
        statements = History(said).statements
        first = Roster.load(statements)
        for _ in range(3):
            order.shuffle(statements)
            self.same(first, Roster.load(statements))

    @settings(max_examples=50, deadline=None)
    @given(steps, st.lists(st.integers(0, 3), min_size=21, max_size=21), st.booleans())
    def test_any_grouping(self, said: list[Step], places: list[int], turned: bool) -> None:
        """Merging is associative and idempotent: whatever parts are merged first, and again."""
        statements = History(said).statements
        parts = [Roster.load(statements[:1]) for _ in range(4)]
        for part, roster in enumerate(parts):
            mine = [each.id for each, at in zip(statements, places, strict=False) if at == part]
            roster.merge(Roster.load(statements).wanted(mine, []))
        one, two, three, four = parts[::-1] if turned else parts
        left = one.copy()
        for other in (two, three, four):
            left.merge(other.statements())
        three.merge(four.statements())
        two.merge(three.since(two.heads))
        one.merge(two.since(one.heads))
        whole = Roster.load(statements)
        self.same(whole, left)
        self.same(whole, one)
        self.assertEqual(left.merge(one.statements()), [])
        self.same(whole, left)

    @settings(max_examples=50, deadline=None)
    @given(steps, st.randoms(use_true_random=False))
    def test_no_way_back(self, said: list[Step], order: random.Random) -> None:
        """Only an admit of it that knows of all its revokes makes somebody a member by its coming.

        So a revoke is final against all that was said without knowing of it, by whomever.
        """
        history = History(said)
        judge = history.judge
        statements = history.statements
        roster = Roster.load(statements[:1])
        waiting = statements[1:]
        order.shuffle(waiting)
        while waiting:
            statement = next(
                each
                for each in waiting
                if all(parent in roster for parent in each.statement.parents)
            )
            waiting.remove(statement)
            before = set(roster.members)
            roster.add(statement)
            new = set(roster.members) - before
            self.assertLessEqual(len(new), 1)
            for peer in new:
                self.assertTrue(judge.admits(statement, peer))
                for other in roster.statements():
                    if judge.revokes(other, peer):
                        self.assertIn(other.id, judge.before(statement))

    @settings(max_examples=50, deadline=None)
    @given(steps)
    def test_revoked_admins(self, said: list[Step]) -> None:
        """No admit said at the same time as a revoke of its author counts, nor what comes of it."""
        judge = History(said).judge
        roster = Roster.load(judge.taken.values())
        void: set[bytes] = set()
        for statement in roster.statements():
            author = statement.statement.author
            if isinstance(statement.statement, Found | Revoke):
                continue
            if any(
                judge.revokes(other, author) and judge.concurrent(statement, other)
                for other in judge.taken.values()
            ) or any(each.id in void for each in judge.counting(author, judge.before(statement))):
                void.add(statement.id)
        for member in roster.members.values():
            self.assertNotIn(member.statement, void)
