"""Rosters become the same, whoever is linked to whom and in whatever order messages come."""

from __future__ import annotations

import itertools
import json
import random
from collections import Counter, deque
from functools import cache
from unittest import mock

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from bzzz.errors import RemoteProtocolError
from bzzz.identity.keys import PrivateKey
from bzzz.identity.peer_id import PeerID
from bzzz.trust import roster as roster_module
from bzzz.trust import roster_exchange
from bzzz.trust.roster import InvalidStatement, Roster
from bzzz.trust.roster_exchange import (
    BATCH,
    MAX_IDS,
    MAX_MESSAGE,
    MAX_SILENT,
    RELAYS,
    TURN_TICKS,
    RosterExchange,
    encode_batch,
)
from bzzz.trust.roster_peer import PeerStatements
from bzzz.trust.roster_room import Room
from bzzz.trust.statements import Role, SignedStatement

NOW = "2026-11-27T00:00:00Z"


@cache
def key(number: int) -> PrivateKey:
    return PrivateKey.from_seed(number.to_bytes(32, "big"))


KEYS = [key(number) for number in range(1, 101)]


class Members:
    """Members that are linked in some way, and what is under way between them.

    :ivar sent: messages.
    :ivar kinds: of messages, and ``given`` for the statements in them.
    :ivar given_to: statements by whom they were sent to.
    """

    def __init__(self, count: int, seed: int = 0) -> None:
        self.random = random.Random(seed)
        roster = Roster.found(KEYS[0], "lab", "n0", bytes(16), NOW)
        for number in range(1, count):
            roster.add(
                roster.make_admit(KEYS[0], KEYS[number].peer_id, f"n{number}", Role.ADMIN, NOW)
            )
        self.keys = {each.peer_id: each for each in KEYS[:count]}
        self.exchanges = {peer: RosterExchange(roster.copy(), self.random) for peer in self.keys}
        self.under_way: dict[tuple[PeerID, PeerID], deque[bytes]] = {}
        self.in_order: deque[tuple[PeerID, PeerID]] = deque()
        self.sent = 0
        self.kinds: Counter[str] = Counter()
        self.given_to: Counter[PeerID] = Counter()
        self.news: list[SignedStatement] = []

    def peer(self, number: int) -> PeerID:
        return KEYS[number].peer_id

    def link(self, one: PeerID, other: PeerID) -> None:
        for here, there in ((one, other), (other, one)):
            self.under_way[here, there] = deque()
            self.exchanges[here].peer_up(there)
        self.collect(one, other)

    def cut(self, one: PeerID, other: PeerID) -> None:
        for here, there in ((one, other), (other, one)):
            if self.under_way.pop((here, there), None) is not None:
                self.exchanges[here].peer_down(there)

    def say(self, author: PeerID, number: int, revoke: bool = False) -> None:
        """``author`` admits or revokes an outsider."""
        roster = self.exchanges[author].roster
        target = key(number + 1000).peer_id
        if revoke:
            statement = roster.make_revoke(self.keys[author], target, "", NOW)
        else:
            statement = roster.make_admit(self.keys[author], target, f"o{number}", Role.MEMBER, NOW)
        roster.add(statement)
        self.exchanges[author].announce([statement])
        self.collect(author)

    def random_mesh(self, links: int) -> None:
        """Link members at random, until nearly all have as many links."""
        free = dict.fromkeys(self.keys, links)
        while len(free) > 1:
            one, other = self.random.sample(sorted(free), 2)
            if (one, other) in self.under_way:
                if all(pair in self.under_way for pair in itertools.permutations(free, 2)):
                    return
                continue
            self.link(one, other)
            for peer in (one, other):
                free[peer] -= 1
                if not free[peer]:
                    del free[peer]

    def full_mesh(self) -> None:
        for one, other in itertools.combinations(self.keys, 2):
            self.link(one, other)

    def collect(self, *senders: PeerID) -> None:
        for sender in senders or self.exchanges:
            for receiver, messages in self.exchanges[sender].take_output().items():
                for message in messages:
                    assert len(message) <= MAX_MESSAGE
                    self.sent += 1
                    said = json.loads(message)
                    self.kinds.update(said.keys())
                    self.kinds["given"] += len(said.get("statements", ()))
                    self.given_to[receiver] += len(said.get("statements", ()))
                    self.under_way[sender, receiver].append(message)
                    self.in_order.append((sender, receiver))

    def deliver(self, pair: tuple[PeerID, PeerID]) -> None:
        sender, receiver = pair
        self.exchanges[receiver].receive(sender, self.under_way[pair].popleft())
        self.news += self.exchanges[receiver].take_news()
        self.collect(receiver)

    def rush(self) -> None:
        """Deliver all there is in the order in which it was sent, before a tick has passed."""
        while self.in_order:
            pair = self.in_order.popleft()
            if self.under_way.get(pair):
                self.deliver(pair)

    def tick(self) -> bool:
        """A tick passes for all who wait for one; whether there are any."""
        waiting = [each for each in self.exchanges.values() if each.waiting]
        for exchange in waiting:
            exchange.tick()
        self.collect()
        return bool(waiting)

    def settle(self) -> None:
        """Deliver all there is, from link to link as it comes, until nobody has more to say."""
        for _ in range(20_000):
            waiting = [pair for pair, messages in self.under_way.items() if messages]
            if waiting:
                self.deliver(self.random.choice(waiting))
            elif not self.tick():
                return
        raise AssertionError("the members never stop talking")

    def rosters(self) -> set[bytes]:
        return {
            b"".join(each.encode() for each in exchange.roster.statements())
            for exchange in self.exchanges.values()
        }


