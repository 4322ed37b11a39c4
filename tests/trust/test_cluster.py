"""A node's cluster whose disk fails, or whose observers do."""

from __future__ import annotations

import random
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

from twisted.internet.defer import Deferred, ensureDeferred, maybeDeferred
from twisted.logger import LogLevel, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from bzzz.database import Database, DatabaseError
from bzzz.errors import BzzzError
from bzzz.net.link import Link
from bzzz.trust import roster as roster_module
from bzzz.trust.cluster import MERGED_AT_ONCE, Cluster, ClusterError
from bzzz.trust.roster_room import Room
from bzzz.trust.roster_store import MIGRATIONS, SqliteRosterStore
from bzzz.trust.statements import Role, SignedStatement
from tests.net.swarms import Peer, SwarmCase
from tests.net.swarms import Roster as Members
from tests.trust.rosters import TIME, admit, found, key
from tests.trust.stores import FailingStore

T = TypeVar("T")

ACACIA = key("acacia").peer_id
IRONWOOD = key("ironwood").peer_id
SUMAC = key("sumac").peer_id


class Case(SynchronousTestCase):
    """Walnut's cluster, in which ironwood is an admin, too."""

    def setUp(self) -> None:
        self.store = FailingStore()
        self.cluster = self.started()
        self.done(self.cluster.create("home", "walnut"))
        self.done(self.cluster.admit(IRONWOOD, "ironwood", Role.ADMIN))
        self.told = 0
        self.cluster.on_change(self.tell)
        self.errors: list[str] = []
        observer: Any = self.log
        globalLogPublisher.addObserver(observer)
        self.addCleanup(globalLogPublisher.removeObserver, observer)

    def started(self) -> Cluster:
        return Cluster(
            key("walnut"),
            self.store,
            lambda: TIME,
            random.Random(1).randbytes,
            random.Random(1),
            lambda event, **fields: None,
            maybeDeferred,
        )

    def tell(self) -> None:
        self.told += 1

    def log(self, event: dict[str, Any]) -> None:
        if event["log_level"] is LogLevel.error:
            self.errors.append(event["log_format"].format(**event))

    def done(self, work: Coroutine[Deferred[Any], Any, T]) -> T:
        return self.successResultOf(ensureDeferred(work))

    def failed(self, work: Coroutine[Deferred[Any], Any, Any]) -> None:
        self.failureResultOf(ensureDeferred(work), DatabaseError)

    def hear(self, name: str) -> SignedStatement:
        """Ironwood admits somebody, and this node is told."""
        roster = self.cluster.member_of()
        peer = key(name).peer_id
        statement = roster.make_admit(key("ironwood"), peer, name, Role.MEMBER, TIME)
        self.cluster.news(roster.merge([statement]))
        return statement


