"""The register of a task: one value, changed by whoever has a majority of its replicas."""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from bzzz.tasks import acceptor
from bzzz.tasks.acceptor import EMPTY, Kept
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
from bzzz.tasks.proposer import Beaten, Change, Decided, Early, Held, Proposal, majority


def to(value: bytes) -> Change:
    """A change to a value, whatever there was."""
    return lambda _: value


def leave(_: bytes | None) -> bytes | None:
    """A read."""
    return None


def answer(kept: Kept, request: Request, until_closed: float = 0.0) -> tuple[Kept, Answer]:
    """What a replica does with a request."""
    if isinstance(request, Prepare):
        return acceptor.prepare(kept, request, until_closed)
    return acceptor.accept(kept, request)


class Replicas:
    """So many replicas, some of which can be reached."""

    def __init__(self, count: int = 3) -> None:
        self.kept = [EMPTY] * count
        self.waits = [0.0] * count

    def ask(self, proposal: Proposal, *places: int) -> None:
        """Send what the proposal asks for to these, until they have nothing new to say."""
        for place in places:
            request = proposal.request
            self.kept[place], told = answer(self.kept[place], request, self.waits[place])
            proposal.receive(place, told)

    def run(self, proposal: Proposal, *places: int) -> Decided:
        """Both phases, as far as they are needed."""
        self.ask(proposal, *places)
        if proposal.outcome is None:
            self.ask(proposal, *places)
        assert isinstance(proposal.outcome, Decided), proposal.outcome
        return proposal.outcome


class AcceptorTests(SynchronousTestCase):
    """What a replica keeps and says."""

    def test_reserved(self) -> None:
        """An empty replica accepts the origin's first value without a prepare, and only one."""
        first = Accept(RESERVED, b"first", Ballot(1, 0))
        kept, told = acceptor.accept(EMPTY, first)
        self.assertEqual(told, Accepted(RESERVED))
        self.assertEqual(kept, Kept(Ballot(1, 0), RESERVED, b"first"))
        self.assertEqual(acceptor.accept(kept, first), (kept, told))

    def test_another_value(self) -> None:
        """A ballot has one value: who comes with another one is told no."""
        kept, _ = acceptor.accept(EMPTY, Accept(RESERVED, b"first", Ballot(1, 0)))
        after, told = acceptor.accept(kept, Accept(RESERVED, b"other", Ballot(1, 0)))
        self.assertEqual((after, told), (kept, Conflict(RESERVED, Ballot(1, 0))))

    def test_accepted_again(self) -> None:
        """Asked again for what it has accepted, it does not go back behind a later promise."""
        first = Accept(RESERVED, b"first", Ballot(1, 0))
        kept, _ = acceptor.accept(EMPTY, first)
        kept, _ = acceptor.prepare(kept, Prepare(Ballot(5, 1)))
        self.assertEqual(acceptor.accept(kept, first), (kept, Accepted(RESERVED)))

    def test_reserved_too_late(self) -> None:
        """Who has promised another ballot refuses the reserved one."""
        kept, _ = acceptor.prepare(EMPTY, Prepare(Ballot(1, 2)))
        after, told = acceptor.accept(kept, Accept(RESERVED, b"late", Ballot(1, 0)))
        self.assertEqual((after, told), (kept, Conflict(RESERVED, Ballot(1, 2))))

    def test_promised_once(self) -> None:
        """A ballot is promised once, so that its proposer cannot have it a second time."""
        kept, told = acceptor.prepare(EMPTY, Prepare(Ballot(3, 1)))
        self.assertEqual(told, Promise(Ballot(3, 1), None, b"", 0))
        for lower in (Ballot(3, 1), Ballot(3, 0), Ballot(2, 2)):
            after, told = acceptor.prepare(kept, Prepare(lower))
            self.assertEqual((after, told), (kept, Conflict(lower, Ballot(3, 1))))

    def test_promise_tells_value(self) -> None:
        """A promise tells the value accepted last, and that value stays."""
        kept, _ = acceptor.accept(EMPTY, Accept(RESERVED, b"v", Ballot(1, 0)))
        kept, told = acceptor.prepare(kept, Prepare(Ballot(1, 1)))
        self.assertEqual(told, Promise(Ballot(1, 1), RESERVED, b"v", 0))
        self.assertEqual(kept.value, b"v")

    def test_accepts_no_less_than_promised(self) -> None:
        """What is below the promise is refused, and changes nothing."""
        kept, _ = acceptor.prepare(EMPTY, Prepare(Ballot(2, 1)))
        lower = Accept(Ballot(2, 0), b"v", Ballot(3, 0))
        self.assertEqual(acceptor.accept(kept, lower), (kept, Conflict(Ballot(2, 0), Ballot(2, 1))))

    def test_next_is_greater(self) -> None:
        """The ballot to be promised with a value is greater than the value's own."""
        for then in (Ballot(1, 1), Ballot(0, 2)):
            kept, told = acceptor.accept(EMPTY, Accept(Ballot(1, 1), b"v", then))
            self.assertEqual((kept, told), (EMPTY, Conflict(Ballot(1, 1), RESERVED)))

    def test_close(self) -> None:
        """A token is closed for good, and not before it may be."""
        asked = Prepare(Ballot(1, 0), close=4)
        self.assertEqual(acceptor.prepare(EMPTY, asked, 1.5), (EMPTY, NotYet(Ballot(1, 0), 1.5)))
        kept, told = acceptor.prepare(EMPTY, asked)
        self.assertEqual(told, Promise(Ballot(1, 0), None, b"", 4))
        kept, _ = acceptor.prepare(kept, Prepare(Ballot(2, 0), close=3), 9.0)
        self.assertEqual(kept.closed, 4)
        kept, _ = acceptor.accept(kept, Accept(Ballot(2, 0), b"v", Ballot(3, 0)))
        self.assertEqual(kept.closed, 4)


