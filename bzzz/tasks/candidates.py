"""The other members, as placement sees them.

Enters: what they have broadcast, and who may run tasks. Leaves: for each that can be asked a
:class:`~bzzz.tasks.placement.Candidate`. docs/tasks.rst, "Placement".
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

from bzzz.identity.peer_id import PeerID
from bzzz.mesh.availability import AvailabilityDocument
from bzzz.mesh.capability import CapabilityDocument
from bzzz.tasks.owner_rules import EVERYTHING, offered
from bzzz.tasks.placement import Candidate
from bzzz.tasks.requirements import Facts
from bzzz.tasks.slots import Room

__all__ = ["Candidates", "KnownFacts"]


class KnownFacts:
    """The facts of documents, made once for each."""

    def __init__(self) -> None:
        self._known: dict[str, Facts] = {}

    def of(self, peer: str, document: CapabilityDocument) -> Facts:
        """Those of a member's document."""
        known = self._known.get(peer)
        if known is None or (known.document is not document and known.document != document):
            known = self._known[peer] = Facts(document)
        return known

    def forget(self, peer: str) -> None:
        """The member is gone."""
        self._known.pop(peer, None)


class Candidates:
    """What the other members said last.

    :param linked: those that can be asked now.
    :param documents: the newest capability document of each peer that sent one.
    :param availabilities: likewise.
    :param may_run: whether a member's role runs tasks.
    :param name_of: what the member with a peer ID is called.
    """

    def __init__(
        self,
        linked: Callable[[], Collection[PeerID]],
        documents: Callable[[], Mapping[PeerID, CapabilityDocument]],
        availabilities: Callable[[], Mapping[PeerID, AvailabilityDocument]],
        may_run: Callable[[PeerID], bool],
        name_of: Callable[[str], str],
    ) -> None:
        self._linked = linked
        self._documents = documents
        self._availabilities = availabilities
        self._may_run = may_run
        self._name_of = name_of
        self._facts = KnownFacts()

    def describe(self, peer: str) -> Candidate | None:
        """A member; None where it cannot be asked, or has not said yet what it can do."""
        each = next((one for one in self._linked() if str(one) == peer), None)
        if each is None:
            self._facts.forget(peer)
            return None
        document, said = self._documents().get(each), self._availabilities().get(each)
        if document is None or said is None:
            # Both come as soon as it is in the topic.
            return None
        everything = offered(document.resources, document.rules, said.max_tasks)
        room = said.room
        return Candidate(
            peer=peer,
            name=self._name_of(peer),
            facts=self._facts.of(peer, document),
            may_run=self._may_run(each),
            draining=said.status == "draining",
            max_tasks=said.max_tasks,
            room=Room(
                everything.cpus if room is None else room.cpus,
                everything.memory if room is None else room.memory_bytes,
                everything.gpus if room is None else room.gpus,
                max(0, said.max_tasks - said.current_tasks),
            ),
            # Most have none, which is seen faster by identity.
            rules=EVERYTHING if document.rules == EVERYTHING else document.rules,
            everything=everything,
        )