class MergedBefore(InvalidStatement):
    """What is raised where statements were taken that a wrong one needs."""

    def __init__(self, merged: list[SignedStatement]) -> None:
        super().__init__("wrong", "statement_no_right")
        self.merged = tuple(merged)


class ExchangeTests(SynchronousTestCase):
    """What is said, and that it is enough."""

    def test_first_link(self) -> None:
        """Members that wrote while apart have the same roster when they are linked."""
        members = Members(2)
        one, other = members.peer(0), members.peer(1)
        for number in range(3 * BATCH):
            members.say(one, number)
        members.say(other, 200)
        members.link(one, other)
        members.settle()
        self.assertEqual(len(members.rosters()), 1)
        self.assertEqual(len(members.news), 3 * BATCH + 1)

    def test_news(self) -> None:
        """What a member says reaches one to which it is not linked, over others."""
        members = Members(5)
        for number in range(4):
            members.link(members.peer(number), members.peer(number + 1))
        members.settle()
        members.say(members.peer(0), 1)
        members.settle()
        self.assertEqual(len(members.rosters()), 1)

    def test_quiet(self) -> None:
        """Members whose rosters are the same say one message each when they are linked."""
        members = Members(2)
        members.link(members.peer(0), members.peer(1))
        members.settle()
        self.assertEqual(members.sent, 2)

    def test_relays(self) -> None:
        """To whom it is new sends news on to three, and tells others."""
        members = Members(12)
        author, first = members.peer(0), members.peer(1)
        for number in range(1, 12):
            members.link(members.peer(number), members.peer(number - 1 if number == 1 else 1))
        members.settle()
        for revoke in (False, True):
            members.kinds.clear()
            members.say(author, 1, revoke)
            members.deliver((author, first))
            self.assertEqual(members.kinds["given"], 1 + 3)
            self.assertEqual(members.kinds["heads"], 10 - 3 if revoke else 0)
            members.settle()
            self.assertEqual(len(members.rosters()), 1)

    def test_full_mesh(self) -> None:
        """News costs a full mesh few statements, and a revoke the ID from each to each at most."""
        count = 40
        members = Members(count)
        members.full_mesh()
        members.rush()
        for revoke in (False, True):
            members.kinds.clear()
            members.say(members.peer(0), 1, revoke)
            members.rush()
            self.assertEqual(len(members.rosters()), 1)
            self.assertLessEqual(members.kinds["given"], (count - 1) * (1 + RELAYS))
            self.assertEqual(members.kinds["want"], 0)
            most = (count - 1) * (count - 2) if revoke else 0
            self.assertLessEqual(members.kinds["heads"], most)
            while members.tick():
                members.rush()

    def test_partial_mesh(self) -> None:
        """In a mesh that is not full everybody hears a revoke without waiting for anything."""
        for seed in range(3):
            members = Members(60, seed)
            members.random_mesh(24)
            members.rush()
            members.kinds.clear()
            members.say(members.peer(0), 1, revoke=True)
            members.rush()
            self.assertEqual(len(members.rosters()), 1)
            self.assertLess(members.kinds["given"], 60 * (1 + RELAYS))

    def test_partial_mesh_admit(self) -> None:
        """And in the next ticks whatever else is news."""
        members = Members(30)
        members.random_mesh(8)
        members.rush()
        members.say(members.peer(0), 1)
        for _ in range(3):
            members.rush()
            members.tick()
        members.rush()
        self.assertEqual(len(members.rosters()), 1)

    def test_long_past(self) -> None:
        """Members that both wrote much while apart, after a long time together, catch up."""
        members = Members(2)
        one, other = members.peer(0), members.peer(1)
        members.link(one, other)
        for number in range(3 * BATCH):
            members.say(one, number)
            members.settle()
        members.cut(one, other)
        for number in range(2 * BATCH):
            members.say(one, 1000 + number)
            members.say(other, 2000 + number)
        members.link(one, other)
        members.settle()
        self.assertEqual(len(members.rosters()), 1)

    def test_many_heads(self) -> None:
        """Members that each said something of themselves make more heads than one message has."""
        members = Members(2)
        one, other = members.peer(0), members.peer(1)
        both = members.exchanges[one].roster.copy()
        for number in range(2 * (MAX_IDS + 10)):
            name = f"m{number}"
            admit = both.make_admit(KEYS[0], key(number + 100).peer_id, name, Role.MEMBER, NOW)
            both.add(admit)
        said: list[list[SignedStatement]] = [[], []]
        for number in range(2 * (MAX_IDS + 10)):
            author = key(number + 100)
            said[number % 2].append(both.make_rename(author, author.peer_id, f"own{number}", NOW))
        for peer, own in zip((one, other), said, strict=True):
            members.exchanges[peer].roster.merge([*both.statements(), *own])
        members.link(one, other)
        members.settle()
        self.assertEqual(len(members.exchanges[one].roster), len(both) + sum(map(len, said)))
        self.assertEqual(len(members.rosters()), 1)

    def test_lost_tail(self) -> None:
        """A link that breaks in the middle of catching up is made up for by the next one."""
        members = Members(2)
        one, other = members.peer(0), members.peer(1)
        for number in range(3 * BATCH):
            members.say(one, number)
        members.link(one, other)
        for _ in range(4):
            for pair in [pair for pair, waiting in members.under_way.items() if waiting]:
                members.deliver(pair)
        self.assertNotEqual(len(members.rosters()), 1)
        members.cut(one, other)
        members.link(one, other)
        members.settle()
        self.assertEqual(len(members.rosters()), 1)

    def test_child_first(self) -> None:
        """A statement that comes before its parent is asked for again, with the parent."""
        members = Members(2)
        one, other = members.peer(0), members.peer(1)
        members.link(one, other)
        members.settle()
        members.say(one, 1)
        members.say(one, 2)
        members.under_way[one, other].popleft()
        members.settle()
        self.assertEqual(len(members.rosters()), 1)

    def test_wrong(self) -> None:
        """What is no message, or not well-formed, costs the link; what came before it is kept."""
        members = Members(2)
        one, other = members.peer(0), members.peer(1)
        members.link(one, other)
        exchange = members.exchanges[one]
        outsider = key(100)
        good = members.exchanges[other].roster.make_admit(
            members.keys[other], outsider.peer_id, "o", Role.MEMBER, NOW
        )
        forged = SignedStatement(good.statement, good.body, bytes(64), good.id)
        for message in (
            b"",
            b"[]",
            b'{"heads": "x"}',
            b'{"heads": ["zz"]}',
            b'{"heads": ["00"]}',
            b'{"statements": ["?"]}',
            b'{"statements": ["AAAA"]}',
            b'{"want": ' + b"[" * 10_000,
            json.dumps({"statements": encode_batch([forged])}).encode(),
        ):
            with self.assertRaises(RemoteProtocolError):
                exchange.receive(other, message)
            self.assertEqual(exchange.take_news(), [])
        another = members.exchanges[other].roster.make_admit(
            members.keys[other], key(101).peer_id, "p", Role.MEMBER, NOW
        )
        forged = SignedStatement(another.statement, another.body, bytes(64), another.id)
        with self.assertRaises(RemoteProtocolError):
            exchange.receive(
                other, json.dumps({"statements": encode_batch([good, forged])}).encode()
            )
        self.assertEqual([each.id for each in exchange.take_news()], [good.id])
        with self.assertRaises(RemoteProtocolError):
            exchange.receive(
                other, json.dumps({"statements": [*encode_batch([another]), "?"]}).encode()
            )
        self.assertEqual([each.id for each in exchange.take_news()], [another.id])
        with (
            mock.patch.object(
                exchange.roster, "add", side_effect=MergedBefore(exchange.roster.statements()[:1])
            ),
            self.assertRaises(RemoteProtocolError),
        ):
            members.exchanges[other].roster.merge([good, another])
            child = members.exchanges[other].roster.make_revoke(
                members.keys[other], outsider.peer_id, "", NOW
            )
            exchange.receive(other, json.dumps({"statements": encode_batch([child])}).encode())
        self.assertEqual(len(exchange.take_news()), 1)

    def test_wrong_relayed(self) -> None:
        """What came before it is sent on, too."""
        members = Members(3)
        one, other, third = (members.peer(number) for number in range(3))
        members.link(one, other)
        members.link(one, third)
        members.settle()
        good = members.exchanges[other].roster.make_admit(
            members.keys[other], key(100).peer_id, "o", Role.MEMBER, NOW
        )
        message = json.dumps({"statements": [*encode_batch([good]), "?"]}).encode()
        with self.assertRaises(RemoteProtocolError):
            members.exchanges[one].receive(other, message)
        members.collect()
        members.settle()
        self.assertIn(good.id, members.exchanges[third].roster)

    def test_two_at_once(self) -> None:
        """Of two statements in one message that do not know of each other others are told both."""
        members = Members(8)
        one, other = members.peer(0), members.peer(1)
        for number in range(1, 8):
            members.link(one, members.peer(number))
        members.settle()
        statements = [
            members.exchanges[other].roster.make_revoke(
                members.keys[other], key(number).peer_id, "", NOW
            )
            for number in (1000, 1001)
        ]
        members.exchanges[other].roster.merge(statements)
        message = json.dumps({"statements": encode_batch(statements)}).encode()
        members.exchanges[one].receive(other, message)
        members.collect()
        members.rush()
        self.assertEqual(len(members.rosters()), 1)

    def test_known(self) -> None:
        """A statement that is known is not read again."""
        members = Members(2)
        one, other = members.peer(0), members.peer(1)
        members.link(one, other)
        members.settle()
        roster = members.exchanges[one].roster
        message = json.dumps({"statements": encode_batch(roster.statements())}).encode()
        with mock.patch.object(roster_exchange, "decode_statement") as decode:
            members.exchanges[one].receive(other, message)
        decode.assert_not_called()

    def test_stranger(self) -> None:
        """Nothing is read from, or said to, a peer that is not linked as a member."""
        members = Members(2)
        exchange = members.exchanges[members.peer(0)]
        exchange.receive(members.peer(1), b"nonsense")
        exchange.ask(members.peer(1))
        self.assertEqual(exchange.take_output(), {})

    def test_nothing_for_unknown_wants(self) -> None:
        """Who asks for what nobody said gets nothing."""
        members = Members(2)
        one, other = members.peer(0), members.peer(1)
        members.link(one, other)
        members.settle()
        exchange = members.exchanges[one]
        exchange.receive(other, json.dumps({"want": ["ab" * 32], "have": []}).encode())
        self.assertEqual(exchange.take_output(), {})

    @given(st.binary(max_size=300))
    def test_any_bytes(self, message: bytes) -> None:
        """Any message is read or refused."""
        members = Members(2)
        members.link(members.peer(0), members.peer(1))
        try:
            members.exchanges[members.peer(0)].receive(members.peer(1), message)
        except RemoteProtocolError:
            pass

    @settings(max_examples=60, deadline=None)
    @given(
        st.integers(min_value=2, max_value=6),
        st.integers(),
        st.lists(
            st.tuples(
                st.sampled_from(("link", "cut", "say", "revoke", "deliver")),
                st.integers(0, 5),
                st.integers(0, 5),
            ),
            max_size=60,
        ),
    )
    def test_converges(self, count: int, seed: int, steps: list[tuple[str, int, int]]) -> None:
        """After any history, members that are connected in the end have the same bytes."""
        members = Members(count, seed)
        number = 0
        for what, first, second in steps:
            one, other = members.peer(first % count), members.peer(second % count)
            if what == "link" and one != other and (one, other) not in members.under_way:
                members.link(one, other)
            elif what == "cut":
                members.cut(one, other)
            elif what in {"say", "revoke"}:
                members.say(one, number if what == "say" else second, what == "revoke")
                number += 1
            elif what == "deliver":
                waiting = [pair for pair, messages in members.under_way.items() if messages]
                if waiting:
                    members.deliver(waiting[first % len(waiting)])
        for number in range(1, count):
            pair = members.peer(number), members.peer(number - 1)
            if pair not in members.under_way:
                members.link(*pair)
        members.settle()
        self.assertEqual(len(members.rosters()), 1)