class DiskTests(Case):
    def test_own_after_news(self) -> None:
        """What the node says is on disk with the news before it, though that could not be kept."""
        self.store.failing = True
        news = self.hear("sumac")
        self.assertNotIn(news.id, self.store.rows)
        self.assertEqual(len(self.errors), 1)
        self.assertIn(news.id.hex()[:16], self.errors[0])
        self.assertIn("the disk is full", self.errors[0])
        self.store.failing = False
        self.done(self.cluster.admit(ACACIA, "acacia", Role.MEMBER))
        self.done(self.cluster.revoke(IRONWOOD))
        kept = self.store.roster()
        self.assertTrue(kept.admits(ACACIA))
        self.assertFalse(kept.admits(IRONWOOD))
        self.assertEqual(kept.heads, self.cluster.member_of().heads)

    def test_own_beside_news(self) -> None:
        """Also while the news is being written, and then is not."""
        self.store.slow = True
        self.hear("sumac")
        admitted = ensureDeferred(self.cluster.admit(ACACIA, "acacia", Role.MEMBER))
        self.store.finish(well=False)
        self.store.finish()
        self.successResultOf(admitted)
        self.assertTrue(self.store.roster().admits(ACACIA))

    def test_own_that_failed(self) -> None:
        """What the owner was told is not done is not written later."""
        self.store.failing = True
        self.failed(self.cluster.admit(ACACIA, "acacia", Role.MEMBER))
        self.store.failing = False
        self.hear("sumac")
        self.assertFalse(self.store.roster().admits(ACACIA))

    def test_news_after_news(self) -> None:
        """News that could not be kept is, with the next."""
        self.store.failing = True
        first = self.hear("sumac")
        self.store.failing = False
        second = self.hear("acacia")
        self.assertLessEqual({first.id, second.id}, set(self.store.rows))
        self.store.slow = True
        third = self.hear("teak")
        self.assertEqual([each.id for each in self.store.waiting[0][1]], [third.id])

    def test_one_write(self) -> None:
        """News that comes during a write is written after it, all at once."""
        self.store.slow = True
        heard = [self.hear(name) for name in ("sumac", "acacia", "teak")]
        self.assertEqual(len(self.store.waiting), 1)
        self.store.finish(well=False)
        self.assertEqual(
            [[each.id for each in statements] for _, statements in self.store.waiting],
            [[each.id for each in heard]],
        )
        self.store.finish(well=False)
        self.assertEqual(self.store.waiting, [])
        self.assertEqual(len(self.errors), 2)

    def test_left_out(self) -> None:
        """A start says that statements on the disk do not count."""
        self.done(self.started().load())
        self.assertEqual(self.errors, [])
        lost = self.hear("sumac")
        self.done(self.cluster.admit(ACACIA, "acacia", Role.MEMBER))
        del self.store.rows[lost.id]
        self.done(self.started().load())
        self.assertEqual(len(self.errors), 1)
        self.assertIn("1 of the 3 statements of home", self.errors[0])

    def test_import(self) -> None:
        """A roster from a file counts at once, and is on the disk when that works again."""
        other = self.cluster.member_of().copy()
        other.add(other.make_revoke(key("walnut"), IRONWOOD, "", TIME))
        encoded = [each.encode() for each in other.statements()]
        self.store.failing = True
        self.failed(self.cluster.adopt(encoded))
        self.assertFalse(self.cluster.admission.admits(IRONWOOD))
        self.assertEqual(self.told, 1)
        exchange: Any = self.cluster.exchange
        self.assertTrue(self.store.roster().admits(IRONWOOD))
        self.store.failing = False
        self.done(self.cluster.adopt(encoded))
        self.assertFalse(self.store.roster().admits(IRONWOOD))
        self.assertIs(self.cluster.exchange, exchange)

    def test_import_is_announced(self) -> None:
        """Others hear of it before the disk has it."""
        other = self.cluster.member_of().copy()
        revoke = other.make_revoke(key("walnut"), IRONWOOD, "", TIME)
        other.add(revoke)
        announced: list[SignedStatement] = []
        exchange: Any = self.cluster.exchange
        self.patch(exchange, "announce", announced.extend)
        self.store.slow = True
        ensureDeferred(self.cluster.adopt([each.encode() for each in other.statements()]))
        self.assertEqual([each.id for each in announced], [revoke.id])
        self.store.finish()

    def test_forget(self) -> None:
        """Who leaves has left, and the owner hears that it is still on the disk."""
        self.store.failing = True
        self.failed(self.cluster.forget())
        self.assertIsNone(self.cluster.roster)
        self.assertEqual(self.told, 1)
        self.assertIn("home is still on this node's disk", self.errors[0])

    def test_found_after_forget(self) -> None:
        """The next cluster takes the place of one that is still on the disk."""
        self.store.failing = True
        self.failed(self.cluster.forget())
        self.failed(self.cluster.create("away", "walnut"))
        self.assertIsNone(self.cluster.roster)
        self.store.failing = False
        self.done(self.cluster.create("away", "walnut"))
        self.assertEqual(self.store.roster().cluster, "away")

    def test_join_after_forget(self) -> None:
        """So does one that is joined; of the old one nothing is written any more."""
        self.store.failing = True
        self.hear("sumac")
        self.failed(self.cluster.forget())
        self.store.failing = False
        theirs = [found("ironwood"), admit("ironwood", "walnut", found("ironwood"))]
        self.done(self.cluster.adopt([each.encode() for each in theirs]))
        self.done(self.cluster.rename(self.cluster.peer_id, "oak"))
        kept = self.store.roster()
        self.assertEqual(len(kept), 3)
        self.assertEqual(len(self.store.rows), 3)
        self.assertEqual(kept.name_of(self.cluster.peer_id), "oak")