class ProposalTests(SynchronousTestCase):
    """What a proposer makes of answers."""

    def test_first_value(self) -> None:
        """The origin's first value is decided in one round."""
        replicas = Replicas()
        proposal = Proposal(3, RESERVED, to(b"first"))
        replicas.ask(proposal, 0)
        self.assertIsNone(proposal.outcome)
        self.assertEqual(proposal.unanswered(), [1, 2])
        replicas.ask(proposal, 2)
        held = Held(Ballot(1, 0), b"first")
        self.assertEqual(proposal.outcome, Decided(b"first", held, True, RESERVED))
        self.assertEqual(proposal.unanswered(), [1])

    def test_next_in_one_round(self) -> None:
        """Who made the last change makes the next with one question to each."""
        replicas = Replicas()
        decided = replicas.run(Proposal(3, RESERVED, to(b"1")), 0, 1)
        assert decided.held is not None
        seen: list[bytes | None] = []

        def change(value: bytes | None) -> bytes:
            seen.append(value)
            return b"2"

        proposal = Proposal(3, decided.held.ballot, change, held=decided.held)
        replicas.ask(proposal, 0, 1)
        self.assertEqual(
            proposal.outcome, Decided(b"2", Held(Ballot(2, 0), b"2"), True, Ballot(1, 0))
        )
        self.assertEqual(seen, [b"1"])

    def test_held_is_lost(self) -> None:
        """When another has been there meanwhile, what was held is worth nothing."""
        replicas = Replicas()
        decided = replicas.run(Proposal(3, RESERVED, to(b"1")), 0, 1, 2)
        assert decided.held is not None
        replicas.run(Proposal(3, Ballot(1, 2), to(b"theirs")), 1, 2)
        proposal = Proposal(3, decided.held.ballot, to(b"mine"), held=decided.held)
        replicas.ask(proposal, 0, 1, 2)
        self.assertEqual(proposal.outcome, Beaten(Ballot(2, 2)))

    def test_value_found(self) -> None:
        """A value that one replica of the majority has is the one that is changed."""
        replicas = Replicas()
        Replicas.ask(replicas, Proposal(3, RESERVED, to(b"maybe")), 2)
        seen: list[bytes | None] = []

        def change(value: bytes | None) -> bytes | None:
            seen.append(value)
            return (value or b"") + b"!"

        decided = replicas.run(Proposal(3, Ballot(1, 1), change), 1, 2)
        self.assertEqual((decided.value, seen), (b"maybe!", [b"maybe"]))

    def test_read_of_decided(self) -> None:
        """What a whole majority has is read in one round, and can be changed in the next."""
        replicas = Replicas()
        replicas.run(Proposal(3, RESERVED, to(b"v")), 0, 1, 2)
        proposal = Proposal(3, Ballot(2, 1), leave)
        replicas.ask(proposal, 1, 2)
        held = Held(Ballot(2, 1), b"v")
        self.assertEqual(proposal.outcome, Decided(b"v", held, False, RESERVED))
        after = replicas.run(Proposal(3, held.ballot, to(b"w"), held=held), 0, 2)
        self.assertEqual(after.value, b"w")

    def test_read_of_undecided(self) -> None:
        """What is not known to be decided is decided before it is told."""
        replicas = Replicas()
        replicas.ask(Proposal(3, RESERVED, to(b"maybe")), 2)
        proposal = Proposal(3, Ballot(1, 1), leave)
        replicas.ask(proposal, 1, 2)
        self.assertIsNone(proposal.outcome)
        self.assertIsInstance(proposal.request, Accept)
        replicas.ask(proposal, 1, 2)
        self.assertEqual(
            proposal.outcome, Decided(b"maybe", Held(Ballot(2, 1), b"maybe"), False, Ballot(1, 1))
        )

    def test_read_of_empty(self) -> None:
        """A register without a value is told as such, and the origin's late value is refused."""
        replicas = Replicas()
        proposal = Proposal(3, Ballot(1, 1), leave)
        replicas.ask(proposal, 1, 2)
        self.assertEqual(proposal.outcome, Decided(None, None, False, None))
        late = Proposal(3, RESERVED, to(b"late"))
        replicas.ask(late, 0, 1, 2)
        self.assertEqual(late.outcome, Beaten(Ballot(1, 1)))

    def test_early(self) -> None:
        """A token that no majority closes yet is asked for again when one will."""
        for waits, wait in (([3.0, 2.0, 0.0], 2.0), ([3.0, 2.0, 4.0], 4.0)):
            replicas = Replicas()
            replicas.waits = waits
            proposal = Proposal(3, Ballot(1, 0), to(b"v"), close=1)
            replicas.ask(proposal, 2, 0, 1)
            self.assertEqual(proposal.outcome, Early(wait))

    def test_given_up(self) -> None:
        """Where the rest is gone, the refusals of a minority end it."""
        for waits, told in (([0.0, 2.0, 0.0], Early(2.0)), ([0.0, 0.0, 0.0], Beaten(Ballot(5, 2)))):
            replicas = Replicas()
            replicas.waits = waits
            if isinstance(told, Beaten):
                replicas.ask(Proposal(3, Ballot(5, 2), leave), 1)
            proposal = Proposal(3, Ballot(1, 0), to(b"v"), close=1)
            proposal.give_up()
            replicas.ask(proposal, 0, 1)
            self.assertIsNone(proposal.outcome)
            proposal.give_up()
            self.assertEqual(proposal.outcome, told)

    def test_not_closed(self) -> None:
        """A promise that does not close what was asked is none."""
        proposal = Proposal(3, Ballot(1, 0), to(b"v"), close=2)
        for place in (0, 1):
            proposal.receive(place, Promise(Ballot(1, 0), None, b"", 1))
        self.assertIsInstance(proposal.request, Prepare)

    def test_early_and_beaten(self) -> None:
        """Where both are in the way the ballot is, as it needs no waiting."""
        replicas = Replicas()
        replicas.waits = [3.0, 0.0, 0.0]
        replicas.ask(Proposal(3, Ballot(5, 2), leave), 1)
        for order in ((0, 1), (1, 0)):
            proposal = Proposal(3, Ballot(1, 0), to(b"v"), close=1)
            replicas.ask(proposal, *order)
            self.assertEqual(proposal.outcome, Beaten(Ballot(5, 2)))

    def test_asked_twice(self) -> None:
        """A request that came twice is no conflict with itself, whichever answer comes first."""
        for first, second in ((0, 1), (1, 0)):
            proposal = Proposal(3, Ballot(1, 0), to(b"v"))
            told = []
            kept = EMPTY
            for _ in range(2):
                kept, each = answer(kept, proposal.request)
                told.append(each)
            proposal.receive(1, told[first])
            proposal.receive(1, told[second])
            proposal.receive(2, Conflict(Ballot(1, 0), Ballot(3, 2)))
            self.assertIsNone(proposal.outcome)
            proposal.receive(0, Promise(Ballot(1, 0), None, b"", 0))
            self.assertIsInstance(proposal.request, Accept)

    def test_answers_lost(self) -> None:
        """Who was promised a ballot and did not hear of it needs another one."""
        replicas = Replicas()
        for _ in range(2):
            proposal = Proposal(3, Ballot(1, 0), to(b"v"))
            replicas.ask(proposal, 0, 1)
        self.assertEqual(proposal.outcome, Beaten(Ballot(1, 0)))

    def test_restarted(self) -> None:
        """A proposer that forgot a ballot cannot have it again, for another value."""
        replicas = Replicas()
        before = Proposal(3, Ballot(1, 0), to(b"before"))
        replicas.ask(before, 1, 2)
        replicas.ask(before, 0)
        after = Proposal(3, Ballot(1, 0), to(b"after"))
        replicas.ask(after, 1, 2, 0)
        self.assertEqual(after.outcome, Beaten(Ballot(1, 0)))
        decided = replicas.run(Proposal(3, Ballot(2, 0), leave), 1, 2)
        self.assertIsNone(decided.value)

    def test_held_of_another(self) -> None:
        """What is held goes with its ballot."""
        held = Held(Ballot(4, 0), b"v")
        self.assertRaises(ValueError, Proposal, 3, Ballot(5, 0), leave, held=held)
        self.assertRaises(ValueError, Proposal, 3, Ballot(4, 0), leave, held=held, close=1)