class CatchingUpTests(SynchronousTestCase):
    """One that was away is sent what it lacks about once, whoever is among its peers."""

    def behind(self, peers: int, missed: int, past: int = 0) -> tuple[Members, PeerID]:
        """Members of which the first was away while the last said something."""
        members = Members(peers + 1)
        last = members.peer(peers)
        for number in range(past):
            members.say(last, number)
        for exchange in members.exchanges.values():
            exchange.roster.merge(members.exchanges[last].roster.statements())
        for number in range(missed):
            members.say(last, 500 + number)
        for number in range(1, peers):
            roster = members.exchanges[members.peer(number)].roster
            roster.merge(members.exchanges[last].roster.statements())
        return members, members.peer(0)

    def lie(self, members: Members, liar: PeerID) -> None:
        """Have a member say nothing more, and what it is asked for go to nobody."""
        for pair in members.under_way:
            if pair[0] == liar:
                members.under_way[pair].clear()
        members.exchanges[liar].receive = mock.Mock()  # type: ignore[method-assign]  # a liar

    def tell(self, members: Members, liar: PeerID, to: PeerID, heads: list[bytes]) -> None:
        """Have a member tell of heads."""
        message = json.dumps({"heads": [each.hex() for each in heads]}).encode()
        members.exchanges[to].receive(liar, message)
        members.collect()

    def ticks_until_whole(self, members: Members, behind: PeerID, ahead: PeerID) -> int:
        for ticks in range(100):
            members.rush()
            if members.exchanges[behind].roster.heads == members.exchanges[ahead].roster.heads:
                return ticks
            members.tick()
        raise AssertionError("it stays behind")

    def test_once(self) -> None:
        """It is sent each statement once, however many have it, and sends none of it back."""
        members, behind = self.behind(peers=20, missed=5 * BATCH)
        for number in range(1, 21):
            members.link(behind, members.peer(number))
        members.rush()
        self.assertEqual(len(members.rosters()), 1)
        self.assertEqual(members.given_to[behind], 5 * BATCH)
        members.settle()
        self.assertEqual(members.kinds["given"], 5 * BATCH)
        self.assertEqual(members.kinds["heads"], 2 * 20)

    def test_both_wrote(self) -> None:
        """Two that wrote while apart send what is before that at most a bit."""
        members, one = self.behind(peers=1, missed=10, past=8 * BATCH)
        other = members.peer(1)
        for number in range(10):
            members.say(one, 900 + number)
        members.link(one, other)
        members.rush()
        self.assertEqual(len(members.rosters()), 1)
        self.assertLessEqual(members.kinds["given"], 2 * (10 + 10))

    def test_first_batch(self) -> None:
        """Of what is asked for no more is put in order than what is sent."""
        members, behind = self.behind(peers=1, missed=5 * BATCH)
        ahead = members.peer(1)
        roster = members.exchanges[ahead].roster
        members.link(behind, ahead)
        with mock.patch.object(roster, "listed", wraps=roster.listed) as listed:
            members.rush()
        self.assertEqual(len(members.rosters()), 1)
        self.assertLessEqual(max(call.args[0].bit_count() for call in listed.mock_calls), BATCH)

    def test_silent(self) -> None:
        """One that told its heads first and sends nothing keeps it behind for one turn."""
        members, behind = self.behind(peers=3, missed=3 * BATCH)
        liar = members.peer(1)
        members.link(behind, liar)
        members.deliver((liar, behind))
        self.lie(members, liar)
        for number in (2, 3):
            members.link(behind, members.peer(number))
        members.rush()
        self.assertGreater(len(members.rosters()), 1)
        self.assertEqual(self.ticks_until_whole(members, behind, members.peer(2)), TURN_TICKS)
        self.assertEqual(members.given_to[behind], 3 * BATCH)

    def test_gone(self) -> None:
        """When the one that was asked is gone, another one is asked at once."""
        members, behind = self.behind(peers=2, missed=3 * BATCH)
        one, other = members.peer(1), members.peer(2)
        members.link(behind, one)
        members.deliver((one, behind))
        members.link(behind, other)
        self.lie(members, one)
        members.rush()
        members.cut(behind, one)
        members.collect()
        members.rush()
        self.assertEqual(len(members.rosters()), 1)

    def test_slow(self) -> None:
        """One that sends the least that is something has a turn like others."""
        members, behind = self.behind(peers=2, missed=10 * BATCH)
        slow, other = members.peer(1), members.peer(2)
        members.link(behind, slow)
        members.deliver((slow, behind))
        self.lie(members, slow)
        members.link(behind, other)
        members.rush()
        statements = iter(
            members.exchanges[slow].roster.since(members.exchanges[behind].roster.heads)
        )
        for _ in range(TURN_TICKS):
            message = json.dumps({"statements": encode_batch([next(statements)])}).encode()
            members.exchanges[behind].receive(slow, message)
            members.tick()
            members.rush()
        self.assertEqual(
            members.exchanges[behind].roster.heads, members.exchanges[other].roster.heads
        )

    def test_liar_lately(self) -> None:
        """One that was silent in its turn keeps no other one waiting any more."""
        members, behind = self.behind(peers=2, missed=3)
        liar, other = members.peer(1), members.peer(2)
        members.link(behind, liar)
        members.deliver((liar, behind))
        self.lie(members, liar)
        for _ in range(TURN_TICKS):
            members.tick()
        self.assertTrue(members.exchanges[behind].waiting)
        members.link(behind, other)
        members.rush()
        self.assertEqual(
            members.exchanges[behind].roster.heads, members.exchanges[other].roster.heads
        )

    def test_comes_again(self) -> None:
        """One that is linked anew is behind those who wait for their next turn."""
        members, behind = self.behind(peers=3, missed=5 * BATCH)
        silent, liar, slow = (members.peer(number) for number in (1, 2, 3))
        heads = list(members.exchanges[slow].roster.heads)
        for each in (silent, liar):
            self.lie(members, each)
        members.link(behind, slow)
        for pair in ((slow, behind), (behind, slow), (behind, slow), (slow, behind)):
            members.deliver(pair)
        for each in (silent, liar):
            members.link(behind, each)
            self.tell(members, each, behind, heads)
            for _ in range(TURN_TICKS):
                members.tick()
        members.rush()
        self.assertEqual(len(members.exchanges[behind].roster), len(members.exchanges[slow].roster))

    def test_made_up(self) -> None:
        """Heads that nobody can send are asked for a few turns, and are in nobody's way."""
        members, behind = self.behind(peers=2, missed=3)
        liar, other = members.peer(1), members.peer(2)
        self.lie(members, liar)
        members.link(behind, liar)
        self.tell(members, liar, behind, [bytes([number]) * 32 for number in range(MAX_IDS)])
        exchange = members.exchanges[behind]
        ticks = 0
        while members.tick():
            members.rush()
            ticks += 1
        self.assertEqual(ticks, MAX_SILENT * TURN_TICKS)
        self.tell(members, liar, behind, [b"?" * 32])
        self.assertTrue(exchange.waiting)
        members.link(behind, other)
        members.rush()
        self.assertEqual(exchange.roster.heads, members.exchanges[other].roster.heads)

    def test_needed(self) -> None:
        """What is taken because another statement needs it is news, and is sent on, too."""
        members = Members(3)
        one, other, third = (members.peer(number) for number in range(3))
        members.link(one, other)
        members.link(one, third)
        members.settle()
        there = members.exchanges[other].roster.copy()
        for make in (
            lambda: there.make_rename(KEYS[2], third, "elm", NOW),
            lambda: there.make_revoke(KEYS[2], third, "", NOW),
            lambda: there.make_admit(KEYS[0], third, "n2", Role.MEMBER, NOW),
        ):
            there.add(make())
        statements = there.listed(
            there.up_to(there.heads) & ~there.up_to(members.exchanges[one].roster.heads)
        )
        exchange = members.exchanges[one]
        with mock.patch.object(roster_module, "FROM_OTHERS", Room(own_each=0)):
            exchange.receive(other, json.dumps({"statements": encode_batch(statements)}).encode())
        self.assertEqual(exchange.take_news(), statements)
        members.collect()
        members.settle()
        self.assertEqual(members.exchanges[third].roster.heads, there.heads)


