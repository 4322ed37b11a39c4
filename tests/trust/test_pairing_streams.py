"""Whom the inviter pairs with, and when a guess is not looked at. The streams are stood in for."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, execute, fail, maybeDeferred
from twisted.internet.protocol import Protocol
from twisted.internet.testing import StringTransport
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from bzzz.database import Database, DatabaseError
from bzzz.trust.cluster import ClusterError
from bzzz.trust.codes import Code, Token
from bzzz.trust.invitation_store import MIGRATIONS, SqliteInvitationStore
from bzzz.trust.invitations import CODE_SECONDS, Invitation, Invitations, TokenRecord
from bzzz.trust.pairing import MAX_MESSAGE, Joiner, PairingRefused
from bzzz.trust.pairing_streams import MAX_RUNS, MAX_RUNS_PER_HOST, STEP_SECONDS, Pairing
from bzzz.trust.statements import Role
from bzzz.wire.framing import FrameReader, frame
from tests.trust.rosters import key
from tests.web.clusters import NOW, Home, done

HASH = b"h" * 32
DAY = 86400.0


class FakeSwarm:
    """Knows who is held."""

    def __init__(self) -> None:
        self.held: set[FakeLink] = set()

    def handle(self, protocol_id: str, factory: Any, guests: bool) -> None:
        self.factory = factory

    def hold_guest(self, link: FakeLink) -> None:
        self.held.add(link)

    def release_guest(self, link: FakeLink) -> None:
        self.held.discard(link)


class FakeLink:
    """A link with a joiner, and what the stream of it needs to know."""

    handshake_hash = HASH

    def __init__(self, name: str, host: str) -> None:
        self.remote_peer = key(name).peer_id
        self.remote_host = host
        self.connection = self.link = self


class FakeStream(StringTransport):
    """A stream whose protocol hears at once that it is reset."""

    protocol: Protocol
    aborted = False

    def abortConnection(self) -> None:
        if not self.aborted:
            self.aborted = True
            self.protocol.connectionLost()


class Guest:
    """A joiner with a stream of its own to the inviter."""

    def __init__(self, swarm: FakeSwarm, link: FakeLink) -> None:
        self.link = link
        self.stream = FakeStream()
        self.protocol = swarm.factory.buildProtocol(link)
        self.stream.protocol = self.protocol
        self.protocol.makeConnection(self.stream)

    def request(self, secret: Code | Token, inviter: Home) -> str:
        """Send message 1; what it is refused with, if it is."""
        self.core = Joiner(
            self.link.remote_peer,
            inviter.peer_id,
            secret.channel,
            secret.password,
            "new",
            HASH,
            inviter.randomness.randbytes,
        )
        self.protocol.dataReceived(frame(self.core.begin()))
        return self.answer()

    def confirm(self) -> str:
        """Send message 3; what it is refused with, if it is."""
        self.protocol.dataReceived(frame(self.reply))
        return self.answer()

    def answer(self) -> str:
        (message,) = FrameReader(1024 * MAX_MESSAGE).receive(self.stream.value())
        self.stream.clear()
        try:
            self.reply: bytes = getattr(self.core.receive(message), "message", b"")
        except PairingRefused as error:
            return error.code
        return ""

    def hang_up(self) -> None:
        self.protocol.connectionLost()


class Base(SynchronousTestCase):
    def setUp(self) -> None:
        self.home = Home()
        self.home.found()
        self.swarm = FakeSwarm()
        self.told: list[tuple[str, dict[str, Any]]] = []
        self.recorded: list[tuple[str, dict[str, Any]]] = []
        self.pairing = self.pairing_with(maybeDeferred)

    def pairing_with(self, in_thread: Callable[..., Deferred[Any]]) -> Pairing:
        swarm: Any = self.swarm
        return Pairing(
            swarm,
            self.home.cluster,
            self.home.tokens,
            self.home.clock,
            lambda: NOW + self.home.clock.seconds(),
            self.home.randomness.randbytes,
            in_thread,
            lambda event, **fields: self.recorded.append((event, fields)),
        )

    def code(self) -> Invitation:
        watch = self.pairing.open_code(
            Role.MEMBER, lambda event, **fields: self.told.append((event, fields))
        )
        invitation = done(watch)
        assert isinstance(invitation, Invitation)
        return invitation

    def token(self) -> Invitation:
        invitation = done(self.pairing.open_token(Role.MEMBER, 64, DAY))
        assert isinstance(invitation, Invitation)
        return invitation

    def guest(self, number: int, host: str = "") -> Guest:
        return Guest(self.swarm, FakeLink(f"guest{number}", host or f"192.0.2.{number}"))

    def voids(self) -> list[str]:
        return [fields["reason"] for event, fields in self.recorded if event == "invitation_void"]


class RoomTests(Base):
    """Who may pair at one time."""

    def test_silent(self) -> None:
        """Streams on which nothing was said keep nobody out: the oldest makes room."""
        silent = [self.guest(number) for number in range(MAX_RUNS)]
        self.assertEqual(self.guest(99).request(self.code().secret, self.home), "")
        self.assertEqual([each.stream.aborted for each in silent], [True] + [False] * 15)

    def test_full(self) -> None:
        """When as many pair as may, one more is told that; who has had an answer makes room."""
        secret = self.token().secret
        guests = [self.guest(number) for number in range(MAX_RUNS)]
        for each in guests:
            self.assertEqual(each.request(secret, self.home), "")
        late = self.guest(98)
        self.assertFalse(late.stream.aborted)
        self.assertEqual(late.request(secret, self.home), "busy")
        self.assertEqual(guests[3].confirm(), "")
        guests[3].protocol.dataReceived(frame(guests[3].core.joined()))
        self.assertEqual(self.guest(99).request(secret, self.home), "")
        self.assertEqual([number for number, each in enumerate(guests) if each.stream.aborted], [3])

    def test_host(self) -> None:
        """One host has some of the runs, and its silent ones make room for its own.

        Of IPv6 it is a /64, whatever address of it each connection comes from.
        """
        secret = self.token().secret
        for first, host, other in (
            (0, "192.0.2.1", "192.0.2.2"),
            (50, "2001:db8::{}", "2001:db9::"),
        ):
            silent = self.guest(first + 30, host.format(9))
            near = [
                self.guest(first + number, host.format(number))
                for number in range(MAX_RUNS_PER_HOST)
            ]
            self.assertTrue(silent.stream.aborted)
            for each in near:
                self.assertEqual(each.request(secret, self.home), "")
            last = self.guest(first + 31, host.format(8))
            self.assertEqual(last.request(secret, self.home), "busy")
            self.assertEqual(self.guest(first + 32, other).request(secret, self.home), "")

    def test_silent_one_of_a_link(self) -> None:
        """A link has one run: a silent one ends when its peer begins another."""
        secret = self.code().secret
        first = self.guest(1)
        second = Guest(self.swarm, first.link)
        self.assertTrue(first.stream.aborted)
        self.assertEqual(second.request(secret, self.home), "")
        self.assertIn(second.link, self.swarm.held)

    def test_second_of_a_link(self) -> None:
        """Beside a run that goes on a second is told so, and its end ends not the first's hold."""
        secret = self.code().secret
        first = self.guest(1)
        self.assertEqual(first.request(secret, self.home), "")
        unheard = Guest(self.swarm, first.link)
        second = Guest(self.swarm, first.link)
        self.assertEqual((unheard.stream.aborted, first.stream.aborted), (True, False))
        self.assertEqual(second.request(secret, self.home), "busy")
        second.hang_up()
        self.assertIn(first.link, self.swarm.held)
        self.assertEqual(first.confirm(), "")
        first.hang_up()
        self.assertNotIn(first.link, self.swarm.held)

    def test_again(self) -> None:
        """After a refusal the same link may try again, before the stream of the first is gone."""
        first = self.guest(1)
        self.assertEqual(first.request(Code("7", ("guitar", "lunar")), self.home), "no_channel")
        self.assertEqual(Guest(self.swarm, first.link).request(self.code().secret, self.home), "")

    def test_says_nothing(self) -> None:
        """Who is told that there is no room has to say something in time, too."""
        first = self.guest(1)
        self.assertEqual(first.request(self.code().secret, self.home), "")
        second = Guest(self.swarm, first.link)
        self.home.clock.advance(STEP_SECONDS)
        self.assertTrue(second.stream.aborted)


