"""Who is a member by which statements: the rules one by one.

What each statement's author knew is in its parents, so that "at the same time" is written as two
statements with the same parents.
"""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from bzzz.trust.roster import InvalidStatement, Roster
from bzzz.trust.statements import Admit, Role, SignedStatement
from tests.trust.rosters import Judge, admit, found, key, rename, revoke, roster_of, rotate

ADMIN, MEMBER = Role.ADMIN, Role.MEMBER
ROOT = found("acacia")


class RulesTests(SynchronousTestCase):
    """Acacia founds, walnut and cedar are admins, oak and maple come and go."""

    def setUp(self) -> None:
        self.walnut = admit("acacia", "walnut", ROOT, role=ADMIN)
        self.cedar = admit("acacia", "cedar", self.walnut, role=ADMIN)
        self.known = [ROOT, self.walnut, self.cedar]

    def check(self, *statements: SignedStatement, members: str) -> Roster:
        """These are the members, in whatever order the statements came."""
        every = [*self.known, *statements]
        judge = Judge()
        for each in every:
            self.assertTrue(judge.take(each))
        rosters = [roster_of(*every), self.last_first(every)]
        expected = {key(name).peer_id for name in members.split()}
        for roster in rosters:
            self.assertEqual(set(roster.members), expected)
        self.assertEqual(set(judge.members(judge.everything)), expected)
        self.assertEqual(rosters[0].members, rosters[1].members)
        return rosters[0]

    def last_first(self, statements: list[SignedStatement]) -> Roster:
        """Of those that can be added, the last is added next."""
        roster = Roster.load(statements[:1])
        waiting = statements[1:]
        while waiting:
            ready = [
                each
                for each in waiting
                if all(parent in roster for parent in each.statement.parents)
            ]
            roster.add(ready[-1])
            waiting.remove(ready[-1])
        return roster

    # -- member

    def test_admit_and_revoke_at_the_same_time(self) -> None:
        """The revoke wins."""
        self.check(
            admit("walnut", "oak", self.cedar),
            revoke("cedar", "oak", self.cedar),
            members="acacia walnut cedar",
        )

    def test_admit_again_without_knowing(self) -> None:
        """Who admits a peer again without knowing of its revoke does not bring it back."""
        one = admit("walnut", "oak", self.cedar)
        self.check(
            one,
            revoke("cedar", "oak", one),
            admit("walnut", "oak", one, role=ADMIN),
            members="acacia walnut cedar",
        )

    def test_admit_again_knowing(self) -> None:
        """Who knows of the revoke does."""
        one = admit("walnut", "oak", self.cedar)
        two = revoke("cedar", "oak", one)
        three = admit("walnut", "oak", two)
        self.check(one, two, three, members="acacia walnut cedar oak")

    def test_one_of_two_revokes(self) -> None:
        """It has to know of all of them, also of one that comes to light later."""
        one = admit("walnut", "oak", self.cedar)
        two, three = revoke("cedar", "oak", one), revoke("acacia", "oak", one)
        four = admit("walnut", "oak", two)
        self.check(one, two, four, members="acacia walnut cedar oak")
        self.check(one, two, four, three, members="acacia walnut cedar")
        five = admit("walnut", "oak", three, four)
        self.check(one, two, three, four, five, members="acacia walnut cedar oak")

    def test_rename_is_no_admit(self) -> None:
        """A revoked peer stays out whatever else is said of it later."""
        one = admit("walnut", "oak", self.cedar)
        two = revoke("cedar", "oak", one)
        self.check(one, two, rename("walnut", "oak", "oak", two), members="acacia walnut cedar")

    def test_mutual_revokes(self) -> None:
        """Members that revoke each other at the same time are both out."""
        self.check(
            revoke("walnut", "cedar", self.cedar),
            revoke("cedar", "walnut", self.cedar),
            members="acacia",
        )

    def test_revoke_before_any_admit(self) -> None:
        """A peer can be revoked before it was ever seen admitted."""
        roster = self.check(
            admit("walnut", "oak", self.cedar),
            revoke("cedar", "oak", ROOT, self.cedar),
            members="acacia walnut cedar",
        )
        self.assertIn(key("oak").peer_id, roster.revoked)

    # -- void

    def test_backdated_admit(self) -> None:
        """What a revoked admin says as if it did not know is void."""
        self.check(
            revoke("acacia", "walnut", self.cedar),
            admit("walnut", "oak", self.cedar),
            members="acacia cedar",
        )

    def test_backdated_accomplices(self) -> None:
        """So is what those say whom it let in, and those whom they let in."""
        one = admit("walnut", "oak", self.cedar, role=ADMIN)
        two = admit("oak", "maple", one, role=ADMIN)
        three = admit("maple", "elm", two)
        self.check(revoke("acacia", "walnut", self.cedar), one, two, three, members="acacia cedar")

    def test_what_was_seen_stays(self) -> None:
        """What the revoking admin had seen is not void."""
        one = admit("walnut", "oak", self.cedar)
        two = admit("walnut", "maple", one)
        self.check(one, two, revoke("acacia", "walnut", one), members="acacia cedar oak")

    def test_revokes_count_always(self) -> None:
        """A revoke by an admin that was revoked at the same time counts."""
        self.check(
            revoke("acacia", "walnut", self.cedar),
            revoke("walnut", "cedar", self.cedar),
            members="acacia",
        )

    def test_void_rename(self) -> None:
        """The name that a revoked admin gave at the same time does not count."""
        roster = self.check(
            revoke("acacia", "walnut", self.cedar),
            rename("walnut", "cedar", "oak", self.cedar),
            members="acacia cedar",
        )
        self.assertEqual(roster.name_of(key("cedar").peer_id), "cedar")

    def test_void_role(self) -> None:
        """A role that a revoked admin gave at the same time does not count."""
        one = admit("acacia", "oak", self.cedar)
        roster = self.check(
            one,
            revoke("acacia", "walnut", one),
            admit("walnut", "oak", one, role=ADMIN),
            members="acacia cedar oak",
        )
        self.assertEqual(roster.members[key("oak").peer_id].role, MEMBER)

    def test_known_to_be_void(self) -> None:
        """Who was let in by what is void by then has no right, whichever revoke makes it void."""
        one = admit("walnut", "oak", self.cedar, role=ADMIN)
        two = admit("walnut", "maple", one, role=ADMIN)
        seen = revoke("acacia", "walnut", one)
        unseen = revoke("cedar", "walnut", self.cedar)
        after = [admit(by, "elm", two, seen) for by in ("oak", "maple")]
        late = [admit(by, "elm", two, unseen) for by in ("oak", "maple")]
        for order in ((seen, unseen), (unseen, seen)):
            roster = roster_of(*self.known, one, two, *order)
            self.assertTrue(roster.add(after[0]))
            for statement in (after[1], *late):
                self.assertRaises(InvalidStatement, roster.add, statement)

    def test_void_rename_after_all(self) -> None:
        """A name that was shown goes when news makes it void."""
        one = rename("walnut", "cedar", "oak", self.cedar)
        roster = roster_of(*self.known, one)
        self.assertEqual(roster.name_of(key("cedar").peer_id), "oak")
        roster.add(revoke("acacia", "walnut", self.cedar))
        self.assertEqual(roster.name_of(key("cedar").peer_id), "cedar")

    def test_one_of_two_admits_void(self) -> None:
        """What was said with a right of two admits is void when one of them is."""
        one = admit("walnut", "oak", self.cedar, role=ADMIN)
        two = admit("acacia", "oak", self.cedar, role=ADMIN)
        three = admit("oak", "maple", one, two)
        self.check(one, two, three, members="acacia walnut cedar oak maple")
        gone = revoke("cedar", "walnut", self.cedar)
        self.check(one, two, three, gone, members="acacia cedar oak")
        # Once it is known that it is void, the other is enough.
        four = admit("oak", "elm", one, two, gone)
        self.check(one, two, three, gone, four, members="acacia cedar oak elm")

    def test_lesser_role(self) -> None:
        """What an admin says while it gets a lesser role is void, and what was seen stays."""
        one = admit("walnut", "oak", self.cedar)
        less = admit("acacia", "walnut", one)
        two = admit("walnut", "maple", one)
        roster = self.check(one, less, two, members="acacia walnut cedar oak")
        self.assertEqual(roster.rights(key("walnut").peer_id), MEMBER.rights)

    def test_greater_role(self) -> None:
        """What a member says while it gets a greater role counts."""
        one = admit("acacia", "oak", self.cedar)
        more = admit("acacia", "oak", one, role=ADMIN)
        roster = self.check(
            one, more, rename("oak", "oak", "elm", one), members="acacia walnut cedar oak"
        )
        self.assertEqual(roster.name_of(key("oak").peer_id), "oak")
        two = rename("acacia", "walnut", "x", more)
        self.check(one, more, two, members="acacia walnut cedar oak")

    def test_lesser_role_and_rename(self) -> None:
        """A member may still rename itself while it loses another right."""
        less = admit("acacia", "walnut", self.cedar)
        one = rename("walnut", "walnut", "oak", self.cedar)
        two = rename("walnut", "cedar", "maple", self.cedar)
        roster = self.check(less, one, two, members="acacia walnut cedar")
        self.assertEqual(roster.name_of(key("cedar").peer_id), "cedar")
        self.assertEqual(roster.name_of(key("walnut").peer_id), "walnut")
        three = rename("walnut", "walnut", "oak", less)
        roster = self.check(less, one, two, three, members="acacia walnut cedar")
        self.assertEqual(roster.name_of(key("walnut").peer_id), "oak")

    def test_news_never_brings_back(self) -> None:
        """A lesser role counts against what was said beside it even when it is void itself."""
        less = admit("walnut", "cedar", self.cedar)
        one = admit("cedar", "oak", self.cedar)
        gone = revoke("acacia", "walnut", self.cedar)
        self.check(less, one, members="acacia walnut cedar")
        roster = self.check(less, one, gone, members="acacia cedar")
        self.assertEqual(roster.members[key("cedar").peer_id].role, ADMIN)

    def test_copies(self) -> None:
        """What is void in a copy says nothing of the original."""
        for copied, own, last in (
            (
                admit("walnut", "oak", self.cedar),
                admit("acacia", "maple", self.cedar),
                admit("acacia", "walnut", self.cedar),
            ),
            (
                admit("acacia", "walnut", self.cedar),
                admit("acacia", "maple", self.cedar),
                admit("walnut", "elm", self.cedar),
            ),
        ):
            roster = roster_of(*self.known)
            copy = roster.copy()
            copy.add(copied)
            roster.merge([own, last])
            self.assertEqual(roster.members, roster_of(*self.known, own, last).members)

    # -- rotate

    def test_rotate_and_revoke_at_the_same_time(self) -> None:
        """Neither the old key nor the new one is in."""
        self.check(
            revoke("acacia", "walnut", self.cedar),
            rotate("walnut", "oak", self.cedar),
            members="acacia cedar",
        )

    def test_two_rotations(self) -> None:
        """Two rotations of one key at the same time leave neither in."""
        one, two = rotate("walnut", "oak", self.cedar), rotate("walnut", "maple", self.cedar)
        self.check(one, members="acacia cedar oak")
        self.check(one, two, members="acacia cedar")

    def test_many_rotations(self) -> None:
        """Nor do more, nor does what the new keys say count then."""
        every = [rotate("walnut", f"oak-{number}", self.cedar) for number in range(5)]
        after = [admit(f"oak-{number}", f"elm-{number}", each) for number, each in enumerate(every)]
        self.check(every[0], after[0], members="acacia cedar oak-0 elm-0")
        self.check(*every, *after, members="acacia cedar")
        # Nor by those who know of two of them only.
        late = admit("acacia", "walnut", every[0], every[1], role=ADMIN)
        self.check(*every, late, members="acacia cedar")

    def test_rotate_ends_the_old_key(self) -> None:
        """What the old key says at the same time is void, and afterwards it has no right."""
        one = rotate("walnut", "oak", self.cedar)
        self.check(one, admit("walnut", "maple", self.cedar), members="acacia cedar oak")
        roster = roster_of(*self.known, one)
        self.assertRaises(InvalidStatement, roster.add, admit("walnut", "maple", one))

    def test_rotate_with_intersected_rights(self) -> None:
        """The new key has the rights that the old one had, if no role has these, too."""
        one = admit("acacia", "oak", self.cedar, role=Role.SUBMIT_ONLY)
        two = admit("walnut", "oak", self.cedar, role=Role.RUN_ONLY)
        three = rotate("oak", "maple", one, two)
        roster = self.check(one, two, three, members="acacia walnut cedar maple")
        member = roster.members[key("maple").peer_id]
        self.assertEqual((member.rights, member.role), (frozenset(), None))

    def test_rotate_and_a_lesser_role(self) -> None:
        """A rotation cannot carry a right away that is taken at the same time."""
        self.check(
            admit("acacia", "walnut", self.cedar),
            rotate("walnut", "oak", self.cedar),
            members="acacia cedar",
        )

    def test_rotate_with_a_void_right(self) -> None:
        """Nor one that a revoked admin gave as if it did not know."""
        one = admit("acacia", "oak", self.cedar)
        gone = revoke("acacia", "walnut", one)
        more = admit("walnut", "oak", one, role=ADMIN)
        self.check(one, gone, more, rotate("oak", "maple", more), members="acacia cedar")

    def test_rotate_with_a_name(self) -> None:
        """The name goes with the key as it was then, also when it was found void afterwards."""
        one = admit("acacia", "oak", self.cedar)
        two = rename("walnut", "oak", "elm", one)
        seen = revoke("acacia", "walnut", two)
        three = rotate("oak", "maple", seen)
        unseen = revoke("cedar", "walnut", one)
        roster = self.check(one, two, seen, three, unseen, members="acacia cedar maple")
        self.assertEqual(roster.name_of(key("maple").peer_id), "elm")
        four = rotate("oak", "maple", two, unseen)
        roster = self.check(one, two, unseen, four, members="acacia cedar maple")
        self.assertEqual(roster.name_of(key("maple").peer_id), "oak")

    def test_new_key_of_two(self) -> None:
        """Two that take the same new key at the same time give it the rights of both."""
        one = admit("acacia", "oak", self.cedar, role=Role.RUN_ONLY)
        roster = self.check(
            one, rotate("oak", "elm", one), rotate("walnut", "elm", one), members="acacia cedar elm"
        )
        self.assertEqual(roster.members[key("elm").peer_id].role, Role.RUN_ONLY)

    # -- role and name

    def test_last_role(self) -> None:
        """The last role counts, more or less than the one before."""
        one = admit("acacia", "oak", self.cedar, role=ADMIN)
        two = admit("acacia", "oak", one, role=Role.RUN_ONLY)
        three = admit("acacia", "oak", two, role=MEMBER)
        for statements in ((one,), (one, two), (one, two, three)):
            roster = self.check(*statements, members="acacia walnut cedar oak")
            statement = statements[-1].statement
            assert isinstance(statement, Admit)
            self.assertEqual(roster.members[key("oak").peer_id].role, statement.role)

    def test_roles_at_the_same_time(self) -> None:
        """Of roles given at the same time a member has the rights that all of them give."""
        for one, two, role in (
            (ADMIN, MEMBER, MEMBER),
            (MEMBER, Role.RUN_ONLY, Role.RUN_ONLY),
            (ADMIN, ADMIN, ADMIN),
            (Role.SUBMIT_ONLY, Role.RUN_ONLY, None),
        ):
            roster = self.check(
                admit("walnut", "oak", self.cedar, role=one),
                admit("cedar", "oak", self.cedar, role=two),
                members="acacia walnut cedar oak",
            )
            member = roster.members[key("oak").peer_id]
            self.assertEqual(member.role, role)
            self.assertEqual(member.rights, one.rights & two.rights)

    def test_statement(self) -> None:
        """Of the admits that count a member has the newest, of several that of the smallest ID."""
        one = admit("walnut", "oak", self.cedar)
        two = admit("cedar", "oak", self.cedar)
        roster = self.check(one, two, members="acacia walnut cedar oak")
        statement = roster.members[key("oak").peer_id].statement
        self.assertEqual(statement, min(one.id, two.id))
        three = rename("acacia", "walnut", "x", self.cedar)
        four = admit("walnut", "oak", three)
        roster = self.check(one, two, three, four, members="acacia walnut cedar oak")
        self.assertEqual(roster.members[key("oak").peer_id].statement, four.id)

    def test_names_at_the_same_time(self) -> None:
        """Of names given at the same time that of the smallest ID counts."""
        names = [rename("acacia", "cedar", f"oak-{number}", self.cedar) for number in range(5)]
        roster = self.check(*names, members="acacia walnut cedar")
        first = names.index(min(names, key=lambda each: each.id))
        self.assertEqual(roster.name_of(key("cedar").peer_id), f"oak-{first}")

    def test_own_name_at_the_same_time(self) -> None:
        """Of names given at the same time an admin's counts before that of the member itself."""
        for number in range(6):
            own = rename("cedar", "cedar", f"own-{number}", self.cedar)
            roster = self.check(
                own,
                rename("acacia", "cedar", "oak", self.cedar),
                members="acacia walnut cedar",
            )
            self.assertEqual(roster.name_of(key("cedar").peer_id), "oak")
            new = rotate("cedar", f"elm-{number}", self.cedar)
            given = rename("acacia", f"elm-{number}", "maple", self.cedar)
            roster = self.check(new, given, members=f"acacia walnut elm-{number}")
            self.assertEqual(roster.name_of(key(f"elm-{number}").peer_id), "maple")

    def test_admit_names(self) -> None:
        """An admit in another role gives a name, too."""
        one = rename("acacia", "cedar", "oak", self.cedar)
        two = admit("acacia", "cedar", one, role=MEMBER, name="elm")
        roster = self.check(one, two, members="acacia walnut cedar")
        self.assertEqual(roster.name_of(key("cedar").peer_id), "elm")
