"""Rosters become the same, whoever is linked to whom and in whatever order messages come."""

from __future__ import annotations

import json
import random
from collections import deque

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from bzzz.errors import RemoteProtocolError
from bzzz.identity.keys import PrivateKey
from bzzz.identity.peer_id import PeerID
from bzzz.trust.roster import Roster
from bzzz.trust.roster_exchange import (
    BATCH,
    MAX_IDS,
    MAX_MESSAGE,
    RELAYS,
    RosterExchange,
    encode_batch,
)
from bzzz.trust.statements import Role, SignedStatement

NOW = "2026-11-27T00:00:00Z"


def key(number: int) -> PrivateKey:
    return PrivateKey.from_seed(number.to_bytes(32, "big"))


KEYS = [key(number) for number in range(1, 8)]


class Members:
    """Members that are linked in some way, and what is under way between them."""

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
        self.sent = 0
        self.news: list[SignedStatement] = []

    def peer(self, number: int) -> PeerID:
        return KEYS[number].peer_id

    def link(self, one: PeerID, other: PeerID) -> None:
        for here, there in ((one, other), (other, one)):
            self.under_way[here, there] = deque()
            self.exchanges[here].peer_up(there)
        self.collect()

    def cut(self, one: PeerID, other: PeerID) -> None:
        for here, there in ((one, other), (other, one)):
            if self.under_way.pop((here, there), None) is not None:
                self.exchanges[here].peer_down(there)

    def say(self, author: PeerID, number: int, revoke: bool = False) -> None:
        """``author`` admits or revokes an outsider."""
        roster = self.exchanges[author].roster
        target = key(number + 100).peer_id
        if revoke:
            statement = roster.make_revoke(self.keys[author], target, "", NOW)
        else:
            statement = roster.make_admit(self.keys[author], target, f"o{number}", Role.MEMBER, NOW)
        roster.add(statement)
        self.exchanges[author].announce([statement])
        self.collect()

    def collect(self) -> None:
        for sender, exchange in self.exchanges.items():
            for receiver, messages in exchange.take_output().items():
                for message in messages:
                    assert len(message) <= MAX_MESSAGE
                    self.sent += 1
                    self.under_way[sender, receiver].append(message)

    def deliver(self, pair: tuple[PeerID, PeerID]) -> None:
        sender, receiver = pair
        self.exchanges[receiver].receive(sender, self.under_way[pair].popleft())
        self.news += self.exchanges[receiver].take_news()
        self.collect()

    def settle(self) -> None:
        """Deliver all there is, from link to link as it comes."""
        for _ in range(20_000):
            waiting = [pair for pair, messages in self.under_way.items() if messages]
            if not waiting:
                return
            self.deliver(self.random.choice(waiting))
        raise AssertionError("the members never stop talking")

    def rosters(self) -> set[bytes]:
        return {
            b"".join(each.encode() for each in exchange.roster.statements())
            for exchange in self.exchanges.values()
        }


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
        """News costs a full mesh one message to each member and a few from each, and no more."""
        members = Members(7)
        for one in range(7):
            for other in range(one):
                members.link(members.peer(one), members.peer(other))
        members.settle()
        before = members.sent
        members.say(members.peer(0), 1)
        members.settle()
        self.assertEqual(len(members.rosters()), 1)
        self.assertLessEqual(members.sent - before, 6 + 6 * RELAYS)

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
        both = json.dumps({"statements": encode_batch([good, forged])}).encode()
        exchange.receive(other, both)  # the second has the ID of the first, so it is known
        self.assertEqual([each.id for each in exchange.take_news()], [good.id])

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
