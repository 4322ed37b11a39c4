"""Whom a joiner asks, again or no more, and how it tells what came of it."""

from __future__ import annotations

import gc
from typing import Any

from bzzz.errors import DialError, LinkClosed, NegotiationError
from bzzz.net.link import NEGOTIATION_TIMEOUT
from bzzz.trust.cluster import ClusterError
from bzzz.trust.joining import JoinError
from bzzz.trust.joining_attempt import AGAIN, AT_ONCE, LOOK, OTHERS_SECONDS, SEARCH_SECONDS
from bzzz.trust.pairing import MAX_CONFIRMS
from tests.trust.candidates import ADDRESS, CODE, TOKEN, JoiningCase
from tests.trust.rosters import key


class SearchTests(JoiningCase):
    """A code alone: any peer that is discovered may be the inviter."""

    def test_joined(self) -> None:
        """The inviter is dialled and has its turn; all others are let go, and nothing is left."""
        other, inviter = self.peer("ironwood"), self.peer("walnut", linked=False)
        self.peer("acacia", linked=False)
        self.join()
        silent = other.answer()
        inviter.come_up()
        inviter.offer().admit()
        joined = self.result()
        self.assertEqual(
            (joined.cluster, joined.name, joined.by_name), ("homelab", "oak", "walnut")
        )
        self.assertEqual(joined.by, inviter.remote_peer)
        self.assertTrue(silent.over)
        self.assert_over()

    def test_dial_under_way(self) -> None:
        """A dial and a stream that are under way at the end are given up, and it is no failure."""
        self.peer("acacia", linked=False)
        opening = self.peer("ironwood")
        self.join()
        self.peer("walnut")
        self.wait(LOOK)
        self.network.links[key("walnut").peer_id].offer().admit()
        self.assertEqual(self.result().cluster, "homelab")
        self.assertEqual(opening.openings, [])
        self.assert_over()
        self.network.dials.clear()
        gc.collect()
        self.assertEqual(self.flushLoggedErrors(), [])

    def test_interrupted(self) -> None:
        """The same where the person does not wait, and another join can begin."""
        self.peer("acacia", linked=False)
        silent = self.peer("ironwood")
        work = self.join()
        silent.answer()
        work.cancel()
        self.assert_over()
        self.network.dials.clear()
        gc.collect()
        self.assertEqual(self.flushLoggedErrors(), [])
        self.results.clear()
        self.join()
        self.assertEqual(self.results, [])

    def test_nobody(self) -> None:
        """Where all who were asked have no such invitation, it is said to have been looked for."""
        first, second = self.peer("acacia"), self.peer("ironwood")
        self.join()
        first.answer().refuse("no_channel")
        second.refuse_stream(NegotiationError("it speaks none of them"))
        self.wait(SEARCH_SECONDS + LOOK)
        self.assertEqual(self.error().code, "inviter_not_found")
        self.assertIn("among 2 that were asked", str(self.error()))
        self.assertIn("or was the code used, or has it run out?", str(self.error()))
        self.assert_over()

    def test_who_said_more(self) -> None:
        """That a code was used is told in the end, when nobody else was found to have made it."""
        first, second = self.peer("acacia"), self.peer("ironwood")
        self.join()
        first.answer().refuse("no_channel")
        second.answer().refuse("used")
        self.wait(SEARCH_SECONDS - 1)
        self.assertEqual(self.results, [])
        self.wait(1 + LOOK)
        self.assertEqual(self.error().code, "used")

    def test_search_ends(self) -> None:
        """Nobody new is looked for after that time; who is being asked can still answer."""
        self.join()
        self.wait(SEARCH_SECONDS - 2 * LOOK)
        inviter = self.peer("walnut", linked=False)
        self.wait(2 * LOOK)
        late = self.peer("acacia")
        self.wait(1)
        inviter.come_up()
        self.wait(1)
        self.assertEqual((self.results, late.openings), ([], []))
        inviter.offer().admit()
        self.assertEqual(self.result().cluster, "homelab")

    def test_at_once(self) -> None:
        """Of hundreds so many are asked at one time, linked or not, and then the others."""
        peers = [self.peer(f"peer{number}", linked=number % 2 == 0) for number in range(200)]
        self.join()

        def asked() -> int:
            return len(self.network.dials) + sum(len(each.openings) for each in peers)

        self.assertEqual(asked(), AT_ONCE)
        peers[0].answer()
        self.wait(1)
        self.assertEqual(asked(), AT_ONCE - 1)
        peers[0].talks[0].refuse("no_channel")
        self.network.dials.pop()[1].errback(DialError("refused"))
        self.wait(LOOK)
        self.assertEqual(asked(), AT_ONCE)

    def test_hung_up(self) -> None:
        """Who hangs up before it was told anything is asked again."""
        inviter = self.peer("walnut")
        self.join()
        inviter.answer().hang_up()
        self.wait(AGAIN - LOOK)
        self.assertEqual(inviter.openings, [])
        self.wait(2 * LOOK)
        inviter.offer().admit()
        self.assertEqual(self.result().cluster, "homelab")

    def test_new_ones_first(self) -> None:
        """Who is asked again takes no place from who was not asked yet."""
        busy = [self.peer(f"peer{number}") for number in range(AT_ONCE)]
        self.join()
        for each in busy:
            each.answer().refuse("busy")
        self.wait(AGAIN - LOOK)
        inviters = [self.peer(f"new{number}") for number in range(AT_ONCE)]
        self.clock.advance(LOOK)
        self.assertEqual([len(each.openings) for each in inviters], [1] * AT_ONCE)

    def test_bad_name(self) -> None:
        """A name that no node can have is refused before anybody is asked."""
        for name in ("", "a b", "-", "x" * 64, "é"):
            work: Any = self.joining.join(CODE, name)
            self.assertRaises(JoinError, work.send, None)


