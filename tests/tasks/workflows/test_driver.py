"""Driving a workflow: how much work it is where it has many instances."""

from __future__ import annotations

from collections import Counter
from typing import Any

from msgspec.structs import replace
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from bzzz.tasks.ballots import Ballot
from bzzz.tasks.driver import CHECK
from bzzz.tasks.proposer import Change, Decided
from bzzz.tasks.record import End, Policy, assign, finish
from bzzz.tasks.registers import NoMajority
from bzzz.tasks.value import TaskRecord
from bzzz.tasks.workflows import driver
from bzzz.tasks.workflows.driver import ENDS, MADE_AT_ONCE, WorkflowDriver
from bzzz.tasks.workflows.plan import Step, Workflow, encode
from bzzz.tasks.workflows.progress import Status
from bzzz.tasks.workflows.record import WorkflowRecord
from bzzz.tasks.workflows.values import Work
from tests.tasks.fakes import FakePeers, key, name
from tests.tasks.workflows.test_record import submitted

SIZE = 3 * ENDS


class Registers:
    """In the place of :class:`bzzz.tasks.records.Records`: what is changed is decided at once.

    :ivar count: changes.
    """

    def __init__(self) -> None:
        self.value: bytes | None = None
        self.count = 0

    async def propose(
        self, register: str, replicas: Any, change: Change, within: float, **more: Any
    ) -> Decided:
        self.count += 1
        self.value = change(self.value) or self.value
        return Decided(self.value, None, changed=True, ballot=Ballot(self.count, 0))


class WorkflowDriverTests(SynchronousTestCase):
    """One step with many instances.

    :ivar looks: how often each task was looked up.
    :ivar failing: whether no task can be made.
    """

    def setUp(self) -> None:
        self.clock = Clock()
        self.registers: Any = Registers()
        self.tasks: dict[str, TaskRecord] = {}
        self.looks: Counter[str] = Counter()
        self.told: list[WorkflowRecord] = []
        self.failing = False
        self.making = self.most = 0
        self.wait: list[Deferred[None]] | None = None
        self.driver = self.driving()

    def driving(self) -> WorkflowDriver:
        tasks: Any = self
        driving = WorkflowDriver(
            self.clock,
            lambda: 0.0,
            key("walnut"),
            self.registers,
            tasks,
            FakePeers("ironwood", "acacia"),
            self.here,
            self.told.append,
        )
        self.addCleanup(driving.stop)
        return driving

    async def here(self, task: str) -> TaskRecord | None:
        self.looks[task] += 1
        return self.tasks.get(task)

    async def create(self, record: TaskRecord, within: float, *, fresh: bool) -> TaskRecord:
        self.making += 1
        self.most = max(self.making, self.most)
        if self.wait is not None:
            await self.wait[0]
        self.making -= 1
        if self.failing:
            raise NoMajority("no majority")
        self.tasks[record.task] = record
        return record

    def begin(self) -> WorkflowRecord:
        matrix = {"n": tuple(map(str, range(SIZE)))}
        plan = encode(Workflow(steps=(Step(name="a", work=Work(command=("x",)), matrix=matrix),)))
        made = self.driver.create(submitted(plan=plan), 10.0)
        record: WorkflowRecord = self.successResultOf(Deferred.fromCoroutine(made))
        return record

    def end_all(self) -> None:
        for task, record in self.tasks.items():
            given = assign(record.state, 0, name("acacia"))
            assert given is not None
            over = finish(given, Policy(), name("acacia"), 1, End.DONE, 0)
            assert over is not None
            self.tasks[task] = replace(record, state=over)

    def test_looked_up(self) -> None:
        """A task is looked up once, not again with each of the others that is made."""
        self.begin()
        self.assertEqual(len(self.tasks), SIZE)
        self.assertEqual(set(self.looks.values()), {1})

    def test_looked_up_again(self) -> None:
        """It is when the driver begins anew: another one may have made it meanwhile."""
        self.failing = True
        self.begin()
        self.assertEqual(set(self.looks.values()), {1})
        self.failing = False
        self.driver.start()
        self.clock.advance(CHECK)
        self.assertEqual((len(self.tasks), set(self.looks.values())), (SIZE, {2}))

    def test_some_at_once(self) -> None:
        """Some are made at one time; what one fails with does not keep the others back."""
        self.wait = [Deferred()]
        self.begin()
        self.assertEqual((self.making, self.tasks), (MADE_AT_ONCE, {}))
        self.failing = True
        first, self.wait = self.wait[0], None
        first.callback(None)
        self.assertEqual((self.making, self.tasks), (0, {}))
        self.failing = False
        self.driver.start()
        self.clock.advance(CHECK)
        self.assertEqual((len(self.tasks), self.most), (SIZE, MADE_AT_ONCE))

    def test_reserved(self) -> None:
        """One change reserves some of those that are ready; all are in the end."""
        self.patch(driver, "RESERVED_AT_ONCE", 10)
        self.wait = [Deferred()]
        self.begin()
        reserved = [
            sum(entry.status is Status.RESERVED for entry in each.progress.entries)
            for each in self.told
        ]
        self.assertEqual(reserved, [0, *range(10, SIZE, 10), SIZE])

    def test_ends(self) -> None:
        """Ends that are heard of together are taken in by several changes, none of them long."""
        self.begin()
        before = self.registers.count
        self.end_all()
        for record in self.tasks.values():
            self.driver.task_changed(record, False)
        self.assertEqual(self.registers.count, before)
        another = self.driving()
        another.learnt(self.told[-1])
        self.assertEqual(self.registers.count, before + SIZE // ENDS)
        done = [
            sum(entry.status is Status.DONE for entry in each.progress.entries)
            for each in self.told[-SIZE // ENDS :]
        ]
        self.assertEqual(done, [ENDS, 2 * ENDS, SIZE])
        self.assertTrue(self.told[-1].has_ended)
