"""Statements of the own node: their parents, and what nobody can say."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from bzzz.errors import LocalProtocolError
from bzzz.trust.statements import MAX_PARENTS, Role, SignedStatement
from tests.trust.rosters import TIME, admit, found, key, rename, revoke, roster_of

ROOT = found("acacia")
ACACIA, WALNUT, CEDAR = (key(name).peer_id for name in ("acacia", "walnut", "cedar"))


class MakingTests(SynchronousTestCase):
    """Statements of the own node."""

    def test_each(self) -> None:
        """What is made is taken, and does what it says; it is not added by itself."""
        acacia, walnut = key("acacia"), key("walnut")
        roster = roster_of(ROOT)
        statement = roster.make_admit(acacia, WALNUT, "walnut", Role.MEMBER, TIME)
        self.assertEqual(len(roster), 1)
        self.assertTrue(roster.add(statement))
        self.assertEqual(roster.members[WALNUT].role, Role.MEMBER)
        roster.add(roster.make_rename(walnut, WALNUT, "oak", TIME))
        self.assertEqual(roster.name_of(WALNUT), "oak")
        roster.add(roster.make_rotate(walnut, key("cedar"), TIME))
        self.assertEqual(roster.name_of(CEDAR), "oak")
        roster.add(roster.make_revoke(acacia, CEDAR, "sold", TIME))
        self.assertEqual(roster.revoked[CEDAR].reason, "sold")
        roster.add(roster.make_admit(acacia, CEDAR, "cedar", Role.ADMIN, TIME))
        roster.add(roster.make_revoke(acacia, ACACIA, "", TIME))
        self.assertEqual(list(roster.members), [CEDAR])

    def test_each_name_counts(self) -> None:
        """Whoever says it, the last name is the one that a member has; also with a new key."""
        roster = roster_of(ROOT, admit("acacia", "walnut", ROOT))
        names = iter(f"n{number}" for number in range(99))
        for by, new in (("walnut", "cedar"), ("cedar", "oak"), ("oak", "elm")):
            peer = key(by).peer_id
            for author in ("acacia", by, by, "acacia", "acacia", by):
                name = next(names)
                roster.add(roster.make_rename(key(author), peer, name, TIME))
                self.assertEqual(roster.name_of(peer), name)
            roster.add(roster.make_rotate(key(by), key(new), TIME))
            self.assertEqual(roster.name_of(key(new).peer_id), name)

    def test_no_right(self) -> None:
        """Who may not say something is told so, and nothing is signed."""
        one = admit("acacia", "walnut", ROOT)
        roster = roster_of(ROOT, one)
        walnut, cedar = key("walnut"), key("cedar")
        for make in (
            lambda: roster.make_admit(walnut, CEDAR, "cedar", Role.MEMBER, TIME),
            lambda: roster.make_revoke(walnut, ACACIA, "", TIME),
            lambda: roster.make_rename(walnut, ACACIA, "oak", TIME),
            lambda: roster.make_rename(key("acacia"), CEDAR, "oak", TIME),
            lambda: roster.make_rotate(cedar, key("oak"), TIME),
            lambda: roster.make_revoke(cedar, CEDAR, "", TIME),
            lambda: roster.make_rotate(walnut, key("acacia"), TIME),
            lambda: roster.make_rotate(walnut, walnut, TIME),
            lambda: roster.make_admit(key("acacia"), ACACIA, "acacia", Role.MEMBER, TIME),
            lambda: roster.make_admit(key("acacia"), CEDAR, "no spaces", Role.MEMBER, TIME),
            lambda: roster.make_revoke(key("acacia"), WALNUT, "two\nlines", TIME),
        ):
            error = self.assertRaises(LocalProtocolError, make)
            self.assertTrue(str(error).isprintable())

    def many_heads(self, count: int) -> list[SignedStatement]:
        """Admits of as many peers that did not know of each other."""
        return [admit("acacia", f"m{number}", ROOT) for number in range(count)]

    def test_parents(self) -> None:
        """The parents are all heads, as many as there may be."""
        heads = self.many_heads(MAX_PARENTS)
        statement = roster_of(ROOT, *heads).make_revoke(key("acacia"), WALNUT, "", TIME)
        self.assertEqual(statement.statement.parents, tuple(sorted(each.id for each in heads)))

    def test_too_many_heads(self) -> None:
        """Of more heads the newest are the parents, until all are joined."""
        heads = self.many_heads(MAX_PARENTS + 8)
        last = [rename("acacia", "m0", f"x{number}", heads[0]) for number in range(4)]
        roster = roster_of(ROOT, *heads, *last)
        statement = roster.make_rename(key("acacia"), ACACIA, "oak", TIME)
        self.assertEqual(len(statement.statement.parents), MAX_PARENTS)
        self.assertLessEqual({each.id for each in last}, set(statement.statement.parents))
        roster.add(statement)
        self.assertEqual(len(roster.heads), MAX_PARENTS + 8 - 1 + 4 - MAX_PARENTS + 1)
        roster.add(roster.make_rename(key("acacia"), ACACIA, "acacia", TIME))
        self.assertEqual(len(roster.heads), 1)

    def test_over_all_revokes(self) -> None:
        """An admit has all revokes of its target before it, however many heads are newer."""
        one = admit("acacia", "walnut", ROOT)
        two = [revoke("acacia", "walnut", one, reason=f"r{number}") for number in range(3)]
        heads = self.many_heads(MAX_PARENTS)
        newer = [rename("acacia", "acacia", "oak", each) for each in heads]
        roster = roster_of(ROOT, one, *two, *heads, *newer)
        statement = roster.make_admit(key("acacia"), WALNUT, "walnut", Role.MEMBER, TIME)
        self.assertLessEqual({each.id for each in two}, set(statement.statement.parents))
        self.assertEqual(len(statement.statement.parents), MAX_PARENTS)
        roster.add(statement)
        self.assertTrue(roster.admits(WALNUT))

    def test_over_the_own_right(self) -> None:
        """The admit that gave the author its right is before what it says."""
        one = admit("acacia", "walnut", ROOT, role=Role.ADMIN)
        heads = self.many_heads(MAX_PARENTS)
        newer = [rename("acacia", "acacia", "oak", each) for each in heads]
        roster = roster_of(ROOT, one, *heads, *newer)
        statement = roster.make_admit(key("walnut"), CEDAR, "cedar", Role.MEMBER, TIME)
        self.assertIn(one.id, statement.statement.parents)
        self.assertTrue(roster.add(statement))

    def test_too_many_revokes(self) -> None:
        """Revokes that one statement cannot all know of are to be joined by another first."""
        one = admit("acacia", "walnut", ROOT)
        many = [revoke("acacia", "walnut", one, reason=f"r{n}") for n in range(MAX_PARENTS + 1)]
        roster = roster_of(ROOT, one, *many)
        acacia = key("acacia")
        error = self.assertRaises(
            LocalProtocolError, roster.make_admit, acacia, WALNUT, "walnut", Role.MEMBER, TIME
        )
        self.assertIn("revoke it once more", str(error))
        roster.add(roster.make_revoke(acacia, WALNUT, "", TIME))
        roster.add(roster.make_admit(acacia, WALNUT, "walnut", Role.MEMBER, TIME))
        self.assertTrue(roster.admits(WALNUT))