class OthersTests(JoiningCase):
    """Somebody has the channel, and not the code."""

    def test_inviter_is_dialled(self) -> None:
        """A stranger that answers first ends nothing while another one is being dialled."""
        stranger, inviter = self.peer("ironwood"), self.peer("walnut", linked=False)
        self.join()
        stranger.offer(b"a guess").refuse("wrong_code")
        self.wait(5)
        self.assertEqual(self.results, [])
        inviter.come_up()
        self.wait(5)
        self.assertEqual(self.results, [])
        inviter.offer().admit()
        self.assertEqual(self.result().cluster, "homelab")

    def test_inviter_is_discovered(self) -> None:
        """One that is discovered a moment later is asked, too."""
        stranger = self.peer("ironwood")
        self.join()
        stranger.offer(b"a guess").refuse("wrong_code")
        self.wait(OTHERS_SECONDS - LOOK)
        inviter = self.peer("walnut")
        self.wait(LOOK)
        inviter.offer().admit()
        self.assertEqual(self.result().cluster, "homelab")

    def test_inviter_is_busy(self) -> None:
        """One that said that it is busy is asked again before it is over."""
        stranger, inviter = self.peer("ironwood"), self.peer("walnut")
        self.join()
        inviter.answer().refuse("busy")
        stranger.offer(b"a guess").refuse("wrong_code")
        self.wait(AGAIN)
        inviter.offer().admit()
        self.assertEqual(self.result().cluster, "homelab")

    def test_wrong_code(self) -> None:
        """A wrong code is told soon after, when nobody is left to be asked."""
        inviter, other = self.peer("walnut"), self.peer("ironwood")
        self.join()
        inviter.offer(b"another").refuse("wrong_code")
        self.wait(2 * OTHERS_SECONDS)
        self.assertEqual(self.results, [])
        other.answer().refuse("no_channel")
        self.wait(LOOK)
        self.assertEqual(self.error().code, "wrong_code")
        self.assert_over()

    def test_guesses(self) -> None:
        """No more than so many are told message 3, whatever they say to it, or nothing."""
        peers = [self.peer(f"peer{number}") for number in range(MAX_CONFIRMS + 2)]
        self.join()
        talks = [each.offer(b"a guess") for each in peers]
        self.assertEqual([each.told for each in talks], [True, False, False, False, False])
        talks[0].refuse("busy")
        talks[1].hear(talks[1].guess())
        talks[2].hang_up()
        self.assertEqual([each.told for each in talks[1:]], [True, True, False, False])
        self.assertEqual(self.error().code, "cut_off")
        self.assertTrue(all(each.over for each in talks))
        self.assert_over()

    def test_not_taken(self) -> None:
        """When the right one's roster cannot be taken, nobody else is told message 3."""
        inviter, other = self.peer("walnut"), self.peer("ironwood")
        self.cluster.error = ClusterError("not_a_roster", "this node is not on it")
        self.join()
        first, second = inviter.offer(), other.offer(b"a guess")
        first.admit()
        self.assertEqual(self.error().code, "not_a_roster")
        self.assertFalse(second.told)
        self.assert_over()


