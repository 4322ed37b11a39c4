"""Which files stay while a task or workflow may need them."""

from __future__ import annotations

from collections import Counter

from msgspec.structs import replace
from twisted.internet.defer import Deferred, succeed
from twisted.trial.unittest import SynchronousTestCase

from bzzz.tasks.input_pins import InputPins
from bzzz.tasks.record import Outcome, State, TaskState
from bzzz.tasks.submission import Input
from bzzz.tasks.value import TaskRecord
from bzzz.tasks.workflows.file import parse
from bzzz.tasks.workflows.plan import plan
from bzzz.tasks.workflows.progress import Entry, Progress, Status
from bzzz.tasks.workflows.record import SignedWorkflow, WorkflowRecord, WorkflowSubmission
from tests.tasks.fakes import REPLICAS, name, record, task_id

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
        self.pins = InputPins(self.files)

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

    def test_no_inputs(self) -> None:
        """A task without inputs takes nothing."""
        self.pins.changed(self.task(1), False)
        self.pins.changed(self.task(1, ended=True), True)
        self.assertEqual(self.held(), {})

    def test_twice_in_one(self) -> None:
        """A file that a task gets under two names is pinned once, and let go once."""
        self.pins.changed(self.task(1, DIGESTS[0], DIGESTS[0]), False)
        self.assertEqual(self.held(), {DIGESTS[0]: 1})
        self.pins.changed(self.task(1, DIGESTS[0], DIGESTS[0], ended=True), True)
        self.assertEqual(self.held(), {})


class WorkflowPinsTests(SynchronousTestCase):
    """A workflow of one step, which gets a file and puts out another."""

    def setUp(self) -> None:
        self.files = Files()
        self.pins = InputPins(self.files)
        self.plan = plan(
            parse(b'[steps.make]\nrun = "make"\nin = ["src"]\nout = ["*.o"]\n', "build.toml")
        )
        workflow = replace(self.plan.workflow, files=(Input("src", DIGESTS[0], 1),))
        self.plan = plan(workflow)

    def changed(self, **entry: object) -> dict[str, int]:
        """What is pinned when the step's entry is as this."""
        submission = WorkflowSubmission(
            workflow=task_id(),
            origin=name(REPLICAS[0]),
            replicas=(name(REPLICAS[0]),),
            plan=b"",
        )
        self.pins.workflow_changed(
            WorkflowRecord(
                SignedWorkflow(b"", b""),
                submission,
                self.plan,
                Progress((Entry(**entry),)),  # type: ignore[arg-type]  # fields of the test
            )
        )
        return {digest: count for digest, count in self.files.pins.items() if count}

    def test_open(self) -> None:
        """Its files are pinned, then what its steps put out, too, until it has ended."""
        self.assertEqual(self.changed(), {DIGESTS[0]: 1})
        self.assertEqual(self.changed(), {DIGESTS[0]: 1})
        running = {"status": Status.SUBMITTED, "task": task_id(2)}
        self.assertEqual(self.changed(**running, output=DIGESTS[1]), {DIGESTS[0]: 1, DIGESTS[1]: 1})
        ended = {"status": Status.DONE, "task": task_id(2), "outcome": Outcome.DONE}
        self.assertEqual(self.changed(**ended, output=DIGESTS[1]), {})

    def test_anew(self) -> None:
        """When it is begun anew all is pinned again."""
        self.changed(status=Status.FAILED, task=task_id(2), outcome=Outcome.FAILED)
        self.assertEqual(self.changed(), {DIGESTS[0]: 1})