@dataclass
class Client:
    """Appends its own marks to the value, one after the other, and knows which were decided.

    What it holds in memory is lost when it crashes; it then begins with an old counter again.
    """

    place: int
    counter: int = 0
    made: int = 0
    crashes: int = 0
    held: Held | None = None
    proposal: Proposal | None = None
    mark: bytes = b""

    def begin(self, replicas: int) -> None:
        self.made += 1
        self.mark = f"{self.place}.{self.made};".encode()
        held, self.held = self.held, None
        if held is not None:
            ballot = held.ballot
        elif self.place == 0 and self.made == 1:
            ballot = RESERVED
        else:
            ballot = Ballot(self.counter + 1, self.place)
        self.counter = max(self.counter, ballot.counter)
        mark = self.mark
        self.proposal = Proposal(replicas, ballot, lambda value: (value or b"") + mark, held=held)

    def look(self) -> bytes | None:
        """Returns the value that was decided, if one just was."""
        if self.proposal is None or self.proposal.outcome is None:
            return None
        outcome, self.proposal = self.proposal.outcome, None
        if isinstance(outcome, Decided):
            self.held = outcome.held
            if self.held is not None:
                self.counter = max(self.counter, self.held.ballot.counter)
            return outcome.value
        if isinstance(outcome, Beaten):
            self.counter = max(self.counter, outcome.ballot.counter)
        return None

    def crash(self, counter: int) -> None:
        self.proposal = self.held = None
        self.counter = counter
        self.crashes += 1


