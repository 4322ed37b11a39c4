"""Rosters: what they take, what they tell, what can be said."""

from __future__ import annotations

from unittest import mock

from twisted.trial.unittest import SynchronousTestCase

from bzzz.errors import RemoteProtocolError
from bzzz.trust import roster as roster_module
from bzzz.trust.roster import (
    InvalidStatement,
    MissingParents,
    Revocation,
    Roster,
    RosterFull,
)
from bzzz.trust.roster_room import MAX_OWN_EACH, Room
from bzzz.trust.statements import Right, Role, SignedStatement, decode_statement
from tests.trust.rosters import (
    NONCE,
    TIME,
    admit,
    found,
    key,
    rename,
    revoke,
    roster_of,
    rotate,
)

ROOT = found("acacia")
ACACIA, WALNUT, CEDAR, MAPLE = (
    key(name).peer_id for name in ("acacia", "walnut", "cedar", "maple")
)


def with_signature_of(statement: SignedStatement, other: str) -> SignedStatement:
    """The same with somebody else's signature."""
    signature = key(other).sign(b"bzzz-roster-v1:" + statement.body)
    return decode_statement(signature + statement.body)


class MembersTests(SynchronousTestCase):
    """What a roster tells of its members."""

    def test_found(self) -> None:
        """Who founds a cluster is its admin; its ID is that of the statement."""
        roster = Roster.found(key("acacia"), "home", "acacia", NONCE, TIME)
        self.assertEqual(roster.statements(), [ROOT])
        self.assertEqual(roster.cluster, "home")
        self.assertEqual(roster.cluster_id, ROOT.id.hex())
        self.assertEqual(list(roster.members), [ACACIA])
        member = roster.members[ACACIA]
        self.assertEqual((member.name, member.role), ("acacia", Role.ADMIN))
        self.assertEqual(member.rights, frozenset(Right))
        self.assertEqual(member.statement, ROOT.id)
        other = Roster.found(key("acacia"), "home", "acacia", b"m" * 16, TIME)
        self.assertNotEqual(other.cluster_id, roster.cluster_id)

    def test_admit(self) -> None:
        """An admitted peer is a member in its role, and nobody else is."""
        for role in Role:
            statement = admit("acacia", "walnut", ROOT, role=role)
            roster = roster_of(ROOT, statement)
            member = roster.members[WALNUT]
            self.assertEqual((member.name, member.role), ("walnut", role))
            self.assertEqual(member.admitted_by, ACACIA)
            self.assertEqual((member.since, member.statement), (TIME, statement.id))
            self.assertEqual(roster.rights(WALNUT), role.rights)
            self.assertTrue(roster.admits(WALNUT))
            self.assertEqual(roster.name_of(WALNUT), "walnut")
            self.assertFalse(roster.admits(CEDAR))
            self.assertEqual(roster.rights(CEDAR), frozenset())
            self.assertEqual(roster.name_of(CEDAR), "")

    def test_revoke(self) -> None:
        """A revoked peer is no member, and it is told who said so and why."""
        one = admit("acacia", "walnut", ROOT)
        two = revoke("acacia", "walnut", one, reason="lost")
        roster = roster_of(ROOT, one, two)
        self.assertFalse(roster.admits(WALNUT))
        self.assertEqual(roster.rights(WALNUT), frozenset())
        self.assertEqual(
            dict(roster.revoked), {WALNUT: Revocation(WALNUT, ACACIA, TIME, "lost", two.id)}
        )

    def test_back(self) -> None:
        """A peer that is admitted again is no longer among the revoked."""
        one = admit("acacia", "walnut", ROOT)
        two = revoke("acacia", "walnut", one)
        three = admit("acacia", "walnut", two, role=Role.RUN_ONLY)
        roster = roster_of(ROOT, one, two, three)
        self.assertEqual(roster.rights(WALNUT), Role.RUN_ONLY.rights)
        self.assertEqual(dict(roster.revoked), {})

    def test_leave(self) -> None:
        """A member can revoke itself."""
        one = admit("acacia", "walnut", ROOT)
        roster = roster_of(ROOT, one, revoke("walnut", "walnut", one))
        self.assertEqual(roster.revoked[WALNUT].by, WALNUT)

    def test_rename(self) -> None:
        """A member is called what it or an admin says last."""
        one = admit("acacia", "walnut", ROOT)
        two = rename("walnut", "walnut", "ironwood", one)
        three = rename("acacia", "walnut", "oak", two)
        self.assertEqual(roster_of(ROOT, one, two).name_of(WALNUT), "ironwood")
        self.assertEqual(roster_of(ROOT, one, two, three).name_of(WALNUT), "oak")

    def test_rotate(self) -> None:
        """A new key has the name and the role of the old one, which is out."""
        one = admit("acacia", "walnut", ROOT, role=Role.ADMIN)
        two = rename("walnut", "walnut", "oak", one)
        three = rotate("walnut", "cedar", two)
        roster = roster_of(ROOT, one, two, three)
        self.assertEqual(set(roster.members), {ACACIA, CEDAR})
        member = roster.members[CEDAR]
        self.assertEqual((member.name, member.role), ("oak", Role.ADMIN))
        self.assertEqual(member.admitted_by, WALNUT)
        self.assertEqual(roster.revoked[WALNUT].by, WALNUT)
        self.assertIn(str(CEDAR), roster.revoked[WALNUT].reason)
        roster.add(admit("cedar", "maple", three))
        self.assertTrue(roster.admits(MAPLE))

    def test_rotate_again(self) -> None:
        """The name goes with each of many rotations, until another one is given."""
        statements = [ROOT, admit("acacia", "key-0", ROOT, name="walnut")]
        for number in range(MAX_OWN_EACH - 1):
            statements.append(rotate(f"key-{number}", f"key-{number + 1}", statements[-1]))
        newest = f"key-{MAX_OWN_EACH - 1}"
        last = key(newest).peer_id
        roster = roster_of(*statements)
        self.assertEqual(roster.members[last].name, "walnut")
        roster.add(rename(newest, newest, "oak", statements[-1]))
        self.assertEqual(roster.members[last].name, "oak")

    def test_by_name(self) -> None:
        """Members are found by name, all that have it."""
        one = admit("acacia", "walnut", ROOT)
        two = admit("acacia", "cedar", one, name="walnut")
        roster = roster_of(ROOT, one, two)
        self.assertEqual(
            [member.peer_id for member in roster.by_name("walnut")], sorted([WALNUT, CEDAR])
        )
        self.assertEqual([member.peer_id for member in roster.by_name("acacia")], [ACACIA])
        self.assertEqual(roster.by_name("oak"), [])

    def test_snapshot(self) -> None:
        """Members that were asked for do not change with the roster."""
        roster = roster_of(ROOT)
        before, revoked = roster.members, roster.revoked
        one = admit("acacia", "walnut", ROOT)
        roster.merge([one, revoke("acacia", "walnut", one), admit("acacia", "cedar", one)])
        self.assertEqual(list(before), [ACACIA])
        self.assertEqual(len(revoked), 0)
        self.assertEqual(set(roster.members), {ACACIA, CEDAR})


