"""Open invitations: how often they can be used and guessed at, and when they end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from bzzz.identity.keys import PrivateKey
from bzzz.trust.codes import Code, Token, parse_code, parse_token
from bzzz.trust.invitations import (
    ALL_RUNS_PER_MINUTE,
    CODE_SECONDS,
    MAX_OPEN,
    MAX_USES,
    MAX_WRONG,
    RUNS_PER_HOST,
    RUNS_PER_MINUTE,
    RUNS_PER_SUBNET,
    TOKEN_RUNS_PER_MINUTE,
    Invitation,
    InvitationError,
    Invitations,
    TokenRecord,
)
from bzzz.trust.run_limits import MAX_PLACES

WALNUT = PrivateKey(b"w" * 32).peer_id
PEERS = [PrivateKey(bytes((number,)) * 32).peer_id for number in range(1, 7)]
ACACIA, IRONWOOD, ROSEWOOD = PEERS[:3]
NOW = 1_790_000_000.0
DAY = 86400.0


def counting() -> Callable[[int], bytes]:
    """Bytes that differ from call to call."""
    count = 0

    def take(size: int) -> bytes:
        nonlocal count
        count += 1
        return count.to_bytes(size, "big")

    return take


class Base(SynchronousTestCase):
    def setUp(self) -> None:
        self.invitations = Invitations(WALNUT, counting())

    def code(self, now: float = NOW) -> Invitation:
        return self.invitations.open_code(now)

    def token(self, uses: int = 2) -> Invitation:
        return self.invitations.open_token(uses, NOW + DAY, NOW)

    def admit(
        self,
        invitation: Invitation,
        peer: Any = ACACIA,
        now: float = NOW,
        is_member: bool = False,
    ) -> None:
        self.assertIsNone(self.begin(invitation, peer, now, is_member))
        self.assertIsNone(self.use(invitation, peer, now, is_member))
        self.invitations.admitted(invitation, peer)

    def begin(
        self,
        invitation: Invitation,
        peer: Any = ACACIA,
        now: float = NOW,
        is_member: bool = False,
        host: str = "192.0.2.1",
        subnet: str = "",
    ) -> str | None:
        return self.invitations.begin_run(invitation, peer, now, is_member, host, subnet or host)

    def use(
        self, invitation: Invitation, peer: Any, now: float = NOW, is_member: bool = False
    ) -> str | None:
        return self.invitations.use(invitation, peer, now, is_member)


class CodeTests(Base):
    """Codes are for one machine, a while and three guesses."""

    def test_open(self) -> None:
        """A code can be typed, is found by its channel, and is good for ten minutes."""
        invitation = self.code()
        assert isinstance(invitation.secret, Code)
        self.assertEqual(parse_code(invitation.secret.text), invitation.secret)
        self.assertEqual((invitation.channel, invitation.uses), ("1", 1))
        self.assertEqual(invitation.expires_at, NOW + CODE_SECONDS)
        self.assertIs(self.invitations.look_up("1", NOW), invitation)
        self.assertIsNone(self.invitations.look_up("2", NOW))
        self.assertEqual(self.invitations.all, (invitation,))

    def test_smallest_free_number(self) -> None:
        """Channels are numbers from 1; one that was closed is free again. Codes differ."""
        first, second, third = (self.code() for _ in range(3))
        self.assertEqual([each.channel for each in (first, second, third)], ["1", "2", "3"])
        self.assertEqual(len({each.secret.password[2:] for each in (first, second, third)}), 3)
        self.assertTrue(self.invitations.close(second))
        self.assertFalse(self.invitations.close(second))
        self.assertEqual(self.code().channel, "2")
        self.assertEqual(self.code().channel, "4")

    def test_closing_an_old_one(self) -> None:
        """An invitation that is over takes nothing from the one that has its channel now."""
        old = self.code()
        self.invitations.close(old)
        new = self.code()
        self.invitations.close(old)
        for _ in range(MAX_WRONG):
            self.invitations.wrong_guess(old)
        self.assertIs(self.invitations.look_up("1", NOW), new)
        self.assertEqual(new.guesses_left, MAX_WRONG)

    def test_expires(self) -> None:
        """At its time a code is void, whether somebody has looked or not."""
        invitation = self.code()
        end = NOW + CODE_SECONDS
        self.assertEqual(self.invitations.next_expiry, end)
        self.assertEqual(self.invitations.expire(end - 0.001), [])
        self.assertIs(self.invitations.look_up("1", end - 0.001), invitation)
        self.assertIsNone(self.invitations.look_up("1", end))
        self.assertEqual(self.begin(invitation, ACACIA, end), "no_channel")
        self.assertEqual(self.use(invitation, ACACIA, end), "no_channel")
        self.assertEqual(self.invitations.expire(end), [invitation])
        self.assertFalse(invitation.open)
        self.assertIsNone(self.invitations.next_expiry)
        self.assertEqual(len(self.invitations), 0)

    def test_wrong_guesses(self) -> None:
        """The third wrong guess makes the code void, for runs that are under way too."""
        invitation = self.code()
        for number in range(4):
            self.assertIsNone(self.begin(invitation, host=f"192.0.2.{number}"))
        left = [self.invitations.wrong_guess(invitation) for _ in range(3)]
        self.assertEqual(left, [2, 1, 0])
        self.assertIsNone(self.invitations.look_up("1", NOW))
        self.assertEqual(self.use(invitation, ACACIA, NOW), "no_channel")
        self.assertEqual(self.begin(invitation, ACACIA, NOW), "no_channel")
        self.assertEqual(self.invitations.wrong_guess(invitation), 0)
        self.assertEqual(invitation.wrong, MAX_WRONG)

    def test_one_machine(self) -> None:
        """Who has used a code may use it again as a member until it expires, nobody else may."""
        invitation = self.code()
        self.admit(invitation)
        self.assertEqual(self.begin(invitation, IRONWOOD, is_member=True), "used")
        self.assertEqual(self.use(invitation, IRONWOOD), "used")
        late = NOW + CODE_SECONDS - 1
        self.assertIsNone(self.begin(invitation, ACACIA, late, is_member=True))
        self.assertIsNone(self.use(invitation, ACACIA, late, is_member=True))
        self.invitations.admitted(invitation, ACACIA)
        self.assertEqual(invitation.machines, [ACACIA])
        over = self.use(invitation, ACACIA, NOW + CODE_SECONDS, is_member=True)
        self.assertEqual(over, "no_channel")

    def test_no_member_any_more(self) -> None:
        """Who has used a code and is no member now does not come back by it, however many uses."""
        for invitation in (self.code(), self.token(5)):
            self.admit(invitation)
            self.assertEqual(self.begin(invitation), "used")
            self.assertEqual(self.use(invitation, ACACIA), "used")
            # Nor after another run, in which it was a member, came to nothing.
            self.assertIsNone(self.use(invitation, ACACIA, is_member=True))
            self.assertFalse(self.invitations.give_back(invitation, ACACIA))
            self.assertEqual(self.use(invitation, ACACIA), "used")

    def test_two_runs_at_once(self) -> None:
        """Of two machines that have the code the first that proves it has the use."""
        invitation = self.code()
        for peer in (ACACIA, IRONWOOD):
            self.assertIsNone(self.begin(invitation, peer, NOW))
        self.assertIsNone(self.use(invitation, IRONWOOD, NOW))
        self.assertEqual(self.use(invitation, ACACIA, NOW), "used")

    def test_give_back(self) -> None:
        """A machine that was not admitted after all leaves the use to another one."""
        invitation = self.code()
        self.assertIsNone(self.use(invitation, ACACIA, NOW))
        self.invitations.give_back(invitation, ACACIA)
        self.assertIsNone(self.use(invitation, IRONWOOD, NOW))
        self.invitations.give_back(invitation, ACACIA)
        self.assertEqual(invitation.machines, [IRONWOOD])

    def test_two_runs_of_a_machine(self) -> None:
        """While a machine is being admitted another run of it has to wait for how that ends."""
        for invitation in (self.code(), self.token()):
            self.assertIsNone(self.use(invitation, ACACIA))
            self.assertEqual(invitation.admitting, (ACACIA,))
            for is_member in (False, True):
                self.assertEqual(self.begin(invitation, is_member=is_member), "busy")
                self.assertEqual(self.use(invitation, ACACIA, is_member=is_member), "busy")
            self.invitations.give_back(invitation, ACACIA)
            self.assertEqual(invitation.machines, [])
            self.admit(invitation)

    def test_not_kept(self) -> None:
        """Of a code a database keeps nothing."""
        self.assertIsNone(self.code().record())

    @given(
        st.lists(
            st.tuples(
                st.sampled_from(
                    ["begin", "wrong", "use", "admitted", "give_back", "revoked", "wait", "back"]
                ),
                st.sampled_from(PEERS),
                st.floats(0, 400),
            ),
            max_size=60,
        ),
        st.integers(0, 3),
    )
    def test_never_more(self, steps: list[tuple[str, Any, float]], uses: int) -> None:
        """Whatever happens in whatever order: three wrong guesses, and so many machines."""
        invitations = Invitations(WALNUT, counting())
        invitation = invitations.open_token(uses, NOW + DAY, NOW) if uses else self.code()
        if not uses:
            invitations = self.invitations
        now = NOW
        counted = 0
        in_hand: list[Any] = []
        admitted: set[Any] = set()
        members: set[Any] = set()
        for step, peer, seconds in steps:
            if step == "begin":
                invitations.begin_run(invitation, peer, now, peer in members, "192.0.2.1", "")
            elif step == "wrong":
                was = invitation.wrong
                left = invitations.wrong_guess(invitation)
                counted += invitation.wrong - was
                self.assertEqual(left == 0, not invitation.is_token and counted >= MAX_WRONG)
            elif step == "use":
                had = peer in admitted
                if invitations.use(invitation, peer, now, peer in members) is None:
                    self.assertTrue(invitation.open)
                    self.assertTrue(peer in members or not had)
                    self.assertNotIn(peer, in_hand)
                    self.assertLess(now, invitation.expires_at)
                    in_hand.append(peer)
            elif step == "admitted" and in_hand:
                admitted.add(in_hand[0])
                members.add(in_hand[0])
                invitations.admitted(invitation, in_hand.pop(0))
            elif step == "give_back" and in_hand:
                invitations.give_back(invitation, in_hand.pop(0))
            elif step == "revoked":
                members.discard(peer)
            elif step == "wait":
                now += seconds
                invitations.expire(now)
            elif step == "back":
                now -= seconds
            self.assertLessEqual(len(invitation.machines), invitation.uses)
            self.assertEqual(set(invitation.machines), admitted | set(in_hand))
            if not invitation.is_token:
                self.assertLessEqual(counted, MAX_WRONG)
                self.assertEqual(invitation.open and counted == MAX_WRONG, False)
        invitations.close(invitation)


class TokenTests(Base):
    """Tokens are for some machines, as long as somebody said, and outlive a restart."""

    def test_open(self) -> None:
        """A token has its inviter, and is found by a channel that nobody can guess."""
        invitation = self.token()
        assert isinstance(invitation.secret, Token)
        self.assertEqual(parse_token(invitation.secret.text).inviter, WALNUT)
        self.assertEqual(len(bytes.fromhex(invitation.channel)), 8)
        self.assertIs(self.invitations.look_up(invitation.channel, NOW), invitation)

    def test_uses(self) -> None:
        """So many machines may use it, each as often as it likes while it is a member."""
        invitation = self.token(2)
        for peer, is_member in ((ACACIA, False), (IRONWOOD, False), (ACACIA, True)):
            self.admit(invitation, peer, is_member=is_member)
        self.assertEqual(self.begin(invitation, ROSEWOOD, NOW), "used")
        self.assertEqual(self.use(invitation, ROSEWOOD, NOW), "used")
        self.assertEqual(invitation.machines, [ACACIA, IRONWOOD])

    def test_guesses(self) -> None:
        """Wrong guesses are counted, and do not make it void."""
        invitation = self.token()
        for _ in range(10):
            self.assertIsNone(self.invitations.wrong_guess(invitation))
        self.assertEqual((invitation.wrong, invitation.open), (10, True))

    def test_bounds(self) -> None:
        """A token for no machine, for too many, or until a time that is past is none."""
        for uses, expires_at in (
            (0, NOW + 1),
            (-1, NOW + 1),
            (MAX_USES + 1, NOW + 1),
            (1, NOW),
            (1, float("inf")),
            (1, float("nan")),
        ):
            self.assertRaises(InvitationError, self.invitations.open_token, uses, expires_at, NOW)
        self.assertEqual(len(self.invitations), 0)

    def test_restart(self) -> None:
        """A token that a database has kept goes on with its uses and its guesses."""
        invitation = self.token(2)
        self.admit(invitation)
        self.invitations.wrong_guess(invitation)
        kept = msgspec.json.decode(msgspec.json.encode(invitation.record()))
        again = Invitations(WALNUT, counting())
        restored = again.restore(kept, NOW + 1)
        assert restored is not None
        self.assertEqual(restored.record(), invitation.record())
        self.assertIs(again.look_up(invitation.channel, NOW + 1), restored)
        # What was used stays used, also when a second run of the same machine fails.
        self.assertEqual(again.use(restored, ACACIA, NOW + 1, False), "used")
        self.assertIsNone(again.use(restored, ACACIA, NOW + 1, True))
        again.give_back(restored, ACACIA)
        self.assertIsNone(again.use(restored, IRONWOOD, NOW + 1, False))
        self.assertEqual(again.use(restored, ROSEWOOD, NOW + 1, False), "used")

    def test_never_admitted(self) -> None:
        """After a restart the use of a machine that was never admitted is free."""
        invitation = self.token(2)
        for peer in (ACACIA, IRONWOOD):
            self.assertIsNone(self.use(invitation, peer))
        again = Invitations(WALNUT, counting())
        record = invitation.record()
        assert record is not None
        restored = again.restore(record, NOW)
        assert restored is not None
        again.keep_uses_of(restored, {IRONWOOD, ROSEWOOD})
        self.assertEqual(restored.machines, [IRONWOOD])
        self.assertIsNone(again.use(restored, ACACIA, NOW, False))

    def test_cluster(self) -> None:
        """A token and its record name the cluster; a record of before names none."""
        invitation = self.invitations.open_token(1, NOW + DAY, NOW, "c0ffee")
        record = invitation.record()
        assert record is not None
        self.assertEqual(record.cluster, "c0ffee")
        restored = Invitations(WALNUT, counting()).restore(record, NOW)
        assert restored is not None
        self.assertEqual(restored.cluster, "c0ffee")
        old = msgspec.to_builtins(record)
        del old["cluster"]
        self.assertEqual(msgspec.convert(old, TokenRecord).cluster, "")

    def test_expired_meanwhile(self) -> None:
        """A record that is past its time opens nothing."""
        record = self.token().record()
        assert record is not None
        again = Invitations(WALNUT, counting())
        self.assertIsNone(again.restore(record, NOW + DAY))
        self.assertEqual(len(again), 0)

    def test_damaged_record(self) -> None:
        """A record that cannot be read is told, without the secret that is in it."""
        record = self.token().record()
        assert record is not None
        good = msgspec.to_builtins(record)
        again = Invitations(WALNUT, counting())
        for changes in (
            {"token": "bzzz-join-x"},
            {"token": good["token"][:-1]},
            {"token": 7},
            {"uses": "many"},
            {"uses": 0},
            {"uses": MAX_USES + 1},
            {"wrong": -1},
            {"expires_at": "tomorrow"},
            {"expires_at": float("inf")},
            {"machines": ["x"]},
            {"machines": [str(ACACIA)] * 3},
        ):
            error = self.assertRaises(InvitationError, again.restore, {**good, **changes}, NOW)
            self.assertIn("make a new one", str(error))
            self.assertNotIn(good["token"][20:30], str(error))
            self.assertIsNone(error.__cause__)
        self.assertRaises(InvitationError, again.restore, {}, NOW)
        self.assertEqual(len(again), 0)

    def test_record_of_another(self) -> None:
        """A record of another node, or one that is open already, is refused."""
        record = self.token().record()
        assert record is not None
        self.assertRaises(InvitationError, self.invitations.restore, record, NOW)
        other = Invitations(ACACIA, counting())
        error = self.assertRaises(InvitationError, other.restore, record, NOW)
        self.assertIn(str(WALNUT), str(error))

    def test_hidden(self) -> None:
        """No representation has the secret."""
        invitation = self.token()
        record = invitation.record()
        assert isinstance(record, TokenRecord)
        code = self.code()
        shown = repr(invitation) + repr(record) + repr(code) + repr(self.invitations)
        self.assertNotIn(record.token[10:], shown)
        assert isinstance(code.secret, Code)
        self.assertNotIn(code.secret.words[0], shown)


class LimitTests(Base):
    """What peers and people can fill."""

    def test_most_open(self) -> None:
        """One more than the most is refused, until one is closed or has expired."""
        opened = [self.code() for _ in range(MAX_OPEN - 1)]
        self.token()
        self.assertRaises(InvitationError, self.code)
        self.assertRaises(InvitationError, self.token)
        self.invitations.close(opened[4])
        self.assertEqual(self.code().channel, "5")
        self.assertEqual(self.code(NOW + CODE_SECONDS).channel, "1")
        self.assertEqual(len(self.invitations), 2)

    def runs(self, invitation: Invitation, now: float, count: int = 1000) -> int:
        """How many of so many runs may go on, each of which comes from elsewhere."""
        answers = [
            self.begin(invitation, ACACIA, now, True, f"198.51.{number >> 8}.{number & 255}")
            for number in range(count)
        ]
        self.assertEqual(set(answers) - {None, "busy"}, set())
        return answers.count(None)

    def test_runs_of_a_code(self) -> None:
        """A code has so many runs at once, and as many in each minute after; others lose none."""
        invitation, other = self.code(), self.code()
        self.assertEqual(self.runs(invitation, NOW), RUNS_PER_MINUTE)
        self.assertEqual(self.runs(invitation, NOW + 60 / RUNS_PER_MINUTE), 1)
        self.assertEqual(self.runs(invitation, NOW + 300), RUNS_PER_MINUTE)
        self.assertEqual(self.runs(other, NOW + 300), RUNS_PER_MINUTE)

    def test_runs_of_a_host(self) -> None:
        """One address alone does not use up a code's runs, nor does one /64."""
        self.assertLess(RUNS_PER_SUBNET, RUNS_PER_MINUTE)
        invitation = self.code()

        def runs(host: str, subnet: str = "", now: float = NOW) -> int:
            answers = [
                self.begin(invitation, ACACIA, now, host=host.format(number), subnet=subnet)
                for number in range(100)
            ]
            return answers.count(None)

        self.assertEqual(runs("192.0.2.1"), RUNS_PER_HOST)
        self.assertEqual(runs("192.0.2.1", now=NOW + 60 / RUNS_PER_HOST), 1)
        self.assertEqual(runs("192.0.2.2", now=NOW + 60), RUNS_PER_HOST)
        self.assertEqual(runs("2001:db8::{:x}", "2001:db8::", NOW + 300), RUNS_PER_SUBNET)
        self.assertEqual(runs("192.0.2.1", now=NOW + 300), RUNS_PER_HOST)
        self.assertFalse(invitation.is_dry)

    def test_dry(self) -> None:
        """Many addresses use up a code's runs, and those that began most are known."""
        invitation = self.code()
        for count, host in ((1, "192.0.2.1"), (3, "192.0.2.2"), (2, "192.0.2.3")):
            for _ in range(count):
                self.assertIsNone(self.begin(invitation, host=host))
        self.assertFalse(invitation.is_dry)
        self.assertEqual(invitation.busiest(NOW)[:2], ["192.0.2.2", "192.0.2.3"])
        self.runs(invitation, NOW)
        self.assertTrue(invitation.is_dry)
        self.assertEqual(len(invitation.busiest(NOW)), 3)

    def test_places_are_few(self) -> None:
        """So many addresses are remembered, and none whose bucket is not full is forgotten."""
        invitation = self.code()
        for second in range(300):
            for number in range(20):
                self.begin(invitation, now=NOW + second, host=f"10.0.{second}.{number}")
            self.begin(invitation, now=NOW + second, host="192.0.2.1")
        self.assertLessEqual(len(invitation._hosts._buckets), MAX_PLACES)
        self.assertGreaterEqual(MAX_PLACES, 2 * RUNS_PER_MINUTE)

    def test_runs_of_a_token(self) -> None:
        """A token has more."""
        self.assertEqual(self.runs(self.token(), NOW), TOKEN_RUNS_PER_MINUTE)

    def test_runs_in_all(self) -> None:
        """All together have an end too, which codes alone do not reach."""
        self.assertLess(MAX_OPEN * RUNS_PER_MINUTE, ALL_RUNS_PER_MINUTE)
        tokens = [self.token() for _ in range(8)]
        self.assertEqual(sum(self.runs(each, NOW) for each in tokens), ALL_RUNS_PER_MINUTE)
        code = self.code()
        self.assertEqual(self.runs(code, NOW), 0)
        # What others took it did not lose.
        self.assertEqual(self.runs(code, NOW + 2), RUNS_PER_MINUTE)

    def test_refused_runs_are_free(self) -> None:
        """Runs that are refused for another reason take none from those that are not."""
        invitation = self.code()
        self.admit(invitation)
        for _ in range(100):
            self.assertEqual(self.begin(invitation, IRONWOOD, NOW), "used")
        self.assertEqual(self.runs(invitation, NOW), RUNS_PER_MINUTE - 1)

    def test_clock_set_back(self) -> None:
        """A clock that goes back gives no runs and takes none."""
        invitation = self.code()
        self.assertEqual(self.runs(invitation, NOW, 4), 4)
        self.assertEqual(self.runs(invitation, NOW - 3600, RUNS_PER_MINUTE), RUNS_PER_MINUTE - 4)
        self.assertEqual(self.runs(invitation, NOW - 3600 + 60), RUNS_PER_MINUTE)