def history(rng: random.Random, count: int, steps: int = 2000) -> tuple[list[bytes], int]:
    """The values of which a client learnt that they were decided, and how often one crashed.

    Messages are lost, sent twice and overtaken.
    """
    kept = [EMPTY] * count
    clients = [Client(place) for place in range(count)]
    wire: list[tuple[int, int, Request | Answer]] = []
    decided = []
    for _ in range(steps):
        act = rng.random()
        client = rng.choice(clients)
        if client.proposal is None:
            if act < 0.1:
                client.begin(count)
        elif act < 0.1:
            request = client.proposal.request
            wire += [(client.place, place, request) for place in client.proposal.unanswered()]
        elif act < 0.105:
            client.crash(max(0, client.counter - rng.randint(1, 3)))
        if not wire:
            continue
        index = rng.randrange(len(wire))
        number, place, message = wire[index]
        if rng.random() < 0.9:
            wire[index] = wire[-1]
            wire.pop()
        if rng.random() < 0.1:
            continue
        if isinstance(message, Prepare | Accept):
            kept[place], told = answer(kept[place], message)
            wire.append((number, place, told))
            continue
        # Answers to what was asked before a crash reach whoever proposes after it.
        target = clients[number]
        if target.proposal is not None:
            target.proposal.receive(place, message)
            value = target.look()
            if value is not None:
                decided.append(value)
    return decided, sum(client.crashes for client in clients)


