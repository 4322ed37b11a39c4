"""Members that ask replicas for what is not theirs to ask, while everything else goes wrong.

Enters: a simulation. Leaves: questions about tasks of others, by nodes that may submit tasks and
keep none of those. Nothing may come of them. docs/tasks.rst, "Who may ask a replica".
"""

from __future__ import annotations

import random

from msgspec.structs import replace

from bzzz.errors import BzzzError
from bzzz.identity.keys import PrivateKey
from bzzz.tasks.ballots import Accept, Ballot, Prepare
from bzzz.tasks.messages import Answer, Failed, Register, Request
from bzzz.tasks.record import begin
from bzzz.tasks.submission import Submission, sign
from bzzz.tasks.value import encode_record
from bzzz.testing.tasks.simulation import TaskNode, TaskSimulation

__all__ = ["Strangers"]

# A ballot and a token far above all that replicas come to by themselves.
HIGH = 1 << 40


class Strangers:
    """Makes nodes ask.

    :param seed: of what they ask.
    :ivar denied: how often it was.
    """

    def __init__(self, simulation: TaskSimulation, seed: int) -> None:
        self._simulation = simulation
        self.denied = 0
        self._rng = random.Random(seed)  # nosec B311  # noqa: S311 - a simulation

    def plan(self, count: int, seconds: float) -> None:
        """Have them ask so often in the coming seconds."""
        for _ in range(count):
            at = 2.0 + self._rng.random() * seconds
            self._simulation.reactor.callLater(at, self._ask)

    def _ask(self) -> None:
        draw = self._rng
        simulation = self._simulation
        known = list(simulation.known.values())
        if not known:
            return
        submission = draw.choice(known).submission
        strangers = [
            node
            for node in simulation.nodes
            if node.service is not None and str(node.peer) not in submission.replicas
        ]
        # Who has nothing of a task yet takes the first that comes: that is known and said.
        keepers = [
            node
            for node in simulation.nodes
            if str(node.peer) in submission.replicas
            and submission.task in node.platter.kept
            and node.platter.kept[submission.task].accepted is not None
        ]
        if strangers and keepers:
            stranger = draw.choice(strangers)
            for keeper in keepers:
                self._ask_one(stranger, keeper, submission)

    def _ask_one(self, stranger: TaskNode, keeper: TaskNode, submission: Submission) -> None:
        if stranger.service is None:
            return
        theirs = _theirs(submission, stranger.key, keeper)
        counter = self._rng.choice((5, HIGH))
        own = Ballot(counter, 0)
        others = Ballot(counter, self._rng.randrange(3))
        asked: Request = Register(
            submission.task,
            *self._rng.choice(
                (
                    (Prepare(others, close=HIGH), b""),
                    (Prepare(own, close=HIGH), theirs),
                    (Accept(own, theirs, Ballot(counter + 1, 0)), b""),
                )
            ),
        )
        asking = stranger.service.peers.ask(keeper.peer, asked)
        asking.addCallbacks(self._answered, lambda failure: failure.trap(BzzzError))

    def _answered(self, answer: Answer) -> None:
        self.denied += isinstance(answer, Failed)


def _theirs(submission: Submission, key: PrivateKey, keeper: TaskNode) -> bytes:
    """A stranger's own task with the ID of another's, with one of its replicas."""
    replicas = (str(key.peer_id), str(keeper.peer))
    own = replace(submission, origin=replicas[0], replicas=replicas)
    return encode_record(sign(own, key), begin())
