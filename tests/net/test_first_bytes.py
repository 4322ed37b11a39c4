"""What comes before it is known whose link it is, and with the last bytes of the handshake."""

from __future__ import annotations

from typing import Any

from twisted.internet.protocol import Factory

from bzzz.net.link import LEAST_READ, MAX_UNPROVED
from bzzz.net.swarm_limits import SwarmLimits
from bzzz.wire.connection import StreamData, StreamNegotiated, StreamRefused
from bzzz.wire.multistream import HEADER, encode_line
from tests.net.swarms import Echo, Keeper, RawCase, always


class SameReadTests(RawCase):
    """Streams that are opened in the bytes that end the handshake."""

    def setUp(self) -> None:
        super().setUp()
        self.heard = Keeper()
        factory = Factory()
        factory.noisy = False
        factory.buildProtocol = always(self.heard)  # type: ignore[method-assign]  # for this test
        self.swarm.handle("/work", factory)
        self.swarm.handle("/pair", Factory.forProtocol(Echo), guests=True)

    def work(self) -> list[Any]:
        self.handshake()
        stream = self.peer.open_stream(["/work"])
        self.peer.send_data(stream, b"do this")
        return self.send()

    def test_guest(self) -> None:
        """A guest's are judged by who it proved to be, so that it finds no protocol of members."""
        events = self.work()
        self.assertEqual(self.heard.data, b"")
        self.assertIsNone(self.heard.transport)
        self.assertEqual([type(event) for event in events], [StreamRefused])
        self.assertEqual(list(self.swarm.guests), [self.key.peer_id])

    def test_guest_may(self) -> None:
        """What is for guests is answered at once."""
        self.handshake()
        stream = self.peer.open_stream(["/pair"])
        self.peer.send_data(stream, b"hello")
        events = self.send()
        self.assertEqual([type(event) for event in events], [StreamNegotiated, StreamData])

    def test_member(self) -> None:
        """So is all that a member says."""
        self.gate.members.add(self.key.peer_id)
        self.work()
        self.assertEqual(self.heard.data, b"do this")

    def test_admitted_since(self) -> None:
        """Who is admitted while its handshake is under way is a member when that is done."""
        self.handshake()
        self.gate.members.add(self.key.peer_id)
        stream = self.peer.open_stream(["/work"])
        self.peer.send_data(stream, b"do this")
        self.send()
        self.assertEqual(self.heard.data, b"do this")

    def test_one_link_too_many(self) -> None:
        """Of a link that is not kept nothing is taken but what anybody may say."""
        self.gate.members.add(self.key.peer_id)
        self.swarm.limits = SwarmLimits(links=0)
        self.work()
        self.assertEqual((self.swarm.links, self.heard.data), ({}, b""))
        self.assertTrue(self.wire.half_closed)

    def test_list(self) -> None:
        """Who asks for the list of protocols is told of those that it can speak."""
        for members, spoken in (
            ([], {"/work": False, "/pair": True}),
            (
                [self.key.peer_id],
                {"/work": True, "/pair": True},
            ),
        ):
            self.gate.members.update(members)
            self.connect()
            self.handshake()
            self.peer.open_stream(["ls"])
            # To the one who proposes it the list is no answer, and it says what that was.
            (refused,) = (each for each in self.send() if isinstance(each, StreamRefused))
            self.assertEqual({name: name in refused.reason for name in spoken}, spoken)

    def test_revoked_between(self) -> None:
        """The frame that has the gate closed is the last one that is acted on."""
        self.gate.members.add(self.key.peer_id)
        revoking = Keeper()

        def revoke(data: bytes) -> None:
            revoking.data += data
            self.gate.members.clear()
            self.swarm.gate_changed()

        self.patch(revoking, "dataReceived", revoke)
        factory = Factory()
        factory.buildProtocol = always(revoking)  # type: ignore[method-assign]  # for this test
        self.swarm.handle("/roster", factory)
        self.handshake()
        self.send()
        first, second = self.peer.open_stream(["/roster"]), self.peer.open_stream(["/work"])
        self.send()
        self.peer.send_data(first, b"out")
        self.peer.send_data(second, b"do this")
        self.peer.send_data(first, b"more")
        self.link.dataReceived(self.peer.data_to_send())
        self.assertEqual((revoking.data, self.heard.data), (b"out", b""))
        self.assertTrue(self.wire.aborted and self.link.closed)
        self.assertEqual(self.swarm.links, {})
        self.assertIsNotNone(self.heard.lost)
        self.link.dataReceived(b"anything")
        self.lose()


class UnprovedTests(RawCase):
    """How much is read of somebody who has not proved who it is."""

    def feed(self, data: bytes, size: int) -> int:
        """Send ``data`` in pieces of ``size``; how many bytes it took until the end."""
        for start in range(0, len(data), size):
            self.link.dataReceived(data[start : start + size])
            if self.wire.aborted:
                return start + size
        return 0

    def test_proposals(self) -> None:
        """Whoever only proposes protocols is thrown out long before it has used up all lines."""
        line = encode_line("/" + "x" * 1000)
        self.assertGreater(100 * len(line), 4 * MAX_UNPROVED)
        sent = self.feed(encode_line(HEADER) + line * 100, 700)
        self.assertIn(sent, range(MAX_UNPROVED, MAX_UNPROVED + 701))

    def test_small_pieces(self) -> None:
        """Many reads cost as much as many bytes."""
        sent = self.feed(encode_line(HEADER) + encode_line("/" + "x" * 900), 1)
        self.assertEqual(sent, MAX_UNPROVED // LEAST_READ + 1)

    def test_honest(self) -> None:
        """A handshake of the usual size is done, in small pieces too."""
        self.gate.members.add(self.key.peer_id)
        for _ in range(6):
            data = self.peer.data_to_send()
            self.assertLess(len(data), MAX_UNPROVED // 32)
            for start in range(0, len(data), 20):
                self.link.dataReceived(data[start : start + 20])
            self.hear()
        self.assertEqual(list(self.swarm.links), [self.key.peer_id])

    def test_much_with_the_proof(self) -> None:
        """What follows the proof in the same read is not counted."""
        self.gate.members.add(self.key.peer_id)
        self.swarm.handle("/sink", Factory.forProtocol(Keeper))
        self.handshake()
        stream = self.peer.open_stream(["/sink"])
        self.peer.send_data(stream, bytes(2 * MAX_UNPROVED))
        self.send()
        self.assertFalse(self.wire.aborted)
        self.assertEqual(list(self.swarm.links), [self.key.peer_id])

    def test_over(self) -> None:
        """Nothing is left of one that was thrown out."""
        self.feed(encode_line(HEADER) + encode_line("/x") * 99, 1)
        self.assertTrue(self.wire.aborted)
        self.lose()
        self.assertEqual(self.swarm.pending_handshakes, 0)
        self.assertEqual(self.clock.getDelayedCalls(), [])