class OrderTests(Case):
    """What the owner does while something else is under way."""

    def test_checked_when_it_is_said(self) -> None:
        """An admission that has to wait is checked once more, and refused with the reason."""
        self.store.slow = True
        first = ensureDeferred(self.cluster.admit(SUMAC, "sumac", Role.MEMBER))
        closed = False

        def check() -> None:
            if closed:
                raise BzzzError("the code is void")

        second = ensureDeferred(self.cluster.admit(ACACIA, "acacia", Role.MEMBER, check))
        closed = True
        self.store.finish()
        self.successResultOf(first)
        self.assertEqual(str(self.failureResultOf(second, BzzzError).value), "the code is void")
        self.assertEqual(self.store.waiting, [])
        self.assertNotIn(ACACIA, self.cluster.member_of().members)

    def test_leaving_after_an_admission(self) -> None:
        """Who leaves while an admission is being written has said both, one after the other."""
        self.store.slow = True
        admitted = ensureDeferred(self.cluster.admit(ACACIA, "acacia", Role.MEMBER))
        left = ensureDeferred(self.cluster.say_leaving())
        self.store.finish()
        self.successResultOf(admitted)
        self.store.finish()
        self.assertTrue(self.successResultOf(left))
        kept = self.store.roster()
        self.assertTrue(kept.admits(ACACIA))
        self.assertFalse(kept.admits(self.cluster.peer_id))

    def test_leaving_without_room(self) -> None:
        """Where there is no room for it nobody is told, and that is what the owner hears."""
        self.patch(roster_module, "FROM_OTHERS", Room(own=0))
        exchange: Any = self.cluster.exchange
        self.patch(exchange, "announce", self.fail)
        self.assertFalse(self.done(self.cluster.say_leaving()))

    def test_nothing_beside_a_rotation(self) -> None:
        """As long as a rotation may be said again, which undoes what this node says after it."""
        self.store.failing = True
        self.failed(self.cluster.say_rotating(key("oak")))
        self.store.failing = False
        for work in (
            self.cluster.admit(ACACIA, "acacia", Role.MEMBER),
            self.cluster.revoke(IRONWOOD),
            self.cluster.rename(self.cluster.peer_id, "elm"),
        ):
            error = self.failureResultOf(ensureDeferred(work), ClusterError).value
            self.assertEqual(error.code, "rotation_begun")
            self.assertIn("bzzz id rotate", str(error))
        self.assertRaises(ClusterError, self.cluster.administered)
        self.done(self.cluster.say_rotating(key("oak")))
        self.assertTrue(self.store.roster().admits(key("oak").peer_id))

    def test_long_import(self) -> None:
        """A long roster is taken in several turns of the reactor, whole."""
        other = self.cluster.member_of().copy()
        for number in range(MERGED_AT_ONCE + 3):
            peer = key(f"n{number}").peer_id
            other.add(other.make_admit(key("walnut"), peer, f"n{number}", Role.MEMBER, TIME))
        turns: list[Deferred[Any]] = []

        def in_thread(work: Any) -> Deferred[Any]:
            turns.append(Deferred())
            turns[-1].addCallback(lambda _: work())
            return turns[-1]

        self.patch(self.cluster, "_in_thread", in_thread)
        done = ensureDeferred(self.cluster.adopt([each.encode() for each in other.statements()]))
        turns[0].callback(None)
        self.assertNoResult(done)
        self.assertEqual(len(self.cluster.member_of()), MERGED_AT_ONCE)
        turns[1].callback(None)
        self.successResultOf(done)
        self.assertEqual(self.cluster.member_of().heads, other.heads)
        self.assertEqual(self.store.roster().heads, other.heads)


class CallbackTests(Case):
    def test_raising(self) -> None:
        """A callback that fails keeps no other one from being called, and the revoke counts."""

        def fail() -> None:
            raise ValueError("a bug")

        cluster = self.started()
        cluster.on_change(fail)
        cluster.on_change(self.tell)
        self.done(cluster.load())
        self.done(cluster.revoke(IRONWOOD))
        self.assertEqual(self.told, 2)
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 2)


class LinkTests(SwarmCase):
    def test_raising(self) -> None:
        """All who are revoked lose their links, though an observer fails at each."""
        one, two = Peer(self, 2), Peer(self, 3)
        gate = Members(one.swarm.peer_id, two.swarm.peer_id)
        member = Peer(self, 1, gate)

        class Failing(Peer):
            def link_down(self, link: Link, reason: str) -> None:
                raise ValueError("a bug")

        member.swarm.add_observer(Failing(self, 4))
        after = Peer(self, 5)
        member.swarm.add_observer(after)
        for peer in (one, two):
            peer.dial(member)
        self.run_for(1)
        self.assertEqual(len(member.swarm.links), 2)
        gate.members.clear()
        member.swarm.gate_changed()
        self.assertEqual(member.swarm.links, {})
        self.assertEqual([what for what, _ in after.told].count("down"), 2)
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 2)


class SqliteTests(SynchronousTestCase):
    def test_replace(self) -> None:
        """What replaces a roster is alone on the disk; if that fails, the old one is."""
        (directory := Path(self.mktemp())).mkdir(0o700)
        database = Database(directory / "bzzz.db", None, MIGRATIONS, in_thread=maybeDeferred)
        self.successResultOf(database.open())
        store = SqliteRosterStore(database)
        old, new = found("walnut"), found("ironwood")
        self.successResultOf(store.add([old]))
        no_id: Any = []
        wrong = SignedStatement(new.statement, new.body, new.signature, no_id)
        self.failureResultOf(store.replace([new, wrong]))
        self.assertEqual(self.successResultOf(store.load()), [old.encode()])
        self.successResultOf(store.replace([new]))
        self.assertEqual(self.successResultOf(store.load()), [new.encode()])
        self.successResultOf(database.close())