class StatementsTests(SynchronousTestCase):
    """What a roster has, and what others lack."""

    def setUp(self) -> None:
        self.left = admit("acacia", "walnut", ROOT)
        self.right = admit("acacia", "cedar", ROOT)
        self.joined = revoke("acacia", "cedar", self.left, self.right)
        self.every = (ROOT, self.left, self.right, self.joined)
        self.roster = roster_of(*self.every)

    def test_container(self) -> None:
        """It knows how many and which statements it has."""
        self.assertEqual(len(self.roster), 4)
        self.assertIn(self.left.id, self.roster)
        self.assertNotIn(bytes(32), self.roster)
        self.assertNotIn("walnut", self.roster)

    def test_heads(self) -> None:
        """Heads are before no other statement, and sorted."""
        self.assertEqual(self.roster.heads, (self.joined.id,))
        both = roster_of(*self.every[:3])
        self.assertEqual(both.heads, tuple(sorted((self.left.id, self.right.id))))

    def test_order(self) -> None:
        """Statements are in the same order, parents first, however they came."""
        middle = sorted((self.left, self.right), key=lambda each: each.id)
        for order in (self.every, self.every[::-1], (ROOT, *self.every[:0:-1])):
            self.assertEqual(
                Roster.load(order).statements(), [ROOT, *middle, self.joined], str(order)
            )

    def test_since(self) -> None:
        """What somebody lacks is what is not before-or-equal what it has."""
        roster = self.roster
        self.assertEqual(roster.since([]), roster.statements())
        self.assertEqual(roster.since([bytes(32)]), roster.statements())
        self.assertEqual(roster.since([self.left.id]), [self.right, self.joined])
        self.assertEqual(roster.since([self.left.id, self.right.id]), [self.joined])
        self.assertEqual(roster.since(roster.heads), [])

    def test_wanted(self) -> None:
        """What is wanted comes with all that is before it, but for what is had."""
        roster = self.roster
        self.assertEqual(roster.wanted([self.left.id], []), [ROOT, self.left])
        self.assertEqual(roster.wanted([self.joined.id], [self.right.id]), [self.left, self.joined])
        self.assertEqual(roster.wanted([bytes(32)], []), [])
        self.assertEqual(roster.wanted([ROOT.id], [self.joined.id]), [])

    def test_copy(self) -> None:
        """A copy and its original do not change each other."""
        one = admit("acacia", "maple", self.joined)
        two = rename("acacia", "walnut", "oak", self.joined)
        three = revoke("acacia", "acacia", ROOT)
        copy = self.roster.copy()
        copy.merge([one, three])
        self.roster.add(two)
        self.assertEqual(set(self.roster.members), {ACACIA, WALNUT})
        self.assertEqual(self.roster.heads, (two.id,))
        self.assertEqual(self.roster.name_of(WALNUT), "oak")
        self.assertEqual(len(copy.members), 0)
        self.assertEqual(len(copy), 6)
        self.roster.merge(copy.statements())
        copy.add(two)
        self.assertEqual(self.roster.members, copy.members)
        self.assertEqual(self.roster.statements(), copy.statements())


