"""Whom the inviter pairs with, and when a guess is not looked at. The streams are stood in for."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

from twisted.internet.defer import Deferred, execute, fail, maybeDeferred
from twisted.internet.protocol import Protocol
from twisted.internet.testing import StringTransport
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from bzzz.database import Database, DatabaseError
from bzzz.trust.cluster import ClusterError
from bzzz.trust.codes import Code, Token
from bzzz.trust.invitation_store import MIGRATIONS, SqliteInvitationStore
from bzzz.trust.invitations import (
    CODE_SECONDS,
    RUNS_PER_HOST,
    RUNS_PER_SUBNET,
    Invitation,
    Invitations,
    TokenRecord,
)
from bzzz.trust.pairing import MAX_MESSAGE, Joiner, PairingRefused
from bzzz.trust.pairing_streams import (
    MAX_RUNS,
    MAX_RUNS_PER_HOST,
    MAX_RUNS_PER_SUBNET,
    STEP_SECONDS,
    NotForgotten,
    Pairing,
)
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
            if self.core.receive(message) is None:
                self.reply = self.core.confirm()
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
        aborted = [number for number, each in enumerate(silent) if each.stream.aborted]
        self.assertEqual(aborted, [0])

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
        """One address has some of the runs, and its silent ones make room for its own."""
        secret = self.token().secret
        for first, host, other in (
            (0, "192.0.2.1", "192.0.2.2"),
            (50, "2001:db8::1", "2001:db8::2"),
        ):
            silent = self.guest(first + 30, host)
            near = [self.guest(first + number, host) for number in range(MAX_RUNS_PER_HOST)]
            self.assertTrue(silent.stream.aborted)
            for each in near:
                self.assertEqual(each.request(secret, self.home), "")
            last = self.guest(first + 31, host)
            self.assertEqual(last.request(secret, self.home), "busy")
            self.assertEqual(self.guest(first + 32, other).request(secret, self.home), "")

    def test_subnet(self) -> None:
        """A /64 has four times as many as an address, and not all, whatever addresses it takes."""
        self.assertEqual(MAX_RUNS_PER_SUBNET, 4 * MAX_RUNS_PER_HOST)
        self.assertLess(MAX_RUNS_PER_SUBNET, MAX_RUNS)
        secret = self.token().secret
        near = [self.guest(number, f"2001:db8::{number}") for number in range(MAX_RUNS_PER_SUBNET)]
        for each in near:
            self.assertEqual(each.request(secret, self.home), "")
        self.assertEqual(self.guest(50, "2001:db8::50").request(secret, self.home), "busy")
        self.assertEqual(self.guest(51, "2001:db8:0:1::1").request(secret, self.home), "")

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

    def test_rotation_that_failed(self) -> None:
        """It voids no invitation: this node is an admin until it has succeeded."""
        invitation = self.code()
        other = self.home.admit("acacia", Role.ADMIN)
        full = DatabaseError("the disk is full")
        with mock.patch.object(self.home.disk, "add", lambda statements: fail(full)):
            self.assertRaises(DatabaseError, done, self.home.cluster.say_rotating(key("oak")))
        done(other.cluster.admit(key("sumac").peer_id, "sumac", Role.MEMBER))
        other.news_to(self.home)
        self.assertTrue(invitation.open)
        done(self.home.cluster.say_rotating(key("oak")))
        done(other.cluster.admit(key("elm").peer_id, "elm", Role.MEMBER))
        other.news_to(self.home)
        self.assertFalse(invitation.open)

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


class AgainTests(Base):
    """Machines that an invitation has let in, and that come again."""

    def pair(self, number: int, secret: Code | Token) -> str:
        """Let a guest in; what it is refused with, if it is."""
        guest = self.guest(number)
        refusal = guest.request(secret, self.home) or guest.confirm()
        if not refusal:
            guest.protocol.dataReceived(frame(guest.core.joined()))
        return refusal

    def members(self) -> set[str]:
        return {member.name for member in self.home.cluster.member_of().members.values()}

    def statements(self) -> int:
        return len(self.home.cluster.member_of())

    def test_broken_link(self) -> None:
        """A member gets the roster again, by a code, too, and no new statement."""
        for invitation in (self.code(), self.token()):
            number = 1 if invitation.is_token else 2
            guest = self.guest(number)
            self.assertEqual(guest.request(invitation.secret, self.home), "")
            self.assertEqual(guest.confirm(), "")
            guest.hang_up()
            peer = guest.link.remote_peer
            done(self.home.cluster.admit(peer, f"other{number}", Role.RUN_ONLY))
            before = self.statements()
            self.assertEqual(self.pair(number, invitation.secret), "")
            self.assertEqual(self.statements(), before)
            member = self.home.cluster.member_of().members[peer]
            self.assertEqual((member.name, member.role), (f"other{number}", Role.RUN_ONLY))

    def test_put_out(self) -> None:
        """Who was revoked does not come back by the token or the code, whatever uses are left."""
        for invitation in (self.code(), self.token()):
            guest = self.guest(1)
            self.assertEqual(guest.request(invitation.secret, self.home), "")
            self.assertEqual(guest.confirm(), "")
            done(self.home.cluster.revoke(guest.link.remote_peer))
            guest.hang_up()
            self.assertEqual(self.pair(1, invitation.secret), "used")
            self.assertEqual(self.members(), {"walnut"})

    def test_put_out_by_itself(self) -> None:
        """Nor does who said itself that it is no member: it may have been demoted before."""
        token = done(self.pairing.open_token(Role.ADMIN, 64, DAY)).secret
        self.assertEqual(self.pair(1, token), "")
        other = Home("guest1")
        done(self.home.cluster.admit(other.peer_id, "new", Role.RUN_ONLY))
        done(other.cluster.adopt(self.home.statements()))
        done(other.cluster.say_leaving())
        other.news_to(self.home)
        self.assertEqual(self.pair(1, token), "used")
        self.assertEqual(self.members(), {"walnut"})

    def test_rotated(self) -> None:
        """A machine that has another key by now does not come back under the old one."""
        token = done(self.pairing.open_token(Role.MEMBER, 1, DAY)).secret
        self.assertEqual(self.pair(1, token), "")
        other = Home("guest1")
        done(other.cluster.adopt(self.home.statements()))
        done(other.cluster.say_rotating(key("guest2")))
        other.news_to(self.home)
        done(self.home.cluster.revoke(key("guest2").peer_id))
        for number in (1, 2, 3):
            self.assertEqual(self.pair(number, token), "used")
        self.assertEqual(self.members(), {"walnut"})

    def test_put_out_meanwhile(self) -> None:
        """Who was revoked while its admission was written has had its use."""
        invitation = done(self.pairing.open_token(Role.MEMBER, 64, DAY))
        admit = self.home.cluster.admit

        async def admit_and_revoke(peer: Any, *arguments: Any) -> Any:
            await admit(peer, *arguments)
            await self.home.cluster.revoke(peer)
            raise ClusterError("not_admitted", "it was revoked meanwhile")

        self.patch(self.home.cluster, "admit", admit_and_revoke)
        self.assertEqual(self.pair(1, invitation.secret), "failed")
        self.patch(self.home.cluster, "admit", admit)
        self.assertEqual(self.pair(1, invitation.secret), "used")

    def test_member_by_then(self) -> None:
        """Who becomes a member while it waits to be admitted keeps that role and that name."""
        invitation = self.code()
        guest = self.guest(1)
        self.assertEqual(guest.request(invitation.secret, self.home), "")
        cluster, admit = self.home.cluster, self.home.cluster.admit

        async def admit_after_another(peer: Any, *arguments: Any) -> Any:
            await admit(peer, "first", Role.RUN_ONLY)
            return await admit(peer, *arguments)

        self.patch(cluster, "admit", admit_after_another)
        self.assertEqual(guest.confirm(), "")
        self.assertEqual(self.members(), {"walnut", "first"})

    def test_not_admitted(self) -> None:
        """A machine that was not admitted after all leaves its use, on disk, too."""
        invitation = done(self.pairing.open_token(Role.MEMBER, 1, DAY))
        self.home.admit("new")
        self.assertEqual(self.pair(1, invitation.secret), "name_taken")
        record, _ = self.home.tokens.kept[invitation.channel]
        self.assertEqual((invitation.machines, record.machines), ([], ()))
        done(self.home.cluster.revoke(key("new").peer_id))
        self.assertEqual(self.pair(2, invitation.secret), "")


class GoneTests(Base):
    """Runs, and codes, that end while somebody is let in."""

    def setUp(self) -> None:
        super().setUp()
        self.written: list[Deferred[None]] = []

    def slow_disk(self) -> None:
        """From now on the roster is written when :attr:`written` fires."""
        add = self.home.disk.add

        def slow(statements: Any) -> Deferred[None]:
            self.written.append(Deferred())
            return self.written[-1].addCallback(lambda _: add(statements))

        self.patch(self.home.disk, "add", slow)

    def confirmed(self, invitation: Invitation, number: int = 1) -> Guest:
        """A guest that has sent message 3 and waits for the disk."""
        self.slow_disk()
        guest = self.guest(number)
        self.assertEqual(guest.request(invitation.secret, self.home), "")
        guest.protocol.dataReceived(frame(guest.reply))
        self.assertEqual(len(self.written), 1)
        return guest

    def used(self) -> list[dict[str, Any]]:
        return [fields for event, fields in self.recorded if event == "invitation_used"]

    def test_hung_up_while_written(self) -> None:
        """Who hangs up while its admission is written is admitted; that is told and recorded."""
        guest = self.confirmed(self.code())
        guest.hang_up()
        self.assertEqual(self.told, [])
        with capturedLogs() as logs:
            self.written[0].callback(None)
        peer = guest.link.remote_peer
        self.assertTrue(self.home.cluster.admission.admits(peer))
        ((event, fields),) = self.told
        self.assertEqual((event, fields["name"], fields["peer_id"]), ("admitted", "new", str(peer)))
        self.assertEqual(fields["reason"], "the other side has hung up")
        (used,) = self.used()
        self.assertEqual((used["peer_id"], used["address"]), (str(peer), "192.0.2.1"))
        self.assertIn("may not know it", "".join(each.get("log_format") or "" for each in logs))

    def test_not_admitted_after_all(self) -> None:
        """If the disk then fails it was not admitted, and the owner is told why, once."""
        guest = self.confirmed(self.code())
        guest.hang_up()
        self.written[0].errback(DatabaseError("the disk is full"))
        self.assertFalse(self.home.cluster.admission.admits(guest.link.remote_peer))
        self.assertEqual(self.told[0][1]["reason"], "the disk is full")
        self.assertEqual((len(self.told), self.used()), (1, []))

    def test_hung_up_after_message_4(self) -> None:
        """Who hangs up before it says that it has the roster may not know it either."""
        guest = self.guest(1)
        self.assertEqual(guest.request(self.code().secret, self.home), "")
        self.assertEqual(guest.confirm(), "")
        guest.hang_up()
        self.assertEqual([event for event, _ in self.told], ["admitted"])
        self.assertEqual(len(self.used()), 1)

    def test_joined(self) -> None:
        """Who says that it has joined is told and recorded once."""
        guest = self.guest(1)
        self.assertEqual(guest.request(self.code().secret, self.home), "")
        self.assertEqual(guest.confirm(), "")
        guest.protocol.dataReceived(frame(guest.core.joined()))
        guest.hang_up()
        self.assertEqual([event for event, _ in self.told], ["joined"])
        self.assertEqual(len(self.used()), 1)

    def test_hung_up_without_the_code(self) -> None:
        """Of who hangs up before message 3 it is said that it has not shown that it has it."""
        guest = self.guest(1)
        self.assertEqual(guest.request(self.code().secret, self.home), "")
        guest.hang_up()
        ((event, fields),) = self.told
        self.assertEqual(
            (event, fields["reason"]),
            ("failed", "the other side has hung up before it showed that it has the code"),
        )

    def test_closed_before_it_is_said(self) -> None:
        """While another change of the cluster is written, a code may end; nobody is admitted."""
        self.slow_disk()
        for end in ("close", "expire"):
            self.told.clear()
            invitation = self.code()
            self.written.clear()
            renaming = Deferred.fromCoroutine(self.home.cluster.rename(self.home.peer_id, end))
            guest = self.guest(1)
            self.assertEqual(guest.request(invitation.secret, self.home), "")
            guest.protocol.dataReceived(frame(guest.reply))
            if end == "close":
                self.pairing.close(invitation, "bzzz invite was interrupted")
            else:
                # Its end comes a little later, by a timer.
                self.home.clock.rightNow += CODE_SECONDS
            self.written[0].callback(None)
            self.successResultOf(renaming)
            self.assertEqual(len(self.written), 1)
            self.assertEqual(guest.answer(), "no_channel")
            self.assertFalse(self.home.cluster.admission.admits(guest.link.remote_peer))
            self.assertEqual(self.used(), [])

    def test_closed_while_written(self) -> None:
        """A code that ends when the admission is said already: the owner is told of both."""
        invitation = self.code()
        guest = self.confirmed(invitation)
        self.pairing.close(invitation, "it has expired")
        ((event, fields),) = self.told
        self.assertEqual(event, "void")
        self.assertIn("bzzz members tells whether", fields["reason"])
        self.assertEqual(self.voids(), ["it has expired"])
        self.written[0].callback(None)
        self.assertEqual(guest.answer(), "")
        self.assertTrue(self.home.cluster.admission.admits(guest.link.remote_peer))
        self.assertEqual(len(self.used()), 1)


class BusyTests(Base):
    """Strangers that begin runs and end them."""

    def begin(self, number: int, host: str, secret: Code | Token) -> str:
        guest = self.guest(number, host)
        refusal = guest.request(secret, self.home)
        guest.hang_up()
        return refusal

    def test_one_host(self) -> None:
        """One address uses up its own runs of a code; the machine that is invited has others."""
        secret = self.code().secret
        begun = [self.begin(number, "192.0.2.9", secret) for number in range(20)]
        self.assertEqual(begun, [""] * RUNS_PER_HOST + ["busy"] * (20 - RUNS_PER_HOST))
        self.assertEqual(self.begin(30, "192.0.2.1", secret), "")
        self.assertNotIn("busy", [event for event, _ in self.told])

    def test_one_subnet(self) -> None:
        """Nor does a machine that has a /64 use up all of them."""
        secret = self.code().secret
        begun = [self.begin(number, f"2001:db8::{number}", secret) for number in range(20)]
        self.assertEqual(begun.count(""), RUNS_PER_SUBNET)
        self.assertEqual(self.begin(30, "192.0.2.1", secret), "")

    def test_told(self) -> None:
        """That many addresses use up a code's runs is told its owner once, with addresses."""
        secret = self.code().secret
        with capturedLogs() as logs:
            for number in range(50):
                self.begin(number, f"192.0.2.{number // 3}", secret)
        (fields,) = (fields for event, fields in self.told if event == "busy")
        self.assertEqual(fields["hosts"], ["192.0.2.0", "192.0.2.1", "192.0.2.2"])
        said = [each for each in logs if "uses up the runs" in (each.get("log_format") or "")]
        self.assertEqual(len(said), 1)


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


