"""The other members, as placement sees them."""

from __future__ import annotations

import msgspec
from twisted.trial.unittest import SynchronousTestCase

from bzzz.identity.peer_id import PeerID
from bzzz.mesh.availability import AvailabilityDocument, FreeRoom
from bzzz.mesh.capability import EVERYTHING, CapabilityDocument, OwnerRules
from bzzz.tasks.candidates import Candidates
from bzzz.tasks.slots import Room
from tests.tasks.fakes import name, peer
from tests.tasks.test_placement import GIB, facts


class CandidatesTests(SynchronousTestCase):
    """Acacia, of 4 cores and 8 GiB."""

    def setUp(self) -> None:
        self.linked = {peer("acacia")}
        self.documents: dict[PeerID, CapabilityDocument] = {peer("acacia"): facts().document}
        self.said = {
            peer("acacia"): AvailabilityDocument(
                node_id=name("acacia"), status="working", current_tasks=1, max_tasks=3
            )
        }
        self.candidates = Candidates(
            lambda: self.linked,
            lambda: self.documents,
            lambda: self.said,
            lambda each: each == peer("acacia"),
            lambda each: {name("acacia"): "acacia"}.get(each, "?"),
        )

    def change(self, **said: object) -> None:
        self.said[peer("acacia")] = msgspec.structs.replace(self.said[peer("acacia")], **said)

    def rule(self, rules: OwnerRules) -> None:
        document = self.documents[peer("acacia")]
        self.documents[peer("acacia")] = msgspec.structs.replace(document, rules=rules)

    def test_unknown(self) -> None:
        """Nobody who is not linked, or has not said yet what it can do and how busy it is."""
        self.assertIsNone(self.candidates.describe(name("walnut")))
        document = self.documents.pop(peer("acacia"))
        self.assertIsNone(self.candidates.describe(name("acacia")))
        self.documents[peer("acacia")] = document
        said = self.said.pop(peer("acacia"))
        self.assertIsNone(self.candidates.describe(name("acacia")))
        self.said[peer("acacia")] = said
        self.assertIsNotNone(self.candidates.describe(name("acacia")))
        self.linked.clear()
        self.assertIsNone(self.candidates.describe(name("acacia")))

    def test_without_room(self) -> None:
        """Of one that does not tell what is free, all that it offers is, but for its tasks."""
        found = self.candidates.describe(name("acacia"))
        assert found is not None
        self.assertEqual((found.name, found.may_run, found.draining), ("acacia", True, False))
        self.assertEqual(found.room, Room(4.0, 8 * GIB, 0, 2))
        self.assertIs(found.rules, EVERYTHING)
        self.rule(OwnerRules(cpus=1.5))
        found = self.candidates.describe(name("acacia"))
        assert found is not None
        self.assertEqual(found.room, Room(1.5, 8 * GIB, 0, 2))
        self.assertEqual(found.offered, Room(1.5, 8 * GIB, 0, 3))

    def test_rules(self) -> None:
        """The rules that its owner has told are the candidate's, and no others after a change."""
        rules = OwnerRules(forbidden_commands=("make",))
        self.rule(rules)
        self.change(room=FreeRoom(cpus=1.0, memory_bytes=GIB), status="draining", current_tasks=5)
        found = self.candidates.describe(name("acacia"))
        assert found is not None
        self.assertEqual((found.rules, found.draining), (rules, True))
        self.assertEqual(found.room, Room(1.0, GIB, 0, 0))
        self.rule(OwnerRules())
        found = self.candidates.describe(name("acacia"))
        assert found is not None
        self.assertIs(found.rules, EVERYTHING)

    def test_facts_are_kept(self) -> None:
        """A document's facts are made once for as long as it says the same."""
        first = self.candidates.describe(name("acacia"))
        self.change(current_tasks=2)
        second = self.candidates.describe(name("acacia"))
        self.rule(OwnerRules(gpus=0))
        third = self.candidates.describe(name("acacia"))
        assert first is not None and second is not None and third is not None
        self.assertIs(first.facts, second.facts)
        self.assertIsNot(first.facts, third.facts)