class OneInviterTests(JoiningCase):
    """A token, or an address: one peer alone can be the inviter."""

    def test_token(self) -> None:
        """Nobody but the token's inviter is asked."""
        other, inviter = self.peer("ironwood"), self.peer("walnut")
        self.join(TOKEN)
        self.assertEqual(other.openings, [])
        inviter.offer(TOKEN.password).admit()
        self.assertEqual(self.result().cluster, "homelab")

    def test_busy(self) -> None:
        """An inviter that is busy is asked again, over the link that is there."""
        for at in ((), (ADDRESS,)):
            for secret in (TOKEN, CODE):
                self.setUp()
                inviter = self.peer("walnut", linked=not at)
                said: list[str] = []
                self.join(secret, at, lambda event, said=said, **fields: said.append(event))
                if at:
                    inviter.come_up()
                for _ in range(3):
                    inviter.answer().refuse("busy")
                    self.assertEqual((self.results, inviter.openings), ([], []))
                    self.wait(AGAIN)
                    self.assertEqual(self.network.dials, [])
                inviter.offer(secret.password).admit()
                self.assertEqual(self.result().cluster, "homelab")
                self.assertEqual(said, ["looking", *["asking"] * 4, "found"])
                self.assert_over()

    def test_always_busy(self) -> None:
        """In the end it is said to be busy, not to be nowhere."""
        inviter = self.peer("walnut")
        self.join(TOKEN)
        for _ in range(int(SEARCH_SECONDS / LOOK) + 2):
            if inviter.openings:
                inviter.answer().refuse("busy")
            self.wait(LOOK)
        self.assertEqual(self.error().code, "busy")
        self.assertLess(len(inviter.talks), SEARCH_SECONDS / AGAIN + 1)
        self.assertGreaterEqual(self.clock.seconds(), SEARCH_SECONDS)
        self.assert_over()

    def test_link_breaks(self) -> None:
        """A link that breaks while the stream is opened is made again."""
        inviter = self.peer("walnut")
        self.join(TOKEN)
        inviter.closed = True
        inviter.refuse_stream(LinkClosed("the link is closed"))
        self.assertEqual((self.results, self.network.held), ([], set()))
        self.wait(AGAIN)
        inviter.closed = False
        inviter.come_up()
        inviter.offer(TOKEN.password).admit()
        self.assertEqual(self.result().cluster, "homelab")

    def test_link_always_breaks(self) -> None:
        """In the end its own words are told, and not that the peer is in no cluster."""
        inviter = self.peer("walnut", linked=False)
        self.join(CODE, (ADDRESS,))
        inviter.come_up()
        for _ in range(int(SEARCH_SECONDS / LOOK) + 2):
            if inviter.openings:
                inviter.refuse_stream(LinkClosed("the cable is out"))
            self.wait(LOOK)
        self.assertEqual(self.error().code, "not_asked")
        self.assertIn("could not be asked: the cable is out; try again", str(self.error()))

    def test_late(self) -> None:
        """A peer that does not answer the proposal in time is asked again, too."""
        inviter = self.peer("walnut")
        self.join(TOKEN)
        self.wait(NEGOTIATION_TIMEOUT)
        inviter.refuse_stream(NegotiationError("the peer did not answer in time"))
        self.wait(AGAIN)
        inviter.offer(TOKEN.password).admit()
        self.assertEqual(self.result().cluster, "homelab")

    def test_no_member(self) -> None:
        """A peer that does not speak the protocol is in no cluster, which is told at once."""
        inviter = self.peer("walnut")
        self.join(TOKEN)
        inviter.refuse_stream(NegotiationError("it speaks none of them"))
        self.assertEqual(self.error().code, "not_a_member")
        self.assert_over()

    def test_refused(self) -> None:
        """Any other refusal ends it at once, before message 3 and after."""
        for code, step in (("no_channel", 1), ("used", 3)):
            self.setUp()
            inviter = self.peer("walnut")
            self.join(TOKEN)
            talk = inviter.answer()
            if step == 3:
                talk.offer(TOKEN.password)
            talk.refuse(code)
            self.assertEqual(self.error().code, code)
            self.assert_over()

    def test_unreachable(self) -> None:
        """An address where nobody is, is said to be one at once."""
        self.join(CODE, (ADDRESS,))
        self.network.dials.pop()[1].errback(DialError("refused"))
        self.assertEqual(self.error().code, "unreachable")
        self.assert_over()