class VoidTests(Base):
    """Message 3 when the code is void by then."""

    def test_guesses(self) -> None:
        """Of five that were offered the code before three were wrong, three are judged."""
        secret = self.code().secret
        assert isinstance(secret, Code)
        wrong = Code(secret.channel, ("abandon", "ability"))
        guests = [self.guest(number) for number in range(5)]
        right = self.guest(9)
        for each in guests:
            self.assertEqual(each.request(wrong, self.home), "")
        self.assertEqual(right.request(secret, self.home), "")
        answers = [each.confirm() for each in guests]
        self.assertEqual(answers, ["wrong_code"] * 3 + ["no_channel"] * 2)
        self.assertEqual(right.confirm(), "no_channel")
        self.assertEqual([event for event, _ in self.told], ["wrong_code"] * 3 + ["void"])
        self.assertEqual(self.voids(), ["there were too many wrong guesses"])
        self.assertFalse(self.home.cluster.admission.admits(right.link.remote_peer))

    def test_expired(self) -> None:
        """A code that has expired meanwhile is not looked at either."""
        invitation = self.code()
        self.home.clock.advance(CODE_SECONDS - 1)
        guest = self.guest(1)
        wrong = Code(invitation.channel, ("abandon", "ability"))
        self.assertEqual(guest.request(wrong, self.home), "")
        # Its end comes a little later, by a timer.
        self.home.clock.advance(1)
        self.assertTrue(invitation.open)
        self.assertEqual(guest.confirm(), "no_channel")
        self.assertEqual(invitation.wrong, 0)

    def test_ends_once(self) -> None:
        """Who guesses at a void code by another way makes it void no second time."""
        invitation = self.code()
        for _ in range(5):
            self.pairing.wrong_code(invitation, key("guest1").peer_id, "192.0.2.1")
        self.pairing.close(invitation, "it was withdrawn")
        self.assertEqual(self.voids(), ["there were too many wrong guesses"])

    def test_left_meanwhile(self) -> None:
        """A node that leaves its cluster while it admits somebody refuses."""
        secret = self.code().secret
        guest = self.guest(1)
        self.assertEqual(guest.request(secret, self.home), "")
        cluster, admit = self.home.cluster, self.home.cluster.admit

        async def admit_and_leave(*arguments: Any) -> Any:
            await admit(*arguments)
            await cluster.forget()

        self.patch(cluster, "admit", admit_and_leave)
        self.assertEqual(guest.confirm(), "failed")