class AddTests(SynchronousTestCase):
    """What is taken, and what is not."""

    def refused(self, roster: Roster, statement: SignedStatement, code: str) -> None:
        before = roster.statements()
        error = self.assertRaises(InvalidStatement, roster.add, statement)
        self.assertEqual(error.code, code)
        self.assertTrue(str(error).isprintable())
        self.assertEqual(roster.statements(), before)

    def test_known(self) -> None:
        """What is there already is not new, and its signature is not looked at."""
        roster = roster_of(ROOT)
        one = admit("acacia", "walnut", ROOT)
        self.assertTrue(roster.add(one))
        self.assertFalse(roster.add(one))
        self.assertFalse(roster.add(ROOT))
        self.assertFalse(roster.add(with_signature_of(one, "walnut")))
        self.assertEqual(len(roster), 2)

    def test_signature(self) -> None:
        """A statement with another's signature, or a rotation without proof, is refused."""
        roster = roster_of(ROOT)
        one = admit("acacia", "walnut", ROOT)
        self.refused(roster, with_signature_of(one, "walnut"), "statement_signature")
        self.assertTrue(roster.add(one))
        good = rotate("walnut", "cedar", one)
        stolen = rotate("walnut", "cedar", ROOT)
        assert good.statement != stolen.statement
        body = good.body.replace(self.proof_of(good), self.proof_of(stolen))
        forged = decode_statement(key("walnut").sign(b"bzzz-roster-v1:" + body) + body)
        self.refused(roster, forged, "statement_signature")

    @staticmethod
    def proof_of(statement: SignedStatement) -> bytes:
        return statement.body.split(b'"')[-2]

    def test_cheap_first(self) -> None:
        """The signature is checked only of what would be taken otherwise."""
        roster = roster_of(ROOT, admit("acacia", "walnut", ROOT))
        self.refused(
            roster,
            with_signature_of(admit("walnut", "cedar", ROOT), "cedar"),
            "statement_no_right",
        )
        missing = with_signature_of(admit("acacia", "cedar", found("cedar")), "cedar")
        self.assertRaises(MissingParents, roster.add, missing)

    def test_second_found(self) -> None:
        """A roster is of one cluster."""
        self.refused(roster_of(ROOT), found("acacia", b"m" * 16), "statement_second_found")
        self.refused(roster_of(ROOT), found("walnut"), "statement_second_found")

    def test_foreign(self) -> None:
        """A statement of another cluster has parents that are never there."""
        other = found("acacia", b"m" * 16)
        error = self.assertRaises(
            MissingParents, roster_of(ROOT).add, admit("acacia", "walnut", other, ROOT)
        )
        self.assertEqual(error.missing, (other.id,))

    def test_rights(self) -> None:
        """Members, strangers and the revoked say only what they may."""
        one = admit("acacia", "walnut", ROOT)
        two = admit("acacia", "cedar", one, role=Role.ADMIN)
        three = revoke("acacia", "cedar", two)
        roster = roster_of(ROOT, one, two, three)
        for statement in (
            admit("walnut", "maple", three),
            revoke("walnut", "acacia", three),
            rename("walnut", "acacia", "oak", three),
            # not yet an admin, and no longer one
            admit("cedar", "maple", one),
            admit("cedar", "maple", three),
            rename("cedar", "cedar", "oak", three),
            revoke("cedar", "cedar", three),
            rotate("cedar", "maple", three),
            # a stranger
            admit("maple", "oak", three),
            rename("maple", "maple", "oak", three),
            revoke("maple", "maple", three),
            rotate("maple", "oak", three),
        ):
            self.refused(roster, statement, "statement_no_right")
        for statement in (
            rename("walnut", "walnut", "oak", three),
            rotate("walnut", "maple", three),
            revoke("walnut", "walnut", three),
            admit("cedar", "oak", two),
        ):
            self.assertTrue(roster.add(statement))

    def test_rotate_target(self) -> None:
        """A key that is or was on the roster is nobody's new key."""
        one = admit("acacia", "walnut", ROOT)
        two = admit("acacia", "cedar", one)
        three = revoke("acacia", "cedar", two)
        four = rotate("acacia", "maple", three)
        five = revoke("maple", "elm", four)
        roster = roster_of(ROOT, one, two, three, four, five)
        for statement in (
            rotate("walnut", "elm", five),
            rotate("walnut", "cedar", two),
            rotate("walnut", "cedar", three),
            rotate("walnut", "acacia", four),
            rotate("walnut", "maple", four),
        ):
            self.refused(roster, statement, "statement_target_known")

    def test_merge(self) -> None:
        """Statements are taken in any order, and the new ones returned, parents first."""
        statements = [ROOT]
        for number in range(8):
            statements.append(admit("acacia", f"m{number}", *statements[-2:]))
        roster = roster_of(*statements[:3])
        self.assertEqual(roster.merge(statements[::-1]), statements[3:])
        self.assertEqual(roster.merge(statements), [])

    def test_merge_missing(self) -> None:
        """What lacks a parent is left out, with all that comes after it."""
        one = admit("acacia", "walnut", ROOT)
        two = rename("acacia", "walnut", "oak", one)
        three = admit("acacia", "cedar", ROOT)
        roster = roster_of(ROOT)
        self.assertEqual(roster.merge([rename("acacia", "cedar", "x", two), two, three]), [three])
        self.assertEqual(roster.merge([two, one, three]), [one, two])

    def test_merge_invalid(self) -> None:
        """The first that is not well-formed ends it; what came before it is told."""
        one = admit("acacia", "walnut", ROOT)
        wrong = admit("walnut", "cedar", one)
        roster = roster_of(ROOT)
        error = self.assertRaises(
            InvalidStatement, roster.merge, [one, wrong, rename("acacia", "walnut", "x", one)]
        )
        self.assertEqual(error.merged, (one,))
        self.assertEqual(len(roster), 2)

    def test_load(self) -> None:
        """A roster is read from bytes or statements, in any order."""
        one = admit("acacia", "walnut", ROOT)
        for statements in ([one.encode(), ROOT.encode()], [one, ROOT], [ROOT, one, one, ROOT]):
            roster = Roster.load(statements)
            self.assertEqual(set(roster.members), {ACACIA, WALNUT})

    def test_load_wrong(self) -> None:
        """What founds none or two clusters, or is not well-formed, is no roster."""
        one = admit("acacia", "walnut", ROOT)
        for statements, code in (
            ([], "statement_no_found"),
            ([one], "statement_no_found"),
            ([ROOT, found("walnut")], "statement_second_found"),
            ([with_signature_of(ROOT, "walnut")], "statement_signature"),
            ([ROOT, with_signature_of(one, "walnut")], "statement_signature"),
            ([ROOT, admit("walnut", "cedar", ROOT)], "statement_no_right"),
            ([ROOT, b"x"], "statement_length"),
        ):
            error = self.assertRaises(RemoteProtocolError, Roster.load, statements)
            self.assertEqual(error.code, code)
        self.assertRaises(InvalidStatement, Roster, one)

    def test_load_unverified(self) -> None:
        """Signatures of what this node has stored are not checked; rights are."""
        one = with_signature_of(admit("acacia", "walnut", ROOT), "walnut")
        roster = Roster.load([with_signature_of(ROOT, "walnut"), one], verify=False)
        self.assertTrue(roster.admits(WALNUT))
        wrong = [ROOT, admit("walnut", "cedar", ROOT)]
        self.assertRaises(InvalidStatement, Roster.load, wrong, verify=False)