def check(decided: list[bytes]) -> None:
    """Every value is made of another one, and no mark is there twice: so they are one line."""
    line = sorted(decided, key=len)
    for before, after in itertools.pairwise(line):
        assert after.startswith(before) and after != before, (before, after)
    if line:
        marks = line[-1].split(b";")
        assert len(set(marks)) == len(marks), line[-1]


class HistoryTests(SynchronousTestCase):
    """Many proposers at once, on a network that is no help."""

    @settings(max_examples=150, deadline=None)
    @given(seed=st.integers(0, 2**32), count=st.sampled_from([1, 3, 3, 5]))
    def test_one_line(self, seed: int, count: int) -> None:
        """All values that were ever decided are one line, each made of the one before."""
        check(history(random.Random(seed), count)[0])

    def test_something_is_decided(self) -> None:
        """The runs are no empty ones: values are decided by several, and after crashes."""
        runs = [history(random.Random(seed), 3) for seed in range(20)]
        self.assertGreater(sum(len(decided) for decided, _ in runs), 200)
        self.assertGreater(sum(crashes for _, crashes in runs), 40)
        whose = {mark.partition(b".")[0] for decided, _ in runs for mark in decided[-1].split(b";")}
        self.assertEqual(whose - {b""}, {b"0", b"1", b"2"})

    def test_check_finds(self) -> None:
        """The check knows a fork, a value that came twice, and a mark that did."""
        for wrong in ([b"a;b;", b"a;c;"], [b"a;", b"a;"], [b"a;", b"a;b;a;"]):
            self.assertRaises(AssertionError, check, wrong)

    def planted(self, name: str, wrong: object) -> bool:
        """Whether a wrong acceptor is found within 100 seeds."""
        self.patch(acceptor, name, wrong)
        for seed in range(100):
            try:
                check(history(random.Random(seed), 3)[0])
            except AssertionError:
                return True
        return False

    def test_promise_not_kept(self) -> None:
        """A replica that accepts what is below its promise makes two lines."""

        def accept(kept: Kept, asked: Accept) -> tuple[Kept, Answer]:
            return Kept(asked.then, asked.ballot, asked.value), Accepted(asked.ballot)

        self.assertTrue(self.planted("accept", accept))

    def test_not_written(self) -> None:
        """A replica that says yes and keeps nothing loses values."""

        def accept(kept: Kept, asked: Accept) -> tuple[Kept, Answer]:
            return kept, Accepted(asked.ballot)

        self.assertTrue(self.planted("accept", accept))

    def test_majority(self) -> None:
        """Two majorities share a replica."""
        self.assertEqual([majority(count) for count in (1, 2, 3, 4, 5)], [1, 2, 2, 3, 3])