class OpeningTests(Base):
    """Invitations that are opened, and those of before."""

    def test_no_admin_any_more(self) -> None:
        """A node that leaves its cluster while it gets ready opens nothing."""
        ready: list[Deferred[None]] = []

        def in_thread(work: Callable[[], Any]) -> Deferred[Any]:
            ready.append(Deferred())
            return ready[-1]

        pairing = self.pairing_with(in_thread)
        opening = [
            Deferred.fromCoroutine(pairing.open_code(Role.MEMBER, lambda *_, **__: None)),
            Deferred.fromCoroutine(pairing.open_token(Role.MEMBER, 1, DAY)),
        ]
        done(self.home.cluster.forget())
        for each in ready:
            each.callback(None)
        for result in opening:
            self.failureResultOf(result, ClusterError)
        self.assertEqual(pairing.open_ones(), [])

    def test_not_kept(self) -> None:
        """A token that the disk does not take is void."""
        self.patch(self.home.tokens, "put", lambda *_: fail(DatabaseError("the disk is full")))
        self.assertRaises(DatabaseError, self.token)
        self.assertEqual((self.pairing.open_ones(), len(self.pairing._invitations)), ([], 0))
        self.assertEqual(self.recorded, [])

    def test_withdrawn_while_kept(self) -> None:
        """A token is not given to a node's owner that is no admin when it is on disk."""
        written: Deferred[None] = Deferred()
        self.patch(self.home.tokens, "put", lambda *_: written)
        opening = Deferred.fromCoroutine(self.pairing.open_token(Role.MEMBER, 1, DAY))
        done(self.home.cluster.forget())
        written.callback(None)
        self.failureResultOf(opening, ClusterError)

    def test_expired_at_opening(self) -> None:
        """One that has expired at the moment when another is opened is told of, and forgotten."""
        done(self.pairing.open_token(Role.MEMBER, 1, 5.0))
        self.code()
        self.home.clock.advance(5.0)
        self.assertEqual(self.voids(), [])
        self.code()
        self.assertEqual(self.voids(), ["it has expired"])
        self.assertEqual(self.home.tokens.kept, {})

    def test_old_tokens(self) -> None:
        """At the start those that are void by now are removed from the disk."""
        good, expired, damaged = self.token(), self.token(), self.token()
        kept = self.home.tokens.kept
        for each, fields in ((expired, {"expires_at": NOW - 1}), (damaged, {"uses": 0})):
            record = each.record()
            assert record is not None
            kept[each.channel] = (changed(record, **fields), Role.MEMBER)
        self.recorded.clear()
        pairing = self.pairing_with(maybeDeferred)
        done(pairing.load())
        self.assertEqual(list(kept), [good.channel])
        self.assertEqual([each.channel for each, _ in pairing.open_ones()], [good.channel])
        self.assertEqual(len(self.voids()), 2)