class FullTests(SynchronousTestCase):
    """A roster that has no room."""

    def setUp(self) -> None:
        for name, value in (
            ("FROM_OTHERS", Room(others=4, revokes=6, own=3, own_each=2)),
            ("FROM_DISK", Room(others=6, revokes=6, own=6, own_each=4)),
        ):
            patch = mock.patch.object(roster_module, name, value)
            patch.start()
            self.addCleanup(patch.stop)
        self.statements = [ROOT]
        for name in ("walnut", "cedar", "maple"):
            self.statements.append(admit("acacia", name, self.statements[-1]))
        self.roster = roster_of(*self.statements)

    def test_only_revokes(self) -> None:
        """It takes revokes by an admin, and what members say of themselves, and nothing else."""
        last = self.statements[-1]
        self.assertTrue(self.roster.full)
        for statement in (
            admit("acacia", "oak", last),
            rename("acacia", "walnut", "oak", last),
        ):
            self.assertRaises(RosterFull, self.roster.add, statement)
            self.assertEqual(self.roster.merge([statement]), [])
        self.assertTrue(self.roster.add(revoke("acacia", "walnut", last)))
        self.assertTrue(self.roster.add(revoke("acacia", "cedar", last)))
        self.assertRaises(RosterFull, self.roster.add, revoke("acacia", "maple", last))
        self.assertEqual(set(self.roster.members), {ACACIA, MAPLE})

    def test_own(self) -> None:
        """What members say of themselves has a room of its own, and takes none from admins."""
        last = self.statements[-1]
        self.assertTrue(self.roster.add(rename("walnut", "walnut", "oak", last)))
        self.assertTrue(self.roster.add(rename("walnut", "walnut", "elm", last)))
        for statement in (rename("walnut", "walnut", "ash", last), rotate("walnut", "oak", last)):
            error = self.assertRaises(RosterFull, self.roster.add, statement)
            self.assertIn(f"2 statements that {WALNUT} said of itself", str(error))
        # Others have theirs, as long as not all say as much as they may.
        self.assertTrue(self.roster.add(rename("cedar", "cedar", "ash", last)))
        error = self.assertRaises(RosterFull, self.roster.add, revoke("maple", "maple", last))
        self.assertIn("3 statements that members said of themselves", str(error))
        self.assertTrue(self.roster.add(revoke("acacia", "walnut", last)))
        self.assertTrue(self.roster.add(revoke("acacia", "cedar", last)))

    def test_keys_of_one_machine(self) -> None:
        """Who rotates its key has no more room by that."""
        last = self.statements[-1]
        step = rotate("walnut", "oak", last)
        self.roster.add(step)
        other = rename("oak", "oak", "elm", step)
        self.assertTrue(self.roster.add(other))
        self.assertRaises(RosterFull, self.roster.add, rename("oak", "oak", "ash", other))

    def test_needed(self) -> None:
        """What an admin says is taken with what it needs of that for which there was no room."""
        last = self.statements[-1]
        there = roster_of(*self.statements[:2])
        first = rename("walnut", "walnut", "elm", self.statements[1])
        there.add(first)
        there.add(revoke("walnut", "walnut", first))
        again = there.make_admit(key("acacia"), WALNUT, "walnut", Role.RUN_ONLY, TIME)
        self.assertEqual(len(there.statements()), 4)
        for name in ("oak", "ash"):
            self.roster.add(rename("walnut", "walnut", name, last))
        left = there.statements()[-1]
        self.assertRaises(MissingParents, self.roster.copy().add, again)
        for statements in ([first, left, again], [again, left, first], [left, first, again]):
            with self.subTest([statements.index(each) for each in (first, left, again)]):
                with mock.patch.object(
                    roster_module, "FROM_OTHERS", Room(others=5, own=3, own_each=2)
                ):
                    roster = self.roster.copy()
                    self.assertEqual(roster.merge(statements), [first, left, again])
                self.assertEqual(roster.members[WALNUT].role, Role.RUN_ONLY)
                self.assertEqual(roster.merge(statements), [])

    def test_not_needed(self) -> None:
        """What is not, because whose statement needs it is no admin, is not taken."""
        last = self.statements[-1]
        for name in ("oak", "ash"):
            self.roster.add(rename("walnut", "walnut", name, last))
        beyond = rename("walnut", "walnut", "elm", last)
        self.assertRaises(RosterFull, self.roster.add, beyond)
        wrong = revoke("cedar", "maple", beyond)
        self.assertRaises(MissingParents, self.roster.add, wrong)
        self.assertRaises(RosterFull, self.roster.add, rename("walnut", "walnut", "yew", beyond))
        forged = with_signature_of(revoke("acacia", "maple", beyond), "walnut")
        self.assertRaises(InvalidStatement, self.roster.add, forged)
        self.assertNotIn(beyond.id, self.roster)
        self.assertTrue(self.roster.add(revoke("acacia", "maple", beyond)))
        self.assertIn(beyond.id, self.roster)

    def test_filled_apart(self) -> None:
        """Who fills rosters with different things of its own is revoked at each of them."""
        last = self.statements[-1]
        other = roster_of(*self.statements)
        for number, roster in enumerate((self.roster, other)):
            for way in range(2):
                roster.add(rename("walnut", "walnut", f"oak-{number}-{way}", last))
        said = self.roster.make_revoke(key("acacia"), WALNUT, "", TIME)
        self.assertTrue(other.add(said))
        self.assertFalse(other.admits(WALNUT))

    def test_what_is_needed(self) -> None:
        """Who left and is admitted again is so after having left, though others say that."""
        roster = roster_of(*self.statements[:2])
        roster.add(roster.make_revoke(key("walnut"), WALNUT, "", TIME))
        self.assertFalse(roster.admits(WALNUT))
        roster.add(roster.make_admit(key("acacia"), WALNUT, "walnut", Role.MEMBER, TIME))
        self.assertTrue(roster.admits(WALNUT))

    def test_role_after_rotating(self) -> None:
        """An admin gives a machine that has rotated its key another role."""
        roster = roster_of(*self.statements[:2])
        roster.add(roster.make_rotate(key("walnut"), key("oak"), TIME))
        peer = key("oak").peer_id
        roster.add(roster.make_admit(key("acacia"), peer, "walnut", Role.ADMIN, TIME))
        self.assertEqual(roster.members[peer].role, Role.ADMIN)

    def test_wrong_is_wrong(self) -> None:
        """A member cannot use the room that is kept for admins."""
        wrong = revoke("walnut", "cedar", self.statements[-1])
        self.assertRaises(InvalidStatement, self.roster.add, wrong)

    def test_load(self) -> None:
        """A roster that is full is loaded whole, in whatever order it comes."""
        revokes = [revoke("acacia", name, ROOT) for name in ("walnut", "cedar")]
        self.assertEqual(self.roster.merge(revokes), revokes)
        again = Roster.load(self.roster.statements())
        self.assertEqual(again.statements(), self.roster.statements())
        self.assertEqual(again.members, self.roster.members)

    def test_making(self) -> None:
        """Who makes a statement is told; leaving is possible all the same."""
        roster = self.roster
        error = self.assertRaises(
            RosterFull, roster.make_admit, key("acacia"), key("oak").peer_id, "x", Role.ADMIN, TIME
        )
        self.assertIn("home", str(error))
        self.assertTrue(roster.add(roster.make_revoke(key("acacia"), WALNUT, "", TIME)))
        roster.make_revoke(key("cedar"), CEDAR, "", TIME)
