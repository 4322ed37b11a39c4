"""What a joiner lets a peer say before the peer's turn, and how the turns go on."""

from __future__ import annotations

from bzzz.trust.joining_attempt import AGAIN, AT_ONCE, LOOK
from bzzz.trust.joining_run import ANSWER_SECONDS, TURN_SECONDS
from bzzz.trust.pairing import MAX_CONFIRMS, MAX_MESSAGE, MAX_ROSTER
from bzzz.wire import varint
from tests.trust.candidates import CODE, JoiningCase, Talk


class TurnTests(JoiningCase):
    """Several peers have the channel at one time."""

    def occupied(self) -> Talk:
        """Somebody has its turn, and says nothing."""
        peer = self.peer("acacia")
        self.join()
        talk = peer.offer(b"a guess")
        self.assertTrue(talk.told)
        return talk

    def test_guess_before_its_turn(self) -> None:
        """Who sends message 4 before message 3 is not judged, be its guess right or wrong."""
        self.occupied()
        for number, password in enumerate([b"a guess", CODE.password] * MAX_CONFIRMS):
            peer = self.peer(f"peer{number}")
            self.wait(LOOK)
            talk = peer.offer(password)
            talk.hear(talk.guess())
            self.assertTrue(talk.over)
            self.assertFalse(talk.told)
        self.assertEqual(self.results, [])

    def test_wrong_guesses_count(self) -> None:
        """A guess that comes with its turn is one of so many, and then the search is over."""
        self.join()
        for number in range(MAX_CONFIRMS):
            self.assertEqual(self.results, [])
            peer = self.peer(f"peer{number}")
            self.wait(LOOK)
            talk = peer.offer(b"a guess")
            talk.hear(talk.guess())
        self.assertEqual(self.error().code, "pair_wrong_confirm")

    def test_after_the_holder(self) -> None:
        """When the turn of one is over the next one has it, in the order in which they came."""
        holder = self.occupied()
        peers = [self.peer("ironwood"), self.peer("walnut")]
        self.wait(LOOK)
        second, third = [each.offer() for each in peers]
        holder.refuse("wrong_code")
        self.assertEqual((second.told, third.told), (True, False))
        second.admit()
        self.assertEqual(self.result().by, peers[0].remote_peer)

    def test_many_that_hang_up(self) -> None:
        """However many have waited and are gone, the one that is there has the next turn."""
        holder = self.occupied()
        for count in range(int(ANSWER_SECONDS / LOOK) - 2):
            self.found.clear()
            peers = [self.peer(f"peer{count}-{number}") for number in range(AT_ONCE - 1)]
            self.wait(LOOK)
            for each in peers:
                each.offer(b"a guess").hang_up()
        self.found.clear()
        inviter = self.peer("walnut")
        self.wait(LOOK)
        talk = inviter.offer()
        holder.hang_up()
        talk.admit()
        self.assertEqual(self.result().cluster, "homelab")

    def test_silent_holder(self) -> None:
        """Who has its turn and says nothing loses it, and those that waited are asked again."""
        holder = self.occupied()
        inviter = self.peer("walnut")
        self.wait(LOOK)
        talk = inviter.offer()
        self.wait(TURN_SECONDS - LOOK)
        self.assertFalse(talk.over)
        self.wait(LOOK)
        self.assertTrue(talk.over)
        self.assertFalse(talk.told)
        self.wait(AGAIN)
        again = inviter.offer()
        self.assertFalse(again.told)
        self.wait(ANSWER_SECONDS - TURN_SECONDS - AGAIN)
        self.assertTrue(holder.over)
        again.admit()
        self.assertEqual(self.result().cluster, "homelab")
        self.assert_over()

    def test_silent_peers(self) -> None:
        """Who does not answer message 1 in time makes room for others."""
        peers = [self.peer(f"peer{number}") for number in range(AT_ONCE)]
        self.join()
        talks = [each.answer() for each in peers]
        inviter = self.peer("walnut")
        self.wait(ANSWER_SECONDS - LOOK)
        self.assertEqual(inviter.openings, [])
        self.wait(2 * LOOK)
        self.assertTrue(all(each.over for each in talks))
        inviter.offer().admit()
        self.assertEqual(self.result().cluster, "homelab")


class MemoryTests(JoiningCase):
    """What a peer may send."""

    def test_before_message_3(self) -> None:
        """Of a roster not even a part is kept while the peer waits for its turn."""
        first, second = self.peer("acacia"), self.peer("walnut")
        self.join()
        first.offer(b"a guess")
        talk = second.offer()
        talk.hear(varint.encode(MAX_ROSTER) + b" " * (MAX_MESSAGE - 10))
        self.assertFalse(talk.over)
        talk.hear(b" " * 20)
        self.assertTrue(talk.over)

    def test_after_message_3(self) -> None:
        """When it was told message 3 it may send one, in pieces."""
        peer = self.peer("walnut")
        self.join()
        talk = peer.offer()
        message = talk.guess()
        self.assertTrue(talk.told)
        for place in range(0, len(message), 7):
            talk.hear(message[place : place + 7])
        self.assertEqual(self.result().cluster, "homelab")
        peer.talks.clear()

        self.setUp()
        peer = self.peer("walnut")
        self.join()
        talk = peer.offer()
        talk.hear(varint.encode(MAX_ROSTER) + b" " * (MAX_MESSAGE * 10))
        self.assertFalse(talk.over)
        talk.hang_up()

    def test_too_long(self) -> None:
        """A roster above the cap is refused when it is announced, and is a guess."""
        peer = self.peer("walnut")
        self.join()
        talk = peer.offer()
        talk.hear(varint.encode(MAX_ROSTER + 1))
        self.assertTrue(talk.over)
        self.wait(2)
        self.assertEqual(self.error().code, "message_too_long")
