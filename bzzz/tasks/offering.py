"""What this machine offers to tasks, and what of it they have.

Enters: the node's capability document with its owner's rules, offers, ends of attempts. Leaves: for
each offer what was taken, or why not, whatever others think of this machine; what is free.
docs/tasks.rst, "Placement".
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from bzzz.errors import BzzzError
from bzzz.identity.peer_id import PeerID
from bzzz.mesh.availability import Availability, FreeRoom
from bzzz.mesh.capability import CapabilityDocument
from bzzz.tasks.candidates import KnownFacts
from bzzz.tasks.messages import Refused
from bzzz.tasks.owner_rules import EVERYTHING, offered
from bzzz.tasks.placement import Candidate, Wanted, suited, suits
from bzzz.tasks.requirements import compile as compile_requirement
from bzzz.tasks.slots import Need, Short, Slots, gpu_environment, usable_gpus
from bzzz.tasks.submission import Submission

__all__ = ["Offering"]


class Offering:
    """What of one machine is taken.

    :param own: its peer ID.
    :param document: its capability document as it is now.
    :param may_run: whether its role runs tasks.
    :param name_of: what the member with a peer ID is called.
    :ivar problem: why no command can be run at the moment, for people; empty where it can.
    """

    def __init__(
        self,
        own: str,
        document: Callable[[], CapabilityDocument],
        availability: Availability,
        may_run: Callable[[], bool],
        name_of: Callable[[str], str],
    ) -> None:
        self._own = own
        self._document = document
        self._availability = availability
        self._may_run = may_run
        self._name_of = name_of
        self._facts = KnownFacts()
        self._slots: Slots | None = None
        # This machine, whatever is free of it; the document by which it is that, and what else it
        # was made of.
        self._machine: Candidate | None = None
        self._by: CapabilityDocument | None = None
        self._made_of: tuple[object, ...] = ()
        self.problem: Callable[[], str] = lambda: ""

    def start(self) -> None:
        """Take tasks from now on."""
        self._slots = Slots(0.0, 0, (), 0)
        self.look()

    def look(self) -> None:
        """The document may say something else, or another number of tasks may run.

        What runs goes on, also where it has more than is offered now.
        """
        if self._slots is None:
            return
        document = self._document()
        room = offered(document.resources, document.rules, self._availability.max_tasks)
        gpus = usable_gpus(document.resources.gpus)[: room.gpus]
        free = self._slots.free
        self._slots.offer(room.cpus, room.memory, gpus, room.tasks)
        if self._slots.free != free:
            self._availability.room_changed()

    @property
    def is_started(self) -> bool:
        """Whether tasks are taken."""
        return self._slots is not None

    def room(self) -> FreeRoom | None:
        """What is free; None while the node starts."""
        if self._slots is None:
            return None
        free = self._slots.free
        return FreeRoom(cpus=free.cpus, memory_bytes=free.memory, gpus=free.gpus)

    def candidate(self) -> Candidate | None:
        """This machine, as placement sees it; None while the node starts."""
        machine = self._as_machine()
        if machine is None or self._slots is None:
            return None
        return msgspec.structs.replace(machine, room=self._slots.free)

    def _as_machine(self) -> Candidate | None:
        """The same, but for what is free."""
        if self._slots is None:
            return None
        # Asked for each time: nobody is told when only the free space in it is another one.
        document = self._document()
        name, may_run = self._name_of(self._own), self._may_run()
        draining, max_tasks = self._availability.draining, self._availability.max_tasks
        made_of = (name, may_run, draining, max_tasks)
        if self._machine is None or self._by is not document or self._made_of != made_of:
            self._by, self._made_of = document, made_of
            rules = document.rules
            self._machine = Candidate(
                peer=self._own,
                name=name,
                facts=self._facts.of(self._own, document),
                may_run=may_run,
                draining=draining,
                max_tasks=max_tasks,
                rules=EVERYTHING if rules == EVERYTHING else rules,
                # Not what the slots go by: those hear of another number of tasks after others.
                everything=offered(document.resources, rules, max_tasks),
            )
        return self._machine

    def admit(self, peer: PeerID, submission: Submission) -> Refused | dict[str, str]:
        """See :data:`bzzz.tasks.worker.Admit`."""
        slots, own = self._slots, self._as_machine()
        if slots is None or own is None:
            return Refused("the node is starting")
        problem = self.problem()
        if problem:
            return Refused(problem)
        try:
            requirement = compile_requirement(submission.where)
        except BzzzError as error:
            return Refused(str(error), for_good=True)
        wanted = Wanted.of(submission, self._name_of(submission.origin))
        fits = suited(wanted, requirement, own, own.offered)
        unfit = () if fits else suits(wanted, requirement, own)
        if unfit:
            # What stays so is the better reason: nobody should wait for the other to change.
            told = next((each for each in unfit if each.never), unfit[0])
            return Refused(told.text, for_good=told.never)
        taken = slots.take(submission.task, Need.of(submission))
        if isinstance(taken, Short):
            return Refused(taken.reason, for_good=taken.never)
        self._availability.task_started()
        return gpu_environment(own.facts.document.resources.gpus, taken.gpus)

    def give_back(self, task: str) -> None:
        """What a task had is free again."""
        if self._slots is not None and self._slots.give_back(task):
            self._availability.task_ended()
