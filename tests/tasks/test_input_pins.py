"""Which inputs stay at a task's origin."""

from __future__ import annotations

from collections import Counter

from twisted.internet.defer import Deferred, succeed
from twisted.trial.unittest import SynchronousTestCase

from bzzz.tasks.input_pins import InputPins
from bzzz.tasks.record import Outcome, State, TaskState
from bzzz.tasks.submission import Input
from bzzz.tasks.value import TaskRecord
from tests.tasks.fakes import REPLICAS, name, record

DIGESTS = ("aa" * 32, "bb" * 32)


class Files:
    """Implements :class:`bzzz.tasks.input_pins.Pins`."""

    def __init__(self) -> None:
        self.pins: Counter[str] = Counter()

    def pin(self, digest: str) -> Deferred[None]:
        self.pins[digest] += 1
        return succeed(None)

    def unpin(self, digest: str) -> None:
        self.pins[digest] -= 1


class InputPinsTests(SynchronousTestCase):
    """Two tasks, which share an input."""

    def setUp(self) -> None:
        self.files = Files()
        self.pins = InputPins(self.files, name(REPLICAS[0]))

    def task(self, number: int, *digests: str, ended: bool = False) -> TaskRecord:
        inputs = tuple(Input(f"in{place}", digest, 1) for place, digest in enumerate(digests))
        state = TaskState(state=State.ENDED, outcome=Outcome.DONE) if ended else TaskState()
        return record(state, number, inputs=inputs)

    def held(self) -> dict[str, int]:
        return {digest: count for digest, count in self.files.pins.items() if count}

    def test_open(self) -> None:
        """Inputs are pinned once by each task until it has ended for sure."""
        both, one = self.task(1, *DIGESTS), self.task(2, DIGESTS[0])
        for each in (both, one, both):
            self.pins.changed(each, False)
        self.assertEqual(self.held(), {DIGESTS[0]: 2, DIGESTS[1]: 1})
        ended = self.task(1, *DIGESTS, ended=True)
        self.pins.changed(ended, False)
        self.assertEqual(self.held(), {DIGESTS[0]: 2, DIGESTS[1]: 1})
        for _ in range(2):
            self.pins.changed(ended, True)
            self.assertEqual(self.held(), {DIGESTS[0]: 1})

    def test_anew(self) -> None:
        """Those of a task that is begun anew are pinned again."""
        self.pins.changed(self.task(1, *DIGESTS, ended=True), True)
        self.assertEqual(self.held(), {})
        self.pins.changed(self.task(1, *DIGESTS), True)
        self.assertEqual(self.held(), dict.fromkeys(DIGESTS, 1))

    def test_elsewhere(self) -> None:
        """A replica that is not the origin pins nothing."""
        InputPins(self.files, name(REPLICAS[1])).changed(self.task(1, *DIGESTS), False)
        self.assertEqual(self.held(), {})