class DiskTests(Base):
    """What becomes of a token is on disk before it counts."""

    def token_for(self, uses: int) -> Invitation:
        invitation = done(self.pairing.open_token(Role.MEMBER, uses, DAY))
        assert isinstance(invitation, Invitation)
        return invitation

    def channels(self) -> list[str]:
        """What a node that is killed now, and started again, has open."""
        pairing = self.pairing_with(maybeDeferred)
        done(pairing.load())
        return [each.channel for each, _ in pairing.open_ones()]

    def fail_to_remove(self) -> None:
        self.patch(self.home.tokens, "remove", lambda channel: fail(DatabaseError("no space")))

    def test_use(self) -> None:
        """The use of a machine is on disk before the machine is admitted."""
        invitation = self.token_for(1)
        written: list[Deferred[None]] = []

        def put(*arguments: Any) -> Deferred[None]:
            written.append(Deferred())
            return written[-1]

        self.patch(self.home.tokens, "put", put)
        guest = self.guest(1)
        self.assertEqual(guest.request(invitation.secret, self.home), "")
        guest.protocol.dataReceived(frame(guest.reply))
        self.assertEqual(len(written), 1)
        self.assertFalse(self.home.cluster.admission.admits(guest.link.remote_peer))
        written[0].callback(None)
        self.assertEqual(guest.answer(), "")
        self.assertTrue(self.home.cluster.admission.admits(guest.link.remote_peer))

    def test_use_not_kept(self) -> None:
        """A machine whose use the disk does not take is not admitted, and the use is free."""
        invitation = self.token_for(1)
        put = self.home.tokens.put
        self.patch(self.home.tokens, "put", lambda *_: fail(DatabaseError("the disk is full")))
        guest = self.guest(1)
        self.assertEqual(guest.request(invitation.secret, self.home), "")
        self.assertEqual(guest.confirm(), "failed")
        self.assertFalse(self.home.cluster.admission.admits(guest.link.remote_peer))
        self.assertEqual(len(self.flushLoggedErrors(DatabaseError)), 1)
        self.patch(self.home.tokens, "put", put)
        other = self.guest(2)
        self.assertEqual(other.request(invitation.secret, self.home), "")
        self.assertEqual(other.confirm(), "")

    def test_killed(self) -> None:
        """A node that is killed after an admission lets in no second machine by that token."""
        invitation = self.token_for(1)
        guest = self.guest(1)
        self.assertEqual(guest.request(invitation.secret, self.home), "")
        self.assertEqual(guest.confirm(), "")
        done(self.pairing_with(maybeDeferred).load())
        self.assertEqual(self.guest(2).request(invitation.secret, self.home), "used")

    def test_killed_before_the_admission(self) -> None:
        """One that is killed between the use and the admission has the use free again."""
        invitation = self.token_for(1)
        record = invitation.record()
        assert record is not None
        never = changed(record, machines=(str(key("guest1").peer_id),))
        self.home.tokens.kept[invitation.channel] = (never, Role.MEMBER)
        done(self.pairing_with(maybeDeferred).load())
        guest = self.guest(2)
        self.assertEqual(guest.request(invitation.secret, self.home), "")
        self.assertEqual(guest.confirm(), "")

    def test_withdrawn(self) -> None:
        """What is withdrawn is void at once, and the answer waits for the disk."""
        invitation = self.token_for(1)
        removed: Deferred[None] = Deferred()
        self.patch(self.home.tokens, "remove", lambda channel: removed)
        withdrawing = Deferred.fromCoroutine(self.pairing.withdraw(invitation.channel))
        self.assertFalse(invitation.open)
        self.assertNoResult(withdrawing)
        self.assertEqual(self.guest(1).request(invitation.secret, self.home), "no_channel")
        removed.callback(None)
        self.assertTrue(self.successResultOf(withdrawing))
        self.assertFalse(done(self.pairing.withdraw(invitation.channel)))

    def test_not_removed(self) -> None:
        """A token that the disk still has is told, and can be withdrawn once more."""
        invitation = self.token_for(1)
        remove = self.home.tokens.remove
        self.fail_to_remove()
        for _ in range(2):
            error = self.assertRaises(NotForgotten, done, self.pairing.withdraw(invitation.channel))
            self.assertIn("void now, but open again after a restart", str(error))
            self.assertIn("no space", str(error))
        self.assertFalse(invitation.open)
        self.assertEqual(self.voids(), ["it was withdrawn"])
        self.patch(self.home.tokens, "remove", remove)
        self.assertTrue(done(self.pairing.withdraw(invitation.channel)))
        self.assertEqual(self.channels(), [])

    def test_code(self) -> None:
        """A code that is withdrawn is void, and nobody waits for a disk that has nothing of it."""
        invitation = self.code()
        self.fail_to_remove()
        self.assertTrue(done(self.pairing.withdraw(invitation.channel)))
        self.assertFalse(invitation.open)
        self.assertEqual(self.voids(), ["it was withdrawn"])

    def test_withdrawn_while_used(self) -> None:
        """What is withdrawn while its use is written admits nobody, and is not written again."""
        invitation = self.token_for(2)
        put = self.home.tokens.put
        written: list[Deferred[None]] = []

        def slow(*arguments: Any) -> Deferred[None]:
            written.append(put(*arguments).addCallback(lambda _: Deferred()))
            return written[-1]

        self.patch(self.home.tokens, "put", slow)
        guest = self.guest(1)
        self.assertEqual(guest.request(invitation.secret, self.home), "")
        guest.protocol.dataReceived(frame(guest.reply))
        self.assertTrue(done(self.pairing.withdraw(invitation.channel)))
        chained: Any = written[0].result
        chained.callback(None)
        self.assertEqual(guest.answer(), "no_channel")
        self.assertFalse(self.home.cluster.admission.admits(guest.link.remote_peer))
        self.assertEqual((len(written), self.home.tokens.kept), (1, {}))

    def test_left(self) -> None:
        """A node that leaves waits until the disk has nothing of its tokens, or says so."""
        invitation = self.token_for(1)
        remove = self.home.tokens.remove
        self.fail_to_remove()
        with capturedLogs() as logs:
            done(self.home.cluster.forget())
        self.assertIn(invitation.channel, "".join(str(each.get("error")) for each in logs))
        error = self.assertRaises(NotForgotten, done, self.pairing.forget_void())
        self.assertIn(f"has left its cluster, but invitation {invitation.channel}", str(error))
        self.patch(self.home.tokens, "remove", remove)
        done(self.pairing.forget_void())
        self.assertEqual(self.home.tokens.kept, {})

    def test_other_cluster(self) -> None:
        """A token of a cluster that this node has left, or of none, lets nobody into another."""
        invitation = self.token_for(1)
        kept = dict(self.home.tokens.kept)
        self.assertEqual(self.channels(), [invitation.channel])
        done(self.home.cluster.forget())
        for number in range(3):
            self.home.tokens.kept.update(kept)
            if number == 1:
                self.home.found("another")
            elif number == 2:
                record, role = kept[invitation.channel]
                old = changed(record, cluster="")
                self.home.tokens.kept[invitation.channel] = (old, role)
            with capturedLogs() as logs:
                self.assertEqual(self.channels(), [])
            said = [str(each["error"]) for each in logs if "is void" in each["log_format"]]
            words = ("no admin of a cluster", "for another cluster", "an older Bzzz")[number]
            self.assertIn(words, "".join(said))
            self.assertEqual(self.home.tokens.kept, {})

    def test_no_admin_any_more(self) -> None:
        """Nor does a token of a node that was demoted while it was not running."""
        other = self.home.admit("ironwood", Role.ADMIN)
        invitation = done(other.pairing.open_token(Role.MEMBER, 1, DAY))
        kept = dict(other.tokens.kept)
        done(self.home.cluster.admit(other.peer_id, "ironwood", Role.MEMBER))
        self.home.news_to(other)
        self.assertFalse(invitation.open)
        other.tokens.kept.update(kept)
        done(other.pairing.load())
        self.assertEqual((other.pairing.open_ones(), other.tokens.kept), ([], {}))


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