class StoreTests(SynchronousTestCase):
    """Tokens in the node's database."""

    def test_damaged(self) -> None:
        """Rows that cannot be read are removed with a warning, which has no secret; others stay."""
        path = Path(self.mktemp()).absolute()
        database = Database(path, None, MIGRATIONS, in_thread=execute)
        self.successResultOf(database.open())
        self.addCleanup(database.close)
        store = SqliteInvitationStore(database)
        home = Home()
        invitations = Invitations(home.peer_id, home.randomness.randbytes)
        records: dict[str, TokenRecord] = {}
        for _ in range(3):
            invitation = invitations.open_token(1, NOW + DAY, NOW)
            record = invitation.record()
            assert record is not None
            records[invitation.channel] = record
            self.successResultOf(store.put(invitation.channel, record, Role.MEMBER))
        good, role, unnamed = records

        def damage(connection: sqlite3.Connection) -> None:
            insert = "INSERT INTO invitations VALUES (?, ?, 'member')"
            connection.execute(insert, ("a", b'{"token": "bzzz-secret'))
            connection.execute(insert, ("b", b'{"token": "bzzz-secret", "uses": 1}'))
            connection.execute(insert, ("c", b"[" * 100_000))
            connection.execute("UPDATE invitations SET role = 'king' WHERE channel = ?", (role,))
            connection.execute(
                "UPDATE invitations SET channel = 'other' WHERE channel = ?", (unnamed,)
            )

        self.successResultOf(database.run(damage))
        with capturedLogs() as logs:
            loaded = self.successResultOf(store.load())
        self.assertEqual(loaded, [(records[good], Role.MEMBER)])
        self.assertEqual(
            sorted(each["channel"] for each in logs), sorted(["a", "b", "c", role, "other"])
        )
        self.assertNotIn("secret", str(logs))
        with capturedLogs() as logs:
            self.assertEqual(self.successResultOf(store.load()), loaded)
        self.assertEqual(logs, [])


def changed(record: TokenRecord, **fields: Any) -> TokenRecord:
    """The record with other values."""
    values = {name: getattr(record, name) for name in record.__struct_fields__}
    return TokenRecord(**{**values, **fields})
