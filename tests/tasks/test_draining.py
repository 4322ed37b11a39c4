"""Draining: this node, and others that take no tasks because an admin wants it so."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from bzzz.mesh.availability import Availability
from bzzz.tasks.draining import Draining, NotDrained
from bzzz.tasks.messages import Answer, Done, Drain, Failed, Refused, TaskCodec
from tests.tasks.fakes import FakePeers, name, peer

NAMES = {name(each): each for each in ("walnut", "ironwood", "acacia")}


class DrainingTests(SynchronousTestCase):
    """Walnut, where an owner drains, and whom ironwood, an admin, and acacia, who is none, ask."""

    def setUp(self) -> None:
        self.availability = Availability(2, lambda: 0.0)
        self.peers = FakePeers("ironwood", "acacia")
        self.recorded: list[tuple[str, dict[str, Any]]] = []
        self.draining = Draining(
            peer("walnut"),
            self.availability,
            self.peers,
            lambda asker: asker == peer("ironwood"),
            lambda each: NAMES[each],
            lambda event, **fields: self.recorded.append((event, fields)),
        )

    def ask(self, on: bool = True, user: str = "ada") -> Deferred[None]:
        return Deferred.fromCoroutine(self.draining.ask(peer("ironwood"), on, user))

    def answered(self, answer: Answer, on: bool = True) -> str:
        """What is said when ironwood answers so."""
        asking = self.ask(on)
        [asked] = self.peers.take(Drain)
        asked.answer.callback(answer)
        failed = self.failureResultOf(asking, NotDrained).value
        self.assertEqual(failed.code, "drain_refused")
        return str(failed)

    def test_own(self) -> None:
        """This node's owner needs nobody's right."""
        for on, status in ((True, "draining"), (False, "ready")):
            own = Deferred.fromCoroutine(self.draining.ask(peer("walnut"), on, ""))
            self.successResultOf(own)
            self.assertEqual(self.availability.status, status)
        self.assertEqual((self.peers.asked, self.recorded), ([], []))

    def test_other(self) -> None:
        """Another member is asked, with who wants it, and what it did is waited for."""
        for on in (True, False):
            asking = self.ask(on)
            self.assertNoResult(asking)
            [asked] = self.peers.take(Drain)
            self.assertEqual((asked.peer, asked.request), (peer("ironwood"), Drain(on, "ada")))
            asked.answer.callback(Done())
            self.successResultOf(asking)
        self.assertEqual(self.availability.status, "ready")

    def test_refused(self) -> None:
        """Its reason is told, whatever kind of refusal it is."""
        self.assertEqual(self.answered(Refused("no")), "ironwood refuses: no")
        self.assertEqual(self.answered(Failed("no"), False), "ironwood refuses: no")

    def test_not_linked(self) -> None:
        """Who cannot be asked was not drained, and what to do instead is told."""
        self.peers.gone.add(peer("ironwood"))
        failed = self.failureResultOf(self.ask(False), NotDrained).value
        self.assertEqual(failed.code, "not_linked")
        self.assertIn("ironwood is not linked", str(failed))
        self.assertIn("on ironwood itself: bzzz undrain", str(failed))

    def test_lost(self) -> None:
        """Where no answer came it is not known, and nobody is told otherwise."""
        asking = self.ask()
        self.peers.lose()
        failed = self.failureResultOf(asking, NotDrained).value
        self.assertEqual(failed.code, "unknown")
        self.assertIn("bzzz capabilities ironwood", str(failed))

    def test_user(self) -> None:
        """A user's name, whatever it is, is one that the other member can read."""
        codec = TaskCodec()
        for user in ("x" * 500, "\x1b[2J" * 40, "\u202e"):
            self.ask(user=user)
            [asked] = self.peers.take(Drain)
            frame = codec.join([(1, codec.encode(asked.request))])
            self.assertEqual(codec.read_requests(frame), [(1, asked.request)])

    def test_asked(self) -> None:
        """An admin is obeyed, and the audit log has who wanted it."""
        for on, status, event in ((True, "draining", "drained"), (False, "ready", "undrained")):
            answer = self.draining.asked(peer("ironwood"), Drain(on, "eve"))
            self.assertEqual((answer, self.availability.status), (Done(), status))
            said = {"peer_id": name("ironwood"), "name": "ironwood", "user": "eve"}
            self.assertEqual(self.recorded.pop(), (event, said))
        self.assertEqual(self.recorded, [])

    def test_wish(self) -> None:
        """Whose wish it is is known: of the first who wished it, until somebody ends it."""
        self.assertIsNone(self.draining.wish)
        self.draining.asked(peer("acacia"), Drain(True, "eve"))
        self.assertIsNone(self.draining.wish)
        self.draining.asked(peer("ironwood"), Drain(True, "ada"))
        own = self.draining.ask(peer("walnut"), True, "bob")
        self.successResultOf(Deferred.fromCoroutine(own))
        self.assertEqual(self.draining.wish, (name("ironwood"), "ada"))
        self.draining.asked(peer("ironwood"), Drain(False, "ada"))
        self.assertIsNone(self.draining.wish)
        own = self.draining.ask(peer("walnut"), True, "bob")
        self.successResultOf(Deferred.fromCoroutine(own))
        self.assertEqual(self.draining.wish, (name("walnut"), "bob"))

    def test_asked_by_no_admin(self) -> None:
        """Nobody else is, nor can end what an admin wanted; that is recorded, too."""
        self.draining.asked(peer("ironwood"), Drain(True))
        for on, command in ((True, "drain"), (False, "undrain")):
            answer = self.draining.asked(peer("acacia"), Drain(on, "eve"))
            assert isinstance(answer, Refused)
            self.assertTrue(answer.for_good)
            self.assertIn("acacia is no admin of the cluster", answer.reason)
            self.assertIn(f"On walnut itself: bzzz {command}", answer.reason)
            self.assertEqual(self.availability.status, "draining")
        self.assertEqual([event for event, _ in self.recorded], ["drained", *["drain_refused"] * 2])

    def test_node_that_ends(self) -> None:
        """A node that is to end takes nothing, whoever wants it; one that stays does as before."""
        self.availability.leave()
        self.draining.asked(peer("ironwood"), Drain(False))
        self.assertEqual(self.availability.status, "draining")
        self.availability.stay()
        self.assertEqual(self.availability.status, "ready")
        self.draining.asked(peer("ironwood"), Drain(True))
        self.availability.leave()
        self.availability.stay()
        self.assertEqual(self.availability.status, "draining")
