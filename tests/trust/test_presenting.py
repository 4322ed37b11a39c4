"""What strangers present as the proof that they were admitted, and what it costs the node."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from types import SimpleNamespace
from typing import Any

import msgspec
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.trial.unittest import SynchronousTestCase

from bzzz.identity.keys import PrivateKey
from bzzz.net.accepting import HOSTS_PER_SUBNET
from bzzz.trust import roster as roster_module
from bzzz.trust.presenting import (
    BURST,
    MAX_HELD,
    MAX_PROOF,
    MAX_STATEMENTS,
    MAX_WAITING,
    PROTOCOL,
    TIME_LIMIT,
    Presenting,
)
from bzzz.trust.roster_exchange import encode_batch
from bzzz.trust.roster_room import Room
from bzzz.trust.statements import Role, SignedStatement
from bzzz.wire.framing import frame
from tests.trust.guests import GuestLink, Guests, Talk, TrustedCluster
from tests.trust.rosters import admit, found, key, revoke, roster_of

FOUND = found("walnut")
IRONWOOD = admit("walnut", "ironwood", FOUND, role=Role.ADMIN)
ACACIA = admit("ironwood", "acacia", IRONWOOD)
REVOKED = revoke("walnut", "ironwood", IRONWOOD)


def proof(statements: Iterable[SignedStatement]) -> bytes:
    return frame(msgspec.json.encode({"statements": encode_batch(statements)}))


class PresentingTests(SynchronousTestCase):
    """A member that has heard of two admissions, and not of the third."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.swarm = Guests(self.clock)
        self.cluster = TrustedCluster(key("walnut").peer_id, roster_of(FOUND, IRONWOOD))
        swarm, cluster = self.swarm, self.cluster
        self.presenting = Presenting(swarm, cluster, self.clock)  # type: ignore[arg-type]  # fakes

    def guest(self, name: str = "acacia", host: str = "192.0.2.1") -> GuestLink:
        return GuestLink(self.swarm, key(name).peer_id, host)

    def strangers(self, count: int, host: str) -> list[Talk]:
        """Guests that open a stream each and say nothing."""
        peers = [PrivateKey.from_seed(bytes([each]) * 32).peer_id for each in range(count)]
        return [GuestLink(self.swarm, peer, host).talk(PROTOCOL) for peer in peers]

    def wait(self, seconds: float = 0.0) -> None:
        """Let some turns of the reactor pass."""
        for _ in range(1 + MAX_PROOF // 1000):
            self.clock.advance(0)
        self.clock.advance(seconds)

    def test_proved(self) -> None:
        """Who was admitted meanwhile is a member."""
        talk = self.guest().talk(PROTOCOL)
        talk.hear(proof([FOUND, IRONWOOD, ACACIA]))
        self.wait()
        self.assertEqual(self.cluster.taken, [ACACIA])
        self.assertTrue(talk.over)
        self.assertEqual(talk.said, b"")

    def test_revoked_here(self) -> None:
        """A node that is no member any more shows what it knows to one that takes it for one."""
        gone = revoke("walnut", "walnut", IRONWOOD)
        self.cluster.roster = roster_of(FOUND, IRONWOOD, gone)
        link = self.guest()
        opened: list[Any] = []

        def open_stream(protocols: list[str], factory: Any) -> Deferred[None]:
            opened.append((protocols, factory.buildProtocol(SimpleNamespace(link=link))))
            return Deferred()

        link.open_stream = open_stream  # type: ignore[attr-defined]  # what a link has
        talk = link.talk(PROTOCOL)
        talk.hear(proof([FOUND, IRONWOOD, ACACIA]))
        self.wait()
        ((protocols, presenting),) = opened
        self.assertEqual(protocols, [PROTOCOL])
        sent = StringTransport()
        presenting.makeConnection(sent)
        self.assertEqual(sent.value(), proof([gone]))

    def test_byte_at_a_time(self) -> None:
        """However it comes."""
        talk = self.guest().talk(PROTOCOL)
        for byte in proof([FOUND, IRONWOOD, ACACIA]):
            talk.hear(bytes([byte]))
        self.wait()
        self.assertEqual(self.cluster.taken, [ACACIA])

    def test_no_proof(self) -> None:
        """Nothing is kept of a proof that proves nothing, or is none."""
        roster: Any = self.cluster.roster
        for name, statements in (
            ("sumac", [ACACIA]),
            ("acacia", [REVOKED, ACACIA]),
            ("acacia", [revoke("walnut", "acacia", ACACIA)]),
            ("acacia", [found("mallory"), admit("mallory", "acacia", found("mallory"))]),
        ):
            self.guest(name, f"192.0.2.{len(statements)}").talk(PROTOCOL).hear(proof(statements))
            self.wait()
        self.assertEqual(self.cluster.taken, [])
        self.assertEqual(roster.heads, (IRONWOOD.id,))

    def test_nonsense(self) -> None:
        """What cannot be read costs the stream."""
        nested = b'{"statements":' + b"[" * 100_000
        for number, message in enumerate((b"", b"[]", b'{"statements":["\xff"]}', nested)):
            talk = self.guest(host=f"192.0.2.{number}").talk(PROTOCOL)
            talk.hear(frame(message))
            self.assertEqual(getattr(talk.error, "code", ""), "present_bad_message")
            self.assertTrue(talk.over)

    def test_many_texts(self) -> None:
        """A million texts are not even read."""
        talk = self.guest().talk(PROTOCOL)
        talk.hear(frame(b'{"statements":[' + b'"",' * MAX_STATEMENTS + b'""]}'))
        self.assertIn(f"more than {MAX_STATEMENTS} statements", str(talk.error))

    def test_so_many_statements_are_no_proof(self) -> None:
        """As many as may be counted are longer than a proof may be."""
        self.assertGreater(len(proof([revoke("a", "b", FOUND)])) * MAX_STATEMENTS, MAX_PROOF)

    def test_silent(self) -> None:
        """Guests that say nothing hold up nobody, and have so long to say something."""
        silent = self.strangers(3, "192.0.2.1")
        self.guest().talk(PROTOCOL).hear(proof([ACACIA]))
        self.wait()
        self.assertEqual(self.cluster.taken, [ACACIA])
        self.clock.advance(TIME_LIMIT - 0.1)
        self.assertEqual([talk.over for talk in silent], [False] * 3)
        self.clock.advance(0.1)
        self.assertEqual([talk.over for talk in silent], [True] * 3)

    def test_hosts_have_their_turn(self) -> None:
        """Of proofs that wait, one of another host than that of the last comes first."""
        for name, host in (("b1", "1"), ("b2", "1"), ("b3", "1"), ("acacia", "2")):
            self.guest(name, f"192.0.2.{host}").talk(PROTOCOL).hear(proof([ACACIA]))
        judged: list[str] = []
        self.presenting.proved = (  # type: ignore[method-assign]  # who is judged, in what order
            lambda link, *_: judged.append(str(link.remote_peer))
        )
        self.wait()
        self.assertEqual(judged.index(str(key("acacia").peer_id)), 1)

    def test_held(self) -> None:
        """Of more bytes than are held the longest proof goes, and a short one is judged."""
        count = MAX_HELD // MAX_PROOF + 1
        long = self.strangers(count, "192.0.2.1")
        begun = frame(bytes(MAX_PROOF))
        for talk in long[1:]:
            talk.hear(begun[:-1000])
        self.assertEqual([talk.over for talk in long], [False] * count)
        self.guest().talk(PROTOCOL).hear(proof([ACACIA]))
        long[0].hear(begun[:-2000])
        self.assertEqual([talk.over for talk in long].count(True), 1)
        self.assertFalse(long[0].over)
        self.wait()
        self.assertEqual(self.cluster.taken, [ACACIA])

    def test_no_room(self) -> None:
        """A proof for which the roster has no room is over, and the next is judged."""
        roster: Any = self.cluster.roster
        self.patch(roster_module, "FROM_OTHERS", Room(others=len(roster)))
        full = self.guest().talk(PROTOCOL)
        full.hear(proof([ACACIA]))
        self.wait()
        self.assertTrue(full.over)
        self.patch(roster_module, "FROM_OTHERS", Room(others=len(roster) + 1))
        self.guest().talk(PROTOCOL).hear(proof([ACACIA]))
        self.wait()
        self.assertEqual(self.cluster.taken, [ACACIA])

    def test_bug(self) -> None:
        """An error that nobody thought of is logged, and the next proof is judged."""
        present = self.cluster.present

        def fail(statements: Sequence[SignedStatement]) -> None:
            raise ValueError("a bug")

        self.cluster.present = fail  # type: ignore[method-assign]  # for one call
        talk = self.guest().talk(PROTOCOL)
        talk.hear(proof([ACACIA]))
        self.wait()
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)
        self.assertTrue(talk.over)
        self.cluster.present = present  # type: ignore[method-assign]  # as it was
        self.guest().talk(PROTOCOL).hear(proof([ACACIA]))
        self.wait()
        self.assertEqual(self.cluster.taken, [ACACIA])

    def test_rate(self) -> None:
        """A host has so many proofs in a minute, and another as many."""
        for _ in range(BURST):
            talk = self.guest("mallory").talk(PROTOCOL)
            talk.hear(frame(b"{}"))
        self.assertTrue(self.guest("mallory").talk(PROTOCOL).over)
        talk = self.guest(host="192.0.2.2").talk(PROTOCOL)
        talk.hear(proof([ACACIA]))
        self.wait()
        self.assertEqual(self.cluster.taken, [ACACIA])

    def test_rate_of_a_subnet(self) -> None:
        """Each address of a /64 has as many, and all together four times as many."""
        judged = 0
        for number in range(1, 2 * HOSTS_PER_SUBNET + 1):
            for _ in range(BURST if number > 1 else BURST + 1):
                talk = self.guest("mallory", f"2001:db8::{number:x}").talk(PROTOCOL)
                judged += not talk.over
                talk.hear(frame(b"{}"))
            if number == 1:
                self.assertEqual(judged, BURST)
        self.assertEqual(judged, HOSTS_PER_SUBNET * BURST)
        self.assertEqual(len(self.presenting._hosts), HOSTS_PER_SUBNET)
        self.assertFalse(self.guest(host="2001:db8:0:1::1").talk(PROTOCOL).over)

    def test_subnets_have_their_turn(self) -> None:
        """Who presents from many addresses of a /64 does not keep out others by that."""
        hosts = [f"2001:db8::{number:x}" for number in range(1, 6)]
        for number, host in enumerate((*hosts, "192.0.2.2")):
            self.guest(f"b{number}", host).talk(PROTOCOL).hear(proof([ACACIA]))
        judged: list[str] = []
        self.presenting.proved = (  # type: ignore[method-assign]  # who is judged, in what order
            lambda link, *_: judged.append(str(link.remote_peer))
        )
        self.wait()
        self.assertEqual(judged.index(str(key("b5").peer_id)), 1)

    def test_waiting(self) -> None:
        """So many may be there; one more is told no."""
        talks = [
            self.guest(str(number), f"192.0.2.{number}").talk(PROTOCOL)
            for number in range(MAX_WAITING + 1)
        ]
        self.assertEqual([talk.over for talk in talks].index(True), MAX_WAITING)
        talks[0].hang_up()
        self.assertFalse(self.guest("late").talk(PROTOCOL).over)

    def test_one_of_a_guest(self) -> None:
        """A guest presents one at a time."""
        link = self.guest()
        talks = [link.talk(PROTOCOL) for _ in range(3)]
        self.assertEqual([talk.over for talk in talks], [False, True, True])

    def test_hung_up(self) -> None:
        """Nothing is left of those who hang up."""
        for talk in self.strangers(3, "192.0.2.1"):
            talk.hang_up()
        self.assertEqual(self.clock.getDelayedCalls(), [])
