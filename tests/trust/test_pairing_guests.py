"""What guests can do to the pairing of others: they have so many runs, and each its own alone."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from bzzz.identity.keys import PrivateKey
from bzzz.trust.invitations import Invitation
from bzzz.trust.pairing import PROTOCOL, Joiner
from bzzz.trust.pairing_streams import MAX_RUNS, STEP_SECONDS, Pairing
from bzzz.trust.statements import Role
from bzzz.wire.framing import FrameReader, frame
from tests.trust.guests import GuestLink, Guests, Talk, TrustedCluster
from tests.trust.rosters import found, key, roster_of


class Administered(TrustedCluster):
    """A cluster of which this node is an admin."""

    def administered(self) -> None:
        """It is."""

    def on_change(self, callback: object) -> None:
        """It never changes."""


def fixed_bytes(size: int) -> bytes:
    return bytes(range(1, size + 1))


class PairingGuestsTests(SynchronousTestCase):
    """A node with a code that is open."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.swarm = Guests(self.clock)
        cluster: Any = Administered(key("walnut").peer_id, roster_of(found("walnut")))
        swarm: Any = self.swarm
        self.pairing = Pairing(
            *(swarm, cluster, object()),  # type: ignore[arg-type]  # codes are not kept
            *(self.clock, self.clock.seconds, fixed_bytes),
            lambda work: succeed(work()),
        )
        opening = self.pairing.open_code(Role.MEMBER, lambda event, **fields: None)
        self.code: Invitation = self.successResultOf(Deferred.fromCoroutine(opening))
        self.addCleanup(self.pairing.stop)

    def begin(self, link: GuestLink) -> Talk:
        """A joiner that has the code says its first message."""
        joiner = Joiner(
            link.remote_peer,
            key("walnut").peer_id,
            self.code.channel,
            self.code.secret.password,
            "acacia",
            link.handshake_hash,
            fixed_bytes,
        )
        talk = link.talk(PROTOCOL)
        talk.hear(frame(joiner.begin()))
        return talk

    def test_one_run_of_a_guest(self) -> None:
        """A guest that opens many streams leaves room for others."""
        mallory = GuestLink(self.swarm, key("mallory").peer_id)
        talks = [mallory.talk(PROTOCOL) for _ in range(2 * MAX_RUNS)]
        self.assertEqual([talk.over for talk in talks], [False] + [True] * (2 * MAX_RUNS - 1))
        talk = self.begin(GuestLink(self.swarm, key("acacia").peer_id))
        self.assertIn(b"spake", FrameReader(1000).receive(talk.said)[0])

    def test_second_stream(self) -> None:
        """One more stream does not end the time that a guest has for its pairing."""
        link = GuestLink(self.swarm, key("acacia").peer_id)
        talk = self.begin(link)
        self.assertTrue(link.held)
        self.assertTrue(link.talk(PROTOCOL).over)
        self.assertTrue(link.held)
        talk.hang_up()
        self.assertFalse(link.held)
        self.assertFalse(link.talk(PROTOCOL).over)

    def test_runs(self) -> None:
        """So many may be under way, each for as long as a step may take."""
        peers = [PrivateKey.from_seed(bytes([each]) * 32).peer_id for each in range(MAX_RUNS + 1)]
        talks = [GuestLink(self.swarm, peer).talk(PROTOCOL) for peer in peers]
        self.assertEqual([talk.over for talk in talks], [False] * MAX_RUNS + [True])
        self.clock.advance(STEP_SECONDS)
        self.assertEqual({talk.over for talk in talks}, {True})