class CopyTests(SynchronousTestCase):
    """Copies of a roster, which strangers have made with a message each."""

    def setUp(self) -> None:
        self.roster = Roster.found(KEYS[0], "lab", "n0", bytes(16), NOW)
        for number in range(1, 30):
            self.admit(self.roster, number, Role.ADMIN)

    def admit(self, roster: Roster, number: int, role: Role) -> None:
        target = KEYS[number].peer_id
        roster.add(roster.make_admit(KEYS[0], target, f"n{number}", role, NOW))

    def test_cost(self) -> None:
        """Only what one of the two changes is copied."""
        with mock.patch.object(
            PeerStatements, "copy", autospec=True, side_effect=PeerStatements.copy
        ) as copy:
            other = self.roster.copy()
            self.assertEqual(copy.call_count, 0)
            self.admit(other, 40, Role.MEMBER)
            self.admit(self.roster, 1, Role.MEMBER)
            self.assertLessEqual(copy.call_count, 4)

    def test_apart(self) -> None:
        """What is said in one changes nothing in the other, in either direction."""
        for changed, kept in ((0, 1), (1, 0)):
            both = [Roster.load(self.roster.statements())]
            both.append(both[0].copy())
            before = dict(both[kept].members)
            one = both[changed]
            self.admit(one, 40, Role.MEMBER)
            self.admit(one, 1, Role.RUN_ONLY)
            one.add(one.make_revoke(KEYS[0], KEYS[2].peer_id, "", NOW))
            one.add(one.make_rename(KEYS[3], KEYS[3].peer_id, "other", NOW))
            self.assertEqual(dict(both[kept].members), before)
            self.assertEqual(both[kept].revoked, {})
            # More than the other one, so that the numbers of its statements mean something here.
            other = both[kept]
            for number in (5, 6, 7, 8, 9, 2):
                peer = KEYS[number].peer_id
                other.add(other.make_rename(KEYS[4], peer, f"x{number}", NOW))
            fresh = [Roster.load(each.statements()) for each in both]
            for each, again in zip(both, fresh, strict=True):
                self.assertEqual(each.members, again.members)
                self.assertEqual(each.revoked, again.revoked)
            both[kept].merge(one.statements())
            one.merge(both[kept].statements())
            again = Roster.load(one.statements())
            for each in both:
                self.assertEqual(each.members, again.members)
                self.assertEqual(each.revoked, again.revoked)
