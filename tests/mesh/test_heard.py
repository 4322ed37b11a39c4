"""What peers said last, within caps."""

from __future__ import annotations

import datetime

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from bzzz.identity.peer_id import PeerID
from bzzz.mesh import heard as module
from bzzz.mesh.availability import AvailabilityDocument
from bzzz.mesh.capability import CapabilityDocument
from bzzz.mesh.heard import BELIEVE_AFTER, Heard
from bzzz.mesh.messages import AVAILABILITY, CAPABILITY, Document, Received

START = datetime.datetime(2026, 11, 24, tzinfo=datetime.UTC)


def peer(number: int) -> PeerID:
    return PeerID(b"\x00\x24\x08\x01\x12\x20" + number.to_bytes(32, "big"))


class HeardTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.heard = Heard(lambda: 1000.0 + self.clock.seconds(), self.clock)
        self.linked: tuple[PeerID, ...] = ()

    def say(
        self, number: int, name: str, at: float = 0.0, size: int = 500
    ) -> tuple[Document | None, bool]:
        document = CapabilityDocument(node_id=str(peer(number)), name=name)
        moment = START + datetime.timedelta(seconds=at)
        received = Received(CAPABILITY, peer(number), moment, document, size)
        return self.heard.keep(received, document, self.linked)

    def name(self, number: int) -> str | None:
        document = self.heard.documents.get(peer(number))
        return None if document is None else document.name

    def test_newest(self) -> None:
        """The newest counts, by the times that the peer says; of equal ones the last to come."""
        self.assertEqual(self.say(1, "a", at=5), (None, True))
        before, kept = self.say(1, "b", at=4)
        self.assertEqual((kept, self.name(1)), (False, "a"))
        self.say(1, "c", at=5)
        self.assertEqual(self.name(1), "c")
        before, kept = self.say(1, "d", at=6)
        assert isinstance(before, CapabilityDocument)
        self.assertEqual((before.name, kept, self.name(1)), ("c", True, "d"))

    def test_clock_set_back(self) -> None:
        """A peer whose clock was set back is believed again after a while, not never."""
        self.say(1, "future", at=1e6)
        self.clock.advance(BELIEVE_AFTER - 1)
        self.say(1, "now", at=0)
        self.assertEqual(self.name(1), "future")
        self.clock.advance(2)
        self.say(1, "now", at=2)
        self.assertEqual(self.name(1), "now")

    def test_kinds_are_apart(self) -> None:
        """A newer availability does not make an older capability document old."""
        document = AvailabilityDocument(node_id=str(peer(1)), status="ready")
        later = START + datetime.timedelta(seconds=9)
        self.heard.keep(Received(AVAILABILITY, peer(1), later, document, 300), document, ())
        self.assertEqual(self.say(1, "a"), (None, True))
        self.assertEqual(self.heard.availabilities, {peer(1): document})
        self.assertEqual(len(self.heard), 1)

    def test_when(self) -> None:
        """When it was received is told by this node's clock."""
        self.clock.advance(7)
        self.say(1, "a")
        self.assertEqual(self.heard.received_at(peer(1)), 1007.0)
        self.assertIsNone(self.heard.received_at(peer(1), AvailabilityDocument))

    def test_forget(self) -> None:
        """What is forgotten leaves nothing behind."""
        self.say(1, "a")
        self.heard.forget(peer(1))
        self.heard.forget(peer(2))
        self.assertEqual((self.heard.documents, len(self.heard), self.heard.bytes), ({}, 0, 0))

    def test_cap_of_peers(self) -> None:
        """The peer heard longest ago goes first, unless it is linked."""
        self.patch(module, "MAX_PEERS", 3)
        self.linked = (peer(1),)
        for number in (1, 2, 3):
            self.say(number, "x")
        self.say(2, "again", at=1)
        self.assertEqual(self.say(4, "x"), (None, True))
        self.assertEqual(set(self.heard.documents), {peer(1), peer(2), peer(4)})

    def test_cap_of_bytes(self) -> None:
        """So it does when all of them take too much."""
        self.patch(module, "MAX_BYTES", 10_000)
        for number in range(1, 5):
            self.assertEqual(self.say(number, "x", size=3000), (None, True))
        self.assertEqual(set(self.heard.documents), {peer(3), peer(4)})
        self.assertLessEqual(self.heard.bytes, 10_000)

    def test_all_linked(self) -> None:
        """Among linked peers nobody has to go for another."""
        self.patch(module, "MAX_PEERS", 2)
        self.linked = (peer(1), peer(2))
        self.say(1, "x")
        self.say(2, "x")
        self.assertEqual(self.say(3, "x"), (None, False))
        self.assertEqual(set(self.heard.documents), {peer(1), peer(2)})
