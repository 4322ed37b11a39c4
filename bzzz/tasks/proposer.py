"""One try to change a register (``docs/tasks.rst``, "The register").

Enters: a change, and the answers of replicas. Leaves: what to send to each, and how it ended. A try
that was beaten, or that waited too long for a majority, is followed by another one with a greater
ballot; when, is up to who makes them. Rystsov, arXiv:1802.07000; the promise of the next ballot
with each accept is its "one-round trip optimization".
"""

from __future__ import annotations

from collections.abc import Callable

from msgspec import Struct

from bzzz.tasks.ballots import (
    RESERVED,
    Accept,
    Accepted,
    Answer,
    Ballot,
    Conflict,
    NotYet,
    Prepare,
    Promise,
    Request,
)

__all__ = ["Beaten", "Change", "Decided", "Early", "Held", "Outcome", "Proposal", "majority"]

Change = Callable[[bytes | None], bytes | None]
"""Is given the value, None where there is none, and returns the new one, or None to leave it."""


def majority(replicas: int) -> int:
    """How many of so many replicas any two majorities share one of."""
    return replicas // 2 + 1


class Held(Struct, frozen=True):
    """A majority has promised ``ballot`` to this proposer, and knows ``value`` as the last."""

    ballot: Ballot
    value: bytes


class Decided(Struct, frozen=True):
    """A majority has the value.

    :ivar value: None where the register is empty and was left so.
    :ivar held: what the next change by this proposer may begin with; None: with a prepare.
    :ivar changed: whether the value is of this proposal's change.
    :ivar ballot: that it was decided with, or that a majority has it of already.
    """

    value: bytes | None
    held: Held | None
    changed: bool
    ballot: Ballot | None


class Beaten(Struct, frozen=True):
    """A majority can no more be had, as others have promised ``ballot``.

    If a value was sent, it is not known whether it is or will be decided.
    """

    ballot: Ballot


class Early(Struct, frozen=True):
    """No majority closes the token for so many seconds."""

    seconds: float


Outcome = Decided | Beaten | Early


class Proposal:
    """One ballot of one proposer.

    :param replicas: how many the register has.
    :param ballot: greater than those that this proposer used before.
    :param change: called once, when the value is known.
    :param close: the token that a majority has to close before the change, 0 for none.
    :param held: of the last change of this proposer; ``ballot`` is then the one that it holds. The
        reserved ballot needs none.
    """

    def __init__(
        self,
        replicas: int,
        ballot: Ballot,
        change: Change,
        *,
        close: int = 0,
        held: Held | None = None,
    ) -> None:
        if held is not None and (held.ballot != ballot or close):
            raise ValueError("what is held is of another ballot, or closes nothing")
        self.outcome: Outcome | None = None
        self._replicas = replicas
        self._ballot = ballot
        self._change = change
        self._promises: dict[int, Promise] = {}
        self._refused: dict[int, Ballot] = {}
        self._early: dict[int, float] = {}
        self._accepted: set[int] = set()
        self._changed = False
        self._request: Request = Prepare(ballot, close)
        if held is not None or ballot == RESERVED:
            self._propose(held.value if held is not None else None, None)

    @property
    def request(self) -> Request:
        """What every replica that has not answered it is to be sent now, again where it is lost."""
        return self._request

    def unanswered(self) -> list[int]:
        """The places of the replicas that have not answered :attr:`request`."""
        refused, places = self._refused, range(self._replicas)
        if isinstance(self._request, Accept):
            taken = self._accepted
            return [place for place in places if place not in taken and place not in refused]
        told, early = self._promises, self._early
        return [
            place
            for place in places
            if place not in told and place not in refused and place not in early
        ]

    @property
    def is_answered(self) -> bool:
        """Whether every replica has."""
        return len(self._accepted) == self._replicas or not self.unanswered()

    def receive(self, place: int, answer: Answer) -> None:
        """Take the answer of a replica to a request of this proposal.

        What is of another ballot or phase is ignored. An answer to what another proposal asked,
        with the same ballot before a restart, must not come here: who sends requests tells them
        apart.
        """
        if answer.ballot != self._ballot:
            return
        if isinstance(answer, Accepted):
            self._take_accepted(place)
        elif isinstance(answer, Conflict):
            self._take_conflict(place, answer)
        elif isinstance(self._request, Prepare) and self.outcome is None:
            if isinstance(answer, NotYet):
                self._early[place] = answer.seconds
                self._count_refusals()
            elif isinstance(answer, Promise) and answer.closed >= self._request.close:
                self._early.pop(place, None)
                self._refused.pop(place, None)
                self._promises[place] = answer
                self._count_promises()

    def give_up(self) -> None:
        """End it with the refusals that there are: from others no answer is to be expected."""
        if self.outcome is None and (self._refused or self._early):
            self._refuse()

    def _take_accepted(self, place: int) -> None:
        if not isinstance(self._request, Accept):
            return
        self._accepted.add(place)
        if self.outcome is None and len(self._accepted) >= majority(self._replicas):
            value = self._request.value
            held = Held(self._request.then, value)
            self.outcome = Decided(value, held, self._changed, self._ballot)

    def _take_conflict(self, place: int, answer: Conflict) -> None:
        # Where a request came twice, the second one is in conflict with the first.
        if place in self._accepted or (
            place in self._promises and isinstance(self._request, Prepare)
        ):
            return
        self._refused[place] = max(answer.promised, self._refused.get(place, RESERVED))
        if self.outcome is None:
            self._count_refusals()

    def _count_refusals(self) -> None:
        if len(self._early) + len(self._refused) > self._replicas - majority(self._replicas):
            self._refuse()

    def _refuse(self) -> None:
        if self._refused:
            self.outcome = Beaten(max(self._refused.values()))
            return
        # When so many are ready that those who promised make a majority with them.
        waits = sorted(self._early.values())
        needed = majority(self._replicas) - len(self._promises)
        self.outcome = Early(waits[min(needed, len(waits)) - 1])

    def _count_promises(self) -> None:
        if len(self._promises) < majority(self._replicas):
            return
        told = list(self._promises.values())
        last = max((one.accepted for one in told if one.accepted is not None), default=None)
        value = next((one.value for one in told if last is not None and one.accepted == last), None)
        same = all(one.accepted == last for one in told)
        self._propose(value, last, decided=same)

    def _propose(self, value: bytes | None, last: Ballot | None, *, decided: bool = False) -> None:
        new = self._change(value)
        chosen = value if new is None else new
        if chosen is None:
            self.outcome = Decided(None, None, changed=False, ballot=None)
            return
        if new is None and decided:
            held = Held(self._ballot, chosen)
            self.outcome = Decided(chosen, held, changed=False, ballot=last)
            return
        self._changed = new is not None
        self._refused.clear()
        self._early.clear()
        then = Ballot(self._ballot.counter + 1, self._ballot.place)
        self._request = Accept(self._ballot, chosen, then)
